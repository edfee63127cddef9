"""KeOps's LazyTensor: the field's tutorial, its printed formulas, shapes and reductions."""

import copy
import pickle

import numpy as np
import pytest
import torch

from duckkeops.errors import UnsupportedError
from duckkeops.keops.numpy import LazyTensor as NumpyLazyTensor
from duckkeops.keops.torch import LazyTensor, Pm, Vi, Vj

M, N, D = 40, 70, 3


def cloud(*shape, dtype=torch.float64):
    seed = torch.Generator().manual_seed(sum(shape))
    return torch.rand(*shape, generator=seed, dtype=dtype)


def test_first_steps():
    x, y = (cloud(n, 2).numpy() for n in (M, N))
    x_i, y_j = NumpyLazyTensor(x[:, None, :]), NumpyLazyTensor(y[None, :, :])
    D_ij = ((x_i - y_j) ** 2).sum(-1)
    assert str(D_ij).splitlines() == [
        "KeOps LazyTensor",
        "    formula: Sum(Square((Var(0,2,0) - Var(1,2,1))))",
        f"    shape: ({M}, {N})",
    ]
    s_i = D_ij.argmin(dim=1)
    assert type(s_i) is np.ndarray and s_i.shape == (M, 1) and s_i.dtype == np.int64
    np.testing.assert_array_equal(s_i[:, 0], ((x[:, None] - y) ** 2).sum(-1).argmin(1))


def test_kernel_product_and_its_gradients():
    x, y, b = cloud(M, 10).requires_grad_(), cloud(N, 10), cloud(N, 4)
    x_i, y_j = LazyTensor(x[:, None, :]), LazyTensor(y[None, :, :])
    K_ij = (-((x_i - y_j) ** 2).sum(-1).sqrt()).exp()
    a_i = K_ij @ b
    want = torch.exp(-torch.cdist(x, y)) @ b
    torch.testing.assert_close(a_i, want)
    for create in (True, False):
        [g_i] = torch.autograd.grad((a_i**2).sum(), [x], create_graph=True)
        [g] = torch.autograd.grad((want**2).sum(), [x], create_graph=True)
        torch.testing.assert_close(g_i, g)
        if create:
            [h_i] = torch.autograd.grad(g_i.exp().sum(), [x], retain_graph=True)
            [h] = torch.autograd.grad(g.exp().sum(), [x], retain_graph=True)
            torch.testing.assert_close(h_i, h)
    torch.testing.assert_close(K_ij @ b[:, 0], want[:, 0])
    torch.testing.assert_close(K_ij.T @ a_i, torch.exp(-torch.cdist(y, x)) @ a_i)


def test_nearest_neighbours_are_differentiable():
    x, y = cloud(M, 3).requires_grad_(), cloud(N, 3)
    D_ij = ((LazyTensor(x[:, None, :]) - LazyTensor(y[None, :, :])) ** 2).sum(-1)
    to_nn, s_i = D_ij.min(dim=1).view(-1), D_ij.argmin(dim=1).view(-1)
    again = ((x - y[s_i, :]) ** 2).sum(-1)
    torch.testing.assert_close(to_nn, again)
    [one], [other] = (torch.autograd.grad(v.sum(), [x]) for v in (to_nn, again))
    torch.testing.assert_close(one, other)


def test_batches():
    A, B, d = 7, 3, 10
    x, c, y, s = (
        cloud(A, B, M, 1, d),
        cloud(1, 1, M, 1, d),
        cloud(1, B, 1, N, d),
        cloud(A, 1, 1, 1, 1),
    )
    x_i, l_i, y_j, s_ = map(LazyTensor, (x, c, y, s))
    K_ij = -1.6 * ((l_i * x_i - y_j) ** 2).sum(-1) / (1 + s_**2)
    a_i = K_ij.sum(dim=3)
    assert a_i.shape == (A, B, M, 1)
    assert K_ij.shape == (A, B, M, N) and K_ij._shape == (A, B, M, N, 1)
    want = (-1.6 * ((c * x - y) ** 2).sum(-1, keepdim=True) / (1 + s**2)).sum(3)
    torch.testing.assert_close(a_i, want)
    F_ij = (x_i**1.5 + y_j / l_i).cos() - (x_i | y_j) + (x_i[:, :, :, :, 2] * s_.relu() * y_j)
    assert str(F_ij).splitlines()[1:] == [
        "    formula: ((Cos((Powf(Var(0,10,0), Var(1,1,2)) + (Var(2,10,1) / Var(3,10,0)))) - "
        "(Var(0,10,0) | Var(2,10,1))) + ((Elem(Var(0,10,0),2) * ReLU(Var(4,1,2))) * Var(2,10,1)))",
        f"    shape: (7, 3, {M}, {N}, 10)",
    ]
    a_j = F_ij.sum(dim=2)
    want = (x**1.5 + y / c).cos() - (x * y).sum(-1, keepdim=True) + x[..., 2:3] * s.relu() * y
    torch.testing.assert_close(a_j, want.sum(2))


def scores():
    x, y = cloud(M, D), cloud(N, D)
    return x, y, Vi(x) | Vj(y), x @ y.T


@pytest.mark.parametrize("axis", [0, 1])
def test_reductions(axis):
    x, y, S, s = scores()
    w, rows = (y, 1) if axis == 1 else (x, 0)
    weight = Vj(w) if axis == 1 else Vi(w)
    soft = torch.softmax(s, axis)
    soft = soft if axis == 1 else soft.T
    kept = (M, N)[1 - rows]
    torch.testing.assert_close(S.logsumexp(axis), s.logsumexp(axis)[:, None])
    mean = S.sumsoftmaxweight(weight, axis)
    torch.testing.assert_close(mean, soft @ w)
    both = S.logsumexp(axis, weight=weight)
    torch.testing.assert_close(both, s.logsumexp(axis)[:, None] + (soft @ w).log())
    for name in ("min", "max"):
        want = getattr(s, name)(axis)
        torch.testing.assert_close(getattr(S, name)(axis), want.values[:, None])
        torch.testing.assert_close(getattr(S, f"arg{name}")(axis), want.indices[:, None])
        values, places = getattr(S, f"{name}_arg{name}")(axis)
        torch.testing.assert_close(values, want.values[:, None])
        torch.testing.assert_close(places, want.indices[:, None])
    values, places = S.Kmin_argKmin(4, axis)
    want = torch.topk(s, 4, axis, largest=False)
    assert values.shape == places.shape == (kept, 4)
    torch.testing.assert_close(values, want.values if axis == 1 else want.values.T)
    torch.testing.assert_close(places, want.indices if axis == 1 else want.indices.T)


def test_the_least_of_vectors_and_of_few_rows():
    x, y = cloud(5, D), cloud(3, D)
    gap = Vi(x) - Vj(y)
    dense = x[:, None] - y
    assert gap.Kmin(2, 1).shape == (5, 2, D)
    torch.testing.assert_close(gap.Kmin(2, 1), dense.sort(1).values[:, :2])
    torch.testing.assert_close(gap.argKmin(2, 0), dense.argsort(0)[:2].movedim(0, 1))
    values, places = gap.sqdist(0.0 * gap).Kmin_argKmin(4, 1)
    assert torch.isinf(values[:, 3]).all() and (places[:, 3] == 0).all()


@pytest.mark.parametrize("m", [0, 1, 5])
def test_products_of_tensors_of_any_number_of_rows(m):
    x, y = cloud(m, 2), cloud(m, D)
    outer = Vi(x).tensorprod(Vi(y))  # which has no rows j but one
    dense = (x[:, :, None] * y[:, None]).reshape(m, 2 * D)
    torch.testing.assert_close(outer.Kmin(1, 1)[:, 0], dense)
    torch.testing.assert_close(outer.min(1), dense)
    torch.testing.assert_close(outer.sum(0)[0], dense.sum(0))


@pytest.mark.parametrize("axis", [np.int64(1), np.int32(-2), torch.tensor(1)])
def test_axes_are_integers_of_any_kind(axis):
    D_ij = Vi(cloud(5, D)).sqdist(Vj(cloud(3, D)))
    torch.testing.assert_close(D_ij.sum(axis), D_ij.sum(1))


def test_parts_are_printed_as_keops_prints_them():
    x = Vi(cloud(5, D))
    for part, formula in (
        (x[1], "Elem(Var(0,3,0),1)"),
        (x.elem(0), "Elem(Var(0,3,0),0)"),
        (x.extract(1, 1), "Extract(Var(0,3,0),1,1)"),
        (x[:, :, 1:2], "Extract(Var(0,3,0),1,1)"),
        (x[1:], "Extract(Var(0,3,0),1,2)"),
    ):
        assert part.formula == formula


def test_derivatives_by_what_does_not_occur_are_0():
    x, y, z = Vi(cloud(5, D)), Vj(cloud(3, D)), Vi(cloud(5, 2))
    assert torch.equal(x.sqdist(y).grad(z, Vj(cloud(3, 1))).sum(1), torch.zeros(5, 2).double())
    assert torch.equal(x.sqdist(y).diff(z, Vi(cloud(5, 2))).sum(1), torch.zeros(5, 1).double())


def test_symbolic_variables_are_given_later():
    x, y = cloud(M, D), cloud(N, D)
    K = (-(Vi(0, D) - Vj(1, D)).sqnorm2() * Pm(2, 1)).exp()
    assert (
        str(K).splitlines()[2] == "    symbolic variables: Var(0, 3, 0), Var(1, 3, 1), Var(2, 1, 2)"
    )
    f = K.sum_reduction(axis=1)
    p = torch.tensor([0.7], dtype=torch.float64)
    want = torch.exp(-0.7 * torch.cdist(x, y) ** 2).sum(1, keepdim=True)
    torch.testing.assert_close(f(x, y, p), want)
    later = ((Vi(x) - Vj(y)) ** 2).sum(1, call=False)
    torch.testing.assert_close(later(), ((x[:, None] - y) ** 2).sum(1))
    with pytest.raises(ValueError, match="3 symbolic variables"):
        f(x, y)
    with pytest.raises(ValueError, match="dimension 3"):
        f(x[:, :2], y, p)


def test_variables_of_one_side_count_all_rows_of_the_other():
    x, y = cloud(M, D), cloud(N, D)
    both = (Vi(x) - Vj(y)).concat(Vi(x))
    torch.testing.assert_close(both.extract(D, D).sum(1), N * x)
    torch.testing.assert_close(both.extract(D, D).sum(0), x.sum(0).expand(N, D))


def test_complex_numbers():
    z = torch.complex(cloud(M, 1, D), cloud(M, 1, D) + 1)
    y = cloud(1, N, D)
    Z, Y = LazyTensor(z), LazyTensor(y)
    for lazy, dense in (
        (Z * Y, z * y),
        (Y - Z, y - z),
        (Z / (Z + Y), z / (z + y)),
        ((Z * Y).exp(), (z * y).exp()),
        ((Z * Y).log(), (z * y).log()),
        ((Z * Y) ** 2, (z * y) ** 2),
        (2j * (Y * Z), 2j * (y * z)),
        (Y.exp1j() * Z, torch.exp(1j * y) * z),
        ((Z * Y).conj()[1], (z * y).conj()[..., 1:2]),
    ):
        assert lazy.is_complex and lazy.dtype == "complex128"
        torch.testing.assert_close(lazy.sum(1), dense.expand(M, N, -1).sum(1))
    for lazy, dense in (
        ((Z * Y).real, (z * y).real),
        (abs(Z * Y), abs(z * y)),
        ((Z * Y).angle(), (z * y).angle()),
    ):
        torch.testing.assert_close(lazy.sum(0), dense.sum(0))


def test_solve():
    x, b = cloud(M, D), cloud(M, 2)
    K = (-Vi(x).sqdist(Vj(x))).exp()
    dense = torch.exp(-(torch.cdist(x, x) ** 2)) + 0.5 * torch.eye(M, dtype=x.dtype)
    torch.testing.assert_close(K.solve(b, alpha=0.5, eps=1e-12), torch.linalg.solve(dense, b))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_solutions_later_and_of_symbolic_variables(dtype):
    x, b = cloud(M, D, dtype=dtype), cloud(M, 2, dtype=dtype)
    dense = torch.exp(-4 * torch.cdist(x.double(), x.double()) ** 2) + torch.eye(M).double() / 10
    want = torch.linalg.solve(dense, b.double()).to(dtype)
    K = (-4 * Vi(x).sqdist(Vj(x))).exp()
    how = {"alpha": 0.1, "eps": 1e-13}
    gap = float(want.abs().max()) * (1e-5 if dtype == torch.float32 else 1e-10)
    unknown = Vj(0, 2)
    for got in (
        K.solve(Vi(b), call=False, **how)(),
        K.solve(Vi(0, 2), **how)(b),
        (K * unknown).solve(b, var=unknown, **how),
        (unknown * K).solve(Vi(0, 2), var=unknown, **how)(b),
        K.T.solve(Vj(b), backend="CPU", **how),
    ):
        assert got.dtype == dtype
        torch.testing.assert_close(got, want, rtol=0, atol=gap)
    later = (-4 * Vi(1, D).sqdist(Vj(2, D))).exp().solve(Vi(0, 2), **how)
    torch.testing.assert_close(later(b, x, x), want, rtol=0, atol=gap)
    assert "reduction: Solve (axis=1)" in str(later)


def test_what_cannot_be_solved_is_refused():
    x, b = cloud(M, D), cloud(M, D)
    with pytest.raises(UnsupportedError, match="one number for each pair"):
        (Vi(x) - Vj(x)).solve(b)
    with pytest.raises(UnsupportedError, match="one number for each pair"):
        (Vi(x) - Vj(0, D)).solve(b, var=Vj(0, D))
    with pytest.raises(ValueError, match="no formula"):
        Vi(x).sqdist(Vj(x)).solve(Vi(b) * 2)
    with pytest.raises(UnsupportedError, match="no batches"):
        LazyTensor(cloud(2, M, 1, D)).sqdist(LazyTensor(cloud(2, 1, M, D))).solve(cloud(2, M, 1))


def test_solutions_in_float32_are_rounded():
    x, b = (torch.rand(500, 2, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    x.requires_grad_()
    K = (-50 * Vi(x).sqdist(Vj(x))).exp()
    wide = x.detach().double()
    dense = torch.exp(-50 * ((wide[:, None] - wide) ** 2).sum(-1)) + torch.eye(500).double() / 100
    got = K.solve(b, alpha=0.01)
    want = torch.linalg.solve(dense, b.double())
    assert (got - want).abs().max() < 1e-4 * want.abs().max()
    [g] = torch.autograd.grad(got.sum(), x)
    assert g.dtype == torch.float32 and torch.isfinite(g).all()


def test_copies_and_pickles_compute_the_same():
    x, y = cloud(M, D), cloud(N, D)
    K = (-Vi(x).sqdist(Vj(y))).exp()
    for other in (copy.deepcopy(K), pickle.loads(pickle.dumps(K))):
        torch.testing.assert_close(other.sum(1), K.sum(1))


def test_scores_of_minus_infinity_are_left_out():
    s = cloud(M, N)
    s[:, 0] = -torch.inf
    lazy = LazyTensor(cloud(M, 1, 1)) * 0 + LazyTensor(s[:1, :, None])
    torch.testing.assert_close(lazy.logsumexp(1), s[:1].logsumexp(1)[:, None].expand(M, 1))


def test_powers_are_as_precise_as_their_dtype():
    x = cloud(M, 1, D)
    torch.testing.assert_close((LazyTensor(x) ** 1.7).sum(1), (x**1.7)[:, 0], rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: LazyTensor(cloud(3, 4, 5)), ValueError, "shape"),
        (lambda: LazyTensor(cloud(3, 4)), ValueError, "axis=0"),
        (lambda: LazyTensor("x"), TypeError, "str"),
        (lambda: LazyTensor(torch.zeros(3, 1, 2, dtype=torch.int64)), ValueError, "int64"),
        (lambda: Vi(cloud(3, 2)) | Vj(cloud(4, 3)), ValueError, "same dimension"),
        (lambda: Vi(cloud(3, 2)) + Vi(cloud(4, 2)), ValueError, "ni"),
        (lambda: Vi(cloud(3, 2)) + Vj(cloud(4, 2).float()), ValueError, "dtype"),
        (lambda: (Vi(cloud(3, 2)) - Vj(cloud(4, 2))).sum(5), ValueError, "axis"),
        (lambda: Vi(cloud(3, 2))[2], ValueError, "out of bounds"),
        (lambda: (Vi(cloud(3, 2)) - Vj(cloud(4, 2))) @ cloud(4), ValueError, "K @ v"),
        (lambda: Vi(cloud(3, 2)).sum(0, backend="TPU"), ValueError, "TPU"),
        (lambda: Vi(cloud(3, 2)).sum(0, out=torch.zeros(2)), ValueError, "out="),
        (lambda: Vi(cloud(3, 2)).sum(0, colour=1), TypeError, "colour"),
    ],
)
def test_what_has_no_meaning_is_refused(make, error, told):
    with pytest.raises(error, match=told):
        make()


def test_complex_lists_and_parameters():
    z, y = torch.complex(cloud(M, 1, D), cloud(M, 1, D)), cloud(1, N, D)
    got = (LazyTensor(y) * LazyTensor([1j, 2.0, 3 - 1j])).sum(1)
    torch.testing.assert_close(got, (y * torch.tensor([1j, 2, 3 - 1j], dtype=z.dtype)).sum(1))


@pytest.mark.parametrize(
    "call",
    [
        lambda z, w: z.sqnorm2(),
        lambda z, w: z.norm2(),
        lambda z, w: z.sqdist(w),
        lambda z, w: z | w,
        lambda z, w: z < w,
        lambda z, w: z.relu(),
        lambda z, w: z.min(),
        lambda z, w: z.tensorprod(w),
        lambda z, w: z.argmin(0),
        lambda z, w: z.logsumexp(0),
        lambda z, w: z.keops_kron(w, (3,), (3,)),
    ],
)
def test_what_complex_numbers_lack_is_refused(call):
    z = LazyTensor(torch.complex(cloud(M, 1, D), cloud(M, 1, D)))
    with pytest.raises((UnsupportedError, ValueError), match="complex"):
        call(z, z * 2)


def test_gradients_are_0_where_distances_are():
    x = cloud(M, D).requires_grad_()
    apart = x.detach() * 1.0
    for value in (
        lambda v: Vi(v).sqdist(Vj(apart)).sqrt().sum(1),
        lambda v: (Vi(v) - Vj(apart)).norm2().sum(1),
        lambda v: (Vi(v) - Vi(apart)).norm2().sum(0),
        lambda v: (Vi(v) - Vi(apart)).square().sqrt().sum(0),
        lambda v: (Vi(v) - Vi(apart)).square().rsqrt().sum(0),
        lambda v: (Vi(v) - Vi(apart)).normalize().sum(0),
    ):
        [g] = torch.autograd.grad(value(x).sum(), x)
        assert torch.isfinite(g).all()


@pytest.mark.parametrize(("m", "n"), [(0, 5), (5, 0), (0, 0), (1, 1), (1, 5)])
def test_few_rows_and_none(m, n):
    x, y = cloud(m, D), cloud(n, D)
    S, s = Vi(x) | Vj(y), x @ y.T
    whole = LazyTensor(x[:, None]) | LazyTensor(y[None])
    assert whole.shape == S.shape == (m, n)
    torch.testing.assert_close(whole.sum(1), s.sum(1, keepdim=True))
    torch.testing.assert_close(whole.sum(0), s.sum(0)[:, None])
    torch.testing.assert_close(S.sum(1), s.sum(1, keepdim=True))
    torch.testing.assert_close(S.logsumexp(0), s.logsumexp(0)[:, None])
    if n:
        torch.testing.assert_close(S.argmin(1), s.argmin(1, keepdim=True))
    else:
        with pytest.raises(ValueError, match="empty"):
            S.argmin(1)


def test_options_that_do_nothing_else_and_those_that_are_not_there():
    x, y = cloud(M, D), cloud(N, D)
    K = (-Vi(x).sqdist(Vj(y))).exp()
    same = {"backend": "CPU", "device_id": -1, "enable_chunks": False, "use_fast_math": False}
    for more in (same, {"use_double_acc": True}, {"sum_scheme": "kahan_scheme"}):
        torch.testing.assert_close(K.sum(1, **more), K.sum(1))
    with pytest.raises(ValueError, match="ranges_i has dtype object"):
        K.sum(1, ranges=(None,) * 6)
    with pytest.raises(UnsupportedError, match="optional_flags="):
        K.sum(1, optional_flags=["-O3"])
    with pytest.raises(ValueError, match="out= takes one array"):
        K.min_argmin(1, out=torch.empty(M, 1))
