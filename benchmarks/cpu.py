"""Ours beside every library that a user might take instead, in one run, on the CPU.

    python benchmarks/cpu.py [--rows main] [--peers NAME ...] [--dtype float32 float64]
        [--threads 1] [--rounds 5] [--size 10000] [--quick] [--save NAME] [--show NAME]

Rows are `main`, `formulas`, kinds such as `gaussian`, or names such as "gaussian D=3". Each library
runs in a process of its own, on the same inputs, in rounds A B C A B C ...; a round takes about 0.2
s, and a library that would need longer gets fewer rows of x (ours, which packs y first, if it would
need 2 s). All are checked against float64: one that is wrong is not compared.

Rates are pairs in each second of CPU time (user and system, all threads), 1e9 of them, as medians
over the rounds; in brackets, how many times ours is faster. With two threads or more there are
tables of wall time besides.

  FMA         how much of the machine's fused multiply-adds, the most measured in the same run, our
              rate takes: those of a pair are D for the distance, degree + 1 for exp2, E to sum, ...
  FMA beside  the same, of the multiply-adds measured in the same round, which other work on the
              machine slows down as much
  ports       as FMA, for all vector operations of a pair. An Intel core of 512 bits does
              differences, comparisons and selections on the two ports that do its fused
              multiply-adds, so this and not the former can reach 100 %. Counted is the cheapest way
              known: see rows.port_operations.

--save NAME writes results/NAME.json, with every round, and results/NAME.md, with these tables;
--show NAME measures nothing, and makes the tables of results/NAME.json anew.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Iterable
from typing import Any

import interleave
import rows
from interleave import rate
from peers import NATIVE_FLAGS, NOT_BRUTE_FORCE, PEERS
from rows import Row

# Times pykeops in float32 and in float64, and the share of the FMA peak in float32.
TARGETS: dict[str, tuple[float, float, float]] = {
    "gaussian D=3": (40, 12, 0.8),
    "gaussian D=10": (35, 12, 0.8),
    "gaussian D=64": (35, 30, 0.8),
    "gaussian D=784": (60, 25, 0.8),
    "gaussian D=3 E=16": (25, 12, 0.8),
    "argmin D=3": (16, 10, 0.4),
    "argmin D=10": (25, 14, 0.65),
    "argmin D=64": (28, 28, 0.8),
    "argmin D=128": (28, 28, 0.8),
    "argmin D=784": (28, 28, 0.8),
    "top10 D=3": (8, 6, 0.14),
    "top10 D=10": (10, 7, 0.3),
    "top10 D=64": (20, 22, 0.6),
    "top10 D=784": (20, 22, 0.6),
    "logsumexp D=3": (65, 20, 0.65),
    "logsumexp D=64": (180, 55, 0.8),
    "attention D=64 E=64": (110, 40, 0.8),
    "gradient D=3": (35, 11, 0.7),
}
SHARES = ("FMA", "FMA beside", "ports")
# Gpairs in a second, and times pykeops, of the other formulas.
FORMULA_TARGET, SLOWER_FORMULAS = (1.0, 10), {"kl": 0.3, "arccosine": 0.3}


def chosen(names: Iterable[str]) -> list[Row]:
    """The rows that have these names or kinds, or are in these groups."""
    known = [*rows.MAIN, *rows.FORMULAS]
    found: list[Row] = []
    for name in names:
        group = {"main": rows.MAIN, "formulas": rows.FORMULAS}.get(name)
        here = group or [row for row in known if name in (row.name, row.kind)]
        if not here:
            raise SystemExit(
                f"there is no row {name!r}. There are main, formulas, "
                f"{', '.join(dict.fromkeys(row.kind for row in known))} "
                f"and {', '.join(repr(row.name) for row in rows.MAIN)}."
            )
        found += here
    return list(dict.fromkeys(found))


def measure(args: argparse.Namespace, names: list[str]) -> list[dict[str, Any]]:
    wanted = [(dtype, row) for dtype in args.dtype for row in chosen(args.rows)]
    results, start = [], time.perf_counter()
    with interleave.workers(names, args.threads) as team:
        for k, (dtype, row) in enumerate(wanted):
            result = interleave.compare(team, row, args.size, dtype, args.rounds, args.cap)
            results.append(result)
            seconds = time.perf_counter() - start
            ours = rate(result, "duckkeops")
            said = f"{ours:.3g} Gpairs/s" if ours else "ours failed"
            print(
                f"[{k + 1}/{len(wanted)}, {seconds:.0f} s] {row.name} {dtype}: {said}", flush=True
            )
            for name, one in result["peers"].items():
                if "absent" in one or one.get("wrong"):
                    print(f"    {name}: {complaint(one)}", flush=True)
    return results


def complaint(one: dict[str, Any]) -> str:
    if "absent" in one:
        return f"failed: {one['absent']}"
    return f"wrong by {one['error']:.0e}"


def shares(result: dict[str, Any], peaks: dict[str, float]) -> tuple[float | None, ...]:
    """How much of the peak our rate takes: of multiply-adds; of those beside it, in the same round;
    of all vector operations.
    """
    row, dtype = Row(result["kind"], result["dim"], result["outputs"]), result["dtype"]
    ours = rate(result, "duckkeops")
    fma, ports = rows.fma_operations(row, dtype), rows.port_operations(row, dtype)
    if not ours or not fma or not ports or dtype not in peaks:
        return None, None, None
    one = result["peers"]["duckkeops"]
    pairs = one["rows"] * result["size"] / 1e9
    beside = statistics.median(
        pairs / times["cpu_s"] / peak
        for times, peak in zip(one["rounds"], result["peak_gfma"], strict=True)
    )
    return ours * fma / peaks[dtype], beside * fma, ours * ports / peaks[dtype]


def peaks_of(results: list[dict[str, Any]]) -> dict[str, float]:
    """Multiply-adds in a second of CPU time, 1e9 of them: the best of the run, per dtype."""
    found: dict[str, float] = {}
    for result in results:
        best = max(result["peak_gfma"], default=0.0)
        found[result["dtype"]] = max(found.get(result["dtype"], 0.0), best)
    return {dtype: best for dtype, best in found.items() if best}


# -- tables ----------------------------------------------------------------------------------------


def tables(results: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """Markdown: a table for each dtype and clock, then what misses its target."""
    peaks = peaks_of(results)
    clocks = {"cpu": "CPU time"} | ({"wall": "wall time"} if about["threads"] > 1 else {})
    text = []
    for dtype in dict.fromkeys(result["dtype"] for result in results):
        some = [result for result in results if result["dtype"] == dtype]
        for clock, words in clocks.items():
            text += [f"### {dtype}, Gpairs in a second of {words}", "", *table(some, peaks, clock)]
            text.append("")
        if dtype in peaks:
            lowest = min(peak for result in some for peak in result["peak_gfma"])
            text += [
                f"FMA peak: {peaks[dtype]:.1f} G in a second of CPU time, "
                f"{2 * peaks[dtype]:.0f} GFLOP/s; the lowest measurement of the run {lowest:.1f}.",
                "",
            ]
    text += ["### What misses its target", ""]
    text += [f"- {line}" for line in misses(results, peaks)] or ["Nothing."]
    return "\n".join(text) + "\n"


def table(results: list[dict[str, Any]], peaks: dict[str, float], clock: str) -> list[str]:
    have = {name for result in results for name in result["peers"]}
    others = [name for name in PEERS if name in have and name != "duckkeops"]
    with_shares = any(share for result in results for share in shares(result, peaks))
    with_shares &= clock == "cpu"
    head = ["row", "ours", *(SHARES if with_shares else []), *others]
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    for result in results:
        ours = rate(result, "duckkeops", clock)
        cells = [result["row"], f"**{ours:.3g}**" if ours else "failed"]
        if with_shares:
            cells += [f"{share:.0%}" if share else "" for share in shares(result, peaks)]
        cells += [beside(result, name, clock, ours) for name in others]
        lines.append(cells)
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def beside(result: dict[str, Any], name: str, clock: str, ours: float | None) -> str:
    """A peer's rate, and how many times ours is faster."""
    if name not in result["peers"]:
        return ""
    theirs = rate(result, name, clock)
    if theirs is None:
        return "failed" if "absent" in result["peers"][name] else complaint(result["peers"][name])
    return f"{theirs:.3g}" + (f" ({times(ours / theirs)})" if ours else "")


def times(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 9.95 else f"{ratio:.1f}x"


def misses(results: list[dict[str, Any]], peaks: dict[str, float]) -> list[str]:
    """Rows where a brute-force library is ahead of us, or a target is missed."""
    found = []
    for result in results:
        name, ours = f"{result['row']} {result['dtype']}", rate(result, "duckkeops")
        if not ours:
            found.append(f"{name}: {complaint(result['peers'].get('duckkeops', {'absent': '?'}))}")
            continue
        for peer in PEERS:
            theirs = rate(result, peer)
            if theirs and theirs > ours and peer not in NOT_BRUTE_FORCE:
                found.append(f"{name}: {peer} is ahead, {theirs:.3g} over {ours:.3g} Gpairs/s")
        pykeops, least = rate(result, "pykeops"), target(result)
        if pykeops and least and ours / pykeops < least:
            found.append(f"{name}: {times(ours / pykeops)} pykeops of {least:.0f}x")
        fma = shares(result, peaks)[0]
        if result["dtype"] == "float32" and result["row"] in TARGETS and fma:
            want = TARGETS[result["row"]][2]
            if fma < want:
                found.append(f"{name}: {fma:.0%} of the FMA peak, of {want:.0%}")
        if result["kind"] in {row.kind for row in rows.FORMULAS} and result["dtype"] == "float32":
            want = SLOWER_FORMULAS.get(result["kind"], FORMULA_TARGET[0])
            if ours < want:
                found.append(f"{name}: {ours:.2f} Gpairs/s of {want}")
    return found


def target(result: dict[str, Any]) -> float | None:
    """How many times faster than pykeops we mean to be."""
    if result["row"] in TARGETS:
        return TARGETS[result["row"]][result["dtype"] == "float64"]
    return FORMULA_TARGET[1] if result["kind"] in {row.kind for row in rows.FORMULAS} else None


def heading(about: dict[str, Any], results: list[dict[str, Any]]) -> str:
    peak = next((result["peak"] for result in results if "compiler" in result["peak"]), {})
    loads = [result["load"] for result in results]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return "\n".join(
        (
            f"`{about['command']}`",
            "",
            f"{about['cores']} x {about['cpu']}, {about['threads']} thread(s), "
            f"{peak.get('isa', 'no compiler')}, {peak.get('compiler', '')}, "
            f"Python {about['python']}, commit {about['commit']}; {versions}. "
            f"M = N = {results[0]['size']}, medians of {about['rounds']} interleaved rounds; "
            f"load average {min(loads):.1f} to {max(loads):.1f}. "
            f"pykeops native is pykeops compiled with `{NATIVE_FLAGS}`; "
            "cKDTree is a tree and does not compute every pair.",
            "",
            "Gpairs/s, in brackets how many times ours is faster. FMA: share of the machine's "
            "fused multiply-adds, the best of the run (FMA beside: those of the same round, which "
            "other work on the machine slows down as much); ports: share of the two 512-bit ports "
            "on which an Intel core does these and all other vector operations.",
            "",
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", default=["main"])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=interleave.default_peers())
    parser.add_argument(
        "--dtype", nargs="+", choices=["float32", "float64"], default=["float32", "float64"]
    )
    parser.add_argument("--threads", type=int, default=1, help="for every library")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=10_000, help="rows of x and of y")
    parser.add_argument("--cap", type=float, default=0.2, help="seconds of one call, about")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 0.05 s")
    parser.add_argument("--save", metavar="NAME", help="in results/")
    parser.add_argument("--show", metavar="NAME", help="of results/, instead of measuring")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.cap = 3, 0.05

    if args.show:
        kept = json.loads((interleave.RESULTS / f"{args.show}.json").read_text())
        about, results = kept["machine"], kept["rows"]
    else:
        interleave.note_environment()
        names = interleave.installed(dict.fromkeys(["duckkeops", *args.peers]))
        about = interleave.machine(args.threads, names)
        about["command"] = shlex.join(["python", "benchmarks/cpu.py", *sys.argv[1:]])
        about["rounds"] = args.rounds
        results = measure(args, names)
        about["load_after"] = os.getloadavg()[0]
    text = heading(about, results) + "\n" + tables(results, about)
    print("\n" + text)
    if args.save or args.show:
        interleave.save(args.save or args.show, about, results, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
