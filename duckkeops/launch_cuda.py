"""One launch of a CUDA kernel: its grid, the arrays that it writes, and how their parts are merged.

As launch.py, for arrays on a device. Everything runs on the current stream of the inputs' library,
which allocates the results, too.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from duckkeops import launch, plan, reductions, restriction
from duckkeops.engines import cuda
from duckkeops.expr import FEATURE, Input, Joint, Node, Reduce, together, walk
from duckkeops.launch import Arguments
from duckkeops.operands import leading_input, library, on_host, units
from duckkeops.tensors import torch_dtype

FIRST_BLOCK = struct.pack("=q", 0)
GROUP, GROUP_OF_LISTS = 32, 8  # states that one thread merges, lists that are merged at a time


def device_of(array: Any) -> int | None:
    """The number of the CUDA device that holds an array; None for arrays elsewhere."""
    if type(array) is np.ndarray:
        return None
    if getattr(array, "is_cuda", False):
        return array.device.index
    return array.device.id if library(array) == "cupy" else None


def has_kernel(node: Reduce) -> bool:
    """Is there a CUDA kernel for this reduction? The library computes the others, in tiles."""
    if dict(node.params).get("k", 0) > plan.LONGEST_LIST:
        axes = plan.loop_axes(node)
        if axes.merged or axes.features:
            return False
    return node.row.name != "histogram" and _row_bytes(node) <= MOST_ROW_BYTES


MOST_ROW_BYTES = 7 << 10  # of one row of all inputs: two tiles fit into shared memory


def _row_bytes(node: Reduce) -> int:
    inputs = [n for n in walk(node) if isinstance(n, Input)]
    return sum(
        reductions.computed(n.dtype).itemsize
        * math.prod(s for s, r in zip(n.shape, n.roles, strict=True) if r == FEATURE)
        for n in inputs
    )


class Torch:
    """Memory, streams and shapes by torch."""

    def __init__(self, number: int):
        import torch

        self.torch, self.number = torch, number
        self.device = torch.device("cuda", number)
        self.stream_of = torch._C._cuda_getCurrentRawStream

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array of a dtype as `native` gives it."""
        return self.torch.empty(shape, dtype=dtype, device=self.device)

    @staticmethod
    def native(dtype: np.dtype) -> Any:
        return torch_dtype(dtype)

    @staticmethod
    def address(array: Any) -> int:
        return array.data_ptr()

    def stream(self) -> int:
        return self.stream_of(self.number)

    def mark(self) -> Any:
        """What ends when all that was launched so far has ended."""
        event = self.torch.cuda.Event()
        event.record(self.torch.cuda.current_stream(self.number))
        return event

    def is_captured(self) -> bool:
        return self.torch.cuda.is_current_stream_capturing()

    def taken(self, array: Any) -> Any:
        """An array of any library, on the device."""
        if not isinstance(array, self.torch.Tensor):
            array = self.torch.from_numpy(on_host(array))
        return array.to(self.device).contiguous()

    @staticmethod
    def permuted(array: Any, order: Sequence[int]) -> Any:
        return array.permute(*order)

    @staticmethod
    def contiguous(array: Any) -> Any:
        return array.contiguous()

    def joined(self, arrays: Sequence[Any]) -> Any:
        """Along the last axis."""
        return self.torch.cat(tuple(arrays), -1)


class Cupy:
    """Memory, streams and shapes by CuPy."""

    def __init__(self, number: int):
        self.cupy, self.number = cuda.cupy(), number

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        with self.cupy.cuda.Device(self.number):
            return self.cupy.empty(shape, dtype)

    @staticmethod
    def native(dtype: np.dtype) -> Any:
        return dtype

    @staticmethod
    def address(array: Any) -> int:
        return array.data.ptr

    def stream(self) -> int:
        return self.cupy.cuda.get_current_stream(self.number).ptr

    def mark(self) -> Any:
        """What ends when all that was launched so far has ended."""
        with self.cupy.cuda.Device(self.number):
            event = self.cupy.cuda.Event(disable_timing=True)
            event.record(self.cupy.cuda.get_current_stream(self.number))
            return event

    def is_captured(self) -> bool:
        return self.cupy.cuda.get_current_stream(self.number).is_capturing()

    def taken(self, array: Any) -> Any:
        """An array of any library, on the device."""
        with self.cupy.cuda.Device(self.number):
            own = array if isinstance(array, self.cupy.ndarray) else on_host(array)
            return self.cupy.ascontiguousarray(self.cupy.asarray(own))

    @staticmethod
    def permuted(array: Any, order: Sequence[int]) -> Any:
        return array.transpose(order)

    def contiguous(self, array: Any) -> Any:
        return self.cupy.ascontiguousarray(array)

    def joined(self, arrays: Sequence[Any]) -> Any:
        """Along the last axis."""
        return self.cupy.concatenate(tuple(arrays), -1)


class Written(NamedTuple):
    """An array that the kernel writes: its dtype, and the shape of what one output has in it."""

    dtype: np.dtype
    extra: tuple[int, ...]
    native: Any  # the dtype as the library calls it


class Finished(NamedTuple):
    """A component of the state: which array it is from, and which of a row's outputs it takes; the
    shape in memory, and in the order of the result.
    """

    array: int
    cut: slice | None
    shape: tuple[int, ...]
    order: tuple[int, ...] | None
    result: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Launch:
    """All of a launch that repeats. It holds no arrays."""

    compiled: cuda.Compiled
    library: Torch | Cupy
    arguments: Arguments
    written: tuple[Written, ...]
    shapes: tuple[tuple[int, ...], ...]  # of what is written
    as_is: bool  # what is written is the state, in the order of the result
    finished: tuple[Finished, ...]
    threads: int  # of a block
    blocks: int  # of a restriction, for each of its row blocks
    block_rows: int
    axes: plan.LoopAxes
    slice: int  # blocks of one launch
    parts: int  # states of each row: splits of the columns, groups of threads
    outers: int
    rows: int
    outputs: int  # of a row
    merged: bool  # rows are reduced, too
    columns: int  # of a row
    length: int  # of a list that takes several passes; 0: there is none
    result_bytes: int
    result: str

    def __call__(self, nodes: Sequence[Any], count: int | None) -> tuple[Any, ...]:
        """The state of the reduction `nodes[0]`, in the order of the result; of several, one array
        each.

        `count`, a number of threads, is the CPU's. Raises MemoryError if the state does not fit.
        """
        if cuda.current_device() != self.compiled.device.number:
            with cuda.cupy().cuda.Device(self.compiled.device.number):
                return self(nodes, count)
        state = self._list(nodes) if self.length else self._pass(nodes, ())
        if self.as_is and not self.arguments.lists:
            return tuple(state)
        return self._finished(nodes, state)

    def _finished(self, nodes: Sequence[Any], state: list[Any]) -> tuple[Any, ...]:
        out = tuple(state)
        if not self.as_is:
            out = tuple([self._shaped(one, state[one.array]) for one in self.finished])
        if self.arguments.lists and nodes[0].row.name == "topk":
            return reductions.with_neutral_places(nodes[0], out)
        return out

    def _pass(self, nodes: Sequence[Any], after: Sequence[Any]) -> list[Any]:
        """The states of all rows, merged. `after`: where a later pass for a list begins."""
        lib = self.library
        state = [
            self._empty(shape, w.native) for shape, w in zip(self.shapes, self.written, strict=True)
        ]
        keep: list[Any] = []
        addresses = [lib.address(a) for a in (*state, *after)]
        if not self.arguments.lists:
            return self._run(self.arguments.filled(nodes, addresses, keep), state, self.blocks)
        pairs = restriction.of(nodes[0])
        assert pairs is not None
        items, intervals = pairs.side(self.axes.lane, self.axes.columns).lists(self.block_rows, lib)
        lists = len(items), lib.address(items), lib.address(intervals)
        arguments = self.arguments.filled(nodes, addresses, keep, lists)
        return self._run(arguments, state, self.blocks * len(items))

    def _list(self, nodes: Sequence[Any]) -> list[Any]:
        """The states of a top-k longer than a thread's list, pass by pass."""
        lib, found = self.library, []
        rows = (self.outers * self.rows,)
        after = [self._empty(rows, w.native) for w in self.written]
        for array, nothing in zip(after, (0, -1), strict=True):
            array[:] = nothing
        for _ in range(0, self.length, plan.LONGEST_LIST):
            found.append(self._pass(nodes, after))
            after = [lib.contiguous(a[:, -1]) for a in found[-1]]
        return [lib.joined(arrays)[:, : self.length] for arrays in zip(*found, strict=True)]

    def _run(self, arguments: bytes, state: list[Any], blocks: int) -> list[Any]:
        stream = self.library.stream()
        self._reduce(arguments, stream, blocks)
        if self.parts > 1:
            width = self.outers * self.rows * self.outputs
            state = self._joined(state, 1, self.parts, width, 0, stream)
        if self.merged and self.rows > 1:
            state = self._joined(state, self.outers, self.rows, self.outputs, self.columns, stream)
        return state

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        try:
            return self.library.empty(shape, dtype)
        except Exception as error:
            if "memory" not in str(error).lower():
                raise
            raise MemoryError(
                f"{self.result} needs {units(self.result_bytes)} on device "
                f"{self.compiled.device.number}, with the parts that are merged.\n"
                "  Reduce another axis too, or a part of the rows at a time."
            ) from error

    def _reduce(self, arguments: bytes, stream: int, blocks: int) -> None:
        kernel = self.compiled.reduce
        if self.slice >= blocks:
            kernel(blocks, self.threads, stream, arguments, FIRST_BLOCK)
            return
        captured = self.library.is_captured()
        ends: list[Any] = []  # of slices under way: two, so that the device never waits
        for first in range(0, blocks, self.slice):
            some = min(self.slice, blocks - first)
            kernel(some, self.threads, stream, arguments, struct.pack("=q", first))
            if not captured:
                ends.append(self.library.mark())
            if len(ends) > 1:
                ends.pop(0).synchronize()

    def _joined(
        self, state: list[Any], outers: int, parts: int, width: int, behind: int, stream: int
    ) -> list[Any]:
        """States of (outers, parts, width) merged along the middle axis, neighbours first."""
        lib = self.library
        length = math.prod(self.written[0].extra)
        most = GROUP_OF_LISTS if self.written[0].extra else GROUP
        while parts > 1:
            group = min(most, parts)
            groups = -(-parts // group)
            size = outers * groups * width
            merged = [self._empty((size, *w.extra), w.native) for w in self.written]
            arrays = [lib.address(a) for a in (*state, *merged)]
            sizes = outers, parts, width, group, behind
            packed = struct.pack(f"={len(arrays)}Q5q", *arrays, *sizes)
            threads = size * (group * length if self.written[0].extra else 1)
            self.compiled.join(-(-threads // self.threads), self.threads, stream, packed)
            behind, parts, state = 0, groups, merged  # positions count from the first part now
        return state

    def _shaped(self, one: Finished, array: Any) -> Any:
        if one.cut is not None:
            array = array.reshape(-1, self.outputs)[:, one.cut]
        array = array.reshape(one.shape)
        if one.order is not None:
            array = self.library.permuted(array, one.order).reshape(one.result)
        return array


def prepare(
    kernel: Any, compiled: cuda.Compiled, node: Reduce, order: Sequence[Node], nodes: Sequence[Node]
) -> Launch:
    """The launch of a compiled kernel that was built for `node`.

    `order` are the nodes as the kernel numbers them, `nodes` the same ones as the launch will be
    given them.
    """
    axes = plan.loop_axes(node)
    where = compiled.device
    rows = 1 if axes.lane is None else node.whole[axes.lane]
    outers = math.prod(node.whole[a] for a in axes.outer)
    pairs = restriction.of(node)
    blocks = outers * -(-rows // kernel.rows)
    seconds = plan.cuda_seconds(node, order, where.processors, where.clock)
    threads, own = kernel.block
    at_once = where.processors * compiled.resident(threads)
    size = sum(t.itemsize * math.prod(extra) for t, extra in kernel.components)
    width = math.prod(node.whole[a] for a in axes.features)
    state_bytes = size * outers * rows * width * (threads // own)
    splits = 1
    if not pairs:
        splits = plan.cuda_splits(
            node, axes, blocks, where.processors, at_once, seconds, state_bytes
        )
    place = {id(n): k for k, n in enumerate(nodes)}
    arguments = Arguments(kernel.entries, node, order, [place[id(n)] for n in order], splits)
    parts = splits * (threads // own)
    array = leading_input(node).source
    lib = (Cupy if library(array) == "cupy" else Torch)(where.number)
    written = tuple(Written(t, extra, lib.native(t)) for t, extra in kernel.components)
    k = dict(node.params).get("k", 0)
    length = k if k > plan.LONGEST_LIST else 0
    finished, outputs = _results(
        node, axes, tuple(w._replace(extra=(k,)) for w in written) if length else written
    )
    total = blocks * splits
    flat = parts * outers * rows * outputs
    as_is = parts == 1 and not axes.merged and type(node) is not Joint and not length
    as_is = as_is and all(one.order is None for one in finished)
    return Launch(
        compiled,
        lib,
        arguments,
        written,
        tuple(f.shape for f in finished) if as_is else tuple((flat, *w.extra) for w in written),
        as_is,
        finished,
        threads,
        outers if pairs else total,
        kernel.rows,
        axes,
        plan.cuda_slice(total, at_once, seconds),
        parts,
        outers,
        rows,
        outputs,
        axes.merged,
        math.prod(node.whole[a] for a in axes.columns),
        length,
        flat * size,
        f"the result of {kernel.formula}, of shape {node.shape},",
    )


def _results(
    node: Reduce, axes: plan.LoopAxes, written: tuple[Written, ...]
) -> tuple[tuple[Finished, ...], int]:
    """The components of the state in the order of the result, and how many outputs a row has."""
    if type(node) is not Joint:
        outs = [
            launch.place_of(node, without_merged(axes), w.dtype, w.extra, w.dtype) for w in written
        ]
        return tuple(
            Finished(k, None, o.shape, o.order, o.result) for k, o in enumerate(outs)
        ), math.prod(node.whole[a] for a in axes.features)
    parts, first = [], 0
    for one in together(node):
        own = plan.loop_axes(one)
        last = first + math.prod(one.whole[a] for a in own.features)
        out = launch.place_of(one, without_merged(own), written[0].dtype, (), written[0].dtype)
        parts.append(Finished(0, slice(first, last), out.shape, out.order, out.result))
        first = last
    return tuple(parts), first


def without_merged(axes: plan.LoopAxes) -> plan.LoopAxes:
    """The axes that are left when lanes have been merged."""
    return replace(axes, lane=None, merged=False) if axes.merged else axes
