"""From a checkpoint to a card: how the models of each kind read prompts, and whether the networks fit one another."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from marmo.diffusion.denoiser import Target
from marmo.models.clip_text import ClipTextConfig
from marmo.models.latent_upscaler import LatentUpscalerConfig
from marmo.models.pixel_unet import PixelUNetConfig
from marmo.models.rrdb import RRDBConfig
from marmo.models.srvgg import SRVGGConfig
from marmo.models.unet import CODE_WIDTH, UNetConfig
from marmo.models.vae import VAEConfig
from marmo.pipelines.card import LatentCard, PixelCard, ToldKind, TowerCard, UpscalerCard
from marmo.pipelines.conditions import NOISE_WIDTH
from marmo.pipelines.pixel_diffusion import pixel_defaults
from marmo.request import Defaults, ImageRequest, explain
from marmo.text.bpe import ClipTokenizer, clip_tokenizer
from marmo.weights.checkpoint import DEFAULTS_KEY, Checkpoint
from marmo.weights.kinds import DenoiserConfig, Slot, Task, task_of
from marmo.weights.licence import licence_of
from marmo.weights.maps.scheduler import DDPM_SCHEDULER, betas_from_json, bound_from_json, target_from_json
from marmo.weights.notes import concepts_in


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the models of one kind read their prompts, and what they paint best."""

    final_norm: bool
    """Whether a text encoder's final norm follows the layer that is read."""
    defaults: Defaults
    pools_states: bool = False
    """Whether the U-Net is told the whole text as a state that no projection has seen."""


FAMILIES: Mapping[str, Family] = {
    "sd1": Family(final_norm=True, defaults=Defaults()),
    "sd2": Family(final_norm=True, defaults=Defaults(clip_skip=2)),
    "sdxl": Family(final_norm=False, defaults=Defaults(clip_skip=2, empty_negative="zeros")),
    "sd-x4": Family(final_norm=True, defaults=Defaults(clip_skip=2, guidance_scale=9.0)),
    "sd-x2": Family(
        final_norm=False,
        defaults=Defaults(
            guidance_scale=1.0,
            steps=20,
            sampler="euler",
            schedule="exponential",
            unused=frozenset({"prediction", "zero_snr"}),
        ),
        pools_states=True,
    ),
    "sdxl-refiner": Family(final_norm=False, defaults=Defaults(clip_skip=2)),
}
"""By the name of the checkpoint's kind."""
_TOLD: Mapping[int, ToldKind] = {0: "nothing", 6: "size", 5: "score"}
"""How many numbers stand beside the pooled prompt -> what they are."""
EDITING: Mapping[Task, Mapping[str, object]] = {
    "paint": {"image_guidance_scale": None},
    "inpaint": {"image_guidance_scale": None, "strength": 1.0},
    "edit": {"image_guidance_scale": 1.5, "strength": None},
    "upscale": {"image_guidance_scale": None, "strength": None, "grows": 4},
    "upscale_latents": {"image_guidance_scale": None, "strength": None, "grows": 2},
}
"""What of a model's defaults its task decides."""


def latent_card(checkpoint: Checkpoint) -> LatentCard:
    """What the latent pipeline must know of a checkpoint that holds all of its networks."""
    unet, vae = (_config(checkpoint, slot) for slot in ("unet", "vae"))
    if (
        checkpoint.kind is None
        or not isinstance(unet, UNetConfig | LatentUpscalerConfig)
        or not isinstance(vae, VAEConfig)
    ):
        if "pixel_unet" in checkpoint.parts:
            raise ValueError(
                f"{checkpoint.path} paints pixels without words, which only `marmo generate` does, and in Python "
                "marmo.catalog.open_for with a request that names it"
            )
        held = " and ".join(checkpoint.parts)
        raise ValueError(f"{checkpoint.path} holds {held} alone; painting needs text, unet and vae")
    family = FAMILIES[checkpoint.kind.name]
    towers = tuple(_towers(checkpoint, family, pools=unet.vector_width > 0))
    told = _told(checkpoint.path, unet, towers)
    tokenizer = _tokenizer(checkpoint)
    _check_fit(checkpoint.path, towers, unet, vae, tokenizer)
    target = checkpoint.kind.target or target_from_json(checkpoint.scheduler)
    betas = betas_from_json(checkpoint.scheduler)
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
        tokenizer=tokenizer,
        betas=betas,
        target=target,
        defaults=_defaults(checkpoint, family, target, betas.zero_snr, unet, vae),
        licence=licence_of(checkpoint),
        concepts=_concepts(checkpoint),
    )


def upscaler_card(checkpoint: Checkpoint) -> UpscalerCard | None:
    """What the upscaling pipeline must know of a checkpoint that is one network of ESRGAN's kind; None of another."""
    for part in checkpoint.parts.values():
        if isinstance(part.config, RRDBConfig | SRVGGConfig):
            return UpscalerCard(path=checkpoint.path, files=checkpoint.files, config=part.config, tensors=part.tensors)
    return None


def pixel_card(checkpoint: Checkpoint) -> PixelCard | None:
    """What the pixel pipeline must know of a checkpoint whose network paints pixels; None of another."""
    part = checkpoint.parts.get("pixel_unet")
    if part is None or not isinstance(part.config, PixelUNetConfig):
        return None
    scheduler = {**DDPM_SCHEDULER, **checkpoint.scheduler}
    betas = betas_from_json(scheduler)
    return PixelCard(
        path=checkpoint.path,
        files=checkpoint.files,
        config=part.config,
        tensors=part.tensors,
        betas=betas,
        target=target_from_json(scheduler),
        bound=bound_from_json(scheduler),
        defaults=pixel_defaults(part.config, betas),
        licence=licence_of(checkpoint),
    )


def with_vae(card: LatentCard, other: Checkpoint) -> LatentCard:
    """The same model with another autoencoder; `ValueError` for one whose latents are others.

    The file of an autoencoder alone does not say by what its latents are scaled; the model does.
    """
    config = _config(other, "vae")
    if not isinstance(config, VAEConfig):
        raise ValueError(f"{other.path} holds {' and '.join(other.parts)} and no autoencoder")
    if other.kind is None and not other.path.is_dir():
        config = replace(config, latent_scale=card.vae.latent_scale)
    mine, theirs = ((vae.latent_channels, vae.latent_scale, vae.factor) for vae in (card.vae, config))
    if mine != theirs:
        raise ValueError(
            f"{other.path} is no autoencoder for {card.name}: its latents have {theirs[0]} channels times "
            f"{theirs[1]:g} and a side of 1/{theirs[2]}, not {mine[0]} times {mine[1]:g} and 1/{mine[2]}"
        )
    return replace(
        card,
        vae=config,
        weights={**card.weights, "vae": other.parts["vae"].tensors},
        vae_path=other.path,
        vae_files=other.files,
    )


def _concepts(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What the model says that it knows; `ValueError` for what the corpus does not have."""
    ids = concepts_in(checkpoint.metadata)
    if ids:
        from marmo.data.selection import check_concepts  # brings the corpus, which other models do without

        try:
            check_concepts(ids)
        except ValueError as error:
            raise ValueError(f"{checkpoint.path} carries a list of concepts that cannot be used: {error}") from None
    return ids


def _config(checkpoint: Checkpoint, slot: Slot) -> object:
    return checkpoint.parts[slot].config if slot in checkpoint.parts else None


def _towers(checkpoint: Checkpoint, family: Family, pools: bool) -> Iterator[TowerCard]:
    for slot, part in checkpoint.parts.items():
        if isinstance(part.config, ClipTextConfig):
            yield TowerCard(
                slot=slot,
                config=part.config,
                pad=checkpoint.tokenizer(slot).pad,
                final_norm=family.final_norm,
                pools=pools and (part.config.embed_width is not None or family.pools_states),
            )


def _tokenizer(checkpoint: Checkpoint) -> ClipTokenizer:
    """The model's own tokenizer, which all its text encoders must share but for the padding, else CLIP's."""
    places = list(checkpoint.tokenizers.values())
    for other in places[1:]:
        first, second = (place.open().backend.get_vocab() for place in (places[0], other))
        if first != second:
            raise ValueError(f"{places[0].path} and {other.path} know different words; they must be the same tokenizer")
    return places[0].open() if places else clip_tokenizer()


def _told(path: Path, unet: DenoiserConfig, towers: Sequence[TowerCard]) -> ToldKind:
    """What the numbers in the U-Net's vector are, from how many they are."""
    if isinstance(unet, LatentUpscalerConfig):
        if unet.vector_width != NOISE_WIDTH + sum(tower.config.width for tower in towers):
            raise ValueError(
                f"{path}: its unet is told a vector {unet.vector_width} wide, which is no latent upscaler's"
            )
        return "text"
    if unet.num_labels and unet.in_channels == unet.out_channels + 3:
        return "noise"
    if unet.num_labels:
        raise ValueError(f"{path}: its unet is told one of {unet.num_labels} labels, which only the x4 upscaler may be")
    pooled = sum(tower.config.embed_width or 0 for tower in towers if tower.pools)
    count, rest = divmod(unet.vector_width - pooled, CODE_WIDTH)
    if rest or count not in _TOLD or (unet.vector_width and not pooled):
        raise ValueError(
            f"{path}: its unet is told a vector {unet.vector_width} wide, which is neither SDXL's nor its refiner's; "
            "models that paint from other pictures' embeddings are not known"
        )
    return _TOLD[count]


def _check_fit(
    path: Path, towers: Sequence[TowerCard], unet: DenoiserConfig, vae: VAEConfig, tokenizer: ClipTokenizer
) -> None:
    """`ValueError` for networks that are each known and together are no text-to-image model."""
    try:
        task_of(unet, vae)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    width = sum(tower.config.width for tower in towers)
    if unet.context_width != width:
        raise ValueError(f"{path}: its unet reads texts {unet.context_width} wide, and its text encoder writes {width}")
    words = tokenizer.vocab_size
    for tower in towers:
        if tower.config.vocab_size < words:
            raise ValueError(
                f"{path}: its text encoder knows {tower.config.vocab_size} tokens, and its tokenizer has {words}"
            )


def _defaults(
    checkpoint: Checkpoint, family: Family, target: Target, zero_snr: bool, unet: DenoiserConfig, vae: VAEConfig
) -> Defaults:
    """The model's own defaults where its file carries them, else its family's; with what is a fact of the model."""
    assert checkpoint.kind is not None
    side = checkpoint.kind.side_for(checkpoint.scheduler.get("prediction_type"))
    task = task_of(unet, vae)
    own = family.defaults.model_copy(update={"width": side, "height": side, **EDITING[task]})
    if zero_snr or target == "flow":
        own = own.model_copy(update={"schedule": "trailing"})  # Karras' levels would all lie in the noise
    facts: dict[str, object] = {"size_multiple": vae.factor, "prediction": target, "zero_snr": zero_snr}
    if task == "upscale_latents":
        facts = {"size_multiple": 2 * vae.factor}  # what it predicts is no choice of a request's
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
