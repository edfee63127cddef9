"""torch's functions of shape and place on nodes: axes, rows by number, parts and what they join."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from duckkeops import expr, flat, gathers, indexing, ops, running, shapes, statistics, views
from duckkeops.errors import ShapeError
from duckkeops.expr import Input, Node
from duckkeops.operands import describe, on_host, unsupported
from duckkeops.tensors import numpy_dtype
from duckkeops.torch_rules import as_node, axes_of, axis_of, call, promoted

ALL = slice(None)


def sizes(given: Sequence[Any]) -> tuple[int, ...]:
    """What f(2, 3) and f((2, 3)) mean alike."""
    if len(given) == 1 and not isinstance(given[0], int | np.integer):
        given = tuple(given[0])
    return tuple(operator.index(n) for n in given)


# -- the order and number of axes ------------------------------------------------------------------


def transpose(input: Any, dim0: int, dim1: int) -> Node:
    a = as_node(input)
    if a.ndim == 0:
        for dim in (dim0, dim1):
            axis_of(a, dim)  # raises where there is no such axis
        return a
    return shapes.swapaxes(a, axis_of(a, dim0), axis_of(a, dim1))


def swapaxes(input: Any, axis0: int, axis1: int) -> Node:
    return transpose(input, axis0, axis1)


def t(input: Any) -> Node:
    a = as_node(input)
    if a.ndim > 2:
        raise RuntimeError(
            f"t() expects a tensor with <= 2 dimensions, but d: {describe(a)} is {a.ndim}D"
        )
    return shapes.transpose(a)


def adjoint(input: Any) -> Node:
    a = shapes.matrix_transpose(as_node(input))
    return call("conj", a) if a.dtype.kind == "c" else a


def permute(input: Any, *dims: Any, **named: Any) -> Node:
    a = as_node(input)
    order = sizes(dims or (named["dims"],))
    if len(order) != a.ndim:
        raise RuntimeError(
            f"permute(dims={order}): d: {describe(a)} has {a.ndim} axes, "
            f"and {len(order)} were named."
        )
    axes_of(a, order or None)  # raises where one appears twice
    return shapes.transpose(a, [axis_of(a, k) for k in order])


def movedim(input: Any, source: Any, destination: Any) -> Node:
    return shapes.moveaxis(as_node(input), source, destination)


def unsqueeze(input: Any, dim: int) -> Node:
    a = as_node(input)
    if not -a.ndim - 1 <= operator.index(dim) <= a.ndim:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-a.ndim - 1}, {a.ndim}], "
            f"but got {dim})"
        )
    return views.expand(a, (dim % (a.ndim + 1),))


def squeeze(input: Any, dim: Any = None) -> Node:
    a = as_node(input)
    axes = range(a.ndim) if dim is None else [axis_of(a, k) for k in np.atleast_1d(dim)]
    return views.squeeze(a, [k for k in axes if k < a.ndim and a.shape[k] == 1])


def reshape(input: Any, *shape: Any, **named: Any) -> Any:
    return flat.reshape(as_node(input), sizes(shape or (named["shape"],)))


def view(input: Any, *shape: Any, **named: Any) -> Any:
    a = as_node(input)
    if (shape and isinstance(shape[0], torch.dtype)) or "dtype" in named:
        raise unsupported("d.view(dtype)", a, "Convert values with d.to(dtype).")
    return reshape(a, *(shape or (named["size"],)))


def reshape_as(input: Any, other: Any) -> Any:
    return reshape(input, tuple(other.shape))


def flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    a = as_node(input)
    if a.ndim == 0:
        return views.expand(a, (0,))
    first, last = axis_of(a, start_dim), axis_of(a, end_dim)
    if first > last:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    merged = math.prod(a.shape[first : last + 1])
    return flat.reshape(a, (*a.shape[:first], merged, *a.shape[last + 1 :]))


def ravel(input: Any) -> Any:
    return flat.ravel(as_node(input))


def unflatten(input: Any, dim: int, *given: Any, **named: Any) -> Any:
    a = as_node(input)
    axis, lengths = axis_of(a, dim), sizes(given or (named["sizes"],))
    if -1 in lengths:
        rest = -math.prod(lengths)
        lengths = tuple(a.shape[axis] // max(rest, 1) if n == -1 else n for n in lengths)
    if math.prod(lengths) != a.shape[axis]:
        raise RuntimeError(
            f"unflatten: {lengths} do not multiply up to the {a.shape[axis]} entries of dim {axis} "
            f"of d: {describe(a)}."
        )
    return flat.reshape(a, (*a.shape[:axis], *lengths, *a.shape[axis + 1 :]))


def broadcast_to(input: Any, *size: Any, **named: Any) -> Node:
    """Also expand: -1 leaves an axis as it is."""
    a = as_node(input)
    wanted = sizes(size or (named.get("size", named.get("shape")),))
    short = len(wanted) - a.ndim
    if short < 0 or any(n == -1 for n in wanted[:short]):
        raise RuntimeError(f"expand: {wanted} has too few or unknown axes for d: {describe(a)}.")
    lengths = [a.shape[k - short] if n == -1 else n for k, n in enumerate(wanted)]
    return shapes.broadcast_to(a, tuple(lengths))


def expand_as(input: Any, other: Any) -> Node:
    return broadcast_to(input, tuple(other.shape))


def broadcast_tensors(*tensors: Any) -> tuple[Node, ...]:
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], tuple | list) else tensors
    return tuple(shapes.broadcast_arrays(*(as_node(x) for x in given)))


def atleast(ndim: int) -> Callable:
    one = functools.partial(shapes.atleast, ndim)

    def handler(*tensors: Any) -> Any:
        if len(tensors) == 1 and not isinstance(tensors[0], tuple | list):
            return one(as_node(tensors[0]))
        given = tensors[0] if len(tensors) == 1 else tensors
        return tuple(one(as_node(x)) for x in given)

    return handler


def meshgrid(*tensors: Any, indexing: str | None = None) -> tuple[Node, ...]:
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], tuple | list) else tensors
    return tuple(shapes.meshgrid(*(as_node(x) for x in given), indexing=indexing or "ij"))


# -- rows by number --------------------------------------------------------------------------------


def flip(input: Any, *dims: Any, **named: Any) -> Node:
    a = as_node(input)
    return views.flip(a, [axis_of(a, k) for k in sizes(dims or (named["dims"],))])


def fliplr(input: Any) -> Node:
    return shapes.fliplr(as_node(input))


def flipud(input: Any) -> Node:
    return shapes.flipud(as_node(input))


def rot90(input: Any, k: int = 1, dims: Sequence[int] = (0, 1)) -> Node:
    return shapes.rot90(as_node(input), k, tuple(dims))  # type: ignore[arg-type]


def roll(input: Any, shifts: Any, dims: Any = None) -> Any:
    return gathers.roll(as_node(input), shifts, dims)


def tile(input: Any, *dims: Any, **named: Any) -> Node:
    """Also Tensor.repeat."""
    return gathers.tile(as_node(input), sizes(dims or (named.get("dims", named.get("repeats")),)))


def repeat_interleave(
    input: Any, repeats: Any, dim: int | None = None, *, output_size: int | None = None
) -> Any:
    a = as_node(input)
    times = on_host(repeats) if isinstance(repeats, torch.Tensor) else repeats
    return gathers.repeat(a, times, dim)


def index_select(input: Any, dim: int, index: Any) -> Any:
    a = as_node(input)
    return indexing.getitem(a, (ALL,) * axis_of(a, dim) + (index.reshape(-1),))


def select(input: Any, dim: int, index: int) -> Any:
    a = as_node(input)
    return indexing.getitem(a, (ALL,) * axis_of(a, dim) + (operator.index(index),))


def narrow(input: Any, dim: int, start: Any, length: int) -> Node:
    a = as_node(input)
    axis, start = axis_of(a, dim), operator.index(start)
    n = a.shape[axis]
    start = start + n if start < 0 else start
    if length < 0 or not 0 <= start <= n - length:
        raise RuntimeError(
            f"narrow: start ({start}) + length ({length}) exceeds dimension size ({n})."
        )
    return shapes.piece(a, axis, slice(start, start + length))


def gather(input: Any, dim: int, index: Any, *, sparse_grad: bool = False, out: Any = None) -> Any:
    """The entries at `index` along an axis: single pairs, evaluated."""
    shapes.refuse_out("gather", out)
    a = as_node(input)
    axis = axis_of(a, dim)
    if index.ndim != a.ndim:
        raise RuntimeError(
            "Index tensor must have the same number of dimensions as input tensor: "
            f"{tuple(index.shape)} and {a.shape}"
        )
    for k in range(a.ndim):
        if k != axis and index.shape[k] != a.shape[k]:
            if index.shape[k] > a.shape[k]:
                raise RuntimeError(
                    f"Size does not match at dimension {k} expected index {tuple(index.shape)} "
                    f"to be no larger than d {a.shape} apart from dimension {axis}"
                )
            a = shapes.piece(a, k, slice(0, index.shape[k]))
    return indexing.take_along_axis(a, index, axis)


def take_along_dim(input: Any, indices: Any, dim: int | None = None, *, out: Any = None) -> Any:
    shapes.refuse_out("take_along_dim", out)
    a = as_node(input)
    if dim is None:
        raise unsupported("torch.take_along_dim without dim", a, "Name the axis: dim=1.")
    return indexing.take_along_axis(a, indices, axis_of(a, dim))


def diagonal(input: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    a = as_node(input)
    return indexing.diagonal(a, offset, axis_of(a, dim1), axis_of(a, dim2))


def linalg_diagonal(A: Any, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    return diagonal(A, offset, dim1, dim2)


def diag(input: Any, diagonal: int = 0, *, out: Any = None) -> Any:
    shapes.refuse_out("diag", out)
    return indexing.diag(as_node(input), diagonal)


def trace(input: Any) -> Any:
    return statistics.trace(as_node(input))


def tril(input: Any, diagonal: int = 0, *, out: Any = None) -> Node:
    shapes.refuse_out("tril", out)
    return shapes.tril(as_node(input), diagonal)


def triu(input: Any, diagonal: int = 0, *, out: Any = None) -> Node:
    shapes.refuse_out("triu", out)
    return shapes.triu(as_node(input), diagonal)


# -- apart, and side by side -----------------------------------------------------------------------


def _cut(a: Node, axis: int, lengths: Sequence[int]) -> tuple[Node, ...]:
    ends = np.cumsum([0, *lengths]).tolist()
    return tuple(shapes.piece(a, axis, slice(i, j)) for i, j in itertools.pairwise(ends))


def split(tensor: Any, split_size_or_sections: Any, dim: int = 0) -> tuple[Node, ...]:
    a = as_node(tensor)
    axis = axis_of(a, dim)
    n, parts = a.shape[axis], split_size_or_sections
    if isinstance(parts, int):
        if parts <= 0:
            raise RuntimeError(f"split expects a positive split_size, but got {parts}")
        count = max(-(-n // parts), 1)
        parts = [parts] * (count - 1) + [n - parts * (count - 1)]
    if sum(parts) != n:
        raise RuntimeError(
            f"split: the sections {list(parts)} add up to {sum(parts)}, and dim {axis} of "
            f"d: {describe(a)} has {n} entries."
        )
    return _cut(a, axis, parts)


def split_with_sizes(input: Any, split_sizes: Any, dim: int = 0) -> tuple[Node, ...]:
    return split(input, list(split_sizes), dim)


def chunk(input: Any, chunks: int, dim: int = 0) -> tuple[Node, ...]:
    a = as_node(input)
    if chunks <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    n = a.shape[axis_of(a, dim)]
    return split(a, max(-(-n // chunks), 1), dim)


def tensor_split(
    input: Any, indices_or_sections: Any = None, dim: int = 0, **named: Any
) -> tuple[Node, ...]:
    a = as_node(input)
    parts = named.get("indices", named.get("sections", indices_or_sections))
    parts = parts.tolist() if isinstance(parts, torch.Tensor) else parts
    return tuple(shapes.array_split(a, parts, axis_of(a, dim)))


def split_along(axis: int) -> Callable:
    """hsplit, vsplit and dsplit."""

    def handler(input: Any, *parts: Any, **named: Any) -> tuple[Node, ...]:
        a = as_node(input)
        dim = 0 if axis == 1 and a.ndim == 1 else axis
        given = parts[0] if len(parts) == 1 else parts or next(iter(named.values()))
        if isinstance(given, int) and a.shape[dim] % given:
            raise RuntimeError(
                f"dim {dim} of d: {describe(a)} is not split into {given} equal parts."
            )
        return tensor_split(a, given, dim)

    return handler


def unbind(input: Any, dim: int = 0) -> tuple[Node, ...]:
    a = as_node(input)
    return shapes.unstack(a, axis=axis_of(a, dim))


def cat(tensors: Any, dim: int = 0, *, out: Any = None) -> Node:
    shapes.refuse_out("cat", out)
    nodes = promoted([as_node(x) for x in tensors])
    axis = axis_of(nodes[0], dim)
    joined = shapes.concatenate(nodes, axis)
    arrays = [n.array for n in nodes if isinstance(n, Input)]
    if len(arrays) < len(nodes):
        return joined
    # no longer than its parts; and one array is differentiated, which a joined node is not
    return Input(torch.cat(arrays, axis), joined.dtype, joined.roles)


def stack(tensors: Any, dim: int = 0, *, out: Any = None) -> Node:
    shapes.refuse_out("stack", out)
    nodes = promoted([as_node(x) for x in tensors])
    unsqueeze(nodes[0], dim)  # raises where there is no such axis
    return shapes.stack(nodes, dim)


def joined(function: Callable) -> Callable:
    """hstack and its kin."""

    def handler(tensors: Any, *, out: Any = None) -> Node:
        shapes.refuse_out(function.__name__, out)
        return function(promoted([as_node(x) for x in tensors]))

    return handler


# -- along an axis ---------------------------------------------------------------------------------


def running_of(function: Callable) -> Callable:
    """cumsum and cumprod."""

    def handler(input: Any, dim: int, *, dtype: Any = None, out: Any = None) -> Any:
        shapes.refuse_out(function.__name__, out)
        a = as_node(input)
        if dtype is not None:
            a = ops.cast(a, numpy_dtype(dtype))
        elif a.dtype.kind in "biu":
            a = ops.cast(a, np.dtype(np.int64))
        axis = axis_of(a, dim)
        if expr.is_virtual(a) or a.roles[axis] == expr.FEATURE:
            return function(a, axis)
        tensor = indexing.dense(a)
        return getattr(torch, function.__name__)(tensor, axis)

    return handler


def diff(
    input: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None, *, out=None
) -> Node:
    shapes.refuse_out("diff", out)
    ends = {"prepend": prepend, "append": append}
    given = {k: as_node(x) for k, x in ends.items() if x is not None}
    a = as_node(input)
    return running.diff(a, n, axis_of(a, dim), **given)


def trapezoid(y: Any, x: Any = None, *, dx: Any = None, dim: int = -1) -> Any:
    a = as_node(y)
    points = None if x is None else as_node(x)
    return running.trapezoid(a, points, 1.0 if dx is None else dx, axis_of(a, dim))


MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad(input: Any, pad: Any, mode: str = "constant", value: float | None = None) -> Any:
    a = as_node(input)
    widths = list(pad)
    if len(widths) % 2 or len(widths) > 2 * a.ndim:
        raise ShapeError(f"pad takes two numbers for each axis, from the last on; got {widths}.")
    if mode not in MODES:
        raise NotImplementedError(f"Unrecognised padding mode {mode}")
    pairs = [(widths[k], widths[k + 1]) for k in range(0, len(widths), 2)]
    pairs += [(0, 0)] * (a.ndim - len(pairs))
    if any(w < 0 for pair in pairs for w in pair):
        raise unsupported("pad with negative widths", a, "Take a slice: d[:, 1:-1].")
    fill = {"constant_values": value or 0} if mode == "constant" else {}
    return gathers.pad(a, pairs[::-1], MODES[mode], **fill)
