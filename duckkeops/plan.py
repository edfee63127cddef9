"""Strategy, loop axes, tile shape and splits.

Here are the cost model, and what `explain` and `estimate` say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from duckkeops.expr import BATCH, FEATURE, NEUTRAL, POINT, Apply, Node, Reduce

SLICE_SECONDS = 0.1  # long work is cut into calls of about this length, so that Ctrl-C works
INLINE_SECONDS = 200e-6  # below it waking another thread costs more than it gains
CHEAP, HEAVY = 1.0, 12.0  # cycles of an operation on one vector: an addition, an exponential
CLOCK = 2.5e9  # cycles a second; estimates need no more than the order of magnitude


@dataclass(frozen=True)
class LoopAxes:
    """Which axis of the whole each loop runs over.

    Where the lane axis is None there is one row; where `merged`, it is reduced too.
    """

    outer: tuple[int, ...]
    lane: int | None
    columns: tuple[int, ...]
    features: tuple[int, ...]
    merged: bool


def loop_axes(node: Reduce) -> LoopAxes:
    """Lanes run over the last kept point axis; without one, over the first reduced axis, whose
    states are merged after.

    An axis that every input spans is a batch, whatever its role: its entries share nothing, lie far
    apart and may be few. If only such axes are left, lanes run over the longer of them and the
    first reduced axis.
    """
    whole, roles = node.whole, node.whole_roles
    kept = [a for a in range(len(whole)) if a not in node.axes]
    features = tuple(a for a in kept if roles[a] == FEATURE and whole[a] != 1)
    large = [a for a in kept if a not in features and whole[a] != 1]
    reduced = [a for a in node.axes if whole[a] != 1]
    spans = [s for arg in node.args for s in arg.spans]
    points = [
        a
        for a in large
        if roles[a] == POINT and not all(s >> (len(whole) - 1 - a) & 1 for s in spans)
    ]
    if not points and (
        len(reduced) < 2 or whole[reduced[0]] < max((whole[a] for a in large), default=0)
    ):
        points = large
    merged = False
    lane: int | None = None
    if points:
        lane = points[-1]
    elif len(reduced) > 1:
        lane, reduced, merged = reduced[0], reduced[1:], True
    elif reduced and not features:
        lane, reduced, merged = reduced[0], [], True
    if not reduced:
        reduced = [next((a for a in node.axes if a != lane), node.axes[0])] if node.axes else []
    if merged and reduced == [lane]:
        reduced = []
    return LoopAxes(tuple(a for a in large if a != lane), lane, tuple(reduced), features, merged)


FEW_ROWS = 16  # up to here one vector of rows is enough
LARGE_K = 32  # of a top-k: its state fills the first cache with one vector of rows


def few_rows(node: Reduce, axes: LoopAxes) -> bool:
    """Does one vector hold all rows of a tile?"""
    return axes.lane is None or node.whole[axes.lane] <= FEW_ROWS


def tile_shape(registers: int, narrow: bool) -> Callable[[int, int, int], tuple[int, int]]:
    """Vectors of rows and columns of a tile, for a number of vector registers.

    `narrow`: one vector of rows. They were measured on machines with 32.
    """

    def choose(depth: int, outputs: int, arrays: int) -> tuple[int, int]:
        if narrow:
            return (1, 1) if arrays * 64 * 8 > 16384 else (1, 8 if registers >= 32 else 4)
        if arrays:  # values of each pair that are kept in arrays must stay in the first cache
            return (2, 2) if arrays * 4 * 64 <= 16384 else (1, 1)
        if registers < 32:
            return (2, 4) if outputs == 1 else (1, 4)
        if outputs > 1:
            return (2, 4) if outputs <= 4 else (2, 8)
        return (4, 4) if depth <= 4 else (4, 5)

    return choose


SPLIT_BLOCKS = 64  # row blocks that keep many threads busy
SPLIT_COLUMNS = 4096  # of the first column axis: fewer are not worth a merge
SPLIT_PAIRS = 1 << 22  # below, a reduction takes a millisecond or so


def splits(node: Reduce, axes: LoopAxes, blocks: int) -> int:
    """Into how many parts the columns are cut where row blocks are few.

    It depends on the sizes alone, so that results are the same for any number of threads.
    """
    if blocks >= SPLIT_BLOCKS or not axes.columns or pairs(node) < SPLIT_PAIRS:
        return 1
    behind = math.prod(node.whole[a] for a in axes.columns[1:])
    columns = node.whole[axes.columns[0]]
    wanted = -(-SPLIT_BLOCKS // max(blocks, 1))
    least = max(SPLIT_COLUMNS, dict(node.params).get("k", 0))  # each part fills a top-k
    return max(1, min(wanted, columns, columns * behind // least))


def operations(node: Reduce, nodes: Sequence[Node]) -> float:
    """Rough vector operations a pair: each operation counts once for each of its features."""
    total = 0.0
    for n in nodes:
        if isinstance(n, Apply):
            size = math.prod(
                s for s, r in zip(n.shape, n.roles, strict=True) if r in (FEATURE, NEUTRAL)
            )
            total += size * (HEAVY if n.op.name in HEAVY_OPS else CHEAP)
        elif isinstance(n, Reduce) and n is not node:
            total += math.prod(n.whole[a] for a in n.axes)
    return total + 1 + dict(node.params).get("k", 0) / 16  # top-k: what insertions cost, roughly


HEAVY_OPS = frozenset(
    [
        "exp",
        "exp2",
        "expm1",
        "log",
        "log2",
        "log10",
        "log1p",
        "logaddexp",
        "logaddexp2",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "atan2",
        "sinh",
        "cosh",
        "tanh",
        "asinh",
        "acosh",
        "atanh",
        "pow",
        "cbrt",
        "hypot",
        "erf",
        "erfc",
        "erfinv",
        "lgamma",
        "digamma",
        "expit",
        "logit",
        "sinc",
        "i0",
        "i1",
        "i0e",
        "i1e",
        "ndtr",
        "log_ndtr",
        "gelu",
        "silu",
        "softplus",
        "mish",
    ]
)


def pairs(node: Reduce) -> int:
    """How many entries the loop visits."""
    return math.prod(
        n for n, r in zip(node.whole, node.whole_roles, strict=True) if r in (POINT, BATCH, NEUTRAL)
    )


def seconds(node: Reduce, nodes: Sequence[Node], lanes: int, threads: int) -> float:
    """Estimated time of the loop."""
    return pairs(node) * operations(node, nodes) / (lanes * CLOCK * max(threads, 1))
