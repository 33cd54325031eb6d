"""Marmo: the whole life of a text-to-image model.

    import marmo

    model = marmo.load("v1-5.safetensors")
    result = model.generate(marmo.ImageRequest(prompt="a red fox", seed=7))
    result.save_png("fox.png")

Importing this imports nothing else: torch comes with `load`, pydantic with `ImageRequest`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from marmo.version import VERSION as __version__

if TYPE_CHECKING:
    from marmo.catalog import load
    from marmo.pipelines.events import Result, Stage, Step
    from marmo.request import ImageRequest

__all__ = ["ImageRequest", "Result", "Stage", "Step", "__version__", "load"]

_HOMES = {
    "ImageRequest": "marmo.request",
    "Result": "marmo.pipelines.events",
    "Stage": "marmo.pipelines.events",
    "Step": "marmo.pipelines.events",
    "load": "marmo.catalog",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'marmo' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)
