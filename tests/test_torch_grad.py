"""Gradients of lazy arrays over tensors beside dense torch: formulas, reductions, orders,
transforms.

Each order of each formula compiles some ten kernels. By default the second is taken of every third
formula, with respect to two inputs, and the third of every twelfth; DUCKKEOPS_ALL_ORDERS=1 takes
all of all.
"""

import gc
import os
import weakref

import numpy as np
import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch_gallery import FORMULAS, sample

from duckkeops import LazyArray, config, expr, gradients
from duckkeops.expr import Scalar

pytestmark = pytest.mark.usefixtures("quick_compiler")
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
        losses = [weighed(v, generator) for v in level]  # each draws its weights
        losses = [v for v in losses if v.requires_grad]
        if not losses:  # the gradient is constant
            break
        loss = sum(losses)
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


@pytest.mark.parametrize(("name", "how"), CASES)
def test_orders_of_each_formula_in_tiles(name, how):
    """By array operations, as close to dense torch as kernels are above."""
    with config(engine="blocks"):
        lazy, dense = both(name, reduction(name, how), 2, most=(None, None if ALL else 2))
    assert_close(lazy, dense, 1e-9)


@pytest.mark.parametrize(("name", "how"), CASES[:: 1 if ALL else 4])
def test_float32(name, how):
    lazy, dense = both(name, reduction(name, how), 3 if ALL else 1, torch.float32)
    assert_close([t.cdouble() if t.is_complex() else t.double() for t in lazy], dense, 1e-4)


def cosines(x, y):
    """Up to 0.994 in the samples."""
    lengths = torch.sqrt((x * x).sum(-1)) * torch.sqrt((y * y).sum(-1))
    return (x * y).sum(-1) / lengths


OF_COSINES = {
    "acos": lambda x, y: torch.acos(cosines(x, y)),
    "a root": lambda x, y: torch.sqrt(1 - cosines(x, y) ** 2),
    "a pole": lambda x, y: 1 / (1.1 - cosines(x, y)),
    "von Mises": lambda x, y: torch.exp(100 * (cosines(x, y) - 1)),
    "arc-cosine": FORMULAS["arccos1"].function,
    "hyperbolic": FORMULAS["hyperbolic"].function,
}


@pytest.mark.parametrize("name", OF_COSINES)
def test_third_derivatives_through_a_waist_in_float32(name):
    """As precise as torch's, where the derivatives by dot products and by lengths cancel.

    The errors of one sample are luck: those of six have geometric means that are not.
    """
    ratios = []
    for seed in range(6):
        found = []
        for wrap, dtype in ((LazyArray, "float32"), (plain, "float32"), (plain, "float64")):
            leaves = sample(("x", "y"), seed=seed, dtype=torch.float32).values()
            leaves = [t.to(getattr(torch, dtype)).requires_grad_() for t in leaves]
            with config(engine="blocks"):
                value = OF_COSINES[name](*map(wrap, leaves)).sum(1)
                found.append(orders(value, leaves, 3, (None, None, None)))
        for lazy, dense, exact in zip(*found, strict=True):
            errors = [(t.double() - exact).abs().max() / exact.abs().max() for t in (lazy, dense)]
            ratios.append((errors[0] + 1e-7) / (errors[1] + 1e-7))
    means = torch.stack(ratios).reshape(6, -1).log().mean(0).exp()
    assert means.max() < 2.5, means


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


# -- other forms of arguments and results


def sq(x, y):
    return ((x[..., :, None, :] - y[..., None, :, :]) ** 2).sum(-1)


def kernel(x, y):
    return torch.exp(-sq(x, y))


def three_axes(x, y):
    u = ((x[:, None, None, :] - y[None, :, None, :]) ** 2).sum(-1)
    v = ((y[None, :, None, :] - x[None, None, :, :]) ** 2).sum(-1)
    return (torch.exp(-u) * v).sum((1, 2))


def kinks(x, y):
    d = sq(x, y)
    return torch.where(d > 2, torch.relu(d - 1), d.clamp(0.5, 1.5)).sum(1) + abs(d - 1).sum(1)


FORMS = {  # (wrap, tensors): a function, and which leaves it takes
    "dense pairs": (lambda w, x, y, c: (kernel(w(x), w(y)) * c).sum(1), "xyc"),
    "dense costs": (lambda w, x, y, c: torch.logsumexp(sq(w(x), w(y)) - c, 1), "xyc"),
    "batches": (lambda w, x, y: kernel(w(x), w(y)).sum(-1), "XY"),
    "batches of one side": (lambda w, x, y: kernel(w(x), w(y)).sum(-1), "X1"),
    "a product from the left": (lambda w, y, x, b: b.T @ kernel(w(y), w(x)), "yxb"),
    "einsum": (lambda w, x, y, b: torch.einsum("ij,jk->ik", kernel(w(x), w(y)), b), "xyb"),
    "three point axes": (lambda w, x, y: three_axes(w(x), w(y)), "xy"),
    "a product of kernels": (
        lambda w, x, y: (kernel(w(x), w(y)) @ kernel(w(y), w(x))).sum(1),
        "xy",
    ),
    "kinks": (lambda w, x, y: kinks(w(x), w(y)), "xy"),
    "no pairs": (lambda w, x: (w(x) ** 2).sum(0), "x"),
    "joined points": (lambda w, x, y: kernel(torch.cat([w(x), w(y)]), w(y)).sum(1), "xy"),
    "joined features": (
        lambda w, x: kernel(torch.cat([w(x), w(x)[:, :1]], 1), w(x)[:, [0, 1, 2, 1]]).sum(1),
        "x",
    ),
    "rows": (lambda w, x, y: kernel(w(x), w(y))[2:5].sum(1), "xy"),
    "the least of all": (lambda w, x, y: sq(w(x), w(y)).min(), "xy"),
    "both extremes": (lambda w, x, y: sum(torch.aminmax(sq(w(x), w(y)), dim=1)), "xy"),
    "ties": (lambda w, x, y: torch.amin(torch.relu(sq(w(x), w(y)) - 3), 1), "xy"),
    "the same points": (lambda w, x: kernel(w(x), w(x)).sum(1), "x"),
    "float32 inside": (lambda w, x, y: kernel(w(x.float()), w(y.float())).sum(1).double(), "xy"),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name):
    function, which = FORMS[name]
    g = torch.Generator().manual_seed(1)
    shapes = {
        "x": (7, 3),
        "y": (9, 3),
        "b": (9, 2),
        "c": (7, 9),
        "X": (2, 7, 3),
        "Y": (2, 9, 3),
        "1": (1, 9, 3),
    }
    leaves = [
        torch.randn(shapes[k], generator=g, dtype=torch.float64, requires_grad=True) for k in which
    ]
    count = 2 if name in ("dense pairs", "batches", "joined points", "ties") else 1
    lazy = orders(function(LazyArray, *leaves), leaves, count)
    dense = orders(function(plain, *leaves), leaves, count)
    assert_close(lazy, dense, 1e-6 if name == "float32 inside" else 1e-9)


def test_more_ties_than_are_counted_apart():
    x = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    y = torch.zeros(300, 2, dtype=torch.float64)
    y[:, 0] = (torch.arange(300) % 2) + 1.0
    for wrap in (LazyArray, plain):
        d = torch.amin((wrap(x)[:, None, :] - wrap(y)[None, :, :]).sum(-1) ** 2, 1)
        (found,) = torch.autograd.grad(d.sum(), x)
        assert torch.allclose(found, torch.full_like(found, -2.0))


def test_a_repeated_backward_pass_sees_other_tensors_and_numbers():
    for seed, scale in enumerate((0.5, 2.0, 0.5)):
        x, y, b = (t.requires_grad_() for t in inputs(seed))
        found = []
        for wrap in (LazyArray, plain):
            d = ((wrap(x)[:, None, :] - wrap(y)[None, :, :]) ** 2).sum(-1)
            found.append(torch.autograd.grad((torch.exp(-d * scale) @ b).sum(), (x, y, b)))
        assert_close(*found, 1e-12)


def test_an_input_changed_before_the_backward_pass_is_refused():
    x, y, b = inputs()
    x.requires_grad_()
    value = gaussian(x, y, b).sum()
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_tensors_are_freed_after_the_backward_pass():
    x, y, b = inputs()
    alive = weakref.ref(y)
    value = gaussian(x.requires_grad_(), y, b).sum()
    value.backward()
    del value, y
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("extreme", [torch.amin, torch.amax])
@pytest.mark.parametrize("odd", ["nan", "infinite"])
def test_extremes_beside_nan_and_infinite_entries(extreme, odd):
    """Ties in some rows, and in others one finite entry among infinite ones."""
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randint(0, 4, (n, 1), generator=g).double() for n in (40, 60))
    rows, columns = torch.arange(40) % 5, torch.arange(60) % 4
    columns[7] = 4
    if odd == "nan":
        y[3] = torch.nan
    found = []
    for wrap in (LazyArray, plain):
        leaves = [t.clone().requires_grad_() for t in (x, y)]
        d = sq(*map(wrap, leaves))
        if odd == "infinite":
            far = torch.inf if extreme is torch.amin else -torch.inf
            d = torch.where(wrap(rows)[:, None] == wrap(columns)[None, :], d, far)
        value = extreme(d, 1)
        grads = torch.autograd.grad(value.nan_to_num(0).sum(), leaves)
        found.append((value.detach(), *grads))
    (value, gx, gy), (dense, dense_gx, dense_gy) = found
    torch.testing.assert_close(value, dense, equal_nan=True)
    torch.testing.assert_close(gx, dense_gx, equal_nan=True)
    if (
        odd == "nan"
    ):  # torch divides by a count of 0: NaN for all of a row, and not only for its NaN
        assert gy[3].isnan() and dense_gy.isnan().all()
    else:
        torch.testing.assert_close(gy, dense_gy)


# -- joined parts ----------------------------------------------------------------------------------


def joined_points(wrap, x, u, y, b):
    """Parts of their own formulas, and a factor that knows nothing of them."""
    X, U, Y, B = map(wrap, (x, u, y, b))
    parts = (sq(X, Y), torch.exp(-sq(U, Y)))
    return torch.cat(parts, 0) * (B**2).sum(-1)[:, None]


def joined_features(wrap, x, u, y, b):
    """Folds over features, of which some are squared distances, and the others u - y."""
    X, U, Y, B = map(wrap, (x, u, y, b))
    both = torch.cat([sq(X, Y)[..., None], U[:4, None] - Y[None]], -1)
    return torch.exp(-both.square().sum(-1)) + (B[:4] ** 2).sum(-1)[:, None]


JOINS = {"points": joined_points, "features": joined_features}


def joined_leaves(rows=(4, 5)):
    g = torch.Generator().manual_seed(0)
    sizes = (rows[0], rows[1], 6, sum(rows))
    return [torch.rand(n, 3, generator=g, dtype=torch.float64).requires_grad_() for n in sizes]


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("how", ["sum", "mean", "prod", "logsumexp", "var", "std", "amax", "topk"])
def test_joined_arrays(how, axis, join):
    reduce = {
        "logsumexp": lambda d: torch.logsumexp(d, axis),
        "topk": lambda d: torch.topk(d, 2, dim=axis).values,
    }.get(how, lambda d: getattr(d, how)(axis))
    found = []
    for wrap in (LazyArray, plain):
        leaves = joined_leaves()
        with config(engine="blocks"):
            found.append(orders(reduce(JOINS[join](wrap, *leaves)), leaves, 2, (None, None)))
    assert_close(*found, 1e-9)


@pytest.mark.parametrize("reduce", [lambda d: d.sum(), lambda d: torch.softmax(d, 0).T @ grid(d.T)])
def test_joined_arrays_by_kernels(reduce):
    found = []
    for wrap in (LazyArray, plain):
        leaves = joined_leaves()
        found.append(orders(reduce(joined_points(wrap, *leaves)), leaves, 1))
    assert_close(*found, 1e-9)


@pytest.mark.parametrize("axis", [0, 1])
def test_transforms_of_joined_arrays(axis):
    leaves = [t.detach() for t in joined_leaves()]
    found = []
    for wrap in (LazyArray, plain):

        def f(x, wrap=wrap):
            return torch.logsumexp(joined_points(wrap, x, *leaves[1:]), axis)

        x, v = leaves[0], torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
        with config(engine="blocks"):
            found.append(
                [
                    *jvp(f, (x,), (v,)),
                    jacrev(f)(x),
                    vmap(f)(torch.stack([x, x + 0.1])),
                    hessian(lambda x, f=f: f(x).square().sum())(x),
                ]
            )
    assert_close(*found, 1e-9)


PICKED = {
    "min": lambda d: torch.min(d, 0).values,
    "amax": lambda d: torch.amax(d, 0),
    "topk": lambda d: torch.topk(d, 2, dim=0).values,
    "kthvalue": lambda d: torch.kthvalue(d, 2, dim=0).values,
    "the least of all": lambda d: d.min(),
    "the greatest of all": lambda d: d.amax(),
}


@pytest.mark.parametrize("how", PICKED)
def test_a_part_that_nothing_is_picked_from_has_the_gradient_0(how):
    found = []
    for wrap in (LazyArray, plain):
        x, u, y, _ = leaves = joined_leaves()
        d = torch.cat([sq(*map(wrap, (x, y))), sq(*map(wrap, (u, y))) + 100], 0)
        value = PICKED[how](d)
        found.append([value, *torch.autograd.grad(value.sum(), leaves[:3])])
    assert_close(*found, 1e-9)


def test_a_deviation_of_joined_arrays_that_is_0():
    x = torch.ones(3, 1, dtype=torch.float64, requires_grad=True)
    d = torch.cat([LazyArray(x)[:, None] * LazyArray(torch.ones(1, 4, 1).double())] * 2, 0).sum(-1)
    (g,) = torch.autograd.grad(d.std(0).sum(), x)
    assert not g.any()


# -- axes in another order -------------------------------------------------------------------------

SEEN = {
    "new axes": lambda x, y: (LazyArray(x)[:, None], LazyArray(y)[None]),
    "unsqueezed": lambda x, y: (LazyArray(x).unsqueeze(1), LazyArray(y).unsqueeze(0)),
    "twice": lambda x, y: (LazyArray(x)[:, None].mT.mT, LazyArray(y)[None]),
    "transposed twice": lambda x, y: (LazyArray(x.T).T[:, None], LazyArray(y.T).T[None]),
    "by the user": lambda x, y: (LazyArray(x[:, None]), LazyArray(y[None])),
    "sliced": lambda x, y: (LazyArray(x)[0:4, None], LazyArray(y)[None, :]),
}


def seen_pairs(how):
    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(n, 3, generator=generator, dtype=torch.float64, requires_grad=True)
        for n in (4, 5)
    )
    return x, y, *SEEN[how](x, y)


def leaves_below(tensor):
    """What the graph's functions next to the result's own are."""
    return {type(f).__name__ for f, _ in tensor.grad_fn.next_functions if f is not None}


@pytest.mark.parametrize("how", SEEN)
def test_gradients_are_those_of_the_arrays_whatever_the_order_of_their_axes(how):
    x, y, a, b = seen_pairs(how)
    wanted = (-((x[:, None] - y[None]) ** 2).sum(-1)).exp().sum(1)
    found = (-((a - b) ** 2).sum(-1)).exp().sum(1)
    for _ in range(2):  # the second time by the passes that were kept
        ours, theirs = (
            torch.autograd.grad(v.square().sum(), (x, y), retain_graph=True)
            for v in (found, wanted)
        )
        for g, h in zip(ours, theirs, strict=True):
            torch.testing.assert_close(g, h)
    firsts = [torch.autograd.grad(v.sum(), x, create_graph=True)[0] for v in (found, wanted)]
    ours, theirs = (torch.autograd.grad(g.square().sum(), (x, y)) for g in firsts)
    for g, h in zip((firsts[0], *ours), (firsts[1], *theirs), strict=True):
        torch.testing.assert_close(g, h)


def test_new_axes_of_leaves_are_no_views_that_torch_records():
    _, _, a, b = seen_pairs("new axes")
    assert leaves_below(((a - b) ** 2).sum(-1).sum(1)) == {"AccumulateGrad"}


def test_what_is_recorded_of_views_without_gradients_is_a_constant():
    x, y, a, b = seen_pairs("new axes")
    with torch.no_grad():
        constant = (a - b).square().sum(-1)
    assert a.requires_grad
    assert not constant.requires_grad
    value = (constant * (a - b).square().sum(-1)).sum(1)
    dense = (x[:, None] - y[None]).square().sum(-1)
    wanted = (dense.detach() * dense).sum(1)
    ours, theirs = (torch.autograd.grad(v.sum(), (x, y)) for v in (value, wanted))
    for g, h in zip(ours, theirs, strict=True):
        torch.testing.assert_close(g, h)


def test_views_that_were_recorded_before_a_transform_are_differentiated_by_it():
    x, y, a, _ = seen_pairs("new axes")
    point = y.detach()

    def f(z):
        return ((a - LazyArray(z)[None]) ** 2).sum(-1).exp().sum(1)

    def dense(z):
        return ((x[:, None] - z[None]) ** 2).sum(-1).exp().sum(1)

    torch.testing.assert_close(jacrev(f)(point), jacrev(dense)(point))
    torch.testing.assert_close(jacfwd(f)(point), jacfwd(dense)(point))
    many = torch.stack([point, 2 * point])
    torch.testing.assert_close(vmap(f)(many), vmap(dense)(many))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(point, torch.ones_like(point))
        ours, theirs = (torch.autograd.forward_ad.unpack_dual(h(dual)).tangent for h in (f, dense))
        torch.testing.assert_close(ours, theirs)


def test_a_graph_of_views_is_differentiated_in_batches_of_gradients():
    x, y, a, b = seen_pairs("new axes")
    found = ((a - b) ** 2).sum(-1).sum(1)
    wanted = ((x[:, None] - y[None]) ** 2).sum(-1).sum(1)
    rows = torch.eye(4, dtype=torch.float64)
    ours = vmap(lambda g: torch.autograd.grad(found, (x, y), g, retain_graph=True))(rows)
    theirs = vmap(lambda g: torch.autograd.grad(wanted, (x, y), g, retain_graph=True))(rows)
    for g, h in zip(ours, theirs, strict=True):
        torch.testing.assert_close(g, h)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("product", [lambda k, b: k @ b, lambda k, b: torch.softmax(k, 1) @ b])
def test_products_are_written_and_differentiated_in_the_order_of_their_axes(outputs, product):
    """The first pass, the repeated one, and higher orders read gradients of several layouts."""
    x, y, b = (
        torch.randn(n, m, dtype=torch.float64, requires_grad=True)
        for n, m in ((7, 2), (5, 2), (5, outputs))
    )
    g = torch.randn(outputs, 7, dtype=torch.float64).T  # not contiguous
    want_value = product((-((x[:, None] - y[None]) ** 2).sum(-1)).exp(), b)
    want = torch.autograd.grad(want_value, (x, y, b), g)
    for create in (False, False, True):
        got = product((-((LazyArray(x)[:, None] - LazyArray(y)) ** 2).sum(-1)).exp(), b)
        assert got.shape == want_value.shape
        torch.testing.assert_close(got, want_value)
        for one, other in zip(
            torch.autograd.grad(got, (x, y, b), g, create_graph=create), want, strict=True
        ):
            torch.testing.assert_close(one, other)


def test_gradients_of_wide_products_sum_over_features_first():
    """What does not depend on a feature leaves the sum over features, which a pair takes inside."""
    x, y = (torch.rand(n, 3, dtype=torch.float64, requires_grad=True) for n in (6, 5))
    b = torch.rand(5, 4, dtype=torch.float64)
    g = torch.rand(6, 4, dtype=torch.float64)

    def product(x, y):
        return (-((x - y) ** 2).sum(-1)).exp() @ b

    lazy = product(LazyArray(x)[:, None], LazyArray(y)[None])
    dense = product(x[:, None], y[None])
    got = torch.autograd.grad(lazy, (x, y), g)
    torch.testing.assert_close(got, torch.autograd.grad(dense, (x, y), g))
    k = (-((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1)).exp()
    wide = (LazyArray(b).mT[:, None] * k)._node  # as a product with b records it
    assert wide.roles == "fpp"
    leaf = next(i for i in expr.inputs(wide) if i.source is x)
    (term,) = gradients.gradient(wide, Scalar(1.0), leaf)
    (inner,) = term.node.args
    assert type(inner) is expr.Reduce and inner.axes == (0,)
    (term,) = gradients.gradient(wide, Scalar(1.0), leaf, nested=False)
    assert type(term.node.args[0]) is expr.Vjp
