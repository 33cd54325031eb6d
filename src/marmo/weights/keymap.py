"""Foreign names are data: a map between their tensors and ours is a list of rules, each with its inverse.

    def compvis(config: UNetConfig) -> list[Rule]:
        return [Rename("input_blocks.0.0", "conv_in"), ...]

    ours = to_ours(compvis(config), theirs, expected=shapes(module), what="the U-Net")
    theirs = to_theirs(compvis(config), ours)

A rule names a prefix: `Rename("a.b", "c")` moves `a.b`, `a.b.weight` and `a.b.bias`; where two rules fit, the longer
prefix wins.  Where a name has several spellings, each has a rule; all are read, one at a time, and the last is written.
Both directions are strict: every source tensor is used or dropped by name and every target is filled once with the
right shape, or `ValueError` prints both lists.  The plan is made from names and shapes; the result is a lazy view.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from marmo.weights.store import TensorInfo, Tensors, let_go


class Entry(NamedTuple):
    """One tensor of the result: what it will be, and how it is made from the source."""

    info: TensorInfo
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Rename:
    """The same tensors under another name."""

    theirs: str
    name: str

    @property
    def ours(self) -> tuple[str, ...]:
        """Prefixes of the tensors of ours that the rule makes; none for what we do not keep."""
        return (self.name,)

    def to_ours(self, name: str, theirs: Tensors) -> dict[str, Entry]:
        return {self.name + name.removeprefix(self.theirs): _same(theirs, name)}

    def to_theirs(self, name: str, ours: Tensors) -> dict[str, Entry]:
        return {self.theirs + name.removeprefix(self.name): _same(ours, name)}


@dataclass(frozen=True)
class Reshape(Rename):
    """Their weight ends in axes of length 1 (a 1x1 convolution), ours is a matrix.

    Files hold either form, so reading takes both; writing gives `ndim` axes.
    """

    ndim: int = 4

    def to_ours(self, name: str, theirs: Tensors) -> dict[str, Entry]:
        shape = theirs.infos[name].shape
        flat = shape[:2] if set(shape[2:]) <= {1} else shape
        return {self.name + name.removeprefix(self.theirs): _reshaped(theirs, name, flat)}

    def to_theirs(self, name: str, ours: Tensors) -> dict[str, Entry]:
        shape = ours.infos[name].shape
        full = shape + (1,) * (self.ndim - 2) if len(shape) == 2 else shape
        return {self.theirs + name.removeprefix(self.name): _reshaped(ours, name, full)}


@dataclass(frozen=True)
class Permute(Rename):
    """The same numbers with the axes in another order: `theirs.permute(axes) == ours`."""

    axes: tuple[int, ...] = (1, 0)

    def to_ours(self, name: str, theirs: Tensors) -> dict[str, Entry]:
        return {self.name + name.removeprefix(self.theirs): _permuted(theirs, name, self.axes)}

    def to_theirs(self, name: str, ours: Tensors) -> dict[str, Entry]:
        inverse = tuple(self.axes.index(axis) for axis in range(len(self.axes)))
        return {self.theirs + name.removeprefix(self.name): _permuted(ours, name, inverse)}


@dataclass(frozen=True)
class Fuse:
    """One tensor of theirs is several of ours, stacked along axis 0 (`in_proj_weight` is q, k and v)."""

    theirs: str
    ours: tuple[str, ...]

    def to_ours(self, name: str, theirs: Tensors) -> dict[str, Entry]:
        count = len(self.ours)
        return {part: _slice(theirs, name, index, count) for index, part in enumerate(self.ours)}

    def to_theirs(self, name: str, ours: Tensors) -> dict[str, Entry]:
        return {self.theirs: _stack(ours, self.ours)} if name == self.ours[0] else {}


@dataclass(frozen=True)
class Constant:
    """A tensor of theirs that is the same in every model: passed over when read, written when saved."""

    theirs: str
    make: Callable[[], Tensor]
    ours: tuple[str, ...] = ()
    filler: bool = False
    """Whether it stands for weights that were left out, and is no part of the model."""

    def to_ours(self, name: str, theirs: Tensors) -> dict[str, Entry]:
        return {}

    def to_theirs(self, name: str, ours: Tensors) -> dict[str, Entry]:
        value = self.make()
        return {self.theirs: Entry(TensorInfo(value.dtype, tuple(value.shape)), lambda: value)}


@dataclass(frozen=True)
class Drop:
    """Tensors of theirs that we have no use for, and why."""

    theirs: str
    reason: str
    ours: tuple[str, ...] = ()

    def to_ours(self, name: str, theirs: Tensors) -> dict[str, Entry]:
        return {}

    def to_theirs(self, name: str, ours: Tensors) -> dict[str, Entry]:
        return {}


Rule = Rename | Reshape | Permute | Fuse | Constant | Drop


def renames(theirs: str, ours: str, parts: Mapping[str, str]) -> list[Rule]:
    """A table of `Rename` for the parts of a module: their names -> ours."""
    return [Rename(f"{theirs}.{their_part}", f"{ours}.{our_part}") for their_part, our_part in parts.items()]


def to_ours(rules: Sequence[Rule], theirs: Tensors, expected: Mapping[str, tuple[int, ...]], what: str) -> Tensors:
    """Their tensors under our names.

    Args:
        expected: our names and shapes, see `shapes`.
        what: the thing that is read, as the error shall name it.
    """
    by_prefix = {rule.theirs: rule for rule in rules}
    entries: dict[str, Entry] = {}
    left_over: list[str] = []
    twice: list[str] = []
    for name in theirs.infos:
        rule = _longest(by_prefix, name)
        if rule is None:
            left_over.append(name)
        else:
            made = rule.to_ours(name, theirs)
            twice += [target for target in made if target in entries]
            entries |= made
    _check(entries, expected, left_over, twice, what)
    return _view(entries, theirs)


def to_theirs(rules: Sequence[Rule], ours: Tensors) -> Tensors:
    """Our tensors under their names, constants included: the inverse of `to_ours`."""
    by_prefix = {prefix: rule for rule in rules for prefix in rule.ours}
    entries: dict[str, Entry] = {}
    for rule in rules:
        if not rule.ours:
            entries |= rule.to_theirs("", ours)
    for name in ours.infos:
        rule = _longest(by_prefix, name)
        assert rule is not None, f"no rule for our own tensor {name}"
        entries |= rule.to_theirs(name, ours)
    return _view(entries, ours)


def their_name(rules: Sequence[Rule], name: str) -> str:
    """What one of our tensors is called there."""
    rule = _longest({prefix: rule for rule in rules for prefix in rule.ours}, name)
    assert rule is not None, f"no rule for our own tensor {name}"
    return rule.theirs + name.removeprefix(rule.name) if isinstance(rule, Rename) else rule.theirs


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a module's weights; the module may lie on the meta device."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def fill(module: nn.Module, tensors: Tensors, dtype: torch.dtype, device: torch.device) -> None:
    """Put weights into a module made on the meta device, ready for use and without gradients.

    A tensor that already has the dtype stays a view of its file: nothing is copied until it is used.
    """
    state = {name: _moved(tensors, name, dtype, device) for name in tensors.infos}
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False).eval()


def _longest(by_prefix: Mapping[str, Rule], name: str) -> Rule | None:
    """The rule with the longest prefix that ends where a part of the name ends."""
    prefix = name
    while prefix and prefix not in by_prefix:
        prefix = prefix.rpartition(".")[0]
    return by_prefix.get(prefix)


def _check(
    entries: Mapping[str, Entry],
    expected: Mapping[str, tuple[int, ...]],
    left_over: list[str],
    twice: list[str],
    what: str,
) -> None:
    missing = [name for name in expected if name not in entries]
    left_over = left_over + [name for name in entries if name not in expected]
    misfits = [
        f"{name} {list(entry.info.shape)} instead of {list(expected[name])}"
        for name, entry in entries.items()
        if name in expected and entry.info.shape != expected[name]
    ]
    parts = {"missing": missing, "left over": left_over, "given twice": twice, "of another shape": misfits}
    faults = [f"{len(names)} {fault} ({_some(names)})" for fault, names in parts.items() if names]
    if faults:
        raise ValueError(f"these weights are not {what}: {', '.join(faults)}")


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _view(entries: Mapping[str, Entry], source: Tensors) -> Tensors:
    infos = {name: entry.info for name, entry in entries.items()}
    return Tensors(infos, lambda name: entries[name].read(), source.metadata, source.maps)


def _moved(tensors: Tensors, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    read = tensors.read(name)
    moved = read.to(device=device, dtype=dtype if read.is_floating_point() else None).contiguous()
    if moved.data_ptr() != read.data_ptr():
        let_go(tensors, read)
    return moved


def _same(source: Tensors, name: str) -> Entry:
    return Entry(source.infos[name], lambda: source.read(name))


def _reshaped(source: Tensors, name: str, shape: tuple[int, ...]) -> Entry:
    return Entry(TensorInfo(source.infos[name].dtype, shape), lambda: source.read(name).reshape(shape))


def _permuted(source: Tensors, name: str, axes: tuple[int, ...]) -> Entry:
    info = source.infos[name]
    if len(info.shape) != len(axes):
        return _same(source, name)  # the shape check names it
    shape = tuple(info.shape[axis] for axis in axes)
    return Entry(TensorInfo(info.dtype, shape), lambda: source.read(name).permute(axes))


def _slice(source: Tensors, name: str, index: int, count: int) -> Entry:
    info = source.infos[name]
    total = info.shape[0] if info.shape else 0
    start, rows = index * (total // count), total // count
    if index == count - 1:
        rows = total - start  # where the division leaves a rest, the shape check names it
    shape = (rows, *info.shape[1:])
    return Entry(TensorInfo(info.dtype, shape), lambda: source.read(name).narrow(0, start, rows))


def _stack(source: Tensors, names: Sequence[str]) -> Entry:
    first = source.infos[names[0]]
    rows = sum(source.infos[name].shape[0] for name in names)
    return Entry(
        TensorInfo(first.dtype, (rows, *first.shape[1:])), lambda: torch.cat([source.read(name) for name in names])
    )
