"""The dense functions of KeOps's utilities, of arrays (M, D) and (N, D): what its own tests and
examples compare with. All of them allocate (M, N) numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# Of t = |x - y|**2 / s**2:


class _Radial(NamedTuple):
    value: Callable[[Any, Any], Any]
    log: Callable[[Any, Any], Any]
    slope: Callable[[Any, Any], Any]  # the derivative in t


RADIAL = {
    "gaussian": _Radial(lambda xp, t: xp.exp(-t), lambda xp, t: -t, lambda xp, t: -xp.exp(-t)),
    "laplacian": _Radial(
        lambda xp, t: xp.exp(-xp.sqrt(t)),
        lambda xp, t: -xp.sqrt(t),
        lambda xp, t: -xp.exp(-xp.sqrt(t)) / (2 * xp.sqrt(t)),
    ),
    "cauchy": _Radial(
        lambda xp, t: 1 / (1 + t), lambda xp, t: -xp.log1p(t), lambda xp, t: -1 / (1 + t) ** 2
    ),
    "inverse_multiquadric": _Radial(
        lambda xp, t: 1 / xp.sqrt(1 + t),
        lambda xp, t: -xp.log1p(t) / 2,
        lambda xp, t: -0.5 / (1 + t) ** 1.5,
    ),
}


def squared_distances(x: Any, y: Any) -> Any:
    """|x_i - y_j|**2, by differences: (M, D), (N, D) -> (M, N).

    >>> squared_distances(np.array([[0.0], [3.0]]), np.array([[1.0]]))
    array([[1.],
           [4.]])
    """
    total = 0 * x[:, :1].sum(1)[:, None] * y[:, :1].sum(1)[None, :]
    for a, b in zip(x.T, y.T, strict=True):
        total = total + (a[:, None] - b[None, :]) ** 2
    return total


def radial(name: str, part: str, x: Any, y: Any, s: Any) -> Any:
    """The value, logarithm or slope of a radial kernel at all pairs."""
    if name not in RADIAL:
        raise ValueError(f"kernel={name!r} is none of {', '.join(RADIAL)}.")
    xp = np if isinstance(x, np.ndarray) else sys.modules["torch"]
    with np.errstate(divide="ignore"):
        return getattr(RADIAL[name], part)(xp, squared_distances(x, y) / (s * s))
