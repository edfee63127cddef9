"""Squared distances in many dimensions: by products where nothing cancels, else by differences."""

import numpy as np
import pytest

from duckkeops import LazyArray, config, explain, reductions
from duckkeops.engines import cpu

pytestmark = pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")
rng = np.random.default_rng(11)


def entries(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """All of |x_i - y_j|^2, through the kernel: its product with the identity."""
    square = ((LazyArray(x[:, None, :]) - LazyArray(y[None, :, :])) ** 2).sum(-1)
    with config(engine="cpu"):
        return square @ np.eye(len(y), dtype=x.dtype)


CLOUDS = {
    "one cloud": lambda n, d: rng.standard_normal((n, d)),
    "a cube": lambda n, d: rng.random((n, d)),
    "far from the origin": lambda n, d: rng.standard_normal((n, d)) + 1000.0,
    "two clusters": lambda n, d: (
        rng.standard_normal((n, d)) * 1e-3 + 5.0 * (np.arange(n) % 2)[:, None]
    ),
    "tiny": lambda n, d: rng.standard_normal((n, d)) * 1e-12,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dimensions", [47, 48, 130])
@pytest.mark.parametrize("name", CLOUDS)
def test_relative_error_is_small_wherever_the_points_are(name, dimensions, dtype) -> None:
    """Of every entry, and 0 for equal points, though |x|^2 + |y|^2 - 2 x.y loses all digits."""
    x = CLOUDS[name](203, dimensions).astype(dtype)
    y = np.concatenate(
        [x[::7], x[:40] * dtype(1 + 1e-3), CLOUDS[name](90, dimensions).astype(dtype)]
    )
    wide = x.astype(np.float64)[:, None] - y.astype(np.float64)
    exact = (wide * wide).sum(-1)
    got = entries(x, y)
    eps = np.finfo(dtype).eps
    assert np.all(got[exact == 0] == 0)
    off = np.abs(got - exact)[exact > 0] / exact[exact > 0]
    assert off.max() < 64 * eps  # sixteen of cancellation, and the sums' own


def test_nan_and_infinities_are_numpys() -> None:
    x, y = rng.random((70, 64)), rng.random((50, 64))
    x[3, 5], x[9, 0], y[7, 63], y[8, 1], x[11, 2], y[12, 2] = (
        np.nan,
        np.inf,
        -np.inf,
        np.nan,
        1e200,
        -1e200,
    )
    with np.errstate(all="ignore"):
        expected = ((x[:, None] - y) ** 2).sum(-1)
        smallest = expected.min(axis=1)
        square = ((LazyArray(x[:, None, :]) - LazyArray(y[None, :, :])) ** 2).sum(-1)
        np.testing.assert_allclose(square.min(axis=1), smallest, rtol=1e-13)
        np.testing.assert_allclose(square.max(axis=0), expected.max(axis=0), rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_squares_near_the_ends_of_the_range(dtype) -> None:
    """|x|^2 + |y|^2 overflows before |x - y|^2 does, and is 0 after."""
    info = np.finfo(dtype)
    huge, tiny = np.sqrt(info.max), np.sqrt(info.tiny)
    for unit, y in ((0.1 * huge, 0.06 * huge), (0.9 * tiny, -0.9 * tiny), (np.sqrt(tiny), 0)):
        x = np.full((70, 64), unit, dtype)
        other = np.full((50, 64), y, dtype)
        wide = x.astype(np.longdouble)[:, None] - other.astype(np.longdouble)
        exact = (wide * wide).sum(-1).astype(dtype)
        assert np.isfinite(exact).all() and np.all(exact > info.tiny)
        np.testing.assert_allclose(entries(x, other), exact, rtol=64 * info.eps)


def test_exact_precision_takes_differences_only() -> None:
    x = rng.random((8, 64))
    square = ((LazyArray(x[:, None, :]) - LazyArray(x[None, :, :])) ** 2).sum(-1)
    node = reductions.reduce(reductions.BY_NAME["sum"], [square._node], (1,))
    for precision, products in (("exact", False), ("float32", True)):
        with config(precision=precision):
            assert ("norms" in explain.source_of(node)) is products
