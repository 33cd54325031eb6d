"""What InvokeAI's `invokeai_metadata` means (its `CoreMetadataInvocation`, version 2.2.0 of August 2026)."""

import json
import re
from collections.abc import Callable

from marmo.files.foreign import Foreign, Json, as_request, number, read_json, whole_number
from marmo.solver_names import read_solver

READ = frozenset(
    [
        "positive_prompt",
        "negative_prompt",
        "width",
        "height",
        "seed",
        "rand_device",
        "cfg_scale",
        "cfg_rescale_multiplier",
        "steps",
        "scheduler",
        "clip_skip",
        "model",
        "strength",
        "generation_mode",
        "init_image",
        "app_version",
        "positive_style_prompt",
        "negative_style_prompt",
        "seed_behavior",
        "canvas_v2_metadata",
        "ref_images",
    ]
)
COMPEL = re.compile(r"\w[+-]{1,9}(?:\W|$)|\)[-+\d.]|\.(?:and|blend|swap)\(")
SPACING = "leading"
"""Of diffusers' schedulers with the settings that come with Stable Diffusion."""
CUDA_NOISE = (
    "the noise was drawn on a graphics card; philox draws the same numbers as long as a picture has no more latent "
    "numbers than the card runs threads"
)


def read_invokeai(text: str) -> Foreign:
    """The metadata as a request; `ValueError`, in one sentence, for anything else."""
    data = read_json(text, "invokeai_metadata")
    if not data.keys() & READ:
        raise ValueError("invokeai_metadata holds nothing of what InvokeAI writes there")
    mode = str(data.get("generation_mode") or "txt2img")
    if mode.removeprefix("sdxl_") not in ("txt2img", "img2img"):
        raise ValueError(f"InvokeAI painted this picture by {mode[:40]!r}; Marmo reads txt2img and img2img")
    lost = [_named(key, value) for key, value in data.items() if key not in READ and value not in (None, False, [], {})]
    lost += [
        _named(key, data[key])
        for key in ("positive_style_prompt", "negative_style_prompt")
        if data.get(key) not in (None, "", data.get(key.replace("_style", "")))
    ]
    model = data.get("model")
    name = model.get("name") if isinstance(model, dict) else None
    version = str(data.get("app_version") or "")[:40]
    return Foreign(
        f"InvokeAI {version}".strip(),
        as_request(_fields(data, mode), "InvokeAI"),
        tuple(lost),
        tuple(_notes(data)),
        name[:200] if isinstance(name, str) else None,
    )


def _fields(data: dict[str, Json], mode: str) -> dict[str, object]:
    solver = read_solver(str(data.get("scheduler") or "euler")[:100])
    rescale = _read(data, "cfg_rescale_multiplier", number)
    clip_skip = _read(data, "clip_skip", whole_number)
    return {
        "prompt": _text(data, "positive_prompt"),
        "negative_prompt": _text(data, "negative_prompt"),
        "prompt_syntax": "plain",
        "steps": _read(data, "steps", whole_number),
        "sampler": solver.sampler,
        "schedule": solver.schedule or SPACING,
        "guidance_scale": _read(data, "cfg_scale", number),
        "guidance": {"rescale": rescale} if rescale else None,
        "seed": _read(data, "seed", whole_number),
        "width": _read(data, "width", whole_number),
        "height": _read(data, "height", whole_number),
        "clip_skip": clip_skip + 1 if clip_skip else None,
        "strength": _read(data, "strength", number) if mode.endswith("img2img") else None,
        "noise_source": "philox" if data.get("rand_device") == "cuda" else "torch-cpu",
    }


def _read(data: dict[str, Json], key: str, read: Callable[[object, str], float]) -> float | None:
    return None if data.get(key) is None else read(data[key], key)


def _text(data: dict[str, Json], key: str) -> str:
    value = data.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"InvokeAI's {key} is no text")
    return value or ""


def _notes(data: dict[str, Json]) -> list[str]:
    notes: list[str] = []
    if data.get("rand_device") == "cuda":
        notes.append(CUDA_NOISE)
    if read_solver(str(data.get("scheduler") or "euler")[:100]).schedule is None:
        notes.append(f"InvokeAI spaces the steps as the model's own settings say; Marmo takes {SPACING}")
    if any(COMPEL.search(_text(data, key)) for key in ("positive_prompt", "negative_prompt")):
        notes.append("the prompt has marks of InvokeAI's own syntax, such as `fox++`, which are read as plain text")
    return notes


def _named(key: str, value: Json) -> str:
    text = f"{key}: {json.dumps(value, ensure_ascii=False)}"
    return text if len(text) <= 80 else text[:77] + "..."
