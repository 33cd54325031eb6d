"""The evaluator: a CLIP of its own that says how well a text fits a picture.

    evaluator = load_evaluator()                                       # the bundled one, or a path
    evaluator.fit(pictures, ["a red fox", "一只红色的狐狸"])             # cosines, one per picture and text

The bundled one (`marmo/pretrained/evaluator`) was trained on scenes from a seed of its own and from the split "all", so
it shares neither pictures nor held-out rules with any generator, and knows what a generator must not know.

Shapes: B pictures, N texts, E width of the space.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from marmo.models.clip import Clip, ClipConfig, preprocess
from marmo.nn.blueprint import blueprint
from marmo.text.bpe import ClipTokenizer
from marmo.text.prompt import tokenize
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.keymap import fill

BUNDLED = Path(__file__).parents[1] / "pretrained" / "evaluator"

BATCH = 256


@dataclass(frozen=True)
class Evaluator:
    """A whole CLIP and the tokenizer that it learned with."""

    clip: Clip
    tokenizer: ClipTokenizer

    @torch.no_grad()
    def look(self, pictures: Tensor) -> Tensor:
        """Pictures of any size, uint8 B 3 H W -> B E of length 1, on the evaluator's device."""
        size, device = self.clip.config.image.image_size, self.clip.logit_scale.device
        parts = (part.to(device).float() / 127.5 - 1 for part in torch.split(pictures, BATCH))
        return torch.cat([self.clip.encode_image(preprocess(part, size)) for part in parts])

    @torch.no_grad()
    def read(self, texts: Sequence[str]) -> Tensor:
        """-> N E of length 1."""
        length, device = self.clip.config.text.context_length, self.clip.logit_scale.device
        ids = torch.tensor([tokenize(text, self.tokenizer, length).ids for text in texts], device=device)
        return torch.cat([self.clip.encode_text(part) for part in torch.split(ids, BATCH)])

    def fit(self, pictures: Tensor, texts: Sequence[str]) -> Tensor:
        """Pictures B 3 H W, uint8 -> cosines B N, in [-1, 1]."""
        return self.look(pictures) @ self.read(texts).T


def load_evaluator(path: Path | None = None, device: torch.device | str = "cpu") -> Evaluator:
    """The CLIP at a path, in float32; the bundled one by default.

    Raises `ValueError` where there is no whole CLIP.
    """
    checkpoint = open_checkpoint(BUNDLED if path is None else path)
    part = checkpoint.parts.get("clip")
    if part is None or not isinstance(part.config, ClipConfig):
        raise ValueError(f"{checkpoint.path} holds no whole CLIP; an evaluator needs both towers")
    with blueprint():
        clip = Clip(part.config)
    fill(clip, part.tensors, torch.float32, torch.device(device))
    return Evaluator(clip, checkpoint.tokenizer("clip"))
