"""How a single file says what its network predicts and over which noise: markers, metadata, or one small tensor.

What is found has diffusers' names, as a folder's scheduler_config.json has it, so that both layouts are read alike.

- `v_pred` and `ztsnr`, empty tensors, mark v-prediction and zero terminal SNR (in SDXL's files, since 2024);
- `modelspec.prediction_type` in the metadata (Stability-AI/ModelSpec);
- `alphas_cumprod` or `betas`, what CompVis's programs leave in their files, hold the noise levels themselves;
- of Stable Diffusion 2, whose two kinds have the same shapes, one bias of a norm is spread wider where the network
  predicts v; the tensor and the bound are ComfyUI's (comfy/supported_models.py, `SD20`).
"""

from dataclasses import replace

import torch
from torch import Tensor

from marmo.diffusion.noise import STABLE_DIFFUSION
from marmo.models.unet import UNetConfig
from marmo.weights.forms import Json
from marmo.weights.kinds import UPSCALER_LEVELS
from marmo.weights.store import Tensors

V_PRED, ZTSNR = "v_pred", "ztsnr"
SPEC = "modelspec.prediction_type"
SPREAD = 0.09
"""Standard deviation of the bias, above which the network predicts v."""
TOLERANCE = 0.02
"""Relative; bfloat16 keeps 8 bits of a number."""

_ZERO_SNR = replace(STABLE_DIFFUSION, zero_snr=True)
_PREDICTIONS = {"v": "v_prediction", "epsilon": "epsilon", "eps": "epsilon", "v_prediction": "v_prediction"}


def told(file: Tensors, unet: UNetConfig, unet_tensors: Tensors) -> dict[str, object]:
    """What a single file says of its training, in diffusers' words; what it does not say is left out.

    Args:
        file: all of the file, under the authors' names.
        unet_tensors: its U-Net, under our names.
    """
    return {**_prediction(file, unet, unet_tensors), **_noise(file)}


def marks(wanted: Json, believed: Json) -> dict[str, Tensor]:
    """The tensors to add to a single file so that it is read as `wanted` and no longer as `believed`."""
    found: dict[str, Tensor] = {}
    if wanted.get("prediction_type") == "v_prediction" != believed.get("prediction_type"):
        found[V_PRED] = torch.empty(0)
    if wanted.get("rescale_betas_zero_snr") and not believed.get("rescale_betas_zero_snr"):
        found[ZTSNR] = torch.empty(0)
    betas = wanted.get("trained_betas")
    if isinstance(betas, list) and betas != believed.get("trained_betas"):
        found["betas"] = torch.tensor(betas)
    return found


def _prediction(file: Tensors, unet: UNetConfig, tensors: Tensors) -> dict[str, object]:
    if unet.num_labels:  # of the x4 upscaler there is one kind
        return {"prediction_type": "v_prediction", **UPSCALER_LEVELS}
    spec = _PREDICTIONS.get(file.metadata.get(SPEC, "").lower())
    if V_PRED in file.infos:
        return {"prediction_type": "v_prediction"}
    if spec is not None:
        return {"prediction_type": spec}
    if _looks_like_v(unet, tensors):
        return {"prediction_type": "v_prediction"}
    return {}


def _looks_like_v(unet: UNetConfig, tensors: Tensors) -> bool:
    """Of a U-Net of Stable Diffusion 2; its inpainting models, with more channels, predict eps."""
    name = f"up.{len(unet.channels) - 1}.stages.{unet.num_res_blocks}.transformer.blocks.0.norm1.bias"
    if unet.context_width != 1024 or unet.in_channels != 4 or unet.vector_width or name not in tensors.infos:
        return False
    return float(tensors.read(name).float().std(correction=0)) > SPREAD


def _noise(file: Tensors) -> dict[str, object]:
    """Levels that are not Stable Diffusion's own."""
    alphas = _alphas(file)
    if ZTSNR in file.infos or (alphas is not None and _same(alphas, _ZERO_SNR.alphas())):
        return {"rescale_betas_zero_snr": True}
    if alphas is None or _same(alphas, STABLE_DIFFUSION.alphas()):
        return {}
    before = torch.cat([alphas.new_ones(1), alphas[:-1]])
    return {"trained_betas": [float(beta) for beta in 1 - alphas / before]}


def _alphas(file: Tensors) -> Tensor | None:
    """The share of the signal that is left at every level, falling.  T, float64."""
    names = [name for name in ("alphas_cumprod", "betas") if name in file.infos]
    if not names or len(file.infos[names[0]].shape) != 1:
        return None
    values = file.read(names[0]).double()
    alphas = values if names[0] == "alphas_cumprod" else (1 - values).cumprod(0)
    falls = len(alphas) > 1 and bool((alphas[:-1] > alphas[1:]).all()) and alphas[-1] >= 0 and alphas[0] < 1
    return alphas if falls else None


def _same(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and bool(((left - right).abs() <= TOLERANCE * right + 1e-6).all())
