"""KeOps's clusters: beside a direct computation, and beside pykeops where it is installed."""

import importlib

import numpy as np
import pytest
import torch

from duckkeops.errors import DtypeError, ShapeError
from duckkeops.keops import numpy as of_numpy
from duckkeops.keops import torch as of_torch
from duckkeops.keops.numpy import cluster as np_cluster
from duckkeops.keops.torch import cluster as torch_cluster

OURS = {"numpy": np_cluster, "torch": torch_cluster}
each_library = pytest.mark.parametrize("library", OURS)
RNG = np.random.default_rng(5)


def array(library, values, dtype=None):
    values = np.asarray(values, dtype)
    return values if library == "numpy" else torch.as_tensor(values)


def dense(x):
    return x if isinstance(x, np.ndarray) else x.detach().numpy()


def same(ours, theirs, exact=True):
    """The same values, and the same dtype."""
    assert str(ours.dtype) == str(theirs.dtype)
    if exact:
        np.testing.assert_array_equal(dense(ours), dense(theirs))
    else:
        rtol = 1e-12 if "64" in str(ours.dtype) else 1e-5
        np.testing.assert_allclose(dense(ours), dense(theirs), rtol=rtol, atol=rtol)


@pytest.fixture
def peer(library, monkeypatch):
    """pykeops's functions."""
    monkeypatch.setenv("PYKEOPS_VERBOSE", "0")
    pytest.importorskip("pykeops")
    return importlib.import_module(f"pykeops.{library}.cluster")


def cells_of(x, size, corner):
    """Labels by a dictionary of the cells in order."""
    places = [tuple(np.floor((row - corner) / size)) for row in x]
    number = {place: n for n, place in enumerate(sorted(set(places)))}
    return [number[place] for place in places]


# -- labels


@each_library
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("count", [1, 2, 300])
def test_grid_cluster(library, dim, count):
    x = RNG.normal(size=(count, dim))
    corner = 0 if library == "numpy" else x.min(0)
    lab = OURS[library].grid_cluster(array(library, x), 0.8)
    assert dense(lab).tolist() == cells_of(x, 0.8, corner)


@each_library
@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_grid_cluster_is_that_of_pykeops(library, dim, dtype, peer):
    x = array(library, RNG.normal(size=(400, dim)), dtype)
    same(OURS[library].grid_cluster(x, 0.3), peer.grid_cluster(x, 0.3))


@each_library
def test_grid_cluster_of_many_cells(library):
    """KeOps's labels collide beyond 1024 cells along an axis (its issue #277)."""
    x = np.array([[0.0, 1500.0], [1.0, 476.0], [0.0, 1500.5], [4000.0, 0.0]])
    lab = OURS[library].grid_cluster(array(library, x), 1.0)
    assert dense(lab).tolist() == [0, 1, 0, 2]
    far = array(library, [[0.0, 0.0, 0.0, 0.0], [1e15, 1e15, 1e15, 1e15], [-1e15, 0.0, 0.0, 0.0]])
    assert dense(OURS[library].grid_cluster(far, 0.5)).tolist() == [1, 2, 0]


@each_library
def test_grid_cluster_of_boxes(library):
    x = RNG.random((50, 2))
    sides = np.array([0.2, 0.5])
    corner = 0 if library == "numpy" else x.min(0)
    lab = OURS[library].grid_cluster(array(library, x), array(library, sides))
    assert dense(lab).tolist() == cells_of(x, sides, corner)


@each_library
def test_grid_cluster_of_nothing(library):
    lab = OURS[library].grid_cluster(array(library, np.zeros((0, 3))), 1.0)
    assert tuple(lab.shape) == (0,)
    assert tuple(OURS[library].cluster_ranges(lab).shape) == (0, 2)
    none = OURS[library].grid_cluster(array(library, np.zeros((4, 0))), 1.0)
    assert dense(none).tolist() == [0, 0, 0, 0]


def test_grid_cluster_has_no_gradient():
    x = torch.rand(20, 2, requires_grad=True)
    assert not torch_cluster.grid_cluster(x, 0.2).requires_grad


@each_library
@pytest.mark.parametrize(
    ("x", "size", "kind", "text"),
    [
        (np.zeros(4), 1.0, ShapeError, r"points have the shape \(M, D\)"),
        (np.zeros((2, 3, 4)), 1.0, ShapeError, r"points have the shape \(M, D\)"),
        (np.zeros((2, 3)), 0.0, ValueError, "the side of a cell is a positive number"),
        (np.zeros((2, 3)), np.nan, ValueError, "the side of a cell is a positive number"),
        (np.zeros((2, 3)), np.ones(2), ValueError, "the side of a cell is a positive number"),
        (np.array([[0.0], [np.nan]]), 1.0, ValueError, "a point of x is not finite"),
        (np.array([[0.0], [np.inf]]), 1.0, ValueError, "a point of x is not finite"),
    ],
)
def test_grid_cluster_refuses(library, x, size, kind, text):
    with pytest.raises(kind, match=text):
        OURS[library].grid_cluster(array(library, x), size)


@each_library
def test_sort_clusters(library):
    x, lab = np.arange(12.0).reshape(6, 2), np.array([2, 0, 1, 0, 2, 0])
    order = [1, 3, 5, 2, 0, 4]
    one, labels = OURS[library].sort_clusters(array(library, x), array(library, lab))
    assert dense(labels).tolist() == [0, 0, 0, 1, 2, 2]
    assert dense(one).tolist() == x[order].tolist()
    for kind in (list, tuple):
        several = kind([array(library, x), array(library, x[:, 0])])
        found, _ = OURS[library].sort_clusters(several, array(library, lab))
        assert type(found) is kind
        assert dense(found[1]).tolist() == x[order, 0].tolist()


@each_library
def test_sort_clusters_is_that_of_pykeops(library, peer):
    x, lab = array(library, RNG.random((9, 2))), array(library, RNG.permutation(9))
    for ours, theirs in zip(
        OURS[library].sort_clusters(x, lab), peer.sort_clusters(x, lab), strict=True
    ):
        same(ours, theirs)


# -- what clusters have


def cloud(library, dtype, count=200, clusters=7):
    """Points, labels with one that no point has, and weights."""
    lab = RNG.integers(0, clusters, count)
    lab[lab == 2] = 3
    lab[:1] = clusters - 1
    x, w = RNG.normal(size=(count, 3)), RNG.random(count) + 0.1
    return array(library, x, dtype), array(library, lab), array(library, w, dtype)


def direct(x, lab, w):
    """Ranges, centroids and masses, one cluster after the other."""
    x, lab, w = dense(x).astype(float), dense(lab), dense(w).astype(float)
    ranges, centroids, masses, start = [], [], [], 0
    for k in range(lab.max() + 1):
        mine = lab == k
        ranges.append((start, start := start + mine.sum()))
        masses.append(w[mine].sum())
        some = mine.any()
        centroids.append(np.average(x[mine], 0, w[mine]) if some else np.full(x.shape[1], np.nan))
    return np.array(ranges), np.array(centroids), np.array(masses)


@each_library
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("count", [1, 2, 200])
def test_ranges_and_centroids(library, dtype, weighted, count):
    x, lab, w = cloud(library, dtype, count)
    weights = w if weighted else None
    found = OURS[library].cluster_ranges_centroids(x, lab, weights)
    wanted = direct(x, lab, w if weighted else np.ones(count, dtype))
    np.testing.assert_array_equal(dense(found[0]), wanted[0])
    for ours, theirs in zip(found[1:], wanted[1:], strict=True):
        assert dense(ours).dtype == dtype
        np.testing.assert_allclose(dense(ours), theirs, rtol=1e-6 if dtype == np.float32 else 1e-13)
    np.testing.assert_array_equal(dense(OURS[library].cluster_ranges(lab)), wanted[0])
    alone = OURS[library].cluster_centroids(x, lab, weights=weights)
    np.testing.assert_array_equal(dense(alone), dense(found[1]))


@each_library
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_ranges_and_centroids_are_those_of_pykeops(library, peer):
    ours = OURS[library]
    x, lab, w = cloud(library, np.float64)
    for a, b in zip(
        ours.cluster_ranges_centroids(x, lab, w),
        peer.cluster_ranges_centroids(x, lab, w),
        strict=True,
    ):
        same(a, b, exact=False)
    for a, b in zip(
        ours.cluster_ranges_centroids(x, lab), peer.cluster_ranges_centroids(x, lab), strict=True
    ):  # KeOps counts the points of float64 tensors in float32
        np.testing.assert_allclose(dense(a), dense(b), rtol=1e-12)
    same(ours.cluster_ranges(lab), peer.cluster_ranges(lab))
    sizes = array(library, np.bincount(dense(lab)))
    same(ours.cluster_ranges(lab, sizes), peer.cluster_ranges(lab, sizes))
    mass = array(library, np.bincount(dense(lab), dense(w)))
    for how in ({}, {"Nlab": sizes}, {"weights": w}, {"weights": w, "weights_c": mass}):
        same(ours.cluster_centroids(x, lab, **how), peer.cluster_centroids(x, lab, **how), False)


def test_small_weights_are_raised_in_torch_alone():
    """As in KeOps."""
    x, lab, w = np.array([[1.0], [3.0]]), np.array([0, 0]), np.zeros(2)
    mean = torch_cluster.cluster_ranges_centroids(*map(torch.tensor, (x, lab, w)))
    np.testing.assert_allclose(mean[1].numpy(), [[2.0]])
    np.testing.assert_allclose(mean[2].numpy(), [2e-9])
    assert np.isnan(np_cluster.cluster_ranges_centroids(x, lab, w)[1]).all()


def test_ranges_of_more_points_than_float32_counts():
    """KeOps's sums of numbers of points are float32, which ends at 2**24."""
    sizes = torch.tensor([2**24, 1, 1, 2])
    assert torch_cluster.cluster_ranges(torch.zeros(0, dtype=int), sizes)[:, 1].tolist() == [
        *(2**24, 2**24 + 1, 2**24 + 2, 2**24 + 4)
    ]


@each_library
def test_centroids_of_many_points_keep_their_digits(library):
    """A sum in float32 alone would be off by 1e-4 of the mean."""
    x = np.full((300_000, 1), 0.1, np.float32)
    lab = array(library, np.zeros(300_000, int))
    mean = OURS[library].cluster_centroids(array(library, x), lab)
    np.testing.assert_allclose(dense(mean), [[np.float32(0.1)]], rtol=1e-7)


@each_library
@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float16])
def test_other_dtypes(library, dtype):
    """KeOps cuts means of integers to integers."""
    x, lab = array(library, [[0], [1], [5]], dtype), array(library, [0, 0, 1])
    assert dense(OURS[library].grid_cluster(x, 2)).tolist() == [0, 0, 1]
    _, mean, count = OURS[library].cluster_ranges_centroids(x, lab)
    assert dense(mean).tolist() == [[0.5], [5.0]]
    assert dense(mean).dtype == (np.float16 if dtype is np.float16 else np.float64)
    assert dense(count).tolist() == [2.0, 1.0]


@each_library
def test_counts_of_half_precision_points_are_exact(library):
    x, lab = array(library, np.ones((70_001, 1)), np.float16), array(library, np.zeros(70_001, int))
    _, mean, count = OURS[library].cluster_ranges_centroids(x, lab)
    assert (dense(mean).tolist(), dense(count).tolist()) == ([[1.0]], [70_001.0])


@each_library
def test_complex_points_are_refused(library):
    with pytest.raises(DtypeError, match=r"points are real, and have the dtype .*complex64"):
        OURS[library].grid_cluster(array(library, np.ones((2, 1)), np.complex64), 1.0)


@each_library
def test_rows_need_not_be_contiguous(library):
    x, lab = RNG.normal(size=(30, 6)), RNG.integers(0, 4, 60)
    view = array(library, x)[:, ::2] if library == "numpy" else array(library, x.T.copy()).T[:, ::2]
    labels = array(library, lab)[::2]
    ours = OURS[library]
    same(ours.grid_cluster(view, 0.5), ours.grid_cluster(array(library, x[:, ::2].copy()), 0.5))
    same(
        ours.cluster_centroids(view, labels),
        array(library, direct(x[:, ::2], lab[::2], np.ones(30))[1]),
        exact=False,
    )


def test_centroids_are_differentiable():
    x, lab, w = cloud("torch", np.float64, 12, 3)
    lab[:3] = torch.arange(3)
    x.requires_grad_()
    w.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w: torch_cluster.cluster_ranges_centroids(x, lab, w)[1:], (x, w)
    )


@each_library
@pytest.mark.parametrize(
    ("lab", "kind", "text"),
    [
        ([0.0, 1.0], DtypeError, "labels are integers from 0, and are"),
        ([0, -1], ValueError, "the least is -1"),
        ([0, 1, 1], ShapeError, "each point has a label, and got 3 for 2 points"),
    ],
)
def test_other_labels_are_refused(library, lab, kind, text):
    x, lab = array(library, np.zeros((2, 1))), array(library, lab)
    with pytest.raises(kind, match=text):
        OURS[library].cluster_centroids(x, lab)
    with pytest.raises(kind, match=text):
        OURS[library].cluster_ranges_centroids(x, lab)


@each_library
def test_other_arrays_are_refused(library):
    ours, x, lab = OURS[library], array(library, np.zeros((2, 1))), array(library, [0, 1])
    with pytest.raises(ShapeError, match="each point has a weight, and got 3 for 2 points"):
        ours.cluster_centroids(x, lab, weights=array(library, np.ones(3)))
    with pytest.raises(ShapeError, match="each point has a label, and got 2 for 3 points"):
        ours.sort_clusters(array(library, np.zeros(3)), lab)
    other = array("torch" if library == "numpy" else "numpy", [0, 1])
    for call in (ours.sort_clusters, ours.cluster_centroids):
        with pytest.raises(TypeError, match="NumPy arrays alone, or torch tensors alone"):
            call(x, other)
    with pytest.raises(TypeError, match="got list"):
        ours.cluster_ranges([0, 1])


# -- pairs of clusters


def cut(n, count):
    ends = np.sort(RNG.integers(0, n + 1, count - 1))
    return np.stack([[0, *ends], [*ends, n]], 1)


@each_library
@pytest.mark.parametrize("shape", [(1, 1), (5, 8), (8, 5), (0, 3), (3, 0)])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_from_matrix(library, shape, share):
    """Which pairs (i, j) the lists of both directions hold."""
    n = (40, 30)
    cuts = [cut(size, c) if c else np.zeros((0, 2), int) for size, c in zip(n, shape, strict=True)]
    keep = RNG.random(shape) < share
    dense_mask = np.zeros(n, bool)
    for k, (i0, i1) in enumerate(cuts[0]):
        for m, (j0, j1) in enumerate(cuts[1]):
            dense_mask[i0:i1, j0:j1] |= keep[k, m]
    found = OURS[library].from_matrix(*(array(library, a) for a in (*cuts, keep)))
    assert all(dense(a).dtype == np.int64 for a in found)
    for half, mask in ((found[:3], dense_mask), (found[3:], dense_mask.T)):
        rows, slices, others = map(dense, half)
        mine = np.zeros(mask.shape, bool)
        for k, (i0, i1) in enumerate(rows):
            for j0, j1 in others[(slices[k - 1] if k else 0) : slices[k]]:
                mine[i0:i1, j0:j1] = True
        np.testing.assert_array_equal(mine, mask)
    swapped = OURS[library].swap_axes(found)
    assert all(a is b for a, b in zip(swapped, (*found[3:], *found[:3]), strict=True))


@each_library
def test_from_matrix_is_that_of_pykeops(library, peer):
    keep = array(library, RNG.random((6, 9)) < 0.4)
    i, j = array(library, cut(50, 6)), array(library, cut(60, 9))
    for ours, theirs in zip(
        OURS[library].from_matrix(i, j, keep), peer.from_matrix(i, j, keep), strict=True
    ):
        same(ours, theirs)


@each_library
def test_from_matrix_of_numbers(library):
    """KeOps takes 0 and 1 for places."""
    ours, i, j = OURS[library], array(library, cut(50, 4)), array(library, cut(60, 3))
    keep = RNG.integers(0, 2, (4, 3))
    for a, b in zip(
        ours.from_matrix(i, j, array(library, keep, np.uint8)),
        ours.from_matrix(i, j, array(library, keep == 1)),
        strict=True,
    ):
        same(a, b)


@each_library
def test_from_matrix_refuses(library):
    i, j, keep = (array(library, a) for a in (cut(9, 2), cut(9, 3), np.ones((2, 3), bool)))
    call = OURS[library].from_matrix
    with pytest.raises(ShapeError, match=r"keep has an entry .* \(2, 3\), and has .* \(3, 2\)"):
        call(i, j, keep.T)
    with pytest.raises(DtypeError, match="keep holds booleans"):
        call(i, j, array(library, np.ones((2, 3))))
    with pytest.raises(DtypeError, match="ranges_i holds integers"):
        call(array(library, np.ones((2, 2))), j, keep)
    with pytest.raises(ShapeError, match="ranges_j holds the first row"):
        call(i, j[0], keep)


@each_library
def test_swap_axes(library):
    assert OURS[library].swap_axes(None) is None
    with pytest.raises(ValueError, match="six arrays, and got 2"):
        OURS[library].swap_axes((1, 2))


@each_library
def test_block_sparse_reduction(library):
    """The whole way, beside the dense matrix with zeros: clusters, sorted points, pairs, sums."""
    ours, keops = OURS[library], {"numpy": of_numpy, "torch": of_torch}[library]
    x, y, b = RNG.random((90, 4)), RNG.random((70, 4)), RNG.normal(size=(70, 2))
    clouds = []
    for cloud in ((x,), (y, b)):
        cloud = tuple(array(library, a) for a in cloud)
        lab = ours.grid_cluster(cloud[0], 0.5)
        ranges, centroids, _ = ours.cluster_ranges_centroids(cloud[0], lab)
        clouds.append((*ours.sort_clusters(cloud, lab)[0], ranges, centroids))
    (x, x_ranges, x_c), (y, b, y_ranges, y_c) = clouds
    keep = ((x_c[:, None] - y_c) ** 2).sum(-1) < 0.3
    K = (-keops.Vi(x).sqdist(keops.Vj(y))).exp()
    K.ranges = ours.from_matrix(x_ranges, y_ranges, keep)
    x, y, b, keep, x_ranges, y_ranges = map(dense, (x, y, b, keep, x_ranges, y_ranges))
    assert 0 < keep.sum() < keep.size
    mask = keep.repeat(np.diff(x_ranges)[:, 0], 0).repeat(np.diff(y_ranges)[:, 0], 1)
    values = np.exp(-((x[:, None] - y) ** 2).sum(-1)) * mask
    np.testing.assert_allclose(dense(K @ array(library, b)), values @ b, rtol=1e-10)
    np.testing.assert_allclose(dense(K.sum(0))[:, 0], values.sum(0), rtol=1e-10)
    across = K.t() @ array(library, values[:, 0].copy())
    np.testing.assert_allclose(dense(across).ravel(), values.T @ values[:, 0], rtol=1e-10)


def test_both_libraries_have_the_names():
    assert np_cluster.__all__ == torch_cluster.__all__
    assert of_numpy.cluster is np_cluster
    assert of_torch.cluster is torch_cluster
