"""ESRGAN elsewhere: Real-ESRGAN's names, and the numbered children of the first programs, which most files have.

Real-ESRGAN's are those of `RRDBNet` in xinntao/BasicSR, ESRGAN's own release spells them otherwise; the numbered ones
are of the `block.py` before it, one `nn.Sequential` from end to end.
"""

import re
from collections.abc import Mapping

from marmo.models.rrdb import RRDBConfig
from marmo.weights.keymap import Rename, Rule
from marmo.weights.maps.config import Infos, count, size

_ENDS: Mapping[str, str] = {
    "conv_first": "conv_in",
    "conv_body": "conv_body",
    "conv_hr": "conv_last",
    "conv_last": "conv_out",
}
_RELEASE: Mapping[str, str] = {"trunk_conv": "conv_body", "HRconv": "conv_last"}
_NUMBERED_UP = re.compile(r"model\.(\d{1,3})\.weight")
MOST_DOUBLINGS = 4
FOLDS = {3: 1, 12: 2, 48: 4}
"""Channels of the first convolution's input -> pixels folded along each axis."""


def real(config: RRDBConfig) -> list[Rule]:
    """Real-ESRGAN's names; those of ESRGAN's own release are read as well."""
    return [
        *_release(config),
        *(Rename(theirs, ours) for theirs, ours in _ENDS.items()),
        *(Rename(f"conv_up{index + 1}", f"up.{index}") for index in range(config.num_doublings)),
        *_blocks(config, "body.{}.rdb{}.conv{}"),
    ]


def numbered(config: RRDBConfig) -> list[Rule]:
    """The names of the first programs: `model.` and the place in one sequence, activations and doublings counted."""
    last = 2 + 3 * config.num_doublings
    return [
        Rename("model.0", "conv_in"),
        *_blocks(config, "model.1.sub.{}.RDB{}.conv{}.0"),
        Rename(f"model.1.sub.{config.num_blocks}", "conv_body"),
        *(Rename(f"model.{3 + 3 * index}", f"up.{index}") for index in range(config.num_doublings)),
        Rename(f"model.{last}", "conv_last"),
        Rename(f"model.{last + 2}", "conv_out"),
    ]


def config_from_real(infos: Infos) -> RRDBConfig:
    """The config of a network under Real-ESRGAN's names, or those of ESRGAN's own release."""
    body, dense = ("RRDB_trunk", "RDB1") if "RRDB_trunk.0.RDB1.conv1.weight" in infos else ("body", "rdb1")
    ups = [name for name in infos if re.fullmatch(r"(conv_up|upconv)\d\.weight", name)]
    return _config(infos, "conv_first.weight", f"{body}.0.{dense}.conv1.weight", count(infos, f"{body}."), len(ups))


def config_from_numbered(infos: Infos) -> RRDBConfig:
    """The config of a network whose children are numbered."""
    places = [int(match[1]) for match in map(_NUMBERED_UP.fullmatch, infos) if match]
    doublings, rest = divmod(max(places, default=0) - 4, 3)
    if rest:
        raise ValueError(f"the tensors do not tell how far ESRGAN enlarges: the last is model.{max(places)}")
    blocks = count(infos, "model.1.sub.") - 1  # the last is the convolution behind them
    return _config(infos, "model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight", blocks, doublings)


def _config(infos: Infos, first: str, dense: str, num_blocks: int, num_doublings: int) -> RRDBConfig:
    fold = FOLDS.get(size(infos, first, 1))
    if fold is None or not 0 <= num_doublings <= MOST_DOUBLINGS or 2**num_doublings < fold:
        raise ValueError(
            f"ESRGAN's network cannot read {size(infos, first, 1)} channels and double {num_doublings} times; "
            f"colours are 3, folded {' or '.join(map(str, list(FOLDS)[1:]))}"
        )
    return RRDBConfig(
        channels=size(infos, first, 0),
        growth=size(infos, dense, 0),
        num_blocks=num_blocks,
        num_doublings=num_doublings,
        fold=fold,
    )


def _release(config: RRDBConfig) -> list[Rule]:
    return [
        *(Rename(theirs, ours) for theirs, ours in _RELEASE.items()),
        *(Rename(f"upconv{index + 1}", f"up.{index}") for index in range(config.num_doublings)),
        *_blocks(config, "RRDB_trunk.{}.RDB{}.conv{}"),
    ]


def _blocks(config: RRDBConfig, theirs: str) -> list[Rule]:
    return [
        Rename(theirs.format(block, dense + 1, conv + 1), f"blocks.{block}.dense.{dense}.convs.{conv}")
        for block in range(config.num_blocks)
        for dense in range(3)
        for conv in range(5)
    ]
