"""Networks, samplers and weight files need torch, numpy, tokenizers, Pillow and einops alone."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"pydantic", "tyro", "rich", "safetensors", "diffusers", "transformers"}:
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Absent())

from pathlib import Path
import torch
from marmo.diffusion import noise, samplers, schedules
from marmo.diffusion.denoiser import Parametrisation, denoise
from marmo.models.unet import SD1_TOY, UNet
from marmo.models.vae import KL_F8_TOY, VAE
from marmo.text.bpe import clip_tokenizer
from marmo.weights import checkpoint, export, store
from marmo.weights.keymap import fill, to_ours, to_theirs, shapes
from marmo.weights.maps import unet as maps

path = Path(sys.argv[1])
source = UNet(SD1_TOY)
store.write(path, to_theirs(maps.compvis(SD1_TOY), store.from_state(source.state_dict())))
part = checkpoint.open_checkpoint(path).parts["unet"]
with torch.device("meta"):
    unet = UNet(part.config)
fill(unet, part.tensors, torch.float32, torch.device("cpu"))
table = noise.NoiseTable(noise.STABLE_DIFFUSION)
parametrisation = Parametrisation("eps", table)
context = unet.project(torch.randn(1, 7, 64))
x = samplers.run(
    samplers.sampling("dpmpp_2m", torch.randn(1, 4, 16, 16), schedules.schedule("karras", table, 3), None, None),
    lambda q: samplers.Prediction(
        denoise(lambda x, t: unet(x, t, context), parametrisation, q.x, q.sigma.expand(1))
    ),
)
VAE(KL_F8_TOY).decode(x)
assert torch.isfinite(x).all() and clip_tokenizer().encode("a fox")
print("painted")
"""


@pytest.mark.long
def test_networks_samplers_and_weights_run_without_the_rest(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "unet.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "painted", done.stderr
