"""Run the tests of KeOps, and of libraries that use it, with `duckkeops.keops` as their pykeops.

    python conformance/keops/run.py                           # KeOps's own tests and operations
    python conformance/keops/run.py geomloss gpytorch gudhi   # those of others
    python conformance/keops/run.py all --sources FOLDER      # checkouts that you have
    python conformance/keops/run.py keops -- -k softmax       # what follows is handed to pytest
    python conformance/keops/run.py keops --with-pykeops      # with pykeops itself, to compare

Suites:
    keops       pykeops/test of KeOps 2.3
    operations  keopscore/test of KeOps 2.3: each operation, with what it compares asserted (as
                shipped it asserts that a list is not empty); needs keopscore's classes, which are
                those of the sources
    geomloss    the tests of geomloss 0.3.1; needs it, pytest-check and hypothesis
    gpytorch    the tests of gpytorch's KeOps kernels and of a Gaussian process with one, with
                LazyTensors where it puts a mock that is the tensor itself; needs gpytorch
    gudhi       the tests of GUDHI's nearest neighbours and distances to measures; needs gudhi,
                eagerpy, hnswlib and POT

Sources are brought once, into the cache: KeOps's from PyPI, which has its tests, those of others by
git. Or they are in FOLDER, as keops, geomloss, gpytorch, gudhi-devel: checkouts, or of KeOps the
unpacked pykeops-2.3 and keopscore-2.3.

Prints a table: what passed, failed, was skipped, how long it took, and how many reductions reached
duckkeops. `differences.txt` lists the tests that are known to fail, with reasons. The exit code is
1 if another test fails, one of those passes, or a suite computes nothing with duckkeops.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE.parent), str(ROOT)]

from report import table, verdict  # noqa: E402

FAILED, SKIPPED, PASSED = "failed", "skipped", "passed"
DIFFERENCES = HERE / "differences.txt"


@dataclass(frozen=True)
class Suite:
    """Tests of a project: where they may lie in its sources, what they need, how they are run."""

    project: str
    places: tuple[str, ...]
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    files: tuple[str, ...] = (".",)
    path: tuple[str, ...] = ()  # folders of the sources to import from
    apart: bool = False  # run away from their packages, which would be imported


SUITES = {
    "keops": Suite(
        "keops",
        ("pykeops/pykeops/test", "pykeops-2.3/pykeops/test"),
        apart=True,
    ),
    "operations": Suite(
        "keops",
        ("keopscore/keopscore/test", "keopscore-2.3/keopscore/test"),
        apart=True,
        path=("keopscore", "keopscore-2.3"),
    ),
    "geomloss": Suite("geomloss", ("tests",), ("geomloss", "pytest_check", "hypothesis")),
    "gpytorch": Suite(
        "gpytorch",
        ("test",),
        ("gpytorch",),
        ("-k", "KeOps and not BaseKernel"),
        ("kernels/keops", "examples/test_keops_gp_regression.py"),
    ),
    "gudhi": Suite(
        "gudhi-devel",
        ("src/python/test",),
        ("gudhi", "eagerpy", "hnswlib", "ot"),
        files=("test_knn.py", "test_dtm.py"),
    ),
}
BY_GIT = {  # where, at which tag, and which of its folders
    "geomloss": ("https://github.com/jeanfeydy/geomloss", "v0.3.1", "tests"),
    "gpytorch": ("https://github.com/cornellius-gp/gpytorch", "v1.15.2", "test"),
    "gudhi-devel": (
        "https://github.com/GUDHI/gudhi-devel",
        "tags/gudhi-release-3.12.0",
        "src/python/test",
    ),
}


class Outcome(NamedTuple):
    """Of one suite: the outcome of each test, seconds, and reductions that reached duckkeops."""

    tests: dict[str, str]
    seconds: float
    calls: int


# -- sources ---------------------------------------------------------------------------------------


def folder_of(project: str, sources: str | None) -> Path:
    """The sources of a project, which are brought into the cache if they are not there."""
    if sources is not None:
        folder = Path(sources).resolve()
        return folder / project if (folder / project).exists() else folder
    from platformdirs import user_cache_path

    folder = user_cache_path("duckkeops") / "conformance" / project
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=made(folder.parent)) as temporary:
            part = Path(temporary) / project
            by_git(project, part) if project in BY_GIT else by_pip(part)
            part.rename(folder)
    return folder


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def by_pip(folder: Path) -> None:
    folder.mkdir()
    called(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
        *("--no-binary", ":all:", "--dest", folder, "pykeops==2.3", "keopscore==2.3"),
    )
    for archive in folder.glob("*.tar.gz"):
        called("tar", "-xzf", archive, "-C", folder)


def by_git(project: str, folder: Path) -> None:
    url, tag, part = BY_GIT[project]
    git = ("git", "-c", "advice.detachedHead=false")
    sparse = ("--depth", "1", "--filter=blob:none", "--sparse", "--branch", tag)
    called(*git, "clone", "--quiet", *sparse, url, folder)
    called(*git, "-C", folder, "sparse-checkout", "set", part)


def called(*command: object) -> None:
    try:
        subprocess.run([str(part) for part in command], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"the sources could not be brought: {error}\n"
            "  Bring them yourself, and say where they are: --sources FOLDER"
        ) from None


def tests_of(name: str, sources: str | None) -> tuple[Path, list[Path]]:
    """The folder of a suite's tests, and those to import from."""
    suite = SUITES[name]
    missing = [module for module in suite.needs if importlib.util.find_spec(module) is None]
    if missing:
        raise SystemExit(
            f"the suite {name} needs {', '.join(missing)}, which cannot be imported here."
        )
    folder = folder_of(suite.project, sources)
    for place in suite.places:
        if (folder / place).is_dir():
            return folder / place, [p for p in (folder / one for one in suite.path) if p.is_dir()]
    raise SystemExit(f"{folder} has no folder {' or '.join(suite.places)}.")


# -- runs ------------------------------------------------------------------------------------------


def outcome_of(name: str, sources: str | None, theirs: bool, extra: Sequence[str]) -> Outcome:
    """Run a suite in a process of its own."""
    folder, path = tests_of(name, sources)
    with tempfile.TemporaryDirectory() as temporary:
        log, calls = Path(temporary) / "outcomes.xml", Path(temporary) / "calls.json"
        if SUITES[name].apart:
            copies = Path(temporary) / "tests"
            ignored = shutil.ignore_patterns("__init__.py", "__pycache__")
            folder = shutil.copytree(folder, copies, ignore=ignored)
        command = [
            *(
                sys.executable,
                "-m",
                "pytest",
                *SUITES[name].files,
                "-q",
                "--tb=short",
                "-p",
                "as_pykeops",
            ),
            *("-p", "no:cacheprovider", "-o", "addopts=", "--junitxml", str(log)),
            *(*SUITES[name].options, *extra),
        ]
        paths = [*path, HERE, ROOT, os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, map(str, paths))),
            "KEOPS_CONFORMANCE": json.dumps({"suite": name, "theirs": theirs, "calls": str(calls)}),
        }
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment)
        seconds = time.perf_counter() - start
        if not log.exists():
            raise SystemExit(f"the suite {name} did not start; pytest says above why.")
        cases = ElementTree.parse(log).iter("testcase")
        tests = {f"{name}/{named(case)}": result(case) for case in cases}
        return Outcome(tests, seconds, json.loads(calls.read_text()) if calls.exists() else 0)


def named(case: ElementTree.Element) -> str:
    """file.py::Class::test[parameters], the file without its folders."""
    parts = case.attrib.get("classname", "").split(".")
    file = next((n for n, part in enumerate(parts) if part.startswith("test_")), len(parts) - 1)
    return "::".join([f"{parts[file]}.py", *parts[file + 1 :], case.attrib["name"]])


def result(case: ElementTree.Element) -> str:
    kinds = {child.tag for child in case}
    return FAILED if kinds & {"failure", "error"} else SKIPPED if "skipped" in kinds else PASSED


def listed() -> dict[str, str]:
    """The tests that are known to fail, with reasons: lines `suite/file.py::test  # reason`."""
    lines = DIFFERENCES.read_text().splitlines()
    pairs = [line.rsplit("  # ", 1) for line in lines if line and not line.startswith("#")]
    for pair in pairs:
        if len(pair) != 2 or not pair[1].strip():
            raise SystemExit(f"{DIFFERENCES.name}: no reason is given for {pair[0]}")
    return dict(pairs)


def rows(found: dict[str, Outcome], known: dict[str, str]) -> list[tuple[object, ...]]:
    """For each suite: how many passed, failed as listed, failed otherwise, were skipped; seconds
    and calls.
    """
    out = []
    for name, outcome in found.items():
        kinds = Counter(
            "unlisted" if kind == FAILED and test not in known else kind
            for test, kind in outcome.tests.items()
        )
        counts = (kinds[kind] for kind in (PASSED, FAILED, "unlisted", SKIPPED))
        out.append((name, *counts, f"{outcome.seconds:.0f} s", outcome.calls))
    return out


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0], epilog="What follows -- is handed to pytest."
    )
    parser.add_argument("suites", nargs="*", help=f"{', '.join(SUITES)}, or all")
    parser.add_argument("--sources", help="a folder of checkouts")
    parser.add_argument("--with-pykeops", action="store_true", help="run pykeops, not ours")
    words = sys.argv[1:]
    place = words.index("--") if "--" in words else len(words)
    options, extra = parser.parse_args(words[:place]), words[place + 1 :]
    names = list(SUITES) if "all" in options.suites else options.suites or ["keops", "operations"]
    if unknown := [name for name in names if name not in SUITES]:
        parser.error(f"there is no suite {unknown[0]}; the suites are {', '.join(SUITES)}.")
    known = listed()
    theirs = options.with_pykeops
    found = {name: outcome_of(name, options.sources, theirs, extra) for name in names}
    head = ("suite", PASSED, "failed, listed", "failed, unlisted", SKIPPED, "time", "reductions")
    print(f"\n{'pykeops' if theirs else 'duckkeops.keops'}\n\n{table(head, rows(found, known))}\n")
    tests = {test: kind for outcome in found.values() for test, kind in outcome.tests.items()}
    if theirs:
        return 0
    differences = [test for test, kind in tests.items() if kind == FAILED]
    differences += [f"{name}: nothing was computed" for name in names if not found[name].calls]
    return verdict(differences, {test: why for test, why in known.items() if test in tests})


if __name__ == "__main__":
    raise SystemExit(main())
