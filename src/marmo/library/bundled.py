"""The models that come with Marmo, found without a look at any other, and without torch.

pretrained/models/
  SHA256SUMS        of every file of every model, as `sha256sum --check` reads it
  NAME/             a diffusers folder, its weights in 8 bits
"""

from collections.abc import Mapping
from pathlib import Path

MODELS = Path(__file__).parents[1] / "pretrained" / "models"
SUMS = "SHA256SUMS"

NO_MODEL = (
    "no model comes with this copy of Marmo; give --model a checkpoint file (.safetensors) or a diffusers folder, "
    "name a default in the settings, or train one: marmo train latent --help"
)


def bundled_models() -> list[Path]:
    """Their folders, by name; the first is the default.  One that begins with a dot is being made."""
    folders = sorted(index.parent for index in MODELS.glob("*/model_index.json"))
    return [folder for folder in folders if not folder.name.startswith(".")]


def bundled_model() -> Path:
    """The one that paints where nobody names another; `ValueError` where there is none."""
    found = bundled_models()
    if not found:
        raise ValueError(NO_MODEL)
    return found[0]


def with_weights(weights: Mapping[str, str]) -> Path | None:
    """The bundled model whose files have these hashes, by its sums; none if it is another model.

    Args:
        weights: file from the model's folder down -> sha256.
    """
    sums, wanted = read_sums(MODELS), weights.items()
    return next((path for path in bundled_models() if wanted and wanted <= _below(sums, path.name).items()), None)


def read_sums(folder: Path) -> dict[str, str]:
    """File from this folder down -> sha256."""
    file = folder / SUMS
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def write_sums(folder: Path, sums: Mapping[str, str]) -> None:
    """The file that `read_sums` reads."""
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    (folder / SUMS).write_text(text, encoding="utf-8", newline="\n")


def _below(sums: Mapping[str, str], name: str) -> dict[str, str]:
    """The sums of one model, its files named from its own folder down."""
    start = f"{name}/"
    return {file.removeprefix(start): digest for file, digest in sums.items() if file.startswith(start)}
