"""What is held out is never drawn for training, and nothing else is drawn for its test."""

from collections import Counter
from typing import get_args

import pytest

from marmo.data.corpus import STYLES, corpus
from marmo.data.scenes import sample, scene
from marmo.data.splits import Split, broken_rules, held_out, is_heldout_pair, needs_english


def check_training(seed: int, count: int) -> None:
    """The rules, spelled out again rather than asked of the generator."""
    held = held_out()
    for index in range(count):
        made = sample(seed, index)
        things = made.scene.things
        for thing in things:
            assert (thing.concept, thing.style) not in held.styles
            assert (thing.concept, thing.colour) not in held.colours
            assert thing.concept not in held.removed | held.near
        if made.scene.kind == "pair":
            assert not is_heldout_pair(things[0].concept, things[1].concept)
        assert not (made.scene.kind == "count" and len(things) == 5 and things[0].concept in held.counts)
        assert not (needs_english(made.scene) and made.caption.language == "zh")
        assert not held.mentions_removed(made.caption.text), made.caption.text


@pytest.mark.long
def test_training_shows_nothing_held_out() -> None:
    check_training(0, 2000)


@pytest.mark.long
def test_training_shows_nothing_held_out_in_twenty_thousand_scenes() -> None:
    check_training(11, 20_000)


@pytest.mark.long
@pytest.mark.parametrize("split", [split for split in get_args(Split) if split.startswith("heldout_")])
def test_a_heldout_split_draws_only_that(split: Split) -> None:
    for index in range(100):
        made = sample(0, index, split)
        if split == "heldout_language":
            assert needs_english(made.scene) and made.caption.language == "zh" and not broken_rules(made.scene)
        else:
            assert broken_rules(made.scene) == {split.removeprefix("heldout_")}


@pytest.mark.long
def test_all_draws_and_tells_everything() -> None:
    """Every rule is broken about as often as chance would break it, and captions keep no rule either."""
    made = [sample(5, index, "all") for index in range(2000)]
    broken = Counter(rule for one in made for rule in broken_rules(one.scene))
    assert broken.keys() == {"style", "colour", "relation", "count", "concept"}
    assert broken["style"] / 2000 == pytest.approx(0.1, abs=0.03)
    assert any(needs_english(one.scene) and one.caption.language == "zh" for one in made)
    assert any(held_out().mentions_removed(one.caption.text) for one in made)


def test_the_sets_have_the_sizes_that_were_promised() -> None:
    held = held_out()
    assert len(held.removed) == 20 and len(held.counts) == 50
    assert len(held.colours) == 60 and len({concept for concept, _ in held.colours}) == 30
    assert 0.08 < len(held.styles) / (len(corpus().concepts) * len(STYLES)) < 0.12
    ids = [concept.id for concept in corpus().concepts]
    share = sum(is_heldout_pair(a, b) for a in ids[:100] for b in ids[100:200]) / 10_000
    assert share == pytest.approx(0.05, abs=0.01)


def test_every_kept_concept_is_seen_in_a_style() -> None:
    held = held_out()
    for concept in corpus().concepts:
        if concept.id not in held.removed | held.near:
            assert any((concept.id, style) not in held.styles for style in STYLES), concept.id


def test_splits_have_their_own_streams() -> None:
    assert scene(0, 0) != scene(0, 0, "heldout_style") and scene(0, 0) != scene(1, 0) != scene(1, 1)
