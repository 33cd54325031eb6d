"""Messages on a byte stream: what goes in comes out, and a broken stream is never misread."""

import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marmo.request import Defaults, ImageRequest
from marmo.serve.contract import Failed, Finished, Model, Previewed, Ready, Staged, Stepped, Stopped, Task
from marmo.serve.frames import MAX_ATTACHMENT, MAX_ATTACHMENTS, MAX_TEXT
from marmo.serve.messages import FROM_WORKER, TO_WORKER, Began, Cancel, Close, Ended, Idle, Operation, Setup, Tight

words = st.text(max_size=20)
pictures = st.lists(st.binary(max_size=50), max_size=3).map(tuple)
requests = st.builds(
    ImageRequest, prompt=words, negative_prompt=st.none() | words, init_image=st.none() | st.binary(max_size=50)
)
to_worker = st.one_of(
    st.builds(
        Task, job=words, attempt=st.integers(1, 9), request=requests, invariant=st.booleans(), preview_every=st.just(2)
    ),
    st.builds(Cancel, words),
    st.builds(Close, st.floats(0, 100)),
    st.builds(Setup, models=st.lists(st.tuples(words, words), max_size=3).map(tuple), device=st.none() | words),
)
models = st.builds(
    Model,
    id=words,
    title=words,
    family=words,
    sha256=words,
    licence=st.none() | words,
    defaults=st.builds(Defaults, unused=st.frozensets(words, max_size=3)),
)
operations = st.builds(Operation, st.sampled_from(["step", "opening"]), words, st.integers(1, 64))
from_worker = st.one_of(
    st.builds(Ready, st.lists(models, max_size=2).map(tuple)),
    st.builds(Staged, words, st.just(1), st.sampled_from(["loading", "encoding", "decoding"])),
    st.builds(Stepped, words, st.just(1), st.integers(0, 9), st.just(10), st.floats(0, 1e6)),
    st.builds(Previewed, words, st.just(1), st.just(3), pictures),
    st.builds(Finished, words, st.just(1), pictures, st.lists(words).map(tuple)),
    st.builds(Failed, words, st.just(1), st.just("memory"), words),
    st.builds(Stopped, words, st.just(1), st.booleans()),
    st.builds(Began, operations),
    st.builds(Ended, operations, st.floats(0, 1e6)),
    st.builds(Tight, words, st.integers(1, 64)),
    st.just(Idle()),
)


class Trickle(io.BytesIO):
    """A pipe that gives one byte at a time."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 0, 1))


@settings(max_examples=40)
@given(st.lists(from_worker, max_size=2))
def test_what_the_worker_says_arrives(messages: list[object]):
    stream = io.BytesIO(b"".join(map(FROM_WORKER.pack, messages)))
    assert [FROM_WORKER.read(stream) for _ in messages] == messages
    with pytest.raises(EOFError):
        FROM_WORKER.read(stream)


@settings(max_examples=25)
@given(to_worker)
def test_what_the_worker_is_told_arrives_byte_by_byte(message: object):
    assert TO_WORKER.read(Trickle(TO_WORKER.pack(message))) == message


@settings(max_examples=25)
@given(to_worker, st.data())
def test_a_frame_that_is_cut_off_is_the_end(message: object, data: st.DataObject):
    frame = TO_WORKER.pack(message)
    cut = data.draw(st.integers(0, len(frame) - 1))
    with pytest.raises(EOFError):
        TO_WORKER.read(io.BytesIO(frame[:cut]))


@given(st.binary(max_size=200))
def test_noise_is_no_message(noise: bytes):
    with pytest.raises((EOFError, ValueError)):
        while True:
            TO_WORKER.read(io.BytesIO(noise))


@pytest.mark.parametrize("head", [(MAX_TEXT + 1, 0), (10, MAX_ATTACHMENTS + 1)])
def test_what_is_too_large_is_refused_before_it_is_read(head: tuple[int, int]):
    with pytest.raises(ValueError, match="none of ours"):
        TO_WORKER.read(io.BytesIO(struct.pack(">II", *head)))


def test_an_attachment_that_is_too_large_is_refused_before_it_is_read():
    with pytest.raises(ValueError, match="none of ours"):
        TO_WORKER.read(io.BytesIO(struct.pack(">IIQ", 10, 1, MAX_ATTACHMENT + 1)))


@pytest.mark.parametrize("text", [b'["Cancel", {"job": {"attachment": 0}}]', b'["Popen", {}]', b"{}", b"["])
def test_a_frame_of_another_form_is_refused(text: bytes):
    with pytest.raises(ValueError):
        TO_WORKER.read(io.BytesIO(struct.pack(">II", len(text), 0) + text))


def test_a_prompt_is_never_taken_for_an_attachment():
    task = Task(job="j", attempt=1, request=ImageRequest(prompt='{"attachment": 0}', init_image=b"\xff\x00"))
    assert TO_WORKER.read(io.BytesIO(TO_WORKER.pack(task))) == task
