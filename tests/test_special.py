"""The ufuncs of scipy.special, called on lazy arrays: dtypes, order of arguments, refusals."""

import numpy as np
import pytest
from scipy import special

from duckkeops import LazyArray, config, ops
from duckkeops.errors import DtypeError, UnsupportedError

X = np.random.default_rng(0).uniform(0.3, 2, 9)
Y = np.random.default_rng(1).uniform(0.1, 1, 7)
ROWS = [op for op in ops.TABLE if op.scipy is not None]
DTYPES = [*"?bhilBHIL", "float16", "float32", "float64"]

each_row = pytest.mark.parametrize("op", ROWS, ids=lambda op: op.name)


def pairs(dtype="float64"):
    """Sums of all pairs, lazy and dense: no dtype leaves them."""
    x, y = (a.astype(dtype) for a in (2 * X, Y))
    lazy = LazyArray(x)[:, None] + LazyArray(y)[None, :]
    return lazy, x[:, None] + y[None, :]


@each_row
def test_dtype_and_value_are_scipys(op):
    """In every dtype, and in every place of two arguments."""
    f = getattr(special, op.scipy)
    for dtype in DTYPES:
        lazy, dense = pairs(dtype)
        if dtype != "?" and op.nargs == 1 and op.name in ("erfinv", "logit", "ndtri", "erfcinv"):
            lazy, dense = lazy / np.float16(8), dense / np.float16(8)
        calls = {
            1: [lambda d: f(d)],
            2: [lambda d: f(0.5, d), lambda d: f(d, 0.5), lambda d: f(d, d)],
        }[op.nargs]
        for call in calls:
            with np.errstate(all="ignore"):
                got, want = call(lazy), call(dense)
            assert isinstance(got, LazyArray)
            assert got.dtype == want.dtype
            if dtype in ("float32", "float64"):
                close = 3e-6 if want.dtype == np.float32 else 1e-12
                np.testing.assert_allclose(got.to_dense(), want, rtol=close, atol=close)


def test_orders_of_each_row():
    """An order for each point, as an array or lazily."""
    v = np.linspace(0, 3, 9)
    lazy, dense = pairs()
    want = special.kv(v[:, None], dense).sum(axis=1)
    np.testing.assert_allclose(special.kv(LazyArray(v)[:, None], lazy).sum(axis=1), want)
    np.testing.assert_allclose(lazy.kv(lazy).sum(axis=1), special.kv(dense, dense).sum(axis=1))


def test_matern_kernels_of_half_orders():
    """Bessel functions give what exponentials give."""
    lazy, dense = pairs()
    for v, polynomial in ((0.5, [1]), (1.5, [1, 1]), (2.5, [1 / 3, 1, 1])):
        s = np.sqrt(2 * v) * lazy
        kernel = 2 ** (1 - v) / special.gamma(v) * s**v * special.kv(v, s)
        t = np.sqrt(2 * v) * dense
        want = np.polyval(polynomial, t) * np.exp(-t)
        np.testing.assert_allclose(kernel.to_dense(), want, rtol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gamma_near_its_pole_at_zero(dtype):
    x = np.array([0, 1e-300, 1e-160, 1e-37, 1e-25, 1e-17, 3e-20, 1e-9, 2e-8, 1e-3], dtype)
    x = np.concatenate([x, -x])
    with config(engine="cpu"):
        got = special.gamma(LazyArray(x[:, None]) * np.ones((1, 2), dtype)).max(axis=1)
    np.testing.assert_allclose(got, special.gamma(x), rtol=1e-6 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("name", ["kv", "kve", "iv", "ive"])
@pytest.mark.parametrize("order", [0, 1, -1, 0.5, -0.5, 2.5, -3.5, 7.5, 8.5, 2, 5, 8, 9, 0.75])
def test_constant_orders(name, order):
    """Whole and half orders have formulas of their own."""
    f = getattr(special, name)
    for dtype, close in (("float32", 2e-6), ("float64", 1e-13)):
        lazy, dense = pairs(dtype)
        with config(engine="cpu"):
            got = f(order, lazy).min(axis=1)
        assert got.dtype == dtype
        want = f(order, dense.astype(np.float64)).min(axis=1)
        np.testing.assert_allclose(got, want, rtol=close)
    ends = LazyArray(np.array([0.0, 1e-200, -1, np.nan]))[:, None] + LazyArray(np.zeros(2))[None]
    with config(engine="cpu"), np.errstate(all="ignore"):
        got = f(order, ends).min(axis=1)
        want = f(order, np.array([0.0, 1e-200, -1, np.nan]))
    if name == "ive" and order < 0:  # SciPy: NaN where x is 0 or tiny
        got, want = got[2:], want[2:]
    if name == "iv" and order == -3.5:  # SciPy: positive at 0
        got, want = got[1:], want[1:]
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-150)


def test_constant_orders_need_no_general_function():
    x = LazyArray(X)
    d = abs(x[:, None] - x[None, :])
    for order in (0, 1, 2, 0.5, 2.5, 1.7, 8.5, 9):
        loop = special.kv(order, d).source().split("void pairs(")[1].split("\n}\n")[0]
        assert ("kv_f64(" in loop) == (order in (1.7, 8.5, 9))


def test_complex_numbers_are_refused():
    lazy, _ = pairs("complex128")
    with pytest.raises(DtypeError, match=r"scipy\.special\.erf of complex numbers has no pairwise"):
        special.erf(lazy)
    with pytest.raises(DtypeError, match=r"scipy\.special\.k0: "):
        special.k0(lazy)


def test_every_other_ufunc_is_refused_by_name():
    lazy, _ = pairs()
    rows = {getattr(special, op.scipy) for op in ROWS} | set(ops.BY_FUNCTION)
    others = [f for f in vars(special).values() if isinstance(f, np.ufunc) and f not in rows]
    assert len(others) > 150
    for f in others:
        with pytest.raises(
            UnsupportedError, match=rf"scipy\.special\.{f.__name__} has no pairwise"
        ):
            f(*[2] * (f.nin - 1), lazy)
