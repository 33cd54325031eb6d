"""A file of prompts: one per line, or flags as for `marmo generate`, as A1111's script "Prompts from file" takes them.

a red fox in the snow
--prompt "a red fox" --steps 30 --guidance.rescale 0.7
# a comment
"""

import shlex
from pathlib import Path

MAX_FILE = 1 << 26  # bytes

THEIRS = {
    "cfg_scale": "guidance_scale",
    "sampler_name": "sampler",
    "batch_size": "num_images",
    "sd_model": "model",
    "subseed": "variation.seed",
    "subseed_strength": "variation.strength",
}
"""What A1111 calls a field -> ours."""


def read_prompts(path: Path) -> list[dict[str, object]]:
    """The fields that each line sets, as text; they are checked with the whole request.

    Raises `ValueError`, naming the line, for flags that cannot be told apart.
    """
    try:
        if path.stat().st_size > MAX_FILE:
            raise ValueError(f"{path} has more than {MAX_FILE} bytes, too many for a file of prompts")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8") from None
    found: list[dict[str, object]] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith("#"):
            try:
                found.append(_flags(text) if text.startswith("--") else {"prompt": text})
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
    if not found:
        raise ValueError(f"{path} holds no prompts")
    return found


def _flags(line: str) -> dict[str, object]:
    words = shlex.split(line)
    values: dict[str, object] = {}
    for flag, value in zip(words[::2], words[1::2], strict=False):
        if not flag.startswith("--"):
            raise ValueError(f"a flag begins with --, and {flag!r:.60} does not; put quotes around what has spaces")
        name = flag.removeprefix("--").replace("-", "_")
        put(values, THEIRS.get(name, name), value)
    if len(words) % 2:
        raise ValueError(f"{words[-1]!r:.60} has no value")
    return values


def put(values: dict[str, object], name: str, value: object) -> None:
    """Set a field, or with a dot a field of a field."""
    outer, dot, inner = name.partition(".")
    if not dot:
        values[outer] = value
        return
    nested = values.setdefault(outer, dict[str, object]())
    if not isinstance(nested, dict):
        raise ValueError(f"{outer} is set twice")
    nested[inner] = value
