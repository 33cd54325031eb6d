"""The pixel U-Net's map and config: there and back, real sizes under real names, old names, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from marmo.models.pixel_unet import CIFAR, DIGITS, PIXEL_TOY, PixelUNet, PixelUNetConfig
from marmo.weights.checkpoint import Checkpoint, Part, open_checkpoint
from marmo.weights.export import write_folder, write_single_file
from marmo.weights.forms import recognise, written
from marmo.weights.keymap import shapes, to_ours, to_theirs
from marmo.weights.maps.pixel_unet import config_from_json, config_to_json, diffusers
from marmo.weights.store import Tensors, from_state

CONFIGS = {
    "toy": PIXEL_TOY,
    "digits": DIGITS,
    "one level": replace(PIXEL_TOY, channels=(16,), attends=(True,)),
    "attention comes and goes": replace(
        PIXEL_TOY, channels=(8, 8, 16), attends=(True, False, True), num_res_blocks=2, head_width=8
    ),
}

every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def meta(config: PixelUNetConfig) -> PixelUNet:
    with torch.device("meta"):
        return PixelUNet(config)


def weights(config: PixelUNetConfig) -> Tensors:
    draw = torch.Generator().manual_seed(0)
    return from_state({name: torch.randn(shape, generator=draw) for name, shape in shapes(meta(config)).items()})


def same(left: Tensors, right: Tensors) -> bool:
    return left.infos == right.infos and all(torch.equal(left.read(name), right.read(name)) for name in left.infos)


@every_config
def test_there_and_back(config: PixelUNetConfig) -> None:
    ours, rules = weights(config), diffusers(config)
    theirs = to_theirs(rules, ours)
    assert len(theirs.infos) == len(ours.infos)
    assert same(to_ours(rules, theirs, shapes(meta(config)), "the U-Net"), ours)
    form = recognise(theirs.infos)
    assert form is not None and form.network == "pixel_unet"


def test_names_of_2022_are_read() -> None:
    """As google/ddpm-cifar10-32 has them: query, key, value, proj_attn."""
    ours, rules = weights(PIXEL_TOY), diffusers(PIXEL_TOY)
    theirs = to_theirs(rules, ours)
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def called(name: str) -> str:
        return next((name.replace(new, before) for new, before in old.items() if new in name), name)

    before = from_state({called(name): theirs.read(name) for name in theirs.infos})
    assert before.infos.keys() != theirs.infos.keys()
    form = recognise(before.infos)
    assert form is not None and form.network == "pixel_unet"
    assert same(to_ours(rules, before, shapes(meta(PIXEL_TOY)), "the U-Net"), ours)


def test_ddpm_of_cifar_has_its_size() -> None:
    assert sum(weight.numel() for weight in meta(CIFAR).parameters()) == 35_746_307
    names = to_theirs(diffusers(CIFAR), from_state(meta(CIFAR).state_dict())).infos
    assert names["down_blocks.1.attentions.1.group_norm.weight"].shape == (256,)
    assert names["up_blocks.2.attentions.2.to_q.weight"].shape == (256, 256)
    assert names["up_blocks.3.resnets.2.conv_shortcut.weight"].shape == (128, 256, 1, 1)


@settings(deadline=None, max_examples=40)
@given(
    widths=st.lists(st.sampled_from([8, 16, 24]), min_size=1, max_size=3),
    data=st.data(),
    head_width=st.sampled_from([None, 4, 8]),
    convention=st.sampled_from(["ho", "diffusers"]),
)
def test_configs_there_and_back(widths: list[int], data: st.DataObject, head_width, convention) -> None:
    attends = tuple(data.draw(st.booleans()) for _ in widths)
    config = PixelUNetConfig(
        channels=tuple(widths), attends=attends, num_groups=4, head_width=head_width, convention=convention, dropout=0.1
    )
    assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"class_embed_type": "timestep"}, "class_embed_type 'timestep'"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type 'fourier'"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift 'scale_shift'"),
        ({"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, "DownBlock2D or AttnDownBlock2D"),
        ({"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]}, "must be down_block_types in reverse order"),
        ({"freq_shift": 0}, "freq_shift 0"),
        ({"norm_num_groups": 5}, "16 channels cannot be normalised in 5 groups"),
        ({"attention_head_dim": 3}, "32 channels cannot be shared by heads 3 wide"),
        ({"sample_size": None}, "sample_size"),
        ({"sample_size": 33}, "33 pixels cannot be halved 1 times"),
        ({"dropout": 1.5}, "dropout in the config.json is 1.5"),
        ({"block_out_channels": [16, 32, 64]}, "block_out_channels"),
        ({"novelty": 3}, "novelty 3"),
    ],
)
def test_other_networks_are_refused(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        config_from_json({**config_to_json(PIXEL_TOY), **change})


def folder(path: Path) -> Path:
    part = Part(written("pixel_unet", "diffusers"), PIXEL_TOY, weights(PIXEL_TOY))
    write_folder(Checkpoint(path, "folder", {"pixel_unet": part}, (path,), scheduler={"beta_schedule": "linear"}), path)
    return path


def test_a_single_file_cannot_hold_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no names of its authors' for a single file; give a folder"):
        write_single_file(open_checkpoint(folder(tmp_path / "model")), tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["unet/config.json", "unet/diffusion_pytorch_model.safetensors"])
def test_a_damaged_folder_is_one_sentence(tmp_path: Path, name: str) -> None:
    path = folder(tmp_path / "model")
    (path / name).write_bytes((path / name).read_bytes()[:20])
    with pytest.raises(ValueError, match=name.split("/")[-1]):
        open_checkpoint(path)
