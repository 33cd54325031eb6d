"""CLIP: two towers learn which caption belongs to which picture.

    python -m marmo.recipes.clip base --data pictures/ --folder out/clip
    python -m marmo.recipes.clip evaluator --data scenes --tokenizer out/tokenizer/tokenizer --folder out/evaluator
    python -m marmo.recipes.clip scenes --concepts 150 --tokenizer out/tokenizer/tokenizer --folder out/clip
    torchrun --nproc-per-node 8 -m marmo.recipes.clip base --data shards/ --folder out/clip --batch-size 4096

Radford et al. 2021 (https://arxiv.org/abs/2103.00020), figure 3; the sigmoid loss is that of Zhai et al. 2023
(https://arxiv.org/abs/2303.15343), which needs no large batch.  The negatives of every picture are the captions of all
ranks; where the pictures are scenes, also captions that are wrong by one fact (`marmo.data.contrast`).  The result,
`clip.safetensors`, has OpenAI's names, so other programs open it too; with a tokenizer of its own it is a folder.

Hardware and numbers: the published ViT-B/32 took 36 hours of 128 A100 and 12.8 billion images (open_clip, LAION-400M,
batch 32,768) for 63 % on ImageNet; 15 million pairs of YFCC give 33 % (RN50).  `tiny()` learns to tell 24 drawn shapes
apart in about 10 seconds of one CPU core: docs/training.md has the measured numbers.

Shapes: B pairs of this rank, R ranks, T tokens, S side of the image tower's pictures, E width of the shared space; K
is B, or 2B with the wrong captions after the right ones.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from marmo.data.selection import selected
from marmo.data.source import Contrasted, ContrastedSource, Pair, Source
from marmo.data.splits import Split
from marmo.models.clip import VIT_B_32, Clip, ClipConfig, preprocess
from marmo.models.clip_resnet import ClipResNetConfig
from marmo.models.clip_text import ClipTextConfig
from marmo.models.clip_vision import ClipVisionConfig
from marmo.nn.transformer import PreNormBlock
from marmo.text.bpe import ClipTokenizer, TokenizerPlace, clip_tokenizer
from marmo.text.prompt import tokenize
from marmo.train import ema, optim, ranks
from marmo.train.run import Run, leave, start
from marmo.train.state import Learner, State
from marmo.weights.checkpoint import Checkpoint, Part, open_checkpoint
from marmo.weights.export import write_folder, write_single_file
from marmo.weights.forms import written
from marmo.weights.kinds import Slot
from marmo.weights.store import from_state

LARGEST_SCALE = 100.0  # Radford et al. 2021, section 2.5
SIGMOID_SCALE = 10.0  # Zhai et al. 2023, section 3.2

LENGTHS = 4
"""Groups of captions of like length."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a run depends on, beside the data."""

    folder: Path = Path("out/clip")
    """Where checkpoints, log and result go; a folder that has them goes on"""
    data: Literal["scenes"] | Path | None = None
    """Captioned pictures: a folder, a .tar or a folder of them, or a saved `datasets` folder; or Marmo's own scenes"""
    split: Split = "train"
    """Of the scenes"""
    concepts: int | Path | None = None
    """Of the scenes: the first of Marmo's own list, or a file with an id per line; all by default"""
    wrong: bool = False
    """Of the scenes, learn also from a caption for each that is wrong by one fact"""
    tokenizer: Path | None = None
    """A folder that the recipe `tokenizer` wrote; CLIP's own by default"""
    from_: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """A CLIP to begin with; its own config takes the place of `model`"""
    model: ClipConfig = VIT_B_32
    loss: Literal["softmax", "sigmoid"] = "softmax"
    bias: float = -10.0
    """Where the sigmoid loss begins: about minus the logarithm of the batch"""

    images: int = 12_800_000
    batch_size: int = 1024
    """Of all ranks together"""
    lr: float = 5e-4
    """Of a batch of `lr_batch`"""
    lr_batch: int = 1024
    scaling: optim.Scaling = "sqrt"
    """How the rate grows with the batch"""
    schedule: optim.Schedule = "cosine"
    warmup: int = 1_000_000
    """Images over which the rate rises"""
    tail: int = 0
    """Images at the end over which it falls to 0, whatever the schedule"""
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.2
    clip: float | None = 1.0
    """The largest norm of the gradients"""
    ema: float | None = None
    """The relative width of a power average, such as 0.05, which then is the result"""

    seed: int = 0
    device: str | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the arithmetic; bfloat16 where there is such by default"""
    workers: int = 8
    """Threads that read pictures ahead"""
    log_images: int = 50_000
    save_images: int = 1_000_000
    keep: int = 2
    """Checkpoints that stay"""


def tiny() -> Config:
    """Seconds on a CPU."""
    text = ClipTextConfig(width=64, num_layers=1, num_heads=1, context_length=16)
    image = ClipVisionConfig(width=64, num_layers=2, num_heads=1, patch_size=8, image_size=32, embed_width=32)
    return replace(
        Config(),
        model=ClipConfig(text=text, image=image),
        images=4096,
        batch_size=32,
        bias=-3.5,
        lr=1e-3,
        scaling="none",
        warmup=256,
        weight_decay=0.1,
        device="cpu",
        dtype="float32",
        workers=0,
        log_images=256,
        save_images=1024,
    )


def evaluator() -> Config:
    """Judges pictures of scenes and so knows all of them; a quarter of an hour of one CPU core."""
    text = ClipTextConfig(width=128, num_layers=2, num_heads=2, vocab_size=4096, context_length=48)
    image = ClipResNetConfig(width=16, depths=(1, 1, 1, 1), image_size=64, embed_width=128)
    return replace(
        tiny(),
        model=ClipConfig(text=text, image=image),
        data="scenes",
        split="all",
        wrong=True,
        images=140_800,
        batch_size=64,
        schedule="constant",
        warmup=1280,
        tail=40_000,
        seed=-1000,  # generators count theirs from 0
        device=None,
        dtype=None,
        workers=1,
        log_images=640,
        save_images=6400,
    )


def scenes() -> Config:
    """Tells a model that paints scenes what its prompts mean; half an hour of one CPU core."""
    text = ClipTextConfig(width=256, num_layers=4, num_heads=4, vocab_size=8192, context_length=48)
    image = ClipResNetConfig(width=16, depths=(1, 2, 2, 1), image_size=64, embed_width=256)
    return replace(
        evaluator(), model=ClipConfig(text=text, image=image), split="train", images=160_000, warmup=6400, seed=0
    )


def presets() -> Mapping[str, tuple[str, Config]]:
    """By name, with a line of help."""
    return {
        "base": ("ViT-B/32", Config()),
        "tiny": (str(tiny.__doc__), tiny()),
        "evaluator": (str(evaluator.__doc__), evaluator()),
        "scenes": (str(scenes.__doc__), scenes()),
    }


class Contrast(nn.Module):
    """A CLIP and what only its training needs: the bias of the sigmoid loss."""

    def __init__(self, clip: Clip, bias: float) -> None:
        super().__init__()
        self.clip = clip
        self.bias = nn.Parameter(torch.tensor(bias))

    def encode(self, ids: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids K T, pictures B 3 S S -> vectors of the pictures and of the texts, B E and K E, float32."""
        return self.clip.encode_image(pixels).float(), self._encode_text(ids).float()

    def _encode_text(self, ids: Tensor) -> Tensor:
        """Captions of like length together, since nothing looks at what comes after the end.  K T -> K E"""
        lengths = ids.argmax(1) + 1  # K
        order = lengths.argsort(stable=True)  # K
        parts = [self.clip.encode_text(ids[part, : int(lengths[part[-1]])]) for part in order.chunk(LENGTHS)]
        return torch.cat(parts)[order.argsort()]  # K E


def build(config: Config) -> Contrast:
    """The network that a run begins with, on the CPU."""
    if config.from_ is None:
        model = Contrast(_initialised(Clip(config.model)), config.bias)
        if config.loss == "sigmoid":
            nn.init.constant_(model.clip.logit_scale, math.log(SIGMOID_SCALE))
    else:
        model = Contrast(_opened(config.from_), config.bias)
    tokens, size = model.clip.config.text.vocab_size, tokenizer_of(config).vocab_size
    if tokens != size:
        raise ValueError(
            f"the text tower has a vocabulary of {tokens} and the tokenizer one of {size}; give "
            f"--model.text.vocab-size {size}, or another tokenizer"
        )
    return model


def tokenizer_of(config: Config) -> ClipTokenizer:
    """The one that is given, or that of the CLIP to begin with, or OpenAI's."""
    if config.tokenizer is not None:
        return ClipTokenizer.from_folder(config.tokenizer)
    return clip_tokenizer() if config.from_ is None else open_checkpoint(config.from_).tokenizer("clip")


def loss(model: Contrast, pictures: Tensor, texts: Tensor, kind: Literal["softmax", "sigmoid"]) -> Tensor:
    """This rank's share of the loss, whose mean over the ranks is the loss of the whole batch.

    Pictures B E, texts K E -> no axes.
    """
    scale = model.clip.logit_scale.exp()
    if kind == "softmax":
        return softmax_loss(pictures, texts, scale)
    return sigmoid_loss(pictures, texts, scale, model.bias)


def softmax_loss(pictures: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Radford et al. 2021, figure 3: each picture among all captions, each right caption among all pictures."""
    own = _own(pictures)  # B
    by_picture = scale * pictures @ _of_all(texts, len(pictures)).T  # B RK
    by_text = scale * texts[: len(pictures)] @ ranks.gather(pictures).T  # B RB
    return (F.cross_entropy(by_picture, own) + F.cross_entropy(by_text, own)) / 2


def sigmoid_loss(pictures: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Zhai et al. 2023, algorithm 1: every pair by itself, whether it belongs together."""
    logits = scale * pictures @ _of_all(texts, len(pictures)).T + bias  # B RK
    signs = 2 * F.one_hot(_own(pictures), logits.shape[1]) - 1  # B RK
    return -F.logsigmoid(signs * logits).sum() / len(logits)


def accuracy(pictures: Tensor, texts: Tensor) -> Tensor:
    """How often a picture's own caption is the nearest of this rank's part.  B E, K E -> no axes."""
    nearest = (pictures @ texts.T).argmax(1)
    return (nearest == torch.arange(len(pictures), device=texts.device)).float().mean()


def main(config: Config, source: Source | ContrastedSource | None = None) -> Path:
    """Train, or go on; returns the file or folder that holds the CLIP.

    Args:
        source: captioned pictures by position; those of `config.data` by default.
    """
    with start(config) as run:
        model, tokenizer = _laid_out(build(config).to(run.device)), tokenizer_of(config)
        averages = {} if config.ema is None else {"power": ema.Average(model, ema.power(config.ema))}
        optimizer = optim.adamw(model, config.betas, config.eps, config.weight_decay)
        learner = Learner(model, optimizer, averages, batch_size=config.batch_size, clip=config.clip)
        state = State({"model": learner})
        run.restore(state)
        if source is None:
            source = _source(config, model.clip.config.image.image_size, run.device)
        peak = optim.scaled(config.lr, config.batch_size, config.lr_batch, config.scaling)

        for rows in run.batches(source, state):
            with run.autocast():
                pictures, texts = model.encode(*_batch(rows, model.clip, tokenizer, run))
            value = loss(model, pictures, texts, config.loss)
            lr = optim.rate(peak, state.images, config.images, config.schedule, config.warmup, config.tail)
            state.step(value, lr)
            with torch.no_grad():
                model.clip.logit_scale.clamp_(0, math.log(LARGEST_SCALE))

            if run.every(config.log_images, state):
                scale = model.clip.logit_scale.exp()
                run.log(state, loss=value, accuracy=accuracy(pictures, texts), scale=scale, norm=learner.norm, lr=lr)
            if run.every(config.save_images, state):
                run.save(state)
        return _export(run, averages["power"].model if averages else model, tokenizer)


def _source(config: Config, size: int, device: torch.device) -> Source | ContrastedSource:
    if config.wrong and config.data != "scenes":
        raise ValueError("only of scenes it is known what would be wrong: give --data scenes, or leave out --wrong")
    match config.data:
        case None:
            raise ValueError("there is nothing to learn from: give --data")
        case "scenes":
            from marmo.data.scene_source import scene_source

            scenes = scene_source(config.seed, size, config.split, device, selection=selected(config.concepts))
            return scenes if config.wrong else lambda position: scenes(position)[:2]
        case Path() as path:
            from marmo.data.pictures import open_pictures  # reads picture records, too, and so needs pydantic

            return open_pictures(path, seed=config.seed, size=size)


def _batch(rows: Sequence[Pair | Contrasted], clip: Clip, tokenizer: ClipTokenizer, run: Run) -> tuple[Tensor, Tensor]:
    """Token ids K T and pictures B 3 S S on the run's device."""
    texts = [row[1] for row in rows] + [row[2] for row in rows if len(row) > 2]
    ids = torch.tensor([tokenize(text, tokenizer, clip.config.text.context_length).ids for text in texts])
    pixels = torch.stack([row[0] for row in rows]).to(run.device)
    pixels = preprocess(pixels, clip.config.image.image_size)
    return ids.to(run.device), pixels.contiguous(memory_format=torch.channels_last)


def _of_all(texts: Tensor, count: int) -> Tensor:
    """The right captions of all ranks, then the wrong ones.  K E -> RK E"""
    right, wrong = texts[:count], texts[count:]
    return torch.cat([ranks.gather(right), ranks.gather(wrong)]) if len(wrong) else ranks.gather(right)


def _laid_out(model: Contrast) -> Contrast:
    """Convolutions with their channels last, which processors of both kinds prefer."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def _own(rows: Tensor) -> Tensor:
    """The numbers of this rank's rows among those of all ranks."""
    return torch.arange(len(rows), device=rows.device) + ranks.rank() * len(rows)


def _initialised(clip: Clip) -> Clip:
    """As OpenAI's code draws the text tower's blocks, here both towers': deeper ones begin smaller."""
    for tower in (clip.text, clip.image):
        blocks = [module for module in tower.modules() if isinstance(module, PreNormBlock)]
        for block in blocks:
            width = block.norm1.weight.numel()
            for layer in (block.attention.q, block.attention.k, block.attention.v):
                nn.init.normal_(layer.weight, std=width**-0.5)
            for layer in (block.attention.out, block.feed_forward.proj_out):
                nn.init.normal_(layer.weight, std=(2 * width * len(blocks)) ** -0.5)
            nn.init.normal_(block.feed_forward.proj_in.weight, std=(2 * width) ** -0.5)
    nn.init.normal_(clip.text_proj.weight, std=clip.config.text.width**-0.5)
    return clip


def _opened(path: Path) -> Clip:
    """The CLIP at a path, in float32."""
    part = open_checkpoint(path).parts.get("clip")
    if part is None or not isinstance(part.config, ClipConfig):
        raise ValueError(f"{path} holds no whole CLIP to begin with")
    clip = Clip(part.config)
    clip.load_state_dict({name: part.tensors.read(name) for name in part.tensors.infos})
    return clip


def _export(run: Run, model: nn.Module, tokenizer: ClipTokenizer) -> Path:
    """A single file with OpenAI's names; a folder as transformers has it for what these cannot tell."""
    assert isinstance(model, Contrast)
    clip, form = model.clip, written("clip", "original")
    part = Part(form, clip.config, from_state(clip.state_dict()))
    own = tokenizer is not clip_tokenizer()
    told = clip.config.text.activation == "quick_gelu" and not own
    path = run.folder / ("clip.safetensors" if told else "clip")
    write = write_single_file if told else write_folder
    if run.is_main:
        if path.is_dir():
            shutil.rmtree(path)  # of this run when it was shorter
        if own:
            tokenizer.save(path, clip.config.text.context_length)
        tokenizers: dict[Slot, TokenizerPlace] = {"clip": TokenizerPlace(path)} if own else {}
        write(Checkpoint(path, "clip", {"clip": part}, (path,), tokenizers=tokenizers), path)
    return path


if __name__ == "__main__":
    main(tyro.extras.overridable_config_cli(dict(presets())))
    leave()
