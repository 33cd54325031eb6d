"""From a trained oracle to the file that comes with Marmo: the concepts of this corpus alone, calibrated, in 8 bits.

    python -m marmo.evaluate.oracle_bundle out/oracle/oracle.safetensors --output first.safetensors

An oracle may know more than the corpus does: concepts that it confused have left since it was trained.  It learnt from
disturbed pictures and so is too modest about good ones; its temperature makes up for that (Guo et al. 2017).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro

from marmo.data.atlas import Sprites, atlas
from marmo.evaluate.confusion import SEED, answers, renders
from marmo.evaluate.oracle import Judge, concept_names, load_oracle, narrowed, write_oracle
from marmo.models.oracle import Oracle
from marmo.weights.quantize import quantized
from marmo.weights.store import cast, open_file, write

SHOWN = 2048
"""Renders on which the temperature is found."""
TEMPERATURES = torch.linspace(0.3, 1.5, 121)


def fitting_temperature(judge: Judge, sprites: Sprites, shown: int = SHOWN) -> float:
    """Where the logarithm of the probability of what was drawn is largest."""
    things = list(islice(renders(set(judge.concepts), shown, SEED - 2), shown))
    names = answers(judge, things, sprites)
    right = torch.tensor([judge.concepts.index(thing.concept) for _, thing in things])
    losses = [F.cross_entropy(names.cooled(float(t)).concept, right) for t in TEMPERATURES]
    return float(TEMPERATURES[torch.stack(losses).argmin()])


def mean(judges: Sequence[Judge]) -> Judge:
    """The mean of their weights; they must come from one run (Wortsman et al. 2022, "Model soups")."""
    states = [judge.network.state_dict() for judge in judges]
    average = {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
        for name, value in states[0].items()
    }
    network = Oracle(judges[0].network.config)
    network.load_state_dict(average)
    return Judge(network, judges[0].concepts)


@dataclass(frozen=True)
class Bundle:
    """Write an oracle as it comes with Marmo."""

    oracles: tyro.conf.Positional[tuple[Path, ...]]
    """Files that `recipes.oracle` wrote; of several the mean of their weights is taken"""
    output: Path
    """Where the small one goes"""

    def run(self) -> None:
        """Narrow, calibrate, round, write, say how large it is."""
        judge = narrowed(mean([load_oracle(path) for path in self.oracles]), concept_names())
        temperature = fitting_temperature(judge, atlas(torch.device("cpu")))
        write_oracle(self.output, judge.network, judge.concepts, temperature)
        whole = open_file(self.output)
        write(self.output, cast(quantized(whole), torch.float16), whole.metadata)  # what is not in 8 bits is in 16
        size = f"{self.output.stat().st_size:,} bytes"
        print(f"{self.output}  {len(judge.concepts)} concepts, temperature {temperature:.2f}, {size}")


if __name__ == "__main__":
    tyro.cli(Bundle, description=Bundle.__doc__).run()
