"""Rates over the number of features and over the number of rows, with plots.

    python benchmarks/sweep.py [--dims 1 3 ...] [--sizes 100 1000 ...] [--dim 3] [--size 10000]
        [--kinds gaussian argmin] [--dtype float32] [--peers NAME ...] [--threads 1] [--rounds 3]
        [--limit 400] [--save NAME]

The dimension is swept at `--size` rows, the size at `--dim` features. Libraries run as in cpu.py:
interleaved, a process each, checked against float64, fewer rows of x where a call would take longer
than 0.2 s. No point is begun later than `--limit` seconds after its sweep began. --save NAME writes
results/NAME.json, NAME.md, NAME-dim.svg and NAME-size.svg.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Iterable
from typing import Any

import interleave
from interleave import RESULTS, Worker, rate
from peers import PEERS
from rows import Row

DIMS = (1, 2, 3, 5, 10, 16, 32, 64, 128, 256, 512, 1024)
SIZES = (100, 320, 1000, 3200, 10_000, 32_000, 100_000, 320_000, 1_000_000)
LIBRARIES = ("duckkeops", "pykeops", "NumPy", "jax", "scikit-learn", "faiss", "cKDTree")


def sweep(
    team: dict[str, Worker], points: Iterable[tuple[Row, int]], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """One result for each row and size, as far as the time goes."""
    results, start = [], time.perf_counter()
    for row, size in points:
        if time.perf_counter() - start > args.limit:
            print(f"{row.name} N={size}: left out, {args.limit:.0f} s have passed")
            continue
        result = interleave.compare(team, row, size, args.dtype, args.rounds, cap=0.2)
        results.append(result)
        rates = {name: rate(result, name) for name in result["peers"]}
        said = "  ".join(f"{name} {r:.3g}" if r else f"{name} -" for name, r in rates.items())
        print(f"{row.name} N={size}: {said}", flush=True)
    return results


def table(results: list[dict[str, Any]], axis: str) -> list[str]:
    """Markdown: a line for each point, a column for each library."""
    have = {name for result in results for name in result["peers"]}
    names = [name for name in PEERS if name in have]
    cells = [["row", axis, *names], ["---", "--:", *["--:"] * len(names)]]
    for result in results:
        rates = [rate(result, name) for name in names]
        cells.append([result["kind"], str(result[axis]), *(f"{r:.3g}" if r else "" for r in rates)])
    return ["| " + " | ".join(line) + " |" for line in cells]


def plot(results: list[dict[str, Any]], axis: str, words: str, path: Any) -> None:
    """A panel for each kind: rate over `axis`, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "duckkeops", "font.size": 9}
    kinds = list(dict.fromkeys(result["kind"] for result in results))
    figure, panels = plt.subplots(
        1, len(kinds), figsize=(4.2 * len(kinds) + 1.2, 3.4), sharey=True, squeeze=False
    )
    for panel, kind in zip(panels[0], kinds, strict=True):
        for k, name in enumerate(PEERS):
            points = [(r[axis], rate(r, name)) for r in results if r["kind"] == kind]
            points = [(at, value) for at, value in points if value]
            if points:
                ours = name == "duckkeops"
                style = {"color": "black", "linewidth": 2.2} if ours else {"color": f"C{k}"}
                panel.loglog(*zip(*points, strict=True), "o-", markersize=3, label=name, **style)
        panel.set(title=kind, xlabel=words)
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("Gpairs in a second of CPU time")
    handles = {
        label: line
        for panel in panels[0]
        for line, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="center right", frameon=False)
    figure.tight_layout(rect=(0, 0, 1 - 1.3 / figure.get_figwidth(), 1))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dims", type=int, nargs="*", default=DIMS)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--dim", type=int, default=3, help="of the sweep over sizes")
    parser.add_argument("--size", type=int, default=10_000, help="of the sweep over dimensions")
    parser.add_argument("--kinds", nargs="+", default=["gaussian", "argmin"])
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=LIBRARIES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=400, help="seconds of each sweep, about")
    parser.add_argument("--save", metavar="NAME", help="in results/")
    args = parser.parse_args()

    interleave.note_environment()
    names = interleave.installed(dict.fromkeys(["duckkeops", *args.peers]))
    about = interleave.machine(args.threads, names)
    about["command"] = shlex.join(["python", "benchmarks/sweep.py", *sys.argv[1:]])
    over = {
        "dim": ("D, features", [(Row(k, d), args.size) for d in args.dims for k in args.kinds]),
        "size": ("N, rows", [(Row(k, args.dim), n) for n in args.sizes for k in args.kinds]),
    }
    text = [
        f"`{about['command']}`",
        "",
        f"{about['cores']} x {about['cpu']}, {args.threads} thread(s), {args.dtype}, "
        f"commit {about['commit']}; Gpairs in a second of CPU time, medians of {args.rounds} "
        "interleaved rounds.",
        "",
    ]
    everything = []
    with interleave.workers(names, args.threads) as team:
        for axis, (words, points) in over.items():
            results = sweep(team, points, args)
            if not results:
                continue
            everything += results
            results.sort(key=lambda result: args.kinds.index(result["kind"]))
            if args.save:
                RESULTS.mkdir(exist_ok=True)
                plot(results, axis, words, RESULTS / f"{args.save}-{axis}.svg")
                text += [f"![{words}]({args.save}-{axis}.svg)", ""]
            text += [*table(results, axis), ""]
    about["load_after"] = os.getloadavg()[0]
    print("\n" + "\n".join(text))
    if args.save:
        interleave.save(args.save, about, everything, "\n".join(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
