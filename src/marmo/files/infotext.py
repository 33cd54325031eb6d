"""The record as A1111's "parameters" text, which most other programs can read.

It follows A1111 1.10: prompt, negative prompt, then one line of `Key: value` pairs in that version's order, with values
at their default left out.  It says less than the record: no dtype, sigmas or guidance details, one weight file at most.
"""

import json

from marmo.files.record import Record
from marmo.solver_names import A1111_DISCARDS, ETA, NOISE_SOURCES, SAMPLERS, SCHEDULES


def infotext(record: Record) -> str:
    """Prompt, negative prompt if there is one, and the line of parameters."""
    request = record.request
    pairs = ", ".join(f"{key}: {_quoted(value)}" for key, value in _parameters(record).items() if value is not None)
    negative = f"\nNegative prompt: {request.negative_prompt}" if request.negative_prompt else ""
    text = f"{request.prompt}{negative}\n{pairs}"
    return text.replace("\0", "").strip()  # a text chunk of a PNG ends at a NUL


def _parameters(record: Record) -> dict[str, str | int | float | None]:
    """In A1111's order; None is left out."""
    request, weights, variation = record.request, tuple(record.weights.values()), record.request.variation
    discarded = request.discard_penultimate and request.sampler not in A1111_DISCARDS  # theirs it leaves out unsaid
    eta_key = "Eta DDIM" if request.sampler == "ddim" else "Eta"
    return {
        "Steps": request.steps,
        "Sampler": request.sampler and SAMPLERS[request.sampler].label,
        "Schedule type": request.schedule and SCHEDULES[request.schedule][0],
        "CFG scale": request.guidance_scale,
        "Seed": record.seed,
        "Size": f"{request.width}x{request.height}" if request.width and request.height else None,
        "Model hash": weights[0][:10] if len(weights) == 1 else None,
        "Model": record.model,
        "Variation seed": variation.seed + record.image if variation.seed is not None else None,
        "Variation seed strength": variation.strength or None,
        "Denoising strength": request.strength,
        "Clip skip": request.clip_skip if request.clip_skip != 1 else None,
        "RNG": NOISE_SOURCES[request.noise_source],
        eta_key: request.eta if request.sampler and request.eta != ETA.get(request.sampler) else None,
        "Discard penultimate sigma": True if discarded else None,
        "Version": f"marmo {record.marmo}",
    }


def _quoted(value: str | int | float) -> str:
    """A JSON string where the pairs could not be told apart otherwise; a whole number never ends in `.0`."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text
