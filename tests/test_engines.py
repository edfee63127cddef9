"""Compiled C and tiles of the array library give the same value, dtype and shape, for every row,
dtype and kind of axis.
"""

import functools
import math
import warnings

import numpy as np
import pytest

from duckkeops import LazyArray, config, evaluate, expr, ops, reductions, views
from duckkeops.engines import blocks, cpu
from duckkeops.expr import Apply, Input, Node

pytestmark = pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")

DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
M, N = 19, 23  # no multiple of any tile
GROUP = 16  # rows that share a kernel
TOLERANCE = {"f2": 2e-3, "f4": 2e-5, "f8": 1e-11, "c8": 5e-5, "c16": 1e-11}
rng = np.random.default_rng(7)


def tolerance(dtype: np.dtype) -> float:
    return TOLERANCE.get(dtype.str[1:], 0)


def points(array: np.ndarray) -> Input:
    """All axes are point axes."""
    return Input(array, array.dtype, "p" * array.ndim)


def draw(dtype: str, domain: tuple, shape: tuple) -> np.ndarray:
    t = np.dtype(dtype)
    if t.kind == "b":
        return rng.random(shape) < 0.5
    if t.kind in "iu":
        low, high = math.ceil(max(domain[0], -8)), math.floor(min(domain[1], 8))
        low = max(low, 0) if t.kind == "u" else low
        return rng.integers(low, max(high, low) + 1, shape).astype(t)
    if t.kind == "c":
        return (rng.uniform(*domain, shape) + 1j * rng.uniform(*domain, shape)).astype(t)
    return rng.uniform(*domain, shape).astype(t)


def value_of(op: ops.Op, dtype: str) -> Node | None:
    """The row applied to arguments that together vary over (M, N); None if it has no such dtype."""
    domains = op.domain if isinstance(op.domain[0], tuple) else (op.domain,) * op.nargs
    shapes = [(M, 1), (1, N), (M, 1)]
    arrays = [draw(dtype, d, s) for d, s in zip(domains, shapes, strict=False)]
    if op.name == "pow" and np.dtype(dtype).kind == "i":  # NumPy has no negative integer powers
        arrays[1] = np.abs(arrays[1])
    try:
        node = ops.apply(op, *map(points, arrays))
        blocks.dense(node)
    except TypeError:  # NumPy has no such loop
        return None
    return node


def all_entries(nodes: list[Node]) -> list[np.ndarray]:
    """Every entry of (M, N) nodes of one dtype, through one compiled kernel:
    the N largest of each row, put back.
    """
    label = Input(np.arange(len(nodes), dtype=np.int32), np.dtype(np.int32), "f")
    pair = points(np.zeros((1, N), np.int8))  # makes every value vary over both axes
    wide = [ops.call("where", ops.call("equal", pair, 0), n, n) for n in nodes]
    chosen = views.expand(wide[0], [2])
    for k, node in enumerate(wide[1:], 1):
        chosen = ops.call("where", ops.call("equal", label, k), views.expand(node, [2]), chosen)
    if chosen.ndim == 3 and chosen.shape[2] == 1:
        chosen = views.broadcast_to(chosen, (M, N, 1))
    root = reductions.reduce(reductions.BY_NAME["topk"], [chosen], (1,), k=N)
    with config(engine="cpu"):
        values, index = evaluate.evaluate(root)
    values, index = values.reshape(M, -1, N), index.reshape(M, -1, N)
    out = []
    for k in range(len(nodes)):
        dense = np.empty((M, N), values.dtype)
        np.put_along_axis(dense, index[:, k], values[:, k], 1)
        out.append(dense.astype(nodes[k].dtype))
    return out


def groups() -> list[tuple[str, int]]:
    return [(dtype, k) for dtype in DTYPES for k in range(0, len(ops.TABLE), GROUP)]


@pytest.mark.parametrize(("dtype", "start"), groups())
def test_rows(dtype: str, start: int) -> None:
    """Each operation row:
    compiled against the library's own function, exactly for integers and booleans.
    """
    by_dtype: dict[np.dtype, list[tuple[str, Node]]] = {}
    for op in ops.TABLE[start : start + GROUP]:
        node = value_of(op, dtype)
        if node is None:
            continue
        parts = (
            [node] if node.dtype.kind != "c" else [ops.call("real", node), ops.call("imag", node)]
        )
        for part in parts:
            by_dtype.setdefault(part.dtype, []).append((op.name, part))
    for kind, named in by_dtype.items():
        for (name, node), got in zip(named, all_entries([n for _, n in named]), strict=True):
            want = np.broadcast_to(blocks.dense(node), (M, N))
            assert got.dtype == want.dtype == kind, name
            if tolerance(kind):
                np.testing.assert_allclose(
                    got, want, rtol=tolerance(kind), atol=tolerance(kind), err_msg=f"{name} {dtype}"
                )
            else:
                np.testing.assert_array_equal(got, want, err_msg=f"{name} {dtype}")


def references() -> dict[str, functools.partial]:
    """NumPy's own reduction of the dense values, in float64."""
    return {
        "sum": np.sum, "prod": np.prod, "mean": np.mean, "var": np.var, "std": np.std,
        "min": np.min, "max": np.max, "argmin": np.argmin, "argmax": np.argmax,
        "any": np.any, "all": np.all, "count_nonzero": np.count_nonzero,
        "logsumexp": lambda v, axis: np.logaddexp.reduce(v, axis=axis),
    }  # fmt: skip


def pairwise(dtype: str, name: str) -> tuple[Node, np.ndarray]:
    """x_i op y_j of a dtype, virtual, with many ties; and its dense values.

    Few are zero for `all`, most for `any`.
    """
    x, y = draw(dtype, (-2, 2), (M, 1)), draw(dtype, (-2, 2), (1, N))
    if name in ("all", "any", "count_nonzero"):
        x, y = (
            x * 0 + (np.arange(M)[:, None] != 3),
            y * 0 + (np.arange(N) > (N // 2 if name == "count_nonzero" else -1)),
        )
        x, y = (1 - x if name == "any" else x).astype(dtype), y.astype(dtype)
        node = ops.call("multiply", points(x), points(y))
        return node, x * y
    name = "logical_xor" if dtype == "bool" else "multiply"
    if np.dtype(dtype).kind in "iu":
        x, y = np.sign(x).astype(dtype), y // 2
    elif dtype != "bool":
        x = x / 2
    node = ops.call(name, points(x.astype(dtype)), points(y.astype(dtype)))
    wide = {"float16": "float32"}.get(dtype, dtype)
    f = np.logical_xor if dtype == "bool" else np.multiply
    return node, f(x.astype(dtype).astype(wide), y.astype(dtype).astype(wide))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", references())
def test_reductions(name: str, dtype: str) -> None:
    """Each reduction over j, over i and over both: compiled, in tiles, and dense."""
    node, dense = pairwise(dtype, name)
    for axis in (1, 0, None):
        axes = (0, 1) if axis is None else (axis,)
        try:
            root = reductions.reduce(reductions.BY_NAME[name], [node], axes)
        except TypeError:
            assert (name == "logsumexp" and np.dtype(dtype).kind == "c") or dtype == "bool"
            return
        with config(engine="cpu"):
            compiled = evaluate.evaluate(root)
        with config(engine="blocks"):
            tiled = evaluate.evaluate(root)
        wide = dense.astype(
            {"f": np.float64, "c": np.complex128}.get(dense.dtype.kind, dense.dtype)
        )
        if name == "logsumexp":
            wide = dense.astype(np.float64)
        if name in ("argmin", "argmax") and dense.dtype.kind in "fc":
            wide = dense
        want = np.asarray(references()[name](wide, axis=axis))
        assert compiled.dtype == tiled.dtype == root.dtype
        assert compiled.shape == tiled.shape == want.shape
        tol = tolerance(root.dtype) * (1 if name != "prod" else 10)
        for got in (compiled, tiled):
            if tol:
                np.testing.assert_allclose(
                    got, want, rtol=tol, atol=tol * max(1.0, float(np.abs(want).max()))
                )
            else:
                np.testing.assert_array_equal(got, want)


KINDS = {
    "batch": (0,), "rows": (1,), "columns": (2,), "feature": (3,),
    "both": (1, 2), "batch and columns": (0, 2), "columns and feature": (2, 3),
    "batch and both": (0, 1, 2), "all": (0, 1, 2, 3),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", references())
def test_kinds_of_axis(name: str, kind: str) -> None:
    """Each reduction over batch, point and feature axes, and over several of them."""
    x, y = np.round(rng.random((2, 5, 1, 3)) * 4), np.round(rng.random((1, 1, 7, 3)) * 4)
    node, dense = ops.call("subtract", Input(x, x.dtype, "bppf"), Input(y, y.dtype, "bppf")), x - y
    root = reductions.reduce(reductions.BY_NAME[name], [node], KINDS[kind])
    rest = [a for a in range(4) if a not in KINDS[kind]]
    flat = dense.transpose(*rest, *KINDS[kind]).reshape(*(dense.shape[a] for a in rest), -1)
    want = np.asarray(references()[name](flat, axis=-1))
    for engine in ("cpu", "blocks"):
        with config(engine=engine):
            got = np.asarray(evaluate.evaluate(root))
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12, err_msg=engine)


@pytest.mark.parametrize("dtype", DTYPES)
def test_folds(dtype: str) -> None:
    """Each fold over features: compiled, in tiles, and NumPy's own, for every dtype."""
    x, y = draw(dtype, (-2, 2), (M, 1, 3)), draw(dtype, (-2, 2), (1, N, 3))
    node = ops.call(
        "logical_xor" if dtype == "bool" else "multiply",
        Input(x, x.dtype, "ppf"),
        Input(y, y.dtype, "ppf"),
    )
    wide = {"float16": "float32"}.get(dtype, dtype)
    dense = (np.logical_xor if dtype == "bool" else np.multiply)(x.astype(wide), y.astype(wide))
    by_dtype: dict[np.dtype, list[tuple[Node, np.ndarray]]] = {}
    for name in ("sum", "prod", "min", "max", "argmin", "argmax", "any", "all"):
        fold = reductions.reduce(reductions.BY_NAME[name], [node], (2,))
        exact = name.startswith("arg") and dtype == "float16"  # of entries as NumPy rounds them
        want = getattr(np, name)(x * y if exact else dense, axis=2)
        if fold.dtype.kind == "c":
            for part in ("real", "imag"):
                one = ops.call(part, fold)
                by_dtype.setdefault(one.dtype, []).append((one, getattr(want, part)))
        else:
            by_dtype.setdefault(fold.dtype, []).append((fold, want))
    for kind, pairs in by_dtype.items():
        for (fold, want), got in zip(pairs, all_entries([f for f, _ in pairs]), strict=True):
            for one in (got, blocks.dense(fold)):
                assert one.dtype == kind
                np.testing.assert_allclose(
                    one, want, rtol=tolerance(kind), atol=tolerance(kind), err_msg=repr(fold)
                )


@pytest.mark.parametrize("k", [1, 3, N])
@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint64", "int32", "float16", "float32", "float64"]
)
def test_topk(dtype: str, largest: bool, k: int) -> None:
    """The k best, sorted; ties by the lowest index; NaN counts as the greatest."""
    x, y = draw(dtype, (-2, 2), (M, 1)), draw(dtype, (-2, 2), (1, N))
    if np.dtype(dtype).kind == "f":
        x = np.round(x * 2).astype(dtype)
        y = np.round(y).astype(dtype)
        y[0, 3] = np.nan
    node = ops.call("logical_and" if dtype == "bool" else "multiply", points(x), points(y))
    root = reductions.reduce(reductions.BY_NAME["topk"], [node], (1,), k=k, largest=largest)
    with config(engine="cpu"):
        values, index = evaluate.evaluate(root)
    with config(engine="blocks"):
        tiled_values, tiled_index = evaluate.evaluate(root)
    with np.errstate(all="ignore"):
        dense = (x & y) if dtype == "bool" else x * y
    order = np.argsort(dense, axis=1, kind="stable")[:, :k]
    if largest:  # a stable descending order
        key = dense.astype(np.float64)
        order = np.lexsort(
            (np.broadcast_to(np.arange(N), dense.shape), -np.nan_to_num(key, nan=np.inf)), axis=1
        )[:, :k]
    np.testing.assert_array_equal(index, order)
    np.testing.assert_array_equal(tiled_index, order)
    np.testing.assert_array_equal(values, np.take_along_axis(dense, order, 1))
    np.testing.assert_array_equal(tiled_values, values)


def test_topk_of_a_thousand() -> None:
    x, y = rng.random((5, 1)), rng.random((1, 3000))
    root = reductions.reduce(
        reductions.BY_NAME["topk"], [ops.call("subtract", points(x), points(y))], (1,), k=1024
    )
    with config(engine="cpu"):
        values, index = evaluate.evaluate(root)
    order = np.argsort(x - y, axis=1, kind="stable")[:, :1024]
    np.testing.assert_array_equal(index, order)
    np.testing.assert_array_equal(values, np.take_along_axis(x - y, order, 1))


@pytest.mark.parametrize("name", ["sum", "max", "argmin", "logsumexp", "topk", "var"])
@pytest.mark.parametrize("size", [1, 2, 15, 16, 63, 64, 65, 129, 513, 1025])
def test_sizes(name: str, size: int) -> None:
    """A tile less one, a tile, plus one: rows and columns;
    the same kernel serves all sizes but 1.
    """
    x, y = rng.random((size, 3)).astype(np.float32), rng.random((size + 1, 3)).astype(np.float32)
    d = squared_distances(x, y)
    params = {"k": min(3, size + 1)} if name == "topk" else {}
    root = reductions.reduce(reductions.BY_NAME[name], [d], (1,), **params)
    with config(engine="cpu"):
        compiled = evaluate.evaluate(root)
    with config(engine="blocks"):
        tiled = evaluate.evaluate(root)
    for got, want in zip(
        compiled if name == "topk" else [compiled],
        tiled if name == "topk" else [tiled],
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)


def squared_distances(x: np.ndarray, y: np.ndarray) -> Node:
    xi, yj = (Input(a, a.dtype, "ppf") for a in (x[:, None], y[None]))
    return reductions.reduce(
        reductions.BY_NAME["sum"], [ops.call("square", ops.call("subtract", xi, yj))], (2,)
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_infinities_and_nan(dtype: str) -> None:
    """NaN is found by min, max and argmin; all -inf gives -inf in logsumexp; +inf gives inf;
    a NaN gives NaN.
    """
    inf, nan = np.inf, np.nan
    y = np.array(
        [
            [1, 2, -inf, 0],
            [nan, 1, nan, 2],
            [-inf] * 4,
            [inf, 1, 2, -inf],
            [inf, nan, 0, 0],
            [inf] * 4,
        ],
        dtype,
    ).T
    index = points(np.arange(6)[:, None])
    rows = [points(np.ascontiguousarray(y[:, k])[None]) for k in range(6)]
    node: Node = rows[0]
    for k in range(1, 6):
        node = ops.call("where", ops.call("equal", index, k), rows[k], node)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, reference in references().items():
            root = reductions.reduce(reductions.BY_NAME[name], [node], (1,))
            with config(engine="cpu"):
                got = evaluate.evaluate(root)
            np.testing.assert_allclose(got, reference(y.T, axis=1), rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("offset", [-1e6, -1000.0, 0.0, 1000.0, 1e6])
def test_logsumexp_far_from_zero(offset: float) -> None:
    """The reference moves with the values: no exponential of a large number."""
    x, y = rng.random((5, 1)), rng.random((1, 70)) * 50 + offset
    node, dense = ops.call("add", points(x), points(y)), x + y
    with config(engine="cpu"):
        got = evaluate.evaluate(reductions.reduce(reductions.BY_NAME["logsumexp"], [node], (1,)))
        row = reductions.BY_NAME["softmax_sum"]
        mean = evaluate.evaluate(reductions.reduce(row, [node, points(y)], (1,)))
    weights = np.exp(dense - dense.max(1, keepdims=True))
    np.testing.assert_allclose(got, np.logaddexp.reduce(dense, axis=1), rtol=1e-12)
    np.testing.assert_allclose(mean, (weights * y).sum(1) / weights.sum(1), rtol=1e-12)


def test_exact_precision_rounds_as_numpy() -> None:
    """precision="exact" fuses nothing: squared distances are NumPy's, bit by bit."""
    x, y = rng.random((40, 3)), rng.random((50, 3))
    with config(engine="cpu", precision="exact"):
        got = evaluate.evaluate(
            reductions.reduce(reductions.BY_NAME["min"], [squared_distances(x, y)], (1,))
        )
    np.testing.assert_array_equal(got, ((x[:, None] - y) ** 2).sum(-1).min(1))


def test_nothing_is_cancelled() -> None:
    """x - x, x * 0, x / x and comparisons of equal values keep NaN, as NumPy does."""
    x = np.array([1.0, np.inf, np.nan, 0.0])[:, None]
    y = np.arange(3.0)[None]
    s, t = ops.call("add", points(x), points(y)), x + y
    with np.errstate(all="ignore"):
        cases = [
            (ops.call("subtract", s, s), t - t),
            (ops.call("multiply", s, 0), t * 0),
            (ops.call("divide", s, s), t / t),
            (ops.call("subtract", ops.call("add", s, points(y)), s), (t + y) - t),
            (ops.call("where", ops.call("equal", s, s), 1.0, 2.0), np.where(t == t, 1.0, 2.0)),
            (ops.call("square", ops.call("sqrt", ops.call("negative", s))), np.sqrt(-t) ** 2),
        ]
        for node, want in cases:
            with config(engine="cpu"):
                got = evaluate.evaluate(reductions.reduce(reductions.BY_NAME["sum"], [node], (1,)))
            np.testing.assert_allclose(got, want.sum(1))


def test_order_of_evaluation_is_the_users() -> None:
    """(x - y) + c with large x, y and a small c: SymPy's sorted sum would lose c."""
    x, y = (
        (rng.random((8, 1)) + 1e6).astype(np.float32),
        (rng.random((1, 9)) + 1e6).astype(np.float32),
    )
    node = ops.call("add", ops.call("subtract", points(x), points(y)), 1e-3)
    with config(engine="cpu", precision="exact"):
        got = evaluate.evaluate(reductions.reduce(reductions.BY_NAME["min"], [node], (1,)))
    np.testing.assert_array_equal(got, ((x - y) + np.float32(1e-3)).min(1))


@pytest.mark.parametrize("accumulate", ["auto", "float64", "compensated"])
def test_accumulation(accumulate: str) -> None:
    """A million terms: blocked float32 sums lose little, float64 and compensated sums nothing."""
    y = rng.random((1, 1_000_000)).astype(np.float32)
    x = np.ones((3, 1), np.float32)
    node = ops.call("multiply", points(x), points(y))
    for name in ("sum", "mean"):
        root = reductions.reduce(reductions.BY_NAME[name], [node], (1,))
        with config(engine="cpu", accumulate=accumulate):
            got = evaluate.evaluate(root)
        want = getattr(y.astype(np.float64)[0], name)()
        np.testing.assert_allclose(got, want, rtol=2e-6 if accumulate == "auto" else 1e-7)


def test_any_number_of_point_axes() -> None:
    """Nested loops over two reduced axes; a virtual product of two kernels; three kept axes."""
    x, y, z = rng.random((7, 1, 1)), rng.random((1, 6, 1)), rng.random((1, 1, 5))
    s = ops.call(
        "add",
        ops.call("multiply", points(x), points(y)),
        ops.call("sin", ops.call("multiply", points(y), points(z))),
    )
    dense = x * y + np.sin(y * z)
    for name, f in (
        ("sum", np.sum),
        ("max", np.max),
        ("logsumexp", lambda v, axis: np.log(np.exp(v).sum(axis))),
    ):
        for axes in ((1, 2), (0, 2), (0, 1), (0, 1, 2)):
            with config(engine="cpu"):
                got = evaluate.evaluate(reductions.reduce(reductions.BY_NAME[name], [s], axes))
            np.testing.assert_allclose(got, f(dense, axis=axes), rtol=1e-12)
    flat = evaluate.evaluate(reductions.reduce(reductions.BY_NAME["argmin"], [s], (0, 1, 2)))
    assert flat == dense.argmin()
    inner = reductions.reduce(
        reductions.BY_NAME["sum"], [s], (1,)
    )  # (7, 5), lazy: no input spans it
    assert isinstance(inner, expr.Reduce) and not expr.is_evaluated(inner)
    with config(engine="cpu"):
        got = evaluate.evaluate(
            reductions.reduce(reductions.BY_NAME["max"], [ops.call("exp", inner)], (1,))
        )
    np.testing.assert_allclose(got, np.exp(dense.sum(1)).max(1), rtol=1e-12)


def test_batches_and_strides() -> None:
    """Batch axes broadcast; inputs are read where they lie, whatever their strides."""
    x = rng.random((3, 7, 2, 4))[::2, ::-1, 1, ::2]  # (2, 7, 2), no stride as in a fresh array
    y = np.asfortranarray(rng.random((1, 9, 2)))
    xi, yj = Input(x[:, :, None], x.dtype, "bppf"), Input(y[:, None], y.dtype, "bppf")
    d = reductions.reduce(
        reductions.BY_NAME["sum"], [ops.call("square", ops.call("subtract", xi, yj))], (3,)
    )
    dense = ((x[:, :, None] - y[:, None]) ** 2).sum(-1)
    for axes in ((2,), (1,), (0, 2), (0, 1, 2)):
        with config(engine="cpu"):
            got = evaluate.evaluate(reductions.reduce(reductions.BY_NAME["sum"], [d], axes))
        np.testing.assert_allclose(got, dense.sum(axes), rtol=1e-12)


def test_features_of_the_result() -> None:
    """Outputs with feature axes, matrices too;
    folds inside folds are computed once for each feature that needs them.
    """
    x, y, a, b = rng.random((6, 3)), rng.random((7, 3)), rng.random((3, 5)), rng.random((5, 4))
    u = ops.call("subtract", Input(x[:, None], x.dtype, "ppf"), Input(y[None], y.dtype, "ppf"))
    ua, bb = Input(a, a.dtype, "ff"), Input(b, b.dtype, "ff")
    fold = reductions.BY_NAME["sum"]
    hidden = ops.call(
        "maximum",
        reductions.reduce(fold, [ops.call("multiply", views.expand(u, [3]), ua)], (2,)),
        0.25,
    )
    out = reductions.reduce(
        fold, [ops.call("multiply", views.expand(hidden, [3]), bb)], (2,)
    )  # (6, 7, 4)
    dense = np.maximum((x[:, None] - y) @ a, 0.25) @ b
    for name, f in (("sum", np.sum), ("max", np.max), ("var", np.var)):
        with config(engine="cpu"):
            got = evaluate.evaluate(reductions.reduce(reductions.BY_NAME[name], [out], (1,)))
        np.testing.assert_allclose(got, f(dense, axis=1), rtol=1e-12, atol=1e-15)
    outer = ops.call("multiply", views.expand(u, [3]), views.expand(u, [2]))  # (6, 7, 3, 3)
    with config(engine="cpu"):
        got = evaluate.evaluate(reductions.reduce(fold, [outer], (1,)))
    d = x[:, None] - y
    np.testing.assert_allclose(got, (d[..., :, None] * d[..., None, :]).sum(1), rtol=1e-12)


def test_softmax_weighted_sum() -> None:
    x, y, v = rng.random((6, 1)) * 40, rng.random((1, 70)) * 40, rng.random((70, 3))
    s = ops.call("multiply", points(x), points(y))
    row = reductions.BY_NAME["softmax_sum"]
    root = reductions.reduce(row, [views.expand(s, [2]), Input(v[None], v.dtype, "ppf")], (1,))
    weights = np.exp(x * y - (x * y).max(1, keepdims=True))
    with config(engine="cpu"):
        got = evaluate.evaluate(root)
    np.testing.assert_allclose(got, weights @ v / weights.sum(1, keepdims=True), rtol=1e-12)


def test_divided_by_a_square() -> None:
    """A square that is printed in place is one denominator, under a factor of exp2 as elsewhere."""
    x, y, v = rng.random((9, 1)), rng.random((1, 70)), rng.random((70, 2))
    g = np.array(1.7)
    lazy = LazyArray(x, feature_ndim=0) * LazyArray(y, feature_ndim=0)
    value = np.exp(-2 * np.sin(lazy) / LazyArray(g) ** 2)
    want = np.exp(-2 * np.sin(x * y) / g**2)
    with config(engine="cpu"):
        np.testing.assert_allclose(value @ v, want @ v, rtol=1e-12)
        np.testing.assert_allclose(value.max(1), want.max(1), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_half_a_distance_times_a_parameter(dtype: str) -> None:
    """p * (d / 2) is (p / 2) * d, one product a pair; numbers above 1 stay where they are."""
    x, y = rng.random((9, 1)).astype(dtype), rng.random((1, 70)).astype(dtype)
    p = np.array(1.7, dtype)
    lazy = np.sin(LazyArray(x, feature_ndim=0) * LazyArray(y, feature_ndim=0))
    value = LazyArray(y, feature_ndim=0) - LazyArray(p) * (lazy / 2)
    loop = value.source(generated=True).split("void pairs(")[1]
    assert "0.5" not in loop and "/" not in loop
    want = y - p * (np.sin(x * y) / 2)
    tolerance = {"float32": 2e-6, "float64": 1e-12}[dtype]
    with config(engine="cpu"):
        np.testing.assert_allclose(value.sum(1), want.sum(1), rtol=tolerance)
        large = LazyArray(np.array(np.finfo(dtype).max)) * (8 * (lazy * 0))
        np.testing.assert_array_equal(large.sum(1), np.zeros(9, dtype))


def test_weighted_by_one_number() -> None:
    """Weights and values without features, where the weights use a value of a pair twice."""
    x, y = rng.random((6, 1)), rng.random((1, 70))
    s = ops.call("sin", ops.call("multiply", points(x), points(y)))
    twice = ops.call("add", ops.call("multiply", s, ops.call("exp", s)), ops.call("cos", s))
    dense = np.sin(x * y)
    weights = np.exp(dense * np.exp(dense) + np.cos(dense))
    row = reductions.BY_NAME["softmax_sum"]
    with config(engine="cpu"):
        got = evaluate.evaluate(reductions.reduce(row, [twice, points(y)], (1,)))
    np.testing.assert_allclose(got, (weights * y).sum(1) / weights.sum(1), rtol=1e-12)
    with config(engine="cpu"):
        counts, _ = np.histogram(
            LazyArray(x, feature_ndim=0) * LazyArray(y, feature_ndim=0),
            bins=5,
            range=(0, 1),
            weights=LazyArray(x, feature_ndim=0) + LazyArray(y, feature_ndim=0),
        )
    np.testing.assert_allclose(
        counts, np.histogram(x * y, bins=5, range=(0, 1), weights=x + y)[0], rtol=1e-12
    )


def test_concatenated_features() -> None:
    """Kernels know no concatenation: folds over it are split, results of it are joined."""
    x, y = rng.random((6, 2)), rng.random((7, 3))
    xi, yj = Input(x[:, None], x.dtype, "ppf"), Input(y[None], y.dtype, "ppf")
    both = ops.call("square", views.concatenate([ops.call("multiply", xi, 2.0), yj], 2, x.dtype))
    parts = (
        np.concatenate(
            [np.broadcast_to(2 * x[:, None], (6, 7, 2)), np.broadcast_to(y, (6, 7, 3))], 2
        )
        ** 2
    )
    fold = reductions.BY_NAME["sum"]
    with config(engine="cpu"):
        got = evaluate.evaluate(reductions.reduce(fold, [both], (1,)))
        summed = evaluate.evaluate(
            reductions.reduce(
                reductions.BY_NAME["max"], [reductions.reduce(fold, [both], (2,))], (1,)
            )
        )
        at = evaluate.evaluate(
            reductions.reduce(
                fold, [reductions.reduce(reductions.BY_NAME["argmax"], [both], (2,))], (1,)
            )
        )
    np.testing.assert_allclose(got, parts.sum(1), rtol=1e-12)
    np.testing.assert_allclose(summed, parts.sum(2).max(1), rtol=1e-12)
    np.testing.assert_array_equal(at, parts.argmax(2).sum(1))


def test_folds_of_every_kind() -> None:
    """sum, prod, min, max, argmin, argmax, any, all over features, with ties and NaN."""
    x, y = np.round(rng.random((6, 1, 4)) * 3), np.round(rng.random((1, 7, 4)) * 3)
    x[2, 0, 1] = np.nan
    node, dense = ops.call("subtract", Input(x, x.dtype, "ppf"), Input(y, y.dtype, "ppf")), x - y
    for name in ("sum", "prod", "min", "max", "argmin", "argmax", "any", "all"):
        fold = reductions.reduce(reductions.BY_NAME[name], [node], (2,))
        with config(engine="cpu"):
            got = evaluate.evaluate(reductions.reduce(reductions.BY_NAME["sum"], [fold], (1,)))
        np.testing.assert_allclose(got, getattr(np, name)(dense, axis=2).sum(1), err_msg=name)


def test_parameters_do_not_recompile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new sigma is a new argument of the same kernel."""
    x, y = rng.random((6, 1)), rng.random((1, 7))

    def call(sigma: float) -> np.ndarray:
        e = ops.call("exp", ops.call("multiply", ops.call("add", points(x), points(y)), sigma))
        return evaluate.evaluate(reductions.reduce(reductions.BY_NAME["sum"], [e], (1,)))

    call(0.123)
    monkeypatch.setattr(evaluate.cache, "text", None)
    np.testing.assert_allclose(call(0.7654), np.exp((x + y) * 0.7654).sum(1))


def test_same_result_for_any_number_of_threads() -> None:
    x, y = rng.random((3000, 3)).astype(np.float32), rng.random((2000, 3)).astype(np.float32)
    root = reductions.reduce(
        reductions.BY_NAME["sum"],
        [ops.call("exp", ops.call("negative", squared_distances(x, y)))],
        (1,),
    )
    out = []
    for threads in (1, 2, 5):
        with config(engine="cpu", threads=threads):
            out.append(evaluate.evaluate(root))
    assert np.array_equal(out[0], out[1]) and np.array_equal(out[0], out[2])


def test_walk_of_an_apply_is_in_order() -> None:
    """The numbers of nodes, on which keys and arguments rest, follow the order of first sight."""
    a, b = points(np.zeros((2, 1))), points(np.zeros((1, 3)))
    node = ops.call("add", ops.call("multiply", a, b), a)
    kinds = [type(n) for n in expr.walk(node)]
    assert kinds == [Input, Input, Apply, Apply]


def test_variance_of_more_columns_than_float32_counts():
    """A single running state would stop growing: 2**24 + 1 is no float32."""
    ones, y = np.ones(2, np.float32), np.zeros(2**25, np.float32)
    y[::2] = 1
    with config(engine="cpu"):
        np.testing.assert_allclose(
            (LazyArray(ones)[:, None] * LazyArray(y)[None]).var(1), [0.25, 0.25], rtol=1e-3
        )
