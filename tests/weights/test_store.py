"""Safe tensor files: the same bytes as the safetensors library, little memory, and an answer to every broken file."""

import copy
import json
import os
import pickle
import struct
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch as library
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from marmo.weights import folders, store
from marmo.weights.store import TensorInfo, Tensors

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
Header = dict[str, Any]


def every_dtype() -> dict[str, Tensor]:
    """Every dtype twice, names in no order, a scalar, empty tensors, and names that JSON must escape."""
    numbers = torch.arange(6).reshape(2, 3)
    state = {
        f"{index * 7 % 10}.{name}": numbers.to(dtype, copy=True) for index, (name, dtype) in enumerate(DTYPES.items())
    }
    state |= {f"b.{name}": numbers[0, :1].to(dtype, copy=True) for name, dtype in DTYPES.items()}
    odd = {"scalar": torch.tensor(3.5), "empty": torch.empty(0, 4), "hollow": torch.empty(2, 0, dtype=torch.int8)}
    return state | odd | {"狐狸": torch.ones(2), 'a "quoted\\" name/': torch.ones(3, dtype=torch.float16)}


def assert_same(found: Tensors, expected: Mapping[str, Tensor]) -> None:
    assert found.infos.keys() == expected.keys()
    for name, info in found.infos.items():
        tensor = found.read(name)
        assert (tensor.dtype, tuple(tensor.shape)) == (info.dtype, info.shape)
        assert tensor.numel() == info.num_elements and tensor.nbytes == info.num_bytes
        assert tensor.dtype == expected[name].dtype and tensor.shape == expected[name].shape
        assert raw(tensor) == raw(expected[name])


def raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def anonymous_bytes() -> int:
    """Memory of this process that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")


# Round trips


def file_bytes() -> int:
    """Pages of files that this process holds."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssFile:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssFile")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"作者": 'a\n"b"\\'}])
def test_reads_what_the_library_writes_and_writes_the_same_bytes(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    state = every_dtype()
    library.save_file(state, tmp_path / "theirs", metadata)
    theirs = store.open_file(tmp_path / "theirs")
    assert_same(theirs, state)
    assert theirs.metadata == (metadata or {})
    store.write(tmp_path / "again", theirs)
    store.write(tmp_path / "ours", store.from_state(state), metadata)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_several_metadata_entries_keep_their_order(tmp_path: Path) -> None:
    library.save_file({"a": torch.ones(1)}, tmp_path / "theirs", {key: key for key in "qwertyuiop"})
    store.write(tmp_path / "ours", store.open_file(tmp_path / "theirs"))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    state = every_dtype()
    store.write(tmp_path / "ours", store.from_state(state))
    assert_same(store.from_state(library.load_file(tmp_path / "ours")), state)


def test_a_file_without_tensors(tmp_path: Path) -> None:
    store.write(tmp_path / "ours", store.from_state({}))
    assert (tmp_path / "ours").read_bytes() == library.save({})
    assert not store.open_file(tmp_path / "ours").infos


def test_writes_views_that_are_not_contiguous_and_parameters(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    state = {"turned": base.T, "column": base[:, 1], "row": base[1], "parameter": torch.nn.Parameter(base)}
    store.write(tmp_path / "ours", store.from_state(state))
    loaded = library.load_file(tmp_path / "ours")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_an_unpadded_header_as_the_first_writers_left_it(tmp_path: Path) -> None:
    header, data = split(library.save({"a": torch.arange(3.0), "b": torch.arange(5)}))
    (tmp_path / "old").write_bytes(joined(header, data, pad=3))
    opened = store.open_file(tmp_path / "old")
    assert opened.read("a").tolist() == [0, 1, 2] and opened.read("b").tolist() == [0, 1, 2, 3, 4]
    assert opened.read("a").data_ptr() % 4 == 0 and opened.read("b").data_ptr() % 8 == 0


def test_changing_a_tensor_does_not_change_the_file(tmp_path: Path) -> None:
    library.save_file({"a": torch.zeros(4)}, tmp_path / "file")
    store.open_file(tmp_path / "file").read("a").fill_(1)
    assert store.open_file(tmp_path / "file").read("a").tolist() == [0, 0, 0, 0]


def test_a_tensor_outlives_its_file(tmp_path: Path) -> None:
    library.save_file({"a": torch.arange(4.0)}, tmp_path / "file")
    tensor = store.open_file(tmp_path / "file").read("a")
    (tmp_path / "file").unlink()
    assert tensor.tolist() == [0, 1, 2, 3]


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux alone tells")
def test_what_was_copied_can_be_handed_back(tmp_path: Path) -> None:
    size = 1 << 24
    path = tmp_path / "large.safetensors"
    library.save_file({name: torch.full((size,), index + 1.0) for index, name in enumerate("abc")}, path)
    tensors = store.select(store.prefixed(store.open_file(path), "x."), "x.")
    copies = {name: tensors.read(name).clone() for name in "abc"}
    full = file_bytes()
    store.let_go(tensors, tensors.read("b"))
    assert full - file_bytes() > 3 * size  # of 4: its first and last page stay, and the system maps some ahead
    for name in "abc":
        assert torch.equal(tensors.read(name), copies[name])  # and it comes back


def test_what_is_not_of_a_file_stays(tmp_path: Path) -> None:
    store.write(tmp_path / "a.safetensors", store.from_state({"a": torch.ones(5000)}))
    tensors = store.open_file(tmp_path / "a.safetensors")
    own = torch.ones(1 << 16)
    store.let_go(tensors, own)
    store.let_go(store.from_state({"own": own}), own)
    assert own.sum() == 1 << 16
    assert store.cast(tensors, torch.float16).read("a").sum() == 5000


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert store.sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(ValueError, match="absent"):
        store.sha256(tmp_path / "absent")


# Views


def test_select_and_prefixed_are_inverse() -> None:
    state = {"unet.a": torch.ones(1), "unet.b": torch.zeros(2), "unet_ema.a": torch.ones(3)}
    chosen = store.select(store.from_state(state), "unet.")
    assert_same(chosen, {"a": state["unet.a"], "b": state["unet.b"]})
    assert_same(store.prefixed(chosen, "unet."), {"unet.a": state["unet.a"], "unet.b": state["unet.b"]})


def test_cast_changes_floating_tensors_only_and_reads_lazily() -> None:
    state = {"f": torch.tensor([1.0, 1 / 3]), "i": torch.tensor([1, 2]), "b": torch.tensor([True])}
    read: list[str] = []

    def reading(name: str) -> Tensor:
        read.append(name)
        return state[name]

    halves = store.cast(Tensors(store.from_state(state).infos, reading, {"k": "v"}), torch.float16)
    assert halves.infos["f"] == TensorInfo(torch.float16, (2,)) and not read
    assert_same(halves, state | {"f": state["f"].half()})
    assert read == ["f", "i", "b"] and halves.metadata == {"k": "v"}


def test_join_is_a_disjoint_union() -> None:
    a = Tensors({"a": TensorInfo(torch.float32, (1,))}, lambda name: torch.ones(1), {"format": "pt", "title": "a"})
    b = Tensors({"b": TensorInfo(torch.float32, (2,))}, lambda name: torch.zeros(2), {"format": "pt", "title": "b"})
    both = store.join(a, b)
    assert_same(both, {"a": torch.ones(1), "b": torch.zeros(2)})
    assert both.metadata == {"format": "pt"}
    assert not store.join().infos
    with pytest.raises(ValueError, match="'a' is in two"):
        store.join(a, b, a)


# Memory and atomicity


@pytest.mark.long
@needs_proc
def test_neither_reading_nor_writing_takes_memory(tmp_path: Path) -> None:
    path, shape = tmp_path / "large", (40 << 20,)
    grown: list[int] = []

    def read(name: str) -> Tensor:
        tensor = torch.full(shape, int(name), dtype=torch.uint8)
        grown.append(anonymous_bytes() - before)
        return tensor

    infos = {str(index): TensorInfo(torch.uint8, shape) for index in range(5)}
    before = anonymous_bytes()
    store.write(path, Tensors(infos, read))
    assert max(grown) < 1.5 * infos["0"].num_bytes

    before = anonymous_bytes()
    opened = store.open_file(path)
    held = {name: opened.read(name) for name in opened.infos}
    assert all(int(tensor.sum(dtype=torch.int64)) == int(name) * shape[0] for name, tensor in held.items())
    assert anonymous_bytes() - before < 0.1 * path.stat().st_size
    path.unlink()


class Interrupt(BaseException):
    """Neither an Exception nor anything that the code could know of."""


@pytest.mark.parametrize("interrupt", [RuntimeError, KeyboardInterrupt, Interrupt])
@pytest.mark.parametrize("fails_at", ["a", "c"])
def test_a_failed_write_changes_nothing(tmp_path: Path, interrupt: type[BaseException], fails_at: str) -> None:
    def read(name: str) -> Tensor:
        if name == fails_at:
            raise interrupt
        return torch.ones(100_000)

    failing = Tensors({name: TensorInfo(torch.float32, (100_000,)) for name in "abc"}, read)
    (tmp_path / "old").write_bytes(b"as it was")
    for name in ("new", "old"):
        with pytest.raises(interrupt):
            store.write(tmp_path / name, failing)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_bytes() == b"as it was"


def test_a_file_can_be_rewritten_from_itself(tmp_path: Path) -> None:
    library.save_file({"a": torch.arange(1000.0)}, tmp_path / "file")
    store.write(tmp_path / "file", store.cast(store.open_file(tmp_path / "file"), torch.bfloat16))
    assert torch.equal(store.open_file(tmp_path / "file").read("a"), torch.arange(1000.0).bfloat16())


def test_a_written_file_has_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    store.write(tmp_path / "ours", store.from_state({}))
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize(
    ("name", "tensor", "metadata"),
    [
        ("a", torch.zeros(1, dtype=torch.complex64), {}),
        ("", torch.zeros(1), {}),
        ("a\nb", torch.zeros(1), {}),
        ("\ud800", torch.zeros(1), {}),
        ("n" * 1001, torch.zeros(1), {}),
        ("__metadata__", torch.zeros(1), {}),
        ("__metadata__", torch.zeros(1), {"a": "b"}),
        ("a", torch.zeros((1,) * 65), {}),
        ("a", torch.zeros(1), {"a": 1}),
        ("a", torch.zeros(1), {"a": "\udfff"}),
        ("a", torch.zeros(1), {"a": "b" * (1 << 24)}),
    ],
)
def test_refuses_to_write_what_cannot_be_opened(tmp_path: Path, name: str, tensor: Tensor, metadata: Any) -> None:
    with pytest.raises(ValueError, match="ours: "):
        store.write(tmp_path / "ours", store.from_state({name: tensor}), metadata)
    assert not list(tmp_path.iterdir())


# Hostile files


def split(file: bytes) -> tuple[Header, bytes]:
    length = int.from_bytes(file[:8], "little")
    return json.loads(file[8 : 8 + length]), file[8 + length :]


def joined(header: Header | bytes, data: bytes, pad: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8 + pad)
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


GOOD = library.save({"a": torch.arange(4.0), "b": torch.arange(3, dtype=torch.int16)}, {"format": "pt"})
TWINS = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}'
TWIN_SHAPES = b'{"a":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}}'

HOSTILE = {
    "empty": (b"", "empty"),
    "shorter than its length": (b"abc", "cut off"),
    "text": (b"Once upon a time there was a fox." * 9, "no safetensors"),
    "web page": (b"<!DOCTYPE html><html></html>" * 9, "web page"),
    "git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    "pickle": (pickle.dumps({"a": list(range(99))}, protocol=2), "legacy pickle.*is not opened"),
    "newer pickle": (pickle.dumps({"a": list(range(99))}, protocol=5), "legacy pickle"),
    "zip": (b"PK\x03\x04" + bytes(100), "legacy pickle"),
    "zeros": (bytes(100), "JSON object"),
    "truncated header": (GOOD[:50], "cut off"),
    "truncated data": (GOOD[:-1], "22 bytes, but 21"),
    "no data": (GOOD[: -len(split(GOOD)[1])], "22 bytes, but 0"),
    "trailing byte": (GOOD + b"\0", "22 bytes, but 23"),
    "header of 2^63 bytes": (struct.pack("<Q", 1 << 63) + bytes(100), "no safetensors"),
    "header of 2^64-1 bytes": (struct.pack("<Q", (1 << 64) - 1) + bytes(100), "no safetensors"),
    "header of 100 MB": (struct.pack("<Q", 100_000_001) + bytes(100), "no safetensors"),
    "header of nothing": (joined(b"", b""), "JSON object"),
    "header is not JSON": (joined(b"{'a': 1}", b""), "JSON is broken"),
    "header is not UTF-8": (joined(b'{"\xff": 1}', b""), "JSON is broken"),
    "header is UTF-16": (joined('{"a": 1}'.encode("utf-16"), b""), "JSON object"),
    "header is an array": (joined(b"[]", b""), "JSON object"),
    "header begins with a space": (joined(b" {}", b""), "JSON object"),
    "header nests deeply": (joined(b'{"a":' + b"[" * 200_000, b""), "JSON is broken"),
    "header with a number of 5000 digits": (joined(b'{"a":' + b"9" * 5000 + b"}", b""), "JSON is broken"),
    "tensor that stands twice": (joined(TWINS, b"\0"), "twice"),
    "shape that stands twice": (joined(TWIN_SHAPES, b"\0"), "twice"),
    "overlap": (joined({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), "'b' begins at byte 4"),
    "same place": (joined({"a": entry(), "b": entry()}, bytes(8)), "'b' begins at byte 0"),
    "hole": (joined({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)), "'b' begins at byte 12"),
    "hole at the start": (joined({"a": entry(offsets=(4, 12))}, bytes(12)), "'a' begins at byte 4"),
    "beyond the file": (joined({"a": entry(shape=[999], offsets=(0, 3996))}, bytes(8)), "3996 bytes, but 8"),
    "end before begin": (joined({"a": entry(offsets=(8, 0))}, bytes(8)), "cannot lie"),
    "negative begin": (joined({"a": entry(offsets=(-8, 0))}, bytes(8)), "not a count"),
    "offset is not whole": (joined({"a": entry(offsets=(0, 8.0))}, bytes(8)), "not a count"),
    "offset is true": (joined({"a": entry("U8", [1], (False, True))}, bytes(1)), "not a count"),
    "offset is null": (joined({"a": entry(offsets=(0, None))}, bytes(8)), "not a count"),
    "offset beyond 64 bits": (joined({"a": entry(offsets=(0, 1 << 64))}, bytes(8)), "not a count"),
    "three offsets": (joined({"a": entry(offsets=(0, 8, 8))}, bytes(8)), "two numbers"),
    "wrong length": (joined({"a": entry(offsets=(0, 4))}, bytes(4)), "cannot lie"),
    "shape overflows": (joined({"a": entry(shape=[1 << 40, 1 << 40])}, bytes(8)), "cannot lie"),
    "shape overflows to the right length": (joined({"a": entry("U8", [1 << 62, 4], (0, 0))}, b""), "cannot lie"),
    "empty shape overflows": (joined({"a": entry(shape=[1 << 40, 0, 1 << 40], offsets=(0, 0))}, b""), "cannot lie"),
    "negative shape": (joined({"a": entry(shape=[-1, -2])}, bytes(8)), "not a count"),
    "shape is not whole": (joined({"a": entry(shape=[2.0])}, bytes(8)), "not a count"),
    "shape is NaN": (joined({"a": entry(shape=[float("nan")])}, bytes(8)), "not a count"),
    "shape is text": (joined({"a": entry(shape="2")}, bytes(8)), "something else"),
    "shape of many axes": (joined({"a": entry(shape=[1] * 65 + [2])}, bytes(8)), "64 axes"),
    "unknown dtype": (joined({"a": entry("F4")}, bytes(8)), "'F4'; known are"),
    "dtype is a number": (joined({"a": entry(4)}, bytes(8)), "something else"),
    "entry is null": (joined({"a": None}, b""), "something else"),
    "entry lacks its offsets": (joined({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), "something else"),
    "entry has more": (joined({"a": entry() | {"code": "print(1)"}}, bytes(8)), "something else"),
    "metadata is a list": (joined({"__metadata__": []}, b""), "__metadata__"),
    "metadata is null": (joined({"__metadata__": None}, b""), "__metadata__"),
    "metadata holds a number": (joined({"__metadata__": {"a": 1}}, b""), "__metadata__"),
    "metadata holds half a character": (joined({"__metadata__": {"a": "\ud800"}}, b""), "__metadata__"),
    "name is empty": (joined({"": entry()}, bytes(8)), "no tensor's name"),
    "name is endless": (joined({"n" * 100_000: entry()}, bytes(8)), "no tensor's name"),
    "name moves the cursor": (joined({"\x1b[2J": entry()}, bytes(8)), "no tensor's name"),
    "name holds half a character": (joined({"\ud800": entry()}, bytes(8)), "no tensor's name"),
}


@pytest.mark.parametrize(("file", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_refuses_a_broken_file(tmp_path: Path, file: bytes, message: str) -> None:
    (tmp_path / "broken.safetensors").write_bytes(file)
    with pytest.raises(ValueError, match=f"^.*broken.safetensors: .*{message}") as error:
        store.open_file(tmp_path / "broken.safetensors")
    assert len(str(error.value)) < 500 + len(str(tmp_path)) and str(error.value).isprintable()


def test_refuses_what_is_no_file(tmp_path: Path) -> None:
    for path, message in {tmp_path: "not a file", tmp_path / "no": "No such file", tmp_path / "a\0b": "null"}.items():
        with pytest.raises(ValueError, match=message):
            store.open_file(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes of this kind")
def test_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a file"):
        store.open_file(tmp_path / "pipe")


@pytest.mark.parametrize("zipped", [True, False])
def test_names_the_pickles_of_pytorch(tmp_path: Path, zipped: bool) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "model.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="legacy pickle"):
        store.open_file(tmp_path / "model.ckpt")


def test_the_allowed_extremes(tmp_path: Path) -> None:
    header = {"n" * 1000: entry("U8", [1] * 64, (0, 1)), "z": entry("U8", [(1 << 63) - 1, 0], (0, 0))}
    (tmp_path / "extreme").write_bytes(joined(header, b"\7"))
    opened = store.open_file(tmp_path / "extreme")
    assert opened.read("n" * 1000).item() == 7 and opened.read("z").shape == ((1 << 63) - 1, 0)


# Fuzzing


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], None]:
    """Opens a file or hears a ValueError; what opens is consistent, and the library finds the same in it."""
    paths = (tmp_path_factory.mktemp("fuzz") / str(number) for number in count())  # an open file is not written to

    def check(file: bytes) -> None:
        path = next(paths)
        path.write_bytes(file)
        try:
            opened = store.open_file(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
        else:
            assert_same(opened, library.load(file))
        finally:
            path.unlink()

    return check


FUZZED = [GOOD, library.save({name: tensor for name, tensor in every_dtype().items() if name.isalpha()})]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good file with a few bytes changed, removed or put in."""
    file = bytearray(draw(st.sampled_from(FUZZED)))
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.integers(0, len(file)))
        removed = draw(st.sampled_from([0, 1, 1, 2, 8, len(file)]))
        put = draw(st.one_of(st.binary(max_size=8), st.sampled_from([b"0", b"-", b"}", b"]", b'"', b",", b" "])))
        file[position : position + removed] = put
    return bytes(file)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.text(max_size=5)
    | st.integers()
    | st.sampled_from([0, 2, 8, 22, 1 << 62]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def forged(draw: st.DrawFn) -> bytes:
    """A good file whose header has been changed here and there, as JSON."""
    header, data = split(draw(st.sampled_from(FUZZED)))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(list(places(header))))
        act = draw(st.sampled_from(["put", "nudge", "drop", "copy", "resize"]))
        owner, key = place
        if act == "put":
            owner[key] = draw(JSON)
        elif act == "nudge" and isinstance(owner[key], int):
            owner[key] += draw(st.integers(-8, 8))
        elif act == "drop":
            del owner[key]
        elif act == "copy":
            header[draw(st.text(max_size=3))] = copy.deepcopy(owner[key])
        elif act == "resize":
            data = (data + bytes(16))[: draw(st.integers(0, len(data) + 16))]
    return joined(header, data, pad=draw(st.sampled_from([0, 0, 0, 1, 4])))


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in nested lists and dicts."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    for key in keys:
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from places(tree[key])


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(file=damaged())
def test_damaged_bytes(check: Callable[[bytes], None], file: bytes) -> None:
    check(file)


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(file=forged())
def test_forged_headers(check: Callable[[bytes], None], file: bytes) -> None:
    check(file)


@settings(max_examples=100, deadline=None)
@given(file=st.binary(max_size=200))
def test_random_bytes(check: Callable[[bytes], None], file: bytes) -> None:
    check(file)


NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20).filter(
    lambda x: x != "__metadata__"
)
SHAPES = st.lists(st.integers(0, 3), max_size=4)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@pytest.mark.long
@settings(max_examples=100, deadline=None)
@given(
    state=st.dictionaries(NAMES, st.builds(torch.ones, SHAPES, dtype=st.sampled_from(list(DTYPES.values())))),
    metadata=st.none() | st.dictionaries(TEXTS, TEXTS, min_size=1, max_size=1),
)
def test_any_state_is_written_as_the_library_writes_it(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, Tensor], metadata: dict[str, str] | None
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-state"
    store.write(path, store.from_state(state), metadata)
    assert path.read_bytes() == library.save(state, metadata)
    assert_same(store.open_file(path), state)


# Folders


@pytest.fixture(scope="module")
def autoencoder() -> Any:
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}
    return AutoencoderKL(block_out_channels=[8], norm_num_groups=4, layers_per_block=1, **blocks)


@pytest.fixture(scope="module")
def text_encoder() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPTextModel(CLIPTextConfig(vocab_size=50, bos_token_id=48, eos_token_id=49, **sizes))


STEMS = {"autoencoder": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.mark.long
@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("max_bytes", [1 << 30, 2000])
@pytest.mark.parametrize("kind", STEMS)
def test_folders_of_the_reference_libraries(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str, max_bytes: int, variant: str | None
) -> None:
    model = request.getfixturevalue(kind)
    model.save_pretrained(tmp_path / "theirs", max_shard_size=max_bytes, variant=variant)
    opened = folders.open_part(tmp_path / "theirs", variant)
    assert_same(opened, model.state_dict())
    assert_same(folders.open_part(tmp_path / "theirs"), model.state_dict())
    assert opened.metadata == {"format": "pt"}

    state = store.from_state(model.state_dict())
    folders.write_sharded(tmp_path / "ours", STEMS[kind], state, max_bytes, variant)
    ours, theirs = contents(tmp_path / "ours"), contents(tmp_path / "theirs")
    assert ours == theirs
    assert (len(ours) > 1) == (max_bytes == 2000)
    (tmp_path / "theirs" / "config.json").rename(tmp_path / "ours" / "config.json")
    loaded = type(model).from_pretrained(tmp_path / "ours", variant=variant, use_safetensors=True)
    assert_same(state, loaded.state_dict())


def contents(folder: Path) -> dict[str, Any]:
    """All files but the config, the index without transformers' count of parameters."""
    files: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "config.json"}
    for name in files:
        if name.endswith(".json"):
            files[name] = json.loads(files[name])
            files[name]["metadata"].pop("total_parameters", None)
    return files


STATE = {"a": torch.arange(4.0), "b": torch.arange(6.0), "c": torch.ones(2, dtype=torch.int64)}


def write_shards(folder: Path, variant: str | None = None) -> Path:
    """`STATE` in three shards; their index."""
    folders.write_sharded(folder, "model", store.from_state(STATE), 24, variant)
    return next(folder.glob("*.json"))


def test_shards_hold_what_fits_and_larger_tensors_stand_alone(tmp_path: Path) -> None:
    sizes = {"a": 10, "b": 10, "huge": 50, "c": 10, "d": 1}
    state = {name: torch.zeros(size, dtype=torch.uint8) for name, size in sizes.items()}
    folders.write_sharded(tmp_path, "model", store.from_state(state), 30)
    shards = [set(store.open_file(path).infos) for path in sorted(tmp_path.glob("*.safetensors"))]
    assert shards == [{"huge"}, {"a", "b", "c"}, {"d"}]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 81}


def test_a_folder_without_tensors(tmp_path: Path) -> None:
    folders.write_sharded(tmp_path, "model", store.from_state({}), 30)
    assert not folders.open_part(tmp_path).infos


@pytest.mark.parametrize("name", ["model.safetensors.index.fp16.json", "model.safetensors.fp16.index.json"])
@pytest.mark.parametrize("shard", ["model.fp16-0000{}-of-00003", "model-0000{}-of-00003.fp16"])
def test_older_names_of_variants(tmp_path: Path, name: str, shard: str) -> None:
    index = write_shards(tmp_path, "fp16")
    text = index.read_text()
    for number in (1, 2, 3):
        written, older = f"model.fp16-0000{number}-of-00003.safetensors", shard.format(number) + ".safetensors"
        (tmp_path / written).rename(tmp_path / older)
        text = text.replace(written, older)
    index.unlink()
    (tmp_path / name).write_text(text)
    for variant in (None, "fp16"):
        assert_same(folders.open_part(tmp_path, variant), STATE)


def test_shards_may_be_links_as_in_the_hub_cache(tmp_path: Path) -> None:
    index = write_shards(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for path in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    assert_same(folders.open_part(tmp_path / "snapshot"), STATE)
    assert index.name in os.listdir(tmp_path / "snapshot")


def test_which_variant_is_opened(tmp_path: Path) -> None:
    def add(name: str, value: float) -> None:
        library.save_file({"a": torch.tensor(value)}, tmp_path / name)

    def opened(variant: str | None = None) -> float:
        return folders.open_part(tmp_path, variant).read("a").item()

    add("model.fp16.safetensors", 16)
    assert opened() == opened("fp16") == 16
    add("model.non_ema.safetensors", 1)
    with pytest.raises(ValueError, match=r"no weights without a variant.*'fp16' or 'non_ema'"):
        opened()
    add("model.safetensors", 32)
    assert (opened(), opened("fp16"), opened("non_ema")) == (32, 16, 1)
    with pytest.raises(ValueError, match=r"no variant '../fp8'.*'fp16' or 'non_ema' or none"):
        opened("../fp8")
    add("diffusion_pytorch_model.safetensors", 33)
    with pytest.raises(ValueError, match=r"twice, diffusion_pytorch_model.safetensors and model.safetensors"):
        opened()


def test_folders_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(GOOD)
    with pytest.raises(ValueError, match=r"no model.safetensors"):
        folders.open_part(tmp_path)
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x02}.")
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model.bin: it is a legacy pickle.*`marmo convert`"):
        folders.open_part(tmp_path)
    for name, message in {"absent": "absent: No such file", "config.json": "Not a directory"}.items():
        with pytest.raises(ValueError, match=message):
            folders.open_part(tmp_path / name)


def test_a_model_is_not_written_over_another(tmp_path: Path) -> None:
    write_shards(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"already holds model.safetensors.index.json"):
        folders.write_sharded(tmp_path, "model", store.from_state(STATE), 1 << 20)
    assert contents(tmp_path) == before
    folders.write_sharded(tmp_path, "model", store.from_state(STATE), 1 << 20, variant="fp16")


SHARD = "model-00001-of-00003.safetensors"
BAD_MAPS: dict[str, tuple[object, str]] = {
    "absent": (None, "weight_map"),
    "a list": ([SHARD], "weight_map"),
    "numbers": ({"a": 1}, "weight_map"),
    "the parent": ({"a": "../secret.safetensors"}, "weight_map"),
    "dots": ({"a": ".."}, "weight_map"),
    "a folder": ({"a": f"deeper/{SHARD}"}, "weight_map"),
    "an absolute path": ({"a": f"/tmp/{SHARD}"}, "weight_map"),
    "a Windows path": ({"a": f"..\\{SHARD}"}, "weight_map"),
    "a drive": ({"a": f"C:{SHARD}"}, "weight_map"),
    "a NUL": ({"a": f"a\0{SHARD}"}, "weight_map"),
    "a newline": ({"a": f"{SHARD}\n"}, "weight_map"),
    "a pickle": ({"a": "model.bin"}, "weight_map"),
    "a missing shard": ({"a": SHARD, "d": "model-00004-of-00003.safetensors"}, "00004-of-00003.safetensors: No such"),
    "a missing tensor": ({"a": SHARD, "b": SHARD, "d": SHARD}, "does not hold 'd'"),
    "too little": ({"a": SHARD}, "holds 'b'"),
}


@pytest.mark.parametrize(("weight_map", "message"), BAD_MAPS.values(), ids=BAD_MAPS.keys())
def test_refuses_a_weight_map(tmp_path: Path, weight_map: object, message: str) -> None:
    library.save_file({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / SHARD)
    library.save_file({"a": torch.ones(1)}, tmp_path.parent / "secret.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match=message):
        folders.open_part(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"weight_map": {"a": "m.safetensors", "a": "n.safetensors"}}', "{" * 9999]
)
def test_refuses_an_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"model.safetensors.index.json: "):
        folders.open_part(tmp_path)


def test_refuses_a_tensor_that_is_in_two_shards(tmp_path: Path) -> None:
    library.save_file({"a": torch.ones(1)}, tmp_path / "1.safetensors")
    library.save_file({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "2.safetensors")
    weight_map = {"a": "1.safetensors", "b": "2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match=r"2.safetensors holds 'a'"):
        folders.open_part(tmp_path)


def test_refuses_an_endless_index(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors.index.json").open("wb") as file:
        file.truncate(1 << 32)
    with pytest.raises(ValueError, match="more than 16777216 bytes"):
        folders.open_part(tmp_path)
