"""Rows of the reductions' table:
NumPy's values, dtypes, ties, NaN, and lazy forms, in several array libraries.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax

from duckkeops import expr, reductions
from duckkeops.engines import blocks
from duckkeops.errors import DtypeError, ShapeError
from duckkeops.expr import Input, Table
from duckkeops.reductions import BY_NAME, TABLE, reduce

pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning"
)  # of the NumPy functions that we compare with

REFERENCE = {
    **{
        name: getattr(np, name)
        for name in ("sum", "prod", "mean", "var", "std", "count_nonzero", "any", "all")
    },
    **{name: getattr(np, name) for name in ("min", "max", "argmin", "argmax")},
    "logsumexp": logsumexp,
    "softmax_sum": lambda s, axis: (softmax(s, axis=axis) * (s + 1)).sum(axis),
    "topk": lambda x, axis: np.sort(x, axis)[..., :3],
    "histogram": lambda x, axis: np.apply_along_axis(lambda v: np.histogram(v, EDGES)[0], axis, x),
}
EDGES = np.array([-1.0, 0, 0.5, 2])
DTYPES = (
    "bool",
    "int8",
    "int64",
    "uint16",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "complex64",
    "complex128",
)
REAL_ONLY = ("logsumexp", "topk", "histogram")
each_row = pytest.mark.parametrize("row", TABLE, ids=lambda r: r.name)
each_library = pytest.mark.parametrize("library", ["numpy", "torch", "array_api_strict"])


def draw(dtype: str, shape: tuple[int, ...] = (4, 7)) -> np.ndarray:
    rng = np.random.default_rng(7)
    x = rng.integers(-3, 4, shape) / (1 if "int" in dtype else 2)
    if dtype.startswith("complex"):
        x = x + 1j * rng.integers(-2, 3, shape)
    return np.abs(x).astype(dtype) if dtype.startswith("u") else x.astype(expr.dtype_of(dtype))


def node_of(a: np.ndarray, library: str = "numpy") -> Input:
    roles = "p" * a.ndim
    if library == "numpy":
        return Input(a, a.dtype, roles)
    xp = pytest.importorskip(library)
    if a.dtype.name == "bfloat16":
        return Input(xp.asarray(a.astype(np.float32)).to(xp.bfloat16), a.dtype, roles)
    return Input(xp.asarray(a), a.dtype, roles)


def as_numpy(x: Any) -> np.ndarray:
    if "bfloat16" in str(x.dtype):
        return np.asarray(x.float() if hasattr(x, "float") else x, dtype=np.float32)
    return np.asarray(x)


def arguments(row: reductions.Reduction, x: Input) -> list[Any]:
    if row.nargs == 1:
        return [x]
    if row.name == "histogram":
        dtype = reductions.computed(x.dtype if x.dtype.kind == "f" else np.dtype(float))
        dtype = np.dtype(np.float32) if x.dtype.name == "bfloat16" else dtype
        table = reductions.bin_table(EDGES, dtype, False)
        if not isinstance(x.array, np.ndarray):
            table = importlib.import_module(type(x.array).__module__.split(".")[0]).asarray(table)
        return [x, Table(table, dtype)]
    return [x, Input(x.array + 1, x.dtype, x.roles)]


def options(row: reductions.Reduction) -> dict[str, Any]:
    own = {"topk": {"k": 3}, "histogram": {"how": "search", "bins": 3}}
    return own.get(row.name, {})


def value(
    row: reductions.Reduction,
    a: np.ndarray,
    axes: Any = (1,),
    library: str = "numpy",
    **params: Any,
) -> Any:
    """The value by tiles of a few columns."""
    node = reduce(row, arguments(row, node_of(a, library)), axes, **(options(row) | params))
    out = blocks.value(node, tile_bytes=200)
    return out[0] if isinstance(out, tuple) else out


def supported(row: reductions.Reduction, dtype: str, library: str) -> bool:
    if dtype.startswith("complex") and (row.name in REAL_ONLY or row.nargs == 2):
        return False
    if row.nargs == 2 and dtype == "bool" and row.name != "histogram":
        return False
    if library == "torch":
        return dtype != "uint16"
    return library == "numpy" or dtype not in ("float16", "bfloat16")


def has_numpy_dtype(row: reductions.Reduction, dtype: str) -> bool:
    """Does NumPy reduce this dtype as we do? Not for what it computes in half precision."""
    return row.name in vars(np) and dtype != "bfloat16"


@each_library
@pytest.mark.parametrize("dtype", DTYPES)
@each_row
def test_value_and_dtype(row, dtype, library):
    if not supported(row, dtype, library):
        pytest.skip("the library or the reduction does not know this dtype")
    a = draw(dtype)
    got = value(row, a, library=library)
    node = reduce(row, arguments(row, node_of(a)), (1,), **options(row))
    assert str(got.dtype).rpartition(".")[2] == node.dtype.name
    if has_numpy_dtype(row, dtype):
        assert node.dtype == REFERENCE[row.name](a, axis=1).dtype
    wide = a.astype(np.float64) if dtype in ("float16", "bfloat16") or row.nargs == 2 else a
    want = REFERENCE[row.name](wide, axis=1)
    rough = {"float16": 1e-3, "bfloat16": 1e-2, "float32": 1e-6, "complex64": 1e-6}.get(
        node.dtype.name, 1e-12
    )
    np.testing.assert_allclose(as_numpy(got), want, rtol=rough, atol=rough)


@each_row
def test_every_row_is_known_to_numpy_or_named_here(row):
    assert row.name in REFERENCE
    assert row.name == row.name.lower() and all(callable(f) for f in row.numpy)
    if row.fold:
        assert row.lazy is not None and row.identity is not None


@pytest.mark.parametrize("axes", [(0,), (2,), (0, 1), (0, 2), (1, -1), (0, 1, 2)])
@each_row
def test_several_axes(row, axes):
    if row.name == "topk":
        pytest.skip("has a test of its own")
    a = draw("float64", (3, 4, 5))
    normal = tuple(k % 3 for k in axes)
    kept = [k for k in range(3) if k not in normal]
    flat = a.transpose(*kept, *sorted(normal)).reshape([a.shape[k] for k in kept] + [-1])
    np.testing.assert_allclose(value(row, a, axes), REFERENCE[row.name](flat, axis=-1), rtol=1e-12)


SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 2.0, -1.0]


@each_library
@settings(max_examples=40, deadline=None)
@given(
    a=st.lists(
        st.lists(st.sampled_from(SPECIAL), min_size=6, max_size=6), min_size=1, max_size=3
    ).map(np.array)
)
def test_nan_inf_and_ties(a, library):
    for name in ("sum", "mean", "min", "max", "argmin", "argmax", "any", "all", "count_nonzero"):
        with np.errstate(all="ignore"):
            want = REFERENCE[name](a, axis=1)
        np.testing.assert_array_equal(
            as_numpy(value(BY_NAME[name], a, library=library)), want, err_msg=name
        )
    with np.errstate(all="ignore"):
        want = np.logaddexp.reduce(a, axis=1)
        spread = np.var(a, axis=1)
    np.testing.assert_allclose(
        as_numpy(value(BY_NAME["var"], a, library=library)), spread, rtol=1e-12
    )
    np.testing.assert_allclose(
        as_numpy(value(BY_NAME["logsumexp"], a, library=library)), want, rtol=1e-12
    )


COMPLEX = [
    1 + 1j,
    1 - 1j,
    0j,
    complex(np.nan, 0),
    complex(0, np.nan),
    complex(2, -np.inf),
    complex(np.inf, 1),
]


@each_library
@settings(max_examples=40, deadline=None)
@given(a=st.lists(st.sampled_from(COMPLEX), min_size=1, max_size=6).map(lambda v: np.array([v])))
def test_order_of_complex_numbers(a, library):
    for name in ("argmin", "argmax", "min", "max"):
        want = REFERENCE[name](a, axis=1)
        got = as_numpy(value(BY_NAME[name], a, library=library))
        if name in ("min", "max") and np.isnan(want).all():
            assert np.isnan(got).all()
        else:
            np.testing.assert_array_equal(got, want)


@each_library
@pytest.mark.parametrize("largest", [False, True])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_topk(library, largest, data):
    rows, n = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 9))
    flat = data.draw(st.lists(st.sampled_from(SPECIAL), min_size=rows * n, max_size=rows * n))
    a, k = np.array(flat).reshape(rows, n), data.draw(st.integers(0, n))
    node = reduce(BY_NAME["topk"], (node_of(a, library),), (1,), k=k, largest=largest)
    values, index = blocks.value(node, tile_bytes=data.draw(st.sampled_from([1, 200, 10**6])))
    keys = np.where(np.isnan(a), np.inf, a), np.isnan(a)
    ranks = np.lexsort((-keys[0], ~keys[1]), axis=1) if largest else np.lexsort(keys, axis=1)
    want = ranks[:, :k]
    np.testing.assert_array_equal(as_numpy(index), want)
    np.testing.assert_array_equal(as_numpy(values), np.take_along_axis(a, want, 1))
    assert as_numpy(index).dtype == np.int64


def test_topk_of_booleans_and_integers():
    a = np.array([[True, False, True, False]])
    for largest, want in [(False, [1, 3, 0]), (True, [0, 2, 1])]:
        values, index = blocks.value(
            reduce(BY_NAME["topk"], (node_of(a),), (1,), k=3, largest=largest)
        )
        assert index[0].tolist() == want and values.dtype == bool
    big = np.array([[2**63, 1, 2**64 - 1]], dtype=np.uint64)
    values, _ = blocks.value(reduce(BY_NAME["topk"], (node_of(big),), (1,), k=2, largest=True))
    assert values[0].tolist() == [2**64 - 1, 2**63]


@each_row
def test_merging_is_associative(row):
    xp = blocks._Work.of(node_of(np.zeros(1)), None).xp
    a = draw("float64", (5, 9))
    a[0, 3] = np.nan
    a[1] = -np.inf
    a[2, 4] = np.inf
    params = tuple(sorted(options(row).items()))

    table = (reductions.bin_table(EDGES, a.dtype, False),) if row.name == "histogram" else ()

    def tile(first: int, last: int) -> tuple:
        loops, _ = row.types((a.dtype,) * row.nargs, params)
        values = tuple(a[:, first:last].astype(t) for t in loops[: row.nargs - len(table)]) + table
        return row.tile(xp, values, np.arange(first, last), params)

    with np.errstate(all="ignore"):
        p, q, r = tile(0, 4), tile(4, 5), tile(5, 9)
        left = row.merge(xp, row.merge(xp, p, q, params), r, params)
        right = row.merge(xp, p, row.merge(xp, q, r, params), params)
    for one, other in zip(left, right, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    components = row.state(row.types((a.dtype,) * row.nargs, params)[0], params)
    for (name, dtype, extra), s in zip(components, left, strict=True):
        assert s.dtype == dtype and s.shape == (5, *extra), name


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int16", "bool"])
@each_row
def test_lazy_form(row, dtype):
    if row.lazy is None or (row.nargs == 2 and dtype == "bool"):
        pytest.skip("always evaluated, or no such dtype")
    a = draw(dtype, (4, 5, 3))
    args = arguments(row, node_of(a))
    for axes in [(1,), (0, 2), (-1,)]:
        direct = reduce(row, args, axes)
        node = row.lazy(args, axes, ())
        assert node.shape == direct.shape and node.dtype == direct.dtype
        want = blocks.value(direct).astype(float)
        np.testing.assert_allclose(
            blocks.dense(node).astype(float), want, rtol=1e-3 if dtype == "float16" else 1e-6
        )
        for inner in expr.walk(node):
            assert not isinstance(inner, expr.Reduce) or inner.row.fold


@pytest.mark.parametrize("name", ["var", "std", "mean", "sum", "prod"])
def test_lazy_form_of_complex_numbers(name):
    a = draw("complex128")
    node = BY_NAME[name].lazy((node_of(a),), (1,), ())
    np.testing.assert_allclose(blocks.dense(node), REFERENCE[name](a, axis=1))
    assert node.dtype == REFERENCE[name](a, axis=1).dtype


def test_lazy_logsumexp_and_softmax_at_infinity():
    a = np.array([[-np.inf, -np.inf], [np.inf, 0], [np.nan, 0], [-np.inf, 1]])
    row = BY_NAME["logsumexp"]
    np.testing.assert_allclose(
        blocks.dense(row.lazy((node_of(a),), (1,), ())), np.logaddexp.reduce(a, 1)
    )
    empty = row.lazy((node_of(np.zeros((2, 0))),), (1,), ())
    assert blocks.dense(empty).tolist() == [-np.inf, -np.inf]


def test_softmax_sum_with_features_and_broadcast_scores():
    rng = np.random.default_rng(0)
    s, v = rng.normal(size=(4, 6, 1)), rng.normal(size=(6, 3))
    args = Input(s, s.dtype, "ppf"), Input(v, v.dtype, "pf")
    want = softmax(s[..., 0], axis=1) @ v
    row = BY_NAME["softmax_sum"]
    np.testing.assert_allclose(blocks.value(reduce(row, args, (1,)), tile_bytes=300), want)
    np.testing.assert_allclose(blocks.dense(row.lazy(args, (1,), ())), want)
    same = Input(s[:, :1], s.dtype, "ppf")  # equal scores: the mean
    for got in (
        blocks.value(reduce(row, (same, args[1]), (1,))),
        blocks.dense(row.lazy((same, args[1]), (1,), ())),
    ):
        np.testing.assert_allclose(got, np.broadcast_to(v.mean(0), (4, 3)))


@each_row
def test_empty_axes(row):
    a = np.zeros((3, 0))
    if row.empty:
        with pytest.raises(ShapeError) as ours:
            value(row, a)
        with pytest.raises(ValueError) as numpys:
            REFERENCE[row.name](a, axis=1)
        assert str(ours.value).splitlines()[0].rstrip(".") == str(numpys.value).rstrip(".")
        return
    if row.name == "topk":
        assert value(row, a, k=0).shape == (3, 0)
        return
    if row.name == "histogram":
        np.testing.assert_array_equal(value(row, a), np.zeros((3, 3), np.int64))
        return
    with np.errstate(all="ignore"):
        want = {"logsumexp": -np.inf, "softmax_sum": 0}.get(row.name)
        want = REFERENCE[row.name](a[:1], axis=1)[0] if want is None else want
    np.testing.assert_array_equal(value(row, a), np.full(3, want))
    assert value(row, np.zeros((0, 3))).shape == (0,)


@pytest.mark.parametrize("correction", [0, 1, 1.5, 7, 9])
def test_correction(correction):
    a = draw("float64")
    for name in ("var", "std"):
        with np.errstate(all="ignore"):
            want = REFERENCE[name](a, axis=1, ddof=correction)
        np.testing.assert_allclose(value(BY_NAME[name], a, correction=correction), want)
        lazy = BY_NAME[name].lazy((node_of(a),), (1,), (("correction", correction),))
        np.testing.assert_allclose(blocks.dense(lazy), want)


def test_variance_far_from_zero():
    a = 1e8 + np.random.default_rng(1).normal(size=(2, 1000))
    np.testing.assert_allclose(value(BY_NAME["var"], a), a.var(1), rtol=1e-8)


@pytest.mark.parametrize("name", ["sum", "prod", "min", "max"])
@pytest.mark.parametrize("dtype", ["int16", "float32", "float64"])
def test_initial(name, dtype):
    row = BY_NAME[name]
    for a in (draw(dtype), draw(dtype, (4, 0))):
        want = REFERENCE[name](a, axis=1, initial=2)
        got = value(row, a, initial=2)
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want)
        lazy = row.lazy((node_of(a),), (1,), (("initial", 2),))
        np.testing.assert_allclose(blocks.dense(lazy), want)
        assert lazy.dtype == want.dtype


@pytest.mark.parametrize("name", ["sum", "prod", "mean"])
@pytest.mark.parametrize("dtype", ["bool", "int32", "float16", "float64", "complex64"])
@pytest.mark.parametrize("source", ["int8", "float32", "bool"])
def test_dtype_parameter(name, dtype, source):
    a = np.abs(draw(source)) if source != "bool" else draw(source)
    if name == "mean" and dtype == "bool":
        pytest.skip("NumPy refuses it")
    want = REFERENCE[name](a, axis=1, dtype=dtype)
    got = value(BY_NAME[name], a, dtype=dtype)
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=1e-3 if dtype == "float16" else 1e-6)


def test_half_precision_is_rounded_once():
    a = np.full((1, 5000), 0.1, dtype=np.float16)
    want = np.float16(a.astype(np.float64).sum())
    assert value(BY_NAME["sum"], a)[0] == want
    assert value(BY_NAME["logsumexp"], np.full((1, 4096), 10, np.float16))[0] == np.float16(
        10 + np.log(4096)
    )


def test_identities_change_nothing():
    for row in TABLE:
        if row.identity is None or row.name in ("argmin", "argmax"):
            continue
        for dtype in ("bool", "int8", "float64") if row.name != "logsumexp" else ("float64",):
            a = draw(dtype)
            more = np.concatenate(
                [a, np.full((4, 2), row.identity(a.dtype), dtype=a.dtype)], axis=1
            )
            np.testing.assert_array_equal(value(row, more), value(row, a), err_msg=row.name)


def test_refusals():
    a = node_of(draw("complex64"))
    for name in ("logsumexp", "topk"):
        with pytest.raises(DtypeError, match="real numbers, and got complex64"):
            reduce(BY_NAME[name], (a,), (1,), **options(BY_NAME[name]))
    with pytest.raises(DtypeError, match="scores of a softmax"):
        reduce(BY_NAME["softmax_sum"], (a, a), (1,))
    with pytest.raises(
        DtypeError, match="var and std are computed in floating-point numbers, and dtype=int64"
    ):
        reduce(BY_NAME["var"], (a,), (1,), dtype=np.int64)
    with pytest.raises(ShapeError, match=r"cannot take the top 9 of 7 entries\."):
        reduce(BY_NAME["topk"], (node_of(draw("float32")),), (1,), k=9)
    with pytest.raises(np.exceptions.AxisError, match="axis 2 is out of bounds"):
        reduce(BY_NAME["sum"], (a,), (2,))


def test_numpy_functions_belong_to_one_row_each():
    functions = [f for row in TABLE for f in (*row.numpy, *row.ufunc)]
    assert len(functions) == len(set(functions))
    assert not importlib.import_module("duckkeops.reductions").__dict__.get("sympy")
