"""torch's functions of single entries on nodes: arithmetic, activations, conversions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from duckkeops import elementwise, expr, lookups, ops, rewrite, shapes
from duckkeops.errors import DtypeError
from duckkeops.expr import Node
from duckkeops.operands import describe, on_host, unsupported
from duckkeops.tensors import is_tensor, numpy_dtype
from duckkeops.torch_rules import apply, as_node, call, promoted

NAMES = {  # of the arguments, where they are not (input, other)
    "pow": ("input", "exponent"),
    "float_power": ("input", "exponent"),
    "heaviside": ("input", "values"),
    "lerp": ("input", "end", "weight"),
    "complex": ("real", "imag"),
}


def row(op: ops.Op) -> Callable:
    """A row of the table of operations, under torch's names of its arguments."""
    names = NAMES.get(op.name, ("input", "other")[: op.nargs])

    def handler(*args: Any, out: Any = None, **kwargs: Any) -> Node:
        shapes.refuse_out(op.name, out)
        given = list(args)
        for name in names[len(args) :]:
            if name not in kwargs:
                raise TypeError(f"{op.name}() misses its argument {name!r}.")
            given.append(kwargs.pop(name))
        if kwargs:
            raise TypeError(f"{op.name}() of a lazy array takes no argument {next(iter(kwargs))}=.")
        return apply(op, *given)

    return handler


# -- arithmetic ------------------------------------------------------------------------------------


def add(input: Any, other: Any, *, alpha: Any = 1, out: Any = None) -> Node:
    shapes.refuse_out("add", out)
    return call("add", input, _times("add", alpha, other, input))


def sub(input: Any, other: Any, *, alpha: Any = 1, out: Any = None) -> Node:
    shapes.refuse_out("sub", out)
    return call("subtract", input, _times("sub", alpha, other, input))


def rsub(input: Any, other: Any, *, alpha: Any = 1) -> Node:
    return sub(other, input, alpha=alpha)


def _times(what: str, alpha: Any, x: Any, other: Any) -> Any:
    if type(alpha) is int and alpha == 1:
        return x
    both = promoted([as_node(x), as_node(other)])
    if isinstance(alpha, float) and both[0].dtype.kind in "biu":
        raise DtypeError(
            f"{what}(alpha={alpha}): integers are multiplied by an integer only, and the result "
            f"is of {both[0].dtype.name}.\n  Convert first, as in d.float()."
        )
    return call("multiply", both[0], alpha)


def div(input: Any, other: Any, *, rounding_mode: str | None = None, out: Any = None) -> Node:
    shapes.refuse_out("div", out)
    if rounding_mode is None:
        return call("divide", input, other)
    if rounding_mode == "floor":
        return call("floor_divide", input, other)
    if rounding_mode != "trunc":
        raise RuntimeError(
            "div expected rounding_mode to be one of None, 'trunc', or 'floor' "
            f"but found {rounding_mode!r}"
        )
    x, y = promoted([as_node(input), as_node(other)])
    if x.dtype.kind not in "biu":
        return call("trunc", call("divide", x, y))
    down = call("floor_divide", x, y)
    inexact = call("not_equal", call("multiply", down, y), x)
    raised = call("add", down, ops.cast(inexact, down.dtype))
    return call("where", call("less", down, 0), raised, down)


def ldexp(input: Any, other: Any, *, out: Any = None) -> Node:
    shapes.refuse_out("ldexp", out)
    return call("multiply", input, call("pow", 2.0, other))


def frexp(input: Any, *, out: Any = None) -> Any:
    shapes.refuse_out("frexp", out)
    a = inexact("frexp", input)
    parts: Any = (call("frexp_mantissa", a), call("frexp_exponent", a))
    return torch.return_types.frexp(parts)


def addcmul(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1, out: Any = None) -> Node:
    shapes.refuse_out("addcmul", out)
    return call("add", input, _by(call("multiply", tensor1, tensor2), value))


def addcdiv(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1, out: Any = None) -> Node:
    shapes.refuse_out("addcdiv", out)
    a, b, c = promoted([as_node(x) for x in (input, tensor1, tensor2)])
    return call("add", inexact("addcdiv", a), call("divide", _by(b, value), c))


def _by(x: Any, value: Any) -> Any:
    return x if type(value) is int and value == 1 else call("multiply", x, value)


# -- bounds and choices ----------------------------------------------------------------------------


def clamp(input: Any, min: Any = None, max: Any = None, *, out: Any = None) -> Node:
    shapes.refuse_out("clamp", out)
    if min is None and max is None:
        raise RuntimeError("torch.clamp: At least one of 'min' or 'max' must not be None")
    if min is None:
        return call("clamp_max", input, max)
    return call("clamp_min", input, min) if max is None else call("clamp", input, min, max)


def clamp_min(input: Any, min: Any, *, out: Any = None) -> Node:
    return clamp(input, min, out=out)


def clamp_max(input: Any, max: Any, *, out: Any = None) -> Node:
    return clamp(input, None, max, out=out)


def where(condition: Any, input: Any = None, other: Any = None, *, out: Any = None) -> Any:
    shapes.refuse_out("where", out)
    if input is None or other is None:
        raise unsupported("torch.where(condition)", as_node(condition), COUNT)
    return call("where", condition, input, other)


def where_of(self: Any, condition: Any, other: Any) -> Node:
    """Tensor.where: its first argument is the one chosen from."""
    return call("where", condition, self, other)


COUNT = (
    "Its length depends on the data. Count with (d == value).sum(dim=1), "
    "or find the extreme entries with torch.topk(d, k, dim=1)."
)


def masked_fill(input: Any, mask: Any, value: Any) -> Node:
    a, m = as_node(input), as_node(mask)
    if m.dtype != bool:
        raise DtypeError(f"masked_fill takes a mask of booleans, and got {describe(m)}.")
    return ops.cast(call("where", m, value, a), a.dtype)


def isclose(
    input: Any, other: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> Node:
    x, y = as_node(input), as_node(other)
    if x.dtype != y.dtype:
        raise DtypeError(f"isclose takes one dtype, and got {describe(x)} and {describe(y)}.")
    return ops.isclose(x, y, rtol, atol, equal_nan)


def isreal(input: Any) -> Node:
    return elementwise.isreal(as_node(input))


def isin(
    elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False
) -> Any:
    table = on_host(test_elements)
    return lookups.isin(as_node(elements), np.atleast_1d(table), assume_unique, invert)


def bucketize(
    input: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False, out: Any = None
) -> Any:
    shapes.refuse_out("bucketize", out)
    if not is_tensor(boundaries):
        raise unsupported(
            "torch.bucketize with lazy boundaries", as_node(boundaries), "Pass a tensor of them."
        )
    place = lookups.searchsorted(on_host(boundaries), as_node(input), "right" if right else "left")
    return ops.cast(place, np.dtype(np.int32)) if out_int32 else place


def searchsorted(
    sorted_sequence: Any,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Any = None,
    out: Any = None,
) -> Any:
    if sorter is not None or not is_tensor(sorted_sequence) or sorted_sequence.ndim != 1:
        raise unsupported(
            "torch.searchsorted in a lazy, many-dimensional or unsorted sequence",
            as_node(input if isinstance(input, Node) else sorted_sequence),
            "Pass a sorted tensor of one axis.",
        )
    right = right or side == "right"
    return bucketize(input, sorted_sequence, out_int32=out_int32, right=right, out=out)


# -- rounding and special functions ----------------------------------------------------------------


def round(input: Any, *, decimals: int = 0, out: Any = None) -> Node:
    shapes.refuse_out("round", out)
    a = as_node(input)
    return a if a.dtype.kind in "iu" else ops.round(a, decimals)


def whole(name: str) -> Callable:
    """floor, ceil and trunc: integers stay as they are."""

    def handler(input: Any, *, out: Any = None) -> Node:
        shapes.refuse_out(name, out)
        a = as_node(input)
        return a if a.dtype.kind in "iu" else call(name, a)

    return handler


def nan_to_num(
    input: Any, nan: Any = None, posinf: Any = None, neginf: Any = None, *, out: Any = None
) -> Node:
    shapes.refuse_out("nan_to_num", out)
    return ops.nan_to_num(as_node(input), 0.0 if nan is None else nan, posinf, neginf)


def logit(input: Any, eps: float | None = None, *, out: Any = None) -> Node:
    shapes.refuse_out("logit", out)
    a = floating(as_node(input))
    return call("logit", a if eps is None else call("clamp", a, eps, 1 - eps))


def floating(a: Node) -> Node:
    """Integers in torch's default dtype."""
    return ops.cast(a, numpy_dtype(torch.get_default_dtype())) if a.dtype.kind in "biu" else a


def real(input: Any) -> Node:
    return elementwise.real(as_node(input))


def imag(input: Any) -> Node:
    a = as_node(input)
    if a.dtype.kind != "c":
        raise RuntimeError(
            f"imag is not implemented for tensors with non-complex dtypes: d is {describe(a)}."
        )
    return call("imag", a)


def conj(input: Any) -> Node:
    a = as_node(input)
    return call("conj", a) if a.dtype.kind == "c" else a


def reciprocal(input: Any, *, out: Any = None) -> Node:
    shapes.refuse_out("reciprocal", out)
    return call("reciprocal", floating(as_node(input)))


def polar(abs: Any, angle: Any, *, out: Any = None) -> Node:
    shapes.refuse_out("polar", out)
    return ops.polar(as_node(abs), as_node(angle))


# -- activations -----------------------------------------------------------------------------------


def inexact(what: str, x: Any) -> Node:
    """A node of floats, as most activations need. Raises DtypeError for integers."""
    a = as_node(x)
    if a.dtype.kind in "biu":
        raise DtypeError(
            f"{what}(): torch computes it of floats only, and d is {describe(a)}.\n"
            "  Convert first, as in d.float()."
        )
    return a


def activation(name: str, parameters: int = 0, whole: bool = False) -> Callable:
    """An activation with so many parameters before `inplace`, of floats unless `whole`."""
    function = ops.COMPOSITES.get(name) or (lambda a: call(name, a))

    def handler(input: Any, *args: Any, inplace: bool = False, **kwargs: Any) -> Node:
        if len(args) > parameters:
            (inplace,), args = args[parameters:], args[:parameters]
        a = as_node(input) if whole else inexact(name, input)
        if inplace:
            raise unsupported(f"{name}(inplace=True)", a, "Leave inplace= away.")
        return function(a, *args, **kwargs)

    return handler


def prelu(input: Any, weight: Any) -> Node:
    a, w = inexact("prelu", input), as_node(weight)
    if w.ndim == 1 and w.shape != (1,) and a.ndim > 2:
        w = as_node(weight.reshape(-1, *(1,) * (a.ndim - 2)))
    return call("where", call("greater", a, 0), a, call("multiply", w, a))


def rrelu(
    input: Any,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Node:
    a = inexact("rrelu", input)
    if training or inplace:
        raise unsupported("rrelu(training=True or inplace=True)", a, _RANDOM)
    return ops.leaky_relu(a, (lower + upper) / 2)


def dropout(
    input: Any, p: float = 0.5, training: bool = True, inplace: bool = False, train: bool = True
) -> Node:
    a = as_node(input)
    if (training and train and p) or inplace:
        raise unsupported("dropout", a, _RANDOM)
    return a


_RANDOM = "It draws a number for each entry: pass training=False, or drop entries of the inputs."

# -- conversions and copies ------------------------------------------------------------------------


def with_tensors(node: Node, change: Callable) -> Node:
    """The same expression of other tensors."""
    return rewrite.with_arrays(node, lambda x: change(x) if is_tensor(x) else x)


def converted(dtype: torch.dtype) -> Callable:
    """A method such as d.float()."""

    def handler(input: Any, memory_format: Any = None) -> Node:
        return ops.cast(as_node(input), numpy_dtype(dtype))

    return handler


def to(
    input: Any,
    *args: Any,
    dtype: Any = None,
    device: Any = None,
    other: Any = None,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: Any = None,
) -> Node:
    """In another dtype, and with the inputs on another device."""
    a = as_node(input)
    for x in args:
        if isinstance(x, torch.dtype):
            dtype = x
        elif isinstance(x, str | torch.device | int) and not isinstance(x, bool):
            device = x
        elif isinstance(x, torch.Tensor | Node):
            other = x
    if isinstance(other, Node):
        return ops.cast(a, other.dtype)
    if other is not None:
        dtype, device = other.dtype, other.device
    if device is not None:
        a = with_tensors(a, lambda t: t.to(device))
    return a if dtype is None else ops.cast(a, numpy_dtype(dtype))


def cpu(input: Any, memory_format: Any = None) -> Node:
    return to(input, "cpu")


def cuda(input: Any, device: Any = None, non_blocking: bool = False, memory_format: Any = None):
    return to(input, "cuda" if device is None else device)


def type_(input: Any, dtype: Any = None, non_blocking: bool = False) -> Any:
    a = as_node(input)
    if dtype is None:
        return torch.empty(0, dtype=getattr(torch, a.dtype.name)).type()
    if isinstance(dtype, str):
        dtype = torch.empty(0).type(dtype).dtype
    return ops.cast(a, numpy_dtype(dtype))


def type_as(input: Any, other: Any) -> Node:
    return to(input, other)


def same(input: Any, **options: Any) -> Node:
    """contiguous, alias: a lazy array is immutable."""
    return as_node(input)


def clone(input: Any, **options: Any) -> Node:
    """The same expression of clones: what is written to the tensors later does not reach it."""
    return elementwise.copy(input)


def detach(input: Any) -> Node:
    """The same expression of detached inputs: no gradient flows through it."""
    return with_tensors(as_node(input), lambda t: t.detach())


def filled(value: Any) -> Callable:
    """zeros_like and its kin: a constant that takes no memory."""

    def handler(input: Any, *args: Any, dtype: Any = None, **options: Any) -> Node:
        a = as_node(input)
        number = options.pop("fill_value", args[0] if args else value)
        only = {k for k, v in options.items() if v} - {"device", "layout", "memory_format"}
        if only:
            raise unsupported(f"a constant like d with {min(only)}=", a, "Leave it away.")
        return shapes.full_like(a, number, None if dtype is None else numpy_dtype(dtype))

    return handler


def is_virtual(x: Any) -> bool:
    return isinstance(x, Node) and expr.is_virtual(x)
