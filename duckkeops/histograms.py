"""Histograms of all entries, and counts of integers: one pass, and memory for the bins alone.

The bins are NumPy's own, made from the least and the greatest entry where no range is given.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from duckkeops import expr, ops, reductions, rewrite, statistics, views
from duckkeops.errors import DtypeError, UnsupportedError
from duckkeops.expr import BATCH, FEATURE, Node, Table
from duckkeops.genuine import dense, evaluated
from duckkeops.operands import constant, describe, node_of, on_host
from duckkeops.statistics import ROWS, axes_of

INT32, INT64, FLOAT64 = np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.float64)

# Widths of bins that need no more than size, range and deviation of the entries, as NumPy has them.
WIDTHS: dict[str, Callable[[Node, float], float]] = {
    "sqrt": lambda a, spread: spread / math.sqrt(_size(a)),
    "sturges": lambda a, spread: spread / (math.log2(_size(a)) + 1.0),
    "rice": lambda a, spread: spread / (2.0 * _size(a) ** (1.0 / 3)),
    "scott": lambda a, spread: (
        (24.0 * math.pi**0.5 / _size(a)) ** (1.0 / 3.0) * float(statistics.std(a))
    ),
}


def histogram(
    a: Any,
    bins: Any = 10,
    range: Any = None,
    density: Any = None,
    weights: Any = None,
    *,
    axis: Any = None,
) -> tuple[Any, Any]:
    """How many entries are in each bin, or the sum of their weights; and the edges of the bins.

    Shapes: (M, N), bins=B -> (B,), (B + 1,); with axis=1 a histogram for each row: (M, B). Weights
    broadcast against the entries. Bins are half-open, but for the last one.
    """
    node, weight = _real(node_of(a)), None if weights is None else node_of(weights)
    if not any(expr.is_virtual(n) for n in (node, weight) if n is not None) and axis is None:
        return np.histogram(dense(node), bins, range, density, _dense_weights(weight, node))
    if weight is not None:
        weight = _weights(weight, node)
    edges, uniform = _edges(node, bins, range, weight)
    count = _counted(node, weight, edges, "scale" if uniform else "search", axis)
    widths = constant(node, np.array(np.diff(edges), float))
    edges = constant(node, edges)
    if not density:
        return count, edges
    total = count.sum() if axis is None else count.sum(-1, keepdims=True)
    with np.errstate(all="ignore"):
        return count / widths / total, edges


def histogram_bin_edges(a: Any, bins: Any = 10, range: Any = None, weights: Any = None) -> Any:
    """The edges that `histogram` would use."""
    node = _real(node_of(a))
    if not expr.is_virtual(node):
        return np.histogram_bin_edges(dense(node), bins, range, weights)
    return constant(node, _edges(node, bins, range, weights)[0])


def bincount(x: Any, /, weights: Any = None, minlength: Any = 0) -> Any:
    """How often each of 0, 1, 2 ... occurs among all entries, or the sums of their weights.

    Shapes: (M, N) -> (B,), B being one more than the greatest entry, or `minlength` if that is
    more. Weights broadcast against the entries.
    """
    node, weight = node_of(x), None if weights is None else node_of(weights)
    if not any(expr.is_virtual(n) for n in (node, weight) if n is not None):
        given = _dense_weights(weight, node)
        flat = given if given is None else given.reshape(-1)
        return np.bincount(dense(node).reshape(-1), flat, minlength)
    if node.dtype.kind not in "biu":
        raise DtypeError(
            f"bincount counts whole numbers, and got d: {describe(node)}.\n"
            "  Convert them, d.astype(int), or count in bins with numpy.histogram(d, bins)."
        )
    if minlength is None:
        raise TypeError("use 0 instead of None for minlength")
    least = operator.index(minlength)
    if least < 0:
        raise ValueError("'minlength' must not be negative")
    if weight is not None:
        weight = _weights(weight, node)
        if weight.dtype.kind == "c":
            raise DtypeError(
                f"bincount takes real weights, and got {weight.dtype}.\n"
                "  Count with their real and their imaginary parts."
            )
    if node.dtype.kind == "b":
        node = ops.cast(node, np.dtype(np.uint8))
    bins = 0 if 0 in node.shape else int(statistics.max(node)) + 1
    if node.dtype.kind == "i" and bins and int(statistics.min(node)) < 0:
        raise ValueError("'list' argument must have no negative elements")
    edges = np.zeros(max(bins, least) + 1, INT32 if node.dtype.itemsize <= 2 else INT64)
    if node.dtype == INT32:
        edges = edges.astype(INT32)
    if 0 in node.shape:  # NumPy's dtype then, with weights too
        return np.zeros(len(edges) - 1, np.int64)
    return _counted(node, weight, edges, "position", None)


# -- bins ------------------------------------------------------------------------------------------


def _size(a: Node) -> int:
    return math.prod(a.shape)


def _real(a: Node) -> Node:
    """The entries as they are counted: booleans as 0 and 1, with NumPy's warning."""
    if a.dtype.kind == "c" and expr.is_virtual(a):
        raise DtypeError(
            f"a histogram orders real numbers, and got d: {describe(a)}.\n"
            "  Take d.abs() or d.real first."
        )
    if a.dtype == np.bool:
        warnings.warn(
            f"Converting input from {a.dtype} to {np.uint8} for compatibility.",
            RuntimeWarning,
            stacklevel=5,
        )
        return ops.cast(a, np.dtype(np.uint8))
    if a.dtype.name == "bfloat16":  # NumPy makes no edges of it
        return ops.cast(ops.rounded(a), np.dtype(np.float32))
    return a


def _edges(a: Node, bins: Any, range: Any, weights: Any) -> tuple[np.ndarray, bool]:
    """The edges, and whether the bins are equally wide. NumPy makes them, of the extremes alone."""
    kind = a.dtype
    if np.ndim(bins) or isinstance(bins, Node):
        array = on_host(dense(bins) if isinstance(bins, Node) else bins)
        return np.histogram_bin_edges(np.empty(0, kind), array, None), False
    probe = np.empty(0, kind)
    if range is None and 0 not in a.shape:
        probe = np.array([on_host(statistics.min(a)), on_host(statistics.max(a))]).astype(kind)
    if isinstance(bins, str):
        bins = _estimated(a, bins, range, weights, probe)
    return np.histogram_bin_edges(probe, bins, range), True


def _estimated(a: Node, name: str, range: Any, weights: Any, probe: np.ndarray) -> int:
    """The number of bins by one of NumPy's estimators."""
    if weights is not None:
        raise TypeError(
            "Automated estimation of the number of bins is not supported for weighted data"
        )
    if name not in WIDTHS or range is not None:
        np.histogram_bin_edges(probe[:0], name, range)  # raises for unknown names
        why = "reads entries within a range" if name in WIDTHS else "needs all entries in order"
        raise UnsupportedError(
            f"histogram(bins={name!r}) {why}, so it cannot take d: {describe(a)}.\n"
            "  Give the number of bins, as in bins=100, "
            f"or one of {', '.join(map(repr, WIDTHS))} without range=."
        )
    if not probe.size:
        return 1
    first, last = (float(v) for v in np.histogram_bin_edges(probe, 1))
    width = WIDTHS[name](a, float(probe[1]) - float(probe[0]))
    if a.dtype.kind in "iu" and 0 < width < 1:
        width = 1
    return int(np.ceil((last - first) / width)) if width else 1


# -- counts ----------------------------------------------------------------------------------------


def _weights(weight: Node, a: Node) -> Node:
    """Weights that broadcast to the entries."""
    try:
        fits = np.broadcast_shapes(weight.shape, a.shape) == a.shape
    except ValueError:
        fits = False
    if not fits or isinstance(weight.dtype, type):
        raise ValueError(
            "weights should have the same shape as a, or broadcast to it.\n"
            f"  a: {describe(a)}        weights: {describe(weight)}"
        )
    return weight


def _dense_weights(weight: Node | None, a: Node) -> Any:
    """The weight of each entry, of arrays that are not virtual."""
    return None if weight is None else np.broadcast_to(dense(_weights(weight, a)), a.shape)


def _counted(a: Node, weight: Node | None, edges: np.ndarray, how: str, axis: Any) -> Any:
    """The counts, in NumPy's dtype."""
    if weight is not None and weight.dtype.kind == "c":
        parts = [_counted(a, ops.call(part, weight), edges, how, axis) for part in ("real", "imag")]
        return (parts[0] + 1j * parts[1]).astype(weight.dtype)
    bins, axes = len(edges) - 1, axes_of(a, axis)
    if bins < 1:
        shape = tuple(n for k, n in enumerate(a.shape) if k not in axes)
        return np.zeros((*shape, 0), np.int64 if weight is None else weight.dtype)
    loop = _loop(a.dtype, edges.dtype, how)
    if how == "position":
        numbers = np.zeros(reductions.HEAD + 1, loop)
    else:
        numbers = reductions.bin_table(edges, loop, how == "scale")
    table = Table(constant(a, numbers), loop)
    args = _broadcast((a,) if weight is None else (a, ops.cast(weight, _weight_loop(weight))))
    kept = "".join(BATCH if r == FEATURE else r for r in args[0].roles)
    if axis is not None and kept != args[0].roles:  # a row for each feature
        axes_roles = "".join(r if k in axes else kept[k] for k, r in enumerate(args[0].roles))
        args = tuple(rewrite.retag(n, axes_roles) for n in args)
    node = reductions.reduce(ROWS["histogram"], (*args, table), axes, how=how, bins=bins)
    if axis is not None and not expr.is_evaluated(node):
        raise UnsupportedError(
            f"a histogram over axes {axes} of d: {describe(a)} leaves a virtual array.\n"
            "  Count over a point axis, and over all of them but one."
        )
    total = evaluated(node)
    if weight is None:
        return total
    wanted = np.dtype(weight.dtype)
    return total.astype(wanted if how != "position" else FLOAT64, copy=False)


def _loop(values: np.dtype, edges: np.dtype, how: str) -> np.dtype:
    """The dtype in which values meet edges: their own where it orders them as NumPy does."""
    values = reductions.computed(values)
    if values.kind == "f":
        return values
    if how == "position":
        return INT32 if edges == INT32 else INT64
    both = np.result_type(values, edges)
    if both.kind == "f" or how == "scale":
        return FLOAT64
    return INT64 if both.kind == "i" else np.dtype(np.uint64)


def _weight_loop(weight: Node) -> np.dtype:
    small = weight.dtype.kind == "f" and weight.dtype.itemsize <= 4
    return np.dtype(np.float32) if small or weight.dtype.name == "bfloat16" else FLOAT64


def _broadcast(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Nodes with as many axes as the first, of its roles where they have a length."""
    n, roles = nodes[0].ndim, nodes[0].roles
    out = [nodes[0]]
    for one in nodes[1:]:
        one = views.expand(one, range(n - one.ndim)) if one.ndim < n else one
        out.append(rewrite.retag(one, roles) if one.bare else one)
    return tuple(out)
