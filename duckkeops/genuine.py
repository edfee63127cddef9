"""From nodes to genuine arrays: the few doors through which anything is computed."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from duckkeops import evaluate, expr, ops, views
from duckkeops.expr import Input, Node, Reduce
from duckkeops.operands import namespace_of, node_of, on_host, refuse_dense, unsupported
from duckkeops.restriction import bound, is_restricted
from duckkeops.rewrite import rebuild, settle
from duckkeops.tensors import is_tensor


def evaluated(node: Reduce, order: Sequence[int] | None = None) -> Any:
    """The value of a reduction, an array of the inputs' library, its axes in this order.

    Over all axes of a NumPy array it is a NumPy scalar.
    """
    node = settled_reduction(node)
    out = computed(node, order)
    seen = _seen.get()
    if seen is not None:
        seen.append((node, order, out))
    return out


def computed(node: Reduce, order: Sequence[int] | None = None) -> Any:
    """`evaluated`, of a reduction as engines take it."""
    value = evaluate.evaluate(node, order)
    if type(value) is np.ndarray and value.flags.writeable and value.ndim:  # mostly
        return value
    return tuple(map(_own, value)) if isinstance(value, tuple) else plain(_own(value))


# (reduction, order of axes, value) of what is evaluated here, where somebody watches
_seen: contextvars.ContextVar[list[tuple[Reduce, Any, Any]] | None] = contextvars.ContextVar(
    "duckkeops_seen", default=None
)


@contextlib.contextmanager
def watched() -> Iterator[list[tuple[Reduce, Any, Any]]]:
    """Lists what `evaluated` computes inside: the reduction, the order of its axes, the value."""
    seen: list[tuple[Reduce, Any, Any]] = []
    token = _seen.set(seen)
    try:
        yield seen
    finally:
        _seen.reset(token)


def settled_reduction(node: Reduce) -> Reduce:
    """A reduction as engines take it."""
    if not node.outline.unsettled:
        return node
    return bound(rebuild(node, [settle(a, _of_inner) for a in node.args]))  # type: ignore[arg-type]


def _of_inner(node: Reduce) -> Any:
    return evaluate.evaluate(bound(node))


def _own(value: Any) -> Any:
    """The array itself, or a copy of one that may not be written to, such as a broadcast row."""
    return value.copy() if isinstance(value, np.ndarray) and not value.flags.writeable else value


def settled(node: Node) -> Node:
    """`node` as engines take it. Raises UnsupportedError if some of its entries are not there."""
    if node.outline.pending and is_restricted(node):
        raise unsupported(
            "all entries of a restricted array",
            node,
            "Those of dropped pairs have no value: reduce it, or take the entries before restrict.",
        )
    return settle(node, _of_inner)


def plain(value: Any) -> Any:
    """As NumPy returns it: a 0-d array of NumPy's becomes a scalar."""
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def dense(node: Node) -> Any:
    """All entries of a node that is not virtual."""
    return node.array if isinstance(node, Input) else _own(evaluate.dense(settled(node)))


def all_entries(what: str, node: Node) -> Any:
    """`dense`, or the refusal in the name of `what`."""
    if expr.is_virtual(node):
        raise refuse_dense(what, node)
    return dense(node)


def table(what: str, name: str, x: Any) -> Any:
    """An argument that must be an ordinary array, such as the coefficients of a polynomial, as
    NumPy's.

    Raises UnsupportedError if it is virtual.
    """
    if not isinstance(x, Node):
        return on_host(x)
    if expr.is_virtual(x):
        raise unsupported(
            f"{what} with a virtual {name}",
            x,
            f"Pass an ordinary array as {name}; the other arguments may be lazy.",
        )
    return on_host(dense(x))


def call(name: str, *args: Any) -> Any:
    """An operation row on nodes or on genuine arrays, whichever these are."""
    if any(isinstance(a, Node) for a in args):
        return ops.call(name, *map(node_of, args))
    like = next((a for a in args if hasattr(a, "dtype")), None)
    with np.errstate(all="ignore"):
        return plain(ops.ROWS[name].dense(np if like is None else namespace_of(like), *args))


def cast(x: Any, dtype: np.dtype) -> Any:
    """A node or a genuine array in another dtype."""
    if isinstance(x, Node):
        return ops.cast(x, dtype)
    if x.dtype == dtype:
        return x
    xp = namespace_of(x)
    return x.astype(dtype) if xp is np else xp.astype(x, getattr(xp, np.dtype(dtype).name))


def expand(x: Any, axes: Sequence[int]) -> Any:
    """A node or genuine array with axes of length 1 at these places of the result."""
    if isinstance(x, Node):
        return views.expand(x, axes)
    shape = list(x.shape)
    for a in sorted(axes):
        shape.insert(a, 1)
    return reshaped(x, tuple(shape))


def reshaped(x: Any, shape: tuple[int, ...]) -> Any:
    return (
        x.reshape(shape)
        if isinstance(x, np.ndarray | np.generic)
        else namespace_of(x).reshape(x, shape)
    )


def permuted(x: Any, order: Sequence[int]) -> Any:
    """A node or genuine array with its axes in this order."""
    if list(order) == list(range(len(order))):
        return x
    if isinstance(x, np.ndarray):
        return x.transpose(order)
    if is_tensor(x):
        return x.permute(order)
    return (
        views.permute(x, order)
        if isinstance(x, Node)
        else namespace_of(x).permute_dims(x, tuple(order))
    )
