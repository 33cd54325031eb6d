"""Files of models that Marmo does not paint with, named for what they are, so that nobody wonders why."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from marmo.weights.store import PICKLE, open_file

PICKLES = {".ckpt", ".pt", ".pth", ".bin"}

Names = Sequence[str]


def stranger(path: Path) -> tuple[str, str] | None:
    """What it is, and why it cannot be used; none if there is nothing better to say than the error of opening it."""
    if path.is_dir():
        return None
    suffix = path.suffix.lower()
    if suffix == ".gguf":
        return "GGUF", "GGUF files are not read; look for the same model as .safetensors"
    try:
        names = list(open_file(path).infos)
    except ValueError as error:
        return ("pickle", f"it is {PICKLE}") if suffix in PICKLES and PICKLE in str(error) else None
    kind = next((kind for kind, looks in KINDS.items() if looks(names)), None)
    return (
        None
        if kind is None
        else (kind, REASONS.get(kind, f"it is a model of another kind, {kind}, which Marmo does not know"))
    )


def _has(*marks: str) -> Callable[[Names], bool]:
    """Whether some name holds one of the marks."""
    return lambda names: any(mark in name for name in names for mark in marks)


def _begins(*marks: str) -> Callable[[Names], bool]:
    return lambda names: any(name.startswith(marks) for name in names)


def _exactly(*sets: Iterable[str]) -> Callable[[Names], bool]:
    return lambda names: set(names) in [set(known) for known in sets]


KINDS: Mapping[str, Callable[[Names], bool]] = {
    "LoRA": _has(
        ".lora_up.", ".lora_down.", ".lora_A.", ".lora_B.", ".hada_w1_a", ".lokr_w1", ".oft_blocks", ".lora.up."
    ),
    "embedding": _exactly(["emb_params"], ["clip_l", "clip_g"], ["clip_g", "clip_l", "emb_params"]),
    "ControlNet": _has(
        "control_model.", "controlnet_cond_embedding.", "controlnet_down_blocks.", "zero_convs.", "lora_controlnet"
    ),
    "IP-Adapter": _begins("image_proj.", "ip_adapter."),
    "T2I-Adapter": _has("adapter.body.", "body.0.block1.weight", "adapter.conv_in."),
    "Flux": _has("double_blocks.0.", "single_transformer_blocks.0."),
    "Stable Diffusion 3": _has("joint_blocks.0.", "context_embedder.weight"),
    "Stable Cascade": _has("clip_txt_pooled_mapper.", "down_blocks.0.0.channelwise."),
    "T5": _has("encoder.block.0.layer.0.SelfAttention."),
    "upscaler": _has("model.1.sub.0.", "RRDB_trunk.0.", "body.0.rdb1.conv1.", "layers.0.residual_group.blocks.0."),
    "motion module": _has(".motion_modules."),
}
"""What it is -> whether these names look like it; the first that does."""

_ADAPTER = "adapters are not read yet"
REASONS: Mapping[str, str] = {
    "LoRA": f"it is a LoRA, which changes another model; {_ADAPTER}",
    "embedding": f"it is an embedding, a word for another model; {_ADAPTER}",
    "ControlNet": f"it is a ControlNet, which steers another model; {_ADAPTER}",
    "IP-Adapter": f"it steers another model by a picture; {_ADAPTER}",
    "T2I-Adapter": f"it steers another model by a picture; {_ADAPTER}",
    "upscaler": "it is an upscaler, which makes pictures larger and paints none",
    "T5": "it is T5, a text encoder of models that Marmo does not know",
}
