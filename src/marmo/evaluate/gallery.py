"""Pictures that answer questions: a folder that a painter fills and can go on filling, or a folder of anybody's.

    gallery/
      painter.json                   whose pictures these are; nobody else may go on
      metadata.jsonl                 every question that was asked, with its prompt and GenEval record
      seen/colors-007-zh-2.png       part, tag, number of the prompt, language, seed

`metadata.jsonl` makes the folder a collection of captioned pictures.  Another program can paint it: it reads the
prompts there and puts the pictures where `file_name` says.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from marmo.data.defects import examine_picture
from marmo.data.folder import METADATA
from marmo.data.item import Item, Items
from marmo.data.pictures import open_items
from marmo.evaluate.questions import Question, recognised
from marmo.files.atomic import atomic_write
from marmo.files.pictures import find_prompt

PAINTER = "painter.json"

Painter = Callable[[Sequence[str], Sequence[int]], Iterable[Image.Image]]
"""Prompts and seeds -> pictures in that order, each as soon as it is done."""


@dataclass(frozen=True)
class Answer:
    """A picture, and what it was to show."""

    question: Question
    load: Callable[[], Image.Image | None]
    """The picture in RGB; None if it cannot be read."""


def prepare(folder: Path, questions: Sequence[Question], painter: Mapping[str, object]) -> None:
    """Make a folder ready to be painted; `ValueError` if another painter, or this one otherwise set, began it.

    Args:
        painter: what decides the pictures besides prompt and seed; goes through JSON.
    """
    label, text = folder / PAINTER, json.dumps(painter, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if label.exists() and label.read_text(encoding="utf-8") != text:
        raise ValueError(f"{folder} holds pictures of another model or of other settings; choose another folder")
    write_questions(folder, questions)
    _write(label, text)


def write_questions(folder: Path, questions: Iterable[Question]) -> None:
    """What is to be painted, for whoever paints it."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / METADATA, "".join(_row(question) for question in questions))


def missing(folder: Path, questions: Iterable[Question]) -> list[Question]:
    """What is not painted yet."""
    return [question for question in questions if not (folder / question.file_name).is_file()]


def paint(folder: Path, questions: Sequence[Question], painter: Painter) -> Iterator[Question]:
    """Paint these and yield each as its picture lies in the folder; whoever stops asking can go on another day."""
    pictures = painter([question.text for question in questions], [question.seed for question in questions])
    for question, picture in zip(questions, pictures, strict=True):
        path = folder / question.file_name
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path) as stream:
            picture.save(stream, "PNG")
        yield question


def painted(folder: Path, questions: Iterable[Question]) -> list[Answer]:
    """The answers that lie in a folder under their questions' names."""
    return [
        Answer(question, partial(_read, folder / question.file_name))
        for question in questions
        if (folder / question.file_name).is_file()
    ]


def collected(path: Path, questions: Iterable[Question]) -> list[Answer]:
    """The pictures of any collection that were painted from these prompts, by their captions or the prompts inside."""
    items = open_items(path)
    texts = [_caption(items, index) for index in range(len(items))]
    return [
        Answer(question, partial(_examined, items, index))
        for index, question in enumerate(recognised(texts, questions))
        if question is not None
    ]


def _row(question: Question) -> str:
    row = {
        "file_name": question.file_name,
        "text": question.text,
        "seed": question.seed,
        "language": question.language,
        "part": question.part,
        "record": question.prompt.record,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as stream:
        stream.write(text.encode())


def _read(path: Path) -> Image.Image | None:
    return examine_picture(Item(path.name, path.read_bytes(), None), min_side=1).picture


def _examined(items: Items, index: int) -> Image.Image | None:
    return examine_picture(items.item(index), min_side=1).picture


def _caption(items: Items, index: int) -> str | None:
    """The caption beside a picture, or the prompt inside."""
    try:
        item = items.item(index)
        return find_prompt(item.picture) if item.caption is None else item.caption.decode().strip()
    except ValueError:
        return None
