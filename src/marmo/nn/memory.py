"""How much memory there is, and how it looks when there is none left (Linux; elsewhere, what torch and Python know)."""

import os
import resource
from pathlib import Path

import torch

PROCESS = Path("/proc/self/status")
MACHINE = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60

_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "could not create a memory",
    "ALLOC_FAILED",
)
"""What torch's own RuntimeError says when an allocator or a library below it finds no memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory has run out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def room(device: torch.device) -> int:
    """Bytes that this process may hold on a device in all, what it holds already included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    return main_memory()


def main_memory() -> int:
    """The same for the machine's memory: what is free there, in the control group, and under the process's limits."""
    own = _kilobytes(PROCESS)
    held = own.get("RssAnon", 0)
    machine = _kilobytes(MACHINE).get("MemAvailable")
    rooms = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if machine is None else machine + held]
    most, now = _number(GROUP / "memory.max"), _number(GROUP / "memory.current")
    if most is not None and now is not None:
        rooms.append(most - now + held)
    for limit, field in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft, _ = resource.getrlimit(limit)
        if 0 <= soft < _NO_LIMIT:
            # What is mapped and not touched counts as well; of files, what is read does not, or is not asked for again.
            rooms.append(soft - own.get(field, 0) + held + own.get("RssFile", 0))
    return max(0, min(rooms))


def _kilobytes(path: Path) -> dict[str, int]:
    """The lines `name: number kB` of a file of /proc, in bytes; nothing where there is no such file."""
    if not path.exists():
        return {}
    words = [line.split() for line in path.read_text().splitlines()]
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in words if line[2:] == ["kB"]}


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None
