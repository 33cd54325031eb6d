"""Weights in 8 bits: never off by more than half a step, read as floats, and refused where they cannot be meant."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from marmo.cli.convert import Convert
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.quantize import expanded, quantized
from marmo.weights.store import from_state, open_file, write

SHAPES = st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


def drawn(shape: tuple[int, ...], seed: int, power: float, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * 10.0**power).to(dtype)


@settings(deadline=None, derandomize=True)
@given(shape=SHAPES, seed=st.integers(0, 999), power=st.floats(-4, 4), dtype=DTYPES)
def test_no_number_is_off_by_more_than_half_a_step(
    shape: tuple[int, ...], seed: int, power: float, dtype: torch.dtype
) -> None:
    weight = drawn(shape, seed, power, dtype)
    found = expanded(quantized(from_state({"w": weight})), Path("f")).read("w")
    step = weight.float().abs().flatten(1).amax(1).view(-1, *(1 for _ in shape[1:])) / 127
    assert (found.dtype, found.shape) == (torch.float32, weight.shape)
    assert ((found - weight.float()).abs() <= step * (0.5 + 1e-4)).all()


@pytest.mark.long
@settings(deadline=None, derandomize=True)
@given(shape=SHAPES, seed=st.integers(0, 999))
def test_twice_is_once(shape: tuple[int, ...], seed: int) -> None:
    """What was in 8 bits is stored in the same 8 bits again."""
    once = quantized(from_state({"w": drawn(shape, seed, 0)}))
    twice = quantized(expanded(once, Path("f")))
    assert torch.equal(once.read("w"), twice.read("w"))


def test_what_is_stored(tmp_path: Path) -> None:
    """The layout of compressed-tensors; vectors and whole numbers stay."""
    state = {
        "conv.weight": drawn((4, 3, 2, 2), 1, 0),
        "conv.bias": torch.ones(4, dtype=torch.float16),
        "zeros": torch.zeros(2, 3),
        "tiny": torch.full((2, 3), 1e-45),
        "ids": torch.arange(3)[None],
        "scalar": torch.tensor(2.5),
    }
    write(tmp_path / "w.safetensors", quantized(from_state(state)))
    stored = open_file(tmp_path / "w.safetensors")
    assert {name: (str(info.dtype), info.shape) for name, info in stored.infos.items()} == {
        "conv.weight": ("torch.int8", (4, 3, 2, 2)),
        "conv.weight_scale": ("torch.float32", (4, 1, 1, 1)),
        "conv.bias": ("torch.float32", (4,)),
        "zeros": ("torch.int8", (2, 3)),
        "zeros_scale": ("torch.float32", (2, 1)),
        "tiny": ("torch.int8", (2, 3)),
        "tiny_scale": ("torch.float32", (2, 1)),
        "ids": ("torch.int64", (1, 3)),
        "scalar": ("torch.float32", ()),
    }
    read = expanded(stored, tmp_path / "w.safetensors")
    assert set(read.infos) == set(state)
    assert torch.equal(read.read("zeros"), state["zeros"]) and not read.read("tiny").any()
    assert torch.equal(read.read("ids"), state["ids"]) and read.read("scalar") == 2.5


def test_files_without_int8_are_passed_on() -> None:
    tensors = from_state({"a": torch.ones(2, 2), "a_scale": torch.ones(2, 1)})
    assert expanded(tensors, Path("f")) is tensors


@pytest.mark.parametrize(
    ("scale", "sentence"),
    [
        (None, r"'w' is int8, and there is no 'w_scale'"),
        (torch.ones(3), r"'w_scale' is torch.float32 \[3\] and must be floats \[3, 1\]"),
        (torch.ones(2, 1), r"'w_scale' is torch.float32 \[2, 1\] and must be floats \[3, 1\]"),
        (torch.ones(3, 1, dtype=torch.int64), r"'w_scale' is torch.int64 \[3, 1\] and must be floats"),
        (torch.ones(3, 1, dtype=torch.int8), r"'w_scale'"),
    ],
)
def test_what_cannot_be_expanded_is_refused_when_it_is_opened(scale: Tensor | None, sentence: str) -> None:
    state = {"w": torch.ones(3, 2, dtype=torch.int8)} | ({} if scale is None else {"w_scale": scale})
    with pytest.raises(ValueError, match=f"^f: {sentence}"):
        expanded(from_state(state), Path("f"))


def test_a_number_alone_is_no_channel() -> None:
    with pytest.raises(ValueError, match=r"'w_scale' is torch.float32 \[1\] and must be floats \[\]"):
        expanded(from_state({"w": torch.tensor(1, dtype=torch.int8), "w_scale": torch.ones(1)}), Path("f"))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_no_size_is_refused_when_it_is_read(bad: float) -> None:
    state = {"w": torch.ones(2, 2, dtype=torch.int8), "w_scale": torch.tensor([[1.0], [bad]])}
    read = expanded(from_state(state), Path("f")).read
    with pytest.raises(ValueError, match="f: 'w_scale' holds a scale that is not a finite number above 0"):
        read("w")


def test_what_cannot_be_stored_is_refused() -> None:
    with pytest.raises(ValueError, match="'w' has numbers that are not finite"):
        quantized(from_state({"w": torch.tensor([[math.nan]])})).read("w")
    with pytest.raises(ValueError, match="'w_scale' is there already"):
        quantized(from_state({"w": torch.ones(1, 1), "w_scale": torch.ones(1)}))


@pytest.mark.long
def test_a_model_converted_to_int8_opens_again(stand_in: Path, tmp_path: Path) -> None:
    """Every layout, each number within half a step, in little more than half of float16."""
    for target in (tmp_path / "int8.safetensors", tmp_path / "folder"):
        assert Convert(stand_in, target, dtype="int8").run() == 0
        before, after = open_checkpoint(stand_in), open_checkpoint(target)
        for network, part in before.parts.items():
            for name in part.tensors.infos:
                was, found = part.tensors.read(name).float(), after.parts[network].tensors.read(name)
                # A row of theirs may be a column of ours, so the largest of all bounds the step.
                assert (found - was).abs().max() <= was.abs().max() / 127 * 0.5001
    assert (tmp_path / "int8.safetensors").stat().st_size < 0.6 * stand_in.stat().st_size
