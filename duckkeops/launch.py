"""One launch of a kernel: its argument array, the arrays that it writes, their order in the result.

All of that but addresses, strides and numbers repeats when an expression is evaluated again. It is
worked out once, here, and a repetition fills the rest in and calls the kernel.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from duckkeops import plan, reductions, restriction
from duckkeops.engines import cpu, threads
from duckkeops.expr import Input, Joint, Node, Reduce, dtype_of, together
from duckkeops.operands import library
from duckkeops.tensors import Located, check_unchanged, is_tensor, located

State = tuple[np.ndarray, ...]


class _Array(NamedTuple):
    """An input: its place among the nodes, entries for its address, (entry, axis) of strides."""

    place: int
    pointers: tuple[int, ...]
    strides: tuple[tuple[int, int], ...]


class _Number(NamedTuple):
    """A parameter: its entry, its place among the nodes, dtype, and which part is meant."""

    entry: int
    place: int
    dtype: np.dtype
    imag: bool


class Arguments:
    """The kernel's argument array: what is the same each time, and where the rest goes.

    `entries` are those of the kernel's layout, whose numbers of nodes are those of `walk`; `places`
    says where each of these stands in the sequence of nodes that `filled` is given.
    """

    __slots__ = ("arrays", "constants", "lists", "numbers", "outs", "pack")

    def __init__(
        self,
        entries: Sequence[tuple],
        node: Reduce,
        nodes: Sequence[Node],
        places: Sequence[int],
        splits: int,
    ):
        self.lists: list[int] = []  # entries of the items, their number, and the intervals
        constants, formats = [0] * len(entries), ["q"] * len(entries)
        outs: list[tuple[int, int]] = []
        numbers: list[_Number] = []
        pointers: dict[int, list[int]] = {}
        strides: dict[int, list[tuple[int, int]]] = {}
        for at, (kind, *rest) in enumerate(entries):
            if kind == "splits":
                constants[at] = splits
            elif kind == "size":
                constants[at] = 1 if rest[0] < 0 else node.whole[rest[0]]
            elif kind in ("items", "intervals"):
                self.lists.append(at)
            elif kind == "param":
                constants[at] = dict(node.params)[rest[0]]
            elif kind == "copies":
                constants[at] = plan.copies(node)
            elif kind == "length":
                n = nodes[rest[0]]
                constants[at] = (n.whole if isinstance(n, Reduce) else n.shape)[rest[1]]
            elif kind == "out":
                outs.append((at, rest[0]))
            elif kind == "pointer":
                pointers.setdefault(rest[0], []).append(at)
            elif kind == "stride":
                strides.setdefault(rest[0], []).append((at, rest[1]))
            else:
                dtype = dtype_of(rest[1])
                numbers.append(_Number(at, places[rest[0]], dtype, kind == "imag"))
                formats[at] = {"u": "Q", "b": "Q", "i": "q"}.get(dtype.kind, "d")
        self.constants, self.outs, self.numbers = constants, tuple(outs), tuple(numbers)
        self.pack = struct.Struct("=" + "".join(formats)).pack
        self.arrays = tuple(
            _Array(places[n], tuple(pointers.get(n, ())), tuple(strides.get(n, ())))
            for n in dict.fromkeys((*pointers, *strides))
        )

    def filled(
        self,
        nodes: Sequence[Any],
        outs: Sequence[int],
        keep: list[Any],
        lists: Sequence[int] = (),
    ) -> bytes:
        """The array for these nodes, and outputs at these addresses. It points to the nodes'
        arrays, and to those that go to `keep`. `lists`: how many row blocks a restriction has, and
        the addresses of these and of their intervals.
        """
        values: list[Any] = self.constants.copy()
        for place, pointers, strides in self.arrays:
            node = nodes[place]
            array = node.source
            if type(array) is tuple:  # it was located before
                address, steps = array
            elif type(array) is not np.ndarray and (found := foreign(node, keep)) is not None:
                address, steps = found
            else:
                if not array.dtype.isnative:
                    array = array.astype(array.dtype.newbyteorder("="))
                    keep.append(array)
                address, steps = _address(array), array.strides if strides else ()
            for at in pointers:
                values[at] = address
            if strides:
                for at, axis in strides:
                    values[at] = steps[axis]
        for at, value in zip(self.lists, lists, strict=True):
            values[at] = value
        for at, which in self.outs:
            values[at] = outs[which]
        for at, place, dtype, imag in self.numbers:
            values[at] = _parameter(nodes[place].value, dtype, imag)
        return self.pack(*values)


def foreign(node: Input, keep: list[Any]) -> Located | None:
    """Where the entries of another library's array lie; None for those that NumPy reads."""
    array = node.source
    if is_tensor(array):
        if type(node) is Input:  # a table's outline has no axes
            check_unchanged(array, node.outline)
        return located(array, keep, node.order)
    if library(array) == "cupy":
        return array.data.ptr, array.strides
    return None


_addressof: Callable[[Any], int] = ctypes.addressof
_from_buffer: Callable[[Any], Any] = ctypes.c_char.from_buffer


def _address(array: np.ndarray) -> int:
    """Where the entries lie; ctypes says it in a third of the time, if it may write there."""
    try:
        return _addressof(_from_buffer(array))
    except (TypeError, ValueError):  # read-only, not contiguous, or of a dtype without a format
        return array.__array_interface__["data"][0]


def _parameter(value: complex, dtype: np.dtype, imag: bool) -> float:
    """A Python number in the dtype's own family. Raises OverflowError as NumPy does."""
    if dtype.kind in "iub":
        return 0 if imag else int(np.array(value, dtype))
    z = complex(value)
    return z.imag if imag else z.real


class _Out(NamedTuple):
    """An array that the kernel writes: its shape there, and in the order of the result."""

    shape: tuple[int, ...]
    dtype: np.dtype
    order: tuple[int, ...] | None  # None: nothing to transpose, and `shape` is the result's
    result: tuple[int, ...]
    wide: bool  # positions and counts are 32 bits wide in kernels where that is enough

    def finished(self, array: np.ndarray) -> np.ndarray:
        if self.order is not None:
            array = array.transpose(self.order).reshape(self.result)
        return array.astype(np.int64) if self.wide else array


def place_of(
    node: Reduce, axes: plan.LoopAxes, dtype: np.dtype, extra: tuple[int, ...], own: np.dtype
) -> _Out:
    """One component of the state: (outer ..., lane, features ..., extra) in memory.

    The result has the kept axes in order, a merged lane before them. `own` is its dtype by the
    table.
    """
    wide = dtype == np.int32 and own == np.int64
    have = [a for a in (*axes.outer, axes.lane, *axes.features) if a is not None]
    kept = [a for a in range(len(node.whole)) if a not in node.axes]
    first = [axes.lane] if axes.merged and axes.lane is not None else []
    order = [have.index(a) for a in (*first, *kept) if a in have]
    result = (*(node.whole[a] for a in (*first, *kept)), *extra)
    if order == sorted(order):
        return _Out(result, dtype, None, result, wide)
    shape = (*(node.whole[a] for a in have), *extra)
    return _Out(shape, dtype, (*order, *range(len(have), len(shape))), result, wide)


class _Bins(NamedTuple):
    """The tables of a histogram: one for each block of rows, or for each row. Their last bin holds
    what is in none.
    """

    shape: tuple[int, ...]  # (outer ..., blocks, bins + 1, copies)
    dtype: np.dtype
    rows: _Out | None  # where each row has its own

    def finished(self, array: np.ndarray) -> np.ndarray:
        if self.rows is not None:
            return self.rows.finished(array)[..., :-1]
        return array[..., :-1, :].sum(axis=(-3, -1))


class _Part(NamedTuple):
    """One of several reductions of a kernel: its part of the last axis of what is written."""

    cut: slice
    out: _Out

    def finished(self, array: np.ndarray) -> np.ndarray:
        return self.out.finished(np.ascontiguousarray(array[..., self.cut]).reshape(self.out.shape))


def _parts(
    node: Reduce, axes: plan.LoopAxes, dtype: np.dtype
) -> tuple[tuple[int, ...], tuple[_Part, ...]]:
    """The shape of what is written, (outer ..., lane, outputs of all reductions), and its parts."""
    parts, first = [], 0
    for one in together(node):
        own = plan.loop_axes(one)
        last = first + math.prod(one.whole[a] for a in own.features)
        parts.append(_Part(slice(first, last), place_of(one, own, dtype, (), dtype)))
        first = last
    loops = (*axes.outer, *(() if axes.lane is None else (axes.lane,)))
    return (*(node.whole[a] for a in loops), first), tuple(parts)


def _bins(node: Reduce, axes: plan.LoopAxes, dtype: np.dtype, blocks: int) -> _Bins:
    size = dict(node.params)["bins"] + 1
    if plan.rows_apart(axes):
        rows = place_of(node, axes, dtype, (size,), dtype)
        return _Bins(rows.shape, dtype, rows)
    outer = tuple(node.whole[a] for a in axes.outer)
    return _Bins((*outer, blocks, size, plan.copies(node)), dtype, None)


@dataclass(frozen=True, slots=True)
class Launch:
    """All of a launch that repeats. It holds no arrays."""

    compiled: cpu.Compiled
    arguments: Arguments
    outs: tuple[_Out | _Bins, ...] | tuple[_Part, ...]
    written: tuple[tuple[tuple[int, ...], np.dtype], ...]  # shapes and dtypes, of all splits
    as_is: bool  # what is written is the state, in the order of the result
    axes: plan.LoopAxes
    blocks: int  # of rows, of all splits; of a restriction, for each of its row blocks
    block_rows: int
    splits: int  # of the columns, whose states are merged
    fixed_columns: bool
    seconds: float  # estimated, on one thread
    result_bytes: int
    result: str  # as messages call it

    def __call__(self, nodes: Sequence[Any], count: int | None) -> State:
        """The state of the reduction `nodes[0]`, in the order of the result; of several, one array
        each.

        `count` is a number of threads, or None. Raises MemoryError if the state does not fit.
        """
        plan.check_memory(self.result_bytes, self.result)
        if self.arguments.lists:
            return self._over_pairs(nodes, count)
        parts = [np.empty(shape, dtype) for shape, dtype in self.written]
        keep: list[Any] = [nodes, parts]
        arguments = self.arguments.filled(nodes, [_address(p) for p in parts], keep)
        threads.run(
            self.compiled, arguments, self.blocks, self.fixed_columns, self.seconds, count, keep
        )
        return self._finished(nodes, tuple(parts))

    def _over_pairs(self, nodes: Sequence[Any], count: int | None) -> State:
        """The same over some pairs only: the number of row blocks is that of their pattern."""
        pairs = restriction.of(nodes[0])
        assert pairs is not None
        side = pairs.side(self.axes.lane, self.axes.columns)
        items, intervals = side.lists(self.block_rows)
        parts = [np.empty(shape, dtype) for shape, dtype in self.written]
        lists = len(items), _address(items), _address(intervals)
        keep: list[Any] = [nodes, parts, items, intervals]
        arguments = self.arguments.filled(nodes, [_address(p) for p in parts], keep, lists)
        seconds = self.seconds * side.density
        blocks = self.blocks * len(items)
        threads.run(self.compiled, arguments, blocks, self.fixed_columns, seconds, count, keep)
        state = self._finished(nodes, tuple(parts))
        if nodes[0].row.name == "topk":
            return reductions.with_neutral_places(nodes[0], state)
        return state

    def _finished(self, nodes: Sequence[Any], state: State) -> State:
        if self.as_is:
            return state
        several = type(self.outs[0]) is _Part  # of one array
        if several:
            state = (_added(state[0]) if self.splits > 1 else state[0],) * len(self.outs)
        elif self.splits > 1:
            state = _joined(nodes[0], state)
        state = tuple([out.finished(part) for out, part in zip(self.outs, state, strict=True)])
        if several:
            return tuple(map(_added, state)) if self.axes.merged else state
        tables = type(self.outs[0]) is _Bins
        return _merged(nodes[0], self.axes, state) if self.axes.merged and not tables else state


def prepare(kernel: Any, node: Reduce, order: Sequence[Node], nodes: Sequence[Node]) -> Launch:
    """The launch of a compiled kernel that was built for `node`.

    `order` are the nodes as the kernel numbers them, `nodes` the same ones as the launch will be
    given them.
    """
    axes = plan.loop_axes(node)
    lanes = cpu.target().vector_bytes // kernel.lane_bytes
    rows = 1 if axes.lane is None else node.whole[axes.lane]
    outers, pairs = math.prod(node.whole[a] for a in axes.outer), restriction.of(node)
    block_rows = kernel.rows * lanes
    blocks = outers * (1 if pairs else -(-rows // block_rows))
    splits = 1 if pairs else plan.splits(node, axes, blocks)
    place = {id(n): k for k, n in enumerate(nodes)}
    arguments = Arguments(kernel.entries, node, order, [place[id(n)] for n in order], splits)
    result = node.shape
    if node.row.name == "histogram":
        places = math.prod(node.whole[a] for a in axes.outer)
        outs = (_bins(node, axes, kernel.components[0][0], blocks // places),)
        written = tuple((out.shape, out.dtype) for out in outs)
    elif type(node) is Joint:
        dtype = kernel.components[0][0]
        result, outs = _parts(node, axes, dtype)
        written = ((result, dtype),)
    else:
        outs = tuple(
            place_of(node, axes, dtype, extra, own)
            for (dtype, extra), (_, own, _) in zip(
                kernel.components, reductions.components(node), strict=True
            )
        )
        written = tuple((out.shape, out.dtype) for out in outs)
    ordered = not axes.merged and all(
        type(out) is _Out and out.order is None and not out.wide for out in outs
    )
    split = () if splits == 1 else (splits,)
    return Launch(
        kernel.compiled,
        arguments,
        outs,
        tuple((split + shape, dtype) for shape, dtype in written),
        ordered and not split,
        axes,
        blocks * splits,
        block_rows,
        splits,
        kernel.fixed_columns,
        plan.seconds(node, order, lanes, 1),
        splits * sum(math.prod(shape) * dtype.itemsize for shape, dtype in written),
        f"the result of {kernel.formula}, of shape {result},",
    )


# -- parts of a state ------------------------------------------------------------------------------


def _joined(node: Reduce, parts: State) -> State:
    """Merge states along axis 0, neighbours first: always in the same order."""
    with np.errstate(all="ignore"):
        while (n := parts[0].shape[0]) > 1:
            even = n // 2 * 2
            joined = node.row.merge(
                np,
                tuple(p[0:even:2] for p in parts),
                tuple(p[1:even:2] for p in parts),
                node.params,
            )
            parts = tuple(
                np.concatenate([j, p[even:]]) if n % 2 else j
                for j, p in zip(joined, parts, strict=True)
            )
    return tuple(p[0] for p in parts)


def _added(array: np.ndarray) -> np.ndarray:
    """The sum along axis 0, neighbours first."""
    with np.errstate(all="ignore"):
        while (n := array.shape[0]) > 1:
            even = n // 2 * 2
            pairs = array[0:even:2] + array[1:even:2]
            array = np.concatenate([pairs, array[even:]]) if n % 2 else pairs
    return array[0]


def _merged(node: Reduce, axes: plan.LoopAxes, parts: State) -> State:
    """The states of a reduced lane axis (axis 0) merged. Positions were counted in each lane."""
    names = [c[0] for c in reductions.components(node)]
    if "index" in names:
        k = names.index("index")
        inner = math.prod(node.whole[a] for a in node.axes if a != axes.lane)
        lanes = np.arange(parts[k].shape[0], dtype=np.int64).reshape(-1, *[1] * (parts[k].ndim - 1))
        parts = (*parts[:k], parts[k] + lanes * inner, *parts[k + 1 :])
        if node.row.name == "topk" and inner < parts[0].shape[-1]:  # no row fills its k places
            parts = tuple(np.moveaxis(p[..., :inner], 0, -2) for p in parts)
            parts = tuple(p.reshape(*p.shape[:-2], -1) for p in parts)
            return node.row.merge(np, parts, tuple(p[..., :0] for p in parts), node.params)
    if parts[0].ndim and parts[0].shape[0] == 0:
        raise AssertionError("empty reductions are computed by the library itself")
    return _joined(node, parts)
