"""What training runs wrote about themselves: how many pictures, how long, how the numbers fell.

folder/
  config.json       everything that the run depended on
  log.jsonl         a line of numbers now and then, with `images` and `time`
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

from marmo.train.log import Log

BREAK = 600.0
"""Seconds between two lines that are more than this many medians apart mean that the run stood still."""
MEDIANS = 10.0


@dataclass(frozen=True)
class TrainingRun:
    """A folder of a run."""

    folder: Path
    config: Mapping[str, object]
    rows: Sequence[Mapping[str, float]]
    """Of its log."""

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def images(self) -> int:
        """That were seen."""
        return int(self.rows[-1]["images"])

    @property
    def hours(self) -> float:
        """Of work, without the time between two sittings."""
        times = [row["time"] for row in self.rows]
        steps = [later - earlier for earlier, later in pairwise(times)]
        usual = sorted(steps)[len(steps) // 2] if steps else 0.0
        return sum(step for step in steps if step <= max(BREAK, MEDIANS * usual)) / 3600

    def curve(self, name: str) -> list[tuple[float, float]]:
        """(images, value) of the lines that have this number."""
        return [(row["images"], row[name]) for row in self.rows if name in row]


def read_run(folder: Path) -> TrainingRun:
    """`ValueError` for a folder in which no run has written its config and its log."""
    try:
        config = cast(object, json.loads((folder / "config.json").read_bytes()))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no training run: {error}") from None
    rows = list(Log(folder).rows())
    if not isinstance(config, dict) or not rows:
        raise ValueError(f"{folder} holds no training run: its log has no line yet")
    return TrainingRun(folder, cast(Mapping[str, object], config), rows)
