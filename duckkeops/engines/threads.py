"""Kernels on threads.

One kernel function works on a range of row blocks, so threads need no locks; ctypes releases the
GIL. No OpenMP: its runtime hangs after fork, and would come beside those of torch and scikit-learn.
"""

from __future__ import annotations

import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from duckkeops import plan

_pools: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def _forget_pools() -> None:
    """After fork the child has no threads of ours."""
    global _lock
    _pools.clear()
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pools)


def _pool(threads: int) -> ThreadPoolExecutor:
    with _lock:
        if threads not in _pools:
            _pools[threads] = ThreadPoolExecutor(threads, thread_name_prefix="duckkeops")
        return _pools[threads]


def thread_count(wanted: int | None) -> int:
    """config(threads=), else DUCKKEOPS_NUM_THREADS, else OMP_NUM_THREADS, else the cores this
    process may use.
    """
    if wanted is not None:
        return wanted
    for name in ("DUCKKEOPS_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "").split(",")[0]
        if value.isdigit() and int(value) > 0:
            return int(value)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(
    library: Any,
    arguments: np.ndarray,
    blocks: int,
    fixed_columns: bool,
    seconds: float,
    threads: int,
    keep: Any = (),
) -> None:
    """Call the kernel on all row blocks: inline when short, else in slices over threads. `seconds`
    is for one thread.

    `keep`: the arrays that `arguments` points to. An interruption does not wait for the slices that
    run: they hold them.
    """
    a = arguments.ctypes.data
    record_bytes = library.record_bytes(a)
    if record_bytes < 0:
        raise MemoryError("the records of the columns do not fit into the address space.")
    threads = 1 if seconds < plan.INLINE_SECONDS else min(threads, blocks)
    slices = max(threads if threads == 1 else 2 * threads, int(seconds / plan.SLICE_SECONDS))
    slices = min(max(slices, 1), blocks)
    bounds = [blocks * s // slices for s in range(slices + 1)]
    shared = np.empty(record_bytes if fixed_columns else 0, np.uint8)
    if fixed_columns:
        library.pack(a, shared.ctypes.data)
    local = threading.local()

    def one(first: int, last: int, held: Any = (arguments, keep)) -> None:
        if not hasattr(local, "work"):
            local.work = np.empty(library.work_bytes, np.uint8)
            local.records = shared if fixed_columns else np.empty(record_bytes, np.uint8)
        library.reduce(
            a, local.records.ctypes.data, local.work.ctypes.data, int(fixed_columns), first, last
        )

    if threads == 1 and seconds < 3 * slices * plan.SLICE_SECONDS:
        for first, last in itertools.pairwise(bounds):
            one(first, last)
        return
    pool, futures = _pool(threads), []
    try:
        for first, last in itertools.pairwise(bounds):
            futures.append(pool.submit(one, first, last))
        for f in futures:
            f.result()
    except BaseException:
        for f in futures:
            f.cancel()
        raise
