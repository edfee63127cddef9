"""All entries of a virtual array in a row: `d.ravel()`, whose entries only go into reductions."""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from duckkeops import histograms, ops, quantiles, shapes, statistics
from duckkeops.elementwise import elementwise
from duckkeops.errors import ShapeError, UnsupportedError
from duckkeops.expr import Node
from duckkeops.genuine import all_entries, dense, plain, reshaped
from duckkeops.indexing import getitem
from duckkeops.operands import NUMBERS, describe, is_array, nbytes, units

REDUCTIONS: dict[str, Callable] = {
    **{
        name: getattr(statistics, name)
        for name in (
            *("sum", "prod", "min", "max", "mean", "var", "std", "argmin", "argmax", "any", "all"),
            *("count_nonzero", "ptp", "average", "nansum", "nanprod", "nanmean", "nanvar"),
            *("nanstd", "nanmin", "nanmax", "nanargmin", "nanargmax", "logsumexp"),
        )
    },
    **{
        name: getattr(quantiles, name)
        for name in (
            *("median", "quantile", "percentile", "nanmedian", "nanquantile", "nanpercentile"),
        )
    },
    "histogram": histograms.histogram,
    "histogram_bin_edges": histograms.histogram_bin_edges,
    "bincount": histograms.bincount,
}
HANDLERS = {getattr(np, name): f for name, f in REDUCTIONS.items() if hasattr(np, name)}
HANDLERS |= {np.amin: statistics.min, np.amax: statistics.max}


class Flat(np.lib.mixins.NDArrayOperatorsMixin):
    """All entries of a virtual array in a row, for a reduction over all of them.

    Operations entry by entry, with numbers and with flat arrays of the same virtual shape, give one
    again; single entries are had by their flat index. Everything else is refused.
    """

    __slots__ = ("_node",)

    def __init__(self, node: Node):
        self._node = node

    @property
    def shape(self) -> tuple[int]:
        """The number of entries, as a tuple."""
        return (math.prod(self._node.shape),)

    @property
    def size(self) -> int:
        """The number of entries."""
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """1: there is one axis."""
        return 1

    @property
    def dtype(self) -> Any:
        """What each entry is."""
        return self._node.dtype

    @property
    def nbytes(self) -> int:
        """Bytes that all entries would take, were they stored."""
        return nbytes(self._node)

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return (
            f"the {self.size} entries of d: {describe(self._node)}, in a row, to be reduced: "
            "d.ravel().sum()"
        )

    def __getitem__(self, key: Any) -> Any:
        """The entries at a flat index, or at an array of them."""
        if type(key) is bool or not (
            isinstance(key, int | np.integer)
            or (is_array(key) and isinstance(key, np.ndarray) and key.dtype.kind in "iu")
        ):
            raise self._refusal("d.ravel()[key] of what is no integer")
        n = self.size
        wrong = np.asarray(key)[(np.asarray(key) < -n) | (np.asarray(key) >= n)]
        if wrong.size:
            raise IndexError(f"index {wrong.flat[0]} is out of bounds for axis 0 with size {n}")
        places = np.unravel_index(np.where(np.asarray(key) < 0, key + n, key), self._node.shape)
        one = np.ndim(key) == 0
        entries = getitem(self._node, tuple(int(p) for p in places) if one else places)
        return plain(dense(entries)) if isinstance(entries, Node) else entries

    def ravel(self, order: str = "C") -> Flat:
        """The same."""
        return self

    flatten = ravel

    def reshape(self, *shape: Any) -> Any:
        """The same in a row; or the array again, in the shape that it had."""
        one: Any = shape[0] if len(shape) == 1 else shape
        given = tuple(one) if isinstance(one, tuple | list) else (operator.index(one),)
        if given in ((-1,), self.shape):
            return self
        raise self._refusal(f"d.ravel().reshape({', '.join(map(str, given))})")

    def astype(self, dtype: Any) -> Flat:
        """The entries in another dtype."""
        return type(self)(shapes.astype(self._node, dtype))

    def __array_function__(self, func: Callable, types: Any, args: tuple, kwargs: Any) -> Any:
        if not all(issubclass(t, Flat | np.ndarray) for t in types):
            return NotImplemented
        if func in (np.ravel, np.reshape) and isinstance(args[0], Flat):
            return getattr(args[0], func.__name__)(*args[1:], **kwargs)
        if func in (np.shape, np.ndim, np.size):
            return getattr(args[0], func.__name__)
        if func not in HANDLERS or not (args and isinstance(args[0], Flat)):
            raise self._refusal(f"{func.__module__}.{func.__name__}(d.ravel())")
        return reduced(HANDLERS[func], *args, **kwargs)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method == "reduce" and ufunc in UFUNCS and len(inputs) == 1:
            return reduced(UFUNCS[ufunc], *inputs, **kwargs)
        op = ops.BY_FUNCTION.get(ufunc)
        name = f"numpy.{ufunc.__name__}" + ("" if method == "__call__" else f".{method}")
        if op is None or method != "__call__":
            raise self._refusal(f"{name}(d.ravel())")
        if any(kwargs.get(k) is not None for k in ("out", "where")):
            raise self._refusal(f"{name}(d.ravel(), out=, where=)")
        return type(self)(elementwise(op, *(_operand(self, name, a) for a in inputs), **kwargs))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return all_entries("numpy.asarray(d.ravel())", self._node)

    def __iter__(self) -> Any:
        return all_entries("iterating over d.ravel()", self._node)

    def _refusal(self, what: str) -> UnsupportedError:
        return UnsupportedError(
            f"{what} has no pairwise form: d: {describe(self._node)} in a row takes reductions "
            "over all of its entries.\n"
            "  Reduce it, as in d.ravel().sum(), .argmin(), numpy.histogram(d.ravel()), take "
            "entries by their flat\n  index, d.ravel()[k], or work with d itself, whose axes are "
            "known.\n"
            f"  All entries of d, as d.to_dense() computes them, are {units(nbytes(self._node))}."
        )


UFUNCS = {
    np.add: statistics.sum,
    np.multiply: statistics.prod,
    np.minimum: statistics.min,
    np.maximum: statistics.max,
    np.logical_and: statistics.all,
    np.logical_or: statistics.any,
}


def reshape(a: Node, /, shape: Any = None, order: str = "C", *, copy: bool | None = None) -> Any:
    """Another shape.

    Of a virtual array axes of length 1 come and go, axes are split, feature axes are merged; all
    axes become one for a reduction.
    """
    try:
        return shapes.reshape(a, shape, order, copy=copy)
    except ShapeError:
        one = shape[0] if isinstance(shape, tuple | list) and len(shape) == 1 else shape
        if isinstance(one, tuple | list) or one not in (-1, math.prod(a.shape)):
            raise
        return Flat(a)


def ravel(a: Node, order: str = "C") -> Any:
    """All axes as one: of a virtual array for a reduction."""
    return reshape(a, (-1,) if 0 not in a.shape else (0,), order)


def reduced(handler: Callable, flat: Flat, *args: Any, **kwargs: Any) -> Any:
    """A reduction over the one axis there is."""
    call = _signature(handler).bind(flat._node, *args, **kwargs)
    given = call.arguments
    if "axis" in given:
        axis = given["axis"]
        if axis not in (None, 0, -1, (0,), (-1,), ()) or axis is False:
            raise np.exceptions.AxisError(axis, 1)
        given["axis"] = None
    keepdims = given.pop("keepdims", False)
    keepdims = keepdims is not np._NoValue and bool(keepdims)  # type: ignore[attr-defined]
    for name in ("weights", "where"):
        if name in given:
            given[name] = _aligned(flat, name, given[name])
    value = handler(*call.args, **call.kwargs)
    if keepdims:
        parts = value if isinstance(value, tuple) else (value,)
        parts = tuple(reshaped(p, (*np.shape(p), 1)) for p in parts)
        return parts if isinstance(value, tuple) else parts[0]
    return value


_signature = functools.lru_cache(inspect.signature)


def _aligned(flat: Flat, name: str, value: Any) -> Any:
    """Weights or a mask of the entries in a row, in the shape of the array."""
    if isinstance(value, Flat):
        return _operand(flat, name, value)
    if is_array(value) and value.ndim == 1 and value.shape == flat.shape:
        return reshaped(value, flat._node.shape)
    if is_array(value) and value.ndim:
        raise ShapeError(
            f"{name}= of d.ravel() has shape {tuple(value.shape)}, and d.ravel() {flat.shape}.\n"
            f"  Give d.ravel() of a lazy array, or call the function with d: "
            f"{describe(flat._node)} itself."
        )
    return value


def _operand(flat: Flat, name: str, other: Any) -> Any:
    if isinstance(other, Flat):
        if other._node.shape != flat._node.shape:
            raise ShapeError(
                f"{name} of entries in a row: they come from d: {describe(flat._node)} and "
                f"{describe(other._node)}.\n  Both must have one shape before they are flattened."
            )
        return other._node
    if type(other) in NUMBERS or isinstance(other, np.generic):
        return other
    if is_array(other) and other.ndim == 0:
        return other
    raise flat._refusal(f"{name} of d.ravel() and {type(other).__name__}")


def _method(name: str, handler: Callable) -> Callable:
    @functools.wraps(handler)
    def method(self: Flat, *args: Any, **kwargs: Any) -> Any:
        return reduced(handler, self, *args, **kwargs)

    return method


for _name, _handler in REDUCTIONS.items():
    setattr(Flat, _name, _method(_name, _handler))
