"""A formula as LaTeX: SymPy's own, with folds as sums, products and maxima over their indices.

Imports SymPy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import sympy
from sympy.printing.latex import LatexPrinter

from duckkeops import functions as fn
from duckkeops.display import formula
from duckkeops.expr import Concat, Input, Node, Scalar, walk
from duckkeops.symbolic import COLUMN_LETTERS, Elem, Env, Fold, Translator, elem

POINT_LETTERS = "i" + COLUMN_LETTERS
INFIX = {
    "equal": "=",
    "not_equal": r"\neq",
    "less": "<",
    "less_equal": r"\leq",
    "greater": ">",
    "greater_equal": r"\geq",
    "logical_and": r"\wedge",
    "logical_or": r"\vee",
}


def latex(node: Node) -> str:
    r"""The formula of one entry, its points numbered by i, j, k and its features by d, e, f.

    >>> import numpy as np
    >>> from duckkeops import LazyArray
    >>> x, y = LazyArray(np.ones((3, 1, 2))), LazyArray(np.ones((1, 4, 2)))
    >>> print(latex(((x - y) ** 2).sum(-1)._node))
    \sum_{d=1}^{2} \left(\mathrm{x0}_{i,d} - \mathrm{x1}_{j,d}\right)^{2}
    """
    nodes = list(walk(node))
    if _written_out(nodes) > LONGEST:
        return (
            rf"\mathtt{{\text{{{formula(node)[0]}}}}}".replace("_", r"\_")
            .replace("^", r"\^{}")
            .replace("**", r"{*}{*}")
        )
    translator = Words(nodes)
    program = translator.program
    points = iter(POINT_LETTERS[:-1])
    env: list[str | None] = []
    for n, role in zip(node.shape, node.roles, strict=True):
        name = next(points, f"{POINT_LETTERS[-1]}{len(env)}") if role in "bp" else None
        if name:
            program.sizes[name] = None
        env.append(name or (None if n == 1 else program.feature(n, (c for c in env if c))))
    value = sympy.sympify(node.value) if isinstance(node, Scalar) else translator(node, tuple(env))
    return Printer(_names(node, nodes)).doprint(_written(translator, value))


def _written_out(nodes: list[Node]) -> int:
    """How many operations the formula has where shared values are written out each time."""
    sizes: dict[int, int] = {}
    for n in nodes:
        sizes[id(n)] = 1 + sum(sizes[id(a)] for a in n.args)
    return sizes[id(nodes[-1])]


def _names(node: Node, nodes: list[Node]) -> dict[int, str]:
    """What each input and number is called, as in the text of the formula."""
    shown = {id(a): rf"\mathrm{{x{k}}}" for k, a in enumerate(formula(node)[1])}
    out: dict[int, str] = {}
    for k, n in enumerate(nodes):
        if isinstance(n, Input):
            out[k] = shown.get(id(n)) or str(n.array)
        elif isinstance(n, Scalar):
            out[k] = sympy.latex(sympy.sympify(n.value))
    return out


class Words(Translator):
    """Also takes what no kernel does: concatenation stays a name."""

    def concat(self, node: Concat, env: Env) -> Any:
        parts = [self(a, env) for a in node.args]
        return self.program.let(sympy.Function("concatenate", real=True)(*parts), node.dtype)

    _visit: ClassVar[dict[type, Callable[[Any, Any, Env], Any]]] = {
        **Translator._visit,
        Concat: concat,
    }


LONGEST = 400  # operations; beyond it the formula is shown as repr does, its beginning
NOTATION = {"sum": sympy.Sum, "prod": sympy.Product}


class Over(sympy.Function):
    """Over(op, body, *indices): a fold that SymPy has no notation for."""


def _written(translator: Translator, e: Any) -> Any:
    """The expression with folds as SymPy's Sum and Product, and without casts."""
    p = translator.program
    e = p.inline(e)
    new: dict[Any, Any] = {}
    for a in e.free_symbols:
        what = p.definition(a) if isinstance(a, Elem) else None
        if isinstance(what, Fold):
            new[a] = _fold(translator, what)
        elif (
            isinstance(a, Elem) and a.base[0] == "x"
        ):  # only the number of the node, and the indices
            new[a] = elem(str(p.inputs[a.base][0]), a.idx, bool(a.is_nonnegative), bool(a.is_real))
        elif isinstance(a, Elem):
            new[a] = elem(str(p.inputs[a.base][0]), (), False, bool(a.is_real))
    unseen = (fn.cast, fn.as_float16, fn.as_bfloat16)
    return e.xreplace(new).replace(lambda n: isinstance(n, unseen), lambda n: n.args[0])


def _fold(translator: Translator, what: Fold) -> Any:
    body = _written(translator, what.body)
    if not what.over:
        return body
    sizes = [translator.program.sizes[c] for c in what.over]
    names = [sympy.Symbol(c) for c in what.over]
    if what.op in NOTATION and all(sizes):
        return NOTATION[what.op](body, *((c, 1, n) for c, n in zip(names, sizes, strict=True)))
    return Over(sympy.Symbol(what.op), body, *names)


class Printer(LatexPrinter):
    """SymPy's printer, with our functions."""

    def __init__(self, names: dict[int, str]):
        super().__init__()
        self.names = names

    def _print_Elem(self, e: Elem) -> str:
        name = self.names[int(e.base)]
        return f"{name}_{{{','.join(e.idx)}}}" if e.idx else name

    def _print_Over(self, e: Any, exp: Any = None) -> str:
        op, body, *over = e.args
        name = (
            rf"\{op.name}"
            if op.name in ("sum", "prod", "max", "min")
            else rf"\operatorname{{{op.name}}}"
        )
        return self._raised(
            rf"{name}_{{{','.join(c.name for c in over)}}}{self._bracketed(body)}", exp
        )

    def _bracketed(self, *args: Any) -> str:
        return rf"{{\left({', '.join(self._print(a) for a in args)} \right)}}"

    def _raised(self, text: str, exp: Any) -> str:
        return text if exp is None else rf"{{{text}}}^{{{exp}}}"

    def _print_abs(self, e: Any, exp: Any = None) -> str:
        return self._raised(rf"\left|{{{self._print(e.args[0])}}}\right|", exp)

    def _print_floor(self, e: Any, exp: Any = None) -> str:
        return self._raised(rf"\left\lfloor{{{self._print(e.args[0])}}}\right\rfloor", exp)

    def _print_ceil(self, e: Any, exp: Any = None) -> str:
        return self._raised(rf"\left\lceil{{{self._print(e.args[0])}}}\right\rceil", exp)

    def _print_where(self, e: Any, exp: Any = None) -> str:
        c, a, b = (self._print(x) for x in e.args)
        cases = (
            rf"\begin{{cases}} {a} & \text{{where}}\: {c} \\ {b} & \text{{elsewhere}} \end{{cases}}"
        )
        return self._raised(cases, exp)

    def _print_maximum(self, e: Any, exp: Any = None) -> str:
        return self._raised(rf"\max{self._bracketed(*e.args)}", exp)

    def _print_minimum(self, e: Any, exp: Any = None) -> str:
        return self._raised(rf"\min{self._bracketed(*e.args)}", exp)

    def _print_power(self, e: Any, exp: Any = None) -> str:
        base, q = e.args
        text = rf"{{{self.parenthesize(base, 60)}}}^{{{self._print(q)}}}"
        return text if exp is None else rf"{{\left({text}\right)}}^{{{exp}}}"

    def _print_delta(self, e: Any, exp: Any = None) -> str:
        return rf"\delta_{{{e.args[0].name},{e.args[1].name}}}"


def _infix(sign: str) -> Callable:
    return lambda self, e, exp=None: f" {sign} ".join(self.parenthesize(a, 40) for a in e.args)


for _name, _sign in INFIX.items():
    setattr(Printer, f"_print_{_name}", _infix(_sign))
