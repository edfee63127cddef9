"""Each entry looked up in a short table, which is an ordinary array: one comparison for each of
its entries and pair, folded at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from duckkeops import genuine, ops, shapes, statistics, views
from duckkeops.expr import FEATURE, Input, Node
from duckkeops.operands import constant, unsupported

LONGEST = 4096  # entries of a table; each of them is compared with every pair


def _table(what: str, like: Node, values: np.ndarray) -> Input:
    """A vector along a last feature axis, to be compared with each entry."""
    if len(values) > LONGEST:
        raise unsupported(
            f"numpy.{what} with a table of {len(values)} entries",
            like,
            f"Every pair is compared with each of them; tables of up to {LONGEST} are taken.",
        )
    return Input(constant(like, values), values.dtype, FEATURE)


def _before(x: Node) -> Node:
    """The entries, with an axis for the table behind the others."""
    return views.expand(x, (x.ndim,))


def isin(
    element: Any,
    test_elements: Any,
    assume_unique: bool = False,
    invert: bool = False,
    *,
    kind: str | None = None,
) -> Any:
    """Is each entry one of these?"""
    if kind not in (None, "sort", "table"):
        raise ValueError(f"Invalid kind: '{kind}'. Please use None, 'sort' or 'table'.")
    table = np.asarray(genuine.table("numpy.isin", "test_elements", test_elements)).reshape(-1)
    if not isinstance(element, Node):
        return np.isin(element, table, assume_unique, invert, kind=kind)  # type: ignore[arg-type]
    x = element
    if not len(table):
        return shapes.full_like(x, invert, bool)
    equal = ops.call("equal", _before(x), _table("isin", x, np.unique(table)))
    found = statistics.any(equal, -1)
    return ops.call("logical_not", found) if invert else found


def searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None) -> Any:
    """How many entries of the sorted vector `a` are below each entry of `v` (or not above it, on
    the right side).
    """
    if side not in ("left", "right"):
        raise ValueError(f"side must be 'left' or 'right' (got {side!r})")
    table = np.asarray(genuine.table("numpy.searchsorted", "a", a))
    if table.ndim != 1:
        raise ValueError("object too deep for desired array")
    if sorter is not None:
        table = table[np.asarray(genuine.table("numpy.searchsorted", "sorter", sorter))]
    if not isinstance(v, Node):
        return np.searchsorted(table, v, side)  # type: ignore[arg-type]
    return _searched("searchsorted", table, v, side)


def _searched(what: str, table: np.ndarray, x: Node, side: str) -> Any:
    if not len(table):
        return shapes.full_like(x, 0, np.int64)
    compare = "less" if side == "left" else "less_equal"
    count = statistics.count_nonzero(ops.call(compare, _table(what, x, table), _before(x)), -1)
    if x.dtype.kind != "f":
        return count
    numbers = len(table) - (np.isnan(table).sum() if table.dtype.kind == "f" else 0)
    last = numbers if side == "left" else len(table)  # NaN comes after all numbers
    return ops.call("where", ops.call("isnan", x), int(last), count)


def digitize(x: Any, bins: Any, right: bool = False) -> Any:
    """The bin of each entry: how many edges are below it."""
    edges = np.asarray(genuine.table("numpy.digitize", "bins", bins))
    rising = edges.ndim == 1 and _rising(edges)
    if edges.ndim != 1 or not _ordered(edges if rising else edges[::-1]):
        raise ValueError("bins must be monotonically increasing or decreasing")
    if not isinstance(x, Node):
        return np.digitize(x, edges, right)
    side = "left" if right else "right"
    if rising:
        return _searched("digitize", edges, x, side)
    found = _searched("digitize", edges[::-1], x, side)
    return ops.call("subtract", len(edges), found)


def _rising(edges: np.ndarray) -> bool:
    """Is the first step up? NumPy takes one to or from NaN as a step down."""
    steps = np.flatnonzero(edges[1:] != edges[:-1])
    return not len(steps) or bool(edges[steps[0]] < edges[steps[0] + 1])


def _ordered(edges: np.ndarray) -> bool:
    """Does no edge come before the one ahead of it? NaN comes last."""
    after, before = edges[1:], edges[:-1]  # differences of unsigned edges would wrap
    return bool(np.all((after >= before) | (after != after)))


def interp(
    x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None
) -> Any:
    """The piecewise linear function through the points (xp, fp), at each entry."""
    xp = np.asarray(genuine.table("numpy.interp", "xp", xp), np.float64)
    fp = np.asarray(genuine.table("numpy.interp", "fp", fp))
    if not isinstance(x, Node):
        return np.interp(x, xp, fp, left, right, period)
    fp = fp.astype(np.complex128 if np.iscomplexobj(fp) else np.float64)
    if xp.ndim != 1 or xp.shape != fp.shape:
        raise ValueError("fp and xp are not of the same length.")
    if not len(xp):
        raise ValueError("array of sample points is empty")
    x = ops.cast(ops.rounded(x), np.float64)
    if period is not None:
        xp, fp = _unrolled(xp, fp, period)
        x, left, right = ops.call("remainder", x, abs(period)), None, None
    ends = (fp[0] if left is None else left, fp[-1] if right is None else right)
    return _interpolated(x, xp, fp, *(fp.dtype.type(e) for e in ends))


def _unrolled(xp: np.ndarray, fp: np.ndarray, period: float) -> tuple[np.ndarray, np.ndarray]:
    """One period of the points in order, with its neighbours at both ends."""
    if period == 0:
        raise ValueError("period must be a non-zero value")
    period = abs(period)
    xp = xp % period
    order = np.argsort(xp)
    xp, fp = xp[order], fp[order]
    return (
        np.concatenate((xp[-1:] - period, xp, xp[0:1] + period)),
        np.concatenate((fp[-1:], fp, fp[0:1])),
    )


def _interpolated(x: Node, xp: np.ndarray, fp: np.ndarray, left: Any, right: Any) -> Any:
    def number(value: Any) -> Node:
        return shapes.full_scalar(x, value, fp.dtype)

    out: Any = number(fp[-1])
    if len(xp) > 1:
        columns = (xp[:-1], xp[1:], fp[:-1], fp[1:], _slopes(xp, fp))
        start, stop, value, end, slope = (_table("interp", x, t) for t in columns)
        at = _before(x)
        within = ops.call(
            "logical_and", ops.call("greater_equal", at, start), ops.call("less", at, stop)
        )
        line = _on_line(at, start, stop, value, end, slope)
        line = statistics.sum(ops.call("where", within, line, number(0)), -1)
        out = ops.call("where", ops.call("equal", x, float(xp[-1])), out, line)
    out = ops.call("where", ops.call("less", x, float(xp[0])), number(left), out)
    out = ops.call("where", ops.call("greater", x, float(xp[-1])), number(right), out)
    return ops.call("where", ops.call("isnan", x), number(np.nan), out) if len(xp) > 1 else out


def _on_line(at: Node, start: Node, stop: Node, value: Node, end: Node, slope: Node) -> Node:
    """The line from (start, value) to (stop, end) at a place; infinite as NumPy says."""
    before, after = (
        ops.call("add", ops.call("multiply", slope, ops.call("subtract", at, x)), y)
        for x, y in ((start, value), (stop, end))
    )
    flat = ops.call("logical_and", ops.call("isnan", after), ops.call("equal", value, end))
    after = ops.call("where", flat, value, after)
    line = ops.call("where", ops.call("isnan", before), after, before)
    return ops.call("where", ops.call("equal", at, start), value, line)


def _slopes(xp: np.ndarray, fp: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.diff(fp) / np.diff(xp)
