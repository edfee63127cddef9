"""A plugin of pytest for run.py: duckkeops.keops becomes pykeops before tests are collected.

KEOPS_CONFORMANCE says for which suite, and where to write how many reductions reached duckkeops.
"""

import functools
import importlib.abc
import importlib.machinery
import json
import os
import sys
from pathlib import Path
from unittest import mock

import duckkeops.keops

HOW = json.loads(os.environ["KEOPS_CONFORMANCE"])

if not HOW["theirs"]:
    duckkeops.keops.install()


def pytest_configure(config):
    if HOW["suite"] == "operations" and not HOW["theirs"]:
        _uncover()
    if HOW["suite"] == "gpytorch":
        _unmock()


class _Sources(importlib.abc.MetaPathFinder):
    """Finds keopscore in the sources: its classes say what to test of each operation."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] != "keopscore":
            return None
        return importlib.machinery.PathFinder.find_spec(fullname, path, target)


def _uncover():
    for name in [name for name in sys.modules if name.partition(".")[0] == "keopscore"]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Sources())


def _unmock():
    """gpytorch replaces LazyTensor by what returns the tensor itself, so that KeOps is not met."""
    from gpytorch.test import base_keops_test_case as case
    from pykeops.torch import LazyTensor

    case.patch = lambda target, wraps: mock.patch(target, wraps=LazyTensor)  # type: ignore[assignment]


def pytest_collection_modifyitems(items):
    for item in items:
        module = getattr(item, "module", None)
        if HOW["suite"] == "operations" and module and hasattr(module, "perform_test"):
            module.perform_test = strict(module.perform_test)


def strict(perform):
    """KeOps asserts that the list of comparisons is not empty; this asserts each of them."""
    if hasattr(perform, "__wrapped__"):
        return perform

    @functools.wraps(perform)
    def performed(*args, **kwargs):
        out = perform(*args, **kwargs)
        assert out is None or all(out), f"value and gradients agree: {out}"
        return out

    return performed


def pytest_sessionfinish(session):
    if not HOW["theirs"]:
        Path(HOW["calls"]).write_text(json.dumps(sum(duckkeops.keops.calls().values())))
