"""torch's rules on nodes: in which dtype operands are computed, and which axes are meant."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from duckkeops import ops
from duckkeops.expr import Node, Scalar
from duckkeops.operands import node_of
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
    first = nodes[0].dtype
    if len(nodes) == 1 or all(n.dtype == first for n in nodes):
        return list(nodes)
    kinds = tuple([(n.dtype, n.ndim > 0) for n in nodes])
    common = _common(kinds, torch.get_default_dtype())
    return [n if type(n) is Scalar and _fits(n, common) else ops.cast(n, common) for n in nodes]


def _fits(number: Node, dtype: np.dtype) -> bool:
    return (
        number.dtype
        in {"b": (bool,), "i": (bool, int), "u": (bool, int)}.get(
            dtype.kind, (bool, int, float) if dtype.kind == "f" else (bool, int, float, complex)
        )
        or dtype.name == "bfloat16"
    )


@functools.lru_cache(maxsize=4096)
def _becomes_float(op: ops.Op, dtype: np.dtype) -> bool:
    """Does NumPy make floats of these integers? torch makes its default dtype of them."""
    return ops.resolve(op, (dtype,) * op.nargs)[1].kind == "f"


def apply(op: ops.Op, *args: Any) -> Node:
    """A row of the table, in the dtypes of torch."""
    nodes = [as_node(a) for a in args]
    if op.name == "where":
        return ops.apply(op, nodes[0], *promoted(nodes[1:]))
    nodes = promoted(nodes)
    for n in nodes:
        kind = getattr(n.dtype, "kind", "")
        if kind and kind in "biu" and op.name != "cast":
            if _becomes_float(op, n.dtype) and op.name != "float_power":
                wanted = numpy_dtype(torch.get_default_dtype())
                nodes = [ops.cast(m, wanted) for m in nodes]
            break
    return ops.apply(op, *nodes)


def call(name: str, *args: Any) -> Node:
    return apply(ops.ROWS[name], *args)


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
