"""What nests in a request: details of guidance, of editing and of a second pass, regions, and what they all are.

`request.py` puts them together.  This module imports no torch.
"""

import base64
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema, model_validator

from marmo.solver_names import unknown

Enlarger = Literal[
    "latent-nearest",
    "latent-bilinear",
    "latent-bilinear-antialiased",
    "latent-bicubic",
    "latent-bicubic-antialiased",
    "latent-area",
    "lanczos",
    "model",
]
Fill = Literal["original", "blurred", "noise", "blank"]
Area = Literal["picture", "masked"]

MAX_SIDE = 8192  # pixels
MAX_SEED = 2**63 - 1


def nearest(allowed: tuple[str, ...]) -> BeforeValidator:
    """A name outside `allowed` is refused with the nearest names that exist."""

    def check(value: object) -> object:
        if isinstance(value, str) and value not in allowed:
            raise ValueError(unknown(value, allowed))
        return value

    return BeforeValidator(check)


def _decode_image(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise ValueError("an image inside a request is its file's bytes, in JSON as base64") from None


ImageBytes = Annotated[
    bytes,
    BeforeValidator(_decode_image),
    PlainSerializer(lambda data: base64.b64encode(data).decode(), return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "byte", "contentMediaType": "image/*"}),
]
"""The bytes of a PNG, JPEG or WebP file; base64 in JSON."""
Share = Annotated[float, Field(ge=0, le=1)]


class Schema(BaseModel):
    """What every part of a request has in common: frozen, and no field that we would ignore."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Guidance(Schema):
    """How strongly, and where, the prompt pulls; the scale itself is `guidance_scale`."""

    rescale: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the result that is scaled back to the prompt's own contrast (Lin et al. 2023)",
    )
    low_sigma: float = Field(
        default=0.0, ge=0, description="Guide only above this noise level (Kynkaanniemi et al. 2024)"
    )
    high_sigma: float | None = Field(
        default=None, gt=0, description="Guide only up to this noise level; none means from the start"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.high_sigma is not None and self.high_sigma <= self.low_sigma:
            raise ValueError(
                f"guidance.high_sigma {self.high_sigma:g} must lie above guidance.low_sigma {self.low_sigma:g}"
            )
        return self


class Told(Schema):
    """What SDXL and the x4 upscaler are told beside the words.  Sizes are the picture's own by default."""

    original_width: int | None = Field(
        default=None, ge=1, le=MAX_SIDE, description="Width that the picture shall seem to have come with"
    )
    original_height: int | None = Field(
        default=None, ge=1, le=MAX_SIDE, description="Height that the picture shall seem to have come with"
    )
    crop_left: int = Field(default=0, ge=0, le=MAX_SIDE, description="Pixels that shall seem cut off on the left")
    crop_top: int = Field(default=0, ge=0, le=MAX_SIDE, description="Pixels that shall seem cut off at the top")
    target_width: int | None = Field(
        default=None, ge=1, le=MAX_SIDE, description="Width that the picture shall seem to be cut for"
    )
    target_height: int | None = Field(
        default=None, ge=1, le=MAX_SIDE, description="Height that the picture shall seem to be cut for"
    )
    score: float | None = Field(
        default=None, ge=0, le=10, description="For the refiner: how well people shall like the picture; by default 6"
    )
    noise_level: int = Field(
        default=20, ge=0, le=350, description="For the x4 upscaler: how noisy the small picture is made, of 1000 levels"
    )
    negative_score: float | None = Field(
        default=None, ge=0, le=10, description="For the refiner, beside the negative prompt; by default 2.5"
    )


class Template(Schema):
    """What the prompts were before styles were put around them and choices made; see docs/grids.md."""

    prompt: str = Field(default="", max_length=100_000, description="The prompt as it was written")
    negative_prompt: str | None = Field(default=None, max_length=100_000, description="The negative prompt likewise")
    styles: tuple[str, ...] = Field(default=(), max_length=100, description="The styles that were put around them")


class Refiner(Schema):
    """A second model that paints the end (Podell et al. 2023, section 2.5); none unless one is named."""

    model: str | None = Field(default=None, max_length=4096, description="A checkpoint file or a diffusers folder")
    switch: float = Field(
        default=0.8, gt=0, lt=1, description="Share of the training's clock, from pure noise on, that the first paints"
    )


class Variation(Schema):
    """Start noise between that of two seeds: pictures that are like one another."""

    seed: int | None = Field(
        default=None, ge=0, le=MAX_SEED, description="The first picture's other seed; picture i has seed + i"
    )
    strength: float = Field(
        default=0.0, ge=0, le=1, description="How far the start goes from the seed's noise to the other seed's"
    )


class Inpaint(Schema):
    """How the part of init_image under the mask is painted anew."""

    fill: Annotated[Fill, nearest(get_args(Fill))] | None = Field(
        default=None,
        description="What the part begins with: what is there, the blurred surroundings, noise, or blank latents; "
        "by default original, or blurred beyond the picture",
    )
    grow: int = Field(default=0, ge=0, le=512, description="Pixels by which the mask grows to every side")
    feather: float = Field(
        default=4.0, ge=0, le=256, description="Standard deviation, in pixels, of the blur at the mask's edge"
    )
    area: Annotated[Area, nearest(get_args(Area))] = Field(
        default="picture", description="Paint with the whole picture in sight, or enlarge the masked part alone"
    )
    padding: int = Field(default=32, ge=0, le=4096, description="Pixels around the masked part, where area is masked")
    soft: bool = Field(
        default=False, description="Read the mask's grey levels as shares of strength (Levin and Fried 2023)"
    )
    invert: bool = Field(default=False, description="Paint the black part of the mask instead of the white one")


class Outpaint(Schema):
    """Pixels by which init_image is continued beyond its sides."""

    left: int = Field(default=0, ge=0, le=MAX_SIDE, description="Pixels to add on the left")
    right: int = Field(default=0, ge=0, le=MAX_SIDE, description="Pixels to add on the right")
    top: int = Field(default=0, ge=0, le=MAX_SIDE, description="Pixels to add at the top")
    bottom: int = Field(default=0, ge=0, le=MAX_SIDE, description="Pixels to add at the bottom")


class Hires(Schema):
    """A second pass: the picture enlarged and painted again from some noise on; none unless it is given a size."""

    scale: float | None = Field(default=None, ge=1, le=8, description="How many times as wide and high as the first")
    width: int | None = Field(
        default=None, ge=8, le=MAX_SIDE, description="Pixels, instead of a scale; what stands out is cut off"
    )
    height: int | None = Field(
        default=None, ge=8, le=MAX_SIDE, description="Pixels, instead of a scale; what stands out is cut off"
    )
    upscaler: Annotated[Enlarger, nearest(get_args(Enlarger))] | None = Field(
        default=None, description="What enlarges: a rule for latents, one for pixels, or a model"
    )
    model: str | None = Field(
        default=None, max_length=4096, description="A checkpoint file of ESRGAN's kind, or a latent upscaler's folder"
    )
    steps: int | None = Field(default=None, ge=1, le=1000, description="Of the second pass, by default as in the first")
    strength: float | None = Field(
        default=None, ge=0, le=1, description="How far to leave the enlarged picture: 0 keeps it; by default 0.7"
    )
    prompt: str | None = Field(default=None, max_length=100_000, description="Of the second pass, by default the same")
    negative_prompt: str | None = Field(
        default=None, max_length=100_000, description="Of the second pass, by default the same"
    )

    @property
    def acts(self) -> bool:
        """Whether there is a second pass."""
        return not self.scale is self.width is self.height is None

    @property
    def keeps_latents(self) -> bool:
        """Whether latents are enlarged and not pixels."""
        return (self.upscaler or "").startswith("latent-")

    def size(self, width: int, height: int, multiple: int) -> tuple[int, int]:
        """Of the second pass, after a first one of this size: multiples of what the model can paint, downwards."""
        if self.scale is not None:
            wide, high = width * self.scale, height * self.scale
        else:
            wide = self.width or (self.height or 0) * width / height
            high = self.height or wide * height / width
        return int(wide + 1e-6) // multiple * multiple, int(high + 1e-6) // multiple * multiple

    def resolve(self, steps: int | None) -> "Hires":
        """Itself with nothing left open, after a first pass of these steps."""
        upscaler = self.upscaler or ("latent-bilinear" if self.model is None else "model")
        update = {"upscaler": upscaler, "steps": self.steps or steps}
        return self.model_copy(update=update | ({"strength": 0.7} if self.strength is None else {}))

    def check(self, width: int, height: int, multiple: int) -> None:
        """`ValueError` for what cannot act, after a first pass of this size."""
        if not self.acts:
            if self != Hires():
                raise ValueError("hires needs a scale, a width or a height; leave it out for one pass")
            return
        if self.scale is not None and (self.width or self.height):
            raise ValueError("hires.scale and hires.width or hires.height say the same; give one of them")
        wide, high = self.size(width, height, multiple)
        if wide < width or high < height or max(wide, high) > MAX_SIDE:
            raise ValueError(
                f"hires makes {wide} x {high} of {width} x {height}; no side may shrink or pass {MAX_SIDE}"
            )
        if (self.upscaler == "model") != (self.model is not None):
            raise ValueError("hires.upscaler model needs a hires.model, and no other does")


class Upscale(Schema):
    """What a model that only enlarges makes of init_image; see docs/upscaling.md."""

    scale: float | None = Field(
        default=None, ge=1, le=16, description="How many times as wide and high; by default the model's own scale"
    )
    cover: bool = Field(
        default=False,
        description="Where width and height are both said, cover them and cut nothing off that stands out",
    )
    model: str | None = Field(
        default=None, max_length=4096, description="A second model that enlarges; its picture is laid over the first's"
    )
    share: float = Field(default=0.5, ge=0, le=1, description="How much of the second model's picture is seen")

    def size(self, picture: tuple[int, int], width: int | None, height: int | None, own: int) -> tuple[int, int]:
        """Width and height of a picture after it, where these are wished and the model's own scale is this."""
        wide, high = picture
        if width is not None and height is not None and not self.cover:
            return width, height
        wished = [wish / side for wish, side in ((width, wide), (height, high)) if wish is not None]
        scale = max(wished, default=self.scale or own)
        return max(round(wide * scale), 1), max(round(high * scale), 1)

    def check(self, width: int | None, height: int | None) -> None:
        """`ValueError` for what cannot act, where these sides are wished."""
        if self.scale is not None and (width is not None or height is not None):
            raise ValueError("upscale.scale and width or height say the same; give one of them")
        if self.cover and (width is None or height is None):
            raise ValueError("upscale.cover needs a width and a height")
        if self.model is None and self.share != type(self).model_fields["share"].default:
            raise ValueError("upscale.share needs an upscale.model")


class Region(Schema):
    """A part of the picture with a prompt of its own."""

    prompt: str = Field(max_length=100_000, description="What this part of the picture shows")
    box: tuple[Share, Share, Share, Share] | None = Field(
        default=None, description="Left, top, right and bottom, as shares of the picture's width and height"
    )
    mask: ImageBytes | None = Field(
        default=None, description="A picture instead of a box: white where the prompt acts, grey where it has a share"
    )
    weight: float = Field(
        default=1.0, gt=0, le=1, description="How much this prompt decides there; the picture's own decides the rest"
    )

    def check(self, name: str) -> None:
        """`ValueError` for a region without a place, or with two."""
        if (self.box is None) == (self.mask is None):
            raise ValueError(f"{name} needs either a box or a mask")
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError(f"{name}.box is left, top, right, bottom with left < right and top < bottom")
