"""The ways in which files name the tensors of the networks that we know, one row each.

A form is recognised by a tensor that only it has.  The config comes from a config.json where one lies beside the
weights (heads and activations have no shape), else from names and shapes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from torch import nn

from marmo.models.clip import Clip, ClipConfig
from marmo.models.clip_text import ClipText, ClipTextConfig
from marmo.models.dinov2 import DinoV2, DinoV2Config
from marmo.models.inception import Inception, InceptionConfig
from marmo.models.latent_upscaler import LatentUpscaler, LatentUpscalerConfig
from marmo.models.pixel_unet import PixelUNet, PixelUNetConfig
from marmo.models.rrdb import RRDB, RRDBConfig
from marmo.models.srvgg import SRVGG, SRVGGConfig
from marmo.models.tiny_decoder import TinyDecoder, TinyDecoderConfig
from marmo.models.unet import UNet, UNetConfig
from marmo.models.vae import VAE, VAEConfig
from marmo.nn.blueprint import blueprint
from marmo.weights.keymap import Rule, shapes
from marmo.weights.maps import (
    clip,
    clip_config,
    dinov2,
    inception,
    latent_upscaler,
    pixel_unet,
    rrdb,
    srvgg,
    tiny_decoder,
    unet,
    vae,
)
from marmo.weights.store import TensorInfo

Network = Literal[
    "text",
    "unet",
    "latent_upscaler",
    "pixel_unet",
    "vae",
    "clip",
    "tiny_decoder",
    "inception",
    "dinov2",
    "rrdb",
    "srvgg",
]
NetworkConfig = (
    ClipTextConfig
    | UNetConfig
    | LatentUpscalerConfig
    | PixelUNetConfig
    | VAEConfig
    | ClipConfig
    | TinyDecoderConfig
    | InceptionConfig
    | DinoV2Config
    | RRDBConfig
    | SRVGGConfig
)
Family = Literal["original", "openclip", "numbered", "diffusers"]
"""Whose names: those of the network's authors, in single files; OpenCLIP's, for the text encoders in some of these; the
numbers of ESRGAN's first programs; or those of diffusers and transformers, in folders."""

Infos = Mapping[str, TensorInfo]
Json = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way of naming the tensors of one network."""

    network: Network
    family: Family
    marks: tuple[str, ...]
    """Tensors of which this form has one, and no form before it in the list has any."""
    rules: Callable[..., list[Rule]]
    """config -> rules"""
    config: Callable[[Infos], NetworkConfig] | None = None
    from_json: Callable[[Json], NetworkConfig] | None = None
    to_json: Callable[..., Json] | None = None


FORMS = (
    Form(
        network="unet",
        family="original",
        marks=("input_blocks.0.0.weight",),
        rules=unet.compvis,
        config=unet.config_from_compvis,
    ),
    Form(
        network="pixel_unet",
        family="diffusers",
        marks=("mid_block.attentions.0.to_q.weight", "mid_block.attentions.0.query.weight"),
        rules=pixel_unet.diffusers,
        from_json=pixel_unet.config_from_json,
        to_json=pixel_unet.config_to_json,
    ),
    Form(
        network="unet",
        family="diffusers",
        marks=("down_blocks.0.resnets.0.time_emb_proj.weight",),
        rules=unet.diffusers,
        from_json=unet.config_from_json,
        to_json=unet.config_to_json,
    ),
    Form(
        network="latent_upscaler",
        family="diffusers",
        marks=("time_proj.weight",),
        rules=latent_upscaler.diffusers,
        from_json=latent_upscaler.config_from_json,
        to_json=latent_upscaler.config_to_json,
    ),
    Form(
        network="vae",
        family="original",
        marks=("encoder.down.0.block.0.norm1.weight",),
        rules=vae.compvis,
        config=vae.config_from_compvis,
    ),
    Form(
        network="vae",
        family="diffusers",
        marks=("encoder.mid_block.attentions.0.to_q.weight", "encoder.mid_block.attentions.0.query.weight"),
        rules=vae.diffusers,
        config=vae.config_from_diffusers,
        from_json=vae.config_from_json,
        to_json=vae.config_to_json,
    ),
    Form(
        network="clip",
        family="original",
        marks=("visual.conv1.weight",),
        rules=clip.openai,
        config=clip_config.clip_config_from_openai,
    ),
    Form(
        network="clip",
        family="diffusers",
        marks=("visual_projection.weight",),
        rules=clip.huggingface,
        from_json=clip_config.clip_config_from_json,
        to_json=clip_config.clip_config_to_json,
    ),
    Form(
        network="text",
        family="openclip",
        marks=("ln_final.weight",),
        rules=clip.openclip_text,
        config=clip_config.text_config_from_openclip,
    ),
    Form(
        network="text",
        family="original",
        marks=("text_model.embeddings.position_ids",),
        rules=clip.compvis_text,
        config=clip_config.text_config_from,
        from_json=clip_config.text_config_from_json,
    ),
    Form(
        network="text",
        family="diffusers",
        marks=("text_projection.weight",),
        rules=clip.huggingface_text,
        config=clip_config.text_config_from,
        from_json=clip_config.projected_text_config_from_json,
        to_json=clip_config.text_config_to_json,
    ),
    Form(
        network="text",
        family="diffusers",
        marks=("text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight"),
        rules=clip.huggingface_text,
        config=clip_config.text_config_from,
        from_json=clip_config.text_config_from_json,
        to_json=clip_config.text_config_to_json,
    ),
    Form(
        network="tiny_decoder",
        family="original",
        marks=("3.conv.0.weight",),
        rules=tiny_decoder.taesd,
        config=tiny_decoder.config_from_taesd,
    ),
    Form(
        network="tiny_decoder",
        family="diffusers",
        marks=("decoder.layers.0.weight",),
        rules=tiny_decoder.diffusers,
        from_json=tiny_decoder.config_from_json,
    ),
    Form(
        network="inception",
        family="original",
        marks=("Mixed_7c.branch_pool.conv.weight",),
        rules=inception.pytorch_fid,
        config=inception.config_from_pytorch_fid,
    ),
    Form(
        network="dinov2",
        family="original",
        marks=("blocks.0.ls1.gamma",),
        rules=dinov2.meta,
        config=dinov2.config_from_meta,
    ),
    Form(
        network="dinov2",
        family="diffusers",
        marks=("encoder.layer.0.layer_scale1.lambda1",),
        rules=dinov2.huggingface,
        from_json=dinov2.config_from_json,
        to_json=dinov2.config_to_json,
    ),
    Form(
        network="rrdb",
        family="original",
        marks=("body.0.rdb1.conv1.weight", "RRDB_trunk.0.RDB1.conv1.weight"),
        rules=rrdb.real,
        config=rrdb.config_from_real,
    ),
    Form(
        network="rrdb",
        family="numbered",
        marks=("model.1.sub.0.RDB1.conv1.0.weight",),
        rules=rrdb.numbered,
        config=rrdb.config_from_numbered,
    ),
    Form(
        network="srvgg",
        family="original",
        marks=("body.0.weight",),
        rules=srvgg.real,
        config=srvgg.config_from_real,
    ),
)


def recognise(infos: Infos) -> Form | None:
    """The form of these tensors, if we know it."""
    return next((form for form in FORMS if any(mark in infos for mark in form.marks)), None)


def written(network: Network, family: Family) -> Form:
    """The form in which a network is written; `ValueError` where that family cannot hold it."""
    form = next((form for form in FORMS if (form.network, form.family) == (network, family)), None)
    if form is None:
        raise ValueError(
            f"a {network} has no names of its authors' for a single file; give a folder, a name without dot"
        )
    if family == "diffusers" and form.to_json is None:
        raise ValueError(f"a {network} cannot be written as a diffusers folder; give a name that ends in .safetensors")
    return form


@cache
def expected(config: NetworkConfig) -> Mapping[str, tuple[int, ...]]:
    """The names and shapes of the weights that a network with this config has; worked out once."""
    with blueprint():
        return shapes(_make(config))


def _make(config: NetworkConfig) -> nn.Module:
    match config:
        case ClipTextConfig():
            return ClipText(config)
        case UNetConfig():
            return UNet(config)
        case LatentUpscalerConfig():
            return LatentUpscaler(config)
        case PixelUNetConfig():
            return PixelUNet(config)
        case VAEConfig():
            return VAE(config)
        case ClipConfig():
            return Clip(config)
        case TinyDecoderConfig():
            return TinyDecoder(config)
        case InceptionConfig():
            return Inception(config)
        case DinoV2Config():
            return DinoV2(config)
        case RRDBConfig():
            return RRDB(config)
        case SRVGGConfig():
            return SRVGG(config)
