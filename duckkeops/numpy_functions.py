"""NumPy's two protocols on nodes: which line of the table answers, and what nobody answers.

`function` and `ufunc` are what LazyArray's `__array_function__` and `__array_ufunc__` call, with
lazy arrays already taken apart into nodes. Handlers return nodes or genuine arrays, or tuples of
them.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from duckkeops import contractions, expr, genuine, ops, running, shapes, statistics, views
from duckkeops.elementwise import data_dependent, elementwise, only
from duckkeops.errors import DtypeError, UnsupportedError
from duckkeops.expr import FEATURE, NEUTRAL, Node
from duckkeops.indexing import written
from duckkeops.numpy_table import (
    CHANGING,
    COMPOSED,
    COUNTED,
    GUFUNCS,
    HANDLERS,
    REDUCED,
    remedy_of,
    remedy_of_special,
)
from duckkeops.operands import describe, nbytes, node_of, units, unsupported

# -- functions -------------------------------------------------------------------------------------


def function(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The answer to a NumPy function of nodes and other arguments."""
    handler = HANDLERS.get(func)
    if handler is not None:
        return handler(*args, **kwargs)
    op = ops.BY_FUNCTION.get(func)
    if op is not None:
        return elementwise(op, *args, **kwargs)
    return elsewhere(func, args, kwargs)


def elsewhere(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A function that is not ours: NumPy's own if no lazy array is virtual, else the refusal."""
    name = f"{func.__module__}.{func.__name__}"
    if func in CHANGING and isinstance(changed := _first_argument(func, args, kwargs), Node):
        raise unsupported(name, changed, remedy_of(func))
    virtual = next((n for n in _nodes((args, kwargs)) if expr.is_virtual(n)), None)
    if virtual is None:
        return func(*_computed(args), **_computed(kwargs))
    if func in COUNTED:
        raise data_dependent(name, virtual)
    raise unsupported(name, virtual, remedy_of(func))


def _first_argument(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """What a function that changes an array would change."""
    return args[0] if args else kwargs.get(next(iter(inspect.signature(func).parameters)))


def _first(*values: Any) -> Node | None:
    """The first node in nested arguments."""
    return next(iter(_nodes(values)), None)


def _nodes(value: Any) -> list[Node]:
    if isinstance(value, Node):
        return [value]
    inner = (
        value.values()
        if isinstance(value, dict)
        else value
        if isinstance(value, tuple | list)
        else ()
    )
    return [n for v in inner for n in _nodes(v)]


def _computed(value: Any) -> Any:
    """The same arguments with genuine arrays for nodes."""
    if isinstance(value, Node):
        return genuine.dense(value)
    if isinstance(value, dict):
        return {k: _computed(v) for k, v in value.items()}
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        return type(value)(_computed(v) for v in value)
    return value


# -- ufuncs ----------------------------------------------------------------------------------------


def ufunc(func: np.ufunc, method: str, inputs: tuple, kwargs: dict[str, Any]) -> Any:
    """The answer to a ufunc, or to its reduce or outer."""
    if method == "__call__":
        return _called(func, inputs, kwargs)
    if method == "reduce":
        return _reduced(func, *inputs, **kwargs)
    if method == "outer":
        x, y = (node_of(a) for a in inputs)
        return _called(
            func, (views.expand(x, range(x.ndim, x.ndim + y.ndim)) if y.ndim else x, y), kwargs
        )
    if method == "accumulate" and _combines(func):
        node = node_of(inputs[0])
        return running.accumulate(func, node, *inputs[1:], **kwargs)
    return elsewhere_ufunc(func, method, inputs, kwargs)


def _combines(func: np.ufunc) -> bool:
    """Is it a row of two arguments, so that it can go over components?"""
    return func in ops.BY_FUNCTION and (func.nin, func.nout) == (2, 1)


def _called(func: np.ufunc, inputs: tuple, kwargs: dict[str, Any]) -> Any:
    out = kwargs.get("out")
    if out is not None and all(o is None for o in out):
        kwargs = {k: v for k, v in kwargs.items() if k != "out"}
    if func in GUFUNCS:
        return GUFUNCS[func](*inputs, **kwargs)
    if func in COMPOSED:
        shapes.refuse_out(func.__name__, kwargs.pop("out", None))
        only(func.__name__, kwargs)
        return COMPOSED[func](*(node_of(a) for a in inputs))
    if out is not None and any(isinstance(o, np.ndarray) for o in out):
        raise _in_place(func, inputs)
    op = ops.BY_FUNCTION.get(func)
    if op is None and (op := _of_scipy(func)) is not None:
        inputs = _as_scipy(func, inputs)
    return (
        elsewhere_ufunc(func, "__call__", inputs, kwargs)
        if op is None
        else elementwise(op, *inputs, **kwargs)
    )


def _of_scipy(func: np.ufunc) -> ops.Op | None:
    """The row of a ufunc of scipy.special."""
    special = sys.modules.get("scipy.special")
    if special is None:
        return None
    return next(
        (op for op in ops.TABLE if op.scipy and getattr(special, op.scipy, None) is func), None
    )


def _as_scipy(func: np.ufunc, inputs: tuple) -> tuple[Node, ...]:
    """The arguments in the dtypes that this ufunc of scipy.special computes in."""
    nodes = tuple(node_of(a) for a in inputs)
    dtypes = tuple(np.dtype(bool) if n.dtype is bool else n.dtype for n in nodes)
    if any(getattr(t, "name", "") == "bfloat16" for t in dtypes):
        return nodes
    try:
        loop = func.resolve_dtypes((*dtypes, None))[: func.nin]
    except TypeError as error:
        raise DtypeError(f"scipy.special.{func.__name__}: {error}") from None
    if any(t.kind == "c" for t in loop):
        raise DtypeError(
            f"scipy.special.{func.__name__} of complex numbers has no pairwise form.\n"
            "  Take real numbers: d.real, d.imag or abs(d)."
        )
    return tuple(
        ops.cast(n, t) if isinstance(n.dtype, np.dtype) else n
        for n, t in zip(nodes, loop, strict=True)
    )


def _in_place(func: np.ufunc, inputs: tuple) -> UnsupportedError:
    node = _first(inputs)
    what = describe(node) if node is not None else "an array"
    return UnsupportedError(
        f"numpy.{func.__name__}(out=) would write all entries of d: {what} into an "
        f"array{'' if node is None else f' ({units(nbytes(node))})'}.\n"
        "  Write x = x + d instead of x += d, which stays lazy, or reduce d first."
    )


def _reduced(
    func: np.ufunc,
    a: Any,
    axis: Any = 0,
    dtype: Any = None,
    out: Any = None,
    keepdims: bool = False,
    initial: Any = np._NoValue,
    where: Any = True,
) -> Any:  # type: ignore[attr-defined]
    """ufunc.reduce: over axis 0 if no other is named."""
    node = node_of(a)
    out = out[0] if isinstance(out, tuple) else out
    options = {"out": out, "keepdims": keepdims}
    if func in (np.add, np.multiply):
        return REDUCED[func](node, axis, dtype, initial=initial, where=where, **options)
    if func in (np.minimum, np.maximum, np.fmin, np.fmax):
        node = node if dtype is None else ops.cast(node, dtype)
        return REDUCED[func](node, axis, initial=initial, where=where, **options)
    if func in REDUCED:
        return REDUCED[func](node, axis, where=where, **options)
    if func is np.logaddexp:
        node = ops.cast(node, func.resolve_dtypes((node.dtype, node.dtype, None))[2])
        if where is not True:
            node = ops.call("where", node_of(where), node, -np.inf)
        value = statistics.logsumexp(node, axis, keepdims)
        if initial is not np._NoValue and initial is not None:  # type: ignore[attr-defined]
            value = genuine.call("logaddexp", value, initial)
        return value if out is None else written(out, value)
    if func is np.hypot:
        value = contractions.vector_norm(node, axis=axis, keepdims=keepdims)
        return value if out is None else written(out, value)
    if _combines(func) and where is True and not isinstance(axis, tuple | list):
        k = statistics.axes_of(node, axis)
        if len(k) == 1 and node.shape[k[0]] and node.roles[k[0]] in (FEATURE, NEUTRAL):
            return _over_features(func, node, k[0], dtype, out, keepdims, initial)
    return elsewhere_ufunc(func, "reduce", (node,), {"axis": axis, "keepdims": keepdims})


def _over_features(
    func: np.ufunc, a: Node, axis: int, dtype: Any, out: Any, keepdims: bool, initial: Any
) -> Node:
    """Any ufunc of two arguments over a feature axis, component by component."""
    shapes.refuse_out(f"{func.__name__}.reduce", out)
    op = ops.BY_FUNCTION[func]
    dtype = func.reduce(np.ones(1, a.dtype)).dtype if dtype is None else np.dtype(dtype)
    value, *others = shapes.unstack(ops.cast(a, dtype), axis=axis)
    if initial is not np._NoValue and initial is not None:  # type: ignore[attr-defined]
        value = ops.apply(op, shapes.full_scalar(a, initial, dtype), value)
    for one in others:
        value = ops.apply(op, value, one)
    return views.expand(value, (axis,)) if keepdims else value


def elsewhere_ufunc(func: np.ufunc, method: str, inputs: tuple, kwargs: dict[str, Any]) -> Any:
    """A ufunc, or a method of one, that has no pairwise form.

    The library's own computes it if no lazy array is virtual.
    """
    nodes = _nodes((inputs, kwargs))
    virtual = next((n for n in nodes if expr.is_virtual(n)), None)
    if virtual is not None or method == "at":
        home, name = _home(func)
        remedy = remedy_of(func) if method == "__call__" else ""
        if home == "scipy.special" and method == "__call__":
            remedy = remedy_of_special(name, func.nin)
        what = f"{home}.{name}" if method == "__call__" else f"{home}.{name}.{method}"
        raise unsupported(what, virtual if virtual is not None else nodes[0], remedy)
    return getattr(func, method)(*_computed(inputs), **_computed(kwargs))


def _home(func: np.ufunc) -> tuple[str, str]:
    """The library of a ufunc and its name there, as messages have them."""
    name = func.__name__
    if getattr(sys.modules.get("scipy.special._ufuncs"), name, None) is not func:
        return "numpy", name
    return "scipy.special", _PRIVATE.get(name, name.removeprefix("_"))


_PRIVATE = {"_riemann_zeta": "zeta"}  # what scipy.special.zeta(x) calls; zeta(x, q) calls _zeta
