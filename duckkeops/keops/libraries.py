"""The two array libraries that formulas are computed with, under the same names."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from duckkeops import LazyArray


class Library:
    """NumPy; numbers become arrays of this dtype."""

    xp: Any = np

    def __init__(self, dtype: Any = None, device: Any = None):
        self.dtype, self.device = np.dtype(np.float64) if dtype is None else dtype, device

    @property
    def numbers(self) -> Library:
        """What computes with numbers alone."""
        return Library()

    # -- arrays

    def array(self, values: Any) -> Any:
        return np.asarray(values, self.dtype)

    def numbers_of(self, values: Sequence[complex]) -> Any:
        """An array of these numbers, complex if one of them is."""
        if not any(isinstance(v, complex) for v in values):
            return self.array(values)
        parts = [[complex(v).real for v in values], [complex(v).imag for v in values]]
        return self.complex(*map(self.array, parts))

    def full(self, n: int, value: complex) -> Any:
        return self.numbers_of([value] * n)

    def counting(self, n: int) -> Any:
        return np.arange(n, dtype=self.dtype)

    def cast(self, x: Any, dtype: Any) -> Any:
        return x.astype(dtype)

    def kind(self, x: Any) -> str:
        return np.dtype(x.dtype).kind

    # -- entries

    def as_numbers(self, mask: Any, like: Sequence[Any]) -> Any:
        """A condition as 0 and 1, of the dtype of what was compared."""
        for x in like:
            if isinstance(x, LazyArray) or hasattr(x, "dtype"):
                return self.cast(mask, x.dtype)
        return float(mask)

    def is_complex(self, x: Any) -> bool:
        return hasattr(x, "dtype") and self.kind(x) == "c"

    def where(self, condition: Any, x: Any, y: Any) -> Any:
        if not (hasattr(x, "dtype") or hasattr(y, "dtype")):
            x = self.array(x)
        return self.xp.where(condition, x, y)

    def but_zero(self, function: Callable[[Any], Any], x: Any) -> Any:
        """function(x), and 0 where x is 0; the gradient there is 0, too, as in KeOps. Of pairs the
        derivative by symbols has that already; other values are computed by the library itself.
        """
        none = x == 0
        if len(x.shape) >= 3 and 1 not in x.shape[-3:-1]:
            return self.xp.where(none, 0.0, function(x))
        return self.xp.where(none, 0.0, function(self.xp.where(none, 1.0, x)))

    def root(self, x: Any) -> Any:
        """The square root, with the gradient 0 where it is 0."""
        pairs = len(x.shape) >= 3 and 1 not in x.shape[-3:-1]
        return self.xp.sqrt(x) if pairs else self.but_zero(self.xp.sqrt, x)

    def relu(self, x: Any) -> Any:
        return np.maximum(x, 0)

    def clip(self, x: Any, low: Any, high: Any) -> Any:
        return self.xp.clip(x, low, high)

    def round(self, x: Any, decimals: int = 0) -> Any:
        return np.round(x, decimals)

    # -- the last axis

    def sum(self, x: Any) -> Any:
        return x.sum(-1, keepdims=True)

    def inner(self, name: str, x: Any) -> Any:
        out = getattr(np, name)(x, axis=-1, keepdims=True)
        return self.cast(out, x.dtype) if name.startswith("arg") else out

    def concatenated(self, parts: Sequence[Any]) -> Any:
        lead = np.broadcast_shapes(*[tuple(p.shape[:-1]) for p in parts])
        whole = [self.xp.broadcast_to(p, (*lead, p.shape[-1])) for p in parts]
        return self._concatenate(whole)

    def _concatenate(self, parts: Sequence[Any]) -> Any:
        return np.concatenate(parts, axis=-1)

    def permuted(self, x: Any, axes: Sequence[int]) -> Any:
        return np.transpose(x, tuple(axes))

    def broadcast(self, x: Any, n: int) -> Any:
        return self.xp.broadcast_to(x, (*x.shape[:-1], n))

    # -- complex numbers

    def complex(self, re: Any, im: Any) -> Any:
        return re + 1j * im if hasattr(im, "dtype") else re + complex(0.0, im)

    def as_complex(self, x: Any) -> Any:
        """Complex numbers, made of pairs of real ones unless they are already."""
        if self.is_complex(x) or not hasattr(x, "dtype"):
            return x
        return self.complex(x[..., 0::2], x[..., 1::2])

    def pairs(self, z: Any) -> Any:
        """Complex numbers as pairs of real ones along the last axis, unless they are already."""
        if not self.is_complex(z):
            return z
        parts = self.xp.stack([self.real(z), self.imag(z)], -1)
        return self.xp.reshape(parts, (*z.shape[:-1], 2 * z.shape[-1]))

    def as_pairs(self, x: Any) -> Any:
        """A genuine complex array as pairs of real numbers along the last axis."""
        parts = np.stack([x.real, x.imag], -1)
        return parts.reshape(*x.shape[:-1], 2 * x.shape[-1])

    def real(self, x: Any) -> Any:
        return x.real

    def imag(self, x: Any) -> Any:
        return x.imag

    # -- results

    def least(self, x: Any, axis: int) -> Any:
        return x.min(axis)

    def greatest(self, x: Any, axis: int) -> Any:
        return x.max(axis)

    def place(self, name: str, x: Any, axis: int) -> Any:
        return getattr(x, name)(axis)

    def padded(self, x: Any, n: int, axis: int, value: Any) -> Any:
        """A genuine array with n more entries along an axis."""
        more = np.full((*x.shape[:axis], n, *x.shape[axis + 1 :]), value, x.dtype)
        return np.concatenate([x, more], axis)

    def moved(self, x: Any, source: int, to: int) -> Any:
        return np.moveaxis(x, source, to)

    def joined(self, parts: Sequence[Any]) -> Any:
        """Genuine arrays one after the other along the last axis."""
        return np.concatenate(parts, -1)

    def logarithm_plus(self, x: Any, y: Any) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.xp.log(x) + y

    def exponential_of_gap(self, x: Any, y: Any) -> Any:
        """exp(x - y), 1 where both are infinite."""
        with np.errstate(invalid="ignore"):
            return self.xp.exp(self.xp.where(x == y, 0.0, x - y))

    def connected(self, out: Any, arrays: Sequence[Any]) -> Any:
        """The result, with a gradient of 0 by those of the arrays that it does not depend on."""
        return out

    def spread(self, x: Any, shape: tuple[int, ...]) -> Any:
        """A genuine array of this shape, which may be written to."""
        return x if tuple(x.shape) == shape else np.broadcast_to(x, shape).copy()


class Torch(Library):
    """torch; numbers become tensors of this dtype on this device."""

    @property
    def xp(self) -> Any:  # type: ignore[override]
        return sys.modules["torch"]

    def array(self, values: Any) -> Any:
        return self.xp.tensor(values, dtype=self.dtype, device=self.device)

    def counting(self, n: int) -> Any:
        return self.xp.arange(n, dtype=self.dtype, device=self.device)

    def cast(self, x: Any, dtype: Any) -> Any:
        return x.to(dtype)

    def kind(self, x: Any) -> str:
        return "c" if x.dtype.is_complex else "f"

    def relu(self, x: Any) -> Any:
        return self.xp.relu(x)

    def round(self, x: Any, decimals: int = 0) -> Any:
        return self.xp.round(x, decimals=decimals)

    def sum(self, x: Any) -> Any:
        return x.sum(-1, keepdim=True)

    def inner(self, name: str, x: Any) -> Any:
        if name.startswith("arg"):
            return self.cast(getattr(self.xp, name)(x, -1, keepdim=True), x.dtype)
        return getattr(self.xp, "a" + name)(x, -1, keepdim=True)

    def _concatenate(self, parts: Sequence[Any]) -> Any:
        return self.xp.cat(list(parts), -1)

    def permuted(self, x: Any, axes: Sequence[int]) -> Any:
        return self.xp.permute(x, tuple(axes))

    def as_pairs(self, x: Any) -> Any:
        return self.xp.view_as_real(x.resolve_conj()).flatten(-2)

    def least(self, x: Any, axis: int) -> Any:
        return x.min(axis).values

    def greatest(self, x: Any, axis: int) -> Any:
        return x.max(axis).values

    def padded(self, x: Any, n: int, axis: int, value: Any) -> Any:
        more = x.new_full((*x.shape[:axis], n, *x.shape[axis + 1 :]), value)
        return self.xp.cat([x, more], axis)

    def moved(self, x: Any, source: int, to: int) -> Any:
        return self.xp.movedim(x, source, to)

    def joined(self, parts: Sequence[Any]) -> Any:
        return self.xp.cat(list(parts), -1)

    def connected(self, out: Any, arrays: Sequence[Any]) -> Any:
        if isinstance(out, tuple):
            return tuple(self.connected(part, arrays) for part in out)
        if not (out.dtype.is_floating_point or out.dtype.is_complex):
            return out
        return out + sum(a[:0].sum() for a in arrays)  # of nothing: 0, and so is its gradient

    def spread(self, x: Any, shape: tuple[int, ...]) -> Any:
        return x if tuple(x.shape) == shape else x.expand(shape).clone()


def library_of(x: Any) -> Library:
    """The library of an array, with its real dtype and its device.

    >>> library_of(np.zeros(3, np.complex64)).dtype
    dtype('float32')
    """
    if isinstance(x, np.ndarray):
        return Library(np.empty(0, x.dtype).real.dtype)
    return Torch(x.dtype.to_real(), x.device)
