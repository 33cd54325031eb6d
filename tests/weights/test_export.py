"""What we write is what was read: single files and folders into one another and back, byte for byte."""

import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from benchmarks.checkpoint import SIZES, TOY_DEFAULTS, FamilyName, random_checkpoint
from marmo.models.clip import ClipConfig
from marmo.models.clip_resnet import ClipResNetConfig
from marmo.models.clip_text import ClipTextConfig
from marmo.models.clip_vision import ClipVisionConfig
from marmo.models.tiny_decoder import TAESD
from marmo.text.bpe import ClipTokenizer, TokenizerPlace, clip_tokenizer
from marmo.weights.checkpoint import Checkpoint, open_checkpoint
from marmo.weights.enclosed import ENCLOSED_KEY
from marmo.weights.export import write_folder, write_single_file
from marmo.weights.forms import Network, NetworkConfig, expected, written
from marmo.weights.keymap import to_theirs
from marmo.weights.kinds import SD1
from marmo.weights.store import Tensors, from_state, open_file, write

TOY = SIZES["toy"]
SMALL_TEXT = ClipTextConfig(width=64, num_layers=1, num_heads=1, vocab_size=50, context_length=8)
SMALL_VISION = ClipVisionConfig(
    width=64, num_layers=1, num_heads=1, patch_size=8, embed_width=32, image_size=16, activation="quick_gelu"
)
SMALL_CLIP = ClipConfig(text=SMALL_TEXT, image=SMALL_VISION)
SMALL_RESNET = ClipConfig(
    text=SMALL_TEXT, image=ClipResNetConfig(width=8, depths=(1, 1, 1, 1), embed_width=32, image_size=32)
)


def digests(root: Path) -> Mapping[str, str]:
    """Every file below a folder, or the file itself, which is ".", -> its hash."""
    files = [root] if root.is_file() else [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}


def same(left: Tensors, right: Tensors) -> bool:
    return left.infos == right.infos and all(torch.equal(left.read(name), right.read(name)) for name in left.infos)


def drawn(config: NetworkConfig) -> Tensors:
    draw = torch.Generator().manual_seed(0)
    return from_state({name: torch.randn(shape, generator=draw) for name, shape in expected(config).items()})


def write_alone(path: Path, network: Network, config: NetworkConfig) -> Path:
    """One network as its authors name its tensors."""
    write(path, to_theirs(written(network, "original").rules(config), drawn(config)), {"format": "pt"})
    return path


def with_scheduler(checkpoint: Checkpoint, **options: object) -> Checkpoint:
    return replace(checkpoint, scheduler={**SD1.scheduler, **options})


@pytest.fixture(scope="module")
def checkpoint(stand_in: Path) -> Checkpoint:
    return open_checkpoint(stand_in)


# Round trips


@pytest.mark.long
def test_single_file_to_folder_and_back(stand_in: Path, stand_in_folder: Path, checkpoint: Checkpoint, tmp_path: Path):
    write_folder(checkpoint, tmp_path / "folder")
    assert digests(tmp_path / "folder") == digests(stand_in_folder)
    write_single_file(open_checkpoint(tmp_path / "folder"), tmp_path / "back.safetensors")
    assert digests(tmp_path / "back.safetensors") == digests(stand_in)


@pytest.mark.long
def test_folder_to_single_file_and_back(stand_in_folder: Path, tmp_path: Path):
    write_single_file(open_checkpoint(stand_in_folder), tmp_path / "single.safetensors")
    write_folder(open_checkpoint(tmp_path / "single.safetensors"), tmp_path / "folder")
    assert digests(tmp_path / "folder") == digests(stand_in_folder)


@pytest.mark.long
@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}, {"modelspec.title": "狐", "format": "pt"}])
def test_metadata_survives(stand_in: Path, tmp_path: Path, metadata: dict[str, str]):
    """Names and format that other programs keep in a file."""
    path, back = tmp_path / "single.safetensors", tmp_path / "back.safetensors"
    write(path, open_file(stand_in), metadata)
    write_folder(open_checkpoint(path), tmp_path / "folder")
    write_single_file(open_checkpoint(tmp_path / "folder"), back)
    assert open_file(back).metadata == metadata
    assert digests(back) == digests(path)


def test_a_copy_of_a_single_file_is_the_file(stand_in: Path, checkpoint: Checkpoint, tmp_path: Path):
    write_single_file(checkpoint, tmp_path / "copy.safetensors")
    assert digests(tmp_path / "copy.safetensors") == digests(stand_in)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["single.safetensors", "folder"])
def test_another_dtype(checkpoint: Checkpoint, tmp_path: Path, dtype: torch.dtype, name: str):
    path = tmp_path / name
    (write_single_file if path.suffix else write_folder)(checkpoint, path, dtype)
    converted = open_checkpoint(path)
    for network, part in checkpoint.parts.items():
        assert {info.dtype for info in converted.parts[network].tensors.infos.values()} == {dtype}
        for tensor in part.tensors.infos:
            expected_tensor = part.tensors.read(tensor).to(dtype)
            assert torch.equal(converted.parts[network].tensors.read(tensor), expected_tensor)
    if path.suffix:
        ids = open_file(path).infos[f"{SD1.places['text'].prefix}text_model.embeddings.position_ids"]
        assert ids.dtype == torch.int64  # whole numbers stay whole


@pytest.mark.long
def test_there_and_back_through_a_wider_dtype(stand_in: Path, checkpoint: Checkpoint, tmp_path: Path):
    write_folder(checkpoint, tmp_path / "wide", torch.float32)
    write_single_file(open_checkpoint(tmp_path / "wide"), tmp_path / "back.safetensors", torch.float16)
    assert digests(tmp_path / "back.safetensors") == digests(stand_in)


@pytest.mark.long
def test_shards(stand_in: Path, checkpoint: Checkpoint, tmp_path: Path):
    folder = tmp_path / "folder"
    write_folder(checkpoint, folder, max_shard_bytes=500_000)
    names = sorted(path.name for path in (folder / "unet").iterdir())
    assert names[:2] == ["config.json", "diffusion_pytorch_model-00001-of-00004.safetensors"]
    assert names[-1] == "diffusion_pytorch_model.safetensors.index.json"
    opened = open_checkpoint(folder)
    assert len(opened.files) == len([*folder.rglob("*.safetensors")])
    write_single_file(opened, tmp_path / "back.safetensors")
    assert digests(tmp_path / "back.safetensors") == digests(stand_in)


def test_the_config_files_are_those_of_diffusers(stand_in_folder: Path):
    index = json.loads((stand_in_folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    for part, (_, kind) in {"unet": index["unet"], "vae": index["vae"]}.items():
        assert json.loads((stand_in_folder / part / "config.json").read_text())["_class_name"] == kind
    assert index["scheduler"] == ["diffusers", "PNDMScheduler"]


# One network


@pytest.mark.parametrize(
    ("network", "config"),
    [
        ("vae", TOY["vae"]),
        ("unet", TOY["unet"]),
        ("text", SMALL_TEXT),
        ("clip", SMALL_CLIP),
    ],
)
def test_one_network_to_its_folder_and_back(tmp_path: Path, network: Network, config: NetworkConfig):
    path = write_alone(tmp_path / "one.safetensors", network, config)
    write_folder(open_checkpoint(path), tmp_path / "folder")
    opened = open_checkpoint(tmp_path / "folder")
    assert (opened.layout, opened.parts[network].config) == (f"{network} folder", config)
    assert same(opened.parts[network].tensors, drawn(config))
    write_single_file(opened, tmp_path / "back.safetensors")
    assert digests(tmp_path / "back.safetensors") == digests(path)


def test_an_autoencoder_without_prefix_joins_the_folder_of_a_whole_model(stand_in_folder: Path, tmp_path: Path):
    """What `vae` folders and lone VAE files have in common: the same tensors in another order of names."""
    write_single_file(open_checkpoint(stand_in_folder / "vae"), tmp_path / "vae.safetensors")
    assert "encoder.down.0.block.0.norm1.weight" in open_file(tmp_path / "vae.safetensors").infos
    write_folder(open_checkpoint(tmp_path / "vae.safetensors"), tmp_path / "vae")
    assert digests(tmp_path / "vae") == digests(stand_in_folder / "vae")


@pytest.mark.parametrize(
    ("network", "config", "reason"),
    [
        ("tiny_decoder", replace(TAESD, channels=8), "cannot be written as a diffusers folder"),
        ("clip", SMALL_RESNET, "CLIPModel cannot hold a ResNet"),
    ],
)
def test_what_a_folder_cannot_hold_is_refused(tmp_path: Path, network: Network, config: NetworkConfig, reason: str):
    path = write_alone(tmp_path / "one.safetensors", network, config)
    with pytest.raises(ValueError, match=reason):
        write_folder(open_checkpoint(path), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    write_single_file(open_checkpoint(path), tmp_path / "copy.safetensors")  # a copy it can be
    assert digests(tmp_path / "copy.safetensors") == digests(path)


# What names and shapes cannot tell


def through_a_file(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """A model that was written as a single file, as it is read again."""
    write_single_file(checkpoint, folder / "single.safetensors")
    return open_checkpoint(folder / "single.safetensors")


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        {"prediction_type": "sample"},
        {"beta_schedule": "linear", "beta_end": 0.02},
        {"num_train_timesteps": 500},
    ],
)
def test_another_kind_of_noise_is_enclosed(checkpoint: Checkpoint, tmp_path: Path, options: dict[str, object]):
    other = with_scheduler(checkpoint, **options)
    single = through_a_file(other, tmp_path)
    assert single.scheduler == other.scheduler
    write_folder(other, tmp_path / "folder")
    write_folder(single, tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "folder")


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        {"prediction_type": "v_prediction"},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        {"trained_betas": [0.25, 0.5, 0.75]},
    ],
)
def test_noise_that_can_be_marked_goes_both_ways(checkpoint: Checkpoint, tmp_path: Path, options: dict[str, object]):
    write_single_file(with_scheduler(checkpoint, **options), tmp_path / "single.safetensors")
    single = open_checkpoint(tmp_path / "single.safetensors")
    assert single.scheduler == options
    write_folder(single, tmp_path / "folder")
    assert open_checkpoint(tmp_path / "folder").scheduler.items() >= options.items()
    write_single_file(open_checkpoint(tmp_path / "folder"), tmp_path / "back.safetensors")
    assert digests(tmp_path / "back.safetensors") == digests(tmp_path / "single.safetensors")


@pytest.mark.long
@pytest.mark.parametrize("family", ["sd2", "sdxl", "sdxl-refiner"])
def test_other_kinds_go_to_a_folder_and_back(tmp_path: Path, family: FamilyName):
    path = random_checkpoint(tmp_path / "single.safetensors", family=family)
    write_folder(open_checkpoint(path), tmp_path / "folder")
    folder = open_checkpoint(tmp_path / "folder")
    assert folder.kind == open_checkpoint(path).kind
    said = json.loads((tmp_path / "folder" / "unet" / "config.json").read_text())
    assert said["sample_size"] == TOY_DEFAULTS.width // 8  # the model's own
    silent = replace(open_checkpoint(path), metadata={})
    write_folder(silent, tmp_path / "silent")
    said = json.loads((tmp_path / "silent" / "unet" / "config.json").read_text())
    assert said["sample_size"] == {"sd2": 64, "sdxl": 128, "sdxl-refiner": 128}[family]
    write_single_file(folder, tmp_path / "back.safetensors")
    write_folder(open_checkpoint(tmp_path / "back.safetensors"), tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "folder")
    if family != "sd2":  # whose folder leaves a layer out
        assert digests(tmp_path / "back.safetensors") == digests(path)


def test_a_sampler_of_ones_own_is_no_obstacle(checkpoint: Checkpoint, stand_in: Path, tmp_path: Path):
    other = with_scheduler(checkpoint, _class_name="DDIMScheduler", rescale_betas_zero_snr=False, clip_sample=True)
    write_single_file(other, tmp_path / "single.safetensors")
    assert digests(tmp_path / "single.safetensors") == digests(stand_in)


@pytest.mark.long
def test_configs_of_ones_own_are_enclosed(checkpoint: Checkpoint, tmp_path: Path):
    text, unet, vae = (checkpoint.parts[slot] for slot in ("text", "unet", "vae"))
    own = {
        "text": replace(text, config=replace(text.config, activation="gelu")),
        "unet": replace(unet, config=replace(unet.config, num_heads=(4, 2), num_groups=16)),
        "vae": replace(vae, config=replace(vae.config, latent_scale=0.4, num_groups=16)),
    }
    single = through_a_file(replace(checkpoint, parts=own), tmp_path)
    assert {slot: part.config for slot, part in single.parts.items()} == {
        slot: part.config for slot, part in own.items()
    }
    assert single.kind == checkpoint.kind
    alone = through_a_file(Checkpoint(tmp_path, "file", {"vae": own["vae"]}, ()), tmp_path)
    assert alone.parts["vae"].config == own["vae"].config


@pytest.mark.long
def test_a_tokenizer_of_ones_own_is_enclosed(checkpoint: Checkpoint, tmp_path: Path):
    """OpenCLIP pads with 0, which is `!`; a model that was trained from nothing has other merges."""
    padded = replace(clip_tokenizer(), pad=0)
    trained = ClipTokenizer.from_merges([("a", "b</w>"), ("ç", "Ĩ")])
    for name, tokenizer in {"padded": padded, "trained": trained}.items():
        tokenizer.save(tmp_path / name)
        other = replace(checkpoint, tokenizers={"text": TokenizerPlace(tmp_path / name)})
        single = through_a_file(other, tmp_path)
        assert single.tokenizer("text").to_json() == tokenizer.to_json()
        write_folder(single, tmp_path / f"{name} again")
        write_folder(other, tmp_path / f"{name} folder")
        assert digests(tmp_path / f"{name} again") == digests(tmp_path / f"{name} folder")


def test_what_is_told_is_not_enclosed(checkpoint: Checkpoint, stand_in_folder: Path, tmp_path: Path):
    """Also where an earlier file had to enclose it."""
    other = with_scheduler(checkpoint, prediction_type="sample")
    told = write_single_file(other, tmp_path / "own.safetensors")
    assert told and told.sentence() == (
        "names and shapes cannot tell the noise it was trained on: only Marmo reads that in the file"
    )
    usual = replace(open_checkpoint(tmp_path / "own.safetensors"), scheduler={})
    assert not write_single_file(usual, tmp_path / "usual.safetensors")
    assert ENCLOSED_KEY in open_file(tmp_path / "own.safetensors").metadata
    assert ENCLOSED_KEY not in open_file(tmp_path / "usual.safetensors").metadata
    write_folder(open_checkpoint(tmp_path / "own.safetensors"), tmp_path / "folder")
    assert ENCLOSED_KEY not in (tmp_path / "folder" / "marmo.json").read_text()


HOSTILE = {
    "no JSON": "{",
    "a list": "[]",
    "a number for configs": '{"configs": 1}',
    "a number for a config": '{"configs": {"unet": 1}}',
    "an empty config": '{"configs": {"unet": {}}}',
    "a huge network": '{"configs": {"unet": {"block_out_channels": [1e9, 1e9]}}}',
    "a list for a scheduler": '{"scheduler": []}',
    "a tokenizer without merges": '{"tokenizers": {"text": {"pad": 0}}}',
    "a merge of three": '{"tokenizers": {"text": {"merges": ["a b c"], "pad": 0}}}',
    "a merge of numbers": '{"tokenizers": {"text": {"merges": [1], "pad": 0}}}',
    "a merge of strangers": '{"tokenizers": {"text": {"merges": ["no such"], "pad": 0}}}',
    "a padding beyond": '{"tokenizers": {"text": {"merges": ["a b"], "pad": 100000}}}',
    "no padding": '{"tokenizers": {"text": {"merges": ["a b"]}}}',
    "a key twice": '{"configs": {}, "configs": {}}',
}


@pytest.mark.parametrize("said", HOSTILE.values(), ids=HOSTILE)
def test_what_a_stranger_encloses_is_refused_in_a_sentence(stand_in: Path, tmp_path: Path, said: str):
    path = tmp_path / "strange.safetensors"
    whole = open_file(stand_in)
    write(path, whole, {**whole.metadata, ENCLOSED_KEY: said})
    with pytest.raises(ValueError, match=r"strange\.safetensors") as raised:
        open_checkpoint(path).tokenizer("text")
    assert "\n" not in str(raised.value)


# Accidents


@pytest.mark.parametrize("name", ["single.ckpt", "single"])
def test_a_single_file_has_one_suffix(checkpoint: Checkpoint, tmp_path: Path, name: str):
    with pytest.raises(ValueError, match=r"a single file ends in \.safetensors"):
        write_single_file(checkpoint, tmp_path / name)
    assert not [*tmp_path.iterdir()]


def test_an_accident_leaves_what_was_there(checkpoint: Checkpoint, tmp_path: Path):
    def fail(name: str) -> torch.Tensor:
        raise OSError("the disk is gone")

    vae = checkpoint.parts["vae"]
    broken = replace(vae, tensors=replace(vae.tensors, read=fail))
    path = tmp_path / "single.safetensors"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match="the disk is gone"):
        write_single_file(replace(checkpoint, parts={**checkpoint.parts, "vae": broken}), path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


@pytest.mark.long
def test_a_folder_that_is_not_finished_is_no_model(checkpoint: Checkpoint, tmp_path: Path):
    def fail(name: str) -> torch.Tensor:
        raise OSError("the disk is gone")

    vae = checkpoint.parts["vae"]
    broken = replace(vae, tensors=replace(vae.tensors, read=fail))
    with pytest.raises(OSError, match="the disk is gone"):
        write_folder(replace(checkpoint, parts={**checkpoint.parts, "vae": broken}), tmp_path / "folder")
    with pytest.raises(ValueError, match="holds no model"):
        open_checkpoint(tmp_path / "folder")
