"""Inception-v3 elsewhere: the names of pytorch-fid's `pt_inception-2015-12-05-6726825d.pth`, also torch-fidelity's.

They are torchvision's names (torchvision/models/inception.py), so the number of classes has to tell the two apart: the
graph that distances are measured with has 1008, torchvision's own weights 1000.
"""

from collections.abc import Mapping

from marmo.models.inception import INCEPTION_2015, InceptionConfig
from marmo.weights.keymap import Drop, Rename, Rule
from marmo.weights.maps.config import Infos, size

_STEM = {
    "Conv2d_1a_3x3": "stem.0",
    "Conv2d_2a_3x3": "stem.1",
    "Conv2d_2b_3x3": "stem.2",
    "Conv2d_3b_1x1": "stem.4",
    "Conv2d_4a_3x3": "stem.5",
}
# Their names within a block -> branch and place of ours.
_NARROW = {
    "branch1x1": "0.0",
    "branch5x5_1": "1.0",
    "branch5x5_2": "1.1",
    "branch3x3dbl_1": "2.0",
    "branch3x3dbl_2": "2.1",
    "branch3x3dbl_3": "2.2",
    "branch_pool": "3.1",
}
_HALVING_NARROW = {"branch3x3": "0.0", "branch3x3dbl_1": "1.0", "branch3x3dbl_2": "1.1", "branch3x3dbl_3": "1.2"}
_LONG = {
    "branch1x1": "0.0",
    "branch7x7_1": "1.0",
    "branch7x7_2": "1.1",
    "branch7x7_3": "1.2",
    "branch7x7dbl_1": "2.0",
    "branch7x7dbl_2": "2.1",
    "branch7x7dbl_3": "2.2",
    "branch7x7dbl_4": "2.3",
    "branch7x7dbl_5": "2.4",
    "branch_pool": "3.1",
}
_HALVING_LONG = {
    "branch3x3_1": "0.0",
    "branch3x3_2": "0.1",
    "branch7x7x3_1": "1.0",
    "branch7x7x3_2": "1.1",
    "branch7x7x3_3": "1.2",
    "branch7x7x3_4": "1.3",
}
_WIDE = {
    "branch1x1": "0.0",
    "branch3x3_1": "1.0",
    "branch3x3_2a": "1.1.branches.0",
    "branch3x3_2b": "1.1.branches.1",
    "branch3x3dbl_1": "2.0",
    "branch3x3dbl_2": "2.1",
    "branch3x3dbl_3a": "2.2.branches.0",
    "branch3x3dbl_3b": "2.2.branches.1",
    "branch_pool": "3.1",
}
_BLOCKS: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("Mixed_5b", "Mixed_5c", "Mixed_5d"), _NARROW),
    "Mixed_6a": _HALVING_NARROW,
    **dict.fromkeys(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), _LONG),
    "Mixed_7a": _HALVING_LONG,
    **dict.fromkeys(("Mixed_7b", "Mixed_7c"), _WIDE),
}


def pytorch_fid(config: InceptionConfig) -> list[Rule]:
    """The names of the file that pytorch-fid downloads; they depend on no config."""
    rules = [rule for theirs, ours in _STEM.items() for rule in _layer(theirs, ours)]
    for index, (block, layers) in enumerate(_BLOCKS.items()):
        for theirs, ours in layers.items():
            rules += _layer(f"{block}.{theirs}", f"blocks.{index}.branches.{ours}")
    return [*rules, Rename("fc", "head")]


def config_from_pytorch_fid(infos: Infos) -> InceptionConfig:
    """The config; `ValueError` for torchvision's Inception-v3, in whose features no published distance is measured."""
    unit = size(infos, "Conv2d_1a_3x3.conv.weight", 0) // 2
    num_classes = size(infos, "fc.weight", 0)
    if unit == INCEPTION_2015.unit and num_classes != INCEPTION_2015.num_classes:
        raise ValueError(
            f"this Inception-v3 has {num_classes} classes; the one that FID is measured with has "
            f"{INCEPTION_2015.num_classes} (pytorch-fid's pt_inception-2015-12-05); other weights give other numbers"
        )
    return InceptionConfig(unit=unit, num_classes=num_classes)


def _layer(theirs: str, ours: str) -> list[Rule]:
    return [
        Rename(f"{theirs}.conv", f"{ours}.conv"),
        Rename(f"{theirs}.bn", f"{ours}.norm"),
        Drop(f"{theirs}.bn.num_batches_tracked", "only training counts batches"),
    ]
