"""From a name or a path to a card, and from a card to a model that paints."""

from pathlib import Path

import torch
from pydantic import ValidationError

from marmo.diffusion.denoiser import Target
from marmo.diffusion.noise import STABLE_DIFFUSION, Betas
from marmo.models.clip_text import ClipTextConfig
from marmo.models.tiny_decoder import TinyDecoder, TinyDecoderConfig
from marmo.models.unet import UNetConfig
from marmo.models.vae import VAEConfig
from marmo.nn.blueprint import blueprint
from marmo.nn.device import choose_device, choose_dtype
from marmo.pipelines.card import Card, LatentCard, TowerCard
from marmo.pipelines.latent import LatentDiffusion
from marmo.request import Defaults, ImageRequest, explain
from marmo.text.bpe import ClipTokenizer, clip_tokenizer
from marmo.weights.checkpoint import Checkpoint, open_checkpoint
from marmo.weights.forms import Json
from marmo.weights.keymap import fill

TARGETS: dict[str, Target] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
"""diffusers' names."""
MAX_LEVELS = 10_000
DEFAULTS_KEY = "marmo.defaults"
"""Where a single file's metadata may hold a model's own `Defaults`, as JSON."""


def load(
    model: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    preview: str | Path | None = None,
) -> LatentDiffusion:
    """A model, ready to paint.

    Args:
        model: a checkpoint file or a diffusers folder.
        device: any torch device; by default cuda, mps or cpu, the first that is there.
        dtype: float32, bfloat16 or float16; by default the fastest that is safe on the device.
        preview: a tiny decoder (TAESD's layout) for `Step.preview`.

    Raises:
        ValueError: in one sentence, for what cannot be found, read or run here.
    """
    opened = open_model(model, device, dtype, preview)
    opened.load()
    return opened


def open_model(
    model: str | Path | None, device: str | None, dtype: str | None, preview: str | Path | None = None
) -> LatentDiffusion:
    """Like `load`, with the weights checked by name and shape but not read before the first picture."""
    place = choose_device(device)
    numbers = choose_dtype(dtype, place)
    decoder = None if preview is None else _tiny_decoder(Path(preview), numbers, place)
    return LatentDiffusion(find(model), place, numbers, decoder)


def find(model: str | Path | None) -> Card:
    """The card of a checkpoint file or folder."""
    if model is None:
        raise ValueError("no model is bundled yet; give --model a checkpoint file (.safetensors) or a diffusers folder")
    return latent_card(open_checkpoint(Path(model).expanduser()))


def latent_card(checkpoint: Checkpoint) -> LatentCard:
    """What the latent pipeline must know of a checkpoint that holds all of its networks."""
    configs = {network: part.config for network, part in checkpoint.parts.items()}
    match configs.get("text"), configs.get("unet"), configs.get("vae"):
        case ClipTextConfig() as text, UNetConfig() as unet, VAEConfig() as vae:
            _check_fit(checkpoint.path, text, unet, vae)
            return LatentCard(
                path=checkpoint.path,
                files=checkpoint.files,
                towers=(TowerCard(network="text", config=text, pad=_pad(checkpoint), final_norm=True),),
                unet=unet,
                vae=vae,
                weights={network: part.tensors for network, part in checkpoint.parts.items()},
                tokenizer=checkpoint.tokenizer,
                betas=_betas(checkpoint.scheduler),
                target=_target(checkpoint.scheduler),
                defaults=_defaults(checkpoint, vae),
            )
        case _:
            held = " and ".join(configs)
            raise ValueError(f"{checkpoint.path} holds {held} alone; painting needs text, unet and vae")


def _check_fit(path: Path, text: ClipTextConfig, unet: UNetConfig, vae: VAEConfig) -> None:
    """`ValueError` for networks that are each known and together are no text-to-image model."""
    latents = vae.latent_channels
    if (unet.in_channels, unet.out_channels) != (latents, latents):
        raise ValueError(
            f"{path}: its unet turns {unet.in_channels} channels into {unet.out_channels}, and latents have {latents}; "
            "models for inpainting or editing cannot paint from words alone"
        )
    if unet.context_width != text.width:
        raise ValueError(
            f"{path}: its unet reads texts {unet.context_width} wide, and its text encoder writes {text.width}"
        )
    if text.vocab_size <= ClipTokenizer.END:
        raise ValueError(
            f"{path}: its text encoder knows {text.vocab_size} tokens, and CLIP's tokenizer has {ClipTokenizer.END + 1}"
        )


def _pad(checkpoint: Checkpoint) -> int:
    tokenizer = ClipTokenizer.from_folder(checkpoint.tokenizer) if checkpoint.tokenizer else clip_tokenizer()
    return tokenizer.pad


def _target(scheduler: Json) -> Target:
    name = scheduler.get("prediction_type", "epsilon")
    if not isinstance(name, str) or name not in TARGETS:
        raise ValueError(f"prediction_type {name!r} is not known; the types are {', '.join(TARGETS)}")
    return TARGETS[name]


def _betas(scheduler: Json) -> Betas:
    """A folder's own noise levels; Stable Diffusion's where it names none."""
    for name in ("trained_betas", "rescale_betas_zero_snr"):
        if scheduler.get(name):
            raise ValueError(f"scheduler_config.json has {name}, which Marmo does not know yet")
    start, end = scheduler.get("beta_start", STABLE_DIFFUSION.start), scheduler.get("beta_end", STABLE_DIFFUSION.end)
    levels = scheduler.get("num_train_timesteps", STABLE_DIFFUSION.num_levels)
    match scheduler.get("beta_schedule", "scaled_linear"), start, end, levels:
        case "scaled_linear", float(), float(), int() if 0 < start < end < 1 < levels <= MAX_LEVELS:
            return Betas(kind="scaled_linear", start=start, end=end, num_levels=levels)
        case "linear", float(), float(), int() if 0 < start < end < 1 < levels <= MAX_LEVELS:
            return Betas(kind="linear", start=start, end=end, num_levels=levels)
        case "squaredcos_cap_v2", _, _, int() if 1 < levels <= MAX_LEVELS:
            return Betas(kind="cosine", start=0.0, end=0.999, num_levels=levels)
        case _:
            raise ValueError(f"scheduler_config.json describes unknown noise levels: {dict(scheduler)}")


def _defaults(checkpoint: Checkpoint, vae: VAEConfig) -> Defaults:
    """The model's own defaults where its file carries them, else Stable Diffusion 1's."""
    text = checkpoint.metadata.get(DEFAULTS_KEY)
    if text is None:
        return Defaults(size_multiple=vae.factor)
    try:
        defaults = Defaults.model_validate_json(text).model_copy(update={"size_multiple": vae.factor})
        ImageRequest.model_validate(defaults.values).resolve(defaults)  # a stranger's file may say anything
    except ValueError as error:
        reason = explain(error) if isinstance(error, ValidationError) else str(error)
        raise ValueError(f"{checkpoint.path} carries defaults that cannot be used: {reason}") from None
    return defaults


def _tiny_decoder(path: Path, dtype: torch.dtype, device: torch.device) -> TinyDecoder:
    part = open_checkpoint(path).parts.get("tiny_decoder")
    if part is None or not isinstance(part.config, TinyDecoderConfig):
        raise ValueError(f"{path} is no tiny decoder; a preview needs one in TAESD's layout")
    with blueprint():
        decoder = TinyDecoder(part.config)
    fill(decoder, part.tensors, dtype, device)
    return decoder
