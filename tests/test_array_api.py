"""duckkeops.array_api: the standard's names, signatures and promotion; each function on virtual and
on genuine arrays agrees with NumPy; code written for any namespace runs on lazy arrays.

conformance/array_api runs data-apis/array-api-tests, for which a network is needed.
"""

import functools
import importlib.util
import inspect
import itertools
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import array_api_compat
import array_api_compat.numpy as dense_xp
import array_api_strict as strict
import numpy as np
import pytest

import duckkeops
from duckkeops import LazyArray, VirtualArrayError, expr
from duckkeops import array_api as xp
from duckkeops.array_api import Array, functions

ROOT = Path(__file__).parent.parent
M, N, D = 17, 15, 3
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(M, D)), rng.normal(size=(N, D))
B, COST = rng.normal(size=(N, 2)), rng.random((M, N))

# -- names, signatures, dtypes ---------------------------------------------------------------------


def strict_names():
    for prefix, module in (("", strict), ("linalg.", strict.linalg), ("fft.", strict.fft)):
        for name in module.__all__:
            if inspect.isfunction(getattr(module, name)) and "flags" not in name:
                yield prefix + name


def found(namespace, path):
    return functools.reduce(getattr, path.split("."), namespace)


@pytest.mark.parametrize("path", list(strict_names()))
def test_signatures_are_the_standards(path):
    theirs, ours = (inspect.signature(found(n, path)).parameters for n in (strict, xp))
    for name, parameter in theirs.items():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            continue  # its name does not matter, but its place does
        assert name in ours, f"{path} lacks {name}="
        kinds = {parameter.kind, parameter.POSITIONAL_OR_KEYWORD}
        assert ours[name].kind in kinds | {parameter.KEYWORD_ONLY} if path == "astype" else kinds
    places = [p for p in theirs.values() if p.kind is p.POSITIONAL_ONLY]
    mine = [p for p in ours.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    assert len(mine) >= len(places)


@pytest.mark.parametrize("name", ["e", "pi", "inf", "nan", "newaxis"])
def test_constants(name):
    assert repr(getattr(xp, name)) == repr(getattr(strict, name))


def test_wrong_arguments_name_the_function():
    with pytest.raises(TypeError, match=r"duckkeops.array_api.sum\(x, /, \*, axis=None"):
        xp.sum(xp.asarray([1.0]), 0)
    with pytest.raises(TypeError, match=r"duckkeops\.array_api\.add"):
        xp.add(xp.asarray([1.0]))


NUMERIC = [n for n in functions.DTYPES if n != "bool"]


@pytest.mark.parametrize("one", NUMERIC)
def test_promotion_is_the_standards(one):
    for other in NUMERIC:
        try:
            expected = strict.result_type(getattr(strict, one), getattr(strict, other))
        except TypeError:
            continue  # integers with floats: the standard does not say
        name = str(expected).rpartition(".")[2].strip("')>")
        assert xp.result_type(getattr(xp, one), getattr(xp, other)).name == name
        x, y = (xp.ones(3, dtype=getattr(xp, t)) for t in (one, other))
        assert (x + y).dtype.name == xp.multiply(x, y).dtype.name == name
        assert (x[:, None] + y).dtype.name == name  # a virtual one


@pytest.mark.parametrize("name", ["int8", "uint64", "float32", "complex64"])
def test_numbers_take_the_dtype_of_the_array(name):
    x = xp.ones((2, 3), dtype=getattr(xp, name))
    for y in (x + 1, 1 + x, xp.add(x, 1), xp.multiply(2, x), x[:, None] - 1):
        assert y.dtype == x.dtype and isinstance(y, Array)


@pytest.mark.parametrize("name", functions.DTYPES)
def test_dtypes(name):
    dtype = getattr(xp, name)
    assert xp.ones(2, dtype=dtype).dtype == dtype == functions.DTYPES[name]
    assert xp.isdtype(dtype, functions.DTYPES[name]) and dtype != None  # noqa: E711
    assert xp.can_cast(dtype, dtype) and xp.can_cast(xp.ones(2, dtype=dtype), xp.complex128)


def test_limits_are_python_numbers():
    info = xp.finfo(xp.float32)
    assert {type(v) for v in info[1:5]} == {float} and info.bits == 32
    assert xp.finfo(xp.asarray([1j])).dtype == xp.float64
    assert {type(v) for v in xp.iinfo(xp.int8)[:3]} == {int} and xp.iinfo(xp.int8).min == -128


def test_info():
    info = xp.__array_namespace_info__()
    assert info.default_device() == "cpu" and "cpu" in info.devices()
    assert info.capabilities()["boolean indexing"] is True
    assert info.dtypes() == functions.DTYPES
    assert set(info.dtypes(kind="real floating")) == {"float32", "float64"}
    assert set(info.dtypes(kind=("bool", "unsigned integer"))) == {
        *("bool", "uint8", "uint16", "uint32", "uint64")
    }
    assert info.default_dtypes()["real floating"] == xp.float64


def test_versions():
    d = LazyArray(X)
    assert d.__array_namespace__() is xp is d.__array_namespace__(api_version="2022.12")
    assert xp.__array_api_version__ == "2025.12"
    with pytest.raises(ValueError, match=r"the array API standard of version .1999\.1. is not"):
        d.__array_namespace__(api_version="1999.1")


# -- every function, on virtual and on genuine arrays ----------------------------------------------


def pairs(x, y):
    """(M, N), virtual for lazy arrays."""
    return ((x[:, None, :] - y[None, :, :]) ** 2).sum(-1)


UNARY = {
    **{name: lambda d: d / 50 for name in ("acos", "asin", "atanh")},
    "acosh": lambda d: d + 1,
    "bitwise_invert": lambda d: d > 1,
    "logical_not": lambda d: d > 1,
    "log": lambda d: d + 0.1,
}
BITS = {"bitwise_and", "bitwise_or", "bitwise_xor", "logical_and", "logical_or", "logical_xor"}


def rows(d):
    """Row numbers, as an array of the kind of d."""
    return d.astype("int64") if isinstance(d, np.ndarray) else xp.astype(d, xp.int64)


def unary(name):
    return lambda p, d, e, b: getattr(p, name)(UNARY.get(name, lambda d: d)(d))


def binary(name):
    if name in BITS:
        return lambda p, d, e, b: getattr(p, name)(d > 1, e > 2)
    if name.endswith("shift"):
        return lambda p, d, e, b: getattr(p, name)(rows(d), 2)
    return lambda p, d, e, b: getattr(p, name)(d, e + 0.5)


# name -> what to call with a namespace, two (M, N) arrays and a genuine (N, 2) one
EXAMPLES = {
    **{name: unary(name) for name in functions._ONE_EACH},
    **{name: binary(name) for name in functions._TWO_EACH},
    "where": lambda p, d, e, b: p.where(d > e, d, 0.0),
    "clip": lambda p, d, e, b: p.clip(d, 0.5, max=2),
    "astype": lambda p, d, e, b: p.astype(d, p.float32),
    **{
        name: lambda p, d, e, b, name=name: getattr(p, name)(d, axis=1)
        for name in (
            *("all", "any", "max", "min", "mean", "count_nonzero", "sum", "prod", "std", "var"),
            *("argmax", "argmin", "cumulative_sum", "cumulative_prod", "diff"),
        )
    },
    "sort": lambda p, d, e, b: p.sort(d, axis=1)[:, :3],
    "argsort": lambda p, d, e, b: p.argsort(d, axis=1, descending=True)[:, :3],
    **{
        name: lambda p, d, e, b, name=name: getattr(p, name)(d)
        for name in ("nonzero", "unique_all", "unique_counts", "unique_inverse", "unique_values")
    },
    "searchsorted": lambda p, d, e, b: p.searchsorted(p.asarray([0.0, 1.0]), d),
    "isin": lambda p, d, e, b: p.isin(d, p.asarray([0.0, 1.0])),
    "broadcast_arrays": lambda p, d, e, b: p.broadcast_arrays(d, p.asarray(1.0)),
    "broadcast_to": lambda p, d, e, b: p.broadcast_to(d, (2, M, N)),
    "concat": lambda p, d, e, b: p.concat([d[..., None], e[..., None]], axis=-1),
    "stack": lambda p, d, e, b: p.stack([d, e], axis=-1),
    "unstack": lambda p, d, e, b: p.unstack(p.stack([d, e], axis=-1), axis=-1),
    "expand_dims": lambda p, d, e, b: p.expand_dims(d, axis=1),
    "flip": lambda p, d, e, b: p.flip(d, axis=0),
    "moveaxis": lambda p, d, e, b: p.moveaxis(d, 0, 1),
    "permute_dims": lambda p, d, e, b: p.permute_dims(d, (1, 0)),
    "reshape": lambda p, d, e, b: p.reshape(d, (M, 1, N)),
    "squeeze": lambda p, d, e, b: p.squeeze(d[None], 0),
    "matrix_transpose": lambda p, d, e, b: p.matrix_transpose(d),
    "repeat": lambda p, d, e, b: p.repeat(d, 2),
    "roll": lambda p, d, e, b: p.roll(d, 1, axis=0),
    "tile": lambda p, d, e, b: p.tile(d, (2, 1)),
    "tril": lambda p, d, e, b: p.tril(d, k=1),
    "triu": lambda p, d, e, b: p.triu(d),
    "take": lambda p, d, e, b: p.take(d, p.asarray([2, 0]), axis=0),
    "take_along_axis": lambda p, d, e, b: p.take_along_axis(d, p.argmin(d, axis=1)[:, None]),
    "meshgrid": lambda p, d, e, b: p.meshgrid(p.arange(3), p.arange(2), indexing="ij"),
    **{f"{n}_like": unary(f"{n}_like") for n in ("ones", "zeros")},
    "empty_like": lambda p, d, e, b: p.empty_like(d) * 0,
    "full_like": lambda p, d, e, b: p.full_like(d, 3),
    "matmul": lambda p, d, e, b: p.matmul(d, b),
    "tensordot": lambda p, d, e, b: p.tensordot(d, b, axes=((1,), (0,))),
    "vecdot": lambda p, d, e, b: p.vecdot(d, e),
    "linalg.cross": lambda p, d, e, b: p.linalg.cross(
        p.stack([d, e, d], axis=-1), p.asarray([1.0, 2.0, 3.0])
    ),
    "linalg.diagonal": lambda p, d, e, b: p.linalg.diagonal(d),
    "linalg.trace": lambda p, d, e, b: p.linalg.trace(d),
    "linalg.outer": lambda p, d, e, b: p.linalg.outer(p.arange(3), p.asarray([1.0, 2.0])),
    "linalg.matmul": lambda p, d, e, b: p.linalg.matmul(p.matrix_transpose(d), d @ b),
    "linalg.tensordot": lambda p, d, e, b: p.linalg.tensordot(d, b, axes=1),
    "linalg.vecdot": lambda p, d, e, b: p.linalg.vecdot(d, e, axis=0 - 2),
    "linalg.matrix_transpose": lambda p, d, e, b: p.linalg.matrix_transpose(d),
    "linalg.matrix_norm": lambda p, d, e, b: p.linalg.matrix_norm(d),
    "linalg.vector_norm": lambda p, d, e, b: p.linalg.vector_norm(d, axis=1, keepdims=True),
    **{
        f"linalg.{name}": lambda p, d, e, b, name=name: getattr(p.linalg, name)(square(p, d))
        for name in (
            *("cholesky", "det", "eig", "eigh", "eigvals", "eigvalsh", "inv", "matrix_rank"),
            *("pinv", "qr", "slogdet", "svd", "svdvals"),
        )
    },
    "linalg.matrix_power": lambda p, d, e, b: p.linalg.matrix_power(square(p, d), 2),
    "linalg.solve": lambda p, d, e, b: p.linalg.solve(square(p, d), b),
    **{
        f"fft.{name}": lambda p, d, e, b, name=name: getattr(p.fft, name)(d)
        for name in ("fft", "fftn", "rfft", "rfftn", "ihfft", "fftshift", "ifftshift")
    },
    **{
        f"fft.{name}": lambda p, d, e, b, name=name: getattr(p.fft, name)(p.astype(d, p.complex128))
        for name in ("ifft", "ifftn", "irfft", "irfftn", "hfft")
    },
}


def square(p, d):
    """(N, N), with large eigenvalues apart; as virtual as d is."""
    return d[:N, :] + p.astype(p.arange(N)[:, None] == p.arange(N), d.dtype) * 50


# of virtual arrays; with a feature axis, or of genuine arrays, they work
REFUSED = {
    *("nonzero", "unique_all", "unique_counts", "unique_inverse", "unique_values"),
    *(f"linalg.{n}" for n in ("cholesky", "det", "eig", "eigh", "eigvals", "eigvalsh", "inv")),
    *(f"linalg.{n}" for n in ("matrix_power", "matrix_rank", "pinv", "qr", "slogdet", "solve")),
    *("linalg.svd", "linalg.svdvals"),
    *(f"fft.{row.name}" for row in functions.FFT),
}
# as NumPy's functions of these names: refused as long as those are
OPEN = {
    "cumulative_sum",
    "cumulative_prod",
    "diff",
    "searchsorted",
    "isin",
    "repeat",
    "roll",
    "tile",
}
# results of virtual arrays that are genuine
REDUCING = {
    *("all", "any", "max", "min", "mean", "count_nonzero", "sum", "prod", "std", "var", "argmax"),
    *("argmin", "sort", "argsort", "take_along_axis", "matmul", "tensordot", "vecdot"),
    *("linalg.diagonal", "linalg.trace", "linalg.matmul", "linalg.tensordot", "linalg.vecdot"),
    *("linalg.matrix_norm", "linalg.vector_norm"),
}


def names():
    table = ((functions.FUNCTIONS, ""), (functions.LINALG, "linalg."), (functions.FFT, "fft."))
    return [prefix + row.name for rows, prefix in table for row in rows]


each_function = pytest.mark.parametrize("name", names())


def test_every_function_has_an_example():
    assert set(EXAMPLES) == set(names())


def close(ours, theirs):
    if isinstance(theirs, tuple | list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            close(one, other)
        return
    assert isinstance(ours, Array)
    theirs = np.asarray(theirs)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    np.testing.assert_allclose(ours.to_dense(), theirs, rtol=1e-10, atol=1e-12)


def dense_answer(name):
    with np.errstate(all="ignore"):
        d = pairs(X, Y)
        return EXAMPLES[name](dense_xp, d, d.sum(1)[:, None] / 20 + d, B)


def ours(name, x, y, b, p=xp):
    d = pairs(x, y)
    return EXAMPLES[name](p, d, p.sum(d, axis=1)[:, None] / 20 + d, b)


def answer(name, x, y, b, p=xp):
    """The result, or None after the right refusal."""
    refusal = rf"numpy\.{re.escape(name)} |length depends"
    if name in REFUSED:
        with pytest.raises(TypeError, match=refusal):
            ours(name, x, y, b, p)
        return None
    try:
        return ours(name, x, y, b, p)
    except TypeError as error:
        assert name in OPEN and re.search(refusal, str(error)), error
        return None


@each_function
def test_virtual_arrays(name):
    result = answer(name, LazyArray(X), LazyArray(Y), B)
    if result is None:
        return
    close(result, dense_answer(name))
    first = result[0] if isinstance(result, tuple | list) else result
    virtual = expr.is_virtual(first._node)
    assert virtual == (name not in REDUCING)


@each_function
def test_genuine_arrays(name):
    d = pairs(X, Y)
    e = d.sum(1)[:, None] / 20 + d
    result = EXAMPLES[name](xp, xp.asarray(d), xp.asarray(e), xp.asarray(B))
    if "eig" in name or "svd" in name or name == "linalg.qr":
        result, theirs = np.abs(np.asarray(result[0])), np.abs(dense_answer(name)[0])
        np.testing.assert_allclose(result, theirs, rtol=1e-8)
        return
    close(result, dense_answer(name))


@each_function
def test_arrays_of_array_api_strict(name):
    x, y, b = (strict.asarray(a) for a in (X, Y, B))
    p = LazyArray(x).__array_namespace__()
    result = answer(name, LazyArray(x), LazyArray(y), b, p)
    if result is None:
        return
    for one in result if isinstance(result, tuple | list) else (result,):
        entries = one.to_dense()
        assert isinstance(entries, type(x))
    close_to_numpy(result, dense_answer(name))


def close_to_numpy(ours, theirs):
    many = isinstance(theirs, tuple | list)
    for one, other in zip(ours, theirs, strict=True) if many else ((ours, theirs),):
        assert one.dtype == np.asarray(other).dtype
        np.testing.assert_allclose(np.asarray(one.to_dense()), other, rtol=1e-10, atol=1e-12)


def test_grids_of_vectors_take_no_memory():
    x, y = xp.arange(200_000), xp.linspace(0.0, 1.0, 100_000)
    rows, columns = xp.meshgrid(x, y, indexing="ij")
    assert type(xp.meshgrid(x, y)) is tuple
    assert rows.shape == columns.shape == (200_000, 100_000)
    assert int(rows[7, 9]) == 7 and float(columns[7, -1]) == 1.0
    for indexing in ("xy", "ij"):
        small = xp.meshgrid(x[:4], y[:3], x[:2], indexing=indexing)
        expected = np.meshgrid(*(np.asarray(a) for a in (x[:4], y[:3], x[:2])), indexing=indexing)
        close(small, expected)
    with pytest.raises(ValueError, match="meshgrid takes vectors"):
        xp.meshgrid(xp.ones((2, 2)))


def test_the_namespace_of_another_library_makes_its_arrays():
    p = LazyArray(strict.asarray(X)).__array_namespace__()
    assert p is not xp and p is array_api_compat.array_namespace(p.zeros(3))
    for made in (p.zeros(3), p.asarray([1.0, 2.0]), p.arange(3), p.eye(2), p.fft.fftfreq(4)):
        assert isinstance(made.to_dense(), type(strict.zeros(1)))
    device = strict.Device("device1")
    assert p.zeros(3, device=device).device == device == p.zeros(3).to_device(device).device
    assert p.__array_namespace_info__().dtypes() == functions.DTYPES
    with pytest.raises(TypeError, match="one expression reads one library's arrays"):
        p.add(p.zeros((M, D)), X)


CREATION = {
    "arange": (2, 8, 3),
    "empty": ((0, 2),),
    "eye": (3, 2),
    "full": ((2, 3), 1.5),
    "linspace": (0, 1, 5),
    "ones": (4,),
    "zeros": ((2, 2),),
}


@pytest.mark.parametrize("name", functions.CREATION)
def test_creation(name):
    args = CREATION[name]
    close(getattr(xp, name)(*args), getattr(dense_xp, name)(*args))
    close(getattr(xp, name)(*args, dtype=xp.float32), getattr(np, name)(*args).astype(np.float32))


def test_every_special_function():
    special = pytest.importorskip("scipy.special")
    d = pairs(X, Y) / 50 + 0.1
    lazy = pairs(LazyArray(X), LazyArray(Y)) / 50 + 0.1
    for name in xp.special.__all__:
        count = len(inspect.signature(getattr(xp.special, name)).parameters)
        expected = getattr(special, name)(*[d] * count)
        one = getattr(xp.special, name)(*[lazy] * count)
        assert expr.is_virtual(one._node), name
        close(one, expected)
        close(getattr(xp.special, name)(*[xp.asarray(d)] * count), expected)


# -- Arrays ----------------------------------------------------------------------------------------


def virtual():
    return xp.asarray(pairs(LazyArray(X), LazyArray(Y)))


def test_what_is_made_of_arrays_is_an_array():
    d, x = virtual(), xp.asarray(X)
    for result in (d + 1, 1 - d, -d, d @ B, B.T @ d.T, d.sum(axis=1), d.argmin(axis=1), d.T, d[2:]):
        assert type(result) is Array
    for result in (x @ x.T, x + x, x[0], x.sum(), x > 0, np.ones(3) + x, *x, *x[:, 0]):
        assert type(result) is Array
    assert type(xp.argsort(d, axis=1)[:, :2]) is Array
    assert type(np.sum(d, axis=1)) is np.ndarray  # NumPy's function gives NumPy's array


@pytest.mark.parametrize("op", ["add", "sub", "mul", "truediv", "pow", "floordiv", "mod"])
def test_operators_in_place(op):
    f = {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "pow": "**", "floordiv": "//"}.get(op)
    names = {"a": virtual(), "e": pairs(X, Y)}
    code = f"{{}} {f or '%'}= 2.0"
    exec(code.format("a") + "; " + code.format("e"), names)
    close(names["a"], names["e"])


def test_operators_in_place_keep_shape_and_dtype():
    a = xp.ones((1, 3), dtype=xp.int64)
    with pytest.raises(ValueError, match=r"change the shape of a from \(1, 3\) to \(2, 3\)"):
        a += xp.ones((2, 3), dtype=xp.int64)
    with pytest.raises(TypeError, match="change the dtype of a from int64 to float64"):
        a += xp.ones(3)


def test_genuine_arrays_can_be_written_to():
    a = xp.asarray(X, copy=True)
    view = a[0]
    a[0] = 5.0
    a[a < 0] = 0.0
    a[1:3, 0] = xp.asarray([7.0, 8.0])
    expected = X.copy()
    expected[0] = 5
    expected[expected < 0] = 0
    expected[1:3, 0] = 7, 8
    close(a, expected)
    close(view, expected[0])
    held = xp.broadcast_to(xp.asarray([1.0, 2.0]), (2, 2))
    held[0, 0] = 9.0
    close(held, [[9.0, 2.0], [1.0, 2.0]])


def test_one_value_under_a_mask_of_a_virtual_array():
    d, expected = virtual(), pairs(X, Y)
    before = d[...]
    d[d > 2] = 0
    close(d, np.where(expected > 2, 0, expected))
    close(before, expected)
    with pytest.raises(TypeError, match="a virtual array is changed by one value under a mask"):
        d[0, 0] = 1.0
    with pytest.raises(TypeError, match="a virtual array is changed by one value under a mask"):
        d[d > 2] = np.ones(3)


@pytest.mark.parametrize(
    "ask",
    [
        np.asarray,
        list,
        float,
        bool,
        lambda d: d.__dlpack__(),
        lambda d: 1 in d,
        lambda d: d[d > 2],
        xp.from_dlpack,
        lambda d: xp.empty((M, N)).__setitem__(..., d),
    ],
)
def test_virtual_arrays_refuse_what_needs_all_entries(ask):
    with pytest.raises(TypeError, match=r"\(17, 15\) (float64|bool)"):
        ask(virtual())


def test_what_is_no_larger_than_the_inputs_converts():
    """Scores, covariances and repeated arrays are asked for by code that never meets pairs."""
    x = LazyArray(X)
    scores = xp.matmul(x, xp.asarray(Y[:2]).T)
    assert expr.is_virtual(scores._node)
    np.testing.assert_allclose(np.asarray(scores), X @ Y[:2].T)
    covariance = xp.asarray(X).T @ xp.asarray(X)
    close(xp.linalg.inv(covariance), np.linalg.inv(X.T @ X))
    repeated = xp.broadcast_to(xp.asarray(X[0]), (5, D))
    np.testing.assert_array_equal(np.asarray(repeated), np.broadcast_to(X[0], (5, D)))


def test_conversions_of_genuine_arrays():
    a = xp.asarray([[1.5]])
    assert float(a[0, 0]) == 1.5 and complex(a[0, 0]) == 1.5 and bool(a[0, 0])
    assert int(xp.asarray(3)) == 3 and [10, 11][xp.asarray(1)] == 11
    assert a.device == "cpu" and a.to_device("cpu").shape == (1, 1) and 1.5 in a
    with pytest.raises(TypeError, match="of a complex array"):
        float(xp.asarray(1j))
    with pytest.raises(ValueError, match="NumPy's arrays are on the device 'cpu'"):
        a.to_device("cuda")
    with pytest.raises(ValueError, match="Move the inputs before you combine them"):
        virtual().to_device("cuda")
    assert virtual().to_device("cpu").shape == (M, N) == LazyArray(COST).to_device("cpu").shape
    np.testing.assert_array_equal(np.from_dlpack(xp.asarray(X)), X)
    close(xp.from_dlpack(xp.asarray(X)), X)
    assert repr(a) == "Array([[1.5]], dtype=float64)"
    assert repr(virtual()).startswith("LazyArray")


def test_asarray():
    assert xp.asarray(virtual()).shape == (M, N)
    shared = X.copy()
    one = xp.asarray(shared, copy=False)
    shared[0] = 3
    close(one[0], shared[0])
    copied = xp.asarray(shared, copy=True)
    shared[0] = 4
    close(copied[0], [3.0] * D)
    close(xp.asarray(LazyArray(X), dtype=xp.float32), X.astype(np.float32))
    close(xp.asarray([xp.asarray(1.0), 2.0]), np.asarray([1.0, 2.0]))
    with pytest.raises(ValueError, match="a copy is needed"):
        xp.asarray(LazyArray(X), dtype=xp.float32, copy=False)
    with pytest.raises(TypeError, match="asarray makes arrays of numbers and booleans"):
        xp.asarray(["a"])


def test_complex_numbers_become_real_by_choice_only():
    with pytest.raises(TypeError, match="astype cannot make float64 of complex128"):
        xp.astype(xp.asarray(1j), xp.float64)


def test_arrays_pickle():
    import pickle

    d = pickle.loads(pickle.dumps(virtual()))
    assert type(d) is Array
    close(d, pairs(X, Y))


def test_masks_and_indices_of_genuine_arrays():
    a, mask = xp.asarray(X), X > 0
    close(a[xp.asarray(mask)], X[mask])
    close(a[xp.asarray(True)], X[None])
    close(a[xp.asarray([2, 0]), :], X[[2, 0]])
    close(xp.take(a, xp.asarray([1, 1]), axis=1), X[:, [1, 1]])


def test_roles_that_disagree_among_genuine_arrays_are_the_librarys_business():
    a = xp.asarray(X[:D])
    close(a + a.T, X[:D] + X[:D].T)
    close(a @ a, X[:D] @ X[:D])
    close(xp.concat([a, a.T]), np.concatenate([X[:D], X[:D].T]))


# -- code that was not written for us --------------------------------------------------------------


def test_one_namespace_for_lazy_arrays_and_arrays():
    d, x = virtual(), xp.asarray(X)
    assert array_api_compat.array_namespace(d, x, LazyArray(X), 1.0, None) is xp
    assert array_api_compat.size(d) == M * N and array_api_compat.device(d) == "cpu"
    assert array_api_compat.is_array_api_obj(d)
    close(xp.add(d, X[:, :1]), pairs(X, Y) + X[:, :1])  # functions take genuine arrays, too


def test_virtual_arrays_are_lazy_and_others_are_not():
    assert array_api_compat.is_lazy_array(virtual())
    assert not array_api_compat.is_lazy_array(xp.asarray(X))
    flat = xp.reshape(virtual(), (-1,))
    assert flat.shape == (M * N,) and float(flat[9]) == pytest.approx(pairs(X, Y).reshape(-1)[9])
    with pytest.raises(VirtualArrayError, match=r"bool\(a\) of an entry"):
        bool(flat[0])
    with pytest.raises(VirtualArrayError, match="which are never stored"):
        np.asarray(flat)


def soft_assignment(x, centres, temperature):
    """Written for any namespace: the means of x, weighted by a softmax of distances."""
    p = array_api_compat.array_namespace(x, centres)
    d = p.sum((p.expand_dims(x, axis=1) - p.expand_dims(centres, axis=0)) ** 2, axis=-1)
    w = p.exp(-d / temperature)
    w = w / p.sum(w, axis=1, keepdims=True)
    return p.matmul(p.matrix_transpose(w), x) / p.sum(w, axis=0)[:, None]


def test_generic_code():
    expected = soft_assignment(X, Y, 2.0)
    close(soft_assignment(LazyArray(X), LazyArray(Y), 2.0), expected)
    lazy = soft_assignment(LazyArray(strict.asarray(X)), LazyArray(strict.asarray(Y)), 2.0)
    np.testing.assert_allclose(np.asarray(lazy.to_dense()), expected)


def printed(code):
    """What a program prints that starts with SCIPY_ARRAY_API set."""
    start = "import os\nos.environ['SCIPY_ARRAY_API'] = '1'\nimport numpy as np\n"
    given = start + "from duckkeops import LazyArray, array_api as xp\n" + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", given], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


SCIPY = """
    import scipy.special as s, scipy.stats as st
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(30, 3))
    d = ((LazyArray(x)[:, None, :] - LazyArray(y)[None, :, :]) ** 2).sum(-1)
    e = d.to_dense()
    for f in (s.erf, s.gammaln, s.expit, s.digamma, s.entr, s.i0):
        r = f(d + 0.1)
        print(type(r).__name__, np.allclose(r.to_dense(), f(e + 0.1)))
    print("-", np.allclose(s.xlogy(d, d + 1).to_dense(), s.xlogy(e, e + 1)))
    print("-", np.allclose(s.logsumexp(-d, axis=1), s.logsumexp(-e, axis=1)))
    print("-", np.allclose(s.softmax(-d, axis=1).to_dense(), s.softmax(-e, axis=1)))
    print("-", np.allclose(st.skew(d, axis=1), st.skew(e, axis=1)))
    print("-", np.allclose(st.gmean(d, axis=1), st.gmean(e, axis=1)))
    print("-", np.allclose(st.zscore(xp.asarray(x)), st.zscore(x)))
"""
SKLEARN = """
    import sklearn
    from sklearn.metrics import pairwise as p
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(30, 3))
    with sklearn.config_context(array_api_dispatch=True):
        for f in (p.rbf_kernel, p.euclidean_distances, p.cosine_similarity, p.polynomial_kernel):
            r = f(LazyArray(x), LazyArray(y))
            print(type(r).__name__, np.allclose(r.to_dense(), f(x, y)))
        r = p.pairwise_distances_argmin(LazyArray(x), LazyArray(y))
        print("-", (np.asarray(r) == p.pairwise_distances_argmin(x, y)).all())
        for t in (PCA(2), StandardScaler()):
            ours = np.asarray(t.fit_transform(LazyArray(x)))
            print("-", np.allclose(np.abs(ours), np.abs(t.fit_transform(x))))
"""


@pytest.mark.parametrize(("library", "code"), [("scipy", SCIPY), ("sklearn", SKLEARN)])
def test_unchanged_functions_of(library, code):
    pytest.importorskip(library)
    words = printed(code)
    assert set(words[::2]) <= {"Array", "-"} and set(words[1::2]) == {"True"}, words


# -- the conformance script ------------------------------------------------------------------------


@pytest.fixture
def script():
    path = ROOT / "conformance" / "array_api" / "run.py"
    spec = importlib.util.spec_from_file_location("array_api_conformance", path)
    module = importlib.util.module_from_spec(spec)
    before = sys.path[:]
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def test_every_listed_test_has_a_reason(script):
    for name in ("xfails.txt", "skips.txt"):
        listed = script.listed(name)
        assert listed and all(t.startswith("array_api_tests/test_") for t in listed)
        assert all(len(reason.split()) > 2 for reason in listed.values())


def test_outcomes_are_read_from_pytest(script):
    text = """<testsuites><testsuite>
        <testcase classname="array_api_tests.test_a" name="test_b[x]"/>
        <testcase classname="array_api_tests.test_a.TestC" name="test_d"><failure/></testcase>
        <testcase classname="array_api_tests.test_e" name="test_f"><skipped/></testcase>
        </testsuite></testsuites>"""
    cases = list(script.ElementTree.fromstring(text).iter("testcase"))
    read = {script.name(c): script.outcome(c) for c in cases}
    assert read == {
        "array_api_tests/test_a.py::test_b[x]": "passed",
        "array_api_tests/test_a.py::TestC::test_d": "failed",
        "array_api_tests/test_e.py::test_f": "skipped",
    }
    assert script.rows(read, {}) == [
        ("test_a.py", 1, 0, 1, 0),
        ("test_e.py", 0, 0, 0, 1),
        ("all", 1, 0, 1, 1),
    ]


def test_a_suite_without_the_standard_is_refused(script, tmp_path):
    with pytest.raises(SystemExit, match="has no submodule array-api"):
        script.suite(str(tmp_path))


def test_the_namespace_is_public():
    assert "array_api" in duckkeops.__all__
    assert set(xp.__all__) >= {"linalg", "fft", "special", "asarray", "Array"}
    assert not set(itertools.chain(xp.__all__)) - set(dir(xp))
