"""25 pairwise formulas, written once for NumPy arrays and lazy arrays, and inputs inside their
domains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Formula:
    name: str
    function: Callable
    leaves: tuple[str, ...]
    out: str = "ij"  # the axes of its value


LEAVES = dict(
    x="i1d",
    y="1jd",
    v="1jd",
    a="i1",
    b="1j",
    q="1j",
    l="1j1",
    w="1j1",
    g="",
    h="",
    c="",
    p="d",
    A="de",
)
FORMULAS: dict[str, Formula] = {}


def formula(leaves: str, out: str = "ij") -> Callable:
    def register(f: Callable) -> Callable:
        FORMULAS[f.__name__] = Formula(f.__name__, f, tuple(leaves.split()), out)
        return f

    return register


def squared(x, y):
    return ((x - y) ** 2).sum(-1)


def relu(x):
    return np.where(x > 0, x, 0)


@formula("x y g")
def gaussian(x, y, g):
    return np.exp(-g * squared(x, y))


@formula("x y g")
def laplacian(x, y, g):
    return np.exp(-g * np.sqrt(squared(x, y)))


@formula("x y c")
def inv_multiquadric(x, y, c):
    return 1 / np.sqrt(c**2 + squared(x, y))


@formula("x y g")
def cauchy(x, y, g):
    return 1 / (1 + squared(x, y) / g**2)


@formula("x y")
def energy(x, y):
    return -np.sqrt(squared(x, y))


@formula("x y g")
def matern52(x, y, g):
    s = squared(x, y) * g
    r = np.sqrt(5 * s)
    return (1 + r + 5 * s / 3) * np.exp(-r)


@formula("x y q a")
def coulomb(x, y, q, a):
    return a * q / np.sqrt(squared(x, y))


@formula("x y g h")
def lennard_jones(x, y, g, h):
    t = (g**2 / squared(x, y)) ** 3
    return 4 * h * (t**2 - t)


@formula("x y")
def l1(x, y):
    return abs(x - y).sum(-1)


@formula("x y")
def maxnorm(x, y):
    return abs(x - y).max(-1)


@formula("x y")
def cosine(x, y):
    return (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))


@formula("x y g")
def softmax_logit(x, y, g):
    return np.exp(g * (x * y).sum(-1))


@formula("x y v g", out="ijd")
def attention(x, y, v, g):
    return np.exp(g * (x * y).sum(-1))[..., None] * v


@formula("x y")
def arccos1(x, y):
    nx, ny = np.sqrt((x * x).sum(-1)), np.sqrt((y * y).sum(-1))
    c = (x * y).sum(-1) / (nx * ny)
    return nx * ny * (np.sqrt(1 - c**2) + (np.pi - np.arccos(c)) * c) / np.pi


@formula("x y g c")
def polynomial3(x, y, g, c):
    return (g * (x * y).sum(-1) + c) ** 3


@formula("x y A")
def anisotropic(x, y, A):
    u = x - y
    return (u * (u[..., None] * A).sum(-2)).sum(-1)


@formula("x y p")
def ard_gaussian(x, y, p):
    return np.exp(-(((x - y) / p) ** 2).sum(-1))


@formula("x y")
def hyperbolic(x, y):
    return np.arccosh(1 + 2 * squared(x, y) / ((1 - (x**2).sum(-1)) * (1 - (y**2).sum(-1))))


@formula("x y")
def fourier(x, y):
    return np.exp(1j * (x * y).sum(-1))


@formula("x y g")
def wendland(x, y, g):
    r = g * np.sqrt(squared(x, y))
    return np.where(r < 1, (1 - r) ** 4 * (4 * r + 1), 0)


@formula("x y a b g h")
def clip_mix(x, y, a, b, g, h):
    s = squared(x, y)
    mixed = np.clip(4 * s, g, h) * np.where(a > b, s, relu(b)) + np.mod(a, 0.25) * np.floor(3 * b)
    return mixed + np.where(a > b, s, 0) + relu(a - b) * a


@formula("x y a b g")
def label_mask(x, y, a, b, g):
    return np.where(np.floor(a) == np.floor(b), np.exp(-g * squared(x, y)), 0)


@formula("x y")
def kl(x, y):
    return (x * np.log(x / y)).sum(-1)


@formula("x y g h")
def rational_quadratic(x, y, g, h):
    return (1 + g * squared(x, y) / (2 * h)) ** (-h)


@formula("x y l w", out="ijd")
def tutorial(x, y, l, w):
    return (
        np.cos(x**1.5 + y / l)
        - (x * y).sum(-1)[..., None]
        + x[..., 1 % x.shape[-1], None] * relu(w) * y
    )


def sample(leaves, rows=5, columns=6, features=3, seed=0, dtype=np.float64):
    """Random inputs in the domain of every formula, by name."""
    rng = np.random.default_rng(seed)
    sizes = dict(i=rows, j=columns, d=features, e=features)
    out = {}
    for name in leaves:
        u = rng.random([sizes.get(c, 1) for c in LEAVES[name]])
        if name in "xy":
            u = (0.1 + 0.8 * u) / features**0.5
        elif name in "lwqghcp":
            u = 0.5 + u + (1.5 if name == "h" else 0)
        elif name in "ab":
            u = 3 * u - 1
        out[name] = np.asarray(u, dtype)
    return out
