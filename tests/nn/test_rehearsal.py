"""The ledger of a rehearsal against hand arithmetic, and against torch's own counters."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from marmo.models.unet import SD1_TOY, UNet
from marmo.models.vae import KL_F8_TOY, VAE
from marmo.nn.blueprint import blueprint
from marmo.nn.engine import Conv2d, Linear, attend
from marmo.nn.rehearsal import Work, rehearsal


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


def test_what_lives_together_is_counted_once():
    x = meta(1000)  # made before: not counted
    with rehearsal() as ledger:
        y = x + 1  # 4000 bytes
        y = y * 2  # the old y lives until this is done
        del y
        z = x[:10].view(2, 5)  # a view takes nothing
        z = torch.cat([x, x])  # 8000
        z.mul_(2)  # nor does what happens in place
    assert ledger.peak == 8000
    assert ledger.alive == 8000
    del z
    assert ledger.alive == 0


def test_two_results_at_once():
    with rehearsal() as ledger:
        x = meta(500) + meta(500)  # 2000 for the sum, and 2 x 2000 for its terms
        del x
    assert (ledger.peak, ledger.alive) == (6000, 0)


@pytest.mark.parametrize("stride", [1, 2])
def test_work_of_the_three_operations(stride: int):
    with blueprint():
        conv, linear = Conv2d(6, 4, 3, stride=stride, padding=1), Linear(7, 5)
    with rehearsal() as ledger, torch.no_grad():
        conv(meta(2, 6, 8, 8))
        linear(meta(2, 3, 7))
        linear(meta(2, 3, 7))
        attend(meta(2, 3, 10, 4), meta(2, 3, 11, 4), meta(2, 3, 11, 4))
    convolution, product, attention = ledger.calls
    assert convolution == Work("convolution", ((2, 6, 8, 8), (4, 6, 3, 3)), stride)
    assert convolution.flops == 2 * 2 * 4 * (8 // stride) ** 2 * 6 * 9
    assert (product.flops, ledger.calls[product]) == (2 * 2 * 3 * 7 * 5, 2)
    assert attention.flops == 2 * 2 * 3 * 10 * 11 * 4 * 2


@pytest.mark.long  # torch's counter brings in its compiler
@pytest.mark.parametrize("network", [UNet(SD1_TOY), VAE(KL_F8_TOY)], ids=["unet", "vae"])
def test_torch_counts_the_same(network: nn.Module):
    def run() -> None:
        if isinstance(network, UNet):
            network(meta(2, 4, 16, 24), meta(2), network.project(meta(1, 77, 64)))
        else:
            network.decode(meta(1, 4, 16, 24))

    network.to("meta")
    with torch.no_grad(), rehearsal() as ledger:
        run()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    assert sum(work.flops * count for work, count in ledger.calls.items()) == counter.get_total_flops()


def test_the_peak_is_the_worst_moment_of_a_chain():
    layers = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 32, 3), nn.SiLU())
    x = meta(1, 3, 64, 64)
    layers.to("meta")
    with torch.no_grad(), rehearsal() as ledger:
        layers(x)
    first, second = 16 * 64 * 64 * 4, 32 * 62 * 62 * 4
    assert ledger.peak == max(2 * first, first + second, 2 * second)


def test_attention_keeps_no_scores():
    q = meta(1, 8, 4096, 40)
    with rehearsal() as ledger:
        F.scaled_dot_product_attention(q, q, q)
    assert ledger.peak == q.nbytes
