"""Which mode is chosen, and what is said when memory runs out: a sentence that, followed word for word, helps."""

import re
import shlex
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

from marmo import catalog
from marmo.pipelines import advice
from marmo.pipelines.advice import AMPLE, SHARE, choose_mode, explaining
from marmo.pipelines.footprint import expected_memory
from marmo.pipelines.latent import LatentDiffusion
from marmo.pipelines.modes import Mode, NoRoom
from marmo.request import ImageRequest

CPU = torch.device("cpu")
CUDA = torch.device("cuda")  # a name; nothing is put there
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]), int(sys.argv[1])))
from marmo.cli.main import main
main(sys.argv[2:])
"""

UNTOUCHED = """
import marmo.catalog
from marmo.nn import memory
own = memory._kilobytes(memory.PROCESS)
print(own["VmData"] - own["RssAnon"] - own["RssFile"])
"""


def request(**fields: object) -> ImageRequest:
    return ImageRequest(**{"prompt": "a fox", "width": 1024, "height": 768, "steps": 2, "seed": 7, **fields})


def with_room(monkeypatch: pytest.MonkeyPatch, num_bytes: float) -> None:
    monkeypatch.setattr(advice, "room", lambda device: int(num_bytes))


def expected(model: LatentDiffusion, mode: Mode, **fields: object) -> int:
    return expected_memory([model.card], model.resolve(request(**fields)), model.dtype, mode)


def test_a_mode_that_is_named_is_taken(model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch):
    with_room(monkeypatch, 0)
    assert choose_mode("full", [model.card], CPU, torch.float32) == "full"
    assert choose_mode("low", [model.card], CPU, torch.float32) == "low"
    assert choose_mode("offload", [model.card], CUDA, torch.float32) == "offload"


def test_on_the_cpu_nothing_can_be_moved_off_the_device(model: LatentDiffusion):
    with pytest.raises(ValueError, match="use low"):
        choose_mode("offload", [model.card], CPU, torch.float32)


@pytest.mark.long
@pytest.mark.parametrize("device", [CPU, CUDA])
def test_the_first_mode_that_has_room_is_chosen(
    model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch, device: torch.device
):
    whole = ImageRequest(prompt="").resolve(model.card.defaults)
    modes: list[Mode] = ["full", "low"] if device.type == "cpu" else ["full", "offload", "low"]
    taken = [expected_memory([model.card], whole, torch.float32, mode) for mode in modes]
    for mode in modes:
        with_room(monkeypatch, taken[modes.index(mode)] / SHARE + 1)
        first = next(each for each, size in zip(modes, taken, strict=True) if size <= taken[modes.index(mode)])
        assert choose_mode("auto", [model.card], device, torch.float32) == first
    with_room(monkeypatch, 1)
    assert choose_mode("auto", [model.card], device, torch.float32) == "low"
    with_room(monkeypatch, 2 * AMPLE)
    monkeypatch.setattr(advice, "expected_memory", None)  # nothing is reckoned where there is plenty
    assert choose_mode("auto", [model.card], device, torch.float32) == "full"


@pytest.mark.long
def test_the_least_change_that_helps_is_advised(model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch):
    four = request(num_images=4)
    low = expected(model, "low", num_images=4)
    with_room(monkeypatch, low / SHARE + 1)
    assert re.search(r"; with --memory low it takes about \d\.\d GiB$", advice.advice(model, four))
    with_room(monkeypatch, expected(model, "least") / SHARE + 1)
    assert "; with --memory least --num-images 1 it takes" in advice.advice(model, four)
    with_room(monkeypatch, expected(model, "least", width=512, height=384) / SHARE + 1)
    said = advice.advice(model, request())
    size = re.search(r"with --memory least --width (\d+) --height (\d+) it takes", said)
    assert size is not None, said
    width, height = map(int, size.groups())
    assert 512 <= width < 1024 and 384 <= height < 768 and width % 8 == height % 8 == 0
    with_room(monkeypatch, 1)
    assert advice.advice(model, four).endswith("close other programs or take another model")


def test_other_faults_pass(model: LatentDiffusion):
    for error in (ValueError("out of memory"), RuntimeError("shapes"), NoRoom("said already")):
        with pytest.raises(type(error), match=str(error)), explaining(model, request()):
            raise error


@pytest.mark.long
def test_painting_in_python_says_it_too(model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch):
    held: list[weakref.ref[torch.Tensor]] = []

    def fail(*arguments: object) -> None:
        large = torch.empty(1000)
        held.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(LatentDiffusion, "decode", fail)
    with pytest.raises(NoRoom, match="the memory is not enough: ") as caught:
        model.generate(request(width=64, height=64))
    assert held[0]() is None and caught.value.__context__ is not None  # the fault is kept, what was too much is not


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the limit is one of Linux")
@pytest.mark.long
def test_who_follows_the_sentence_word_for_word_succeeds(stand_in: Path, tmp_path: Path):
    """In a process that may not have more memory than the thrifty way takes, and some."""
    model = catalog.open_model(stand_in, "cpu", "float32", memory="full")
    size = ["--width", "640", "--height", "640", "--steps", "1", "--guidance-scale", "1"]
    wanted = ImageRequest(prompt="a fox", width=640, height=640, steps=1, guidance_scale=1)
    low = expected_memory([model.card], model.resolve(wanted), model.dtype, "least")
    untouched = subprocess.run([sys.executable, "-c", UNTOUCHED], capture_output=True, text=True, check=True)
    limit = int(untouched.stdout) + int(1.08 * low / SHARE)

    def paint(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LIMITED, str(limit), "generate", "a fox", "--model", str(stand_in), *size]
        command += ["--output", str(tmp_path / "out"), "--name", "fox", "--device", "cpu", "--dtype", "float32", *flags]
        return subprocess.run(command, capture_output=True, text=True)

    first = paint("--memory", "full")
    assert (first.returncode, first.stdout) == (2, ""), first.stderr
    assert first.stderr.startswith("marmo: the memory is not enough: ") and first.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    said = re.search(r"; with (--.*) it takes about", first.stderr)
    assert said is not None, first.stderr
    second = paint(*shlex.split(said[1]))
    assert second.returncode == 0, second.stderr
    assert (tmp_path / "out" / "fox.png").exists()
