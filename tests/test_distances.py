"""Squared distances in many dimensions: by products where nothing cancels, else by differences."""

from typing import Any

import numpy as np
import pytest

from duckkeops import LazyArray, config, evaluate, explain, gradients, reductions
from duckkeops.engines import cpu
from duckkeops.expr import Input, walk

pytestmark = pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")
rng = np.random.default_rng(11)


def squares(x: np.ndarray, y: np.ndarray) -> Any:
    """|x_i - y_j|^2 of rows (..., M, D) and (..., N, D): lazily (..., M, N)."""
    return ((LazyArray(x[..., :, None, :]) - LazyArray(y[..., None, :, :])) ** 2).sum(-1)


def entries(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """All of |x_i - y_j|^2, through the kernel: its product with the identity."""
    with config(engine="cpu"):
        return squares(x, y) @ np.eye(len(y), dtype=np.result_type(x, y))


def exact_entries(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """All of |x_i - y_j|^2, in float64 or better."""
    wide = x.astype(np.longdouble)[..., :, None, :] - y.astype(np.longdouble)[..., None, :, :]
    return (wide * wide).sum(-1)


def assert_precise(got: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """Sixteen eps of cancellation, and the sums' own; equal points are at 0."""
    exact = exact_entries(x, y)
    assert np.all(got[exact == 0] == 0)
    off = np.abs(got - exact)[exact > 0] / exact[exact > 0]
    assert off.max() < 64 * np.finfo(got.dtype).eps


def clusters(n: int, d: int, centres: int, radius: float) -> np.ndarray:
    middles = np.random.default_rng(3).random((centres, d))
    return middles[rng.integers(0, centres, n)] + radius * rng.standard_normal((n, d))


# Dimensions: below, at and above those from which the threshold, the blocks and the tiles change.
DIMENSIONS = (7, 8, 10, 11, 16, 47, 48, 130)
CLOUDS = {
    "one cloud": lambda n, d: rng.standard_normal((n, d)),
    "a cube": lambda n, d: rng.random((n, d)),
    "far from the origin": lambda n, d: rng.standard_normal((n, d)) + 1000.0,
    "two clusters": lambda n, d: (
        rng.standard_normal((n, d)) * 1e-3 + 5.0 * (np.arange(n) % 2)[:, None]
    ),
    "clusters far from the origin": lambda n, d: clusters(n, d, 5, 1e-3) - 300.0,
    "one far point": lambda n, d: rng.random((n, d)) + 1e5 * (np.arange(n) == n // 2)[:, None],
    "of several scales": lambda n, d: rng.standard_normal((n, d)) * 10.0 ** -np.arange(d),
    "tiny": lambda n, d: rng.standard_normal((n, d)) * 1e-12,
    "huge": lambda n, d: rng.standard_normal((n, d)) * 1e17,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dimensions", DIMENSIONS)
@pytest.mark.parametrize("name", CLOUDS)
def test_relative_error_is_small_wherever_the_points_are(name, dimensions, dtype) -> None:
    """Of every entry, and 0 for equal points, though |x|^2 + |y|^2 - 2 x.y loses all digits."""
    x = CLOUDS[name](203, dimensions).astype(dtype)
    y = np.concatenate(
        [x[::7], x[:40] * dtype(1 + 1e-3), CLOUDS[name](90, dimensions).astype(dtype)]
    )
    assert_precise(entries(x, y), x, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_where_products_give_way_to_differences(dimensions, dtype) -> None:
    """Pairs at and around |x - y|^2 = |x|^2 t: most cancels where y is on the ray of x."""
    x = rng.standard_normal((64, dimensions))
    steps = np.concatenate([x[:1], rng.standard_normal((3, dimensions))])
    steps *= np.linalg.norm(x[0]) / np.linalg.norm(steps, axis=1, keepdims=True)
    y = x[0] + (np.geomspace(0.2, 0.7, 200)[:, None, None] * steps).reshape(800, dimensions)
    y = np.concatenate([y, -y])  # the centre is the origin
    x[1:20] = x[0] * rng.uniform(0.9, 1.1, (19, 1))
    x, y = x.astype(dtype), y.astype(dtype)
    assert_precise(entries(x, y), x, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("radius", [1e-3, 0.05, 0.3])
@pytest.mark.parametrize("dimensions", [10, 64])
def test_long_sweeps_over_clusters(dimensions, radius, dtype) -> None:
    """So many columns that a row block chooses between products and differences."""
    x, y = (clusters(n, dimensions, 20, radius).astype(dtype) for n in (150, 3000))
    assert_precise(entries(x, y), x, y)


@pytest.mark.parametrize("dimensions", [10, 64])
def test_equal_columns_are_equally_far(dimensions) -> None:
    """Wherever their tiles are: so the first of them wins, as in NumPy."""
    x, y = (rng.random((n, dimensions)).astype(np.float32) for n in (130, 101))
    y[::9] = x[: len(y[::9])] + np.float32(1e-3)  # some tiles have pairs that cancel
    many = np.concatenate([y, y, y])
    got = entries(x, many)
    np.testing.assert_array_equal(got[:, :101], got[:, 101:202])
    np.testing.assert_array_equal(got[:, :101], got[:, 202:])
    np.testing.assert_array_equal(squares(x, many).argmin(axis=1), got.argmin(axis=1))
    assert got.argmin(axis=1).max() < 101
    order = np.argsort(squares(x, many), axis=1)[:, :6]
    np.testing.assert_array_equal(order, np.argsort(got, axis=1, kind="stable")[:, :6])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dimensions", [9, 10, 64])
def test_integral_points_have_integral_distances(dtype, dimensions) -> None:
    """So that ties stay ties: the centre has few digits. Also where the squares end."""
    last = dtype(2.0 ** (np.finfo(dtype).minexp // 2))  # its square is the least normal number
    for low, high, unit in ((0, 2, 1), (0, 17, 1), (1000, 1003, 1), (-128, 128, 1), (0, 2, last)):
        x, y = (rng.integers(low, high, (n, dimensions)).astype(dtype) * unit for n in (90, 400))
        exact = exact_entries(x, y).astype(dtype)
        np.testing.assert_array_equal(entries(x, y), exact)
        np.testing.assert_array_equal(squares(x, y).argmin(axis=1), exact.argmin(axis=1))


@pytest.mark.parametrize("dimensions", [10, 64])
def test_nearest_neighbours_are_those_of_float64(dimensions) -> None:
    for make in (CLOUDS["a cube"], CLOUDS["far from the origin"], CLOUDS["two clusters"]):
        x, y = (make(n, dimensions).astype(np.float32) for n in (200, 1000))
        exact = exact_entries(x, y).astype(np.float64)
        order = np.asarray(np.argsort(squares(x, y), axis=1)[:, :10])
        found = np.take_along_axis(exact, order, axis=1)
        np.testing.assert_allclose(found, np.sort(exact, axis=1)[:, :10], rtol=1e-5)
        assert np.mean(order == np.argsort(exact, axis=1)[:, :10]) > 0.999


def layouts(y: np.ndarray) -> dict[str, np.ndarray]:
    """The same numbers elsewhere in memory, or of fewer digits."""
    apart = np.zeros((2 * len(y), 3 * y.shape[1]), y.dtype)
    apart[::2, 1::3] = y
    packed = np.zeros(len(y), np.dtype([("skip", "i1"), ("y", y.dtype, y.shape[1:])]))
    packed["y"] = y
    return {
        "columns": np.asfortranarray(y),
        "reversed": np.ascontiguousarray(y[::-1, ::-1])[::-1, ::-1],
        "apart": apart[::2, 1::3],
        "misaligned": packed["y"],
        "one point": np.broadcast_to(y[:1], y.shape),
        "halves": y.astype(np.float16),
        "integers": (8 * y).astype(np.int16),
    }


@pytest.mark.parametrize("dimensions", [10, 64])
@pytest.mark.parametrize("name", layouts(np.zeros((1, 1))))
def test_layouts_and_other_dtypes(name, dimensions) -> None:
    x, y = (rng.random((n, dimensions)).astype(np.float32) + 3 for n in (70, 90))
    y[:20] = x[:20] + np.float32(1e-2)
    y = layouts(y)[name]
    assert_precise(entries(x, y), x, y)
    x, y = y[:60], x
    assert_precise(entries(x, y), x, y)


def test_each_outer_index_has_its_own_centre() -> None:
    offset = np.array([0.0, 300.0, -70.0])[:, None, None]
    x, y = ((rng.random((3, n, 10)) + offset).astype(np.float32) for n in (70, 90))
    got = np.asarray(squares(x, y).sum(axis=1))
    np.testing.assert_allclose(got, exact_entries(x, y).sum(axis=1).astype(np.float64), rtol=1e-5)


def test_two_distances_share_a_loop_with_a_product() -> None:
    """A formula with more folds over the same features, and with scaled sides."""
    x, y, z = (rng.random((n, 12)) for n in (40, 60, 60))
    X, Y, Z = LazyArray(x[:, None]), LazyArray(y[None]), LazyArray(z[None])
    got = (
        np.exp(-((X - Y) ** 2).sum(-1))
        + ((X - Z) ** 2).sum(-1) * (X * Y).sum(-1)
        + ((X / 3 - Y / 3) ** 2).sum(-1)
    ).sum(axis=1)
    a, b = exact_entries(x, y), exact_entries(x, z)
    expected = (np.exp(-a) + b * (x @ y.T) + a / 9).sum(axis=1).astype(np.float64)
    np.testing.assert_allclose(got, expected, rtol=1e-13)


@pytest.mark.parametrize("dimensions", [10, 64])
def test_distances_of_many_parts_of_a_point(dimensions) -> None:
    x, y = rng.random((40, 3, dimensions)), rng.random((60, 3, dimensions))
    d = ((LazyArray(x[:, None], feature_ndim=2) - LazyArray(y[None], feature_ndim=2)) ** 2).sum(-1)
    exact = ((x[:, None] - y[None]) ** 2).sum(-1)
    np.testing.assert_allclose(d.sum(axis=1), exact.sum(axis=1), rtol=1e-13)
    np.testing.assert_allclose(d.sum(-1).min(axis=1), exact.sum(-1).min(axis=1), rtol=1e-13)


@pytest.mark.parametrize("columns", [0, 1, 4, 31, 33])
def test_few_columns(columns) -> None:
    x, y = rng.random((5, 10)), rng.random((columns, 10))
    expected = exact_entries(x, y).sum(axis=1).astype(np.float64)
    np.testing.assert_allclose(squares(x, y).sum(axis=1), expected, rtol=1e-13)


def test_gradient_of_a_gaussian() -> None:
    x, y = rng.random((70, 10)), rng.random((90, 10))
    value = np.exp(-squares(x, y))
    (xi,) = (n for n in walk(value._node) if isinstance(n, Input) and n.shape == (70, 1, 10))
    ones = Input(np.ones((1, 1)), np.dtype(float), "pp")
    terms = gradients.gradient(value._node, ones, xi)
    with config(engine="cpu"):
        got = gradients.total(
            np, [evaluate.evaluate(t.node) for t in terms], [t.order for t in terms], xi
        )
    weights = np.exp(-exact_entries(x, y))[:, :, None]
    expected = (-2 * (x[:, None] - y) * weights).sum(1).astype(np.float64)
    np.testing.assert_allclose(got[:, 0], expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dimensions", [10, 64])
def test_nan_and_infinities_are_numpys(dimensions) -> None:
    x, y = rng.random((70, dimensions)), rng.random((50, dimensions))
    x[3, 5], x[9, 0], y[7, -1], y[8, 1], x[11, 2], y[12, 2] = (
        np.nan,
        np.inf,
        -np.inf,
        np.nan,
        1e200,
        -1e200,
    )
    with np.errstate(all="ignore"):
        expected = ((x[:, None] - y) ** 2).sum(-1)
        np.testing.assert_allclose(squares(x, y).min(axis=1), expected.min(axis=1), rtol=1e-13)
        np.testing.assert_allclose(squares(x, y).max(axis=0), expected.max(axis=0), rtol=1e-13)
        for wrong in (np.nan, np.inf):  # in all that the centre looks at
            y[::1, 4] = wrong
            expected = ((x[:, None] - y) ** 2).sum(-1)
            np.testing.assert_array_equal(squares(x, y).min(axis=1), expected.min(axis=1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dimensions", [10, 64])
def test_squares_near_the_ends_of_the_range(dimensions, dtype) -> None:
    """|x|^2 + |y|^2 overflows before |x - y|^2 does, and is 0 after."""
    info = np.finfo(dtype)
    huge, tiny = np.sqrt(info.max), np.sqrt(info.tiny)
    pairs = [(0.1 * huge, 0.06 * huge), (0.9 * tiny, -0.9 * tiny), (np.sqrt(tiny), 0)]
    pairs += [(0.2 * huge, -0.05 * huge), (1e-3 * huge, 0.3 * huge), (0.3 * huge, 1e-3 * huge)]
    v = np.sqrt(1.5 / dimensions) * huge  # |y|^2 is infinite, |x - y|^2 is not
    for unit, y in (*pairs, (0.2 * v, v)):
        for turned in (0, 25):  # columns on the other side, and the centre with them
            x = np.full((70, dimensions), unit, dtype)
            other = np.full((50, dimensions), y, dtype)
            other[:turned] *= -1
            with np.errstate(over="ignore"):
                exact = exact_entries(x, other).astype(dtype)
            for which in ("min", "max"):
                np.testing.assert_allclose(
                    getattr(squares(x, other), which)(axis=1),
                    getattr(exact, which)(axis=1),
                    rtol=64 * info.eps,
                )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_points_at_the_end_of_the_range(dtype) -> None:
    """Twice such a number is infinite, and so is its difference from the other one."""
    big = np.finfo(dtype).max
    x = np.full((20, 10), big, dtype)
    y = np.stack([x[0], -x[0]] * 20)
    np.testing.assert_array_equal(squares(x, y).min(axis=1), 0)
    np.testing.assert_array_equal(squares(x, y).max(axis=1), np.inf)
    np.testing.assert_array_equal(squares(x, y).argmin(axis=1), 0)


@pytest.mark.parametrize("dimensions", [10, 64])
def test_exact_precision_takes_differences_only(dimensions) -> None:
    x = rng.random((8, dimensions))
    node = reductions.reduce(reductions.BY_NAME["sum"], [squares(x, x)._node], (1,))
    for precision, products in (("exact", False), ("float32", True)):
        with config(precision=precision):
            assert ("#define CANCELS" in explain.source_of(node)) is products
