"""DDPM: a U-Net that learns to see the noise in pictures, and so to paint them from nothing but noise.

    python -m marmo.recipes.ddpm cifar --data pictures/ --folder out/ddpm        # the paper's network, 32 pixels
    python -m marmo.recipes.ddpm digits --data digits/ --folder out/digits       # 8 pixels, grey: minutes on a CPU
    python -m marmo.recipes.ddpm digits --data digits/ --levels 300              # the tutorials' T, and what it leaves

Ho et al. 2020.  A picture is mixed with noise, x_t = sqrt(a_t) x0 + sqrt(1 - a_t) eps, at a level t drawn evenly from
T of them, and the network is asked for the noise (equation 14, L_simple):

    loss    |eps - eps_theta(x_t, t)|^2

The betas rise in a straight line from 1e-4 to 0.02, or so that a_t is a cosine (Nichol and Dhariwal 2021).  With
T = 1000 the line leaves 0.6 % of a picture's amplitude at the last level, which is as good as nothing; with T = 300 it
leaves 21.9 %, and sampling, which begins with noise alone, begins where the network has never been: `residue`, and
docs/ddpm.md for what comes of it.

Beside the loss a run tells how well its averaged network does on fixed noise, over pictures that it learnt from and
over others, and how often what it paints is almost a picture of the training: `marmo diagnose` reads these.

Hardware and numbers: docs/ddpm.md.

Shapes: B pictures, C channels, S side of a picture.
"""

import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from marmo.data.heldout import Split, open_split
from marmo.diffusion import samplers, schedules
from marmo.diffusion.denoiser import Network, Parametrisation
from marmo.diffusion.noise import COSINE, DDPM, Betas, NoiseTable
from marmo.diffusion.seeing import seen
from marmo.evaluate.copying import near_copies, neighbours, split_test
from marmo.evaluate.denoising import Trial, eps_errors
from marmo.models.pixel_unet import CIFAR, DIGITS, PIXEL_TOY, PixelAttention, PixelUNet, PixelUNetConfig
from marmo.nn.blocks import ResBlock
from marmo.train import ema, optim
from marmo.train.run import Run, leave, start
from marmo.train.state import Learner, State
from marmo.weights.checkpoint import Checkpoint, Part, open_checkpoint
from marmo.weights.export import write_folder
from marmo.weights.forms import written
from marmo.weights.maps.scheduler import ddpm_to_json
from marmo.weights.store import from_state

NoiseName = Literal["linear", "cosine"]
BETAS: Mapping[NoiseName, Betas] = {"linear": DDPM, "cosine": COSINE}

COMPARED_SIDE = 16
"""Pixels of the pictures in which copies are looked for; larger ones are averaged."""
ALMOST = 0.01
"""The share of real pictures that are near enough to one of the training to pass for a copy of it."""
LEAST_COMPARED = 20
"""Pictures that were kept apart, below which nobody can tell what is usual."""
LARGEST_FILTERED = 3 * 64 * 64
"""Numbers in a picture up to which the best linear filter is worked out."""
SHOWN, SHOWN_SIDE = 16, 64
"""Samples on a sheet, and the pixels below which they are enlarged."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a run depends on, beside the data."""

    folder: Path = Path("out/ddpm")
    """Where checkpoints, log and result go; a folder that has them goes on"""
    data: Path | None = None
    """Pictures: a folder, a .tar or a folder of them, or a saved `datasets` folder"""
    heldout: float | Path = 0.1
    """The share of them that is kept apart to measure with, or where other pictures for it lie"""
    flip: bool = True
    """Every second picture is mirrored"""
    from_: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """A folder of such a model to begin with; its own config takes the place of `model`"""
    model: PixelUNetConfig = CIFAR

    noise: NoiseName = "linear"
    """How it rises from level to level"""
    levels: int = 1000
    """T, the levels of noise"""

    images: int = 102_400_000
    batch_size: int = 128
    lr: float = 2e-4
    schedule: optim.Schedule = "constant"
    warmup: int = 640_000
    """Images over which the rate rises"""
    tail: int = 0
    """Images at the end over which it falls to 0"""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float | None = 1.0
    """The largest norm of the gradients"""
    decay: float | None = 0.9999
    """Of the usual average of the weights, which then is the result"""
    ema: float | None = None
    """Instead of it, the relative width of a power average, such as 0.05"""

    compared: int = 1024
    """Pictures, of training and others, that the network is tried on"""
    samples: int = 256
    """Pictures painted when it is tried; 0 is none, and no search for copies"""
    steps: int = 25
    """Of DPM++ 2M when it paints these"""

    seed: int = 0
    device: str | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the arithmetic; bfloat16 where there is such by default"""
    workers: int = 8
    """Threads that read pictures ahead"""
    log_images: int = 12_800
    validate_images: int = 1_280_000
    """After so many the network is tried on fixed noise, and paints"""
    save_images: int = 1_280_000
    keep: int = 2
    """Checkpoints that stay"""


def digits() -> Config:
    """Grey pictures of 8 pixels, such as scikit-learn's digits: minutes on a CPU."""
    return replace(
        Config(),
        model=DIGITS,
        flip=False,
        images=115_200,
        lr=2e-3,
        schedule="cosine",
        warmup=2_560,
        decay=None,
        ema=0.1,
        workers=0,
        dtype="float32",
        log_images=3_200,
        validate_images=19_200,
        save_images=19_200,
    )


def tiny() -> Config:
    """Seconds on a CPU."""
    return replace(
        digits(),
        model=replace(PIXEL_TOY, side=8),
        images=4_096,
        batch_size=32,
        lr=4e-3,
        warmup=256,
        compared=64,
        samples=32,
        steps=10,
        device="cpu",
        log_images=256,
        validate_images=1_024,
        save_images=2_048,
    )


def presets() -> Mapping[str, tuple[str, Config]]:
    """By name, with a line of help."""
    return {
        "cifar": ("the paper's network for 32 pixels, 35.7 million numbers", Config()),
        "digits": (str(digits.__doc__), digits()),
        "tiny": (str(tiny.__doc__), tiny()),
    }


def levels(config: Config) -> Betas:
    """The noise of a run; `ValueError` for too few levels."""
    if config.levels < 2:
        raise ValueError(f"there must be 2 levels of noise or more, not {config.levels}")
    return replace(BETAS[config.noise], num_levels=config.levels)


def residue(betas: Betas) -> float:
    """sqrt(a_T): the share of a picture's amplitude that is left at the last level, where sampling believes none is."""
    return float(betas.alphas()[-1].sqrt())


def loss(network: Network, parametrisation: Parametrisation, x0: Tensor) -> Tensor:
    """L_simple of pictures B C S S in [-1, 1].  -> no axes"""
    assert parametrisation.table is not None
    sigmas = parametrisation.table.sigmas
    sigma = sigmas[torch.randint(len(sigmas), (len(x0),))]
    return eps_errors(network, parametrisation, x0, torch.randn_like(x0), sigma).mean()


def build(config: Config) -> PixelUNet:
    """The network that a run begins with, on the CPU; a new one begins with the answer 0."""
    if config.from_ is None:
        return _silent(PixelUNet(config.model))
    return _opened(config.from_)


def main(config: Config, split: Split | None = None) -> Path:
    """Train, or go on; returns the folder that holds the model.

    Args:
        split: pictures to learn from and others; those of `config.data` by default.
    """
    with start(config) as run:
        model, betas = build(config).to(run.device), levels(config)
        parametrisation = Parametrisation("eps", NoiseTable(betas))
        averages = _averages(model, config)
        adam = optim.adamw(model, config.betas, weight_decay=config.weight_decay)
        learner = Learner(model, adam, averages, batch_size=config.batch_size, clip=config.clip)
        state = State({"model": learner})
        run.restore(state)

        split = _split(config, model.config) if split is None else split
        best = next((average.model for average in averages.values()), model)
        trials = Trials(split, parametrisation, config, run.device)
        for rows in run.batches(split.source, state):
            x0 = torch.stack([row[0] for row in rows]).to(run.device)
            if config.flip:
                x0 = torch.where(torch.rand(len(x0), 1, 1, 1).to(x0.device) < 0.5, x0.flip(3), x0)
            with run.autocast():
                value = loss(model, parametrisation, x0)
            lr = optim.rate(config.lr, state.images, config.images, config.schedule, config.warmup, config.tail)
            state.step(value, lr)

            told = {"loss": value, "norm": learner.norm, "lr": lr, "epoch": state.images / split.count}
            if run.every(config.validate_images, state):
                painted = trials.paint(best)
                run.log(state, **told, **trials.losses(best), **trials.copies(painted))
                if config.samples:
                    run.sheet(state, _framed(painted[:SHOWN]))
            elif run.every(config.log_images, state):
                run.log(state, **told)
            if run.every(config.save_images, state):
                run.save(state)
        return _export(run, best, betas)


class Trials:
    """What a network is tried on: fixed noise over pictures of training and others, and painting."""

    def __init__(self, split: Split, parametrisation: Parametrisation, config: Config, device: torch.device) -> None:
        assert parametrisation.table is not None
        self.split, self.parametrisation, self.config, self.device = split, parametrisation, config, device
        table, most = parametrisation.table, config.compared
        self.heldout = Trial(split.heldout[:most].to(device), table, seed=0)
        self.train = Trial(split.seen[: len(split.heldout[:most])].to(device), table, seed=0)
        self.baseline = self._baseline(split.seen[:most].to(device))

    def losses(self, network: nn.Module) -> dict[str, Tensor | float]:
        """On fixed noise; `baseline` is what pictures without structure would cost."""
        with _at_rest(network):
            each = self.heldout.losses(network, self.parametrisation)
            train = self.train.losses(network, self.parametrisation)
        levels = {f"validation_{level}": value for level, value in enumerate(each, 1)}
        return {"validation": each.mean(), "validation_train": train.mean(), **self.baseline, **levels}

    def _baseline(self, train: Tensor) -> dict[str, float]:
        """See `Trial.gaussian`; of large pictures it would take minutes, and is not measured."""
        if train[0].numel() > LARGEST_FILTERED:
            return {}
        return {"baseline": float(self.heldout.gaussian(train).mean())}

    @torch.no_grad()
    def paint(self, network: nn.Module) -> Tensor:
        """Pictures from noise that stays the same.  -> N C S S"""
        table = self.parametrisation.table
        assert table is not None
        draw = torch.Generator().manual_seed(self.config.seed)
        shape = self.split.seen.shape[1:]
        sigmas = schedules.schedule("karras", table, self.config.steps)
        x = torch.randn(self.config.samples, *shape, generator=draw).to(self.device) * (1 + sigmas[0] ** 2).sqrt()
        with _at_rest(network):
            return samplers.run(samplers.dpmpp_2m(x, sigmas), seen(network, self.parametrisation, bound=1.0))

    def copies(self, painted: Tensor) -> dict[str, float]:
        """How often painted pictures are almost one of training; the same of real ones that were kept apart.

        `copied_z` is how sure it is that training pictures, and not any real ones, are too near.  Of too few pictures
        nothing is said.
        """
        most = self.config.compared
        seen, heldout = self.split.seen[:most], self.split.heldout[:most]
        if not len(painted) or len(heldout) < LEAST_COMPARED:
            return {}
        found = neighbours(_looks(painted), _looks(seen), _looks(heldout))
        near = near_copies(found, quantile=max(ALMOST, 1 / len(heldout)))
        return {"copied": near.generated.value, "copied_usual": near.heldout.value, "copied_z": split_test(found).z}


@contextmanager
def _at_rest(network: nn.Module) -> Generator[None]:
    """Without dropout, for a while."""
    was = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was)


def _framed(pictures: Tensor) -> Tensor:
    """For people: colours, small ones enlarged, with a grey line around them.  B C S S -> B 3 S' S'"""
    scale = max(SHOWN_SIDE // pictures.shape[-1], 1)
    large = F.interpolate(pictures, scale_factor=scale, mode="nearest").expand(-1, 3, -1, -1)
    return F.pad(large, (1, 1, 1, 1), value=0.0)


def _looks(pictures: Tensor) -> Tensor:
    """What of pictures B C S S is compared: their pixels, at a small size.  -> B D"""
    side = min(COMPARED_SIDE, pictures.shape[-1])
    return F.adaptive_avg_pool2d(pictures.float().cpu(), side).flatten(1)


def _silent(network: PixelUNet) -> PixelUNet:
    """The last layer of every residual branch, and of all, begins at 0 (Ho et al.'s program): Adam finds its way."""
    last: list[nn.Module] = [network.conv_out]
    last += [module.conv2 for module in network.modules() if isinstance(module, ResBlock)]
    last += [module.attention.out for module in network.modules() if isinstance(module, PixelAttention)]
    for module in last:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
    return network


def _averages(model: nn.Module, config: Config) -> dict[str, ema.Average]:
    match config.decay, config.ema:
        case None, None:
            return {}
        case float(decay), None:
            return {"constant": ema.Average(model, ema.constant(decay))}
        case None, float(width):
            return {"power": ema.Average(model, ema.power(width))}
        case _:
            raise ValueError("--decay and --ema are two averages, and one is the result; set the other to None")


def _split(config: Config, model: PixelUNetConfig) -> Split:
    if config.data is None:
        raise ValueError("there is nothing to learn from: give --data")
    return open_split(
        config.data,
        config.heldout,
        seed=config.seed,
        size=model.side,
        channels=model.in_channels,
        compared=config.compared,
    )


def _opened(path: Path) -> PixelUNet:
    """The network at a path, in float32."""
    part = open_checkpoint(path).parts.get("pixel_unet")
    if part is None or not isinstance(part.config, PixelUNetConfig):
        raise ValueError(f"{path} holds no network that paints pixels to begin with")
    network = PixelUNet(part.config)
    network.load_state_dict({name: part.tensors.read(name).float() for name in part.tensors.infos})
    return network


def _export(run: Run, model: nn.Module, betas: Betas) -> Path:
    """A folder that `marmo generate` and diffusers' DDPMPipeline paint from."""
    assert isinstance(model, PixelUNet)
    path = run.folder / "model"
    if run.is_main:
        if path.is_dir():
            shutil.rmtree(path)  # of this run when it was shorter
        part = Part(written("pixel_unet", "diffusers"), model.config, from_state(model.state_dict()))
        write_folder(Checkpoint(path, "folder", {"pixel_unet": part}, (path,), scheduler=ddpm_to_json(betas)), path)
    return path


if __name__ == "__main__":
    main(tyro.extras.overridable_config_cli(dict(presets())))
    leave()
