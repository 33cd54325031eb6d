"""`marmo convert`: the same weights in another layout or dtype."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Convert:
    """Rewrite a checkpoint: single file to diffusers folder, folder to single file, one dtype to another."""

    source: tyro.conf.Positional[Path]
    """What to read: a checkpoint file, a diffusers folder, or one network's"""
    target: tyro.conf.Positional[Path]
    """What to write: a name that ends in .safetensors is a single file, any other a folder"""
    dtype: Literal["float32", "float16", "bfloat16", "int8"] | None = None
    """Of the floating-point weights; as they are by default.  int8 is small, and for Marmo alone"""
    variant: str | None = None
    """Which of a folder's variants to read, such as fp16"""
    as_variant: str | None = None
    """Under which variant's names to write a folder, such as fp16"""
    shard_gb: float | None = None
    """A folder's files are split at this many gigabytes"""
    overwrite: bool = False
    """Replace a single file that is there"""

    def run(self) -> int:
        """Read headers, stream the weights, say what came out."""
        self._check()
        import torch

        from marmo.weights.checkpoint import open_checkpoint
        from marmo.weights.export import write_folder, write_single_file

        checkpoint = open_checkpoint(self.source, self.variant)
        dtype: torch.dtype | None = None if self.dtype is None else getattr(torch, self.dtype)
        if self.target.suffix == ".safetensors":
            write_single_file(checkpoint, self.target, dtype)
        else:
            shard = sys.maxsize if self.shard_gb is None else round(self.shard_gb * 1e9)
            write_folder(checkpoint, self.target, dtype, shard, self.as_variant)
        print(self.target)
        return 0

    def _check(self) -> None:
        """`ValueError` for what can be seen to be wrong before anything is read."""
        if self.target.exists() and not (self.overwrite and self.target.is_file()):
            raise ValueError(f"{self.target} exists; choose another name{' or --overwrite' * self.target.is_file()}")
        if self.target.suffix in (".ckpt", ".pt", ".pth", ".bin"):
            raise ValueError(f"{self.target}: a single file ends in .safetensors; Marmo writes no {self.target.suffix}")
        if self.shard_gb is not None and not 0 < self.shard_gb < 1e6:
            raise ValueError(f"--shard-gb is a number of gigabytes above 0, not {self.shard_gb:g}")
