"""A symbolic program -> temporaries, each one operation, in the scope that its indices name.

One walk does value numbering, strength reduction (integer and half powers, exp to exp2) and
loop-invariant code motion: the terms of a sum or the factors of a product are grouped by their
indices, and a group that depends on less than the whole becomes a temporary of its own scope:

    par    no index: once a launch          row    i: once a row
    col    one column axis: once a column   pair   the rest: the inner loop

A fold is an accumulator of a loop. Values that an inner scope needs become fields of the records
`Par`, `Row`, `Col`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy

from duckkeops import functions as fn
from duckkeops.symbolic import Elem, Fold, Memo, Program, elem

LANE = "i"
PRODUCTS = 8  # features from which |x - y|^2 is |x|^2 + |y|^2 - 2 x.y of what is off a centre
LONG = 48  # the same where there is no centre
# Products are taken of pairs with |x - y|^2 > |x|^2 * t: up to so many features, t. By the triangle
# inequality |x|^2 + |y|^2 is then at most 32, 23 or 16 times |x - y|^2: less of it may cancel where
# the sums have more features, and so more rounding.
NEAR = ((10, sympy.Rational(1, 12)), (15, sympy.Rational(1, 8)), (np.inf, sympy.Rational(1, 5)))
# Below, the squares of the coordinates are not precise, or are 0.
LEAST = {"float32": sympy.Rational(1, 2**90), "float64": sympy.Rational(1, 2**960)}


cos_log = fn.function("cos_log", lambda x: -sympy.sin(sympy.log(x)) / x)  # cos(log(x))


@dataclass(frozen=True)
class Gap:
    """A fold of (x - y)^2, x of a row and y of a column, also as products.

    It is end + (start + sum(left * right)); unless it is greater than `least` too many digits have
    cancelled. `kept`: y is a field of the record, else it is read from memory.
    """

    x: Any
    y: Any
    left: Any
    right: Any
    start: Any
    end: Any
    least: Any
    kept: bool

    @property
    def operands(self) -> set[Any]:
        """The symbols whose values the kernel keeps."""
        return set(vars(self).values()) - {self.kept} - (set() if self.kept else {self.y})


@dataclass(eq=False)
class Temp:
    """A value with a name.

    It is one operation over operands, or (`fold`) the body of a loop over the indices `over`.
    """

    sym: Elem
    expr: Any
    dtype: np.dtype
    idx: frozenset[str]
    fold: str = ""
    over: tuple[str, ...] = ()
    body_dtype: np.dtype | None = None
    gap: Gap | None = None
    scaled: Any = None  # scaling.Scaled
    sampled: bool = False  # the value is a centre of expr, over the columns

    @property
    def operands(self) -> set[Any]:
        """The symbols that it is computed from."""
        if self.gap:
            return self.gap.operands
        if self.scaled:
            return self.scaled.operands
        return set() if self.sampled else self.expr.free_symbols

    @property
    def loops(self) -> frozenset[str]:
        return self.idx | set(self.over)


@dataclass(frozen=True)
class Root:
    """A value that the reduction takes in, with the feature indices of the output."""

    value: Any
    dtype: np.dtype
    features: tuple[str, ...] = ()


class Lower:
    """Turns expressions into Temps.

    `fast`: exponentials may fold log2(e) into a factor, and squared distances be products.
    `converted`: inputs that lie in memory in another dtype. `on_device`: CUDA's instructions.
    """

    def __init__(
        self,
        program: Program,
        lane: str,
        columns: tuple[str, ...],
        outer: Iterable[str],
        fast: bool,
        converted: Iterable[str] = (),
        on_device: bool = False,
    ):
        self.p, self.lane, self.columns, self.outer, self.fast, self.converted = (
            program,
            lane,
            columns,
            frozenset(outer),
            fast,
            frozenset(converted),
        )
        self.on_device = on_device
        self.temps: list[Temp] = []
        self.by_sym: dict[Any, Temp] = {}
        self.centred: dict[Any, tuple[Elem, Elem]] = {}  # y - centre: the two
        self._memo = Memo(self._visit)
        self._numbered: dict[Any, Elem] = {}

    # -- operands ----------------------------------------------------------------------------------

    def idx(self, e: Any) -> frozenset[str]:
        """The loop indices that e depends on.

        The outer axes, which no inner loop runs over, are left out.
        """
        out: set[str] = set()
        for a in e.free_symbols:
            if a in self.by_sym:
                out |= self.by_sym[a].idx
            elif isinstance(a, Elem):
                out.update(a.idx)
            elif isinstance(a, fn.IndexSymbol):
                out.add(a.name)
        return frozenset(out) - self.outer

    def scope(self, idx: frozenset[str]) -> str:
        """'par', 'row', 'pair' or the name of a column axis."""
        columns = [c for c in self.columns if c in idx]
        if self.lane in idx:
            return "pair" if columns else "row"
        return "pair" if len(columns) > 1 else columns[0] if columns else "par"

    def dtype(self, e: Any) -> np.dtype | None:
        """The dtype of an expression over operands; None for a bare number."""
        if isinstance(e, Elem):
            return self.by_sym[e].dtype if e in self.by_sym else self.p.types[e.base]
        if isinstance(e, fn.cast):
            return np.dtype(e.args[1].name)
        if isinstance(e, fn.Elementwise):
            return e.dtype_of([self.dtype(a) for a in e.args])
        return fn.common_dtype(e.args, [self.dtype(a) for a in e.args])

    def temp(self, expr: Any, dtype: np.dtype, keep: bool = False) -> Any:
        """The operand that holds `expr`, already one operation over operands."""
        if expr.is_number or (not keep and expr in self.by_sym):
            return expr
        if not keep and isinstance(expr, Elem):
            return expr
        key = (expr, dtype, len(self.temps) if keep else None)
        if key not in self._numbered:
            self._numbered[key] = self._new(expr, dtype, self.idx(expr))
        return self._numbered[key]

    def _new(self, expr: Any, dtype: np.dtype, idx: frozenset[str], **fold: Any) -> Elem:
        order = sorted(idx, key=list(self.p.sizes).index)
        sym = Elem(f"v{len(self.temps)}[{','.join(order)}]", real=True)
        temp = Temp(sym, expr, dtype, idx, **fold)
        self.temps.append(temp)
        self.by_sym[sym] = temp
        return sym

    # -- the walk ----------------------------------------------------------------------------------

    def __call__(self, e: Any, dtype: np.dtype) -> Any:
        """The operand for e; `dtype` is that of its numbers."""
        return self._memo((e, dtype if not isinstance(e, Elem) else None), e, dtype)

    def _visit(self, e: Any, dtype: np.dtype) -> Any:
        if isinstance(e, Elem):
            return self._symbol(e)
        if not e.free_symbols:
            return e
        own = self.p.own_dtype(e, dtype)
        if e.is_Add:
            return self._nary(e, sympy.Add, own)
        if e.is_Mul:
            return self._nary(e, sympy.Mul, own)
        if e.is_Pow:
            return self._power(e.base, e.exp, own)
        if isinstance(e, fn.pow0):
            return self._power0(e.args[0], e.args[1], own)
        if isinstance(e, sympy.exp):
            return self._exp(e.args[0], own)
        if isinstance(e, fn.delta):
            return self.temp(e, own)
        if isinstance(e, fn.cast):
            return self.temp(
                e.func(self(e.args[0], own), e.args[1], evaluate=False), np.dtype(e.args[1].name)
            )
        kinds = [self.dtype_of_terms(a) for a in e.args]
        if isinstance(e, fn.Elementwise):
            context = e.argument_dtypes(kinds, dtype)
        else:
            context = [k or own for k in kinds]
        args = [self._operand(a, t) for a, t in zip(e.args, context, strict=True)]
        func = e.func
        if isinstance(e, sympy.cos) and (inner := self._rough_log(args[0])) is not None:
            func, args = cos_log, [inner]
        out = func(*args, evaluate=False)
        return self.temp(out, self._result(out, context))

    def _rough_log(self, a: Any) -> Any:
        """What this is the logarithm of, if the device has an instruction for it, within some 2^-22
        be that much or little of its value. Else None.
        """
        made = self.by_sym.get(a)
        if made is None or not isinstance(made.expr, sympy.log) or made.dtype != np.float32:
            return None
        return made.expr.args[0] if self.on_device and self.fast else None

    def _result(self, out: Any, context: list[np.dtype]) -> np.dtype:
        return out.dtype_of(context) if isinstance(out, fn.Elementwise) else context[0]

    def _operand(self, e: Any, dtype: np.dtype) -> Any:
        """The operand for e; a real one among complex ones becomes complex."""
        out = self(e, dtype)
        own = self.dtype(out)
        if dtype.kind != "c" or own is None or own == dtype:
            return out
        return self.temp(fn.cast(out, sympy.Symbol(dtype.name), evaluate=False), dtype)

    def dtype_of_terms(self, e: Any) -> np.dtype | None:
        """As dtype(), of an expression of the program."""
        return self.p.dtype_of(e)

    def _symbol(self, a: Elem) -> Any:
        what = self.p.definition(a)
        if what is None:
            return a
        dtype = self.p.types[a.base]
        if (
            isinstance(what, Fold) and not what.over
        ):  # over one entry: opaque to SymPy, so that sqrt(s) stays a root
            out = self._operand(what.body, dtype)
            return self._literal(out, dtype) if out.is_number else out
        if isinstance(what, Fold):
            own = self.p.defs[a.base].idx
            if own != a.idx and self._is_alone(what):
                return self._renamed(self(self._own(a), dtype), dict(zip(own, a.idx, strict=True)))
            body_dtype = self.p.own_dtype(what.body, dtype)
            body = self._operand(what.body, body_dtype)
            key = (what.op, what.over, body, dtype)
            if key not in self._numbered:
                idx = self.idx(body) - set(what.over)
                gap = self._gap(what, body, dtype)
                self._numbered[key] = self._new(
                    body, dtype, idx, fold=what.op, over=what.over, body_dtype=body_dtype, gap=gap
                )
            return self._numbered[key]
        if a.base.startswith("u"):  # kept apart from its equals, so that x - x stays a subtraction
            return (
                self.temp(self._operand(what.expr, dtype), dtype, keep=True)
                if not what.expr.is_number
                else self._literal(what.expr, dtype)
            )
        out = self._operand(what.expr, dtype)
        return self._literal(out, dtype) if out.is_number else out

    # -- equal values in several loops -------------------------------------------------------------

    def _is_alone(self, what: Fold) -> bool:
        """Is this a fold of one term, which is to be rounded alike at all indices?"""
        return all(self.p.sizes[c] == 1 for c in what.over)

    def _own(self, a: Elem) -> Elem:
        """The symbol in the indices of its definition."""
        idx = self.p.defs[a.base].idx
        return elem(a.base, idx, bool(a.is_nonnegative), bool(a.is_real))

    def _renamed(self, e: Any, sub: dict[str, str]) -> Any:
        """The operand or operation e at other indices, by the same operations in the same order.

        What SymPy would make of the renamed expression may have another order, as names sort.
        """
        if isinstance(e, fn.IndexSymbol):
            return fn.IndexSymbol(sub.get(e.name, e.name))
        if not isinstance(e, Elem):
            args = [self._renamed(a, sub) for a in e.args]
            return e if args == list(e.args) else e.func(*args, evaluate=False)
        temp = self.by_sym.get(e)
        if temp is None:
            idx = tuple(sub.get(c, c) for c in e.idx)
            return elem(e.base, idx, bool(e.is_nonnegative), bool(e.is_real))
        key = ("renamed", e, tuple(sorted(sub.items())))
        if key not in self._numbered:
            self._numbered[key] = self._renamed_temp(temp, sub)
        return self._numbered[key]

    def _renamed_temp(self, t: Temp, sub: dict[str, str]) -> Any:
        if not t.fold:
            expr = self._renamed(t.expr, sub)
            return t.sym if expr == t.expr else self.temp(expr, t.dtype)
        taken = {*sub, *sub.values(), *t.idx, *t.over}
        away = {c: self.p.fresh_like(c, taken) for c in t.over if c in sub.values()}
        body = self._renamed(t.expr, {c: x for c, x in sub.items() if c not in t.over} | away)
        over = tuple(away.get(c, c) for c in t.over)
        if body == t.expr:
            return t.sym
        idx = self.idx(body) - set(over)
        return self._new(body, t.dtype, idx, fold=t.fold, over=over, body_dtype=t.body_dtype)

    def _gap(self, what: Fold, body: Any, dtype: np.dtype) -> Gap | None:
        """The products that give a sum of (x - y)^2 of a row and a column.

        A product takes half the instructions of a difference and its square where both run on the
        same ports. The kernel looks for cancellation, and takes the differences where it finds it.
        Where y is an input both sides are first made relative to a centre of y, as less cancels.
        """
        square = self.by_sym.get(body)
        if (
            not self.fast
            or self.on_device
            or what.op != "sum"
            or square is None
            or dtype.kind != "f"
        ):
            return None
        size = self.p.sizes[what.over[0]] or 0
        if len(what.over) != 1 or size < PRODUCTS:
            return None
        roots = set(square.expr.free_symbols)
        if square.expr.args not in [(a, a) for a in roots] + [(a, 2) for a in roots]:
            return None
        difference = self.by_sym.get(roots.pop())
        if difference is None or difference.dtype != dtype or not difference.expr.is_Add:
            return None
        terms = {c: a for a, c in map(_term, difference.expr.args)}
        if set(terms) != {1, -1}:
            return None
        x, y = sorted(terms.values(), key=lambda a: self.scope(self.idx(a)) != "row")
        loops = [self.idx(a) - set(what.over) for a in (x, y)]
        if loops != [{self.lane}, {self.columns[-1]}]:
            return None
        if any(not isinstance(a, Elem) or self.dtype(a) != dtype for a in (x, y)):
            return None
        centred = y not in self.by_sym
        if not centred and size < LONG:
            return None
        from_x, right = (self.off_centre(a, y, dtype) if centred else a for a in (x, y))
        left = self._product([sympy.Integer(-2), from_x], dtype)
        xx, yy = (self.squared(a, what.over, dtype) for a in (left, right))
        # infinite before sums of such squares are; xx is four times |x|^2
        high_x = self._product([sympy.Integer(4), xx], dtype)
        high_y = self._product([sympy.Integer(16), yy], dtype)
        t = next(t for most, t in NEAR if size <= most)
        far = self._product([t / 16, high_x], dtype)
        nan = self.temp(_sum(high_y, sympy.Mul(-1, high_y, evaluate=False)), dtype)
        return Gap(
            x,
            y,
            left,
            right,
            self.temp(_sum(yy, nan), dtype),
            self._product([sympy.Rational(1, 4), xx], dtype),
            self.temp(_sum(far, LEAST[dtype.name]), dtype),
            not centred or y.base in self.converted,
        )

    def squared(self, a: Any, over: tuple[str, ...], dtype: np.dtype) -> Any:
        """The sum of a^2."""
        square, idx = self._product([a, a], dtype), self.idx(a) - set(over)
        return self._new(square, dtype, idx, fold="sum", over=over, body_dtype=dtype)

    def off_centre(self, a: Any, y: Any, dtype: np.dtype) -> Any:
        """a, less the centre of the columns y."""
        key = ("centre", y)
        if key not in self._numbered:
            idx = self.idx(y) - set(self.columns)
            self._numbered[key] = self._new(y, dtype, idx, sampled=True)
        centre = self._numbered[key]
        out = self.temp(_sum(a, sympy.Mul(-1, centre, evaluate=False)), dtype)
        if a == y and not self.on_device:
            self.centred[out] = y, centre
        return out

    def _literal(self, number: Any, dtype: np.dtype) -> Elem:
        key = (number, dtype)
        if key not in self._numbered:
            self._numbered[key] = self._new(number, dtype, frozenset())
        return self._numbered[key]

    # -- sums and products by index set ------------------------------------------------------------

    def _nary(self, e: Any, op: Any, dtype: np.dtype) -> Any:
        coefficient, args = self._arguments(e, op)
        args = self._real_ones_first(args, op) if dtype.kind == "c" else args
        if op is sympy.Add and coefficient != 1:
            return self._product([coefficient, self._nary(sympy.Add(*args), op, dtype)], dtype)
        if op is sympy.Mul:
            args = [coefficient, *args] if coefficient != 1 else args
            if len(args) == 1:
                return self(args[0], dtype)
        groups: dict[frozenset[str], list[Any]] = {}
        for a in args:
            if op is sympy.Add:
                c, core = a.as_coeff_Mul()
                x = self._operand(core, dtype) if core != 1 else sympy.S.One
                term = c if core == 1 else x if c == 1 else sympy.Mul(c, x, evaluate=False)
                groups.setdefault(self.idx(x), []).append(term)
            else:
                x = a if a.is_number else self._factor(a, dtype)
                groups.setdefault(self.idx(x), []).append(x)
        if op is sympy.Mul and self.fast and dtype.kind == "f":
            groups = self._numbers_outside(groups, dtype)
        if op is sympy.Mul and not (self.fast and dtype == np.float32):
            groups = self._divisions_last(groups)
        return self._join(groups, op, dtype)

    def _real_ones_first(self, args: list[Any], op: Any) -> list[Any]:
        """The operands of a complex sum or product, with the real ones joined: they are added or
        multiplied as real numbers.
        """
        real = [a for a in args if not a.is_number and not fn.is_complex(a)]
        rest = [a for a in args if a not in real]
        return [op(*real, evaluate=False), *rest] if len(real) > 1 and rest else args

    def _factor(self, a: Any, dtype: np.dtype) -> Any:
        """The operand of a factor; 1/b stays open, so that a/b prints as a division."""
        if a.is_Pow and a.exp == -1 and (dtype.kind != "c" or fn.is_complex(a)):
            return self._inverse(self._operand(a.base, dtype))
        return self._operand(a, dtype)

    def _numbers_outside(
        self, groups: dict[frozenset[str], list[Any]], dtype: np.dtype
    ) -> dict[frozenset[str], list[Any]]:
        """p*(d/2) is (p/2)*d, where p is of an outer scope: one product a pair less.

        Only with numbers from 1/16 to 1: they make no p infinite, and 0 only the least ones.
        """
        whole = frozenset().union(*groups)
        if len(groups) == 1 or whole not in groups:
            return groups
        numbers, inner = [], []
        for a in groups[whole]:
            made = self.by_sym.get(a)
            c, core = made.expr.as_coeff_Mul() if made and made.expr.is_Mul else (sympy.S.One, a)
            taken = made and sympy.Rational(1, 16) <= abs(c) < 1 and made.dtype == dtype
            numbers += [c] if taken else []
            inner += sympy.Mul.make_args(core) if taken else [a]
        outer = next(s for s in groups if s != whole)
        return groups | {whole: inner, outer: [*numbers, *groups[outer]]} if numbers else groups

    @staticmethod
    def _divisions_last(groups: dict[frozenset[str], list[Any]]) -> dict[frozenset[str], list[Any]]:
        """Where every rounding counts, a/b is one division in the inner scope, never a * (1/b)
        with 1/b hoisted.
        """
        whole = frozenset().union(*groups)
        out: dict[frozenset[str], list[Any]] = {}
        for s, args in groups.items():
            for a in args:
                out.setdefault(whole if a.is_Pow else s, []).append(a)
        return out

    def _arguments(self, e: Any, op: Any) -> tuple[Any, list[Any]]:
        """The common number of all terms and the rest; undoes SymPy's 2*(x - y) -> 2*x - 2*y."""
        if op is sympy.Add:
            c, terms = primitive(e)
            return c, list(terms)
        coefficient, factors = sympy.S.One, []
        for a in e.args:
            if a.is_number:
                coefficient *= a
                continue
            if a.is_Add:
                c, terms = primitive(a)
                coefficient *= c
                a = a if c == 1 else sympy.Add(*terms)
            factors.append(a)
        return coefficient, factors

    def _product(self, args: list[Any], dtype: np.dtype) -> Any:
        return self.temp(sympy.Mul(*args, evaluate=False), dtype)

    def _join(self, groups: dict[frozenset[str], list[Any]], op: Any, dtype: np.dtype) -> Any:
        """Combine the groups from the outermost scope inwards.

        Each partial result lives in its own scope.
        """
        acc: Any = None
        seen: frozenset[str] = frozenset()
        order = sorted(groups, key=lambda s: (len(s), sorted(s)))
        whole = frozenset().union(*groups)
        for s in order:
            part = groups[s]
            if acc is not None and seen <= s:
                part, acc = [acc, *part], None
            value = self._combine(op, part, dtype, named=s != whole or s != order[-1])
            if acc is None:
                acc, seen = value, s
            else:
                acc, seen = self._combine(op, [acc, value], dtype, named=True), seen | s
        return self.temp(acc, dtype)

    def _combine(self, op: Any, args: list[Any], dtype: np.dtype, named: bool) -> Any:
        out = op(*args, evaluate=False) if len(args) > 1 else args[0]
        if not named or out.is_number:
            return out
        if out.is_Mul and len(args) == 1 and len(out.args) == 2 and out.args[0].is_number:
            return out  # c*x inside a sum is one fused multiply-add: nothing to hoist
        return self.temp(out, dtype)

    # -- powers and exponentials -------------------------------------------------------------------

    def _power(self, base: Any, q: Any, dtype: np.dtype) -> Any:
        b = self._operand(base, dtype)
        if not q.is_Rational or (
            dtype.kind == "c" and not q.is_Integer and q != sympy.Rational(1, 2)
        ):
            return self.temp(
                fn.power(b, self._operand(q, dtype) if not q.is_Number else q, evaluate=False),
                dtype,
            )
        if q.is_Integer:
            return (
                self._integer(b, int(q), dtype)
                if q > 0
                else self.temp(self._inverse(self._integer(b, int(-q), dtype)), dtype)
            )
        if (2 * q).is_Integer:
            n = int(2 * q)
            if n < 0:
                return self._integer(self.temp(fn.rsqrt(b, evaluate=False), dtype), -n, dtype)
            root = self.temp(sympy.Pow(b, sympy.Rational(1, 2), evaluate=False), dtype)
            whole = (n - 1) // 2
            return (
                root if whole == 0 else self._product([self._integer(b, whole, dtype), root], dtype)
            )
        return self.temp(fn.power(b, q, evaluate=False), dtype)

    @staticmethod
    def _inverse(b: Any) -> Any:
        return sympy.Pow(b, -1, evaluate=False)

    def _integer(self, b: Any, n: int, dtype: np.dtype) -> Any:
        """b**n by squaring, every square a temporary."""
        if n == 1 or b.is_Number:
            return b if n == 1 else b**n
        if n <= 3:
            return self.temp(sympy.Pow(b, n, evaluate=False), dtype)
        half = self._integer(b, n // 2, dtype)
        square = self.temp(sympy.Pow(half, 2, evaluate=False), dtype)
        return square if n % 2 == 0 else self._product([square, b], dtype)

    def _power0(self, base: Any, q: Any, dtype: np.dtype) -> Any:
        """base**q with a negative q, but 0 where base is 0."""
        b = self._operand(base, dtype)
        n = -2 * q
        if n.is_Integer and dtype.kind != "c":
            return self._integer(self.temp(fn.rsqrt0(b, evaluate=False), dtype), int(n), dtype)
        p = self.temp(fn.power(b, q, evaluate=False), dtype)
        zero = self.temp(fn.S.equal(b, sympy.S.Zero), np.dtype(bool))
        return self.temp(fn.where(zero, sympy.S.Zero, p, evaluate=False), dtype)

    def _exp(self, u: Any, dtype: np.dtype) -> Any:
        """exp(c*u) is exp2((c*log2(e))*u) where that folds into a factor.

        It is one rounding of the exponent more: next to 1 nothing, near 1e-300 a few hundred units
        in the last place. precision="exact" does without.
        """
        x = self._operand(u, dtype)
        if self.fast and dtype.kind == "f" and x in self.by_sym and not self.by_sym[x].fold:
            made = self.by_sym[x]
            if made.expr.is_Mul:
                inner = self.scope(made.idx), made.idx
                factors = list(made.expr.args)
                outside = [a for a in factors if (self.scope(self.idx(a)), self.idx(a)) != inner]
                if outside:
                    rest = [a for a in factors if a not in outside]
                    known = sympy.Mul(1 / sympy.log(2), *(a for a in outside if a.is_number))
                    named = [a for a in outside if not a.is_number]
                    c = (
                        self.temp(sympy.Mul(known, *named, evaluate=False), dtype)
                        if named
                        else known
                    )
                    scaled = self.temp(sympy.Mul(c, *rest, evaluate=False), dtype)
                    return self.temp(fn.exp2(scaled, evaluate=False), dtype)
        return self.temp(sympy.exp(x, evaluate=False), dtype)


def _sum(a: Any, b: Any) -> Any:
    """a + b as it is written."""
    return sympy.Add(a, b, evaluate=False)


def _term(a: Any) -> tuple[Any, Any]:
    """A term without its coefficient, and that."""
    c, core = a.as_coeff_Mul()
    return core, c


def primitive(e: Any) -> tuple[Any, tuple[Any, ...]]:
    """(2, (x, -y)) of 2*x - 2*y; only where every term then has the coefficient 1 or -1."""
    cs = {abs(a.as_coeff_Mul()[0]) for a in e.args}
    if len(cs) == 1 and cs != {1}:
        c = cs.pop()
        return c, tuple(a / c for a in e.args)
    return sympy.S.One, e.args


# -- scopes ----------------------------------------------------------------------------------------


@dataclass
class Scope:
    """The statements of one scope, and the fields that inner scopes read."""

    name: str
    steps: list[Any] = field(default_factory=list)
    fields: list[tuple[Any, np.dtype, tuple[str, ...]]] = field(
        default_factory=list
    )  # operand, dtype, feature indices
    arrays: list[Temp] = field(
        default_factory=list
    )  # temporaries with features, kept so as not to compute them again


@dataclass
class Straight:
    """Temporaries one after the other, without a loop."""

    temps: list[Temp]


@dataclass
class Loop:
    """A loop over `index`: `steps`, then accumulate `folds` and store `stores`."""

    index: str
    steps: list[Any]
    folds: list[Temp] = field(default_factory=list)
    stores: list[Any] = field(default_factory=list)


@dataclass
class Nest:
    """A fold over several indices, or the filling of an array: loops one inside the other."""

    temps: list[Temp]
    loops: tuple[str, ...]
    steps: list[Any]
    kind: str  # "fold" or "store"


class Scheduler:
    """Orders the temporaries that the roots need into scopes."""

    def __init__(self, lower: Lower, roots: list[Root]):
        self.lower, self.p = lower, lower.p
        self.values = [lower(r.value, r.dtype) for r in roots]
        self.roots = roots
        self.scopes = {name: Scope(name) for name in ("par", "row", *lower.columns, "pair")}
        self.needed: dict[str, dict[Any, None]] = {name: {} for name in self.scopes}
        self.direct: dict[
            Elem, None
        ] = {}  # inputs read where they are needed, in the pair scope or inside folds
        self._fields: dict[str, dict[Any, None]] = {name: {} for name in self.scopes}
        for value in self.values:
            for a in value.free_symbols:
                self._need(a, "pair")
        for name, scope in self.scopes.items():
            scope.fields = [
                (a, self._dtype(a), self.features(self._idx(a)))
                for a in self._sorted(self._fields[name])
            ]
        self.stored: set[Any] = {
            a for f in self._fields.values() for a in f if a in lower.by_sym
        } | self._recomputed()
        for name, scope in self.scopes.items():
            self._schedule(name, scope)

    # -- what is needed where ----------------------------------------------------------------------

    def _idx(self, a: Any) -> frozenset[str]:
        return self.lower.idx(a)

    def _dtype(self, a: Any) -> np.dtype:
        return self.lower.by_sym[a].dtype if a in self.lower.by_sym else self.p.types[a.base]

    def is_dynamic(self, c: str) -> bool:
        """Is this the index of an inner fold whose length is known at launch only?"""
        return c in self.p.sources

    def loop_indices(self, idx: Iterable[str]) -> frozenset[str]:
        """Those of inner loops: features, and folds whose length is known at launch."""
        return frozenset(c for c in idx if self.p.sizes[c] is not None or self.is_dynamic(c))

    def features(self, idx: Iterable[str]) -> tuple[str, ...]:
        """The feature indices among these, in the program's order."""
        idx = set(idx)
        return tuple(c for c in self.p.sizes if c in idx and self.p.sizes[c] is not None)

    def _need(self, a: Any, scope: str) -> None:
        if not isinstance(a, Elem):
            return
        idx = self._idx(a)
        own = scope if any(self.is_dynamic(c) for c in idx) else self.lower.scope(idx)
        temp = self.lower.by_sym.get(a)
        if temp is None:
            if own == scope:
                self.direct[a] = None
            else:
                self._fields[own][a] = None
                self.needed[own][a] = None
            return
        if own != scope:
            self._fields[own][a] = None
        if a in self.needed[own]:
            return
        self.needed[own][a] = None
        for b in sorted(temp.operands, key=str):
            self._need(b, own)
        if temp.sampled:
            self.direct[temp.expr] = None
        if temp.gap and not temp.gap.kept:
            self.direct[temp.gap.y] = None

    def _sorted(self, operands: Iterable[Any]) -> list[Any]:
        rank = {t.sym: n for n, t in enumerate(self.lower.temps)}
        return sorted(operands, key=lambda a: (a in rank, rank.get(a, 0), a.name))

    def _recomputed(self) -> set[Any]:
        """Temporaries with features and a fold inside that some loop over another feature would
        compute again and again.
        """
        out: set[Any] = set()
        by_sym = self.lower.by_sym
        users: list[tuple[set[Any], frozenset[str]]] = [
            (t.expr.free_symbols, t.loops)
            for t in self.lower.temps
            if t.fold and any(t.sym in n for n in self.needed.values())
        ]
        users += [
            (v.free_symbols, self._idx(v) | set(r.features))
            for v, r in zip(self.values, self.roots, strict=True)
        ]
        for syms, loops in users:
            todo, seen = [a for a in syms if a in by_sym], set()
            while todo:
                a = todo.pop()
                t = by_sym[a]
                if a in seen:
                    continue
                seen.add(a)
                extra = self.features(loops - t.idx)
                if (
                    self.features(t.idx)
                    and not any(self.is_dynamic(c) for c in t.idx)
                    and extra
                    and self._has_fold(t)
                ):
                    out.add(a)
                elif not t.fold:
                    todo += [b for b in t.expr.free_symbols if b in by_sym]
        return out

    def _has_fold(self, t: Temp) -> bool:
        todo = [t.sym]
        while todo:
            a = todo.pop()
            u = self.lower.by_sym.get(a)
            if u is None or not self.features(u.idx):
                continue
            if u.fold:
                return True
            todo += list(u.expr.free_symbols)
        return False

    # -- order -------------------------------------------------------------------------------------

    def _schedule(self, name: str, scope: Scope) -> None:
        mine = [t for t in self.lower.temps if t.sym in self.needed[name]]
        barriers = [t for t in mine if self._is_barrier(t)]
        scope.arrays = [t for t in mine if t.sym in self.stored and self.features(t.idx)]
        level: dict[Any, int] = {}

        def depth(a: Any) -> int:
            t = self.lower.by_sym.get(a)
            if t is None or a not in self.needed[name]:
                return 0
            if a not in level:
                below = max((depth(b) for b in t.operands), default=0)
                level[a] = below + (t in barriers)
            return level[a]

        for t in mine:
            depth(t.sym)
        for lv in range(max(level.values(), default=0) + 1):
            here = [t for t in mine if level[t.sym] == lv]
            scope.steps += self._nests([t for t in here if t in barriers], name)
            plain = [t for t in here if t not in barriers and self._standalone(t)]
            if plain:
                scope.steps.append(Straight(plain))

    def _is_barrier(self, t: Temp) -> bool:
        """Needs a loop of its own: a fold without features, or an array that is kept."""
        if any(self.is_dynamic(c) for c in t.idx):
            return False
        return bool(t.fold) if not self.features(t.idx) else t.sym in self.stored

    def _standalone(self, t: Temp) -> bool:
        return not self.features(t.idx) and not any(self.is_dynamic(c) for c in t.idx)

    def _nests(self, temps: list[Temp], scope: str) -> list[Nest]:
        """Folds over the same indices share a loop; so do arrays."""
        groups: dict[tuple, list[Temp]] = {}
        for t in temps:
            stored = bool(self.features(t.idx))
            loops = self.features(t.idx) if stored else t.over
            groups.setdefault((stored, loops, t.sym if t.gap or t.scaled else None), []).append(t)
        return [
            self._nest(ts, loops, "store" if stored else "fold", scope, frozenset())
            for (stored, loops, _), ts in groups.items()
        ]

    def _nest(
        self,
        temps: list[Temp],
        loops: tuple[str, ...],
        kind: str,
        scope: str,
        opened: frozenset[str],
    ) -> Nest:
        made = {t.sym for t in temps if t.fold} if kind == "store" else set()
        exprs = [t.sym if t.sym in made else t.expr for t in temps]
        return Nest(temps, loops, self.inside(exprs, loops, scope, opened, made), kind)

    def inside(
        self,
        exprs: list[Any],
        loops: tuple[str, ...],
        scope: str,
        opened: frozenset[str] = frozenset(),
        made: Iterable[Any] = (),
    ) -> list[Any]:
        """What these expressions need inside loops over `loops`.

        These are the temporaries that carry one of these indices. `made`: the arrays that these
        loops fill; others are read, also where one is the whole expression.
        """
        opened = opened | set(loops)
        want: set[Any] = set()
        seen: set[Any] = set()
        todo = [a for e in exprs for a in e.free_symbols]
        while todo:
            a = todo.pop()
            t = self.lower.by_sym.get(a)
            if t is None or a in seen or self._is_kept(t, scope, made):
                continue
            seen.add(a)
            mine = self.loop_indices(t.idx)
            if mine & set(loops):
                if mine <= opened:
                    want.add(a)
                todo += t.expr.free_symbols
        out: list[Any] = []
        run: list[Temp] = []
        for t in self.lower.temps:
            if t.sym not in want:
                continue
            if t.fold:
                if run:
                    out.append(Straight(run))
                    run = []
                out.append(self._nest([t], t.over, "fold", scope, opened))
            else:
                run.append(t)
        if run:
            out.append(Straight(run))
        return out

    def _is_kept(self, t: Temp, scope: str, made: Iterable[Any]) -> bool:
        """Read from where it is stored: a field of an outer scope or an array of this one."""
        own = scope if any(self.is_dynamic(c) for c in t.idx) else self.lower.scope(t.idx)
        if own != scope:
            return True
        return t.sym in self.stored and bool(self.features(t.idx)) and t.sym not in made
