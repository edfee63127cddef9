"""KeOps's LazyTensor: a formula, the arrays of its variables, and KeOps's conventions of shapes.

Axes are (..., M, N, D). The last one is kept when it is reduced, results over i or j keep it too,
and `|` is the scalar product.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np

import duckkeops
from duckkeops import LazyArray
from duckkeops.keops.counting import count_call
from duckkeops.keops.formulas import (
    VAR,
    Formula,
    Variable,
    apply,
    constant,
    factor,
    replaced,
    structure,
    text,
    unfolded,
    value,
    variables,
)
from duckkeops.keops.libraries import Library
from duckkeops.keops.reducing import Sizes, answered, canonical, options, pairs_of, written

FLOATS = (float, np.floating)
COMPLEX = {  # the rows of complex numbers
    "Add": "ComplexAdd",
    "Subtract": "ComplexSubtract",
    "Mult": "ComplexMult",
    "Divide": "ComplexDivide",
}


OF_COMPLEX = {  # rows that complex numbers have, too
    *("Var", "IntCst", "Number", "Minus", "Inv", "Square", "Sqrt", "Rsqrt", "Pow", "Powf", "Log"),
    *("XLogX", "Cos", "Sin", "SinXDivX", "Asin", "Acos", "Atan", "Sign", "Extract", "Concat"),
    *("Factorize", "AutoFactorize", "Conj", "Real2Complex", "Imag2Complex"),
    *(f"Complex{name}" for name in ("Real", "Imag", "Abs", "Angle", "Sum", "Exp", "Exp1j")),
    *(f"Complex{name}" for name in ("Add", "Subtract", "Mult", "Divide", "RealScal")),
}


class Data:
    """The array of a variable: its rows (..., M, D), or numbers (D,), or as KeOps's users give it,
    with both axes, (..., M, 1, D).
    """

    __slots__ = ("array", "batch", "cat", "whole")

    def __init__(self, array: Any, cat: int, whole: bool, batch: tuple[int, ...]):
        self.array, self.cat, self.whole, self.batch = array, cat, whole, batch

    @property
    def kind(self) -> tuple[Any, ...]:
        """All but the array; numbers are what they are."""
        numbers = repr(self.array) if type(self.array) is list else None
        return self.cat, self.whole, self.batch, numbers

    def lazy(self, lib: Library, cat: int) -> Any:
        """The value of a variable of this category."""
        x = self.array
        if isinstance(x, list):
            return x[0] if len(x) == 1 else lib.numbers_of(x)
        n = len(self.batch)
        if cat == 2 and not self.whole:
            return LazyArray(x[..., None, None, :], 1, n) if n else x
        if self.whole:
            return LazyArray(x if cat == self.cat else x.swapaxes(-3, -2), 1, n)
        lazy = LazyArray(x, 1, n)
        return lazy[..., :, None, :] if cat == 0 else lazy[..., None, :, :]


class GenericLazyTensor:
    """What is common to KeOps's LazyTensors of all libraries."""

    __array_ufunc__ = None  # so that array + K asks us
    __GenericLazyTensor__ = True
    __hash__ = None  # type: ignore[assignment]
    is_complex = False

    __iter__ = None  # type: ignore[assignment]

    def __init__(self, x: Any = None, axis: int | None = None):
        self.ranges: Any = None
        self.backend: str | None = None
        self._dtype: Any = None
        self.batchdims: tuple[int, ...] | None = None
        self.ni: int | None = None
        self.nj: int | None = None
        self.axis: int | None = None
        self.reduction_op: str | None = None
        self.kwargs: dict[str, Any] = {}
        self._weight: Formula | None = None
        self._solving: Any = None
        self._k: int | None = None
        self._nodes: tuple[Variable, ...] = ()
        self._formula: Formula = constant(0)
        if x is not None:
            self._begin(x, axis)

    # -- what a library provides

    @staticmethod
    def _is_array(x: Any) -> bool:
        raise NotImplementedError

    @staticmethod
    def _library(x: Any) -> Library:
        """The library with the dtype and device of an array; with its own defaults for None."""
        raise NotImplementedError

    def _class(self, is_complex: bool) -> type[GenericLazyTensor]:
        raise NotImplementedError

    # -- building

    def _begin(self, x: Any, axis: int | None) -> None:
        if type(x) is tuple:
            self._symbolic(x, axis)
        elif type(x) is int:
            self._formula, self.axis = constant(x), 2
        elif isinstance(x, FLOATS) or type(x) in (list, complex):
            x = list(x) if type(x) is list else [x if type(x) is complex else float(x)]
            if axis not in (None, 2):
                raise ValueError("a list of numbers is a parameter, of axis 2 if any.")
            self._variable(Data(x, 2, False, ()), len(x), 2, None)
        elif not self._is_array(x):
            raise TypeError(
                "LazyTensors are made of arrays, numbers, lists of numbers or triples (ind, dim, "
                f"cat), and got {type(x).__name__}."
            )
        elif x.ndim >= 3:
            self._of_pairs(x, axis)
        else:
            self._of_rows(x, axis)

    def _symbolic(self, x: tuple, axis: int | None) -> None:
        if len(x) != 3 or not all(isinstance(k, int) for k in x) or axis is not None:
            raise ValueError(
                f"a symbolic variable is a triple of integers (ind, dim, cat) without axis=, "
                f"and got {x}."
            )
        node = Variable(x[0], x[1], x[2])
        self._formula, self._nodes, self.axis = node, (node,), x[2]

    def _of_pairs(self, x: Any, axis: int | None) -> None:
        if axis is not None:
            raise ValueError(
                "axis= is for arrays of two axes; with more the one of length 1 tells."
            )
        m, n, d = x.shape[-3:]
        if 1 not in (m, n):
            raise ValueError(
                "an array of three axes or more has the shape (..., M, 1, D), (..., 1, N, D) or "
                f"(..., 1, 1, D), and got {tuple(x.shape)}."
            )
        cat = 2 if m == n else 0 if n == 1 else 1
        batch = tuple(x.shape[:-3])
        self.batchdims = batch or None
        self._variable(Data(x, cat, True, batch), d, cat, m if cat == 0 else n)

    def _of_rows(self, x: Any, axis: int | None) -> None:
        if x.ndim == 0:
            x = x.reshape(1)
        if x.ndim == 2 and axis not in (0, 1, 2):
            raise ValueError(
                f"an array of two axes, {tuple(x.shape)}, is a variable i (axis=0) or j (axis=1): "
                "say which."
            )
        if x.ndim == 1 and axis not in (None, 2):
            raise ValueError("an array of one axis is a parameter, of axis 2 if any.")
        cat = 2 if axis is None else axis
        whole = x.ndim == 2 and cat == 2
        if whole:
            if x.shape[0] != 1:
                raise ValueError(f"a parameter has one row, and got {tuple(x.shape)}.")
            x = x.reshape(x.shape[-1])
        self._variable(Data(x, cat, False, ()), x.shape[-1], cat, x.shape[0] if cat < 2 else None)

    def _variable(self, data: Data, dim: int, cat: int, rows: int | None) -> None:
        x = data.array
        if not isinstance(x, list):
            self._dtype = self._checked(x)
        complex_numbers = (
            any(isinstance(v, complex) for v in x) if isinstance(x, list) else self._is_complex(x)
        )
        dim = 2 * dim if complex_numbers else dim
        key = None if data.whole or isinstance(x, list) else _Same(x)
        node = Variable(None, dim, cat, data, key)
        self._formula, self._nodes, self.axis = node, (node,), cat
        if cat == 0:
            self.ni = rows
        elif cat == 1:
            self.nj = rows

    def _checked(self, x: Any) -> Any:
        name = str(x.dtype).rpartition(".")[2]
        if name not in ("float16", "bfloat16", "float32", "float64", "complex64", "complex128"):
            raise ValueError(
                f"LazyTensors hold floating-point numbers, and got dtype {name}.\n"
                "  Convert the array, or wrap it in duckkeops.LazyArray, which takes integers."
            )
        return {"complex64": "float32", "complex128": "float64"}.get(name, name)

    @staticmethod
    def _is_complex(x: Any) -> bool:
        return str(x.dtype).rpartition(".")[2].startswith("complex")

    def lt_constructor(self, x: Any = None, axis: int | None = None) -> Any:
        """A LazyTensor of the same library."""
        is_complex = x is not None and holds_complex(x, self._is_array)
        return self._class(is_complex)(x, axis)

    def _of(self, x: Any) -> GenericLazyTensor:
        return x if isinstance(x, GenericLazyTensor) else self.lt_constructor(x)

    def _with(self, formula: Formula, *others: GenericLazyTensor, **how: Any) -> Any:
        """The LazyTensor of a formula of self and others. Raises ValueError for contradictions."""
        if any(t.reduction_op is not None for t in (self, *others)):
            raise ValueError("a reduced LazyTensor takes part in no other formula.")
        if any(t.is_complex for t in (self, *others)) and formula.row.name not in OF_COMPLEX:
            raise duckkeops.UnsupportedError(
                f"{formula.row.name} is not for complex LazyTensors.\n"
                "  Take z.real, z.imag, abs(z) or z.angle(); the product of vectors is "
                "(z * w).sum(-1)."
            )
        is_complex = how.get("is_complex")
        if is_complex is None:
            is_complex = any(t.is_complex for t in (self, *others))
        out = self._class(is_complex)()
        for name in ("_dtype", "ni", "nj", "ranges", "backend"):
            setattr(out, name, _agreed(name, [getattr(t, name) for t in (self, *others)]))
        batches = [t.batchdims or () for t in (self, *others)]
        try:
            out.batchdims = tuple(np.broadcast_shapes(*batches)) or None
        except ValueError:
            raise ValueError(
                f"incompatible batch dimensions: {' and '.join(map(str, batches))}."
            ) from None
        nodes: dict[Any, Variable] = {}
        for t in (self, *others):
            for node in t._nodes:
                nodes.setdefault(node.key, node)
        out._formula, out._nodes = formula, tuple(nodes.values())
        return out

    def _unary(self, name: str, *params: Any, **how: Any) -> Any:
        return self._with(apply(name, self._formula, params=params), **how)

    def _binary(self, name: str, other: Any, *params: Any, swapped: bool = False) -> Any:
        other = self._of(other)
        one, two = (other, self) if swapped else (self, other)
        if name in COMPLEX and (one.is_complex or two.is_complex):
            return one._of_complex(name, two)
        formula = apply(name, one._formula, two._formula, params=params)
        return self._with(formula, other)

    def _of_complex(self, name: str, other: GenericLazyTensor) -> Any:
        """An operation of which one side at least is complex."""
        one, two = self, other
        if name == "Mult" and not (one.is_complex and two.is_complex):
            number, z = (two, one) if one.is_complex else (one, two)
            if number.ndim == 1:
                formula = apply("ComplexRealScal", number._formula, z._formula)
                return number._with(formula, z, is_complex=True)
            one, two = z, number
        one, two = (t if t.is_complex else t.real2complex() for t in (one, two))
        return one._with(apply(COMPLEX[name], one._formula, two._formula), two)

    def _ternary(self, name: str, one: Any, other: Any, **how: Any) -> Any:
        one, other = self._of(one), self._of(other)
        formula = apply(name, self._formula, one._formula, other._formula)
        return self._with(formula, one, other, **how)

    # -- what is known

    @property
    def ndim(self) -> int:
        """D, the length of the last axis, as KeOps means it: complex numbers count twice."""
        return self._formula.dim

    @property
    def formula(self) -> str:
        return text(self._formula, self._names())

    @property
    def variables(self) -> tuple:
        return tuple(v.data.array for v in self._nodes if v.data is not None)

    @property
    def symbolic_variables(self) -> tuple[tuple[int, int, int], ...]:
        return tuple((v.index, v.dim, v.cat) for v in self._nodes if v.index is not None)

    @property
    def dtype(self) -> Any:
        return self._dtype

    @property
    def _shape(self) -> tuple[int, ...]:
        rows = (1 if n is None else n for n in (self.ni, self.nj))
        return (*(self.batchdims or ()), *rows, self.ndim)

    @property
    def shape(self) -> tuple[int, ...]:
        s = self._shape
        return s[:-1] if s[-1] == 1 else s

    @property
    def nbatchdims(self) -> int:
        return len(self.batchdims or ())

    def dim(self) -> int:
        return len(self._shape)

    def new_variable_index(self) -> int:
        return 1 + max((v[0] for v in self.symbolic_variables), default=-1)

    def _names(self) -> dict[Any, int]:
        """The numbers of the variables: those with data follow the symbolic ones."""
        used = [self._formula] if self._weight is None else [self._formula, self._weight]
        met = {v.key for v in variables(*used)}
        first = self.new_variable_index()
        data = [v for v in self._nodes if v.index is None and v.key in met]
        return {v.key: first + k for k, v in enumerate(data)}

    def __str__(self) -> str:
        names = self._names()
        lines = ["KeOps LazyTensor", f"    formula: {text(self._formula, names)}"]
        if self.symbolic_variables:
            every = ", ".join(f"Var{v}" for v in self.symbolic_variables)
            lines.append(f"    symbolic variables: {every}")
        lines.append(f"    shape: {self.shape}")
        if self.reduction_op is not None:
            lines.append(f"    reduction: {self.reduction_op} (axis={self.axis})")
            if self._weight is not None:
                lines.append(f"        formula2: {text(self._weight, names)}")
            if self._k is not None:
                lines.append(f"        opt_arg: {self._k}")
        return "\n".join(lines)

    def __bool__(self) -> bool:
        raise TypeError(
            f"a LazyTensor, {self.shape}, is not true or false.\n"
            "  Reduce it first, as in (x_i == y_j).sum(1); `is` compares objects."
        )

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"a LazyTensor, {self.shape}, is not stored, and so it is no array.\n"
            "  Reduce it over i or j; the entries of small ones are those of "
            "duckkeops.LazyArray, which has to_dense()."
        )

    # -- arithmetic

    def __add__(self, other: Any) -> Any:
        return self if _equals(other, 0) else self._binary("Add", other)

    def __radd__(self, other: Any) -> Any:
        return self if _equals(other, 0) else self._binary("Add", other, swapped=True)

    def __sub__(self, other: Any) -> Any:
        return self if _equals(other, 0) else self._binary("Subtract", other)

    def __rsub__(self, other: Any) -> Any:
        return -self if _equals(other, 0) else self._binary("Subtract", other, swapped=True)

    def __mul__(self, other: Any) -> Any:
        if _equals(other, 1):
            return self
        return -self if _equals(other, -1) else self._binary("Mult", other)

    def __rmul__(self, other: Any) -> Any:
        if _equals(other, 1):
            return self
        return -self if _equals(other, -1) else self._binary("Mult", other, swapped=True)

    def __truediv__(self, other: Any) -> Any:
        return self if _equals(other, 1) else self._binary("Divide", other)

    def __rtruediv__(self, other: Any) -> Any:
        return (
            self._unary("Inv") if _equals(other, 1) else self._binary("Divide", other, swapped=True)
        )

    def __or__(self, other: Any) -> Any:
        return self._binary("Scalprod", other)

    def __ror__(self, other: Any) -> Any:
        return self._binary("Scalprod", other, swapped=True)

    def __neg__(self) -> Any:
        return self._unary("Minus")

    def __abs__(self) -> Any:
        return self._unary("Abs")

    def __pow__(self, other: Any) -> Any:
        if type(other) is int:
            return self._unary("Square") if other == 2 else self._unary("Pow", other)
        if type(other) is float and abs(other) == 0.5:
            return self._unary("Sqrt" if other > 0 else "Rsqrt")
        return self._binary("Powf", other)

    def __eq__(self, other: Any) -> Any:
        return self._binary("Equal", other)

    def __ne__(self, other: Any) -> Any:
        return self._binary("NotEqual", other)

    def __lt__(self, other: Any) -> Any:
        return self._binary("LessThan", other)

    def __le__(self, other: Any) -> Any:
        return self._binary("LessOrEqual", other)

    def __gt__(self, other: Any) -> Any:
        return self._binary("GreaterThan", other)

    def __ge__(self, other: Any) -> Any:
        return self._binary("GreaterOrEqual", other)

    # -- functions of each entry: those in ENTRYWISE are added below

    def sinc(self) -> Any:
        return (math.pi * self).sinxdivx()

    def atan2(self, other: Any) -> Any:
        return self._binary("Atan2", other)

    def power(self, other: Any) -> Any:
        return self**other

    def clamp(self, low: Any, high: Any) -> Any:
        if type(low) is int and type(high) is int:
            return self._unary("ClampInt", low, high)
        return self._ternary("Clamp", low, high)

    def ifelse(self, one: Any, other: Any) -> Any:
        return self._ternary("IfElse", one, other)

    def mod(self, modulus: Any, offset: Any = 0) -> Any:
        return self._ternary("Mod", modulus, offset)

    def round(self, decimals: int = 0) -> Any:
        return self._unary("Round", decimals)

    # -- the last axis

    def norm(self, dim: int) -> Any:
        if dim not in (-1, len(self._shape) - 1):
            raise ValueError("norms are over the last axis.")
        return self._unary("Norm2")

    def sqdist(self, other: Any) -> Any:
        return self._binary("SqDist", other)

    def weightedsqnorm(self, weights: Any) -> Any:
        return self._binary("WeightedSqNorm", weights, swapped=True)

    def weightedsqdist(self, other: Any, weights: Any) -> Any:
        return (self - other).weightedsqnorm(weights)

    def elem(self, i: int) -> Any:
        if type(i) is not int or not 0 <= i < self._entries():
            raise ValueError(f"index {i!r} is out of bounds [0, D) = [0, {self._entries()}).")
        return self._part(i, 1) if self.is_complex else self._unary("Elem", i)

    def extract(self, i: int, d: int) -> Any:
        if type(i) is not int or type(d) is not int:
            raise ValueError("parts are given by integers.")
        return self._part(i, d)

    def _entries(self) -> int:
        return self.ndim

    def _part(self, start: int, length: int) -> Any:
        return self._unary("Extract", start, length)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, tuple):
            rest = (slice(None),) * (len(self._shape) - 1)
            if key[:-1] not in (rest, (Ellipsis,)):
                raise ValueError("LazyTensors are indexed along their last axis only.")
            key = key[-1]
        n = self._entries()
        if isinstance(key, slice):
            places = range(*key.indices(n))
            if not places:
                raise ValueError(f"{key} leaves none of the {n} entries.")
            if places.step == 1:
                return self._part(places.start, len(places))
            key = list(places)
        if isinstance(key, list | tuple) and key and all(type(k) is int for k in key):
            return self.concatenate(tuple(self[k] for k in key))
        if type(key) is int:
            return self.elem(key + n if -n <= key < 0 else key)
        raise ValueError("LazyTensors are indexed by integers, lists of integers and slices.")

    def one_hot(self, D: int) -> Any:
        if type(D) is not int:
            raise ValueError("one_hot takes the number of entries.")
        return self._unary("OneHot", D)

    def bspline(self, x: Any, k: int = 0) -> Any:
        return self._binary("BSpline", x, k)

    def concat(self, other: Any) -> Any:
        return self._binary("Concat", other)

    @staticmethod
    def concatenate(tuple_of_lt: Any, axis: int = -1) -> Any:
        if not isinstance(tuple_of_lt, tuple) or not tuple_of_lt:
            raise ValueError("concatenate takes a tuple of LazyTensors.")
        out = tuple_of_lt[0]
        if axis not in (-1, len(out._shape) - 1):
            raise ValueError("LazyTensors are concatenated along their last axis.")
        for other in tuple_of_lt[1:]:
            out = out.concat(other)
        return out

    @staticmethod
    def cat(tuple_of_lt: Any, dim: int) -> Any:
        return GenericLazyTensor.concatenate(tuple_of_lt, dim)

    def matvecmult(self, other: Any) -> Any:
        return self._binary("MatVecMult", other)

    def vecmatmult(self, other: Any) -> Any:
        return self._binary("VecMatMult", other)

    def tensorprod(self, other: Any) -> Any:
        return self._binary("TensorProd", other)

    def softdtw_sqdist(self, other: Any, gamma: Any) -> Any:
        """The soft dynamic time warping of the two series of last axes, by squared differences."""
        return self._ternary("SoftDTW_SqDist", other, gamma)

    def difference_matrix(self, other: Any) -> Any:
        return self._binary("DifferenceMatrix", other)

    def keops_tensordot(
        self, other: Any, dimfa: Any, dimfb: Any, contfa: Any, contfb: Any, *args: Any
    ) -> Any:
        self._refuse_complex("keops_tensordot", other)
        lists = [
            tuple(p) if isinstance(p, list | tuple) else (p,)
            for p in (dimfa, dimfb, contfa, contfb, *args)
        ]
        order = lists[4] if len(lists) > 4 else None
        return self._binary("TensorDot", other, *lists[:4], order)

    def keops_kron(self, other: Any, dimfself: Sequence[int], dimfother: Sequence[int]) -> Any:
        self._refuse_complex("keops_kron", other)
        if isinstance(dimfself, int) or isinstance(dimfother, int):
            raise ValueError("keops_kron takes lists of dimensions.")
        return self._binary("Kron", other, tuple(dimfself), tuple(dimfother))

    def _refuse_complex(self, what: str, other: Any = None) -> None:
        if self.is_complex or getattr(other, "is_complex", False):
            raise ValueError(f"{what} is not for complex LazyTensors.")

    # -- derivatives

    def grad(self, other: Any, gradin: Any) -> Any:
        gradin = self._of(gradin)
        formula = apply("Grad", self._formula, other._formula, gradin._formula)
        return self._with(formula, other, gradin)

    def diff(self, other: Any, diffin: Any) -> Any:
        diffin = self._of(diffin)
        formula = apply("Diff", self._formula, other._formula, diffin._formula)
        return self._with(formula, other, diffin)

    def factorize(self, other: Any) -> Any:
        return self._binary("Factorize", other)

    def auto_factorize(self) -> Any:
        return self._unary("AutoFactorize")

    def grad_matrix(self, other: Any) -> Any:
        return self._binary("GradMatrix", other)

    def divergence(self, var: Any) -> Any:
        return self._binary("Divergence", var)

    def laplacian(self, var: Any) -> Any:
        return self._binary("Laplacian", var)

    def trace_operator(self, var: Any) -> Any:
        out = self._binary("TraceOperator", var)
        left = {v.key for v in variables(unfolded(out._formula))}
        if var._formula.key not in left:  # it was only the name of the argument of the operator
            out._nodes = tuple(v for v in out._nodes if v.key != var._formula.key)
        return out

    # -- complex numbers

    def real2complex(self) -> Any:
        self._refuse_complex("real2complex")
        return self._unary("Real2Complex", is_complex=True)

    def imag2complex(self) -> Any:
        self._refuse_complex("imag2complex")
        return self._unary("Imag2Complex", is_complex=True)

    def exp1j(self) -> Any:
        self._refuse_complex("exp1j")
        return self._unary("ComplexExp1j", is_complex=True)

    # -- reductions

    def _reduction(
        self,
        op: str,
        axis: int | None = None,
        dim: int | None = None,
        weight: Any = None,
        k: int | None = None,
        call: bool = True,
        **kwargs: Any,
    ) -> Any:
        axis = dim if axis is None else axis
        place = operator.index(axis) if isinstance(axis, SupportsIndex) else None
        if place is not None and place < 0:
            place += len(self._shape)
        if place is None or place - self.nbatchdims not in (0, 1):
            raise ValueError(
                f"{op} is over axis {self.nbatchdims} (i) or {self.nbatchdims + 1} (j), and got "
                f"{axis}."
            )
        if self.is_complex and op != "Sum":
            raise duckkeops.UnsupportedError(
                f"{op} is not for complex LazyTensors, which have no order.\n"
                "  Take it of abs(z), z.real or z.imag."
            )
        weight = None if weight is None else self._of(weight)
        out = self._class(self.is_complex)()
        merged = self if weight is None else self._with(constant(0), weight)
        out.__dict__.update(merged.__dict__, _formula=self._formula)
        out.reduction_op, out.axis = canonical(op), place - self.nbatchdims
        out._weight = None if weight is None else weight._formula
        out._k, out.kwargs = k, kwargs
        ready = call and not out.symbolic_variables and out._dtype is not None
        return out() if ready else out

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The reduction, on these arrays for the symbolic variables."""
        if self.reduction_op is None:
            raise ValueError("only a reduced LazyTensor can be called.")
        how = {**self.kwargs, **kwargs}
        if self.ranges is not None:
            how.setdefault("ranges", self.ranges)
        if self.backend is not None:
            how.setdefault("backend", self.backend)
        return (solved if self.reduction_op == "Solve" else computed)(self, args, how)

    @property
    def callfun(self) -> Any:
        """What is called: KeOps's users look at it. Of a reduced LazyTensor, that one."""
        if self.reduction_op is None:
            raise AttributeError("only a reduced LazyTensor has a callfun.")
        return self

    def sum(self, axis: int = -1, dim: int | None = None, **kwargs: Any) -> Any:
        axis = axis if dim is None else dim
        if self._is_last(axis):
            return self._unary("Sum")
        return self._reduction("Sum", axis, **kwargs)

    def _is_last(self, axis: int) -> bool:
        return axis in (-1, len(self._shape) - 1)

    def sum_reduction(self, axis: int | None = None, dim: int | None = None, **kwargs: Any) -> Any:
        return self._reduction("Sum", axis, dim, **kwargs)

    def logsumexp(
        self, axis: int | None = None, dim: int | None = None, weight: Any = None, **kwargs: Any
    ) -> Any:
        weight = kwargs.pop("other", weight)
        return self._reduction("LogSumExp", axis, dim, weight, **kwargs)

    def sumsoftmaxweight(
        self, weight: Any, axis: int | None = None, dim: int | None = None, **kwargs: Any
    ) -> Any:
        return self._reduction("SumSoftMaxWeight", axis, dim, weight, **kwargs)

    def Kmin(self, K: int, axis: int | None = None, dim: int | None = None, **kwargs: Any) -> Any:
        return self._reduction("KMin", axis, dim, k=K, **kwargs)

    def argKmin(self, K: int, axis: int | None = None, dim: int | None = None, **kw: Any) -> Any:
        return self._reduction("ArgKMin", axis, dim, k=K, **kw)

    def Kmin_argKmin(
        self, K: int, axis: int | None = None, dim: int | None = None, **kw: Any
    ) -> Any:
        return self._reduction("KMin_ArgKMin", axis, dim, k=K, **kw)

    # -- linear operators

    def __matmul__(self, v: Any, **kwargs: Any) -> Any:
        if isinstance(v, GenericLazyTensor):
            raise duckkeops.UnsupportedError(
                f"K @ L of LazyTensors, {self.shape} and {v.shape}, has three axes of rows.\n"
                "  Apply one after the other, K @ (L @ v), or take duckkeops.LazyArray, whose "
                "products stay lazy."
            )
        if self._entries() != 1:
            raise ValueError(
                f"K @ v is for kernels of one number for each pair, and K.shape is {self.shape}."
            )
        vector = v.ndim == 1
        rows = (
            v.reshape(1, v.shape[0], 1) if vector else v.reshape((*v.shape[:-2], 1, *v.shape[-2:]))
        )
        product = self * self.lt_constructor(rows)
        out = product.sum(product.dim() - 2, **kwargs)
        return out.reshape(-1) if vector else out

    def matvec(self, v: Any) -> Any:
        return self @ v

    def rmatvec(self, v: Any) -> Any:
        return self.T @ v

    def t(self) -> Any:
        """The transpose: rows i become rows j."""
        new: dict[Any, Variable] = {}

        def turned(v: Variable) -> Variable:
            if v.cat == 2:
                return v
            if v.key not in new:
                new[v.key] = Variable(v.index, v.dim, 1 - v.cat, v.data)
            return new[v.key]

        out = self._with(replaced(self._formula, turned))
        out._nodes = tuple(map(turned, self._nodes))
        out.ni, out.nj = self.nj, self.ni
        out.axis = {0: 1, 1: 0}.get(self.axis, self.axis)  # type: ignore[arg-type]
        if self.ranges is not None:
            out.ranges = (*self.ranges[3:], *self.ranges[:3])
        return out

    @property
    def T(self) -> Any:
        return self.t()

    def solve(
        self,
        other: Any,
        var: Any = None,
        call: bool = True,
        alpha: float = 1e-10,
        eps: float = 1e-6,
        **kwargs: Any,
    ) -> Any:
        """The solution of (alpha + K) x = other, K being this kernel; by conjugate gradients.

        `var` is a symbolic variable in which this formula, K * var, is linear: the unknown. With
        call=False, or where variables are symbolic, it is a function of those.
        """
        right = other if isinstance(other, GenericLazyTensor) else None
        if right is not None and not (len(right._nodes) == 1 and right._formula.row is VAR):
            raise ValueError("the right-hand side is an array, or a variable, and no formula.")
        if var is None and self._entries() != 1:
            raise duckkeops.UnsupportedError(
                f"solve takes kernels of one number for each pair, and K.shape is {self.shape}.\n"
                "  With var=, the symbolic variable that is sought, K may be a formula k * var."
            )
        axis = 0 if right is not None and right.axis == 1 else 1
        f = self._formula
        out = self._with(f if var is None else factor(f, var._formula, axis))
        if var is not None:
            out._nodes = tuple(v for v in out._nodes if v.key != var._formula.key)
        if right is not None and right.symbolic_variables:
            out._nodes = (*out._nodes, *right._nodes)
        out.reduction_op, out.axis = "Solve", axis
        out._solving = (other, alpha, eps)
        out.kwargs = kwargs
        ready = call and not out.symbolic_variables and out._dtype is not None
        return out() if ready else out


def solved(tensor: GenericLazyTensor, args: Sequence[Any], how: dict[str, Any]) -> Any:
    """The solution that a LazyTensor of `solve` stands for."""
    other, alpha, eps = tensor._solving
    args = _fitted(tensor, args)
    lib, given = bound(tensor, args)
    if _sizes(tensor, args).batch:
        raise duckkeops.UnsupportedError("solve takes no batches yet: solve each by itself.")
    if isinstance(other, GenericLazyTensor):
        v = other._nodes[0]
        other = args[v.index] if v.index is not None else v.data.array
    with options(how, str(lib.dtype).rpartition(".")[2], getattr(other, "is_cuda", False)):
        kernel = value(lib, tensor._formula, given)[..., 0]
        kept = pairs_of(how.get("ranges"), kernel.shape)
        kernel = kernel if kept is None else kernel.restrict(kept)
        return solution(kernel if tensor.axis == 1 else kernel.T, other, alpha, eps)


def solution(kernel: Any, b: Any, alpha: Any, eps: float) -> Any:
    """x with (alpha + kernel) x = b, to eps for each entry of b, as KeOps measures it. It is found
    in float64, and rounded to the dtype of b.
    """
    count_call("Solve")
    if tuple(getattr(alpha, "shape", ())) == (1,):  # KeOps's users give numbers of one row
        alpha = alpha[0]
    if "float" not in str(b.dtype):
        raise ValueError(f"the right-hand side has dtype {b.dtype}: it holds real numbers.")
    wide = b.astype(np.float64) if isinstance(b, np.ndarray) else b.double()
    rtol = 1e-12 if wide.dtype == b.dtype else 1e-7
    limit = eps * math.sqrt(b.shape[0])
    x = duckkeops.linalg.solve(kernel, wide, ridge=alpha, rtol=rtol, atol=limit)
    return x.astype(b.dtype) if isinstance(b, np.ndarray) else x.to(b.dtype)


def computed(tensor: GenericLazyTensor, args: Sequence[Any], how: dict[str, Any]) -> Any:
    """The reduction of a reduced LazyTensor."""
    assert tensor.reduction_op is not None and tensor.axis is not None
    args = _fitted(tensor, args)
    lib, given = bound(tensor, args)
    data = [v for v in tensor._nodes if v.data is not None]
    places: dict[Any, Any] = {v.key: len(args) + k for k, v in enumerate(data)}
    places |= {v.key: v.index for v in tensor._nodes if v.data is None}
    out = answered(
        how,
        (*args, *[v.data.array for v in data]),
        lib,
        structure(places, tensor._formula, tensor._weight),
        tensor.reduction_op,
        tensor._formula,
        tensor.axis,
        _sizes(tensor, args),
        given,
        tensor._weight,
        tensor._k,
    )
    return written(how.get("out"), out)


def _fitted(tensor: GenericLazyTensor, args: Sequence[Any]) -> Sequence[Any]:
    """The arrays of the symbolic variables, parameters without needless axes.

    Raises ValueError for another number of arrays.
    """
    count = tensor.new_variable_index()
    if len(args) != count:
        raise ValueError(f"the formula has {count} symbolic variables, and got {len(args)}.")
    cats = {v.index: v.cat for v in tensor._nodes if v.index is not None}
    return without_ones(args, cats, tensor.nbatchdims)


def without_ones(args: Sequence[Any], cats: Mapping[int, int], batch: int = 0) -> Sequence[Any]:
    """Arrays of which parameters have no leading axes of length 1 beyond the batch axes of rows, or
    the number given: KeOps's users give (1, D) for (D,).
    """
    batch = max([batch, *[args[k].ndim - 2 for k, cat in cats.items() if cat < 2]])
    out = list(args)
    for k, cat in cats.items():
        more = args[k].ndim - 1 - batch
        if cat == 2 and more > 0 and all(n == 1 for n in args[k].shape[:more]):
            out[k] = args[k].reshape(args[k].shape[more:])
    return out


def bound(tensor: GenericLazyTensor, args: Sequence[Any]) -> tuple[Library, Any]:
    """The library, and the values of the variables, those of symbolic ones being `args`."""
    arrays = [v.data.array for v in tensor._nodes if v.data is not None]
    first = next((a for a in (*args, *arrays) if hasattr(a, "shape")), None)
    lib = tensor._library(first)
    own, found = {v.key: v for v in tensor._nodes}, {}
    for v in own.values():
        if v.index is not None and args[v.index].shape[-1] != v.dim:
            raise ValueError(
                f"variable {v.index} has dimension {v.dim}, and got an array "
                f"{tuple(args[v.index].shape)}."
            )

    def given(v: Variable) -> Any:
        if v.key not in found:
            v = own[v.key]
            data = v.data
            if data is None:
                x = args[v.index]  # type: ignore[index]
                batch = tuple(x.shape[: x.ndim - (1 if v.cat == 2 else 2)])
                data = Data(x, v.cat, False, batch)
            found[v.key] = data.lazy(lib, v.cat)
        return found[v.key]

    return lib, given


def _sizes(tensor: GenericLazyTensor, args: Sequence[Any]) -> Sizes:
    batch, rows = tensor.batchdims or (), {0: tensor.ni, 1: tensor.nj}
    for v in tensor._nodes:
        if v.index is None:
            continue
        x = args[v.index]
        batch = tuple(
            np.broadcast_shapes(batch, tuple(x.shape[: x.ndim - (1 if v.cat == 2 else 2)]))
        )
        if v.cat < 2:
            rows[v.cat] = _agreed(("ni", "nj")[v.cat], [rows[v.cat], x.shape[-2]])
    return Sizes(batch, rows[0], rows[1])


class _Same:
    """A key of variables that were made of the same array."""

    __slots__ = ("array",)

    def __init__(self, array: Any):
        self.array = array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.array is self.array

    def __hash__(self) -> int:
        return id(self.array)


def _equals(x: Any, number: int) -> bool:
    return isinstance(x, int | float) and x == number


def _agreed(name: str, values: Sequence[Any]) -> Any:
    """The one value that is not None. Raises ValueError for two."""
    found = None
    for v in values:
        if v is None:
            continue
        if found is not None and found is not v and (name == "ranges" or found != v):
            raise ValueError(f"incompatible values of {name.strip('_')}: {found} and {v}.")
        found = v
    return found


def holds_complex(x: Any, is_array: Any) -> bool:
    if isinstance(x, list):
        return any(isinstance(v, complex) for v in x)
    return isinstance(x, complex) or (is_array(x) and GenericLazyTensor._is_complex(x))


ENTRYWISE = {
    **{name: name.capitalize() for name in ("exp", "log", "cos", "sin", "asin", "acos", "atan")},
    **{name: name.capitalize() for name in ("sqrt", "rsqrt", "square", "sign", "step", "abs")},
    "xlogx": "XLogX",
    "sinxdivx": "SinXDivX",
    "relu": "ReLU",
    "sqnorm2": "SqNorm2",
    "norm2": "Norm2",
    "normalize": "Normalize",
}


def _entrywise(row: str) -> Any:
    def method(self: GenericLazyTensor) -> Any:
        return self._unary(row)

    return method


def _extreme(row: str) -> Any:
    """min, argmin and the like: of the last axis by default."""

    def method(self: GenericLazyTensor, axis: int = -1, dim: int | None = None, **kw: Any) -> Any:
        axis = axis if dim is None else dim
        return self._unary(row) if self._is_last(axis) else self._reduction(row, axis, **kw)

    return method


def _pair(row: str) -> Any:
    def method(
        self: GenericLazyTensor, axis: int | None = None, dim: int | None = None, **kw: Any
    ) -> Any:
        return self._reduction(row, axis, dim, **kw)

    return method


for _name, _row in ENTRYWISE.items():
    setattr(GenericLazyTensor, _name, _entrywise(_row))
for _name, _row in (("min", "Min"), ("max", "Max"), ("argmin", "ArgMin"), ("argmax", "ArgMax")):
    setattr(GenericLazyTensor, _name, _extreme(_row))
    setattr(GenericLazyTensor, f"{_name}_reduction", _pair(_row))
for _name, _row in (("min_argmin", "Min_ArgMin"), ("max_argmax", "Max_ArgMax")):
    setattr(GenericLazyTensor, _name, _pair(_row))
    setattr(GenericLazyTensor, f"{_name}_reduction", _pair(_row))
for _name in ("logsumexp", "sumsoftmaxweight", "Kmin", "argKmin", "Kmin_argKmin"):
    setattr(GenericLazyTensor, f"{_name}_reduction", getattr(GenericLazyTensor, _name))


class ComplexGenericLazyTensor(GenericLazyTensor):
    """Complex numbers: two entries each where dimensions are counted, as in KeOps."""

    is_complex = True

    @property
    def dtype(self) -> Any:
        return {"float32": "complex64", "float64": "complex128"}.get(self._dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        s = (*self._shape[:-1], self._shape[-1] // 2)
        return s[:-1] if s[-1] == 1 else s

    def _entries(self) -> int:
        return self.ndim // 2

    def _part(self, start: int, length: int) -> Any:
        return self._unary("Extract", 2 * start, 2 * length)

    @property
    def real(self) -> Any:
        return self._unary("ComplexReal", is_complex=False)

    @property
    def imag(self) -> Any:
        return self._unary("ComplexImag", is_complex=False)

    def angle(self) -> Any:
        return self._unary("ComplexAngle", is_complex=False)

    def conj(self) -> Any:
        return self._unary("Conj")

    def exp(self) -> Any:
        return self._unary("ComplexExp")

    def abs(self) -> Any:
        return abs(self)

    def __abs__(self) -> Any:
        return self._unary("ComplexAbs", is_complex=False)

    def sum(self, axis: int = -1, dim: int | None = None, **kwargs: Any) -> Any:
        axis = axis if dim is None else dim
        if self._is_last(axis):
            return self._unary("ComplexSum")
        return self._reduction("Sum", axis, **kwargs)


def variable_makers(cls: Any) -> tuple[Any, Any, Any, Any]:
    """Var, Vi, Vj and Pm of a class of LazyTensors."""

    def Var(x_or_ind: Any, dim: int | None = None, cat: int | None = None) -> Any:
        """A variable of data, or a symbolic one."""
        return cls(x_or_ind, axis=cat) if dim is None else cls((x_or_ind, dim, cat))

    def Vi(x_or_ind: Any, dim: int | None = None) -> Any:
        """A variable of rows i: of data (M, D), or the symbolic one (ind, dim)."""
        return Var(x_or_ind, dim, 0)

    def Vj(x_or_ind: Any, dim: int | None = None) -> Any:
        """A variable of rows j: of data (N, D), or the symbolic one (ind, dim)."""
        return Var(x_or_ind, dim, 1)

    def Pm(x_or_ind: Any, dim: int | None = None) -> Any:
        """A parameter, the same for all pairs: of data (D,), or the symbolic one (ind, dim)."""
        return Var(x_or_ind, dim, 2)

    return Var, Vi, Vj, Pm
