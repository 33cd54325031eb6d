"""201 prompts, read as A1111 1.10 and ComfyUI (October 2025) read them.

`prompts.json.gz` was computed once with the functions that those programs publish (`modules/prompt_parser.py`,
`modules/sd_hijack_clip.py` and `modules/sd_emphasis.py` of A1111; `comfy/sd1_clip.py` of ComfyUI), over transformers'
CLIP tokenizer, 10 steps, and the encoder below.  It holds ids, weights in runs, and four numbers for the states.

Shapes: B chunks, T tokens of a chunk, W width.
"""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from marmo.text.bpe import ClipTokenizer
from marmo.text.emphasis import Emphasis, Restored, interpolated
from marmo.text.prompt import Chunk
from marmo.text.syntax import SYNTAXES, Syntax

STEPS, ROOM, WIDTH = 10, 75, 6
ROWS: list[dict[str, Any]] = json.loads(gzip.decompress(Path(__file__).with_name("prompts.json.gz").read_bytes()))
NAMES = [f"{index}-{row['prompt'][:30]!r}" for index, row in enumerate(ROWS)]
# Its brackets do not pair up: `((([:0.5)) and [[a:b:0.5]]:0.8)`.  A1111's grammar reads that in several ways, and its
# parser takes none of the changes for one.
AMBIGUOUS = 160
A1111_ROWS = [
    pytest.param(row, marks=pytest.mark.xfail(index == AMBIGUOUS, reason="ambiguous in A1111's grammar", strict=True))
    for index, row in enumerate(ROWS)
]


@pytest.mark.long
@pytest.mark.parametrize("row", A1111_ROWS, ids=NAMES)
def test_a_prompt_is_read_as_by_a1111(row: dict[str, Any], tokenizer: ClipTokenizer) -> None:
    syntax = SYNTAXES["a1111"]
    parts = syntax.parts(row["prompt"])
    assert [weight for _, weight in parts] == [part["weight"] for part in row["a1111"]]
    for (text, _), expected in zip(parts, row["a1111"], strict=True):
        plan = syntax.plan(text)
        ends = plan.ends(STEPS)
        said = [plan.at(end, STEPS) for end in ends]
        assert (ends, said) == (expected["ends"], [expected["texts"][index] for index in expected["which"]])
        chunks = [_chunks(syntax, text, tokenizer) for text in expected["texts"]]
        assert [_packed(text) for text in chunks] == [_rounded(text) for text in expected["chunks"]]
        counts = [expected["which"].count(index) for index in range(len(chunks))]
        states = _encode(_even(chunks), Restored(tuple(counts))).reshape(len(chunks), -1, WIDTH)
        _same_numbers(states, expected["numbers"])


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_a_prompt_is_read_as_by_comfyui(row: dict[str, Any], tokenizer: ClipTokenizer) -> None:
    chunks = _chunks(SYNTAXES["comfyui"], row["prompt"], tokenizer)
    assert _packed(chunks) == _rounded(row["comfyui"]["chunks"])
    _same_numbers(_encode(chunks, interpolated).reshape(1, -1, WIDTH), [row["comfyui"]["numbers"]])


def _chunks(syntax: Syntax, text: str, tokenizer: ClipTokenizer) -> list[Chunk]:
    return syntax.chunks(syntax.sections(text), tokenizer, ROOM)


def _even(texts: Sequence[list[Chunk]]) -> list[Chunk]:
    """All texts with as many chunks as the longest."""
    most = max(map(len, texts))
    return [chunk for chunks in texts for chunk in [*chunks, *[Chunk((), ())] * (most - len(chunks))]]


def _packed(chunks: Sequence[Chunk]) -> list[tuple[list[int], list[float]]]:
    return [(list(chunk.ids), [round(weight, 9) for weight in chunk.weights]) for chunk in chunks]


def _rounded(chunks: Sequence[Any]) -> list[tuple[list[int], list[float]]]:
    """Weights stand in the file as runs: [[weight, how often], ...]."""
    return [(ids, [weight for weight, count in runs for _ in range(count)]) for ids, runs in chunks]


def _encode(chunks: Sequence[Chunk], emphasis: Emphasis) -> Tensor:
    """B T W."""
    ids = [[49406, *chunk.ids, *[49407] * (76 - len(chunk.ids))] for chunk in chunks]
    weights = [[1.0, *chunk.weights, *[1.0] * (76 - len(chunk.weights))] for chunk in chunks]
    empty = _encoder(torch.tensor([[49406, *[49407] * 76]]))
    return emphasis(_encoder(torch.tensor(ids)), torch.tensor(weights, dtype=torch.float64), empty)


def _encoder(ids: Tensor) -> Tensor:
    """Stands for CLIP: any function will do in which a state depends on its token, its place and what came before."""
    width = torch.arange(1, WIDTH + 1, dtype=torch.float64)
    place = torch.arange(1, ids.shape[1] + 1, dtype=torch.float64)[:, None]
    x = torch.sin(ids[..., None] * width * 0.37 + place * 0.11) + 0.4
    return x.cumsum(1) / place + 0.5 * x


def _same_numbers(states: Tensor, expected: Sequence[Sequence[float]]) -> None:
    """Four sums over the states of each text."""
    for text, numbers in zip(states.flatten(1), expected, strict=True):
        place = torch.arange(len(text), dtype=torch.float64)
        sums = [(text * torch.cos(place * k * 0.7 + k)).mean() for k in range(4)]
        assert torch.stack(sums).tolist() == pytest.approx(numbers, abs=1e-7)
