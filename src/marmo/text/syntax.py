"""The languages that prompts are written in, each as four functions from text to tokens.

    parts      the prompts between the ANDs, with their weights
    plan       what a part says at each step
    sections   how much of each of its words
    chunks     the tokens that a text encoder reads at once

docs/prompts.md says what each syntax means and where the programs differ.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from marmo.text import chunks as cutting
from marmo.text.bpe import ClipTokenizer
from marmo.text.comfyui import comfyui_sections
from marmo.text.composition import Part, a1111_parts, default_parts, whole
from marmo.text.plan import Plan, a1111_plan, default_plan, fixed_plan
from marmo.text.prompt import Chunk
from marmo.text.weights import Sections, Segment, a1111_sections, default_sections, plain_sections

SyntaxName = Literal["marmo", "a1111", "comfyui", "plain"]

MAX_MARKS = 5_000
MAX_WEIGHT = 100.0
MAX_PARTS = 32
MAX_CHUNKS = 32
MARKS = (*"()[]:|\\（）［］：｜", "AND", "BREAK")
# Neither reads a character twice.
NETWORK = re.compile(r"<(lora|lyco|hypernet):([^<>]*+)>")
EMBEDDING = re.compile(r"(embedding):([^\s,:()\[\]<>]++)")
KINDS = {"lora": "LoRA", "lyco": "LoRA", "hypernet": "hypernetwork", "embedding": "embedding"}


@dataclass(frozen=True)
class Syntax:
    """What the marks in a prompt mean."""

    parts: Callable[[str], tuple[Part, ...]]
    plan: Callable[[str], Plan]
    sections: Callable[[str], Sections]
    chunks: Callable[[Sections, ClipTokenizer, int], list[Chunk]]


PLAIN = Syntax(whole, fixed_plan, plain_sections, cutting.default_chunks)
SYNTAXES: Mapping[SyntaxName, Syntax] = {
    "marmo": Syntax(default_parts, default_plan, default_sections, cutting.default_chunks),
    "a1111": Syntax(a1111_parts, a1111_plan, a1111_sections, cutting.a1111_chunks),
    "comfyui": Syntax(whole, fixed_plan, comfyui_sections, cutting.comfyui_chunks),
    "plain": PLAIN,
}


@dataclass(frozen=True, eq=False)
class PlannedPart:
    """A prompt between ANDs, read."""

    plan: Plan
    weight: float


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt, read as far as it can be without a tokenizer."""

    parts: tuple[PlannedPart, ...]
    syntax: Syntax
    notes: tuple[str, ...]
    """What the user should know"""

    def chunks(self, text: str, tokenizer: ClipTokenizer, length: int) -> tuple[list[Chunk], str]:
        """What one of the plans says as chunks of at most `length` tokens with start and end, and what is left out."""
        sections = self.syntax.sections(text)
        _check_weights(chain.from_iterable(sections))
        chunks = self.syntax.chunks(sections, tokenizer, length - 2)
        ignored = [token for chunk in chunks[MAX_CHUNKS:] for token in chunk.ids]
        return chunks[:MAX_CHUNKS], tokenizer.decode(ignored)


def read_prompt(prompt: str, name: SyntaxName, negative: bool = False) -> Prompt:
    """Reads a prompt; `ValueError`, naming it, for an adapter inside and for a weight beyond 100.

    Args:
        negative: it says what the picture shall keep away from.  AND is a word in it, as in A1111.
    """
    syntax, notes = SYNTAXES[name], list[str]()
    if name != "plain":
        _refuse_adapters(prompt)
        if sum(map(prompt.count, MARKS)) > MAX_MARKS:
            syntax = PLAIN
            notes.append(f"a prompt holds more than {MAX_MARKS} brackets and other marks; it was read as plain text")
    parts = syntax.parts(prompt)
    if negative and len(parts) > 1:
        notes.append("AND joins prompts only; in the negative prompt it was read as a word")
    parts = whole(prompt) if negative else parts
    if len(parts) > MAX_PARTS:
        raise ValueError(f"the prompt joins {len(parts)} prompts by AND; at most {MAX_PARTS} are painted together")
    _check_weights(Segment(part.text, part.weight) for part in parts)
    planned = tuple(PlannedPart(syntax.plan(part.text), part.weight) for part in parts)
    notes += [note for part in planned for note in _late_changes(part.plan)]
    return Prompt(planned, syntax, tuple(notes))


def _refuse_adapters(prompt: str) -> None:
    found = NETWORK.search(prompt) or EMBEDDING.search(prompt)
    if found is not None:
        kind, name = KINDS[found[1]], found[2].split(":")[0]
        raise ValueError(
            f"the prompt asks for the {kind} {name!r:.100}, and adapters are not read yet; take {found[0]!r:.100} out"
        )


def _check_weights(segments: Iterable[Segment]) -> None:
    for text, weight in segments:
        if not abs(weight) <= MAX_WEIGHT:
            raise ValueError(
                f"the weight {weight:g} of {text.strip()!r:.60} in the prompt is too large; "
                f"weights lie between -{MAX_WEIGHT:g} and {MAX_WEIGHT:g}"
            )


def _late_changes(plan: Plan) -> Sequence[str]:
    """`[word:1.1]` is often meant as a weight."""
    late = {change.when for change in plan.changes if change.is_share and change.when >= 1}
    return [
        f"[...:{when:g}] changes the prompt after the last step, so never; for a weight write (...:{when:g})"
        for when in sorted(late)
    ]
