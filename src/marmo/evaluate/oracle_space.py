"""Marmo's own feature space: what the first oracle's namer makes of whole pictures.

It needs no file from elsewhere.  It knows the drawings of the corpus, so it tells fine differences between those and
little about photographs; its distances cannot be compared with published ones.
"""

from pathlib import Path

import torch
from torch import Tensor

from marmo.evaluate.features import FeatureSpace, Space
from marmo.evaluate.oracle import PIXELS, Bundled, bundled, load_oracle
from marmo.evaluate.resize import antialiased
from marmo.weights.fingerprint import file_hash


def oracle_space(which: Bundled | Path = "first") -> FeatureSpace:
    """The space of a bundled oracle, or of one in a file."""
    judge = load_oracle(which)
    width = judge.features(torch.zeros(1, 3, PIXELS, PIXELS)).shape[1]
    sha256 = file_hash(which if isinstance(which, Path) else bundled(which))
    return FeatureSpace(
        Space(network="marmo-oracle", sha256=sha256, resize=f"torch {PIXELS}", width=width), _fit, judge.features
    )


def _fit(picture: Tensor) -> Tensor:
    """uint8 3 H W -> 3 128 128, 0 to 255."""
    return antialiased(picture, PIXELS).clamp(0, 255)
