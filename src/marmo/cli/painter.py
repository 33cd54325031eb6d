"""A model of the pipelines as the evaluation sees it: a painter, an identity, an autoencoder."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor

from marmo.data.corpus import corpus
from marmo.evaluate.gallery import Painter
from marmo.evaluate.limits import Change
from marmo.pipelines.latent import LatentDiffusion
from marmo.request import ImageRequest

AT_ONCE = 16
"""Pictures of one prompt that are asked for together."""

NOT_SETTINGS = {"prompt", "seed", "num_images", "model"}
"""Fields of a request that the questions decide."""


def painter(model: LatentDiffusion, settings: ImageRequest) -> Painter:
    """Paints with these settings.  A seed gives the same noise whatever is painted beside it."""

    def paint(texts: Sequence[str], seeds: Sequence[int]) -> Iterator[Image.Image]:
        for text, first, count in _runs(zip(texts, seeds, strict=True)):
            asked = {"prompt": text, "seed": first, "num_images": count}
            yield from model.generate(settings.model_copy(update=asked)).images

    return paint


def identity(model: LatentDiffusion, settings: ImageRequest, concepts: Sequence[str] = ()) -> dict[str, object]:
    """All that decides a picture beside its prompt and seed, and which prompts its name may stand for.

    Args:
        concepts: the only ones that are asked for; another list has other prompts under the same names.
    """
    resolved = model.resolve(settings.model_copy(update={"seed": 0}))
    return {
        "model": model.card.name,
        "weights": model.card.hashes(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "settings": resolved.model_dump(mode="json", exclude=NOT_SETTINGS),
        "corpus": corpus().version,
        **({"concepts": sorted(concepts)} if concepts else {}),
    }


def reconstruction(model: LatentDiffusion) -> Change:
    """Pictures through this model's autoencoder and back: what is lost there, no painting of it can show."""

    @torch.inference_mode()
    def through(pictures: Tensor) -> Tensor:
        model.load()
        latents = model.moments(pictures.to(model.device).float() / 127.5 - 1).mean
        pixels, _ = model.decode(latents)
        return ((pixels + 1) * 127.5).round().byte().cpu()

    return through


def _runs(asked: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int, int]]:
    """Neighbours with one prompt and rising seeds, as (prompt, first seed, how many)."""
    text, first, count = "", 0, 0
    for next_text, seed in asked:
        if count and (next_text, seed) == (text, first + count) and count < AT_ONCE:
            count += 1
            continue
        if count:
            yield text, first, count
        text, first, count = next_text, seed, 1
    if count:
        yield text, first, count
