"""A reduction with one more batch axis in front: many problems of the same form as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from duckkeops import expr, views
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

    The result has the batch as axis 0. Other inputs stay as they are.
    """
    new: dict[int, Input] = {}
    for leaf, array, dim in zip(leaves, arrays, dims, strict=True):
        if type(leaf) is not Input:
            raise AssertionError(f"a {type(leaf).__name__} has no batches")
        array = array[None] if dim is None else array.movedim(dim, 0)
        role = NEUTRAL if dim is None else BATCH
        new[id(leaf)] = Input(array, leaf.dtype, role + leaf.roles, leaf.bare)
    return _Batches(new, n)(node)  # type: ignore[return-value]


class _Batches:
    """Gives each node the batch as its first axis, of length 1 where it does not vary."""

    def __init__(self, leaves: dict[int, Input], n: int):
        self.leaves, self.n = leaves, n

    def __call__(self, root: Node) -> Node:
        done: dict[int, Node] = {}
        for one in expr.walk(root):
            done[id(one)] = self._node(one, [done[id(a)] for a in one.args], done)
        out = done[id(root)]
        if out.shape[0] != self.n:  # nothing in it varies
            whole = (self.n, *root.whole)  # type: ignore[attr-defined]
            args = [Broadcast(a, (self.n, *a.shape[1:]), BATCH + a.roles[1:]) for a in out.args[:1]]
            assert len(whole) > 0
            out = Reduce(out.row, (*args, *out.args[1:]), out.axes, out.dtype, out.params)  # type: ignore[attr-defined]
        return out

    def _node(self, one: Node, args: list[Node], done: dict[int, Node]) -> Node:
        if isinstance(one, Scalar):
            return one
        if isinstance(one, Input):
            found = self.leaves.get(id(one))
            return found if found is not None else views.expand(one, (0,))
        if isinstance(one, Apply):
            return Apply(one.op, self._aligned(one.ndim, args), one.loop, one.dtype, one.params)
        if isinstance(one, Reduce):
            axes = tuple(a + 1 for a in one.axes)
            return Reduce(one.row, self._aligned(len(one.whole), args), axes, one.dtype, one.params)
        if isinstance(one, Concat):
            return Concat(self._aligned(one.ndim, args), one.axis + 1, one.dtype)
        if isinstance(one, Broadcast):
            (arg,) = self._aligned(one.ndim, args)
            if isinstance(arg, Scalar):
                return Broadcast(arg, (1, *one.shape), NEUTRAL + one.roles)
            return Broadcast(arg, (arg.shape[0], *one.shape), arg.roles[0] + one.roles)
        if isinstance(one, Vjp):
            value, cotangent = self._aligned(len(one.whole), args)
            wrt: Any = done[id(one.wrt)]
            place = (None if wrt.shape[0] == 1 else -(len(one.whole) + 1), *one.place)
            return Vjp(value, cotangent, wrt, place, one.summed)
        raise AssertionError(f"no batches of a {type(one).__name__}")

    def _aligned(self, ndim: int, args: Sequence[Node]) -> tuple[Node, ...]:
        """The arguments with axes of length 1 behind the batch, up to ndim and the batch."""
        return tuple(
            a
            if isinstance(a, Scalar) or a.ndim == ndim + 1
            else views.expand(a, range(1, ndim + 2 - a.ndim))
            for a in args
        )
