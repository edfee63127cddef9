"""Arrays restricted to blocks of pairs, against dense arrays with a mask."""

from __future__ import annotations

import pickle
import shutil
from typing import Any

import host_cuda
import numpy as np
import pytest

import duckkeops
from duckkeops import BlockPairs, LazyArray, config
from duckkeops.errors import ShapeError, UnsupportedError
from duckkeops.restriction import _sorted, _united

ENGINES = ["cpu", "blocks", "cuda"]


@pytest.fixture(params=ENGINES)
def anywhere(request, monkeypatch):
    """Compiled C, tiles of NumPy, and CUDA kernels that are run on the host."""
    if request.param == "cuda":
        if shutil.which("g++") is None:
            pytest.skip("no g++ to compile CUDA with")
        with host_cuda.hosted(monkeypatch):
            yield request.param
    else:
        with config(engine=request.param):
            yield request.param


def blocks(rng: Any, n: int, count: int) -> np.ndarray:
    """Ranges that do not overlap, in any order, some of them empty, between which are gaps."""
    cuts = np.sort(rng.choice(n + 1, 2 * count, replace=True)).reshape(-1, 2)
    return cuts[rng.permutation(count)]


def pattern(seed: int, m: int, n: int, rows: int, columns: int) -> tuple[BlockPairs, np.ndarray]:
    """A pattern, and the mask of all pairs."""
    rng = np.random.default_rng(seed)
    r, c = blocks(rng, m, rows), blocks(rng, n, columns)
    mask = rng.random((rows, columns)) < 0.6
    dense = np.zeros((m, n), bool)
    for k, l in zip(*np.nonzero(mask), strict=True):
        dense[slice(*r[k]), slice(*c[l])] = True
    return BlockPairs(mask, r, c, (m, n)), dense


def clouds(m: int, n: int, dtype: str = "d") -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(m + n)
    return tuple(rng.standard_normal((k, 3)).astype(dtype) for k in (m, n))


def distances(x: Any, y: Any) -> Any:
    return ((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1)


def dense_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return ((x[:, None].astype("d") - y[None]) ** 2).sum(-1)


SIZES = [(70, 90, 3, 4), (1, 40, 1, 3), (40, 1, 3, 1), (257, 33, 9, 2), (130, 600, 2, 12)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", ["f", "d"])
def test_sums_of_both_axes(anywhere, sizes, dtype):
    m, n, rows, columns = sizes
    kept, mask = pattern(3, m, n, rows, columns)
    x, y = clouds(m, n, dtype)
    k = np.exp(-distances(x, y)).restrict(kept)
    want = np.where(mask, np.exp(-dense_distances(x, y)), 0)
    b, c = np.linspace(-1, 1, n, dtype=dtype), np.linspace(1, 2, m, dtype=dtype)
    bounds = {"rtol": 1e-4, "atol": 1e-4} if dtype == "f" else {"rtol": 1e-10, "atol": 1e-11}
    assert kept.density == pytest.approx(mask.mean())
    for got, expected in (
        (k.sum(axis=1), want.sum(1)),
        (k.sum(axis=0), want.sum(0)),
        (k.sum(), want.sum()),
        (k @ b, want @ b),
        (k.T @ c, want.T @ c),
        (c @ k, c @ want),
        (k @ y, want @ y),
        ((2 * k + 1).sum(axis=1), ((2 * want + 1) * mask).sum(1)),
    ):
        np.testing.assert_allclose(got, expected, **bounds)


@pytest.mark.parametrize("axis", [0, 1])
def test_all_reductions(anywhere, axis):
    kept, mask = pattern(1, 60, 75, 4, 5)
    assert not mask.any(axis).all()  # some rows keep nothing
    x, y = clouds(60, 75)
    d, dense = distances(x, y).restrict(kept), dense_distances(x, y)
    some = mask.any(axis)
    least, most = np.where(mask, dense, np.inf), np.where(mask, dense, -np.inf)
    np.testing.assert_allclose(d.min(axis=axis), least.min(axis))
    np.testing.assert_allclose(d.max(axis=axis), most.max(axis))
    np.testing.assert_array_equal(d.argmin(axis=axis), np.where(some, least.argmin(axis), 0))
    np.testing.assert_array_equal(d.argmax(axis=axis), np.where(some, most.argmax(axis), 0))
    np.testing.assert_allclose(
        (d / 3).prod(axis=axis), np.where(mask, dense / 3, 1).prod(axis), rtol=1e-9
    )
    np.testing.assert_array_equal((d < 1).any(axis=axis), (mask & (dense < 1)).any(axis))
    np.testing.assert_array_equal((d < 9).all(axis=axis), (~mask | (dense < 9)).all(axis))
    np.testing.assert_array_equal(
        np.count_nonzero(d < 1, axis=axis), (mask & (dense < 1)).sum(axis)
    )
    with np.errstate(divide="ignore"):
        total = np.log(np.where(mask, np.exp(-dense), 0).sum(axis))
    np.testing.assert_allclose(duckkeops.logsumexp(-d, axis=axis), total)
    assert np.argmin(d) == least.argmin() and np.max(d) == pytest.approx(most.max())


@pytest.mark.parametrize("k", [1, 3, 40])
def test_lists_of_the_best(anywhere, k):
    kept, mask = pattern(1, 60, 75, 4, 5)
    x, y = clouds(60, 75)
    dense = np.where(mask, dense_distances(x, y), np.inf)
    order = np.argsort(dense, 1, kind="stable")[:, :k]
    values = np.take_along_axis(dense, order, 1)
    found, places = duckkeops.topk(distances(x, y).restrict(kept), k, axis=1, largest=False)
    assert np.isinf(values).any()
    np.testing.assert_allclose(found, values)
    np.testing.assert_array_equal(places, np.where(np.isinf(values), -1, order))


def test_softmax_weighted_sums(anywhere):
    kept, mask = pattern(5, 50, 40, 2, 3)
    x, y = clouds(50, 40)
    weights = np.where(mask, np.exp(-dense_distances(x, y)), 0)
    total = weights.sum(1, keepdims=True)
    want = np.where(total > 0, weights @ y / np.where(total > 0, total, 1), np.nan)
    got = duckkeops.softmax(-distances(x, y).restrict(kept), axis=1) @ y
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_batches(anywhere):
    kept, mask = pattern(2, 30, 45, 3, 3)
    rng = np.random.default_rng(0)
    x, y = rng.random((4, 30, 2)), rng.random((4, 45, 2))
    a = LazyArray(x, batch_ndim=1)[:, :, None] - LazyArray(y, batch_ndim=1)[:, None]
    d = ((x[:, :, None] - y[:, None]) ** 2).sum(-1) * mask
    np.testing.assert_allclose((a**2).sum(-1).restrict(kept).sum(axis=2), d.sum(2))
    np.testing.assert_allclose((a**2).sum(-1).restrict(kept).sum(axis=1), d.sum(1))


def test_ranges_of_keops():
    kept, mask = pattern(7, 80, 60, 5, 4)
    sides = [(s.rows, s.ends, s.columns) for s in map(kept.side, (0, 1))]
    again = BlockPairs.from_ranges(*sides[0], *sides[1])
    x, y = clouds(80, 60)
    d = distances(x, y).restrict(again)
    np.testing.assert_allclose(d.sum(axis=1), (mask * dense_distances(x, y)).sum(1))
    np.testing.assert_allclose(d.sum(axis=0), (mask * dense_distances(x, y)).sum(0))


def test_nothing_is_kept(anywhere):
    x, y = clouds(8, 6)
    none = np.zeros((0, 2), int), [], np.zeros((0, 2), int)
    for kept in (
        BlockPairs(np.zeros((0, 0), bool), [], [], (8, 6)),
        BlockPairs.from_ranges(*none, *none, shape=(8, 6)),
    ):
        d = distances(x, y).restrict(kept)
        assert kept.density == 0 and d.sum() == 0
        for axis, n in ((1, 8), (0, 6)):
            np.testing.assert_array_equal(d.sum(axis=axis), np.zeros(n))
            np.testing.assert_array_equal(d.min(axis=axis), np.full(n, np.inf))


@pytest.mark.parametrize("columns", [1, 2])
def test_one_column(columns):
    torch = pytest.importorskip("torch")
    x, y = clouds(5, columns)
    kept = BlockPairs([[True]], [[1, 3]], [[0, 1]], (5, columns))
    dense = dense_distances(x, y)
    inside = dense[1:3, 0]
    for array in (np.asarray, torch.from_numpy):
        d = distances(array(x), array(y)).restrict(kept)
        for name, rest in (("min", np.inf), ("max", -np.inf)):
            got = [getattr(d, name)(axis) for axis in (1, 0)]
            rows, best = got if array is np.asarray else (pair.values for pair in got)
            np.testing.assert_allclose(rows, [rest, *inside, rest, rest], rtol=1e-14)
            want = [getattr(inside, name)(), *[rest] * (columns - 1)]
            np.testing.assert_allclose(best, want, rtol=1e-14)


def test_axes_of_length_1_without_a_role(anywhere):
    x, _ = clouds(5, 1)
    kept = BlockPairs([[True]], [[1, 3]], [[0, 1]], (5, 1))
    d = (LazyArray(x) ** 2).sum(-1)[:, None]
    assert d.roles[1] == "neutral"
    want = (x**2).sum(-1) * [0, 1, 1, 0, 0]
    np.testing.assert_allclose(d.restrict(kept, (0, 1)).sum(axis=1), want)
    np.testing.assert_allclose(d.restrict(kept, (0, 1)).sum(axis=0), [want.sum()])


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_intervals_that_meet_are_one(library):
    array = pytest.importorskip("torch").from_numpy if library == "torch" else np.asarray
    ends = np.array([4, 4, 6])
    crossed = np.array([[5, 7], [0, 2], [1, 3], [3, 3], [4, 5], [5, 9]])
    ordered = np.array([[0, 2], [2, 3], [5, 6], [6, 7], [4, 5], [5, 9]])
    for given in (crossed, ordered):
        for found_ends, found in (_united(ends, array(given), 9), _sorted(ends, given)):
            np.testing.assert_array_equal(found_ends, [2, 2, 3])
            np.testing.assert_array_equal(found, [[0, 3], [5, 7], [4, 9]])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    "reduce",
    [
        lambda d, t, axis: (-d).exp().sum(axis),
        lambda d, t, axis: (-d).logsumexp(axis),
        lambda d, t, axis: d.amin(axis),
        lambda d, t, axis: d.min(axis).values,
        lambda d, t, axis: d.topk(2, axis, largest=False).values,
        lambda d, t, axis: (d / 3).prod(axis),
        lambda d, t, axis: (-d).softmax(1) @ t,
    ],
    ids=["sum", "logsumexp", "amin", "min", "topk", "prod", "softmax"],
)
def test_gradients_of_each_order(reduce, axis):
    torch = pytest.importorskip("torch")
    kept, mask = pattern(11, 14, 11, 3, 3)
    mask = torch.from_numpy(mask)
    leaves = [torch.from_numpy(a).requires_grad_() for a in clouds(14, 11)]
    weight = torch.from_numpy(clouds(11, 3)[0])

    def orders(lazy: bool) -> list:
        x, y = leaves
        d = distances(x, y).restrict(kept) if lazy else dense_torch(x, y)
        name = reduce.__code__.co_names
        if not lazy:
            fill = 3.0 if "prod" in name else torch.inf
            d = torch.where(mask, d, fill)
        out = reduce(d, weight, axis)
        out = torch.where(torch.isfinite(out), out, 0)  # of rows that keep too few
        found = [out]
        loss = out.square().sum()
        for _ in range(2):
            parts = torch.autograd.grad(loss, leaves, create_graph=True)
            found += parts
            loss = sum((p.square() * p.detach().cos()).sum() for p in parts)
        return [torch.nan_to_num(f.detach(), nan=0.0) for f in found]

    def dense_torch(x: Any, y: Any) -> Any:
        return ((x[:, None] - y[None]) ** 2).sum(-1)

    for got, want in zip(orders(True), orders(False), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-9)


def test_transforms():
    torch = pytest.importorskip("torch")
    kept, mask = pattern(13, 9, 8, 2, 3)
    x, y = (torch.from_numpy(a) for a in clouds(9, 8))
    mask = torch.from_numpy(mask)

    def lazy(x: Any) -> Any:
        return (-distances(x, y)).exp().restrict(kept).sum(1)

    def dense(x: Any) -> Any:
        return ((-((x[:, None] - y) ** 2).sum(-1)).exp() * mask).sum(1)

    for f in (
        lambda g: torch.func.jacrev(g)(x),
        lambda g: torch.func.jacfwd(g)(x),
        lambda g: torch.func.hessian(lambda x: g(x).square().sum())(x),
        lambda g: torch.vmap(g)(torch.stack([x, 2 * x])),
    ):
        torch.testing.assert_close(f(lazy), f(dense))


def test_another_pattern_of_the_same_shape_is_not_taken_for_the_first():
    torch = pytest.importorskip("torch")
    x, y = (torch.from_numpy(a).requires_grad_() for a in clouds(20, 30))
    for seed in range(4):
        kept, mask = pattern(seed, 20, 30, 2, 2)
        value = (-distances(x, y)).exp().restrict(kept).sum(1)
        (got,) = torch.autograd.grad(value.sum(), y)
        dense = (-((x[:, None] - y) ** 2).sum(-1)).exp() * torch.from_numpy(mask)
        torch.testing.assert_close(value, dense.sum(1))
        torch.testing.assert_close(got, torch.autograd.grad(dense.sum(), y)[0])


def test_it_says_what_is_kept():
    kept, mask = pattern(7, 80, 60, 5, 4)
    d = distances(*clouds(80, 60)).restrict(kept)
    assert f"{mask.mean():.3g} of 4.8e+03, in blocks" in d.explain()
    assert d.estimate().pairs == mask.sum()
    assert "restricted" in repr(d)
    again = pickle.loads(pickle.dumps(d))
    np.testing.assert_allclose(again.sum(axis=1), d.sum(axis=1))


def test_what_has_no_value_is_refused():
    kept, _ = pattern(7, 80, 60, 5, 4)
    other, _ = pattern(8, 80, 60, 5, 4)
    x, y = clouds(80, 60)
    d = distances(x, y)
    r = d.restrict(kept)
    for call, error, says in (
        (lambda: r.mean(axis=1), UnsupportedError, "different numbers of pairs"),
        (lambda: np.var(r, axis=1), UnsupportedError, "different numbers of pairs"),
        (lambda: np.median(r, axis=1), UnsupportedError, "different numbers of pairs"),
        (lambda: np.nanquantile(r, 0.9, axis=0), UnsupportedError, "different numbers of pairs"),
        (lambda: r[:10].sum(axis=1), UnsupportedError, "Index first"),
        (lambda: r.to_dense(), UnsupportedError, "dropped pairs"),
        (lambda: (r * d.restrict(other)).sum(axis=1), UnsupportedError, "Restrict the whole"),
        (lambda: distances(y, x).restrict(kept).sum(axis=1), ShapeError, "80 x 60 pairs"),
        (lambda: LazyArray(x).restrict(kept), ShapeError, "80 x 60 pairs"),
        (lambda: d.restrict(np.ones((5, 4))), TypeError, "BlockPairs"),
        (lambda: BlockPairs([[1]], [[0, 5], [4, 9]], [0, 3]), ShapeError, "overlap"),
        (lambda: BlockPairs([[1, 0]], [0, 3], [0, 3]), ShapeError, "1 blocks of rows and 1"),
        (lambda: BlockPairs([[1]], [[3, 1]], [0, 3]), ShapeError, "from 3 to 1"),
        (lambda: BlockPairs([[1]], [0, 9], [0, 3], (5, 5)), ShapeError, "beyond"),
        (lambda: BlockPairs([[0.5]], [0, 9], [0, 3]), ShapeError, "one boolean"),
        (lambda: BlockPairs([[1]], [0.5, 9], [0, 3]), ShapeError, "integers"),
    ):
        with pytest.raises(error, match=says):
            call()


def test_the_work_is_that_of_the_pairs_kept():
    torch_like = np.linspace(0, 1, 30_000, dtype="f")
    d = (LazyArray(torch_like)[:, None] - LazyArray(torch_like)) ** 2
    edges = np.arange(0, 30_001, 500)
    kept = BlockPairs(np.eye(60, dtype=bool), edges, edges)
    assert d.restrict(kept).estimate().seconds < 0.1 * d.estimate().seconds
    np.testing.assert_allclose(
        d.restrict(kept).sum(axis=1)[:500], dense_row_sums(torch_like[:500]), rtol=1e-4
    )


def dense_row_sums(x: np.ndarray) -> np.ndarray:
    return ((x[:, None].astype("d") - x) ** 2).sum(1)
