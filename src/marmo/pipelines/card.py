"""What a pipeline must know of a model before it reads a single weight."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from marmo.diffusion.denoiser import Target
from marmo.diffusion.noise import STABLE_DIFFUSION, Betas
from marmo.files.names import model_name
from marmo.files.record import VAE
from marmo.models.clip_text import ClipTextConfig
from marmo.models.pixel_unet import PixelUNetConfig
from marmo.models.rrdb import RRDBConfig
from marmo.models.srvgg import SRVGGConfig
from marmo.models.vae import VAEConfig
from marmo.request import Defaults
from marmo.text.bpe import ClipTokenizer, clip_tokenizer
from marmo.weights.fingerprint import file_hash
from marmo.weights.kinds import DenoiserConfig, Slot, Task, task_of
from marmo.weights.store import Tensors, from_state

ToldKind = Literal["nothing", "size", "score", "noise", "text"]
"""What a U-Net is told beside the words: where SDXL's training pictures came from and how large the result shall be, or
with its refiner, how well people liked them; with the x4 upscaler, how noisy the small picture is; with the latent x2
upscaler, that it is not, and the whole prompt as one vector."""


@dataclass(frozen=True, kw_only=True)
class TowerCard:
    """A text encoder and how the model reads it."""

    slot: Slot
    config: ClipTextConfig
    pad: int
    """The token that fills a prompt up."""
    final_norm: bool
    """Whether the final norm follows the layer that is read."""
    pools: bool
    """Whether the U-Net is told the whole text as this tower's one vector."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """A model on disk.  Its weights are lazy views of files; a card costs no memory."""

    path: Path
    """The checkpoint file, or the folder that `files` lie in."""
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """What people call it, without where it lies."""
        return model_name(self.path) or ""

    def hashes(self) -> dict[str, str]:
        """The sha256 of every weight file, by its name from the checkpoint's folder down."""
        return _hashes(self.path, self.files)


def _hashes(path: Path | None, files: tuple[Path, ...]) -> dict[str, str]:
    """The sha256 of every file, by its name from the path's folder down."""
    return {
        (file.name if path is None or file == path else file.relative_to(path).as_posix()): file_hash(file)
        for file in files
    }


@dataclass(frozen=True)
class NoNetwork:
    """Pixels stay as they are, for Lanczos' kernel to resample."""

    scale: int = 1


@dataclass(frozen=True, kw_only=True)
class UpscalerCard(ModelCard):
    """A network of ESRGAN's kind, which makes pictures larger."""

    config: RRDBConfig | SRVGGConfig | NoNetwork
    tensors: Tensors
    """Under our names."""


LANCZOS = UpscalerCard(path=Path("lanczos"), files=(), config=NoNetwork(), tensors=from_state({}))
"""What is always there, under this name."""


@dataclass(frozen=True, kw_only=True)
class PixelCard(ModelCard):
    """A diffusion model whose one network paints pixels, without words."""

    config: PixelUNetConfig
    tensors: Tensors
    """Under our names."""
    betas: Betas
    target: Target
    bound: float | None
    """What x0 is clipped to at every step, if it is."""
    defaults: Defaults
    licence: str | None = None


@dataclass(frozen=True, kw_only=True)
class LatentCard(ModelCard):
    """A latent diffusion model: its networks, their weights under our names, and how they were trained."""

    towers: tuple[TowerCard, ...]
    """The text encoders, in the order in which their states stand side by side."""
    unet: DenoiserConfig
    vae: VAEConfig
    weights: Mapping[Slot, Tensors]
    """Of every tower, `unet` and `vae`."""
    told: ToldKind = "nothing"
    tokenizer: ClipTokenizer = field(default_factory=clip_tokenizer)
    """Its own, else CLIP's."""
    betas: Betas = STABLE_DIFFUSION
    target: Target = "eps"
    sigma_data: float = 1.0
    """Standard deviation of the latents, where the target is `edm`."""
    defaults: Defaults = field(default_factory=Defaults)
    licence: str | None = None
    concepts: tuple[str, ...] = ()
    """Ids of the scene corpus's concepts that it was trained on and knows alone; empty where that is not said."""
    vae_path: Path | None = None
    """Where the autoencoder lies, if it is not the model's own."""
    vae_files: tuple[Path, ...] = ()
    """Its weights, if it is not."""

    @property
    def task(self) -> Task:
        """What it was trained for."""
        return task_of(self.unet, self.vae)

    def hashes(self) -> dict[str, str]:
        """The same, and that of the other autoencoder."""
        other = {VAE + name: digest for name, digest in _hashes(self.vae_path, self.vae_files).items()}
        return super().hashes() | other


Card = LatentCard | PixelCard | UpscalerCard
"""One kind per pipeline."""
