"""How many megabytes a reduction adds to the peak memory of a process: 100 000 x 100 000 pairs,
float32, D = 3.

    python benchmarks/memory.py [--size 100000] [--limit 200]

Each task runs in a process of its own. Counted is everything since the inputs exist and duckkeops
is imported: the import of SymPy, the compilation and the result. The matrix alone would take 37
GiB. The exit status is 1 if a task adds more than the limit.
"""

import argparse
import subprocess
import sys

TASKS = {"argmin": "np.argmin(D_ij, axis=1)", "exp @ b": "np.exp(-D_ij) @ b"}

# The parent imports nothing large: on Linux a child's peak starts from that of its parent.
CHILD = """
import resource, sys
import numpy as np
from duckkeops import LazyArray

def peak():
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)

size = int(sys.argv[1])
x, y = np.random.default_rng(0).random((2, size, 3), dtype=np.float32)
b = np.ones((size, 1), np.float32)
before = peak()
D_ij = ((LazyArray(x)[:, None, :] - LazyArray(y)[None, :, :]) ** 2).sum(-1)
result = TASK
assert len(result) == size
print(before, peak())
"""


def added(task, size):
    """Peak memory before the task and what it adds, in MiB."""
    source = CHILD.replace("TASK", task)
    run = subprocess.run(
        [sys.executable, "-c", source, str(size)], stdout=subprocess.PIPE, text=True, check=True
    )
    before, after = map(float, run.stdout.split())
    return before, after - before


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=100_000, help="rows of x and of y")
    parser.add_argument("--limit", type=float, default=200, help="MiB")
    args = parser.parse_args()
    worst = 0.0
    for name, task in TASKS.items():
        before, more = added(task, args.size)
        worst = max(worst, more)
        print(f"{name:10} {args.size} x {args.size}: {before:.0f} MiB before, {more:.0f} MiB added")
    return int(worst > args.limit)


if __name__ == "__main__":
    sys.exit(main())
