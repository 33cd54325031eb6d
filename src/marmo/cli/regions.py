"""A region of the picture in one word of the command line: PROMPT @ PLACE, or PROMPT @ PLACE @ WEIGHT.

"a red fox @ 0,0,0.5,1"         left, top, right and bottom as shares of the picture
"a red fox @ fox-mask.png @ 0.8"
"""

import re
from pathlib import Path

NUMBER = re.compile(r"\d+\.?\d*|\.\d+")


def region_from(text: str) -> dict[str, object]:
    """The fields of a `Region`, a mask as its file's bytes; `ValueError` for a word without a place."""
    prompt, *rest = (part.strip() for part in text.rsplit("@", 2))
    weight: dict[str, object] = {}
    if len(rest) == 2 and NUMBER.fullmatch(rest[1]):
        weight = {"weight": float(rest.pop())}
    elif len(rest) == 2:
        prompt, rest = f"{prompt} @ {rest[0]}", rest[1:]
    if len(rest) != 1:
        raise ValueError(f"a region is PROMPT @ LEFT,TOP,RIGHT,BOTTOM or PROMPT @ MASK.png, not {text!r}")
    numbers = [part.strip() for part in rest[0].split(",")]
    if len(numbers) == 4 and all(map(NUMBER.fullmatch, numbers)):
        return {"prompt": prompt, "box": [float(number) for number in numbers], **weight}
    return {"prompt": prompt, "mask": Path(rest[0]).expanduser().read_bytes(), **weight}
