"""From the prompts of a request to guidance: what each step's rows are told, and with which weights.

A prompt may be several prompts joined by AND, and each may say something else at every step (docs/prompts.md).  Each
distinct text is encoded once.

Shapes: T' tokens of all chunks of a text, D width of the text encoders, P width of the pooled text.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Generic, TypeVar

import torch
from torch import Tensor

from marmo.diffusion.denoiser import Parametrisation
from marmo.diffusion.guidance import BothWays, ClassifierFree, Composed, Guidance, Timed, Unguided, Weight
from marmo.diffusion.samplers import CFG_PP
from marmo.pipelines.regions import Shares
from marmo.pipelines.text_encoders import Encoded
from marmo.request import ImageRequest, SyntaxName
from marmo.text.bpe import ClipTokenizer
from marmo.text.emphasis import Emphasis, Restored, interpolated
from marmo.text.plan import Plan
from marmo.text.prompt import Chunk
from marmo.text.syntax import Prompt, read_prompt

Condition = TypeVar("Condition")

MAX_CHUNKS_IN_ALL = 512
"""Of everything that a prompt says at its different steps."""
MAX_CONDITIONS = 16
"""Kept ready for the U-Net: they are much larger than the states of a text."""

TWO_ANSWERS = frozenset({"heun", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "restart"})
"""Samplers that ask twice in a step.  A1111 counts their answers as steps."""

EMPHASES: Mapping[SyntaxName, Emphasis] = {"marmo": interpolated, "comfyui": interpolated, "plain": interpolated}


@dataclass(frozen=True)
class Clock:
    """Which step of the prompt syntax a question belongs to, from 1 to `total`.

    Ours counts the steps that are painted.  A1111's counts answers of the U-Net, from 0, where the first two are both
    its step 1, and image-to-image counts them among all steps of the request
    (`modules/sd_samplers_cfg_denoiser.py` and `StableDiffusionProcessing.setup_conds`).
    """

    total: int
    sigmas: Sequence[float]
    answers: int = 0
    """Of the U-Net in a step; 0 to count steps"""
    past: int = 0
    """What an earlier pass has counted"""

    @classmethod
    def of(cls, request: ImageRequest, sigmas: Tensor, past: int = 0) -> "Clock":
        """The clock of a resolved request that walks down these noise levels, after a pass of so many steps."""
        levels = [float(sigma) for sigma in sigmas]
        if request.prompt_syntax != "a1111":
            return cls(len(levels) - 1, levels, past=past)
        assert request.steps is not None, "the request is not resolved"
        answers = 2 if request.sampler in TWO_ANSWERS else 1
        return cls(request.steps * answers, levels, answers, past * answers)

    def step(self, index: int, sigma: float) -> int:
        if not self.answers:
            return min(index + 1, self.total)
        is_second = self.answers == 2 and sigma != self.sigmas[min(index, len(self.sigmas) - 1)]
        return min(max(self.answers * index + is_second, 1), self.total)


@dataclass(frozen=True, eq=False)
class Text:
    """One thing that a prompt says, encoded."""

    encoded: Encoded
    """States 1 T' D; pooled 1 P, of its first chunk"""
    is_negative: bool
    is_empty: bool


@dataclass(frozen=True, eq=False)
class Line:
    """A prompt between ANDs, with all that it says."""

    plan: Plan
    weight: float
    texts: Mapping[str, Text]
    area: Tensor | None = None
    """What of every place it decides, 1 1 H W; None is all of it"""

    def at(self, clock: Clock, index: int, sigma: float) -> Text:
        if len(self.texts) == 1:
            return next(iter(self.texts.values()))
        return self.texts[self.plan.at(clock.step(index, sigma), clock.total, clock.past)]

    @property
    def pull(self) -> Weight:
        """Its weight at every place."""
        return self.weight if self.area is None else self.weight * self.area


@dataclass(frozen=True)
class Conditioning(Generic[Condition]):
    """Makes the guidance of one resolved request.

    Args:
        length: tokens of a chunk, with its start and end.
        encode: reads chunks with the text encoders, under an emphasis.
        condition: what the U-Net is told of a text.
        blind: the same without the picture, for models that edit by instruction.
        shares: what the prompt and each region's decide of every place.
    """

    request: ImageRequest
    clock: Clock
    tokenizer: ClipTokenizer
    length: int
    encode: Callable[[Sequence[Chunk], Emphasis], Encoded]
    condition: Callable[[Text], Condition]
    blind: Callable[[Condition], Condition]
    shares: Shares | None = None

    def guidance(self, parametrisation: Parametrisation) -> tuple[Guidance[Condition], tuple[str, ...]]:
        """The guidance, and what the user should know of the prompts, in a sentence each."""
        request, notes = self.request, list[str]()
        assert request.guidance_scale is not None, "the request is not resolved"
        lines = self._conds(notes)
        is_plain = _is_plain(lines) and request.image_guidance_scale in (None, 1)
        if is_plain and request.guidance_scale == 1 and request.sampler not in CFG_PP:
            uncond = None
        else:
            (uncond,) = self._lines(request.negative_prompt or "", notes, negative=True)
        condition = lru_cache(maxsize=MAX_CONDITIONS)(self.condition)
        guide = Guide(self.clock, lines, uncond, condition, self.blind, request, parametrisation)
        changes = any(len(line.texts) > 1 for line in (*lines, *([uncond] if uncond else [])))
        return (Timed(guide.at) if changes else guide.at(0, 0.0)), tuple(notes)

    def _conds(self, notes: list[str]) -> Sequence[Line]:
        """What the picture shall show: its own prompt, and in its regions theirs."""
        lines = self._lines(self.request.prompt, notes)
        if self.shares is None:
            return lines
        texts = [lines, *(self._lines(region.prompt, notes) for region in self.request.regions)]
        areas = [self.shares.rest, *self.shares.regions]
        return [
            replace(line, area=area)
            for area, lines in zip(areas, texts, strict=True)
            for line in lines
            if bool(area.any())
        ]

    def _lines(self, text: str, notes: list[str], negative: bool = False) -> Sequence[Line]:
        prompt = read_prompt(text, self.request.prompt_syntax, negative)
        notes += prompt.notes
        lines = [Line(part.plan, part.weight, self._texts(prompt, part.plan, notes, negative)) for part in prompt.parts]
        return _even(lines) if self.request.prompt_syntax == "a1111" else lines

    def _texts(self, prompt: Prompt, plan: Plan, notes: list[str], negative: bool) -> Mapping[str, Text]:
        """Everything that a plan says, by what it says."""
        total, past = self.clock.total, self.clock.past
        said = [plan.at(step, total, past) for step in plan.ends(total, past)]
        chunks: dict[str, list[Chunk]] = {}
        for text in dict.fromkeys(said):
            chunks[text], ignored = prompt.chunks(text, self.tokenizer, self.length)
            if ignored:
                num_tokens = sum(len(chunk.ids) for chunk in chunks[text])
                notes.append(f"the model reads {num_tokens} tokens of a prompt; it did not see: {_short(ignored)}")
        self._check_size(chunks)
        if self.request.prompt_syntax == "a1111":
            encoded = self._encode_together(chunks, [said.count(text) for text in chunks])
        else:
            emphasis = EMPHASES[self.request.prompt_syntax]
            encoded = [self.encode(text, emphasis) for text in chunks.values()]
        return {
            text: Text(_first_pooled(read), negative, is_empty=not any(chunk.ids for chunk in chunks[text]))
            for text, read in zip(chunks, encoded, strict=True)
        }

    def _encode_together(self, chunks: Mapping[str, Sequence[Chunk]], counts: Sequence[int]) -> Sequence[Encoded]:
        """As A1111: what a prompt says at its different steps is one batch, and shorter texts get empty chunks."""
        most = max(map(len, chunks.values()))
        even = [chunk for text in chunks.values() for chunk in (*text, *[Chunk((), ())] * (most - len(text)))]
        states, pooled = self.encode(even, Restored(tuple(counts)))
        texts = torch.chunk(states, len(chunks), dim=1)
        return [
            Encoded(text, None if pooled is None else pooled[index * most :][:1]) for index, text in enumerate(texts)
        ]

    def _check_size(self, chunks: Mapping[str, Sequence[Chunk]]) -> None:
        if sum(map(len, chunks.values())) > MAX_CHUNKS_IN_ALL:
            raise ValueError(
                f"the prompt says {len(chunks)} different things on its way; together they may be at most "
                f"{MAX_CHUNKS_IN_ALL * (self.length - 2)} tokens long"
            )


@dataclass(frozen=True, eq=False)
class Guide(Generic[Condition]):
    """The guidance of every step."""

    clock: Clock
    lines: Sequence[Line]
    uncond: Line | None
    condition: Callable[[Text], Condition]
    blind: Callable[[Condition], Condition]
    request: ImageRequest
    parametrisation: Parametrisation

    def at(self, index: int, sigma: float) -> Guidance[Condition]:
        """The guidance at a step of the walk, counted from 0."""
        conds = [self.condition(line.at(self.clock, index, sigma)) for line in self.lines]
        if self.uncond is None:
            return Unguided(conds[0])
        uncond = self.condition(self.uncond.at(self.clock, index, sigma))
        guidance = self._by_words(conds, uncond)
        scale = self.request.image_guidance_scale
        return guidance if scale in (None, 1) else BothWays(guidance, uncond, self.blind(uncond), scale)

    def _by_words(self, conds: Sequence[Condition], uncond: Condition) -> Guidance[Condition]:
        limits, scale = self.request.guidance.limits, self.request.guidance_scale
        assert scale is not None, "the request is not resolved"
        if _is_plain(self.lines):
            return ClassifierFree(conds[0], uncond, scale, self.parametrisation, *limits)
        weights = [line.pull for line in self.lines]
        return Composed(conds, weights, uncond, scale, self.parametrisation, *limits, self.request.sampler in CFG_PP)


def _is_plain(lines: Sequence[Line]) -> bool:
    """Whether one prompt decides all."""
    return len(lines) == 1 and lines[0].area is None and lines[0].weight == 1


def _even(lines: Sequence[Line]) -> Sequence[Line]:
    """As A1111, which stacks the parts of a prompt: all as long as the longest, by their last state."""
    longest = max(text.encoded.states.shape[1] for line in lines for text in line.texts.values())
    return [
        replace(line, texts={said: _lengthened(text, longest) for said, text in line.texts.items()}) for line in lines
    ]


def _lengthened(text: Text, length: int) -> Text:
    states, pooled = text.encoded
    last = states[:, -1:].expand(-1, length - states.shape[1], -1)
    return Text(Encoded(torch.cat([states, last], dim=1), pooled), text.is_negative, text.is_empty)


def _first_pooled(encoded: Encoded) -> Encoded:
    return Encoded(encoded.states, None if encoded.pooled is None else encoded.pooled[:1])


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."
