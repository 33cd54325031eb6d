"""`marmo inspect`: what a checkpoint is, from its headers."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:  # help shall not wait for torch
    from marmo.weights.checkpoint import Checkpoint
    from marmo.weights.store import Tensors


TASKS = {"inpaint": "for inpainting", "edit": "for editing by instruction", "?": "for a task unknown to Marmo"}
"""For people; painting from words alone is not worth a word."""


@dataclass(frozen=True)
class Inspect:
    """Tell what a checkpoint file or folder holds, without loading it."""

    file: tyro.conf.Positional[Path]
    """A checkpoint file, a diffusers folder, or one network's"""
    hash: bool = False
    """Also the sha256 of every weight file"""
    json: bool = False
    """Print JSON instead of words"""

    def run(self) -> int:
        """Open, describe."""
        from marmo.weights.checkpoint import open_checkpoint  # brings torch
        from marmo.weights.fingerprint import file_hash
        from marmo.weights.legacy import WeightFiles
        from marmo.weights.licence import licence_of
        from marmo.weights.merge import MERGE_KEY, sentence

        files = WeightFiles()
        strange = files.open_strange(self.file)
        if strange is not None:
            self._describe(strange, file_hash(self.file) if self.hash else None)
            return _warn(files.report())
        checkpoint = open_checkpoint(self.file, opener=files.open)
        parts = {
            network: {
                "parameters": part.num_parameters,
                "dtypes": part.dtypes,
                "names": part.form.family,
                "config": part.config,
            }
            for network, part in checkpoint.parts.items()
        }
        hashes = {str(file): file_hash(file) for file in checkpoint.files} if self.hash else {}
        size = sum(file.stat().st_size for file in checkpoint.files)
        training = _training(checkpoint)
        if self.json:
            report = {"path": str(self.file), "layout": checkpoint.layout, "bytes": size, "parts": parts, **training}
            report |= {"licence": licence_of(checkpoint), "merge": checkpoint.metadata.get(MERGE_KEY)}
            print(json.dumps(report | {"sha256": hashes} if hashes else report, default=vars))
            return _warn(files.report())
        known = [f"{checkpoint.kind.title} that predicts {training['prediction']}"] if checkpoint.kind else []
        known += [TASKS[task] for task in TASKS if task == training.get("task")]
        known += ["trained up to pure noise"] * bool(training.get("zero_snr"))
        print(f"{self.file}: {', '.join([checkpoint.layout, *known, _size(size)])}")
        for network, part in checkpoint.parts.items():
            print(f"  {network:<13} {part.num_parameters:>13,} parameters  {', '.join(part.dtypes)}")
        if MERGE_KEY in checkpoint.metadata:
            print(f"  {sentence(checkpoint.metadata[MERGE_KEY])}")
        if licence := licence_of(checkpoint):
            print(f"  licence {licence}")
        for file, digest in hashes.items():
            print(f"  sha256 {digest}  {file}")
        return _warn(files.report())

    def _describe(self, tensors: "Tensors", digest: str | None) -> None:
        """A legacy pickle that is no network which Marmo knows: what its tensors are."""
        rows = {
            name: {"dtype": str(info.dtype).removeprefix("torch."), "shape": list(info.shape)}
            for name, info in tensors.infos.items()
        }
        size = self.file.stat().st_size
        if self.json:
            report = {"path": str(self.file), "layout": "legacy pickle", "bytes": size, "tensors": rows}
            hashes = {"sha256": {str(self.file): digest}} if digest else {}
            print(json.dumps(report | {"metadata": dict(tensors.metadata)} | hashes))
            return
        print(f"{self.file}: legacy pickle of no network that Marmo knows, {_size(size)}")
        for name, row in rows.items():
            print(f"  {name}  {row['dtype']}  {row['shape']}")
        if digest:
            print(f"  sha256 {digest}  {self.file}")


def _warn(sentences: list[str]) -> int:
    for sentence in sentences:
        print(f"marmo: {sentence}", file=sys.stderr)
    return 0


def _training(checkpoint: "Checkpoint") -> dict[str, object]:
    """What the networks are together, and how they were trained; nothing of one network alone."""
    from marmo.models.latent_upscaler import LatentUpscalerConfig
    from marmo.models.unet import UNetConfig
    from marmo.models.vae import VAEConfig
    from marmo.weights.kinds import task_of
    from marmo.weights.maps.scheduler import betas_from_json, target_from_json

    if checkpoint.kind is None:
        return {}
    unet, vae = checkpoint.parts["unet"].config, checkpoint.parts["vae"].config
    assert isinstance(unet, UNetConfig | LatentUpscalerConfig) and isinstance(vae, VAEConfig)
    try:
        task = task_of(unet, vae)
    except ValueError:
        task = "?"
    return {
        "task": task,
        "kind": checkpoint.kind.name,
        "prediction": checkpoint.kind.target or target_from_json(checkpoint.scheduler),
        "zero_snr": betas_from_json(checkpoint.scheduler).zero_snr,
    }


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
