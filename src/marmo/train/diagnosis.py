"""What became of a run, in plain words: read from the numbers that it wrote down.

    print(diagnose(list(Log(folder).rows())))

    diverges      it forgot what it had learnt, or never learnt at all: the rate is too high
    memorises     what it paints is almost a training picture, more often than a new picture is
    overfits      it does worse and worse on pictures that it does not learn from, and better on those that it does
    underfits     it knows no more than the mean and covariance of its pictures, or has not come to its end
    healthy       none of these

In this order, since the first that holds explains those after it.  The keys of the log are those of the recipes that
learn to denoise: `validation` and `validation_train` are losses under noise that never changes, of pictures that were
kept apart and of training pictures; `baseline` is what the best linear filter would have; `copied`, `copied_usual` and
`copied_z` compare painted pictures with training pictures.  These come in as numbers because whoever trains may not
look into `evaluate`, and because a log then says it all, long after the pictures are gone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["diverges", "memorises", "overfits", "underfits", "healthy", "too short"]
Row = Mapping[str, float]

NOTHING = 1.0
"""The loss of a network that answers 0: the variance of the noise."""
WORSE = 2.0
"""As many times its best, on training pictures as well, and a run has lost what it knew."""
RISEN = 1.03
"""As many times its best on other pictures, and a run has gone too far."""
FALLING = 0.95
"""Below this share of what it was at three quarters, a loss is still falling."""
COOLED = 0.2
"""Of its highest, and a rate has fallen."""
MORE_COPIES = 0.1
"""Of all painted pictures, beyond the share that is usual."""
CLEAR = 3.0
"""Standard errors; chance alone goes so far once in 700 times."""
FEWEST = 3
"""Tries, below which nothing is said of a course."""


@dataclass(frozen=True)
class Diagnosis:
    """What is the matter, what it is seen by, and what would change it."""

    verdict: Verdict
    meaning: str
    figures: tuple[str, ...]
    advice: str

    def __str__(self) -> str:
        lines = [f"{self.verdict}: {self.meaning}", *(f"  {figure}" for figure in self.figures)]
        return "\n".join([*lines, f"  what to do: {self.advice}"])


@dataclass(frozen=True)
class Course:
    """The moments at which a run was tried on fixed noise, first to last; at least `FEWEST` of them."""

    tries: Sequence[Row]
    worst: float
    """The largest loss of the run"""
    cooled: bool
    """Whether the rate fell before the run ended, so that a loss that stands still says little"""

    @property
    def best(self) -> Row:
        """When it was best on pictures that were kept apart."""
        return min(self.tries, key=lambda row: row["validation"])

    @property
    def end(self) -> Row:
        return self.tries[-1]

    @property
    def late(self) -> Row:
        """When three quarters were done."""
        return min(self.tries[:-1], key=lambda row: abs(row["images"] - 0.75 * self.end["images"]))

    @property
    def is_falling(self) -> bool:
        return self.end["validation"] < FALLING * self.late["validation"]

    def told(self, key: str, what: str) -> str:
        """The losses of some pictures, at the best moment and at the end."""
        best, end = self.best, self.end
        text = f"{what}: {best[key]:.4g} after {best['images']:,} images"
        return text if best is end else f"{text}, {end[key]:.4g} at the end, after {end['images']:,}"


def diagnose(rows: Sequence[Row]) -> Diagnosis:
    """The verdict on a run's log, its rows in order."""
    tries = [row for row in rows if "validation" in row and "validation_train" in row]
    if len(tries) < FEWEST:
        return _too_short(len(tries))
    rates = [row["lr"] for row in rows if "lr" in row]
    worst = max((row["loss"] for row in rows if "loss" in row), default=tries[0]["validation"])
    course = Course(tries, worst, cooled=bool(rates) and rates[-1] < COOLED * max(rates))
    checks = (_diverges, _memorises, _overfits, _underfits)
    return next((found for found in (check(course) for check in checks) if found is not None), _healthy(course))


def _too_short(tries: int) -> Diagnosis:
    return Diagnosis(
        "too short",
        "there is not enough to tell",
        (f"the log has {tries} measurements on pictures that were kept apart, and {FEWEST} are needed",),
        "let it run on, or have it measured more often",
    )


def _diverges(course: Course) -> Diagnosis | None:
    best, end = course.best, course.end
    lost = all(end[key] > WORSE * min(row[key] for row in course.tries) for key in ("validation", "validation_train"))
    never = end["validation"] >= NOTHING and not course.is_falling
    if not lost and not never:
        return None
    return Diagnosis(
        "diverges",
        "it lost what it had learnt" if lost and best["validation"] < NOTHING else "it has learnt nothing",
        (
            course.told("validation", "pictures that were kept apart"),
            course.told("validation_train", "pictures of the training"),
            f"the largest loss on the way: {course.worst:.4g}; a network that always answers 0 has about {NOTHING:g}",
        ),
        "begin anew with a rate a tenth as high; a longer warm-up and clipped gradients help as well",
    )


def _memorises(course: Course) -> Diagnosis | None:
    tried = next((row for row in reversed(course.tries) if "copied" in row), None)
    if tried is None or tried["copied"] < tried["copied_usual"] + MORE_COPIES or tried["copied_z"] < CLEAR:
        return None
    return Diagnosis(
        "memorises",
        "it paints its training pictures again",
        (
            f"almost a training picture: {tried['copied']:.0%} of what it paints, {tried['copied_usual']:.1%} of real "
            f"pictures that were kept apart (z = {tried['copied_z']:.1f})",
            course.told("validation", "pictures that were kept apart"),
            course.told("validation_train", "pictures of the training"),
        ),
        "more pictures, above all; else fewer images, a smaller network, dropout, mirrored pictures",
    )


def _overfits(course: Course) -> Diagnosis | None:
    best, end = course.best, course.end
    risen = end["validation"] > RISEN * best["validation"]
    if not risen or end["validation_train"] > best["validation_train"]:
        return None
    return Diagnosis(
        "overfits",
        "it gets better on the pictures that it learns from, and worse on others",
        (
            course.told("validation", "pictures that were kept apart"),
            course.told("validation_train", "pictures of the training"),
        ),
        f"more pictures; else stop after about {best['images']:,} images, or a smaller network, dropout, mirrored "
        "pictures",
    )


def _underfits(course: Course) -> Diagnosis | None:
    end = course.end
    poor = end["validation"] >= end["baseline"] if "baseline" in end else course.is_falling
    if not poor:
        return None
    figures = [
        course.told("validation", "pictures that were kept apart"),
        course.told("validation_train", "pictures of the training"),
    ]
    if "baseline" in end:
        figures.append(f"the best linear filter has {end['baseline']:.4g}: there is more to learn than it learnt")
    if course.is_falling:
        figures.append(f"the loss still falls: it was {course.late['validation']:.4g} at three quarters of the run")
        return Diagnosis("underfits", "it has not learnt to its end", tuple(figures), "let it see more images")
    advice = "a larger network; or a higher rate, if the loss fell slowly from the beginning"
    if course.cooled:  # a loss stands still then, whatever is left to learn
        advice = f"let it see more images; where that helps no more, {advice}"
    return Diagnosis("underfits", "it learns no more, and knows little", tuple(figures), advice)


def _healthy(course: Course) -> Diagnosis:
    figures = [
        course.told("validation", "pictures that were kept apart"),
        course.told("validation_train", "pictures of the training"),
    ]
    if "baseline" in course.end:
        figures.append(f"the best linear filter has {course.end['baseline']:.4g}")
    if "copied" in course.end:
        shares = f"{course.end['copied']:.0%} of what it paints, {course.end['copied_usual']:.1%} of other real ones"
        figures.append(f"almost a training picture: {shares}")
    advice = "more images: the loss still falls" if course.is_falling else "nothing; more images would change little"
    return Diagnosis("healthy", "what it learns holds for pictures that it has not seen", tuple(figures), advice)
