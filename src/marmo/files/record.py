"""What a picture file says about its picture: enough to make it again where the same weights are.

    record = Record(request=request, image=0, weights={"v1-5.safetensors": sha256}, ...)
    Record.from_json(record.to_json()) == record

The request is the resolved one.  Pictures inside it stand in the record by their sha256, as `inputs`.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Annotated, Literal, Self, cast

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from marmo.request import ImageRequest, Region, Schema

REFINER = "refiner/"
"""Before the names of a refiner's weight files."""
UPSCALER = "upscaler/"
"""Before the name of the weight file that enlarged between two passes."""

VAE = "autoencoder/"
"""Before the names of the weight files of an autoencoder that is not the model's own."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=4096)]


def _inside(name: str) -> str:
    """Replaying looks for these names in a folder, so a stranger's record must not lead out of it."""
    if "\\" in name or "\0" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError(f"{name!r} is not the name of a weight file inside a model's folder")
    return name


WeightName = Annotated[Name, AfterValidator(_inside)]


def _known(version: object) -> object:
    if isinstance(version, int) and version > 1:
        raise ValueError(f"the record has version {version}, from a newer Marmo; this one reads version 1")
    return version


class Record(Schema):
    """One picture's request, which picture of it this is, and everything else that its pixels depend on."""

    version: Annotated[Literal[1], BeforeValidator(_known)] = Field(default=1, description="Of this schema")
    marmo: Name = Field(description="Marmo's version")
    torch: Name = Field(description="PyTorch's version")
    request: ImageRequest = Field(description="The resolved request, without the pictures inside it")
    inputs: Mapping[Name, Sha256] = Field(default={}, description="Field of the request -> sha256 of its picture")
    image: int = Field(ge=0, description="Which of the request's pictures this is, from 0")
    weights: Mapping[WeightName, Sha256] = Field(description="Weight file -> sha256")
    dtype: Name = Field(description="Of the networks, such as float32")
    device: Name = Field(description="Its kind, such as cpu")
    sigmas: tuple[float, ...] = Field(description="The noise levels that were visited")

    @model_validator(mode="before")
    @classmethod
    def _keep_hashes(cls, values: object) -> object:
        """A living request gives up its pictures for their hashes."""
        match values:
            case {"request": ImageRequest() as request}:
                pictures = {name: value for name, value in request if isinstance(value, bytes)}
                bare = request.model_copy(update={**dict.fromkeys(pictures), "regions": _without_masks(request)})
                hashes = {name: hashlib.sha256(data).hexdigest() for name, data in (pictures | _masks(request)).items()}
                return {"inputs": hashes, **cast(dict[str, object], values), "request": bare}
            case _:
                return values

    @model_validator(mode="after")
    def _is_one_picture(self) -> Self:
        if self.request.seed is None:
            raise ValueError("a record holds a resolved request, and this one has no seed")
        if self.image >= self.request.num_images:
            raise ValueError(f"there is no picture {self.image} among {self.request.num_images}, counted from 0")
        if _masks(self.request) or any(isinstance(value, bytes) for _, value in self.request):
            raise ValueError("a record holds the sha256 of an input picture, not the picture")
        return self

    @property
    def own_weights(self) -> dict[str, str]:
        """The model's own weight files, without its refiner's and another autoencoder's."""
        return {name: digest for name, digest in self.weights.items() if not name.startswith((REFINER, UPSCALER, VAE))}

    def weights_of(self, prefix: str) -> dict[str, str]:
        """The weight files of the refiner or of the other autoencoder."""
        return {name.removeprefix(prefix): digest for name, digest in self.weights.items() if name.startswith(prefix)}

    @property
    def seed(self) -> int:
        """Of this picture."""
        return self.request.picture_seed(self.image)

    @property
    def model(self) -> str | None:
        """A short name: the weight file without its suffix, or what the request calls a model of several files."""
        name = PureWindowsPath(self.request.model or "").name  # splits at both kinds of slash
        own = self.own_weights
        if name and name not in own:
            return name
        return PurePath(next(iter(own))).stem if len(own) == 1 else None

    def to_json(self) -> str:
        """Canonical: the same record always gives the same text, and every float comes back exactly."""
        row = self.model_dump(mode="json")
        return json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The inverse of `to_json`.  Raises `ValueError`, in one sentence, for anything else."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the record"
            raise ValueError(f"{place[:100]!r} is wrong: {first['msg'].removeprefix('Value error, ')}") from None


def _masks(request: ImageRequest) -> dict[str, bytes]:
    """The masks of its regions, by the names under which `inputs` has their hashes."""
    masks = {f"regions.{index}.mask": region.mask for index, region in enumerate(request.regions)}
    return {name: mask for name, mask in masks.items() if mask is not None}


def _without_masks(request: ImageRequest) -> tuple[Region, ...]:
    return tuple(region.model_copy(update={"mask": None}) for region in request.regions)
