"""A1111's `extra-single-image` and `extra-batch-images`: finished pictures made larger by the server's upscalers.

Names, defaults and meanings are A1111 1.10's (`modules/api/models.py`, `scripts/postprocessing_upscale.py`), but sizes
are not cut to multiples of 8, and a network is asked once, whatever the size.
"""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from marmo.request import ImageRequest
from marmo.serve.contract import Model
from marmo.serve.dialects.bodies import as_request, read_body, read_picture, refused
from marmo.serve.headers import read_header
from marmo.solver_names import short

EXTRAS_FIELD_NAMES: Mapping[str, str] = {
    "model": "upscaler_1",
    "width": "upscaling_resize_w",
    "height": "upscaling_resize_h",
    "upscale.scale": "upscaling_resize",
    "upscale.cover": "upscaling_crop",
    "upscale.model": "upscaler_2",
    "upscale.share": "extras_upscaler_2_visibility",
    "init_image": "image",
}
SCALE, SIDE = 2.0, 512
"""Where a body says no size: A1111's own."""
MOST_PICTURES = 64


class Extras(BaseModel):
    """What both bodies share; A1111 takes null for every field."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, protected_namespaces=())

    resize_mode: int | None = Field(default=None, ge=0, le=1)
    upscaling_resize: float | None = Field(default=None, ge=1, le=8)
    upscaling_resize_w: int | None = Field(default=None, ge=1)
    upscaling_resize_h: int | None = Field(default=None, ge=1)
    upscaling_crop: bool | None = None
    upscaler_1: str | None = Field(default=None, max_length=200)
    upscaler_2: str | None = Field(default=None, max_length=200)
    extras_upscaler_2_visibility: float | None = Field(default=None, ge=0, le=1)
    gfpgan_visibility: float | None = Field(default=None, ge=0, le=1)
    codeformer_visibility: float | None = Field(default=None, ge=0, le=1)
    codeformer_weight: float | None = Field(default=None, ge=0, le=1)
    upscale_first: bool | None = None
    show_extras_results: bool | None = None


class SingleExtras(Extras):
    """The body of `extra-single-image`."""

    image: str


class ListedPicture(BaseModel):
    """One picture of a batch; its name says nothing here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    data: str
    name: str | None = None


class BatchExtras(Extras):
    """The body of `extra-batch-images`."""

    imageList: list[ListedPicture] = Field(min_length=1, max_length=MOST_PICTURES)


@dataclass(frozen=True)
class Extra:
    """One picture, and what shall become of it: nothing, where there is no upscaler to do it."""

    picture: bytes
    request: ImageRequest | None


def read_single(body: object, upscalers: Sequence[Model]) -> list[Extra]:
    """The body of `extra-single-image`; `Problem` for what cannot be done."""
    read = read_body(SingleExtras, body)
    return _extras(read, [(read.image, "image")], upscalers)


def read_batch(body: object, upscalers: Sequence[Model]) -> list[Extra]:
    """The body of `extra-batch-images`; `Problem` for what cannot be done."""
    read = read_body(BatchExtras, body)
    pictures = [(listed.data, f"imageList.{index}.data") for index, listed in enumerate(read.imageList)]
    return _extras(read, pictures, upscalers)


def _extras(body: Extras, pictures: Sequence[tuple[str, str]], upscalers: Sequence[Model]) -> list[Extra]:
    for name in ("gfpgan_visibility", "codeformer_visibility"):
        if getattr(body, name):
            raise refused(f"{name}: there is no face restoration here", name, "unsupported_parameter")
    fields = _fields(body, upscalers)
    extras: list[Extra] = []
    for text, place in pictures:
        picture = read_picture(text, place)
        try:
            read_header(picture)
        except ValueError as error:
            raise refused(f"{place}: {error}", place) from None
        request = None if fields is None else as_request({**fields, "init_image": picture}, EXTRAS_FIELD_NAMES)
        extras.append(Extra(picture, request))
    return extras


def _fields(body: Extras, upscalers: Sequence[Model]) -> dict[str, object] | None:
    """Of the request, but for its picture; without a first upscaler the second means nothing, as in A1111."""
    first = find_upscaler(body.upscaler_1, upscalers, "upscaler_1")
    second = find_upscaler(body.upscaler_2, upscalers, "upscaler_2")
    if first is None:
        return None
    upscale: dict[str, object] = {}
    if second is not None and body.extras_upscaler_2_visibility:
        upscale = {"model": second.id, "share": body.extras_upscaler_2_visibility}
    if not body.resize_mode:
        return {"model": first.id, "upscale": {**upscale, "scale": body.upscaling_resize or SCALE}}
    return {
        "model": first.id,
        "width": body.upscaling_resize_w or SIDE,
        "height": body.upscaling_resize_h or SIDE,
        "upscale": {**upscale, "cover": body.upscaling_crop is False},
    }


def find_upscaler(name: str | None, upscalers: Sequence[Model], field: str) -> Model | None:
    """The upscaler of this name or id; None for A1111's "None"."""
    if not name or name == "None":
        return None
    wanted = name.removesuffix(".safetensors").casefold()
    names = upscaler_names(upscalers)
    for model in upscalers:
        if wanted in (names[model.id].casefold(), model.id.casefold()):
            return model
    known = ", ".join(["None", *names.values()])
    raise refused(f"{field}: there is no {short(name)} here; there are: {known}", field)


def upscaler_names(upscalers: Sequence[Model]) -> dict[str, str]:
    """Id -> what it is called: its title, or where several have the same, its id."""
    titles = [model.title.casefold() for model in upscalers]
    return {model.id: model.title if titles.count(model.title.casefold()) == 1 else model.id for model in upscalers}


def single_body(pictures: Sequence[bytes], infotexts: Sequence[str]) -> dict[str, object]:
    """The answer of `extra-single-image`; without a picture the caller has interrupted."""
    return {"html_info": _html(infotexts), "image": base64.b64encode(pictures[0]).decode() if pictures else ""}


def batch_body(pictures: Sequence[bytes], infotexts: Sequence[str]) -> dict[str, object]:
    """The answer of `extra-batch-images`, in the body's order; what was interrupted is left out."""
    return {"html_info": _html(infotexts), "images": [base64.b64encode(data).decode() for data in pictures]}


def _html(infotexts: Sequence[str]) -> str:
    """As A1111 gives it, one paragraph each."""
    return "".join(f"<p>{html.escape(text)}</p>" for text in infotexts if text)
