"""A training run that never was."""

import json
from pathlib import Path


def write_run(folder: Path) -> Path:
    """A run of two sittings, a day apart, half an hour each."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"data": "scenes", "target": "v", "lr": 0.0005, "seed": 3}))
    times = [*range(0, 1801, 60), *range(90_000, 91_801, 60)]
    rows = [
        {"images": 32 * index, "time": 1e9 + time, "loss": 0.5 / index, "validation": 0.6 / index}
        for index, time in enumerate(times, 1)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
