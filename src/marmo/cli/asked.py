"""What `generate` and `grid` share: from presets, styles, lists and flags to requests, and the models they name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from marmo.cli.flags import given
from marmo.lists.presets import over
from marmo.lists.prompts_file import read_prompts
from marmo.lists.requests import Shelf, fields_of, open_shelf, settled, with_styles
from marmo.request import ImageRequest

Names = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME")]
Paths = Annotated[tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="PATH")]


@dataclass(frozen=True)
class Lists:
    """Where parts of requests come from beside the flags; each may be given several times."""

    preset: Names = ()
    """Fields of a request in a .toml or .json file, or under a name of the settings; flags win over them"""
    style: Names = ()
    """Words around the prompts, from styles.csv or styles.toml"""
    styles_file: Paths = ()
    """Such a file, beside those of the settings"""
    wildcards: Paths = ()
    """A folder whose name.txt is what __name__ draws from, beside those of the settings"""
    models_dir: Paths = ()
    """A folder in which models may be named, beside those of the settings"""

    def shelf(self) -> Shelf:
        """All of the user's lists."""
        return open_shelf(self.wildcards, self.styles_file)


def requests(prompt: str | None, flags: object, lists: Lists, prompts_file: Path | None) -> list[ImageRequest]:
    """What a command line asks for, one request after the other, nothing left to chance."""
    said = given(flags) if prompt is None else {"prompt": prompt, **given(flags)}
    lines = [dict[str, object]()] if prompts_file is None else read_prompts(prompts_file)
    shelf = lists.shelf()
    return [request for line in lines for request in settled(_request(over(said, line), lists, shelf), shelf.wildcards)]


def wordless() -> ValueError:
    """Nobody said what to paint, and the model would have to be told."""
    return ValueError("say what to paint: a prompt in quotes, or --prompts-file FILE")


def _request(values: Mapping[str, object], lists: Lists, shelf: Shelf) -> ImageRequest:
    request = ImageRequest.model_validate(fields_of(values, lists.preset, shelf))
    return with_styles(request, lists.style, shelf)


def models_key(request: ImageRequest) -> tuple[object, ...]:
    """Requests of one key are painted with the same models, read alike."""
    others = request.vae, request.refiner.model, request.hires.model, request.upscale.model
    return request.model, others, request.prediction, request.zero_snr


def by_models(asked: Sequence[ImageRequest]) -> Iterator[tuple[ImageRequest, list[int]]]:
    """For each of the models that are needed, a request that names them, and the places of all such requests."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, request in enumerate(asked):
        groups.setdefault(models_key(request), []).append(index)
    yield from ((asked[places[0]], places) for places in groups.values())


def placed(request: ImageRequest, folders: Sequence[Path]) -> ImageRequest:
    """The request with the paths of the models that it names."""
    from marmo.catalog import located  # brings torch

    refiner = request.refiner
    if refiner.model is not None:
        refiner = refiner.model_copy(update={"model": str(located(refiner.model, folders))})
    hires = request.hires
    if hires.model is not None:
        hires = hires.model_copy(update={"model": str(located(hires.model, folders))})
    upscale = request.upscale
    if upscale.model is not None:
        upscale = upscale.model_copy(update={"model": str(located(upscale.model, folders))})
    vae = None if request.vae is None else str(located(request.vae, folders))
    model = None if request.model is None else str(located(request.model, folders))
    models = {"model": model, "refiner": refiner, "hires": hires, "upscale": upscale, "vae": vae}
    return request.model_copy(update=models)
