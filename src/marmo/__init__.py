"""Marmo: the whole life of a text-to-image model.

    import marmo

    model = marmo.load("v1-5.safetensors")
    result = model.generate(marmo.ImageRequest(prompt="a red fox", seed=7))
    result.save_png("fox.png")

Importing this imports no torch; `load` does.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from marmo.pipelines.events import Result, Stage, Step
from marmo.request import ImageRequest
from marmo.version import VERSION as __version__

if TYPE_CHECKING:
    from marmo.pipelines.latent import LatentDiffusion

__all__ = ["ImageRequest", "Result", "Stage", "Step", "__version__", "load"]


def load(
    model: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    preview: str | Path | None = None,
) -> "LatentDiffusion":
    """A model, ready to paint; see `marmo.catalog.load`."""
    from marmo import catalog

    return catalog.load(model, device, dtype, preview)
