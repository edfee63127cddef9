"""Every NumPy function that can be overridden has a class, an example and NumPy's signature;
what is refused allocates nothing.
"""

import importlib.util
import inspect
import re
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import overrides

from duckkeops import LazyArray, UnsupportedError, config, ops
from duckkeops.numpy_table import (
    CLASSES,
    COMPOSED,
    GUFUNCS,
    HANDLERS,
    REFUSED_UFUNCS,
    class_of,
    remedy_of,
)

SCRIPT = Path(__file__).parent.parent / "conformance" / "numpy_functions.py"


def _load():
    sys.path.insert(0, str(SCRIPT.parent))  # where its own report.py lies
    try:
        spec = importlib.util.spec_from_file_location("conformance_numpy_functions", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.pop(0)


conformance = _load()
FUNCTIONS = conformance.overridable()
CALLS = conformance.calls()
REFUSED = [call for call in CALLS if call.outcome == "refused"]


def name_of(f):
    return FUNCTIONS.get(f, getattr(f, "__name__", str(f)))


def test_no_function_is_unclassified():
    assert [name for f, name in FUNCTIONS.items() if class_of(f) is None] == []
    assert len(FUNCTIONS) >= 350


def test_no_function_of_numpys_modules_is_unclassified():
    """Text, records and polynomials too: all that `numpy.testing.overrides` knows."""
    known = overrides.get_overridable_numpy_array_functions()
    public = [getattr(np, f.__name__, f) if f.__module__ == "numpy" else f for f in known]
    assert [f"{f.__module__}.{f.__name__}" for f in public if class_of(f) is None] == []


def test_every_function_is_in_one_class():
    for f, name in FUNCTIONS.items():
        tables = [*CLASSES.values(), GUFUNCS, COMPOSED, REFUSED_UFUNCS]
        found = sum(f in rows for rows in tables)
        assert found <= 1, name
        if not found:
            assert f in ops.BY_FUNCTION or remedy_of(f), name


def test_the_table_names_only_functions_that_can_be_overridden():
    for rows in CLASSES.values():
        assert [f for f in rows if f not in FUNCTIONS] == []


def test_every_function_has_an_example():
    shown = {call.function for call in CALLS}
    assert [name for f, name in FUNCTIONS.items() if f not in shown] == []


def test_every_class_has_examples_of_its_own_outcome():
    """A lazy function stays lazy, a refused one refuses; others do at least one thing."""
    outcomes = {}
    for call in CALLS:
        outcomes.setdefault(call.function, set()).add(call.outcome)
    for f, seen in outcomes.items():
        expected = {"lazy": "lazy", "refused": "refused", "metadata": "genuine", "point": "genuine"}
        kind = class_of(f)
        if kind in expected:
            assert expected[kind] in seen, name_of(f)
        elif kind == "reduces":
            assert "genuine" in seen, name_of(f)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.text)
def test_it_does_what_numpy_does(call):
    with config(engine="blocks"):
        how = conformance.outcome(call)
    assert bool(how) == (call.text in conformance.DIFFERENCES), how


# -- signatures ------------------------------------------------------------------------------------


def parameters(f):
    try:
        return inspect.signature(f).parameters
    except ValueError:
        return None


@pytest.mark.parametrize("f", HANDLERS, ids=name_of)
def test_every_argument_of_numpy_is_taken(f):
    theirs, ours = parameters(f), parameters(HANDLERS[f])
    if theirs is None or class_of(f) == "metadata":
        return
    kinds = {p.kind for p in ours.values()}
    anything = inspect.Parameter.VAR_KEYWORD in kinds
    positional = [
        p for p in theirs.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    named = [p.name for p in theirs.values() if p.kind == p.KEYWORD_ONLY]
    assert anything or [n for n in named if n not in ours] == []
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return
    order = [p.name for p in ours.values() if p.kind != p.KEYWORD_ONLY]
    for p, own in zip(positional[1:], order[1:], strict=False):
        assert p.kind == p.POSITIONAL_ONLY or p.name == own, order
    assert len(order) >= len(positional), order


# -- refusals --------------------------------------------------------------------------------------

M, N = 20_000, 15_000


@pytest.fixture(scope="module")
def large():
    return conformance.namespace(LazyArray, M, N)


@pytest.mark.parametrize("call", REFUSED, ids=lambda call: call.text)
def test_a_refusal_allocates_nothing_and_says_what_to_do(call, large):
    if call.text in conformance.DIFFERENCES:
        return
    tracemalloc.start()
    try:
        with pytest.raises(UnsupportedError) as caught, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            eval(call.text, dict(large))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4e6, f"{peak} bytes"  # all entries are 2.2 GiB or more
    message = str(caught.value)
    own = FUNCTIONS[call.function].rpartition(".")[2]
    assert own in message.splitlines()[0], message
    if "kind='stable'" in message:  # says what of the result is not known
        return
    assert re.search(r"\(\d+, \d+(, \d+)?\) \w+", message), message
    assert re.search(r"\d (KiB|MiB|GiB)", message) or "length depends" in message, message
    assert len(message.splitlines()) >= 2, message


def test_the_script_ends_with_1_on_a_difference_that_is_not_listed(capsys):
    verdict = conformance.verdict
    assert verdict([], {}) == verdict(["f(d)"], {"f(d)": "a reason"}) == 0
    assert verdict(["f(d)"], {}) == verdict([], {"f(d)": "a reason"}) == 1
    assert capsys.readouterr().out.splitlines() == [
        "differs: f(d)",
        "listed, but agrees now: f(d) (a reason)",
    ]
