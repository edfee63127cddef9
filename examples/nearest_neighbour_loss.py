"""Fit one cloud to another by the distances of nearest neighbours, through torch.min.

The loss is the Chamfer distance: the mean squared distance from each point to the nearest one of
the other cloud, in both directions. The formula of the distance is written once.
"""

import torch

from duckkeops import LazyArray

M, N = 10_000, 20_000


def squared_distances(x, y):
    """All pairs, not stored for a LazyArray x: (M, D), (N, D) -> (M, N)."""
    return ((x[:, None, :] - y[None, :, :]) ** 2).sum(-1)


def chamfer(x, y):
    """The Chamfer distance of two clouds: (M, D), (N, D) -> a number."""
    D_ij = squared_distances(x, y)
    return torch.min(D_ij, dim=1).values.mean() + torch.min(D_ij, dim=0).values.mean()


def sphere(n, radius):
    return radius * torch.nn.functional.normalize(torch.randn(n, 3), dim=1)


def gradient(value, x):
    return torch.autograd.grad(value.sum(), [x])[0]


def main():
    torch.manual_seed(0)
    x, y = torch.rand(M, 3, requires_grad=True), sphere(N, 0.5) + 0.5

    D_ij = squared_distances(LazyArray(x), y)
    by_min = torch.min(D_ij, dim=1).values
    by_argmin = ((x - y[torch.argmin(D_ij, dim=1)]) ** 2).sum(-1)  # the formula written twice
    print(f"min and argmin differ by {(by_min - by_argmin).abs().max():.0e}")
    gap = (gradient(by_min, x) - gradient(by_argmin, x)).abs().max()
    print(f"their gradients differ by {gap:.0e}")

    optimizer = torch.optim.Adam([x], lr=0.03)
    for step in range(61):
        optimizer.zero_grad()
        loss = chamfer(LazyArray(x), y)
        loss.backward()
        if step % 20 == 0:
            print(f"step {step:2}: Chamfer distance {loss.item():.5f}")
        optimizer.step()
    radius = (x.detach() - 0.5).norm(dim=1)
    print(f"distances to the centre: {radius.mean():.3f} +- {radius.std():.3f}, wanted 0.500")


if __name__ == "__main__":
    main()
