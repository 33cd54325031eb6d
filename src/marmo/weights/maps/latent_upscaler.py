"""The latent x2 upscaler elsewhere: diffusers' `UNet2DConditionModel` with k-diffusion's blocks.

diffusers derives from widths what our config says: a level whose input, output and clock are equally wide is taken for
the coarsest.  So the two coarsest levels must be as wide as the clock, and no others; and only a level that attends may
be wider or narrower than the next finer one.
"""

from collections.abc import Mapping

from marmo.models.latent_upscaler import LatentUpscalerConfig
from marmo.weights.keymap import Rename, Rule, renames
from marmo.weights.maps.config import MOST_BLOCKS, settle

_ENDS = {
    "time_proj.weight": "frequencies",
    "time_embedding.cond_proj": "vector",
    "time_embedding.linear_1": "time_in",
    "time_embedding.linear_2": "time_out",
    "conv_in": "conv_in",
    "conv_out": "conv_out",
}
_RES = {
    "norm1.linear": "norm1.proj",
    "conv1": "conv1",
    "norm2.linear": "norm2.proj",
    "conv2": "conv2",
    "conv_shortcut": "shortcut",
}
_SELF_ATTENTION = {
    "norm1.linear": "norm.proj",
    "attn1.to_q": "attention.q",
    "attn1.to_k": "attention.k",
    "attn1.to_v": "attention.v",
    "attn1.to_out.0": "attention.out",
}
_CROSS = {
    "norm2.linear": "norm.proj",
    "attn2.norm_cross": "norm_context",
    "attn2.to_q": "attention.q",
    "attn2.to_k": "attention.k",
    "attn2.to_v": "attention.v",
    "attn2.to_out.0": "attention.out",
}

# Our options as diffusers names them, with the values that UNet2DConditionModel takes where a config.json has none.
_EXPRESSED: Mapping[str, object] = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 1280,
    "attention_head_dim": 8,
    "time_cond_proj_dim": None,
    "down_block_types": (),
    "up_block_types": (),
}
_FIXED: Mapping[str, object] = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "gelu",
    "center_input_sample": False,
    "conv_in_kernel": 1,
    "conv_out_kernel": 1,
    "flip_sin_to_cos": True,
    "mid_block_type": None,
    "norm_eps": 1e-5,
    "norm_num_groups": None,
    "resnet_time_scale_shift": "scale_shift",
    "time_embedding_type": "fourier",
    "timestep_post_act": "gelu",
}
_WITHOUT_MIDDLE = "acts only in a middle, which this network does not have"
_OF_OTHERS = "acts only in blocks of other types, which are refused"
_HARMLESS: Mapping[str, str] = {
    "addition_embed_type_num_heads": "acts only with an addition_embed_type that is refused",
    "attention_type": _OF_OTHERS,
    "downsample_padding": _OF_OTHERS,
    "dropout": "acts only in training",
    "freq_shift": "acts only in a clock of another type, which is refused",
    "mid_block_only_cross_attention": _WITHOUT_MIDDLE,
    "mid_block_scale_factor": _WITHOUT_MIDDLE,
    "only_cross_attention": _OF_OTHERS,
    "resnet_out_scale_factor": _OF_OTHERS,
    "sample_size": "a default for callers",
    "transformer_layers_per_block": _OF_OTHERS,
    "upcast_attention": "about precision",
    "use_linear_projection": _OF_OTHERS,
}
_DOWN_TYPES = ("KDownBlock2D", "KCrossAttnDownBlock2D")
_UP_TYPES = ("KUpBlock2D", "KCrossAttnUpBlock2D")


def is_latent_upscaler(obj: Mapping[str, object]) -> bool:
    """Whether the `config.json` of a `unet` folder asks for this network."""
    types = obj.get("down_block_types")
    return isinstance(types, list) and any(kind in types for kind in _DOWN_TYPES)


def diffusers(config: LatentUpscalerConfig) -> list[Rule]:
    """The names of diffusers' `UNet2DConditionModel`: the `unet` of a diffusers folder."""
    levels, blocks = range(len(config.channels)), range(config.num_res_blocks)
    return [
        *(Rename(theirs, ours) for theirs, ours in _ENDS.items()),
        *(
            rule
            for way, ways in (("down", "down_blocks"), ("up", "up_blocks"))
            for level in levels
            for block in blocks
            for rule in _stage(f"{ways}.{level}", f"{way}.{level}.stages.{block}", block)
        ),
    ]


def config_from_json(obj: Mapping[str, object]) -> LatentUpscalerConfig:
    """The config in the `config.json` of a `unet` folder; `ValueError` names every option that we lack."""
    options = settle(obj, _EXPRESSED, _FIXED, _HARMLESS)
    attends = tuple(kind == _DOWN_TYPES[True] for kind in options.words("down_block_types", _DOWN_TYPES))
    if options.words("up_block_types", _UP_TYPES) != _up_types(attends):
        raise ValueError("up_block_types in the config.json must be down_block_types in reverse order")
    return _checked(
        LatentUpscalerConfig(
            in_channels=options.whole("in_channels"),
            out_channels=options.whole("out_channels"),
            channels=options.per_level("block_out_channels", len(attends)),
            attends=attends,
            context_width=options.whole("cross_attention_dim"),
            vector_width=options.whole("time_cond_proj_dim"),
            head_width=options.whole("attention_head_dim"),
            num_res_blocks=options.whole("layers_per_block", MOST_BLOCKS),
        )
    )


def config_to_json(config: LatentUpscalerConfig, sample_size: int = 128) -> dict[str, object]:
    """What diffusers wants in the `config.json` beside the weights.

    Args:
        sample_size: width and height of the latents that are painted unless others are asked for.
    """
    return {
        **_FIXED,
        "sample_size": sample_size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": list(config.channels),
        "layers_per_block": config.num_res_blocks,
        "cross_attention_dim": config.context_width,
        "attention_head_dim": config.head_width,
        "time_cond_proj_dim": config.vector_width,
        "down_block_types": [_DOWN_TYPES[attend] for attend in config.attends],
        "up_block_types": list(_up_types(config.attends)),
    }


def _stage(theirs: str, ours: str, block: int) -> list[Rule]:
    return [
        *renames(f"{theirs}.resnets.{block}", f"{ours}.res", _RES),
        *renames(f"{theirs}.attentions.{block}", f"{ours}.self_attention", _SELF_ATTENTION),
        *renames(f"{theirs}.attentions.{block}", f"{ours}.cross", _CROSS),
    ]


def _up_types(attends: tuple[bool, ...]) -> tuple[str, ...]:
    return tuple(_UP_TYPES[attend] for attend in reversed(attends))


def _checked(config: LatentUpscalerConfig) -> LatentUpscalerConfig:
    channels, time = config.channels, config.time_width
    pairs = [*zip(channels[1:], channels[:-1], strict=True)]
    coarsest = [pair == (time, time) for pair in pairs]
    if len(channels) < 2 or coarsest != [False] * (len(pairs) - 1) + [True] or not config.attends[-1]:
        raise ValueError(
            f"a latent upscaler's two coarsest levels, and no others, are as wide as its clock ({time} channels) and "
            f"attend; block_out_channels are {list(channels)}"
        )
    for level, (width, finer) in enumerate(pairs, 1):
        if width != finer and not config.attends[level]:
            raise ValueError(
                "a latent upscaler's level that does not attend is as wide as the next finer one; block_out_channels "
                f"are {list(channels)}, of which {[at for at, on in enumerate(config.attends) if on]} attend"
            )
    for width in channels:
        if width % config.group_width or width % config.head_width:
            raise ValueError(
                f"a latent upscaler's level of {width} channels cannot be divided into heads of {config.head_width} "
                f"and groups of {config.group_width}"
            )
    return config
