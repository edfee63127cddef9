"""Gradients of lazy arrays over tensors beside dense torch: formulas, reductions, orders,
transforms.

Each order of each formula compiles some ten kernels. By default the second is taken of every third
formula, with respect to two inputs, and the third of every twelfth; DUCKKEOPS_ALL_ORDERS=1 takes
all of all.
"""

import os

import numpy as np
import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch_gallery import FORMULAS, sample

from duckkeops import LazyArray

REDUCTIONS = {
    "sum": lambda d: d.sum(1),
    "mean": lambda d: d.mean(0),
    "all": lambda d: d.sum(),
    "logsumexp": lambda d: torch.logsumexp(d, 1),
    "var": lambda d: d.var(1),
    "std": lambda d: torch.std(d, dim=0),
    "prod": lambda d: d.prod(1),
    "min": lambda d: torch.min(d, dim=1).values,
    "amax": lambda d: torch.amax(d, dim=0),
    "topk": lambda d: torch.topk(d, 2, dim=1).values,
    "kthvalue": lambda d: torch.kthvalue(d, 2, dim=0).values,
    "matmul": lambda d: d @ torch.linspace(-1, 1, d.shape[1], dtype=torch.float64).to(dtype_of(d)),
    "softmax": lambda d: torch.softmax(d, 1) @ grid(d),
}
SMOOTH = ("sum", "mean", "all", "logsumexp", "var", "std", "matmul", "softmax", "min", "topk")


def dtype_of(d):
    return d.dtype


def grid(d):
    return torch.linspace(0, 1, 2 * d.shape[1], dtype=d.dtype).reshape(-1, 2)


def wrapped(f, lazy):
    """f of the leaves, each of them lazy or not."""
    if not lazy:
        return lambda leaves: f.function(*leaves)
    return lambda leaves: f.function(
        *(
            LazyArray(t)
            if n in "xyvlw"
            else t  # parameters, and vectors along an axis, stay tensors
            for n, t in zip(f.leaves, leaves, strict=True)
        )
    )


def orders(value, leaves, count, most=(None, 2, 1), seed=0):
    """The value, and gradients of random sums of it of the first `count` orders.

    `most`: with respect to how many of the leaves, for each order.
    """
    generator = torch.Generator().manual_seed(seed)
    found = [value]
    level = [value]
    for order in range(count):
        loss = sum(weighed(v, generator) for v in level if v.requires_grad)
        level = list(
            torch.autograd.grad(
                loss,
                leaves[: most[order]],
                create_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        )
        found += level
    return found


def weighed(v, generator):
    v = torch.view_as_real(v) if v.is_complex() else v
    return (v * torch.rand(v.shape, generator=generator, dtype=torch.float64).to(v.dtype)).sum()


def assert_close(lazy, dense, tolerance):
    """Each within `tolerance` of its own scale, or of the largest of its order where it is 0."""
    for a, b in zip(lazy, dense, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        scale = max(b.detach().abs().max().item(), 1e-3) if b.numel() else 1
        np.testing.assert_allclose(
            a.detach().numpy() / scale, b.detach().numpy() / scale, rtol=0, atol=tolerance
        )


def both(name, reduce, count, dtype=torch.float64, most=(None, 2, 1), **sizes):
    """The orders of the reduction of a formula, lazy and dense."""
    f = FORMULAS[name]
    found = []
    for lazy in (True, False):
        values = sample(f.leaves, **sizes)
        leaves = [values[n].to(dtype if lazy else torch.float64).requires_grad_() for n in f.leaves]
        found.append(orders(reduce(wrapped(f, lazy)(leaves)), leaves, count, most))
    return found


ALL = bool(os.environ.get("DUCKKEOPS_ALL_ORDERS"))
CASES = [(name, SMOOTH[k % len(SMOOTH)]) for k, name in enumerate(FORMULAS)]


def reduction(name, how):
    """Formulas with features, or of complex numbers, are summed."""
    return REDUCTIONS["sum" if FORMULAS[name].out != "ij" or name == "fourier" else how]


@pytest.mark.parametrize(("name", "how"), CASES)
def test_orders_of_each_formula(name, how):
    place = list(FORMULAS).index(name)
    count = 3 if ALL or place % 12 == 0 else 2 if place % 3 == 0 else 1
    most = (None, None, None) if ALL else (None, 2, 1)
    lazy, dense = both(name, reduction(name, how), count, most=most)
    assert_close(lazy, dense, 1e-9)


@pytest.mark.parametrize(("name", "how"), CASES[:: 1 if ALL else 4])
def test_float32(name, how):
    lazy, dense = both(name, reduction(name, how), 3 if ALL else 1, torch.float32)
    assert_close([t.cdouble() if t.is_complex() else t.double() for t in lazy], dense, 1e-4)


@pytest.mark.parametrize("how", REDUCTIONS)
@pytest.mark.parametrize("sizes", [(1, 1), (2, 33), (17, 4)])
def test_every_reduction_at_odd_sizes(how, sizes):
    if (sizes[1] < 2 and how in ("topk",)) or (sizes[0] < 2 and how == "kthvalue"):
        pytest.skip("there are no two entries")
    lazy, dense = both("gaussian", REDUCTIONS[how], 2, rows=sizes[0], columns=sizes[1])
    nan = [torch.isnan(t).any().item() for t in dense]
    assert [torch.isnan(t).any().item() for t in lazy] == nan
    pairs = [(a, b) for a, b, n in zip(lazy, dense, nan, strict=True) if not n]
    assert_close([a for a, _ in pairs], [b for _, b in pairs], 1e-9)


# -- torch.func, and gradcheck


def gaussian(x, y, b, wrap=LazyArray):
    return torch.exp(-((wrap(x)[:, None, :] - wrap(y)[None, :, :]) ** 2).sum(-1)) @ b


def scores(x, y, b, wrap=LazyArray):
    return b * ((wrap(x)[:, None, :] - wrap(y)[None, :, :]) ** 2).sum(-1)


FUNCTIONS = {
    "matmul": gaussian,
    "logsumexp": lambda *a: torch.logsumexp(-scores(*a), 1),
    "softmax": lambda x, y, b, wrap=LazyArray: (
        torch.softmax(wrap(x) @ wrap(y).T, dim=1) @ (y * b[:, None])
    ),
    "min": lambda *a: torch.min(scores(*a), dim=1).values,
    "amax": lambda *a: torch.amax(scores(*a), dim=1),
    "topk": lambda *a: torch.topk(scores(*a), 2, dim=1).values,
    "var": lambda *a: torch.var(scores(*a), dim=1),
    "std": lambda *a: torch.std(scores(*a), dim=1),
    "prod": lambda *a: torch.prod(1 + scores(*a), dim=1),
}


def plain(t):
    return t


def inputs(seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=g, dtype=torch.float64) for s in ((5, 2), (4, 2), (4,))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradcheck(name):
    leaves = [t.requires_grad_() for t in inputs()]
    assert torch.autograd.gradcheck(FUNCTIONS[name], leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(FUNCTIONS[name], leaves)


def transforms(f):
    """Each transform of f, at fixed inputs."""
    x, y, b = inputs()
    many = torch.stack([x, x + 0.1, 2 * x])
    weights = torch.stack([b, -b, b + 1])

    def loss(x):
        return (f(x, y, b) ** 2).sum()

    each = vmap(f, (0, None, None))
    return {
        "grad": lambda: grad(loss)(x),
        "vjp": lambda: vjp(f, x, y, b)[1](torch.ones_like(f(x, y, b))),
        "jvp": lambda: jvp(f, (x, y, b), (x + 1, y - 1, b))[1],
        "vmap": lambda: each(many, y, b),
        "vmap over weights": lambda: vmap(f, (None, None, 0))(x, y, weights),
        "vmap of one": lambda: each(many[:1], y, b),
        "vmap at other axes": lambda: vmap(f, (1, None, None), 1)(many.transpose(0, 1), y, b),
        "vmap(grad)": lambda: vmap(grad(loss))(many),
        "vmap(vmap)": lambda: vmap(each, (None, None, 0))(many, y, weights),
        "jacrev": lambda: jacrev(f, (0, 1, 2))(x, y, b),
        "jacfwd": lambda: jacfwd(f, (0, 1, 2))(x, y, b),
        "hessian": lambda: hessian(loss)(x),
        "jacrev(jacrev)": lambda: jacrev(jacrev(loss))(x),
        "jvp(grad)": lambda: jvp(grad(loss), (x,), (x + 1,))[1],
        "grad(jvp)": lambda: grad(lambda x: jvp(loss, (x,), (torch.ones_like(x),))[1])(x),
        "jvp(jvp)": lambda: jvp(lambda x: jvp(loss, (x,), (x * 2,))[1], (x,), (x + 1,))[1],
    }


@pytest.mark.parametrize("which", transforms(gaussian))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_transforms(name, which):
    f = FUNCTIONS[name]
    lazy = transforms(f)[which]()
    dense = transforms(lambda x, y, b: f(x, y, b, plain))[which]()
    lazy, dense = (r if isinstance(r, tuple) else (r,) for r in (lazy, dense))
    assert_close(lazy, dense, 1e-9)
