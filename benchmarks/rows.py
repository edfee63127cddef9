"""What the CPU benchmarks compute: one row of a table each, with its inputs, its right answer and
its cost.

The formulas are written as a user of NumPy would. Given LazyArrays they are what is measured; given
float64 arrays they are the answer that every library is checked against.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

NEIGHBOURS = 10
SCORES = ("logsumexp", "attention")  # of dot products
INDICES = ("argmin", "top10")


@dataclass(frozen=True)
class Row:
    """One task: `kind` names a formula, on `dim` features, with `outputs` columns in b."""

    kind: str
    dim: int
    outputs: int = 1

    @property
    def name(self) -> str:
        return f"{self.kind} D={self.dim}" + (f" E={self.outputs}" if self.outputs > 1 else "")


# -- formulas: x (M, 1, D), y (1, N, D), b (N, E) --------------------------------------------------


def square_distance(x: Any, y: Any) -> Any:
    return ((x - y) ** 2).sum(-1)


def distance(x: Any, y: Any) -> Any:
    return np.sqrt(square_distance(x, y))


def bandwidth2(dim: int) -> float:
    """s**2 of the Gaussian: the variance of a row in the unit cube, so that no row is far away."""
    return dim / 12


def gaussian(x: Any, y: Any, b: Any) -> Any:
    return np.exp(-square_distance(x, y) / (2 * bandwidth2(x.shape[-1]))) @ b


def gradient(x: Any, y: Any, b: Any) -> Any:
    """The gradient of `gaussian` in x, written by hand."""
    s2 = bandwidth2(x.shape[-1])
    k = np.exp(-square_distance(x, y) / (2 * s2))
    return (k[:, :, None] * b[None] * (y - x)).sum(axis=1) / s2


def argmin(x: Any, y: Any, b: Any) -> Any:
    return np.argmin(square_distance(x, y), axis=1)


def top10(x: Any, y: Any, b: Any) -> Any:
    return np.argsort(square_distance(x, y), axis=1)[:, :NEIGHBOURS]


def logsumexp(x: Any, y: Any, b: Any) -> Any:
    return np.logaddexp.reduce((x * y).sum(-1), axis=1)


def attention(x: Any, y: Any, b: Any) -> Any:
    """Softmax over j of the dot products, times b."""
    scores = (x * y).sum(-1)
    if hasattr(scores, "softmax"):
        return scores.softmax(axis=1) @ b
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights @ b / weights.sum(axis=1, keepdims=True)


def matern52(x: Any, y: Any, b: Any) -> Any:
    r = math.sqrt(5) / 0.5 * distance(x, y)
    return ((1 + r + r**2 / 3) * np.exp(-r)) @ b


def laplacian(x: Any, y: Any, b: Any) -> Any:
    return np.exp(-distance(x, y)) @ b


def cauchy(x: Any, y: Any, b: Any) -> Any:
    return (1 / (1 + square_distance(x, y) / 0.25)) @ b


def coulomb(x: Any, y: Any, b: Any) -> Any:
    d2 = square_distance(x, y)
    return np.where(d2 > 0, 1 / np.sqrt(d2), 0) @ b


def manhattan(x: Any, y: Any, b: Any) -> Any:
    return np.abs(x - y).sum(-1) @ b


def lengths(x: Any) -> Any:
    return np.sqrt((x * x).sum(-1))


def cosine(x: Any, y: Any, b: Any) -> Any:
    return ((x * y).sum(-1) / (lengths(x) * lengths(y))) @ b


def kl(x: Any, y: Any, b: Any) -> Any:
    """The Kullback-Leibler divergence of histograms."""
    return (x * np.log(x / y)).sum(-1) @ b


def arccosine(x: Any, y: Any, b: Any) -> Any:
    """The arc-cosine kernel of order 1 (Cho and Saul, 2009)."""
    norms = lengths(x) * lengths(y)
    angle = np.arccos(np.clip((x * y).sum(-1) / norms, -1, 1))
    return (norms * (np.sin(angle) + (math.pi - angle) * np.cos(angle)) / math.pi) @ b


def periodic(x: Any, y: Any, b: Any) -> Any:
    return np.exp(-2 * np.sin(math.pi / 0.7 * distance(x, y)) ** 2) @ b


def phase(x: Any, y: Any, b: Any) -> Any:
    return np.exp(20j * distance(x, y)) @ b


KINDS: dict[str, Callable[[Any, Any, Any], Any]] = {
    f.__name__: f
    for f in (
        *(gaussian, gradient, argmin, top10, logsumexp, attention),
        *(matern52, laplacian, cauchy, coulomb, manhattan),
        *(cosine, kl, arccosine, periodic, phase),
    )
}

MAIN = (
    *(Row("gaussian", dim) for dim in (1, 3, 10, 64, 784)),
    Row("gaussian", 3, 16),
    *(Row("argmin", dim) for dim in (3, 10, 64, 128, 784)),
    *(Row("top10", dim) for dim in (3, 10, 64, 784)),
    *(Row("logsumexp", dim) for dim in (3, 64)),
    Row("attention", 64, 64),
    Row("gradient", 3),
)
FORMULAS = tuple(Row(kind, 3) for kind in list(KINDS)[6:])


# -- inputs and answers ----------------------------------------------------------------------------


def inputs(row: Row, size: int, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y (size, D) and b (size, E); the rows are uniform in the unit cube, the weights normal."""
    rng = np.random.default_rng(row.dim)
    x, y = rng.random((2, size, row.dim))
    b = rng.standard_normal((size, row.outputs))
    if row.kind in SCORES:  # scores between -10 and 10, of which a few matter
        x, y = (x - 0.5) * (8 / math.sqrt(row.dim)), (y - 0.5) * 4
    elif row.kind == "kl":
        x, y = (a / a.sum(-1, keepdims=True) for a in (x + 0.01, y + 0.01))
    return x.astype(dtype), y.astype(dtype), b.astype(dtype)


def answer(row: Row, x: np.ndarray, y: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What float64 says of these rows of x. Of indices: all square distances."""
    x, y, b = (a.astype(np.float64) for a in (x, y, b))
    formula = square_distances_to if row.kind in INDICES else KINDS[row.kind]
    return np.concatenate([formula(x[i : i + 1, None], y[None], b) for i in range(len(x))])


def square_distances_to(x: np.ndarray, y: np.ndarray, b: np.ndarray) -> np.ndarray:
    return square_distance(x, y)


def error(row: Row, out: np.ndarray, right: np.ndarray) -> float:
    """Largest error of the rows that `right` has, relative to its largest entry.

    Of indices: how much farther away the worst of them is than it may be, so that near-ties count
    as right.
    """
    out = np.asarray(out)[: len(right)]
    if row.kind not in INDICES:
        return float(np.abs(out.reshape(right.shape) - right).max() / np.abs(right).max())
    out = out.reshape(len(right), -1).astype(np.int64)
    if out.min() < 0 or out.max() >= right.shape[1] or any(len(set(r)) < len(r) for r in out):
        return math.inf
    found = np.take_along_axis(right, out, axis=1)
    best = np.sort(np.partition(right, out.shape[1], axis=1)[:, : out.shape[1]], axis=1)
    return float((found - best).max() / right.max())


def tolerance(dtype: str) -> float:
    """An error above this is a wrong answer, and is not compared.

    The sums have signed weights, so what cancels in them is in it.
    """
    return {"float32": 2e-4, "float64": 1e-11}[dtype]


# -- what a pair costs -----------------------------------------------------------------------------

DEGREE = {"float32": 6, "float64": 11}  # of the polynomial for exp2, for an error below 1 ulp


def fma_operations(row: Row, dtype: str) -> int | None:
    """Fused multiply-adds, or products, of a pair: D for distance or scores, degree + 1 for exp2
    (its scaling is one), E to sum.
    """
    exp2 = DEGREE[dtype] + 1
    of_kind = {
        "gaussian": exp2 + row.outputs,
        "gradient": exp2 + 1 + row.dim,
        "argmin": 0,
        "top10": 0,
        "logsumexp": exp2,
        "attention": exp2 + row.outputs,
    }
    return row.dim + of_kind[row.kind] if row.kind in of_kind else None


def port_operations(row: Row, dtype: str) -> int | None:
    """All vector operations of a pair, in the cheapest way known: for a distance D differences and
    D multiply-adds, or from D = 8 on D of the latter and two to add a norm and see that nothing
    cancelled; a remainder, a difference and degree + 1 multiply-adds for exp2; what the reduction
    compares, selects and adds.

    An Intel core of 512 bits does all of them on the two ports that do its fused multiply-adds.
    """
    exp2 = DEGREE[dtype] + 3
    distance = 2 * row.dim if row.dim < 8 else row.dim + 2
    of_kind = {
        "gaussian": distance + exp2 + row.outputs,
        "gradient": 2 * row.dim + exp2 + 1 + row.dim,
        "argmin": distance + 3,  # compare, and select the distance and the index
        "top10": distance + 1,  # compare with the tenth; what is inserted is not counted
        "logsumexp": row.dim + 2 + exp2 + 1,  # compare with the greatest, subtract it; add
        "attention": row.dim + 2 + exp2 + 1 + row.outputs,
    }
    return of_kind.get(row.kind)
