"""Block-sparse reductions of duckkeops.keops against dense arrays with a mask."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

import duckkeops
from duckkeops.keops import reducing


@pytest.fixture(params=["numpy", "torch"])
def sparse(request):
    """A library's LazyTensor, its arrays, the six ranges and the mask of all pairs."""
    if request.param == "torch":
        torch = pytest.importorskip("torch")
    keops = importlib.import_module(f"duckkeops.keops.{request.param}")
    cluster = importlib.import_module(f"duckkeops.keops.{request.param}.cluster")
    array = np.asarray if request.param == "numpy" else torch.from_numpy
    rng = np.random.default_rng(0)
    found = []
    for n in (101, 83):
        points = array(rng.random((n, 2)))
        labels = cluster.grid_cluster(points, 0.3)
        ranges, centres, _ = cluster.cluster_ranges_centroids(points, labels)
        found += [cluster.sort_clusters(points, labels)[0], ranges, centres]
    x, x_ranges, x_centres, y, y_ranges, y_centres = found
    keep = ((x_centres[:, None] - y_centres[None]) ** 2).sum(-1) < 0.2
    ranges = cluster.from_matrix(x_ranges, y_ranges, keep)
    mask = np.zeros((101, 83), bool)
    for i, j in zip(*np.nonzero(np.asarray(keep)), strict=True):
        mask[slice(*x_ranges[i]), slice(*y_ranges[j])] = True
    assert 0.1 < mask.mean() < 0.9
    return keops, array, x, y, ranges, mask


def kernel(keops: Any, x: Any, y: Any, ranges: Any) -> Any:
    d = ((keops.LazyTensor(x[:, None]) - keops.LazyTensor(y[None])) ** 2).sum(-1)
    d.ranges = ranges
    return d


def squares(x: Any, y: Any) -> np.ndarray:
    return ((np.asarray(x)[:, None] - np.asarray(y)[None]) ** 2).sum(-1)


def test_reductions(sparse):
    keops, array, x, y, ranges, mask = sparse
    d = kernel(keops, x, y, ranges)
    dense = squares(x, y)
    k = np.where(mask, np.exp(-dense), 0)
    least = np.where(mask, dense, np.inf)
    b = array(np.random.default_rng(1).random((83, 2)))
    c = array(np.random.default_rng(2).random((101, 1)))
    for got, want in (
        ((-d).exp() @ b, k @ np.asarray(b)),
        ((-d).exp().t() @ c, k.T @ np.asarray(c)),
        ((-d).exp().sum(0), k.sum(0)[:, None]),
        ((-d).logsumexp(1), np.log(k.sum(1))[:, None]),
        (d.min(1), least.min(1)[:, None]),
        (d.argmin(1), least.argmin(1)[:, None]),
        (d.argKmin(3, dim=1), np.argsort(least, 1)[:, :3]),
        (
            (-d).sumsoftmaxweight(keops.LazyTensor(b[None]), 1),
            k @ np.asarray(b) / k.sum(1)[:, None],
        ),
    ):
        np.testing.assert_allclose(np.asarray(got), want, rtol=1e-10)
    formula = "Exp(-SqDist(x, y)) * b", ["x = Vi(2)", "y = Vj(2)", "b = Vj(2)"]
    for axis, want in ((1, k @ np.asarray(b)), (0, k.sum(0)[:, None] * np.asarray(b))):
        got = keops.Genred(*formula, axis=axis)(x, y, b, ranges=ranges)
        np.testing.assert_allclose(np.asarray(got), want, rtol=1e-10)


def test_gradients(sparse):
    keops, _, x, y, ranges, mask = sparse
    if isinstance(x, np.ndarray):
        pytest.skip("NumPy has no gradients")
    import torch

    leaves = [t.clone().requires_grad_() for t in (x, y)]
    dense = (-((leaves[0][:, None] - leaves[1]) ** 2).sum(-1)).exp() * torch.from_numpy(mask)
    value = (-kernel(keops, *leaves, ranges)).exp().sum(1)[:, 0]
    got = torch.autograd.grad(value.square().sum(), leaves)
    want = torch.autograd.grad(dense.sum(1).square().sum(), leaves)
    torch.testing.assert_close(got, want)


def test_kernels_of_blocks_are_inverted(sparse):
    keops, array, x, _, _, _ = sparse
    cluster = importlib.import_module(f"{keops.__name__}.cluster")
    labels = cluster.grid_cluster(x, 0.3)
    ranges, _, _ = cluster.cluster_ranges_centroids(x, labels)
    own = cluster.from_matrix(ranges, ranges, array(np.eye(len(ranges), dtype=bool)))
    mask = np.zeros((101, 101), bool)
    for start, stop in np.asarray(ranges):
        mask[start:stop, start:stop] = True
    b = array(np.random.default_rng(1).random((101, 1)))
    k = (-kernel(keops, x, x, own)).exp()
    want = np.linalg.solve(np.where(mask, np.exp(-squares(x, x)), 0) + np.eye(101), np.asarray(b))
    np.testing.assert_allclose(np.asarray(k.solve(b, alpha=1.0)), want, rtol=1e-4)
    solve = keops.KernelSolve(
        "Exp(-SqDist(x, y)) * b", ["x = Vi(2)", "y = Vj(2)", "b = Vj(1)"], "b", axis=1
    )
    np.testing.assert_allclose(np.asarray(solve(x, x, b, alpha=1.0, ranges=own)), want, rtol=1e-4)


def test_ranges_that_were_changed_are_read_again(sparse):
    keops, array, x, y, ranges, _mask = sparse
    ranges = tuple(array(np.array(r)) for r in ranges)
    first = np.asarray((-kernel(keops, x, y, ranges)).exp().sum(1))
    ranges[0][0, 1] = ranges[0][0, 0]  # no rows of the first block
    again = np.asarray((-kernel(keops, x, y, ranges)).exp().sum(1))
    assert (first[: int(ranges[0][1, 0])] > 0).all()
    assert (again[: int(ranges[0][1, 0])] == 0).all()
    np.testing.assert_array_equal(again[int(ranges[0][1, 0]) :], first[int(ranges[0][1, 0]) :])


def test_ranges_of_inference_mode():
    torch = pytest.importorskip("torch")
    x, y = (torch.rand(n, 2, generator=torch.Generator().manual_seed(n)) for n in (6, 5))
    with torch.inference_mode():
        own = [torch.tensor(a) for a in ([[0, 6]], [1], [[0, 3]], [[0, 3]], [1], [[0, 6]])]
        d = kernel(importlib.import_module("duckkeops.keops.torch"), x, y, tuple(own))
        torch.testing.assert_close(d.sum(1)[:, 0], torch.cdist(x, y[:3]).square().sum(1))
        own[2][0, 1] = 2
    torch.testing.assert_close(d.sum(1)[:, 0], torch.cdist(x, y[:2]).square().sum(1))


def test_what_are_no_ranges_is_refused(sparse):
    keops, _, x, y, ranges, _ = sparse
    d = kernel(keops, x, y, ranges[:3])
    with pytest.raises(ValueError, match="ranges_i, slices_i"):
        d.sum(1)
    with pytest.raises(duckkeops.ShapeError, match="slices_i"):
        kernel(keops, x, y, (ranges[0], ranges[1][:-1], *ranges[2:])).sum(1)
    with pytest.raises(duckkeops.ShapeError, match="slices_i has dtype float"):
        kernel(keops, x, y, (ranges[0], ranges[1] / 2.0, *ranges[2:])).sum(1)
    with pytest.raises(duckkeops.ShapeError, match="beyond"):
        kernel(keops, x[:50], y, ranges).sum(1)


def test_patterns_are_kept_as_long_as_their_ranges(sparse):
    keops, array, x, y, ranges, _ = sparse
    before = len(reducing._patterns)
    for _ in range(3):
        own = tuple(array(np.array(r)) for r in ranges)
        for _ in range(2):
            kernel(keops, x, y, own).sum(1)
        assert len(reducing._patterns) <= before + 2
    del own
    assert len(reducing._patterns) <= before
