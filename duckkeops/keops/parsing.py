"""KeOps's formula strings, read as Python expressions by `ast`; nothing is executed."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from duckkeops.keops.formulas import TABLE, Formula, Variable, apply, constant

CATEGORIES = {"Vi": 0, "Vj": 1, "Pm": 2, "Vx": 0, "Vy": 1}
INFIX = {
    ast.Add: "Add",
    ast.Sub: "Subtract",
    ast.Mult: "Mult",
    ast.Div: "Divide",
    ast.BitOr: "Scalprod",
    ast.Lt: "LessThan",
    ast.LtE: "LessOrEqual",
    ast.Gt: "GreaterThan",
    ast.GtE: "GreaterOrEqual",
    ast.Eq: "Equal",
    ast.NotEq: "NotEqual",
}
PARAMETERS = {  # how many numbers or lists follow the formulas
    **dict.fromkeys(("Pow", "Round", "SumT", "Elem", "OneHot", "BSpline", "IntCst", "IntInv"), 1),
    **dict.fromkeys(("Zero", "ComplexSumT"), 1),
    **dict.fromkeys(("ClampInt", "DiffClampInt", "ElemT", "Extract", "ExtractT", "RatCst"), 2),
    "Kron": 2,
}
CONSTANTS = ("IntCst", "IntInv", "RatCst", "Zero")
FORMULAS = {  # how many formulas come first, where it is not one
    **dict.fromkeys(CONSTANTS, 0),
    **dict.fromkeys(("Add", "Subtract", "Mult", "Divide", "Scalprod", "Powf", "Atan2"), 2),
    **dict.fromkeys(("Equal", "NotEqual", "LessThan", "LessOrEqual"), 2),
    **dict.fromkeys(("GreaterThan", "GreaterOrEqual", "SqDist", "Concat", "BSpline"), 2),
    **dict.fromkeys(("WeightedSqNorm", "SqNormIso", "SqNormDiag", "SymSqNorm"), 2),
    **dict.fromkeys(("TensorProd", "MatVecMult", "VecMatMult", "Kron", "DifferenceMatrix"), 2),
    **dict.fromkeys(("Factorize", "Divergence", "Laplacian", "GradMatrix", "TraceOperator"), 2),
    **dict.fromkeys(("ComplexMult", "ComplexAdd", "ComplexSubtract", "ComplexDivide"), 2),
    "ComplexRealScal": 2,
    **dict.fromkeys(("Clamp", "Mod", "IfElse", "WeightedSqDist", "SoftMin", "SoftDTW_SqDist"), 3),
    **dict.fromkeys(("Grad", "Diff", "AdjointOperator"), 3),
}
ANY_NUMBER = ("Pow", "ClampInt", "DiffClampInt", "IntCst")  # what follows may be no integer
ALIAS = re.compile(r"\s*(?:(\w+)\s*=\s*)?(\w+)\(([^()]*)\)\s*")


def alias(line: str, place: int) -> tuple[str | None, Variable]:
    """'x = Vi(3)', 'Vi(0, 3)' or 'Var(0, 3, 1)': a name, if any, and its variable.

    `place` is the index where none is said. Raises ValueError for what is no alias.
    """
    match = ALIAS.fullmatch(line)
    try:
        if match is None:
            raise ValueError
        name, kind, inner = match.groups()
        numbers = [int(n) for n in inner.split(",")]
        if kind == "Var":
            index, dim, cat = numbers
        elif kind in CATEGORIES:
            (index, dim), cat = (
                numbers if len(numbers) == 2 else (place, *numbers),
                CATEGORIES[kind],
            )
        else:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{line!r} is no alias.\n  Write 'x = Vi(3)' for rows i of dimension 3, or Vj, Pm, "
            "Vi(index, dim), Var(index, dim, cat)."
        ) from None
    if cat not in (0, 1, 2) or dim < 1:
        raise ValueError(f"{line!r}: cat is 0, 1 or 2, and dim positive.")
    return name, Variable(index, dim, cat)


def parsed(formula: str, names: Mapping[str, Variable]) -> Formula:
    """The formula; `names` are its aliases. Raises ValueError where it has no meaning."""
    try:
        tree = ast.parse(formula.strip(), mode="eval")
    except SyntaxError as error:
        raise ValueError(f"cannot read the formula {formula!r}: {error.msg}.") from None
    return _Reader(formula, names).formula(tree.body)


class _Reader:
    def __init__(self, whole: str, names: Mapping[str, Variable]):
        self.whole, self.names = whole, names

    def formula(self, node: ast.AST) -> Formula:
        if isinstance(node, ast.Name):
            if node.id not in self.names:
                raise ValueError(
                    f"{node.id} in the formula {self.whole!r} is none of its variables: "
                    f"{', '.join(self.names) or 'it has none'}."
                )
            return self.names[node.id]
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return constant(node.value)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            inner = self.formula(node.operand)
            return apply("Minus", inner) if isinstance(node.op, ast.USub) else inner
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            return self._power(node)
        if isinstance(node, ast.BinOp) and type(node.op) in INFIX:
            sides = (self.formula(node.left), self.formula(node.right))
            return apply(INFIX[type(node.op)], *sides)
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in INFIX:
            sides = (self.formula(node.left), self.formula(node.comparators[0]))
            return apply(INFIX[type(node.ops[0])], *sides)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            return self._call(node.func.id, node.args)
        raise ValueError(
            f"cannot read {ast.unparse(node)!r} in the formula {self.whole!r}."  # type: ignore[arg-type]
        )

    def _power(self, node: ast.BinOp) -> Formula:
        exponent = node.right
        if isinstance(exponent, ast.Constant) and type(exponent.value) is int:
            base = self.formula(node.left)
            n = exponent.value
            return apply("Square", base) if n == 2 else apply("Pow", base, params=(n,))
        return apply("Powf", self.formula(node.left), self.formula(exponent))

    def _call(self, name: str, args: Sequence[ast.expr]) -> Formula:
        if name == "Var" or name in CATEGORIES:
            return alias(f"{name}({', '.join(map(ast.unparse, args))})", 0)[1]
        if name not in TABLE:
            raise ValueError(f"there is no operation {name}, as in the formula {self.whole!r}.")
        if name == "TensorDot":
            return self._tensordot(args)
        n = FORMULAS.get(name, 1)
        if len(args) != n + PARAMETERS.get(name, 0):
            raise ValueError(
                f"{name} takes {n + PARAMETERS.get(name, 0)} arguments, and got {len(args)} in the "
                f"formula {self.whole!r}."
            )
        params = tuple(map(self._value, args[n:]))
        if name not in ANY_NUMBER and not all(isinstance(p, int | tuple) for p in params):
            raise ValueError(
                f"{name} takes integers, and got {params} in the formula {self.whole!r}."
            )
        if name in CONSTANTS:
            return Formula(TABLE[name], (), params, params[0] if name == "Zero" else 1)
        return apply(name, *map(self.formula, args[:n]), params=params)

    def _tensordot(self, args: Sequence[ast.expr]) -> Formula:
        lists = tuple(map(self._value, args[2:]))
        if len(lists) not in (4, 5) or not all(isinstance(p, tuple) for p in lists):
            raise ValueError(
                f"TensorDot takes two formulas and four or five lists in the formula "
                f"{self.whole!r}."
            )
        params = lists if len(lists) == 5 else (*lists, None)
        return apply("TensorDot", *map(self.formula, args[:2]), params=params)

    def _value(self, node: ast.expr) -> Any:
        try:
            value = ast.literal_eval(node)
        except ValueError:
            raise ValueError(
                f"{ast.unparse(node)!r} in the formula {self.whole!r} must be a number or a list."
            ) from None
        return tuple(value) if isinstance(value, list) else value
