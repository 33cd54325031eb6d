"""What a single file says of its training: markers, metadata, tables of noise, and one small tensor."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from marmo.diffusion.noise import DDPM, STABLE_DIFFUSION, NoiseTable
from marmo.models.unet import SD1, SD2, SD2_INPAINT, SDXL, UNetConfig
from marmo.weights import markers
from marmo.weights.maps.scheduler import betas_from_json, target_from_json
from marmo.weights.store import Tensors, from_state

BIAS = "up.3.stages.2.transformer.blocks.0.norm1.bias"
V, EPS, ZERO = {"prediction_type": "v_prediction"}, {"prediction_type": "epsilon"}, {"rescale_betas_zero_snr": True}


def told(
    state: dict[str, Tensor] | None = None,
    metadata: dict[str, str] | None = None,
    unet: UNetConfig = SDXL,
    spread: float = 0.0,
) -> dict[str, object]:
    bias = spread * torch.randn(320, generator=torch.Generator().manual_seed(0))
    file = replace(from_state(state or {}), metadata=metadata or {})
    return markers.told(file, unet, from_state({BIAS: bias}))


def test_a_file_without_marks_says_nothing():
    assert told() == {}
    assert (target_from_json({}), betas_from_json({})) == ("eps", STABLE_DIFFUSION)


def test_empty_tensors_mark():
    assert told({"v_pred": torch.empty(0)}) == V
    assert told({"v_pred": torch.empty(0), "ztsnr": torch.empty(0)}) == V | ZERO


@pytest.mark.parametrize(("word", "meaning"), [("v", V), ("epsilon", EPS), ("V", V), ("", {}), ("nonsense", {})])
def test_the_specification_in_the_metadata(word: str, meaning: dict[str, str]):
    assert told(metadata={"modelspec.prediction_type": word}) == meaning


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["alphas_cumprod", "betas"])
def test_the_usual_table_says_nothing(name: str, dtype: torch.dtype):
    table = STABLE_DIFFUSION.alphas() if name == "alphas_cumprod" else STABLE_DIFFUSION.values()
    if name == "alphas_cumprod" or dtype != torch.bfloat16:  # rounding adds up in a product
        assert told({name: table.to(dtype)}) == {}


@pytest.mark.parametrize("last", [0.0, 4.8973451890853435e-08, 2**-24])
def test_a_table_that_ends_in_pure_noise(last: float):
    """As it is, as ComfyUI caps it, as diffusers does."""
    alphas = replace(STABLE_DIFFUSION, zero_snr=True).alphas()
    alphas[-1] = last
    assert told({"v_pred": torch.empty(0), "alphas_cumprod": alphas.float()}) == V | ZERO


def test_another_table_is_used_as_it_is():
    found = told({"alphas_cumprod": DDPM.alphas().float()})
    betas = betas_from_json(found)
    assert betas.kind == "given" and betas.num_levels == 1000
    difference = NoiseTable(betas).sigmas / NoiseTable(DDPM).sigmas - 1
    assert difference.abs().max() < 1e-3


@pytest.mark.parametrize(
    "table",
    [
        torch.zeros(1000),
        torch.ones(2),
        torch.empty(0),
        torch.tensor(0.5),
        torch.linspace(0.1, 0.9, 10),
        torch.zeros(3, 3),
    ],
)
def test_a_table_that_is_none_says_nothing(table: Tensor):
    assert told({"alphas_cumprod": table}) == {}


def test_stable_diffusion_2_is_told_by_the_spread_of_a_bias():
    assert told(unet=SD2, spread=0.08) == {}
    assert told(unet=SD2, spread=0.1) == V
    for other in (SD1, SD2_INPAINT, SDXL):
        assert told(unet=other, spread=0.1) == {}
    assert told(metadata={"modelspec.prediction_type": "epsilon"}, unet=SD2, spread=0.1) == EPS  # a word counts more


def test_the_bias_is_read_only_where_it_decides():
    unread = Tensors(from_state({BIAS: torch.zeros(320)}).infos, lambda name: pytest.fail(f"{name} was read"))
    markers.told(from_state({}), SDXL, unread)


@pytest.mark.parametrize("wanted", [V, V | ZERO, V | {"trained_betas": [0.1, 0.2, 0.3]}])
def test_marks_are_read_back(wanted: dict[str, object]):
    marks = markers.marks(wanted, {})
    found = told(marks)
    betas = found.pop("trained_betas", [])
    assert found == {name: value for name, value in wanted.items() if name != "trained_betas"}
    assert betas == pytest.approx(wanted.get("trained_betas", []))


def test_what_is_believed_anyway_needs_no_mark():
    assert markers.marks(V | ZERO, V | ZERO) == {}
    assert list(markers.marks(V | ZERO, V)) == ["ztsnr"]
