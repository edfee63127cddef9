"""Let 10 000 points flow along the gradient of the energy distance to a spiral of as many.

    python examples/gradient_flow.py [picture.png]

The energy distance is the maximum mean discrepancy of the kernel -|x - y|: 0 for equal clouds.
Each point moves down its gradient; the picture, where matplotlib is installed, shows some steps.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

import torch

from duckkeops import LazyArray

N = 10_000


def mean_distance(x, y):
    """The mean of |x - y| over all pairs: (M, D), (N, D) -> a number."""
    return torch.cdist(x, y).mean(dim=1).mean()


def energy(wrap, x, y):
    """The energy distance of two clouds of tensors, which `wrap` may make lazy."""
    own = mean_distance(wrap(x), x) / 2 + mean_distance(wrap(y), y) / 2
    return mean_distance(wrap(x), y) - own


def gradient(wrap, x, y):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(energy(wrap, x, y), [x])[0]


def spiral(n):
    turn = torch.rand(n).sqrt()[:, None] * 10
    points = torch.cat([torch.cos(turn), torch.sin(turn)], 1) * turn / 20
    return 0.5 + points + 0.01 * torch.randn(n, 2)


def picture(path, y, clouds):
    if importlib.util.find_spec("matplotlib") is None:
        return "no picture: matplotlib is not installed"
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(clouds), 3), layout="constrained")
    for axes, (step, x) in zip(figure.subplots(1, len(clouds)), clouds.items(), strict=True):
        axes.scatter(*y.T, s=0.2, color="lightgray")
        axes.scatter(*x.T, s=0.2, color="tab:blue")
        axes.set(title=f"step {step}", xlim=(-0.1, 1.1), ylim=(-0.1, 1.1), xticks=[], yticks=[])
    figure.savefig(path)
    return f"wrote {path}: {len(clouds)} steps"


def main(path):
    torch.manual_seed(0)
    x, y = 0.2 * torch.rand(N, 2), spiral(N)
    some = x[:500].double(), y[:500].double()
    lazy, dense = gradient(LazyArray, x[:500], y[:500]), gradient(lambda t: t, *some)
    gap = (lazy - dense).abs().max() / dense.abs().max()
    print(f"gradient of 500 points in float32: {gap:.0e} of that of all pairs in float64")

    clouds = {}
    for step in range(61):
        if step % 20 == 0:
            clouds[step] = x
            print(f"step {step:2}: energy distance {energy(LazyArray, x, y):.6f}")
        x = x - 0.1 * N * gradient(LazyArray, x, y)
    print(picture(path, y, clouds))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else Path(tempfile.gettempdir()) / "gradient_flow.png")
