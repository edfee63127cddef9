"""The first table of docs/from_keops.md: its right column runs on arrays and lazy arrays alike."""

import re
from pathlib import Path

import numpy as np
import pytest

import duckkeops
from duckkeops import LazyArray

PAGE = Path(__file__).parent.parent / "docs" / "from_keops.md"
TABLE = next(part for part in PAGE.read_text().split("\n\n") if part.startswith("| pykeops |"))
CODE = re.findall(r"^\| .* \| `([^`]+)`[^|]*\|$", TABLE, re.MULTILINE)
METHODS = {"S_ij.softmax(axis=1) @ b"}  # NumPy has no such method


def names(wrap):
    """What the page speaks of."""
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 30, 3)) + 0.1
    x_i, y_j = wrap(x)[:, None, :], wrap(y)[None, :, :]
    D_ij = ((x_i - y_j) ** 2).sum(-1)
    K_ij = np.exp(-((x_i - wrap(x)[None, :, :]) ** 2).sum(-1))
    given = {"np": np, "LazyArray": wrap, "duckkeops": duckkeops}
    clouds = {"x": x, "y": y, "x_i": x_i, "y_j": y_j, "l_i": wrap(rng.integers(5, size=30))}
    pairs = {"D_ij": D_ij, "S_ij": -D_ij, "K_ij": K_ij, "p": 0.5, "s": np.arange(1.0, 4.0)}
    return given | clouds | pairs | {"a": 2.0, "b": rng.random(30), "k": 4, "u": 1.5, "v": x_i}


def test_every_row_is_read():
    assert len(CODE) == len(TABLE.splitlines()) - 2


@pytest.mark.parametrize("code", CODE)
def test_runs_on_arrays_and_lazy_arrays(code):
    lazy = eval(code, names(LazyArray))
    if code in METHODS:
        S = eval("S_ij", names(np.asarray))
        dense = np.exp(S) @ names(np.asarray)["b"] / np.exp(S).sum(1)
    else:
        dense = eval(code, names(np.asarray))
    lazy, dense = (r if isinstance(r, tuple) else (r,) for r in (lazy, dense))
    for one, other in zip(lazy, dense, strict=True):
        one = one.to_dense() if isinstance(one, LazyArray) else one
        np.testing.assert_allclose(one, other, rtol=1e-9)
