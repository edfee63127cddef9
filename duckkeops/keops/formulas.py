"""KeOps's formulas: one tree that prints itself in KeOps's grammar, and computes on LazyArrays.

A formula is a vector of `dim` numbers for each pair. `TABLE` has one row for each operation: its
dimension, how it is computed, and what it adds to the gradients of its arguments. Rows that are
made of others only say how. The values of variables have the shape (..., M or 1, N or 1, dim).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import duckkeops
from duckkeops import LazyArray

Formulas = Sequence["Formula"]
Params = tuple[Any, ...]


class Formula:
    """An operation of the table on other formulas, of `dim` numbers for each pair."""

    __slots__ = ("args", "dim", "params", "row")

    def __init__(self, row: Row, args: Formulas, params: Params, dim: int):
        self.row, self.args, self.params, self.dim = row, tuple(args), params, dim


class Variable(Formula):
    """An array of rows i (cat 0) or j (cat 1), or one for all pairs (2): the one called `index`, or
    `data` itself, under whose number it is printed.
    """

    __slots__ = ("cat", "data", "index", "key")

    def __init__(self, index: int | None, dim: int, cat: int, data: Any = None, key: Any = None):
        """`key` tells it from others; by default its index, or that it is this one."""
        super().__init__(VAR, (), (), dim)
        self.index, self.cat, self.data = index, cat, data
        self.key = (cat, index if key is None and index is not None else key or self)


@dataclass(frozen=True, slots=True)
class Row:
    """One operation.

    `dim` gives its dimension from those of its arguments and its parameters, or raises ValueError.
    `compute(lib, formula, *values)` gives the value. `adjoint(formula, e)` gives what each argument
    gets of a cotangent e, None for nothing. Or `made` says all of that with other rows.
    """

    name: str
    dim: Callable[[Sequence[int], Params], int]
    compute: Callable[..., Any] | None = None
    adjoint: Callable[[Formula, Formula], Sequence[Formula | None]] | None = None
    made: Callable[..., Formula] | None = None
    infix: str = ""

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return row, (self.name,)  # copies and pickles are the row itself


# -- dimensions ------------------------------------------------------------------------------------


def common(dims: Sequence[int], params: Params = ()) -> int:
    """Of entrywise operations: those of 1 are broadcast."""
    most = max(dims)
    if any(d not in (1, most) for d in dims):
        raise ValueError(
            "expects inputs of the same dimension or dimension 1. Received "
            + " and ".join(map(str, dims))
            + "."
        )
    return most


def one(dims: Sequence[int], params: Params = ()) -> int:
    return 1


def one_of_equal(dims: Sequence[int], params: Params = ()) -> int:
    if len(set(dims)) > 1:
        raise ValueError(
            "expects inputs of the same dimension. Received " + " and ".join(map(str, dims)) + "."
        )
    return 1


def _weighted(dims: Sequence[int], params: Params) -> int:
    weights, d = dims[0], dims[-1]
    if weights not in (1, d, d * d):
        raise ValueError(
            f"expects weights of size 1, D (diagonal) or D^2 (full), but received {weights} with "
            f"D={d}."
        )
    return 1


def _part(dims: Sequence[int], params: Params) -> int:
    start, length = params
    if length < 1 or not 0 <= start <= dims[0] - length:
        raise ValueError(f"expects a part of {dims[0]} entries, and got {start}, {length}.")
    return length


def _placed(dims: Sequence[int], params: Params) -> int:
    start, length = params
    if not 0 <= start <= length - dims[0]:
        raise ValueError(f"cannot put {dims[0]} entries at {start} of {length}.")
    return length


def _positive(dims: Sequence[int], params: Params) -> int:
    if dims[0] != 1 or params[0] < 1:
        raise ValueError(f"expects a formula of dimension 1, and got {dims[0]}, {params[0]}.")
    return params[0]


def _dot_dims(dims: Sequence[int], params: Params) -> int:
    a, b, left, right, order = params
    if math.prod(a) != dims[0] or math.prod(b) != dims[1]:
        raise ValueError(f"expects {math.prod(a)} and {math.prod(b)} entries. Received {dims}.")
    if [a[k] for k in left] != [b[k] for k in right]:
        raise ValueError(f"cannot contract axes {left} of {a} with axes {right} of {b}.")
    kept = len(a) + len(b) - 2 * len(left)
    if order is not None and sorted(order) != list(range(kept)):
        raise ValueError(f"expects a permutation of {kept} axes, and got {order}.")
    return dims[0] * dims[1] // math.prod(a[k] for k in left) ** 2


def _quotient(place: int) -> Callable[[Sequence[int], Params], int]:
    def dim(dims: Sequence[int], params: Params) -> int:
        whole, part = dims[place], dims[1 - place]
        if part == 0 or whole % part:
            raise ValueError(f"cannot take {whole} entries as a matrix with a side of {part}.")
        return whole // part

    return dim


def _product(dims: Sequence[int], params: Params) -> int:
    return math.prod(dims)


# -- building --------------------------------------------------------------------------------------


def apply(name: str, *args: Formula | complex, params: Params = ()) -> Formula:
    """The row of this name on formulas and numbers. Raises ValueError if dimensions do not fit."""
    known = TABLE.get(name)
    if known is None:
        raise ValueError(f"there is no operation {name} in KeOps formulas.")
    nodes = tuple([a if isinstance(a, Formula) else constant(a) for a in args])
    try:
        dim = known.dim([a.dim for a in nodes], params)
    except (ValueError, IndexError, TypeError) as error:
        raise ValueError(f"Operation {name} {error}") from None
    return Formula(known, nodes, params, dim)


def constant(number: complex) -> Formula:
    """A number that is part of the formula."""
    if isinstance(number, int):
        return Formula(TABLE["IntCst"], (), (number,), 1)
    return Formula(NUMBER, (), (number,), 1)


def zero(dim: int) -> Formula:
    return Formula(TABLE["Zero"], (), (dim,), dim)


def unfolded(f: Formula) -> Formula:
    """The same of rows that are not made of others."""
    done: dict[int, Formula] = {}
    for node in walk(f):
        args = tuple([done[id(a)] for a in node.args])
        new = node
        if not all(map(operator.is_, args, node.args)):
            new = Formula(node.row, args, node.params, node.dim)
        done[id(node)] = new if new.row.made is None else unfolded(new.row.made(*args, *new.params))
    return done[id(f)]


def depends(f: Formula) -> set[Any]:
    """The keys of the variables that the formula has derivatives by."""
    root = unfolded(f)
    todo, seen, keys = [root], {id(root)}, set()
    while todo:
        node = todo.pop()
        if isinstance(node, Variable):
            keys.add(node.key)
        elif node.row.adjoint is not _no_slope:
            for a in node.args[1:] if node.row.name == "IfElse" else node.args:
                if id(a) not in seen:
                    seen.add(id(a))
                    todo.append(a)
    return keys


def walk(f: Formula) -> Iterator[Formula]:
    """Every formula in it once, arguments before what is made of them, in order."""
    seen: set[int] = set()
    todo: list[tuple[Formula, bool]] = [(f, False)]
    while todo:
        node, ready = todo.pop()
        if ready:
            yield node
        elif id(node) not in seen:
            seen.add(id(node))
            todo.append((node, True))
            todo += [(a, False) for a in reversed(node.args)]


def variables(*formulas: Formula) -> list[Variable]:
    """The variables, each once, in the order in which they are met."""
    found: dict[Any, Variable] = {}
    for f in formulas:
        for node in walk(f):
            if isinstance(node, Variable):
                found.setdefault(node.key, node)
    return list(found.values())


def structure(places: dict[Any, Any], *formulas: Formula | None) -> tuple[Any, ...]:
    """What two formulas have in common if they differ in their arrays alone. `places` numbers the
    variables, by their keys; numbers in their place are part of the formula.
    """
    out: list[Any] = []
    number: dict[int, int] = {}
    for f in formulas:
        if f is None:
            continue
        for node in walk(f):
            number[id(node)] = len(out)
            if isinstance(node, Variable):
                own = None if node.data is None else node.data.kind
                out.append((places[node.key], node.cat, node.dim, own))
            else:
                args = tuple([number[id(a)] for a in node.args])
                out.append((node.row.name, args, repr(node.params) if node.params else None))
        out.append(None)
    return tuple(out)


def replaced(f: Formula, new: Callable[[Variable], Formula]) -> Formula:
    """The same formula of other variables."""
    done: dict[int, Formula] = {}
    for node in walk(f):
        if isinstance(node, Variable):
            done[id(node)] = new(node)
        else:
            args = tuple([done[id(a)] for a in node.args])
            same = all(map(operator.is_, args, node.args))
            done[id(node)] = node if same else Formula(node.row, args, node.params, node.dim)
    return done[id(f)]


# -- printing --------------------------------------------------------------------------------------


def text(f: Formula, names: dict[Any, int]) -> str:
    """In KeOps's grammar; `names` numbers the variables, by their keys."""
    done: dict[int, str] = {}
    for node in walk(f):
        done[id(node)] = _printed(node, [done[id(a)] for a in node.args], names)
    return done[id(f)]


def _printed(f: Formula, args: list[str], names: dict[Any, int]) -> str:
    if isinstance(f, Variable):
        return f"Var({names.get(f.key, f.index)},{f.dim},{f.cat})"
    if f.row.infix:
        return f"({args[0]} {f.row.infix} {args[1]})"
    if f.row is NUMBER:
        return repr(f.params[0])
    if f.row.name in ("TensorDot", "Kron"):
        lists = [p for p in f.params if p is not None]
        args += ["[" + ",".join(map(str, p)) + "]" for p in lists]
        return f"{f.row.name}({', '.join(args)})"
    comma = ", " if len(args) > 1 else ","
    return f"{f.row.name}({comma.join([*args, *map(str, f.params)])})"


# -- values ----------------------------------------------------------------------------------------


def value(lib: Any, f: Formula, given: Callable[[Variable], Any]) -> Any:
    """The formula computed on the values of its variables: a LazyArray, or a number."""
    root = unfolded(f)
    done: dict[int, Any] = {}
    for node in walk(root):
        if isinstance(node, Variable):
            done[id(node)] = given(node)
        else:
            assert node.row.compute is not None
            done[id(node)] = node.row.compute(lib, node, *[done[id(a)] for a in node.args])
    return done[id(root)]


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float | complex)


def _entrywise(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(xp, *values)`; of numbers alone it is a number."""

    def compute(lib: Any, f: Formula, *values: Any) -> Any:
        if all(map(_is_number, values)):
            with np.errstate(all="ignore"):
                return np.asarray(function(lib.numbers, *map(np.asarray, values)))[()].item()
        return function(lib, *values)

    return compute


def _named(name: str) -> Callable[..., Any]:
    return _entrywise(lambda lib, *values: getattr(lib.xp, name)(*values))


def _mask(function: Callable[..., Any]) -> Callable[..., Any]:
    """A condition as numbers 0 and 1."""
    return _entrywise(lambda lib, *values: lib.as_numbers(function(lib, *values), values))


def _wide(lib: Any, f: Formula, x: Any) -> Any:
    """The value of a formula with all of its entries along the last axis."""
    if _is_number(x):
        return lib.full(f.dim, x)
    n = f.dim // 2 if lib.is_complex(x) else f.dim
    return x if x.shape[-1] == n else lib.xp.broadcast_to(x, (*x.shape[:-1], n))


def _sum(lib: Any, f: Formula, x: Any) -> Any:
    n = f.args[0].dim
    if _is_number(x) or (x.shape[-1] == 1 and not lib.is_complex(x)):
        return x if n == 1 else x * n
    return lib.sum(x)


def _inner(name: str) -> Callable[..., Any]:
    def compute(lib: Any, f: Formula, x: Any) -> Any:
        return lib.inner(name, _wide(lib, f.args[0], x))

    return compute


def _scalar_product(lib: Any, f: Formula, x: Any, y: Any) -> Any:
    if _is_number(x) and _is_number(y):
        return x * y * f.args[0].dim
    return lib.sum(_wide(lib, f.args[0], x) * y)


def _square_norm(lib: Any, f: Formula, x: Any) -> Any:
    return _sum(lib, f, x * x)


def _square_distance(lib: Any, f: Formula, x: Any, y: Any) -> Any:
    gap = x - y
    if _is_number(gap):
        return gap * gap * common([a.dim for a in f.args])
    if gap.shape[-1] == 1 and max(a.dim for a in f.args) > 1:
        gap = lib.xp.broadcast_to(gap, (*gap.shape[:-1], max(a.dim for a in f.args)))
    return lib.sum(gap * gap)


def _extract(lib: Any, f: Formula, x: Any) -> Any:
    start, length = f.params
    if _is_number(x):
        return x
    if lib.is_complex(x):
        start, length = start // 2, length // 2
    return _wide(lib, f.args[0], x)[..., start : start + length]


def _put(lib: Any, f: Formula, x: Any) -> Any:
    start, length = f.params
    part = f.args[0].dim
    sides = (start, length - start - part)
    parts = [lib.full(sides[0], 0.0), _wide(lib, f.args[0], x), lib.full(sides[1], 0.0)]
    kept = [p for p, n in zip(parts, (sides[0], part, sides[1]), strict=True) if n]
    return kept[0] if len(kept) == 1 else lib.concatenated(kept)


def _concatenate(lib: Any, f: Formula, *values: Any) -> Any:
    return lib.concatenated([_wide(lib, a, v) for a, v in zip(f.args, values, strict=True)])


def _one_hot(lib: Any, f: Formula, x: Any) -> Any:
    if _is_number(x):
        x = lib.full(1, x)
    return lib.as_numbers(lib.xp.floor(x + 0.5) == lib.counting(f.params[0]), (x,))


def _tensordot(lib: Any, f: Formula, x: Any, y: Any) -> Any:
    a, b, left, right, order = f.params
    x, y = (_wide(lib, g, v) for g, v in zip(f.args, (x, y), strict=True))
    # of numbers alone: their axes may be merged with those of others, being of features too
    x, y = (v if isinstance(v, LazyArray) else LazyArray(v, 1) for v in (x, y))
    n = max(x.ndim, y.ndim) - 1
    kept_a = [k for k in range(len(a)) if k not in left]
    kept_b = [k for k in range(len(b)) if k not in right]
    x = _axes(lib, x, a, [*kept_a, *[None] * len(kept_b), *left])
    y = _axes(lib, y, b, [*[None] * len(kept_a), *kept_b, *right])
    out = x * y
    if left:
        out = out.sum(tuple(range(out.ndim - len(left), out.ndim)))
    if order is not None and list(order) != sorted(order):
        back = sorted(range(len(order)), key=order.__getitem__)
        out = lib.permuted(out, (*range(n), *[n + k for k in back]))
    return lib.xp.reshape(out, (*out.shape[:n], f.dim))


def _axes(lib: Any, x: Any, dims: Sequence[int], axes: Sequence[int | None]) -> Any:
    """The last axis as several of these lengths, in this order; None is a new one."""
    n = x.ndim - 1
    x = lib.xp.reshape(x, (*x.shape[:-1], *dims))
    order = [a for a in axes if a is not None]
    if order != list(range(len(dims))):
        x = lib.permuted(x, (*range(n), *[n + a for a in order]))
    return x[(..., *[None if a is None else slice(None) for a in axes])]


# -- gradients -------------------------------------------------------------------------------------


def gradient(f: Formula, v: Formula, e: Formula) -> Formula:
    """The adjoint of the derivative of f by the variable v, on a cotangent e; of v's dimension."""
    if not isinstance(v, Variable):
        raise ValueError("gradients are with respect to a variable.")
    if e.dim not in (1, f.dim):
        raise ValueError(f"expects a cotangent of dimension {f.dim}. Received {e.dim}.")
    return gradients(f, [v], e if e.dim == f.dim else _spread(e, f.dim))[0]


def gradients(f: Formula, wrt: Sequence[Variable], e: Formula) -> list[Formula]:
    """The gradient of each variable."""
    keys = {v.key for v in wrt}
    root = unfolded(f)
    above: set[int] = set()
    order = list(walk(root))
    for node in order:
        if (isinstance(node, Variable) and node.key in keys) or any(
            id(a) in above for a in node.args
        ):
            above.add(id(node))
    have: dict[int, Formula] = {id(root): e}
    out: dict[Any, Formula] = {}
    for node in reversed(order):
        g = have.pop(id(node), None)
        if g is None or id(node) not in above:
            continue
        if isinstance(node, Variable):
            out[node.key] = g if node.key not in out else apply("Add", out[node.key], g)
            continue
        if node.row.adjoint is None:
            raise NotImplementedError(f"KeOps formulas have no derivative of {node.row.name}.")
        for a, part in zip(node.args, node.row.adjoint(node, g), strict=True):
            if part is None or id(a) not in above:
                continue
            if part.dim != a.dim:
                part = apply("Sum", part) if a.dim == 1 else _spread(part, a.dim)
            have[id(a)] = part if id(a) not in have else apply("Add", have[id(a)], part)
    return [out.get(v.key) or zero(v.dim) for v in wrt]


def _spread(e: Formula, dim: int) -> Formula:
    return apply("SumT", e, params=(dim,))


def factor(f: Formula, v: Variable, axis: int) -> Formula:
    """The factor of v, which has the rows that are summed over, in a formula that is linear in it:
    one number for each pair.
    """
    if v.cat != axis:
        raise ValueError(
            f"the unknown, Var({v.index},{v.dim},{v.cat}), must be a variable of rows "
            f"{'ij'[axis]}, Var({v.index},{v.dim},{axis}), as sums are over {'ij'[axis]}."
        )
    if v.dim == f.dim == 1 and _is_linear(f, v):
        return gradient(f, v, constant(1))
    if f.row.name == "Mult":
        for one, other in (f.args, f.args[::-1]):
            free = all(w.key != v.key for w in variables(other))
            if isinstance(one, Variable) and one.key == v.key and other.dim == 1 and free:
                return other
    raise duckkeops.UnsupportedError(
        "KernelSolve and solve take formulas k(x, y) * b, k being one number for each pair."
    )


LINEAR = ("Add", "Subtract", "Minus", "Sum", "SumT", "Extract", "ExtractT", "Concat", "Pairs")


def _is_linear(f: Formula, v: Variable) -> bool:
    """Is it surely linear in v?"""
    root = unfolded(f)
    found: dict[int, bool | None] = {}  # None for what does not depend on v
    for node in walk(root):
        given, name = [found[id(a)] for a in node.args], node.row.name
        rest = [k for k in given if k is not None]
        if isinstance(node, Variable):
            out = True if node.key == v.key else None
        elif not rest:
            out = None
        elif name in ("Mult", "Scalprod", "TensorDot"):
            out = rest == [True]
        elif name == "Divide":
            out = given == [True, None]
        else:
            out = name in LINEAR and all(given)
        found[id(node)] = out
    return found[id(root)] is True


def tangent(f: Formula, v: Formula, u: Formula) -> Formula:
    """The derivative of f by the variable v, on a tangent u; of f's dimension.

    It is the gradient of the gradient, which is linear in its cotangent, by that cotangent.
    """
    if not isinstance(v, Variable):
        raise ValueError("derivatives are with respect to a variable.")
    if u.dim != v.dim:
        raise ValueError(f"expects a tangent of dimension {v.dim}. Received {u.dim}.")
    cotangent = Variable(-1, f.dim, 2, key=object())
    out = gradient(gradient(f, v, cotangent), cotangent, u)
    return replaced(out, lambda w: zero(w.dim) if w.key == cotangent.key else w)


def _unit(k: int, dim: int) -> Formula:
    return apply("ElemT", 1, params=(dim, k))


def divergence(f: Formula, v: Formula) -> Formula:
    """The trace of the derivative of f by v."""
    if f.dim != v.dim:
        raise ValueError(f"expects inputs of the same dimension. Received {f.dim} and {v.dim}.")
    parts = [apply("Elem", gradient(f, v, _unit(k, f.dim)), params=(k,)) for k in range(f.dim)]
    return total(parts)


def laplacian(f: Formula, v: Formula) -> Formula:
    if f.dim != 1:
        raise ValueError(f"expects a formula of dimension 1. Received {f.dim}.")
    return divergence(gradient(f, v, constant(1)), v)


def gradient_matrix(f: Formula, v: Formula) -> Formula:
    """The derivative of f by v: a matrix of f.dim rows of v.dim entries, row after row."""
    return concatenated([gradient(f, v, _unit(k, f.dim)) for k in range(f.dim)])


def concatenated(parts: Formulas) -> Formula:
    out = parts[0]
    for p in parts[1:]:
        out = apply("Concat", out, p)
    return out


def total(parts: Formulas) -> Formula:
    out = parts[0]
    for p in parts[1:]:
        out = apply("Add", out, p)
    return out


def _times(x: Formula | complex, e: Formula) -> Formula:
    return apply("Mult", x, e)


def _no_slope(f: Formula, e: Formula) -> Sequence[Formula | None]:
    return [None] * len(f.args)


def _slope(function: Callable[[Formula], Formula]) -> Callable[..., Sequence[Formula | None]]:
    """Of an entrywise function of one argument: its derivative, times the cotangent."""
    return lambda f, e: [_times(function(f.args[0]), e)]


def _scaled_power(x: Formula, n: int) -> Formula:
    return _times(n, apply("Pow", x, params=(n - 1,)))


def _power_adjoint(f: Formula, e: Formula) -> Sequence[Formula | None]:
    x, p = f.args
    slope = _times(p, apply("Powf", x, apply("Subtract", p, 1)))
    return [_times(slope, e), _times(_times(apply("Log", x), f), e)]


def _angle_adjoint(f: Formula, e: Formula) -> Sequence[Formula | None]:
    y, x = f.args
    square = apply("Add", apply("Square", x), apply("Square", y))
    return [
        _times(apply("Divide", x, square), e),
        _times(apply("Minus", apply("Divide", y, square)), e),
    ]


def _dot_adjoint(f: Formula, e: Formula) -> Sequence[Formula | None]:
    a, b, left, right, order = f.params
    x, y = f.args
    kept_a = [k for k in range(len(a)) if k not in left]
    kept_b = [k for k in range(len(b)) if k not in right]
    at = list(order) if order is not None else list(range(len(kept_a) + len(kept_b)))
    lengths = [a[k] for k in kept_a] + [b[k] for k in kept_b]
    out = [0] * len(at)
    for k, place in enumerate(at):
        out[place] = lengths[k]
    first, last = at[: len(kept_a)], at[len(kept_a) :]

    def pulled(
        mine: list, own: list, other: Formula, dims: Any, theirs: list, pairs: dict
    ) -> Formula:
        """The cotangent, contracted with the other factor over the axes that are not mine."""
        rest = [k for k in range(len(dims)) if k not in theirs]
        contracted = [p for p in range(len(out)) if p not in mine]
        with_ = [theirs[(last if mine is first else first).index(p)] for p in contracted]
        to = [own[mine.index(p)] for p in sorted(mine)] + [pairs[k] for k in rest]
        params = (tuple(out), tuple(dims), tuple(contracted), tuple(with_), tuple(to))
        return apply("TensorDot", e, other, params=params)

    return [
        pulled(first, kept_a, y, b, kept_b, dict(zip(right, left, strict=True))),
        pulled(last, kept_b, x, a, kept_a, dict(zip(left, right, strict=True))),
    ]


def _picked_adjoint(arg: str) -> Callable[..., Sequence[Formula | None]]:
    def adjoint(f: Formula, e: Formula) -> Sequence[Formula | None]:
        x = f.args[0]
        return [_times(apply("OneHot", apply(arg, x), params=(x.dim,)), e)]

    return adjoint


# -- rows that are made of others ------------------------------------------------------------------


def _weighted_square_norm(s: Formula, x: Formula) -> Formula:
    if s.dim == 1:
        return _times(s, apply("SqNorm2", x))
    if s.dim == x.dim:
        return apply("Sum", _times(s, apply("Square", x)))
    return apply("Sum", _times(s, apply("TensorProd", x, x)))


def _clamp(x: Formula, low: Formula, high: Formula) -> Formula:
    inside = apply("IfElse", apply("Subtract", high, x), x, high)
    return apply("IfElse", apply("Subtract", x, low), inside, low)


def _modulo(x: Formula, n: Formula, start: Formula) -> Formula:
    floor = apply("Floor", apply("Divide", apply("Subtract", x, start), n))
    return apply("Subtract", x, _times(n, floor))


def _matrix_vector(a: Formula, x: Formula) -> Formula:
    n = a.dim // x.dim
    return apply("TensorDot", a, x, params=((n, x.dim), (x.dim,), (1,), (0,), None))


def _vector_matrix(x: Formula, a: Formula) -> Formula:
    n = a.dim // x.dim
    return apply("TensorDot", x, a, params=((x.dim,), (x.dim, n), (0,), (0,), None))


def _outer(x: Formula, y: Formula) -> Formula:
    return apply("TensorDot", x, y, params=((x.dim,), (y.dim,), (), (), None))


def _kronecker(x: Formula, y: Formula, a: Sequence[int], b: Sequence[int]) -> Formula:
    n = len(a)
    order = (*range(0, 2 * n, 2), *range(1, 2 * n, 2))
    return apply("TensorDot", x, y, params=(tuple(a), tuple(b), (), (), order))


def _differences(x: Formula, y: Formula) -> Formula:
    """x_k - y_l, for each k one after the other."""
    entries = [apply("Elem", x, params=(k,)) for k in range(x.dim)]
    return concatenated([apply("Subtract", one, y) for one in entries])


def _bspline(knots: Formula, x: Formula, order: int) -> Formula:
    """De Boor's recursion; 0 where knots coincide."""

    def part(start: int, length: int) -> Formula:
        return apply("Extract", knots, params=(start, length))

    n = knots.dim - 1
    left, right = part(0, n), part(1, n)
    out = _times(apply("LessOrEqual", left, x), apply("LessThan", x, right))
    for k in range(1, order + 1):
        n = knots.dim - k
        width = apply("Subtract", part(k, n), part(0, n))
        there = apply("LessThan", 0, width)
        safe = apply("Add", width, apply("Subtract", 1, there))
        ratio = _times(there, apply("Divide", apply("Subtract", x, part(0, n)), safe))
        rising = _times(
            apply("Extract", ratio, params=(0, n - 1)), apply("Extract", out, params=(0, n - 1))
        )
        falling = _times(
            apply("Subtract", 1, apply("Extract", ratio, params=(1, n - 1))),
            apply("Extract", out, params=(1, n - 1)),
        )
        out = apply("Add", rising, falling)
    return out


LONGEST_DTW = 12  # the derivatives are long expressions: each path through the pairs adds to them


def _soft_min(lib: Any, gamma: Any, x: Any, y: Any) -> Any:
    return -gamma * lib.xp.logaddexp(-x / gamma, -y / gamma)


def _soft_min_adjoint(f: Formula, e: Formula) -> Sequence[Formula | None]:
    gamma, *given = f.args
    weights = [apply("Exp", apply("Divide", apply("Subtract", f, x), gamma)) for x in given]
    mean = total([_times(w, x) for w, x in zip(weights, given, strict=True)])
    slope = apply("Divide", apply("Subtract", f, mean), gamma)
    return [_times(slope, e), *[_times(w, e) for w in weights]]


def _soft_dtw(x: Formula, y: Formula, gamma: Formula) -> Formula:
    """The soft least cost of a path from (0, 0) to the last entries of x and y, by steps to the
    next entry of one or of both.
    """
    rows: list[list[Formula]] = []
    for i in range(x.dim):
        row: list[Formula] = []
        for j in range(y.dim):
            entries = (apply("Elem", x, params=(i,)), apply("Elem", y, params=(j,)))
            cost = apply("Square", apply("Subtract", *entries))
            before = [rows[-1][j]] if i else []
            before += [row[-1]] if j else []
            before += [rows[-1][j - 1]] if i and j else []
            for k, least in enumerate(before):
                before[k] = least if k == 0 else apply("SoftMin", gamma, before[k - 1], least)
            row.append(apply("Add", cost, before[-1]) if before else cost)
        rows.append(row)
    return rows[-1][-1]


def _soft_dtw_dims(dims: Sequence[int], params: Params) -> int:
    if dims[2] != 1:
        raise ValueError(f"expects a gamma of dimension 1. Received {dims[2]}.")
    if dims[0] * dims[1] > LONGEST_DTW:
        raise ValueError(
            f"is for short series, of at most {LONGEST_DTW} pairs of entries. Received "
            f"{dims[0]} x {dims[1]}."
        )
    return 1


# -- complex numbers -------------------------------------------------------------------------------


def _complex(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(lib, *values)` of complex values; those of interleaved parts are joined first."""

    def compute(lib: Any, f: Formula, *values: Any) -> Any:
        return function(lib, *[lib.as_complex(v) for v in values])

    return compute


IN_PAIRS = ("Add", "Subtract", "Minus")  # the same of complex numbers and of their parts
OF_REALS = ("Real2Complex", "Imag2Complex", "ComplexExp1j", "ComplexRealScal")  # the first argument
TO_REALS = ("ComplexReal", "ComplexImag", "ComplexAbs", "ComplexSquareAbs", "ComplexAngle")


def of_pairs(f: Formula) -> Formula:
    """The formula as KeOps reads it in a string: what is not called complex takes complex numbers
    as pairs of real ones.
    """
    return Formula(OF_PAIRS, (f,), (), f.dim)


def _paired(f: Formula) -> Formula:
    done: dict[int, tuple[Formula, bool]] = {}  # the new formula, and whether it is complex
    for node in walk(f):
        given, name = [done[id(a)] for a in node.args], node.row.name
        if name.startswith("Complex") or name in ("Conj", "Real2Complex", "Imag2Complex"):
            real, out = [name in OF_REALS, False][: len(given)], name not in TO_REALS
        else:
            out = name in IN_PAIRS and all(complex_ for _, complex_ in given)
            real = [not out] * len(given)
        args = tuple(
            [
                Formula(PAIRS, (a,), (), a.dim) if complex_ and wanted else a
                for (a, complex_), wanted in zip(given, real, strict=True)
            ]
        )
        if any(a is not old for a, old in zip(args, node.args, strict=True)):
            node, old = Formula(node.row, args, node.params, node.dim), node
            done[id(old)] = node, out
        else:
            done[id(node)] = node, out
    return done[id(f)][0]


def _fitted(part: Formula, a: Formula) -> Formula:
    """What an argument that was broadcast gets of a cotangent."""
    return part if part.dim == a.dim else apply("ComplexSum", part)


def _complex_product_adjoint(f: Formula, e: Formula) -> Sequence[Formula | None]:
    z, w = f.args
    return [
        _fitted(apply("ComplexMult", apply("Conj", other), e), a) for a, other in ((z, w), (w, z))
    ]


def _complex_quotient_adjoint(f: Formula, e: Formula) -> Sequence[Formula | None]:
    z, w = f.args
    part = apply("ComplexDivide", e, apply("Conj", w))
    return [
        _fitted(part, z),
        _fitted(apply("Minus", apply("ComplexMult", apply("Conj", f), part)), w),
    ]


def _complex_scaled_adjoint(f: Formula, e: Formula) -> Sequence[Formula | None]:
    x, z = f.args
    of_x = apply("ComplexReal", apply("ComplexMult", apply("Conj", z), e))
    return [of_x, _fitted(apply("ComplexRealScal", x, e), z)]


def _phase_adjoint(f: Formula, e: Formula) -> Sequence[Formula | None]:
    z = f.args[0]
    part = apply("Divide", e, apply("ComplexSquareAbs", z))
    return [apply("ComplexMult", apply("Imag2Complex", part), z)]


def _wave_adjoint(f: Formula, e: Formula) -> Sequence[Formula | None]:
    return [apply("ComplexImag", apply("ComplexMult", apply("Conj", f), e))]


def _doubled(dims: Sequence[int], params: Params) -> int:
    return 2 * dims[0]


def _halved(dims: Sequence[int], params: Params) -> int:
    if dims[0] % 2:
        raise ValueError(f"expects pairs of real and imaginary parts. Received {dims[0]} entries.")
    return dims[0] // 2


def _complex_common(dims: Sequence[int], params: Params) -> int:
    return 2 * common([_halved([d], params) for d in dims])


def _scaled_complex(dims: Sequence[int], params: Params) -> int:
    return 2 * common([dims[0], _halved(dims[1:], params)])


def _complex_times_real(lib: Any, f: Formula, x: Any, z: Any) -> Any:
    return x * lib.as_complex(z)


# -- the table -------------------------------------------------------------------------------------

VAR = Row("Var", one)
OF_PAIRS = Row("OfPairs", lambda dims, params: dims[0], made=_paired)
PAIRS = Row(
    "Pairs",
    lambda dims, params: dims[0],
    lambda lib, f, z: lib.pairs(z),
    lambda f, e: [e],
)
NUMBER = Row("Number", one, lambda lib, f: f.params[0], _no_slope)


def _rows() -> Iterator[Row]:
    def number(dims: Sequence[int], params: Params) -> int:
        return 1

    yield Row("IntCst", number, lambda lib, f: f.params[0], _no_slope)
    yield Row("IntInv", number, lambda lib, f: 1 / f.params[0], _no_slope)
    yield Row("RatCst", number, lambda lib, f: f.params[0] / f.params[1], _no_slope)
    yield Row("Zero", lambda dims, params: params[0], lambda lib, f: 0.0, _no_slope)

    def entrywise(name: str, function: Callable[..., Any], adjoint: Any, infix: str = "") -> Row:
        return Row(name, common, _entrywise(function), adjoint, infix=infix)

    def minus(e: Formula) -> Formula:
        return apply("Minus", e)

    yield entrywise("Add", lambda lib, x, y: x + y, lambda f, e: [e, e], "+")
    yield entrywise("Subtract", lambda lib, x, y: x - y, lambda f, e: [e, minus(e)], "-")
    yield entrywise(
        "Mult",
        lambda lib, x, y: x * y,
        lambda f, e: [_times(f.args[1], e), _times(f.args[0], e)],
        "*",
    )
    yield entrywise(
        "Divide",
        lambda lib, x, y: x / y,
        lambda f, e: [
            apply("Divide", e, f.args[1]),
            minus(_times(e, apply("Divide", f.args[0], apply("Square", f.args[1])))),
        ],
        "/",
    )
    yield entrywise("Minus", lambda lib, x: -x, lambda f, e: [minus(e)])
    yield entrywise(
        "Inv", lambda lib, x: 1 / x, _slope(lambda x: minus(apply("Pow", x, params=(-2,))))
    )
    yield entrywise("Square", lambda lib, x: x * x, _slope(lambda x: _times(2, x)))
    yield entrywise(
        "Sqrt",
        lambda lib, x: lib.root(x),
        _slope(lambda x: apply("Divide", apply("Rsqrt", x), 2)),
    )
    yield entrywise(
        "Rsqrt",
        lambda lib, x: lib.but_zero(lambda v: v**-0.5, x),
        _slope(lambda x: apply("Divide", apply("Pow", apply("Rsqrt", x), params=(3,)), -2)),
    )
    yield Row(
        "Pow",
        common,
        lambda lib, f, x: x ** f.params[0],
        lambda f, e: [_times(_scaled_power(f.args[0], f.params[0]), e)],
    )
    yield entrywise("Powf", lambda lib, x, p: x**p, _power_adjoint)
    yield entrywise("Exp", lambda lib, x: lib.xp.exp(x), lambda f, e: [_times(f, e)])
    yield entrywise("Log", lambda lib, x: lib.xp.log(x), _slope(lambda x: apply("Inv", x)))
    yield entrywise(
        "XLogX",
        lambda lib, x: lib.but_zero(lambda v: v * lib.xp.log(v), x),
        _slope(lambda x: apply("Add", apply("Log", x), 1)),
    )
    yield entrywise("Cos", lambda lib, x: lib.xp.cos(x), _slope(lambda x: minus(apply("Sin", x))))
    yield entrywise("Sin", lambda lib, x: lib.xp.sin(x), _slope(lambda x: apply("Cos", x)))
    yield entrywise(
        "SinXDivX",
        lambda lib, x: lib.xp.sinc(x / math.pi),
        _slope(
            lambda x: apply(
                "IfElse",
                minus(apply("Abs", x)),
                0.0,
                apply(
                    "Divide",
                    apply("Subtract", apply("Cos", x), apply("SinXDivX", x)),
                    apply("Add", x, apply("Equal", x, 0)),
                ),
            )
        ),
    )

    def root(x: Formula) -> Formula:
        return apply("Rsqrt", apply("Subtract", 1, apply("Square", x)))

    yield entrywise("Asin", lambda lib, x: lib.xp.asin(x), _slope(root))
    yield entrywise("Acos", lambda lib, x: lib.xp.acos(x), _slope(lambda x: minus(root(x))))
    yield entrywise(
        "Atan",
        lambda lib, x: lib.xp.atan(x),
        _slope(lambda x: apply("Inv", apply("Add", 1, apply("Square", x)))),
    )
    yield entrywise("Atan2", lambda lib, y, x: lib.xp.atan2(y, x), _angle_adjoint)
    yield entrywise("Abs", lambda lib, x: abs(x), _slope(lambda x: apply("Sign", x)))
    yield entrywise("Sign", lambda lib, x: lib.xp.sign(x), _no_slope)
    yield entrywise("Floor", lambda lib, x: lib.xp.floor(x), _no_slope)
    yield Row("Round", common, lambda lib, f, x: lib.round(x, *f.params), _no_slope)
    yield Row("Step", common, _mask(lambda lib, x: x >= 0), _no_slope)
    yield Row("Equal", common, _mask(lambda lib, x, y: x == y), _no_slope)
    yield Row("NotEqual", common, _mask(lambda lib, x, y: x != y), _no_slope)
    for name, compare, sign in (
        ("LessThan", operator.lt, "<"),
        ("LessOrEqual", operator.le, "<="),
        ("GreaterThan", operator.gt, ">"),
        ("GreaterOrEqual", operator.ge, ">="),
    ):
        yield Row(name, common, _mask(lambda lib, x, y, c=compare: c(x, y)), _no_slope, infix=sign)
    yield entrywise("ReLU", lambda lib, x: lib.relu(x), _slope(lambda x: apply("Step", x)))
    yield entrywise(
        "IfElse",
        lambda lib, c, x, y: lib.where(c >= 0, x, y),
        lambda f, e: [None, apply("IfElse", f.args[0], e, 0), apply("IfElse", f.args[0], 0, e)],
    )
    yield Row("Clamp", common, made=_clamp)
    yield Row(
        "ClampInt",
        common,
        lambda lib, f, x: lib.clip(x, *f.params),
        lambda f, e: [_times(apply("DiffClampInt", f.args[0], params=f.params), e)],
    )
    yield Row(
        "DiffClampInt",
        common,
        lambda lib, f, x: lib.as_numbers((x >= f.params[0]) & (x <= f.params[1]), (x,)),
        _no_slope,
    )
    yield Row("Mod", common, made=_modulo)

    # sums and norms
    yield Row("Sum", one, _sum, lambda f, e: [_spread(e, f.args[0].dim)])
    # an axis of length 1 stands for one of any: it is broadcast where it meets others
    yield Row("SumT", _positive, lambda lib, f, x: x, lambda f, e: [apply("Sum", e)])
    yield Row(
        "Scalprod",
        one_of_equal,
        _scalar_product,
        lambda f, e: [_times(f.args[1], e), _times(f.args[0], e)],
        infix="|",
    )
    yield Row("SqNorm2", one, _square_norm, lambda f, e: [_times(_times(2, f.args[0]), e)])
    yield Row(
        "SqDist",
        one_of_equal,
        _square_distance,
        lambda f, e: [
            _times(_times(2, apply("Subtract", *f.args)), e),
            _times(_times(-2, apply("Subtract", *f.args)), e),
        ],
    )
    yield Row("Norm2", one, made=lambda x: apply("Sqrt", apply("SqNorm2", x)))
    yield Row(
        "Normalize",
        lambda dims, params: dims[0],
        made=lambda x: _times(apply("Rsqrt", apply("SqNorm2", x)), x),
    )
    yield Row("WeightedSqNorm", _weighted, made=_weighted_square_norm)
    yield Row(
        "WeightedSqDist",
        _weighted,
        made=lambda s, x, y: apply("WeightedSqNorm", s, apply("Subtract", x, y)),
    )
    for name in ("SqNormIso", "SqNormDiag", "SymSqNorm"):
        yield Row(name, _weighted, made=_weighted_square_norm)

    # inner extremes, and places
    yield Row("Max", one, _inner("max"), _picked_adjoint("ArgMax"))
    yield Row("Min", one, _inner("min"), _picked_adjoint("ArgMin"))
    yield Row("ArgMax", one, _inner("argmax"), _no_slope)
    yield Row("ArgMin", one, _inner("argmin"), _no_slope)
    yield Row(
        "Elem",
        lambda dims, params: _part(dims, (params[0], 1)),
        made=lambda x, k: apply("Extract", x, params=(k, 1)),
    )
    yield Row(
        "ElemT",
        lambda dims, params: _placed(dims, (params[1], params[0])),
        made=lambda x, n, k: apply("ExtractT", x, params=(k, n)),
    )
    yield Row(
        "Extract",
        _part,
        _extract,
        lambda f, e: [apply("ExtractT", e, params=(f.params[0], f.args[0].dim))],
    )
    yield Row(
        "ExtractT",
        _placed,
        _put,
        lambda f, e: [apply("Extract", e, params=(f.params[0], f.args[0].dim))],
    )
    yield Row(
        "Concat",
        lambda dims, params: sum(dims),
        _concatenate,
        lambda f, e: [
            apply("Extract", e, params=(0, f.args[0].dim)),
            apply("Extract", e, params=(f.args[0].dim, f.args[1].dim)),
        ],
    )
    yield Row("OneHot", _positive, _one_hot, _no_slope)

    # tensors, row after row
    yield Row("TensorDot", _dot_dims, _tensordot, _dot_adjoint)
    yield Row("TensorProd", _product, made=_outer)
    yield Row("MatVecMult", _quotient(0), made=_matrix_vector)
    yield Row("VecMatMult", _quotient(1), made=_vector_matrix)
    yield Row("Kron", _product, made=_kronecker)
    yield Row("DifferenceMatrix", _product, made=_differences)
    yield Row("BSpline", lambda dims, params: dims[0] - params[0] - 1, made=_bspline)

    yield entrywise("SoftMin", _soft_min, _soft_min_adjoint)
    yield Row("SoftDTW_SqDist", _soft_dtw_dims, made=_soft_dtw)

    # derivatives
    yield Row("Grad", lambda dims, params: dims[1], made=gradient)
    yield Row("Diff", lambda dims, params: dims[0], made=tangent)
    yield Row("Divergence", one, made=divergence)
    yield Row("TraceOperator", one, made=divergence)
    yield Row("Laplacian", one, made=laplacian)
    yield Row("GradMatrix", _product, made=gradient_matrix)
    yield Row("AdjointOperator", lambda dims, params: dims[1], made=gradient)
    yield Row("Factorize", lambda dims, params: dims[0], made=lambda f, g: f)
    yield Row("AutoFactorize", lambda dims, params: dims[0], made=lambda f: f)

    # complex numbers, of two entries each
    def complex_row(name: str, dim: Any, function: Callable[..., Any], adjoint: Any) -> Row:
        return Row(name, dim, _complex(function), adjoint)

    def same(dims: Sequence[int], params: Params) -> int:
        return dims[0]

    def to(name: str) -> Callable[..., Sequence[Formula | None]]:
        return lambda f, e: [apply(name, e)]

    yield Row("Real2Complex", _doubled, lambda lib, f, x: lib.complex(x, 0.0), to("ComplexReal"))
    yield Row("Imag2Complex", _doubled, lambda lib, f, x: lib.complex(0.0, x), to("ComplexImag"))
    yield complex_row("ComplexReal", _halved, lambda lib, z: lib.real(z), to("Real2Complex"))
    yield complex_row("ComplexImag", _halved, lambda lib, z: lib.imag(z), to("Imag2Complex"))
    yield complex_row("Conj", same, lambda lib, z: lib.xp.conj(z), to("Conj"))
    yield complex_row(
        "ComplexAbs",
        _halved,
        lambda lib, z: abs(z),
        lambda f, e: [
            apply(
                "ComplexRealScal",
                _times(apply("Rsqrt", apply("ComplexSquareAbs", f.args[0])), e),
                f.args[0],
            )
        ],
    )
    yield complex_row(
        "ComplexSquareAbs",
        _halved,
        lambda lib, z: lib.real(z) ** 2 + lib.imag(z) ** 2,
        lambda f, e: [apply("ComplexRealScal", _times(2, e), f.args[0])],
    )
    yield complex_row("ComplexAngle", _halved, lambda lib, z: lib.xp.angle(z), _phase_adjoint)
    yield complex_row(
        "ComplexSum",
        lambda dims, params: 2,
        lambda lib, z: lib.sum(z),
        lambda f, e: [apply("ComplexSumT", e, params=(f.args[0].dim,))],
    )
    yield Row(
        "ComplexSumT",
        lambda dims, params: params[0],
        lambda lib, f, z: lib.broadcast(lib.as_complex(z), f.dim // 2),
        to("ComplexSum"),
    )
    yield complex_row(
        "ComplexExp",
        same,
        lambda lib, z: lib.xp.exp(z),
        lambda f, e: [apply("ComplexMult", apply("Conj", f), e)],
    )
    yield Row("ComplexExp1j", _doubled, lambda lib, f, x: lib.xp.exp(1j * x), _wave_adjoint)
    for name, function, adjoint in (
        ("ComplexMult", operator.mul, _complex_product_adjoint),
        ("ComplexAdd", operator.add, lambda f, e: [_fitted(e, a) for a in f.args]),
        (
            "ComplexSubtract",
            operator.sub,
            lambda f, e: [_fitted(e, f.args[0]), _fitted(minus(e), f.args[1])],
        ),
        ("ComplexDivide", operator.truediv, _complex_quotient_adjoint),
    ):
        yield complex_row(name, _complex_common, lambda lib, z, w, op=function: op(z, w), adjoint)
    yield Row("ComplexRealScal", _scaled_complex, _complex_times_real, _complex_scaled_adjoint)


TABLE = {one.name: one for one in _rows()}


def row(name: str) -> Row:
    """The row of this name, of variables and numbers too."""
    return {"Var": VAR, "Number": NUMBER, "OfPairs": OF_PAIRS, "Pairs": PAIRS}.get(name) or TABLE[
        name
    ]
