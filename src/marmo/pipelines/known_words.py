"""What of a request's prompts a model has never read, for models whose list of concepts is known."""

from collections.abc import Iterator
from functools import lru_cache

from marmo.data.known_words import KnownWords, notes
from marmo.request import ImageRequest
from marmo.text.syntax import read_prompt

MAX_LETTERS = 2_000
"""Of a prompt that are looked at: a model with such a list reads fewer."""


def word_notes(concepts: tuple[str, ...], request: ImageRequest) -> tuple[str, ...]:
    """A sentence for each word of a resolved request that no caption about these concepts can say.

    None for a model that does not say what it knows.
    """
    if not concepts:
        return ()
    text = "\n".join(dict.fromkeys(_texts(request)))
    return notes(_words(concepts).unknown(text[:MAX_LETTERS]))


def _texts(request: ImageRequest) -> Iterator[str]:
    """Everything that its prompts say on their way, without weights and other marks."""
    steps = request.steps or 1
    for region in (request, *request.regions):
        yield from _said(region.prompt, request, steps)
    yield from _said(request.negative_prompt or "", request, steps, negative=True)


def _said(prompt: str, request: ImageRequest, steps: int, negative: bool = False) -> Iterator[str]:
    read = read_prompt(prompt, request.prompt_syntax, negative)
    for part in read.parts:
        for text in dict.fromkeys(part.plan.at(step, steps) for step in part.plan.ends(steps)):
            yield "\n".join("".join(segment.text for segment in section) for section in read.syntax.sections(text))


@lru_cache(maxsize=4)
def _words(concepts: tuple[str, ...]) -> KnownWords:
    return KnownWords(concepts)
