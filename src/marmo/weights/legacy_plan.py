"""The child that reads a stranger's pickle: a file on its standard input, a plan in JSON on its standard output.

The plan says under which name which bytes of the file are a tensor; the parent checks it and maps the file itself.  No
number of a tensor passes through here, so that the child needs neither torch nor memory for the weights.

Before it reads anything it gives up what it does not need: memory beyond twice the file, time, new files, processes.
An audit hook ends it if anything is imported, opened or run after all.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

from marmo.weights.pickle_values import ITEM_BYTES, Global, Key, Leftover, Module, OddKey, TensorReference, Value
from marmo.weights.torch_containers import Container, File, Span, open_container

BASE_MEMORY = 1 << 27
"""Bytes of addresses that the interpreter itself may use; beside them, twice the file."""
MAX_MEMORY = 1 << 31
MAX_SECONDS = 60

_WRAPPERS = ("state_dict", "model_state_dict", "params_ema", "params", "model", "module")
"""Under which training programs keep the weights, beside what else they save; the first that holds tensors is taken."""
_MAX_VISITS = 1_000_000
_MAX_DEPTH = 32
_MAX_TEXTS = 1000
_MAX_TEXT = 1000  # characters


class Plan(NamedTuple):
    """What becomes of a file."""

    tensors: dict[str, list[str | int | list[int]]]
    """Name -> dtype, shape, strides and offset in elements, first byte of its storage and the one after its last."""
    metadata: dict[str, str]
    """Numbers and short texts beside the tensors, such as `global_step`."""
    left_out: list[str]
    """The names of all else."""


def main() -> None:
    """Read standard input, write standard output; a file that is refused gives `{"error": sentence}`."""
    size = os.fstat(0).st_size
    _confine(size)
    try:
        answer = json.dumps(make_plan(open_container(File(sys.stdin.buffer, size)))._asdict())
    except ValueError as error:
        answer = json.dumps({"error": str(error)})
    except MemoryError:
        answer = json.dumps({"error": "its pickle asks for far more memory than weights need"})
    sys.stdout.write(answer)
    sys.stdout.flush()


def _confine(size: int) -> None:
    """Give up all that reading does not need.  Windows has no such limits; there the hook alone stands guard."""
    try:
        import resource
    except ImportError:
        pass
    else:
        memory = min(BASE_MEMORY + 2 * size, MAX_MEMORY)
        limits = {"AS": memory, "CPU": MAX_SECONDS, "FSIZE": 0, "CORE": 0, "NPROC": 0, "NOFILE": 0}
        for name, limit in limits.items():
            kind: int | None = getattr(resource, f"RLIMIT_{name}", None)
            if kind is not None:
                with suppress(
                    ValueError, OSError
                ):  # there is a stricter one already, or the system has it by name only
                    resource.setrlimit(kind, (limit, limit))
    sys.addaudithook(_forbid)


def _forbid(event: str, _: object) -> None:
    if not event.startswith("cpython."):  # the interpreter's end
        raise RuntimeError(f"{event} is not needed to read a file")


def make_plan(container: Container) -> Plan:
    """What to take of a file."""
    weights, siblings = _unwrap(container.value)
    plan = Plan({}, {}, [])
    for name, value in _leaves(weights):
        if isinstance(value, TensorReference):
            _add(plan, name or "tensor", value, container.spans)
        elif isinstance(value, Leftover):
            raise ValueError(f"among its weights stands {value.name!r}, which is no tensor")
        else:
            _note(plan, name, value)
    for name, value in siblings:
        _note(plan, name, value)
    if not plan.tensors:
        raise ValueError("it holds no tensors")
    plan.left_out.extend(container.leftovers)
    return plan


def _unwrap(value: Value) -> tuple[Value, list[tuple[str, Value]]]:
    """The weights, and what a training program saved beside them."""
    if isinstance(value, dict):
        for wrapper in _WRAPPERS:
            held = value.get(wrapper)
            if isinstance(held, dict) and any(isinstance(leaf, TensorReference) for _, leaf in _leaves(held)):
                return held, [(_word(key), part) for key, part in value.items() if key != wrapper]
    return value, []


def _leaves(root: Value) -> Iterator[tuple[str, Value]]:
    """Every value that holds no others, in the file's order, with the keys that lead to it joined by dots.

    What is stored once and referred to often is visited often, as if it were a tree; the number of visits is bounded.
    """
    levels = [iter([("", root)])]
    visits = 0
    while levels:
        found = next(levels[-1], None)
        if found is None:
            levels.pop()
            continue
        visits += 1
        if visits > _MAX_VISITS or len(levels) > _MAX_DEPTH or len(found[0]) > _MAX_TEXT:
            raise ValueError("its values are nested more than weights ever are, or the names are too long")
        items = _items(found[1])
        if items is None:
            yield found
        else:
            levels.append(_named(found[0], items))


def _items(value: Value) -> Iterable[tuple[Key, Value]] | None:
    match value:
        case dict():
            return value.items()
        case list() | tuple():
            return enumerate(value)
        case Module(state={"_parameters": dict() as parameters}):
            return parameters.items()
        case _:
            return None


def _named(name: str, items: Iterable[tuple[Key, Value]]) -> Iterator[tuple[str, Value]]:
    return ((f"{name}.{_word(key)}" if name else _word(key), value) for key, value in items)


def _word(key: Key) -> str:
    match key:
        case str():
            return key
        case Global(name=name) | Leftover(name=name):
            return name
        case bytes():
            return ascii(key[:_MAX_TEXT])
        case OddKey(kind=kind):
            return f"<{kind}>"
        case _:
            return str(key)


def _add(plan: Plan, name: str, tensor: TensorReference, spans: Mapping[str, Span]) -> None:
    storage, span = tensor.storage, spans[tensor.storage.key]
    if name in plan.tensors:
        raise ValueError(f"two of its tensors would be called {name[:80]!r}")
    begin = span.begin + storage.start * ITEM_BYTES[storage.dtype]
    end = begin + storage.count * ITEM_BYTES[storage.dtype]
    plan.tensors[name] = [tensor.dtype, list(tensor.shape), list(tensor.stride), tensor.offset, begin, end]


def _note(plan: Plan, name: str, value: Value) -> None:
    """Keep a number or a short text as metadata; of all else, unless it is nothing, the name."""
    if value is None or (isinstance(value, list | tuple | dict) and not value):
        return
    text = str(value) if isinstance(value, bool | int | float | str) else None
    if text is None or len(text) > _MAX_TEXT or len(plan.metadata) == _MAX_TEXTS or name in plan.metadata:
        plan.left_out.append(name)
    else:
        plan.metadata[name] = text
