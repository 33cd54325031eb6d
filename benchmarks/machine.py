"""What a figure was measured on, and how much memory a process has taken (Linux)."""

import os
import platform
from pathlib import Path

import torch


def describe() -> str:
    """Processor, cores, torch."""
    return f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"


def memory(field: str, process: int | str = "self") -> int:
    """A field of /proc/PID/status in bytes: RssAnon, VmHWM (the peak), VmRSS."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/{process}/status has no {field}")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
