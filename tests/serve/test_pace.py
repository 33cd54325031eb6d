"""What is learnt of the machine: how large a batch pays, and when the worker has hung."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marmo.request import ImageRequest
from marmo.serve.messages import Operation
from marmo.serve.pace import ENOUGH, GAIN, MOST, RETRY, Pace, Patience, batch_key, num_rows


def request(**fields: object) -> ImageRequest:
    return ImageRequest(
        **{"model": "m", "width": 64, "height": 64, "guidance_scale": 7.0, "sampler": "euler", **fields}
    )


BATCH = batch_key(request())


def learn(pace: Pace, rows: int, seconds: float, times: int = ENOUGH) -> None:
    for _ in range(times):
        pace.add(Operation("step", BATCH, rows), seconds)


def test_nothing_joins_before_a_step_was_measured():
    pace = Pace()
    assert pace.fits(request(), [])
    assert not pace.fits(request(), [request()])
    learn(pace, 2, 1.0, ENOUGH - 1)
    assert not pace.fits(request(), [request()])
    learn(pace, 2, 1.0, 1)
    assert pace.fits(request(), [request()])
    assert not pace.fits(request(), [request(), request()])


def test_a_batch_grows_while_that_pays():
    """As on a card: up to 8 rows cost no more than one; beyond, each costs its share."""
    pace, rows = Pace(), 1
    for _ in range(10):
        learn(pace, rows, max(1.0, rows / 8))
        rows = pace.cap(BATCH)
    assert pace.cap(BATCH) == 8


def test_a_batch_does_not_grow_where_every_row_costs_the_same():
    """As on a small processor."""
    pace = Pace()
    learn(pace, 2, 1.0)
    learn(pace, 4, 2.0)
    assert pace.cap(BATCH) == 2


def test_what_did_not_gain_is_tried_again_later():
    pace = Pace()
    learn(pace, 2, 1.0)
    learn(pace, 4, 9.0)  # another program took the machine
    learn(pace, 2, 1.0, RETRY - 2 * ENOUGH - 1)
    assert pace.cap(BATCH) == 2
    learn(pace, 2, 1.0, 1)
    assert pace.cap(BATCH) == 4


def test_what_did_not_fit_is_not_tried_again():
    pace = Pace()
    learn(pace, 4, 1.0)
    assert pace.cap(BATCH) == 8
    pace.tight(BATCH, 8)
    assert pace.cap(BATCH) == 7
    pace.tight(BATCH, 16)
    assert pace.cap(BATCH) == 7


@given(st.lists(st.tuples(st.integers(1, 100), st.floats(1e-3, 1e3)), max_size=60), st.integers(1, 100))
def test_the_cap_stays_in_bounds(steps: list[tuple[int, float]], tight: int):
    pace = Pace()
    for rows, seconds in steps:
        learn(pace, rows, seconds)
        assert 0 < pace.cap(BATCH) <= MOST
    pace.tight(BATCH, tight)
    assert pace.cap(BATCH) < max(tight, 1)


@given(st.floats(1e-3, 1e3), st.floats(0.5, 2.0))
def test_growth_needs_a_gain(seconds: float, factor: float):
    pace = Pace()
    learn(pace, 2, seconds)
    learn(pace, 4, 2 * seconds / factor)
    if not GAIN * 0.999 < factor < GAIN * 1.001:
        assert pace.cap(BATCH) == (8 if factor > GAIN else 2)


@pytest.mark.parametrize(
    "other", [{"width": 128}, {"model": "n"}, {"prediction": "v"}, {"zero_snr": True}, {"refiner": {"model": "r"}}]
)
def test_only_what_one_call_can_answer_joins(other: dict[str, object]):
    pace = Pace()
    learn(pace, 2, 1.0)
    assert pace.fits(request(steps=9, seed=4, prompt="a bear"), [request()])
    assert not pace.fits(request(**other), [request()])


def test_rows_of_a_request():
    assert num_rows(request()) == 2
    assert num_rows(request(num_images=3)) == 6
    assert num_rows(request(guidance_scale=1.0, num_images=3)) == 3
    assert num_rows(request(guidance_scale=1.0, sampler="euler_cfg_pp")) == 2


def test_patience_is_ten_times_the_median_with_a_floor():
    pace, step = Pace(Patience(floor=5, first=100)), Operation("step", BATCH, 2)
    assert pace.patience(step) == 100
    learn(pace, 2, 0.1)
    assert pace.patience(step) == 5
    learn(pace, 2, 2.0, 20)
    assert pace.patience(step) == 20
    assert pace.patience(Operation("step", BATCH, 8)) == 80
    assert pace.patience(Operation("decoding", BATCH, 1)) == 100
    assert pace.patience(Operation("step", "another batch", 2)) == 100


def test_one_slow_step_does_not_make_patient():
    pace = Pace(Patience(floor=0))
    learn(pace, 2, 1.0, 9)
    learn(pace, 2, 1000.0, 1)
    assert pace.patience(Operation("step", BATCH, 2)) == 10


def test_what_is_opened_quickly_now_may_take_long_the_next_time():
    pace, opening = Pace(Patience(floor=5, first=100)), Operation("opening", BATCH, 1)
    pace.add(opening, 0.001)
    assert pace.patience(opening) == 100
