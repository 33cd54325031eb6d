"""Merging against sums by hand, on the files' own names; what cannot be merged; the recipe."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.checkpoint import random_checkpoint
from marmo import catalog
from marmo.request import ImageRequest
from marmo.weights.checkpoint import Checkpoint, open_checkpoint
from marmo.weights.export import write_single_file
from marmo.weights.merge import MERGE_KEY, Merge, block_of, merged, sentence
from marmo.weights.store import open_file, sha256

UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("merge")
    return [random_checkpoint(folder / f"{name}.safetensors", seed=seed) for seed, name in enumerate("abc")]


def state(path: Path) -> Mapping[str, Tensor]:
    tensors = open_file(path)
    return {name: tensors.read(name) for name in tensors.infos}


def write(recipe: Merge, models: list[Path], target: Path, vae: Path | None = None) -> Mapping[str, Tensor]:
    other = None if vae is None else open_checkpoint(vae)
    write_single_file(merged(recipe, [open_checkpoint(model) for model in models], other), target)
    return state(target)


def same(result: Tensor, wanted: Tensor) -> bool:
    return torch.equal(result, wanted.to(result.dtype))


def test_a_weighted_sum(files: list[Path], tmp_path: Path):
    a, b = state(files[0]), state(files[1])
    result = write(Merge(weight=0.3), files[:2], tmp_path / "ab.safetensors")
    assert result.keys() == a.keys()
    for name, tensor in result.items():
        if tensor.is_floating_point():
            assert same(tensor, a[name].float() * 0.7 + b[name].float() * 0.3), name
        else:
            assert torch.equal(tensor, a[name])  # position ids stay whole numbers
        assert tensor.dtype == a[name].dtype


def test_an_added_difference(files: list[Path], tmp_path: Path):
    a, b, c = (state(file) for file in files)
    result = write(Merge(method="add-difference", weight=0.8, dtype=torch.float32), files, tmp_path / "abc.safetensors")
    for name in ("out.2.weight", "input_blocks.1.0.in_layers.2.weight"):
        x, y, z = (tensors[UNET + name].float() for tensors in (a, b, c))
        assert result[UNET + name].dtype == torch.float32
        assert torch.equal(result[UNET + name], x + (y - z) * 0.8)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_ends_are_the_models(files: list[Path], tmp_path: Path, weight: float):
    result = write(Merge(weight=weight), files[:2], tmp_path / "end.safetensors")
    wanted = state(files[int(weight)])
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in result.items())


# The toy has two halvings fewer than the real U-Net, so that the last names are those of blocks that it lacks.
BLOCKS = {
    "time_embed.0.weight": 0,
    "input_blocks.0.0.weight": 0,
    "input_blocks.1.0.in_layers.0.weight": 1,
    "input_blocks.11.0.out_layers.3.bias": 11,
    "middle_block.1.proj_in.weight": 12,
    "output_blocks.0.0.skip_connection.weight": 13,
    "output_blocks.11.1.norm.weight": 24,
    "out.0.weight": 24,
    "label_emb.0.0.weight": None,
}


@pytest.mark.parametrize(("name", "block"), BLOCKS.items())
def test_blocks_are_counted_as_mbw_counts_them(name: str, block: int | None):
    assert block_of(name) == block


def test_a_weight_per_block(files: list[Path], tmp_path: Path):
    a, b = state(files[0]), state(files[1])
    weights = tuple(index / 32 for index in range(25))
    result = write(Merge(weight=0.5, blocks=weights, dtype=torch.float32), files[:2], tmp_path / "mbw.safetensors")
    used: set[int] = set()
    for name, tensor in result.items():
        if not tensor.is_floating_point():
            continue
        block = block_of(name.removeprefix(UNET)) if name.startswith(UNET) else None
        weight = 0.5 if block is None else weights[block]
        used |= {block} if block is not None else set()
        assert torch.equal(tensor, a[name].float() * (1 - weight) + b[name].float() * weight), name
    assert {0, 1, 12, 13, 24} <= used


def test_another_autoencoder(files: list[Path], tmp_path: Path):
    result = write(Merge(), files[:2], tmp_path / "v.safetensors", vae=files[2])
    c = state(files[2])
    vae = [name for name in result if name.startswith("first_stage_model.")]
    assert vae and all(torch.equal(result[name], c[name]) for name in vae)


@pytest.mark.long
def test_the_result_paints_and_tells_its_recipe(files: list[Path], tmp_path: Path):
    path = tmp_path / "painted.safetensors"
    write(Merge(weight=0.25), files[:2], path, vae=files[2])
    recipe = json.loads(open_file(path).metadata[MERGE_KEY])
    assert recipe == {
        "method": "weighted-sum",
        "weight": 0.25,
        "models": [{"name": file.name, "sha256": {file.name: sha256(file)}} for file in files[:2]],
        "vae": {"name": "c.safetensors", "sha256": {"c.safetensors": sha256(files[2])}},
    }
    said = sentence(open_file(path).metadata[MERGE_KEY])
    assert said.startswith(f"merged: weighted-sum of a.safetensors ({sha256(files[0])[:10]}) + b.safetensors (")
    assert said.endswith("weight 0.25, autoencoder of c.safetensors")
    card = catalog.find(path)
    assert card.defaults.steps == 12  # the first model's own
    request = ImageRequest(prompt="a fox", width=64, height=64, steps=1, seed=1)
    assert catalog.open_model(path, "cpu", "float32").generate(request).images[0].size == (64, 64)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"models": [{}]}', '{"models": 3, "method": "weighted-sum"}', "[" * 9000]
)
def test_a_stranger_s_recipe(text: str):
    with pytest.raises(ValueError, match="cannot be read"):
        sentence(text)


def with_input(checkpoint: Checkpoint, channels: int) -> Checkpoint:
    """The same model with more input channels, of zeros and ones."""
    part = checkpoint.parts["unet"]
    infos = dict(part.tensors.infos)
    shape = infos["conv_in.weight"].shape
    wide = (shape[0], channels, *shape[2:])
    infos["conv_in.weight"] = replace(infos["conv_in.weight"], shape=wide)

    def read(name: str) -> Tensor:
        old = part.tensors.read(name)
        if name != "conv_in.weight":
            return old
        return torch.cat([old, torch.ones(shape[0], channels - 4, *shape[2:], dtype=old.dtype)], dim=1)

    wider = replace(
        part, config=replace(part.config, in_channels=channels), tensors=replace(part.tensors, infos=infos, read=read)
    )
    return replace(checkpoint, parts={**checkpoint.parts, "unet": wider})


def test_an_inpainting_model_of_any_model(files: list[Path]):
    a, b, c = (open_checkpoint(file) for file in files)
    result = merged(Merge(method="add-difference", weight=1, dtype=torch.float32), [with_input(a, 9), b, c])
    weight = result.parts["unet"].tensors.read("conv_in.weight")
    x, y, z = (model.parts["unet"].tensors.read("conv_in.weight").float() for model in (a, b, c))
    assert torch.equal(weight[:, :4], x + (y - z)) and torch.equal(weight[:, 4:], torch.ones_like(weight[:, 4:]))
    with pytest.raises(ValueError, match="their unet networks differ in shape"):
        merged(Merge(), [b, with_input(a, 9)])


def test_what_cannot_be_merged(files: list[Path], tmp_path: Path):
    a, b = (open_checkpoint(file) for file in files[:2])
    v = replace(b, scheduler={"prediction_type": "v_prediction"})
    lone = replace(a, parts={"vae": a.parts["vae"]}, kind=None)
    other = replace(
        b, parts={**b.parts, "unet": replace(b.parts["unet"], config=replace(b.parts["unet"].config, mid_depth=2))}
    )
    for models, reason in (
        ([a, v], "they predict v and eps"),
        ([a, lone], "it holds no text"),
        ([a, other], "their unet networks differ in shape"),
        ([a], "weighted-sum takes 2 models, not 1"),
        ([a, b, a], "weighted-sum takes 2 models, not 3"),
    ):
        with pytest.raises(ValueError, match=reason):
            merged(Merge(), models)
    with pytest.raises(ValueError, match="25 weights"):
        Merge(blocks=(1.0, 2.0))
    with pytest.raises(ValueError, match="between -10 and 10, not at nan"):
        Merge(weight=float("nan"))
    with pytest.raises(ValueError, match="holds no autoencoder that fits"):
        merged(Merge(), [a, b], replace(a, parts={"text": a.parts["text"]}))
