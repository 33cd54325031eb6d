"""Sources of random numbers: golden values, independence of the batch, and the noise between two seeds."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from marmo.diffusion.philox import Philox, philox
from marmo.diffusion.sources import NOISE_SOURCES, Comfy, PhiloxPerPicture, TorchCpu, Varied, slerp
from marmo.solver_names import NoiseSourceName

SIGMAS = torch.tensor([14.6, 3.0, 0.5, 0.03, 0.0])
PER_PICTURE = [TorchCpu, PhiloxPerPicture]


def test_the_request_names_what_exists():
    assert set(get_args(NoiseSourceName)) == NOISE_SOURCES.keys()


# torch-cpu, version 1.  Its logarithm and cosine may differ in the last bit between processors.
NUMBERS = {
    0: [-1.12583983, -1.1523602, -0.250578582, -0.433878809],
    7: [-0.820134521, 0.395631164, 0.898908496, -1.38840389],
    2**63 - 1: [-2.66429758, -1.0910486, 0.451447427, 0.228360698],
}


@pytest.mark.parametrize("seed", NUMBERS)
def test_noise_is_what_it_was(seed):
    noise = TorchCpu([seed]).normal((4, 8, 8))
    assert noise.shape == (1, 4, 8, 8)
    assert noise.dtype == torch.float32
    assert noise.flatten()[:4].tolist() == pytest.approx(NUMBERS[seed], abs=1e-6)


def test_the_generator_reads_32_bits_of_a_seed():
    assert TorchCpu([7 + 2**32]).normal((4, 8, 8)).equal(TorchCpu([7]).normal((4, 8, 8)))


@given(seed=st.integers(0, 2**63 - 4), size=st.integers(1, 4), draws=st.integers(1, 3))
def test_a_picture_of_a_batch_has_the_noise_of_its_own_seed(seed, size, draws):
    shape = (4, 3, 5)
    batch = TorchCpu([seed + index for index in range(size)])
    singles = [TorchCpu([seed + index]) for index in range(size)]
    for _ in range(draws):
        together = batch.normal(shape)
        assert together.equal(torch.cat([single.normal(shape) for single in singles]))


def test_noise_is_standard_normal_and_independent_of_the_global_seed():
    torch.manual_seed(0)
    first = TorchCpu([1, 2]).normal((4, 64, 64))
    torch.manual_seed(1)
    assert TorchCpu([1, 2]).normal((4, 64, 64)).equal(first)
    assert abs(first.mean().item()) < 0.02
    assert abs(first.std().item() - 1) < 0.02
    assert abs(np.corrcoef(first.flatten(1).numpy())[0, 1]) < 0.03


# philox, version 1


def test_philox_gives_the_published_words():
    """The known answers of the authors' Random123 library (kat_vectors, philox4x32 10)."""

    def words(counter, key):
        return [int(word[0]) for word in philox([np.array([value], dtype=np.uint64) for value in counter], key)]

    ones = 0xFFFFFFFF
    assert words([0, 0, 0, 0], [0, 0]) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert words([ones] * 4, [ones] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    assert words(pi, [0xA4093822, 0x299F31D0]) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


# torch.randn on CUDA with seed 0, as A1111 documents it
CUDA = [-0.92466259, -0.42534415, -2.6438457, 0.14518388, -0.12086647, -0.57972564, -0.62285122, -0.32838709]
CUDA += [-1.07454231, -0.36314407, -1.67105067, 2.26550497]


def test_philox_draws_what_cuda_draws():
    assert Philox(0).normal((3, 4)).flatten().tolist() == pytest.approx(CUDA, abs=3e-7)


def test_philox_is_what_it_was():
    source = PhiloxPerPicture([7, 2**63 - 1])
    first, second = source.normal((4, 8, 8)), source.normal((4, 8, 8))
    assert first.dtype == torch.float32 and first.shape == (2, 4, 8, 8)
    assert [*first[:, 0, 0, 0].tolist(), *second[:, 0, 0, 0].tolist()] == pytest.approx(PHILOX, abs=1e-6)


PHILOX = [-0.304846972, -0.844215691, -1.28701162, -2.60199142]


# comfy, version 1


def test_comfy_starts_with_one_draw_of_the_whole_batch():
    start = Comfy([7, 8, 9]).start((4, 8, 8))
    assert start.equal(torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(7)))
    assert start[0].equal(TorchCpu([7]).start((4, 8, 8))[0])  # numbers come in order: the first picture is as alone
    source = Comfy([7, 8, 9])
    source.start((4, 8, 8))
    assert source.normal((4, 8, 8)).equal(Philox(7).normal((3, 4, 8, 8)))


def test_comfy_has_one_path_for_the_batch():
    path = Comfy([7, 8]).path((3, 4), SIGMAS)(SIGMAS[0], SIGMAS[1])
    assert path.shape == (2, 3, 4)
    assert not path[0].equal(TorchCpu([7]).path((3, 4), SIGMAS)(SIGMAS[0], SIGMAS[1])[0])


# All


@pytest.mark.parametrize("kind", PER_PICTURE)
def test_a_picture_has_the_start_the_noise_and_the_path_of_its_seed(kind):
    def numbers(*seeds):
        source = kind(seeds)
        start, fresh, path = source.start((4, 8, 8)), source.normal((4, 8, 8)), source.path((4, 8, 8), SIGMAS)
        return torch.stack([start, fresh, path(SIGMAS[1], SIGMAS[2]), path(SIGMAS[0], SIGMAS[1])])

    assert numbers(5, 6, 7).equal(torch.cat([numbers(5), numbers(6), numbers(7)], dim=1))


@pytest.mark.parametrize("kind", NOISE_SOURCES)
def test_every_source_is_standard_normal(kind):
    source = NOISE_SOURCES[kind]([11, 12])
    path = source.path((4, 48, 48), SIGMAS)
    for noise in (source.start((4, 48, 48)), source.normal((4, 48, 48)), path(SIGMAS[0], SIGMAS[2])):
        assert noise.shape == (2, 4, 48, 48) and noise.dtype == torch.float32
        assert abs(noise.mean().item()) < 0.03
        assert abs(noise.std().item() - 1) < 0.03
        assert abs(np.corrcoef(noise.flatten(1).numpy())[0, 1]) < 0.05


# Variation


def a1111_slerp(share, low, high):
    """The formula that its pictures were made with: norms along the height of C H W."""
    low_unit, high_unit = (noise / torch.norm(noise, dim=1, keepdim=True) for noise in (low, high))
    angle = torch.acos((low_unit * high_unit).sum(1))
    sine = torch.sin(angle)
    return (torch.sin((1 - share) * angle) / sine).unsqueeze(1) * low + (torch.sin(share * angle) / sine).unsqueeze(
        1
    ) * high


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_variation_turns_noise_as_a1111_does(share):
    first, other = TorchCpu([7, 7]), TorchCpu([100, 101])
    varied = Varied(first, other, share).start((4, 8, 6))
    for picture, seed in enumerate([100, 101]):
        low, high = (TorchCpu([each]).start((4, 8, 6))[0] for each in (7, seed))
        assert torch.allclose(varied[picture], a1111_slerp(share, low, high), atol=2e-6)


def test_ends_of_a_variation():
    low, high = TorchCpu([7]).start((4, 8, 8)), TorchCpu([8]).start((4, 8, 8))
    assert torch.allclose(slerp(low, high, 0.0), low, atol=1e-5)
    assert torch.allclose(slerp(low, high, 1.0), high, atol=1e-5)
    assert torch.allclose(slerp(low, low, 0.3), low, atol=1e-5)


@pytest.mark.parametrize("kind", NOISE_SOURCES)
def test_only_the_start_of_a_varied_source_varies(kind):
    make = NOISE_SOURCES[kind]
    varied, plain = Varied(make([7]), make([8]), 0.4), make([7])
    assert not varied.start((4, 8, 8)).equal(plain.start((4, 8, 8)))
    assert varied.normal((4, 8, 8)).equal(plain.normal((4, 8, 8)))
    s, t = SIGMAS[:2]
    assert varied.path((4, 8, 8), SIGMAS)(s, t).equal(plain.path((4, 8, 8), SIGMAS)(s, t))
