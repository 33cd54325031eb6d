"""One picture by one program from a cold start; prints when its first evaluation began and ended, when the picture was
saved (seconds since the epoch), and the peak memory in bytes.

    python -m benchmarks.cold marmo|diffusers FOLDER SIDE
"""

import sys
import time
from collections.abc import Callable
from typing import Any

PROMPT = "a photograph of a red fox in the snow"
STEPS = 4


def main(program: str, folder: str, side: int) -> None:
    """Paint, then report."""
    moments: list[float] = []
    {"marmo": paint_marmo, "diffusers": paint_diffusers}[program](folder, side, moments)
    from benchmarks.machine import memory

    print(*moments[:2], time.time(), memory("VmHWM"))


def paint_marmo(folder: str, side: int, moments: list[float]) -> None:
    """Marmo's way: load, generate, save with the record."""
    import marmo

    model = marmo.load(folder, device="cpu", dtype="float32")
    model.unet.forward = noting(model.unet.forward, moments)
    request = marmo.ImageRequest(prompt=PROMPT, seed=0, steps=STEPS, width=side, height=side, guidance_scale=7.5)
    model.generate(request).save_png(f"{folder}/marmo.png")


def paint_diffusers(folder: str, side: int, moments: list[float]) -> None:
    """diffusers' way: from_pretrained, call, save."""
    import torch
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, safety_checker=None
    )
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, use_karras_sigmas=True)
    pipeline.unet.forward = noting(pipeline.unet.forward, moments)
    generator = torch.Generator().manual_seed(0)
    options = {"height": side, "width": side, "num_inference_steps": STEPS, "guidance_scale": 7.5}
    pipeline(PROMPT, generator=generator, **options).images[0].save(f"{folder}/diffusers.png")


def noting(forward: Callable[..., Any], moments: list[float]) -> Callable[..., Any]:
    """The same function, noting when it begins and ends."""

    def noted(*args: Any, **kwargs: Any) -> Any:
        moments.append(time.time())
        result = forward(*args, **kwargs)
        moments.append(time.time())
        return result

    return noted


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
