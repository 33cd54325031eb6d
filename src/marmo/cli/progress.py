"""Work as one line on the terminal: what happens, how many pictures, steps, time left."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from marmo.pipelines.events import Event, Result, Stage, Step

T = TypeVar("T")


def watch(events: Iterator[Event], num_images: int, quiet: bool = False) -> Result:
    """Follow a stream to its result.  The line goes to standard error, so that standard output holds results alone."""
    pictures = f"{num_images} picture{'s' * (num_images > 1)}"
    with _line(quiet) as progress:
        line = progress.add_task("opening", total=None)
        for event in events:
            match event:
                case Stage():
                    progress.update(line, description=event.name)
                case Step():
                    done = event.index + 1
                    progress.update(line, description=f"painting {pictures}", completed=done, total=event.total)
                case Result():
                    return event
    raise AssertionError("a stream ends with its result")


def counted(done: Iterable[T], total: int | None, words: str, quiet: bool = False) -> Iterator[T]:
    """The same things, with a line that counts them; how many there will be may not be known."""
    with _line(quiet) as progress:
        yield from progress.track(done, total=total, description=words)


def _line(quiet: bool) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True)
