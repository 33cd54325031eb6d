"""Real-ESRGAN's small network elsewhere: one list, in which convolutions and their activations take turns."""

import math

from marmo.models.srvgg import SRVGGConfig
from marmo.weights.keymap import Rename, Rule
from marmo.weights.maps.config import Infos, count, size


def real(config: SRVGGConfig) -> list[Rule]:
    """The names of `SRVGGNetCompact` in xinntao/Real-ESRGAN, whose activations have a slope per channel."""
    return [
        *(
            Rename(f"body.{2 * index + part}", f"{ours}.{index}")
            for index in range(config.num_convs + 1)
            for part, ours in enumerate(("convs", "bends"))
        ),
        Rename(f"body.{2 * config.num_convs + 2}", "conv_out"),
    ]


def config_from_real(infos: Infos) -> SRVGGConfig:
    """The config of a network under these names."""
    parts = count(infos, "body.")
    outputs = size(infos, f"body.{parts - 1}.weight", 0)
    scale = math.isqrt(outputs // 3)
    if parts % 2 == 0 or parts < 5 or outputs != 3 * scale**2:
        raise ValueError(f"the tensors tell no network of Real-ESRGAN: {parts} parts and {outputs} channels at its end")
    return SRVGGConfig(scale=scale, channels=size(infos, "body.0.weight", 0), num_convs=(parts - 3) // 2)
