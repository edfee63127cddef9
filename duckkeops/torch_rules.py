"""torch's rules on nodes: in which dtype operands are computed, and which axes are meant."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from duckkeops import expr, ops
from duckkeops.expr import Node
from duckkeops.operands import leading_input, node_of
from duckkeops.tensors import numpy_dtype, torch_dtype

Dim = int | Sequence[int] | None


# -- dtypes ----------------------------------------------------------------------------------------


def as_node(x: Any) -> Node:
    """An operand: a node, a tensor, or a number; NumPy's scalars count as Python's, as in torch."""
    if isinstance(x, Node):
        return x
    return node_of(x.item() if isinstance(x, np.generic) else x)


@functools.lru_cache(maxsize=4096)
def _common(kinds: tuple[tuple[Any, bool], ...], default: torch.dtype) -> np.dtype:
    """torch's result_type: arrays before numbers of one entry before Python's, by category."""
    samples = [
        t(1) if isinstance(t, type) else torch.empty((0,) if axes else (), dtype=torch_dtype(t))
        for t, axes in kinds
    ]
    groups: list[Any] = []
    for want in (True, False):  # result_type takes two at a time, and loses what is a number
        some = [s for s in samples if isinstance(s, torch.Tensor) and bool(s.ndim) is want]
        if some:
            dtype = functools.reduce(torch.promote_types, [s.dtype for s in some])
            groups.append(torch.empty((0,) if want else (), dtype=dtype))
    groups += [s for s in samples if not isinstance(s, torch.Tensor)]
    out = groups[0]
    for g in groups[1:]:
        dtype = torch.result_type(out, g)
        shaped = isinstance(out, torch.Tensor) and out.ndim > 0
        out = torch.empty((0,) if shaped else (), dtype=dtype)
    return numpy_dtype(out.dtype if isinstance(out, torch.Tensor) else torch.tensor(out).dtype)


def promoted(nodes: Sequence[Node]) -> list[Node]:
    """Nodes in the dtype that torch would compute in; numbers stay weak where they fit."""
    wanted = _casts(None, tuple([(n.dtype, n.ndim > 0) for n in nodes]), torch.get_default_dtype())
    return [n if t is None else ops.cast(n, t) for n, t in zip(nodes, wanted, strict=True)]


@functools.lru_cache(maxsize=4096)
def _casts(op: ops.Op | None, kinds: tuple, default: torch.dtype) -> tuple[np.dtype | None, ...]:
    """What operands of these dtypes, with axes or without, are cast to; None is nothing.

    Where NumPy makes floats of integers, torch makes its default dtype of them.
    """
    if op is ops.ROWS["where"]:
        return None, *_casts(None, kinds[1:], default)
    dtypes = [t for t, _ in kinds]
    if any(t != dtypes[0] for t in dtypes):
        common = _common(kinds, default)
        dtypes = [t if _fits(t, common) else common for t in dtypes]
    first = next((t for t in dtypes if isinstance(t, np.dtype)), None)
    whole = first is not None and first.kind in "biu"
    if op is not None and whole and op.name != "float_power":
        result = ops.resolve(op, (first,) * op.nargs)[1]
        dtypes = [numpy_dtype(default)] * len(dtypes) if result.kind == "f" else dtypes
    return tuple(None if t == have else t for t, (have, _) in zip(dtypes, kinds, strict=True))


@functools.lru_cache(maxsize=expr.TABLE_SIZE)
def _casts_seen(
    op: ops.Op, operands: tuple[expr.Outline, ...], default: torch.dtype
) -> tuple[np.dtype | None, ...] | None:
    """`_casts` of operands with these outlines; None where nothing is cast."""
    wanted = _casts(op, tuple([(o.dtype, bool(o.shape)) for o in operands]), default)
    return wanted if any(t is not None for t in wanted) else None


def _fits(number: Any, dtype: np.dtype) -> bool:
    """Is it the type of a Python number that this dtype holds?"""
    if isinstance(number, np.dtype):
        return False
    if dtype.kind == "f" or dtype.name == "bfloat16":
        return number is not complex
    return number in {"b": (bool,), "i": (bool, int), "u": (bool, int)}.get(
        dtype.kind, (bool, int, float, complex)
    )


def apply(op: ops.Op, *args: Any) -> Node:
    """A row of the table, in the dtypes of torch."""
    nodes = [a if isinstance(a, Node) else as_node(a) for a in args]
    if len(nodes) != op.nargs:
        raise TypeError(f"{op.name} takes {op.nargs} arguments, and got {len(nodes)}.")
    wanted = _casts_seen(op, expr.outlines(nodes), torch.get_default_dtype())
    if wanted is not None:
        nodes = [n if t is None else ops.cast(n, t) for n, t in zip(nodes, wanted, strict=True)]
    if len(nodes) == 2:
        return ops.binary(op, *nodes)
    return ops.unary(op, *nodes) if len(nodes) == 1 else ops.apply(op, *nodes)


def call(name: str, *args: Any) -> Node:
    return apply(ops.ROWS[name], *args)


# -- autocast --------------------------------------------------------------------------------------


def autocast(handler: Callable, lower: bool) -> Callable:
    """A function that follows torch.autocast: its operands become those of the lower precision, or
    float32. As in torch, float64 stays.
    """

    is_any_enabled = torch._C._is_any_autocast_enabled

    @functools.wraps(handler)
    def cast(*args: Any, **kwargs: Any) -> Any:
        if not is_any_enabled():
            return handler(*args, **kwargs)
        device = _device((*args, *kwargs.values()))
        if device == "meta" or not torch.is_autocast_enabled(device):
            return handler(*args, **kwargs)
        dtype = torch.get_autocast_dtype(device) if lower else torch.float32
        with torch.autocast(device, enabled=False):
            named = {k: _in_dtype(v, dtype) for k, v in kwargs.items()}
            return handler(*_in_dtype(args, dtype), **named)

    return cast


def _device(values: Iterable[Any]) -> str:
    for v in values:
        tensor = leading_input(v).source if isinstance(v, Node) else v
        if isinstance(tensor, torch.Tensor):
            return tensor.device.type
        if isinstance(tensor, tuple | list):
            return _device(tensor)
    return "cpu"


def _in_dtype(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Node):
        eligible = value.dtype.name in ("float16", "bfloat16", "float32")
        return ops.cast(value, numpy_dtype(dtype)) if eligible else value
    if isinstance(value, torch.Tensor):
        eligible = value.is_floating_point() and value.dtype is not torch.float64
        return value.to(dtype) if eligible else value
    if isinstance(value, tuple | list):
        return type(value)([_in_dtype(v, dtype) for v in value])
    return value


# -- axes ------------------------------------------------------------------------------------------


def axis_of(a: Node, dim: Any) -> int:
    """One axis, counted from the front. Raises IndexError as torch does."""
    dim = operator.index(dim)
    n = max(a.ndim, 1)
    if not -n <= dim < n:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-n}, {n - 1}], but got {dim})"
        )
    return dim % n


def axes_of(a: Node, dim: Dim) -> tuple[int, ...]:
    """The axes meant, in order; None and () are all."""
    if dim is None or (not isinstance(dim, int) and len(tuple(dim)) == 0):
        return tuple(range(a.ndim))
    if isinstance(dim, int):
        return (axis_of(a, dim),)
    axes = sorted(axis_of(a, d) for d in dim)
    for one, other in itertools.pairwise(axes):
        if one == other:
            raise RuntimeError(f"dim {one} appears multiple times in the list of dims")
    return tuple(axes)
