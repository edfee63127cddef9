"""What we answer for each NumPy function: the one table that dispatch, methods and tests read.

Every function that can be overridden is in exactly one class:

lazy        records an operation; nothing is computed
reduces     computed into a genuine array where a point axis goes, lazy over features
composite   made of several lazy operations and reductions
point       evaluates single pairs, into a genuine array
metadata    known from shape and dtype; no entry is computed
refused     has no pairwise form: UnsupportedError for a virtual array, with what to do instead;
            computed by the library itself where no argument is virtual

A row of ops.TABLE is lazy, for each NumPy function that it names; the others stand here, beside
what answers for them (a function on nodes), or beside the remedy that the refusal names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy

from duckkeops import (
    contractions,
    covariances,
    elementwise,
    flat,
    gathers,
    histograms,
    indexing,
    lookups,
    metadata,
    ops,
    quantiles,
    running,
    shapes,
    sorting,
    statistics,
)
from duckkeops.operands import node_of, unsupported

np: Any = numpy  # type checkers take minutes for the overloads of 400 functions


def _taking_node(function: Callable) -> Callable:
    """A handler whose first argument may be a genuine array too, the lazy one being another
    argument.
    """

    @functools.wraps(function)
    def handler(a: Any, /, *args: Any, **kwargs: Any) -> Any:
        return function(node_of(a), *args, **kwargs)

    return handler


def _linalg_cross(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    return contractions.cross(x1, x2, axis=axis)


def _linalg_diagonal(x: Any, /, *, offset: int = 0) -> Any:
    return indexing.diagonal(x, offset, -2, -1)


def _linalg_trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Any:
    return statistics.trace(x, offset, -2, -1, dtype)


LAZY: dict[Callable, Callable] = {
    np.where: elementwise.where,
    np.clip: elementwise.clip,
    np.round: elementwise.round_,
    np.around: elementwise.round_,
    np.real: elementwise.real,
    np.imag: elementwise.imag,
    np.angle: elementwise.angle,
    np.copy: elementwise.copy,
    np.astype: shapes.astype,
    np.zeros_like: shapes.zeros_like,
    np.ones_like: shapes.ones_like,
    np.empty_like: shapes.zeros_like,
    np.full_like: shapes.full_like,
    np.tril: shapes.tril,
    np.triu: shapes.triu,
    # the order and number of axes
    np.transpose: shapes.transpose,
    np.matrix_transpose: shapes.matrix_transpose,
    np.linalg.matrix_transpose: shapes.matrix_transpose,
    np.swapaxes: shapes.swapaxes,
    np.moveaxis: shapes.moveaxis,
    np.rollaxis: shapes.rollaxis,
    np.reshape: flat.reshape,
    np.ravel: flat.ravel,
    np.expand_dims: shapes.expand_dims,
    np.squeeze: shapes.squeeze,
    np.atleast_1d: shapes.each_at_least(1),
    np.atleast_2d: shapes.each_at_least(2),
    np.atleast_3d: shapes.each_at_least(3),
    np.broadcast_to: shapes.broadcast_to,
    np.broadcast_arrays: shapes.broadcast_arrays,
    np.meshgrid: shapes.meshgrid,
    # rows by number
    np.flip: shapes.flip,
    np.flipud: shapes.flipud,
    np.fliplr: shapes.fliplr,
    np.rot90: shapes.rot90,
    np.take: _taking_node(indexing.take),
    np.roll: gathers.roll,
    np.repeat: gathers.repeat,
    np.tile: gathers.tile,
    np.compress: gathers.compress,
    np.delete: gathers.delete,
    np.pad: gathers.pad,
    # side by side, and apart
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
    # products of all pairs of entries
    np.outer: contractions.outer,
    np.linalg.outer: contractions.outer,
}

REDUCES: dict[Callable, Callable] = {
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
    np.histogram: histograms.histogram,
    np.histogram_bin_edges: histograms.histogram_bin_edges,
    np.bincount: histograms.bincount,
    # products summed over shared axes
    np.dot: contractions.dot,
    np.vdot: contractions.vdot,
    np.inner: contractions.inner,
    np.tensordot: contractions.tensordot,
    np.einsum: contractions.einsum,
    np.linalg.matmul: contractions.matmul,
    np.linalg.vecdot: contractions.vecdot,
    np.linalg.tensordot: contractions.tensordot,
    # in order, followed by a slice: a top-k
    np.sort: sorting.sort,
    np.argsort: sorting.argsort,
    np.partition: sorting.partition,
    np.argpartition: sorting.argpartition,
}

COMPOSITE: dict[Callable, Callable] = {
    # entry by entry
    np.nan_to_num: elementwise.nan_to_num,
    np.isclose: elementwise.isclose,
    np.select: elementwise.select,
    np.choose: elementwise.choose,
    np.piecewise: elementwise.piecewise,
    np.polyval: elementwise.polyval,
    np.iscomplex: elementwise.iscomplex,
    np.isreal: elementwise.isreal,
    np.real_if_close: elementwise.real_if_close,
    # each entry in a short table
    np.isin: lookups.isin,
    np.searchsorted: lookups.searchsorted,
    np.digitize: lookups.digitize,
    np.interp: lookups.interp,
    # along an axis
    np.diff: running.diff,
    np.gradient: running.gradient,
    np.trapezoid: running.trapezoid,
    np.cumsum: running.cumsum,
    np.cumprod: running.cumprod,
    np.nancumsum: running.nancumsum,
    np.nancumprod: running.nancumprod,
    np.cumulative_sum: running.cumulative_sum,
    np.cumulative_prod: running.cumulative_prod,
    np.unwrap: running.unwrap,
    np.linspace: running.linspace,
    np.logspace: running.logspace,
    np.apply_over_axes: elementwise.apply_over_axes,
    # statistics
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
    np.median: quantiles.median,
    np.quantile: quantiles.quantile,
    np.percentile: quantiles.percentile,
    np.nanmedian: quantiles.nanmedian,
    np.nanquantile: quantiles.nanquantile,
    np.nanpercentile: quantiles.nanpercentile,
    np.cov: covariances.cov,
    np.corrcoef: covariances.corrcoef,
    # linear algebra
    np.cross: contractions.cross,
    np.linalg.cross: _linalg_cross,
    np.linalg.multi_dot: contractions.multi_dot,
    np.linalg.norm: contractions.norm,
    np.linalg.vector_norm: contractions.vector_norm,
    np.linalg.matrix_norm: contractions.matrix_norm,
    np.trace: statistics.trace,
    np.linalg.trace: _linalg_trace,
}

POINT: dict[Callable, Callable] = {
    np.take_along_axis: _taking_node(indexing.take_along_axis),
    np.diagonal: indexing.diagonal,
    np.linalg.diagonal: _linalg_diagonal,
    np.diag: indexing.diag,
}

METADATA: dict[Callable, Callable] = {
    np.shape: metadata.shape,
    np.ndim: metadata.ndim,
    np.size: metadata.size,
    np.result_type: metadata.result_type,
    np.can_cast: metadata.can_cast,
    np.common_type: metadata.common_type,
    np.min_scalar_type: metadata.min_scalar_type,
    np.iscomplexobj: metadata.iscomplexobj,
    np.isrealobj: metadata.isrealobj,
    np.einsum_path: contractions.einsum_path,
    np.diag_indices_from: metadata.diag_indices_from,
    # like=d only says which library makes the array: NumPy, for d over its arrays
    **{
        f: metadata.made_by(f)
        for f in (
            *(np.array, np.asarray, np.asanyarray, np.ascontiguousarray, np.asfortranarray),
            *(np.require, np.empty, np.zeros, np.ones, np.full, np.eye, np.identity, np.tri),
            *(np.arange, np.fromfunction, np.frombuffer, np.fromfile, np.fromiter),
            *(np.fromstring, np.loadtxt, np.genfromtxt),
        )
    },
}

_SOLVE = (
    "Solve with an iterative method, duckkeops.linalg.solve(d, b) or scipy.sparse.linalg.cg(d, b), "
    "which only needs d @ b."
)
_LEAST_SQUARES = (
    "Solve with an iterative method, scipy.sparse.linalg.lsqr(d, b), which only needs d @ b."
)
_EIGEN = (
    "Eigenvalues and singular values come from scipy.sparse.linalg.eigsh(d) and svds(d), "
    "which only need d @ b."
)
_DETERMINANT = (
    "Its logarithm is the sum of those of the eigenvalues, "
    "which scipy.sparse.linalg.eigsh(d) finds with d @ b alone."
)
_COUNT = (
    "Its length depends on the data. Count with (d == value).sum(axis=1), "
    "or find the extreme entries with numpy.argsort(d, axis=1)[:, :k]."
)
_CHANGE = (
    "A lazy array cannot be changed: make a new one with numpy.where(mask, value, d), "
    "or change the inputs before you wrap them."
)
_FILE = "Save the inputs, or chunks of rows: numpy.save(file, d[:1000].to_dense())."
_PARTS = "Transform the inputs along their axes first, or chunks of rows: d[:1000].to_dense()."
_POLYNOMIAL = "Coefficients are short vectors: compute them with ordinary arrays."
_HISTOGRAM = "Count the pairs of one bin: ((d >= low) & (d < high)).sum(axis=1)."
_MEMORY = "No entry is stored: ask this of the inputs."
_DATES = "duckkeops computes with numbers; convert dates with x.astype(numpy.int64)."
_TEXT = "duckkeops computes with numbers, not with text."
_FIELDS = "duckkeops computes with numbers; give each field as an array of its own."
_COMPLEX = "Whether it is complex depends on the data: numpy.sqrt(d.astype(complex)) always is."
_TRIANGLE = "Keep a triangle with numpy.tril(d) or numpy.triu(d), which stay lazy."
_LOOP = "Call the function with all of d and axis=, as in d.sum(axis=1), or on chunks of rows."
_SHOW = "Print the formula with repr(d), or some entries: d[:5, :5].to_dense()."
_CODES = "A reduction gives an index array to convert: numpy.unravel_index(d.argmin(), d.shape)."

REFUSED: dict[Callable, str] = {
    np.linalg.solve: _SOLVE,
    np.linalg.inv: _SOLVE,
    np.linalg.pinv: _SOLVE,
    np.linalg.lstsq: _LEAST_SQUARES,
    np.linalg.tensorsolve: _SOLVE,
    np.linalg.tensorinv: _SOLVE,
    np.linalg.cholesky: _SOLVE,
    np.linalg.qr: _LEAST_SQUARES,
    np.linalg.svd: _EIGEN,
    np.linalg.svdvals: _EIGEN,
    np.linalg.eig: _EIGEN,
    np.linalg.eigh: _EIGEN,
    np.linalg.eigvals: _EIGEN,
    np.linalg.eigvalsh: _EIGEN,
    np.linalg.matrix_rank: _EIGEN,
    np.linalg.cond: _EIGEN,
    np.linalg.det: _DETERMINANT,
    np.linalg.slogdet: _DETERMINANT,
    np.linalg.matrix_power: "Multiply repeatedly: d @ (d @ b).",
    np.kron: "Multiply with new axes instead: d[:, None, :, None] * a[None, :, None, :].",
    # the length or the values of all entries in a row
    **dict.fromkeys(
        (
            *(np.nonzero, np.argwhere, np.flatnonzero, np.extract, np.trim_zeros),
            *(np.unique, np.unique_all, np.unique_counts, np.unique_inverse, np.unique_values),
            *(np.union1d, np.intersect1d, np.setdiff1d, np.setxor1d),
        ),
        _COUNT,
    ),
    np.lexsort: "Sort by one key: numpy.argsort(d, axis=1)[:, :k].",
    np.sort_complex: "Sort by one part: numpy.sort(d.real, axis=1)[:, :k].",
    np.histogram2d: _HISTOGRAM,
    np.histogramdd: _HISTOGRAM,
    np.ediff1d: "Differences along an axis are numpy.diff(d, axis=1).",
    np.convolve: _PARTS,
    np.correlate: _PARTS,
    np.diagflat: "Write numpy.where(i[:, None] == i[None, :], d, 0) with an index vector i.",
    np.vander: "Write d[..., None] ** k with the vector k of exponents.",
    np.insert: "Put the parts side by side: numpy.concatenate([d[:, :k], new, d[:, k:]], axis=1).",
    np.resize: "Repeat it with numpy.tile(d, reps), or d[rows].",
    np.geomspace: "Write numpy.exp(numpy.linspace(numpy.log(d), numpy.log(e), num)).",
    np.apply_along_axis: _LOOP,
    np.lib.stride_tricks.sliding_window_view: "Take shifted slices: d[:, 1:] and d[:, :-1].",
    np.ix_: "Index with ordinary vectors: d[rows[:, None], columns].",
    np.unravel_index: _CODES,
    np.ravel_multi_index: "Write rows * n + columns.",
    np.packbits: "Count bits that are set with numpy.bitwise_count(d), or d.sum(axis=1).",
    np.unpackbits: "Take single bits: (d >> k) & 1.",
    np.tril_indices_from: _TRIANGLE,
    np.triu_indices_from: _TRIANGLE,
    **dict.fromkeys((np.array_repr, np.array_str, np.array2string), _SHOW),
    **dict.fromkeys((np.save, np.savez, np.savez_compressed, np.savetxt), _FILE),
    **dict.fromkeys((np.may_share_memory, np.shares_memory), _MEMORY),
    **dict.fromkeys(
        (np.poly, np.roots, np.polyadd, np.polysub, np.polymul, np.polydiv, np.polyder, np.polyint),
        _POLYNOMIAL,
    ),
    np.polyfit: "Fit by iterations: scipy.sparse.linalg.lsqr of the matrix of powers.",
    **{f: _PARTS for f in vars(np.fft).values() if type(f) is type(np.fft.fft)},
    # what would change an array
    **dict.fromkeys(
        (np.copyto, np.put, np.put_along_axis, np.putmask, np.place, np.fill_diagonal), _CHANGE
    ),
    **dict.fromkeys(
        (np.busday_count, np.busday_offset, np.is_busday, np.datetime_as_string), _DATES
    ),
}
COUNTED = frozenset(f for f, remedy in REFUSED.items() if remedy is _COUNT)
CHANGING = frozenset(f for f, remedy in REFUSED.items() if remedy is _CHANGE)

# functions that come with modules which need not be loaded, by their first parts
REFUSED_MODULES = {
    "numpy.strings": _TEXT,
    "numpy.char": _TEXT,
    "numpy.lib.recfunctions": _FIELDS,
    "numpy.lib.scimath": _COMPLEX,
    "numpy.polynomial": _POLYNOMIAL,
}

CLASSES: dict[str, dict[Callable, Any]] = {
    "lazy": LAZY,
    "reduces": REDUCES,
    "composite": COMPOSITE,
    "point": POINT,
    "metadata": METADATA,
    "refused": REFUSED,
}
HANDLERS: dict[Callable, Callable] = {
    f: handler for name, rows in CLASSES.items() if name != "refused" for f, handler in rows.items()
}

# -- methods ---------------------------------------------------------------------------------------


def _compress(a: Any, condition: Any, axis: int | None = None, out: Any = None) -> Any:
    """The entries along an axis where a condition of that axis holds."""
    return gathers.compress(condition, a, axis, out)


def _changing(name: str) -> Callable:
    def method(a: Any, *args: Any, **kwargs: Any) -> Any:
        raise unsupported(f"d.{name}", a, _CHANGE)

    method.__doc__ = "Refused: a lazy array is immutable."
    return method


def _of_memory(name: str) -> Callable:
    def method(a: Any, *args: Any, **kwargs: Any) -> Any:
        raise unsupported(f"d.{name}", a, f"No entry is stored: {_INSTEAD_OF_MEMORY[name]}")

    method.__doc__ = "Refused: the entries are not stored."
    return method


_INSTEAD_OF_MEMORY = {
    **dict.fromkeys(("tobytes", "tofile"), "take chunks of rows, as in d[:1000].to_dense()."),
    **dict.fromkeys(("dump", "dumps"), "pickle.dumps(d) keeps the formula and its inputs."),
    "view": "convert with d.astype(dtype); d[...] is d in all but name.",
    "getfield": "take parts with d.real and d.imag, or bits with d >> k.",
}

# methods that answer as the NumPy function of their name does; each row of ops.TABLE is one, too
OF_FUNCTIONS = (
    *("sum", "prod", "min", "max", "argmin", "argmax", "mean", "var", "std", "any", "all"),
    *("count_nonzero", "ptp", "trace", "average", "amin", "amax"),
    *("nansum", "nanprod", "nanmean", "nanvar", "nanstd"),
    *("nanmin", "nanmax", "nanargmin", "nanargmax"),
    *("median", "quantile", "cumsum", "cumprod", "searchsorted", "choose"),
    *("swapaxes", "moveaxis", "expand_dims", "squeeze", "ravel", "flip", "broadcast_to", "astype"),
    *("tril", "triu", "repeat", "permute_dims", "copy", "clip", "round", "nan_to_num", "isclose"),
    *("diagonal", "take", "take_along_axis", "argsort", "argpartition"),
    *("dot", "inner", "tensordot"),
)
METHODS: dict[str, Callable] = {
    **{name: HANDLERS[getattr(np, name)] for name in OF_FUNCTIONS},
    "compress": _compress,
    **{
        name: _changing(name)
        for name in ("put", "resize", "fill", "itemset", "setfield", "setflags", "byteswap")
    },
    **{
        name: _of_memory(name)
        for name in ("tobytes", "tofile", "dump", "dumps", "view", "getfield")
    },
    "matmul": contractions.matmul,
    "vecdot": contractions.vecdot,
    # ours, which NumPy has no function for
    "logsumexp": statistics.logsumexp,
    "softmax": statistics.softmax,
    "log_softmax": statistics.log_softmax,
    "softmax_sum": statistics.softmax_sum,
    "topk": sorting.topk,
    "argtopk": sorting.argtopk,
    "histogram": histograms.histogram,
}

# -- ufuncs ----------------------------------------------------------------------------------------

GUFUNCS: dict[numpy.ufunc, Callable] = {
    np.matmul: contractions.matmul,
    np.vecdot: contractions.vecdot,
    np.matvec: contractions.matvec,
    np.vecmat: contractions.vecmat,
}

# made of several rows; some have several results
COMPOSED: dict[numpy.ufunc, Callable] = {
    np.divmod: ops.divmod,
    np.modf: ops.modf,
    np.frexp: ops.frexp,
    np.ldexp: elementwise.ldexp,
    np.spacing: elementwise.spacing,
}

REFUSED_UFUNCS: dict[numpy.ufunc, str] = {
    np.isnat: _DATES,
}

# ufuncs of scipy.special without a row, and what says the same with rows
SPECIAL: dict[str, str] = {
    "jv": "Of order 0 and 1 they are scipy.special.j0(d) and j1(d).",
    "yv": "Of order 0 and 1 they are scipy.special.y0(d) and y1(d).",
    "yn": "Of order 0 and 1 they are scipy.special.y0(d) and y1(d).",
    "kn": "Any order is taken by scipy.special.kv(n, d).",
    "loggamma": "Of real arguments it is scipy.special.gammaln(d).",
    "beta": "Write numpy.exp(gammaln(a) + gammaln(d) - gammaln(a + d)).",
    "betaln": "Write gammaln(a) + gammaln(d) - gammaln(a + d).",
    "poch": "Write numpy.exp(gammaln(d + m) - gammaln(d)), for d > 0 and d + m > 0.",
    "binom": "Write numpy.exp(gammaln(n + 1) - gammaln(d + 1) - gammaln(n - d + 1)).",
    "gammasgn": "Write numpy.sign(scipy.special.gamma(d)).",
    "exprel": "Write numpy.where(d == 0, 1, numpy.expm1(d) / d).",
    "cosm1": "Write -2 * numpy.sin(d / 2) ** 2.",
    "powm1": "Write numpy.expm1(y * numpy.log(d)).",
    "cosdg": "Write numpy.cos(numpy.deg2rad(d)).",
    "sindg": "Write numpy.sin(numpy.deg2rad(d)).",
    "tandg": "Write numpy.tan(numpy.deg2rad(d)).",
    "cotdg": "Write 1 / numpy.tan(numpy.deg2rad(d)).",
    "radian": "Write numpy.deg2rad(d + m / 60 + s / 3600).",
}

# ufunc.reduce over any axis; that of any other ufunc of two arguments goes over features only
REDUCED: dict[numpy.ufunc, Callable] = {
    np.add: statistics.sum,
    np.multiply: statistics.prod,
    np.minimum: statistics.min,
    np.maximum: statistics.max,
    np.fmin: statistics.nanmin,
    np.fmax: statistics.nanmax,
    np.logical_and: statistics.all,
    np.logical_or: statistics.any,
}


def class_of(func: Callable) -> str | None:
    """The class of a NumPy function; None if the table does not know it.

    >>> class_of(np.exp), class_of(np.sum), class_of(np.linalg.svd)
    ('lazy', 'reduces', 'refused')
    """
    if isinstance(func, numpy.ufunc):
        known = {"reduces": GUFUNCS, "composite": COMPOSED, "refused": REFUSED_UFUNCS}
    else:
        known = CLASSES
    found = [name for name, rows in known.items() if func in rows]
    if func in ops.BY_FUNCTION and not found:
        found.append("lazy")
    if not found and remedy_of(func):
        found.append("refused")
    return found[0] if found else None


def remedy_of(func: Callable) -> str:
    """What the refusal of a function says to do instead; empty if there is nothing special."""
    if isinstance(func, numpy.ufunc):
        return REFUSED_UFUNCS.get(func, "")
    if func in REFUSED:
        return REFUSED[func]
    module = getattr(func, "__module__", None) or ""
    return next((text for m, text in REFUSED_MODULES.items() if module.startswith(m)), "")


def remedy_of_special(name: str, arguments: int) -> str:
    """What the refusal of a ufunc of scipy.special says to do instead."""
    rows = sum(op.scipy is not None for op in ops.TABLE)
    known = (
        f"Of scipy.special, kv, iv, erf, gammaln, digamma, xlogy and {rows - 6} more are there: "
        "dir(duckkeops.array_api.special)."
    )
    if name in SPECIAL:
        return f"{SPECIAL[name]}\n  {known}"
    if arguments > 1:
        return known
    between = f"numpy.interp(d, grid, scipy.special.{name}(grid))"
    return f"{known}\n  Values between those of a grid are had by {between}."
