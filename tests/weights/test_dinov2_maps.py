"""DINOv2's names: transformers' and Meta's, there and back, configs, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from marmo.models.dinov2 import DINOV2_TOY, VIT_B_14, VIT_L_14, DinoV2, DinoV2Config, with_registers
from marmo.nn.blueprint import blueprint
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.export import write_folder, write_single_file
from marmo.weights.keymap import shapes, to_ours, to_theirs
from marmo.weights.maps.dinov2 import config_from_json, config_from_meta, config_to_json, huggingface, meta
from marmo.weights.store import Tensors, from_state, write

ONE_HEAD = replace(DINOV2_TOY, num_heads=1)  # as Meta's names tell it
REGISTERS = with_registers(ONE_HEAD)
PLAIN = replace(ONE_HEAD, resampling="plain")


def weights(config: DinoV2Config) -> Tensors:
    torch.manual_seed(0)
    return from_state({name: torch.randn(tensor.shape) for name, tensor in DinoV2(config).state_dict().items()})


@pytest.mark.parametrize("config", [ONE_HEAD, REGISTERS])
@pytest.mark.parametrize("dialect", [huggingface, meta])
def test_there_and_back(dialect, config: DinoV2Config) -> None:
    ours = weights(config)
    back = to_ours(dialect(config), to_theirs(dialect(config), ours), shapes(DinoV2(config)), "the DINOv2")
    assert back.infos == ours.infos
    assert all(torch.equal(back.read(name), ours.read(name)) for name in ours.infos)


@pytest.mark.parametrize("config", [ONE_HEAD, REGISTERS])
def test_metas_file_opens_and_is_written_back_to_the_byte(tmp_path: Path, config: DinoV2Config) -> None:
    path, again = tmp_path / "dinov2.safetensors", tmp_path / "again.safetensors"
    write(path, to_theirs(meta(config), weights(config)))
    opened = open_checkpoint(path)
    assert opened.parts["dinov2"].config == config
    write_single_file(opened, again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("config", [PLAIN, REGISTERS])
def test_a_folder_of_transformers_opens_and_is_written_back_to_the_byte(tmp_path: Path, config: DinoV2Config) -> None:
    folder, again = tmp_path / "folder", tmp_path / "again"
    folder.mkdir()
    write(folder / "model.safetensors", to_theirs(huggingface(config), weights(config)), {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config_to_json(config)))
    opened = open_checkpoint(folder)
    assert opened.parts["dinov2"].config == config
    write_folder(opened, again)
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert open_checkpoint(again).parts["dinov2"].config == config


def test_what_the_other_layout_cannot_say_is_not_lost_in_silence(tmp_path: Path) -> None:
    """The two resample positions differently, so the same weights are two feature spaces."""
    path, folder = tmp_path / "dinov2.safetensors", tmp_path / "folder"
    write(path, to_theirs(meta(ONE_HEAD), weights(ONE_HEAD)))
    with pytest.raises(ValueError, match="keep this one in a single file"):
        write_folder(open_checkpoint(path), tmp_path / "no")
    folder.mkdir()
    write(folder / "model.safetensors", to_theirs(huggingface(PLAIN), weights(PLAIN)))
    (folder / "config.json").write_text(json.dumps(config_to_json(PLAIN)))
    write_single_file(open_checkpoint(folder), tmp_path / "one.safetensors")
    assert open_checkpoint(tmp_path / "one.safetensors").parts["dinov2"].config == PLAIN


@pytest.mark.parametrize(
    "config", [VIT_B_14, VIT_L_14, with_registers(VIT_L_14), ONE_HEAD, replace(ONE_HEAD, mlp_ratio=2)]
)
def test_the_config_is_found_from_metas_shapes(config: DinoV2Config) -> None:
    with blueprint():
        ours = from_state(DinoV2(config).state_dict())
    assert config_from_meta(to_theirs(meta(config), ours).infos) == config


@pytest.mark.parametrize("config", [PLAIN, replace(VIT_L_14, resampling="plain"), with_registers(VIT_B_14)])
def test_json_round_trip(config: DinoV2Config) -> None:
    assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_swiglu_ffn": True}, r"use_swiglu_ffn True \(only False\)"),
        ({"model_type": "dinov3_vit"}, "model_type 'dinov3_vit'"),
        ({"num_attention_heads": 5}, "5 heads for 768 channels"),
        ({"image_size": 8}, "patches of 14 pixels in pictures of 8"),
        ({"mlp_ratio": 0}, "mlp_ratio in the config.json is 0"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers"),
        ({"image_size": [518, 518]}, "image_size"),
    ],
)
def test_json_that_cannot_be_expressed_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config_from_json(config_to_json(replace(VIT_B_14, resampling="plain")) | change)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("pos_embed", (1, 27, 32), "pos_embed has 27 rows, no square and 1"),
        ("pos_embed", (1, 1, 32), "pos_embed has 1 rows"),
        ("patch_embed.proj.weight", (100, 3, 4, 4), "100 channels do not divide by 64"),
        ("blocks.0.mlp.fc1.weight", None, "is missing"),  # the giant has another feed-forward
    ],
)
def test_shapes_that_tell_no_config_are_refused(name: str, shape: tuple[int, ...] | None, words: str) -> None:
    theirs = to_theirs(meta(ONE_HEAD), weights(ONE_HEAD))
    state = {other: theirs.read(other) for other in theirs.infos if other != name}
    with pytest.raises(ValueError, match=words):
        config_from_meta(from_state(state if shape is None else state | {name: torch.zeros(shape)}).infos)
