"""A reduction with one more batch axis in front: many problems of the same form as one."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from duckkeops import expr, ops, restriction, views
from duckkeops.errors import UnsupportedError
from duckkeops.expr import (
    BATCH,
    NEUTRAL,
    Apply,
    Broadcast,
    Concat,
    Input,
    Node,
    Reduce,
    Scalar,
    Vjp,
)


def batched(
    node: Reduce, leaves: Sequence[Input], arrays: Sequence[Any], dims: Sequence[int | None], n: int
) -> Reduce:
    """`node` where leaf k is arrays[k], whose axis dims[k] of length n is the batch (None: none).

    The result has the batch as axis 0. Other inputs stay as they are. Raises UnsupportedError for
    tables, such as the edges of a histogram.
    """
    new: dict[int, tuple[Any, str]] = {}
    for leaf, array, dim in zip(leaves, arrays, dims, strict=True):
        if type(leaf) is not Input:
            raise UnsupportedError(
                f"{node.row.name} looks its entries up in a table of shape {leaf.array.shape}, "
                "and cannot be batched.\n  Loop over the batch."
            )
        batch = dim is not None
        new[id(leaf)] = array.movedim(dim, 0) if batch else array[None], BATCH if batch else NEUTRAL
    out = _Batches(new)(node, node.ndim)
    if out.shape[0] == n:
        return out
    args = tuple(Broadcast(a, (n, *a.shape[1:]), BATCH + a.roles[1:]) for a in out.args)
    return Reduce(out.row, args, out.axes, out.dtype, out.params)  # nothing in it varies


class _Batches:
    """Nodes with the batch as their first axis, of length 1 where they do not vary along it.

    Axes line up from the right, so an input that meets longer nodes has axes of length 1 behind the
    batch: one variant of it for each number of axes that is needed.
    """

    def __init__(self, leaves: dict[int, tuple[Any, str]]):
        self.leaves = leaves
        self.done: dict[tuple[int, int], Any] = {}

    def __call__(self, node: Node, ndim: int) -> Any:
        """The batched node, with `ndim` axes besides the batch."""
        if isinstance(node, Scalar):
            return node
        key = id(node), ndim
        if key not in self.done:
            self.done[key] = self._made(node, ndim)
        return self.done[key]

    def _made(self, node: Node, ndim: int) -> Node:
        extra = ndim - node.ndim

        def args(n: int) -> tuple[Any, ...]:
            return tuple(self(a, n + extra) for a in node.args)

        match node:
            case Input():
                return self._input(node, extra)
            case Apply():
                return Apply(node.op, args(node.ndim), node.loop, node.dtype, node.params)
            case Reduce():
                axes = tuple(a + extra + 1 for a in node.axes)
                params = restriction.shifted(node.params, extra + 1)
                return Reduce(node.row, args(len(node.whole)), axes, node.dtype, params)
            case Concat():
                return Concat(args(node.ndim), node.axis + extra + 1, node.dtype)
            case Broadcast():
                (arg,) = args(node.ndim)
                n, role = (1, NEUTRAL) if isinstance(arg, Scalar) else (arg.shape[0], arg.roles[0])
                shape = (n, *(1,) * extra, *node.shape)
                return Broadcast(arg, shape, role + NEUTRAL * extra + node.roles)
            case Vjp():
                value, cotangent = args(len(node.whole))
                return self._vjp(node, value, cotangent, extra)
        raise AssertionError(f"no batches of a {type(node).__name__}")

    def _input(self, node: Input, extra: int) -> Input:
        array, role = self.leaves.get(id(node), (None, ""))
        if array is None:
            return views.expand(node, range(extra + 1))  # type: ignore[return-value]
        shape = (array.shape[0], *(1,) * extra, *array.shape[1:])
        array = array.reshape(shape) if extra else array
        return Input(array, node.dtype, role + NEUTRAL * extra + node.roles, node.bare)

    def _vjp(self, node: Vjp, value: Node, cotangent: Node, extra: int) -> Node:
        """The sum over the variants of the input that stand in the value."""
        below = {id(n) for n in expr.walk(value)}
        batch = -(len(node.whole) + extra + 1)
        parts = []
        for (which, ndim), wrt in self.done.items():
            if which == id(node.wrt) and id(wrt) in below:
                first = None if wrt.shape[0] == 1 else batch
                ones = (None,) * (ndim - node.wrt.ndim)
                place = (first, *ones, *node.place)
                parts.append(Vjp(value, cotangent, wrt, place, node.summed))
        return functools.reduce(functools.partial(ops.call, "add"), parts)  # type: ignore[arg-type]
