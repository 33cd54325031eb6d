"""Positions and clocks as vectors."""

import math

import torch
from torch import Tensor


def sinusoidal(t: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Cosines, then sines, of t at `width // 2` frequencies.  t B -> B W, float32 (Ho et al. 2020, LDM's order)."""
    half = width // 2
    exponent = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t.float()[:, None] * torch.exp(-math.log(max_period) * exponent)         # B W/2
    return torch.cat([angles.cos(), angles.sin()], dim=-1)                            # B W


def sinusoidal_2020(t: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Sines, then cosines, whose slowest has the whole period: as in the program of Ho et al. 2020.  t B -> B W"""
    half = width // 2
    exponent = torch.arange(half, dtype=torch.float32, device=t.device) / (half - 1)
    angles = t.float()[:, None] * torch.exp(-math.log(max_period) * exponent)         # B W/2
    return torch.cat([angles.sin(), angles.cos()], dim=-1)                            # B W
