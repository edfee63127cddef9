"""pykeops.numpy.utils: dense functions to compare with, and the names of NumPy's functions that
KeOps uses.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from duckkeops.keops import dense
from duckkeops.keops.clusters import swap_axes
from duckkeops.keops.dense import squared_distances
from duckkeops.keops.genred import Genred, KernelSolve

__all__ = [
    "WarmUpGpu",
    "chain_rules",
    "differences",
    "grad_np_kernel",
    "log_np_kernel",
    "log_sum_exp",
    "np_kernel",
    "np_kernel_sphere",
    "numpytools",
    "squared_distances",
]


def differences(x: Any, y: Any) -> Any:
    """x_i - y_j: (M, D), (N, D) -> (D, M, N)."""
    return x.T[:, :, None] - y.T[:, None, :]


def np_kernel(x: Any, y: Any, s: float, kernel: str) -> Any:
    """A kernel of |x_i - y_j| / s: (M, D), (N, D) -> (M, N).

    kernel is "gaussian", exp(-t**2), "laplacian", exp(-t), "cauchy", 1 / (1 + t**2), or
    "inverse_multiquadric", its square root. Raises ValueError for others.
    """
    return dense.radial(kernel, "value", x, y, s)


def log_np_kernel(x: Any, y: Any, s: float, kernel: str) -> Any:
    """The logarithm of np_kernel."""
    return dense.radial(kernel, "log", x, y, s)


def grad_np_kernel(x: Any, y: Any, s: float, kernel: str) -> Any:
    """The derivative of np_kernel in |x_i - y_j|**2."""
    return dense.radial(kernel, "slope", x, y, s) / (s * s)


def np_kernel_sphere(nalpha: Any, nbeta: Any, s: float, kernel: str) -> Any:
    """A kernel of scalar products of unit vectors: (M, D), (N, D) -> (M, N).

    kernel is "linear", "binet", "gaussian_oriented" or "gaussian_unoriented"; ValueError else.
    """
    p = nalpha @ nbeta.T
    kernels = {
        "linear": lambda: p,
        "binet": lambda: p**2,
        "gaussian_oriented": lambda: np.exp((2 * p - 2) / (s * s)),
        "gaussian_unoriented": lambda: np.exp((2 * p**2 - 2) / (s * s)),
    }
    if kernel not in kernels:
        raise ValueError(f"kernel={kernel!r} is none of {', '.join(kernels)}.")
    return kernels[kernel]()


def chain_rules(q: Any, ax: Any, by: Any, Aa: Any, p: Any) -> Any:
    """The gradient in ax of sum_ij k(|ax_i - by_j|**2) q_i.p_j, Aa being the derivatives of k:
    (M, E), (M, D), (N, D), (M, N), (N, E) -> (M, D).
    """
    pull = 2 * Aa * (q @ p.T)
    columns = [(pull * gap).sum(1) for gap in differences(ax, by)]
    return np.stack(columns, 1) if columns else np.zeros_like(ax)


def log_sum_exp(mat: Any, axis: int = 0) -> Any:
    """log(sum(exp(mat))) over an axis; minus infinity where all entries are."""
    return np.logaddexp.reduce(mat, axis=axis)


def WarmUpGpu() -> None:
    """Nothing: a kernel is loaded when it is first used, and none has to be compiled before."""


class numpytools:
    """NumPy's functions, by the names that numpytools and torchtools have in common."""

    Genred, KernelSolve, swap_axes = Genred, KernelSolve, staticmethod(swap_axes)
    arraytype, float_types = np.ndarray, [float, np.float16, np.float32, np.float64]
    copy = staticmethod(np.copy)
    eq = staticmethod(np.equal)
    exp = staticmethod(np.exp)
    log = staticmethod(np.log)
    norm = staticmethod(np.linalg.norm)
    solve = staticmethod(np.linalg.solve)
    arraysum = staticmethod(np.sum)
    contiguous = staticmethod(np.ascontiguousarray)
    transpose = staticmethod(np.transpose)
    tile = staticmethod(np.tile)
    view = staticmethod(np.reshape)
    detect_complex = staticmethod(np.iscomplexobj)

    @staticmethod
    def is_tensor(x: Any) -> bool:
        return isinstance(x, np.ndarray)

    @staticmethod
    def permute(x: Any, *axes: int) -> Any:
        return np.transpose(x, axes)

    @staticmethod
    def numpy(x: Any) -> Any:
        return x

    @staticmethod
    def size(x: Any) -> int:
        return x.size

    @staticmethod
    def long(x: Any) -> Any:
        return x.astype(np.int64)

    @staticmethod
    def dtype(x: Any) -> Any:
        return x.dtype

    @staticmethod
    def dtypename(dtype: Any) -> str:
        return np.dtype(dtype).name

    @staticmethod
    def device(x: Any) -> str:
        return "cpu"

    @staticmethod
    def view_as_complex(x: Any) -> Any:
        """(..., 2 D) real -> (..., D) complex."""
        return x.view(np.result_type(x.dtype, np.complex64))

    @staticmethod
    def view_as_real(x: Any) -> Any:
        """(..., D) complex -> (..., 2 D) real."""
        return x.view(x.real.dtype)

    @staticmethod
    def rand(m: int, n: int, dtype: Any, device: Any = None) -> Any:
        return np.random.default_rng().random((m, n)).astype(dtype)

    @staticmethod
    def randn(m: int, n: int, dtype: Any, device: Any = None) -> Any:
        return np.random.default_rng().standard_normal((m, n)).astype(dtype)

    @staticmethod
    def zeros(shape: Any, dtype: Any, device: Any = None, requires_grad: Any = None) -> Any:
        return np.zeros(shape, dtype)

    @staticmethod
    def empty(shape: Any, dtype: Any, device: Any = None, requires_grad: Any = None) -> Any:
        return np.empty(shape, dtype)

    @staticmethod
    def eye(n: int, dtype: Any, device: Any = None) -> Any:
        return np.eye(n, dtype=dtype)

    @staticmethod
    def array(x: Any, dtype: Any, device: Any = None) -> Any:
        return np.array(x, dtype)
