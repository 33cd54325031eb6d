"""Checkpoints opened from every layout that people hold, and refused in one sentence where we cannot."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.checkpoint import FAMILIES, SIZES, FamilyName
from marmo.models import unet
from marmo.models.clip import ClipConfig
from marmo.models.clip_resnet import ClipResNetConfig
from marmo.models.clip_text import VIT_BIGG_14_TEXT, VIT_L_14_TEXT, ClipTextConfig
from marmo.models.clip_vision import ClipVisionConfig
from marmo.models.tiny_decoder import TAESD
from marmo.models.vae import KL_F8
from marmo.text.bpe import TokenizerPlace
from marmo.weights import kinds
from marmo.weights.checkpoint import Checkpoint, network_of, open_checkpoint
from marmo.weights.forms import Network, NetworkConfig, expected, recognise, written
from marmo.weights.keymap import to_theirs
from marmo.weights.kinds import Kind, Slot
from marmo.weights.store import TensorInfo, Tensors, from_state, join, open_file, prefixed, write

TOY = SIZES["toy"]
TEXT = kinds.SD1.places["text"].prefix
IDS = f"{TEXT}text_model.embeddings.position_ids"
SMALL_TEXT = ClipTextConfig(width=64, num_layers=1, num_heads=1, vocab_size=50, context_length=8)
SMALL_CLIPS = {
    "ViT": ClipConfig(
        text=SMALL_TEXT,
        image=ClipVisionConfig(
            width=64, num_layers=1, num_heads=1, patch_size=8, embed_width=32, image_size=16, activation="quick_gelu"
        ),
    ),
    "ResNet": ClipConfig(
        text=SMALL_TEXT, image=ClipResNetConfig(width=8, depths=(1, 1, 1, 1), embed_width=32, image_size=32)
    ),
}

State = dict[str, Tensor]


def state(tensors: Tensors) -> State:
    return {name: tensors.read(name) for name in tensors.infos}


def same(left: Tensors, right: Tensors) -> bool:
    """Names, dtypes, shapes and bytes."""
    return left.infos == right.infos and all(
        torch.equal(*(tensors.read(name).reshape(-1).view(torch.uint8) for tensors in (left, right)))
        for name in left.infos
    )


def assert_same(left: Checkpoint, right: Checkpoint) -> None:
    assert left.parts.keys() == right.parts.keys()
    for network, part in left.parts.items():
        assert part.config == right.parts[network].config
        assert same(part.tensors, right.parts[network].tensors), network


def drawn(config: NetworkConfig) -> Tensors:
    """Small random weights under our names."""
    draw = torch.Generator().manual_seed(0)
    return from_state({name: torch.randn(shape, generator=draw) for name, shape in expected(config).items()})


def write_alone(path: Path, network: Network, config: NetworkConfig) -> Path:
    """One network as its authors name its tensors."""
    write(path, to_theirs(written(network, "original").rules(config), drawn(config)))
    return path


def refusal(path: Path, variant: str | None = None) -> str:
    with pytest.raises(ValueError) as error:
        open_checkpoint(path, variant)
    sentence = str(error.value)
    assert str(path) in sentence and "\n" not in sentence
    return sentence


@pytest.fixture(scope="module")
def single(stand_in: Path) -> State:
    return state(open_file(stand_in))


@pytest.fixture
def changed(single: State, tmp_path: Path) -> Callable[[Callable[[State], State | None]], Path]:
    """The stand-in's file after a change of its tensors."""

    def make(change: Callable[[State], State | None]) -> Path:
        tensors = dict(single)
        path = tmp_path / "changed.safetensors"
        write(path, from_state(change(tensors) or tensors))
        return path

    return make


@pytest.fixture
def folder(stand_in_folder: Path, tmp_path: Path) -> Path:
    """A copy of the stand-in's folder whose weights are links, so that it costs nothing."""
    for path in stand_in_folder.rglob("*"):
        copy = tmp_path / "folder" / path.relative_to(stand_in_folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            copy.hardlink_to(path)
        elif path.is_file():
            copy.write_bytes(path.read_bytes())
    return tmp_path / "folder"


# The layouts of Stable Diffusion 1


def test_a_single_file(stand_in: Path):
    checkpoint = open_checkpoint(stand_in)
    assert (checkpoint.layout, checkpoint.files, checkpoint.tokenizers) == ("single file", (stand_in,), {})
    assert {network: part.config for network, part in checkpoint.parts.items()} == TOY
    for part in checkpoint.parts.values():
        assert {name: info.shape for name, info in part.tensors.infos.items()} == expected(part.config)
        assert part.dtypes == ("float16",)  # the text's numbered positions are none of ours
    assert "marmo.defaults" in checkpoint.metadata


def test_a_folder_holds_the_same(stand_in: Path, stand_in_folder: Path):
    checkpoint = open_checkpoint(stand_in_folder)
    assert checkpoint.layout == "diffusers folder"
    assert {path.relative_to(stand_in_folder).as_posix() for path in checkpoint.files} == {
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }
    assert checkpoint.tokenizers == {"text": TokenizerPlace(stand_in_folder / "tokenizer")}
    assert checkpoint.scheduler["prediction_type"] == "epsilon"
    assert checkpoint.metadata == open_checkpoint(stand_in).metadata
    assert_same(checkpoint, open_checkpoint(stand_in))


def test_the_oldest_files_lack_text_model_in_their_names(stand_in: Path, changed: Callable[..., Path]):
    path = changed(lambda tensors: {name.replace(".text_model.", "."): tensor for name, tensor in tensors.items()})
    assert f"{TEXT}embeddings.token_embedding.weight" in open_file(path).infos
    assert_same(open_checkpoint(path), open_checkpoint(stand_in))


@pytest.mark.long
@pytest.mark.parametrize(
    "ids",
    [
        None,
        torch.arange(77),
        torch.arange(77)[None].int(),
        torch.arange(77)[None].float() + 0.1,  # what a merge of two models makes of whole numbers
        torch.arange(77)[None].half(),
        torch.zeros(1, 3),
    ],
    ids=["missing", "flat", "int32", "merged", "float16", "nonsense"],
)
def test_numbered_positions_may_be_anything(stand_in: Path, changed: Callable[..., Path], ids: Tensor | None):
    path = changed(lambda tensors: tensors.pop(IDS) is None or (None if ids is None else {**tensors, IDS: ids}) or None)
    assert (IDS in open_file(path).infos) == (ids is not None)
    assert_same(open_checkpoint(path), open_checkpoint(stand_in))


@pytest.mark.long
def test_what_training_left_behind_is_passed_over(stand_in: Path, changed: Callable[..., Path]):
    left = {
        "betas": torch.zeros(1000),
        "alphas_cumprod": torch.zeros(1000, dtype=torch.float64),
        "posterior_mean_coef2": torch.zeros(1000),
        "lvlb_weights": torch.zeros(1000),
        "logvar": torch.zeros(1000),
        "scale_factor": torch.tensor(0.18215),
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(470_000),
        "model_ema.diffusion_modelinput_blocks00weight": torch.zeros(32, 4, 3, 3),
        "first_stage_model.loss.logvar": torch.tensor(0.0),
        "first_stage_model.loss.discriminator.main.0.weight": torch.zeros(4, 3, 4, 4),
    }
    assert_same(open_checkpoint(changed(lambda tensors: tensors | left)), open_checkpoint(stand_in))


# What is not Stable Diffusion 1


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight", (8, 8)),  # SDXL
        ("edm_vpred.sigma_max", ()),  # CosXL
        ("cond_stage_model.model.token_embedding.weight", (8, 8)),  # SD 2
        ("control_model.input_blocks.0.0.weight", (8, 4, 3, 3)),  # ControlNet
        ("betas2", (3,)),
    ],
)
def test_an_unknown_tensor_beside_the_networks_is_refused(changed: Callable[..., Path], name: str, shape: tuple[int]):
    path = changed(lambda tensors: {**tensors, name: torch.zeros(shape)})
    assert refusal(path) == f"{path} is no Stable Diffusion 1 file: it also holds 1 unknown tensors ({name}, ...)"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("model.diffusion_model.extra.weight", "a unet: 1 left over (extra.weight)"),
        ("first_stage_model.encoder.extra.weight", "a vae: 1 left over (encoder.extra.weight)"),
        (f"{TEXT}text_model.extra.weight", "a text: 1 left over (text_model.extra.weight)"),
    ],
)
def test_an_unknown_tensor_inside_a_network_is_refused(changed: Callable[..., Path], name: str, what: str):
    path = changed(lambda tensors: {**tensors, name: torch.zeros(3)})
    assert refusal(path) == f"{path}: these weights are not {what}"


@pytest.mark.parametrize("network", ["text", "vae"])
def test_a_missing_network_is_named(changed: Callable[..., Path], network: Network):
    prefix = kinds.SD1.places[network].prefix
    path = changed(lambda tensors: {name: t for name, t in tensors.items() if not name.startswith(prefix)})
    assert refusal(path) == f"{path} holds no {network}: nothing in it is called {prefix}*"


def test_missing_and_misshapen_tensors_are_named(changed: Callable[..., Path]):
    bias, weight = "first_stage_model.decoder.conv_out.bias", "first_stage_model.quant_conv.weight"
    path = changed(lambda tensors: tensors.pop(bias) is None or {**tensors, weight: torch.zeros(8, 9, 1, 1)})
    assert refusal(path) == (
        f"{path}: these weights are not a vae: 1 missing (decoder.conv_out.bias), "
        "1 of another shape (to_moments.weight [8, 9, 1, 1] instead of [8, 8, 1, 1])"
    )


def test_a_stranger_is_refused_by_its_first_name(tmp_path: Path):
    path = tmp_path / "bert.safetensors"
    write(path, from_state({"bert.embeddings.word_embeddings.weight": torch.zeros(3, 3)}))
    assert refusal(path) == (
        f"{path} holds no network that Marmo knows: its 1 tensors begin with bert.embeddings.word_embeddings.weight"
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"just a text, longer than eight bytes", "it is no safetensors file"),
        (b"", "it is empty"),
        (b"\x02\0\0\0\0\0\0\0{}", "holds no network that Marmo knows: its 0 tensors begin with nothing"),
        (b"PK\x03\x04 zipped", "a legacy pickle"),
        (b"\x80\x02}q\0.", "a legacy pickle"),
        (b"<!doctype html>", "a web page"),
        (b"version https://git-lfs", "a Git LFS pointer"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: bytes, reason: str):
    path = tmp_path / "model.ckpt"
    path.write_bytes(data)
    assert reason in refusal(path)


@pytest.mark.long
@pytest.mark.parametrize("share", [0.001, 0.5, 0.999999])
def test_a_truncated_file_is_refused(stand_in: Path, tmp_path: Path, share: float):
    data = stand_in.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(data[: int(len(data) * share)])
    refusal(path)


def test_nothing_there(tmp_path: Path):
    assert refusal(tmp_path / "none.safetensors") == f"{tmp_path / 'none.safetensors'}: No such file or directory"
    assert refusal(tmp_path) == f"{tmp_path} holds no model: neither model_index.json nor config.json is in it"


# Folders


@pytest.mark.long
def test_a_variant_has_its_own_names(folder: Path, stand_in: Path):
    for network in ("unet", "vae"):
        weights = folder / network / "diffusion_pytorch_model.safetensors"
        weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    weights = folder / "text_encoder" / "model.safetensors"
    weights.rename(weights.with_name("model.fp16.safetensors"))
    assert_same(open_checkpoint(folder), open_checkpoint(stand_in))  # the only one there is
    assert_same(open_checkpoint(folder, "fp16"), open_checkpoint(stand_in))
    with pytest.raises(ValueError, match="has no variant 'ema'; the variant may be 'fp16'"):
        open_checkpoint(folder, "ema")


@pytest.mark.parametrize("part", [place.folder for place in kinds.SD1.places.values()])
def test_a_missing_component_is_named(folder: Path, part: str):
    (folder / part).rename(folder / "elsewhere")
    assert refusal(folder) == f"{folder / part} is missing"


def test_a_component_in_another_ones_place_is_named(folder: Path):
    (folder / "vae").rename(folder / "elsewhere")
    (folder / "text_encoder").rename(folder / "vae")
    (folder / "elsewhere").rename(folder / "text_encoder")
    assert refusal(folder) == f"{folder / 'text_encoder'} holds a vae where a text belongs"


@pytest.mark.parametrize("broken", ["", "{", "[1]", "[" * 100_000, '{"a": \x00}', "\xff"])
@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
def test_broken_json_is_named(folder: Path, name: str, broken: str):
    (folder / name).write_text(broken, encoding="latin1")
    assert refusal(folder).startswith(f"{folder / name} ")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"_class_name": "UNet3DConditionModel"}, "_class_name 'UNet3DConditionModel' (only 'UNet2DConditionModel')"),
        ({"addition_embed_type": "text_time"}, "addition_time_embed_dim in the config.json is None; it must be 256"),
        ({"block_out_channels": [32, -1]}, "block_out_channels in the config.json is -1"),
        ({"block_out_channels": [32, 128]}, "these weights are not a unet"),
        ({"cross_attention_dim": "wide"}, "cross_attention_dim in the config.json is 'wide'"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(folder: Path, change: Mapping[str, object], sentence: str):
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert sentence in refusal(folder)


@pytest.mark.long
def test_a_component_by_itself(stand_in_folder: Path, tmp_path: Path):
    for network, place in kinds.SD1.places.items():
        name = place.folder
        whole = open_checkpoint(stand_in_folder)
        alone = open_checkpoint(stand_in_folder / name)
        assert (alone.layout, list(alone.parts)) == (f"{network} folder", [network])
        (file,) = alone.files
        for part in (alone.parts[network], open_checkpoint(file).parts[network]):
            assert part.config == TOY[network]
            assert same(part.tensors, whole.parts[network].tensors)


def test_a_component_without_its_config_is_refused_where_shapes_do_not_tell(stand_in_folder: Path, tmp_path: Path):
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    path.hardlink_to(stand_in_folder / "unet" / path.name)
    assert "needs its config.json beside it; give the folder" in refusal(path)


# One network in its authors' names


@pytest.mark.parametrize(
    ("network", "config"),
    [
        ("vae", TOY["vae"]),
        ("unet", TOY["unet"]),
        ("text", replace(TOY["text"], vocab_size=50)),
        ("tiny_decoder", replace(TAESD, channels=8)),
        *(("clip", config) for config in SMALL_CLIPS.values()),
    ],
)
def test_a_network_alone(tmp_path: Path, network: Network, config: NetworkConfig):
    path = write_alone(tmp_path / "one.safetensors", network, config)
    checkpoint = open_checkpoint(path)
    assert (checkpoint.layout, list(checkpoint.parts)) == (f"{network} file", [network])
    assert checkpoint.parts[network].config == config
    assert same(checkpoint.parts[network].tensors, drawn(config))


def test_every_form_is_told_from_the_others(tmp_path: Path):
    configs: list[tuple[Network, NetworkConfig]] = [
        *TOY.items(),
        ("clip", SMALL_CLIPS["ViT"]),
        ("tiny_decoder", TAESD),
        ("text", replace(VIT_BIGG_14_TEXT, vocab_size=50, num_layers=1)),
    ]
    for network, config in configs:
        openclip = isinstance(config, ClipTextConfig) and config.embed_width is not None
        for family in ("openclip" if openclip else "original", "diffusers"):
            form = written(network, family) if network != "tiny_decoder" else written(network, "original")
            infos = {name: TensorInfo(torch.float32, shape) for name, shape in expected(config).items()}
            theirs = to_theirs(form.rules(config), Tensors(infos, lambda name: torch.empty(0)))
            found = recognise(theirs.infos)
            assert found is not None and (found.network, found.family) == (form.network, form.family)


# Full size


def write_hollow(path: Path, tensors: Tensors) -> None:
    """A file with the names and shapes of these tensors and a hole where their bytes would be."""
    entries: dict[str, object] = {}
    end = 0
    for name, info in tensors.infos.items():
        begin, end = end, end + info.num_bytes
        entries[name] = {"dtype": "F16", "shape": list(info.shape), "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)


TENSORS: Mapping[FamilyName, Mapping[Slot, tuple[int, int, int]]] = {
    "sd1": {"text": (197, 196, 123_060_480), "unet": (686, 686, 859_520_964), "vae": (248, 248, 83_653_863)},
    "sd2": {"text": (294, 372, 352_984_064), "unet": (686, 686, 865_910_724), "vae": (248, 248, 83_653_863)},
    "sdxl": {
        "text": (197, 196, 123_060_480),
        "text2": (390, 517, 694_659_840),
        "unet": (1680, 1680, 2_567_463_684),
        "vae": (248, 248, 83_653_863),
    },
    "sdxl-refiner": {
        "text2": (390, 517, 694_659_840),
        "unet": (1220, 1220, 2_259_526_660),
        "vae": (248, 248, 83_653_863),
    },
}
"""Tensors in a single file and in a folder, where SD 2 has a layer less; parameters."""


@pytest.mark.long
@pytest.mark.parametrize("family", TENSORS)
def test_full_size_from_names_and_shapes(tmp_path: Path, family: FamilyName):
    kind, sizes = FAMILIES[family]
    whole: list[Tensors] = []
    for slot, config in sizes["full"].items():
        infos = {name: TensorInfo(torch.float16, shape) for name, shape in expected(config).items()}
        ours = Tensors(infos, lambda name: pytest.fail(f"{name} was read"))
        place = kind.places[slot]
        theirs = to_theirs(written(network_of(slot), place.names).rules(config), ours)
        folder = to_theirs(written(network_of(slot), "diffusers").rules(kind.for_folder(config)), hollow(kind, config))
        num_parameters = sum(info.num_elements for info in infos.values())
        assert (len(theirs.infos), len(folder.infos), num_parameters) == TENSORS[family][slot]
        # whole numbers and scalars are no weights, and a hollow file cannot hold them
        floats = {name: info for name, info in theirs.infos.items() if info.dtype == torch.float16}
        whole.append(prefixed(Tensors(floats, ours.read), place.prefix))
    path = tmp_path / "model.safetensors"
    write_hollow(path, join(*whole))
    checkpoint = open_checkpoint(path)
    assert checkpoint.kind == kind
    for slot, config in sizes["full"].items():
        read = checkpoint.parts[slot].config
        assert (replace(read, embed_width=None) if family == "sd2" and slot == "text" else read) == config
        spare = 1024**2 if family == "sd2" and slot == "text" else 0  # the projection, which nobody reads
        assert checkpoint.parts[slot].num_parameters == TENSORS[family][slot][2] + spare


def hollow(kind: Kind, config: NetworkConfig) -> Tensors:
    shapes = expected(kind.for_folder(config))
    return Tensors({name: TensorInfo(torch.float16, shape) for name, shape in shapes.items()}, pytest.fail)


# Memory

PEAK = """
import gc, sys, threading, time
from pathlib import Path
import torch
from marmo import catalog

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

def watch():
    global peak
    while not done:
        peak = max(peak, held())
        time.sleep(0.001)

for path in sys.argv[1:]:
    model = catalog.open_model(path, "cpu", "float32")
    assert all(p.is_meta for network in model.networks.values() for p in network.parameters())
    gc.collect()
    before = peak = held()
    done = False
    watcher = threading.Thread(target=watch)
    watcher.start()
    model.load()
    done = True
    watcher.join()
    weights = [p for network in model.networks.values() for p in network.parameters()]
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" and not p.requires_grad for p in weights)
    assert not any(network.training for network in model.networks.values())
    print(peak - before, sum(p.nbytes for p in weights))
    del model, weights
"""


def write_middling(path: Path, dtype: torch.dtype) -> None:
    """75 million numbers."""
    configs: Mapping[Network, NetworkConfig] = {
        "text": replace(VIT_L_14_TEXT, width=256, num_layers=4, num_heads=4),
        "unet": replace(unet.SD1, channels=(64, 160, 320, 320), context_width=256),
        "vae": replace(KL_F8, channels=(64, 128, 256, 256)),
    }
    parts: list[Tensors] = []
    for network, config in configs.items():
        infos = {name: TensorInfo(dtype, shape) for name, shape in expected(config).items()}
        ours = Tensors(infos, lambda name, infos=infos: torch.full(infos[name].shape, 0.01, dtype=dtype))
        parts.append(
            prefixed(to_theirs(written(network, "original").rules(config), ours), kinds.SD1.places[network].prefix)
        )
    write(path, join(*parts))


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory is read from /proc")
def test_loading_takes_little_more_than_the_model(tmp_path: Path):
    """float32 stays in its file until it is used; another dtype is converted one tensor at a time."""
    paths = {dtype: tmp_path / f"{dtype}.safetensors" for dtype in (torch.float32, torch.float16)}
    for dtype, path in paths.items():
        write_middling(path, dtype)
    command = [sys.executable, "-c", PEAK, *map(str, paths.values())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for dtype, line in zip(paths, done.stdout.splitlines(), strict=True):
        taken, needed = map(int, line.split())
        print(f"{dtype}: {taken / 1e6:.0f} MB more for weights of {needed / 1e6:.0f} MB")
        assert needed > 3e8
        assert taken <= (0.15 if dtype == torch.float32 else 1.15) * needed
