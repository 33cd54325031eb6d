"""The schedule alone: properties of its choices, and whole days simulated on a clock of our own."""

import random
from collections import Counter, defaultdict
from functools import partial
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marmo.serve.scheduling import AGEING, LOOK_AHEAD, MAX_USERS, Entry, Schedule

entries = st.builds(
    lambda owner, priority, model, arrived: (owner, priority, model, arrived),
    st.sampled_from("abcd"), st.integers(-2, 2), st.sampled_from(["sd", "xl"]), st.floats(0, 600),
)  # fmt: skip


def entry(number: int, owner: str = "a", priority: int = 0, model: str = "sd", arrived: float = 0.0) -> Entry:
    return Entry(number, f"job{number}", owner, priority, model, arrived)


def schedule_of(*some: Entry) -> Schedule:
    schedule = Schedule()
    for one in some:
        schedule.add(one)
    return schedule


def drained(schedule: Schedule, now: float = 0.0) -> list[int]:
    taken: list[int] = []
    while (one := schedule.choose(now, lambda _: True)) is not None:
        taken.append(one.number)
    return taken


def test_users_take_turns() -> None:
    schedule = schedule_of(*(entry(n) for n in range(1, 5)), entry(5, "b"), entry(6, "c"), entry(7, "b"))
    assert drained(schedule) == [1, 5, 6, 2, 7, 3, 4]


def test_who_was_served_long_ago_is_first() -> None:
    schedule = schedule_of(entry(1, "a"), entry(2, "b"))
    assert [one.number for _ in range(2) if (one := schedule.choose(0, lambda _: True))] == [1, 2]
    for one in (entry(3, "b"), entry(4, "a")):
        schedule.add(one)
    assert drained(schedule) == [4, 3]


def test_priority_goes_first_and_waiting_lifts() -> None:
    high = entry(9, "b", priority=2, arrived=1000.0)
    assert drained(schedule_of(entry(1, priority=0, arrived=1000.0), high), 1000.0) == [9, 1]
    assert drained(schedule_of(entry(1, priority=-2, arrived=1000.0 - 5 * AGEING), high), 1000.0) == [1, 9]


def test_a_job_that_comes_back_stands_where_it_stood() -> None:
    schedule = schedule_of(entry(2), entry(5))
    schedule.add(entry(3))
    schedule.add(entry(1))
    assert drained(schedule) == [1, 2, 3, 5]


def test_a_removed_job_is_gone() -> None:
    schedule = schedule_of(entry(1), entry(2))
    assert schedule.remove("job1") is not None and schedule.remove("job1") is None
    assert drained(schedule) == [2] and len(schedule) == 0 and schedule.waiting("a") == 0


@pytest.mark.long
@settings(max_examples=40)
@given(st.lists(entries, max_size=40), st.floats(600, 1000))
def test_the_order_is_what_happens(some: list[tuple[str, int, str, float]], now: float) -> None:
    """What is foretold to those who wait is what they get, and everybody is in it once."""
    schedule = schedule_of(*(entry(n, *one) for n, one in enumerate(some)))
    foretold = [one.number for one in schedule.order(now)]
    assert sorted(foretold) == list(range(len(some)))
    assert drained(schedule, now) == foretold


@pytest.mark.long
@settings(max_examples=40)
@given(st.lists(entries, min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_a_warm_model_never_lets_anybody_starve(some: list[tuple[str, int, str, float]], dice: random.Random) -> None:
    """Against an endless stream of fitting jobs, a job that does not fit is passed over a bounded number of times."""
    schedule, numbers = schedule_of(*(entry(n, *one) for n, one in enumerate(some))), count(1000)
    victim = next(schedule.order(600.0))
    for passed in range(LOOK_AHEAD + 1):
        schedule.add(entry(next(numbers), dice.choice("abcd"), 2, "warm", 600.0))
        chosen = schedule.choose(600.0, lambda one: one.model == "warm")
        if chosen is None:
            assert passed == LOOK_AHEAD or victim.model == "warm"
            break
        assert chosen.number != victim.number
    assert schedule.choose(600.0, lambda one: one.model == "warm") is None
    assert schedule.choose(600.0, lambda _: True, lambda one: one.model == "warm") is not None


def test_a_preferred_model_goes_first_within_the_bound() -> None:
    schedule = schedule_of(*(entry(n, model="xl" if n < 3 else "sd") for n in range(1, 50)))
    first = schedule.choose(0, lambda _: True, lambda one: one.model == "sd")
    assert first is not None and first.number == 3
    far = schedule_of(*(entry(n, model="sd" if n > LOOK_AHEAD + 1 else "xl") for n in range(1, 50)))
    first = far.choose(0, lambda _: True, lambda one: one.model == "sd")
    assert first is not None and first.number == 1


def test_last_turns_are_forgotten_in_the_end() -> None:
    schedule = Schedule()
    for number in range(5 * MAX_USERS):
        schedule.add(entry(number, f"user{number}"))
        assert schedule.choose(0, lambda _: True) is not None
    assert len(schedule._turns) <= 2 * MAX_USERS + 1


SEEDS = [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 100))]


def has_room(running: list[tuple[float, Entry]], one: Entry) -> bool:
    return len(running) < 4 and all(other.model == one.model for _, other in running)


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
def test_simulated_days(seed: int) -> None:
    """Random users, models and bursts before one machine of batches: everybody is served, in a bounded time, fairly."""
    dice, schedule = random.Random(seed), Schedule()
    now, numbers, waits, served = 0.0, count(), defaultdict[int, list[float]](list), Counter[str]()
    running: list[tuple[float, Entry]] = []
    for _ in range(700):
        now += dice.expovariate(1 / 3)
        for _ in range(dice.choice([0, 0, 1, 1, 2, 5]) if len(schedule) < 60 else 0):
            schedule.add(entry(next(numbers), dice.choice("aaaab"), dice.randint(-2, 2), dice.choice("xyz"), now))
        running = [(end, one) for end, one in running if end > now]
        while one := schedule.choose(now, partial(has_room, running)):
            running.append((now + dice.uniform(1, 10), one))
            waits[one.priority].append(now - one.arrived)
            served[one.owner] += 1
    assert sum(map(len, waits.values())) + len(schedule) == next(numbers)
    bound = (4 + 1) * AGEING + 60 * 10 + LOOK_AHEAD * 10  # four levels to climb, a full queue, the passing over
    assert max(max(some) for some in waits.values()) < bound
    means = [sum(waits[priority]) / len(waits[priority]) for priority in (-2, 2)]
    assert means[0] > means[1], "priority has to be worth something"
    assert served["a"] and served["b"]


@settings(max_examples=30)
@given(st.integers(2, 5), st.integers(1, 40), st.randoms(use_true_random=False))
def test_turns_are_equal_while_all_wait(users: int, rounds: int, dice: random.Random) -> None:
    numbers = list(range(users * rounds))
    dice.shuffle(numbers)
    schedule = schedule_of(*(entry(n, "abcde"[place % users]) for place, n in enumerate(numbers)))
    served: Counter[str] = Counter()
    while (one := schedule.choose(0, lambda _: True)) is not None:
        served[one.owner] += 1
        assert max(served.values()) - min(served[owner] for owner in "abcde"[:users]) <= 1
