"""Wrong captions are wrong, by the fact that they say, and tell nothing that a split holds out."""

from collections import Counter
from itertools import count, islice

import pytest
import torch

from marmo.data.atlas import drawn_now
from marmo.data.contrast import FACTS, Fact, wrong_caption
from marmo.data.scene_source import CHUNK, scene_source
from marmo.data.scenes import Sample, batch, sample
from marmo.data.splits import held_out


def examples(fact: Fact, number: int = 40, seed: int = 3) -> list[tuple[Sample, str]]:
    made = ((index, sample(seed, index, "all")) for index in count())
    pairs = ((one, wrong_caption(seed, index, one, "all", (fact,))) for index, one in made)
    return list(islice(((one, wrong.text) for one, wrong in pairs if wrong is not None), number))


@pytest.mark.parametrize("fact", FACTS)
def test_only_what_was_told_is_changed(fact: Fact) -> None:
    for one, text in examples(fact):
        things, words = one.scene.things, one.caption.words
        assert text != one.caption.text
        match fact:
            case "style":
                assert words.style is not None
            case "colour":
                assert any(thing.colour for thing in things)
            case "count":
                assert one.scene.kind == "count"
            case "colours":
                assert len({thing.colour for thing in things}) == 2 and words.has_relation
            case "places" | "relation":
                assert one.scene.kind == "pair" and words.has_relation
            case "concept":
                pass


def test_the_words_of_known_captions() -> None:
    """Read by eye, once."""
    one = sample(-1000, 4, "all")
    assert one.caption.text == "a blue custard below a field hockey stick, Noto style"
    told = {fact: wrong.text for fact in FACTS if (wrong := wrong_caption(-1000, 4, one, "all", (fact,)))}
    assert told["style"] == "a blue custard below a field hockey stick, Fluent style"
    assert told["places"] == "a field hockey stick below a blue custard, Noto style"
    assert told["relation"] == "a field hockey stick on the left of a blue custard, Noto style"
    assert told.keys() == {"concept", "style", "colour", "places", "relation"}


def test_every_fact_has_its_turn_and_there_is_always_one() -> None:
    facts = Counter(wrong.fact for i in range(600) if (wrong := wrong_caption(0, i, sample(0, i))) is not None)
    assert facts.total() == 600 and facts.keys() == set(FACTS)


@pytest.mark.long
def test_a_training_is_not_told_what_is_held_out() -> None:
    for index in range(1500):
        wrong = wrong_caption(0, index, sample(0, index))
        assert wrong is not None and not held_out().mentions_removed(wrong.text)


def test_wrong_captions_are_a_function_of_the_position() -> None:
    one = sample(1, 5)
    assert wrong_caption(1, 5, one) == wrong_caption(1, 5, one) != wrong_caption(2, 5, sample(2, 5))


@pytest.mark.long
def test_a_source_draws_what_a_batch_draws() -> None:
    sprites = drawn_now(torch.device("cpu"))
    source = scene_source(4, 32, "heldout_count", sprites=sprites)
    drawn = batch(4, CHUNK, 3, 32, split="heldout_count", sprites=sprites)
    for number, made in enumerate(drawn.samples):
        picture, caption, wrong = source(CHUNK + number)
        assert ((picture + 1) * 127.5 - drawn.pictures[number]).abs().max() < 1.01
        assert caption == made.caption.text != wrong
