"""A1111's routes without a state: what is listed, what is looked up, what the server does anyway, what it cannot do."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from fastapi import APIRouter, Request
from pydantic import BaseModel

from marmo.serve.context import Here
from marmo.serve.dialects import a1111_lists
from marmo.serve.dialects.a1111_answer import png_info_body
from marmo.serve.dialects.bodies import read_body, read_picture
from marmo.serve.dialects.described import MISSING, REFUSALS, takes
from marmo.serve.dialects.exchange import read_json
from marmo.serve.dialects.masks import apart
from marmo.serve.problems import Problem

Listed = list[dict[str, object]]

NO_CAPTIONS = "this server has no model that describes pictures"

EMPTY: Mapping[str, str] = {
    "sd-vae": "Autoencoders to choose from",
    "loras": "LoRAs",
    "hypernetworks": "Hypernetworks",
    "face-restorers": "Face restorers",
    "realesrgan-models": "Upscalers of one family",
    "prompt-styles": "Styles",
    "script-info": "Scripts and their arguments",
    "extensions": "Extensions",
}
"""Lists that clients ask for and that have nothing in them."""

router = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"], responses=REFUSALS)
ping = APIRouter(tags=["AUTOMATIC1111"])


class PngInfo(BaseModel):
    """The body of `png-info`."""

    image: str


@router.get("/sd-models")
async def sd_models(here: Here) -> Listed:
    """The models, the default first."""
    return a1111_lists.sd_models(here.jobs.models)


@router.get("/samplers")
async def samplers() -> Listed:
    """Every sampler, in A1111's spelling."""
    return a1111_lists.samplers()


@router.get("/schedulers")
async def schedulers() -> Listed:
    """Every schedule, and the choice of each sampler."""
    return a1111_lists.schedulers()


@router.get("/upscalers")
async def upscalers(here: Here) -> Listed:
    """What enlarges pixels, finished ones and those before a second pass."""
    return a1111_lists.upscalers(here.jobs.upscalers)


@router.get("/latent-upscale-modes")
async def latent_upscale_modes() -> Listed:
    """What enlarges latents before a second pass."""
    return a1111_lists.latent_upscale_modes()


@router.get("/embeddings")
async def embeddings() -> dict[str, object]:
    """None are loaded."""
    return {"loaded": {}, "skipped": {}}


@router.get("/scripts")
async def scripts() -> dict[str, object]:
    """There are none: scripts are other people's code."""
    return {"txt2img": [], "img2img": []}


@router.get("/cmd-flags")
async def cmd_flags() -> dict[str, object]:
    """None that could tell of paths or tokens."""
    return {"api": True, "nowebui": True}


@router.get("/memory")
async def memory() -> dict[str, object]:
    """Bytes, of this server; the models are in another process."""
    return {"ram": own_memory(), "cuda": {"error": "unavailable"}}


def own_memory() -> dict[str, object]:
    """This machine's memory in bytes and this process's part of it, as far as the system tells."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        used = int(Path("/proc/self/statm").read_text().split()[1]) * page
        total = os.sysconf("SC_PHYS_PAGES") * page
    except (OSError, ValueError, AttributeError):
        return {"error": "unavailable"}
    return {"free": total - used, "used": used, "total": total}


async def _empty() -> list[object]:
    return []


for name, what in EMPTY.items():
    router.add_api_route(f"/{name}", _empty, methods=["GET"], name=name, description=f"{what}: there are none here.")


@router.post("/png-info", openapi_extra=takes(PngInfo))
async def png_info(http: Request) -> dict[str, object]:
    """The text inside a picture file."""
    return await read_json(http, _read_png_info)


def _read_png_info(body: object) -> dict[str, object]:
    data = read_picture(read_body(PngInfo, body).image, "image")
    return png_info_body(json.loads(apart("texts", data, "image")))


@router.post("/refresh-checkpoints")
@router.post("/refresh-vae")
@router.post("/refresh-embeddings")
@router.post("/refresh-loras")
async def refresh() -> None:
    """The server looks for itself."""


@router.post("/unload-checkpoint")
@router.post("/reload-checkpoint")
async def load() -> dict[str, object]:
    """Models come and go as memory allows."""
    return {}


@router.post("/interrogate", responses=MISSING)
async def interrogate() -> None:
    """Captions: not here."""
    raise Problem(501, "not_implemented", NO_CAPTIONS)


@ping.get("/internal/ping")
async def internal_ping() -> dict[str, object]:
    """Whether the server answers."""
    return {}
