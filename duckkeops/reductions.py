"""One row per reduction: all that the library knows about it.

A reduction is a monoid: `tile` makes the state of some columns, `merge` joins the states of two
sets of columns, and `finish` turns a state into the result. Here they are written with the array
library's own functions, one row of the state for each row of the result; kernels/reductions.h says
the same in C, under the same name. Some reductions may stand inside an expression (`fold`); the
others say by `lazy` which folds they are made of.

`params` is a tuple of (name, value) pairs, as it is in a Reduce node.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from duckkeops import ops, views
from duckkeops.errors import DtypeError, ShapeError
from duckkeops.expr import (
    FEATURE,
    NEUTRAL,
    TABLE_SIZE,
    Node,
    Outline,
    Reduce,
    Reduced,
    Scalar,
    cast_to,
    dtype_of,
    outlines,
    record_reduction,
    reduced,
)

Params = tuple[tuple[str, Any], ...]
Dtypes = tuple[np.dtype, ...]
State = tuple[Any, ...]
Component = tuple[str, np.dtype, tuple[int, ...]]

BOOL, INT64, UINT64 = np.dtype(bool), np.dtype(np.int64), np.dtype(np.uint64)
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


@dataclass(frozen=True, eq=False)
class Reduction:
    """One reduction over columns: sum, argmin, top-k ...

    Shapes: the values of a tile are (rows ..., n), one array for each argument, some rows' axes
    perhaps 1 long; `index` (n,) holds the flat positions of the columns. The arrays of a state are
    (rows ..., *extra).
    """

    name: str  # ours, and the method's; the section of kernels/reductions.h
    types: Callable[
        [Dtypes, Params], tuple[Dtypes, np.dtype]
    ]  # dtypes -> (what the values are cast to, result)
    state: Callable[
        [Dtypes, Params], tuple[Component, ...]
    ]  # loop dtypes -> (name, dtype, extra trailing shape) ...
    tile: Callable[[Any, tuple, Any, Params], State]  # (xp, values, index, params)
    merge: Callable[
        [Any, State, State, Params], State
    ]  # (xp, a, b, params): a's columns come before b's
    finish: Callable[
        [Any, State, int, Params], Any
    ]  # (xp, state, n, params): n columns were reduced
    lazy: (
        Callable[[Sequence[Node], Sequence[int], Params], Node] | None
    )  # made of folds; None: always evaluated
    fold: bool = False  # may be a node inside an expression
    empty: str | None = None  # the error when no column is reduced; None: it has a value
    identity: Callable[[np.dtype], Any] | None = (
        None  # the value that changes nothing: what `where=` puts in
    )
    numpy: tuple[Callable, ...] = ()  # the NumPy functions we answer for
    ufunc: tuple[np.ufunc, ...] = ()  # those whose `reduce` it is
    torch: tuple[str, ...] = ()  # their names under torch
    aliases: tuple[str, ...] = ()  # more method names
    nargs: int = 1
    sizes: tuple[str, ...] = ()  # parameters that are lengths of the state: no kernel knows them
    places: bool = False  # gives places: half precision is rounded before it is compared

    def __repr__(self) -> str:
        return f"Reduction({self.name})"


def parameter(params: Params, name: str, default: Any = None) -> Any:
    return dict(params).get(name, default)


def computed(dtype: np.dtype) -> np.dtype:
    """The dtype that values are computed in: half precision is for storage only."""
    return FLOAT32 if dtype.itemsize == 2 and dtype.kind not in "iu" else dtype


# -- building --------------------------------------------------------------------------------------


def reduce(
    row: Reduction, args: Sequence[Node], axes: Sequence[int], dtype: Any = None, **params: Any
) -> Reduce:
    """The node of a reduction over `axes`; parameters that are None count as not given.

    Every row knows dtype= where NumPy's function does; sum, prod, min and max know initial=, var
    and std correction=, topk k= and largest=. Raises AxisError, DtypeError, and ShapeError if an
    empty axis has no answer.
    """
    if dtype is not None:
        params["dtype"] = np.dtype(dtype)
    pairs = tuple(sorted((k, v) for k, v in params.items() if v is not None)) if params else ()
    rule = _rule(row, outlines(args), tuple(map(operator.index, axes)), pairs)
    if isinstance(rule, Reduced):
        node = record_reduction(rule, tuple(args), pairs)
    else:
        loops, result, normal = rule
        if row.places:
            args = (ops.rounded(args[0]), *args[1:])
        cast = tuple([cast_to(a, t) for a, t in zip(args, loops, strict=True)])
        node = Reduce(row, cast, normal, result, pairs)
    if pairs or not node.outline.count:
        _check_count(node)
    return node


@functools.lru_cache(maxsize=TABLE_SIZE)
def _rule(
    row: Reduction, args: tuple[Outline, ...], axes: tuple[int, ...], params: Params
) -> Reduced | tuple[Dtypes, np.dtype, tuple[int, ...]]:
    """The outline of the node, where the values are of the dtypes that the row computes in.

    Else what they are cast to, the result's dtype, and the axes counted from the front, in order.
    """
    wanted = parameter(params, "dtype")
    most = {"f": 8, "c": 16}
    if wanted is not None and wanted.itemsize > most.get(wanted.kind, wanted.itemsize):
        raise DtypeError(
            f"{row.name} was asked for dtype={wanted}, which duckkeops does not know.\n"
            "  Use float64 or complex128 at most."
        )
    loops, result = row.types(tuple(np.dtype(a.dtype) for a in args), params)
    normal = tuple(sorted(normalize_axis_tuple(axes, max(a.ndim for a in args))))
    if all(a.dtype == t for a, t in zip(args, loops, strict=True)):
        return reduced(row, args, normal, result)
    return loops, result, normal


def _check_count(node: Reduce) -> None:
    n = count(node)
    if n == 0 and node.row.empty and parameter(node.params, "initial") is None:
        raise ShapeError(f"{node.row.empty}\n  d: {node.whole} over axis {node.axes}.")
    k = parameter(node.params, "k", 0)
    if not 0 <= k <= n:
        raise ShapeError(
            f"cannot take the top {k} of {n} entries.\n  d: {node.whole} over axis {node.axes}."
        )


def count(node: Reduce) -> int:
    """How many entries are reduced to one."""
    return node.outline.count


def components(node: Reduce) -> tuple[Component, ...]:
    """Name, dtype and extra trailing shape of each array of the state."""
    loops, _ = node.row.types(tuple(a.dtype for a in node.args), node.params)
    return node.row.state(loops, node.params)


def result(xp: Any, node: Reduce, state: State) -> Any:
    """The value of a reduction from its state, in the dtype of the node.

    Top-k gives values and indices.
    """
    initial = parameter(node.params, "initial") if node.params else None
    if initial is not None:
        first = xp.full_like(state[0], initial)
        state = node.row.merge(xp, (first,), state, node.params)
    out = node.row.finish(xp, state, count(node), node.params)
    if type(out) is np.ndarray and out.dtype is node.dtype:  # mostly
        return out
    if isinstance(out, tuple):
        return astype(xp, out[0], node.dtype), *out[1:]
    return astype(xp, out, node.dtype)


# -- the array library -----------------------------------------------------------------------------


def native(xp: Any, dtype: np.dtype) -> Any:
    """The library's own object for a dtype."""
    return dtype if is_numpy(xp) else getattr(xp, _name(dtype))


@functools.cache
def _name(dtype: np.dtype) -> str:  # which NumPy takes two microseconds to make
    return dtype.name


def is_numpy(xp: Any) -> bool:
    return xp is np or xp.__name__ == "array_api_compat.numpy"


def astype(xp: Any, x: Any, dtype: np.dtype) -> Any:
    """`x` in this dtype, complex to real by the real part; itself if it is so already."""
    if is_numpy(xp):
        x = np.asarray(x)
        return (x.real if x.dtype.kind == "c" and dtype.kind in "iuf" else x).astype(
            dtype, copy=False
        )
    own = native(xp, dtype)
    if x.dtype == own:
        return x
    if xp.isdtype(x.dtype, "complex floating") and dtype.kind != "c":
        x = x != 0 if dtype.kind == "b" else xp.real(x)
    return xp.astype(x, own)


def _named(x: Any) -> np.dtype:
    """The dtype of a library's array, as NumPy's."""
    return dtype_of(str(x.dtype).rpartition(".")[2])


def _is(xp: Any, x: Any, kind: str) -> bool:
    if is_numpy(xp):
        return x.dtype.kind == {"bool": "b", "complex floating": "c"}[kind]
    return xp.isdtype(x.dtype, kind)


def along(xp: Any, x: Any, order: Any) -> Any:
    """x[..., order], row by row."""
    if hasattr(xp, "take_along_axis"):
        return xp.take_along_axis(x, order, axis=-1)
    return xp.take_along_dim(x, order, dim=-1)


def _isnan(xp: Any, x: Any) -> Any:
    kinds = ("real floating", "complex floating")
    inexact = x.dtype.kind in "fc" if is_numpy(xp) else xp.isdtype(x.dtype, kinds)
    return xp.isnan(x) if inexact else xp.zeros_like(x, dtype=native(xp, BOOL))


def _numbers(xp: Any, x: Any) -> Any:
    """Booleans as 0 and 1, which have an order in every library."""
    return astype(xp, x, np.dtype(np.uint8)) if _is(xp, x, "bool") else x


# -- dtypes ----------------------------------------------------------------------------------------


def _widened(dtype: np.dtype) -> np.dtype:
    """NumPy's rule for sums: integers narrower than the machine's are summed in those."""
    if dtype.kind == "b" or (dtype.kind == "i" and dtype.itemsize < 8):
        return INT64
    return UINT64 if dtype.kind == "u" else dtype


def _sum_types(dtypes: Dtypes, params: Params) -> tuple[Dtypes, np.dtype]:
    own = parameter(params, "dtype") or _widened(dtypes[0])
    return (computed(own),), own


def _floating(dtype: np.dtype) -> np.dtype:
    return FLOAT64 if dtype.kind in "biu" else dtype


def _mean_types(dtypes: Dtypes, params: Params) -> tuple[Dtypes, np.dtype]:
    own = parameter(params, "dtype") or _floating(dtypes[0])
    return (computed(own),), own


def _var_types(dtypes: Dtypes, params: Params) -> tuple[Dtypes, np.dtype]:
    own = parameter(params, "dtype") or _floating(dtypes[0])
    if own.kind in "biu":
        raise DtypeError(
            "var and std are computed in floating-point numbers, "
            f"and dtype={own.name} was asked for."
        )
    return (computed(own),), _real(own)


def _real(dtype: np.dtype) -> np.dtype:
    return np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype


def _same_types(dtypes: Dtypes, params: Params) -> tuple[Dtypes, np.dtype]:
    own = parameter(params, "dtype") or dtypes[0]
    return (computed(own),), own


def _arg_types(dtypes: Dtypes, params: Params) -> tuple[Dtypes, np.dtype]:
    return (computed(dtypes[0]),), INT64


def _truth_types(dtypes: Dtypes, params: Params) -> tuple[Dtypes, np.dtype]:
    return (BOOL,), BOOL


def _count_types(dtypes: Dtypes, params: Params) -> tuple[Dtypes, np.dtype]:
    return (BOOL,), INT64


def _logsumexp_types(dtypes: Dtypes, params: Params) -> tuple[Dtypes, np.dtype]:
    own = parameter(params, "dtype") or _floating(dtypes[0])
    if own.kind != "f" and own.name != "bfloat16":
        raise DtypeError(
            f"logsumexp takes real numbers, and got {own.name}.\n"
            "  Write d.exp().sum(axis).log() instead."
        )
    return (computed(own),), own


def _softmax_types(dtypes: Dtypes, params: Params) -> tuple[Dtypes, np.dtype]:
    scores, weighted = dtypes
    if scores.kind == "c":
        raise DtypeError(f"the scores of a softmax are real numbers, and got {scores.name}.")
    own = _floating(ops.common((_floating(scores), weighted)))
    return (_real(computed(own)), computed(own)), own


def _topk_types(dtypes: Dtypes, params: Params) -> tuple[Dtypes, np.dtype]:
    if dtypes[0].kind == "c":
        name = dtypes[0].name
        raise DtypeError(
            f"top-k and sort order real numbers, and got {name}.\n  Take d.abs() or d.real first."
        )
    return (computed(dtypes[0]),), dtypes[0]


# -- identities ------------------------------------------------------------------------------------


def _greatest(dtype: np.dtype) -> Any:
    if dtype.kind == "b":
        return True
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).max)
    return complex(math.inf, math.inf) if dtype.kind == "c" else math.inf


def _least(dtype: np.dtype) -> Any:
    if dtype.kind == "b":
        return False
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).min)
    return complex(-math.inf, -math.inf) if dtype.kind == "c" else -math.inf


def neutral(node: Reduce) -> tuple[Any, ...]:
    """What each component of the state is where no entry was reduced: of a top-k, -1 stands for
    places that nobody took.
    """
    name = node.row.name
    kinds = [dtype for _, dtype, _ in components(node)]
    if name == "topk":
        largest = parameter(node.params, "largest", True)
        return (_least if largest else _greatest)(kinds[0]), -1
    if name in ("logsumexp", "softmax_sum"):
        return (-math.inf, *(0 for _ in kinds[1:]))
    first = node.row.identity(kinds[0])
    return (first, *(0 for _ in kinds[1:]))


def with_neutral_places(node: Reduce, state: State) -> State:
    """The state of a top-k whose rows may have had fewer than k entries."""
    values, places = state
    worst, nobody = neutral(node)
    unused = (places < 0) | (places >= node.outline.count)
    values[unused], places[unused] = worst, nobody
    return values, places


# -- states of one array ---------------------------------------------------------------------------


def _one(name: str) -> Callable[[Dtypes, Params], tuple[Component, ...]]:
    return lambda dtypes, params: ((name, dtypes[0], ()),)


def _value(xp: Any, state: State, n: int, params: Params) -> Any:
    return state[0]


def _sum_tile(xp: Any, values: tuple, index: Any, params: Params) -> State:
    (v,) = values
    return (xp.any(v, axis=-1),) if _is(xp, v, "bool") else (xp.sum(v, axis=-1, dtype=v.dtype),)


def _sum_merge(xp: Any, a: State, b: State, params: Params) -> State:
    return (a[0] | b[0],) if _is(xp, a[0], "bool") else (a[0] + b[0],)


def _prod_tile(xp: Any, values: tuple, index: Any, params: Params) -> State:
    (v,) = values
    return (xp.all(v, axis=-1),) if _is(xp, v, "bool") else (xp.prod(v, axis=-1, dtype=v.dtype),)


def _prod_merge(xp: Any, a: State, b: State, params: Params) -> State:
    return (a[0] & b[0],) if _is(xp, a[0], "bool") else (a[0] * b[0],)


def _any_tile(xp: Any, values: tuple, index: Any, params: Params) -> State:
    return (xp.any(values[0], axis=-1),)


def _any_merge(xp: Any, a: State, b: State, params: Params) -> State:
    return (a[0] | b[0],)


def _all_tile(xp: Any, values: tuple, index: Any, params: Params) -> State:
    return (xp.all(values[0], axis=-1),)


def _all_merge(xp: Any, a: State, b: State, params: Params) -> State:
    return (a[0] & b[0],)


def _count_tile(xp: Any, values: tuple, index: Any, params: Params) -> State:
    ones = astype(xp, values[0], INT64)
    return (xp.sum(ones, axis=-1, dtype=ones.dtype),)


def _mean_finish(xp: Any, state: State, n: int, params: Params) -> Any:
    total = state[0]
    kind = parameter(params, "dtype")
    return (astype(xp, total, FLOAT64) if kind is not None and kind.kind in "biu" else total) / n


# -- order: NaN wins, the first one; then the least or greatest; then the lowest index -------------


def _better(xp: Any, a: Any, b: Any, greatest: bool) -> Any:
    """Does b come strictly before a?"""
    low, high = (a, b) if greatest else (b, a)
    if _is(xp, a, "complex floating"):
        real, imag = xp.real, xp.imag
        less = (real(low) < real(high)) | ((real(low) == real(high)) & (imag(low) < imag(high)))
    else:
        less = low < high
    return ~_isnan(xp, a) & (_isnan(xp, b) | less)


def _first(xp: Any, v: Any, greatest: bool) -> Any:
    """The position of the extreme value in each row of v (rows ..., n)."""
    if isinstance(v, np.ndarray):
        return (np.argmax if greatest else np.argmin)(v, axis=-1)
    n = v.shape[-1]
    nan = _isnan(xp, v)
    hit = ~nan
    for x in (xp.real(v), xp.imag(v)) if _is(xp, v, "complex floating") else (v,):
        hit = hit & (x == _extreme_where(xp, x, hit, greatest))
    hit = xp.where(xp.any(nan, axis=-1, keepdims=True), nan, hit)
    positions = xp.arange(n, dtype=native(xp, INT64), device=v.device)
    return xp.min(xp.where(hit, positions, xp.full_like(positions, n)), axis=-1)


def _extreme_where(xp: Any, x: Any, mask: Any, greatest: bool) -> Any:
    worst = xp.full_like(x, (_least if greatest else _greatest)(_named(x)))
    return (xp.max if greatest else xp.min)(xp.where(mask, x, worst), axis=-1, keepdims=True)


def _extreme(greatest: bool) -> tuple[Callable, Callable]:
    """tile and merge of min or max."""

    def tile(xp: Any, values: tuple, index: Any, params: Params) -> State:
        (v,) = values
        if _is(xp, v, "bool"):
            return ((xp.any if greatest else xp.all)(v, axis=-1),)
        if v.shape[-1] == 0:
            identity = (_least if greatest else _greatest)(_named(v))
            return (xp.full(v.shape[:-1], identity, dtype=v.dtype, device=v.device),)
        if _is(xp, v, "complex floating"):
            return (along(xp, v, _first(xp, v, greatest)[..., None])[..., 0],)
        return ((xp.max if greatest else xp.min)(v, axis=-1),)

    def merge(xp: Any, a: State, b: State, params: Params) -> State:
        if _is(xp, a[0], "bool"):
            return (a[0] | b[0],) if greatest else (a[0] & b[0],)
        if _is(xp, a[0], "complex floating"):
            return (xp.where(_better(xp, a[0], b[0], greatest), b[0], a[0]),)
        return ((xp.maximum if greatest else xp.minimum)(a[0], b[0]),)

    return tile, merge


def _arg_state(dtypes: Dtypes, params: Params) -> tuple[Component, ...]:
    return ("value", dtypes[0], ()), ("index", INT64, ())


def _arg_extreme(greatest: bool) -> tuple[Callable, Callable]:
    """tile and merge of argmin or argmax."""

    def tile(xp: Any, values: tuple, index: Any, params: Params) -> State:
        (v,) = values
        at = _first(xp, _numbers(xp, v), greatest)
        value = along(xp, v, at[..., None])[..., 0]
        return value, xp.reshape(xp.take(index, xp.reshape(at, (-1,)), axis=0), at.shape)

    def merge(xp: Any, a: State, b: State, params: Params) -> State:
        one, other = _numbers(xp, a[0]), _numbers(xp, b[0])
        worse = _better(xp, other, one, greatest)
        take = _better(xp, one, other, greatest) | (~worse & (b[1] < a[1]))
        return xp.where(take, b[0], a[0]), xp.where(take, b[1], a[1])

    return tile, merge


def _arg_finish(xp: Any, state: State, n: int, params: Params) -> Any:
    return state[1]


# -- top-k -----------------------------------------------------------------------------------------


def _topk_state(dtypes: Dtypes, params: Params) -> tuple[Component, ...]:
    k = (parameter(params, "k"),)
    return ("value", dtypes[0], k), ("index", INT64, k)


def _topk_tile(xp: Any, values: tuple, index: Any, params: Params) -> State:
    (v,) = values
    order = _order(xp, v, params)
    positions = xp.reshape(xp.take(index, xp.reshape(order, (-1,)), axis=0), order.shape)
    return along(xp, v, order), positions


def _topk_merge(xp: Any, a: State, b: State, params: Params) -> State:
    values, index = xp.concat([a[0], b[0]], axis=-1), xp.concat([a[1], b[1]], axis=-1)
    order = _order(xp, values, params)
    return along(xp, values, order), along(xp, index, order)


def _order(xp: Any, v: Any, params: Params) -> Any:
    """Where the first k of each row are, NaN being the greatest, and the lowest index first among
    equals.
    """
    v = _numbers(xp, v)
    if not is_numpy(xp):
        order = xp.argsort(v, axis=-1, descending=parameter(params, "largest", False), stable=True)
    elif parameter(params, "largest", False):
        order = v.shape[-1] - 1 - np.argsort(v[..., ::-1], axis=-1, stable=True)[..., ::-1]
    else:
        order = np.argsort(v, axis=-1, stable=True)
    return order[..., : min(parameter(params, "k"), v.shape[-1])]


def _topk_finish(xp: Any, state: State, n: int, params: Params) -> tuple[Any, Any]:
    return state[0], state[1]


# -- variance: Welford's state, merged as Chan, Golub and LeVeque (1979) ---------------------------


def _var_state(dtypes: Dtypes, params: Params) -> tuple[Component, ...]:
    real = _real(dtypes[0])
    return ("count", real, ()), ("mean", dtypes[0], ()), ("m2", real, ())


def _var_tile(xp: Any, values: tuple, index: Any, params: Params) -> State:
    (v,) = values
    n = v.shape[-1]
    mean = xp.sum(v, axis=-1, keepdims=True, dtype=v.dtype) / max(n, 1)
    squares = _abs2(xp, v - mean)
    m2 = xp.sum(squares, axis=-1, dtype=squares.dtype)
    return xp.full_like(m2, n), mean[..., 0], m2


def _abs2(xp: Any, x: Any) -> Any:
    return xp.real(x) ** 2 + xp.imag(x) ** 2 if _is(xp, x, "complex floating") else x * x


def _var_merge(xp: Any, a: State, b: State, params: Params) -> State:
    n = a[0] + b[0]
    share = b[0] / xp.where(n == 0, xp.ones_like(n), n)
    gap = b[1] - a[1]
    return n, a[1] + gap * share, a[2] + b[2] + _abs2(xp, gap) * (a[0] * share)


def _var_finish(xp: Any, state: State, n: int, params: Params) -> Any:
    return state[2] / max(n - parameter(params, "correction", 0), 0)


def _std_finish(xp: Any, state: State, n: int, params: Params) -> Any:
    return xp.sqrt(_var_finish(xp, state, n, params))


# -- sums of exponentials, relative to the maximum seen so far: Milakov and Gimelshein (2018), arXiv


def _reference(xp: Any, m: Any) -> Any:
    """What exponents are relative to.

    It is 0 where the maximum is infinite, so that inf - inf does not appear.
    """
    return xp.where(xp.isinf(m), xp.zeros_like(m), m)


def _max_last(xp: Any, v: Any) -> Any:
    if v.shape[-1] == 0:
        return xp.full(v.shape[:-1], -math.inf, dtype=v.dtype, device=v.device)
    return xp.max(v, axis=-1)


def _logsumexp_state(dtypes: Dtypes, params: Params) -> tuple[Component, ...]:
    return ("max", dtypes[0], ()), ("sum", dtypes[0], ())


def _logsumexp_tile(xp: Any, values: tuple, index: Any, params: Params) -> State:
    (v,) = values
    m = _max_last(xp, v)
    return m, xp.sum(xp.exp(v - _reference(xp, m)[..., None]), axis=-1)


def _scales(xp: Any, a: State, b: State) -> tuple[Any, Any, Any]:
    """The common maximum, and what the sums of a and b are to be multiplied by."""
    m = xp.maximum(a[0], b[0])
    return m, xp.exp(a[0] - _reference(xp, m)), xp.exp(b[0] - _reference(xp, m))


def _logsumexp_merge(xp: Any, a: State, b: State, params: Params) -> State:
    m, left, right = _scales(xp, a, b)
    return m, a[1] * left + b[1] * right


def _logsumexp_finish(xp: Any, state: State, n: int, params: Params) -> Any:
    with np.errstate(divide="ignore"):
        return _reference(xp, state[0]) + xp.log(state[1])


def _softmax_state(dtypes: Dtypes, params: Params) -> tuple[Component, ...]:
    return ("max", dtypes[0], ()), ("sum", dtypes[0], ()), ("weighted", dtypes[1], ())


def _softmax_tile(xp: Any, values: tuple, index: Any, params: Params) -> State:
    scores, v = values
    m = _max_last(xp, scores)
    weight = xp.exp(scores - _reference(xp, m)[..., None])
    weighted = (
        weight * v if not _is(xp, v, "complex floating") else astype(xp, weight, _named(v)) * v
    )
    return m, xp.sum(weight, axis=-1), xp.sum(weighted, axis=-1)


def _softmax_merge(xp: Any, a: State, b: State, params: Params) -> State:
    m, left, right = _scales(xp, a, b)
    return m, a[1] * left + b[1] * right, a[2] * left + b[2] * right


def _softmax_finish(xp: Any, state: State, n: int, params: Params) -> Any:
    if n == 0:
        return xp.zeros_like(state[2])
    with np.errstate(all="ignore"):
        return state[2] / state[1]


# -- histograms: entries, or their weights, counted in bins. The last argument is a table (`Table`)
# that numbers the bins; what is in none of them goes to one more bin, which is dropped.

HEAD = 4  # numbers of a table before the lower edges: first, scale, guard, last


def bin_table(edges: np.ndarray, dtype: np.dtype, uniform: bool) -> np.ndarray:
    """The table of bins between these edges, for values of a dtype.

    A value is in bin k if edges[k] <= value < edges[k + 1], or value <= edges[-1] in the last one.
    Edges that are no values of the dtype are rounded up, and the last one down, which changes no
    comparison. Of `uniform` bins (value - first) * scale is the position, up to `guard` bins; what
    is nearer to an edge is searched for, as all are where guard is 1.
    """
    low = _rounded(edges, dtype, math.inf)
    n = len(edges) - 1
    table = np.empty(HEAD + (1 << max(n - 1, 0).bit_length()), dtype)
    table[HEAD:] = _greatest(dtype)
    table[HEAD : HEAD + n] = low[:-1]
    table[:HEAD] = 0, 0, 1, _rounded(edges[-1:], dtype, -math.inf)[0]
    if uniform:
        first, last = float(edges[0]), float(edges[-1])
        scale = n / (last - first) if last > first else math.inf
        unit, tiny, most = (float(getattr(np.finfo(dtype), n)) for n in ("eps", "tiny", "max"))
        if edges.dtype.kind == "f":  # float16 edges are equally far apart up to their own rounding
            unit = max(unit, float(np.finfo(edges.dtype).eps))
        guard = 4 * (unit * (n + max(abs(first), abs(last)) * scale) + tiny * scale)
        if scale < most and guard < 0.5 and n < 1 / unit:
            table[:3] = low[0], scale, guard
    return table


def _rounded(edges: np.ndarray, dtype: np.dtype, towards: float) -> np.ndarray:
    """Edges in a dtype, those that it does not hold as the next greater or less of its values."""
    with np.errstate(over="ignore"):
        near = edges.astype(dtype)
    if dtype.kind != "f" or np.can_cast(edges.dtype, dtype):
        return near
    wrong = near < edges if towards > 0 else near > edges
    return np.where(wrong, np.nextafter(near, dtype.type(towards)), near)


def _histogram_types(dtypes: Dtypes, params: Params) -> tuple[Dtypes, np.dtype]:
    (values, *weights), table = dtypes[:-1], dtypes[-1]
    if values.kind == "c" or (weights and weights[0].kind == "c"):
        raise DtypeError("histograms count real numbers, with real weights.")
    if not weights:
        return (table, table), INT64
    small = weights[0].kind == "f" and weights[0].itemsize <= 4
    return (table, FLOAT32 if small else FLOAT64, table), FLOAT64


def _histogram_state(dtypes: Dtypes, params: Params) -> tuple[Component, ...]:
    return (("count", INT64 if len(dtypes) == 2 else FLOAT64, (parameter(params, "bins"),)),)


def _histogram_tile(xp: Any, values: tuple, index: Any, params: Params) -> State:
    v, *weights, table = values
    bins, rows = parameter(params, "bins"), v.shape[:-1]
    for w in weights:
        v, w = xp.broadcast_arrays(v, w)
        rows, weights = v.shape[:-1], [xp.reshape(w, (-1,))]
    flat = _bins_of(xp, xp.reshape(v, (-1,)), table, params)
    size = bins + 1
    count = math.prod(rows)
    if count > 1:
        each = xp.arange(count, dtype=flat.dtype, device=v.device) * size
        flat = flat + xp.repeat(each, v.shape[-1])
    total = _counted(xp, flat, weights, count * size)
    return (xp.reshape(total, (*rows, size))[..., :bins],)


def _bins_of(xp: Any, v: Any, table: Any, params: Params) -> Any:
    """The bin of each value; the one after the last, of those that are in none."""
    bins = parameter(params, "bins")
    none = xp.asarray(bins, dtype=native(xp, INT64), device=v.device)
    if parameter(params, "how") == "position":
        inside = (v >= 0) & (v < bins)
        return xp.where(inside, astype(xp, v, INT64), none)
    low = table[HEAD : HEAD + bins]
    safe = xp.where(_isnan(xp, v), xp.zeros_like(v), v)
    at = astype(xp, xp.searchsorted(low, safe, side="right"), INT64) - 1
    inside = (at >= 0) & (v <= table[HEAD - 1])
    return xp.where(inside, at, none)


def _counted(xp: Any, positions: Any, weights: Sequence[Any], n: int) -> Any:
    """How often each of 0 ... n - 1 occurs, or the sum of its weights in float64."""
    wide = [astype(xp, w, FLOAT64) for w in weights]
    if is_numpy(xp):
        return np.bincount(positions, *wide, minlength=n)
    if hasattr(xp, "bincount"):
        return xp.bincount(positions, *wide, minlength=n)
    order = xp.argsort(positions)
    ends = xp.searchsorted(
        xp.take(positions, order), xp.arange(n + 1, dtype=positions.dtype, device=positions.device)
    )
    if not wide:
        return astype(xp, ends[1:] - ends[:-1], INT64)
    sums = xp.cumulative_sum(xp.take(wide[0], order), include_initial=True)
    return xp.take(sums, ends[1:]) - xp.take(sums, ends[:-1])


# -- lazy forms: nodes made of folds ---------------------------------------------------------------


def _without(params: Params, *names: str) -> dict[str, Any]:
    return {k: v for k, v in params if k not in names}


def _itself(
    name: str, joined: str | None = None
) -> Callable[[Sequence[Node], Sequence[int], Params], Node]:
    """A fold; `joined` is the operation that joins it and initial=."""

    def lazy(args: Sequence[Node], axes: Sequence[int], params: Params) -> Node:
        initial = parameter(params, "initial")
        if initial is None:
            return reduce(BY_NAME[name], args, axes, **dict(params))
        if math.prod(max(args, key=lambda a: a.ndim).shape[a] for a in axes) == 0 and name in (
            "min",
            "max",
        ):
            shape = [
                n
                for a, n in enumerate(args[0].shape)
                if a not in normalize_axis_tuple(axes, args[0].ndim)
            ]
            return views.broadcast_to(cast_to(Scalar(initial), args[0].dtype), tuple(shape))
        folded = reduce(BY_NAME[name], args, axes, **_without(params, "initial"))
        assert joined is not None
        return cast_to(ops.call(joined, folded, initial), folded.dtype)

    return lazy


def _size(total: Reduce) -> float:
    """The number of reduced entries.

    It is a constant for features, else a parameter, so that no size enters the kernel.
    """
    n = count(total)
    constant = n > 0 and all(total.whole_roles[a] in (FEATURE, NEUTRAL) for a in total.axes)
    return n if constant else float(n)


def _lazy_mean(args: Sequence[Node], axes: Sequence[int], params: Params) -> Node:
    (loop,), kind = _mean_types((args[0].dtype,), params)
    total = reduce(BY_NAME["sum"], args, axes, dtype=loop)
    return cast_to(ops.call("divide", total, _size(total)), kind)


def _lazy_var(args: Sequence[Node], axes: Sequence[int], params: Params) -> Node:
    (loop,), kind = _var_types((args[0].dtype,), params)
    x = cast_to(args[0], loop)
    total = reduce(BY_NAME["sum"], (x,), axes)
    mean = ops.call("divide", total, _size(total))
    gap = ops.call("subtract", x, views.expand(mean, total.axes))
    if loop.kind == "c":
        squares = ops.call(
            "add", *(ops.call("square", ops.call(part, gap)) for part in ("real", "imag"))
        )
    else:
        squares = ops.call("square", gap)
    left = max(count(total) - parameter(params, "correction", 0), 0)
    return cast_to(ops.call("divide", reduce(BY_NAME["sum"], (squares,), axes), float(left)), kind)


def _lazy_std(args: Sequence[Node], axes: Sequence[int], params: Params) -> Node:
    (loop,), kind = _var_types((args[0].dtype,), params)
    wide = _lazy_var((cast_to(args[0], loop),), axes, tuple(_without(params, "dtype").items()))
    return cast_to(ops.call("sqrt", wide), kind)


def _lazy_count(args: Sequence[Node], axes: Sequence[int], params: Params) -> Node:
    return reduce(BY_NAME["sum"], (cast_to(args[0], BOOL),), axes, dtype=INT64)


def _exponentials(scores: Node, axes: Sequence[int]) -> tuple[Node, Node]:
    """The reference of the exponents (reduced axes collapsed), and exp(scores - reference)."""
    top = reduce(BY_NAME["max"], (scores,), axes)
    safe = ops.call("where", ops.call("isinf", top), 0.0, top)
    return safe, ops.call("exp", ops.call("subtract", scores, views.expand(safe, top.axes)))


def _lazy_logsumexp(args: Sequence[Node], axes: Sequence[int], params: Params) -> Node:
    (loop,), kind = _logsumexp_types((args[0].dtype,), params)
    scores = cast_to(args[0], loop)
    if math.prod(scores.shape[a] for a in axes) == 0:  # no maximum: log(0)
        return cast_to(ops.call("log", reduce(BY_NAME["sum"], (scores,), axes)), kind)
    safe, weight = _exponentials(scores, axes)
    return cast_to(
        ops.call("add", safe, ops.call("log", reduce(BY_NAME["sum"], (weight,), axes))), kind
    )


def _lazy_softmax(args: Sequence[Node], axes: Sequence[int], params: Params) -> Node:
    (real, loop), kind = _softmax_types((args[0].dtype, args[1].dtype), params)
    scores, v = cast_to(args[0], real), cast_to(args[1], loop)
    n = max(a.ndim for a in args)
    axes = normalize_axis_tuple(axes, n)
    scores, v = (views.expand(a, range(n - a.ndim)) if a.ndim < n else a for a in (scores, v))
    whole = [
        max(scores.shape[a], v.shape[a]) if 0 not in (scores.shape[a], v.shape[a]) else 0
        for a in range(n)
    ]
    shape = tuple(whole[a] if a in axes else scores.shape[a] for a in range(n))
    scores = views.broadcast_to(scores, shape)  # each column counts once in the denominator
    if math.prod(whole[a] for a in axes) == 0:
        weight = scores
    else:
        _, weight = _exponentials(scores, axes)
    above = reduce(BY_NAME["sum"], (ops.call("multiply", weight, v),), axes)
    below = reduce(BY_NAME["sum"], (weight,), axes)
    return cast_to(ops.call("divide", above, below), kind)


# -- the table -------------------------------------------------------------------------------------

_NO_IDENTITY = "zero-size array to reduction operation {} which has no identity."
_NO_POSITION = "attempt to get {} of an empty sequence."

TABLE: tuple[Reduction, ...] = (
    Reduction(
        "sum", _sum_types, _one("sum"), _sum_tile, _sum_merge, _value, _itself("sum", "add"),
        fold=True, identity=lambda t: 0, numpy=(np.sum,), ufunc=(np.add,), torch=("sum",),
    ),
    Reduction(
        "prod", _sum_types, _one("prod"), _prod_tile, _prod_merge, _value,
        _itself("prod", "multiply"),
        fold=True, identity=lambda t: 1, numpy=(np.prod,), ufunc=(np.multiply,), torch=("prod",),
    ),
    Reduction(
        "mean", _mean_types, _one("sum"), _sum_tile, _sum_merge, _mean_finish, _lazy_mean,
        numpy=(np.mean,), torch=("mean",),
    ),
    Reduction(
        "var", _var_types, _var_state, _var_tile, _var_merge, _var_finish, _lazy_var,
        numpy=(np.var,), torch=("var",),
    ),
    Reduction(
        "std", _var_types, _var_state, _var_tile, _var_merge, _std_finish, _lazy_std,
        numpy=(np.std,), torch=("std",),
    ),
    Reduction(
        "min", _same_types, _one("value"), *_extreme(False), _value, _itself("min", "minimum"),
        fold=True, empty=_NO_IDENTITY.format("minimum"), identity=_greatest,
        numpy=(np.min, np.amin), ufunc=(np.minimum,), torch=("amin",), aliases=("amin",),
    ),
    Reduction(
        "max", _same_types, _one("value"), *_extreme(True), _value, _itself("max", "maximum"),
        fold=True, empty=_NO_IDENTITY.format("maximum"), identity=_least,
        numpy=(np.max, np.amax), ufunc=(np.maximum,), torch=("amax",), aliases=("amax",),
    ),
    Reduction(
        "argmin", _arg_types, _arg_state, *_arg_extreme(False), _arg_finish, _itself("argmin"),
        fold=True, empty=_NO_POSITION.format("argmin"), identity=_greatest,
        numpy=(np.argmin,), torch=("argmin",), places=True,
    ),
    Reduction(
        "argmax", _arg_types, _arg_state, *_arg_extreme(True), _arg_finish, _itself("argmax"),
        fold=True, empty=_NO_POSITION.format("argmax"), identity=_least,
        numpy=(np.argmax,), torch=("argmax",), places=True,
    ),
    Reduction(
        "any", _truth_types, _one("any"), _any_tile, _any_merge, _value, _itself("any"),
        fold=True, identity=lambda t: False,
        numpy=(np.any,), ufunc=(np.logical_or,), torch=("any",),
    ),
    Reduction(
        "all", _truth_types, _one("all"), _all_tile, _all_merge, _value, _itself("all"),
        fold=True, identity=lambda t: True,
        numpy=(np.all,), ufunc=(np.logical_and,), torch=("all",),
    ),
    Reduction(
        "count_nonzero", _count_types, lambda dtypes, params: (("count", INT64, ()),),
        _count_tile, _sum_merge, _value, _lazy_count,
        identity=lambda t: 0, numpy=(np.count_nonzero,), torch=("count_nonzero",),
    ),
    Reduction(
        "logsumexp", _logsumexp_types, _logsumexp_state, _logsumexp_tile, _logsumexp_merge,
        _logsumexp_finish, _lazy_logsumexp,
        identity=lambda t: -math.inf, ufunc=(np.logaddexp,), torch=("logsumexp",),
    ),
    Reduction(
        "softmax_sum", _softmax_types, _softmax_state, _softmax_tile, _softmax_merge,
        _softmax_finish, _lazy_softmax,
        nargs=2,
    ),
    Reduction(
        "topk", _topk_types, _topk_state, _topk_tile, _topk_merge, _topk_finish, None,
        torch=("topk",), places=True,
    ),
    Reduction(
        "histogram", _histogram_types, _histogram_state, _histogram_tile, _sum_merge, _value, None,
        nargs=2, sizes=("bins",), places=True,
    ),
)  # fmt: skip

BY_NAME: dict[str, Reduction] = {row.name: row for row in TABLE}
