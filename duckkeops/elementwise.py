"""Entry by entry: a row of the table with a ufunc's options, and NumPy's functions over rows."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from duckkeops import expr, genuine, ops, shapes, statistics
from duckkeops.errors import DtypeError, UnsupportedError
from duckkeops.expr import Node
from duckkeops.genuine import all_entries
from duckkeops.operands import describe, is_array, namespace_of, nbytes, node_of, units
from duckkeops.rewrite import with_arrays
from duckkeops.tensors import copied, is_tensor


def elementwise(
    op: ops.Op,
    *args: Any,
    out: Any = None,
    where: Any = True,
    dtype: Any = None,
    casting: Any = "same_kind",
    **ignored: Any,
) -> Any:
    """A row on nodes, arrays and numbers, with the options of a ufunc."""
    only(op.name, ignored, "order", "subok")
    shapes.refuse_out(op.name, out)
    if where is not True:
        node = node_of(next((a for a in args if isinstance(a, Node)), where))
        raise UnsupportedError(
            f"{op.name}(where=) of a lazy array would leave entries unset.\n"
            f"  Write numpy.where(mask, numpy.{op.name}(d), other) for d: {describe(node)}, "
            f"which stays lazy; all of it would take {units(nbytes(node))}."
        )
    nodes = [node_of(a) for a in args]
    if dtype is None:
        return ops.apply(op, *nodes)
    return _in_dtype(op, nodes, np.dtype(dtype), casting)


def _in_dtype(op: ops.Op, nodes: Sequence[Node], dtype: np.dtype, casting: Any) -> Node:
    """The row computed in the dtype that dtype= asks for."""
    if op.name in ops.COMPARISONS or ops.resolve(op, tuple(n.dtype for n in nodes))[1] == np.bool:
        if dtype != np.bool:
            raise DtypeError(
                f"{op.name}(dtype={dtype.name}): the result is boolean.\n"
                f"  Convert it: d.astype({dtype.name!r})."
            )
        return ops.apply(op, *nodes)
    for n in nodes:
        if isinstance(n.dtype, np.dtype) and not np.can_cast(n.dtype, dtype, casting):
            raise DtypeError(
                f"{op.name}(dtype={dtype.name}): cannot cast from {n.dtype.name} "
                f"by the rule {casting!r}."
            )
    out = ops.apply(op, *(ops.cast(n, dtype) for n in nodes))
    return ops.cast(out, dtype)


def only(what: str, options: dict[str, Any], *known: str) -> None:
    wrong = next((k for k in options if k not in known), None)
    if wrong is not None:
        raise TypeError(f"{what} of a lazy array takes no argument {wrong}=.")


def where(condition: Any, x: Any = None, y: Any = None, /) -> Any:
    """x where the condition holds, else y."""
    if (x is None) != (y is None):
        raise ValueError(
            "either both or neither of x and y should be given: numpy.where(condition, x, y)."
        )
    if x is None:
        node = node_of(condition)
        if expr.is_virtual(node):
            raise data_dependent("numpy.where(condition)", node)
        return np.nonzero(genuine.dense(node))
    return ops.call("where", node_of(condition), node_of(x), node_of(y))


def data_dependent(what: str, node: Node) -> UnsupportedError:
    return UnsupportedError(
        f"{what} has a result whose length depends on the data, "
        f"so it cannot take d: {describe(node)}.\n"
        "  Count with d.sum(axis=1), or find the extreme entries with d.argmin(axis=1) "
        "or numpy.argsort(d, axis=1)[:, :k]."
    )


def clip(
    a: Any,
    a_min: Any = None,
    a_max: Any = None,
    out: Any = None,
    *,
    min: Any = None,
    max: Any = None,
    **options: Any,
) -> Any:
    """`a`, but at least a_min and at most a_max."""
    a_min, a_max = _unset(a_min), _unset(a_max)
    if (a_min is not None and min is not None) or (a_max is not None and max is not None):
        raise ValueError(
            "Passing `min` or `max` keyword argument "
            "when `a_min` and `a_max` are provided is forbidden."
        )
    shapes.refuse_out("clip", out)
    only("clip", options, "order", "subok", "casting", "dtype")
    low, high = a_min if min is None else min, a_max if max is None else max
    node = node_of(a)
    low, high = _within(node.dtype, low, high)
    result = ops.clip(node, *(None if b is None else node_of(b) for b in (low, high)))
    return result if options.get("dtype") is None else ops.cast(result, np.dtype(options["dtype"]))


def _within(dtype: Any, low: Any, high: Any) -> tuple[Any, Any]:
    """The bounds, less Python integers that no integer of the dtype is beyond, as in NumPy."""
    if getattr(dtype, "kind", None) in ("i", "u"):
        ends = np.iinfo(dtype)
        low = None if type(low) is int and low <= ends.min else low
        high = None if type(high) is int and high >= ends.max else high
    return low, high


def _unset(x: Any) -> Any:
    return None if x is np._NoValue else x  # type: ignore[attr-defined]


def round_(a: Any, decimals: int = 0, out: Any = None) -> Node:
    """To this many decimals, half to even."""
    shapes.refuse_out("round", out)
    return ops.round(node_of(a), operator.index(decimals))


def nan_to_num(
    x: Any, copy: bool = True, nan: Any = 0.0, posinf: Any = None, neginf: Any = None
) -> Node:
    """NaN and infinities replaced by numbers."""
    if not copy:
        raise UnsupportedError(
            "nan_to_num(copy=False) would change a lazy array, which is immutable. "
            "Leave copy= away."
        )
    return ops.nan_to_num(node_of(x), nan, posinf, neginf)


def isclose(a: Any, b: Any, rtol: Any = 1e-05, atol: Any = 1e-08, equal_nan: bool = False) -> Node:
    """Is |a - b| <= atol + rtol |b|?"""
    return ops.isclose(node_of(a), node_of(b), rtol, atol, equal_nan)


def select(condlist: Any, choicelist: Any, default: Any = 0) -> Node:
    """The first choice whose condition holds."""
    conditions = [node_of(c) for c in condlist]
    for k, condition in enumerate(conditions):
        if condition.dtype != np.bool:
            raise TypeError(
                f"invalid entry {k} in condlist: a condition is an array of booleans, "
                f"and this is {describe(condition)}.\n  Compare first, as in d != 0."
            )
    return ops.select(conditions, [node_of(c) for c in choicelist], node_of(default))


def angle(z: Any, deg: bool = False) -> Node:
    """The argument of complex numbers, in radians or degrees."""
    out = ops.call("angle", node_of(z))
    return ops.call("rad2deg", out) if deg else out


def real(val: Any) -> Node:
    """The real parts."""
    node = node_of(val)
    return ops.call("real", node) if node.dtype.kind == "c" else node


def imag(val: Any) -> Node:
    """The imaginary parts."""
    node = node_of(val)
    return ops.call("imag", node) if node.dtype.kind == "c" else shapes.zeros_like(node)


def copy(a: Any, order: str = "K", subok: bool = False) -> Node:
    """The same expression of copies: what is written to the arrays later does not reach it."""
    return with_arrays(node_of(a), _copied)


def _copied(x: Any) -> Any:
    """A copy that takes no more memory: what is repeated along an axis stays so."""
    strides = x.stride() if is_tensor(x) else getattr(x, "strides", (1,) * x.ndim)
    once = x[tuple(slice(0, 1) if step == 0 else slice(None) for step in strides)]
    return namespace_of(x).broadcast_to(copied(once), x.shape)


def iscomplex(x: Node) -> Node:
    """Has it an imaginary part that is not 0?"""
    return ops.call("not_equal", imag(x), 0)


def isreal(x: Node) -> Node:
    """Is the imaginary part 0?"""
    return ops.call("equal", imag(x), 0)


def real_if_close(a: Node, tol: float = 100) -> Node:
    """The real parts, if all imaginary parts are next to 0: one reduction says so."""
    if a.dtype.kind != "c":
        return a
    if tol > 1:
        tol = float(tol * np.finfo(a.dtype).eps)
    small = statistics.all(ops.call("less", ops.call("abs", imag(a)), tol))
    if isinstance(small, Node):
        small = all_entries("real_if_close", small)
    return real(a) if bool(small) else a


def polyval(p: Any, x: Any) -> Any:
    """The polynomial with coefficients p, the highest power first, at each entry."""
    coefficients = genuine.table("numpy.polyval", "p", p)
    if not isinstance(x, Node):
        return np.polyval(coefficients, x)
    node = node_of(x)
    out: Node = shapes.full_scalar(node, 0, node.dtype)
    for k in range(coefficients.shape[0]):
        out = ops.call("add", ops.call("multiply", out, node), node_of(coefficients[k]))
    return shapes.broadcast_to(out, node.shape) if out.shape != node.shape else out


def choose(a: Any, choices: Any, out: Any = None, mode: str = "raise") -> Node:
    """The entry of choices[k], where k is the entry of `a`.

    By default one more reduction finds out whether every k is in range.
    """
    shapes.refuse_out("choose", out)
    if isinstance(choices, Node):
        choices = shapes.unstack(choices)
    nodes = [node_of(c if isinstance(c, Node) or is_array(c) else np.asarray(c)) for c in choices]
    index = node_of(a if isinstance(a, Node) or is_array(a) else np.asarray(a))
    if index.dtype.kind not in "biu":
        raise TypeError(f"choose takes integers as its first argument, and got {describe(index)}.")
    index = ops.cast(index, np.dtype(np.int64))
    n = len(nodes)
    if mode == "wrap":
        index = ops.call("remainder", index, n)
    elif mode == "clip":
        index = ops.clip(index, 0, n - 1)
    elif mode == "raise":
        inside = ops.call(
            "logical_and", ops.call("greater_equal", index, 0), ops.call("less", index, n)
        )
        inside = statistics.all(inside)
        if isinstance(inside, Node):
            inside = all_entries("choose(mode='raise')", inside)
        if not bool(inside):
            raise ValueError("invalid entry in choice array")
    else:
        raise ValueError(f"mode must be one of 'raise', 'wrap' and 'clip' (got {mode!r})")
    dtype = ops.common([c.dtype for c in nodes])
    value = ops.cast(nodes[-1], dtype)
    for k in range(n - 2, -1, -1):
        value = ops.call("where", ops.call("equal", index, k), ops.cast(nodes[k], dtype), value)
    shape = np.broadcast_shapes(index.shape, *(c.shape for c in nodes))
    return shapes.broadcast_to(value, shape)


def ldexp(x: Any, e: Any) -> Node:
    """x times 2 to the power e."""
    x, e = node_of(x), node_of(e)
    dtype = np.ldexp.resolve_dtypes((x.dtype, e.dtype, None))[2]
    e = ops.clip(ops.cast(e, np.dtype(np.int64)), -2400, 2400)
    part = ops.call("floor_divide", e, 3)
    rest = ops.call("subtract", e, ops.call("multiply", part, 2))
    out = ops.cast(x, dtype)
    for power in (part, part, rest):  # 2.0**e alone may be too large for the dtype
        scale = ops.call("exp2", ops.cast(power, np.dtype(np.float64)))
        out = ops.call("multiply", out, scale)
    return ops.cast(out, dtype)


def spacing(x: Any) -> Node:
    """The distance to the next number away from 0, with the sign of x."""
    node = ops.call("positive", _as_float(node_of(x)))
    size = ops.call("abs", node)
    up = ops.call("nextafter", size, shapes.full_scalar(node, np.inf, node.dtype))
    step = ops.call("copysign", ops.call("subtract", up, size), node)
    return step


def _as_float(x: Node) -> Node:
    return ops.cast(x, np.spacing.resolve_dtypes((x.dtype, None))[0])


# -- functions of the user's -----------------------------------------------------------------------

_wrap: Any = None


def set_wrap(wrap: Any) -> None:
    """How a node becomes a lazy array, which array.py knows: for functions that the user gives."""
    global _wrap
    _wrap = wrap


def _own(function: Any, *args: Any, **kwargs: Any) -> Any:
    """A function of the user's, on lazy arrays for nodes; a node or a genuine array."""
    value = function(*(_wrap(a) if isinstance(a, Node) else a for a in args), **kwargs)
    return getattr(value, "_node", value)


def piecewise(x: Any, condlist: Any, funclist: Any, *args: Any, **kw: Any) -> Node:
    """Where a condition holds, the function for it; the last condition that holds counts.

    Each function is called with all of x, and not only with the entries that it is for.
    """
    node = node_of(x)
    if isinstance(condlist, Node):
        condlist = [condlist] if condlist.ndim < 2 else shapes.unstack(condlist)
    elif np.ndim(condlist[0]) == 0 and not isinstance(condlist[0], Node):
        condlist = [condlist]
    conditions = [
        node_of(c if isinstance(c, Node) or is_array(c) else np.asarray(c)) for c in condlist
    ]
    functions = list(funclist)
    if len(functions) not in (len(conditions), len(conditions) + 1):
        raise ValueError(
            f"with {len(conditions)} condition(s), either {len(conditions)} or "
            f"{len(conditions) + 1} functions are expected"
        )
    otherwise = functions.pop() if len(functions) > len(conditions) else 0
    out = _value_of(otherwise, node, args, kw)
    for condition, function in zip(conditions, functions, strict=True):
        condition = ops.cast(condition, np.dtype(bool))
        out = ops.call("where", condition, _value_of(function, node, args, kw), out)
    return shapes.broadcast_to(out, node.shape)


def _value_of(function: Any, x: Node, args: tuple, kw: dict) -> Node:
    value = _own(function, x, *args, **kw) if callable(function) else function
    if not isinstance(value, Node):
        return shapes.full_scalar(x, value, x.dtype)
    return ops.cast(value, x.dtype)


def apply_over_axes(func: Any, a: Node, axes: Any) -> Any:
    """A function of an array and an axis, over one axis after the other."""
    axes = [int(k) for k in np.atleast_1d(axes)]
    value: Any = a
    for k in axes:
        k = k + a.ndim if k < 0 else k
        result = _own(func, value, k)
        value = result if np.ndim(result) == a.ndim else genuine.expand(result, (k,))
        if value.ndim != a.ndim:
            raise ValueError("function is not returning an array of the correct shape")
    return value
