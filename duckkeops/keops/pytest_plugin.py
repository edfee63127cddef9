"""Runs the tests of a library that uses KeOps on duckkeops: pytest -p duckkeops.keops.pytest_plugin

`import pykeops` finds duckkeops.keops from before the first conftest.py, and the summary tells how
many reductions reached us. --keops-calls=N fails a run with fewer.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator
from typing import Any

import pytest

from duckkeops import keops

NAME = "duckkeops.keops.pytest_plugin"
_of_workers: collections.Counter[str] = collections.Counter()


def pytest_addoption(parser: Any) -> None:
    parser.getgroup("duckkeops").addoption(
        "--keops-calls",
        type=int,
        default=0,
        metavar="N",
        help="fail if fewer than N of KeOps's reductions were computed by duckkeops",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    keops.install()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: Any) -> None:
    keops.install()
    keops.reset_calls()
    _of_workers.clear()


@pytest.hookimpl(wrapper=True)
def pytest_sessionstart() -> Iterator[None]:
    """Workers of pytest-xdist read their conftest.py before the plugins of the command line."""
    before = os.environ.get("PYTEST_PLUGINS")
    os.environ["PYTEST_PLUGINS"] = ",".join(filter(None, [before, NAME]))
    try:
        return (yield)
    finally:
        if before is None:
            del os.environ["PYTEST_PLUGINS"]
        else:
            os.environ["PYTEST_PLUGINS"] = before


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _of_workers.update(getattr(node, "workeroutput", {}).get("duckkeops_calls", {}))


def _calls() -> collections.Counter[str]:
    return collections.Counter(keops.calls()) + _of_workers


def pytest_sessionfinish(session: Any) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["duckkeops_calls"] = keops.calls()
    elif _calls().total() < session.config.option.keops_calls and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    calls = _calls()
    each = ", ".join(f"{n} {name}" for name, n in calls.most_common())
    line = f"duckkeops as pykeops: {calls.total()} reductions" + (f" ({each})" if each else "")
    wanted = config.option.keops_calls
    if calls.total() < wanted:
        line += f"; --keops-calls={wanted} asks for more: this suite does not test KeOps"
    terminalreporter.write_sep("-", line)


def pytest_unconfigure() -> None:
    keops.uninstall()
