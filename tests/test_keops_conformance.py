"""The scripts of conformance/keops: the tutorial block by block, and how outcomes are judged."""

import importlib.util
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parent.parent / "conformance" / "keops"


def load(name):
    spec = importlib.util.spec_from_file_location(
        f"conformance_keops_{name}", FOLDER / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


tutorial, run, examples = load("tutorial"), load("run"), load("examples")


@pytest.mark.parametrize("spelling", tutorial.SPELLINGS)
@pytest.mark.parametrize("title", tutorial.BLOCKS)
def test_the_tutorial_prints_what_keops_prints(title, spelling, capsys):
    torch.manual_seed(0)
    tutorial.BLOCKS[title](tutorial.Run(spelling, 200, 300, "cpu"))
    assert capsys.readouterr().out


def test_other_texts_and_values_are_told():
    with pytest.raises(AssertionError, match="the tutorial prints"):
        tutorial.shown("shape: (3, 4)", "shape: (3, 5)")
    with pytest.raises(AssertionError, match="the tutorial prints"):
        tutorial.described("a_i", torch.zeros(3), (3, 1))
    with pytest.raises(AssertionError, match="from dense values"):
        tutorial.agrees(torch.ones(3), torch.tensor([1.0, 1, 1.01]), "ones")


CASES = """<testsuite>
<testcase classname="pykeops.test.test_torch.Case" name="test_sum" />
<testcase classname="test_numpy" name="test_lse[1.5]"><failure/></testcase>
<testcase classname="test_gpu" name="test_half"><skipped/></testcase>
</testsuite>"""


def test_outcomes_are_named_and_counted():
    cases = list(ElementTree.fromstring(CASES))
    tests = {f"keops/{run.named(case)}": run.result(case) for case in cases}
    assert tests == {
        "keops/test_torch.py::Case::test_sum": "passed",
        "keops/test_numpy.py::test_lse[1.5]": "failed",
        "keops/test_gpu.py::test_half": "skipped",
    }
    found = {"keops": run.Outcome(tests, 3.2, 7)}
    assert run.rows(found, {}) == [("keops", 1, 0, 1, 1, "3 s", 7)]
    known = {"keops/test_numpy.py::test_lse[1.5]": "why"}
    assert run.rows(found, known) == [("keops", 1, 1, 0, 1, "3 s", 7)]


def test_each_listed_difference_has_a_suite_and_a_reason(monkeypatch, tmp_path):
    for test, reason in run.listed().items():
        assert test.partition("/")[0] in run.SUITES and reason
    monkeypatch.setattr(run, "DIFFERENCES", tmp_path / "differences.txt")
    run.DIFFERENCES.write_text("keops/test_torch.py::test_sum\n")
    with pytest.raises(SystemExit, match="no reason"):
        run.listed()


def test_sources_that_are_not_there_are_told(tmp_path):
    with pytest.raises(SystemExit, match="has no folder pykeops/pykeops/test"):
        run.tests_of("keops", str(tmp_path))


def test_comparisons_of_operations_are_asserted(monkeypatch):
    monkeypatch.setenv("KEOPS_CONFORMANCE", '{"suite": "operations", "theirs": true, "calls": ""}')
    strict = load("as_pykeops").strict
    assert strict(lambda name: [True, True])("Exp") == [True, True]
    assert strict(lambda name: None)("Elem") is None
    with pytest.raises(AssertionError, match="agree"):
        strict(lambda name: [True, False])("Exp")


OF_KEOPS = """
import numpy as np
from pykeops.numpy import Vi, Vj
def test_sum():
    D = Vi(np.ones((4, 3))).sqdist(Vj(np.zeros((5, 3))))
    assert D.sum(1).tolist() == [[15.0]] * 4
def test_wrong():
    assert Vi(np.ones((4, 3))).sum(0).tolist() == 2
"""


def test_a_suite_is_run_with_ours_as_pykeops(tmp_path):
    folder = tmp_path / "pykeops" / "pykeops" / "test"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):  # as in KeOps: they must not be imported
        (package / "__init__.py").write_text("raise ImportError('of KeOps')")
    (folder / "test_few.py").write_text(OF_KEOPS)
    outcome = run.outcome_of("keops", str(tmp_path), False, [])
    assert outcome.tests == {
        "keops/test_few.py::test_sum": "passed",
        "keops/test_few.py::test_wrong": "failed",
    }
    assert outcome.calls == 2 and outcome.seconds > 0
    assert run.outcome_of("keops", str(tmp_path), False, ["-k", "wrong"]).calls == 1


SCRIPT = """
import numpy as np
import matplotlib.pyplot as plt
from pykeops.numpy import Vi, Vj
x = np.random.rand(4, 3)
{end}
nearest = Vi(x).sqdist(Vj(x[::-1].copy())).argmin(1)
plt.plot(x[:, 0])
plt.show()
"""


def test_an_example_leaves_its_arrays(tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "pykeops" / "pykeops" / "examples" / "numpy"
    folder.mkdir(parents=True)
    (folder / "plot_good.py").write_text(SCRIPT.format(end=""))
    (folder / "plot_bad.py").write_text(SCRIPT.format(end="raise ValueError('too late')"))
    (folder / "plot_gpytorch.py").write_text("of a text")
    bad, good = examples.scripts(str(tmp_path), ["examples"])
    seconds, count, arrays, error = examples.ran(good, False, tmp_path)
    assert (count, error) == (1, "") and seconds > 0
    assert arrays["nearest"].ravel().tolist() == [3, 2, 1, 0] and arrays["x"].shape == (4, 3)
    assert examples.ran(bad, False, tmp_path)[1:] == (0, {}, "ValueError: too late")
    assert examples.scripts(str(tmp_path), ["good"]) == [good]
    with pytest.raises(SystemExit, match="no such"):
        examples.scripts(str(tmp_path), ["other"])


def test_arrays_are_compared():
    ones = np.ones(4, np.float32)
    assert examples.compared({"a": ones}, {"a": ones}) == (0.0, {})
    holes = np.array([1, np.nan, np.inf, 2], np.float32)
    assert examples.compared({"a": holes}, {"a": holes}) == (0.0, {})
    places = np.arange(4)
    for one, two, told in (
        (ones, ones * 1.01, "differs by"),
        (ones, ones[:3], r"(4,), and (3,) by pykeops"),
        (holes, ones, "differs by"),
        (ones, holes, "differs by inf"),
        (places, places[::-1], "100.0% of the integers differ"),
    ):
        [text] = examples.compared({"a": one}, {"a": two})[1].values()
        assert told in text
    assert examples.compared({}, {"a": ones})[1] == {"a": "None, and (4,) by pykeops"}
