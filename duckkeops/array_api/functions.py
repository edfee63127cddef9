"""The functions of the namespace: one row each, with the standard's signature.

Which handler answers is not said here: NumPy's function of the same name has it, in the tables of
`numpy_functions.py` and `ops.py`. A row says the kind of a function only (see `arrays.py`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from duckkeops.array import LazyArray
from duckkeops.array_api import arrays
from duckkeops.array_api.arrays import (
    Array,
    by_library,
    by_numpy,
    joint,
    nodes_in,
    opened,
    paired,
    product,
    view,
    whole,
    wrap,
)


class Row(NamedTuple):
    """One function: its name, its signature, and who answers."""

    name: str
    signature: Callable  # of which only the signature counts
    kind: Callable[[str, Sequence[Any], dict[str, Any]], Any]


def function(row: Row, module: str, prefix: str = "") -> Callable:
    """The function of a row; `prefix` is "linalg." for those of that extension."""
    path, kind = prefix + row.name, row.kind
    code = row.signature.__code__
    count = code.co_posonlyargcount if code.co_posonlyargcount == code.co_argcount else -1
    if code.co_kwonlyargcount or row.signature.__defaults__:
        count = -1  # not of required positional arguments alone

    def called(*args: Any, **kwargs: Any) -> Any:
        if not kwargs and len(args) == count:
            return kind(path, args, kwargs)
        try:
            bound = _signature(row.signature).bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{module}.{row.name}{_signature(row.signature)}: {error}") from None
        return kind(path, bound.args, bound.kwargs)

    called.__name__ = called.__qualname__ = row.name
    called.__module__ = module
    called.__doc__ = _doc(row.name, prefix, kind)
    called.__wrapped__ = row.signature  # type: ignore[attr-defined]  # what inspect.signature reads
    return called


@functools.cache
def _signature(function: Callable) -> inspect.Signature:
    return inspect.signature(function)


def _doc(name: str, prefix: str, kind: Callable) -> str:
    how = {
        joint: "Lazy where the result is virtual.",
        paired: "Lazy where the result is virtual.",
        product: "Lazy where the result is virtual.",
        view: "Lazy; axes keep their roles.",
    }.get(kind, "Of a virtual array it is a reduction, or refused.")
    return f"As {prefix}{name} of the array API standard, for lazy and genuine arrays.\n\n{how}"


# -- where NumPy's function is not the standard's --------------------------------------------------


def ordering(path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """sort and argsort: of a virtual array to be sliced to the first or last k entries."""
    if not any(map(arrays.is_pairwise, nodes_in(args))):
        return whole(path, args, kwargs)
    options = dict(kwargs)
    axis, back = options.get("axis", -1), options.pop("descending", False)
    if back:
        options.pop("stable", None)  # the greatest come with the first of equals first already
    ordered = by_numpy(path, opened(list(args)), options)
    if not back:
        return wrap(ordered)
    before = [slice(None)] * (axis % args[0].ndim)
    return wrap(ordered[(*before, slice(None, None, -1))])


def clipped(path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """clip: in the dtype of the array, whatever the bounds are."""
    x, *bounds = args
    given = dict(zip(("min", "max"), bounds, strict=False)) | kwargs
    out = joint(path, (x,), {k: v for k, v in given.items() if v is not None})
    return out if out.dtype == x.dtype else wrap(by_numpy("astype", (opened(out), x.dtype), {}))


def filled_like(path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """zeros_like and its kin: constants that are not stored, of a virtual array."""
    if any(map(arrays.is_pairwise, nodes_in(args))):
        return whole(path, args, {k: v for k, v in kwargs.items() if k != "device"})
    return whole(path, args, kwargs)


def cast(path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """astype."""
    x, dtype = args
    device = kwargs.get("device")
    if device is not None:
        x = x.to_device(device)
    if x.dtype == dtype and not kwargs.get("copy", True):
        return wrap(x)
    dtype = np.dtype(dtype)
    if x.dtype.kind == "c" and dtype.kind not in "cb":
        raise TypeError(
            f"astype cannot make {dtype.name} of {x.dtype.name}.\n"
            "  Take array_api.real(x) or array_api.abs(x) first."
        )
    return joint(path, (x, dtype), {})


def grids(path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Array, ...]:
    """meshgrid: vectors repeated, without a copy."""
    indexing = kwargs.get("indexing", "xy")
    vectors = [wrap(x) for x in args]
    if indexing not in ("xy", "ij") or any(x.ndim > 1 for x in vectors):
        raise ValueError(
            f"meshgrid takes vectors, and indexing 'xy' or 'ij'; it got shapes "
            f"{[x.shape for x in vectors]} and {indexing!r}."
        )
    places = list(range(len(vectors)))
    if indexing == "xy" and len(vectors) > 1:
        places[:2] = 1, 0
    lengths = [x.size for x in vectors]
    shape = tuple(lengths[places[k]] for k in range(len(vectors)))
    out = []
    for x, place in zip(vectors, places, strict=True):
        alone = tuple(x.size if k == place else 1 for k in range(len(vectors)))
        out.append(view("broadcast_to", (view("reshape", (x, alone), {}), shape), {}))
    return tuple(out)


# -- the table -------------------------------------------------------------------------------------

ONE: Callable = lambda x, /: None  # noqa: E731
TWO: Callable = lambda x1, x2, /: None  # noqa: E731
OVER: Callable = lambda x, /, *, axis=None, keepdims=False: None  # noqa: E731
TOTAL: Callable = lambda x, /, *, axis=None, dtype=None, keepdims=False: None  # noqa: E731
MOMENT: Callable = lambda x, /, *, axis=None, correction=0.0, keepdims=False: None  # noqa: E731
ORDER: Callable = lambda x, /, *, axis=-1, descending=False, stable=True: None  # noqa: E731
RUNNING: Callable = lambda x, /, *, axis=None, dtype=None, include_initial=False: None  # noqa: E731

_ONE_EACH = (
    *("abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "bitwise_invert", "ceil", "conj"),
    *("cos", "cosh", "exp", "expm1", "floor", "imag", "isfinite", "isinf", "isnan", "log", "log10"),
    *("log1p", "log2", "logical_not", "negative", "positive", "real", "reciprocal", "round"),
    *("sign", "signbit", "sin", "sinh", "sqrt", "square", "tan", "tanh", "trunc"),
)
_TWO_EACH = (
    *("add", "atan2", "bitwise_and", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift"),
    *("bitwise_xor", "copysign", "divide", "equal", "floor_divide", "greater", "greater_equal"),
    *("hypot", "less", "less_equal", "logaddexp", "logical_and", "logical_or", "logical_xor"),
    *("maximum", "minimum", "multiply", "nextafter", "not_equal", "pow", "remainder", "subtract"),
)

# fmt: off
FUNCTIONS: tuple[Row, ...] = (
    # entry by entry
    *(Row(name, ONE, joint) for name in _ONE_EACH),
    *(Row(name, TWO, joint) for name in _TWO_EACH),
    Row("where", lambda condition, x1, x2, /: None, joint),
    Row("clip", lambda x, /, min=None, max=None: None, clipped),
    Row("astype", lambda x, dtype, /, *, copy=True, device=None: None, cast),
    # statistics and searches
    *(Row(name, OVER, whole) for name in ("all", "any", "max", "min", "mean", "count_nonzero")),
    *(Row(name, TOTAL, whole) for name in ("sum", "prod")),
    *(Row(name, MOMENT, whole) for name in ("std", "var")),
    *(Row(name, OVER, whole) for name in ("argmax", "argmin")),
    *(Row(name, RUNNING, whole) for name in ("cumulative_sum", "cumulative_prod")),
    *(Row(name, ORDER, ordering) for name in ("sort", "argsort")),
    Row("diff", lambda x, /, *, axis=-1, n=1, prepend=None, append=None: None, whole),
    Row("nonzero", ONE, whole),
    Row("searchsorted", lambda x1, x2, /, *, side="left", sorter=None: None, whole),
    Row("isin", lambda x1, x2, /, *, invert=False: None, whole),
    *(Row(f"unique_{name}", ONE, whole) for name in ("all", "counts", "inverse", "values")),
    # axes and shapes
    Row("broadcast_arrays", lambda *arrays: None, view),
    Row("broadcast_to", lambda x, /, shape: None, view),
    Row("concat", lambda arrays, /, *, axis=0: None, joint),
    Row("stack", lambda arrays, /, *, axis=0: None, joint),
    Row("unstack", lambda x, /, *, axis=0: None, view),
    Row("expand_dims", lambda x, /, axis=0: None, view),
    Row("flip", lambda x, /, *, axis=None: None, view),
    Row("moveaxis", lambda x, source, destination, /: None, view),
    Row("permute_dims", lambda x, /, axes: None, view),
    Row("reshape", lambda x, /, shape, *, copy=None: None, view),
    Row("squeeze", lambda x, /, axis: None, view),
    Row("matrix_transpose", ONE, view),
    Row("repeat", lambda x, repeats, /, *, axis=None: None, whole),
    Row("roll", lambda x, /, shift, *, axis=None: None, whole),
    Row("tile", lambda x, repetitions, /: None, whole),
    Row("tril", lambda x, /, *, k=0: None, whole),
    Row("triu", lambda x, /, *, k=0: None, whole),
    Row("take", lambda x, indices, /, *, axis=None: None, whole),
    Row("take_along_axis", lambda x, indices, /, *, axis=-1: None, whole),
    Row("meshgrid", lambda *arrays, indexing="xy": None, grids),
    # constants
    *(Row(f"{name}_like", lambda x, /, *, dtype=None, device=None: None, filled_like)
      for name in ("empty", "ones", "zeros")),
    Row("full_like", lambda x, /, fill_value, *, dtype=None, device=None: None, filled_like),
    # contractions
    Row("matmul", TWO, product),
    Row("tensordot", lambda x1, x2, /, *, axes=2: None, product),
    Row("vecdot", lambda x1, x2, /, *, axis=-1: None, paired),
)

LINALG: tuple[Row, ...] = (
    *(Row(name, ONE, whole) for name in ("det", "inv", "slogdet", "svdvals")),
    *(Row(name, ONE, whole) for name in ("eig", "eigh", "eigvals", "eigvalsh")),
    Row("cholesky", lambda x, /, *, upper=False: None, whole),
    Row("cross", lambda x1, x2, /, *, axis=-1: None, paired),
    Row("diagonal", lambda x, /, *, offset=0: None, whole),
    Row("matmul", TWO, product),
    Row("matrix_norm", lambda x, /, *, keepdims=False, ord="fro": None, whole),
    Row("matrix_power", lambda x, n, /: None, whole),
    Row("matrix_rank", lambda x, /, *, rtol=None: None, whole),
    Row("matrix_transpose", ONE, view),
    Row("outer", TWO, product),
    Row("pinv", lambda x, /, *, rtol=None: None, whole),
    Row("qr", lambda x, /, *, mode="reduced": None, whole),
    Row("solve", TWO, whole),
    Row("svd", lambda x, /, *, full_matrices=True: None, whole),
    Row("tensordot", lambda x1, x2, /, *, axes=2: None, product),
    Row("trace", lambda x, /, *, offset=0, dtype=None: None, whole),
    Row("vecdot", lambda x1, x2, /, *, axis=-1: None, paired),
    Row("vector_norm", lambda x, /, *, axis=None, keepdims=False, ord=2: None, whole),
)

_FFT: Callable = lambda x, /, *, n=None, axis=-1, norm="backward": None  # noqa: E731
_FFTN: Callable = lambda x, /, *, s=None, axes=None, norm="backward": None  # noqa: E731
FFT: tuple[Row, ...] = (
    *(Row(name, _FFT, whole) for name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")),
    *(Row(name, _FFTN, whole) for name in ("fftn", "ifftn", "rfftn", "irfftn")),
    *(Row(name, lambda x, /, *, axes=None: None, whole) for name in ("fftshift", "ifftshift")),
)
# fmt: on


def functions(rows: Sequence[Row], module: str, prefix: str = "") -> dict[str, Callable]:
    """The functions of these rows, by name."""
    return {row.name: function(row, module, prefix) for row in rows}


# -- dtypes ----------------------------------------------------------------------------------------

DTYPES = {
    name: np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float32", "float64", "complex64", "complex128"),
    )
}


def _dtype(x: Any) -> Any:
    return x.dtype if isinstance(x, LazyArray) else x


def result_type(*arrays_and_dtypes: Any) -> np.dtype:
    """The dtype that these arrays, dtypes and Python numbers promote to.

    >>> result_type(np.dtype("int8"), np.dtype("uint8")).name
    'int16'
    """
    return np.result_type(*map(_dtype, arrays_and_dtypes))


def can_cast(from_: Any, to: Any, /) -> bool:
    """May a dtype, or an array's, become `to` by the rules of promotion?"""
    return np.can_cast(_dtype(from_), to)


def isdtype(dtype: Any, kind: Any) -> bool:
    """Is a dtype of this kind, another dtype, or one of several?"""
    return np.isdtype(np.dtype(dtype), kind)


class finfo(NamedTuple):
    """What a floating-point dtype can hold."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: np.dtype


class iinfo(NamedTuple):
    """What an integer dtype can hold."""

    bits: int
    max: int
    min: int
    dtype: np.dtype


def float_limits(type: Any, /) -> finfo:
    """The limits of a floating-point dtype, or of the dtype of an array, in Python's numbers."""
    i = np.finfo(_dtype(type))
    eps, most, least, smallest = map(float, (i.eps, i.max, i.min, i.smallest_normal))
    return finfo(int(i.bits), eps, most, least, smallest, np.dtype(i.dtype))


def integer_limits(type: Any, /) -> iinfo:
    """The limits of an integer dtype, or of the dtype of an array."""
    i = np.iinfo(_dtype(type))
    return iinfo(int(i.bits), int(i.max), int(i.min), np.dtype(i.dtype))


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that arrays of these shapes have in common."""
    return np.broadcast_shapes(*shapes)


# -- what makes arrays of a library ----------------------------------------------------------------

_NEW: Callable = lambda shape, *, dtype=None, device=None: None  # noqa: E731
_STEPS: Callable = lambda start, /, stop=None, step=1, *, dtype=None, device=None: None  # noqa: E731
_SPACED: Callable = (  # noqa: E731
    lambda start, stop, /, num, *, dtype=None, device=None, endpoint=True: None
)
_EYE: Callable = lambda n_rows, n_cols=None, /, *, k=0, dtype=None, device=None: None  # noqa: E731
CREATION: dict[str, Callable] = {
    "arange": _STEPS,
    "empty": _NEW,
    "eye": _EYE,
    "full": lambda shape, fill_value, *, dtype=None, device=None: None,
    "linspace": _SPACED,
    "ones": _NEW,
    "zeros": _NEW,
}
LARGEST_EYE = 2**24  # bytes of one that is stored
FREQUENCIES = {
    name: lambda n, /, *, d=1.0, dtype=None, device=None: None for name in ("fftfreq", "rfftfreq")
}


def creation(home: Callable[[], Any], module: str) -> dict[str, Callable]:
    """The functions that make arrays of the library `home()`, which is imported when needed."""

    def made(path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        return fresh(_made_by(home(), path, args, kwargs))

    def asarray(
        obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None
    ) -> Array:
        """`obj` as an Array: lazy arrays stay lazy; numbers, lists and genuine arrays are held.

        The array of a library is not copied, unless `copy` says so. Raises ValueError if
        `copy=False` and a copy is needed.
        """
        if isinstance(obj, LazyArray):
            return _of_lazy(obj, dtype, device, copy)
        if isinstance(obj, list | tuple):
            obj = arrays.genuine(obj, "asarray([d])")
            obj = np.asarray(obj) if any(isinstance(v, np.ndarray) for v in obj) else obj
        xp = arrays.library_of(obj) if arrays.is_array(obj) else home()
        dtype = None if dtype is None else arrays.theirs(xp, np.dtype(dtype))
        value = xp.asarray(obj, dtype=dtype, device=device, copy=copy)
        return fresh(_checked_dtype(value))

    def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Array:
        """The memory of another library's array, which knows DLPack, as an Array."""
        x = arrays.genuine(x, "from_dlpack(d)")
        options = {k: v for k, v in {"device": device, "copy": copy}.items() if v is not None}
        return fresh(home().from_dlpack(x, **options))

    rows = [Row(name, signature, made) for name, signature in CREATION.items()]
    out = functions(rows, module)
    for name, row in out.items():
        row.__doc__ = f"As {name} of the array API standard."
    small_eye = out["eye"]

    def eye(
        n_rows: int,
        n_cols: int | None = None,
        /,
        *,
        k: int = 0,
        dtype: Any = None,
        device: Any = None,
    ) -> Array:
        """Ones on the k-th diagonal, as eye of the array API standard; one that takes more than
        16 MiB is virtual: K + noise * eye(n) stores nothing.
        """
        n_cols = n_rows if n_cols is None else n_cols
        kind = np.dtype(dtype or Info(home).default_dtypes(device=device)["real floating"])
        if n_rows * n_cols * kind.itemsize <= LARGEST_EYE:
            return small_eye(n_rows, n_cols, k=k, dtype=dtype, device=device)
        xp = home()
        rows, columns = (xp.arange(n, dtype=xp.int64, device=device) for n in (n_rows, n_cols))
        on = LazyArray(rows + k)[:, None] == LazyArray(columns)[None, :]
        return arrays.wrap(on.astype(kind))

    out["eye"] = eye
    return out | {"asarray": asarray, "from_dlpack": from_dlpack}


def frequencies(home: Callable[[], Any], module: str) -> dict[str, Callable]:
    """fftfreq and rfftfreq of the library `home()`."""

    def made(path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        return fresh(_made_by(home(), path, args, kwargs))

    return functions([Row(n, s, made) for n, s in FREQUENCIES.items()], module, "fft.")


def _made_by(xp: Any, path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    function = functools.reduce(getattr, path.split("."), xp)
    args = tuple(a if isinstance(a, tuple | list) else arrays.genuine(a, path) for a in args)
    options = arrays.theirs(xp, {k: _np_dtype(k, v) for k, v in kwargs.items()})
    return function(*args, **options)


def _np_dtype(name: str, value: Any) -> Any:
    return np.dtype(value) if name == "dtype" and value is not None else value


def fresh(array: Any) -> Array:
    """A genuine array as an Array."""
    return arrays.wrap_node(arrays._leaf(array, None, True))


def _checked_dtype(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind not in "biufc":
        raise TypeError(
            f"asarray makes arrays of numbers and booleans, and got dtype {value.dtype}."
        )
    return value


def _of_lazy(x: LazyArray, dtype: Any, device: Any, copy: bool | None) -> Any:
    if dtype is not None and np.dtype(dtype) != x.dtype:
        if copy is False:
            raise ValueError(
                f"asarray(dtype={np.dtype(dtype).name}, copy=False): "
                f"x has dtype {x.dtype.name}, so a copy is needed."
            )
        out = cast("astype", (x, dtype), {})
    else:
        out = wrap(x)
        if copy and not arrays.is_pairwise(x._node):
            value = by_library("asarray", (x,), {"copy": True})
            out = arrays.wrap_node(arrays._leaf(value, x._node.roles, x._node.bare))
        elif out is x:
            out = arrays.wrap_node(x._node)
    return out if device is None else out.to_device(device)


# -- what the namespace says of itself -------------------------------------------------------------


class Info:
    """What `__array_namespace_info__` gives: capabilities, dtypes and devices.

    >>> Info(arrays.numpy_library).default_device()
    'cpu'
    """

    def __init__(self, home: Callable[[], Any]):
        self._home = home

    def _theirs(self) -> Any:
        return self._home().__array_namespace_info__()

    def capabilities(self) -> dict[str, Any]:
        """Boolean indexing and results whose shape depends on data: of arrays that are not
        virtual.
        """
        known = {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}
        theirs = self._theirs().capabilities()
        return known | {k: v for k, v in theirs.items() if k in known}

    def default_device(self) -> Any:
        """Where new arrays lie."""
        return self._theirs().default_device()

    def devices(self) -> Any:
        """All devices of the library."""
        return self._theirs().devices()

    def default_dtypes(self, *, device: Any = None) -> dict[str, np.dtype]:
        """What Python's numbers become."""
        found = self._theirs().default_dtypes(device=device)
        return {k: _named(v) for k, v in found.items()}

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, np.dtype]:
        """The dtypes of a kind, or of several, by name."""
        found = self._theirs().dtypes(device=device, kind=kind)
        return {k: _named(v) for k, v in found.items() if k in DTYPES}


def _named(dtype: Any) -> np.dtype:
    if isinstance(dtype, np.dtype):
        return dtype
    return DTYPES[str(getattr(dtype, "__name__", dtype)).rpartition(".")[2].removesuffix("_")]
