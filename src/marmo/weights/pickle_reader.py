"""An inert reader of pickles: a small stack machine for the opcodes that torch writes, which builds plain values.

A pickle is a program; the comments of CPython's `Lib/pickletools.py` explain every opcode.  This machine knows those of
protocols 2 to 4 that lay out data, and of those that call something only `REDUCE`, `NEWOBJ` and `BUILD`, on the names
of `pickle_values`.  It imports nothing, calls nothing that a file names, and does not recurse.  What is wrong with a
pickle is a `ValueError` of one sentence.

Memory is linear in the pickle's length: no opcode makes more than it brings, and what is referred to twice is there
once.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from marmo.weights.pickle_values import (
    CALLS,
    OBJECTS,
    Global,
    Leftover,
    Module,
    NumpyType,
    Storage,
    Value,
    find_global,
    make_storage,
    put,
)

MAX_OPCODES = 4_000_000
"""Full checkpoints with the state of their optimizer have some hundred thousand."""
_MAX_NAME = 200  # characters of a global's module or name
_MAX_PROTOCOL = 4  # 5 brings buffers from outside the pickle

_STOP = ord(".")


class Pickle(NamedTuple):
    """What a pickle says."""

    value: Value
    end: int
    """The byte after it."""
    storages: Mapping[str, Storage]
    """What it refers to outside itself, by key."""
    leftovers: list[str]
    """The names of what training left in it."""


def read_pickle(data: bytes, start: int = 0) -> Pickle:
    """The pickle that begins at `start`.

    Raises `ValueError`, in one sentence, for all that is damaged, unknown or more than a checkpoint needs.
    """
    machine = _Machine(data, start)
    if machine.take(1) != b"\x80":
        raise ValueError("it has something else where a pickle must begin")
    _proto(machine)
    for _ in range(MAX_OPCODES):
        code = machine.take(1)[0]
        if code == _STOP:
            return Pickle(machine.result(), machine.position, machine.storages, list(machine.leftovers))
        act = _OPCODES.get(code)
        if act is None:
            raise ValueError(f"its pickle has the opcode {code:#04x}, which weights do not need; nothing of it was run")
        act(machine)
    raise ValueError(f"its pickle has more than {MAX_OPCODES} opcodes")


@dataclass
class _Machine:
    """What is read, the stack and its marks, the values that later opcodes may fetch again, and what was found."""

    data: bytes
    position: int
    stack: list[Value] = field(default_factory=list["Value"])
    marks: list[int] = field(default_factory=list[int])
    memo: dict[int, Value] = field(default_factory=dict[int, "Value"])
    storages: dict[str, Storage] = field(default_factory=dict[str, Storage])
    leftovers: dict[str, Leftover] = field(default_factory=dict[str, Leftover])

    def take(self, count: int) -> bytes:
        """The next bytes of the pickle."""
        end = self.position + count
        if end > len(self.data):
            raise ValueError("its pickle is cut off")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def number(self, form: str) -> int:
        """The next number, in a format of `struct`."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + _MAX_NAME + 1)
        if end < 0:
            raise ValueError(f"its pickle has a name without end, or of more than {_MAX_NAME} characters")
        return _text(self.take(end + 1 - self.position)[:-1])

    def push(self, value: Value) -> None:
        self.stack.append(value)

    def pop(self) -> Value:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("its pickle takes more from the stack than is there")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Value]:
        if not self.marks:
            raise ValueError("its pickle looks for a mark that was not set")
        height = self.marks.pop()
        items = self.stack[height:]
        del self.stack[height:]
        return items

    def top(self) -> Value:
        value = self.pop()
        self.push(value)
        return value

    def result(self) -> Value:
        value = self.pop()
        if self.stack or self.marks:
            raise ValueError("its pickle ends with values left over")
        return value


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("its pickle has text that is no UTF-8") from None


def _ascii(raw: bytes) -> str:
    """A string of Python 2."""
    if not raw.isascii():
        raise ValueError("its pickle has a string that is no ASCII")
    return _text(raw)


# What the opcodes do


def _proto(machine: _Machine) -> None:
    protocol = machine.number("<B")
    if not 2 <= protocol <= _MAX_PROTOCOL:
        raise ValueError(f"its pickle has protocol {protocol}; torch writes 2, and up to {_MAX_PROTOCOL} are read")


def _frame(machine: _Machine) -> None:
    if machine.number("<Q") > len(machine.data) - machine.position:
        raise ValueError("its pickle is cut off")


def _mark(machine: _Machine) -> None:
    machine.marks.append(len(machine.stack))


def _constant(value: Value) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(value)


def _number(form: str) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(machine.number(form))


def _long(machine: _Machine) -> None:
    machine.push(int.from_bytes(machine.take(machine.number("<B")), "little", signed=True))


def _string(form: str, decode: Callable[[bytes], Value]) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(decode(machine.take(machine.number(form))))


def _tuple(count: int) -> Callable[[_Machine], None]:
    def act(machine: _Machine) -> None:
        items = [machine.pop() for _ in range(count)]
        machine.push(tuple(reversed(items)))

    return act


def _append(machine: _Machine) -> None:
    _extend(machine, [machine.pop()])


def _appends(machine: _Machine) -> None:
    _extend(machine, machine.pop_to_mark())


def _extend(machine: _Machine, items: list[Value]) -> None:
    match machine.top():
        case list() as target:
            target.extend(items)
        case Leftover():
            pass
        case _:
            raise ValueError("its pickle appends to what is no list")


def _set_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    _update(machine, [key, value])


def _set_items(machine: _Machine) -> None:
    _update(machine, machine.pop_to_mark())


def _update(machine: _Machine, items: list[Value]) -> None:
    target = machine.top()
    if len(items) % 2 or not isinstance(target, dict | Leftover):
        raise ValueError("its pickle sets items of what is no dictionary, or a key without a value")
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            put(target, key, value)


def _get(form: str) -> Callable[[_Machine], None]:
    def act(machine: _Machine) -> None:
        index = machine.number(form)
        if index not in machine.memo:
            raise ValueError("its pickle refers to a value that was not stored")
        machine.push(machine.memo[index])

    return act


def _put(form: str) -> Callable[[_Machine], None]:
    def act(machine: _Machine) -> None:
        machine.memo[machine.number(form)] = machine.top()

    return act


def _memoize(machine: _Machine) -> None:
    machine.memo[len(machine.memo)] = machine.top()


def _global(machine: _Machine) -> None:
    module = machine.line()
    _find(machine, module, machine.line())


def _find(machine: _Machine, module: str, name: str) -> None:
    found = find_global(module, name)
    if isinstance(found, Leftover):
        found = machine.leftovers.setdefault(found.name, found)
    machine.push(found)


def _stack_global(machine: _Machine) -> None:
    match machine.pop(), machine.pop():
        case str(name), str(module) if len(name) <= _MAX_NAME and len(module) <= _MAX_NAME:
            _find(machine, module, name)
        case _:
            raise ValueError(f"its pickle asks for a global that is not named by two texts of at most {_MAX_NAME}")


def _reduce(machine: _Machine) -> None:
    match machine.pop(), machine.pop():
        case tuple(arguments), Global(name=name) if name in CALLS:
            machine.push(CALLS[name](arguments))
        case tuple(), Leftover() as placeholder:
            machine.push(placeholder)
        case _:
            raise ValueError("its pickle calls what cannot be called; nothing of it was run")


def _new_object(machine: _Machine) -> None:
    match machine.pop(), machine.pop():
        case (), Global(name=name) if name in OBJECTS:
            machine.push(OBJECTS[name](name))
        case tuple(), Leftover() as placeholder:
            machine.push(placeholder)
        case _:
            raise ValueError("its pickle makes an object of an unknown class; nothing of it was run")


def _build(machine: _Machine) -> None:
    state = machine.pop()
    match machine.top(), state:
        case Leftover() | dict(), _:
            pass  # of an OrderedDict: `_metadata`, the versions of the modules
        case Module() as module, dict():
            module.state = state
        case NumpyType(), (int(), "<" | "|", *_):
            pass
        case _:
            raise ValueError("its pickle gives attributes to what has none; nothing of it was run")


def _persistent(machine: _Machine) -> None:
    value = make_storage(machine.pop())
    if isinstance(value, Storage):
        first = machine.storages.setdefault(value.key, value)
        if (first.dtype, first.whole) != (value.dtype, value.whole):
            raise ValueError(f"its storage {value.key[:40]!r} has two dtypes or sizes")
    machine.push(value)


_OPCODES: Mapping[int, Callable[[_Machine], None]] = {
    0x80: _proto,
    0x95: _frame,
    ord("("): _mark,
    ord("N"): _constant(None),
    0x88: _constant(True),
    0x89: _constant(False),
    ord("K"): _number("<B"),
    ord("M"): _number("<H"),
    ord("J"): _number("<i"),
    ord("G"): _number(">d"),
    0x8A: _long,
    ord("X"): _string("<I", _text),
    0x8C: _string("<B", _text),
    ord("U"): _string("<B", _ascii),
    ord("T"): _string("<I", _ascii),
    ord("C"): _string("<B", bytes),
    ord("B"): _string("<I", bytes),
    ord(")"): _constant(()),
    0x85: _tuple(1),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("t"): lambda machine: machine.push(tuple(machine.pop_to_mark())),
    ord("]"): lambda machine: machine.push([]),
    0x8F: lambda machine: machine.push([]),
    ord("a"): _append,
    ord("e"): _appends,
    0x90: _appends,
    0x91: lambda machine: machine.push(machine.pop_to_mark()),
    ord("}"): lambda machine: machine.push({}),
    ord("s"): _set_item,
    ord("u"): _set_items,
    ord("h"): _get("<B"),
    ord("j"): _get("<I"),
    ord("q"): _put("<B"),
    ord("r"): _put("<I"),
    0x94: _memoize,
    ord("c"): _global,
    0x93: _stack_global,
    ord("R"): _reduce,
    0x81: _new_object,
    ord("b"): _build,
    ord("Q"): _persistent,
}
"""Sets are lists here: EMPTY_SET 0x8f, ADDITEMS 0x90, FROZENSET 0x91."""
