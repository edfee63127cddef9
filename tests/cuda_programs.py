"""Small reductions of every kind on a CUDA device: for compute-sanitizer, which slows kernels.

    compute-sanitizer --tool memcheck --kernel-name kernel_name=reduce python tests/cuda_programs.py

Each is compared with NumPy. Exits with 1 where one is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import duckkeops
from duckkeops import BlockPairs, LazyArray

Program = Callable[[Callable], Any]


def squares(x: Any, y: Any) -> Any:
    return ((x[..., :, None, :] - y[..., None, :, :]) ** 2).sum(-1)


def softmax(s: Any) -> Any:
    if isinstance(s, LazyArray):
        return duckkeops.softmax(s, axis=-1)
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


REDUCTIONS: dict[str, Callable[[Any], Any]] = {
    "sum": lambda d: np.exp(-d).sum(axis=-1),
    "sum of columns": lambda d: np.exp(-d).sum(axis=-2),
    "min": lambda d: d.min(axis=-1),
    "argmin": lambda d: np.argmin(d, axis=-1),
    "argmax": lambda d: np.argmax(d, axis=-2),
    "mean": lambda d: d.mean(),
    "var": lambda d: np.var(d, axis=-1),
    "any": lambda d: (d < 0.01).any(axis=-1),
    "count": lambda d: np.count_nonzero(d < 1, axis=-1),
    "sort": lambda d: np.sort(d, axis=-1)[..., :5],
    "argsort": lambda d: np.argsort(d, axis=-1, stable=True)[..., :9],
    "long list": lambda d: np.sort(d, axis=-1)[..., :90],
}
FUNCTIONS: dict[str, Callable[[Any], Any]] = {  # which have short forms in float32: lane.cuh
    "logarithm": lambda d: np.log(1 + d / 100),
    "log1p": lambda d: np.log1p(d / 100),
    "cosine": lambda d: np.cos(d),
    "cosine of a logarithm": lambda d: np.cos(np.log(1 + d)),
    "exponential": lambda d: np.exp2(-d),
}
SIZES = {"odd": (131, 517), "few rows": (3, 9001), "one": (1, 1), "many rows": (2500, 65)}


def programs() -> Iterator[tuple[str, Program]]:
    rng = np.random.default_rng(0)

    def clouds(m: int, n: int, d: int, dtype: str = "f4", *batch: int) -> tuple[Any, Any]:
        made = (rng.random((*batch, k, d)) * 4 / np.sqrt(d) for k in (m, n))
        return tuple(a.astype(dtype) for a in made)  # type: ignore[return-value]

    for size, (m, n) in SIZES.items():
        for name, reduce in REDUCTIONS.items():
            if name == "long list" and n < 90:
                continue
            x, y = clouds(m, n, 3)
            yield f"{name}, {size}", lambda to, x=x, y=y, f=reduce: f(squares(to(x), to(y)))
    for dtype in ("f2", "f8"):
        for name in ("sum of columns", "argmin", "sort", "mean"):
            x, y = clouds(70, 90, 2, dtype)
            f = REDUCTIONS[name]
            yield f"{name}, {dtype}", lambda to, x=x, y=y, f=f: f(squares(to(x), to(y)))
    i, j = clouds(70, 90, 2, "i4")
    yield "sum, i4", lambda to: squares(to(i), to(j)).sum(axis=-1)
    g, h = clouds(70, 90, 2)
    for name, function in FUNCTIONS.items():
        yield name, lambda to, f=function: f(squares(to(g), to(h))).sum(axis=-1)
    for d in (1, 2, 10, 40, 70):
        x, y = clouds(300, 400, d)
        b = rng.random((400, 2)).astype("f4")
        yield (
            f"product, D={d}",
            lambda to, x=x, y=y, b=b: np.exp(-squares(to(x), to(y))) @ to.own(b),
        )
        far = 100 * rng.integers(0, 2, (300, 1)).astype("f4")
        yield (
            f"far, D={d}",
            lambda to, x=x, y=y, far=far: np.exp(-squares(to(x + far), to(y))).sum(1),
        )
    x, y = clouds(40, 50, 3, "f4", 2, 3)
    v = rng.random((2, 3, 50, 4)).astype("f4")
    yield "batches", lambda to: np.exp(-squares(to(x), to(y))) @ to.own(v)
    yield "attention", lambda to: softmax(-squares(to(x), to(y))) @ to.own(v)
    p, q = clouds(60, 70, 2)
    w = rng.random((60, 70)).astype("f4")
    yield "pairs", lambda to: (to(w, 0) * np.exp(-squares(to(p), to(q)))).sum(axis=1)
    z, t = (p[:, 0] + 1j * p[:, 1]).astype("c8"), np.ascontiguousarray(q[:, 0])
    yield "complex", lambda to: np.exp(1j * to(z, 0)[:, None] * to(t, 0)[None]).sum(axis=1)
    u, v3 = t[:9].copy(), t[:30].copy()
    yield (
        "three axes",
        lambda to: (
            (to(t, 0)[:, None, None] - to(u, 0)[None, :, None] * to(v3, 0)[None, None]) ** 2
        ).sum(axis=(1, 2)),
    )


def restricted(lazy: Callable) -> Any:
    """A block-sparse sum, and the dense one."""
    rng = np.random.default_rng(1)
    x, y = (rng.random((k, 3)).astype("f4") for k in (500, 700))
    mask = np.array([[True, False, True], [False, True, True]])
    pairs = BlockPairs(mask, rows=[0, 130, 500], columns=[0, 33, 650, 700])
    got = np.exp(-squares(lazy(x), lazy(y))).restrict(pairs).sum(axis=1)
    every = np.repeat(np.repeat(mask, [130, 370], 0), [33, 617, 50], 1)
    return got, np.where(every, np.exp(-squares(x.astype("f8"), y.astype("f8"))), 0).sum(1)


class _Lazy:
    """Virtual arrays of a library's, and arrays of its own."""

    def __init__(self, own: Callable):
        self.own = own

    def __call__(self, a: np.ndarray, features: int = 1) -> LazyArray:
        return LazyArray(self.own(a), feature_ndim=features)


class _Wide:
    """NumPy's in double precision."""

    @staticmethod
    def own(a: np.ndarray) -> np.ndarray:
        return a.astype({"f": "f8", "c": "c16"}.get(a.dtype.kind, a.dtype))

    def __call__(self, a: np.ndarray, features: int = 1) -> np.ndarray:
        return self.own(a)


def wrong(asarray: Callable, asnumpy: Callable) -> list[str]:
    """The names of the programs whose results are not those of dense float64."""

    lazy, wide = _Lazy(asarray), _Wide()
    found = [("restricted", *restricted(lazy))]
    with np.errstate(all="ignore"):
        found += [(name, program(lazy), program(wide)) for name, program in programs()]
    return [name for name, got, want in found if not _is_close(name, asnumpy(got), want)]


def _is_close(name: str, got: np.ndarray, want: np.ndarray) -> bool:
    if got.shape != np.shape(want):
        return False
    if name.startswith("arg"):  # of values that are rounded
        return bool(np.mean(got != want) < 0.02)
    tolerance = 1e-2 if name.endswith("f2") else 1e-5
    return np.allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max(initial=0))


def main() -> int:
    import cupy

    found = wrong(cupy.asarray, cupy.asnumpy)
    print(f"{1 + len(list(programs()))} programs, wrong: {', '.join(found) or 'none'}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
