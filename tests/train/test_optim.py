import math

import pytest
import torch
from torch import nn

from marmo.train.optim import adamw, cosine, line, rate, rise, scaled


@pytest.mark.long
def test_decay_spares_norms_biases_and_numbers():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Conv2d(4, 4, 3))
    model.scale = nn.Parameter(torch.tensor(1.0))
    model[2].bias.requires_grad_(False)
    decayed, spared = adamw(model, weight_decay=0.3).param_groups
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[2].weight)}
    assert {id(p) for p in spared["params"]} == {
        id(p) for p in (model[0].bias, model[1].weight, model[1].bias, model.scale)
    }
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)


def test_adamw_is_the_papers():
    """Loshchilov and Hutter 2019, algorithm 2, by hand."""
    layer = nn.Linear(3, 2, bias=False)
    theta = layer.weight.detach().clone().double()
    optimizer = adamw(layer, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1)
    first = second = torch.zeros(2, 3, dtype=torch.float64)
    for step in range(1, 6):
        grad = torch.full((2, 3), 0.3 * step)
        layer.weight.grad = grad
        optimizer.param_groups[0]["lr"] = lr = 0.01 * step
        optimizer.step()
        first, second = 0.8 * first + 0.2 * grad, 0.9 * second + 0.1 * grad**2
        ratio = first / (1 - 0.8**step) / ((second / (1 - 0.9**step)).sqrt() + 1e-3)
        theta = theta - lr * (ratio + 0.1 * theta)
    torch.testing.assert_close(layer.weight.detach().double(), theta, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("images", [0, 1, 99, 100, 101, 550, 1000, 1200])
def test_straight_lines(images):
    clamped = min(max((images - 100) / 900, 0), 1)
    assert rise(images, 100, 1000) == pytest.approx(clamped)
    assert line(images, 100, 1000) == pytest.approx(1 - clamped)
    assert cosine(images, 100, 1000) == pytest.approx(0.5 * (1 + math.cos(math.pi * clamped)))


def test_cosine_equals_torchs():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.7)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for step in range(51):
        assert rate(0.7, step * 8, 400, "cosine") == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()


@pytest.mark.parity
def test_warm_up_and_cosine_equal_transformers():
    transformers = pytest.importorskip("transformers")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.7)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, 10, 60)
    for step in range(60):
        assert rate(0.7, step, 60, "cosine", warmup=10) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    "images, schedule, warmup, tail, expected",
    [
        (500, "constant", 0, 0, 2.0),
        (1000, "constant", 0, 0, 2.0),
        (50, "constant", 100, 0, 1.0),
        (0, "constant", 100, 0, 0.0),
        (0, "constant", 0, 0, 2.0),
        (700, "constant", 100, 300, 2.0),
        (850, "constant", 100, 300, 1.0),
        (1000, "constant", 100, 300, 0.0),
        (550, "linear", 100, 0, 1.0),
        (550, "cosine", 100, 0, 1.0),
        (1000, "cosine", 0, 0, 0.0),
        (2000, "linear", 0, 0, 0.0),
        (500, "cosine", 1000, 0, 1.0),
        (500, "cosine", 2000, 0, 0.5),
        (500, "linear", 1000, 0, 1.0),
    ],
)
def test_rates(images, schedule, warmup, tail, expected):
    assert rate(2.0, images, 1000, schedule, warmup, tail) == pytest.approx(expected)


def test_scaling():
    assert scaled(1e-4, 1024, 256, "none") == 1e-4
    assert scaled(1e-4, 1024, 256, "linear") == pytest.approx(4e-4)
    assert scaled(1e-4, 1024, 256, "sqrt") == pytest.approx(2e-4)
