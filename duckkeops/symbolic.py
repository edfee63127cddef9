"""Nodes -> scalar SymPy expressions over opaque symbols, and their derivatives.

An element `x0[i,d]` is a SymPy *atom* (`Elem`) whose name carries its base and its indices. A value
in between is an atom too: `t3[i,j]` stands for a definition in `Program.defs`, either one operation
(`Let`) or a fold over an index (`Fold`). So SymPy never sees a whole formula unless we show it one:
it cannot expand (x - y)**2, cancel x - x (which is NaN where x is infinite), reorder a sum, or take
time that grows with the number of features. `Program.inline` shows the algebra to SymPy where that
is wanted, and `Program.opened` most of it: for LaTeX, and for derivatives.

Measured for one Gaussian over three features: an element as a Symbol makes (x - y)**2 in 3.5 us, as
SymPy's Indexed in 60 us; SymPy's own unrolled derivatives take 11 s at 128 features, these 10 ms at
any number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import sympy
from sympy.core.function import PoleError

from duckkeops import functions as fn
from duckkeops.expr import Apply, Broadcast, Input, Node, Reduce, Scalar, Vjp, is_constant
from duckkeops.tidy import tidy

FEATURE_LETTERS = "defgh"
COLUMN_LETTERS = "jkl"
S = fn.S

Index = tuple[str, ...]
Env = tuple["str | None", ...]
Terms = list[tuple[Any, tuple]]  # coefficients, each with the pairs of indices that must still meet


class Elem(sympy.Symbol):
    """A symbol named 'base[i,d]'.

    Its fields are read off the name, so pickling and equality are Symbol's own.
    """

    __slots__ = ("base", "idx")
    base: str
    idx: Index

    def __new__(cls, name: str, **assumptions: bool) -> Elem:
        self = super().__new__(cls, name, **assumptions)
        base, _, rest = name.partition("[")
        self.base, self.idx = base, tuple(rest[:-1].split(",")) if rest[:-1] else ()
        return self


def elem(base: str, idx: Iterable[str], nonnegative: bool = False, real: bool = True) -> Elem:
    facts = {"nonnegative": True} if nonnegative else {"real": True} if real else {}
    return Elem(f"{base}[{','.join(idx)}]", **facts)


def elems(e: Any) -> list[Elem]:
    """The Elems of an expression, by name, so that every process sees the same order."""
    return sorted((a for a in e.free_symbols if isinstance(a, Elem)), key=lambda a: a.name)


def indices(e: Any) -> frozenset[str]:
    """All indices of an expression, those that only `delta` names included."""
    out: set[str] = set()
    for a in e.free_symbols:
        out.update(
            a.idx if isinstance(a, Elem) else [a.name] if isinstance(a, fn.IndexSymbol) else []
        )
    return frozenset(out)


@dataclass(frozen=True)
class Let:
    """One operation over Elems."""

    expr: Any
    idx: Index


@dataclass(frozen=True)
class Fold:
    """`op` over the values of `body` for all values of the indices `over`."""

    op: str
    over: Index
    body: Any
    idx: Index


Split = tuple[tuple[Any, Any], ...]  # of a sum over an index: see Program._split
Row = tuple[str, Index]  # of an input, and the indices of points that it is taken at


@dataclass(frozen=True)
class Below:
    """What a definition is made of: symbols, each with the rows that change it; all those rows.

    `waist`: a row changes several of the symbols.
    """

    symbols: dict[Any, frozenset[Row]]
    rows: frozenset[Row]
    waist: bool


@dataclass
class Program:
    """A pairwise expression: definitions of opaque symbols, the dtypes of all bases, the sizes of
    all indices.

    `sizes[index]` is the length of a feature index, or None if it is known at launch only.
    `sources[index]` says where a length that is known at launch comes from, for indices of inner
    folds.
    """

    defs: dict[str, Let | Fold] = field(default_factory=dict)
    types: dict[str, np.dtype] = field(default_factory=dict)
    sizes: dict[str, int | None] = field(default_factory=dict)
    sources: dict[str, tuple[int, int]] = field(default_factory=dict)
    inputs: dict[str, tuple[int, tuple[int, ...]]] = field(
        default_factory=dict
    )  # base -> node number, axes of its idx
    ordered: bool = False  # folds of one term have to be rounded alike in every loop
    _names: dict[Any, Elem] = field(default_factory=dict)
    _below: dict[str, Below] = field(default_factory=dict)
    _slopes: dict[tuple, Terms] = field(default_factory=dict)  # of waists

    # -- definitions -------------------------------------------------------------------------------

    def order(self, idx: Iterable[str]) -> Index:
        """Indices in the order in which the program first met them."""
        rank = {c: n for n, c in enumerate(self.sizes)}
        return tuple(sorted(idx, key=rank.__getitem__))

    def let(self, expr: Any, dtype: np.dtype, keep: bool = False) -> Any:
        """The symbol that stands for `expr`; one that is kept never merges with an equal one."""
        if isinstance(expr, Elem) and not keep and self.types[expr.base] == dtype:
            return expr
        what = Let(expr, self.order(indices(expr)))
        return self._define(what, dtype, "u" if keep else "t", bool(expr.is_nonnegative), keep)

    def fold(self, op: str, over: Index, body: Any, dtype: np.dtype) -> Any:
        sign = op in ("sum", "min", "max", "prod") and bool(body.is_nonnegative)
        return self._define(
            Fold(op, over, body, self.order(indices(body) - set(over))), dtype, "s", sign
        )

    def _define(
        self, what: Let | Fold, dtype: np.dtype, letter: str, nonnegative: bool, keep: bool = False
    ) -> Elem:
        key = (what, dtype, len(self.defs) if keep else None)
        if key not in self._names:
            base = f"{letter}{len(self.defs)}"
            self.defs[base], self.types[base] = what, dtype
            real = dtype.kind != "c"
            self._names[key] = elem(base, what.idx, nonnegative and real, real)
        return self._names[key]

    def definition(self, a: Elem) -> Let | Fold | None:
        """What `a` stands for, in a's own indices; None for an input."""
        what = self.defs.get(a.base)
        if what is None or what.idx == a.idx:
            return what
        sub = dict(zip(what.idx, a.idx, strict=True))
        if isinstance(what, Let):
            return Let(self.rename(what.expr, sub), a.idx)
        return self._renamed_fold(what, sub, a.idx)

    def _renamed_fold(self, what: Fold, sub: dict[str, str], idx: Index) -> Fold:
        taken = {*idx, *what.over, *indices(what.body), *self.bound(what.body)}
        away = self._fresh(
            (c for c in what.over if c in idx), taken
        )  # do not capture: the bound index makes way
        over = tuple(away.get(c, c) for c in what.over)
        return Fold(what.op, over, self.rename(what.body, sub | away), idx)

    def bound(self, e: Any) -> set[str]:
        """All indices that folds inside e bind."""
        out: set[str] = set()
        todo, seen = elems(e), set()
        while todo:
            a = todo.pop()
            what = self.defs.get(a.base)
            if what is None or a.base in seen:
                continue
            seen.add(a.base)
            if isinstance(what, Fold):
                out.update(what.over)
            todo += elems(what.body if isinstance(what, Fold) else what.expr)
        return out

    def rename(self, e: Any, sub: dict[str, str]) -> Any:
        """Replace indices in the expression; a definition's are in its Elem's idx."""
        moved: dict[Any, Any] = {}
        for a in e.free_symbols:
            if isinstance(a, Elem):
                idx = tuple(sub.get(c, c) for c in a.idx)
                if idx != a.idx:
                    moved[a] = elem(a.base, idx, bool(a.is_nonnegative), bool(a.is_real))
            elif isinstance(a, fn.IndexSymbol) and a.name in sub:
                moved[a] = fn.IndexSymbol(sub[a.name])
        return e.xreplace(moved) if moved else e

    # -- indices -----------------------------------------------------------------------------------

    def feature(self, size: int, taken: Iterable[str]) -> str:
        """A feature index of this length that is not taken."""
        taken = set(taken)
        for n in range(len(self.sizes) + len(FEATURE_LETTERS) + 1):
            name = FEATURE_LETTERS[n] if n < len(FEATURE_LETTERS) else f"d{n}"
            if name not in taken and self.sizes.get(name, size) == size:
                self.sizes[name] = size
                return name
        raise AssertionError("an index name is always left")

    def launch_index(self, source: tuple[int, int], taken: Iterable[str]) -> str:
        """An index over an axis whose length is known at launch.

        `source` is (node number, axis).
        """
        taken = set(taken)
        for name, other in self.sources.items():
            if other == source and name not in taken:
                return name
        name = f"n{len(self.sources)}"
        self.sizes[name], self.sources[name] = None, source
        return name

    def fresh_like(self, name: str, taken: Iterable[str]) -> str:
        size = self.sizes[name]
        if size is None:
            return self.launch_index(self.sources[name], {*taken, name})
        return self.feature(size, {*taken, name})

    # -- algebra -----------------------------------------------------------------------------------

    def inline(self, e: Any) -> Any:
        """e with all Lets replaced by what they stand for.

        Inputs and folds are left, and SymPy may do its algebra.
        """
        while True:
            new = {a: what.expr for a in elems(e) if isinstance(what := self.definition(a), Let)}
            if not new:
                return ours(e)
            e = e.xreplace(new)

    def opened(self, e: Any) -> Any:
        """As `inline`, but waists that a function or a root takes in stay symbols.

        A waist is a Let of several symbols that change with one and the same row: c = x.y / (|x|
        |y|). Near |c| = 1, x.y and |x| must not be varied by themselves in acos(c): the third
        derivatives then are sums of terms 10^5 times as large, at 1 - |c| = 0.006. c as a whole
        varies little.
        """
        self._find_waists(e)
        while True:
            lets = {a: w.expr for a in elems(e) if isinstance(w := self.definition(a), Let)}
            new = {a: x for a, x in lets.items() if not self._below[a.base].waist}
            if not new:
                kept = bent(e)
                new = {a: x for a, x in lets.items() if a not in kept}
            if not new:
                return ours(e)
            e = e.xreplace(new)

    def _find_waists(self, e: Any) -> None:
        """Fills `_below` for all definitions that e is made of."""
        found: set[str] = set()
        todo = elems(e)
        while todo:
            what = self.defs.get(base := todo.pop().base)
            if what is not None and base not in found and base not in self._below:
                found.add(base)
                todo += elems(what.body if isinstance(what, Fold) else what.expr)
        for base in [b for b in self.defs if b in found]:  # in the order of their definition
            self._below[base] = self._made_of(self.defs[base])

    def _made_of(self, what: Let | Fold) -> Below:
        """What a definition is made of, where `_below` knows those in it."""
        symbols: dict[Any, frozenset[Row]] = {}
        for a in elems(what.body if isinstance(what, Fold) else what.expr):
            symbols.update(self._symbols(a))
        rows = frozenset().union(*symbols.values())
        if isinstance(what, Fold):
            bound = set(what.over)
            rows = frozenset((x, tuple(c for c in at if c not in bound)) for x, at in rows)
            return Below({}, rows, False)
        return Below(symbols, rows, sum(map(len, symbols.values())) > len(rows))

    def _symbols(self, a: Elem) -> dict[Any, frozenset[Row]]:
        """The symbols that a is a function of, each with the rows that change it."""
        below = self._below.get(a.base)
        if below is None:
            return {a: frozenset({(a.base, tuple(c for c in a.idx if self.sizes[c] is None))})}
        sub = dict(zip(self.defs[a.base].idx, a.idx, strict=True))

        def renamed(rows: frozenset[Row]) -> frozenset[Row]:
            return frozenset((x, tuple(sub.get(c, c) for c in at)) for x, at in rows)

        if below.waist or isinstance(self.defs[a.base], Fold):
            return {a: renamed(below.rows)}
        if self.defs[a.base].idx == a.idx:
            return below.symbols
        return {self.rename(b, sub): renamed(rows) for b, rows in below.symbols.items()}

    def depends(self, e: Any, leaf: str) -> bool:
        todo, seen = elems(e), set()
        while todo:
            a = todo.pop()
            if a.base == leaf:
                return True
            what = self.defs.get(a.base)
            if what is not None and a.base not in seen:
                seen.add(a.base)
                todo += elems(what.body if isinstance(what, Fold) else what.expr)
        return False

    def dtype_of(self, e: Any) -> np.dtype | None:
        """The dtype of an expression; None for a bare number."""
        if isinstance(e, Elem):
            return self.types[e.base]
        if isinstance(e, fn.cast):
            return np.dtype(e.args[1].name)
        if isinstance(e, (fn.delta, fn.IndexSymbol)) or not e.args:
            return None
        kinds = [self.dtype_of(a) for a in e.args]
        if isinstance(e, fn.Elementwise):
            return e.dtype_of(kinds)
        return fn.common_dtype(e.args, kinds)

    def own_dtype(self, e: Any, dtype: np.dtype) -> np.dtype:
        """The dtype of an expression whose bare numbers have this one."""
        own = self.dtype_of(e)
        if own is None:
            return fn.complex_dtype(dtype) if fn.is_complex(e) else dtype
        return own

    def cast(self, e: Any, dtype: np.dtype) -> Any:
        """e in another dtype; numbers have none."""
        own = self.dtype_of(e)
        return e if own is None or own == dtype else fn.cast(e, sympy.Symbol(dtype.name))

    def times(self, a: Any, b: Any) -> Any:
        """a*b, in their common dtype: the links of a chain rule may compute in different ones."""
        kinds = [t for t in (self.dtype_of(a), self.dtype_of(b)) if t is not None]
        if len(set(kinds)) < 2:
            return a * b
        common = np.result_type(*kinds)
        return self.cast(a, common) * self.cast(b, common)

    def sum(self, index: str, body: Any, dtype: np.dtype) -> Any:
        """The sum over an index; what does not depend on the index leaves it.

        `dtype` is that of bare numbers.
        """
        return self._summed(index, self._split(index, body), dtype)

    def _summed(self, index: str, split: Split, dtype: np.dtype) -> Any:
        terms = []
        for outside, inside in split:
            size = self.sizes[index]
            if isinstance(inside, tuple):
                terms.append(self.times(outside, self._summed(index, inside, dtype)))
            elif inside == 1 and size is not None:
                terms.append(outside * size)
            else:
                own = self.own_dtype(inside, dtype)
                terms.append(self.times(outside, self.fold("sum", (index,), inside, own)))
        return sympy.Add(*terms)

    def _split(self, index: str, e: Any) -> Split:
        """((factor without the index, the sum's body, or what that is split into), ...).

        Products open only over sums whose terms have such factors, and their own such factors stay
        outside: the terms may nearly cancel.
        """
        if index not in indices(e):
            return ((e, sympy.S.One),)
        if e.is_Add:
            groups: dict[Any, list[Any]] = {}
            nested = []
            for term in e.args:
                for outside, inside in self._split(index, term):
                    if isinstance(inside, tuple):
                        nested.append((outside, inside))
                    else:
                        groups.setdefault(outside, []).append(inside)
            if nested or any(not outside.is_number for outside in groups):
                merged = [(outside, sympy.Add(*inside)) for outside, inside in groups.items()]
                return (*merged, *nested)
            if len({abs(outside) for outside in groups}) == 1:  # 2*x - 2*y is 2*(x - y)
                c = next(iter(groups))
                signed = (
                    i if outside == c else -i for outside, inside in groups.items() for i in inside
                )
                return ((c, sympy.Add(*signed)),)
        if e.is_Mul:
            free = sympy.Mul(*(f for f in e.args if index not in indices(f)))
            split: Split = ((sympy.S.One, sympy.S.One),)
            for factor in e.args:
                if index in indices(factor):
                    split = _product(split, self._split(index, factor))
            if len(split) == 1 or free.is_number:
                return tuple((free * outside, inside) for outside, inside in split)
            return ((free, split),)
        return ((sympy.S.One, e),)

    # -- differentiation ---------------------------------------------------------------------------

    def diff(
        self, e: Any, leaf: str, target: Index, fixed: Iterable[str] = (), seed: Any = sympy.S.One
    ) -> Terms:
        """d e / d leaf[target]: SymPy's derivative of scalars, our chain rule through folds.

        `fixed` are the target indices that e has too: there leaf[target] is met as it is, at the
        others in folds. Of a complex leaf this is the derivative along `seed`: 1 for its real part,
        the imaginary unit for the other.
        """
        found: dict[tuple, Any] = {}
        fixed = frozenset(fixed)
        e = self.opened(e)
        own = self.dtype_of(e)
        for a in elems(e):
            if a.base == leaf:
                pairs = tuple((p, t) for p, t in zip(a.idx, target, strict=True) if p != t)
                inner = [(seed, pairs)] if fixed.isdisjoint(t for _, t in pairs) else []
            elif isinstance(what := self.definition(a), Let):
                key = (a, leaf, target, fixed, seed)
                if key not in self._slopes:
                    self._slopes[key] = self.diff(what.expr, leaf, target, fixed, seed)
                inner = self._slopes[key]
            else:
                inner = self._fold_terms(a, leaf, target, fixed, seed)
            if not inner:
                continue
            along = self._along(e, a)
            for c, pairs in inner:
                change = along(c) if own is None else self.cast(along(c), own)
                found[pairs] = found.get(pairs, 0) + change
        return [(c, pairs) for pairs, c in found.items() if c != 0]

    def _along(self, e: Any, a: Elem) -> Callable[[Any], Any]:
        """The derivative of e along a change of a, as a function of the change."""
        if a.is_real:
            de = derivative(e, a)
            return lambda c: self.times(de, c)
        t, w = (
            sympy.Symbol("step", real=True),
            elem("change", (), real=False),
        )  # real has no complex derivative
        de = e.xreplace({a: a + t * w}).diff(t).xreplace({t: sympy.S.Zero})
        return lambda c: fn.evaluated(de.xreplace({w: self.cast(c, self.types[a.base])}))

    def _fold_terms(
        self, a: Elem, leaf: str, target: Index, fixed: frozenset[str], seed: Any
    ) -> Terms:
        f = self.definition(a)
        if (
            not isinstance(f, Fold)
            or not self.depends(a, leaf)
            or f.op in ("argmin", "argmax", "any", "all")
        ):
            return []
        raw, over = self._out_of_the_way(f, target)
        dtype = self.types[a.base]
        body = self.opened(raw)
        terms = self.diff(body, leaf, target, fixed, seed)
        if terms and f.op in ("min", "max"):  # torch's amax: the gradient is shared among the ties
            # a fold of one term, which no algebra enters and which is rounded alike in every loop
            self.ordered = True
            alone = self.feature(1, {*target, *over, *indices(raw), *self.bound(raw)})
            each = self.fold("sum", (alone,), raw, self.dtype_of(raw) or dtype)
            hit = fn.where(
                fn.S.equal(each, self.fold(f.op, over, each, dtype)), sympy.S.One, sympy.S.Zero
            )
            count = hit
            for index in reversed(over):
                count = self.sum(index, count, dtype)
            terms = [(self.times(c, hit / count), pairs) for c, pairs in terms]
        elif terms and f.op == "prod":  # the product of all the others, right at zeros too
            others = self._others(over, body, dtype)
            terms = [(self.times(c, others), pairs) for c, pairs in terms]
        for index in reversed(over):
            terms = [self.collapse(index, c, pairs, dtype) for c, pairs in terms]
        return terms

    def _out_of_the_way(self, f: Fold, target: Index) -> tuple[Any, Index]:
        """The fold's body and its indices, none of them one of the target's."""
        taken = {*target, *f.over, *indices(f.body), *self.bound(f.body)}
        away = self._fresh((c for c in f.over if c in target), taken)
        return self.rename(f.body, away), tuple(away.get(c, c) for c in f.over)

    def _fresh(self, names: Iterable[str], taken: set[str]) -> dict[str, str]:
        away: dict[str, str] = {}
        for c in names:
            away[c] = self.fresh_like(c, {*taken, *away.values()})
        return away

    def _others(self, over: Index, body: Any, dtype: np.dtype) -> Any:
        away = self._fresh(over, {*over, *indices(body), *self.bound(body)})
        same = functools.reduce(fn.logical_and, (met(c, d) for c, d in away.items()))
        other = fn.where(same, sympy.S.One, self.rename(body, away))
        return self.fold("prod", tuple(away.values()), other, dtype)

    def collapse(self, index: str, c: Any, pairs: tuple, dtype: np.dtype) -> tuple[Any, tuple]:
        """The sum over `index`.

        A bound index that must meet a target index is renamed to it, and the sum is gone.
        """
        here = [t for p, t in pairs if p == index]
        rest = tuple(d for d in pairs if d[0] != index)
        if here:
            c = self.rename(c, {index: here[0]})
            return c, rest + tuple((here[0], t) for t in here[1:])
        return self.sum(index, c, dtype), pairs


def _product(split: Split, other: Split) -> Split:
    """The split of the product of what two stand for."""
    return tuple((a * b, _inside(u, v)) for a, u in split for b, v in other)


def _inside(u: Any, v: Any) -> Any:
    if isinstance(u, tuple):
        return _product(u, v if isinstance(v, tuple) else ((sympy.S.One, v),))
    return _product(((sympy.S.One, u),), v) if isinstance(v, tuple) else u * v


def met(c: str, d: str) -> Any:
    """1 where two indices are equal, else 0."""
    return fn.delta(fn.IndexSymbol(c), fn.IndexSymbol(d))


def ours(e: Any) -> Any:
    """e without SymPy's own Abs, into which sqrt(x**2) evaluates.

    Its second derivative is a Dirac delta.
    """
    return e.replace(sympy.Abs, fn.abs) if e.has(sympy.Abs) else e


def bent(e: Any) -> set[Any]:
    """The symbols in arguments of functions and in powers that are no polynomials."""
    out: set[Any] = set()
    todo = [e]
    while todo:
        n = todo.pop()
        whole = n.is_Pow and n.exp.is_Integer and n.exp.is_positive
        if (n.is_Pow and not whole) or (n.is_Function and not isinstance(n, (fn.where, fn.cast))):
            out |= n.free_symbols
        else:
            todo += n.args
    return out


def derivative(e: Any, a: Elem) -> Any:
    """d e / d a of an inlined scalar, in its cheapest form, with 0/0 at a = 0 settled."""
    de = fn.evaluated(e.diff(a))
    if not de.is_Atom:
        de = ours(tidy(de, indices))
    return settle(e, de, a)


def settle(e: Any, de: Any, a: Elem) -> Any:
    """A removable 0/0 at a = 0 gets its limit; a true kink (an infinite limit) the subgradient 0,
    as in torch's norm.

    Only negative powers that differentiation brought in count: 1/r in the user's own formula stays
    infinite at 0. Guarding a removable one by 0 would be silently wrong (the Hessian of Matern-5/2
    at x = y), hence tidy, then limit.
    """
    own = {p.base for p in e.atoms(sympy.Pow) if p.exp.is_negative}
    half = [
        p
        for p in de.atoms(sympy.Pow)
        if p.base == a and p.exp.is_Rational and p.exp.q == 2 and p.exp < 0
    ]
    if not half or a in own:
        return guard(e, de)
    if isinstance(de, fn.where):
        return fn.where(de.args[0], settle(e, de.args[1], a), settle(e, de.args[2], a))
    if de.atoms(fn.Elementwise):
        return guard(e, de)  # SymPy's limits know nothing of our functions
    r = sympy.Symbol("r", positive=True)
    flat = de.xreplace({p: r ** (2 * p.exp) for p in de.atoms(sympy.Pow) if p.base == a}).xreplace(
        {a: r**2}
    )
    try:
        lim = sympy.limit(flat, r, 0, "+")
    except (NotImplementedError, ValueError, PoleError):
        return guard(e, de)
    if lim.has(sympy.oo, -sympy.oo, sympy.nan, sympy.zoo) or isinstance(lim, sympy.Limit):
        return guard(e, de)
    return fn.where(fn.S.equal(a, sympy.S.Zero), lim, de)


def guard(e: Any, de: Any) -> Any:
    """Make negative fractional powers which differentiation brought in 0 at 0.

    They stand for 0 * inf there.
    """
    own = {p.base for p in e.atoms(sympy.Pow) if p.exp.is_negative}
    new = {
        p: fn.pow0(p.base, p.exp)
        for p in de.atoms(sympy.Pow)
        if p.exp.is_number
        and p.exp.is_negative
        and not p.exp.is_integer
        and p.base not in own
        and not p.base.is_number
    }
    return de.xreplace(new) if new else de


# -- nodes -> program ------------------------------------------------------------------------------


def compute_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype that kernels compute in: half floats are widened."""
    return np.dtype(np.float32) if dtype.itemsize == 2 and dtype.kind not in "iub" else dtype


class _Below(Exception):
    """Too deep: this call's value is needed first."""


class Memo:
    """Values of a recursive function, by key. A long chain is walked in stretches, so that it needs
    no deep stack.

    The function may be started again after a call of itself: what it does before must be the same
    twice.
    """

    STRETCH = 40

    def __init__(self, function: Callable):
        self.function, self.known, self.depth = function, {}, 0

    def __call__(self, key: Any, *args: Any) -> Any:
        if key not in self.known:
            if self.depth == self.STRETCH:
                raise _Below(key, args)
            if self.depth:
                self._compute(key, args)
            else:
                self._start(key, args)
        return self.known[key]

    def _compute(self, key: Any, args: tuple) -> None:
        self.depth += 1
        try:
            self.known[key] = self.function(*args)
        finally:
            self.depth -= 1

    def _start(self, key: Any, args: tuple) -> None:
        todo = [(key, args)]
        while todo:
            try:
                self._compute(*todo[-1])
                todo.pop()
            except _Below as below:
                todo.append(below.args)  # type: ignore[arg-type]


class Translator:
    """Translates nodes under an environment.

    That is the index name of each axis, None where nothing depends on it.
    """

    def __init__(self, nodes: Sequence[Node]):
        self.program = Program()
        self.numbers = {id(n): k for k, n in enumerate(nodes)}  # in the order of the walk
        known = (("x", Input), ("p", Scalar))
        self.names = {
            id(n): f"{x}{k}"
            for x, kind in known
            for k, n in enumerate(n for n in nodes if type(n) is kind)
        }
        self.memo = Memo(lambda node, env: self._visit[type(node)](self, node, env))

    def __call__(self, node: Node, env: Env) -> Any:
        return self.memo((id(node), env), node, env)

    def input(self, node: Input, env: Env) -> Any:
        base = self.names[id(node)]
        at = tuple(a for a, name in enumerate(env) if name is not None and node.shape[a] != 1)
        dtype = compute_dtype(node.dtype)
        self.program.types[base] = dtype
        self.program.inputs[base] = (self.numbers[id(node)], at)
        return elem(base, (env[a] for a in at), dtype.kind in "bu", dtype.kind != "c")  # type: ignore[misc]

    def scalar(self, node: Scalar, env: Env) -> Any:
        raise AssertionError("a scalar is translated by the operation that uses it")

    def constant(self, node: Scalar, dtype: np.dtype, opaque: bool = False) -> Any:
        """A small integer or half stays a number.

        Any other is a parameter, so that changing it compiles nothing.
        """
        value = node.value
        if is_constant(value) and not opaque:
            return sympy.Rational(int(2 * value.real), 2)
        base = self.names[id(node)]
        if (
            self.program.types.get(base, dtype) != dtype
        ):  # the same number elsewhere in another dtype
            base += f"_{dtype.name}"
        self.program.types[base] = dtype
        self.program.inputs[base] = (self.numbers[id(node)], ())
        return elem(base, (), False, dtype.kind != "c")

    def argument(self, arg: Node, env: Env, dtype: np.dtype, opaque: bool = False) -> Any:
        """The argument in the dtype that the operation computes in.

        If it is `opaque`, SymPy sees no number.
        """
        dtype = compute_dtype(dtype)
        while isinstance(arg, Broadcast) and isinstance(arg.args[0], (Scalar, Broadcast)):
            arg = arg.args[0]  # a number is the same everywhere
        if isinstance(arg, Scalar):
            return self.constant(arg, dtype, opaque)
        a = self(arg, env[len(env) - arg.ndim :])
        return self.cast(a, dtype)

    def cast(self, a: Any, dtype: np.dtype) -> Any:
        if not isinstance(a, Elem) or self.program.types[a.base] == dtype:
            return a
        return self.program.let(fn.cast(a, sympy.Symbol(dtype.name)), dtype)

    def apply(self, node: Apply, env: Env) -> Any:
        p, dtype = self.program, compute_dtype(node.dtype)
        if node.op.name == "cast":
            return self.argument(node.args[0], env, dtype)
        args = [self.argument(a, env, t) for a, t in zip(node.args, node.loop, strict=True)]
        loop = [compute_dtype(t) for t in node.loop]
        e = node.op.form(S, *args)
        if e.has(sympy.zoo, sympy.nan) or all(
            isinstance(a, Scalar) for a in node.args
        ):  # x / 0; isfinite(1)
            args = [
                self.argument(a, env, t, opaque=True)
                for a, t in zip(node.args, node.loop, strict=True)
            ]
            e = node.op.form(S, *args)
        if self._lost(node, args, e):
            args = [p.let(a, t, keep=True) for a, t in zip(args, loop, strict=True)]
            e = node.op.form(S, *args)
        return p.let(e, dtype)

    @staticmethod
    def _lost(node: Apply, args: list[Any], e: Any) -> bool:
        """Did SymPy's automatic evaluation drop something that NumPy computes? x - x, x * 0, x /
        x, x + 0.
        """
        before: set[Any] = set().union(*(a.free_symbols for a in args))
        if before - e.free_symbols:
            return True
        if len(args) == 2 and args[0] == args[1] and isinstance(args[0], Elem):
            return not e.is_Pow and not e.is_Mul and not isinstance(e, sympy.Function)
        return node.op.name in ("add", "subtract") and e in args

    def reduce(self, node: Reduce, env: Env) -> Any:
        """A fold: a reduction inside an expression."""
        p = self.program
        kept = iter(env)
        whole: list[str | None] = []
        taken = {c for c in env if c is not None}
        over: list[str] = []
        for a, n in enumerate(node.whole):
            if a not in node.axes:
                whole.append(next(kept))
            elif n == 1 and node.row.name in ("sum", "prod", "min", "max", "any", "all"):
                whole.append(None)
            else:
                c = self.fold_index(node, a, n, taken)
                taken.add(c)
                over.append(c)
                whole.append(c)
        loop = node.row.types(tuple(x.dtype for x in node.args), node.params)[0]
        name = node.row.name
        body = self.argument(node.args[0], tuple(whole)[len(whole) - node.args[0].ndim :], loop[0])
        if loop[0].kind == "b":  # truth has no order in C
            name = {"min": "all", "max": "any", "sum": "any", "prod": "all"}.get(name, name)
            body = self.cast(body, np.dtype(np.uint8)) if name.startswith("arg") else body
        dtype = compute_dtype(node.dtype)
        if isinstance(node.args[0], Vjp) and name == "sum" and over:  # no sum that the user wrote
            body = p.opened(body)
            for c in reversed(over):
                body = p.sum(c, body, dtype)
            return p.let(body, dtype)
        if not over:
            body = self.cast(body, dtype) if isinstance(body, Elem) else p.let(body, dtype)
        return p.fold(name, tuple(over), body, dtype)

    def fold_index(self, node: Reduce | Vjp, a: int, size: int, taken: set[str]) -> str:
        if node.whole_roles[a] in "fn":
            return self.program.feature(size, taken)
        return self.program.launch_index(axis_source(node, a, self.numbers), taken)

    def broadcast(self, node: Broadcast, env: Env) -> Any:
        (arg,) = node.args
        shift = node.ndim - arg.ndim
        return self(
            arg, tuple(c if n != 1 else None for c, n in zip(env[shift:], arg.shape, strict=True))
        )

    def vjp(self, node: Vjp, env: Env) -> Any:
        """sum over the value's summed axes of cotangent * d value / d wrt, at the place where wrt
        stands.
        """
        p, (value, cotangent), wrt = self.program, node.args, node.wrt
        left = node.ndim - len(node.new)
        over = self._summed(node, left, env)
        inner = (*env[:left], *over)
        e = self(value, inner[len(inner) - value.ndim :])
        g = p.opened(self(cotangent, inner[len(inner) - cotangent.ndim :]))
        new = iter(env[left:])
        axes = [at for at, n in zip(node.place, wrt.shape, strict=True) if n != 1]
        names = [next(new) if at is None else inner[at] for at in axes]
        fixed = [inner[at] for at in node.place if at is not None]
        base, dtype = self.names[id(wrt)], compute_dtype(node.dtype)
        part = fn.real_dtype(dtype)

        def share(seed: Any) -> Any:
            terms = p.diff(e, base, tuple(names), fixed, seed)  # type: ignore[arg-type]
            total = sympy.S.Zero
            for c, pairs in terms:
                c = self._against(g, c)
                for index in reversed([c for c in over if c]):
                    c, pairs = p.collapse(index, c, pairs, part)
                if all(a in names for a, _ in pairs):  # the others belong to another place of wrt
                    total += c * sympy.Mul(*(met(a, t) for a, t in pairs))
            return p.cast(total, part)

        out = share(sympy.S.One)
        if dtype.kind == "c":
            imag = share(sympy.I)
            numbers = out.is_number and imag.is_number
            out = out + sympy.I * imag if numbers else fn.complex(out, imag)
        return p.let(out, dtype)

    def _summed(self, node: Vjp, left: int, env: Env) -> list[str | None]:
        """Index names of the axes that a Vjp sums."""
        out: list[str | None] = []
        for a in range(left, len(node.whole)):
            taken = {c for c in (*env, *out) if c is not None}
            out.append(
                None if node.whole[a] == 1 else self.fold_index(node, a, node.whole[a], taken)
            )
        return out

    def _against(self, g: Any, c: Any) -> Any:
        """The change of a real loss, whose gradient here is g, along a change c of the value."""
        p = self.program
        if fn.is_complex(g) and fn.is_complex(c):
            return fn.real(p.times(fn.conj(g), c))
        return p.times(fn.real_part(g), fn.evaluated(fn.real_part(c)))

    _visit: ClassVar[dict[type, Callable[[Any, Any, Env], Any]]] = {
        Input: input,
        Scalar: scalar,
        Apply: apply,
        Reduce: reduce,
        Broadcast: broadcast,
        Vjp: vjp,
    }


def axis_source(node: Node, axis: int, numbers: dict[int, int]) -> tuple[int, int]:
    """(number, axis) of a node below whose own length makes this axis as long as it is.

    The node is an input or a Broadcast.
    """
    whole = node.whole if isinstance(node, (Reduce, Vjp)) else node.shape
    size, right = whole[axis], len(whole) - axis
    for arg in node.args:
        if arg.ndim >= right and arg.shape[-right] == size:
            a = arg.ndim - right
            if isinstance(arg, (Input, Broadcast)):
                return numbers[id(arg)], a
            if isinstance(arg, Vjp) and a >= arg.ndim - len(arg.new):
                return numbers[id(arg.wrt)], arg.new[a - arg.ndim]
            if isinstance(arg, Reduce):
                a = [k for k in range(len(arg.whole)) if k not in arg.axes][a]
            return axis_source(arg, a, numbers)
    raise AssertionError("some argument has the length of the whole")
