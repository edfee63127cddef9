"""What we answer for each NumPy function: one table from the callable to a handler on nodes.

`function` and `ufunc` are what LazyArray's `__array_function__` and `__array_ufunc__` call, with
lazy arrays already taken apart into nodes. Handlers return nodes or genuine arrays, or tuples of
them.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from duckkeops import (
    contractions,
    expr,
    genuine,
    histograms,
    indexing,
    ops,
    shapes,
    sorting,
    statistics,
    views,
)
from duckkeops.errors import DtypeError, UnsupportedError
from duckkeops.expr import Node
from duckkeops.indexing import written
from duckkeops.operands import describe, nbytes, node_of, units, unsupported

# -- elementwise -----------------------------------------------------------------------------------


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
    _only(op.name, ignored, "order", "subok")
    shapes.refuse_out(op.name, out)
    if where is not True:
        raise UnsupportedError(
            f"{op.name}(where=) of a lazy array would leave entries unset.\n"
            f"  Write numpy.where(mask, numpy.{op.name}(d), other)."
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


def _only(what: str, options: dict[str, Any], *known: str) -> None:
    wrong = next((k for k in options if k not in known), None)
    if wrong is not None:
        raise TypeError(f"{what} of a lazy array takes no argument {wrong}=.")


def where(condition: Any, x: Any = None, y: Any = None, /) -> Node:
    """x where the condition holds, else y."""
    if x is None or y is None:
        raise _data_dependent("numpy.where(condition)", node_of(condition))
    return ops.call("where", node_of(condition), node_of(x), node_of(y))


def _data_dependent(what: str, node: Node) -> UnsupportedError:
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
    _only("clip", options, "order", "subok", "casting", "dtype")
    low, high = a_min if min is None else min, a_max if max is None else max
    nodes = [None if b is None else node_of(b) for b in (low, high)]
    result = ops.clip(node_of(a), *nodes)
    return result if options.get("dtype") is None else ops.cast(result, np.dtype(options["dtype"]))


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
    return ops.select(
        [node_of(c) for c in condlist], [node_of(c) for c in choicelist], node_of(default)
    )


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
    """The same: a lazy array is immutable."""
    return node_of(a)


# -- what is known without computing ---------------------------------------------------------------


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


def text(a: Node, *args: Any, **kwargs: Any) -> str:
    raise unsupported(
        "printing the entries",
        a,
        "Print the formula with repr(d), or some entries: d[:5, :5].to_dense().",
    )


# -- the table -------------------------------------------------------------------------------------


def _taking_node(function: Callable) -> Callable:
    """A handler whose first argument may be a genuine array too, the lazy one being another
    argument.
    """

    def handler(a: Any, /, *args: Any, **kwargs: Any) -> Any:
        return function(node_of(a), *args, **kwargs)

    return handler


def _first(*values: Any) -> Node:
    """The first node in nested arguments."""
    for v in values:
        if isinstance(v, Node):
            return v
        inner = v.values() if isinstance(v, dict) else v if isinstance(v, tuple | list) else ()
        found = _first(*inner)
        if found is not None:
            return found
    return None  # type: ignore[return-value]


_TOPK = (
    "Take the smallest entries with numpy.sort(d, axis=1)[:, :k], "
    "or compute all pairs with d.to_dense()."
)
_SOLVE = (
    "Solve with an iterative method, duckkeops.linalg.solve(d, b) or scipy.sparse.linalg.cg(d, b), "
    "which only needs d @ b."
)
_EIGEN = (
    "Eigenvalues and singular values come from scipy.sparse.linalg.eigsh(d) and svds(d), "
    "which only need d @ b."
)

# functions with their own remedy; any other one is refused with a general message
REMEDIES: dict[Callable, str] = {
    np.median: _TOPK,
    np.quantile: _TOPK,
    np.percentile: _TOPK,
    np.nanmedian: _TOPK,
    np.linalg.solve: _SOLVE,
    np.linalg.inv: _SOLVE,
    np.linalg.pinv: _SOLVE,
    np.linalg.lstsq: _SOLVE,
    np.linalg.svd: _EIGEN,
    np.linalg.svdvals: _EIGEN,
    np.linalg.eig: _EIGEN,
    np.linalg.eigh: _EIGEN,
    np.linalg.eigvals: _EIGEN,
    np.linalg.eigvalsh: _EIGEN,
    np.linalg.matrix_rank: _EIGEN,
    np.linalg.cond: _EIGEN,
    np.linalg.matrix_power: "Multiply repeatedly: d @ (d @ b).",
    np.tile: "Broadcast instead: numpy.broadcast_to(d[None], (k, *d.shape)).",
    np.repeat: "Repeat the rows of the inputs: d[rows], "
    "with rows = numpy.repeat(numpy.arange(n), k).",
    np.cumsum: "Sums up to j are d @ mask, with mask = i[:, None] <= j[None, :] of index vectors.",
    np.unique: "Its length depends on the data. Count with (d == value).sum(axis=1).",
}

FUNCTIONS: dict[Callable, Callable] = {
    # elementwise, with options of their own
    np.where: where,
    np.clip: clip,
    np.round: round_,
    np.around: round_,
    np.nan_to_num: nan_to_num,
    np.isclose: isclose,
    np.select: select,
    np.angle: angle,
    np.real: real,
    np.imag: imag,
    np.copy: copy,
    np.astype: shapes.astype,
    np.zeros_like: shapes.zeros_like,
    np.ones_like: shapes.ones_like,
    np.empty_like: shapes.zeros_like,
    np.full_like: shapes.full_like,
    np.tril: shapes.tril,
    np.triu: shapes.triu,
    # metadata
    np.shape: lambda a: a.shape,
    np.ndim: lambda a: a.ndim,
    np.size: size,
    np.result_type: result_type,
    np.can_cast: can_cast,
    np.common_type: common_type,
    np.min_scalar_type: min_scalar_type,
    np.iscomplexobj: lambda x: x.dtype.kind == "c",
    np.isrealobj: lambda x: x.dtype.kind != "c",
    np.isfortran: lambda a: False,
    np.einsum_path: contractions.einsum_path,
    np.array_repr: text,
    np.array_str: text,
    np.array2string: text,
    # shapes
    np.transpose: shapes.transpose,
    np.matrix_transpose: shapes.matrix_transpose,
    np.linalg.matrix_transpose: shapes.matrix_transpose,
    np.swapaxes: shapes.swapaxes,
    np.moveaxis: shapes.moveaxis,
    np.rollaxis: shapes.rollaxis,
    np.reshape: shapes.reshape,
    np.ravel: shapes.ravel,
    np.expand_dims: shapes.expand_dims,
    np.squeeze: shapes.squeeze,
    np.atleast_1d: shapes.each_at_least(1),
    np.atleast_2d: shapes.each_at_least(2),
    np.atleast_3d: shapes.each_at_least(3),
    np.broadcast_to: shapes.broadcast_to,
    np.broadcast_arrays: shapes.broadcast_arrays,
    np.flip: shapes.flip,
    np.flipud: shapes.flipud,
    np.fliplr: shapes.fliplr,
    np.rot90: shapes.rot90,
    np.concatenate: shapes.concatenate,
    np.stack: shapes.stack,
    np.hstack: shapes.hstack,
    np.vstack: shapes.vstack,
    np.dstack: shapes.dstack,
    np.column_stack: shapes.column_stack,
    np.append: shapes.append,
    np.block: shapes.block,
    np.split: shapes.split,
    np.array_split: shapes.array_split,
    np.hsplit: shapes.hsplit,
    np.vsplit: shapes.vsplit,
    np.dsplit: shapes.dsplit,
    np.unstack: shapes.unstack,
    # picks
    np.take: _taking_node(indexing.take),
    np.take_along_axis: _taking_node(indexing.take_along_axis),
    np.diagonal: indexing.diagonal,
    np.linalg.diagonal: lambda x, /, *, offset=0: indexing.diagonal(x, offset, -2, -1),
    np.diag: indexing.diag,
    np.trace: statistics.trace,
    np.linalg.trace: lambda x, /, *, offset=0, dtype=None: statistics.trace(
        x, offset, -2, -1, dtype
    ),
    # sorting
    np.sort: sorting.sort,
    np.argsort: sorting.argsort,
    np.partition: sorting.partition,
    np.argpartition: sorting.argpartition,
    # reductions
    np.sum: statistics.sum,
    np.prod: statistics.prod,
    np.min: statistics.min,
    np.amin: statistics.min,
    np.max: statistics.max,
    np.amax: statistics.max,
    np.mean: statistics.mean,
    np.var: statistics.var,
    np.std: statistics.std,
    np.argmin: statistics.argmin,
    np.argmax: statistics.argmax,
    np.any: statistics.any,
    np.all: statistics.all,
    np.count_nonzero: statistics.count_nonzero,
    np.ptp: statistics.ptp,
    np.average: statistics.average,
    np.nansum: statistics.nansum,
    np.nanprod: statistics.nanprod,
    np.nanmean: statistics.nanmean,
    np.nanvar: statistics.nanvar,
    np.nanstd: statistics.nanstd,
    np.nanmin: statistics.nanmin,
    np.nanmax: statistics.nanmax,
    np.nanargmin: statistics.nanargmin,
    np.nanargmax: statistics.nanargmax,
    np.allclose: statistics.allclose,
    np.array_equal: statistics.array_equal,
    np.array_equiv: statistics.array_equiv,
    # counts
    np.histogram: histograms.histogram,
    np.histogram_bin_edges: histograms.histogram_bin_edges,
    np.bincount: histograms.bincount,
    # contractions
    np.dot: contractions.dot,
    np.vdot: contractions.vdot,
    np.inner: contractions.inner,
    np.outer: contractions.outer,
    np.cross: contractions.cross,
    np.tensordot: contractions.tensordot,
    np.einsum: contractions.einsum,
    np.linalg.matmul: contractions.matmul,
    np.linalg.vecdot: contractions.vecdot,
    np.linalg.outer: contractions.outer,
    np.linalg.tensordot: contractions.tensordot,
    np.linalg.cross: lambda x1, x2, /, *, axis=-1: contractions.cross(x1, x2, axis=axis),
    np.linalg.multi_dot: contractions.multi_dot,
    np.linalg.norm: contractions.norm,
    np.linalg.vector_norm: contractions.vector_norm,
    np.linalg.matrix_norm: contractions.matrix_norm,
}

GUFUNCS: dict[np.ufunc, Callable] = {
    np.matmul: contractions.matmul,
    np.vecdot: contractions.vecdot,
    np.matvec: contractions.matvec,
    np.vecmat: contractions.vecmat,
}

PAIRS: dict[np.ufunc, Callable] = {np.divmod: ops.divmod, np.modf: ops.modf, np.frexp: ops.frexp}

REDUCED: dict[np.ufunc, Callable] = {
    np.add: statistics.sum,
    np.multiply: statistics.prod,
    np.minimum: statistics.min,
    np.maximum: statistics.max,
    np.fmin: statistics.nanmin,
    np.fmax: statistics.nanmax,
    np.logical_and: statistics.all,
    np.logical_or: statistics.any,
}


def function(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The answer to a NumPy function of nodes and other arguments."""
    handler = FUNCTIONS.get(func)
    if handler is not None:
        return handler(*args, **kwargs)
    op = ops.BY_FUNCTION.get(func)
    if op is not None:
        return elementwise(op, *args, **kwargs)
    return elsewhere(func, args, kwargs)


def elsewhere(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A function that is not ours: NumPy's own if no lazy array is virtual, else the refusal."""
    nodes = _nodes((args, kwargs))
    name = f"{func.__module__}.{func.__name__}"
    virtual = next((n for n in nodes if expr.is_virtual(n)), None)
    if virtual is None:
        args, kwargs = _computed(args), _computed(kwargs)
        return func(*args, **kwargs)
    if func in (np.nonzero, np.argwhere, np.flatnonzero, np.compress, np.extract):
        raise _data_dependent(name, virtual)
    raise unsupported(name, virtual, REMEDIES.get(func, ""))


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
    return elsewhere_ufunc(func, method, inputs, kwargs)


def _called(func: np.ufunc, inputs: tuple, kwargs: dict[str, Any]) -> Any:
    out = kwargs.get("out")
    if out is not None and all(o is None for o in out):
        kwargs = {k: v for k, v in kwargs.items() if k != "out"}
    if func in GUFUNCS:
        return GUFUNCS[func](*inputs, **kwargs)
    if func in PAIRS:
        shapes.refuse_out(func.__name__, kwargs.pop("out", None))
        _only(func.__name__, kwargs)
        return PAIRS[func](*(node_of(a) for a in inputs))
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
        if where is not True:
            node = ops.call("where", node_of(where), node, -np.inf)
        value = statistics.logsumexp(node, axis, keepdims)
        if initial is not np._NoValue and initial is not None:  # type: ignore[attr-defined]
            value = genuine.call("logaddexp", value, initial)
        return value if out is None else written(out, value)
    if func is np.hypot:
        value = contractions.vector_norm(node, axis=axis, keepdims=keepdims)
        return value if out is None else written(out, value)
    return elsewhere_ufunc(func, "reduce", (node,), {"axis": axis, "keepdims": keepdims})


def elsewhere_ufunc(func: np.ufunc, method: str, inputs: tuple, kwargs: dict[str, Any]) -> Any:
    """A ufunc, or a method of one, that has no pairwise form.

    The library's own computes it if no lazy array is virtual.
    """
    nodes = _nodes((inputs, kwargs))
    virtual = next((n for n in nodes if expr.is_virtual(n)), None)
    if virtual is not None or method == "at":
        name = func.__name__ if method == "__call__" else f"{func.__name__}.{method}"
        library = "numpy" if getattr(np, func.__name__, None) is func else _home(func)
        raise unsupported(f"{library}.{name}", virtual if virtual is not None else nodes[0])
    return getattr(func, method)(*_computed(inputs), **_computed(kwargs))


def _home(func: np.ufunc) -> str:
    """The library of a ufunc that is not NumPy's, as messages name it."""
    special = sys.modules.get("scipy.special")
    return "scipy.special" if getattr(special, func.__name__, None) is func else "numpy"
