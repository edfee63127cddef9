"""What a repeated evaluation of a tiny problem costs beside its arithmetic, ours beside pykeops.

    python benchmarks/overhead.py [--batches 7] [--calls 2000] [--json FILE]

x and y are of shape (10, 3), b of shape (10, 1), float32. Reported is the process time of one
evaluation in microseconds, the best of the batches: "built" records the expression and evaluates
it, "called" only evaluates one that was recorded before. The batches of the spellings and libraries
are interleaved. pykeops runs a quarter of the calls.
"""

import argparse
import contextlib
import functools
import io
import json
import sys
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"


def distances(lazy, x, y):
    """|x_i - y_j|**2."""
    return ((lazy(x[:, None, :]) - lazy(y[None, :, :])) ** 2).sum(-1)


def gaussian(lazy, x, y):
    return np.exp(-distances(lazy, x, y))


def product(K, b):
    return K @ b


def argmin(D, b):
    return np.argmin(D, axis=1)


def negative(lazy, x, y):
    return -distances(lazy, x, y)


def logsumexp(S, b):
    return S.logsumexp(axis=1)


def methods(lazy, x, y):
    """The Gaussian as one writes it for tensors."""
    return (-(lazy(x)[:, None, :] - lazy(y)[None, :, :]).square().sum(dim=-1)).exp()


def keops_gaussian(lazy, x, y):
    return (-distances(lazy, x, y)).exp()


def keops_argmin(D, b):
    return D.argmin(dim=1)


SPELLINGS = {  # what is recorded, and what is called, of ours and of pykeops
    "np.exp(-D) @ b": ((gaussian, product), (keops_gaussian, product)),
    "np.argmin(D, axis=1)": ((distances, argmin), (distances, keops_argmin)),
    "(-D).logsumexp(axis=1)": ((negative, logsumexp), (negative, logsumexp)),
    "(-D).exp() @ b, by methods": ((methods, product), (keops_gaussian, product)),
}


def peer():
    """pykeops' LazyTensor, or None."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints on import
            import pykeops
            from pykeops.numpy import LazyTensor
        pykeops.set_verbose(False)
        return LazyTensor
    except ImportError:
        print("pykeops is not installed: pip install pykeops==2.3\n")
        return None


def measured(call, calls):
    """Microseconds of process time of one call."""
    start = time.process_time()
    for _ in range(calls):
        call()
    return 1e6 * (time.process_time() - start) / calls


def problems(libraries, x, y, b):
    """(spelling, library, "built" or "called") -> a function of no arguments."""
    found = {}
    for spelling, pairs in SPELLINGS.items():
        for (name, lazy), (record, call) in zip(libraries.items(), pairs, strict=False):
            found[spelling, name, "built"] = functools.partial(both, record, call, lazy, x, y, b)
            found[spelling, name, "called"] = functools.partial(call, record(lazy, x, y), b)
    return found


def both(record, call, lazy, x, y, b):
    return call(record(lazy, x, y), b)


def run(batches=7, calls=2000, peers=True):
    """The best microseconds of each problem."""
    import duckkeops

    libraries = {"duckkeops": duckkeops.LazyArray}
    other = peer() if peers else None
    if other is not None:
        libraries["pykeops"] = other
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 10, 3)).astype(np.float32)
    b = rng.random((10, 1)).astype(np.float32)
    found = problems(libraries, x, y, b)
    for call in found.values():  # compiles
        call()
    best = dict.fromkeys(found, float("inf"))
    for _ in range(batches):
        for key, call in found.items():
            count = calls if key[1] == "duckkeops" else max(calls // 4, 1)
            best[key] = min(best[key], measured(call, count))
    return best


def table(best):
    names = list(dict.fromkeys(name for _, name, _ in best))
    head = [f"{name} {when}" for name in names for when in ("built", "called")]
    lines = [f"{'us of process time':28}" + "".join(f"{h:>18}" for h in head)]
    for spelling in SPELLINGS:
        cells = (best[spelling, name, when] for name in names for when in ("built", "called"))
        lines.append(f"{spelling:28}" + "".join(f"{cell:18.1f}" for cell in cells))
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, default=7)
    parser.add_argument("--calls", type=int, default=2000, help="in one batch")
    parser.add_argument("--json", nargs="?", const=RESULTS / "overhead.json", type=Path)
    args = parser.parse_args()
    best = run(args.batches, args.calls)
    print(table(best))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            dict(zip(("spelling", "library", "what"), k, strict=True), us=v)
            for k, v in best.items()
        ]
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
        print(f"\nwrote {args.json}")


if __name__ == "__main__":
    sys.exit(main())
