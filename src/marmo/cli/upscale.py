"""`marmo upscale`: a picture made larger, by a model of ESRGAN's kind or by one that paints."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from marmo.cli.flags import RequestFlags, started_from
from marmo.cli.generate import Generate
from marmo.files.names import DEFAULT_PATTERN, PictureSuffix
from marmo.pipelines.modes import Choice


@dataclass(frozen=True)
class Upscale:
    """Make a picture larger: `marmo generate` with a model that enlarges, and this picture as its init_image."""

    picture: tyro.conf.Positional[Path]
    """The picture"""
    request: Annotated[RequestFlags, tyro.conf.arg(name="")] = field(default_factory=RequestFlags)
    prompt: str = ""
    """What it shows, for a model that paints"""
    output: Path = Path("out")
    """Folder for the larger picture"""
    name: str = DEFAULT_PATTERN
    """File name, of words and {seed} {index} {date} {time} {model} {prompt} {width} {height} {steps} {sampler}"""
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
    """Enlarge nothing; tell the memory and the time that are needed"""

    def run(self) -> int:
        """Enlarge, save, tell."""
        return Generate(
            self.prompt,
            started_from(self.request, self.picture),
            output=self.output,
            name=self.name,
            format=self.format,
            device=self.device,
            dtype=self.dtype,
            memory=self.memory,
            json=self.json,
            estimate=self.estimate,
        ).run()
