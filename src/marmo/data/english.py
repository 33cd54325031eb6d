"""The English grammar: articles, plurals, sentences and tags."""

import re

from marmo.data.backgrounds import GROUNDS, PAINTS
from marmo.data.corpus import Style, corpus
from marmo.data.dice import Dice
from marmo.data.scene import Background, Relation, Scene, Thing
from marmo.data.shapes import Fill
from marmo.data.words import Words

NUMBERS = ("", "one", "two", "three", "four", "five", "six")
STYLES: dict[Style, str] = {"noto": "Noto", "twemoji": "Twemoji", "fluent": "Fluent"}
FILLS: dict[Fill, tuple[str, ...]] = {
    "solid": ("solid", "filled"),
    "outline": ("outlined", "hollow"),
    "striped": ("striped",),
}

IRREGULAR = {
    "man": "men",
    "woman": "women",
    "person": "people",
    "child": "children",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "mouse": "mice",
    "ox": "oxen",
    "wolf": "wolves",
    "elf": "elves",
    "leaf": "leaves",
    "loaf": "loaves",
    "knife": "knives",
    "scarf": "scarves",
    "die": "dice",
    "cactus": "cacti",
    "policeman": "policemen",
}
UNCHANGED = {
    "fish",
    "sheep",
    "deer",
    "moose",
    "bison",
    "squid",
    "shrimp",
    "elk",
    "dice",
    "tuna",
    "pufferfish",
    "jellyfish",
}
ENDS_IN_ES = re.compile(r"(s|x|z|ch|sh|tomato|potato|mango|buffalo|volcano|hero)$")
TAKES_S = {"stomach"}
"""ch as in k."""

AN = re.compile(r"^(hour|heir|honest|SUV|[aeiou])", re.IGNORECASE)
NOT_AN = re.compile(r"^(uni|UFO|U-|use|eu|one)", re.IGNORECASE)

NO_ARTICLE = re.compile(
    r"(glasses|jeans|shorts|socks|gloves|headphones|scissors|skis|maracas|fries|chips|pasta|spaghetti|ramen|luggage|"
    r"paella|soup|French bread|cooked rice|curry and rice|canned food|soft ice cream|sakura|green salad|cheese fondue|"
    r"bok choy|Earth|Saturn|ginger root|chopsticks|money)$"
)
"""Synonyms that stand without an article even where the name has one."""

PREPOSITIONS = re.compile(
    r" (of|with|without|in|on|at|over|behind|covering|blowing|crying|wearing|getting|doing|tipping|"
    r"raising|bouncing|seen|riding|playing|lifting|rowing|climbing|surfing|fencing|swimming|juggling) "
)
LOOSE_HEADS = re.compile(r"^(pair|ball|stack|pile|bunch|bouquet|string) of ")
"""A colour belongs to what comes after: a pair of red gloves."""


def plural(name: str) -> str:
    """Of a name such as "slice of pizza": the head takes the ending."""
    cut = PREPOSITIONS.search(name)
    head, rest = (name[: cut.start()], name[cut.start() :]) if cut else (name, "")
    *before, last = head.split(" ")
    return " ".join([*before, _plural_word(last)]) + rest


def _plural_word(word: str) -> str:
    low = word.lower()
    if low in UNCHANGED:
        return word
    for single, several in IRREGULAR.items():
        if low == single or (low.endswith(single) and single in ("man", "woman") and low != "human"):
            return word[: len(word) - len(single)] + several
    if low.endswith("y") and low[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if ENDS_IN_ES.search(low) and low not in TAKES_S else "s")


def is_countable(name: str) -> bool:
    """Whether a number can stand before it."""
    return not NO_ARTICLE.search(name) or name.startswith("pair of ")


def with_article(phrase: str) -> str:
    """a or an, by sound."""
    is_an = AN.match(phrase) and not NOT_AN.match(phrase)
    return f"{'an' if is_an else 'a'} {phrase}"


def sentence(scene: Scene, words: Words, dice: Dice) -> str:
    """What stands in the picture, then perhaps its background and style."""
    match scene.kind:
        case "single":
            body = _single(scene.things[0], words, dice)
        case "pair":
            body = _pair(scene, words, dice)
        case "count":
            body = _count(scene, words, dice)
    if words.has_background:
        body = f"{body} {_background(scene.background, dice)}"
    return _in_style(body, words.style, dice)


def plain(scene: Scene, words: Words) -> str:
    """Nothing left to chance."""
    things = [_described(thing, name) for thing, name in zip(scene.things, words.names, strict=False)]
    match scene.kind:
        case "single":
            return things[0]
        case "pair":
            return f"{things[0]} {'left of' if scene.relation == 'left' else 'above'} {things[1]}"
        case "count":
            return _numbered(scene, words.names[0], NUMBERS[len(scene.things)])


def tags(scene: Scene, words: Words, dice: Dice) -> str:
    """Key words, the things first."""
    told = list(zip(scene.things, words.names, strict=False))
    match scene.kind:
        case "count":
            items = [_numbered(scene, words.names[0], str(len(scene.things)))]
        case "pair":
            items = [_adjectives(thing, name) for thing, name in told]
            if words.has_relation:
                items.append(f"{words.names[0]} {'left of' if scene.relation == 'left' else 'above'} {words.names[1]}")
        case "single":
            thing, name = told[0]
            items = [name, *_marks(thing)] if dice.chance(0.5) else [_adjectives(thing, name)]
    if words.style:
        items.append(f"{STYLES[words.style]} style")
    if words.has_background:
        items.append(_background_tag(scene.background))
    return ", ".join(items)


def _single(thing: Thing, words: Words, dice: Dice) -> str:
    phrase = _described(thing, words.names[0], words.size)
    return dice.choice(("", "", "", "a picture of ", "a drawing of ", "an illustration of ")) + phrase


def _pair(scene: Scene, words: Words, dice: Dice) -> str:
    a, b = (_described(thing, name) for thing, name in zip(scene.things, words.names, strict=True))
    if not words.has_relation:
        beside = f"{b} next to {a}" if scene.relation == "left" else f"{b} and {a}"
        return dice.choice((f"{a} and {b}", f"{b} and {a}", f"{a} with {b}", beside))
    assert scene.relation is not None
    return dice.choice(_relations(a, b, scene.relation))


def _relations(a: str, b: str, relation: Relation) -> tuple[str, ...]:
    if relation == "left":
        return (
            f"{a} to the left of {b}",
            f"{a} on the left of {b}",
            f"{a} left of {b}",
            f"{b} to the right of {a}",
            f"{b} right of {a}",
            f"{a} on the left and {b} on the right",
        )
    return (
        f"{a} above {b}",
        f"{b} below {a}",
        f"{b} under {a}",
        f"{a} at the top and {b} at the bottom",
        f"{b} with {a} above it",
    )


def _count(scene: Scene, words: Words, dice: Dice) -> str:
    count = len(scene.things)
    number = dice.choice(("one", "a single", "just one")) if count == 1 else NUMBERS[count]
    if dice.chance(0.1):
        number = str(count)
    opening = dice.choice(("", "", "a picture of ", "a group of " if count > 2 else ""))
    return opening + _numbered(scene, words.names[0], number)


def _numbered(scene: Scene, name: str, number: str) -> str:
    return f"{number} {_adjectives(scene.things[0], name if len(scene.things) == 1 else plural(name))}"


def _described(thing: Thing, name: str, size: str | None = None) -> str:
    """With its article."""
    phrase = _adjectives(thing, name, size)
    article = corpus()[thing.concept].article
    if article == "the":
        return f"the {phrase}"
    return with_article(phrase) if article == "a" and is_countable(name) else phrase


def _adjectives(thing: Thing, name: str, size: str | None = None) -> str:
    marks = " ".join(([size] if size else []) + _marks(thing))
    if not marks:
        return name
    if thing.colour and not size and (loose := LOOSE_HEADS.match(name)):
        return f"{loose[0]}{marks} {name[loose.end() :]}"
    loose = re.match(r"^(pairs|balls|stacks|piles|bunches|bouquets|strings) of ", name)
    return f"{loose[0]}{marks} {name[loose.end() :]}" if loose else f"{marks} {name}"


def _marks(thing: Thing) -> list[str]:
    fill = [] if thing.fill is None or thing.fill == "solid" else [FILLS[thing.fill][0]]
    return fill + ([thing.colour] if thing.colour else [])


def _background(background: Background, dice: Dice) -> str:
    if background.kind == "ground":
        return GROUNDS[background.name].en
    name = PAINTS[background.name].en
    return dice.choice((f"on {with_article(name)} background", f"against {with_article(name)} background"))


def _background_tag(background: Background) -> str:
    return GROUNDS[background.name].en if background.kind == "ground" else f"{PAINTS[background.name].en} background"


def _in_style(body: str, style: Style | None, dice: Dice) -> str:
    if style is None:
        return body
    name = STYLES[style]
    after = f"{body}, {name} style", f"{body} in {name} style", f"{body} in the style of {name}"
    return dice.choice((*after, f"{name} style, {body}"))
