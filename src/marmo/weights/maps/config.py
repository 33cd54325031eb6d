"""Our configs from other people's files: from their config.json, or from the names and shapes of their tensors.

An option in a config.json is expressed by our config, fixed to the one value that our network has, or harmless; any
other is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from marmo.weights.store import TensorInfo

Infos = Mapping[str, TensorInfo]

# Bounds on what a stranger's file may ask of us, well above what any network has.
MOST_BLOCKS = 16  # in a row within a level; SDXL has 10
_MOST_LEVELS = 8
_MOST_MODULES = 128  # in a list; the longest CLIP has 56 layers
_MOST = 1 << 20


@dataclass(frozen=True)
class Options:
    """The options that our config expresses, each with its value or its default."""

    values: Mapping[str, object]

    def whole(self, name: str, most: int = _MOST) -> int:
        """A whole number from 1 to `most`."""
        value = self.values[name]
        if type(value) is not int or not 1 <= value <= most:  # isinstance would let true through
            raise self._refusal(name, f"a whole number from 1 to {most}")
        return value

    def number(self, name: str) -> float:
        """A number above 0."""
        value = self.values[name]
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= _MOST:
            raise self._refusal(name, f"a number above 0 and at most {_MOST}")
        return float(value)

    def wholes(self, name: str, most: int = _MOST) -> tuple[int, ...]:
        """A list of whole numbers, one for each level."""
        numbers = self.values[name]
        if not _is_list(numbers) or not 1 <= len(numbers) <= _MOST_LEVELS:
            raise self._refusal(name, f"a list of 1 to {_MOST_LEVELS} whole numbers")
        return tuple(Options({name: number}).whole(name, most) for number in numbers)

    def per_level(self, name: str, num_levels: int, most: int = _MOST) -> tuple[int, ...]:
        """A whole number for each level; one number stands for all of them."""
        value = self.values[name]
        numbers = (self.whole(name, most),) * num_levels if isinstance(value, int) else self.wholes(name, most)
        if len(numbers) != num_levels:
            raise self._refusal(name, f"one whole number or {num_levels}")
        return numbers

    def flags(self, name: str, num_levels: int) -> tuple[bool, ...]:
        """Yes or no for each level; one answer stands for all of them."""
        value = self.values[name]
        answers = (value,) * num_levels if isinstance(value, bool) else value
        if not _is_list(answers) or len(answers) != num_levels or not all(isinstance(one, bool) for one in answers):
            raise self._refusal(name, f"true, false or a list of {num_levels} of them")
        return tuple(one is True for one in answers)

    def words(self, name: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
        """A list of allowed words, one for each level."""
        words = self.values[name]
        if not _is_list(words) or not 1 <= len(words) <= _MOST_LEVELS or any(word not in allowed for word in words):
            raise self._refusal(name, f"a list of 1 to {_MOST_LEVELS} times {' or '.join(allowed)}")
        return tuple(map(str, words))

    def _refusal(self, name: str, allowed: str) -> ValueError:
        return ValueError(f"{name} in the config.json is {self.values[name]!r}; it must be {allowed}")


def settle(
    given: Mapping[str, object],
    expressed: Mapping[str, object],
    fixed: Mapping[str, object],
    harmless: Mapping[str, str],
) -> Options:
    """The options of a config.json that our config expresses; `ValueError` names every other that asks for something.

    Args:
        expressed: what our config holds -> the peer's default.
        fixed: what our network has no choice in -> the only value.
        harmless: what does not change the network's output -> why.

    An option in none of the tables, such as one that the peer adds tomorrow, passes while it is off (null or false).
    """
    refused = [
        f"{name} {value!r}" + (f" (only {fixed[name]!r})" if name in fixed else "")
        for name, value in given.items()
        if name not in expressed and name not in harmless and not _passes(name, value, fixed)
    ]
    if refused:
        raise ValueError(f"the config.json asks for what Marmo's network does not have: {', '.join(refused)}")
    return Options({name: given.get(name, default) for name, default in expressed.items()})


def size(infos: Infos, name: str, axis: int) -> int:
    """The length of an axis of a tensor."""
    info = infos.get(name)
    if info is None or axis >= len(info.shape) or not 1 <= info.shape[axis] <= _MOST:
        found = "missing" if info is None else f"of shape {list(info.shape)}"
        raise ValueError(f"the tensors do not tell the network's size: {name} is {found}")
    return info.shape[axis]


def count(infos: Infos, prefix: str, most: int = _MOST_MODULES) -> int:
    """How many different parts of names follow `prefix`, which ends in a dot: the length of a list of modules."""
    found = len({name.removeprefix(prefix).split(".")[0] for name in infos if name.startswith(prefix)})
    if found > most:
        raise ValueError(f"the tensors do not tell the network's size: {found} parts in {prefix} are more than {most}")
    return found


def one_or_all(values: tuple[int, ...]) -> int | list[int]:
    """The inverse of `per_level`."""
    return values[0] if len(set(values)) == 1 else list(values)


def _passes(name: str, value: object, fixed: Mapping[str, object]) -> bool:
    if name in fixed:
        return value == fixed[name]
    return name.startswith("_") or value is None or value is False


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, list | tuple)
