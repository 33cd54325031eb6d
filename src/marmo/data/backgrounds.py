"""What stands behind the things, chosen so that they stand out from it."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

from marmo.data.colours import Lab, to_oklab, triple
from marmo.data.dice import Dice
from marmo.data.scene import Background

RGB = tuple[int, int, int]

MIN_DISTANCE = 0.16
"""In OKLab, between a background and the tone of what stands on it."""


@dataclass(frozen=True)
class Paint:
    """A background of one colour; `fade` is where its gradient ends."""

    en: str
    zh: str
    rgb: RGB
    fade: RGB


@dataclass(frozen=True)
class Ground:
    """A background of two parts."""

    en: str
    zh: str
    sky: RGB
    ground: RGB


PAINTS: dict[str, Paint] = {
    "white": Paint("white", "白色", (255, 255, 255), (226, 232, 240)),
    "cream": Paint("cream", "米色", (253, 246, 227), (244, 222, 179)),
    "light-blue": Paint("light blue", "浅蓝色", (207, 230, 250), (152, 200, 242)),
    "light-green": Paint("light green", "浅绿色", (214, 240, 214), (164, 217, 170)),
    "light-pink": Paint("light pink", "浅粉色", (253, 223, 231), (247, 182, 203)),
    "lavender": Paint("lavender", "淡紫色", (230, 222, 248), (196, 180, 236)),
    "light-yellow": Paint("light yellow", "浅黄色", (255, 245, 196), (251, 223, 134)),
    "light-grey": Paint("light grey", "浅灰色", (229, 231, 235), (190, 195, 203)),
    "teal": Paint("teal", "青色", (82, 170, 170), (36, 122, 128)),
    "dark-blue": Paint("dark blue", "深蓝色", (37, 52, 94), (17, 24, 52)),
    "dark-grey": Paint("dark grey", "深灰色", (72, 76, 86), (42, 45, 53)),
    "dark-green": Paint("dark green", "深绿色", (32, 82, 64), (16, 50, 40)),
}

DARK = ("teal", "dark-blue", "dark-grey", "dark-green")
WEIGHTS = {name: 0.3 if name in DARK else 1.0 for name in PAINTS}
"""Dark ones are left over for whatever is too light for the others."""

GROUNDS: dict[str, Ground] = {
    "grass": Ground("on the grass", "在草地上", (196, 228, 250), (134, 194, 104)),
    "sand": Ground("on the sand", "在沙地上", (190, 230, 246), (238, 212, 154)),
    "snow": Ground("in the snow", "在雪地里", (168, 196, 224), (246, 249, 252)),
    "floor": Ground("on a wooden floor", "在木地板上", (247, 236, 218), (196, 150, 104)),
    "night": Ground("at night", "在夜里", (24, 32, 66), (52, 66, 60)),
    "stone": Ground("on a stone floor", "在石板地上", (228, 230, 236), (160, 164, 172)),
}


KINDS: dict[Literal["plain", "gradient", "ground"], float] = {"plain": 0.45, "gradient": 0.3, "ground": 0.25}


def pick(dice: Dice, tones: tuple[Lab, ...]) -> Background:
    """A background that every one of `tones` differs from; after 40 tries the last one."""
    background = _propose(dice)
    for _ in range(40):
        if all(
            _distance(tone, _lab(rgb)) > MIN_DISTANCE for tone in tones for rgb in (background.top, background.bottom)
        ):
            break
        background = _propose(dice)
    return background


def _propose(dice: Dice) -> Background:
    kind = dice.weighted(KINDS)
    if kind == "ground":
        name = dice.choice(list(GROUNDS))
        ground = GROUNDS[name]
        return Background("ground", name, ground.sky, ground.ground, dice.uniform(0.55, 0.75))
    name = dice.weighted(WEIGHTS)
    paint = PAINTS[name]
    return Background(kind, name, paint.rgb, paint.rgb if kind == "plain" else paint.fade)


@cache
def _lab(rgb: RGB) -> Lab:
    return triple(to_oklab(torch.tensor(rgb) / 255))


def _distance(a: Lab, b: Lab) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5
