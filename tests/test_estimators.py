"""The estimators of conformance/estimators.py: equal to the dense run, and small in memory."""

import importlib.util
import re
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from duckkeops.engines import cpu

SCRIPT = Path(__file__).parent.parent / "conformance" / "estimators.py"


def load():
    sys.path.insert(0, str(SCRIPT.parent))  # where it finds its table
    spec = importlib.util.spec_from_file_location("estimators", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


estimators = load()
# Each of them once, since most of the time is compilation; the script runs all combinations.
RUNS = list(zip(estimators.NAMES, cycle(["float64", "float32"]), cycle(estimators.WRAPPED)))


@pytest.mark.parametrize(("name", "dtype", "wrapped"), RUNS)
def test_lazy_inputs_give_the_results_of_the_dense_run(name, dtype, wrapped):
    found = estimators.differences(estimators.NAMES[name], dtype, wrapped, points=90)
    assert found and not any(found.values()), found


def test_what_counts_as_a_difference():
    dense = np.array([1.0, 2.0])
    assert estimators.difference(dense.copy(), dense, 1e-9) == ""
    assert "1.0e-06 of" in estimators.difference(dense + 2e-6, dense, 1e-9)
    assert "float32" in estimators.difference(dense.astype("float32"), dense, 1e-9)
    assert "list" in estimators.difference([1.0, 2.0], dense, 1e-9)
    assert "not finite" in estimators.difference(dense, dense * np.nan, 1e-9)
    assert estimators.difference(np.array([1, 2]), np.array([1, 3]), 1) == "1 of 2 entries"


@pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")
def test_large_runs_add_little_memory():
    names = ["k_neighbors_classifier", "mean_shift"]  # dense: 9.6 GB each
    command = [sys.executable, SCRIPT, *names, "--points", "20000", "--dtype", "float64"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    assert all(re.search(rf"{name} +float64  10 GB .* MB\n", run.stdout) for name in names)


def test_a_run_above_the_limit_fails():
    command = [sys.executable, SCRIPT, "chamfer", "--points", "100", "--dtype", "float64"]
    run = subprocess.run([*command, "--limit", "0"], capture_output=True, text=True, timeout=300)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "differs: chamfer, float64: more than 0 MB" in run.stdout


def test_scikit_learn_unchanged():
    """Its rows about kernels and neighbours; the script runs the slow ones too."""
    names = ["rbf_kernel", "argmin", "check_array", "kneighbors", "LabelProp", "Nystroem"]
    command = [sys.executable, SCRIPT.with_name("sklearn_unchanged.py"), *names]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
