"""Vector quantisation: every vector becomes the nearest word of a codebook.

van den Oord et al. 2017, "Neural Discrete Representation Learning" (https://arxiv.org/abs/1711.00937).

Shapes: B batch, Z channels, H W height and width, K words of the codebook.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class Quantized(NamedTuple):
    """What became of the vectors."""

    z: Tensor                             # B Z H W; gradients pass as if nothing had happened
    loss: Tensor                          # no axes: words come to the vectors, and vectors stay near their words
    indices: Tensor                       # B H W, which word


class Codebook(nn.Module):
    """K words of Z numbers, drawn from [-1/K, 1/K] at first."""

    def __init__(self, num_words: int, width: int, commitment: float = 0.25) -> None:
        super().__init__()
        self.commitment = commitment
        self.words = nn.Parameter(torch.empty(num_words, width).uniform_(-1 / num_words, 1 / num_words))

    def forward(self, z: Tensor) -> Quantized:
        """B Z H W -> the nearest words; equation 3, with means in place of the norms' sums."""
        indices = self.nearest(z)
        words = self.read(indices)
        loss = F.mse_loss(words, z.detach()) + self.commitment * F.mse_loss(z, words.detach())
        return Quantized(z + (words - z).detach(), loss, indices)

    def nearest(self, z: Tensor) -> Tensor:
        """B Z H W -> B H W."""
        rows = rearrange(z, "b z h w -> (b h w) z")
        distances = self.words.square().sum(1) - 2 * rows @ self.words.T              # BHW K, but for |row|^2
        return rearrange(distances.argmin(1), "(b h w) -> b h w", b=len(z), h=z.shape[2])

    def read(self, indices: Tensor) -> Tensor:
        """B H W -> B Z H W."""
        return rearrange(self.words[indices], "b h w z -> b z h w")
