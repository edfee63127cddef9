"""The engine that needs no compiler: tiles computed by the array library's own functions, of any
array-API library.

It is the oracle of the tests, and the fallback. An expression is evaluated directly, one operation
after the other, on a tile of rows and columns; a tile of an expression is the same expression over
slices of the inputs, so tiles are made by views. The intermediate arrays of one tile take about
`TILE_BYTES`; a reduction inside the expression that needs more is itself computed by tiles.
Gradients take another way, as the array library has no derivatives: see programs.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from duckkeops import expr, restriction, views
from duckkeops.engines import tiles
from duckkeops.engines.tiles import Box, Library
from duckkeops.expr import Apply, Broadcast, Concat, Input, Node, Reduce, Scalar, Table, Vjp
from duckkeops.importing import import_whole
from duckkeops.reductions import (
    State,
    astype,
    components,
    computed,
    native,
    neutral,
    parameter,
    result,
)
from duckkeops.tensors import is_tensor

TILE_BYTES = 32 << 20


def dense(node: Node, xp: Any = None, tile_bytes: int = TILE_BYTES) -> Any:
    """All entries of a node, as an array of the inputs' library, in the node's dtype.

    `tile_bytes`: what the intermediate arrays of a tile may take, besides the result itself.
    """
    work = _Work.of(node, xp)
    with np.errstate(all="ignore"):
        if not _has_gradients((node,)) and _cost((node,), tile_bytes, {}) <= tile_bytes:
            return astype(work.xp, work.whole(node, tile_bytes), _stored(node))
        out = work.xp.empty(node.shape, dtype=native(work.xp, _stored(node)), **work.where)
        _fill(work, node, out, tile_bytes)
        return out


def to_dense(node: Node, out: Any = None, tile_bytes: int = TILE_BYTES) -> Any:
    """All entries of a node, written into `out`, an array of its shape, if one is given."""
    if out is None:
        return dense(node, tile_bytes=tile_bytes)
    with np.errstate(all="ignore"):
        _fill(_Work.of(node, None), node, out, tile_bytes)
    return out


def reduce(node: Reduce, xp: Any = None, tile_bytes: int = TILE_BYTES) -> State:
    """The arrays of the state of a reduction: the shape of the node, and their own trailing axes
    (top-k).

    `reductions.result` makes the value of them.
    """
    work = _Work.of(node, xp)
    with np.errstate(all="ignore"):
        return _reduced(work, node, tile_bytes)


def value(node: Reduce, xp: Any = None, tile_bytes: int = TILE_BYTES) -> Any:
    """The value of a reduction; top-k: values and indices."""
    work = _Work.of(node, xp)
    with np.errstate(all="ignore"):
        return result(work.xp, node, _reduced(work, node, tile_bytes))


# -- tiles -----------------------------------------------------------------------------------------


def _fill(work: _Work, node: Node, out: Any, tile_bytes: float) -> None:
    values = _values(work, (node,), node.shape, tile_bytes)
    for box in tiles.boxes(node.shape, tiles.lengths(node.shape, (), values.cost, tile_bytes)):
        (v,) = values(box)
        v = work.xp.broadcast_to(v, tuple(s.stop - s.start for s in box))
        out[(*box, ...)] = astype(work.xp, v, _stored(node))


def _reduced(work: _Work, node: Reduce, tile_bytes: float) -> State:
    """The state of a reduction, by tiles."""
    values = _values(work, node.args, node.whole, tile_bytes)

    def cost(box: Box) -> float:
        return values.cost(box) + _copies(node, box)

    def tile(box: Box, first: int) -> State:
        columns = {a: box[a].stop - box[a].start for a in node.axes}
        return work.state(node, values(box), len(node.whole), columns, first)

    pairs = restriction.of(node)
    if pairs is not None:
        return _over_pairs(work, node, pairs, cost, tile, tile_bytes)
    return tiles.reduced(work, node.row, node.params, node.whole, node.axes, cost, tile, tile_bytes)


def _over_pairs(
    work: _Work,
    node: Reduce,
    pairs: restriction.Pairs,
    cost: Callable[[Box], float],
    tile: Callable[[Box, int], State],
    tile_bytes: float,
) -> State:
    """The state over some pairs, by tiles of the intervals of each range of rows."""
    xp, kept = work.xp, [a for a in range(len(node.whole)) if a not in node.axes]
    which = next((k for k, a in enumerate(pairs.axes) if a in kept), 0)
    row, column = pairs.axes[which], pairs.axes[1 - which]
    side, n = pairs.kept.side(which), node.whole[row]
    strides = {a: math.prod(node.whole[b] for b in node.axes if b > a) for a in node.axes}
    apart = row in node.axes and node.row.places  # flat positions lie side by side in one row only
    out = work.nothing(node, [node.whole[a] for a in kept])
    for first, last, one, end in side.items(1 if apart else n).tolist():
        state: State | None = None
        for start, stop in side.intervals[one:end].tolist():
            at = [0] * len(node.whole)
            at[row], at[column] = first, start
            whole = list(node.whole)
            whole[row], whole[column] = last - first, stop - start

            def moved(box: Box, at: Sequence[int] = at) -> Box:
                return tuple(slice(s.start + k, s.stop + k) for s, k in zip(box, at, strict=True))

            def part(box: Box, _: int) -> State:
                there = moved(box)
                return tile(there, sum(there[a].start * strides[a] for a in node.axes))

            found = tiles.reduced(
                work,
                node.row,
                node.params,
                whole,
                node.axes,
                lambda box: cost(moved(box)),
                part,
                tile_bytes,
            )
            state = found if state is None else node.row.merge(xp, state, found, node.params)
        if state is None:
            continue
        state = work.padded(node, state)
        if row in node.axes:
            out = node.row.merge(xp, out, state, node.params)
            continue
        place = tuple(slice(first, last) if a == row else slice(None) for a in kept)
        for every, s in zip(out, state, strict=True):
            every[(*place, ...)] = s
    return out


def _values(work: _Work, args: Sequence[Node], whole: Sequence[int], limit: float) -> Any:
    """What says the values of expressions over boxes of the `whole`, and what they cost."""
    if not _has_gradients(args):
        return _Views(work, args, tuple(whole), limit)
    import_whole("duckkeops.engines.programs")  # which imports SymPy
    from duckkeops.engines import programs

    return programs.Values(work, args, whole, limit)


def _has_gradients(roots: Sequence[Node]) -> bool:
    return any(isinstance(n, Vjp) for n in expr.walk(*roots))


@dataclass(frozen=True)
class _Views:
    """The values over a box are those of the same expressions over slices of the inputs."""

    work: _Work
    args: Sequence[Node]
    whole: tuple[int, ...]
    limit: float

    def cost(self, box: Box) -> float:
        return _cost(views.part(self.args, self.whole, box), self.limit, {})

    def __call__(self, box: Box) -> list[Any]:
        return self.work.values(views.part(self.args, self.whole, box), self.limit)


# -- how much memory -------------------------------------------------------------------------------


def _size(node: Node) -> float:
    """Bytes of the value of a node; an input that needs no conversion takes none."""
    if isinstance(node, Scalar) or (isinstance(node, Input) and computed(node.dtype) == node.dtype):
        return 0
    return math.prod(node.shape) * _computed(node).itemsize


def _copies(node: Reduce, box: Box) -> float:
    """What `row.tile` makes of the values on the way: about one more array."""
    return math.prod(s.stop - s.start for s in box) * max(_computed(a).itemsize for a in node.args)


def _cost(roots: Sequence[Node], limit: float, known: dict[int, float]) -> float:
    """Bytes of all values below the roots.

    What is below a fold computed by tiles counts as half the limit.
    """
    tiled = False
    total = 0.0
    for node in _untiled(roots, limit, known):
        total += _size(node)
        tiled = tiled or _is_tiled(node, limit, known)
    return total + limit / 2 * tiled


def _untiled(roots: Sequence[Node], limit: float, known: dict[int, float]) -> list[Node]:
    """The nodes below the roots, arguments first, without what is below folds that are computed by
    tiles.
    """
    seen: set[int] = set()
    out: list[Node] = []
    stack = [(r, False) for r in reversed(roots)]
    while stack:
        node, done = stack.pop()
        if done:
            out.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            if not _is_tiled(node, limit, known):
                stack.extend((a, False) for a in reversed(node.args))
    return out


def _is_tiled(node: Node, limit: float, known: dict[int, float]) -> bool:
    if not isinstance(node, Reduce):
        return False
    if id(node) not in known:
        box = tuple(slice(0, n) for n in node.whole)
        known[id(node)] = _cost(node.args, limit / 2, {}) + _copies(node, box)
    return known[id(node)] > limit / 2


# -- values ----------------------------------------------------------------------------------------


def _computed(node: Node) -> np.dtype:
    return computed(np.dtype(node.dtype))


def _stored(node: Node) -> np.dtype:
    return np.dtype(node.dtype)


class _Work(Library):
    """The values of nodes, with the functions of a library."""

    @classmethod
    def of(cls, node: Node, xp: Any) -> _Work:
        arrays = [i.array for i in expr.inputs(node)]
        array = max(arrays, key=lambda a: a.ndim, default=None)
        if array is None or isinstance(array, np.ndarray | np.generic):
            import_whole("array_api_compat.numpy")
            import array_api_compat.numpy

            return cls(array_api_compat.numpy, {})
        from array_api_compat import array_namespace, device

        return cls(xp or array_namespace(array), {"device": device(array)})

    def whole(self, node: Node, tile_bytes: float) -> Any:
        """The value of a node at its full shape, in the dtype that it is computed in."""
        (v,) = self.values((node,), tile_bytes)
        return self.xp.broadcast_to(v, node.shape) if tuple(v.shape) != node.shape else v

    def values(self, roots: Sequence[Node], tile_bytes: float) -> list[Any]:
        """The values of nodes, perhaps of length 1 where they would only be repeated.

        Each goes after its last use.
        """
        known: dict[int, float] = {}
        order = _untiled(roots, tile_bytes, known)
        tiled = {id(n) for n in order if _is_tiled(n, tile_bytes, known)}
        uses = Counter(id(a) for n in order if id(n) not in tiled for a in n.args)
        uses.update(id(r) for r in roots)
        done: dict[int, Any] = {}
        for node in order:
            if id(node) in tiled:
                assert isinstance(node, Reduce)
                v = result(self.xp, node, _reduced(self, node, int(tile_bytes / 2)))
                done[id(node)] = astype(self.xp, v, _computed(node))
                continue
            done[id(node)] = self._value(node, [done[id(a)] for a in node.args])
            for a in node.args:
                uses[id(a)] -= 1
                if not uses[id(a)]:
                    del done[id(a)]
        return [self._array(r, done[id(r)]) for r in roots]

    def _value(self, node: Node, args: list[Any]) -> Any:
        match node:
            case Input():
                return astype(self.xp, node.array, _computed(node))
            case Scalar():
                return node.value
            case Apply():
                return self._applied(node, args)
            case Reduce():
                return self._folded(node, args)
            case Concat():
                return self._joined(node, args)
            case Broadcast():
                return self.xp.broadcast_to(self._array(node, args[0]), node.shape)
        raise TypeError(
            f"the blocks engine has no value for a {type(node).__name__}. "
            "This is a bug in duckkeops."
        )

    def _applied(self, node: Apply, args: list[Any]) -> Any:
        arrays = [self.cast(v, computed(np.dtype(t))) for v, t in zip(args, node.loop, strict=True)]
        if (
            node.op.name == "cast"
        ):  # to half precision, it does not round: that is done once, at the end
            return astype(self.xp, arrays[0], _computed(node))
        if node.op.name == "pow" and isinstance(node.args[1], Scalar) and is_tensor(arrays[0]):
            # an exponent that is a tensor is differentiated too, and the logarithm of x is NaN
            return astype(self.xp, arrays[0] ** node.args[1].value, _computed(node))
        return astype(self.xp, node.op.dense(self.xp, *arrays, *node.params), _computed(node))

    def _array(self, node: Node, v: Any) -> Any:
        return self.cast(v, _computed(node))

    def _folded(self, node: Reduce, args: list[Any]) -> Any:
        args = [self._array(a, v) for a, v in zip(node.args, args, strict=True)]
        state = self.state(node, args, len(node.whole), {a: node.whole[a] for a in node.axes}, 0)
        state = self.spread(state, node.shape)
        return astype(self.xp, result(self.xp, node, state), _computed(node))

    def _joined(self, node: Concat, args: list[Any]) -> Any:
        parts = []
        for a, v in zip(node.args, args, strict=True):
            shape = (*node.shape[: node.axis], a.shape[node.axis], *node.shape[node.axis + 1 :])
            parts.append(self.xp.broadcast_to(self._array(node, v), shape))
        return self.xp.concat(parts, axis=node.axis)

    def nothing(self, node: Reduce, shape: Sequence[int]) -> State:
        """The state of a reduction over no entries, for rows of this shape."""
        return tuple(
            self.xp.full((*shape, *extra), worst, dtype=native(self.xp, dtype), **self.where)
            for (_, dtype, extra), worst in zip(components(node), neutral(node), strict=True)
        )

    def padded(self, node: Reduce, state: State) -> State:
        """The same; a list of fewer than k entries with places that nobody took."""
        if node.row.name != "topk":
            return state
        k = parameter(node.params, "k") - state[0].shape[-1]
        rest = self.nothing(node, state[0].shape[:-1])
        return tuple(
            self.xp.concat([s, r[..., :k]], axis=-1) for s, r in zip(state, rest, strict=True)
        )

    def state(
        self, node: Reduce, values: Sequence[Any], ndim: int, columns: dict[int, int], first: int
    ) -> tuple:
        """The state of the values over `columns` (axis -> length).

        The first of them has flat position `first`.
        """
        flat = tuple(
            v if isinstance(a, Table) else self.columns(v, ndim, columns)
            for a, v in zip(node.args, values, strict=True)
        )
        index = self.positions(first, math.prod(columns.values()))
        return node.row.tile(self.xp, flat, index, node.params)
