"""Styles: words around a prompt, under a name.  AUTOMATIC1111's styles.csv is read as it is, and a TOML of our own.

    name,prompt,negative_prompt                       [ink]
    ink,"ink drawing of {prompt}, black",photo        prompt = "ink drawing of {prompt}, black"
                                                      negative_prompt = "photo"

`{prompt}` is where the prompt goes; without it the style follows the prompt after a comma.
"""

import csv
import io
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from marmo.request import ImageRequest
from marmo.request_parts import Schema

MAX_FILE = 1 << 24  # bytes
PLACE = "{prompt}"


class Style(Schema):
    """What one name adds."""

    prompt: str = Field(default="", max_length=100_000)
    negative_prompt: str = Field(default="", max_length=100_000)


_STYLES = TypeAdapter(dict[str, Style])


def read_styles(files: Iterable[Path]) -> dict[str, Style]:
    """The styles of all files; of two of one name the first counts.  Raises `ValueError` for a broken file."""
    found: dict[str, Style] = {}
    for file in files:
        found = {**_read(file), **found}
    return found


def styled(request: ImageRequest, names: Sequence[str], styles: Mapping[str, Style]) -> ImageRequest:
    """The request with these styles around its prompts, the first one innermost."""
    prompt, negative = request.prompt, request.negative_prompt or ""
    for name in names:
        if name not in styles:
            near = get_close_matches(name, styles, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the files of styles hold {len(styles)} others"
            raise ValueError(f"there is no style {name!r}; {hint}")
        prompt = _around(styles[name].prompt, prompt)
        negative = _around(styles[name].negative_prompt, negative)
    return request.model_copy(update={"prompt": prompt, "negative_prompt": negative or request.negative_prompt})


def _around(style: str, prompt: str) -> str:
    if PLACE in style:
        return style.replace(PLACE, prompt)
    return ", ".join(part for part in (prompt.strip(), style.strip()) if part) if style.strip() else prompt


def _read(file: Path) -> dict[str, Style]:
    try:
        if file.stat().st_size > MAX_FILE:
            raise ValueError(f"it has more than {MAX_FILE} bytes")
        text = file.read_text(encoding="utf-8-sig")
        return _STYLES.validate_python(tomllib.loads(text)) if file.suffix == ".toml" else _csv(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from None
    except (ValueError, csv.Error, RecursionError) as error:
        raise ValueError(f"{file} holds no styles: {error}") from None


def _csv(text: str) -> dict[str, Style]:
    """A1111's columns; its first versions called the prompt `text`."""
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if "name" not in (rows.fieldnames or ()):
        raise ValueError("its first line does not name the columns name, prompt and negative_prompt")
    return {
        row["name"]: Style(
            prompt=row.get("prompt") or row.get("text") or "", negative_prompt=row.get("negative_prompt") or ""
        )
        for row in rows
        if row.get("name")
    }
