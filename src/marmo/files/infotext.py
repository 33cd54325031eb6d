"""A1111's "parameters" text, which most other programs write and read.

It follows A1111 1.10: prompt, negative prompt, then one line of `Key: value` pairs in that version's order, with values
at their default left out.  It says less than a record: no dtype, sigmas or guidance details, one weight file at most.

`infotext` writes it, `parse_infotext` takes it apart as A1111 does; a1111.py says what the pairs mean.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from marmo.files.record import VAE, Record
from marmo.request import ImageRequest, Outpaint
from marmo.request_parts import Enlarger, Fill
from marmo.solver_names import A1111_DISCARDS, ETA, NOISE_SOURCES, SAMPLERS, SCHEDULES

MASKED_CONTENT: Mapping[Fill, str] = {"blurred": "fill", "noise": "latent noise", "blank": "latent nothing"}
"""A1111's names; it does not name the original."""
ENLARGERS: Mapping[Enlarger, str] = {
    "latent-bilinear": "Latent",
    "latent-bilinear-antialiased": "Latent (antialiased)",
    "latent-bicubic": "Latent (bicubic)",
    "latent-bicubic-antialiased": "Latent (bicubic antialiased)",
    "latent-nearest": "Latent (nearest)",
    "latent-area": "Latent (area)",
    "lanczos": "Lanczos",
}
"""What enlarges before a second pass, as A1111 calls it (`latent_upscale_modes` in `modules/shared_items.py`); it has
no area, and calls models of ESRGAN's kind by the names of their files."""


def infotext(record: Record) -> str:
    """Prompt, negative prompt if there is one, and the line of parameters."""
    request = record.request
    pairs = ", ".join(f"{key}: {_quoted(value)}" for key, value in _parameters(record).items() if value is not None)
    negative = f"\nNegative prompt: {request.negative_prompt}" if request.negative_prompt else ""
    text = f"{request.prompt}{negative}\n{pairs}"
    return text.replace("\0", "").strip()  # a text chunk of a PNG ends at a NUL


def _parameters(record: Record) -> dict[str, str | int | float | None]:
    """In A1111's order; None is left out."""
    request, variation = record.request, record.request.variation
    weights, vae = tuple(record.own_weights.values()), tuple(record.weights_of(VAE).values())
    discarded = request.discard_penultimate and request.sampler not in A1111_DISCARDS  # theirs it leaves out unsaid
    centred = request.sampler is not None and request.start == "diffusers" and request.strength is None
    eta_key = "Eta DDIM" if request.sampler == "ddim" else "Eta"
    return {
        "Steps": request.steps,
        "Sampler": request.sampler and SAMPLERS[request.sampler].label,
        "Schedule type": request.schedule and SCHEDULES[request.schedule][0],
        "CFG scale": request.guidance_scale,
        "Image CFG scale": request.image_guidance_scale,
        "Seed": record.seed,
        "Size": f"{request.width}x{request.height}" if request.width and request.height else None,
        "Model hash": weights[0][:10] if len(weights) == 1 else None,
        "Model": record.model,
        "VAE hash": vae[0][:10] if len(vae) == 1 else None,
        "VAE": request.vae,
        "Variation seed": variation.seed + record.image if variation.seed is not None else None,
        "Variation seed strength": variation.strength or None,
        "Denoising strength": request.hires.strength if request.hires.acts else request.strength,
        "Clip skip": request.clip_skip if request.clip_skip != 1 else None,
        "RNG": NOISE_SOURCES[request.noise_source],
        **_masking(record),
        eta_key: request.eta if request.sampler and request.eta != ETA.get(request.sampler) else None,
        **_extras(request),
        **_upscaling(record),
        "Discard penultimate sigma": True if discarded else None,
        "SGM noise multiplier": True if centred else None,
        "Prompt syntax": request.prompt_syntax if request.prompt_syntax != "a1111" else None,
        "Template": request.template and request.template.prompt,
        "Negative Template": (request.template and request.template.negative_prompt) or None,
        "Styles": ", ".join(request.template.styles) if request.template and request.template.styles else None,
        "Version": f"marmo {record.marmo}",
    }


def _extras(request: ImageRequest) -> dict[str, str | int | float | None]:
    """Seamless edges, the second pass, and under a key of our own the regions."""
    hires, tiling = request.hires, request.tiling
    by_size = hires.acts and hires.scale is None
    return {
        "Tiling": None if tiling == "none" else "True" if tiling == "both" else tiling,
        "Hires upscale": hires.scale,
        "Hires resize": f"{hires.width or 0}x{hires.height or 0}" if by_size else None,
        "Hires steps": hires.steps if hires.acts and hires.steps != request.steps else None,
        "Hires upscaler": _enlarger(request) if hires.acts else None,
        "Hires prompt": hires.prompt,
        "Hires negative prompt": hires.negative_prompt,
        "Regions": _regions(request) if request.regions else None,
    }


def _upscaling(record: Record) -> dict[str, str | int | float | None]:
    """As A1111 says it of a picture that two models have enlarged; of one model `Model` says it."""
    upscale = record.request.upscale
    if upscale.model is None:
        return {}
    return {
        "Postprocess upscaler": record.model,
        "Postprocess upscaler 2": PurePath(upscale.model).stem,
        "Postprocess upscaler 2 visibility": upscale.share,
    }


def _enlarger(request: ImageRequest) -> str | None:
    if request.hires.model is not None:
        return PurePath(request.hires.model).stem
    return ENLARGERS[request.hires.upscaler] if request.hires.upscaler else None


def _regions(request: ImageRequest) -> str:
    """As JSON; of a mask there is no more to say than that it is one."""
    rows = [region.model_dump(mode="json", exclude={"mask"}, exclude_defaults=True) for region in request.regions]
    return json.dumps(rows, ensure_ascii=False)


def _masking(record: Record) -> dict[str, str | int | float | None]:
    """What A1111 says of a mask.  It leaves a blur of 0 out, and then nothing tells that there was a mask."""
    settings = record.request.inpaint
    if "mask" not in record.inputs and record.request.outpaint == Outpaint():
        return {}
    is_crop = settings.area == "masked"
    return {
        "Mask mode": "Inpaint not masked" if settings.invert else None,
        "Mask blur": settings.feather,
        "Inpaint area": "Only masked" if is_crop else None,
        "Masked area padding": settings.padding if is_crop else None,
        "Masked content": MASKED_CONTENT.get(settings.fill or "original"),
    }


def _quoted(value: str | int | float) -> str:
    """A JSON string where the pairs could not be told apart otherwise; a whole number never ends in `.0`."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text


MAX_INFOTEXT_LENGTH = 400_000  # characters
NEGATIVE = "Negative prompt:"
MIN_PAIRS = 3  # fewer, and the last line is a part of the prompt
KEY = re.compile(r"\w[\w \-/]+")
SPACE = re.compile(r"\s*")
QUOTED = re.compile(r'"(?:[^\\"]|\\.)++"')
SIZE = re.compile(r"(\d+)x(\d+)")


@dataclass(frozen=True)
class Infotext:
    """A "parameters" text, taken apart."""

    prompt: str
    negative_prompt: str
    pairs: Mapping[str, str]
    """A size `512x768` under the key `Size` is two: `Size-1` and `Size-2`."""


def parse_infotext(text: str) -> Infotext:
    """The text as A1111 1.10 takes it apart, in linear time; `ValueError` for one that is too long.

    A prompt with a line that begins with `Negative prompt:`, or whose last line looks like pairs, cannot be told from
    infotext; nor can A1111.
    """
    if len(text) > MAX_INFOTEXT_LENGTH:
        raise ValueError(f"the infotext has {len(text)} characters; at most {MAX_INFOTEXT_LENGTH} are read")
    *lines, last = text.strip().split("\n")
    pairs = list(_pairs(last))
    if len(pairs) < MIN_PAIRS:
        lines, pairs = [*lines, last], []
    lines = [line.strip() for line in lines]
    start = next((index for index, line in enumerate(lines) if line.startswith(NEGATIVE)), len(lines))
    negative = [line.removeprefix(NEGATIVE).strip() for line in lines[start:]]
    prompt, negative = ("\n".join(part).lstrip("\n") for part in (lines[:start], negative))
    return Infotext(prompt, negative, dict(_sized(pairs)))


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """Keys are words of two characters at least; a value ends at a comma, a quoted one at its second quote."""
    position = 0
    while (colon := line.find(":", position)) >= 0:
        key = _key_before(line, position, colon)
        position = colon + 1
        if key is None:
            continue
        space = SPACE.match(line, position)
        start = space.end() if space else position
        quoted = QUOTED.match(line, start)
        if quoted is not None and line[quoted.end() : quoted.end() + 1] in ("", ","):
            value, position = quoted[0], quoted.end() + 1
        else:
            comma = line.find(",", start)
            end = len(line) if comma < 0 else comma
            value, position = line[start:end], end + 1
        yield key, value


def _key_before(line: str, start: int, colon: int) -> str | None:
    """The key that ends at a colon: as many of its characters as there are, from the first that may begin it."""
    first = colon
    while first > start and (line[first - 1].isalnum() or line[first - 1] in "_ -/"):
        first -= 1
    key = KEY.search(line, first, colon)
    return key[0] if key else None


def _sized(pairs: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Values without their quotes, sizes in two; A1111 drops what is empty."""
    for key, value in pairs:
        text = _unquoted(value)
        size = SIZE.fullmatch(text)
        if size is not None:
            yield from ((f"{key}-1", size[1]), (f"{key}-2", size[2]))
        elif value:
            yield key, text


def _unquoted(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value
