"""From a name or a path to a card, and from a card to a model that paints."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from marmo.cards import latent_card, pixel_card, upscaler_card, with_vae
from marmo.files.settings import read_settings
from marmo.library import hub, shelf
from marmo.library.identify import Found
from marmo.models.tiny_decoder import TinyDecoder, TinyDecoderConfig
from marmo.nn.blueprint import blueprint
from marmo.nn.device import choose_device, choose_dtype
from marmo.pipelines.advice import choose_mode
from marmo.pipelines.card import LANCZOS, LatentCard, PixelCard, UpscalerCard
from marmo.pipelines.doubler import Doubler
from marmo.pipelines.latent import LatentDiffusion
from marmo.pipelines.modes import Choice
from marmo.pipelines.painter import Painter
from marmo.pipelines.pixel_diffusion import PixelDiffusion
from marmo.pipelines.residence import Residence
from marmo.pipelines.upscaler import Upscaler
from marmo.request import ImageRequest, Prediction
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.keymap import fill
from marmo.weights.kinds import SD_X2
from marmo.weights.maps.scheduler import TARGETS


def load(
    model: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    preview: str | Path | None = None,
    prediction: Prediction | None = None,
    zero_snr: bool | None = None,
    refiner: str | Path | None = None,
    vae: str | Path | None = None,
    upscaler: str | Path | None = None,
    memory: Choice = "auto",
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
        vae: another autoencoder, alone or of another model, in place of the model's own.
        upscaler: a model of ESRGAN's kind, or a latent upscaler, for the second pass of the requests that name it.
        memory: what is saved where memory is short.  "full" keeps all parts on the device, "offload" keeps idle parts
            in main memory, "low" reads each part when it is needed, "least" also works in small tiles; by default the
            first of the other three that has room for a picture of the model's own size.

    Raises:
        ValueError: in one sentence, for what cannot be found, read or run here.
    """
    opened = open_model(model, device, dtype, preview, prediction, zero_snr, refiner, vae, upscaler, memory)
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
    vae: str | Path | None = None,
    upscaler: str | Path | None = None,
    memory: Choice = "auto",
) -> LatentDiffusion:
    """Like `load`, with the weights checked by name and shape but not read before the first picture."""
    place = choose_device(device)
    numbers = choose_dtype(dtype, place)
    decoder = None if preview is None else _tiny_decoder(Path(preview), numbers, place)
    cards = [find(model, prediction, zero_snr, vae), *([] if refiner is None else [find(refiner)])]
    enlarging = None if upscaler is None else _enlarging(upscaler)
    together = [*cards, *([enlarging] if isinstance(enlarging, LatentCard) else [])]
    residence = Residence(place, numbers, choose_mode(memory, together, place, numbers))
    second = Painter(cards[1], place, numbers, residence) if len(cards) > 1 else None
    larger = None
    if isinstance(enlarging, LatentCard):
        larger = Doubler(enlarging, place, numbers, residence)
    elif enlarging is not None:
        larger = Upscaler(enlarging, place, numbers)
    return LatentDiffusion(cards[0], place, numbers, decoder, second, larger, residence)


def open_upscaler(path: str | Path, device: torch.device, dtype: torch.dtype) -> Upscaler:
    """A model of ESRGAN's kind; its weights are not read before they are used."""
    card = find_upscaler(path)
    if card is None:
        raise ValueError(f"{path} is no upscaler; Marmo knows those of ESRGAN's and Real-ESRGAN's kind, and lanczos")
    return Upscaler(card, device, dtype)


def _enlarging(path: str | Path) -> UpscalerCard | LatentCard:
    """The card of a model that enlarges between two passes."""
    card = find_upscaler(path)
    if card is not None:
        return card
    checkpoint = open_checkpoint(located(path))
    if checkpoint.kind is not SD_X2:
        raise ValueError(
            f"{path} is no upscaler for a second pass; Marmo knows those of ESRGAN's and Real-ESRGAN's kind, the "
            "latent x2 upscaler, and lanczos"
        )
    return latent_card(checkpoint)


def find_upscaler(model: str | Path) -> UpscalerCard | None:
    """The card of a model that only enlarges, or of `lanczos`; None of another model."""
    card = _other_card(located(model))
    return card if isinstance(card, UpscalerCard) else None


def _other_card(path: Path) -> UpscalerCard | PixelCard | None:
    """The card of a model that does not paint from words."""
    if path == LANCZOS.path:
        return LANCZOS
    checkpoint = open_checkpoint(path)
    return upscaler_card(checkpoint) or pixel_card(checkpoint)


def open_for(
    request: ImageRequest, device: str | None, dtype: str | None, memory: Choice = "auto"
) -> LatentDiffusion | PixelDiffusion | Upscaler:
    """The models that a request asks for, read as it says."""
    if request.model is not None:
        card = _other_card(located(request.model))
        if isinstance(card, UpscalerCard):
            return open_enlarging(card, request, device, dtype)
        if card is not None:
            place = choose_device(device)
            return PixelDiffusion(card, place, choose_dtype(dtype, place))
    return open_model(
        request.model,
        device,
        dtype,
        prediction=request.prediction,
        zero_snr=request.zero_snr,
        refiner=request.refiner.model,
        vae=request.vae,
        upscaler=request.hires.model,
        memory=memory,
    )


def open_enlarging(card: UpscalerCard, request: ImageRequest, device: str | None, dtype: str | None) -> Upscaler:
    """A model that only enlarges, and the second one that a request names."""
    place = choose_device(device)
    numbers, other = choose_dtype(dtype, place), request.upscale.model
    return Upscaler(card, place, numbers, None if other is None else open_upscaler(other, place, numbers))


def find(
    model: str | Path | None,
    prediction: Prediction | None = None,
    zero_snr: bool | None = None,
    vae: str | Path | None = None,
) -> LatentCard:
    """The card of a checkpoint file or folder, or of the model at hand that has this name."""
    checkpoint = open_checkpoint(located(model))
    scheduler = dict(checkpoint.scheduler)
    if prediction is not None:
        scheduler["prediction_type"] = next(theirs for theirs, ours in TARGETS.items() if ours == prediction)
    if zero_snr is not None:
        scheduler["rescale_betas_zero_snr"] = zero_snr
    card = latent_card(dataclasses.replace(checkpoint, scheduler=scheduler))
    return card if vae is None else with_vae(card, open_checkpoint(located(vae)))


def models(folders: Sequence[Path] = ()) -> Iterator[Found]:
    """All models at hand, with what each is of use for, or why it is of none; see `shelf.models`."""
    return shelf.models(latent_card, folders)


def located(model: str | Path | None, folders: Sequence[Path] = ()) -> Path:
    """Where a model lies: a path is what it says, a name is looked up among the models at hand.

    Only `owner/name` may ask the network, and only where it was not fetched before.

    Args:
        model: a path, a short name, an id of the catalogue, a model of the hub, or `lanczos`, which lies nowhere; none
            is the settings' default, else the bundled model.
        folders: to look through beside those of the settings.
    """
    if model is None:
        return _default()
    if model == LANCZOS.name:
        return LANCZOS.path
    path = Path(model).expanduser()
    if isinstance(model, Path) or path.exists():
        return path
    on_hub = hub.hub_name(model)
    if on_hub is not None:
        return hub.cached(on_hub) or _fetched(on_hub)
    if shelf.looks_like_path(model):
        return path
    found = shelf.locate(model, folders)
    if found is None:
        near = shelf.nearest(model, folders)
        hint = f"did you mean {' or '.join(near)}?" if near else "`marmo models` lists the models at hand"
        raise ValueError(f"there is no file, folder or model {model!r}; {hint}")
    return found


def _fetched(name: hub.HubName) -> Path:
    """`owner/name` may also have been meant as a path; then the hub's answer alone would mislead."""
    try:
        return hub.fetch(name)
    except ValueError as error:
        raise ValueError(f"there is no file or folder {name} here, and as a model of the hub {error}") from None


def _default() -> Path:
    """The settings' model, else the bundled one."""
    chosen = read_settings().models.default
    if chosen is not None:
        return located(chosen)
    bundled = (found for found in models() if found.origin == "bundled" and found.use == "paint")
    found = next(bundled, None)
    if found is None:
        raise ValueError("no model is bundled yet; give --model a checkpoint file (.safetensors) or a diffusers folder")
    return found.path


def _tiny_decoder(path: Path, dtype: torch.dtype, device: torch.device) -> TinyDecoder:
    part = open_checkpoint(path).parts.get("tiny_decoder")
    if part is None or not isinstance(part.config, TinyDecoderConfig):
        raise ValueError(f"{path} is no tiny decoder; a preview needs one in TAESD's layout")
    with blueprint():
        decoder = TinyDecoder(part.config)
    fill(decoder, part.tensors, dtype, device)
    return decoder
