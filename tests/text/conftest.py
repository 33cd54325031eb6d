"""The built-in tokenizer, and transformers' one opened from the files that ours writes."""

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from marmo.text.bpe import ClipTokenizer, clip_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> ClipTokenizer:
    return clip_tokenizer()


@pytest.fixture(scope="session")
def folder(tokenizer: ClipTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved `tokenizer/`; tests only read it."""
    path = tmp_path_factory.mktemp("saved") / "tokenizer"
    tokenizer.save(path)
    return path


@pytest.fixture(scope="session")
def reference(folder: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(folder)
