"""From a name or a path to a card, and from a card to a model that paints."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import ValidationError

from marmo.diffusion.denoiser import Target
from marmo.models.clip_text import ClipTextConfig
from marmo.models.tiny_decoder import TinyDecoder, TinyDecoderConfig
from marmo.models.unet import CODE_WIDTH, UNetConfig
from marmo.models.vae import VAEConfig
from marmo.nn.blueprint import blueprint
from marmo.nn.device import choose_device, choose_dtype
from marmo.pipelines.card import Card, LatentCard, ToldKind, TowerCard
from marmo.pipelines.latent import LatentDiffusion
from marmo.pipelines.painter import Painter
from marmo.request import Defaults, ImageRequest, Prediction, explain
from marmo.text.bpe import ClipTokenizer, clip_tokenizer
from marmo.weights.checkpoint import Checkpoint, open_checkpoint
from marmo.weights.keymap import fill
from marmo.weights.kinds import Slot, Task, task_of
from marmo.weights.maps.scheduler import TARGETS, betas_from_json, target_from_json

DEFAULTS_KEY = "marmo.defaults"
"""Where a single file's metadata may hold a model's own `Defaults`, as JSON."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the models of one kind read their prompts, and what they paint best."""

    final_norm: bool
    """Whether a text encoder's final norm follows the layer that is read."""
    defaults: Defaults


FAMILIES: Mapping[str, Family] = {
    "sd1": Family(final_norm=True, defaults=Defaults()),
    "sd2": Family(final_norm=True, defaults=Defaults(clip_skip=2)),
    "sdxl": Family(final_norm=False, defaults=Defaults(clip_skip=2, empty_negative="zeros")),
    "sdxl-refiner": Family(final_norm=False, defaults=Defaults(clip_skip=2)),
}
"""By the name of the checkpoint's kind."""
_TOLD: Mapping[int, ToldKind] = {0: "nothing", 6: "size", 5: "score"}
"""How many numbers stand beside the pooled prompt -> what they are."""
EDITING: Mapping[Task, Mapping[str, object]] = {
    "paint": {"image_guidance_scale": None},
    "inpaint": {"image_guidance_scale": None, "strength": 1.0},
    "edit": {"image_guidance_scale": 1.5, "strength": None},
}
"""What of a model's defaults its task decides."""


def load(
    model: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    preview: str | Path | None = None,
    prediction: Prediction | None = None,
    zero_snr: bool | None = None,
    refiner: str | Path | None = None,
) -> LatentDiffusion:
    """A model, ready to paint.

    Args:
        model: a checkpoint file or a diffusers folder.
        device: any torch device; by default cuda, mps or cpu, the first that is there.
        dtype: float32, bfloat16 or float16; by default the fastest that is safe on the device.
        preview: a tiny decoder (TAESD's layout) for `Step.preview`.
        prediction: what the network predicts, where its file does not say or says it wrong.
        zero_snr: whether it was trained up to pure noise, where its file does not say or says it wrong.
        refiner: a second model, for the last steps of the requests that name it.

    Raises:
        ValueError: in one sentence, for what cannot be found, read or run here.
    """
    opened = open_model(model, device, dtype, preview, prediction, zero_snr, refiner)
    opened.load()
    return opened


def open_model(
    model: str | Path | None,
    device: str | None,
    dtype: str | None,
    preview: str | Path | None = None,
    prediction: Prediction | None = None,
    zero_snr: bool | None = None,
    refiner: str | Path | None = None,
) -> LatentDiffusion:
    """Like `load`, with the weights checked by name and shape but not read before the first picture."""
    place = choose_device(device)
    numbers = choose_dtype(dtype, place)
    decoder = None if preview is None else _tiny_decoder(Path(preview), numbers, place)
    second = None if refiner is None else Painter(find(refiner), place, numbers)
    return LatentDiffusion(find(model, prediction, zero_snr), place, numbers, decoder, second)


def open_for(request: ImageRequest, device: str | None, dtype: str | None) -> LatentDiffusion:
    """The models that a request asks for, read as it says."""
    return open_model(
        request.model,
        device,
        dtype,
        prediction=request.prediction,
        zero_snr=request.zero_snr,
        refiner=request.refiner.model,
    )


def find(model: str | Path | None, prediction: Prediction | None = None, zero_snr: bool | None = None) -> Card:
    """The card of a checkpoint file or folder."""
    if model is None:
        raise ValueError("no model is bundled yet; give --model a checkpoint file (.safetensors) or a diffusers folder")
    checkpoint = open_checkpoint(Path(model).expanduser())
    scheduler = dict(checkpoint.scheduler)
    if prediction is not None:
        scheduler["prediction_type"] = next(theirs for theirs, ours in TARGETS.items() if ours == prediction)
    if zero_snr is not None:
        scheduler["rescale_betas_zero_snr"] = zero_snr
    return latent_card(replace(checkpoint, scheduler=scheduler))


def latent_card(checkpoint: Checkpoint) -> LatentCard:
    """What the latent pipeline must know of a checkpoint that holds all of its networks."""
    unet, vae = (_config(checkpoint, slot) for slot in ("unet", "vae"))
    if checkpoint.kind is None or not isinstance(unet, UNetConfig) or not isinstance(vae, VAEConfig):
        held = " and ".join(checkpoint.parts)
        raise ValueError(f"{checkpoint.path} holds {held} alone; painting needs text, unet and vae")
    family = FAMILIES[checkpoint.kind.name]
    towers = tuple(_towers(checkpoint, family, pools=unet.vector_width > 0))
    told = _told(checkpoint.path, unet, towers)
    _check_fit(checkpoint.path, towers, unet, vae, _tokenizer(checkpoint))
    target, betas = target_from_json(checkpoint.scheduler), betas_from_json(checkpoint.scheduler)
    if target == "eps" and betas.zero_snr:
        raise ValueError(
            f"{checkpoint.path} was trained up to pure noise (zero terminal SNR), in which no eps can be seen; "
            "say what it predicts, most likely with prediction v"
        )
    return LatentCard(
        path=checkpoint.path,
        files=checkpoint.files,
        towers=towers,
        unet=unet,
        vae=vae,
        weights={slot: part.tensors for slot, part in checkpoint.parts.items()},
        told=told,
        tokenizer=_tokenizer(checkpoint),
        betas=betas,
        target=target,
        defaults=_defaults(checkpoint, family, target, betas.zero_snr, unet, vae),
    )


def _config(checkpoint: Checkpoint, slot: Slot) -> object:
    return checkpoint.parts[slot].config if slot in checkpoint.parts else None


def _towers(checkpoint: Checkpoint, family: Family, pools: bool) -> Iterator[TowerCard]:
    for slot, part in checkpoint.parts.items():
        if isinstance(part.config, ClipTextConfig):
            yield TowerCard(
                slot=slot,
                config=part.config,
                pad=_pad(checkpoint, slot),
                final_norm=family.final_norm,
                pools=pools and part.config.embed_width is not None,
            )


def _tokenizer(checkpoint: Checkpoint) -> Path | None:
    """The folder's own tokenizer, which all its text encoders must share but for the padding."""
    folders = list(checkpoint.tokenizers.values())
    for other in folders[1:]:
        first, second = (ClipTokenizer.from_folder(folder).backend.get_vocab() for folder in (folders[0], other))
        if first != second:
            raise ValueError(f"{folders[0]} and {other} know different words; they must be the same tokenizer")
    return folders[0] if folders else None


def _pad(checkpoint: Checkpoint, slot: Slot) -> int:
    """The folder's own padding, else that of the kind."""
    assert checkpoint.kind is not None
    if slot not in checkpoint.tokenizers:
        pad = checkpoint.kind.places[slot].pad
        return clip_tokenizer().pad if pad is None else pad
    return ClipTokenizer.from_folder(checkpoint.tokenizers[slot]).pad


def _told(path: Path, unet: UNetConfig, towers: Sequence[TowerCard]) -> ToldKind:
    """What the numbers in the U-Net's vector are, from how many they are."""
    pooled = sum(tower.config.embed_width or 0 for tower in towers if tower.pools)
    count, rest = divmod(unet.vector_width - pooled, CODE_WIDTH)
    if rest or count not in _TOLD or (unet.vector_width and not pooled):
        raise ValueError(
            f"{path}: its unet is told a vector {unet.vector_width} wide, which is neither SDXL's nor its refiner's; "
            "models that paint from other pictures' embeddings are not known"
        )
    return _TOLD[count]


def _check_fit(
    path: Path, towers: Sequence[TowerCard], unet: UNetConfig, vae: VAEConfig, tokenizer: Path | None
) -> None:
    """`ValueError` for networks that are each known and together are no text-to-image model."""
    try:
        task_of(unet, vae)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    width = sum(tower.config.width for tower in towers)
    if unet.context_width != width:
        raise ValueError(f"{path}: its unet reads texts {unet.context_width} wide, and its text encoder writes {width}")
    words = (ClipTokenizer.from_folder(tokenizer) if tokenizer else clip_tokenizer()).vocab_size
    for tower in towers:
        if tower.config.vocab_size < words:
            raise ValueError(
                f"{path}: its text encoder knows {tower.config.vocab_size} tokens, and its tokenizer has {words}"
            )


def _defaults(
    checkpoint: Checkpoint, family: Family, target: Target, zero_snr: bool, unet: UNetConfig, vae: VAEConfig
) -> Defaults:
    """The model's own defaults where its file carries them, else its family's; with what is a fact of the model."""
    assert checkpoint.kind is not None
    side = checkpoint.kind.side_for(checkpoint.scheduler.get("prediction_type"))
    task = task_of(unet, vae)
    own = family.defaults.model_copy(update={"width": side, "height": side, **EDITING[task]})
    if zero_snr:
        own = own.model_copy(update={"schedule": "trailing"})  # Karras' levels would all lie in the noise
    facts: dict[str, object] = {"size_multiple": vae.factor, "prediction": target, "zero_snr": zero_snr}
    if checkpoint.index.get("force_zeros_for_empty_prompt") is not None:
        facts["empty_negative"] = "zeros" if checkpoint.index["force_zeros_for_empty_prompt"] else "encoded"
    text = checkpoint.metadata.get(DEFAULTS_KEY)
    if text is None:
        return own.model_copy(update=facts)
    try:
        said = Defaults.model_validate_json(text)
        if task != "edit":
            facts["image_guidance_scale"] = None
        defaults = own.model_copy(update={name: getattr(said, name) for name in said.model_fields_set} | facts)
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
