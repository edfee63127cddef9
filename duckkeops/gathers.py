"""Rows by number: what repeats, shifts, pads or drops entries along an axis, as views of inputs."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from duckkeops import expr, ops, shapes, views
from duckkeops.expr import Node
from duckkeops.genuine import dense
from duckkeops.indexing import getitem, written
from duckkeops.operands import constant, input_of, is_array, on_host, unsupported


def gather(a: Node, axis: int, index: np.ndarray) -> Node:
    """The entries at `index` along an axis, in this order."""
    if a.shape[axis] == 1:
        return shapes.broadcast_to(a, (*a.shape[:axis], len(index), *a.shape[axis + 1 :]))
    return getitem(a, (slice(None),) * axis + (index.astype(np.intp),))


def single_axis(what: str, a: Node, axis: Any) -> int | None:
    """The axis meant: of a vector it need not be said.

    None if all entries of an array that is not virtual are meant, in a row.
    """
    if axis is not None:
        return normalize_axis_index(operator.index(axis), a.ndim)
    if a.ndim == 1:
        return 0
    if expr.is_virtual(a):
        raise unsupported(f"numpy.{what} without axis", a, f"Name the axis: {what}(d, axis=1).")
    return None


def roll(a: Node, shift: Any, axis: Any = None) -> Any:
    """Entries moved along axes; those that leave at one end come back at the other."""
    if axis is None and (axis := single_axis("roll", a, None)) is None:
        return np.roll(dense(a), shift)
    for k, by in np.broadcast(axis, shift):  # type: ignore[misc]
        k = normalize_axis_index(int(k), a.ndim)
        a = gather(a, k, np.roll(np.arange(a.shape[k]), int(by)))
    return a


def repeat(a: Node, repeats: Any, axis: int | None = None) -> Any:
    """Each entry along an axis several times."""
    if (k := single_axis("repeat", a, axis)) is None:
        return np.repeat(dense(a), repeats)
    return gather(a, k, np.repeat(np.arange(a.shape[k]), on_host(repeats)))


def tile(A: Node, reps: Any) -> Node:
    """The whole array several times along each axis."""
    times = tuple(map(int, np.atleast_1d(reps)))
    a = views.expand(A, range(max(len(times) - A.ndim, 0)))
    for k, by in enumerate((1,) * (a.ndim - len(times)) + times):
        if by != 1:
            a = gather(a, k, np.tile(np.arange(a.shape[k]), by))
    return a


def compress(condition: Any, a: Node, axis: int | None = None, out: Any = None) -> Any:
    """The entries along an axis where a condition of that axis holds."""
    condition = on_host(dense(condition) if isinstance(condition, Node) else condition)
    if (k := single_axis("compress", a, axis)) is None:
        return np.compress(condition, dense(a), out=out)
    if condition.ndim != 1:
        raise ValueError("condition must be a 1-d array")
    result = getitem(a, (slice(None),) * k + (np.flatnonzero(condition),))
    return result if out is None else written(out, result)


def delete(arr: Node, obj: Any, axis: int | None = None) -> Any:
    """Without the entries at some places of an axis."""
    obj = dense(obj) if isinstance(obj, Node) else obj
    obj = on_host(obj) if is_array(obj) else obj
    if (k := single_axis("delete", arr, axis)) is None:
        return np.delete(dense(arr), obj)
    return gather(arr, k, np.delete(np.arange(arr.shape[k]), obj))


# -- padding ---------------------------------------------------------------------------------------


def pad(array: Node, pad_width: Any, mode: Any = "constant", **kwargs: Any) -> Any:
    """More entries at both ends of the axes: numbers, or entries of the array again."""
    odd = kwargs.get("reflect_type", "even") != "even"
    if mode not in ("constant", "empty", "edge", "wrap", "reflect", "symmetric") or odd:
        if not expr.is_virtual(array):
            return np.pad(dense(array), pad_width, mode, **kwargs)
        raise unsupported(
            f"numpy.pad(mode={mode!r}{', reflect_type=odd' if odd else ''})",
            array,
            "Pad with mode='constant', 'edge', 'wrap', 'reflect' or 'symmetric', "
            "or pad the inputs.",
        )
    widths = _widths(pad_width, array.ndim)
    if np.min(widths, initial=0) < 0:
        raise ValueError(
            f"pad_width={pad_width!r} has a negative width.\n"
            "  Take entries away with slices: d[1:-1]."
        )
    np.pad(np.zeros((1,) * array.ndim), 0, mode, **kwargs)  # raises for arguments it does not know
    values = np.broadcast_to(kwargs.get("constant_values", 0), (array.ndim, 2))
    for k, (before, after) in enumerate(widths):
        if before or after:
            array = _padded(array, k, (before, after), mode, values[k])
    return array


def _widths(pad_width: Any, ndim: int) -> Sequence[tuple[int, int]]:
    if isinstance(pad_width, dict):
        whole: list[Any] = [(0, 0)] * ndim
        for axis, width in pad_width.items():
            whole[axis] = width if isinstance(width, tuple) else (width, width)
        pad_width = whole
    widths = np.asarray(pad_width)
    if widths.dtype.kind not in "iu":
        raise TypeError(f"`pad_width` must be of integral type, and is {pad_width!r}.")
    return [(int(a), int(b)) for a, b in np.broadcast_to(widths, (ndim, 2))]


def _padded(a: Node, axis: int, width: tuple[int, int], mode: str, values: Any) -> Node:
    n, (before, after) = a.shape[axis], width
    if mode not in ("constant", "empty"):
        return gather(a, axis, np.pad(np.arange(n), width, mode))  # type: ignore[call-overload]
    place = np.arange(-before, n + after)
    if n == 0:
        a, place = _one_row_of_none(a, axis), place * 0 - 1
        out = gather(a, axis, np.zeros(before + after, np.intp))
    else:
        out = gather(a, axis, place.clip(0, n - 1))
    for outside, value in zip((place < 0, place >= max(n, 1)), values, strict=True):
        if outside.any():
            fill = shapes.full_scalar(a, value, a.dtype)
            out = ops.call("where", along(out, axis, outside), fill, out)
    return out


def _one_row_of_none(a: Node, axis: int) -> Node:
    shape = (*a.shape[:axis], 1, *a.shape[axis + 1 :])
    one = shapes.full_scalar(a, 0, a.dtype)
    return expr.Broadcast(one, shape, a.roles)


def along(like: Node, axis: int, values: np.ndarray) -> Node:
    """A vector as an array along one axis of `like`."""
    shape = [1] * like.ndim
    shape[axis] = len(values)
    return input_of(constant(like, np.asarray(values).reshape(shape)), like.roles, bare=True)
