"""What A1111's infotext means: a request in A1111's prompt syntax, with its start and its noise.

Keys and the meaning of absent ones are those of A1111 1.10 (`modules/infotext_utils.py`, `infotext_versions.py` and
`create_infotext` in `processing.py`); Forge, SD.Next and many tools write the same.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from marmo.files.foreign import Foreign, as_request, number, read_json, short, whole_number
from marmo.files.infotext import ENLARGERS, MASKED_CONTENT, Infotext, parse_infotext
from marmo.solver_names import A1111_DISCARDS, ETA, read_solver

# What the request takes over, and what says nothing about how the picture was painted.
READ = frozenset(
    [
        "Steps",
        "Sampler",
        "Schedule type",
        "CFG scale",
        "Image CFG scale",
        "Mask mode",
        "Mask blur",
        "Inpaint area",
        "Masked area padding",
        "Masked content",
        "Seed",
        "Size-1",
        "Size-2",
        "Model hash",
        "Model",
        "Denoising strength",
        "Clip skip",
        "Variation seed",
        "Variation seed strength",
        "RNG",
        "Eta",
        "Eta DDIM",
        "Tiling",
        "Hires upscale",
        "Hires resize-1",
        "Hires resize-2",
        "Hires steps",
        "Hires upscaler",
        "Hires prompt",
        "Hires negative prompt",
        "Regions",
        "SGM noise multiplier",
        "Discard penultimate sigma",
        "Prompt syntax",
        "Template",
        "Negative Template",
        "Styles",
        "Version",
        "User",
        "Init image hash",
        "Batch size",
        "Batch pos",
        "App",
        "Parser",
    ]
)
# Pairs that say what is so in Marmo anyway.
HARMLESS: Mapping[str, str] = {
    "Emphasis": "Original",
    "VAE Encoder": "Full",
    "VAE Decoder": "Full",
    "ENSD": "0",
    "Noise Schedule": "Default",
    "FP8 weight": "Disable",
}
MASK_KEYS = ("Mask mode", "Mask blur", "Inpaint area", "Masked area padding", "Masked content")
"""Of which A1111 writes one where there was a mask, if its edge was blurred."""
HALF_ALPHAS = (1, 7, 0, 225)  # before this version A1111 rounded its noise levels
NEW_TIMELINES = (1, 6, 0, 0)

GPU_NOISE = (
    "the infotext names no noise source, which means the graphics card's own; philox draws the same numbers as long as "
    "a picture has no more latent numbers than the card runs threads, and on a smaller card the picture was another one"
)


def read_a1111(text: str) -> Foreign:
    """Infotext as a request; `ValueError`, in one sentence, for text without parameters and for what cannot be."""
    info = parse_infotext(text)
    if "Seed" not in info.pairs:
        raise ValueError("the text holds no parameters of A1111, in whose last line stand a seed and two more pairs")
    fields = _fields(info)
    lost = [short(f"{key}: {value}") for key, value in info.pairs.items() if key not in READ and not _same(key, value)]
    lost += _lost_upscaler(info.pairs)
    eta = info.pairs.get("Eta DDIM" if fields["sampler"] == "ddim" else "Eta")
    if eta is not None and fields["sampler"] in ETA:
        fields["eta"] = number(eta, "Eta")
    elif eta is not None:
        lost.append(short(f"Eta: {eta}"))
    return Foreign(
        _program(info.pairs.get("Version", "")),
        as_request(fields, "A1111"),
        tuple(lost),
        tuple(_notes(info)),
        short(info.pairs["Model"]) if "Model" in info.pairs else None,
        short(info.pairs["Model hash"], 64) if "Model hash" in info.pairs else None,
        _is_masked(info.pairs),
    )


def _fields(info: Infotext) -> dict[str, object]:
    pairs = info.pairs
    solver = read_solver(pairs["Sampler"], pairs.get("Schedule type", "Automatic")) if "Sampler" in pairs else None
    is_hires = any(key.startswith("Hires ") for key in pairs)  # whose strength it then is
    strength = None if is_hires else _read(pairs, "Denoising strength", number)
    discards = (solver is not None and solver.sampler in A1111_DISCARDS) or pairs.get(
        "Discard penultimate sigma"
    ) == "True"
    is_centred = pairs.get("SGM noise multiplier") == "True" and strength is None
    return {
        "prompt": info.prompt,
        "negative_prompt": info.negative_prompt,
        "prompt_syntax": pairs.get("Prompt syntax", "a1111"),
        "steps": _read(pairs, "Steps", whole_number),
        "sampler": solver.sampler if solver else None,
        "schedule": solver.schedule if solver else None,
        "discard_penultimate": discards,
        "guidance_scale": _read(pairs, "CFG scale", number),
        "seed": _read(pairs, "Seed", whole_number),
        "width": _read(pairs, "Size-1", whole_number),
        "height": _read(pairs, "Size-2", whole_number),
        "clip_skip": _read(pairs, "Clip skip", whole_number),
        "strength": strength,
        "image_guidance_scale": _read(pairs, "Image CFG scale", number),
        "inpaint": _inpaint(pairs) if _is_masked(pairs) else None,
        "start": "diffusers" if is_centred else "a1111",
        "noise_source": _noise_source(pairs.get("RNG", "GPU")),
        "variation": _variation(pairs),
        "tiling": {"True": "both", "x": "x", "y": "y"}.get(pairs.get("Tiling", ""), "none"),
        "hires": _hires(pairs),
        "regions": _regions(pairs),
    }


def _read(pairs: Mapping[str, str], key: str, read: Callable[[object, str], float]) -> float | None:
    return read(pairs[key], key) if key in pairs else None


def _noise_source(name: str) -> str:
    sources = {"cpu": "torch-cpu", "nv": "philox", "gpu": "philox", "comfy": "comfy"}
    if name.lower() not in sources:
        raise ValueError(f"the infotext's noise source {name[:40]!r} does not exist; A1111's are GPU, CPU and NV")
    return sources[name.lower()]


def _variation(pairs: Mapping[str, str]) -> dict[str, object] | None:
    strength = _read(pairs, "Variation seed strength", number)
    if not strength:
        return None
    return {"strength": strength, "seed": _read(pairs, "Variation seed", whole_number)}


def _hires(pairs: Mapping[str, str]) -> dict[str, object] | None:
    """The second pass.  An upscaler's own file is its owner's; Lanczos' kernel stands in for it."""
    if "Hires upscale" not in pairs and "Hires resize-1" not in pairs:
        return None
    names = {name: ours for ours, name in ENLARGERS.items()}
    return {
        "scale": _read(pairs, "Hires upscale", number),
        "width": _read(pairs, "Hires resize-1", whole_number) or None,
        "height": _read(pairs, "Hires resize-2", whole_number) or None,
        "upscaler": names.get(pairs.get("Hires upscaler", "Latent"), "lanczos"),
        "steps": _read(pairs, "Hires steps", whole_number) or None,
        "strength": _read(pairs, "Denoising strength", number),
        "prompt": pairs.get("Hires prompt"),
        "negative_prompt": pairs.get("Hires negative prompt"),
    }


def _lost_upscaler(pairs: Mapping[str, str]) -> list[str]:
    name = pairs.get("Hires upscaler", "Latent")
    return [] if name in ENLARGERS.values() else [short(f"Hires upscaler: {name} (Lanczos stands in)")]


def _regions(pairs: Mapping[str, str]) -> Sequence[object] | None:
    """Marmo's own; a region that had a mask has lost it, and the request is refused when it is painted."""
    if "Regions" not in pairs:
        return None
    rows = read_json(f'{{"regions": {pairs["Regions"]}}}', "the infotext's list of regions")["regions"]
    return rows if isinstance(rows, list) else [rows]


def _is_masked(pairs: Mapping[str, str]) -> bool:
    return any(key in pairs for key in MASK_KEYS)


def _inpaint(pairs: Mapping[str, str]) -> dict[str, object]:
    """Absent keys are A1111's defaults; it leaves a blur of 0 out."""
    content, area = pairs.get("Masked content", "original"), pairs.get("Inpaint area", "Whole picture")
    fills = {"original": "original", **{name: fill for fill, name in MASKED_CONTENT.items()}}
    areas = {"Whole picture": "picture", "Only masked": "masked"}
    if content not in fills or area not in areas:
        named = f"masked content {content[:40]!r} in the area {area[:40]!r}"
        raise ValueError(f"A1111 paints no {named}; it knows {', '.join(fills)} and {', '.join(areas)}")
    padding = _read(pairs, "Masked area padding", whole_number) if area == "Only masked" else None
    settings = {
        "invert": pairs.get("Mask mode") == "Inpaint not masked",
        "feather": _read(pairs, "Mask blur", number) or 0,
        "area": areas[area],
        "padding": padding,
        "fill": fills[content],
    }
    return {name: value for name, value in settings.items() if value is not None}


def _same(key: str, value: str) -> bool:
    return HARMLESS.get(key) == value


def _notes(info: Infotext) -> list[str]:
    notes: list[str] = []
    if info.pairs.get("RNG", "GPU") == "GPU":
        notes.append(GPU_NOISE)
    if _is_masked(info.pairs):
        notes += _mask_notes(info)
    version = _version(info.pairs.get("Version", ""))
    if version is not None and version < HALF_ALPHAS:
        notes.append("A1111 before 1.7.0-225 rounded its noise levels to half precision, which Marmo does not")
    if version is not None and version < NEW_TIMELINES and "[" in info.prompt:
        notes.append("A1111 before 1.6.0 read numbers of at least 1 in [a:b:1.0] as steps; here they are shares")
    return notes


def _mask_notes(info: Infotext) -> list[str]:
    """Where A1111 paints under a mask by other rules."""
    notes = ["the mask's edge is laid on whole latents by another rule than A1111's"]
    if info.pairs.get("Masked content") == "fill":
        notes.append("A1111 fills a masked part with its surroundings by another blur")
    if info.pairs.get("Sampler", "").startswith(("DDIM", "PLMS", "UniPC")):
        notes.append("A1111 mixes the picture into the noise of this sampler, and not into what the model sees in it")
    return notes


def _version(text: str) -> tuple[int, int, int, int] | None:
    """`v1.7.0-225-g1234abcd`, Forge's `f2.0.1v1.10.1-previous-665-g1234abcd`; None for others."""
    match = re.search(r"v(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?:-(\d{1,9}))?", text[:200])
    if match is None:
        return None
    major, minor, patch, commits = (int(part or 0) for part in match.groups())
    return major, minor, patch, commits


def _program(version: str) -> str:
    if version.startswith("f"):
        return short(f"Forge {version}")
    is_own = version[:1] in ("", "v") or version[:1].isdigit()
    return short(f"A1111 {version}".strip() if is_own else version)
