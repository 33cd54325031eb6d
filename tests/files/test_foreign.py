"""What other programs write: read as a request, what is lost is named, hostile text is refused in one sentence."""

import json
import re
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from marmo.files.foreign import Foreign
from marmo.files.foreign_a1111 import read_a1111
from marmo.files.foreign_comfyui import read_comfyui
from marmo.files.foreign_invokeai import read_invokeai
from marmo.files.infotext import infotext, parse_infotext
from marmo.files.pictures import find_foreign
from marmo.files.record import Record
from marmo.request import ImageRequest, Inpaint

A1111 = """a (red:1.2) fox, 狐
in snow
Negative prompt: blurry,
[bad]
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 965400086, Size: 512x768, \
Model hash: 6ce0161689, Model: v1-5-pruned, Clip skip: 2, RNG: NV, Version: v1.10.1"""


def a1111(pairs: str = "", base: str = "Steps: 20, Sampler: Euler a, Seed: 1, RNG: CPU") -> Foreign:
    return read_a1111(f"fox\n{base}{', ' * bool(pairs)}{pairs}")


# A1111


def test_an_infotext_of_a1111():
    foreign = read_a1111(A1111)
    assert foreign.request == ImageRequest(
        prompt="a (red:1.2) fox, 狐\nin snow",
        negative_prompt="blurry,\n[bad]",
        prompt_syntax="a1111",
        steps=20,
        sampler="dpmpp_2m",
        schedule="karras",
        guidance_scale=7.5,
        seed=965400086,
        width=512,
        height=768,
        clip_skip=2,
        noise_source="philox",
        start="a1111",
    )
    assert (foreign.program, foreign.model, foreign.model_hash) == ("A1111 v1.10.1", "v1-5-pruned", "6ce0161689")
    assert (foreign.lost, foreign.notes) == ((), ())


def test_a_quoted_value_and_a_prompt_that_is_all():
    info = parse_infotext('fox\nSteps: 20, Model: "a, \\"b\\": c", Seed: 1, Size: 1x2')
    assert info.pairs == {"Steps": "20", "Model": 'a, "b": c', "Seed": "1", "Size-1": "1", "Size-2": "2"}
    assert parse_infotext("fox\nSteps: 20, Seed: 1").prompt == "fox\nSteps: 20, Seed: 1"


def test_what_is_not_carried_over_is_named():
    foreign = a1111(
        'Hires upscale: 2, Denoising strength: 0.4, Lora hashes: "ink: 1a2b", Tiling: True, Emphasis: No norm'
    )
    assert foreign.lost == ("Lora hashes: ink: 1a2b", "Emphasis: No norm")
    assert foreign.request.strength is None  # it was that of the second pass
    assert (foreign.request.hires.scale, foreign.request.hires.strength, foreign.request.tiling) == (2, 0.4, "both")
    assert a1111("Emphasis: Original, ENSD: 0").lost == ()
    assert a1111("Eta: 0.5").request.eta == 0.5
    assert a1111("Eta: 0.5", "Steps: 20, Sampler: DPM++ 2M, Seed: 1, RNG: CPU").lost == ("Eta: 0.5",)


def test_an_absent_noise_source_means_the_graphics_card():
    foreign = a1111(base="Steps: 20, Sampler: Euler a, Seed: 1")
    assert foreign.request.noise_source == "philox"
    assert "names no noise source" in foreign.notes[0]


@pytest.mark.parametrize(
    ("version", "num_notes"), [("v1.5.2", 2), ("v1.6.0", 1), ("v1.7.0-224-gabc", 1), ("v1.7.0-225-gabc", 0), ("?", 0)]
)
def test_old_versions_painted_otherwise(version: str, num_notes: int):
    text = f"a [red:blue:0.5] fox\nSteps: 20, Sampler: Euler, Seed: 1, RNG: CPU, Version: {version}"
    assert len(read_a1111(text).notes) == num_notes


def test_a_sampler_with_its_schedule_and_a_variation():
    foreign = a1111("Variation seed: 5, Variation seed strength: 0.3", "Steps: 9, Sampler: DPM2 a Karras, Seed: 1")
    assert (foreign.request.sampler, foreign.request.schedule) == ("dpm_2_ancestral", "karras")
    assert foreign.request.discard_penultimate
    assert (foreign.request.variation.seed, foreign.request.variation.strength) == (5, 0.3)


def test_a_picture_painted_under_a_mask():
    """Absent keys are A1111's defaults, its blur of 0 too; only the mask itself its owner must give."""
    keys = "Mask mode: Inpaint not masked, Mask blur: 8, Inpaint area: Only masked, Masked area padding: 16"
    foreign = a1111(f"Denoising strength: 0.6, {keys}, Masked content: latent noise, Image CFG scale: 1.5")
    assert foreign.is_masked and foreign.lost == ()
    assert foreign.request.inpaint == Inpaint(invert=True, feather=8, area="masked", padding=16, fill="noise")
    assert (foreign.request.strength, foreign.request.image_guidance_scale) == (0.6, 1.5)
    assert len(foreign.notes) == 1 and "by another rule than A1111's" in foreign.notes[0]
    plain = a1111("Masked content: fill", "Steps: 20, Sampler: DDIM, Seed: 1, RNG: CPU")
    assert plain.request.inpaint == Inpaint(feather=0, fill="blurred") and len(plain.notes) == 3
    assert not a1111("Denoising strength: 0.6").is_masked
    for strange in ("Masked content: lama cleaner", "Inpaint area: Half, Mask blur: 4"):
        with pytest.raises(ValueError, match="A1111 paints no masked content"):
            a1111(strange)


@pytest.mark.parametrize("start", ["a1111", "diffusers"])
@pytest.mark.parametrize("syntax", ["a1111", "marmo", "plain"])
def test_our_own_infotext_comes_back(start: str, syntax: str):
    request = ImageRequest(
        prompt="a (red:1.2) fox", negative_prompt="bad", width=512, height=768, steps=25, sampler="heun", seed=7,
        schedule="karras", guidance_scale=7, clip_skip=2, start=start, prompt_syntax=syntax,
    )  # fmt: skip
    versions = {"marmo": "0.1.0", "torch": "2.13.0", "dtype": "float32", "device": "cpu"}
    record = Record(**versions, request=request, image=0, weights={"a.safetensors": "0" * 64}, sigmas=(1.0, 0.0))
    foreign = read_a1111(infotext(record))
    assert (foreign.request, foreign.lost, foreign.program) == (request, (), "marmo 0.1.0")


def test_a_strangers_text_steers_no_terminal():
    foreign = a1111("Evil: \x1b[31mred\r, Model: \x1b]0;x\x07")
    assert (foreign.lost, foreign.model) == (("Evil:  [31mred ",), " ]0;x ")


def test_an_infotext_without_a_seed_is_none():
    with pytest.raises(ValueError, match="holds no parameters of A1111"):
        read_a1111("fox\nPostprocess upscale by: 4, Postprocess upscaler: Lanczos, Postprocess GFPGAN: 1")
    assert read_a1111("fox\nSteps: 20, CFG scale: 7, Seed: 1").request.sampler is None


# ComfyUI


def graph(**changes: dict[str, Any]) -> dict[str, Any]:
    """ComfyUI's first example; `changes` are inputs of nodes, named n3, n4, ..."""
    nodes = {
        "3": ("KSampler", {
            "seed": 8566257, "steps": 20, "cfg": 8, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 1.0,
            "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0],
        }),
        "4": ("CheckpointLoaderSimple", {"ckpt_name": "v1-5-pruned.safetensors"}),
        "5": ("EmptyLatentImage", {"width": 512, "height": 768, "batch_size": 1}),
        "6": ("CLIPTextEncode", {"text": "a (red:1.2) fox", "clip": ["4", 1]}),
        "7": ("CLIPTextEncode", {"text": "", "clip": ["4", 1]}),
        "8": ("VAEDecode", {"samples": ["3", 0], "vae": ["4", 2]}),
        "9": ("SaveImage", {"filename_prefix": "ComfyUI", "images": ["8", 0]}),
    }  # fmt: skip
    return {
        key: {"class_type": kind, "inputs": inputs | changes.get(f"n{key}", {})}
        for key, (kind, inputs) in nodes.items()
    }


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def comfyui(nodes: dict[str, Any]) -> Foreign:
    return read_comfyui(json.dumps(nodes))


def test_a_graph_of_comfyui():
    foreign = comfyui(graph())
    assert foreign.request == ImageRequest(
        prompt="a (red:1.2) fox", negative_prompt="", empty_negative="encoded", prompt_syntax="comfyui", steps=20,
        sampler="dpmpp_2m", schedule="karras", guidance_scale=8, seed=8566257, width=512, height=768,
        noise_source="comfy",
    )  # fmt: skip
    assert (foreign.lost, foreign.notes, foreign.model) == ((), (), "v1-5-pruned.safetensors")


def test_clip_skip_stands_in_its_node():
    nodes = graph(n6={"clip": ["10", 0]}) | {"10": node("CLIPSetLastLayer", stop_at_clip_layer=-2, clip=["4", 1])}
    assert comfyui(nodes).request.clip_skip == 2


@pytest.mark.parametrize(("steps", "denoise"), [(20, 0.6), (7, 0.33), (25, 0.07), (10, 0.99), (3, 1.0)])
def test_from_a_picture_comfyui_walks_the_last_steps_of_a_longer_way(steps: int, denoise: float):
    nodes = graph(n3={"latent_image": ["10", 0], "steps": steps, "denoise": denoise})
    nodes |= {"10": node("VAEEncode", pixels=["11", 0], vae=["4", 2]), "11": node("LoadImage", image="a.png")}
    request = comfyui(nodes).request
    assert request.steps == int(steps / denoise)
    assert int(request.steps * request.strength) == steps  # the last steps of `start="diffusers"`


def test_unknown_nodes_are_passed_through_and_named():
    nodes = graph(n3={"model": ["10", 0]}) | {"10": node("LoraLoader", lora_name="ink", model=["4", 0], clip=["4", 1])}
    nodes["12"] = node("FreeU", b1=1.1)
    assert comfyui(nodes).lost == ("node 10 (LoraLoader)", "node 12 (FreeU)")


def test_a_sampler_that_walks_a_part_of_the_way():
    nodes = graph()
    inputs = nodes["3"]["inputs"] | {"noise_seed": 5, "add_noise": "enable", "return_with_leftover_noise": "enable"}
    nodes["3"] = node("KSamplerAdvanced", **inputs)
    foreign = comfyui(nodes)
    assert foreign.request.seed == 5
    assert "return_with_leftover_noise" in foreign.lost[0]


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ({}, "0 samplers"),
        ({"1": 5}, "is no graph"),
        (graph(n3={"positive": ["99", 0]}), "the positive prompt of node 3 (KSampler)"),
        (graph(n6={"text": ["4", 0]}), "comes from another node"),
        (graph(n3={"seed": "x"}), "which is no number"),
        (graph(n3={"sampler_name": "nope"}), "'nope' does not exist"),
        (graph(n3={"latent_image": ["3", 0]}), "two passes"),
        (graph(n5={"width": 100000}), "width"),
        (graph(n3={"denoise": 0}), "denoise"),
    ],
    ids=lambda value: value if isinstance(value, str) else "graph",
)
def test_a_graph_that_cannot_be_read(nodes: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=re.escape(said)):
        comfyui(nodes)


# InvokeAI

INVOKE = {
    "generation_mode": "txt2img", "positive_prompt": "a red fox", "negative_prompt": "bad", "width": 512, "height": 768,
    "seed": 5, "rand_device": "cpu", "cfg_scale": 7.5, "cfg_rescale_multiplier": 0, "steps": 30, "clip_skip": 0,
    "scheduler": "dpmpp_2m_k", "seamless_x": False, "app_version": "5.0.0", "loras": [],
    "model": {"key": "1", "hash": "blake3:0", "name": "v1-5", "base": "sd-1", "type": "main"},
}  # fmt: skip


def test_metadata_of_invokeai():
    foreign = read_invokeai(json.dumps(INVOKE))
    assert foreign.request == ImageRequest(
        prompt="a red fox", negative_prompt="bad", prompt_syntax="plain", steps=30, sampler="dpmpp_2m",
        schedule="karras", guidance_scale=7.5, seed=5, width=512, height=768,
    )  # fmt: skip
    assert (foreign.program, foreign.model, foreign.lost, foreign.notes) == ("InvokeAI 5.0.0", "v1-5", (), ())


def test_what_invokeai_did_beyond_that_is_named():
    more = {"loras": [{"weight": 0.5}], "seamless_x": True, "rand_device": "cuda", "positive_prompt": "fox++"}
    foreign = read_invokeai(json.dumps(INVOKE | more))
    assert foreign.lost == ("seamless_x: true", 'loras: [{"weight": 0.5}]')
    assert len(foreign.notes) == 2
    with pytest.raises(ValueError, match="'inpaint'"):
        read_invokeai(json.dumps(INVOKE | {"generation_mode": "inpaint"}))


# Files


def png(**texts: str) -> BytesIO:
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    stream = BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG", pnginfo=info)
    return BytesIO(stream.getvalue())


def with_exif(format: str, tag: int, value: bytes | str, inner: bool = True) -> BytesIO:
    picture, exif = Image.new("RGB", (8, 8)), Image.Exif()
    (exif.get_ifd(ExifTags.IFD.Exif) if inner else exif)[tag] = value
    stream = BytesIO()
    picture.save(stream, format, exif=exif)
    return BytesIO(stream.getvalue())


def test_each_text_chunk_has_its_reader():
    assert find_foreign(png(parameters=A1111)).program.startswith("A1111")
    assert find_foreign(png(parameters=A1111, prompt=json.dumps(graph()))).program == "ComfyUI"
    assert find_foreign(png(invokeai_metadata=json.dumps(INVOKE))).program.startswith("InvokeAI")
    with pytest.raises(ValueError, match="holds no record of Marmo and no text that it knows"):
        find_foreign(png(comment="fox"))


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
@pytest.mark.parametrize("code", ["utf-16-be", "utf-16-le"])
def test_infotext_in_exif(format: str, code: str):
    stream = with_exif(format, ExifTags.Base.UserComment, b"UNICODE\0" + A1111.encode(code))
    assert find_foreign(stream) == read_a1111(A1111)


def test_a_graph_in_a_webp_file():
    text = json.dumps(graph())
    assert find_foreign(with_exif("WEBP", ExifTags.Base.Model, f"prompt:{text}", inner=False)) == read_comfyui(text)


# Hostile text


def one_sentence(read: Callable[[str], Foreign], text: str) -> None:
    try:
        read(text)
    except ValueError as error:
        assert 0 < len(str(error)) < 2000
        assert "\n" not in str(error)


PAIR = st.sampled_from(
    [
        "Steps",
        "Sampler",
        "Seed",
        "Size",
        "RNG",
        "Clip skip",
        "Version",
        "Model hash",
        "Eta",
        "CFG scale",
        "Mask blur",
        "Masked content",
        "Inpaint area",
        "Masked area padding",
        "Image CFG scale",
    ]
)
VALUE = st.one_of(
    st.text(max_size=8), st.sampled_from(["20", "Euler a", "1e999", "-1", "512x512", '"', '"a\\"', "9" * 400])
)


@pytest.mark.long
@given(st.text(max_size=40), st.lists(st.tuples(PAIR, VALUE), max_size=8))
@settings(max_examples=150, deadline=None)
def test_any_infotext_is_read_or_refused(prompt: str, pairs: list[tuple[str, str]]):
    one_sentence(read_a1111, f"{prompt}\n" + ", ".join(f"{key}: {value}" for key, value in pairs))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.long
@given(st.sampled_from("3456789"), st.data())
@settings(max_examples=150, deadline=None)
def test_any_graph_is_read_or_refused(key: str, data: st.DataObject):
    nodes = graph()
    name = data.draw(st.sampled_from(sorted(nodes[key]["inputs"])))
    link = st.tuples(st.sampled_from("3456789"), st.just(0)).map(list)
    nodes[key]["inputs"][name] = data.draw(JSON | link)
    one_sentence(read_comfyui, json.dumps(nodes))


@pytest.mark.long
@given(st.sampled_from(sorted(INVOKE)), JSON)
@settings(max_examples=150, deadline=None)
def test_any_metadata_is_read_or_refused(key: str, value: Any):
    one_sentence(read_invokeai, json.dumps(INVOKE | {key: value}))


@pytest.mark.parametrize("read", [read_comfyui, read_invokeai, read_a1111])
@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "{" * 1000, "null", "[]", "a: " * 200_000, '{"a": 1e999}'], ids=len
)
def test_nonsense_is_refused(read: Callable[[str], Foreign], text: str):
    with pytest.raises(ValueError, match=r"."):
        read(text)
