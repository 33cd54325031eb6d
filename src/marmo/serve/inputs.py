"""Pictures inside a request, taken out and put back: the journal holds hashes, the disk the bytes.

bare, pictures = detach(request)          # {"init_image": b"..."}; in `bare` the place holds empty bytes
attach(bare, pictures) == request
"""

from collections.abc import Callable, Mapping
from typing import cast

from pydantic import BaseModel

from marmo.request import ImageRequest

EMPTY = b""
"""What stands in a bare request where a picture was: it says that there is one, and not which."""


def detach(request: ImageRequest) -> tuple[ImageRequest, dict[str, bytes]]:
    """The request without its pictures, and the pictures by their place, such as `init_image` or `controls.0.image`."""
    pictures: dict[str, bytes] = {}

    def take(place: str, data: bytes) -> bytes:
        pictures[place] = data
        return EMPTY

    return cast(ImageRequest, _mapped(request, "", take)), pictures


def attach(request: ImageRequest, pictures: Mapping[str, bytes]) -> ImageRequest:
    """The inverse of `detach`; a place that is not among `pictures` stays as it is."""
    return cast(ImageRequest, _mapped(request, "", lambda place, data: pictures.get(place, data)))


def _mapped(value: object, place: str, change: Callable[[str, bytes], bytes]) -> object:
    """The same value with its bytes changed; what holds none is not copied."""
    match value:
        case bytes():
            return change(place, value)
        case BaseModel():
            new = {name: _mapped(part, f"{place}.{name}".lstrip("."), change) for name, part in value}
            update = {name: part for name, part in new.items() if part is not getattr(value, name)}
            return value.model_copy(update=update) if update else value
        case tuple():
            parts = cast(tuple[object, ...], value)
            mapped = tuple(_mapped(part, f"{place}.{index}", change) for index, part in enumerate(parts))
            return mapped if any(new is not old for new, old in zip(mapped, parts, strict=True)) else parts
        case _:
            return value
