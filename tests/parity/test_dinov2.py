"""DINOv2 against transformers, on real files, and against the published formulae under Meta's names."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marmo.models.dinov2 import DINOV2_TOY, VIT_B_14, VIT_L_14, DinoV2, DinoV2Config, with_registers
from marmo.nn.blueprint import blueprint
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.keymap import fill, to_theirs
from marmo.weights.maps.dinov2 import config_to_json, huggingface, meta
from marmo.weights.store import from_state, write

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

PLAIN = replace(DINOV2_TOY, resampling="plain")
REGISTERS = with_registers(DINOV2_TOY)
SIZES = [(20, 20), (16, 16), (28, 12)]  # as stored, smaller, no square

both = pytest.mark.parametrize("config", [PLAIN, REGISTERS], ids=["plain", "registers"])


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    error = (ours - theirs).abs().max() / theirs.abs().max()
    print(f"relative error {error:.1e}")
    assert ours.shape == theirs.shape
    assert error <= 1e-5
    assert (theirs[1] - theirs[0]).abs().max() > 0.1 * theirs.abs().max()  # not because every picture gives the same


def drawn(network: nn.Module) -> nn.Module:
    """Every tensor from a normal, so that no wrong wire can hide behind a zero."""
    draw = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        fan_in = math.prod(weight.shape[1:]) if weight.ndim in (2, 4) else 4
        weight.data = 2 * torch.randn(weight.shape, generator=draw) * fan_in**-0.5
    return network.eval().requires_grad_(False)


def pictures(height: int, width: int) -> Tensor:
    return 4 * torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def peer(config: DinoV2Config):
    options = {
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "mlp_ratio": config.mlp_ratio,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
    }
    if config.num_registers:
        told = transformers.Dinov2WithRegistersConfig(num_register_tokens=config.num_registers, **options)
        return transformers.Dinov2WithRegistersModel(told)
    return transformers.Dinov2Model(transformers.Dinov2Config(**options))


def opened(path: Path) -> DinoV2:
    part = open_checkpoint(path).parts["dinov2"]
    with blueprint():
        network = DinoV2(part.config)
    fill(network, part.tensors, torch.float32, torch.device("cpu"))
    return network


@both
def test_a_folder_of_transformers(tmp_path: Path, config: DinoV2Config) -> None:
    theirs = drawn(peer(config))
    theirs.save_pretrained(tmp_path)
    ours = opened(tmp_path)
    assert ours.config == config
    for size in SIZES:
        assert_close(ours(pictures(*size)), theirs(pictures(*size)).pooler_output)


@both
def test_transformers_opens_ours(tmp_path: Path, config: DinoV2Config) -> None:
    ours = drawn(DinoV2(config))
    write(
        tmp_path / "model.safetensors", to_theirs(huggingface(config), from_state(ours.state_dict())), {"format": "pt"}
    )
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(config)))
    kind = transformers.Dinov2WithRegistersModel if config.num_registers else transformers.Dinov2Model
    theirs, report = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert_close(ours(pictures(16, 16)), theirs.eval()(pictures(16, 16)).pooler_output)


@pytest.mark.parametrize("config", [VIT_B_14, with_registers(VIT_L_14)])
def test_as_many_parameters_at_full_size(config: DinoV2Config) -> None:
    with torch.device("meta"):
        count = sum(weight.numel() for weight in peer(config).parameters())
    with blueprint():
        assert sum(weight.numel() for weight in DinoV2(config).parameters()) == count


# --- Meta's own code resamples positions in a way of its own ----------------------------------------------------------


def published(state: dict[str, Tensor], x: Tensor, num_heads: int) -> Tensor:
    """The formulae of dinov2/models/vision_transformer.py over a state dict with Meta's names."""

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    weight, table = state["patch_embed.proj.weight"], state["pos_embed"]
    width, side = table.shape[2], round((table.shape[1] - 1) ** 0.5)
    patches = F.conv2d(x, weight, state["patch_embed.proj.bias"], stride=weight.shape[-1])
    height, across = patches.shape[2:]
    grid = table[:, 1:].reshape(1, side, side, width).permute(0, 3, 1, 2)
    factors = (float(height + 0.1) / side, float(across + 0.1) / side)
    grid = F.interpolate(grid, scale_factor=factors, mode="bicubic", antialias=False)
    assert grid.shape[2:] == (height, across)
    places = torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).reshape(1, -1, width)], dim=1)
    first = state["cls_token"].expand(len(x), -1, -1)
    x = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1) + places
    layer = 0
    while f"blocks.{layer}.ls1.gamma" in state:
        block = f"blocks.{layer}"
        q, k, v = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in (q, k, v))
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        h = linear(f"{block}.attn.proj", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        x = x + state[f"{block}.ls1.gamma"] * h
        h = F.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x)))
        x = x + state[f"{block}.ls2.gamma"] * linear(f"{block}.mlp.fc2", h)
        layer += 1
    return norm("norm", x)[:, 0]


@pytest.mark.parametrize("size", [(16, 16), (28, 12)])
def test_metas_names_and_positions(tmp_path: Path, size: tuple[int, int]) -> None:
    one_head = replace(DINOV2_TOY, num_heads=1)
    theirs = to_theirs(meta(one_head), from_state(drawn(DinoV2(one_head)).state_dict()))
    write(tmp_path / "dinov2.safetensors", theirs)
    ours, state = opened(tmp_path / "dinov2.safetensors"), {name: theirs.read(name) for name in theirs.infos}
    assert ours.config.resampling == "offset"
    assert_close(ours(pictures(*size)), published(state, pictures(*size), 1))
