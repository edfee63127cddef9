"""Kernels under the address and undefined-behaviour sanitizers of gcc: no byte outside of an array,
no shift too far, nothing misaligned.

Here a selection runs. The whole of a file (an hour of one core for these two):

    python tests/test_sanitizers.py tests/test_engines.py tests/test_kernels.py
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GCC = shutil.which("gcc")
# Every reduction in a float and an integer type, every type in one reduction; sizes around a tile;
# top-k with and without ties; folds over features; histograms (test_sizes of both files).
SELECTION = (
    "test_sizes or (test_folds and (float32 or int8 or bool or complex64))"
    " or (test_topk and (float32 or uint8) and 3)"
    " or (test_reductions and (float32 or sum))"
)


def runtime(name: str) -> str:
    """A sanitizer's library, which has to be loaded before all others; "" if gcc has none."""
    if GCC is None:
        return ""
    command = [GCC, f"-print-file-name=lib{name}.so"]
    path = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return path if os.path.isabs(path) else ""


pytestmark = pytest.mark.skipif(
    not (sys.platform == "linux" and runtime("asan") and runtime("ubsan")),
    reason="no gcc with sanitizers",
)


def environment(cache: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "LD_PRELOAD": f"{runtime('asan')} {runtime('ubsan')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps what it has until the end
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "DUCKKEOPS_CC": str(GCC),
        # without optimization every access is in the code, and gcc is done in 0.4 s
        "DUCKKEOPS_CFLAGS": "-O0 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all",
        "DUCKKEOPS_CACHE_DIR": cache,
        "PYTEST_XDIST_AUTO_NUM_WORKERS": "0",
    }


def sanitized(cache: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(str(cache)),
        timeout=1200,
    )


def test_kernels_are_clean(tmp_path: Path) -> None:
    files = [str(ROOT / "tests" / f"test_{name}.py") for name in ("engines", "histograms")]
    tests = [*files, "-k", SELECTION]
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    answer = sanitized(tmp_path, "-m", "pytest", *options, *tests)
    assert answer.returncode == 0, answer.stdout[-5000:] + answer.stderr[-5000:]
    assert int(answer.stdout.split(" passed")[0].split()[-1]) > 100


SHORT = """
import numpy as np
from numpy.lib.stride_tricks import as_strided
from duckkeops import LazyArray, config, launch
class Short:
    "NumPy, but its empty arrays are short of their last entry."
    def __getattr__(self, name):
        return getattr(np, name)
    def empty(self, shape, dtype):
        whole = np.empty(shape, dtype)
        return as_strided(np.empty(whole.size - 1, dtype), shape, whole.strides)
x = np.random.default_rng(0).random((997, 3))
with config(engine="cpu", threads=1):
    d = ((LazyArray(x)[:, None] - LazyArray(x)[None]) ** 2).sum(-1)
    d.max(1)
    print("whole", flush=True)
    launch.np = Short()
    d.max(1)
print("not noticed")
"""


def test_the_sanitizers_watch(tmp_path: Path) -> None:
    answer = sanitized(tmp_path, "-c", SHORT)
    assert answer.stdout == "whole\n" and "heap-buffer-overflow" in answer.stderr
    assert "kernels/pairs.c" in answer.stderr  # the line in the source that wrote there


if __name__ == "__main__":
    options = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *options]
        raise SystemExit(subprocess.run(command, env=environment(folder)).returncode)
