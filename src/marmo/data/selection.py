"""Which concepts and which kinds of scenes a training or an evaluation is about, where not everything is wanted.

    Selection(frozenset(listed(120)))                        the 120 concepts that people ask for first
    Selection(frozenset(listed(120)), kinds=EASY)            of these, nothing but things that stand alone, and shapes
    Selection(calm=0.5)                                      everything, half of it as plain as can be

A list of concepts is a text file with an id per line.  Marmo's own list stands in `selection.txt`; a model's folder
holds the one that the model learned from.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from marmo.data.corpus import corpus
from marmo.data.splits import held_out
from marmo.files.atomic import atomic_write

Group = Literal["single", "pair", "count", "shape"]
"""Scenes of one drawn thing, of two, of several alike, and of drawn shapes in any number."""
GROUPS: frozenset[Group] = frozenset(("single", "pair", "count", "shape"))
EASY: frozenset[Group] = frozenset(("single", "shape"))
"""What a training may begin with."""
PLURAL = 0.4
"""The usual share of pairs and counts."""

CONCEPTS_FILE = "concepts.txt"
"""What the list is called in a model's folder."""

LEAST = 2
"""A pair needs so many."""


@dataclass(frozen=True)
class Selection:
    """What scenes are drawn from.  Shapes belong to every selection; what is held out stays held out.

    Raises `ValueError` for what is no concept, for concepts that no training may see, and for too few of anything.
    """

    concepts: frozenset[str] | None = None
    """Ids; None is all of them."""
    kinds: frozenset[Group] = GROUPS
    coloured: float = 0.5
    """Of the things whose colour can be replaced, the share that has another"""
    plural: float = PLURAL
    """The share of pairs of drawn things and of several alike, where all kinds are drawn"""
    calm: float = 0.0
    """The share of scenes as plain as can be: one style, and everything upright at a place and of a size of its own"""

    def __post_init__(self) -> None:
        if not self.kinds or not self.kinds <= GROUPS:
            raise ValueError(f"scenes are some of {', '.join(sorted(GROUPS))}, not {', '.join(self.kinds) or 'none'}")
        for share in (self.coloured, self.plural, self.calm):
            if not 0 <= share <= 1:
                raise ValueError(f"a share lies between 0 and 1, unlike {share:g}")
        if self.concepts is not None:
            check_concepts(sorted(self.concepts))

    def holds(self, concept: str) -> bool:
        """Whether scenes may show it, as far as the selection decides that."""
        return self.concepts is None or concept in self.concepts


EVERYTHING = Selection()


def listed(count: int | None = None) -> Sequence[str]:
    """The first `count` concepts of Marmo's own list, or all of them, the most wanted first."""
    concepts = read_concepts(Path(__file__).with_name("selection.txt"))
    if count is not None and not LEAST <= count <= len(concepts):
        raise ValueError(f"the list has {len(concepts)} concepts; ask for {LEAST} to {len(concepts)}, not {count}")
    return concepts[:count]


def selected(concepts: int | Path | None) -> Selection:
    """The first concepts of Marmo's own list, those of a file, or everything."""
    match concepts:
        case None:
            return EVERYTHING
        case int() as count:
            return Selection(frozenset(listed(count)))
        case Path() as path:
            return Selection(frozenset(read_concepts(path)))


def read_concepts(path: Path) -> Sequence[str]:
    """The ids in a file, one per line, in its order; what follows a # is for people.  `ValueError` names a bad one."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no list of concepts: {error}") from None
    ids = [id for line in text.splitlines() if (id := line.partition("#")[0].strip())]
    try:
        check_concepts(ids)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return tuple(ids)


def write_concepts(path: Path, concepts: Iterable[str]) -> None:
    """The file that `read_concepts` reads."""
    text = "".join(f"{id}\n" for id in (f"# concepts of {corpus().version}", *concepts))
    with atomic_write(path) as stream:
        stream.write(text.encode())


def check_concepts(ids: Sequence[str]) -> None:
    """`ValueError` for ids that no generator can learn from."""
    known, held = {concept.id for concept in corpus().concepts}, held_out()
    for id in ids:
        if id not in known:
            near = get_close_matches(id, known, 1)
            raise ValueError(f"{id!r} is no concept of {corpus().version}" + (f"; is it {near[0]!r}?" if near else ""))
        if id in held.removed | held.near:
            raise ValueError(f"{id!r} is kept from every training and cannot be chosen")
    twice = next((id for number, id in enumerate(ids) if id in ids[:number]), None)
    if twice is not None:
        raise ValueError(f"{twice!r} stands there twice")
    if len(ids) < LEAST:
        raise ValueError(f"{len(ids)} concepts are too few; choose at least {LEAST}")
