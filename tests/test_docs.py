"""What the documentation shows is what the code does:
docstrings, and the README's code, output and links.
"""

import contextlib
import doctest
import importlib
import inspect
import io
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest

import duckkeops
from duckkeops import LazyArray
from duckkeops.engines import cpu

ROOT = Path(__file__).parent.parent
DOCS = sorted(p.relative_to(ROOT) for p in (ROOT / "docs").glob("*.md"))
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", README, re.DOTALL)
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
OPTIONAL = {"torch", "cupy", "dask"}


def modules():
    """Every module of the package that can be imported with the optional libraries at hand."""
    yield duckkeops
    for info in pkgutil.walk_packages(duckkeops.__path__, "duckkeops."):
        try:
            yield importlib.import_module(info.name)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise


def namespace():
    """What a docstring's example may use without saying where it comes from."""
    rng = np.random.default_rng(0)
    x, y = rng.random((1000, 3)), rng.random((2000, 3))
    D_ij = ((LazyArray(x)[:, None, :] - LazyArray(y)[None, :, :]) ** 2).sum(-1)
    return {
        "np": np,
        "LazyArray": LazyArray,
        "x": x,
        "y": y,
        "b": rng.random((2000, 2)),
        "D_ij": D_ij,
        "d": D_ij,
    }


def docstrings():
    """Every docstring with an example, as a doctest."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = {
        test.name: test for module in modules() for test in finder.find(module) if test.examples
    }
    return [pytest.param(test, id=name) for name, test in sorted(found.items())]


@pytest.mark.parametrize("test", docstrings())
def test_docstring(test):
    test.globs = {**namespace(), **test.globs}
    report = io.StringIO()
    failed, _ = doctest.DocTestRunner(optionflags=FLAGS).run(
        test, out=report.write, clear_globs=False
    )
    assert not failed, report.getvalue()


@pytest.mark.parametrize("name", sorted(duckkeops.__all__))
def test_public_name_has_a_docstring(name):
    value = getattr(duckkeops, name)
    if callable(value) or inspect.ismodule(value):
        assert inspect.getdoc(value)


@pytest.mark.parametrize("name", sorted(n for n in dir(LazyArray) if not n.startswith("_")))
def test_method_has_a_docstring(name):
    assert inspect.getdoc(inspect.getattr_static(LazyArray, name))


def test_readme_has_code():
    assert len(BLOCKS) == README.count("```python")


@pytest.mark.parametrize(("code", "expected"), BLOCKS, ids=range(len(BLOCKS)))
def test_readme_code_prints_its_output(code, expected):
    if "import torch" in code:
        pytest.importorskip("torch")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert doctest.OutputChecker().check_output(expected, printed.getvalue(), FLAGS), (
        printed.getvalue()
    )


@pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")
def test_torch_page():
    """Its blocks in one namespace, one after the other."""
    pytest.importorskip("torch")
    text = (ROOT / "docs" / "torch.md").read_text()
    test = doctest.DocTestParser().get_doctest(text, {}, "torch.md", "docs/torch.md", 0)
    assert len(test.examples) == text.count("\n>>> ")
    report = io.StringIO()
    failed, _ = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.write)
    assert not failed, report.getvalue()


@pytest.mark.parametrize("page", [Path("README.md"), *DOCS], ids=str)
def test_links_lead_to_files(page):
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / page.parent / link).exists()] == []
