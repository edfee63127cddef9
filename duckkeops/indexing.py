"""D[...]: every kind of index, as a view of the inputs.

Several index arrays evaluate single pairs.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Sequence
from types import EllipsisType, NoneType
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from duckkeops import concatenation, expr, views
from duckkeops.errors import ShapeError, UnsupportedError, VirtualArrayError
from duckkeops.expr import NEUTRAL, Input, Node
from duckkeops.genuine import dense, permuted, reshaped
from duckkeops.operands import (
    constant,
    describe,
    is_array,
    namespace_of,
    nbytes,
    on_host,
    units,
    unsupported,
)
from duckkeops.rewrite import reshape
from duckkeops.tensors import is_tensor
from duckkeops.views import ALL

Item = Any  # None, a slice, an int or an array of ints

_WHAT_INDICES_ARE = (
    "only integers, slices (`:`), ellipsis (`...`), numpy.newaxis (`None`) "
    "and integer or boolean arrays are valid indices"
)


def getitem(node: Node, key: Any) -> Any:
    """`node[key]`, as NumPy's.

    Index arrays on several axes give a genuine array: the entries at these places.
    """
    plain = plain_view(node, key)
    if plain is not None:
        return plain
    key = key if isinstance(key, tuple) else (key,)
    items = _items(node, key)
    if items is None:
        return dense(node)[_genuine_key(key)]
    arrays = [k for k, (i, _) in enumerate(items) if isinstance(i, np.ndarray)]
    if not arrays:
        return _simple(node, items)
    return _advanced(node, items, arrays)


def plain_view(node: Node, key: Any) -> Input | None:
    """NumPy's own view of an input, for a key of slices, ints, None and one ellipsis.

    None for any other key or node. This is the common case, and fast.
    """
    if type(node) is not Input:
        return None
    key = key if isinstance(key, tuple) else (key,)
    kinds, own = tuple(map(type, key)), node.outline
    if type(node.source) is not np.ndarray and not (is_tensor(node.source) and _steps_forward(key)):
        return None
    roles = _roles_seen(own.roles, kinds)
    if roles is None:
        return None
    order = _order_seen(len(own.shape), kinds) if expr.is_plain_tensor(node.source) else None
    if order is not None and all(k == ALL for k in key if type(k) is slice):
        return node.ordered(order, roles, own.bare)
    array = node.array[key if EllipsisType in kinds else (*key, ...)]
    return Input(array, own.dtype, roles, own.bare)


def _steps_forward(key: tuple) -> bool:
    """Would torch take the key? It has no slices that run backwards, and no bounds on axes of ints
    beyond the end.
    """
    steps: list[Any] = [k.step for k in key if type(k) is slice]
    return all(step is None or step > 0 for step in steps)


@functools.lru_cache(maxsize=expr.TABLE_SIZE)
def _roles_seen(roles: str, kinds: tuple) -> str | None:
    """The roles that a key of None, Ellipsis, slices and ints leaves; None for any other key."""
    known = {NoneType, EllipsisType, slice, int}
    if not known.issuperset(kinds):
        return None
    used = sum(1 for k in kinds if k is slice or k is int)
    its, out = iter(roles), ""
    for k in kinds if EllipsisType in kinds else (*kinds, EllipsisType):
        if k is NoneType:
            out += NEUTRAL
        elif k is EllipsisType:
            out += "".join(itertools.islice(its, max(len(roles) - used, 0)))
        else:
            role = next(its, NEUTRAL)
            out += role if k is slice else ""
    return out


@functools.lru_cache(maxsize=expr.TABLE_SIZE)
def _order_seen(ndim: int, kinds: tuple) -> tuple[int | None, ...] | None:
    """The axes that a key of None, Ellipsis and slices of all leaves; None for any other key."""
    used = kinds.count(slice)
    if int in kinds or used > ndim or kinds.count(EllipsisType) > 1:
        return None
    axes = iter(range(ndim))
    out: list[int | None] = []
    for k in kinds if EllipsisType in kinds else (*kinds, EllipsisType):
        if k is NoneType:
            out.append(None)
        else:
            out += itertools.islice(axes, 1 if k is slice else ndim - used)
    return tuple(out)


def _items(node: Node, key: tuple) -> list[tuple[Item, int]] | None:
    """The key, complete: each item with the axis that it is for.

    None if only a genuine array can do it.
    """
    key = tuple(_item(node, k) for k in key)
    if any(isinstance(k, np.ndarray) and k.dtype == bool and k.ndim != 1 for k in key):
        if not expr.is_virtual(node):
            return None
        raise _refuse_mask(node)
    used = sum(1 for k in key if k is not None and k is not Ellipsis)
    if used > node.ndim:
        raise IndexError(
            f"too many indices for array: d has {node.ndim} axes, but {used} were indexed"
        )
    if sum(1 for k in key if k is Ellipsis) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    rest = [ALL] * (node.ndim - used)
    if Ellipsis in [k for k in key if not isinstance(k, np.ndarray)]:
        place = next(n for n, k in enumerate(key) if k is Ellipsis)
        key = (
            *key[:place],
            *(rest or [...]),
            *key[place + 1 :],
        )  # of no axes, it still keeps index arrays apart
    else:
        key = (*key, *rest)
    items, axis = [], 0
    for k in key:
        selects = k is not None and k is not Ellipsis
        items.append((_within(k, node.shape[axis], axis) if selects else k, axis))
        axis += selects
    return items


def _item(node: Node, k: Any) -> Any:
    """One item of a key: lists and arrays as NumPy arrays, lazy index vectors computed."""
    if k is None or k is Ellipsis or isinstance(k, slice):
        return k
    if isinstance(k, Node):
        if expr.is_virtual(k):
            raise _refuse_mask(node)
        k = dense(k)
    if isinstance(k, bool | np.bool):
        raise UnsupportedError(
            f"d[{bool(k)}] has no pairwise form: d is {describe(node)}.\n"
            "  Use d[None] for a new axis."
        )
    if isinstance(k, list | tuple | range) or (is_array(k) and k.ndim):
        index = on_host(k)
        if index.size == 0 and index.dtype != bool and not is_array(k):
            index = index.astype(np.intp)
        if index.dtype.kind not in "iub":
            raise IndexError(
                "arrays used as indices must be of integer (or boolean) type"
                if is_array(k)
                else _WHAT_INDICES_ARE
            )
        return index
    try:
        return operator.index(k)
    except TypeError:
        raise IndexError(_WHAT_INDICES_ARE) from None


def _within(k: Any, length: int, axis: int) -> Any:
    """An item in range for an axis: integers counted from the front, masks as positions."""
    if isinstance(k, slice):
        return ALL if range(length)[k] == range(length) else k
    if isinstance(k, int):
        if not -length <= k < length:
            raise IndexError(f"index {k} is out of bounds for axis {axis} with size {length}")
        return k % length
    if k.dtype == bool:
        if len(k) != length:
            raise IndexError(
                f"boolean index did not match indexed array along axis {axis}; "
                f"size of axis is {length} but size of corresponding boolean axis is {len(k)}"
            )
        return np.flatnonzero(k)
    bad = (k < -length) | (k >= length)
    if bad.any():
        raise IndexError(f"index {k[bad][0]} is out of bounds for axis {axis} with size {length}")
    return np.where(k < 0, k + length, k).astype(np.intp)


def _simple(node: Node, items: Sequence[tuple[Item, int]]) -> Node:
    """Without index arrays: a view."""
    kept = [(i, a) for i, a in items if not isinstance(i, int) and i is not Ellipsis]
    entries: list[Any] = [None if i is None else views.axis(a, i) for i, a in kept]
    return views.view(
        node, views.View(node.ndim, entries, {a: i for i, a in items if isinstance(i, int)})
    )


def _advanced(node: Node, items: list[tuple[Item, int]], arrays: list[int]) -> Any:
    """With index arrays: they are broadcast, and picked together."""
    lengths = [items[k][0].shape for k in arrays]
    try:
        shape = np.broadcast_shapes(*lengths)
    except ValueError:
        shapes = " ".join(map(str, lengths))
        raise IndexError(
            f"shape mismatch: indexing arrays could not be broadcast together with shapes {shapes} "
        ) from None
    single = len(arrays) == 1
    among = [
        k for k, (i, _) in enumerate(items) if isinstance(i, int | np.ndarray)
    ]  # NumPy counts ints among them
    together = among == list(range(among[0], among[-1] + 1))
    picks = tuple(np.broadcast_to(items[k][0], shape).reshape(-1) for k in arrays)
    joint = (tuple(items[k][1] for k in arrays), picks)
    before: list[Any] = []
    after: list[Any] = []
    for k, (i, a) in enumerate(items):
        if isinstance(i, int | np.ndarray) or i is Ellipsis:
            continue
        (before if together and k < among[0] else after).append(
            None if i is None else views.axis(a, i)
        )
    dropped = {a: i for i, a in items if isinstance(i, int)}
    place = len(before)
    node, joint, back = _by_block(node, joint)
    out = views.view(node, views.View(node.ndim, [*before, joint, *after], dropped))
    if single or expr.is_virtual(out):
        return (
            out
            if len(shape) == 1
            else reshape(out, (*out.shape[:place], *shape, *out.shape[place + 1 :]))
        )
    value = dense(out)
    if back is not None:
        value = namespace_of(value).take(value, back, axis=place)
    return (
        value
        if len(shape) == 1
        else reshaped(value, (*value.shape[:place], *shape, *value.shape[place + 1 :]))
    )


def _by_block(node: Node, picks: views.Entry) -> tuple[Node, views.Entry, Any]:
    """Picks of a block array by few views: the node, the picks, and how to put the result back in
    order, if that is needed.
    """
    axes, selects = picks
    if len(axes) == 1:
        chosen = concatenation.taken(node, axes[0], selects[0])
        if chosen is not None:
            return chosen, views.axis(axes[0]), None
        return node, picks, None
    order = concatenation.in_order(node, axes, selects)
    if order is None:
        return node, picks, None
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return node, (axes, tuple(s[order] for s in selects)), constant(node, back)


def _genuine_key(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(map(_genuine_key, key))
    return dense(key) if isinstance(key, Node) else key


def _refuse_mask(node: Node) -> VirtualArrayError:
    return VirtualArrayError(
        f"d[mask] has as many entries as the mask has true ones, of {describe(node)} "
        f"({units(nbytes(node))}), so it cannot be lazy.\n"
        "  Reduce with the mask: d.sum(axis=1, where=mask), or "
        "numpy.where(mask, d, 0).sum(axis=1).\n"
        "  Instead of d[mask] = value or d[mask] += value write "
        "d = numpy.where(mask, value, d) or "
        "numpy.where(mask, d + value, d)."
    )


# -- functions that pick ---------------------------------------------------------------------------


def take(
    a: Node, indices: Any, axis: int | None = None, out: Any = None, mode: str = "raise"
) -> Any:
    """Rows by number along an axis."""
    if axis is None:
        if expr.is_virtual(a):
            raise unsupported(
                "numpy.take without axis", a, "Name the axis: numpy.take(d, indices, axis=0)."
            )
        return dense(a).reshape(-1).take(_genuine_key(indices), mode=mode)
    axis = normalize_axis_index(axis, a.ndim)
    indices = on_host(_genuine_key(indices))
    if mode == "wrap":
        indices = indices % a.shape[axis]
    elif mode == "clip":
        indices = indices.clip(0, a.shape[axis] - 1)
    out_ = getitem(a, (ALL,) * axis + (indices if indices.ndim else int(indices),))
    return out_ if out is None else written(out, out_)


def take_along_axis(arr: Node, indices: Any, axis: int | None = -1) -> Any:
    """The entries at `indices` along an axis: single pairs, evaluated.

    Shapes: (M, N), (M, k) -> (M, k) for axis=1.
    """
    if axis is None:
        raise unsupported(
            "numpy.take_along_axis(axis=None)",
            arr,
            "Name the axis: numpy.take_along_axis(d, indices, axis=1).",
        )
    axis = normalize_axis_index(axis, arr.ndim)
    indices = on_host(_genuine_key(indices))
    if indices.dtype.kind not in "iu":
        raise IndexError(f"`indices` must be an integer array, and is of dtype {indices.dtype}.")
    if indices.ndim != arr.ndim:
        raise ValueError(
            "`indices` and `arr` must have the same number of dimensions: "
            f"{indices.ndim} and {arr.ndim}"
        )
    axes = [
        a for a in range(arr.ndim) if a == axis or (indices.shape[a] != 1 and arr.shape[a] != 1)
    ]
    for a in axes:
        if a != axis and indices.shape[a] != arr.shape[a]:
            raise ShapeError(
                f"take_along_axis: axis {a} has {arr.shape[a]} entries in d "
                f"and {indices.shape[a]} in indices."
            )
    grown = [a for a in range(arr.ndim) if a not in axes and indices.shape[a] != 1]
    if grown:
        raise ShapeError(
            f"take_along_axis: axis {grown[0]} has 1 entry in d "
            f"and {indices.shape[grown[0]]} in indices."
        )
    lengths = [indices.shape[a] for a in axes]
    chosen = _within(indices, arr.shape[axis], axis).reshape(lengths)
    grid = [
        chosen if a == axis else _along(np.arange(arr.shape[a]), n, len(axes))
        for n, a in enumerate(axes)
    ]
    rest = [a for a in range(arr.ndim) if a not in axes]
    picks = tuple(np.broadcast_to(g, lengths).reshape(-1) for g in grid)
    one, joint, back = _by_block(arr, (tuple(axes), picks))
    out = views.view(one, views.View(arr.ndim, [joint, *(views.axis(a) for a in rest)], {}))
    if expr.is_virtual(out):
        raise unsupported(
            "numpy.take_along_axis that leaves a virtual array",
            arr,
            "Index all point axes: d[rows, columns, ...].",
        )
    order = [*axes, *rest]
    value = dense(out)
    if back is not None:
        value = namespace_of(value).take(value, back, axis=0)
    value = reshaped(value, (*lengths, *out.shape[1:]))
    return permuted(value, [order.index(a) for a in range(arr.ndim)])


def _along(vector: np.ndarray, place: int, ndim: int) -> np.ndarray:
    return vector.reshape([-1 if n == place else 1 for n in range(ndim)])


def diagonal_node(a: Node, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Node:
    """The entries (k, k + offset) of two axes, along a last axis."""
    first, second = normalize_axis_index(axis1, a.ndim), normalize_axis_index(axis2, a.ndim)
    if first == second:
        raise ValueError("axis1 and axis2 cannot be the same")
    length = max(
        0,
        min(a.shape[first], a.shape[second] - offset)
        if offset >= 0
        else min(a.shape[first] + offset, a.shape[second]),
    )
    k = np.arange(length)
    entries = [views.axis(n) for n in range(a.ndim) if n not in (first, second)]
    return views.view(
        a,
        views.View(
            a.ndim, [*entries, ((first, second), (k + max(-offset, 0), k + max(offset, 0)))], {}
        ),
    )


def diagonal(a: Node, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """The diagonal of two axes; evaluated where one of them is a point axis."""
    out = diagonal_node(a, offset, axis1, axis2)
    features = {a.roles[axis1], a.roles[axis2]} <= {expr.FEATURE, expr.NEUTRAL}
    return out if features or expr.is_virtual(out) else dense(out)


def diag(v: Node, k: int = 0) -> Any:
    if v.ndim != 2:
        raise unsupported(
            "numpy.diag of a vector",
            v,
            "Write numpy.where(i[:, None] == i[None, :], v, 0) "
            "with i = LazyArray(numpy.arange(n)).",
        )
    return diagonal(v, k)


def written(out: Any, value: Any, casting: Any = "same_kind") -> Any:
    """`value` written into the array `out`, as NumPy's out= does."""
    if isinstance(value, Node):
        raise UnsupportedError(
            f"out= of a lazy array has nothing to write: the result, {describe(value)}, is lazy.\n"
            "  Leave out= away, and reduce the result."
        )
    if tuple(out.shape) != np.shape(value):
        raise ValueError(
            f"output parameter has the wrong shape: the result has shape {np.shape(value)} "
            f"and out has {tuple(out.shape)}."
        )
    if isinstance(out, np.ndarray):
        np.copyto(out, value, casting=casting)
    else:
        out[...] = value
    return out
