"""Compiled C on the CPU: the instruction set, and compiled kernels."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duckkeops import cache
from duckkeops.engines import compilers, threads
from duckkeops.engines.compilers import SAFE_FLAGS, SUFFIX, Command, compiler
from duckkeops.errors import CompileError, CompilerNotFoundError

log = logging.getLogger("duckkeops")

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
    """What the processor can do, in the words of Linux."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    except OSError:
        pass
    private = getattr(getattr(np, "_core", None), "_multiarray_umath", None)
    features = getattr(private, "__cpu_features__", {})
    return _flags_of_numpy({name for name, on in features.items() if on})


def _flags_of_numpy(features: set[str]) -> set[str]:
    """The same from what NumPy found, on systems without /proc."""
    found = {name.lower() for name in features}
    if "SSE42" in features:
        found.add("sse4_2")
    if {"AVX2", "FMA3"} <= features:  # no processor has these two without bmi2
        found |= {"fma", "bmi2"}
    if "AVX512_SKX" in features:
        found |= LEVELS[0][1]
    return found


def is_available() -> bool:
    """Is there a C compiler?"""
    try:
        compiler()
    except CompilerNotFoundError:
        return False
    return True


# -- compiled kernels ------------------------------------------------------------------------------


class Compiled:
    """A compiled kernel: its functions, ready to call."""

    def __init__(self, path: Path, text: str):
        # what is short keeps Python's lock: getting it back may take longer than the call
        short, long = ctypes.PyDLL(str(path)), ctypes.CDLL(str(path))
        i64, pointer = ctypes.c_int64, ctypes.c_void_p
        self.path, self.text = path, text
        self.pace = 1.0  # its time, over what the cost model expects
        self.record_bytes = _function(short.record_bytes, i64, pointer)
        self.work_bytes = _function(short.work_bytes, i64)()
        self.pack = _function(long.pack, None, pointer, pointer)
        whole = (pointer, pointer, pointer, i64)
        self.once = _function(short.once, i64, pointer, pointer, i64, i64, i64)
        self.share = _function(long.share, i64, *whole, pointer, i64, i64, i64)


def _function(function: Any, result: Any, *arguments: Any) -> Any:
    function.argtypes, function.restype = list(arguments), result
    return function


_libraries: dict[str, Compiled] = {}


def flags(exact: bool) -> Command:
    """Of the compiler. DUCKKEOPS_CFLAGS adds to them."""
    extra = compilers.words("DUCKKEOPS_CFLAGS")
    return (*SAFE_FLAGS, CONTRACT[not exact], *target().flags, *extra)


def load(text: str, formula: str, exact: bool) -> Compiled:
    """The compiled form of a source, from memory, from the cache, or from the compiler.

    `exact`: no product and sum are fused into one rounding. Without a compiler a library serves
    that any compiler made of this source. Raises CompilerNotFoundError if there is none.
    """
    options = flags(exact)
    stem = cache.digest(text, " ".join(options), sys.platform, platform.machine(), _c_library())
    while True:
        try:
            command, version = compiler()
        except CompilerNotFoundError:
            found = _made_before(stem, text)
            if found is None:
                raise
            return found
        name = f"{stem}-{cache.digest(*command, version)[:8]}"
        try:
            if name not in _libraries:
                _libraries[name] = _load(command, options, text, formula, name)
            return _libraries[name]
        except CompileError:
            fault = compilers.fault(command, options)
            if not fault:
                raise
            compilers.give_up(command, fault)  # and try the next one


def _c_library() -> str:
    """What libraries are linked to: a home folder may serve machines with others."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        return ""


def _made_before(stem: str, text: str) -> Compiled | None:
    """The library that some compiler, now gone, made of a source."""
    if stem not in _libraries:
        for path in cache.others(stem, SUFFIX):
            try:
                _libraries[stem] = Compiled(path, text)
                break
            except OSError as error:
                log.info("%s cannot be loaded: %s", path, error)
    return _libraries.get(stem)


_place: Path | None = None  # where libraries go if they cannot be loaded from the cache


def _load(command: Command, options: Command, text: str, formula: str, name: str) -> Compiled:
    global _place

    def make(part: Path) -> None:
        log.info("compiling %s", formula)
        try:
            compilers.build(command, options, text, part)
        except CompileError as error:
            written = cache.file(f"{name}.c", lambda p: p.write_text(text))
            raise CompileError(
                f"{command[0]} refused the kernel for {formula}.\n{error}\n"
                f"  This is a bug in duckkeops. Please report it with the source, {written}"
            ) from None

    fault = None
    for _ in range(2 if _place is None else 0):
        path = cache.file(f"{name}{SUFFIX}", make)
        try:
            return Compiled(path, text)
        except OSError as error:  # just cleared, or damaged; or no programs may run from the folder
            fault = error
            if not cache.remove(path):
                break
    if fault is not None:
        log.warning(
            "compiled kernels cannot be loaded, and are built again in a temporary folder: %s",
            fault,
        )
        _place = cache.temporary_folder()
    try:
        return Compiled(cache.file(f"{name}{SUFFIX}", make, _place), text)
    except OSError as error:
        raise CompilerNotFoundError(
            f"compiled kernels cannot be loaded: {error}.\n"
            "  Set DUCKKEOPS_CACHE_DIR to a folder from which programs may run."
        ) from error


def describe() -> dict[str, Any]:
    """What this engine found: compiler, instruction set, threads."""
    command, version = compiler()
    return {
        "compiler": " ".join(command),
        "version": version,
        "isa": target().name,
        "threads": threads.thread_count(None),
    }
