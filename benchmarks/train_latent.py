"""Training the U-Net of latent diffusion: Marmo's loop beside diffusers' example loop, in one process.

    python -m benchmarks.train_latent                         # the preset `cpu`: 16 x 16 x 8 latents, batch 32
    python -m benchmarks.train_latent --threads 2 --updates 8

Both train the same U-Net (the same weights to begin with) on the same latents, states and noise, with the same batch,
autocast, AdamW and clipping, and without averages.  diffusers' side does what its example
`examples/text_to_image/train_text_to_image.py` does: `UNet2DConditionModel`, `DDPMScheduler.add_noise`, `get_velocity`;
`accelerate`'s work is done by hand.
The two take turns, update by update, so that whatever else the machine does falls on both; medians are compared.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F
import tyro
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor

from benchmarks.machine import describe
from marmo.diffusion.denoiser import Parametrisation
from marmo.diffusion.noise import COSINE, NoiseTable
from marmo.diffusion.training import lesson
from marmo.models.unet import UNet, UNetConfig
from marmo.recipes.latent import Student, cpu, laid_out, loss
from marmo.train import optim
from marmo.train.state import Learner
from marmo.weights.forms import written
from marmo.weights.keymap import to_theirs
from marmo.weights.store import from_state

LATENTS, SIDE, TOKENS, WIDTH = 8, 16, 48, 256


@dataclass(frozen=True)
class Benchmark:
    """Samples per second of both, and their ratio."""

    threads: int = 1
    updates: int = 6
    """Of each, after one to warm up"""
    batch_size: int = 32

    def run(self) -> None:
        torch.set_num_threads(self.threads)
        torch.manual_seed(0)
        unet = UNet(shape())
        sides = {"marmo": ours(unet, self.batch_size), "diffusers": theirs(unet, self.batch_size)}
        walls: dict[str, list[float]] = {name: [] for name in sides}
        works: dict[str, list[float]] = {name: [] for name in sides}
        for update in range(self.updates + 1):
            data = batch(self.batch_size, update)
            for name, step in sides.items():
                wall, work = time.perf_counter(), time.process_time()
                step(*data)
                walls[name].append(time.perf_counter() - wall)
                works[name].append(time.process_time() - work)
        print(f"{describe()}; batch {self.batch_size}, {self.updates} updates each")
        for title, times in (("wall", walls), ("processor", works)):
            speeds = {name: self.batch_size / median(seconds[1:]) for name, seconds in times.items()}
            told = ", ".join(f"{name} {speed:.1f}" for name, speed in speeds.items())
            print(f"samples per second of {title} time: {told}; ratio {speeds['marmo'] / speeds['diffusers']:.2f}")


def shape() -> UNetConfig:
    """The preset's."""
    unet = cpu().unet
    return UNetConfig(
        in_channels=LATENTS,
        out_channels=LATENTS,
        channels=unet.channels,
        depths=unet.depths,
        num_heads=unet.num_heads,
        context_width=WIDTH,
        num_res_blocks=unet.num_res_blocks,
    )


def batch(count: int, update: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, noise, times, states."""
    draw = torch.Generator().manual_seed(update)
    x0, noise = torch.randn(2, count, LATENTS, SIDE, SIDE, generator=draw)
    return x0, noise, torch.randint(1000, (count,), generator=draw), torch.randn(count, TOKENS, WIDTH, generator=draw)


def ours(unet: UNet, count: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], None]:
    model = laid_out(Student(unet, None, 1))
    table = NoiseTable(COSINE)
    row = Parametrisation("v", table)
    config = cpu()
    optimizer = optim.adamw(model, config.betas, weight_decay=config.weight_decay, fused=True)
    learner = Learner(model, optimizer, batch_size=count, clip=config.max_norm)

    def step(x0: Tensor, noise: Tensor, times: Tensor, states: Tensor) -> None:
        x0, noise = (part.contiguous(memory_format=torch.channels_last) for part in (x0, noise))
        wanted = lesson(row, x0, noise, table.sigmas[times])
        with torch.autocast("cpu", torch.bfloat16):
            output = model(wanted.seen, wanted.clock, states)
        learner.step(loss(output, wanted), config.lr)

    return step


def theirs(unet: UNet, count: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], None]:
    form = written("unet", "diffusers")
    assert form.to_json is not None
    model = UNet2DConditionModel.from_config(dict(form.to_json(unet.config)))
    state = to_theirs(form.rules(unet.config), from_state(unet.state_dict()))
    model.load_state_dict({name: state.read(name).clone() for name in state.infos})
    model.train()
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    config = cpu()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
    )

    def step(x0: Tensor, noise: Tensor, times: Tensor, states: Tensor) -> None:
        noisy, target = scheduler.add_noise(x0, noise, times), scheduler.get_velocity(x0, noise, times)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(noisy, times, states, return_dict=False)[0]
        F.mse_loss(output.float(), target.float(), reduction="mean").backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    tyro.cli(Benchmark, description=Benchmark.__doc__).run()
