"""Fill in a photograph of which a fifth of the pixels are known, by an exact Gaussian process.

The kernel matrix of the known pixels is not stored: conjugate gradients solve with it, and the
gradient of the log-determinant is a stochastic trace (Hutchinson's). Autograd gives the gradients
with respect to the kernel's parameters.
"""

import numpy as np
import torch
from sklearn.datasets import load_sample_image

from duckkeops import LazyArray
from duckkeops.linalg import solve

STEPS, PROBES = 8, 6


def kernel(wrap, x, y, p):
    """variance * exp(-r), r the distance in units of p's two lengths: (M, 2), (N, 2) -> (M, N)."""
    return torch.exp(p["variance"]) * torch.exp(
        -torch.cdist(wrap(x / torch.exp(p["lengths"])), y / torch.exp(p["lengths"]))
    )


def loss(wrap, x, values, p, probes, rtol=1e-2):
    """A number whose gradient is that of the negative log-likelihood, for each point.

    With A = K + noise I and c = A^-1 v that is of (v^T A^-1 v + log det A) / 2, whose change is
    (-c^T dA c + trace(A^-1 dA)) / 2, the trace the mean of (A^-1 z)^T dA z over the probes z.
    """
    K, noise = kernel(wrap, x, x, p), torch.exp(p["noise"])
    right = torch.cat([values[:, None], probes], 1)
    with torch.no_grad():
        solved = solve(K, right, ridge=noise.item(), rtol=rtol)
    left = torch.cat([-solved[:, :1], solved[:, 1:] / probes.shape[1]], 1)
    right = torch.cat([solved[:, :1], probes], 1)
    return (left * (K @ right + noise * right)).sum() / (2 * len(x))


def predict(x, values, p, new):
    """The mean at new points: (N, 2), (N,), (M, 2) -> (M,)."""
    with torch.no_grad():
        K = kernel(LazyArray, x, x, p)
        c = solve(K, values, ridge=torch.exp(p["noise"]).item(), rtol=1e-3)
        return kernel(LazyArray, new, x, p) @ c


def main():
    torch.manual_seed(0)
    photo = load_sample_image("china.jpg")[:424].astype(float).mean(2) / 255
    photo = photo.reshape(106, 4, 160, 4).mean((1, 3))  # brightness of 106 x 160 squares
    places = torch.from_numpy(np.argwhere(photo > -1) / 100.0)
    values = torch.from_numpy(photo.ravel())
    order = torch.randperm(len(values))
    known, hidden = order[: len(order) // 5], order[len(order) // 5 :]
    x, mean = places[known], values[known].mean()
    v = values[known] - mean

    start = {"lengths": [-1.0, -1.0], "variance": -2.0, "noise": -4.0}  # logarithms
    p = {k: torch.tensor(a, dtype=torch.float64, requires_grad=True) for k, a in start.items()}
    optimizer = torch.optim.Adam(p.values(), lr=0.3)

    def error(guess):
        return (guess - values[hidden]).square().mean().sqrt()

    nearest = ((LazyArray(places[hidden])[:, None] - x[None]) ** 2).sum(-1).argmin(dim=1)
    print(f"{len(x)} known pixels, {len(hidden)} hidden ones; root mean square errors:")
    print(f"the mean            {error(mean):.4f}")
    print(f"the nearest pixel   {error(values[known][nearest]):.4f}")
    print(f"process, at first   {error(mean + predict(x, v, p, places[hidden])):.4f}")
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(LazyArray, x, v, p, torch.randn(len(x), PROBES, dtype=x.dtype).sign()).backward()
        optimizer.step()
    print(f"process, fitted     {error(mean + predict(x, v, p, places[hidden])):.4f}")


if __name__ == "__main__":
    main()
