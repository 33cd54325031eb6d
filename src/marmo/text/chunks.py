"""Weighted segments to the chunks of tokens that a text encoder reads one by one.

CLIP reads 77 tokens, of which 75 are text.  Programs cut a longer prompt in different places:

    default   at the last comma or full stop among the last 20 tokens, otherwise between words
    A1111     at the last comma among the last 20 tokens, otherwise anywhere (`modules/sd_hijack_clip.py`, 1.10)
    ComfyUI   before a segment of fewer than 8 tokens that does not fit, otherwise anywhere (`comfy/sd1_clip.py`)
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import TypeAlias

from marmo.text.bpe import ClipTokenizer
from marmo.text.prompt import Chunk
from marmo.text.weights import Sections, Segment

BACKTRACK = 20  # tokens, A1111's `comma_padding_backtrack`
STOPS = (",", "，", "、", ".", "。", ";", "；")
WORD_LENGTH = 8  # tokens, ComfyUI's `max_word_length`

Tokens: TypeAlias = list[tuple[int, float]]
"""Ids with their weights."""

Place: TypeAlias = Callable[[Tokens, int], int]
"""(tokens, start) -> where the chunk from `start` on ends, if more follows than it holds."""


def default_chunks(sections: Sections, tokenizer: ClipTokenizer, room: int) -> list[Chunk]:
    """One chunk at least, of at most `room` tokens; every section begins a new one."""
    stops = frozenset(tokenizer.encode(stop)[-1] for stop in STOPS)

    def place(tokens: Tokens, start: int) -> int:
        near = range(start + room, start + max(room - BACKTRACK, 0), -1)
        behind_stop = (end for end in near if tokens[end - 1][0] in stops)
        behind_word = (end for end in near if _ends_word(tokenizer, tokens[end - 1][0]))
        return next(chain(behind_stop, behind_word), start + room)

    return _cut(sections, tokenizer, room, place)


def a1111_chunks(sections: Sections, tokenizer: ClipTokenizer, room: int) -> list[Chunk]:
    """One chunk at least, of at most `room` tokens; every section begins a new one."""
    (comma,) = tokenizer.encode(",")

    def place(tokens: Tokens, start: int) -> int:
        if tokens[start + room][0] == comma:
            return start + room
        near = range(start + room, start + max(room - BACKTRACK, 0), -1)
        return next((end for end in near if tokens[end - 1][0] == comma), start + room)

    return _cut(sections, tokenizer, room, place)


def comfyui_chunks(sections: Sections, tokenizer: ClipTokenizer, room: int) -> list[Chunk]:
    """One chunk at least, of at most `room` tokens."""
    chunks: list[Tokens] = [[]]
    for segment in chain.from_iterable(sections):
        tokens = _tokens(segment, tokenizer)
        if len(tokens) < WORD_LENGTH and len(chunks[-1]) + len(tokens) > room:
            chunks.append([])
        while len(chunks[-1]) + len(tokens) > room:
            free = room - len(chunks[-1])
            chunks[-1] += tokens[:free]
            tokens = tokens[free:]
            chunks.append([])
        chunks[-1] += tokens
    return [_chunk(tokens) for tokens in chunks]


def _cut(sections: Sections, tokenizer: ClipTokenizer, room: int, place: Place) -> list[Chunk]:
    """A last section without words adds no chunk, others without words an empty one, as in A1111."""
    chunks: list[Chunk] = []
    for section in sections:
        tokens = [token for segment in section for token in _tokens(segment, tokenizer)]
        start = 0
        while len(tokens) - start > room:
            end = place(tokens, start)
            chunks.append(_chunk(tokens[start:end]))
            start = end
        if tokens or section is not sections[-1] or not chunks:
            chunks.append(_chunk(tokens[start:]))
    return chunks


def _tokens(segment: Segment, tokenizer: ClipTokenizer) -> Tokens:
    return [(token, segment.weight) for token in tokenizer.encode(segment.text)]


def _chunk(tokens: Sequence[tuple[int, float]]) -> Chunk:
    return Chunk(tuple(token for token, _ in tokens), tuple(weight for _, weight in tokens))


def _ends_word(tokenizer: ClipTokenizer, token: int) -> bool:
    symbol = tokenizer.backend.id_to_token(token)
    return symbol is not None and symbol.endswith("</w>")
