"""Strategy, loop axes, tile shape and splits.

Here are the cost model, and what `explain` and `estimate` say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from duckkeops import restriction
from duckkeops.expr import BATCH, FEATURE, NEUTRAL, POINT, Apply, Joint, Node, Reduce, Scalar
from duckkeops.operands import units

SLICE_SECONDS = 0.05  # the calling thread looks for Ctrl-C about this often
INLINE_SECONDS = 200e-6  # below it waking another thread costs more than it gains
CLOCK = 2.5e9  # cycles a second; a kernel that has run corrects its own estimates
# Cycles of an operation on one vector, as measured by benchmarks/calibrate.py, and those that are
# dearer than an addition. Two additions are done at once, and one fuses with a product.
CHEAP, DIVISION, EXPONENTIAL, LOGARITHM, SPECIAL = 0.35, 6.0, 4.0, 15.0, 150.0


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
    if type(node) is Joint:  # of its reductions each has features of its own
        return replace(loop_axes(node.args[0]), features=())  # type: ignore[arg-type]
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
    pairs = restriction.of(node)
    if pairs is not None and not node.row.places:  # intervals are those of the last columns
        reduced.sort(key=lambda a: a in pairs.axes)
    return LoopAxes(tuple(a for a in large if a != lane), lane, tuple(reduced), features, merged)


FEW_ROWS = 16  # up to here one vector of rows is enough
LARGE_K = 32  # of a top-k: its state fills the first cache with one vector of rows


def few_rows(node: Reduce, axes: LoopAxes) -> bool:
    """Does one vector hold all rows of a tile?"""
    return axes.lane is None or node.whole[axes.lane] <= FEW_ROWS


def is_dear(nodes: Sequence[Node]) -> bool:
    """Do functions cost more than one exponential a pair? Then small tiles are as fast.

    Each entry of a tile is a copy of the functions in the code, which takes the compiler's time.
    """
    total = 0.0
    for n in nodes:
        if isinstance(n, Apply) and _is_pairwise(n):
            cost = _cost(n)
            total += (cost if cost > CHEAP else 0.0) * (2 if n.loop[-1].kind == "c" else 1)
    return total > EXPONENTIAL


def _is_pairwise(n: Node) -> bool:
    return sum(r in (POINT, BATCH) and s != 1 for r, s in zip(n.roles, n.shape, strict=True)) > 1


def tile_shape(
    registers: int, narrow: bool, dear: bool
) -> Callable[[int, int, int], tuple[int, int]]:
    """Vectors of rows and columns of a tile, for a number of vector registers.

    `narrow`: one vector of rows; `dear`: as `is_dear`. They were measured on machines with 32.
    """

    def choose(depth: int, outputs: int, arrays: int) -> tuple[int, int]:
        if narrow:
            few = 4 if registers < 32 or dear else 8
            return (1, 1) if arrays * 64 * 8 > 16384 else (1, few)
        if arrays:  # values of each pair that are kept in arrays must stay in the first cache
            return (2, 2) if arrays * 4 * 64 <= 16384 else (1, 1)
        if dear:
            return (2, 2) if depth <= 8 and outputs == 1 else (2, 4)
        if registers < 32:
            return (2, 4) if outputs == 1 else (1, 4)
        if outputs > 1:
            return (2, 4) if outputs <= 4 else (2, 8) if outputs < 32 else (4, 5)
        return (4, 4) if depth <= 4 else (4, 5)

    return choose


TINY_PAIRS = 1 << 15
SOME_ROWS = 2048  # up to here a block with a row for each thread leaves most of a device idle


def rows_at_once(node: Reduce, axes: LoopAxes) -> int:
    """How many threads of a CUDA block have rows of their own; 0: all of them.

    The others take parts of the columns.
    """
    rows = 1 if axes.lane is None else node.whole[axes.lane]
    if (kept := restriction.of(node)) is not None:  # blocks end with the ranges of rows
        side = kept.side(axes.lane, axes.columns)
        rows //= max(len(side.rows), 1)
    if pairs(node) <= TINY_PAIRS:  # to merge parts takes a launch more
        return 0
    return 8 if rows <= 8 else 32 if rows <= SOME_ROWS else 0


class Tile(NamedTuple):
    """What a thread of a CUDA kernel takes at a time, and its block.

    Rows and columns of one tile; `runs` of such rows that it has; `turns` of the loop over columns
    that are unrolled; `resident` blocks of a processor, which bounds the registers. Of
    `turns_of_exp2` exponentials one is computed by multiply-adds, while the others wait for the
    unit that has an instruction for them; 0: none is.
    """

    rows: int
    columns: int
    runs: int
    threads: int
    resident: int = 1
    turns: int = 1
    turns_of_exp2: int = 0


RARE = ("min", "max", "argmin", "argmax", "topk", "logsumexp", "softmax_sum")  # changes of state
# Measured on an H100 in float32: for this many features, or registers of a row beyond one
# accumulator, at most. One branch serves a tile of values that rarely change the state, so that its
# tiles are large. Tiles of sums are small: exponentials then take turns with what they are made of.
SUMS = (
    (1, Tile(8, 1, 1, 256, 4, 4, 8)),
    (2, Tile(8, 1, 1, 256, 3, 4)),
    (6, Tile(2, 1, 2, 256, 3, 2)),
    (12, Tile(6, 1, 1, 256, 2, 2)),
    (24, Tile(4, 1, 1, 256, 1, 1)),
    (48, Tile(2, 1, 1, 256, 1, 1)),
)
ROOTS = Tile(6, 1, 1, 256, 3, 2, 6)  # of two special functions or more, each of a quarter's pace
ROOTS_OF_FOLDS = Tile(8, 1, 1, 256, 2, 2)  # the same of several sums over the features
QUOTIENTS = Tile(4, 1, 2, 256, 2, 4)  # without an exponential
MODULI = Tile(8, 1, 1, 256, 2, 4)  # of sums of |x - y|
OUTPUTS = ((4, Tile(2, 1, 4, 256, 2, 2)), (16, Tile(4, 1, 1, 128, 4, 2)))  # of sums: this many
WIDE = Tile(2, 1, 2, 128)  # in float64
EXTREMES = (
    (6, Tile(4, 4, 1, 128)),
    (16, Tile(4, 8, 1, 128)),
    (40, Tile(2, 4, 1, 128)),
)
EXPONENTIALS = ((6, Tile(2, 8, 4, 256, 2)), (16, Tile(4, 4, 1, 256)), (40, Tile(2, 4, 1, 128)))
LONGEST_LIST = 64  # of a top-k: longer ones take several passes, each for what the last one left
LISTS = ((16, Tile(1, 4, 1, 128)),)  # of a top-k: for this many places
FEW = Tile(1, 1, 1, 128)
SPECIALS = ("exp", "exp2", "sqrt", "rsqrt", "log", "log2", "log10", "log1p", "cos")
SPECIAL_TURNS = 10  # cheap operations in the time of a special function, and of what goes with it


def cuda_tile(node: Reduce, nodes: Sequence[Node], few: int) -> Callable[..., Tile]:
    """The tile for a number of features, outputs, entries of arrays of a pair, and bytes of the
    widest type. `few`: as `rows_at_once` says.
    """
    name = node.row.name
    k = dict(node.params).get("k", 0)
    names = [n.op.name for n in nodes if isinstance(n, Apply) and _is_pairwise(n)]
    special = sum(map(names.count, SPECIALS))
    work = sum(
        math.prod(s for s, r in zip(n.shape, n.roles, strict=True) if r == FEATURE)
        for n in nodes
        if isinstance(n, Apply) and _is_pairwise(n)
    )
    folds = sum(isinstance(n, Reduce) and n is not node and _is_pairwise(n) for n in nodes)
    costly = any(
        isinstance(n, Apply)
        and _is_pairwise(n)
        and _cost(n) >= LOGARITHM
        and (n.op.name not in SPECIALS or n.loop[-1].itemsize > 4 or n.loop[-1].kind == "c")
        for n in nodes
    )

    def choose(depth: int, outputs: int, arrays: int, size: int) -> Tile:
        words = max(1, size // 4)
        table, need = SUMS, words * (depth + arrays)
        if outputs > 1 and depth <= 6:
            table, need = OUTPUTS, words * (outputs + arrays)
        elif outputs > 1:
            need += 3 * outputs
        if k:
            table, need = LISTS, min(k, LONGEST_LIST) * words
        elif name in ("logsumexp", "softmax_sum"):
            table = EXPONENTIALS
        elif name in RARE:
            table = EXTREMES
        tile = next((tile for most, tile in table if need <= most), FEW)
        if table is SUMS and 2 < need <= 6 and not costly:
            if "abs" in names:
                tile = MODULI
            elif special > 1:
                tile = ROOTS if folds < 2 else ROOTS_OF_FOLDS
            elif not {"exp", "exp2"} & set(names):
                tile = QUOTIENTS
        if words > 1 and table is SUMS and need <= 12:
            tile = WIDE
        elif words > 1 or costly:  # wide types and long functions take registers of their own
            tile = tile._replace(rows=min(tile.rows, 2), columns=1, runs=1, resident=1, turns=1)
        if SPECIAL_TURNS * special < work or outputs > 1 or costly:
            tile = tile._replace(turns_of_exp2=0)
        if few:  # fewer rows than threads
            rows = min(tile.rows, 1 if few == 8 else 4)
            tile = tile._replace(rows=rows, runs=1, threads=128, resident=1)
        return tile

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
    if node.row.name == "histogram":
        tables = max(blocks, 1) * (BLOCK_ROWS if rows_apart(axes) else 1)
        wanted = min(wanted, HISTOGRAM_BYTES // (table_bytes(node) * tables))
    return max(1, min(wanted, columns // -(-least // behind)))


WAVES = 32  # blocks for each processor of a device: the last ones to end keep few waiting
WAVES_OF_LISTS = 4
CUDA_COLUMNS = 512  # of the first column axis: fewer are not worth a merge


def cuda_splits(
    node: Reduce,
    axes: LoopAxes,
    blocks: int,
    processors: int,
    at_once: int,
    seconds: float,
    state_bytes: int,
) -> int:
    """Into how many parts the columns are cut, so that all processors of a device have work.

    `at_once`: blocks that it runs at a time; `seconds` that all of it takes; `state_bytes` of a
    part. The last blocks to run should be as many as run at a time, and none should take longer
    than a slice.
    """
    if not axes.columns or not blocks:
        return 1
    behind = math.prod(node.whole[a] for a in axes.columns[1:])
    columns = node.whole[axes.columns[0]]
    k = dict(node.params).get("k", 0)  # each part fills its own list, which takes time
    least = max(CUDA_COLUMNS, 1024 * min(k, LONGEST_LIST))
    most = max(1, columns // -(-least // behind))
    wanted = -(-(WAVES_OF_LISTS if k else WAVES) * processors // blocks)
    short = math.ceil(seconds * at_once / (blocks * CUDA_SLICE_SECONDS))
    wanted = max(wanted, min(short, PARTS_BYTES // max(state_bytes, 1)))
    first = max(1, min(wanted, most))

    def share_of_waste(splits: int) -> float:
        waves = blocks * splits / at_once
        return round(1 - waves / math.ceil(waves), 2)

    last = first if k else min(most, first + first // 2 + 1)
    return min(range(first, last + 1), key=share_of_waste)


# A launch of longer work is cut into slices, between which Ctrl-C is seen
CUDA_SLICE_SECONDS = 0.05
PARTS_BYTES = 512 << 20  # of the states of all parts, to make blocks shorter


def cuda_slice(total: int, at_once: int, seconds: float) -> int:
    """How many of all blocks a launch runs: whole waves of them."""
    if seconds < 2 * CUDA_SLICE_SECONDS:
        return max(1, total)
    return max(1, round(total * CUDA_SLICE_SECONDS / (seconds * at_once))) * at_once


# Of a cycle of one processor of a device, from Volta to Blackwell
FLOAT32_A_CYCLE, SPECIAL_A_CYCLE = 128, 16


def most_pairs(limit: tuple[float, float], processors: int, clock: float) -> float:
    """Pairs a second that a device can compute, at most.

    `limit`: instructions of a pair, float32 ones and special functions; both are issued alike.

    >>> round(most_pairs((7, 1), 132, 1.98e9) / 1e9)
    4182
    """
    plain, special = limit
    cycles = max((plain + special) / FLOAT32_A_CYCLE, special / SPECIAL_A_CYCLE)
    return processors * clock / max(cycles, 1 / FLOAT32_A_CYCLE)


def cuda_seconds(node: Reduce, nodes: Sequence[Node], processors: int, clock: float) -> float:
    """Estimated time of the loop: a processor takes 128 cheap operations a cycle."""
    return cycles(node, nodes) / CHEAP / (128 * processors * clock)


HISTOGRAM_BYTES = 32 << 20  # of tables at a time, at most about
COPIES = 4  # of a bin, so that neighbouring lanes do not wait for each other's stores
MOST_COPIED = 1 << 12  # bins; of more, few are met twice in a row, and the copies leave the cache
BLOCK_ROWS = 64  # of a row block, about


def rows_apart(axes: LoopAxes) -> bool:
    """Has each row a result of its own? Else those of a row block may share one."""
    return axes.lane is not None and not axes.merged


def copies(node: Reduce) -> int:
    """How many copies of each bin a histogram has that all rows of a block share."""
    return 1 if rows_apart(loop_axes(node)) or _bins(node) > MOST_COPIED else COPIES


def table_bytes(node: Reduce) -> int:
    """Bytes of one table of a histogram."""
    return (_bins(node) + 1) * 8 * copies(node)


def _bins(node: Reduce) -> int:
    return dict(node.params)["bins"]


def histogram_rows(node: Reduce) -> tuple[int, int | None]:
    """How many rows, and along which axis, a histogram counts at a time.

    Each row block has a table of its own, so that sums do not depend on the number of threads.
    """
    axes = loop_axes(node)
    if node.row.name != "histogram" or not axes.merged or axes.lane is None:
        return 0, None
    outer = math.prod(node.whole[a] for a in axes.outer)
    return BLOCK_ROWS * max(1, HISTOGRAM_BYTES // (table_bytes(node) * outer)), axes.lane


_DEAR = (
    (DIVISION, "divide reciprocal sqrt rsqrt softsign pseudo_huber"),
    (EXPONENTIAL, "exp exp2 exp10 expm1 expit silu elu_alpha celu_alpha selu_scale"),
    (
        LOGARITHM,
        "log log2 log10 log1p logaddexp logaddexp2 xlogy xlog1py entr logit log_sigmoid mish "
        "softplus_beta pow float_power hypot cbrt erf gelu_erf gelu_tanh sinc sin cos tan "
        "asin acos atan atan2 sinh cosh tanh tanhshrink asinh acosh atanh",
    ),
    (
        SPECIAL,
        "erfc erfcx erfinv lgamma digamma i0 i0e i1 i1e ndtr log_ndtr remainder fmod "
        "gcd lcm bitwise_count floor_divide nextafter frexp_mantissa frexp_exponent erfcinv ndtri "
        "gamma rgamma k0 k0e k1 k1e j0 j1 y0 y1 rel_entr kl_div boxcox boxcox1p inv_boxcox "
        "inv_boxcox1p",
    ),
    (6 * SPECIAL, "iv ive kv kve"),
)
COSTS = {name: cost for cost, names in _DEAR for name in names.split()}


def _cost(n: Apply) -> float:
    """Cycles of one entry of an operation. Small whole powers are products."""
    power = n.args[-1]
    if n.op.name in ("pow", "float_power") and isinstance(power, Scalar):
        if power.value in (0, 1, 2, 3, 4):
            return CHEAP
        if power.value in (-1, -2, 0.5, -0.5, 1.5, -1.5):
            return DIVISION
    return COSTS.get(n.op.name, CHEAP)


def cycles(node: Reduce, nodes: Sequence[Node]) -> float:
    """Rough cycles of the loop, were a vector one entry: what enters only one side costs little."""
    total = 0.0
    for n in nodes:
        if isinstance(n, Apply):
            total += math.prod(n.shape) * _cost(n)
        elif isinstance(n, Reduce):
            total += math.prod(n.whole) * (CHEAP if n is not node else _step(node))
    return total


def _step(node: Reduce) -> float:
    """Cycles of one entry of the reduction itself."""
    if node.row.name == "topk":
        return 4 * CHEAP + dict(node.params).get("k", 0) / 3  # what insertions cost, roughly
    if node.row.name == "histogram":
        return 3 * LOGARITHM if dict(node.params)["how"] == "search" else LOGARITHM
    if node.row.name in ("logsumexp", "softmax_sum"):
        return EXPONENTIAL + 4 * CHEAP
    return 4 * CHEAP if node.row.name in ("argmin", "argmax", "var", "std") else CHEAP


def pairs(node: Reduce) -> int:
    """How many entries the loop visits."""
    return math.prod(
        n for n, r in zip(node.whole, node.whole_roles, strict=True) if r in (POINT, BATCH, NEUTRAL)
    )


def seconds(node: Reduce, nodes: Sequence[Node], lanes: int, threads: int) -> float:
    """Estimated time of the loop, whose rows come in blocks of four vectors."""
    lane = loop_axes(node).lane
    rows = 1 if lane is None else node.whole[lane]
    block = 4 * lanes
    padded = -(-rows // block) * block / max(rows, 1)
    return cycles(node, nodes) * padded / (lanes * CLOCK * max(threads, 1))


# -- memory ----------------------------------------------------------------------------------------

CHECKED_BYTES = 64 << 20  # smaller results are not worth a look at what is free


def check_memory(size: int, what: str) -> None:
    """Raise MemoryError if `size` bytes are more than this process can have."""
    if size >= CHECKED_BYTES and (free := free_bytes()) is not None and size > free:
        raise MemoryError(
            f"{what} takes {units(size)}, and {units(free)} of memory are free.\n"
            "  Reduce another axis too, or a part of the rows at a time."
        )


def free_bytes(root: str = "/") -> int | None:
    """Bytes that this process can still have: of the machine with its swap, and of its control
    group. None where the system does not tell.
    """
    try:
        text = Path(root, "proc/meminfo").read_text()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()}
        free = 1024 * (kib["MemAvailable"] + kib.get("SwapFree", 0))
    except (OSError, KeyError, ValueError, IndexError):
        return None
    group = Path(root, "sys/fs/cgroup")
    try:  # in a container; what files keep in memory can be dropped
        most = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        fields = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        files = sum(
            int(value) for name, value in fields if name in ("active_file", "inactive_file")
        )
        return min(free, max(0, most - used + files))
    except (OSError, ValueError):  # "max", or no such group
        return free
