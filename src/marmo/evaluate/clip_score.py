"""Do pictures belong to their prompts?  Cosines of a CLIP: CLIP score, retrieval, R-precision.

    encoder = open_clip(Path("clip-vit-base-patch16"))
    pairs = encode_pairs(encoder, open_pictures(Path("out")))
    print(clip_score(pairs))                    # 2.5 max(cos, 0), Hessel et al. 2021
    print(retrieval(pairs))                     # R@1, R@5, both ways

Hessel et al. 2021 (https://arxiv.org/abs/2104.08718), equation 1, for the score; Xu et al. 2018
(https://arxiv.org/abs/1711.10485), section 4.1, for R-precision.  A cosine of one CLIP says nothing beside one of
another, so every number keeps its space.

Shapes: N pairs, T texts, D width of the space.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from marmo.evaluate.encoders import encoder_of, filled
from marmo.evaluate.features import BATCH, FeatureSpace, Measured, Space
from marmo.evaluate.pictures import Picture
from marmo.evaluate.resize import RuleName
from marmo.evaluate.statistics import Estimate, cluster_numbers, mean, share
from marmo.models.clip import Clip, ClipConfig
from marmo.nn.device import choose_device
from marmo.text.bpe import ClipTokenizer, clip_tokenizer
from marmo.text.prompt import tokenize
from marmo.weights.checkpoint import open_checkpoint

WEIGHT = 2.5
"""Stretches CLIP's cosines, which rarely exceed 0.4, over [0, 1]; Hessel et al. 2021, section 3."""
NUM_FALSE = 99
"""Other prompts among which a picture's own must be nearest for R-precision; Xu et al. 2018."""


class ClipEncoder:
    """Both towers of a CLIP, with the tokenizer that it was trained with."""

    def __init__(self, pictures: FeatureSpace, clip: Clip, tokenizer: ClipTokenizer) -> None:
        self.pictures, self.clip, self.tokenizer = pictures, clip, tokenizer

    @property
    def space(self) -> Space:
        return self.pictures.identity

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> T D of length 1, float32, on the CPU; what is longer than the text tower's context is cut off."""
        length = self.clip.config.text.context_length
        ids = torch.tensor([tokenize(text, self.tokenizer, length).ids for text in texts])
        return self.clip.encode_text(ids.to(self.pictures.device)).float().cpu()

    def num_cut(self, texts: Iterable[str]) -> int:
        """How many of the texts are longer than the context."""
        length = self.clip.config.text.context_length
        return sum(bool(tokenize(text, self.tokenizer, length).ignored) for text in texts)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pictures and their prompts as vectors of length 1: row i of one belongs to row i of the other."""

    space: Space
    pictures: Tensor
    """N D"""
    texts: Tensor
    """N D"""
    prompts: tuple[str, ...]
    prefix: str = ""
    """What stood before every prompt."""

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def cosines(self) -> Tensor:
        """Of each picture with its own prompt, N."""
        return (self.pictures * self.texts).sum(dim=1)

    @property
    def groups(self) -> Tensor:
        """Equal prompts have equal numbers, N; their pictures are no independent values."""
        return cluster_numbers(self.prompts)


@dataclass(frozen=True)
class Recall:
    """How often the right one is among the nearest few, both ways."""

    k: int
    text_of_picture: Estimate
    picture_of_text: Estimate

    def __str__(self) -> str:
        return f"R@{self.k} text of picture {self.text_of_picture}, picture of text {self.picture_of_text}"


@dataclass(frozen=True)
class Recalls:
    """For several k."""

    parts: tuple[Recall, ...]

    def __str__(self) -> str:
        return "; ".join(map(str, self.parts))


def open_clip(path: Path, rule: RuleName | None = None, device: str | None = None) -> ClipEncoder:
    """The CLIP at a path, with the tokenizer that lies beside it, else OpenAI's.

    Raises `ValueError` for what is no whole CLIP, or has another vocabulary than its tokenizer.
    """
    checkpoint, place = open_checkpoint(path), choose_device(device)
    part = checkpoint.parts.get("clip")
    if part is None or not isinstance(part.config, ClipConfig):
        raise ValueError(f"{path} holds {' and '.join(checkpoint.parts)}; scores need a whole CLIP, both towers")
    tokenizer = _tokenizer(path)
    if part.config.text.vocab_size != tokenizer.vocab_size:
        raise ValueError(
            f"{path}: the text tower knows {part.config.text.vocab_size} tokens, and the tokenizer has "
            f"{tokenizer.vocab_size}; its own must lie in the folder"
        )
    encoder = encoder_of(part.config, rule, None)
    assert encoder is not None and isinstance(encoder.module, Clip)
    return ClipEncoder(filled(encoder, checkpoint, part, place), encoder.module, tokenizer)


def encode_pairs(encoder: ClipEncoder, pictures: Iterable[Picture], batch_size: int = BATCH, prefix: str = "") -> Pairs:
    """Pictures that have a prompt, in their order; `ValueError` where none has one.

    Args:
        prefix: before every prompt; Hessel et al. put "A photo depicts " there.
    """
    prompts: list[str] = []
    vectors: list[Tensor] = []
    source = (picture for picture in pictures if picture.prompt)
    while batch := list(islice(source, batch_size)):
        vectors.append(encoder.pictures([picture.pixels for picture in batch]))
        prompts += [picture.prompt for picture in batch if picture.prompt]
    if not prompts:
        raise ValueError("no picture has a prompt: neither beside it nor inside it")
    whole = [prefix + prompt for prompt in prompts]
    texts = [encoder.texts(whole[start : start + batch_size]) for start in range(0, len(whole), batch_size)]
    return Pairs(encoder.space, torch.cat(vectors), torch.cat(texts), tuple(prompts), prefix)


def clip_score(pairs: Pairs, seed: int = 0) -> Measured[Estimate]:
    """The mean of 2.5 max(cos, 0), from 0 to 2.5; Hessel et al. 2021, equation 1.  `seed` is the interval's."""
    return _mean("CLIP score", pairs, WEIGHT * pairs.cosines.clamp(min=0), seed)


def clip_cosine(pairs: Pairs, seed: int = 0) -> Measured[Estimate]:
    """100 times the mean cosine: what torchmetrics and the tables of most papers call CLIP score."""
    return _mean("CLIP cosine x 100", pairs, 100 * pairs.cosines, seed)


def retrieval(pairs: Pairs, ks: Sequence[int] = (1, 5)) -> Measured[Recalls]:
    """R@k among all N pairs, both ways.

    Pictures of one prompt share it: any of them is right for the text.  Where the right one is as near as a wrong one,
    as in a tower that has collapsed, it comes last.
    """
    cosines, groups = pairs.pictures @ pairs.texts.T, pairs.groups  # N N, N
    right = groups[:, None] == groups[None, :]  # N N
    ranks = _ranks(cosines, right), _ranks(cosines.T, right)
    recalls = [Recall(k, *(share((rank < k).double(), groups) for rank in ranks)) for k in ks]
    return Measured(_asked("retrieval", pairs), Recalls(tuple(recalls)), pairs.space, len(pairs))


def r_precision(pairs: Pairs, num_false: int = NUM_FALSE, seed: int = 0) -> Measured[Estimate]:
    """How often a picture's own prompt is nearer than each of `num_false` others, drawn for each picture."""
    own = pairs.groups  # N
    num_texts = int(own.max()) + 1
    if num_texts <= num_false:
        raise ValueError(f"R-precision with {num_false} others needs more than {num_texts} different prompts")
    texts = pairs.texts.new_empty(num_texts, pairs.texts.shape[1]).index_copy(0, own, pairs.texts)  # T D
    draw = torch.Generator().manual_seed(seed)
    chance = torch.rand(len(pairs), num_texts, generator=draw).scatter(1, own[:, None], 2.0)  # its own is never drawn
    others = chance.argsort(dim=1)[:, :num_false]  # N F
    cosines = pairs.pictures @ texts.T  # N T
    hits = cosines.gather(1, others).amax(dim=1) < pairs.cosines
    metric = _asked(f"R-precision among {num_false + 1}", pairs)
    return Measured(metric, share(hits.double(), own), pairs.space, len(pairs), seed=seed)


def _ranks(cosines: Tensor, right: Tensor) -> Tensor:
    """For every row how many wrong columns are at least as near as the nearest right one.  N N -> N."""
    best = cosines.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    return ((cosines >= best) & ~right).sum(dim=1)


def _mean(metric: str, pairs: Pairs, values: Tensor, seed: int) -> Measured[Estimate]:
    estimate = mean(values, pairs.groups, seed=seed)
    return Measured(_asked(metric, pairs), estimate, pairs.space, len(pairs), seed=seed)


def _asked(metric: str, pairs: Pairs) -> str:
    return f'{metric} with "{pairs.prefix}"' if pairs.prefix else metric


def _tokenizer(path: Path) -> ClipTokenizer:
    for folder in (path, path / "tokenizer"):
        if any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json")):
            return ClipTokenizer.from_folder(folder)
    return clip_tokenizer()
