"""Where the parts of a model are while they are not needed: on the device, in main memory, or in their files.

Painting needs the text encoders, then the U-Net, then the autoencoder, one after the other, so a machine that has no
room for all of them can have room for each.  `full` and `offload` paint the same to the last bit; `low` asks the U-Net
row by row, which rounds otherwise; `least` has small tiles, which are not quite the whole: see `docs/memory.md`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from marmo.nn.attention import bound_scores
from marmo.nn.engine import SCORE_BYTES
from marmo.pipelines.modes import Mode
from marmo.weights.keymap import fill
from marmo.weights.store import Tensors


@dataclass(frozen=True, kw_only=True)
class Thrift:
    """How a mode saves memory."""

    idle: Literal["device", "host", "file"]
    """Where a part waits that is not needed."""
    latents_per_call: int
    """More rows than this many latents are asked in several calls of the U-Net; a row by itself is always one."""
    score_bytes: int
    """Attention's score matrix takes no more."""
    small_tiles: bool
    """Whether the autoencoder works in small tiles, whatever the size."""


FULL = Thrift(idle="device", latents_per_call=16 * 64 * 64, score_bytes=SCORE_BYTES, small_tiles=False)
MODES: Mapping[Mode, Thrift] = {
    "full": FULL,
    "offload": Thrift(idle="host", latents_per_call=16 * 64 * 64, score_bytes=SCORE_BYTES, small_tiles=False),
    "low": Thrift(idle="file", latents_per_call=1, score_bytes=64 << 20, small_tiles=False),
    "least": Thrift(idle="file", latents_per_call=1, score_bytes=64 << 20, small_tiles=True),
}


@dataclass(frozen=True, eq=False)
class Part:
    """Networks that are needed together, and their weights in the files."""

    networks: Sequence[nn.Module]
    weights: Sequence[Tensors]
    waiting: list[dict[str, Tensor]] = field(default_factory=list[dict[str, Tensor]])
    """What lies in main memory for the way back."""


class Residence:
    """Brings parts to the device and, where there is no room for all, sends the others away first.

    Models that paint together share one residence.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, mode: Mode = "full") -> None:
        self.device, self.dtype = device, dtype
        self.mode: Mode = mode
        self.thrift = MODES[mode]
        self._here: list[Part] = []

    def settle(self, part: Part) -> None:
        """Read a part's weights as far as they are kept in memory at all."""
        for network in part.networks:
            bound_scores(network, self.thrift.score_bytes)
        if self.thrift.idle == "device":
            self._read(part, self.device)
            self._here.append(part)
        elif self.thrift.idle == "host":
            self._read(part, torch.device("cpu"))
            part.waiting[:] = [dict(network.state_dict()) for network in part.networks]

    def bring(self, part: Part) -> None:
        """Have a part on the device."""
        if part in self._here:
            return
        if self.thrift.idle != "device":
            self.clear()
        if self.thrift.idle == "host":
            for network in part.networks:
                network.to(self.device)
        else:
            self._read(part, self.device)
        self._here.append(part)

    def clear(self) -> None:
        """Send every part away; `bring` brings it back."""
        while self._here:  # one by one: what follows may fail
            self._send_away(self._here.pop())

    def _send_away(self, part: Part) -> None:
        if self.thrift.idle == "host":
            for network, state in zip(part.networks, part.waiting, strict=True):
                network.load_state_dict(state, assign=True)
                network.requires_grad_(False)
        else:
            for network in part.networks:
                network.to("meta")

    def _read(self, part: Part, device: torch.device) -> None:
        for network, weights in zip(part.networks, part.weights, strict=True):
            fill(network, weights, self.dtype, device)
