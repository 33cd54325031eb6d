"""The `tokenizer/` folder: written for transformers, read from transformers, and refused when broken."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from marmo.text.bpe import ClipTokenizer, clip_tokenizer

FILES = ["merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"]
TEXT = "A red fox, don't! 狐 👩‍👩‍👧 <|ENDOFTEXT|>"


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A saved folder to spoil."""
    return Path(shutil.copytree(folder, tmp_path / "tokenizer"))


@pytest.fixture(scope="session")
def single_file(reference: CLIPTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as transformers 5 saves it."""
    path = tmp_path_factory.mktemp("transformers")
    reference.save_pretrained(path)
    return path


# Reading and writing


@pytest.mark.long
def test_round_trip_is_byte_identical(folder: Path, tmp_path: Path) -> None:
    ClipTokenizer.from_folder(folder).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    assert all((tmp_path / name).read_bytes() == (folder / name).read_bytes() for name in FILES)


def test_a_folder_reads_as_the_built_in_tokenizer(folder: Path, tokenizer: ClipTokenizer) -> None:
    opened = ClipTokenizer.from_folder(str(folder))
    assert opened.encode(TEXT) == tokenizer.encode(TEXT)
    assert (opened.pad, opened.vocab_size) == (tokenizer.pad, tokenizer.vocab_size)


@pytest.mark.parity
def test_transformers_opens_what_we_save(folder: Path, tokenizer: ClipTokenizer) -> None:
    opened = CLIPTokenizer.from_pretrained(folder)
    assert opened(TEXT).input_ids == [tokenizer.start, *tokenizer.encode(TEXT), tokenizer.end]
    assert (opened.pad_token_id, opened.model_max_length, opened.vocab_size) == (49407, 77, 49408)
    assert (opened.bos_token_id, opened.eos_token_id, opened.unk_token_id) == (49406, 49407, 49407)


@pytest.mark.parity
def test_we_open_what_transformers_saves(single_file: Path, tokenizer: ClipTokenizer) -> None:
    assert not (single_file / "vocab.json").exists()
    assert ClipTokenizer.from_folder(single_file).encode(TEXT) == tokenizer.encode(TEXT)


def test_any_number_of_merges_is_read(tmp_path: Path) -> None:
    few = ClipTokenizer.from_merges([("i", "n"), ("a", "n"), ("an", "d</w>")])
    few.save(tmp_path, length=48)
    opened = ClipTokenizer.from_folder(tmp_path)
    assert (opened.vocab_size, opened.start, opened.end, opened.pad) == (517, 515, 516, 516)
    assert opened.encode("in a and") == [72, 333, 320, 514]  # i, n</w>, a</w>, and</w>
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] == 48


# Padding


@pytest.mark.parity
def test_padding_of_openclip_is_kept(tokenizer: ClipTokenizer, tmp_path: Path) -> None:
    replace(tokenizer, pad=0).save(tmp_path)
    assert ClipTokenizer.from_folder(tmp_path).pad == 0
    assert CLIPTokenizer.from_pretrained(tmp_path).pad_token_id == 0


@pytest.mark.parity
def test_an_exclamation_mark_stays_text_where_it_also_pads(tokenizer: ClipTokenizer, tmp_path: Path) -> None:
    """As in OpenCLIP, with which SD 2 and SDXL were trained; transformers reads it as padding."""
    replace(tokenizer, pad=0).save(tmp_path)
    assert ClipTokenizer.from_folder(tmp_path).encode("wow!") == [2781, 256]
    assert CLIPTokenizer.from_pretrained(tmp_path)("wow!", add_special_tokens=False).input_ids == [2781, 0]


@pytest.mark.parity
def test_the_special_tokens_map_wins_as_in_transformers(copy: Path) -> None:
    edit_json(copy / "special_tokens_map.json", pad_token="!")
    assert ClipTokenizer.from_folder(copy).pad == CLIPTokenizer.from_pretrained(copy).pad_token_id == 0


@pytest.mark.long
@pytest.mark.parametrize(("pad_token", "pad"), [("!", 0), ({"content": "!"}, 0), (None, 49407)])
def test_padding_from_the_config_alone(copy: Path, pad_token: object, pad: int) -> None:
    (copy / "special_tokens_map.json").unlink()
    edit_json(copy / "tokenizer_config.json", pad_token=pad_token)
    assert ClipTokenizer.from_folder(copy).pad == pad


def test_a_folder_of_two_files_pads_with_the_end_token(copy: Path) -> None:
    (copy / "special_tokens_map.json").unlink()
    (copy / "tokenizer_config.json").unlink()
    assert ClipTokenizer.from_folder(copy).pad == 49407


# Broken folders


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.vocab\.json cannot be read: .*No such file"):
        ClipTokenizer.from_folder(tmp_path / "nowhere")


@pytest.mark.long
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_text_is_named(copy: Path, name: str) -> None:
    (copy / "special_tokens_map.json").write_text("{}", encoding="utf-8")  # leaves the padding to tokenizer_config.json
    (copy / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=rf"{name} cannot be read: .*utf-8"):
        ClipTokenizer.from_folder(copy)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("{", " is not JSON: Expecting", id="cut off"),
        pytest.param("[" * 100_000, " is not JSON: ", id="too deep"),
        pytest.param("1" * 5000, " is not JSON: Exceeds", id="too long a number"),
        pytest.param("[]", ": expected a JSON object, got list", id="a list"),
    ],
)
def test_a_file_that_is_not_a_json_object_is_named(copy: Path, content: str, message: str) -> None:
    (copy / "vocab.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"vocab\.json{message}"):
        ClipTokenizer.from_folder(copy)


def renumber(folder: Path) -> None:
    edit_json(folder / "vocab.json", **{"!": 1})


def add_a_word(folder: Path) -> None:
    edit_json(folder / "vocab.json", **{"<cat>": 49408})


def drop_a_merge(folder: Path) -> None:
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    (folder / "merges.txt").write_text("\n".join(lines[:-1]), encoding="utf-8")


def merge_the_unknown(folder: Path) -> None:
    """Both files agree, but no merge makes `jek`."""
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    lines[-1] = "jek yll</w>"
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.long
@pytest.mark.parametrize("spoil", [renumber, add_a_word, drop_a_merge, merge_the_unknown])
def test_a_vocabulary_of_another_form_is_refused(copy: Path, spoil: Callable[[Path], None]) -> None:
    spoil(copy)
    with pytest.raises(ValueError, match=r"vocab\.json is not a vocabulary of CLIP's form, .* 4889\d merges"):
        ClipTokenizer.from_folder(copy)


@pytest.mark.parametrize("line", ["one", "one two three", "", "one  two"])
def test_a_merge_of_other_than_two_symbols_is_shown(copy: Path, line: str) -> None:
    (copy / "merges.txt").write_text(f"i n\n{line}\nt h\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"merges\.txt: a merge is two symbols, got \["):
        ClipTokenizer.from_folder(copy)


@pytest.mark.long
@pytest.mark.parametrize("pad_token", ["[PAD]", 0, {"text": "!"}])
def test_an_unknown_padding_token_is_shown(copy: Path, pad_token: object) -> None:
    edit_json(copy / "special_tokens_map.json", pad_token=pad_token)
    with pytest.raises(ValueError, match=r"special_tokens_map\.json: pad_token must be a token of the vocabulary, got"):
        ClipTokenizer.from_folder(copy)


def test_added_tokens_are_refused(copy: Path) -> None:
    (copy / "added_tokens.json").write_text('{"<cat>": 49408}', encoding="utf-8")
    with pytest.raises(ValueError, match="adds '<cat>' to CLIP's vocabulary"):
        ClipTokenizer.from_folder(copy)


@pytest.mark.parity
def test_tokens_added_by_transformers_are_refused(folder: Path, tmp_path: Path) -> None:
    inverted = CLIPTokenizer.from_pretrained(folder)
    inverted.add_tokens(["<cat>"])
    inverted.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="adds '<cat>' to CLIP's vocabulary"):
        ClipTokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        '{"model": []}',
        '{"model": {"vocab": {}}}',
        '{"model": {"merges": [["a"]]}}',
        '{"model": {"merges": [[1, 2]]}}',
    ],
)
def test_a_broken_single_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer\.json: "):
        ClipTokenizer.from_folder(tmp_path)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(["vocab", "merges", "x"]), values),
    max_leaves=8,
)


@pytest.mark.long
@settings(deadline=None, derandomize=True)
@given(model=JSON_VALUES, added=JSON_VALUES)
def test_any_single_file_gives_one_error(
    model: object, added: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any-tokenizer"
    folder.mkdir(exist_ok=True)
    content = json.dumps({"model": model, "added_tokens": added})
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        ClipTokenizer.from_folder(folder)


def test_saving_over_a_folder_replaces_it(copy: Path) -> None:
    (copy / "vocab.json").write_text("{", encoding="utf-8")
    clip_tokenizer().save(copy)
    assert ClipTokenizer.from_folder(copy).encode("fox") == [3240]
