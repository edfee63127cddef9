"""How many megabytes a reduction, and its gradients in torch, add to the peak memory of a process.

    python benchmarks/memory.py [--size 100000] [--limit 200]
    python benchmarks/memory.py --torch [--size 50000] [--limit 300]

Float32, D = 3. Each task runs in a process of its own. Counted is everything since the inputs exist
and duckkeops (and torch, with --torch) is imported: the import of SymPy, the compilation, the
results, the graph of gradients. The matrix alone would take 37 GiB for 100 000 points, and 9.3 GiB
for 50 000, of which a dense gradient stores several. What is read is the resident set of the
process, as memory that C or torch allocates counts too. The exit status is 1 if a task adds more
than the limit.
"""

import argparse
import subprocess
import sys

HEAD = """
import resource, sys
import numpy as np
from duckkeops import LazyArray

def peak():
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)

size = int(sys.argv[1])
x, y = np.random.default_rng(0).random((2, size, 3), dtype=np.float32)
b = np.ones((size, 1), np.float32)
"""
NUMPY = """
before = peak()
D_ij = ((LazyArray(x)[:, None, :] - LazyArray(y)[None, :, :]) ** 2).sum(-1)
result = TASK
assert len(result) == size
print(before, peak())
"""
TORCH = """
import torch
from torch.autograd import grad

x, y, b = (torch.from_numpy(a).requires_grad_() for a in (x, y, b))
s = torch.tensor(0.5, requires_grad=True)
small = torch.ones(8, 8, requires_grad=True)  # torch's own threads and engine, once
grad((small @ small).exp().sum(), [small])
before = peak()
D_ij = ((LazyArray(x)[:, None, :] - LazyArray(y)[None, :, :]) ** 2).sum(-1)
a = torch.exp(-D_ij / s) @ b
loss = (a**2).sum()
result = TASK
assert [g.shape for g in result] == [t.shape for t in INPUTS]
assert all(torch.isfinite(g).all() for g in result)
print(before, peak())
"""

# What is computed, and of torch's the inputs of whose shapes the results are.
TASKS = {"argmin": "np.argmin(D_ij, axis=1)", "exp @ b": "np.exp(-D_ij) @ b"}
FIRST = "grad(loss / size**2, [x, y, b, s], create_graph=True)"
TORCH_TASKS = {
    "gradient in x": ("grad(loss, [x])", "[x]"),
    "in x, y, b, s": (FIRST, "[x, y, b, s]"),
    "second order in x": (f"grad({FIRST}[0].square().sum(), [x])", "[x]"),
}


def source(task):
    """The program of a task. The parent imports nothing large: on Linux a child's peak starts from
    that of its parent.
    """
    if isinstance(task, str):
        return HEAD + NUMPY.replace("TASK", task)
    code, inputs = task
    return HEAD + TORCH.replace("TASK", code).replace("INPUTS", inputs)


def added(task, size):
    """Peak memory before the task and what it adds, in MiB."""
    command = [sys.executable, "-c", source(task), str(size)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    before, after = map(float, run.stdout.split())
    return before, after - before


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch", action="store_true", help="gradients of tensors")
    parser.add_argument("--size", type=int, help="rows of x and of y")
    parser.add_argument("--limit", type=float, help="MiB")
    args = parser.parse_args()
    tasks = TORCH_TASKS if args.torch else TASKS
    size = args.size or (50_000 if args.torch else 100_000)
    limit = args.limit or (300 if args.torch else 200)
    worst = 0.0
    for name, task in tasks.items():
        before, more = added(task, size)
        worst = max(worst, more)
        print(f"{name:18} {size} x {size}: {before:.0f} MiB before, {more:.0f} MiB added")
    return int(worst > limit)


if __name__ == "__main__":
    sys.exit(main())
