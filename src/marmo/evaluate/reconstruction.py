"""What an autoencoder loses of scenes that no training has drawn: decibels, and what an oracle no longer recognises.

    python -m marmo.evaluate.reconstruction out/vae/vae out/other/vae --concepts concepts.txt

A scene is right where the oracle finds by GenEval's rules what its record says: every thing, its colour, number, place
and style.  The same scenes go through the autoencoder (the mean of the latents, float32) and are judged again.

Shapes: B batch, S side of the pictures.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

from marmo.data.atlas import Sprites, atlas
from marmo.data.compose import compose
from marmo.data.scene import Scene, record
from marmo.data.scenes import scene
from marmo.data.selection import Group, Selection, read_concepts
from marmo.data.splits import Split
from marmo.evaluate.fidelity import psnr
from marmo.evaluate.found import Oracle
from marmo.evaluate.geneval import judge
from marmo.evaluate.oracle import load_oracle
from marmo.evaluate.statistics import Estimate, difference, mean, share
from marmo.models.vae import VAE, VAEConfig
from marmo.nn.blueprint import blueprint
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.keymap import fill

SEED = -6
"""Of the scenes: no training and no other measurement counts from it."""
BATCH = 32
UNCHANGED = 100.0
"""Decibels of a picture that came back as it was, which are without end."""

Change = Callable[[Tensor], Tensor]
"""Pictures to pictures, uint8 B 3 S S."""


@dataclass(frozen=True)
class Loss:
    """What is lost of scenes of one kind."""

    kind: Group
    psnr: Estimate
    """The mean over the pictures, in decibels."""
    before: Estimate
    """The share of scenes that the oracle finds right as they were drawn."""
    after: Estimate
    """The same of the pictures that came back."""
    lost: Estimate
    """How much lower `after` is: the same scenes, so the interval is that of pairs."""


def open_vae(path: Path, device: str = "cpu") -> VAE:
    """The autoencoder at a path in float32, also where it is a part of a whole model; `ValueError` without one."""
    part = open_checkpoint(path).parts.get("vae")
    if part is None or not isinstance(part.config, VAEConfig):
        raise ValueError(f"{path} holds no autoencoder that pictures could be sent through")
    with blueprint():
        network = VAE(part.config)
    fill(network, part.tensors, torch.float32, torch.device(device))
    return network.eval()


def through(vae: VAE) -> Change:
    """Pictures to latents and back."""

    @torch.inference_mode()
    def change(pictures: Tensor) -> Tensor:
        pixels = pictures.to(vae.from_latents.weight.device).float() / 127.5 - 1
        back = vae.decode(vae.encode(pixels).mean)
        return ((back + 1) * 127.5).round().clamp(0, 255).byte().cpu()

    return change


def losses(
    change: Change,
    oracle: Oracle,
    kinds: Sequence[Group] = ("single", "pair"),
    *,
    count: int = 512,
    size: int = 128,
    split: Split = "train",
    concepts: frozenset[str] | None = None,
    sprites: Sprites | None = None,
) -> Iterator[Loss]:
    """Of `count` scenes of each kind, drawn `size` pixels a side.

    Args:
        split: whose scenes; a seed of their own keeps those of "train" out of every training.
        concepts: ids that scenes are made of; all of them by default.
    """
    drawn = atlas(torch.device("cpu")) if sprites is None else sprites
    for kind in kinds:
        selection = Selection(concepts, frozenset((kind,)))
        scenes = [scene(SEED, index, split, selection) for index in range(count)]
        yield _loss(kind, scenes, change, oracle, size, drawn)


def _loss(kind: Group, scenes: Sequence[Scene], change: Change, oracle: Oracle, size: int, sprites: Sprites) -> Loss:
    decibels, before, after = list[Tensor](), list[float](), list[float]()
    for start in range(0, len(scenes), BATCH):
        some = scenes[start : start + BATCH]
        pictures = compose(some, size, sprites)
        back = change(pictures)
        decibels.append(psnr(back, pictures).clamp(max=UNCHANGED))
        before += _right(oracle, pictures, some)
        after += _right(oracle, back, some)
    first, second = torch.tensor(before), torch.tensor(after)
    return Loss(kind, mean(torch.cat(decibels)), share(first), share(second), difference(first, second))


def _right(oracle: Oracle, pictures: Tensor, scenes: Sequence[Scene]) -> list[float]:
    return [float(judge(record(s), found).is_right) for s, found in zip(scenes, oracle(pictures), strict=True)]


@dataclass(frozen=True)
class Reconstruct:
    """Measure autoencoders on scenes that none of them was trained on."""

    vaes: tyro.conf.Positional[tuple[Path, ...]]
    """Files or folders: an autoencoder, or a whole model"""
    oracle: Path | None = None
    """An oracle's file; the bundled one by default"""
    concepts: Path | None = None
    """A list of concepts, one id per line; all of them by default"""
    kinds: tuple[Group, ...] = ("single", "pair")
    count: int = 512
    """Scenes of each kind"""
    size: int = 128
    """Side of the pictures, in pixels"""
    split: Split = "train"
    device: str = "cpu"
    json: bool = False
    """Print JSON instead of a table"""

    def run(self) -> None:
        """Draw, send through, judge, print."""
        oracle, told = load_oracle(self.oracle or "first"), dict[str, list[Loss]]()
        chosen = None if self.concepts is None else frozenset(read_concepts(self.concepts))
        for path in self.vaes:
            change = through(open_vae(path, self.device))
            found = losses(
                change, oracle, self.kinds, count=self.count, size=self.size, split=self.split, concepts=chosen
            )
            told[str(path)] = list(found)
            for loss in () if self.json else told[str(path)]:
                print(f"{path}  {loss.kind:<6}  {_line(loss)}")
        if self.json:
            print(json.dumps({path: [asdict(loss) for loss in found] for path, found in told.items()}, indent=1))


def _line(loss: Loss) -> str:
    decibels = f"{loss.psnr.value:.2f} dB [{loss.psnr.low:.2f}, {loss.psnr.high:.2f}]"
    lost = f"{100 * loss.lost.value:.1f} points [{100 * loss.lost.low:.1f}, {100 * loss.lost.high:.1f}]"
    return f"{decibels}  right {loss.before.value:.1%} -> {loss.after.value:.1%}, lost {lost}"


if __name__ == "__main__":
    tyro.cli(Reconstruct, description=Reconstruct.__doc__).run()
