"""Our ids beside those of OpenAI's original tokenizer: where they are equal, and every kind of text where they are not.

The original is written out here from its published description, except for ftfy, the library that it runs first: what
ftfy 6.3.1 makes of the examples stands beside them.  The same list, for readers, is in docs/text.md.
"""

import gzip
import html
import math
import random
import unicodedata
from functools import cache
from importlib.resources import files
from itertools import pairwise

import pytest
import regex

from marmo.text.bpe import ClipTokenizer

PIECES = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)
SPECIALS = ["<|startoftext|>", "<|endoftext|>"]


@cache
def bytes_to_unicode() -> dict[int, str]:
    """Printable bytes stand for themselves, first; the others follow as U+0100, U+0101, ..."""
    printable = [byte for byte in range(256) if 33 <= byte <= 126 or (161 <= byte <= 255 and byte != 173)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}


@cache
def merge_ranks() -> dict[tuple[str, ...], int]:
    packed = files("marmo.text").joinpath("clip_merges.txt.gz").read_bytes()
    return {tuple(line.split()): rank for rank, line in enumerate(gzip.decompress(packed).decode().splitlines())}


@cache
def encoder() -> dict[str, int]:
    letters = list(bytes_to_unicode().values())
    symbols = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merge_ranks()), *SPECIALS]
    return {symbol: index for index, symbol in enumerate(symbols)}


@cache
def bpe(piece: str) -> list[str]:
    """Joins the pair of lowest rank, everywhere, until no pair is known."""
    if piece in SPECIALS:
        return [piece]
    word = [bytes_to_unicode()[byte] for byte in piece.encode()]
    word[-1] += "</w>"
    while len(word) > 1:
        pair = min(pairwise(word), key=lambda pair: merge_ranks().get(pair, math.inf))
        if pair not in merge_ranks():
            break
        word = join(word, pair)
    return word


def join(word: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for symbol in word:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return joined


def openai_encode(text: str) -> list[int]:
    unescaped = html.unescape(html.unescape(text)).strip()
    cleaned = regex.sub(r"\s+", " ", unescaped).strip().lower()
    return [encoder()[symbol] for piece in PIECES.findall(cleaned) for symbol in bpe(piece)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a photo of a cat",
        "A Painting,  in the style of J.M.W. Turner (1840): storm & fire!!",
        "don't WE'LL i'm you've it's they'd you're 'S",
        "supercalifragilisticexpialidocious " * 5,
        "一只红色的狐狸。 赤い狐 여우 ثعلب أحمر лиса αλεπού",
        "İstanbul ß 👩‍👩‍👧 🏳️‍🌈 1️⃣ snake_case #tag @me 3.14 ½ Ⅷ",
        "tab\tnewline\r\nwide\u3000no-break\xa0line\u2028separator",
        "<|startoftext|>a fox<|endoftext|> <|STARTOFTEXT|>",
    ],
)
def test_ordinary_text_has_equal_ids(tokenizer: ClipTokenizer, text: str) -> None:
    assert tokenizer.encode(text) == openai_encode(text)


@pytest.mark.long
def test_random_ascii_has_equal_ids(tokenizer: ClipTokenizer) -> None:
    rng = random.Random(0)
    letters = [chr(code) for code in range(32, 127) if chr(code) != "&"]
    texts = ["".join(rng.choices(letters, k=rng.randint(1, 60))) for _ in range(2000)]
    assert [text for text in texts if tokenizer.encode(text) != openai_encode(text)] == []


@pytest.mark.long
def test_only_three_characters_of_the_basic_plane_differ(tokenizer: ClipTokenizer) -> None:
    """Assigned characters in NFC; ideographs, hangul syllables and private use are left out for time."""
    characters = map(chr, [*range(0x3400), *range(0xA000, 0xAC00), *range(0xFB00, 0x10000)])
    assigned = [letter for letter in characters if unicodedata.category(letter) not in ("Cn", "Co", "Cs")]
    texts = {letter: f"a{letter} {letter}b x'{letter} z" for letter in assigned}
    stable = {letter: text for letter, text in texts.items() if unicodedata.is_normalized("NFC", text)}
    differ = [letter for letter, text in stable.items() if tokenizer.encode(text) != openai_encode(text)]
    assert differ == ["ſ", "\u0345", "Σ"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("black &amp; white", id="html entity"),
        pytest.param("&lt;b&gt;", id="html entity of a bracket"),
        pytest.param("&amp;lt;", id="html entity, twice"),
        pytest.param("&eacute;toile", id="html entity of a letter"),
        pytest.param("ΟΔΟΣ", id="final capital sigma"),
        pytest.param("it'ſ", id="long s after an apostrophe"),
        pytest.param("ᾳ\u0345", id="combining iota below"),
        pytest.param("!<|endoftext|>", id="special token after a sign"),
    ],
)
def test_listed_differences(tokenizer: ClipTokenizer, text: str) -> None:
    assert tokenizer.encode(text) != openai_encode(text)


@pytest.mark.parametrize(
    ("text", "fixed"),
    [
        pytest.param("schÃ¶n", "schön", id="wrongly decoded UTF-8"),
        pytest.param("“fox”", '"fox"', id="curly quotes"),
        pytest.param("don’t", "don't", id="curly apostrophe"),
        pytest.param("ＦＯＸ，", "FOX,", id="full width"),
        pytest.param("ｶﾒﾗ", "カメラ", id="half width"),
        pytest.param("ﬁre", "fire", id="ligature"),
        pytest.param("a\x07b\x1cc\ufeffd", "abcd", id="control characters, byte order mark"),
        pytest.param("\x1b[31mred", "red", id="terminal colours"),
    ],
)
def test_differences_that_ftfy_makes(tokenizer: ClipTokenizer, text: str, fixed: str) -> None:
    assert tokenizer.encode(text) != openai_encode(fixed)
    assert tokenizer.encode(fixed) == openai_encode(fixed)


@pytest.mark.parametrize("text", ["cafe\u0301", "A\u030angstrom", "\u1112\u1161\u11ab"])
def test_nfc_is_ours_and_ftfys(tokenizer: ClipTokenizer, text: str) -> None:
    assert tokenizer.encode(text) != openai_encode(text)
    assert tokenizer.encode(text) == openai_encode(unicodedata.normalize("NFC", text))
