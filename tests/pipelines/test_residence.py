"""Where parts are: every mode paints the same picture, and the thrifty ones have one part on the device at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.checkpoint import random_checkpoint
from marmo import catalog
from marmo.pipelines.events import Step
from marmo.pipelines.latent import LatentDiffusion
from marmo.pipelines.modes import Mode
from marmo.pipelines.painter import Painter
from marmo.pipelines.residence import Residence
from marmo.request import ImageRequest, Refiner

CPU = torch.device("cpu")
REQUEST = ImageRequest(
    prompt="a [red:blue:0.5] fox AND a cat", negative_prompt="a dog", width=64, height=48, steps=2, seed=7, num_images=2
)


def opened(path: Path, mode: Mode) -> LatentDiffusion:
    return LatentDiffusion(catalog.find(path), CPU, torch.float32, residence=Residence(CPU, torch.float32, mode))


def levels(model: LatentDiffusion, request: ImageRequest = REQUEST) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in model.generate(request).images]).astype(int)


def is_here(network: nn.Module) -> bool:
    return all(weight.device.type != "meta" for weight in network.parameters())


@pytest.mark.long
def test_idle_parts_in_main_memory_change_no_bit(model: LatentDiffusion, stand_in: Path):
    assert (levels(opened(stand_in, "offload")) == levels(model)).all()


@pytest.mark.long
@pytest.mark.parametrize(("mode", "side"), [("low", 64), ("low", 320), ("least", 64), ("least", 256)])
def test_thrift_differs_by_rounding(model: LatentDiffusion, stand_in: Path, mode: Mode, side: int):
    """`least` up to one of its tiles; see `test_first_stage.py` for several."""
    request = REQUEST.model_copy(update={"width": side, "height": side, "num_images": 1})
    assert abs(levels(opened(stand_in, mode), request) - levels(model, request)).max() <= 1


@pytest.mark.long
def test_one_part_at_a_time(stand_in: Path):
    thrifty = opened(stand_in, "low")
    thrifty.load()
    networks = {name: thrifty.networks[name] for name in ("text", "unet", "vae")}
    assert not any(map(is_here, networks.values()))
    visits: list[str] = []

    def look(name: str) -> None:
        assert [other for other, network in networks.items() if is_here(network)] == [name]
        if visits[-1:] != [name]:
            visits.append(name)

    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: look(name))
        for name, network in networks.items()
        for module in network.modules()
    ]
    thrifty.generate(REQUEST)
    for handle in handles:
        handle.remove()
    assert visits == ["text", "unet", "vae"]  # each is read once
    assert [name for name, network in networks.items() if is_here(network)] == ["vae"]
    levels(thrifty)  # and again


@pytest.mark.long
def test_idle_parts_wait_in_main_memory(stand_in: Path):
    model = opened(stand_in, "offload")
    model.load()
    waiting = {name: weight.data_ptr() for name, weight in model.unet.named_parameters()}
    model.bring("unet")
    model.bring("vae")
    assert {name: weight.data_ptr() for name, weight in model.unet.named_parameters()} == waiting
    assert not any(weight.requires_grad for weight in model.unet.parameters())


@pytest.mark.long
def test_previews_can_be_had_while_the_autoencoder_is_away(model: LatentDiffusion, stand_in: Path):
    def previews(model: LatentDiffusion) -> list[bytes]:
        return [event.preview()[0].tobytes() for event in model.stream(REQUEST) if isinstance(event, Step)]

    assert previews(opened(stand_in, "offload")) == previews(model)


@pytest.mark.long
def test_a_refiner_shares_the_room(tmp_path: Path):
    base = random_checkpoint(tmp_path / "base.safetensors", family="sdxl")
    refiner = random_checkpoint(tmp_path / "refiner.safetensors", family="sdxl-refiner")
    request = ImageRequest(
        prompt="a fox", width=64, height=64, steps=2, seed=7, refiner=Refiner(model="refiner.safetensors", switch=0.5)
    )
    pictures = [
        levels(catalog.load(base, device="cpu", dtype="float32", refiner=refiner, memory=mode), request)
        for mode in ("full", "low")
    ]
    assert abs(pictures[0] - pictures[1]).max() <= 1
    model = catalog.load(base, device="cpu", dtype="float32", refiner=refiner, memory="low")
    second = model.refiner
    assert isinstance(second, Painter) and second.residence is model.residence
    second.bring("unet")
    model.bring("text")
    assert not is_here(second.unet)


@pytest.mark.long
def test_a_part_that_cannot_be_read_leaves_the_others_gone_and_can_be_asked_again(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch
):
    model = opened(stand_in, "low")
    model.load()
    model.bring("text")

    def fail(*arguments: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("marmo.pipelines.residence.fill", fail)
        with pytest.raises(MemoryError):
            model.bring("unet")
    assert not is_here(model.encoders.towers[0].network)
    model.bring("unet")
    assert is_here(model.unet)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["full", "offload", "low"])
def test_a_model_that_was_sent_away_comes_back(model: LatentDiffusion, stand_in: Path, mode: Mode):
    again = opened(stand_in, mode)
    again.load()
    again.residence.clear()
    assert mode == "offload" or not any(map(is_here, again.networks.values()))
    assert abs(levels(again) - levels(model)).max() <= (1 if mode == "low" else 0)
    assert mode != "full" or all(map(is_here, again.networks.values()))
