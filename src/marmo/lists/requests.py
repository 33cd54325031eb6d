"""From what was asked to requests that leave nothing to chance: presets, lines, styles and choices, in this order."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from marmo.files.settings import read_settings, settings_path
from marmo.lists.choices import Wildcards, draw, has_choices
from marmo.lists.presets import over, read_preset
from marmo.lists.styles import Style, read_styles, styled
from marmo.request import ImageRequest
from marmo.request_parts import Template


@dataclass(frozen=True)
class Shelf:
    """The user's wildcards, styles and presets."""

    wildcards: Wildcards
    styles: Mapping[str, Style]
    presets: Sequence[Path]


def open_shelf(wildcards: Sequence[Path] = (), styles: Sequence[Path] = ()) -> Shelf:
    """What lies beside the settings, what these name, and the styles of the A1111 installations that they name.

    Args:
        wildcards, styles: folders and files to take before those.
    """
    home, settings = settings_path().parent, read_settings()
    folders = (*wildcards, home / "wildcards", *settings.prompts.wildcards)
    theirs = (root / "styles.csv" for root in settings.models.a1111)
    found = (home / "styles.toml", home / "styles.csv", *theirs)
    files = (*styles, *(file for file in found if file.is_file()), *settings.prompts.styles)
    presets = (home / "presets", *settings.prompts.presets)
    return Shelf(Wildcards(tuple(folder for folder in folders if folder.is_dir())), read_styles(files), presets)


def fields_of(values: Mapping[str, object], presets: Sequence[str], shelf: Shelf) -> dict[str, object]:
    """What was said over the presets, later ones over earlier ones."""
    below: dict[str, object] = {}
    for name in presets:
        below = over(below, read_preset(name, shelf.presets))
    return over(below, values)


def with_styles(request: ImageRequest, styles: Sequence[str], shelf: Shelf) -> ImageRequest:
    """The request with styles around its prompts, and in its template what was there before."""
    if not styles:
        return request
    said = Template(prompt=request.prompt, negative_prompt=request.negative_prompt, styles=tuple(styles))
    return styled(request, styles, shelf.styles).model_copy(update={"template": said})


def settled(request: ImageRequest, wildcards: Wildcards) -> Iterator[ImageRequest]:
    """The request with its choices made, each picture by its own seed: then one request per picture.

    Pictures that share one generator (noise from comfy) share one prompt.
    """
    negative = request.negative_prompt or ""
    if request.prompt_syntax == "plain" or not (has_choices(request.prompt) or has_choices(negative)):
        yield request
        return
    seed = secrets.randbelow(2**32) if request.seed is None else request.seed
    count = 1 if request.noise_source == "comfy" else request.num_images
    variation = request.variation
    if variation.strength and variation.seed is None:
        variation = variation.model_copy(update={"seed": secrets.randbelow(2**32)})
    said = request.template or Template(prompt=request.prompt, negative_prompt=request.negative_prompt)
    for image in range(count):
        own: dict[str, object] = {"seed": seed if variation.strength else seed + image}
        if variation.seed is not None:
            own["variation"] = variation.model_copy(update={"seed": variation.seed + image})
        if count > 1:
            own["num_images"] = 1
        drawn = {"prompt": draw(request.prompt, seed + image, wildcards), "template": said}
        if has_choices(negative):
            drawn["negative_prompt"] = draw(negative, seed + image, wildcards, "negative prompt")
        yield request.model_copy(update={**own, **drawn})
