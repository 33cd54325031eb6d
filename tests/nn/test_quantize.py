"""The codebook: the nearest word, a straight-through gradient, both halves of the loss."""

import pytest
import torch

from marmo.nn.quantize import Codebook


@pytest.fixture
def codebook() -> Codebook:
    torch.manual_seed(0)
    book = Codebook(16, 3)
    torch.nn.init.normal_(book.words)
    return book


def test_every_vector_becomes_its_nearest_word(codebook: Codebook):
    z = torch.randn(2, 3, 5, 4)
    found = codebook(z)
    for b in range(2):
        for y in range(5):
            for x in range(4):
                distances = (codebook.words - z[b, :, y, x]).square().sum(1)
                assert found.indices[b, y, x] == distances.argmin()
                assert torch.allclose(found.z[b, :, y, x], codebook.words[distances.argmin()], atol=1e-6)
    assert torch.equal(codebook.nearest(codebook.read(found.indices)), found.indices), "a word is its own nearest"


def test_gradients_pass_straight_through_and_the_loss_moves_both(codebook: Codebook):
    z = torch.randn(1, 3, 4, 4, requires_grad=True)
    weights = torch.randn(1, 3, 4, 4)
    found = codebook(z)
    (gradient,) = torch.autograd.grad((found.z * weights).sum(), z, retain_graph=True)
    assert torch.allclose(gradient, weights)
    words = codebook.read(found.indices)
    to_z, to_words = torch.autograd.grad(found.loss, [z, codebook.words])
    assert torch.allclose(to_z, 0.25 * 2 * (z - words) / z.numel(), atol=1e-7)
    used = torch.zeros_like(codebook.words)
    for word, vector in zip(found.indices.flatten(), z.detach().permute(0, 2, 3, 1).reshape(-1, 3), strict=True):
        used[word] += 2 * (codebook.words[word].detach() - vector) / z.numel()
    assert torch.allclose(to_words, used, atol=1e-6)
