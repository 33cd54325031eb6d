"""A model whose folder lists its concepts says which words of a prompt it has never read."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch

from benchmarks.checkpoint import random_checkpoint
from marmo import catalog
from marmo.cli.main import main
from marmo.data.selection import CONCEPTS_FILE, listed, write_concepts
from marmo.pipelines.known_words import word_notes
from marmo.request import ImageRequest
from marmo.request_parts import Region

CONCEPTS = tuple(listed(60))
GIRAFFE = 'the model does not know "giraffe"; it knows "cat", "dog"'


def noted(**fields: object) -> tuple[str, ...]:
    return word_notes(CONCEPTS, ImageRequest(**{"prompt": "a cat", "steps": 4, **fields}))


@pytest.mark.parametrize(
    "prompt",
    [
        "a giraffe",
        "a (giraffe:1.3) and a ((cat))",
        "a cat AND a giraffe :0.5",
        "[a cat:a giraffe:0.5]",
        "a [cat|giraffe]",
        "a cat BREAK a giraffe",
        "a giraffe, a giraffe",
        "一只猫，giraffe",
    ],
)
def test_words_are_found_behind_the_marks_of_a_prompt(prompt: str) -> None:
    assert noted(prompt=prompt) == (GIRAFFE,)


def test_marks_and_weights_are_no_words() -> None:
    assert noted(prompt="(a red fox:1.25), [cat:dog:3] [a|the] bird, ((key))") == ()
    assert noted(prompt="") == ()
    assert noted(prompt="(a red fox:1.25)", prompt_syntax="plain") == ('the model does not know "25"',)


def test_negative_prompts_and_regions_are_read_too() -> None:
    assert noted(negative_prompt="a giraffe") == (GIRAFFE,)
    assert noted(regions=[Region(prompt="a giraffe", box=(0, 0, 0.5, 1))]) == (GIRAFFE,)


def test_a_model_that_lists_nothing_says_nothing() -> None:
    assert word_notes((), ImageRequest(prompt="a giraffe", steps=4)) == ()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = random_checkpoint(tmp_path_factory.mktemp("model") / "small", dtype=torch.float32)
    write_concepts(path / CONCEPTS_FILE, CONCEPTS)
    return path


@pytest.mark.long
def test_the_result_of_a_painted_picture_has_the_notes(folder: Path) -> None:
    model = catalog.open_model(folder, "cpu", "float32")
    assert model.card.concepts == CONCEPTS
    request = ImageRequest(prompt="a giraffe left of a cat", width=64, height=64, steps=1)
    assert model.generate(request).notes == (GIRAFFE,)


@pytest.mark.long
def test_the_command_line_says_them(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ("--width", "64", "--height", "64", "--steps", "1", "--device", "cpu")
    with suppress(SystemExit):
        main(["generate", "一只长颈鹿", "--model", str(folder), "--output", str(tmp_path), *size])
    assert 'note: the model does not know "长颈鹿"; it knows "猫", "狗"' in capsys.readouterr().out.splitlines()


def test_a_broken_list_is_refused_by_its_name(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for entry in folder.iterdir():
        (broken / entry.name).symlink_to(entry)
    (broken / CONCEPTS_FILE).unlink()
    (broken / CONCEPTS_FILE).write_text("cat\nunicornn\n")
    with pytest.raises(ValueError, match=r"'unicornn' is no concept of scenes-v2; is it 'unicorn'"):
        catalog.find(broken)
