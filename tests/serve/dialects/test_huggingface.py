"""Hugging Face's dialect: its own client against a real server, and the pure function behind it."""

import json
from base64 import b64encode
from io import BytesIO

import pytest
import requests
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from marmo.files.pictures import find_record
from marmo.serve.dialects.huggingface_request import Body, Parameters, read_accept, read_inference
from marmo.serve.problems import Problem
from tests.serve.dialects.garbage import bodies, garbage
from tests.serve.dialects.pictures import picture
from tests.serve.dialects.served import Served, module_server
from tests.serve.toy_engine import ToyEngine, toy_model

pytestmark = pytest.mark.long

MODELS = (toy_model(), toy_model("other"))
server = module_server(lambda: ToyEngine(models=MODELS, step_seconds=0.005))


@pytest.fixture
def client(server: Served) -> InferenceClient:
    return InferenceClient(model=f"{server.url}/models/other", token="hf_none", timeout=20)


def test_a_prompt_becomes_a_picture(client: InferenceClient, server: Served):
    image = client.text_to_image(
        "a fox", negative_prompt="blur", height=32, width=48, num_inference_steps=3, guidance_scale=5, seed=7,
        scheduler="EulerAncestralDiscreteScheduler",
    )  # fmt: skip
    assert (image.size, image.format) == ((48, 32), "PNG")
    said = server.newest().request
    assert (said.prompt, said.negative_prompt, said.model) == ("a fox", "blur", "other")
    assert (said.steps, said.guidance_scale, said.seed, said.sampler) == (3, 5, 7, "euler_ancestral")


def test_a_picture_is_painted_again(client: InferenceClient, server: Served):
    client.image_to_image(picture(), prompt="a cat", strength=0.4, target_size={"width": 64, "height": 32})
    job = server.newest()
    assert job.inputs.keys() == {"init_image"}
    assert (job.request.prompt, job.request.strength, job.request.width, job.request.height) == ("a cat", 0.4, 64, 32)


def test_a_picture_without_a_word_is_refused(client: InferenceClient):
    """This client then sends bare bytes."""
    with pytest.raises(HfHubHTTPError, match="application/json") as error:
        client.image_to_image(picture())
    assert error.value.response.status_code == 415


def test_a_refusal_reaches_the_user(client: InferenceClient):
    with pytest.raises(HfHubHTTPError, match="num_inference_steps") as error:
        client.text_to_image("a fox", num_inference_steps=5000)
    assert error.value.response.status_code == 400
    with pytest.raises(HfHubHTTPError, match="lora_scale"):
        client.text_to_image("a fox", extra_body={"lora_scale": 1})
    with pytest.raises(HfHubHTTPError, match="told to fail"):
        client.text_to_image("fail")


def test_a_model_that_is_not_there(server: Served):
    client = InferenceClient(model=f"{server.url}/models/stabilityai/sdxl", token="hf_none")
    with pytest.raises(HfHubHTTPError, match="toy, other") as error:
        client.text_to_image("a fox")
    assert error.value.response.status_code == 404


@pytest.mark.parametrize(("accept", "format"), [("image/jpeg", "JPEG"), ("image/webp", "WEBP"), ("*/*", "PNG")])
def test_the_format_is_the_clients_choice(server: Served, accept: str, format: str):
    """The owner's name before the model's, as on the hub, makes no difference."""
    answer = requests.post(f"{server.url}/models/me/toy", json={"inputs": "a fox"}, headers={"accept": accept})
    assert answer.headers["content-type"] == f"image/{format.lower()}"
    assert Image.open(BytesIO(answer.content)).format == format
    assert find_record(BytesIO(answer.content)).request.model == "toy"


def test_a_client_that_goes_away_cancels_its_job(server: Served):
    with pytest.raises(requests.Timeout):
        requests.post(f"{server.url}/models/toy", json={"inputs": "hang"}, timeout=0.5)
    assert server.wait_for("cancelled")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"inputs": 7}', b'{"inputs": "a", "parameters": []}'])
def test_bad_json_has_hugging_faces_envelope(server: Served, body: bytes):
    answer = requests.post(f"{server.url}/models/toy", data=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json().keys() == {"error", "error_type"}


# the pure function


def test_a_picture_is_known_without_a_prompt():
    coded = b64encode(picture()).decode()
    for inputs in (coded, f"data:image/png;base64,{coded}"):
        said = read_inference({"inputs": inputs, "parameters": {"strength": 0.5}}, "toy", MODELS)
        assert (said.init_image, said.prompt, said.strength) == (picture(), "", 0.5)
    said = read_inference({"inputs": "iVBORw0KGgo is how a PNG begins"}, "toy", MODELS)
    assert said.init_image is None and said.prompt.startswith("iVBOR")


def test_what_needs_a_picture_is_refused_without():
    for parameters in ({"strength": 0.5}, {"prompt": "a cat"}, {"target_size": {"width": 64, "height": 64}}):
        with pytest.raises(Problem):
            read_inference({"inputs": "a fox", "parameters": parameters}, "toy", MODELS)


@pytest.mark.parametrize(
    ("accept", "format"),
    [(None, "png"), ("", "png"), ("image/*", "png"), ("text/html, image/webp;q=0.9", "webp"), ("IMAGE/JPG", "jpeg")],
)
def test_accept(accept, format: str):
    assert read_accept(accept) == format


def test_formats_that_are_not_written():
    with pytest.raises(Problem) as error:
        read_accept("text/html, image/avif")
    assert error.value.status == 406


@settings(max_examples=80)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "inputs": garbage(),
            "parameters": bodies([*Parameters.model_fields]) | garbage(),
            **{name: garbage() for name in Body.model_fields.keys() - {"inputs", "parameters"}},
        },
    )
)
def test_any_object_is_a_request_or_a_refusal(body):
    try:
        said = read_inference(body, "toy", MODELS)
    except Problem as refusal:
        assert refusal.status == 400 and len(json.dumps(refusal.message)) < 3000
    else:
        assert said.model == "toy"
