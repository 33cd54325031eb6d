from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marmo.files.foreign_a1111 import read_a1111
from marmo.files.infotext import NOISE_SOURCES, SAMPLERS, SCHEDULES, infotext
from marmo.files.record import Record
from marmo.request import ImageRequest, Inpaint, Outpaint, Variation
from marmo.solver_names import NoiseSourceName, SamplerName, ScheduleName

HASH = "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa"
REQUEST = ImageRequest(
    prompt="a (red:1.2) fox, 狐\nin snow",
    negative_prompt="blurry",
    width=512,
    height=768,
    steps=25,
    sampler="dpmpp_2m",
    schedule="karras",
    guidance_scale=7,
    seed=7,
    num_images=4,
    clip_skip=1,
)


def text_of(image: int = 0, weights: tuple[str, ...] = ("v1-5-pruned.safetensors",), **changes: object) -> str:
    request = REQUEST.model_copy(update=changes)
    versions = {"marmo": "0.1.0", "torch": "2.13.0", "dtype": "float32", "device": "cpu"}
    return infotext(
        Record(**versions, request=request, image=image, weights=dict.fromkeys(weights, HASH), sigmas=(14.6, 0.0))
    )


def last_line(**changes: object) -> str:
    return text_of(**changes).splitlines()[-1]


def test_golden():
    assert text_of(image=2) == (
        "a (red:1.2) fox, 狐\nin snow\n"
        "Negative prompt: blurry\n"
        "Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 9, Size: 512x768, "
        "Model hash: 6ce0161689, Model: v1-5-pruned, RNG: CPU, "
        "SGM noise multiplier: True, Prompt syntax: marmo, Version: marmo 0.1.0"
    )


def test_golden_with_everything():
    changes = {"sampler": "ddim", "schedule": "leading", "eta": 0.5, "strength": 0.6, "clip_skip": 2}
    assert last_line(guidance_scale=7.5, weights=("a, b: c.safetensors",), **changes) == (
        "Steps: 25, Sampler: DDIM, Schedule type: Leading, CFG scale: 7.5, Seed: 7, Size: 512x768, "
        'Model hash: 6ce0161689, Model: "a, b: c", Denoising strength: 0.6, Clip skip: 2, RNG: CPU, '
        "Eta DDIM: 0.5, Prompt syntax: marmo, Version: marmo 0.1.0"
    )


def test_a_mask_and_an_instruction():
    keys = "Denoising strength: 0.6, RNG: CPU, "
    tail = "Prompt syntax: marmo, Version: marmo 0.1.0"
    masked = {"init_image": b"a picture", "mask": b"a mask", "strength": 0.6}
    assert last_line(**masked, inpaint=Inpaint(fill="original")).endswith(f"{keys}Mask blur: 4, {tail}")
    everything = Inpaint(fill="blank", area="masked", padding=8, feather=1.5, invert=True)
    assert last_line(**masked, inpaint=everything).endswith(
        f"{keys}Mask mode: Inpaint not masked, Mask blur: 1.5, Inpaint area: Only masked, Masked area padding: 8, "
        f"Masked content: latent nothing, {tail}"
    )
    outpainted = last_line(outpaint=Outpaint(left=8), inpaint=Inpaint(fill="blurred"), strength=0.6)
    assert outpainted.endswith(f"{keys}Mask blur: 4, Masked content: fill, {tail}")
    assert "CFG scale: 7, Image CFG scale: 1.5, Seed: 7" in last_line(image_guidance_scale=1.5)
    assert "Mask" not in last_line(strength=0.6)


def test_noise_of_other_programs_and_what_changes_it():
    variation = Variation(seed=40, strength=0.25)
    line = last_line(sampler="dpmpp_2m_sde", noise_source="philox", variation=variation, discard_penultimate=True)
    assert "Sampler: DPM++ 2M SDE, Schedule type: Karras" in line
    assert "Seed: 7, " in line and "Variation seed: 40, Variation seed strength: 0.25, RNG: NV" in line
    assert "Discard penultimate sigma: True" in line
    assert "Discard" not in last_line(sampler="dpm_2", discard_penultimate=True)  # A1111 always does, unsaid


def test_what_a_family_does_not_use_is_left_out():
    unused = dict.fromkeys(("negative_prompt", "steps", "sampler", "schedule", "guidance_scale", "clip_skip"))
    assert text_of(**unused).splitlines()[2:] == [
        "Seed: 7, Size: 512x768, Model hash: 6ce0161689, Model: v1-5-pruned, RNG: CPU, Prompt syntax: marmo, "
        "Version: marmo 0.1.0"
    ]


@pytest.mark.parametrize(
    ("sampler", "eta", "pair"),
    [
        ("euler_ancestral", 1.0, None),
        ("euler_ancestral", 0.5, "Eta: 0.5"),
        ("ddim", 0.0, None),
        ("ddim", 1.0, "Eta DDIM: 1"),
        ("heun", None, None),
    ],
)
def test_eta_only_away_from_its_default(sampler, eta, pair):
    etas = [part for part in last_line(sampler=sampler, eta=eta).split(", ") if part.startswith("Eta")]
    assert etas == ([pair] if pair else [])


def test_several_weight_files_have_no_one_hash():
    line = last_line(weights=("unet.safetensors", "vae.safetensors"), model="models/sd15")
    assert "Model hash" not in line and "Model: sd15" in line


def test_every_name_has_a_display_name():
    for names, allowed in ((SAMPLERS, SamplerName), (SCHEDULES, ScheduleName), (NOISE_SOURCES, NoiseSourceName)):
        assert tuple(names) == get_args(allowed)
        assert len(set(names.values())) == len(names)


@settings(max_examples=50, deadline=None)
@given(st.text(), st.text())
def test_any_prompt_gives_text_that_ends_in_the_parameters(prompt, negative):
    text = text_of(prompt=prompt, negative_prompt=negative)
    assert text.split("\n")[-1] == last_line()
    assert "\0" not in text


def test_a_second_pass_seamless_edges_and_regions_come_back():
    """Under A1111's keys where it has some."""
    hires = {"scale": 2, "upscaler": "latent-bicubic", "steps": 9, "strength": 0.4, "prompt": "a fox, red"}
    region = {"prompt": "the sea: blue", "box": (0, 0, 0.5, 1), "weight": 0.7}
    request = ImageRequest(
        prompt="x", steps=5, seed=1, width=64, height=64, sampler="euler", hires=hires, tiling="both", regions=(region,)
    )
    versions = {"marmo": "0.1.0", "torch": "2.13.0", "dtype": "float32", "device": "cpu"}
    text = infotext(Record(**versions, request=request, image=0, weights={"m.safetensors": HASH}, sigmas=(1.0, 0.0)))
    for pair in (
        "Denoising strength: 0.4",
        "Tiling: True",
        "Hires upscale: 2",
        "Hires steps: 9",
        "Hires upscaler: Latent (bicubic)",
        'Hires prompt: "a fox, red"',
    ):
        assert pair in text
    read = read_a1111(text).request
    assert (read.hires, read.tiling, read.regions) == (request.hires, "both", request.regions)


def test_another_programs_second_pass():
    """An upscaler's file is its owner's: Lanczos' kernel stands in, and that is said."""
    last = "Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 512x512, Denoising strength: 0.3, "
    foreign = read_a1111(f"a fox\n{last}Hires resize: 1024x768, Hires upscaler: 4x-UltraSharp")
    hires = foreign.request.hires
    assert (hires.width, hires.height, hires.upscaler, hires.strength) == (1024, 768, "lanczos", 0.3)
    assert "Hires upscaler: 4x-UltraSharp (Lanczos stands in)" in foreign.lost
    assert foreign.request.strength is None
