"""Systems solved by products: against dense solutions, and what is said where none is found."""

import doctest

import array_api_strict
import numpy as np
import pytest
import scipy.sparse.linalg as sparse

import duckkeops
from duckkeops import ConvergenceError, LazyArray, ShapeError, linalg

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


def strict_kernel():
    x = LazyArray(array_api_strict.asarray(POINTS))
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


def test_beyond_float32():
    """The recurrence of float32 says 1e-7 where the true residual is larger: no answer."""
    lazy, _ = kernel("float32")
    with pytest.raises(ConvergenceError, match="The rounding errors of float32 allow no less"):
        linalg.solve(lazy, B.astype("float32"), ridge=1e-2, preconditioner="nystrom", rtol=1e-6)


def test_what_is_not_positive_definite():
    lazy, _ = kernel()
    with pytest.raises(ConvergenceError, match="not positive definite"):
        linalg.solve(lazy - 2 * linalg.eye(N), B)
    with pytest.raises(ConvergenceError, match="the preconditioner is not positive definite"):
        linalg.solve(lazy, B, ridge=1.0, preconditioner=lambda R: -R)
    with pytest.raises(ValueError, match="nystrom needs a positive semidefinite K"):
        linalg.nystrom(-lazy, 1.0)


def test_what_is_not_symmetric_has_no_wrong_solution():
    x = LazyArray(POINTS)
    lopsided = np.exp(x[:, None, 0] - 3 * x[None, :, 1])
    try:
        got = linalg.solve(lopsided, B[:, 0], ridge=1.0, maxiter=200)
    except ConvergenceError:
        return
    dense = np.exp(POINTS[:, None, 0] - 3 * POINTS[None, :, 1]) + np.eye(N)
    assert np.linalg.norm(dense @ got - B[:, 0]) <= 1.1e-5 * np.linalg.norm(B[:, 0])


def test_nan():
    lazy, _ = kernel()
    with pytest.raises(ConvergenceError, match="NaN or infinite after 0 iterations"):
        linalg.solve(lazy * np.nan, B)
    with pytest.raises(ValueError, match="b holds NaN"):
        linalg.solve(lazy, B * np.nan)


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
