"""Nodes rebuilt with one thing changed: other arguments, other roles, axes split and merged.

Softmax is one node until `settle` replaces it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from duckkeops import expr, reductions, views
from duckkeops.errors import ShapeError
from duckkeops.expr import (
    FEATURE,
    NEUTRAL,
    POINT,
    Apply,
    Broadcast,
    Concat,
    Input,
    Node,
    Reduce,
    Restricted,
    Scalar,
    Table,
    Vjp,
)
from duckkeops.operands import namespace_of
from duckkeops.ops import call

LOGSUMEXP = reductions.BY_NAME["logsumexp"]


class Softmax(Node):
    """exp(args[0]) over its own sum along `axes`, kept whole so that a weighted sum over them is
    one pass.

    No engine sees it: `settle` replaces it before anything is computed.
    """

    __slots__ = ("axes",)

    def __init__(self, scores: Node, axes: tuple[int, ...], dtype: np.dtype):
        self._args, self.axes = (scores,), axes
        self.outline = expr.outline(
            Softmax, scores.shape, dtype, scores.roles, scores.spans, scores.bare, pending=True
        )


def unfused(node: Softmax) -> Node:
    """The same as exp(scores - logsumexp(scores)), nothing computed yet."""
    (scores,) = node.args
    total = views.expand(reductions.reduce(LOGSUMEXP, (scores,), node.axes), node.axes)
    return call("exp", call("subtract", scores, total))


def _view_softmax(node: Softmax, how: views.View, memo: dict) -> Node:
    """A view that keeps the axes of the sum whole leaves a Softmax."""
    places = {e[0][0]: k for k, e in enumerate(how.entries) if e is not None and _is_whole(e)}
    if all(a in places for a in node.axes):
        return Softmax(
            views.view(node.args[0], how), tuple(places[a] for a in node.axes), node.dtype
        )
    return views.view(unfused(node), how)


def _is_whole(entry: views.Entry) -> bool:
    axes, (select, *_) = entry
    return len(axes) == 1 and isinstance(select, slice) and select == views.ALL


views.set_view(Softmax, _view_softmax)


def is_pending(node: Node) -> bool:
    """Does anything in here have to be computed first: a Softmax, or a reduction that is no
    fold?
    """
    return node.outline.pending


def settle(node: Node, evaluate: Callable[[Reduce], Any] | None) -> Node:
    """`node` without Softmax: each inner logsumexp has become an input, or folds where it must stay
    lazy.

    Without `evaluate` nothing is computed, and all become folds.
    """
    if not is_pending(node):
        return node
    done: dict[int, Node] = {}
    for one in list(expr.walk(node)):
        if type(one) is Softmax:
            one_done = settle(
                unfused(Softmax(done[id(one.args[0])], one.axes, one.dtype)), evaluate
            )
        else:
            one_done = rebuild(one, [done[id(a)] for a in one.args])
        if type(one_done) is Reduce and one_done.row is LOGSUMEXP:
            one_done = _computed(one_done, evaluate)
        done[id(one)] = one_done
    return done[id(node)]


def _computed(node: Reduce, evaluate: Callable[[Reduce], Any] | None) -> Node:
    if evaluate is not None and expr.is_evaluated(node):
        return Input(evaluate(node), node.dtype, node.roles)
    return expr.cast_to(node.row.lazy(node.args, node.axes, node.params), node.dtype)


def rebuild(node: Node, args: Sequence[Node]) -> Node:
    """`node` with other arguments of the same shapes."""
    if all(a is b for a, b in zip(args, node.args, strict=True)):
        return node
    match node:
        case Apply():
            return Apply(node.op, tuple(args), node.loop, node.dtype, node.params)
        case Reduce():
            return Reduce(node.row, tuple(args), node.axes, node.dtype, node.params)
        case Concat():
            return Concat(tuple(args), node.axis, node.dtype)
        case Broadcast():
            return Broadcast(args[0], node.shape, node.roles)
        case Softmax():
            return Softmax(args[0], node.axes, node.dtype)
        case Restricted():
            return Restricted(args[0], node.kept, node.axes)
    raise AssertionError(type(node))


def with_inputs(node: Node, new: Callable[[Input], Input]) -> Node:
    """`node` with what `new` says for each of its inputs; shapes may not change."""
    done: dict[int, Node] = {}
    for one in expr.walk(node):
        args = [done[id(a)] for a in one.args]
        if isinstance(one, Input):
            done[id(one)] = new(one)
        elif isinstance(one, Vjp):
            wrt = done[id(one.wrt)]
            done[id(one)] = Vjp(args[0], args[1], wrt, one.place, one.summed)  # type: ignore[arg-type]
        else:
            done[id(one)] = rebuild(one, args)
    return done[id(node)]


def with_arrays(node: Node, change: Callable[[Any], Any]) -> Node:
    """The same expression of what `change` gives for each of its arrays."""

    def changed(one: Input) -> Input:
        array = change(one.source)
        if array is one.source:
            return one
        if isinstance(one, Table):
            return Table(array, one.dtype)
        return Input(array, one.dtype, one.roles, one.bare, one.order)

    return with_inputs(node, changed)


# -- roles -----------------------------------------------------------------------------------------


def retag(node: Node, roles: str) -> Node:
    """`node` with these roles, whatever its inputs said."""
    if node.roles == roles and not node.bare:
        return node
    return views.view(
        node, views.View(node.ndim, [views.axis(a) for a in range(node.ndim)], {}, roles)
    )


def _leading(node: Node, ndim: int) -> Node:
    """With leading axes of length 1, up to this number of axes."""
    return (
        node
        if node.ndim == ndim or isinstance(node, Scalar)
        else views.expand(node, range(ndim - node.ndim))
    )


# -- axes split and merged -------------------------------------------------------------------------


class Group(NamedTuple):
    """Axes of some lengths that become axes of other lengths, of the same product."""

    old: tuple[int, ...]
    new: tuple[int, ...]
    features: bool = (
        False  # features only, so that an input that lacks some of them may be repeated to all
    )


def reshape(node: Node, shape: Sequence[int]) -> Node:
    """`node` in another shape: axes of length 1 come and go, an axis is split, feature axes are
    merged.

    Raises ValueError if the number of entries differs, ShapeError if axes are merged that no input
    holds together.
    """
    shape = _completed(node.shape, shape)
    if shape == node.shape:
        return node
    ones = [a for a, n in enumerate(node.shape) if n == 1]
    plain = views.squeeze(node, ones) if ones else node
    wanted = tuple(n for n in shape if n != 1)
    if plain.shape != wanted:
        plain = _regroup(plain, _groups(plain, node.shape, shape, wanted), {})
    places = [a for a, n in enumerate(shape) if n == 1]
    return views.expand(plain, places) if places else plain


def _completed(old: tuple[int, ...], new: Sequence[int]) -> tuple[int, ...]:
    """The shape with its -1 worked out."""
    size, known = math.prod(old), math.prod(n for n in new if n != -1)
    complete = tuple(size // known if n == -1 and known else n for n in new)
    if list(new).count(-1) > 1:
        raise ValueError("can only specify one unknown dimension")
    if math.prod(complete) != size or min(complete, default=0) < 0:
        raise ValueError(f"cannot reshape array of size {size} into shape {tuple(new)}")
    return complete


def _groups(plain: Node, shape: Any, wanted: Any, new: tuple[int, ...]) -> list[Group]:
    """The smallest runs of old and new axes with equal products.

    `plain` and `new` have no axes of length 1.
    """
    old = plain.shape
    if 0 in old:
        raise ShapeError(
            f"cannot reshape an empty lazy array of shape {shape} into {wanted}.\n"
            "  Reshape its inputs instead."
        )
    groups: list[Group] = []
    i = j = 0
    while i < len(old):
        a, b, start, first = old[i], new[j], i, j
        while a != b:
            if a < b:
                i += 1
                a *= old[i]
            else:
                j += 1
                b *= new[j]
        its = plain.roles[start : i + 1]
        groups.append(Group(old[start : i + 1], new[first : j + 1], set(its) == {FEATURE}))
        i, j = i + 1, j + 1
    return groups


def _regroup(node: Node, groups: list[Group], memo: dict) -> Node:
    """Split and merge axes of a node that has one axis for each in the groups."""
    if isinstance(node, Scalar):
        return node
    key = (id(node), tuple(groups))
    if key not in memo:
        memo[key] = (
            _REGROUP[type(node)](node, groups, memo),
            node,
        )  # the node too, so that its id stays taken
    return memo[key][0]


def _regroup_apply(node: Node, groups: list[Group], memo: dict) -> Node:
    return rebuild(node, [_regroup(_leading(a, node.ndim), groups, memo) for a in node.args])


def _regroup_broadcast(node: Broadcast, groups: list[Group], memo: dict) -> Node:
    roles = "".join(
        _role(r, len(g.new)) for r, g in zip(_runs(node.roles, groups), groups, strict=True)
    )
    shape = tuple(n for g in groups for n in g.new)
    if isinstance(node.args[0], Scalar):
        return Broadcast(node.args[0], shape, roles)
    return Broadcast(_regroup(_leading(node.args[0], node.ndim), groups, memo), shape, roles)


def _runs(roles: str, groups: list[Group]) -> list[str]:
    """The roles, cut as the groups are."""
    ends = np.cumsum([0] + [len(g.old) for g in groups]).tolist()
    return [roles[a:b] for a, b in itertools.pairwise(ends)]


def _role(its: str, times: int) -> str:
    """The roles of axes that come from axes with these."""
    one = (
        its[0]
        if len(set(its)) == 1
        else POINT
        if POINT in its
        else FEATURE
        if FEATURE in its
        else NEUTRAL
    )
    return one * times


def _regroup_reduce(node: Reduce, groups: list[Group], memo: dict) -> Node:
    n = len(node.whole)
    kept = [a for a in range(n) if a not in node.axes]
    groups = groups + [Group((node.whole[a],), (node.whole[a],)) for a in node.axes]
    args = [_leading(a, n) for a in node.args]
    args = [
        a
        if isinstance(a, Scalar)
        else _regroup(views.permute(a, [*kept, *node.axes]), groups, memo)
        for a in args
    ]
    m = max(a.ndim for a in args)
    return Reduce(
        node.row, tuple(args), tuple(range(m - len(node.axes), m)), node.dtype, node.params
    )


def _regroup_concat(node: Concat, groups: list[Group], memo: dict) -> Node:
    axis = _whole_axis(node.axis, groups)
    k = _group_of(node.axis, groups)
    if axis is None:  # the others first, and this one component by component
        whole = [Group((n,), (n,)) for n in groups[k].old]
        return views.reshape(
            _regroup(node, [*groups[:k], *whole, *groups[k + 1 :]], memo),
            tuple(n for g in groups for n in g.new),
        )
    lengths = [(a.shape[node.axis],) for a in node.args]
    parts = [
        _regroup(a, [*groups[:k], Group(n, n), *groups[k + 1 :]], memo)
        for a, n in zip(node.args, lengths, strict=True)
    ]
    return Concat(tuple(parts), axis, node.dtype)


def _regroup_softmax(node: Softmax, groups: list[Group], memo: dict) -> Node:
    axes = [_whole_axis(a, groups) for a in node.axes]
    if None in axes:
        return _regroup(unfused(node), groups, memo)
    return Softmax(
        _regroup(node.args[0], groups, memo), tuple(a for a in axes if a is not None), node.dtype
    )


def _regroup_restricted(node: Restricted, groups: list[Group], memo: dict) -> Node:
    row, column = (_whole_axis(a, groups) for a in node.axes)
    if row is None or column is None:
        raise ShapeError(
            f"d: {node.shape} {node.dtype} is restricted to blocks of axes {node.axes}, which "
            "cannot be split or merged.\n  Reshape first, then restrict."
        )
    return Restricted(_regroup(node.args[0], groups, memo), node.kept, (row, column))


def _group_of(axis: int, groups: list[Group]) -> int:
    for k, g in enumerate(groups):
        axis -= len(g.old)
        if axis < 0:
            return k
    raise AssertionError(axis)


def _whole_axis(axis: int, groups: list[Group]) -> int | None:
    """Where an axis is afterwards, if it is neither split nor merged."""
    k = _group_of(axis, groups)
    return (
        sum(len(g.new) for g in groups[:k])
        if len(groups[k].old) == len(groups[k].new) == 1
        else None
    )


def _regroup_input(node: Input, groups: list[Group], memo: dict) -> Node:
    held: list[
        int
    ] = []  # the shape before: that of the input, but whole where feature axes are merged
    shape: list[int] = []
    roles = ""
    for (old, new, features), its in zip(groups, _runs(node.roles, groups), strict=True):
        have = node.shape[len(held) : len(held) + len(old)]
        alone = math.prod(have) == 1
        if not alone and have != old and not features:
            raise ShapeError(
                f"cannot merge axes of lengths {old} of a lazy array: "
                f"an input of shape {node.shape} has only some of them.\n"
                "  Only axes that the inputs hold together can be merged; "
                "concatenate or reshape the inputs instead."
            )
        held.extend(have if alone else old)
        shape.extend([1] * len(new) if alone else new)
        roles += _role(its, len(new))
    array, xp = node.array, namespace_of(node)
    if tuple(held) != node.shape:
        array = xp.broadcast_to(array, tuple(held))
    if shape != held:
        array = xp.reshape(array, tuple(shape))
    return Input(array, node.dtype, roles, node.bare)


_REGROUP: dict[type, Callable[[Any, list[Group], dict], Node]] = {
    Input: _regroup_input,
    Apply: _regroup_apply,
    Reduce: _regroup_reduce,
    Concat: _regroup_concat,
    Broadcast: _regroup_broadcast,
    Restricted: _regroup_restricted,
    Softmax: _regroup_softmax,
}
