"""Repaint a photograph with 16 colours: k-means over its 273 280 pixels, in plain NumPy.

    python examples/color_quantization.py [picture.png]

The estimator below knows nothing of duckkeops. It is fitted on an array, which stores a distance
for each pair of pixel and colour, and on a LazyArray, which stores none; the labels are the same.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.datasets import load_sample_image

from duckkeops import LazyArray


class KMeans(ClusterMixin, BaseEstimator):
    """Lloyd's algorithm. After `fit`: cluster_centers_ (K, D), labels_ (M,), n_iter_."""

    def __init__(self, n_clusters=16, max_iter=20, random_state=0):
        self.n_clusters = n_clusters
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X, y=None):
        rng = np.random.default_rng(self.random_state)
        first = rng.choice(X.shape[0], self.n_clusters, replace=False)
        self.cluster_centers_ = np.array(X[first])
        self.labels_ = self.predict(X)
        for n in range(1, self.max_iter + 1):
            for k in range(self.n_clusters):
                members = self.labels_ == k
                if members.any():
                    self.cluster_centers_[k] = X[members].mean(axis=0)
            before, self.labels_ = self.labels_, self.predict(X)
            self.n_iter_ = n
            if np.array_equal(before, self.labels_):
                break
        return self

    def predict(self, X):
        """The index of the nearest centre: (M, D) -> (M,)."""
        D_ij = ((X[:, None, :] - self.cluster_centers_[None, :, :]) ** 2).sum(-1)
        return np.argmin(D_ij, axis=1)


def main(path):
    picture = load_sample_image("china.jpg")
    pixels = picture.reshape(-1, 3).astype(float)
    models = {}
    for name, X in {"array": pixels, "LazyArray": LazyArray(pixels)}.items():
        start = time.perf_counter()
        models[name] = KMeans().fit(X)
        print(f"{name:10} {models[name].n_iter_} iterations, {time.perf_counter() - start:.1f} s")

    lazy, dense = models["LazyArray"], models["array"]
    same = np.array_equal(lazy.labels_, dense.labels_)
    print(f"same labels: {same}, for {lazy.labels_.size} pixels")
    painted = lazy.cluster_centers_[lazy.labels_]
    print(f"mean square error: {np.mean((painted - pixels) ** 2):.2f}")
    Image.fromarray(np.uint8(painted + 0.5).reshape(picture.shape)).save(path)
    print(f"wrote {path}: {np.unique(lazy.labels_).size} colours")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else Path(tempfile.gettempdir()) / "china_16_colours.png")
