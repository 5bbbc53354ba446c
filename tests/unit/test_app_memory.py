"""A process that stays gives back what a large request took."""

import subprocess
import sys

import pytest

CODE = """
import re, sys
from pathlib import Path
from sae_lens_med.app.memory import keep_little

def resident():
    return int(re.findall(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[0]) / 1024

done = keep_little() if sys.argv[1] == "little" else None
before = resident()
for _ in range(3):  # the first one that is freed tells the library what is large
    held = [b"x" * (20 << 20) for _ in range(3)]
    del held
print(done, resident() - before)
"""


def test_large_blocks_go_back_when_they_are_freed() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("only glibc is told how to keep memory")
    little, usual = (
        subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True).stdout.split()
        for how in ("little", "usual")
    )
    if little[0] != "True":
        pytest.skip("this C library has no mallopt")
    assert float(little[1]) < 5
    assert float(usual[1]) > 15, "the library gives back large blocks by itself: keep_little is not needed"
