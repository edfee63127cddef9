"""Gradients with torch on the CPU: ours, pykeops, and torch's own dense code in chunks, in one run.

    python benchmarks/torch_cpu.py [--rows NAME ...] [--size 10000] [--rounds 5] [--dtype float32]
        [--overhead] [--save NAME]

Each row is a value and its gradient with respect to all its inputs: points x and y, weights b and a
scale s. All libraries run in this process on one thread, in rounds A B C A B C ...; times are
medians of the process's CPU time. Each is first checked against dense float64 on 300 points. The
dense code takes rows of x in chunks of 64 MiB of pairs, and a backward pass for each chunk, as one
writes it where the whole does not fit.

--overhead measures 10 x 10 points instead, built and called, forward and backward: microseconds,
best of a hundred batches of thirty, taken in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

THREADS = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "DUCKKEOPS")}
if any(os.environ.get(k) != v for k, v in THREADS.items()):  # read when libraries are loaded
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | THREADS)

import interleave  # noqa: E402
import torch  # noqa: E402

import duckkeops  # noqa: E402

CHUNK = 64 << 20  # bytes of one M x N array of a chunk
Leaves = tuple[torch.Tensor, ...]


def squares(x: Any, y: Any) -> Any:
    return ((x - y) ** 2).sum(-1)


def gaussian(x: Any, y: Any, s: Any) -> Any:
    return (-squares(x, y) / (2 * s**2)).exp()


def laplacian(x: Any, y: Any, s: Any) -> Any:
    return (-(squares(x, y) + 1e-6).sqrt() / s).exp()


def cauchy(x: Any, y: Any, s: Any) -> Any:
    return 1 / (1 + squares(x, y) / s**2)


def scores(x: Any, y: Any, s: Any) -> Any:
    return -squares(x, y) / s


def product(K: Any, b: torch.Tensor) -> torch.Tensor:
    return K @ b


def lse(S: Any, b: torch.Tensor) -> torch.Tensor:
    return S.logsumexp(1).reshape(-1, 1) + 0 * b.sum()


def attention(S: Any, b: torch.Tensor) -> torch.Tensor:
    return torch.softmax(S, 1) @ b


def nearest(D: Any, b: torch.Tensor) -> torch.Tensor:
    return torch.min(D, 1).values.reshape(-1, 1) + 0 * b.sum()


ROWS: dict[str, tuple[Callable, Callable, int, int]] = {  # formula, reduction, D, E
    "gaussian D=1": (gaussian, product, 1, 1),
    "gaussian D=3": (gaussian, product, 3, 1),
    "gaussian D=10": (gaussian, product, 10, 1),
    "gaussian D=64": (gaussian, product, 64, 1),
    "gaussian D=3 E=16": (gaussian, product, 3, 16),
    "laplacian D=3": (laplacian, product, 3, 1),
    "cauchy D=3": (cauchy, product, 3, 1),
    "logsumexp D=3": (scores, lse, 3, 1),
    "softmax D=3 E=3": (scores, attention, 3, 3),
    "nearest D=3": (squares, nearest, 3, 1),
}


def inputs(size: int, dim: int, outputs: int, dtype: torch.dtype) -> Leaves:
    g = torch.Generator().manual_seed(0)
    x, y, b = (
        torch.rand(n, generator=g, dtype=torch.float64)
        for n in ((size, dim), (size, dim), (size, outputs))
    )
    s = torch.tensor(0.5 * dim**0.5, dtype=torch.float64)
    return tuple(t.to(dtype).requires_grad_() for t in (x, y, b, s))


def formula_of(row: str, x: Any, y: Any, s: Any) -> Any:
    f = ROWS[row][0]
    return f(x, y) if f is squares else f(x, y, s)


# -- the libraries: (row, leaves) -> gradients of the sum of squares of the value ------------------


def ours(row: str, leaves: Leaves) -> Leaves:
    x, y, b, s = leaves
    lazy = formula_of(
        row, duckkeops.LazyArray(x)[:, None, :], duckkeops.LazyArray(y)[None, :, :], s
    )
    return gradients(ROWS[row][1](lazy, b), leaves)


def gradients(value: torch.Tensor, leaves: Leaves) -> Leaves:
    wanted = [t for t in leaves if t.requires_grad]
    return torch.autograd.grad((value**2).sum(), wanted, allow_unused=True, materialize_grads=True)


def dense(row: str, leaves: Leaves) -> Leaves:
    x, y, b, s = leaves
    rows = max(CHUNK // (len(y) * x.shape[1] * x.element_size()), 1)
    total = [torch.zeros_like(t) for t in leaves if t.requires_grad]
    for start in range(0, len(x), rows):
        part = x[start : start + rows]
        value = ROWS[row][1](formula_of(row, part[:, None, :], y[None, :, :], s), b)
        for sum_, g in zip(total, gradients(value, leaves), strict=True):
            sum_ += g
    return tuple(total)


def keops(row: str, leaves: Leaves) -> Leaves:
    from pykeops.torch import LazyTensor

    x, y, b, s = leaves
    reduce = ROWS[row][1]
    scale = LazyTensor(s.reshape(1, 1, 1))
    lazy = formula_of(row, LazyTensor(x[:, None, :]), LazyTensor(y[None, :, :]), scale)
    if reduce is lse:
        value = lazy.logsumexp(dim=1) + 0 * b.sum()
    elif reduce is attention:
        value = lazy.sumsoftmaxweight(LazyTensor(b[None, :, :]), dim=1)
    else:
        value = lazy @ b
    return gradients(value, leaves)


def libraries(rows: list[str]) -> dict[str, Callable]:
    found: dict[str, Callable] = {"duckkeops": ours}
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints on import
            import pykeops

            pykeops.set_verbose(False)
        found["pykeops"] = keops
    except ImportError:
        print("pykeops is not installed: pip install pykeops==2.3\n")
    return found | {"torch, dense in chunks": dense}


NOT_THERE = {("pykeops", "nearest D=3"): "no gradient of min"}


def check(call: Callable, row: str, dtype: torch.dtype) -> float:
    """The largest error of a gradient, relative to its scale, on 300 points."""
    dim, outputs = ROWS[row][2:]
    right = dense(row, inputs(300, dim, outputs, torch.float64))
    found = call(row, inputs(300, dim, outputs, dtype))
    return max(
        ((a.double() - b).abs().max() / b.abs().max().clamp_min(1e-30)).item()
        for a, b in zip(found, right, strict=True)
        if b.abs().max() > 0
    )


def measure(row: str, size: int, rounds: int, dtype: torch.dtype, calls: dict) -> dict[str, Any]:
    leaves = inputs(size, *ROWS[row][2:], dtype)
    times: dict[str, list[float]] = {name: [] for name in calls}
    out: dict[str, Any] = {"row": row, "size": size, "dtype": str(dtype)}
    for name, call in list(calls.items()):
        if (name, row) in NOT_THERE:
            del times[name]
            out[name] = {"absent": NOT_THERE[name, row]}
            continue
        error = check(call, row, dtype)
        out[name] = {"error": error}
        if not error < (1e-3 if dtype is torch.float32 else 1e-9):
            del times[name]
            out[name]["absent"] = f"wrong by {error:.1g}"
    for _ in range(rounds):
        for name in times:
            start = time.process_time()
            calls[name](row, leaves)
            times[name].append(time.process_time() - start)
    for name, seconds in times.items():
        out[name]["seconds"] = statistics.median(seconds)
    return out


def table(results: list[dict[str, Any]], names: list[str]) -> str:
    lines = ["| row | " + " | ".join(names) + " |", "| --- |" + " --: |" * len(names)]
    for r in results:
        mine = r[names[0]].get("seconds")
        cells = []
        for n in names:
            seconds = r[n].get("seconds")
            if seconds is None:
                cells.append(r[n]["absent"])
            else:
                ratio = "" if n == names[0] or not mine else f" ({seconds / mine:.3g}x)"
                cells.append(f"{seconds * 1e3:.4g} ms{ratio}")
        lines.append(f"| {r['row']} {r['dtype'].partition('.')[2]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


PLAIN = "x, of the sum of exp(-|x - y|^2) @ b"


def plain(library: str) -> Callable:
    """The shortest program with a gradient: no scale, and a sum to differentiate."""

    def product(x: Any, y: Any, b: torch.Tensor) -> Any:
        return (-((x - y) ** 2).sum(-1)).exp() @ b

    def call(x: torch.Tensor, y: torch.Tensor, b: torch.Tensor) -> Any:
        xi: Any = duckkeops.LazyArray(x) if library == "duckkeops" else x
        yj: Any = duckkeops.LazyArray(y) if library == "duckkeops" else y
        xi, yj = xi[:, None, :], yj[None, :, :]
        if library == "pykeops":
            from pykeops.torch import LazyTensor

            xi, yj = LazyTensor(xi), LazyTensor(yj)
        return torch.autograd.grad(product(xi, yj, b).sum(), x)

    return call


def overhead(calls: dict[str, Callable], batches: int = 100) -> dict[tuple[str, str], float]:
    """Best microseconds of one forward and backward pass of 10 x 10 points."""
    count = 30
    best: dict[tuple[str, str], float] = {}
    for wanted in (PLAIN, "x", "x, y, b, s"):
        leaves = inputs(10, 3, 1, torch.float32)
        if wanted != "x, y, b, s":
            leaves = (leaves[0], *(t.detach() for t in leaves[1:]))
        for n in range(batches):
            for name, general in calls.items():
                call: Callable
                if wanted == PLAIN:
                    call = functools.partial(plain(name), *leaves[:3])
                else:
                    call = functools.partial(general, "gaussian D=3", leaves)
                for _ in range(20 if n == 0 else 3):  # the others' code and data were in the caches
                    call()
                start = time.process_time()
                for _ in range(count):
                    call()
                us = 1e6 * (time.process_time() - start) / count
                best[name, wanted] = min(best.get((name, wanted), us), us)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--size", type=int, default=10000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", nargs="+", default=["float32", "float64"])
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--save", metavar="NAME")
    options = parser.parse_args()
    torch.set_num_threads(1)
    calls = libraries(options.rows)
    if options.overhead:
        for (name, wanted), us in overhead(calls).items():
            print(f"{name:24} {us:8.1f} us, built, called, gradient in {wanted}")
        return
    results = []
    for dtype in options.dtype:
        for row in options.rows:
            r = measure(row, options.size, options.rounds, getattr(torch, dtype), calls)
            results.append(r)
            print(table([r], list(calls)).splitlines()[-1], flush=True)
    text = table(results, list(calls))
    if options.save:
        about = interleave.machine(1, ["torch", "pykeops"])
        head = (
            f"`{' '.join(['python', 'benchmarks/torch_cpu.py', *sys.argv[1:]])}`\n\n"
            f"{about['cores']} x {about['cpu']}, 1 thread, commit {about['commit']}; "
            + ", ".join(f"{k} {v}" for k, v in about["versions"].items())
            + f". M = N = {options.size}, CPU time of value and gradients in x, y, b, s, medians "
            f"of {options.rounds} interleaved rounds.\n\n"
        )
        interleave.save(options.save, about, results, head + text + "\n")
    else:
        print("\n" + text)


if __name__ == "__main__":
    main()
