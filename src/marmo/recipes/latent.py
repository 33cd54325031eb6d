"""Latent diffusion: a U-Net learns to see pictures in noise, from what is said about them.

    python -m marmo.recipes.latent cpu --vae out/vae/vae --clip out/clip/clip --folder out/latent     # Marmo's scenes
    python -m marmo.recipes.latent sd1 --from v1-5.safetensors --data pictures/ --folder out/tuned
    torchrun --nproc-per-node 8 -m marmo.recipes.latent s-128 --vae out/vae/vae --clip out/clip/clip

Rombach et al. 2022, section 3: latents of a frozen autoencoder are mixed with noise, and the U-Net, whose pixels attend
to the states of a text encoder, says what the noise is, or the velocity v (Salimans and Ho 2022), or the straight way
from picture to noise (Lipman et al. 2023, Liu et al. 2022).  Its squared error counts as in Hang et al. 2023; the last
noise level may leave nothing of the picture (Lin et al. 2023); some captions are left out, for classifier-free guidance
(Ho and Salimans 2022).  The result, `model`, is a folder that Marmo paints from and that diffusers opens.

Hardware and numbers: docs/training.md.

Shapes: B pictures of this rank, S side of a picture, Z latent channels, H W height and width of the latents, T tokens,
D width of the text encoder's states.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor, nn

from marmo.data.latents import Draw, RowSource, drawn, encoded
from marmo.data.source import Source
from marmo.data.splits import Split
from marmo.diffusion import samplers, schedules, sources
from marmo.diffusion.denoiser import Parametrisation, denoise
from marmo.diffusion.guidance import ClassifierFree
from marmo.diffusion.noise import COSINE, DDPM, STABLE_DIFFUSION, Betas, NoiseTable
from marmo.diffusion.training import Lesson, evenly, flow_levels, lesson, levels
from marmo.models.clip_text import ClipText
from marmo.models.unet import UNet, UNetConfig
from marmo.train import ema, optim
from marmo.train.latent_parts import Parts, Training, found, training_of, unet_of, write_model
from marmo.train.run import Run, leave, start
from marmo.train.state import Learner, State

NOISES: Mapping[str, Betas] = {"scaled_linear": STABLE_DIFFUSION, "linear": DDPM, "cosine": COSINE}
HELD_OUT_SEED = -4  # trainings count theirs from 0, the evaluation's prompts are -1, the oracles -2 and -3
SHARES = (0.125, 0.375, 0.625, 0.875)  # of the noise levels, at which the loss is validated
PROMPTS = (
    "a red fox",
    "a green apple on a blue background",
    "a cat to the left of an umbrella",
    "three yellow stars",
    "一只熊猫",
    "一辆蓝色的汽车",
    "一棵树在房子的右边",
    "两个红色的圆形",
)


@dataclass(frozen=True, kw_only=True)
class UNetShape:
    """What of a U-Net its autoencoder and text encoder do not decide; one entry per level, the finest first."""

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    """Transformer blocks after each residual block; 0 is no attention"""
    num_heads: tuple[int, ...]
    num_res_blocks: int = 2
    num_groups: int = 32

    def config(self, parts: Parts) -> UNetConfig:
        """The U-Net between these parts."""
        latents, states = parts.vae.config.latent_channels, parts.text.config.width
        return UNetConfig(
            in_channels=latents,
            out_channels=latents,
            channels=self.channels,
            depths=self.depths,
            num_heads=self.num_heads,
            context_width=states,
            num_res_blocks=self.num_res_blocks,
            num_groups=self.num_groups,
        )


SD1_SHAPE = UNetShape(channels=(320, 640, 1280, 1280), depths=(1, 1, 1, 0), num_heads=(8, 8, 8, 8))


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a run depends on, beside the data."""

    folder: Path = Path("out/latent")
    """Where checkpoints, log and result go; a folder that has them goes on"""
    data: Literal["scenes"] | Path | None = None
    """Captioned pictures: a folder, a .tar or a folder of them, or a saved `datasets` folder; or Marmo's own scenes"""
    split: Split = "train"
    """Of the scenes"""
    size: int = 512
    """Pixels along the side; larger pictures are cut"""
    held_out: int = 64
    """Pictures that are validated with, and so many that were learnt from"""
    window: int = 2048
    """Pictures whose latents are kept, a multiple of 64"""
    repeats: int = 1
    """How often each is learnt from before the next window"""

    vae: Path | None = None
    """The autoencoder: a file or a folder, alone or in a model"""
    clip: Path | None = None
    """The text encoder and its tokenizer: a CLIP, a text tower, or a model that has one"""
    from_: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """A model to begin with: its U-Net takes the place of `unet`, the rest is what is not given"""
    unet: UNetShape = SD1_SHAPE
    target: Literal["eps", "v", "flow"] | None = None
    """What the network says; eps by default"""
    noise: Literal["scaled_linear", "linear", "cosine"] | None = None
    """The noise levels; scaled_linear by default"""
    zero_snr: bool | None = None
    """Whether nothing of the picture is left at the last one; not by default"""
    shift: float = 1.0
    """Of a flow's levels towards noise"""
    min_snr: float | None = None
    """The largest signal-to-noise ratio with which an error counts, 5 for eps; without it all count the same"""
    dropout: float = 0.1
    """How often the caption is left out"""
    text_lr: float = 0.0
    """The text encoder's rate, as a share of the U-Net's; with 0 it does not learn"""

    images: int = 40_000_000
    batch_size: int = 256
    """Of all ranks together"""
    accumulate: int = 1
    """Parts in which a batch is computed"""
    lr: float = 1e-4
    schedule: optim.Schedule = "constant"
    warmup: int = 0
    """Images over which the rate rises"""
    tail: int = 0
    """Images at the end over which it falls to 0"""
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    max_norm: float | None = 1.0
    """The largest norm of the gradients"""
    ema: tuple[float, ...] = (0.05,)
    """Relative widths of power averages; the first is the result"""
    ema_decay: float | None = None
    """The constant of a usual average, 0.9999 say, which then is the result"""

    prompts: tuple[str, ...] = PROMPTS
    """What the sheets show"""
    guidance_scale: float = 4.0
    """Of the sheets"""
    steps: int = 16
    """Of the sheets"""

    seed: int = 0
    device: str | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the arithmetic; bfloat16 where there is such by default"""
    workers: int = 8
    """Threads that read and encode ahead"""
    log_images: int = 25_600
    validate_images: int = 256_000
    save_images: int = 256_000
    snapshot_images: int = 0
    """How often the averages are kept for other widths; 0 is never"""
    keep: int = 2
    """Checkpoints that stay"""


def s_128() -> Config:
    """128 pixels of Marmo's scenes: a quarter of an hour of a large GPU."""
    shape = UNetShape(channels=(64, 128, 192, 256), depths=(0, 1, 1, 1), num_heads=(2, 4, 6, 8), num_res_blocks=1)
    return replace(
        Config(),
        data="scenes",
        size=128,
        unet=shape,
        target="v",
        noise="cosine",
        zero_snr=True,
        images=6_000_000,
        batch_size=1024,
        lr=3e-4,
        warmup=500 * 1024,
        tail=1_800_000,
        betas=(0.9, 0.95),
        ema=(0.05, 0.1),
        window=16_384,
        repeats=2,
        log_images=102_400,
        validate_images=512_000,
        save_images=512_000,
    )


def cpu() -> Config:
    """128 pixels of Marmo's scenes in latents of 16 x 16: a night of two CPU cores."""
    shape = UNetShape(channels=(96, 192, 288), depths=(1, 1, 1), num_heads=(3, 6, 9), num_res_blocks=1)
    return replace(
        s_128(),
        unet=shape,
        images=3_000_000,
        batch_size=32,
        lr=5e-4,
        warmup=16_000,
        tail=900_000,
        betas=(0.9, 0.99),
        ema=(0.05,),
        window=2048,
        repeats=8,
        workers=1,
        log_images=3_200,
        validate_images=64_000,
        save_images=64_000,
    )


def tiny() -> Config:
    """Seconds on a CPU."""
    shape = UNetShape(channels=(32, 64), depths=(1, 1), num_heads=(2, 4), num_res_blocks=1, num_groups=8)
    return replace(
        cpu(),
        data=None,
        size=32,
        held_out=16,
        window=256,
        repeats=4,
        unet=shape,
        images=2048,
        batch_size=16,
        lr=2e-3,
        warmup=64,
        tail=0,
        ema=(0.1,),
        prompts=PROMPTS[:2],
        steps=4,
        workers=0,
        device="cpu",
        dtype="float32",
        log_images=128,
        validate_images=1024,
        save_images=1024,
    )


def presets() -> Mapping[str, tuple[str, Config]]:
    """By name, with a line of help."""
    return {
        "sd1": ("Stable Diffusion 1's shape, for GPUs", Config()),
        "s-128": (str(s_128.__doc__), s_128()),
        "cpu": (str(cpu.__doc__), cpu()),
        "tiny": (str(tiny.__doc__), tiny()),
    }


class Student(nn.Module):
    """What learns: the U-Net, and the text encoder where it learns along."""

    def __init__(self, unet: UNet, text: ClipText | None, skip: int) -> None:
        super().__init__()
        self.unet, self.text, self.skip = unet, text, skip

    def states(self, text: Tensor) -> Tensor:
        """Ids B T, or what a frozen text encoder made of them -> states B T D."""
        return text if self.text is None else self.text(text, self.skip)

    def forward(self, x: Tensor, clock: Tensor, text: Tensor) -> Tensor:
        """Noisy latents B Z H W, clock B, text of the same batch -> B Z H W."""
        return self.unet(x, clock, self.unet.project(self.states(text)))


def build(config: Config, parts: Parts) -> Student:
    """The network that a run begins with, on the CPU."""
    if config.from_ is None:
        unet = _initialised(UNet(config.unet.config(parts)))
    elif config.unet != SD1_SHAPE:
        raise ValueError(f"{config.from_} brings its own U-Net: give either --from or --unet")
    else:
        unet = unet_of(config.from_)
    shape, latents = unet.config, parts.vae.config.latent_channels
    if (shape.in_channels, shape.context_width) != (latents, parts.text.config.width):
        raise ValueError(
            f"the U-Net reads {shape.in_channels} channels and states {shape.context_width} wide; the autoencoder and "
            f"the text encoder give {latents} and {parts.text.config.width}"
        )
    return Student(unet, parts.text if config.text_lr else None, parts.skip)


def training(config: Config) -> Training:
    """What is learnt over which noise: what is given, else that of the model to begin with, else SD 1's."""
    usual = Training("eps", STABLE_DIFFUSION) if config.from_ is None else training_of(config.from_)
    betas = usual.betas if config.noise is None else NOISES[config.noise]
    zero_snr = usual.betas.zero_snr if config.zero_snr is None else config.zero_snr
    target = config.target or usual.target
    if target == "eps" and zero_snr:
        raise ValueError("in pure noise (zero terminal SNR) no eps can be seen; give --target v")
    return Training(target, replace(betas, zero_snr=zero_snr))


def loss(output: Tensor, wanted: Lesson) -> Tensor:
    """The mean of the weighted squared errors.  B Z H W -> no axes"""
    errors = (output.float() - wanted.target).square().mean((1, 2, 3))  # B
    return (wanted.weights * errors).mean()


def main(config: Config, source: Source | None = None, held: Source | None = None) -> Path:
    """Train, or go on; returns the folder that holds the model.

    Args:
        source: captioned pictures by position; those of `config.data` by default.
        held: the same, never learnt from; those of `config.data` by default, and none with a `source`.
    """
    with start(config) as run:
        parts, taught = _placed(found(config.from_, config.vae, config.clip), run), training(config)
        model = _laid_out(build(config, parts).to(run.device))
        averages = _averages(config, model)
        learner = Learner(
            model,
            _adam(model, config),
            averages,
            batch_size=config.batch_size,
            accumulate=config.accumulate,
            clip=config.max_norm,
        )
        state = State({"model": learner})
        run.restore(state)

        if source is None:
            source, held = _sources(config, run.device)
        lessons = Lessons(config, parts, taught, run)
        rows = encoded(source, lessons.encode, lessons.read, config.window, config.repeats, config.seed)
        exams = {"validation": held and lessons.exam(held), "validation_train": lessons.exam(rows)}
        best = next(iter(averages.values())).model if averages else model
        assert isinstance(best, Student)
        for draws in run.batches(lessons.drawing(rows), state):
            wanted, texts = lessons.batch(draws)
            with run.autocast():
                output = model(wanted.seen, wanted.clock, texts)
            value = loss(output, wanted)
            lr = optim.rate(config.lr, state.images, config.images, config.schedule, config.warmup, config.tail)
            state.step(value, lr)

            if run.every(config.log_images, state):
                run.log(state, loss=value, norm=learner.norm, lr=lr)
