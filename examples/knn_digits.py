"""Recognise handwritten digits by the vote of their k nearest neighbours, in plain NumPy."""

import numpy as np
from sklearn.datasets import load_digits

from duckkeops import LazyArray


def classify(x, y, labels, k=5):
    """The most frequent label among the k nearest rows of y: (M, D), (N, D), (N,) -> (M,)."""
    D_ij = ((x[:, None, :] - y[None, :, :]) ** 2).sum(-1)
    neighbours = np.argsort(D_ij, axis=1)[:, :k]
    votes = labels[neighbours][:, :, None] == np.arange(10)
    return votes.sum(1).argmax(1)


def main():
    images, labels = load_digits(return_X_y=True)  # 1797 pictures of 8 x 8 pixels
    order = np.random.default_rng(0).permutation(len(images))
    test, train = order[:600], order[600:]
    for k in (1, 5, 25):
        guess = classify(LazyArray(images[test]), LazyArray(images[train]), labels[train], k)
        print(f"k = {k:2}: {np.mean(guess == labels[test]):.1%} of {len(test)} digits right")


if __name__ == "__main__":
    main()
