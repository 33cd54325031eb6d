"""`python -m marmo.data.sheet out.png --seed 0`: a sheet of scenes with their captions below."""

from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

import torch
import tyro
from PIL import Image, ImageDraw, ImageFont

from marmo.data.atlas import atlas, drawn_now
from marmo.data.captions import Caption
from marmo.data.scenes import batch
from marmo.data.splits import Split

FONTS = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc",
)
"""Where Debian and Ubuntu keep one that can write Chinese."""

TEXT = 44
"""Height of the caption, in pixels."""


@dataclass(frozen=True)
class Sheet:
    """Draw a captioned contact sheet."""

    out: tyro.conf.Positional[Path]
    """The picture to write"""
    seed: int = 0
    start: int = 0
    """Index of the first scene"""
    columns: int = 8
    rows: int = 6
    size: int = 160
    """Side of each scene, in pixels"""
    split: Split = "train"

    def run(self) -> None:
        """Draw, paste, write."""
        count, device = self.columns * self.rows, torch.device("cpu")
        sprites = drawn_now(device) if count <= 100 else atlas(device)
        drawn = batch(self.seed, self.start, count, self.size, split=self.split, sprites=sprites)
        sheet = Image.new("RGB", (self.columns * (self.size + 8) + 8, self.rows * (self.size + TEXT) + 8), "white")
        pen, font = ImageDraw.Draw(sheet), _font()
        for number, (pixels, sample) in enumerate(zip(drawn.pictures, drawn.samples, strict=True)):
            row, column = divmod(number, self.columns)
            place = 8 + column * (self.size + 8), 8 + row * (self.size + TEXT)
            sheet.paste(Image.fromarray(pixels.permute(1, 2, 0).numpy()), place)
            lines = _lines(sample.caption, self.size)
            pen.multiline_text((place[0], place[1] + self.size + 2), "\n".join(lines[:3]), "black", font, spacing=1)
        sheet.save(self.out, optimize=True)


def _lines(caption: Caption, width: int) -> list[str]:
    """Chinese breaks anywhere, English between words."""
    if caption.language == "en":
        return wrap(caption.text, width // 6)
    step = width // 11
    return [caption.text[start : start + step] for start in range(0, len(caption.text), step)]


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    path = next((path for path in FONTS if Path(path).exists()), None)
    return ImageFont.load_default(11) if path is None else ImageFont.truetype(path, 11)


if __name__ == "__main__":
    tyro.cli(Sheet, description=Sheet.__doc__).run()
