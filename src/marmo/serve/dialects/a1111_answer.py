"""A1111's answers: pictures with their `info`, progress, what a picture file says, errors.  Pure functions."""

import base64
import json
import time
from collections.abc import Mapping, Sequence

from marmo.files.infotext import parse_infotext
from marmo.request import ImageRequest
from marmo.serve.dialects.a1111_request import Wanted
from marmo.serve.dialects.bodies import SHORT_HASH
from marmo.serve.problems import Problem
from marmo.solver_names import SAMPLERS
from marmo.version import VERSION

OWN_KEYS = frozenset(
    {
        "Steps", "Sampler", "CFG scale", "Seed", "Size-1", "Size-2", "Model hash", "Model", "Version",
        "Denoising strength", "Clip skip", "Variation seed", "Variation seed strength",
    }
)  # fmt: skip
"""Keys of infotext that `info` has fields of its own for."""


def pictures_body(
    wanted: Wanted, request: ImageRequest, pictures: Sequence[bytes], infotexts: Sequence[str], created: float
) -> dict[str, object]:
    """The answer of `txt2img` and `img2img`.

    `request` is the resolved one; `pictures` are PNG files, none where the caller interrupted; `infotexts` are theirs.
    """
    coded = [base64.b64encode(data).decode() for data in pictures] if wanted.send_images else []
    text = json.dumps(info(wanted, request, infotexts, created), ensure_ascii=False)
    return {"images": coded, "parameters": dict(wanted.parameters), "info": text}


def info(wanted: Wanted, request: ImageRequest, infotexts: Sequence[str], created: float) -> dict[str, object]:
    """What A1111 says of its pictures; clients read it from JSON inside the JSON."""
    count = max(len(infotexts), 1)
    seeds = [request.picture_seed(index) for index in range(count)]
    subseeds = [_subseed(request, index) for index in range(count)]
    prompt, negative = request.prompt, request.negative_prompt or ""
    return {
        "prompt": prompt,
        "all_prompts": [prompt] * count,
        "negative_prompt": negative,
        "all_negative_prompts": [negative] * count,
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": subseeds[0],
        "all_subseeds": subseeds,
        "subseed_strength": request.variation.strength,
        "width": request.width,
        "height": request.height,
        "sampler_name": SAMPLERS[request.sampler].label if request.sampler else None,
        "cfg_scale": request.guidance_scale,
        "steps": request.steps,
        "batch_size": wanted.batch_size,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": wanted.model.id,
        "sd_model_hash": wanted.model.sha256[:SHORT_HASH],
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": request.hires.strength if request.hires.acts else request.strength,
        "extra_generation_params": _extra(infotexts),
        "index_of_first_image": 0,
        "infotexts": list(infotexts),
        "styles": [],
        "job_timestamp": _timestamp(created),
        "clip_skip": request.clip_skip or 1,
        "is_using_inpainting_conditioning": False,
        "version": f"marmo {VERSION}",
    }


def _subseed(request: ImageRequest, index: int) -> int:
    """-1 where no second seed had a part in the picture."""
    return -1 if request.variation.seed is None else request.variation.seed + index


def _extra(infotexts: Sequence[str]) -> dict[str, str]:
    if not infotexts:
        return {}
    return {key: value for key, value in parse_infotext(infotexts[0]).pairs.items() if key not in OWN_KEYS}


def _timestamp(seconds: float) -> str:
    return time.strftime("%Y%m%d%H%M%S", time.localtime(seconds))


def idle() -> dict[str, object]:
    """`GET progress` while nothing of the caller's runs: clients wait for progress 0 and job_count 0."""
    return progress_body(0.0, 0.0, None, None, 0, 0)


def progress_body(
    fraction: float, seconds_left: float, created: float | None, preview: bytes | None, step: int, steps: int
) -> dict[str, object]:
    """`GET progress`.  `created` is when the job was asked for, None when there is none; `preview` is a JPEG file."""
    state = {
        "skipped": False,
        "interrupted": False,
        "stopping_generation": False,
        "job": "" if created is None else "scripts_txt2img",
        "job_count": 0 if created is None else 1,
        "job_timestamp": "0" if created is None else _timestamp(created),
        "job_no": 0,
        "sampling_step": step,
        "sampling_steps": steps,
    }
    return {
        "progress": fraction,
        "eta_relative": seconds_left,
        "state": state,
        "current_image": base64.b64encode(preview).decode() if preview else None,
        "textinfo": None,
    }


def png_info_body(texts: Mapping[str, str]) -> dict[str, object]:
    """`POST png-info`: the infotext, the picture's other texts, and the infotext taken apart."""
    text = texts.get("parameters", "")
    try:
        read = parse_infotext(text)
    except ValueError:
        return {"info": "", "items": {}, "parameters": {}}
    parts = {"Prompt": read.prompt, "Negative prompt": read.negative_prompt, **read.pairs} if text else {}
    items = {name: value for name, value in texts.items() if name != "parameters"}
    return {"info": text, "items": {"parameters": text, **items} if text else items, "parameters": parts}


def envelope(problem: Problem) -> dict[str, object]:
    """The form of every error; `detail` is what clients show."""
    kind = "HTTPException" if problem.status < 500 else "RuntimeError"
    return {"error": kind, "detail": problem.message, "body": "", "errors": problem.message}
