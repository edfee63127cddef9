"""42 pairwise formulas in torch's spelling, for tensors and lazy arrays over them, and inputs in
their domains: those of gallery.py, and more that reach every kind of row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gallery
import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class Formula:
    name: str
    function: Callable
    leaves: tuple[str, ...]
    out: str = "ij"  # the axes of its value


FORMULAS: dict[str, Formula] = {}


def formula(leaves: str, out: str = "ij") -> Callable:
    def register(f: Callable) -> Callable:
        FORMULAS[f.__name__] = Formula(f.__name__, f, tuple(leaves.split()), out)
        return f

    return register


def squared(x, y):
    return ((x - y) ** 2).sum(-1)


def relu(x):
    return torch.where(x > 0, x, 0)


@formula("x y g")
def gaussian(x, y, g):
    return torch.exp(-g * squared(x, y))


@formula("x y g")
def laplacian(x, y, g):
    return torch.exp(-g * torch.sqrt(squared(x, y)))


@formula("x y c")
def inv_multiquadric(x, y, c):
    return 1 / torch.sqrt(c**2 + squared(x, y))


@formula("x y g")
def cauchy(x, y, g):
    return 1 / (1 + squared(x, y) / g**2)


@formula("x y")
def energy(x, y):
    return -torch.sqrt(squared(x, y))


@formula("x y g")
def matern52(x, y, g):
    s = squared(x, y) * g
    r = torch.sqrt(5 * s)
    return (1 + r + 5 * s / 3) * torch.exp(-r)


@formula("x y q a")
def coulomb(x, y, q, a):
    return a * q / torch.sqrt(squared(x, y))


@formula("x y g h")
def lennard_jones(x, y, g, h):
    t = (g**2 / squared(x, y)) ** 3
    return 4 * h * (t**2 - t)


@formula("x y")
def l1(x, y):
    return abs(x - y).sum(-1)


@formula("x y")
def maxnorm(x, y):
    return abs(x - y).amax(-1)


@formula("x y")
def cosine(x, y):
    return (x * y).sum(-1) / torch.sqrt((x**2).sum(-1) * (y**2).sum(-1))


@formula("x y g")
def softmax_logit(x, y, g):
    return torch.exp(g * (x * y).sum(-1))


@formula("x y v g", out="ijd")
def attention(x, y, v, g):
    return torch.exp(g * (x * y).sum(-1))[..., None] * v


@formula("x y")
def arccos1(x, y):
    nx, ny = torch.sqrt((x * x).sum(-1)), torch.sqrt((y * y).sum(-1))
    c = (x * y).sum(-1) / (nx * ny)
    return nx * ny * (torch.sqrt(1 - c**2) + (torch.pi - torch.acos(c)) * c) / torch.pi


@formula("x y g c")
def polynomial3(x, y, g, c):
    return (g * (x * y).sum(-1) + c) ** 3


@formula("x y A")
def anisotropic(x, y, A):
    u = x - y
    return (u * (u[..., None] * A).sum(-2)).sum(-1)


@formula("x y p")
def ard_gaussian(x, y, p):
    return torch.exp(-(((x - y) / p) ** 2).sum(-1))


@formula("x y")
def hyperbolic(x, y):
    return torch.acosh(1 + 2 * squared(x, y) / ((1 - (x**2).sum(-1)) * (1 - (y**2).sum(-1))))


@formula("x y")
def fourier(x, y):
    return torch.exp(1j * (x * y).sum(-1))


@formula("x y g")
def wendland(x, y, g):
    r = g * torch.sqrt(squared(x, y))
    return torch.where(r < 1, (1 - r) ** 4 * (4 * r + 1), 0)


@formula("x y a b g h")
def clip_mix(x, y, a, b, g, h):
    s = squared(x, y)
    mixed = torch.clamp(4 * s, 0.5, 1.5) * torch.where(a > b, s, relu(b)) + torch.remainder(
        a, 0.25
    ) * torch.floor(3 * b)
    return mixed + torch.where(a > b, s, 0) + relu(a - b) * a


@formula("x y a b g")
def label_mask(x, y, a, b, g):
    return torch.where(torch.floor(a) == torch.floor(b), torch.exp(-g * squared(x, y)), 0)


@formula("x y")
def kl(x, y):
    return (x * torch.log(x / y)).sum(-1)


@formula("x y g h")
def rational_quadratic(x, y, g, h):
    return (1 + g * squared(x, y) / (2 * h)) ** (-h)


@formula("x y l w", out="ijd")
def tutorial(x, y, l, w):
    return (
        torch.cos(x**1.5 + y / l)
        - (x * y).sum(-1)[..., None]
        + x[..., 1 % x.shape[-1], None] * relu(w) * y
    )


# -- more, in torch's own functions


@formula("x y g")
def matern32(x, y, g):
    r = (3 * squared(x, y)).sqrt() * g
    return (1 + r) * (-r).exp()


@formula("x y")
def thin_plate(x, y):
    s = squared(x, y)
    return 0.5 * s * torch.log(s + 1e-3)


@formula("x y g")
def periodic(x, y, g):
    return torch.exp(-2 * (torch.sin(torch.pi * (x - y)) ** 2).sum(-1) / g**2)


@formula("x y g")
def sigmoid_kernel(x, y, g):
    return torch.tanh(g * (x * y).sum(-1) + 0.1)


@formula("x y a b")
def exponential_family(x, y, a, b):
    return F.softplus((x * y).sum(-1) + a) - torch.sigmoid(b) * a


@formula("x y g")
def huber_distance(x, y, g):
    r = (x - y).abs()
    return torch.where(r < 0.2 * g, 0.5 * r**2, 0.2 * g * (r - 0.1 * g)).sum(-1)


@formula("x y p")
def minkowski(x, y, p):
    return ((x - y).abs() ** 3 * p).sum(-1) ** (1 / 3)


@formula("x y")
def chi_squared(x, y):
    return ((x - y) ** 2 / (x + y)).sum(-1)


@formula("x y")
def jensen_shannon(x, y):
    m = 0.5 * (x + y)
    return 0.5 * (torch.xlogy(x, x / m) + torch.xlogy(y, y / m)).sum(-1)


@formula("x y g")
def gelu_features(x, y, g):
    return (F.gelu(x - g * y) * F.silu(y)).sum(-1)


@formula("x y a")
def stein(x, y, a):
    u = x - y
    return torch.exp(-squared(x, y)) * (1 + (u * x).sum(-1) * a - 2 * squared(x, y))


@formula("x y q")
def log_determinant(x, y, q):
    return torch.log1p((x * x).sum(-1) * q) - torch.log1p((y * y).sum(-1)) * torch.erf(q)


class Digamma(torch.autograd.Function):
    """With the derivative zeta(2, x): torch's own trigamma is exact to 5e-10 only."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.digamma(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * torch.special.zeta(torch.full_like(x, 2), x)


class LogGamma(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.lgamma(x)

    @staticmethod
    def backward(ctx, g):
        return g * Digamma.apply(*ctx.saved_tensors)


@formula("x y g")
def special(x, y, g):
    s = 0.3 + squared(x, y)
    dense = isinstance(s, torch.Tensor) and s.requires_grad
    lgamma = LogGamma.apply if dense else torch.lgamma
    return lgamma(s + g) * torch.special.i0e(s) + torch.atan2(s, g)


@formula("x y")
def hellinger(x, y):
    return 1 - (x * y).sqrt().sum(-1)


@formula("x y v g", out="ijd")
def gaussian_gradient(x, y, v, g):
    return torch.exp(-g * squared(x, y))[..., None] * (x - y) * v


@formula("x y p")
def product_kernel(x, y, p):
    return (1 + p * torch.minimum(x, y)).prod(-1)


@formula("x y")
def soft_minimum(x, y):
    return -torch.logsumexp(-10 * (x - y).abs(), -1)


def sample(leaves, rows=5, columns=6, features=3, seed=0, dtype=torch.float64):
    """Random inputs in the domain of every formula, by name."""
    arrays = gallery.sample(leaves, rows, columns, features, seed)
    return {name: torch.tensor(a, dtype=dtype) for name, a in arrays.items()}
