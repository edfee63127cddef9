"""logsumexp, softmax and top-k by name, for NumPy's users, who have no names for them.

They take lazy arrays and genuine ones, and return what the inputs' library does.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from duckkeops import reductions
from duckkeops.array import LazyArray
from duckkeops.errors import DtypeError
from duckkeops.operands import is_array
from duckkeops.sorting import how_many

Axis = Any  # an int, a tuple of them, or None for all axes


def logsumexp(
    a: Any,
    axis: Axis = None,
    b: Any = None,
    keepdims: bool = False,
    return_sign: bool = False,
    **options: Any,
) -> Any:
    """log(sum(b * exp(a))) over axes, without overflow; as scipy.special.logsumexp.

    Shapes: (M, N) -> (M,) for axis=1, () for axis=None. Weights `b` broadcast against `a`; where
    their sum is negative the result is NaN, or with return_sign=True the logarithm of its absolute
    value, beside the sign (-1, 0 or 1). axis= and keepdims= may be spelled dim= and keepdim=.

    Of a lazy array it is one pass over the pairs, and two where weights may be negative. Raises
    AxisError for an axis that is not there, DtypeError (a TypeError) for complex numbers,
    TypeError for what is no array.

    >>> import numpy as np
    >>> x, y = LazyArray(np.array([0.0, 500.0])), LazyArray(np.array([0.0, 0.0]))
    >>> logsumexp(x[:, None] + y[None, :], axis=1)
    array([  0.69314718, 500.69314718])
    >>> logsumexp(np.zeros(4), b=np.array([1, 1, -1, -3]), return_sign=True)
    (np.float64(0.6931471805599453), np.float64(-1.0))
    """
    axis, keepdims = _spelled("logsumexp", options, axis=axis, keepdims=keepdims)
    a, b = _checked("logsumexp", a), None if b is None else _checked("logsumexp", b, "b")
    if not _is_lazy(a) and not _is_lazy(b):
        return _logsumexp(a, axis, b, keepdims, return_sign)
    a = LazyArray(a)
    if b is None:
        value = _of_lazy(a, axis, keepdims)
        if not return_sign:
            return value
        return value, np.where(value == -np.inf, 0.0, np.where(np.isnan(value), value, 1.0))[()]
    with np.errstate(divide="ignore"):
        size = a + np.log(np.abs(b))
    more = _of_lazy(np.where(b <= 0, -np.inf, size), axis, keepdims)
    if not return_sign and not _is_lazy(b) and bool((b >= 0).all()):
        return more
    less = _of_lazy(np.where(b < 0, size, -np.inf), axis, keepdims)
    return _difference(more, less, return_sign)


def softmax(x: Any, axis: Axis = None, **options: Any) -> Any:
    """exp(x) over its sum along axes, without overflow; as scipy.special.softmax.

    Shapes: that of x. Without axis= the sum is over all entries, as in SciPy, and as the method
    `d.softmax()` has it. Of a lazy array it is lazy, and `softmax(s, axis=1) @ v` one pass over the
    pairs. axis= may be spelled dim=. Raises AxisError for an axis that is not there, DtypeError for
    complex numbers, TypeError for what is no array.

    >>> import numpy as np
    >>> s = LazyArray(np.array([0.0, 1.0]))[:, None] * LazyArray(np.array([0.0, 0.0, 0.0]))
    >>> softmax(s, axis=1) @ np.array([1.0, 2.0, 6.0])
    array([3., 3.])
    >>> softmax(np.array([1.0, 1.0]))
    array([0.5, 0.5])
    """
    (axis,) = _spelled("softmax", options, axis=axis)
    x = _checked("softmax", x)
    if _is_lazy(x):
        return x.softmax(axis=axis)
    xp, x = _floating(x)
    axes = _axes(x, axis)
    if 0 in x.shape:
        return xp.exp(x)
    weights = xp.exp(x - xp.max(x, axis=axes, keepdims=True))
    return weights / xp.sum(weights, axis=axes, keepdims=True)


def topk(
    a: Any, k: int, axis: int = -1, largest: bool = True, sorted: bool = True, **options: Any
) -> tuple[Any, Any]:
    """The k greatest entries along an axis (or the least, with largest=False), and their positions;
    as torch.topk.

    Shapes: (M, N) -> (M, k) and (M, k) for axis=1. The most extreme comes first, whatever `sorted`
    says; of equals the first, and NaN counts as the greatest (of genuine torch tensors, what
    torch.topk gives). k is cut to the length of the axis. axis= may be spelled dim=. Raises
    ValueError for a negative k, AxisError for an axis that is not there, DtypeError for complex
    numbers, TypeError for what is no array.

    >>> import numpy as np
    >>> d = np.abs(LazyArray(np.array([0.0, 5.0]))[:, None] - LazyArray(np.array([1.0, 4.0, 7.0])))
    >>> values, positions = topk(d, 2, axis=1, largest=False)
    >>> values, positions
    (array([[1., 4.],
           [1., 2.]]), array([[0, 1],
           [1, 2]]))
    """
    return _topk_of("topk", a, k, axis, largest, sorted, options)


def _topk_of(
    what: str, a: Any, k: int, axis: int, largest: bool, sorted: bool, options: dict[str, Any]
) -> tuple[Any, Any]:
    """`topk`, in the name of the function that was called."""
    (axis,) = _spelled(what, options, axis=axis)
    a = _checked(what, a)
    k = how_many(what, k)
    if _is_lazy(a):
        return a.topk(k, axis=axis, largest=largest)
    axis = normalize_axis_index(axis, a.ndim)
    k = min(k, a.shape[axis])
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(a, torch.Tensor):
        return torch.topk(a, k, axis, bool(largest), bool(sorted))
    return _topk(a, k, axis, bool(largest))


def argtopk(
    a: Any, k: int, axis: int = -1, largest: bool = True, sorted: bool = True, **options: Any
) -> Any:
    """The positions of the k greatest (or least) entries along an axis: the second part of `topk`.

    Shapes: (M, N) -> (M, k) for axis=1. Raises what `topk` raises.

    >>> import numpy as np
    >>> argtopk(np.array([3.0, 1.0, 2.0]), 2)
    array([0, 2])
    """
    return _topk_of("argtopk", a, k, axis, largest, sorted, options)[1]


# -- arguments -------------------------------------------------------------------------------------


def _checked(what: str, a: Any, name: str = "a") -> Any:
    """An array, lazy or not; numbers and lists become NumPy's."""
    if not _is_lazy(a) and not is_array(a):
        a = np.asarray(a)
        if a.dtype.kind not in "biufc":
            raise TypeError(
                f"{what} takes an array of numbers, and {name} has dtype {a.dtype}.\n"
                "  Make an array of numbers of it first: numpy.asarray(x, dtype=float)."
            )
    if "complex" in str(a.dtype):
        raise DtypeError(
            f"{what} takes real numbers, and got {name}: {tuple(a.shape)} {a.dtype}.\n"
            "  Take its absolute value or its real part first."
        )
    return a


def _spelled(what: str, options: dict[str, Any], **own: Any) -> list[Any]:
    """The values of `own`, where torch's names of them may be given instead."""
    for theirs, ours in (("dim", "axis"), ("keepdim", "keepdims")):
        if ours in own and theirs in options:
            own[ours] = options.pop(theirs)
    if options:
        raise TypeError(f"{what}() got an unexpected keyword argument {next(iter(options))!r}")
    return list(own.values())


def _axes(a: Any, axis: Axis) -> tuple[int, ...]:
    return tuple(range(a.ndim)) if axis is None else normalize_axis_tuple(axis, a.ndim)


# -- genuine arrays --------------------------------------------------------------------------------


def _floating(a: Any, *others: Any) -> tuple[Any, ...]:
    """The array library, and the arrays in a floating-point dtype."""
    from array_api_compat import array_namespace

    arrays = [np.asarray(x) if isinstance(x, np.generic) else x for x in (a, *others)]
    xp = array_namespace(arrays[0])
    return xp, *(
        x if xp.isdtype(x.dtype, "real floating") else xp.astype(x, xp.float64) for x in arrays
    )


def _logsumexp(a: Any, axis: Axis, b: Any, keepdims: bool, return_sign: bool) -> Any:
    xp, a, *weights = _floating(a, *(() if b is None else (b,)))
    if weights:
        a, b = xp.broadcast_arrays(a, *weights)
        a = xp.where(b == 0, -xp.inf, a)
    axes = _axes(a, axis)
    if a.ndim and 0 in [a.shape[k] for k in axes]:
        top = xp.sum(a, axis=axes, keepdims=True)
    else:
        top = xp.max(a, axis=axes, keepdims=True)
    top = xp.where(xp.isfinite(top), top, xp.zeros_like(top))
    with np.errstate(all="ignore"):
        terms = xp.exp(a - top)
        total = xp.sum(terms if b is None else terms * b, axis=axes, keepdims=True)
        value = xp.log(xp.abs(total)) + top
        if not return_sign:
            value = xp.where(total < 0, xp.nan, value)
    out = [value, xp.sign(total)] if return_sign else [value]
    if not keepdims:
        out = [xp.squeeze(v, axis=axes) if axes else v for v in out]
    out = [v[()] if isinstance(v, np.ndarray) and v.ndim == 0 else v for v in out]
    return tuple(out) if return_sign else out[0]


def _topk(a: Any, k: int, axis: int, largest: bool) -> tuple[Any, Any]:
    from array_api_compat import array_namespace

    xp = array_namespace(a)
    index = xp.arange(a.shape[axis], dtype=xp.int64)
    order = [n for n in range(a.ndim) if n != axis]
    state = reductions.BY_NAME["topk"].tile(
        xp, (xp.permute_dims(a, (*order, axis)),), index, (("k", k), ("largest", largest))
    )
    back = [*range(axis), a.ndim - 1, *range(axis, a.ndim - 1)]
    values, positions = (xp.permute_dims(s, tuple(back)) for s in state)
    return values, positions


def _is_lazy(a: Any) -> bool:
    return isinstance(a, LazyArray)


def _of_lazy(a: Any, axis: Axis, keepdims: bool) -> Any:
    return a.logsumexp(axis=axis, keepdims=keepdims)


def _difference(more: Any, less: Any, return_sign: bool) -> Any:
    """log|exp(more) - exp(less)|, and its sign where that is asked for."""
    with np.errstate(all="ignore"):
        gap = np.where((more == less) & (more != np.inf), 0.0, more - less)
        greater = np.maximum(more, less)
        value = np.where(gap == 0, -np.inf, greater + np.log1p(-np.exp(-np.abs(gap))))
        sign = np.sign(gap)
        if return_sign:
            return value[()], sign[()]
        return np.where(sign < 0, np.nan, value)[()]
