"""Which device and which numbers are chosen, and what is refused."""

import pytest
import torch

from marmo.nn import device
from marmo.nn.device import choose_device, choose_dtype

CPU = torch.device("cpu")


def test_the_best_device_there_is(monkeypatch: pytest.MonkeyPatch):
    for cuda, mps, best in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert choose_device(None) == torch.device(best)


def test_a_device_by_name():
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["", "gpu", "cuda:99", "cpu:-1", "meta", "xla", "privateuseone", "hpu", "x" * 50])
def test_a_device_that_is_not_there(name: str):
    with pytest.raises(ValueError, match=r"cannot be used here .*; this machine's best is") as error:
        choose_device(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "float64", "half", "fp16", "Float32", "int8"])
def test_a_dtype_that_does_not_exist(name: str):
    with pytest.raises(ValueError, match="does not exist; the dtypes are float32, bfloat16, float16"):
        choose_dtype(name, CPU)


@pytest.mark.parametrize("has", [True, False])
def test_dtypes_of_the_processor(monkeypatch: pytest.MonkeyPatch, has: bool):
    """Half precision without instructions for it would be a hundred times slower than float32."""
    monkeypatch.setattr(device, "cpu_has_bfloat16", lambda: has)
    assert choose_dtype("float32", CPU) == torch.float32
    assert choose_dtype(None, CPU) == (torch.bfloat16 if has else torch.float32)
    with pytest.raises(ValueError, match="float16 has no arithmetic on the CPU; use float32"):
        choose_dtype("float16", CPU)
    if has:
        assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    else:
        with pytest.raises(ValueError, match=r"this processor has no bfloat16 arithmetic .*; use float32"):
            choose_dtype("bfloat16", CPU)


def test_dtypes_of_other_devices(monkeypatch: pytest.MonkeyPatch):
    cuda, mps = torch.device("cuda"), torch.device("mps")
    for has, best in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        assert choose_dtype(None, cuda) == best
    assert choose_dtype(None, mps) == torch.float32
    assert choose_dtype("float16", cuda) == choose_dtype("float16", mps) == torch.float16


def test_the_processor_is_asked_itself(monkeypatch: pytest.MonkeyPatch):
    for capabilities, has in (
        ({}, False),
        ({"amx_bf16": True}, True),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda said=capabilities: said, raising=False)
        assert device.cpu_has_bfloat16() == has
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not device.cpu_has_bfloat16()  # torch 2.10 does not tell
