"""scikit-learn, unchanged, on lazy arrays: what works, and what the refusals say.

    python conformance/sklearn_unchanged.py [name ...]

Each call runs on arrays and on lazy arrays, with array-API dispatch off (scikit-learn's default)
and on (`sklearn.config_context(array_api_dispatch=True)`, with SCIPY_ARRAY_API=1 in the
environment). The outcome is one of

    lazy       equal to the run on arrays, and no array of all pairs was stored
    works      equal, whatever is stored: scikit-learn takes the points out of the lazy array
    refused    by us, with a message that says what to do
    theirs     refused by scikit-learn itself, in words of its own

The last column says what to do instead. Each row names the outcome that it expects, and for
refusals a part of the message. The exit status is 1 if any differs.
"""

import copy
import functools
import os
import re
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # read when SciPy is imported

import numpy as np
import sklearn
from report import table, verdict
from sklearn import cluster, decomposition, manifold, metrics, neighbors, preprocessing, svm
from sklearn.gaussian_process import GaussianProcessRegressor, kernels
from sklearn.kernel_approximation import Nystroem
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.metrics import pairwise
from sklearn.semi_supervised import LabelPropagation, LabelSpreading
from sklearn.utils import check_array, extmath

from duckkeops import LazyArray, array_api

M, N = 900, 800
rng = np.random.default_rng(0)
X, Y = rng.standard_normal((M, 3)), rng.standard_normal((N, 3))
target, labels = np.sin(Y[:, 0]), (Y[:, 0] > 0).astype(int)
partly = np.where(np.arange(N) % 2, labels, -1)
matrix = rng.standard_normal((N, 4))


def gaussian(A, B):
    return np.exp(-((A[:, None, :] - B[None, :, :]) ** 2).sum(axis=2))


def distance(A, B):
    return np.sqrt(((A[:, None, :] - B[None, :, :]) ** 2).sum(axis=2))


# -- what is expected ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """An outcome, a pattern of the message, and what to do to make it work."""

    outcome: str
    message: str = ""
    remedy: str = ""


ON, OFF = "turn array_api_dispatch on", "turn array_api_dispatch off"
LAZY, WORKS = Expected("lazy"), Expected("works")
DENSE = Expected("refused", r"needs all entries of d: .*\n  Reduce first, .* d\.to_dense\(\)")
ASARRAY = Expected("refused", DENSE.message + r"(.*\n)+.*set_config\(array_api_dispatch=True\)")
WRITE = Expected("refused", r"changed by one value under a mask .*\n  Use array_api\.where")
DIAGONAL = replace(WRITE, remedy="pass Y, a second LazyArray(x): no diagonal is written then")
MIXED = Expected("theirs", "Multiple namespaces")
BUFFER = Expected("theirs", "a bytes-like object is required")


@dataclass(frozen=True)
class Row:
    """A call of scikit-learn on what `w` makes of its inputs: nothing, or LazyArray."""

    name: str
    call: Callable[[Callable], Any]
    off: Expected
    on: Expected


def kernel(name, on=LAZY, **params):
    return Row(
        f"pairwise_kernels({name!r})",
        lambda w: pairwise.pairwise_kernels(w(np.abs(X)), w(np.abs(Y)), metric=name, **params),
        WORKS,
        on,
    )


def distances(name, on=LAZY):
    return Row(
        f"pairwise_distances({name!r})",
        lambda w: pairwise.pairwise_distances(w(X), w(Y), metric=name),
        WORKS,
        on,
    )


class LazyRBF(kernels.RBF):
    """A user's kernel: as scikit-learn's to fit, pairwise to predict."""

    w = staticmethod(lambda x: x)

    def __call__(self, X, Y=None, eval_gradient=False):
        if Y is None:
            return super().__call__(X, Y, eval_gradient)
        scale = self.length_scale * 2**0.5
        return gaussian(self.w(X / scale), self.w(Y / scale))


@functools.cache
def fitted(name):
    """An estimator fitted on arrays, as a user has it."""
    if name == "Nystroem":
        return Nystroem(n_components=20, random_state=0).fit(Y)
    if name == "GaussianProcessRegressor":
        model = GaussianProcessRegressor(LazyRBF(), alpha=0.1, optimizer=None)
        return model.fit(Y, target)
    if name == "KernelRidge(precomputed)":
        return KernelRidge(kernel="precomputed").fit(gaussian(Y, Y), target)
    return KernelRidge(kernel="rbf").fit(Y, target)


def with_attributes(model, w, *names):
    """The estimator with fitted attributes in the namespace of its inputs, as dispatch asks."""
    model = copy.copy(model)
    for name in names if w is LazyArray else ():
        setattr(model, name, array_api.asarray(getattr(model, name)))
    return model


def gaussian_process(w):
    model = copy.copy(fitted("GaussianProcessRegressor"))
    model.kernel_ = copy.copy(model.kernel_)
    model.kernel_.w = w
    return model.predict(X)


def kernel_ridge(w):
    model = with_attributes(fitted("KernelRidge"), w, "dual_coef_", "X_fit_")
    return model.predict(w(X))


def kernel_ridge_precomputed(w):
    model = with_attributes(fitted("KernelRidge(precomputed)"), w, "dual_coef_", "X_fit_")
    return model.predict(gaussian(w(X), w(Y)))


def nystroem(w):
    model = with_attributes(fitted("Nystroem"), w, "components_", "normalization_")
    return model.transform(w(X))


ROWS = [
    # kernels and distances
    kernel("rbf"),
    kernel("linear"),
    kernel("poly"),
    kernel("sigmoid"),
    kernel("cosine"),
    kernel("chi2"),
    kernel("additive_chi2"),
    kernel("laplacian", DENSE),
    distances("euclidean"),
    distances("l2"),
    distances("cosine"),
    distances("manhattan", DENSE),
    distances("sqeuclidean", WORKS),
    distances("chebyshev", WORKS),
    Row("rbf_kernel(X, Y) @ v", lambda w: pairwise.rbf_kernel(w(X), w(Y)) @ target, WORKS, LAZY),
    Row(
        "euclidean_distances(squared=True)",
        lambda w: pairwise.euclidean_distances(w(X), w(Y), squared=True),
        WORKS,
        LAZY,
    ),
    Row("euclidean_distances(X)", lambda w: pairwise.euclidean_distances(w(X)), WORKS, DIAGONAL),
    Row("rbf_kernel(X)", lambda w: pairwise.rbf_kernel(w(X)), WORKS, DIAGONAL),
    Row("linear_kernel(X)", lambda w: pairwise.linear_kernel(w(X)), WORKS, LAZY),
    Row(
        "euclidean_distances, float32",
        lambda w: pairwise.euclidean_distances(w(np.float32(X)), w(np.float32(Y))),
        WORKS,
        replace(DENSE, remedy="pass float64: scikit-learn stores float32 distances in blocks"),
    ),
    Row(
        "pairwise_distances_argmin",
        lambda w: pairwise.pairwise_distances_argmin(w(X), w(Y)),
        WORKS,
        LAZY,
    ),
    Row(
        "pairwise_distances_argmin_min",
        lambda w: pairwise.pairwise_distances_argmin_min(w(X), w(Y)),
        WORKS,
        LAZY,
    ),
    Row(
        "pairwise_distances_chunked(reduce_func)",
        lambda w: np.concatenate(
            [
                np.asarray(part)
                for part in pairwise.pairwise_distances_chunked(
                    w(X), w(Y), reduce_func=lambda D, start: D.min(axis=1)
                )
            ]
        ),
        WORKS,
        LAZY,
    ),
    Row("paired_distances", lambda w: pairwise.paired_distances(w(X[:N]), w(Y)), WORKS, LAZY),
    # of virtual matrices
    Row("check_array(K)", lambda w: check_array(gaussian(w(X), w(Y))), ASARRAY, LAZY),
    Row(
        "randomized_svd(K)",
        lambda w: extmath.randomized_svd(
            gaussian(w(X), w(Y)), 3, power_iteration_normalizer="QR", random_state=0
        ),
        ASARRAY,
        LAZY,
    ),
    Row("softmax(K)", lambda w: extmath.softmax(gaussian(w(X), w(Y))), ASARRAY, LAZY),
    Row("row_norms(X)", lambda w: extmath.row_norms(w(X)), WORKS, LAZY),
    Row(
        "safe_sparse_dot(K, v)",
        lambda w: extmath.safe_sparse_dot(
            gaussian(w(X), w(Y)), array_api.asarray(target) if w is LazyArray else target
        ),
        LAZY,
        LAZY,
    ),
    Row(
        "TruncatedSVD(randomized).fit(K)",
        lambda w: (
            decomposition.TruncatedSVD(2, power_iteration_normalizer="QR", random_state=0)
            .fit(gaussian(w(X), w(Y)))
            .singular_values_
        ),
        ASARRAY,
        LAZY,
    ),
    Row(
        "PCA(svd_solver='randomized').fit(K)",
        lambda w: (
            decomposition.PCA(2, svd_solver="randomized", random_state=0)
            .fit(gaussian(w(X), w(Y)))
            .singular_values_
        ),
        ASARRAY,
        LAZY,
    ),
    Row(
        "KernelCenterer",
        lambda w: (
            preprocessing.KernelCenterer().fit(gaussian(w(Y), w(Y))).transform(gaussian(w(X), w(Y)))
        ),
        ASARRAY,
        LAZY,
    ),
    Row(
        "KernelPCA(precomputed, arpack)",
        lambda w: np.abs(
            decomposition.KernelPCA(
                2, kernel="precomputed", eigen_solver="arpack", random_state=0
            ).fit_transform(gaussian(w(X), w(X)))
        ),
        ASARRAY,
        LAZY,
    ),
    # estimators that take points
    Row(
        "LabelPropagation(kernel=callable)",
        lambda w: (
            LabelPropagation(kernel=lambda A, B: gaussian(w(A), w(B))).fit(Y, partly).predict(X)
        ),
        LAZY,
        MIXED,
    ),
    Row(
        "LabelSpreading(kernel=callable)",
        lambda w: (
            LabelSpreading(kernel=lambda A, B: gaussian(w(A), w(B))).fit(Y, partly).predict(X)
        ),
        ASARRAY,
        DENSE,
    ),
    Row("GaussianProcessRegressor.predict", gaussian_process, LAZY, LAZY),
    Row("KernelRidge.predict", kernel_ridge, WORKS, LAZY),
    Row("KernelRidge(precomputed).predict", kernel_ridge_precomputed, ASARRAY, LAZY),
    Row(
        "KernelRidge.fit",
        lambda w: KernelRidge(kernel="rbf").fit(w(Y), target).dual_coef_,
        WORKS,
        WRITE,
    ),
    Row("Nystroem.transform", nystroem, WORKS, LAZY),
    Row(
        "NearestNeighbors(brute).kneighbors",
        lambda w: neighbors.NearestNeighbors(algorithm="brute").fit(w(Y)).kneighbors(w(X)),
        WORKS,
        LAZY,
    ),
    Row(
        "NearestNeighbors(precomputed).kneighbors",
        lambda w: (
            neighbors.NearestNeighbors(metric="precomputed")
            .fit(distance(w(Y), w(Y)))
            .kneighbors(distance(w(X), w(Y)))
        ),
        ASARRAY,
        LAZY,
    ),
    Row(
        "NearestNeighbors.radius_neighbors",
        lambda w: np.concatenate(
            neighbors.NearestNeighbors(algorithm="brute", radius=0.5)
            .fit(w(Y))
            .radius_neighbors(w(X), return_distance=False)
        ),
        WORKS,
        DENSE,
    ),
    Row(
        "KNeighborsClassifier(brute)",
        lambda w: neighbors.KNeighborsClassifier(algorithm="brute").fit(w(Y), labels).predict(w(X)),
        WORKS,
        LAZY,
    ),
    Row(
        "KNeighborsRegressor(brute)",
        lambda w: neighbors.KNeighborsRegressor(algorithm="brute").fit(w(Y), target).predict(w(X)),
        WORKS,
        LAZY,
    ),
    Row(
        "KMeans.predict",
        lambda w: cluster.KMeans(4, n_init=1, random_state=0).fit(Y).predict(w(X)),
        WORKS,
        Expected("theirs", "No matching signature found"),
    ),
    Row("DBSCAN", lambda w: cluster.DBSCAN().fit(w(X)).labels_, WORKS, BUFFER),
    Row(
        "MeanShift",
        lambda w: cluster.MeanShift(bandwidth=1.0, bin_seeding=True).fit(w(X)).labels_,
        WORKS,
        BUFFER,
    ),
    Row(
        "KernelDensity",
        lambda w: neighbors.KernelDensity().fit(w(Y)).score_samples(w(X)),
        WORKS,
        BUFFER,
    ),
    Row("SVC", lambda w: svm.SVC().fit(w(Y), labels).predict(w(X)), WORKS, BUFFER),
    Row("Ridge", lambda w: Ridge(solver="svd").fit(w(Y), w(target)).predict(w(X)), WORKS, LAZY),
    Row(
        "StandardScaler", lambda w: preprocessing.StandardScaler().fit_transform(w(X)), WORKS, LAZY
    ),
    # estimators that take a matrix of all pairs
    Row(
        "DBSCAN(precomputed)",
        lambda w: cluster.DBSCAN(metric="precomputed").fit(distance(w(X), w(X))).labels_,
        ASARRAY,
        DENSE,
    ),
    Row(
        "SpectralClustering(precomputed)",
        lambda w: (
            cluster.SpectralClustering(3, affinity="precomputed", random_state=0)
            .fit(gaussian(w(X), w(X)))
            .labels_
        ),
        ASARRAY,
        Expected("refused", r"numpy\.logical_or\(out=\) .*\n  Write x = x \+ d"),
    ),
    Row(
        "AgglomerativeClustering(precomputed)",
        lambda w: (
            cluster.AgglomerativeClustering(3, metric="precomputed", linkage="average")
            .fit(distance(w(X), w(X)))
            .labels_
        ),
        ASARRAY,
        DENSE,
    ),
    Row(
        "TSNE(precomputed)",
        lambda w: manifold.TSNE(
            metric="precomputed", init="random", perplexity=5, max_iter=250, random_state=0
        ).fit_transform(distance(w(X), w(X))),
        ASARRAY,
        LAZY,
    ),
    Row(
        "Isomap(precomputed)",  # which stores the geodesic distances
        lambda w: np.abs(manifold.Isomap(metric="precomputed").fit_transform(distance(w(X), w(X)))),
        ASARRAY,
        WORKS,
    ),
    Row(
        "SVC(precomputed).predict",
        lambda w: (
            svm.SVC(kernel="precomputed").fit(gaussian(Y, Y), labels).predict(gaussian(w(X), w(Y)))
        ),
        ASARRAY,
        BUFFER,
    ),
    Row(
        "silhouette_score(X)",
        lambda w: metrics.silhouette_score(w(Y), labels),
        WORKS,
        WRITE,
    ),
]


# -- running them ----------------------------------------------------------------------------------


def parts(result):
    return result if isinstance(result, tuple) else (result,)


def differs(lazy, dense):
    """What differs between two results; "" for nothing."""
    for one, other in zip(parts(lazy), parts(dense), strict=True):
        if isinstance(one, LazyArray):
            one = one.to_dense()
        one, other = np.asarray(one), np.asarray(other)
        if one.shape != other.shape or one.dtype != other.dtype:
            return f"{one.dtype} {one.shape} instead of {other.dtype} {other.shape}"
        if other.dtype.kind != "f":
            if not np.array_equal(one, other):
                return f"{np.count_nonzero(one != other)} of {other.size} entries"
            continue
        tolerance = 1e-5 if other.dtype == np.float32 else 1e-9
        error = np.max(np.abs(one - other)) / max(np.max(np.abs(other)), 1e-300)
        if not error <= tolerance:
            return f"{error:.1e} of the largest entry"
    return ""


def traced(call):
    """The result of a call, and the most bytes that NumPy and Python held meanwhile."""
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def outcome(row, dispatch):
    """What happens, as a word, and its message."""
    with sklearn.config_context(array_api_dispatch=dispatch), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dense = row.call(lambda x: x)
        try:
            row.call(LazyArray)  # compiles
            lazy, peak = traced(lambda: row.call(LazyArray))
        except Exception as error:
            ours = type(error).__module__.startswith("duckkeops")
            return "refused" if ours else "theirs", str(error)
        wrong = differs(lazy, dense)
    if wrong:
        return "differs", wrong
    return ("lazy" if peak < M * N * 8 / 2 else "works"), ""


def remedy(row):
    """What to do instead, where one of the two outcomes is a refusal."""
    if row.on.remedy:
        return row.on.remedy
    off, on = (expected.outcome in ("refused", "theirs") for expected in (row.off, row.on))
    return "none: it needs the matrix" if off and on else ON if off else OFF if on else ""


def main():
    names = sys.argv[1:]
    rows = [row for row in ROWS if not names or any(name in row.name for name in names)]
    lines, differences = [], []
    for row in rows:
        words = []
        for dispatch, expected in ((False, row.off), (True, row.on)):
            what, message = outcome(row, dispatch)
            words.append("works" if what == "lazy" and expected.outcome == "works" else what)
            if words[-1] != expected.outcome or not re.search(expected.message, message):
                asked = f"{expected.outcome} {expected.message}".strip()
                differences.append(
                    f"{row.name}, dispatch {'on' if dispatch else 'off'}: "
                    f"{what} {message}\n  instead of {asked}"
                )
        lines.append((row.name, *words, remedy(row)))
    print(table(("call", "dispatch off", "dispatch on", "what to do"), lines))
    return verdict(differences, {})


if __name__ == "__main__":
    sys.exit(main())
