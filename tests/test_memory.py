"""Memory is linear: the benchmark of it, at a size whose matrix takes 3.4 GiB."""

import subprocess
import sys
from pathlib import Path

import pytest

from duckkeops.engines import cpu

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "memory.py"


@pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")
def test_reductions_add_little_memory() -> None:
    command = [sys.executable, str(SCRIPT), "--size", "30000", "--limit", "200"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
