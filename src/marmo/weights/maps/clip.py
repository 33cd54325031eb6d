"""CLIP's names elsewhere: transformers, the single files of Stable Diffusion, OpenAI's and OpenCLIP's checkpoints.

`clip_config` finds the config that these rules ask for.
"""

import math
from functools import partial

import torch

from marmo.models.clip import ClipConfig
from marmo.models.clip_resnet import ClipResNetConfig
from marmo.models.clip_text import ClipTextConfig
from marmo.models.clip_vision import ClipVisionConfig
from marmo.weights.keymap import Constant, Drop, Fuse, Permute, Rename, Rule, renames

_HUGGINGFACE_BLOCK = {
    "layer_norm1": "norm1",
    "self_attn.q_proj": "attention.q",
    "self_attn.k_proj": "attention.k",
    "self_attn.v_proj": "attention.v",
    "self_attn.out_proj": "attention.out",
    "layer_norm2": "norm2",
    "mlp.fc1": "feed_forward.proj_in",
    "mlp.fc2": "feed_forward.proj_out",
}
_OPENAI_BLOCK = {
    "ln_1": "norm1",
    "attn.out_proj": "attention.out",
    "ln_2": "norm2",
    "mlp.c_fc": "feed_forward.proj_in",
    "mlp.c_proj": "feed_forward.proj_out",
}
_CONVOLUTIONS = {"conv1": "conv1", "bn1": "norm1", "conv2": "conv2", "bn2": "norm2", "conv3": "conv3", "bn3": "norm3"}
_SHORTCUT = {"downsample.0": "shortcut.1", "downsample.1": "shortcut.2"}
_ATTENTION_POOL = {"positional_embedding": "positions", "q_proj": "q", "k_proj": "k", "v_proj": "v", "c_proj": "out"}

_COUNTED = "0, 1, 2, ..., which needs no file"


def huggingface_text(config: ClipTextConfig) -> list[Rule]:
    """transformers' `CLIPTextModel`, or `CLIPTextModelWithProjection`: the text encoders of a diffusers folder.

    The prefix `text_model.` is missing in files of transformers 5 and in the oldest single files; both forms are read,
    and the prefix is written.
    """
    bare, full = "", "text_model."
    ids = [Drop(f"{prefix}embeddings.position_ids", _COUNTED) for prefix in (bare, full)]
    projection = [] if config.embed_width is None else [Rename("text_projection", "proj")]
    either = (*_huggingface_text(bare, "", config), *_huggingface_text(full, "", config))  # the last is written
    return [*ids, *projection, *either]


def compvis_text(config: ClipTextConfig) -> list[Rule]:
    """The text encoder in Stable Diffusion 1's single files, below `cond_stage_model.transformer.`.

    These are transformers' names of 2022, when the positions' numbers were stored.  Whatever a file holds there, be it
    floats from a merge, is passed over.
    """
    ids = Constant("text_model.embeddings.position_ids", lambda: torch.arange(config.context_length)[None])
    return [*huggingface_text(config), ids]


def openclip_text(config: ClipTextConfig) -> list[Rule]:
    """The text tower of an OpenCLIP in the single files of Stable Diffusion 2 and SDXL, below `model.`.

    These programs build the whole tower, so what a folder leaves out is filled in: the layers after the one that is
    read, which then add nothing, and the projection.
    """
    width, cut = config.width, range(config.num_blocks, config.num_layers)
    filled = Constant("text_projection", lambda: torch.eye(width, dtype=torch.float16), filler=True)
    return [
        *_openai_text("", config),
        *(filler for layer in cut for filler in _neutral_block(f"transformer.resblocks.{layer}", config)),
        filled if config.embed_width is None else Permute("text_projection", "proj.weight"),
        Constant("logit_scale", lambda: torch.tensor(math.log(100))),  # where CLIP's training bounds it
        Drop("attn_mask", "it hides what follows a token, which needs no file"),
    ]


def huggingface(config: ClipConfig) -> list[Rule]:
    """transformers' `CLIPModel`, which has no ResNet."""
    if isinstance(config.image, ClipResNetConfig):
        raise ValueError("transformers' CLIPModel cannot hold a ResNet; use OpenAI's names for this CLIP")
    return [
        *_huggingface_text("text_model.", "text.", config.text),
        *_huggingface_vision(config.image),
        Rename("text_projection", "text_proj"),
        Rename("visual_projection", "image.proj"),
        Rename("logit_scale", "logit_scale"),
        Drop("text_model.embeddings.position_ids", _COUNTED),
        Drop("vision_model.embeddings.position_ids", _COUNTED),
    ]


def openai(config: ClipConfig) -> list[Rule]:
    """OpenAI's names, which OpenCLIP shares."""
    tower = config.image
    image = _openai_vision(tower) if isinstance(tower, ClipVisionConfig) else _openai_resnet(tower)
    scalars = ("input_resolution", "context_length", "vocab_size")
    return [
        *_openai_text("text.", config.text),
        Permute("text_projection", "text_proj.weight"),
        *image,
        Rename("logit_scale", "logit_scale"),
        *(Drop(name, "the shapes tell it") for name in scalars),
    ]


def _openai_text(ours: str, config: ClipTextConfig) -> list[Rule]:
    return [
        Rename("token_embedding", f"{ours}tokens"),
        Rename("positional_embedding", f"{ours}positions"),
        *_openai_blocks("transformer.resblocks", f"{ours}blocks", config.num_blocks),
        Rename("ln_final", f"{ours}norm"),
    ]


def _neutral_block(theirs: str, config: ClipTextConfig) -> list[Rule]:
    """A layer that passes its input on: what it adds is multiplied by zeros.  Exact in every dtype."""
    width, hidden = config.width, config.mlp_ratio * config.width
    shapes = {
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
        "mlp.c_fc.weight": (hidden, width),
        "mlp.c_fc.bias": (hidden,),
        "mlp.c_proj.weight": (width, hidden),
        "mlp.c_proj.bias": (width,),
    }
    return [
        Constant(f"{theirs}.{name}", partial(torch.zeros, shape, dtype=torch.float16), filler=True)
        for name, shape in shapes.items()
    ]


def _huggingface_text(theirs: str, ours: str, config: ClipTextConfig) -> list[Rule]:
    return [
        Rename(f"{theirs}embeddings.token_embedding", f"{ours}tokens"),
        Rename(f"{theirs}embeddings.position_embedding.weight", f"{ours}positions"),
        *_huggingface_blocks(f"{theirs}encoder.layers", f"{ours}blocks", config.num_blocks),
        Rename(f"{theirs}final_layer_norm", f"{ours}norm"),
    ]


def _huggingface_vision(config: ClipVisionConfig) -> list[Rule]:
    return [
        Rename("vision_model.embeddings.patch_embedding", "image.patches"),
        Rename("vision_model.embeddings.class_embedding", "image.class_token"),
        Rename("vision_model.embeddings.position_embedding.weight", "image.positions"),
        Rename("vision_model.pre_layrnorm", "image.norm_in"),  # (sic)
        *_huggingface_blocks("vision_model.encoder.layers", "image.blocks", config.num_layers),
        Rename("vision_model.post_layernorm", "image.norm_out"),
    ]


def _huggingface_blocks(theirs: str, ours: str, num_layers: int) -> list[Rule]:
    return [rule for i in range(num_layers) for rule in renames(f"{theirs}.{i}", f"{ours}.{i}", _HUGGINGFACE_BLOCK)]


def _openai_vision(config: ClipVisionConfig) -> list[Rule]:
    return [
        Rename("visual.conv1", "image.patches"),
        Rename("visual.class_embedding", "image.class_token"),
        Rename("visual.positional_embedding", "image.positions"),
        Rename("visual.ln_pre", "image.norm_in"),
        *_openai_blocks("visual.transformer.resblocks", "image.blocks", config.num_layers),
        Rename("visual.ln_post", "image.norm_out"),
        Permute("visual.proj", "image.proj.weight"),
    ]


def _openai_blocks(theirs: str, ours: str, num_layers: int) -> list[Rule]:
    rules: list[Rule] = []
    for i in range(num_layers):
        rules += renames(f"{theirs}.{i}", f"{ours}.{i}", _OPENAI_BLOCK)
        for leaf in ("weight", "bias"):
            parts = tuple(f"{ours}.{i}.attention.{part}.{leaf}" for part in "qkv")
            rules.append(Fuse(f"{theirs}.{i}.attn.in_proj_{leaf}", parts))
    return rules


def _openai_resnet(config: ClipResNetConfig) -> list[Rule]:
    rules = renames("visual", "image.stem", _CONVOLUTIONS)
    rules += renames("visual.attnpool", "image.pool", _ATTENTION_POOL)
    for level, depth in enumerate(config.depths):
        theirs, ours = f"visual.layer{level + 1}", f"image.levels.{level}"
        rules += renames(f"{theirs}.0", f"{ours}.0", _SHORTCUT)
        for block in range(depth):
            rules += renames(f"{theirs}.{block}", f"{ours}.{block}", _CONVOLUTIONS)
    return rules
