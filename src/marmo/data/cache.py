"""What an encoder made of a picture or a text, kept on disk so that it is made once.

An entry is found by everything that it was made from, said by name: the picture's hash, the encoder's, the size, the
crop.  Nothing is ever out of date, since another origin is another entry.  Of a first stage keep the moments and draw
the latents anew each time.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from marmo.weights.store import from_state, open_file, write

Origin = Mapping[str, str | int | float]
"""What an entry was made from, such as {"picture": content_hash(data), "encoder": network_hash(vae), "width": 512}."""


class TensorCache:
    """A folder of small safetensors files; processes and threads may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, origin: Origin, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The entry of this origin; made, and kept, where it is missing or damaged."""
        key = json.dumps(dict(origin), sort_keys=True)
        path = self.path(origin)
        if path.exists():
            try:
                tensors = open_file(path)
                if tensors.metadata.get("origin") == key:
                    return {name: tensors.read(name).clone() for name in tensors.infos}
            except ValueError:
                pass  # damaged: it is made again
        made = {name: tensor.detach().cpu() for name, tensor in make().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, from_state(made), {"origin": key})
        return made

    def path(self, origin: Origin) -> Path:
        """Where the entry of an origin lies."""
        digest = content_hash(json.dumps(dict(origin), sort_keys=True).encode())
        return self.folder / digest[:2] / f"{digest[2:]}.safetensors"


def content_hash(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def network_hash(module: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and numbers of a network, whatever file it came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
