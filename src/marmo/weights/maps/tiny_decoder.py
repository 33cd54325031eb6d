"""The tiny decoder elsewhere: TAESD's own file (`taesd_decoder.safetensors`) and diffusers' `AutoencoderTiny`.

Both are one `nn.Sequential` with numbered children.  TAESD's begins with the clamp (taesd.py in madebyollin/taesd),
diffusers' with the convolution behind it.
"""

from collections.abc import Mapping

from marmo.models.tiny_decoder import TinyDecoderConfig
from marmo.weights.keymap import Drop, Rename, Rule, renames
from marmo.weights.maps.config import MOST_BLOCKS, Infos, settle, size

_BLOCK = {"conv.0": "conv1", "conv.2": "conv2", "conv.4": "conv3"}
_DIFFUSERS = "decoder.layers."

# Our options as diffusers names them, with the values that AutoencoderTiny takes where a config.json has none.
_EXPRESSED: Mapping[str, object] = {
    "latent_channels": 4,
    "decoder_block_out_channels": (64, 64, 64, 64),
    "num_decoder_blocks": (3, 3, 3, 1),
}
_FIXED: Mapping[str, object] = {
    "_class_name": "AutoencoderTiny",
    "act_fn": "relu",
    "out_channels": 3,
    "scaling_factor": 1.0,
    "shift_factor": 0.0,
    "upsample_fn": "nearest",
    "upsampling_scaling_factor": 2,
}
_HARMLESS: Mapping[str, str] = {
    "block_out_channels": "a copy of decoder_block_out_channels",
    "encoder_block_out_channels": "about the encoder",
    "force_upcast": "about precision",
    "in_channels": "about the encoder",
    "latent_magnitude": "acts only where latents are stored as bytes",
    "latent_shift": "acts only where latents are stored as bytes",
    "num_encoder_blocks": "about the encoder",
}


def taesd(config: TinyDecoderConfig) -> list[Rule]:
    """TAESD's own names."""
    return _layers(config, "", 1)


def diffusers(config: TinyDecoderConfig) -> list[Rule]:
    """The names of diffusers' `AutoencoderTiny`."""
    return [*_layers(config, _DIFFUSERS, 0), Drop("encoder", "previews only decode")]


def config_from_taesd(infos: Infos) -> TinyDecoderConfig:
    """The config of a decoder under TAESD's own names."""
    blocks = sum(name.endswith(".conv.0.weight") for name in infos)
    doublings = sum(name.endswith(".weight") and name.removesuffix("weight") + "bias" not in infos for name in infos)
    if not 0 < doublings < blocks <= 4 * MOST_BLOCKS:
        raise ValueError(f"TAESD's decoder cannot have {blocks} blocks and {doublings} convolutions without bias")
    return TinyDecoderConfig(
        latent_channels=size(infos, "1.weight", 1),
        channels=size(infos, "1.weight", 0),
        num_upsamples=doublings,
        num_blocks=(blocks - 1) // doublings,
    )


def config_from_json(obj: Mapping[str, object]) -> TinyDecoderConfig:
    """The config in an AutoencoderTiny's `config.json`; `ValueError` names every option that `TinyDecoder` lacks."""
    options = settle(obj, _EXPRESSED, _FIXED, _HARMLESS)
    *blocks, last = options.wholes("num_decoder_blocks", MOST_BLOCKS)
    channels = options.wholes("decoder_block_out_channels")
    if len(set(blocks)) != 1 or last != 1:
        raise ValueError(f"num_decoder_blocks in the config.json is {[*blocks, last]}; it must be like [3, 3, 3, 1]")
    if len(set(channels)) != 1 or len(channels) != len(blocks) + 1:
        raise ValueError(f"decoder_block_out_channels in the config.json must be {len(blocks) + 1} times one number")
    return TinyDecoderConfig(
        latent_channels=options.whole("latent_channels"),
        channels=channels[0],
        num_upsamples=len(blocks),
        num_blocks=blocks[0],
    )


def _layers(config: TinyDecoderConfig, theirs: str, conv_in: int) -> list[Rule]:
    step = config.num_blocks + 2  # the blocks of a level, a doubling without weights, a convolution
    first = conv_in + 2  # a ReLU stands between
    last = first + config.num_upsamples * step
    levels = [(f"up.{level}", first + level * step) for level in range(config.num_upsamples)]
    return [
        Rename(f"{theirs}{conv_in}", "conv_in"),
        *(
            rule
            for ours, start in levels
            for block in range(config.num_blocks)
            for rule in renames(f"{theirs}{start + block}", f"{ours}.blocks.{block}", _BLOCK)
        ),
        *(Rename(f"{theirs}{start + step - 1}", f"{ours}.conv") for ours, start in levels),
        *renames(f"{theirs}{last}", "last", _BLOCK),
        Rename(f"{theirs}{last + 1}", "conv_out"),
    ]
