"""Ours beside pykeops on the CPU, in one run: Gaussian matrix-vector product and nearest neighbour.

    python benchmarks/cpu.py [--size 10000] [--dims 3 10] [--dtype float32] [--threads 2] [--rounds
    5] [--json FILE]

Rounds are interleaved (ours, pykeops, ours, ...), after one unmeasured call each, which compiles. A
round repeats its call until 0.2 s have passed. Reported are medians over the rounds: wall time of
one call, CPU time (user and system, all threads), pairs in each second of CPU time, and how many
times more CPU time and wall time pykeops takes. The error is that of 500 rows against float64: for
sums the largest, relative to the largest entry; for argmin the number of rows whose index is
another one.
"""

import argparse
import contextlib
import functools
import importlib.metadata
import io
import json
import os
import platform
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def gaussian(lazy, x, y, b):
    """sum over j of exp(-|x_i - y_j|**2 / (2 s**2)) b_j, with s**2 = D / 12, the variance of
    x_i.
    """
    D_ij = ((lazy(x[:, None, :]) - lazy(y[None, :, :])) ** 2).sum(-1)
    return (-D_ij * (6 / x.shape[1])).exp() @ b


def argmin(lazy, x, y, b):
    """The index of the nearest y_j."""
    return ((lazy(x[:, None, :]) - lazy(y[None, :, :])) ** 2).sum(-1).argmin(axis=1)


def gaussian_error(np, out, x, y, b):
    rows = np.linspace(0, len(x) - 1, min(500, len(x))).astype(int)
    x, y = x[rows].astype(np.float64), y.astype(np.float64)
    dense = np.stack(
        [np.exp(-((r - y) ** 2).sum(-1) * (6 / x.shape[1])) @ b.astype(np.float64) for r in x]
    )
    return float(np.abs(out[rows].reshape(dense.shape) - dense).max() / np.abs(dense).max())


def argmin_error(np, out, x, y, b):
    rows = np.linspace(0, len(x) - 1, min(500, len(x))).astype(int)
    y = y.astype(np.float64)
    dense = np.array([((r - y) ** 2).sum(-1).argmin() for r in x[rows].astype(np.float64)])
    return int((out[rows].reshape(-1) != dense).sum())


TASKS = {"gaussian": (gaussian, gaussian_error), "argmin": (argmin, argmin_error)}


def peers():
    """Name and array wrapper of each library that is installed."""
    import duckkeops

    found = {"duckkeops": duckkeops.LazyArray}
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints on import
            import pykeops
            from pykeops.numpy import LazyTensor

        pykeops.set_verbose(False)
        found["pykeops"] = LazyTensor
    except ImportError:
        print(
            "pykeops is not installed, so there is nothing to compare with: "
            "pip install pykeops==2.3\n"
        )
    return found


def measure(call):
    """Wall and CPU seconds of one call, from as many as take 0.2 s."""
    wall, cpu, n = time.perf_counter(), time.process_time(), 0
    while n == 0 or time.perf_counter() - wall < 0.2:
        call()
        n += 1
    return (time.perf_counter() - wall) / n, (time.process_time() - cpu) / n


def machine(threads):
    """What the figures depend on, as a dict."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(
            (line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu
        )
    versions = {}
    for name in ("duckkeops", "numpy", "pykeops"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": threads,
        "load": load,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


def run(size, dims, dtype, threads, rounds):
    """One dict for each task, dimension and library."""
    import numpy as np

    import duckkeops

    libraries = peers()
    rows = []
    for task, (function, error) in TASKS.items():
        for dim in dims:
            rng = np.random.default_rng(dim)
            x, y = rng.random((2, size, dim)).astype(dtype)
            b = rng.standard_normal((size, 1)).astype(dtype)
            calls = {
                name: functools.partial(function, lazy, x, y, b) for name, lazy in libraries.items()
            }
            with duckkeops.config(threads=threads):
                errors = {
                    name: error(np, np.asarray(call()), x, y, b) for name, call in calls.items()
                }
                times = {name: [] for name in calls}
                for _ in range(rounds):
                    for name, call in calls.items():
                        times[name].append(measure(call))
            for name, pairs in times.items():
                wall, cpu = (float(np.median(column)) for column in zip(*pairs, strict=True))
                cost = {"wall_s": wall, "cpu_s": cpu, "rounds": pairs}
                rows.append(
                    {"task": task, "dim": dim, "library": name, "error": errors[name], **cost}
                )
    return rows


def table(rows, size):
    """The rows as text; the ratios compare with ours."""
    ours = {(r["task"], r["dim"]): r for r in rows if r["library"] == "duckkeops"}
    names = ("wall ms", "CPU ms", "Gpairs/s", "CPU ratio", "wall ratio", "error")
    lines = [f"{'task':10}{'D':>4} {'library':11}" + "".join(f"{name:>11}" for name in names)]
    lines.append("-" * len(lines[0]))
    for r in rows:
        us = ours[r["task"], r["dim"]]
        cells = (
            f"{1e3 * r['wall_s']:.2f}",
            f"{1e3 * r['cpu_s']:.2f}",
            f"{size**2 / r['cpu_s'] / 1e9:.3f}",
            f"{r['cpu_s'] / us['cpu_s']:.1f}",
            f"{r['wall_s'] / us['wall_s']:.1f}",
            f"{r['error']:.0e}" if r["task"] == "gaussian" else f"{r['error']} of 500",
        )
        lines.append(
            f"{r['task']:10}{r['dim']:4} {r['library']:11}"
            + "".join(f"{cell:>11}" for cell in cells)
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=10_000, help="rows of x and of y")
    parser.add_argument("--dims", type=int, nargs="+", default=[3, 10], help="features of a row")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for every library")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--json",
        nargs="?",
        const=RESULTS / "cpu.json",
        type=Path,
        help=f"default {RESULTS}/cpu.json",
    )
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(
        args.threads
    )  # read when OpenMP and OpenBLAS are loaded, so before any import

    about = machine(args.threads)
    print("  ".join(f"{k}: {v}" for k, v in about.items()))
    print(f"M = N = {args.size}, {args.dtype}, median of {args.rounds} interleaved rounds\n")
    rows = run(args.size, args.dims, args.dtype, args.threads, args.rounds)
    print(table(rows, args.size))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(
            json.dumps(
                {"machine": about, "size": args.size, "dtype": args.dtype, "rows": rows}, indent=1
            )
            + "\n"
        )
        print(f"\nwrote {args.json}")


if __name__ == "__main__":
    sys.exit(main())
