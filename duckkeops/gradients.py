"""The gradient of a lazy value, as reductions: whatever differentiates a result builds on it.

Where the value is reduced by a sum, the result's own gradient is the cotangent of every entry.
Other reductions come down to sums with other cotangents: of logsumexp, the cotangent times
exp(value - result).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from duckkeops import reductions, views
from duckkeops.errors import UnsupportedError
from duckkeops.expr import FEATURE, NEUTRAL, Broadcast, Concat, Input, Node, Reduce, Vjp, walk

Place = tuple[
    int | None, ...
]  # for each axis of an input, the axis of the value that it follows, from the right


class Term(NamedTuple):
    """A sum over pairs, and which axis of it is each axis of the input that is longer than 1."""

    node: Reduce
    order: tuple[int, ...]


def gradient(value: Node, cotangent: Node, wrt: Input, nested: bool = True) -> list[Term]:
    """sum of cotangent * d value / d wrt over all entries of the value: one term for each place at
    which `wrt` stands.

    `nested`: as sums over pairs of sums over features, of which a pair has few; else all in one,
    over the axes of the value, by which a restriction names its pairs.

    Shapes: value and cotangent (..., M, N, E) broadcast; the terms joined by `total` have the shape
    of `wrt`. A value that does not depend on `wrt` has no terms. Raises UnsupportedError for
    concatenated values.
    """
    if any(isinstance(n, Concat) for n in walk(value, cotangent)):
        raise UnsupportedError(
            f"cannot differentiate d: {value.shape} {value.dtype}, "
            "of which a part is concatenated.\n"
            "  Take concatenation.gradient, which differentiates each part, and its total."
        )
    summed = _trailing_features(value)
    return [
        _term(Vjp(value, cotangent, wrt, place, summed), nested)
        for place in places(value, wrt, summed)
    ]


def total(xp: Any, terms: Sequence[Any], orders: Sequence[Sequence[int]], wrt: Input) -> Any:
    """The gradient, of the shape of `wrt`, from the evaluated terms."""
    out: Any = xp.zeros(wrt.shape, dtype=wrt.array.dtype)
    for array, order in zip(terms, orders, strict=True):
        out = out + xp.reshape(xp.permute_dims(array, tuple(order)), wrt.shape)
    return out


def source_order(term: Term, wrt: Input) -> tuple[int, ...]:
    """Which axis of the term is each axis of the source of `wrt` that is longer than 1."""
    if wrt.order is None:
        return term.order
    axes = [a for a, n in zip(wrt.order, wrt.shape, strict=True) if n != 1]
    return tuple([at for _, at in sorted(zip(axes, term.order, strict=True))])


def _term(vjp: Vjp, nested: bool) -> Term:
    left = vjp.ndim - len(vjp.new)
    named = {len(vjp.whole) + at for at in vjp.place if at is not None}
    kept = sorted(named)
    node = _sum(vjp, [a for a in range(left) if a not in named], nested)
    order = []
    for a, (at, n) in enumerate(zip(vjp.place, vjp.wrt.shape, strict=True)):
        if at is not None:
            order.append(kept.index(len(vjp.whole) + at))
        elif n != 1:
            order.append(len(kept) + vjp.new.index(a))
    return Term(node, tuple(order))


def _sum(node: Node, axes: Sequence[int], nested: bool) -> Reduce:
    row = reductions.BY_NAME["sum"]
    inner = [a for a in axes if node.roles[a] == FEATURE]
    if not nested or not inner or len(inner) == len(axes):
        return reductions.reduce(row, (node,), axes)
    outer = [a - sum(b < a for b in inner) for a in axes if a not in inner]
    return reductions.reduce(row, (reductions.reduce(row, (node,), inner),), outer)


def _trailing_features(value: Node) -> int:
    n = 0
    while n < value.ndim and value.roles[-1 - n] in (FEATURE, NEUTRAL):
        n += 1
    return max(n, len(value.new)) if isinstance(value, Vjp) else n


def places(value: Node, wrt: Input, summed: int) -> list[Place]:
    """Every place at which `wrt` stands in the value, whose last `summed` axes are summed."""
    above = _above(value, wrt)
    found: dict[Place, None] = {}
    seen: set[tuple[int, Place]] = set()
    todo: list[tuple[Node, Place]] = [(value, (*range(-value.ndim, -summed), *(None,) * summed))]
    while todo:
        node, at = todo.pop()
        if id(node) not in above or (id(node), at) in seen:
            continue
        seen.add((id(node), at))
        if node is wrt:
            found[tuple(None if n == 1 else a for a, n in zip(at, wrt.shape, strict=True))] = None
        whole = tuple(_whole(node, at))
        todo += [(a, whole[len(whole) - a.ndim :]) for a in reversed(node.args)]
    return list(found)


def _above(value: Node, wrt: Input) -> set[int]:
    """The nodes that depend on `wrt`."""
    out = {id(wrt)}
    for n in walk(value):
        if any(id(a) in out for a in n.args):
            out.add(id(n))
    return out


def _whole(node: Node, at: Place) -> Iterator[int | None]:
    """The axes of the arguments' common shape, given those of the node.

    None stands for an axis that ends here.
    """
    if isinstance(node, Reduce):
        kept = iter(at)
        yield from (None if a in node.axes else next(kept) for a in range(len(node.whole)))
    elif isinstance(node, Vjp):
        left = node.ndim - len(node.new)
        if any(a is not None for a in at[left:]):
            raise UnsupportedError(
                "cannot differentiate a gradient along an axis "
                "that is not summed with a cotangent.\n"
                f"  It is axis {next(a for a in at[left:] if a is not None)} of the value."
            )
        yield from (*at[:left], *(None,) * node.summed)
    elif isinstance(node, Broadcast):
        shift = node.ndim - node.args[0].ndim
        yield from (None,) * shift
        yield from (
            None if n == 1 else a for a, n in zip(at[shift:], node.args[0].shape, strict=True)
        )
    else:
        yield from at


def _no_view(node: Vjp, how: views.View, memo: dict) -> Node:
    raise UnsupportedError(
        f"a gradient that is not summed yet, of shape {node.shape}, "
        "cannot be indexed or transposed.\n"
        "  Index the arrays it is made of, or sum it first."
    )


views.set_view(Vjp, _no_view)
