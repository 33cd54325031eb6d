"""Feature spaces from files: what they compute, what they are called, and that no number loses its space."""

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from marmo.data.cache import TensorCache
from marmo.evaluate.distances import frechet, kid, moments
from marmo.evaluate.encoders import encoder_of, open_space
from marmo.evaluate.features import Features, FeatureSpace, Measured, Preprocessing, Space, compare, features
from marmo.evaluate.pictures import in_memory, open_pictures
from marmo.evaluate.resize import RULES
from marmo.models.clip import VIT_L_14, VIT_L_14_336, Clip, ClipConfig, preprocess
from marmo.models.clip_text import VIT_L_14_TEXT_TOY
from marmo.models.clip_vision import VIT_L_14_336_IMAGE
from marmo.models.dinov2 import DINOV2_TOY, DinoV2, with_registers
from marmo.models.dinov2 import VIT_L_14 as DINOV2_L
from marmo.models.inception import INCEPTION_2015, INCEPTION_TOY, Inception
from marmo.nn.blueprint import blueprint
from marmo.weights.keymap import Rule, to_theirs
from marmo.weights.maps.clip import huggingface as clip_names
from marmo.weights.maps.clip_config import clip_config_to_json
from marmo.weights.maps.dinov2 import config_to_json, huggingface, meta
from marmo.weights.maps.inception import pytorch_fid
from marmo.weights.store import from_state, sha256, write

IMAGE = replace(VIT_L_14_336_IMAGE, width=16, num_layers=1, num_heads=1, embed_width=12)
CLIP_336 = ClipConfig(text=replace(VIT_L_14_TEXT_TOY, num_layers=1), image=IMAGE)
DINOV2 = replace(DINOV2_TOY, num_heads=1)


def saved(path: Path, network: nn.Module, rules: list[Rule], config: Mapping[str, object] | None = None) -> Path:
    """Random weights in a file, or in a folder with its config.json."""
    torch.manual_seed(0)
    for weight in network.parameters():
        weight.data = torch.randn(weight.shape) * 0.2
    file = path
    if config is not None:
        path.mkdir()
        (path / "config.json").write_text(json.dumps(config))
        file = path / "model.safetensors"
    write(file, to_theirs(rules, from_state(network.state_dict())))
    network.eval().requires_grad_(False)
    return path


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spaces") / "inception.safetensors"
    return saved(path, Inception(INCEPTION_TOY), pytorch_fid(INCEPTION_TOY))


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("spaces") / "dinov2.safetensors", DinoV2(DINOV2), meta(DINOV2))


def picture(seed: int, height: int = 30, width: int = 50) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=draw)


# --- what they compute ------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(("rule", "middle"), [("clean", 128.0), ("tensorflow", 128.0), ("pytorch-fid", 127.5)])
def test_inception_sees_299_pixels_and_each_program_has_its_own_grey(inception: Path, rule, middle: float) -> None:
    space = open_space(inception, rule)
    network = Inception(INCEPTION_TOY)
    saved(inception.with_name("again.safetensors"), network, pytorch_fid(INCEPTION_TOY))
    expected = network((torch.stack([RULES[rule](picture(0), 299)]) - middle) / middle)
    assert torch.allclose(space(picture(0)[None]), expected, atol=1e-6)
    assert space.identity.resize == f"{rule} 299"


def test_dinov2_sees_its_normalised_picture(dinov2: Path) -> None:
    space = open_space(dinov2, side=20)
    network = DinoV2(DINOV2)
    saved(dinov2.with_name("again.safetensors"), network, meta(DINOV2))
    mean, std = (torch.tensor(colour)[:, None, None] for colour in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = (RULES["pillow"](picture(0), 20) / 255 - mean) / std
    assert torch.allclose(space([picture(0)]), network(pixels[None]), atol=1e-5)


def test_clip_of_336_pixels(tmp_path: Path) -> None:
    """CMMD's image tower; the vectors have length 1, and the usual rule is CLIP's own preprocessing."""
    network = Clip(CLIP_336)
    path = saved(tmp_path / "clip", network, clip_names(CLIP_336), clip_config_to_json(CLIP_336))
    space = open_space(path)
    made = space([picture(0), picture(1, 400, 500)])
    assert made.shape == (2, 12)
    assert torch.allclose(made.norm(dim=1), torch.ones(2))
    smooth = torch.nn.functional.interpolate(picture(2, 5, 5)[None].float(), (400, 500), mode="bilinear").byte()
    expected = network.encode_image(preprocess(smooth / 127.5 - 1, 336))
    assert torch.allclose(space(smooth), expected, atol=2e-2)  # the one rounds to 256 levels, the other does not
    assert (space.identity.network, space.identity.resize) == ("clip-12-336", "clip 336")
    assert open_space(path, "square").identity.resize == "square 336"


def test_the_full_size_clip_of_336_pixels() -> None:
    with blueprint():
        count = sum(weight.numel() for weight in Clip(VIT_L_14_336).parameters())
    assert count == 427_616_513 + (577 - 257) * 1024
    assert VIT_L_14_336.text == VIT_L_14.text


def test_features_do_not_depend_on_the_batch_nor_on_the_neighbours(dinov2: Path) -> None:
    space = open_space(dinov2)
    pictures = [picture(seed, 20 + seed, 40) for seed in range(5)]
    whole = features(space, in_memory(pictures))
    parts = features(space, in_memory(pictures), batch_size=2)
    assert len(whole) == 5
    assert torch.allclose(whole.vectors, parts.vectors, atol=1e-5)
    assert torch.allclose(whole.vectors[3], space([pictures[3]])[0], atol=1e-5)
    assert whole.vectors.dtype is torch.float32


# --- what they are called ---------------------------------------------------------------------------------------------


def test_a_space_is_its_network_its_file_and_its_rule(inception: Path) -> None:
    identity = open_space(inception).identity
    assert identity == Space(network="inception-128", sha256=sha256(inception), resize="clean 299", width=128)
    assert str(identity) == f"inception-128 ({sha256(inception)[:8]}) clean 299"
    assert open_space(inception, "tensorflow").identity != identity


def test_the_same_weights_with_other_positions_are_another_space(dinov2: Path, tmp_path: Path) -> None:
    plain, registers = replace(DINOV2, resampling="plain"), with_registers(DINOV2)
    folder = saved(tmp_path / "plain", DinoV2(plain), huggingface(plain), config_to_json(plain))
    more = saved(tmp_path / "registers", DinoV2(registers), huggingface(registers), config_to_json(registers))
    names = [open_space(path).identity.network for path in (dinov2, folder, more)]
    assert names == ["dinov2-32x2", "dinov2-32x2-hf", "dinov2-32x2-reg"]


def test_published_networks_have_published_names() -> None:
    configs = (INCEPTION_2015, DINOV2_L, with_registers(DINOV2_L), replace(DINOV2_L, resampling="plain"), VIT_L_14_336)
    encoders = [encoder_of(config, None, None) for config in configs]
    assert [(encoder.name, str(encoder.prepare), encoder.width) for encoder in encoders if encoder] == [
        ("inception-2015", "clean 299", 2048),
        ("dinov2-vit-l-14", "pillow 224", 1024),
        ("dinov2-vit-l-14-reg", "pillow 224", 1024),
        ("dinov2-vit-l-14-hf", "pillow 224", 1024),
        ("clip-vit-l-14-336", "clip 336", 768),
    ]


def test_several_files_have_one_name(tmp_path: Path) -> None:
    """A sharded folder: the hash is of all of them."""
    config = with_registers(DINOV2)
    theirs = to_theirs(huggingface(config), from_state(DinoV2(config).state_dict()))
    names = list(theirs.infos)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, chosen in parts.items():
        write(tmp_path / file, from_state({name: theirs.read(name) for name in chosen}))
    index = {name: file for file, chosen in parts.items() for name in chosen}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(config)))
    digest = open_space(tmp_path).identity.sha256
    assert len(digest) == 64
    assert digest not in [sha256(tmp_path / file) for file in parts]


@pytest.mark.long
@pytest.mark.parametrize(
    ("side", "words"), [(300, "side 300 is not possible: this network sees pictures of 299"), (0, "side 0")]
)
def test_another_side_is_refused(inception: Path, side: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        open_space(inception, side=side)


def test_a_side_that_leaves_part_of_a_patch_is_refused(dinov2: Path) -> None:
    with pytest.raises(ValueError, match="side 18 is no multiple of this DINOv2's patches of 4 pixels"):
        open_space(dinov2, side=18)


def test_a_model_that_paints_is_no_feature_space(stand_in: Path) -> None:
    with pytest.raises(ValueError, match="holds text and unet and vae; features come from"):
        open_space(stand_in)


# --- what they are kept in --------------------------------------------------------------------------------------------


class Counting:
    """A space of the mean colour, which counts how often it is asked."""

    def __init__(self, sha: str = "a" * 64) -> None:
        self.asked = 0
        identity = Space(network="colour", sha256=sha, resize="torch 4", width=3)
        grey = (0.0,) * 3
        prepare = Preprocessing(rule="torch", side=4, mean=grey, std=(1.0,) * 3)
        self.space = FeatureSpace(identity, prepare, self._encode)

    def _encode(self, x: Tensor) -> Tensor:
        self.asked += 1
        assert not torch.backends.cudnn.allow_tf32
        return x.mean(dim=(2, 3))


def test_features_of_a_collection_are_made_once(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        Image.new("RGB", (5, 4), (ord(name), 0, 0)).save(tmp_path / f"{name}.png")
    cache, counting, other = TensorCache(tmp_path / "cache"), Counting(), Counting("b" * 64)
    first = features(counting.space, open_pictures(tmp_path), cache=cache)
    again = features(counting.space, open_pictures(tmp_path), cache=cache)
    assert counting.asked == 1
    assert torch.equal(again.vectors, first.vectors)
    assert torch.allclose(first.vectors[:, 0], torch.tensor([97.0, 98.0, 99.0]))
    features(other.space, open_pictures(tmp_path), cache=cache)
    assert other.asked == 1
    Image.new("RGB", (5, 4), (1, 0, 0)).save(tmp_path / "b.png")
    assert features(counting.space, open_pictures(tmp_path), cache=cache).vectors[1, 0] == pytest.approx(1.0)
    assert counting.asked == 2


def test_measuring_takes_no_short_cut_on_a_gpu_and_leaves_torch_as_it_was() -> None:
    """By default cuDNN multiplies with ten bits of mantissa; `Counting` looks from inside."""
    before = torch.backends.cudnn.allow_tf32
    Counting().space([picture(0)])
    assert torch.backends.cudnn.allow_tf32 == before
    assert before


def test_no_pictures_are_no_features(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="no pictures to measure"):
        features(Counting().space, open_pictures(tmp_path))


# --- what becomes of them ---------------------------------------------------------------------------------------------


def of_space(network: str, n: int, seed: int) -> Features:
    space = Space(network=network, sha256="6726825d" + "0" * 56, resize="clean 299", width=4)
    return Features(space, torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)))


def test_two_spaces_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match=r"inception-2015 .* and in dinov2 .* cannot be compared"):
        compare("FD", lambda x, y: 0.0, of_space("inception-2015", 9, 0), of_space("dinov2", 9, 1))


def test_a_number_is_printed_with_all_that_it_rests_on() -> None:
    ours, real = of_space("inception-2015", 50, 0), of_space("inception-2015", 60, 1)
    plain = compare("FD", lambda x, y: frechet(moments(y), moments(x)).value, ours, real)
    assert plain.value == pytest.approx(frechet(moments(ours.vectors), moments(real.vectors)).value)
    assert str(plain) == (f"FD {plain.value:.5g}, 50 pictures against 60, in inception-2015 (6726825d) clean 299")
    kernel = compare("KID", lambda x, y: kid(y, x), ours, real, seed=3)
    assert str(kernel).startswith(f"KID {kernel.value}, 50 pictures against 60")
    assert str(kernel).endswith("clean 299, seed 3")


def test_a_number_cannot_be_made_without_its_space() -> None:
    assert {field.name for field in fields(Measured)} >= {"space", "n", "seed"}
    with pytest.raises(TypeError, match="space"):
        Measured("FD", 1.0)  # pyright: ignore[reportCallIssue]
