"""Concatenated arrays, part by part: kernels know no concatenation.

A fold over a concatenated axis becomes a combination of folds over its parts; where else parts
meet, `cuts_along` says, and the reduction is evaluated between the cuts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from duckkeops import expr, gradients, ops, reductions, views
from duckkeops.errors import DtypeError
from duckkeops.expr import Concat, Input, Node, Reduce, walk
from duckkeops.operands import constant, input_of
from duckkeops.rewrite import rebuild, with_inputs


def slice_of(node: Reduce, axis: int, start: int, stop: int) -> Reduce:
    """The reduction of the entries start ... stop - 1 along an axis of the whole.

    A top-k of fewer than k entries has them all.
    """
    args = tuple(_slice_node(a, axis - len(node.whole) + a.ndim, start, stop) for a in node.args)
    params = node.params
    if node.row.name == "topk" and axis in node.axes:
        lengths = (stop - start if a == axis else node.whole[a] for a in node.axes)
        most = math.prod(lengths)
        params = tuple((n, min(v, most) if n == "k" else v) for n, v in params)
    return Reduce(node.row, args, node.axes, node.dtype, params)


def _slice_node(node: Node, axis: int, start: int, stop: int) -> Node:
    if axis < 0 or node.shape[axis] == 1:
        return node
    entries = [
        views.axis(a, slice(start, stop) if a == axis else slice(None)) for a in range(node.ndim)
    ]
    return views.view(node, views.View(node.ndim, entries, {}))


def cuts_along(node: Node, axis: int, memo: dict | None = None) -> frozenset[int]:
    """Where along an axis (of the whole, for a reduction) concatenated parts meet."""
    memo = {} if memo is None else memo  # by the id of a node that is alive while this runs
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


class Cut(NamedTuple):
    """A reduction taken apart along an axis of its whole: part n begins at bounds[n]."""

    axis: int
    bounds: list[int]
    parts: list[Reduce]


def cut(node: Reduce) -> Cut | None:
    """The reduction cut along the first axis along which concatenated parts meet, if there is
    one.
    """
    memo: dict = {}
    for axis in range(len(node.whole)):
        cuts = sorted(cuts_along(node, axis, memo))
        if cuts:
            bounds = [0, *cuts, node.whole[axis]]
            pieces = [slice_of(node, axis, a, b) for a, b in itertools.pairwise(bounds)]
            return Cut(axis, bounds, pieces)
    return None


def blocks_of(node: Reduce) -> list[Reduce]:
    """The reductions without concatenation that make up this one."""
    found = cut(node := without_cut_folds(node))  # type: ignore[arg-type]
    return [node] if found is None else [b for p in found.parts for b in blocks_of(p)]


def lengths_along(node: Reduce, axis: int) -> list[int]:
    """The lengths of the blocks along an axis of the whole."""
    bounds = [0, *sorted(cuts_along(node, axis)), node.whole[axis]]
    return [b - a for a, b in itertools.pairwise(bounds)]


# -- picks -----------------------------------------------------------------------------------------

RUNS = 8  # of entries that lie in one block; up to so many, each may be a block of its own


def in_order(node: Node, axes: Sequence[int], picks: Sequence[np.ndarray]) -> np.ndarray | None:
    """The order of pointwise picks in which those of one block follow each other.

    None if they are in order as they are, or nearly so.
    """
    owner = np.zeros(len(picks[0]), np.intp)
    for a, pick in zip(axes, picks, strict=True):
        cuts = sorted(cuts_along(node, a))
        owner = owner * (len(cuts) + 1) + np.searchsorted(cuts, pick, side="right")
    return np.argsort(owner, kind="stable") if np.count_nonzero(np.diff(owner)) > RUNS else None


def taken(node: Node, axis: int, index: np.ndarray) -> Node | None:
    """node[index] along an axis, where that goes back and forth between blocks: a choice among the
    blocks, entry by entry. None if it does not.
    """
    cuts = sorted(cuts_along(node, axis))
    owner = np.searchsorted(cuts, index, side="right")
    if np.count_nonzero(np.diff(owner)) <= max(RUNS, 2 * len(cuts)):
        return None
    out: Node | None = None
    for n, start in enumerate((0, *cuts)):
        mine = owner == n
        if not mine.any():
            continue
        entries = [views.axis(a) for a in range(node.ndim)]
        entries[axis] = views.axis(axis, np.where(mine, index, start))
        piece = views.view(node, views.View(node.ndim, entries, {}))
        shape = [-1 if a == axis else 1 for a in range(node.ndim)]
        mask = input_of(constant(node, mine.reshape(shape)), bare=True)
        out = piece if out is None else ops.call("where", mask, piece, out)
    return out


# -- folds -----------------------------------------------------------------------------------------


def without_cut_folds(root: Node) -> Node:
    """Folds over a concatenated axis become combined folds over its parts."""
    done: dict[int, Node] = {}
    for n in walk(root):
        args = tuple(done[id(a)] for a in n.args)
        new = rebuild(n, args)
        if isinstance(new, Reduce) and n is not root:
            new = _split_fold(new)
        done[id(n)] = new
    return done[id(root)]


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


# -- gradients -------------------------------------------------------------------------------------


class Part(NamedTuple):
    """What a term adds to a part of the gradient: that of the entries in `box`."""

    box: tuple[slice, ...]
    term: gradients.Term
    wrt: Input


class _Places(np.ndarray):
    """The flat positions of an input's entries, which tell what is a slice of it."""


def gradient(value: Node, cotangent: Node, wrt: Input) -> list[Part]:
    """As gradients.gradient, of values of which parts may be concatenated: the terms of each block.

    Shapes: value and cotangent (..., M, N, E) broadcast. `total` adds the evaluated terms up.
    """
    positions = np.arange(math.prod(wrt.shape)).reshape(wrt.shape).view(_Places)
    marked = Input(positions, wrt.dtype, wrt.roles, wrt.bare)
    seen = with_inputs(value, lambda i: marked if i is wrt else i)
    axes = tuple(range(max(value.ndim, cotangent.ndim)))
    whole = Reduce(reductions.BY_NAME["sum"], (seen, cotangent), axes, value.dtype)
    out = []
    for block in blocks_of(whole):
        slices = [i for i in expr.inputs(block) if isinstance(i.array, _Places) and i.array.size]
        boxes = {id(i): _box(i.array, wrt.shape) for i in slices}
        own = {
            id(i): Input(wrt.array[(*boxes[id(i)], ...)], i.dtype, i.roles, i.bare) for i in slices
        }
        real = with_inputs(block, lambda i, own=own: own.get(id(i), i))
        v, g = real.args
        for i in slices:
            one = own[id(i)]
            out += [Part(boxes[id(i)], t, one) for t in gradients.gradient(v, g, one)]
    return out


def _box(positions: np.ndarray, shape: Sequence[int]) -> tuple[slice, ...]:
    """The box of an array of this shape that holds the entries at these flat positions."""
    first = np.unravel_index(int(positions.flat[0]), tuple(shape))
    return tuple(slice(int(k), int(k) + n) for k, n in zip(first, positions.shape, strict=True))


def total(xp: Any, terms: Sequence[Any], parts: Sequence[Part], wrt: Input) -> Any:
    """The gradient, of the shape of `wrt`, from the evaluated terms of `gradient`."""
    out: Any = xp.zeros(wrt.shape, dtype=wrt.array.dtype)
    for array, (box, term, one) in zip(terms, parts, strict=True):
        part = xp.reshape(xp.permute_dims(array, term.order), one.shape)
        out[(*box, ...)] = out[(*box, ...)] + part
    return out
