"""The models of a worker: opened by id, kept under a limit, opened again when their files change."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import nn

from marmo import catalog
from marmo.request import Hires, ImageRequest, Refiner
from marmo.serve.contract import Model
from marmo.serve.stock import Stock, Unusable, num_bytes, without_paths
from marmo.weights.fingerprint import file_hash

pytestmark = pytest.mark.long


@pytest.fixture
def path(stand_in: Path, tmp_path: Path) -> Path:
    """A copy of the stand-in, to be damaged."""
    return Path(shutil.copy(stand_in, tmp_path / "copy.safetensors"))


@pytest.fixture
def stock(path: Path) -> Stock:
    return shelf({"toy": path})


def shelf(models: dict[str, Path], limit: int | None = None) -> Stock:
    return Stock(models, "cpu", "float32", limit=limit)


def request(stock: Stock, **fields: object) -> ImageRequest:
    (offer, *_) = [offer for offer in stock.offers() if isinstance(offer, Model)]
    return ImageRequest(**{"model": "toy", "width": 64, "height": 64, **fields}).resolve(offer.defaults)


@pytest.fixture
def reads(stock: Stock) -> Callable[[ImageRequest], int]:
    """How often the text encoder runs while a request is begun."""

    def count(wanted: ImageRequest) -> int:
        model, calls = stock.find(wanted), list[nn.Module]()
        handle = model.encoders.towers[0].network.norm.register_forward_hook(lambda module, *_: calls.append(module))
        walk: Iterator[object] = model.walk(stock.painted(wanted))
        next(walk), next(walk)
        handle.remove()
        return len(calls)

    return count


def test_offers_tell_what_a_request_needs(stock: Stock, path: Path):
    (offer,) = stock.offers()
    assert isinstance(offer, Model)
    assert (offer.id, offer.title, offer.family, offer.sha256) == ("toy", "copy", "sd1", file_hash(path))
    assert offer.defaults == catalog.find(path).defaults


def test_a_folder_has_one_hash_too(stand_in_folder: Path):
    (offer,) = shelf({"folder": stand_in_folder}).offers()
    (again,) = shelf({"folder": stand_in_folder}).offers()
    assert isinstance(offer, Model) and len(offer.sha256) == 64 and offer == again


def test_what_cannot_be_opened_is_told_without_its_place(path: Path, tmp_path: Path):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\x80 no model")
    offers = list(shelf({"bad": bad, "gone": tmp_path / "gone.safetensors", "toy": path}).offers())
    assert [type(offer) for offer in offers] == [Unusable, Unusable, Model]
    assert "bad" in str(offers[0]) and "gone" in str(offers[1])
    assert not any(str(tmp_path) in str(offer) for offer in offers)


def test_a_model_is_loaded_once(stock: Stock):
    wanted = request(stock)
    model = stock.find(wanted)
    assert model.loaded and stock.find(wanted.model_copy(update={"prompt": "other", "steps": 3})) is model


def test_a_model_whose_file_changed_is_opened_again(stock: Stock, path: Path):
    wanted = request(stock)
    model = stock.find(wanted)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    assert stock.find(wanted) is not model


@pytest.mark.parametrize("loaded", [False, True])
def test_a_model_whose_file_is_gone(stock: Stock, path: Path, loaded: bool):
    wanted = request(stock)
    if loaded:
        stock.find(wanted)
    path.unlink()
    with pytest.raises(Unusable) as error:
        stock.find(wanted)
    assert str(path.parent) not in str(error.value) and "toy" in str(error.value)


def test_a_model_whose_file_is_damaged(stock: Stock, path: Path):
    wanted = request(stock)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(Unusable, match="toy"):
        stock.find(wanted)


def test_an_unknown_model(stock: Stock):
    with pytest.raises(Unusable, match="no model nobody"):
        stock.find(request(stock).model_copy(update={"model": "nobody"}))


def test_models_leave_where_the_limit_is_reached(path: Path, stand_in: Path):
    size = num_bytes(shelf({"toy": path}).find(request(shelf({"toy": path}))))
    stock = shelf({"toy": path, "other": stand_in}, limit=int(1.5 * size))
    first, second = request(stock), request(stock, model="other")
    model = stock.find(first)
    other = stock.find(second)
    assert stock.find(second) is other and stock.find(first) is not model


def test_two_models_stay_where_there_is_room(path: Path, stand_in: Path):
    stock = shelf({"toy": path, "other": stand_in})
    first, second = request(stock), request(stock, model="other")
    models = [stock.find(first), stock.find(second)]
    assert [stock.find(first), stock.find(second)] == models


def test_a_relief_keeps_what_is_in_use(path: Path, stand_in: Path):
    stock = shelf({"toy": path, "other": stand_in})
    first, second = request(stock), request(stock, model="other")
    model, other = stock.find(first), stock.find(second)
    stock.relieve([model])
    assert stock.find(first) is model and stock.find(second) is not other


def test_a_text_is_read_once(stock: Stock, reads: Callable[[ImageRequest], int]):
    wanted = request(stock, prompt="a fox", negative_prompt="a bear")
    assert reads(wanted) == 2
    assert reads(wanted.model_copy(update={"steps": 3, "seed": 5})) == 0
    assert reads(wanted.model_copy(update={"prompt": "a wolf"})) == 1
    assert reads(wanted.model_copy(update={"clip_skip": 2})) == 2


def test_a_weighted_text_is_read_once(stock: Stock, reads: Callable[[ImageRequest], int]):
    for syntax in ("marmo", "a1111"):
        wanted = request(stock, prompt="a (fox:1.3)", negative_prompt="a bear", prompt_syntax=syntax)
        assert reads(wanted) > 0
        assert reads(wanted) == 0


def test_texts_go_with_a_relief(stock: Stock, reads: Callable[[ImageRequest], int]):
    wanted = request(stock, prompt="a fox")
    reads(wanted)
    stock.relieve([stock.find(wanted)])
    assert reads(wanted) == 2


def test_texts_of_a_changed_model_are_read_again(stock: Stock, path: Path, reads: Callable[[ImageRequest], int]):
    wanted = request(stock, prompt="a fox")
    reads(wanted)
    path.touch()
    assert reads(wanted) == 2


def test_every_model_that_a_request_names_is_an_id(path: Path, stand_in: Path):
    """Never a path and never a name of the library, which could be the hub's: a request may come from anywhere."""
    stock = shelf({"toy": path, "other": stand_in})
    wanted = request(stock, refiner=Refiner(model="other"), vae="other")
    model, painted = stock.find(wanted), stock.painted(wanted)
    assert (painted.model, painted.refiner.model, painted.vae) == (None, str(stand_in), str(stand_in))
    assert model.resolve(painted).vae == str(stand_in) and model.refiner is not None
    hires = Hires(scale=2, upscaler="model", model=str(stand_in))
    for fields in ({"model": str(path)}, {"vae": str(path)}, {"refiner": Refiner(model=str(path))}, {"hires": hires}):
        with pytest.raises(Unusable, match="there is no model"):
            stock.find(request(stock).model_copy(update=fields))


def test_sentences_lose_their_paths():
    text = without_paths("/a/b/c.safetensors and /a/b/d.json are bad", {"sd": Path("/a/b/c.safetensors")})
    assert text == "sd and d.json are bad"
