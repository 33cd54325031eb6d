"""Prompts to the fixed number of ids that a CLIP text encoder takes: start, text, end, padding."""

from dataclasses import dataclass

from marmo.text.bpe import ClipTokenizer


@dataclass(frozen=True)
class Chunk:
    """As much of a prompt as a text encoder reads at once, without start, end and padding."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]  # one per id; 1.0 is plain


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt as a text encoder reads it, and the part that it never sees."""

    ids: tuple[int, ...]
    num_tokens: int  # ids that stand for text: without start, end and padding
    ignored: str  # the end of the prompt, from the first character that did not wholly fit; empty when all did


def tokenize(prompt: str, tokenizer: ClipTokenizer, length: int = 77) -> TokenizedPrompt:
    """Cuts or pads `prompt` to `length` ids; CLIP was trained with 77, of which 75 are text."""
    if length < 2:
        raise ValueError(f"length must be at least 2, for start and end, got {length}")
    ids = tokenizer.encode(prompt)
    room = length - 2
    kept = ids[:room]
    padding = [tokenizer.pad] * (room - len(kept))
    ignored = prompt[tokenizer.spans(prompt)[room][0] :] if len(ids) > room else ""
    return TokenizedPrompt((tokenizer.start, *kept, tokenizer.end, *padding), len(kept), ignored)
