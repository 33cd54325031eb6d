"""Autoencoder: pictures become small latents, and come back.

    python -m marmo.recipes.vae kl --data pictures/ --folder out/vae             # kl-f8, as Stable Diffusion's
    python -m marmo.recipes.vae fast --data pictures/ --folder out/vae           # small, and without a discriminator
    python -m marmo.recipes.vae scenes --folder out/vae                          # that of Marmo's own model
    torchrun --nproc-per-node 8 -m marmo.recipes.vae vq --data shards/ --folder out/vq

Rombach et al. 2022, appendix G, with VQGAN's losses (Esser et al. 2021, section 3.1):

    reconstruction    (|x - y| + w_f features(x, y)) / exp(s) + s, with one learnt s
    regularisation    w_r KL(q(z | x), N(0, 1)), or the codebook's loss
    fooling           -w_d a D(y); a is the ratio of the gradients of both at the decoder's last layer

The discriminator begins once pictures are recognisable, and learns by the hinge loss.  CompVis sums the first two over
a picture and divides by the batch; others take means, so their weights are other numbers: `reduction` says which.
The features are those of Marmo's own oracle, in which two pictures are compared as LPIPS compares them (Zhang et al.
2018): every place of length 1, squared differences, the mean over places, the sum over levels.

Hardware and numbers: docs/training.md.

Shapes: B pictures, S side of a picture, F the factor, Z latent channels.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from marmo.data.selection import selected
from marmo.data.source import Source
from marmo.data.splits import Split
from marmo.evaluate.oracle import load_oracle
from marmo.models.discriminator import PATCHES_70, Discriminator, DiscriminatorConfig
from marmo.models.resnet import ResNet
from marmo.models.vae import KL_F8, VAE, Moments, VAEConfig, begin_blurred
from marmo.models.vq import VQ, VQConfig
from marmo.train import ema, optim
from marmo.train.run import Run, leave, start
from marmo.train.state import Learner, State
from marmo.weights.checkpoint import Checkpoint, Part, open_checkpoint
from marmo.weights.export import write_folder
from marmo.weights.forms import written
from marmo.weights.store import from_state, write

Reduction = Literal["sum", "mean"]

LARGEST_RATIO = 1e4  # of two gradients; Esser et al. 2021, equation 7
QUICKER = 30.0
"""So many times a weight's rate is that of the logarithm of the reconstruction's variance."""
MEASURED = 256
"""Pictures whose latents say what `latent_scale` must be."""
FORMAT = "marmo.vq"
"""The key of the metadata that holds, as JSON, the config of an autoencoder with a codebook."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a run depends on, beside the data."""

    folder: Path = Path("out/vae")
    """Where checkpoints, log and result go; a folder that has them goes on"""
    data: Literal["scenes"] | Path | None = None
    """Pictures: a folder, a .tar or a folder of them, or a saved `datasets` folder; or Marmo's own scenes"""
    split: Split = "train"
    """Of the scenes"""
    concepts: int | Path | None = None
    """Of the scenes: the first of Marmo's own list, or a file with an id per line; all by default"""
    size: int = 256
    """Pixels along the side of what is learnt from; larger pictures are cut"""
    from_: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """An autoencoder to begin with; its own config takes the place of `model`"""
    model: VAEConfig | VQConfig = KL_F8
    decoder_only: bool = False
    """Only the decoder learns; latents stay what they are, for a U-Net that has learnt them"""

    reduction: Reduction = "sum"
    """Over a picture's pixels and latents"""
    regularisation: float = 1e-6
    """The weight of the Kullback-Leibler divergence, or of the codebook's loss"""
    features: float = 1.0
    """The weight of the difference in features"""
    oracle: Path | None = None
    """Whose features; the bundled oracle's by default"""
    discriminator: DiscriminatorConfig = PATCHES_70
    fooling: float = 0.5
    """The weight of the discriminator's opinion; 0 is a run without one"""
    fooling_from: int = 600_000
    """Images after which it is asked"""

    images: int = 4_000_000
    batch_size: int = 12
    lr: float = 5.4e-5
    schedule: optim.Schedule = "constant"
    warmup: int = 0
    """Images over which the rate rises"""
    tail: int = 0
    """Images at the end over which it falls to 0"""
    betas: tuple[float, float] = (0.5, 0.9)
    weight_decay: float = 0.0
    clip: float | None = None
    """The largest norm of the gradients"""
    ema: float | None = None
    """The relative width of a power average, such as 0.05, which then is the result"""

    seed: int = 0
    device: str | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the arithmetic; bfloat16 where there is such by default"""
    workers: int = 8
    """Threads that read pictures ahead"""
    log_images: int = 12_000
    save_images: int = 120_000
    keep: int = 2
    """Checkpoints that stay"""


def vq() -> Config:
    """VQ-f4 with 8,192 words of three numbers, as Rombach et al. 2022."""
    model = VQConfig(vae=VAEConfig(channels=(128, 256, 512), latent_channels=3, latent_scale=1.0))
    return replace(Config(), folder=Path("out/vq"), model=model, regularisation=1.0, fooling=0.75, fooling_from=0)


def fast() -> Config:
    """Small pictures and no discriminator: minutes on a GPU, hours of a CPU."""
    model = VAEConfig(channels=(32, 64, 128), latent_channels=4, latent_scale=1.0, num_res_blocks=1, num_groups=16)
    return replace(
        Config(),
        model=model,
        size=128,
        regularisation=1e-5,
        fooling=0.0,
        images=400_000,
        batch_size=16,
        lr=1e-3,
        warmup=3_200,
        tail=100_000,
        betas=(0.9, 0.99),
        clip=1e4,
        ema=0.05,
        workers=1,
        log_images=3_200,
        save_images=16_000,
    )


def scenes() -> Config:
    """128 pixels of Marmo's scenes to 16 x 16 x 8; docs/training.md has its three stages."""
    model = VAEConfig(channels=(16, 32, 64, 128), latent_channels=8, latent_scale=1.0, num_res_blocks=1, num_groups=8)
    return replace(
        fast(),
        data="scenes",
        model=model,
        features=0.0,
        regularisation=0.2,
        images=18_000,
        batch_size=4,
        lr=4e-4,
        warmup=400,
        tail=12_000,
        clip=1e6,
        log_images=1_000,
        save_images=4_000,
    )


def tiny() -> Config:
    """Seconds on a CPU."""
    model = VAEConfig(channels=(16, 32), latent_channels=4, latent_scale=1.0, num_res_blocks=1, num_groups=8)
    times = {"images": 1024, "fooling_from": 896, "warmup": 32, "log_images": 64, "save_images": 512}
    return replace(
        fast(),
        model=model,
        size=32,
        features=0.0,
        discriminator=DiscriminatorConfig(width=8, depth=1),
        fooling=0.5,
        batch_size=8,
        lr=3e-3,
        tail=0,
        workers=0,
        device="cpu",
        dtype="float32",
        **times,
    )


def presets() -> Mapping[str, tuple[str, Config]]:
    """By name, with a line of help."""
    return {
        "kl": ("kl-f8, as Stable Diffusion's", Config()),
        "vq": (str(vq.__doc__), vq()),
        "fast": (str(fast.__doc__), fast()),
        "scenes": (str(scenes.__doc__), scenes()),
        "tiny": (str(tiny.__doc__), tiny()),
    }


class Coded(NamedTuple):
    """A batch that went through the autoencoder."""

    pixels: Tensor  # B 3 S S
    penalties: Tensor  # B: what its latents cost


class Autoencoder(nn.Module):
    """An autoencoder and what only its training needs: the logarithm of the reconstruction's variance."""

    def __init__(self, network: VAE | VQ) -> None:
        super().__init__()
        self.network = network
        self.slow_logvar = nn.Parameter(torch.zeros(()))

    @property
    def logvar(self) -> Tensor:
        """What it has learnt, moving faster than a weight: else it lags behind, and the divergence weighs too much."""
        return QUICKER * self.slow_logvar

    @property
    def last(self) -> Tensor:
        """The kernel that makes the pixels."""
        return self.network.decoder.conv_out.weight

    def keep_latents(self) -> None:
        """Nothing learns that has a say in what a picture's latents are."""
        assert isinstance(self.network, VAE)
        self.network.encoder.requires_grad_(False)
        self.network.to_moments.requires_grad_(False)

    def forward(self, x: Tensor, reduction: Reduction) -> Coded:
        """Pictures B 3 S S in [-1, 1] -> what is left of them."""
        if isinstance(self.network, VQ):
            words = self.network.encode(x)
            return Coded(self.network.decode(words.z), words.loss.expand(len(x)))
        moments = self.network.encode(x)
        z = moments.sample(torch.randn_like(moments.mean))
        return Coded(self.network.decode(z), divergence(moments, reduction))


class Features(nn.Module):
    """A trained trunk, through whose eyes two pictures are compared.  It does not learn."""

    def __init__(self, trunk: ResNet) -> None:
        super().__init__()
        self.trunk = trunk.eval().requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Pictures B 3 S S -> how different they look, B."""
        pairs = zip(self.trunk.levels(x), self.trunk.levels(y), strict=True)
        return torch.stack([(_unit(a) - _unit(b)).square().sum(1).mean((1, 2)) for a, b in pairs]).sum(0)


def divergence(moments: Moments, reduction: Reduction) -> Tensor:
    """KL(q(z | x), N(0, 1)) of every picture; Kingma and Welling 2014, appendix B.  -> B"""
    terms = (moments.mean.square() + moments.logvar.exp() - 1 - moments.logvar) / 2
    return _reduced(terms, reduction)


def reconstruction_loss(x: Tensor, y: Tensor, look: Tensor, logvar: Tensor, reduction: Reduction) -> Tensor:
    """The negative logarithm of a Laplace density around y, up to a constant.  B 3 S S, B 3 S S, B -> no axes

    Args:
        look: how different they look, weighted; it counts at every pixel, as in CompVis' code.
    """
    apart = (x - y).abs() + look[:, None, None, None]
    return _reduced(apart / logvar.exp() + logvar, reduction).mean()


def hinge_loss(real: Tensor, made: Tensor) -> Tensor:
    """What the discriminator learns by (Lim and Ye 2017).  Its answers B 1 H W -> no axes"""
    return (F.relu(1 - real).mean() + F.relu(1 + made).mean()) / 2


def ratio(rebuilding: Tensor, fooling: Tensor, last: Tensor) -> Tensor:
    """How much larger the gradient of one loss is than that of the other at the last layer.  -> no axes"""
    (first,) = torch.autograd.grad(rebuilding, last, retain_graph=True)
    (second,) = torch.autograd.grad(fooling, last, retain_graph=True)
    return (_length(first) / (_length(second) + 1e-4)).clamp(0, LARGEST_RATIO).detach()


def build(config: Config) -> Autoencoder:
    """The network that a run begins with, on the CPU."""
    if config.from_ is not None:
        model = Autoencoder(_opened(config.from_))
        if config.decoder_only:
            model.keep_latents()
        return model
    if config.decoder_only:
        raise ValueError("only of an autoencoder that has learnt can latents be kept: give --from, too")
    return Autoencoder(VQ(config.model) if isinstance(config.model, VQConfig) else _untrained(config.model))


def _untrained(config: VAEConfig) -> VAE:
    paired = all(channels // config.num_groups % 2 == 0 for channels in config.channels)
    return begin_blurred(VAE(config)) if paired else VAE(config)


def main(config: Config, source: Source | None = None) -> Path:
    """Train, or go on; returns the file that holds the autoencoder.

    Args:
        source: pictures by position; those of `config.data` by default.
    """
    with start(config) as run:
        model, critic = build(config).to(run.device), Discriminator(config.discriminator).to(run.device)
        features = _features(config).to(run.device) if config.features else None
        averages = {} if config.ema is None else {"power": ema.Average(model, ema.power(config.ema))}
        learner = Learner(model, _adam(model, config), averages, batch_size=config.batch_size, clip=config.clip)
        judge = Learner(critic, _adam(critic, config), batch_size=config.batch_size, clip=config.clip)
        state = State({"model": learner, "discriminator": judge} if config.fooling else {"model": learner})
        run.restore(state)

        source = _source(config, run.device) if source is None else source
        for rows in run.batches(source, state):
            x = torch.stack([row[0] for row in rows]).to(run.device)
            lr = optim.rate(config.lr, state.images, config.images, config.schedule, config.warmup, config.tail)
            with run.autocast():
                coded = model(x, config.reduction)
            y = coded.pixels.float()
            look = x.new_zeros(len(x)) if features is None else config.features * features(x, y)
            rebuilding = reconstruction_loss(x, y, look, model.logvar, config.reduction)
            told = {"rebuilding": rebuilding, "penalty": coded.penalties.mean(), "l1": (x - y).abs().mean()}
            loss = rebuilding + config.regularisation * coded.penalties.mean()
            if config.fooling and state.images >= config.fooling_from:
                critic.requires_grad_(True)
                judging = hinge_loss(critic(x), critic(y.detach()))
                judge.step(judging, lr)
                critic.requires_grad_(False)
                fooling = -critic(y).mean()
                loss = loss + config.fooling * ratio(rebuilding, fooling, model.last) * fooling
                told |= {"judging": judging, "fooling": fooling}
            state.step(loss, lr)

            if run.every(config.log_images, state):
                run.log(state, **told, logvar=model.logvar, norm=learner.norm, lr=lr)
            if run.every(config.save_images, state):
                run.sheet(state, torch.cat([x[:4], y[:4].detach().clamp(-1, 1)]))
                run.save(state)
        kept = model.network.config.latent_scale if config.decoder_only else None
        return _export(run, averages["power"].model if averages else model, source, kept)


def _unit(x: Tensor) -> Tensor:
    """Every place B C H W of length 1 over its channels."""
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


def _length(gradient: Tensor) -> Tensor:
    return gradient.square().sum().sqrt()


def _reduced(terms: Tensor, reduction: Reduction) -> Tensor:
    """B ... -> B."""
    return terms.flatten(1).sum(1) if reduction == "sum" else terms.flatten(1).mean(1)


def _adam(model: nn.Module, config: Config) -> torch.optim.AdamW:
    return optim.adamw(model, config.betas, weight_decay=config.weight_decay)


def _features(config: Config) -> Features:
    """The eyes of an oracle; `ValueError` for one that is no residual network."""
    trunk = load_oracle(config.oracle or "first").network.namer.trunk
    if not isinstance(trunk, ResNet):
        raise ValueError(
            f"{config.oracle} is an oracle of another architecture; features are those of residual networks"
        )
    return Features(trunk)


def _source(config: Config, device: torch.device) -> Source:
    match config.data:
        case None:
            raise ValueError("there is nothing to learn from: give --data")
        case "scenes":
            from marmo.data.scene_source import scene_source

            scenes = scene_source(config.seed, config.size, config.split, device, selection=selected(config.concepts))
            return lambda position: scenes(position)[:2]
        case Path() as path:
            from marmo.data.pictures import open_pictures  # reads picture records, too, and so needs pydantic

            return open_pictures(path, seed=config.seed, size=config.size)


def _opened(path: Path) -> VAE:
    """The autoencoder at a path, in float32, also where it is a part of a whole model."""
    part = open_checkpoint(path).parts.get("vae")
    if part is None or not isinstance(part.config, VAEConfig):
        raise ValueError(f"{path} holds no autoencoder to begin with")
    network = VAE(part.config)
    network.load_state_dict({name: part.tensors.read(name) for name in part.tensors.infos})
    return network


@torch.no_grad()
def latent_scale(network: VAE | VQ, source: Source, device: torch.device, pictures: int = MEASURED) -> float:
    """What latents must be multiplied with to have unit variance; Rombach et al. 2022, appendix G."""
    squares, sums, count = 0.0, 0.0, 0
    for position in range(pictures):
        x = source(position)[0][None].to(device)
        z = network.encode(x).z if isinstance(network, VQ) else network.encode(x).mean
        squares, sums, count = squares + float(z.square().sum()), sums + float(z.sum()), count + z.numel()
    return (squares / count - (sums / count) ** 2) ** -0.5


def _export(run: Run, model: nn.Module, source: Source, kept: float | None) -> Path:
    """A folder that diffusers opens; of an autoencoder with a codebook, whose names are our own, a single file.

    Args:
        kept: the `latent_scale` of latents that are what they were; by default it is measured.
    """
    assert isinstance(model, Autoencoder)
    network = model.network
    scale = kept if kept is not None else latent_scale(network, source, run.device)
    state = from_state(network.state_dict())
    if isinstance(network, VQ):
        path, told = run.folder / "vq.safetensors", asdict(network.config)
        told["vae"]["latent_scale"] = scale
        if run.is_main:
            write(path, state, {FORMAT: json.dumps(told)})
        return path
    path, config = run.folder / "vae", replace(network.config, latent_scale=scale)
    if run.is_main:
        if path.is_dir():
            shutil.rmtree(path)  # of this run when it was shorter
        part = Part(written("vae", "diffusers"), config, state)
        write_folder(Checkpoint(path, "vae", {"vae": part}, (path,)), path)
    return path


if __name__ == "__main__":
    main(tyro.extras.overridable_config_cli(dict(presets())))
    leave()
