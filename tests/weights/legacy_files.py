"""Files for the tests of legacy pickles: small ones built opcode by opcode, and a corpus of hostile ones.

A hostile pickle that calls something tries to make the file `canary` in the folder where it is read.
"""

import io
import struct
import zipfile
from collections.abc import Mapping

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
VERSION = b"\x80\x02M\xe9\x03."
LITTLE = b"\x80\x02}X\x0d\0\0\0little_endian\x88s."

FLOAT = b"ctorch\nFloatStorage\n"
ORDERED = b"ccollections\nOrderedDict\n)R"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str = "0", count: int = 6, kind: bytes = FLOAT) -> bytes:
    return b"(" + text("storage") + kind + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(
    shape: tuple[int, ...] = (2, 3),
    stride: tuple[int, ...] = (3, 1),
    offset: int = 0,
    stored: bytes | None = None,
) -> bytes:
    """Of six floats under the key 0."""
    arguments = (stored or storage()) + number(offset) + numbers(shape) + numbers(stride) + b"\x89" + ORDERED
    return REBUILD + b"(" + arguments + b"tR"


def state(*items: bytes) -> bytes:
    """A whole pickle: a dictionary of keys and values, each already opcodes."""
    return b"\x80\x02}(" + b"".join(items) + b"u."


GOOD = state(text("weight"), tensor())
FLOATS = struct.pack("<6f", *range(6))


def zipped(
    pickle: bytes,
    storages: Mapping[str, bytes] | None = None,
    method: int = 0,
    extra: Mapping[str, bytes] | None = None,
) -> bytes:
    """As `torch.save` writes since 1.6."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        file.writestr("archive/data.pkl", pickle)
        for key, data in ({"0": FLOATS} if storages is None else storages).items():
            file.writestr(f"archive/data/{key}", data)
        for name, data in (extra or {}).items():
            file.writestr(name, data)
    return stream.getvalue()


def streamed(pickle: bytes, storages: Mapping[str, bytes] | None = None, item_bytes: int = 4) -> bytes:
    """As `torch.save` wrote before 1.6."""
    stored = {"0": FLOATS} if storages is None else storages
    keys = b"\x80\x02](" + b"".join(map(text, stored)) + b"e."
    data = b"".join(struct.pack("<q", len(raw) // item_bytes) + raw for raw in stored.values())
    return MAGIC + VERSION + LITTLE + pickle + keys + data


# Pickles that run code where Python reads them

_WRITE = "open('canary', 'w').close()"
_LINE = _WRITE.encode()
RUNS_CODE: dict[str, bytes] = {
    "os.system": b"\x80\x02cos\nsystem\n" + text("touch canary") + b"\x85R.",
    "posix.system": b"\x80\x02cposix\nsystem\n" + text("touch canary") + b"\x85R.",
    "eval": b"\x80\x02cbuiltins\neval\n" + text(_WRITE) + b"\x85R.",
    "exec of Python 2": b"\x80\x02c__builtin__\nexec\n" + text(_WRITE) + b"\x85R.",
    "subprocess": b"\x80\x02csubprocess\ncall\n](" + text("touch") + text("canary") + b"e\x85R.",
    "a name from the stack": b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x94" + text(_WRITE) + b"\x85R.",
    "a framed name from the stack": b"\x80\x04\x95\x1d\0\0\0\0\0\0\0"
    + b"\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch canary\x85R.",
    "INST": b"\x80\x02(X" + struct.pack("<I", len(_LINE)) + _LINE + b"i__builtin__\nexec\n.",
    "OBJ": b"\x80\x02(cbuiltins\nexec\n" + text(_WRITE) + b"o.",
    "NEWOBJ": b"\x80\x02ccode\nInteractiveConsole\n)\x81cbuiltins\nexec\n" + text(_WRITE) + b"\x85R0.",
    "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n](" + text("touch") + text("canary") + b"e\x85}\x92.",
    "BUILD": b"\x80\x02cargparse\nNamespace\n)\x81}" + text("a") + b"cbuiltins\nexec\n" + text(_WRITE) + b"\x85Rsb.",
    "getattr": b"\x80\x02cbuiltins\ngetattr\ncbuiltins\n__import__\n" + text("os") + b"\x85R" + text("system")
    + b"\x86R" + text("touch canary") + b"\x85R.",
    "operator.methodcaller": b"\x80\x02coperator\nmethodcaller\n" + text("system") + text("touch canary")
    + b"\x86Rcbuiltins\n__import__\n" + text("os") + b"\x85R\x85R.",
    "functools.partial": b"\x80\x02cfunctools\npartial\ncbuiltins\nexec\n" + text(_WRITE) + b"\x86R)R.",
    "hidden as a key": b"\x80\x02}cbuiltins\nexec\n" + text(_WRITE) + b"\x85RK\x01s.",
    "in a second pickle": b"\x80\x02cpickle\nloads\ncbuiltins\nbytes\n](" + b"".join(
        b"K" + bytes([byte]) for byte in b"cbuiltins\nexec\n(V" + _LINE + b"\ntR."
    ) + b"e\x85R\x85R.",
    "protocol 0": b"cos\nsystem\n(S'touch canary'\ntR.",
    "protocol 5": b"\x80\x05\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch canary\x85R.",
    "after the weights": GOOD[:-1] + b"cos\nsystem\n" + text("touch canary") + b"\x85R0.",
    "in the state of an OrderedDict": b"\x80\x02" + ORDERED + b"cos\nsystem\n" + text("touch canary") + b"\x85Rb.",
}  # fmt: skip


# Files that are damaged or lie

_LEFTOVER = b"cpytorch_lightning.callbacks\nModelCheckpoint\n"


def _laughs(depth: int = 40) -> bytes:
    """A tuple of two tuples of two ...: a small pickle, and a tree of 2**depth leaves."""
    return b"\x80\x02)" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(depth)) + b"."


def _patched(data: bytes, place: int, value: bytes) -> bytes:
    """A zip with other bytes at a place in its directory's last entry."""
    start = data.rindex(b"PK\1\2") + place
    return data[:start] + value + data[start + len(value) :]


_ZIP = zipped(GOOD)
REFUSED: dict[str, tuple[bytes, str]] = {
    "an extension": (zipped(b"\x80\x02\x82\x01."), "opcode 0x82"),
    "a wide extension": (zipped(b"\x80\x02\x84\1\0\0\0."), "opcode 0x84"),
    "a persistent id as text": (zipped(b"\x80\x02Pstorage\n."), "opcode 0x50"),
    "a buffer from outside": (zipped(b"\x80\x04\x97."), "opcode 0x97"),
    "a byte array": (zipped(b"\x80\x04\x96\0\0\0\0\0\0\0\0."), "opcode 0x96"),
    "protocol 5": (zipped(b"\x80\x05}."), "protocol 5"),
    "storage from bytes": (
        zipped(state(text("a"), b"ctorch.storage\n_load_from_bytes\n" + b"C\x01x\x85R")),
        "_load_from_bytes",
    ),
    "torch.load itself": (zipped(state(text("a"), b"ctorch.serialization\nload\n" + text("x") + b"\x85R")), "load"),
    "an array of objects": (
        zipped(state(text("a"), b"cnumpy.core.multiarray\n_reconstruct\n" + text("x") + b"\x85R")),
        "_reconstruct",
    ),
    "a numpy object": (zipped(state(text("a"), b"cnumpy\ndtype\n" + text("O8") + b"\x89\x88\x87R")), "numpy object"),
    "a leftover with a dotted name": (zipped(b"\x80\x02cpytorch_lightning\nos.system\n."), "os.system"),
    "a leftover among the weights": (zipped(state(text("a"), _LEFTOVER, text("b"), tensor())), "among its weights"),
    "a call of a number": (zipped(b"\x80\x02K\1)R."), "cannot be called"),
    "a call of a dtype": (zipped(b"\x80\x02ctorch\nfloat16\n)R."), "cannot be called"),
    "a class that cannot be made": (zipped(b"\x80\x02ctorch\nTensor\n)\x81."), "unknown class"),
    "attributes of a tensor": (zipped(state(text("a"), tensor() + b"}b")), "gives attributes"),
    "hooks that are called": (zipped(state(text("a"), tensor().replace(ORDERED, b"cos\nsystem\n"))), "os.system"),
    "numbers to be negated": (
        zipped(state(text("a"), tensor()[:-2] + b"}" + text("neg") + b"\x88stR")),
        "spelled in an unknown way",
    ),
    "a tree of laughs": (zipped(_laughs()), "nested"),
    "a list in itself": (zipped(b"\x80\x02]q\0h\0a."), "nested"),
    "nesting without end": (zipped(b"\x80\x02" + b"(" * 100_000), "cut off"),
    "deep nesting": (zipped(b"\x80\x02)" + b"\x85" * 100_000 + b"."), "nested"),
    "a memo that is not there": (zipped(b"\x80\x02h\1."), "was not stored"),
    "an empty stack": (zipped(b"\x80\x020."), "opcode"),
    "more than the stack": (zipped(b"\x80\x02a."), "takes more"),
    "a mark that is not there": (zipped(b"\x80\x02t."), "mark"),
    "below a mark": (zipped(b"\x80\x02)(\x85."), "takes more"),
    "a text of 4 GB": (zipped(b"\x80\x02X\xff\xff\xff\xff."), "cut off"),
    "a number of 2 GB": (zipped(b"\x80\x02\x8b\xff\xff\xff\x7f."), "opcode 0x8b"),
    "a name without end": (zipped(b"\x80\x02c" + b"a" * 5000), "name without end"),
    "text that is none": (zipped(b"\x80\x02X\1\0\0\0\xff."), "no UTF-8"),
    "a key twice": (zipped(state(text("a"), tensor(), text("a"), tensor())), "stands twice"),
    "one name for two": (
        zipped(state(text("a.b"), tensor(), text("a"), b"}" + text("b") + tensor() + b"s")),
        "would be called",
    ),
    "a name that steers the terminal": (zipped(state(text("\x1b[2J"), tensor())), "no tensor's name"),
    "no tensors": (zipped(state(text("a"), b"K\1"), {}), "no tensors"),
    "a negative stride": (zipped(state(text("a"), tensor(stride=(-3, 1)))), "no count"),
    "a negative offset": (zipped(state(text("a"), tensor(offset=-1))), "no count"),
    "a negative size": (zipped(state(text("a"), tensor(shape=(-2, 3)))), "no count"),
    "a size beyond 64 bits": (zipped(state(text("a"), tensor(shape=(1 << 64, 1)))), "no count"),
    "sizes that overflow": (zipped(state(text("a"), tensor((0, 1 << 62, 1 << 62), (1, 1, 1)))), "no tensor can have"),
    "a tensor out of its storage": (zipped(state(text("a"), tensor(offset=1))), "leads out of its storage"),
    "strides out of the storage": (zipped(state(text("a"), tensor(stride=(4, 1)))), "leads out of its storage"),
    "more sizes than strides": (zipped(state(text("a"), tensor(stride=(1,)))), "more sizes"),
    "a hundred axes": (zipped(state(text("a"), tensor((1,) * 100, (1,) * 100))), "at most 64"),
    "one number read as millions": (zipped(state(text("a"), tensor((10_000_000,), (0,)))), "repeat its numbers"),
    "a storage that is not there": (zipped(state(text("a"), tensor(stored=storage("7")))), "not there"),
    "a storage of absurd size": (zipped(state(text("a"), tensor(stored=storage(count=1 << 60)))), "not there"),
    "a storage with two sizes": (
        zipped(state(text("a"), tensor(), text("b"), tensor((1, 1), stored=storage(count=3)))),
        "two dtypes or sizes",
    ),
    "a storage of code": (zipped(state(text("a"), tensor(stored=storage(kind=b"cos\nsystem\n")))), "os.system"),
    "complex numbers": (
        zipped(state(text("a"), tensor(stored=storage(kind=b"ctorch\nComplexFloatStorage\n")))),
        "ComplexFloat",
    ),
    "something behind the pickle": (zipped(GOOD + b"x"), "follows its pickle"),
    "an entry twice": (
        zipped(GOOD, {"0": FLOATS, "1": FLOATS}).replace(b"archive/data/1", b"archive/data/0"),
        "names an entry twice",
    ),
    "compressed entries": (zipped(GOOD, method=zipfile.ZIP_DEFLATED), "compressed"),
    "a zip bomb": (zipped(GOOD, {"0": bytes(1 << 22)}, zipfile.ZIP_DEFLATED), "compressed"),
    "a way out of the folder": (zipped(GOOD, extra={"archive/../../canary": b"x"}), "does not write"),
    "an absolute path": (zipped(GOOD, extra={"/archive/canary": b"x"}), "does not write"),
    "a path of Windows": (zipped(GOOD, extra={"archive\\..\\canary": b"x"}), "does not write"),
    "a strange entry": (zipped(GOOD, extra={"archive/setup.py": b"x"}), "does not write"),
    "two folders": (zipped(GOOD, extra={"other/data.pkl": GOOD}), "several folders"),
    "TorchScript": (zipped(GOOD, extra={"archive/code/a.py": b"x", "archive/constants.pkl": b"x"}), "TorchScript"),
    "big-endian numbers": (zipped(GOOD, extra={"archive/byteorder": b"big"}), "big-endian"),
    "no pickle in the zip": (zipped(GOOD).replace(b"data.pkl", b"data.txt"), "does not write"),
    "an entry of another length": (_patched(_ZIP, 24, struct.pack("<L", 23)), "two sizes"),
    "an entry out of the file": (_patched(_ZIP, 20, struct.pack("<2L", 1 << 30, 1 << 30)), "leads out of the file"),
    "an entry that overlaps": (_patched(_ZIP, 42, struct.pack("<L", 0)), "overlaps|two names"),
    "64-bit sizes that are not there": (_patched(_ZIP, 20, b"\xff" * 8), "64-bit sizes"),
    "an encrypted entry": (_patched(_ZIP, 8, b"\1"), "encrypted"),
    "a damaged directory": (_patched(_ZIP, 0, b"PK\7\7"), "damaged|another number"),
    "something behind the zip": (_ZIP + b"x", "follows it"),
    "something before the zip": (b"PK" + _ZIP, "not where"),
    "a zip cut off": (_ZIP[:-30], "cut off"),
    "the head of a zip": (_ZIP[:40], "cut off"),
    "a stream with another magic number": (b"\x80\x02K\1." + VERSION + LITTLE + GOOD, "not one that torch.save"),
    "a stream of another version": (MAGIC + b"\x80\x02K\1." + LITTLE + GOOD, "unknown version"),
    "a big-endian stream": (MAGIC + VERSION + LITTLE.replace(b"\x88", b"\x89") + GOOD, "big-endian"),
    "a stream cut off": (streamed(GOOD)[:-1], "not there|cut off"),
    "something behind the stream": (streamed(GOOD) + b"x", "do not fill"),
    "a storage missing in the stream": (streamed(GOOD, {}), "do not fill"),
    "a storage of no tensor": (streamed(GOOD, {"0": FLOATS, "1": FLOATS}), "names one twice"),
    "a part of no storage": (
        streamed(state(text("a"), tensor(stored=storage()[:-2] + b"(" + text("1") + b"K\1K\x09ttQ"))),
        "no such part",
    ),
    "a plain pickle": (b"\x80\x02}X\1\0\0\0aK\1s.", "not one that torch.save wrote"),
    "a tar": (b"pickle".ljust(257, b"\0") + b"ustar" + bytes(500), "a tar"),
}
"""What is wrong -> the file, and what the sentence must say."""

HOSTILE: dict[str, bytes] = {
    **{f"{name}, zipped": zipped(pickle, {}) for name, pickle in RUNS_CODE.items()},
    **{f"{name}, streamed": streamed(pickle, {}) for name, pickle in RUNS_CODE.items()},
    **{name: data for name, (data, _) in REFUSED.items()},
}
