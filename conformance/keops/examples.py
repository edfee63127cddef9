"""KeOps's tutorials and examples with `duckkeops.keops` as pykeops, and their numbers.

    python conformance/keops/examples.py                        # each runs to its end
    python conformance/keops/examples.py --with-pykeops         # and gives pykeops's numbers
    python conformance/keops/examples.py knn --sources FOLDER   # those whose path has this word

Sources are those of run.py. Each script runs in a process of its own, from the same seeds, with
matplotlib drawing nothing and plotly, where it is not installed, doing nothing. In the place of
MNIST, which would be downloaded, are scikit-learn's own digits, enlarged. Left out are scripts that
need several GPUs, and texts. The arrays that a script leaves in its variables are
compared with those that it leaves when it runs on pykeops, which has to be installed and compiles
for some minutes: integers by how many differ, other numbers by the greatest gap relative to the
greatest of them. `DIFFERENCES` lists the variables that may differ, with reasons.

Prints a table. The exit code is 1 if a script fails, computes nothing with duckkeops, or has other
numbers.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(ROOT)]

LEFT_OUT = {
    "plot_gpytorch.py": "a text",
    "plot_gpu_select_numpy.py": "of several GPUs",
    "plot_gpu_select_example.py": "of several GPUs",
    "plot_multi_gpu.py": "of several GPUs",
}
TOLERANCE = {"float64": 1e-6, "float32": 1e-3, "complex64": 1e-3, "complex128": 1e-6}
DIFFERENT = 1e-3  # the share of integers that may differ: labels and neighbours that are tied
UNSTABLE = "points keep their order within a cluster, and KeOps's do not"
DIFFERENCES = {
    **{
        f"{library}/plot_grid_cluster_{library}.py: {name}": UNSTABLE
        for library in ("numpy", "pytorch")
        for name in ("x", "y", "x_", "y_", "a", "a_full", "a_sparse")
    },
    **{
        f"backends/plot_scipy.py: {name}": f"{UNSTABLE}, and signs of eigenvectors are free"
        for name in ("x", "x_", "D", "eigenvectors", "coordinates")
    },
    "gaussian_mixture/plot_gaussian_mixture.py: loss": (
        "500 steps in float32 are chaotic: 100 agree to 1e-6, then either loss has jumps of 0.05"
    ),
    **{
        f"surface_registration/plot_LDDMM_Surface.py: {name}": (
            "losses agree to their rounding in float32 at each step, which leaves momenta free"
        )
        for name in ("p0", "qnp")
    },
    "numpy/plot_test_invkernel_numpy_helper.py: c_sp": "SciPy's method stops at 1e-5",
}


def scripts(sources: str | None, words: list[str]) -> list[Path]:
    from run import folder_of

    folder = folder_of("keops", sources)
    places = [folder / place for place in ("pykeops/pykeops", "pykeops-2.3/pykeops")]
    found = [
        path
        for place in places
        for part in ("tutorials", "examples")
        for path in sorted((place / part).rglob("plot_*.py"))
        if path.name not in LEFT_OUT and all(word in str(path) for word in words)
    ]
    if not found:
        raise SystemExit(f"{folder} has no such tutorials or examples.")
    return found


# -- in the process of a script --------------------------------------------------------------------


def child(path: str, theirs: bool, out: str) -> None:
    """Run a script, and keep the arrays that it leaves, and how many reductions there were."""
    import duckkeops.keops

    if not theirs:
        duckkeops.keops.install()
    import matplotlib
    import torch

    matplotlib.use("Agg")
    if importlib.util.find_spec("plotly") is None:
        for name in ("plotly", "plotly.graph_objs"):
            sys.modules[name] = mock.MagicMock()
    import sklearn.datasets

    sklearn.datasets.fetch_openml = digits
    np.random.seed(0)  # noqa: NPY002 - the scripts draw from it
    torch.manual_seed(0)
    left = runpy.run_path(path, run_name="__main__")
    arrays = {name: array for name, x in left.items() if (array := stored(x)) is not None}
    np.savez(out, **arrays)  # type: ignore[arg-type]
    if not theirs:
        print(f"reductions: {sum(duckkeops.keops.calls().values())}")


def digits(*_: Any, **__: Any) -> Any:
    """1797 images of handwritten digits, of 28 x 28 pixels, as those of MNIST."""
    from sklearn.datasets import load_digits

    small = load_digits()
    images = small.images.repeat(4, axis=1).repeat(4, axis=2)[:, 2:30, 2:30]
    return SimpleNamespace(data=images.reshape(-1, 784) * 16, target=small.target.astype(str))


def stored(x: Any) -> np.ndarray | None:
    torch = sys.modules["torch"]
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu().numpy()
    numbers = isinstance(x, np.ndarray) and x.dtype.kind in "fciu" and x.ndim > 0
    return x if numbers and x.size <= 10**7 else None


# -- outside ---------------------------------------------------------------------------------------


def ran(path: Path, theirs: bool, folder: Path) -> tuple[float, int, dict[str, Any], str]:
    """Seconds, reductions, the arrays, and what was said if it failed."""
    out = folder / f"{path.stem}-{'theirs' if theirs else 'ours'}.npz"
    copy = folder / f"{path.stem}-folder"
    if not copy.exists():
        shutil.copytree(path.parent, copy)  # scripts read and write beside themselves
    code = "import sys, examples; examples.child(sys.argv[1], sys.argv[2] == 'theirs', sys.argv[3])"
    command = [sys.executable, "-c", code, path.name, "theirs" if theirs else "ours", str(out)]
    paths = [str(HERE), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=copy, env=environment, text=True, capture_output=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        errors = [line for line in lines if re.match(r"[\w.]+(Error|Exit|Interrupt)\b", line)]
        return seconds, 0, {}, (errors or lines or ["it failed"])[-1]
    said = [line for line in done.stdout.splitlines() if line.startswith("reductions: ")]
    count = int(said[-1].split()[-1]) if said else 0
    with np.load(out) as arrays:
        return seconds, count, dict(arrays), ""


def compared(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float, dict[str, str]]:
    """The greatest gap of all numbers, and the variables with other ones, with what is other."""
    worst, other = 0.0, {}
    for name in theirs:
        one, two = ours.get(name), theirs[name]
        if one is None or one.shape != two.shape:
            other[name] = f"{None if one is None else one.shape}, and {two.shape} by pykeops"
        elif two.dtype.kind in "iu":
            share = float((one != two).mean()) if two.size else 0.0
            if share > DIFFERENT:
                other[name] = f"{share:.1%} of the integers differ"
        elif two.size:
            finite = np.isfinite(two)
            same = np.array_equal(one[~finite], two[~finite], equal_nan=True)
            scale = np.abs(two[finite]).max(initial=0) or 1
            gaps = np.abs(one[finite] - two[finite])
            gap = float(gaps.max(initial=0) / scale) if same else np.inf
            worst = max(worst, gap)
            if not gap <= TOLERANCE[two.dtype.name]:
                other[name] = f"differs by {gap:.1e} of the greatest"
    return worst, other


def main() -> int:
    from report import table, verdict

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("words", nargs="*", help="that are in the path of a script")
    parser.add_argument("--sources", help="a folder of checkouts, as of run.py")
    parser.add_argument("--with-pykeops", action="store_true", help="compare with it")
    options = parser.parse_args()
    rows, differences = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for path in scripts(options.sources, options.words):
            name = f"{path.parent.name}/{path.name}"
            seconds, count, ours, error = ran(path, False, Path(temporary))
            row: list[object] = [name, error or "ran", f"{seconds:.0f} s", count]
            if error or not count:
                differences.append(f"{name}: {error or 'nothing was computed'}")
            if options.with_pykeops:
                seconds, _, theirs, error_of_theirs = ran(path, True, Path(temporary))
                row += [f"{seconds:.0f} s", "", ""]
                if error_of_theirs:
                    row[-2:] = [error_of_theirs, ""]
                elif not error:
                    gap, other = compared(ours, theirs)
                    row[-2:] = [len(theirs), f"{gap:.0e}"]
                    differences += [f"{name}: {one}: {what}" for one, what in other.items()]
            print(*row, flush=True)
            rows.append(row)
    head = ["script", "outcome", "time", "reductions"]
    head += ["of pykeops", "arrays", "gap"] if options.with_pykeops else []
    print(f"\n{table(head, rows)}\n")
    named = [one for one in differences if ": ".join(one.split(": ")[:2]) not in DIFFERENCES]
    for one in differences:
        if one not in named:
            print(f"known: {one} ({DIFFERENCES[': '.join(one.split(': ')[:2])]})")
    return verdict(named, {})


if __name__ == "__main__":
    raise SystemExit(main())
