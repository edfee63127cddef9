"""LazyArray: an array expression over pairs of rows, which looks like an array and stores nothing.

The class wraps one node. Operators, methods and NumPy's functions record more nodes; the first
reduction that leaves something storable is computed, and gives a genuine array of the inputs'
library.
"""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from duckkeops import (
    contractions,
    display,
    elementwise,
    evaluate,
    explain,
    expr,
    flat,
    indexing,
    numpy_functions,
    ops,
    pickling,
    shapes,
)
from duckkeops.errors import UnsupportedAttributeError, UnsupportedError
from duckkeops.expr import Input, Node
from duckkeops.genuine import all_entries, settled
from duckkeops.importing import import_whole
from duckkeops.numpy_table import METHODS
from duckkeops.operands import (
    NUMBERS,
    describe,
    device_of,
    input_of,
    is_array,
    is_cupy_type,
    leading_input,
    library,
    nbytes,
    node_of,
    same_library,
    units,
    unsupported,
)
from duckkeops.restriction import BlockPairs, restricted
from duckkeops.rewrite import retag, settle
from duckkeops.tensors import copied, is_own_tensor, is_traced

GIB = 2**30


class LazyArray:
    """`x` as a lazy array: expressions of it over pairs of rows take no memory, and their
    reductions are compiled.

    x             an array of any array-API library, a number, or a lazy array
    feature_ndim  how many trailing axes are features; by default the last one of two or more
                  axes; 0 for scalars on a grid, 2 for a matrix at each point
    batch_ndim    how many leading axes are batches; by default all before the last two points

    An operation between lazy arrays, or with arrays and numbers, is lazy. A reduction over point or
    batch axes is evaluated into a genuine array as soon as one input spans the point axes that are
    left. Raises TypeError for lists, strings, dates and objects, ShapeError for numbers of axes
    that do not fit.

    Its methods are those of NumPy's arrays, and more; `help(type(d))` shows them all:

    reductions       sum, prod, min, max, argmin, argmax, mean, var, std, any, all, count_nonzero,
                     ptp, average, median, quantile, histogram, logsumexp, nansum and its kin
    some of a row    topk, argtopk, argsort (to be sliced), take, take_along_axis, diagonal
    entry by entry   exp, log, sqrt, square, abs, clip, where, round, isclose, astype ... ; softmax,
                     log_softmax
    products         @, dot, inner, tensordot, vecdot, softmax_sum
    axes             T, mT, transpose, swapaxes, moveaxis, reshape, ravel, squeeze, expand_dims,
                     broadcast_to, flip, repeat
    looking at it    shape, dtype, roles, explain, estimate, source, to_dense

    >>> import numpy as np
    >>> x, y = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 1.0], [2.0, 2.0], [5.0, 5.0]])
    >>> d = ((LazyArray(x)[:, None, :] - LazyArray(y)[None, :, :]) ** 2).sum(-1)
    >>> d.shape, d.dtype
    ((2, 3), dtype('float64'))
    >>> np.argmin(d, axis=1)
    array([0, 0])
    """

    __slots__ = ("__weakref__", "_node")
    _node: Node

    def __new__(
        cls, x: Any, feature_ndim: int | None = None, batch_ndim: int | None = None
    ) -> LazyArray:
        default = feature_ndim is None and batch_ndim is None
        if default and type(x) is np.ndarray:  # the common case
            return _wrap(NumpyLazyArray if cls is LazyArray else cls, input_of(x))
        if default and cls is LazyArray and is_own_tensor(x) and "torch" in FAMILIES:
            return _wrap(FAMILIES["torch"], input_of(x))
        if is_traced(x):
            from duckkeops.torch_compile import traced

            return traced(x, feature_ndim, batch_ndim)
        if isinstance(x, LazyArray):
            if default:
                return x
            return _wrap(
                type(x), retag(x._node, expr.default_roles(x.ndim, feature_ndim, batch_ndim))
            )
        if type(x) in NUMBERS:
            x = np.asarray(x)
        if not is_array(x):
            raise TypeError(
                f"LazyArray takes an array, and got {_article(x)}.\n"
                "  Make an array of it first: numpy.asarray(x)."
            )
        if cls is LazyArray:
            cls = _family(x)
        roles = None if default else expr.default_roles(x.ndim, feature_ndim, batch_ndim)
        return _wrap(cls, input_of(x, roles))

    # -- what is known without computing

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self._node.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self._node.shape)

    @property
    def dtype(self) -> Any:
        """What each entry is."""
        return self._node.dtype

    @property
    def itemsize(self) -> int:
        """Bytes of one entry."""
        return self._node.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes that all entries would take, were they stored."""
        return nbytes(self._node)

    @property
    def device(self) -> Any:
        """Where the inputs lie."""
        return device_of(self._node)

    @property
    def roles(self) -> tuple[str, ...]:
        """What each axis is: "batch", "point", "feature" or "neutral".

        A neutral axis is one of length 1, which may become any.
        """
        return tuple(expr.ROLE_NAMES[r] for r in self._node.roles)

    def __len__(self) -> int:
        if not self._node.shape:
            raise TypeError("len() of unsized object")
        return self._node.shape[0]

    __hash__ = object.__hash__

    # -- looking at it

    def __repr__(self) -> str:
        return "\n".join(display.lines(self._node))

    def __format__(self, spec: str) -> str:
        if not spec:
            return str(self)
        if self.ndim:
            raise TypeError(
                f"the format {spec!r} is for one number, and d: {describe(self._node)} has "
                f"{self.ndim} axes.\n  Format one entry, f'{{d[0, 0]:{spec}}}', or a reduction."
            )
        one = all_entries(f"format(d, {spec!r})", self._node)
        number = {"b": bool, "c": complex, "f": float}.get(self.dtype.kind, int)
        return format(number(one), spec)

    def _repr_latex_(self) -> str:
        import_whole("duckkeops.latex")  # which imports SymPy
        from duckkeops.latex import latex

        return "$\\displaystyle " + latex(settle(self._node, None)).strip("$") + "$"

    def _repr_html_(self) -> str:
        return display.html(self._node, self._repr_latex_())

    def source(self, generated: bool = False) -> str:
        """The C of the kernel; of a virtual array, that of its sum over the last point axis.

        generated  only what was written for this formula, about a hundred lines, which includes the
                   other files by name; else all that the compiler gets, some 2000 lines

        >>> D = ((LazyArray(np.zeros((1000, 1, 3))) - np.zeros((1, 2000, 3))) ** 2).sum(-1)
        >>> D.source(generated=True).splitlines()[0]
        '// sum over j of sum_d((x0[i,d] - x1[j,d])**2)'
        """
        return explain.source_of(settle(self._node, None), generated)

    def explain(self) -> str:
        """The formula, what each axis is, the loops, the tile and the number of pairs, a line each.

        For a virtual array they are those of its sum over the last point axis.

        >>> D = ((LazyArray(np.zeros((1000, 1, 3))) - np.zeros((1, 2000, 3))) ** 2).sum(-1)
        >>> print("\\n".join(D.explain().splitlines()[:3]))
        sum over j of sum_d((x0[i,d] - x1[j,d])**2)
        axes       1000 points, 2000 points (reduced)
        loops      1000 rows, each over 2000 columns
        """
        return explain.explain(settle(self._node, None))

    def estimate(self) -> Any:
        """Pairs, seconds and bytes of inputs and result, before anything is computed.

        Of a virtual array, for its sum over the last point axis. The seconds are those of this
        machine, when nothing else runs on it: a part is compiled and computed, for some
        milliseconds. Raises what the reduction itself would raise.

        >>> x = np.zeros((1000, 1, 3)), np.zeros((1, 2000, 3))
        >>> D = ((LazyArray(x[0]) - x[1]) ** 2).sum(-1)
        >>> D.estimate().pairs, D.estimate().bytes, 0 < D.estimate().seconds < 1
        (2000000, 80000, True)
        """
        return explain.estimate(settle(self._node, None))

    def restrict(self, kept: BlockPairs, axes: tuple[int, int] | None = None) -> LazyArray:
        """The same array over some blocks of its pairs: reductions pass over the others, and cost
        as much as the pairs that are kept.

        `kept` says which (see `BlockPairs`), along two axes: by default the last two point axes.
        Expressions of a restricted array are restricted, too. A row that keeps no pair has the
        reduction's value over nothing: 0 as a sum, inf as a minimum and 0 as its place, -inf as a
        logsumexp, NaN as a softmax, -1 for places of a top-k.

        Reductions: sum, prod, min, max, argmin, argmax, top-k, logsumexp, weighted softmax, any,
        all, count_nonzero and products `@`; others raise UnsupportedError. Raises ShapeError for
        pairs of another shape.

        >>> kept = BlockPairs([[True, False], [False, True]], [0, 1, 3], [0, 2, 4])
        >>> x, y = LazyArray(np.arange(3.0)), LazyArray(np.arange(4.0))
        >>> ((x[:, None] - y) ** 2).restrict(kept) @ np.ones(4)
        array([1., 5., 1.])
        """
        if not isinstance(kept, BlockPairs):
            raise TypeError(
                f"restrict got a {type(kept).__name__}.\n"
                "  Pass duckkeops.BlockPairs(mask, rows, columns)."
            )
        return _wrap(type(self), restricted(self._node, kept, axes))

    def to_device(self, device: Any, /, stream: Any = None) -> LazyArray:
        """The same array with its input on `device`; of an expression only where it lies already.

        Raises ValueError for another device of an expression, or of NumPy's arrays.
        """
        if self.device == device:
            return self
        node = self._node
        if not isinstance(node, expr.Input):
            raise ValueError(
                f"to_device({device!r}): d: {describe(node)} is an expression of inputs on "
                f"{self.device!r}.\n  Move the inputs before you combine them."
            )
        if isinstance(node.array, np.ndarray):
            raise ValueError(f"NumPy's arrays are on the device 'cpu', and not on {device!r}.")
        array = node.array.to_device(device, stream=stream)
        return _wrap(type(self), expr.Input(array, node.dtype, node.roles, node.bare))

    # -- all entries

    def to_dense(self, max_bytes: int = GIB) -> Any:
        """All entries, as a genuine array: the one door out of a virtual array.

        Raises MemoryError if they take more than `max_bytes` bytes (1 GiB by default).
        """
        size = self.nbytes
        if size > max_bytes:
            raise MemoryError(
                f"to_dense() needs {units(size)} for {describe(self._node)}; "
                f"the limit is {units(max_bytes)}.\n"
                "  A reduction needs no such array: d.sum(axis=1), d.argmin(axis=1), d @ b.\n"
                f"  If you do need it, raise the limit: d.to_dense(max_bytes={size})."
            )
        node = settled(self._node)
        dense = evaluate.to_dense(node)
        return copied(dense) if isinstance(node, Input) else dense

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        entries = all_entries("numpy.asarray(d)", self._node)
        return np.array(entries, dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        return all_entries("from_dlpack(d)", self._node).__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return all_entries("from_dlpack(d)", self._node).__dlpack_device__()

    def __array_namespace__(self, /, *, api_version: str | None = None) -> Any:
        """The array-API namespace of lazy arrays, `duckkeops.array_api`.

        Its functions take lazy and genuine arrays, and give lazy ones.
        """
        return sys.modules["duckkeops.array_api"].namespace(self, api_version)

    def __bool__(self) -> bool:
        return bool(all_entries("bool(d)", self._node))

    def __float__(self) -> float:
        return float(all_entries("float(d)", self._node))

    def __int__(self) -> int:
        return int(all_entries("int(d)", self._node))

    def __complex__(self) -> complex:
        return complex(all_entries("complex(d)", self._node))

    def __index__(self) -> int:
        return all_entries("operator.index(d)", self._node).__index__()

    def __iter__(self) -> Iterator[Any]:
        return iter(all_entries("iterating over d", self._node))

    def __contains__(self, x: Any) -> bool:
        return x in all_entries("x in d", self._node)

    # -- indexing

    def __getitem__(self, key: Any) -> Any:
        seen = indexing.plain_view(self._node, key)
        if seen is not None:  # mostly
            return _wrap(type(self), seen)
        return _wrapped(type(self), indexing.getitem(self._node, _opened(key)))

    def __setitem__(self, key: Any, value: Any) -> None:
        raise UnsupportedError(
            f"a lazy array cannot be changed: d[...] = value on d: {describe(self._node)}.\n"
            "  Make a new one: d = numpy.where(mask, value, d), "
            "or change the inputs before you wrap them."
        )

    # -- copies

    def __copy__(self) -> LazyArray:
        return _wrap(type(self), elementwise.copy(self._node))

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (type(self), pickling.flat(self._node))

    # -- matrix products, powers, pairs of results

    def __matmul__(self, other: Any) -> Any:
        node = _operand(self, other)
        return (
            node
            if node is NotImplemented
            else _wrapped(type(self), contractions.matmul(self._node, node))
        )

    def __rmatmul__(self, other: Any) -> Any:
        node = _operand(self, other)
        return (
            node
            if node is NotImplemented
            else _wrapped(type(self), contractions.matmul(node, self._node))
        )

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        if type(other) is int and other == 2 and self.dtype == np.bool:
            return _wrap(type(self), ops.call("square", self._node))  # int8, as NumPy's operator
        return _no_modulo(modulo) or _forward(_POW, self, other)

    def __rpow__(self, other: Any, modulo: Any = None) -> Any:
        return _no_modulo(modulo) or _backward(_POW, self, other)

    def __divmod__(self, other: Any) -> Any:
        node = _operand(self, other)
        return (
            node if node is NotImplemented else _wrapped(type(self), ops.divmod(self._node, node))
        )

    def __rdivmod__(self, other: Any) -> Any:
        node = _operand(self, other)
        return (
            node if node is NotImplemented else _wrapped(type(self), ops.divmod(node, self._node))
        )

    # -- NumPy's protocols

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        op = ops.BY_FUNCTION.get(ufunc)
        if op is not None and method == "__call__" and not kwargs:  # the common case
            if op.nargs == 1 == len(inputs):
                return _wrap(type(self), ops.unary(op, self._node))
            nodes = [a._node if isinstance(a, LazyArray) else _operand(self, a) for a in inputs]
            if NotImplemented not in nodes:
                return _wrap(type(self), ops.apply(op, *nodes))
        inputs = tuple(np.asarray(a) if isinstance(a, list | tuple) else a for a in inputs)
        if not all(isinstance(a, LazyArray) or _is_operand(a) for a in inputs):
            return NotImplemented
        for a in inputs:
            if not isinstance(a, LazyArray) and type(a) not in NUMBERS and is_array(a):
                same_library(self._node, a)
        return _wrapped(
            type(self), numpy_functions.ufunc(ufunc, method, _opened(inputs), _opened(kwargs))
        )

    def __array_function__(
        self, func: Callable, types: Any, args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        if not all(
            t is np.ndarray  # before np.ma is asked, which takes 12 ms to load
            or issubclass(t, LazyArray)
            or (issubclass(t, np.ndarray) and not issubclass(t, np.matrix | np.ma.MaskedArray))
            or is_cupy_type(t)
            for t in types
        ):
            return NotImplemented
        return _wrapped(type(self), numpy_functions.function(func, _opened(args), _opened(kwargs)))


def _article(x: Any) -> str:
    name = type(x).__name__
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _unpickled(cls: type, records: list) -> LazyArray:
    return _wrap(cls, pickling.rebuilt(records))


def _no_modulo(modulo: Any) -> None:
    if modulo is not None:
        raise UnsupportedError("pow(d, y, modulo) has no pairwise form.\n  Write d**y % modulo.")


# -- from lazy arrays to nodes and back ------------------------------------------------------------


def _wrap(cls: type, node: Node) -> Any:
    out = object.__new__(cls)
    out._node = node
    return out


def _wrapped(cls: type, result: Any) -> Any:
    """A handler's result with every node a lazy array."""
    if isinstance(result, Node):
        return _wrap(cls, result)
    if type(result) is tuple or type(result) is list:
        return type(result)([_wrapped(cls, r) for r in result])
    return result


elementwise.set_wrap(lambda node: _wrap(_family(leading_input(node).source), node))


def _opened(value: Any) -> Any:
    """Arguments with a node for every lazy array, in tuples, lists and dictionaries too."""
    if isinstance(value, LazyArray):
        return value._node
    if type(value) is tuple or type(value) is list:
        return type(value)([v if type(v) in _CLOSED else _opened(v) for v in value])
    if type(value) is dict:
        return {k: _opened(v) for k, v in value.items()}
    return value


_CLOSED = {int, float, slice, type(None), type(...), np.ndarray}  # hold no lazy arrays


def _is_operand(x: Any) -> bool:
    return type(x) in NUMBERS or is_array(x)


def _operand(self: LazyArray, other: Any) -> Any:
    """The other operand of an operator as a node; NotImplemented for what is no array of ours."""
    if isinstance(other, LazyArray):
        return other._node
    if type(other) in NUMBERS:
        return node_of(other)
    if not is_array(other):
        return NotImplemented
    same_library(self._node, other)
    return input_of(other, bare=True)


def _forward(op: ops.Op, self: LazyArray, other: Any) -> Any:
    node = other._node if isinstance(other, LazyArray) else _operand(self, other)
    return node if node is NotImplemented else _wrap(type(self), ops.binary(op, self._node, node))


def _backward(op: ops.Op, self: LazyArray, other: Any) -> Any:
    node = _operand(self, other)
    return node if node is NotImplemented else _wrap(type(self), ops.binary(op, node, self._node))


# -- operators -------------------------------------------------------------------------------------

_POW = ops.ROWS["pow"]
BINARY = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "bitwise_left_shift",
    "rshift": "bitwise_right_shift",
}
COMPARE = {
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "eq": "equal",
    "ne": "not_equal",
}
UNARY = {"neg": "negative", "pos": "positive", "abs": "abs", "invert": "bitwise_invert"}
_TWO = (*BINARY, "matmul", "pow", "divmod")
OPERATORS = {f"__{n}__" for n in (*_TWO, *(f"r{n}" for n in _TWO), *COMPARE, *UNARY, "getitem")}


def _binary(op: ops.Op) -> Callable:
    binary = ops.binary

    def operator(self: LazyArray, other: Any) -> Any:
        if isinstance(other, LazyArray):
            node = other._node
        else:
            node = _operand(self, other)
            if node is NotImplemented:
                return node
        return _wrap(type(self), binary(op, self._node, node))

    return operator


def _reflected(op: ops.Op) -> Callable:
    def operator(self: LazyArray, other: Any) -> Any:
        return _backward(op, self, other)

    return operator


def _comparison(op: ops.Op) -> Callable:
    def operator(self: LazyArray, other: Any) -> Any:
        if isinstance(other, list | tuple):
            raise TypeError(
                f"cannot compare a lazy array with a {type(other).__name__}.\n"
                "  Make an array of it first: numpy.asarray(...)."
            )
        return _forward(op, self, other)

    return operator


def _unary(op: ops.Op) -> Callable:
    def operator(self: LazyArray) -> Any:
        return _wrap(type(self), ops.unary(op, self._node))

    return operator


def _add(cls: type, name: str, function: Callable, doc: str | None = None) -> None:
    function.__name__, function.__qualname__ = name, f"{cls.__name__}.{name}"
    if doc is not None:
        function.__doc__ = doc
    setattr(cls, name, function)


def _add_operators() -> None:
    for short, name in BINARY.items():
        _add(LazyArray, f"__{short}__", _binary(ops.ROWS[name]))
        _add(LazyArray, f"__r{short}__", _reflected(ops.ROWS[name]))
    for short, name in COMPARE.items():
        _add(LazyArray, f"__{short}__", _comparison(ops.ROWS[name]))
    for short, name in UNARY.items():
        _add(LazyArray, f"__{short}__", _unary(ops.ROWS[name]))


_add_operators()
LazyArray.__hash__ = object.__hash__  # type: ignore[method-assign]


# -- the family of NumPy ---------------------------------------------------------------------------


class NumpyLazyArray(LazyArray):
    """A lazy array with NumPy's methods, over arrays of NumPy or of any other array-API library
    but torch.
    """

    __slots__ = ()

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self._node.shape)

    @property
    def T(self) -> LazyArray:
        """The axes in reverse order."""
        return _wrap(type(self), shapes.transpose(self._node))

    @property
    def mT(self) -> LazyArray:
        """The last two axes swapped."""
        return _wrap(type(self), shapes.matrix_transpose(self._node))

    @property
    def H(self) -> LazyArray:
        """The conjugate transpose."""
        return self.adjoint()

    @property
    def real(self) -> LazyArray:
        """The real parts."""
        return _wrap(type(self), elementwise.real(self._node))

    @property
    def imag(self) -> LazyArray:
        """The imaginary parts; 0 for real arrays."""
        return _wrap(type(self), elementwise.imag(self._node))

    @property
    def flat(self) -> Any:
        """Refused: entries are not stored."""
        remedy = "Take entries by their flat index: d.ravel()[k]."
        raise UnsupportedAttributeError(*unsupported("d.flat", self._node, remedy).args)

    def adjoint(self) -> LazyArray:
        """The conjugate transpose, as SciPy's linear operators have it."""
        node = ops.call("conj", self._node) if self.dtype.kind == "c" else self._node
        return _wrap(type(self), shapes.matrix_transpose(node))

    def transpose(self, *axes: Any) -> LazyArray:
        """The axes in another order; reversed if none is given."""
        order = (
            axes[0]
            if len(axes) == 1 and not isinstance(axes[0], int | np.integer)
            else axes or None
        )
        return _wrap(type(self), shapes.transpose(self._node, order))

    def reshape(self, *shape: Any, order: str = "C", copy: bool | None = None) -> Any:
        """Another shape: axes of length 1 come and go, axes are split, feature axes are merged.

        reshape(-1) of a virtual array is to be reduced: d.reshape(-1).mean().
        """
        given = shape[0] if len(shape) == 1 else shape
        return _wrapped(type(self), flat.reshape(self._node, given, order, copy=copy))

    def where(self, condition: Any, other: Any) -> LazyArray:
        """The entries where the condition holds, else those of `other`."""
        return _wrap(type(self), elementwise.where(_opened(condition), self._node, _opened(other)))

    def matvec(self, x: Any) -> Any:
        """d @ x, for a vector x: (M, N), (N,) -> (M,)."""
        return self @ x

    def matmat(self, x: Any) -> Any:
        """d @ x, for a matrix x: (M, N), (N, K) -> (M, K)."""
        return self @ x

    def rmatvec(self, x: Any) -> Any:
        """The conjugate transpose times x: (M, N), (M,) -> (N,)."""
        return self.adjoint() @ x

    def rmatmat(self, x: Any) -> Any:
        """The conjugate transpose times x: (M, N), (M, K) -> (N, K)."""
        return self.adjoint() @ x

    def item(self, *index: Any) -> Any:
        """The one entry, as a Python number."""
        return all_entries("d.item()", self._node).item(*index)

    def tolist(self) -> Any:
        """The entries as nested lists of Python numbers."""
        return all_entries("d.tolist()", self._node).tolist()

    def flatten(self, order: str = "C") -> Any:
        """All axes as one: of a virtual array for a reduction, as `ravel` gives it."""
        return _wrapped(type(self), flat.ravel(self._node, order))

    def sort(self, *args: Any, **kwargs: Any) -> None:
        """Refused: a lazy array is immutable."""
        raise unsupported(
            "sorting in place",
            self._node,
            "Take the first entries of numpy.sort(d, axis=1)[:, :k].",
        )

    partition = sort

    def nonzero(self) -> Any:
        """The positions of true entries, of an array that is not virtual."""
        return numpy_functions.function(np.nonzero, (self._node,), {})


def _spelled(kwargs: dict[str, Any]) -> dict[str, Any]:
    """dim= and keepdim= under NumPy's names."""
    for theirs, ours in (("dim", "axis"), ("keepdim", "keepdims")):
        if theirs in kwargs:
            if ours in kwargs and ours == "keepdims":
                raise TypeError(f"{ours}= and {theirs}= mean the same; give one of them.")
            kwargs[ours] = kwargs.pop(theirs)
    return kwargs


def _method(handler: Callable) -> Callable:
    def method(self: LazyArray, *args: Any, **kwargs: Any) -> Any:
        if args:
            args = _opened(args)
        if kwargs:
            kwargs = _opened(_spelled(kwargs))
        return _wrapped(type(self), handler(self._node, *args, **kwargs))

    method.__doc__ = handler.__doc__
    method.__wrapped__ = _Shown(handler)  # type: ignore[attr-defined]
    return method


def _row_method(op: ops.Op) -> Callable:
    alone = op.nargs == 1

    def method(self: LazyArray, *others: Any, **options: Any) -> Any:
        if alone and not others and not options:
            return _wrap(type(self), ops.unary(op, self._node))
        return _wrapped(
            type(self), elementwise.elementwise(op, self._node, *_opened(others), **options)
        )

    method.__wrapped__ = _Shown(op)  # type: ignore[attr-defined]
    return method


_PLAIN = ("int", "int | None", "bool", "float", "str")  # as annotations are kept: in words


class _Shown:
    """What inspect finds behind a method: the signature that help() shows, which is that of the
    handler or row without the types that we work with.

    It is made when it is asked for, so that the import need not make those of all methods.
    """

    def __init__(self, answers: Any):
        self._answers = answers

    @property
    def __signature__(self) -> inspect.Signature:
        one = inspect.Parameter
        if isinstance(self._answers, ops.Op):
            names = self._answers.form.__code__.co_varnames[2 : self._answers.nargs + 1]
            kind, others = one.POSITIONAL_ONLY, [one(n, one.POSITIONAL_ONLY) for n in names]
            others.append(one("dtype", one.KEYWORD_ONLY, default=None))
        else:
            first, *others = inspect.signature(self._answers).parameters.values()
            kind = first.kind
        plain = (p if p.annotation in _PLAIN else p.replace(annotation=one.empty) for p in others)
        return inspect.Signature([one("self", kind), *plain])


def _add_methods(cls: type) -> None:
    """A method for each row of the tables, under each of its names."""
    own = vars(cls)
    for op in ops.TABLE:
        also = [a for a in op.aliases if isinstance(a, str)]
        for name in (op.name, *also):
            if name not in own and name not in METHODS:
                _add(cls, name, _row_method(op), _row_doc(op, name))
    for name, composite in ops.COMPOSITES.items():
        if name not in own and name not in METHODS and name != "select":
            _add(
                cls, name, _method(composite), composite.__doc__ or f"{name} of each entry, lazily."
            )
    for name, handler in METHODS.items():
        _add(cls, name, _method(handler))


def _row_doc(op: ops.Op, name: str) -> str:
    source = (
        f"numpy.{op.numpy.__name__}"
        if op.numpy is not None
        else f"scipy.special.{op.scipy}"
        if op.scipy
        else f"torch.{op.torch}"
        if op.torch
        else ""
    )
    others = (
        "" if op.nargs == 1 else f" and {op.nargs - 1} more argument{'s' if op.nargs > 2 else ''}"
    )
    return f"{op.name} of each entry{others}, lazily" + (f"; as {source}." if source else ".")


_add_methods(NumpyLazyArray)

FAMILIES: dict[str, type[LazyArray]] = {
    "numpy": NumpyLazyArray,
    "cupy": NumpyLazyArray,
}  # other libraries: as NumPy


def _family(x: Any) -> type[LazyArray]:
    """The class for the arrays of one library; methods differ between libraries."""
    if type(x) is np.ndarray:
        return NumpyLazyArray
    name = library(x)
    if name == "torch" and name not in FAMILIES:  # it stands above this file, and imports torch
        importlib.import_module("duckkeops.torch_array")
    return FAMILIES.get(name, NumpyLazyArray)
