"""`marmo generate`: a request from the command line to pictures in a folder."""

import json
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from marmo.cli.asked import Lists, by_models, placed, requests, wordless
from marmo.cli.flags import RequestFlags
from marmo.cli.progress import watch
from marmo.files.atomic import claim
from marmo.files.names import DEFAULT_PATTERN, PictureSuffix, check_pattern, output_path
from marmo.files.pictures import save_picture
from marmo.pipelines.events import Result
from marmo.pipelines.modes import Choice

if TYPE_CHECKING:
    from marmo.pipelines.forecast import Forecast


@dataclass(frozen=True)
class Generate:
    """Paint pictures from words."""

    prompt: tyro.conf.Positional[str | None] = None
    """What the picture shows"""
    request: Annotated[RequestFlags, tyro.conf.arg(name="")] = field(default_factory=RequestFlags)
    lists: Annotated[Lists, tyro.conf.arg(name="")] = field(default_factory=Lists)
    prompts_file: Path | None = None
    """A file with a prompt per line, or with flags, which win over the others"""
    output: Path = Path("out")
    """Folder for the pictures"""
    name: str = DEFAULT_PATTERN
    """File names, of words and {seed} {index} {date} {time} {model} {prompt} {width} {height} {steps} {sampler}"""
    format: PictureSuffix = "png"
    """Kind of file"""
    device: str | None = None
    """cpu, cuda, mps, ...; the best there is by default"""
    dtype: str | None = None
    """float32, bfloat16 or float16; the fastest that is safe by default"""
    memory: Choice = "auto"
    """full keeps all at hand; idle parts wait in main memory (offload) or their files (low); least has small tiles"""
    json: bool = False
    """Print JSON instead of words"""
    estimate: bool = False
    """Paint nothing; tell the memory and the time that are needed"""

    def run(self) -> int:
        """Paint, save, tell."""
        check_pattern(self.name)
        check_folder(self.output)
        asked = requests(self.prompt, self.request, self.lists, self.prompts_file)
        is_wordless = self.prompt is None and self.prompts_file is None and not self.lists.preset
        if is_wordless and asked[0].model is None:
            raise wordless()
        from marmo import catalog  # brings torch
        from marmo.pipelines.advice import explaining
        from marmo.pipelines.latent import LatentDiffusion
        from marmo.pipelines.upscaler import Upscaler

        asked = [placed(request, self.lists.models_dir) for request in asked]
        started = time.perf_counter()
        results, paths = list[Result](), list[Path]()
        for first, places in by_models(asked):
            model = catalog.open_for(first, self.device, self.dtype, self.memory)
            if is_wordless and isinstance(model, LatentDiffusion):
                raise wordless()
            if self.estimate:
                from marmo.pipelines.forecast import forecast

                if not isinstance(model, LatentDiffusion | Upscaler):
                    raise ValueError("--estimate is for models that paint from words or enlarge, and this is none")
                self._tell_forecast(forecast(model, first), len(asked))
                return 0
            for request in (asked[place] for place in places):
                with explaining(model, request) if isinstance(model, LatentDiffusion) else nullcontext():
                    results.append(watch(model.stream(request), request.num_images, quiet=self.json))
                paths += self._save(results[-1])
        self._tell(results, paths, time.perf_counter() - started)
        return 0

    def _save(self, result: Result) -> list[Path]:
        now, paths = datetime.now(), list[Path]()
        for picture, record in zip(result.images, result.records, strict=True):
            with claim(output_path(self.output, record, now, self.name, self.format)) as path:
                save_picture(path, picture, record)
            paths.append(path)
        return paths

    def _tell(self, results: list[Result], paths: list[Path], seconds: float) -> None:
        records = [record for result in results for record in result.records]
        notes = list(dict.fromkeys(note for result in results for note in result.notes))
        if self.json:
            pictures = [{"file": str(path), "seed": record.seed} for path, record in zip(paths, records, strict=True)]
            print(json.dumps({"pictures": pictures, "seconds": round(seconds, 3), "notes": notes}))
            return
        for note in notes:
            print(f"note: {note}")
        for path in paths:
            print(path)

    def _tell_forecast(self, cost: "Forecast", count: int) -> None:
        """Of several requests, as if each cost as much as the first."""
        seconds = cost.seconds * count
        if self.json:
            print(json.dumps({"memory_bytes": cost.memory, "seconds": round(seconds, 3)}))
        else:
            print(f"about {cost.memory / 2**30:.1f} GiB of memory and {seconds:.0f} s")


def check_folder(folder: Path) -> None:
    """`ValueError` now rather than when the pictures are painted."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"{there} is no folder that can be written to; choose another --output")
