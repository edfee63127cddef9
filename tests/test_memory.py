"""Memory is linear: the benchmark of it, at sizes whose matrices take 3.4 and 1.5 GiB."""

import subprocess
import sys
from pathlib import Path

import pytest

from duckkeops.engines import cpu

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "memory.py"


pytestmark = pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")


def assert_below(limit: int, *arguments: str) -> None:
    command = [sys.executable, str(SCRIPT), *arguments, "--limit", str(limit)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr


def test_reductions_add_little_memory() -> None:
    assert_below(200, "--size", "30000")


def test_gradients_add_little_memory() -> None:
    pytest.importorskip("torch")
    assert_below(300, "--torch", "--size", "20000")
