"""Sinkhorn divergences of geomloss on a CUDA device, on duckkeops and on pykeops.

    python benchmarks/sinkhorn.py [--points 100000] [--rounds 9] [--save NAME]

Value and gradient of two clouds in space, float32, p = 2, blur = 0.05. Each library has a process
of its own, and they take turns, in rounds A B A B ...; seconds are medians of the wall time of a
call that ends with a synchronisation. `first` includes compilation.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
PRELOAD = "/usr/lib/x86_64-linux-gnu/libstdc++.so.6"  # pykeops ends with a SIGSEGV without it
LIBRARIES = ("duckkeops", "pykeops")
BACKENDS = ("online", "multiscale")


def serve(library: str, points: int) -> None:
    """Answers each backend's name on stdin by the seconds, the value and the gradient's norm."""
    if library == "duckkeops":
        import duckkeops.keops

        duckkeops.keops.install()
    import torch
    from geomloss import SamplesLoss

    torch.manual_seed(0)
    x = torch.rand(points, 3, device="cuda").requires_grad_()
    y = 0.8 * torch.rand(points, 3, device="cuda") + 0.1
    losses = {name: SamplesLoss("sinkhorn", p=2, blur=0.05, backend=name) for name in BACKENDS}
    print(torch.cuda.get_device_name(), torch.__version__, sep=", torch ", flush=True)
    for asked in sys.stdin:
        torch.cuda.synchronize()
        start = time.perf_counter()
        value = losses[asked.strip()](x, y)
        (gradient,) = torch.autograd.grad(value, x)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        print(json.dumps([seconds, value.item(), gradient.norm().item()]), flush=True)


class Worker:
    """The process of one library."""

    def __init__(self, library: str, points: int):
        env = dict(os.environ)
        if Path(PRELOAD).exists():
            env["LD_PRELOAD"] = f"{env.get('LD_PRELOAD', '')} {PRELOAD}".strip()
        command = [sys.executable, __file__, "--serve", library, "--points", str(points)]
        pipes: dict[str, Any] = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process = subprocess.Popen(command, env=env, **pipes)
        self.library = library

    def line(self) -> str:
        """The next line that is not a message of pykeops."""
        assert self.process.stdout is not None
        for text in self.process.stdout:
            if "KeOps]" not in text and text.strip():
                return text.strip()
        raise SystemExit(f"the process of {self.library} ended with {self.process.wait()}")

    def ask(self, backend: str) -> list[float]:
        assert self.process.stdin is not None
        self.process.stdin.write(backend + "\n")
        self.process.stdin.flush()
        return json.loads(self.line())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--save", metavar="NAME")
    parser.add_argument("--serve", choices=LIBRARIES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.points)
        return
    workers = {name: Worker(name, options.points) for name in LIBRARIES}
    device, _ = [worker.line() for worker in workers.values()]
    command = " ".join(["python benchmarks/sinkhorn.py", *sys.argv[1:]])
    text = [f"`{command}`", "", f"{device}, {options.points} points in each cloud", ""]
    text += [
        "| backend | library | seconds | least | most | first | value | gradient's norm | ratio |"
    ]
    text += ["| --- | --- | --: | --: | --: | --: | --: | --: | --: |"]
    rounds: dict[str, dict[str, list[list[float]]]] = {}
    for backend in BACKENDS:
        rounds[backend] = found = {name: [] for name in LIBRARIES}
        for _ in range(1 + options.rounds):
            for name, worker in workers.items():
                found[name].append(worker.ask(backend))
        medians = {n: statistics.median(r[0] for r in f[1:]) for n, f in found.items()}
        for name, answers in found.items():
            seconds = [r[0] for r in answers]
            ratio = f"{medians['pykeops'] / medians[name]:.2f}" if name == "duckkeops" else ""
            numbers = [f"{t:.4f}" for t in (medians[name], min(seconds[1:]), max(seconds[1:]))]
            numbers += [f"{seconds[0]:.2f}", *(f"{v:.7g}" for v in answers[-1][1:]), ratio]
            text.append(f"| {backend} | {name} | {' | '.join(numbers)} |")
    print("\n".join(text))
    if options.save:
        RESULTS.joinpath(f"{options.save}.md").write_text("\n".join(text) + "\n")
        RESULTS.joinpath(f"{options.save}.json").write_text(json.dumps(rounds, indent=1) + "\n")
    for worker in workers.values():
        worker.process.kill()


if __name__ == "__main__":
    main()
