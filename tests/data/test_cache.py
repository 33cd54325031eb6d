import pytest
import torch
from torch import nn

from marmo.data.cache import TensorCache, content_hash, network_hash


@pytest.fixture
def cache(tmp_path):
    return TensorCache(tmp_path)


ORIGIN = {"picture": content_hash(b"fox"), "encoder": "abc", "width": 512, "top": 0.5}


def moments(value: float):
    return lambda: {"mean": torch.full((2, 3), value), "std": torch.ones(2, 3, dtype=torch.bfloat16)}


def never():
    raise AssertionError("it was made again")


def test_made_once(cache):
    first = cache.get(ORIGIN, moments(1.5))
    again = cache.get(dict(reversed(ORIGIN.items())), never)
    assert first.keys() == again.keys() == {"mean", "std"}
    assert all(torch.equal(first[name], again[name]) and first[name].dtype == again[name].dtype for name in first)


@pytest.mark.parametrize(
    "change", [{"picture": content_hash(b"cat")}, {"encoder": "xyz"}, {"width": 513}, {"top": 0.6}]
)
def test_another_origin_is_another_entry(cache, change):
    cache.get(ORIGIN, moments(1.0))
    assert cache.get(ORIGIN | change, moments(2.0))["mean"][0, 0] == 2


@pytest.mark.parametrize("damage", [b"", b"{", b"x" * 100])
def test_what_is_damaged_is_made_again(cache, damage):
    cache.get(ORIGIN, moments(1.0))
    cache.path(ORIGIN).write_bytes(damage)
    assert cache.get(ORIGIN, moments(3.0))["mean"][0, 0] == 3
    assert cache.get(ORIGIN, never)["mean"][0, 0] == 3


def test_an_entry_under_a_wrong_name_is_not_believed(cache):
    cache.get(ORIGIN, moments(1.0))
    other = cache.path(ORIGIN | {"width": 1})
    other.parent.mkdir(parents=True, exist_ok=True)
    cache.path(ORIGIN).rename(other)
    assert cache.get(ORIGIN | {"width": 1}, moments(4.0))["mean"][0, 0] == 4


def test_changing_an_entry_in_memory_leaves_the_disk(cache):
    cache.get(ORIGIN, moments(1.0))["mean"].zero_()
    cache.get(ORIGIN, never)["mean"].zero_()
    assert cache.get(ORIGIN, never)["mean"][0, 0] == 1


def test_networks_have_hashes():
    torch.manual_seed(0)
    one = nn.Linear(2, 2)
    assert network_hash(one) == network_hash(one) != network_hash(nn.Linear(2, 2))
    before = network_hash(one)
    with torch.no_grad():
        one.bias[0] += 1e-7
    assert network_hash(one) != before
