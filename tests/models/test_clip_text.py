"""CLIP's text transformer: counts, shapes, what each argument does."""

from dataclasses import fields, replace

import pytest
import torch

from marmo.models.clip_text import (
    VIT_B_32_TEXT,
    VIT_BIGG_14_TEXT,
    VIT_H_14_TEXT,
    VIT_L_14_TEXT,
    VIT_L_14_TEXT_TOY,
    ClipText,
)
from marmo.weights.keymap import shapes

TINY = replace(VIT_L_14_TEXT, width=16, num_layers=3, num_heads=2, vocab_size=50, context_length=7)
IDS = torch.tensor([[48, 3, 5, 49, 49, 49, 49], [48, 7, 9, 11, 49, 0, 0]])


def tiny() -> ClipText:
    torch.manual_seed(0)
    return ClipText(TINY).eval()


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (VIT_L_14_TEXT, 123_060_480),
        (VIT_B_32_TEXT, 63_165_952),
        (VIT_H_14_TEXT, 352_984_064),
        (replace(VIT_H_14_TEXT, num_cut=1), 340_387_840),  # in the folders of Stable Diffusion 2
        (VIT_BIGG_14_TEXT, 694_659_840),
    ],
)
def test_published_parameter_counts(config, count):
    with torch.device("meta"):
        network = ClipText(config)
    assert sum(weight.numel() for weight in network.parameters()) == count
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}


@torch.no_grad()
def test_toy_preset_runs():
    assert ClipText(VIT_L_14_TEXT_TOY)(torch.zeros(2, 77, dtype=torch.int64)).shape == (2, 77, 64)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 4, 7])
def test_shapes(length):
    network = tiny()
    states = network(IDS[:, :length])
    assert states.shape == (2, length, 16)
    assert network.pool(states, IDS[:, :length]).shape == (2, 16)


@torch.no_grad()
def test_a_token_knows_only_what_stands_before_it():
    network, changed = tiny(), IDS.clone()
    changed[:, 4] = 1
    before, after = network(IDS), network(changed)
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert (before[:, 4:] - after[:, 4:]).abs().amax(dim=(0, 2)).min() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("skip", [1, 2, 3])
def test_skip_is_a_shorter_network_with_the_same_norm(skip):
    network = tiny()
    shorter = ClipText(replace(TINY, num_layers=3 + 1 - skip))
    shorter.load_state_dict({name: weight for name, weight in network.state_dict().items() if name in shapes(shorter)})
    assert torch.equal(network(IDS, skip), shorter(IDS))


@pytest.mark.parametrize("skip", [-1, 0, 4])
def test_a_layer_that_does_not_exist_is_refused(skip):
    with pytest.raises(ValueError, match=rf"clip skip {skip} .* choose 1 \(the last that is there\) to 3 "):
        tiny()(IDS, skip)


@torch.no_grad()
def test_a_tower_without_its_last_layer_counts_as_if_it_had_it():
    whole, cut = tiny(), ClipText(replace(TINY, num_cut=1))
    cut.load_state_dict({name: weight for name, weight in whole.state_dict().items() if name in shapes(cut)})
    assert torch.equal(whole(IDS, 2), cut(IDS, 2))
    with pytest.raises(ValueError, match=r"clip skip 1 .* choose 2 \(the last that is there\) to 3 "):
        cut(IDS, 1)


@torch.no_grad()
@pytest.mark.parametrize("skip", [1, 2])
def test_the_embedding_comes_from_the_last_layer_whichever_is_read(skip):
    torch.manual_seed(0)
    network = ClipText(replace(TINY, embed_width=8)).eval()
    embedded = network.embed(network.hidden(IDS, skip), IDS, skip)
    assert network.proj is not None
    assert torch.equal(embedded, network.proj(network.pool(network(IDS), IDS)))


@pytest.mark.parametrize("shape", [(1, 8), (7,), (1, 1, 7)])
def test_ids_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="at most 7 tokens"):
        tiny()(torch.zeros(shape, dtype=torch.int64))


def test_pool_takes_the_first_of_the_largest_ids():
    states = torch.arange(14.0).reshape(2, 7, 1)
    assert tiny().pool(states, IDS).flatten().tolist() == [3.0, 7 + 4.0]


KNOBS = {
    "width": 32,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 60,
    "context_length": 9,
    "activation": "gelu",
    "mlp_ratio": 2,
    "embed_width": 8,
    "num_cut": 1,
}


def test_every_field_has_a_knob_test():
    assert set(KNOBS) == {field.name for field in fields(TINY)}


@torch.no_grad()
@pytest.mark.parametrize("name", KNOBS)
def test_every_knob_changes_something(name):
    network, changed = tiny(), ClipText(replace(TINY, **{name: KNOBS[name]}))
    if shapes(changed) == shapes(network):
        changed.load_state_dict(network.state_dict())
        assert not torch.allclose(network(IDS), changed(IDS), atol=1e-4)
