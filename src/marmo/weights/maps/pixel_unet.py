"""The U-Net of pixel diffusion elsewhere: the names and config of diffusers' `UNet2DModel`.

Its attention is called `query`, `key`, `value`, `proj_attn` in files of 2022, which the published models of DDPM are.
"""

from collections.abc import Mapping

from marmo.models.pixel_unet import Convention, PixelUNetConfig
from marmo.weights.keymap import Rename, Reshape, Rule, renames
from marmo.weights.maps.config import MOST_BLOCKS, settle

_ENDS = {
    "time_embedding.linear_1": "time_in",
    "time_embedding.linear_2": "time_out",
    "conv_in": "conv_in",
    "conv_norm_out": "norm_out",
    "conv_out": "conv_out",
}
_RES = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time_emb_proj": "time",
    "norm2": "norm2",
    "conv2": "conv2",
    "conv_shortcut": "shortcut",
}
_ATTENTION_2022 = {"query": "q", "key": "k", "value": "v", "proj_attn": "out"}
_ATTENTION = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "out"}

# Our options as diffusers names them, with the values that UNet2DModel takes where a config.json has none.
_EXPRESSED: Mapping[str, object] = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "attention_head_dim": 8,
    "dropout": 0.0,
    "down_block_types": ("DownBlock2D", *["AttnDownBlock2D"] * 3),
    "up_block_types": (*["AttnUpBlock2D"] * 3, "UpBlock2D"),
    "sample_size": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "norm_eps": 1e-5,
}
_CONVENTIONS: Mapping[Convention, Mapping[str, object]] = {
    "ho": {"flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0, "norm_eps": 1e-6},
    "diffusers": {"flip_sin_to_cos": True, "freq_shift": 0, "downsample_padding": 1, "norm_eps": 1e-5},
}
_FIXED: Mapping[str, object] = {
    "_class_name": "UNet2DModel",
    "act_fn": "silu",
    "add_attention": True,
    "attn_norm_num_groups": None,
    "center_input_sample": False,
    "class_embed_type": None,
    "downsample_type": "conv",
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2D",
    "num_class_embeds": None,
    "resnet_time_scale_shift": "default",
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "upsample_type": "conv",
}
_HARMLESS: Mapping[str, str] = {
    "num_train_timesteps": "acts only with a time embedding that is refused",
}
_DOWN_TYPES = ("DownBlock2D", "AttnDownBlock2D")
_UP_TYPES = ("UpBlock2D", "AttnUpBlock2D")


def diffusers(config: PixelUNetConfig) -> list[Rule]:
    """The names of diffusers' `UNet2DModel`."""
    levels = range(len(config.channels))
    return [
        *(Rename(theirs, ours) for theirs, ours in _ENDS.items()),
        *renames("mid_block.resnets.0", "mid.res1", _RES),
        *renames("mid_block.resnets.1", "mid.res2", _RES),
        *_attention("mid_block.attentions.0", "mid.attention"),
        *(
            rule
            for level in levels
            for block in range(config.num_res_blocks)
            for rule in _stage(f"down_blocks.{level}", f"down.{level}", block, config.attends[level])
        ),
        *(Rename(f"down_blocks.{level}.downsamplers.0.conv", f"down.{level}.shrink") for level in levels[:-1]),
        *(
            rule
            for level, attends in enumerate(reversed(config.attends))
            for block in range(config.num_res_blocks + 1)
            for rule in _stage(f"up_blocks.{level}", f"up.{level}", block, attends)
        ),
        *(Rename(f"up_blocks.{level}.upsamplers.0", f"up.{level}.grow") for level in levels[:-1]),
    ]


def config_from_json(obj: Mapping[str, object]) -> PixelUNetConfig:
    """The config in a `config.json`; `ValueError` names every option that `PixelUNet` lacks."""
    options = settle(obj, _EXPRESSED, _FIXED, _HARMLESS)
    attends = tuple(kind == _DOWN_TYPES[True] for kind in options.words("down_block_types", _DOWN_TYPES))
    if options.words("up_block_types", _UP_TYPES) != _up_types(attends):
        raise ValueError("up_block_types in the config.json must be down_block_types in reverse order")
    dropout, width = options.values["dropout"], options.values["attention_head_dim"]
    config = PixelUNetConfig(
        in_channels=options.whole("in_channels"),
        out_channels=options.whole("out_channels"),
        channels=options.per_level("block_out_channels", len(attends)),
        attends=attends,
        num_res_blocks=options.whole("layers_per_block", MOST_BLOCKS),
        num_groups=options.whole("norm_num_groups"),
        head_width=None if width is None else options.whole("attention_head_dim"),
        dropout=options.number("dropout") if dropout else 0.0,
        convention=_convention(options.values),
        side=options.whole("sample_size"),
    )
    return _checked(config)


def config_to_json(config: PixelUNetConfig) -> dict[str, object]:
    """What diffusers wants in the `config.json` beside the weights."""
    return {
        **_FIXED,
        **_CONVENTIONS[config.convention],
        "sample_size": config.side,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": list(config.channels),
        "layers_per_block": config.num_res_blocks,
        "norm_num_groups": config.num_groups,
        "attention_head_dim": config.head_width,
        "dropout": config.dropout,
        "down_block_types": [_DOWN_TYPES[attends] for attends in config.attends],
        "up_block_types": list(_up_types(config.attends)),
    }


def _stage(theirs: str, ours: str, block: int, attends: bool) -> list[Rule]:
    stage = f"{ours}.stages.{block}"
    attention = _attention(f"{theirs}.attentions.{block}", f"{stage}.attention") if attends else []
    return [*renames(f"{theirs}.resnets.{block}", f"{stage}.res", _RES), *attention]


def _attention(theirs: str, ours: str) -> list[Rule]:
    parts = [*_ATTENTION_2022.items(), *_ATTENTION.items()]  # the last spelling is written
    projections = (Reshape(f"{theirs}.{part}", f"{ours}.attention.{mine}", 2) for part, mine in parts)
    return [Rename(f"{theirs}.group_norm", f"{ours}.norm"), *projections]


def _convention(values: Mapping[str, object]) -> Convention:
    """The one that all of its options agree on."""
    for name, options in _CONVENTIONS.items():
        if all(values[option] == value for option, value in options.items()):
            return name
    said = ", ".join(f"{option} {values[option]!r}" for option in _CONVENTIONS["ho"])
    known = " or ".join(
        ", ".join(f"{option} {value!r}" for option, value in options.items()) for options in _CONVENTIONS.values()
    )
    raise ValueError(f"the config.json has {said}; Marmo's network has {known}")


def _up_types(attends: tuple[bool, ...]) -> tuple[str, ...]:
    return tuple(_UP_TYPES[attend] for attend in reversed(attends))


def _checked(config: PixelUNetConfig) -> PixelUNetConfig:
    for width, attends in zip(config.channels, (*config.attends[:-1], True), strict=True):
        if width % config.num_groups:
            raise ValueError(f"a level of {width} channels cannot be normalised in {config.num_groups} groups")
        if attends and config.head_width is not None and width % config.head_width:
            raise ValueError(f"a level of {width} channels cannot be shared by heads {config.head_width} wide")
    if config.channels[0] < 4 or config.channels[0] % 2:
        raise ValueError(f"the first level has an even number of channels, 4 or more, not {config.channels[0]}")
    if config.side % config.factor:
        raise ValueError(f"pictures of {config.side} pixels cannot be halved {len(config.channels) - 1} times")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"dropout in the config.json is {config.dropout}; it must be at least 0 and below 1")
    return config
