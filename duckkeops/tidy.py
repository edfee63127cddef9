"""Simplification that cannot hurt: of scalar derivatives only, over opaque symbols, and the
cheapest form wins.

`expand`, `factor` or `simplify` on a formula would trade accuracy for beauty (they cancel in
floating point); here the passes see symbols for all that the pair loop does not compute, and what
they return is kept only if it is cheaper.
"""

from __future__ import annotations

from collections.abc import Callable

import sympy

from duckkeops import functions as fn

HEAVY = 12  # a transcendental function, in multiplications
BUDGET = (
    80  # operations beyond which `cancel` is not tried: it took seconds and expanded denominators
)
PASSES: tuple[Callable, ...] = (
    lambda e: e,
    sympy.factor_terms,
    lambda e: sympy.factor_terms(sympy.cancel(e)),
    sympy.powsimp,
)


def cost(e: sympy.Expr) -> int:
    """Rough instructions of e; equal subexpressions count once."""
    total, seen = 0, set()
    for n in sympy.preorder_traversal(e):
        if n in seen or n.is_Atom:
            continue
        seen.add(n)
        if n.is_Pow:
            q = n.exp
            if q.is_Integer:
                total += abs(int(q)).bit_length() + (4 if q < 0 else 0)
            else:
                total += 4 if (2 * q).is_Integer else 2 * HEAVY
        elif n.is_Add or n.is_Mul:
            total += len(n.args) - 1
        elif n.is_Function:
            total += 2 if isinstance(n, fn.Elementwise) else HEAVY
    return total


def tidy(e: sympy.Expr, indices: Callable[[sympy.Expr], frozenset[str]]) -> sympy.Expr:
    """e, or a cheaper equal. `indices` tells what an expression depends on.

    Sums that no pair loop computes (1 - |x_i|^2) are hidden first, so that no pass multiplies them
    out.
    """
    passes = PASSES if sympy.count_ops(e) <= BUDGET else PASSES[:2]
    hidden = _one_sided_sums(e, indices)
    if hidden:
        return _cheapest(e.xreplace(hidden), passes).xreplace({v: k for k, v in hidden.items()})
    return _cheapest(e, passes)


def _one_sided_sums(e: sympy.Expr, indices: Callable) -> dict[sympy.Expr, sympy.Symbol]:
    found: list[sympy.Expr] = []
    sides = indices(e)

    def visit(n: sympy.Expr) -> None:
        if n.is_Atom:
            return
        if n.is_Add and indices(n) < sides:
            found.append(n)
        else:
            for a in n.args:
                visit(a)

    visit(e)
    return {
        n: sympy.Symbol(
            f"hidden{k}",
            real=None if fn.is_complex(n) else True,
            nonnegative=True if n.is_nonnegative else None,
        )
        for k, n in enumerate(dict.fromkeys(found))
    }


def _cheapest(e: sympy.Expr, passes: tuple[Callable, ...]) -> sympy.Expr:
    if not any(a.is_Add for a in sympy.preorder_traversal(e)):
        return e
    if isinstance(e, fn.where):
        return e.func(e.args[0], *(_cheapest(a, passes) for a in e.args[1:]))
    halves = {
        p.base
        for p in e.atoms(sympy.Pow)
        if p.base.is_Symbol and p.base.is_real and p.exp.is_Rational and p.exp.q == 2
    }
    roots = {b: sympy.Symbol(f"root_{b.name}", positive=True) for b in sorted(halves, key=str)}
    there = {b: r**2 for b, r in roots.items()}
    there.update(
        {
            p: roots[p.base] ** (2 * p.exp)
            for p in e.atoms(sympy.Pow)
            if p.base in roots and p.exp.is_Rational
        }
    )
    flat = e.xreplace(there)
    best = min((p(flat) for p in passes), key=_rank)
    for b, r in roots.items():  # r is back where b's root was, so that r and r**2 have cancelled
        powers = {
            p: b ** (p.exp / 2) for p in best.atoms(sympy.Pow) if p.base == r and p.exp.is_Rational
        }
        best = best.xreplace(powers)
    best = best.xreplace({r: sympy.sqrt(b) for b, r in roots.items()})
    return best if _rank(best) < _rank(e) else e


def _rank(e: sympy.Expr) -> tuple[int, int]:
    return cost(e), sympy.count_ops(e)
