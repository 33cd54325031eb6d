"""The NOTICE of the corpus, written from its manifest."""

from collections.abc import Mapping
from pathlib import Path

from marmo.data.assets.sources import SOURCES, Source

RULE = "-" * 80

MIT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""

UNICODE = """\
UNICODE LICENSE V3

Permission is hereby granted, free of charge, to any person obtaining a copy of data files and any associated
documentation (the "Data Files") or software and any associated documentation (the "Software") to deal in the Data
Files or Software without restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, and/or sell copies of the Data Files or Software, and to permit persons to whom the Data Files or Software
are furnished to do so, provided that either (a) this copyright and permission notice appear with all copies of the
Data Files or Software, or (b) this copyright and permission notice appear in associated Documentation.

THE DATA FILES AND SOFTWARE ARE PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT
LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT OF THIRD PARTY
RIGHTS.

IN NO EVENT SHALL THE COPYRIGHT HOLDER OR HOLDERS INCLUDED IN THIS NOTICE BE LIABLE FOR ANY CLAIM, OR ANY SPECIAL
INDIRECT OR CONSEQUENTIAL DAMAGES, OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN
ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF
THE DATA FILES OR SOFTWARE.

Except as contained in this notice, the name of a copyright holder shall not be used in advertising or otherwise to
promote the sale, use or other dealings in these Data Files or Software without prior written authorization of the
copyright holder."""

TERMS = {
    "MIT": MIT,
    "Unicode-3.0": UNICODE,
    "Apache-2.0": "Licensed under the Apache License, Version 2.0; its text is the file LICENSE of this repository.",
    "CC-BY-4.0": "Licensed under Creative Commons Attribution 4.0 International:\nhttps://creativecommons.org/licenses/by/4.0/",
}

CHANGES = (
    "Changes: a selection of the drawings, taken from the iconify package; Marmo's scenes crop, resize, turn, mirror, "
    "recolour\nand combine them. Their authors endorse neither the pictures nor what is learned from them."
)

HEAD = """\
Marmo's scene corpus
Files: src/marmo/data/corpus/

The pictures that Marmo draws for training, and the names in their captions, are made from the works below. This file
is written by `python -m marmo.data.assets`; the same list stands in concepts.json.gz."""


def notice(counts: Mapping[str, int]) -> str:
    """The whole file; `counts` says how many items of each package the corpus holds."""
    parts = [HEAD, *(_section(source, counts[source.package]) for source in SOURCES)]
    return f"\n\n{RULE}\n".join(parts) + "\n"


def notice_path() -> Path:
    """Beside the package's data."""
    return Path(__file__).parents[1] / "NOTICE"


def _section(source: Source, count: int) -> str:
    lines = [
        f"{source.what}: {count}",
        f"Author: {source.author}",
        f"Origin: {source.origin}, as distributed in {source.package} {source.version}",
        f"Licence: {source.licence}",
        *([CHANGES] if source.style else []),
        "",
        source.copyright,
        "",
        TERMS[source.licence],
    ]
    return "\n".join(lines)
