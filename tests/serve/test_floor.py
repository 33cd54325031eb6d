"""What docs/serve-batching.md promises of pictures that are painted side by side in bfloat16, held by their PSNR.

`test_batching.py` holds float32 to its floor.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from marmo.pipelines.painter import Ask, answer_together
from marmo.request import ImageRequest
from marmo.serve import batching
from marmo.serve.stock import Stock
from tests.serve.desks import KINDS, Desk, psnr

pytestmark = pytest.mark.long

FLOOR = 40.0
"""Decibels."""
HARD = ("another sampler", "fresh noise", "a Brownian path", "several pictures", "unguided")
"""Kinds whose steps carry a difference furthest; heun's is the largest that was measured."""


@pytest.fixture(scope="module")
def stock(stand_in: Path) -> Stock:
    return Stock({"toy": stand_in}, "cpu", "bfloat16")


@pytest.fixture(scope="module")
def wanted(stock: Stock) -> Mapping[str, ImageRequest]:
    (offer,) = stock.offers()
    small = {"model": "toy", "prompt": "a red fox", "width": 64, "height": 48, "steps": 4, "seed": 7}
    return {kind: ImageRequest(**{**small, **KINDS[kind]}).resolve(offer.defaults) for kind in HARD}


@pytest.fixture(scope="module")
def alone(stock: Stock, wanted: Mapping[str, ImageRequest]) -> Mapping[str, Sequence[bytes]]:
    return {kind: painted(stock, {kind: request})[kind] for kind, request in wanted.items()}


def painted(stock: Stock, requests: Mapping[str, ImageRequest], invariant: bool = False) -> dict[str, Sequence[bytes]]:
    """The pictures of tasks that begin together."""
    desk = Desk(stock)
    for job, request in requests.items():
        desk.add(job, request, invariant=invariant)
    desk.work()
    return {job: desk.pictures(job) for job in requests}


def worst(some: Mapping[str, Sequence[bytes]], others: Mapping[str, Sequence[bytes]]) -> float:
    return min(psnr(a, b) for kind in HARD for a, b in zip(some[kind], others[kind], strict=True))


def test_bfloat16_with_mates_is_above_its_floor(stock, wanted, alone):
    assert worst(painted(stock, wanted), alone) >= FLOOR


def test_bfloat16_is_invariant_to_the_bit(stock, wanted, alone):
    assert painted(stock, wanted, invariant=True) == alone


def test_a_batch_that_disturbs_its_rows_falls_below_the_floor(stock, wanted, alone, monkeypatch):
    """By a twentieth of an answer's spread: the floor is not so low that anything would pass it."""

    def disturbed(asks: Sequence[Ask]) -> None:
        answer_together(asks)
        for ask in asks:
            ask.x0s = [x0 + 0.05 * x0.std() * torch.randn(x0.shape, generator=dice) for x0 in ask.x0s]

    dice = torch.Generator().manual_seed(0)
    monkeypatch.setattr(batching, "answer_together", disturbed)
    assert worst(painted(stock, wanted), alone) < FLOOR
