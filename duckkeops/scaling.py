"""Coordinates scaled beforehand, so that exp(-g |x - y|^2) is a bare exponential of a sum.

`exp2(c * sum((x - y)^2))` becomes `exp2(sum(-(s x - s y)^2))` with s = sqrt(-c): one product less
for each pair; and in the same way a sum of |x - y|, with s = -c. Rounding s x costs 2^-24 of it,
and so as much of the exponent; a CUDA kernel does this only in blocks where all scaled coordinates
are small (`NEAR`), and as it is written elsewhere.

From `PRODUCTS` features on it becomes `exp2(-|p|^2 - |q|^2 + sum(2 p q))` with p = s (x - m) and
q = s (y - m) off a centre m of y: half the instructions. What cancels there is at most |p|^2 and
|q|^2, so this is done where these are small (`NEAR_SQUARES`), and where the exponential is only
multiplied and added: sqrt(1 - exp(-d)) of equal points would tell that d is not quite 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy

from duckkeops import functions as fn
from duckkeops.lower import Lower, Temp
from duckkeops.symbolic import Elem

FEW = 32  # features: of more, a product is nothing
NEAR = 16  # of |s x|: the error of exp2 is then at most about 0.7 sqrt(D) 16 2^-24 = 1e-6
PRODUCTS = 6  # features; of fewer, differences stay in more blocks than they cost in some
NEAR_SQUARES = 16  # of |p|^2 and |q|^2: the error of exp2 is then about 0.7 * 2 * 16 * 2^-24 = 1e-6


@dataclass(frozen=True)
class Scaled:
    """A sum of (x - y)^2 that is the exponent of one exponential: `factor` times it, or the
    negative sum of (left - right)^2, or, where there is a `start`, start + end + sum(left right).
    The same of |x - y| unless it is `squared`.
    """

    x: Any
    y: Any
    left: Any
    right: Any
    factor: Any
    start: Any = None
    end: Any = None
    squared: bool = True

    @property
    def operands(self) -> set[Any]:
        return {a for a in vars(self).values() if isinstance(a, Elem)}

    @property
    def sides(self) -> tuple[tuple[Any, int], ...]:
        """What of rows, and of columns, is to be at most this in magnitude."""
        if self.start is None:
            return (self.left, NEAR), (self.right, NEAR)
        return (self.start, NEAR_SQUARES), (self.end, NEAR_SQUARES)


def scale(lower: Lower, values: list[Any]) -> None:
    """Rewrite the exponentials among the temporaries that nothing but `values` are made of."""
    users: dict[Any, list[Any]] = {}
    found: list[tuple[Temp | None, set[Any]]] = [(None, v.free_symbols) for v in values]
    for user, operands in found:  # which grows meanwhile
        for a in operands:
            if a not in users and a in lower.by_sym:
                made = lower.by_sym[a]
                found.append((made, made.operands))
            users.setdefault(a, []).append(user)
    for t in list(lower.temps):
        if isinstance(t.expr, fn.exp2) and t.dtype == np.float32:
            _scale_one(lower, t, users)


def _scale_one(lower: Lower, t: Temp, users: dict[Any, list[Any]]) -> None:
    def made(a: Any, by: list[Any]) -> Temp | None:
        """What an operand is, if nothing else uses it."""
        return lower.by_sym.get(a) if users.get(a) == by else None

    exponent = made(t.expr.args[0], [t])
    if exponent is None or not exponent.expr.is_Mul:
        return
    inner = [a for a in exponent.expr.args if lower.idx(a)]
    outer = [a for a in exponent.expr.args if not lower.idx(a)]
    if len(inner) != 1:
        return
    (distance,) = inner
    factor = outer[0] if len(outer) == 1 else sympy.Mul(*outer)
    if not factor.is_number and not isinstance(factor, Elem):
        return
    total = made(distance, [exponent])
    if total is None or total.fold != "sum" or total.gap or len(total.over) != 1:
        return
    if (lower.p.sizes[total.over[0]] or FEW + 1) > FEW:
        return
    if total.dtype != np.float32 or _sign(lower, factor) >= 0:
        return
    term = made(total.expr, [total])
    squared = term is not None and term.expr.is_Pow and term.expr.exp == 2
    if term is None or not (squared or isinstance(term.expr, fn.abs)):
        return
    difference = made(term.expr.args[0], [term])
    if difference is None or not difference.expr.is_Add:
        return
    terms = {c: a for a, c in (_term(a) for a in difference.expr.args)}
    if set(terms) != {1, -1}:
        return
    x, y = sorted(terms.values(), key=lambda a: lower.scope(lower.idx(a)) != "row")
    loops = [lower.idx(a) - set(total.over) for a in (x, y)]
    if loops != [{lower.lane}, {lower.columns[-1]}]:
        return
    if any(not isinstance(a, Elem) or lower.dtype(a) != np.float32 for a in (x, y)):
        return
    first = len(lower.temps)
    root = lower.temp(sympy.sqrt(-factor) if squared else -factor, total.dtype)
    many = (lower.p.sizes[total.over[0]] or 0) >= PRODUCTS
    if squared and many and y not in lower.by_sym and _is_linear(t, users):  # y is an input
        total.scaled = _products(lower, total, x, y, root, factor)
    else:
        left, right = (_scaled(lower, root, a, total.dtype) for a in (x, y))
        total.scaled = Scaled(x, y, left, right, factor, squared=squared)
    new, place = lower.temps[first:], lower.temps.index(total)
    lower.temps[:] = [*lower.temps[:place], *new, *lower.temps[place:first]]
    t.expr = fn.exp2(total.sym, evaluate=False)


def _scaled(lower: Lower, root: Any, a: Any, dtype: np.dtype) -> Any:
    return lower.temp(sympy.Mul(root, a, evaluate=False), dtype, keep=True)


def _products(lower: Lower, total: Temp, x: Any, y: Any, root: Any, factor: Any) -> Scaled:
    dtype = total.dtype
    p, q = (_scaled(lower, root, lower.off_centre(a, y, dtype), dtype) for a in (x, y))
    start, end = (
        lower.temp(
            sympy.Mul(-1, lower.squared(a, total.over, dtype), evaluate=False), dtype, keep=True
        )
        for a in (p, q)
    )
    twice = lower.temp(sympy.Mul(2, p, evaluate=False), dtype, keep=True)
    return Scaled(x, y, twice, q, factor, start, end)


def _is_linear(t: Temp, users: dict[Any, list[Any]]) -> bool:
    """Is it only multiplied and added, on its way to the values?"""
    seen = [t]
    for one in seen:  # which grows meanwhile
        for user in users[one.sym]:
            if user is None or user in seen:
                continue
            if not (user.fold == "sum" or user.expr.is_Mul or user.expr.is_Add):
                return False
            seen.append(user)
    return True


def _term(a: Any) -> tuple[Any, Any]:
    c, core = a.as_coeff_Mul()
    return core, c


def _sign(lower: Lower, e: Any) -> int:
    """1 or -1 if e has this sign or is 0, whatever the parameters are; else 0."""
    if e.is_number:
        return 1 if e > 0 else -1
    if e in lower.by_sym:
        return 0 if lower.by_sym[e].fold else _sign(lower, lower.by_sym[e].expr)
    if e.is_Pow:
        return 1 if e.exp.is_Integer and e.exp % 2 == 0 else _sign(lower, e.base)
    if e.is_Mul:
        return math.prod(_sign(lower, a) for a in e.args)
    return 0
