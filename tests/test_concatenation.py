"""Block arrays: virtual arrays joined along point axes do what the dense arrays do, block by
block.
"""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest

from duckkeops import (
    LazyArray,
    RoleError,
    ShapeError,
    concatenation,
    config,
    evaluate,
    expr,
    reductions,
)
from duckkeops.engines import cpu
from duckkeops.expr import Concat, Input

each_engine = pytest.mark.parametrize(
    "engine",
    [
        pytest.param("cpu", marks=pytest.mark.skipif(not cpu.is_available(), reason="no compiler")),
        "blocks",
    ],
)
rng = np.random.default_rng(5)
LENGTHS = {"a": 7, "b": 5, "c": 6, "d": 3}
M, N = 12, 9
V, W, U = rng.normal(size=N), rng.normal(size=(N, 2)), rng.normal(size=M)
COST = rng.random((M, N))
MASK = COST < 0.6
ROWS, COLUMNS = rng.integers(0, M, 200), rng.integers(0, N, 200)
SOME = ROWS.reshape(20, 10)
NEAR, FAR = rng.integers(0, N, (M, 4)), rng.integers(0, M, (5, N))
SHUFFLED = rng.permutation(np.repeat(np.arange(M), 3))


def rows(dtype: str = "float64", **lengths: int) -> list[np.ndarray]:
    lengths = LENGTHS | lengths
    low = 0 if dtype[0] == "u" else -3
    return [rng.integers(low, 4, (n, 2)).astype(dtype) for n in lengths.values()]


def squares(x, y):
    return ((x[:, None, :] - y[None, :, :]) ** 2).sum(-1)


def blocks(a, b, c, d):
    return np.block([[squares(a, c), squares(a, d) + 1], [2 * squares(b, c), squares(b, d)]])


def both(dtype: str = "float64", **lengths: int) -> tuple[LazyArray, np.ndarray]:
    arrays = rows(dtype, **lengths)
    lazy = blocks(*map(LazyArray, arrays))
    assert isinstance(lazy, LazyArray) and expr.is_virtual(lazy._node)
    return lazy, blocks(*arrays)


def agree(got, want, rtol=1e-11):
    if isinstance(want, tuple):
        for g, w in zip(got, want, strict=True):
            agree(g, w, rtol)
        return
    if isinstance(got, LazyArray):
        got = got.to_dense()
    assert got.dtype == want.dtype and np.shape(got) == np.shape(want)
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol)


REDUCTIONS = {
    name: getattr(np, name)
    for name in (
        *("sum", "prod", "mean", "var", "std", "min", "max", "argmin", "argmax", "any", "all"),
        *("count_nonzero", "ptp", "nansum", "nanmin", "nanargmax"),
    )
} | {"logsumexp": lambda d, axis: np.logaddexp.reduce(d, axis=axis)}


@each_engine
@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name, axis, engine):
    d, dense = both()
    want = REDUCTIONS[name](
        dense.ravel() if name == "logsumexp" and axis is None else dense, axis=axis
    )
    with config(engine=engine):
        agree(REDUCTIONS[name](d, axis=axis), want)


@each_engine
@pytest.mark.parametrize(
    "dtype", ["int8", "int64", "uint16", "float16", "float32", "complex64", "complex128"]
)
def test_dtypes(dtype, engine):
    d, dense = both(dtype)
    with config(engine=engine), np.errstate(all="ignore"):
        for name in ("sum", "prod", "mean", "var", "min", "argmax", "all", "count_nonzero"):
            wide = dense.astype("float32") if dtype == "float16" else dense
            want = REDUCTIONS[name](wide, axis=1)
            want = want.astype(dtype) if dtype == "float16" and want.dtype.kind == "f" else want
            agree(REDUCTIONS[name](d, axis=1), want, 2e-3 if dtype == "float16" else 1e-5)


@each_engine
def test_booleans_and_mixed_dtypes(engine):
    a, b, c, _ = rows()
    x, y = LazyArray(a)[:, None], LazyArray(b)[:, None]
    z = LazyArray(c)[None]

    def joined(x, y, z):
        near, far = (x < z).all(-1), (y > z).any(-1)
        whole = (x.astype(np.float32) - z.astype(np.float32)).sum(-1)
        return np.concatenate([near, far]), np.concatenate([near, whole, far.astype(np.int8)])

    for got, want in zip(joined(x, y, z), joined(a[:, None], b[:, None], c[None]), strict=True):
        assert got.dtype == want.dtype
        with config(engine=engine):
            for f in (np.any, np.all, np.argmin, np.max, np.count_nonzero):
                agree(f(got, axis=0), f(want, axis=0))
    i8 = np.concatenate(
        [LazyArray(np.arange(4))[:, None] < LazyArray(np.arange(5))] * 2, dtype="i8"
    )
    assert i8.dtype == np.int64 and i8.sum() == 20


def flat(d):
    return d.ravel() if isinstance(d, np.ndarray) else d


CASES = {
    "matrix times vector": lambda d: d @ V,
    "matrix times matrix": lambda d: d @ W,
    "vector times matrix": lambda d: U @ d,
    "transposed": lambda d: d.T @ U,
    "einsum": lambda d: np.einsum("ij,j->i", d, V),
    "kernel": lambda d: np.exp(-d) @ W,
    "weights": lambda d: (d * V).sum(1),
    "a cost of each pair": lambda d: (d * COST).sum(0),
    "a mask": lambda d: np.where(MASK, d, 9).min(1),
    "where": lambda d: np.sum(d, axis=1, where=MASK),
    "average": lambda d: np.average(d, axis=1, weights=V**2),
    "norm": lambda d: np.linalg.norm(d, axis=1),
    "itself, cut elsewhere": lambda d: (d[:, 1:] - d[:, :-1]).max(1),
    "softmax": lambda d: (np.exp(d - np.logaddexp.reduce(d, axis=1, keepdims=True)) @ V),
    "histogram": lambda d: np.histogram(d, 7),
    "weighted histogram": lambda d: np.histogram(d, 7, weights=COST),
    "bincount": lambda d: np.bincount(flat(d.astype(int))),
    "sort": lambda d: np.sort(d, axis=1)[:, :4],
    "sort, more than a block has": lambda d: np.sort(d, axis=1)[:, :8],
    "sort, last": lambda d: np.sort(d, axis=1)[:, -5:],
    "argsort": lambda d: np.argsort(d, axis=1, kind="stable")[:, :4],
    "argsort of columns": lambda d: np.argsort(d, axis=0, kind="stable")[:8],
    "part": lambda d: d[2:9, 3:8].sum(1),
    "part of one block": lambda d: d[:4, :2].sum(1),
    "steps": lambda d: d[::-2, ::3].sum(0),
    "a row": lambda d: d[9] + 0,
    "some rows": lambda d: d[[0, 11, 3]].sum(1),
    "no rows": lambda d: d[5:5].sum(1),
    "shuffled rows": lambda d: d[SHUFFLED].sum(1),
    "shuffled columns": lambda d: np.exp(-d)[:, SHUFFLED % N].argmin(1),
    "points": lambda d: d[np.arange(M), NEAR[:, 0]],
    "many points": lambda d: d[ROWS, COLUMNS],
    "many points of a function": lambda d: np.exp(-d)[SOME, COLUMNS.reshape(20, 10)],
    "take_along_axis": lambda d: np.take_along_axis(d, NEAR, axis=1),
    "take_along_axis 0": lambda d: np.take_along_axis(d, FAR, axis=0),
    "diagonal": lambda d: np.diagonal(d),
    "trace": lambda d: np.trace(d),
    "flip": lambda d: np.flip(d).argmax(0),
    "new axis": lambda d: d[:, None, :].sum((0, 1)),
    "split": lambda d: np.split(d, [8], axis=0)[1].sum(0),
    "joined again": lambda d: np.concatenate([d, d * 2, d[:2]]).sum(0),
    "append": lambda d: np.append(d, d, axis=1).argmin(1),
    "hstack": lambda d: np.hstack([d, COST]).max(1),
    "vstack": lambda d: np.vstack([COST, d, COST]).argmax(0),
    "stack": lambda d: np.stack([d, 2 * d], axis=-1).sum((1, 2)),
    "features": lambda d: (d[:, :, None] * W).sum(1),
    "folded features": lambda d: (d[:, :, None] - W).max(-1).sum(0),
    "dense": lambda d: d,
}  # fmt: skip


@each_engine
@pytest.mark.parametrize("case", CASES)
def test_functions(case, engine):
    d, dense = both()
    with config(engine=engine), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agree(CASES[case](d), CASES[case](dense))


@each_engine
def test_nearest_neighbours_by_their_positions(engine):
    """What argsort finds, take_along_axis reads."""
    d, dense = both()
    with config(engine=engine):
        near = np.argsort(d, axis=1)[:, :5]
        agree(np.take_along_axis(d, near, 1), np.sort(dense, axis=1)[:, :5])


@each_engine
def test_nan_infinities_and_ties_across_blocks(engine):
    values = np.array([3, np.nan, 1, np.inf, 1, -np.inf, 1, np.nan, 0, 3.0])
    x, y = np.ones(5), values
    d = np.concatenate([LazyArray(x)[:, None] * LazyArray(part) for part in np.split(y, [2, 5])], 1)
    dense = x[:, None] * y
    for cut in (slice(None), slice(2, 5), slice(2, 7), slice(8, None)):
        with config(engine=engine), np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in (
                "min",
                "max",
                "argmin",
                "argmax",
                "sum",
                "nanmin",
                "nanargmax",
                "logsumexp",
            ):
                agree(REDUCTIONS[name](d[:, cut], axis=1), REDUCTIONS[name](dense[:, cut], axis=1))
            k = min(4, dense[:, cut].shape[1])
            agree(
                np.argsort(d[:, cut], axis=1)[:, :k],
                np.argsort(dense[:, cut], axis=1, kind="stable")[:, :k],
            )


@each_engine
@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("k", [1, 5, 40, M * N])
def test_topk_of_all_pairs(k, largest, engine):
    """Of equals the first in the order of the whole, though blocks interleave."""
    d, dense = both()
    row = reductions.BY_NAME["topk"]
    node = reductions.reduce(row, (d._node,), (0, 1), k=k, largest=largest)
    with config(engine=engine):
        values, index = evaluate.evaluate(node)
    order = np.argsort(-dense if largest else dense, axis=None, kind="stable")[:k]
    np.testing.assert_array_equal(index, order)
    np.testing.assert_array_equal(values, dense.ravel()[order])


@each_engine
@pytest.mark.parametrize("size", [0, 1, 2, 63, 64, 65, 129])
def test_sizes(size, engine):
    for lengths in ({"a": size}, {"c": size}, {"b": size, "d": size}):
        d, dense = both(**lengths)
        with config(engine=engine):
            agree(d.sum(1), dense.sum(1))
            agree(d.sum(0), dense.sum(0))
            if 0 not in dense.shape:
                agree(d.argmin(1), dense.argmin(1))
                agree(d.argmax(), dense.argmax())


@each_engine
def test_batches_and_three_point_axes(engine):
    def batched(x, y, z):
        first, second = (
            ((p[:, :, None, :] - q[:, None, :, :]) ** 2).sum(-1) for p, q in ((x, z), (y, z))
        )
        return np.concatenate([first, second], axis=1)

    x, y, z = (rng.integers(-3, 4, (2, n, 2)).astype(float) for n in (4, 3, 5))
    d, dense = batched(*map(LazyArray, (x, y, z))), batched(x, y, z)
    with config(engine=engine):
        for axis in (0, 1, 2, (0, 1), (1, 2), None):
            agree(d.sum(axis), dense.sum(axis))
        agree(d.argmin(1), dense.argmin(1))
        agree(d.argmin(2), dense.argmin(2))
        agree(np.concatenate([d, d], axis=0).max(2), np.concatenate([dense, dense], axis=0).max(2))
    p, q, r = rng.integers(0, 5, 4), rng.integers(0, 5, 3), rng.integers(0, 5, 6)

    def triples(p, q, r):
        one = p[:, None, None] + q[None, :, None] * r[None, None, :]
        return np.concatenate([one, 3 - one, one[:, :, :2]], axis=2)

    e, dense = triples(*map(LazyArray, (p, q, r))), triples(p, q, r)
    with config(engine=engine):
        for axis in ((1, 2), (0, 1), (0, 2), None):
            agree(e.sum(axis), dense.sum(axis))
        inner = np.sqrt(np.abs(e.sum(2) + 1.0))  # lazy: a fold over the joined axis
        agree(inner.sum(0), np.sqrt(np.abs(dense.sum(2) + 1.0)).sum(0))
        agree(e.argmax(2).sum(0), dense.argmax(2).sum(0))


@each_engine
def test_products_of_kernels(engine):
    """K1 @ K2 of block arrays is a nested loop over blocks."""
    d, dense = both()
    f, other = both()
    with config(engine=engine):
        agree((d @ f.T).sum(1), (dense @ other.T).sum(1))


BLOCKS = {
    "one list": lambda d, e: [d, e],
    "nested": lambda d, e: [[d, e], [e, d]],
    "three levels": lambda d, e: [[[d, e]], [[e, d]]],
    "one": lambda d, e: d,
    "with a matrix": lambda d, e: [[d, np.ones((4, 3))], [np.zeros((2, 5)), np.ones((2, 3))]],
}


@pytest.mark.parametrize("case", BLOCKS)
def test_block(case):
    x, y, z = rng.random(4), rng.random(5), rng.random(5)

    def made(x, y, z):
        return np.block(BLOCKS[case](x[:, None] + y, x[:, None] * z))

    agree(made(*map(LazyArray, (x, y, z))), made(x, y, z))


@pytest.mark.parametrize(
    ("arrays", "kind"),
    [
        (lambda d: [], ValueError),
        (lambda d: [[d], d], ValueError),
        (lambda d: (d, d), TypeError),
        (lambda d: [[d, d[:2]]], ValueError),
        (lambda d: [[d], [d[:, :2]]], ValueError),
    ],
)
def test_blocks_that_do_not_fit(arrays, kind):
    d, dense = both()
    with pytest.raises(kind):
        np.block(arrays(dense))
    if arrays(d) != []:
        with pytest.raises(kind):
            np.block(arrays(d))


def test_errors():
    d, _ = both()
    with pytest.raises(ShapeError, match="cannot concatenate along axis 0: axis 1 has 9 entries"):
        np.concatenate([d, d[:, :4]])
    with pytest.raises(TypeError):
        np.concatenate([d, "text"])
    features = LazyArray(np.ones((12, 4)))[:, None, :]
    with pytest.raises(RoleError, match="a point axis"):
        np.concatenate([d[:, None, :], features], axis=2)
    with pytest.raises(TypeError, match="out="):
        np.concatenate([d, d], out=np.empty((24, 9)))


def test_looking_at_it():
    d, _ = both()
    assert "concatenate([" in repr(d) and "(12, 9) float64" in repr(d)
    assert d.explain().startswith("blocks     (7 + 5) x (6 + 3): 4 reductions")
    assert d.source().count("#define DUCKKEOPS_PRELUDE") == 3  # two of them differ in nothing
    assert "concatenate" in d._repr_latex_()
    assert d.estimate().pairs == M * N
    assert not any(isinstance(n, Concat) for n in expr.walk(d[:7, 6:]._node))


def test_the_same_for_any_number_of_threads():
    x, y, z = (rng.random((n, 3)).astype(np.float32) for n in (900, 700, 1100))
    x, y, z = map(LazyArray, (x, y, z))
    d = np.concatenate([np.exp(-squares(x, z)), squares(y, z)])
    found = []
    for threads in (1, 2, 5):
        with config(threads=threads):
            found.append((d.sum(0), d.sum(1), d.sum()))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_no_pairs_are_stored():
    x, y, z = (LazyArray(rng.random((n, 3)).astype(np.float32)) for n in (9000, 7000, 8000))
    d = np.block([[squares(x, z), squares(x, y)], [squares(y, z), squares(y, y)]])
    pick = rng.integers(0, 15_000, 15_000)
    d[:40, :50].sum(1)
    tracemalloc.start()
    d.sum(1), d.argmin(0), d[pick, pick], d[pick].min(1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # of 900 MB


def test_gradients_part_by_part():
    """Of inputs of one part, and of those that more than one part has a slice of."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, u, y, b, w = (rng.random(s) for s in ((4, 1, 3), (5, 1, 3), (1, 6, 3), (9, 1, 1), (9, 1, 3)))
    lazy = [LazyArray(a, feature_ndim=1) for a in (x, u, y, b, w)]
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, u, y, b, w)]

    def value(x, u, y, b, w, cat):
        near = ((x - y) ** 2).sum(-1), (u * y).sum(-1)
        both = cat([x - y, u * y], 0)
        return cat(near, 0) * b[..., 0] + ((both - w) ** 2).sum(-1)

    g = rng.random((9, 6))
    node = value(*lazy, np.concatenate)._node
    cotangent = Input(g, g.dtype, node.roles)
    dense = value(*leaves, torch.cat)
    wants = torch.autograd.grad((dense * torch.tensor(g)).sum(), leaves)
    for a, want in zip((x, u, y, b, w), wants, strict=True):
        got = np.zeros_like(a)
        for leaf in expr.inputs(node):
            if np.shares_memory(leaf.array, a):
                parts = concatenation.gradient(node, cotangent, leaf)
                with config(engine="blocks"):
                    sums = [evaluate.evaluate(p.term.node) for p in parts]
                got += concatenation.total(np, sums, parts, leaf).reshape(a.shape)
        np.testing.assert_allclose(got, want, rtol=1e-12)
