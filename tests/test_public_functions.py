"""duckkeops.logsumexp, softmax, topk and argtopk: of lazy arrays as of NumPy's and torch's."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from scipy import special

import duckkeops
from duckkeops import DtypeError, LazyArray, VirtualArrayError, config
from duckkeops.engines import cpu

each_engine = pytest.mark.parametrize(
    "engine",
    [
        pytest.param("cpu", marks=pytest.mark.skipif(not cpu.is_available(), reason="no compiler")),
        "blocks",
    ],
)
rng = np.random.default_rng(11)
M, N = 17, 13
X, Y = 3 * rng.normal(size=(M, 1)), rng.normal(size=(1, N))
DENSE = X * Y


def lazy(dtype="float64"):
    x, y = (LazyArray(v.astype(dtype), feature_ndim=0) for v in (X, Y))
    return x * y


def agree(got, want, rtol=1e-10):
    if isinstance(want, tuple):
        assert type(got) is tuple and len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            agree(g, w, rtol)
        return
    assert type(got) is type(want) and got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol)


WEIGHTS = {
    "none": None,
    "of columns": rng.random(N),
    "of pairs, some negative": rng.normal(size=(M, N)),
    "whole": rng.integers(0, 3, N),
    "zero": np.zeros(N),
    "negative": -rng.random((M, 1)),
    "booleans": rng.random(N) < 0.5,
}


@each_engine
@pytest.mark.parametrize("sign", [False, True])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(
    "options", [{"axis": 1}, {"axis": 0, "keepdims": True}, {}, {"axis": (0, 1)}, {"axis": -1}]
)
def test_logsumexp_is_scipys(options, weights, sign, engine):
    b = WEIGHTS[weights]
    with np.errstate(all="ignore"):
        want = special.logsumexp(DENSE, b=b, return_sign=sign, **options)
    with config(engine=engine):
        agree(duckkeops.logsumexp(lazy(), b=b, return_sign=sign, **options), want)
        agree(duckkeops.logsumexp(DENSE, b=b, return_sign=sign, **options), want)
        if b is not None and b.dtype == float:
            virtual = LazyArray(b, feature_ndim=0) + 0 * lazy()
            agree(duckkeops.logsumexp(lazy(), b=virtual, return_sign=sign, **options), want)


@each_engine
def test_logsumexp_at_infinity(engine):
    rows = np.array([[-np.inf] * 3, [np.inf, 0, 1], [np.nan, 0, 1], [-np.inf, 2, 1], [9, 8, 0]])
    index = LazyArray(np.arange(5.0))[:, None]
    d = sum(np.where(index == k, LazyArray(row), np.zeros(3)) for k, row in enumerate(rows))
    for b in (None, np.array([1.0, -1.0, 0.5]), np.array([0.0, 1.0, 1.0])):
        with np.errstate(all="ignore"):
            want = special.logsumexp(rows, axis=1, b=b, return_sign=True)
        with config(engine=engine):
            for a in (d, rows):
                value, sign = duckkeops.logsumexp(a, 1, b=b, return_sign=True)
                np.testing.assert_allclose(value, want[0], rtol=1e-12)
                known = np.isfinite(want[0]) | (value == -np.inf)
                np.testing.assert_array_equal(sign[known], want[1][known])


@pytest.mark.filterwarnings("error")
def test_nothing_warns():
    rows = np.full((3, 4), -np.inf)
    agree(duckkeops.logsumexp(rows, axis=1), np.full(3, -np.inf))
    value = duckkeops.logsumexp(lazy() - np.inf, axis=1, b=np.zeros(N))
    agree(value, np.full(M, -np.inf))


@pytest.mark.parametrize("dtype", ["float16", "float32", "int64", "bool"])
def test_dtypes(dtype):
    x = (4 * rng.random((M, 1))).astype(dtype)
    y = (2 * rng.random(N)).astype(dtype)
    d, dense = LazyArray(x, feature_ndim=0) * LazyArray(y), x * y
    rough = {"float16": 2e-2, "float32": 1e-5}.get(dtype, 1e-12)
    for a in (d, dense):
        got = duckkeops.logsumexp(a, axis=1)
        assert got.dtype == (dtype if "float" in dtype else np.float64)
        np.testing.assert_allclose(got, np.log(np.exp(dense.astype(float)).sum(1)), rtol=rough)
        for largest in (False, True):
            values, index = duckkeops.topk(a, 4, 1, largest)
            order = np.argsort(-dense.astype(float) if largest else dense, axis=1, kind="stable")
            np.testing.assert_array_equal(index, order[:, :4])
            assert values.dtype == dtype and index.dtype == np.int64
    weighted = duckkeops.logsumexp(
        d.astype("float32"), axis=1, b=-np.ones(N, np.float32), return_sign=True
    )
    assert [v.dtype for v in weighted] == [np.float32, np.float32]


def test_empty():
    none = LazyArray(np.zeros((3, 1)), feature_ndim=0) + LazyArray(np.zeros(0))
    for a in (none, np.zeros((3, 0))):
        agree(duckkeops.logsumexp(a, axis=1), np.full(3, -math.inf))
        agree(duckkeops.topk(a, 2, axis=1), (np.zeros((3, 0)), np.zeros((3, 0), int)))
        assert duckkeops.softmax(a, axis=1).shape == (3, 0)


@each_engine
@pytest.mark.parametrize("axis", [0, 1, -1, None, (0, 1)])
def test_softmax_is_scipys(axis, engine):
    want = special.softmax(DENSE, axis=axis)
    with config(engine=engine):
        got = duckkeops.softmax(lazy(), axis=axis)
        assert isinstance(got, LazyArray)
        agree(got.to_dense(), want)
    agree(duckkeops.softmax(DENSE, axis), want)
    agree(duckkeops.softmax(DENSE, dim=axis), want)
    agree(duckkeops.softmax([1, 2, 3]), special.softmax([1, 2, 3]))


def test_softmax_times_values():
    v = rng.normal(size=(N, 2))
    with config(engine="auto"):
        agree(duckkeops.softmax(lazy(), axis=1) @ v, special.softmax(DENSE, axis=1) @ v)


@each_engine
@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("k", [0, 1, 4, 99])
def test_topk(k, axis, largest, engine):
    """Of equals the first; NaN is the greatest."""
    dense = np.round(DENSE)
    dense[:, 3] = np.nan
    d = np.where(np.arange(N) == 3, np.nan, np.round(lazy()))
    key = np.where(np.isnan(dense), np.inf, dense)
    order = np.argsort(-key if largest else key, axis=axis, kind="stable")
    order = np.take(order, range(min(k, dense.shape[axis])), axis)
    want = np.take_along_axis(dense, order, axis), order
    with config(engine=engine):
        for a in (d, dense):
            agree(duckkeops.topk(a, k, axis, largest), want)
            agree(duckkeops.topk(a, k=k, dim=axis, largest=largest, sorted=False), want)
            agree(duckkeops.argtopk(a, k, axis, largest), order)


def test_genuine_arrays_of_three_axes():
    a = rng.normal(size=(3, 4, 5))
    for axis in (0, 1, 2):
        order = np.take(np.argsort(a, axis=axis), range(2), axis)
        want = np.take_along_axis(a, order, axis), order
        agree(duckkeops.topk(a, 2, axis, largest=False), want)
        agree(duckkeops.logsumexp(a, axis), special.logsumexp(a, axis))
    agree(duckkeops.logsumexp(a, (0, 2), keepdim=True), special.logsumexp(a, (0, 2), keepdims=True))


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    a = torch.tensor(DENSE, requires_grad=True)
    b = torch.tensor(rng.random(N))
    value = duckkeops.logsumexp(a, dim=1)
    torch.testing.assert_close(value, torch.logsumexp(a, 1))
    torch.testing.assert_close(duckkeops.logsumexp(a, 1, b=b), torch.log((b * torch.exp(a)).sum(1)))
    (gradient,) = torch.autograd.grad(value.sum(), a)
    torch.testing.assert_close(gradient, torch.softmax(a, 1).detach())
    torch.testing.assert_close(duckkeops.softmax(a, 1), torch.softmax(a, 1))
    got = duckkeops.topk(a, 3, dim=1, largest=False)
    assert type(got) is torch.return_types.topk
    torch.testing.assert_close(got, torch.topk(a, 3, 1, False))
    assert torch.equal(duckkeops.argtopk(a, 3, 0), torch.topk(a, 3, 0)[1])


def test_other_array_libraries():
    xp = pytest.importorskip("array_api_strict")
    a = xp.asarray(DENSE)
    for got, want in (
        (duckkeops.logsumexp(a, axis=1), special.logsumexp(DENSE, axis=1)),
        (duckkeops.softmax(a, axis=0), special.softmax(DENSE, axis=0)),
        (duckkeops.topk(a, 3)[0], -np.sort(-DENSE)[:, :3]),
    ):
        assert type(got) is type(a)
        np.testing.assert_allclose(np.asarray(got), want, rtol=1e-12)


def test_errors():
    d = lazy()
    for a in (d, DENSE):
        with pytest.raises(ValueError, match=r"topk\(k=-1\)"):
            duckkeops.topk(a, -1)
        with pytest.raises(np.exceptions.AxisError):
            duckkeops.topk(a, 1, axis=2)
        with pytest.raises(np.exceptions.AxisError):
            duckkeops.logsumexp(a, axis=2)
        with pytest.raises(np.exceptions.AxisError):
            duckkeops.softmax(a, axis=-3)
        for f in (duckkeops.logsumexp, duckkeops.softmax):
            with pytest.raises(DtypeError, match="real numbers, and got a: "):
                f(a * 1j)
        with pytest.raises(DtypeError, match="topk takes real numbers"):
            duckkeops.argtopk(a * 1j, 2)
        with pytest.raises(TypeError, match="unexpected keyword argument 'order'"):
            duckkeops.topk(a, 2, order=1)
        with pytest.raises(TypeError, match="keepdim"):
            duckkeops.softmax(a, keepdim=True)
    for f in (duckkeops.logsumexp, duckkeops.softmax):
        with pytest.raises(TypeError, match="takes an array of numbers, and a has dtype <U4"):
            f("text")


@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
def test_scipys_own_are_refused_and_name_ours(name):
    """They ask for all entries."""
    with pytest.raises(VirtualArrayError, match=r"duckkeops\.logsumexp\(d, axis=1\) and"):
        getattr(special, name)(lazy(), axis=1)


def test_take_along_axis_reads_single_pairs():
    """(m, k) pairs of (m, n), without the m n others."""
    x, y = rng.random((20_000, 3)), rng.random((20_000, 3))
    index = rng.integers(0, 20_000, (20_000, 4))
    d = ((LazyArray(x)[:, None] - LazyArray(y)) ** 2).sum(-1)
    np.take_along_axis(d[:5], index[:5], 1)
    tracemalloc.start()
    got = np.take_along_axis(d, index, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(got, ((x[:, None] - y[index]) ** 2).sum(-1), rtol=1e-12)
    assert peak < 20e6  # of 3.2 GB
