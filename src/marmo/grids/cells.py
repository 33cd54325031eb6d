"""A grid as a folder: its cells, which of them are painted, and what is left to do.

    grid.json                the seed of a grid for which none was given
    cells/<sha256>.png       one picture each, named after everything that decides it

A cell that is there is never painted again, and one whose request or model has changed has another name.
"""

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from marmo.files.atomic import atomic_write
from marmo.files.pictures import read_record
from marmo.grids.axes import Axis
from marmo.request import ImageRequest, explain

MAX_CELLS = 10_000
ONE = Axis("", ("",))
"""In place of an axis that is not there."""


@dataclass(frozen=True)
class Cell:
    """One picture of a grid."""

    column: int
    row: int
    request: ImageRequest


def cells(fields: Mapping[str, object], x: Axis, y: Axis) -> Iterator[Cell]:
    """Row by row.  `ValueError`, naming the cell, for a request that no picture can have."""
    if len(x.values) * len(y.values) > MAX_CELLS:
        raise ValueError(f"the grid has {len(x.values) * len(y.values)} cells; at most {MAX_CELLS} are painted")
    if x.field and x.field == y.field and x.search == y.search:
        raise ValueError(f"both axes of the grid are {x.field}; the second would undo the first")
    for row, below in enumerate(y.values):
        for column, above in enumerate(x.values):
            values = dict(fields)
            for axis, value in ((x, above), (y, below)):
                values = axis.put(values, value) if axis.field else values
            try:
                yield Cell(column, row, ImageRequest.model_validate(values))
            except ValidationError as error:
                place = " and ".join(axis.label(value) for axis, value in ((x, above), (y, below)) if axis.field)
                raise ValueError(f"the cell of {place}: {explain(error)}") from None


@dataclass(frozen=True)
class Folder:
    """Where a grid lies."""

    path: Path

    def seed(self) -> int:
        """Of all cells, where none was given: drawn once, then always the same."""
        file = self.path / "grid.json"
        try:
            known: object = json.loads(file.read_text(encoding="utf-8"))["seed"]
        except FileNotFoundError:
            known = secrets.randbelow(2**32)
            self.path.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as stream:
                stream.write(json.dumps({"seed": known}).encode())
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            known = None
        if not isinstance(known, int):
            raise ValueError(f"{file} is not the file of a grid; remove it or choose another --output")
        return known

    def place(self, request: ImageRequest, identity: str) -> Path:
        """The file of a cell.

        Args:
            identity: what else decides its pixels: the weights, the dtype, the device.
        """
        text = request.model_copy(update={"model": None}).model_dump_json()
        digest = hashlib.sha256(f"{identity}\n{text}".encode()).hexdigest()
        return self.path / "cells" / f"{digest}.png"


def is_painted(path: Path) -> bool:
    """Whether the cell is there, whole enough to tell what it is."""
    try:
        read_record(path)
    except (OSError, ValueError):
        return False
    return True


def missing(grid: Sequence[Cell], place: Callable[[Cell], Path]) -> list[Cell]:
    """What is left to paint; of cells that are the same, the first."""
    return list({place(cell): cell for cell in reversed(grid) if not is_painted(place(cell))}.values())[::-1]
