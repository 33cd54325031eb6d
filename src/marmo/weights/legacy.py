"""Legacy pickles, read without unpickling: a child process makes a plan, and this process maps the tensors itself.

    weights = WeightFiles()
    tensors = weights.open(Path("v1-5.ckpt"))      # or a safetensors file
    weights.left_out                               # {Path("v1-5.ckpt"): ("callbacks", ...)}

The child (`legacy_plan.py`) gets the open file and nothing else.  What it answers is checked here as if a stranger had
written it: at worst it names the wrong bytes of the same file.
"""

import math
import mmap
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from marmo.weights.forms import recognise
from marmo.weights.kinds import SD1
from marmo.weights.legacy_plan import MAX_SECONDS
from marmo.weights.pickle_values import MAX_COUNT, spread
from marmo.weights.store import (
    DTYPES,
    MAX_AXES,
    MAX_HEADER,
    Json,
    TensorInfo,
    Tensors,
    are_counts,
    blaming,
    check_name,
    is_text_map,
    map_elements,
    map_file,
    open_file,
    parse_json,
)

_CHILD = "import sys; sys.path.append(sys.argv[1]); from marmo.weights.legacy_plan import main; main()"
_GAVE_UP = "the process that reads pickles gave up; the file is damaged or made to do harm"
_NO_ANSWER = b'{"error": "' + _GAVE_UP.encode() + b'"}'
_SHOWN = 20
_SPARE = 1 << 20  # bytes that tensors may have beyond twice the file, for toys that expand one number


@dataclass
class WeightFiles:
    """Opens safetensors files and legacy pickles, each once, and remembers what beside tensors was left out."""

    left_out: dict[Path, tuple[str, ...]] = field(default_factory=dict[Path, tuple[str, ...]])
    opened: dict[Path, Tensors] = field(default_factory=dict[Path, Tensors])

    def open(self, path: Path) -> Tensors:
        """A weight file, by its first bytes; `ValueError` that names it for all that is wrong with it."""
        if path not in self.opened:
            self.opened[path] = self._open_legacy(path) if is_legacy(path) else open_file(path)
        return self.opened[path]

    def open_strange(self, path: Path) -> Tensors | None:
        """The tensors of a legacy pickle that is no network which Marmo knows, such as an embedding; else None."""
        if not is_legacy(path):
            return None
        tensors = self.open(path)
        is_model = any(name.startswith(SD1.places["unet"].prefix) for name in tensors.infos)
        return None if is_model or recognise(tensors.infos) else tensors

    def report(self) -> list[str]:
        """One sentence for every file of which something was left out."""
        return [f"of {path} was left out: {_list(names)}" for path, names in self.left_out.items() if names]

    def _open_legacy(self, path: Path) -> Tensors:
        tensors, self.left_out[path] = open_legacy(path)
        return tensors


def is_legacy(path: Path) -> bool:
    """Whether a file begins like those of `torch.save`; not whether it is a good one."""
    if not path.is_file():
        return False
    with blaming(path), path.open("rb") as file:
        head = file.read(262)
    # A safetensors file begins with the length of its header, which may spell PK or 0x80 too.
    is_other = int.from_bytes(head[:8], "little") > MAX_HEADER
    return is_other and (head.startswith((b"PK", b"\x80")) or head[257:] == b"ustar")


def open_legacy(path: Path) -> tuple[Tensors, tuple[str, ...]]:
    """The tensors of a legacy pickle, and the names of what else it holds."""
    with blaming(path), path.open("rb") as file:
        data = map_file(path)
        plan = parse_plan(_ask_child(file), len(data))
    infos = {name: place.info for name, place in plan.places.items()}
    return Tensors(infos, lambda name: _read(data, plan.places[name]), plan.metadata, (data,)), plan.left_out


def _ask_child(file: BinaryIO) -> bytes:
    """The plan of a child that reads the open file, isolated from the user's packages and settings."""
    root = Path(__file__).parents[2]  # where this very package lies
    command = [sys.executable, "-I", "-S", "-B", "-c", _CHILD, str(root)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=quiet) as child:
        assert child.stdout is not None
        timer = Timer(2 * MAX_SECONDS, child.kill)  # of the clock; the child itself counts the processor's
        timer.start()
        try:
            return child.stdout.read(MAX_HEADER + 1) or _NO_ANSWER
        finally:
            timer.cancel()
            child.kill()


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _printable(text: str) -> str:
    """Of a text that may steer a terminal, its spelling."""
    return text if text.isprintable() else ascii(text)


# The plan


class Place(NamedTuple):
    """A tensor's bytes in the file, from its first element to its last."""

    info: TensorInfo
    stride: tuple[int, ...]
    begin: int
    num_elements: int


class Plan(NamedTuple):
    """What the child found, checked."""

    places: Mapping[str, Place]
    metadata: Mapping[str, str]
    left_out: tuple[str, ...]


def parse_plan(raw: bytes, num_bytes: int) -> Plan:
    """The child's answer about a file of `num_bytes`; `ValueError` with its sentence, or where the answer is wrong."""
    match parse_json(raw):
        case {"error": str(sentence)}:
            raise ValueError(_printable(sentence))
        case {"tensors": dict(entries), "metadata": metadata, "left_out": [*names]} if is_text_map(metadata):
            places = {name: _place(name, entry, num_bytes) for name, entry in entries.items()}
        case _:
            raise ValueError(_GAVE_UP)
    total = sum(place.info.num_bytes for place in places.values())
    if total > 2 * num_bytes + _SPARE:  # a few numbers may be read as many, until what is written fills a disk
        raise ValueError(f"its tensors repeat its numbers until they have {total} bytes, and the file has {num_bytes}")
    return Plan(places, metadata, tuple(_printable(str(name)) for name in names))


def _place(name: str, entry: Json, num_bytes: int) -> Place:
    check_name(name)
    match entry:
        case [str(dtype), [*shape], [*stride], *numbers] if dtype in DTYPES and len(numbers) == 3:
            counts = [*shape, *stride, *numbers]
        case _:
            raise ValueError(_GAVE_UP)
    if len(shape) != len(stride) or len(shape) > MAX_AXES or not are_counts(counts):
        raise ValueError(_GAVE_UP)
    sizes, steps, (offset, begin, end) = counts[: len(shape)], counts[len(shape) : -3], counts[-3:]
    info = TensorInfo(DTYPES[dtype], tuple(sizes))
    if math.prod(filter(None, sizes)) > MAX_COUNT:
        raise ValueError(f"{name!r} has a shape that no tensor can have")
    first, count = begin + offset * info.dtype.itemsize, spread(info.shape, tuple(steps))
    if first + count * info.dtype.itemsize > end or end > num_bytes:
        raise ValueError(f"{name!r} leads out of its storage or of the file")
    return Place(info, tuple(steps), first, count)


def _read(data: mmap.mmap, place: Place) -> Tensor:
    """A view of the file; a copy where its numbers are not aligned, as in the streams of old."""
    dtype, shape = place.info.dtype, place.info.shape
    if not place.num_elements:
        return torch.empty(shape, dtype=dtype)
    if place.begin % dtype.itemsize == 0:
        return map_elements(data, place.begin, place.num_elements, dtype).as_strided(shape, place.stride)
    raw = map_elements(data, place.begin, place.num_elements * dtype.itemsize, torch.uint8)
    strides = tuple(step * dtype.itemsize for step in place.stride)
    return raw.as_strided((*shape, dtype.itemsize), (*strides, 1)).contiguous().view(dtype).reshape(shape)
