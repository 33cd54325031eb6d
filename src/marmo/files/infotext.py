"""The record as A1111's "parameters" text, which most other programs can read.

It follows A1111 1.10: prompt, negative prompt, then one line of `Key: value` pairs in that version's order, with values
at their default left out.  It says less than the record: no dtype, sigmas or guidance details, one weight file at most.
"""

import json
import re
from collections.abc import Mapping

from marmo.files.record import Record
from marmo.request import ETA, NoiseSourceName, SamplerName, ScheduleName

SAMPLERS: Mapping[SamplerName, str] = {
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "ddim": "DDIM",
    "ddpm": "DDPM",  # Forge's; A1111 has none
    "heun": "Heun",
    "dpmpp_2m": "DPM++ 2M",
}

# The last three are diffusers' timestep spacings.  No schedule of A1111 or Forge equals them at every number of steps
# (SGM Uniform, DDIM and Turbo come near), so they keep their own names, which those programs read as Automatic.
SCHEDULES: Mapping[ScheduleName, str] = {
    "normal": "Uniform",
    "karras": "Karras",
    "exponential": "Exponential",
    "simple": "Simple",
    "trailing": "Trailing",
    "leading": "Leading",
    "linspace": "Linspace",
}

NOISE_SOURCES: Mapping[NoiseSourceName, str] = {"torch-cpu": "CPU"}

_PAIR = re.compile(r'\b\w[\w \-/]{1,60}: *(?:"(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')  # key: value, in a line of parameters
_MAX_LINE = 100_000


def infotext(record: Record) -> str:
    """Prompt, negative prompt if there is one, and the line of parameters."""
    request = record.request
    pairs = ", ".join(f"{key}: {_quoted(value)}" for key, value in _parameters(record).items() if value is not None)
    negative = f"\nNegative prompt: {request.negative_prompt}" if request.negative_prompt else ""
    text = f"{request.prompt}{negative}\n{pairs}"
    return text.replace("\0", "").strip()  # a text chunk of a PNG ends at a NUL


def prompt_of(text: str) -> str:
    """The prompt of an infotext, as A1111 finds it: what stands before the negative prompt and the line of parameters.

    A prompt that looks like either is cut short, so only measuring reads it; the record is what is replayed.
    """
    lines = text.strip().split("\n")
    if len(_PAIR.findall(lines[-1][:_MAX_LINE])) >= 3:
        lines.pop()
    ends = [index for index, line in enumerate(lines) if line.strip().startswith("Negative prompt:")]
    return "\n".join(lines[: ends[0]] if ends else lines).strip()


def _parameters(record: Record) -> dict[str, str | int | float | None]:
    """In A1111's order; None is left out."""
    request, weights = record.request, tuple(record.weights.values())
    eta_key = "Eta DDIM" if request.sampler == "ddim" else "Eta"
    return {
        "Steps": request.steps,
        "Sampler": request.sampler and SAMPLERS[request.sampler],
        "Schedule type": request.schedule and SCHEDULES[request.schedule],
        "CFG scale": request.guidance_scale,
        "Seed": record.seed,
        "Size": f"{request.width}x{request.height}" if request.width and request.height else None,
        "Model hash": weights[0][:10] if len(weights) == 1 else None,
        "Model": record.model,
        "Denoising strength": request.strength,
        "Clip skip": request.clip_skip if request.clip_skip != 1 else None,
        "RNG": NOISE_SOURCES[request.noise_source],
        eta_key: request.eta if request.sampler and request.eta != ETA.get(request.sampler) else None,
        "Version": f"marmo {record.marmo}",
    }


def _quoted(value: str | int | float) -> str:
    """A JSON string where the pairs could not be told apart otherwise; a whole number never ends in `.0`."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text
