"""Several libraries on the same inputs, in rounds A B C A B C ..., each in a process of its own."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import rows
from peers import NATIVE_FLAGS, NO_SUCH_ROW, PACKAGES, PEERS
from rows import Row

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
LEFT_OUT = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "CXXFLAGS", "KEOPS_CACHE_FOLDER")


def environment(peer: str, threads: int) -> dict[str, str]:
    """That of a library as pip installs it, with this number of threads."""
    env = {k: v for k, v in os.environ.items() if k not in LEFT_OUT}
    env["CUDA_VISIBLE_DEVICES"] = ""  # pykeops and jax would take a GPU
    counts = ("OMP", "OPENBLAS", "MKL", "DUCKKEOPS")
    env |= {f"{name}_NUM_THREADS": str(threads) for name in counts}
    env |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])}
    if threads == 1:
        env["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    if peer == "pykeops native":
        cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
        env |= {"CXXFLAGS": NATIVE_FLAGS, "KEOPS_CACHE_FOLDER": str(cache / "keops-native")}
    return env


OURS_LONGER = 10  # times


class Worker:
    """The process of one library."""

    def __init__(self, name: str, threads: int):
        self.name, self.threads = name, threads
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "peers.py"), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment(name, threads),
        )

    def ask(self, timeout: float, **request: Any) -> dict[str, Any]:
        """Its answer, or {"absent": why there is none}."""
        self.send(request)
        return self.answer(timeout)

    def send(self, request: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        text = json.dumps({"peer": self.name, "threads": self.threads, **request})
        with contextlib.suppress(BrokenPipeError):  # `answer` tells why
            self.process.stdin.write(text + "\n")
            self.process.stdin.flush()

    def answer(self, timeout: float) -> dict[str, Any]:
        out = self.process.stdout
        assert out is not None
        if not select.select([out], [], [], timeout)[0]:
            self.process.kill()
            return {"absent": f"no answer within {timeout:.0f} s"}
        line = out.readline()
        if line:
            return json.loads(line)
        self.log.seek(0)
        said = self.log.read().decode(errors="replace").strip().splitlines()
        return {"absent": f"its process ended: {said[-1] if said else 'no message'}"}

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.log.close()


@contextlib.contextmanager
def workers(names: Iterable[str], threads: int):
    """Name -> Worker, ended when the block is left; `peak` measures the machine."""
    started = {name: Worker(name, threads) for name in ("peak", *names)}
    try:
        yield started
    finally:
        for worker in started.values():
            worker.close()


def installed(names: Iterable[str]) -> list[str]:
    """Those of the names whose package is there; the others are printed."""
    here, missing = [], []
    for name in names:
        package = PACKAGES.get(name, name)
        try:
            importlib.metadata.version(package)
            here.append(name)
        except importlib.metadata.PackageNotFoundError:
            (here if name == "duckkeops" else missing).append(name)
    if missing:
        print(f"not installed, so not compared: {', '.join(missing)}")
        print("  pip install 'duckkeops[bench]' has them all.")
    return here


def compare(
    team: dict[str, Worker], row: Row, size: int, dtype: str, rounds: int, cap: float
) -> dict[str, Any]:
    """Rates of all libraries on one row.

    `cap`: seconds that one call may take; a slow library gets fewer rows of x. Ours may take
    longer, since a call of few rows does not repay the packing of y: at D = 784 all rows are twice
    as fast as 400. The others compute a tile of rows at a time, whatever their number.
    """
    x, y, b = rows.inputs(row, size, dtype)
    right = rows.answer(row, x[: 16 if row.dim > 100 else 64], y, b)
    given = [row.kind, row.dim, row.outputs]
    with tempfile.TemporaryDirectory() as folder:
        for name, array in {"x": x, "y": y, "b": b, "right": right}.items():
            np.save(Path(folder, f"{name}.npy"), array)
        request = dict(do="prepare", row=given, dtype=dtype, folder=folder, size=size)
        for worker in team.values():  # all at once: most of this is compiling
            worker.send(request)
        found: dict[str, dict[str, Any]] = {}
        for name, worker in team.items():
            found[name] = worker.answer(180) | {"rounds": []}
    live = {name: one for name, one in found.items() if "absent" not in one}
    for name, one in live.items():
        if name != "peak":
            longest = OURS_LONGER * cap if name == "duckkeops" else cap
            one |= team[name].ask(120, do="fit", size=size, cap=longest)
    for _ in range(rounds):
        for name, one in live.items():
            if "absent" not in one:
                times = team[name].ask(120, do="measure", least=0.02 if name == "peak" else cap / 2)
                if "absent" in times:
                    one["absent"] = times["absent"]
                else:
                    one["rounds"].append(times)
    measured = found.pop("peak")
    peers = {}
    for name, one in found.items():
        if one.get("absent") == NO_SUCH_ROW:
            continue
        if "absent" not in one:
            pairs = one["rows"] * size / 1e9
            for clock in ("cpu", "wall"):
                rates = [pairs / t[f"{clock}_s"] for t in one["rounds"]]
                one[f"{clock}_gpairs"] = statistics.median(rates)
            if not one["error"] <= rows.tolerance(dtype):
                one["wrong"] = True
        peers[name] = one
    return {
        "row": row.name,
        "kind": row.kind,
        "dim": row.dim,
        "outputs": row.outputs,
        "size": size,
        "dtype": dtype,
        "load": os.getloadavg()[0],
        "peak_gfma": [measured["operations"] / t["cpu_s"] / 1e9 for t in measured["rounds"]]
        if "absent" not in measured
        else [],
        "peak": {k: v for k, v in measured.items() if k != "rounds"},
        "peers": peers,
    }


def rate(result: dict[str, Any], name: str, clock: str = "cpu") -> float | None:
    """Gpairs in a second, or None where there is no right answer."""
    one = result["peers"].get(name, {})
    return None if one.get("wrong") else one.get(f"{clock}_gpairs")


def machine(threads: int, names: Iterable[str]) -> dict[str, Any]:
    """What the figures depend on."""
    cpu, vendor = platform.processor() or platform.machine(), ""
    with contextlib.suppress(OSError):
        lines = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines()]
        facts = {line[0].strip(): line[1].strip() for line in lines if len(line) == 2}
        cpu, vendor = facts.get("model name", cpu), facts.get("vendor_id", "")
    packages = dict.fromkeys(["numpy", *(PACKAGES.get(name, name) for name in names)])
    versions = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True
    ).stdout.strip()
    return {
        "cpu": cpu,
        "vendor": vendor,
        "cores": os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "commit": commit,
        "versions": versions,
        "load_before": os.getloadavg()[0],
    }


def note_environment() -> None:
    """Say which variables the libraries will not see."""
    dropped = [name for name in LEFT_OUT if name in os.environ]
    if dropped:
        print(f"not passed on to the libraries: {', '.join(dropped)}")


def default_peers() -> list[str]:
    return [name for name in PEERS if name != "torch compile"]  # slow to compile


def save(name: str, about: dict[str, Any], results: list[dict[str, Any]], text: str) -> None:
    """Write results/NAME.json, a line for each row, and results/NAME.md."""
    RESULTS.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(rounded(result)) for result in results)
    head = json.dumps(about, indent=1)
    (RESULTS / f"{name}.json").write_text(f'{{"machine": {head},\n"rows": [\n{lines}\n]}}\n')
    (RESULTS / f"{name}.md").write_text(text)
    print(f"wrote {RESULTS / name}.json and .md")


def rounded(value: Any) -> Any:
    """The same with five digits of every number."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
