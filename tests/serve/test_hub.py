"""Events on their way to readers: slow ones cost a bounded amount and miss what matters least."""

import asyncio

from marmo.serve.hub import MAX_EVENTS, Hub, Listener
from marmo.serve.job import EventKind, JobEvent


def event(kind: EventKind, seq: int = 0, job: str = "a") -> JobEvent:
    pictures = (b"x" * 1000,) if kind == "preview" else ()
    return JobEvent(seq=seq, job=job, kind=kind, time=0.0, pictures=pictures)


def waiting(listener: Listener) -> list[JobEvent]:
    async def read() -> list[JobEvent]:
        listener.close()
        return [one async for one in _all(listener)]

    return asyncio.run(read())


async def _all(listener: Listener):
    while (one := await listener.get()) is not None:
        yield one


def test_a_slow_reader_misses_previews_first_then_steps_never_a_state() -> None:
    hub = Hub()
    with hub.listening("a") as listener:
        hub.publish(event("started", 2 << 20))
        for number in range(10 * MAX_EVENTS):
            hub.pass_on(event("step"))
            hub.pass_on(event("preview"))
            assert len(listener._events) <= MAX_EVENTS
            assert sum(one.kind == "preview" for one in listener._events) <= 1
            if number == MAX_EVENTS:
                assert not any(one.kind == "preview" for one in listener._events)
        hub.publish(event("succeeded", 3 << 20))
        left = waiting(listener)
    assert left[0].kind == "started" and left[-1].kind == "succeeded"
    assert [one.seq for one in left] == sorted({one.seq for one in left})


def test_who_comes_later_gets_the_newest_of_each_kind() -> None:
    hub = Hub()
    hub.publish(event("started", 2 << 20))
    for kind in ("stage", "step", "preview", "step"):
        hub.pass_on(event(kind))
    assert [(one.kind, one.seq - (2 << 20)) for one in hub.newest("a")] == [("stage", 1), ("preview", 3), ("step", 4)]
    hub.publish(event("parked", 3 << 20))
    assert hub.newest("a") == []
    hub.pass_on(event("position"))
    assert hub.newest("a")[0].seq == (3 << 20) + 1


def test_nothing_is_kept_of_a_job_that_has_ended() -> None:
    hub = Hub()
    for number in range(100):
        job = f"job{number}"
        hub.publish(event("started", 2 << 20, job))
        with hub.listening(job):
            hub.publish(event("failed", 3 << 20, job))
            hub.pass_on(event("step", 0, job))
            assert hub.newest(job) == []
        hub.know(f"other{number}", 5, True)
        with hub.listening(f"unknown{number}"):
            pass
    assert hub.listeners == 0 and not hub._channels
