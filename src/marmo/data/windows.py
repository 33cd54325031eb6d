"""A square part of a scene is a scene, too: it can be drawn by itself, at any size, without the rest."""

from dataclasses import replace

from marmo.data.scene import Background, Scene, Thing

RGB = tuple[int, int, int]

REACH = 0.71
"""A sprite's corner is so many of its sides from its middle, however it is turned."""


def window(scene: Scene, left: float, top: float, side: float) -> Scene:
    """What a square shows whose left, top and side are shares of the picture; it may reach beyond the picture.

    Things outside are left out, so that less is drawn.  There the background goes on, as it ends at the picture's edge.
    """
    moved = (
        replace(thing, x=(thing.x - left) / side, y=(thing.y - top) / side, side=thing.side / side)
        for thing in scene.things
    )
    things = tuple(thing for thing in moved if _is_seen(thing))
    return replace(scene, things=things, background=_part(scene.background, top, side))


def _is_seen(thing: Thing) -> bool:
    reach = REACH * thing.side
    return all(-reach < middle < 1 + reach for middle in (thing.x, thing.y))


def _part(background: Background, top: float, side: float) -> Background:
    if background.kind == "ground":
        return replace(background, horizon=(background.horizon - top) / side)
    return replace(background, top=_mixed(background, top), bottom=_mixed(background, top + side))


def _mixed(background: Background, y: float) -> RGB:
    """The colour at a height of the picture."""
    share = min(max(y, 0.0), 1.0)
    red, green, blue = (
        round(above + share * (below - above)) for above, below in zip(background.top, background.bottom, strict=True)
    )
    return red, green, blue
