"""The same call on arrays and on lazy arrays gives the same value, dtype, shape and type."""

import math
import re
import tracemalloc
import warnings

import numpy as np
import pytest

from duckkeops import (
    DtypeError,
    LazyArray,
    RoleError,
    UnsupportedError,
    VirtualArrayError,
    config,
)

pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass")
rng = np.random.default_rng(0)
M, N, D, B = 7, 5, 3, 2
X, Y, Z = rng.normal(size=(M, D)), rng.normal(size=(N, D)), rng.normal(size=(4, D))
V, W, P = rng.normal(size=N), rng.normal(size=(N, 2)), rng.normal(size=(D, 2))
BX, BY, BV = rng.normal(size=(B, M, D)), rng.normal(size=(B, N, D)), rng.normal(size=(B, N, 2))
MASK, COST = rng.random((M, N)) < 0.6, rng.random((M, N))
MASK[:, 0] = True


def squares(x, y):
    """All squared distances (M, N), as a function for arrays writes them."""
    return ((x[:, None, :] - y[None, :, :]) ** 2).sum(-1)


def gaussian(x, y):
    return np.exp(-squares(x, y))


def differences(x, y):
    return x[:, None, :] - y[None, :, :]


def same(function, *arrays, exactly_lazy=None, rtol=1e-12):
    """Assert that `function` does on lazy arrays what it does on arrays."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        want = function(*arrays)
        got = function(*(LazyArray(a) for a in arrays))
    agree(got, want, exactly_lazy, rtol)


def agree(got, want, is_lazy=None, rtol=1e-12):
    if isinstance(want, tuple | list):
        assert len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            agree(g, w, is_lazy, rtol)
        return
    if is_lazy is not None:
        assert isinstance(got, LazyArray) == is_lazy, f"got {type(got)}"
    if isinstance(got, LazyArray):
        assert got.shape == np.shape(want), (got.shape, np.shape(want))
        assert got.dtype == want.dtype
        got = got.to_dense()
    elif not isinstance(want, np.ndarray):
        assert type(got) is type(want), (type(got), type(want))
    assert np.shape(got) == np.shape(want)
    assert np.asarray(got).dtype == np.asarray(want).dtype
    if np.asarray(want).dtype.itemsize <= 4 and np.asarray(want).dtype.kind == "f":
        rtol = 2e-3 if np.asarray(want).dtype.itemsize == 2 else 2e-5
    np.testing.assert_allclose(
        np.asarray(got, dtype=np.asarray(want).dtype),
        want,
        rtol=rtol,
        atol=1e-12 if rtol < 1e-9 else rtol,
    )


REDUCTIONS = [
    np.sum,
    np.prod,
    np.min,
    np.max,
    np.mean,
    np.var,
    np.std,
    np.any,
    np.all,
    np.count_nonzero,
    np.ptp,
    np.argmin,
    np.argmax,
]
NAN_REDUCTIONS = [
    np.nansum,
    np.nanprod,
    np.nanmean,
    np.nanvar,
    np.nanstd,
    np.nanmin,
    np.nanmax,
    np.nanargmin,
    np.nanargmax,
]


@pytest.mark.parametrize("axis", [0, 1, -1, -2, None])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("f", REDUCTIONS + NAN_REDUCTIONS, ids=lambda f: f.__name__)
def test_a_reduction_over_points_is_genuine(f, keepdims, axis):
    same(lambda x, y: f(squares(x, y), axis=axis, keepdims=keepdims), X, Y, exactly_lazy=False)


@pytest.mark.parametrize("axis", [2, -1])
@pytest.mark.parametrize("f", REDUCTIONS + NAN_REDUCTIONS[:-2], ids=lambda f: f.__name__)
def test_a_reduction_over_features_is_lazy(f, axis):
    same(lambda x, y: f(differences(x, y), axis=axis), X, Y, exactly_lazy=True)


@pytest.mark.parametrize("axis", [(0, 1), (0, 2), (-1, -2), (0, 1, 2), (2,)])
@pytest.mark.parametrize(
    "f", [np.sum, np.max, np.mean, np.var, np.any, np.count_nonzero], ids=lambda f: f.__name__
)
def test_several_axes(f, axis):
    same(lambda x, y: f(differences(x, y), axis=axis), X, Y, exactly_lazy=axis == (2,))


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int32", "int64", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("f", REDUCTIONS[:-3] + REDUCTIONS[-2:], ids=lambda f: f.__name__)
def test_dtypes_of_reductions(f, dtype):
    x, y = (4 * rng.random(M) - (dtype != "uint8")).astype(dtype), (4 * rng.random(N)).astype(dtype)
    same(lambda x, y: f(np.maximum(x[:, None], y), axis=1), x, y, exactly_lazy=False)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "complex128"])
@pytest.mark.parametrize("f", [np.sum, np.prod, np.mean], ids=lambda f: f.__name__)
def test_dtype_argument(f, dtype):
    x, y = X.astype("f4"), Y.astype("f4")
    if dtype == "int64":
        x, y = x.round(), y.round()
    same(lambda x, y: f(squares(x, y), axis=1, dtype=dtype), x, y, exactly_lazy=False, rtol=1e-6)


WHERE_CASES = {
    "sum": lambda d: np.sum(d, axis=1, where=MASK),
    "sum, mask of columns": lambda d: np.sum(d, axis=1, where=MASK[0]),
    "sum, initial": lambda d: np.sum(d, axis=1, initial=10.0),
    "prod": lambda d: np.prod(d, axis=0, where=MASK, initial=2.0),
    "min": lambda d: np.min(d, axis=1, where=MASK, initial=1.0),
    "max": lambda d: np.max(d, axis=1, where=MASK, initial=0.5),
    "max, initial": lambda d: np.max(d, axis=1, initial=3.0, keepdims=True),
    "mean": lambda d: np.mean(d, axis=1, where=MASK),
    "mean, mask of columns": lambda d: np.mean(d, axis=1, where=MASK[0]),
    "mean, all": lambda d: np.mean(d, where=MASK),
    "var": lambda d: np.var(d, axis=1, where=MASK),
    "std, ddof": lambda d: np.std(d, axis=0, where=MASK, ddof=1, keepdims=True),
    "var, correction": lambda d: np.var(d, axis=1, correction=1),
    "var, ddof": lambda d: np.var(d, axis=None, ddof=2),
    "var, mean": lambda d: np.var(d, axis=1, mean=np.mean(d, axis=1, keepdims=True)),
    "any": lambda d: np.any(d > 1, axis=1, where=MASK),
    "all": lambda d: np.all(d < 3, axis=1, where=MASK),
    "average": lambda d: np.average(d, axis=1),
    "average, weights": lambda d: np.average(d, axis=1, weights=V**2),
    "average, weights of the shape": lambda d: np.average(d, axis=0, weights=COST),
    "average, all weights": lambda d: np.average(d, weights=COST),
    "average, returned": lambda d: np.average(d, axis=1, weights=V**2, returned=True),
    "add.reduce": lambda d: np.add.reduce(d),
    "minimum.reduce": lambda d: np.minimum.reduce(d, axis=1),
    "maximum.reduce": lambda d: np.maximum.reduce(d, axis=(0, 1)),
    "multiply.reduce": lambda d: np.multiply.reduce(d, axis=1, keepdims=True),
    "logical_or.reduce": lambda d: np.logical_or.reduce(d > 1, axis=1),
    "logical_and.reduce": lambda d: np.logical_and.reduce(d > 0.1, axis=1),
    "logaddexp.reduce": lambda d: np.logaddexp.reduce(d, axis=1),
    "fmin.reduce": lambda d: np.fmin.reduce(d, axis=1),
    "hypot.reduce": lambda d: np.hypot.reduce(d, axis=1),
    "trace": lambda d: np.trace(d),
    "trace, offset": lambda d: np.trace(d, offset=-2),
    "norm": lambda d: np.linalg.norm(d, axis=1),
    "norm of all": lambda d: np.linalg.norm(d),
    "norm, fro": lambda d: np.linalg.norm(d, "fro"),
    "norm, inf": lambda d: np.linalg.norm(d, np.inf),
    "norm, 1": lambda d: np.linalg.norm(d, 1),
    "norm, -1": lambda d: np.linalg.norm(d, -1, axis=(0, 1), keepdims=True),
    "vector_norm": lambda d: np.linalg.vector_norm(d, axis=0, ord=3),
    "matrix_norm": lambda d: np.linalg.matrix_norm(d),
    "count": lambda d: np.count_nonzero(d > 1, axis=1),
    "allclose": lambda d: np.allclose(d, d),
    "allclose not": lambda d: np.allclose(d, d + 1),
    "array_equal": lambda d: np.array_equal(d, d),
    "array_equal of other shapes": lambda d: np.array_equal(d, V),
    "array_equiv": lambda d: np.array_equiv(d, V),
    "diagonal": lambda d: np.diagonal(d),
    "diagonal, offset": lambda d: np.diagonal(d, 1),
    "take_along_axis": lambda d: np.take_along_axis(d, MASK[:, :2].astype(int), axis=1),
    "sort": lambda d: np.sort(d, axis=1)[:, :3],
    "sort, last": lambda d: np.sort(d, axis=1)[:, -3:],
    "sort, default axis": lambda d: np.sort(d)[:, 0],
    "sort, greatest first": lambda d: np.sort(d, axis=1)[:, ::-1][:, :2],
    "sort, back from the end": lambda d: np.sort(d, axis=1)[:, :-3:-1],
    "sort, axis 0": lambda d: np.sort(d, axis=0)[:4],
    "argsort": lambda d: np.argsort(d, axis=1)[:, :3],
    "argsort, neighbours but oneself": lambda d: np.argsort(d, axis=1)[:, 1:4],
    "argsort, last": lambda d: np.argsort(d, axis=1)[:, -1],
    "argsort, stable": lambda d: np.argsort(d, axis=1, kind="stable")[:, :2],
    "argsort, more than there are": lambda d: np.argsort(d, axis=1)[:, :99],
    "argsort of some rows": lambda d: np.argsort(d, axis=1)[2:4, :3],
    "argsort, none": lambda d: np.argsort(d, axis=1)[:, :0],
    "partition": lambda d: np.sort(np.partition(d, 2, axis=1)[:, :3], axis=1),
    "argpartition": lambda d: np.sort(np.argpartition(d, 2, axis=1)[:, :2], axis=1),
    "argpartition, last": lambda d: np.sort(np.argpartition(d, -2, axis=1)[:, -2:], axis=1),
    "kth": lambda d: np.partition(d, 2, axis=1)[:, 2],
}


@pytest.mark.parametrize("case", WHERE_CASES)
def test_reducing_functions(case):
    same(lambda x, y: WHERE_CASES[case](squares(x, y)), X, Y, exactly_lazy=False, rtol=1e-11)


LAZY_CASES = {
    "where": lambda d: np.where(d < 1, d, 0.0),
    "where, mask": lambda d: np.where(MASK, d, -1),
    "clip": lambda d: np.clip(d, 0.5, 1),
    "clip, min": lambda d: np.clip(d, min=0.5),
    "clip, array": lambda d: np.clip(d, None, V),
    "round": lambda d: np.round(d, 2),
    "around": lambda d: np.around(d),
    "nan_to_num": lambda d: np.nan_to_num(np.log(d - 1), nan=1.0),
    "isclose": lambda d: np.isclose(d, 1.0, atol=0.3),
    "select": lambda d: np.select([d < 1, d < 2], [d, 2 * d], -1.0),
    "angle": lambda d: np.angle(d),
    "real": lambda d: np.real(d + 1j),
    "imag": lambda d: np.imag(d + 2j),
    "imag of a real": lambda d: np.imag(d),
    "copy": lambda d: np.copy(d),
    "astype": lambda d: np.astype(d, np.float32),
    "astype int": lambda d: d.astype(int),
    "zeros_like": lambda d: np.zeros_like(d),
    "ones_like": lambda d: np.ones_like(d, dtype=np.int32),
    "full_like": lambda d: np.full_like(d, 2.5),
    "tril": lambda d: np.tril(d),
    "triu": lambda d: np.triu(d, 1),
    "tril of booleans": lambda d: np.tril(d < 1, -1),
    "transpose": lambda d: np.transpose(d),
    "permute_dims": lambda d: np.permute_dims(d, (1, 0)),
    "matrix_transpose": lambda d: np.matrix_transpose(d),
    "swapaxes": lambda d: np.swapaxes(d, 0, -1),
    "moveaxis": lambda d: np.moveaxis(d, 0, 1),
    "rollaxis": lambda d: np.rollaxis(d, 1),
    "reshape": lambda d: np.reshape(d, (M, 1, N)),
    "reshape, unknown": lambda d: np.reshape(d, (1, M, -1)),
    "expand_dims": lambda d: np.expand_dims(d, (0, 2)),
    "squeeze": lambda d: np.squeeze(d[None], 0),
    "atleast_3d": lambda d: np.atleast_3d(d),
    "broadcast_to": lambda d: np.broadcast_to(d, (2, M, N)),
    "broadcast_arrays": lambda d: np.broadcast_arrays(d, V),
    "flip": lambda d: np.flip(d),
    "flip, axis": lambda d: np.flip(d, 1),
    "fliplr": lambda d: np.fliplr(d),
    "flipud": lambda d: np.flipud(d),
    "rot90": lambda d: np.rot90(d),
    "rot90 thrice": lambda d: np.rot90(d, 3),
    "stack": lambda d: np.stack([d, 2 * d], axis=-1),
    "stack first": lambda d: np.stack([d, d]),
    "dstack": lambda d: np.dstack([d, d + 1]),
    "split": lambda d: np.split(d, [2, 3], axis=1),
    "array_split": lambda d: np.array_split(d, 3),
    "hsplit": lambda d: np.hsplit(d, 5),
    "vsplit": lambda d: np.vsplit(d, 7),
    "take": lambda d: np.take(d, [0, 3, -1], axis=1),
    "take one": lambda d: np.take(d, 2, axis=0),
    "take, wrap": lambda d: np.take(d, [9, -9], axis=1, mode="wrap"),
    "divmod": lambda d: np.divmod(d, 0.3),
    "modf": lambda d: np.modf(d),
    "frexp": lambda d: np.frexp(d),
    "add, dtype": lambda d: np.add(d, 1, dtype=np.float32),
    "outer": lambda d: np.subtract.outer(d[:, 0], d[0]),
    "softmax-like": lambda d: np.exp(d - np.logaddexp.reduce(d, axis=1, keepdims=True)),
    "ufunc, array first": lambda d: np.subtract(COST, d),
    "ufunc, scalar first": lambda d: np.power(2.0, d),
    "hypot": lambda d: np.hypot(d, 1),
    "np.abs": lambda d: np.abs(-d),
    "sign": lambda d: np.sign(d - 1),
    "nan": lambda d: np.isnan(np.log(d - 1)),
    "multiply a mask": lambda d: d * MASK,
    "logical": lambda d: np.logical_and(d > 1, MASK),
    "shift": lambda d: (d.astype(int) << 2) | 1,
    "diag of components": lambda d: d[0, :, None] * np.eye(N),
}


@pytest.mark.parametrize("case", LAZY_CASES)
def test_lazy_functions(case):
    same(lambda x, y: LAZY_CASES[case](squares(x, y)), X, Y, exactly_lazy=True)


FEATURE_CASES = {
    "concatenate": lambda u: np.concatenate([u, 2 * u], axis=-1),
    "concat of dtypes": lambda u: np.concat([u, u.astype("f4")], axis=2),
    "dstack": lambda u: np.dstack([u, u]),
    "append": lambda u: np.append(u, u, axis=-1),
    "unstack": lambda u: np.unstack(u, axis=-1),
    "dsplit": lambda u: np.dsplit(u, 3),
    "reshape": lambda u: np.reshape(np.concatenate([u, u], -1), (M, N, 2, 3)),
    "reshape back": lambda u: np.stack([u, u, u, u], 2).reshape(M, N, 12),
    "moveaxis": lambda u: np.moveaxis(u, -1, 0),
    "component": lambda u: u[..., 1],
    "components": lambda u: u[..., ::-1],
    "some components": lambda u: u[..., [2, 0]],
    "norm": lambda u: np.linalg.norm(u, axis=-1),
    "norm, 1": lambda u: np.linalg.norm(u, 1, axis=-1),
    "norm, inf": lambda u: np.linalg.norm(u, np.inf, axis=-1, keepdims=True),
    "norm, 0": lambda u: np.linalg.norm(u, 0, axis=-1),
    "norm, 3.5": lambda u: np.linalg.norm(u, 3.5, axis=-1),
    "vecdot": lambda u: np.vecdot(u, u),
    "vecdot with a vector": lambda u: np.linalg.vecdot(u, P[:, 0]),
    "matmul": lambda u: u @ P,
    "matmul with a vector": lambda u: u @ P[:, 0],
    "einsum": lambda u: np.einsum("ijd,ijd->ij", u, u),
    "einsum, ellipsis": lambda u: np.einsum("...d,d->...", u, P[:, 1]),
    "einsum, matrix": lambda u: np.einsum("ijd,de->ije", u, P),
    "einsum, operands": lambda u: np.einsum(u, [0, 1, 2], u, [0, 1, 2], [0, 1]),
    "einsum of three": lambda u: np.einsum("ijd,de,ije->ij", u, P @ P.T, u),
    "cross": lambda u: np.cross(u, P[:, 0]),
    "tensordot": lambda u: np.tensordot(u, P, axes=1),
    "inner": lambda u: np.inner(u, P.T),
    "dot": lambda u: np.dot(u, P),
    "outer product": lambda u: u[..., :, None] * u[..., None, :],
    "trace of features": lambda u: np.trace(u[..., :, None] * u[..., None, :], axis1=-2, axis2=-1),
    "diagonal of features": lambda u: np.diagonal(
        u[..., :, None] * u[..., None, :], axis1=-2, axis2=-1
    ),
    "cumulative by matrix": lambda u: u @ np.tri(3).T,
    "matvec": lambda u: np.matvec(P.T, u),
    "vecmat": lambda u: np.vecmat(u, P),
    "average": lambda u: np.average(u, axis=-1, weights=np.arange(1.0, 4.0)),
}


@pytest.mark.parametrize("case", FEATURE_CASES)
def test_functions_of_features_are_lazy(case):
    same(lambda x, y: FEATURE_CASES[case](differences(x, y)), X, Y, exactly_lazy=True)


CONTRACTIONS = {
    "K @ b": (lambda k: k @ V, False),
    "K @ B": (lambda k: k @ W, False),
    "a @ K": (lambda k: X[:, 0] @ k, False),
    "A @ K": (lambda k: X.T @ k, False),
    "K.T @ a": (lambda k: k.T @ X[:, 0], False),
    "matmul": (lambda k: np.matmul(k, W), False),
    "linalg.matmul": (lambda k: np.linalg.matmul(k, W), False),
    "dot": (lambda k: np.dot(k, V), False),
    "dot method": (lambda k: k.dot(W), False),
    "inner": (lambda k: np.inner(k, V), False),
    "tensordot": (lambda k: np.tensordot(k, W, axes=(1, 0)), False),
    "tensordot of both axes": (lambda k: np.tensordot(k, COST), False),
    "vecdot": (lambda k: np.vecdot(k, V), False),
    "vecdot, axis": (lambda k: np.vecdot(k, COST, axis=0), False),
    "vecdot, keepdims": (lambda k: np.vecdot(k, COST, axis=0, keepdims=True), False),
    "matvec": (lambda k: np.matvec(k, V), False),
    "vecmat": (lambda k: np.vecmat(X[:, 0], k), False),
    "vdot": (lambda k: np.vdot(k, COST), False),
    "einsum": (lambda k: np.einsum("ij,j->i", k, V), False),
    "einsum implicit": (lambda k: np.einsum("ij,j", k, V), False),
    "einsum of all": (lambda k: np.einsum("ij->", k), False),
    "einsum transposed": (lambda k: np.einsum("ij->ji", k), True),
    "einsum of rows": (lambda k: np.einsum("ij->j", k), False),
    "einsum quadratic form": (lambda k: np.einsum("i,ij,j->", X[:, 0], k, V), False),
    "einsum diagonal": (lambda k: np.einsum("ii->i", k[:5]), True),
    "einsum trace": (lambda k: np.einsum("ii", k[:5]), False),
    "einsum operand list": (lambda k: np.einsum(k, [0, 1], V, [1], [0]), False),
    "K @ K.T": (lambda k: k @ k.T, True),
    "K @ K.T @ a": (lambda k: k @ (k.T @ X[:, 0]), False),
    "multi_dot": (lambda k: np.linalg.multi_dot([k, k.T, X]), False),
    "einsum of K, K, a": (lambda k: np.einsum("ij,kj,k->i", k, k, X[:, 0]), False),
    "weighted sum": (lambda k: (k[:, :, None] * Y[None]).sum(1), False),
    "matmul, axes": (lambda k: np.matmul(k, W.T, axes=[(0, 1), (1, 0), (0, 1)]), False),
    "outer": (lambda k: np.outer(k[0], V), True),
    "integers": (lambda k: (k > 0.1).astype("i4") @ np.arange(5, dtype="i4"), False),
    "booleans": (lambda k: (k > 0.5) @ (V > 0), False),
    "out": (lambda k: np.matmul(k, V, out=np.empty(M)), False),
}


@pytest.mark.parametrize("case", CONTRACTIONS)
def test_contractions(case):
    function, lazy = CONTRACTIONS[case]
    same(lambda x, y: function(gaussian(x, y)), X, Y, exactly_lazy=lazy)


def test_contractions_of_leaves():
    same(lambda x, y: x @ y.T, X, Y, exactly_lazy=True)
    same(lambda x: x @ Y.T, X, exactly_lazy=True)
    same(lambda y: X @ y.T, Y, exactly_lazy=True)
    same(lambda x, y: np.einsum("id,jd->ij", x, y), X, Y, exactly_lazy=True)
    same(lambda x: x.T @ x, X, exactly_lazy=False)
    same(lambda x, y: np.inner(x, y), X, Y, exactly_lazy=True)


def test_batches():
    def kernel(x, y):
        return np.exp(-((x[:, :, None] - y[:, None]) ** 2).sum(-1))

    lazy = kernel(LazyArray(BX, batch_ndim=1), LazyArray(BY, batch_ndim=1))
    dense = kernel(BX, BY)
    assert lazy.roles == ("batch", "point", "point")
    agree(lazy @ BV, dense @ BV, False)
    agree(lazy.sum(0), dense.sum(0), True)
    agree(lazy.sum((0, 2)), dense.sum((0, 2)), False)
    agree(np.einsum("bij,bje->bie", lazy, BV), dense @ BV, False)
    agree(lazy.mT.argmin(-1), dense.mT.argmin(-1), False)


def test_three_points():
    def f(x, y, z):
        return np.exp(
            -np.abs(x[:, None, None, 0] - y[None, :, None, 0])
            - np.abs(y[None, :, None, 1] - z[None, None, :, 1])
        )

    same(lambda x, y, z: f(x, y, z).sum((1, 2)), X, Y, Z, exactly_lazy=False)
    same(lambda x, y, z: f(x, y, z).min(2), X, Y, Z, exactly_lazy=True)
    same(lambda x, y, z: f(x, y, z).min(2).sum(1), X, Y, Z, exactly_lazy=False)
    same(lambda x, y, z: f(x, y, z).mean(2), X, Y, Z, exactly_lazy=True)


def softmax(s, axis):
    e = np.exp(s - s.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def test_softmax():
    s, S = -squares(X, Y), -squares(LazyArray(X), LazyArray(Y))
    p, lazy = softmax(s, 1), S.softmax(axis=1)
    agree(lazy, p, True)
    agree(lazy @ W, p @ W, False)
    agree(lazy @ V, p @ V, False)
    agree((lazy[:, :, None] * Y[None]).sum(1), p @ Y, False)
    agree((lazy * 2 * V).sum(1), (p * 2 * V).sum(1), False)
    agree(np.einsum("ij,jd->di", lazy, W), (p @ W).T, False)
    agree(lazy.sum(1), p.sum(1), False)
    agree(lazy.sum(0), p.sum(0), False)
    agree(lazy.max(1), p.max(1), False)
    agree(lazy.T @ X, p.T @ X, False)
    agree(lazy[:, :3] @ V[:3], p[:, :3] @ V[:3], False)
    agree(lazy[:, [0, 0, 1, 1, 2]] @ V, p[:, [0, 0, 1, 1, 2]] @ V, False)
    agree(lazy[2:4] @ V, p[2:4] @ V, False)
    agree(S.softmax(0) @ V, softmax(s, 0) @ V, False)
    agree(S.softmax((0, 1)).max(), softmax(s, (0, 1)).max(), False)
    agree(S.log_softmax(1), np.log(p), True)
    agree(S.softmax_sum(V, axis=1), p @ V, False)
    agree((LazyArray(X)[:, None] * LazyArray(Y)).softmax(-1), softmax(X[:, None] * Y, -1), True)


def test_a_softmax_times_values_is_one_pass(monkeypatch):
    from duckkeops import evaluate

    seen = []
    original = evaluate.evaluate
    monkeypatch.setattr(
        evaluate,
        "evaluate",
        lambda node, *order: seen.append(node.row.name) or original(node, *order),
    )
    weights = squares(LazyArray(X), LazyArray(Y)).softmax(axis=1)
    assert seen == []
    weights @ W
    assert seen == ["softmax_sum"]


def test_logsumexp():
    s, S = 50 * squares(X, Y), 50 * squares(LazyArray(X), LazyArray(Y))
    for axis in (0, 1, None):
        agree(S.logsumexp(axis), np.logaddexp.reduce(s, axis=axis), False)
    assert S.logsumexp(1, keepdims=True).shape == (M, 1)


def test_topk():
    d, lazy = squares(X, Y), squares(LazyArray(X), LazyArray(Y))
    values, index = lazy.topk(3, axis=1)
    agree(values, -np.sort(-d, axis=1)[:, :3], False)
    agree(index, np.argsort(-d, axis=1)[:, :3], False)
    agree(lazy.argtopk(2, dim=0, largest=False), np.argsort(d, axis=0)[:2], False)


@pytest.mark.parametrize("name", ["sum", "min", "argmax", "mean", "var", "any", "logsumexp"])
def test_both_spellings_of_axis(name):
    lazy = squares(LazyArray(X), LazyArray(Y))
    one = getattr(lazy, name)(dim=1, keepdim=True)
    other = getattr(lazy, name)(axis=1, keepdims=True)
    assert one.shape == (M, 1)
    assert np.array_equal(one, other)


def test_out():
    d, lazy = squares(X, Y), squares(LazyArray(X), LazyArray(Y))
    for f, buffer in [
        (np.sum, np.empty(M)),
        (np.argmin, np.empty(M, int)),
        (np.mean, np.empty(M)),
        (np.any, np.empty(M, bool)),
        (np.std, np.empty(M)),
    ]:
        assert f(lazy, axis=1, out=buffer) is buffer
        agree(buffer, f(d, axis=1), False)
    wide = np.empty(M)
    same32 = squares(LazyArray(X.astype("f4")), LazyArray(Y.astype("f4")))
    assert np.sum(same32, axis=1, out=wide) is wide
    with pytest.raises(
        ValueError, match="output parameter has the wrong shape: the result has shape"
    ):
        np.sum(lazy, axis=1, out=np.empty(M + 1))
    whole = np.empty(M, int)
    agree(np.mean(lazy, axis=1, out=whole), d.mean(axis=1).astype(int), False)
    with pytest.raises(TypeError, match="Cannot cast"):
        np.std(lazy, axis=1, out=np.empty(M, int))
    with pytest.raises(TypeError, match=r"argmin\(out=\) takes an array of int64, and got float64"):
        np.argmin(lazy, axis=1, out=np.empty(M))


@pytest.mark.parametrize("name", ["sum", "mean", "var", "any", "argmin", "count_nonzero", "ptp"])
def test_a_truth_value_is_no_axis(name):
    lazy = squares(LazyArray(X), LazyArray(Y))
    with pytest.raises(TypeError, match="an integer is required"):
        getattr(np, name)(lazy, axis=True)


def test_tables_are_short_and_ordinary():
    lazy, _ = lazies()
    with pytest.raises(UnsupportedError, match="isin with a table of 5000 entries"):
        np.isin(lazy, np.arange(5000))
    with pytest.raises(UnsupportedError, match="searchsorted with a virtual a"):
        np.searchsorted(lazy, 0.5)
    with pytest.raises(ValueError, match="bins must be monotonically increasing or decreasing"):
        np.digitize(lazy, [1, 3, 2])


def test_choose_finds_numbers_out_of_range():
    lazy, _ = lazies()
    with pytest.raises(ValueError, match="invalid entry in choice array"):
        np.choose(lazy.astype(int), [1, 2])


def test_rows_by_number_of_three_points_and_of_softmax():
    def f(x, y, z):
        return (x[:, None, None, 0] - y[None, :, None, 0]) * z[None, None, :, 1]

    for g in (
        lambda v: np.roll(v, 1, axis=2),
        lambda v: np.repeat(v, 2, axis=1),
        lambda v: np.pad(v, 1, "wrap"),
        lambda v: np.diff(v, axis=0),
    ):
        same(lambda x, y, z, g=g: g(f(x, y, z)), X, Y, Z, exactly_lazy=True)
        same(lambda x, y, z, g=g: g(f(x, y, z)).sum((1, 2)), X, Y, Z, exactly_lazy=False)
    p, weights = softmax(squares(X, Y), 1), squares(LazyArray(X), LazyArray(Y)).softmax(1)
    agree(np.roll(weights, 2, axis=0), np.roll(p, 2, axis=0), True)


def test_the_square_of_truth_values_is_int8():
    same(lambda x, y: (x[:, None, 0] < y[None, :, 0]) ** 2, X, Y, exactly_lazy=True)
    same(lambda x, y: np.power(x[:, None, 0] < y[None, :, 0], 2), X, Y, exactly_lazy=True)
    same(lambda x, y: (x[:, None, 0] < y[None, :, 0]) ** True, X, Y, exactly_lazy=True)


def test_a_role_error_says_which_operand_and_what_to_write():
    with pytest.raises(RoleError) as caught:
        LazyArray(X) @ LazyArray(P)
    lines = str(caught.value).splitlines()
    assert lines[2:] == [
        "  Write LazyArray(a, feature_ndim=0) for operand 0, (7, 3) float64, "
        "where it is a feature axis, if it numbers points.",
        "  Write LazyArray(a, feature_ndim=2) for operand 1, (3, 2) float64, "
        "where it is a point axis, if it holds the entries of one vector or matrix.",
    ]
    agree(LazyArray(X) @ LazyArray(P, feature_ndim=2), X @ P, True)
    with pytest.raises(RoleError, match=r"feature_ndim=1\) for operand 1, \(7, 3\) float64"):
        LazyArray(X) + LazyArray(X, feature_ndim=0)
    agree(LazyArray(X) + LazyArray(X, feature_ndim=1), X + X, True)


EMPTY_OR_NAN = {
    "mean": (lambda d, e: np.mean(e, axis=1), "Mean of empty slice"),
    "mean, where": (lambda d, e: np.mean(d, axis=1, where=MASK & False), "Mean of empty slice"),
    "nanmean": (lambda d, e: np.nanmean(d * np.nan, axis=0), "Mean of empty slice"),
    "var": (lambda d, e: np.var(e, axis=1), "Degrees of freedom <= 0"),
    "std, ddof": (lambda d, e: np.std(d, axis=1, ddof=N), "Degrees of freedom <= 0"),
    "nanvar": (lambda d, e: np.nanvar(d * np.nan, axis=1), "Degrees of freedom <= 0"),
    "nanmax": (lambda d, e: np.nanmax(d * np.nan, axis=1), "All-NaN slice encountered"),
}


@pytest.mark.parametrize("case", EMPTY_OR_NAN)
def test_warnings_are_numpys(case):
    call, text = EMPTY_OR_NAN[case]
    none = np.empty((0, D))
    for wrap in (np.asarray, LazyArray):
        with pytest.warns(RuntimeWarning, match=text):
            call(squares(wrap(X), wrap(Y)), squares(wrap(X), wrap(none)))


def test_an_average_of_an_array_with_lazy_weights_is_genuine():
    def f(a):
        return lambda x, y: np.average(a, axis=1, weights=gaussian(x, y), returned=True)

    same(f(COST), X, Y, exactly_lazy=False)
    same(f(np.broadcast_to(V, (M, N))), X, Y, exactly_lazy=False)


def test_methods_answer_as_the_functions():
    same(lambda x, y: differences(x, y).cumsum(-1), X, Y, exactly_lazy=True)
    same(lambda x, y: squares(x, y).compress(V > 0, axis=1), X, Y, exactly_lazy=True)
    same(lambda x, y: squares(x, y).repeat(2, axis=0), X, Y, exactly_lazy=True)
    lazy, _ = lazies()
    for call in (lambda: lazy.put(0, 1.0), lambda: lazy.resize(3), lambda: lazy.cumsum(1)):
        with pytest.raises(UnsupportedError):
            call()


def test_metadata():
    d, lazy = squares(X, Y), squares(LazyArray(X), LazyArray(Y))
    for f in (np.shape, np.ndim, np.size, np.iscomplexobj, np.isrealobj, np.result_type):
        assert f(lazy) == f(d)
    assert np.size(lazy, 1) == N
    assert np.result_type(lazy, np.float32, 1j) == np.complex128
    assert np.can_cast(lazy, np.float32) == np.can_cast(d.dtype, np.float32)
    assert np.einsum_path("ij,j->i", lazy, V)[0] == np.einsum_path("ij,j->i", d, V)[0]


def test_empty_axes():
    x, y = X, np.empty((0, D))
    same(lambda x, y: squares(x, y).sum(1), x, y, exactly_lazy=False)
    same(lambda x, y: squares(x, y).min(1, initial=4.0), x, y, exactly_lazy=False)
    same(lambda x, y: np.any(squares(x, y) > 0, axis=1), x, y, exactly_lazy=False)
    lazy = squares(LazyArray(x), LazyArray(y))
    with pytest.raises(
        ValueError, match="zero-size array to reduction operation minimum which has no identity"
    ):
        lazy.min(axis=1)
    with pytest.raises(ValueError, match="attempt to get argmin of an empty sequence"):
        np.argmin(lazy, axis=1)


def test_nan_is_found_as_numpy_finds_it():
    x = X.copy()
    x[2, 1] = np.nan
    for f in (
        np.min,
        np.argmin,
        np.max,
        np.sum,
        np.nanmin,
        np.nanmax,
        np.nansum,
        np.nanmean,
        np.nanvar,
        np.nanprod,
    ):
        same(lambda x, y, f=f: f(squares(x, y), axis=0), x, Y, exactly_lazy=False)
    same(lambda x, y: np.sort(squares(x, y), axis=0)[-2:], x, Y)
    with pytest.raises(ValueError, match="All-NaN slice encountered"):
        np.nanargmin(squares(LazyArray(x), LazyArray(Y)), axis=1)


def test_of_equals_the_first():
    x = np.zeros((4, 2))
    for f in (np.argmin, np.argmax):
        same(lambda x, y, f=f: f(squares(x, y), axis=1), x, np.ones((6, 2)), exactly_lazy=False)
    same(lambda x, y: np.argsort(squares(x, y), axis=1, kind="stable")[:, :3], x, np.ones((6, 2)))


def test_functions_elsewhere_work_on_what_is_not_virtual():
    lazy = LazyArray(X)
    agree(np.median(lazy, axis=0), np.median(X, axis=0))
    agree(np.cumsum(lazy, axis=0), np.cumsum(X, axis=0))
    agree(np.linalg.svd(lazy)[1], np.linalg.svd(X)[1])
    agree(lazy.cumsum(0), X.cumsum(0))
    agree(np.sort(lazy, axis=0), np.sort(X, axis=0))
    agree(np.add.accumulate(lazy), np.add.accumulate(X))
    agree(np.concatenate([lazy, lazy]), np.concatenate([X, X]), True)
    agree(np.where(lazy > 0), np.where(X > 0))
    agree(np.linalg.norm(lazy, 2), np.linalg.norm(X, 2))
    agree(np.pad(lazy, 1, "mean"), np.pad(X, 1, "mean"))
    p, q = LazyArray(X[:, 0], feature_ndim=0), np.sort(X[:, 0])
    agree(np.polyval(p, 2.0), np.polyval(X[:, 0], 2.0))
    agree(np.isin([X[2, 0], 7.0], p), np.isin([X[2, 0], 7.0], X[:, 0]))
    table = LazyArray(q, feature_ndim=0)
    agree(np.searchsorted(table, 0.1), np.searchsorted(q, 0.1))
    agree(np.digitize([0.1], table), np.digitize([0.1], q))
    agree(np.interp([0.1], table, q**2), np.interp([0.1], q, q**2))


def lazies():
    return squares(LazyArray(X), LazyArray(Y)), differences(LazyArray(X), LazyArray(Y))


REFUSED = {
    "median of features": (
        lambda d, u: np.median(u, axis=-1),
        UnsupportedError,
        "numpy.median over axes (2,) has no pairwise form, so it cannot take d: (7, 5, 3) float64.",
    ),
    "svd": (
        lambda d, u: np.linalg.svd(d),
        UnsupportedError,
        "numpy.linalg.svd has no pairwise form, so it cannot take d: (7, 5) float64.",
    ),
    "cumsum": (
        lambda d, u: np.cumsum(d, axis=0),
        UnsupportedError,
        "numpy.cumsum along axis 0, a point axis, has no pairwise form, "
        "so it cannot take d: (7, 5) float64.",
    ),
    "fft": (
        lambda d, u: np.fft.fft(d),
        UnsupportedError,
        "numpy.fft.fft has no pairwise form, so it cannot take d: (7, 5) float64.",
    ),
    "sort of all": (
        lambda d, u: np.sort(d, axis=1)[:],
        UnsupportedError,
        "all of numpy.sort(d, axis=1) has no pairwise form, so it cannot take d: (7, 5) float64.",
    ),
    "sort, from the middle": (
        lambda d, u: np.sort(d, axis=1)[:, 1:],
        UnsupportedError,
        "all of numpy.sort(d, axis=1) has no pairwise form, so it cannot take d: (7, 5) float64.",
    ),
    "sort of all as array": (
        lambda d, u: np.asarray(np.sort(d, axis=1)),
        VirtualArrayError,
        "all of numpy.sort(d, axis=1) has no pairwise form, so it cannot take d: (7, 5) float64.",
    ),
    "sort of features": (
        lambda d, u: np.sort(u, axis=-1),
        UnsupportedError,
        "numpy.sort over axis 2, a feature axis, has no pairwise form, "
        "so it cannot take d: (7, 5, 3) float64.",
    ),
    "stable, last": (
        lambda d, u: np.argsort(d, axis=1, kind="stable")[:, -2:],
        UnsupportedError,
        "numpy.argsort(kind='stable') of d: (7, 5) float64 gives only its first entries lazily: "
        "of equals the last would come last.",
    ),
    "beyond the partition": (
        lambda d, u: np.partition(d, 1, axis=1)[:, :4],
        ValueError,
        "numpy.partition(d, 1) orders only what is before and after rank 1, "
        "and ranks 0 to 3 were asked for.",
    ),
    "nonzero": (
        lambda d, u: np.nonzero(d),
        UnsupportedError,
        "numpy.nonzero has a result whose length depends on the data, "
        "so it cannot take d: (7, 5) float64.",
    ),
    "where of one": (
        lambda d, u: np.where(d > 1),
        UnsupportedError,
        "numpy.where(condition) has a result whose length depends on the data, "
        "so it cannot take d: (7, 5) bool.",
    ),
    "accumulate": (
        lambda d, u: np.add.accumulate(d),
        UnsupportedError,
        "numpy.add.accumulate along axis 0, a point axis, has no pairwise form, "
        "so it cannot take d: (7, 5) float64.",
    ),
    "reduceat": (
        lambda d, u: np.add.reduceat(d, [0, 1]),
        UnsupportedError,
        "numpy.add.reduceat has no pairwise form, so it cannot take d: (7, 5) float64.",
    ),
    "at": (
        lambda d, u: np.add.at(COST.copy(), 0, d),
        UnsupportedError,
        "numpy.add.at has no pairwise form, so it cannot take d: (7, 5) float64.",
    ),
    "subtract.reduce": (
        lambda d, u: np.subtract.reduce(d, axis=1),
        UnsupportedError,
        "numpy.subtract.reduce has no pairwise form, so it cannot take d: (7, 5) float64.",
    ),
    "frompyfunc": (
        lambda d, u: np.frompyfunc(abs, 1, 1)(d),
        UnsupportedError,
        "has no pairwise form, so it cannot take d: (7, 5) float64.",
    ),
    "out of a lazy result": (
        lambda d, u: np.exp(d, out=COST.copy()),
        UnsupportedError,
        "numpy.exp(out=) would write all entries of d: (7, 5) float64 into an array (280 bytes).",
    ),
    "where of a ufunc": (
        lambda d, u: np.exp(d, where=MASK),
        UnsupportedError,
        "exp(where=) of a lazy array would leave entries unset.",
    ),
    "spectral norm": (
        lambda d, u: np.linalg.norm(d, 2),
        UnsupportedError,
        "numpy.linalg.norm(ord=2) of matrices has no pairwise form, "
        "so it cannot take d: (7, 5) float64.",
    ),
    "min with where": (
        lambda d, u: np.min(d, axis=1, where=MASK),
        ValueError,
        "reduction operation 'minimum' does not have an identity, "
        "so to use a where mask one has to specify 'initial'",
    ),
    "merging axes": (
        lambda d, u: np.reshape(d, (5, 7)),
        ValueError,
        "cannot merge axes of lengths (7, 5) of a lazy array: "
        "an input of shape (7, 1, 3) has only some of them.",
    ),
    "reshape": (
        lambda d, u: np.reshape(d, (4, 4)),
        ValueError,
        "cannot reshape array of size 35 into shape (4, 4)",
    ),
    "concatenate shapes": (
        lambda d, u: np.concatenate([u, u[:3]], axis=-1),
        ValueError,
        "cannot concatenate along axis 2: axis 0 has 7 entries in array 0 and 3 in array 1.",
    ),
    "matmul lengths": (
        lambda d, u: d @ X,
        ValueError,
        "cannot matmul: the last axis of the first operand has 5 entries, "
        "and the last but one axis of the second 7.",
    ),
    "matmul with a scalar": (
        lambda d, u: np.matmul(d, 2),
        ValueError,
        "matmul: operand 1 does not have enough dimensions: it is a scalar. Use * to multiply.",
    ),
    "einsum lengths": (
        lambda d, u: np.einsum("ij,i->j", d, V),
        ValueError,
        "cannot einsum: axes that are multiplied have 7 and 5 entries.",
    ),
    "array_repr": (
        lambda d, u: np.array_repr(d),
        UnsupportedError,
        "numpy.array_repr has no pairwise form, so it cannot take d: (7, 5) float64.",
    ),
    "axis": (
        lambda d, u: np.sum(d, axis=2),
        np.exceptions.AxisError,
        "axis 2 is out of bounds for array of dimension 2",
    ),
    "sort method": (
        lambda d, u: d.sort(),
        UnsupportedError,
        "sorting in place has no pairwise form, so it cannot take d: (7, 5) float64.",
    ),
    "matrix": (
        lambda d, u: np.add(d, np.matrix(COST)),
        TypeError,
        "operand type(s) all returned NotImplemented",
    ),
    "masked array": (
        lambda d, u: np.concatenate([d, np.ma.array(COST)]),
        TypeError,
        "no implementation found for 'numpy.concatenate'",
    ),
    "topk of features": (
        lambda d, u: u.topk(2),
        UnsupportedError,
        "topk over axis 2, a feature axis, has no pairwise form, "
        "so it cannot take d: (7, 5, 3) float64.",
    ),
    "asarray": (
        lambda d, u: np.asarray(d),
        VirtualArrayError,
        "numpy.asarray(d) needs all entries of d: (7, 5) float64, "
        "which are never stored (280 bytes).",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    call, error, line = REFUSED[case]
    with pytest.raises(error) as caught:
        call(*lazies())
    first = str(caught.value).splitlines()[0]
    assert line in first, first


def test_refusing_computes_nothing(monkeypatch):
    from duckkeops import evaluate

    def fail(*args):
        raise AssertionError("something was computed")

    arguments = lazies()
    for name in ("evaluate", "dense", "to_dense"):
        monkeypatch.setattr(evaluate, name, fail)
    for call, error, _ in REFUSED.values():
        with pytest.raises(error):
            call(*arguments)


def test_every_ufunc_of_the_table_answers():
    from duckkeops import ops

    d = 0.1 + 0.5 * squares(X, Y) / squares(X, Y).max()
    lazy = 0.1 + 0.5 * squares(LazyArray(X), LazyArray(Y)) / squares(X, Y).max()
    for f, op in ops.BY_FUNCTION.items():
        if not isinstance(f, np.ufunc) or op.name.startswith(("bitwise", "clamp", "gcd", "lcm")):
            continue
        with np.errstate(invalid="ignore"):
            want = f(*[d] * f.nin)
        agree(f(*[lazy] * f.nin), want, True, 1e-9)
        agree(getattr(lazy, op.name)(*[d] * (f.nin - 1)), want, True, 1e-9)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint64"])
def test_clip_drops_bounds_beyond_the_dtype(dtype):
    x, y = rng.integers(0, 6, 9).astype(dtype), rng.integers(0, 6, 5).astype(dtype)
    for low, high in [(-1, 2), (-200, 3), (1, 10**30), (-(10**30), 10**30), (None, 10**30), (0, 3)]:
        same(lambda x, y, b=(low, high): np.clip(x[:, None] - y, *b), x, y)
    d = LazyArray(x)[:, None] - LazyArray(y)
    with pytest.raises(OverflowError, match="out of bounds"):
        np.clip(d, 0, -(10**30))


def test_private_ufunc_of_clip():
    lazy, _ = lazies()
    agree(COST.clip(lazy, 5), COST.clip(squares(X, Y), 5), True)


def test_sum_of_an_array_where_a_lazy_condition_holds():
    lazy, _ = lazies()
    agree(
        np.sum(COST, axis=1, where=lazy < 1), np.sum(COST, axis=1, where=squares(X, Y) < 1), False
    )


def test_scipy_takes_a_lazy_array_as_a_linear_operator():
    linalg = pytest.importorskip("scipy.sparse.linalg")
    k, lazy = np.exp(-squares(X, X)) + np.eye(M), np.exp(-squares(LazyArray(X), LazyArray(X)))
    i = LazyArray(np.arange(M))
    lazy = lazy + (i[:, None] == i[None, :])
    agree(linalg.aslinearoperator(lazy) @ X, k @ X)
    np.testing.assert_allclose(
        linalg.cg(lazy, X[:, 0], rtol=1e-12)[0], np.linalg.solve(k, X[:, 0]), rtol=1e-8
    )
    np.testing.assert_allclose(linalg.eigsh(lazy, 2)[0], np.linalg.eigvalsh(k)[-2:], rtol=1e-8)
    np.testing.assert_allclose(linalg.svds(lazy, 2)[1], np.linalg.eigvalsh(k)[-2:], rtol=1e-8)
    np.testing.assert_allclose(
        linalg.gmres(lazy, X[:, 0], rtol=1e-12)[0], np.linalg.solve(k, X[:, 0]), rtol=1e-8
    )


def test_half_precision_and_complex():
    half_x, half_y = X.astype("f2"), Y.astype("f2")
    for f in (np.sum, np.mean, np.min, np.std, np.argmax):
        same(
            lambda x, y, f=f: f(np.abs(x[:, None, 0] - y[None, :, 0]), axis=1),
            half_x,
            half_y,
            exactly_lazy=False,
        )
    complex_x, complex_y = X + 1j * X[::-1], Y - 1j
    for f in (
        np.sum,
        np.prod,
        np.mean,
        np.var,
        np.std,
        np.any,
        np.count_nonzero,
        np.linalg.norm,
        np.max,
    ):
        same(
            lambda x, y, f=f: f(x[:, None, 0] * y[None, :, 0], axis=1),
            complex_x,
            complex_y,
            exactly_lazy=False,
        )
    same(lambda x, y: np.vecdot(x[:, None], y[None]), complex_x, complex_y, exactly_lazy=True)
    same(lambda x, y: np.vecdot(complex_x[:, None], y[None]), X, complex_y, exactly_lazy=True)
    same(
        lambda x, y: np.vdot(x[:, None, 0] * y[None, :, 0], COST + 1j),
        complex_x,
        complex_y,
        exactly_lazy=False,
    )
    same(
        lambda x, y: np.conj(x[:, None, 0] * y[None, :, 0]).T @ X,
        complex_x,
        complex_y,
        exactly_lazy=False,
    )


@pytest.mark.parametrize("engine", ["auto", "blocks"])
def test_results_may_be_written_to(engine):
    lazy, _ = lazies()
    with config(engine=engine):
        for result in (
            lazy.sum(1),
            lazy @ V,
            lazy.argmin(0),
            *lazy.topk(2),
            lazy[[0, 1], [2, 3]],
            lazy.mean(1, keepdims=True),
        ):
            result += 1


def test_results_under_both_engines_agree():
    lazy, _ = lazies()
    with config(engine="blocks"):
        blocks = np.exp(-lazy) @ W
    agree(np.exp(-lazy) @ W, blocks, False)


def test_messages_name_size_and_remedy():
    big = squares(LazyArray(np.zeros((10**6, 1))), LazyArray(np.zeros((8 * 10**5, 1))))
    with pytest.raises(
        UnsupportedError,
        match=re.escape("d: (1000000, 800000) float64.\n")
        + ".*svds.*\n"
        + re.escape("  All entries of d, as d.to_dense() computes them, are 5.8 TiB."),
    ):
        np.linalg.svd(big)
    with pytest.raises(VirtualArrayError, match=re.escape("never stored (5.8 TiB)")):
        float(big)
    assert math.prod(big.shape) == big.size


def test_reductions_check_where_initial_and_dtype():
    x, y = np.arange(6.0), np.arange(5.0)
    d = LazyArray(x)[:, None] - LazyArray(y)[None]
    for function in (np.sum, np.mean, np.var, np.any):
        with pytest.raises(ValueError, match="does not broadcast"):
            function(d, axis=1, where=np.ones((2, 6, 5), bool))
        with pytest.raises(TypeError, match="takes booleans"):
            function(d, axis=1, where=np.ones((6, 5), int))
    with pytest.raises(TypeError):
        np.sum(d, axis=1, initial=1j)
    with pytest.raises(OverflowError):
        np.max(d.astype(np.uint8), axis=1, initial=300)
    with pytest.raises(DtypeError, match=r"float128|longdouble"):
        np.sum(d, axis=1, dtype=np.longdouble)


def test_nearly_all_entries_are_no_top_k():
    d = LazyArray(np.zeros(20_000), feature_ndim=0)[:, None] - LazyArray(np.zeros(20_000))[None]
    with pytest.raises(MemoryError, match=r"the top 20000 of 20000 entries need 6\.0 GiB"):
        d.topk(30_000, 1)
    with pytest.raises(MemoryError, match="nearly all"):
        np.sort(d, axis=1)[:, :15_000]


QUANTILES = [
    lambda d: np.median(d, axis=1),
    lambda d: np.median(d),
    lambda d: np.nanmedian(d, axis=0, keepdims=True),
    lambda d: np.quantile(d, [0.1, 0.9], axis=1, method="lower"),
    lambda d: np.nanquantile(d, 0.3, axis=0),
    lambda d: np.percentile(d, 33, axis=1, method="higher"),
]


@pytest.mark.parametrize("shape", [(6, 9), (3, 40), (1, 5), (4, 1)])
@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int32", "int64", "uint64", "float16", "float32", "float64"]
)
def test_quantiles_of_every_dtype(dtype, shape):
    x, y = (np.abs(5 * rng.normal(size=n)).astype(dtype) for n in shape)
    if dtype not in ("bool", "uint8", "uint64"):
        x[0] = -x[0]
    if dtype == "float64" and shape[1] > 5:
        y[3], y[0], y[1] = np.nan, 0.0, -0.0
    if dtype == "float32" and shape[1] > 5:
        y[2] = np.inf
    for f in QUANTILES:
        if dtype in ("bool", "float16") and f is QUANTILES[4]:
            continue  # NumPy cannot subtract truth values, and rounds 0.3 to float16
        same(lambda x, y, f=f: f(x[:, None] * y), x, y, exactly_lazy=False)


@pytest.mark.parametrize(("f", "missing"), [(np.median, 0), (np.median, 1), (np.nanmedian, 2)])
def test_medians_of_bfloat16(f, missing):
    """An odd number of entries: the median is one of them, so it is exact."""
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x, y = (rng.normal(size=n).astype(bfloat16) for n in (9, 13))
    y[:missing] = np.nan
    got = f(LazyArray(x)[:, None] * LazyArray(y), axis=1)
    want = f((x[:, None] * y).astype(np.float32), axis=1)
    assert got.dtype == bfloat16
    np.testing.assert_array_equal(got.astype(np.float32), want)


def test_quantiles_in_batches_and_of_no_entries():
    def median(x, y):
        return np.median(((x - y) ** 2).sum(-1), axis=2)

    lazy = median(LazyArray(BX[:, :, None]), LazyArray(BY[:, None]))
    agree(lazy, median(BX[:, :, None], BY[:, None]), False)
    with pytest.warns(RuntimeWarning, match="Mean of empty slice"):
        none = np.median(squares(LazyArray(X), LazyArray(np.empty((0, D)))), axis=1)
    assert np.isnan(none).all() and none.shape == (M,)
    with pytest.raises(ValueError, match="Quantiles must be in the range"):
        np.quantile(squares(LazyArray(X), LazyArray(Y)), 1.5)


def test_a_median_takes_no_memory_for_the_pairs():
    x, y = rng.normal(size=3000), rng.normal(size=2000)
    tracemalloc.start()
    got = np.median(np.abs(LazyArray(x)[:, None] - LazyArray(y)), axis=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000 * 2000  # all differences are 8 times as many bytes
    agree(got, np.median(np.abs(x[:, None] - y), axis=1), False)


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "int64", "float32"])
def test_digitize_takes_falling_bins_of_every_dtype(dtype):
    x, y, bins = np.arange(3.0), np.arange(2.0), np.array([3, 2, 1], dtype)
    d = LazyArray(x, feature_ndim=0)[:, None] + LazyArray(y, feature_ndim=0)[None, :]
    assert np.array_equal(np.digitize(d, bins).to_dense(), np.digitize(x[:, None] + y, bins))
