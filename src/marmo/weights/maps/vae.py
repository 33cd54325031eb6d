"""The autoencoder elsewhere: CompVis's names, in single files, and diffusers' names and config.

CompVis numbers the levels of its decoder from the finest, like those of its encoder; diffusers and we number both in
the order of use.
The middle's attention is made of 1x1 convolutions at CompVis and of matrices at diffusers.
"""

from collections.abc import Mapping

from marmo.models.vae import VAEConfig
from marmo.weights.keymap import Drop, Rename, Reshape, Rule, renames
from marmo.weights.maps.config import MOST_BLOCKS, Infos, count, settle, size

LATENT_SCALE = 0.18215  # of SD 1 and SD 2; for files that do not say

_RES = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2"}
_COMPVIS_RES = {**_RES, "nin_shortcut": "shortcut"}
_DIFFUSERS_RES = {**_RES, "conv_shortcut": "shortcut"}
_COMPVIS_ENDS = {
    "conv_in": "conv_in",
    "mid.attn_1.norm": "mid.norm",
    "norm_out": "norm_out",
    "conv_out": "conv_out",
}
_DIFFUSERS_ENDS = {
    "conv_in": "conv_in",
    "mid_block.attentions.0.group_norm": "mid.norm",
    "conv_norm_out": "norm_out",
    "conv_out": "conv_out",
}
_COMPVIS_ATTENTION = {"q": "q", "k": "k", "v": "v", "proj_out": "out"}
_DIFFUSERS_ATTENTION = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "out"}
_DIFFUSERS_ATTENTION_2022 = {"query": "q", "key": "k", "value": "v", "proj_attn": "out"}

# Our options as diffusers names them, with the values that AutoencoderKL takes where a config.json has none.
_EXPRESSED: Mapping[str, object] = {
    "block_out_channels": (64,),
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "scaling_factor": LATENT_SCALE,
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
}
_LEVEL_TYPES = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
_FIXED: Mapping[str, object] = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "in_channels": 3,
    "out_channels": 3,
    "mid_block_add_attention": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
}
_HARMLESS: Mapping[str, str] = {
    "force_upcast": "about precision",
    "sample_size": "a default for tiling",
}


def compvis(config: VAEConfig) -> list[Rule]:
    """CompVis's names, below `first_stage_model.` in a single file and bare in a file of the autoencoder alone."""
    levels = range(len(config.channels))
    return [
        *(rule for half in ("encoder", "decoder") for rule in _compvis_half(half)),
        *(
            rule
            for level in levels
            for block in range(config.num_res_blocks)
            for rule in renames(
                f"encoder.down.{level}.block.{block}", f"encoder.down.{level}.blocks.{block}", _COMPVIS_RES
            )
        ),
        *(Rename(f"encoder.down.{level}.downsample.conv", f"encoder.down.{level}.shrink") for level in levels[:-1]),
        *(
            rule
            for ours, theirs in enumerate(reversed(levels))
            for block in range(config.num_res_blocks + 1)
            for rule in renames(f"decoder.up.{theirs}.block.{block}", f"decoder.up.{ours}.blocks.{block}", _COMPVIS_RES)
        ),
        *(
            Rename(f"decoder.up.{theirs}.upsample", f"decoder.up.{ours}.grow")
            for ours, theirs in enumerate(reversed(levels[1:]))
        ),
        Rename("quant_conv", "to_moments"),
        Rename("post_quant_conv", "from_latents"),
        Drop("loss", "the discriminator and the perceptual network, which only training uses"),
        Drop("model_ema", "the moving average of the weights; the file's own weights are the ones that are used"),
    ]


def diffusers(config: VAEConfig) -> list[Rule]:
    """The names of diffusers' `AutoencoderKL`: the `vae` of a diffusers folder."""
    levels = range(len(config.channels))
    return [
        *(rule for half in ("encoder", "decoder") for rule in _diffusers_half(half)),
        *(
            rule
            for level in levels
            for block in range(config.num_res_blocks)
            for rule in renames(
                f"encoder.down_blocks.{level}.resnets.{block}", f"encoder.down.{level}.blocks.{block}", _DIFFUSERS_RES
            )
        ),
        *(
            Rename(f"encoder.down_blocks.{level}.downsamplers.0.conv", f"encoder.down.{level}.shrink")
            for level in levels[:-1]
        ),
        *(
            rule
            for level in levels
            for block in range(config.num_res_blocks + 1)
            for rule in renames(
                f"decoder.up_blocks.{level}.resnets.{block}", f"decoder.up.{level}.blocks.{block}", _DIFFUSERS_RES
            )
        ),
        *(Rename(f"decoder.up_blocks.{level}.upsamplers.0", f"decoder.up.{level}.grow") for level in levels[:-1]),
        Rename("quant_conv", "to_moments"),
        Rename("post_quant_conv", "from_latents"),
    ]


def config_from_compvis(infos: Infos, latent_scale: float = LATENT_SCALE) -> VAEConfig:
    """The config of an autoencoder under CompVis's names."""
    return _config(infos, "encoder.down", "block", latent_scale)


def config_from_diffusers(infos: Infos, latent_scale: float = LATENT_SCALE) -> VAEConfig:
    """The config of an autoencoder under diffusers' names; for weights without their config.json."""
    return _config(infos, "encoder.down_blocks", "resnets", latent_scale)


def config_from_json(obj: Mapping[str, object]) -> VAEConfig:
    """The config in the `config.json` of a `vae` folder; `ValueError` names every option that `VAE` lacks."""
    options = settle(obj, _EXPRESSED, _FIXED, _HARMLESS)
    channels = options.wholes("block_out_channels")
    for name, kind in _LEVEL_TYPES.items():
        if len(options.words(name, (kind,))) != len(channels):
            raise ValueError(
                f"{name} in the config.json must be {len(channels)} times {kind}, as block_out_channels has it"
            )
    return VAEConfig(
        channels=channels,
        latent_channels=options.whole("latent_channels"),
        latent_scale=options.number("scaling_factor"),
        num_res_blocks=options.whole("layers_per_block", MOST_BLOCKS),
        num_groups=options.whole("norm_num_groups"),
    )


def config_to_json(config: VAEConfig, sample_size: int = 512) -> dict[str, object]:
    """What diffusers wants in the `config.json` beside the weights.

    Args:
        sample_size: width and height in pixels above which diffusers cuts a picture into tiles, if it is asked to.
    """
    return {
        **_FIXED,
        "sample_size": sample_size,
        "block_out_channels": list(config.channels),
        "latent_channels": config.latent_channels,
        "layers_per_block": config.num_res_blocks,
        "norm_num_groups": config.num_groups,
        "scaling_factor": config.latent_scale,
        **{name: [kind] * len(config.channels) for name, kind in _LEVEL_TYPES.items()},
    }


def _compvis_half(half: str) -> list[Rule]:
    return [
        *renames(half, half, _COMPVIS_ENDS),
        *renames(f"{half}.mid.block_1", f"{half}.mid.res1", _COMPVIS_RES),
        *_attention(f"{half}.mid.attn_1", f"{half}.mid.attention", _COMPVIS_ATTENTION, axes=4),
        *renames(f"{half}.mid.block_2", f"{half}.mid.res2", _COMPVIS_RES),
    ]


def _diffusers_half(half: str) -> list[Rule]:
    attention = f"{half}.mid_block.attentions.0"
    return [
        *renames(half, half, _DIFFUSERS_ENDS),
        *renames(f"{half}.mid_block.resnets.0", f"{half}.mid.res1", _DIFFUSERS_RES),
        *_attention(attention, f"{half}.mid.attention", _DIFFUSERS_ATTENTION_2022, axes=2),
        *_attention(attention, f"{half}.mid.attention", _DIFFUSERS_ATTENTION, axes=2),  # the last is written
        *renames(f"{half}.mid_block.resnets.1", f"{half}.mid.res2", _DIFFUSERS_RES),
    ]


def _attention(theirs: str, ours: str, parts: Mapping[str, str], axes: int) -> list[Rule]:
    return [Reshape(f"{theirs}.{their_part}", f"{ours}.{our_part}", axes) for their_part, our_part in parts.items()]


def _config(infos: Infos, levels: str, blocks: str, latent_scale: float) -> VAEConfig:
    num_levels = count(infos, f"{levels}.", MOST_BLOCKS)
    num_res_blocks = count(infos, f"{levels}.0.{blocks}.", MOST_BLOCKS)
    if not num_levels or not num_res_blocks:
        raise ValueError(f"the tensors do not tell the autoencoder's size: {levels}.0.{blocks}.0 is missing")
    return VAEConfig(
        channels=tuple(size(infos, f"{levels}.{level}.{blocks}.0.conv1.weight", 0) for level in range(num_levels)),
        latent_channels=size(infos, "post_quant_conv.weight", 0),
        latent_scale=latent_scale,
        num_res_blocks=num_res_blocks,
        num_groups=32,  # `Normalize` in CompVis's code
    )
