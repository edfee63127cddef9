"""CUDA kernels without a card: the same source, compiled for the host, against dense float64."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import host_cuda
import numpy as np
import pytest

import duckkeops
from duckkeops import LazyArray, launch_cuda, plan, reductions

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile CUDA with")


def squares(x: Any, y: Any) -> Any:
    return ((x[:, None] - y[None]) ** 2).sum(-1)


def dense_logsumexp(s: np.ndarray) -> np.ndarray:
    m = s.max(1)
    return m + np.log(np.exp(s - m[:, None]).sum(1))


def softmax(s: Any) -> Any:
    if isinstance(s, LazyArray):
        return duckkeops.softmax(s, axis=1)
    e = np.exp(s - s.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


REDUCTIONS: dict[str, Callable] = {
    "sum": lambda d, b: np.exp(-d) @ b[:, 0],
    "outputs": lambda d, b: np.exp(-d) @ b,
    "mean": lambda d, b: d.mean(1),
    "prod": lambda d, b: (d / (d + 0.001)).prod(0),
    "var": lambda d, b: np.var(d, axis=1),
    "min": lambda d, b: d.min(1),
    "argmin": lambda d, b: np.argmin(d, axis=1),
    "argmax of all": lambda d, b: np.argmax(d),
    "sum of all": lambda d, b: d.sum(),
    "any": lambda d, b: (d < 0.01).any(1),
    "count": lambda d, b: np.count_nonzero(d < 1, axis=0),
    "logsumexp": lambda d, b: (
        duckkeops.logsumexp(-d, axis=1) if isinstance(d, LazyArray) else dense_logsumexp(-d)
    ),
    "softmax": lambda d, b: softmax(-d) @ b,
    "top-5": lambda d, b: np.sort(d, axis=1)[:, :5],
    "places of the top-5": lambda d, b: np.argsort(d, axis=1)[:, :5],
}


def points(m: int, n: int, features: int, scale: float = 1) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(m + n)
    x, y = (scale * rng.standard_normal((k, features)).astype(np.float32) for k in (m, n))
    return x, y, rng.standard_normal((n, 3)).astype(np.float32)


def check(monkeypatch: Any, name: str, x: np.ndarray, y: np.ndarray, b: np.ndarray) -> None:
    dense = REDUCTIONS[name](squares(x.astype(np.float64), y.astype(np.float64)), b.astype(float))
    with host_cuda.hosted(monkeypatch):
        got = REDUCTIONS[name](squares(LazyArray(x), LazyArray(y)), LazyArray(b).to_dense())
    assert np.shape(got) == np.shape(dense)
    atol = 2e-6 * np.abs(np.where(np.isfinite(dense), dense, 0)).max(initial=0)
    np.testing.assert_allclose(got, dense, rtol=2e-5, atol=atol)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_of_rows_that_share_a_block(monkeypatch: Any, name: str) -> None:
    check(monkeypatch, name, *points(129, 1030, 3))


@pytest.mark.parametrize("name", ["sum", "argmin", "top-5", "logsumexp"])
@pytest.mark.parametrize("m", [1, 8])
def test_few_rows_share_the_columns(monkeypatch: Any, name: str, m: int) -> None:
    check(monkeypatch, name, *points(m, 40961, 3))


@pytest.mark.parametrize("name", ["sum", "argmin"])
@pytest.mark.parametrize(("m", "n"), [(2049, 17), (2304, 513), (7, 3), (1, 1)])
def test_odd_sizes(monkeypatch: Any, name: str, m: int, n: int) -> None:
    check(monkeypatch, name, *points(m, n, 3))


def test_coordinates_that_are_too_large_to_be_scaled(monkeypatch: Any) -> None:
    """Distances of far points keep their digits: exp(-|x - y|^2) of points near 1000."""
    x, y, b = points(300, 300, 2, scale=0.5)
    x, y = x + np.float32(1000), y + np.float32(1000)
    check(monkeypatch, "sum", x, y, b)
    check(monkeypatch, "sum", x[:, :1] * 1000, y[:, :1] * 1000, b)


@pytest.mark.parametrize("features", [6, 10, 33])
def test_distances_as_products(monkeypatch: Any, features: int) -> None:
    """Off a centre of the columns, so that far from 0 no more cancels than there."""
    x, y, b = points(300, 1030, features, scale=features**-0.5)
    check(monkeypatch, "sum", x, y, b)
    far = np.float32(64)
    check(monkeypatch, "sum", x + far, y + far, b)
    x[7, 0], y[700, 1] = np.nan, np.inf  # one of a row, and one of all rows
    check(monkeypatch, "sum", x, y[:700], b[:700])
    check(monkeypatch, "sum", x[:, :6], y[:, :6], b)
    check(monkeypatch, "sum", x, y[:1], b[:1])


def test_distances_that_would_cancel_as_products(monkeypatch: Any) -> None:
    """Clusters that are far apart, where one width of the kernel is the size of each."""
    x, y, b = points(300, 300, 8, scale=0.3)
    x[150:], y[150:] = x[150:] + 1000, y[150:] + 1000
    x[::7], y[:43] = x[::7] - 30, x[::7] - 30 + y[:43] / 8
    check(monkeypatch, "sum", x, y, b)


def test_no_columns_have_no_centre(monkeypatch: Any) -> None:
    x, y, b = points(5, 3, 8)
    check(monkeypatch, "sum", x, y[:0], b[:0])


@pytest.mark.parametrize("features", [1, 3])
def test_exponentials_by_multiply_adds(monkeypatch: Any, features: int) -> None:
    """Up to the ends of the range, and those that are not numbers."""
    x = np.zeros((1045, features), np.float32)
    x[:, 0] = np.linspace(-130, 131, 1045)
    x[5], x[6], x[7] = np.nan, np.inf, -np.inf
    ends = np.float32([1, 0.5, -0.25, 0.9999])
    dense = np.exp2(x.astype(np.float64).sum(1)[:, None] * ends)
    with host_cuda.hosted(monkeypatch), np.errstate(all="ignore"):
        got = np.exp2(LazyArray(x).sum(-1)[:, None] * LazyArray(ends)[None]).sum(axis=1)
    want = np.where(np.abs(dense) < 2.0**-125, 0, dense).sum(1)
    want[want > np.finfo(np.float32).max] = np.inf
    np.testing.assert_allclose(got, want, rtol=2e-6)


@pytest.mark.parametrize("features", [3, 6, 8])
def test_exponentials_of_equal_points_are_1(monkeypatch: Any, features: int) -> None:
    """And no greater, nor less: the root of what is left is then not a number, or far from 0."""
    x, y, _ = points(300, 200, features, scale=0.5)
    y[:70] = x[:70]
    dense = np.sqrt(1 - np.exp(-squares(x.astype(np.float64), y.astype(np.float64))))
    with host_cuda.hosted(monkeypatch):
        gap = np.sqrt(1 - np.exp(-squares(LazyArray(x), LazyArray(y))))
        np.testing.assert_allclose(gap.sum(axis=1), dense.sum(1), rtol=1e-5)
        np.testing.assert_allclose(gap.min(axis=1), dense.min(1), rtol=1e-4, atol=1e-6)


def test_logarithms_near_1_and_their_cosines(monkeypatch: Any) -> None:
    x = np.float32([0, 1e-30, 0.5, 0.93, 0.94, 0.999, 1, 1.001, 1.06, 1.07, 3, 1e30, np.inf, -1])
    each: dict[str, Callable] = {
        "log": np.log, "log2": np.log2, "log10": np.log10, "log1p": lambda v: np.log1p(v - 1),
        "cos": lambda v: np.cos(v - 3), "cos of log": lambda v: np.cos(np.log(v)),
    }  # fmt: skip
    for name, f in each.items():
        with host_cuda.hosted(monkeypatch), np.errstate(all="ignore"):
            one = np.zeros(2, np.float32)
            got = f(LazyArray(x)[:, None] + LazyArray(one)[None]).max(axis=1)
            want = f(x.astype(np.float64))
        tolerance = {"rtol": 2e-6} if name.startswith("log") else {"rtol": 0, "atol": 3e-6}
        finite = np.isfinite(want) & (np.abs(x) < 1e20)
        np.testing.assert_allclose(got[finite], want[finite], err_msg=name, **tolerance)
        assert (np.isnan(got) == np.isnan(want)).all(), name
        assert (np.isinf(got) == np.isinf(want)).all(), name


def test_ties_and_not_a_number(monkeypatch: Any) -> None:
    x = np.zeros((40, 2), np.float32)
    y = np.zeros((1000, 2), np.float32)
    y[700] = np.nan
    with host_cuda.hosted(monkeypatch):
        d = squares(LazyArray(x), LazyArray(y))
        assert (np.argmin(d, axis=1) == 700).all()
        assert np.isnan(d.min(1)).all()
        assert (np.argsort(d, axis=1)[:, :4] == np.arange(4)).all()
        d = squares(LazyArray(x), LazyArray(y[:700]))
        assert (np.argmin(d, axis=1) == 0).all()
        assert np.argmax(d) == 0


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("m", [3, 40, 2100])
def test_long_lists_in_several_passes(monkeypatch: Any, m: int, largest: bool) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 9, (m, 1)).astype(float), rng.integers(0, 9, (400, 1)).astype(float)
    y[7] = np.nan  # and many ties
    d = LazyArray(x)[:, None, 0] - LazyArray(y)[None, :, 0]
    with host_cuda.hosted(monkeypatch):
        got = duckkeops.argtopk(d, 150, axis=1, largest=largest)
        values = duckkeops.topk(d, 150, axis=1, largest=largest)[0]
    np.testing.assert_array_equal(got, duckkeops.argtopk(d, 150, axis=1, largest=largest))
    want = duckkeops.topk(d, 150, axis=1, largest=largest)[0]
    np.testing.assert_array_equal(values, want)


@pytest.mark.parametrize("features", [65, 800])
def test_many_features(monkeypatch: Any, features: int) -> None:
    x, y, b = points(40, 70, features, scale=features**-0.5)
    check(monkeypatch, "sum", x, y, b)


def test_rows_that_are_too_long_for_shared_memory_are_left_to_the_library() -> None:
    x = LazyArray(np.zeros((3, 2000), np.float32))
    node = reductions.reduce(reductions.BY_NAME["sum"], [squares(x, x)._node], [1])
    assert not launch_cuda.has_kernel(node)


def test_batches_and_three_point_axes(monkeypatch: Any) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((3, 2, 50, 2)), rng.random((3, 2, 70, 2))
    z = rng.random((9, 2))
    d = ((x[..., :, None, :] - y[..., None, :, :]) ** 2).sum(-1)
    with host_cuda.hosted(monkeypatch):
        lazy = (
            (
                LazyArray(x, batch_ndim=2)[..., :, None, :]
                - LazyArray(y, batch_ndim=2)[..., None, :, :]
            )
            ** 2
        ).sum(-1)
        np.testing.assert_allclose(np.exp(-lazy).sum(-1), np.exp(-d).sum(-1), rtol=1e-12)
        u, v, w = LazyArray(x[0, 0]), LazyArray(y[0, 0]), LazyArray(z)
        s = ((u[:, None, None] - v[None, :, None]) * w[None, None]).sum(-1)
        t = ((x[0, 0][:, None, None] - y[0, 0][None, :, None]) * z[None, None]).sum(-1)
        np.testing.assert_allclose(s.sum((1, 2)), t.sum((1, 2)), rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(np.max(s, axis=(0, 2)), t.max((0, 2)))


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "uint8"])
def test_dtypes(monkeypatch: Any, dtype: str) -> None:
    rng = np.random.default_rng(0)
    x, y = ((4 * rng.random((k, 3))).astype(dtype) for k in (50, 60))
    with host_cuda.hosted(monkeypatch):
        got = squares(LazyArray(x), LazyArray(y)).sum(1)
    want = squares(LazyArray(x), LazyArray(y)).sum(1)
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got.astype(float), want.astype(float), rtol=1e-3)


def test_a_mask_of_all_pairs_is_read(monkeypatch: Any) -> None:
    x, y, _ = points(60, 90, 3)
    mask = np.random.default_rng(0).random((60, 90)) < 0.5
    for m in (mask, np.asfortranarray(mask)):
        with host_cuda.hosted(monkeypatch):
            got = np.where(m, squares(LazyArray(x), LazyArray(y)), 0).sum(1)
        want = np.where(mask, squares(x.astype(float), y.astype(float)), 0).sum(1)
        np.testing.assert_allclose(got, want, rtol=1e-5)


COMPLEX = [
    *("sqrt", "exp", "log", "sin", "cos", "tan", "arcsin", "arccos", "arctan", "sinh", "cosh"),
    *("tanh", "arcsinh", "arccosh", "arctanh", "expm1", "log1p", "log2", "log10", "absolute"),
    *("angle", "square", "reciprocal"),
]


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_functions_of_large_numbers_infinities_and_nan(monkeypatch: Any, name: str) -> None:
    """As the C engine, whose C library knows these values."""
    parts = [0.0, 1.0, -2.5, 0.3, 1e30, -1e30, np.inf, -np.inf, np.nan, 80.0, -80.0]
    z = np.array([complex(a, b) for a in parts for b in parts], np.complex64)
    function = getattr(np, name)

    def twice() -> np.ndarray:
        pairs = LazyArray(z, feature_ndim=0)[:, None] + LazyArray(z[:1], feature_ndim=0)
        return function(pairs + LazyArray(np.zeros(2, z.dtype), feature_ndim=0)).sum(1)

    want = twice()
    with host_cuda.hosted(monkeypatch):
        got = twice()
    if name == "expm1":  # inf * sin(0) is 0 with us, and NaN in NumPy
        got, want = (v[np.isfinite(want)] for v in (got, want))
    scale = np.where(np.isfinite(want), np.abs(want), 0)
    half = np.isnan(want)  # where one part is NaN the standard leaves the other's sign open
    for one, other in ((got.real, want.real), (got.imag, want.imag)):
        one, other = (np.where(half, np.abs(v), v) for v in (one, other))
        near = np.isclose(one, other, rtol=3e-6, atol=0, equal_nan=True)
        with np.errstate(invalid="ignore"):
            assert (near | (np.abs(one - other) <= 3e-6 * scale)).all()


@pytest.mark.parametrize("m", [1, 1000, 200_000, 10_000_000])
@pytest.mark.parametrize("resident", [1, 3])
def test_blocks_fill_the_device(m: int, resident: int) -> None:
    """Splits of the columns: few processors wait for the last blocks, and no launch is too short
    for all of them or longer than a tenth of a second.
    """
    node = reductions.reduce(
        reductions.BY_NAME["sum"],
        [(LazyArray(np.broadcast_to(np.float32(0), (m, 1))[:, 0], feature_ndim=0)[:, None]
          + LazyArray(np.broadcast_to(np.float32(0), (m, 1))[:, 0], feature_ndim=0)[None])._node],
        [1],
    )  # fmt: skip
    axes, processors = plan.loop_axes(node), 132
    at_once, blocks, seconds = processors * resident, -(-m // 1024), float(m) ** 2 / 3e12
    splits = plan.cuda_splits(node, axes, blocks, processors, at_once, seconds, 4 * m)
    assert splits * 4 * m <= plan.PARTS_BYTES or splits <= 33
    assert 1 <= splits <= max(1, m // plan.CUDA_COLUMNS)
    total = blocks * splits
    launched = plan.cuda_slice(total, at_once, seconds)
    assert launched == total or launched % at_once == 0
    if m >= 200_000:
        waves = total / at_once
        assert waves / np.ceil(waves) > 0.97
        assert seconds * launched / total < 0.2
