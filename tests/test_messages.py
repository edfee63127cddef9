"""What refusals and their hints say to somebody who meets them for the first time."""

import copy
import inspect
import pickle
from typing import Any

import numpy as np
import pytest
from scipy import linalg, special

import duckkeops
import duckkeops.linalg
from duckkeops import LazyArray
from duckkeops.errors import ShapeError, UnsupportedError, VirtualArrayError
from duckkeops.numpy_table import SPECIAL

X, Y = np.linspace(0.1, 2, 18).reshape(6, 3), np.linspace(0.3, 1.7, 12).reshape(4, 3)
D = ((LazyArray(X)[:, None] - LazyArray(Y)[None]) ** 2).sum(-1)
DENSE = D.to_dense()

STORED = "scipy.linalg computes with stored matrices: solve with duckkeops.linalg.solve(d, b)"
ASKERS = {
    "scipy.linalg.solve": (lambda: linalg.solve(D, Y[:, 0]), STORED),
    "scipy.linalg.cho_factor": (lambda: linalg.cho_factor(D), STORED),
    "scipy.linalg.eigh": (lambda: linalg.eigh(D), STORED),
    "scipy.special.logsumexp": (
        lambda: special.logsumexp(D, axis=1),
        "duckkeops.logsumexp(d, axis=1) and duckkeops.softmax(d, axis=1) stand for those",
    ),
    "numpy.vectorize": (
        lambda: np.vectorize(lambda a: a)(D),
        "numpy.vectorize calls a function for one entry at a time: call it with all of d",
    ),
    "numpy.testing.assert_allclose": (
        lambda: np.testing.assert_allclose(D, D),
        "numpy.testing compares stored arrays: assert numpy.allclose(d, e) or",
    ),
}


@pytest.mark.parametrize("name", ASKERS)
def test_the_refusal_of_all_entries_knows_who_asked(name):
    call, hint = ASKERS[name]
    with pytest.raises(VirtualArrayError) as caught:
        call()
    assert hint in str(caught.value)
    assert [t for t in {text for _, text in ASKERS.values()} if t in str(caught.value)] == [hint]


def test_the_users_own_call_gets_no_hint_of_a_library():
    with pytest.raises(VirtualArrayError) as caught:
        np.asarray(D)
    assert not any(text in str(caught.value) for _, text in ASKERS.values())


def test_special_functions_without_a_row_are_named_with_their_neighbours():
    for f, name in (
        (special.zeta, "zeta"),
        (lambda d: special.zeta(d, 2.0), "zeta"),
        (special.lambertw, "lambertw"),
        (special.spence, "spence"),
        (lambda d: special.gammainc(2.0, d), "gammainc"),
        (lambda d: special.jv(2, d), "jv"),
    ):
        with pytest.raises(UnsupportedError) as caught:
            f(D)
        text = str(caught.value)
        assert text.startswith(f"scipy.special.{name} has no pairwise form, so it cannot take d:")
        assert "more are there: dir(duckkeops.array_api.special)" in text
    with pytest.raises(UnsupportedError, match=r"j0\(d\) and j1\(d\)"):
        special.jv(2, D)
    between = "numpy.interp(d, grid, scipy.special.spence(grid))"
    with pytest.raises(UnsupportedError) as caught:
        special.spence(D)
    assert between in str(caught.value)


def test_the_neighbours_say_the_same():
    g = special.gammaln
    spelled = {
        "beta": (special.beta(2.0, DENSE), np.exp(g(2.0) + g(D) - g(2.0 + D))),
        "betaln": (special.betaln(2.0, DENSE), g(2.0) + g(D) - g(2.0 + D)),
        "poch": (special.poch(DENSE, 1.5), np.exp(g(D + 1.5) - g(D))),
        "binom": (special.binom(9.0, DENSE), np.exp(g(10.0) - g(D + 1) - g(9.0 - D + 1))),
        "gammasgn": (special.gammasgn(-DENSE), np.sign(special.gamma(-D))),
        "exprel": (special.exprel(DENSE), np.where(D == 0, 1, np.expm1(D) / D)),
        "cosm1": (special.cosm1(DENSE), -2 * np.sin(D / 2) ** 2),
        "powm1": (special.powm1(DENSE, 3.0), np.expm1(3.0 * np.log(D))),
        "cosdg": (special.cosdg(DENSE), np.cos(np.deg2rad(D))),
        "sindg": (special.sindg(DENSE), np.sin(np.deg2rad(D))),
        "tandg": (special.tandg(DENSE), np.tan(np.deg2rad(D))),
        "cotdg": (special.cotdg(DENSE), 1 / np.tan(np.deg2rad(D))),
        "radian": (special.radian(DENSE, 3.0, 4.0), np.deg2rad(D + 3 / 60 + 4 / 3600)),
        "loggamma": (special.loggamma(DENSE), g(D)),
        "kn": (special.kn(2, DENSE), special.kv(2, D)),
        "jv": (special.jv(1, DENSE), special.j1(D)),
        "yv": (special.yv(0, DENSE), special.y0(D)),
        "yn": (special.yn(1, DENSE), special.y1(D)),
    }
    assert set(spelled) == set(SPECIAL)
    with duckkeops.config(engine="blocks"):
        for name, (want, lazy) in spelled.items():
            np.testing.assert_allclose(lazy.to_dense(), want, rtol=1e-9, err_msg=name)


CHANGES = {
    "fill": lambda d: d.fill(0),
    "itemset": lambda d: d.itemset(0, 1.0),
    "put": lambda d: d.put([0], [1.0]),
    "resize": lambda d: d.resize((2, 2)),
    "setfield": lambda d: d.setfield(0, float),
    "setflags": lambda d: d.setflags(write=True),
    "byteswap": lambda d: d.byteswap(inplace=True),
}
MEMORY = {
    "tobytes": lambda d: d.tobytes(),
    "tofile": lambda d: d.tofile("d"),
    "dump": lambda d: d.dump("d"),
    "dumps": lambda d: d.dumps(),
    "view": lambda d: d.view(np.int64),
    "getfield": lambda d: d.getfield(np.float32),
}


@pytest.mark.parametrize("name", [*CHANGES, *MEMORY])
def test_methods_of_stored_arrays_are_refused_in_our_words(name):
    call = (CHANGES | MEMORY)[name]
    hint = "A lazy array cannot be changed" if name in CHANGES else "No entry is stored: "
    for lazy in (D, LazyArray(X)):
        with pytest.raises(UnsupportedError) as caught:
            call(lazy)
        assert str(caught.value).startswith(f"d.{name} has no pairwise form, so it cannot take d: ")
        assert hint in str(caught.value)


def test_every_method_of_numpys_arrays_is_there_or_refused():
    missing = {n for n in dir(np.ndarray) if n[0] != "_" and not hasattr(type(D), n)}
    assert missing == {
        "base",
        "ctypes",
        "data",
        "flags",
        "strides",
    }  # of memory, which is not there


def test_changing_entries_under_a_mask():
    with pytest.raises(VirtualArrayError, match=r"write d = numpy.where\(mask, value, d\)"):
        D[D == 0] += 1e-3
    with pytest.raises(UnsupportedError, match=r"d = numpy.where\(mask, value, d\)"):
        D[D == 0] = 1e-3


def test_counts_of_entries_are_named_by_the_function_that_was_called():
    for what, call in {
        "argtopk": lambda k: duckkeops.argtopk(D, k),
        "topk": lambda k: duckkeops.topk(D, k),
    }.items():
        for one in (call, lambda k, what=what: getattr(D, what)(k)):
            with pytest.raises(ValueError, match=rf"^{what}\(k=-1\): k is the number of entries"):
                one(-1)
            with pytest.raises(TypeError, match=rf"^{what}\(k=1.5\): .* integer, and got a float"):
                one(1.5)
    for f in (duckkeops.argtopk, duckkeops.topk):
        with pytest.raises(TypeError, match=rf"^{f.__name__}\(\) got an unexpected keyword"):
            f(DENSE, 1, foo=1)
        with pytest.raises(TypeError, match=rf"^{f.__name__} takes an array of numbers"):
            f("abc", 1)
    with pytest.raises(UnsupportedError, match=r"^argtopk over axis 2, a feature axis,"):
        (LazyArray(X)[:, None] - LazyArray(Y)[None]).argtopk(1)


def test_one_number_is_formatted():
    xp = duckkeops.array_api
    assert f"{D[0, 1]:.3f}" == f"{DENSE[0, 1]:.3f}"
    assert f"{xp.sum(xp.asarray(D)):.3f}" == f"{DENSE.sum():.3f}"
    assert f"{xp.sum(xp.asarray([1, 2])):04d} {xp.asarray(1j):.1f}" == "0003 0.0+1.0j"
    assert f"{LazyArray(2.5):5.2f}|{LazyArray(True):2d}" == " 2.50| 1"
    assert f"{D}" == str(D)
    with pytest.raises(TypeError, match=r"^the format '.3f' is for one number, and d: \(6, 4\)"):
        f"{D:.3f}"
    with pytest.raises(ValueError, match="Unknown format code"):
        f"{D[0, 1]:d}"


def test_softmax_is_over_all_entries_unless_an_axis_is_named():
    want = special.softmax(DENSE)
    for lazy in (D.softmax(), duckkeops.softmax(D), np.exp(D.log_softmax())):
        np.testing.assert_allclose(lazy.to_dense(), want, rtol=1e-12)
    mean = (want * DENSE).sum()
    np.testing.assert_allclose(D.softmax_sum(D), mean, rtol=1e-12)
    np.testing.assert_allclose(D.logsumexp(), special.logsumexp(DENSE), rtol=1e-12)


def test_the_names_of_the_package_are_the_public_ones():
    assert set(dir(duckkeops)) == {*duckkeops.__all__, "__version__"}
    assert all(hasattr(duckkeops, name) for name in dir(duckkeops))


def test_a_large_eye_is_virtual():
    xp = duckkeops.array_api
    n = 50_000
    x = LazyArray(np.linspace(0, 1, n))
    K = np.exp(-abs(x[:, None] - x[None, :])) + 2 * xp.eye(n)
    assert K.shape == (n, n) and type(xp.eye(n)) is xp.Array
    one = xp.eye(3000, 2000, k=-5, dtype=xp.float32)
    assert (one.shape, one.dtype) == ((3000, 2000), np.float32)
    np.testing.assert_array_equal(xp.sum(one, axis=1), np.eye(3000, 2000, -5).sum(1))
    with pytest.raises(VirtualArrayError):
        np.asarray(one)
    small = xp.eye(3)  # as generic code changes it
    small[0, 1] = 4
    np.testing.assert_array_equal(small, [[1, 4, 0], [0, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (
            lambda: np.take_along_axis(D, np.zeros((6, 1)), 1),
            IndexError,
            "must be an integer array",
        ),
        (lambda: np.pad(D, -1), ValueError, "pad_width=-1 has a negative width"),
        (lambda: np.pad(D, ((0, 0), (-1, 2))), ValueError, "has a negative width"),
        (lambda: np.einsum(D), ValueError, "einsum takes subscripts and operands, and got one"),
        (lambda: duckkeops.linalg.eye(-1), ValueError, r"no shape \(-1, -1\)"),
        (lambda: duckkeops.linalg.eye("a"), TypeError, "cannot be interpreted as an integer"),
        (lambda: LazyArray(X, feature_ndim=1.5), TypeError, "feature_ndim=1.5: it is a number of"),
        (lambda: LazyArray(X, batch_ndim="a"), TypeError, "batch_ndim='a': it is a number of axes"),
    ],
)
def test_arguments_that_numpy_would_refuse(call, error, says):
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize("call", [lambda: bool(D > 1), lambda: D + 1 in [D], lambda: [1].index(D)])
def test_truth_of_all_pairs_is_refused_with_what_tells_it(call):
    with pytest.raises(VirtualArrayError, match=r"compared by \(d == e\)\.all\(\)"):
        call()


def test_attributes_that_are_refused_are_missing_to_debuggers():
    assert not hasattr(D, "flat")
    with pytest.raises(UnsupportedError, match=r"d\.ravel\(\)\[k\]"):
        D.flat  # noqa: B018
    members = dict(inspect.getmembers(D))
    assert members["shape"] == (6, 4) and "flat" not in members


HALVES: Any = 1.5
WRONG = {
    "where": (lambda d: np.where(d > 1, d), ValueError, "either both or neither of x and y"),
    "select": (lambda d: np.select([d], [d]), TypeError, "invalid entry 0 in condlist"),
    "pad by halves": (lambda d: np.pad(d, HALVES), TypeError, "must be of integral type"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_numpy_refuses_is_refused(name):
    call, kind, text = WRONG[name]
    for d in (D, DENSE):
        with pytest.raises(kind, match=text):
            call(d)


def test_nystrom_says_what_it_takes():
    K = np.exp(-((LazyArray(X)[:, None] - LazyArray(X)[None]) ** 2).sum(-1))
    with pytest.raises(ShapeError, match=r"nystrom takes a square matrix K.*\(6, 4\)"):
        duckkeops.linalg.nystrom(D, 2.0)
    ridge: Any
    rank: Any
    for ridge, rank in (("a", 3), (1.0, 2.5)):
        with pytest.raises(TypeError, match="ridge is a number, and rank how many eigenvalues"):
            duckkeops.linalg.nystrom(K, ridge, rank)


@pytest.mark.parametrize("copied", [lambda v: pickle.loads(pickle.dumps(v)), copy.deepcopy])
def test_what_waits_for_a_slice_or_a_reduction_travels(copied):
    assert (copied(np.sort(D, axis=1))[:, :2] == np.sort(D, axis=1)[:, :2]).all()
    assert (copied(np.argsort(D, axis=0))[:2] == np.argsort(DENSE, axis=0)[:2]).all()
    assert copied(D.ravel()).max() == D.max()
