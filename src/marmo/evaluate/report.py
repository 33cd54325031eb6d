"""An evaluation as one page of HTML that needs nothing else: no script, no font, no picture from elsewhere.

    write(folder / "report.html", Report("v1-5.safetensors", facts, outcome, lines))

The same outcome gives the same bytes.  Pictures are the first prompts of each tag with the first seed, not chosen ones.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

from marmo.data.corpus import corpus
from marmo.evaluate import figures, tables
from marmo.evaluate.geneval import CHECKS
from marmo.evaluate.goals import Reached, Verdict
from marmo.evaluate.judging import Mark
from marmo.evaluate.limits import PERFECT
from marmo.evaluate.look_alikes import LookAlike, as_image
from marmo.evaluate.measures import Line
from marmo.evaluate.pictures import Picture
from marmo.evaluate.scores import (
    OVERALL,
    Gap,
    Score,
    agreement,
    by_tag,
    faults,
    heldout_gaps,
    language_gaps,
    scores,
    told,
)
from marmo.evaluate.statistics import Estimate
from marmo.evaluate.suite import Limit, Outcome
from marmo.evaluate.tables import LANGUAGES, PARTS, TAGS
from marmo.files.atomic import atomic_write
from marmo.version import VERSION

MAX_PICTURES, ROW = 120, 6
"""Pictures of a page, and of a row where a page is wide."""

VERDICTS: Mapping[Verdict, str] = {
    "goal": "goal reached",
    "floor": "floor reached",
    "below": "below the floor",
    "not measured": "not measured",
}

MET: Mapping[Verdict, str] = {
    "goal": "verdict right",
    "floor": "verdict right",
    "below": "verdict wrong",
    "not measured": "soft",
}

MEANINGS: Mapping[str, str] = {
    "Right": "GenEval's rules: all that the prompt names is there, as often, in the colour and at the place it says.",
    "Interval": "95 of 100 such intervals hold the true share. Pictures of one prompt fail together, so prompts count.",
    "Together": "Pictures of all languages.",
    "Overall": "The mean over the tags of a part, each counting the same.",
    "Ceiling": "What the oracle says of real renders of the same prompts, all of which are right.",
    "Floor": "What it says of these same pictures held against other prompts of their tag.",
    "Guard": "An oracle of another architecture: what fools one of them has to fool the other too.",
}


@dataclass(frozen=True)
class Report:
    """What a page tells."""

    subject: str
    """The model or the folder."""
    facts: Mapping[str, str]
    """What the numbers depend on: corpus, oracles, seeds, settings."""
    outcome: Outcome | None
    lines: Sequence[Line] = ()
    """Numbers that are not about prompts of the corpus: distances, similarities."""
    look_alikes: Sequence[LookAlike] = ()
    """Pictures beside the training pictures that they look like."""
    goals: Sequence[Reached] = ()
    """How far the model has come on the way of Marmo's own."""


def facts(outcome: Outcome | None, concepts: Sequence[str] = ()) -> dict[str, str]:
    """What scores depend on, in words.

    Args:
        concepts: the only ones that were asked for, if not all were.
    """
    if outcome is None:
        return {}
    asked = [mark.question for mark in outcome.marks]
    seeds = sorted({question.seed for question in asked})
    return {
        "corpus": f"{corpus().version} ({corpus().digest[:8]})",
        "concepts": f"{len(concepts) or len(corpus().concepts)} of {len(corpus().concepts)}",
        "pictures": f"{len(asked):,}" + (f", {outcome.unreadable} unreadable" if outcome.unreadable else ""),
        "prompts": f"{len({question.cluster for question in asked}):,}",
        "seeds": f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0]),
    }


def write(path: Path, report: Report) -> None:
    """The page as a file, whole or not at all."""
    text = page(report)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as stream:
        stream.write(text.encode())


def page(report: Report) -> str:
    """The page as text."""
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    body = "\n".join(filter(None, _sections(report)))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.subject)}: evaluation</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"{body}\n</main>\n</body>\n</html>\n"
    )


def _sections(report: Report) -> Iterator[str]:
    yield _head(report)
    outcome = report.outcome
    if outcome is not None:
        yield _cards(outcome)
        yield _warnings(outcome.warnings)
        yield _scores(outcome)
        yield _goals(report.goals)
        yield f'<div class="two">{_heldout(outcome)}{_languages(outcome)}</div>'
        yield _faults(outcome)
        yield _instrument(outcome)
    if report.lines:
        yield _lines(report.lines)
    if report.look_alikes:
        yield _look_alikes(report.look_alikes)
    if outcome is not None:
        yield _pictures(outcome)
        yield _meanings(outcome)
    yield f"<footer>Written by Marmo {escape(VERSION)}. Intervals cover 95 %.</footer>"


def _head(report: Report) -> str:
    facts = "".join(f"<li>{escape(name)} <b>{escape(value)}</b></li>" for name, value in report.facts.items())
    return f'<p class="eyebrow">Evaluation</p>\n<h1>{escape(report.subject)}</h1>\n<ul class="facts">{facts}</ul>'


def _cards(outcome: Outcome) -> str:
    seen = [mark for mark in outcome.marks if mark.question.part == "seen"]
    spoken = {code: [mark for mark in seen if mark.question.language == code] for code in LANGUAGES}
    cards = [
        _share_card("Seen prompts", "Right pictures; the mean over the tags.", seen, outcome),
        *(
            _share_card(f"In {name}", f"The same prompts in {name} alone.", spoken[code], outcome)
            for code, name in LANGUAGES.items()
        ),
        _gap_card(outcome),
    ]
    return f'<div class="cards">{"".join(cards)}</div>' if any(cards) else ""


def _share_card(name: str, sentence: str, marks: Sequence[Mark], outcome: Outcome) -> str:
    if not marks:
        return ""
    estimate, ceiling = by_tag(marks, outcome.oracle)[OVERALL], _values(outcome.ceiling, outcome.oracle)
    drawn = figures.scale({"both": estimate}, {"ceiling": ceiling["seen", OVERALL]})
    value, low, high = (tables.percent(number) for number in (estimate.value, estimate.low, estimate.high))
    return _card(name, f"{value}<span>%</span>", f"{low} to {high}, {estimate.n} pictures", drawn, sentence)


def _gap_card(outcome: Outcome) -> str:
    """The part where never having been seen costs most; removed concepts cost all, as they must."""
    gaps = [gap for gap in heldout_gaps(outcome.marks, outcome.oracle) if gap.tag == OVERALL]
    gaps = [gap for gap in gaps if gap.part != "heldout_concept"]
    if not gaps:
        return ""
    worst = min(gaps, key=lambda gap: gap.estimate.value)
    value, low, high = (
        tables.signed(number) for number in (worst.estimate.value, worst.estimate.low, worst.estimate.high)
    )
    drawn = figures.scale({"both": worst.estimate}, ends=(-1, 1))
    sentence = f"{PARTS[worst.part][0]} against seen prompts of the same form."
    return _card("Largest held-out gap", f"{value}<span>points</span>", f"{low} to {high}", drawn, sentence)


def _card(name: str, figure: str, interval: str, drawn: str, sentence: str) -> str:
    return (
        f'<div class="card"><div class="name">{escape(name)}</div><div class="figure">{figure}</div>'
        f'<div class="range">{interval}</div>{drawn}<p>{escape(sentence)}</p></div>\n'
    )


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in warnings)
    return (
        '<div class="warning"><b>The instrument is not fit for all of this.</b> Real renders must be right and '
        f"pictures of nothing wrong; where they are not, the scores say little about the model.<ul>{items}</ul></div>"
    )


def _scores(outcome: Outcome) -> str:
    others = outcome.oracles[1:]
    head = ["", "", *LANGUAGES.values(), "together", *others, "ceiling", "floor"]
    ceiling, floor = _values(outcome.ceiling, outcome.oracle), _values(outcome.floor, outcome.oracle)
    checked = {other: _together(scores(outcome.marks, other)) for other in others}
    rows = list[str]()
    for part, scored in groupby(scores(outcome.marks, outcome.oracle), key=lambda score: score.part):
        rows.append(tables.heading(*PARTS[part], len(head)))
        for tag, spoken in _by_tag(scored).items():
            guards = [tables.share(checked[other].get((part, tag))) for other in others]
            limits = {"ceiling": ceiling.get((part, tag)), "floor": floor.get((part, tag))}
            rows.append(_score_row(tag, spoken, guards, limits))
    key = tables.key({"en": "English", "zh": "Chinese"}, {"ceiling": "real renders", "floor": "wrong captions"})
    return _section(
        "Scores",
        "The share of pictures that are right, from 0 to 100 %, with the interval in which it would lie for other "
        "prompts of the same kind.",
        key + tables.table(head, rows),
    )


def _score_row(
    tag: str, spoken: Mapping[str | None, Estimate], guards: Sequence[str], limits: Mapping[str, float | None]
) -> str:
    shown = {code: spoken[code] for code in LANGUAGES if code in spoken}
    marks = {name: value for name, value in limits.items() if value is not None}
    cells = [TAGS[tag], figures.scale(shown, marks), *(tables.share(spoken.get(code)) for code in LANGUAGES)]
    cells += [tables.share(spoken.get(None, next(iter(spoken.values())))), *guards]
    cells += ["" if value is None else f"{tables.percent(value)} %" for value in limits.values()]
    return tables.row(cells, _kind(tag))


def _goals(rows: Sequence[Reached]) -> str:
    """Floors and goals; nothing where nobody asked for them."""
    if not rows:
        return ""
    cells = [
        [
            escape(row.goal.name) + (f" <small>{escape(row.detail)}</small>" if row.detail else ""),
            escape(tables.amount(row.goal.floor, row.goal.unit)),
            escape(tables.amount(row.goal.goal, row.goal.unit)),
            "" if row.measured is None else tables.measured(row.measured, row.goal.unit),
            f'<span class="{MET[row.verdict]}">{VERDICTS[row.verdict]}</span>',
        ]
        for row in rows
    ]
    return _section(
        "What it must reach",
        "Floors and goals that were set before any training. A row is judged by its number, not by its interval.",
        tables.table(["", "floor", "goal", "measured", ""], [tables.row(row) for row in cells]),
    )


def _heldout(outcome: Outcome) -> str:
    return _gaps(
        "Held out against seen",
        "Points by which a held-out part scores above or below seen prompts of the same form, shapes left out. An "
        "interval that holds zero shows no difference.",
        heldout_gaps(outcome.marks, outcome.oracle),
    )


def _languages(outcome: Outcome) -> str:
    return _gaps(
        "Chinese against English",
        "Points by which the same prompts with the same seeds score higher (right) or lower (left) in Chinese.",
        language_gaps(outcome.marks, outcome.oracle),
    )


def _gaps(title: str, lead: str, gaps: Sequence[Gap]) -> str:
    rows = list[str]()
    for part, same in groupby(gaps, key=lambda gap: gap.part):
        rows.append(tables.heading(*PARTS[part], 3))
        for tag, gap in told({gap.tag: gap.estimate for gap in same}).items():
            drawn = figures.scale({"both": gap}, ends=(-1, 1))
            rows.append(tables.row([TAGS[tag], drawn, tables.points(gap)], _kind(tag)))
    return _section(title, lead, tables.table(["", "", "points"], rows)) if rows else ""


def _faults(outcome: Outcome) -> str:
    rows = list[str]()
    for tag, counts in faults(outcome.marks, outcome.oracle).items():
        total = sum(mark.question.tag == tag for mark in outcome.marks)
        first = ", ".join(f"{count} {check}" for check, count in counts.items() if count) or "nothing"
        drawn = figures.bar({check: counts[check] for check in CHECKS}, total)
        rows.append(tables.row([TAGS[tag], drawn, first, f"of {total} pictures"]))
    return _section(
        "What goes wrong",
        "The first rule that each wrong picture breaks, as a share of all pictures of the tag.",
        tables.key({check: check for check in CHECKS}) + tables.table(["", "", "first fault", ""], rows),
    )


def _instrument(outcome: Outcome) -> str:
    tags = list(by_tag(outcome.ceiling.marks, outcome.oracle))
    head = ["", "oracle", *(TAGS[tag] for tag in tags)]
    rows = list[str]()
    for is_ceiling, title, note in (
        (True, "Ceiling", "real renders of the same prompts: all of them are right"),
        (False, "Floor", "what answers no prompt: may be right by chance alone"),
    ):
        rows.append(tables.heading(title, note, len(head)))
        mine = [limit for limit in outcome.limits if limit.is_ceiling == is_ceiling and limit.marks]
        rows += [row for limit in mine for row in _limit(limit, outcome.oracles, tags)]
    alike = {other: agreement(outcome.marks, outcome.oracle, other).value for other in outcome.oracles[1:]}
    compared = "".join(
        f" The {other} decides like the {outcome.oracle} on {v:.0%} of the pictures." for other, v in alike.items()
    )
    lead = f"What the oracles themselves score where the truth is known.{compared}"
    return _section("The instrument", lead, tables.table(head, rows))


def _limit(limit: Limit, oracles: Sequence[str], tags: Sequence[str]) -> Iterator[str]:
    """A row for each oracle, and one for chance."""
    names = {oracle: oracle for oracle in oracles} | ({} if limit.is_ceiling else {PERFECT: "chance"})
    for number, (oracle, name) in enumerate(names.items()):
        scored = by_tag(limit.marks, oracle)
        cells = [escape(limit.name) if number == 0 else "", escape(name)]
        yield tables.row([*cells, *(tables.share(scored.get(tag)) for tag in tags)])


def _lines(lines: Sequence[Line]) -> str:
    rows = list[str]()
    for line in lines:
        value = line.measured.value if isinstance(line.measured.value, Estimate) else f"{line.measured.value:.4g}"
        explained = f'<span class="soft">{escape(line.meaning)}<br>{escape(line.basis)}</span>'
        rows.append(tables.row([escape(line.measured.metric), escape(str(value)), explained], "long"))
    return _section(
        "Other numbers",
        "A number that is measured in features can only be compared with one of the same features.",
        tables.table(["", "value", "what it says, and what it rests on"], rows),
    )


def _look_alikes(pairs: Sequence[LookAlike]) -> str:
    return _section(
        "Nearest training pictures",
        "The pictures (left) that lie closest to a training picture (right), and how much closer than to the nearest "
        "picture that training never saw: far below 1 is a copy, about 1 is new.",
        f'<div class="wall pairs">{"".join(map(_pair, pairs))}</div>',
    )


def _pair(pair: LookAlike) -> str:
    return (
        f'<figure><div class="frame pair">{_half(pair.picture)}{_half(pair.train)}</div>'
        f'<figcaption><span class="prompt">{escape(pair.picture.prompt or pair.picture.name)}</span>'
        f'<span class="soft">{pair.ratio:.2f}, {escape(pair.train.name)}</span></figcaption></figure>\n'
    )


def _half(picture: Picture) -> str:
    return f'<img alt="{escape(picture.name)}" src="{figures.data_uri(as_image(picture))}">'


def _pictures(outcome: Outcome) -> str:
    walls = list[str]()
    for (part, tag), marks in groupby(_shown(outcome.marks), key=lambda mark: (mark.question.part, mark.question.tag)):
        tiles = "".join(_tile(mark, outcome.oracle) for mark in marks)
        walls.append(f'<h3>{escape(PARTS[part][0])}<small>{TAGS[tag]}</small></h3>\n<div class="wall">{tiles}</div>')
    toggle = '<label class="toggle"><input type="checkbox" id="boxes" checked>show the boxes</label>\n'
    return _section(
        "Pictures",
        "Not chosen: the first prompts of every tag with the first seed. Boxes and words are what the oracle saw.",
        toggle + "\n".join(walls),
    )


def _shown(marks: Sequence[Mark]) -> list[Mark]:
    """The first prompts of each part and tag, as many as a page holds, with their first seed."""
    groups = {(mark.question.part, mark.question.tag): list[Mark]() for mark in marks}
    for mark in marks:
        groups[mark.question.part, mark.question.tag].append(mark)
    share, shown = max(ROW, MAX_PICTURES // len(groups) // ROW * ROW), list[Mark]()
    for group in groups.values():
        first = min(mark.question.seed for mark in group)
        shown += [mark for mark in group if mark.question.seed == first][:share]
    return shown


def _tile(mark: Mark, oracle: str) -> str:
    picture, sight, text = mark.answer.load(), mark.sights[oracle], mark.question.text
    if picture is None:
        return ""
    saw = (
        ", ".join(f"{figures.called(thing)} {thing.confidence:.0%}" for thing in figures.seen(sight.found)) or "nothing"
    )
    reasons = "; ".join(reason.text for reason in sight.verdict.reasons)
    kind, word = ("right", "✓ right") if sight.verdict.is_right else ("wrong", f"✗ {reasons}")
    return (
        f'<figure><div class="frame"><img alt="{escape(text)}" src="{figures.data_uri(picture)}">'
        f"{figures.boxes(sight.found, mark.size)}</div>"
        f'<figcaption><span class="prompt" lang="{mark.question.language}">{escape(text)}</span>'
        f'<span class="verdict {kind}">{escape(word)}</span><br>saw {escape(saw)}</figcaption></figure>\n'
    )


def _meanings(outcome: Outcome) -> str:
    parts = {PARTS[part][0]: PARTS[part][1] for part in dict.fromkeys(mark.question.part for mark in outcome.marks)}
    meanings = {**MEANINGS, **{name: f"{note[0].upper()}{note[1:]}." for name, note in parts.items()}}
    items = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in meanings.items())
    return f"<section>\n<h2>What the words mean</h2>\n<dl>{items}</dl>\n</section>"


def _section(title: str, lead: str, body: str) -> str:
    return f'<section>\n<h2>{escape(title)}</h2>\n<p class="lead">{escape(lead)}</p>\n{body}\n</section>'


def _kind(tag: str) -> str:
    return "overall" if tag == OVERALL else ""


def _by_tag(scored: Iterable[Score]) -> dict[str, dict[str | None, Estimate]]:
    """By tag and language; None is both together."""
    spoken = dict[str, dict[str | None, Estimate]]()
    for score in scored:
        spoken.setdefault(score.tag, {})[score.language] = score.estimate
    return told(spoken)


def _together(scored: Iterable[Score]) -> dict[tuple[str, str], Estimate]:
    """By part and tag; the last of each is that of all languages."""
    return {(score.part, score.tag): score.estimate for score in scored}


def _values(limit: Limit, oracle: str) -> dict[tuple[str, str], float]:
    """By part and tag."""
    return {key: estimate.value for key, estimate in _together(scores(limit.marks, oracle)).items()}
