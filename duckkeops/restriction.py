"""Block sparsity: reductions over some blocks of pairs, as if the other pairs were not there.

`BlockPairs` says which blocks are kept. `LazyArray.restrict` records it as an `expr.Restricted`
node, and `bound` makes a parameter of the reduction of it. A kernel takes a list of row blocks,
each with the intervals of its columns, made once for a number of rows and a device, and kept here.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from duckkeops import expr, rewrite, views
from duckkeops.errors import ShapeError, UnsupportedError
from duckkeops.expr import NEUTRAL, POINT, Concat, Node, Reduce, Restricted
from duckkeops.operands import namespace_of, on_host

# Reductions that have a value over any number of pairs. The others count them, and all rows have
# the same number there.
ROWS = (
    *("sum", "prod", "min", "max", "argmin", "argmax", "topk", "logsumexp", "softmax_sum"),
    *("any", "all", "count_nonzero"),
)


class _Side:
    """For ranges of rows, the intervals of the columns that are kept: one direction of a pattern.

    `rows`: (R, 2), in order and apart; `ends`: of the intervals of each range in `columns`, (C, 2),
    which may lie on a device.
    """

    def __init__(self, rows: np.ndarray, ends: np.ndarray, columns: Any, shape: tuple[int, int]):
        self.rows, self.ends, self.columns, (self.size, self.width) = rows, ends, columns, shape
        self._lists: dict[Any, Any] = {}
        self._lock = threading.Lock()

    @functools.cached_property
    def pairs(self) -> int:
        """How many pairs are kept."""
        xp = namespace_of(self.columns)
        lengths = xp.cumulative_sum(self.columns[:, 1] - self.columns[:, 0], include_initial=True)
        ends = _beside(self.columns, self.ends)
        upto = on_host(lengths[ends])
        return int((np.diff(upto, prepend=0) * np.diff(self.rows).ravel()).sum())

    @property
    def density(self) -> float:
        """The share of the pairs that is kept."""
        return self.pairs / max(self.size * self.width, 1)

    @functools.cached_property
    def intervals(self) -> np.ndarray:
        """The columns on the host."""
        return np.ascontiguousarray(on_host(self.columns))

    def items(self, block: int) -> np.ndarray:
        """Row blocks of at most `block` rows, (T, 4): first row, last row + 1, and the same of
        their intervals. Rows that keep no column are in blocks without intervals.
        """
        starts = np.concatenate([[0], self.ends])[:-1]
        gaps = np.concatenate([[0], self.rows.ravel(), [self.size]]).reshape(-1, 2)
        none = np.zeros_like(gaps)
        kept = np.stack([*self.rows.T, starts, self.ends], 1)
        whole = np.concatenate([kept, np.concatenate([gaps, none], 1)])
        whole = whole[whole[:, 0] < whole[:, 1]]
        whole = whole[np.argsort(whole[:, 0], kind="stable")]
        counts = -(-(whole[:, 1] - whole[:, 0]) // block)
        each = np.repeat(np.arange(len(whole)), counts)
        number = np.arange(len(each)) - np.repeat(np.cumsum(counts) - counts, counts)
        first = whole[each, 0] + number * block
        last = np.minimum(first + block, whole[each, 1])
        return np.ascontiguousarray(np.stack([first, last, *whole[each, 2:].T], 1))

    def lists(self, block: int, library: Any = None) -> tuple[Any, Any]:
        """`items` and the intervals, on the device of `library`, made once."""
        key = (block, None if library is None else (type(library), library.number))
        with self._lock:
            if key not in self._lists:
                if library is None:
                    self._lists[key] = self.items(block), self.intervals
                else:
                    items = library.taken(self.items(block))
                    self._lists[key] = items, library.taken(self.columns)
            return self._lists[key]


class BlockPairs:
    """Which blocks of pairs (i, j) of M rows and N columns take part in reductions.

    mask      (R, C) booleans: is block (r, c) kept?
    rows      (R, 2) integers, first row and last row + 1 of each block; or R + 1 edges of blocks
              that lie side by side, of which the last is M
    columns   (C, 2) or C + 1 integers, the same of the columns
    shape     (M, N); where it is not given, the largest ends of the blocks

    Blocks of rows must not overlap, nor blocks of columns; what is in no block is not kept. The
    masks and ranges of KeOps's `from_matrix` are those of `from_ranges`. Raises ShapeError for
    shapes that do not fit each other, and for blocks that overlap or leave the array.

    >>> import numpy as np
    >>> from duckkeops import BlockPairs, LazyArray
    >>> kept = BlockPairs([[True, False], [True, True]], rows=[0, 2, 3], columns=[0, 1, 4])
    >>> x, y = np.arange(3.0), np.arange(4.0)
    >>> d = (LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2
    >>> d.restrict(kept).sum(axis=1), d.restrict(kept).sum(axis=0)
    (array([0., 1., 6.]), array([5., 1., 0., 1.]))
    >>> kept.density
    0.5
    """

    def __init__(
        self,
        mask: Any,
        rows: Any,
        columns: Any,
        shape: tuple[int, int] | None = None,
    ):
        kept = np.asarray(on_host(mask))
        if kept.ndim != 2 or kept.dtype.kind not in "biu":
            raise ShapeError(
                f"mask has shape {kept.shape} and dtype {kept.dtype}.\n"
                "  It holds one boolean for each block of rows and block of columns, (R, C)."
            )
        at = [_ranges(name, r) for name, r in (("rows", rows), ("columns", columns))]
        if kept.shape != (len(at[0]), len(at[1])):
            raise ShapeError(
                f"mask has shape {kept.shape}, and there are {len(at[0])} blocks of rows and "
                f"{len(at[1])} of columns.\n  It holds one boolean for each pair of them."
            )
        kept = kept.astype(bool)
        self._begin(shape, (at[0], *_intervals(kept, at[1])), (at[1], *_intervals(kept.T, at[0])))

    @classmethod
    def from_ranges(
        cls,
        ranges_i: Any,
        slices_i: Any,
        redranges_j: Any,
        ranges_j: Any,
        slices_j: Any,
        redranges_i: Any,
        shape: tuple[int, int] | None = None,
    ) -> BlockPairs:
        """The same from KeOps's six arrays: rows `ranges_i[k]` are paired with the columns of
        `redranges_j[slices_i[k - 1]:slices_i[k]]`, and columns `ranges_j[k]` with the rows of
        `redranges_i[slices_j[k - 1]:slices_j[k]]`. The first three are for reductions over the
        columns, the last three for those over the rows.
        """
        out = object.__new__(cls)
        sides = []
        for name, (rows, ends, columns) in (
            ("i", (ranges_i, slices_i, redranges_j)),
            ("j", (ranges_j, slices_j, redranges_i)),
        ):
            rows = _ranges(f"ranges_{name}", rows)
            columns = _whole(f"redranges_{'ji'[name == 'j']}", columns)
            ends = np.asarray(on_host(ends)).reshape(-1)
            if ends.size and ends.dtype.kind not in "iu":
                raise ShapeError(f"slices_{name} has dtype {ends.dtype}: it holds integers.")
            ends = ends.astype(np.int64)
            if len(ends) != len(rows):
                raise ShapeError(
                    f"slices_{name} has {len(ends)} entries, and there are {len(rows)} ranges_"
                    f"{name}.\n  It says where the intervals of each range end."
                )
            count = columns.shape[0]
            if (np.diff(ends, prepend=0) < 0).any() or (len(ends) and ends[-1] > count):
                raise ShapeError(
                    f"slices_{name} = {ends} does not count up to the {count} intervals."
                )
            sides.append((rows, ends, columns))
        out._begin(shape, *sides)
        return out

    def _begin(self, shape: Any, *sides: tuple[np.ndarray, np.ndarray, Any]) -> None:
        """`sides`: for each direction the rows, where the intervals of each range end, and these,
        in any order. They are made ready when first needed.
        """
        self._given, self._sides, self._lock = sides, {}, threading.Lock()
        if shape is None:
            shape = [
                max([0, *one[0][:, 1].tolist(), *on_host(other[2])[:, 1].tolist()])
                for one, other in (sides, sides[::-1])
            ]
        self.shape = tuple(int(n) for n in shape)
        ends = tuple(max([0, *rows[:, 1].tolist()]) for rows, _, _ in sides)
        if any(a > b for a, b in zip(ends, self.shape, strict=True)):
            raise ShapeError(f"blocks end at {ends}, beyond the shape {self.shape}.")

    def side(self, which: int) -> _Side:
        """The columns of each row (0), or the rows of each column (1)."""
        with self._lock:
            if which not in self._sides:
                rows, ends, columns = self._given[which]
                ends, columns = _united(ends, columns, self.shape[1 - which])
                order = np.argsort(rows[:, 0], kind="stable")
                if (order[1:] < order[:-1]).any():
                    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
                    counts = (ends - starts)[order]
                    take = np.repeat(starts[order] - np.cumsum(counts) + counts, counts)
                    columns = on_host(columns)[take + np.arange(len(take))]
                    rows, ends = rows[order], np.cumsum(counts)
                self._sides[which] = _Side(
                    rows, ends, columns, (self.shape[which], self.shape[1 - which])
                )
            return self._sides[which]

    @functools.cached_property
    def density(self) -> float:
        """The share of the pairs that is kept."""
        return self.side(0).density

    def resized(self, shape: tuple[int, int]) -> BlockPairs:
        """The same in an array of this shape, which has further rows and columns."""
        if shape == self.shape:
            return self
        return _rebuilt(shape, *self._given)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.shape, *((r, e, on_host(c)) for r, e, c in self._given))

    def __repr__(self) -> str:
        return f"BlockPairs({self.shape}, {self.density:.3g} of the pairs)"


def _rebuilt(shape: tuple[int, int], *sides: tuple[np.ndarray, np.ndarray, Any]) -> BlockPairs:
    out = object.__new__(BlockPairs)
    out._begin(shape, *sides)
    return out


def _whole(name: str, given: Any) -> Any:
    """Intervals (L, 2) as integers of 64 bits, wherever they lie."""
    if type(given) is np.ndarray or not hasattr(given, "shape"):
        given = np.asarray(given)
    xp = namespace_of(given)
    if given.ndim != 2 or given.shape[1] != 2 or not xp.isdtype(given.dtype, "integral"):
        if 0 not in given.shape:
            raise ShapeError(
                f"{name} has shape {tuple(given.shape)} and dtype {given.dtype}.\n"
                "  It holds the first entry and the end of each interval, (L, 2) integers."
            )
        return np.zeros((0, 2), np.int64)
    return xp.astype(given, xp.int64)


def _ranges(name: str, given: Any) -> np.ndarray:
    """First entries and ends, (R, 2)."""
    out = np.asarray(on_host(given))
    if out.size and out.dtype.kind not in "iu":
        raise ShapeError(f"{name} has dtype {out.dtype}: it holds integers.")
    out = out.astype(np.int64)
    if out.ndim == 1 and len(out):
        out = np.stack([out[:-1], out[1:]], 1)
    out = out.reshape(-1, 2) if not out.size else out
    if out.ndim != 2 or out.shape[1] != 2:
        raise ShapeError(
            f"{name} has shape {out.shape}.\n"
            "  It holds the first entry and the end of each block, (R, 2), or R + 1 edges."
        )
    if (out[:, 0] > out[:, 1]).any() or (out < 0).any():
        wrong = out[(out[:, 0] > out[:, 1]) | (out < 0).any(1)][0]
        raise ShapeError(f"{name} has a block from {wrong[0]} to {wrong[1]}.")
    filled = out[out[:, 0] < out[:, 1]]
    filled = filled[np.argsort(filled[:, 0])]
    if (filled[1:, 0] < filled[:-1, 1]).any():
        k = int(np.argmax(filled[1:, 0] < filled[:-1, 1]))
        raise ShapeError(
            f"{name}: block {tuple(filled[k].tolist())} and block "
            f"{tuple(filled[k + 1].tolist())} overlap."
        )
    return out


def _intervals(kept: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of a mask, where its intervals end, and the intervals."""
    _, c = np.nonzero(kept)
    return np.cumsum(kept.sum(1)), columns[c]


def _united(ends: np.ndarray, columns: Any, size: int) -> tuple[np.ndarray, Any]:
    """The intervals of each range in order, those that meet as one, without empty ones. Raises
    ShapeError for what is no interval of 0 ... size - 1.
    """
    xp, count = namespace_of(columns), int(ends[-1]) if len(ends) else 0
    columns = columns[:count]
    if not count:
        return np.zeros(len(ends), np.int64), np.zeros((0, 2), np.int64)
    first, end = columns[:, 0], columns[:, 1]
    wrong = (first < 0) | (first > end) | (end > size)
    begins = np.zeros(count + 1, bool)
    begins[0] = True
    begins[ends] = True  # where the intervals of a range begin
    other = _beside(columns, begins[1:count])
    apart = other | (first[1:] >= end[:-1])
    if bool(xp.any(wrong)):
        bad = on_host(columns)[on_host(wrong)][0]
        raise ShapeError(f"columns {bad[0]} to {bad[1]} are no interval of {size} columns.")
    if not bool(xp.all(apart) & xp.all(first < end)):
        return _sorted(ends, on_host(columns))
    true = _beside(columns, np.ones(1, bool))
    (at,) = xp.nonzero(xp.concat([true, other | (first[1:] != end[:-1])]))
    (last,) = xp.nonzero(xp.concat([other | (first[1:] != end[:-1]), true]))
    until = xp.searchsorted(at, _beside(columns, ends))
    united = xp.stack([xp.take(first, at), xp.take(end, last)], axis=1)
    return on_host(until).astype(np.int64), united


def _beside(array: Any, values: np.ndarray) -> Any:
    """A small NumPy array in the library of another one, and on its device."""
    if isinstance(array, np.ndarray):
        return values
    return namespace_of(array).asarray(values, device=array.device)


def _sorted(ends: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for intervals in any order, which may overlap."""
    owner = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    some = columns[:, 0] < columns[:, 1]
    owner, columns = owner[some], columns[some]
    order = np.lexsort((columns[:, 0], owner))
    owner, columns = owner[order], columns[order]
    if not len(owner):
        return np.zeros(len(ends), np.int64), np.zeros((0, 2), np.int64)
    # the furthest end so far within each range: ends grow by more than all columns between them
    far = np.int64(columns.max()) + 1
    reach = np.maximum.accumulate(columns[:, 1] + owner * far) - owner * far
    new = np.ones(len(owner), bool)
    new[1:] = (owner[1:] != owner[:-1]) | (columns[1:, 0] > reach[:-1])
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(owner)) - 1
    united = np.stack([columns[first, 0], reach[last]], 1)
    return np.cumsum(np.bincount(owner[first], minlength=len(ends))), united


class Pairs:
    """The parameter of a reduction over some pairs: the pattern, and its axes of the whole.

    Two of them are equal, as part of a key, if kernels and launches are the same: those read the
    pattern anew each time.
    """

    __slots__ = ("axes", "kept")

    def __init__(self, kept: BlockPairs, axes: tuple[int, int]):
        self.kept, self.axes = kept, axes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pairs) and self.axes == other.axes

    def __hash__(self) -> int:
        return hash((Pairs, self.axes))

    def __repr__(self) -> str:
        return f"Pairs{self.axes}"

    def side(self, rows: int | None, columns: Sequence[int]) -> _Side:
        """The direction of these loops. Raises UnsupportedError for others."""
        for k in (0, 1):
            own, other = self.axes[k], self.axes[1 - k]
            short, narrow = (self.kept.shape[a] == 1 for a in (k, 1 - k))
            if (rows == own or (rows is None and short)) and (
                tuple(columns[-1:]) == (other,) or (narrow and len(columns) < 2)
            ):
                return self.kept.side(k)
        raise UnsupportedError(
            f"a restricted array is reduced with rows along axis {rows} and columns along "
            f"{tuple(columns)}, and blocks are kept of axes {self.axes}.\n"
            "  Reduce one of these two axes, or both, and no other point axis."
        )


def of(node: Reduce) -> Pairs | None:
    """What a reduction is restricted to."""
    for name, value in node.params:
        if name == "pairs":
            return value
    return None


def with_pairs(node: Reduce, pairs: Pairs | None) -> Reduce:
    """The reduction over these pairs; its whole begins with the axes that they are of."""
    if pairs is None:
        return node
    return Reduce(node.row, node.args, node.axes, node.dtype, (*node.params, ("pairs", pairs)))


def with_pattern(node: Reduce, kept: BlockPairs | None) -> Reduce:
    """A restricted reduction over other pairs, or, for what keeps no pattern alive, None; others
    as they are.
    """
    pairs = of(node)
    if pairs is None:
        return node
    params = tuple((k, Pairs(kept, v.axes) if k == "pairs" else v) for k, v in node.params)  # type: ignore[arg-type]
    return expr.record_reduction(node.outline, node.args, params)


def unrestricted(node: Reduce) -> tuple[Reduce, float]:
    """The reduction over all pairs, and the share of them that this one keeps."""
    pairs = of(node)
    if pairs is None:
        return node, 1.0
    params = tuple(p for p in node.params if p[0] != "pairs")
    return Reduce(node.row, node.args, node.axes, node.dtype, params), pairs.kept.density


def shifted(params: tuple, count: int) -> tuple:
    """The parameters of a reduction whose whole has this many new axes in front."""
    return tuple(
        (k, Pairs(v.kept, (v.axes[0] + count, v.axes[1] + count))) if k == "pairs" else (k, v)
        for k, v in params
    )


def restricted(node: Node, kept: BlockPairs, axes: Sequence[int] | None = None) -> Restricted:
    """The node over some of its pairs. Raises ShapeError if these are pairs of another shape."""
    if axes is None:
        points = tuple(a for a, r in enumerate(node.roles) if r == POINT)[-2:]
    else:
        points = normalize_axis_tuple(tuple(axes), node.ndim)
    shape = tuple(node.shape[a] for a in points)
    if len(points) != 2 or any(a > b for a, b in zip(kept.shape, shape, strict=True)):
        raise ShapeError(
            f"d: {node.shape} {node.dtype} has no {kept.shape[0]} x {kept.shape[1]} pairs.\n"
            "  Blocks are kept of the last two point axes, or of those in axes=."
        )
    roles = "".join(POINT if a in points and r == NEUTRAL else r for a, r in enumerate(node.roles))
    node = node if roles == node.roles else rewrite.retag(node, roles)
    return Restricted(node, kept.resized(shape), points)  # type: ignore[arg-type]


def is_restricted(*roots: Node) -> bool:
    return any(type(n) is Restricted for n in expr.walk(*roots))


def bound(node: Reduce) -> Reduce:
    """A reduction as engines take it: what restricts its arguments has become its parameter.

    Raises UnsupportedError where arguments are restricted to different pairs, and for reductions
    that count all pairs.
    """
    if not is_restricted(*node.args):
        return node
    done: dict[int, tuple[Node, Pairs | None]] = {}
    for one in expr.walk(*node.args):
        parts = [done[id(a)] for a in one.args]
        args = [a for a, _ in parts]
        pairs = _common(p for _, p in parts)  # whose axes are counted from the right, below 0
        if type(one) is Restricted:
            own = Pairs(one.kept, (one.axes[0] - one.ndim, one.axes[1] - one.ndim))
            done[id(one)] = args[0], _common((pairs, own))
            continue
        if pairs is not None and isinstance(one, Reduce):
            pairs = _left(one, pairs)
        if pairs is not None and isinstance(one, Concat):
            raise UnsupportedError(
                "joined arrays, of which a part is restricted, have no common blocks.\n"
                "  Restrict the joined array, or reduce each part by itself."
            )
        done[id(one)] = rewrite.rebuild(one, args) if one.args else one, pairs
    pairs = _common(done[id(a)][1] for a in node.args)
    assert pairs is not None
    if node.row.name not in ROWS:
        raise UnsupportedError(
            f"{node.row.name} of a restricted array is not there: its rows have different numbers "
            "of pairs.\n  Take sums, and divide them by the numbers of pairs kept."
        )
    n = len(node.whole)
    axes = (pairs.axes[0] + n, pairs.axes[1] + n)
    if any(node.whole[a] != s for a, s in zip(axes, pairs.kept.shape, strict=True)):
        raise ShapeError(f"blocks of {pairs.kept.shape} pairs, and arrays of shape {node.whole}.")
    plain = rewrite.rebuild(node, [done[id(a)][0] for a in node.args])
    return with_pairs(plain, Pairs(pairs.kept, axes))  # type: ignore[arg-type]


def _common(found: Any) -> Pairs | None:
    """What several arguments are restricted to. Raises UnsupportedError if they differ."""
    out: Pairs | None = None
    for one in found:
        if one is None:
            continue
        if out is not None and (one.kept is not out.kept or one.axes != out.axes):
            raise UnsupportedError(
                f"arrays restricted to {out.kept} and to {one.kept} meet in one expression.\n"
                "  Restrict the whole expression once: (k1 * k2).restrict(kept)."
            )
        out = one
    return out


def _left(node: Reduce, pairs: Pairs) -> Pairs:
    """The same axes counted from the right, behind a reduction inside the expression."""
    n = len(node.whole)
    kept = [a for a in range(n) if a not in node.axes]
    axes = [a + n for a in pairs.axes]
    if any(a not in kept for a in axes):
        raise UnsupportedError(
            f"{node.row.name} over axis {node.axes} of a restricted array stands inside another "
            "expression.\n  Compute it first, and pass the array."
        )
    row, column = (kept.index(a) - len(kept) for a in axes)
    return Pairs(pairs.kept, (row, column))


def _view(node: Restricted, how: views.View, memo: dict) -> Node:
    """A view that keeps both axes whole, in any order, leaves the pairs as they are."""
    places = {e[0][0]: k for k, e in enumerate(how.entries) if e is not None and _is_whole(e)}
    if not all(a in places for a in node.axes):
        raise UnsupportedError(
            f"d: {node.shape} {node.dtype} is restricted to blocks of axes {node.axes}, "
            "and cannot be indexed or reshaped there.\n  Index first, then restrict."
        )
    row, column = (places[a] for a in node.axes)
    return Restricted(views.view(node.args[0], how), node.kept, (row, column))


def _is_whole(entry: views.Entry) -> bool:
    axes, (select, *_) = entry
    return len(axes) == 1 and isinstance(select, slice) and select == views.ALL


views.set_view(Restricted, _view)
