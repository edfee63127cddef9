"""What help() shows of lazy arrays."""

import inspect
import pydoc
import re

import numpy as np
import pytest

from duckkeops import LazyArray

D = LazyArray(np.ones((4, 1)))[:, None, :] - LazyArray(np.ones((5, 1)))[None, :, :]
CLASS = type(D)
PUBLIC = [n for n in dir(CLASS) if n[0] != "_" and callable(getattr(CLASS, n))]


def test_the_docstring_names_methods_that_are_there():
    text = LazyArray.__doc__.partition("shows them all:")[2].partition(">>>")[0]
    rows = [line[21:] for line in text.splitlines() if line.strip()]
    names = re.findall(r"[A-Za-z_]{2,}|T", " ".join(rows).replace("and its kin", ""))
    names = [n for n in names if n not in ("to", "be", "sliced")]
    assert len(names) > 50
    assert [n for n in names if not hasattr(CLASS, n)] == []


@pytest.mark.parametrize("name", PUBLIC)
def test_signatures_say_nothing_of_what_is_inside(name):
    signature = inspect.signature(getattr(CLASS, name))
    assert next(iter(signature.parameters)) == "self"
    assert not re.search(r"Node|ops\.|np\.ufunc", str(signature))
    assert inspect.signature(getattr(D, name)).parameters.keys() == (
        signature.parameters.keys() - {"self"}
    )
    assert getattr(CLASS, name).__doc__


def test_signatures_are_those_that_the_calls_take():
    assert str(inspect.signature(CLASS.sum)).startswith("(self, axis=None, dtype=None, out=None")
    assert str(inspect.signature(CLASS.maximum)) == "(self, y, /, *, dtype=None)"
    assert str(inspect.signature(CLASS.topk)).startswith("(self, k")
    assert "softmax(self, axis=None)" in pydoc.render_doc(CLASS, renderer=pydoc.plaintext)
