"""CLIP's ids: known values, equality with transformers, spans, decoding and hostile text."""

import gzip
import hashlib
import random
import subprocess
import sys
import unicodedata
from dataclasses import replace
from importlib.resources import files
from itertools import pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from marmo.text.bpe import ClipTokenizer, clip_tokenizer

# Every code point, half surrogate pairs among them.
ANY_TEXT = st.text(st.characters(), max_size=60)
PRINTABLE_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=60)

HARD_TEXTS = [
    "",
    " ",
    "a photo of a cat",
    "A Photo Of A CAT, 4K, (masterpiece:1.2), [blurry]",
    "it's, we'll, i'm, you've, they'd, can't, you're; 's 'LL 'Re ''s 's's",
    "naïve café: cafe\u0301, e\u0301\u0323, \u0344, Å \u212b A\u030a",
    "\u1112\u1161\u11ab 한글 \u1112\u1161",
    "İstanbul ISPARTA ıŞIK ß ẞ ﬁre ΟΔΟΣ ὈΔΥΣΣΕΎΣ ǅ",
    "👩‍👩‍👧 🏳️‍🌈 👍🏽 1️⃣ 🇩🇪🇨 ❤️❤",
    "一只红色的狐狸，在雪地里。词：1.2！ 【水墨】",
    "赤い狐、雪の中で「跳ぶ」ﾊﾝｶｸ カ\u3099 が",
    "ثعلب أحمر فِي الثَّلْجِ ١٢٣",
    "शेर हिन्दी ไทย עִבְרִית ქართული",
    "tab\tnewline\nreturn\r\nvertical\x0bform\x0c next\x85line \u2028 \u2029 \xa0no-break\u3000wide",
    "nul\x00 bell\x07 escape\x1b[31m separators \x1c\x1d\x1e\x1f delete\x7f c1\x9b",
    "zero\u200bwidth\u200cnon\u200djoiner \ufeffbom soft\xadhyphen \u202ertl\u202c \u2060",
    "&amp; &lt;b&gt; &amp;amp; &#39; &nbsp; &copy &eacute;",
    "1234567890 3.14 1,000 ½ ² Ⅷ ① ٣ 𝟘 1st 1024x768",
    "snake_case __dunder__ a_b _ __ ___",
    "#hashtag @name http://example.org/?q=a&b=c C:\\dir\\file.png <lora:style:0.8> !!! ?! ... --- ====",
    "<|startoftext|>", "a<|endoftext|>b", "!!<|startoftext|>!!", "<|STARTOFTEXT|> <|EndOfText|>", "<||>",
    "</w> a</w>b Ġ Ċ Â",
    "supercalifragilisticexpialidocious" * 40,
    "狐" * 500,
    "!" * 1000,
    "z" * 5000,
    "\U0010ffff \ue000 \ufffd \U0001fae8 \u0378 \ua7cb 𠀀 𝔄𝓑",
]  # fmt: skip

ALPHABETS = [
    [chr(code) for code in range(0x20, 0x7F)],
    [chr(code) for code in range(0x00, 0x250)],
    [chr(code) for code in range(0x300, 0x370)] + list("aeiouAEIOU"),
    [chr(code) for code in range(0x370, 0x530)],
    [chr(code) for code in range(0x590, 0xE00)],
    [chr(code) for code in range(0x1100, 0x1200)] + ["한", "글"],
    [chr(code) for code in range(0x1E00, 0x2C00)],
    [chr(code) for code in range(0x3000, 0x3100)] + [chr(code) for code in range(0x4E00, 0x5000)],
    [chr(code) for code in range(0x1F300, 0x1F650)] + ["\u200d", "\ufe0f", "\u20e3"],
    [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000],
    list("'sStTlLmMdDrReEvV \t\n\r\v\f\x1c\x85\xa0\u2028\u200b\u3000\ufeff!<|>/&;#0123456789_"),
    ["cat ", "don't ", "İ", "ΣΣ ", "<|startoftext|>", "<|EndOfText|>", "&amp;", "👩‍👩‍👧", "漢字", "e\u0301", "3d "],
]  # fmt: skip


def random_texts(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(rng.choice(ALPHABETS), k=rng.randint(1, 40))) for _ in range(count)]


def pieces(text: str) -> list[str]:
    """The words, digits and runs of signs of `text`, normalised: what CLIP can tell apart."""
    lowered = "".join(map(str.lower, unicodedata.normalize("NFC", text)))
    return regex.findall(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", lowered)


# The vocabulary


def test_known_ids(tokenizer: ClipTokenizer) -> None:
    assert tokenizer.encode("a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert tokenizer.encode("!") == [256]
    assert (tokenizer.start, tokenizer.end, tokenizer.pad, tokenizer.vocab_size) == (49406, 49407, 49407, 49408)
    assert tokenizer.decode([tokenizer.start, tokenizer.end]) == "<|startoftext|><|endoftext|>"


def test_packed_merges_are_openais() -> None:
    packed = files("marmo.text").joinpath("clip_merges.txt.gz").read_bytes()
    digest = "d308b7377a8ceaa9707a21614fe8c831b9196e197b7aeb69833359362907af02"
    assert hashlib.sha256(gzip.decompress(packed)).hexdigest() == digest
    assert packed[4:8] == bytes(4)  # no time stamp: equal bytes whenever it is written


def test_built_once() -> None:
    assert clip_tokenizer() is clip_tokenizer()


def test_import_loads_neither_torch_nor_the_vocabulary() -> None:
    code = (
        "import sys, marmo.text.prompt, marmo.text.bpe as bpe;"
        "assert 'torch' not in sys.modules; assert bpe.clip_tokenizer.cache_info().currsize == 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pad_is_an_id(tokenizer: ClipTokenizer) -> None:
    assert replace(tokenizer, pad=0).pad == 0
    with pytest.raises(ValueError, match="pad must lie between 0 and 49407, got 49408"):
        replace(tokenizer, pad=49408)


# Equality with transformers


@pytest.mark.parity
@pytest.mark.parametrize("text", HARD_TEXTS, ids=lambda text: ascii(text[:20]))
def test_ids_of_hard_texts(tokenizer: ClipTokenizer, reference: CLIPTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids == reference(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == reference.decode(ids)


@pytest.mark.parity
def test_ids_of_random_texts(tokenizer: ClipTokenizer, reference: CLIPTokenizer) -> None:
    texts = random_texts(10_000)
    expected = reference(texts, add_special_tokens=False).input_ids
    assert [text for text, ids in zip(texts, expected, strict=True) if tokenizer.encode(text) != ids] == []


@pytest.mark.parity
def test_text_of_random_ids(tokenizer: ClipTokenizer, reference: CLIPTokenizer) -> None:
    rng = random.Random(1)
    rows = [rng.choices(range(tokenizer.vocab_size), k=rng.randint(0, 20)) for _ in range(1000)]
    assert [tokenizer.decode(row) for row in rows] == [reference.decode(row) for row in rows]


# Spans


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A  Red\tFOX, don't", ["A", "Red", "FOX", ",", "don", "'t"]),
        ("漢字 x", ["漢", "漢", "漢", "字", "字", "x"]),  # five ids of bytes
        ("İs", ["İ", "İ", "s"]),  # lower-cased to two characters, of which the second is no letter
        ("e\u0301 x", ["e", "x"]),  # NFC folds the accent in
        ("<|ENDOFTEXT|>hi", ["<|ENDOFTEXT|>", "hi"]),
        ("a\ud800b", ["a", "\ud800", "b"]),
    ],
)
def test_spans_lie_in_the_given_text(tokenizer: ClipTokenizer, text: str, words: list[str]) -> None:
    assert [text[start:stop] for start, stop in tokenizer.spans(text)] == words


@settings(deadline=None, derandomize=True)
@given(ANY_TEXT)
def test_spans_are_ordered_and_not_empty(text: str) -> None:
    spans = clip_tokenizer().spans(text)
    assert len(spans) == len(clip_tokenizer().encode(text))
    assert all(0 <= start < stop <= len(text) for start, stop in spans)
    assert all(before[0] <= after[0] for before, after in pairwise(spans))


# Any text


@settings(deadline=None, derandomize=True, max_examples=300)
@given(ANY_TEXT)
def test_any_text_has_ids_and_any_ids_have_text(text: str) -> None:
    tokenizer = clip_tokenizer()
    ids = tokenizer.encode(text)
    assert all(0 <= index < tokenizer.vocab_size for index in ids)
    assert isinstance(tokenizer.decode(ids), str)


@pytest.mark.long
@settings(deadline=None, derandomize=True, max_examples=300)
@given(PRINTABLE_TEXT)
def test_decoding_gives_the_normalised_text(text: str) -> None:
    tokenizer = clip_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == " ".join(pieces(text))


def test_half_a_surrogate_pair_reads_as_the_replacement_character(tokenizer: ClipTokenizer) -> None:
    assert tokenizer.encode("fox \udc41 \ud800!") == tokenizer.encode("fox \ufffd \ufffd!")


@pytest.mark.parametrize("ids", [[-1], [320, 49408], [2**40]])
def test_ids_outside_the_vocabulary_are_refused(tokenizer: ClipTokenizer, ids: list[int]) -> None:
    with pytest.raises(ValueError, match="ids must lie between 0 and 49407"):
        tokenizer.decode(ids)
