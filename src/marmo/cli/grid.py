"""`marmo grid`: the same request with one or two of its fields changing, as a labelled sheet and a page."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from marmo.cli.asked import Lists, by_models, placed
from marmo.cli.flags import RequestFlags, given
from marmo.cli.generate import check_folder
from marmo.cli.progress import counted
from marmo.files.atomic import atomic_write
from marmo.files.pictures import save_picture
from marmo.grids.axes import Axis, read_axis
from marmo.grids.cells import ONE, Cell, Folder, cells, missing
from marmo.grids.page import page
from marmo.grids.sheet import sheet
from marmo.lists.requests import Shelf, fields_of, settled, with_styles
from marmo.pipelines.modes import Choice
from marmo.request import ImageRequest

if TYPE_CHECKING:
    from marmo.pipelines.latent import LatentDiffusion
    from marmo.pipelines.pixel_diffusion import PixelDiffusion


@dataclass(frozen=True)
class Grid:
    """Paint a grid: a field of the request changes from column to column, another from row to row."""

    prompt: tyro.conf.Positional[str]
    """What the pictures show"""
    x: str
    """The columns: steps=10, 20, 30 or steps=1-10 [5] or "prompt=S/R fox, cat"; any field of the request"""
    y: str | None = None
    """The rows, likewise"""
    request: Annotated[RequestFlags, tyro.conf.arg(name="")] = field(default_factory=RequestFlags)
    lists: Annotated[Lists, tyro.conf.arg(name="")] = field(default_factory=Lists)
    output: Path = Path("out/grid")
    """Folder of this grid: grid.png, grid.html, and its cells; what is painted there already is not painted again"""
    device: str | None = None
    """cpu, cuda, mps, ...; the best there is by default"""
    dtype: str | None = None
    """float32, bfloat16 or float16; the fastest that is safe by default"""
    memory: Choice = "auto"
    """full keeps all at hand; idle parts wait in main memory (offload) or their files (low); least has small tiles"""
    json: bool = False
    """Print JSON instead of words"""

    def run(self) -> int:
        """Find what is missing, paint it, lay out all of it."""
        check_folder(self.output)
        x, y = read_axis(self.x), ONE if self.y is None else read_axis(self.y)
        grid = self._grid(x, y)
        place, painted = self._paint(grid)
        pictures = [[place[cell] for cell in grid if cell.row == row] for row in range(len(y.values))]
        columns, rows = ([axis.label(value) if axis.field else "" for value in axis.values] for axis in (x, y))
        with atomic_write(self.output / "grid.png") as file:
            sheet(pictures, columns, rows).save(file, "png")
        with atomic_write(self.output / "grid.html") as file:
            file.write(page(self.prompt, pictures, columns, rows).encode())
        self._tell(len(grid), painted)
        return 0

    def _grid(self, x: Axis, y: Axis) -> list[Cell]:
        """All cells, with what each is asked for, nothing left to chance."""
        shelf = self.lists.shelf()
        said = {"prompt": self.prompt, **given(self.request)}
        fields = fields_of(said, self.lists.preset, shelf)
        if fields.get("num_images", 1) != 1:
            raise ValueError("a cell of a grid holds one picture; let the seed change along an axis")
        if fields.get("seed") is None and "seed" not in (x.field, y.field):
            fields["seed"] = Folder(self.output).seed()
        return [Cell(cell.column, cell.row, self._settled(cell.request, shelf)) for cell in cells(fields, x, y)]

    def _settled(self, request: ImageRequest, shelf: Shelf) -> ImageRequest:
        (whole,) = settled(with_styles(request, self.lists.style, shelf), shelf.wildcards)
        return placed(whole, self.lists.models_dir)

    def _paint(self, grid: list[Cell]) -> tuple[dict[Cell, Path], int]:
        """Paint what is missing, one model after the other; where every cell lies, and how many were painted."""
        from marmo import catalog  # brings torch
        from marmo.pipelines.upscaler import Upscaler

        place: dict[Cell, Path] = {}
        painted = 0
        for first, members in by_models([cell.request for cell in grid]):
            model = catalog.open_for(first, self.device, self.dtype, self.memory)
            if isinstance(model, Upscaler):
                raise ValueError(f"{first.model} is an upscaler; a grid is of models that paint")
            own = [grid[index] for index in members]
            identity = _identity(model)
            place |= {cell: Folder(self.output).place(model.resolve(cell.request), identity) for cell in own}
            left = missing(own, place.__getitem__)
            for cell in counted(left, len(left), "painting cells", quiet=self.json):
                result = model.generate(cell.request)
                place[cell].parent.mkdir(parents=True, exist_ok=True)
                save_picture(place[cell], result.images[0], result.records[0])
            painted += len(left)
        return place, painted

    def _tell(self, count: int, painted: int) -> None:
        sheet_file, page_file = self.output / "grid.png", self.output / "grid.html"
        if self.json:
            print(json.dumps({"sheet": str(sheet_file), "page": str(page_file), "cells": count, "painted": painted}))
            return
        print(f"{painted} of {count} cells painted, the others were there")
        print(sheet_file)
        print(page_file)


def _identity(model: "LatentDiffusion | PixelDiffusion") -> str:
    """What decides a cell's pixels beside its request."""
    return json.dumps([sorted(model.hashes().items()), str(model.dtype), model.device.type])
