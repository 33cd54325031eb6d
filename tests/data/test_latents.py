"""Windows of latents: a function of the position, encoded once each, in another order every time."""

from collections import Counter

import pytest
import torch

from marmo.data.latents import CHUNK, Row, drawn, encoded, picture_at
from marmo.models.vae import Moments


def source(position: int) -> tuple[torch.Tensor, str]:
    return torch.full((3, 2, 2), float(position)), str(position)


class Encoder:
    """Counts how often it is asked for each picture."""

    def __init__(self) -> None:
        self.asked: Counter[float] = Counter()

    def encode(self, pixels: torch.Tensor) -> Moments:
        self.asked.update(pixels[:, 0, 0, 0].tolist())
        return Moments(pixels[:, :1], pixels[:, :1] * 0 - 30)

    def read(self, captions: list[str]) -> torch.Tensor:
        return torch.tensor([[int(caption)] for caption in captions])


def test_a_window_is_gone_through_again_in_another_order():
    window, repeats = 2 * CHUNK, 3
    seen = [picture_at(position, window, repeats, seed=0) for position in range(2 * window * repeats)]
    turns = [seen[first : first + window] for first in range(0, len(seen), window)]
    assert turns[0] == list(range(window)) and turns[3] == list(range(window, 2 * window))
    for first in (0, 3):
        assert all(sorted(turn) == turns[first] for turn in turns[first : first + 3])
        assert len({tuple(turn) for turn in turns[first : first + 3]}) == 3
    assert seen != [picture_at(position, window, repeats, seed=1) for position in range(len(seen))]


def test_every_picture_is_encoded_once_and_found_anywhere():
    window, repeats, encoder = 2 * CHUNK, 2, Encoder()
    rows = encoded(source, encoder.encode, encoder.read, window, repeats, seed=0)
    straight = [rows(position) for position in range(2 * window * repeats)]
    assert set(encoder.asked.values()) == {1} and len(encoder.asked) == 2 * window
    for position, row in enumerate(straight):
        picture = picture_at(position, window, repeats, seed=0)
        assert float(row.moments.mean[0, 0, 0]) == picture == int(row.text)
    fresh = Encoder()
    again = encoded(source, fresh.encode, fresh.read, window, repeats, seed=0)
    for position in (500, 3, 300, 130):  # as a run that resumes would ask
        assert torch.equal(again(position).moments.mean, straight[position].moments.mean)


def test_chance_is_a_function_of_seed_and_position():
    row = Row(Moments(torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)), torch.tensor([7]))
    empty = torch.tensor([0])
    one, same, other = (drawn(row, empty, 0.5, 0.25, 0, position) for position in (5, 5, 6))
    assert torch.equal(one.x0, same.x0) and torch.equal(one.noise, same.noise)
    assert not torch.equal(one.x0, other.x0) and not torch.equal(one.x0, one.noise)
    dropped = [int(drawn(row, empty, 0.1, 0.0, 0, position).text) == 0 for position in range(4000)]
    assert 0.08 < sum(dropped) / 4000 < 0.12
    many = torch.stack([drawn(row, empty, 0.0, 0.0, 1, position).noise for position in range(200)])
    assert many.mean().abs() < 0.05 and (many.std() - 1).abs() < 0.05


@pytest.mark.parametrize("window, repeats", [(100, 1), (0, 1), (64, 0)])
def test_what_is_no_window_is_refused(window: int, repeats: int):
    with pytest.raises(ValueError, match="multiple of 64"):
        encoded(source, Encoder().encode, Encoder().read, window, repeats, seed=0)
