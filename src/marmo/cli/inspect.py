"""`marmo inspect`: what a checkpoint is, from its headers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from marmo.weights.checkpoint import Checkpoint


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

        checkpoint = open_checkpoint(self.file)
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
            print(json.dumps(report | {"sha256": hashes} if hashes else report, default=vars))
            return 0
        known = [f"{checkpoint.kind.title} that predicts {training['prediction']}"] if checkpoint.kind else []
        known += ["trained up to pure noise"] * bool(training.get("zero_snr"))
        print(f"{self.file}: {', '.join([checkpoint.layout, *known, _size(size)])}")
        for network, part in checkpoint.parts.items():
            print(f"  {network:<13} {part.num_parameters:>13,} parameters  {', '.join(part.dtypes)}")
        for file, digest in hashes.items():
            print(f"  sha256 {digest}  {file}")
        return 0


def _training(checkpoint: "Checkpoint") -> dict[str, object]:
    """What the networks are together, and how they were trained; nothing of one network alone."""
    from marmo.weights.maps.scheduler import betas_from_json, target_from_json

    if checkpoint.kind is None:
        return {}
    return {
        "kind": checkpoint.kind.name,
        "prediction": target_from_json(checkpoint.scheduler),
        "zero_snr": betas_from_json(checkpoint.scheduler).zero_snr,
    }


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
