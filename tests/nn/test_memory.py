"""How much memory there is, under the limits that a system knows, and the words of those that find none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from marmo.nn import memory
from marmo.nn.memory import is_out_of_memory, main_memory, room

LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux alone has /proc")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 64.00 GiB."),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("could not create a memory object"),
    ],
)
def test_words_for_no_memory(error: Exception):
    assert is_out_of_memory(error)


def test_a_real_lack_of_memory_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_other_faults_are_not():
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_there_is_no_more_than_the_machine_has():
    there = room(torch.device("cpu"))
    assert 0 < there <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@LINUX
@pytest.mark.long
@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_limit_on_the_process_counts(limit: str):
    code = f"""
import resource
from marmo.nn.memory import main_memory
import torch
resource.setrlimit(resource.{limit}, (8 << 30, 8 << 30))
there = main_memory()
held = torch.ones(1 << 26)
print(there, main_memory())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert 1 << 30 < before < (8 << 30) + (1 << 28)  # the files of the program itself do not count
    assert abs(before - after) < 1 << 27  # what the process holds already is part of its room


@LINUX
def test_a_control_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    whole = main_memory()
    (tmp_path / "memory.current").write_text("1000000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert main_memory() > whole // 2
    (tmp_path / "memory.max").write_text("3000000\n")
    held = memory._kilobytes(memory.PROCESS)["RssAnon"]
    assert abs(main_memory() - held - 2000000) < 1 << 26


def test_without_proc_it_is_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("PROCESS", "MACHINE", "GROUP"):
        monkeypatch.setattr(memory, name, tmp_path / "none")
    assert main_memory() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
