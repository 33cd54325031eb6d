"""The tables of a report, and how its numbers are written."""

from collections.abc import Mapping, Sequence
from html import escape

from marmo.evaluate.goals import Unit
from marmo.evaluate.scores import OVERALL
from marmo.evaluate.statistics import Estimate

PARTS: Mapping[str, tuple[str, str]] = {
    "seen": ("Seen", "prompts of scenes that training may draw"),
    "seen_style": ("Seen, style named", "single drawings whose style the prompt names"),
    "seen_count": ("Seen, five of a kind", "five drawings of one concept"),
    "heldout_style": ("Held-out styles", "concepts in a style in which training never drew them"),
    "heldout_colour": ("Held-out colours", "concepts in colours in which training never drew them"),
    "heldout_relation": ("Held-out pairs", "ordered pairs that training never drew"),
    "heldout_count": ("Held-out counts", "five of concepts that training never drew five times"),
    "heldout_language": ("Held-out Chinese colours", "concepts whose colours training named in English only"),
    "heldout_concept": ("Removed concepts", "concepts that training never drew nor named: this must fail"),
}
TAGS: Mapping[str, str] = {
    "single_object": "single object",
    "colors": "colours",
    "position": "position",
    "counting": "counting",
    OVERALL: "overall",
}
UNITS: Mapping[Unit, str] = {"share": "%"}
LANGUAGES: Mapping[str, str] = {"en": "English", "zh": "Chinese"}


def table(head: Sequence[str], rows: Sequence[str]) -> str:
    """Rows are HTML already."""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "\n".join(rows)
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def row(cells: Sequence[str], kind: str = "") -> str:
    """Cells are HTML already."""
    return f'<tr class="{kind}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def heading(name: str, note: str, columns: int) -> str:
    """A row that begins a part of the table."""
    return f'<tr class="part"><th colspan="{columns}">{escape(name)}<small>{escape(note)}</small></th></tr>'


def key(dots: Mapping[str, str], lines: Mapping[str, str] | None = None) -> str:
    """What colours mean: names by class, of intervals and bars and of single values."""
    dot = '<svg viewBox="0 0 12 12"><circle class="dot {0} {0}" cx="6" cy="6" r="4.5"/></svg>{1}'
    line = '<svg viewBox="0 0 12 12"><line class="{0}" x1="6" x2="6" y1="0" y2="12"/></svg>{1}'
    items = [dot.format(kind, escape(name)) for kind, name in dots.items()]
    items += [line.format(kind, escape(name)) for kind, name in (lines or {}).items()]
    return f'<ul class="key">{"".join(f"<li>{item}</li>" for item in items)}</ul>'


def share(estimate: Estimate | None) -> str:
    """In percent, with its interval."""
    if estimate is None:
        return ""
    low, high = percent(estimate.low), percent(estimate.high)
    return f"{percent(estimate.value)} % <small>{low} to {high}</small>"


def points(estimate: Estimate) -> str:
    """A difference of shares, with its interval."""
    return f"{signed(estimate.value)} <small>{signed(estimate.low)} to {signed(estimate.high)}</small>"


def measured(estimate: Estimate, unit: Unit) -> str:
    """In its unit, with its interval."""
    low, high = number(estimate.low, unit), number(estimate.high, unit)
    return f"{amount(estimate.value, unit)} <small>{low} to {high}</small>"


def amount(value: float, unit: Unit) -> str:
    """A number with its unit."""
    return f"{number(value, unit)} {UNITS.get(unit, unit)}"


def number(value: float, unit: Unit) -> str:
    """Shares in percent, and their differences in points."""
    return f"{100 * value:.1f}" if unit in ("share", "points") else f"{value:.2f}"


def percent(value: float) -> str:
    """Whole percents, without the sign."""
    return f"{100 * value:.0f}"


def signed(value: float) -> str:
    """Whole points, with a sign unless they are none."""
    whole = round(100 * value)
    return f"{whole:+d}".replace("-", "\N{MINUS SIGN}") if whole else "0"
