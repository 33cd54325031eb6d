"""Inception's names: pytorch-fid's, there and back, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from marmo.models.inception import INCEPTION_2015, INCEPTION_TOY, Inception
from marmo.nn.blueprint import blueprint
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.export import write_single_file
from marmo.weights.keymap import to_theirs
from marmo.weights.maps.inception import config_from_pytorch_fid, pytorch_fid
from marmo.weights.store import Tensors, from_state, write


def theirs_of(config=INCEPTION_TOY) -> Tensors:
    torch.manual_seed(0)
    return to_theirs(pytorch_fid(config), from_state(Inception(config).state_dict()))


def test_the_file_opens_and_is_written_back_to_the_byte(tmp_path: Path) -> None:
    path, again = tmp_path / "inception.safetensors", tmp_path / "again.safetensors"
    write(path, theirs_of())
    opened = open_checkpoint(path)
    assert (opened.layout, opened.parts["inception"].config) == ("inception file", INCEPTION_TOY)
    write_single_file(opened, again)
    assert again.read_bytes() == path.read_bytes()


def test_counted_batches_are_passed_over(tmp_path: Path) -> None:
    """torch's batch norms save them; whether the published file has them depends on who wrote it."""
    theirs = theirs_of()
    state = {name: theirs.read(name) for name in theirs.infos}
    norms = {name.removesuffix("running_var") for name in state if name.endswith("running_var")}
    write(
        tmp_path / "a.safetensors",
        from_state(state | {f"{norm}num_batches_tracked": torch.tensor(7) for norm in norms}),
    )
    assert len(norms) == 94
    assert open_checkpoint(tmp_path / "a.safetensors").parts["inception"].tensors.infos.keys() == set(
        Inception(INCEPTION_TOY).state_dict()
    )


@pytest.mark.parametrize("config", [INCEPTION_2015, INCEPTION_TOY, replace(INCEPTION_TOY, unit=3)])
def test_the_config_is_found_from_shapes(config) -> None:
    with blueprint():
        ours = from_state(Inception(config).state_dict())
    assert config_from_pytorch_fid(to_theirs(pytorch_fid(config), ours).infos) == config


def test_torchvisions_own_weights_are_refused() -> None:
    """They have the same names and 1000 classes; distances in their features are comparable with nobody's."""
    with blueprint():
        ours = from_state(Inception(replace(INCEPTION_2015, num_classes=1000)).state_dict())
    with pytest.raises(ValueError, match="has 1000 classes; the one that FID is measured with has 1008"):
        config_from_pytorch_fid(to_theirs(pytorch_fid(INCEPTION_2015), ours).infos)
