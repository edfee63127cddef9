"""Clouds cut into clusters, and pairs of clusters as KeOps's `ranges`.

NumPy arrays and torch tensors have the functions used here under the same names.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from duckkeops import DtypeError, ShapeError


def _xp(x: Any, *others: Any) -> Any:
    """The library of these arrays. Raises TypeError for arrays of both, and what is no array."""
    torch = sys.modules.get("torch")
    given = [a for a in (x, *others) if a is not None]
    if all(isinstance(a, np.ndarray) for a in given):
        return np
    if torch is not None and all(isinstance(a, torch.Tensor) for a in given):
        return torch
    raise TypeError(
        "functions of clusters take NumPy arrays alone, or torch tensors alone, and got "
        f"{', '.join(sorted({type(a).__name__ for a in given}))}."
    )


def _cast(x: Any, dtype: Any) -> Any:
    return x.astype(dtype) if isinstance(x, np.ndarray) else x.to(dtype)


def _is_whole(x: Any) -> bool:
    """Is it an array of integers?"""
    _xp(x)
    if isinstance(x, np.ndarray):
        return x.dtype.kind in "iu"
    return not (x.dtype.is_floating_point or x.dtype.is_complex or str(x.dtype) == "torch.bool")


def _is_float(x: Any) -> bool:
    return x.dtype.kind == "f" if isinstance(x, np.ndarray) else x.dtype.is_floating_point


def _labels(lab: Any) -> Any:
    """The labels, int64 of shape (M,). Raises what the public functions raise for others."""
    if not _is_whole(lab):
        raise DtypeError(f"labels are integers from 0, and are {lab.dtype}.")
    lab = _cast(lab.reshape(-1), _xp(lab).int64)
    if lab.shape[0] and int(lab.min()) < 0:
        raise ValueError(
            f"labels are integers from 0, and the least is {int(lab.min())}.\n"
            "  Number them: np.unique(lab, return_inverse=True)[1]."
        )
    return lab


def _points(x: Any, lab: Any = None, *others: Any) -> Any:
    _xp(x, lab, *others)
    if x.ndim != 2:
        raise ShapeError(f"points have the shape (M, D), and got {tuple(x.shape)}.")
    if "complex" in str(x.dtype):
        raise DtypeError(f"points are real, and have the dtype {x.dtype}: cut x.real and x.imag.")
    if lab is not None and lab.shape[0] != x.shape[0]:
        raise ShapeError(f"each point has a label, and got {lab.shape[0]} for {x.shape[0]} points.")
    return x


def _weights(weights: Any, lab: Any) -> Any:
    weights = weights.reshape(-1)
    if weights.shape[0] != lab.shape[0]:
        raise ShapeError(
            f"each point has a weight, and got {weights.shape[0]} for {lab.shape[0]} points."
        )
    return weights


def _ranges(ranges: Any, name: str) -> Any:
    if ranges.ndim != 2 or ranges.shape[1] != 2:
        raise ShapeError(
            f"{name} holds the first row and the one past the last of each cluster, of shape "
            f"(C, 2), and has {tuple(ranges.shape)}.\n  cluster_ranges(lab) makes it."
        )
    if not _is_whole(ranges):
        raise DtypeError(f"{name} holds integers, and has the dtype {ranges.dtype}.")
    return _cast(ranges, _xp(ranges).int64)


# -- labels ----------------------------------------------------------------------------------------


def cells(x: Any, size: Any, from_least: bool) -> Any:
    """The number of each point's cell among those that hold points, in the order of their
    coordinates, int64: points of x, (M, D), in cubes of side `size`, or boxes of sides (D,), from
    the origin, or the least coordinates.

    Raises ValueError for sides that are not positive, and points that are not finite.
    """
    x = _points(x)
    xp = _xp(x)
    sides = np.asarray(size if xp is np or not hasattr(size, "cpu") else size.detach().cpu())
    if sides.shape not in ((), (1,), (x.shape[1],)) or not (sides > 0).all():
        raise ValueError(f"the side of a cell is a positive number, or D of them, and is {size}.")
    places = xp.floor((x - xp.amin(x, 0) if from_least and len(x) else x) / size)
    if not bool(xp.isfinite(places).all()):
        raise ValueError(
            "a point of x is not finite, or has no cell: its coordinates over the side overflow."
        )
    lab = _cast(xp.zeros_like(places[:, :1]).sum(1), xp.int64)
    if not len(x):
        return lab
    places = _cast(places, xp.float64)
    places = places - xp.amin(places, 0) if x.shape[1] else places
    lengths = [1 + int(column.max()) for column in places.T]
    if math.prod(lengths) < 2**53:  # where differences of floats are exact, and numbers int64
        for length, column in zip(lengths, places.T, strict=True):
            lab = lab * length + _cast(column, xp.int64)
        return _ranked(lab, math.prod(lengths))
    for column in places.T:  # at most M numbers so far, times at most M of this column
        values, found = xp.unique(column, return_inverse=True)
        lab = xp.unique(lab * len(values) + found, return_inverse=True)[1]
    return lab


def _ranked(numbers: Any, count: int) -> Any:
    """The rank of each of these numbers, below `count`, among those there are."""
    xp = _xp(numbers)
    if count > 4 * len(numbers) + 1000:
        return xp.unique(numbers, return_inverse=True)[1]
    found = xp.bincount(numbers, minlength=count) > 0
    return (found.cumsum(0) - 1)[numbers]


def sort_clusters(x: Any, lab: Any) -> Any:
    """Points and labels, in the order of their labels; points of one cluster keep theirs.

    Shapes: x (M, ...), or a tuple or list of such arrays, and lab (M,) -> the same.
    Raises ShapeError where the lengths differ.

    >>> sort_clusters(np.array([[0.0], [5.0], [0.4]]), np.array([0, 2, 0]))
    (array([[0. ],
           [0.4],
           [5. ]]), array([0, 0, 2]))
    """
    several = isinstance(x, tuple | list)
    xp = _xp(lab, *(x if several else [x]))
    lab = lab.reshape(-1)
    for array in x if several else [x]:
        if array.shape[0] != lab.shape[0]:
            raise ShapeError(
                f"each point has a label, and got {lab.shape[0]} for {array.shape[0]} points."
            )
    order = xp.argsort(lab, stable=True)
    return (type(x)(array[order] for array in x) if several else x[order]), lab[order]


# -- what clusters have ----------------------------------------------------------------------------


def cluster_ranges(lab: Any, Nlab: Any = None) -> Any:
    """The first row and the one past the last of each cluster, once points are sorted by label.

    Shapes: lab (M,) -> (C, 2) int64, labels being 0 ... C - 1. Nlab, (C,), are numbers of points,
    where they are known. Raises DtypeError or ValueError for other labels.

    >>> cluster_ranges(np.array([0, 2, 0, 0, 1]))
    array([[0, 3],
           [3, 4],
           [4, 5]])
    """
    if Nlab is None:
        lab = _labels(lab)
        Nlab = _xp(lab).bincount(lab)
    xp = _xp(Nlab)
    ends = _cast(Nlab, xp.int64).cumsum(0)
    return xp.stack([ends - _cast(Nlab, xp.int64), ends], 1)


def _summed(values: Any, lab: Any, count: int) -> Any:
    """Sums (C, D) of the rows (M, D) of each cluster, in double precision; differentiable."""
    xp = _xp(values)
    total = xp.zeros((count, values.shape[1]), **_like(_cast(values[:0], xp.float64)))
    if xp is np:
        for d, column in enumerate(values.T):
            total[:, d] = np.bincount(lab, column, count)
        return total
    return total.index_add(0, lab, _cast(values, xp.float64))


def _like(x: Any) -> dict[str, Any]:
    """The dtype of an array, and the device of a tensor."""
    return {"dtype": x.dtype} if isinstance(x, np.ndarray) else dict(dtype=x.dtype, device=x.device)


def _real(x: Any, least_bytes: int = 2) -> Any:
    """The dtype of means or sums of x: float64 of integers."""
    if not _is_float(x):
        return _xp(x).float64
    return x.dtype if x.dtype.itemsize >= least_bytes else _xp(x).float32


def _masses(x: Any, lab: Any, weights: Any, count: int) -> Any:
    """The total weight of each cluster, (C, 1) in double precision."""
    xp = _xp(x)
    if weights is None:
        return _cast(xp.bincount(lab, minlength=count)[:, None], xp.float64)
    return _summed(_weights(weights, lab)[:, None], lab, count)


def cluster_centroids(
    x: Any, lab: Any, Nlab: Any = None, weights: Any = None, weights_c: Any = None
) -> Any:
    """The mean of each cluster's points, weighted or not; NaN where it has none.

    Shapes: x (M, D), lab (M,), weights (M,) -> (C, D) of x's dtype, float64 for integers. Nlab and
    weights_c, (C,), are numbers of points and total weights, where they are known. Sums are taken
    in double precision, and gradients pass through points and weights.
    Raises ShapeError where the lengths differ, DtypeError or ValueError for other labels.

    >>> x, w = np.array([[0.0], [1.0], [4.0], [6.0]]), np.array([0.5, 0.5, 3.0, 1.0])
    >>> cluster_centroids(x, np.array([0, 0, 1, 1]), weights=w)
    array([[0.5],
           [4.5]])
    """
    lab = _labels(lab)
    x = _points(x, lab, Nlab, weights, weights_c)
    known = Nlab if weights is None else weights_c
    count = 1 + int(lab.max()) if lab.shape[0] else 0
    for given in (Nlab, weights_c):
        count = count if given is None else max(count, given.reshape(-1).shape[0])
    mass = _masses(x, lab, weights, count) if known is None else known.reshape(-1, 1)
    rows = x if weights is None else _cast(x, _xp(x).float64) * _weights(weights, lab)[:, None]
    with np.errstate(invalid="ignore"):
        return _cast(_summed(rows, lab, count) / mass, _real(x))


def cluster_ranges_centroids(x: Any, lab: Any, weights: Any, min_weight: float | None) -> Any:
    """Ranges, centroids and total weights of clusters: those of KeOps's function of this name."""
    lab = _labels(lab)
    x = _points(x, lab, weights)
    if weights is not None:
        weights = _weights(weights, lab)
        weights = weights if min_weight is None else weights.clip(min_weight)
    ranges = cluster_ranges(lab)
    mass = _masses(x, lab, weights, len(ranges))
    centroids = cluster_centroids(x, lab, mass, weights, mass)
    return ranges, centroids, _cast(mass[:, 0], _real(x if weights is None else weights, 4))


# -- pairs of clusters -----------------------------------------------------------------------------


def from_matrix(ranges_i: Any, ranges_j: Any, keep: Any) -> tuple[Any, ...]:
    """The pairs of clusters that a boolean matrix keeps, as KeOps's `ranges`.

    Shapes: ranges_i (C, 2), ranges_j (E, 2), keep (C, E) of booleans, or integers with 0 for False
    -> (ranges_i, slices_i, redranges_j, ranges_j, slices_j, redranges_i), all int64. Rows of
    cluster k meet the intervals redranges_j[slices_i[k - 1] : slices_i[k]] of j, and so on with i
    and j swapped. Raises ShapeError or DtypeError for others.

    >>> i, j = np.array([[2, 5], [7, 12]]), np.array([[1, 4], [4, 9], [20, 30]])
    >>> found = from_matrix(i, j, np.array([[True, True, False], [False, True, False]]))
    >>> found[1], found[4]
    (array([2, 3]), array([1, 3, 3]))
    >>> found[2]
    array([[1, 4],
           [4, 9],
           [4, 9]])
    """
    ranges_i, ranges_j = _ranges(ranges_i, "ranges_i"), _ranges(ranges_j, "ranges_j")
    xp = _xp(keep, ranges_i, ranges_j)
    if tuple(keep.shape) != (len(ranges_i), len(ranges_j)):
        raise ShapeError(
            f"keep has an entry for each pair of clusters, ({len(ranges_i)}, {len(ranges_j)}), and "
            f"has the shape {tuple(keep.shape)}."
        )
    if str(keep.dtype).rpartition(".")[2] != "bool":
        if not _is_whole(keep):
            raise DtypeError(f"keep holds booleans, and has the dtype {keep.dtype}: compare it.")
        keep = keep != 0
    halves = []
    for ranges, others, kept in ((ranges_i, ranges_j, keep), (ranges_j, ranges_i, keep.T)):
        slices = _cast(kept.sum(1).cumsum(0), xp.int64)
        halves += [ranges, slices, others[xp.where(kept)[1]]]
    return tuple(halves)


def swap_axes(ranges: Sequence[Any] | None) -> tuple[Any, ...] | None:
    """The `ranges` of the transposed pairs; None stays None.

    >>> swap_axes((1, 2, 3, 4, 5, 6))
    (4, 5, 6, 1, 2, 3)
    """
    if ranges is None:
        return None
    if len(ranges) != 6:
        raise ValueError(f"ranges= are six arrays, and got {len(ranges)}: from_matrix makes them.")
    return (*ranges[3:], *ranges[:3])
