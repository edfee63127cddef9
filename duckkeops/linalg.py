"""Linear systems with lazy matrices, solved by products alone."""

from __future__ import annotations

import math
import numbers
import operator
import sys
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
RTOL = {"f4": 1e-4, "c8": 1e-4, "f8": 1e-5, "c16": 1e-5}  # by dtype
PROBES = 8  # random vectors that tell whether K is Hermitian
SINGULAR = 0.01  # of |b|, which a well-posed system never leaves to rounding errors
ROWS = 4096  # of a stored float32 matrix, multiplied in float64 at a time


def solve(
    K: Any,
    b: Any,
    *,
    ridge: Any = 0.0,
    x0: Any = None,
    rtol: float | None = None,
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
    ridge           what is added to the diagonal: a number, or (N,), one for each point; never
                    one for each column of b, which takes a call for each
    x0              where to begin, of b's shape; by default 0
    rtol, atol      done where |b - (K + ridge I) x| <= max(rtol |b|, atol), column by column;
                    rtol is 1e-5 by default, and 1e-4 in float32 and complex64
    maxiter         how many iterations at most, 10 N by default
    preconditioner  None, "nystrom" (see `nystrom`), or an approximate inverse of K + ridge I: a
                    function of an (N, E) array, or what multiplies one by `@`
    callback        called as callback(x) after each iteration; x must not be changed
    progress        does a long solution show how far it is? as in `config`

    Shapes: (N, N), (N,) -> (N,) and (N, N), (N, E) -> (N, E), in the library of b; integers are
    solved in float64, and lists and tuples are NumPy arrays. The residual of the recurrence drifts
    from the true one, in float32 soon: it is computed anew every 50 iterations, and before anything
    is returned, in float64 also where x is float32.

    Raises ConvergenceError where the tolerance is not reached, with the residual that is and the
    reason (a matrix that is not Hermitian or not positive definite, rounding errors, too few
    iterations), and the best x as its attribute `x`; ShapeError if the shapes do not fit;
    DtypeError for what is no number; UnsupportedError where x would have to be differentiated by
    what a matrix of another kind holds; TypeError or ValueError for any other argument.

    Under torch x is differentiable, with gradients of every order, by b, the ridge, and the tensors
    of which K is made; each gradient solves one more system, to the same tolerance. Method:
    Hestenes and Stiefel (1952); van der Vorst and Ye, "Residual replacement strategies for Krylov
    subspace iterative methods" (2000).

    >>> rng = np.random.default_rng(0)
    >>> x, b = rng.random((500, 1, 2)), rng.random(500)
    >>> K = np.exp(-10 * ((LazyArray(x) - x.transpose(1, 0, 2)) ** 2).sum(-1))
    >>> c = solve(K, b, ridge=0.1)
    >>> bool(np.linalg.norm(K @ c + 0.1 * c - b) <= 1e-5 * np.linalg.norm(b))
    True
    """
    K, b = _matrix(K), _genuine(b, "b")

    def solver(K: Any, b: Any, ridge: Any, **start: Any) -> Any:
        options = {"rtol": rtol, "atol": atol, "maxiter": maxiter, "progress": progress}
        return _solve(K, b, ridge, preconditioner=preconditioner, **options, **start)

    torch = sys.modules.get("torch")
    if torch is not None and isinstance(b, torch.Tensor):
        from duckkeops import torch_solve

        return torch_solve.solve(solver, K, b, ridge, {"x0": x0, "callback": callback})
    return solver(K, b, ridge, x0=x0, callback=callback)


def _solve(
    K: Any,
    b: Any,
    ridge: Any,
    x0: Any = None,
    rtol: float | None = None,
    atol: float = 0.0,
    maxiter: int | None = None,
    preconditioner: Any = None,
    callback: Callable[[Any], object] | None = None,
    progress: bool | str | None = None,
) -> Any:
    """`solve` of arrays that nobody differentiates."""
    n = _size(K, b)
    xp = namespace_of(b)
    x0 = None if x0 is None else _like(b, _genuine(x0, "x0"), "x0")
    dtype = _dtype(K, b, x0)
    shift = _ridge(ridge, b, n)
    rtol = RTOL.get(dtype.str[1:], 1e-5) if rtol is None else _tolerance(rtol, "rtol")
    atol, limit = _tolerance(atol, "atol"), _limit(maxiter, n)
    if callback is not None and not callable(callback):
        raise TypeError(f"solve(callback={callback!r}): it is a function of x, or None.")
    wide = np.result_type(dtype, np.float64)
    B = _columns(xp, b, wide)
    X = xp.zeros_like(B) if x0 is None else _columns(xp, x0, wide)
    narrow = getattr(xp, dtype.name)
    shown = settings().progress if progress is None else progress
    with config(progress=False):  # one bar for all products
        precondition = _preconditioner(K, b, preconditioner, shift, dtype)

        def product(P: Any) -> Any:
            return _product(xp, K, P, shift)

        one = len(b.shape) == 1

        def shape(Y: Any) -> Any:
            Y = xp.astype(Y, narrow, copy=False)
            return Y[:, 0] if one else Y

        watch = None if callback is None else (lambda Y: callback(shape(Y)))
        with config(progress=shown):
            bar = Progress()
            try:
                X = _iterate(
                    xp, product, precondition, B, X, narrow, rtol, atol, limit, watch, bar, shape
                )
            except ConvergenceError as error:
                with config(progress=False):
                    lopsided = _asymmetry(xp, K, B, dtype)
                if lopsided:
                    raise _not_hermitian(lopsided, error) from None
                raise
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
    if len(K.shape) != 2 or K.shape[0] != K.shape[1]:
        raise ShapeError(f"nystrom takes a square matrix K, and got one of shape {tuple(K.shape)}.")
    if not isinstance(ridge, numbers.Real) or not isinstance(rank, numbers.Integral):
        raise TypeError(
            f"nystrom(ridge={ridge!r}, rank={rank!r}): "
            "ridge is a number, and rank how many eigenvalues."
        )
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
    n, m, k = operator.index(n), operator.index(n if m is None else m), operator.index(k)
    if min(n, m) < 0:
        raise ValueError(f"eye() has no shape ({n}, {m}): lengths are at least 0.")
    rows, columns = np.arange(n, dtype=np.int64) + k, np.arange(m)
    if like is not None:
        dtype = _floating(like.dtype)
        if not isinstance(like, np.ndarray):
            xp = namespace_of(like)
            rows, columns = (xp.asarray(a, device=like.device) for a in (rows, columns))
    ones = LazyArray(rows)[:, None] == LazyArray(columns)[None, :]
    if hasattr(ones, "astype"):
        return ones.astype(dtype)
    return ones.to(getattr(namespace_of(like), np.dtype(dtype).name))


# -- what is given ---------------------------------------------------------------------------------


def _genuine(a: Any, name: str) -> Any:
    """`a` as an array of its own library."""
    if isinstance(a, LazyArray):
        return a.to_dense() if a.ndim else np.asarray(a)
    if is_array(a):
        return a
    if isinstance(a, list | tuple) or type(a) in NUMBERS:
        try:
            return np.asarray(a)
        except ValueError:
            raise ShapeError(
                f"solve takes an array as {name}; its rows differ in length."
            ) from None
    raise TypeError(f"solve takes an array as {name}, and got {type(a).__name__}.")


def _matrix(K: Any) -> Any:
    if isinstance(K, list | tuple):
        return _genuine(K, "K")
    if hasattr(K, "shape") and hasattr(K, "__matmul__"):
        return K
    raise TypeError(
        f"solve takes a matrix K, with a shape and `K @ x`, and got {type(K).__name__}.\n"
        "  Pass a LazyArray, an array, or scipy.sparse.linalg.LinearOperator(shape, matvec=...)."
    )


def _ridge(ridge: Any, b: Any, n: int) -> Any:
    """A number, or an (N, 1) array in b's library."""
    ridge = _genuine(ridge, "ridge")
    if _floating(ridge.dtype, name="ridge").kind == "c":
        raise DtypeError(f"solve takes a real ridge, and got {ridge.dtype}.")
    shape = tuple(ridge.shape)
    if shape not in ((), (n,)):
        raise ShapeError(
            f"solve takes a number or one for each point, ({n},), as ridge, and got {shape}."
        )
    xp = namespace_of(ridge)
    values = xp.astype(ridge, xp.float64, copy=False)
    if not bool(xp.all(xp.isfinite(values))):
        raise ValueError("solve takes a finite ridge, and this one holds NaN or infinities.")
    if shape == ():
        return float(values)
    if namespace_of(b) is not xp:
        raise TypeError(f"ridge is a {type(ridge).__name__} and b a {type(b).__name__}.")
    return values[:, None]


def _tolerance(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"solve({name}={value!r}): it is a number.") from None
    if not 0 <= number < math.inf:
        raise ValueError(f"solve({name}={value!r}): it is finite and not negative.")
    return number


def _limit(maxiter: Any, n: int) -> int:
    if maxiter is None:
        return 10 * n
    try:
        limit = operator.index(maxiter)
    except TypeError:
        raise TypeError(f"solve(maxiter={maxiter!r}): it is an integer.") from None
    if limit < 0:
        raise ValueError(f"solve(maxiter={maxiter!r}): it is not negative.")
    return limit


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
        raise ShapeError(
            f"{name} must be of b's shape, {tuple(b.shape)}, and is {tuple(x0.shape)}."
        )
    if namespace_of(x0) is not namespace_of(b):
        raise TypeError(f"{name} is a {type(x0).__name__} and b a {type(b).__name__}.")
    _floating(x0.dtype, name=name)
    xp = namespace_of(x0)
    if not bool(xp.all(xp.isfinite(xp.astype(x0, _double(xp, x0), copy=False)))):
        raise ValueError(f"cannot solve K x = b: {name} holds NaN or infinities.")
    return x0


def _double(xp: Any, a: Any) -> Any:
    return xp.complex128 if xp.isdtype(a.dtype, "complex floating") else xp.float64


def _floating(*dtypes: Any, name: str = "K and b") -> np.dtype:
    """The floating-point dtype that NumPy combines these in."""
    names = [getattr(t, "name", None) or str(t).rpartition(".")[2] for t in dtypes]
    for one in names:
        if one.rstrip("0123456789") not in ("bool", "int", "uint", "float", "bfloat", "complex"):
            raise DtypeError(f"solve takes numbers as {name}, and got {one}.")
    dtype = np.result_type(*(np.dtype(one) for one in names))
    if dtype.kind in "biu":
        dtype = np.dtype(np.float64)
    return np.result_type(dtype, np.float32)


def _dtype(K: Any, b: Any, x0: Any) -> np.dtype:
    given = {"K": getattr(K, "dtype", None), "b": b.dtype, "x0": getattr(x0, "dtype", None)}
    known = {name: dtype for name, dtype in given.items() if dtype is not None}
    for name, dtype in known.items():
        _floating(dtype, name=name)
    return _floating(*known.values())


def _columns(xp: Any, a: Any, dtype: np.dtype) -> Any:
    """A copy of `a` as (N, E), in this dtype."""
    a = xp.astype(a, getattr(xp, dtype.name), copy=True)
    return a[:, None] if len(a.shape) == 1 else a


def _preconditioner(K: Any, b: Any, given: Any, ridge: Any, dtype: np.dtype) -> Callable:
    if given is None:
        return lambda R: R
    if isinstance(given, str):
        if given != "nystrom":
            raise ValueError(
                f"preconditioner={given!r}: it is None, 'nystrom', a function or an operator."
            )
        return nystrom(K, ridge, like=b) if isinstance(ridge, float) else _balanced(K, ridge, b)
    shape = tuple(getattr(given, "shape", ()))
    if shape and shape != tuple(K.shape):
        raise ShapeError(f"the preconditioner is {shape}, and K is {tuple(K.shape)}.")
    if not shape and not callable(given):
        raise TypeError(
            f"solve(preconditioner={given!r}): it is None, 'nystrom', a function or an operator."
        )
    multiply = (lambda R: given @ R) if shape else given

    def apply(R: Any) -> Any:
        Z = multiply(R)
        if tuple(getattr(Z, "shape", ())) != tuple(R.shape):
            seen = getattr(Z, "shape", type(Z).__name__)
            raise ShapeError(f"the preconditioner made {seen} of an array of {tuple(R.shape)}.")
        return namespace_of(R).astype(Z, R.dtype, copy=False)

    return apply


class _Scaled:
    """S K S for a diagonal S, (N, 1)."""

    def __init__(self, K: Any, scale: Any):
        self.K, self.scale = K, scale
        self.shape, self.dtype = K.shape, K.dtype

    def __matmul__(self, P: Any) -> Any:
        scale = namespace_of(P).astype(self.scale, P.dtype, copy=False)
        return scale * (self.K @ (scale * P))


def _balanced(K: Any, ridge: Any, b: Any) -> Callable:
    """`nystrom` where each point has its ridge: K + D = S^-1 (S K S + I) S^-1, S = D^-1/2."""
    xp = namespace_of(b)
    if not float(xp.min(ridge)) > 0:
        raise ValueError("preconditioner='nystrom' needs a ridge that is positive at each point.")
    scale = 1 / xp.sqrt(ridge)
    inner = nystrom(_Scaled(K, scale), 1.0, like=b)

    def apply(R: Any) -> Any:
        s = xp.astype(scale, R.dtype, copy=False)
        return s * inner(s * R)

    return apply


def _product(xp: Any, K: Any, P: Any, ridge: Any) -> Any:
    """(K + ridge I) P in the dtype of P, which may be wider than that of K."""
    if type(K) is type(P) and K.dtype != P.dtype and K.shape[0] > ROWS:  # no copy of K
        parts = [K[i : i + ROWS] for i in range(0, K.shape[0], ROWS)]
        Y = xp.concat([_widened(part, P) @ P for part in parts])
    else:
        Y = _widened(K, P) @ P
    if tuple(Y.shape) != tuple(P.shape):
        raise ShapeError(
            f"K @ x is {tuple(Y.shape)} for x of {tuple(P.shape)}; it must be of x's shape."
        )
    Y = xp.astype(Y, P.dtype, copy=False)
    if isinstance(ridge, float):
        return Y + ridge * P if ridge else Y
    return Y + xp.astype(ridge, P.dtype, copy=False) * P


def _widened(K: Any, P: Any) -> Any:
    """K in the dtype of P, where its library does not multiply two dtypes."""
    to = getattr(K, "to", None)  # of tensors, and lazy arrays of them
    return K if to is None or K.dtype == P.dtype else to(P.dtype)


def _asymmetry(xp: Any, K: Any, like: Any, dtype: np.dtype) -> float:
    """|G - G*| / |G| for G = V* K V of a few random V, or 0 if rounding errors explain it."""
    V = np.random.default_rng(0).standard_normal((K.shape[0], PROBES))
    V = V.astype(np.result_type(dtype, np.float64))
    if not isinstance(like, np.ndarray):
        V = xp.asarray(V, device=like.device)
    G = _adjoint(xp, V) @ _product(xp, K, V, 0.0)
    whole, part = _norm(xp, G), _norm(xp, G - _adjoint(xp, G))
    return part / whole if part > math.sqrt(np.finfo(dtype).eps) * whole else 0.0


# -- the iteration ---------------------------------------------------------------------------------


def _dots(xp: Any, a: Any, b: Any) -> np.ndarray:
    """The inner products of columns, real and in float64: (N, E), (N, E) -> (E,)."""
    if xp.isdtype(a.dtype, "complex floating"):
        return _dots(xp, xp.real(a), xp.real(b)) + _dots(xp, xp.imag(a), xp.imag(b))
    a, b = (xp.astype(c, xp.float64, copy=False) for c in (a, b))  # squares may overflow float32
    sums = xp.sum(a * b, axis=0)
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
    narrow: Any,
    rtol: float,
    atol: float,
    limit: int,
    watch: Callable | None,
    bar: Progress,
    shape: Callable,
) -> Any:
    """Conjugate gradients of all columns at once; a column that is done takes part no longer.

    X, B and the true residuals are in double precision, what is iterated on in that of `narrow`.
    """
    scale = _norms(xp, B)
    wanted = np.maximum(rtol * scale, atol)
    if not np.isfinite(scale).all():
        raise ValueError("cannot solve K x = b: b holds NaN or infinities.")
    if (scale == 0).any():
        X = _scaled(xp, X, np.where(scale == 0, 0.0, 1.0))
    R = B - product(X)
    size = first = _norms(xp, R)  # true residuals
    if not np.isfinite(size).all():
        raise _not_finite(X, size, 0, shape)
    best, least = X, size
    last = np.full(len(wanted), np.inf)  # those where a column's recurrence ended
    active, steps = np.flatnonzero(~(size <= wanted)), 0
    before = np.ones(len(active))
    fresh = np.ones(len(active), bool)  # columns whose directions begin anew
    R = xp.astype(_taken(xp, R, active), narrow, copy=False)
    P = xp.zeros_like(R)
    rho = curved = before
    bent = ~fresh
    while active.size:
        if steps >= limit:
            raise _failed(best, least, wanted, scale, steps, limit, shape, narrow)
        Y, begun = xp.zeros_like(R), _taken(xp, X, active)
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
                X = _put(xp, X, active, begun + Y)
                watch(X)
            share = _share(norms, wanted[active], first[active])
            if share > SHOWN_FROM:
                bar.update(share)
            if (norms <= wanted[active]).any():
                break
        X = _put(xp, X, active, begun + Y)
        true = B - product(X)
        size = _norms(xp, true)
        if not np.isfinite(size).all():
            raise _not_finite(best, least, steps, shape)
        if _worst(size, wanted) < _worst(least, wanted):
            best, least = xp.asarray(X, copy=True), size
        drift = _norms(xp, _taken(xp, true, active) - xp.astype(R, B.dtype)) > DRIFT * size[active]
        ended = bent | drift | (_norms(xp, R) <= wanted[active])
        stuck = ended & (size[active] > wanted[active]) & (size[active] > last[active] / 2)
        if stuck.any():
            if bent.any():
                raise _indefinite(rho, curved, best, least, wanted, scale, steps, shape)
            raise _failed(best, least, wanted, scale, steps, limit, shape, narrow)
        last[active[ended]] = size[active[ended]]
        fresh |= ended | bent.any()
        rest = np.flatnonzero(~(size[active] <= wanted[active]))
        active, before, fresh = active[rest], before[rest], fresh[rest]
        R = xp.astype(_taken(xp, true, active), narrow, copy=False)
        P = _taken(xp, P, rest)
    if narrow != X.dtype:
        X = xp.astype(X, narrow)
        size = _norms(xp, B - product(xp.astype(X, B.dtype)))
        if not (size <= wanted).all():
            raise _rounded(X, size, wanted, scale, steps, shape)
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


def _attained(size: Any, wanted: Any, scale: Any, steps: int) -> str:
    """What was reached in the worst column, where what was asked for."""
    worst = int(np.argmax(size / np.maximum(wanted, 1e-300)))
    column = "" if len(size) == 1 else f" of column {worst}"
    share = f", {size[worst] / scale[worst]:.1e} of |b|," if scale[worst] > 0 else ""
    return (
        f"the residual{column} is {size[worst]:.1e}{share} after {steps} iterations, "
        f"where {wanted[worst]:.1e} was asked for"
    )


def _failed(
    X: Any,
    size: Any,
    wanted: Any,
    scale: Any,
    steps: int,
    limit: int,
    shape: Callable,
    narrow: Any,
) -> ConvergenceError:
    name = np.dtype(narrow).name if isinstance(narrow, type) else str(narrow).rpartition(".")[2]
    if steps >= limit:
        remedy = (
            f"Allow more iterations, maxiter={max(10 * limit, 10)}, or help them by a larger "
            "ridge, or a ridge and preconditioner='nystrom'."
        )
    else:
        singular = (size > SINGULAR * scale).any()
        remedy = (
            f"The rounding errors of {name} allow no less"
            + (", and K + ridge I is singular or nearly so" if singular else "")
            + ": take a larger rtol or ridge"
            + (", or b in float64." if name in ("float32", "complex64") else ".")
        )
    return ConvergenceError(
        f"{_attained(size, wanted, scale, steps)}.\n  {remedy}\n"
        "  The best solution so far is the attribute x of this error.",
        shape(X),
        size,
        steps,
    )


def _rounded(
    X: Any, size: Any, wanted: Any, scale: Any, steps: int, shape: Callable
) -> ConvergenceError:
    name = str(X.dtype).rpartition(".")[2]
    return ConvergenceError(
        f"{_attained(size, wanted, scale, steps)}.\n"
        f"  A solution was found, but the nearest numbers of {name} have this residual: take b in "
        "float64, or a larger rtol or ridge.\n"
        "  The solution, rounded, is the attribute x of this error.",
        shape(X),
        size,
        steps,
    )


def _indefinite(
    rho: np.ndarray,
    curved: np.ndarray,
    X: Any,
    size: Any,
    wanted: Any,
    scale: Any,
    steps: int,
    shape: Callable,
) -> ConvergenceError:
    bad = ~(rho > 0)
    what, value = (
        ("the preconditioner", rho[bad][0]) if bad.any() else ("K + ridge I", curved.min())
    )
    fault = "is not positive definite" if math.isfinite(value) else "gives NaN or infinities"
    return ConvergenceError(
        f"{what} {fault}: p* A p is {value:.1e} for a vector p.\n"
        f"  When it was met, {_attained(size, wanted, scale, steps)}.\n"
        "  Take a larger ridge, or scipy.sparse.linalg.minres(K, b), which needs no such thing.",
        shape(X),
        size,
        steps,
    )


def _not_hermitian(share: float, error: ConvergenceError) -> ConvergenceError:
    reached = "" if error.iterations == 0 else f" ({error.iterations} iterations)"
    return ConvergenceError(
        f"K is not Hermitian{reached}: G = V* K V, for random V, differs from G* by "
        f"{share:.1e} of its size.\n"
        "  Conjugate gradients need K = K*. scipy.sparse.linalg.gmres(K, b) and lsmr(K, b) do not; "
        "(K + K.T) / 2 is symmetric.\n"
        f"  Seen first: {str(error).splitlines()[0]}",
        error.x,
        error.residual,
        error.iterations,
    )
