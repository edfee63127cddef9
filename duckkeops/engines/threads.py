"""Kernels on threads: one pool of workers for the whole process.

A kernel works on any range of row blocks, so threads need no locks: each takes the next few blocks
until none is left, the calling thread like the workers. It returns to Python every 50 ms or so, for
Ctrl-C and the progress bar; a longer reduction gives its place to one more worker, and only waits.
No OpenMP: its runtime hangs after fork, and would come beside those of torch and scikit-learn.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import math
import os
import threading
from pathlib import Path
from queue import Empty, SimpleQueue
from time import perf_counter, thread_time
from typing import Any

import numpy as np

from duckkeops import plan
from duckkeops.progress import Progress

log = logging.getLogger("duckkeops")

FIRST_SECONDS = 10e-3  # of the calling thread's first slice, as estimated
GROUP, GROUP_SECONDS = 16, 0.15  # blocks that share panels of columns in the cache; the most of one
HAND_OVER_SECONDS = 0.2  # with more than this left, as measured, the calling thread only waits


def run(
    library: Any,
    arguments: bytes,
    blocks: int,
    fixed_columns: bool,
    seconds: float,
    threads: int | None,
    keep: Any = (),
) -> None:
    """Call the kernel on all row blocks: inline when short, else on several threads.

    `seconds`: what one thread is estimated to take. `threads`: as in `config`.
    `keep`: the arrays that `arguments` points to. An interruption does not wait for the workers,
    which hold them.
    """
    seconds *= library.pace
    if seconds < plan.INLINE_SECONDS:
        start = perf_counter()
        work = _take(KEPT_BYTES)
        need = library.once(arguments, work[0], KEPT_BYTES, fixed_columns, blocks)
        _give(work)
        if need:
            large = _take(_addressable(need))
            library.once(arguments, large[0], need, fixed_columns, blocks)
        if perf_counter() - start > 2 * plan.INLINE_SECONDS:
            _learn(library, (perf_counter() - start) / seconds)
        return
    _addressable(library.record_bytes(arguments))
    most = math.ceil(seconds / max(plan.INLINE_SECONDS, 1e-6))
    count = min(thread_count(threads), blocks, most)
    _Job(library, arguments, blocks, fixed_columns, seconds, count, keep).lead(count)


def _addressable(size: int) -> int:
    if size < 0:
        raise MemoryError("the records of the columns do not fit into the address space.")
    return size


def _learn(library: Any, ratio: float) -> None:
    """Correct the estimates of a kernel, which took `ratio` times the one that was just made."""
    library.pace *= min(max(ratio, 0.01), 100.0) ** 0.5  # half the way: one call may be disturbed


# -- one reduction ---------------------------------------------------------------------------------


class _Job:
    """A reduction on several threads: `lead` is for the calling thread, `help` for the workers."""

    __slots__ = (
        "active",
        "block_seconds",
        "blocks",
        "call",
        "chunk",
        "error",
        "large",
        "lock",
        "news",
        "next",
        "slice",
    )

    def __init__(
        self,
        library: Any,
        arguments: bytes,
        blocks: int,
        packed: bool,
        seconds: float,
        count: int,
        keep: Any,
    ):
        self.blocks = blocks
        self.next = ctypes.c_int64(0)  # the first block that nobody has taken
        self.slice = max(1, int(min(FIRST_SECONDS / max(seconds, 1e-9), 1.0) * blocks))
        self.block_seconds = max(seconds / blocks, 1e-12)
        self.chunk = max(1, min(blocks // (8 * count), self._group(self.block_seconds)))
        self.large = self.block_seconds > plan.SLICE_SECONDS  # one block would hold up Ctrl-C
        self.active = 0  # workers at it
        self.lock = threading.Lock()  # of `active`
        # A word of each worker that comes or goes. No Condition: its methods are Python, and
        # Ctrl-C in the midst of one leaves its lock taken, or released twice.
        self.news: SimpleQueue[None] = SimpleQueue()
        self.error: BaseException | None = None
        self.call: tuple | None = (library, arguments, packed, _packed(library, arguments, packed))
        self.call += (self.next, keep)

    def _group(self, block_seconds: float) -> int:
        """Blocks that a thread takes at a time where there are many."""
        group = GROUP if GROUP * block_seconds < GROUP_SECONDS else 1
        return max(self.slice // group * group, group)

    def lead(self, count: int) -> None:
        """Finish the reduction, with `count` threads in all."""
        progress = Progress()
        try:
            _ask(self, count - 1)
            if self.large:
                self._hand_over(count)
            self._take_part(count, progress)
            while self._has_workers():
                self._wait(0.05)
        except BaseException:
            self.next.value = self.blocks  # the workers stop after their chunks
            raise
        finally:
            self.call = None  # what still waits in the queue holds no memory
            progress.close()
        if self.error is not None:
            raise self.error

    def _take_part(self, count: int, progress: Progress) -> None:
        """Work in slices, or wait where enough others work, until every block is taken."""
        assert self.call is not None
        most, asked = self.slice, self.large
        with _Share(*self.call) as share:
            while (first := self.next.value) < self.blocks:
                if asked and self.active >= count:
                    self._wait(0.05)
                else:
                    start, cpu = perf_counter(), thread_time()
                    taken = share(self.blocks, min(self.chunk, most), most)
                    block = (perf_counter() - start) / max(taken, 1)
                    if taken:
                        spent = (thread_time() - cpu) / taken
                        _learn(self.call[0], spent / self.block_seconds)
                        self.block_seconds = spent
                    most = max(1, int(plan.SLICE_SECONDS / max(block, 1e-9)))
                    if not asked and (self.blocks - first) * block > HAND_OVER_SECONDS * count:
                        asked = True
                        self._hand_over(count)
                progress.update(self.next.value / self.blocks)

    def _hand_over(self, count: int) -> None:
        """Have `count` workers at it, so that the calling thread needs not work."""
        _ask(self, 1)
        end = perf_counter() + 0.05
        while self.active < count and (left := end - perf_counter()) > 0:
            self._wait(left)

    def _has_workers(self) -> bool:
        with self.lock:  # one may be about to join
            return self.active > 0

    def _wait(self, seconds: float) -> None:
        """Until a worker comes or goes, or the time is over."""
        with contextlib.suppress(Empty):
            self.news.get(timeout=seconds)

    def help(self) -> None:
        """Take blocks until none is left."""
        with self.lock:
            call = self.call
            if call is None or self.next.value >= self.blocks:
                return
            self.active += 1
        try:
            self.news.put(None)
            with _Share(*call) as share:
                share(self.blocks, self.chunk, self.blocks)
        except MemoryError:
            pass  # no room for this thread's records: the others do its part
        except BaseException as error:
            self.error, self.next.value = error, self.blocks
        finally:
            with self.lock:
                self.active -= 1
            self.news.put(None)


def _packed(library: Any, arguments: bytes, packed: bool) -> np.ndarray | None:
    """The records of the columns, where all threads share them."""
    if not packed:
        return None
    records = np.empty(library.record_bytes(arguments), np.uint8)
    library.pack(arguments, records.__array_interface__["data"][0])
    return records


class _Share:
    """The kernel with one thread's memory: call it with the number of blocks, of those to take at a
    time and of those to take at most.
    """

    __slots__ = ("call", "fixed", "work")

    def __init__(
        self,
        library: Any,
        arguments: bytes,
        packed: bool,
        records: np.ndarray | None,
        counter: ctypes.c_int64,
        keep: Any,
    ):
        self.call = (library, arguments, records, counter, keep)  # must outlive the call
        self.work = _take(library.work_bytes + (0 if packed else library.record_bytes(arguments)))
        own = self.work[0] + library.work_bytes
        at = own if records is None else records.__array_interface__["data"][0]
        self.fixed = (arguments, at, self.work[0], packed, ctypes.addressof(counter))

    def __enter__(self) -> _Share:
        return self

    def __call__(self, blocks: int, chunk: int, most: int) -> int:
        return self.call[0].share(*self.fixed, blocks, chunk, most)

    def __exit__(self, *exception: object) -> None:
        _give(self.work)


# Memory of calls that have ended, for the next ones: address and buffer. Taking and giving are one
# step each under Python's lock; a buffer that is lost in between is freed.
_kept: list[tuple[int, np.ndarray]] = []
KEPT_BYTES, KEPT_BUFFERS = 1 << 18, 64


def _take(size: int) -> tuple[int, np.ndarray]:
    if size <= KEPT_BYTES:
        try:
            return _kept.pop()
        except IndexError:
            size = KEPT_BYTES
    buffer = np.empty(size, np.uint8)
    return buffer.__array_interface__["data"][0], buffer


def _give(work: tuple[int, np.ndarray]) -> None:
    if work[1].size == KEPT_BYTES and len(_kept) < KEPT_BUFFERS:
        _kept.append(work)


# -- the pool --------------------------------------------------------------------------------------

MOST_WAITING = 256  # jobs in the queue; more are done by their callers alone
_queue: SimpleQueue[_Job] = SimpleQueue()
_workers = 0
_lock = threading.RLock()  # a signal handler may reduce, too


def _forget_workers() -> None:
    """After fork the child has no threads of ours."""
    global _queue, _workers, _lock
    _queue, _workers, _lock = SimpleQueue(), 0, threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)


def _ask(job: _Job, helpers: int) -> None:
    """Wake workers for a job. They are daemons: none keeps the interpreter from ending."""
    global _workers
    if helpers < 1:
        return
    if _workers < helpers:
        with _lock:
            while _workers < helpers:
                try:
                    threading.Thread(
                        target=_work, args=(_queue,), name="duckkeops", daemon=True
                    ).start()
                except RuntimeError:  # the interpreter is ending, or allows no more threads
                    break
                _workers += 1
    for _ in range(min(helpers, _workers)):
        if _queue.qsize() < MOST_WAITING:
            _queue.put(job)


def _work(queue: SimpleQueue[_Job]) -> None:
    while True:
        queue.get().help()


# -- how many threads ------------------------------------------------------------------------------


def thread_count(wanted: int | None, xp: Any = np) -> int:
    """How many threads a reduction of arrays of the namespace `xp` takes.

    config(threads=), else torch.get_num_threads() for tensors, else DUCKKEOPS_NUM_THREADS, else
    OMP_NUM_THREADS, else the cores that this process may use.
    """
    if wanted is not None:
        return wanted
    if xp is not np and xp.__name__.rpartition(".")[2] == "torch":
        return xp.get_num_threads()
    return next(filter(None, map(named, VARIABLES)), 0) or cores()


VARIABLES = ("DUCKKEOPS_NUM_THREADS", "OMP_NUM_THREADS")  # the first that holds a number counts


def named(name: str) -> int:
    """The number of threads in an environment variable; 0 where there is none."""
    value = os.environ.get(name, "")
    first = value.partition(",")[0].strip()  # OpenMP: one number for each nested level
    if first.isdecimal() and int(first) > 0:
        return int(first)
    if value.strip():
        _warn(name, value)
    return 0


@functools.cache
def _warn(name: str, value: str) -> None:
    others = 0 if name == "OMP_NUM_THREADS" else named("OMP_NUM_THREADS")
    log.warning(
        "%s=%r is no number of threads, which is whole and at least 1; %d are used.",
        name,
        value,
        others or cores(),
    )


def cores() -> int:
    """The cores that this process may use: its affinity, and its container's share of time."""
    count = os.cpu_count() or 1
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on; it knows PYTHON_CPU_COUNT
        count = getattr(os, "process_cpu_count")() or count  # noqa: B009
    elif hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    return max(1, min(count, quota()))


@functools.cache
def quota(root: str = "/") -> int:
    """The cores' worth of time that Linux control groups leave this process, rounded up.

    A number beyond any machine's where there is no limit.
    """
    least = math.inf
    for folder in _groups(Path(root)):
        try:
            if (folder / "cpu.max").exists():  # version 2: "200000 100000" or "max 100000"
                most, period = (folder / "cpu.max").read_text().split()
            else:
                most = (folder / "cpu.cfs_quota_us").read_text().strip()
                period = (folder / "cpu.cfs_period_us").read_text()
            if most not in ("max", "-1"):
                least = min(least, int(most) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return 1 << 16 if least == math.inf else max(1, math.ceil(least))


def _groups(root: Path) -> list[Path]:
    """The folders of the groups that hold this process, and of those around them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            top = root / "sys/fs/cgroup" / controllers
            inner = top / path.lstrip("/")
            found += [f for f in (inner, *inner.parents) if f == top or top in f.parents]
            found.append(root / "sys/fs/cgroup/cpu" if controllers else top)
    return list(dict.fromkeys(found))
