"""Numbers in a feature space as the lines of a report, each with its one sentence.

reference = features(space, open_pictures(real))
lines = [*against(features(space, pictures), reference, clusters), *agreement(encode_pairs(encoder, pictures))]
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from marmo.evaluate.clip_score import Pairs, clip_score, retrieval
from marmo.evaluate.copying import CopyReport, examine
from marmo.evaluate.distances import frechet, frechet_estimate, kid, moments, prdc, sliced
from marmo.evaluate.features import Features, FeatureSpace, Measured, compare, features
from marmo.evaluate.pictures import Picture
from marmo.evaluate.statistics import Estimate, cluster_numbers

SEED = 0

LEAST_PROMPTS = 4
"""With fewer, intervals speak of these prompts alone: pictures are drawn."""

WIDE = 1000
"""Numbers of a feature from which on a decomposition takes so long that fewer halves must do for the interval."""


@dataclass(frozen=True)
class Line:
    """A number, and what it says."""

    measured: Measured[Estimate] | Measured[float]
    meaning: str
    """One sentence, or two."""

    @property
    def basis(self) -> str:
        """What the number rests on."""
        whole = self.measured
        against = "" if whole.reference is None else f" against {whole.reference:,}"
        seed = "" if whole.seed is None else f", seed {whole.seed}"
        return f"{whole.n:,} pictures{against}, in {whole.space}{seed}"


def grouped(space: FeatureSpace, pictures: Iterable[Picture]) -> tuple[Features, Tensor | None]:
    """Features, and which of the pictures share a prompt; None where there are too few prompts to draw from."""
    prompts = list[str]()

    def noted() -> Iterator[Picture]:
        for picture in pictures:
            prompts.append(picture.prompt or picture.name)
            yield picture

    found = features(space, noted())
    return found, cluster_numbers(prompts) if len(set(prompts)) >= LEAST_PROMPTS else None


def against(pictures: Features, reference: Features, clusters: Tensor | None = None) -> Iterator[Line]:
    """How far these pictures are from others, and in which way.

    Args:
        clusters: N, which of the pictures share a prompt.

    Raises:
        ValueError: for features of two spaces, and for too few pictures.
    """
    yield _frechet(pictures, reference, clusters)
    yield Line(
        compare("KID", lambda x, y: kid(y, x, clusters), pictures, reference),
        "The kernel distance of the two sets: 0 where they are alike, whatever their size; it may fall below.",
    )
    yield Line(
        compare("MIND", lambda x, y: sliced(y, x, seed=SEED), pictures, reference, SEED),
        "The sliced Wasserstein distance: sees more than two moments do; fewer pictures make it larger.",
    )
    shape = prdc(reference.vectors, pictures.vectors, clusters)
    for name, value, meaning in (
        ("precision", shape.precision, "The share of these pictures that look like some reference picture: quality."),
        ("recall", shape.recall, "The share of reference pictures that look like some of these: variety."),
        ("density", shape.density, "As precision, not misled by outliers: about 1 where the sets are alike."),
        ("coverage", shape.coverage, "The share of reference pictures with one of these near by: variety, not misled."),
    ):
        yield Line(Measured(name, value, pictures.space, len(pictures), len(reference)), meaning)


def agreement(pairs: Pairs) -> Iterator[Line]:
    """How well pictures fit their prompts, by a CLIP."""
    yield Line(clip_score(pairs, SEED), "How near pictures and their prompts lie, 0 to 2.5: 2.5 times the cosine.")
    found = retrieval(pairs, ks=(1,))
    (recall,) = found.value.parts
    for name, value, meaning in (
        ("R@1 text", recall.text_of_picture, "How often a picture's own prompt is the nearest of all prompts."),
        ("R@1 picture", recall.picture_of_text, "How often the picture nearest to a prompt is one of its own."),
    ):
        yield Line(Measured(name, value, pairs.space, len(pairs)), meaning)


def examined(pictures: Features, train: Features, heldout: Features, clusters: Tensor | None = None) -> CopyReport:
    """Whether these pictures repeat training pictures more than new real pictures do."""
    if not pictures.space == train.space == heldout.space:
        raise ValueError("copies can only be looked for in one feature space; measure all three sets in the same")
    return examine(pictures.vectors, train.vectors, heldout.vectors, clusters, seed=SEED)


def copying(found: CopyReport, pictures: Features) -> Iterator[Line]:
    """What `examined` says of these pictures."""
    for name, value, meaning in (
        ("copy test z", found.copy.z, found.copy.verdict),
        ("split test z", found.split.z, found.split.verdict),
        ("near copies", found.near_copies.generated, found.near_copies.verdict),
        ("authenticity", found.authentic.generated, found.verdict),
    ):
        yield Line(_measured(name, value, pictures, found.nearest.num_train), meaning)


def _measured(name: str, value: Estimate | float, pictures: Features, n: int) -> Measured[Estimate] | Measured[float]:
    if isinstance(value, Estimate):
        return Measured(name, value, pictures.space, len(pictures), n, SEED)
    return Measured(name, value, pictures.space, len(pictures), n, SEED)


def _frechet(pictures: Features, reference: Features, clusters: Tensor | None) -> Line:
    """With an interval where there are enough pictures."""
    real = moments(reference.vectors)
    plain = compare("FD", lambda x, y: frechet(moments(y), moments(x)), pictures, reference)
    if not plain.value.meaningful:
        few = f"{plain.value.n} pictures are too few for features of {plain.value.width} numbers: look at KID."
        return Line(compare("FD", lambda x, y: plain.value.value, pictures, reference), f"Not meaningful: {few}")
    halves = 8 if plain.value.width > WIDE else 32
    measured = compare(
        "FD", lambda x, y: frechet_estimate(real, x, clusters, halves=halves, seed=SEED), pictures, reference, SEED
    )
    return Line(measured, "The Frechet distance of the two sets, FID in Inception's features: lower is nearer.")
