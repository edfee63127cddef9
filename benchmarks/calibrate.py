"""What the cost model and D.estimate() say, beside what is measured.

    python benchmarks/calibrate.py [--dtype float32 float64] [--seconds 0.2] [--only gauss]

Each formula is reduced by one thread, at a size that takes about `--seconds`; the best CPU time of
three counts. `model` is what decides about threads and slices (`duckkeops/plan.py`, before a kernel
has corrected it), `estimate` is D.estimate(). Both are seconds of one thread, and in brackets over
the measured ones. `cycles` are those of one vector and pair, at plan.CLOCK: compare them with the
constants there.
"""

import argparse
import time

import numpy as np

from duckkeops import LazyArray, config, evaluate, explain, expr, plan, reductions
from duckkeops.engines import cpu


def distances(x, y):
    return ((x - y) ** 2).sum(-1)


def gauss(x, y, b):
    return np.exp(-distances(x, y))


FORMULAS = {
    **{f"gauss D={d}": (gauss, d, "sum") for d in (1, 3, 10, 64, 784)},
    **{f"argmin D={d}": (lambda x, y, b: distances(x, y), d, "argmin") for d in (3, 64)},
    "top-10 D=3": (lambda x, y, b: distances(x, y), 3, "topk"),
    "logsumexp D=3": (lambda x, y, b: (x * y).sum(-1), 3, "logsumexp"),
    "logsumexp D=64": (lambda x, y, b: (x * y).sum(-1), 64, "logsumexp"),
    "gauss D=3 E=16": (lambda x, y, b: gauss(x, y, b)[..., None] * b, 3, "sum"),
    **{
        name: (lambda x, y, b, name=name: getattr(1.5 + distances(x, y), name)(), 3, "sum")
        for name in ("sqrt", "reciprocal", "log", "sin", "tanh", "erf", "lgamma", "i0")
    },
    "pow": (lambda x, y, b: (1.5 + distances(x, y)) ** 0.3, 3, "sum"),
}


def reduction(formula, dim, kind, rows, columns, dtype):
    """A function that gives the reduction, and its node."""
    rng = np.random.default_rng(dim)
    x = LazyArray(rng.random((rows, 1, dim)).astype(dtype))
    y = LazyArray(rng.random((1, columns, dim)).astype(dtype))
    b = LazyArray(rng.random((1, columns, 16)).astype(dtype))
    lazy = formula(x, y, b)
    params = {"k": 10, "largest": False} if kind == "topk" else {}
    return reductions.reduce(reductions.BY_NAME[kind], (lazy._node,), (1,), **params)


def measure(node, rounds=3):
    """The best CPU time of a call by one thread, in seconds."""
    with config(threads=1, progress=False):
        evaluate.evaluate(node)
        times = []
        for _ in range(rounds):
            start = time.process_time()
            evaluate.evaluate(node)
            times.append(time.process_time() - start)
    return min(times)


def row(name, dtype, seconds):
    """One formula: node, seconds of one thread as measured, by the model and estimated, lanes."""
    formula, dim, kind = FORMULAS[name]
    rows, columns = 256, 2000
    node = reduction(formula, dim, kind, rows, columns, dtype)
    once = measure(node)
    factor = max(seconds / once, 1.0)
    columns = int(columns * min(factor, 10))
    rows = int(rows * max(factor / 10, 1)) // 64 * 64
    node = reduction(formula, dim, kind, rows, columns, dtype)
    measured = measure(node)
    lanes = cpu.target().vector_bytes // np.dtype(dtype).itemsize
    with config(threads=1):
        estimated = explain.estimate(node).seconds
    return node, measured, plan.seconds(node, expr.walk(node), lanes, 1), estimated, lanes


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dtype", nargs="*", default=["float32", "float64"])
    parser.add_argument("--seconds", type=float, default=0.2, help="of one measured call")
    parser.add_argument("--only", default="", help="formulas whose names contain this")
    args = parser.parse_args()
    print(f"{cpu.target().name}, one thread\n")
    print("| formula | dtype | measured, ms | cycles | model | estimate |")
    print("|---|---|---|---|---|---|")
    for dtype in args.dtype:
        for name in FORMULAS:
            if args.only in name:
                node, measured, model, estimated, lanes = row(name, dtype, args.seconds)
                cycles = measured / plan.pairs(node) * lanes * plan.CLOCK
                print(
                    f"| {name} | {dtype} | {1e3 * measured:.1f} | {cycles:.1f} "
                    f"| {1e3 * model:.1f} ({model / measured:.2f}) "
                    f"| {1e3 * estimated:.1f} ({estimated / measured:.2f}) |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
