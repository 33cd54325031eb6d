"""The U-Net elsewhere: CompVis's names, in the single files of SD 1, SD 2 and SDXL, and diffusers' names and config.

CompVis counts blocks through all levels, diffusers within each.  `proj_in` and `proj_out` are 1x1 convolutions in SD 1,
with 4 axes, and matrices in SD 2 and SDXL, with 2: either form is read, and written as the models' authors did.
"""

from collections.abc import Mapping

from marmo.models.unet import CODE_WIDTH, UNetConfig
from marmo.weights.keymap import Rename, Reshape, Rule, renames
from marmo.weights.maps.config import MOST_BLOCKS, Infos, Options, count, one_or_all, settle, size

_COMPVIS_ENDS = {
    "time_embed.0": "time_in",
    "time_embed.2": "time_out",
    "input_blocks.0.0": "conv_in",
    "out.0": "norm_out",
    "out.2": "conv_out",
}
_COMPVIS_RES = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "shortcut",
}
_DIFFUSERS_ENDS = {
    "time_embedding.linear_1": "time_in",
    "time_embedding.linear_2": "time_out",
    "conv_in": "conv_in",
    "conv_norm_out": "norm_out",
    "conv_out": "conv_out",
}
_COMPVIS_VECTOR = {"0": "proj_in", "2": "proj_out"}
_DIFFUSERS_VECTOR = {"linear_1": "proj_in", "linear_2": "proj_out"}
_DIFFUSERS_RES = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time_emb_proj": "time",
    "norm2": "norm2",
    "conv2": "conv2",
    "conv_shortcut": "shortcut",
}
_TRANSFORMER_BLOCK = {
    "norm1": "norm1",
    "attn1.to_q": "self_attention.q",
    "attn1.to_k": "self_attention.k",
    "attn1.to_v": "self_attention.v",
    "attn1.to_out.0": "self_attention.out",
    "norm2": "norm2",
    "attn2.to_q": "cross.q",
    "attn2.to_k": "cross.k",
    "attn2.to_v": "cross.v",
    "attn2.to_out.0": "cross.out",
    "norm3": "norm3",
    "ff.net.0.proj": "feed_forward.proj_in",
    "ff.net.2": "feed_forward.proj_out",
}

_LABELS = "label_emb.weight"

# Our options as diffusers names them, with the values that UNet2DConditionModel takes where a config.json has none.
_EXPRESSED: Mapping[str, object] = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "cross_attention_dim": 1280,
    "attention_head_dim": 8,
    "transformer_layers_per_block": 1,
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "projection_class_embeddings_input_dim": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
}
_FIXED: Mapping[str, object] = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_type": "default",
    "center_input_sample": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "resnet_out_scale_factor": 1.0,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
}
_HARMLESS: Mapping[str, str] = {
    "addition_embed_type_num_heads": "acts only with an addition_embed_type that is refused",
    "dropout": "acts only in training",
    "mid_block_only_cross_attention": "acts only in a middle of another type, which is refused",
    "sample_size": "a default for callers",
    "upcast_attention": "about precision",
    "use_linear_projection": "the shapes tell it",
}
_DOWN_TYPES = ("DownBlock2D", "CrossAttnDownBlock2D")
_UP_TYPES = ("UpBlock2D", "CrossAttnUpBlock2D")


def compvis(config: UNetConfig) -> list[Rule]:
    """CompVis's names, below `model.diffusion_model.` in a single file."""
    return [
        *(Rename(theirs, ours) for theirs, ours in _COMPVIS_ENDS.items()),
        *(renames("label_emb.0", "vector", _COMPVIS_VECTOR) if config.vector_width else []),
        *([Rename("label_emb", "vector.table")] if config.num_labels else []),
        *_compvis_down(config),
        *renames("middle_block.0", "mid.res1", _COMPVIS_RES),
        *_transformer("middle_block.1", "mid.transformer", config.mid_depth, _axes(config)),
        *renames("middle_block.2", "mid.res2", _COMPVIS_RES),
        *_compvis_up(config),
    ]


def diffusers(config: UNetConfig) -> list[Rule]:
    """The names of diffusers' `UNet2DConditionModel`: the `unet` of a diffusers folder."""
    return [
        *(Rename(theirs, ours) for theirs, ours in _DIFFUSERS_ENDS.items()),
        *(renames("add_embedding", "vector", _DIFFUSERS_VECTOR) if config.vector_width else []),
        *([Rename("class_embedding", "vector.table")] if config.num_labels else []),
        *_diffusers_down(config),
        *renames("mid_block.resnets.0", "mid.res1", _DIFFUSERS_RES),
        *_transformer("mid_block.attentions.0", "mid.transformer", config.mid_depth, _axes(config)),
        *renames("mid_block.resnets.1", "mid.res2", _DIFFUSERS_RES),
        *_diffusers_up(config),
    ]


def config_from_compvis(infos: Infos) -> UNetConfig:
    """The config of a U-Net under CompVis's names."""
    num_blocks = count(infos, "input_blocks.", 4 * MOST_BLOCKS)
    halvings = [block for block in range(num_blocks) if f"input_blocks.{block}.0.op.weight" in infos]
    firsts = [1, *(block + 1 for block in halvings)]
    channels = tuple(size(infos, f"input_blocks.{block}.0.out_layers.3.weight", 0) for block in firsts)
    context_width = size(infos, "middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1)
    narrow = _has_narrow_heads(infos, context_width)
    config = UNetConfig(
        in_channels=size(infos, "input_blocks.0.0.weight", 1),
        out_channels=size(infos, "out.2.weight", 0),
        channels=channels,
        depths=tuple(count(infos, f"input_blocks.{block}.1.transformer_blocks.", MOST_BLOCKS) for block in firsts),
        num_heads=tuple(max(width // 64, 1) if narrow else 8 for width in channels),
        context_width=context_width,
        num_res_blocks=[*halvings, num_blocks][0] - 1,
        num_groups=32,  # `GroupNorm32` in CompVis's code
        mid_depth=count(infos, "middle_block.1.transformer_blocks.", MOST_BLOCKS),
        vector_width=size(infos, "label_emb.0.0.weight", 1) if "label_emb.0.0.weight" in infos else 0,
        num_labels=size(infos, _LABELS, 0) if _LABELS in infos else 0,
        prompt_alone=_prompt_alone(infos, firsts, channels),
    )
    return _checked(config)


def config_from_json(obj: Mapping[str, object]) -> UNetConfig:
    """The config in the `config.json` of a `unet` folder; `ValueError` names every option that `UNet` lacks."""
    options = settle(obj, _EXPRESSED, _FIXED, _HARMLESS)
    attends = [kind == _DOWN_TYPES[True] for kind in options.words("down_block_types", _DOWN_TYPES)]
    if options.words("up_block_types", _UP_TYPES) != _up_types(attends):
        raise ValueError("up_block_types in the config.json must be down_block_types in reverse order")
    blocks = options.per_level("transformer_layers_per_block", len(attends), MOST_BLOCKS)
    config = UNetConfig(
        in_channels=options.whole("in_channels"),
        out_channels=options.whole("out_channels"),
        channels=options.per_level("block_out_channels", len(attends)),
        depths=tuple(depth if attend else 0 for depth, attend in zip(blocks, attends, strict=True)),
        num_heads=options.per_level("attention_head_dim", len(attends)),  # heads, in spite of its name
        context_width=options.whole("cross_attention_dim"),
        num_res_blocks=options.whole("layers_per_block", MOST_BLOCKS),
        num_groups=options.whole("norm_num_groups"),
        mid_depth=blocks[-1],
        vector_width=_vector_width(options),
        num_labels=0 if options.values["num_class_embeds"] is None else options.whole("num_class_embeds"),
        prompt_alone=_if_any(options.flags("only_cross_attention", len(attends))),
    )
    return _checked(config)


def config_to_json(config: UNetConfig, sample_size: int = 64) -> dict[str, object]:
    """What diffusers wants in the `config.json` beside the weights.

    Args:
        sample_size: width and height of the latents that diffusers paints unless it is asked for others.
    """
    attends = [depth > 0 for depth in config.depths]
    return {
        **_FIXED,
        "sample_size": sample_size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": list(config.channels),
        "layers_per_block": config.num_res_blocks,
        "norm_num_groups": config.num_groups,
        "cross_attention_dim": config.context_width,
        "attention_head_dim": one_or_all(config.num_heads),
        "transformer_layers_per_block": one_or_all(_blocks(config)),
        "down_block_types": [_DOWN_TYPES[attend] for attend in attends],
        "up_block_types": list(_up_types(attends)),
        "use_linear_projection": _axes(config) == 2,
        **(_vector_to_json(config) if config.vector_width else {}),
        **({"num_class_embeds": config.num_labels} if config.num_labels else {}),
        **({"only_cross_attention": list(config.prompt_alone)} if any(config.prompt_alone) else {}),
    }


def _compvis_down(config: UNetConfig) -> list[Rule]:
    step = config.num_res_blocks + 1  # the residual blocks of a level, and one that halves
    return [
        *(
            rule
            for level, depth in enumerate(config.depths)
            for block in range(config.num_res_blocks)
            for rule in _compvis_stage(
                f"input_blocks.{1 + level * step + block}", f"down.{level}.stages.{block}", depth, _axes(config)
            )
        ),
        *(
            Rename(f"input_blocks.{(level + 1) * step}.0.op", f"down.{level}.shrink")
            for level in range(len(config.depths) - 1)
        ),
    ]


def _compvis_up(config: UNetConfig) -> list[Rule]:
    step = config.num_res_blocks + 1  # the residual blocks of a level; the last one doubles as well
    return [
        *(
            rule
            for level, depth in enumerate(reversed(config.depths))
            for block in range(step)
            for rule in _compvis_stage(
                f"output_blocks.{level * step + block}", f"up.{level}.stages.{block}", depth, _axes(config)
            )
        ),
        *(
            Rename(f"output_blocks.{(level + 1) * step - 1}.{2 if depth else 1}", f"up.{level}.grow")
            for level, depth in enumerate(reversed(config.depths[1:]))
        ),
    ]


def _compvis_stage(theirs: str, ours: str, depth: int, axes: int) -> list[Rule]:
    return [
        *renames(f"{theirs}.0", f"{ours}.res", _COMPVIS_RES),
        *_transformer(f"{theirs}.1", f"{ours}.transformer", depth, axes),
    ]


def _diffusers_down(config: UNetConfig) -> list[Rule]:
    return [
        *(
            rule
            for level, depth in enumerate(config.depths)
            for block in range(config.num_res_blocks)
            for rule in _diffusers_stage(f"down_blocks.{level}", f"down.{level}", block, depth, _axes(config))
        ),
        *(
            Rename(f"down_blocks.{level}.downsamplers.0.conv", f"down.{level}.shrink")
            for level in range(len(config.depths) - 1)
        ),
    ]


def _diffusers_up(config: UNetConfig) -> list[Rule]:
    return [
        *(
            rule
            for level, depth in enumerate(reversed(config.depths))
            for block in range(config.num_res_blocks + 1)
            for rule in _diffusers_stage(f"up_blocks.{level}", f"up.{level}", block, depth, _axes(config))
        ),
        *(Rename(f"up_blocks.{level}.upsamplers.0", f"up.{level}.grow") for level in range(len(config.depths) - 1)),
    ]


def _diffusers_stage(theirs: str, ours: str, block: int, depth: int, axes: int) -> list[Rule]:
    stage = f"{ours}.stages.{block}"
    return [
        *renames(f"{theirs}.resnets.{block}", f"{stage}.res", _DIFFUSERS_RES),
        *_transformer(f"{theirs}.attentions.{block}", f"{stage}.transformer", depth, axes),
    ]


def _transformer(theirs: str, ours: str, depth: int, axes: int) -> list[Rule]:
    """The same names in both; none where the depth is 0."""
    if not depth:
        return []
    return [
        Rename(f"{theirs}.norm", f"{ours}.norm"),
        Reshape(f"{theirs}.proj_in", f"{ours}.proj_in", axes),
        *(
            rule
            for i in range(depth)
            for rule in renames(f"{theirs}.transformer_blocks.{i}", f"{ours}.blocks.{i}", _TRANSFORMER_BLOCK)
        ),
        Reshape(f"{theirs}.proj_out", f"{ours}.proj_out", axes),
    ]


def _has_narrow_heads(infos: Infos, context_width: int) -> bool:
    """Whether heads have 64 channels and are not 8, which no shape of theirs tells.

    SD 1 and the text-to-image LDM have `num_heads: 8` and convolutions for projections (v1-inference.yaml in
    CompVis/stable-diffusion); SD 2 and SDXL, with texts 1024 and 2048 wide, and SDXL's refiner have
    `num_head_channels: 64` and matrices (v2-inference.yaml in Stability-AI/stablediffusion, sd_xl_base.yaml in
    Stability-AI/generative-models).
    """
    if _LABELS in infos:  # the x4 upscaler has 8 (x4-upscaling.yaml in Stability-AI/stablediffusion)
        return False
    projection = infos.get("middle_block.1.proj_in.weight")
    return context_width in (1024, 2048) or (projection is not None and len(projection.shape) == 2)


def _axes(config: UNetConfig) -> int:
    """Of the projections' weights: matrices came together with heads of 64 channels, and with labels."""
    if config.num_labels:
        return 2
    attending = [level for level, depth in enumerate((*config.depths[:-1], config.mid_depth)) if depth]
    return 2 if all(config.channels[level] == 64 * config.num_heads[level] for level in attending) else 4


def _prompt_alone(infos: Infos, firsts: list[int], channels: tuple[int, ...]) -> tuple[bool, ...]:
    """Levels whose first attention reads what is as wide as the prompt and not as the level."""
    keys = [infos.get(f"input_blocks.{block}.1.transformer_blocks.0.attn1.to_k.weight") for block in firsts]
    if _LABELS not in infos:
        return ()
    return _if_any(tuple(key is None or key.shape[-1] != width for key, width in zip(keys, channels, strict=True)))


def _if_any(answers: tuple[bool, ...]) -> tuple[bool, ...]:
    return answers if any(answers) else ()


def _blocks(config: UNetConfig) -> tuple[int, ...]:
    """Transformer blocks per level as diffusers counts them: the last number is the middle's, 1 stands for none."""
    last = config.depths[-1]
    if last not in (0, config.mid_depth):
        raise ValueError(
            f"diffusers cannot have {last} blocks on the coarsest level beside {config.mid_depth} in the middle"
        )
    return (*(max(depth, 1) for depth in config.depths[:-1]), config.mid_depth)


def _vector_to_json(config: UNetConfig) -> dict[str, object]:
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": CODE_WIDTH,
        "projection_class_embeddings_input_dim": config.vector_width,
    }


def _vector_width(options: Options) -> int:
    kind, code_width = options.values["addition_embed_type"], options.values["addition_time_embed_dim"]
    if kind is None:
        return 0
    if kind != "text_time":
        raise ValueError(f"addition_embed_type in the config.json is {kind!r}; it must be text_time or null")
    if code_width != CODE_WIDTH:
        raise ValueError(f"addition_time_embed_dim in the config.json is {code_width!r}; it must be {CODE_WIDTH}")
    return options.whole("projection_class_embeddings_input_dim")


def _up_types(attends: list[bool]) -> tuple[str, ...]:
    return tuple(_UP_TYPES[attend] for attend in reversed(attends))


def _checked(config: UNetConfig) -> UNetConfig:
    if config.mid_depth < 1:
        raise ValueError("a U-Net has 1 transformer block or more in its middle, and these weights have none")
    if config.num_res_blocks < 1:
        raise ValueError("a U-Net has 1 residual block or more on each level, and these weights have none")
    depths = (*config.depths[:-1], config.mid_depth)  # the middle attends whether or not the coarsest level does
    for width, heads, depth in zip(config.channels, config.num_heads, depths, strict=True):
        if depth and width % heads:
            raise ValueError(f"a U-Net's level of {width} channels cannot be shared by {heads} heads")
    return config
