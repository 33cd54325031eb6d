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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor, nn

from marmo.data.cache import TensorCache
from marmo.data.latents import Draw
from marmo.data.selection import CONCEPTS_FILE, EASY, PLURAL, Selection, listed, read_concepts, write_concepts
from marmo.data.source import Source
from marmo.data.splits import Split
from marmo.diffusion.denoiser import Network, Parametrisation
from marmo.diffusion.noise import COSINE, DDPM, FLOW, STABLE_DIFFUSION, Betas, NoiseTable
from marmo.diffusion.training import Lesson
from marmo.models.clip_text import ClipText
from marmo.models.unet import SpatialTransformer, UNet, UNetConfig
from marmo.nn.blocks import ResBlock
from marmo.train import ema, optim
from marmo.train.latent_data import Collection, Data, endless, scenes
from marmo.train.latent_parts import Parts, Training, found, training_of, unet_of, write_model
from marmo.train.lessons import Lessons
from marmo.train.run import Run, leave, start
from marmo.train.sheets import painted
from marmo.train.state import Learner, State

NOISES: Mapping[str, Betas] = {"scaled_linear": STABLE_DIFFUSION, "linear": DDPM, "cosine": COSINE}
HELD_OUT_SEED = -4  # of scenes; trainings count theirs from 0, the evaluation's prompts are -1, the oracles -2 and -3
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
    concepts: int | Path | None = None
    """Of the scenes: the first of Marmo's own list, or a file with an id per line; all by default"""
    coloured: float = 0.5
    """Of the scenes: how many things have another colour, of those in which one can be replaced"""
    plural: float = PLURAL
    """Of the scenes: the share of pairs and of several things alike"""
    calm: float = 0.0
    """Of the scenes: the share that is as plain as can be, one style, everything upright at a place of its own"""
    easy_images: int = 0
    """So many images at the beginning show scenes with a single thing, or shapes"""
    easy_calm: float = 0.0
    """And of these so many are plain"""
    size: int = 512
    """Pixels along the side; larger pictures are cut"""
    held_out: int = 64
    """Pictures that are validated with, and so many that were learnt from"""
    window: int = 2048
    """Scenes whose latents are kept, a multiple of 64"""
    repeats: int = 1
    """How often each scene is learnt from before the next window"""
    bucket_step: int | None = None
    """Of your own pictures: their sides are multiples of so many pixels, in shapes that fit them; none is squares"""

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
    spread: float | None = None
    """Of logit-normal noise levels, of which the middle comes most often; without it all come equally often"""
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
        spread=1.2,
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
    """128 pixels of 150 concepts in latents of 16 x 16: six hours of a CPU core, and 25 MB in 8 bits."""
    shape = UNetShape(channels=(96, 160, 224), depths=(0, 1, 1), num_heads=(3, 5, 7), num_res_blocks=1)
    return replace(
        s_128(),
        concepts=150,
        coloured=0.75,
        plural=0.65,
        calm=0.85,
        easy_images=250_000,
        easy_calm=1.0,
        unet=shape,
        text_lr=0.3,
        images=1_000_000,
        batch_size=32,
        lr=5e-4,
        warmup=6_400,
        tail=250_000,
        betas=(0.9, 0.99),
        ema=(0.05,),
        window=2048,
        repeats=6,
        workers=1,
        log_images=1_600,
        validate_images=32_000,
        save_images=16_000,
    )


def tiny() -> Config:
    """Seconds on a CPU."""
    shape = UNetShape(channels=(32, 64), depths=(1, 1), num_heads=(2, 4), num_res_blocks=1, num_groups=8)
    return replace(
        cpu(),
        data=None,
        concepts=None,
        coloured=0.5,
        plural=PLURAL,
        calm=0.0,
        easy_images=0,
        easy_calm=0.0,
        spread=None,
        text_lr=0.0,
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
    unet = _initialised(UNet(config.unet.config(parts))) if config.from_ is None else unet_of(config.from_)
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
    target = config.target or usual.target
    if target == "flow":
        return _flow(config)
    betas = usual.betas if config.noise is None else NOISES[config.noise]
    zero_snr = usual.betas.zero_snr if config.zero_snr is None else config.zero_snr
    if target == "eps" and zero_snr:
        raise ValueError("in pure noise (zero terminal SNR) no eps can be seen; give --target v")
    return Training(target, replace(betas, zero_snr=zero_snr))


def _flow(config: Config) -> Training:
    if config.noise is not None or config.zero_snr or config.spread is not None:
        raise ValueError(
            "a flow has noise levels of its own, up to pure noise: leave out --noise, --zero-snr and --spread"
        )
    return Training("flow", FLOW)


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
        parts, taught = found(config.from_, config.vae, config.clip), training(config)
        parts.vae.to(run.device)
        parts.text.to(run.device)
        model = laid_out(build(config, parts).to(run.device))
        averages = _averages(config, model)
        best = next(iter(averages.values())).model if averages else model
        assert isinstance(best, Student)
        sizes = {"batch_size": config.batch_size, "accumulate": config.accumulate}
        learner = Learner(model, _adam(model, config), averages, **sizes, clip=config.max_norm)
        state = State({"model": learner})
        run.restore(state)

        parametrisation = Parametrisation(taught.target, NoiseTable(taught.betas))
        lessons = Lessons(
            parts, parametrisation, model.text is not None, config.shift, config.spread, run.device, run.dtype
        )
        if source is None:
            data = _data(config, lessons, parts.vae.config.factor * model.unet.config.factor)
        else:
            data = endless(lessons, source, held, config.window, config.repeats, config.seed)
        exams = {name: lessons.exam(rows, config.held_out, config.seed) for name, rows in data.exams.items()}
        for draws in run.batches(lessons.drawing(data.rows, config.dropout, config.seed), state):
            wanted, texts = lessons.told(draws, [draw.share for draw in draws], config.min_snr)
            with run.autocast():
                output = model(wanted.seen, wanted.clock, texts)
            value = loss(output, wanted)
            lr = optim.rate(config.lr, state.images, config.images, config.schedule, config.warmup, config.tail)
            state.step(value, lr)

            if run.every(config.log_images, state):
                run.log(state, loss=value, norm=learner.norm, lr=lr, **data.epochs(state.images))
            if run.every(config.validate_images, state):
                run.log(state, **_marks(config, lessons, exams, best, run))
            if run.every(config.snapshot_images, state):
                run.snapshot(state)
            if run.every(config.save_images, state):
                run.sheet(state, _paint(config, lessons, best, run))
                run.save(state)
                _export(config, parts, taught, best, run)
        return run.folder / "model"


def _initialised(unet: UNet) -> UNet:
    """Every residual and every transformer begins with adding nothing, as in Ho et al. 2020."""
    for module in unet.modules():
        if isinstance(module, ResBlock):
            _zero(module.conv2)
        elif isinstance(module, SpatialTransformer):
            _zero(module.proj_out)
    _zero(unet.conv_out)
    return unet


def _zero(layer: nn.Conv2d | nn.Linear) -> None:
    assert layer.bias is not None
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def laid_out(model: Student) -> Student:
    """Convolutions with their channels last, which processors of both kinds prefer."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def _averages(config: Config, model: Student) -> dict[str, ema.Average]:
    """The result's first."""
    usual = {} if config.ema_decay is None else {"constant": ema.Average(model, ema.constant(config.ema_decay))}
    return usual | {f"power-{width:g}": ema.Average(model, ema.power(width)) for width in config.ema}


def _adam(model: Student, config: Config) -> torch.optim.AdamW:
    shares: dict[nn.Module, float] = {} if model.text is None else {model.text: config.text_lr}
    return optim.adamw(model, config.betas, weight_decay=config.weight_decay, shares=shares, fused=True)


def _data(config: Config, lessons: Lessons, multiple: int) -> Data:
    """The config's; pictures in buckets have sides that the networks can halve as often as they do."""
    match config.data:
        case None:
            raise ValueError("there is nothing to learn from: give --data")
        case "scenes":
            ids = _concepts(config)
            known = Selection(None if ids is None else frozenset(ids), coloured=config.coloured)
            chosen = replace(known, plural=config.plural, calm=config.calm)
            begin = replace(known, kinds=EASY, calm=config.easy_calm)
            easy = -(-config.easy_images // (config.window * config.repeats)) * config.window
            drawn = (config.size, config.split, lessons.device)
            rows = scenes(config.seed, *drawn, chosen, begin, easy)
            held = scenes(HELD_OUT_SEED, *drawn, chosen, begin)
            return endless(lessons, rows, held, config.window, config.repeats, config.seed)
        case Path() as path:
            cache = TensorCache(config.folder / "cache")
            pictures = Collection(path, lessons, cache, config.size, config.held_out, config.seed)
            if not config.bucket_step:
                return pictures.squares()
            return pictures.buckets(config.bucket_step, multiple, config.batch_size // config.accumulate)


def _concepts(config: Config) -> Sequence[str] | None:
    match config.concepts:
        case None:
            return None
        case int() as count:
            return listed(count)
        case Path() as path:
            return read_concepts(path)


def _marks(
    config: Config, lessons: Lessons, exams: Mapping[str, list[Draw]], model: Student, run: Run
) -> dict[str, float]:
    """The mean over the noise levels, and each of them."""

    def answer(wanted: Lesson, texts: Tensor) -> Tensor:
        with run.autocast():
            return model(wanted.seen, wanted.clock, texts)

    told: dict[str, float] = {}
    for name, exam in exams.items():
        marks = lessons.marks(answer, exam, config.batch_size)
        told[name] = sum(marks) / len(marks)
        told |= {f"{name}_{number}": mark for number, mark in enumerate(marks, 1)}
    return told


@torch.no_grad()
def _paint(config: Config, lessons: Lessons, model: Student, run: Run) -> Tensor:
    """The prompts as pictures B 3 S S."""
    side, vae = config.size // lessons.parts.vae.config.factor, lessons.parts.vae.config
    states = [model.states(lessons.read(texts).to(run.device)) for texts in (config.prompts, [""])]
    cond, uncond = (_network(model, its, run) for its in states)
    assert lessons.parametrisation.table is not None
    latents = painted(
        cond,
        uncond,
        lessons.parametrisation,
        lessons.parametrisation.table,
        (vae.latent_channels, side, side),
        config.guidance_scale,
        config.steps,
        range(len(config.prompts)),
        run.device,
    )
    return lessons.parts.pixels(latents)


def _network(model: Student, states: Tensor, run: Run) -> Network:
    """The U-Net under a text."""

    def network(x: Tensor, clock: Tensor) -> Tensor:
        with run.autocast():
            return model.unet(x, clock, model.unet.project(states))

    return network


def _export(config: Config, parts: Parts, taught: Training, model: Student, run: Run) -> None:
    if run.is_main:
        folder, concepts = run.folder / "model", _concepts(config)
        write_model(folder, parts, model.unet, model.text or parts.text, taught, config.size)
        if concepts is not None:
            write_concepts(folder / CONCEPTS_FILE, concepts)


if __name__ == "__main__":
    main(tyro.extras.overridable_config_cli(dict(presets())))
    leave()
