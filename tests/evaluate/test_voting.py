"""Ballots, the file of votes, and what is counted from it."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from marmo.data.folder import Folder
from marmo.evaluate.voting import (
    REPEAT_EVERY,
    Contest,
    Session,
    Vote,
    ballots,
    bradley_terry,
    read_votes,
    tally,
)

KEYS = [f"scene {number:03}" for number in range(200)]


@pytest.fixture
def contest(tmp_path: Path) -> Contest:
    """Two folders of three pictures, one with captions; a fourth picture is only in the first."""
    for name, colour, suffix in (("old", "red", ".png"), ("new", "blue", ".jpg")):
        (tmp_path / name / "deep").mkdir(parents=True)
        for key in ("cat", "deep/fox", "owl"):
            Image.new("RGB", (8, 8), colour).save((tmp_path / name / key).with_suffix(suffix))
    (tmp_path / "new" / "cat.txt").write_text("a cat <b>&</b> 猫\n", "utf-8")
    Image.new("RGB", (8, 8)).save(tmp_path / "old" / "alone.png")
    return Contest({name: Folder(tmp_path / name) for name in ("old", "new")})


def answered(chances: dict[tuple[str, str], float], voters: int = 1, ties: float = 0.0, seed: int = 0) -> list[Vote]:
    """Votes on 200 pictures by people who prefer the first of a pair as often as is said."""
    draw, votes = torch.Generator().manual_seed(seed), list[Vote]()
    names = sorted({name for pair in chances for name in pair})
    for voter in map(str, range(voters)):
        for ballot in ballots(names, KEYS, seed, voter):
            chance = chances.get((ballot.left, ballot.right), 1 - chances.get((ballot.right, ballot.left), 0))
            luck, tie = torch.rand(2, generator=draw).tolist()
            choice = "tie" if tie < ties else "left" if luck < chance else "right"
            place = (ballot.number, ballot.key, ballot.left, ballot.right, ballot.repeats)
            votes.append(Vote("id", voter, *place, choice, 1.0, 0.0))
    return votes


def test_every_pair_is_asked_once_on_every_picture_and_some_again_with_sides_changed():
    asked = ballots(["a", "b", "c"], KEYS, 0, "ann")
    originals = [ballot for ballot in asked if ballot.repeats is None]
    assert Counter((ballot.key, *sorted((ballot.left, ballot.right))) for ballot in originals) == {
        (key, *pair): 1 for key in KEYS for pair in (("a", "b"), ("a", "c"), ("b", "c"))
    }
    again = [ballot for ballot in asked if ballot.repeats is not None]
    assert len(again) == len(originals) // REPEAT_EVERY - 1 + (len(originals) % REPEAT_EVERY > 0)
    for ballot in again:
        old = asked[ballot.repeats]
        assert (ballot.key, ballot.left, ballot.right) == (old.key, old.right, old.left)
        assert old.repeats is None
        assert 4 < ballot.number - old.number < 12  # not at once
    assert [ballot.number for ballot in asked] == list(range(len(asked)))


def test_sides_and_order_are_chance_and_a_function_of_seed_and_voter():
    asked = ballots(["a", "b"], KEYS, 0, "ann")
    assert asked == ballots(["b", "a"], KEYS, 0, "ann")
    lefts = sum(ballot.left == "a" for ballot in asked if ballot.repeats is None)
    assert 75 < lefts < 125
    assert [ballot.key for ballot in asked] != sorted(ballot.key for ballot in asked)
    for other in (ballots(["a", "b"], KEYS, 1, "ann"), ballots(["a", "b"], KEYS, 0, "bob")):
        assert [ballot.key for ballot in other] != [ballot.key for ballot in asked]
        sides = {ballot.key: ballot.left for ballot in other}
        assert 60 < sum(sides[ballot.key] == ballot.left for ballot in asked) < 160


def test_pictures_belong_together_by_name_whatever_their_format(contest):
    assert contest.keys == ("cat", "deep/fox", "owl")
    assert contest.picture("old", "deep/fox").startswith(b"\x89PNG")
    assert contest.picture("new", "deep/fox").startswith(b"\xff\xd8")
    assert contest.prompt("cat") == "a cat <b>&</b> 猫"
    assert contest.prompt("owl") == ""


def test_a_session_goes_on_where_it_ended_and_voters_do_not_disturb_each_other(contest, tmp_path):
    path = tmp_path / "votes.jsonl"
    first = Session(contest, path, "ann")
    assert first.now.number == 0
    assert first.vote(0, "left", 1.0)
    assert not first.vote(0, "right", 1.0)  # a second click
    assert not first.vote(2, "right", 1.0)
    assert Session(contest, path, "bob").now.number == 0
    second = Session(contest, path, "ann")
    assert second.now == first.now == first.ballots[1]
    assert all(second.vote(number, "tie", 1.0) for number in (1, 2))
    assert second.now is None
    assert [(vote.voter, vote.number, vote.choice) for vote in read_votes(path)] == [
        ("ann", 0, "left"), ("ann", 1, "tie"), ("ann", 2, "tie"),
    ]  # fmt: skip


def test_a_line_that_a_crash_cut_off_is_not_counted_and_not_in_the_way(contest, tmp_path):
    path = tmp_path / "votes.jsonl"
    session = Session(contest, path)
    session.vote(0, "left", 1.0)
    whole = path.read_bytes()
    for cut in (whole + whole[:30], whole + b"\xff"):
        path.write_bytes(cut)
        again = Session(contest, path)
        assert again.done == 1
        again.vote(1, "right", 1.0)
        assert [vote.choice for vote in read_votes(path)] == ["left", "right"]


@settings(deadline=None)
@given(st.binary(max_size=60) | st.sampled_from([b"[]", b"{}", b'{"contest": 1}', b"[" * 5000]))
def test_a_file_of_something_else_is_refused_by_its_line(tmp_path_factory, line):
    path = tmp_path_factory.mktemp("votes") / "votes.jsonl"
    path.write_bytes(line.replace(b"\n", b"") + b" \n")
    if line.strip():
        with pytest.raises(ValueError, match=r"votes.jsonl:1 is no vote"):
            read_votes(path)


def test_votes_on_other_pictures_are_not_mixed_in(contest, tmp_path):
    path = tmp_path / "votes.jsonl"
    Session(contest, path).vote(0, "left", 1.0)
    with pytest.raises(ValueError, match="take another file"):
        Session(contest, path, seed=1)
    row = json.loads(path.read_text())
    assert row["choice"] == "left"
    assert {row["left"], row["right"]} == {"old", "new"}


def test_a_clear_preference_and_none_are_told_apart():
    clear = tally(answered({("new", "old"): 0.8}, ties=0.2))
    (duel,) = clear.duels
    assert (duel.first, duel.second) == ("new", "old")
    assert duel.wins + duel.ties + duel.losses == 200
    assert duel.rate.covers(0.8 * 0.8 + 0.1)
    assert clear.verdict.startswith("new is preferred to old")
    even = tally(answered({("new", "old"): 0.5}))
    assert even.verdict.startswith("new and old cannot be told apart")


def test_many_voters_are_drawn_as_voters():
    few, many = (tally(answered({("new", "old"): 0.7}, voters=voters)) for voters in (2, 8))
    assert (few.over, many.over) == ("prompts", "voters")


def test_whoever_answers_by_chance_or_by_side_is_noticed():
    careful = tally(answered({("new", "old"): 1.0}))
    assert careful.consistency.value == 1
    assert "differently" not in careful.verdict
    careless = tally(answered({("new", "old"): 0.5}, voters=3))
    assert "Repeated ballots were answered differently" in careless.verdict
    left = [replace(vote, choice="left") for vote in answered({("new", "old"): 0.5})]
    assert "One side was preferred" in tally(left).verdict
    assert tally(left).consistency.value == 0


def test_the_last_answer_to_a_ballot_counts():
    votes = answered({("new", "old"): 1.0})
    changed = replace(votes[0], choice="tie")
    assert tally([*votes, changed]).duels[0].ties == 1


def test_strengths_give_back_the_chances_they_were_drawn_from():
    truth = {"a": 1.0, "b": 0.0, "c": -1.0}
    chances = {
        (one, two): float(torch.sigmoid(torch.tensor(truth[one] - truth[two])))
        for one, two in (("a", "b"), ("a", "c"), ("b", "c"))
    }
    found = tally(answered(chances, voters=3)).strengths
    assert list(found) == ["a", "b", "c"]
    for name, strength in truth.items():
        assert found[name].low - 0.1 < strength < found[name].high + 0.1
        assert 0.05 < found[name].high - found[name].low < 0.7
    assert sum(estimate.value for estimate in found.values()) == pytest.approx(0, abs=1e-9)


def test_bradley_terry_of_two_is_the_odds_and_of_one_who_never_loses_finite():
    wins = torch.tensor([[[0.0, 30.0], [10.0, 0.0]], [[0.0, 20.0], [0.0, 0.0]]]).double()
    strength = bradley_terry(wins)
    expected = torch.log(torch.tensor([30.5 / 10.5, 20.5 / 0.5]).double())
    torch.testing.assert_close(strength[:, 0] - strength[:, 1], expected)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda folder: Contest({"new": Folder(folder / "new")}), "at least two"),
        (lambda folder: Contest({name: Folder(folder / name) for name in ("new", "twice")}), "two pictures cat"),
        (
            lambda folder: Contest({name: Folder(folder / name) for name in ("new", "other")}),
            "no picture of new and other",
        ),
        (lambda folder: tally([]), "no votes"),
    ],
)
def test_what_cannot_be_voted_on_is_refused(contest, tmp_path, call, words):
    for name, pictures in (("twice", ("cat.png", "cat.jpg")), ("other", ("dog.png",))):
        (tmp_path / name).mkdir()
        for picture in pictures:
            Image.new("RGB", (8, 8)).save(tmp_path / name / picture)
    with pytest.raises(ValueError, match=words):
        call(tmp_path)
