"""Arrays on the CPU computed with on a CUDA device: the inputs are copied there, and the state of
the reduction is copied back.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from duckkeops import expr, plan, rewrite, tensors
from duckkeops.config import Settings
from duckkeops.engines import cpu, cuda, threads
from duckkeops.errors import UnsupportedError
from duckkeops.expr import Input, Node, Reduce
from duckkeops.operands import namespace_of, units

LEAST_SECONDS = 0.05  # work below it stays on the CPU
GAIN = 2.0  # how many times faster the device must be, copies included
COPIED = 5e9  # bytes a second
START_SECONDS = 2.0  # CuPy's import and the start of the device, once a process
PART = 16 << 20  # bytes of page-locked memory that a large copy passes through; there are two

log = logging.getLogger("duckkeops")
PART = 16 << 20  # bytes of page-locked memory that a copy passes through; there are two of them


def is_wanted(node: Reduce, nodes: Sequence[Node], settings: Settings) -> bool:
    """Is a reduction of arrays on the CPU to be computed on a device?

    Raises UnsupportedError if that was insisted on, and there is none.
    """
    if settings.engine == "cuda" or (settings.engine == "auto" and settings.offload is True):
        require("config(engine='cuda')" if settings.engine == "cuda" else "config(offload=True)")
        return True
    if settings.engine != "auto" or settings.offload is False:
        return False
    seconds = cpu_seconds(node, nodes, settings)
    if seconds < LEAST_SECONDS or not has_driver():
        return False
    start = 0.0 if is_started() else START_SECONDS
    if seconds < GAIN * (start + input_bytes(nodes) / COPIED) or not is_usable():
        return False
    where = cuda.device(cuda.current_device())
    work = plan.cuda_seconds(node, nodes, where.processors, where.clock)
    return seconds >= GAIN * (start + work + input_bytes(nodes) / COPIED)


def cpu_seconds(node: Reduce, nodes: Sequence[Node], settings: Settings) -> float:
    """What the CPU would take, by the cost model."""
    widest = max((n.dtype.itemsize for n in node.args), default=4)
    lanes = max(1, cpu.target().vector_bytes // max(4, widest))
    count = threads.thread_count(settings.threads, namespace_of(node))
    return plan.seconds(node, nodes, lanes, count)


def input_bytes(nodes: Sequence[Node]) -> int:
    """Bytes of the inputs."""
    return sum(math.prod(n.array.shape) * n.dtype.itemsize for n in nodes if isinstance(n, Input))


def state(node: Reduce, compute: Callable[[Reduce, Any], tuple[Any, ...]]) -> tuple[Any, ...]:
    """The state of a reduction as NumPy arrays, which `compute` finds on the current device.

    Raises MemoryError if the inputs do not fit there.
    """
    done: dict[tuple, Any] = {}
    moved = rewrite.with_inputs(tensors.hosted(node), lambda one: _moved(one, done))
    return tuple([to_host(part) for part in compute(moved, namespace_of(moved))])  # type: ignore[arg-type]


def _moved(one: Input, done: dict[tuple, Any]) -> Input:
    array = _copy(np.asarray(one.array), done)
    if isinstance(one, expr.Table):
        return expr.Table(array, one.dtype)
    return Input(array, one.dtype, one.roles, one.bare)


def _copy(array: np.ndarray, done: dict[tuple, Any]) -> Any:
    """The array on the device.

    Views that differ in axes of length 1, or repeat entries, share a copy.
    """
    own = [
        a for a, (n, s) in enumerate(zip(array.shape, array.strides, strict=True)) if n != 1 and s
    ]
    small = array[tuple(slice(None) if a in own else slice(0, 1) for a in range(array.ndim))]
    core = small.reshape([array.shape[a] for a in own]) if small.size else small
    address = array.__array_interface__["data"][0]
    key = (address, core.shape, core.strides, array.dtype)
    if key not in done:
        core = np.ascontiguousarray(core)
        done[key] = core, to_device(core)  # the former keeps the address
    there = done[key][1].reshape(small.shape)
    if there.shape == array.shape:
        return there
    return namespace_of(there).broadcast_to(there, array.shape)


# -- is there a device? ----------------------------------------------------------------------------

_process = 0  # that woke the device; what is forked from it cannot use it


def has_driver() -> bool:
    """Is there a driver, and is any device shown? To ask needs no CuPy, and wakes no device."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() not in ("", "-1") and _has_library()


@functools.cache
def _has_library() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        log.debug("no CUDA driver: %s", error)
        return False
    return True


def is_started() -> bool:
    """Has this process woken the device?"""
    return _process == os.getpid()


def is_usable() -> bool:
    """Is there a device, and may this process use it?"""
    global _process
    if _process in (0, os.getpid()) and cuda.is_available():
        _process = os.getpid()
    return is_started()


def require(who: str) -> None:
    """Raise UnsupportedError if there is no device for what insists on one."""
    cuda.cupy()
    if is_usable():
        return
    if _process:
        raise UnsupportedError(
            f"{who} needs a CUDA device, and this process was forked from one that uses it, which "
            "CUDA does not allow.\n  Start processes by multiprocessing's method 'spawn' or "
            "'forkserver'."
        )
    raise UnsupportedError(
        f"{who} needs a CUDA device, and there is none.\n"
        "  What is missing is said by: python -m duckkeops doctor."
    )


# -- copies ----------------------------------------------------------------------------------------


def to_device(array: np.ndarray) -> Any:
    """A contiguous NumPy array as CuPy's, on the current device and stream.

    Raises MemoryError if it does not fit.
    """
    cp = cuda.cupy()
    if array.dtype.name == "bfloat16":  # whose bits are all that kernels read
        array = array.view(np.uint16)
    try:
        out = cp.empty(array.shape, array.dtype)
    except cp.cuda.memory.OutOfMemoryError as error:
        raise MemoryError(
            f"an array of shape {array.shape} takes {units(array.nbytes)} on device "
            f"{cuda.current_device()}: {error}.\n"
            "  Compute on the CPU, config(offload=False), or a part of the rows at a time."
        ) from error
    if array.nbytes <= PART:
        out.set(array)
    else:
        _through_pinned(cp, array.reshape(-1).view(np.uint8), out.data.ptr)
    return out


def _through_pinned(cp: Any, entries: np.ndarray, address: int) -> None:
    """Bytes to a device: while one part is on its way, the next is copied to page-locked memory."""
    runtime, stream = cp.cuda.runtime, cp.cuda.get_current_stream()
    pinned = [cp.cuda.alloc_pinned_memory(PART) for _ in range(2)]
    arrived = [cp.cuda.Event(disable_timing=True) for _ in range(2)]
    for n, first in enumerate(range(0, len(entries), PART)):
        part, which = entries[first : first + PART], n % 2
        if n > 1:
            arrived[which].synchronize()
        np.frombuffer(pinned[which], np.uint8, len(part))[...] = part
        runtime.memcpyAsync(
            address + first,
            pinned[which].ptr,
            len(part),
            runtime.memcpyHostToDevice,
            stream.ptr,
        )
        arrived[which].record(stream)
    stream.synchronize()  # the page-locked memory goes back to its pool


def to_host(array: Any) -> np.ndarray:
    """One of CuPy's arrays as NumPy's, once its stream is done with it."""
    return array if isinstance(array, np.ndarray) else cuda.cupy().asnumpy(array)
