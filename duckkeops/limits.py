"""How many instructions a pair takes in a CUDA kernel.

Products that are added are one, as the compiler fuses them. Reads of columns, which all rows of a
thread share, are not counted. `plan.most_pairs` says what pace a device allows them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import sympy

from duckkeops.lower import Lower, Root, Scheduler, Temp

# (instructions without a special function, special functions) of float32 functions: see lane.cuh
FUNCTIONS = {
    "exp2": (0, 1),
    "exp": (1, 1),
    "rsqrt": (0, 1),
    "rsqrt0": (1, 1),
    "log": (9, 1),
    "log2": (9, 1),
    "log10": (9, 1),
    "log1p": (9, 1),
    "cos": (7, 1),
    "cos_log": (2, 2),
    "abs": (0, 0),  # a modifier of what takes it
    "relu": (1, 0),
    "maximum": (1, 0),
    "minimum": (1, 0),
    "sign": (2, 0),
    "where": (1, 0),
    "cast": (1, 0),
}
BY_TERMS = 12  # of exp2_by_terms
REDUCTIONS = {"logsumexp": (3, 1), "softmax_sum": (4, 1), "var": (3, 0), "std": (3, 0)}
OTHERS = (1, 0)


def of(
    lower: Lower, plan: Scheduler, roots: Iterable[Root], row: str, turns: int
) -> tuple[float, float] | None:
    """Instructions of a pair without a special function, and special functions.

    None where not all of it is float32, or a function is not known here.
    `turns`: one of so many exponentials is computed by multiply-adds.
    """
    temps = [t for t in lower.temps if t.sym in plan.needed["pair"]]
    if any(t.dtype not in (np.float32, np.bool_) for t in temps):
        return None
    parts: list[tuple[float, float]] = []
    for t in temps:
        size = _size(lower, [*(c for c in t.idx), *t.over])
        own = _distance(t) if t.scaled else _fold(lower, t) if t.fold else _expression(t.expr)
        if own is None:
            return None
        parts.append((own[0] * size, own[1] * size))
        if t.scaled:  # the sum of the starts; but the first modulus is added to nothing
            parts.append((1 if t.scaled.start is not None else t.scaled.squared - 1, 0))
    for n, (root, value) in enumerate(zip(roots, plan.values, strict=True)):
        size = _size(lower, root.features)
        own, more = _expression(value), OTHERS if n else REDUCTIONS.get(row, OTHERS)
        if own is None:
            return None
        fused = _is_product(lower, value) and (n > 0 or row in ("sum", "mean"))
        parts.append(((own[0] + more[0] - fused) * size, (own[1] + more[1]) * size))
    cheap, special = (math.fsum(p) for p in zip(*parts, strict=True))
    if turns:
        cheap, special = cheap + BY_TERMS / turns, special - 1 / turns
    return cheap, special


def _size(lower: Lower, indices: Iterable[str]) -> int:
    return math.prod(lower.p.sizes[c] or 1 for c in indices)


def _distance(t: Temp) -> tuple[int, int]:
    """Of one feature of a scaled distance: a difference and a product, or a product alone."""
    return (2 if t.scaled.start is None else 1), 0


def _fold(lower: Lower, t: Temp) -> tuple[float, float] | None:
    own = _expression(t.expr)
    if own is None:
        return None
    fused = t.fold == "sum" and _is_product(lower, t.expr)
    return own[0] + (not fused), own[1]


def _is_product(lower: Lower, e: Any) -> bool:
    e = lower.by_sym[e].expr if e in lower.by_sym and not lower.by_sym[e].fold else e
    return bool(e.is_Mul or (e.is_Pow and e.exp == 2))


def _expression(e: Any) -> tuple[float, float] | None:
    if e.is_Atom:
        return 0, 0
    each = [_expression(a) for a in e.args if not a.is_number]
    if any(a is None for a in each):
        return None
    cheap, special = (sum(a[k] for a in each if a) for k in (0, 1))
    own = _own(e)
    return own and (cheap + own[0], special + own[1])


def _own(e: Any) -> tuple[float, float] | None:
    """Of one operation."""
    if e.is_Add:
        products = sum(a.is_Mul and len([f for f in a.args if f != -1]) > 1 for a in e.args)
        return len(e.args) - 1 - min(products, len(e.args) - 1), 0
    if e.is_Mul:
        return max(len([a for a in e.args if a != -1]) - 1, 0), 0
    if e.is_Pow:
        if e.exp == -1:
            return 0, 1
        if e.exp == sympy.S.Half:
            return 1, 1
        return (int(e.exp) - 1, 0) if e.exp.is_Integer else None
    return FUNCTIONS.get(type(e).__name__, OTHERS if e.is_Boolean else None)
