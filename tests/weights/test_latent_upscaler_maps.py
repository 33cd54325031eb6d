"""The latent x2 upscaler's config.json and names: both ways, and what is refused."""

from pathlib import Path

import pytest

from benchmarks.checkpoint import random_checkpoint
from marmo.models.latent_upscaler import SD_X2, SD_X2_TOY, LatentUpscaler
from marmo.nn.blueprint import blueprint
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.export import write_folder, write_single_file
from marmo.weights.keymap import to_ours, to_theirs
from marmo.weights.maps.latent_upscaler import config_from_json, config_to_json, diffusers, is_latent_upscaler
from marmo.weights.maps.unet import config_to_json as unet_to_json
from marmo.weights.store import from_state
from tests.upscalers import random_weights


@pytest.mark.parametrize("config", [SD_X2, SD_X2_TOY])
def test_the_config_both_ways(config):
    written = config_to_json(config)
    assert is_latent_upscaler(written) and config_from_json(written) == config


def test_other_unets_are_not_taken_for_it():
    from marmo.models.unet import SD1

    assert not is_latent_upscaler(unet_to_json(SD1)) and not is_latent_upscaler({"down_block_types": "KDownBlock2D"})


def test_names_both_ways():
    ours = random_weights(SD_X2_TOY)
    theirs = to_theirs(diffusers(SD_X2_TOY), ours)
    with blueprint():
        expected = {name: tuple(tensor.shape) for name, tensor in LatentUpscaler(SD_X2_TOY).state_dict().items()}
    back = to_ours(diffusers(SD_X2_TOY), theirs, expected, "it")
    assert all(back.read(name).equal(ours.read(name)) for name in expected) and back.infos.keys() == expected.keys()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"act_fn": "silu"}, "act_fn 'silu' \\(only 'gelu'\\)"),
        ({"mid_block_type": "UNetMidBlock2DCrossAttn"}, "mid_block_type"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"up_block_types": ["KUpBlock2D"] * 4}, "reverse order"),
        ({"down_block_types": ["KDownBlock2D", "DownBlock2D"]}, "down_block_types"),
        ({"time_cond_proj_dim": None}, "time_cond_proj_dim"),
        ({"block_out_channels": [32, 32, 32, 64]}, "as wide as its clock"),
        ({"block_out_channels": [32, 64, 64, 64]}, "and no others"),
        ({"block_out_channels": [33, 33, 66, 66]}, "cannot be divided"),
        ({"attention_head_dim": 24}, "heads of 24"),
        ({"layers_per_block": 0}, "layers_per_block"),
        ({"layers_per_block": [4, 4, 4, 4]}, "layers_per_block"),
    ],
)
def test_other_configs_are_refused(said: dict[str, object], words: str):
    with pytest.raises(ValueError, match=words):
        config_from_json({**config_to_json(SD_X2_TOY), **said})


def test_only_levels_that_attend_change_their_width():
    wide = {"block_out_channels": [64, 96, 128, 128], "attention_head_dim": 32}
    types = {
        "down_block_types": ["KDownBlock2D", "KDownBlock2D", "KCrossAttnDownBlock2D", "KCrossAttnDownBlock2D"],
        "up_block_types": ["KCrossAttnUpBlock2D", "KCrossAttnUpBlock2D", "KUpBlock2D", "KUpBlock2D"],
    }
    assert config_from_json({**config_to_json(SD_X2_TOY), **wide}).channels == (64, 96, 128, 128)
    with pytest.raises(ValueError, match="that does not attend is as wide as the next finer one"):
        config_from_json({**config_to_json(SD_X2_TOY), **wide, **types})


@pytest.mark.long
def test_a_folder_and_no_single_file(tmp_path: Path):
    checkpoint = open_checkpoint(random_checkpoint(tmp_path / "x2", family="sd-x2"))
    assert checkpoint.kind is not None and checkpoint.kind.name == "sd-x2"
    assert {slot: part.network for slot, part in checkpoint.parts.items()}["unet"] == "latent_upscaler"
    write_folder(checkpoint, tmp_path / "again")
    for path in (tmp_path / "x2").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "x2")).read_bytes(), path
    with pytest.raises(ValueError, match="a latent_upscaler has no names of its authors' for a single file"):
        write_single_file(checkpoint, tmp_path / "x2.safetensors")


def test_weights_that_are_damaged_are_named():
    theirs = to_theirs(diffusers(SD_X2_TOY), random_weights(SD_X2_TOY))
    missing = from_state({name: theirs.read(name) for name in theirs.infos if name != "time_proj.weight"})
    with blueprint():
        expected = {name: tuple(tensor.shape) for name, tensor in LatentUpscaler(SD_X2_TOY).state_dict().items()}
    with pytest.raises(ValueError, match=r"1 missing \(frequencies\)"):
        to_ours(diffusers(SD_X2_TOY), missing, expected, "a latent_upscaler")
