"""ESRGAN's maps: there and back, the names of the released files, pickles, conversion, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from marmo.cli.main import main
from marmo.models.rrdb import ESRGAN_X4, RRDBConfig
from marmo.models.srvgg import SRVGGConfig
from marmo.weights.checkpoint import open_checkpoint
from marmo.weights.forms import FORMS, Family, NetworkConfig, expected
from marmo.weights.keymap import to_ours, to_theirs
from marmo.weights.maps import rrdb, srvgg
from marmo.weights.store import Tensors, from_state, write
from tests.upscalers import COMPACT, X2, X4, foreign, random_weights, upscaler_file

CASES = [
    (X4, "original"),
    (X2, "original"),
    (replace(X4, fold=4, num_blocks=1), "original"),
    (X4, "numbered"),
    (replace(X4, num_doublings=0), "numbered"),
    (replace(X4, num_doublings=1, num_blocks=3), "numbered"),
    (replace(X4, num_doublings=3), "numbered"),
    (COMPACT, "original"),
    (replace(COMPACT, scale=2, num_convs=1), "original"),
]


def same(left: Tensors, right: Tensors) -> bool:
    return left.infos == right.infos and all(torch.equal(left.read(name), right.read(name)) for name in left.infos)


def state(tensors: Tensors) -> dict[str, torch.Tensor]:
    return {name: tensors.read(name) for name in tensors.infos}


@pytest.mark.parametrize(("config", "family"), CASES)
def test_there_and_back(config: NetworkConfig, family: Family):
    network = "srvgg" if isinstance(config, SRVGGConfig) else "rrdb"
    form = next(form for form in FORMS if (form.network, form.family) == (network, family))
    ours, theirs = random_weights(config), foreign(config, network, family)
    assert form.config is not None and form.config(theirs.infos) == config
    back = to_ours(form.rules(config), theirs, expected(config), network)
    assert same(back, ours)
    assert same(to_theirs(form.rules(config), back), theirs)


def test_the_names_of_real_esrgan():
    """`RRDBNet(num_feat=64, num_block=23)` of BasicSR."""
    infos = foreign(ESRGAN_X4, "rrdb", "original").infos
    ends = ["conv_first", "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    blocks = [f"body.{i}.rdb{j}.conv{k}" for i in range(23) for j in (1, 2, 3) for k in (1, 2, 3, 4, 5)]
    assert infos.keys() == {f"{name}.{leaf}" for name in ends + blocks for leaf in ("weight", "bias")}
    assert infos["body.22.rdb3.conv5.weight"].shape == (64, 192, 3, 3)


def test_the_names_of_the_first_programs():
    infos = foreign(ESRGAN_X4, "rrdb", "numbered").infos
    ends = ["model.0", "model.1.sub.23", "model.3", "model.6", "model.8", "model.10"]
    blocks = [f"model.1.sub.{i}.RDB{j}.conv{k}.0" for i in range(23) for j in (1, 2, 3) for k in (1, 2, 3, 4, 5)]
    assert infos.keys() == {f"{name}.{leaf}" for name in ends + blocks for leaf in ("weight", "bias")}


def test_the_spelling_of_esrgans_own_release(tmp_path: Path):
    spelled = {"body": "RRDB_trunk", "conv_body": "trunk_conv", "conv_hr": "HRconv", "rdb": "RDB", "conv_up": "upconv"}
    theirs: dict[str, torch.Tensor] = {}
    for name, tensor in state(foreign(X4, "rrdb", "original")).items():
        stem, *rest = name.split(".")
        number = stem[-1] if stem[-1].isdigit() else ""
        stem = spelled.get(stem.rstrip("12"), stem.rstrip("12")) + number
        theirs[".".join([stem, *rest]).replace("rdb", "RDB")] = tensor
    assert "RRDB_trunk.1.RDB3.conv5.weight" in theirs and "upconv2.bias" in theirs
    write(tmp_path / "release.safetensors", from_state(theirs))
    part = open_checkpoint(tmp_path / "release.safetensors").parts["rrdb"]
    assert part.config == X4 and same(part.tensors, random_weights(X4))


@pytest.mark.long
@pytest.mark.parametrize("wrapper", ["params_ema", "params", None])
def test_pickles_as_they_are_released(wrapper: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    weights = state(foreign(X2, "rrdb", "original"))
    pickle, safe = tmp_path / "RealESRGAN_x2plus.pth", tmp_path / "x2.safetensors"
    torch.save({wrapper: weights} if wrapper else weights, pickle)
    with pytest.raises(SystemExit, match="0"):
        main(["convert", str(pickle), str(safe)])
    part = open_checkpoint(safe).parts["rrdb"]
    assert part.config == X2 and same(part.tensors, random_weights(X2))
    with pytest.raises(SystemExit, match="0"):
        main(["inspect", str(safe)])
    assert f"rrdb {sum(t.numel() for t in weights.values()):>22,} parameters" in capsys.readouterr().out


@pytest.mark.long
def test_conversion_keeps_the_layout(tmp_path: Path):
    """What other programs know how far to enlarge from stays there."""
    source = upscaler_file(tmp_path / "old.safetensors", replace(X4, num_doublings=1))
    with pytest.raises(SystemExit, match="0"):
        main(["convert", str(source), str(tmp_path / "new.safetensors")])
    assert (tmp_path / "new.safetensors").read_bytes() == source.read_bytes()


def test_what_no_network_has_is_refused():
    with pytest.raises(ValueError, match="cannot read 4 channels"):
        rrdb.config_from_real(foreign(X4, "rrdb", "original").infos | {"conv_first.weight": info(8, 4, 3, 3)})
    with pytest.raises(ValueError, match=r"the last is model\.11"):
        rrdb.config_from_numbered(foreign(X4, "rrdb", "numbered").infos | {"model.11.weight": info(3, 8, 3, 3)})
    with pytest.raises(ValueError, match=r"9 parts and 47 channels"):
        srvgg.config_from_real(foreign(COMPACT, "srvgg", "original").infos | {"body.8.weight": info(47, 8, 3, 3)})


def info(*shape: int):
    return from_state({"x": torch.zeros(shape)}).infos["x"]


def test_strange_tensors_are_named(tmp_path: Path):
    weights = state(foreign(X4, "rrdb", "original")) | {"body.0.rdb1.conv1x1.weight": torch.zeros(4, 8, 1, 1)}
    write(tmp_path / "plus.safetensors", from_state(weights))
    with pytest.raises(ValueError, match=r"1 left over \(body\.0\.rdb1\.conv1x1\.weight\)"):
        open_checkpoint(tmp_path / "plus.safetensors")


def test_the_scale_of_a_config():
    assert [RRDBConfig(num_doublings=n).scale for n in range(4)] == [1, 2, 4, 8]
