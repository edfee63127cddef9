"""Quantiles over point axes, without sorting: how many entries are at most t is a reduction, and
a search for t, four bits of it a pass, ends at an entry of the array.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from duckkeops import expr, ops, reductions, statistics, views
from duckkeops.expr import FEATURE, Input, Node
from duckkeops.genuine import dense, plain
from duckkeops.indexing import written
from duckkeops.operands import constant, node_of, on_host, unsupported
from duckkeops.restriction import is_restricted
from duckkeops.statistics import Axis, axes_of

CUTS = 16  # a pass over the pairs leaves one of so many parts of the range of t


def smallest(a: Node, axes: tuple[int, ...], ranks: np.ndarray) -> np.ndarray:
    """The entries of these ranks over `axes`, the least being of rank 0; NaN comes last.

    Shapes: `ranks` is (R, ...) for the axes left, of length 1 or not; so is the result. The entries
    of one expression are computed anew in every pass, some 16 times for float64.
    """
    kept = tuple(n for k, n in enumerate(a.shape) if k not in axes)
    ranks = np.broadcast_to(ranks, (len(ranks), *kept))
    lower, upper = (np.full(ranks.shape, _to_key(x)) for x in _ends(a.dtype))
    part = np.arange(1, CUTS, dtype=np.uint64).reshape(-1, *[1] * ranks.ndim)
    while np.any(lower < upper):  # the key wanted is at least `lower`, and at most `upper`
        whole, rest = np.divmod(upper - lower, np.uint64(CUTS))
        cuts = lower + whole * part + rest * part // np.uint64(CUTS)
        enough = _counts(a, axes, _from_key(cuts, a.dtype)) > ranks
        place = np.where(enough.any(0), enough.argmax(0), CUTS - 1)[None]
        above, below = np.concatenate([cuts, upper[None]]), np.concatenate([lower[None], cuts + 1])
        upper = np.take_along_axis(above, place, 0)[0]
        lower = np.minimum(np.take_along_axis(below, place, 0)[0], upper)
    return _from_key(upper, a.dtype)


def _counts(a: Node, axes: tuple[int, ...], cuts: np.ndarray) -> np.ndarray:
    """How many entries over `axes` are at most each cut; cuts and result are (C, R, ...)."""
    shape = cuts.shape
    flat = np.moveaxis(cuts.reshape(-1, *shape[2:]), 0, -1)
    flat = np.expand_dims(flat, axes)
    roles = "".join(expr.NEUTRAL if flat.shape[k] == 1 else r for k, r in enumerate(a.roles))
    t = Input(constant(a, np.ascontiguousarray(flat)), flat.dtype, roles + FEATURE)
    below = ops.call("less_equal", views.expand(a, (a.ndim,)), t)
    counts = on_host(statistics.sum(below, axes))
    return np.moveaxis(counts, -1, 0).reshape(shape)


def _ends(dtype: np.dtype) -> tuple[Any, Any]:
    """The least and the greatest number of a dtype."""
    if dtype.kind == "f":
        return np.array(-np.inf, dtype), np.array(np.inf, dtype)
    info = np.iinfo(dtype)
    return np.array(info.min, dtype), np.array(info.max, dtype)


_HALF = np.uint64(1 << 63)


def _to_key(x: np.ndarray) -> np.uint64:
    """A number as an unsigned integer, in the same order."""
    if x.dtype.kind == "u":
        return np.uint64(x)
    if x.dtype.kind == "i":
        return np.int64(x).view(np.uint64) ^ _HALF
    bits = np.int64(x.view(f"i{x.dtype.itemsize}"))
    return (bits if bits >= 0 else _mirrored(x.dtype) - bits).view(np.uint64) ^ _HALF


def _from_key(key: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "u":
        return key.astype(dtype)
    k = (key ^ _HALF).view(np.int64)
    if dtype.kind == "i":
        return k.astype(dtype)
    bits = np.where(k < 0, _mirrored(dtype) - k, k).astype(f"i{dtype.itemsize}")
    return bits.view(dtype)


def _mirrored(dtype: np.dtype) -> np.int64:
    """Bits of -0.0; a negative float of these bits plus m is the m-th below 0."""
    return np.int64(np.iinfo(f"i{dtype.itemsize}").min)


# -- NumPy's functions -----------------------------------------------------------------------------


def quantile(
    a: Any,
    q: Any,
    axis: Axis = None,
    out: Any = None,
    overwrite_input: bool = False,
    method: str = "linear",
    keepdims: bool = False,
    *,
    weights: Any = None,
) -> Any:
    """The q-th quantiles over point axes, by any of NumPy's methods."""
    return _function("quantile", a, q, axis, out, method, keepdims, weights, 1.0, False)


def percentile(
    a: Any,
    q: Any,
    axis: Axis = None,
    out: Any = None,
    overwrite_input: bool = False,
    method: str = "linear",
    keepdims: bool = False,
    *,
    weights: Any = None,
) -> Any:
    """The q-th percentiles over point axes, by any of NumPy's methods."""
    return _function("percentile", a, q, axis, out, method, keepdims, weights, 100.0, False)


def median(
    a: Any,
    axis: Axis = None,
    out: Any = None,
    overwrite_input: bool = False,
    keepdims: bool = False,
) -> Any:
    """The middle entry over point axes, or the mean of the two in the middle."""
    return _function("median", a, None, axis, out, "linear", keepdims, None, 1.0, False)


def nanquantile(
    a: Any,
    q: Any,
    axis: Axis = None,
    out: Any = None,
    overwrite_input: bool = False,
    method: str = "linear",
    keepdims: Any = statistics.MISSING,
    *,
    weights: Any = None,
) -> Any:
    """The q-th quantiles of the entries that are not NaN."""
    return _function("nanquantile", a, q, axis, out, method, keepdims, weights, 1.0, True)


def nanpercentile(
    a: Any,
    q: Any,
    axis: Axis = None,
    out: Any = None,
    overwrite_input: bool = False,
    method: str = "linear",
    keepdims: Any = statistics.MISSING,
    *,
    weights: Any = None,
) -> Any:
    """The q-th percentiles of the entries that are not NaN."""
    return _function("nanpercentile", a, q, axis, out, method, keepdims, weights, 100.0, True)


def nanmedian(
    a: Any,
    axis: Axis = None,
    out: Any = None,
    overwrite_input: bool = False,
    keepdims: Any = statistics.MISSING,
) -> Any:
    """The middle of the entries that are not NaN."""
    return _function("nanmedian", a, None, axis, out, "linear", keepdims, None, 1.0, True)


def _function(
    what: str,
    a: Any,
    q: Any,
    axis: Axis,
    out: Any,
    method: str,
    keepdims: Any,
    weights: Any,
    whole: float,
    skip_nan: bool,
) -> Any:
    node = node_of(a)
    keep = keepdims is not statistics.MISSING and bool(keepdims)
    given = {} if q is None else {"method": method}
    arguments: tuple[Any, ...] = () if q is None else (_genuine(what, q),)
    if weights is not None:
        given["weights"] = _genuine(what, weights)
    if not expr.is_virtual(node):
        function = getattr(np, what)
        return function(dense(node), *arguments, axis=axis, out=out, keepdims=keep, **given)
    axes = axes_of(node, axis)
    if is_restricted(node):
        raise unsupported(
            f"numpy.{what} of a restricted array, whose rows have different numbers of pairs,", node
        )
    if weights is not None or node.dtype.kind == "c":
        kind = "with weights=" if weights is not None else f"of {node.dtype.name}"
        raise unsupported(
            f"numpy.{what} {kind}",
            node,
            "Quantiles without weights, of numbers that have an order, are computed.",
        )
    if not expr.is_evaluated(reductions.reduce(statistics.ROWS["sum"], (node,), axes)):
        raise unsupported(
            f"numpy.{what} over axes {axes}",
            node,
            "Name axes so that a point axis goes and the point axes left are those of one input: "
            f"{what}(d, axis=1).",
        )
    if skip_nan and q is not None and 0 in node.shape:  # for any q, as in NumPy
        value = np.nanmean(np.empty(node.shape, node.dtype), axis=axes, keepdims=keep)
        return value if out is None else written(out, value)
    if q is not None and 0 in [node.shape[k] for k in axes]:
        raise IndexError("cannot take a quantile of no entries: the axis has length 0.")
    dtype = _dtype(what, node.dtype, arguments, given)
    levels = np.asarray(0.5 if q is None else arguments[0], np.float64) / whole
    if not (np.all(levels >= 0) and np.all(levels <= 1)):
        word = "Percentiles must be in the range [0, 100]" if whole > 1 else ""
        raise ValueError(word or "Quantiles must be in the range [0, 1]")
    wide = np.dtype(np.uint8) if node.dtype.kind == "b" else reductions.computed(node.dtype)
    node = node if node.dtype == wide else ops.cast(ops.rounded(node), wide)
    value = _levels(node, axes, levels.reshape(-1), method, skip_nan, q is None, dtype)
    kept = tuple(1 if k in axes else n for k, n in enumerate(node.shape) if keep or k not in axes)
    value = plain(constant(node, value.reshape(levels.shape + kept)))
    return value if out is None else written(out, value)


def _genuine(what: str, x: Any) -> Any:
    if isinstance(x, Node):
        if expr.is_virtual(x):
            raise unsupported(f"numpy.{what} with a virtual q or weights", x)
        return on_host(dense(x))
    return x


def _dtype(what: str, dtype: np.dtype, arguments: Any, given: dict) -> np.dtype:
    """That of NumPy's own answer."""
    return getattr(np, what)(np.ones(2, dtype), *arguments, **given).dtype


def _levels(
    a: Node,
    axes: tuple[int, ...],
    levels: np.ndarray,
    method: str,
    skip_nan: bool,
    middle: bool,
    dtype: np.dtype,
) -> np.ndarray:
    """The quantiles at each level, (Q, ...)."""
    n = math.prod(a.shape[k] for k in axes)
    nans = np.zeros([m for k, m in enumerate(a.shape) if k not in axes], np.int64)
    if a.dtype.kind == "f":
        nans = on_host(statistics.sum(ops.call("isnan", a), axes))
    if (n == 0 or (skip_nan and np.any(nans == n))) and middle:
        word = "All-NaN slice encountered" if skip_nan else "Mean of empty slice"
        warnings.warn(word, RuntimeWarning, stacklevel=6)
    elif skip_nan and np.any(nans == n):
        warnings.warn("All-NaN slice encountered", RuntimeWarning, stacklevel=6)
    counts = n - nans if skip_nan else np.full(nans.shape, n)
    places = np.stack([_place(counts, q, method) for q in levels])  # (Q, ...)
    low = np.floor(places).astype(np.int64)
    high = np.ceil(places).astype(np.int64)
    ranks = np.clip(np.concatenate([low, high]), 0, np.maximum(counts - 1, 0))
    unique, back = _distinct(ranks)
    entries = smallest(a, axes, unique)[back]
    one, two = entries[: len(levels)], entries[len(levels) :]
    with np.errstate(all="ignore"):
        value = _between(one, two, places - low, dtype, middle)
    bad = (counts == 0) | ((nans > 0) & (not skip_nan))
    return np.where(bad, np.nan, value).astype(dtype) if np.any(bad) else value.astype(dtype)


def _place(counts: np.ndarray, q: float, method: str) -> np.ndarray:
    """Where in the sorted entries a quantile lies, as NumPy says for the entries 0, 1, 2, ..."""
    if method == "linear":
        return q * np.maximum(counts - 1, 0)
    own, back = np.unique(counts, return_inverse=True)
    at = [np.quantile(np.arange(max(n, 1), dtype=np.float64), q, method=method) for n in own]  # type: ignore[call-overload]
    return np.asarray(at, np.float64)[back].reshape(counts.shape)


def _distinct(ranks: np.ndarray) -> tuple[np.ndarray, Sequence[int]]:
    """The different rows, and where each row went."""
    rows: list[np.ndarray] = []
    back = []
    for r in ranks:
        same = next((k for k, other in enumerate(rows) if np.array_equal(r, other)), None)
        back.append(len(rows) if same is None else same)
        if same is None:
            rows.append(r)
    return np.stack(rows), back


def _between(
    one: np.ndarray, two: np.ndarray, part: np.ndarray, dtype: np.dtype, middle: bool
) -> np.ndarray:
    if dtype.kind in "biu":
        return one
    one, two = one.astype(dtype), two.astype(dtype)
    if middle:
        return np.mean(np.stack([one, two]), axis=0, dtype=dtype)
    part = part.astype(np.float64)
    step = two - one
    low, high = one + step * part, two - step * (1 - part)
    return np.where(part == 0, one, np.where(part >= 0.5, high, low))
