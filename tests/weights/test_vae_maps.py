"""The autoencoder's maps and configs: there and back, old and new names, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from marmo.models.vae import KL_F8, KL_F8_TOY, VAE, VAEConfig
from marmo.weights.keymap import Rule, shapes, to_ours, to_theirs
from marmo.weights.maps.vae import (
    compvis,
    config_from_compvis,
    config_from_diffusers,
    config_from_json,
    config_to_json,
    diffusers,
)
from marmo.weights.store import Tensors, from_state

SMALL = replace(KL_F8_TOY, channels=(8, 8, 16), num_groups=8)
CONFIGS = {
    "toy": SMALL,
    "kl-f4": replace(SMALL, channels=(8, 16), latent_channels=3, num_res_blocks=2),
    "one level": replace(SMALL, channels=(8,), latent_channels=16),
}
DIALECTS = {"compvis": compvis, "diffusers": diffusers}
Map = Callable[[VAEConfig], list[Rule]]
NAMES_OF_2022 = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
every_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)


def meta(config: VAEConfig) -> VAE:
    with torch.device("meta"):
        return VAE(config)


def weights(config: VAEConfig) -> Tensors:
    return from_state(meta(config).state_dict())


def random(tensors: Tensors) -> Tensors:
    draw = torch.Generator().manual_seed(0)
    return from_state({name: torch.randn(info.shape, generator=draw) for name, info in tensors.infos.items()})


def same(left: Tensors, right: Tensors) -> bool:
    return left.infos == right.infos and all(torch.equal(left.read(name), right.read(name)) for name in left.infos)


def state(tensors: Tensors) -> dict[str, torch.Tensor]:
    return {name: tensors.read(name) for name in tensors.infos}


def aged(tensors: Tensors) -> Tensors:
    """Under the names that diffusers gave the middle's attention in 2022."""

    def old(name: str) -> str:
        for new_part, old_part in NAMES_OF_2022.items():
            name = name.replace(f"attentions.0.{new_part}.", f"attentions.0.{old_part}.")
        return name

    return from_state({old(name): tensor for name, tensor in state(tensors).items()})


@every_config
@every_dialect
def test_there_and_back(dialect: Map, config: VAEConfig) -> None:
    ours, rules = random(weights(config)), dialect(config)
    theirs = to_theirs(rules, ours)
    assert len(theirs.infos) == len(ours.infos)
    assert same(to_ours(rules, theirs, shapes(meta(config)), "the autoencoder"), ours)


@every_config
@every_dialect
def test_back_and_there(dialect: Map, config: VAEConfig) -> None:
    rules = dialect(config)
    theirs = random(to_theirs(rules, weights(config)))
    assert same(to_theirs(rules, to_ours(rules, theirs, shapes(meta(config)), "the autoencoder")), theirs)


def test_the_names_of_2022_are_read_and_those_of_today_written() -> None:
    rules, ours = diffusers(SMALL), random(weights(SMALL))
    new = to_theirs(rules, ours)
    old = aged(new)
    assert old.infos.keys() != new.infos.keys()
    read = to_ours(rules, old, shapes(meta(SMALL)), "the autoencoder")
    assert same(read, ours)
    assert same(to_theirs(rules, read), new)


def test_both_spellings_in_one_file_are_refused() -> None:
    new = random(to_theirs(diffusers(SMALL), weights(SMALL)))
    with pytest.raises(ValueError, match="16 given twice"):
        to_ours(diffusers(SMALL), from_state(state(new) | state(aged(new))), shapes(meta(SMALL)), "the autoencoder")


def test_what_training_left_in_a_first_stage_is_dropped() -> None:
    theirs = random(to_theirs(compvis(SMALL), weights(SMALL)))
    left = {name: torch.zeros(1) for name in ("loss.logvar", "loss.discriminator.main.0.weight", "model_ema.decay")}
    expected = shapes(meta(SMALL))
    dropped = to_ours(compvis(SMALL), from_state(state(theirs) | left), expected, "the autoencoder")
    assert same(dropped, to_ours(compvis(SMALL), theirs, expected, "the autoencoder"))


def test_the_names_of_kl_f8() -> None:
    infos = to_theirs(compvis(KL_F8), weights(KL_F8)).infos
    assert len(infos) == 248
    known = {
        "encoder.conv_in.weight": (128, 3, 3, 3),
        "encoder.down.0.downsample.conv.weight": (128, 128, 3, 3),
        "encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        "encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
        "encoder.norm_out.bias": (512,),
        "quant_conv.weight": (8, 8, 1, 1),
        "post_quant_conv.bias": (4,),
        "decoder.mid.block_2.conv1.weight": (512, 512, 3, 3),
        "decoder.mid.attn_1.proj_out.bias": (512,),
        "decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
        "decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
        "decoder.up.0.block.2.conv2.bias": (128,),
        "decoder.conv_out.weight": (3, 128, 3, 3),
    }
    assert {name: infos[name].shape for name in known} == known
    assert "decoder.up.0.upsample.conv.weight" not in infos


PEER = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
}


@pytest.mark.parity
def test_the_names_and_shapes_of_diffusers_at_full_size() -> None:
    peers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        peer = peers.AutoencoderKL(**PEER)
    infos = to_theirs(diffusers(KL_F8), weights(KL_F8)).infos
    assert {name: info.shape for name, info in infos.items()} == shapes(peer)


@pytest.mark.parity
def test_diffusers_own_converter_knows_our_compvis_names_at_full_size() -> None:
    conversion = pytest.importorskip("diffusers.loaders.single_file_utils")
    ours = weights(KL_F8)
    theirs = to_theirs(compvis(KL_F8), ours)
    checkpoint = {f"first_stage_model.{name}": tensor for name, tensor in state(theirs).items()}
    converted = conversion.convert_ldm_vae_checkpoint(checkpoint, PEER)
    infos = to_theirs(diffusers(KL_F8), ours).infos
    assert {name: tuple(tensor.shape) for name, tensor in converted.items()} == {
        name: info.shape for name, info in infos.items()
    }


@pytest.mark.parametrize("config", [KL_F8, KL_F8_TOY, replace(KL_F8, channels=(128, 256, 512), latent_channels=3)])
def test_the_config_is_read_from_names_and_shapes(config: VAEConfig) -> None:
    ours = weights(config)
    assert config_from_compvis(to_theirs(compvis(config), ours).infos) == config
    assert config_from_diffusers(to_theirs(diffusers(config), ours).infos) == config
    sdxl = replace(config, latent_scale=0.13025)
    assert config_from_compvis(to_theirs(compvis(config), ours).infos, latent_scale=0.13025) == sdxl


@pytest.mark.parametrize("missing", ["encoder", "encoder.down.0", "encoder.down.1.block.0", "post_quant_conv"])
def test_a_broken_file_is_named(missing: str) -> None:
    theirs = to_theirs(compvis(KL_F8_TOY), weights(KL_F8_TOY))
    left = {name: info for name, info in theirs.infos.items() if not name.startswith(missing)}
    with pytest.raises(ValueError, match=r"do not tell the .* size: .* is missing"):
        config_from_compvis(left)


# What the vae/config.json of Stable Diffusion 1.4 says.
V1 = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.2.2",
    "act_fn": "silu",
    **PEER,
    "in_channels": 3,
    "latent_channels": 4,
    "out_channels": 3,
    "sample_size": 512,
}


def test_published_configs() -> None:
    assert config_from_json(V1) == KL_F8
    assert config_from_json({**V1, "scaling_factor": 0.13025, "force_upcast": True}).latent_scale == 0.13025
    written = config_to_json(KL_F8)
    assert all(written[name] == value for name, value in V1.items() if name != "_diffusers_version")


@every_config
def test_a_config_goes_through_json(config: VAEConfig) -> None:
    assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config


@pytest.mark.parametrize(
    "name, value",
    [
        ("_class_name", "VQModel"),
        ("shift_factor", 0.0609),
        ("latents_mean", [0.0] * 4),
        ("use_quant_conv", False),
        ("mid_block_add_attention", False),
        ("in_channels", 4),
        ("down_block_types", ["AttnDownEncoderBlock2D"] * 4),
        ("up_block_types", ["UpDecoderBlock2D"] * 3),
        ("block_out_channels", [128, 256]),
        ("block_out_channels", 128),
        ("scaling_factor", 0),
        ("scaling_factor", True),
        ("scaling_factor", float("nan")),
        ("scaling_factor", 10**400),
        ("scaling_factor", "0.18215"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        config_from_json({**V1, name: value})
