"""Systems solved by products: against dense solutions, and what is said where none is found."""

import doctest

import array_api_strict
import numpy as np
import pytest
import scipy.sparse.linalg as sparse

import duckkeops
from duckkeops import (
    ConvergenceError,
    DtypeError,
    LazyArray,
    ShapeError,
    linalg,
)

N = 230
POINTS = np.random.default_rng(1).random((N, 2))
B = np.random.default_rng(2).standard_normal((N, 3))


def kernel(dtype="float64", scale=20.0):
    """The same Gaussian kernel matrix, lazy and dense; Hermitian for complex dtypes."""
    points = POINTS.astype(np.finfo(dtype).dtype)
    x = LazyArray(points)
    lazy = np.exp(-scale * ((x[:, None] - x[None]) ** 2).sum(-1))
    dense = np.exp(-scale * ((POINTS[:, None] - POINTS[None]) ** 2).sum(-1))
    if np.dtype(dtype).kind == "c":
        turn = 3 * (x[:, None, 0] - x[None, :, 1])
        lazy = lazy * np.exp(1j * (turn - turn.T))
        turn = 3 * (POINTS[:, None, 0] - POINTS[None, :, 1])
        dense = dense * np.exp(1j * (turn - turn.T))
    return lazy, dense


def right_sides(dtype):
    return (B + 1j * B[::-1] if np.dtype(dtype).kind == "c" else B).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("preconditioner", [None, "nystrom"])
def test_solution(dtype, preconditioner):
    lazy, dense = kernel(dtype)
    rtol = 1e-5 if np.finfo(dtype).bits == 32 else 1e-11
    for b in (right_sides(dtype), right_sides(dtype)[:, 0]):
        want = np.linalg.solve(dense + np.eye(N), b)
        got = linalg.solve(lazy, b, ridge=1.0, rtol=rtol, preconditioner=preconditioner)
        assert type(got) is np.ndarray
        assert got.dtype == dtype
        assert got.shape == b.shape
        residual = np.linalg.norm(dense @ got + got - b, axis=0)
        assert np.all(residual <= 1.1 * rtol * np.linalg.norm(b, axis=0))
        np.testing.assert_allclose(got, want, atol=100 * rtol * np.abs(want).max())


def test_iterations_are_scipys():
    lazy, dense = kernel()
    ours, theirs = [], []
    linalg.solve(lazy, B[:, 0], ridge=0.5, callback=ours.append)
    sparse.cg(dense + 0.5 * np.eye(N), B[:, 0], callback=theirs.append)
    assert abs(len(ours) - len(theirs)) <= 1


def test_nystrom_takes_few_iterations():
    lazy, dense = kernel()
    plain, helped = [], []
    linalg.solve(lazy, B, ridge=0.01, callback=plain.append)
    x = linalg.solve(lazy, B, ridge=0.01, callback=helped.append, preconditioner="nystrom")
    assert len(helped) < len(plain) / 10
    assert helped[-1].shape == B.shape
    np.testing.assert_array_equal(helped[-1], x)
    inverse = linalg.nystrom(lazy, 0.01, rank=N)
    near = inverse(dense @ B + 0.01 * B)
    np.testing.assert_allclose(near, B, atol=1e-6)


def test_preconditioners():
    lazy, dense = kernel()
    scale = np.linspace(20, 9000, N)
    lazy = lazy + linalg.eye(N) * LazyArray(scale)[:, None]
    want = np.linalg.solve(dense + np.diag(scale) + np.eye(N), B)
    diagonal = 1 / (scale + 2)
    steps = {}
    for name, given in {
        "none": None,
        "function": lambda R: R * diagonal[:, None],
        "array": np.diag(diagonal),
        "operator": sparse.aslinearoperator(np.diag(diagonal)),
    }.items():
        steps[name] = []
        got = linalg.solve(
            lazy, B, ridge=1.0, rtol=1e-10, preconditioner=given, callback=steps[name].append
        )
        np.testing.assert_allclose(got, want, atol=1e-7)
    assert len(steps["function"]) == len(steps["array"]) == len(steps["operator"])
    assert len(steps["function"]) < len(steps["none"])


@pytest.mark.parametrize("given", ["array", "operator", "sparse", "strict"])
def test_other_matrices(given):
    lazy, dense = kernel()
    want = np.linalg.solve(dense + np.eye(N), B)
    matrix = {
        "array": lambda: dense,
        "operator": lambda: sparse.aslinearoperator(lazy),
        "sparse": lambda: sparse.aslinearoperator(dense),
        "strict": lambda: strict_kernel(),
    }[given]()
    b = array_api_strict.asarray(B) if given == "strict" else B
    got = linalg.solve(matrix, b, ridge=1.0, rtol=1e-10, preconditioner="nystrom")
    assert type(got) is type(b)
    np.testing.assert_allclose(np.asarray(got), want, atol=1e-8)


def strict_kernel(dtype="float64"):
    x = LazyArray(array_api_strict.asarray(POINTS.astype(dtype)))
    return np.exp(-20.0 * ((x[:, None] - x[None]) ** 2).sum(-1))


def test_columns_end_one_by_one():
    """A zero column, an eigenvector and two ordinary columns; what begins right stays."""
    lazy, dense = kernel()
    b = np.column_stack([np.zeros(N), np.linalg.eigh(dense)[1][:, -1], B[:, :2]])
    want = np.linalg.solve(dense + np.eye(N), b)
    got = linalg.solve(lazy, b, ridge=1.0, rtol=1e-10)
    np.testing.assert_allclose(got, want, atol=1e-8)
    np.testing.assert_array_equal(got[:, 0], 0)
    steps = []
    again = linalg.solve(lazy, b, ridge=1.0, rtol=1e-8, x0=got, callback=steps.append)
    np.testing.assert_array_equal(again, got)
    assert steps == []


def test_arguments_are_left_alone():
    lazy, _ = kernel()
    b, x0 = B.copy(), B.copy()
    linalg.solve(lazy, b, ridge=1.0, x0=x0)
    np.testing.assert_array_equal(b, B)
    np.testing.assert_array_equal(x0, B)


def test_integers_and_lazy_right_sides():
    x = LazyArray(np.arange(5))
    lazy = (x[:, None] == x[None, :]).astype(np.int64) * 2
    got = linalg.solve(lazy, np.arange(5))
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, np.arange(5) / 2)
    np.testing.assert_allclose(linalg.solve(lazy, x), np.arange(5) / 2)


def test_too_few_iterations():
    lazy, dense = kernel()
    with pytest.raises(
        ConvergenceError, match=r"the residual of column \d is .* after 7 iter"
    ) as e:
        linalg.solve(lazy, B, ridge=1e-3, maxiter=7)
    assert "maxiter=70" in str(e.value)
    assert e.value.iterations == 7
    error = np.linalg.norm(B - dense @ e.value.x - 1e-3 * e.value.x, axis=0)
    np.testing.assert_allclose(error, e.value.residual, rtol=1e-6)


def squares(n, dtype, scale=20.0):
    """A Gaussian kernel matrix of n points in the plane, lazy, and in float64 dense."""
    points = np.random.default_rng(n).random((n, 2)).astype(dtype)
    x = LazyArray(points)
    dense = ((points[:, None].astype("float64") - points[None]) ** 2).sum(-1)
    return np.exp(-scale * ((x[:, None] - x[None]) ** 2).sum(-1)), np.exp(-scale * dense)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("columns", [None, 1, 4])
@pytest.mark.parametrize("ridge", [0.05, 1.0, 1e6, "points"])
@pytest.mark.parametrize("n", [1, 2, 33, 500])
def test_against_dense(n, ridge, columns, dtype):
    """The default tolerance is kept, by what is returned and in float64."""
    lazy, dense = squares(n, dtype)
    rng = np.random.default_rng(n)
    b = rng.standard_normal(n if columns is None else (n, columns)).astype(dtype)
    ridge = rng.uniform(0.1, 3.0, n) if ridge == "points" else ridge
    system = dense + np.diag(np.broadcast_to(ridge, n))
    rtol = 1e-4 if dtype == "float32" else 1e-5
    got = linalg.solve(lazy, b, ridge=ridge)
    assert got.dtype == dtype
    assert got.shape == b.shape
    residual = np.linalg.norm(system @ got - b, axis=0)
    assert np.all(residual <= 1.1 * rtol * np.linalg.norm(b, axis=0))
    error = np.linalg.norm(got - np.linalg.solve(system, b), axis=0)
    assert np.all(error <= 1.1 * rtol * np.linalg.norm(b, axis=0) / np.linalg.eigvalsh(system)[0])


@pytest.mark.parametrize("n", [1, 2, 33])
@pytest.mark.parametrize("ridge", [0, 1e-300])
def test_no_ridge(n, ridge):
    lazy, dense = squares(n, "float64", scale=1e4)
    b = np.ones(n)
    got = linalg.solve(lazy, b, ridge=ridge, rtol=1e-12)
    np.testing.assert_allclose(got, np.linalg.solve(dense, b), rtol=1e-9)


def test_singular():
    """Solved where b is in the range of K, and refused where it is not."""
    x = LazyArray(np.arange(6.0))
    ones = 0 * x[:, None] + 0 * x[None, :] + 1
    got = linalg.solve(ones, np.full(6, 3.0))
    np.testing.assert_allclose(got.sum(), 3.0)
    with pytest.raises(ConvergenceError, match=r"K \+ ridge I is singular or nearly so"):
        linalg.solve(ones, np.arange(6.0))


def test_zero():
    """b = 0 has the solution 0, also where x0 says otherwise; b of no columns has none."""
    lazy, _ = kernel()
    b = B.copy()
    b[:, 1] = 0
    got = linalg.solve(lazy, b, ridge=1.0, x0=B)
    assert not got[:, 1].any()
    assert got[:, 0].all()
    assert linalg.solve(lazy, B[:, :0], ridge=1.0).shape == (N, 0)


@pytest.mark.parametrize("ridge", [0.1, 1e-2])
def test_float32_is_as_good_as_its_numbers(ridge):
    """A condition number of 3e4 is no reason to miss 1e-5: only the rounding of x is."""
    lazy, dense = squares(500, "float32", scale=1.0)
    b = np.random.default_rng(0).standard_normal(500).astype("float32")
    got = linalg.solve(lazy, b, ridge=ridge)
    true = dense @ got + ridge * got - b
    assert np.linalg.norm(true) <= 1.1e-4 * np.linalg.norm(b)


@pytest.mark.parametrize("given", ["array", "operator", "strict"])
def test_other_matrices_in_float32(given, monkeypatch):
    monkeypatch.setattr(linalg, "ROWS", 100)  # a stored matrix is multiplied in parts
    dense = kernel("float32")[1]
    matrix, b = {
        "array": lambda: (dense.astype("float32"), B.astype("float32")),
        "operator": lambda: (sparse.aslinearoperator(dense.astype("float32")), np.float32(B)),
        "strict": lambda: (strict_kernel("float32"), array_api_strict.asarray(np.float32(B))),
    }[given]()
    for ridge in (0.1, np.full(N, 0.1)):
        if given == "strict":
            ridge = array_api_strict.asarray(ridge)
        got = np.asarray(linalg.solve(matrix, b, ridge=ridge))
        assert got.dtype == np.float32
        true = np.linalg.norm(dense @ got + 0.1 * got - B, axis=0)
        assert np.all(true <= 1.1e-4 * np.linalg.norm(B, axis=0))


def test_beyond_float32():
    """The nearest float32 numbers miss the tolerance: said, with what is attained."""
    lazy, _ = kernel("float32")
    b = B.astype("float32")
    with pytest.raises(ConvergenceError, match="the nearest numbers of float32 have this") as e:
        linalg.solve(lazy, b, ridge=1e-2, preconditioner="nystrom", rtol=1e-6)
    assert e.value.x.dtype == np.float32
    x = e.value.x.astype("float64")
    want = np.linalg.norm(lazy @ x + 1e-2 * x - b, axis=0)
    np.testing.assert_allclose(e.value.residual, want, rtol=1e-6)
    worst = int(np.argmax(e.value.residual / np.linalg.norm(b, axis=0)))
    share = (e.value.residual / np.linalg.norm(b, axis=0))[worst]
    assert f"column {worst} is {e.value.residual[worst]:.1e}, {share:.1e} of |b|," in str(e.value)
    got = linalg.solve(lazy, B, ridge=1e-2, preconditioner="nystrom", rtol=1e-6)
    assert got.dtype == np.float64


def test_beyond_float64():
    lazy, _ = kernel()
    with pytest.raises(ConvergenceError, match="The rounding errors of float64 allow no less"):
        linalg.solve(lazy, B, ridge=0.1, rtol=0)


def test_large_numbers_of_float32():
    """Squares beyond the largest float32 are no NaN."""
    lazy, dense = kernel("float32")
    b = (B * 1e25).astype("float32")
    got = linalg.solve(lazy, b, ridge=1.0)
    want = np.linalg.solve(dense + np.eye(N), b.astype("float64"))
    np.testing.assert_allclose(got, want, atol=1e-3 * np.abs(want).max())


def test_one_ridge_for_each_point():
    lazy, dense = kernel()
    ridge = np.linspace(1e-3, 10.0, N) ** 2 + 1e-2
    want = np.linalg.solve(dense + np.diag(ridge), B)
    steps = {}
    for preconditioner in (None, "nystrom"):
        steps[preconditioner] = []
        got = linalg.solve(
            lazy,
            B,
            ridge=list(ridge),
            rtol=1e-12,
            preconditioner=preconditioner,
            callback=steps[preconditioner].append,
        )
        np.testing.assert_allclose(got, want, atol=1e-8 * np.abs(want).max())
    assert len(steps["nystrom"]) < len(steps[None]) / 3
    with pytest.raises(
        ShapeError, match=r"a number or one for each point, \(230,\), .* got \(3,\)"
    ):
        linalg.solve(lazy, B, ridge=np.ones(3))
    with pytest.raises(ValueError, match="needs a ridge that is positive at each point"):
        linalg.solve(lazy, B, ridge=np.arange(N), preconditioner="nystrom")


def test_lists():
    got = linalg.solve([[2, 1], [1, 2]], [1.0, 2.0], x0=(0, 0))
    np.testing.assert_allclose(got, [0.0, 1.0], atol=1e-9)
    np.testing.assert_allclose(linalg.solve(2 * np.eye(2), ((1, 2), (3, 4))), [[0.5, 1], [1.5, 2]])


def test_what_is_not_positive_definite():
    lazy, _ = kernel()
    with pytest.raises(ConvergenceError, match="not positive definite"):
        linalg.solve(lazy - 2 * linalg.eye(N), B)
    with pytest.raises(ConvergenceError, match=r"When it was met, the residual.* of \|b\|, after"):
        linalg.solve(lazy - 2 * linalg.eye(N), B)
    with pytest.raises(ConvergenceError, match="the preconditioner is not positive definite"):
        linalg.solve(lazy, B, ridge=1.0, preconditioner=lambda R: -R)
    with pytest.raises(ValueError, match="nystrom needs a positive semidefinite K"):
        linalg.nystrom(-lazy, 1.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_symmetric(dtype):
    """No wrong solution, and the reason; a kernel matrix that fails otherwise is not accused."""
    x = LazyArray(POINTS.astype(dtype))
    lopsided = np.exp(x[:, None, 0] - 3 * x[None, :, 1])
    b = B[:, 0].astype(dtype)
    with pytest.raises(ConvergenceError, match="K is not Hermitian") as e:
        linalg.solve(lopsided, b, ridge=1e-3, maxiter=30)
    assert "scipy.sparse.linalg.gmres(K, b)" in str(e.value)
    assert e.value.x.shape == b.shape
    lazy, _ = kernel(dtype)
    with pytest.raises(ConvergenceError, match="Allow more iterations, maxiter=50"):
        linalg.solve(lazy, b, ridge=1e-3, maxiter=5)


def test_complex_symmetric_is_not_hermitian():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((20, 20)) + 1j * rng.standard_normal((20, 20))
    with pytest.raises(ConvergenceError, match="K is not Hermitian"):
        linalg.solve(a + a.T, np.ones(20))


def test_nan():
    lazy, _ = kernel()
    with pytest.raises(ConvergenceError, match="NaN or infinite after 0 iterations"):
        linalg.solve(lazy * np.nan, B)
    with pytest.raises(ValueError, match="b holds NaN"):
        linalg.solve(lazy, B * np.nan)
    with pytest.raises(ValueError, match="x0 holds NaN"):
        linalg.solve(lazy, B, x0=B * np.nan)
    with pytest.raises(ConvergenceError, match="the preconditioner gives NaN or infinities"):
        linalg.solve(lazy, B, ridge=1.0, preconditioner=lambda R: R * np.nan)


def test_messages():
    lazy, _ = kernel()
    with pytest.raises(ShapeError, match="takes a square matrix K, and got one of shape"):
        linalg.solve(lazy[:5], B[:5])
    with pytest.raises(ShapeError, match=r"K is \(230, 230\), and b is \(4,\)"):
        linalg.solve(lazy, np.ones(4))
    with pytest.raises(ShapeError, match="x0 must be of b's shape"):
        linalg.solve(lazy, B, x0=B[:, 0])
    with pytest.raises(ValueError, match="preconditioner='jacobi'"):
        linalg.solve(lazy, B, preconditioner="jacobi")
    with pytest.raises(ValueError, match="both must be positive"):
        linalg.solve(lazy, B, preconditioner="nystrom")
    with pytest.raises(TypeError, match="solve takes an array as b, and got str"):
        linalg.solve(lazy, "b")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"b": [[1], [2, 3]]}, ShapeError, "as b; its rows differ in length"),
        ({"b": ["u", "v"]}, DtypeError, "takes numbers as b, and got str"),
        ({"b": None}, TypeError, "takes an array as b, and got NoneType"),
        ({"b": 5}, ShapeError, r"b is \(\)"),
        ({"K": "K"}, TypeError, "takes a matrix K, .* got str"),
        ({"K": np.array([["u"] * 2] * 2)}, DtypeError, "takes numbers as K, and got str"),
        ({"x0": [1, None]}, DtypeError, "takes numbers as x0, and got object"),
        ({"x0": [1, 2, 3]}, ShapeError, r"x0 must be of b's shape, \(2,\), and is \(3,\)"),
        ({"x0": array_api_strict.ones(2)}, TypeError, "x0 is a Array and b a ndarray"),
        ({"ridge": None}, TypeError, "takes an array as ridge, and got NoneType"),
        ({"ridge": "much"}, TypeError, "takes an array as ridge, and got str"),
        ({"ridge": 1j}, DtypeError, "takes a real ridge, and got complex128"),
        ({"ridge": np.inf}, ValueError, "takes a finite ridge"),
        ({"ridge": np.ones((2, 1))}, ShapeError, r"point, \(2,\), as ridge, and got \(2, 1\)"),
        ({"rtol": -1}, ValueError, r"rtol=-1\): it is finite and not negative"),
        ({"rtol": "x"}, TypeError, r"rtol='x'\): it is a number"),
        ({"atol": np.nan}, ValueError, r"atol=nan\): it is finite and not negative"),
        ({"atol": None}, TypeError, r"atol=None\): it is a number"),
        ({"maxiter": 2.5}, TypeError, r"maxiter=2.5\): it is an integer"),
        ({"maxiter": -1}, ValueError, r"maxiter=-1\): it is not negative"),
        ({"callback": 3}, TypeError, r"callback=3\): it is a function"),
        ({"progress": "x"}, ValueError, "progress='x'"),
        ({"preconditioner": 3}, TypeError, r"preconditioner=3\): it is None"),
        ({"preconditioner": np.eye(3)}, ShapeError, r"the preconditioner is \(3, 3\), and K is"),
        ({"preconditioner": lambda R: R[:1]}, ShapeError, r"made \(1, 1\) of an array of \(2, 1\)"),
        ({"preconditioner": lambda R: None}, ShapeError, "made NoneType of an array of"),
    ],
)
def test_each_error_names_its_argument(given, error, message):
    with pytest.raises(error, match=message):
        linalg.solve(**({"K": 2 * np.eye(2), "b": np.ones(2)} | given))


def test_eye():
    for n, m, k in ((4, None, 0), (3, 5, 1), (5, 3, -2)):
        np.testing.assert_array_equal(linalg.eye(n, m, k).to_dense(), np.eye(n, m, k))
    assert linalg.eye(3, dtype=np.float32).dtype == np.float32
    like = array_api_strict.asarray(np.float32([1]))
    out = linalg.eye(3, like=like) @ array_api_strict.asarray(np.float32([1, 2, 3]))
    assert out.dtype == array_api_strict.float32
    lazy, dense = kernel()
    np.testing.assert_allclose(
        (lazy + 0.5 * linalg.eye(N)) @ B, (dense + 0.5 * np.eye(N)) @ B, rtol=1e-10
    )


def test_progress(capsys, monkeypatch):
    from duckkeops import progress

    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    lazy, _ = kernel()
    linalg.solve(lazy, B, ridge=0.1, progress=True)
    assert "duckkeops" in capsys.readouterr().err
    linalg.solve(lazy, B, ridge=0.1, progress=False)
    assert capsys.readouterr().err == ""


def test_examples():
    assert doctest.testmod(duckkeops.linalg).failed == 0
