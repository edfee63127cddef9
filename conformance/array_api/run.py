"""Run data-apis/array-api-tests on `duckkeops.array_api`.

    python conformance/array_api/run.py                  # the suite is cloned once, into the cache
    python conformance/array_api/run.py --suite PATH     # a checkout of the suite that you have
    python conformance/array_api/run.py -k linalg        # what follows is handed to pytest

A checkout is that of https://github.com/data-apis/array-api-tests with its submodule `array-api`,
the standard itself, from which names, signatures and special cases are read. Needs pytest,
hypothesis and ndindex. Some minutes, without a compiler.

The suite tests arrays that are not virtual: values, promotion, signatures, indexing, DLPack.
`tests/test_array_api.py` tests the same functions on virtual ones.

Prints a table of outcomes. `xfails.txt` and `skips.txt` list what does not pass, each test with its
reason; the exit code is 1 if a test that they do not list fails or is skipped, or one that they
list passes. A reason that starts with "sometimes" is of a test that passes with some examples of
hypothesis, which is derandomized, so that a second run says the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

from report import table, verdict  # noqa: E402

URL = "https://github.com/data-apis/array-api-tests"
COMMIT = "55fcc60"  # of 2026-04; the lists below are about this one
NAMESPACE = "duckkeops.array_api"
FAILED, SKIPPED, PASSED = "failed", "skipped", "passed"


def listed(name: str) -> dict[str, str]:
    """The tests that a list names, with their reasons: lines `test  # reason`."""
    lines = (HERE / name).read_text().splitlines()
    pairs = [line.rsplit("  # ", 1) for line in lines if line and not line.startswith("#")]
    for pair in pairs:
        if len(pair) != 2 or not pair[1].strip():
            raise SystemExit(f"{name}: no reason is given for {pair[0]}")
    return dict(pairs)


def suite(path: str | None) -> Path:
    """The folder of the suite, cloned into the cache if it is not there."""
    if path is None:
        from platformdirs import user_cache_path

        folder = user_cache_path("duckkeops") / f"array-api-tests-{COMMIT}"
        if not folder.exists():
            clone(folder)
    else:
        folder = Path(path).resolve()
    if not (folder / "array-api" / "src" / "array_api_stubs").exists():
        raise SystemExit(
            f"{folder} has no submodule array-api, from which the tests are made.\n"
            f"  Bring it: git -C {folder} submodule update --init"
        )
    return folder


def clone(folder: Path) -> None:
    git = ("git", "-c", "advice.detachedHead=false")
    try:
        subprocess.run([*git, "clone", "--quiet", URL, folder], check=True)
        subprocess.run([*git, "-C", folder, "checkout", "--quiet", COMMIT], check=True)
        update = ("submodule", "update", "--quiet", "--init", "--depth", "1")
        subprocess.run([*git, "-C", folder, *update], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"the suite could not be cloned from {URL}: {error}\n"
            "  Clone it elsewhere, with its submodule, and say where: --suite PATH"
        ) from None


def outcomes(folder: Path, examples: int, extra: list[str]) -> dict[str, str]:
    """The outcome of each test, by its name."""
    with tempfile.TemporaryDirectory() as temporary:
        log = Path(temporary) / "outcomes.xml"
        command = [
            *(sys.executable, "-m", "pytest", "array_api_tests", "-q", "--tb=short"),
            *("-p", "no:cacheprovider", "--disable-deadline", "--derandomize"),
            *("--max-examples", str(examples), "--junitxml", str(log), *extra),
        ]
        paths = [str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "ARRAY_API_TESTS_MODULE": NAMESPACE,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        subprocess.run(command, cwd=folder, env=environment)
        if not log.exists():
            raise SystemExit("the suite did not start; pytest says above why.")
        cases = ElementTree.parse(log).iter("testcase")
        return {name(case): outcome(case) for case in cases}


def name(case: ElementTree.Element) -> str:
    """As pytest writes it: file.py::Class::test[parameters]."""
    parts = case.attrib["classname"].split(".")
    file = next(n for n, part in enumerate(parts) if part.startswith("test_")) + 1
    return "::".join(["/".join(parts[:file]) + ".py", *parts[file:], case.attrib["name"]])


def outcome(case: ElementTree.Element) -> str:
    kinds = {child.tag for child in case}
    return FAILED if kinds & {"failure", "error"} else SKIPPED if "skipped" in kinds else PASSED


def rows(found: dict[str, str], known: dict[str, str]) -> list[tuple[object, ...]]:
    """For each file, and in all: how many passed, failed as listed, failed otherwise, skipped."""
    counts: dict[str, Counter] = {}
    for test, result in found.items():
        file = test.partition("::")[0].rpartition("/")[2]
        kind = "unlisted" if result == FAILED and test not in known else result
        for key in (file, "all"):
            counts.setdefault(key, Counter())[kind] += 1
    ordered = sorted(counts, key=lambda key: (key == "all", key))
    kinds = (PASSED, FAILED, "unlisted", SKIPPED)
    return [(key, *(counts[key][kind] for kind in kinds)) for key in ordered]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--suite", help="a checkout of array-api-tests")
    parser.add_argument("--max-examples", type=int, default=20, help="of hypothesis, for each test")
    options, extra = parser.parse_known_args()
    failures, skips = listed("xfails.txt"), listed("skips.txt")
    found = outcomes(suite(options.suite), options.max_examples, extra)
    print(f"\n{NAMESPACE}, {options.max_examples} examples for each test\n")
    head = ("file", PASSED, "failed, listed", "failed, unlisted", SKIPPED)
    print(table(head, rows(found, failures)) + "\n")
    differences = [test for test, result in found.items() if result != PASSED]
    known = failures | skips
    if extra:  # only some tests were asked for
        known = {test: reason for test, reason in known.items() if test in found}
    passed = {test for test, reason in known.items() if reason.startswith("sometimes")}
    passed -= set(differences)
    return verdict(differences, {t: reason for t, reason in known.items() if t not in passed})


if __name__ == "__main__":
    raise SystemExit(main())
