"""CLIP's tokenizer: text to byte-pair ids and back, without PyTorch; with OpenAI's merges or others of the same form.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2103.00020), section 2.4.
Text is brought to Unicode's NFC, lower-cased and split into words, single digits and runs of signs.  Each such piece
becomes UTF-8 bytes, and learned merges join neighbouring bytes into longer symbols; `</w>` marks the last symbol of a
piece.  docs/text.md lists where OpenAI's own code cleans text differently.

`clip_merges.txt.gz` holds the merges, one pair of symbols a line, in the order in which they were learned.  They are
lines 2 to 48,895 of OpenAI's `bpe_simple_vocab_16e6.txt.gz` (MIT, see NOTICE; taken from open_clip_torch 3.3.0).  The
rest of that file is never used: OpenAI's code stops at the same line.
"""

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import cast

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from marmo.files.atomic import atomic_write

Pair = tuple[str, str]

START_TEXT = "<|startoftext|>"
END_TEXT = "<|endoftext|>"
# OpenAI's published pattern: English endings, words, single digits, runs of signs.  Whitespace only separates.
PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
SURROGATE = re.compile("[\ud800-\udfff]")
NUM_FIXED = 514
"""Ids that are no merges: the bytes, twice, start and end."""


@dataclass(frozen=True, eq=False)
class ClipTokenizer:
    """Text to ids and back; `clip_tokenizer()` makes the usual one.

    `pad` is the id that fills a prompt up: the end token, or 0 ("!") for the OpenCLIP encoders of SD 2 and SDXL.
    """

    backend: Tokenizer = field(repr=False)
    pad: int

    def __post_init__(self) -> None:
        if not 0 <= self.pad < self.vocab_size:
            raise ValueError(f"pad must lie between 0 and {self.vocab_size - 1}, got {self.pad}")

    @classmethod
    def from_merges(cls, merges: Sequence[Pair]) -> "ClipTokenizer":
        """A tokenizer of 514 + len(merges) ids; a merge joins two symbols that are bytes or earlier merges."""
        backend = _build(list(merges), _number(merges))
        return cls(backend, backend.get_vocab_size() - 1)

    @classmethod
    def from_folder(cls, folder: str | Path) -> "ClipTokenizer":
        """Opens the `tokenizer/` of a diffusers folder; a ValueError names the file that is missing or wrong."""
        folder = Path(folder)
        files = folder.iterdir() if folder.is_dir() else ()
        return _open(folder, tuple(sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)))

    @property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size()

    @property
    def start(self) -> int:
        return self.vocab_size - 2

    @property
    def end(self) -> int:
        """The largest id, by which `ClipText.pool` finds it."""
        return self.vocab_size - 1

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, as many as it takes, without start and end."""
        return self.backend.encode(_without_surrogates(text)).ids

    def spans(self, text: str) -> list[tuple[int, int]]:
        """For each id of `encode(text)` the characters `text[start:stop]` that it stands for.

        Ids that share a character share its span.  A combining mark that NFC folds into its letter lies outside.
        """
        return self.backend.encode(_without_surrogates(text)).offsets

    def decode(self, ids: Sequence[int]) -> str:
        """Lower-case text of `ids`, its pieces apart by a space; bytes that make no character become U+FFFD."""
        last = self.vocab_size - 1
        if any(not 0 <= index <= last for index in ids):
            raise ValueError(f"ids must lie between 0 and {last}, got {min(ids)} to {max(ids)}")
        return self.backend.decode(ids, skip_special_tokens=False).replace("</w>", " ").strip()

    def save(self, folder: str | Path, length: int = 77) -> None:
        """Writes the `tokenizer/` of a diffusers folder: four files, which transformers opens as `CLIPTokenizer`.

        Args:
            length: ids of a whole prompt, to which other programs cut it.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.model.save(str(folder))  # vocab.json, merges.txt
        specials = self._special_tokens()
        typed = {role: {"__type": "AddedToken", **token} for role, token in specials.items()}
        config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, **typed}
        _write_json(folder / "special_tokens_map.json", specials)
        _write_json(folder / "tokenizer_config.json", config)

    def to_json(self) -> str:
        """The merges in their order, and the token that fills up: all that makes this tokenizer."""
        model = json.loads(self.backend.to_str())["model"]
        return json.dumps({"merges": [" ".join(pair) for pair in model["merges"]], "pad": self.pad}, ensure_ascii=False)

    def _special_tokens(self) -> dict[str, dict[str, object]]:
        pad_text = self.backend.id_to_token(self.pad)
        contents = {"bos_token": START_TEXT, "eos_token": END_TEXT, "unk_token": END_TEXT, "pad_token": pad_text}
        flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        return {role: {"content": content, **flags} for role, content in contents.items()}


@dataclass(frozen=True)
class TokenizerPlace:
    """Where a tokenizer of a model's own stands; opened when it is asked for, and then kept."""

    path: Path
    """A folder with the files of one, or the file whose metadata says it"""
    said: str | None = field(default=None, repr=False)
    """By that metadata, as `ClipTokenizer.to_json` does."""

    def open(self) -> ClipTokenizer:
        """`ValueError`, in one sentence, for a tokenizer that is damaged or not of CLIP's form."""
        return ClipTokenizer.from_folder(self.path) if self.said is None else _open_said(self.path, self.said)


@cache
def clip_tokenizer() -> ClipTokenizer:
    """The tokenizer of OpenAI's CLIP and of everything built on it; made once, in about 0.1 s."""
    packed = files("marmo.text").joinpath("clip_merges.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").splitlines()
    return ClipTokenizer.from_merges([(first, second) for first, second in map(str.split, lines)])


@lru_cache(maxsize=4)
def _open(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> ClipTokenizer:
    """A folder's tokenizer, made anew when one of its files has another size or time."""
    merges, vocab = _read_merges(folder)
    _refuse_added_tokens(folder, vocab)
    return ClipTokenizer(_build(merges, vocab), _read_pad(folder, vocab))


@lru_cache(maxsize=4)
def _open_said(path: Path, said: str) -> ClipTokenizer:
    """The tokenizer that a file's metadata says."""
    content = _parse(path, said)
    merges = _as_merges(path, _as_list(path, content.get("merges")))
    vocab = _number(merges)
    pad = content.get("pad")
    if not _is_complete(vocab, merges) or not isinstance(pad, int) or not 0 <= pad < len(vocab):
        form = "merges of bytes and of earlier merges, and a token that fills up"
        raise ValueError(f"{path} says a tokenizer that is not of CLIP's form: {form}")
    return ClipTokenizer(_build(merges, vocab), pad)


def _build(merges: list[Pair], vocab: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    pieces = pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    # normalized: found in the lower-cased text, so <|STARTOFTEXT|> is the start token too, as in OpenAI's code.
    specials = [AddedToken(text, normalized=True) for text in (START_TEXT, END_TEXT)]
    tokenizer.add_special_tokens(specials)  # pyright: ignore[reportUnknownMemberType] its stub says a bare list
    return tokenizer


def _number(merges: Sequence[Pair]) -> dict[str, int]:
    """Symbol to id: the bytes, the bytes that end a piece, the merges, start and end."""
    symbols = [*byte_symbols(), *(first + second for first, second in merges), START_TEXT, END_TEXT]
    return {symbol: index for index, symbol in enumerate(symbols)}


def byte_symbols() -> list[str]:
    """What merges begin with: a printable character for each byte, then the same with `</w>`, in OpenAI's order.

    The printable bytes stand for themselves and come first, stand-ins for the others follow.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    num_others = 256 - len(printable)
    symbols = [chr(code) for code in [*printable, *range(256, 256 + num_others)]]
    return symbols + [symbol + "</w>" for symbol in symbols]


def _without_surrogates(text: str) -> str:
    # Half a surrogate pair has no UTF-8 form.  One for one, so that spans stay those of the given text.
    return SURROGATE.sub("\ufffd", text)


def _read_merges(folder: Path) -> tuple[list[Pair], dict[str, int]]:
    """The merges of a folder and its vocabulary, which must be CLIP's numbering of them."""
    path, vocab, merges = _read_model(folder)
    known = _number(merges)
    if vocab != known or not _is_complete(known, merges):
        allowed = f"256 bytes, the same with </w>, the {len(merges)} merges, start and end, in this order"
        raise ValueError(f"{path} is not a vocabulary of CLIP's form, which numbers {allowed}")
    return merges, known


def _is_complete(known: Mapping[str, int], merges: Sequence[Pair]) -> bool:
    """Whether every merge makes a symbol of its own, out of symbols that there are."""
    return len(known) == NUM_FIXED + len(merges) and known.keys() >= set(chain.from_iterable(merges))


def _read_model(folder: Path) -> tuple[Path, object, list[Pair]]:
    """The vocabulary's file and content, and the merges; transformers 5 writes only `tokenizer.json`."""
    path, single = folder / "vocab.json", folder / "tokenizer.json"
    if path.exists() or not single.exists():
        return path, _read_json(path), _read_merge_lines(folder / "merges.txt")
    model = _as_object(single, _read_json(single).get("model"))
    return single, model.get("vocab"), [_as_pair(single, entry) for entry in _as_list(single, model.get("merges"))]


def _read_merge_lines(path: Path) -> list[Pair]:
    return _as_merges(path, [line for line in _read_text(path).splitlines() if not line.startswith("#version")])


def _as_merges(path: Path, lines: Sequence[object]) -> list[Pair]:
    """`a b`, a line each."""
    pairs = [tuple(str(line).split(" ")) for line in lines]
    wrong = next((pair for pair in pairs if len(pair) != 2), None)
    if wrong is not None:
        raise _no_merge(path, list(wrong))
    return cast(list[Pair], pairs)


def _refuse_added_tokens(folder: Path, vocab: dict[str, int]) -> None:
    """Textual inversion adds tokens to a folder; cut into pieces they would mean nothing."""
    foreign = [token for token in _read_added_tokens(folder) if token not in vocab]
    if foreign:
        raise ValueError(f"{folder} adds {foreign[0]!r} to CLIP's vocabulary; only folders without added tokens open")


def _read_added_tokens(folder: Path) -> list[str]:
    path, single = folder / "added_tokens.json", folder / "tokenizer.json"
    if path.exists():
        return list(_read_json(path))
    if not single.exists():
        return []
    entries = _as_list(single, _read_json(single).get("added_tokens"))
    return [str(_as_object(single, entry).get("content")) for entry in entries]


def _read_pad(folder: Path, vocab: dict[str, int]) -> int:
    # The folder of Stable Diffusion 2 names two padding tokens; transformers believes the first file, and so do we.
    for path in (folder / "special_tokens_map.json", folder / "tokenizer_config.json"):
        match _read_json(path).get("pad_token") if path.exists() else None:
            case None:
                continue
            case str(token) | {"content": str(token)} if token in vocab:
                return vocab[token]
            case other:
                raise ValueError(f"{path}: pad_token must be a token of the vocabulary, got {other!r}")
    return vocab[END_TEXT]


def _read_json(path: Path) -> dict[str, object]:
    return _parse(path, _read_text(path))


def _parse(path: Path, text: str) -> dict[str, object]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    return _as_object(path, content)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    with atomic_write(path) as stream:
        stream.write((json.dumps(content, indent=2) + "\n").encode())


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _as_object(path: Path, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return cast(dict[str, object], value)


def _as_list(path: Path, value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"{path}: expected a JSON list, got {type(value).__name__}")
    return cast(list[object], value)


def _as_pair(path: Path, value: object) -> Pair:
    match _as_list(path, value):
        case [first, second] if isinstance(first, str) and isinstance(second, str):
            return first, second
        case _:
            raise _no_merge(path, value)


def _no_merge(path: Path, value: object) -> ValueError:
    return ValueError(f"{path}: a merge is two symbols, got {value!r:.40}")
