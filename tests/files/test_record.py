import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from marmo.files.record import Record
from marmo.request import Defaults, ImageRequest

HASH = "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa"
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def make(request: ImageRequest, image: int = 0, **changes: object) -> Record:
    fields = {"weights": {"fox.safetensors": HASH}, "sigmas": (14.614641189575195, 0.1, 0.0), **changes}
    return Record(marmo="0.1.0", torch="2.13.0", request=request, image=image, dtype="float32", device="cpu", **fields)


def test_json_is_canonical():
    record = make(ImageRequest(prompt="狐\n", seed=7))
    text = record.to_json()
    assert text.startswith('{"device":"cpu","dtype":"float32","image":0,"inputs":{},"marmo":"0.1.0","request":{')
    assert '"prompt":"狐\\n"' in text and '"sigmas":[14.614641189575195,0.1,0.0]' in text
    assert (
        text
        == Record.from_json(text).to_json()
        == json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    )


@settings(max_examples=50, deadline=None)
@given(st.text(), st.text(), st.lists(FLOATS).map(tuple), st.floats(0, 100), st.integers(0, 2**63 - 4))
def test_any_record_round_trips_exactly(prompt, negative, sigmas, scale, seed):
    request = ImageRequest(prompt=prompt, negative_prompt=negative, guidance_scale=scale, seed=seed, num_images=4)
    record = make(request, image=3, sigmas=sigmas)
    assert Record.from_json(record.to_json()) == record
    assert record.seed == seed + 3


def test_an_input_picture_stands_by_its_hash():
    request = ImageRequest(seed=7, init_image=b"the bytes of a picture").resolve(Defaults())
    record = make(request)
    assert record.inputs == {"init_image": hashlib.sha256(b"the bytes of a picture").hexdigest()}
    assert record.request.init_image is None and record.request.strength == 0.75
    assert Record.from_json(record.to_json()) == record
    assert record.request.model_copy(update={"init_image": request.init_image}) == request


@pytest.mark.parametrize(
    ("model", "weights", "name"),
    [
        ("fox.safetensors", {"fox.safetensors": HASH}, "fox"),
        ("/models/v1.5.ckpt", {"v1.5.ckpt": HASH}, "v1.5"),
        (r"C:\models\fox.safetensors", {"fox.safetensors": HASH}, "fox"),
        ("models/sd-1.5/", {"unet/a.safetensors": HASH, "vae/a.safetensors": HASH}, "sd-1.5"),
        ("marmo-0.1", {"weights.safetensors": HASH}, "marmo-0.1"),
        (None, {"weights.safetensors": HASH}, "weights"),
        (None, {"a": HASH, "b": HASH}, None),
        (None, {}, None),
    ],
)
def test_model_name(model, weights, name):
    assert make(ImageRequest(seed=7, model=model), weights=weights).model == name


@pytest.mark.parametrize(
    ("request_", "changes", "reason"),
    [
        (ImageRequest(), {}, "no seed"),
        (ImageRequest(seed=7), {"image": 1}, "no picture 1 among 1"),
        (ImageRequest(seed=7), {"sigmas": (float("inf"),)}, "finite"),
        (ImageRequest(seed=7), {"weights": {"fox": "6ce0"}}, "weights.fox"),
        (ImageRequest(seed=7), {"weights": {"\udcff": HASH}}, "unicode"),
    ],
)
def test_what_is_no_record(request_, changes, reason):
    with pytest.raises(ValidationError, match=reason):
        make(request_, **changes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2, "new": True}, "'version' is wrong: the record has version 2, from a newer Marmo"),
        ({"version": 0}, "'version' is wrong"),
        ({"new": True}, "'new' is wrong: Extra inputs are not permitted"),
        ({"request": {"seed": 7, "steps": 0}}, "'request.steps' is wrong: Input should be greater than"),
        ({"request": {"seed": 7, "init_image": "AAAA"}}, "not the picture"),
        ({"request": {"seed": 7, "path": "/etc/passwd"}}, "'request.path' is wrong"),
        ({"sigmas": [float("nan")]}, "'sigmas.0' is wrong"),
    ],
)
def test_other_json_is_refused_in_a_sentence(change, reason):
    row = json.loads(make(ImageRequest(seed=7)).to_json()) | change
    with pytest.raises(ValueError, match=reason) as refused:
        Record.from_json(json.dumps(row))
    assert type(refused.value) is ValueError


@settings(max_examples=100, deadline=None)
@given(st.text() | st.binary() | st.integers(1, 10**6).map(lambda depth: '{"version":' + "[" * depth))
def test_no_text_does_worse_than_a_value_error(text):
    with pytest.raises(ValueError):
        Record.from_json(text)


def test_a_lone_surrogate_is_refused_by_the_request():
    with pytest.raises(ValidationError, match="unicode"):
        ImageRequest(prompt="fox \ud83e")
