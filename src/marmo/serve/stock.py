"""The models of a worker: what there is, what is open, and what is loaded, under a limit on memory.

Every model is named by its id; where it lies, nobody outside learns.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from marmo import catalog
from marmo.pipelines.card import LatentCard
from marmo.pipelines.latent import LatentDiffusion
from marmo.pipelines.text_encoders import Encoded
from marmo.request import ImageRequest, Prediction
from marmo.serve.caches import Cache
from marmo.serve.contract import Model
from marmo.weights.checkpoint import open_checkpoint
