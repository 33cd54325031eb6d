"""Seamless pictures: which axes of a request wrap."""

from marmo.nn.engine import Wrap
from marmo.request import ImageRequest


def wrap_of(request: ImageRequest) -> Wrap:
    """Along which axes the networks shall see the picture's opposite edges as neighbours."""
    return Wrap(height=request.tiling in ("y", "both"), width=request.tiling in ("x", "both"))
