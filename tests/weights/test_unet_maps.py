"""The U-Net's maps and configs: there and back, real sizes under real names, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from marmo.models.unet import (
    SD1,
    SD1_TOY,
    SD2,
    SD2_INPAINT,
    SD2_TOY,
    SDXL,
    SDXL_REFINER,
    SDXL_REFINER_TOY,
    SDXL_TOY,
    UNet,
    UNetConfig,
)
from marmo.weights.keymap import Rule, fill, shapes, to_ours, to_theirs
from marmo.weights.maps.unet import compvis, config_from_compvis, config_from_json, config_to_json, diffusers
from marmo.weights.store import TensorInfo, Tensors, from_state

SMALL = replace(SD1_TOY, channels=(8, 16), num_groups=8, context_width=6)
CONFIGS = {
    "toy": SMALL,
    "inpainting": replace(SMALL, in_channels=9),
    "pix2pix": replace(SMALL, in_channels=8),
    "one level": replace(SMALL, channels=(8,), depths=(1,), num_heads=(8,)),
    "three levels": replace(
        SMALL, channels=(8, 8, 16), depths=(0, 1, 2), num_heads=(8, 8, 8), num_res_blocks=2, mid_depth=2
    ),
    "attention comes and goes": replace(SMALL, channels=(8, 16, 16), depths=(2, 0, 1), num_heads=(8, 8, 8)),
    "a vector beside the time": replace(SMALL, vector_width=12, mid_depth=3),
    "labels, and the prompt alone": replace(
        SMALL, in_channels=7, depths=(1, 1), context_width=16, num_labels=5, prompt_alone=(True, False)
    ),
    "no attention but in the middle": replace(SMALL, depths=(0, 0), num_res_blocks=3),
}
DIALECTS = {"compvis": compvis, "diffusers": diffusers}
Map = Callable[[UNetConfig], list[Rule]]

every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
every_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)


def meta(config: UNetConfig) -> UNet:
    with torch.device("meta"):
        return UNet(config)


def weights(config: UNetConfig) -> Tensors:
    return from_state(meta(config).state_dict())


def random(tensors: Tensors) -> Tensors:
    draw = torch.Generator().manual_seed(0)
    return from_state({name: torch.randn(info.shape, generator=draw) for name, info in tensors.infos.items()})


def same(left: Tensors, right: Tensors) -> bool:
    return left.infos == right.infos and all(torch.equal(left.read(name), right.read(name)) for name in left.infos)


@pytest.mark.long
@every_config
@every_dialect
def test_there_and_back(dialect: Map, config: UNetConfig) -> None:
    ours, rules = random(weights(config)), dialect(config)
    theirs = to_theirs(rules, ours)
    assert len(theirs.infos) == len(ours.infos)
    assert same(to_ours(rules, theirs, shapes(meta(config)), "the U-Net"), ours)


@pytest.mark.long
@every_config
@every_dialect
def test_back_and_there(dialect: Map, config: UNetConfig) -> None:
    rules = dialect(config)
    theirs = random(to_theirs(rules, weights(config)))
    assert same(to_theirs(rules, to_ours(rules, theirs, shapes(meta(config)), "the U-Net")), theirs)


@every_dialect
def test_projections_are_convolutions_beside_8_heads_and_matrices_beside_heads_of_64(dialect: Map) -> None:
    for config, axes in ((SMALL, 4), (SD2_TOY, 2)):
        theirs = to_theirs(dialect(config), random(weights(config)))
        assert {len(theirs.infos[name].shape) for name in theirs.infos if name.endswith(".proj_in.weight")} == {axes}


@every_dialect
def test_either_form_of_a_projection_is_read(dialect: Map) -> None:
    ours = random(weights(SD2_TOY))
    theirs = to_theirs(dialect(SD2_TOY), ours)
    projections = {name for name in theirs.infos if name.endswith((".proj_in.weight", ".proj_out.weight"))}
    state = {name: theirs.read(name)[(...,) + (None,) * 2 * (name in projections)] for name in theirs.infos}
    assert same(to_ours(dialect(SD2_TOY), from_state(state), shapes(meta(SD2_TOY)), "the U-Net"), ours)


@pytest.mark.long
def test_the_names_of_stable_diffusion_1() -> None:
    """Names by which other programs know a file (detection rules of ComfyUI, AUTOMATIC1111 and diffusers)."""
    infos = to_theirs(compvis(SD1), weights(SD1)).infos
    assert len(infos) == 686
    known = {
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        "time_embed.0.weight": (1280, 320),
        "input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
        "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        "input_blocks.11.0.emb_layers.1.weight": (1280, 1280),
        "middle_block.1.transformer_blocks.0.ff.net.0.proj.weight": (10240, 1280),
        "output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.8.2.conv.bias": (640,),
        "output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
        "output_blocks.11.1.transformer_blocks.0.attn1.to_out.0.bias": (320,),
        "out.0.weight": (320,),
        "out.2.weight": (4, 320, 3, 3),
    }
    assert {name: infos[name].shape for name in known} == known


@pytest.mark.parity
def test_the_names_and_shapes_of_diffusers_at_full_size() -> None:
    peers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        peer = peers.UNet2DConditionModel(cross_attention_dim=768)
    infos = to_theirs(diffusers(SD1), weights(SD1)).infos
    assert {name: info.shape for name, info in infos.items()} == shapes(peer)


@pytest.mark.parity
def test_diffusers_own_converter_knows_our_compvis_names_at_full_size() -> None:
    conversion = pytest.importorskip("diffusers.loaders.single_file_utils")
    ours = weights(SD1)
    theirs = to_theirs(compvis(SD1), ours)
    checkpoint = {f"model.diffusion_model.{name}": theirs.read(name) for name in theirs.infos}
    converted = conversion.convert_ldm_unet_checkpoint(checkpoint, {"layers_per_block": 2})
    infos = to_theirs(diffusers(SD1), ours).infos
    assert {name: tuple(tensor.shape) for name, tensor in converted.items()} == {
        name: info.shape for name, info in infos.items()
    }


@pytest.mark.long
@every_config
def test_the_config_is_read_from_names_and_shapes(config: UNetConfig) -> None:
    wide = replace(config, channels=tuple(4 * width for width in config.channels), num_groups=32)
    assert config_from_compvis(to_theirs(compvis(wide), weights(wide)).infos) == wide


@pytest.mark.long
@pytest.mark.parametrize("config", [SD1, SD1_TOY, replace(SD1, in_channels=9), replace(SD1, context_width=1280)])
def test_the_configs_of_stable_diffusion_1(config: UNetConfig) -> None:
    assert config_from_compvis(to_theirs(compvis(config), weights(config)).infos) == config


@pytest.mark.long
@pytest.mark.parametrize("config", [SD2, SD2_INPAINT, SDXL, SDXL_REFINER, SD2_TOY, SDXL_TOY, SDXL_REFINER_TOY])
def test_the_configs_of_stable_diffusion_2_and_sdxl(config: UNetConfig) -> None:
    assert config_from_compvis(to_theirs(compvis(config), weights(config)).infos) == config


def without(tensors: Tensors, *names: str) -> Tensors:
    return from_state({name: tensors.read(name) for name in tensors.infos if not name.startswith(names)})


@pytest.mark.parametrize(
    "missing",
    ["input_blocks", "input_blocks.0.0.weight", "input_blocks.1", "middle_block.1", "out.2", "input_blocks.3.0.out"],
)
def test_a_broken_file_is_named(missing: str) -> None:
    theirs = to_theirs(compvis(SD1_TOY), weights(SD1_TOY))
    with pytest.raises(ValueError, match=r"do not tell the network's size: .* is missing"):
        config_from_compvis(without(theirs, missing).infos)


def test_nothing_is_lost_and_nothing_is_invented() -> None:
    rules, expected = compvis(SMALL), shapes(meta(SMALL))
    theirs = to_theirs(rules, weights(SMALL))
    state = {name: theirs.read(name) for name in theirs.infos}
    with pytest.raises(ValueError, match=r"1 left over \(label_emb.0.0.weight\)"):
        to_ours(rules, from_state({**state, "label_emb.0.0.weight": torch.zeros(1)}), expected, "the U-Net")
    with pytest.raises(ValueError, match=r"2 missing \(time_in.weight, time_in.bias\)"):
        to_ours(rules, without(theirs, "time_embed.0"), expected, "the U-Net")


def test_a_filled_network_runs() -> None:
    unet, theirs = meta(SMALL), random(to_theirs(diffusers(SMALL), weights(SMALL)))
    fill(unet, to_ours(diffusers(SMALL), theirs, shapes(unet), "the U-Net"), torch.float32, torch.device("cpu"))
    x = torch.ones(1, 4, 4, 4)
    assert unet(x, torch.zeros(1), unet.project(torch.ones(1, 2, 6))).isfinite().all()


# What the unet/config.json of Stable Diffusion 1.4 and 2.1 say.
V1 = """{"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.2.2", "act_fn": "silu",
    "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false,
    "cross_attention_dim": 768, "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D",
    "CrossAttnDownBlock2D", "DownBlock2D"], "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0,
    "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32,
    "out_channels": 4, "sample_size": 64, "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D",
    "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]}"""
V2 = {
    **json.loads(V1),
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "sample_size": 96,
    "upcast_attention": True,
    "use_linear_projection": True,
}


def test_published_configs() -> None:
    assert config_from_json(json.loads(V1)) == SD1
    assert config_from_json(V2) == replace(SD1, context_width=1024, num_heads=(5, 10, 20, 20))
    written = config_to_json(SD1)
    assert all(written[name] == value for name, value in json.loads(V1).items() if name != "_diffusers_version")


# What the unet/config.json of SDXL's base and refiner say.
XL = {
    **json.loads(V1),
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "class_embeddings_concat": False,
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "mid_block_only_cross_attention": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "projection_class_embeddings_input_dim": 2816,
    "resnet_skip_time_act": False,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "upcast_attention": None,
    "use_linear_projection": True,
}
XL_REFINER = {
    **XL,
    "attention_head_dim": [6, 12, 24, 24],
    "block_out_channels": [384, 768, 1536, 1536],
    "cross_attention_dim": 1280,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "projection_class_embeddings_input_dim": 2560,
    "transformer_layers_per_block": 4,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}


@pytest.mark.parametrize(("published", "config"), [(XL, SDXL), (XL_REFINER, SDXL_REFINER)])
def test_published_configs_of_sdxl(published: dict[str, object], config: UNetConfig) -> None:
    assert config_from_json(published) == config
    assert config_from_json(config_to_json(config)) == config


@every_config
def test_a_config_goes_through_json(config: UNetConfig) -> None:
    obj = json.loads(json.dumps(config_to_json(config)))
    assert config_from_json(obj) == config
    assert config_from_json({**obj, "_name_or_path": "x", "dropout": 0.1, "added_tomorrow": None}) == config


REFUSED = {
    "class_embed_type": "projection",
    "encoder_hid_dim_type": "text_proj",
    "dual_cross_attention": True,
    "resnet_time_scale_shift": "scale_shift",
    "center_input_sample": True,
    "time_cond_proj_dim": 256,
    "time_embedding_dim": 512,
    "encoder_hid_dim": 4096,
    "mid_block_type": None,
    "norm_eps": 1e-6,
    "act_fn": "gelu",
    "flip_sin_to_cos": False,
    "conv_in_kernel": 1,
    "_class_name": "UNetMotionModel",
    "added_tomorrow": "and on",
}


def test_every_refused_option_is_in_one_message() -> None:
    with pytest.raises(ValueError) as error:
        config_from_json({**config_to_json(SD1), **REFUSED})
    assert all(f"{name} {value!r}" in str(error.value) for name, value in REFUSED.items())
    assert "act_fn 'gelu' (only 'silu')" in str(error.value)


@pytest.mark.parametrize(
    "name, value",
    [
        ("in_channels", "four"),
        ("in_channels", True),
        ("in_channels", 0),
        ("in_channels", 1 << 40),
        ("layers_per_block", [2, 2, 2, 2]),
        ("layers_per_block", 1000),
        ("block_out_channels", []),
        ("block_out_channels", [320, 640]),
        ("block_out_channels", [320, 640, 1280, 1.5]),
        ("cross_attention_dim", None),
        ("norm_num_groups", None),
        ("transformer_layers_per_block", [[1], [1], [1], [1]]),
        ("attention_head_dim", 7),
        ("attention_head_dim", {}),
        ("down_block_types", "CrossAttnDownBlock2D"),
        ("down_block_types", ["AttnDownBlock2D"] * 4),
        ("down_block_types", ["DownBlock2D"] * 1000),
        ("up_block_types", ["CrossAttnUpBlock2D"] * 4),
        ("up_block_types", [["UpBlock2D"]]),
        ("addition_embed_type", "text"),
        ("addition_embed_type", "text_time"),  # without its widths
    ],
)
def test_senseless_values_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError):
        config_from_json({**config_to_json(SD1), name: value})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(V1.split('"')),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
NAMES = sorted(config_to_json(SD1))


@pytest.mark.long
@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), JSON, max_size=4), st.booleans())
def test_any_json_is_a_config_or_a_clear_refusal(obj: dict[str, object], whole: bool) -> None:
    try:
        config = config_from_json({**config_to_json(SD1), **obj} if whole else obj)
    except ValueError:
        return
    assert config_from_json(config_to_json(config)) == config


INFOS = to_theirs(compvis(SD1_TOY), weights(SD1_TOY)).infos
SHAPES = st.lists(st.integers(0, 1 << 40), max_size=4).map(tuple)


@pytest.mark.long
@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(INFOS)), st.none() | SHAPES, max_size=4))
def test_any_names_and_shapes_are_a_config_or_a_clear_refusal(changes: dict[str, tuple[int, ...] | None]) -> None:
    infos = dict(INFOS)
    for name, shape in changes.items():
        del infos[name]
        if shape is not None:
            infos[name] = TensorInfo(torch.float32, shape)
    try:
        config = config_from_compvis(infos)
        shapes(meta(config))
    except ValueError:
        return
    assert config.num_res_blocks >= 1


def test_a_file_with_senselessly_many_blocks_is_refused() -> None:
    many = dict.fromkeys(
        (f"input_blocks.{block}.0.op.weight" for block in range(100_000)), TensorInfo(torch.int8, (1,))
    )
    with pytest.raises(ValueError, match=r"100000 parts in input_blocks. are more than 64"):
        config_from_compvis(many)
