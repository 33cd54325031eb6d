"""A grid as one HTML file that needs nothing else: every picture at its full size, with what it says about itself."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from marmo.files.infotext import infotext
from marmo.files.pictures import read_record

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 0; }
h1 { font-size: 1.1rem; margin: 1rem; max-width: 70rem; overflow-wrap: anywhere; }
.grid { overflow: auto; max-height: calc(100vh - 5rem); }
table { border-spacing: 6px; }
thead th { position: sticky; top: 0; z-index: 2; }
tbody th { position: sticky; left: 0; z-index: 1; text-align: left; }
th { background: Canvas; max-width: 16rem; overflow-wrap: anywhere; padding: 4px 8px; }
td { vertical-align: top; }
img { display: block; }
details { width: 0; min-width: 100%; }
summary { cursor: pointer; color: GrayText; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; margin: 4px 0; }
</style>
</head>
<body>
<h1>$title</h1>
<div class="grid" tabindex="0">
<table>
$head
<tbody>
$body
</tbody>
</table>
</div>
</body>
</html>
""")


def page(title: str, pictures: Sequence[Sequence[Path]], columns: Sequence[str], rows: Sequence[str]) -> str:
    """The whole file.

    Args:
        pictures: the files, row by row.
        columns, rows: labels, each empty where there is no such axis.
    """
    head = "".join(f'<th scope="col">{escape(label)}</th>' for label in columns)
    body = "\n".join(_row(label, row) for label, row in zip(rows, pictures, strict=True))
    return PAGE.substitute(title=escape(title), head=f"<thead><tr><td></td>{head}</tr></thead>", body=body)


def _row(label: str, pictures: Sequence[Path]) -> str:
    return f'<tr><th scope="row">{escape(label)}</th>{"".join(map(_cell, pictures))}</tr>'


def _cell(path: Path) -> str:
    record = read_record(path)
    data = base64.b64encode(path.read_bytes()).decode()
    words = escape(record.request.prompt, quote=True)
    image = f'<img src="data:image/png;base64,{data}" alt="{words}">'
    text = f"<summary>seed {record.seed}</summary><pre>{escape(infotext(record))}</pre>"
    return f"<td>{image}<details>{text}</details></td>"
