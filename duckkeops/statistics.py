"""NumPy's reductions on nodes: one row each, or a few lines over the rows.

Each returns a genuine array where DESIGN's rule evaluates (a point or batch axis goes, and one
input spans the point axes that are left), and a node otherwise.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from duckkeops import expr, ops, reductions, rewrite, views
from duckkeops.expr import Apply, Node
from duckkeops.genuine import all_entries, call, cast, dense, evaluated, expand, permuted
from duckkeops.indexing import diagonal_node, written
from duckkeops.operands import describe, namespace_of, node_of, unsupported
from duckkeops.rewrite import Softmax
from duckkeops.shapes import full_like, full_scalar

ROWS = reductions.BY_NAME
MISSING = np._NoValue  # type: ignore[attr-defined]
Axis = int | Sequence[int] | None


def axes_of(a: Node, axis: Axis) -> tuple[int, ...]:
    """The axes meant, counted from the front, in order."""
    n = len(a.shape)
    if axis is None:
        return tuple(range(n))
    if type(axis) is int and -n <= axis < n:
        return (axis % n,)
    if isinstance(axis, bool | np.bool):
        raise TypeError("an integer is required for the axis")
    return tuple(sorted(normalize_axis_tuple(axis, n)))


def fold(
    name: str,
    args: Sequence[Node],
    axes: tuple[int, ...],
    keepdims: Any = False,
    order: Sequence[int] | None = None,
    **params: Any,
) -> Any:
    """A reduction row over `axes` of broadcast nodes, the axes that are left in this order:
    evaluated by the rule, else a node.
    """
    row, args = ROWS[name], tuple(args)
    node = reductions.reduce(row, args, axes, **params)
    if node.outline.evaluated:
        out = evaluated(node, order)
    else:
        out = node if row.fold else row.lazy and row.lazy(args, axes, node.params)
        if out is None:
            raise unsupported(
                f"{name} over axes {axes} that leaves a virtual array",
                args[0],
                "Reduce over a point axis, of two of them.",
            )
        out = out if order is None else permuted(out, order)
    return expand(out, axes) if _true(keepdims) else out


def _true(flag: Any) -> bool:
    return flag is not False and flag is not MISSING and bool(flag)


def _given(x: Any) -> bool:
    return x is not None and x is not MISSING


def _put(out: Any, value: Any, casting: str = "unsafe") -> Any:
    """`value`, written into out= where the caller gave one; in any dtype, as ufunc.reduce does."""
    out = out[0] if isinstance(out, tuple) else out
    return written(out, value, casting) if _given(out) else value


def _out_dtype(a: Node, dtype: Any, out: Any) -> Any:
    """NumPy computes in the dtype of out= where no other is named."""
    if dtype is not None:
        return np.dtype(dtype)
    out = out[0] if isinstance(out, tuple) else out
    if isinstance(out, np.ndarray) and out.dtype != a.dtype and np.can_cast(a.dtype, out.dtype):
        return out.dtype
    return None


# -- sums, products, extremes ----------------------------------------------------------------------


def sum(
    a: Any,
    axis: Axis = None,
    dtype: Any = None,
    out: Any = None,
    keepdims: Any = False,
    initial: Any = MISSING,
    where: Any = True,
) -> Any:
    """The sum over axes."""
    return _numeric("sum", "add", 0, node_of(a), axis, dtype, out, keepdims, initial, where)


def prod(
    a: Any,
    axis: Axis = None,
    dtype: Any = None,
    out: Any = None,
    keepdims: Any = False,
    initial: Any = MISSING,
    where: Any = True,
) -> Any:
    """The product over axes."""
    return _numeric("prod", "multiply", 1, node_of(a), axis, dtype, out, keepdims, initial, where)


def min(
    a: Any,
    axis: Axis = None,
    out: Any = None,
    keepdims: Any = False,
    initial: Any = MISSING,
    where: Any = True,
) -> Any:
    """The least entry over axes; NaN if there is one."""
    return _numeric(
        "min", "minimum", initial, node_of(a), axis, None, out, keepdims, initial, where
    )


def max(
    a: Any,
    axis: Axis = None,
    out: Any = None,
    keepdims: Any = False,
    initial: Any = MISSING,
    where: Any = True,
) -> Any:
    """The greatest entry over axes; NaN if there is one."""
    return _numeric(
        "max", "maximum", initial, node_of(a), axis, None, out, keepdims, initial, where
    )


def _numeric(
    name: str,
    combine: str,
    identity: Any,
    a: Node,
    axis: Axis,
    dtype: Any,
    out: Any,
    keepdims: Any,
    initial: Any,
    where: Any,
) -> Any:
    axes = axes_of(a, axis)
    if axes and dtype is None and out is None and initial is MISSING and where is True:
        return total(a, axes, None, keepdims) if name == "sum" else fold(name, (a,), axes, keepdims)
    dtype = _out_dtype(a, dtype, out)
    if where is not True and where is not MISSING:
        if identity is MISSING:
            raise ValueError(
                f"reduction operation '{combine}' does not have an identity, "
                "so to use a where mask one has to specify 'initial'"
            )
        a = ops.call("where", _mask(where, a), a, full_scalar(a, identity, a.dtype))
    if not axes:
        return _put(out, _of_no_axes(name, a, dtype, initial, combine))
    if _given(initial) and 0 in [a.shape[k] for k in axes] and name in ("min", "max"):
        value = _constant(a, axes, initial, keepdims)
    else:
        value = (
            total(a, axes, dtype, keepdims)
            if name == "sum"
            else fold(name, (a,), axes, keepdims, dtype=dtype)
        )
        if _given(initial):
            value = _with_initial(combine, value, initial)
    return _put(out, value)


def _mask(where: Any, a: Node) -> Node:
    """The node of where=: booleans that broadcast to the shape of `a`."""
    mask = node_of(where)
    if mask.dtype != bool:
        raise TypeError(
            f"where= takes booleans, and got {describe(mask)}.\n"
            "  Compare first, as in where=w != 0."
        )
    if mask.ndim > a.ndim or np.broadcast_shapes(mask.shape, a.shape) != a.shape:
        raise ValueError(
            f"where= of shape {mask.shape} does not broadcast to d: {describe(a)}.\n"
            "  Give d the axes that it lacks first, as in d[None]."
        )
    return mask


def _with_initial(combine: str, value: Any, initial: Any) -> Any:
    start = np.empty((), value.dtype)
    start[()] = initial  # raises what NumPy does where it does not fit
    if isinstance(value, Node):
        return ops.call(combine, value, full_scalar(value, start, value.dtype))
    xp = namespace_of(value)
    return call(combine, value, start[()] if xp is np else xp.asarray(start, device=value.device))


def _constant(a: Node, axes: tuple[int, ...], value: Any, keepdims: Any) -> Any:
    """What min and max of nothing are: `initial`, of the shape that is left."""
    shape = tuple(1 if k in axes else n for k, n in enumerate(a.shape))
    if not _true(keepdims):
        shape = tuple(n for k, n in enumerate(a.shape) if k not in axes)
    return (
        np.asarray(full_like(a, value, shape=shape))[()]
        if not shape
        else full_like(a, value, shape=shape)
    )


def _of_no_axes(name: str, a: Node, dtype: Any, initial: Any, combine: str) -> Any:
    """Over no axes at all, of a 0-d array or with axis=(): entry by entry."""
    if dtype is None and name in ("sum", "prod"):
        dtype = np.add.reduce(np.zeros(1, a.dtype)).dtype if a.dtype.kind in "biu" else a.dtype
    value: Any = a if dtype is None else ops.cast(a, dtype)
    if _given(initial):
        value = _with_initial(combine, value, initial)
    return value if expr.is_virtual(value) else _scalar(dense(value))


def _scalar(value: Any) -> Any:
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def total(
    a: Node,
    axes: tuple[int, ...],
    dtype: Any = None,
    keepdims: Any = False,
    order: Sequence[int] | None = None,
) -> Any:
    """A sum, the axes that are left in this order; of softmax weights times values it is one
    pass.
    """
    if a.outline.pending and (dtype is None or dtype == a.dtype):
        weighted = _weighted(a, axes)
        if weighted is not None:
            node = reductions.reduce(ROWS["softmax_sum"], weighted, axes)
            if expr.is_evaluated(node) and node.dtype == a.dtype:
                out = evaluated(node, order)
                return expand(out, axes) if _true(keepdims) else out
    return fold("sum", (a,), axes, keepdims, order, dtype=dtype)


def _weighted(a: Node, axes: tuple[int, ...]) -> tuple[Node, Node] | None:
    """Scores and values, if `a` is softmax(scores) times values, the softmax being over the axes
    of this sum.
    """
    factors = _factors(a, 0)
    found = [
        f
        for f in factors
        if type(f) is Softmax and tuple(k + a.ndim - f.ndim for k in f.axes) == axes
    ]
    if len(found) != 1 or len(factors) == 1 or not _same_lengths(found[0], a, axes):
        return None
    values: Node | None = None
    for f in factors:
        if f is not found[0]:
            values = f if values is None else ops.call("multiply", values, f)
    assert values is not None
    return found[0].args[0], values


def _same_lengths(one: Node, a: Node, axes: tuple[int, ...]) -> bool:
    return [one.shape[k - a.ndim] for k in axes] == [a.shape[k] for k in axes]


def _factors(a: Node, depth: int) -> list[Node]:
    if depth < 8 and type(a) is Apply and a.op.name == "multiply":
        return [f for b in a.args for f in _factors(b, depth + 1)]
    return [a]


def ptp(a: Any, axis: Axis = None, out: Any = None, keepdims: Any = False) -> Any:
    """The greatest entry less the least."""
    a = node_of(a)
    return _put(
        out,
        call("subtract", max(a, axis, keepdims=keepdims), min(a, axis, keepdims=keepdims)),
        "same_kind",
    )


def trace(
    a: Node, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None, out: Any = None
) -> Any:
    """The sum of the diagonal."""
    return sum(diagonal_node(a, offset, axis1, axis2), -1, dtype, out)


# -- where they are --------------------------------------------------------------------------------


def argmin(a: Any, axis: int | None = None, out: Any = None, *, keepdims: Any = False) -> Any:
    """The position of the least entry along an axis, or of all.

    Of equals it is the first; NaN comes before all.
    """
    return _arg("argmin", node_of(a), axis, out, keepdims)


def argmax(a: Any, axis: int | None = None, out: Any = None, *, keepdims: Any = False) -> Any:
    """The position of the greatest entry along an axis, or of all.

    Of equals it is the first; NaN comes before all.
    """
    return _arg("argmax", node_of(a), axis, out, keepdims)


def _arg(name: str, a: Node, axis: int | None, out: Any, keepdims: Any) -> Any:
    if axis is not None and not isinstance(axis, bool):
        axis = operator.index(axis)
    axes = axes_of(a, axis)
    value = fold(name, (a,), axes, keepdims) if axes else np.intp(0)
    if _given(out) and not np.can_cast(out.dtype, np.int64):
        raise TypeError(f"{name}(out=) takes an array of int64, and got {out.dtype}.")
    return _put(out, value)


# -- truth and counts ------------------------------------------------------------------------------


def any(
    a: Any, axis: Axis = None, out: Any = None, keepdims: Any = False, *, where: Any = True
) -> Any:
    """Is any entry true?"""
    a = ops.cast(node_of(a), np.dtype(bool))
    if where is not True and where is not MISSING:
        a = ops.call("logical_and", a, _mask(where, a))
    return _put(out, _truth("any", a, axis, keepdims))


def all(
    a: Any, axis: Axis = None, out: Any = None, keepdims: Any = False, *, where: Any = True
) -> Any:
    """Are all entries true?"""
    a = ops.cast(node_of(a), np.dtype(bool))
    if where is not True and where is not MISSING:
        a = ops.call("logical_or", a, ops.call("logical_not", _mask(where, a)))
    return _put(out, _truth("all", a, axis, keepdims))


def _truth(name: str, a: Node, axis: Axis, keepdims: Any) -> Any:
    axes = axes_of(a, axis)
    if axes:
        return fold(name, (a,), axes, keepdims)
    return a if expr.is_virtual(a) else _scalar(dense(a))


def count_nonzero(a: Any, axis: Axis = None, *, keepdims: Any = False) -> Any:
    """How many entries are not zero."""
    a = node_of(a)
    axes = axes_of(a, axis)
    return fold("count_nonzero", (a,), axes, keepdims) if axes else np.intp(bool(dense(a)))


def _count(where: Any, a: Node, axes: tuple[int, ...], keepdims: Any) -> Any:
    """How many entries of `a` the mask keeps, along `axes`.

    The counts have the shape of the result, or broadcast to it.
    """
    if where is True or where is MISSING:
        return math.prod(a.shape[k] for k in axes)
    mask = ops.cast(_mask(where, a), np.dtype(bool))
    if mask.ndim < a.ndim:
        mask = views.expand(mask, range(a.ndim - mask.ndim))
    mask = rewrite.retag(mask, a.roles)
    times = math.prod(a.shape[k] for k in axes if mask.shape[k] == 1)
    return call("multiply", fold("sum", (mask,), axes, keepdims), times)


# -- moments ---------------------------------------------------------------------------------------


def mean(
    a: Any,
    axis: Axis = None,
    dtype: Any = None,
    out: Any = None,
    keepdims: Any = False,
    *,
    where: Any = True,
) -> Any:
    """The mean over axes."""
    a = node_of(a)
    axes = axes_of(a, axis)
    dtype = _out_dtype(a, dtype, out)
    value, count = _mean(a, axes, dtype, keepdims, where)
    _warn_if(_not_above(count, 0), "Mean of empty slice")
    return _put(out, value)


def _mean(a: Node, axes: tuple[int, ...], dtype: Any, keepdims: Any, where: Any) -> tuple[Any, Any]:
    """The mean, and of how many entries."""
    count = _count(where, a, axes, keepdims)
    if (where is True or where is MISSING) and axes:
        return fold("mean", (a,), axes, keepdims, dtype=dtype), count
    wanted = _mean_dtype(a, dtype)
    total = sum(a, axes, _wider(wanted), keepdims=keepdims, where=where)
    return cast(call("divide", total, count), wanted), count


def _not_above(count: Any, limit: float) -> bool:
    """Is a number, or any of those that are computed, at most `limit`?"""
    if isinstance(count, Node):
        return False
    few = count <= limit
    return bool(few if isinstance(few, bool | np.bool) else namespace_of(few).any(few))


def _warn_if(wrong: bool, text: str) -> None:
    """NumPy's warning; of what stays lazy there is none."""
    if wrong:
        warnings.warn(text, RuntimeWarning, stacklevel=5)


def _mean_dtype(a: Node, dtype: Any) -> np.dtype:
    if dtype is not None:
        return np.dtype(dtype)
    return np.dtype(np.float64) if a.dtype.kind in "biu" else a.dtype


def _wider(dtype: np.dtype) -> np.dtype:
    """Half precision is summed in float32."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def var(
    a: Any,
    axis: Axis = None,
    dtype: Any = None,
    out: Any = None,
    ddof: float = 0,
    keepdims: Any = False,
    *,
    where: Any = True,
    mean: Any = MISSING,
    correction: Any = MISSING,
) -> Any:
    """The mean of squared distances to the mean, the divisor smaller by ddof (or correction)."""
    if _given(correction):
        if ddof != 0:
            raise ValueError("ddof and correction can't be provided simultaneously.")
        ddof = correction
    a = node_of(a)
    axes = axes_of(a, axis)
    dtype = _out_dtype(a, dtype, out)
    if (where is True or where is MISSING) and not _given(mean) and axes:
        count = _count(where, a, axes, keepdims)
        value = fold("var", (a,), axes, keepdims, dtype=dtype, correction=ddof)
    else:
        value, count = _var_of_some(a, axes, dtype, ddof, keepdims, where, mean)
    _warn_if(_not_above(count, ddof), "Degrees of freedom <= 0 for slice")
    return _put(out, value)


def _var_of_some(
    a: Node, axes: tuple[int, ...], dtype: Any, ddof: float, keepdims: Any, where: Any, mean: Any
) -> tuple[Any, Any]:
    """In two passes: the mean is there, then the squares. And of how many entries."""
    wanted = _mean_dtype(a, dtype)
    if not _given(mean):
        mean = _mean(a, axes, wanted, True, where)[0]
    distance = ops.call("subtract", a, node_of(mean))
    squares = ops.call("square", ops.call("abs", distance))
    real = _wider(squares.dtype)
    total = sum(squares, axes, real, keepdims=keepdims, where=where)
    count = _count(where, a, axes, keepdims)
    divisor = call("maximum", call("subtract", count, ddof), 0)
    wide = squares.dtype if dtype is None else np.real(np.zeros(1, wanted)).dtype
    return cast(call("divide", total, divisor), wide), count


def std(
    a: Any,
    axis: Axis = None,
    dtype: Any = None,
    out: Any = None,
    ddof: float = 0,
    keepdims: Any = False,
    *,
    where: Any = True,
    mean: Any = MISSING,
    correction: Any = MISSING,
) -> Any:
    """The square root of `var`."""
    a = node_of(a)
    squared = var(
        a,
        axis,
        _out_dtype(a, dtype, out),
        None,
        ddof,
        keepdims,
        where=where,
        mean=mean,
        correction=correction,
    )
    return _put(out, call("sqrt", squared), "same_kind")


def average(
    a: Any, axis: Axis = None, weights: Any = None, returned: bool = False, *, keepdims: Any = False
) -> Any:
    """The mean, or the mean weighted by `weights`, of the shape of `a` or of the axes."""
    a = node_of(a)
    axes = axes_of(a, axis)
    if weights is None:
        value, total = (
            mean(a, axes, keepdims=keepdims),
            np.float64(math.prod(a.shape[k] for k in axes)),
        )
    else:
        w = _aligned_weights(a, axis, axes, node_of(weights))
        wanted = ops.common(
            (a.dtype, w.dtype, *([np.dtype(np.float64)] if a.dtype.kind in "biu" else []))
        )
        product = ops.cast(ops.call("multiply", a, w), wanted)
        if w.ndim == product.ndim:
            w = rewrite.retag(w, product.roles)
        missing = math.prod(a.shape[k] for k in axes if w.shape[k] == 1)
        total = call("multiply", sum(w, axes, wanted, keepdims=keepdims), missing)
        if not isinstance(total, Node) and bool(namespace_of(total).any(total == 0)):
            raise ZeroDivisionError("Weights sum to zero, can't be normalized")
        value = call("divide", sum(product, axes, wanted, keepdims=keepdims), total)
    if not returned:
        return value
    if (
        not isinstance(value, Node)
        and not isinstance(total, Node)
        and np.shape(total) != np.shape(value)
    ):
        total = namespace_of(value).broadcast_to(total, value.shape)
    return value, total


def _aligned_weights(a: Node, axis: Axis, axes: tuple[int, ...], w: Node) -> Node:
    if w.shape == a.shape:
        return w
    if axis is None:
        raise TypeError(
            f"Axis must be specified when shapes of a and weights differ: {a.shape} and {w.shape}."
        )
    order = normalize_axis_tuple(axis, a.ndim)
    if w.shape != tuple(a.shape[k] for k in order):
        raise ValueError(
            "Shape of weights must be consistent with shape of a along specified axis: "
            f"{w.shape} and {a.shape}, axis {axis}."
        )
    w = views.permute(w, sorted(range(len(order)), key=order.__getitem__))
    return views.expand(w, [k for k in range(a.ndim) if k not in axes])


# -- logarithms of sums ----------------------------------------------------------------------------


def logsumexp(a: Any, axis: Axis = None, keepdims: Any = False) -> Any:
    """log(sum(exp(a))) without overflow."""
    a = node_of(a)
    return fold("logsumexp", (a,), axes_of(a, axis), keepdims)


def softmax(a: Any, axis: Axis = None) -> Node:
    """exp(a) over its sum along `axis`, over all axes by default, as scipy.special.softmax: lazy.

    `S.softmax(axis=1) @ V` is one pass over the pairs.
    """
    a = node_of(a)
    axes = axes_of(a, axis)
    total = reductions.reduce(ROWS["logsumexp"], (a,), axes)
    if expr.is_evaluated(total):
        return Softmax(a, axes, total.dtype)
    return ops.call("exp", ops.call("subtract", a, node_of(fold("logsumexp", (a,), axes, True))))


def softmax_sum(a: Any, values: Any, axis: Axis = None, keepdims: Any = False) -> Any:
    """The mean of `values`, weighted by softmax(a) along `axis`, in one pass."""
    a, values = node_of(a), node_of(values)
    return fold(
        "softmax_sum", (a, values), axes_of(a if a.ndim >= values.ndim else values, axis), keepdims
    )


def log_softmax(a: Any, axis: Axis = None) -> Node:
    """a less its logsumexp along `axis`, over all axes by default: lazy."""
    a = node_of(a)
    return ops.call("subtract", a, node_of(logsumexp(a, axis, True)))


# -- without NaN -----------------------------------------------------------------------------------


def without_nan(a: Any, instead: float) -> tuple[Node, Node | None]:
    """`a` with a number instead of NaN, and where there was none.

    The latter is None where there cannot be any NaN.
    """
    a = node_of(a)
    if a.dtype.kind in "biu":
        return a, None
    nan = ops.call("isnan", a)
    return ops.call("where", nan, full_scalar(a, instead, a.dtype), a), ops.call("logical_not", nan)


def _both(where: Any, mask: Node | None) -> Any:
    if mask is None:
        return where
    return (
        mask if where is True or where is MISSING else ops.call("logical_and", mask, node_of(where))
    )


def nansum(
    a: Any,
    axis: Axis = None,
    dtype: Any = None,
    out: Any = None,
    keepdims: Any = False,
    initial: Any = MISSING,
    where: Any = True,
) -> Any:
    """The sum, NaN counting as 0."""
    return sum(without_nan(a, 0)[0], axis, dtype, out, keepdims, initial, where)


def nanprod(
    a: Any,
    axis: Axis = None,
    dtype: Any = None,
    out: Any = None,
    keepdims: Any = False,
    initial: Any = MISSING,
    where: Any = True,
) -> Any:
    """The product, NaN counting as 1."""
    return prod(without_nan(a, 1)[0], axis, dtype, out, keepdims, initial, where)


def nanmean(
    a: Any,
    axis: Axis = None,
    dtype: Any = None,
    out: Any = None,
    keepdims: Any = False,
    *,
    where: Any = True,
) -> Any:
    """The mean of the entries that are not NaN."""
    a = node_of(a)
    return mean(a, axis, dtype, out, keepdims, where=_both(where, without_nan(a, 0)[1]))


def nanvar(
    a: Any, axis: Axis = None, dtype: Any = None, out: Any = None, ddof: float = 0,
    keepdims: Any = False,
    *, where: Any = True, mean: Any = MISSING, correction: Any = MISSING,
) -> Any:  # fmt: skip
    """The variance of the entries that are not NaN."""
    a = node_of(a)
    return var(
        a,
        axis,
        dtype,
        out,
        ddof,
        keepdims,
        where=_both(where, without_nan(a, 0)[1]),
        mean=mean,
        correction=correction,
    )


def nanstd(
    a: Any, axis: Axis = None, dtype: Any = None, out: Any = None, ddof: float = 0,
    keepdims: Any = False,
    *, where: Any = True, mean: Any = MISSING, correction: Any = MISSING,
) -> Any:  # fmt: skip
    """The standard deviation of the entries that are not NaN."""
    a = node_of(a)
    return std(
        a,
        axis,
        dtype,
        out,
        ddof,
        keepdims,
        where=_both(where, without_nan(a, 0)[1]),
        mean=mean,
        correction=correction,
    )


def nanmin(
    a: Any,
    axis: Axis = None,
    out: Any = None,
    keepdims: Any = False,
    initial: Any = MISSING,
    where: Any = True,
) -> Any:
    """The least entry that is not NaN."""
    return _put(out, _nan_extreme(min, math.inf, node_of(a), axis, keepdims, initial, where))


def nanmax(
    a: Any,
    axis: Axis = None,
    out: Any = None,
    keepdims: Any = False,
    initial: Any = MISSING,
    where: Any = True,
) -> Any:
    """The greatest entry that is not NaN."""
    return _put(out, _nan_extreme(max, -math.inf, node_of(a), axis, keepdims, initial, where))


def _nan_extreme(
    extreme: Any, worst: float, a: Node, axis: Axis, keepdims: Any, initial: Any, where: Any
) -> Any:
    filled, mask = without_nan(a, worst)
    value = extreme(filled, axis, keepdims=keepdims, initial=initial, where=where)
    if mask is None or _given(initial):
        return value
    some = any(mask, axis, keepdims=keepdims)
    if not isinstance(some, Node):
        _warn_if(not bool(namespace_of(some).all(some)), "All-NaN slice encountered")
    nan = (
        full_scalar(a, math.nan, a.dtype)
        if isinstance(value, Node)
        else value.dtype.type(math.nan)
        if hasattr(value.dtype, "type")
        else math.nan
    )
    return call("where", some, value, nan)


def nanargmin(a: Any, axis: int | None = None, out: Any = None, *, keepdims: Any = False) -> Any:
    """The position of the least entry that is not NaN. Raises ValueError where all are NaN."""
    return _nan_arg(argmin, math.inf, node_of(a), axis, out, keepdims)


def nanargmax(a: Any, axis: int | None = None, out: Any = None, *, keepdims: Any = False) -> Any:
    """The position of the greatest entry that is not NaN. Raises ValueError where all are NaN."""
    return _nan_arg(argmax, -math.inf, node_of(a), axis, out, keepdims)


def _nan_arg(arg: Any, worst: float, a: Node, axis: int | None, out: Any, keepdims: Any) -> Any:
    filled, mask = without_nan(a, worst)
    if mask is not None:
        some = any(mask, axis)
        if not isinstance(some, Node) and not bool(namespace_of(some).all(some)):
            raise ValueError("All-NaN slice encountered")
    return arg(filled, axis, out, keepdims=keepdims)


# -- comparisons of whole arrays -------------------------------------------------------------------


def allclose(
    a: Any, b: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> bool:
    """Is every pair of entries close, as in isclose?"""
    return _bool("allclose", all(ops.isclose(node_of(a), node_of(b), rtol, atol, equal_nan)))


def array_equal(a1: Any, a2: Any, equal_nan: bool = False) -> bool:
    """Do two arrays have one shape and equal entries?"""
    x, y = node_of(a1), node_of(a2)
    if x.shape != y.shape:
        return False
    same = ops.call("equal", x, y)
    if equal_nan and x.dtype.kind in "fc" and y.dtype.kind in "fc":
        same = ops.call(
            "logical_or", same, ops.call("logical_and", ops.call("isnan", x), ops.call("isnan", y))
        )
    return _bool("array_equal", all(same))


def array_equiv(a1: Any, a2: Any) -> bool:
    """Are two arrays equal once broadcast?"""
    x, y = node_of(a1), node_of(a2)
    try:
        np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        return False
    return _bool("array_equiv", all(ops.call("equal", x, y)))


def _bool(what: str, value: Any) -> bool:
    return bool(all_entries(what, value) if isinstance(value, Node) else value)
