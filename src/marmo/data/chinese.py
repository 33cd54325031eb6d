"""The Chinese grammar: measure words, 两 and 三, sentences and tags."""

from marmo.data.backgrounds import GROUNDS, PAINTS
from marmo.data.colours import COLOURS
from marmo.data.corpus import Style, corpus
from marmo.data.dice import Dice
from marmo.data.scene import Background, Relation, Scene, Thing
from marmo.data.shapes import Fill
from marmo.data.words import Words

NUMBERS = ("", "一", "两", "三", "四", "五", "六")
STYLES: dict[Style, str] = {"noto": "Noto", "twemoji": "Twemoji", "fluent": "Fluent"}
FILLS: dict[Fill, str] = {"solid": "", "outline": "空心", "striped": "条纹"}
SIZES = {"big": "大大的", "small": "小小的"}


def sentence(scene: Scene, words: Words, dice: Dice) -> str:
    """Background, things, style, in the order that Chinese has them."""
    match scene.kind:
        case "single":
            body = _single(scene.things[0], words, dice)
        case "pair":
            body = _pair(scene, words, dice)
        case "count":
            body = _numbered(scene, words.names[0])
            body = dice.choice(("", "", "图中有", "画里有")) + body
    if words.has_background:
        body = _before_background(body, scene.background, dice)
    return _in_style(body, words.style, dice)


def plain(scene: Scene, words: Words) -> str:
    """Nothing left to chance."""
    things = [_described(thing, name) for thing, name in zip(scene.things, words.names, strict=False)]
    match scene.kind:
        case "single":
            return things[0]
        case "pair":
            return f"{things[0]}在{things[1]}的{'左边' if scene.relation == 'left' else '上面'}"
        case "count":
            return _numbered(scene, words.names[0])


def tags(scene: Scene, words: Words, dice: Dice) -> str:
    """Key words, the things first."""
    told = list(zip(scene.things, words.names, strict=False))
    match scene.kind:
        case "count":
            items = [_numbered(scene, words.names[0])]
        case "pair":
            items = [_coloured(thing, name) for thing, name in told]
            if words.has_relation:
                items.append(f"{words.names[0]}在{words.names[1]}{'左边' if scene.relation == 'left' else '上面'}")
        case "single":
            thing, name = told[0]
            items = [name, *_marks(thing)] if dice.chance(0.5) else [_coloured(thing, name)]
    if words.style:
        items.append(f"{STYLES[words.style]}风格")
    if words.has_background:
        items.append(_background(scene.background))
    return "，".join(items)


def _single(thing: Thing, words: Words, dice: Dice) -> str:
    phrase = _described(thing, words.names[0], words.size)
    return dice.choice(("", "", "", "图中是", "画着")) + phrase


def _pair(scene: Scene, words: Words, dice: Dice) -> str:
    a, b = (_described(thing, name) for thing, name in zip(scene.things, words.names, strict=True))
    if not words.has_relation:
        return dice.choice((f"{a}和{b}", f"{b}和{a}", f"{a}与{b}", f"图中有{a}和{b}"))
    assert scene.relation is not None
    return dice.choice(_relations(a, b, scene.relation))


def _relations(a: str, b: str, relation: Relation) -> tuple[str, ...]:
    if relation == "left":
        return (
            f"{a}在{b}的左边",
            f"{b}在{a}的右边",
            f"{b}的左边有{a}",
            f"{a}的右边有{b}",
            f"左边是{a}，右边是{b}",
        )
    return (
        f"{a}在{b}的上面",
        f"{b}在{a}的下面",
        f"{b}的上面有{a}",
        f"{a}的下面有{b}",
        f"上面是{a}，下面是{b}",
    )


def _numbered(scene: Scene, name: str) -> str:
    return f"{NUMBERS[len(scene.things)]}{_measure(scene.things[0])}{_coloured(scene.things[0], name)}"


def _described(thing: Thing, name: str, size: str | None = None) -> str:
    """一, the measure word, what it looks like, the name; what is never counted stands bare."""
    phrase = (SIZES[size] if size else "") + _coloured(thing, name)
    if set(corpus()[thing.concept].flags) & set("ut"):
        return phrase
    return f"一{_measure(thing)}{phrase}"


def _measure(thing: Thing) -> str:
    return corpus()[thing.concept].measure


def _coloured(thing: Thing, name: str) -> str:
    colour = f"{COLOURS[thing.colour].zh}的" if thing.colour else ""
    return colour + (FILLS[thing.fill] if thing.fill else "") + name


def _marks(thing: Thing) -> list[str]:
    fill = [FILLS[thing.fill]] if thing.fill and FILLS[thing.fill] else []
    return fill + ([COLOURS[thing.colour].zh] if thing.colour else [])


def _background(background: Background) -> str:
    return GROUNDS[background.name].zh if background.kind == "ground" else f"{PAINTS[background.name].zh}背景"


def _before_background(body: str, background: Background, dice: Dice) -> str:
    where = _background(background)
    if background.kind == "ground":
        return f"{body}，{where}"
    return dice.choice((f"{body}，{where}", f"{where}，{body}"))


def _in_style(body: str, style: Style | None, dice: Dice) -> str:
    if style is None:
        return body
    name = STYLES[style]
    return dice.choice((f"{body}，{name}风格", f"{name}风格，{body}", f"{name}风格的图画：{body}"))
