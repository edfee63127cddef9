"""KeOps's functions of clusters, of torch tensors."""

from __future__ import annotations

from typing import Any

import torch

from duckkeops.keops import clusters
from duckkeops.keops.clusters import (
    cells,
    cluster_centroids,
    cluster_ranges,
    from_matrix,
    sort_clusters,
    swap_axes,
)

__all__ = [
    "cluster_centroids",
    "cluster_ranges",
    "cluster_ranges_centroids",
    "from_matrix",
    "grid_cluster",
    "sort_clusters",
    "swap_axes",
]


def grid_cluster(x: Any, size: Any) -> Any:
    """The labels of points in cubes of side `size`, of which one has its corner at the least
    coordinates of x.

    Shapes: x (M, D), size a number or D of them -> (M,) int32, from 0, in the order of the cubes'
    coordinates. Cubes without points have no label; D and the number of cubes are any.
    Raises ShapeError for other shapes, ValueError where x is not finite or size not positive.

    >>> grid_cluster(torch.tensor([[0.0], [0.1], [0.9], [0.05], [0.5]]), 0.2)
    tensor([0, 0, 2, 0, 1], dtype=torch.int32)
    """
    with torch.no_grad():
        return cells(x, size, True).int()


def cluster_ranges_centroids(
    x: Any, lab: Any, weights: Any = None, min_weight: float = 1e-9
) -> tuple[Any, Any, Any]:
    """Ranges (C, 2), centroids (C, D) and total weights (C,) of clusters.

    Shapes: x (M, D), lab (M,), weights (M,), 1 where there are none, and at least min_weight. Total
    weights have the dtype of weights, or of x, float32 at least. Raises what cluster_centroids
    raises.

    >>> x, lab = torch.tensor([[0.0], [0.5], [2.0]]), torch.tensor([0, 0, 1])
    >>> cluster_ranges_centroids(x, lab)[1:]
    (tensor([[0.2500],
            [2.0000]]), tensor([2., 1.]))
    """
    return clusters.cluster_ranges_centroids(x, lab, weights, min_weight)
