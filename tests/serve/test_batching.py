"""Tasks painted side by side: each ends as it would have ended alone, whatever its mates are and do."""

import math
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from marmo.files.pictures import find_record
from marmo.nn.engine import Wrap
from marmo.pipelines import first_stage
from marmo.pipelines.latent import LatentDiffusion
from marmo.pipelines.painter import Question
from marmo.request import ImageRequest
from marmo.serve import troubles
from marmo.serve.batching import Batch
from marmo.serve.contract import Failed, Finished, Previewed, Staged, Stepped, Stopped, Task
from marmo.serve.messages import Began, Ended, Tight
from marmo.serve.stock import Stock
from tests.serve.desks import KINDS, Desk, pixels, psnr

FLOOR = 60.0
"""Decibels: what docs/serve-batching.md promises in float32."""

NO_MEMORY = "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to allocate"


@pytest.fixture(scope="module")
def stock(stand_in: Path) -> Stock:
    return Stock({"toy": stand_in}, "cpu", "float32")


@pytest.fixture(scope="module")
def resolve(stock: Stock) -> Callable[..., ImageRequest]:
    (offer,) = stock.offers()

    def request(**fields: object) -> ImageRequest:
        small = {"model": "toy", "prompt": "a red fox", "width": 64, "height": 48, "steps": 3, "seed": 7}
        return ImageRequest(**{**small, **fields}).resolve(offer.defaults)

    return request


@pytest.fixture
def painter(stock: Stock, resolve: Callable[..., ImageRequest]) -> LatentDiffusion:
    """The model that all tasks here are painted with."""
    return stock.find(resolve())


@pytest.fixture
def desk(stock: Stock) -> Desk:
    return Desk(stock)


@pytest.fixture(scope="module")
def alone(stock: Stock) -> Callable[[ImageRequest], Sequence[bytes]]:
    """The pictures of a request that had no mates; each request is painted once for all tests."""
    known = dict[str, Sequence[bytes]]()

    def pictures(request: ImageRequest) -> Sequence[bytes]:
        key = request.model_dump_json()
        if key not in known:
            desk = Desk(stock)
            desk.add("alone", request)
            known[key] = desk.work().pictures("alone")
        return known[key]

    return pictures


@pytest.fixture
def rows(painter: LatentDiffusion) -> Iterator[list[int]]:
    """The rows of every call of the U-Net."""
    calls = list[int]()
    handle = painter.unet.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    yield calls
    handle.remove()


# The promise


UNSHARED = {"another size", "a seamless texture", "a second pass"}
"""Those whose questions no call can answer together with a plain one's."""


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_with_mates_above_the_floor_and_invariant_to_the_bit(desk, resolve, alone, rows, kind: str):
    wanted = resolve(**KINDS[kind])
    expected = alone(wanted)
    rows.clear()
    desk.add("first", resolve(prompt="a bear", seed=1, steps=4))
    for _ in range(2):
        desk.batch.work()  # the mate is a step ahead
    desk.add("fast", wanted)
    desk.add("exact", wanted, invariant=True)
    desk.work()
    assert max(rows) > 2 or kind in UNSHARED, "nothing was shared"
    assert min(psnr(a, b) for a, b in zip(desk.pictures("fast"), expected, strict=True)) >= FLOOR
    assert desk.pictures("exact") == expected
    assert psnr(desk.pictures("first")[0], alone(resolve(prompt="a bear", seed=1, steps=4))[0]) >= FLOOR


def test_alone_is_what_the_pipeline_paints(painter, resolve, alone, stand_in):
    wanted = resolve(num_images=2)
    result = painter.generate(wanted.model_copy(update={"model": None}))
    for data, picture, record in zip(alone(wanted), result.images, result.records, strict=True):
        assert pixels(data) == picture.tobytes()
        assert find_record(BytesIO(data)) == record
        assert record.request.model == stand_in.name


@pytest.mark.long
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whoever_comes_and_goes(stock, resolve, alone, data: st.DataObject):
    """Tasks join and are cancelled between any two operations; the rest are as they are alone."""
    names = sorted(KINDS.keys() - {"a longer prompt", "two prompts", "several pictures"})
    desk, wanted, cancelled = Desk(stock), dict[str, ImageRequest](), set[str]()
    for index in range(data.draw(st.integers(1, 4))):
        job, kind = f"job {index}", data.draw(st.sampled_from(names))
        wanted[job] = resolve(**KINDS[kind])
        desk.add(job, wanted[job], invariant=data.draw(st.booleans()))
        for _ in range(data.draw(st.integers(0, 4))):
            if len(desk.batch):
                desk.batch.work()
        if data.draw(st.integers(0, 3)) == 0:
            victim = data.draw(st.sampled_from(sorted(wanted)))
            desk.batch.cancel(victim)
            cancelled |= {victim}
    desk.work()
    for job, request in wanted.items():
        end = desk.end(job)
        assert isinstance(end, Finished) or (job in cancelled and end == Stopped(job, 1, cancelled=True))
        if isinstance(end, Finished):
            assert psnr(end.pictures[0], alone(request)[0]) >= FLOOR


# Who shares a call


def test_those_who_wait_for_the_same_share_a_call(desk, resolve, rows):
    for index in range(3):
        desk.add(f"{index}", resolve(seed=index, steps=2))
    desk.work()
    assert rows == [6, 6]


def test_rows_of_different_kinds_share_a_call(desk, resolve, rows):
    desk.add("guided", resolve(steps=2))
    desk.add("unguided", resolve(steps=2, guidance_scale=1.0, num_images=2))
    desk.work()
    assert rows == [4, 4]


def test_prompts_of_one_length_share_a_call_whoever_they_are_of(desk, resolve, rows):
    for index in range(2):
        desk.add(f"{index}", resolve(steps=1, prompt="fox " * 100, seed=index))
    desk.work()
    assert sorted(rows) == [2, 2]  # the two long prompts, the two empty ones


def test_other_sizes_and_invariant_tasks_keep_to_themselves(desk, resolve, rows):
    desk.add("size", resolve(steps=1, width=48))
    desk.add("exact", resolve(steps=1), invariant=True)
    desk.add("plain", resolve(steps=1))
    desk.work()
    assert rows == [2, 2, 2]


def test_nobody_waits_for_ever(desk, resolve):
    """A task of another size gets every other turn."""
    for index in range(3):
        desk.add(f"{index}", resolve(seed=index, steps=6))
    desk.add("other", resolve(width=48, steps=2))
    desk.work()
    ends = [report.job for report in desk.told if isinstance(report, Finished)]
    assert ends[0] == "other"


# What is told


def test_the_order_of_reports(desk, resolve):
    desk.add("job", resolve(), preview_every=1)
    desk.work()
    told = [report for report in desk.told if not isinstance(report, Began | Ended)]
    stages = [report.stage for report in told if isinstance(report, Staged)]
    assert stages == ["loading", "encoding", "decoding"]
    steps = [(report.index, report.total) for report in told if isinstance(report, Stepped)]
    assert steps == [(0, 3), (1, 3), (2, 3)]
    assert [report.index for report in told if isinstance(report, Previewed)] == [0, 1]
    assert isinstance(told[-1], Finished) and all(report.job == "job" and report.attempt == 1 for report in told)
    assert all(report.seconds > 0 for report in told if isinstance(report, Stepped))


def test_a_step_of_two_answers_is_told_once(desk, resolve):
    desk.add("job", resolve(sampler="heun"))
    assert [step.index for step in desk.work().of("job", Stepped)] == [0, 1, 2]


def test_previews_are_small_jpegs_of_every_picture(desk, resolve):
    desk.add("job", resolve(num_images=2), preview_every=2)
    (preview,) = desk.work().of("job", Previewed)
    for data in preview.pictures:
        with Image.open(BytesIO(data)) as picture:
            assert (picture.format, picture.size) == ("JPEG", (8, 6))


def test_no_previews_where_reports_pile_up(stock, resolve):
    told = list[object]()
    batch = Batch(stock, told.append, crowded=lambda: True)
    batch.add(Task(job="job", attempt=1, request=resolve(), preview_every=1))
    while len(batch):
        batch.work()
    assert isinstance(told[-2], Finished) and not any(isinstance(report, Previewed) for report in told)


def test_every_operation_is_announced_and_ends(desk, resolve):
    desk.add("job", resolve(num_images=2))
    desk.work()
    began = [report.operation for report in desk.told if isinstance(report, Began)]
    assert began == [report.operation for report in desk.told if isinstance(report, Ended)]
    kinds = ["opening", "encoding", "step", "step", "step", "decoding", "decoding"]
    assert [operation.kind for operation in began] == kinds
    assert [operation.rows for operation in began if operation.kind == "step"] == [4, 4, 4]


def test_handing_back(desk, resolve):
    desk.add("a", resolve())
    desk.add("b", resolve())
    desk.batch.work()
    desk.batch.stop()
    assert not len(desk.batch)
    assert {desk.end("a"), desk.end("b")} == {Stopped("a", 1, cancelled=False), Stopped("b", 1, cancelled=False)}


# What goes wrong


def failed(desk: Desk, job: str) -> Failed:
    end = desk.end(job)
    assert isinstance(end, Failed)
    return end


def test_a_request_that_cannot_be_painted_fails_alone(desk, resolve):
    broken = resolve().model_copy(update={"init_image": b"no picture", "strength": 0.5})
    desk.add("broken", broken)
    desk.add("mate", resolve())
    desk.work()
    assert failed(desk, "broken").code == "request"
    assert "init_image: this is no PNG" in failed(desk, "broken").message
    assert desk.pictures("mate")


def test_a_model_that_does_not_exist(desk, resolve):
    desk.add("job", resolve().model_copy(update={"model": "nobody"}))
    assert desk.work().end("job") == Failed("job", 1, "model", "there is no model nobody here")


class Trouble:
    """Lets the U-Net fail by a rule: the rows of a call -> the error, if any."""

    def __init__(self, painter: LatentDiffusion, rule: Callable[[Sequence[Question]], Exception | None]) -> None:
        self.ask, self.rule, self.calls = painter.ask, rule, list[int]()

    def __call__(self, questions: Sequence[Question]) -> list[Tensor]:
        self.calls.append(sum(len(question.x) for question in questions))
        if error := self.rule(questions):
            raise error
        return self.ask(questions)


@pytest.fixture
def trouble(painter: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trouble]:
    def make(rule: Callable[[Sequence[Question]], Exception | None]) -> Trouble:
        made = Trouble(painter, rule)
        monkeypatch.setattr(painter, "ask", made)
        return made

    return make


def rows_of(questions: Sequence[Question]) -> int:
    return sum(len(question.x) for question in questions)


def test_out_of_memory_together_is_done_alone(desk, resolve, alone, trouble):
    requests = [resolve(seed=index) for index in range(3)]
    expected = [alone(request) for request in requests]
    made = trouble(lambda questions: MemoryError() if rows_of(questions) > 4 else None)
    for index, request in enumerate(requests):
        desk.add(f"{index}", request)
    desk.work()
    assert [desk.pictures(f"{index}") for index in range(3)] != [] and made.calls[:4] == [6, 2, 2, 2]
    assert 6 not in made.calls[1:]  # what did not fit is not tried again
    assert [report for report in desk.told if isinstance(report, Tight)] == [Tight(desk.told[0].operation.batch, 6)]
    for index, pictures in enumerate(expected):
        assert psnr(desk.pictures(f"{index}")[0], pictures[0]) >= FLOOR
        assert len(desk.of(f"{index}", Stepped)) == 3  # nobody began again


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError(NO_MEMORY), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_out_of_memory_alone_is_done_row_by_row(desk, resolve, alone, trouble, error: Exception):
    wanted = resolve(num_images=2)
    expected = alone(wanted)
    made = trouble(lambda questions: error if rows_of(questions) > 1 else None)
    desk.add("job", wanted)
    desk.work()
    assert made.calls[:6] == [4, 4, 1, 1, 1, 1]
    assert min(psnr(a, b) for a, b in zip(desk.pictures("job"), expected, strict=True)) >= FLOOR


def test_out_of_memory_passes_when_the_caches_let_go(stock, desk, resolve, alone, trouble, monkeypatch):
    expected, relieved = alone(resolve()), list[bool]()
    monkeypatch.setattr(stock, "relieve", lambda in_use: relieved.append(True))
    made = trouble(lambda questions: None if relieved else MemoryError())
    desk.add("job", resolve())
    desk.work()
    assert desk.pictures("job") == expected and made.calls == [2, 2, 2, 2]


def test_what_fits_nowhere_fails_and_the_mates_go_on(desk, resolve, alone, trouble):
    """The mate stands a step before its end, and ends there."""
    expected = alone(resolve())
    trouble(lambda questions: MemoryError() if questions[0].x.shape[-1] == 16 else None)
    desk.add("mate", resolve())
    for _ in range(3):
        desk.batch.work()
    desk.add("huge", resolve(width=128))
    desk.work()
    assert failed(desk, "huge").code == "memory"
    assert "128 x 48" in failed(desk, "huge").message and "not enough memory" in failed(desk, "huge").message
    assert desk.pictures("mate") == expected


def test_out_of_memory_while_decoding_is_done_in_tiles(painter, desk, resolve, alone, monkeypatch):
    expected, decode, tried = alone(resolve()), painter.decode, list[bool]()
    monkeypatch.setattr(first_stage, "SMALL_TILE", 4)
    monkeypatch.setattr(first_stage, "SMALL_OVERLAP", 1)

    def whole_fails(latents: Tensor, wrap: Wrap, small: bool = False) -> tuple[Tensor, bool]:
        tried.append(small)
        if not small:
            raise MemoryError
        return decode(latents, wrap, small)

    monkeypatch.setattr(painter, "decode", whole_fails)
    desk.add("job", resolve())
    desk.work()
    assert tried == [False, False, True]
    assert desk.end("job").notes == (first_stage.IN_SMALL_TILES,)
    assert 15 < psnr(desk.pictures("job")[0], expected[0]) < math.inf  # seams, as in every picture in tiles


def test_out_of_memory_before_the_first_step_begins_again(painter, desk, resolve, alone, monkeypatch):
    expected, guidance, tried = alone(resolve()), painter.guidance, list[int]()

    def first_fails(*arguments: object) -> object:
        tried.append(1)
        if len(tried) == 1:
            raise MemoryError
        return guidance(*arguments)

    monkeypatch.setattr(painter, "guidance", first_fails)
    desk.add("job", resolve())
    assert desk.work().pictures("job") == expected


def test_out_of_memory_at_every_beginning_fails(painter, desk, resolve, monkeypatch):
    def fails(*arguments: object) -> object:
        raise MemoryError

    monkeypatch.setattr(painter, "guidance", fails)
    desk.add("job", resolve())
    desk.work()
    assert failed(desk, "job").code == "memory"


def test_what_breaks_a_call_breaks_its_own_task_alone(desk, resolve, alone, trouble, capfd):
    expected = alone(resolve(seed=1))
    trouble(lambda questions: KeyError("secret") if any(len(question.x) == 2 for question in questions) else None)
    desk.add("poison", resolve(num_images=2))
    desk.add("mate", resolve(seed=1))
    desk.work()
    assert failed(desk, "poison").code == "internal"
    assert psnr(desk.pictures("mate")[0], expected[0]) >= FLOOR
    log = capfd.readouterr().err
    assert "KeyError" in log and "secret" not in log + failed(desk, "poison").message


def test_numbers_that_are_none_fail_their_own_task_alone(painter, desk, resolve, alone, monkeypatch):
    """As when half precision overflows for one prompt."""
    expected, ask = alone(resolve(seed=1)), painter.ask

    def overflowing(questions: Sequence[Question]) -> list[Tensor]:
        x0s = ask(questions)
        return [x0 / 0 if len(x0) == 2 else x0 for x0 in x0s]

    monkeypatch.setattr(painter, "ask", overflowing)
    desk.add("overflows", resolve(num_images=2))
    desk.add("mate", resolve(seed=1))
    desk.work()
    assert failed(desk, "overflows").code == "model"
    assert psnr(desk.pictures("mate")[0], expected[0]) >= FLOOR


def test_a_lost_device_ends_the_worker(desk, resolve, trouble):
    trouble(lambda questions: torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    desk.add("job", resolve())
    with pytest.raises(troubles.Lost):
        desk.work()
    assert not desk.of("job", Failed)  # the supervisor reports its death
