"""CUDA kernels run on the host, for tests on machines without a card: g++ compiles the same source
under host_cuda.h, whose threads are fibers, and NumPy's arrays stand for a device's.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from duckkeops import cache, evaluate, launch_cuda
from duckkeops.engines import cuda

HEADER = Path(__file__).with_name("host_cuda.h")
TAIL = """
static void of_reduce(const void *a, long long first) { reduce(*(const Arguments *)a, first); }
static void of_join(const void *m, long long) { join(*(const Merging *)m); }
extern "C" void launch_reduce(unsigned grid, const void *a, long long first) {
    run_grid(of_reduce, a, first, grid, THREADS);
}
extern "C" void launch_join(unsigned grid, const void *m) {
    run_grid(of_join, m, 0, grid, THREADS);
}
"""
FLAGS = ("-std=c++20", "-O1", "-w", "-fPIC", "-shared", "-ffp-contract=off")
DEVICE = cuda.Device(0, "host", 90, 2, 1e9, 0)


class Compiled:
    """A kernel as cuda.Compiled, compiled for the host."""

    def __init__(self, text: str):
        self.text, self.device = text, DEVICE
        source = f'#include "{HEADER}"\n{text}{TAIL}'

        def make(part: Path) -> None:
            done = subprocess.run(
                ["g++", *FLAGS, "-x", "c++", "-", "-o", str(part)],
                input=source, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise AssertionError(done.stderr[:6000])

        path = cache.file(f"host-{cache.digest(source, HEADER.read_text(), *FLAGS)}.so", make)
        self._library = ctypes.CDLL(str(path))

    def reduce(self, blocks: int, threads: int, stream: int, packed: bytes, first: bytes) -> None:
        (number,) = struct.unpack("=q", first)
        self._library.launch_reduce(blocks, ctypes.c_char_p(packed), ctypes.c_longlong(number))

    @staticmethod
    def resident(threads: int) -> int:
        return 2

    def join(self, blocks: int, threads: int, stream: int, packed: bytes) -> None:
        self._library.launch_join(blocks, ctypes.c_char_p(packed))


class Memory:
    """NumPy in the place of launch_cuda.Cupy."""

    def __init__(self, number: int):
        self.number = number

    @staticmethod
    def native(dtype: np.dtype) -> np.dtype:
        return dtype

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        out = np.empty(shape, dtype)
        out.view(np.uint8)[...] = 0xA5  # what the kernel does not write is seen
        return out

    @staticmethod
    def address(array: np.ndarray) -> int:
        return array.ctypes.data

    @staticmethod
    def stream() -> int:
        return 0

    def mark(self) -> Memory:
        return self

    def synchronize(self) -> None:
        """A kernel on the host has ended when its launch returns."""

    @staticmethod
    def is_captured() -> bool:
        return False

    @staticmethod
    def contiguous(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array)

    @staticmethod
    def joined(arrays: Any) -> np.ndarray:
        return np.concatenate(tuple(arrays), -1)

    @staticmethod
    def taken(array: np.ndarray) -> np.ndarray:
        return array.copy()

    @staticmethod
    def permuted(array: np.ndarray, order: Any) -> np.ndarray:
        return array.transpose(order)


@contextlib.contextmanager
def hosted(monkeypatch: Any) -> Iterator[None]:
    """Kernels of NumPy arrays are CUDA's, run on the host."""
    with monkeypatch.context() as m:
        m.setattr(launch_cuda, "device_of", lambda array: 0)
        m.setattr(launch_cuda, "Torch", Memory)
        m.setattr(launch_cuda, "Cupy", Memory)
        m.setattr(cuda, "device", lambda number: DEVICE)
        m.setattr(cuda, "current_device", lambda: 0)
        m.setattr(cuda, "load", lambda text, formula, exact, number: Compiled(text))
        m.setattr(evaluate, "_launches", {})
        yield
