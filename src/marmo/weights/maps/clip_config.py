"""The config of a CLIP: from the names and shapes of its weights, or from transformers' `config.json` and back.

Shapes say nothing about the heads, which have 64 channels in every released CLIP, nor directly about the activation,
which is "quick_gelu" in OpenAI's own models and "gelu" in OpenCLIP's.  OpenAI's text towers all have 12 layers, so a
taller one is OpenCLIP's (ViT-H/14, ViT-g/14, ViT-bigG/14); of the lower ones only a config.json tells.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import isqrt
from typing import TypeGuard

from marmo.models.clip import ClipConfig
from marmo.models.clip_resnet import ClipResNetConfig
from marmo.models.clip_text import ClipTextConfig
from marmo.models.clip_vision import ClipVisionConfig
from marmo.nn.transformer import ACTIVATIONS, Activation
from marmo.weights.maps.config import Infos, Options, count, settle, size

# Our options as transformers names them, with the values that it takes where a config.json has none.
_TEXT: Mapping[str, object] = {
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "hidden_act": "quick_gelu",
    "vocab_size": 49408,
    "max_position_embeddings": 77,
}
_VISION: Mapping[str, object] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "quick_gelu",
    "image_size": 224,
    "patch_size": 32,
}
_CLIP: Mapping[str, object] = {
    "projection_dim": 512,
    "text_config": {},
    "vision_config": {},
    "text_config_dict": None,
    "vision_config_dict": None,
}
_TEXT_FIXED: Mapping[str, object] = {"model_type": "clip_text_model", "layer_norm_eps": 1e-5}
_VISION_FIXED: Mapping[str, object] = {"model_type": "clip_vision_model", "layer_norm_eps": 1e-5, "num_channels": 3}
_CLIP_FIXED: Mapping[str, object] = {"model_type": "clip"}

# As in Stable Diffusion's folders.  An end of 2 makes transformers pool where the largest id is, as we do.
_TOKEN_IDS: Mapping[str, object] = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}

_WORDS = """
    diversity_penalty encoder_no_repeat_ngram_size length_penalty max_length min_length no_repeat_ngram_size
    num_beam_groups num_beams num_return_sequences repetition_penalty temperature top_k top_p typical_p
    return_dict tie_word_embeddings
"""
_HARMLESS: Mapping[str, str] = {
    **dict.fromkeys(("attention_dropout", "dropout", "initializer_factor", "initializer_range"), "about training"),
    **dict.fromkeys(("architectures", "dtype", "torch_dtype", "transformers_version"), "about the file"),
    **dict.fromkeys(_TOKEN_IDS, "the tokenizer's business"),
    **dict.fromkeys(_WORDS.split(), "about writing text; transformers 4 wrote it into every config.json"),
    **dict.fromkeys(("id2label", "label2id"), "about classifying; transformers 4 wrote it into every config.json"),
    **dict.fromkeys(("chunk_size_feed_forward", "pruned_heads"), "CLIP has never read it"),
    "logit_scale_init_value": "the weights have it",
}
_TOWER_HARMLESS = {**_HARMLESS, "projection_dim": "the shapes of the weights, or the whole CLIP's config.json, tell"}

# A config.json may say anything.  OpenCLIP's largest tower has 48 layers, the largest vocabulary 250,000 tokens.
_MOST_LAYERS = 128
_MOST_TOKENS = 1 << 20


def text_config_from(infos: Infos, activation: Activation | None = None) -> ClipTextConfig:
    """The config of a text encoder under transformers' names, with or without `text_model.` before them."""
    prefix = "text_model." if any(name.startswith("text_model.") for name in infos) else ""
    width, num_layers = (
        size(infos, f"{prefix}embeddings.token_embedding.weight", 1),
        count(infos, f"{prefix}encoder.layers."),
    )
    return ClipTextConfig(
        width=width,
        num_layers=num_layers,
        num_heads=_num_heads(width),
        vocab_size=size(infos, f"{prefix}embeddings.token_embedding.weight", 0),
        context_length=size(infos, f"{prefix}embeddings.position_embedding.weight", 0),
        activation=activation or _activation_of(num_layers),
        mlp_ratio=size(infos, f"{prefix}encoder.layers.0.mlp.fc1.weight", 0) // width,
        embed_width=size(infos, "text_projection.weight", 0) if "text_projection.weight" in infos else None,
    )


def text_config_from_openclip(infos: Infos) -> ClipTextConfig:
    """The config of a text tower alone under OpenCLIP's names, which nobody else has without a picture tower."""
    config = _openai_text(infos, "gelu")
    return replace(config, embed_width=size(infos, "text_projection", 1) if "text_projection" in infos else None)


def clip_config_from_openai(infos: Infos, activation: Activation | None = None) -> ClipConfig:
    """The config of a whole CLIP under OpenAI's names, with either image tower."""
    activation = activation or _activation_of(count(infos, "transformer.resblocks."))
    text = _openai_text(infos, activation)
    image = _openai_vision(infos, activation) if "visual.proj" in infos else _openai_resnet(infos)
    return ClipConfig(text=text, image=image)


def text_config_from_json(obj: Mapping[str, object]) -> ClipTextConfig:
    """The config in the `config.json` of a `text_encoder` folder; `ValueError` for what `ClipText` cannot be."""
    options = settle(obj, _TEXT, _TEXT_FIXED, _TOWER_HARMLESS)
    return ClipTextConfig(
        width=options.whole("hidden_size"),
        num_layers=options.whole("num_hidden_layers", _MOST_LAYERS),
        num_heads=_divided(options, "hidden_size", "num_attention_heads"),
        vocab_size=options.whole("vocab_size", _MOST_TOKENS),
        context_length=options.whole("max_position_embeddings"),
        activation=_activation(options),
        mlp_ratio=_times(options, "intermediate_size", "hidden_size"),
    )


def projected_text_config_from_json(obj: Mapping[str, object]) -> ClipTextConfig:
    """The same of a `CLIPTextModelWithProjection`, SDXL's second text encoder."""
    options = settle(obj, {"projection_dim": 512}, {}, dict.fromkeys(obj, "text_config_from_json judges it"))
    return replace(text_config_from_json(obj), embed_width=options.whole("projection_dim"))


def text_config_to_json(config: ClipTextConfig) -> dict[str, object]:
    """What transformers and diffusers want in the `config.json` beside the weights."""
    return {
        "architectures": ["CLIPTextModel" if config.embed_width is None else "CLIPTextModelWithProjection"],
        **_TEXT_FIXED,
        **_tower_to_json(config),
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "projection_dim": config.embed_width or config.width,
        **_TOKEN_IDS,
    }


def clip_config_from_json(obj: Mapping[str, object]) -> ClipConfig:
    """The config in the `config.json` of a whole `CLIPModel`; `ValueError` for what `Clip` cannot be."""
    options = settle(obj, _CLIP, _CLIP_FIXED, _HARMLESS)
    image = settle(_tower(options, "vision_config"), _VISION, _VISION_FIXED, _TOWER_HARMLESS)
    vision = ClipVisionConfig(
        width=image.whole("hidden_size"),
        num_layers=image.whole("num_hidden_layers", _MOST_LAYERS),
        num_heads=_divided(image, "hidden_size", "num_attention_heads"),
        patch_size=image.whole("patch_size"),
        embed_width=options.whole("projection_dim"),
        image_size=image.whole("image_size"),
        activation=_activation(image),
        mlp_ratio=_times(image, "intermediate_size", "hidden_size"),
    )
    return ClipConfig(text=text_config_from_json(_tower(options, "text_config")), image=vision)


def clip_config_to_json(config: ClipConfig) -> dict[str, object]:
    """What transformers wants in the `config.json` of a whole `CLIPModel`, which has no ResNet."""
    image = config.image
    if isinstance(image, ClipResNetConfig):
        raise ValueError("transformers' CLIPModel cannot hold a ResNet; use OpenAI's names for this CLIP")
    return {
        "architectures": ["CLIPModel"],
        **_CLIP_FIXED,
        "projection_dim": image.embed_width,
        "text_config": {**text_config_to_json(config.text), "projection_dim": image.embed_width},
        "vision_config": {
            **_VISION_FIXED,
            **_tower_to_json(image),
            "image_size": image.image_size,
            "patch_size": image.patch_size,
            "projection_dim": image.embed_width,
        },
    }


def _openai_text(infos: Infos, activation: Activation) -> ClipTextConfig:
    width = size(infos, "token_embedding.weight", 1)
    return ClipTextConfig(
        width=width,
        num_layers=count(infos, "transformer.resblocks."),
        num_heads=_num_heads(width),
        vocab_size=size(infos, "token_embedding.weight", 0),
        context_length=size(infos, "positional_embedding", 0),
        activation=activation,
        mlp_ratio=size(infos, "transformer.resblocks.0.mlp.c_fc.weight", 0) // width,
    )


def _activation_of(num_layers: int) -> Activation:
    """What a text tower of this height was trained with, where no config.json says it."""
    return "gelu" if num_layers > 12 else "quick_gelu"


def _openai_vision(infos: Infos, activation: Activation) -> ClipVisionConfig:
    width, patch_size = size(infos, "visual.conv1.weight", 0), size(infos, "visual.conv1.weight", 3)
    return ClipVisionConfig(
        width=width,
        num_layers=count(infos, "visual.transformer.resblocks."),
        num_heads=_num_heads(width),
        patch_size=patch_size,
        embed_width=size(infos, "visual.proj", 1),
        image_size=patch_size * _grid(infos, "visual.positional_embedding"),
        activation=activation,
        mlp_ratio=size(infos, "visual.transformer.resblocks.0.mlp.c_fc.weight", 0) // width,
    )


def _openai_resnet(infos: Infos) -> ClipResNetConfig:
    first, second, third, fourth = (count(infos, f"visual.layer{level}.") for level in (1, 2, 3, 4))
    return ClipResNetConfig(
        width=size(infos, "visual.layer1.0.conv1.weight", 0),
        depths=(first, second, third, fourth),
        embed_width=size(infos, "visual.attnpool.c_proj.weight", 0),
        image_size=32 * _grid(infos, "visual.attnpool.positional_embedding"),
    )


def _num_heads(width: int) -> int:
    num_heads = max(width // 64, 1)
    if width % num_heads:
        raise ValueError(
            f"the tensors do not tell the number of heads: {width} channels do not divide into heads of 64"
        )
    return num_heads


def _grid(infos: Infos, name: str) -> int:
    """Patches along a side, of which there is a position each and one more."""
    num_positions = size(infos, name, 0)
    side = isqrt(num_positions - 1)
    if side == 0 or 1 + side * side != num_positions:
        raise ValueError(
            f"the tensors do not tell the pictures' size: {name} has {num_positions} rows, no square and 1"
        )
    return side


def _tower_to_json(config: ClipTextConfig | ClipVisionConfig) -> dict[str, object]:
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.num_blocks if isinstance(config, ClipTextConfig) else config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_ratio * config.width,
        "hidden_act": config.activation,
    }


def _tower(options: Options, name: str) -> Mapping[str, object]:
    """A tower's own options.  Configs of 2022 hold some of them twice; transformers believes the shorter list."""
    short = options.values[f"{name}_dict"]
    given = options.values[name] if short is None else short
    if not _is_object(given):
        raise ValueError(f"{name} in the config.json is {given!r}; it must be an object")
    return given


def _is_object(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, Mapping)  # of a JSON: its keys are text


def _divided(options: Options, whole: str, parts: str) -> int:
    """The number of `parts`, which divides `whole`."""
    if options.whole(whole) % options.whole(parts):
        raise ValueError(
            f"{parts} {options.values[parts]} in the config.json does not divide {whole} {options.values[whole]}"
        )
    return options.whole(parts)


def _times(options: Options, large: str, small: str) -> int:
    """How many times `small` goes into `large`, without a rest."""
    times, rest = divmod(options.whole(large), options.whole(small))
    if rest:
        raise ValueError(
            f"{large} {options.values[large]} in the config.json is no multiple of {small} {options.values[small]}"
        )
    return times


def _activation(options: Options) -> Activation:
    given = options.values["hidden_act"]
    for name in ACTIVATIONS:
        if name == given:
            return name
    raise ValueError(f"hidden_act in the config.json is {given!r}; it must be {' or '.join(ACTIVATIONS)}")
