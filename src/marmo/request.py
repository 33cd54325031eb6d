"""The one description of a picture: Python call, command-line flags, HTTP body, queue row, the record inside the file.

Whatever describes a picture is an `ImageRequest` field, and nothing else is.  `None` means "the model's default";
`resolve` leaves nothing open.  This module imports no torch: `marmo --help`, the page and the JSON Schema rest on it.
"""

import secrets
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated, Literal, Self, cast, get_args

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from marmo.request_parts import (
    MAX_SEED,
    MAX_SIDE,
    Guidance,
    Hires,
    ImageBytes,
    Inpaint,
    Outpaint,
    Refiner,
    Region,
    Schema,
    Template,
    Told,
    Upscale,
    Variation,
    nearest,
)
from marmo.solver_names import (
    ETA,
    NoiseSourceName,
    SamplerName,
    ScheduleName,
    exist,
    read_schedule,
    read_solver,
    short,
)

StartRule = Literal["diffusers", "a1111"]
SyntaxName = Literal["marmo", "a1111", "comfyui", "plain"]
EmptyNegative = Literal["zeros", "encoded"]
Prediction = Literal["eps", "v", "x0", "flow"]
Tiling = Literal["none", "x", "y", "both"]


def _read_sampler(value: object) -> object:
    return read_solver(value).sampler if isinstance(value, str) else value


def _read_schedule(value: object) -> object:
    return read_schedule(value) if isinstance(value, str) else value


class ImageRequest(Schema):
    """Everything that decides a picture.  `None` is the model's default; see `resolve`."""

    prompt: str = Field(default="", max_length=100_000, description="What the picture shows")
    negative_prompt: str | None = Field(
        default=None, max_length=100_000, description="What the picture should keep away from"
    )
    template: Template | None = Field(
        default=None,
        description="Where the prompts come from, if from a template; it is kept with the picture and changes nothing",
    )
    prompt_syntax: Annotated[SyntaxName, nearest(get_args(SyntaxName))] = Field(
        default="marmo",
        description="Whose brackets and marks the prompts are written in; plain reads them as they stand",
    )
    model: str | None = Field(default=None, max_length=4096, description="A checkpoint file or a diffusers folder")
    empty_negative: Annotated[EmptyNegative, nearest(get_args(EmptyNegative))] | None = Field(
        default=None,
        description="What an empty negative prompt is: its encoding, or zeros, as SDXL's base was trained",
    )
    prediction: Annotated[Prediction, nearest(get_args(Prediction))] | None = Field(
        default=None, description="What the network predicts, where its file does not say or says it wrong"
    )
    zero_snr: bool | None = Field(
        default=None,
        description="Whether the model was trained up to pure noise, where its file does not say or says it wrong",
    )
    vae: str | None = Field(
        default=None, max_length=4096, description="Another autoencoder, or a model that holds it, for this model's own"
    )
    refiner: Refiner = Field(default=Refiner(), description="A second model for the end")
    width: int | None = Field(
        default=None, ge=8, le=MAX_SIDE, description="Pixels; by default the model's, or init_image's"
    )
    height: int | None = Field(
        default=None, ge=8, le=MAX_SIDE, description="Pixels; by default the model's, or init_image's"
    )
    steps: int | None = Field(
        default=None, ge=1, le=1000, description="Noise levels visited from pure noise to picture"
    )
    sampler: Annotated[SamplerName, BeforeValidator(_read_sampler)] | None = Field(
        default=None,
        description="The solver that walks down the noise levels; other programs' names are understood",
    )
    schedule: Annotated[ScheduleName, BeforeValidator(_read_schedule)] | None = Field(
        default=None, description="How the noise levels are spaced; other programs' names are understood"
    )
    discard_penultimate: bool = Field(
        default=False,
        description="Leave out the last noise level above 0 of a schedule of one step more; some programs do for DPM2",
    )
    guidance_scale: float | None = Field(default=None, ge=0, le=100, description="Pull towards the prompt; 1 is none")
    told: Told = Field(default=Told(), description="What SDXL is told beside the words")
    guidance: Guidance = Field(default=Guidance(), description="Details of the guidance")
    eta: float | None = Field(
        default=None, ge=0, le=2, description="Fresh noise per step, for the samplers that have it"
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        le=MAX_SEED,
        description="Picture i has seed + i; with a variation, or noise from comfy, all have this one",
    )
    variation: Variation = Field(default=Variation(), description="Start noise between that of two seeds")
    num_images: int = Field(default=1, ge=1, le=64, description="Pictures to make")
    noise_source: Annotated[NoiseSourceName, nearest(get_args(NoiseSourceName))] = Field(
        default="torch-cpu", description="Where random numbers come from"
    )
    init_image: ImageBytes | None = Field(default=None, description="A picture to start from")
    mask: ImageBytes | None = Field(
        default=None, description="As large as init_image: white is painted anew, black is kept to the bit"
    )
    inpaint: Inpaint = Field(default=Inpaint(), description="How the part under the mask is painted anew")
    outpaint: Outpaint = Field(default=Outpaint(), description="Pixels to add around init_image")
    strength: float | None = Field(
        default=None, ge=0, le=1, description="How far to leave init_image: 0 keeps it, 1 ignores nearly all"
    )
    image_guidance_scale: float | None = Field(
        default=None, ge=0, le=100, description="Pull towards init_image, for models that edit by instruction"
    )
    start: Annotated[StartRule, nearest(get_args(StartRule))] = Field(
        default="diffusers",
        description="Whose start: diffusers' (unit-variance noise) or A1111's (noise times sigma, one step more)",
    )
    clip_skip: int | None = Field(
        default=None, ge=1, le=32, description="Which layer of every text tower is read, counted from the end"
    )
    hires: Hires = Field(default=Hires(), description="A second pass at a larger size")
    upscale: Upscale = Field(default=Upscale(), description="How a model that only enlarges does it")
    tiling: Annotated[Tiling, nearest(get_args(Tiling))] = Field(
        default="none", description="Along which axes the picture's opposite edges fit together"
    )
    regions: tuple[Region, ...] = Field(
        default=(), max_length=16, description="Parts of the picture with prompts of their own"
    )

    @model_validator(mode="before")
    @classmethod
    def _split_names(cls, values: object) -> object:
        """A sampler's name that holds its schedule, such as "DPM++ 2M Karras", fills both fields."""
        match values:
            case {"sampler": str(sampler), "schedule": str(schedule)}:
                pass
            case {"sampler": str(sampler)}:
                schedule = None
            case _:
                return values
        if not exist(sampler, schedule):
            return values  # the field says what is wrong
        solver = read_solver(sampler, schedule)
        return {**cast(dict[str, object], values), **solver._asdict()}

    def picture_seed(self, image: int) -> int:
        """The seed of one of a resolved request's pictures, counted from 0."""
        assert self.seed is not None, "the request is not resolved"
        one_for_all = self.variation.strength or self.noise_source == "comfy"
        return self.seed if one_for_all else self.seed + image

    @property
    def is_partial(self) -> bool:
        """Whether a part of init_image is painted, or what lies beyond it, and the rest is kept."""
        return self.mask is not None or self.outpaint != Outpaint()

    def resolve(self, defaults: "Defaults") -> "ImageRequest":
        """The same request with nothing left open.

        Raises `ValueError`, naming the field, for what this family of models does not use, for what cannot act (a
        `strength` without a picture to start from) and for sizes that the model cannot paint.
        """
        for name in sorted(defaults.unused):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} means nothing to this model; leave it out")
        self._check_enlarging(defaults)
        opened = {name: value for name, value in defaults.values.items() if getattr(self, name) is None}
        whole = self.model_copy(update=opened)
        derived = whole._derived(defaults)
        kept = {name: value for name, value in derived.items() if name not in defaults.unused}
        return whole.model_copy(update=kept)._check(defaults)

    def _derived(self, defaults: "Defaults") -> dict[str, object]:
        """Defaults that depend on other fields."""
        update: dict[str, object] = {}
        if self.seed is None:
            update["seed"] = secrets.randbelow(2**32)
        if self.variation.strength and self.variation.seed is None:
            update["variation"] = self.variation.model_copy(update={"seed": secrets.randbelow(2**32)})
        update["guidance"] = self.guidance.resolve(defaults.guidance)
        if self.sampler is not None and self.eta is None:
            update["eta"] = ETA.get(self.sampler)
        if self.init_image is not None and self.strength is None:
            update["strength"] = 1.0 if self.outpaint != Outpaint() else defaults.strength
        if self.is_partial and self.inpaint.fill is None:
            fill = "original" if self.outpaint == Outpaint() else "blurred"
            update["inpaint"] = self.inpaint.model_copy(update={"fill": fill})
        if self.hires.acts:
            update["hires"] = self.hires.resolve(self.steps)
        return update

    def _check(self, defaults: "Defaults") -> Self:
        """Itself, or `ValueError` for a combination of fields that could not act."""
        multiple = defaults.size_multiple
        for name, side in (("width", self.width), ("height", self.height)):
            if side is not None and side % multiple:
                lower = max(side // multiple, 1) * multiple
                raise ValueError(
                    f"{name} {side} is not a multiple of {multiple}; the nearest are {lower} and {lower + multiple}"
                )
        self._check_editing(defaults)
        self._check_parts(multiple)
        if self.eta is not None and self.sampler is not None and self.sampler not in ETA:
            raise ValueError(
                f"eta means nothing to {self.sampler}, which adds no fresh noise; it acts on {', '.join(ETA)}"
            )
        if self.eta is not None and self.eta > 1 and self.sampler == "tcd":
            raise ValueError(f"eta is a share of the time for tcd, 0 to 1, not {self.eta:g}")
        if self.variation.seed is not None and not self.variation.strength:
            raise ValueError("variation.seed needs a variation.strength above 0")
        for name, seed in (("seed", self.seed), ("variation.seed", self.variation.seed)):
            if seed is not None and seed + self.num_images - 1 > MAX_SEED:
                raise ValueError(
                    f"{name} {seed} leaves no room for {self.num_images} pictures; the largest seed is {MAX_SEED}"
                )
        return self

    def _check_parts(self, multiple: int) -> None:
        if self.width is not None and self.height is not None:
            self.hires.check(self.width, self.height, multiple)
        for index, region in enumerate(self.regions):
            region.check(f"regions.{index}")

    def _check_enlarging(self, defaults: "Defaults") -> None:
        if defaults.paints:
            if self.upscale != Upscale():
                raise ValueError(
                    "upscale means nothing to this model, which paints; hires enlarges what it has painted"
                )
            return
        if self.init_image is None:
            raise ValueError("this model enlarges pictures and paints none; give it an init_image")
        if self.num_images > 1:
            raise ValueError(f"num_images: this model makes one picture of one, not {self.num_images}")
        self.upscale.check(self.width, self.height)

    def _check_editing(self, defaults: "Defaults") -> None:
        if self.init_image is None:
            for name, purpose in (("strength", "to leave"), ("mask", "that it marks"), ("outpaint", "to continue")):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} needs an init_image {purpose}")
        usual = Inpaint()
        said = [name for name, value in self.inpaint if value != getattr(usual, name)]
        if said and not self.is_partial:
            raise ValueError(f"inpaint.{said[0]} needs a mask, or pixels to outpaint")
        if self.is_partial and self.strength is None and self.inpaint.fill in ("noise", "blank"):
            raise ValueError(f"inpaint.fill {self.inpaint.fill} needs a strength; without one all begins in noise")
        if self.inpaint.invert and self.mask is None:
            raise ValueError("inpaint.invert needs a mask")
        if self.inpaint.padding != usual.padding and self.inpaint.area != "masked":
            raise ValueError("inpaint.padding needs inpaint.area masked")
        if self.image_guidance_scale is not None and defaults.image_guidance_scale is None:
            raise ValueError(
                "image_guidance_scale means nothing to this model, which does not edit by instruction; leave it out"
            )


class Defaults(Schema):
    """What a model fills in for `None`, which fields it does not use, and the sizes that it paints."""

    negative_prompt: str = ""
    empty_negative: EmptyNegative = "encoded"
    prediction: Prediction = "eps"
    zero_snr: bool = False
    width: int = 512
    height: int = 512
    steps: int = 25
    sampler: SamplerName = "dpmpp_2m"
    schedule: ScheduleName = "karras"
    guidance_scale: float = 7.0
    guidance: Guidance = Guidance()
    """What it leaves open is `EVERYWHERE`."""
    image_guidance_scale: float | None = None
    """Of models that edit by instruction alone."""
    strength: float | None = Field(default=0.75, ge=0, le=1)
    """Where there is an init_image; none begins in noise alone."""
    clip_skip: int = 1
    paints: bool = True
    """Whether it makes pictures from noise; an upscaler only enlarges them."""
    grows: int = Field(default=1, ge=1)
    """How many times as wide and high as init_image its picture is where no size is said."""
    size_multiple: int = 8
    unused: frozenset[str] = frozenset()

    @property
    def values(self) -> dict[str, object]:
        """Field of the request -> value, without what this model does not use and what needs a picture."""
        left_out = {*self.unused, "strength", *(() if self.paints else ("width", "height"))}  # those are the picture's
        return {name: value for name, value in self if name in ImageRequest.model_fields and name not in left_out}


def explain(error: ValidationError) -> str:
    """One clause per refused field: its name, what is allowed, what was given."""
    return explain_flaws(error.errors(include_url=False))


def explain_flaws(flaws: Iterable[ErrorDetails]) -> str:
    """The same from pydantic's own list of what is wrong."""
    clauses = [
        _clause(flaw["type"], [str(part) for part in flaw["loc"]], flaw["msg"], cast(object, flaw["input"]))
        for flaw in flaws
    ]
    return "; ".join(dict.fromkeys(clauses))


def _clause(kind: str, place: list[str], message: str, value: object) -> str:
    parts = (Guidance, Told, Refiner, Variation, Inpaint, Outpaint, Hires, Upscale, Region)
    fields = {*ImageRequest.model_fields, *(name for part in parts for name in part.model_fields)}
    if kind == "extra_forbidden":
        near = get_close_matches(place[-1], fields, n=1)
        return f"{'.'.join(place)}: no such field" + (f"; did you mean {near[0]}?" if near else "")
    name = ".".join(part for part in place if part in fields)
    if kind == "value_error":
        return ": ".join(filter(None, [name, message.removeprefix("Value error, ")]))
    must = message.replace("Input should", "must").replace("String should", "must")
    return f"{name or 'the request'}: {must}, not {short(value)}"
