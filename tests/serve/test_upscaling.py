"""Upscalers in the worker: offered, run piece by piece beside what is painted, and out of memory in smaller pieces."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread

import pytest
import torch
from PIL import Image

from benchmarks.checkpoint import random_checkpoint
from marmo import catalog
from marmo.files.pictures import find_record
from marmo.library.identify import Found
from marmo.pipelines import upscaler
from marmo.pipelines.card import LANCZOS
from marmo.pipelines.upscaler import Upscaler
from marmo.request import ImageRequest
from marmo.request_parts import Hires, Upscale
from marmo.serve import limits
from marmo.serve.contract import LATENT_UPSCALER, Failed, Finished, Model, Offered, Staged, Stepped, Stopped
from marmo.serve.messages import Began
from marmo.serve.stock import Stock
from marmo.serve.worker import offer_library
from marmo.weights.fingerprint import file_hash
from tests.serve.desks import Desk, pixels
from tests.upscalers import COMPACT, X4, upscaler_file

pytestmark = pytest.mark.long


@pytest.fixture
def paths(stand_in: Path, tmp_path: Path) -> dict[str, Path]:
    return {
        "toy": stand_in,
        "4x-toy.1": upscaler_file(tmp_path / "4x-toy.safetensors", X4),
        "compact": upscaler_file(tmp_path / "compact.safetensors", COMPACT, "original"),
        "lanczos": LANCZOS.path,
    }


@pytest.fixture
def stock(paths: dict[str, Path]) -> Stock:
    return Stock(paths, "cpu", "float32")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscaler, "TILE", 32)
    monkeypatch.setattr(upscaler, "OVERLAP", 8)


def photo(width: int = 60, height: int = 40, turned: bool = False) -> bytes:
    image = Image.linear_gradient("L").resize((width, height))
    stream, exif = BytesIO(), Image.Exif()
    exif[0x0112] = 6 if turned else 1  # to be turned by a quarter
    Image.merge("RGB", (image, image.rotate(90), image.rotate(180))).save(stream, "PNG", exif=exif)
    return stream.getvalue()


def asked(stock: Stock, model: str, **fields: object) -> ImageRequest:
    """As the queue hands it over."""
    (offer,) = [offer for offer in stock.offers() if isinstance(offer, Model) and offer.id == model]
    return limits.resolved(ImageRequest(model=model, **fields), offer.defaults)


def test_offers_say_what_only_enlarges(stock: Stock, paths: dict[str, Path]):
    offers = {offer.id: offer for offer in stock.offers() if isinstance(offer, Model)}
    assert [offer.defaults.paints for offer in offers.values()] == [True, False, False, False]
    assert [offer.defaults.grows for offer in offers.values()] == [1, 4, 4, 1]
    assert (offers["4x-toy.1"].title, offers["lanczos"].title) == ("4x-toy", "Lanczos")
    assert offers["4x-toy.1"].sha256 == file_hash(paths["4x-toy.1"])


def test_a_job_is_what_the_pipeline_makes(stock: Stock, paths: dict[str, Path]):
    wanted = asked(stock, "4x-toy.1", init_image=photo(), upscale=Upscale(scale=2, model="compact", share=0.3))
    desk = Desk(stock)
    desk.add("job", wanted)
    (data,) = desk.work().pictures("job")
    direct = wanted.model_copy(
        update={
            "model": str(paths["4x-toy.1"]),
            "upscale": wanted.upscale.model_copy(update={"model": str(paths["compact"])}),
        }
    )
    result = catalog.open_for(direct, "cpu", "float32").generate(direct)
    assert pixels(data) == result.images[0].tobytes()
    assert find_record(BytesIO(data)) == result.records[0]
    stages = [report.stage for report in desk.of("job", Staged)]
    steps = [(report.index, report.total) for report in desk.of("job", Stepped)]
    assert stages == ["loading", "loading", "upscaling"][-len(stages) :] and stages[-1] == "upscaling"
    assert steps == [(index, 12) for index in range(12)]


def test_pieces_are_operations_that_others_come_between(stock: Stock):
    desk = Desk(stock)
    desk.add("large", asked(stock, "4x-toy.1", init_image=photo(100, 30)))
    desk.add("other", asked(stock, "toy", prompt="a fox", width=64, height=48, steps=2, seed=7))
    desk.work()
    assert desk.pictures("large") and desk.pictures("other")
    kinds = [report.operation.kind for report in desk.told if isinstance(report, Began)]
    assert kinds.count("enlarging") == 4 and kinds.index("step") < len(kinds) - 1 - kinds[::-1].index("enlarging")
    likes = {report.operation.batch for report in desk.told if isinstance(report, Began)}
    assert "4x-toy.safetensors 30x32" in likes


def test_it_is_cancelled_between_two_pieces(stock: Stock):
    desk = Desk(stock)
    desk.add("large", asked(stock, "4x-toy.1", init_image=photo(400, 300)))
    while not desk.of("large", Stepped):
        desk.batch.work()
    desk.batch.cancel("large")
    assert desk.end("large") == Stopped("large", 1, cancelled=True) and len(desk.of("large", Stepped)) < 5


def test_a_picture_that_is_to_be_turned_decides_the_size_upright(stock: Stock):
    wanted = asked(stock, "4x-toy.1", init_image=photo(30, 20, turned=True))
    assert (wanted.width, wanted.height) == (None, None)
    desk = Desk(stock)
    desk.add("job", wanted)
    desk.add("painted", asked(stock, "toy", init_image=photo(72, 48, turned=True), steps=1, seed=7))
    desk.work()
    sizes = [Image.open(BytesIO(desk.pictures(job)[0])).size for job in ("job", "painted")]
    assert sizes == [(80, 120), (48, 72)]
    likes = {report.operation.batch for report in desk.told if isinstance(report, Began)}
    assert any("48x72" in like for like in likes), "work is compared with work of its size"


def test_a_second_pass_through_a_network(stock: Stock, paths: dict[str, Path]):
    hires = Hires(scale=2, model="compact", steps=1)
    wanted = asked(stock, "toy", prompt="a fox", width=64, height=48, steps=2, seed=7, hires=hires)
    desk = Desk(stock)
    desk.add("job", wanted)
    (data,) = desk.work().pictures("job")
    direct = wanted.model_copy(
        update={"model": str(paths["toy"]), "hires": wanted.hires.model_copy(update={"model": str(paths["compact"])})}
    )
    assert pixels(data) == catalog.open_for(direct, "cpu", "float32").generate(direct).images[0].tobytes()
    kinds = [report.operation.kind for report in desk.told if isinstance(report, Began)]
    assert kinds.count("enlarging") == 6, "the network's time is not the decoder's"
    assert [report.index for report in desk.of("job", Stepped)] == [0, 1, 2]


def test_a_second_pass_through_a_latent_upscaler(stand_in: Path, tmp_path: Path):
    paths = {"toy": stand_in, "x2": random_checkpoint(tmp_path / "x2", family="sd-x2")}
    stock = Stock(paths, "cpu", "float32")
    offers = [offer for offer in stock.offers() if isinstance(offer, Model)]
    assert [(offer.enlarges, offer.defaults.paints, offer.defaults.grows) for offer in offers] == [
        (False, True, 1), (True, True, 2),
    ]  # fmt: skip
    assert offers[1].family == LATENT_UPSCALER
    hires = Hires(scale=2, model="x2", strength=0)
    wanted = asked(stock, "toy", prompt="a fox", width=32, height=48, steps=2, seed=7, hires=hires)
    desk = Desk(stock)
    desk.add("job", wanted)
    desk.add("alone", asked(stock, "x2", prompt="a fox", init_image=photo(33, 20), steps=2, seed=7))
    desk.work()
    direct = wanted.model_copy(
        update={"model": str(stand_in), "hires": wanted.hires.model_copy(update={"model": str(paths["x2"])})}
    )
    expected = catalog.open_for(direct, "cpu", "float32").generate(direct).images[0]
    assert pixels(desk.pictures("job")[0]) == expected.tobytes() and expected.size == (64, 96)
    assert Image.open(BytesIO(desk.pictures("alone")[0])).size == (64, 32)


def test_the_library_is_read_beside_the_work(stock: Stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Jobs are painted while it is, and what it holds is offered behind what was there."""
    (tmp_path / "library").mkdir()
    upscaler_file(tmp_path / "library" / "slow.safetensors", X4)
    monkeypatch.setenv("MARMO_MODELS", str(tmp_path / "library"))
    reading, read, told, all_of_it = Event(), Event(), SimpleQueue[Offered](), catalog.models

    def slowly() -> Iterator[Found]:
        reading.set()
        assert read.wait(30)
        yield from all_of_it()

    monkeypatch.setattr(catalog, "models", slowly)
    known = tuple(offer for offer in stock.offers() if isinstance(offer, Model))
    Thread(target=offer_library, args=(stock, known, told.put), daemon=True).start()
    assert reading.wait(30)
    desk = Desk(stock)
    desk.add("job", asked(stock, "toy", prompt="a fox", width=64, height=48, steps=1, seed=7))
    assert desk.work().pictures("job") and told.empty()
    read.set()
    models = told.get(timeout=30).models
    assert models[:-1] == known and models[-1].title == "slow" and not models[-1].defaults.paints
    desk.add("large", asked(stock, models[-1].id, init_image=photo(8, 8)))
    assert desk.work().pictures("large")


def test_a_library_that_cannot_be_read_costs_only_that(stock: Stock, monkeypatch: pytest.MonkeyPatch):
    told = SimpleQueue[Offered]()

    def broken() -> Iterator[Found]:
        raise OSError("Input/output error")

    monkeypatch.setattr(catalog, "models", broken)
    offer_library(stock, (), told.put)
    assert told.get(timeout=1) == Offered(())


@pytest.mark.parametrize("most", [32 * 32, 16 * 16])
def test_out_of_memory(stock: Stock, monkeypatch: pytest.MonkeyPatch, most: int):
    """Pieces of at most so many pixels fit."""
    wanted, whole = asked(stock, "4x-toy.1", init_image=photo()), Upscaler.enlarge_piece

    def tight(self: Upscaler, piece: torch.Tensor, wrap: object) -> torch.Tensor:
        if piece.shape[2] * piece.shape[3] > most:
            raise MemoryError
        return whole(self, piece, wrap)

    monkeypatch.setattr(Upscaler, "enlarge_piece", tight)
    desk = Desk(stock)
    desk.add("job", wanted)
    end = desk.work().end("job")
    assert isinstance(end, Finished)
    assert end.notes == ((upscaler.IN_SMALL_TILES,) if most < 32 * 32 else ())
    most = 8  # for whom not even the smaller ones fit
    desk = Desk(stock)
    desk.add("job", wanted)
    failed = desk.work().end("job")
    assert isinstance(failed, Failed) and failed.code == "memory"


def test_a_model_of_the_wrong_kind_fails_its_own_job(stock: Stock):
    desk = Desk(stock)
    second = asked(stock, "4x-toy.1", init_image=photo(), upscale=Upscale(model="toy"))
    hires = asked(stock, "toy", prompt="a fox", width=64, height=48, hires=Hires(scale=2, model="toy"))
    for job, request in (("second", second), ("hires", hires)):
        desk.add(job, request)
    desk.work()
    for job in ("second", "hires"):
        end = desk.end(job)
        assert isinstance(end, Failed) and end.code == "model" and "no upscaler" in end.message
        assert "/" not in end.message
