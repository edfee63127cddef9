"""Concatenated arrays, part by part: kernels know no concatenation.

A fold over a concatenated axis becomes a combination of folds over its parts; where else parts
meet, `cuts_along` says, and the reduction is evaluated between the cuts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from duckkeops import expr, ops, reductions, views
from duckkeops.errors import DtypeError
from duckkeops.expr import Apply, Broadcast, Concat, Node, Reduce, walk


def slice_of(node: Reduce, axis: int, start: int, stop: int) -> Reduce:
    args = tuple(_slice_node(a, axis - len(node.whole) + a.ndim, start, stop) for a in node.args)
    return Reduce(node.row, args, node.axes, node.dtype, node.params)


def _slice_node(node: Node, axis: int, start: int, stop: int) -> Node:
    if axis < 0 or node.shape[axis] == 1:
        return node
    entries = [
        views.axis(a, slice(start, stop) if a == axis else slice(None)) for a in range(node.ndim)
    ]
    return views.view(node, views.View(node.ndim, entries, {}))


def cuts_along(node: Node, axis: int, memo: dict | None = None) -> frozenset[int]:
    """Where along an axis (of the whole, for a reduction) concatenated parts meet."""
    memo = {} if memo is None else memo
    key = (id(node), axis)
    if key not in memo:
        out: set[int] = set()
        shape = node.whole if isinstance(node, Reduce) else node.shape
        if isinstance(node, Concat) and axis == node.axis:
            at = 0
            for a in node.args:
                out |= {at + c for c in cuts_along(a, axis, memo)} | {at}
                at += a.shape[axis]
            out.discard(0)
        else:
            for a in node.args:
                k = axis - len(shape) + a.ndim
                if k >= 0 and a.shape[k] != 1:
                    if isinstance(a, Reduce):
                        k = [m for m in range(len(a.whole)) if m not in a.axes][k]
                    out |= cuts_along(a, k, memo)
        memo[key] = frozenset(out)
    return memo[key]


def without_cut_folds(root: Node) -> Node:
    """Folds over a concatenated axis become combined folds over its parts."""
    done: dict[int, Node] = {}
    for n in walk(root):
        args = tuple(done[id(a)] for a in n.args)
        new = n if all(a is b for a, b in zip(args, n.args, strict=True)) else _rebuilt(n, args)
        if isinstance(new, Reduce) and n is not root:
            new = _split_fold(new)
        done[id(n)] = new
    return done[id(root)]


def _rebuilt(node: Node, args: tuple[Node, ...]) -> Node:
    if isinstance(node, Apply):
        return Apply(node.op, args, node.loop, node.dtype, node.params)
    if isinstance(node, Reduce):
        return Reduce(node.row, args, node.axes, node.dtype, node.params)
    if isinstance(node, Concat):
        return Concat(args, node.axis, node.dtype)
    if isinstance(node, Broadcast):
        return Broadcast(args[0], node.shape)
    raise AssertionError(type(node))


JOINED = {
    "sum": "add",
    "prod": "multiply",
    "min": "minimum",
    "max": "maximum",
    "any": "logical_or",
    "all": "logical_and",
}


def _split_fold(node: Reduce) -> Node:
    for _place, axis in enumerate(node.axes):
        cuts = sorted(cuts_along(node, axis))
        if not cuts:
            continue
        bounds = [0, *cuts, node.whole[axis]]
        parts = [_split_fold(slice_of(node, axis, a, b)) for a, b in itertools.pairwise(bounds)]
        if node.row.name in JOINED:
            out = parts[0]
            for p in parts[1:]:
                out = ops.call(JOINED[node.row.name], out, p)
            return expr.cast_to(out, node.dtype)
        if len(node.axes) > 1:
            raise DtypeError(
                f"{node.row.name} over several axes of which one is concatenated "
                "is not supported.\n  Reduce one axis at a time."
            )
        return _split_position(node, axis, bounds, parts)
    return node


def _split_position(node: Reduce, axis: int, bounds: Sequence[int], parts: list[Node]) -> Node:
    """argmin of parts: the position in the first part whose extreme no later one beats."""
    least = node.row.name == "argmin"
    extreme = reductions.BY_NAME["min" if least else "max"]
    best: Node | None = None
    at: Node | None = None
    for start, stop, part in zip(bounds, bounds[1:], parts, strict=False):
        value = reductions.reduce(extreme, slice_of(node, axis, start, stop).args, (axis,))
        part = ops.call("add", part, start) if start else part
        if best is None or at is None:
            best, at = value, part
            continue
        better = ops.call("less" if least else "greater", value, best)
        if value.dtype.kind == "f":
            nan = ops.call(
                "logical_and",
                ops.call("isnan", value),
                ops.call("logical_not", ops.call("isnan", best)),
            )
            better = ops.call("logical_or", better, nan)
        at, best = ops.call("where", better, part, at), ops.call("where", better, value, best)
    assert at is not None
    return at
