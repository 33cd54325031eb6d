"""Things kept as long as there is room."""

from hypothesis import given
from hypothesis import strategies as st

from marmo.serve.caches import Cache

puts = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12)), max_size=50)


@given(puts, st.integers(0, 20))
def test_never_more_than_the_limit(entries: list[tuple[int, int]], limit: int):
    cache, sizes = Cache[int, int](limit), dict[int, int]()
    for key, size in entries:
        cache.put(key, size, size)
        sizes[key] = size
        kept = [other for other in sizes if cache.get(other) is not None]
        assert cache.size == sum(sizes[other] for other in kept) <= limit
        assert (key in kept) == (size <= limit)


def test_what_was_used_longest_ago_goes_first():
    cache = Cache[str, str](3)
    for key in "abc":
        cache.put(key, key, 1)
    assert cache.get("a") == "a"
    cache.put("d", "d", 1)
    assert [key for key in "abcd" if cache.get(key)] == ["a", "c", "d"]


def test_what_is_too_large_is_not_kept_and_pushes_nothing_out():
    cache = Cache[str, str](3)
    cache.put("a", "a", 3)
    cache.put("b", "b", 4)
    assert cache.get("a") == "a" and cache.get("b") is None
    cache.put("a", "a", 4)
    assert len(cache) == cache.size == 0


def test_letting_go():
    cache = Cache[str, str](9)
    for key in "abc":
        cache.put(key, key, 2)
    cache.keep(lambda value: value != "b")
    assert len(cache) == 2 and cache.size == 4
    cache.shrink(3)
    assert cache.get("a") is None and cache.get("c") == "c"
    cache.drop("c")
    cache.drop("c")
    assert cache.size == 0
