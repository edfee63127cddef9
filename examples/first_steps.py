"""Compute with pairwise arrays that no memory could hold: a tour in four NumPy functions.

Each function is plain NumPy. Given arrays it stores all pairs; given LazyArrays it streams over
them.
"""

import numpy as np

from duckkeops import LazyArray


def nearest(x, y):
    """For each row of x, the index of the nearest row of y: (M, D), (N, D) -> (M,)."""
    D_ij = ((x[:, None, :] - y[None, :, :]) ** 2).sum(-1)
    return np.argmin(D_ij, axis=1)


def laplacian_product(x, y, b):
    """The Laplacian kernel matrix exp(-|x_i - y_j|) times b: (M, D), (N, D), (N, E) -> (M, E)."""
    D_ij = np.sqrt(((x[:, None, :] - y[None, :, :]) ** 2).sum(-1))
    return np.exp(-D_ij) @ b


def batches(x, y, scale, width):
    """A sum over j in each of A x B batches -> (A, B, M).

    Shapes: x (A, B, M, 1, D), y (1, B, 1, N, D), scale (1, 1, M, 1, D), width (A, 1, 1, 1).
    """
    D_ij = ((scale * x - y) ** 2).sum(-1)
    K_ij = -1.6 * D_ij / (1 + width**2)
    return K_ij.sum(axis=3)


def mixture(x, y, scale, width):
    """Powers, cosines, dot products, components and ramps, summed over i -> (A, B, N, D).

    Shapes: as above, but width (A, 1, 1, 1, 1).
    """
    dot_ij = (x * y).sum(-1, keepdims=True)
    F_ij = np.cos(np.abs(x) ** 1.5 + y / scale) - dot_ij + x[..., 2:3] * np.maximum(width, 0) * y
    return F_ij.sum(axis=2)


def main():
    rng = np.random.default_rng(0)

    x, y = rng.random((100_000, 2)), rng.random((200_000, 2))  # the matrix would take 149 GiB
    s = nearest(LazyArray(x), LazyArray(y))
    print(f"nearest neighbours: {type(s).__name__} {s.shape} {s.dtype}")
    print(f"  as NumPy: {np.array_equal(s[:50], nearest(x[:50], y))}")

    x, y = rng.standard_normal((20_000, 10)), rng.standard_normal((30_000, 10))
    b = rng.standard_normal((30_000, 4))
    a = laplacian_product(LazyArray(x), LazyArray(y), b)
    print(f"kernel product: {a.shape} {a.dtype}")
    print(f"  as NumPy: {np.allclose(a[:50], laplacian_product(x[:50], y, b))}")

    A, B, M, N, D = 7, 3, 200, 300, 10
    x, y = rng.standard_normal((A, B, M, 1, D)), rng.standard_normal((1, B, 1, N, D))
    scale, width = rng.uniform(0.5, 2, (1, 1, M, 1, D)), rng.standard_normal((A, 1, 1, 1))
    a = batches(LazyArray(x), LazyArray(y), LazyArray(scale), width)
    print(f"batches: {a.shape}")
    print(f"  as NumPy: {np.allclose(a, batches(x, y, scale, width))}")

    width = width[..., None]
    a = mixture(LazyArray(x), LazyArray(y), LazyArray(scale), LazyArray(width))
    print(f"mixture: {a.shape}")
    print(f"  as NumPy: {np.allclose(a, mixture(x, y, scale, width))}")


if __name__ == "__main__":
    main()
