"""A node as plain data and back: what pickle and deepcopy see of a lazy array.

Rows travel by name.
"""

from __future__ import annotations

import copyreg
from collections.abc import Sequence
from typing import Any

from duckkeops import expr, ops, reductions
from duckkeops.expr import Apply, Broadcast, Concat, Input, Node, Reduce, Restricted, Scalar
from duckkeops.rewrite import Softmax

Record = tuple[Any, ...]  # kind, positions of the arguments, everything else


def flat(node: Node) -> list[Record]:
    """One record for each node, arguments first."""
    place: dict[int, int] = {}
    records: list[Record] = []
    for one in expr.walk(node):
        args = tuple(place[id(a)] for a in one.args)
        place[id(one)] = len(records)
        records.append((type(one).__name__, args, *_rest(one)))
    return records


def _rest(node: Node) -> Record:
    match node:
        case Input():
            return node.array, node.dtype, node.roles, node.bare
        case Scalar():
            return (node.value,)
        case Apply():
            return node.op.name, node.loop, node.dtype, node.params
        case Reduce():
            return node.row.name, node.axes, node.dtype, node.params
        case Concat():
            return node.axis, node.dtype
        case Broadcast():
            return node.shape, node.roles
        case Softmax():
            return node.axes, node.dtype
        case Restricted():
            return node.kept, node.axes
    raise TypeError(f"cannot pickle a {type(node).__name__}.")


def rebuilt(records: Sequence[Record]) -> Node:
    """The node that `flat` took apart."""
    nodes: list[Node] = []
    for kind, places, *rest in records:
        nodes.append(_BUILD[kind](tuple(nodes[p] for p in places), *rest))
    return nodes[-1]


_BUILD: dict[str, Any] = {
    "Input": lambda args, *rest: Input(*rest),
    "Scalar": lambda args, value: Scalar(value),
    "Apply": lambda args, op, loop, dtype, params: Apply(ops.ROWS[op], args, loop, dtype, params),
    "Reduce": lambda args, row, axes, dtype, params: Reduce(
        reductions.BY_NAME[row], args, axes, dtype, params
    ),
    "Concat": lambda args, axis, dtype: Concat(args, axis, dtype),
    "Broadcast": lambda args, shape, roles: Broadcast(args[0], shape, roles),
    "Restricted": lambda args, kept, axes: Restricted(args[0], kept, axes),
    "Softmax": lambda args, axes, dtype: Softmax(args[0], axes, dtype),
}


def _reduced(node: Node) -> tuple[Any, ...]:
    return rebuilt, (flat(node),)


for _kind in (Apply, Broadcast, Concat, Input, Reduce, Restricted, Scalar, Softmax):
    copyreg.pickle(_kind, _reduced)  # for whatever else holds nodes: arrays to be sliced, flat ones
