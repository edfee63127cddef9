"""SciPy, unchanged, on lazy arrays: what works, and what the refusals say.

    python conformance/scipy_unchanged.py

Each call runs on arrays and on lazy arrays. The outcome is one of

    equal      the value of the run on arrays, to 1e-8 of its scale where a row says nothing else
    refused    by us, with a message that says what to do
    theirs     refused by SciPy itself, in words of its own

Every ufunc of scipy.special is called too: it is an operation row,
or its refusal names it. The exit status is 1 if any outcome is not the one that is listed here.
"""

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.cluster.hierarchy
import scipy.cluster.vq
import scipy.integrate
import scipy.interpolate
import scipy.linalg
import scipy.optimize
import scipy.sparse
import scipy.spatial
import scipy.stats
from report import table, verdict
from scipy import special
from scipy.sparse import linalg

from duckkeops import LazyArray
from duckkeops.linalg import eye

N, M = 120, 90
rng = np.random.default_rng(0)
X, Y = rng.random((N, 3)), rng.random((M, 3))
b, B = rng.standard_normal(N), rng.standard_normal((N, 3))
c = rng.standard_normal(M)
masses = rng.uniform(1, 2, 12)


def distances(x: Any, y: Any) -> Any:
    return np.sqrt(((x[:, None, :] - y[None, :, :]) ** 2).sum(axis=2))


def kernel(w: Callable) -> Any:
    """(N, N), symmetric."""
    return np.exp(-4 * distances(w(X), w(X + 0.0)))


def across(w: Callable) -> Any:
    """(N, M)."""
    return np.exp(-4 * distances(w(X), w(Y)))


def hermitian(w: Callable) -> Any:
    x = w(X)
    return kernel(w) * np.exp(2j * (x[:, None, 0] - x[None, :, 0]))


def identity(w: Callable) -> Any:
    return eye(N) if w is LazyArray else np.eye(N)


def shifted(w: Callable) -> Any:
    return kernel(w) + 0.5 * identity(w)


def operator(w: Callable) -> Any:
    return linalg.aslinearoperator(kernel(w))


def solved(method: Callable, **options: Any) -> Callable:
    """Its solution of a positive definite system."""
    return lambda w: method(shifted(w), b, **options)[0]


def least_squares(method: Callable, **options: Any) -> Callable:
    return lambda w: method(across(w), b, damp=0.1, **options)[0]


def signed(vectors: np.ndarray) -> np.ndarray:
    """Eigenvectors are known up to their signs."""
    return vectors * np.sign(vectors[np.argmax(abs(vectors), axis=0), range(vectors.shape[1])])


def pairs(w: Callable) -> tuple:
    values, vectors = linalg.eigsh(kernel(w), 4, v0=b)
    return values, signed(vectors)


def largest(w: Callable) -> tuple:
    values, vectors = linalg.lobpcg(kernel(w), B.copy(), tol=1e-10, maxiter=200)
    return values, signed(vectors)


def exponential(w: Callable) -> Any:
    K = linalg.aslinearoperator(-1 * kernel(w))
    return linalg.expm_multiply(K, b, traceA=-float(N))


def forces(w: Callable) -> Any:
    """Bodies under gravity, by scipy.integrate."""
    start = np.concatenate([X[:12].ravel(), np.zeros(36)])

    def motion(_: float, state: np.ndarray) -> np.ndarray:
        at, speed = state[:36].reshape(12, 3), state[36:]
        d = w(at)[None, :, :] - w(at)[:, None, :]
        near = (d**2).sum(axis=2) + 0.01
        pull = (d * (near**-1.5)[:, :, None] * w(masses)[None, :, None]).sum(axis=1)
        return np.concatenate([speed, np.asarray(pull).ravel()])

    return scipy.integrate.solve_ivp(motion, (0, 0.2), start, rtol=1e-10, atol=1e-12).y[:, -1]


def fitted(w: Callable) -> Any:
    """Weights of kernels at Y by scipy.optimize, with gradient and products with the Hessian."""
    K = across(w)

    def loss(a: np.ndarray) -> tuple:
        r = K @ a - b
        return r @ r + 0.1 * a @ a, 2 * (K.T @ r) + 0.2 * a

    out = scipy.optimize.minimize(
        loss, np.zeros(M), jac=True, method="Newton-CG", tol=1e-9,
        hessp=lambda a, p: 2 * (K.T @ (K @ p)) + 0.2 * p,
    )  # fmt: skip
    return out.x


def moved(w: Callable) -> Any:
    """A step of mean shift until nothing moves, by scipy.optimize.fixed_point."""

    def step(x: np.ndarray) -> np.ndarray:
        weights = np.exp(-30 * distances(w(x), w(Y)) ** 2)
        return (weights @ Y) / weights.sum(axis=1)[:, None]

    return scipy.optimize.fixed_point(step, X[:9], method="iteration", xtol=1e-10, maxiter=3000)


@dataclass(frozen=True)
class Row:
    """A call on what `w` makes of its inputs, nothing or LazyArray, and what is expected of it."""

    name: str
    call: Callable[[Callable], Any]
    outcome: str = "equal"
    message: str = ""
    remedy: str = ""
    close: float = 1e-8


DENSE = ("refused", "Reduce first")

SOLVERS = [
    Row("cg", solved(linalg.cg, rtol=1e-11)),
    Row("minres", solved(linalg.minres, rtol=1e-12)),
    Row("gmres", solved(linalg.gmres, rtol=1e-11)),
    Row("lgmres", solved(linalg.lgmres, rtol=1e-11)),
    Row("gcrotmk", solved(linalg.gcrotmk, rtol=1e-11)),
    Row("bicg", solved(linalg.bicg, rtol=1e-11)),
    Row("bicgstab", solved(linalg.bicgstab, rtol=1e-11)),
    Row("cgs", solved(linalg.cgs, rtol=1e-11)),
    Row("qmr", solved(linalg.qmr, rtol=1e-11)),
    Row("tfqmr", solved(linalg.tfqmr, rtol=1e-11)),
    Row("lsqr", least_squares(linalg.lsqr, atol=1e-13, btol=1e-13)),
    Row("lsmr", least_squares(linalg.lsmr, atol=1e-13, btol=1e-13, conlim=0, maxiter=999)),
    Row("cg, complex Hermitian", lambda w: linalg.cg(hermitian(w) + identity(w), b, rtol=1e-11)[0]),
    Row("eigsh", pairs),
    Row("eigsh, smallest", lambda w: linalg.eigsh(kernel(w), 3, which="SA", v0=b)[0]),
    Row("eigsh, complex Hermitian", lambda w: linalg.eigsh(hermitian(w), 3, v0=b + 0j)[0]),
    Row("eigs", lambda w: np.sort(abs(linalg.eigs(kernel(w), 3, v0=b)[0]))),
    Row("svds", lambda w: linalg.svds(across(w), 4, v0=c)[1]),
    Row("svds, lobpcg", lambda w: linalg.svds(across(w), 3, solver="lobpcg", rng=0, tol=1e-10)[1]),
    Row("lobpcg", largest),
    Row("expm_multiply", exponential),
    Row("expm_multiply of the array itself", lambda w: linalg.expm_multiply(kernel(w), b)),
    Row("onenormest", lambda w: linalg.onenormest(operator(w))),
    Row("onenormest of the array itself", lambda w: linalg.onenormest(kernel(w))),
    Row("norm of an operator", lambda w: linalg.svds(operator(w), 1, v0=b)[1]),
    Row("aslinearoperator @ b", lambda w: operator(w) @ b),
    Row("operator.matmat, rmatvec, rmatmat", lambda w: (
        linalg.aslinearoperator(across(w)).matmat(B[:M]),
        linalg.aslinearoperator(across(w)).rmatvec(b),
        linalg.aslinearoperator(across(w)).rmatmat(B),
    )),
    Row("operator.H, operator.T", lambda w: (
        linalg.aslinearoperator(hermitian(w)).H @ b, linalg.aslinearoperator(hermitian(w)).T @ b
    )),
    Row("operator + 2 I, products, powers", lambda w: (
        (operator(w) + 2 * linalg.aslinearoperator(scipy.sparse.eye_array(N))) @ b,
        (operator(w) * operator(w)) @ b,
        (operator(w) ** 2) @ b,
    )),
    Row("K + sigma I by duckkeops.linalg.eye", lambda w: shifted(w) @ b),
    Row("newton_krylov", lambda w: scipy.optimize.newton_krylov(
        lambda x: shifted(w) @ x + 0.1 * x**3 - b, np.zeros(N), f_tol=1e-10)),
    Row("lsq_linear", lambda w: scipy.optimize.lsq_linear(
        linalg.aslinearoperator(across(w)), b, (-1, 1), tol=1e-12).x, close=1e-3),
    Row("minimize, Newton-CG", fitted, close=1e-4),
    Row("fixed_point, mean shift", moved),
    Row("solve_ivp, gravity", forces),
]  # fmt: skip

POINTS = [  # a lazy array that is not virtual hands out its array
    Row("distance.cdist", lambda w: scipy.spatial.distance.cdist(w(X), w(Y))),
    Row("distance.pdist", lambda w: scipy.spatial.distance.pdist(w(X))),
    Row("distance_matrix", lambda w: scipy.spatial.distance_matrix(w(X), w(Y))),
    Row("distance.directed_hausdorff", lambda w: scipy.spatial.distance.directed_hausdorff(
        np.asarray(w(X)), np.asarray(w(Y)))[0]),
    Row("KDTree.query", lambda w: scipy.spatial.KDTree(w(X)).query(w(Y), 3)),
    Row("vq.vq", lambda w: scipy.cluster.vq.vq(w(X), w(Y))),
    Row("vq.kmeans2", lambda w: scipy.cluster.vq.kmeans2(w(X), Y[:5], minit="matrix")),
    Row("hierarchy.linkage", lambda w: scipy.cluster.hierarchy.linkage(w(X))),
    Row("RBFInterpolator", lambda w: scipy.interpolate.RBFInterpolator(w(X), b)(w(Y))),
    Row("stats.gaussian_kde", lambda w: scipy.stats.gaussian_kde(w(X).T)(w(Y).T)),
    Row("stats.zscore", lambda w: scipy.stats.zscore(w(X))),
    Row("linalg.svd", lambda w: scipy.linalg.svdvals(w(X))),
]  # fmt: skip

VIRTUAL = [
    Row("linalg.solve", lambda w: scipy.linalg.solve(kernel(w), b),
        *DENSE, "duckkeops.linalg.solve"),
    Row("linalg.cholesky", lambda w: scipy.linalg.cholesky(shifted(w)), *DENSE, "linalg.solve"),
    Row("linalg.eigh", lambda w: scipy.linalg.eigh(kernel(w)), *DENSE, "sparse.linalg.eigsh"),
    Row("linalg.svdvals", lambda w: scipy.linalg.svdvals(across(w)), *DENSE, "sparse.linalg.svds"),
    Row("linalg.expm", lambda w: scipy.linalg.expm(kernel(w)), *DENSE, "expm_multiply"),
    Row("linalg.norm", lambda w: scipy.linalg.norm(across(w)), *DENSE, "numpy.linalg.norm"),
    Row("linear_sum_assignment", lambda w: scipy.optimize.linear_sum_assignment(across(w)),
        *DENSE, "d.to_dense()"),
    Row("hierarchy.linkage of pairs", lambda w: scipy.cluster.hierarchy.linkage(across(w)),
        *DENSE, "of the points"),
    Row("distance.squareform",
        lambda w: scipy.spatial.distance.squareform(1 - kernel(w), checks=False),
        *DENSE, "d.to_dense()"),
    Row("special.logsumexp", lambda w: special.logsumexp(across(w), axis=1),
        *DENSE, "numpy.logaddexp.reduce(d, axis=1)"),
    Row("special.softmax", lambda w: special.softmax(across(w), axis=1),
        *DENSE, "d.softmax(axis=1)"),
    Row("stats.rankdata", lambda w: scipy.stats.rankdata(across(w), axis=1),
        *DENSE, "d.to_dense()"),
    Row("stats.entropy", lambda w: scipy.stats.entropy(across(w), axis=1),
        *DENSE, "special.entr(p).sum(axis=1)"),
    Row("sparse.csr_array", lambda w: scipy.sparse.csr_array(across(w)).sum(),
        "theirs", "unrecognized csr_array constructor input", "numpy.where(near, d, 0)"),
    Row("sparse @ lazy", lambda w: scipy.sparse.eye_array(N) @ kernel(w), *DENSE, "S @ (K @ x)"),
    Row("lazy @ sparse", lambda w: kernel(w) @ scipy.sparse.eye_array(N), *DENSE, "K @ (S @ x)"),
]  # fmt: skip

LISTED: dict[str, str] = {}


def run(call: Callable, w: Callable) -> tuple[Any, Exception | None]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return call(w), None
        except Exception as error:  # whatever SciPy raises is an outcome
            return None, error


def agrees(got: Any, want: Any, close: float = 1e-8) -> bool:
    if isinstance(want, tuple):
        return len(got) == len(want) and all(
            agrees(g, x, close) for g, x in zip(got, want, strict=True)
        )
    if isinstance(got, LazyArray):
        got = got.to_dense()
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape or got.dtype != want.dtype:
        return False
    scale = float(np.max(np.abs(want[np.isfinite(want)]), initial=0)) if want.size else 0
    return bool(np.allclose(got, want, rtol=close, atol=close * scale, equal_nan=True))


def is_ours(error: Exception) -> bool:
    return type(error).__module__.startswith("duckkeops")


def outcome(row: Row) -> tuple[str, str]:
    """What became of the call, and its message."""
    want, broken = run(row.call, lambda x: x)
    if broken is not None:
        return f"fails on arrays: {broken}", ""
    got, error = run(row.call, LazyArray)
    if error is None:
        return ("equal" if agrees(got, want, row.close) else "differs"), ""
    return ("refused" if is_ours(error) else "theirs"), str(error)


def of_rows(title: str, rows: list[Row]) -> list[str]:
    lines, differences = [], []
    for row in rows:
        seen, message = outcome(row)
        if seen != row.outcome or row.message not in message:
            differences.append(f"{row.name}: {seen}, {message[:200]!r}")
        lines.append((row.name, seen, row.remedy))
    print(table((title, "outcome", "instead"), lines), "\n")
    return differences


# -- the ufuncs of scipy.special -------------------------------------------------------------------

WHOLE = "bdtr bdtrc bdtri nbdtr nbdtrc nbdtri pdtri smirnov smirnovi expn kn yn jn"


def of_ufunc(f: np.ufunc, w: Callable) -> Any:
    """f of a lazy array as its last argument, of an array or a number as the others."""
    others: list[Any] = [2 if f.__name__ in WHOLE.split() else 1.5, 0.75, 0.5, 0.25, 0.125]
    d = distances(w(X), w(Y)) / 2 + 0.01
    return f(*others[: f.nin - 1], d)


def of_special() -> list[str]:
    found = {"equal": [], "refused": []}
    differences = []
    for name, f in sorted(vars(special).items()):
        if not isinstance(f, np.ufunc):
            continue
        want, broken = run(lambda w, f=f: of_ufunc(f, w), lambda x: x)
        got, error = run(lambda w, f=f: of_ufunc(f, w), LazyArray)
        if error is None:
            if broken is None and agrees(got, want, 1e-11) and isinstance(got, LazyArray):
                found["equal"].append(name)
            else:
                differences.append(f"scipy.special.{name}: differs")
        elif is_ours(error) and f"scipy.special.{f.__name__} has no pairwise" in str(error):
            found["refused"].append(name)
        else:
            differences.append(f"scipy.special.{name}: {error}")
    lines = [(kind, len(names)) for kind, names in found.items()]
    print(table(("scipy.special", "ufuncs"), lines))
    for kind, names in found.items():
        print(f"\n{kind}: " + " ".join(names))
    missing = sorted(set(EXPECTED.split()) - set(found["equal"]))
    return differences + [f"scipy.special.{name}: no longer a row" for name in missing]


EXPECTED = """
boxcox boxcox1p cbrt digamma entr erf erfc erfcinv erfcx erfinv exp10 exp2 expit expm1 gamma
gammaln huber i0 i0e i1 i1e inv_boxcox inv_boxcox1p iv ive j0 j1 k0 k0e k1 k1e kl_div kv kve log1p
log_expit log_ndtr logit ndtr ndtri pseudo_huber psi rel_entr rgamma round xlog1py xlogy y0 y1
"""


def main() -> int:
    differences = of_rows("scipy", SOLVERS)
    differences += of_rows("scipy, on points", POINTS)
    differences += of_rows("scipy, on all pairs", VIRTUAL)
    differences += of_special()
    print()
    return verdict(differences, LISTED)


if __name__ == "__main__":
    sys.exit(main())
