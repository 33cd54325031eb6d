"""The oracles that come with Marmo: how often they are right, and that nothing fools them."""

from pathlib import Path

import pytest
import torch

from marmo.data.atlas import drawn_now
from marmo.data.compose import compose
from marmo.data.scenes import scene
from marmo.evaluate import limits
from marmo.evaluate.confusion import SEED, answers, renders
from marmo.evaluate.evaluator import BUNDLED
from marmo.evaluate.judging import marked
from marmo.evaluate.oracle import Judge, bundled, concept_names, load_oracle, look, narrowed
from marmo.evaluate.questions import questions
from marmo.evaluate.scores import by_tag

SPRITES = drawn_now(torch.device("cpu"))


@pytest.fixture(scope="module", params=["first", "guard"])
def judge(request: pytest.FixtureRequest) -> Judge:
    return load_oracle(request.param)


def test_they_know_the_corpus_and_are_small():
    assert load_oracle("first").concepts == load_oracle("guard").concepts == concept_names()
    assert type(load_oracle("first").network.namer.trunk) is not type(load_oracle("guard").network.namer.trunk)
    files = [bundled("first"), bundled("guard"), BUNDLED / "model.safetensors"]
    assert sum(path.stat().st_size for path in files) <= 6_000_000


@pytest.mark.long
def test_things_that_they_have_not_seen_are_named(judge: Judge):
    """Measured on 20,000: see docs/evaluation.md.  A share of 0.97 of 400 may be 13 wrong by chance, and hardly 20."""
    things = [next(renders({concept}, 1, SEED - 7)) for concept in concept_names()[::9]] * 1
    names = answers(judge, things, SPRITES)
    right = torch.tensor([judge.concepts.index(thing.concept) for _, thing in things])
    assert (names.concept.argmax(1) == right).float().mean() >= 0.94
    looks = names.look[torch.arange(len(right)), right].argmax(1)
    assert (looks == torch.tensor([look(thing) for _, thing in things])).float().mean() >= 0.9


@pytest.mark.long
def test_real_renders_are_right_and_nothing_else_is(judge: Judge):
    asked = limits.once(questions(("seen",), per_tag=20, languages=("en",), seeds=1))
    real = list(marked(limits.renders(asked, 128, lambda pictures: pictures), {"judge": judge}))
    assert by_tag([mark for mark in real if mark], "judge")["overall"].value >= 0.9
    wrong = by_tag(limits.shuffled([mark for mark in real if mark]), "judge")
    assert wrong["overall"].value <= 0.05
    for nothing in (limits.blobs(asked, 128), limits.noise(asked, 128)):
        marks = [mark for mark in marked(nothing, {"judge": judge}) if mark]
        assert by_tag(marks, "judge")["overall"].value == 0


def test_a_narrowed_judge_has_never_heard_of_the_others():
    judge = load_oracle("guard")
    few = narrowed(judge, ("red-heart", "cat", "circle") if "red-heart" in judge.concepts else ("cat", "circle"))
    pictures = compose([scene(SEED, index, "all") for index in range(8)], 128, SPRITES)
    assert {thing.concept for found in few(pictures) for thing in found} <= set(few.concepts)
    with pytest.raises(ValueError, match="does not know griffin; it was trained on another corpus"):
        narrowed(judge, ("cat", "griffin"))


def test_a_temperature_that_is_none_is_refused(tmp_path: Path):
    import json

    from marmo.evaluate.oracle import FORMAT
    from marmo.weights.store import open_file, write

    tensors = open_file(bundled("guard"))
    told = json.loads(tensors.metadata[FORMAT])
    for wrong in (0, -1, "hot", None, float("inf")):
        write(tmp_path / "oracle.safetensors", tensors, {FORMAT: json.dumps({**told, "temperature": wrong})})
        with pytest.raises(ValueError, match="holds no oracle"):
            load_oracle(tmp_path / "oracle.safetensors")
