"""Tiles: boxes of a shape whose intermediate arrays take a bounded memory, and reductions over
them, merged state by state, with the functions of any array library.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from duckkeops.reductions import Params, Reduction, State, astype, native
from duckkeops.tensors import is_tensor

Box = tuple[slice, ...]


def lengths(
    whole: Sequence[int], axes: Sequence[int], cost: Callable[[Box], float], limit: float
) -> list[int]:
    """Lengths of a tile along each axis, halved until its cost is within the limit.

    Of the reduced `axes`, the first ones are cut up first, so that the columns of a tile lie next
    to each other in C order.
    """
    out = list(whole)
    while cost(tuple(slice(0, n) for n in out)) > limit:
        free = [a for a, n in enumerate(out) if a not in axes and n > 1]
        free += [a for a in axes if out[a] > 1][:1]
        if not free:
            break
        longest = max(free, key=lambda a: out[a])
        out[longest] = -(-out[longest] // 2)
    return out


def boxes(shape: Sequence[int], steps: Sequence[int]) -> Iterator[Box]:
    """Boxes of these lengths that cover the shape, in C order.

    There is one empty box if there is nothing to cover.
    """
    cuts = (
        [slice(k, min(k + step, n)) for k in range(0, n, step)] if n else [slice(0, 0)]
        for n, step in zip(shape, steps, strict=True)
    )
    return itertools.product(*cuts)


@dataclass(frozen=True)
class Library:
    """An array library, and the device of the arrays that it makes."""

    xp: Any
    where: dict[str, Any]

    def cast(self, v: Any, dtype: np.dtype) -> Any:
        """The array or Python number in this dtype."""
        if isinstance(v, bool | int | float | complex) and not isinstance(v, np.generic):
            return self.xp.asarray(v, dtype=native(self.xp, dtype), **self.where)
        return astype(self.xp, v, dtype)

    def columns(self, v: Any, ndim: int, columns: dict[int, int]) -> Any:
        """(..., rows, columns as one last axis), with `ndim` axes less the reduced ones, and
        one. `columns`: axis -> length.
        """
        xp = self.xp
        v = xp.reshape(v, (1,) * (ndim - v.ndim) + tuple(v.shape))
        shape = tuple(columns.get(a, n) for a, n in enumerate(v.shape))
        v = xp.broadcast_to(v, shape) if shape != tuple(v.shape) else v
        rows = [a for a in range(ndim) if a not in columns]
        v = xp.permute_dims(v, (*rows, *columns))
        return xp.reshape(v, (*(shape[a] for a in rows), math.prod(columns.values())))

    def positions(self, first: int, n: int) -> Any:
        """The flat positions first, first + 1, ... of n columns."""
        kind = native(self.xp, np.dtype(np.int64))
        return self.xp.arange(first, first + n, dtype=kind, **self.where)

    def spread(self, state: State, rows: tuple[int, ...]) -> State:
        """The state with all rows, where some were broadcast, in arrays that can be written to."""
        return tuple(self._spread(s, rows) for s in state)

    def _spread(self, s: Any, rows: tuple[int, ...]) -> Any:
        xp = self.xp
        s = s if is_tensor(s) else xp.asarray(s)
        shape = (*rows, *s.shape[len(rows) :])
        return s if tuple(s.shape) == shape else xp.asarray(xp.broadcast_to(s, shape), copy=True)

    def room(self, part: Any, n: int, shape: tuple[int, ...]) -> Any:
        """An empty array for all rows, of `shape`, of a state whose first n axes are rows."""
        return self.xp.empty((*shape, *part.shape[n:]), dtype=part.dtype, **self.where)


def reduced(
    library: Library,
    row: Reduction,
    params: Params,
    whole: Sequence[int],
    axes: Sequence[int],
    cost: Callable[[Box], float],
    tile: Callable[[Box, int], State],
    limit: float,
) -> State:
    """The state of a reduction, merged over tiles of columns, one tile of rows after the other.

    `cost(box)`: bytes that a tile of the whole takes. `tile(box, first)`: its state, whose rows may
    still be broadcast, where the first column has flat position `first`.
    """
    kept = [a for a in range(len(whole)) if a not in axes]
    shape = tuple(whole[a] for a in kept)
    steps = lengths(whole, axes, cost, limit)
    rows = list(boxes(shape, [steps[a] for a in kept]))
    out: State = ()
    for some in rows:
        at = dict(zip(kept, some, strict=True))
        state: State | None = None
        for column in boxes([whole[a] for a in axes], [steps[a] for a in axes]):
            box = tuple((at | dict(zip(axes, column, strict=True)))[a] for a in range(len(whole)))
            first = 0
            for a, s in zip(axes, column, strict=True):
                first = first * whole[a] + s.start
            part = tile(box, first)
            state = part if state is None else row.merge(library.xp, state, part, params)
        assert state is not None
        state = library.spread(state, tuple(s.stop - s.start for s in some))
        if len(rows) == 1:
            return state
        if not out:
            out = tuple(library.room(s, len(kept), shape) for s in state)
        for every, s in zip(out, state, strict=True):
            every[(*some, ...)] = s
    return out
