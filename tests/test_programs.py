"""Gradients without a compiler: array operations give what kernels and closed forms give, in tiles
of any size, in bounded memory, in several array libraries.
"""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from test_blocks import each_library, each_size, node_of, points, squared_distances
from test_joint import closed_form, problem, terms
from test_ops import INTEGER_ROWS, NO_DERIVATIVE, draw, each_op

from duckkeops import functions, ops, views
from duckkeops.engines import blocks, programs
from duckkeops.expr import Input, Node, Table, Vjp, inputs
from duckkeops.gradients import gradient, total
from duckkeops.reductions import BY_NAME, bin_table, reduce
from duckkeops.rewrite import with_inputs

ROOT = Path(__file__).resolve().parent.parent


def in_library(node: Node, library: str) -> Node:
    """The same expression of another library's arrays."""
    xp = pytest.importorskip(library)
    asarray = xp.from_numpy if library == "torch" else xp.asarray
    return with_inputs(node, lambda i: Input(asarray(i.array.copy()), i.dtype, i.roles, i.bare))


def close(got, want, tolerance=1e-12):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(abs(want).max(), 1e-30))


# -- functions -------------------------------------------------------------------------------------


def test_every_function_is_one_of_the_library():
    own = {"Along", "cast", "delta", "pow0", "polygamma", *programs.OWN}
    for name in {*functions.OURS, "exp", "sin", "atanh"} - own:
        assert programs.ROWS.get(name, name) in ops.ROWS


@each_op
def test_derivatives_of_each_operation(op):
    """The first and the second, against central differences of the one before."""
    kinds = ("complex", "nextafter")
    if op.name in (*INTEGER_ROWS, *kinds) or op.name.startswith("logical"):
        pytest.skip("no derivative")
    arrays = draw(op, seed=1)
    for k in range(op.nargs):
        if (op.name, k) in NO_DERIVATIVE or (op.name == "where" and k == 0):
            continue
        first = lambda at, k=k: derivative(op, at, k, 1)  # noqa: E731
        with np.errstate(all="ignore"):
            want = slope(lambda at: op.dense(np, *at) * 1.0, arrays, k)
            curve = slope(first, arrays, k)
        for got, expected in ((first(arrays), want), (derivative(op, arrays, k, 2), curve)):
            smooth = abs(expected) < 1e3  # no step in between
            np.testing.assert_allclose(got[smooth], expected[smooth], rtol=1e-6, atol=2e-7)


def slope(f, arrays, k, h=1e-6):
    up, down = ([a + e * (n == k) for n, a in enumerate(arrays)] for e in (h, -h))
    return np.broadcast_to((f(up) - f(down)) / (2 * h), arrays[k].shape)


def derivative(op, arrays, k, order):
    """d^order op / d argument k, entry by entry."""
    leaves = [Input(np.asarray(a, float), np.dtype(float), "p") for a in arrays]
    value: Node = ops.apply(op, *leaves)
    one = Input(np.ones(1), np.dtype(float), "n")
    for _ in range(order):
        value = Vjp(value, one, leaves[k], (-1,))
    return blocks.to_dense(value)


# -- values ----------------------------------------------------------------------------------------


@each_size
@each_library
@pytest.mark.parametrize("batch", [(), (2,)])
def test_gradients_by_tiles_of_any_size(library, tile_bytes, batch):
    data, value, g, named = problem(7, 9, batch=batch)
    for node, want in zip(terms(value, g, named), closed_form(data), strict=True):
        got = blocks.value(in_library(node, library), tile_bytes=tile_bytes)
        assert type(got) is type(node_of(data["x"], library).array) and got.shape == node.shape
        close(np.asarray(got).reshape(np.shape(want)), want)


def chained(name: str) -> tuple[Node, Input]:
    """A fold over points of exp(-|x - y|^2 - |u - z|^2), and a cotangent."""
    x, y, u, z = (node_of(points(n, seed=k)) for k, n in enumerate((5, 7, 7, 6)))
    near = [ops.call("exp", ops.call("negative", squared_distances(*p))) for p in ((x, y), (u, z))]
    product = ops.call("multiply", views.expand(near[0], [2]), views.expand(near[1], [0]))
    return reduce(BY_NAME[name], (product,), (1,)), node_of(points(5, 6), roles="pp")


def gradient_in_tiles(value: Node, g: Input, leaf: Input, tile_bytes: int) -> np.ndarray:
    found = gradient(value, g, leaf)
    sums = [blocks.value(t.node, tile_bytes=tile_bytes) for t in found]
    return total(np, sums, [t.order for t in found], leaf)


@pytest.mark.parametrize("tile_bytes", [2000, 32 << 20])
@pytest.mark.parametrize("name", ["sum", "prod", "min", "max"])
def test_folds_over_points_inside_an_expression(name, tile_bytes):
    """Of the first order, and for the sum of the second too, beside dense torch."""
    torch = pytest.importorskip("torch")
    value, g = chained(name)
    leaves = inputs(value)
    x, y, u, z = (torch.tensor(i.array, requires_grad=True) for i in leaves)
    near = (-((x - y) ** 2).sum(-1)).exp() * (-((u - z) ** 2).sum(-1)).exp()
    dense = getattr(torch, {"min": "amin", "max": "amax"}.get(name, name))(near, 1)
    first = torch.autograd.grad(
        (dense * torch.tensor(g.array)).sum(), (x, y, u, z), create_graph=True
    )
    for leaf, want in zip(leaves, first, strict=True):
        close(gradient_in_tiles(value, g, leaf, tile_bytes), want.detach(), 1e-11)
    if name == "sum":
        (vjp,) = gradient(value, g, leaves[0])[0].node.args
        one = node_of(np.ones(1), roles="n")
        second = torch.autograd.grad(first[0].sum(), (x, y, u, z))
        for leaf, want in zip(leaves, second, strict=True):
            close(gradient_in_tiles(vjp, one, leaf, tile_bytes), want, 1e-11)


@each_library
def test_all_entries_of_a_gradient(library):
    data, value, g, named = problem(7, 9)
    (term,) = gradient(value, g, named["x"])
    (vjp,) = term.node.args
    node = in_library(vjp, library)
    want = closed_form(data)[0]
    for tile_bytes in (1000, 32 << 20):
        every = np.asarray(blocks.to_dense(node, tile_bytes=tile_bytes))
        assert every.shape == vjp.shape == (7, 9, 3)
        close(every.sum(1), want)
        close(blocks.dense(node, tile_bytes=tile_bytes), every)


@pytest.mark.parametrize("row", ["logsumexp", "var", "argmin", "topk", "softmax_sum"])
def test_other_reductions_of_gradients(row):
    _, value, g, named = problem(7, 9)
    (term,) = gradient(value, g, named["x"])
    (vjp,) = term.node.args
    every = node_of(blocks.to_dense(vjp), roles="ppf")
    for axes in ((0,), (1,), (0, 1)):
        params = dict(k=2, largest=True) if row == "topk" else {}
        args = [(v, v) if row == "softmax_sum" else (v,) for v in (vjp, every)]
        got, want = (
            blocks.value(reduce(BY_NAME[row], a, axes, **params), tile_bytes=1000) for a in args
        )
        for a, b in zip(*(v if row == "topk" else [v] for v in (got, want)), strict=True):
            close(a, b)


def test_histograms_of_gradients():
    _, value, g, named = problem(7, 9)
    (term,) = gradient(value, g, named["b"])
    (vjp,) = term.node.args
    every, edges = blocks.to_dense(vjp), np.linspace(0, 1, 5)
    table = Table(bin_table(edges, np.dtype(float), True), np.dtype(float))
    node = reduce(BY_NAME["histogram"], (vjp, table), (0, 1), bins=4, how="search")
    np.testing.assert_array_equal(blocks.value(node), np.histogram(every, edges)[0])


@pytest.mark.parametrize("sizes", [(0, 9), (7, 0), (0, 0), (1, 1), (1, 9)])
@pytest.mark.parametrize("features", [0, 1, 3])
def test_empty_and_single_axes(sizes, features):
    data, value, g, named = problem(*sizes, features=features)
    for node, want in zip(terms(value, g, named), closed_form(data), strict=True):
        assert blocks.value(node).shape == node.shape
        np.testing.assert_allclose(blocks.value(node).reshape(np.shape(want)), want, rtol=1e-12)


def test_half_precision_is_computed_in_float32():
    data, value, g, named = problem(7, 9, "float16")
    for node, want in zip(terms(value, g, named), closed_form(data), strict=True):
        assert blocks.value(node).dtype == np.float16
        close(blocks.value(node).reshape(np.shape(want)), want, 2e-3)


# -- cost ------------------------------------------------------------------------------------------


def test_memory_is_bounded():
    _, value, g, named = problem(1000, 6000, "float32")
    nested, h = chained("sum")
    nested_x = inputs(nested)[0]
    node_of_all = gradient(nested, h, nested_x)[0].node
    for node in (*terms(value, g, named), node_of_all):
        blocks.value(node, tile_bytes=4 << 20)  # imports, and makes the plan
        tracemalloc.start()
        blocks.value(node, tile_bytes=4 << 20)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 << 20


def test_plans_are_made_once(monkeypatch):
    _, value, g, named = problem(7, 9)
    (node,) = terms(value, g, named, "x")
    want = blocks.value(node)
    monkeypatch.setattr(programs, "Translator", None)
    _, value, g, named = problem(7, 9)
    (node,) = terms(value, g, named, "x")
    np.testing.assert_array_equal(blocks.value(node), want)


def test_numbers_that_are_parameters_and_those_that_are_constants_stay_apart():
    x = node_of(points(4))
    for factor in (2, 3, 0.3, 0.7):
        value = ops.call("multiply", ops.call("square", x), factor)
        (term,) = gradient(value, node_of(np.ones(1), roles="n"), x)
        close(blocks.value(term.node), 2 * factor * x.array)


# -- machines without a compiler -------------------------------------------------------------------

SCRIPT = """
import logging, sys
sys.modules["ziglang"] = None  # as on a machine without the extra cc
logging.basicConfig(level=logging.WARNING)
import numpy as np, torch
from duckkeops import LazyArray
torch.manual_seed(0)
x, y, b = torch.rand(50, 3).double(), torch.rand(40, 3).double(), torch.rand(40).double()
found = []
for wrap in (LazyArray, lambda t: t):
    leaves = [t.clone().requires_grad_() for t in (x, y, b)]
    X, Y, B = map(wrap, leaves)
    value = ((-((X[:, None] - Y[None]) ** 2).sum(-1)).exp() * B).logsumexp(1)
    first = torch.autograd.grad(value.square().sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
    found.append([value, *first, *second])
for a, b in zip(*found):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
print("right")
"""


def test_machines_without_a_compiler(tmp_path):
    env = {"PYTHONPATH": str(ROOT), "PATH": str(tmp_path), "DUCKKEOPS_CACHE_DIR": str(tmp_path)}
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=env, timeout=120
    )
    assert answer.stdout == "right\n", answer.stderr
    assert answer.stderr.count("WARNING") == 1 and "no working C compiler" in answer.stderr
