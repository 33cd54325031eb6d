"""`marmo inspect`: what a checkpoint is, from its headers."""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro


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
        if self.json:
            report = {"path": str(self.file), "layout": checkpoint.layout, "bytes": size, "parts": parts}
            print(json.dumps(report | {"sha256": hashes} if hashes else report, default=vars))
            return 0
        print(f"{self.file}: {checkpoint.layout}, {_size(size)}")
        for network, part in checkpoint.parts.items():
            print(f"  {network:<13} {part.num_parameters:>13,} parameters  {', '.join(part.dtypes)}")
        for file, digest in hashes.items():
            print(f"  sha256 {digest}  {file}")
        return 0


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
