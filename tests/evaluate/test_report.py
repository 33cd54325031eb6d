"""The page needs nothing else, says what was measured, and shows what it was given as text."""

import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import pytest
from PIL import Image

from marmo.evaluate.features import Measured, Space
from marmo.evaluate.figures import SIDE, boxes
from marmo.evaluate.found import Found
from marmo.evaluate.gallery import Answer
from marmo.evaluate.measures import Line
from marmo.evaluate.questions import Question, questions
from marmo.evaluate.report import MAX_PICTURES, Report, facts, page
from marmo.evaluate.statistics import Estimate
from marmo.evaluate.suite import Outcome, evaluate
from marmo.evaluate.summary import lines, summary
from tests.evaluate.oracles import colour_blind, perfect_oracle, rendered

HOSTILE = '</span><script>alert("1")</script><img src="https://example.org/x.png" onerror=\'x\'>'
VOID = {"meta", "img", "input", "br", "line", "rect", "circle"}
SPACE = Space(network="inception-2015", sha256="6726825d" * 8, resize="clean 299", width=2048)


class Reader(HTMLParser):
    """Elements, what they point at, and whether they close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names, self.places, self.open = list[str](), list[str](), list[str]()
        self.handlers = list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.places += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    return questions(("seen", "heldout_colour"), per_tag=2, seeds=2)


def outcome_of(asked: list[Question]) -> Outcome:
    """All right but the first prompt's pictures, which are blank; the guard cannot tell colours."""
    blank = Image.new("RGB", (400, 400), "black")
    pictures = [blank if q.cluster == asked[0].cluster else rendered(q.prompt.scene) for q in asked]
    answers = [Answer(question, picture.copy) for question, picture in zip(asked, pictures, strict=True)]
    oracle = perfect_oracle(asked)
    return evaluate(answers, {"oracle": oracle, "guard": colour_blind(oracle)})


@pytest.fixture(scope="module")
def report(asked: list[Question]) -> Report:
    outcome = outcome_of(asked)
    distance = Measured("FD", Estimate(12.5, 11.0, 14.0, 40), SPACE, 40, 100, 0)
    return Report("fox.safetensors", facts(outcome), outcome, [Line(distance, "Lower is nearer.")])


@pytest.mark.long
def test_the_page_needs_nothing_else(report: Report):
    text = page(report)
    reader = Reader(text)
    assert reader.open == [] and reader.handlers == []
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(reader.names)
    assert reader.places and all(place.startswith("data:image/webp;base64,") for place in reader.places)
    assert "http:" not in text and "https:" not in text and "@import" not in text and "url(" not in text
    assert "default-src 'none'" in text


@pytest.mark.long
def test_the_same_outcome_gives_the_same_bytes(asked: list[Question], report: Report):
    outcome = outcome_of(asked)
    assert page(Report(report.subject, facts(outcome), outcome, report.lines)) == page(report)


def test_what_users_write_is_text(asked: list[Question]):
    hostile = replace(asked[0], prompt=replace(asked[0].prompt, en=HOSTILE))
    outcome = outcome_of([hostile, *asked[2:6]])
    reader = Reader(page(Report(HOSTILE, {"settings": HOSTILE}, outcome)))
    assert reader.open == [] and reader.handlers == [] and "script" not in reader.names
    assert all(place.startswith("data:") for place in reader.places)


@pytest.mark.long
def test_scores_stand_with_their_interval_ceiling_and_floor(report: Report):
    """Of eight pictures of single objects, the four of one prompt are blank."""
    text = page(report)
    row = re.search(r'<td>single object</td><td><svg class="scale".*?</tr>', text)
    assert row is not None
    assert re.findall(r"(\d+) % <small>(\d+) to (\d+)", row[0])[:3] == [("50", "5", "95")] * 3
    assert row[0].endswith("<td>100 %</td><td>0 %</td></tr>")


def test_every_number_says_what_it_rests_on(report: Report):
    text = page(report)
    assert "40 pictures against 100, in inception-2015 (6726825d) clean 299, seed 0" in text
    assert all(f"<b>{value}</b>" in text for value in report.facts.values())


def test_an_unfit_instrument_is_said_first(report: Report):
    text = page(report)
    assert text.index("The instrument is not fit for all of this.") < text.index("<h2>Scores</h2>")
    assert re.search(r"<li>guard finds \d+% of the colors prompts right on real renders, and not 95%</li>", text)


def test_pictures_are_few_small_and_the_first_seed(report: Report, asked: list[Question]):
    places = Reader(page(report)).places
    assert len(places) == len(asked) // 2 <= MAX_PICTURES
    sizes = [Image.open(BytesIO(b64decode(place.partition(",")[2]))).size for place in places]
    assert max(side for size in sizes for side in size) == SIDE


def test_reasons_and_sights_stand_below_the_pictures(report: Report):
    text = page(report)
    assert text.count('class="verdict wrong">✗ expected 1 golf flag, found none') == 2
    assert text.count("saw nothing") == 2
    assert text.count('class="verdict right"') == 18


def test_boxes_lie_where_the_oracle_saw_things():
    found = [Found("fox", 0.9, (0.1, 0.2, 0.5, 0.6), "noto", None), Found("fox", 0.2, (0, 0, 1, 1), "noto", None)]
    drawn = boxes(found, (200, 100))
    assert 'viewBox="0 0 100 50"' in drawn and drawn.count("<rect") == 1
    assert 'x="10.0" y="10.0" width="40.0" height="20.0"' in drawn


def test_a_report_without_known_prompts_has_its_numbers_alone(report: Report):
    text = page(Report("folder", {}, None, report.lines))
    assert "Other numbers" in text and "Scores" not in text and Reader(text).open == []


def test_the_summary_has_every_number(report: Report):
    numbers = summary(report)
    scores = numbers["scores"]
    assert isinstance(scores, list)
    assert {"part": "seen", "tag": "single_object", "language": "both", "oracle": "oracle"}.items() <= scores[
        10
    ].items()
    assert (scores[10]["value"], scores[10]["n"]) == (0.5, 8)
    assert numbers["numbers"] == [
        {
            "metric": "FD", "value": 12.5, "low": 11.0, "high": 14.0, "n": 40, "pictures": 40, "reference": 100,
            "seed": 0,
            "space": {"network": "inception-2015", "sha256": SPACE.sha256, "resize": "clean 299", "width": 2048},
        }
    ]  # fmt: skip


def test_the_terminal_gets_a_line_per_tag(report: Report):
    told = list(lines(report))
    assert told[0] == "seen              single_object   50% [5, 95]    ceiling 100%"
    assert sum(line.startswith("warning: guard") for line in told) >= 2
