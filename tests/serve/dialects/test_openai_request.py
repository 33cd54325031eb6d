"""OpenAI's bodies as requests: what each field becomes, and that no body does anything but that or a refusal."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marmo.serve.dialects.openai_answer import encode, envelope, images_response, partial_event
from marmo.serve.dialects.openai_request import Generation, Wanted, read_edit, read_generation
from marmo.serve.dialects.openai_routes import is_due
from marmo.serve.job import JobEvent
from marmo.serve.problems import Problem
from tests.serve.dialects.garbage import bodies, garbage
from tests.serve.dialects.pictures import holed, picture
from tests.serve.toy_engine import toy_model, toy_picture

MODELS = (toy_model(), toy_model("other"))


def wanted(**fields: object) -> Wanted:
    return read_generation({"prompt": "a fox", **fields}, MODELS)


def problem(**fields: object) -> Problem:
    with pytest.raises(Problem) as error:
        wanted(**fields)
    return error.value


def test_nothing_but_a_prompt_is_the_models_own():
    said = wanted().request
    assert {name for name, value in said if value is not None and name in ("width", "steps", "seed")} == set()
    assert (said.prompt, said.model, said.num_images, said.prompt_syntax) == ("a fox", "toy", 1, "marmo")


@pytest.mark.parametrize("size", [None, "auto"])
def test_no_size_is_the_models_own(size):
    assert (wanted(size=size).request.width, wanted(size=size).request.height) == (None, None)


@pytest.mark.parametrize(
    "size", ["", "x", "512", "512X512", "512x512x3", "-8x8", "0x64", "9000x64", "٣٢x٣٢", "64x64\n"]
)
def test_sizes_that_are_none(size: str):
    assert problem(size=size).facts["field"] == "size"


def test_null_is_as_good_as_nothing():
    fields = dict.fromkeys(Generation.model_fields.keys() - {"prompt"})
    assert wanted(**fields) == wanted()


def test_said_steps_go_before_quality():
    assert wanted(quality="low", num_inference_steps=9).request.steps == 9
    assert wanted(quality="standard").request.steps is None


def test_quality_of_a_model_without_steps():
    defaults = MODELS[0].defaults.model_copy(update={"unused": frozenset({"steps"})})
    models = (replace(MODELS[0], defaults=defaults),)
    assert read_generation({"prompt": "a fox", "quality": "auto"}, models).request.steps is None
    with pytest.raises(Problem, match="quality"):
        read_generation({"prompt": "a fox", "quality": "high"}, models)


@pytest.mark.parametrize("name", ["toy", "TOY", "toy.safetensors", MODELS[0].sha256, "The toy model"])
def test_a_model_has_many_names(name: str):
    assert wanted(model=name).model == MODELS[0]


def test_without_a_model_nothing_is_painted():
    with pytest.raises(Problem) as error:
        read_generation({"prompt": "a fox"}, ())
    assert error.value.status == 503


@pytest.mark.parametrize("name", ["complexity", "frame_count", "svg", "markup", "style"])
def test_openais_own_fields_are_refused_with_a_reason(name: str):
    said = problem(**{name: 1})
    assert said.code == "unsupported_parameter" and said.message.startswith(f"{name}: this server")


def test_a_secret_in_an_unknown_field_is_not_repeated():
    said = problem(api_key="sk-very-secret")
    assert said.code == "unknown_parameter" and "very-secret" not in str(envelope(said))


def test_the_mask_becomes_black_and_white():
    said = read_edit({"prompt": "a cat"}, [picture()], holed(), MODELS).request
    assert said.mask is not None and said.init_image == picture()
    assert read_edit({"prompt": "a cat"}, [picture()], None, MODELS).request.mask is None


# previews


def due(wanted: int, steps: int, every: int = 1) -> list[int]:
    """At which steps previews are sent."""
    sent: list[int] = []
    for index in range(0, steps, every):
        event = JobEvent(seq=index, job="a", kind="preview", time=0, index=index, pictures=(b"",))
        if is_due(event, steps, len(sent), wanted):
            sent.append(index)
    return sent


def test_partial_pictures_are_spread_over_the_steps():
    assert due(3, 20) == [4, 9, 14]
    assert due(1, 20) == [9]
    assert due(0, 20) == []
    assert due(3, 2) == [0, 1]
    assert due(3, 20, every=5) == [5, 10, 15]


def test_a_partial_picture_has_the_size_of_the_whole_one():
    text = partial_event("image_generation", wanted(output_format="webp"), picture((8, 8)), 1, (96, 64), 7)
    assert '"size":"96x64"' in text and '"partial_image_index":1' in text and text.endswith("\n\n")
    assert text.startswith("event: image_generation.partial_image\ndata: {")


def test_a_record_too_long_for_a_jpeg_costs_no_picture():
    request = wanted().request.model_copy(update={"prompt": "狐" * 30_000, "seed": 1, "width": 16, "height": 16})
    data = encode(toy_picture(request, 0), "jpeg")
    assert data.startswith(b"\xff\xd8")


def test_the_answer_names_what_was_painted():
    request = wanted().request.model_copy(update={"seed": 1, "width": 48, "height": 16})
    answer = images_response(wanted(quality="hd"), [toy_picture(request, 0)], 12, [])
    assert (answer["size"], answer["quality"], answer["created"]) == ("48x16", "high", 12)


# anything at all

NAMES = [*Generation.model_fields, "style", "svg", "nonsense"]
WORDS = ("png", "webp", "gif", "auto", "64x64", "transparent", "url", "hd", "toy", "other")


@settings(max_examples=80)
@given(bodies(NAMES, *WORDS))
def test_any_object_is_a_request_or_a_refusal(body):
    _only_refused(lambda: read_generation(body, MODELS))
    _only_refused(lambda: read_edit(body, [picture((8, 8))], None, MODELS))


@settings(max_examples=30)
@given(garbage())
def test_any_json_is_a_request_or_a_refusal(body):
    _only_refused(lambda: read_generation(body, MODELS))


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=60), max_size=2), st.none() | st.binary(max_size=60), st.integers(0, 200))
def test_any_bytes_are_an_edit_or_a_refusal(images, mask, cut):
    _only_refused(lambda: read_edit({"prompt": "a cat"}, images, mask, MODELS))
    _only_refused(lambda: read_edit({"prompt": "a cat"}, [picture()], holed()[:cut], MODELS))


def _only_refused(read) -> None:
    try:
        said = read()
    except Problem as refusal:
        assert refusal.status in (400, 404) and refusal.message
        assert len(str(envelope(refusal))) < 3000
    else:
        assert said.request.model in ("toy", "other") and said.request.prompt
