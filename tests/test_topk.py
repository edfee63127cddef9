"""Top-k in compiled C: the K best of each row, sorted, NaN greatest, ties by the lowest column."""

import numpy as np
import pytest

from duckkeops import LazyArray, config, evaluate, reductions
from duckkeops.engines import cpu

pytestmark = pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")

N, M = 71, 333


def stable(d: np.ndarray, k: int, largest: bool) -> np.ndarray:
    """The columns of the k best of each row, by NumPy."""
    if not largest:
        return np.argsort(d, axis=1, kind="stable")[:, :k]
    return d.shape[1] - 1 - np.argsort(d[:, ::-1], axis=1, kind="stable")[:, ::-1][:, :k]


def points(kind: str, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    if dtype.kind in "iu":
        return rng.integers(0, 50, (N, 1)).astype(dtype), rng.integers(0, 50, (1, M)).astype(dtype)
    x, y = rng.random((N, 1)).astype(dtype), rng.random((1, M)).astype(dtype)
    if kind == "ties":
        x, y = np.round(8 * x), np.round(8 * y)
    elif kind == "nan":
        y[:, rng.random(M) < 0.3] = np.nan
        x[0], y[0, 5], y[0, 7] = np.nan, np.inf, -np.inf
    elif kind == "falling":
        y = -np.sort(-y)
    elif kind == "rising":
        y = np.sort(y)
    return x, y


def topk(v: LazyArray, axes: tuple[int, ...], k: int, largest: bool) -> tuple:
    node = reductions.reduce(reductions.BY_NAME["topk"], [v._node], axes, k=k, largest=largest)
    with config(engine="cpu"):
        return evaluate.evaluate(node)


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("k", [1, 10, 32, 33, 100])
@pytest.mark.parametrize("name", ["float32", "float64", "int32", "uint8"])
def test_values_and_columns_are_numpys(name: str, k: int, largest: bool) -> None:
    dtype = np.dtype(name)
    for kind in (
        ("random", "ties", "nan", "rising", "falling") if dtype.kind == "f" else ("random",)
    ):
        x, y = points(kind, dtype)
        with np.errstate(invalid="ignore"):
            d = x + y
        values, columns = topk(LazyArray(x) + LazyArray(y), (1,), k, largest)
        expected = stable(d, k, largest)
        np.testing.assert_array_equal(columns, expected, err_msg=kind)
        np.testing.assert_array_equal(values, np.take_along_axis(d, expected, 1), err_msg=kind)


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_of_all_pairs_where_rows_are_shorter_than_k(rows: int) -> None:
    """A row of 5 columns does not fill its 12 places."""
    rng = np.random.default_rng(rows)
    x, y = rng.random((rows, 1, 2)), rng.random((1, 5, 2))
    d = ((x - y) ** 2).sum(-1).ravel()
    k = min(12, d.size)
    values, columns = topk(((LazyArray(x) - LazyArray(y)) ** 2).sum(-1), (0, 1), k, False)
    np.testing.assert_array_equal(columns, np.argsort(d, kind="stable")[:k])
    np.testing.assert_allclose(values, np.sort(d)[:k], rtol=1e-14)
