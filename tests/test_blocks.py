"""The blocks engine:
tiles of any size give the dense value, in bounded memory, in several array libraries.
"""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest

from duckkeops import expr, ops, views
from duckkeops.engines import blocks
from duckkeops.expr import Broadcast, Concat, Input, Node, Scalar
from duckkeops.reductions import BY_NAME, reduce

each_library = pytest.mark.parametrize("library", ["numpy", "torch", "array_api_strict"])
each_size = pytest.mark.parametrize("tile_bytes", [1, 100, 1000, 32 << 20])


def points(n: int, dim: int = 3, seed: int = 0, dtype: Any = np.float64) -> np.ndarray:
    return (
        np.random.default_rng(seed)
        .normal(size=(n, dim))
        .astype(expr.dtype_of(np.dtype(dtype).name))
    )


def node_of(a: np.ndarray, library: str = "numpy", roles: str | None = None) -> Input:
    xp = pytest.importorskip(library)
    return Input(
        a if library == "numpy" else xp.asarray(a), a.dtype, roles or expr.default_roles(a.ndim)
    )


def squared_distances(x: Node, y: Node) -> Node:
    gap = ops.call("subtract", views.expand(x, [1]), views.expand(y, [0]))
    return reduce(BY_NAME["sum"], (ops.call("square", gap),), (2,))


def dense_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return ((x[:, None] - y[None]) ** 2).sum(-1)


@each_size
@each_library
@pytest.mark.parametrize("name", ["sum", "argmin", "logsumexp", "var", "max"])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_reductions_by_tiles_of_any_size(name, axes, library, tile_bytes):
    x, y = points(9), points(11, seed=1)
    want = dense_distances(x, y)
    node = reduce(
        BY_NAME[name], (squared_distances(node_of(x, library), node_of(y, library)),), axes
    )
    got = blocks.value(node, tile_bytes=tile_bytes)
    assert type(got) is type(node_of(x, library).array) and tuple(got.shape) == node.shape
    flat = want.reshape(1, -1) if len(axes) == 2 else want if axes == (1,) else want.T
    functions = {"logsumexp": np.logaddexp.reduce}
    expected = functions.get(name, getattr(np, name, None))(flat, axis=1)
    np.testing.assert_allclose(np.asarray(got).reshape(-1), expected)


@each_size
def test_states_and_their_merge_are_those_of_the_row(tile_bytes):
    x, y = points(9), points(11, seed=1)
    node = reduce(
        BY_NAME["topk"], (squared_distances(node_of(x), node_of(y)),), (1,), k=4, largest=False
    )
    values, index = blocks.reduce(node, tile_bytes=tile_bytes)
    want = np.argsort(dense_distances(x, y), axis=1)[:, :4]
    np.testing.assert_array_equal(index, want)
    np.testing.assert_allclose(values, np.take_along_axis(dense_distances(x, y), want, 1))


@each_size
@each_library
def test_all_pairs(library, tile_bytes):
    x, y = points(9), points(11, seed=1)
    node = squared_distances(node_of(x, library), node_of(y, library))
    got = blocks.dense(node, tile_bytes=tile_bytes)
    np.testing.assert_allclose(np.asarray(got), dense_distances(x, y))
    out = node_of(np.empty((9, 11)), library).array
    assert blocks.to_dense(node, out, tile_bytes=tile_bytes) is out
    np.testing.assert_allclose(np.asarray(out), dense_distances(x, y))


@each_size
def test_folds_over_points_inside_an_expression(tile_bytes):
    x, y, z = points(5), points(7, seed=1), points(6, seed=2)
    kernel = [
        ops.call("exp", ops.call("negative", squared_distances(node_of(a), node_of(b))))
        for a, b in ((x, y), (y, z))
    ]
    product = ops.call("multiply", views.expand(kernel[0], [2]), views.expand(kernel[1], [0]))
    inner = reduce(BY_NAME["sum"], (product,), (1,))  # K1 @ K2
    want = np.exp(-dense_distances(x, y)) @ np.exp(-dense_distances(y, z))
    np.testing.assert_allclose(blocks.dense(inner, tile_bytes=tile_bytes), want)
    outer = reduce(BY_NAME["max"], (inner,), (1,))
    np.testing.assert_allclose(blocks.value(outer, tile_bytes=tile_bytes), want.max(1))


@each_size
def test_several_reduced_axes_and_batches(tile_bytes):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3, (2, 4, 1, 1, 3)), rng.integers(0, 3, (2, 1, 5, 3, 3))
    node = ops.call("multiply", node_of(a, roles="bpppf"), node_of(b, roles="bpppf"))
    whole = a * b
    for axes in [(2, 3), (1, 3), (1, 2, 3), (0,), (0, 1, 2, 3, 4)]:
        kept = [k for k in range(5) if k not in axes]
        flat = whole.transpose(*kept, *axes).reshape([whole.shape[k] for k in kept] + [-1])
        got = blocks.value(reduce(BY_NAME["argmax"], (node,), axes), tile_bytes=tile_bytes)
        np.testing.assert_array_equal(got, flat.argmax(-1))  # ties: the lowest index in C order


@each_size
@pytest.mark.parametrize("sizes", [(0, 5), (5, 0), (0, 0), (1, 1)])
def test_empty_and_single_axes(sizes, tile_bytes):
    x, y = points(sizes[0]), points(sizes[1], seed=1)
    node = squared_distances(node_of(x), node_of(y))
    got = blocks.value(reduce(BY_NAME["sum"], (node,), (1,)), tile_bytes=tile_bytes)
    np.testing.assert_array_equal(got, dense_distances(x, y).sum(1))
    assert blocks.dense(node, tile_bytes=tile_bytes).shape == sizes


@each_library
def test_scalars_broadcasts_and_concatenations(library):
    x = points(4)
    node = node_of(x, library)
    shifted = ops.call("add", ops.call("multiply", node, 2), 0.5)
    joined = Concat(
        (shifted, Broadcast(views.view(node, views.View(2, [views.axis(1)], {0: 0})), (4, 3))),
        1,
        x.dtype,
    )
    want = np.concatenate([2 * x + 0.5, np.broadcast_to(x[0], (4, 3))], axis=1)
    np.testing.assert_allclose(np.asarray(blocks.dense(joined)), want)
    np.testing.assert_array_equal(np.asarray(blocks.dense(Broadcast(Scalar(3), (2,)))), [3, 3])


def test_loop_dtypes_are_numpys():
    a, b = np.array([100, -100], np.int8), np.array([200, 7], np.uint8)
    for name in ("add", "multiply", "divide", "less"):
        node = ops.call(name, node_of(a), node_of(b))
        want = getattr(np, name)(a, b)
        got = blocks.dense(node)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(
        blocks.dense(ops.call("add", node_of(a), node_of(a))), a + a
    )  # wraps around


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(dtype):
    kind = expr.dtype_of(dtype)
    a = np.full((300,), 300, dtype=kind)
    node = ops.call("multiply", node_of(a), node_of(a))  # overflows float16
    mean = blocks.value(
        reduce(BY_NAME["mean"], (ops.call("divide", node, 300.0),), (0,)), tile_bytes=100
    )
    assert mean.dtype == kind and mean == kind.type(300)
    assert blocks.dense(ops.call("sqrt", node)).dtype == kind


def test_half_precision_of_torch():
    torch = pytest.importorskip("torch")
    x = Input(torch.full((300,), 300, dtype=torch.bfloat16), expr.dtype_of("bfloat16"), "p")
    total = blocks.value(reduce(BY_NAME["sum"], (x,), (0,)))
    assert total.dtype == torch.bfloat16 and float(total) == float(
        torch.tensor(90000.0).to(torch.bfloat16)
    )


def test_no_warnings_from_floating_point(recwarn):
    a = node_of(np.array([0.0, np.inf, -1.0]))
    blocks.dense(ops.call("log", ops.call("divide", a, 0.0)))
    blocks.value(reduce(BY_NAME["logsumexp"], (a,), (0,)))
    assert not recwarn


def test_memory_is_bounded():
    x, y = points(3000, dtype=np.float32), points(20000, seed=1, dtype=np.float32)
    node = reduce(BY_NAME["argmin"], (squared_distances(node_of(x), node_of(y)),), (1,))
    inner = ops.call("exp", squared_distances(node_of(x[:300]), node_of(y)))
    nested = reduce(
        BY_NAME["max"], (ops.call("sqrt", reduce(BY_NAME["sum"], (inner,), (1,))),), (0,)
    )
    for one in (node, nested):
        tracemalloc.start()
        blocks.value(one, tile_bytes=4 << 20)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 << 20


def test_shared_parts_are_computed_once():
    calls = []
    row = ops.Op(
        "counted", lambda S, x: x, None, types=np.negative, dense=lambda xp, x: calls.append(1) or x
    )
    x = ops.apply(row, node_of(points(4)))
    for _ in range(50):
        x = ops.call("add", x, x)
    blocks.dense(x)
    assert len(calls) == 1


def test_no_import_of_sympy():
    code = (
        "import sys, duckkeops.engines.blocks; "
        "assert not {'sympy', 'torch', 'scipy', 'cupy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
