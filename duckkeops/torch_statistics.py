"""torch's reductions on nodes: torch's names, arguments, dtypes and results.

Each returns a tensor where DESIGN's rule evaluates, and a node otherwise; functions with several
results return torch's named tuples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from duckkeops import (
    expr,
    genuine,
    ops,
    reductions,
    restriction,
    shapes,
    sorting,
    statistics,
    torch_elementwise,
    torch_grad,
)
from duckkeops.errors import DtypeError, UnsupportedError
from duckkeops.expr import Node
from duckkeops.operands import describe
from duckkeops.tensors import numpy_dtype, torch_dtype
from duckkeops.torch_rules import Dim, as_node, axes_of, axis_of, call

types: Any = torch.return_types


def finished(value: Any, out: Any) -> Any:
    if out is None:
        return value
    if isinstance(value, Node):
        raise UnsupportedError(
            f"out= of a lazy array has nothing to write: the result, {describe(value)}, is lazy.\n"
            "  Leave out= away, and reduce the result."
        )
    if out.shape != value.shape:
        out.resize_(value.shape)
    return out.copy_(value)


# -- reductions ------------------------------------------------------------------------------------


def sum(input: Any, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None, out: Any = None):
    a = as_node(input)
    wanted = None if dtype is None else numpy_dtype(dtype)
    a = a if wanted is None else ops.cast(a, wanted)
    if a.ndim == 0:
        return finished(_widened(a), out)
    return finished(_signed(statistics.total(a, axes_of(a, dim), wanted, keepdim)), out)


def _widened(a: Node) -> Any:
    return _dense(ops.cast(a, np.dtype(np.int64)) if a.dtype.kind in "biu" else a)


def _signed(value: Any) -> Any:
    """torch sums unsigned integers in int64."""
    if isinstance(value, Node) and value.dtype == np.uint64:
        return ops.cast(value, np.dtype(np.int64))
    if isinstance(value, torch.Tensor) and value.dtype is torch.uint64:
        return value.to(torch.int64)
    return value


def _dense(a: Node) -> Any:
    return a if expr.is_virtual(a) else genuine.dense(a)


def prod(input: Any, dim: int | None = None, keepdim: bool = False, *, dtype=None, out=None):
    a = as_node(input)
    wanted = None if dtype is None else numpy_dtype(dtype)
    a = a if wanted is None else ops.cast(a, wanted)
    value = statistics.fold("prod", (a,), axes_of(a, dim), keepdim, dtype=wanted)
    return finished(_signed(value), out)


def mean(input: Any, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None, out: Any = None):
    a = as_node(input)
    a = a if dtype is None else ops.cast(a, numpy_dtype(dtype))
    inexact("mean", a)
    return finished(statistics.fold("mean", (a,), axes_of(a, dim), keepdim), out)


def inexact(what: str, a: Node) -> None:
    if a.dtype.kind in "biu":
        raise DtypeError(
            f"{what}(): a floating-point or complex dtype is needed, and d is {describe(a)}.\n"
            "  Convert first, as in d.float()."
        )


def nansum(input: Any, dim: Dim = None, keepdim: bool = False, *, dtype=None, out=None):
    a = as_node(input)
    zero = call("where", call("isnan", a), 0.0, a) if a.dtype.kind in "fc" else a
    return sum(zero, dim, keepdim, dtype=dtype, out=out)


def nanmean(input: Any, dim: Dim = None, keepdim: bool = False, *, dtype=None, out=None):
    a = as_node(input)
    total = nansum(a, dim, keepdim, dtype=dtype)
    count = sum(call("logical_not", call("isnan", a)), dim, keepdim)
    return finished(genuine.call("divide", total, genuine.cast(count, _dtype(total))), out)


def _dtype(x: Any) -> np.dtype:
    return x.dtype if isinstance(x, Node) else numpy_dtype(x.dtype)


def _variance(
    name: str, input: Any, dim: Any, correction: Any, keepdim: bool, unbiased: Any
) -> tuple[Node, Any]:
    if isinstance(dim, bool):  # var(input, unbiased)
        dim, unbiased = None, dim
    if unbiased is not None:
        correction = int(unbiased)
    a = as_node(input)
    inexact(name, a)
    params: dict[str, Any] = {"correction": 1 if correction is None else correction}
    return a, statistics.fold(name, (a,), axes_of(a, dim), keepdim, **params)


def var(input, dim=None, unbiased=None, keepdim=False, *, correction=None, out=None):
    return finished(_variance("var", input, dim, correction, keepdim, unbiased)[1], out)


def std(input, dim=None, unbiased=None, keepdim=False, *, correction=None, out=None):
    return finished(_variance("std", input, dim, correction, keepdim, unbiased)[1], out)


def var_mean(input, dim=None, unbiased=None, keepdim=False, *, correction=None):
    a, value = _variance("var", input, dim, correction, keepdim, unbiased)
    return value, mean(a, None if isinstance(dim, bool) else dim, keepdim)


def std_mean(input, dim=None, unbiased=None, keepdim=False, *, correction=None):
    a, value = _variance("std", input, dim, correction, keepdim, unbiased)
    return value, mean(a, None if isinstance(dim, bool) else dim, keepdim)


def amin(input: Any, dim: Dim = (), keepdim: bool = False, *, out: Any = None) -> Any:
    a = as_node(input)
    return finished(statistics.fold("min", (a,), axes_of(a, dim), keepdim), out)


def amax(input: Any, dim: Dim = (), keepdim: bool = False, *, out: Any = None) -> Any:
    a = as_node(input)
    return finished(statistics.fold("max", (a,), axes_of(a, dim), keepdim), out)


def aminmax(input: Any, *, dim: int | None = None, keepdim: bool = False, out: Any = None) -> Any:
    return types.aminmax((amin(input, dim, keepdim), amax(input, dim, keepdim)))


def min(input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None, out: Any = None):
    return _extreme("min", "argmin", "minimum", input, dim, keepdim, other)


def max(input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None, out: Any = None):
    return _extreme("max", "argmax", "maximum", input, dim, keepdim, other)


def _extreme(name: str, arg: str, pair: str, input: Any, dim: Any, keepdim: bool, other: Any):
    """min and max: of two arrays entry by entry, of all entries, or along an axis with places."""
    if other is not None or not (dim is None or isinstance(dim, int)):
        return call(pair, input, dim if other is None else other)
    a = as_node(input)
    if dim is None:
        return statistics.fold(name, (a,), axes_of(a, None))
    axis = axis_of(a, dim)
    node = reductions.reduce(reductions.BY_NAME[arg], (a,), (axis,))
    if not node.outline.evaluated:  # over features
        values = statistics.fold(name, (a,), (axis,), keepdim)
        return getattr(types, name)((values, statistics.fold(arg, (a,), (axis,), keepdim)))
    values, index = with_places(genuine.settled_reduction(node))
    values = values.to(torch_dtype(a.dtype))  # halves were compared in float32
    return getattr(types, name)(
        (genuine.expand(values, (axis,)), genuine.expand(index, (axis,)))
        if keepdim
        else (values, index)
    )


def with_places(node: Any) -> tuple[Any, Any]:
    """The least (or greatest) entries of an argmin, and where they are."""
    if torch_grad.is_native(node) and restriction.of(node) is None:
        (a,), (axis,) = node.args, node.axes
        pair = torch.min if node.row.name == "argmin" else torch.max
        return tuple(pair(genuine.dense(a), axis))  # type: ignore[return-value]
    index, values = torch_grad.outputs(node, places=True)
    return values, index


def argmin(input: Any, dim: int | None = None, keepdim: bool = False, *, out: Any = None) -> Any:
    a = as_node(input)
    return finished(statistics.fold("argmin", (a,), axes_of(a, dim), keepdim), out)


def argmax(input: Any, dim: int | None = None, keepdim: bool = False, *, out: Any = None) -> Any:
    a = as_node(input)
    return finished(statistics.fold("argmax", (a,), axes_of(a, dim), keepdim), out)


def any(input: Any, dim: Dim = None, keepdim: bool = False, *, out: Any = None) -> Any:
    return finished(_truth("any", as_node(input), dim, keepdim), out)


def all(input: Any, dim: Dim = None, keepdim: bool = False, *, out: Any = None) -> Any:
    return finished(_truth("all", as_node(input), dim, keepdim), out)


def _truth(name: str, a: Node, dim: Dim, keepdim: bool) -> Any:
    """any and all: of uint8, torch's first booleans, they are uint8 still."""
    args = (ops.cast(a, np.dtype(bool)),)
    value = statistics.fold(name, args, axes_of(a, dim), keepdim)
    return genuine.cast(value, a.dtype) if a.dtype == np.uint8 else value


def count_nonzero(input: Any, dim: Dim = None) -> Any:
    a = as_node(input)
    return statistics.fold("count_nonzero", (a,), axes_of(a, dim))


def logsumexp(input: Any, dim: Dim, keepdim: bool = False, *, out: Any = None) -> Any:
    a = _floating(as_node(input))
    return finished(statistics.fold("logsumexp", (a,), axes_of(a, dim), keepdim), out)


def _floating(a: Node) -> Node:
    return ops.cast(a, numpy_dtype(torch.get_default_dtype())) if a.dtype.kind in "biu" else a


def topk(input: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True, *, out=None):
    a = as_node(input)
    return types.topk(sorting.topk(a, _count(k, a, axis_of(a, dim)), axis_of(a, dim), largest))


def _count(k: int, a: Node, axis: int) -> int:
    if not 0 <= k <= a.shape[axis]:
        raise RuntimeError(
            f"topk(k={k}): d: {describe(a)} has {a.shape[axis]} entries along dim {axis}."
        )
    return k


def kthvalue(input: Any, k: int, dim: int = -1, keepdim: bool = False, *, out: Any = None) -> Any:
    a = as_node(input)
    axis = axis_of(a, dim)
    n = a.shape[axis]
    if not 1 <= k <= n:
        raise RuntimeError(f"kthvalue(k={k}): d: {describe(a)} has {n} entries along dim {axis}.")
    largest = n - k + 1 < k
    pair = sorting.topk(a, n - k + 1 if largest else k, axis, largest)
    key = (slice(None),) * axis + (slice(-1, None) if keepdim else -1,)
    return types.kthvalue(tuple(x[key] for x in pair))


def sort(
    input: Any, dim: int = -1, descending: bool = False, stable: bool = False, *, out: Any = None
) -> Any:
    """The entries in order and where they were; those of a virtual array are to be sliced."""
    return types.sort(tuple(_in_order(n, input, dim, descending) for n in ("sort", "argsort")))


def argsort(input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    return _in_order("argsort", input, dim, descending)


def msort(input: Any, *, out: Any = None) -> Any:
    return _in_order("sort", input, 0, False)


def _in_order(name: str, input: Any, dim: Any, descending: Any) -> Any:
    a = as_node(input)
    if isinstance(dim, bool):  # sort(stable, dim, descending) and argsort(descending)
        raise TypeError(f"{name}(dim={dim}): dim is a number. Name descending=.")
    axis = axis_of(a, dim)
    if not expr.is_virtual(a):
        done = torch.sort(genuine.dense(a), axis, descending)
        return done.values if name == "sort" else done.indices
    ordered = getattr(sorting, name)(a, axis)
    return ordered[(slice(None),) * axis + (slice(None, None, -1),)] if descending else ordered


def softmax(input: Any, dim: int, dtype: Any = None, _stacklevel: int = 3, *, out: Any = None):
    a = as_node(input)
    shapes.refuse_out("softmax", out)
    a = _floating(a) if dtype is None else ops.cast(a, numpy_dtype(dtype))
    return statistics.softmax(a, axis_of(a, dim))


def log_softmax(input: Any, dim: int, dtype: Any = None, _stacklevel: int = 3, *, out: Any = None):
    a = as_node(input)
    shapes.refuse_out("log_softmax", out)
    a = _floating(a) if dtype is None else ops.cast(a, numpy_dtype(dtype))
    return statistics.log_softmax(a, axis_of(a, dim))


def softmin(input: Any, dim: int, dtype: Any = None, _stacklevel: int = 3) -> Any:
    return softmax(call("negative", input), dim, dtype)


# -- of all entries --------------------------------------------------------------------------------


def equal(input: Any, other: Any) -> bool:
    """Are shapes and all entries the same?"""
    a, b = as_node(input), as_node(other)
    return tuple(a.shape) == tuple(b.shape) and statistics.array_equal(a, b)


def allclose(
    input: Any, other: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> bool:
    """Are all entries next to each other, as isclose says?"""
    return bool(all(torch_elementwise.isclose(input, other, rtol, atol, equal_nan)))
