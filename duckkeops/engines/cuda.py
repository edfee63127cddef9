"""CUDA: devices, and compiled kernels. CuPy is imported when an array on a device appears.

CuPy brings the compiler (NVRTC), loads what it made and launches it. Sources include no header, so
that no CUDA toolkit is needed.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import logging
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duckkeops import cache
from duckkeops.errors import CompileError, UnsupportedError

log = logging.getLogger("duckkeops")

OLDEST = 75  # sm_75: Turing, the oldest that CUDA 13 knows
FAST = ("--ftz=true", "--prec-div=false", "--prec-sqrt=false")
EXACT = ("--fmad=false",)  # as NumPy, which rounds every product


@dataclass(frozen=True)
class Target:
    """What generated text depends on: nothing but that it is CUDA's."""

    name: str = "cuda"


TARGET = Target()


@functools.cache
def cupy() -> Any:
    """CuPy. Raises UnsupportedError where it is missing."""
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        raise UnsupportedError(
            "arrays on a CUDA device are computed on by kernels that CuPy compiles, and CuPy "
            f"cannot be imported: {error}.\n  Install it: pip install 'duckkeops[cuda]'."
        ) from error


def is_available() -> bool:
    """Are there CuPy and a device?"""
    try:
        return cupy().cuda.runtime.getDeviceCount() > 0
    except Exception as error:  # whatever a missing driver makes of it
        log.debug("no CUDA device: %s", error)
        return False


def current_device() -> int:
    """The number of this thread's current device."""
    return cupy().cuda.runtime.getDevice()


@dataclass(frozen=True)
class Device:
    """What plans depend on."""

    number: int
    name: str
    architecture: int  # 90 for sm_90
    processors: int
    clock: float  # cycles a second
    driver: int


@functools.cache
def device(number: int) -> Device:
    """One of the devices that CUDA shows. Raises UnsupportedError if it is too old."""
    runtime = cupy().cuda.runtime
    facts = runtime.getDeviceProperties(number)
    architecture = 10 * facts["major"] + facts["minor"]
    name = facts["name"].decode()
    if architecture < OLDEST:
        raise UnsupportedError(
            f"device {number}, a {name}, is of architecture sm_{architecture}; kernels are "
            f"compiled for sm_{OLDEST} and later.\n  Compute on the CPU: x.cpu(), cupy.asnumpy(x)."
        )
    clock = facts.get("clockRate") or 1_700_000
    return Device(
        number,
        name,
        architecture,
        facts["multiProcessorCount"],
        1e3 * clock,
        runtime.driverGetVersion(),
    )


# -- compiled kernels ------------------------------------------------------------------------------


def options(exact: bool, architecture: int) -> tuple[str, ...]:
    """Of the compiler."""
    return ("-std=c++17", f"-arch=sm_{architecture}", *(EXACT if exact else FAST))


def compiled(text: str, formula: str, flags: Sequence[str]) -> bytes:
    """The machine code of a source. Raises CompileError with what the compiler says."""
    nvrtc = importlib.import_module("cupy.cuda").nvrtc
    program = nvrtc.createProgram(text, "kernel.cu", [], [])
    try:
        nvrtc.compileProgram(program, list(flags))
        return nvrtc.getCUBIN(program) + b"\0"  # which CuPy takes off
    except nvrtc.NVRTCError as error:
        said = nvrtc.getProgramLog(program)
        written = cache.file(f"{cache.digest(text)}.cu", lambda p: p.write_text(text))
        raise CompileError(
            f"NVRTC refused the kernel for {formula} ({error}).\n{said}\n"
            f"  This is a bug in duckkeops. Please report it with the source, {written}"
        ) from None
    finally:
        nvrtc.destroyProgram(program)


NO_CONTEXT = 201  # CUDA_ERROR_INVALID_CONTEXT: this thread has not used the device


@functools.cache
def _launcher() -> Any:
    """The driver's cuLaunchKernel."""
    library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    size, pointer = ctypes.c_uint, ctypes.c_void_p
    library.cuLaunchKernel.argtypes = [pointer, *[size] * 7, pointer, pointer, pointer]
    return library.cuLaunchKernel


@functools.cache
def _pointers(count: int) -> Any:
    return ctypes.c_char_p * count


class Function:
    """One function of a loaded module. ctypes launches it in half of the time that CuPy takes."""

    __slots__ = ("_address", "_function", "_launch", "_number")

    def __init__(self, module: Any, name: str, number: int):
        self._function = module.get_function(name)  # which keeps the module
        self._address, self._number, self._launch = self._function.ptr, number, _launcher()

    def __call__(self, blocks: int, threads: int, stream: int, *arguments: bytes) -> None:
        """Put it onto the stream, each argument as its bytes."""
        own = self._address, blocks, 1, 1, threads, 1, 1, 0, stream
        pointers = _pointers(len(arguments))(*arguments)
        status = self._launch(*own, pointers, None)
        if status == NO_CONTEXT:
            cupy().cuda.Device(self._number).use()
            status = self._launch(*own, pointers, None)
        if status:
            raise importlib.import_module("cupy.cuda").driver.CUDADriverError(status)

    def resident(self, threads: int) -> int:
        """How many blocks of so many threads one processor runs at a time."""
        driver = importlib.import_module("cupy.cuda").driver
        with cupy().cuda.Device(self._number):
            count = driver.occupancyMaxActiveBlocksPerMultiprocessor(self._address, threads, 0)
        return max(1, count)


class Compiled:
    """A compiled kernel on one device: its functions, ready to launch."""

    def __init__(self, cubin: bytes, text: str, where: Device):
        self.text, self.device = text, where
        self.pace = 1.0  # its time, over what the cost model expects
        function = importlib.import_module("cupy.cuda.function")
        with cupy().cuda.Device(where.number):
            self._module = function.Module()
            self._module.load(cubin)
        self.reduce, self.join = (
            Function(self._module, name, where.number) for name in ("reduce", "join")
        )
        self.resident = self.reduce.resident


_compiled: dict[tuple[str, int], Compiled] = {}
_lock = threading.Lock()


def load(text: str, formula: str, exact: bool, number: int) -> Compiled:
    """The compiled form of a source on a device: from memory, from the cache, or from NVRTC."""
    where = device(number)
    flags = options(exact, where.architecture)
    name = cache.digest(text, " ".join(flags), str(_compiler()))
    with _lock:
        if (name, number) not in _compiled:

            def make(part: Path) -> None:
                log.info("compiling %s for sm_%d", formula, where.architecture)
                part.write_bytes(compiled(text, formula, flags))

            cubin = cache.data(f"{name}-sm{where.architecture}-{where.driver}.cubin", make)
            _compiled[name, number] = Compiled(cubin, text, where)
        return _compiled[name, number]


@functools.cache
def _compiler() -> tuple[int, int]:
    return importlib.import_module("cupy.cuda").nvrtc.getVersion()
