"""The command line as a user meets it: exit codes, one sentence per error, and nothing left behind."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from benchmarks.checkpoint import random_checkpoint
from marmo.cli.main import main
from marmo.cli.replay import old_hash
from marmo.files.pictures import read_record
from marmo.library import bundled
from marmo.nn.device import choose_dtype
from marmo.weights.store import from_state, open_file, write

SMALL = ("--width", "64", "--height", "48", "--steps", "2", "--seed", "7", "--device", "cpu", "--dtype", "float32")


@dataclass(frozen=True)
class Said:
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one sentence of an error."""
        assert (self.code, self.out) == (2, "")
        assert self.err.startswith("marmo: ") and self.err.count("\n") == 1, self.err
        return self.err.removeprefix("marmo: ").rstrip("\n")


Command = Callable[..., Said]


@pytest.fixture
def marmo(capsys: pytest.CaptureFixture[str]) -> Command:
    """The program in this process."""

    def run(*arguments: object) -> Said:
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture
def generate(marmo: Command, stand_in: Path, tmp_path: Path) -> Command:
    """`marmo generate` of a small picture into `out`; later flags win."""
    return lambda *more: marmo(
        "generate", "a red fox", "--model", stand_in, "--output", tmp_path / "out", *SMALL, *more
    )


@pytest.fixture
def picture(generate: Command, tmp_path: Path) -> Path:
    assert generate("--name", "fox").code == 0
    return tmp_path / "out" / "fox.png"


def other_weights(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    tensors = open_file(source)
    state = {name: tensors.read(name).clone() for name in tensors.infos}
    change(state)
    write(target, from_state(state), tensors.metadata)
    return target


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# generate


def test_a_picture_and_its_path(generate: Command, tmp_path: Path):
    said = generate("--name", "{seed}-{prompt}")
    assert (said.code, said.out, said.err) == (0, f"{tmp_path}/out/7-a-red-fox.png\n", "")
    record = read_record(tmp_path / "out" / "7-a-red-fox.png")
    assert (record.request.prompt, record.seed, record.request.width, record.dtype) == ("a red fox", 7, 64, "float32")
    with Image.open(tmp_path / "out" / "7-a-red-fox.png") as image:
        assert image.size == (64, 48)


@pytest.mark.long
def test_every_field_is_a_flag(generate: Command, stand_in: Path, tmp_path: Path):
    Image.new("RGB", (64, 48), "teal").save(tmp_path / "in.png")
    flags = (
        "--negative-prompt", "dark", "--sampler", "ddim", "--schedule", "leading", "--guidance-scale", "3.5",
        "--guidance.rescale", "0.7", "--guidance.low-sigma", "0.1", "--guidance.high-sigma", "9", "--eta", "0.3",
        "--num-images", "2", "--noise-source", "philox", "--variation.seed", "9", "--variation.strength", "0.2",
        "--discard-penultimate", "--init-image", tmp_path / "in.png", "--strength", "0.6",
        "--start", "a1111", "--clip-skip", "2", "--prompt-syntax", "comfyui", "--prediction", "eps",
        "--empty-negative", "zeros", "--format", "webp", "--name", "fox-{index}",
    )  # fmt: skip
    assert generate(*flags).code == 0
    assert files(tmp_path / "out") == ["fox-0.webp", "fox-1.webp"]
    request = read_record(tmp_path / "out" / "fox-1.webp").request
    parts = {"guidance", "variation", "told", "refiner", "inpaint", "outpaint", "hires", "upscale", "regions", "tiling"}
    assert request.model_dump(exclude=parts) == {
        "prompt": "a red fox", "negative_prompt": "dark", "model": "stand-in.safetensors", "width": 64, "height": 48,
        "steps": 2, "sampler": "ddim", "schedule": "leading", "guidance_scale": 3.5, "eta": 0.3, "seed": 7,
        "num_images": 2, "noise_source": "philox", "discard_penultimate": True, "init_image": None,
        "strength": 0.6, "start": "a1111", "clip_skip": 2, "prompt_syntax": "comfyui", "prediction": "eps",
        "zero_snr": False, "empty_negative": "zeros", "mask": None, "image_guidance_scale": None, "vae": None,
        "template": None,
    }  # fmt: skip
    assert request.guidance.model_dump() == {"rescale": 0.7, "low_sigma": 0.1, "high_sigma": 9.0}
    assert request.variation.model_dump() == {"seed": 9, "strength": 0.2}


@pytest.mark.long
def test_names_of_other_programs_are_understood(generate: Command, tmp_path: Path):
    assert generate("--sampler", "DPM++ 2M SDE Karras", "--name", "fox").code == 0
    request = read_record(tmp_path / "out" / "fox.png").request
    assert (request.sampler, request.schedule) == ("dpmpp_2m_sde", "karras")


@pytest.mark.long
def test_json(generate: Command, tmp_path: Path):
    said = generate("--json", "--num-images", "2", "--name", "fox", "--negative-prompt", "dark " * 2405)
    told = json.loads(said.out)
    assert (said.code, said.err) == (0, "")
    assert told["pictures"] == [
        {"file": f"{tmp_path}/out/fox.png", "seed": 7},
        {"file": f"{tmp_path}/out/fox-2.png", "seed": 8},
    ]
    assert told["seconds"] > 0
    assert told["notes"] == ["the model reads 2400 tokens of a prompt; it did not see: " + " ".join(["dark"] * 5)]


@pytest.mark.long
def test_a_note_is_told(generate: Command):
    said = generate("--negative-prompt", "dark " * 2401)
    assert said.out.startswith("note: the model reads 2400 tokens of a prompt; ")


@pytest.mark.long
def test_an_estimate_paints_nothing(generate: Command, tmp_path: Path):
    said = generate("--estimate")
    assert (said.code, said.err) == (0, "")
    assert re.fullmatch(r"about 0\.[2-5] GiB of memory and \d+ s\n", said.out)
    told = json.loads(generate("--estimate", "--json", "--steps", "1000", "--width", "256").out)
    assert told["memory_bytes"] > 3.4e8 and told["seconds"] > 1
    assert not (tmp_path / "out").exists()


@pytest.mark.long
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--width", "0"], "width: must be greater than or equal to 8, not 0"),
        (["--height", "7"], "height: must be greater than or equal to 8, not 7"),
        (["--width", "1000000000"], "width: must be less than or equal to 8192, not 1000000000"),
        (["--width", "68"], "width 68 is not a multiple of 8; the nearest are 64 and 72"),
        (["--steps", "0"], "steps: must be greater than or equal to 1, not 0"),
        (["--steps", "1000000000"], "steps: must be less than or equal to 1000, not 1000000000"),
        (["--seed", "-1"], "seed: must be greater than or equal to 0, not -1"),
        (["--seed", str(2**70)], f"seed: must be less than or equal to {2**63 - 1}, not {2**70}"),
        (["--seed", str(2**63 - 1), "--num-images", "2"], "leaves no room for 2 pictures"),
        (["--num-images", "65"], "num_images: must be less than or equal to 64, not 65"),
        (["--guidance-scale", "nan"], "guidance_scale: must be a finite number, not nan"),
        (["--sampler", "eular_a"], "sampler: 'eular_a' does not exist; did you mean euler or euler_ancestral or "),
        (["--schedule", "karas"], "schedule: 'karas' does not exist; did you mean karras? the names are normal"),
        (["--eta", "1"], "eta means nothing to dpmpp_2m"),
        (["--strength", "0.5"], "strength needs an init_image to leave"),
        (["--clip-skip", "9"], "clip skip 9 asks for a layer that this text encoder does not have"),
        (["--dtype", "float64"], "dtype 'float64' does not exist; the dtypes are float32, bfloat16, float16"),
        (["--dtype", "float16"], "float16 has no arithmetic on the CPU"),
        (["--device", "gpu0"], "device 'gpu0' cannot be used here"),
        (["--device", "meta"], "device 'meta' cannot be used here"),
        (["--name", "../{seed}"], "the file name pattern '../{seed}' is not a path below the output folder"),
        (["--name", "{sed}"], "{sed} in the file name pattern '{sed}' does not exist; the tokens are {seed}, {index}"),
        (["--model", "none.safetensors"], "none.safetensors: No such file or directory"),
        (["--model", "a\0b"], "there is no file, folder or model"),
        (["--init-image", "none.png"], "none.png: No such file or directory"),
        (["--init-image", "."], ".: Is a directory"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_sentence_and_nothing_is_left(
    generate: Command, tmp_path: Path, flags: list[str], sentence: str
):
    assert sentence in generate(*flags).sentence
    assert not (tmp_path / "out").exists()


def test_no_model(marmo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bundled, "MODELS", tmp_path)
    assert marmo("generate", "a fox").sentence.startswith("no model comes with this copy of Marmo; give --model a")


@pytest.mark.long
@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["paint"],
        ["generate"],
        ["generate", "a fox", "--steps", "abc"],
        ["generate", "a fox", "--widths", "64"],
        ["generate", "a fox", "--format", "gif"],
        ["generate", "a fox", "a wolf"],
        ["generate", "a fox", "--seed", "1" * 5000],
        ["convert", "a.safetensors"],
    ],
)
def test_a_command_line_that_is_none_ends_with_2(marmo: Command, arguments: list[str]):
    said = marmo(*arguments)
    assert (said.code, said.out) == (2, "")
    assert "Traceback" not in said.err and "marmo" in said.err


@pytest.mark.long
@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"x" * 99, b"\xff\xd8\xff\xe0 JPEG?"])
def test_a_corrupt_picture_to_start_from(generate: Command, tmp_path: Path, data: bytes):
    path = tmp_path / "in.png"
    path.write_bytes(data)
    assert generate("--init-image", path).sentence.startswith("init_image: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_weights_that_are_no_numbers(generate: Command, stand_in: Path, tmp_path: Path):
    name = "model.diffusion_model.time_embed.0.weight"
    path = other_weights(stand_in, tmp_path / "nan.safetensors", lambda state: state[name].fill_(float("nan")))
    assert generate("--model", path).sentence == (
        "nan.safetensors is damaged: unet weight time_in.weight holds values that are no numbers"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_a_truncated_model(generate: Command, stand_in: Path, tmp_path: Path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(stand_in.read_bytes()[:5_000_000])
    assert generate("--model", path).sentence.startswith(f"{path}: its tensors have ")
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_no_folder_is_told_before_anything_is_painted(generate: Command, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "deeper"):
        sentence = generate("--output", path).sentence
        assert sentence == f"{tmp_path / 'file'} is no folder that can be written to; choose another --output"
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.long
def test_a_picture_is_never_overwritten(generate: Command, tmp_path: Path):
    for _ in range(2):
        generate("--name", "fox")
    assert files(tmp_path / "out") == ["fox-2.png", "fox.png"]


@pytest.mark.long
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 64.00 GiB."),
        RuntimeError("MPS backend out of memory"),
    ],
)  # fmt: skip
def test_too_little_memory_is_one_sentence(
    generate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("marmo.pipelines.latent.LatentDiffusion.ask", fail)
    said = generate("--memory", "full").sentence
    assert said.startswith("the memory is not enough: the request takes about 0.")
    assert "; with --memory low it takes about 0." in said or "; no setting makes this model small enough" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_a_fault_of_ours_is_not_hidden(generate: Command, monkeypatch: pytest.MonkeyPatch):
    def fail(*arguments: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("marmo.pipelines.latent.LatentDiffusion.ask", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        generate()


# Ctrl-C


def started(*arguments: object, stderr: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "marmo", *(str(argument) for argument in arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, "TERM": "xterm"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
    )


def read_until(terminal: int, word: bytes) -> bytes:
    """What a program writes to its terminal, up to a word."""
    said = b""
    while word not in said:
        said += os.read(terminal, 10_000)
    return said


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="signals and terminals are POSIX's")
def test_a_reader_that_has_seen_enough_is_no_error(stand_in: Path):
    program = started("inspect", stand_in, stderr=subprocess.PIPE)
    assert program.stdout is not None and program.stderr is not None
    program.stdout.close()
    assert (program.stderr.read(), program.wait(timeout=60)) == (b"", 141)


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="signals and terminals are POSIX's")
def test_ctrl_c_stops_the_painting_and_leaves_nothing(stand_in: Path, tmp_path: Path):
    output = tmp_path / "out"
    flags = ("--steps", "1000", "--width", "256", "--height", "256", "--device", "cpu", "--output", output)
    terminal, inside = os.openpty()
    program = started("generate", "a fox", "--model", stand_in, *flags, stderr=inside)
    read_until(terminal, b"painting 1 picture")
    program.send_signal(signal.SIGINT)
    said = read_until(terminal, b"marmo: stopped")  # first: a terminal that nobody reads stops the program, too
    out, _ = program.communicate(timeout=30)
    assert (program.returncode, out) == (130, b"")
    assert b"Traceback" not in said
    assert not output.exists()
    os.close(terminal)
    os.close(inside)


@pytest.mark.long
def test_ctrl_c_in_any_place_is_130(generate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    for place in ("latent.LatentDiffusion.load", "latent.LatentDiffusion.ask", "latent.to_pictures"):
        with monkeypatch.context() as patch:
            patch.setattr(f"marmo.pipelines.{place}", interrupt)
            said = generate()
        assert (said.code, said.out, said.err) == (130, "", "marmo: stopped\n")
    with monkeypatch.context() as patch:
        patch.setattr("marmo.cli.generate.save_picture", interrupt)
        assert generate().code == 130
    assert files(tmp_path) == []


# replay


def test_a_replay_is_identical(generate: Command, marmo: Command, tmp_path: Path):
    generate("--name", "fox", "--sampler", "euler_ancestral", "--num-images", "2")
    assert marmo("replay", tmp_path / "out" / "fox-2.png") == Said(0, "identical: every pixel is the same\n", "")


@pytest.mark.long
def test_a_replay_tells_how_far_a_lossy_picture_is(generate: Command, marmo: Command, tmp_path: Path):
    generate("--name", "fox", "--format", "jpg")
    said = marmo("replay", tmp_path / "out" / "fox.jpg")
    assert said.code == 1
    assert re.fullmatch(r"different: \d+\.\d+% of the values, by at most \d+ of 255, PSNR \d+\.\d dB\n", said.out)


@pytest.mark.long
def test_a_replay_saves_the_very_same_file(picture: Path, marmo: Command, tmp_path: Path):
    again = tmp_path / "new" / "again.png"
    assert marmo("replay", picture, "--output", again).code == 0
    assert again.read_bytes() == picture.read_bytes()


@pytest.mark.long
def test_a_replay_overwrites_nothing(picture: Path, marmo: Command, tmp_path: Path):
    before = picture.read_bytes()
    assert marmo("replay", picture, "--output", picture).sentence == f"{picture} exists; choose another name"
    assert "ends in .png" in marmo("replay", picture, "--output", tmp_path / "again.gif").sentence
    assert picture.read_bytes() == before


@pytest.mark.long
def test_a_replay_of_a_moved_model(picture: Path, marmo: Command, stand_in: Path, tmp_path: Path):
    moved = tmp_path / "elsewhere" / "renamed.safetensors"
    moved.parent.mkdir()
    moved.hardlink_to(stand_in)
    said = marmo("replay", picture, "--model", moved)
    assert (said.code, said.out) == (0, "identical: every pixel is the same\n")


@pytest.mark.long
def test_a_replay_finds_a_folder_by_its_hashes(
    generate: Command, marmo: Command, stand_in_folder: Path, tmp_path: Path
):
    assert generate("--model", stand_in_folder, "--name", "fox").code == 0
    record = read_record(tmp_path / "out" / "fox.png")
    assert {name.split("/")[0] for name in record.weights} == {"text_encoder", "unet", "vae"}
    said = marmo("replay", tmp_path / "out" / "fox.png")
    assert (said.code, said.out) == (0, "identical: every pixel is the same\n")


@pytest.mark.long
def test_a_replay_with_a_refiner_and_a_model_read_otherwise(marmo: Command, tmp_path: Path):
    base = random_checkpoint(tmp_path / "base.safetensors", family="sdxl")
    refiner = random_checkpoint(tmp_path / "refiner.safetensors", family="sdxl-refiner")
    said = marmo(
        "generate", "a red fox", "--model", base, "--refiner.model", refiner, "--refiner.switch", "0.5",
        "--told.crop-left", "8", "--prediction", "v", "--name", "fox", "--output", tmp_path, *SMALL,
    )  # fmt: skip
    assert said.code == 0, said.err
    record = read_record(tmp_path / "fox.png")
    assert (record.request.prediction, record.request.refiner.model) == ("v", "refiner.safetensors")
    assert list(record.weights) == ["base.safetensors", "refiner/refiner.safetensors"]
    assert marmo("replay", tmp_path / "fox.png") == Said(0, "identical: every pixel is the same\n", "")


@pytest.mark.long
def test_a_replay_with_another_model_differs(picture: Path, marmo: Command, tmp_path: Path):
    other = random_checkpoint(tmp_path / "other.safetensors", seed=1)
    said = marmo("replay", picture, "--model", other)
    note, sentence = said.out.splitlines()
    assert said.code == 1
    assert note == "note: the weights stand-in.safetensors are not the ones that painted this picture"
    assert sentence.startswith("different: ")
    told = json.loads(marmo("replay", picture, "--model", other, "--json").out)
    assert told["identical"] is False and told["largest"] > 10 and 0 < told["psnr"] < 40
    assert told["changed"] == [note]


@pytest.mark.long
def test_a_replay_of_a_converted_model_says_so(picture: Path, marmo: Command, stand_in_folder: Path):
    said = marmo("replay", picture, "--model", stand_in_folder)
    assert said.code == 0
    assert said.out.startswith("note: the weights stand-in.safetensors are not the ones")
    assert said.out.endswith("identical: every pixel is the same\n")


@pytest.mark.long
def test_a_replay_of_a_picture_made_from_another(generate: Command, marmo: Command, tmp_path: Path):
    source, other = tmp_path / "in.png", tmp_path / "other.png"
    Image.fromarray(np.arange(64 * 48 * 3, dtype=np.uint8).reshape(48, 64, 3)).save(source)
    Image.new("RGB", (64, 48), "red").save(other)
    assert generate("--init-image", source, "--strength", "0.5", "--name", "fox").code == 0
    fox = tmp_path / "out" / "fox.png"
    assert "was made from another picture (sha256 " in marmo("replay", fox).sentence
    assert "is not the picture that" in marmo("replay", fox, "--init-image", other).sentence
    assert marmo("replay", fox, "--init-image", source).code == 0


@pytest.mark.long
def test_a_part_of_a_picture_from_the_command_line_and_again(
    generate: Command, marmo: Command, stand_in: Path, tmp_path: Path
):
    source, mask = tmp_path / "in.png", tmp_path / "mask.png"
    before = np.arange(64 * 48 * 3, dtype=np.uint8).reshape(48, 64, 3)
    Image.fromarray(before).save(source)
    Image.fromarray(np.where(np.arange(64) < 24, 255, 0).astype(np.uint8)[None].repeat(48, axis=0)).save(mask)
    flags = ("--init-image", source, "--mask", mask, "--inpaint.feather", "2", "--inpaint.fill", "noise",
             "--outpaint.right", "16", "--start", "a1111", "--name", "fox")  # fmt: skip
    assert generate(*flags).code == 0
    fox = tmp_path / "out" / "fox.png"
    after = np.asarray(Image.open(fox))
    assert after.shape == (48, 80, 3) and np.array_equal(after[:, 29:59], before[:, 29:59])
    assert (after[:, :24] != before[:, :24]).any() and after[:, 64:].std() > 1
    request = read_record(fox).request
    assert (request.inpaint.model_dump(), request.outpaint.right) == (
        {"fill": "noise", "grow": 0, "feather": 2, "area": "picture", "padding": 32, "soft": False, "invert": False},
        16,
    )
    assert "give it with --mask" in marmo("replay", fox, "--init-image", source).sentence
    assert marmo("replay", fox, "--init-image", source, "--mask", mask).code == 0
    dtype = str(choose_dtype(None, torch.device("cpu"))).removeprefix("torch.")  # infotext does not say it
    assert generate(*flags[:-6], "--start", "a1111", "--name", "wolf", "--dtype", dtype).code == 0
    foreign = without_record(tmp_path / "out" / "wolf.png")
    assert "give it with --mask" in marmo("replay", foreign, "--model", stand_in, "--init-image", source).sentence
    said = marmo("replay", foreign, "--model", stand_in, "--init-image", source, "--mask", mask)
    assert said.code == 0 and "identical" in said.out


@pytest.mark.long
def test_a_replay_without_its_weights(picture: Path, marmo: Command, own_cache: Path):
    (own_cache / "hashes.json").unlink()
    assert re.fullmatch(
        r"the weights are not known on this machine: stand-in\.safetensors \(sha256 [0-9a-f]{10}\.\.\.\); "
        "say where they are with --model",
        marmo("replay", picture).sentence,
    )


def without_record(picture: Path, **changes: str) -> Path:
    """The picture as another program would have saved it: with infotext alone."""
    image, info = Image.open(picture), PngInfo()
    text = str(image.info["parameters"])
    for old, new in changes.items():
        text = text.replace(old, new)
    info.add_text("parameters", text)
    image.save(picture.with_name("foreign.png"), pnginfo=info)
    return picture.with_name("foreign.png")


@pytest.mark.long
@pytest.mark.parametrize("flags", [["--prompt-syntax", "a1111", "--start", "a1111"], ["--noise-source", "philox"]])
def test_a_replay_from_infotext_is_identical(
    generate: Command, marmo: Command, stand_in: Path, tmp_path: Path, flags: list[str]
):
    dtype = str(choose_dtype(None, torch.device("cpu"))).removeprefix("torch.")  # infotext does not say it
    assert generate("--name", "fox", "--sampler", "euler_ancestral", "--dtype", dtype, *flags).code == 0
    foreign = without_record(tmp_path / "out" / "fox.png")
    said = marmo("replay", foreign, "--model", stand_in)
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == ["note: read what marmo 0.1.0 wrote", "identical: every pixel is the same"]


@pytest.mark.long
def test_a_replay_from_infotext_tells_what_it_could_not_carry_over(
    picture: Path, marmo: Command, stand_in: Path, tmp_path: Path
):
    foreign = without_record(picture, **{"Model hash: ": "Model hash: f", "RNG: CPU": "Face restoration: CodeFormer"})
    assert "say with --model where its model 'stand-in' lies" in marmo("replay", foreign).sentence
    said = marmo("replay", foreign, "--model", stand_in)
    assert said.code == 1
    assert "not carried over: Face restoration: CodeFormer" in said.out
    assert "names no noise source" in said.out
    assert f"{stand_in} holds others" in said.out


@pytest.mark.long
def test_a_replay_knows_the_old_hash_of_a_model(picture: Path, marmo: Command, stand_in: Path):
    record = read_record(picture)
    digest = next(iter(record.weights.values()))[:10]
    foreign = without_record(picture, **{f"Model hash: {digest}": f"Model hash: {old_hash(stand_in)}"})
    assert "holds others" not in marmo("replay", foreign, "--model", stand_in).out


@pytest.mark.long
def test_a_replay_of_what_marmo_did_not_make(marmo: Command, tmp_path: Path):
    path = tmp_path / "plain.png"
    Image.new("RGB", (8, 8)).save(path)
    assert marmo("replay", path).sentence.startswith(f"{path}: the picture holds no record of Marmo and no text")
    assert "No such file" in marmo("replay", tmp_path / "none.png").sentence
    path.write_bytes(b"no picture")
    assert marmo("replay", path).sentence.startswith(f"{path}: ")


@pytest.mark.long
def test_a_changed_picture_differs(picture: Path, marmo: Command):
    """One level of one value."""
    with Image.open(picture) as image:
        image.load()
        text = dict(image.info)
        changed = image.copy()
    red, green, blue = changed.getpixel((5, 5))
    changed.putpixel((5, 5), (red ^ 1, green, blue))
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add_text("marmo", text["marmo"])
    changed.save(picture, pnginfo=chunks)
    said = marmo("replay", picture, "--json")
    assert said.code == 1
    told = json.loads(said.out)
    assert (told["identical"], told["largest"]) == (False, 1)
    assert told["share"] == pytest.approx(1 / (64 * 48 * 3))


# inspect and convert


def test_inspect(marmo: Command, stand_in: Path):
    said = marmo("inspect", stand_in)
    assert said.out == (
        f"{stand_in}: single file, Stable Diffusion 1 that predicts eps, 10.3 MB\n"
        "  text              3,267,136 parameters  float16\n"
        "  unet                803,204 parameters  float16\n"
        "  vae               1,028,935 parameters  float16\n"
    )
    assert (said.code, said.err) == (0, "")


@pytest.mark.long
@pytest.mark.parametrize(
    ("family", "scheduler", "said"),
    [
        ("sd2", {}, "single file, Stable Diffusion 2 that predicts eps, "),
        ("sdxl", {"prediction_type": "v_prediction"}, "single file, SDXL that predicts v, "),
        (
            "sdxl-refiner",
            {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
            "single file, SDXL's refiner that predicts v, trained up to pure noise, ",
        ),
    ],
)
def test_inspect_tells_the_kind(marmo: Command, tmp_path: Path, family: str, scheduler: dict[str, object], said: str):
    path = random_checkpoint(tmp_path / "model.safetensors", family=family, scheduler=scheduler)
    assert marmo("inspect", path).out.startswith(f"{path}: {said}")
    told = json.loads(marmo("inspect", path, "--json").out)
    assert told["kind"] == family and told["zero_snr"] == ("rescale_betas_zero_snr" in scheduler)


@pytest.mark.long
@pytest.mark.parametrize(("task", "said"), [("inpaint", "for inpainting"), ("edit", "for editing by instruction")])
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_inspect_tells_the_task(marmo: Command, tmp_path: Path, family: str, task: str, said: str):
    for path in (tmp_path / "model.safetensors", tmp_path / "folder"):
        random_checkpoint(path, family=family, task=task)
        assert f" that predicts eps, {said}, " in marmo("inspect", path).out.splitlines()[0]
        assert json.loads(marmo("inspect", path, "--json").out)["task"] == task


def test_inspect_with_hashes(marmo: Command, stand_in_folder: Path):
    lines = marmo("inspect", stand_in_folder, "--hash").out.splitlines()
    assert lines[0] == f"{stand_in_folder}: diffusers folder, Stable Diffusion 1 that predicts eps, 10.2 MB"
    assert len(lines) == 7 and all(re.fullmatch(r"  sha256 [0-9a-f]{64}  \S+", line) for line in lines[4:])


def test_inspect_as_json(marmo: Command, stand_in: Path):
    told = json.loads(marmo("inspect", stand_in, "--json", "--hash").out)
    assert (told["layout"], told["bytes"]) == ("single file", stand_in.stat().st_size)
    assert told["parts"]["vae"]["config"]["latent_scale"] == 0.18215
    assert told["parts"]["unet"] | {"config": None} == {
        "parameters": 803_204, "dtypes": ["float16"], "names": "original", "config": None,
    }  # fmt: skip
    assert list(told["sha256"]) == [str(stand_in)]


@pytest.mark.long
def test_convert_there_and_back(marmo: Command, stand_in: Path, tmp_path: Path):
    folder, back = tmp_path / "folder", tmp_path / "back.safetensors"
    assert marmo("convert", stand_in, folder) == Said(0, f"{folder}\n", "")
    assert marmo("convert", folder, back) == Said(0, f"{back}\n", "")
    assert back.read_bytes() == stand_in.read_bytes()


@pytest.mark.long
def test_convert_to_another_dtype_and_shards(marmo: Command, stand_in: Path, tmp_path: Path):
    folder = tmp_path / "folder"
    assert marmo("convert", stand_in, folder, "--dtype", "float32", "--shard-gb", "0.001").code == 0
    assert len([*(folder / "unet").glob("*-of-*.safetensors")]) > 1
    assert "float32" in marmo("inspect", folder).out and "float16" not in marmo("inspect", folder).out


@pytest.mark.long
def test_convert_replaces_nothing_unasked(marmo: Command, stand_in: Path, tmp_path: Path):
    file, folder = tmp_path / "mine.safetensors", tmp_path / "mine"
    file.write_bytes(b"mine")
    folder.mkdir()
    assert marmo("convert", stand_in, file).sentence == f"{file} exists; choose another name or --overwrite"
    assert marmo("convert", stand_in, folder).sentence == f"{folder} exists; choose another name"
    assert marmo("convert", stand_in, folder, "--overwrite").sentence == f"{folder} exists; choose another name"
    assert (file.read_bytes(), files(folder)) == (b"mine", [])
    assert marmo("convert", stand_in, file, "--overwrite").code == 0
    assert file.read_bytes() == stand_in.read_bytes()


@pytest.mark.long
def test_convert_in_place(marmo: Command, stand_in: Path, tmp_path: Path):
    path = tmp_path / "one.safetensors"
    path.write_bytes(stand_in.read_bytes())
    assert marmo("convert", path, path, "--overwrite", "--dtype", "float32").code == 0
    assert "float32" in marmo("inspect", path).out


def test_convert_writes_no_pickle(marmo: Command, stand_in: Path, tmp_path: Path):
    for name in ("model.ckpt", "model.pt", "model.bin"):
        assert "a single file ends in .safetensors" in marmo("convert", stand_in, tmp_path / name).sentence
    assert files(tmp_path) == []


@pytest.mark.long
def test_a_legacy_checkpoint_is_converted_and_inspected_and_else_refused(
    marmo: Command, stand_in: Path, tmp_path: Path
):
    import torch

    from marmo.weights import store

    tensors, old, new = store.open_file(stand_in), tmp_path / "old.ckpt", tmp_path / "new.safetensors"
    state = {name: tensors.read(name) for name in tensors.infos}
    torch.save({"state_dict": state | {"model_ema.decay": torch.ones(1)}, "optimizer_states": [torch.ones(1)]}, old)
    said = marmo("convert", old, new)
    assert (said.code, said.out) == (0, f"{new}\n")
    assert said.err == f"marmo: of {old} was left out: optimizer_states\n"
    made = store.open_file(new)
    assert made.infos == tensors.infos and all(torch.equal(made.read(name), state[name]) for name in state)
    assert "803,204 parameters" in marmo("inspect", old).out
    assert "`marmo convert` makes safetensors of it" in marmo("generate", "a fox", "--model", old).sentence


def test_a_legacy_embedding_is_converted_by_its_names(marmo: Command, tmp_path: Path):
    import torch

    from marmo.weights import store

    old, new = tmp_path / "style.pt", tmp_path / "style.safetensors"
    torch.save({"string_to_param": {"*": torch.ones(2, 4)}, "name": "style"}, old)
    assert marmo("convert", old, new, "--dtype", "float16").code == 0
    made = store.open_file(new)
    assert made.read("string_to_param.*").dtype == torch.float16 and made.metadata == {"name": "style"}
    assert "string_to_param.*  float32  [2, 4]" in marmo("inspect", old).out
    assert "holds no network" in marmo("convert", old, tmp_path / "folder").sentence


def test_convert_and_inspect_of_nothing(marmo: Command, tmp_path: Path):
    text = tmp_path / "notes.txt"
    text.write_text("these are notes, and no weights")
    for path, reason in (
        (tmp_path / "none", "No such file or directory"),
        (text, "it is no safetensors file"),
        (tmp_path, "holds no model: neither model_index.json nor config.json is in it"),
    ):
        assert reason in marmo("inspect", path).sentence
        assert reason in marmo("convert", path, tmp_path / "target").sentence
    assert files(tmp_path) == ["notes.txt"]


# The program itself


def test_version(marmo: Command):
    assert re.fullmatch(r"marmo \d+\.\d+\.\d+\n", marmo("--version").out)


@pytest.mark.long
def test_help_of_every_command(marmo: Command):
    for command in ("generate", "replay", "inspect", "convert"):
        said = marmo(command, "--help")
        assert said.code == 0 and f"usage: marmo {command}" in said.out


@pytest.mark.long
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete(marmo: Command, shell: str):
    said = marmo("--tyro-print-completion", shell)
    assert said.code == 0
    assert "generate" in said.out and "negative-prompt" in said.out


@pytest.mark.long
def test_the_program_in_a_process_of_its_own(stand_in: Path, tmp_path: Path):
    program = started("generate", "a fox", "--model", stand_in, *SMALL, "--output", tmp_path / "out", "--name", "fox")
    out, err = program.communicate(timeout=60)
    assert (program.returncode, out.decode(), err) == (0, f"{tmp_path}/out/fox.png\n", b"")
