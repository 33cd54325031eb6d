import pytest
import torch
from torch import nn

from marmo.train import checkpoint
from marmo.train.ema import Average, constant
from marmo.train.optim import adamw
from marmo.train.state import Learner, State


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))


def learner(net: nn.Module | None = None, **options) -> Learner:
    net = net or model()
    return Learner(net, adamw(net), **({"batch_size": 8} | options))


def loss(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return (net(x) - x.sum(1, keepdim=True)).square().mean()


def test_accumulating_equals_one_batch():
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    whole, parts = learner(), learner(accumulate=4)
    for one in (whole, parts):  # Adam would not see a wrong scale
        one.optimizer = torch.optim.SGD(one.model.parameters())
    for _ in range(5):
        whole.step(loss(whole.model, x), 0.01)
        for part in x.chunk(4):
            parts.step(loss(parts.model, part), 0.01)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert whole.images == parts.images == 40


def test_nothing_moves_before_the_last_part():
    state = State({"model": learner(accumulate=2)})
    before = [parameter.clone() for parameter in state.main.model.parameters()]
    state.step(loss(state.main.model, torch.randn(4, 4)), 0.1)
    assert all(torch.equal(a, b) for a, b in zip(before, state.main.model.parameters(), strict=True))
    assert (state.images, state.position, state.passed(1)) == (0, 4, False)
    state.step(loss(state.main.model, torch.randn(4, 4)), 0.1)
    assert not torch.equal(before[0], next(iter(state.main.model.parameters())))
    assert (state.images, state.position, state.passed(1)) == (8, 8, True)


def test_clipping_is_by_the_norm_of_all_gradients():
    free, clipped = learner(), learner(clip=0.1)
    x = 10 * torch.randn(8, 4, generator=torch.Generator().manual_seed(2))
    grads = torch.autograd.grad(loss(free.model, x), list(free.model.parameters()))
    norm = torch.cat([grad.flatten() for grad in grads]).norm()
    optimizer = torch.optim.SGD(clipped.model.parameters(), lr=0.0)
    clipped.optimizer = optimizer
    before = [parameter.detach().clone() for parameter in clipped.model.parameters()]
    clipped.step(loss(clipped.model, x), 1.0)
    assert float(clipped.norm) == pytest.approx(float(norm))
    for old, new, grad in zip(before, clipped.model.parameters(), grads, strict=True):
        torch.testing.assert_close(old - new, grad * 0.1 / norm, rtol=1e-3, atol=1e-6)


def test_the_rate_is_the_steps():
    one = learner()
    for lr in (0.5, 0.0):
        before = one.model[0].weight.detach().clone()
        one.step(loss(one.model, torch.randn(8, 4)), lr)
        assert one.lr == lr and torch.equal(before, one.model[0].weight) == (lr == 0)


@pytest.mark.parametrize("batch_size, accumulate", [(8, 3), (0, 1), (8, 0)])
def test_a_batch_must_divide(batch_size, accumulate):
    with pytest.raises(ValueError, match="does not divide into 1 ranks"):
        learner(batch_size=batch_size, accumulate=accumulate)


def test_passing_multiples():
    state = State({"model": learner(batch_size=8)})
    seen = []
    for _ in range(10):
        state.step(loss(state.main.model, torch.randn(8, 4)), 0.0)
        if state.passed(20):
            seen.append(state.images)
    assert seen == [24, 40, 64, 80]
    assert not state.passed(0)


def test_two_learners_with_clocks_of_their_own(tmp_path):
    """As a GAN has them: the second begins later."""
    torch.manual_seed(5)

    def make() -> State:
        return State({"generator": learner(model(1)), "discriminator": learner(model(2))})

    def train(state: State, updates: int) -> None:
        for _ in range(updates):
            generator = torch.Generator().manual_seed(state.images)
            x = torch.randn(8, 4, generator=generator)
            if state.images >= 16:
                other = state.learners["discriminator"]
                other.step(loss(other.model, x), 0.02)
            state.step(loss(state.main.model, x), 0.01)

    straight, first, second = make(), make(), make()
    train(straight, 6)
    train(first, 3)
    checkpoint.save(tmp_path, first, {"seed": 0})
    assert checkpoint.restore(tmp_path, second, seed=0)
    assert [one.images for one in second.learners.values()] == [24, 8]
    train(second, 3)
    for name in straight.learners:
        ours, theirs = second.learners[name].model.state_dict(), straight.learners[name].model.state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


class TestCheckpoints:
    def trained(self, net: nn.Module | None = None) -> State:
        net = net or model()
        state = State({"model": Learner(net, adamw(net), {"ema": Average(net, constant(0.5))}, batch_size=8)})
        state.step(loss(net, torch.randn(8, 4)) if isinstance(net, nn.Sequential) else net.sum(), 0.1)
        return state

    def test_only_the_newest_stay(self, tmp_path):
        state = self.trained()
        for _ in range(4):
            checkpoint.save(tmp_path, state, {"seed": 0}, keep=2)
            state.step(loss(state.main.model, torch.randn(8, 4)), 0.1)
        assert [path.name for path in sorted(tmp_path.iterdir())] == [f"{24:012d}", f"{32:012d}"]

    def test_there_is_none(self, tmp_path):
        assert not checkpoint.restore(tmp_path / "nothing", self.trained(), seed=0)

    def test_what_is_not_finite_is_not_saved(self, tmp_path):
        state = self.trained()
        state.step(loss(state.main.model, torch.full((8, 4), torch.inf)), 0.1)
        with pytest.raises(ValueError, match="not finite after 16 images"):
            checkpoint.save(tmp_path, state, {"seed": 0})
        assert list(tmp_path.iterdir()) == []

    def test_another_seed_and_other_learners_are_refused(self, tmp_path):
        checkpoint.save(tmp_path, self.trained(), {"seed": 0})
        with pytest.raises(ValueError, match="this run has"):
            checkpoint.restore(tmp_path, self.trained(), seed=1)
        with pytest.raises(ValueError, match="this run has"):
            checkpoint.restore(tmp_path, State({"other": learner()}), seed=0)

    def test_another_network_is_refused(self, tmp_path):
        checkpoint.save(tmp_path, self.trained(), {"seed": 0})
        with pytest.raises(ValueError, match="holds another network"):
            checkpoint.restore(tmp_path, self.trained(nn.Sequential(nn.Linear(4, 1))), seed=0)

    @pytest.mark.parametrize("name", ["model", "model-optimizer", "model-average-ema"])
    def test_what_is_cut_off_is_named(self, tmp_path, name):
        path = checkpoint.save(tmp_path, self.trained(), {"seed": 0}) / f"{name}.safetensors"
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(ValueError, match=name):
            checkpoint.restore(tmp_path, self.trained(), seed=0)

    def test_what_a_killed_run_left_is_swept_away(self, tmp_path):
        (tmp_path / ".abc.tmp").mkdir()
        (tmp_path / ".abc.tmp" / "model.safetensors").write_bytes(b"half")
        assert checkpoint.complete(tmp_path) == []
        checkpoint.sweep(tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_an_error_within_leaves_no_checkpoint(self, tmp_path, monkeypatch):
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpoint, "write", full)
        with pytest.raises(OSError, match="No space"):
            checkpoint.save(tmp_path, self.trained(), {"seed": 0})
        assert checkpoint.complete(tmp_path) == []
