"""`marmo convert`: the same weights in another layout or dtype, and legacy pickles as safetensors."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:  # help shall not wait for torch
    import torch

    from marmo.weights.legacy import WeightFiles


@dataclass(frozen=True)
class Convert:
    """Rewrite a checkpoint: single file to diffusers folder, folder to single file, pickle to safetensors, dtypes."""

    source: tyro.conf.Positional[Path]
    """What to read: a checkpoint file, a legacy pickle, a diffusers folder, or one network's"""
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

        from marmo.weights.legacy import WeightFiles
        from marmo.weights.store import cast, write

        dtype: torch.dtype | None = None if self.dtype is None else getattr(torch, self.dtype)
        files = WeightFiles()
        strange = files.open_strange(self.source) if self.target.suffix == ".safetensors" else None
        if strange is not None:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            write(self.target, strange if dtype is None else cast(strange, dtype))
        else:
            self._convert(files, dtype)
        print(self.target)
        for sentence in files.report():
            print(f"marmo: {sentence}", file=sys.stderr)
        return 0

    def _convert(self, files: "WeightFiles", dtype: "torch.dtype | None") -> None:
        """What is a network or a model of several."""
        from marmo.weights.checkpoint import open_checkpoint
        from marmo.weights.export import write_folder, write_single_file

        checkpoint = open_checkpoint(self.source, self.variant, files.open)
        if self.target.suffix == ".safetensors":
            enclosed = write_single_file(checkpoint, self.target, dtype)
            if enclosed:
                print(f"marmo: {enclosed.sentence()}; for other programs write a folder", file=sys.stderr)
        else:
            shard = sys.maxsize if self.shard_gb is None else round(self.shard_gb * 1e9)
            write_folder(checkpoint, self.target, dtype, shard, self.as_variant)

    def _check(self) -> None:
        """`ValueError` for what can be seen to be wrong before anything is read."""
        if self.target.exists() and not (self.overwrite and self.target.is_file()):
            raise ValueError(f"{self.target} exists; choose another name{' or --overwrite' * self.target.is_file()}")
        if self.target.suffix in (".ckpt", ".pt", ".pth", ".bin"):
            raise ValueError(f"{self.target}: a single file ends in .safetensors; Marmo writes no {self.target.suffix}")
        if self.shard_gb is not None and not 0 < self.shard_gb < 1e6:
            raise ValueError(f"--shard-gb is a number of gigabytes above 0, not {self.shard_gb:g}")
