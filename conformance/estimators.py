"""Estimators that a user wrote for NumPy arrays, run unchanged on LazyArray.

    python conformance/estimators.py                    # small: equal to the dense run?
    python conformance/estimators.py --points 50000     # large: time and memory of each

The first half of this file knows nothing of duckkeops: fit, predict and transform in the NumPy that
people write. The only change is where the data is made: `X = LazyArray(X)`. Small, each estimator
runs with the inputs of fit and of predict lazy, or those of one of them; results must have the
type, shape, dtype and values of the dense run, in float64 and float32. Large, each runs in a
process of its own, and must add less than 300 MB to the peak memory that this has after its
imports: inputs, results, the compilation of new kernels and all else. The table says how large the
largest array of the dense run would be. The exit status is 1 on any difference or above the limit.
"""

import argparse
import itertools
import json
import math
import resource
import subprocess
import sys
import time

import numpy as np
import scipy.sparse.linalg
from report import table, verdict

# -- what the user wrote ---------------------------------------------------------------------------


def squared_distances(X, Y):
    """(M, D), (N, D) -> (M, N)."""
    return ((X[:, None, :] - Y[None, :, :]) ** 2).sum(axis=2)


def gaussian_kernel(X, Y, gamma):
    return np.exp(-gamma * squared_distances(X, Y))


class Estimator:
    """Parameters by name, as scikit-learn has them."""

    def __init__(self, **params):
        for name, value in params.items():
            if not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} has no parameter {name}")
            setattr(self, name, value)


class KMeans(Estimator):
    n_clusters, max_iter, seed = 8, 10, 0

    def fit(self, X):
        rng = np.random.default_rng(self.seed)
        self.centers_ = np.array(X[rng.choice(len(X), self.n_clusters, replace=False)])
        for _ in range(self.max_iter):
            labels = self.predict(X)
            for k in range(self.n_clusters):
                if np.any(labels == k):
                    self.centers_[k] = X[labels == k].mean(axis=0)
        self.inertia_ = np.min(squared_distances(X, self.centers_), axis=1).sum()
        return self

    def predict(self, X):
        return np.argmin(squared_distances(X, self.centers_), axis=1)

    def transform(self, X):
        """The nearest centre of each point, as a compressed signal."""
        return self.centers_[self.predict(X)]


class KNeighborsClassifier(Estimator):
    n_neighbors = 5

    def fit(self, X, y):
        self.X_, self.classes_ = X, np.unique(y)
        self.y_ = np.searchsorted(self.classes_, y)
        return self

    def predict_proba(self, X):
        neighbors = np.argsort(squared_distances(X, self.X_), axis=1)[:, : self.n_neighbors]
        votes = self.y_[neighbors][:, :, None] == np.arange(len(self.classes_))
        return votes.mean(axis=1)

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class KNeighborsRegressor(Estimator):
    """Neighbours weighted by inverse distance."""

    n_neighbors = 5

    def fit(self, X, y):
        self.X_, self.y_ = X, y
        return self

    def kneighbors(self, X):
        D = np.linalg.norm(X[:, None, :] - self.X_[None, :, :], axis=-1)
        neighbors = np.argpartition(D, self.n_neighbors, axis=1)[:, : self.n_neighbors]
        return np.take_along_axis(D, neighbors, axis=1), neighbors

    def predict(self, X):
        distances, neighbors = self.kneighbors(X)
        weights = 1 / (distances + 1e-3)
        return (weights * self.y_[neighbors]).sum(axis=1) / weights.sum(axis=1)


class KernelDensity(Estimator):
    bandwidth = 0.2

    def fit(self, X):
        self.X_ = X
        return self

    def score_samples(self, X):
        n, d = self.X_.shape
        log_kernel = -squared_distances(X, self.X_) / (2 * self.bandwidth**2)
        norm = math.log(n) + d * math.log(self.bandwidth * math.sqrt(2 * math.pi))
        return np.logaddexp.reduce(log_kernel, axis=1) - norm

    def score(self, X):
        return self.score_samples(X).mean()


class NadarayaWatson(Estimator):
    bandwidth = 0.5

    def fit(self, X, y):
        self.X_, self.y_ = X, y
        return self

    def predict(self, X):
        K = gaussian_kernel(X, self.X_, 0.5 / self.bandwidth**2)
        return K @ self.y_ / K.sum(axis=1)


class SinkhornDivergence(Estimator):
    """Entropic optimal transport without its bias: Feydy et al. (2019), arXiv:1810.08278."""

    blur, max_iter = 0.3, 10

    def softmin(self, C, potential):
        """-eps log sum_j exp((potential_j - C_ij) / eps), without overflow."""
        eps = self.blur**2
        S = (potential[None, :] - C) / eps
        top = S.max(axis=1)
        return -eps * (top + np.log(np.exp(S - top[:, None]).sum(axis=1)))

    def transport(self, X, Y):
        eps, C = self.blur**2, squared_distances(X, Y) / 2
        f, g = np.zeros(len(X), X.dtype), np.zeros(len(Y), Y.dtype)
        for _ in range(self.max_iter):
            f = self.softmin(C, g - eps * math.log(len(Y)))
            g = self.softmin(C.T, f - eps * math.log(len(X)))
        return f.mean() + g.mean()

    def score(self, X, Y):
        return self.transport(X, Y) - self.transport(X, X) / 2 - self.transport(Y, Y) / 2


class GaussianMixture(Estimator):
    """Expectation and maximisation, with a full covariance for each component."""

    n_components, max_iter, reg_covar, seed = 3, 5, 1e-3, 0

    def fit(self, X):
        (n, d), rng = X.shape, np.random.default_rng(self.seed)
        self.means_ = np.array(X[rng.choice(n, self.n_components, replace=False)])
        self.covariances_ = np.stack([np.eye(d, dtype=X.dtype)] * self.n_components)
        self.weights_ = np.full(self.n_components, 1 / self.n_components, X.dtype)
        for _ in range(self.max_iter):
            self.maximise(X, np.exp(self.log_responsibilities(X)))
        return self

    def log_joint(self, X):
        """log of weight times density, of each point in each component: (N, K)."""
        d = X.shape[1]
        precisions = np.linalg.inv(self.covariances_)
        diff = X[:, None, :] - self.means_[None, :, :]
        mahalanobis = np.einsum("nkd,kde,nke->nk", diff, precisions, diff)
        log_det = np.linalg.slogdet(self.covariances_)[1]
        return np.log(self.weights_) - 0.5 * (d * math.log(2 * math.pi) + log_det + mahalanobis)

    def score_samples(self, X):
        joint = self.log_joint(X)
        top = joint.max(axis=1)
        return top + np.log(np.exp(joint - top[:, None]).sum(axis=1))

    def log_responsibilities(self, X):
        return self.log_joint(X) - self.score_samples(X)[:, None]

    def maximise(self, X, R):
        """Weights, means and covariances from responsibilities (N, K)."""
        n, d = X.shape
        sizes = R.sum(axis=0)
        self.weights_ = sizes / n
        self.means_ = R.T @ X / sizes[:, None]
        diff = X[:, None, :] - self.means_[None, :, :]
        scatter = np.einsum("nk,nkd,nke->kde", R, diff, diff)
        self.covariances_ = scatter / sizes[:, None, None] + self.reg_covar * np.eye(
            d, dtype=X.dtype
        )

    def predict(self, X):
        return self.log_joint(X).argmax(axis=1)


class MeanShift(Estimator):
    bandwidth, max_iter = 0.5, 5

    def fit(self, X):
        modes = X
        for _ in range(self.max_iter):
            K = gaussian_kernel(modes, X, 0.5 / self.bandwidth**2)
            modes = (K @ X) / K.sum(axis=1, keepdims=True)
        self.modes_ = modes
        return self


def hausdorff_distance(X, Y):
    D = np.sqrt(squared_distances(X, Y))
    return max(D.min(axis=1).max(), D.min(axis=0).max())


def chamfer_distance(X, Y):
    D = squared_distances(X, Y)
    return np.mean(np.min(D, axis=1)) + np.mean(np.min(D, axis=0))


def maximum_mean_discrepancy(X, Y, gamma=1.0):
    """The squared distance of two samples in the space of the kernel, without its bias."""
    m, n = len(X), len(Y)
    within_x = (gaussian_kernel(X, X, gamma).sum() - m) / (m * (m - 1))
    within_y = (gaussian_kernel(Y, Y, gamma).sum() - n) / (n * (n - 1))
    return within_x + within_y - 2 * gaussian_kernel(X, Y, gamma).mean()


class TSNE(Estimator):
    """Exact t-SNE by gradient steps: van der Maaten and Hinton (2008)."""

    perplexity, max_iter, learning_rate, init = 10.0, 5, 10.0, None

    def conditional(self, X):
        """p(j | i), of the wanted perplexity: the precision of each point by bisection."""
        D = squared_distances(X, X)
        low, high = np.zeros(len(X), X.dtype), np.full(len(X), np.inf, X.dtype)
        beta = np.ones(len(X), X.dtype)
        for _ in range(12):
            K = np.exp(-D * beta[:, None])
            total = K.sum(axis=1) - 1  # a point is no neighbour of its own
            entropy = np.log(total) + beta * (D * K).sum(axis=1) / total
            wide = entropy > math.log(self.perplexity)
            low, high = np.where(wide, beta, low), np.where(wide, high, beta)
            beta = np.where(np.isinf(high), 2 * beta, (low + high) / 2)
        K = np.exp(-D * beta[:, None])
        return K / (K.sum(axis=1) - 1)[:, None]

    def gradient(self, P, Y):
        diff = Y[:, None, :] - Y[None, :, :]
        Q = 1 / (1 + (diff**2).sum(axis=-1))
        partition = Q.sum() - len(Y)
        force = (P - Q / partition) * Q
        return 4 * (force[:, :, None] * diff).sum(axis=1)

    def fit_transform(self, X):
        P = self.conditional(X)
        P = (P + P.T) / (2 * len(X))
        Y, velocity = self.init, 0
        for _ in range(self.max_iter):
            velocity = 0.5 * velocity - self.learning_rate * self.gradient(P, Y)
            Y = Y + velocity
        return np.asarray(Y)


class KernelRidge(Estimator):
    """Kernel ridge regression, by conjugate gradients."""

    gamma, alpha, rtol, maxiter = 1.0, 1.0, 1e-3, 200

    def fit(self, X, y):
        K, n = gaussian_kernel(X, X, self.gamma), len(X)
        ridge = scipy.sparse.linalg.LinearOperator(
            (n, n), matvec=lambda v: K @ v + self.alpha * v, dtype=X.dtype
        )
        self.dual_coef_, self.info_ = scipy.sparse.linalg.cg(
            ridge, y, rtol=self.rtol, maxiter=self.maxiter
        )
        self.X_ = X
        return self

    def predict(self, X):
        return gaussian_kernel(X, self.X_, self.gamma) @ self.dual_coef_


class SpectralEmbedding(Estimator):
    """Eigenvectors of the normalised adjacency matrix, the constant one left away."""

    n_components, gamma, tol = 2, 1.0, 1e-4

    def fit_transform(self, X):
        K = gaussian_kernel(X, X, self.gamma)
        scale = 1 / np.sqrt(K.sum(axis=1))
        S = scale[:, None] * K * scale[None, :]
        values, vectors = scipy.sparse.linalg.eigsh(
            S, k=self.n_components + 1, v0=1 / scale, tol=self.tol
        )
        order = np.argsort(-values)
        vectors = vectors[:, order[1:]] * scale[:, None]
        largest = np.argmax(np.abs(vectors), axis=0)
        self.eigenvalues_ = values[order]
        self.embedding_ = vectors * np.sign(vectors[largest, [0, 1]])
        return self.embedding_


# -- how each is used ------------------------------------------------------------------------------
#
# A case takes the data and two functions, through which the inputs of fit and of predict go: the
# identity, or LazyArray. It returns the estimator and a dictionary of results.


class Data:
    """Inputs of one case, the same in each process."""

    def __init__(self, points, features, dtype, seed=0):
        rng = np.random.default_rng(seed)
        centers = 2 * rng.standard_normal((6, features), dtype)
        self.X = rng.standard_normal((points, features), dtype)
        self.Z = rng.standard_normal((points, features), dtype)
        for cloud in (self.X, self.Z):
            cloud += centers[rng.integers(6, size=points)]
        self.target = np.sin(self.X.sum(axis=1))
        self.classes = np.array([3, 7, 9])[np.digitize(self.X[:, 0], [-1, 1])]
        self.init = rng.standard_normal((points, 2), dtype)


def kmeans(data, fit, predict, **params):
    e = KMeans(**params).fit(fit(data.X))
    Z = predict(data.Z)
    return e, {
        "centers": e.centers_,
        "inertia": e.inertia_,
        "predict": e.predict(Z),
        "transform": e.transform(Z),
    }


def k_neighbors_classifier(data, fit, predict, **params):
    e = KNeighborsClassifier(**params).fit(fit(data.X), data.classes)
    return e, {"predict": e.predict(predict(data.Z))}


def k_neighbors_regressor(data, fit, predict, **params):
    e = KNeighborsRegressor(**params).fit(fit(data.X), data.target)
    return e, {"predict": e.predict(predict(data.Z))}


def kernel_density(data, fit, predict, **params):
    e = KernelDensity(**params).fit(fit(data.X))
    return e, {"score_samples": e.score_samples(predict(data.Z))}


def nadaraya_watson(data, fit, predict, **params):
    e = NadarayaWatson(**params).fit(fit(data.X), data.target)
    return e, {"predict": e.predict(predict(data.Z))}


def sinkhorn_divergence(data, fit, predict, **params):
    e = SinkhornDivergence(**params)
    return e, {"divergence": e.score(fit(data.X), predict(data.Z))}


def gaussian_mixture(data, fit, predict, **params):
    e = GaussianMixture(**params).fit(fit(data.X))
    Z = predict(data.Z)
    return e, {
        "weights": e.weights_,
        "means": e.means_,
        "covariances": e.covariances_,
        "score_samples": e.score_samples(Z),
        "predict": e.predict(Z),
    }


def mean_shift(data, fit, predict, **params):
    e = MeanShift(**params).fit(fit(data.X))
    return e, {"modes": e.modes_}


def hausdorff(data, fit, predict):
    return None, {"distance": hausdorff_distance(fit(data.X), predict(data.Z))}


def chamfer(data, fit, predict):
    return None, {"distance": chamfer_distance(fit(data.X), predict(data.Z))}


def mmd(data, fit, predict):
    return None, {"discrepancy": maximum_mean_discrepancy(fit(data.X), predict(data.Z))}


def tsne(data, fit, predict, **params):
    e = TSNE(init=predict(data.init), **params)
    return e, {"embedding": e.fit_transform(fit(data.X))}


def kernel_ridge(data, fit, predict, **params):
    e = KernelRidge(**params).fit(fit(data.X), data.target)
    return e, {"predict": e.predict(predict(data.Z)), "dual_coef": e.dual_coef_}


def spectral_embedding(data, fit, predict, **params):
    e = SpectralEmbedding(**params)
    return e, {"embedding": e.fit_transform(fit(data.X)), "eigenvalues": e.eigenvalues_}


# The case, the parameters of the large run, its features and the columns of its largest array
# (None: as many as points).
CASES = {
    kmeans: (dict(n_clusters=1000, max_iter=2), 50, 1000),
    k_neighbors_classifier: (dict(), 3, None),
    k_neighbors_regressor: (dict(), 3, None),
    kernel_density: (dict(), 3, None),
    nadaraya_watson: (dict(), 3, None),
    sinkhorn_divergence: (dict(max_iter=2), 3, None),
    gaussian_mixture: (dict(n_components=1000, max_iter=1, reg_covar=1.0), 50, 1000),
    mean_shift: (dict(max_iter=2), 3, None),
    hausdorff: (dict(), 3, None),
    chamfer: (dict(), 3, None),
    mmd: (dict(), 3, None),
    tsne: (dict(max_iter=2, perplexity=30.0, learning_rate=1000.0), 3, None),
    kernel_ridge: (dict(alpha=100.0, rtol=1e-2), 3, None),
    spectral_embedding: (dict(gamma=0.1, tol=1e-2), 3, None),
}
NAMES = {case.__name__: case for case in CASES}

# -- small: equal to the dense run -----------------------------------------------------------------

SMALL = {
    k_neighbors_regressor: dict(n_neighbors=3),
    gaussian_mixture: dict(n_components=5),
    kernel_ridge: dict(rtol=1e-12),
    spectral_embedding: dict(gamma=0.1, tol=0),
}
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}  # of the largest entry
WRAPPED = ("fit and predict", "fit", "predict")


def difference(lazy, dense, tolerance):
    """What differs between two results; "" for nothing. A LazyArray is no result."""
    if type(lazy) is not type(dense):
        return f"a {type(lazy).__name__} instead of a {type(dense).__name__}"
    if lazy.shape != dense.shape or lazy.dtype != dense.dtype:
        return f"{lazy.dtype} {lazy.shape} instead of {dense.dtype} {dense.shape}"
    if dense.dtype.kind != "f":
        wrong = np.count_nonzero(lazy != dense)
        return f"{wrong} of {dense.size} entries" if wrong else ""
    if not np.isfinite(dense).all():
        return "the dense run is not finite"
    error = np.max(np.abs(lazy - dense)) / np.max(np.abs(dense))
    return "" if error <= tolerance else f"{error:.1e} of the largest entry"


def differences(case, dtype, wrapped, points=300):
    """What differs between the dense run and the one where these inputs are lazy: {result: what}.

    Every result of both is in it, "" for those that are equal.
    """
    from duckkeops import LazyArray

    params = SMALL.get(case, {})
    data = Data(points, 3, dtype)
    dense = case(data, lambda x: x, lambda x: x, **params)[1]
    wrap = [LazyArray if part in wrapped else (lambda x: x) for part in ("fit", "predict")]
    lazy = case(data, *wrap, **params)[1]
    return {
        name: difference(lazy[name], value, TOLERANCE[dtype]) if name in lazy else "no such result"
        for name, value in dense.items()
    }


def small(cases):
    """Print the table of small runs; the exit code."""
    rows, found = [], []
    for case in cases:
        row = [case.__name__]
        for dtype in TOLERANCE:
            before = len(found)
            for wrapped in WRAPPED:
                try:
                    unequal = differences(case, dtype, wrapped)
                except Exception as error:
                    unequal = {type(error).__name__: str(error)}
                start = f"{case.__name__}, {dtype}, {wrapped} lazy: "
                found += [f"{start}{k}: {what}" for k, what in unequal.items() if what]
            row.append("equal" if len(found) == before else "differs")
        rows.append(row)
    print(table(("estimator", *TOLERANCE), rows))
    return verdict(found, {})


# -- large: time and memory ------------------------------------------------------------------------


def peak():
    """The peak memory of this process, in MB."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    with open("/proc/self/status") as status:  # ru_maxrss of a child starts at its parent's
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


CHECKED = 20  # rows


def unequal_rows(e, results, data, dtype):
    """Which results by row differ from those of the fitted estimator on a few rows, all dense."""
    for name, value in vars(e).items():
        if type(value).__module__.startswith("duckkeops"):
            setattr(e, name, np.asarray(value))
    rows = np.linspace(0, len(data.Z) - 1, CHECKED).astype(int)
    wrong = []
    for name in ("predict", "transform", "score_samples"):
        if name in results:
            dense = getattr(e, name)(data.Z[rows])
            what = difference(results[name][rows], dense, TOLERANCE[dtype])
            wrong += [f"{name}: {what}"] if what else []
    return wrong


def measure(case, points, dtype):
    """One large run here: seconds, CPU seconds, MB added and what is wrong with the results."""
    from duckkeops import LazyArray

    params, features, _ = CASES[case]
    before, start, cpu = peak(), time.perf_counter(), time.process_time()
    data = Data(points, features, dtype)
    e, results = case(data, LazyArray, LazyArray, **params)
    seconds, cpu, added = (
        time.perf_counter() - start,
        time.process_time() - cpu,
        peak() - before,
    )
    wrong = [f"{k}: not finite" for k, v in results.items() if not np.all(np.isfinite(v))]
    if e is not None:
        wrong += unequal_rows(e, results, data, dtype)
    return {"seconds": seconds, "cpu": cpu, "added": added, "wrong": wrong}


def in_own_process(case, points, dtype, timeout=1800):
    """`measure` in a process of its own, or {"wrong": [its last words]}."""
    command = [sys.executable, __file__, case.__name__, "--points", str(points)]
    run = subprocess.run(
        [*command, "--dtype", dtype, "--measure"], capture_output=True, text=True, timeout=timeout
    )
    if run.returncode:
        words = run.stderr.strip().splitlines() or [f"exit status {run.returncode}"]
        return {"wrong": [words[-1]]}
    return json.loads(run.stdout.splitlines()[-1])


def large(cases, points, dtypes, limit):
    """Print the table of large runs; the exit code."""
    rows, found = [], []
    for case, dtype in itertools.product(cases, dtypes):
        print(f"{case.__name__}, {dtype} ...", file=sys.stderr)
        _, features, columns = CASES[case]
        dense = points * (columns or points) * features * np.dtype(dtype).itemsize / 1e9
        row = in_own_process(case, points, dtype)
        figures = ("?", "?", "?")
        if "added" in row:
            figures = (f"{row['seconds']:.1f}", f"{row['cpu']:.1f}", f"{row['added']:.0f} MB")
            row["wrong"] += [f"more than {limit:.0f} MB"] if row["added"] > limit else []
        rows.append((case.__name__, dtype, f"{dense:.0f} GB", *figures))
        found += [f"{case.__name__}, {dtype}: {what}" for what in row["wrong"]]
    print(f"{points} points, each estimator in a process of its own, {CHECKED} rows checked")
    print(table(("estimator", "dtype", "dense", "seconds", "CPU s", "added"), rows))
    return verdict(found, {})


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="estimator", help=", ".join(NAMES))
    parser.add_argument("--points", type=int, help="measure time and memory of so many points")
    parser.add_argument(
        "--dtype", choices=list(TOLERANCE), help="of the large run; by default both"
    )
    parser.add_argument("--limit", type=float, default=300, help="MB that may be added (300)")
    parser.add_argument("--measure", action="store_true", help="one estimator, in this process")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in NAMES]
    if unknown:
        parser.error(f"no estimator {', '.join(unknown)}; there are {', '.join(NAMES)}")
    cases = [NAMES[name] for name in args.names] or list(CASES)
    if args.measure:
        print(json.dumps(measure(cases[0], args.points, args.dtype)))
        return 0
    if args.points is None:
        return small(cases)
    dtypes = [args.dtype] if args.dtype else list(TOLERANCE)
    return large(cases, args.points, dtypes, args.limit)


if __name__ == "__main__":
    sys.exit(main())
