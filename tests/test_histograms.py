"""Histograms and counts of all pairs equal NumPy's of the dense array: counts, edges, dtypes,
errors.
"""

from __future__ import annotations

import tracemalloc
import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from duckkeops import (
    DtypeError,
    LazyArray,
    UnsupportedError,
    config,
    ops,
    plan,
    reductions,
    statistics,
)
from duckkeops.engines import blocks, cpu
from duckkeops.expr import Input, Table

each_engine = pytest.mark.parametrize(
    "engine",
    [
        pytest.param("cpu", marks=pytest.mark.skipif(not cpu.is_available(), reason="no compiler")),
        "blocks",
    ],
)
rng = np.random.default_rng(3)
REAL = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)


def pair(dtype: str, m: int = 19, n: int = 23) -> tuple[LazyArray, np.ndarray]:
    """x_i op y_j, virtual, and its dense values: many ties, and no rounding in any dtype."""
    x, y = rng.integers(0, 9, m), rng.integers(0, 9, n)
    if np.dtype(dtype).kind in "if":
        x -= 4
    x, y = (v / 8 if dtype.startswith("float") else v for v in (x, y))
    x, y = (np.asarray(v % 2 if dtype == "bool" else v).astype(dtype) for v in (x, y))
    join = np.logical_xor if dtype == "bool" else np.add
    return join(LazyArray(x)[:, None], LazyArray(y)[None]), join(x[:, None], y)


def agree(got: Any, want: Any, rtol: float = 0) -> None:
    for g, w in zip(got, want, strict=True):
        assert type(g) is type(w) and g.dtype == w.dtype and g.shape == w.shape
        if rtol:
            np.testing.assert_allclose(g, w, rtol=rtol, atol=rtol)
        else:
            np.testing.assert_array_equal(g, w)


def quietly(f: Any, *args: Any, **options: Any) -> Any:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return f(*args, **options)


BINS = {
    "ten": {},
    "seven": {"bins": 7},
    "one": {"bins": 1},
    "range": {"bins": 5, "range": (0, 1)},
    "floating range": {"bins": 12, "range": (-0.25, 0.875)},
    "wide range": {"bins": 1000, "range": (-50.0, 1e3)},
    "no entry in range": {"bins": 3, "range": (100, 200)},
    "edges": {"bins": [-1, 0, 0.125, 0.5, 7]},
    "integer edges": {"bins": [0, 1, 2, 5, 11]},
    "equal edges": {"bins": [0, 1, 1, 2]},
    "two edges": {"bins": np.array([0.0, 1.0], np.float32)},
    "density": {"bins": 6, "density": True},
    "density of edges": {"bins": [0, 0.5, 3], "density": True},
    "sqrt": {"bins": "sqrt"},
    "sturges": {"bins": "sturges"},
    "rice": {"bins": "rice"},
    "scott": {"bins": "scott"},
}


@each_engine
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("case", BINS)
def test_histogram(case, dtype, engine):
    d, dense = pair(dtype)
    with config(engine=engine):
        got = quietly(np.histogram, d, **BINS[case])
        edges = quietly(np.histogram_bin_edges, d, **_without(BINS[case], "density"))
    agree(got, quietly(np.histogram, dense, **BINS[case]))
    np.testing.assert_array_equal(edges, got[1])


def _without(options, *names):
    return {k: v for k, v in options.items() if k not in names}


@each_engine
@pytest.mark.parametrize(
    "weights", ["float32", "float64", "int64", "bool", "complex128", "float16"]
)
@pytest.mark.parametrize("shape", ["rows", "columns", "pairs", "lazy"])
def test_weights(shape, weights, engine):
    d, dense = pair("float32")
    w = {
        "rows": rng.integers(0, 5, (19, 1)),
        "columns": rng.integers(0, 5, 23),
        "pairs": rng.integers(0, 5, (19, 23)),
        "lazy": rng.integers(0, 5, (19, 1)),
    }[shape].astype(weights)
    full = np.broadcast_to(w, dense.shape)
    given = LazyArray(w, feature_ndim=0) if shape == "lazy" else w
    for options in ({"bins": 6}, {"bins": [-1.0, 0, 0.5, 2]}, {"bins": 4, "density": True}):
        if weights == "bool" and (len(options) > 1 or isinstance(options["bins"], list)):
            continue  # NumPy subtracts booleans there
        with config(engine=engine):
            got = np.histogram(d, weights=given, **options)
        agree(got, np.histogram(dense, weights=full, **options), rtol=1e-6)
    if weights != "complex128":
        i, j = pair("int32")
        with config(engine=engine):
            got = np.bincount(i + 4, weights=given)
        agree([got], [np.bincount((j + 4).ravel(), weights=full.ravel())], rtol=1e-12)


@each_engine
@pytest.mark.parametrize("dtype", REAL[:9])
def test_bincount(dtype, engine):
    d, dense = pair(dtype)
    d, dense = (d + 4, dense + 4) if dtype[0] == "i" else (d, dense)
    for options in ({}, {"minlength": 3}, {"minlength": 40}):
        with config(engine=engine):
            got = np.bincount(d, **options)
        agree([got], [np.bincount(dense.astype(np.int64).ravel(), **options)])


@each_engine
@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 63, 64, 65, 129, 257])
def test_sizes(size, engine):
    """Rows and columns that fill no tile are not counted twice."""
    for m, n in ((size, 5), (5, size), (size, size + 1)):
        d, dense = pair("float32", m, n)
        with config(engine=engine):
            agree(np.histogram(d, 9, (-1, 3)), np.histogram(dense, 9, (-1, 3)))
            rows = d.histogram(9, (-1, 3), axis=1)[0]
            columns = d.histogram(9, (-1, 3), axis=0)[0]
        want = np.array([np.histogram(r, 9, (-1, 3))[0] for r in dense])
        np.testing.assert_array_equal(rows, want)
        want = np.array([np.histogram(r, 9, (-1, 3))[0] for r in dense.T])
        np.testing.assert_array_equal(columns, want)


@each_engine
@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_empty(shape, engine):
    d, dense = pair("float32", *shape)
    with config(engine=engine):
        agree(np.histogram(d), np.histogram(dense))
        agree(np.histogram(d, [0, 1, 2.0]), np.histogram(dense, [0, 1, 2.0]))
        agree(
            [np.bincount(d.astype(int), minlength=4)],
            [np.bincount(dense.astype(int).ravel(), minlength=4)],
        )


@each_engine
def test_batches_features_and_three_points(engine):
    x, y = rng.integers(-9, 9, (2, 7, 1, 3)) / 4, rng.integers(-9, 9, (1, 1, 5, 3)) / 4
    d, dense = LazyArray(x) - LazyArray(y), x - y
    with config(engine=engine):
        agree(np.histogram(d, 11), np.histogram(dense, 11))
        got = d.histogram(11, (-4, 4), axis=(1, 2))[0]
        one = d.histogram(11, (-4, 4), axis=(2, 3))[0]
        weighed = d.histogram(11, (-4, 4), axis=(1, 2), weights=y)[0]
    assert got.shape == (2, 3, 11) and one.shape == (2, 7, 11)
    for b in range(2):
        for f in range(3):
            np.testing.assert_array_equal(got[b, f], np.histogram(dense[b, ..., f], 11, (-4, 4))[0])
            w = np.broadcast_to(y, dense.shape)[b, ..., f]
            want = np.histogram(dense[b, ..., f], 11, (-4, 4), weights=w)[0]
            np.testing.assert_allclose(weighed[b, f], want, atol=1e-12)
        for m in range(7):
            np.testing.assert_array_equal(one[b, m], np.histogram(dense[b, m], 11, (-4, 4))[0])
    p, q, r = (rng.integers(0, 9, n) for n in (5, 4, 6))
    e = LazyArray(p)[:, None, None] + LazyArray(q)[:, None] * LazyArray(r)
    f = p[:, None, None] + q[:, None] * r
    with config(engine=engine):
        agree(np.histogram(e), np.histogram(f))
        agree([np.bincount(e)], [np.bincount(f.ravel())])


@each_engine
def test_nan_and_infinities(engine):
    """They are in no bin of a given range, and refuse to give one."""
    y = np.array([0.5, np.nan, np.inf, -np.inf, 1.0, 0.0])
    d, dense = LazyArray(np.ones(9))[:, None] * LazyArray(y), np.ones((9, 1)) * y
    with config(engine=engine):
        for options in ({"range": (0, 1)}, {"bins": [0, 0.5, 1]}, {"bins": [-np.inf, 0, np.inf]}):
            agree(np.histogram(d, **options), np.histogram(dense, **options))
        for bad in (y[:2], y[2:]):
            e = LazyArray(np.ones(9))[:, None] * LazyArray(bad)
            with pytest.raises(ValueError) as ours:
                np.histogram(e)
            with pytest.raises(ValueError) as theirs:
                np.histogram(np.ones((9, 1)) * bad)
            assert str(ours.value) == str(theirs.value)


@each_engine
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "span", [(0.1, 0.7), (-1e-3, 1e6), (1e6, 1e6 + 8), (1e-42, 9e-41), (-3e37, 3e37), (0, 1e-30)]
)
@pytest.mark.parametrize("bins", [1, 7, 100, 5000])
def test_values_next_to_edges(bins, span, dtype, engine):
    """Each edge and its neighbours, and values in between: no rounding moves one to another bin."""
    first, last = (float(np.dtype(dtype).type(v)) for v in span)
    try:
        edges = np.histogram_bin_edges(np.empty(0, dtype), bins, (first, last))
    except ValueError:
        pytest.skip("more bins than values")
    some = edges[:: max(1, bins // 50)]
    with np.errstate(all="ignore"):
        values = np.concatenate(
            [some, np.nextafter(some, -np.inf), np.nextafter(some, np.inf), edges[-2:]]
        ).astype(dtype)
        values = np.concatenate([values, rng.uniform(first, last, 200).astype(dtype)])
    at = np.searchsorted(edges, values, side="right") - 1
    at[values == edges[-1]] = bins - 1
    inside = (values >= edges[0]) & (values <= edges[-1])
    want = 3 * np.bincount(at[inside], minlength=bins)
    one = LazyArray(np.ones(3, dtype))[:, None]
    with config(engine=engine):  # maximum and minimum keep subnormal numbers
        d = np.where(one == 1, LazyArray(values), 2)
        count, found = np.histogram(d, bins, (first, last))
        same, _ = np.histogram(d, edges)
    np.testing.assert_array_equal(found, edges)
    np.testing.assert_array_equal(count, want)
    np.testing.assert_array_equal(same, want)


@each_engine
def test_edges_finer_than_the_values(engine):
    """float64 edges of float32 values: compared as NumPy does, in float64."""
    values = np.linspace(0, 1, 301, dtype=np.float32)
    edges = np.sort(
        np.concatenate([values[:-1:7].astype(float) + 1e-12, values[::11].astype(float) - 1e-12])
    )
    d = LazyArray(np.ones(3, np.float32))[:, None] * LazyArray(values)
    dense = np.ones((3, 1), np.float32) * values
    with config(engine=engine):
        agree(np.histogram(d, edges), np.histogram(dense, edges))
        wide = (np.float64(0.1), np.float64(0.9))
        agree(np.histogram(d, 100, wide), np.histogram(dense, 100, wide))


@each_engine
def test_large_integers(engine):
    """Between integer edges integers are exact beyond 2**53."""
    x = np.array([2**60, 2**60 + 1, -(2**60)])
    d, dense = LazyArray(x)[:, None] + LazyArray(np.arange(3)), x[:, None] + np.arange(3)
    edges = np.array([-(2**60), 2**60 + 1, 2**60 + 2, 2**60 + 3])
    with config(engine=engine):
        agree(np.histogram(d, edges), np.histogram(dense, edges))


def test_any_number_of_threads():
    """Sums of weights too are the same, bit by bit."""
    x, y = rng.random((3000, 3)).astype(np.float32), rng.random((2000, 3)).astype(np.float32)
    d = ((LazyArray(x)[:, None] - LazyArray(y)) ** 2).sum(-1)
    w = rng.random(2000)
    found = []
    for threads in (1, 2, 5):
        with config(threads=threads):
            found.append(
                (
                    np.histogram(d, 50, (0, 2))[0],
                    np.histogram(d, 50, (0, 2), weights=w)[0],
                    np.histogram(d[:3], 50, (0, 2), weights=w)[0],
                    d.histogram(50, (0, 2), axis=1, weights=w)[0],
                )
            )
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert found[0][0].sum() == (d.to_dense() <= 2).sum()


def test_memory_of_the_bins_alone():
    """Neither pairs nor a table for each row."""
    x = rng.random(60_000).astype(np.float32)
    d = LazyArray(x)[:, None] - LazyArray(x[:300])
    np.histogram(d[:100], 1000, (-1, 1))
    tracemalloc.start()
    count, _ = np.histogram(d, 1000, (-1, 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count.sum() == 60_000 * 300
    assert peak < 1.5 * plan.HISTOGRAM_BYTES  # of 960 MB for a table a row


def test_some_rows_at_a_time(monkeypatch):
    """Where tables are large, rows are counted in slabs, with the same counts."""
    d, dense = pair("float32", 500, 40)
    want = np.histogram(dense, 30, (-1, 3))
    w = rng.random(40)
    whole = np.histogram(d, 30, (-1, 3), weights=w)[0]
    monkeypatch.setattr(plan, "HISTOGRAM_BYTES", 1000)
    agree(np.histogram(d, 30, (-1, 3)), want)
    np.testing.assert_allclose(np.histogram(d, 30, (-1, 3), weights=w)[0], whole, rtol=1e-12)


def test_many_bins():
    d, dense = pair("float64", 90, 70)
    for bins in (plan.MOST_COPIED, plan.MOST_COPIED + 1, 100_000):
        agree(np.histogram(d, bins), np.histogram(dense, bins))


def test_one_kernel_for_any_number_of_bins(monkeypatch):
    d, dense = pair("float32")
    np.histogram(d, 5, (0, 1))
    monkeypatch.setattr("duckkeops.cache.text", None)
    agree(np.histogram(d, 8, (0, 0.5)), np.histogram(dense, 8, (0, 0.5)))


def test_what_is_not_virtual_is_numpys():
    x = rng.random(100)
    for bins in ("auto", 7, [0, 0.5, 1]):
        agree(np.histogram(LazyArray(x), bins), np.histogram(x, bins))
    agree([np.bincount(LazyArray(np.arange(9) % 4))], [np.bincount(np.arange(9) % 4)])


@pytest.mark.parametrize("library", ["torch", "array_api_strict"])
@pytest.mark.parametrize("weighted", [False, True])
def test_tiles_of_other_libraries(library, weighted):
    xp = pytest.importorskip(library)
    a, w = rng.integers(0, 9, (4, 30)) / 4, rng.integers(0, 5, (1, 30)) / 2
    edges = np.linspace(0, 2, 6)
    table = xp.asarray(reductions.bin_table(edges, a.dtype, True))
    args = [Input(xp.asarray(v), v.dtype, "pp") for v in ((a, w) if weighted else (a,))]
    row = reductions.BY_NAME["histogram"]
    for axes in ((1,), (0, 1)):
        node = reductions.reduce(row, (*args, Table(table, a.dtype)), axes, how="scale", bins=5)
        got = np.asarray(blocks.value(node, tile_bytes=500))
        weights = np.broadcast_to(w, a.shape) if weighted else np.ones(a.shape)
        if axes == (1,):
            want = [np.histogram(r, edges, weights=v)[0] for r, v in zip(a, weights, strict=True)]
        else:
            want = np.histogram(a, edges, weights=weights)[0]
        np.testing.assert_allclose(got, want, rtol=1e-12)


HALF = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


def halves(dtype: np.dtype, m: int, n: int) -> tuple[LazyArray, np.ndarray]:
    """Entries that are no numbers of their dtype before they are rounded; the dense array."""
    x, y = (rng.normal(size=shape).astype(dtype) for shape in ((m, 1, 3), (1, n, 3)))
    d = ((LazyArray(x) - LazyArray(y)) ** 2).sum(-1)
    dense = d.to_dense()
    return d, dense if dtype == np.float16 else dense.astype(np.float32)


each_half = pytest.mark.parametrize("dtype", HALF, ids=str)
each_size = pytest.mark.parametrize("size", [(0, 3), (3, 0), (1, 1), (1, 9), (7, 5), (65, 33)])


@each_engine
@each_half
@each_size
def test_half_precision_is_counted_as_memory_holds_it(size, dtype, engine):
    with config(engine=engine):
        d, dense = halves(dtype, *size)
        edges = np.concatenate([np.unique(dense)[::3], np.array([99, 100], dense.dtype)])
        for bins in (10, edges, edges.astype(float) * 1.0001):
            count, found = np.histogram(d, bins)
            want = np.histogram(dense, found)[0]  # which searches among them
            np.testing.assert_array_equal(count, want)
            if np.ndim(bins) == 0:
                np.testing.assert_array_equal(found, np.histogram(dense, bins)[1])
        rows = d.histogram(7, (0, 9), axis=1)[0]
        whole = np.histogram_bin_edges(dense[:0], 7, (0, 9))
        want = [np.histogram(r, whole)[0] for r in dense]
        np.testing.assert_array_equal(rows, np.reshape(want, (size[0], 7)))


def sums(f: Any, a: Any, *args: Any, **options: Any) -> np.ndarray:
    """Of the entries of a lookup, which stays lazy; exact, as they are small whole numbers."""
    return np.asarray(f(a, *args, **options).sum(1))


@each_engine
@each_half
@each_size
def test_half_precision_is_looked_up_as_memory_holds_it(size, dtype, engine):
    with config(engine=engine):
        d, dense = halves(dtype, *size)
        own = np.concatenate([np.unique(dense)[::3], np.array([99], dense.dtype)])
        for table in (own, own.astype(float), own.astype(np.float32) * np.float32(1.0001)):
            for f in (np.isin, np.digitize):
                np.testing.assert_array_equal(sums(f, d, table), sums(f, dense, table))
            for side in ("left", "right"):
                got, want = (np.searchsorted(table, a, side).sum(1) for a in (d, dense))
                np.testing.assert_array_equal(got, want)
            args = table.astype(float), np.arange(len(table)) * 2.0
            np.testing.assert_allclose(sums(np.interp, d, *args), sums(np.interp, dense, *args))


JUMPS = {
    "comparison": lambda a: a < 0.3,  # a number that float16 and bfloat16 round
    "between": lambda a: (a[:, :1] >= a) & (a != 0.7),
    "floor": lambda a: np.floor(a * 8),
    "rint": lambda a: np.rint(a * 8),
    "whole": lambda a: (a * 8).astype(int),
    "remainder": lambda a: (a * 8) // 0.5,
    "truth": lambda a: (a * 1e-4 * 1e-4 * 1e-3).astype(bool),
    "chosen": lambda a: np.where(a * 1e-4 * 1e-4 * 1e-3, 1, 2),
    "infinite": lambda a: np.isinf(a * 60000),
}


@each_engine
@each_half
@pytest.mark.parametrize("case", JUMPS)
def test_half_precision_is_rounded_before_a_jump(case, dtype, engine):
    """The argument of a step is what memory holds, as where it is an array of its own."""
    with config(engine=engine):
        d, _ = halves(dtype, 33, 20)
        factor = {"floor": 8, "rint": 8, "whole": 8, "remainder": 8, "infinite": 60000}.get(case, 1)
        if case in ("truth", "chosen"):
            small = d * 1e-4 * 1e-4 * 1e-3
            want = small.to_dense() != 0
            want = np.where(want, 1, 2) if case == "chosen" else want
        else:
            held = (d * factor).to_dense()
            back = {
                "comparison": lambda: held < dtype.type(0.3),
                "between": lambda: (held[:, :1] >= held) & (held != dtype.type(0.7)),
                "floor": lambda: np.floor(held),
                "rint": lambda: np.rint(held),
                "whole": lambda: held.astype(int),
                "remainder": lambda: held // dtype.type(0.5),
                "infinite": lambda: np.isinf(held),
            }
            want = back[case]()
        got = JUMPS[case](d)
        np.testing.assert_array_equal(got.to_dense().astype(float), want.astype(float))
        got = np.asarray((got * np.ones(20, np.float32)).max(1))  # within a kernel
        np.testing.assert_array_equal(got, want.astype(np.float32).max(1))


@each_engine
@each_half
def test_half_precision_ties_go_to_the_first(engine, dtype):
    with config(engine=engine):
        d, dense = halves(dtype, 40, 300)
        for axis in (0, 1):
            np.testing.assert_array_equal(d.argmin(axis), dense.argmin(axis))
            np.testing.assert_array_equal(d.argmax(axis), dense.argmax(axis))
        order = np.argsort(d, axis=1, kind="stable")[:, :9]
        np.testing.assert_array_equal(order, np.argsort(dense, axis=1, kind="stable")[:, :9])
        if dtype != np.float16:
            return
        median = np.asarray(np.median(d[:, :299], axis=1)).astype(np.float32)
        np.testing.assert_array_equal(median, np.median(dense[:, :299], axis=1))


@pytest.mark.skipif(not cpu.is_available(), reason="no compiler")
@each_half
def test_kernels_round_half_precision_as_numpy(dtype):
    """Every bit pattern of a half, its neighbours and the middle of two, as float32."""
    bits = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(np.float32)
    bits = bits[np.isfinite(bits)]
    near = np.concatenate([bits, np.nextafter(bits, np.float32(9)), bits * np.float32(0.9996)])
    order = np.sort(bits)
    middle = order[:-1] / 2 + order[1:] / 2
    x = np.concatenate([near, middle, np.float32([65519, 65520, 3.4e38, -0.0, np.inf, np.nan])])
    x = x[np.isnan(x) | (np.abs(x) >= np.finfo(np.float32).tiny) | (x == 0)]
    with np.errstate(all="ignore"):
        want = x.astype(dtype).astype(np.float32)
    with config(engine="cpu"):
        product = (LazyArray(np.ones(2, np.float32))[:, None] * LazyArray(x))._node
        held = ops.rounded(ops.cast(product, dtype))
        got = statistics.max(ops.cast(held, np.dtype(np.float32)), 0)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
def test_axes_of_length_one(shape):
    """Where one input spans all, counting is NumPy's, of all entries and their weights."""
    x, y = (np.arange(n) for n in shape)
    d, dense = LazyArray(x)[:, None] + LazyArray(y), x[:, None] + y
    agree([np.bincount(d)], [np.bincount(dense.ravel())])
    for w in (y * 0.5, x[:, None] * 0.5, np.float64(2), LazyArray(y * 0.5)):
        full = np.broadcast_to(np.asarray(w.to_dense() if isinstance(w, LazyArray) else w), shape)
        agree(np.histogram(d, weights=w), np.histogram(dense, weights=full))
        agree([np.bincount(d, w)], [np.bincount(dense.ravel(), full.ravel())])
    with pytest.raises(ValueError, match="weights should have the same shape"):
        np.histogram(d, weights=np.ones(7))


@each_engine
@pytest.mark.parametrize("weights", ["float32", "float64", "int64"])
def test_bincount_of_no_entries_is_of_int64(weights, engine):
    d = LazyArray(np.zeros(0, int))[:, None] + LazyArray(np.arange(3))
    for least in (0, 4):
        with config(engine=engine):
            got = np.bincount(d, np.ones(3, weights), least)
        agree([got], [np.bincount(np.zeros(0, int), np.ones(0, weights), least)])


@each_engine
@pytest.mark.parametrize(
    "edges",
    [[0, 1, np.nan], [np.nan, 1, 0], [np.nan, np.nan], [np.nan, np.nan, 1, 0], [np.nan], []],
)
def test_digitize_with_nan_as_its_last_edge(edges, engine):
    x = np.array([1, 5, np.nan, -1, 0.5])
    d, dense = LazyArray(np.ones(3))[:, None] * LazyArray(x), np.ones((3, 1)) * x
    for right in (False, True):
        with config(engine=engine):
            got = np.digitize(d, edges, right).to_dense()
        np.testing.assert_array_equal(got, np.digitize(dense, edges, right))
    for wrong in ([0, np.nan, 1], [0, 0, np.nan, np.nan]):
        with pytest.raises(ValueError, match="monotonically"):
            np.digitize(d, wrong)


@pytest.mark.parametrize("dtype", ["bool", "int32", "float16", "float64"])
def test_nanquantile_of_no_entries(dtype):
    d, dense = (
        LazyArray(np.zeros(3, dtype))[:, None] * LazyArray(np.zeros(0, dtype)),
        np.zeros((3, 0), dtype),
    )
    for q in (0.5, [0.1, 0.2]):
        for keep in (False, True):
            got = quietly(np.nanquantile, d, q, axis=1, keepdims=keep)
            agree([got], [quietly(np.nanquantile, dense, q, axis=1, keepdims=keep)])
    with pytest.raises(IndexError, match="no entries"):
        np.quantile(d, 0.5, axis=1)


ERRORS = {
    "no bins": (lambda d: np.histogram(d, 0), ValueError, "`bins` must be positive"),
    "range": (lambda d: np.histogram(d, range=(2, 1)), ValueError, "max must be larger than min"),
    "edges": (lambda d: np.histogram(d, [2, 1]), ValueError, "must increase monotonically"),
    "floating bins": (lambda d: np.histogram(d, 2.5), TypeError, "must be an integer"),
    "bins of a name": (lambda d: np.histogram(d, "nonsense"), ValueError, "not a valid estimator"),
    "auto": (lambda d: np.histogram(d, "auto"), UnsupportedError, "needs all entries in order"),
    "sqrt in a range": (
        lambda d: np.histogram(d, "sqrt", (0, 1)), UnsupportedError, "reads entries within a range",
    ),
    "complex": (lambda d: np.histogram(d * 1j), DtypeError, "a histogram orders real numbers"),
    "weights": (lambda d: np.histogram(d, weights=np.ones(4)), ValueError, "weights should have"),
    "weighted auto": (
        lambda d: np.histogram(d, "sqrt", weights=np.ones(5)), TypeError, "Automated estimation",
    ),
    "fractions": (lambda d: np.bincount(d), DtypeError, "bincount counts whole numbers"),
    "negative": (
        lambda d: np.bincount(d.astype(int) - 9), ValueError, "must have no negative elements",
    ),
    "minlength": (
        lambda d: np.bincount(d.astype(int), minlength=-1), ValueError, "must not be negative",
    ),
    "complex weights": (
        lambda d: np.bincount(d.astype(int), 1j * np.ones(5)), DtypeError, "bincount takes real",
    ),
    "virtual": (
        lambda d: (d[..., None] + LazyArray(np.ones(3))).histogram(axis=2, range=(0, 1)),
        UnsupportedError, "leaves a virtual array",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    call, kind, message = ERRORS[case]
    d, _ = pair("float64", 7, 5)
    with pytest.raises(kind, match=message):
        call(d)


def test_booleans_warn_as_numpy_does():
    d, dense = pair("bool")
    with pytest.warns(RuntimeWarning, match="Converting input from bool"):
        got = np.histogram(d, 2)
    agree(got, quietly(np.histogram, dense, 2))


@pytest.mark.parametrize("engine", ["cpu", "blocks"])
def test_interp_next_to_infinite_points(engine):
    x, y = np.array([0.0, 1.0, 2.5, np.nan, -np.inf])[:, None], np.array([0.0, 1.0, 2.0, np.inf])
    with np.errstate(invalid="ignore"):
        dense = x - y
    tables = [
        ([0.0, 1.0, 2.0], [1.0, np.inf, 3.0]),
        ([0.0, 1.0, np.inf], [1.0, 2.0, 5.0]),
        ([-np.inf, 0.0, 1.0], [1.0, 2.0, np.inf]),
        ([0.0, 1.0], [np.inf, np.inf]),
        ([0.5], [7.0]),
    ]
    for xp, fp in tables:
        with config(engine=engine), np.errstate(all="ignore"):
            got, want = np.interp(LazyArray(x) - y, xp, fp), np.interp(dense, xp, fp)
            np.testing.assert_array_equal(got.to_dense(), want)
            for least in (True, False):  # each entry of a row of one
                one = np.where(np.isnan(got), -5.0 if least else 9.0, got)
                row = np.where(np.isnan(want), -5.0 if least else 9.0, want)
                reduce = np.min if least else np.max
                np.testing.assert_array_equal(reduce(one, axis=1), reduce(row, axis=1))
            np.testing.assert_array_equal(np.isnan(got).sum(axis=1), np.isnan(want).sum(axis=1))
