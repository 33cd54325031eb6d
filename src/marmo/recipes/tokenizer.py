"""A tokenizer of one's own: byte-level BPE in CLIP's form, learned from captions.

    python -m marmo.recipes.tokenizer base --data scenes --folder out/tokenizer
    python -m marmo.recipes.tokenizer base --data pictures/ --vocab-size 4096 --folder out/tokenizer

Sennrich et al. 2016 (https://arxiv.org/abs/1508.07909): the pair of neighbouring symbols that is seen most often
becomes a symbol, again and again; Radford et al. 2019 begin with bytes, so that no text is unknown.  Text is cut into
pieces as CLIP cuts it (`marmo.text.bpe`), so Chinese, which has no spaces, learns whole phrases.  The result,
`tokenizer/`, opens in transformers as `CLIPTokenizer`.

Hardware and numbers: 50,000 captions in about half a minute of one CPU core, most of it for drawing up the captions.
docs/training.md has the tokens per caption for vocabularies of three sizes.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import tyro
from tokenizers import Tokenizer, models, trainers

from marmo.data.splits import Split
from marmo.files.atomic import atomic_write
from marmo.text.bpe import NUM_FIXED, ClipTokenizer, Pair, byte_symbols, clip_tokenizer

CHINESE = "一", "鿿"  # the first and the last of Unicode's Han characters that are in daily use


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that the merges depend on, beside the data."""

    folder: Path = Path("out/tokenizer")
    """Where `tokenizer/` and the report go"""
    data: Literal["scenes"] | Path | None = None
    """Captions: of Marmo's scenes, or of a collection as the other recipes take it"""
    vocab_size: int = 8192
    """Ids in all: 512 for bytes, 2 for start and end, the others for merges"""
    captions: int = 50_000
    """How many to read, at most"""
    length: int = 48
    """Ids of a whole prompt, to which other programs shall cut it"""
    seed: int = 0
    """Of the scenes"""
    split: Split = "train"
    """Of the scenes"""


def tiny() -> Config:
    """A second on a CPU."""
    return replace(Config(), vocab_size=1024, captions=1000)


def presets() -> Mapping[str, tuple[str, Config]]:
    """By name, with a line of help."""
    return {"base": ("8,192 ids", Config()), "tiny": (str(tiny.__doc__), tiny())}


def main(config: Config, captions: Iterable[str] | None = None) -> Path:
    """Learn the merges and write the folder; returns the path of `tokenizer/`.

    Args:
        captions: those of `config.data` by default.
    """
    texts = list(_captions(config) if captions is None else captions)[: config.captions]
    tokenizer = ClipTokenizer.from_merges(learn(texts, config.vocab_size))
    path = config.folder / "tokenizer"
    tokenizer.save(path, config.length)
    with atomic_write(config.folder / "report.json") as stream:
        stream.write((json.dumps(report(tokenizer, texts), indent=2) + "\n").encode())
    return path


def learn(captions: Iterable[str], vocab_size: int) -> list[Pair]:
    """The merges that bring a vocabulary to `vocab_size` ids, in the order in which they were found.

    The same captions give the same merges in any order: of pairs that are equally common the one with the smaller ids
    is joined first, and bytes have their ids beforehand, in CLIP's order.
    """
    if vocab_size <= NUM_FIXED:
        raise ValueError(f"a vocabulary of {vocab_size} has no room for merges; give more than {NUM_FIXED}")
    fixed = byte_symbols()
    # Called special, the symbols get their ids before any word is read.
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        special_tokens=fixed,  # pyright: ignore[reportArgumentType] its stub says a list of either kind
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner, usual = Tokenizer(models.BPE(end_of_word_suffix="</w>")), clip_tokenizer().backend
    learner.normalizer, learner.pre_tokenizer = usual.normalizer, usual.pre_tokenizer
    learner.train_from_iterator(captions, trainer)  # pyright: ignore[reportUnknownMemberType]
    merges = _merges(learner)
    if len(merges) < vocab_size - NUM_FIXED:
        raise ValueError(
            f"these captions give {len(merges)} merges and no more; give other captions, or --vocab-size "
            f"{NUM_FIXED + len(merges)}"
        )
    return merges


def report(tokenizer: ClipTokenizer, captions: Sequence[str]) -> dict[str, object]:
    """Ids per caption, without start and end; a caption with a Chinese character counts as Chinese."""
    lengths: dict[str, list[int]] = defaultdict(list)
    for caption in captions:
        language = "zh" if any(CHINESE[0] <= character <= CHINESE[1] for character in caption) else "en"
        lengths[language].append(len(tokenizer.encode(caption)))
    tokens = {
        language: {"captions": len(counts), "mean": round(sum(counts) / len(counts), 2), "most": max(counts)}
        for language, counts in sorted(lengths.items())
    }
    return {"vocab_size": tokenizer.vocab_size, "tokens": tokens}


def _captions(config: Config) -> Iterator[str]:
    match config.data:
        case None:
            raise ValueError("there is nothing to learn from: give --data")
        case "scenes":
            from marmo.data.scenes import sample

            return (sample(config.seed, index, config.split).caption.text for index in range(config.captions))
        case Path() as path:
            from marmo.data.defects import caption_at  # reads picture records, too, and so needs pydantic
            from marmo.data.pictures import open_items

            items = open_items(path)
            return (caption_at(items, index) for index in range(len(items)))


def _merges(learner: Tokenizer) -> list[Pair]:
    """Out of the only place where the library shows them."""
    model = cast("dict[str, dict[str, list[list[str]]]]", json.loads(learner.to_str()))["model"]
    return [(first, second) for first, second in model["merges"]]


if __name__ == "__main__":
    main(tyro.extras.overridable_config_cli(dict(presets())))
