"""Reductions on a CUDA device: ours and pykeops on the same tensors, in one run.

    python benchmarks/gpu.py [--rows NAME ...] [--rounds 7] [--scale 1] [--save NAME] [--overhead]

Each row is a reduction over all pairs of M x N points. Both libraries run in this process, in
rounds A B A B ..., each call timed by CUDA events; a row shows medians. What ours gives for some
rows is first checked against dense float64, and so is pykeops's. `--scale 0.1` takes a tenth of the
points. --overhead times tiny calls instead, on the host: microseconds, best of seven batches.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
PRELOAD = "/usr/lib/x86_64-linux-gnu/libstdc++.so.6"  # pykeops ends with a SIGSEGV without it
if Path(PRELOAD).exists() and PRELOAD not in os.environ.get("LD_PRELOAD", ""):
    os.environ["LD_PRELOAD"] = f"{os.environ.get('LD_PRELOAD', '')} {PRELOAD}".strip()
    os.execv(sys.executable, [sys.executable, *sys.argv])

import torch  # noqa: E402

from duckkeops import LazyArray  # noqa: E402

CHECKED = 64  # rows that are compared with dense float64


def squares(x: Any, y: Any) -> Any:
    return ((x - y) ** 2).sum(-1)


def exp(u: Any) -> Any:
    return u.exp()


def cosine(x: Any, y: Any) -> Any:
    return (x * y).sum(-1) / ((x**2).sum(-1) * (y**2).sum(-1)).sqrt()


def lennard_jones(x: Any, y: Any) -> Any:
    s = (squares(x, y) + 0.1) ** -3
    return s * s - s


def wendland(x: Any, y: Any) -> Any:
    r = (squares(x, y) + 1e-12).sqrt()
    return (1 - r).relu() ** 4 * (4 * r + 1)


def matern(x: Any, y: Any) -> Any:
    r = (5 * (squares(x, y) + 1e-12)).sqrt()
    return (1 + r + r * r / 3) * (-r).exp()


FORMULAS: dict[str, Callable] = {
    "Gaussian": lambda x, y: exp(-squares(x, y)),
    "Matern-5/2": matern,
    "Laplacian": lambda x, y: exp(-((squares(x, y) + 1e-12).sqrt())),
    "Cauchy": lambda x, y: 1 / (1 + squares(x, y)),
    "Coulomb": lambda x, y: (squares(x, y) + 1e-2).rsqrt(),
    "L1": lambda x, y: exp(-(abs(x - y).sum(-1))),
    "cosine": cosine,
    "Lennard-Jones": lennard_jones,
    "Wendland": wendland,
    "distance": squares,
    "tour": lambda x, y: (x * y).sum(-1).relu() - 2 * (squares(x, y) + 1).log().cos(),
}


@dataclass(frozen=True)
class Row:
    """A reduction of a formula: its points, and how many times pykeops's speed it should have."""

    formula: str
    how: str  # matvec, argmin, logsumexp, top10, gradient
    m: int
    n: int
    features: int
    outputs: int = 1
    dtype: str = "float32"
    target: float = 1.5
    least: float = 0  # Gpairs/s, on an H100


BIG = 200_000
ROWS: dict[str, Row] = {
    "Gaussian D=1": Row("Gaussian", "matvec", BIG, BIG, 1, target=1.3, least=3900),
    "Gaussian D=2": Row("Gaussian", "matvec", BIG, BIG, 2, least=3600),
    "Gaussian D=3": Row("Gaussian", "matvec", BIG, BIG, 3, least=3100),
    "Gaussian D=10": Row("Gaussian", "matvec", BIG, BIG, 10, least=1300),
    "Gaussian D=3 1e6": Row("Gaussian", "matvec", 5 * BIG, 5 * BIG, 3, target=1, least=1e3 / 0.34),
    "argmin D=2": Row("distance", "argmin", BIG, BIG, 2),
    "argmin D=3": Row("distance", "argmin", BIG, BIG, 3),
    "argmin D=10": Row("distance", "argmin", BIG, BIG, 10),
    "logsumexp D=3": Row("distance", "logsumexp", BIG, BIG, 3),
    "top-10 D=3": Row("distance", "top10", BIG, BIG, 3),
    "gradient D=3": Row("Gaussian", "gradient", BIG, BIG, 3),
    "gradient D=10": Row("Gaussian", "gradient", BIG, BIG, 10),
    "Gaussian float64": Row("Gaussian", "matvec", BIG // 4, BIG // 4, 3, dtype="float64"),
    "Gaussian E=4": Row("Gaussian", "matvec", BIG, BIG, 3, 4),
    "Gaussian E=16": Row("Gaussian", "matvec", BIG, BIG, 3, 16),
    "M=1": Row("Gaussian", "matvec", 1, 5 * BIG, 3, target=5),
    "M=100": Row("Gaussian", "matvec", 100, 5 * BIG, 3, target=5),
    "M=1000": Row("Gaussian", "matvec", 1000, 5 * BIG, 3, target=5),
    **{
        name: Row(name, "matvec", BIG, BIG, 3, target=1.2)
        for name in FORMULAS
        if name not in ("Gaussian", "distance")
    },
}


def reduced(k: Any, row: Row, b: Any, x: Any) -> Any:
    """The reduction of ours, or of dense arrays."""
    if row.how == "matvec":
        return k @ b
    if row.how == "argmin":
        return torch.argmin(k, dim=1)
    if row.how == "logsumexp":
        return torch.logsumexp(-k, dim=1)
    if row.how == "top10":
        return torch.topk(k, 10, dim=1, largest=False).indices
    return torch.autograd.grad((k @ b).sum(), x)[0]


def of_keops(k: Any, row: Row, b: Any, x: Any) -> Any:
    if row.how == "matvec":
        return k @ b
    if row.how == "argmin":
        return k.argmin(dim=1).view(-1)
    if row.how == "logsumexp":
        return (-k).logsumexp(dim=1).view(-1)
    if row.how == "top10":
        return k.argKmin(10, dim=1)
    return torch.autograd.grad((k @ b).sum(), x)[0]


def calls(row: Row, scale: float) -> tuple[dict[str, Callable], Any]:
    """A call for each library, and what dense float64 gives for the first rows."""
    dtype = getattr(torch, row.dtype)
    m, n = (max(1, round(s * scale)) for s in (row.m, row.n))
    torch.manual_seed(0)
    spread = math.sqrt(row.features)
    x = (torch.randn(m, row.features, device="cuda", dtype=dtype) / spread).contiguous()
    y = (torch.randn(n, row.features, device="cuda", dtype=dtype) / spread).contiguous()
    b = torch.randn(n, row.outputs, device="cuda", dtype=dtype)
    x.requires_grad_(row.how == "gradient")
    formula, flat = FORMULAS[row.formula], b[:, 0] if row.outputs == 1 else b

    def ours() -> Any:
        return reduced(formula(LazyArray(x[:, None]), LazyArray(y[None])), row, flat, x)

    out: dict[str, Callable] = {"duckkeops": ours}
    try:
        from pykeops.torch import LazyTensor

        def peer() -> Any:
            k = formula(LazyTensor(x[:, None, :]), LazyTensor(y[None, :, :]))
            return of_keops(k, row, b, x)

        out["pykeops"] = peer
    except ImportError:
        pass
    few = x[:CHECKED].detach().double().requires_grad_(row.how == "gradient")
    dense = formula(few[:, None], y[None].double())
    return out, reduced(dense, row, flat.double(), few).detach()


def error(value: Any, dense: Any, row: Row) -> float:
    """Relative to the largest entry; of indices, the share that differs."""
    value = value.detach()[: len(dense)].reshape(dense.shape)
    if row.how in ("argmin", "top10"):
        return float((value != dense).double().mean())
    return float((value.double() - dense).abs().max() / dense.abs().max())


def timed(call: Callable) -> float:
    """Seconds of one call, by events."""
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3


def measure(name: str, row: Row, rounds: int, scale: float) -> dict[str, Any]:
    them, dense = calls(row, scale)
    out: dict[str, Any] = {"row": name, "target": row.target, "least": row.least}
    seconds: dict[str, list[float]] = {}
    for library, call in list(them.items()):
        try:
            out[f"{library} error"] = error(call(), dense, row)
            timed(call)
            seconds[library] = []
        except Exception as fault:  # the other one is still measured
            out[f"{library} failed"] = f"{type(fault).__name__}: {fault}"[:300]
            del them[library]
    for _ in range(rounds):
        for library, call in them.items():
            seconds[library].append(timed(call))
    pairs = row.m * row.n * scale**2
    for library, values in seconds.items():
        out[library] = statistics.median(values)
        out[f"{library} Gpairs/s"] = pairs / out[library] / 1e9
    if len(seconds) == 2:
        out["ratio"] = out["pykeops"] / out["duckkeops"]
    return out


def line(r: dict[str, Any]) -> str:
    def shown(key: str, form: str) -> str:
        return format(r[key], form) if key in r else "-"

    good = r.get("ratio", 0) >= r["target"] and r.get("duckkeops Gpairs/s", 0) >= r["least"]
    return (
        f"| {r['row']} | {shown('duckkeops Gpairs/s', '.0f')} | {shown('pykeops Gpairs/s', '.0f')} "
        f"| {shown('ratio', '.2f')} | {r['target']} | {round(r['least']) or ''} "
        f"| {shown('duckkeops error', '.1e')} | {shown('pykeops error', '.1e')} "
        f"| {'' if good else 'short'} |"
    )


HEAD = (
    "| row | ours, Gpairs/s | pykeops | ratio | asked | Gpairs/s asked | error | its error | |\n"
    "| --- | --: | --: | --: | --: | --: | --: | --: | --- |"
)


def overhead() -> dict[str, float]:
    """Microseconds of calls of 10 x 10 points on the host."""
    x, y, b = (torch.randn(10, d, device="cuda") for d in (3, 3, 1))
    formula, flat = FORMULAS["Gaussian"], b[:, 0]
    kernel = formula(LazyArray(x[:, None]), LazyArray(y[None]))
    leaf = x.clone().requires_grad_()

    def gradient() -> Any:
        out = formula(LazyArray(leaf[:, None]), LazyArray(y[None])) @ flat
        return torch.autograd.grad(out.sum(), leaf)

    them: dict[str, Callable] = {
        "ours called": lambda: kernel @ flat,
        "ours built and called": lambda: formula(LazyArray(x[:, None]), LazyArray(y[None])) @ flat,
        "ours with a gradient": gradient,
    }
    try:
        from pykeops.torch import LazyTensor

        lazy = formula(LazyTensor(x[:, None, :]), LazyTensor(y[None, :, :]))
        them["pykeops called"] = lambda: lazy @ b
        them["pykeops built and called"] = lambda: (
            formula(LazyTensor(x[:, None, :]), LazyTensor(y[None, :, :])) @ b
        )
    except ImportError:
        pass
    best = dict.fromkeys(them, math.inf)
    for call in them.values():
        for _ in range(50):
            call()
    for _ in range(7):
        for name, call in them.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(200):
                call()
            best[name] = min(best[name], 1e6 * (time.perf_counter() - start) / 200)
    return best


def about() -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "commit": commit,
        "command": f"python benchmarks/gpu.py {' '.join(sys.argv[1:])}".strip(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scale", type=float, default=1)
    parser.add_argument("--save", metavar="NAME")
    parser.add_argument("--overhead", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device here")
    if options.overhead:
        for name, us in overhead().items():
            print(f"{name:26} {us:8.1f} us", flush=True)
        return
    print(HEAD, flush=True)
    results = []
    for name in options.rows:
        try:
            results.append(measure(name, ROWS[name], options.rounds, options.scale))
        except Exception as fault:  # the other rows are still measured
            results.append({"row": name, "target": 0, "least": 0, "failed": repr(fault)[:300]})
        print(line(results[-1]), flush=True)
        for key, value in results[-1].items():
            if key.endswith("failed"):
                print(f"  {key}: {value}", flush=True)
        torch.cuda.empty_cache()
    if options.save:
        facts = about()
        text = f"`{facts['command']}`\n\n{facts['device']}, torch {facts['torch']}, "
        text += f"commit {facts['commit']}\n\n{HEAD}\n" + "\n".join(map(line, results)) + "\n"
        RESULTS.joinpath(f"{options.save}.md").write_text(text)
        json_text = json.dumps({"about": facts, "rows": results}, indent=1)
        RESULTS.joinpath(f"{options.save}.json").write_text(json_text + "\n")


if __name__ == "__main__":
    main()
