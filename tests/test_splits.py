"""Few rows and many columns: the columns are cut, and states are merged in a fixed order."""

import numpy as np
import pytest

from duckkeops import LazyArray, config, evaluate, plan, reductions
from duckkeops.engines import cpu
from duckkeops.expr import walk

pytestmark = pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")
rng = np.random.default_rng(7)

NAMES = sorted(reductions.BY_NAME)


def outcome(name: str, v: LazyArray) -> list[np.ndarray]:
    axis = 1
    state = {
        "topk": lambda: [np.argsort(v, axis=axis)[:, :5], np.sort(v, axis=axis)[:, :5]],
        "logsumexp": lambda: [np.logaddexp.reduce(v, axis=axis)],
        "softmax_sum": lambda: [softmax(v) @ weights(v.shape[1])],
        "count_nonzero": lambda: [np.count_nonzero(v > 0.2, axis=axis)],
        "any": lambda: [np.any(v > 1.9, axis=axis)],
        "all": lambda: [np.all(v > 1e-7, axis=axis)],
        "histogram": lambda: [
            np.histogram(v, 8, (0, 2))[0],
            np.histogram(v, 8, (0, 2), weights=np.broadcast_to(weights(v.shape[1])[:, 0], v.shape))[
                0
            ],
        ],
        "prod": lambda: [np.prod(1 + v / v.shape[1], axis=axis)],
    }.get(name, lambda: [getattr(np, name)(v, axis=axis)])
    return [np.asarray(a) for a in state()]


def softmax(v):
    e = np.exp(v - v.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def weights(n: int) -> np.ndarray:
    return np.cos(np.arange(3 * n, dtype=np.float64)).reshape(n, 3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [2, 5, 70])
def test_split_columns_are_the_same_reduction(
    name: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to NumPy's, with ties and NaN, and bitwise equal for any number of threads."""
    columns = 1023
    x, y = rng.integers(0, 9, (rows, 2)) / 9.0, rng.integers(0, 9, (columns, 2)) / 9.0
    if name in ("argmin", "argmax", "topk", "min", "max"):
        y[[17, 900]] = np.nan
    dense = np.abs(x[:, None] - y).sum(-1)
    virtual = np.abs(LazyArray(x[:, None, :]) - LazyArray(y[None, :, :])).sum(-1)
    expected = outcome(name, dense) if name != "topk" else stable(dense)
    monkeypatch.setattr(plan, "SPLIT_PAIRS", 1)
    monkeypatch.setattr(plan, "SPLIT_COLUMNS", 16)
    monkeypatch.setattr(plan, "INLINE_SECONDS", 0.0)
    results = []
    for threads in (1, 2, 5):
        with config(threads=threads, precision="exact", engine="cpu"):
            results.append(outcome(name, virtual))
    for got in results[1:]:
        for a, b in zip(got, results[0], strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(results[0], expected, strict=True):
        if a.dtype.kind in "ib":
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-12)


def stable(dense: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(dense, axis=1, kind="stable")[:, :5]
    return [order, np.take_along_axis(dense, order, 1)]


def test_splits_depend_on_sizes_alone() -> None:
    """Many rows are not split, nor little work; and never into more parts than columns."""

    def splits(rows: int, columns: int, blocks: int) -> int:
        x, y = np.zeros((rows, 1, 1)), np.zeros((1, columns, 1))
        value = (LazyArray(x) - LazyArray(y)).sum(-1)
        node = reductions.reduce(reductions.BY_NAME["sum"], [value._node], (1,))
        return plan.splits(node, plan.loop_axes(node), blocks)

    assert splits(100_000, 1000, 1563) == 1
    assert splits(5, 10, 1) == 1
    assert splits(5, 2_000_000, 1) == plan.SPLIT_BLOCKS
    assert splits(5, 1_000_000, 4) == plan.SPLIT_BLOCKS // 4
    assert splits(2000, 5000, 32) == 1  # 4096 columns at least in each


def test_each_part_fills_a_topk() -> None:
    """Of 5 x 9 columns and k = 12, two parts of 2 and 3 x 9: three would leave one of 9."""
    x, y, z = np.zeros((4, 1, 1, 1)), np.zeros((1, 5, 1, 1)), np.zeros((1, 1, 9, 1))
    value = sum(LazyArray(a, batch_ndim=0) for a in (x, y, z)).sum(-1)
    node = reductions.reduce(reductions.BY_NAME["topk"], [value._node], (1, 2), k=12, largest=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "SPLIT_PAIRS", 1)
        patch.setattr(plan, "SPLIT_COLUMNS", 1)
        assert plan.splits(node, plan.loop_axes(node), 1) == 2


def test_one_row_of_many_columns_is_a_kernel() -> None:
    """A single query takes the path of two; what the library computes itself stays small."""
    x, y = rng.random((1, 1, 3)), rng.random((1, 100_000, 3))
    square = ((LazyArray(x) - LazyArray(y)) ** 2).sum(-1)
    node = reductions.reduce(reductions.BY_NAME["argmin"], [square._node], (1,))
    few = reductions.reduce(reductions.BY_NAME["argmin"], [square[:, :100]._node], (1,))
    alone = reductions.reduce(reductions.BY_NAME["sum"], [LazyArray(y)._node], (1,))
    for root, plain in ((node, False), (few, True), (alone, True)):
        assert evaluate.is_plain(root, walk(root)) is plain
    assert np.argmin(square, axis=1)[0] == ((x - y) ** 2).sum(-1).argmin()
