"""pykeops.torch.utils: dense functions to compare with, and the names of torch's functions that
KeOps uses.
"""

from __future__ import annotations

from typing import Any

import torch

from duckkeops.keops import dense
from duckkeops.keops.clusters import swap_axes
from duckkeops.keops.dense import squared_distances
from duckkeops.keops.genred import Genred, KernelSolve

__all__ = ["is_on_device", "squared_distances", "torch_kernel", "torchtools"]


def is_on_device(x: Any) -> bool:
    """Is a tensor on a CUDA device?"""
    return x.is_cuda


def torch_kernel(x: Any, y: Any, s: Any, kernel: str) -> Any:
    """A kernel of |x_i - y_j| / s: (M, D), (N, D) -> (M, N).

    kernel is "gaussian", exp(-t**2), "laplacian", exp(-t), "cauchy", 1 / (1 + t**2), or
    "inverse_multiquadric", its square root. Raises ValueError for others.
    """
    return dense.radial(kernel, "value", x, y, s)


class torchtools:
    """torch's functions, by the names that numpytools and torchtools have in common."""

    Genred, KernelSolve, swap_axes = Genred, KernelSolve, staticmethod(swap_axes)
    arraytype, float_types = torch.Tensor, [float]
    copy = staticmethod(torch.clone)
    eq = staticmethod(torch.eq)
    exp = staticmethod(torch.exp)
    log = staticmethod(torch.log)
    norm = staticmethod(torch.linalg.norm)
    solve = staticmethod(torch.linalg.solve)
    contiguous = staticmethod(torch.Tensor.contiguous)
    transpose = staticmethod(torch.t)
    tile = staticmethod(torch.Tensor.repeat)
    is_tensor = staticmethod(torch.is_tensor)
    long = staticmethod(torch.Tensor.long)
    size = staticmethod(torch.numel)

    @staticmethod
    def arraysum(x: Any, axis: int | None = None) -> Any:
        return x.sum() if axis is None else x.sum(axis)

    @staticmethod
    def permute(x: Any, *axes: int) -> Any:
        return x.permute(*axes)

    @staticmethod
    def numpy(x: Any) -> Any:
        return x.detach().cpu().numpy()

    @staticmethod
    def view(x: Any, shape: Any) -> Any:
        return x.view(shape)

    @staticmethod
    def dtype(x: Any) -> Any:
        return x.dtype if hasattr(x, "dtype") else type(x)

    @staticmethod
    def dtypename(dtype: Any) -> str:
        return str(dtype).removeprefix("torch.")

    @staticmethod
    def device(x: Any) -> Any:
        return x.device if isinstance(x, torch.Tensor) else None

    @staticmethod
    def detect_complex(x: Any) -> bool:
        if isinstance(x, torch.Tensor):
            return x.is_complex()
        return any(isinstance(v, complex) for v in (x if isinstance(x, list) else [x]))

    @staticmethod
    def view_as_complex(x: Any) -> Any:
        """(..., 2 D) real -> (..., D) complex."""
        return torch.view_as_complex(x.unflatten(-1, (-1, 2)))

    @staticmethod
    def view_as_real(x: Any) -> Any:
        """(..., D) complex -> (..., 2 D) real."""
        return torch.view_as_real(x).flatten(-2)

    @staticmethod
    def rand(m: int, n: int, dtype: Any, device: Any = None) -> Any:
        return torch.rand(m, n, dtype=dtype, device=device)

    @staticmethod
    def randn(m: int, n: int, dtype: Any, device: Any = None) -> Any:
        return torch.randn(m, n, dtype=dtype, device=device)

    @staticmethod
    def zeros(shape: Any, dtype: Any, device: Any = None, requires_grad: bool = False) -> Any:
        return torch.zeros(shape, dtype=dtype, device=device, requires_grad=requires_grad)

    @staticmethod
    def empty(shape: Any, dtype: Any, device: Any = None, requires_grad: bool = False) -> Any:
        return torch.empty(shape, dtype=dtype, device=device, requires_grad=requires_grad)

    @staticmethod
    def eye(n: int, dtype: Any, device: Any = None) -> Any:
        return torch.eye(n, dtype=dtype, device=device)

    @staticmethod
    def array(x: Any, dtype: Any, device: Any = None) -> Any:
        """A tensor; the dtype is torch's, or its name."""
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        return torch.tensor(x, dtype=dtype, device=device)
