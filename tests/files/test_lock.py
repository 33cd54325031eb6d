"""A folder is held by one process at a time, and by none when that is gone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from marmo.files.lock import held

HOLD = "import sys, time; from pathlib import Path; from marmo.files.lock import held\n" \
       "with held(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"  # fmt: skip


def test_a_second_holder_is_refused(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(ValueError, match=r"another process is at work in .*; wait"), held(tmp_path):
        pass
    with held(tmp_path):
        pass


def test_the_death_of_a_holder_sets_free(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another process"), held(tmp_path):
            pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with held(tmp_path):
        pass
