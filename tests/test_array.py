"""LazyArray as an object: making, operators, indexing, refusals, copies, looking at it."""

import copy
import math
import operator
import pickle
import subprocess
import sys
import textwrap
import timeit
import types

import numpy as np
import pytest

from duckkeops import (
    DtypeError,
    LazyArray,
    RoleError,
    ShapeError,
    UnsupportedError,
    VirtualArrayError,
    source,
)
from duckkeops.array import NumpyLazyArray
from duckkeops.engines import cpu

pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass")
rng = np.random.default_rng(1)
M, N, D = 6, 4, 3
X, Y, V = rng.normal(size=(M, D)), rng.normal(size=(N, D)), rng.normal(size=N)
INTS_X, INTS_Y = rng.integers(0, 9, M), rng.integers(1, 5, N)


def squares(x, y):
    return ((x[:, None, :] - y[None, :, :]) ** 2).sum(-1)


def lazy_squares():
    return squares(LazyArray(X), LazyArray(Y))


def agree(got, want):
    """A lazy array has the value, dtype and shape of an array; everything else the type too."""
    if isinstance(got, LazyArray):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        got = got.to_dense()
    else:
        assert type(got) is type(want)
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


# -- making ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "options", "roles"),
    [
        (np.zeros(3), {}, "point"),
        (np.zeros((3, 2)), {}, "point feature"),
        (np.zeros((3, 1, 2)), {}, "point point feature"),
        (np.zeros((5, 3, 1, 2)), {}, "batch point point feature"),
        (np.zeros((3, 2)), {"feature_ndim": 0}, "point point"),
        (np.zeros((3, 2, 2)), {"feature_ndim": 2}, "point feature feature"),
        (np.zeros((3, 2, 2)), {"batch_ndim": 1}, "batch point feature"),
        (2.5, {}, ""),
        (np.float32(1), {}, ""),
    ],
)
def test_roles(x, options, roles):
    lazy = LazyArray(x, **options)
    assert isinstance(lazy, NumpyLazyArray)
    assert lazy.roles == tuple(roles.split())


def test_a_lazy_array_stays_itself_or_gets_other_roles():
    lazy = LazyArray(X)
    assert LazyArray(lazy) is lazy
    assert LazyArray(lazy, feature_ndim=0).roles == ("point", "point")
    assert LazyArray(lazy_squares(), feature_ndim=1).roles == ("point", "feature")


def test_scalars_keep_their_dtype():
    assert LazyArray(2).dtype == np.int64
    assert LazyArray(np.float32(2)).dtype == np.float32
    assert (LazyArray(X.astype("f4")) * 2.0).dtype == np.float32
    assert (LazyArray(X.astype("f4")) * np.float64(2)).dtype == np.float64
    assert (np.float64(2) * LazyArray(X.astype("f4"))).dtype == np.float64
    assert (2.0 * LazyArray(X.astype("f4"))).dtype == np.float32


def test_bytes_in_another_order_are_read():
    swapped = X.astype(X.dtype.newbyteorder())
    agree(LazyArray(swapped) * 2, X * 2)


@pytest.mark.parametrize(
    ("x", "error", "line"),
    [
        ([1, 2], TypeError, "LazyArray takes an array, and got a list."),
        ("abc", TypeError, "LazyArray takes an array, and got a str."),
        (None, TypeError, "LazyArray takes an array, and got a NoneType."),
        (object(), TypeError, "LazyArray takes an array, and got an object."),
        (np.array(["a"]), DtypeError, "LazyArray does not take arrays of dtype str32."),
        (np.array([1], "O"), DtypeError, "LazyArray does not take arrays of dtype object."),
        (
            np.zeros(2, "M8[s]"),
            DtypeError,
            "LazyArray does not take arrays of dtype datetime64[s].",
        ),
        (
            np.zeros(2, "g"),
            DtypeError,
            f"LazyArray does not take arrays of dtype {np.dtype('g').name}.",
        ),
        (np.asmatrix([[1.0]]), TypeError, "LazyArray takes an array, and got a matrix."),
        (np.ma.array([1.0]), TypeError, "LazyArray takes an array, and got a MaskedArray."),
    ],
)
def test_what_is_no_array(x, error, line):
    with pytest.raises(error) as caught:
        LazyArray(x)
    assert str(caught.value).splitlines()[0] == line


def test_axes_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"feature_ndim=3 does not fit an array with 2 axes."):
        LazyArray(X, feature_ndim=3)
    with pytest.raises(RoleError, match="cannot subtract: axis -1 is a"):
        LazyArray(X) - LazyArray(X, feature_ndim=0)
    with pytest.raises(
        ShapeError, match=r"cannot subtract: axis -1 has 3 entries in one operand and 4 in another."
    ):
        LazyArray(X) - np.zeros(4)


# -- operators -------------------------------------------------------------------------------------

BINARY = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.floordiv,
    operator.mod,
]
COMPARISONS = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]
INTEGER = [
    operator.and_,
    operator.or_,
    operator.xor,
    operator.lshift,
    operator.rshift,
    operator.pow,
]


@pytest.mark.parametrize("f", BINARY + COMPARISONS, ids=lambda f: f.__name__)
def test_operators_in_both_orders(f):
    d, lazy, cost = squares(X, Y), lazy_squares(), 0.5 + rng.random((M, N))
    for other in (
        2,
        1.5,
        np.float32(1.5),
        np.float64(2),
        np.int64(3),
        cost,
        cost[:, :1],
        np.abs(V),
    ):
        agree(f(lazy, other), f(d, other))
        agree(f(other, lazy), f(other, d))
    agree(f(lazy, lazy + 1), f(d, d + 1))


@pytest.mark.parametrize("f", BINARY + INTEGER, ids=lambda f: f.__name__)
def test_operators_of_integers(f):
    x, y, lazy_x, lazy_y = (
        INTS_X[:, None],
        INTS_Y[None],
        LazyArray(INTS_X)[:, None],
        LazyArray(INTS_Y)[None],
    )
    agree(f(lazy_x, lazy_y), f(x, y))
    agree(f(lazy_x, 2), f(x, 2))
    agree(f(3, lazy_y), f(3, y))
    agree(f(lazy_x, y), f(x, y))
    agree(f(x, lazy_y), f(x, y))


def test_other_operators():
    d, lazy = squares(X, Y) - 1, lazy_squares() - 1
    for f in (operator.neg, operator.pos, operator.abs):
        agree(f(lazy), f(d))
    agree(~(lazy > 0), ~(d > 0))
    agree(~LazyArray(INTS_X), ~INTS_X)
    agree(lazy**2, d**2)
    agree(2.0**lazy, 2.0**d)
    agree(abs(lazy) ** 1.5, abs(d) ** 1.5)
    for got, want in zip(divmod(lazy, 0.7), divmod(d, 0.7), strict=True):
        agree(got, want)
    for got, want in zip(divmod(7, lazy + 5), divmod(7, d + 5), strict=True):
        agree(got, want)
    with pytest.raises(UnsupportedError, match=r"pow\(d, y, modulo\) has no pairwise form."):
        pow(lazy, 2, 3)


def test_matrix_product_in_both_orders():
    d, lazy = squares(X, Y), lazy_squares()
    agree(lazy @ V, d @ V)
    agree(X.T @ lazy, X.T @ d)
    agree(lazy @ LazyArray(Y), d @ Y)
    agree(lazy @ lazy.T, d @ d.T)


def test_what_is_unknown_is_left_to_others():
    class Other:
        def __radd__(self, other):
            return "theirs"

        __rmatmul__ = __radd__

    assert lazy_squares() + Other() == "theirs"
    assert lazy_squares() @ Other() == "theirs"
    with pytest.raises(TypeError, match="unsupported operand"):
        lazy_squares() + [1]  # noqa: RUF005
    with pytest.raises(TypeError, match=r"cannot compare a lazy array with a list."):
        lazy_squares() == [1]  # noqa: B015
    assert (lazy_squares() == None) is False  # noqa: E711


def test_immutable():
    lazy = same = lazy_squares()
    lazy += 1
    assert lazy is not same
    agree(same, squares(X, Y))
    with pytest.raises(
        UnsupportedError,
        match=r"a lazy array cannot be changed: d\[...\] = value on d: \(6, 4\) float64.",
    ):
        lazy[0] = 1
    with pytest.raises(AttributeError):
        lazy.name = "d"
    for change in (operator.iadd, operator.isub, operator.imul):
        dense = np.zeros((M, N))
        with pytest.raises(
            UnsupportedError,
            match=r"\(out=\) would write all entries of d: \(6, 4\) float64 "
            r"into an array \(192 bytes\).",
        ):
            change(dense, lazy)


# -- methods ---------------------------------------------------------------------------------------


def test_methods_of_each_row():
    from duckkeops import ops, reductions

    for op in ops.TABLE:
        for name in (op.name, *(a for a in op.aliases if isinstance(a, str))):
            assert getattr(NumpyLazyArray, name).__doc__, name
    for row in reductions.TABLE:
        for name in (row.name, *row.aliases):
            assert getattr(NumpyLazyArray, name).__doc__, name


def test_methods():
    d, lazy = squares(X, Y), lazy_squares()
    agree(lazy.exp(), np.exp(d))
    agree(lazy.sqrt(), np.sqrt(d))
    agree(lazy.maximum(V), np.maximum(d, V))
    agree(lazy.clip(0.5, 1), d.clip(0.5, 1))
    agree(lazy.round(1), d.round(1))
    agree(lazy.where(lazy < 1, 0.0), np.where(d < 1, d, 0.0))
    agree(lazy.astype("f4"), d.astype("f4"))
    agree(lazy.sum(1), d.sum(1))
    agree(lazy.min(axis=0), d.min(axis=0))
    agree(lazy.var(1, ddof=1), d.var(1, ddof=1))
    agree(lazy.argmax(), d.argmax())
    agree(lazy.transpose(1, 0), d.T)
    agree(lazy.reshape(M, 1, N), d.reshape(M, 1, N))
    agree(lazy.reshape((1, M, N)), d.reshape(1, M, N))
    agree(lazy.squeeze(), d)
    agree(lazy.T, d.T)
    agree(lazy.mT, d.T)
    agree(lazy.matvec(V), d @ V)
    agree(lazy.rmatvec(X[:, 0]), d.T @ X[:, 0])
    agree(lazy.matmat(Y), d @ Y)
    agree(lazy.rmatmat(X), d.T @ X)
    agree((lazy + 1j).H @ X, (d + 1j).conj().T @ X)
    agree((lazy * 1j).imag, d)
    agree(lazy.real, d)


def test_metadata():
    lazy = lazy_squares().astype("f4")
    assert (lazy.shape, lazy.ndim, lazy.size, lazy.dtype, lazy.itemsize, lazy.nbytes) == (
        (M, N),
        2,
        M * N,
        np.float32,
        4,
        4 * M * N,
    )
    assert len(lazy) == M
    assert lazy.device == "cpu"
    assert {lazy: 1}[lazy] == 1
    with pytest.raises(TypeError, match="len\\(\\) of unsized object"):
        len(LazyArray(1.0))


# -- indexing --------------------------------------------------------------------------------------

MASK = np.array([True, False, True, True, False, True])
INDEX = [
    np.s_[None],
    np.s_[..., None],
    np.s_[:, None, :],
    np.s_[...],
    np.s_[2],
    np.s_[-1],
    np.s_[:, 1],
    np.s_[np.int64(2), ...],
    np.s_[1:4],
    np.s_[::-1],
    np.s_[::2, 1:],
    np.s_[4:1:-2, ::-1],
    np.s_[3:3],
    np.s_[10:],
    np.s_[[0, 3, -1]],
    np.s_[:, [2, 2]],
    np.s_[:, np.array([], int)],
    np.s_[MASK],
    np.s_[MASK, 1:],
    np.s_[[1, 2], :2],
    np.s_[1:, [3, 0]],
    np.s_[[[0, 1, 2], [3, 4, 5]]],
    np.s_[:, [[0], [1]]],
    np.s_[[1, 2], None],
    np.s_[None, 2],
    np.s_[[0, 1], 2],
    np.s_[2, [0, 1]],
]
POINTS = [
    np.s_[[0, 5, 2], [1, 1, 3]],
    np.s_[[[0], [5]], [1, 3, 0]],
    np.s_[MASK, [0, 1, 2, 3]],
    np.s_[np.array([-1, 0]), np.array([-1, 0]), None],
    np.s_[None, [1, 2], [3, 3]],
    np.s_[None, [1, 2], ..., [3, 3]],
]


@pytest.mark.parametrize("key", INDEX, ids=str)
def test_views(key):
    agree(lazy_squares()[key], squares(X, Y)[key])
    assert isinstance(lazy_squares()[key], LazyArray)


@pytest.mark.parametrize("key", POINTS, ids=str)
def test_points(key):
    agree(lazy_squares()[key], squares(X, Y)[key])
    assert isinstance(lazy_squares()[key], np.ndarray)


@pytest.mark.parametrize(
    "key",
    [
        np.s_[..., 0],
        np.s_[..., -1],
        np.s_[..., ::-1],
        np.s_[..., 1:],
        np.s_[..., [2, 0]],
        np.s_[1, ..., 2],
        np.s_[:, [0, 1], 2],
        np.s_[[0, 1], :, 2],
        np.s_[[0, 1], [2, 3]],
        np.s_[[0, 1], :, [0, 2]],
        np.s_[1, [0, 1], [2, 0]],
        np.s_[..., None, :],
    ],
    ids=str,
)
def test_components(key):
    agree((LazyArray(X)[:, None] - LazyArray(Y))[key], (X[:, None] - Y)[key])


def test_an_index_vector_may_be_lazy():
    agree(lazy_squares()[LazyArray(np.array([2, 0]))], squares(X, Y)[[2, 0]])
    agree(LazyArray(X)[LazyArray(X)[:, 0] > 0], X[X[:, 0] > 0])


def test_all_of_numpys_indexing_on_what_is_not_virtual():
    agree(LazyArray(X)[X > 0], X[X > 0])
    agree(LazyArray(X)[[[0, 1], [2, 3]]], X[[[0, 1], [2, 3]]])


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (6, IndexError),
        (-7, IndexError),
        (np.s_[:, 4], IndexError),
        (np.s_[[0, 6]], IndexError),
        (np.s_[0, 0, 0], IndexError),
        (np.s_[..., ...], IndexError),
        (np.s_[MASK[:3]], IndexError),
        (np.s_[1.0], IndexError),
        (np.s_[[0.5]], IndexError),
        (np.s_[[0, 1], [0, 1, 2]], IndexError),
    ],
    ids=str,
)
def test_bad_indices_raise_as_numpy(key, error):
    with pytest.raises(error) as theirs:
        squares(X, Y)[key]
    with pytest.raises(error) as ours:
        lazy_squares()[key]
    if not isinstance(key, tuple) or len(key) == 1:
        assert str(ours.value) == str(theirs.value)


def test_masks_of_pairs_are_refused():
    lazy = lazy_squares()
    for mask in (squares(X, Y) > 1, lazy > 1):
        with pytest.raises(
            VirtualArrayError,
            match=r"d\[mask\] has as many entries as the mask has true ones, "
            r"of \(6, 4\) float64 \(192 bytes\)",
        ):
            lazy[mask]
    with pytest.raises(UnsupportedError, match=r"d\[True\] has no pairwise form"):
        lazy[True]


# -- all entries -----------------------------------------------------------------------------------

DENSIFYING = {
    "numpy.asarray(d)": np.asarray,
    "bool(d)": bool,
    "float(d)": float,
    "int(d)": int,
    "complex(d)": complex,
    "operator.index(d)": operator.index,
    "iterating over d": list,
    "x in d": lambda d: 1 in d,
    "from_dlpack(d)": np.from_dlpack,
    "d.item()": lambda d: d.item(),
    "d.tolist()": lambda d: d.tolist(),
}


MORE = {
    "iterating over d": [
        "  Go over rows by their index: for i in range(len(d)): d[i], which stays lazy."
    ],
    "bool(d)": [
        "  Whether any or all entries are true: d.any(), d.all(). "
        "Two arrays are compared by (d == e).all(),",
        "  and found in a list by `is`: any(d is e for e in a_list).",
    ],
}


@pytest.mark.parametrize("what", DENSIFYING)
def test_a_virtual_array_refuses(what, monkeypatch):
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    with pytest.raises(VirtualArrayError) as caught:
        DENSIFYING[what](lazy_squares())
    first, second, *more = str(caught.value).splitlines()
    assert first == (
        f"{what} needs all entries of d: (6, 4) float64, which are never stored (192 bytes)."
    )
    assert second == "  Reduce first, as in d.sum(axis=1), or compute all pairs with d.to_dense()."
    assert more == MORE.get(what, [])
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("dispatch", [False, True])
def test_the_refusal_names_the_switch_of_scikit_learn(dispatch, monkeypatch):
    fake = types.SimpleNamespace(get_config=lambda: {"array_api_dispatch": dispatch})
    monkeypatch.setitem(sys.modules, "sklearn", fake)
    with pytest.raises(VirtualArrayError) as caught:
        np.asarray(lazy_squares())
    hint = "sklearn.set_config(array_api_dispatch=True)"
    assert (hint in str(caught.value)) is not dispatch
    with pytest.raises(VirtualArrayError) as caught:
        list(lazy_squares())
    assert hint not in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda d: np.array([d, d]),
        lambda d: np.full((M, N), d),
        lambda d: np.zeros((M, N)).__setitem__(..., d),
        lambda d: X.T.dot(d),
        lambda d: np.r_[X, d],
        lambda d: sum(d),
        lambda d: max(d, d),
        lambda d: X.T[d],
        lambda d: np.broadcast(d, X),
        lambda d: np.testing.assert_allclose(d, X),
    ],
)
def test_numpys_ways_around_the_protocols_are_refused(call):
    with pytest.raises((VirtualArrayError, UnsupportedError)):
        call(lazy_squares())


def test_what_is_not_virtual_converts():
    lazy = LazyArray(X)
    assert np.shares_memory(np.asarray(lazy), X)
    assert np.asarray(lazy, dtype="f4").dtype == np.float32
    assert not np.shares_memory(np.array(lazy), X)
    assert float(LazyArray(2.5)) == 2.5
    assert int(LazyArray(2)) == 2
    assert bool(LazyArray(1.0) > 0)
    assert complex(LazyArray(1j)) == 1j
    assert operator.index(LazyArray(3)) == 3
    assert [row.tolist() for row in lazy] == X.tolist()
    assert X[0, 0] in lazy
    agree(np.asarray(lazy_squares()[2]), squares(X, Y)[2])
    agree(np.from_dlpack(lazy), X)


def test_to_dense():
    agree(lazy_squares().to_dense(), squares(X, Y))
    agree(LazyArray(X).to_dense(), X)
    big = squares(LazyArray(np.zeros((10**6, 1), "f4")), LazyArray(np.zeros((5 * 10**5, 1), "f4")))
    with pytest.raises(MemoryError) as caught:
        big.to_dense()
    assert str(caught.value) == (
        "to_dense() needs 1.8 TiB for (1000000, 500000) float32; the limit is 1.0 GiB.\n"
        "  A reduction needs no such array: d.sum(axis=1), d.argmin(axis=1), d @ b.\n"
        "  If you do need it, raise the limit: d.to_dense(max_bytes=2000000000000)."
    )
    with pytest.raises(
        MemoryError,
        match=r"to_dense\(\) needs 192 bytes for \(6, 4\) float64; the limit is 100 bytes.",
    ):
        lazy_squares().to_dense(max_bytes=100)


def test_torch_does_not_walk_the_entries():
    torch = pytest.importorskip("torch")
    for make in (torch.tensor, torch.as_tensor, torch.asarray, torch.from_dlpack):
        with pytest.raises((TypeError, RuntimeError, ValueError), match="never stored"):
            make(lazy_squares())


# -- other libraries -------------------------------------------------------------------------------


def test_another_array_library():
    xp = pytest.importorskip("array_api_strict")
    x, y = xp.asarray(X), xp.asarray(Y)
    lazy = squares(LazyArray(x), LazyArray(y))
    for got, want in [
        (lazy.sum(1), squares(X, Y).sum(1)),
        (np.argmin(lazy, axis=1), squares(X, Y).argmin(1)),
        (np.exp(-lazy) @ xp.asarray(V), np.exp(-squares(X, Y)) @ V),
        (lazy.max(1, keepdims=True), squares(X, Y).max(1, keepdims=True)),
        (lazy[[0, 1], [2, 3]], squares(X, Y)[[0, 1], [2, 3]]),
        (
            lazy.softmax(1) @ y,
            np.exp(-np.logaddexp.reduce(squares(X, Y), axis=1, keepdims=True) + squares(X, Y)) @ Y,
        ),
        (lazy.to_dense(), squares(X, Y)),
    ]:
        assert type(got) is type(x)
        np.testing.assert_allclose(np.asarray(got), want, rtol=1e-10)
    with pytest.raises(
        TypeError,
        match="a lazy array over array_api_strict and an array of numpy cannot be combined",
    ):
        lazy - squares(X, Y)
    with pytest.raises(
        TypeError,
        match="a lazy array over numpy and an array of array_api_strict cannot be combined",
    ):
        lazy_squares() * xp.ones((M, N))


# -- copies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))]
)
def test_copies(clone):
    for make in (
        lambda: lazy_squares(),
        lambda: LazyArray(X),
        lambda: np.concatenate([LazyArray(X), 2 * LazyArray(X)], axis=-1),
        lambda: np.broadcast_to(lazy_squares() * np.float32(2) > 1, (2, M, N)),
        lambda: lazy_squares().softmax(1),
    ):
        one = make()
        two = clone(one)
        assert two is not one
        assert (type(two), two.roles) == (type(one), one.roles)
        agree(two, one.to_dense())


def test_deepcopy_copies_the_inputs():
    x = X.copy()
    lazy = copy.deepcopy(LazyArray(x))
    x[:] = 0
    agree(lazy, X)


# -- looking at it ---------------------------------------------------------------------------------


def test_repr():
    assert repr(lazy_squares()) == textwrap.dedent(
        """\
        LazyArray sum((x0 - x1)**2, axis=-1): (6, 4) float64
          x0: (6, 1, 3) float64
          x1: (1, 4, 3) float64"""
    )
    x = LazyArray(X)
    first = [
        repr(e).partition(":")[0]
        for e in (
            -x * 2,
            1 / (x + 1),
            (x < 1) & ~(x > 0),
            (-x) ** 2,
            2 - (x - 1),
            x.astype("f4"),
            x.softmax(0),
        )
    ]
    assert first == [
        "LazyArray -x0 * 2",
        "LazyArray 1 / (x0 + 1)",
        "LazyArray (x0 < 1) & ~(x0 > 0)",
        "LazyArray (-x0)**2",
        "LazyArray 2 - (x0 - 1)",
        "LazyArray astype(x0, float32)",
        "LazyArray softmax(x0, axis=-2)",
    ]


def test_what_can_be_looked_at():
    lazy = lazy_squares()
    for one in (lazy, np.exp(-lazy), lazy.softmax(1)):
        assert one.source()
        assert "6 points, 4 points (reduced)" in one.explain()
        assert one.estimate()
        assert one._repr_latex_().startswith("$")
        assert "(6, 4)" in one._repr_html_()


@pytest.mark.parametrize(
    ("make", "axes", "loops"),
    [
        (
            lambda x, y: (LazyArray(x)[:, None] - y).sum(-1),
            "90 points, 80 points (reduced)",
            "90 rows, each over 80 columns",
        ),
        (
            lambda x, y: LazyArray(x)[:, None] - y,
            "90 points, 80 points (reduced), 3 features",
            "90 rows, each over 80 columns, with 3 results a row",
        ),
        (
            lambda x, y: (LazyArray(np.stack([x] * 5))[:, :, None] - y).sum(-1),
            "5 points, 90 points, 80 points (reduced)",
            "5 times 90 rows, each over 80 columns",
        ),
        (
            lambda x, y: (LazyArray(x[:1])[:, None] - np.tile(y, (1000, 1))).sum(-1),
            "1 point, 80000 points (reduced)",
            "80000 rows; the rows are merged at the end",
        ),
    ],
)
@pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")
def test_explain_says_what_is_looped_over(make, axes, loops):
    lines = make(np.ones((90, 3)), np.ones((80, 3))).explain().splitlines()
    assert lines[1] == f"axes       {axes}" and lines[2] == f"loops      {loops}"


@pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")
def test_the_generated_part_of_a_source(tmp_path):
    """It compiles beside kernels/, and is what the whole source has besides them."""
    for lazy in (lazy_squares(), np.exp(1j * lazy_squares()), lazy_squares().lgamma()):
        generated, whole = lazy.source(generated=True), lazy.source()
        lines = generated.splitlines()
        assert lines[0] == whole.splitlines()[0] and lines[0].startswith("// sum over j of ")
        own = [line for line in lines if not line.startswith("#include")]
        assert len(own) < 150 < len(whole.splitlines())
        of_whole = iter(whole.splitlines())
        assert all(line in of_whole for line in own)  # in this order
        (tmp_path / "one.c").write_text(generated)
        command = (*cpu.compiler()[0], *cpu.flags(exact=False), "-I", source.kernels_folder())
        subprocess.run([*command, "-c", "-o", tmp_path / "one.o", tmp_path / "one.c"], check=True)


def test_repr_of_large_expressions_is_short():
    e = LazyArray(X)
    for _ in range(2000):
        e = e + e.sin()
    assert len(repr(e)) < 500
    assert "..." in repr(e)


# -- costs -----------------------------------------------------------------------------------------


def test_recording_an_operation_costs_microseconds():
    x, y = LazyArray(X)[:, None], LazyArray(Y)[None]
    best = min(timeit.repeat(lambda: x - y, number=2000, repeat=5)) / 2000
    assert best < 20e-6  # about 2 us on an idle machine


def test_import_loads_no_large_library():
    large = ("sympy", "torch", "cupy", "scipy", "opt_einsum", "array_api_compat")
    code = f"import sys, duckkeops; print([m for m in {large} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_negative_zero_is_no_zero():
    """-0.0 == 0.0, so it must neither share the other's kernel nor lose its sign in the formula."""
    d = LazyArray(np.ones(17))[:, None] * LazyArray(np.ones(19))[None]
    for zero in (0.0, -0.0, 0.0):
        np.testing.assert_array_equal(
            np.copysign(d, zero).sum(1), np.full(17, math.copysign(19, zero))
        )
        with np.errstate(divide="ignore"):
            np.testing.assert_array_equal(
                (1 / (d * zero)).max(1), np.full(17, math.copysign(math.inf, zero))
            )


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_integers_wrap_around_before_what_follows(dtype):
    """Overflow of signed integers is undefined in C:
    a compiler may take x * x to be nonnegative.
    """
    info = np.iinfo(dtype)
    x = np.array([info.min, info.min // 3, -12, 12, info.max // 3, info.max], dtype)
    d = LazyArray(x)[:, None] + LazyArray(x)[None]
    whole = x[:, None] + x[None]
    for f in (
        lambda a: abs(a * a),
        lambda a: np.sign(a * a),
        lambda a: np.maximum(a * a, 0),
        lambda a: a * a < 0,
    ):
        np.testing.assert_array_equal(f(d).sum(1), f(whole).sum(1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_numbers_that_sympy_would_evaluate(dtype):
    x, y = np.arange(5).astype(dtype), np.arange(4).astype(dtype)
    d, whole = LazyArray(x)[:, None] - LazyArray(y)[None], x[:, None] - y[None]
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal((d / 0).max(1), (whole / 0).max(1))
        np.testing.assert_array_equal(np.isclose(d, 1).sum(1), np.isclose(whole, 1).sum(1))
        assert np.allclose(d, 1.5, rtol=0.5) == np.allclose(whole, 1.5, rtol=0.5)


def test_long_chains_and_deep_sharing():
    x, y = np.linspace(0, 1, 5), np.linspace(0, 1, 4)
    d, whole = LazyArray(x)[:, None] * LazyArray(y)[None], x[:, None] * y[None]
    for k in range(300):
        d, whole = (
            (np.sqrt(d + k % 7), np.sqrt(whole + k % 7)) if k % 4 == 0 else (d * 0.99, whole * 0.99)
        )
    np.testing.assert_allclose(d.sum(1), whole.sum(1))
    d, whole = np.tanh(LazyArray(x)[:, None] * LazyArray(y)[None]), np.tanh(x[:, None] * y[None])
    for _ in range(40):
        d, whole = d * d + 0.1 - d * (d - 0.3), whole * whole + 0.1 - whole * (whole - 0.3)
    np.testing.assert_allclose(d.max(1), whole.max(1))


def test_the_users_array_may_change_its_shape():
    x, y = np.arange(6.0).reshape(6, 1), np.arange(50.0).reshape(1, 50)
    d = LazyArray(x, feature_ndim=0) * LazyArray(y, feature_ndim=0)
    expected = (x * y).sum(1)
    x.shape = (1, 6)
    np.testing.assert_array_equal(d.sum(1), expected)


def test_a_long_formula_is_shown_in_part():
    d = np.tanh(LazyArray(np.ones(5))[:, None] * LazyArray(np.ones(4))[None])
    for _ in range(30):
        d = d * d + 0.1 - d * (d - 0.3)
    assert len(repr(d)) < 2000
    assert len(d._repr_latex_()) < 2000


def test_an_input_met_at_a_batch_index_and_in_a_fold():
    """The address of x[b] must not serve x[d] as well."""
    rng = np.random.default_rng(0)
    x, a, z = rng.random((4, 1)), rng.random((4, 4, 7)), rng.random((5, 1, 1, 1))
    lazy = (LazyArray(one, feature_ndim=0, batch_ndim=0) for one in (x, a, z))

    def f(x, a, z):
        return (np.cos((x * a * z).sum(-2)) * x).sum(0)

    np.testing.assert_allclose(f(*lazy), f(x, a, z))


@pytest.mark.parametrize(
    "copied", [operator.methodcaller("copy"), np.copy, copy.copy, copy.deepcopy]
)
def test_copies_do_not_follow_their_arrays(copied):
    x = np.random.default_rng(0).normal(size=(5, 3))
    rows = np.broadcast_to(x[:, :1], (5, 3))  # repeated: a copy stays as small
    d_ij = LazyArray(x)[:, None] * LazyArray(rows)[None]
    expected, kept = d_ij.sum(axis=1), copied(d_ij)
    x[:] = 0
    assert np.array_equal(kept.sum(axis=1), expected)
    assert not d_ij.sum(axis=1).any()


def test_all_entries_of_a_wrapped_array_are_a_copy():
    x = np.arange(6.0).reshape(2, 3)
    dense = LazyArray(x).to_dense()
    dense[:] = 7
    assert np.array_equal(x, np.arange(6.0).reshape(2, 3))
