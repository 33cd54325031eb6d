"""Which concepts an oracle takes for others, on real renders: what it cannot tell apart has no place in the corpus.

    python -m marmo.evaluate.confusion --oracle out/oracle/oracle.safetensors
    0.533  full-moon  taken for circle (29), melon (2), cookie (1)

Every concept is drawn as scenes draw it, in all styles, sizes and company, and cut out where it truly is.  First those
go that are far beyond the limit, and with them what others were taken for; whoever is then still suspect is drawn more
often, since two of sixty may be chance.

Shapes: N things, K concepts, S side of a cut-out.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import torch
import tyro

from marmo.data.atlas import Sprites, atlas
from marmo.data.compose import compose
from marmo.data.layout import reach
from marmo.data.scene import Scene, Thing
from marmo.data.scenes import scene
from marmo.data.shapes import SHAPES
from marmo.data.windows import window
from marmo.evaluate.oracle import Judge, load_oracle, narrowed
from marmo.models.oracle import MARGIN, Names, shrink

SEED = -4
"""Of the scenes: training counts from -2 and -3, prompts are -1."""
PICTURE = 128
"""Pixels along the side of the picture that a cut-out seems to come from."""
LEAST, MOST = 16, 96
"""Pixels along the side of a cut-out before it is brought to the oracle's size."""
BATCH = 256

HOPELESS = 0.1
"""The share of mistakes from which on sixty renders are enough to know."""
AGAIN = 3
"""Suspects are drawn so many times as often."""


@dataclass(frozen=True)
class Confusion:
    """What happened to one concept."""

    concept: str
    count: int
    mistaken: Counter[str]
    """Concept -> how often it was the answer; "nothing" where there was none."""

    @property
    def share(self) -> float:
        """Of the renders that were taken for something else."""
        return self.mistaken.total() / self.count


def confused(judge: Judge, per_concept: int, above: float, sprites: Sprites) -> list[Confusion]:
    """The drawn concepts that have no place in the corpus, in the order in which that was found."""
    found = _drawn(confusions(judge, per_concept, sprites))
    hopeless = [one for one in found if one.share > HOPELESS]
    gone = {one.concept for one in hopeless}
    judge = narrowed(judge, [concept for concept in judge.concepts if concept not in gone])
    suspects = {one.concept for one in found if one.share > above} - gone
    again = confusions(judge, AGAIN * per_concept, sprites, SEED - 1, suspects)
    return [*hopeless, *(one for one in again if one.share > above)]


def _drawn(found: Sequence[Confusion]) -> list[Confusion]:
    return [one for one in found if one.concept not in SHAPES]


def confusions(
    judge: Judge, per_concept: int, sprites: Sprites, seed: int = SEED, only: Set[str] | None = None
) -> list[Confusion]:
    """Of every concept that the judge knows, or of some, the most mistaken first."""
    asked = set(judge.concepts) if only is None else only
    mistaken, seen = defaultdict[str, Counter[str]](Counter), Counter[str]()
    asked_of = renders(asked, per_concept, seed)
    while batch := list(islice(asked_of, BATCH)):
        named = answers(judge, batch, sprites).concept.argmax(1)
        for (_, thing), number in zip(batch, map(int, named), strict=True):
            seen[thing.concept] += 1
            answer = (*judge.concepts, "nothing")[number]
            if answer != thing.concept:
                mistaken[thing.concept][answer] += 1
    found = [Confusion(concept, seen[concept], mistaken[concept]) for concept in sorted(asked)]
    return sorted(found, key=lambda one: -one.share)


def renders(concepts: Set[str], per_concept: int, seed: int) -> Iterator[tuple[Scene, Thing]]:
    """Scenes and a thing in each, until every concept was there so often."""
    left = dict.fromkeys(concepts, per_concept)
    for index in count():
        shown = scene(seed, index, "all")
        for thing in {thing.concept: thing for thing in shown.things}.values():
            if left.get(thing.concept):
                left[thing.concept] -= 1
                yield shown, thing
            if left.get(thing.concept) == 0:
                del left[thing.concept]
        if not left:
            return


@torch.inference_mode()
def answers(judge: Judge, renders: Sequence[tuple[Scene, Thing]], sprites: Sprites) -> Names:
    """What the judge's namer says of each of the things."""
    groups = defaultdict[int, dict[int, Scene]](dict)
    for row, (shown, thing) in enumerate(renders):
        side = MARGIN * 2 * max(reach(thing))
        pixels = min(max(round(side * PICTURE / 8) * 8, LEAST), MOST)
        groups[pixels][row] = window(shown, thing.x - side / 2, thing.y - side / 2, side)
    crops = torch.empty(len(renders), 3, judge.network.config.namer_size, judge.network.config.namer_size)
    for pixels, windows in groups.items():
        drawn = compose(list(windows.values()), pixels, sprites).float() / 127.5 - 1
        crops[list(windows)] = shrink(drawn, crops.shape[-1])
    return judge.network.name(crops)


@dataclass(frozen=True)
class Confused:
    """Print the concepts that an oracle confuses, and what it takes them for."""

    oracle: Path | None = None
    """An oracle's file; the bundled one by default"""
    per_concept: int = 60
    """Renders of every concept"""
    above: float = 0.03
    """The share of mistakes from which on a concept is confused"""

    def run(self) -> None:
        """Draw, ask, count, print."""
        judge, sprites = load_oracle(self.oracle or "first"), atlas(torch.device("cpu"))
        gone = confused(judge, self.per_concept, self.above, sprites)
        for one in gone:
            taken = ", ".join(f"{name} ({times})" for name, times in one.mistaken.most_common(4))
            print(f"{one.share:.3f}  {one.concept}  taken for {taken}")
        print(
            f"{len(gone)} of {len(judge.concepts)} concepts are confused in more than {self.above:.0%} of their renders"
        )


if __name__ == "__main__":
    tyro.cli(Confused, description=Confused.__doc__).run()
