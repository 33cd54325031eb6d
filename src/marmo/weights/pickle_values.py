"""What may stand in a legacy checkpoint's pickle: plain values, tensors by reference, and a table of allowed globals.

A pickle names Python functions and classes and has them called.  Here a name is looked up in a table and nowhere else:
nothing is imported, and what the table holds builds the values of this file and no other.  A name that the table lacks
refuses the file, but for Lightning's classes, which the first Stable Diffusion files mention beside their weights:
they become a `Leftover`, a placeholder that does nothing.

The forms of torch's calls: `torch/_utils.py`, `torch/serialization.py` and `torch/_tensor.py` in pytorch/pytorch.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

MAX_AXES = 64
MAX_COUNT = (1 << 63) - 1

ITEM_BYTES: Mapping[str, int] = {
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "F32": 4,
    "U32": 4,
    "I32": 4,
    "BF16": 2,
    "F16": 2,
    "U16": 2,
    "I16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""The dtypes under safetensors' names."""

_DTYPES = {
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "float32": "F32",
    "uint32": "U32",
    "int32": "I32",
    "bfloat16": "BF16",
    "float16": "F16",
    "uint16": "U16",
    "int16": "I16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_STORAGES = {
    "Long": "I64",
    "Double": "F64",
    "Float": "F32",
    "Int": "I32",
    "BFloat16": "BF16",
    "Half": "F16",
    "Short": "I16",
    "Char": "I8",
    "Byte": "U8",
    "Bool": "BOOL",
}
_NUMPY = {
    "f8": "d",
    "f4": "f",
    "f2": "e",
    "i8": "q",
    "i4": "i",
    "i2": "h",
    "i1": "b",
    "u8": "Q",
    "u4": "I",
    "u2": "H",
    "u1": "B",
    "b1": "?",
}
"""numpy's scalars -> the formats of `struct`."""


# Every class compares by identity: to compare what a stranger nested may take for ever.
@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """Numbers in the file, by the key under which the container has them; untyped ones are U8."""

    key: str
    dtype: str
    whole: int
    """Elements that the container has under this key."""
    start: int
    count: int
    """The part of them that this is: all, but for the first stream format, whose storages may be parts of others."""

    @property
    def num_bytes(self) -> int:
        """Of the whole."""
        return self.whole * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, eq=False, slots=True)
class TensorReference:
    """A view of a storage; offset and strides count elements of `dtype`."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Global:
    """An allowed name: data until `REDUCE` or `NEWOBJ` looks it up in `CALLS` or `OBJECTS`."""

    name: str


@dataclass(frozen=True, eq=False, slots=True)
class Leftover:
    """What stands where training left an object of its own: a name, and nothing of what it held."""

    name: str


@dataclass(eq=False, slots=True)
class Module:
    """A module that holds tensors and nothing else, as the first textual inversions have it."""

    name: str
    state: "Value" = None


@dataclass(frozen=True, eq=False, slots=True)
class NumpyType:
    """A numpy dtype, as a format of `struct`."""

    format: str


@dataclass(frozen=True, eq=False, slots=True)
class Latin:
    """Bytes, one for every letter of a text; not turned into bytes, since copies could be asked for without end."""

    text: str


@dataclass(frozen=True, eq=False, slots=True)
class OddKey:
    """A key of a dictionary that is no text, number or name; hashing a nested tuple may take for ever."""

    kind: str


Reference: TypeAlias = Storage | TensorReference | Global | Leftover | Module | NumpyType | Latin
Plain: TypeAlias = bool | int | float | str | bytes | None
Key: TypeAlias = Plain | Global | Leftover | OddKey
Value: TypeAlias = "Plain | Reference | list[Value] | tuple[Value, ...] | dict[Key, Value]"


def find_global(module: str, name: str) -> Global | Leftover:
    """A name of the table, or the placeholder of a known leftover; `ValueError` for any other."""
    full = f"{module}.{name}"
    if full in CALLS or full in OBJECTS or full in _NAMES:
        return Global(full)
    if full.startswith("pytorch_lightning.") and all(map(str.isidentifier, full.split("."))) and "." not in name:
        return Leftover(full)
    raise ValueError(f"its pickle asks for {full[:100]!r}, which has no place among weights; nothing of it was run")


def spread(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """How many elements there are from a tensor's first to its last, both counted; 0 of an empty tensor."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def make_key(value: Value) -> Key:
    """A value as the key of a dictionary."""
    if value is None or isinstance(value, bool | int | float | str | bytes | Global | Leftover):
        return value
    return OddKey(type(value).__name__)


def make_storage(identity: Value) -> Storage | Global | Leftover:
    """What a persistent id stands for: numbers in the file, or the class of a module, whose source is not looked at."""
    match identity:
        case ("storage", Global(name=kind), str(key), str(), int(count), *view) if kind in _STORAGE_DTYPES:
            return _part(key, _STORAGE_DTYPES[kind], _count(count), view)
        case ("module", Global() | Leftover() as named, _, _):
            return named
        case _:
            raise ValueError("its pickle refers to something else than a storage")


def _part(key: str, dtype: str, whole: int, view: list[Value]) -> Storage:
    match view:
        case [] | [None]:
            return Storage(key, dtype, whole, 0, whole)
        case [(str(), int(start), int(count))] if min(start, count) >= 0 and start + count <= whole:
            return Storage(key, dtype, whole, start, count)
        case _:
            raise ValueError(f"its storage {key[:40]!r} is a part of another that has no such part")


# What the calls build


def _dict(arguments: tuple[Value, ...]) -> Value:
    """`OrderedDict()`; its items follow, and its order is that of any dictionary."""
    match arguments:
        case ():
            return {}
        case _:
            raise ValueError("its OrderedDict is made from something else than nothing")


def put(target: dict[Key, Value], key: Value, value: Value) -> None:
    """An item of a dictionary.  Two readers of a key that stands twice could each believe another value."""
    known = make_key(key)
    if known in target:
        raise ValueError(f"the key {str(known)[:40]!r} stands twice in a dictionary of its pickle")
    target[known] = value


def _counter(arguments: tuple[Value, ...]) -> Value:
    match arguments:
        case (dict() as counts,):
            return counts
        case _:
            raise ValueError("its Counter is made from something else than a dictionary")


def _list(arguments: tuple[Value, ...]) -> Value:
    """Of sets, and of `torch.Size`; the same list, since copies of it could be asked for without end."""
    match arguments:
        case ():
            return []
        case (list() | tuple() as items,):
            return items
        case _:
            raise ValueError("its set or size is made from something else than a list")


def _device(arguments: tuple[Value, ...]) -> Value:
    match arguments:
        case (str(kind), *_):
            return kind
        case _:
            raise ValueError("its device has no name")


def _bytes(arguments: tuple[Value, ...]) -> Value:
    """`_codecs.encode(text, "latin1")`, as Python 3 writes bytes for Python 2; and `bytes()`."""
    match arguments:
        case ():
            return b""
        case (str(text), "latin1"):
            return Latin(text)
        case _:
            raise ValueError("its bytes are spelled in an unknown way")


def _numpy_type(arguments: tuple[Value, ...]) -> Value:
    match arguments:
        case (str(code), *_) if code in _NUMPY:
            return NumpyType(_NUMPY[code])
        case _:
            raise ValueError("it holds a numpy object that is no number")


def _numpy_scalar(arguments: tuple[Value, ...]) -> Value:
    match arguments:
        case (NumpyType(format=form), bytes() | Latin() as raw):
            return _unpack(form, raw)
        case _:
            raise ValueError("it holds a numpy object that is no number")


def _unpack(form: str, raw: "bytes | Latin") -> Value:
    codes = raw if isinstance(raw, bytes) else tuple(map(ord, raw.text[:9]))  # no number has more than 8 bytes
    if len(codes) != struct.calcsize(f"<{form}") or max(codes) > 255:
        raise ValueError("it holds a numpy number of another size than its type")
    return struct.unpack(f"<{form}", bytes(codes))[0]


def _tensor(arguments: tuple[Value, ...]) -> Value:
    """`_rebuild_tensor(storage, offset, size, stride)` and `_v2(..., requires_grad, hooks, [metadata])`."""
    match arguments:
        case (Storage() as storage, offset, shape, stride):
            return _view(storage, storage.dtype, offset, shape, stride)
        case (Storage() as storage, offset, shape, stride, bool(), _, *metadata) if _has_no(metadata):
            return _view(storage, storage.dtype, offset, shape, stride)
        case _:
            raise ValueError("it holds a tensor that is spelled in an unknown way")


def _typed_tensor(arguments: tuple[Value, ...]) -> Value:
    """`_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype, [metadata])`."""
    match arguments:
        case (Storage() as storage, offset, shape, stride, bool(), _, Global(name=name), *metadata) if (
            name in _TENSOR_DTYPES and _has_no(metadata)
        ):
            return _view(storage, _TENSOR_DTYPES[name], offset, shape, stride)
        case _:
            raise ValueError("it holds a tensor that is spelled in an unknown way")


def _has_no(metadata: list[Value]) -> bool:
    """Metadata says that the numbers are to be negated or conjugated; nobody saves weights like that."""
    return metadata in ([], [None], [{}])


def _view(storage: Storage, dtype: str, offset: Value, shape: Value, stride: Value) -> TensorReference:
    sizes, steps = _counts(shape), _counts(stride)
    if len(sizes) != len(steps):
        raise ValueError("it holds a tensor with more sizes than strides, or fewer")
    start = _count(offset)
    num_elements = storage.count * ITEM_BYTES[storage.dtype] // ITEM_BYTES[dtype]
    if start + spread(sizes, steps) > num_elements:
        raise ValueError(f"it holds a tensor that leads out of its storage {storage.key[:40]!r}")
    return TensorReference(storage, dtype, start, sizes, steps)


def _counts(value: Value) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or len(value) > MAX_AXES:
        raise ValueError(f"it holds a tensor whose sizes or strides are no list of at most {MAX_AXES} counts")
    return tuple(map(_count, value))


def _count(value: Value) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COUNT:  # true is no count
        raise ValueError("it holds a tensor or storage with a size, stride or offset that is no count")
    return value


def _parameter(arguments: tuple[Value, ...]) -> Value:
    """`_rebuild_parameter(data, requires_grad, hooks)` and `_with_state(..., state)`."""
    match arguments:
        case (TensorReference() as tensor, bool(), _, *_):
            return tensor
        case _:
            raise ValueError("it holds a parameter that is spelled in an unknown way")


def _tensor_with_type(arguments: tuple[Value, ...]) -> Value:
    """`_rebuild_from_type_v2(function, class, arguments, state)`: a tensor that had attributes of its own."""
    match arguments:
        case (Global(name=function), Global(name=kind), tuple(inner), _) if function in _REBUILD and kind in _NAMES:
            return _REBUILD[function](inner)
        case _:
            raise ValueError("it holds a tensor of an unknown class")


Call: TypeAlias = Callable[[tuple[Value, ...]], Value]

_TENSOR_DTYPES = {f"torch.{name}": dtype for name, dtype in _DTYPES.items()}
_STORAGE_DTYPES = {
    **{f"torch.{name}Storage": dtype for name, dtype in _STORAGES.items()},
    "torch.storage.UntypedStorage": "U8",
}
_REBUILD: Mapping[str, Call] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
CALLS: Mapping[str, Call] = {
    **_REBUILD,
    "torch._tensor._rebuild_from_type_v2": _tensor_with_type,
    "torch.Size": _list,
    "torch.device": _device,
    "collections.OrderedDict": _dict,
    "collections.Counter": _counter,
    "__builtin__.set": _list,
    "builtins.set": _list,
    "__builtin__.bytes": _bytes,
    "builtins.bytes": _bytes,
    "_codecs.encode": _bytes,
    "numpy.dtype": _numpy_type,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}
"""What `REDUCE` may call."""
OBJECTS: Mapping[str, Callable[[str], Value]] = {
    "torch.nn.modules.container.ParameterDict": Module,
}
"""What `NEWOBJ` may make."""
_NAMES = frozenset({"torch.Tensor", "torch.nn.parameter.Parameter", *_TENSOR_DTYPES, *_STORAGE_DTYPES})
"""What may be named and never called."""
