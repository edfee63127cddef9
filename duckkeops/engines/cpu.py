"""Compiled C on the CPU: find a compiler, compile, load, and run on threads.

One kernel function works on a range of row blocks, so threads need no locks; ctypes releases the
GIL. No OpenMP: its runtime hangs after fork, and would come beside those of torch and scikit-learn.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import itertools
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duckkeops import plan, source
from duckkeops.errors import CompileError, CompilerNotFoundError

log = logging.getLogger("duckkeops")

SAFE_FLAGS = ("-O2", "-fwrapv", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-w")
CONTRACT = (
    "-ffp-contract=off",
    "-ffp-contract=fast",
)  # precision="exact" rounds every product, as NumPy does


@dataclass(frozen=True)
class Target:
    """An instruction set: flags for the compiler, bytes and number of vector registers."""

    name: str
    flags: tuple[str, ...]
    vector_bytes: int
    registers: int


LEVELS = (
    (
        "x86-64-v4",
        {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx2", "fma", "bmi2"},
        (
            "-mavx512f",
            "-mavx512bw",
            "-mavx512cd",
            "-mavx512dq",
            "-mavx512vl",
            "-mfma",
            "-mbmi2",
            "-mf16c",
        ),
        64,
        32,
    ),
    ("x86-64-v3", {"avx2", "fma", "bmi2"}, ("-mavx2", "-mfma", "-mbmi2", "-mf16c"), 32, 16),
    ("x86-64-v2", {"sse4_2"}, ("-msse4.2", "-mpopcnt"), 16, 16),
    ("x86-64", set(), (), 16, 16),
)


@functools.cache
def target() -> Target:
    """The best instruction set of this processor; DUCKKEOPS_ISA names a lower one."""
    wanted = os.environ.get("DUCKKEOPS_ISA")
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return Target(platform.machine(), (), 16, 32)
    have = _cpu_flags()
    for name, needs, flags, size, registers in LEVELS:
        if needs <= have and wanted in (None, name):
            return Target(name, flags, size, registers)
    known = ", ".join(level[0] for level in LEVELS if level[1] <= have)
    raise ValueError(f"DUCKKEOPS_ISA={wanted} is not one that this processor has: {known}.")


def _cpu_flags() -> set[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    except OSError:
        pass
    if sys.platform == "darwin":
        text = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.features", "machdep.cpu.leaf7_features"],
            capture_output=True,
            text=True,
        ).stdout
        return set(text.lower().replace(".", "_").split())
    return set()


_broken: dict[
    tuple[str, ...], str
] = {}  # compilers that answer but cannot build anything, and what they say


def compiler() -> tuple[tuple[str, ...], str]:
    """The C compiler's command and what it says it is. Raises CompilerNotFoundError."""
    found = _search()
    if isinstance(found, str):
        raise CompilerNotFoundError(found)
    return found


@functools.cache
def _search() -> tuple[tuple[str, ...], str] | str:
    """The first compiler that works, or why there is none."""
    tried = []
    for command in _candidates():
        name = " ".join(command)
        why = _broken.get(command, "it is not there" if shutil.which(command[0]) is None else "")
        if not why:
            try:
                answer = subprocess.run(
                    [*command, "--version"], capture_output=True, text=True, timeout=60
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                why = str(error)
            else:
                if answer.returncode == 0:
                    return command, answer.stdout.splitlines()[0] if answer.stdout else name
                why = f"it failed: {answer.stderr.strip()[:200] or answer.returncode}"
        tried.append(name)
        if name == os.environ.get("DUCKKEOPS_CC", "").strip():
            log.warning("DUCKKEOPS_CC=%s is not used: %s", name, why)
    return (
        f"no working C compiler was found (tried {', '.join(dict.fromkeys(tried))}).\n"
        + "".join(f"  {' '.join(c)}: {why}\n" for c, why in _broken.items())
        + "  Install gcc or clang, or pip install 'duckkeops[cc]', or set DUCKKEOPS_CC; "
        "config(engine='blocks') needs none."
    )


def _candidates() -> list[tuple[str, ...]]:
    named = [_words(os.environ[v]) for v in ("DUCKKEOPS_CC", "CC") if os.environ.get(v, "").strip()]
    known: list[tuple[str, ...]] = [("gcc",), ("clang",), ("cc",)]
    if importlib.util.find_spec("ziglang") is not None:
        known.append((sys.executable, "-m", "ziglang", "cc"))
    return [*named, *known]


def _words(command: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError:  # an open quotation
        return (command,)


def is_available() -> bool:
    try:
        compiler()
    except CompilerNotFoundError:
        return False
    return True


# -- compiled kernels ------------------------------------------------------------------------------


class Compiled:
    """A compiled kernel: its functions, ready to call."""

    def __init__(self, path: Path, text: str):
        library = ctypes.CDLL(str(path))
        i64, pointer = ctypes.c_int64, ctypes.c_void_p
        self.path, self.text = path, text
        self.record_bytes = library.record_bytes
        self.record_bytes.argtypes, self.record_bytes.restype = [pointer], i64
        library.work_bytes.argtypes, library.work_bytes.restype = [], i64
        self.work_bytes = library.work_bytes()
        self.pack = library.pack
        self.pack.argtypes, self.pack.restype = [pointer, pointer], None
        self.reduce = library.reduce
        self.reduce.argtypes, self.reduce.restype = [pointer, pointer, pointer, i64, i64, i64], None


_libraries: dict[str, Compiled] = {}


def load(text: str, formula: str, exact: bool) -> Compiled:
    """The compiled form of a source, from memory, from the cache, or from the compiler.

    `exact`: no product and sum are fused into one rounding.
    """
    while True:
        command, version = compiler()
        try:
            return _load(
                command, version, (*SAFE_FLAGS, CONTRACT[not exact], *target().flags), text, formula
            )
        except CompileError:
            why = _fault(command)
            if not why:
                raise
            _broken[command] = why  # try the next one
            _search.cache_clear()


def _load(
    command: tuple[str, ...], version: str, flags: tuple[str, ...], text: str, formula: str
) -> Compiled:
    name = source.digest(
        text, " ".join(command), version, " ".join(flags), sys.platform, platform.machine()
    )
    if name not in _libraries:

        def make(part: Path) -> None:
            _compile(command, flags, text, formula, name, part)

        try:
            _libraries[name] = Compiled(source.cached(f"{name}.so", make), text)
        except OSError as error:  # the folder may hold no programs (noexec)
            if not source.temporary_folder.cache_info().currsize:
                log.warning(
                    "compiled kernels cannot be loaded, "
                    "and are built again in a temporary folder: %s",
                    error,
                )
            try:
                _libraries[name] = Compiled(
                    source.cached(f"{name}.so", make, source.temporary_folder()), text
                )
            except OSError as again:
                raise CompilerNotFoundError(
                    f"compiled kernels cannot be loaded: {again}.\n"
                    "  Set DUCKKEOPS_CACHE_DIR to a folder from which programs may run."
                ) from error
    return _libraries[name]


def _compile(
    command: tuple[str, ...], flags: tuple[str, ...], text: str, formula: str, name: str, part: Path
) -> None:
    written = source.cached(f"{name}.c", lambda p: p.write_text(text) and None)  # type: ignore[func-returns-value]
    log.info("compiling %s", formula)
    answer = subprocess.run(
        [*command, *flags, "-x", "c", "-o", str(part), str(written), "-lm"],
        capture_output=True,
        text=True,
    )
    if answer.returncode:
        raise CompileError(
            f"{command[0]} refused the kernel for {formula}.\n{answer.stderr[:2000]}\n"
            f"  This is a bug in duckkeops. Please report it with the source, {written}"
        )


def _fault(command: tuple[str, ...]) -> str:
    """What a compiler says that cannot build the smallest library.

    It has no headers or linker, or does not know one of the flags.
    """
    with tempfile.TemporaryDirectory(prefix="duckkeops-") as folder:
        path = Path(folder, "one.c")
        path.write_text("int one(void) { return 1; }\n")
        answer = subprocess.run(
            [
                *command,
                *SAFE_FLAGS,
                *target().flags,
                "-o",
                str(path.with_suffix(".so")),
                str(path),
                "-lm",
            ],
            capture_output=True,
            text=True,
        )
    return f"it cannot build a library: {answer.stderr.strip()[:500]}" if answer.returncode else ""


# -- threads ---------------------------------------------------------------------------------------

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
    library: Compiled,
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


def describe() -> dict[str, Any]:
    """What this engine found: compiler, instruction set, threads."""
    command, version = compiler()
    return {
        "compiler": " ".join(command),
        "version": version,
        "isa": target().name,
        "threads": thread_count(None),
    }
