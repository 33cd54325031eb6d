"""The recipe for latent diffusion: it learns, it goes on, every knob acts, others open what it made."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from marmo.recipes.latent import Config, UNetShape, main, tiny
from tests.recipes.latent_parts import write_parts
from tests.recipes.shapes import shape

SHAPE = UNetShape(channels=(8, 16), depths=(0, 1), num_heads=(1, 2), num_res_blocks=1, num_groups=4)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_parts(tmp_path_factory.mktemp("parts"))


def small(folder: Path, parts: tuple[Path, Path], **changes: object) -> Config:
    few = {"unet": SHAPE, "images": 32, "batch_size": 4, "warmup": 0, "held_out": 4, "window": 64, "repeats": 2}
    few |= {"log_images": 8, "validate_images": 16, "save_images": 0, "vae": parts[0], "clip": parts[1]}
    return replace(tiny(), folder=folder, **(few | changes))


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.long
@pytest.mark.parametrize("text_lr", [0.0, 0.3])
def test_resumed_is_unbroken(tmp_path: Path, parts: tuple[Path, Path], text_lr: float):
    knobs = {"text_lr": text_lr, "accumulate": 2, "window": 64, "repeats": 1, "save_images": 80}
    main(small(tmp_path / "straight", parts, images=144, **knobs), shape, shape)
    main(small(tmp_path / "broken", parts, images=80, **knobs), shape, shape)
    main(small(tmp_path / "broken", parts, images=144, **knobs), shape, shape)
    for name in ("model", "model-optimizer", "model-average-power-0.1"):
        one, two = (tmp_path / run / f"checkpoints/000000000144/{name}.safetensors" for run in ("straight", "broken"))
        assert one.read_bytes() == two.read_bytes(), name
    drop = [{key: value for key, value in row.items() if key != "time"} for row in rows(tmp_path / "straight")]
    assert [{key: value for key, value in row.items() if key != "time"} for row in rows(tmp_path / "broken")] == drop
