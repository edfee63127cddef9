"""What a user waits for before the first result: import, first formula, further ones, next process.

    python benchmarks/cold.py [--rounds 5] [--peers pykeops] [--save NAME]

Each round gives each library an empty cache of its own, in rounds A B A B ...: a first process
evaluates three formulas that were never compiled, 1000 x 1000 float32, D = 3; a second one the
same again, from the cache. Times are wall time and CPU time (user and system, compiler included),
medians over the rounds. An import is counted after that of NumPy.
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
from typing import Any

import interleave

# In ms: what we mean to stay below, of wall time; imports of CPU time.
TARGETS = {"import": 150, "first formula": 1200, "further formula": 500, "second process": 100}
FORMULAS = ("gaussian", "matern52", "cauchy")

CHILD = """
import json, os, resource, sys, time
import numpy as np

def now():
    compilers = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = time.process_time() + compilers.ru_utime + compilers.ru_stime
    return time.perf_counter(), cpu

def since(start):
    return [1e3 * (b - a) for a, b in zip(start, now())]

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # pykeops prints
start = now()
if sys.argv[1] == "duckkeops":
    import duckkeops
else:
    import pykeops.numpy
times = {"import": since(start)}

import peers, rows
row = [rows.Row(kind, 3) for kind in sys.argv[2:]]
for k, one in enumerate(row):
    x, y, b = rows.inputs(one, 1000, "float32")
    right = rows.answer(one, x[:8], y, b)
    start = now()
    out = peers.PEERS[sys.argv[1]](one, x, y, b, 1)(1000)
    times[f"formula {k}"] = since(start)
    assert rows.error(one, out, right) < rows.tolerance("float32"), one.name
    start = now()
    peers.PEERS[sys.argv[1]](one, x, y, b, 1)(1000)
    times[f"again {k}"] = since(start)
print(json.dumps(times), file=answers)
"""


def process(name: str, cache: str) -> dict[str, tuple[float, float]]:
    """Wall and CPU milliseconds of one process."""
    env = interleave.environment(name, 1)
    env |= {"DUCKKEOPS_CACHE_DIR": cache, "KEOPS_CACHE_FOLDER": cache}
    env["PYTHONPATH"] = os.pathsep.join([str(interleave.HERE), env["PYTHONPATH"]])
    run = subprocess.run(
        [sys.executable, "-c", CHILD, name, *FORMULAS], capture_output=True, text=True, env=env
    )
    if run.returncode:
        raise SystemExit(f"{name} failed:\n{run.stderr}")
    return json.loads(run.stdout)


def once(name: str) -> dict[str, tuple[float, float]]:
    """What one round gives, by the names of the table."""
    with tempfile.TemporaryDirectory(prefix="cold-") as cache:
        first, second = process(name, cache), process(name, cache)
    further = [first[f"formula {k}"] for k in range(1, len(FORMULAS))]
    return {
        "import": second["import"],
        "first formula": first["formula 0"],
        "further formula": tuple(map(statistics.mean, zip(*further, strict=True))),
        "second process": second["formula 0"],
        "same formula again": second["again 0"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", nargs="*", choices=["pykeops"], default=["pykeops"])
    parser.add_argument("--save", metavar="NAME", help="in results/")
    args = parser.parse_args()
    interleave.note_environment()
    names = interleave.installed(["duckkeops", *args.peers])
    about = interleave.machine(1, names)
    about["command"] = shlex.join(["python", "benchmarks/cold.py", *sys.argv[1:]])
    for name in names:  # writes the bytecode
        subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, check=True)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for k in range(args.rounds):
        for name in names:
            rounds[name].append(once(name))
        print(f"round {k + 1} of {args.rounds}", flush=True)
    about["load_after"] = os.getloadavg()[0]
    text = table(rounds, about)
    print("\n" + text)
    if args.save:
        results = [{"library": name, "rounds": some} for name, some in rounds.items()]
        interleave.save(args.save, about, results, text)
    return 0


def table(rounds: dict[str, list[dict[str, Any]]], about: dict[str, Any]) -> str:
    columns = [f"{name}, {clock} ms" for name in rounds for clock in ("wall", "CPU")]
    lines = [["", *columns, "target"], ["---", *["--:"] * (len(columns) + 1)]]
    for what in rounds["duckkeops"][0]:
        cells = [
            f"{statistics.median(one[what][clock] for one in some):.3g}"
            for some in rounds.values()
            for clock in (0, 1)
        ]
        lines.append([what, *cells, f"below {TARGETS[what]}" if what in TARGETS else ""])
    count = len(rounds["duckkeops"])
    return "\n".join(
        [
            f"`{about['command']}`",
            "",
            f"{about['cores']} x {about['cpu']}, Python {about['python']}, commit "
            f"{about['commit']}; load average {about['load_before']:.1f} to "
            f"{about['load_after']:.1f}; medians of {count} interleaved rounds. Formulas: "
            f"{', '.join(FORMULAS)}, 1000 x 1000 float32, D = 3. CPU time includes the compiler's.",
            "",
            *("| " + " | ".join(line) + " |" for line in lines),
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
