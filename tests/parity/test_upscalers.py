"""ESRGAN's networks against their formulae, written here once more over the names of the released files.

No library of the tests has these networks; the formulae are those of Wang et al. 2018, section 3.1, and of Shi et al.
2016, and the names those that BasicSR's programs and their predecessors write.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from marmo.models.rrdb import RRDB, RRDBConfig
from marmo.models.srvgg import SRVGG
from marmo.nn.blueprint import blueprint
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.keymap import fill
from marmo.weights.store import Tensors
from tests.upscalers import COMPACT, X2, X4, foreign, upscaler_file

pytestmark = pytest.mark.parity


def conv(weights: Tensors, name: str) -> Callable[[Tensor], Tensor]:
    weight, bias = weights.read(f"{name}.weight"), weights.read(f"{name}.bias")
    return lambda x: F.conv2d(x, weight, bias, padding=1)


def bend(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def dense(x: Tensor, weights: Tensors, name: str) -> Tensor:
    """x5 = x + 0.2 conv5(x, x1, ..., x4), where every xi has seen all before it."""
    x1 = bend(conv(weights, name.format(1))(x))
    x2 = bend(conv(weights, name.format(2))(torch.cat((x, x1), 1)))
    x3 = bend(conv(weights, name.format(3))(torch.cat((x, x1, x2), 1)))
    x4 = bend(conv(weights, name.format(4))(torch.cat((x, x1, x2, x3), 1)))
    x5 = conv(weights, name.format(5))(torch.cat((x, x1, x2, x3, x4), 1))
    return x5 * 0.2 + x


def double(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def folded(x: Tensor, side: int) -> Tensor:
    """Each pixel of the result holds a square of x: for every colour, row by row."""
    squares = [x[:, c, i::side, j::side] for c in range(3) for i in range(side) for j in range(side)]
    return torch.stack(squares, dim=1)


def esrgan(x: Tensor, weights: Tensors, config: RRDBConfig, names: dict[str, str]) -> Tensor:
    first = x = conv(weights, names["first"])(folded(x, config.fold))
    for block in range(config.num_blocks):
        inner = x
        for number in (1, 2, 3):
            inner = dense(inner, weights, names["dense"].format(block, number, "{}"))
        x = inner * 0.2 + x
    x = first + conv(weights, names["body"])(x)
    for up in names["ups"].split():
        x = bend(conv(weights, up)(double(x)))
    return conv(weights, names["last"])(bend(conv(weights, names["high"])(x)))


REAL = {
    "first": "conv_first",
    "dense": "body.{}.rdb{}.conv{}",
    "body": "conv_body",
    "ups": "conv_up1 conv_up2",
    "high": "conv_hr",
    "last": "conv_last",
}
OLD = {"first": "model.0", "dense": "model.1.sub.{}.RDB{}.conv{}.0", "body": "model.1.sub.2"}
OLD_X4 = OLD | {"ups": "model.3 model.6", "high": "model.8", "last": "model.10"}
OLD_X2 = OLD | {"ups": "model.3", "high": "model.5", "last": "model.7"}
OLD_X1 = OLD | {"ups": "", "high": "model.2", "last": "model.4"}


@pytest.mark.parametrize(
    ("config", "family", "names"),
    [
        (X4, "original", REAL),
        (X2, "original", REAL),
        (replace(X4, fold=4), "original", REAL),
        (X4, "numbered", OLD_X4),
        (replace(X4, num_doublings=1), "numbered", OLD_X2),
        (replace(X4, num_doublings=0), "numbered", OLD_X1),
    ],
)
@torch.inference_mode()
def test_esrgan(config: RRDBConfig, family: str, names: dict[str, str], tmp_path: Path):
    weights = foreign(config, "rrdb", family)
    part = open_checkpoint(upscaler_file(tmp_path / "esrgan.safetensors", config, family)).parts["rrdb"]
    assert part.config == config
    with blueprint():
        network = RRDB(config)
    fill(network, part.tensors, torch.float32, torch.device("cpu"))
    for shape in ((2, 3, 12, 8), (1, 3, 16, 16)):
        x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        wanted = esrgan(x, weights, config, names)
        assert (network(x) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
        assert wanted.std() > 0.05


@torch.inference_mode()
def test_the_small_network(tmp_path: Path):
    weights = foreign(COMPACT, "srvgg", "original")
    part = open_checkpoint(upscaler_file(tmp_path / "small.safetensors", COMPACT, "original")).parts["srvgg"]
    assert part.config == COMPACT
    with blueprint():
        network = SRVGG(COMPACT)
    fill(network, part.tensors, torch.float32, torch.device("cpu"))
    x = torch.rand(2, 3, 6, 9, generator=torch.Generator().manual_seed(1))
    h = x
    for index in (0, 2, 4, 6):
        h = conv(weights, f"body.{index}")(h)
        h = torch.where(h > 0, h, weights.read(f"body.{index + 1}.weight")[:, None, None] * h)
    h = conv(weights, "body.8")(h)
    wanted = double(double(x))
    for i in range(4):
        for j in range(4):
            wanted[:, :, i::4, j::4] += h[:, [16 * c + 4 * i + j for c in range(3)]]
    assert (network(x) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
