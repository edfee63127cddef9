"""torch's functions on nodes: torch's names, arguments, dtypes and results.

Each returns a tensor where DESIGN's rule evaluates, and a node otherwise; functions with several
results return torch's named tuples. Rows of ops.TABLE answer for the functions that they name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from duckkeops import (
    contractions,
    expr,
    genuine,
    ops,
    reductions,
    shapes,
    sorting,
    statistics,
    torch_grad,
)
from duckkeops.errors import DtypeError, UnsupportedError
from duckkeops.expr import Node
from duckkeops.operands import describe, unsupported
from duckkeops.tensors import numpy_dtype
from duckkeops.torch_rules import Dim, apply, as_node, axes_of, axis_of, call

types: Any = torch.return_types


def _finished(value: Any, out: Any) -> Any:
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
        return _finished(_widened(a), out)
    return _finished(_signed(statistics.total(a, axes_of(a, dim), wanted, keepdim)), out)


def _widened(a: Node) -> Any:
    return _dense(ops.cast(a, np.dtype(np.int64)) if a.dtype.kind in "biu" else a)


def _signed(value: Any) -> Any:
    """torch sums unsigned integers in int64."""
    if isinstance(value, Node) and value.dtype == np.uint64:
        return ops.cast(value, np.dtype(np.int64))
    unsigned = isinstance(value, torch.Tensor) and value.dtype is torch.uint64
    return value.to(torch.int64) if unsigned else value


def _dense(a: Node) -> Any:
    return a if expr.is_virtual(a) else genuine.dense(a)


def prod(input: Any, dim: int | None = None, keepdim: bool = False, *, dtype=None, out=None):
    a = as_node(input)
    wanted = None if dtype is None else numpy_dtype(dtype)
    a = a if wanted is None else ops.cast(a, wanted)
    value = statistics.fold("prod", (a,), axes_of(a, dim), keepdim, dtype=wanted)
    return _finished(_signed(value), out)


def mean(input: Any, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None, out: Any = None):
    a = as_node(input)
    a = a if dtype is None else ops.cast(a, numpy_dtype(dtype))
    _inexact("mean", a)
    return _finished(statistics.fold("mean", (a,), axes_of(a, dim), keepdim), out)


def _inexact(what: str, a: Node) -> None:
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
    return _finished(genuine.call("divide", total, genuine.cast(count, _dtype(total))), out)


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
    _inexact(name, a)
    params = {"correction": 1 if correction is None else correction}
    return a, statistics.fold(name, (a,), axes_of(a, dim), keepdim, **params)


def var(input, dim=None, unbiased=None, keepdim=False, *, correction=None, out=None):
    return _finished(_variance("var", input, dim, correction, keepdim, unbiased)[1], out)


def std(input, dim=None, unbiased=None, keepdim=False, *, correction=None, out=None):
    return _finished(_variance("std", input, dim, correction, keepdim, unbiased)[1], out)


def var_mean(input, dim=None, unbiased=None, keepdim=False, *, correction=None):
    a, value = _variance("var", input, dim, correction, keepdim, unbiased)
    return value, mean(a, None if isinstance(dim, bool) else dim, keepdim)


def std_mean(input, dim=None, unbiased=None, keepdim=False, *, correction=None):
    a, value = _variance("std", input, dim, correction, keepdim, unbiased)
    return value, mean(a, None if isinstance(dim, bool) else dim, keepdim)


def amin(input: Any, dim: Dim = (), keepdim: bool = False, *, out: Any = None) -> Any:
    a = as_node(input)
    return _finished(statistics.fold("min", (a,), axes_of(a, dim), keepdim), out)


def amax(input: Any, dim: Dim = (), keepdim: bool = False, *, out: Any = None) -> Any:
    a = as_node(input)
    return _finished(statistics.fold("max", (a,), axes_of(a, dim), keepdim), out)


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
    return getattr(types, name)(
        (genuine.expand(values, (axis,)), genuine.expand(index, (axis,)))
        if keepdim
        else (values, index)
    )


def with_places(node: Any) -> tuple[Any, Any]:
    """The least (or greatest) entries of an argmin, and where they are."""
    if torch_grad.is_native(node):
        (a,), (axis,) = node.args, node.axes
        pair = torch.min if node.row.name == "argmin" else torch.max
        return tuple(pair(genuine.dense(a), axis))  # type: ignore[return-value]
    index, values = torch_grad.outputs(node, places=True)
    return values, index


def argmin(input: Any, dim: int | None = None, keepdim: bool = False, *, out: Any = None) -> Any:
    a = as_node(input)
    return _finished(statistics.fold("argmin", (a,), axes_of(a, dim), keepdim), out)


def argmax(input: Any, dim: int | None = None, keepdim: bool = False, *, out: Any = None) -> Any:
    a = as_node(input)
    return _finished(statistics.fold("argmax", (a,), axes_of(a, dim), keepdim), out)


def any(input: Any, dim: Dim = None, keepdim: bool = False, *, out: Any = None) -> Any:
    a = ops.cast(as_node(input), np.dtype(bool))
    return _finished(statistics.fold("any", (a,), axes_of(a, dim), keepdim), out)


def all(input: Any, dim: Dim = None, keepdim: bool = False, *, out: Any = None) -> Any:
    a = ops.cast(as_node(input), np.dtype(bool))
    return _finished(statistics.fold("all", (a,), axes_of(a, dim), keepdim), out)


def count_nonzero(input: Any, dim: Dim = None) -> Any:
    a = as_node(input)
    return statistics.fold("count_nonzero", (a,), axes_of(a, dim))


def logsumexp(input: Any, dim: Dim, keepdim: bool = False, *, out: Any = None) -> Any:
    a = _floating(as_node(input))
    return _finished(statistics.fold("logsumexp", (a,), axes_of(a, dim), keepdim), out)


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


def softmax(input: Any, dim: int, dtype: Any = None, _stacklevel: int = 3, *, out: Any = None):
    a = as_node(input)
    a = _floating(a) if dtype is None else ops.cast(a, numpy_dtype(dtype))
    return statistics.softmax(a, axis_of(a, dim))


def log_softmax(input: Any, dim: int, dtype: Any = None, _stacklevel: int = 3, *, out: Any = None):
    a = as_node(input)
    a = _floating(a) if dtype is None else ops.cast(a, numpy_dtype(dtype))
    return statistics.log_softmax(a, axis_of(a, dim))


def softmin(input: Any, dim: int, dtype: Any = None, _stacklevel: int = 3) -> Any:
    return softmax(call("negative", input), dim, dtype)


# -- products --------------------------------------------------------------------------------------


def matmul(input: Any, other: Any, *, out: Any = None) -> Any:
    a, b = as_node(input), as_node(other)
    if a.dtype != b.dtype:
        raise DtypeError(
            f"matmul: expected both operands of one dtype, and got {describe(a)} and "
            f"{describe(b)}.\n  Convert one of them, as in b.to(d.dtype)."
        )
    return _finished(contractions.matmul(a, b), out)


def einsum(*operands: Any) -> Any:
    if len(operands) == 2 and isinstance(operands[1], list | tuple):  # einsum("ij,j->i", [K, b])
        operands = (operands[0], *operands[1])
    return contractions.einsum(*operands)


# -- the table -------------------------------------------------------------------------------------

REDUCES: dict[Any, Callable] = {
    torch.sum: sum, torch.nansum: nansum, torch.mean: mean, torch.nanmean: nanmean,
    torch.prod: prod, torch.var: var, torch.std: std, torch.var_mean: var_mean,
    torch.std_mean: std_mean, torch.min: min, torch.max: max, torch.amin: amin, torch.amax: amax,
    torch.aminmax: aminmax, torch.argmin: argmin, torch.argmax: argmax, torch.any: any,
    torch.all: all, torch.count_nonzero: count_nonzero, torch.logsumexp: logsumexp,
    torch.special.logsumexp: logsumexp, torch.topk: topk, torch.kthvalue: kthvalue,
    torch.softmax: softmax, torch.special.softmax: softmax, F.softmax: softmax,
    torch.log_softmax: log_softmax, torch.special.log_softmax: log_softmax,
    F.log_softmax: log_softmax, F.softmin: softmin, torch.matmul: matmul,
    torch.linalg.matmul: matmul, torch.mm: matmul, torch.mv: matmul, torch.bmm: matmul,
    torch.einsum: einsum,
}  # fmt: skip
OPERATORS = {
    "__pow__": "pow", "__floordiv__": "floor_divide", "__and__": "bitwise_and",
    "__or__": "bitwise_or", "__xor__": "bitwise_xor", "__lshift__": "bitwise_left_shift",
    "__rshift__": "bitwise_right_shift",
}  # fmt: skip


def _row(op: ops.Op) -> Callable:
    def handler(*args: Any, out: Any = None, **kwargs: Any) -> Node:
        shapes.refuse_out(op.name, out)
        return apply(op, *args, *kwargs.values())

    return handler


def _handlers() -> dict[Any, Callable]:
    out: dict[Any, Callable] = {}
    for op in ops.TABLE:
        names = (op.torch, op.name, *(a for a in op.aliases if isinstance(a, str)))
        for name in names:
            if name is None:
                continue
            try:
                function = functools.reduce(getattr, name.split("."), torch)
            except AttributeError:
                continue
            out.setdefault(function, _row(op))
    out.update(REDUCES)
    for function, handler in list(out.items()):  # methods of tensors are functions of their own
        name = getattr(function, "__name__", "")
        method = getattr(torch.Tensor, name, None)
        if method is not None and getattr(torch, name, None) is function:
            out.setdefault(method, handler)
    for name, row in OPERATORS.items():
        out[getattr(torch.Tensor, name)] = _row(ops.ROWS[row])
    out[torch.Tensor.matmul] = out[torch.Tensor.__matmul__] = matmul
    return out


HANDLERS = _handlers()


def function(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The answer to a torch function of nodes and other arguments."""
    handler = HANDLERS.get(func)
    for theirs, ours in (("axis", "dim"), ("keepdims", "keepdim")):
        if theirs in kwargs:
            kwargs[ours] = kwargs.pop(theirs)
    if handler is not None:
        return handler(*args, **kwargs)
    name = torch.overrides.resolve_name(func) or getattr(func, "__name__", repr(func))
    virtual = next((n for n in _nodes((args, kwargs)) if expr.is_virtual(n)), None)
    if virtual is not None:
        raise unsupported(name, virtual)
    return func(*_computed(args), **_computed(kwargs))


def _nodes(value: Any) -> list[Node]:
    if isinstance(value, Node):
        return [value]
    inner = value.values() if isinstance(value, dict) else value
    return [n for v in inner for n in _nodes(v)] if isinstance(value, dict | tuple | list) else []


def _computed(value: Any) -> Any:
    if isinstance(value, Node):
        return genuine.dense(value)
    if isinstance(value, dict):
        return {k: _computed(v) for k, v in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_computed(v) for v in value)
    return value
