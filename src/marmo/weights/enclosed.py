"""What names and shapes cannot tell of a model of one's own: enclosed in a single file's metadata, as JSON.

    marmo.enclosed    "configs":    {"unet": {...}, ...}      as in the config.json of diffusers' folder
                      "scheduler":  {...}                     as in its scheduler_config.json
                      "tokenizers": {"text": {"merges": ["t h", ...], "pad": 8191}}

Each stands there only where it is needed: a file with Stable Diffusion's shapes and words encloses nothing.  Other
programs pass the entry over, and so would paint something else, if anything; for them there are folders.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from marmo.text.bpe import TokenizerPlace
from marmo.weights.forms import Form, Json, NetworkConfig, written
from marmo.weights.kinds import Slot
from marmo.weights.store import blaming, parse_json

ENCLOSED_KEY = "marmo.enclosed"


@dataclass(frozen=True)
class Enclosed:
    """By the places of a model, for those of which something is not told."""

    configs: Mapping[str, Json] = field(default_factory=dict[str, Json])
    scheduler: Json = field(default_factory=dict[str, object])
    tokenizers: Mapping[str, Json] = field(default_factory=dict[str, Json])

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def places(self, path: Path, slots: Iterable[Slot]) -> dict[Slot, TokenizerPlace]:
        """Those of the tokenizers which are in the file at a path."""
        return {
            slot: TokenizerPlace(path, _as_text(self.tokenizers[slot])) for slot in slots if slot in self.tokenizers
        }

    def sentence(self) -> str:
        """What it is that other programs do not read, for people; empty where there is nothing."""
        parts = [
            f"the {name} of {', '.join(said)}" for name, said in vars(self).items() if said and name != "scheduler"
        ]
        parts += ["the noise it was trained on"] * bool(self.scheduler)
        return f"names and shapes cannot tell {'; '.join(parts)}: only Marmo reads that in the file" if parts else ""

    def notes(self) -> dict[str, str]:
        """The entry of the metadata, if there is anything to say."""
        return {ENCLOSED_KEY: _as_text({name: value for name, value in vars(self).items() if value})} if self else {}


def enclosed_in(path: Path, metadata: Mapping[str, str]) -> Enclosed:
    """What a file encloses; `ValueError`, in one sentence, for what is no such thing."""
    if ENCLOSED_KEY not in metadata:
        return Enclosed()
    with blaming(path):
        said = parse_json(metadata[ENCLOSED_KEY].encode())
        configs, scheduler, tokenizers = (_object(said, name) for name in ("configs", "scheduler", "tokenizers"))
        return Enclosed(_objects(configs), scheduler, _objects(tokenizers))


def config_of(form: Form, said: Json) -> NetworkConfig:
    """The config that is enclosed of a network with these names; `ValueError` for one that is none."""
    from_json = form.from_json or written(form.network, "diffusers").from_json
    if from_json is None:
        raise ValueError(f"a config of a {form.network} is enclosed, which cannot be")
    return from_json(said)


def _objects(said: Mapping[str, object]) -> dict[str, dict[str, object]]:
    return {name: _object(said, name) for name in said}


def _object(said: Mapping[str, object], name: str) -> dict[str, object]:
    value = said.get(name, {})
    if not isinstance(value, dict):
        raise ValueError(f"it encloses no JSON object as {name}")
    return cast(dict[str, object], value)


def _as_text(said: object) -> str:
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"))
