"""Gradients of tensors where something is 0, infinite, masked, written to, frozen or traced."""

import pytest
import torch
from torch.func import hessian, jacfwd, linearize
from torch.nn import functional as F

from duckkeops import LazyArray, UnsupportedError, config


def normal(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


def plain(t):
    return t


def gradients(f, *inputs):
    """Value and gradients of f(wrap, ...), of lazy and of dense arrays."""
    for wrap in (LazyArray, plain):
        leaves = [t.clone().requires_grad_() for t in inputs]
        out = f(wrap, *leaves)
        yield [out.detach(), *torch.autograd.grad(out, leaves, torch.ones_like(out))]


def assert_same(f, *inputs):
    for a, b in zip(*gradients(f, *inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, equal_nan=True)


def below(wrap, rows, columns):
    """A mask whose last rows are all False."""
    return wrap(torch.arange(rows))[:, None] - wrap(torch.arange(columns))[None] < 2


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("reduce", ["sum", "amin", "min", "topk", "kthvalue"])
def test_distances_of_points_to_themselves_have_slope_0(p, reduce):
    def f(wrap, x):
        d_ij = torch.cdist(wrap(x), wrap(x), p=p)
        match reduce:
            case "min":
                return torch.min(d_ij, dim=1).values
            case "topk":
                return torch.topk(d_ij, 2, dim=1, largest=False).values
            case "kthvalue":
                return torch.kthvalue(d_ij, 1, dim=1).values
        return getattr(torch, reduce)(d_ij, 1)

    lazy, dense = gradients(f, normal(6, 3))
    for a, b in zip(lazy, dense, strict=True):  # torch's own distances are products, off by 1e-8
        torch.testing.assert_close(a, b, rtol=0, atol=2e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_picked_norms_of_coincident_points_have_slope_0_in_each_dtype(dtype):
    x = normal(6, 3).to(dtype).requires_grad_()
    distances = (LazyArray(x)[:, None] - LazyArray(x)[None]).norm(dim=-1)
    (g,) = torch.autograd.grad(torch.amin(distances, 1).sum(), x)
    assert not g.any() and g.dtype is dtype


def test_powers_have_slope_0_where_it_is_infinite():
    x, p = normal(4, 2).requires_grad_(), torch.tensor(1 / 3, dtype=torch.float64)
    d_ij = ((LazyArray(x)[:, None] - LazyArray(x)[None]) ** 2).sum(-1)
    (g,) = torch.autograd.grad((d_ij**p).sum(), x)
    far = ~torch.eye(4, dtype=torch.bool)
    (expected,) = torch.autograd.grad((((x[:, None] - x[None]) ** 2).sum(-1)[far] ** p).sum(), x)
    torch.testing.assert_close(g, expected)


@pytest.mark.parametrize("rows", [6, 3])
def test_masked_rows_have_no_gradient(rows):
    """Rows 5 and beyond see no column; they are in the loss, or not."""
    q, k, v = normal(6, 3), normal(4, 3, seed=1), normal(4, 2, seed=2)

    def scores(wrap, q, k):
        return torch.where(below(wrap, 6, 4), wrap(q) @ wrap(k).T, -torch.inf)

    assert_same(lambda wrap, q, k: torch.logsumexp(scores(wrap, q, k), 1)[:rows], q, k)
    if rows < 5:
        for _, *found in gradients(
            lambda wrap, q, k: (torch.softmax(scores(wrap, q, k), 1) @ v)[:rows], q, k
        ):
            assert all(torch.isfinite(g).all() for g in found)


def test_attention_of_a_lazy_mask_gives_0_to_queries_without_keys():
    q, k, v = normal(6, 3), normal(4, 3, seed=1), normal(4, 2, seed=2)

    def f(wrap, q, k, v):
        mask = below(wrap, 6, 4)
        return F.scaled_dot_product_attention(wrap(q), wrap(k), v, attn_mask=mask)

    assert_same(f, q, k, v)
    assert not next(gradients(f, q, k, v))[0][5].any()


@pytest.mark.filterwarnings("error")
def test_a_softmax_over_nothing_weighs_nothing():
    x, y, b = normal(2, 3), normal(0, 3), normal(0, 2)
    out = torch.softmax(LazyArray(x) @ LazyArray(y).T, 1) @ b
    assert torch.equal(out, torch.zeros(2, 2, dtype=torch.float64))


def test_the_deviation_of_one_entry_has_slope_0():
    def f(wrap, x):
        return ((wrap(x)[:, None] - wrap(x[:1])[None]) ** 2).sum(-1).std(1, correction=0)

    assert_same(f, normal(5, 3))


def test_a_loss_without_targets_has_no_gradient():
    targets = torch.full((5,), -100)
    y = normal(4, 3, seed=1)
    assert_same(lambda wrap, x: F.cross_entropy(-torch.cdist(wrap(x), y), targets), normal(5, 3))


def test_targets_of_another_length_are_named():
    with pytest.raises(ValueError, match="4 targets to match 5 inputs"):
        F.cross_entropy(-torch.cdist(LazyArray(normal(5, 3)), normal(4, 3)), torch.zeros(4).long())


def gaussian(x, s, y):
    return torch.exp(-s * ((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1))


def dense_gaussian(x, s, y):
    return torch.exp(-s * ((x[:, None] - y[None]) ** 2).sum(-1))


@pytest.mark.parametrize("transform", [jacfwd, hessian])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_forward_mode_takes_numbers(transform, shape):
    x, y, s = normal(5, 3), normal(4, 3, seed=1), torch.full(shape, 0.3, dtype=torch.float64)
    found, expected = (
        transform(lambda s, f=f: f(x, s, y).sum(1).sin().sum())(s)
        for f in (gaussian, dense_gaussian)
    )
    torch.testing.assert_close(found, expected)


def test_results_may_be_written_to_before_the_backward_pass():
    y, s = normal(4, 3, seed=1), 0.3
    x = normal(5, 3).requires_grad_()
    (found,) = torch.autograd.grad(gaussian(x, s, y).sum(1).mul_(2).sum(), x)
    (expected,) = torch.autograd.grad(2 * dense_gaussian(x, s, y).sum(), x)
    torch.testing.assert_close(found, expected)


def test_what_is_recorded_without_gradients_is_a_constant():
    x, y = normal(5, 3).requires_grad_(), normal(4, 3, seed=1)
    with torch.no_grad():
        frozen = (gaussian(x, 0.3, y), torch.cdist(LazyArray(x), y), LazyArray(x)[:, None] * 2)
    assert not any(k.sum(1).requires_grad for k in frozen)
    assert gaussian(x, 0.3, y).sum(1).requires_grad


def test_traces_that_would_keep_a_result_as_a_constant_are_refused():
    x, y = normal(5, 3), normal(4, 3, seed=1)
    with pytest.raises(UnsupportedError, match=r"torch\.func\.jvp"):
        linearize(lambda x: gaussian(x, 0.3, y).sum(1), x)


def test_batches_of_gradients_of_the_older_kind_are_refused():
    x, y = normal(5, 3).requires_grad_(), normal(4, 3, seed=1)
    out = gaussian(x, 0.3, y).sum(1)
    with pytest.raises(UnsupportedError, match="is_grads_batched"):
        torch.autograd.grad(out, x, torch.eye(5, dtype=out.dtype), is_grads_batched=True)


def test_products_of_two_lazy_arrays_are_compiled():
    x, y = normal(5, 3), normal(4, 3, seed=1)

    def f(x, y):
        return (LazyArray(x) @ LazyArray(y).T).exp().sum(1)

    compiled = torch.compile(f, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, y), (x @ y.T).exp().sum(1))


AUTOCAST = {
    "matmul": lambda d, b: d @ b,
    "function": lambda d, b: torch.matmul(d, b),
    "reflected": lambda d, b: b.T @ d.T,
    "mm": lambda d, b: torch.mm(d, b),
    "mv": lambda d, b: torch.mv(d, b[:, 0]),
    "einsum": lambda d, b: torch.einsum("ij,jk->ik", d, b),
    "exp": lambda d, b: d.exp(),
    "prod": lambda d, b: torch.prod(d, 1),
    "softmax": lambda d, b: torch.softmax(d, 1).sum(1),
    "logsumexp": lambda d, b: torch.logsumexp(d, 1),
    "mse_loss": lambda d, b: F.mse_loss(d, d * 2),
    "cross_entropy": lambda d, b: F.cross_entropy(d, torch.zeros(5).long()),
}


@pytest.mark.filterwarnings("ignore:.*autocast")
@pytest.mark.parametrize("name", AUTOCAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_autocast(name, dtype):
    x, y, b = normal(5, 3), normal(4, 3, seed=1), normal(4, 2, seed=2)
    found = []
    for wrap in (LazyArray, plain):
        leaves = [t.to(dtype).requires_grad_() for t in (x, y, b)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            d_ij = ((wrap(leaves[0])[:, None] - wrap(leaves[1])[None]) ** 2).sum(-1) / 8
            out = AUTOCAST[name](d_ij, leaves[2])
            out = out.to_dense() if isinstance(out, LazyArray) else out
        grad = torch.autograd.grad(out.double().sum(), leaves[0])[0]
        found.append((out.detach(), grad))
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype
        tolerance = 1e-10 if dtype is torch.float64 else 0.05
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_autocast_of_features_and_distances():
    x, y = normal(5, 3).bfloat16(), normal(4, 3, seed=1).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert F.linear(LazyArray(x.float())[:, None], y.float()).dtype is torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.cdist(LazyArray(x), y).dtype is torch.cdist(x, y).dtype is torch.float32


@pytest.mark.parametrize("inside", [True, False])
def test_autocast_of_compiled_code_is_refused(inside):
    def f(x, y):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
            return (LazyArray(x) @ LazyArray(y).T).sum(1)

    compiled = torch.compile(f, fullgraph=True, backend="eager")
    x, y = normal(5, 3).float(), normal(4, 3).float()
    if not inside:
        assert compiled(x, y).dtype is torch.float32
        return
    with pytest.raises(Exception, match=r"torch\.autocast around lazy arrays"):
        compiled(x, y)


def test_the_plan_of_gradients_is_explained():
    x, y, s = normal(257, 3), normal(33, 3), normal()
    k_ij = gaussian(x.requires_grad_(), s.requires_grad_(), y.requires_grad_())
    assert k_ij.explain().partition("gradients\n")[2] == (
        "pass 1     x1, x0: 257 rows, each over 33 columns, with 4 results a row; "
        "those of x0 are merged at the end\n"
        "pass 2     x2: 33 rows, each over 257 columns, with 3 results a row"
    )
    with torch.no_grad():
        assert "gradients" not in gaussian(x, s, y).explain()
    assert k_ij.estimate().pairs == 257 * 33
    assert "reduce" in k_ij.source()


BODIES = {  # whose rounding depends on the order in which a compiler takes them
    "difference": lambda u, v: u - v,
    "shifted": lambda u, v: u - v - 0.05,
    "product": lambda u, v: 0.3 * (u * v),
    "cubic": lambda u, v: torch.sin(0.3 * u * v) * u - v * u * u,
    "gaussian": lambda u, v: torch.exp(-((u - v) ** 2) / 0.3),
    "ties": lambda u, v: u * 0 + v * 0 + 1.5,
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("reduce", [torch.amax, torch.amin])
def test_extremes_of_features_are_found_again(name, reduce):
    x, y = normal(40, 3), normal(19, 3, seed=1)
    assert_same(
        lambda wrap, x, y: reduce(BODIES[name](wrap(x)[:, None], wrap(y)[None]), -1).sum(1), x, y
    )


@pytest.mark.parametrize("engine", ["cpu", "blocks"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduce", [torch.amax, torch.amin])
def test_neighbours_of_an_extreme_have_no_share(reduce, dtype, engine):
    """The next number is no tie, and equal numbers are, whatever is computed of them."""
    one = torch.tensor(1.5, dtype=dtype)
    low, high = (torch.nextafter(one, torch.tensor(t, dtype=dtype)) for t in (0.0, 2.0))
    rows = [[one, one, low], [one, high, high], [low, one, high], [high, low, low], [one] * 3]
    x = torch.tensor(rows, dtype=dtype)
    y = torch.ones(2, 3, dtype=dtype)
    g = torch.rand(2, dtype=torch.float64).to(dtype)
    for body in (lambda u, v: u * v, lambda u, v: u + v * v - v, lambda u, v: v / (v / u)):
        found = []
        for wrap in (LazyArray, plain):
            leaves = [t.clone().requires_grad_() for t in (x, y)]
            with config(engine=engine):
                value = reduce(body(wrap(leaves[0])[:, None], wrap(leaves[1])[None]), -1) @ g
                found.append(torch.autograd.grad(value.sum(), leaves))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("engine", ["cpu", "blocks"])
@pytest.mark.parametrize("name", [*BODIES, "a sum of many"])
def test_ties_of_computed_features_share_the_gradient(name, engine):
    """Each feature stands there twice or thrice: what is computed of them is equal, and rounded."""
    body = BODIES.get(name, lambda u, v: u * v * v + 0.7 * u - v * u * u / (1 + v * v))
    x, y = normal(30, 2)[:, [0, 1, 1, 0, 0]], normal(17, 2, seed=1)[:, [0, 1, 1, 0, 0]]
    p = torch.tensor([0.3, 0.7, 0.7, 0.3, 0.3], dtype=torch.float64)
    for dtype in (torch.float64, torch.float32):
        leaves = [t.to(dtype).requires_grad_() for t in (x, y, p)]
        with config(engine=engine):
            value = torch.amax(
                body(LazyArray(leaves[0])[:, None] * leaves[2], LazyArray(leaves[1])[None]), -1
            )
            found = torch.autograd.grad(value.sum(), leaves)
        wide = [t.detach().double().requires_grad_() for t in leaves]
        dense = torch.amax(body(wide[0][:, None] * wide[2], wide[1][None]), -1)
        for a, b in zip(found, torch.autograd.grad(dense.sum(), wide), strict=True):
            assert (a - b).abs().max() <= (1e-12 if dtype == torch.float64 else 1e-5) * max(
                1, b.abs().max()
            )


@pytest.mark.parametrize("engine", ["cpu", "blocks"])
def test_ties_of_sums_share_the_gradient(engine):
    """Of four vectors of features at each point, of which two are the same."""
    x, y = (normal(n, 4, 3, seed=n)[:, [0, 1, 0, 3]] for n in (5, 6))
    found = []
    for wrap in (lambda t: LazyArray(t, feature_ndim=2), plain):
        leaves = [t.clone().requires_grad_() for t in (x, y)]
        u, v = wrap(leaves[0])[:, None], wrap(leaves[1])[None]
        with config(engine=engine):
            value = torch.sin(((u - v) ** 2 * u).sum(-1).amax(-1)).sum(1)
            found.append(torch.autograd.grad(value.sum(), leaves))
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() <= 1e-12 * b.abs().max()


def test_kept_passes_tell_settings_of_the_forward_pass_apart():
    x, y = normal(6, 2).float(), normal(5, 2, seed=1).float()

    def slope(**settings):
        leaf = x.clone().requires_grad_()
        with config(**settings):
            value = ((LazyArray(leaf)[:, None] - LazyArray(y)[None]) ** 2).sum(-1).var(1)
        return torch.autograd.grad(value.sum(), leaf)[0]

    for settings in ({}, {"accumulate": "float64"}, {}, {"accumulate": "float64"}):
        torch.testing.assert_close(slope(**settings), slope())


@pytest.mark.parametrize("reduce", [torch.amin, torch.amax])
def test_extremes_of_bfloat16_are_differentiated(reduce):
    x, y = normal(3, 2).bfloat16(), normal(4, 2, seed=1).bfloat16()
    lazy, dense = gradients(
        lambda wrap, x: reduce(((wrap(x)[:, None] - wrap(y)[None]) ** 2).sum(-1), 1), x
    )
    torch.testing.assert_close(lazy, dense)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_extremes_along_an_axis_keep_half_precision(dtype):
    x, y = torch.rand(7, 3).to(dtype), torch.rand(9, 3).to(dtype)
    d = LazyArray(x)[:, None, :] - LazyArray(y)[None, :, :]
    for name in ("min", "max"):
        got, want = (getattr(v, name)(1) for v in (d, x[:, None] - y))
        assert got.values.dtype == dtype
        torch.testing.assert_close(got.values, want.values)
        torch.testing.assert_close(got.indices, want.indices)


@pytest.mark.parametrize("how", ["logsumexp", "softmax"])
def test_weights_of_huge_scores_are_one_at_most(how):
    """The backward pass may round scores in another way than the forward one did: those of 1e15 by
    more than exp can take. Of such scores weights are 0 or 1, or between; slopes are finite.
    """
    g = torch.Generator().manual_seed(0)
    x, y = (torch.rand(n, 3, generator=g) * 0.1 for n in (40, 50))
    values = torch.ones(50, 1, requires_grad=True)
    x.requires_grad_()
    gap = LazyArray(x)[:, None] - LazyArray(y)[None]
    s = (0.37 / (gap * gap).sum(-1)) ** 6
    assert s.max() > 1e15
    if how == "logsumexp":
        slopes = torch.autograd.grad(torch.logsumexp(s, 1).sum(), x)
    else:
        slopes = torch.autograd.grad((torch.softmax(s, 1) @ values).sum(), (x, values))
        assert (slopes[1] >= 0).all()
        assert (slopes[1] <= 40).all()
    assert all(torch.isfinite(t).all() for t in slopes)


def test_tensors_without_entries_are_refused():
    """Those that torch makes to propagate shapes have no memory, not even of other numbers."""
    with torch._subclasses.FakeTensorMode():
        fake = torch.zeros(6, 2)
    d = ((LazyArray(fake)[:, None] - LazyArray(fake)[None]) ** 2).sum(-1)
    with pytest.raises(UnsupportedError, match="no entries to read"):
        d.min(1)


def test_traces_that_would_take_a_reduction_as_a_constant_are_refused():
    def nearest(x):
        return ((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1).sum(1)

    y = torch.rand(5, 2)
    with pytest.raises(UnsupportedError, match=r"torch\.compile or torch\.export"):
        torch.jit.trace(nearest, (torch.rand(6, 2),))
