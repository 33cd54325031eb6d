"""What is wrong with a collection: found, named, counted, and never the end of a run.

Some entries cannot be used and are passed over; others can, and the report says what was done to them.
"""

from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from typing import Literal

from PIL import ExifTags, Image

from marmo.data.item import Item, Items
from marmo.files.pictures import FORMATS, MAX_PIXELS, decode_image

Kind = Literal[
    # passed over
    "unreadable", "empty", "damaged", "too large", "too small", "no caption", "caption is no text",
    # used
    "CMYK", "16 bits", "animated", "turned", "transparent", "caption in UTF-16", "caption is empty",
]  # fmt: skip
USED: frozenset[Kind] = frozenset(
    ("CMYK", "16 bits", "animated", "turned", "transparent", "caption in UTF-16", "caption is empty")
)

MIN_SIDE = 32


@dataclass(frozen=True)
class Defect:
    """Something unusual about an entry."""

    name: str
    kind: Kind
    detail: str

    @property
    def skips(self) -> bool:
        """Whether the entry is passed over."""
        return self.kind not in USED


@dataclass(frozen=True)
class Examined:
    """An entry after a close look."""

    picture: Image.Image | None
    """RGB and upright; `None` if the entry is passed over."""
    caption: str
    defects: tuple[Defect, ...]


def examine(item: Item, min_side: int = MIN_SIDE) -> Examined:
    """Decode a picture and its caption; raises nothing, whatever the bytes are."""
    defects: list[Defect] = []
    picture = _picture(item, min_side, defects)
    caption = _caption(item, defects)
    usable = not any(defect.skips for defect in defects)
    return Examined(picture if usable else None, caption, tuple(defects))


def examine_picture(item: Item, min_side: int = MIN_SIDE) -> Examined:
    """The same where a caption is welcome but not needed: where none can be read it is `""`, and that is no defect."""
    defects: list[Defect] = []
    of_caption: list[Defect] = []
    picture, caption = _picture(item, min_side, defects), _caption(item, of_caption)
    usable = not any(defect.skips for defect in defects)
    legible = not any(defect.skips for defect in of_caption)
    return Examined(picture if usable else None, caption if legible else "", tuple(defects))


def examine_at(items: Items, index: int, min_side: int = MIN_SIDE, needs_caption: bool = True) -> Examined:
    """An entry of a collection, also one that cannot be read."""
    try:
        item = items.item(index)
    except ValueError as error:
        return Examined(None, "", (Defect(items.name(index), "unreadable", str(error)),))
    return examine(item, min_side) if needs_caption else examine_picture(item, min_side)


def caption_at(items: Items, index: int) -> str:
    """The caption of an entry, its picture not looked at; empty where there is none that can be read."""
    try:
        return _caption(items.item(index), [])
    except ValueError:
        return ""


@dataclass(frozen=True)
class Survey:
    """A whole collection, looked at once."""

    sizes: tuple[tuple[int, int] | None, ...]
    """Width and height of every picture, upright; `None` for what is passed over."""
    defects: tuple[Defect, ...] = field(default=())

    @property
    def counts(self) -> dict[Kind, int]:
        """How often each kind occurs, the most frequent first."""
        counted: Counter[Kind] = Counter(defect.kind for defect in self.defects)
        return dict(counted.most_common())

    def report(self) -> str:
        """For people: the sum, the kinds, and every defect on a line of its own."""
        used = sum(size is not None for size in self.sizes)
        lines = [f"{used} of {len(self.sizes)} entries can be used"]
        lines += [f"{count:6} {kind}{'' if kind in USED else ' (passed over)'}" for kind, count in self.counts.items()]
        lines += [f"{defect.name}: {defect.kind}: {defect.detail}" for defect in self.defects]
        return "\n".join(lines) + "\n"


def survey(items: Items, min_side: int = MIN_SIDE) -> Survey:
    """Read every entry of a collection; a hundred pictures of a megapixel take about two seconds."""
    found = [examine_at(items, index, min_side) for index in range(len(items))]
    sizes = tuple(None if entry.picture is None else entry.picture.size for entry in found)
    return Survey(sizes, tuple(defect for entry in found for defect in entry.defects))


def _picture(item: Item, min_side: int, defects: list[Defect]) -> Image.Image | None:
    if not item.picture:
        defects.append(Defect(item.name, "empty", "the file has no bytes"))
        return None
    notes = _header(item, defects)
    try:
        picture = decode_image(item.picture)
    except ValueError as error:
        if not any(defect.kind == "too large" for defect in defects):
            defects.append(Defect(item.name, "damaged", str(error)))
        return None
    defects += notes
    if min(picture.size) < min_side:
        width, height = picture.size
        defects.append(Defect(item.name, "too small", f"{width} x {height} pixels; the least is {min_side}"))
    return picture


def _header(item: Item, defects: list[Defect]) -> list[Defect]:
    """What a picture says of itself; one that is too large is a defect at once, a broken one says nothing."""
    try:
        image = Image.open(BytesIO(item.picture), formats=tuple(set(FORMATS.values())))
        if image.width * image.height <= MAX_PIXELS:  # before anything that might decode it
            return [Defect(item.name, kind, detail) for kind, detail in _facts(image).items()]
        detail = f"{image.width} x {image.height} pixels; at most {MAX_PIXELS // 1_000_000} million are read"
    except Image.DecompressionBombError as error:
        detail = str(error)
    except Exception:  # Pillow raises what it likes; decoding will say it in a sentence
        return []
    defects.append(Defect(item.name, "too large", detail))
    return []


def _facts(image: Image.Image) -> dict[Kind, str]:
    facts: dict[Kind, str] = {}
    if image.mode == "CMYK":
        facts["CMYK"] = "its inks become RGB without its colour profile"
    if image.mode.startswith("I"):
        facts["16 bits"] = "of each channel the high 8 bits are used"
    if frames := getattr(image, "n_frames", 1) - 1:
        facts["animated"] = f"the first frame is used, {frames} more are not"
    has_exif = image.format != "PNG" or "exif" in image.info  # a PNG would be decoded to look behind its pixels
    if has_exif and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        facts["turned"] = "it is turned upright as its EXIF says"
    if image.has_transparency_data:
        facts["transparent"] = "white shows through"
    return facts


def _caption(item: Item, defects: list[Defect]) -> str:
    if item.caption is None:
        defects.append(Defect(item.name, "no caption", "neither beside it nor in the metadata"))
        return ""
    utf16 = item.caption.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        caption = item.caption.decode("utf-16" if utf16 else "utf-8-sig").strip()
    except UnicodeDecodeError as error:
        defects.append(Defect(item.name, "caption is no text", str(error)))
        return ""
    if "\0" in caption:
        defects.append(Defect(item.name, "caption is no text", "it holds a NUL"))
    elif utf16:
        defects.append(Defect(item.name, "caption in UTF-16", "read as its first two bytes say"))
    elif not caption:
        defects.append(Defect(item.name, "caption is empty", "the picture is learned without words"))
    return caption
