"""Views of a node's axes, and arrays put side by side: NumPy's shape functions, on nodes."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from duckkeops import expr, ops, rewrite, views
from duckkeops.errors import DtypeError, ShapeError, UnsupportedError
from duckkeops.expr import FEATURE, NEUTRAL, Broadcast, Concat, Input, Node
from duckkeops.genuine import all_entries, dense, reshaped
from duckkeops.operands import NUMBERS, constant, input_of, is_array, namespace_of, node_of
from duckkeops.views import ALL

# -- order and number of axes ----------------------------------------------------------------------


def transpose(a: Node, axes: Sequence[int] | None = None) -> Node:
    """The axes in another order; reversed if not said."""
    if axes is None:
        return views.permute(a, range(a.ndim)[::-1])
    order = normalize_axis_tuple(axes, a.ndim)
    if len(order) != a.ndim:
        raise ValueError(f"axes don't match array: {tuple(axes)} for an array of shape {a.shape}.")
    return views.permute(a, order)


def matrix_transpose(a: Node) -> Node:
    """The last two axes swapped."""
    if a.ndim < 2:
        raise ShapeError(f"matrix transpose with ndim < 2 is undefined; d has shape {a.shape}.")
    return swapaxes(a, -1, -2)


def swapaxes(a: Node, axis1: int, axis2: int) -> Node:
    """Two axes swapped."""
    order = list(range(a.ndim))
    i, j = normalize_axis_index(axis1, a.ndim), normalize_axis_index(axis2, a.ndim)
    order[i], order[j] = j, i
    return views.permute(a, order)


def moveaxis(a: Node, source: Any, destination: Any) -> Node:
    """Axes `source` at the places `destination`, the others in their order."""
    source = normalize_axis_tuple(source, a.ndim, "source")
    destination = normalize_axis_tuple(destination, a.ndim, "destination")
    if len(source) != len(destination):
        raise ValueError(
            "`source` and `destination` arguments must have the same number of elements"
        )
    order = [n for n in range(a.ndim) if n not in source]
    for place, one in sorted(zip(destination, source, strict=True)):
        order.insert(place, one)
    return views.permute(a, order)


def rollaxis(a: Node, axis: int, start: int = 0) -> Node:
    """An axis moved before another place."""
    axis = normalize_axis_index(axis, a.ndim)
    start = normalize_axis_index(start + a.ndim if start < 0 else start, a.ndim + 1)
    order = [n for n in range(a.ndim) if n != axis]
    order.insert(start - (axis < start), axis)
    return views.permute(a, order)


def expand_dims(a: Node, axis: Any) -> Node:
    """New axes of length 1 at these places of the result."""
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    return views.expand(a, normalize_axis_tuple(axes, a.ndim + len(axes)))


def squeeze(a: Node, axis: Any = None) -> Node:
    """Without these axes of length 1, or without all of them."""
    if axis is None:
        axes: Sequence[int] = [n for n, length in enumerate(a.shape) if length == 1]
    else:
        axes = normalize_axis_tuple(axis, a.ndim)
    if any(a.shape[n] != 1 for n in axes):
        raise ValueError("cannot select an axis to squeeze out which has size not equal to one")
    return views.squeeze(a, axes) if axes else a


def reshape(a: Node, /, shape: Any = None, order: str = "C", *, copy: bool | None = None) -> Any:
    """Another shape.

    Of a virtual array axes of length 1 come and go, axes are split, feature axes are merged.
    """
    if order not in ("C", "A"):
        raise ValueError(f"reshape(order={order!r}) of a lazy array: only order 'C' is there.")
    shape = (
        tuple(map(operator.index, shape))
        if isinstance(shape, tuple | list)
        else (operator.index(shape),)
    )
    try:
        return rewrite.reshape(a, shape)
    except ShapeError:
        if expr.is_virtual(a):
            raise
        return reshaped(dense(a), shape)


def ravel(a: Node, order: str = "C") -> Any:
    """All axes as one: of what inputs hold together."""
    return reshape(a, (-1,) if 0 not in a.shape else (0,), order)


def atleast(ndim: int, a: Node) -> Node:
    """With at least this many axes, new ones where NumPy puts them."""
    if a.ndim >= ndim:
        return a
    places = {(0, 2): (0, 1), (0, 3): (0, 1, 2), (1, 3): (0, 2), (2, 3): (2,)}.get(
        (a.ndim, ndim), range(ndim - a.ndim)
    )
    return views.expand(a, places)


def each_at_least(ndim: int) -> Callable[..., Any]:
    def atleast_nd(*arrays: Any) -> Any:
        nodes = tuple(atleast(ndim, node_of(a)) for a in arrays)
        return nodes[0] if len(nodes) == 1 else nodes

    return atleast_nd


def broadcast_to(array: Node, shape: Any, subok: bool = False) -> Node:
    """Repeated to a shape, without a copy."""
    shape = tuple(shape) if isinstance(shape, tuple | list) else (operator.index(shape),)
    if len(shape) < array.ndim:
        raise ShapeError(
            f"cannot broadcast an array of shape {array.shape} to {shape}: that has fewer axes."
        )
    return array if array.shape == shape else Broadcast(array, shape)


def broadcast_arrays(*args: Any, subok: bool = False) -> tuple[Node, ...]:
    """All repeated to their common shape."""
    nodes = [node_of(a) for a in args]
    shape = np.broadcast_shapes(*(n.shape for n in nodes))
    return tuple(broadcast_to(n, shape) for n in nodes)


def meshgrid(*xi: Any, copy: bool = True, sparse: bool = False, indexing: str = "xy") -> Any:
    """Vectors, each along an axis of its own; broadcast to their common shape if not sparse."""
    if indexing not in ("xy", "ij"):
        raise ValueError("Valid values for `indexing` are 'xy' and 'ij'.")
    n = len(xi)
    nodes = [node_of(ravel(node_of(x))) if np.ndim(x) != 1 else node_of(x) for x in xi]
    places = [1 - k if indexing == "xy" and k < 2 <= n else k for k in range(n)]
    out = [
        views.expand(x, [k for k in range(n) if k != place])
        for x, place in zip(nodes, places, strict=True)
    ]
    if not sparse:
        return broadcast_arrays(*out)
    return tuple(out) if copy else out  # a list then, as NumPy's


def flip(m: Node, axis: Any = None) -> Node:
    """Entries in reverse order along one, several or all axes."""
    axes = range(m.ndim) if axis is None else normalize_axis_tuple(axis, m.ndim)
    back = slice(None, None, -1)
    return views.view(
        m,
        views.View(m.ndim, [views.axis(a, back if a in axes else ALL) for a in range(m.ndim)], {}),
    )


def flipud(m: Node) -> Node:
    _needs(m, 1, "flipud")
    return flip(m, 0)


def fliplr(m: Node) -> Node:
    _needs(m, 2, "fliplr")
    return flip(m, 1)


def rot90(m: Node, k: int = 1, axes: tuple[int, int] = (0, 1)) -> Node:
    """Turned by 90 degrees k times in the plane of two axes."""
    first, second = normalize_axis_tuple(axes, m.ndim)
    match k % 4:
        case 0:
            return m
        case 1:
            return swapaxes(flip(m, second), first, second)
        case 2:
            return flip(m, (first, second))
    return flip(swapaxes(m, first, second), second)


def _needs(a: Node, ndim: int, what: str) -> None:
    if a.ndim < ndim:
        raise ShapeError(
            f"{what} needs an array of at least {ndim} axes, and d has shape {a.shape}."
        )


# -- side by side ----------------------------------------------------------------------------------


def concatenate(
    arrays: Any,
    /,
    axis: int | None = 0,
    out: Any = None,
    *,
    dtype: Any = None,
    casting: str = "same_kind",
) -> Any:
    """Arrays one after the other along an axis.

    Virtual ones along a point axis are a block array, which is reduced block by block.
    """
    refuse_out("concatenate", out)
    nodes = [node_of(a) for a in arrays]
    if axis is None:
        nodes, axis = [node_of(ravel(n)) for n in nodes], 0
    axis = normalize_axis_index(axis, nodes[0].ndim)
    _same_but(axis, nodes)
    common = np.dtype(dtype) if dtype is not None else ops.common([n.dtype for n in nodes])
    for n in nodes:
        _castable(n.dtype, common, casting, "concatenate")
    nodes = [ops.cast(n, common) for n in nodes]
    roles = {n.roles[axis] for n in nodes if not n.bare} or {NEUTRAL}
    if len(nodes) == 1:
        return nodes[0]
    if roles <= {FEATURE, NEUTRAL} or any(map(expr.is_virtual, nodes)):
        return Concat(tuple(nodes), axis, common)
    like = next(n for n in nodes if not n.bare)
    xp = namespace_of(like)
    join = np.concatenate if xp is np else xp.concat
    return Input(join([dense(n) for n in nodes], axis=axis), common, like.roles)


def _same_but(axis: int, nodes: Sequence[Node]) -> None:
    first = nodes[0]
    for k, n in enumerate(nodes):
        if n.ndim != first.ndim:
            raise ShapeError(
                "cannot concatenate arrays with different numbers of axes: "
                f"{first.shape} and {n.shape}."
            )
        for a in range(n.ndim):
            if a != axis and n.shape[a] != first.shape[a]:
                raise ShapeError(
                    f"cannot concatenate along axis {axis}: axis {a} has {first.shape[a]} entries "
                    f"in array 0 and {n.shape[a]} in array {k}.\n"
                    "  All axes but that one must be equal; numpy.broadcast_arrays makes them so."
                )


def stack(
    arrays: Any, axis: int = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind"
) -> Any:
    """Arrays of one shape along a new axis, a feature axis."""
    nodes = [node_of(a) for a in arrays]
    if len({n.shape for n in nodes}) != 1:
        raise ShapeError(
            f"all input arrays must have the same shape: stack got {[n.shape for n in nodes]}."
        )
    place = normalize_axis_index(axis, nodes[0].ndim + 1)
    return concatenate(
        [views.expand(n, (place,)) for n in nodes], place, out, dtype=dtype, casting=casting
    )


def hstack(tup: Any, *, dtype: Any = None, casting: str = "same_kind") -> Any:
    """One after the other along the second axis, or the first of vectors."""
    nodes = [atleast(1, node_of(a)) for a in tup]
    return concatenate(nodes, 0 if nodes[0].ndim == 1 else 1, dtype=dtype, casting=casting)


def vstack(tup: Any, *, dtype: Any = None, casting: str = "same_kind") -> Any:
    """One after the other along the first axis."""
    return concatenate([atleast(2, node_of(a)) for a in tup], 0, dtype=dtype, casting=casting)


def dstack(tup: Any) -> Any:
    """One after the other along the third axis."""
    return concatenate([atleast(3, node_of(a)) for a in tup], 2)


def column_stack(tup: Any) -> Any:
    """Vectors as columns, matrices as they are, side by side."""
    nodes = [node_of(a) for a in tup]
    return concatenate([n if n.ndim > 1 else views.expand(atleast(1, n), (1,)) for n in nodes], 1)


def append(arr: Any, values: Any, axis: int | None = None) -> Any:
    """`values` after `arr` along an axis."""
    return concatenate([arr, values], axis)


def block(arrays: Any) -> Any:
    """A block array from nested lists: the innermost ones side by side along the last axis, each
    level further out along the axis before.
    """
    depth = _depth(arrays)
    ndim = max(depth, max(n.ndim for n in _leaves(arrays)))
    return _block(arrays, depth, ndim)


def _depth(arrays: Any) -> int:
    if not isinstance(arrays, list):
        return 0
    if not arrays:
        raise ValueError("List at arrays cannot be empty")
    depths = {_depth(a) for a in arrays}
    if len(depths) > 1:
        raise ValueError(
            "List depths are mismatched: the lists of numpy.block must all be nested as deep, "
            f"and here some are nested {min(depths)} and some {max(depths)} deep."
        )
    return 1 + depths.pop()


def _leaves(arrays: Any) -> list[Node]:
    if isinstance(arrays, tuple):
        raise TypeError(
            "arrays is a tuple. Only lists can be used to arrange blocks, and np.block does not "
            "allow implicit conversion from tuple to ndarray."
        )
    if not isinstance(arrays, list):
        return [_one(arrays)]
    return [n for a in arrays for n in _leaves(a)]


def _one(x: Any) -> Node:
    """A block: an array, or a number as an array."""
    return node_of(np.asarray(x) if isinstance(x, NUMBERS) else x)


def _block(arrays: Any, depth: int, ndim: int) -> Any:
    if depth == 0 or not isinstance(arrays, list):
        one = _one(arrays)
        return views.expand(one, range(ndim - one.ndim)) if one.ndim < ndim else one
    return concatenate([_block(a, depth - 1, ndim) for a in arrays], ndim - depth)


def array_split(ary: Node, indices_or_sections: Any, axis: int = 0) -> list[Node]:
    """Slices along an axis: so many, or cut at these places."""
    axis = normalize_axis_index(axis, ary.ndim)
    length = ary.shape[axis]
    if isinstance(indices_or_sections, int | np.integer):
        sections = int(indices_or_sections)
        if sections < 1:
            raise ValueError("number sections must be larger than 0.")
        each, more = divmod(length, sections)
        cuts = np.cumsum([0] + more * [each + 1] + (sections - more) * [each]).tolist()
    else:
        cuts = [0, *(int(c) for c in indices_or_sections), length]
    return [piece(ary, axis, slice(a, b)) for a, b in itertools.pairwise(cuts)]


def split(ary: Node, indices_or_sections: Any, axis: int = 0) -> list[Node]:
    """Equal slices along an axis, or cut at these places."""
    if isinstance(indices_or_sections, int | np.integer):
        length = ary.shape[normalize_axis_index(axis, ary.ndim)]
        if indices_or_sections < 1 or length % indices_or_sections:
            raise ValueError("array split does not result in an equal division")
    return array_split(ary, indices_or_sections, axis)


def hsplit(ary: Node, indices_or_sections: Any) -> list[Node]:
    _needs(ary, 1, "hsplit")
    return split(ary, indices_or_sections, 1 if ary.ndim > 1 else 0)


def vsplit(ary: Node, indices_or_sections: Any) -> list[Node]:
    _needs(ary, 2, "vsplit")
    return split(ary, indices_or_sections, 0)


def dsplit(ary: Node, indices_or_sections: Any) -> list[Node]:
    _needs(ary, 3, "dsplit")
    return split(ary, indices_or_sections, 2)


def unstack(x: Node, /, *, axis: int = 0) -> tuple[Node, ...]:
    """The components along an axis, which must not be a point axis of a virtual array."""
    axis = normalize_axis_index(axis, x.ndim)
    if x.roles[axis] == expr.POINT and expr.is_virtual(x):
        all_entries("numpy.unstack along a point axis", x)
    return tuple(
        views.squeeze(piece(x, axis, slice(k, k + 1)), (axis,)) for k in range(x.shape[axis])
    )


def piece(a: Node, axis: int, select: slice) -> Node:
    """A slice along one axis."""
    return views.view(
        a,
        views.View(
            a.ndim, [views.axis(n, select if n == axis else ALL) for n in range(a.ndim)], {}
        ),
    )


# -- triangles and constants -----------------------------------------------------------------------


def tril(m: Node, k: int = 0) -> Node:
    """`m` where column <= row + k, elsewhere 0."""
    return ops.call("where", below(m, k), m, full_scalar(m, 0, m.dtype))


def triu(m: Node, k: int = 0) -> Node:
    """`m` where column >= row + k, elsewhere 0."""
    return ops.call("where", below(m, k - 1), full_scalar(m, 0, m.dtype), m)


def below(m: Node, k: int) -> Node:
    """Is column <= row + k? By comparing index vectors, so nothing of the size of m is made."""
    _needs(m, 2, "tril and triu")
    rows = input_of(constant(m, np.arange(m.shape[-2])[:, None] + operator.index(k)), bare=True)
    columns = input_of(constant(m, np.arange(m.shape[-1])), bare=True)
    return ops.call("less_equal", columns, rows)


def full_scalar(like: Node, value: Any, dtype: Any) -> Input:
    """One number with a dtype of its own, as an input without axes."""
    return input_of(constant(like, np.asarray(value).astype(dtype)), bare=True)


def full_like(
    a: Node,
    fill_value: Any,
    dtype: Any = None,
    order: str = "K",
    subok: bool = True,
    shape: Any = None,
    *,
    device: Any = None,
) -> Any:
    """A constant of the shape and roles of `a`, not stored; a genuine array if `shape` is given."""
    dtype = a.dtype if dtype is None else np.dtype(dtype)
    if is_array(fill_value) and fill_value.ndim:
        raise ShapeError(
            f"full_like of a lazy array takes one number, and got shape {fill_value.shape}. Use "
            "numpy.broadcast_to(values, d.shape)."
        )
    one = np.full((1,) * a.ndim if shape is None else shape, fill_value, dtype)
    if shape is not None:
        return constant(a, one)
    return broadcast_to(Input(constant(a, one), np.dtype(dtype), a.roles), a.shape)


def zeros_like(
    a: Node,
    dtype: Any = None,
    order: str = "K",
    subok: bool = True,
    shape: Any = None,
    *,
    device: Any = None,
) -> Any:
    """Zeros of the shape and roles of `a`, not stored."""
    return full_like(a, 0, dtype, shape=shape)


def ones_like(
    a: Node,
    dtype: Any = None,
    order: str = "K",
    subok: bool = True,
    shape: Any = None,
    *,
    device: Any = None,
) -> Any:
    """Ones of the shape and roles of `a`, not stored."""
    return full_like(a, 1, dtype, shape=shape)


def astype(
    x: Node, dtype: Any, /, *, copy: bool = True, device: Any = None, casting: str = "unsafe"
) -> Node:
    """`x` in another dtype."""
    dtype = np.dtype(dtype)
    _castable(x.dtype, dtype, casting, "astype")
    if x.dtype.kind == "c" and dtype.kind not in "cb":
        import warnings

        warnings.warn(
            "Casting complex values to real discards the imaginary part",
            np.exceptions.ComplexWarning,
            stacklevel=4,
        )
    return ops.cast(x, dtype)


def _castable(have: Any, want: np.dtype, casting: Any, what: str) -> None:
    if isinstance(have, np.dtype) and not np.can_cast(have, want, casting):
        raise DtypeError(
            f"{what}: cannot cast from {have} to {want} by the rule {casting!r}.\n"
            "  Say casting='unsafe' to allow it."
        )


def refuse_out(what: str, out: Any) -> None:
    if any(o is not None for o in (out if isinstance(out, tuple) else (out,))):
        raise UnsupportedError(
            f"numpy.{what}(out=) of a lazy array has nothing to write: the result is lazy.\n"
            "  Leave out= away, and reduce the result, as in d.sum(axis=1)."
        )
