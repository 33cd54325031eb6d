"""Inception-v3 against torch-fidelity, whose network and resizing are TensorFlow's to the last bits.

torch-fidelity needs torchvision, so its numbers were taken once (commit 5e211a9, `FeatureExtractorInceptionV3`, feature
"2048") for the weights and the pictures below, and stand here.
"""

import math

import pytest
import torch
from torch import Tensor

from marmo.evaluate.resize import tensorflow
from marmo.models.inception import INCEPTION_2015, Inception
from marmo.nn.blueprint import blueprint
from marmo.weights.keymap import fill, shapes, to_ours, to_theirs
from marmo.weights.maps.inception import pytorch_fid
from marmo.weights.store import Tensors, from_state

pytestmark = pytest.mark.parity

# Every 128th of the 2048 features of two pictures, and the mean of all of them.
GOLDEN = torch.tensor([
    [90.62583923339844, 195.780517578125, 0.0, 118.37561798095703, 38.94564437866211, 150.81344604492188,
     230.9507293701172, 138.09413146972656, 79.18302917480469, 1.3708770275115967, 40.06584548950195, 70.48040771484375,
     41.76935577392578, 12.375001907348633, 197.71510314941406, 0.0],
    [89.39901733398438, 192.8692626953125, 0.0, 126.12136840820312, 42.20014190673828, 153.91860961914062,
     238.22882080078125, 138.8285675048828, 85.23363494873047, 2.000258207321167, 42.249839782714844, 66.86965942382812,
     40.70933151245117, 11.266197204589844, 213.55221557617188, 0.0],
])  # fmt: skip
GOLDEN_MEAN = 56.8173
LARGEST = 588.5261


def drawn(names_and_shapes: dict[str, tuple[int, ...]]) -> Tensors:
    """Random weights under pytorch-fid's names, in the order of the names, that keep signals alive."""
    draw = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    for name in sorted(names_and_shapes):
        shape = names_and_shapes[name]
        noise = torch.randn(shape, generator=draw)
        if len(shape) > 1:
            state[name] = 1.5 * noise * math.prod(shape[1:]) ** -0.5
        elif name.endswith(("weight", "running_var")):
            state[name] = 1 + 0.3 * noise.abs()
        else:
            state[name] = 0.2 * noise
    return from_state(state)


def pictures() -> Tensor:
    """Two, uint8, 40 pixels high and 56 wide."""
    y, x = torch.meshgrid(torch.arange(40), torch.arange(56), indexing="ij")
    channels = [[(x * k * 7 + y * (5 - k) * 3 + 11 * c * x * y // 9) % 256 for c in range(3)] for k in (1, 3)]
    return torch.stack([torch.stack(picture) for picture in channels]).to(torch.uint8)


@pytest.mark.long
def test_the_features_of_the_graph_of_2015() -> None:
    with blueprint():
        network = Inception(INCEPTION_2015)
    expected = shapes(network)
    names = to_theirs(pytorch_fid(INCEPTION_2015), from_state(network.state_dict())).infos
    theirs = drawn({name: info.shape for name, info in names.items()})
    fill(
        network,
        to_ours(pytorch_fid(INCEPTION_2015), theirs, expected, "the Inception"),
        torch.float32,
        torch.device("cpu"),
    )
    pixels = torch.stack([tensorflow(picture, 299) for picture in pictures()])
    features = network((pixels - 128) / 128)
    assert features.shape == (2, 2048)
    assert (features[:, ::128] - GOLDEN).abs().max() <= 1e-5 * LARGEST
    assert features.mean().item() == pytest.approx(GOLDEN_MEAN, rel=1e-5)
    assert features.max().item() == pytest.approx(LARGEST, rel=1e-5)
