"""`marmo replay`: make a picture again from what it says about itself, and say how far the two are apart."""

import json
import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import tyro
from PIL import Image

from marmo.cli.progress import watch
from marmo.files.foreign import Foreign
from marmo.files.pictures import FORMATS, decode_image, read_description, save_picture
from marmo.files.record import REFINER, UPSCALER, VAE, Record
from marmo.pipelines.modes import Choice
from marmo.request import ImageRequest

if TYPE_CHECKING:  # help shall not wait for torch
    from marmo.pipelines.events import Result
    from marmo.pipelines.latent import LatentDiffusion
    from marmo.pipelines.pixel_diffusion import PixelDiffusion
    from marmo.pipelines.upscaler import Upscaler

OLD_HASH_LENGTH = 8
EMPTY_HASH = "e3b0c442"  # of no bytes: the program did not find its file


@dataclass(frozen=True)
class Difference:
    """Two pictures, level by level of 255."""

    identical: bool
    largest: int
    share: float
    """Of the values that differ at all, 0 to 1"""
    psnr: float | None
    """Decibels; none for identical pictures"""

    def sentence(self) -> str:
        """What a person wants to know."""
        if self.identical:
            return "identical: every pixel is the same"
        return f"different: {self.share:.2%} of the values, by at most {self.largest} of 255, PSNR {self.psnr:.1f} dB"


@dataclass(frozen=True)
class Replayed:
    """A picture, made again."""

    picture: Image.Image
    record: Record
    sentences: list[str]
    """Reasons to expect another picture than before"""


@dataclass(frozen=True)
class Replay:
    """Make a picture again from the record inside it, or from another program's, and report the difference."""

    picture: tyro.conf.Positional[Path]
    """A picture that Marmo, A1111, ComfyUI, InvokeAI or a program of their kind made"""
    model: Path | None = None
    """Where its model lies; by default, for Marmo's own, a file of the same hash that was used here before"""
    refiner: Path | None = None
    """Where its refiner lies, if it had one; by default found in the same way"""
    vae: Path | None = None
    """Where its autoencoder lies, if it had one of its own; by default found in the same way"""
    init_image: Path | None = None
    """The picture that it started from, if it did"""
    mask: Path | None = None
    """The mask under which it was painted, if there was one"""
    upscaler: Path | None = None
    """Where the upscaler of its second pass lies, if it had one; by default found in the same way"""
    region_masks: tuple[Path, ...] = ()
    """The masks of its regions, in any order, if they had some"""
    output: Path | None = None
    """Where to save the new picture; by default it is only compared"""
    memory: Choice = "auto"
    """full keeps all at hand; idle parts wait in main memory (offload) or their files (low); least has small tiles"""
    json: bool = False
    """Print JSON instead of words"""

    def run(self) -> int:
        """Read, paint again, compare; 1 if the pictures differ."""
        self._check_output()
        description = read_description(self.picture)
        before = decode_image(self.picture.read_bytes())
        replayed = self._record(description) if isinstance(description, Record) else self._foreign(description)
        if self.output is not None:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            save_picture(self.output, replayed.picture, replayed.record)
        difference = compare(before, replayed.picture)
        self._tell(difference, replayed.sentences)
        return 0 if difference.identical else 1

    def _record(self, record: Record) -> Replayed:
        """A picture of Marmo."""
        from marmo import catalog  # brings torch

        request = self._request(record)
        model = catalog.open_for(request, _device(record), record.dtype, self.memory)
        changed = _changed(record, model.hashes())
        result = self._painted(model, request)
        return Replayed(result.images[record.image], result.records[record.image], changed)

    def _foreign(self, foreign: Foreign) -> Replayed:
        """A picture of another program, whose model only its owner can point at."""
        if self.model is None:
            model = f"its model {foreign.model!r}" if foreign.model else "its model"
            raise ValueError(f"{self.picture} was made by {foreign.program}; say with --model where {model} lies")
        from marmo import catalog

        model = catalog.open_model(self.model, None, None, memory=self.memory)
        sentences = [*_not_carried(foreign), *_other_model(foreign, self.model, model.hashes())]
        request = foreign.request
        if request.strength is not None or request.image_guidance_scale is not None:
            if self.init_image is None:
                raise ValueError(f"{self.picture} was made from another picture; give it with --init-image")
            request = request.model_copy(update={"init_image": self.init_image.read_bytes()})
        if foreign.is_masked:
            if self.mask is None:
                raise ValueError(f"{self.picture} was painted under a mask; give it with --mask")
            request = request.model_copy(update={"mask": self.mask.read_bytes()})
        result = self._painted(model, request)
        sentences += [f"note: {note}" for note in result.notes]
        return Replayed(result.images[0], result.records[0], sentences)

    def _painted(self, model: "LatentDiffusion | PixelDiffusion | Upscaler", request: ImageRequest) -> "Result":
        """Painted; where memory runs out, a sentence says what to change."""
        from marmo.pipelines.advice import explaining
        from marmo.pipelines.latent import LatentDiffusion

        with explaining(model, request) if isinstance(model, LatentDiffusion) else nullcontext():
            return watch(model.stream(request), request.num_images, quiet=self.json)

    def _check_output(self) -> None:
        """`ValueError` now rather than when the picture is painted."""
        if self.output is None:
            return
        if self.output.suffix.lower() not in FORMATS:
            raise ValueError(f"a picture file ends in {', '.join(FORMATS)}, not in {self.output.suffix!r}")
        if self.output.exists():
            raise ValueError(f"{self.output} exists; choose another name")

    def _request(self, record: Record) -> ImageRequest:
        """The whole request, all its pictures included: a batch rounds differently from a picture alone."""
        flags = {"init_image": self.init_image, "mask": self.mask}
        pictures = {
            name: self._input(name, flags.get(name), wanted)
            for name, wanted in record.inputs.items()
            if not name.startswith("regions.")
        }
        return self._with_masks(self._with_models(record), record).model_copy(update=pictures)

    def _input(self, name: str, path: Path | None, wanted: str) -> bytes:
        """The bytes of a picture inside the request; `ValueError` for another one."""
        if path is None:
            raise ValueError(
                f"{self.picture} was made from another picture (sha256 {wanted}); give it with "
                f"--{name.replace('_', '-')}"
            )
        data = path.read_bytes()
        if sha256(data).hexdigest() != wanted:
            raise ValueError(f"{path} is not the picture that {self.picture} was made from, its {name}")
        return data

    def _with_masks(self, request: ImageRequest, record: Record) -> ImageRequest:
        """The request with the masks of its regions, each known by its hash."""
        masks = {sha256(data).hexdigest(): data for data in (path.read_bytes() for path in self.region_masks)}
        regions = list(request.regions)
        for index, region in enumerate(regions):
            wanted = record.inputs.get(f"regions.{index}.mask")
            if wanted is not None and wanted not in masks:
                raise ValueError(f"region {index} had a mask (sha256 {wanted}); give it with --region-masks")
            if wanted is not None:
                regions[index] = region.model_copy(update={"mask": masks[wanted]})
        return request.model_copy(update={"regions": tuple(regions)})

    def _with_models(self, record: Record) -> ImageRequest:
        """The request with its models as they are called here."""
        refiner, hires, vae = record.request.refiner, record.request.hires, record.request.vae
        upscale = record.request.upscale
        if refiner.model is not None:
            found = self.refiner or _find_model(record.weights_of(REFINER), "--refiner")
            refiner = refiner.model_copy(update={"model": str(found)})
        if hires.model is not None:
            found = self.upscaler or _find_model(record.weights_of(UPSCALER), "--upscaler")
            hires = hires.model_copy(update={"model": str(found)})
        if upscale.model is not None:
            found = self.upscaler or _find_upscaler(upscale.model, record.weights_of(UPSCALER), "--upscaler")
            upscale = upscale.model_copy(update={"model": str(found)})
        if vae is not None:
            vae = str(self.vae or _find_model(record.weights_of(VAE), "--vae"))
        model = str(self.model or _find_upscaler(record.model, record.own_weights, "--model"))
        models = {"model": model, "refiner": refiner, "hires": hires, "upscale": upscale, "vae": vae}
        return record.request.model_copy(update=models)

    def _tell(self, difference: Difference, changed: list[str]) -> None:
        if self.json:
            print(json.dumps(asdict(difference) | {"changed": changed}))
            return
        for sentence in (*changed, difference.sentence()):
            print(sentence)


def compare(before: Image.Image, after: Image.Image) -> Difference:
    """How far two pictures are apart; `ValueError` for pictures of two sizes."""
    if before.size != after.size:
        raise ValueError(f"the pictures have two sizes, {before.size} and {after.size}")
    first, second = (np.asarray(picture.convert("RGB"), dtype=np.int16) for picture in (before, after))
    apart = np.abs(first - second)
    error = float(np.mean(np.square(apart, dtype=np.float64)))
    psnr = 10 * math.log10(255**2 / error) if error else None
    return Difference(not error, int(apart.max()), float(np.mean(apart > 0)), psnr)


def _find_upscaler(name: str | None, weights: Mapping[str, str], flag: str) -> Path:
    """The same, where a model may have no weights."""
    from marmo.pipelines.card import LANCZOS

    return LANCZOS.path if not weights and name == LANCZOS.name else _find_model(weights, flag)


def _find_model(weights: Mapping[str, str], flag: str) -> Path:
    """A file or folder on this machine with these weights of a record, all of them."""
    from marmo.weights.fingerprint import file_hash, find_files

    for name, digest in weights.items():
        inside = len(PurePosixPath(name).parts) - 1  # a folder's weights are named from the folder down
        for path in find_files(digest):
            root = path.parents[min(inside, len(path.parents) - 1)] if inside else path
            files = {root / other if inside else path: wanted for other, wanted in weights.items()}
            if all(file.is_file() and file_hash(file) == wanted for file, wanted in files.items()):
                return root
    names = ", ".join(f"{name} (sha256 {digest[:10]}...)" for name, digest in weights.items())
    raise ValueError(f"the weights are not known on this machine: {names}; say where they are with {flag}")


def old_hash(path: Path) -> str:
    """A1111's hash of a model until January 2023: of the 64 KiB behind the first MiB."""
    with path.open("rb") as file:
        file.seek(0x100000)
        return sha256(file.read(0x10000)).hexdigest()[:OLD_HASH_LENGTH]


def _device(record: Record) -> str | None:
    """The kind of device that painted it, if this machine has one."""
    import torch

    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return record.device if here.get(record.device) else None


def _changed(record: Record, hashes: dict[str, str]) -> list[str]:
    """A sentence for every reason to expect another picture."""
    import torch

    sentences = [
        f"note: the weights {name} are not the ones that painted this picture"
        for name, digest in record.weights.items()
        if digest not in hashes.values()
    ]
    if record.torch != torch.__version__:
        sentences.append(f"note: painted with torch {record.torch}, replayed with {torch.__version__}")
    return sentences


def _not_carried(foreign: Foreign) -> list[str]:
    """What of another program's description does not act here."""
    lost = [f"note: not carried over: {'; '.join(foreign.lost)}"] if foreign.lost else []
    return [f"note: read what {foreign.program} wrote", *lost, *(f"note: {note}" for note in foreign.notes)]


def _other_model(foreign: Foreign, path: Path, hashes: dict[str, str]) -> list[str]:
    """A sentence if the hash says that another model painted it, or says nothing."""
    wanted = (foreign.model_hash or "").lower()
    if not wanted or wanted.startswith(EMPTY_HASH):
        return [f"note: {foreign.program} did not write which weights it painted with; {path} may be others"]
    if len(wanted) == OLD_HASH_LENGTH:
        same = path.is_file() and old_hash(path) == wanted
    else:
        same = any(digest.startswith(wanted) for digest in hashes.values())
    named = f" ({foreign.model})" if foreign.model else ""
    return [] if same else [f"note: the picture was painted with the weights {wanted:.10}{named}; {path} holds others"]
