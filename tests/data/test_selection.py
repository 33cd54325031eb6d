"""A selection draws its own concepts and nothing else, and no rule about what is held out gives way to it."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import get_args

import pytest
import torch

from marmo.data.contrast import wrong_caption
from marmo.data.corpus import STYLES, corpus
from marmo.data.layout import reach
from marmo.data.scene_source import scene_source
from marmo.data.scenes import CALM_STYLES, KINDS, sample, scene
from marmo.data.selection import EASY, Selection, listed, read_concepts, write_concepts
from marmo.data.shapes import SHAPES
from marmo.data.splits import Split, broken_rules, held_out, needs_english
from marmo.train import latent_data

CHOSEN = frozenset(listed(60))
SELECTION = Selection(CHOSEN)


def test_the_list_is_what_the_docs_promise() -> None:
    """Nothing removed, no people and no mere faces, nothing that fills a picture; each is drawn in three styles."""
    ids = listed()
    assert len(ids) == 150 and tuple(listed(120)) == tuple(ids[:120])
    assert not set(ids) & (held_out().removed | held_out().near)
    for concept in (corpus()[id] for id in ids):
        assert not concept.group.startswith(("person", "face-s", "face-h", "hand", "body", "cat-face")), concept.id
        assert not concept.is_alone and set(concept.looks) == set(STYLES), concept.id


@pytest.mark.parametrize("count", [60, 120, 150])
def test_every_list_has_something_of_every_heldout_split(count: int) -> None:
    for split in get_args(Split):
        assert scene(0, 0, split, Selection(frozenset(listed(count)))).things


def test_only_chosen_concepts_and_shapes_are_drawn() -> None:
    drawn = Counter(thing.concept for index in range(3000) for thing in scene(1, index, "train", SELECTION).things)
    assert CHOSEN <= drawn.keys() <= CHOSEN | SHAPES.keys()
    counts = [drawn[id] for id in CHOSEN]
    assert max(counts) < 4 * min(counts)


@pytest.mark.long
def test_no_held_out_rule_gives_way() -> None:
    for index in range(2000):
        made = sample(2, index, "train", SELECTION)
        assert not broken_rules(made.scene) and not held_out().mentions_removed(made.caption.text)
        assert not (needs_english(made.scene) and made.caption.language == "zh")


@pytest.mark.parametrize("split", [split for split in get_args(Split) if split.startswith("heldout_")])
def test_a_heldout_split_draws_what_is_held_out_of_the_selection(split: Split) -> None:
    for index in range(20):
        shown = scene(0, index, split, SELECTION)
        concepts = {thing.concept for thing in shown.things}
        if split == "heldout_concept":
            assert concepts <= held_out().removed
        else:
            assert concepts <= CHOSEN
        if split != "heldout_language":
            assert broken_rules(shown) == {split.removeprefix("heldout_")}


def test_kinds_are_those_that_are_allowed_in_their_shares() -> None:
    shown = [scene(3, index, "train", Selection(CHOSEN, EASY)) for index in range(1500)]
    groups = Counter("shape" if one.things[0].is_shape else one.kind for one in shown)
    assert set(groups) == EASY
    assert groups["single"] / 1500 == pytest.approx(KINDS["single"] / (KINDS["single"] + KINDS["shape"]), abs=0.04)


def test_calm_scenes_have_one_plan() -> None:
    """Of every kind: upright, of a size and at places of its own, in the first style that the splits leave."""
    shown = [scene(3, index, "train", Selection(CHOSEN, calm=1)) for index in range(1200)]
    plans: dict[tuple[str, int, str | None], set[tuple[float, ...]]] = defaultdict(set)
    for picture in shown:
        assert not broken_rules(picture)
        assert not any(thing.angle or thing.mirrored for thing in picture.things)
        alike = (round(2 * max(reach(thing)), 6) for thing in picture.things)
        places = (round(part, 6) for thing in picture.things for part in (thing.x, thing.y))
        plans[picture.kind, len(picture.things), picture.relation].add((*alike, *places))
    assert set(plans) == {("single", 1, None), *(("pair", 2, side) for side in ("left", "above"))} | {
        ("count", number, None) for number in range(1, 7)
    }
    assert all(len(plan) == 1 for plan in plans.values()), plans
    assert plans["pair", 2, "left"] == {(0.405, 0.405, 0.265, 0.5, 0.735, 0.5)}


def test_a_calm_style_is_the_first_that_is_not_held_out() -> None:
    held = held_out().styles
    for index in range(800):
        things = scene(5, index, "train", Selection(CHOSEN, calm=1)).things
        left = [style for style in CALM_STYLES if not any((thing.concept, style) in held for thing in things)]
        assert {thing.style for thing in things} == {None if things[0].is_shape else left[0]}


def test_calm_scenes_are_a_share() -> None:
    shown = [scene(3, index, "train", Selection(CHOSEN, calm=0.5)) for index in range(800)]
    still = [picture for picture in shown if all(thing.angle == 0 for thing in picture.things)]
    styles = Counter(picture.things[0].style for picture in shown if not picture.things[0].is_shape)
    assert len(still) / len(shown) == pytest.approx(0.72, abs=0.06)
    assert styles["twemoji"] / styles.total() == pytest.approx(0.5 + 0.5 / 3, abs=0.08)


def test_more_things_and_more_colours() -> None:
    """Pairs keep their share of what is plural, and things alone of what is not."""
    shown = [scene(3, index, "train", Selection(CHOSEN, plural=0.7, coloured=0.9)) for index in range(1500)]
    groups = Counter("shape" if one.things[0].is_shape else one.kind for one in shown)
    wanted = {"single": 0.225, "pair": 0.4375, "count": 0.2625, "shape": 0.075}
    assert {group: groups[group] / 1500 for group in wanted} == pytest.approx(wanted, abs=0.04)
    assert not any(broken_rules(picture) for picture in shown)
    drawn = [thing for picture in shown for thing in picture.things[:1] if thing.style is not None]
    can = [thing for thing in drawn if corpus()[thing.concept].looks[thing.style or "noto"].colour is not None]
    assert sum(thing.colour is not None for thing in can) / len(can) == pytest.approx(0.9, abs=0.04)


@pytest.mark.parametrize("field", ["coloured", "plural", "calm"])
def test_shares_are_shares(field: str) -> None:
    with pytest.raises(ValueError, match="a share lies between 0 and 1, unlike"):
        Selection(**{field: 1.5})


def test_easy_scenes_come_first() -> None:
    """Of one selection, then of another; pictures as the same scenes have."""
    simple, device = Selection(CHOSEN, EASY, calm=1), torch.device("cpu")
    source = latent_data.scenes(3, 16, "train", device, SELECTION, begin=simple, easy=40)
    for position, selection in ((0, simple), (39, simple), (40, SELECTION)):
        wanted = scene_source(3, 16, selection=selection)(position)
        picture, text = source(position)
        assert torch.equal(picture, wanted[0]) and text == wanted[1]


def test_everything_selected_is_nothing_selected() -> None:
    held = held_out()
    whole = Selection(frozenset(c.id for c in corpus().concepts if c.id not in held.removed | held.near))
    assert all(scene(4, index, "train", whole) == scene(4, index) for index in range(200))


def test_wrong_captions_tell_of_nothing_else() -> None:
    """A caption about a concept that the model does not know would be told apart by the word alone."""
    few = Selection(frozenset(("cat", "lemon")), frozenset(("single",)))
    names = {id: {*corpus()[id].en, *corpus()[id].zh} for id in ("cat", "lemon")}
    for index in range(100):
        made = sample(0, index, "train", few)
        wrong = wrong_caption(0, index, made, facts=("concept",), selection=few)
        other = "lemon" if made.scene.things[0].concept == "cat" else "cat"
        assert wrong is not None and any(name in wrong.text for name in names[other]), wrong


def test_a_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_concepts(tmp_path / "concepts.txt", listed(7))
    assert read_concepts(tmp_path / "concepts.txt") == tuple(listed(7))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cat\nelefant\n", "'elefant' is no concept of scenes-v2; is it 'elephant'"),
        ("cat\ndog\ncat\n", "'cat' stands there twice"),
        ("cat\ntrophy\n", "'trophy' is kept from every training"),
        ("cat # alone\n", "1 concepts are too few"),
        ("", "0 concepts are too few"),
        ("circle\ncat\n", "'circle' is no concept"),
    ],
)
def test_a_bad_list_is_refused_with_its_name(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"mine.txt: {said}"):
        read_concepts(path)


def test_what_cannot_be_read_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "bytes.txt", tmp_path / "missing.txt", tmp_path):
        with pytest.raises(ValueError, match="is no list of concepts"):
            read_concepts(path)


@pytest.mark.long
def test_what_a_selection_holds_nothing_of_is_said_instead_of_searched_for() -> None:
    lemons = Selection(frozenset(("lemon", "cloud")))
    assert scene(0, 0, "train", lemons).things
    with pytest.raises(ValueError, match="heldout_colour split; choose more"):
        scene(0, 0, "heldout_colour", lemons)
    with pytest.raises(ValueError, match="nothing of the heldout_relation split"):
        scene(0, 0, "heldout_relation", lemons)
    with pytest.raises(ValueError, match="scenes are some of"):
        Selection(kinds=frozenset())
    with pytest.raises(ValueError, match="ask for 2 to 150, not 151"):
        listed(151)
