"""The request: its schema as others hold on to it, what `resolve` fills in and refuses, and what garbage may do."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from marmo.diffusion.schedules import SCHEDULES
from marmo.diffusion.sources import NOISE_SOURCES
from marmo.request import (
    ETA,
    MAX_SEED,
    Defaults,
    Guidance,
    ImageRequest,
    NoiseSourceName,
    SamplerName,
    ScheduleName,
    Variation,
    explain,
)
from marmo.request_parts import EVERYWHERE

SCHEMA = Path(__file__).parent / "request_schema.json"
GAN = Defaults(unused=frozenset({"steps", "sampler", "schedule", "guidance", "guidance_scale", "eta", "clip_skip"}))
PICTURE = b"\x89PNG\r\n\x1a\n the bytes of a picture \xff\x00"


def refusal(**fields: object) -> str:
    with pytest.raises(ValidationError) as error:
        ImageRequest.model_validate(fields)
    return explain(error.value)


def write_schema() -> None:
    SCHEMA.write_text(json.dumps(ImageRequest.model_json_schema(), indent=2, sort_keys=True) + "\n")


def test_the_schema_is_the_one_that_others_hold_on_to():
    command = "python -c 'from tests.test_request import write_schema; write_schema()'"
    assert json.loads(SCHEMA.read_text()) == ImageRequest.model_json_schema(), (
        f"the request's JSON Schema has changed; if that is meant, run\n    {command}\n"
        "and look at the difference: clients, records and queued requests of the old schema must still be accepted"
    )


def test_names_are_those_of_the_noise_and_the_samplers():
    assert {*get_args(ScheduleName)} == SCHEDULES.keys()
    assert {*get_args(NoiseSourceName)} == NOISE_SOURCES.keys()
    assert ETA.keys() < {*get_args(SamplerName)}


# resolve


@pytest.mark.parametrize("sampler", get_args(SamplerName))
@pytest.mark.parametrize("init_image", [None, PICTURE])
def test_resolve_leaves_nothing_open(sampler: SamplerName, init_image: bytes | None):
    whole = ImageRequest(sampler=sampler, init_image=init_image).resolve(Defaults())
    left = {name for name, value in whole if value is None}
    open_ones = {"model", "vae", "template", "mask", "image_guidance_scale"}
    if sampler not in ETA:
        open_ones |= {"eta"}
    if init_image is None:
        open_ones |= {"init_image", "strength"}
    assert left == open_ones
    assert whole.eta == ETA.get(sampler)
    assert whole.strength == (None if init_image is None else 0.75)


def test_resolve_keeps_what_was_said_and_may_be_repeated():
    said = ImageRequest(prompt="a fox", width=64, steps=3, eta=0.5, sampler="ddim", guidance_scale=1, clip_skip=2)
    whole = said.resolve(Defaults(width=256, height=128))
    assert (whole.width, whole.height, whole.steps, whole.eta, whole.clip_skip) == (64, 128, 3, 0.5, 2)
    assert whole.resolve(Defaults()) == whole
    assert ImageRequest.model_validate_json(whole.model_dump_json()).resolve(Defaults()) == whole


def test_an_open_seed_is_drawn_afresh():
    seeds = {ImageRequest().resolve(Defaults()).seed for _ in range(8)}
    assert len(seeds) == 8
    assert ImageRequest(seed=0).resolve(Defaults()).seed == 0


@pytest.mark.parametrize(
    ("name", "value"), [("steps", 3), ("sampler", "euler"), ("clip_skip", 1), ("guidance", Guidance(rescale=0.5))]
)
def test_a_field_that_the_model_does_not_use_is_refused_by_name(name: str, value: object):
    with pytest.raises(ValueError, match=f"^{name} means nothing to this model; leave it out$"):
        ImageRequest(**{name: value}).resolve(GAN)


def test_an_unused_field_stays_open_and_may_be_named_without_a_value():
    whole = ImageRequest(seed=7, steps=None, guidance=Guidance()).resolve(GAN)
    assert (whole.steps, whole.sampler, whole.eta, whole.width) == (None, None, None, 512)
    assert ImageRequest.model_validate_json(whole.model_dump_json()).resolve(GAN) == whole  # as a replay does


def test_what_the_guidance_leaves_open_is_the_models_and_then_everywhere():
    own = Defaults(guidance=Guidance(rescale=0.6, high_sigma=20))
    assert ImageRequest().resolve(Defaults()).guidance == EVERYWHERE
    assert ImageRequest().resolve(own).guidance.limits == (0.6, 0, 20)
    said = ImageRequest(guidance=Guidance(rescale=0, low_sigma=2)).resolve(own)
    assert said.guidance.limits == (0, 2, 20) and said.resolve(Defaults()) == said
    with pytest.raises(ValueError, match=r"^guidance.high_sigma 20 must lie above guidance.low_sigma 30$"):
        ImageRequest(guidance=Guidance(low_sigma=30)).resolve(own)


def test_strength_needs_a_picture_to_leave():
    with pytest.raises(ValueError, match="strength needs an init_image"):
        ImageRequest(strength=0.5).resolve(Defaults())
    assert ImageRequest(strength=0, init_image=PICTURE).resolve(Defaults()).strength == 0


@pytest.mark.parametrize("sampler", sorted({*get_args(SamplerName)} - ETA.keys()))
def test_eta_is_refused_where_it_cannot_act(sampler: SamplerName):
    with pytest.raises(ValueError, match=f"eta means nothing to {sampler}.*euler_ancestral, ddim, ddpm"):
        ImageRequest(sampler=sampler, eta=0.5).resolve(Defaults())


def test_eta_is_weighed_against_the_default_sampler_too():
    with pytest.raises(ValueError, match="eta means nothing to dpmpp_2m"):
        ImageRequest(eta=0.0).resolve(Defaults(sampler="dpmpp_2m"))
    assert ImageRequest(eta=0.5).resolve(Defaults(sampler="ddim")).eta == 0.5


@pytest.mark.parametrize(
    ("width", "multiple", "nearest"),
    [(68, 8, "64 and 72"), (8, 16, "16 and 32"), (8191, 8, "8184 and 8192"), (8190, 64, "8128 and 8192")],
)
def test_the_nearest_sizes_are_named(width: int, multiple: int, nearest: str):
    with pytest.raises(ValueError, match=f"width {width} is not a multiple of {multiple}; the nearest are {nearest}$"):
        ImageRequest(width=width).resolve(Defaults(size_multiple=multiple))
    with pytest.raises(ValueError, match=f"height {width} is not a multiple of {multiple}; the nearest are {nearest}$"):
        ImageRequest(height=width).resolve(Defaults(size_multiple=multiple))


def test_the_last_picture_has_a_seed_as_well():
    with pytest.raises(ValueError, match=f"seed {MAX_SEED} leaves no room for 2 pictures"):
        ImageRequest(seed=MAX_SEED, num_images=2).resolve(Defaults())
    assert ImageRequest(seed=MAX_SEED - 1, num_images=2).resolve(Defaults()).seed == MAX_SEED - 1


# JSON


def test_json_carries_a_picture_as_base64():
    request = ImageRequest(prompt="a fox, 狐", init_image=PICTURE, strength=0.4, guidance=Guidance(high_sigma=5))
    text = request.model_dump_json()
    assert json.loads(text)["init_image"] == base64.b64encode(PICTURE).decode()
    assert ImageRequest.model_validate_json(text) == request
    assert ImageRequest.model_validate(json.loads(text)) == request
    assert request.model_dump()["init_image"] == PICTURE


@pytest.mark.parametrize("text", ["%%%", "Zm9", "Zm 9v", "data:image/png;base64,Zm9v", "狐"])
def test_base64_that_is_none_is_refused(text: str):
    assert refusal(init_image=text) == "init_image: an image inside a request is its file's bytes, in JSON as base64"


def test_a_request_cannot_be_changed_and_serves_as_a_key():
    request = ImageRequest(prompt="a fox")
    with pytest.raises(ValidationError):
        request.prompt = "a wolf"
    assert len({request, ImageRequest(prompt="a fox")}) == 1


# explain


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"width": 0}, "width: must be greater than or equal to 8, not 0"),
        ({"width": 10**9}, "width: must be less than or equal to 8192, not 1000000000"),
        ({"seed": -1}, "seed: must be greater than or equal to 0, not -1"),
        ({"seed": 2**70}, f"seed: must be less than or equal to {MAX_SEED}, not {2**70}"),
        ({"strength": float("nan")}, "strength: must be a finite number, not nan"),
        ({"prompts": "x"}, "prompts: no such field; did you mean prompt?"),
        ({"xyzzy": 1}, "xyzzy: no such field"),
        ({"guidance": {"rescal": 1}}, "guidance.rescal: no such field; did you mean rescale?"),
        ({"guidance": {"rescale": 2}}, "guidance.rescale: must be less than or equal to 1, not 2"),
        ({"prompt": None}, "prompt: must be a valid string, not None"),
        (
            {"guidance": {"low_sigma": 3, "high_sigma": 2}},
            "guidance: guidance.high_sigma 2 must lie above guidance.low_sigma 3",
        ),
        (
            {"sampler": "Eular a"},
            "sampler: 'Eular a' does not exist; did you mean euler or euler_ancestral or euler_cfg_pp? "
            f"the names are {', '.join(get_args(SamplerName))}",
        ),
        (
            {"sampler": "DPM++ 2M", "schedule": "Karas"},
            f"schedule: 'Karas' does not exist; did you mean karras? the names are {', '.join(get_args(ScheduleName))}",
        ),
        (
            {"sampler": "DPM++ 2M Karras", "schedule": "exponential"},
            "'DPM++ 2M Karras' already says the schedule karras; leave out exponential",
        ),
        ({"variation": {"strength": 2}}, "variation.strength: must be less than or equal to 1, not 2"),
        (
            {"num_images": 0, "width": 1},
            "width: must be greater than or equal to 8, not 1; num_images: must be greater than or equal to 1, not 0",
        ),
    ],
)
def test_a_refusal_names_the_field_the_rule_and_the_value(fields: dict[str, object], sentence: str):
    assert refusal(**fields) == sentence


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '"x"', '{"guidance_scale": 1e999}', '{"seed": 1' + "0" * 5000]
)
def test_what_is_no_json_object_is_refused_in_one_short_sentence(text: str):
    with pytest.raises(ValidationError) as error:
        ImageRequest.model_validate_json(text)
    assert explain(error.value).startswith(("the request: ", "guidance_scale: "))
    assert len(explain(error.value)) < 250 and "\n" not in explain(error.value)


def test_a_long_value_is_not_repeated_at_length():
    assert len(refusal(sampler="x" * 1_000_000)) < 500
    assert len(refusal(width="x" * 1_000_000)) < 200


def test_an_endless_prompt_is_refused():
    assert refusal(prompt="x" * 100_001).startswith("prompt: must have at most 100000 characters, not ")


# names of other programs


@pytest.mark.parametrize(
    ("said", "sampler", "schedule"),
    [
        ({"sampler": "DPM++ 2M Karras"}, "dpmpp_2m", "karras"),
        ({"sampler": "Euler a"}, "euler_ancestral", None),
        ({"sampler": "dpmpp_2m_sde_gpu", "schedule": "sgm_uniform"}, "dpmpp_2m_sde", "sgm_uniform"),
        ({"sampler": "DPM++ 3M SDE", "schedule": "Automatic"}, "dpmpp_3m_sde", "exponential"),
        ({"schedule": "KL Optimal"}, None, "kl_optimal"),
        ({"sampler": "dpmpp_2m", "schedule": None}, "dpmpp_2m", None),
    ],
)
def test_names_of_other_programs_become_ours(said: dict[str, object], sampler: str | None, schedule: str | None):
    request = ImageRequest.model_validate(said)
    assert (request.sampler, request.schedule) == (sampler, schedule)


# variation


@pytest.mark.parametrize(
    ("fields", "seeds"),
    [
        ({}, [5, 6, 7]),
        ({"variation": {"seed": 9, "strength": 0.2}}, [5, 5, 5]),
        ({"noise_source": "comfy"}, [5, 5, 5]),
        ({"noise_source": "philox"}, [5, 6, 7]),
    ],
)
def test_pictures_have_seeds_of_their_own_or_share_one(fields: dict[str, object], seeds: list[int]):
    request = ImageRequest.model_validate({"seed": 5, "num_images": 3, **fields})
    assert [request.picture_seed(image) for image in range(3)] == seeds


def test_a_variation_draws_its_seed_and_refuses_one_that_cannot_act():
    whole = ImageRequest(variation=Variation(strength=0.1)).resolve(Defaults())
    assert whole.variation.seed is not None
    assert ImageRequest().resolve(Defaults()).variation == Variation()
    with pytest.raises(ValueError, match=r"variation\.seed needs a variation\.strength above 0"):
        ImageRequest(variation=Variation(seed=3)).resolve(Defaults())
    with pytest.raises(ValueError, match=r"variation\.seed .* leaves no room for 2 pictures"):
        ImageRequest(variation=Variation(seed=MAX_SEED, strength=0.1), num_images=2).resolve(Defaults())


def test_tcd_takes_a_share_for_its_eta():
    with pytest.raises(ValueError, match=r"eta is a share of the time for tcd, 0 to 1, not 1\.5"):
        ImageRequest(sampler="tcd", eta=1.5).resolve(Defaults())


# garbage

NESTED = [*Guidance.model_fields, *Variation.model_fields]
FIELDS = st.sampled_from(
    [*ImageRequest.model_fields, *NESTED, "prompts", "Euler a", "dpmpp_2m_karras", "Automatic", ""]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | FIELDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS | st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.long
@settings(max_examples=80, deadline=None)
@given(JSON | st.dictionaries(FIELDS, JSON, max_size=6))
def test_garbage_is_a_validation_error_or_a_request(value: object):
    try:
        request = ImageRequest.model_validate(value)
    except ValidationError as error:
        assert explain(error)
        return
    assert ImageRequest.model_validate_json(request.model_dump_json()) == request
    try:
        request.resolve(Defaults())
    except ValueError as error:
        assert not isinstance(error, ValidationError) and str(error)


@settings(max_examples=60, deadline=None)
@given(st.text() | st.binary() | JSON.map(lambda value: json.dumps(value, default=repr)))
def test_garbage_as_text_is_a_validation_error_or_a_request(text: str | bytes):
    try:
        ImageRequest.model_validate_json(text)
    except ValidationError as error:
        assert explain(error)


# No torch


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_describing_a_picture_needs_no_torch():
    run(
        "import sys, marmo\n"
        "marmo.ImageRequest(prompt='a fox').model_json_schema(), marmo.Result, marmo.Step\n"
        "assert 'torch' not in sys.modules, 'torch is imported'"
    )


@pytest.mark.long
def test_help_needs_no_torch():
    said = run(
        "import sys; from marmo.cli.main import main\n"
        "for arguments in (['--help'], ['generate', '--help'], ['--version']):\n"
        "    try: main(arguments)\n"
        "    except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules, 'torch is imported'"
    )
    assert "--negative-prompt" in said
