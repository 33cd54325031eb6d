"""ESRGAN's networks: sizes, and how far they enlarge."""

from dataclasses import replace

import pytest
import torch

from marmo.models.rrdb import ESRGAN_ANIME, ESRGAN_X2, ESRGAN_X4, RRDB, RRDBConfig
from marmo.models.srvgg import REALESR_ANIME, REALESR_GENERAL, SRVGG, SRVGGConfig
from marmo.nn.blueprint import blueprint
from tests.upscalers import COMPACT, X2, X4


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (ESRGAN_X4, 16_697_987),
        (ESRGAN_X2, 16_703_171),
        (ESRGAN_ANIME, 4_467_779),
        (REALESR_GENERAL, 1_213_296),
        (REALESR_ANIME, 621_424),
    ],
)
def test_parameters_at_full_size(config: RRDBConfig | SRVGGConfig, count: int):
    with blueprint():
        network = RRDB(config) if isinstance(config, RRDBConfig) else SRVGG(config)
    assert sum(weight.numel() for weight in network.parameters()) == count


@pytest.mark.parametrize(
    ("config", "scale"),
    [(X4, 4), (X2, 2), (replace(X4, fold=4), 1), (replace(X4, num_doublings=0), 1), (replace(X4, num_doublings=3), 8)],
)
def test_a_picture_grows_by_the_scale(config: RRDBConfig, scale: int):
    assert config.scale == scale
    assert RRDB(config)(torch.rand(2, 3, 8, 12)).shape == (2, 3, 8 * scale, 12 * scale)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_the_small_network_grows_by_its_scale(scale: int):
    assert SRVGG(replace(COMPACT, scale=scale))(torch.rand(1, 3, 5, 7)).shape == (1, 3, 5 * scale, 7 * scale)
