"""DINOv2 elsewhere: transformers' `Dinov2Model` and `Dinov2WithRegistersModel`, and the names of Meta's own files.

Meta's `dinov2_vitl14_pretrain.pth` and its like are pickles; their names are read from safetensors.
"""

from collections.abc import Mapping
from math import isqrt

from marmo.models.dinov2 import DinoV2Config
from marmo.weights.keymap import Fuse, Rename, Rule, renames
from marmo.weights.maps.config import Infos, count, settle, size

_BLOCK = {"norm1": "norm1", "norm2": "norm2"}
_HUGGINGFACE_BLOCK = {
    **_BLOCK,
    "attention.attention.query": "attention.q",
    "attention.attention.key": "attention.k",
    "attention.attention.value": "attention.v",
    "attention.output.dense": "attention.out",
    "layer_scale1.lambda1": "scale1",
    "layer_scale2.lambda1": "scale2",
    "mlp.fc1": "feed_forward.proj_in",
    "mlp.fc2": "feed_forward.proj_out",
}
_META_BLOCK = {
    **_BLOCK,
    "attn.proj": "attention.out",
    "ls1.gamma": "scale1",
    "ls2.gamma": "scale2",
    "mlp.fc1": "feed_forward.proj_in",
    "mlp.fc2": "feed_forward.proj_out",
}

# Our options as transformers names them, with the values that it takes where a config.json has none.
_EXPRESSED: Mapping[str, object] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "image_size": 224,
    "patch_size": 14,
}
_REGISTERS: Mapping[str, object] = {"patch_size": 16, "num_register_tokens": 4}
_FIXED: Mapping[str, object] = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "num_channels": 3,
    "qkv_bias": True,
    "use_swiglu_ffn": False,  # the giant's
}
_FILE = ("architectures", "dtype", "torch_dtype", "transformers_version")
_TRAINING = (
    "attention_probs_dropout_prob",
    "drop_path_rate",
    "hidden_dropout_prob",
    "initializer_range",
    "layerscale_value",
)
_BACKBONE = ("apply_layernorm", "out_features", "out_indices", "reshape_hidden_states", "stage_names")
_HARMLESS: Mapping[str, str] = {
    **dict.fromkeys(_FILE, "about the file"),
    **dict.fromkeys(_TRAINING, "about training"),
    **dict.fromkeys(_BACKBONE, "about what detectors take from the middle of it"),
}
_MOST_LAYERS = 128


def huggingface(config: DinoV2Config) -> list[Rule]:
    """transformers' names."""
    names = {
        "cls_token": "class_token",
        "mask_token": "mask_token",
        "position_embeddings": "positions",
        "patch_embeddings.projection": "patches",
    }
    rules: list[Rule] = [Rename(f"embeddings.{theirs}", ours) for theirs, ours in names.items()]
    if config.num_registers:
        rules.append(Rename("embeddings.register_tokens", "registers"))
    for layer in range(config.num_layers):
        rules += renames(f"encoder.layer.{layer}", f"blocks.{layer}", _HUGGINGFACE_BLOCK)
    return [*rules, Rename("layernorm", "norm")]


def meta(config: DinoV2Config) -> list[Rule]:
    """Meta's names."""
    names = {
        "cls_token": "class_token",
        "mask_token": "mask_token",
        "pos_embed": "positions",
        "patch_embed.proj": "patches",
        "norm": "norm",
    }
    rules: list[Rule] = [Rename(theirs, ours) for theirs, ours in names.items()]
    if config.num_registers:
        rules.append(Rename("register_tokens", "registers"))
    for layer in range(config.num_layers):
        theirs, ours = f"blocks.{layer}", f"blocks.{layer}"
        rules += renames(theirs, ours, _META_BLOCK)
        for leaf in ("weight", "bias"):
            parts = tuple(f"{ours}.attention.{part}.{leaf}" for part in "qkv")
            rules.append(Fuse(f"{theirs}.attn.qkv.{leaf}", parts))
    return rules


def config_from_meta(infos: Infos) -> DinoV2Config:
    """The config of a file with Meta's names; heads have 64 channels in every released DINOv2."""
    width, patch_size = size(infos, "patch_embed.proj.weight", 0), size(infos, "patch_embed.proj.weight", 3)
    if width % min(64, width):
        raise ValueError(f"the tensors do not tell the number of heads: {width} channels do not divide by 64")
    num_positions = size(infos, "pos_embed", 1)
    side = isqrt(num_positions - 1)
    if side == 0 or 1 + side * side != num_positions:
        raise ValueError(
            f"the tensors do not tell the pictures' size: pos_embed has {num_positions} rows, no square and 1"
        )
    has_registers = "register_tokens" in infos
    return DinoV2Config(
        width=width,
        num_layers=count(infos, "blocks."),
        num_heads=max(width // 64, 1),
        patch_size=patch_size,
        image_size=patch_size * side,
        num_registers=size(infos, "register_tokens", 1) if has_registers else 0,
        mlp_ratio=size(infos, "blocks.0.mlp.fc1.weight", 0) // width,
        resampling="antialiased" if has_registers else "offset",
    )


def config_from_json(obj: Mapping[str, object]) -> DinoV2Config:
    """The config in the `config.json` of either model of transformers; `ValueError` for what `DinoV2` cannot be."""
    has_registers = obj.get("model_type") == "dinov2_with_registers"
    if has_registers:
        options = settle(obj, {**_EXPRESSED, **_REGISTERS}, {**_FIXED, "model_type": obj["model_type"]}, _HARMLESS)
    else:
        options = settle(obj, _EXPRESSED, {**_FIXED, "model_type": "dinov2", "use_mask_token": True}, _HARMLESS)
    config = DinoV2Config(
        width=options.whole("hidden_size"),
        num_layers=options.whole("num_hidden_layers", _MOST_LAYERS),
        num_heads=options.whole("num_attention_heads"),
        patch_size=options.whole("patch_size"),
        image_size=options.whole("image_size"),
        num_registers=options.whole("num_register_tokens") if has_registers else 0,
        mlp_ratio=options.whole("mlp_ratio"),
        resampling="antialiased" if has_registers else "plain",
    )
    if config.width % config.num_heads or config.image_size < config.patch_size:
        raise ValueError(
            f"the config.json has {config.num_heads} heads for {config.width} channels and patches of "
            f"{config.patch_size} pixels in pictures of {config.image_size}; neither may leave a rest or nothing"
        )
    return config


def config_to_json(config: DinoV2Config) -> dict[str, object]:
    """What transformers wants in the `config.json` beside the weights."""
    if config.resampling == "offset":
        raise ValueError(
            "transformers resamples a DINOv2's positions otherwise than Meta's code, whose distances are published; "
            "keep this one in a single file"
        )
    has_registers = config.num_registers > 0
    return {
        "architectures": ["Dinov2WithRegistersModel" if has_registers else "Dinov2Model"],
        "model_type": "dinov2_with_registers" if has_registers else "dinov2",
        **_FIXED,
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "mlp_ratio": config.mlp_ratio,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        **({"num_register_tokens": config.num_registers} if has_registers else {}),
    }
