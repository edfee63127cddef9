"""Along an axis: differences of neighbours, which are views, and running sums over features."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from duckkeops import expr, ops, shapes, statistics
from duckkeops.expr import FEATURE, NEUTRAL, Node
from duckkeops.gathers import along, gather
from duckkeops.genuine import call, dense
from duckkeops.operands import constant, is_array, node_of, unsupported
from duckkeops.statistics import MISSING

# -- differences -----------------------------------------------------------------------------------


def diff(a: Any, n: int = 1, axis: int = -1, prepend: Any = MISSING, append: Any = MISSING) -> Node:
    """Each entry less the one before it, n times over."""
    if n < 0:
        raise ValueError(f"order must be non-negative but got {n!r}")
    a = node_of(a)
    if a.ndim == 0:
        raise ValueError("diff requires input that is at least one dimensional")
    axis = normalize_axis_index(axis, a.ndim)
    if n == 0:
        return a
    if prepend is not MISSING or append is not MISSING:
        ends = [_end(x, a, axis) for x in (prepend, append) if x is not MISSING]
        first = ends.pop(0) if prepend is not MISSING else None
        a = shapes.concatenate([x for x in (first, a, *ends) if x is not None], axis)
    for _ in range(n):
        name = "not_equal" if a.dtype == np.bool else "subtract"
        a = ops.call(
            name, shapes.piece(a, axis, slice(1, None)), shapes.piece(a, axis, slice(None, -1))
        )
    return a


def _end(x: Any, a: Node, axis: int) -> Node:
    if not isinstance(x, Node):
        x = node_of(np.asarray(x))
    return shapes.broadcast_to(x, (*a.shape[:axis], 1, *a.shape[axis + 1 :])) if not x.ndim else x


def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Any:
    """The integral along an axis by the trapezoidal rule, between points x or at distances dx."""
    y = node_of(y)
    axis = normalize_axis_index(axis, y.ndim)
    if x is None:
        step = node_of(dx)
    else:
        x = node_of(x) if isinstance(x, Node) or is_array(x) else node_of(np.asarray(x))
        step = diff(x)
        if x.ndim == 1:
            step = shapes.expand_dims(step, tuple(range(1, y.ndim - axis)))
        else:
            step = diff(x, axis=axis)
    ends = ops.call(
        "add", shapes.piece(y, axis, slice(1, None)), shapes.piece(y, axis, slice(None, -1))
    )
    return statistics.sum(ops.call("divide", ops.call("multiply", step, ends), 2.0), axis)


def gradient(f: Node, *varargs: Any, axis: Any = None, edge_order: int = 1) -> Any:
    """Central differences along axes, one-sided ones at the ends; a tuple for several axes."""
    axes = tuple(range(f.ndim)) if axis is None else normalize_axis_tuple(axis, f.ndim)
    steps = _steps(f, varargs, axes)
    if edge_order > 2:
        raise ValueError("'edge_order' greater than 2 not supported")
    if f.dtype.kind in "iu":
        f = ops.cast(f, np.float64)
    for k in axes:
        if f.shape[k] < edge_order + 1:
            raise ValueError(
                "Shape of array too small to calculate a numerical gradient, "
                "at least (edge_order + 1) elements are required."
            )
    slopes = (_slope(f, k, h, edge_order) for k, h in zip(axes, steps, strict=True))
    out = tuple(ops.cast(slope, f.dtype) for slope in slopes)
    return out[0] if len(axes) == 1 else out


def _steps(f: Node, given: Sequence[Any], axes: Sequence[int]) -> list[Any]:
    """For each axis its step, or the vector of its steps where these differ."""
    steps = [dense(g) if isinstance(g, Node) else g for g in given] or [1.0]
    if len(steps) == 1 and np.ndim(steps[0]) == 0:
        steps = steps * len(axes)
    if len(steps) != len(axes):
        raise TypeError("invalid number of arguments")
    for n, k in enumerate(axes):
        if np.ndim(steps[n]) == 0:
            continue
        if np.ndim(steps[n]) != 1:
            raise ValueError("distances must be either scalars or 1d")
        if len(steps[n]) != f.shape[k]:
            raise ValueError(
                "when 1d, distances must match the length of the corresponding dimension"
            )
        one = np.asarray(steps[n])
        step = np.diff(one.astype(np.float64) if one.dtype.kind in "iu" else one)
        steps[n] = step[0] if (step == step[0]).all() else step
    return steps


def _slope(f: Node, axis: int, h: Any, edge_order: int) -> Node:
    n = f.shape[axis]
    place = np.arange(n)
    low, high = place - 1, place + 1
    ends = (place == 0) | (place == n - 1)

    def at(index: np.ndarray) -> Node:
        return gather(f, axis, index.clip(0, n - 1))

    def plus(*terms: tuple[np.ndarray, Node]) -> Node:
        parts = [ops.call("multiply", along(f, axis, c.astype(f.dtype)), x) for c, x in terms]
        out = parts[0]
        for p in parts[1:]:
            out = ops.call("add", out, p)
        return out

    rise = ops.call("subtract", at(high), at(low))
    steps = np.broadcast_to(h, n - 1).astype(np.result_type(f.dtype, np.float32).type(0).real.dtype)
    before, after = np.r_[steps[:1], steps], np.r_[steps, steps[-1:]]
    if np.ndim(h) == 0:
        run = np.where(ends, 1, 2) * h
        inner = ops.call("divide", rise, along(f, axis, run.astype(steps.dtype)))
    else:
        middle = plus(
            (-after / (before * (before + after)), at(low)),
            ((after - before) / (before * after), at(place)),
            (before / (after * (before + after)), at(high)),
        )
        edge = ops.call("divide", rise, along(f, axis, np.where(place == 0, after, before)))
        inner = ops.call("where", along(f, axis, ends), edge, middle)
    if edge_order == 1:
        return inner
    first, last = _one_sided(*steps[:2]), _one_sided(*steps[:-3:-1])
    start = np.where(place == 0, 0, n - 3)
    c = np.where(place[:, None] == 0, np.array(first), -np.array(last)[::-1])
    edge = plus(*((c[:, k], at(start + k)) for k in range(3)))
    return ops.call("where", along(f, axis, ends), edge, inner)


def _one_sided(a: float, b: float) -> tuple[float, float, float]:
    """Weights of three entries in a row for the slope at the first, with steps a and b."""
    return -(2 * a + b) / (a * (a + b)), (a + b) / (a * b), -a / (b * (a + b))


# -- running sums ----------------------------------------------------------------------------------


def _over_features(what: str, a: Node, axis: int) -> bool:
    """Is the running sum made of components? If not, the library computes what is not virtual."""
    if a.roles[axis] in (FEATURE, NEUTRAL):
        return True
    if expr.is_virtual(a):
        raise unsupported(
            f"{what} along axis {axis}, a {expr.ROLE_NAMES[a.roles[axis]]} axis,",
            a,
            "Sums up to j are d @ mask, with mask = i[:, None] <= j[None, :] of index vectors.",
        )
    return False


def accumulate(ufunc: np.ufunc, a: Node, axis: int = 0, dtype: Any = None, out: Any = None) -> Any:
    """ufunc.accumulate: along a feature axis, component by component."""
    shapes.refuse_out(f"{ufunc.__name__}.accumulate", out)
    axis = normalize_axis_index(axis, a.ndim)
    name = f"numpy.{ufunc.__name__}.accumulate"
    if not _over_features(name, a, axis):
        return ufunc.accumulate(dense(a), axis, dtype)
    parts = running(_combining(ufunc), _cast_for(ufunc, a, dtype), axis)
    return _stacked(parts, axis, a)


def _combining(ufunc: np.ufunc) -> Callable:
    return lambda x, y: ops.apply(ops.BY_FUNCTION[ufunc], x, y)


def _cast_for(ufunc: np.ufunc, a: Node, dtype: Any) -> Node:
    """In the dtype that NumPy would reduce in."""
    if dtype is None:
        dtype = ufunc.reduce(np.ones(1, a.dtype)).dtype
    return ops.cast(a, np.dtype(dtype))


def running(combine: Callable, a: Node, axis: int) -> list[Node]:
    """combine over the first 1, 2, 3, ... components."""
    parts = list(shapes.unstack(a, axis=axis))
    for k in range(1, len(parts)):
        parts[k] = combine(parts[k - 1], parts[k])
    return parts


def _stacked(parts: Sequence[Node], axis: int, like: Node) -> Node:
    return shapes.stack(parts, axis) if parts else like


def cumsum(a: Any, axis: int | None = None, dtype: Any = None, out: Any = None) -> Any:
    """Running sums along a feature axis."""
    return _running("cumsum", np.add, node_of(a), axis, dtype, out)


def cumprod(a: Any, axis: int | None = None, dtype: Any = None, out: Any = None) -> Any:
    """Running products along a feature axis."""
    return _running("cumprod", np.multiply, node_of(a), axis, dtype, out)


def nancumsum(a: Any, axis: int | None = None, dtype: Any = None, out: Any = None) -> Any:
    """Running sums along a feature axis, NaN counting as 0."""
    a = statistics.without_nan(a, 0)[0]
    return _running("nancumsum", np.add, a, axis, dtype, out)


def nancumprod(a: Any, axis: int | None = None, dtype: Any = None, out: Any = None) -> Any:
    """Running products along a feature axis, NaN counting as 1."""
    a = statistics.without_nan(a, 1)[0]
    return _running("nancumprod", np.multiply, a, axis, dtype, out)


def _running(what: str, ufunc: np.ufunc, a: Node, axis: Any, dtype: Any, out: Any) -> Any:
    if axis is None and a.ndim != 1:
        if expr.is_virtual(a):
            raise unsupported(f"numpy.{what} without axis", a, f"Name the axis: {what}(d, axis=1).")
        return ufunc.accumulate(dense(a).reshape(-1), dtype=dtype, out=out)
    axis = 0 if axis is None else statistics.axes_of(a, axis)[0]
    if not _over_features(f"numpy.{what}", a, axis):
        return ufunc.accumulate(dense(a), axis, dtype, out)
    return accumulate(ufunc, a, axis, dtype, out)


def cumulative_sum(
    x: Any,
    /,
    *,
    axis: int | None = None,
    dtype: Any = None,
    out: Any = None,
    include_initial: bool = False,
) -> Any:
    """Running sums along a feature axis, from 0 on if that is to be included."""
    return _cumulative("cumulative_sum", np.add, x, axis, dtype, out, include_initial)


def cumulative_prod(
    x: Any,
    /,
    *,
    axis: int | None = None,
    dtype: Any = None,
    out: Any = None,
    include_initial: bool = False,
) -> Any:
    """Running products along a feature axis, from 1 on if that is to be included."""
    return _cumulative("cumulative_prod", np.multiply, x, axis, dtype, out, include_initial)


def _cumulative(
    what: str, ufunc: np.ufunc, x: Any, axis: Any, dtype: Any, out: Any, include_initial: bool
) -> Any:
    a = node_of(x)
    if axis is None and a.ndim != 1:
        raise ValueError(
            "For arrays which have more than one dimension ``axis`` argument is required."
        )
    axis = 0 if axis is None else statistics.axes_of(a, axis)[0]
    if not include_initial:
        return _running(what, ufunc, a, axis, dtype, out)
    shapes.refuse_out(what, out)
    if not _over_features(f"numpy.{what}", a, axis):
        return getattr(np, what)(dense(a), axis=axis, dtype=dtype, include_initial=True)
    a = _cast_for(ufunc, a, dtype)
    parts = running(_combining(ufunc), a, axis)
    first = shapes.full_scalar(a, ufunc.identity, a.dtype)
    shape = (*a.shape[:axis], *a.shape[axis + 1 :])
    roles = a.roles[:axis] + a.roles[axis + 1 :]
    return shapes.stack([expr.Broadcast(first, shape, roles), *parts], axis)


def unwrap(p: Any, discont: Any = None, axis: int = -1, *, period: Any = 2 * math.pi) -> Any:
    """Angles along a feature axis, with whole periods added so that no step is a half or more."""
    p = node_of(p)
    axis = normalize_axis_index(axis, p.ndim)
    if not _over_features("numpy.unwrap", p, axis):
        return np.unwrap(dense(p), discont, axis, period=period)
    steps = diff(p, axis=axis)
    discont = period / 2 if discont is None else discont
    dtype = ops.common((steps.dtype, type(period)))
    if dtype.kind in "iu":
        high, rest = divmod(period, 2)
        ambiguous = rest == 0
    else:
        high, ambiguous = period / 2, True
    low = -high
    wrapped = call("add", call("remainder", call("subtract", steps, low), period), low)
    if ambiguous:
        edge = call("logical_and", call("equal", wrapped, low), call("greater", steps, 0))
        wrapped = call("where", edge, high, wrapped)
    correction = call("subtract", wrapped, steps)
    zero = shapes.full_scalar(p, 0, correction.dtype)
    correction = call("where", call("less", call("abs", steps), discont), zero, correction)
    parts = shapes.unstack(ops.cast(p, dtype), axis=axis)
    totals = running(_combining(np.add), correction, axis)
    moved = (call("add", q, t) for q, t in zip(parts[1:], totals, strict=True))
    return shapes.stack([ops.cast(q, dtype) for q in (*parts[:1], *moved)], axis)


def spaced(
    start: Any, stop: Any, num: int, endpoint: bool, dtype: Any, axis: int
) -> tuple[Node, Node]:
    """num numbers from start to stop along a new axis, and the step between them."""
    a, b = node_of(start), node_of(stop)
    if num < 0:
        raise ValueError(f"Number of samples, {num}, must be non-negative.")
    div = num - 1 if endpoint else num
    a, b = ops.call("multiply", a, 1.0), ops.call("multiply", b, 1.0)
    delta = ops.call("subtract", b, a)
    n = delta.ndim
    step = ops.call("divide", delta, div) if div > 0 else ops.call("multiply", delta, math.nan)
    k = np.arange(num, dtype=step.dtype).reshape(-1, *[1] * n)
    places: Node = expr.Input(constant(step, k), step.dtype, FEATURE + NEUTRAL * n)
    slope = shapes.expand_dims(step if div > 0 else delta, 0)
    out = ops.call("add", ops.call("multiply", places, slope), shapes.expand_dims(a, 0))
    if endpoint and num > 1:
        last = along(out, 0, np.arange(num) == num - 1)
        out = ops.call("where", last, shapes.expand_dims(b, 0), out)
    out = shapes.moveaxis(out, 0, axis) if axis != 0 else out
    if dtype is not None:
        if np.dtype(dtype).kind in "iu":
            out = ops.call("floor", out)
        out = ops.cast(out, np.dtype(dtype))
    return out, step


def linspace(
    start: Any,
    stop: Any,
    num: int = 50,
    endpoint: bool = True,
    retstep: bool = False,
    dtype: Any = None,
    axis: int = 0,
    *,
    device: Any = None,
) -> Any:
    """Evenly spaced numbers between two arrays, along a new feature axis."""
    out = spaced(start, stop, num, endpoint, dtype, axis)
    return out if retstep else out[0]


def logspace(
    start: Any,
    stop: Any,
    num: int = 50,
    endpoint: bool = True,
    base: Any = 10.0,
    dtype: Any = None,
    axis: int = 0,
) -> Node:
    """Powers of `base`, their exponents evenly spaced, along a new feature axis."""
    powers = ops.call("pow", node_of(base), spaced(start, stop, num, endpoint, None, axis)[0])
    return powers if dtype is None else ops.cast(powers, np.dtype(dtype))
