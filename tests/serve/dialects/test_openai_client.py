"""OpenAI's own Python client against a real server."""

import base64
import threading
import time
from io import BytesIO
from pathlib import Path

import openai
import pytest
import requests
from PIL import Image

from marmo.files.pictures import find_record
from marmo.serve.jobs import Limits
from tests.serve.dialects.pictures import decoded, holed, picture
from tests.serve.dialects.served import Served, module_server, serving
from tests.serve.toy_engine import ToyEngine, toy_model

pytestmark = pytest.mark.long

server = module_server(lambda: ToyEngine(models=(toy_model(), toy_model("other")), step_seconds=0.005))


@pytest.fixture
def client(server: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def refused(call) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as error:
        call()
    return error.value


def test_models_are_listed_and_found(client: openai.OpenAI):
    assert [model.id for model in client.models.list()] == ["toy", "other"]
    assert client.models.retrieve("other").id == "other"
    error = refused(lambda: client.models.retrieve("gpt-image-1"))
    assert (error.status_code, error.code) == (404, "model_not_found")


def test_a_prompt_becomes_pictures(client: openai.OpenAI, server: Served):
    answer = client.images.generate(prompt="a fox", model="other", n=3, size="32x48", response_format="b64_json")
    assert answer.data is not None and len(answer.data) == 3
    assert {decoded(item.b64_json).size for item in answer.data} == {(32, 48)}
    assert len({item.b64_json for item in answer.data}) == 3
    assert (answer.size, answer.quality, answer.output_format) == ("32x48", "medium", "png")
    assert abs(answer.created - time.time()) < 60
    request = server.newest().request
    assert (request.prompt, request.model, request.num_images) == ("a fox", "other", 3)


def test_further_fields_are_passed_on(client: openai.OpenAI, server: Served):
    extra = {"negative_prompt": "blur", "seed": 7, "num_inference_steps": 3, "guidance_scale": 4.5}
    client.images.generate(prompt="a fox", extra_body=extra, user="ana", moderation="low", background="opaque")
    request = server.newest().request
    assert (request.negative_prompt, request.seed, request.steps, request.guidance_scale) == ("blur", 7, 3, 4.5)


def test_pictures_have_addresses(client: openai.OpenAI):
    answer = client.images.generate(prompt="a fox", n=2, size="48x32", response_format="url")
    assert answer.data is not None
    for item in answer.data:
        assert item.url is not None and item.b64_json is None
        assert Image.open(BytesIO(requests.get(item.url).content)).size == (48, 32)


@pytest.mark.parametrize(
    ("quality", "steps"), [("low", 2), ("standard", 4), ("auto", 4), ("high", 6), ("hd", 6), ("xhigh", 8), ("max", 12)]
)
def test_quality_is_steps(client: openai.OpenAI, server: Served, quality, steps: int):
    client.images.generate(prompt="a fox", quality=quality)
    assert server.newest().request.steps == steps


@pytest.mark.parametrize(("format", "name"), [("jpeg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_every_format_carries_its_record(client: openai.OpenAI, format, name: str):
    answer = client.images.generate(prompt="a fox", output_format=format, size="48x32")
    assert answer.data is not None and answer.output_format == format
    data = base64.b64decode(answer.data[0].b64_json or "")
    assert Image.open(BytesIO(data)).format == name
    assert find_record(BytesIO(data)).request.prompt == "a fox"


def test_compression_makes_smaller_files(client: openai.OpenAI):
    sizes = []
    for compression in (90, 10):
        answer = client.images.generate(
            prompt="a fox", output_format="jpeg", output_compression=compression, size="256x256", extra_body={"seed": 1}
        )
        assert answer.data is not None
        sizes.append(len(base64.b64decode(answer.data[0].b64_json or "")))
    assert sizes[0] > sizes[1]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"style": "vivid"}, "style", "unsupported_parameter"),
        ({"background": "transparent"}, "background", "unsupported_parameter"),
        ({"response_format": "url", "output_format": "webp"}, "response_format", "invalid_value"),
        ({"response_format": "url", "stream": True}, "response_format", "invalid_value"),
        ({"output_format": "gif"}, "output_format", "unsupported_parameter"),
        ({"output_compression": 50}, "output_compression", "invalid_value"),
        ({"size": "1024"}, "size", "invalid_value"),
        ({"size": "100x64"}, None, "request_refused"),
        ({"size": "8000x8000"}, None, "over_limit"),
        ({"n": 11}, "n", "invalid_value"),
        ({"partial_images": 2}, "partial_images", "invalid_value"),
        ({"extra_body": {"num_inference_steps": 900}}, "num_inference_steps", "over_limit"),
        ({"extra_body": {"num_inference_step": 9}}, "num_inference_step", "unknown_parameter"),
        ({"extra_body": {"seed": "seven"}}, "seed", "invalid_value"),
    ],
)
def test_what_cannot_be_is_refused_by_name(client: openai.OpenAI, fields, param: str | None, code: str):
    error = refused(lambda: client.images.generate(**{"prompt": "a fox", **fields}))
    assert isinstance(error, openai.BadRequestError)
    assert (error.code, error.type) == (code, "invalid_request_error")
    assert param is None or error.param == param
    assert param is None or param in str(error)


def test_a_model_that_is_not_there(client: openai.OpenAI):
    error = refused(lambda: client.images.generate(prompt="a fox", model="dall-e-2"))
    assert isinstance(error, openai.NotFoundError) and error.param == "model"
    assert "toy, other" in error.message


def test_a_job_that_fails_says_why_and_is_not_tried_again(server: Served):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=2)
    before = len(server.found())
    error = refused(lambda: client.images.generate(prompt="fail"))
    assert "the toy was told to fail" in error.message
    assert len(server.found()) == before + 1


# streams


def test_partial_pictures_come_before_the_picture(client: openai.OpenAI):
    stream = client.images.generate(
        prompt="a fox", stream=True, partial_images=2, size="64x32", extra_body={"num_inference_steps": 8}
    )
    events = list(stream)
    kinds = [event.type for event in events]
    assert kinds[-1] == "image_generation.completed" and set(kinds[:-1]) == {"image_generation.partial_image"}
    assert [event.partial_image_index for event in events[:-1]] == list(range(len(events) - 1))
    assert 1 <= len(events) - 1 <= 2
    assert {decoded(event.b64_json).size for event in events} == {(64, 32)}
    assert {event.size for event in events} == {"64x32"}
    assert events[-1].usage.total_tokens == 0
    assert find_record(BytesIO(base64.b64decode(events[-1].b64_json))).request.prompt == "a fox"


def test_a_stream_without_partial_pictures_is_one_event(client: openai.OpenAI):
    events = list(client.images.generate(prompt="a fox", stream=True, output_format="webp"))
    assert [event.type for event in events] == ["image_generation.completed"]
    assert decoded(events[0].b64_json).format == "WEBP"


def test_a_stream_tells_of_failure(client: openai.OpenAI):
    with pytest.raises(openai.APIError, match="told to fail"):
        list(client.images.generate(prompt="fail", stream=True, partial_images=1))


def test_one_picture_at_a_time_is_streamed(client: openai.OpenAI):
    assert refused(lambda: client.images.generate(prompt="a fox", stream=True, n=2)).param == "n"


@pytest.mark.parametrize("partial_images", [0, 3])
def test_a_stream_that_is_closed_cancels_its_job(client: openai.OpenAI, server: Served, partial_images: int):
    before = len(server.wait_for("cancelled", 0))
    stream = client.images.generate(prompt="hang up on me", stream=True, partial_images=partial_images)
    server.wait_for("running")
    stream.close()
    assert server.wait_for("cancelled", before + 1)


def test_a_client_that_goes_away_cancels_its_job(server: Served):
    before = len(server.wait_for("cancelled", 0))
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=1.5)
    with pytest.raises(openai.APITimeoutError):
        client.images.generate(prompt="hang")
    assert server.wait_for("cancelled", before + 1)


# edits


def test_an_edit_starts_from_the_image(client: openai.OpenAI, server: Served):
    answer = client.images.edit(image=picture(), prompt="a cat", n=2, extra_body={"strength": 0.4, "seed": 3})
    assert answer.data is not None and len(answer.data) == 2
    job = server.newest()
    assert job.inputs.keys() == {"init_image"}
    assert (job.request.prompt, job.request.strength, job.request.seed) == ("a cat", 0.4, 3)


def test_transparent_pixels_of_a_mask_are_painted(client: openai.OpenAI, server: Served):
    client.images.edit(image=("fox.png", picture()), mask=("mask.png", holed()), prompt="a cat", input_fidelity="low")
    job = server.newest()
    assert job.inputs.keys() == {"init_image", "mask"}
    mask = Image.open(BytesIO(server.stored(job.inputs["mask"])))
    assert (mask.getpixel((0, 0)), mask.getpixel((63, 63))) == (255, 0)


def test_an_edit_is_streamed(client: openai.OpenAI):
    stream = client.images.edit(image=picture((50, 40)), prompt="a cat", stream=True, partial_images=1)
    events = list(stream)
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
    assert decoded(events[0].b64_json).size == (48, 40)  # the model's multiple of 8, as the worker would paint


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"image": [picture(), picture()]}, "image"),
        ({"image": b"no picture at all"}, "image"),
        ({"mask": picture()}, "mask"),
        ({"mask": b"no picture at all"}, "mask"),
        ({"mask": holed(), "size": "32x32"}, "size"),
        ({"input_fidelity": "high"}, "input_fidelity"),
        ({"extra_body": {"strength": 2}}, "strength"),
    ],
)
def test_edits_that_cannot_be_are_refused(client: openai.OpenAI, fields, param: str):
    error = refused(lambda: client.images.edit(**{"image": picture(), "prompt": "a cat", **fields}))
    assert isinstance(error, openai.BadRequestError) and error.param == param


def test_a_single_image_may_come_as_a_list(client: openai.OpenAI, server: Served):
    client.images.edit(image=[picture()], prompt="a cat")
    assert server.newest().inputs.keys() == {"init_image"}


# hostile bodies


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"text"', b"{}", b'{"prompt": ""}', b'{"prompt": 7}', b"[" * 100_000, b"\xff\xfe"],
)
def test_bad_json_has_openais_envelope(server: Served, body: bytes):
    answer = requests.post(
        f"{server.url}/v1/images/generations", data=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x--\r\n",
        b"no form",
        b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\ntext\r\n--x--\r\n',
        b'--x\r\nContent-Disposition: form-data; name="prompt"; filename="p"\r\n\r\ntext\r\n--x--\r\n',
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n',
        b"".join(b'--x\r\nContent-Disposition: form-data; name="a%d"\r\n\r\n1\r\n' % i for i in range(99))
        + b"--x--\r\n",
    ],
)
def test_bad_forms_have_openais_envelope(server: Served, body: bytes):
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = requests.post(f"{server.url}/v1/images/edits", data=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


def test_the_doors_speak_openais_envelope(server: Served):
    answer = requests.post(f"{server.url}/v1/images/generations", data=b"prompt=fox")
    assert answer.status_code == 415 and answer.json()["error"]["type"] == "invalid_request_error"
    answer = requests.get(f"{server.url}/v1/nothing")
    assert answer.status_code == 404 and "param" in answer.json()["error"]


def test_a_full_queue_says_when_to_come_back(tmp_path: Path):
    limits = Limits(waiting=1)
    with serving(tmp_path, ToyEngine(), limits=limits) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        streams = [client.images.generate(prompt="hang", stream=True)]
        server.wait_for("running")
        streams.append(client.images.generate(prompt="hang", stream=True))
        server.wait_for("queued")
        with pytest.raises(openai.RateLimitError) as error:
            client.images.generate(prompt="a fox")
        assert 1 <= int(error.value.response.headers["retry-after"]) <= 120
        assert error.value.code == "queue_full" and error.value.type == "rate_limit_error"
        answer = requests.post(f"{server.url}/sdapi/v1/txt2img", json={"prompt": "a fox"})
        assert answer.status_code == 429 and "waiting" in answer.json()["detail"]
        for stream in streams:
            stream.close()


def test_many_at_once(client: openai.OpenAI):
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(len(client.images.generate(prompt="a fox", n=2).data or [])))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [2] * 8
