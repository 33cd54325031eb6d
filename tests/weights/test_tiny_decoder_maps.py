"""The tiny decoder's maps and configs: there and back, TAESD's own names, and what is refused."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from marmo.models.tiny_decoder import TAESD, TinyDecoder, TinyDecoderConfig
from marmo.weights.keymap import Rule, shapes, to_ours, to_theirs
from marmo.weights.maps.tiny_decoder import config_from_json, config_from_taesd, diffusers, taesd
from marmo.weights.store import Tensors, from_state

CONFIGS = [
    TinyDecoderConfig(latent_channels=4, channels=8),
    TinyDecoderConfig(latent_channels=16, channels=4, num_upsamples=2, num_blocks=1),
    TinyDecoderConfig(latent_channels=4, channels=4, num_upsamples=1, num_blocks=2),
]
Map = Callable[[TinyDecoderConfig], list[Rule]]


def weights(config: TinyDecoderConfig) -> Tensors:
    torch.manual_seed(0)
    return from_state(TinyDecoder(config).state_dict())


def same(left: Tensors, right: Tensors) -> bool:
    return left.infos == right.infos and all(torch.equal(left.read(name), right.read(name)) for name in left.infos)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("dialect", [taesd, diffusers])
def test_there_and_back(dialect: Map, config: TinyDecoderConfig) -> None:
    ours, rules = weights(config), dialect(config)
    theirs = to_theirs(rules, ours)
    assert len(theirs.infos) == len(ours.infos)
    back = to_ours(rules, theirs, shapes(TinyDecoder(config)), "the tiny decoder")
    assert same(back, ours)
    assert same(to_theirs(rules, back), theirs)


def test_taesds_own_names() -> None:
    """As `Decoder` in taesd.py numbers its children: clamp, convolution, ReLU, three blocks, doubling, ..."""
    infos = to_theirs(taesd(TAESD), weights(TAESD)).infos
    blocks = [f"{i}.conv.{j}" for i in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18) for j in (0, 2, 4)]
    with_bias = ["1", *blocks, "19"]
    names = {f"{name}.{leaf}" for name in with_bias for leaf in ("weight", "bias")}
    assert infos.keys() == names | {"7.weight", "12.weight", "17.weight"}
    assert infos["1.weight"].shape == (64, 4, 3, 3)
    assert infos["19.weight"].shape == (3, 64, 3, 3)


def test_the_encoder_is_dropped() -> None:
    ours = weights(CONFIGS[0])
    theirs = to_theirs(diffusers(CONFIGS[0]), ours)
    state = {name: theirs.read(name) for name in theirs.infos} | {"encoder.layers.0.weight": torch.zeros(1)}
    back = to_ours(diffusers(CONFIGS[0]), from_state(state), shapes(TinyDecoder(CONFIGS[0])), "the tiny decoder")
    assert same(back, ours)


@pytest.mark.parametrize("config", [TAESD, replace(TAESD, latent_channels=16), *CONFIGS])
def test_the_config_is_read_from_names_and_shapes(config: TinyDecoderConfig) -> None:
    assert config_from_taesd(to_theirs(taesd(config), weights(config)).infos) == config


def test_an_encoder_is_no_decoder() -> None:
    with pytest.raises(ValueError, match="0 blocks"):
        config_from_taesd(from_state({"0.weight": torch.zeros(64, 3, 3, 3)}).infos)


def test_configs_from_json() -> None:
    assert config_from_json({}) == TAESD
    assert config_from_json({"_class_name": "AutoencoderTiny", "latent_channels": 16}).latent_channels == 16
    small = {"num_decoder_blocks": [2, 2, 1], "decoder_block_out_channels": [8, 8, 8]}
    assert config_from_json(small) == replace(TAESD, channels=8, num_upsamples=2, num_blocks=2)


@pytest.mark.parametrize(
    "name, value",
    [
        ("_class_name", "AutoencoderKL"),
        ("act_fn", "gelu"),
        ("upsample_fn", "bilinear"),
        ("upsampling_scaling_factor", 4),
        ("scaling_factor", 0.18215),
        ("num_decoder_blocks", [3, 2, 3, 1]),
        ("num_decoder_blocks", [3, 3, 3, 3]),
        ("num_decoder_blocks", [1]),
        ("decoder_block_out_channels", [64, 64, 64, 32]),
        ("decoder_block_out_channels", [64]),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        config_from_json({name: value})
