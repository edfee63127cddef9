"""Programs of KeOps's users, on duckkeops.keops and on pykeops, side by side.

    python benchmarks/keops.py [--device cuda] [--rows NAME ...] [--rounds 7] [--save NAME]

Each library has a process of its own with an empty cache of kernels; the programs are the same but
for the import. The first call of a row includes compilation, in seconds of wall time. Later ones
take turns, in rounds A B A B ...; shown are medians, on a CPU of CPU time, which other jobs disturb
less, on a CUDA device of wall time up to a synchronisation. `apart` compares what both compute.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PRELOAD = "/usr/lib/x86_64-linux-gnu/libstdc++.so.6"  # pykeops ends with a SIGSEGV without it
LIBRARIES = ("duckkeops", "pykeops")
SIZES = {"cpu": 10_000, "cuda": 100_000}
TINY = 50

ROWS: dict[str, Callable[..., Callable[[], Any]]] = {}  # (points, device) -> what is called


def row(name: str) -> Callable[[Callable], Callable]:
    def keep(make: Callable) -> Callable:
        ROWS[name] = make
        return make

    return keep


def clouds(points: int, device: str, features: int = 3) -> tuple[Any, Any, Any]:
    import torch

    torch.manual_seed(0)
    x, y = torch.rand(2, points, features, device=device)
    return x.clone(), y.clone(), torch.randn(points, 1, device=device)


@row("tiny product, LazyTensor")
def _tiny(points: int, device: str) -> Callable[[], Any]:
    return _product(TINY, device)


@row("tiny product, Genred")
def _tiny_genred(points: int, device: str) -> Callable[[], Any]:
    from pykeops.torch import Genred

    x, y, b = clouds(TINY, device)
    names = ["x = Vi(3)", "y = Vj(3)", "b = Vj(1)"]
    call = Genred("Exp(-SqDist(x, y)) * b", names, reduction_op="Sum", axis=1)
    return lambda: call(x, y, b)


@row("Gaussian product")
def _product(points: int, device: str) -> Callable[[], Any]:
    from pykeops.torch import Vi, Vj

    x, y, b = clouds(points, device)
    return lambda: (-Vi(x).sqdist(Vj(y))).exp() @ b


@row("its gradient")
def _gradient(points: int, device: str) -> Callable[[], Any]:
    import torch
    from pykeops.torch import Vi, Vj

    x, y, b = clouds(points, device)
    x.requires_grad_()
    return lambda: torch.autograd.grad(((-Vi(x).sqdist(Vj(y))).exp() @ b).sum(), x)[0]


@row("Laplacian product, 10 features")
def _laplacian(points: int, device: str) -> Callable[[], Any]:
    from pykeops.torch import LazyTensor

    x, y, b = clouds(points, device, 10)
    x_i, y_j = LazyTensor(x[:, None, :]), LazyTensor(y[None, :, :])
    return lambda: (-((x_i - y_j) ** 2).sum(-1).sqrt()).exp() @ b


@row("logsumexp")
def _logsumexp(points: int, device: str) -> Callable[[], Any]:
    from pykeops.torch import Vi, Vj

    x, y, b = clouds(points, device)
    return lambda: (Vj(b) - Vi(x).sqdist(Vj(y)) / 0.1).logsumexp(1)


@row("10 nearest neighbours")
def _nearest(points: int, device: str) -> Callable[[], Any]:
    from pykeops.torch import Vi, Vj

    x, y, _ = clouds(points, device)
    return lambda: Vi(x).sqdist(Vj(y)).argKmin(10, dim=1)


@row("product of 8 batches")
def _batches(points: int, device: str) -> Callable[[], Any]:
    from pykeops.torch import LazyTensor

    x, y, b = (t.reshape(8, points // 8, -1) for t in clouds(points, device))
    x_i, y_j = LazyTensor(x[:, :, None, :]), LazyTensor(y[:, None, :, :])
    return lambda: (-((x_i - y_j) ** 2).sum(-1)).exp() @ b


@row("kernel interpolation, solve")
def _solve(points: int, device: str) -> Callable[[], Any]:
    from pykeops.torch import Vi, Vj

    x, _, b = clouds(points // 2, device)
    return lambda: (-Vi(x).sqdist(Vj(x)) / 0.02).exp().solve(b, alpha=1.0)


@row("block-sparse product")
def _blocks(points: int, device: str) -> Callable[[], Any]:
    from pykeops.torch import LazyTensor
    from pykeops.torch.cluster import (
        cluster_ranges_centroids,
        from_matrix,
        grid_cluster,
        sort_clusters,
    )

    x, _, b = clouds(points, device)
    labels = grid_cluster(x, 0.1)
    ranges, centres, _ = cluster_ranges_centroids(x, labels)
    (x, b), _ = sort_clusters((x, b), labels)
    near = ((centres[:, None] - centres[None]) ** 2).sum(-1) < 0.3**2
    x_i, x_j = LazyTensor(x[:, None, :]), LazyTensor(x[None, :, :])
    kept = from_matrix(ranges, ranges, near)

    def call() -> Any:
        k = (-((x_i - x_j) ** 2).sum(-1) / 0.01).exp()
        k.ranges = kept
        return k @ b

    return call


def _sinkhorn(backend: str) -> Callable[[int, str], Callable[[], Any]]:
    def make(points: int, device: str) -> Callable[[], Any]:
        import torch
        from geomloss import SamplesLoss

        x, y, _ = clouds(points, device)
        x, y = x.requires_grad_(), 0.8 * y + 0.1
        loss = SamplesLoss("sinkhorn", p=2, blur=0.05, backend=backend)
        return lambda: torch.autograd.grad(loss(x, y), x)[0]

    return make


for _backend in ("online", "multiscale"):
    row(f"geomloss, Sinkhorn {_backend}")(_sinkhorn(_backend))


# -- processes -------------------------------------------------------------------------------------


def serve(library: str, device: str) -> None:
    """Answers the name of a row on stdin by the seconds of a call, and what it gave."""
    if library == "duckkeops":
        import duckkeops.keops

        duckkeops.keops.install()
    import torch

    on_cpu = device == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    name = "a CPU" if on_cpu else torch.cuda.get_device_name()
    print("ready", f"{name}, torch {torch.__version__}", flush=True)
    made: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        asked, calls = json.loads(line)
        first = asked not in made
        if first:
            made[asked] = ROWS[asked](SIZES[device], device)
        start = time.perf_counter() if first else clock()
        value: Any = None
        for _ in range(calls):
            value = made[asked]()
        if not on_cpu:
            torch.cuda.synchronize()
        end = time.perf_counter() if first else clock()
        value = value.double()
        sums = [value.sum().item(), value.norm().item()] if first else []
        print("ready", json.dumps([(end - start) / calls, sums]), flush=True)


class Worker:
    """The process of one library."""

    def __init__(self, library: str, device: str, cache: str):
        env = dict(os.environ) | {"DUCKKEOPS_CACHE_DIR": cache, "KEOPS_CACHE_FOLDER": cache}
        env["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), env.get("PYTHONPATH", "")])
        if device == "cpu":
            env["CUDA_VISIBLE_DEVICES"] = ""
        elif Path(PRELOAD).exists():
            env["LD_PRELOAD"] = f"{env.get('LD_PRELOAD', '')} {PRELOAD}".strip()
        command = [sys.executable, __file__, "--serve", library, "--device", device]
        pipes: dict[str, Any] = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process = subprocess.Popen(command, env=env, **pipes)
        self.library = library

    def line(self) -> str:
        """The next answer; pykeops prints messages between them."""
        assert self.process.stdout is not None
        for text in self.process.stdout:
            if text.startswith("ready "):
                return text.removeprefix("ready ").strip()
        raise SystemExit(f"the process of {self.library} ended with {self.process.wait()}")

    def ask(self, name: str, calls: int) -> tuple[float, list[float]]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, calls]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.line())


def measured(name: str, workers: list[Worker], rounds: int) -> dict[str, Any]:
    """The first call, the medians of the others, and how far the results differ."""
    calls = 200 if name.startswith("tiny") else 1
    first = [worker.ask(name, 1) for worker in workers]
    for worker in workers:
        worker.ask(name, calls)
    later: list[list[float]] = [[] for _ in workers]
    for _ in range(rounds):
        for worker, seconds in zip(workers, later, strict=True):
            seconds.append(worker.ask(name, calls)[0])
    (ours, theirs), ((_, a), (_, b)) = map(statistics.median, later), first
    apart = max(abs(p - q) for p, q in zip(a, b, strict=True)) / max(map(abs, b))
    return {"row": name, "first": [s for s, _ in first], "rounds": later, "apart": apart} | {
        "ratio": theirs / ours,
        "seconds": [ours, theirs],
    }


HEAD = (
    "| program | first call, ours | pykeops | later calls, ours | pykeops | ratio | apart |\n"
    "| --- | --: | --: | --: | --: | --: | --: |"
)


def line(r: dict[str, Any]) -> str:
    first = " | ".join(f"{s:.2f} s" for s in r["first"])
    later = " | ".join(
        f"{1e6 * s:.0f} us" if s < 1e-3 else f"{1e3 * s:.4g} ms" for s in r["seconds"]
    )
    return f"| {r['row']} | {first} | {later} | {r['ratio']:.2f} | {r['apart']:.0e} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=list(SIZES), default="cpu")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--save", metavar="NAME")
    parser.add_argument("--serve", choices=LIBRARIES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.device)
        return
    results = []
    with tempfile.TemporaryDirectory() as cache:
        workers = [Worker(name, options.device, cache) for name in LIBRARIES]
        device, _ = [worker.line() for worker in workers]
        command = shlex.join(["python", "benchmarks/keops.py", *sys.argv[1:]])
        about = f"`{command}`\n\n{device}, {SIZES[options.device]} points in each cloud, float32\n"
        print(about, HEAD, sep="\n", flush=True)
        for name in options.rows:
            results.append(measured(name, workers, options.rounds))
            print(line(results[-1]), flush=True)
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
    if options.save:
        text = "\n".join([about, HEAD, *map(line, results)])
        RESULTS.joinpath(f"{options.save}.md").write_text(text + "\n")
        content = {"command": command, "device": device, "rows": results}
        RESULTS.joinpath(f"{options.save}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
