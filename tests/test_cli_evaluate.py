"""`marmo evaluate` as a user meets it: a model, anybody's pictures, wrong input, Ctrl-C."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.checkpoint import random_checkpoint
from marmo.cli import goals
from marmo.cli import painter as painting
from marmo.cli.main import main
from marmo.data.scenes import scene
from marmo.data.selection import CONCEPTS_FILE, write_concepts
from marmo.data.shapes import SHAPES
from marmo.evaluate.look_alikes import SHOWN
from marmo.evaluate.oracle import concept_names, write_oracle
from marmo.evaluate.questions import Question, questions
from marmo.models.oracle import RESIDUAL, Oracle
from marmo.models.resnet import ResNetConfig
from tests.evaluate.oracles import rendered

TRUNK = ResNetConfig(widths=(4, 8), depth=1)
FEW = ("--parts", "seen", "--per-tag", "1", "--seeds", "2", "--language", "en")
SMALL = ("--width", "64", "--height", "64", "--steps", "1", "--device", "cpu", "--dtype", "float32")


@dataclass(frozen=True)
class Said:
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str]) -> Command:
    """`marmo evaluate` in this process."""

    def run(*arguments: object) -> Said:
        code = 0
        try:
            main(["evaluate", *map(str, arguments)])
        except SystemExit as end:
            code = int(end.code or 0)
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """Flags for two oracles that know nothing."""
    path = tmp_path_factory.mktemp("oracles") / "oracle.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Oracle(replace(RESIDUAL, finder=TRUNK, namer=TRUNK, num_concepts=len(concept_names())))
    write_oracle(path, network)
    return "--oracle", path, "--guard", path


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    return questions(("seen",), per_tag=1, languages=("en",), seeds=2)


@pytest.fixture
def folder(asked: list[Question], tmp_path: Path) -> Path:
    """Pictures of anybody, with their prompts beside them, and one of something else."""
    pictures = tmp_path / "mine"
    pictures.mkdir()
    for number, question in enumerate(asked):
        rendered(question.prompt.scene).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text(question.text, "utf-8")
    Image.new("RGB", (64, 64)).save(pictures / "other.png")
    return pictures


@pytest.mark.long
def test_a_model_is_painted_judged_and_reported(
    evaluate: Command, stand_in: Path, judges: tuple[object, ...], asked: list[Question], tmp_path: Path
):
    command = ("model", stand_in, *FEW, *SMALL, *judges, "--output", tmp_path / "out")
    said = evaluate(*command)
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[0].startswith("seen              single_object ")
    assert said.out.splitlines()[-1] == f"{tmp_path}/out/report.html"
    pictures = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "pictures").rglob("*.png")}
    assert len(pictures) == len(asked) == 8
    told = json.loads((tmp_path / "out" / "scores.json").read_text("utf-8"))
    assert (told["subject"], told["facts"]["pictures"], told["facts"]["steps"]) == ("stand-in.safetensors", "8", "1")
    assert {row["name"] for row in told["limits"]} >= {"real renders", "reconstructed", "blobs"}
    again = evaluate(*command, "--json")
    assert json.loads(again.out) == told
    assert pictures == {path: path.stat().st_mtime_ns for path in pictures}
    other = evaluate(*command, "--guidance-scale", "3")
    assert other.code == 2 and "holds pictures of another model or of other settings" in other.err


@pytest.mark.long
def test_a_model_is_asked_for_what_its_folder_lists(
    evaluate: Command, judges: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model, mine = random_checkpoint(tmp_path / "small"), tmp_path / "mine.txt"
    write_concepts(model / CONCEPTS_FILE, ("cat", "car", "key"))
    write_concepts(mine, ("dragon", "sun"))
    monkeypatch.setattr(goals, "SCENES", 4)
    command = ("model", model, *FEW, *SMALL, *judges, "--output", tmp_path / "out")
    said = evaluate(*command, "--goals")
    assert (said.code, said.err) == (0, "")
    rows = [line for line in said.out.splitlines() if "(floor " in line]
    assert len(rows) == 14 and rows[-1].startswith("warm picture ") and "not measured" not in rows[-1]
    told = json.loads((tmp_path / "out" / "scores.json").read_text("utf-8"))
    assert told["facts"]["concepts"] == "3 of 855" and len(told["goals"]) == 14
    names = {*SHAPES, "cat", "car", "key", "cats", "cars", "keys"}
    assert all(names & set(row["prompt"].split()) for row in told["pictures"])
    other = evaluate(*command, "--concepts", mine)
    assert other.code == 2 and "holds pictures of another model or of other settings" in other.err
    said = evaluate(*command[:-1], tmp_path / "other", "--concepts", mine, "--parts", "heldout_count")
    assert (said.code, said.err) == (
        2,
        "marmo: nothing of heldout_count is in the list of concepts; choose more of either\n",
    )


@pytest.mark.long
def test_a_stopped_run_goes_on(
    evaluate: Command, stand_in: Path, judges: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    command = ("model", stand_in, *FEW, *SMALL, *judges, "--output", tmp_path / "out")
    whole, painted = painting.painter, list[str]()

    def stopping(model: object, settings: object):
        def paint(texts: Sequence[str], seeds: Sequence[int]) -> Iterator[Image.Image]:
            for number, picture in enumerate(whole(model, settings)(texts, seeds)):  # type: ignore[arg-type]
                if len(painted) == 3 and number == 3:
                    raise KeyboardInterrupt
                painted.append(texts[number])
                yield picture

        return paint

    monkeypatch.setattr(painting, "painter", stopping)
    said = evaluate(*command)
    assert (said.code, said.err) == (130, "marmo: stopped; the same command goes on with what is missing\n")
    assert len(list((tmp_path / "out").rglob("*.png"))) == 3
    assert evaluate(*command).code == 0
    assert len(painted) == len(list((tmp_path / "out").rglob("*.png"))) == 8


def test_a_painter_asks_for_the_seeds_of_a_prompt_together():
    asked = [("a", 0), ("a", 1), ("a", 3), ("b", 4), ("b", 5), ("b", 5)]
    assert list(painting._runs(asked)) == [("a", 0, 2), ("a", 3, 1), ("b", 4, 2), ("b", 5, 1)]
    assert [count for _, _, count in painting._runs([("a", seed) for seed in range(20)])] == [16, 4]


@pytest.mark.long
def test_pictures_of_anybody_are_judged_and_compared(
    evaluate: Command, folder: Path, judges: tuple[object, ...], tmp_path: Path
):
    said = evaluate("pictures", folder, *FEW, *judges, "--against", folder, "--output", tmp_path / "out", "--json")
    told = json.loads(said.out)
    assert said.code == 0 and told["subject"] == "mine" and told["facts"]["pictures"] == "8"
    numbers = {row["metric"]: row for row in told["numbers"]}
    assert 0 < numbers["CLIP score"]["value"] < 2.5, "Marmo's own CLIP, where none is given"
    assert numbers["FD"]["value"] == pytest.approx(0, abs=1e-6) and numbers["precision"]["value"] == 1
    assert (numbers["FD"]["pictures"], numbers["FD"]["space"]["network"]) == (9, "marmo-oracle")
    assert "in marmo-oracle (" in (tmp_path / "out" / "report.html").read_text("utf-8")


@pytest.mark.long
def test_copies_are_shown_beside_what_they_copy(evaluate: Command, judges: tuple[object, ...], tmp_path: Path):
    """Two of the pictures are training pictures."""
    parts = {"mine": range(60), "train": range(58, 100), "heldout": range(100, 200)}
    for name, numbers in parts.items():
        (tmp_path / name).mkdir()
        for number in numbers:
            rendered(scene(-11, number)).resize((64, 64)).save(tmp_path / name / f"{number:03}.png")
    others = "--against", tmp_path / "heldout", "--train", tmp_path / "train", "--output", tmp_path / "out"
    assert evaluate("pictures", tmp_path / "mine", *FEW, *judges, *others).code == 0
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    _, shown = page.split("<h2>Nearest training pictures</h2>")
    pairs = shown.split("<figure>")[1:]
    assert len(pairs) == SHOWN and all(pair.count("<img") == 2 for pair in pairs)
    assert sorted(re.findall(r"0\.00, (\d+)\.png", "".join(pairs))) == ["058", "059"]


def test_prompts_are_written_for_another_program(evaluate: Command, asked: list[Question], tmp_path: Path):
    said = evaluate("prompts", tmp_path / "new", *FEW)
    assert (said.code, said.out) == (0, f"{tmp_path}/new/metadata.jsonl: 8 pictures to paint\n")
    rows = [json.loads(line) for line in (tmp_path / "new" / "metadata.jsonl").read_text("utf-8").splitlines()]
    assert [row["text"] for row in rows] == [question.text for question in asked]


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["prompts", "new", "--parts", "sen"], "'sen' is no part of the prompts; the parts are seen, seen_style, "),
        (["prompts", "new", "--seeds", "0"], "--per-tag and --seeds must be at least 1, not 30 and 0"),
        (["prompts", "new", "--concepts", "mine.txt"], "mine.txt is no list of concepts: "),
        (["pictures", "nowhere", *FEW], "nowhere is no collection: neither a .tar nor a folder"),
        (["pictures", "empty", *FEW], "no picture in empty answers an evaluation prompt; `marmo evaluate prompts` "),
        (["pictures", "empty", *FEW, "--train", "empty"], "--train looks for copies and needs --against, pictures"),
        (["model", "x.safetensors", *FEW, "--against", "nowhere"], "nowhere does not exist"),
        (
            ["pictures", "empty", *FEW, "--against", "empty", "--resize", "cleaner"],
            "--resize 'cleaner' does not exist; the ",
        ),
        (["model", "x.safetensors", *FEW, "--steps", "0"], "steps: must be greater than or equal to 1, not 0"),
        (["model", "x.safetensors", *FEW, "--oracle", "nothing"], "nothing: No such file or directory"),
        (["vote", "empty", "empty"], "the folders need different names"),
    ],
)
def test_wrong_input_is_one_sentence(
    evaluate: Command, arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "empty" / "other.png")
    said = evaluate(*arguments)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"marmo: {sentence}") and said.err.count("\n") == 1, said.err
    assert not (tmp_path / "out").exists()
