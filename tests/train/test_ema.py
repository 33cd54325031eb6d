import math

import pytest
import torch
from torch import nn

from marmo.train.ema import Average, Profile, combination, constant, exponent, power, reconstruct
from marmo.weights.store import from_state


def weights_of(decay, images: int, batch: int) -> torch.Tensor:
    """How much of each update's weights an average holds at the end, by following the shares one by one."""
    shares = torch.zeros(images // batch, dtype=torch.float64)
    for step in range(len(shares)):
        kept = decay((step + 1) * batch, batch)
        shares *= kept
        shares[step] += 1 - kept
    return shares


@pytest.mark.long
@pytest.mark.parametrize("sigma_rel", [0.03, 0.05, 0.10, 0.15, 0.25])
def test_the_profile_has_the_width_that_was_asked_for(sigma_rel):
    shares = weights_of(power(sigma_rel), images=20_000, batch=1)
    times = torch.arange(1, len(shares) + 1, dtype=torch.float64) / len(shares)
    mean = (shares * times).sum()
    width = (shares * (times - mean) ** 2).sum().sqrt()
    assert shares.sum() == pytest.approx(1)
    assert float(width) == pytest.approx(sigma_rel, rel=0.01)
    gamma = exponent(sigma_rel)
    assert float(mean) == pytest.approx((gamma + 1) / (gamma + 2), rel=1e-3)


def test_known_exponents():
    """Karras et al. 2024, section 3.1: sigma_rel 0.05 and 0.10 are gamma 16.97 and 6.94."""
    assert exponent(0.05) == pytest.approx(16.97, abs=0.005)
    assert exponent(0.10) == pytest.approx(6.94, abs=0.005)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.29, 1.0, math.nan])
def test_impossible_widths(sigma_rel):
    with pytest.raises(ValueError, match="sigma_rel above 0 and below"):
        exponent(sigma_rel)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5])
def test_impossible_decays(decay):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        constant(decay)


def walk(steps: int, averages: list[Average], seed: int = 0):
    """A network whose weights wander, followed by averages; yields the images seen after every step."""
    generator = torch.Generator().manual_seed(seed)
    model = averages[0].model.__class__(4, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for step in range(1, steps + 1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator) + 0.01
        for average in averages:
            average.update(model, step * 8, 8)
        yield step * 8, model


@pytest.mark.long
def test_constant_is_the_usual_average():
    average, expected = Average(nn.Linear(4, 3), constant(0.9)), None
    for _, model in walk(20, [average]):
        weight = model.weight.detach().clone()
        start = average.model.weight if expected is None else 0.9 * expected + 0.1 * weight
        expected = start.clone()
    torch.testing.assert_close(average.model.weight, expected)


def test_the_first_update_of_a_power_average_takes_the_weights():
    average = Average(nn.Linear(4, 3), power(0.1))
    _, model = next(walk(1, [average]))
    assert torch.equal(average.model.weight, model.weight)


def test_an_average_is_ready_for_use_and_keeps_running_statistics():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = Average(model, constant(0.5))
    model.train()(torch.randn(16, 2))
    average.update(model, 16, 16)
    assert not average.model.training and not any(p.requires_grad for p in average.model.parameters())
    assert torch.equal(average.model[1].running_mean, model[1].running_mean)
    assert average.model[1].num_batches_tracked == 1


@pytest.mark.long
@pytest.mark.parametrize("wanted", [0.06, 0.08, 0.12])
def test_any_width_after_the_run(wanted):
    """Two profiles, a snapshot every 64 steps; the reconstruction meets the average that was really followed."""
    one, two, truth = (Average(nn.Linear(4, 3), power(sigma)) for sigma in (0.05, 0.10, wanted))
    snapshots = {}
    for images, _ in walk(1024, [one, two, truth]):
        if images % (64 * 8) == 0:
            for sigma, average in ((0.05, one), (0.10, two)):
                state = {name: tensor.clone().half() for name, tensor in average.model.state_dict().items()}
                snapshots[Profile(exponent(sigma), images)] = from_state(state)
    found = reconstruct(snapshots, wanted, 1024 * 8)
    moved = truth.model.weight.abs().mean()
    assert (found.read("weight") - truth.model.weight).abs().mean() < 0.01 * moved
    assert found.infos["weight"].dtype is torch.float32
    nearest = min((one, two), key=lambda average: (average.model.weight - truth.model.weight).abs().sum())
    assert (found.read("weight") - truth.model.weight).abs().sum() < 0.2 * (
        nearest.model.weight - truth.model.weight
    ).abs().sum()


def test_a_known_profile_is_itself():
    known = [Profile(exponent(sigma), images) for sigma in (0.05, 0.1) for images in (100.0, 200.0, 300.0)]
    assert combination(known, known[4]) == pytest.approx([0, 0, 0, 0, 1, 0], abs=1e-6)


def test_nothing_to_reconstruct_from():
    with pytest.raises(ValueError, match="no snapshots"):
        reconstruct({}, 0.1, 100)
