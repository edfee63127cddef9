"""Lowered expressions -> C that CUDA reads too: SymPy's C printer with the rules of our kernels.

`KernelPrinter` is SymPy's C99 printer with one method for each thing that it prints otherwise:
float literals with the right suffix, products for powers, function names that carry the dtype,
complex arithmetic as calls. prelude.py puts what it prints into functions that the skeleton calls.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import sympy
from sympy.printing.c import C99CodePrinter
from sympy.printing.precedence import PRECEDENCE, precedence

from duckkeops import functions as fn
from duckkeops.lower import Lower
from duckkeops.symbolic import Elem, Fold, Let, Program, elems

SUFFIX = {
    "bool": "b1",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "uint8": "u8",
    "uint16": "u16",
    "uint32": "u32",
    "uint64": "u64",
    "float16": "f16",
    "bfloat16": "bf16",
    "float32": "f32",
    "float64": "f64",
    "complex64": "c64",
    "complex128": "c128",
}
FORMULA_DEPTH = 30  # operations in each other that the title of a kernel writes out


def suffix(dtype: np.dtype) -> str:
    return SUFFIX[dtype.name]


def lane_bytes(dtype: np.dtype) -> int:
    """Bytes of one lane of this dtype's vectors.

    A complex number is two vectors, a boolean takes any width.
    """
    return {"c": dtype.itemsize // 2, "b": 1}.get(dtype.kind, dtype.itemsize)


PRODUCT = PRECEDENCE["Mul"] + 1  # may stand as it is in a longer product, and not below a line


def binding(e: Any) -> int:
    """How tightly the text of an expression holds together: powers are products and quotients."""
    if e.is_Function or (e.is_Pow and e.exp == sympy.Rational(1, 2)):
        return PRECEDENCE["Func"]
    return PRODUCT if e.is_Pow else precedence(e)


class KernelPrinter(C99CodePrinter):
    """Prints expressions over operands.

    `operand` gives the C text of a symbol and says if it is an atom.
    """

    def __init__(self, lower: Lower, operand: Any, across: Iterable[str] = ()):
        super().__init__()
        self.lower, self.operand, self.across = lower, operand, frozenset(across)
        self.t = "f32"  # the dtype that numbers are printed in
        self.turns = 0  # plan.Tile.turns_of_exp2

    def text(self, e: Any, dtype: np.dtype) -> str:
        before, self.t = self.t, suffix(dtype)
        out = self._print(e)
        self.t = before
        return out

    # -- numbers -----------------------------------------------------------------------------------

    def literal(self, v: Any) -> str:
        """A scalar literal of the current dtype."""
        t = self.t
        if t[0] in "iu":
            return str(int(v))
        if t[0] == "b":
            return "1" if v != 0 else "0"
        if t[0] == "c":
            self.t = "f32" if t == "c64" else "f64"
            re, im = v.as_real_imag()
            out = f"make_{t}({self.literal(re)}, {self.literal(im)})"
            self.t = t
            return out
        exact = sympy.N(v, 25)
        if t == "f32":
            short = np.float32(float(exact))
            text = repr(float(short)) if float(short) == float(exact) else f"{float(exact):.9g}"
        else:
            text = repr(float(exact))
        return text + ("" if any(c in text for c in ".en") else ".0") + ("f" if t == "f32" else "")

    def number(self, e: Any) -> str:
        """A number as a factor or term: a bare literal where C mixes it with vectors."""
        return self.literal(e) if self.t[0] == "f" else self.splat(e)

    def splat(self, e: Any) -> str:
        return f"splat_{self.t}({self.literal(e)})"

    def _print_Integer(self, e: Any) -> str:
        return self.number(e)

    _print_Rational = _print_Float = _print_NumberSymbol = _print_One = _print_Zero = (
        _print_NegativeOne
    ) = _print_Half = _print_Integer

    def _print_ImaginaryUnit(self, e: Any) -> str:
        return self.number(e)

    def _print_Symbol(self, e: Any) -> str:
        return self.operand(e)[0]

    _print_Elem = _print_Symbol

    def emptyPrinter(self, expr: Any) -> str:
        raise TypeError(f"no C for {type(expr).__name__}: {expr}")

    # -- arithmetic: in the order of the operands, with parentheses wherever C would associate other

    def parenthesize(self, item: Any, level: int, strict: bool = False) -> str:
        if isinstance(item, sympy.Symbol):
            text, prec = self.operand(item)
        elif item.is_number:
            text, prec = (
                self.number(item),
                PRECEDENCE["Atom"] if not sympy.N(item).is_negative else PRECEDENCE["Add"],
            )
        else:
            text, prec = self._print(item), binding(item)
        return f"({text})" if prec < level or (strict and prec == level) else text

    def _argument(self, e: Any, t: np.dtype | None = None) -> str:
        """An argument of a function: always a vector."""
        before = self.t
        if t is not None:
            self.t = suffix(t)
        out = self.splat(e) if e.is_number else self._print(e)
        self.t = before
        return out

    def _print_Add(self, e: Any, order: Any = None) -> str:
        terms = sorted(e.args, key=lambda a: a.could_extract_minus_sign())
        if self.t[0] == "c":
            out = self._argument(terms[0])
            for a in terms[1:]:
                minus = a.could_extract_minus_sign()
                term = self._argument(-a if minus else a)
                out = f"{'sub' if minus else 'add'}_{self.t}({out}, {term})"
            return out
        out = self.parenthesize(terms[0], PRECEDENCE["Add"])
        for a in terms[1:]:
            minus = a.could_extract_minus_sign()
            out += (" - " if minus else " + ") + self.parenthesize(
                _negated(a) if minus else a, PRECEDENCE["Add"], strict=True
            )
        return out

    def _print_Mul(self, e: Any) -> str:
        factors = [a for a in e.args if not (a.is_Pow and a.exp == -1 and a.free_symbols)]
        under = [a.base for a in e.args if a.is_Pow and a.exp == -1 and a.free_symbols]
        if self.t[0] == "c":
            return self._complex_product(factors, under)
        sign = ""
        if (
            factors
            and factors[0].is_number
            and sympy.N(factors[0]).is_negative
            and self.t[0] != "u"
        ):
            sign, factors = "-", [-factors[0], *factors[1:]]
        factors = [a for a in factors if a != 1]
        if not factors:
            text = self.number(sympy.S.One)
        elif len(factors) == 1 and not under:
            return sign + self.parenthesize(factors[0], PRECEDENCE["Mul"], strict=bool(sign))
        else:
            # in order, a power is rounded before it is multiplied, as a temporary of its own is
            inner = PRODUCT if self.lower.p.ordered else PRECEDENCE["Mul"]
            text = "*".join(
                self.parenthesize(a, inner if n else PRECEDENCE["Mul"], strict=n > 0)
                for n, a in enumerate(factors)
            )
        if under and not any(a.free_symbols for a in factors):
            text = self.splat(sympy.Mul(*factors))
        for b in under:
            text += "/" + self.parenthesize(b, PRODUCT, strict=True)
        return sign + text

    def _complex_product(self, factors: list[Any], under: list[Any]) -> str:
        if len(factors) == 2 and factors[0] == -1:
            out = f"neg_{self.t}({self._argument(factors[1])})"
        else:
            out = self._argument(factors[0]) if factors else self.splat(sympy.S.One)
            for a in factors[1:]:
                out = f"mul_{self.t}({out}, {self._argument(a)})"
        for b in under:
            out = f"div_{self.t}({out}, {self._argument(b)})"
        return out

    def _print_Pow(self, e: Any) -> str:
        b, q = e.args
        if q == -1:
            one = self.splat(sympy.S.One)
            if self.t[0] == "c":
                return f"div_{self.t}({one}, {self._argument(b)})"
            if self.lower.on_device:  # CUDA has an instruction for it
                return f"reciprocal_{self.t}({self._argument(b)})"
            return f"{one}/{self.parenthesize(b, PRECEDENCE['Mul'], strict=True)}"
        if q == sympy.Rational(1, 2):
            return f"sqrt_{self.t}({self._argument(b)})"
        text = self.parenthesize(b, PRECEDENCE["Mul"])
        if self.t[0] == "c":
            square = f"square_{self.t}({text})"
            return square if q == 2 else f"mul_{self.t}({square}, {text})"
        return "*".join([text] * int(q))

    # -- functions: name_dtype(arguments) ----------------------------------------------------------

    def _call(self, e: Any) -> str:
        kinds = [self.lower.dtype(a) if not a.is_number else None for a in e.args]
        default = np.dtype(next(n for n, s in SUFFIX.items() if s == self.t))
        if isinstance(e, fn.Elementwise):
            types = e.argument_dtypes(kinds, default)
        else:
            types = [default] * len(e.args)
        name = type(e).__name__
        args = ", ".join(self._argument(a, t) for a, t in zip(e.args, types, strict=True))
        if self.turns and name == "exp2" and types[-1] == np.float32:
            return f"exp2_in_turns_f32<{self.turns}>(q*NI + k, {args})"
        return f"{name}_{suffix(types[-1])}({args})"

    def _print_Function(self, e: Any) -> str:
        return self._call(e)

    def _print_cast(self, e: Any) -> str:
        x, to = e.args
        source = self.lower.dtype(x)
        assert source is not None
        return f"{SUFFIX[to.name]}_from_{suffix(source)}({self._argument(x, source)})"

    def _print_delta(self, e: Any) -> str:
        across = [x for x in e.args if x.name in self.across]  # lanes count up along this index
        a, b = (
            self.operand(x)[0]
            for x in (e.args if not across else (across[0], *(set(e.args) - set(across))))
        )
        t = {"c64": "f32", "c128": "f64"}.get(self.t, self.t)
        out = f"unit_{t}({b} - {a})" if across else f"splat_{t}({a} == {b})"
        return out if t == self.t else f"{self.t}_from_{t}({out})"


def _known(name: str) -> Any:
    return lambda self, e: self._call(e)


for _name in (
    "exp",
    "log",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "asinh",
    "acosh",
    "atanh",
):
    setattr(KernelPrinter, f"_print_{_name}", _known(_name))
for _name in fn.OURS:
    if _name not in ("cast", "delta"):
        setattr(KernelPrinter, f"_print_{_name}", _known(_name))


def _negated(e: Any) -> Any:
    """-e of a product or number with a minus sign, unevaluated."""
    if e.is_Mul and not e.is_number:
        c, *rest = e.args
        if c == -1 and len(rest) == 1:
            return rest[0]
        return sympy.Mul(-c, *rest, evaluate=False) if c != -1 else sympy.Mul(*rest, evaluate=False)
    return -e


def vector_suffix(dtype: np.dtype) -> str:
    """Vector type names are v + suffix, masks are vb."""
    return "b" if dtype.kind == "b" else suffix(dtype)


def formula(program: Program, value: Any, limit: int = 400) -> str:
    """The formula as text, with folds written out: `sum_d(...)`.

    Of a long one it is the beginning, and the rest stays `t7[i,j]`.
    """

    def text(e: Any) -> str:
        for _ in range(FORMULA_DEPTH):  # shared values written out grow exponentially
            new = {a: what.expr for a in elems(e) if isinstance(what := program.definition(a), Let)}
            if not new or e.count_ops() > limit:
                break
            e = e.xreplace(new)
        named: dict[Any, Any] = {}
        for a in e.free_symbols:
            what = program.definition(a) if isinstance(a, Elem) else None
            if isinstance(what, Fold):
                body = text(what.body)
                named[a] = sympy.Symbol(
                    f"{what.op}_{','.join(what.over)}({body})" if what.over else f"({body})"
                )
        named |= {a: sympy.Symbol(a.base) for a in elems(e) if not a.idx and a not in named}
        return str(e.xreplace(named))

    out = text(value)
    return out if len(out) <= limit else out[: limit - 3] + "..."
