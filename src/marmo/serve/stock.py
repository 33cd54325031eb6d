"""The models of a worker: what there is, what is open, and what is loaded, under a limit on memory.

A model is named by its id; where it lies, nobody outside learns.
"""

import hashlib
import os
from collections.abc import Callable, Collection, Generator, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from marmo import catalog
from marmo.nn.device import choose_device
from marmo.pipelines.card import LANCZOS, Card, UpscalerCard
from marmo.pipelines.doubler import Doubler
from marmo.pipelines.latent import LatentDiffusion
from marmo.pipelines.text_encoders import Encoded
from marmo.pipelines.upscaler import Upscaler, defaults_of
from marmo.request import ImageRequest, Prediction
from marmo.serve.caches import Cache
from marmo.serve.contract import Model
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.licence import licence_of

TEXT_SHARE = 1 / 16
"""Of the memory for what no request needs; the states of a text are small."""


class Unusable(ValueError):
    """A model that cannot be opened, in a sentence without paths."""


class Reading(NamedTuple):
    """Which models a request asks for, and how they are read."""

    model: str
    refiner: str | None
    vae: str | None
    upscaler: str | None
    """Of the second pass, or the second of two that enlarge a picture."""
    prediction: Prediction | None
    zero_snr: bool | None

    @property
    def ids(self) -> tuple[str, ...]:
        """Of all models."""
        return tuple(filter(None, self[:4]))


@dataclass(frozen=True, eq=False)
class Opened:
    """A model in memory, with the state of its files when it was opened."""

    model: LatentDiffusion | Upscaler
    stamp: tuple[tuple[int, int], ...] | None


class Stock:
    """Opens models by id and keeps what is used.

    Args:
        models: id -> file or folder.
        limit: bytes for models and texts; `None` is half of the device's memory.
    """

    def __init__(
        self,
        models: Mapping[str, Path],
        device: str | None = None,
        dtype: str | None = None,
        preview: Path | None = None,
        limit: int | None = None,
    ) -> None:
        self._paths, self._device, self._dtype, self._preview = models, device, dtype, preview
        limit = half_of_memory(choose_device(device)) if limit is None else limit
        self._models = Cache[Reading, Opened](limit)
        self._texts = Cache[Hashable, Encoded](int(limit * TEXT_SHARE))
        self._serial = count()

    def add(self, models: Mapping[str, Path]) -> Iterator[Model | Unusable]:
        """More models, beside those that have these ids already; what `offers` says of them.  From any thread."""
        new = {id: path for id, path in models.items() if id not in self._paths}
        self._paths = {**self._paths, **new}
        return self.offers(new)

    def offers(self, ids: Iterable[str] | None = None) -> Iterator[Model | Unusable]:
        """What can be painted with, and what the user should know of the rest, of these or of all; reads headers, and
        files it never saw whole, for their hashes."""
        for id, path in [(id, self._paths[id]) for id in (self._paths if ids is None else ids)]:
            try:
                with self._blaming(id):
                    yield _offer(id, path)
            except Unusable as error:
                yield error

    def find(self, request: ImageRequest) -> LatentDiffusion | Upscaler:
        """The models that a resolved request names, loaded.  Raises `Unusable`."""
        reading = _reading(request)
        opened = self._models.get(reading)
        if opened is not None and opened.stamp == _stamp(opened.model):
            return opened.model
        self._models.drop(reading)
        model = self._open(request)
        size = num_bytes(model)
        self._models.shrink(max(0, self._models.limit - size))
        with self._blaming(*reading.ids):
            stamp = _stamp(model)  # before the weights are read: what changes meanwhile is read again
            model.load()
        self._models.put(reading, Opened(model, stamp), size)
        return model

    def painted(self, request: ImageRequest) -> ImageRequest:
        """The request with paths for ids, as the models were opened with."""
        refiner, hires, upscale = request.refiner, request.hires, request.upscale
        return request.model_copy(
            update={
                "model": None,
                "refiner": refiner.model_copy(update={"model": self._place(refiner.model)}),
                "vae": self._place(request.vae),
                "hires": hires.model_copy(update={"model": self._place(hires.model)}),
                "upscale": upscale.model_copy(update={"model": self._place(upscale.model)}),
            }
        )

    def relieve(self, in_use: Collection[LatentDiffusion | Upscaler]) -> None:
        """Let go of all that these models do not need."""
        self._texts.shrink(0)
        self._models.keep(lambda opened: opened.model in in_use)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _open(self, request: ImageRequest) -> LatentDiffusion | Upscaler:
        reading = _reading(request)
        with self._blaming(*reading.ids):
            card = catalog.find_upscaler(self._path(reading.model))
            if card is not None:
                return catalog.open_enlarging(card, self.painted(request), self._device, self._dtype)
            model = catalog.open_model(
                self._path(reading.model),
                self._device,
                self._dtype,
                self._preview,
                prediction=reading.prediction,
                zero_snr=reading.zero_snr,
                refiner=self._optional(reading.refiner),
                vae=self._optional(reading.vae),
                upscaler=self._optional(reading.upscaler),
            )
        for painter in model.painters:
            painter.remember = partial(self._remember, next(self._serial))
        return model

    def _path(self, id: str) -> Path:
        if id not in self._paths:
            raise Unusable(f"there is no model {id} here")
        return self._paths[id]

    def _optional(self, id: str | None) -> Path | None:
        return None if id is None else self._path(id)

    def _place(self, id: str | None) -> str | None:
        return None if id is None else str(self._path(id))

    @contextmanager
    def _blaming(self, *ids: str) -> Generator[None]:
        """What goes wrong with these models' files is said of their ids."""
        try:
            yield
        except OSError as error:
            raise Unusable(f"{' or '.join(ids)} cannot be read: {error.strerror or 'its file is gone'}") from error
        except ValueError as error:
            raise Unusable(without_paths(str(error), {id: self._path(id) for id in ids})) from error

    def _remember(self, serial: int, key: Hashable, read: Callable[[], Encoded]) -> Encoded:
        """The text as a painter has read it before, or now."""
        known = self._texts.get((serial, key))
        if known is None:
            known = read()
            size = sum(part.numel() * part.itemsize for part in known if part is not None)
            self._texts.put((serial, key), known, size)
        return known


def without_paths(text: str, paths: Mapping[str, Path]) -> str:
    """A sentence with ids where it names models' places."""
    for id, path in paths.items():
        text = text.replace(str(path), id).replace(f"{path.parent}{os.sep}", "")
    return text


def num_bytes(model: LatentDiffusion | Upscaler) -> int:
    """What the weights take when they are loaded."""
    networks: list[nn.Module] = [network for one in _upscalers(model) for network in one.networks.values()]
    if isinstance(model, LatentDiffusion):
        networks += [network for painter in model.painters for network in painter.networks.values()]
    return sum(weight.numel() for network in networks for weight in network.parameters()) * model.dtype.itemsize


def half_of_memory(device: torch.device) -> int:
    """Of the device's own, or of the machine's."""
    if device.type == "cuda":
        _, total = torch.cuda.mem_get_info(device)
        return total // 2
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _reading(request: ImageRequest) -> Reading:
    assert request.model is not None, "the request is not resolved"
    upscaler = request.hires.model or request.upscale.model
    return Reading(request.model, request.refiner.model, request.vae, upscaler, request.prediction, request.zero_snr)


def _upscalers(model: LatentDiffusion | Upscaler) -> tuple[Upscaler | Doubler, ...]:
    """Those that only enlarge."""
    if isinstance(model, Upscaler):
        return model.models
    return () if model.upscaler is None else (model.upscaler,)


def _stamp(model: LatentDiffusion | Upscaler) -> tuple[tuple[int, int], ...] | None:
    """Size and time of every weight file; nothing where one is gone."""
    files = [path for upscaler in _upscalers(model) for path in upscaler.card.files]
    if isinstance(model, LatentDiffusion):
        files += [path for painter in model.painters for path in (*painter.card.files, *painter.card.vae_files)]
    try:
        return tuple((status.st_size, status.st_mtime_ns) for status in (path.stat() for path in files))
    except OSError:
        return None


def _offer(id: str, path: Path) -> Model:
    upscaler = catalog.find_upscaler(path)
    if upscaler is not None:
        return _offer_upscaler(id, upscaler)
    checkpoint = open_checkpoint(path)
    card = catalog.latent_card(checkpoint)
    assert checkpoint.kind is not None, "a card has a kind"
    return Model(
        id=id,
        title=path.stem,
        family=checkpoint.kind.name,
        sha256=_digest(card),
        licence=card.licence,
        defaults=card.defaults,
    )


def _offer_upscaler(id: str, card: UpscalerCard) -> Model:
    return Model(
        id=id,
        title="Lanczos" if card is LANCZOS else card.path.stem,
        family="upscaler",
        sha256=_digest(card),
        licence=licence_of(open_checkpoint(card.path)) if card.files else None,
        defaults=defaults_of(card),
    )


def _digest(card: Card) -> str:
    """A single file's own; of several files that of their list, as `sha256sum` prints it."""
    hashes = card.hashes()
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
