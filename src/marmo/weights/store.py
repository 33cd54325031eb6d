"""Tensors on disk: safetensors files and folders of them, mapped when read and streamed when written.

A file is a 64-bit length, a JSON header of that many bytes (tensor name -> dtype, shape, data_offsets) and the bytes
of the tensors, end to end, all little-endian; see https://github.com/huggingface/safetensors.  Nothing in it can run.

Reading maps the file privately: a tensor takes no memory until it is changed, and a change never reaches the disk.  All
that a file says is checked when it is opened, and what is wrong stands in a `ValueError` that names the file.  As with
every memory map, a file must not be shortened while it is open; `write` puts a new file in place of the old one.
"""

import hashlib
import json
import math
import mmap
import re
import stat
from collections.abc import Callable, Container, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeGuard
from typing import cast as believed

import torch
from torch import Tensor

from marmo.files.atomic import atomic_write

DTYPES = {
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "U32": torch.uint32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""In the order in which the safetensors library lays tensors out; within a dtype it goes by name."""
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_DTYPE_RANKS = {dtype: rank for rank, dtype in enumerate(DTYPES.values())}

# What a stranger's file may ask of us.
MAX_HEADER = 1 << 24  # bytes; the largest single-file models have less than a megabyte
_MAX_NAME = 1000  # characters
MAX_AXES = 64  # as many as PyTorch's reductions take
_MAX_COUNT = (1 << 63) - 1

PICKLE = "a legacy pickle, which can carry code and is not opened; `marmo convert` makes safetensors of it"
_MEMBERS = frozenset({"dtype", "shape", "data_offsets"})
_LOOKALIKES = {
    b"PK": f"it is {PICKLE}",
    b"\x80": f"it is {PICKLE}",
    b"version ": "it is a Git LFS pointer and not the weights; run `git lfs pull`",
    b"<": "it is a web page and not the weights; download them again",
}

_SURROGATE = re.compile(r"[\ud800-\udfff]")  # half a character, which UTF-8 cannot hold

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor before it is read."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_elements * self.dtype.itemsize


@dataclass(frozen=True)
class Tensors:
    """Named tensors that are read one at a time: a file, a folder of shards, or a view of another `Tensors`."""

    infos: Mapping[str, TensorInfo]
    read: Callable[[str], Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    maps: tuple[mmap.mmap, ...] = ()
    """The mapped files that the tensors may be views of; see `let_go`."""


def open_file(path: Path) -> Tensors:
    """One safetensors file."""
    with blaming(path):
        data = map_file(path)
        start = _end_of_header(data)
        metadata, slots = _parse(data[8:start], num_bytes=len(data) - start)
    infos = {name: slot.info for name, slot in slots.items()}
    return Tensors(infos, lambda name: _read(data, start + slots[name].begin, infos[name]), metadata, (data,))


def from_state(state: Mapping[str, Tensor]) -> Tensors:
    """Tensors that are already in memory."""
    infos = {name: TensorInfo(tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()}
    return Tensors(infos, lambda name: state[name])


def cast(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    """The floating-point tensors in another dtype, the others as they are."""
    assert dtype.is_floating_point, dtype
    infos = {
        name: TensorInfo(dtype, info.shape) if info.dtype.is_floating_point else info
        for name, info in tensors.infos.items()
    }
    return Tensors(infos, lambda name: tensors.read(name).to(infos[name].dtype), tensors.metadata)


def select(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors whose names begin with `prefix`, without it; a prefix of whole words ends in a dot."""
    infos = {name.removeprefix(prefix): info for name, info in tensors.infos.items() if name.startswith(prefix)}
    return Tensors(infos, lambda name: tensors.read(prefix + name), tensors.metadata, tensors.maps)


def only(tensors: Tensors, names: Container[str]) -> Tensors:
    """The tensors of these names."""
    infos = {name: info for name, info in tensors.infos.items() if name in names}
    return Tensors(infos, tensors.read, tensors.metadata, tensors.maps)


def prefixed(tensors: Tensors, prefix: str) -> Tensors:
    """`prefix` before every name: the inverse of `select`."""
    infos = {prefix + name: info for name, info in tensors.infos.items()}
    return Tensors(infos, lambda name: tensors.read(name.removeprefix(prefix)), tensors.metadata, tensors.maps)


def join(*parts: Tensors) -> Tensors:
    """All tensors of all parts; of their metadata, what they agree on."""
    owners: dict[str, Tensors] = {}
    for part in parts:
        if twice := owners.keys() & part.infos.keys():
            raise ValueError(f"{min(twice)!r} is in two of the parts that are to be joined; rename or leave out one")
        owners |= dict.fromkeys(part.infos, part)
    infos = {name: owner.infos[name] for name, owner in owners.items()}
    items = [item for part in parts[:1] for item in part.metadata.items()]
    agreed = dict(item for item in items if all(item in part.metadata.items() for part in parts))
    maps = tuple(data for part in parts for data in part.maps)
    return Tensors(infos, lambda name: owners[name].read(name), agreed, maps)


def let_go(tensors: Tensors, tensor: Tensor) -> None:
    """Hand back the memory of a tensor that was read and copied; else it stays as long as its file is open.

    Only for what nobody looks at any more, and nobody wrote to: it comes back from the file when it is read again.
    """
    storage = tensor.untyped_storage()
    for data in tensors.maps:
        start = storage.data_ptr() - torch.frombuffer(data, dtype=torch.uint8).data_ptr()
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (start + storage.nbytes()) // mmap.PAGESIZE * mmap.PAGESIZE - first
        if 0 <= start < len(data) and length > 0 and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            data.madvise(mmap.MADV_DONTNEED, first, length)


def write(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> None:
    """Write one safetensors file as its library would, with one tensor in memory at a time.

    The file appears when it is whole; after an error, whatever stood at `path` stands there still.

    Args:
        metadata: instead of the metadata of `tensors`.
    """
    with blaming(path):
        names, header = _header(tensors.infos, tensors.metadata if metadata is None else metadata)
    with atomic_write(path) as file:
        file.write(header)
        for name in names:
            file.write(_bytes(tensors.read(name), tensors.infos[name]))


def sha256(path: Path) -> str:
    """The SHA-256 of a whole file, in hexadecimal."""
    with blaming(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Reading a file


class _Slot(NamedTuple):
    """A tensor's place in the data: its first byte and the one after its last."""

    begin: int
    end: int
    info: TensorInfo


@contextmanager
def blaming(path: Path) -> Generator[None]:
    """Turn what goes wrong inside into a `ValueError` that names the file."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{path}: {reason}") from error


def map_file(path: Path) -> mmap.mmap:
    """The bytes of a file, which are read when they are touched."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a file")  # to open a pipe would be to wait for ever
    if not path.stat().st_size:
        raise ValueError("it is empty")
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _end_of_header(data: mmap.mmap) -> int:
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER:
        reasons = [reason for magic, reason in _LOOKALIKES.items() if data[:8].startswith(magic)]
        raise ValueError(*reasons or [f"it is no safetensors file, whose header has at most {MAX_HEADER} bytes"])
    if 8 + length > len(data):
        raise ValueError(f"it is cut off: its header has {length} bytes, the whole file {len(data)}")
    return 8 + length


def _parse(header: bytes, num_bytes: int) -> tuple[dict[str, str], dict[str, _Slot]]:
    """The metadata, and where each tensor lies in the `num_bytes` that follow."""
    entries = parse_json(header)
    metadata = entries.pop("__metadata__", {})
    if not is_text_map(metadata):
        raise ValueError("its __metadata__ does not map text to text")
    slots = {name: _parse_slot(name, entry) for name, entry in entries.items()}
    position = 0
    for name, slot in sorted(slots.items(), key=lambda item: item[1][:2]):
        if slot.begin != position:
            raise ValueError(f"{name!r} begins at byte {slot.begin}, but the tensor before it ends at byte {position}")
        position = slot.end
    if position != num_bytes:
        raise ValueError(f"its tensors have {position} bytes, but {num_bytes} are there")
    return metadata, slots


def parse_json(raw: bytes) -> dict[str, Json]:
    if len(raw) > MAX_HEADER:
        raise ValueError(f"it has more than {MAX_HEADER} bytes of JSON")
    if not raw.startswith(b"{"):
        raise ValueError("it has something else where a JSON object must be")
    try:
        return json.loads(raw.decode(), object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its JSON is broken: {error}") from error


def _without_twins(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """A JSON object.  Two readers of a key that stands twice could each believe another value."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a key stands twice")
    return members


def _parse_slot(name: str, entry: Json) -> _Slot:
    check_name(name)
    members = entry if isinstance(entry, dict) and entry.keys() == _MEMBERS else {}
    dtype, shape, offsets = members.get("dtype"), members.get("shape"), members.get("data_offsets")
    if not isinstance(dtype, str) or not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise ValueError(f"{name!r} has something else than dtype, shape and data_offsets of two numbers")
    numbers = shape + offsets
    if dtype not in DTYPES:
        raise ValueError(f"{name!r} is {dtype[:20]!r}; known are {', '.join(DTYPES)}")
    if len(numbers) > MAX_AXES + 2 or not are_counts(numbers):
        raise ValueError(f"{name!r} has a size or offset that is not a count, or more than {MAX_AXES} axes")
    *sizes, begin, end = numbers
    info = _info(DTYPES[dtype], tuple(sizes))
    # An empty tensor has strides all the same, and these must not overflow.
    if info.num_bytes != end - begin or math.prod(filter(None, sizes)) > _MAX_COUNT:
        raise ValueError(f"{name!r}, of dtype {dtype} and shape {sizes}, cannot lie in bytes {begin} to {end}")
    return _Slot(begin, end, info)


@lru_cache(maxsize=4096)
def _info(dtype: torch.dtype, shape: tuple[int, ...]) -> TensorInfo:
    """One for all tensors that are alike: files are opened by the hundred, and have few shapes."""
    return TensorInfo(dtype, shape)


def check_name(name: str) -> None:
    if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        raise ValueError(f"{name[:40]!r} is no tensor's name, which is 1 to {_MAX_NAME} printable characters")


def are_counts(numbers: list[Json]) -> TypeGuard[list[int]]:
    return {*map(type, numbers)} <= {int} and _are_in_range(believed(list[int], numbers))  # true is no count


def _are_in_range(numbers: list[int]) -> bool:
    return not numbers or (min(numbers) >= 0 and max(numbers) <= _MAX_COUNT)


def is_text_map(value: Json) -> TypeGuard[dict[str, str]]:
    return isinstance(value, dict) and all(
        isinstance(text, str) and not _SURROGATE.search(text) for item in value.items() for text in item
    )


def _read(data: mmap.mmap, begin: int, info: TensorInfo) -> Tensor:
    if info.num_elements == 0:
        return torch.empty(info.shape, dtype=info.dtype)
    return map_elements(data, begin, info.num_elements, info.dtype).reshape(info.shape)


def map_elements(data: mmap.mmap, begin: int, count: int, dtype: torch.dtype) -> Tensor:
    """The `count` numbers, at least one, that begin at a byte of a mapped file."""
    flat = torch.frombuffer(data, dtype=torch.uint8, count=count * dtype.itemsize, offset=begin)
    if begin % dtype.itemsize:
        flat = flat.clone()  # the first writers did not pad the header; what they wrote is copied into alignment
    return flat.view(dtype)


# Writing a file


def _header(infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> tuple[list[str], bytes]:
    """The names in the order of their bytes, and all that stands before those bytes."""
    for name, info in infos.items():
        if info.dtype not in _DTYPE_NAMES:
            raise ValueError(f"{name!r} is {info.dtype}, which no safetensors file can hold; cast it")
    names = sorted(infos, key=lambda name: (_DTYPE_RANKS[infos[name].dtype], name))
    ends = list(accumulate((infos[name].num_bytes for name in names), initial=0))
    entries = {name: _entry(infos[name], end) for name, end in zip(names, ends[1:], strict=True)}
    header = {"__metadata__": dict(metadata), **entries} if metadata else entries
    raw = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    _parse(raw, num_bytes=ends[-1])  # what we write we must be able to open
    return names, len(raw).to_bytes(8, "little") + raw


def _entry(info: TensorInfo, end: int) -> dict[str, str | list[int]]:
    offsets = [end - info.num_bytes, end]
    return {"dtype": _DTYPE_NAMES[info.dtype], "shape": list(info.shape), "data_offsets": offsets}


def _bytes(tensor: Tensor, info: TensorInfo) -> memoryview:
    assert (tensor.dtype, tensor.shape) == (info.dtype, info.shape), f"{info} was promised"
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
