"""CLIP against transformers, on real files, and against the published formulae under OpenAI's names.

Every tensor is drawn from a normal, biases, norms and statistics too, so that no wrong wire can hide behind a zero.
"""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marmo.models.clip import VIT_B_32, VIT_L_14, Clip, ClipConfig, preprocess
from marmo.models.clip_resnet import RN50_IMAGE
from marmo.models.clip_text import VIT_L_14_TEXT, ClipText
from marmo.models.clip_vision import VIT_L_14_IMAGE
from marmo.weights.folders import open_part
from marmo.weights.keymap import fill, shapes, to_ours, to_theirs
from marmo.weights.maps.clip import huggingface, huggingface_text, openai
from marmo.weights.maps.clip_config import (
    clip_config_from_json,
    clip_config_from_openai,
    clip_config_to_json,
    text_config_from,
    text_config_from_json,
    text_config_to_json,
)
from marmo.weights.store import Tensors, from_state, write

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

TEXT = replace(VIT_L_14_TEXT, width=128, num_layers=3, num_heads=2, vocab_size=99, context_length=17)
VISION = replace(VIT_L_14_IMAGE, width=128, num_layers=2, num_heads=2, patch_size=8, embed_width=48, image_size=32)
RESNET = replace(RN50_IMAGE, width=8, depths=(2, 1, 3, 1), embed_width=48, image_size=96)
END = TEXT.vocab_size - 1


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    """Equal, and not because every text and picture gives the same."""
    largest = theirs.abs().max()
    error = (ours - theirs).abs().max() / largest
    print(f"relative error {error:.1e}")
    assert ours.shape == theirs.shape
    assert error <= 1e-5
    if len(theirs) > 1:
        assert (theirs[1] - theirs[0]).abs().max() > 0.1 * largest


def ids(num_texts: int = 3, length: int = TEXT.context_length) -> Tensor:
    """Texts of different lengths, padded with END or with 0."""
    draw = torch.Generator().manual_seed(1)
    rows = torch.randint(1, END - 1, (num_texts, length), generator=draw)
    for row in range(num_texts):
        rows[row, 3 + 2 * row :] = END if row % 2 else 0
        rows[row, 3 + 2 * row] = END
    return rows


def pictures(size: int) -> Tensor:
    """Two, with light and shade larger than a patch."""
    coarse = 2 * torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(3))
    return F.interpolate(coarse, (size, size), mode="bicubic")


def drawn(name: str, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """A tensor that keeps signals alive: what goes in shall be seen in what comes out."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(12)
    noise = torch.randn(shape, generator=draw)
    if len(shape) > 1:
        return 1.5 * noise * math.prod(shape[1:]) ** -0.5
    if name.endswith(("weight", "running_var")):
        return 1 + 0.3 * noise.abs()
    return 0.2 * noise


def randomised(network: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(2)
    for name, weight in network.named_parameters():
        weight.data = drawn(name, weight.shape, draw)
    return network.eval()


def opened(network: nn.Module, rules: list, theirs: Tensors) -> nn.Module:
    fill(network, to_ours(rules, theirs, shapes(network), "the CLIP"), torch.float32, torch.device("cpu"))
    return network.eval()


def peer_text_config(config, end: int = 2):
    return transformers.CLIPTextConfig(
        hidden_size=config.width,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=config.width * config.mlp_ratio,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.context_length,
        hidden_act=config.activation,
        bos_token_id=0,
        eos_token_id=end,
    )


def peer_vision_config(config):
    return transformers.CLIPVisionConfig(
        hidden_size=config.width,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=config.width * config.mlp_ratio,
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_act=config.activation,
        projection_dim=config.embed_width,
    )


def peer_clip_config(config: ClipConfig):
    return transformers.CLIPConfig(
        text_config=peer_text_config(config.text).to_dict(),
        vision_config=peer_vision_config(config.image).to_dict(),
        projection_dim=config.image.embed_width,
    )


# --- transformers -----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("end", [2, END])  # transformers pools by the largest id or by the first END
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_text_encoder_from_a_folder_of_transformers(tmp_path, activation, end):
    peer = randomised(transformers.CLIPTextModel(peer_text_config(replace(TEXT, activation=activation), end)))
    peer.save_pretrained(tmp_path)
    config = text_config_from_json(json.loads((tmp_path / "config.json").read_text()))
    theirs = open_part(tmp_path)
    assert config == text_config_from(theirs.infos, activation) == replace(TEXT, activation=activation)
    ours = opened(ClipText(config), huggingface_text(config), theirs)
    told = peer(ids(), output_hidden_states=True)
    assert_close(ours(ids()), told.last_hidden_state)
    assert_close(ours.pool(ours(ids()), ids()), told.pooler_output)
    for skip in (1, 2, 3):
        assert_close(ours(ids(), skip), peer.final_layer_norm(told.hidden_states[-skip]))
    assert_close(ours(ids()[:1, :5]), peer(ids()[:1, :5]).last_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_transformers_opens_our_folder(tmp_path, dtype):
    ours = randomised(ClipText(TEXT))
    for weight in ours.parameters():
        weight.data = weight.data.to(dtype).float()
    state = {name: weight.to(dtype) for name, weight in ours.state_dict().items()}
    write(tmp_path / "model.safetensors", to_theirs(huggingface_text(TEXT), from_state(state)), {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(text_config_to_json(TEXT)))
    peer, report = transformers.CLIPTextModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    peer = peer.float().eval()
    assert_close(ours(ids()), peer(ids()).last_hidden_state)
    assert_close(ours.pool(ours(ids()), ids()), peer(ids()).pooler_output)


@torch.no_grad()
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_whole_clip_from_a_folder_of_transformers(tmp_path, activation):
    config = ClipConfig(text=replace(TEXT, activation=activation), image=replace(VISION, activation=activation))
    peer = randomised(transformers.CLIPModel(peer_clip_config(config)))
    peer.save_pretrained(tmp_path)
    assert clip_config_from_json(json.loads((tmp_path / "config.json").read_text())) == config
    ours = opened(Clip(config), huggingface(config), open_part(tmp_path))
    pixels = pictures(32)
    told = peer(input_ids=ids(), pixel_values=pixels)
    assert_close(ours.encode_text(ids()), told.text_embeds)
    assert_close(ours.encode_image(pixels), told.image_embeds)
    assert_close(ours(ids(), pixels), told.logits_per_image)


@torch.no_grad()
def test_transformers_opens_our_whole_clip(tmp_path):
    config = ClipConfig(text=TEXT, image=VISION)
    ours = randomised(Clip(config))
    write(
        tmp_path / "model.safetensors", to_theirs(huggingface(config), from_state(ours.state_dict())), {"format": "pt"}
    )
    (tmp_path / "config.json").write_text(json.dumps(clip_config_to_json(config)))
    peer, report = transformers.CLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    pixels = pictures(32)
    assert_close(ours(ids(), pixels), peer.eval()(input_ids=ids(), pixel_values=pixels).logits_per_image)


@pytest.mark.parametrize("config", [VIT_L_14, VIT_B_32])
def test_names_and_shapes_at_full_size(config):
    with torch.device("meta"):
        peer = transformers.CLIPModel(peer_clip_config(config)).state_dict()
        ours = to_theirs(huggingface(config), from_state(Clip(config).state_dict()))
    assert {name: info.shape for name, info in ours.infos.items()} == {n: tuple(t.shape) for n, t in peer.items()}


@pytest.mark.parametrize("size", [(224, 224), (300, 200), (97, 260), (512, 512)])
def test_preprocessing(size):
    """Within two of the 256 levels that the peer rounds to."""
    Processor = pytest.importorskip("transformers.models.clip.image_processing_pil_clip").CLIPImageProcessorPil
    draw = torch.Generator().manual_seed(4)
    coarse = torch.rand(1, 3, 12, 12, generator=draw)
    picture = (F.interpolate(coarse, size, mode="bicubic").clamp(0, 1) * 255).round().to(torch.uint8)
    told = Processor()(picture[0].permute(1, 2, 0).numpy(), return_tensors="pt")["pixel_values"]
    ours = preprocess(picture / 127.5 - 1, 224)
    assert ours.shape == told.shape
    assert (ours - told).abs().max() <= 2 / 255 / 0.26


# --- the published formulae, under OpenAI's names ---------------------------------------------------------------------


def openai_state(config: ClipConfig) -> dict[str, Tensor]:
    """Names and shapes as in openai/CLIP, random numbers."""
    text = config.text
    sizes = {
        "token_embedding.weight": (text.vocab_size, text.width),
        "positional_embedding": (text.context_length, text.width),
        "text_projection": (text.width, config.image.embed_width),
        "logit_scale": (),
        "ln_final.weight": (text.width,),
        "ln_final.bias": (text.width,),
        **transformer_sizes("transformer", text.num_layers, text.width),
        **(vision_sizes(config.image) if config.image is VISION else resnet_sizes(config.image)),
    }
    draw = torch.Generator().manual_seed(5)
    state = {name: drawn(name, size, draw) for name, size in sizes.items()}
    scalars = {"input_resolution": config.image.image_size, "context_length": 17, "vocab_size": text.vocab_size}
    return state | {name: torch.tensor(value) for name, value in scalars.items()}


def transformer_sizes(name: str, num_layers: int, width: int) -> dict[str, tuple[int, ...]]:
    sizes: dict[str, tuple[int, ...]] = {}
    for layer in range(num_layers):
        block = f"{name}.resblocks.{layer}"
        sizes |= {f"{block}.{norm}.{leaf}": (width,) for norm in ("ln_1", "ln_2") for leaf in ("weight", "bias")}
        sizes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        for linear, out, into in (("attn.out_proj", 1, 1), ("mlp.c_fc", 4, 1), ("mlp.c_proj", 1, 4)):
            sizes |= {f"{block}.{linear}.weight": (out * width, into * width), f"{block}.{linear}.bias": (out * width,)}
    return sizes


def vision_sizes(image) -> dict[str, tuple[int, ...]]:
    norms = {f"visual.{norm}.{leaf}": (image.width,) for norm in ("ln_pre", "ln_post") for leaf in ("weight", "bias")}
    return {
        "visual.class_embedding": (image.width,),
        "visual.positional_embedding": ((image.image_size // image.patch_size) ** 2 + 1, image.width),
        "visual.proj": (image.width, image.embed_width),
        "visual.conv1.weight": (image.width, 3, image.patch_size, image.patch_size),
        **norms,
        **transformer_sizes("visual.transformer", image.num_layers, image.width),
    }


def resnet_sizes(image) -> dict[str, tuple[int, ...]]:
    sizes: dict[str, tuple[int, ...]] = {}

    def conv(conv: str, norm: str, out: int, into: int, side: int) -> None:
        sizes[f"{conv}.weight"] = (out, into, side, side)
        sizes.update({f"{norm}.{leaf}": (out,) for leaf in ("weight", "bias", "running_mean", "running_var")})
        sizes[f"{norm}.num_batches_tracked"] = ()

    width, channels = image.width, image.width
    conv("visual.conv1", "visual.bn1", width // 2, 3, 3)
    conv("visual.conv2", "visual.bn2", width // 2, width // 2, 3)
    conv("visual.conv3", "visual.bn3", width, width // 2, 3)
    for level, depth in enumerate(image.depths):
        planes = width * 2**level
        for index in range(depth):
            block = f"visual.layer{level + 1}.{index}"
            conv(f"{block}.conv1", f"{block}.bn1", planes, channels, 1)
            conv(f"{block}.conv2", f"{block}.bn2", planes, planes, 3)
            conv(f"{block}.conv3", f"{block}.bn3", 4 * planes, planes, 1)
            if index == 0:
                conv(f"{block}.downsample.0", f"{block}.downsample.1", 4 * planes, channels, 1)
            channels = 4 * planes
    pool = "visual.attnpool"
    sizes[f"{pool}.positional_embedding"] = ((image.image_size // 32) ** 2 + 1, channels)
    for part, out in (("q", channels), ("k", channels), ("v", channels), ("c", image.embed_width)):
        sizes |= {f"{pool}.{part}_proj.weight": (out, channels), f"{pool}.{part}_proj.bias": (out,)}
    return sizes


class Published:
    """The functions of Radford et al. 2021 over a state dict, with torch's own attention (tokens first: T B W)."""

    def __init__(self, state: dict[str, Tensor], activation: str) -> None:
        self.state = state
        self.activation = F.gelu if activation == "gelu" else lambda x: x * torch.sigmoid(1.702 * x)

    def pair(self, name: str) -> tuple[Tensor, Tensor]:
        return self.state[f"{name}.weight"], self.state[f"{name}.bias"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.pair(name)
        return bias + weight * (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()

    def transformer(self, name: str, x: Tensor, num_layers: int, num_heads: int, mask: Tensor | None) -> Tensor:
        for layer in range(num_layers):
            block = f"{name}.resblocks.{layer}"
            h = self.norm(f"{block}.ln_1", x)
            packed = self.state[f"{block}.attn.in_proj_weight"], self.state[f"{block}.attn.in_proj_bias"]
            out = self.pair(f"{block}.attn.out_proj")
            h, _ = F.multi_head_attention_forward(
                h, h, h, h.shape[-1], num_heads, *packed, None, None, False, 0.0, *out,
                training=False, need_weights=False, attn_mask=mask,
            )  # fmt: skip
            x = x + h
            h = self.activation(F.linear(self.norm(f"{block}.ln_2", x), *self.pair(f"{block}.mlp.c_fc")))
            x = x + F.linear(h, *self.pair(f"{block}.mlp.c_proj"))
        return x

    def text(self, tokens: Tensor, num_layers: int, num_heads: int) -> Tensor:
        length = tokens.shape[1]
        x = self.state["token_embedding.weight"][tokens] + self.state["positional_embedding"][:length]
        mask = torch.full((length, length), float("-inf")).triu(1)
        x = self.transformer("transformer", x.transpose(0, 1), num_layers, num_heads, mask).transpose(0, 1)
        x = self.norm("ln_final", x)
        last = torch.stack([row[tokens[index].tolist().index(int(tokens[index].max()))] for index, row in enumerate(x)])
        return unit(last @ self.state["text_projection"])

    def vision(self, pixels: Tensor, num_layers: int, num_heads: int) -> Tensor:
        weight = self.state["visual.conv1.weight"]
        x = F.conv2d(pixels, weight, stride=weight.shape[-1]).flatten(2).permute(2, 0, 1)
        x = torch.cat([self.state["visual.class_embedding"].expand(1, x.shape[1], -1), x])
        x = self.norm("visual.ln_pre", x + self.state["visual.positional_embedding"][:, None])
        x = self.transformer("visual.transformer", x, num_layers, num_heads, None)[0]
        return unit(self.norm("visual.ln_post", x) @ self.state["visual.proj"])

    def conv(self, conv: str, norm: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var = self.state[f"{norm}.running_mean"], self.state[f"{norm}.running_var"]
        scale = self.state[f"{norm}.weight"] / (var + 1e-5).sqrt()
        return (x - mean[:, None, None]) * scale[:, None, None] + self.state[f"{norm}.bias"][:, None, None]

    def bottleneck(self, block: str, x: Tensor, stride: int) -> Tensor:
        h = self.conv(f"{block}.conv1", f"{block}.bn1", x).relu()
        h = self.conv(f"{block}.conv2", f"{block}.bn2", h).relu()
        h = self.conv(f"{block}.conv3", f"{block}.bn3", F.avg_pool2d(h, stride) if stride > 1 else h)
        if f"{block}.downsample.0.weight" in self.state:
            x = F.avg_pool2d(x, stride) if stride > 1 else x
            x = self.conv(f"{block}.downsample.0", f"{block}.downsample.1", x)
        return (h + x).relu()

    def resnet(self, x: Tensor, depths: tuple[int, ...], num_heads: int) -> Tensor:
        for number in (1, 2, 3):
            x = self.conv(f"visual.conv{number}", f"visual.bn{number}", x, stride=2 if number == 1 else 1).relu()
        x = F.avg_pool2d(x, 2)
        for level, depth in enumerate(depths):
            for index in range(depth):
                x = self.bottleneck(f"visual.layer{level + 1}.{index}", x, stride=2 if level and not index else 1)
        x = x.flatten(2).permute(2, 0, 1)
        x = torch.cat([x.mean(0, keepdim=True), x]) + self.state["visual.attnpool.positional_embedding"][:, None]
        (q, q_bias), (k, k_bias), (v, v_bias) = (self.pair(f"visual.attnpool.{part}_proj") for part in "qkv")
        x, _ = F.multi_head_attention_forward(
            x[:1], x, x, x.shape[-1], num_heads, None, torch.cat([q_bias, k_bias, v_bias]), None, None, False, 0.0,
            *self.pair("visual.attnpool.c_proj"), training=False, need_weights=False,
            use_separate_proj_weight=True, q_proj_weight=q, k_proj_weight=k, v_proj_weight=v,
        )  # fmt: skip
        return unit(x[0])


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(dim=-1, keepdim=True).sqrt()


@torch.no_grad()
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("image", [VISION, RESNET], ids=["vision", "resnet"])
def test_openai_names(tmp_path, image, activation):
    state = openai_state(ClipConfig(text=TEXT, image=image))
    write(tmp_path / "model.safetensors", from_state(state), {})
    theirs = open_part(tmp_path)
    config = clip_config_from_openai(theirs.infos, activation)
    ours, published = opened(Clip(config), openai(config), theirs), Published(state, activation)
    pixels = pictures(image.image_size)
    texts = published.text(ids(), TEXT.num_layers, TEXT.num_heads)
    if image is VISION:
        images = published.vision(pixels, VISION.num_layers, VISION.num_heads)
    else:
        images = published.resnet(pixels, RESNET.depths, 32 * RESNET.width // 64)
    assert_close(ours.encode_text(ids()), texts)
    assert_close(ours.encode_image(pixels), images)
    assert_close(ours(ids(), pixels), state["logit_scale"].exp() * images @ texts.T)


@pytest.mark.parametrize("image", [VISION, RESNET], ids=["vision", "resnet"])
def test_openai_names_are_written_back_as_they_were(image):
    config = ClipConfig(text=TEXT, image=image)
    state = openai_state(config)
    ours = to_ours(openai(config), from_state(state), shapes(Clip(config)), "the CLIP")
    again = to_theirs(openai(config), ours)
    assert set(state) - set(again.infos) == {"input_resolution", "context_length", "vocab_size"}
    assert all(torch.equal(again.read(name), state[name]) for name in again.infos)
