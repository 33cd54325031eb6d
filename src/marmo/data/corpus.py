"""The concepts that scenes are made of, read from the asset files: no network, no renderer."""

import gzip
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypedDict, cast

from marmo.data.shapes import SHAPES

Style = Literal["noto", "twemoji", "fluent"]
STYLES: tuple[Style, ...] = ("noto", "twemoji", "fluent")


@dataclass(frozen=True)
class Look:
    """What is known of one concept's drawing in one style."""

    box: tuple[float, float, float]
    size: tuple[float, float]
    """Width and height of the ink, as shares of the sprite's side."""
    colour: tuple[float, float, float] | None
    """OKLab of the dominant cluster; None is never recoloured."""
    tone: tuple[float, float, float]
    """OKLab of the ink on the average."""


@dataclass(frozen=True)
class Concept:
    """A thing with a name in two languages and a drawing in three styles, or a drawn shape, which has neither looks."""

    id: str
    group: str
    """Unicode's subgroup, or `shape`."""
    en: tuple[str, ...]
    """The name, then words that mean the same and nothing else here."""
    zh: tuple[str, ...]
    measure: str
    """The Chinese measure word."""
    flags: str
    """As in `assets/corrections.txt`."""
    looks: dict[Style, Look]

    @property
    def is_countable(self) -> bool:
        return not set(self.flags) & set("utos")

    @property
    def is_mirrored(self) -> bool:
        """Whether its mirror image is as good a picture of it."""
        return "f" not in self.flags

    @property
    def is_alone(self) -> bool:
        """Fills a picture, as a landscape does."""
        return "s" in self.flags

    @property
    def article(self) -> Literal["a", "the", ""]:
        if "t" in self.flags:
            return "the"
        return "" if set(self.flags) & set("uo") else "a"


@dataclass(frozen=True)
class Corpus:
    """All of it, in a fixed order."""

    version: str
    concepts: tuple[Concept, ...]

    @property
    def digest(self) -> str:
        """sha256 of the unpacked asset files: pictures drawn from the same digest are the same."""
        return _digest()

    def __getitem__(self, id: str) -> Concept:
        return _by_id()[id]


class LookRecord(TypedDict):
    """One drawing in the file."""

    box: list[float]
    size: list[float]
    colour: list[float] | None
    tone: list[float]


class ConceptRecord(TypedDict):
    """One concept in the file."""

    id: str
    group: str
    en: list[str]
    zh: list[str]
    measure: str
    flags: str
    looks: dict[Style, LookRecord]


class Manifest(TypedDict):
    """One package in the file."""

    package: str
    version: str
    licence: str
    author: str
    count: int


class ConceptFile(TypedDict):
    """The unpacked concepts.json.gz."""

    version: str
    manifest: list[Manifest]
    concepts: list[ConceptRecord]


def corpus_folder() -> Path:
    """Where the asset files stand."""
    return Path(__file__).with_name("corpus")


@cache
def corpus() -> Corpus:
    """The corpus of this version of Marmo; read once."""
    file = cast(ConceptFile, json.loads(_unpack("concepts.json.gz")))
    return Corpus(file["version"], tuple(_concept(record) for record in file["concepts"]))


def manifest() -> list[Manifest]:
    """Every package that the corpus is made from."""
    return cast(ConceptFile, json.loads(_unpack("concepts.json.gz")))["manifest"]


def drawings() -> dict[Style, dict[str, str]]:
    """The SVG bodies, by style and concept."""
    return cast("dict[Style, dict[str, str]]", json.loads(_unpack("drawings.json.gz")))


@cache
def shape_concepts() -> tuple[Concept, ...]:
    """The drawn shapes, as concepts."""
    return tuple(Concept(id, "shape", (shape.en,), (shape.zh,), "个", "", {}) for id, shape in SHAPES.items())


@cache
def _digest() -> str:
    """The drawings are large, and who only wants names shall not wait for them."""
    return hashlib.sha256(_unpack("concepts.json.gz") + _unpack("drawings.json.gz")).hexdigest()


@cache
def _by_id() -> dict[str, Concept]:
    return {concept.id: concept for concept in (*corpus().concepts, *shape_concepts())}


def _concept(record: ConceptRecord) -> Concept:
    looks: dict[Style, Look] = {style: _look(look) for style, look in record["looks"].items()}
    return Concept(
        record["id"],
        record["group"],
        tuple(record["en"]),
        tuple(record["zh"]),
        record["measure"],
        record["flags"],
        looks,
    )


def _look(record: LookRecord) -> Look:
    width, height = record["size"]
    colour = record["colour"]
    return Look(
        _three(record["box"]), (width, height), None if colour is None else _three(colour), _three(record["tone"])
    )


def _three(numbers: list[float]) -> tuple[float, float, float]:
    first, second, third = numbers
    return first, second, third


def _unpack(name: str) -> bytes:
    return gzip.decompress((corpus_folder() / name).read_bytes())
