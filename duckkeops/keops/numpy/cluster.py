"""KeOps's functions of clusters, of NumPy arrays."""

from __future__ import annotations

from typing import Any

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
    """The labels of points in cubes of side `size`, of which one has a corner at the origin.

    Shapes: x (M, D), size a number or D of them -> (M,) int64, from 0, in the order of the cubes'
    coordinates. Cubes without points have no label; D and the number of cubes are any.
    Raises ShapeError for other shapes, ValueError where x is not finite or size not positive.

    >>> import numpy as np
    >>> grid_cluster(np.array([[0.0], [0.1], [0.9], [0.05], [0.5]]), 0.2)
    array([0, 0, 2, 0, 1])
    """
    return cells(x, size, False)


def cluster_ranges_centroids(x: Any, lab: Any, weights: Any = None) -> tuple[Any, Any, Any]:
    """Ranges (C, 2), centroids (C, D) and total weights (C,) of clusters.

    Shapes: x (M, D), lab (M,), weights (M,), 1 where there are none. Total weights have the dtype
    of weights, or of x, float32 at least. Raises what cluster_centroids raises.

    >>> import numpy as np
    >>> cluster_ranges_centroids(np.array([[0.0], [0.5], [2.0]]), np.array([0, 0, 1]))[1:]
    (array([[0.25],
           [2.  ]]), array([2., 1.]))
    """
    return clusters.cluster_ranges_centroids(x, lab, weights, None)
