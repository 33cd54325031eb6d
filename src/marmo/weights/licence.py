"""What a checkpoint says of its licence: in a single file's metadata, or at the head of a folder's model card.

Keys: `modelspec.license` (Stability-AI/ModelSpec), `license`; a card is a README.md that begins with YAML between two
lines of `---`, as the Hugging Face hub reads it (`license`, or `license_name` where that is `other`).
"""

import re
from pathlib import Path

from marmo.weights.checkpoint import Checkpoint

KEYS = ("modelspec.license", "license", "licence")
MAX_CARD = 1 << 16  # bytes; the head of a card has a few hundred
MAX_LICENCE = 200  # characters

_LINE = re.compile(r"""(license|license_name)\s*:\s*["']?([^"'#\n]*[^"'#\s])""")


def licence_of(checkpoint: Checkpoint) -> str | None:
    """A short name such as `creativeml-openrail-m`, or what the file says instead; none if it says nothing."""
    said = next((checkpoint.metadata[key] for key in KEYS if checkpoint.metadata.get(key, "").strip()), None)
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    if said is None and (checkpoint.path.is_dir() or folder.parent.name == "snapshots"):
        said = licence_of_card(folder / "README.md")  # which of a single file speaks in the hub's cache alone
    return " ".join(said.split())[:MAX_LICENCE] if said else None


def licence_of_card(path: Path) -> str | None:
    """The licence in the head of a model card."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CARD).decode(errors="replace")
    except OSError:
        return None
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    head = lines[1 : next((index for index, line in enumerate(lines[1:], 1) if line.strip() == "---"), 1)]
    said = {match[1]: match[2] for match in map(_LINE.match, head) if match}
    return said.get("license_name", "other") if said.get("license") == "other" else said.get("license")
