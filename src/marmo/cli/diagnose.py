"""`marmo diagnose`: what became of a training, from its folder, while it runs or after it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from marmo.train.diagnosis import diagnose


@dataclass(frozen=True)
class Diagnose:
    """Tell whether a training diverges, underfits, overfits, memorises or is healthy."""

    folder: tyro.conf.Positional[Path]
    """The folder of the run"""
    json: bool = False
    """Print JSON instead of words"""

    def run(self) -> int:
        """Read the log, judge, tell."""
        from marmo.train.log import Log  # brings torch

        if not (self.folder / "log.jsonl").is_file():
            raise ValueError(f"{self.folder} is no folder of a training: there is no log.jsonl in it")
        found = diagnose(list(Log(self.folder).rows()))
        print(json.dumps(asdict(found)) if self.json else found)
        return 0
