"""Choose the bandwidth of a kernel density estimate by the likelihood of held-out points."""

import math

import numpy as np

from duckkeops import LazyArray


def log_density(x, y, width):
    """log of the mean over j of the normal density at x_i around y_j: (M, D), (N, D) -> (M,)."""
    n, d = y.shape
    D_ij = ((x[:, None, :] - y[None, :, :]) ** 2).sum(-1)
    log_sum = np.logaddexp.reduce(-D_ij / (2 * width**2), axis=1)
    return log_sum - math.log(n) - d * math.log(width * math.sqrt(2 * math.pi))


def ring(n, rng):
    """n points around the unit circle, blurred by a normal law of deviation 0.1: (n, 2)."""
    angle = rng.uniform(0, 2 * math.pi, n)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.1 * rng.standard_normal((n, 2))


def main():
    rng = np.random.default_rng(0)
    samples, held_out = ring(50_000, rng), ring(10_000, rng)
    x, y = LazyArray(held_out), LazyArray(samples)

    widths = [
        0.003,
        0.01,
        0.03,
        0.1,
        0.3,
    ]  # one kernel serves them all: a number is no reason to compile again
    scores = [log_density(x, y, width).mean() for width in widths]
    for width, score in zip(widths, scores, strict=True):
        print(f"width {width:5}: log-likelihood {score:.3f}")
    print(f"best width: {widths[int(np.argmax(scores))]}")


if __name__ == "__main__":
    main()
