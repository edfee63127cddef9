"""Array: the array of our array-API namespace, a lazy array that is closed under everything.

What is not virtual holds a genuine array, and the array's own library computes with it, through
array-api-compat. What is virtual is recorded or reduced by the handlers of NumPy's functions. Both
give Arrays, so that code written for one namespace never meets a second one.
"""

from __future__ import annotations

import functools
import math
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from duckkeops import evaluate, expr, flat, indexing, numpy_functions, ops, sorting
from duckkeops.array import BINARY, COMPARE, UNARY, LazyArray, NumpyLazyArray
from duckkeops.errors import RoleError, UnsupportedError, VirtualArrayError
from duckkeops.expr import Broadcast, Input, Node
from duckkeops.genuine import all_entries, settled
from duckkeops.importing import import_whole
from duckkeops.operands import (
    NUMBERS,
    describe,
    input_of,
    is_array,
    leading_input,
    library,
    nbytes,
    node_of,
    same_library,
)


class Array(NumpyLazyArray):
    """An array of the namespace `duckkeops.array_api`: a lazy array whose operators and methods
    give such arrays again, and which can be written to unless it is virtual.

    `duckkeops.array_api.asarray(x)` makes one; `numpy.asarray(a)` or `a.to_dense()` is the way out.

    >>> from duckkeops import array_api as xp
    >>> x = xp.asarray([[0.0, 1.0], [2.0, 4.0]])
    >>> xp.sum(x, axis=1)
    Array([1., 6.], dtype=float64)
    >>> d = xp.sum((x[:, None, :] - x[None, :, :]) ** 2, axis=-1)
    >>> xp.max(d, axis=1)
    Array([13., 13.], dtype=float64)
    """

    __slots__ = ()

    def __repr__(self) -> str:
        if expr.is_virtual(self._node):
            return super().__repr__()
        entries = self._entries("repr(d)")
        if isinstance(entries, np.ndarray):
            entries = np.array2string(entries, separator=", ", prefix="Array(")
        return f"Array({entries}, dtype={self.dtype.name})"

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        result = super().__array_ufunc__(ufunc, method, *inputs, **kwargs)
        return wrap(result) if method == "__call__" and result is not NotImplemented else result

    # -- entries

    def _entries(self, what: str) -> Any:
        """The genuine array, kept from now on."""
        if type(self._node) is not Input:
            entries = entries_of(what, self._node)
            self._node = _leaf(entries, self._node.roles, self._node.bare)
        return self._node.array  # type: ignore[attr-defined]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._entries("numpy.asarray(d)"), dtype=dtype, copy=copy)

    def __dlpack__(  # type: ignore[override]
        self,
        /,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        options = dict(stream=stream, max_version=max_version, dl_device=dl_device, copy=copy)
        given = {k: v for k, v in options.items() if v is not None}
        return self._entries("from_dlpack(d)").__dlpack__(**given)

    def __dlpack_device__(self, /) -> tuple[int, int]:
        return self._entries("from_dlpack(d)").__dlpack_device__()

    def __bool__(self, /) -> bool:
        return bool(self._entries("bool(d)"))

    def __int__(self, /) -> int:
        return int(self._real("int"))

    def __float__(self, /) -> float:
        return float(self._real("float"))

    def __complex__(self, /) -> complex:
        return complex(self._entries("complex(d)"))

    def __index__(self, /) -> int:
        return self._entries("operator.index(d)").__index__()

    def _real(self, what: str) -> Any:
        if self.dtype.kind == "c":
            raise TypeError(
                f"{what}(a) of a complex array: take array_api.real(a) or complex(a) instead."
            )
        return self._entries(f"{what}(d)")

    def __iter__(self) -> Iterator[Array]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        self._entries("iterating over d")
        return (self[k] for k in range(len(self)))

    def __contains__(self, x: Any) -> bool:
        return (genuine(x, "d in a") if isinstance(x, LazyArray) else x) in self._entries("x in d")

    def __getitem__(self, key: Any) -> Any:
        if _by_entries(key) and not is_pairwise(self._node):
            entries = self._entries("d[mask]")
            return wrap(entries[_genuine_key(key, entries)])
        return wrap(super().__getitem__(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        if is_pairwise(self._node):
            self._node = self._chosen(key, value)._node
            return
        entries = self._entries("d[...] = value")
        if isinstance(entries, np.ndarray) and not entries.flags.writeable:
            self._node = _leaf(entries.copy(), self._node.roles, self._node.bare)
            entries = self._node.array  # type: ignore[attr-defined]
        entries[_genuine_key(key, entries)] = genuine(value, "a[key] = d")

    def _chosen(self, mask: Any, value: Any) -> Array:
        """This virtual array with one value where a mask holds; the refusal of any other key."""
        one = type(value) in NUMBERS or (_is_other(value) and value.ndim == 0)
        whole = is_array(mask) and _is_bool(mask.dtype) and tuple(mask.shape) == self.shape
        if not (one and whole):
            raise UnsupportedError(
                f"a virtual array is changed by one value under a mask of its shape only: "
                f"a[key] = value on a: {describe(self._node)}.\n"
                "  Use array_api.where(mask, value, a), or change the inputs first."
            )
        return joint("astype", (joint("where", (mask, value, self), {}), self.dtype), {})


def _by_entries(key: Any) -> bool:
    """Is there a mask in this key, other than one of a single axis?"""
    return any(
        isinstance(k, bool | np.bool) or (is_array(k) and k.ndim != 1 and _is_bool(k.dtype))
        for k in (key if isinstance(key, tuple) else (key,))
    )


def _is_bool(dtype: Any) -> bool:
    return str(dtype).rpartition(".")[2] == "bool"


def _genuine_key(key: Any, entries: Any) -> Any:
    """A key for the genuine array `entries`: lazy arrays computed, NumPy's made its library's."""
    if isinstance(key, tuple):
        return tuple(_genuine_key(k, entries) for k in key)
    key = genuine(key, "a[d]")
    if isinstance(key, np.ndarray) and not isinstance(entries, np.ndarray):
        return library_of(entries).asarray(key, device=entries.device)
    return key


def is_pairwise(node: Node) -> bool:
    """Is it virtual, and larger than the inputs?

    What takes no more memory than they do is computed when it is asked for, as the scores of a few
    components or a covariance are.
    """
    if type(node) is Broadcast:  # the library repeats an array without a copy, too
        return is_pairwise(node.args[0])
    if not expr.is_virtual(node):
        return False
    inputs = {id(n.array): nbytes(n) for n in expr.walk(node) if type(n) is Input}
    return nbytes(node) > sum(inputs.values())


def entries_of(what: str, node: Node) -> Any:
    """All entries as a genuine array, or the refusal in the name of `what`."""
    if type(node) is Broadcast and not is_pairwise(node):
        entries = entries_of(what, node.args[0])
        xp = np if isinstance(entries, np.ndarray) else library_of(entries)
        return xp.broadcast_to(entries, node.shape)
    if expr.is_virtual(node) and not is_pairwise(node):
        return evaluate.to_dense(settled(node))
    return all_entries(what, node)


# -- between Arrays, nodes and genuine arrays ------------------------------------------------------


def wrap_node(node: Node) -> Array:
    out = object.__new__(Array)
    out._node = node
    return out


def _leaf(array: Any, roles: str | None = None, bare: bool = False) -> Input:
    node = input_of(np.asarray(array) if isinstance(array, np.generic) else array, roles, bare)
    if type(array) is np.ndarray and node.array.base is array:
        node.source = array  # an array that nobody else has: no view of it is needed
    return node


def wrap(result: Any) -> Any:
    """A result with an Array for every lazy or genuine array in it.

    What was computed is bare: in expressions its axes have the roles of those they meet, as the
    axes of genuine arrays do.
    """
    if isinstance(result, Node):
        return wrap_node(result)
    if isinstance(result, LazyArray):
        return result if type(result) is Array else wrap_node(result._node)
    if isinstance(result, sorting.Ordered):
        return Ordered(result)
    if type(result) is flat.Flat:
        return Flat(result._node)
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return type(result)(*map(wrap, result))
    if isinstance(result, tuple | list):
        return type(result)(map(wrap, result))
    return wrap_node(_leaf(result, None, True)) if is_array(result) else result


class Ordered:
    """What sort and argsort give for a virtual array: its first or last k entries are Arrays."""

    __slots__ = ("_ordered",)

    def __init__(self, ordered: sorting.Ordered):
        self._ordered = ordered

    def __getitem__(self, key: Any) -> Any:
        return wrap(self._ordered[key])

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_ordered"), name)

    def __len__(self) -> int:
        return len(self._ordered)

    def __repr__(self) -> str:
        return repr(self._ordered)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self._ordered.__array__(dtype, copy)

    __iter__ = None
    __array_ufunc__ = None


class Flat(flat.Flat):
    """All entries of a virtual array in a row, for reductions over all of them.

    Code that wants to know whether an array is lazy looks at the first of them: an `Entry`.
    """

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, int | np.integer) or isinstance(key, bool):
            return wrap(super().__getitem__(key))
        place = np.unravel_index(range(self.size)[key], self._node.shape)
        out = object.__new__(Entry)
        out._node = indexing.getitem(self._node, tuple(int(k) for k in place))
        return out


class Entry(Array):
    """One entry of a flattened virtual array: a number if asked for, but no answer to `if`.

    So `array_api_compat.is_lazy_array` says yes of a virtual array.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        raise VirtualArrayError(
            f"bool(a) of an entry of a flattened virtual array, {describe(self._node)}, is not "
            "computed.\n  Index the array itself, as in bool(d[i, j])."
        )


def genuine(value: Any, what: str = "this") -> Any:
    """Arguments with a genuine array for every lazy one; `what` asks for them."""
    if type(value) is Array:
        return value._entries(what)
    if isinstance(value, LazyArray):
        entries = entries_of(what, value._node)
        return np.asarray(entries) if isinstance(entries, np.generic) else entries
    if type(value) is tuple or type(value) is list:
        return type(value)([genuine(v, what) for v in value])
    if type(value) is dict:
        return {k: genuine(v, what) for k, v in value.items()}
    return value


def nodes_in(value: Any) -> list[Node]:
    """The nodes of all lazy arrays in nested arguments."""
    if isinstance(value, LazyArray):
        return [value._node]
    inner = value.values() if isinstance(value, dict) else value
    return [n for v in inner for n in nodes_in(v)] if isinstance(value, tuple | list | dict) else []


def opened(value: Any) -> Any:
    """Arguments with a node for every lazy array."""
    if isinstance(value, LazyArray):
        node = value._node
        if type(node) is Input and node.bare:  # handlers look for a node that is not
            return Input(node.array, node.dtype, node.roles)
        return node
    if type(value) is tuple or type(value) is list:
        return type(value)(map(opened, value))
    if type(value) is dict:
        return {k: opened(v) for k, v in value.items()}
    return value


def bare_among(args: Sequence[Any]) -> list[Any]:
    """As `opened`, but bare inputs stay so if another operand is not bare."""
    nodes = [a._node if isinstance(a, LazyArray) else a for a in args]
    if any(isinstance(n, Node) and not n.bare for n in nodes):
        return nodes
    return [opened(a) for a in args]


def arrays_in(value: Any) -> Iterator[Any]:
    """The genuine arrays in nested arguments."""
    if isinstance(value, tuple | list | dict):
        for v in value.values() if isinstance(value, dict) else value:
            yield from arrays_in(v)
    elif is_array(value):
        yield value


# -- the library of genuine arrays -----------------------------------------------------------------


def library_of(array: Any) -> Any:
    """The namespace of a genuine array, through array-api-compat."""
    from array_api_compat import array_namespace

    return array_namespace(array)


def numpy_library() -> Any:
    import_whole("array_api_compat.numpy")
    import array_api_compat.numpy

    return array_api_compat.numpy


def theirs(xp: Any, value: Any) -> Any:
    """Arguments with the dtypes of the library `xp` for NumPy's."""
    if _is_dtype(value):
        ours = xp.__name__ == "array_api_compat.numpy"
        return value if ours else getattr(xp, np.dtype(value).name)
    if type(value) is dict:
        return {k: theirs(xp, v) for k, v in value.items()}
    return tuple(theirs(xp, v) for v in value) if type(value) is tuple else value


def _is_dtype(value: Any) -> bool:
    scalar = isinstance(value, type) and issubclass(value, np.generic)
    return scalar or isinstance(value, np.dtype)


def by_library(path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The answer of the genuine arrays' own library to the function `path`, "linalg.inv" say."""
    what = f"array_api.{path}(d)"
    args, kwargs = genuine(tuple(args), what), genuine(kwargs, what)
    arrays = list(arrays_in((args, kwargs)))
    xp = library_of(next((a for a in arrays if not isinstance(a, np.generic)), np.empty(0)))
    function = functools.reduce(getattr, path.split("."), xp)
    with np.errstate(all="ignore"):
        if path == "expm1" and isinstance(args[0], np.ndarray) and args[0].dtype.kind == "c":
            return _complex_expm1(args[0])
        return function(*theirs(xp, args), **theirs(xp, kwargs))


def _complex_expm1(z: np.ndarray) -> np.ndarray:
    """NumPy's own gives NaN for infinite real parts, where C99 and the standard say otherwise."""
    return np.where(np.isfinite(np.real(z)), np.expm1(z), np.exp(z) - 1)


# -- the kinds of functions ------------------------------------------------------------------------


def by_numpy(path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What we answer to NumPy's function of this name: a node, or a genuine array."""
    here: Any = np
    function = functools.reduce(getattr, path.split("."), here)
    if isinstance(function, np.ufunc):
        return numpy_functions.ufunc(function, "__call__", tuple(args), kwargs)
    return numpy_functions.function(function, tuple(args), kwargs)


def whole(path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """A function of whole arrays: of virtual ones a reduction, of others the library's own."""
    if type(args[0]) is Entry and path in ("any", "all"):
        return args[0]
    if any(is_pairwise(n) for n in nodes_in((args, kwargs))):
        return wrap(by_numpy(path, bare_among(args), opened(kwargs)))
    return wrap(by_library(path, args, kwargs))


def view(path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """A function that only moves entries: recorded, so that axes keep their roles."""
    return wrap(by_numpy(path, [_kept(a) for a in args], kwargs))


def _kept(a: Any) -> Any:
    return a._node if isinstance(a, LazyArray) else node_of(a) if is_array(a) else a


def joint(path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """A function entry by entry: recorded where the result is virtual, else the library's own."""
    return _entrywise(by_numpy, by_library, path, args, kwargs)


ALSO = {"psi": "digamma"}  # where SciPy has two names


def special_row(name: str) -> ops.Op:
    """The row of a function of scipy.special."""
    return next(op for op in ops.TABLE if op.scipy == ALSO.get(name, name))


def special(path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """As `joint`, for the row of the operation table that has this name in SciPy."""
    op = special_row(path.rpartition(".")[2])

    def record(path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Node:
        return ops.apply(op, *map(node_of, args))

    def compute(path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        entries = genuine(tuple(args), f"array_api.{path}(d)")
        return op.dense(library_of(next(arrays_in(entries), np.empty(0))), *entries)

    return _entrywise(record, compute, path, args, kwargs)


def _entrywise(
    record: Callable, compute: Callable, path: str, args: Sequence[Any], kwargs: dict[str, Any]
) -> Any:
    nodes = nodes_in((args, kwargs))
    _same_libraries(nodes, (args, kwargs))
    virtual = any(expr.is_virtual(n) for n in nodes)
    try:
        recorded = record(path, _opened_joint(args), opened(kwargs))
    except RoleError:
        if virtual:
            raise
        if _one_has_all(nodes, (args, kwargs)):
            return wrap(compute(path, args, kwargs))
        if not all(n.bare for n in nodes):
            raise
        recorded = record(path, _one_opened(args), opened(kwargs))
    if virtual or not isinstance(recorded, Node) or expr.is_virtual(recorded):
        return wrap(recorded)
    if math.prod(recorded.shape) > max(map(_size, nodes), default=0):
        return wrap(recorded)  # small arrays that make a large one may be part of a larger formula
    value = compute(path, args, kwargs)
    return wrap_node(_leaf(value, recorded.roles, recorded.bare or all(n.bare for n in nodes)))


def _opened_joint(args: Sequence[Any]) -> list[Any]:
    if len(args) == 1 and isinstance(args[0], tuple | list):  # concat, stack
        return [bare_among(args[0])]
    return bare_among(args)


def _one_opened(args: Sequence[Any]) -> list[Any]:
    """As `opened` for the operand with most axes; the others' axes have the roles that it says."""
    if len(args) == 1 and isinstance(args[0], tuple | list):
        return [_one_opened(args[0])]
    most = max(range(len(args)), key=lambda k: getattr(args[k], "ndim", 0))
    return [opened(a) if k == most else _kept(a) for k, a in enumerate(args)]


def _size(node: Node) -> int:
    return math.prod(node.shape)


def _one_has_all(nodes: Sequence[Node], given: Any) -> bool:
    """Has one operand the shape of the result?"""
    shapes = [n.shape for n in nodes] + [tuple(a.shape) for a in arrays_in(given)]
    return np.broadcast_shapes(*shapes) in shapes


def _same_libraries(nodes: Sequence[Node], given: Any) -> None:
    if not nodes:
        return
    for a in arrays_in(given):
        if isinstance(a, LazyArray):
            if type(a._node) is Input and type(nodes[0]) is Input:
                same_library(nodes[0], a._node.array)
        elif not isinstance(a, np.generic):
            same_library(nodes[0], a)


def paired(path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """vecdot and cross: recorded where the product of the two arrays is virtual."""
    try:
        recorded = joint("multiply", args, {})
    except RoleError:
        return joint(path, args, kwargs)
    if expr.is_virtual(recorded._node):
        return wrap(by_numpy(path, bare_among(args), kwargs))
    return wrap(by_library(path, args, kwargs))


def product(path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """A contraction: lazy where both operands leave a point axis that the other does not span."""
    x1, x2 = (a if isinstance(a, LazyArray) else wrap(a) for a in args)
    if not isinstance(x1, LazyArray) or not isinstance(x2, LazyArray):
        raise TypeError(f"{path} takes two arrays.")
    virtual = expr.is_virtual(x1._node) or expr.is_virtual(x2._node)
    if virtual or all(_leaves_points(path, n, kwargs) for n in ((x1, 0), (x2, 1))):
        return wrap(by_numpy(path, bare_among((x1, x2)), kwargs))
    return wrap(by_library(path, (x1, x2), kwargs))


def _leaves_points(path: str, operand: tuple[LazyArray, int], kwargs: dict[str, Any]) -> bool:
    """Has this operand of a contraction a point axis that is neither summed nor shared?"""
    x, place = operand
    return any(
        x._node.roles[a] == expr.POINT and x.shape[a] != 1
        for a in _free(path.rpartition(".")[2], x.ndim, place, kwargs)
    )


def _free(name: str, ndim: int, place: int, kwargs: dict[str, Any]) -> Sequence[int]:
    if name == "matmul":
        return () if ndim < 2 else (ndim - 2,) if place == 0 else (ndim - 1,)
    if name == "outer":
        return range(ndim)
    axes = kwargs.get("axes", 2)  # tensordot
    if isinstance(axes, int):
        return range(ndim - axes) if place == 0 else range(axes, ndim)
    summed = [a % ndim for a in axes[place]] if ndim else []
    return [a for a in range(ndim) if a not in summed]


# -- operators -------------------------------------------------------------------------------------


def _is_other(other: Any) -> bool:
    return isinstance(other, LazyArray) or type(other) in NUMBERS or is_array(other)


def _binary(name: str, swapped: bool = False, kind: Callable = joint) -> Callable:
    def operator(self: Array, other: Any, /) -> Any:
        if not _is_other(other):
            return NotImplemented
        return kind(name, (other, self) if swapped else (self, other), {})

    return operator


def _unary(name: str) -> Callable:
    def operator(self: Array, /) -> Any:
        return joint(name, (self,), {})

    return operator


def _in_place(name: str, kind: Callable = joint) -> Callable:
    def operator(self: Array, other: Any, /) -> Any:
        if not _is_other(other):
            return NotImplemented
        out = kind(name, (self, other), {})
        if out.shape != self.shape:
            raise ValueError(
                f"an operation in place would change the shape of a from {self.shape} "
                f"to {out.shape}.\n  Write a = a + b instead of a += b."
            )
        if out.dtype == self.dtype:
            return out
        raise TypeError(
            f"an operation in place would change the dtype of a from {self.dtype.name} "
            f"to {out.dtype.name}.\n  Write a = a + b instead of a += b."
        )

    return operator


def _closed(name: str, method: Callable) -> Callable:
    @functools.wraps(method)
    def closed(self: Array, *args: Any, **kwargs: Any) -> Any:
        return wrap(method(wrap_node(opened(self)), *args, **kwargs))

    return closed


def _add(name: str, function: Callable) -> None:
    function.__name__, function.__qualname__ = name, f"Array.{name}"
    setattr(Array, name, function)


# what gives no array, or is the same for all lazy arrays
_OUT = {"to_device", "to_dense", "source", "explain", "estimate", "item", "tolist"}


def _add_operators() -> None:
    for short, name in (BINARY | COMPARE | {"pow": "pow"}).items():
        _add(f"__{short}__", _binary(name))
        if short not in COMPARE:
            _add(f"__r{short}__", _binary(name, swapped=True))
            _add(f"__i{short}__", _in_place(name))
    for short, name in UNARY.items():
        _add(f"__{short}__", _unary(name))
    _add("__matmul__", _binary("matmul", kind=product))
    _add("__rmatmul__", _binary("matmul", swapped=True, kind=product))
    _add("__imatmul__", _in_place("matmul", kind=product))
    for name in dir(NumpyLazyArray):
        method = getattr(NumpyLazyArray, name)
        own = name.startswith("_") or name in _OUT or name in vars(Array)
        if isinstance(method, types.FunctionType) and not own:
            _add(name, _closed(name, method))
    Array.__hash__ = object.__hash__  # type: ignore[method-assign]


_add_operators()


def library_name(node: Node) -> str:
    """The library whose arrays an expression reads."""
    return library(leading_input(node).array)


def loaded(name: str) -> Any:
    """The namespace of an imported library of this name, through array-api-compat."""
    if name == "numpy":
        return numpy_library()
    module = sys.modules[name]
    return library_of(module.zeros(1)) if name in ("torch", "cupy") else module
