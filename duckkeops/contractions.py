"""Products summed over shared axes: matmul, einsum and their kin, as align, multiply, sum.

Every operand carries one label for each of its axes. Roles are settled label by label, as DESIGN
says: a lazy operand's role beats a bare one's; a bare operand's free axes are features if a point
axis is contracted or a lazy operand is virtual, and points otherwise.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from duckkeops import expr, genuine, ops, rewrite, statistics, views
from duckkeops.errors import RoleError, ShapeError
from duckkeops.expr import BATCH, FEATURE, NEUTRAL, POINT, ROLE_NAMES, Input, Node, Outline, Scalar
from duckkeops.genuine import call, cast, expand, permuted, plain
from duckkeops.indexing import written
from duckkeops.operands import describe, namespace_of, node_of, unsupported
from duckkeops.shapes import moveaxis, ravel, stack, unstack
from duckkeops.tensors import is_tensor

Labels = tuple[Any, ...]


# -- the one contraction ---------------------------------------------------------------------------


def contract(
    what: str, operands: Sequence[Any], labels: Sequence[Labels], out: Labels, dtype: Any = None
) -> Any:
    """The product of the operands, summed over the labels that `out` lacks.

    Its axes are in the order of `out`.
    """
    nodes = [node_of(o) for o in operands]
    wanted = np.dtype(dtype) if dtype is not None else None
    return _contracted(nodes, _layout(what, expr.outlines(nodes), tuple(labels), out, wanted))


def _contracted(nodes: Sequence[Node], layout: Layout) -> Any:
    product: Node | None = None
    for node, how in zip(nodes, layout.operands, strict=True):
        one = node if how.already else _aligned(node, how, layout)
        product = one if product is None else ops.binary(MULTIPLY, product, one)
    assert product is not None
    if product.ndim < len(layout.order):
        product = views.expand(product, range(len(layout.order) - product.ndim))
    if product.dtype is not layout.dtype:
        product = ops.cast(product, layout.dtype)
    if not layout.axes:
        return product
    if layout.dtype.kind == "b":
        value = statistics.any(product, layout.axes)
        return value if layout.result is None else permuted(value, layout.result)
    own = layout.dtype.kind in "fc"  # in which sums are computed if not told otherwise
    dtype = None if own else layout.dtype
    return statistics.total(product, layout.axes, dtype, order=layout.result)


MULTIPLY = ops.ROWS["multiply"]


class Alignment(NamedTuple):
    """How one operand gets the axes of the product; leading ones may be left to broadcasting.

    It is right `already`; or, as an input whose array is transposed at once, has its axes in
    `order`, and new ones where `cut` has None; `seen` is both in one.
    """

    labels: Labels
    already: bool
    order: tuple[int, ...]
    cut: tuple[slice | None, ...]
    seen: tuple[int | None, ...]
    roles: str


class Layout(NamedTuple):
    """The axes of a product: their labels, those that are summed, and the order of those left,
    None where they are in order.
    """

    order: Labels
    axes: tuple[int, ...]
    result: tuple[int, ...] | None
    roles: dict[Any, str]
    operands: tuple[Alignment, ...]
    dtype: np.dtype


@functools.lru_cache(maxsize=expr.TABLE_SIZE)
def _layout(
    what: str,
    operands: tuple[Outline, ...],
    labels: tuple[Labels, ...],
    out: Labels,
    dtype: np.dtype | None,
) -> Layout:
    """All of a contraction but the arrays. Raises ShapeError and RoleError."""
    _check_lengths(what, operands, labels)
    wanted = dtype if dtype is not None else ops.common([n.dtype for n in operands])
    contracted = tuple(dict.fromkeys(k for one in labels for k in one if k not in out))
    roles = _roles(what, operands, labels, contracted)
    order = _order(operands, labels, out, contracted, roles)
    kept = tuple(k for k in order if k in out)
    return Layout(
        order,
        tuple(n for n, k in enumerate(order) if k in contracted),
        None if kept == out else tuple(kept.index(k) for k in out),
        roles,
        tuple(_alignment(n, one, order, roles) for n, one in zip(operands, labels, strict=True)),
        wanted,
    )


def _order(
    operands: Sequence[Outline],
    labels: Sequence[Labels],
    out: Labels,
    contracted: Labels,
    roles: dict[Any, str],
) -> Labels:
    """The axes of the product: those of `out`, then those that are summed.

    Where the result is evaluated, the largest lazy operand keeps its own order, the others before
    it: so nothing of its expression has to be viewed anew, as in K @ b.
    """
    usual = (*out, *contracted)
    lazy = [(n, one) for n, one in zip(operands, labels, strict=True) if not n.bare]
    if not lazy or not contracted:
        return usual
    _, own = max(lazy, key=lambda pair: pair[0].ndim)
    in_order = [k for k in own if k in out] == [k for k in out if k in own]
    if not in_order or len(set(own)) < len(own) or _stays_lazy(operands, labels, out, roles):
        return usual
    return (*(k for k in usual if k not in own), *own)


def _stays_lazy(
    operands: Sequence[Outline], labels: Sequence[Labels], out: Labels, roles: dict[Any, str]
) -> bool:
    """Does no input span all the point axes of the result?"""
    points = {
        k
        for n, one in zip(operands, labels, strict=True)
        for k, length in zip(one, n.shape, strict=True)
        if k in out and roles[k] == POINT and length != 1
    }
    return not any(
        points <= {k for r, k in enumerate(reversed(one)) if span >> r & 1}
        for n, one in zip(operands, labels, strict=True)
        for span in n.spans
    )


def _check_lengths(what: str, nodes: Sequence[Outline], labels: Sequence[Labels]) -> None:
    lengths: dict[Any, int] = {}
    for n, one in zip(nodes, labels, strict=True):
        for k, length in zip(one, n.shape, strict=True):
            if length != 1 and lengths.setdefault(k, length) != length:
                shapes = "   ".join(describe(m) for m in nodes)
                raise ShapeError(
                    f"cannot {what}: axes that are multiplied have {lengths[k]} and {length} "
                    f"entries.\n  {shapes}"
                )


def _roles(
    what: str, nodes: Sequence[Outline], labels: Sequence[Labels], contracted: Labels
) -> dict[Any, str]:
    """The role of each label."""
    known: dict[Any, tuple[tuple[bool, int], str, tuple[int, Outline, int]]] = {}
    virtual = False
    for place, (n, one) in enumerate(zip(nodes, labels, strict=True)):
        if n.bare:
            continue
        virtual = virtual or n.virtual
        for axis, (k, role, length) in enumerate(zip(one, n.roles, n.shape, strict=True)):
            if role == NEUTRAL:
                continue
            strength, side = (length != 1, n.ndim), (place, n, axis)
            before = known.get(k)
            if before is not None and before[0] == strength and before[1] != role:
                raise RoleError(
                    f"cannot {what}: an axis of {length} entries is a {ROLE_NAMES[before[1]]} axis "
                    f"in one lazy array and a {ROLE_NAMES[role]} axis in another, "
                    f"both with {n.ndim} axes.\n  "
                    + "   ".join(map(describe, nodes))
                    + "\n"
                    + expr.role_remedy(before[2], side)
                )
            if before is None or strength > before[0]:
                known[k] = (strength, role, side)
    roles = {k: role for k, (_, role, _) in known.items()}
    points = virtual or any(roles.get(k) in (POINT, BATCH) for k in contracted)
    free = FEATURE if points else POINT
    return {k: roles.get(k, free) for one in labels for k in one}


def _alignment(node: Outline, labels: Labels, order: Labels, roles: dict[Any, str]) -> Alignment:
    own = "".join([roles[k] for k in labels])
    already = labels == order[len(order) - len(labels) :] and node.roles == own and not node.bare
    kept = [k for k in order if k in labels]
    new = order[order.index(kept[0]) :] if kept else ()
    return Alignment(
        labels,
        already,
        tuple(labels.index(k) for k in kept),
        tuple(slice(None) if k in labels else None for k in new),
        tuple(labels.index(k) if k in labels else None for k in new),
        "".join(roles[k] if k in labels else NEUTRAL for k in new),
    )


def _aligned(node: Node, how: Alignment, layout: Layout) -> Node:
    """The axes in order, of length 1 where the operand has none; entries of a diagonal where a
    label is repeated.
    """
    labels = how.labels
    if isinstance(node, Input) and len(how.order) == len(labels):
        if isinstance(node.source, np.ndarray):
            return Input(node.source.transpose(how.order)[how.cut], node.dtype, how.roles)
        if expr.is_plain_tensor(node.source):
            return node.ordered(how.seen, how.roles, False)
        if is_tensor(node.source):
            tensor = node.array.permute(how.order)
            for k, cut in enumerate(how.cut):
                if cut is None:
                    tensor = tensor.unsqueeze(k)
            return Input(tensor, node.dtype, how.roles)
    node = rewrite.retag(node, "".join([layout.roles[k] for k in labels]))
    entries: list[Any] = []
    for k in layout.order:
        axes = tuple(a for a, name in enumerate(labels) if name == k)
        if not axes:
            entries.append(None)
        elif len(axes) == 1:
            entries.append(views.axis(axes[0]))
        else:
            lengths = [node.shape[a] for a in axes]
            if len(set(lengths)) != 1:
                raise ShapeError(
                    f"a repeated label means a diagonal, and its axes have {lengths} entries."
                )
            entries.append((axes, (np.arange(node.shape[axes[0]]),) * len(axes)))
    joint = sum(1 for e in entries if e is not None and len(e[0]) > 1)
    if joint > 1:
        raise ShapeError(
            "only one label of an operand may be repeated. "
            "Take the other diagonals first, with numpy.diagonal."
        )
    return views.view(node, views.View(node.ndim, entries, {}))


# -- matrix products -------------------------------------------------------------------------------


def matmul(x1: Any, x2: Any, out: Any = None, *, dtype: Any = None, axes: Any = None) -> Any:
    """The matrix product over the last axis of x1 and the last but one of x2.

    Leading axes are broadcast.
    """
    a, b = node_of(x1), node_of(x2)
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(
            f"matmul: operand {0 if a.ndim == 0 else 1} does not have enough dimensions: "
            "it is a scalar. Use * to multiply."
        )
    if axes is not None:
        return _matmul_axes(a, b, out, axes, dtype)
    wanted = np.dtype(dtype) if dtype is not None else None
    value = _contracted((a, b), _matmul_layout(a.outline, b.outline, wanted))
    return value if out is None else _finished(value, out)


@functools.lru_cache(maxsize=expr.TABLE_SIZE)
def _matmul_layout(a: Outline, b: Outline, dtype: np.dtype | None) -> Layout:
    n, m = a.shape[-1], b.shape[-2 if b.ndim > 1 else -1]
    if n != m:
        raise ShapeError(
            f"cannot matmul: the last axis of the first operand has {n} entries, and the "
            f"{'last but one' if b.ndim > 1 else 'only'} axis of the "
            f"second {m}.\n  {describe(a)}   {describe(b)}"
        )
    names = tuple(range(max(a.ndim - 2, b.ndim - 2, 0)))
    la = names[len(names) - max(a.ndim - 2, 0) :] + ("i", "k")[2 - min(a.ndim, 2) :]
    lb = names[len(names) - max(b.ndim - 2, 0) :] + ("k", "j")[: min(b.ndim, 2)]
    kept = names + ("i",) * (a.ndim > 1) + ("j",) * (b.ndim > 1)
    return _layout("matmul", (a, b), (la, lb), kept, dtype)


def _matmul_axes(a: Node, b: Node, out: Any, axes: Any, dtype: Any) -> Any:
    first, second, *last = axes
    a = _moved(a, first, (-2, -1) if a.ndim > 1 else (-1,))
    b = _moved(b, second, (-2, -1) if b.ndim > 1 else (-1,))
    value = matmul(a, b, dtype=dtype)
    if last and last[0] != ():
        n = value.ndim
        target = tuple(normalize_axis_tuple(last[0], n))
        rest = iter(range(n - len(target)))
        value = permuted(
            value,
            [n - len(target) + target.index(k) if k in target else next(rest) for k in range(n)],
        )
    return _finished(value, out)


def _moved(a: Node, source: Any, to: tuple[int, ...]) -> Node:
    return moveaxis(a, (source,) if isinstance(source, int) else source, to)


def _finished(value: Any, out: Any) -> Any:
    out = out[0] if isinstance(out, tuple) else out
    return value if out is None else written(out, value)


def dot(a: Any, b: Any, out: Any = None) -> Any:
    """The sum over the last axis of a and the last but one of b."""
    x, y = node_of(a), node_of(b)
    if x.ndim == 0 or y.ndim == 0:
        return _finished(ops.call("multiply", x, y), out)
    axis = max(y.ndim - 2, 0)
    return _finished(_paired("dot", x, y, (x.ndim - 1,), (axis,)), out)


def inner(a: Any, b: Any, /) -> Any:
    """The sum over the last axes."""
    x, y = node_of(a), node_of(b)
    if x.ndim == 0 or y.ndim == 0:
        return ops.call("multiply", x, y)
    return _paired("inner", x, y, (x.ndim - 1,), (y.ndim - 1,))


def tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    """The sum over so many last axes of a and first axes of b, or over the pairs of axes that are
    named.
    """
    x, y = node_of(a), node_of(b)
    if isinstance(axes, int | np.integer):
        first, second = tuple(range(x.ndim - int(axes), x.ndim)), tuple(range(int(axes)))
    else:
        first, second = ((int(k),) if isinstance(k, int | np.integer) else tuple(k) for k in axes)
    try:
        first, second = normalize_axis_tuple(first, x.ndim), normalize_axis_tuple(second, y.ndim)
    except ValueError:
        raise ShapeError(
            f"shape-mismatch for sum: tensordot(axes={axes}) of {describe(x)} and {describe(y)}."
        ) from None
    if len(first) != len(second):
        raise ShapeError(
            f"shape-mismatch for sum: tensordot(axes={axes}) names {len(first)} axes of a "
            f"and {len(second)} of b."
        )
    value = _paired("tensordot", x, y, first, second)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _paired(what: str, x: Node, y: Node, first: Sequence[int], second: Sequence[int]) -> Any:
    """The sum over pairs of axes; the axes left are those of x, then those of y."""
    for i, j in zip(first, second, strict=True):
        if x.shape[i] != y.shape[j]:
            raise ShapeError(
                f"cannot {what}: axis {i} of the first has {x.shape[i]} entries, "
                f"axis {j} of the second {y.shape[j]}.\n  {describe(x)}   {describe(y)}"
            )
    lx = tuple(("x", k) for k in range(x.ndim))
    ly = tuple(lx[first[list(second).index(k)]] if k in second else ("y", k) for k in range(y.ndim))
    kept = tuple(k for n, k in enumerate(lx) if n not in first) + tuple(
        k for k in ly if k[0] == "y"
    )
    return contract(what, (x, y), (lx, ly), kept)


def vecdot(
    x1: Any,
    x2: Any,
    /,
    out: Any = None,
    *,
    axis: int = -1,
    keepdims: bool = False,
    dtype: Any = None,
    axes: Any = None,
) -> Any:
    """The sum of conj(x1) x2 over one axis, the others broadcast."""
    a, b = node_of(x1), node_of(x2)
    if axes is not None:
        first, second = (
            normalize_axis_index(k if isinstance(k, int) else k[0], n.ndim)
            for k, n in zip(axes[:2], (a, b), strict=True)
        )
        a, b, axis = _moved(a, first, (-1,)), _moved(b, second, (-1,)), -1
    la, lb, k = _batched(
        a, b, normalize_axis_index(axis, a.ndim), normalize_axis_index(axis, b.ndim)
    )
    if a.shape[la.index("k")] != b.shape[lb.index("k")]:
        raise ShapeError(
            f"cannot vecdot: axis {axis} has {a.shape[la.index('k')]} entries in one and "
            f"{b.shape[lb.index('k')]} in the other.\n  {describe(a)}   {describe(b)}"
        )
    value = contract("vecdot", (conj(a), b), (la, lb), k, dtype)
    if keepdims:
        value = expand(value, (normalize_axis_index(axis, value.ndim + 1),))
    return _finished(value, out)


def _batched(a: Node, b: Node, first: int, second: int) -> tuple[Labels, Labels, Labels]:
    """Labels for a contraction of one axis each, with the others broadcast from the right."""
    n = max(a.ndim, b.ndim) - 1
    names = tuple(range(n))

    def labels(x: Node, axis: int) -> Labels:
        rest = names[n - (x.ndim - 1) :]
        return (*rest[:axis], "k", *rest[axis:])

    return labels(a, first), labels(b, second), names


def conj(x: Node) -> Node:
    return ops.call("conj", x) if x.dtype.kind == "c" and not x.bare else _conj_bare(x)


def _conj_bare(x: Node) -> Node:
    if x.dtype.kind != "c" or not isinstance(x, Input):
        return x
    return Input(namespace_of(x).conj(x.array), x.dtype, x.roles, x.bare)


def vdot(a: Any, b: Any, /) -> Any:
    """The sum of conj(a) b over all entries."""
    x, y = node_of(a), node_of(b)
    if x.shape != y.shape:
        raise ShapeError(
            f"cannot vdot: the operands have different shapes.\n  {describe(x)}   {describe(y)}"
        )
    names = tuple(range(x.ndim))
    return contract("vdot", (conj(x), y), (names, names), ())


def matvec(x1: Any, x2: Any, /, out: Any = None, *, dtype: Any = None) -> Any:
    """Matrix times vector, (..., M, N) and (..., N) -> (..., M)."""
    a, b = node_of(x1), node_of(x2)
    _enough("matvec", a, 2, b, 1)
    names = tuple(range(max(a.ndim - 2, b.ndim - 1)))
    la, lb = (*names[len(names) - a.ndim + 2 :], "m", "k"), (*names[len(names) - b.ndim + 1 :], "k")
    _equal_lengths("matvec", a, b, a.shape[-1], b.shape[-1])
    return _finished(contract("matvec", (a, b), (la, lb), (*names, "m"), dtype), out)


def vecmat(x1: Any, x2: Any, /, out: Any = None, *, dtype: Any = None) -> Any:
    """Conjugated vector times matrix, (..., M) and (..., M, N) -> (..., N)."""
    a, b = node_of(x1), node_of(x2)
    _enough("vecmat", a, 1, b, 2)
    names = tuple(range(max(a.ndim - 1, b.ndim - 2)))
    la, lb = (*names[len(names) - a.ndim + 1 :], "k"), (*names[len(names) - b.ndim + 2 :], "k", "n")
    _equal_lengths("vecmat", a, b, a.shape[-1], b.shape[-2])
    return _finished(contract("vecmat", (conj(a), b), (la, lb), (*names, "n"), dtype), out)


def _enough(what: str, a: Node, n: int, b: Node, m: int) -> None:
    if a.ndim < n or b.ndim < m:
        raise ShapeError(
            f"{what} takes arrays of at least {n} and {m} axes.\n  {describe(a)}   {describe(b)}"
        )


def _equal_lengths(what: str, a: Node, b: Node, n: int, m: int) -> None:
    if n != m:
        raise ShapeError(
            f"cannot {what}: the axes that are multiplied have {n} and {m} entries.\n"
            f"  {describe(a)}   {describe(b)}"
        )


def outer(a: Any, b: Any, out: Any = None) -> Any:
    """All products of two vectors."""
    x, y = node_of(ravel(node_of(a))), node_of(ravel(node_of(b)))
    return _finished(ops.call("multiply", views.expand(x, (1,)), y), out)


def cross(
    a: Any, b: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None
) -> Any:
    """The vector product along an axis of 3."""
    if axis is not None:
        axisa = axisb = axisc = axis
    x, y = node_of(a), node_of(b)
    if x.shape[axisa] != 3 or y.shape[axisb] != 3:
        raise ShapeError(
            f"cross takes vectors of 3 entries along an axis.\n  {describe(x)}   {describe(y)}"
        )
    x1, x2, x3 = unstack(moveaxis(x, axisa, -1), axis=-1)
    y1, y2, y3 = unstack(moveaxis(y, axisb, -1), axis=-1)

    def minor(p: Node, q: Node, r: Node, s: Node) -> Node:
        return ops.call("subtract", ops.call("multiply", p, q), ops.call("multiply", r, s))

    parts = [minor(x2, y3, x3, y2), minor(x3, y1, x1, y3), minor(x1, y2, x2, y1)]
    n = parts[0].ndim
    return moveaxis(stack(parts, n), -1, axisc)


def multi_dot(arrays: Sequence[Any], *, out: Any = None) -> Any:
    """The product of several matrices, in the order that leaves the smallest arrays."""
    nodes = [node_of(a) for a in arrays]
    labels: list[Labels] = [(k, k + 1) for k in range(len(nodes))]
    labels[0] = labels[0][-nodes[0].ndim :]
    labels[-1] = labels[-1][: nodes[-1].ndim]
    kept = (*((0,) if nodes[0].ndim == 2 else ()), *((len(nodes),) if nodes[-1].ndim == 2 else ()))
    return _finished(_along_path("multi_dot", nodes, labels, kept, None, True), out)


# -- einsum ----------------------------------------------------------------------------------------


def einsum(
    *operands: Any,
    out: Any = None,
    optimize: Any = False,
    dtype: Any = None,
    order: str = "K",
    casting: str = "safe",
) -> Any:
    """Products summed over the labels that the output lacks, in every spelling of NumPy's
    einsum.
    """
    from opt_einsum.parser import parse_einsum_input

    if len(operands) < 2:
        raise ValueError(
            "einsum takes subscripts and operands, and got one argument.\n"
            "  Name the axes: einsum('ij,jk->ik', d, b)."
        )
    shapes = list(operands)
    arrays = (
        operands[1:] if isinstance(operands[0], str) else operands[: len(operands) // 2 * 2 : 2]
    )
    nodes = [node_of(a) for a in arrays]
    places = (
        range(1, len(operands))
        if isinstance(operands[0], str)
        else range(0, len(operands) // 2 * 2, 2)
    )
    for place, n in zip(places, nodes, strict=True):
        shapes[place] = n.shape
    try:
        terms, kept, _ = parse_einsum_input(shapes, shapes=True)
    except ValueError as error:
        raise ShapeError(f"einsum cannot read {operands[0]!r}: {error}") from None
    labels = [tuple(t) for t in terms.split(",")]
    for t, n in zip(labels, nodes, strict=True):
        if len(t) != n.ndim:
            raise ShapeError(
                f"einsum: the operand {describe(n)} has {n.ndim} axes, "
                f"and {''.join(t)!r} names {len(t)}."
            )
    return _finished(_along_path("einsum", nodes, labels, tuple(kept), dtype, optimize), out)


def einsum_path(*operands: Any, optimize: Any = "greedy", einsum_call: bool = False) -> Any:
    """NumPy's own answer, from the shapes alone."""
    shapes = [np.broadcast_to(np.int8(0), o.shape) if isinstance(o, Node) else o for o in operands]
    return np.einsum_path(*shapes, optimize=optimize)


def _along_path(
    what: str, nodes: list[Node], labels: list[Labels], kept: Labels, dtype: Any, optimize: Any
) -> Any:
    """Contract two at a time where there are more, the cheapest first."""
    if len(nodes) <= 2:
        return contract(what, nodes, labels, kept, dtype)
    import opt_einsum

    names = {
        k: opt_einsum.get_symbol(n)
        for n, k in enumerate(dict.fromkeys(k for one in labels for k in one))
    }
    text = (
        ",".join("".join(names[k] for k in one) for one in labels)
        + "->"
        + "".join(names[k] for k in kept)
    )
    path, _ = opt_einsum.contract_path(text, *(n.shape for n in nodes), shapes=True)
    wanted = dtype if dtype is not None else ops.common([n.dtype for n in nodes])
    todo: list[tuple[Any, Labels]] = list(zip(nodes, labels, strict=True))
    value: Any = None
    for step in path:
        some = [todo.pop(k) for k in sorted(step, reverse=True)]
        needed = set(kept).union(*(one for _, one in todo))
        left = (
            kept
            if not todo
            else tuple(k for k in dict.fromkeys(k for _, one in some for k in one) if k in needed)
        )
        if any(isinstance(x, Node) and not x.bare for x, _ in some):
            value = contract(what, [x for x, _ in some], [one for _, one in some], left, wanted)
        else:
            value = _genuine([_array(x) for x, _ in some], [one for _, one in some], left, names)
        todo.append((value, left))
    return plain(cast(value, np.dtype(wanted)))


def _array(x: Any) -> Any:
    return x.array if isinstance(x, Input) else x.value if isinstance(x, Scalar) else x


def _genuine(arrays: list[Any], labels: list[Labels], left: Labels, names: dict[Any, str]) -> Any:
    """A contraction of genuine arrays only."""
    import opt_einsum

    text = (
        ",".join("".join(names[k] for k in one) for one in labels)
        + "->"
        + "".join(names[k] for k in left)
    )
    return opt_einsum.contract(text, *arrays)


# -- norms -----------------------------------------------------------------------------------------


def vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Any:
    """The norm of any order over one or several axes, read as one vector."""
    node = _inexact(node_of(x))
    return _vector_norm(node, statistics.axes_of(node, axis), keepdims, ord)


def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Any:
    """The norm of the matrices of the last two axes."""
    node = _inexact(node_of(x))
    axes = normalize_axis_tuple((-2, -1), node.ndim)
    return _matrix_norm("matrix_norm", node, axes, keepdims, ord)


def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """numpy.linalg.norm: of vectors along an axis, of matrices along two."""
    node = _inexact(node_of(x))
    if axis is None:
        if ord is None or (ord in ("f", "fro") and node.ndim == 2) or (ord == 2 and node.ndim == 1):
            return _vector_norm(node, tuple(range(node.ndim)), keepdims, 2)
        axes: tuple[int, ...] = tuple(range(node.ndim))
    else:
        axes = normalize_axis_tuple(
            operator.index(axis) if not isinstance(axis, tuple | list) else axis, node.ndim
        )
    if len(axes) == 1:
        if isinstance(ord, str):
            raise ValueError(f"Invalid norm order {ord!r} for vectors")
        return _vector_norm(node, axes, keepdims, 2 if ord is None else ord)
    if len(axes) == 2:
        return _matrix_norm("norm", node, axes, keepdims, ord)
    raise ValueError("Improper number of dimensions to norm.")


def _inexact(x: Node) -> Node:
    return ops.cast(x, np.float64) if x.dtype.kind in "biu" else x


def _vector_norm(x: Node, axes: tuple[int, ...], keepdims: bool, order: Any) -> Any:
    size = ops.call("abs", x)
    if order == math.inf:
        return statistics.max(size, axes, keepdims=keepdims)
    if order == -math.inf:
        return statistics.min(size, axes, keepdims=keepdims)
    if order == 0:
        return statistics.sum(
            ops.cast(ops.call("not_equal", x, 0), size.dtype), axes, keepdims=keepdims
        )
    if order == 1:
        return statistics.sum(size, axes, keepdims=keepdims)
    if order == 2:
        squares = ops.call("square", size if x.dtype.kind == "c" else x)
        return call("sqrt", statistics.sum(squares, axes, keepdims=keepdims))
    total = statistics.sum(ops.call("pow", size, float(order)), axes, keepdims=keepdims)
    return call("pow", total, _like(total, 1 / order))


def _like(value: Any, number: float) -> Any:
    return (
        number
        if isinstance(value, Node) or not isinstance(value, np.generic)
        else value.dtype.type(number)
    )


def _matrix_norm(what: str, x: Node, axes: tuple[int, ...], keepdims: bool, order: Any) -> Any:
    rows, columns = axes
    if rows == columns:
        raise ValueError("Duplicate axes given.")
    if order in (None, "fro", "f"):
        return _vector_norm(x, tuple(sorted(axes)), keepdims, 2)
    if order in (2, -2, "nuc"):
        if not expr.is_virtual(x):
            return np.linalg.norm(genuine.dense(x), order, axes, keepdims)  # type: ignore[call-overload]
        raise unsupported(
            f"numpy.linalg.{what}(ord={order!r}) of matrices",
            x,
            "Singular values come from scipy.sparse.linalg.svds(d), "
            "the Frobenius norm from ord='fro'.",
        )
    if order not in (1, -1, math.inf, -math.inf):
        raise ValueError("Invalid norm order for matrices.")
    inside, outside = (rows, columns) if order in (1, -1) else (columns, rows)
    totals = statistics.sum(ops.call("abs", x), inside, keepdims=True)
    extreme = statistics.max if order > 0 else statistics.min
    value = (
        extreme(node_of(totals), outside, keepdims=True)
        if isinstance(totals, Node)
        else _genuine_extreme(totals, outside, order > 0)
    )
    if keepdims:
        return value
    if isinstance(value, Node):
        return views.squeeze(value, axes)
    xp = namespace_of(value)
    return statistics._scalar(xp.squeeze(value, axis=axes))


def _genuine_extreme(totals: Any, axis: int, greatest: bool) -> Any:
    xp = namespace_of(totals)
    return (xp.max if greatest else xp.min)(totals, axis=axis, keepdims=True)
