"""Gradients of complex expressions, of orders 1 to 3, against dense torch in complex128.

By default the higher orders of some formulas are taken; DUCKKEOPS_ALL_ORDERS=1 takes all of all,
with respect to all leaves.
"""

import functools
import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from duckkeops import LazyArray  # noqa: E402

ALL = bool(os.environ.get("DUCKKEOPS_ALL_ORDERS"))


def dot(wrap, a, b):
    """(M, N): the sums of a_i * b_j over features."""
    return (wrap(a)[:, None, :] * wrap(b)[None, :, :]).sum(-1)


FORMULAS = {  # the leaves: real x (M, 2), complex z (M, 2), complex w (N, 2)
    "fourier": ("xw", lambda L, x, w: torch.exp(1j * dot(L, x, w)).sum(1)),
    "abs": ("zw", lambda L, z, w: torch.abs(dot(L, z, w)).sum(1)),
    "angle": ("zw", lambda L, z, w: torch.angle(dot(L, z, w)).sum(1)),
    "real": ("xw", lambda L, x, w: torch.real(dot(L, x, w) ** 3).sum(0)),
    "imag": ("zw", lambda L, z, w: torch.imag(torch.exp(dot(L, z, w))).sum(0)),
    "conj": ("zw", lambda L, z, w: (torch.conj(dot(L, z, w)) * dot(L, z, w) ** 2).sum(1)),
    "hermitian": ("zw", lambda L, z, w: torch.exp(dot(L, z, w.conj()) / 4).sum(1)),
    "matmul": ("xzw", lambda L, x, z, w: torch.exp(1j * dot(L, x, w)) @ (w * w[:1]) * z),
    "sqrt": ("zw", lambda L, z, w: torch.sqrt(2 + dot(L, z, w)).sum(1)),
    "square": ("zw", lambda L, z, w: (dot(L, z, w) ** 2).sum(1)),
    "log": ("xw", lambda L, x, w: torch.log(2j + dot(L, x, w)).sum(1)),
    "mean": ("zw", lambda L, z, w: torch.sin(dot(L, z, w)).mean(1)),
    "var": ("zw", lambda L, z, w: torch.var(dot(L, z, w), dim=1)),
    "std": ("xw", lambda L, x, w: torch.std(dot(L, x, w), dim=0)),
    "prod": ("zw", lambda L, z, w: torch.prod(1 + dot(L, z, w), dim=1)),
    "mixed": ("xzw", lambda L, x, z, w: (L(x)[:, :1] * dot(L, z, w) / (3 + dot(L, x, w))).sum(1)),
    "sign": ("zw", lambda L, z, w: torch.sgn(dot(L, z, w)).sum(1)),
    "modulus": ("xw", lambda L, x, w: torch.abs(torch.exp(1j * dot(L, x, w)) + 2).sum(1)),
    "features": ("zw", lambda L, z, w: (L(z)[:, None] * torch.conj(L(w)[None])).prod(-1).sum(1)),
    "softmax": (
        "xzw",
        lambda L, x, z, w: (torch.softmax(torch.real(dot(L, x, w)), 1) * dot(L, z, w)).sum(1),
    ),
}
HIGHER = {"fourier": 3, "abs": 2, "angle": 2, "mixed": 2, "var": 2, "prod": 2}  # by default


def plain(t):
    return t


def leaves(names, dtype):
    """Entries between 0.2 and 1.2 in both parts, so that no path meets a branch cut."""
    rng = torch.Generator().manual_seed(3)
    shapes = {"x": (4, 2), "z": (4, 2), "w": (3, 2)}
    found = {}
    for n, shape in shapes.items():
        re, im = (torch.rand(shape, generator=rng, dtype=torch.float64) + 0.2 for _ in range(2))
        found[n] = re.to(dtype.to_real()) if n == "x" else torch.complex(re, im).to(dtype)
    return [found[n].requires_grad_() for n in names]


def weighed(v, rng):
    """A random real sum of the entries of v."""
    v = torch.view_as_real(v.resolve_conj()) if v.is_complex() else v
    return (v * torch.rand(v.shape, generator=rng, dtype=torch.float64).to(v.dtype)).sum()


def orders(name, wrap, count, dtype=torch.complex128):
    """The value, and the gradients of random sums of it of the orders 1 to `count`.

    From the second order on they are with respect to the last leaf, which is complex.
    """
    names, f = FORMULAS[name]
    inputs = leaves(names, dtype)
    rng = torch.Generator().manual_seed(5)
    out = level = [f(wrap, *inputs)]
    for order in range(count):
        loss = sum(weighed(v, rng) for v in level)
        inputs = inputs if ALL or order == 0 else inputs[-1:]
        level = list(torch.autograd.grad(loss, inputs, create_graph=True, materialize_grads=True))
        out = out + level
    return out


def assert_close(lazy, dense, tolerance):
    for a, b in zip(lazy, dense, strict=True):
        assert a.shape == b.shape and a.is_complex() == b.is_complex()
        scale = max(b.detach().abs().max().item(), 1e-3)
        np.testing.assert_allclose(
            a.detach().resolve_conj().numpy() / scale,
            b.detach().resolve_conj().numpy() / scale,
            rtol=0,
            atol=tolerance,
        )


@pytest.mark.parametrize("name", FORMULAS)
def test_orders(name):
    count = 3 if ALL else HIGHER.get(name, 1)
    assert_close(orders(name, LazyArray, count), orders(name, plain, count), 1e-9)


@pytest.mark.parametrize("name", FORMULAS if ALL else HIGHER)
def test_complex64(name):
    count = 3 if ALL else 1
    lazy = orders(name, LazyArray, count, torch.complex64)
    assert all(t.dtype in (torch.complex64, torch.float32) for t in lazy)
    assert_close(lazy, orders(name, plain, count), 1e-4)


@pytest.mark.parametrize("name", FORMULAS if ALL else HIGHER)
def test_forward_mode(name):
    names, f = FORMULAS[name]
    inputs = [t.detach() for t in leaves(names, torch.complex128)]
    rng = torch.Generator().manual_seed(8)
    tangents = [torch.randn(t.shape, generator=rng, dtype=t.dtype) for t in inputs]
    lazy, dense = (
        torch.func.jvp(lambda *a, wrap=wrap: f(wrap, *a), tuple(inputs), tuple(tangents))
        for wrap in (LazyArray, plain)
    )
    assert_close(lazy, dense, 1e-9)


def test_forward_over_reverse():
    """The Hessian of a real loss along a direction, by the real parts of z."""
    z, w = (t.detach() for t in leaves("zw", torch.complex128))

    def loss(x, wrap):
        return torch.abs(torch.exp(dot(wrap, torch.complex(x, z.imag), w) / 2)).sum(1).sum()

    found = []
    for wrap in (LazyArray, plain):
        slope = torch.func.grad(functools.partial(loss, wrap=wrap))
        found.append(torch.func.jvp(slope, (z.real,), (z.imag,)))
    assert_close(found[0], found[1], 1e-9)


@pytest.mark.parametrize("name", ["abs", "angle", "sign"])
def test_the_slope_at_zero_is_that_of_torch(name):
    f = {"abs": torch.abs, "angle": torch.angle, "sign": torch.sgn}[name]
    w = torch.ones(3, 1, dtype=torch.complex128)
    found = []
    for wrap in (LazyArray, plain):
        z = torch.tensor([[0j], [1 + 2j]], dtype=torch.complex128, requires_grad=True)
        total = f(wrap(z)[:, None, :] * wrap(w)[None, :, :]).sum(-1).sum(1)
        (slope,) = torch.autograd.grad(total.real.sum(), z)
        found.append([slope])
    assert_close(found[0], found[1], 1e-12)
