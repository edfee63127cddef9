"""Sorting, as far as it is a top-k.

Here is what np.sort and its kin return for a lazy array, until it is sliced.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from duckkeops import expr, reductions, rewrite, statistics
from duckkeops.errors import ShapeError, UnsupportedError, VirtualArrayError
from duckkeops.expr import FEATURE, NEUTRAL, POINT, Node
from duckkeops.genuine import dense, evaluated, permuted
from duckkeops.indexing import getitem
from duckkeops.operands import describe, namespace_of, node_of, units, unsupported

GIB = 1 << 30


def topk(a: Any, k: int, axis: int = -1, largest: bool = True) -> tuple[Any, Any]:
    """The k greatest (or least) entries along an axis and their positions; the most extreme first,
    of equals the first.

    Shapes: (M, N) -> (M, k), (M, k) for axis=1. NaN counts as the greatest. k is cut to the length
    of the axis.
    """
    return _topk("topk", a, k, axis, largest)


def _topk(what: str, a: Any, k: int, axis: int, largest: bool) -> tuple[Any, Any]:
    """`topk`, in the name of the function that was called."""
    node = node_of(a)
    axis = normalize_axis_index(axis, node.ndim)
    k = how_many(what, k)
    k = min(k, node.shape[axis])
    _check_size(node, axis, k)
    if node.roles[axis] == NEUTRAL:  # one entry, which counts as a point
        node = rewrite.retag(node, node.roles[:axis] + POINT + node.roles[axis + 1 :])
    reduce = reductions.reduce(
        statistics.ROWS["topk"], (node,), (axis,), k=k, largest=bool(largest)
    )
    if not expr.is_evaluated(reduce):
        raise _refused(what, node, axis)
    values, index = evaluated(reduce)
    order = list(range(node.ndim - 1))
    order.insert(axis, node.ndim - 1)
    return permuted(values, order), permuted(index, order)


def how_many(what: str, k: Any) -> int:
    """The number of entries wanted.

    Raises TypeError if it is no integer, ValueError if it is negative.
    """
    try:
        k = operator.index(k)
    except TypeError:
        raise TypeError(
            f"{what}(k={k!r}): k is the number of entries wanted, an integer, "
            f"and got a {type(k).__name__}."
        ) from None
    if k < 0:
        raise ValueError(f"{what}(k={k}): k is the number of entries wanted, at least 0.")
    return k


def argtopk(a: Any, k: int, axis: int = -1, largest: bool = True) -> Any:
    """The positions of the k greatest (or least) entries along an axis.

    Shapes: (M, N) -> (M, k) for axis=1.
    """
    return _topk("argtopk", a, k, axis, largest)[1]


def _check_size(node: Node, axis: int, k: int) -> None:
    """Half of all entries and more, and their positions, are no reduction: refuse what is large."""
    n = node.shape[axis]
    size = math.prod(node.shape) // max(n, 1) * k * (node.dtype.itemsize + 8)
    if 2 * k > n and size > GIB:
        raise MemoryError(
            f"the top {k} of {n} entries need {units(size)} for {describe(node)}, nearly all.\n"
            "  Ask for fewer, or sort all pairs yourself: numpy.sort(d.to_dense(max_bytes=...))."
        )


def _refused(what: str, node: Node, axis: int) -> UnsupportedError:
    if node.roles[axis] in (FEATURE, NEUTRAL):
        return unsupported(
            f"{what} over axis {axis}, a feature axis,",
            node,
            "Sort over a point axis, or take min and max over the features.",
        )
    return unsupported(
        f"{what} over axis {axis} that leaves a virtual array",
        node,
        "Reduce one more point axis first, as in d.min(axis=1).",
    )


class Ordered:
    """An array sorted along one axis, of which only the first or last k entries are ever computed.

    `np.sort(D, axis=1)[:, :k]`, `np.argsort(D, axis=1)[:, 1:k]`, `np.argpartition(D, k, axis=1)[:,
    -k:]` are top-k.
    """

    __slots__ = ("_axis", "_back", "_kth", "_node", "_positions", "_stable", "_what")

    def __init__(
        self,
        what: str,
        node: Node,
        axis: int,
        positions: bool,
        kth: int | None = None,
        stable: bool = False,
        back: bool = False,
    ):
        self._what, self._node, self._axis, self._positions = what, node, axis, positions
        self._kth, self._stable, self._back = kth, stable, back

    @property
    def shape(self) -> tuple[int, ...]:
        return self._node.shape

    @property
    def ndim(self) -> int:
        return self._node.ndim

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.int64) if self._positions else self._node.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        call = f"numpy.{self._what}(d, axis={self._axis})"
        return f"{call} of d: {describe(self._node)}, to be sliced: {self._example()}"

    def __getitem__(self, key: Any) -> Any:
        """The slice of the first or last k entries, with slices of the other axes."""
        keys = self._complete(key if isinstance(key, tuple) else (key,))
        ours = keys.pop(self._axis)
        keys.insert(self._axis, slice(None))
        if (
            all(k == slice(None) for k in keys)
            and ours == slice(None, None, -1)
            and self._kth is None
        ):
            return Ordered(
                self._what,
                self._node,
                self._axis,
                self._positions,
                None,
                self._stable,
                not self._back,
            )
        ranks = self._ranks(ours)
        node = (
            getitem(self._node, tuple(keys)) if any(k != slice(None) for k in keys) else self._node
        )
        return self._entries(node, ranks, isinstance(ours, int))

    def _complete(self, key: tuple) -> list[Any]:
        if Ellipsis in key:
            place = key.index(Ellipsis)
            key = (*key[:place], *[slice(None)] * (self.ndim - len(key) + 1), *key[place + 1 :])
        keys = [k if isinstance(k, slice) else self._index(k) for k in key]
        if len(keys) > self.ndim:
            raise IndexError(
                f"too many indices for array: {self._what} has {self.ndim} axes, "
                f"but {len(keys)} were indexed"
            )
        keys += [slice(None)] * (self.ndim - len(keys))
        if any(isinstance(k, int) for n, k in enumerate(keys) if n != self._axis):
            raise self._refuse()
        return keys

    def _index(self, k: Any) -> int:
        try:
            return operator.index(k)
        except TypeError:
            raise self._refuse() from None

    def _ranks(self, key: Any) -> range:
        """The ranks asked for, in order.

        Only keys that are bounded at one end by their form will do.
        """
        n = self.shape[self._axis]
        if isinstance(key, int):
            if not -n <= key < n:
                raise IndexError(
                    f"index {key} is out of bounds for axis {self._axis} with size {n}"
                )
            ranks, bounded = range(key % n, key % n + 1), True
        else:
            ranks = range(n)[key]
            if (key.step or 1) > 0:
                bounded = (key.stop is not None and key.stop >= 0) or (
                    key.start is not None and key.start < 0
                )
            else:
                bounded = (key.start is not None and key.start >= 0) or (
                    key.stop is not None and key.stop < 0
                )
        if not bounded:
            raise self._refuse()
        if self._back:
            ranks = range(n - 1 - ranks.start, n - 1 - ranks.stop, -ranks.step)
        if (
            self._kth is not None
            and len(ranks)
            and not (max(ranks) <= self._kth or min(ranks) >= self._kth)
        ):
            raise ShapeError(
                f"numpy.{self._what}(d, {self._kth}) orders only what is before and after rank "
                f"{self._kth}, and ranks {min(ranks)} to {max(ranks)} were asked for.\n"
                "  Partition at the number of entries that you take: "
                f"numpy.{self._what}(d, k, axis={self._axis}){self._example()}."
            )
        return ranks

    def _entries(self, node: Node, ranks: range, single: bool) -> Any:
        n = node.shape[self._axis]
        first, last = (max(ranks) + 1, n - min(ranks)) if len(ranks) else (0, 0)
        largest = last < first
        if largest and self._stable and self._positions:
            raise UnsupportedError(
                f"numpy.{self._what}(kind='stable') of d: {describe(node)} gives only its first "
                "entries lazily: of equals the last would come last.\n"
                "  Leave kind= away, or sort -d and take the first k."
            )
        which = topk(node, min(first, last), self._axis, largest)[int(self._positions)]
        places = [n - 1 - r if largest else r for r in ranks]
        key: list[Any] = [slice(None)] * node.ndim
        key[self._axis] = places[0] if single else _slice(places)
        return which[tuple(key)]

    def _example(self) -> str:
        before = ":, " * self._axis if self._axis < 2 else "..., "
        return f"[{before}:k]"

    def _refuse(self) -> UnsupportedError:
        call = f"numpy.{self._what}(d, axis={self._axis})"
        return unsupported(
            f"all of {call}",
            self._node,
            f"Take the first or last k entries: {call}{self._example()}.",
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise VirtualArrayError(str(self._refuse()))

    __iter__ = None
    __array_ufunc__ = None


def _slice(places: list[int]) -> slice:
    """The slice of these evenly spaced places."""
    if not places:
        return slice(0, 0)
    step = places[1] - places[0] if len(places) > 1 else 1
    stop = places[-1] + (1 if step > 0 else -1)
    return slice(places[0], None if stop < 0 else stop, step)


def _ordered(
    what: str, a: Node, axis: int | None, kind: Any, stable: Any, positions: bool, kth: Any = None
) -> Any:
    if not expr.is_virtual(a):
        function = getattr(namespace_of(a), what)
        order = {} if kind is None else {"kind": kind}
        return function(dense(a), *(() if kth is None else (kth,)), axis=axis, **order)
    if axis is None:
        raise unsupported(
            f"numpy.{what}(axis=None)", a, f"Name the axis: numpy.{what}(d, axis=1)[:, :k]."
        )
    axis = normalize_axis_index(axis, a.ndim)
    if a.roles[axis] in (FEATURE, NEUTRAL):
        raise _refused(f"numpy.{what}", a, axis)
    if kth is not None:
        n = a.shape[axis]
        kth = max(k + n if k < 0 else k for k in (operator.index(k) for k in np.atleast_1d(kth)))
        if not 0 <= kth < n:
            raise ValueError(f"kth(={kth}) out of bounds ({n})")
    return Ordered(what, a, axis, positions, kth, bool(stable) or kind in ("stable", "mergesort"))


def sort(
    a: Node, axis: int | None = -1, kind: Any = None, order: Any = None, *, stable: Any = None
) -> Any:
    """The entries in order along an axis.

    Those of a virtual array are to be sliced to the first or last k.
    """
    return _ordered("sort", a, axis, kind, stable, False)


def argsort(
    a: Node, axis: int | None = -1, kind: Any = None, order: Any = None, *, stable: Any = None
) -> Any:
    """The positions that sort along an axis.

    Those of a virtual array are to be sliced to the first or last k.
    """
    return _ordered("argsort", a, axis, kind, stable, True)


def partition(
    a: Node, kth: Any, axis: int | None = -1, kind: Any = "introselect", order: Any = None
) -> Any:
    """As sort, where order only matters before and after rank `kth`."""
    return _ordered("partition", a, axis, None, None, False, kth)


def argpartition(
    a: Node, kth: Any, axis: int | None = -1, kind: Any = "introselect", order: Any = None
) -> Any:
    """As argsort, where order only matters before and after rank `kth`."""
    return _ordered("argpartition", a, axis, None, None, True, kth)
