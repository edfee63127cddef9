"""KeOps's names over NumPy arrays."""

from __future__ import annotations

import importlib
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
from duckkeops.keops.lazytensor import (
    ComplexGenericLazyTensor,
    GenericLazyTensor,
    holds_complex,
    variable_makers,
)
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

    @staticmethod
    def _library(x: Any) -> Library:
        return Library() if x is None else library_of(x)

    def _class(self, is_complex: bool) -> Any:
        return ComplexLazyTensor if is_complex else LazyTensor


class LazyTensor(_Mixin, GenericLazyTensor):  # type: ignore[misc]
    """A formula of NumPy arrays' rows i and j, as KeOps writes it: axes (..., M, N, D)."""

    def __new__(cls, x: Any = None, axis: int | None = None, is_complex: bool = False) -> Any:
        if cls is LazyTensor and (is_complex or holds_complex(x, cls._is_array)):
            return ComplexLazyTensor(x, axis)
        return object.__new__(cls)

    def __init__(self, x: Any = None, axis: int | None = None, is_complex: bool = False):
        super().__init__(x, axis)


class ComplexLazyTensor(_Mixin, ComplexGenericLazyTensor):  # type: ignore[misc]
    """A formula of complex numbers."""


Var, Vi, Vj, Pm = variable_makers(LazyTensor)


def __getattr__(name: str) -> Any:
    if name in ("cluster", "operations", "utils"):  # imported when first looked at
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
