"""Linear systems with lazy matrices, solved by products alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from duckkeops.array import LazyArray
from duckkeops.config import config
from duckkeops.config import current as settings
from duckkeops.errors import ConvergenceError, DtypeError, ShapeError
from duckkeops.operands import NUMBERS, is_array, namespace_of
from duckkeops.progress import Progress

REPLACE_EVERY = 50  # iterations between two residuals computed anew
DRIFT = 0.3  # of a residual from the recurrence's, beyond which the directions begin anew
SHOWN_FROM = 0.2  # of the way, in digits: how long it takes is not known before
RANK = 100  # of preconditioner="nystrom"


def solve(
    K: Any,
    b: Any,
    *,
    ridge: float = 0.0,
    x0: Any = None,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    preconditioner: Any = None,
    callback: Callable[[Any], object] | None = None,
    progress: bool | str | None = None,
) -> Any:
    """x with (K + ridge I) x = b, by preconditioned conjugate gradients: K takes no memory.

    K               Hermitian and, with the ridge, positive definite: a lazy array, or what has a
                    shape and `K @ x`
    b               the right-hand sides, (N,) or (N, E): the columns share each product with K
    ridge           a number added to the diagonal
    x0              where to begin, of b's shape; by default 0
    rtol, atol      done where |b - (K + ridge I) x| <= max(rtol |b|, atol), column by column
    maxiter         how many iterations at most, 10 N by default
    preconditioner  None, "nystrom" (see `nystrom`), or an approximate inverse of K + ridge I: a
                    function of an (N, E) array, or what multiplies one by `@`
    callback        called as callback(x) after each iteration; x must not be changed
    progress        does a long solution show how far it is? as in `config`

    Shapes: (N, N), (N,) -> (N,) and (N, N), (N, E) -> (N, E), in the library of b; integers are
    solved in float64. The residual of the recurrence drifts from the true one, in float32 soon:
    it is computed anew every 50 iterations, and before anything is returned.

    Raises ConvergenceError where the tolerance is not reached, with the residual that is, and the
    best x as its attribute `x`; ShapeError if the shapes do not fit; DtypeError for what is no
    number. Method: Hestenes and Stiefel (1952); van der Vorst and Ye, "Residual replacement
    strategies for Krylov subspace iterative methods" (2000).

    >>> rng = np.random.default_rng(0)
    >>> x, b = rng.random((500, 1, 2)), rng.random(500)
    >>> K = np.exp(-10 * ((LazyArray(x) - x.transpose(1, 0, 2)) ** 2).sum(-1))
    >>> c = solve(K, b, ridge=0.1)
    >>> bool(np.linalg.norm(K @ c + 0.1 * c - b) <= 1e-5 * np.linalg.norm(b))
    True
    """
    b, n = _genuine(b, "b"), _size(K, b)
    xp = namespace_of(b)
    dtype = _dtype(K, b, x0)
    B = _columns(xp, b, dtype)
    X = xp.zeros_like(B) if x0 is None else _columns(xp, _like(b, _genuine(x0, "x0"), "x0"), dtype)
    shown = settings().progress if progress is None else progress
    with config(progress=False):  # one bar for all products
        precondition = _preconditioner(K, b, preconditioner, ridge, dtype)

        def product(P: Any) -> Any:
            return _product(K, P, ridge)

        one = len(b.shape) == 1
        shape = (lambda Y: Y[:, 0]) if one else (lambda Y: Y)
        watch = None if callback is None else (lambda Y: callback(shape(Y)))
        limit = 10 * n if maxiter is None else maxiter
        with config(progress=shown):
            bar = Progress()
            try:
                X = _iterate(xp, product, precondition, B, X, rtol, atol, limit, watch, bar, shape)
            finally:
                bar.close()
    return shape(X)


def nystrom(K: Any, ridge: float, rank: int = RANK, seed: int = 0, like: Any = None) -> Callable:
    """An approximate inverse of K + ridge I by K's greatest eigenvalues: a function of (N, E).

    K     positive semidefinite: a lazy array, or what has a shape, a dtype and `K @ x`
    rank  how many eigenvalues, at most N; one product of K with an (N, rank) array finds them
    seed  of the random vectors
    like  an array of the library and device to compute in; NumPy by default

    Conjugate gradients need few iterations where the other eigenvalues are below the ridge, for
    then the system is well conditioned. Raises ValueError unless ridge > 0 and rank > 0.
    Method: Frangella, Tropp and Udell, "Randomized Nystrom preconditioning" (2023),
    arXiv:2110.02820.

    >>> x = np.random.default_rng(0).random((300, 1, 2))
    >>> K = np.exp(-((LazyArray(x) - x.transpose(1, 0, 2)) ** 2).sum(-1))
    >>> steps = []
    >>> c = solve(K, x[:, 0, 0], ridge=1e-4, preconditioner="nystrom", callback=steps.append)
    >>> len(steps) < 10
    True
    """
    if not ridge > 0 or rank < 1:
        raise ValueError(
            f"nystrom(ridge={ridge}, rank={rank}): both must be positive.\n"
            "  The ridge stands for the eigenvalues that the approximation leaves out."
        )
    n = K.shape[0]
    dtype = _floating(K.dtype)
    xp = np if like is None else namespace_of(like)
    rng = np.random.default_rng(seed)
    start = rng.standard_normal((n, min(rank, n)))
    if dtype.kind == "c":
        start = start + 1j * rng.standard_normal(start.shape)
    Q = np.linalg.qr(start)[0].astype(dtype)
    if like is not None and not isinstance(like, np.ndarray):
        Q = xp.asarray(Q, device=like.device)
    Y = K @ Q
    shift = math.sqrt(n) * float(np.finfo(dtype).eps) * _norm(xp, Y)
    Y = Y + Q * shift
    inner = _adjoint(xp, Q) @ Y
    inner = (inner + _adjoint(xp, inner)) / 2
    root = _cholesky(xp, inner, K, shift)
    half = _adjoint(xp, xp.linalg.solve(root, _adjoint(xp, Y)))
    U, s, _ = xp.linalg.svd(half, full_matrices=False)
    values = xp.clip(s * s - shift, 0, None)
    rest = 1 / (float(values[-1]) + ridge)  # of what is orthogonal to U
    weights = xp.astype(1 / (values + ridge) - rest, U.dtype, copy=False)
    V = _adjoint(xp, U)

    def apply(R: Any) -> Any:
        return rest * R + U @ (weights[:, None] * (V @ R))

    return apply


def eye(n: int, m: int | None = None, k: int = 0, *, dtype: Any = float, like: Any = None) -> Any:
    """The lazy (n, m) array with ones on the k-th diagonal: K + sigma2 * eye(n) stores nothing.

    dtype  of the entries; the floating-point dtype of `like` if it is given
    like   an array of the library and device that the other operands are of; NumPy by default

    >>> x = LazyArray(np.arange(4.0))
    >>> K = np.exp(-abs(x[:, None] - x[None, :]))
    >>> (K + 2 * eye(4)).sum(axis=1) - K.sum(axis=1)
    array([2., 2., 2., 2.])
    """
    rows, columns = np.arange(n, dtype=np.int64) + k, np.arange(n if m is None else m)
    if like is not None:
        dtype = _floating(like.dtype)
        if not isinstance(like, np.ndarray):
            xp = namespace_of(like)
            rows, columns = (xp.asarray(a, device=like.device) for a in (rows, columns))
    return (LazyArray(rows)[:, None] == LazyArray(columns)[None, :]).astype(dtype)


# -- what is given ---------------------------------------------------------------------------------


def _genuine(a: Any, name: str) -> Any:
    """`a` as an array of its own library."""
    if isinstance(a, LazyArray):
        return a.to_dense() if a.ndim else np.asarray(a)
    if is_array(a):
        return a
    if isinstance(a, list | tuple) or type(a) in NUMBERS:
        return np.asarray(a)
    raise TypeError(f"solve takes an array as {name}, and got {type(a).__name__}.")


def _size(K: Any, b: Any) -> int:
    shape = tuple(getattr(K, "shape", ()))
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ShapeError(f"solve takes a square matrix K, and got one of shape {shape}.")
    if len(b.shape) not in (1, 2) or b.shape[0] != shape[0]:
        raise ShapeError(
            f"cannot solve K x = b: K is {shape}, and b is {tuple(b.shape)}.\n"
            f"  b must be ({shape[0]},) or ({shape[0]}, E)."
        )
    return shape[0]


def _like(b: Any, x0: Any, name: str) -> Any:
    if tuple(x0.shape) != tuple(b.shape):
        raise ShapeError(f"{name} must be of b's shape, {tuple(b.shape)}, and is {x0.shape}.")
    return x0


def _floating(*dtypes: Any) -> np.dtype:
    """The floating-point dtype that NumPy combines these in."""
    names = [np.dtype(getattr(t, "name", None) or str(t).rpartition(".")[2]) for t in dtypes]
    dtype = np.result_type(*names)
    if dtype.kind in "biu":
        dtype = np.dtype(np.float64)
    if dtype.kind not in "fc":
        raise DtypeError(f"solve knows numbers, and got {dtype}.")
    return np.result_type(dtype, np.float32)


def _dtype(K: Any, b: Any, x0: Any) -> np.dtype:
    kinds = [getattr(K, "dtype", None), b.dtype, getattr(x0, "dtype", None)]
    return _floating(*(k for k in kinds if k is not None))


def _columns(xp: Any, a: Any, dtype: np.dtype) -> Any:
    """A copy of `a` as (N, E), in this dtype."""
    a = xp.astype(a, getattr(xp, dtype.name), copy=True)
    return a[:, None] if len(a.shape) == 1 else a


def _preconditioner(K: Any, b: Any, given: Any, ridge: float, dtype: np.dtype) -> Callable:
    if given is None:
        return lambda R: R
    if isinstance(given, str):
        if given != "nystrom":
            raise ValueError(
                f"preconditioner={given!r}: it is None, 'nystrom', a function or an operator."
            )
        given = nystrom(K, ridge, like=b)
    multiply = given if callable(given) and not hasattr(given, "shape") else (lambda R: given @ R)
    return lambda R: namespace_of(R).astype(multiply(R), R.dtype, copy=False)


def _product(K: Any, P: Any, ridge: float) -> Any:
    Y = K @ P
    Y = namespace_of(P).astype(Y, P.dtype, copy=False)
    return Y + ridge * P if ridge else Y


# -- the iteration ---------------------------------------------------------------------------------


def _dots(xp: Any, a: Any, b: Any) -> np.ndarray:
    """The inner products of columns, real and in float64: (N, E), (N, E) -> (E,)."""
    if xp.isdtype(a.dtype, "complex floating"):
        return _dots(xp, xp.real(a), xp.real(b)) + _dots(xp, xp.imag(a), xp.imag(b))
    sums = xp.sum(a * b, axis=0, dtype=xp.float64)
    return np.array([float(s) for s in sums])


def _norms(xp: Any, a: Any) -> np.ndarray:
    return np.sqrt(_dots(xp, a, a))


def _norm(xp: Any, a: Any) -> float:
    return float(np.linalg.norm(_norms(xp, a)))


def _adjoint(xp: Any, a: Any) -> Any:
    t = xp.permute_dims(a, (1, 0))
    return xp.conj(t) if xp.isdtype(a.dtype, "complex floating") else t


def _cholesky(xp: Any, a: Any, K: Any, shift: float) -> Any:
    try:
        root = xp.linalg.cholesky(a)
    except np.linalg.LinAlgError:
        root = None
    if root is None or not math.isfinite(_norm(xp, root)):
        raise ValueError(
            f"nystrom needs a positive semidefinite K, and K of shape {tuple(K.shape)} is not: "
            f"an eigenvalue is below {-shift:.1e}.\n  Use another preconditioner, or none."
        )
    return root


def _scaled(xp: Any, P: Any, factors: np.ndarray) -> Any:
    """Each column times its factor."""
    if isinstance(P, np.ndarray):
        return P * factors.astype(P.real.dtype)
    real = xp.float32 if P.dtype in (xp.float32, xp.complex64) else xp.float64
    return P * xp.astype(xp.asarray(factors, dtype=real, device=P.device), P.dtype, copy=False)


def _taken(xp: Any, P: Any, columns: np.ndarray) -> Any:
    if columns.size == P.shape[1]:
        return P
    if isinstance(P, np.ndarray):
        return P[:, columns]
    return xp.take(P, xp.asarray(columns, device=P.device), axis=1)


def _put(xp: Any, X: Any, columns: np.ndarray, part: Any) -> Any:
    """X with these columns replaced."""
    if columns.size == X.shape[1]:
        return part
    for k, c in enumerate(columns):
        X[:, int(c)] = part[:, k]
    return X


def _iterate(
    xp: Any,
    product: Callable,
    precondition: Callable,
    B: Any,
    X: Any,
    rtol: float,
    atol: float,
    limit: int,
    watch: Callable | None,
    bar: Progress,
    shape: Callable,
) -> Any:
    """Conjugate gradients of all columns at once; a column that is done takes part no longer."""
    wanted = np.maximum(rtol * _norms(xp, B), atol)
    if not np.isfinite(wanted).all():
        raise ValueError("cannot solve K x = b: b holds NaN or infinities, or rtol or atol does.")
    R = B - product(X)
    size = first = _norms(xp, R)  # true residuals
    if not np.isfinite(size).all():
        raise _not_finite(X, size, 0, shape)
    best, least = X, size
    last = np.full(len(wanted), np.inf)  # those where a column's recurrence ended
    active, P, steps = np.flatnonzero(~(size <= wanted)), X, 0
    before = np.ones(len(active))
    fresh = np.ones(len(active), bool)  # columns whose directions begin anew
    R, P = _taken(xp, R, active), _taken(xp, P, active)
    rho = curved = before
    bent = ~fresh
    while active.size:
        if steps >= limit:
            raise _failed(best, least, wanted, steps, limit, shape)
        Y = _taken(xp, X, active)
        for _ in range(min(REPLACE_EVERY, limit - steps)):
            Z = precondition(R)
            rho = _dots(xp, R, Z)
            P = Z + _scaled(xp, P, np.where(fresh, 0, rho / before))
            Q = product(P)
            curved = _dots(xp, P, Q)
            bent = ~((rho > 0) & (curved > 0))
            if bent.any():
                break
            before, fresh = rho, np.zeros(len(active), bool)
            step = rho / curved
            Y, R = Y + _scaled(xp, P, step), R - _scaled(xp, Q, step)
            steps += 1
            norms = _norms(xp, R)
            if watch is not None:
                X = _put(xp, X, active, Y)
                watch(X)
            share = _share(norms, wanted[active], first[active])
            if share > SHOWN_FROM:
                bar.update(share)
            if (norms <= wanted[active]).any():
                break
        X = _put(xp, X, active, Y)
        true = B - product(X)
        size = _norms(xp, true)
        if not np.isfinite(size).all():
            raise _not_finite(best, least, steps, shape)
        if _worst(size, wanted) < _worst(least, wanted):
            best, least = xp.asarray(X, copy=True), size
        drift = _norms(xp, _taken(xp, true, active) - R) > DRIFT * size[active]
        ended = bent | drift | (_norms(xp, R) <= wanted[active])
        stuck = ended & (size[active] > wanted[active]) & (size[active] > last[active] / 2)
        if stuck.any():
            if bent.any():
                raise _indefinite(rho, curved, best, least, steps, shape)
            raise _failed(best, least, wanted, steps, limit, shape)
        last[active[ended]] = size[active[ended]]
        fresh |= ended | bent.any()
        rest = np.flatnonzero(~(size[active] <= wanted[active]))
        active, before, fresh = active[rest], before[rest], fresh[rest]
        R, P = _taken(xp, true, active), _taken(xp, P, rest)
    return X


def _share(norms: np.ndarray, wanted: np.ndarray, first: np.ndarray) -> float:
    """How far the slowest column is, in digits."""
    with np.errstate(all="ignore"):
        share = np.log(first / norms) / np.log(first / np.maximum(wanted, 1e-300))
    return float(np.clip(np.nan_to_num(share), 0, 1).min())


def _not_finite(X: Any, size: np.ndarray, steps: int, shape: Callable) -> ConvergenceError:
    return ConvergenceError(
        f"K x is NaN or infinite after {steps} iterations.\n"
        "  Look for NaN in K, as in numpy.isnan(K).any(): kernels often have it where points meet.",
        shape(X),
        size,
        steps,
    )


def _worst(size: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.max(size / np.maximum(wanted, 1e-300)))


def _failed(
    X: Any, size: Any, wanted: Any, steps: int, limit: int, shape: Callable
) -> ConvergenceError:
    worst = int(np.argmax(size / np.maximum(wanted, 1e-300)))
    name = str(X.dtype).rpartition(".")[2]
    column = "" if len(size) == 1 else f" of column {worst}"
    remedy = (
        f"Allow more iterations, maxiter={10 * limit}, or help them: preconditioner='nystrom', "
        "or a larger ridge."
        if steps >= limit
        else f"The rounding errors of {name} allow no less: take a larger rtol or ridge"
        + (", or float64." if name in ("float32", "complex64") else ".")
    )
    return ConvergenceError(
        f"the residual{column} is {size[worst]:.1e} after {steps} iterations, "
        f"where {wanted[worst]:.1e} was asked for.\n  {remedy}\n"
        "  The best solution so far is the attribute x of this error.",
        shape(X),
        size,
        steps,
    )


def _indefinite(
    rho: np.ndarray, curved: np.ndarray, X: Any, size: Any, steps: int, shape: Callable
) -> ConvergenceError:
    what, value = (
        ("the preconditioner", rho.min()) if (rho <= 0).any() else ("K + ridge I", curved.min())
    )
    return ConvergenceError(
        f"{what} is not positive definite: p* A p is {value:.1e} for a vector p.\n"
        "  Take a larger ridge, or scipy.sparse.linalg.minres(K, b), which needs no such thing.",
        shape(X),
        size,
        steps,
    )
