"""What this machine offers: versions, compilers, instruction set, threads, cache; and does a kernel
that is built here and now give the right numbers?
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

import duckkeops
from duckkeops import cache, offload
from duckkeops.engines import compilers, cpu, cuda, threads
from duckkeops.errors import UnsupportedError

REQUIRED = ("numpy", "sympy", "array-api-compat", "opt-einsum", "platformdirs")
CUPY = ("cupy-cuda12x", "cupy-cuda13x", "cupy")
NVRTC = ("nvidia-cuda-nvrtc-cu12", "nvidia-cuda-nvrtc")
OPTIONAL = ("torch", *CUPY, *NVRTC, "dask", "ziglang", "ml_dtypes")
SECONDS = 180  # for the kernel; zig's very first call takes up to 20


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was seen, and, if it is broken, what to do."""

    name: str
    seen: str
    advice: str = ""


def findings() -> Iterator[Finding]:
    """What was found, one after the other; the last takes a second or more."""
    yield Finding("duckkeops", f"{duckkeops.__version__}  {os.path.dirname(duckkeops.__file__)}")
    yield Finding(
        "Python",
        f"{platform.python_version()}  {sys.executable}  {platform.system()} {platform.machine()}",
    )
    for name in REQUIRED:
        version = _version(name)
        advice = (
            "" if version else "Install duckkeops again: pip install --force-reinstall duckkeops"
        )
        yield Finding(name, version or "not installed", advice)
    for name in OPTIONAL:
        if version := _version(name):
            yield Finding(name, version)
    isa = _instruction_set()
    yield isa
    yield _threads()
    kept = _cache()
    yield kept
    if isa.advice or kept.advice.startswith("Correct"):
        return  # every kernel would say so again
    found, taken = _compilers()
    yield from found
    if taken is not None:
        yield _kernel("kernel", "cpu")
    yield from _devices()


def _version(distribution: str) -> str:
    """Without importing it: torch alone takes a second."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _instruction_set() -> Finding:
    name = "instructions"
    try:
        target = cpu.target()
    except ValueError as error:
        return Finding(name, str(error), "Name one of these in DUCKKEOPS_ISA, or unset it.")
    named = " as DUCKKEOPS_ISA says" if os.environ.get("DUCKKEOPS_ISA") else ""
    vectors = f"vectors of {target.vector_bytes} bytes in {target.registers} registers"
    return Finding(name, f"{target.name}{named}, {vectors}")


def _threads() -> Finding:
    count, bad = threads.thread_count(None), []
    why = f"the cores that this process may use, of {os.cpu_count()}"
    for name in threads.VARIABLES:
        if threads.named(name):
            why = f"as {name} says"
            break
        if value := os.environ.get(name, "").strip():
            bad.append(f"{name}={value}")
    if not bad:
        return Finding("threads", f"{count}, {why}")
    wrong, names = " and ".join(bad), " and ".join(b.partition("=")[0] for b in bad)
    seen = f"{count}, {why}: {wrong} {'is' if len(bad) == 1 else 'are'} not a number of threads"
    return Finding("threads", seen, f"Correct or unset {names}: a whole number, at least 1.")


def _cache() -> Finding:
    wanted, into = cache.wanted_folder(), cache.folder()
    advice = "" if into == wanted else "Set DUCKKEOPS_CACHE_DIR to a folder that can be written."
    cannot = "" if into == wanted else ", which cannot be written"
    try:
        kept = cache.inventory(wanted)
        files, size = counted(len(kept), "file"), bytes_text(sum(f.size for f in kept))
        seen = f"{wanted}{cannot}: {files}, {size} of {bytes_text(cache.limit())}"
    except ValueError as error:
        seen, advice = str(error), "Correct or unset DUCKKEOPS_CACHE_SIZE."
    return Finding("cache", seen, advice)


def bytes_text(size: int) -> str:
    """A number of bytes with the unit that suits it, as DUCKKEOPS_CACHE_SIZE is written.

    >>> [bytes_text(n) for n in (0, 1, 23_400, 1_234_000, 2 * 10**9)]
    ['0 bytes', '1 byte', '23.4 kB', '1.2 MB', '2 GB']
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f}".removesuffix(".0") + f" {name}"
    return counted(size, "byte")


def counted(count: int, one: str) -> str:
    """So many of a thing.

    >>> counted(1, "file"), counted(2, "file")
    ('1 file', '2 files')
    """
    return f"{count} {one}{'' if count == 1 else 's'}"


# -- compilers -------------------------------------------------------------------------------------


def _compilers() -> tuple[list[Finding], compilers.Command | None]:
    """All that were looked for, and the one that is taken."""
    taken, found = None, []
    for command in compilers.commands():
        seen = compilers.examined(command)
        fault = seen.fault
        if not fault and (taken is None or not compilers.is_zig(command)):
            fault = compilers.fault(command, cpu.flags(exact=True))
        name = " ".join(command)
        if fault:
            named = name == os.environ.get("DUCKKEOPS_CC", "").strip()
            advice = "Correct or unset DUCKKEOPS_CC." if named else ""
            found.append(Finding("compiler", f"{name}: not used: {fault}", advice))
        elif taken is None:
            taken = command
            found.append(Finding("compiler", f"{name}: taken: {seen.version}"))
        else:
            found.append(Finding("compiler", f"{name}: would do, too: {seen.version}"))
    if taken is None:
        advice = "Install gcc or clang, or: pip install 'duckkeops[cc]'"
        if os.environ.get("DUCKKEOPS_CFLAGS"):
            advice = "Correct or unset DUCKKEOPS_CFLAGS."
        seen = "none works, so all is computed in tiles of NumPy, often 100 times slower"
        found.append(Finding("compiler", seen, advice))
    return found, taken


# -- devices ---------------------------------------------------------------------------------------


def _devices() -> Iterator[Finding]:
    """CuPy, its compiler, the devices, and a kernel on the first of them.

    A machine without a device is not broken, and a word about CuPy is said only where it may help.
    """
    if not any(map(_version, CUPY)):
        if offload.has_driver():
            remedy = "pip install 'duckkeops[cuda13]', or [cuda12] for an older driver"
            yield Finding("CUDA", f"there is a driver, and no CuPy: {remedy}")
        return
    try:
        cupy = cuda.cupy()
    except UnsupportedError as error:
        yield Finding("CUDA", str(error).partition("\n")[0], "Install CuPy again.")
        return
    try:
        major, minor = cupy.cuda.nvrtc.getVersion()
    except Exception as error:  # a library that is missing, or is none
        advice = "Install NVIDIA's compiler: pip install nvidia-cuda-nvrtc"
        yield Finding("CUDA", f"NVRTC cannot be loaded: {_first_line(error)}", advice)
        return
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # as without a driver
        yield Finding("CUDA", f"NVRTC {major}.{minor}, and no device: {_first_line(error)}")
        return
    yield Finding("CUDA", f"NVRTC {major}.{minor}, {counted(count, 'device')}")
    for number in range(count):
        try:
            one = cuda.device(number)
        except UnsupportedError as error:
            yield Finding(f"device {number}", str(error).partition("\n")[0])
            continue
        seen = f"{one.name}, sm_{one.architecture}, {one.processors} processors"
        yield Finding(f"device {number}", seen)
    if count:
        yield _kernel("CUDA kernel", "cuda")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


# -- a kernel --------------------------------------------------------------------------------------


def _kernel(name: str, engine: str) -> Finding:
    """Build and run one in a process of its own, where it may crash, with an empty cache.

    That is on the disk of the real one, from which programs may not be allowed to run.
    """
    report = "Unless it says what to do, please report this with all of the above."
    with tempfile.TemporaryDirectory(prefix=cache.PREFIX, dir=cache.folder()) as folder:
        command = [sys.executable, "-c", f"from duckkeops import doctor; doctor.smoke({engine!r})"]
        paths = [os.path.dirname(os.path.dirname(duckkeops.__file__)), os.environ.get("PYTHONPATH")]
        environment = {
            **os.environ,
            "DUCKKEOPS_CACHE_DIR": folder,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        try:
            answer = subprocess.run(
                command, capture_output=True, text=True, env=environment, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            return Finding(name, f"not built within {SECONDS} s", report)
    if answer.returncode < 0:
        crash = signal.Signals(-answer.returncode).name
        if crash == "SIGILL":
            report = "Set DUCKKEOPS_ISA=x86-64-v3 (or -v2): the processor lacks an instruction."
        return Finding(name, f"crashed: {crash}", report)
    if answer.returncode:
        return Finding(name, _last_message(answer.stderr), report)
    return Finding(name, f"{answer.stdout}{answer.stderr}".strip())


def _last_message(text: str) -> str:
    """The error alone, without the traceback above it."""
    return re.split(r"^  File .*\n(?:    .*\n)+", text, flags=re.MULTILINE)[-1].strip()


def smoke(engine: Literal["cpu", "cuda"] = "cpu") -> None:
    """Sums and nearest neighbours of two small clouds, compared with NumPy's.

    Raises SystemExit with what is wrong.

    >>> smoke()
    right: built, loaded and run
    """
    rng = np.random.default_rng(0)
    x, y = rng.random((100, 3)), rng.random((90, 3))
    dense = ((x[:, None] - y[None]) ** 2).sum(-1)
    with duckkeops.config(engine=engine):
        lazy = ((duckkeops.LazyArray(x)[:, None] - duckkeops.LazyArray(y)[None]) ** 2).sum(-1)
        sums, nearest = np.exp(-lazy).sum(axis=1), lazy.argmin(axis=1)
    worst = float(np.abs(sums / np.exp(-dense).sum(1) - 1).max())
    wrong = int((nearest != dense.argmin(1)).sum())
    if not worst < 1e-12 or wrong:
        raise SystemExit(
            f"wrong: sums are off by {worst:.1e}, and {wrong} nearest neighbours of 100"
        )
    print("right: built, loaded and run")
