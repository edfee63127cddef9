"""What is known of a lazy array without computing: NumPy's questions about shapes and dtypes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from duckkeops import ops
from duckkeops.expr import Node
from duckkeops.operands import unsupported


def size(a: Node, axis: Any = None) -> int:
    """The number of entries, in all or along axes."""
    chosen = (
        range(a.ndim) if axis is None else np.lib.array_utils.normalize_axis_tuple(axis, a.ndim)
    )
    out = 1
    for k in chosen:
        out *= a.shape[k]
    return out


def _dtypes(args: Sequence[Any]) -> list[Any]:
    return [ops.WEAK.get(a.dtype, a.dtype) if isinstance(a, Node) else a for a in args]


def result_type(*arrays_and_dtypes: Any) -> np.dtype:
    return np.result_type(*_dtypes(arrays_and_dtypes))


def can_cast(from_: Any, to: Any, casting: Any = "safe") -> bool:
    return np.can_cast(_dtypes([from_])[0], to, casting)


def common_type(*arrays: Any) -> type:
    return np.common_type(*(np.empty(0, t) for t in _dtypes(arrays)))


def min_scalar_type(a: Node) -> np.dtype:
    if a.ndim == 0:
        raise unsupported("numpy.min_scalar_type", a, "Ask for d.dtype.")
    return a.dtype


def shape(a: Node) -> tuple[int, ...]:
    return a.shape


def ndim(a: Node) -> int:
    return a.ndim


def iscomplexobj(x: Node) -> bool:
    return x.dtype.kind == "c"


def isrealobj(x: Node) -> bool:
    return x.dtype.kind != "c"


def diag_indices_from(arr: Node) -> tuple[np.ndarray, ...]:
    """The indices of the diagonal, from the shape alone."""
    if arr.ndim < 2:
        raise ValueError("input array must be at least 2-d")
    if len(set(arr.shape)) != 1:
        raise ValueError("All dimensions of input must be of equal length")
    return np.diag_indices(arr.shape[0], arr.ndim)


def made_by(function: Callable) -> Callable:
    """What makes an array like= a lazy one: the function itself, without like=."""

    @functools.wraps(function)
    def make(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return make
