"""The tokenizer recipe: merges as byte-pair encoding defines them, the same for the same captions, open elsewhere."""

import json
import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from marmo.recipes.tokenizer import Config, learn, main, report, tiny
from marmo.text.bpe import ClipTokenizer, byte_symbols, clip_tokenizer

CAPTIONS = 3 * ["a low lower lowest tower", "一只红色的狐狸在雪地里", "一只蓝色的狐狸", "two red foxes, don't!", "33"]


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return main(replace(tiny(), folder=tmp_path_factory.mktemp("usual"), data="scenes"))


def by_hand(captions: list[str], number: int) -> list[tuple[str, str]]:
    """Sennrich et al. 2016, algorithm 1, on bytes; of equally common pairs the one with the smaller ids."""
    backend, ids = clip_tokenizer().backend, {symbol: index for index, symbol in enumerate(byte_symbols())}
    assert backend.normalizer is not None and backend.pre_tokenizer is not None
    words: list[list[str]] = []
    for caption in captions:
        for piece, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(caption)):
            words.append([*piece[:-1], piece[-1] + "</w>"])
    merges: list[tuple[str, str]] = []
    while len(merges) < number:
        pairs = Counter(pair for word in words for pair in pairwise(word))
        best = min(pairs, key=lambda pair: (-pairs[pair], ids[pair[0]], ids[pair[1]]))
        merges.append(best)
        ids[best[0] + best[1]] = len(ids)
        words = [joined(word, best) for word in words]
    return merges


def joined(word: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def test_merges_are_those_of_byte_pair_encoding() -> None:
    assert learn(CAPTIONS, 514 + 50) == by_hand(CAPTIONS, 50)


def test_the_order_of_captions_does_not_matter() -> None:
    mixed = random.Random(0).sample(CAPTIONS, len(CAPTIONS))
    assert learn(CAPTIONS, 560) == learn(mixed, 560)


@pytest.mark.long
def test_the_same_captions_give_the_same_bytes(usual: Path, tmp_path: Path) -> None:
    again = main(replace(tiny(), folder=tmp_path, data="scenes"))
    assert [path.read_bytes() for path in sorted(again.iterdir())] == [p.read_bytes() for p in sorted(usual.iterdir())]


def test_what_it_learned_is_shorter(usual: Path) -> None:
    """Than OpenAI's 49,408 ids in Chinese, with 1,024."""
    tokenizer, text = ClipTokenizer.from_folder(usual), "一只猫在一辆红色的自行车的左边"
    assert tokenizer.vocab_size == 1024
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(text)) < 0.7 * len(clip_tokenizer().encode(text))
    tokens = json.loads((usual.parent / "report.json").read_text())["tokens"]
    assert tokens["en"]["captions"] + tokens["zh"]["captions"] == 1000
    assert 0 < tokens["zh"]["mean"] < tokens["zh"]["most"]


@pytest.mark.parity
def test_transformers_opens_it_with_equal_ids(usual: Path) -> None:
    from transformers import CLIPTokenizer

    ours, theirs = ClipTokenizer.from_folder(usual), CLIPTokenizer.from_pretrained(usual)
    texts = [*CAPTIONS, "A PURPLE Seal, naïve café e\u0301", "狐", "👩‍👩‍👧 ½ ³", "", "1234 don't''s", "ＦＯＸ，Ⅷ"]
    for text in texts:
        assert theirs(text).input_ids == [ours.start, *ours.encode(text), ours.end]
    assert (theirs.vocab_size, theirs.model_max_length, theirs.pad_token_id) == (1024, 48, ours.end)


def test_a_collection_gives_its_captions(tmp_path: Path) -> None:
    for number, caption in enumerate(CAPTIONS):
        (tmp_path / f"{number}.png").write_bytes(b"no picture at all")
        (tmp_path / f"{number}.txt").write_text(caption, encoding="utf-8")
    (tmp_path / "15.png").write_bytes(b"without a caption")
    path = main(Config(folder=tmp_path / "out", data=tmp_path, vocab_size=560))
    assert (path / "merges.txt").read_bytes() == saved(tmp_path / "direct", learn(CAPTIONS, 560))


def saved(folder: Path, merges: list[tuple[str, str]]) -> bytes:
    ClipTokenizer.from_merges(merges).save(folder)
    return (folder / "merges.txt").read_bytes()


@pytest.mark.long
@pytest.mark.parametrize(
    ("knob", "value"), [("vocab_size", 1000), ("captions", 900), ("length", 77), ("seed", 1), ("split", "all")]
)
def test_every_knob_acts(tmp_path: Path, usual: Path, knob: str, value: object) -> None:
    other = main(replace(tiny(), folder=tmp_path, data="scenes", **{knob: value}))
    assert [p.read_bytes() for p in sorted(other.iterdir())] != [p.read_bytes() for p in sorted(usual.iterdir())]


def test_what_cannot_be_learned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give --data"):
        main(Config(folder=tmp_path))
    with pytest.raises(ValueError, match="a vocabulary of 514 has no room for merges"):
        learn(CAPTIONS, 514)
    with pytest.raises(ValueError, match=r"these captions give 3 merges and no more; .* --vocab-size 517"):
        learn(["abcd"], 600)


def test_a_report_counts_by_language() -> None:
    found = report(clip_tokenizer(), ["a fox", "a red fox", "狐"])
    assert found["tokens"] == {
        "en": {"captions": 2, "mean": 2.5, "most": 3},
        "zh": {"captions": 1, "mean": 3.0, "most": 3},
    }
