"""The benchmarks measure what they say: right answers, costs of a pair, a table."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from duckkeops.engines import cpu

FOLDER = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(FOLDER))

import peers  # noqa: E402
import rows  # noqa: E402
from rows import Row  # noqa: E402

ROWS = [*rows.MAIN, *rows.FORMULAS]
LIBRARIES = ("duckkeops", "NumPy", "cKDTree")


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_libraries_agree_with_float64(row: Row, library: str) -> None:
    x, y, b = rows.inputs(row, 80, "float64")
    call = peers.PEERS[library](row, x, y, b, 1)
    if call is None:
        assert library != "duckkeops"
        return
    right = rows.answer(row, x[:7], y, b)
    assert rows.error(row, call(80), right) <= rows.tolerance("float64")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_wrong_answers_are_noticed(row: Row) -> None:
    x, y, b = rows.inputs(row, 80, "float64")
    right = rows.answer(row, x[:7], y, b)
    call = peers.duckkeops(row, x, y, b, 1)
    out = np.array(call(80))
    if row.kind in rows.INDICES:
        out[3] = (out[3] + 1) % 80
        assert rows.error(row, out, right) > rows.tolerance("float32")
        out[3] = 80  # there is no such row of y
    else:
        out[3] += 1e-3 * np.abs(right).max()
    assert rows.error(row, out, right) > rows.tolerance("float32")


def test_costs_of_a_pair() -> None:
    costs = [(rows.fma_operations(r, "float32"), rows.port_operations(r, "float32")) for r in ROWS]
    known = dict(zip([row.name for row in ROWS], costs, strict=True))
    assert known["gaussian D=3"] == (11, 16)
    assert known["gaussian D=3 E=16"] == (26, 31)
    assert known["argmin D=10"] == (10, 15)
    assert known["argmin D=784"] == (784, 789)
    assert known["attention D=64 E=64"] == (135, 140)
    assert known["laplacian D=3"] == (None, None)


@pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")
def test_cpu_prints_a_table(tmp_path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(FOLDER)!r})
from pathlib import Path
import cpu, interleave
interleave.RESULTS = Path({str(tmp_path)!r})
cpu.main()
"""
    options = ["--quick", "--rows", "argmin D=3", "--peers", "NumPy", "--size", "256"]
    run = subprocess.run(
        [sys.executable, "-c", script, *options, "--dtype", "float32", "--save", "one"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "| argmin D=3 | **" in run.stdout
    kept = json.loads((tmp_path / "one.json").read_text())
    (result,) = kept["rows"]
    assert set(result["peers"]) == {"duckkeops", "NumPy"}
    assert len(result["peak_gfma"]) == len(result["peers"]["NumPy"]["rounds"]) == 3
    assert (tmp_path / "one.md").read_text() in run.stdout


def test_an_unknown_row_is_refused_with_the_known_ones() -> None:
    run = subprocess.run(
        [sys.executable, str(FOLDER / "cpu.py"), "--rows", "gausian"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("there is no row 'gausian'. There are main, formulas, gaussian,")
