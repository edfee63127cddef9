"""KeOps's names over NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from duckkeops.keops.genred import (
    Genred,
    KernelSolve,
    generic_argkmin,
    generic_argmin,
    generic_logsumexp,
    generic_sum,
)
from duckkeops.keops.lazytensor import ComplexGenericLazyTensor, GenericLazyTensor, _holds_complex
from duckkeops.keops.libraries import Library, library_of

__all__ = [
    "ComplexLazyTensor",
    "Genred",
    "KernelSolve",
    "LazyTensor",
    "Pm",
    "Vi",
    "Vj",
    "generic_argkmin",
    "generic_argmin",
    "generic_logsumexp",
    "generic_sum",
]


class _Mixin:
    @staticmethod
    def _is_array(x: Any) -> bool:
        return isinstance(x, np.ndarray)

    def _library(self, x: Any) -> Library:
        return Library() if x is None else library_of(x)

    def _class(self, is_complex: bool) -> Any:
        return ComplexLazyTensor if is_complex else LazyTensor


class LazyTensor(_Mixin, GenericLazyTensor):  # type: ignore[misc]
    """A formula of NumPy arrays' rows i and j, as KeOps writes it: axes (..., M, N, D)."""

    def __new__(cls, x: Any = None, axis: int | None = None, is_complex: bool = False) -> Any:
        if cls is LazyTensor and (is_complex or _holds_complex(x, cls._is_array)):
            return ComplexLazyTensor(x, axis)
        return object.__new__(cls)

    def __init__(self, x: Any = None, axis: int | None = None, is_complex: bool = False):
        super().__init__(x, axis)


class ComplexLazyTensor(_Mixin, ComplexGenericLazyTensor):  # type: ignore[misc]
    """A formula of complex numbers."""


def Var(x_or_ind: Any, dim: int | None = None, cat: int | None = None) -> Any:
    """A variable of data, or a symbolic one."""
    return LazyTensor(x_or_ind, axis=cat) if dim is None else LazyTensor((x_or_ind, dim, cat))


def Vi(x_or_ind: Any, dim: int | None = None) -> Any:
    """A variable of rows i: of data (M, D), or the symbolic one (ind, dim)."""
    return Var(x_or_ind, dim, 0)


def Vj(x_or_ind: Any, dim: int | None = None) -> Any:
    """A variable of rows j: of data (N, D), or the symbolic one (ind, dim)."""
    return Var(x_or_ind, dim, 1)


def Pm(x_or_ind: Any, dim: int | None = None) -> Any:
    """A parameter, the same for all pairs: of data (D,), or the symbolic one (ind, dim)."""
    return Var(x_or_ind, dim, 2)
