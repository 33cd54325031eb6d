from collections import Counter

import numpy as np
import pytest

from marmo.data.order import BucketShuffle, Shuffle, permute


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 16, 17, 100, 1000, 4097])
@pytest.mark.parametrize("key", [0, 1, 2**63 + 5])
def test_a_permutation(count, key):
    found = permute(np.arange(count, dtype=np.uint64), count, key)
    assert sorted(found.tolist()) == list(range(count))


def test_the_order_is_the_same_for_ever():
    order = Shuffle(10, seed=7)
    assert [order(position) for position in range(20)] == [2, 7, 9, 1, 4, 5, 3, 6, 0, 8, 7, 3, 5, 1, 6, 2, 0, 8, 9, 4]


def test_keys_and_passes_differ():
    turns = [
        tuple(Shuffle(50, seed)(turn * 50 + place) for place in range(50)) for seed in (0, 1) for turn in (0, 1, 2)
    ]
    assert len(set(turns)) == 6 and all(sorted(turn) == list(range(50)) for turn in turns)


@pytest.mark.long
def test_every_place_gets_every_number():
    """Over many passes: chi-squared over 12 x 12 cells, 121 degrees of freedom; 180 is beyond 0.9995."""
    counts = np.zeros((12, 12))
    for turn in range(600):
        for place, number in enumerate(permute(np.arange(12, dtype=np.uint64), 12, turn)):
            counts[place, int(number)] += 1
    assert ((counts - 50) ** 2 / 50).sum() < 180


def test_neighbours_are_no_neighbours():
    found = permute(np.arange(10_000, dtype=np.uint64), 10_000, 3).astype(np.int64)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(np.arange(10_000), found)[0, 1]) < 0.05


def test_any_place_at_once():
    order = Shuffle(3 * 10**9, seed=1)
    assert 0 <= order(10**18) < 3 * 10**9


def test_nothing_to_order():
    with pytest.raises(ValueError, match="empty"):
        Shuffle(0, 0)
    with pytest.raises(ValueError, match="empty"):
        BucketShuffle([], 4, 0)


class TestBuckets:
    buckets = (0,) * 50 + (1,) * 9 + (2,) * 1  # 60 images
    batch_size = 4

    def batches(self, count: int, seed: int = 0) -> list[list[int]]:
        order = BucketShuffle(self.buckets, self.batch_size, seed)
        return [[order(batch * 4 + place) for place in range(4)] for batch in range(count)]

    def test_a_batch_has_one_bucket(self):
        for batch in self.batches(200):
            assert len({self.buckets[number] for number in batch}) == 1

    def test_every_number_comes_equally_often(self):
        """In as many batches as there are images: each as often as a batch has places."""
        seen = Counter(number for batch in self.batches(60) for number in batch)
        assert seen == dict.fromkeys(range(60), 4)

    def test_within_a_bucket_all_come_before_any_comes_again(self):
        stream = [number for batch in self.batches(60) for number in batch if self.buckets[number] == 0]
        assert all(sorted(stream[start : start + 50]) == list(range(50)) for start in (0, 50, 100, 150))

    def test_it_depends_on_seed_and_position_alone(self):
        straight = [number for batch in self.batches(130) for number in batch]
        order = BucketShuffle(self.buckets, self.batch_size, 0)
        assert [order(position) for position in reversed(range(520))] == straight[::-1]
        assert self.batches(130, seed=1) != self.batches(130, seed=0)
