"""The rules, in both directions, and the engine's strictness and laziness."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from marmo.weights.keymap import (
    Constant,
    Drop,
    Fuse,
    Permute,
    Rename,
    Reshape,
    Rule,
    fill,
    renames,
    shapes,
    to_ours,
    to_theirs,
)
from marmo.weights.store import Tensors, from_state, open_file, write


def numbers(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


def read_all(tensors: Tensors) -> dict[str, Tensor]:
    state = {name: tensors.read(name) for name in tensors.infos}
    for name, tensor in state.items():  # what was announced is what comes
        assert tensors.infos[name].shape == tuple(tensor.shape)
        assert tensors.infos[name].dtype == tensor.dtype
    return state


def ours(rules: list[Rule], theirs: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return read_all(to_ours(rules, from_state(theirs), expected, "a toy"))


def there_and_back(rules: list[Rule], theirs: dict[str, Tensor], mine: dict[str, Tensor]) -> None:
    """`theirs` becomes `mine`, and `mine` becomes `theirs`, to the last byte."""
    expected = {name: tuple(tensor.shape) for name, tensor in mine.items()}
    assert_same(ours(rules, theirs, expected), mine)
    assert_same(read_all(to_theirs(rules, from_state(mine))), theirs)


def assert_same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_rename_moves_a_tensor_and_all_below_a_name() -> None:
    a, b, c = numbers(2), numbers(2, 3), numbers(4)
    rules: list[Rule] = [Rename("x.y", "z"), Rename("scale", "gain")]
    there_and_back(rules, {"x.y.weight": b, "x.y.bias": a, "scale": c}, {"z.weight": b, "z.bias": a, "gain": c})


def test_renames_is_a_table() -> None:
    assert renames("a", "b", {"c": "d", "e.0": "f"}) == [Rename("a.c", "b.d"), Rename("a.e.0", "b.f")]


@pytest.mark.parametrize("axes", [2, 3, 4])
def test_reshape_reads_convolutions_as_matrices(axes: int) -> None:
    weight, bias = numbers(2, 3), numbers(2)
    theirs = {"conv.weight": weight.reshape(2, 3, *[1] * (axes - 2)), "conv.bias": bias}
    there_and_back([Reshape("conv", "linear", axes)], theirs, {"linear.weight": weight, "linear.bias": bias})


def test_reshape_reads_either_form_and_leaves_real_convolutions_to_the_shape_check() -> None:
    rule = Reshape("conv", "linear")
    assert_same(
        ours([rule], {"conv.weight": numbers(2, 3)}, {"linear.weight": (2, 3)}), {"linear.weight": numbers(2, 3)}
    )
    with pytest.raises(ValueError, match=r"linear.weight \[2, 3, 3, 3\] instead of \[2, 3\]"):
        ours([rule], {"conv.weight": numbers(2, 3, 3, 3)}, {"linear.weight": (2, 3)})


def test_permute_moves_axes() -> None:
    cube = numbers(2, 3, 4)
    there_and_back([Permute("a", "b")], {"a": numbers(2, 3)}, {"b": numbers(2, 3).T})
    there_and_back([Permute("a", "b", (2, 0, 1))], {"a": cube}, {"b": cube.permute(2, 0, 1)})


def test_fuse_cuts_along_the_first_axis() -> None:
    weight, bias = numbers(6, 2), numbers(6)
    rules: list[Rule] = [
        Fuse(f"in_proj_{leaf}", tuple(f"{part}.{leaf}" for part in "qkv")) for leaf in ("weight", "bias")
    ]
    mine = {f"{part}.weight": weight[2 * i : 2 * i + 2] for i, part in enumerate("qkv")}
    mine |= {f"{part}.bias": bias[2 * i : 2 * i + 2] for i, part in enumerate("qkv")}
    there_and_back(rules, {"in_proj_weight": weight, "in_proj_bias": bias}, mine)


def test_fuse_loses_no_row() -> None:
    with pytest.raises(ValueError, match=r"v \[3, 2\] instead of \[2, 2\]"):
        ours([Fuse("qkv", ("q", "k", "v"))], {"qkv": numbers(7, 2)}, dict.fromkeys("qkv", (2, 2)))


def test_fuse_refuses_a_number() -> None:
    with pytest.raises(ValueError, match="of another shape"):
        ours([Fuse("qk", ("q", "k"))], {"qk": torch.tensor(1.0)}, dict.fromkeys("qk", (2, 2)))


def test_constant_is_passed_over_and_written() -> None:
    rules: list[Rule] = [Rename("a", "b"), Constant("ids", lambda: torch.arange(3))]
    there_and_back(rules, {"a": numbers(2), "ids": torch.arange(3)}, {"b": numbers(2)})
    assert_same(ours(rules, {"a": numbers(2)}, {"b": (2,)}), {"b": numbers(2)})
    assert_same(ours(rules, {"a": numbers(2), "ids": torch.ones(9)}, {"b": (2,)}), {"b": numbers(2)})


def test_drop_is_passed_over_and_not_written() -> None:
    rules: list[Rule] = [Rename("a", "b"), Drop("loss", "only for training")]
    theirs = {"a": numbers(2), "loss.net.weight": numbers(3), "loss.logvar": numbers(1)}
    assert_same(ours(rules, theirs, {"b": (2,)}), {"b": numbers(2)})
    assert_same(read_all(to_theirs(rules, from_state({"b": numbers(2)}))), {"a": numbers(2)})


def test_the_longest_prefix_wins_whatever_the_order() -> None:
    rules: list[Rule] = [Rename("a", "x"), Rename("a.b.c", "z"), Rename("a.b", "y"), Drop("a.b.c.d", "not needed")]
    theirs = {name: numbers(i + 1) for i, name in enumerate(("a.w", "a.b.w", "a.b.c.w", "a.b.c.d.w"))}
    expected = {"x.w": (1,), "y.w": (2,), "z.w": (3,)}
    for order in (rules, rules[::-1]):
        assert ours(order, theirs, expected).keys() == expected.keys()


def test_a_prefix_ends_where_a_part_of_a_name_ends() -> None:
    rules: list[Rule] = [Rename("block.1", "first"), Rename("block.11", "other")]
    a, b = numbers(2), numbers(3)
    there_and_back(rules, {"block.1.w": a, "block.11.w": b}, {"first.w": a, "other.w": b})
    with pytest.raises(ValueError, match=r"1 left over \(block.111.w\)"):
        ours(rules, {"block.111.w": a}, {})


def test_of_several_spellings_all_are_read_and_the_last_is_written() -> None:
    rules: list[Rule] = [Rename("query", "q"), Rename("to_q", "q")]
    there_and_back(rules, {"to_q.weight": numbers(2)}, {"q.weight": numbers(2)})
    assert_same(ours(rules, {"query.weight": numbers(2)}, {"q.weight": (2,)}), {"q.weight": numbers(2)})
    with pytest.raises(ValueError, match=r"1 given twice \(q.weight\)"):
        ours(rules, {"query.weight": numbers(2), "to_q.weight": numbers(2)}, {"q.weight": (2,)})


def test_every_fault_is_in_one_message() -> None:
    theirs = {"a.w": numbers(2), "stranger": numbers(1), "b": numbers(3, 1)}
    with pytest.raises(ValueError) as error:
        ours([Rename("a", "x"), Rename("b", "y")], theirs, {"y": (3,), "z": (1,)})
    assert str(error.value) == (
        "these weights are not a toy: 1 missing (z), 2 left over (stranger, x.w), "
        "1 of another shape (y [3, 1] instead of [3])"
    )


def test_long_lists_are_cut() -> None:
    with pytest.raises(ValueError, match=r"9 missing \(0, 1, 2, 3, ...\)"):
        ours([], {}, {str(i): () for i in range(9)})


def test_nothing_is_read_while_planning() -> None:
    state = {"a": numbers(6, 2), "b": numbers(2, 3), "c.w": numbers(2, 3, 1, 1), "d": numbers(4)}
    reads: list[str] = []

    def read(name: str) -> Tensor:
        reads.append(name)
        return state[name]

    rules: list[Rule] = [Fuse("a", ("q", "k", "v")), Permute("b", "t"), Reshape("c", "l"), Drop("d", "not needed")]
    theirs = Tensors(from_state(state).infos, read)
    expected = {"q": (2, 2), "k": (2, 2), "v": (2, 2), "t": (3, 2), "l.w": (2, 3)}
    mine = to_ours(rules, theirs, expected, "a toy")
    back = to_theirs(rules, mine)
    assert reads == []
    mine.read("k")
    assert reads == ["a"]
    back.read("c.w")
    assert reads == ["a", "c.w"]


def test_metadata_goes_along() -> None:
    theirs = Tensors({}, lambda name: numbers(1), {"format": "pt"})
    assert to_theirs([], to_ours([], theirs, {}, "a toy")).metadata == {"format": "pt"}


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)
        self.gain = nn.Parameter(torch.empty(2))


STATE = {"inner.weight": numbers(2, 3), "inner.bias": numbers(2), "gain": numbers(2) + 5}


def test_shapes_of_a_module_without_memory() -> None:
    with torch.device("meta"):
        assert shapes(Toy()) == {name: tuple(tensor.shape) for name, tensor in STATE.items()}


def test_fill_gives_a_module_its_weights() -> None:
    with torch.device("meta"):
        toy = Toy()
    fill(toy, from_state(STATE), torch.bfloat16, torch.device("cpu"))
    assert_same({name: tensor.float() for name, tensor in toy.state_dict().items()}, STATE)
    assert {weight.dtype for weight in toy.parameters()} == {torch.bfloat16}
    assert not any(weight.requires_grad for weight in toy.parameters())
    torch.testing.assert_close(toy.inner(torch.ones(3).bfloat16()), torch.tensor([3.0, 13.0]).bfloat16())


def test_fill_copies_nothing_that_has_the_dtype(tmp_path) -> None:
    write(tmp_path / "toy.safetensors", from_state(STATE))
    tensors = open_file(tmp_path / "toy.safetensors")
    with torch.device("meta"):
        toy = Toy()
    fill(toy, tensors, torch.float32, torch.device("cpu"))
    assert toy.inner.weight.data_ptr() == tensors.read("inner.weight").data_ptr()
