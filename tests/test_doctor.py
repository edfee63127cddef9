"""python -m duckkeops doctor: what it finds, and what it says of what is broken."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_cpu import ROOT

from duckkeops.engines import cpu

needs_compiler = pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")


def doctor(cache: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DUCKKEOPS_CACHE_DIR": str(cache)}
    return subprocess.run(
        [sys.executable, "-m", "duckkeops", *(arguments or ("doctor",))],
        capture_output=True,
        text=True,
        env={**env, **environment},
        timeout=300,
    )


@needs_compiler
def test_all_is_well(tmp_path: Path) -> None:
    answer = doctor(tmp_path / "cache", DUCKKEOPS_NUM_THREADS="3", OMP_NUM_THREADS="2")
    assert answer.returncode == 0 and answer.stderr == "", answer.stdout + answer.stderr
    lines = dict(line.split(maxsplit=1) for line in answer.stdout.splitlines()[:-1])
    assert lines["Python"].startswith(sys.version.split()[0])
    assert {"duckkeops", "numpy", "sympy", "array-api-compat", "compiler"} < set(lines)
    assert lines["instructions"].startswith(cpu.target().name)
    assert lines["threads"] == "3, as DUCKKEOPS_NUM_THREADS says"
    assert lines["cache"].startswith(f"{tmp_path / 'cache'}: ")
    assert lines["kernel"] == "right: built, loaded and run"
    assert answer.stdout.count(": taken: ") == 1
    assert answer.stdout.endswith("\nall is well\n")
    # the kernel of the doctor is not kept
    assert {p.suffix for p in (tmp_path / "cache").iterdir()} <= {".version", ""}


@pytest.mark.parametrize(
    ("environment", "seen", "advice"),
    [
        ({"DUCKKEOPS_CC": "/no/cc"}, "/no/cc: not used: it is not there", "unset DUCKKEOPS_CC"),
        ({"DUCKKEOPS_CFLAGS": "-fnonsense"}, "none works", "unset DUCKKEOPS_CFLAGS"),
        ({"DUCKKEOPS_ISA": "x87"}, "DUCKKEOPS_ISA=x87 is not one", "unset it"),
        ({"DUCKKEOPS_CACHE_SIZE": "x"}, "DUCKKEOPS_CACHE_SIZE=x is not", "DUCKKEOPS_CACHE_SIZE"),
        (
            {"DUCKKEOPS_NUM_THREADS": "two", "OMP_NUM_THREADS": "3"},
            "3, as OMP_NUM_THREADS says: DUCKKEOPS_NUM_THREADS=two is not a number of threads",
            "Correct or unset DUCKKEOPS_NUM_THREADS: a whole number",
        ),
        (
            {"DUCKKEOPS_NUM_THREADS": "0", "OMP_NUM_THREADS": "-1"},
            "DUCKKEOPS_NUM_THREADS=0 and OMP_NUM_THREADS=-1 are not",
            "unset DUCKKEOPS_NUM_THREADS and OMP_NUM_THREADS",
        ),
        ({"DUCKKEOPS_CACHE_DIR": os.devnull}, "cannot be written", "Set DUCKKEOPS_CACHE_DIR"),
    ],
)
@needs_compiler
def test_what_is_broken_is_told_with_what_to_do(
    tmp_path: Path, environment: dict[str, str], seen: str, advice: str
) -> None:
    answer = doctor(tmp_path, **environment)
    assert answer.returncode == 1
    lines = answer.stdout.splitlines()
    assert any(seen in line for line in lines), answer.stdout
    assert any(advice in line for line in lines if "-> " in line), answer.stdout
    assert lines[-1].startswith("1 broken")


BLIND = """
import sys
sys.modules["ziglang"] = None  # as on a machine without the extra cc
from duckkeops import __main__
raise SystemExit(__main__.main(["doctor"]))
"""


def test_a_machine_without_a_compiler(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": str(tmp_path),
        "CC": "",
        "DUCKKEOPS_CC": "",
    }
    answer = subprocess.run(
        [sys.executable, "-c", BLIND], capture_output=True, text=True, env=env, timeout=300
    )
    assert answer.returncode == 1
    assert "pip install 'duckkeops[cc]'" in answer.stdout and "kernel " not in answer.stdout


WRONG = """
import numpy, sys
from duckkeops import LazyArray, doctor
type(LazyArray(numpy.zeros(1))).argmin = lambda self, axis: numpy.zeros(100, int)
doctor.smoke()
"""


@needs_compiler
def test_wrong_numbers_are_told() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", WRONG], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert answer.returncode == 1 and "nearest neighbours of 100" in answer.stderr


@pytest.mark.skipif(shutil.which("gcc") is None or os.name != "posix", reason="no gcc here")
def test_a_kernel_that_crashes_is_told(tmp_path: Path) -> None:
    """A compiler that makes nonsense of the kernel."""
    fake = tmp_path / "gcc"
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in *-version*) exec {shutil.which("gcc")} "$@";; esac\n'
        f'sed "s/^i64 record_bytes(/i64 record_bytes(void *x) {{ __builtin_trap(); }} '
        f'int other(/" | '
        f'{shutil.which("gcc")} "$@"\n'
    )
    fake.chmod(0o755)
    answer = doctor(tmp_path / "cache", DUCKKEOPS_CC=str(fake))
    assert answer.returncode == 1 and "crashed: SIG" in answer.stdout, answer.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((), "required: command"), (("docter",), "invalid choice"), (("cache", "-x"), "unrecognized")],
)
def test_commands_that_are_not_there(arguments: tuple[str, ...], message: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "duckkeops", *arguments], capture_output=True, text=True, cwd=ROOT
    )
    assert answer.returncode == 2 and message in answer.stderr
    assert answer.stderr.startswith("usage: python -m duckkeops")
