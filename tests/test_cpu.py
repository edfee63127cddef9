"""The compiled engine where things go wrong:
missing compilers, large records.
"""

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from duckkeops import LazyArray
from duckkeops.engines import cpu

pytestmark = pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
import logging, os, sys
if "HIDE_ZIGLANG" in os.environ:
    sys.modules["ziglang"] = None  # as on a machine without the extra cc
logging.basicConfig(level=logging.WARNING)
import numpy as np
from duckkeops import LazyArray, config
rng = np.random.default_rng(0)
x, y = rng.random((50, 3)), rng.random((40, 3))
D = ((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1)
with config(engine=sys.argv[1]):
    assert (D.argmin(1) == ((x[:, None] - y[None]) ** 2).sum(-1).argmin(1)).all()
print("right", "with" if "sympy" in sys.modules else "without", "sympy")
"""


def run(cache: Path, engine: str = "auto", **environment: str) -> subprocess.CompletedProcess:
    """The script in a fresh process, with this cache folder."""
    env = {
        "PYTHONPATH": str(ROOT),
        "PATH": os.environ["PATH"],
        "DUCKKEOPS_CACHE_DIR": str(cache),
        **environment,
    }
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, engine], capture_output=True, text=True, env=env, timeout=120
    )


def pairwise(x: np.ndarray, y: np.ndarray) -> LazyArray:
    return ((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1)


def test_no_compiler(tmp_path: Path) -> None:
    answer = run(tmp_path, PATH=str(tmp_path), HIDE_ZIGLANG="1")
    assert answer.stdout == "right without sympy\n"
    assert answer.stderr.count("WARNING") == 1 and "no working C compiler" in answer.stderr
    assert (
        "CompilerNotFoundError" in run(tmp_path, "cpu", PATH=str(tmp_path), HIDE_ZIGLANG="1").stderr
    )


@pytest.mark.parametrize("command", ["/bin/false", "/no/such/compiler", "gcc -fnonsense", "'open"])
def test_a_compiler_that_does_not_work_is_named_and_passed_over(
    tmp_path: Path, command: str
) -> None:
    answer = run(tmp_path, DUCKKEOPS_CC=command)
    assert answer.stdout.startswith("right"), answer.stderr
    assert f"DUCKKEOPS_CC={command} is not used" in answer.stderr


def test_compilers_that_cannot_link_are_no_compilers(tmp_path: Path) -> None:
    for name in ("gcc", "clang", "cc"):
        path = tmp_path / name
        path.write_text(
            '#!/bin/sh\nif [ "$1" = --version ]; then echo fake; '
            'else echo "cannot find -lm" >&2; exit 1; fi\n'
        )
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
    answer = run(tmp_path / "cache", PATH=str(tmp_path), HIDE_ZIGLANG="1")
    assert answer.stdout.startswith("right") and "cannot find -lm" in answer.stderr


@pytest.mark.parametrize("size", [20, 1100])
def test_parameters_larger_than_a_stack(size: int) -> None:
    rng = np.random.default_rng(0)
    x, y, a = rng.random((3, size)), rng.random((2, size)), rng.random((size, size))
    got = ((LazyArray(x)[:, None] - LazyArray(y)[None]) @ a).max(-1).sum(1)
    assert np.allclose(got, ((x[:, None] - y[None]) @ a).max(-1).sum(1))


def test_large_parameters_that_are_computed() -> None:
    rng = np.random.default_rng(0)
    x, y, a = rng.random((3, 400)), rng.random((2, 400)), rng.random((400, 400))
    lazy = (LazyArray(x)[:, None] - LazyArray(y)[None]) @ np.exp(LazyArray(a, feature_ndim=2))
    assert np.allclose(lazy.sum(-1).sum(1), ((x[:, None] - y[None]) @ np.exp(a)).sum(-1).sum(1))


@pytest.mark.parametrize("k", [64, 65, 300])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_many_neighbours(k: int, dtype: str) -> None:
    rng = np.random.default_rng(0)
    x, y = (
        rng.integers(0, 20, (9, 2)).astype(dtype),
        rng.integers(0, 20, (700, 2)).astype(dtype),
    )  # exact, with ties
    if dtype != "int32":
        y[::50] = np.nan
    dense = ((x[:, None] - y[None]) ** 2).sum(-1)
    lazy = pairwise(x, y)
    assert np.array_equal(
        np.sort(lazy, axis=1)[:, :k], np.sort(dense, axis=1)[:, :k], equal_nan=dtype != "int32"
    )
    assert (
        np.argsort(lazy, axis=1)[:, :k] == np.argsort(dense, axis=1, kind="stable")[:, :k]
    ).all()


def test_lanes_run_over_points_when_batches_alone_are_left() -> None:
    rng = np.random.default_rng(0)
    for b, m, n in ((3, 70, 5), (70, 3, 5), (1, 70, 5)):
        x, y = rng.random((b, m, 2)), rng.random((b, n, 2))
        lazy = (LazyArray(x, batch_ndim=1)[:, :, None] - LazyArray(y, batch_ndim=1)[:, None]) ** 2
        dense = (x[:, :, None] - y[:, None]) ** 2
        assert np.allclose(lazy.sum(-1).sum((1, 2)), dense.sum(-1).sum((1, 2)))
        assert np.allclose(lazy.sum(-1).max((1, 2)), dense.sum(-1).max((1, 2)))
        assert np.allclose(lazy.sum((1, 2)), dense.sum((1, 2)))


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("axis", [-1, -2])
def test_the_inverse_of_a_large_number_is_not_lost(axis: int, batch: bool) -> None:
    """A quotient of float32 is a product with 1/y, once for each y: a subnormal beyond 8.5e37."""
    x = np.array([8.5e37, 1.7e38], np.float32)
    y = np.array([1, 8.6e37, 1.7e38, -3.4e38], np.float32)
    x, y = (
        (x[:, None, None], y[None, :, None]) if axis == -2 else (x[None, :, None], y[:, None, None])
    )
    if batch:
        x, y = np.stack([x, x]), np.stack([y, y])
    got = (LazyArray(x) / LazyArray(y)).sum(-1).max(axis)
    np.testing.assert_allclose(got, (x / y)[..., 0].max(axis), rtol=1e-5)


SHARED = {  # values of several features that the pairs need, and a sum of just them
    "column": lambda x, y: ((x - (e := np.exp(y))) ** 2).sum(-1) * e.sum(-1),
    "row": lambda x, y: (((e := np.exp(x)) - y) ** 2).sum(-1) * e.sum(-1) * e.max(-1),
    "product": lambda x, y: (x * (e := np.exp(y))).sum(-1) * (e**2).sum(-1) * e.argmax(-1),
    "pair": lambda x, y: (e := np.exp(x * y)) * e.sum(-1, keepdims=True),
}


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("features", [1, 3, 9, 70])
def test_kept_values_and_their_sum(features: int, axis: int, name: str) -> None:
    """A fold reads the values of its own body where they are kept."""
    x, y = np.random.default_rng(0).random((2, 30, features)) / features
    dense = SHARED[name](x[:, None], y[None])
    lazy = SHARED[name](LazyArray(x)[:, None], LazyArray(y)[None])
    np.testing.assert_allclose(lazy.sum(axis), dense.sum(axis), rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(os.name != "posix", reason="the compiler is a shell script")
def test_a_compiler_that_writes_nothing_is_passed_over(tmp_path: Path) -> None:
    idle = tmp_path / "idle"
    idle.write_text("#!/bin/sh\nexit 0\n")
    idle.chmod(idle.stat().st_mode | stat.S_IXUSR)
    answer = run(tmp_path / "cache", DUCKKEOPS_CC=str(idle), HIDE_ZIGLANG="1")
    assert answer.stdout.startswith("right"), answer.stderr
    assert f"DUCKKEOPS_CC={idle} is not used: it cannot build a library" in answer.stderr
    assert "has not written" in answer.stderr
