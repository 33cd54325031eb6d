"""Models of the Hugging Face hub: `owner/name`, `owner/name@revision`, `owner/name:file.safetensors`.

What is fetched is weights as safetensors, JSON and the files of tokenizers, and of these what a model needs: one
variant of each network, no safety checker, no second copy as a single file.  huggingface_hub fetches, with its own
progress bar; what it had begun it goes on with, and HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they mean there.
Nothing that was fetched is ever executed.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

from marmo.library.places import hub_cache
from marmo.library.scan import SUFFIXES as WEIGHT_SUFFIXES
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.kinds import KINDS

TOKENIZER = frozenset({"merges.txt", "vocab.txt", "tokenizer.model", "spiece.model"})
SUFFIXES = frozenset({".safetensors", ".json"})
CARD = "README.md"
"""The model card, whose head names the licence; it is text, and read as such."""
MAX_CARD = 1 << 20
"""Bytes; a longer one stays where it is."""
COMPONENTS = frozenset(
    {"scheduler"}
    | {place.folder for kind in KINDS for place in kind.places.values()}
    | {place.tokenizer for kind in KINDS for place in kind.places.values() if place.tokenizer}
)
"""The folders of a diffusers model that are read."""
MAX_FILES = 50_000
TIMEOUT = 20.0  # seconds, for the first answer

_NAME = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w-][\w./-]*))?(?::([\w-][\w./ -]*\.safetensors))?", re.ASCII)
_PLAIN_PATH = re.compile(r"[\w+@ -][\w.+@ -]*(?:/[\w+@ -][\w.+@ -]*)*", re.ASCII)
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(\w+))?(?:-\d{5}-of-\d{5})?\.safetensors(?:(?:\.(\w+))?\.index(?:\.(\w+))?\.json)?"
)


@dataclass(frozen=True)
class HubName:
    """A model on the hub."""

    repo: str
    revision: str = "main"
    file: str | None = None

    def __str__(self) -> str:
        revision = "" if self.revision == "main" else f"@{self.revision}"
        return self.repo + revision + (f":{self.file}" if self.file else "")


def hub_name(text: str) -> HubName | None:
    """`owner/name` and what may follow; none if the text is something else."""
    match = _NAME.fullmatch(text)
    if match is None or ".." in text or PurePosixPath(match[1]).suffix in WEIGHT_SUFFIXES:
        return None  # a path
    return HubName(match[1], match[2] or "main", match[3])


def cached(name: HubName) -> Path | None:
    """Where it lies, if all of it was fetched before; the network is not asked."""
    folder = hub_cache() / f"models--{name.repo.replace('/', '--')}"
    ref = folder / "refs" / name.revision
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else name.revision
    path = folder / "snapshots" / commit
    if "/" in commit or not path.is_dir():
        return None
    whole = path / name.file if name.file else _single(path)
    try:
        open_checkpoint(whole)
    except ValueError:
        return None
    return whole


def fetch(name: HubName) -> Path:
    """Fetch what is missing of a model, and say where it lies.

    Raises `ValueError`, in one sentence, without huggingface_hub, and for what the hub does not have or give.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub import snapshot_download as download  # pyright: ignore[reportUnknownVariableType] a dict
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise ValueError(
            f"{name} is fetched from the hub by huggingface_hub, which is not installed; `pip install marmo[hub]`"
        ) from None
    transport = cast(type[Exception], HfHubHTTPError.__bases__[0])  # of httpx or httpx2
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    try:
        hub = HfApi(endpoint=endpoint)
        hub.model_info(name.repo, revision=name.revision, timeout=TIMEOUT)  # says at once what cannot be
        wanted = chosen(name, _files(hub.list_repo_tree(name.repo, recursive=True, revision=name.revision)))
        folder = download(
            name.repo, revision=name.revision, cache_dir=hub_cache(), allow_patterns=wanted, endpoint=endpoint
        )
    except (transport, OSError, RuntimeError) as error:
        raise ValueError(f"{name} was not fetched: {_reason(error)}") from None
    return Path(folder) / name.file if name.file else _single(Path(folder))


def chosen(name: HubName, files: Sequence[str]) -> list[str]:
    """What to fetch of a repository's files; `ValueError` where there is no model, or where one must be named."""
    allowed, card = [file for file in files if _is_allowed(file)], [CARD] * (CARD in files)
    if name.file is not None:
        if name.file not in allowed:
            raise ValueError(f"{name.repo} holds no {name.file}; {_singles(name, allowed)}")
        beside = str(PurePosixPath(name.file).parent / "config.json")
        return [name.file, *(file for file in allowed if file == beside), *card]
    if "model_index.json" in allowed:
        inside = [file for file in allowed if file.count("/") == 1 and file.split("/")[0] in COMPONENTS]
        return ["model_index.json", *(["marmo.json"] if "marmo.json" in allowed else []), *_one_variant(inside), *card]
    if "config.json" in allowed:
        return _one_variant([file for file in allowed if "/" not in file]) + card
    roots = [file for file in allowed if file.endswith(".safetensors") and "/" not in file]
    if len(roots) != 1:
        raise ValueError(f"{name.repo} is no diffusers model; {_singles(name, allowed)}")
    return roots + card


def _is_allowed(file: str) -> bool:
    path = PurePosixPath(file)
    return _PLAIN_PATH.fullmatch(file) is not None and (path.suffix in SUFFIXES or path.name in TOKENIZER)


def _singles(name: HubName, allowed: Iterable[str]) -> str:
    found = [file for file in allowed if file.endswith(".safetensors")]
    if not found:
        return "no safetensors are in it"
    return f"name one of its files: {', '.join(f'{name.repo}:{file}' for file in found[:8])}"


def _one_variant(files: Sequence[str]) -> list[str]:
    """Of each folder's weights the plain ones, or where there are none those of one variant; and all else."""
    kept: list[str] = []
    folders: dict[str, dict[str, list[str]]] = {}
    for file in files:
        path = PurePosixPath(file)
        match = _WEIGHTS.fullmatch(path.name)
        if match is not None:
            variant = next(filter(None, match.groups()), "")
            folders.setdefault(str(path.parent), {}).setdefault(variant, []).append(file)
        elif path.suffix != ".safetensors":
            kept.append(file)
    for variants in folders.values():
        kept += variants.get("") or variants.get("fp16") or next(iter(variants.values()))
    return kept


def _files(listed: Iterable[object]) -> list[str]:
    files: list[str] = []
    for entry in listed:
        path = getattr(entry, "path", None)
        size = getattr(entry, "size", None)
        if isinstance(path, str) and isinstance(size, int) and (path != CARD or size <= MAX_CARD):  # folders have none
            files.append(path)
        if len(files) > MAX_FILES:
            raise ValueError(f"the repository has more than {MAX_FILES} files")
    return files


def _single(folder: Path) -> Path:
    """The folder, or the one file that is the model."""
    names: Mapping[str, Path] = {path.name: path for path in folder.iterdir()}
    weights = [path for path in names.values() if path.suffix == ".safetensors"]
    return weights[0] if not {"model_index.json", "config.json"} & names.keys() and len(weights) == 1 else folder


def _reason(error: BaseException) -> str:
    """The first line of what huggingface_hub says."""
    words = " ".join(str(error).split())
    return (words[:300] or type(error).__name__).rstrip(".")
