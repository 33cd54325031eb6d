"""The two containers of `torch.save`: which bytes are the pickle, and where the numbers of each storage lie.

- Since torch 1.6 a zip: `<name>/data.pkl`, and for every storage `<name>/data/<key>`, uncompressed.  Its directory is
  read here, strictly: every byte has one meaning, nothing is unpacked, and names never become paths.  The format is
  PKWARE's APPNOTE.TXT; the numbers of its sections stand beside the code.
- Before that a stream: three small pickles (a magic number, a version, sizes of C's types), the pickle, one with the
  storages' keys, and then for every key a 64-bit count and the numbers (`_legacy_save` in torch/serialization.py).

Both are read from an open file; what is read at once is bounded.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from marmo.weights.pickle_reader import Pickle, read_pickle
from marmo.weights.pickle_values import Storage, Value

MAX_PICKLE = 1 << 26  # bytes; full checkpoints with the state of their optimizer have a few million
MAX_DIRECTORY = 1 << 26
MAX_ENTRIES = 1 << 18
_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001

_END = struct.Struct("<4s4H2LH")  # 4.3.16
_END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_LOCATOR64 = struct.Struct("<4sLQL")  # 4.3.15
_ENTRY = struct.Struct("<4s6H3L5H2L")  # 4.3.12
_LOCAL = struct.Struct("<4s5H3L2H")  # 4.3.7
_MASK16, _MASK32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED = 0x2041  # bits 0, 6 and 13 of the flags

_PARTS = re.compile(
    r"data\.pkl | byteorder | version | \.format_version | \.storage_alignment | \.data/serialization_id | data/\w+",
    re.VERBOSE | re.ASCII,
)


class Span(NamedTuple):
    """A place in the file: its first byte and the one after its last."""

    begin: int
    end: int


@dataclass(frozen=True)
class Container:
    """A file that `torch.save` wrote."""

    value: Value
    spans: Mapping[str, Span]
    """Storage key -> its numbers, little-endian."""
    leftovers: list[str]
    """The names of what training left in the pickle."""


@dataclass(frozen=True)
class File:
    """An open file.  Only what is asked for is read."""

    stream: BinaryIO
    size: int

    def read(self, begin: int, count: int) -> bytes:
        if not 0 <= begin <= begin + count <= self.size:
            raise ValueError("it is cut off")
        self.stream.seek(begin)
        data = self.stream.read(count)
        if len(data) != count:
            raise ValueError("it is cut off")
        return data


def open_container(file: File) -> Container:
    """Read the pickle and find the storages; `ValueError`, in one sentence, for all that is wrong."""
    head = file.read(0, min(262, file.size))
    if head.startswith(b"PK"):
        return _open_zip(file)
    if head.startswith(b"\x80"):
        return _open_stream(file)
    if head[257:262] == b"ustar":
        raise ValueError("it is a tar as torch wrote before 2017; let a torch of before 2.6 load it and save it again")
    raise ValueError("it is no file that torch.save wrote")


# The zip


class _Directory(NamedTuple):
    """Where a zip's list of entries lies."""

    num_entries: int
    begin: int
    end: int


class _Entry(NamedTuple):
    name: str
    header: int
    size: int


def _open_zip(file: File) -> Container:
    directory = _end_record(file)
    spans = _spans(file, _entries(file, directory), directory.begin)
    tops = {name.partition("/")[0] for name in spans}
    if len(tops) != 1:
        raise ValueError("it is a zip, but not one that torch.save wrote: its entries lie in several folders")
    (top,) = tops
    parts = {name.removeprefix(f"{top}/"): span for name, span in spans.items()}
    if "code" in {part.partition("/")[0] for part in parts} or "constants.pkl" in parts:
        raise ValueError("it is a program in TorchScript and no checkpoint; ask its author for the weights alone")
    if strange := [part for part in parts if not _PARTS.fullmatch(part)]:
        raise ValueError(f"it is a zip with an entry that torch.save does not write: {strange[0][:80]!r}")
    if "data.pkl" not in parts:
        raise ValueError("it is a zip, but not one that torch.save wrote: no data.pkl is in it")
    if "byteorder" in parts and _content(file, parts["byteorder"], 16) != b"little":
        raise ValueError("its numbers are big-endian; let torch load it and save it again on a usual machine")
    pickle = read_pickle(data := _content(file, parts["data.pkl"], MAX_PICKLE))
    if pickle.end != len(data):
        raise ValueError("something follows its pickle")
    places = {key: parts.get(f"data/{key}") for key in pickle.storages}
    spans = {key: _checked(pickle.storages[key], place) for key, place in places.items()}
    return Container(pickle.value, spans, pickle.leftovers)


def _checked(storage: Storage, span: Span | None) -> Span:
    if span is None or span.end - span.begin != storage.num_bytes:
        raise ValueError(f"its storage {storage.key[:40]!r} is not there with its {storage.num_bytes} bytes")
    return span


def _content(file: File, span: Span, most: int) -> bytes:
    count = span.end - span.begin
    if count > most:
        raise ValueError(f"its pickle or a part beside it has {count} bytes, and {most} are the most")
    return file.read(span.begin, count)


def _entries(file: File, place: _Directory) -> list[_Entry]:
    count, begin, end = place
    if end - begin > MAX_DIRECTORY or count > MAX_ENTRIES:
        raise ValueError(f"its zip directory has {count} entries, and {MAX_ENTRIES} are the most")
    raw = file.read(begin, end - begin)
    entries: list[_Entry] = []
    position = 0
    while position < len(raw):
        entry, position = _entry(raw, position)
        entries.append(entry)
    names = [entry.name for entry in entries]
    if len(names) != count or len(set(names)) != count:
        raise ValueError("its zip directory names an entry twice, or another number of entries than it says")
    return entries


def _end_record(file: File) -> _Directory:
    """The record that ends the file (4.3.16)."""
    last = file.size - _END.size
    signature, disk, first, here, count, size, begin, comment = _END.unpack(file.read(last, _END.size))
    if signature != b"PK\5\6" or comment or disk or first or here != count:
        raise ValueError("its zip is cut off, or something follows it")
    locator = last - _LOCATOR64.size
    if locator >= 0 and file.read(locator, 4) == b"PK\6\7":
        found = _end_record64(file, locator)
        told = (count, size, begin), (found.num_entries, found.end - found.begin, found.begin)
        if any(short not in (long, mask) for short, long, mask in zip(*told, (_MASK16, _MASK32, _MASK32), strict=True)):
            raise ValueError("its zip has two directories")
        return found
    if begin + size != last:
        raise ValueError("its zip directory is not where the end of the zip says")
    return _Directory(count, begin, last)


def _end_record64(file: File, locator: int) -> _Directory:
    """The same in 64 bits, which torch always writes in front of it (4.3.14, 4.3.15)."""
    _, disk, place, disks = _LOCATOR64.unpack(file.read(locator, _LOCATOR64.size))
    if disk or disks != 1 or place != locator - _END64.size:
        raise ValueError("its zip's second end record is not in front of the first")
    signature, length, _, _, disk, first, here, count, size, begin = _END64.unpack(file.read(place, _END64.size))
    if signature != b"PK\6\6" or length != _END64.size - 12 or disk or first or here != count:
        raise ValueError("its zip's second end record is damaged")
    if begin + size != place:
        raise ValueError("its zip directory is not where the end of the zip says")
    return _Directory(count, begin, place)


def _entry(raw: bytes, position: int) -> tuple[_Entry, int]:
    """One entry of the directory, and where the next begins (4.3.12)."""
    if position + _ENTRY.size > len(raw):
        raise ValueError("its zip directory is cut off")
    fields = _ENTRY.unpack_from(raw, position)
    signature, _, _, flags, method, _, _, _, packed, size, name_size, extra_size, comment, disk, _, _, header = fields
    begin = position + _ENTRY.size
    end = begin + name_size + extra_size
    if signature != b"PK\1\2" or comment or disk or end > len(raw):
        raise ValueError("its zip directory is damaged")
    name = _name(raw[begin : begin + name_size])
    if method or flags & _ENCRYPTED:
        raise ValueError(f"its zip entry {name[:80]!r} is compressed or encrypted; torch.save does neither")
    size, packed, header = _sizes(raw[begin + name_size : end], size, packed, header)
    if size != packed:
        raise ValueError(f"its zip entry {name[:80]!r} has two sizes")
    return _Entry(name, header, size), end


def _name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("its zip has a name that is no UTF-8") from None
    folders = name.split("/")
    if len(folders) < 2 or "\\" in name or not name.isprintable() or not {"", ".", ".."}.isdisjoint(folders):
        raise ValueError(f"its zip has an entry that torch.save does not write: {name[:80]!r}")
    return name


def _sizes(extra: bytes, size: int, packed: int, header: int) -> tuple[int, int, int]:
    """The sizes and the place of an entry; those that 32 bits cannot hold stand in its extra field (4.5.3)."""
    numbers = [size, packed, header]
    wide = [index for index, number in enumerate(numbers) if number == _MASK32]
    field = _extra64(extra)
    if len(field) != 8 * len(wide):
        raise ValueError("its zip has an entry whose 64-bit sizes are missing or too many")
    for index, number in zip(wide, struct.unpack(f"<{len(wide)}Q", field), strict=True):
        numbers[index] = number
    size, packed, header = numbers
    return size, packed, header


def _extra64(extra: bytes) -> bytes:
    """The field of an entry with its 64-bit sizes, of which there is at most one."""
    found: list[bytes] = []
    while extra:
        if len(extra) < 4 or len(extra) < 4 + int.from_bytes(extra[2:4], "little"):
            raise ValueError("its zip has an entry with a broken extra field")
        end = 4 + int.from_bytes(extra[2:4], "little")
        if extra[:2] == b"\1\0":
            found.append(extra[4:end])
        extra = extra[end:]
    if len(found) > 1:
        raise ValueError("its zip has an entry with two 64-bit sizes")
    return found[0] if found else b""


def _spans(file: File, entries: list[_Entry], limit: int) -> dict[str, Span]:
    """Where the entries' data lie.  Each begins behind a header of its own, and none reaches into the next."""
    spans: dict[str, Span] = {}
    reached = 0
    for entry in sorted(entries, key=lambda entry: entry.header):
        if entry.header < reached:
            raise ValueError(f"its zip entry {entry.name[:80]!r} overlaps another")
        begin = _data_begin(file, entry)
        reached = begin + entry.size
        if reached > limit:
            raise ValueError(f"its zip entry {entry.name[:80]!r} leads out of the file")
        spans[entry.name] = Span(begin, reached)
    return spans


def _data_begin(file: File, entry: _Entry) -> int:
    """Behind the entry's own header, which repeats what the directory says (4.3.7)."""
    fields = _LOCAL.unpack(file.read(entry.header, _LOCAL.size))
    signature, _, flags, method, _, _, _, _, _, name_size, extra_size = fields
    begin = entry.header + _LOCAL.size
    if signature != b"PK\3\4" or method or flags & _ENCRYPTED or name_size > MAX_DIRECTORY:
        raise ValueError(f"its zip entry {entry.name[:80]!r} is damaged")
    if file.read(begin, name_size) != entry.name.encode():
        raise ValueError(f"its zip entry {entry.name[:80]!r} has two names")
    return begin + name_size + extra_size


# The stream


def _open_stream(file: File) -> Container:
    data = file.read(0, min(file.size, MAX_PICKLE))
    magic = read_pickle(data)
    if magic.value != _MAGIC:
        raise ValueError("it is a pickle, but not one that torch.save wrote")
    version = read_pickle(data, magic.end)
    system = read_pickle(data, version.end)
    if version.value != _VERSION or not isinstance(system.value, dict):
        raise ValueError("torch.save wrote it in an unknown version")
    if system.value.get("little_endian") is not True:
        raise ValueError("its numbers are big-endian; let torch load it and save it again on a usual machine")
    pickle = read_pickle(data, system.end)
    keys = read_pickle(data, pickle.end)
    return Container(pickle.value, _stream_spans(file, keys, pickle.storages), pickle.leftovers)


def _stream_spans(file: File, keys: Pickle, storages: Mapping[str, Storage]) -> dict[str, Span]:
    """Where the storages lie: end to end, each behind its number of elements, up to the end of the file."""
    if not isinstance(keys.value, list):
        raise ValueError("its storages are not listed")
    spans: dict[str, Span] = {}
    position = keys.end
    for key in keys.value:
        if not isinstance(key, str) or key in spans or key not in storages:
            raise ValueError("its list of storages names one twice, or one that its pickle does not")
        begin = position + 8
        position = begin + storages[key].num_bytes
        if int.from_bytes(file.read(begin - 8, 8), "little") != storages[key].whole or position > file.size:
            raise ValueError(f"its storage {key[:40]!r} is not there with its {storages[key].num_bytes} bytes")
        spans[key] = Span(begin, position)
    if position != file.size or spans.keys() != storages.keys():
        raise ValueError("its storages do not fill the file, or some are missing")
    return spans
