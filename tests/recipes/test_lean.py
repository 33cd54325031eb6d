"""A recipe on drawn pictures needs no pydantic; only users' pictures do, whose records are read with it."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
sys.modules["pydantic"] = None
from marmo.recipes import clip, ddpm
from marmo.data import order, source
print("lean")
"""


@pytest.mark.long
def test_recipes_need_no_pydantic():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "lean", done.stderr
