"""`marmo merge`: two or three checkpoints as one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class MergeModels:
    """Merge checkpoints: (1 - weight) A + weight B, or A + weight (B - C); the recipe stands in the result."""

    models: tyro.conf.Positional[tuple[str, ...]]
    """Two models, or three for add-difference: files, folders, or names of models at hand"""
    output: Path
    """The .safetensors file to write, or a folder"""
    method: Literal["weighted-sum", "add-difference"] = "weighted-sum"
    """weighted-sum of two, or add-difference of three"""
    weight: float = 0.5
    """How much of the second, or of the difference"""
    blocks: str | None = None
    """25 weights between commas, IN00 to OUT11, for the U-Net; --weight is for the rest"""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Of the result; by default the first model's"""
    vae: str | None = None
    """Whose autoencoder to put in, instead of a merged one"""
    overwrite: bool = False
    """Replace a single file that is there"""

    def run(self) -> int:
        """Read headers, stream the sums."""
        if self.output.exists() and not (self.overwrite and self.output.is_file()):
            raise ValueError(f"{self.output} exists; choose another name{' or --overwrite' * self.output.is_file()}")
        blocks = _numbers(self.blocks)
        import torch

        from marmo.catalog import located
        from marmo.weights.checkpoint import open_checkpoint
        from marmo.weights.export import write_folder, write_single_file
        from marmo.weights.merge import Merge, merged

        dtype: torch.dtype | None = None if self.dtype is None else getattr(torch, self.dtype)
        recipe = Merge(method=self.method, weight=self.weight, blocks=blocks, dtype=dtype)
        models = [open_checkpoint(located(model)) for model in self.models]
        vae = None if self.vae is None else open_checkpoint(located(self.vae))
        result = merged(recipe, models, vae)
        if self.output.suffix == ".safetensors":
            write_single_file(result, self.output)
        else:
            write_folder(result, self.output)
        print(self.output)
        return 0


def _numbers(text: str | None) -> tuple[float, ...]:
    try:
        return () if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--blocks is numbers between commas, not {text!r:.100}") from None
