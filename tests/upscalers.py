"""Upscalers with random weights, of toy size and in the files' real layouts."""

import math
from pathlib import Path

import torch

from marmo.models.rrdb import RRDBConfig
from marmo.models.srvgg import SRVGGConfig
from marmo.weights.forms import FORMS, Family, Network, NetworkConfig, expected
from marmo.weights.keymap import to_theirs
from marmo.weights.store import Tensors, from_state, write

X4 = RRDBConfig(channels=8, growth=4, num_blocks=2)
X2 = RRDBConfig(channels=8, growth=4, num_blocks=2, fold=2)
COMPACT = SRVGGConfig(channels=8, num_convs=3)


def random_weights(config: NetworkConfig, seed: int = 0) -> Tensors:
    """Under our names, at a scale that keeps the variance."""
    draw = torch.Generator().manual_seed(seed)
    state = {
        name: torch.randn(shape, generator=draw) / math.sqrt(math.prod(shape[1:]))
        if len(shape) > 1
        else 0.2 * torch.randn(shape, generator=draw)
        for name, shape in expected(config).items()
    }
    return from_state(state)


def foreign(config: NetworkConfig, network: Network, family: Family, seed: int = 0) -> Tensors:
    """Under the names of a family of files."""
    form = next(form for form in FORMS if (form.network, form.family) == (network, family))
    return to_theirs(form.rules(config), random_weights(config, seed))


def upscaler_file(path: Path, config: NetworkConfig = X4, family: Family = "numbered", seed: int = 0) -> Path:
    network: Network = "srvgg" if isinstance(config, SRVGGConfig) else "rrdb"
    write(path, foreign(config, network, family, seed))
    return path
