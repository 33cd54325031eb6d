"""`marmo models`: what is at hand, what it is of use for, and why not."""

import gc
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from marmo.cli.progress import counted

if TYPE_CHECKING:  # help shall not wait for torch
    from marmo.library.identify import Found

FLAGS = {
    "paint": "--model",
    "vae": "--vae",
    "preview": "for previews",
    "upscale": "for marmo upscale",
    "evaluate": "for marmo evaluate",
    "pixels": "--model, and no words",
}
"""What a model is of use for -> where it goes."""

ModelsDir = Annotated[tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FOLDER")]


@dataclass(frozen=True)
class Models:
    """List the models at hand: Marmo's own, those of other programs that the settings name, and the hub's cache."""

    models_dir: ModelsDir = ()
    """A folder to look through too; may be given several times"""
    fetch: str | None = None
    """Fetch a model from the Hugging Face hub, or what is new of it: owner/name, with @revision or :file"""
    hash: bool = False
    """Also the sha256 of the weights, which reads every byte the first time"""
    usable: bool = False
    """Leave out what cannot be used"""
    json: bool = False
    """Print JSON instead of words"""

    def run(self) -> int:
        """Look, tell."""
        from marmo import catalog  # brings torch

        if self.fetch is not None:
            return self._fetch(self.fetch)
        gc.disable()  # headers have many small objects and no cycles, and torch's need not be looked through for them
        looked = counted(catalog.models(self.models_dir), None, "looking at models", quiet=self.json)
        found = [model for model in looked if model.use or not self.usable]
        if self.json:
            print(json.dumps({"models": [self._row(model) for model in found]}, ensure_ascii=False))
            return 0
        for model in (model for model in found if model.use):
            print(f"{model.name}  {self._words(model)}")
        refused = [model for model in found if not model.use]
        if refused:
            print("cannot be used:")
        for model in refused:
            print(f"  {model.path}: {model.reason}")
        if not found:
            print("no models at hand; name their folder with --models-dir, or in the settings file")
        return 0

    def _fetch(self, name: str) -> int:
        from marmo.library import hub

        on_hub = hub.hub_name(name)
        if on_hub is None:
            raise ValueError(f"{name!r} is no model of the hub, which is called owner/name")
        print(hub.fetch(on_hub))
        return 0

    def _hash(self, model: "Found") -> str | None:
        return model.sha256() if self.hash and model.use else model.known_hash()

    def _words(self, model: "Found") -> str:
        digest = self._hash(model)
        facts = [
            f"{model.kind}, {_size(model.num_bytes)}",
            FLAGS[model.use or "paint"],
            *([f"licence {model.licence}"] if model.licence else []),
            *([f"sha256 {digest if self.hash else digest[:10]}"] if digest else []),
        ]
        return f"{', '.join(facts)}\n    {model.id}  {model.origin}  {model.path}"

    def _row(self, model: "Found") -> dict[str, object]:
        """What a program wants to know."""
        row = model.model_dump(mode="json", exclude={"files", "print", "defaults"})
        return {"id": model.id, **row, "sha256": self._hash(model)}


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
