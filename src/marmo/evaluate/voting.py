"""Which of two pictures is better?  People say so without knowing whose is which; votes become win rates.

    contest = Contest({"before": Folder(a), "after": Folder(b)})
    session = Session(contest, Path("votes.jsonl"), voter="ann", seed=0)
    session.vote(session.now.number, "left", seconds=2.5)
    print(tally(read_votes(Path("votes.jsonl"))).verdict)

`marmo.evaluate.booth` shows the pictures.  What a voter sees, in which order and on which side, is a function of seed
and voter; every tenth ballot comes back with its sides changed, and shows how far the voter can be trusted.
"""

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from io import BytesIO
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Literal, cast

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from marmo.data.dice import share as dice_share
from marmo.data.item import Items
from marmo.evaluate.statistics import Estimate, bootstrap, cluster_numbers, share
from marmo.files.pictures import find_record

Side = Literal["left", "right"]
Choice = Literal["left", "right", "tie"]

REPEAT_EVERY = 10
"""Ballots of which one comes back."""

FEW_VOTERS = 8
"""With fewer, an interval can only speak of other prompts, not of other voters."""


class Contest:
    """Two or more collections whose pictures go by the same names; the suffix does not count.

    Raises `ValueError` where there is nothing to compare.
    """

    def __init__(self, collections: Mapping[str, Items]) -> None:
        if len(collections) < 2:
            raise ValueError("a vote needs at least two collections of pictures")
        self.places = {name: _places(name, items) for name, items in collections.items()}
        self.collections = collections
        self.names = tuple(sorted(collections))
        self.keys = tuple(sorted(set[str].intersection(*(set(places) for places in self.places.values()))))
        if not self.keys:
            raise ValueError(f"no picture of {' and '.join(self.names)} has the same name in all of them")

    def picture(self, name: str, key: str) -> bytes:
        """A picture's file."""
        return self.collections[name].item(self.places[name][key]).picture

    def prompt(self, key: str) -> str:
        """The caption of the first collection that has one, else the prompt in a picture's record, else nothing."""
        for name in self.names:
            item = self.collections[name].item(self.places[name][key])
            if item.caption:
                return item.caption.decode("utf-8", "replace").strip()
            try:
                return find_record(BytesIO(item.picture)).request.prompt
            except ValueError:
                continue
        return ""


@dataclass(frozen=True)
class Ballot:
    """One question."""

    number: int
    key: str
    left: str
    right: str
    repeats: int | None = None
    """The ballot that was the same with its sides changed"""


@dataclass(frozen=True)
class Vote:
    """One answer, as it stands in the file."""

    contest: str
    voter: str
    number: int
    key: str
    left: str
    right: str
    repeats: int | None
    choice: Choice
    seconds: float
    """From the moment at which both pictures were seen"""
    time: float

    @property
    def winner(self) -> str | None:
        """The name of the better collection; `None` for a tie."""
        return {"left": self.left, "right": self.right, "tie": None}[self.choice]


def ballots(names: Sequence[str], keys: Sequence[str], seed: int, voter: str) -> tuple[Ballot, ...]:
    """All questions for one voter: every pair of collections on every picture, shuffled, and some of them again."""

    def drawn(*what: object) -> float:
        return dice_share(json.dumps(["voting 1", seed, voter, *what]))

    pairs = [(key, *pair) for key in keys for pair in combinations(sorted(names), 2)]
    pairs.sort(key=lambda pair: (drawn("order", *pair), pair))
    asked: list[Ballot] = []
    for place, (key, first, second) in enumerate(pairs):
        if place and place % REPEAT_EVERY == 0:
            asked.append(_again(asked, len(asked) - REPEAT_EVERY // 2 - int(drawn("again", place) * 5)))
        left, right = (first, second) if drawn("side", key, first, second) < 0.5 else (second, first)
        asked.append(Ballot(len(asked), key, left, right))
    return tuple(asked)


class Session:
    """One voter's way through the ballots; a second session with the same file goes on where the first ended.

    Raises `ValueError` for a file with votes of another contest.
    """

    def __init__(self, contest: Contest, path: Path, voter: str = "", seed: int = 0) -> None:
        self.contest, self.path, self.voter = contest, path, voter
        text = json.dumps([contest.names, contest.keys, seed])
        self.id = sha256(text.encode()).hexdigest()[:16]
        self.ballots = ballots(contest.names, contest.keys, seed, voter)
        votes = read_votes(path)
        if any(vote.contest != self.id for vote in votes):
            raise ValueError(
                f"{path} holds votes on other pictures, names or seeds: take another file for this contest"
            )
        self.done = max((vote.number + 1 for vote in votes if vote.voter == voter), default=0)
        self._lock = threading.Lock()

    @property
    def now(self) -> Ballot | None:
        """The question that is open; `None` after the last."""
        return self.ballots[self.done] if self.done < len(self.ballots) else None

    def vote(self, number: int, choice: Choice, seconds: float) -> bool:
        """Writes an answer down; false where ballot `number` is not the open one, and nothing is written."""
        with self._lock:
            ballot = self.now
            if ballot is None or ballot.number != number:
                return False
            _append(self.path, Vote(self.id, self.voter, **asdict(ballot), choice=choice, seconds=seconds, time=_now()))
            self.done += 1
            return True


def read_votes(path: Path) -> list[Vote]:
    """The votes in a file, none where there is no file; a last line that a crash cut off does not count."""
    if not path.exists():
        return []
    *whole, _ = path.read_bytes().split(b"\n")
    return [_vote(path, number, line) for number, line in enumerate(whole, start=1) if line.strip()]


_VOTE = TypeAdapter(Vote)


@dataclass(frozen=True)
class Duel:
    """Two collections against each other."""

    first: str
    second: str
    wins: int
    ties: int
    losses: int
    rate: Estimate
    """The share of votes for the first, ties as halves"""

    @property
    def verdict(self) -> str:
        """One sentence."""
        numbers = f"{self.wins} wins, {self.ties} ties, {self.losses} losses; {self.rate}"
        if self.rate.covers(0.5):
            return f"{self.first} and {self.second} cannot be told apart ({numbers})."
        better = (self.first, self.second) if self.rate.value > 0.5 else (self.second, self.first)
        return f"{better[0]} is preferred to {better[1]} ({numbers})."


@dataclass(frozen=True)
class Tally:
    """What the votes say."""

    duels: tuple[Duel, ...]
    strengths: Mapping[str, Estimate]
    """Bradley-Terry: a model wins against another with probability 1 / (1 + exp(its difference)); their mean is 0"""
    over: Literal["prompts", "voters"]
    """Whom the intervals speak of: other prompts for these voters, or other voters"""
    consistency: Estimate | None
    """The share of repeated ballots with the same answer; half of them agree by chance"""
    left: Estimate | None
    """The share of left among left and right; far from a half, a voter looks at one side only"""

    @property
    def verdict(self) -> str:
        """A sentence for every pair, and what speaks against the votes."""
        lines = [duel.verdict for duel in self.duels]
        if self.consistency is not None and self.consistency.high < 0.75:
            lines.append(f"Repeated ballots were answered differently: {self.consistency}.")
        if self.left is not None and not self.left.covers(0.5):
            lines.append(f"One side was preferred, whatever it showed: left {self.left}.")
        return "\n".join(lines)


def tally(votes: Sequence[Vote], *, seed: int = 0) -> Tally:
    """Counts; of a ballot answered twice the last answer, and repeated ballots for consistency alone."""
    votes = list({(vote.voter, vote.number): vote for vote in votes}.values())
    counted = [vote for vote in votes if vote.repeats is None]
    if not counted:
        raise ValueError("there are no votes to count")
    over = "voters" if len({vote.voter for vote in counted}) >= FEW_VOTERS else "prompts"
    clusters = cluster_numbers([vote.voter if over == "voters" else vote.key for vote in counted])
    pairs = sorted({(min(vote.left, vote.right), max(vote.left, vote.right)) for vote in counted})
    names = sorted({name for pair in pairs for name in pair})
    decided = torch.tensor([vote.choice == "left" for vote in votes if vote.choice != "tie"])
    return Tally(
        duels=tuple(_duel(counted, pair, clusters) for pair in pairs),
        strengths=_strengths(counted, names, clusters, seed) if len(names) > 2 else {},
        over=over,
        consistency=_consistency(votes),
        left=share(decided) if len(decided) else None,
    )


def _duel(votes: Sequence[Vote], pair: tuple[str, str], clusters: Tensor) -> Duel:
    mine = [number for number, vote in enumerate(votes) if {vote.left, vote.right} == set(pair)]
    points = torch.tensor([_points(votes[number], pair[0]) for number in mine])
    wins, ties = int((points == 1).sum()), int((points == 0.5).sum())
    return Duel(*pair, wins, ties, len(mine) - wins - ties, share(points, clusters[mine]))


def _strengths(votes: Sequence[Vote], names: Sequence[str], clusters: Tensor, seed: int) -> dict[str, Estimate]:
    """Every name's strength, each vote being wins, V C C, that weights add up."""
    wins = torch.zeros(len(votes), len(names), len(names), dtype=torch.float64)
    for number, vote in enumerate(votes):
        left, right = names.index(vote.left), names.index(vote.right)
        wins[number, left, right] = _points(vote, vote.left)
        wins[number, right, left] = _points(vote, vote.right)
    flat = wins.flatten(1)

    def statistic(weights: Tensor) -> Tensor:
        return bradley_terry((weights @ flat).view(-1, len(names), len(names)))

    return {
        name: bootstrap(
            lambda weights, place=place: statistic(weights)[:, place], len(votes), clusters,
            seed=seed, draws=500, method="percentile",
        )
        for place, name in enumerate(names)
    }  # fmt: skip


def bradley_terry(wins: Tensor, rounds: int = 300) -> Tensor:
    """Strengths from D tables of wins (row against column), D C C -> D C, with mean 0.  Hunter (2004), equation 3.

    Every pair gets half a win on each side beforehand, so that one who never loses has a finite strength.
    """
    wins = wins + 0.5 * (1 - torch.eye(wins.shape[1], dtype=wins.dtype))
    games, total = wins + wins.mT, wins.sum(2)
    strength = torch.ones_like(total)
    for _ in range(rounds):
        strength = total / (games / (strength[:, :, None] + strength[:, None])).sum(2)
        strength = strength / strength.log().mean(1, keepdim=True).exp()
    return strength.log()


def _consistency(votes: Sequence[Vote]) -> Estimate | None:
    first = {(vote.voter, vote.number): vote for vote in votes}
    again = [vote for vote in votes if vote.repeats is not None and (vote.voter, vote.repeats) in first]
    agree = [vote.winner == first[vote.voter, cast(int, vote.repeats)].winner for vote in again]
    return share(torch.tensor(agree)) if agree else None


def _points(vote: Vote, name: str) -> float:
    return 0.5 if vote.winner is None else float(vote.winner == name)


def _again(asked: Sequence[Ballot], place: int) -> Ballot:
    """An earlier ballot with its sides changed; of one that is itself a repetition, the next."""
    old = next(ballot for ballot in asked[max(0, place) :] if ballot.repeats is None)
    return Ballot(len(asked), old.key, old.right, old.left, old.number)


def _places(name: str, items: Items) -> dict[str, int]:
    places: dict[str, int] = {}
    for index in range(len(items)):
        key = str(PurePosixPath(items.name(index)).with_suffix(""))
        if key in places:
            raise ValueError(f"{name} has two pictures {key}: which of them is to be compared?")
        places[key] = index
    return places


def _append(path: Path, vote: Vote) -> None:
    """One write at the end of the file, on the disk before the next picture comes."""
    line = json.dumps(asdict(vote)).encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            os.ftruncate(descriptor, size - len(_torn(path)))
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _torn(path: Path) -> bytes:
    return path.read_bytes().rsplit(b"\n", 1)[-1]


def _vote(path: Path, number: int, line: bytes) -> Vote:
    try:
        return _VOTE.validate_json(line, strict=True)
    except ValidationError:
        raise ValueError(f"{path}:{number} is no vote") from None


def _now() -> float:
    return round(time.time(), 3)
