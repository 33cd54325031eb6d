"""Legacy pickles: the numbers that torch reads, and nothing of a stranger's is run, imported, opened or believed."""

import ast
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import textwrap
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import marmo
from marmo.weights import store
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.legacy import WeightFiles, is_legacy, open_legacy, parse_plan
from marmo.weights.legacy_plan import Plan, make_plan
from marmo.weights.torch_containers import File, open_container
from tests.weights.legacy_files import (
    GOOD,
    REFUSED,
    RUNS_CODE,
    state,
    storage,
    streamed,
    tensor,
    text,
    zipped,
)

ROOT = Path(__file__).parents[2]
SOURCES = Path(marmo.__file__).parent


def plan_of(data: bytes) -> Plan:
    """What the child would answer, made here."""
    return make_plan(open_container(File(io.BytesIO(data), len(data))))


def saved(tmp_path: Path, value: object, is_zip: bool, protocol: int = 2) -> Path:
    path = tmp_path / "model.pt"
    torch.save(value, path, _use_new_zipfile_serialization=is_zip, pickle_protocol=protocol)
    return path


def assert_same(path: Path, expected: dict[str, Tensor]) -> None:
    tensors, _ = open_legacy(path)
    assert tensors.infos.keys() == expected.keys()
    for name, info in tensors.infos.items():
        mine, theirs = tensors.read(name), expected[name]
        assert (info.dtype, info.shape) == (theirs.dtype, tuple(theirs.shape)) == (mine.dtype, tuple(mine.shape))
        assert store.from_state({name: mine}).read(name).contiguous().reshape(-1).view(torch.uint8).tolist() == (
            theirs.detach().contiguous().reshape(-1).view(torch.uint8).tolist()
        )


# What torch reads

both_containers = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "stream"])


@pytest.mark.long
@both_containers
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_the_numbers_are_those_that_torch_loads(tmp_path: Path, is_zip: bool, protocol: int):
    base = torch.arange(24.0).reshape(4, 6)
    tied = torch.randn(3, 5)
    linear = nn.Linear(3, 2)
    value: dict[str, Tensor] = {
        **{f"dtype.{name}": torch.arange(5).to(dtype) for name, dtype in store.DTYPES.items()},
        **linear.state_dict(),
        "parameter": nn.Parameter(torch.randn(2, 2)),
        "frozen": nn.Parameter(torch.arange(3), requires_grad=False),
        "turned": base.T,
        "columns": base[:, 1::2],
        "expanded": torch.tensor([7.0]).expand(3, 4),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0),
        "hollow": torch.empty(2, 0, 3),
        "one": tied,
        "other": tied,
        "名字": base[2:, 3:],
    }
    if not is_zip:  # torch writes the newer dtypes into a stream and cannot load them from there
        value = {name: each for name, each in value.items() if not name.startswith(("dtype.U", "dtype.F8"))}
    path = saved(tmp_path, value, is_zip, protocol)
    assert_same(path, torch.load(path, weights_only=protocol < 4))  # which knows no frames


@both_containers
def test_a_state_dict_of_a_module_keeps_its_names(tmp_path: Path, is_zip: bool):
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    path = saved(tmp_path, module.state_dict(), is_zip)  # an OrderedDict with the attribute _metadata
    assert_same(path, dict(torch.load(path, weights_only=True)))


@both_containers
def test_tensors_that_share_a_storage_stay_views_of_it(tmp_path: Path, is_zip: bool):
    base = torch.zeros(8)
    tensors, _ = open_legacy(saved(tmp_path, {"all": base, "half": base[4:]}, is_zip))
    if is_zip:  # a stream is not aligned, and its numbers are copied into alignment
        tensors.read("half").fill_(1)
        assert tensors.read("all").tolist() == [0] * 4 + [1] * 4
    assert torch.load(tmp_path / "model.pt")["all"].tolist() == [0] * 8  # the file is as it was


def test_a_tensor_with_attributes_of_its_own(tmp_path: Path):
    value = nn.Parameter(torch.ones(2))
    value.note = "kept by torch"  # pyright: ignore[reportAttributeAccessIssue]
    path = saved(tmp_path, {"a": value}, True)
    assert_same(path, {"a": torch.ones(2)})


def test_training_programs_wrap_the_weights(tmp_path: Path):
    weights = {"a.weight": torch.ones(2)}
    value = {
        "state_dict": OrderedDict(weights),
        "global_step": 470000,
        "epoch": np.int64(4),
        "loss": np.float64(0.25),
        "best": np.bool_(True),
        "pytorch-lightning_version": "1.4.2",
        "milestones": Counter([3, 3]),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
        "callbacks": {},
        "hyper_parameters": {"lr": 1e-4},
        "size": torch.Size([1, 2]),
        "names": {"x"},
        "device": torch.device("cpu"),
        "bytes": b"\xff",
        "none": None,
    }
    for is_zip in (True, False):
        path = saved(tmp_path, value, is_zip)
        tensors, left_out = open_legacy(path)
        assert_same(path, weights)
        assert tensors.metadata == {
            "global_step": "470000",
            "epoch": "4",
            "loss": "0.25",
            "best": "True",
            "pytorch-lightning_version": "1.4.2",
            "device": "cpu",
        }
        assert left_out == ("milestones", "optimizer_states", "hyper_parameters", "size", "names", "bytes")


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "params_ema"])
def test_wrappers(wrapper: str):
    data = zipped(state(text(wrapper), b"}" + text("a") + tensor() + b"s", text("other"), tensor()))
    plan = plan_of(data)
    assert list(plan.tensors) == ["a"] and plan.left_out == ["other"]


def test_what_is_called_like_a_wrapper_and_holds_no_tensors_is_none():
    plan = plan_of(zipped(state(text("model"), b"}" + text("kind") + text("x") + b"s", text("a"), tensor())))
    assert list(plan.tensors) == ["a"] and plan.metadata == {"model.kind": "x"}


def test_nested_names_are_dotted(tmp_path: Path):
    a, b = torch.ones(1), torch.zeros(2)
    path = saved(tmp_path, {320: ({"linear.0.weight": a}, [b]), "name": "hyper", "layers": [1, 2]}, True)
    assert_same(path, {"320.0.linear.0.weight": a, "320.1.0": b})
    assert open_legacy(path)[0].metadata == {"name": "hyper", "layers.0": "1", "layers.1": "2"}


@both_containers
def test_the_first_textual_inversions_hold_a_parameter_dict(tmp_path: Path, is_zip: bool):
    embedding = nn.ParameterDict({"*": nn.Parameter(torch.ones(2, 4))})
    path = saved(tmp_path, {"string_to_token": {"*": 265}, "string_to_param": embedding}, is_zip)
    assert_same(path, {"string_to_param.*": torch.ones(2, 4)})


def test_a_tensor_alone(tmp_path: Path):
    assert_same(saved(tmp_path, torch.ones(3), True), {"tensor": torch.ones(3)})


def test_what_lightning_left_behind_is_a_reported_placeholder():
    leftover = b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n"
    callbacks = b"}(" + leftover + b"}" + text("best") + text("x") + b"s" + text("b") + leftover + b")\x81}bu"
    plan = plan_of(zipped(state(text("state_dict"), b"}" + text("a") + tensor() + b"s", text("callbacks"), callbacks)))
    assert plan.left_out == ["callbacks", "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"]


def test_the_first_streams_had_storages_that_are_parts_of_others():
    part = storage()[:-2] + b"(" + text("1") + b"K\x02K\x04ttQ"
    plan = plan_of(streamed(state(text("a"), tensor((2,), (1,), 1, part))))
    dtype, shape, stride, offset, begin, end = plan.tensors["a"]
    assert (dtype, shape, stride, offset) == ("F32", [2], [1], 1)
    assert isinstance(begin, int) and isinstance(end, int) and end - begin == 16


def test_a_python_2_string():
    plan = plan_of(zipped(state(b"U\x01a", tensor(), b"U\x04note", b"U\x02hi")))
    assert list(plan.tensors) == ["a"] and plan.metadata == {"note": "hi"}


@pytest.mark.skipif(sys.platform == "win32", reason="files with holes")
def test_offsets_beyond_four_gigabytes(tmp_path: Path):
    """A zip as torch lays it out, of 5 GB; all but its ends is a hole."""
    path, count = tmp_path / "big.ckpt", 5 << 28
    pickle_ = state(text("a"), tensor((2,), (count - 1,), 0, storage(count=count)))
    entries = [("a/data.pkl", pickle_, len(pickle_)), ("a/data/0", b"", 4 * count)]
    directory = b""
    with path.open("wb") as file:
        for name, data, size in entries:
            header, wide = file.tell(), struct.pack("<2H2Q", 1, 16, size, size)
            file.write(struct.pack("<4s5H3L2H", b"PK\3\4", 45, 0, 0, 0, 0, 0, 0, 0, len(name), 0) + name.encode())
            directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", 45, 45, 0, 0, 0, 0, 0, *(0xFFFFFFFF,) * 2, len(name), 20,
                                     0, 0, 0, 0, header) + name.encode() + wide  # fmt: skip
            file.write(data)
            begin = file.tell()
            file.seek(begin + size - len(data))
        end = file.tell()
        file.write(directory)
        numbers = 2, 2, len(directory), end
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, *numbers))
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, end + len(directory), 1))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, *(0xFFFFFFFF,) * 2, 0))
        file.seek(begin)
        file.write(struct.pack("<f", 1.5))
        file.seek(end - 4)
        file.write(struct.pack("<f", 2.5))
    tensors, _ = open_legacy(path)
    assert tensors.read("a").tolist() == [1.5, 2.5]


# Hostile files


def test_a_file_of_the_corpus_is_good_before_it_is_made_hostile():
    assert list(plan_of(zipped(GOOD)).tensors) == list(plan_of(streamed(GOOD)).tensors) == ["weight"]


@pytest.mark.long
@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence(name: str):
    data, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason) as caught:
        parse_plan(json.dumps(plan_of(data)._asdict()).encode(), len(data))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", RUNS_CODE)
@pytest.mark.parametrize("pack", [zipped, streamed])
def test_what_runs_code_in_python_is_refused(name: str, pack: Callable[[bytes], bytes]):
    with pytest.raises(ValueError, match=r"nothing of it was run|protocol|must begin"):
        plan_of(pack(RUNS_CODE[name]))


def test_the_hostile_pickles_do_run_in_python(tmp_path: Path):
    """Else the canary would prove nothing."""
    program = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"
    alive: list[str] = []
    for name, data in RUNS_CODE.items():
        if name in ("eval", "getattr", "INST", "OBJ", "a name from the stack", "protocol 5"):
            subprocess.run([sys.executable, "-S", "-c", program], input=data, cwd=tmp_path, capture_output=True)
            alive += [] if (tmp_path / "canary").exists() else [name]
            (tmp_path / "canary").unlink(missing_ok=True)
    assert not alive


def fuzz(folder: Path, count: int, seed: int) -> dict[str, object]:
    paths = os.pathsep.join((str(SOURCES.parent), str(ROOT)))
    command = [sys.executable, "-m", "tests.weights.fuzz_legacy", str(count), str(seed)]
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.long
def test_hostile_and_3000_mutated_files_run_nothing(tmp_path: Path):
    report = fuzz(tmp_path, 3000, seed=0)
    assert (report["events"], report["canary"]) == ([], False)
    assert min(int(str(report["read"])), int(str(report["refused"]))) > 20  # mutations reach both ends


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_100000_mutated_files_run_nothing(tmp_path: Path):
    report = fuzz(tmp_path, 100_000, seed=1)
    assert (report["events"], report["canary"]) == ([], False)


# The child


@pytest.mark.parametrize("name", ["os.system", "INST", "getattr"])
def test_a_hostile_file_through_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.ckpt"
    path.write_bytes(zipped(RUNS_CODE[name]))
    with pytest.raises(ValueError, match=r"evil.ckpt: its pickle .*nothing of it was run"):
        open_legacy(path)
    assert os.listdir(tmp_path) == ["evil.ckpt"]


@pytest.mark.long
@pytest.mark.parametrize(
    "deed",
    [
        "import socket",
        "open('canary', 'w')",
        "__import__('os').system('touch canary')",
        "exec('1')",
        "__import__('os').mkdir('canary')",
    ],
)
def test_even_a_fault_of_the_machine_could_do_nothing(tmp_path: Path, deed: str):
    """The child, with a machine that obeys: the limits and the hook still stand."""
    assert obeying(tmp_path, deed, "") == ("", ["file"])
    assert obeying(tmp_path, deed, "legacy_plan._confine = lambda size: None")[0] == "done\n"  # it would obey


def obeying(folder: Path, deed: str, change: str) -> tuple[str, list[str]]:
    program = f"""
        import os, sys
        sys.path.append({str(SOURCES.parent)!r})
        from marmo.weights import legacy_plan

        def obey(file):
            {deed}
            print("done", flush=True)

        {change}
        legacy_plan.open_container = obey
        legacy_plan.main()
    """
    (folder / "file").write_bytes(b"PK")
    with (folder / "file").open("rb") as file:
        command = [sys.executable, "-I", "-S", "-c", textwrap.dedent(program)]
        done = subprocess.run(command, stdin=file, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1
    return done.stdout, os.listdir(folder)


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="address spaces have limits on Linux")
def test_a_pickle_that_asks_for_memory_is_stopped(tmp_path: Path):
    path = tmp_path / "lists.ckpt"
    path.write_bytes(zipped(b"\x80\x02" + b"]" * 3_900_000, {}))  # 56 bytes and a place on the stack each
    with pytest.raises(ValueError, match=r"far more memory|gave up"):
        open_legacy(path)


MEMORY = """
import resource, sys
from pathlib import Path
import torch
from marmo.cli.convert import Convert
from marmo.weights import checkpoint, export, legacy, store  # what is imported later is not the file's memory

source, target, times = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
torch.ones(9, 9).T.contiguous()
status = Path("/proc/self/status").read_text()
size = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSize")) << 10
limit = size + int(times * source.stat().st_size) + (24 << 20)  # a child's pages, a timer's stack
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
Convert(source, target).run()
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="address spaces have limits on Linux")
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "stream"])
def test_converting_takes_at_most_twice_the_file(tmp_path: Path, is_zip: bool):
    """The worst case: one tensor that must be copied because it is turned (and, in a stream, not aligned)."""
    turned = torch.arange(1 << 25, dtype=torch.float32).reshape(1 << 12, -1).T
    path, target = saved(tmp_path, {"a": turned}, is_zip), tmp_path / "new.safetensors"
    environment = {
        **os.environ,
        "PYTHONPATH": str(SOURCES.parent),
        "MALLOC_ARENA_MAX": "1",
    }  # or a thread reserves 64 MB

    def convert(times: float) -> int:
        command = [sys.executable, "-c", MEMORY, str(path), str(target), str(times)]
        return subprocess.run(command, env=environment, capture_output=True).returncode

    assert convert(2) == 0
    assert torch.equal(store.open_file(target).read("a"), turned)
    target.unlink()
    assert convert(0.5) != 0  # the limit acts


# The parent believes nothing


@pytest.mark.parametrize(
    "entry",
    [
        ["F32", [2], [1], 0, 0, 4],
        ["F32", [2], [1], 0, 96, 104],
        ["F32", [2], [-1], 1, 0, 8],
        ["F32", [2], [1], True, 0, 8],
        ["F32", [2.0], [1], 0, 0, 8],
        ["F32", [2], [1, 1], 0, 0, 8],
        ["F99", [2], [1], 0, 0, 8],
        ["F32", [0, 1 << 62, 4], [1, 1, 1], 0, 0, 0],
        ["F32", [1 << 40], [0], 0, 0, 8],
        ["F32", [2], [1], 0, 0],
        "F32",
        None,
    ],
)
def test_a_plan_that_does_not_fit_the_file_is_refused(entry: object):
    plan = {"tensors": {"a": entry}, "metadata": {}, "left_out": []}
    with pytest.raises(ValueError):
        parse_plan(json.dumps(plan).encode(), 100)
    plan["tensors"] = {"a": ["F32", [2], [1], 0, 92, 100]}
    assert parse_plan(json.dumps(plan).encode(), 100).places["a"].begin == 92


def test_a_sentence_of_the_child_cannot_steer_the_terminal():
    with pytest.raises(ValueError, match=r"^'\\x1b\[2J'$"):
        parse_plan(json.dumps({"error": "\x1b[2J"}).encode(), 1)


# Recognising


@pytest.mark.parametrize("header", [0x4B50, 0x80, 0x280])
def test_a_safetensors_file_whose_length_spells_a_magic_number_is_none(tmp_path: Path, header: int):
    path = tmp_path / "x.safetensors"
    path.write_bytes(header.to_bytes(8, "little") + b"{}".ljust(header))
    assert not is_legacy(path) and not WeightFiles().open(path).infos


@pytest.mark.parametrize("data", [zipped(GOOD), streamed(GOOD), REFUSED["a tar"][0], b"\x80\x02}."])
def test_a_legacy_file_is_known_whatever_it_is_called(tmp_path: Path, data: bytes):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    assert is_legacy(path)
    with pytest.raises(ValueError, match=r"`marmo convert` makes safetensors of it|no safetensors"):
        store.open_file(path)


@pytest.mark.long
def test_a_folder_of_bin_files(stand_in_folder: Path, tmp_path: Path):
    for file in stand_in_folder.rglob("*"):
        place = tmp_path / file.relative_to(stand_in_folder)
        if file.suffix == ".safetensors":
            tensors = store.open_file(file)
            place.parent.mkdir(parents=True, exist_ok=True)
            name = "pytorch_model.bin" if file.stem == "model" else f"{file.stem}.bin"
            torch.save({key: tensors.read(key) for key in tensors.infos}, place.with_name(name))
        elif file.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"\.bin: it is a legacy pickle.*`marmo convert`"):
        open_checkpoint(tmp_path)
    opened, expected = open_checkpoint(tmp_path, opener=WeightFiles().open), open_checkpoint(stand_in_folder)
    for slot, part in opened.parts.items():
        mine, theirs = part.tensors, expected.parts[slot].tensors
        assert all(torch.equal(mine.read(name), theirs.read(name)) for name in theirs.infos)


def test_shards_and_their_index(tmp_path: Path, stand_in_folder: Path):
    folder = tmp_path / "text_encoder"
    folder.mkdir()
    source = stand_in_folder / "text_encoder"
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    tensors = store.open_file(source / "model.safetensors")
    shards = {f"pytorch_model-{index + 1:05d}-of-00002.bin": list(tensors.infos)[index::2] for index in range(2)}
    for name, names in shards.items():
        torch.save({key: tensors.read(key) for key in names}, folder / name)
    weight_map = {key: name for name, names in shards.items() for key in names}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    part = open_checkpoint(folder, opener=WeightFiles().open).parts["text"]
    assert part.num_parameters == open_checkpoint(source).parts["text"].num_parameters


# Our own sources


@pytest.mark.long
def test_nothing_under_src_unpickles():
    """No import of a module that unpickles, and no torch.load; numpy's loader only with its own refusal of objects."""
    forbidden = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "pickletools"}
    found: list[str] = []
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=names) if forbidden & {name.name.split(".")[0] for name in names}:
                    found.append(f"{path}: import")
                case ast.ImportFrom(module=str(module)) if module.split(".")[0] in forbidden:
                    found.append(f"{path}: import")
                case ast.Attribute(value=ast.Name(id="torch"), attr="load"):
                    found.append(f"{path}: torch.load")
                case _:
                    pass
    assert not found


def test_the_corpus_is_what_pickle_would_read():
    """The good file of the corpus is a pickle to Python as well, apart from its storages."""

    class Peer(pickle.Unpickler):
        def persistent_load(self, pid: object) -> object:
            return pid

        def find_class(self, module_name: str, global_name: str) -> object:
            return OrderedDict if global_name == "OrderedDict" else lambda *arguments: (global_name, *arguments)

    (stored, offset, shape, stride) = Peer(io.BytesIO(GOOD)).load()["weight"][1:5]
    assert (stored[2:], offset, shape, stride) == (("0", "cpu", 6), 0, (2, 3), (3, 1))
