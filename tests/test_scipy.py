"""The calls of conformance/scipy_unchanged.py, one by one."""

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "conformance"


def _load():
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location(
            "conformance_scipy", FOLDER / "scipy_unchanged.py"
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


conformance = _load()


@pytest.mark.parametrize(
    "row",
    [*conformance.SOLVERS, *conformance.POINTS, *conformance.VIRTUAL],
    ids=lambda row: row.name,
)
def test_call(row):
    seen, message = conformance.outcome(row)
    assert seen == row.outcome
    assert row.message in message


def test_difference_is_seen():
    """A call whose value on lazy arrays is another one."""
    row = conformance.Row("wrong", lambda w: 1.0 if w is conformance.LazyArray else 2.0)
    assert conformance.outcome(row)[0] == "differs"
    assert conformance.of_rows("wrong", [row]) == ["wrong: differs, ''"]
