"""From a trained folder to a model that comes with Marmo: in 8 bits, tried, with its card, its floors and its sums.

    python -m marmo.bundling out/latent/model src/marmo/pretrained/models/pebble --run out/latent \
        --earlier out/vae out/clip --scores out/evaluation/scores.json --commands made-by.txt

The trained folder's marmo.json says its defaults and its concepts.txt what it knows; both go along.  Everything is
written into a folder beside the result first, which takes the result's name when it is whole.
"""

import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from PIL import Image

from marmo.bundling import curves, page, trial
from marmo.bundling.runs import TrainingRun, read_run
from marmo.cards import latent_card
from marmo.data.corpus import corpus
from marmo.library.bundled import read_sums, write_sums
from marmo.weights.checkpoint import DEFAULTS_KEY, Checkpoint, open_checkpoint
from marmo.weights.export import write_folder
from marmo.weights.notes import read_notes, write_notes
from marmo.weights.store import sha256

MAX_WEIGHTS = 26_000_000  # bytes of a bundled generator
MAX_FILE = 16_000_000  # bytes
MAX_SHARD = 15_500_000  # bytes of tensors in a file, which has a header too
CORPUS_KEY, LICENCE_KEY = "marmo.corpus", "license"
COLUMNS = 6
SHOWN = ("loss", "validation", "validation_train", "reconstruction", "psnr")
"""What of a run's log the curves show, where it has them."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Write a trained model as it comes with Marmo."""

    model: tyro.conf.Positional[Path]
    """The trained diffusers folder"""
    output: tyro.conf.Positional[Path]
    """src/marmo/pretrained/models/NAME, which must not be there"""
    run: Path
    """The folder of the run that trained the U-Net"""
    earlier: tuple[Path, ...] = ()
    """The folders of the runs before it: autoencoder, CLIP"""
    scores: Path | None = None
    """scores.json, which `marmo evaluate model` wrote for the trained folder"""
    commands: Path | None = None
    """A text file with the commands that make the model again, a line each"""
    defaults: Path | None = None
    """A JSON file of defaults, over those in the trained folder's marmo.json"""
    licence: str = "apache-2.0"
    hardware: str = f"{platform.machine()}, {platform.system()}, torch {torch.__version__}"
    """What it was trained on, in words"""
    device: str = "cpu"
    """To paint the trial on"""

    def bundle(self) -> None:
        """Write, paint, judge, tell."""
        if self.output.exists():
            raise ValueError(f"{self.output} exists; remove it, or choose another name")
        source = self._source()
        training = [read_run(folder) for folder in (self.run, *self.earlier)]
        scores = None if self.scores is None else page.read_scores(self.scores)
        draft = self.output.with_name(f".{self.output.name}")
        shutil.rmtree(draft, ignore_errors=True)  # of a bundling that was killed
        try:
            write_folder(source, draft, torch.int8, MAX_SHARD)
            check_size(open_checkpoint(draft))
            tried = trial.tried(self.model, draft, self.device)
            self._write_card(draft, tried, training, scores)
            draft.rename(self.output)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        record_sums(self.output)
        print(f"{self.output}: {size_of(open_checkpoint(self.output)) / 1e6:.1f} MB of weights; {tried}")

    def _source(self) -> Checkpoint:
        """The trained model with the notes that it will be bundled with."""
        checkpoint = open_checkpoint(self.model)
        notes = {**checkpoint.metadata, LICENCE_KEY: self.licence, CORPUS_KEY: corpus().version}
        if self.defaults is not None:
            said = json.loads(notes.get(DEFAULTS_KEY, "{}")) | json.loads(self.defaults.read_text(encoding="utf-8"))
            notes[DEFAULTS_KEY] = json.dumps(said, separators=(",", ":"))
        whole = replace(checkpoint, metadata=notes)
        latent_card(whole)  # which refuses defaults that cannot be used
        return whole

    def _write_card(
        self, draft: Path, tried: trial.Tried, training: Sequence[TrainingRun], scores: page.Scores | None
    ) -> None:
        """The floors, the pictures, the curves, the page."""
        say_floors(draft, tried.floors)
        sheet(tried.pictures).save(draft / page.SHEET, optimize=True)
        (draft / page.CURVES).write_text(drawn(training), encoding="utf-8")
        facts = self._facts(draft, tried, training, scores)
        (draft / "README.md").write_text(page.page(facts), encoding="utf-8")

    def _facts(
        self, draft: Path, tried: trial.Tried, training: Sequence[TrainingRun], scores: page.Scores | None
    ) -> page.Facts:
        finished = open_checkpoint(draft)
        commands = [] if self.commands is None else self.commands.read_text(encoding="utf-8").splitlines()
        return page.Facts(
            card=replace(latent_card(finished), path=self.output),
            num_parameters={slot: part.num_parameters for slot, part in finished.parts.items()},
            num_bytes=size_of(finished),
            licence=self.licence,
            hardware=self.hardware,
            runs=training,
            commands=commands,
            scores=scores,
            tried=tried,
            sums={file.relative_to(draft).as_posix(): sha256(file) for file in finished.files},
        )


def size_of(checkpoint: Checkpoint) -> int:
    """Of its weights, in bytes."""
    return sum(file.stat().st_size for file in checkpoint.files)


def check_size(checkpoint: Checkpoint) -> None:
    """`ValueError` for a model that is too large to come with Marmo, with the sizes of its parts."""
    whole, largest = size_of(checkpoint), max(file.stat().st_size for file in checkpoint.files)
    if whole > MAX_WEIGHTS or largest > MAX_FILE:
        counts = {slot: f"{part.num_parameters / 1e6:.1f} M parameters" for slot, part in checkpoint.parts.items()}
        told = ", ".join(f"{slot} {count}" for slot, count in counts.items())
        raise ValueError(
            f"its weights take {whole / 1e6:.1f} MB in 8 bits ({told}), the largest file {largest / 1e6:.1f}; "
            f"all together may have {MAX_WEIGHTS / 1e6:g} MB, and a file {MAX_FILE / 1e6:g}"
        )


def say_floors(folder: Path, floors: trial.Floors) -> None:
    """Into the notes of a folder."""
    write_notes(folder, {**read_notes(folder), trial.KEY: floors.note()})


def sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size row by row."""
    width, height = pictures[0].size
    whole = Image.new("RGB", (COLUMNS * width, -(-len(pictures) // COLUMNS) * height))
    for index, picture in enumerate(pictures):
        whole.paste(picture, (index % COLUMNS * width, index // COLUMNS * height))
    return whole


def drawn(training: Sequence[TrainingRun]) -> str:
    """The curves of the run that trained the U-Net."""
    run = training[0]
    return curves.svg({name: run.curve(name) for name in SHOWN}, f"{run.name}: the numbers over the images seen")


def record_sums(folder: Path) -> None:
    """The sha256 of all of a bundled model's files, in the list beside it, in place of those it had."""
    others = {
        name: digest for name, digest in read_sums(folder.parent).items() if not name.startswith(f"{folder.name}/")
    }
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    write_sums(folder.parent, others | {file.relative_to(folder.parent).as_posix(): sha256(file) for file in files})


if __name__ == "__main__":
    try:
        tyro.cli(Bundle, description=Bundle.__doc__).bundle()
    except ValueError as error:
        raise SystemExit(f"marmo.bundling: {error}") from None
