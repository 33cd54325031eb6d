"""The autoencoder: the size of the real one, shapes, its Gaussian, and every knob."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from marmo.models.vae import KL_F8, KL_F8_TOY, VAE, Moments, VAEConfig, begin_blurred
from marmo.weights.keymap import shapes

TOY = replace(KL_F8_TOY, channels=(16, 32), num_groups=8)

KNOBS = {"channels": (16, 16), "latent_channels": 3, "num_res_blocks": 2, "num_groups": 4}


def toy(config: VAEConfig = TOY) -> VAE:
    torch.manual_seed(0)
    return VAE(config).requires_grad_(False)


def pixels(height: int = 8, width: int = 8) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_real_size() -> None:
    with torch.device("meta"):
        vae = VAE(KL_F8)
        assert sum(weight.numel() for weight in vae.parameters()) == 83_653_863
        mean, logvar = vae.encode(torch.empty(1, 3, 512, 512))
        assert mean.shape == logvar.shape == (1, 4, 64, 64)
        assert vae.decode(mean).shape == (1, 3, 512, 512)
    assert KL_F8.factor == 8


@pytest.mark.parametrize("size", [(8, 8), (16, 4)])
def test_shapes(size: tuple[int, int]) -> None:
    vae = toy()
    mean, logvar = vae.encode(pixels(*size))
    assert mean.shape == logvar.shape == (2, 4, size[0] // 2, size[1] // 2)
    assert vae.decode(mean).shape == (2, 3, *size)


def test_a_sample_is_the_mean_and_noise_of_the_right_width() -> None:
    moments = Moments(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 2.0]]))
    assert torch.equal(moments.sample(torch.zeros(1, 2)), moments.mean)
    torch.testing.assert_close(moments.sample(torch.ones(1, 2)), torch.tensor([[2.0, 2.0 + torch.e]]))


def test_the_variance_is_bounded() -> None:
    vae = toy()
    vae.to_moments.weight[4:] *= 1e6
    logvar = vae.encode(pixels()).logvar
    assert (logvar.min(), logvar.max()) == (-30, 20)


def test_a_knob_for_every_field() -> None:
    assert KNOBS.keys() | {"latent_scale"} == {field.name for field in fields(VAEConfig)}  # the caller's to apply


@pytest.mark.parametrize("knob", KNOBS)
def test_every_knob_changes_something(knob: str) -> None:
    vae, other = toy(), toy(replace(TOY, **{knob: KNOBS[knob]}))
    if shapes(vae) == shapes(other):
        other.load_state_dict(vae.state_dict())
        assert not torch.allclose(vae.encode(pixels()).mean, other.encode(pixels()).mean, atol=1e-4)
        assert not torch.allclose(
            vae.decode(pixels()[:, [0, 1, 2, 0]]), other.decode(pixels()[:, [0, 1, 2, 0]]), atol=1e-4
        )


def test_halving_looks_right_and_down_only() -> None:
    """A latent sees no pixel above or left of its own in the convolution that halves."""
    shrink = toy().encoder.down[0]
    seen = torch.zeros(1, 16, 4, 4, requires_grad=True)
    shrink.blocks = torch.nn.ModuleList()
    shrink(seen)[0, 0, 1, 1].backward()
    assert seen.grad is not None
    rows = seen.grad.abs().sum((0, 1, 3)).nonzero().flatten().tolist()
    assert rows == [2, 3]  # and the padding below


def test_pictures_of_a_batch_do_not_see_each_other() -> None:
    vae, x = toy(), pixels()
    torch.testing.assert_close(vae.encode(x).mean[:1], vae.encode(x[:1]).mean, rtol=1e-5, atol=1e-6)


def test_it_begins_with_blurred_colours() -> None:
    torch.manual_seed(0)
    config = VAEConfig(channels=(8, 16, 32), latent_channels=4, latent_scale=1.0, num_res_blocks=1, num_groups=4)
    blocks = torch.rand(4, 3, 8, 8) * 2 - 1
    pictures = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)  # 4 3 32 32

    def likeness(vae: VAE) -> float:
        """The least correlation of a colour with what comes back."""
        with torch.no_grad():
            back = vae.decode(vae.encode(pictures).mean)
        pairs = (torch.stack([back[:, colour].flatten(), pictures[:, colour].flatten()]) for colour in range(3))
        return min(float(torch.corrcoef(pair)[0, 1]) for pair in pairs)

    assert likeness(VAE(config)) < 0.3
    assert likeness(begin_blurred(VAE(config))) > 0.6


def test_groups_of_one_channel_cannot_begin_so() -> None:
    config = VAEConfig(channels=(8, 16), latent_channels=4, latent_scale=1.0, num_res_blocks=1, num_groups=8)
    with pytest.raises(ValueError, match="choose fewer than 8"):
        begin_blurred(VAE(config))
