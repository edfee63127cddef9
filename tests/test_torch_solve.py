"""Gradients of solutions of linear systems, beside those of torch.linalg.solve."""

import numpy as np
import pytest
import scipy.sparse.linalg as sparse
import torch
from torch.func import grad

from duckkeops import ConvergenceError, LazyArray, UnsupportedError
from duckkeops.linalg import eye, solve

pytestmark = pytest.mark.usefixtures("quick_compiler")
N = 7


def kernel(wrap, x, s):
    points = wrap(x)
    return torch.exp(-s * ((points[:, None] - points[None]) ** 2).sum(-1))


def dense(K, b, ridge):
    return torch.linalg.solve(K + torch.diag(torch.as_tensor(ridge).expand(len(K)).to(K)), b)


def lazy(K, b, ridge):
    return solve(K, b, ridge=ridge, rtol=1e-13)


def plain(t):
    return t


def leaves(columns=(), ridge=(), dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    x, b = (torch.randn(N, *s, generator=g, dtype=torch.float64) for s in ((2,), columns))
    r, s = torch.rand(ridge, generator=g, dtype=torch.float64) + 0.5, torch.tensor(0.7)
    return [t.to(dtype).requires_grad_() for t in (x, b, r, s)]


def solution(how):
    """how, of a kernel over points, a right-hand side, a ridge and a scale."""
    wrap = LazyArray if how is lazy else plain
    return lambda x, b, ridge, s: how(kernel(wrap, x, s), b, ridge)


def orders(f, given, count=3):
    """f of the given tensors, and gradients of the first orders of random sums of it."""
    g = torch.Generator().manual_seed(1)
    found = level = [f(*given)]
    for _ in range(count):
        weights = [torch.rand(t.shape, generator=g, dtype=torch.float64) for t in level]
        total = sum((t.real * w).sum() for t, w in zip(level, weights, strict=True))
        level = list(torch.autograd.grad(total, given, create_graph=True))
        found = found + level
    return found


def assert_close(found, wanted, tolerance=1e-11):
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("ridge", [(), (N,)])
@pytest.mark.parametrize("columns", [(), (3,)])
def test_gradients_of_every_order(columns, ridge):
    given = leaves(columns, ridge)
    assert_close(orders(solution(lazy), given), orders(solution(dense), given))


def test_gradcheck():
    f, given = solution(lazy), leaves((2,))
    assert torch.autograd.gradcheck(f, given)
    assert torch.autograd.gradgradcheck(f, given)


def test_float32():
    given, exact = leaves((2,), dtype=torch.float32), leaves((2,))
    f = solution(lazy)
    with pytest.raises(ConvergenceError):  # the tolerance of the call is that of its gradients
        f(*given)
    found = orders(
        lambda x, b, r, s: solve(kernel(LazyArray, x, s), b, ridge=r, rtol=1e-6), given, 2
    )
    assert all(t.dtype == torch.float32 for t in found)
    assert_close(found, orders(solution(dense), exact, 2), 2e-4)


def test_two_dtypes():
    x, b, r, s = leaves((2,))
    small = x.detach().float().requires_grad_()
    value = lazy(kernel(LazyArray, small, s.float()), b, r)
    wanted = dense(kernel(plain, small, s.float()).double(), b, r)
    assert value.dtype == torch.float64
    g = torch.ones_like(b)
    found = torch.autograd.grad(value, [small, b, s], g)
    assert found[0].dtype == torch.float32
    assert_close(found, torch.autograd.grad(wanted, [small, b, s], g), 1e-5)


def test_some_inputs():
    """Numbers and tensors that require no gradient, and what the matrix does not depend on."""
    x, b, _, s = leaves()
    for kept in ([x], [b], [s]):
        given = [t if any(t is k for k in kept) else t.detach() for t in (x, b, s)]
        for ridge in (0.5, torch.tensor(0.5)):
            found, wanted = (
                torch.autograd.grad(
                    how(kernel(wrap, given[0], given[2]), given[1], ridge).sum(), kept
                )
                for how, wrap in ((lazy, LazyArray), (dense, plain))
            )
            assert_close(found, wanted)


def test_a_matrix_of_joined_and_dense_parts():
    given = leaves()

    def joined(x, b, r, s, wrap=LazyArray):
        parts = [kernel(wrap, x, s)[:3], kernel(wrap, x, s)[3:]]
        return (lazy if wrap is LazyArray else dense)(torch.cat(parts, 0), b, r)

    assert_close(orders(joined, given, 2), orders(lambda *a: joined(*a, wrap=plain), given, 2))
    x, b, r, s = given

    ones = torch.eye(N).double()
    assert_close(
        orders(lambda x, r: lazy(kernel(LazyArray, x, s) + r * eye(N, like=b), b, 0.0), [x, r], 2),
        orders(lambda x, r: dense(kernel(plain, x, s) + r * ones, b, 0.0), [x, r], 2),
    )


def test_a_stored_matrix():
    _, b, r, _ = leaves()
    g = torch.Generator().manual_seed(0)
    half = torch.randn(N, N, generator=g, dtype=torch.float64)
    K = (half @ half.T).requires_grad_()
    assert_close(orders(lazy, [K, b, r], 2), orders(dense, [K, b, r], 2), 1e-9)


def test_hermitian_matrices():
    x, _, r, s = leaves()
    b = torch.complex(*torch.randn(2, N, 2, dtype=torch.float64)).requires_grad_()

    def turned(wrap, x, s):
        X = wrap(x)
        return kernel(wrap, x, s) * torch.exp(1j * (X[:, None, 0] - X[None, :, 0]))

    found, wanted = (
        orders(lambda x, b, r, s, h=how, w=wrap: h(turned(w, x, s), b, r), [x, b, r, s], 2)
        for how, wrap in ((lazy, LazyArray), (dense, plain))
    )
    assert_close(found, wanted, 1e-10)


def test_torch_func():
    x, b, r, s = (t.detach() for t in leaves())
    weights = torch.linspace(0, 1, 2 * N, dtype=torch.float64).reshape(N, 2)
    found, wanted = (
        [
            grad(lambda x, f=f: f(x, b, r, s).square().sum())(x),
            grad(lambda x, f=f: (weights * grad(lambda x: f(x, b, r, s).square().sum())(x)).sum())(
                x
            ),
        ]
        for f in (solution(lazy), solution(dense))
    )
    assert_close(found, wanted)


def test_options_hold_for_gradients_too():
    given, steps, applied = leaves(), [], []
    x, b, r, s = given

    def precondition(R):
        applied.append(R.requires_grad)
        return R / 2

    value = solve(
        kernel(LazyArray, x, s), b, ridge=r, x0=b, rtol=1e-12,
        preconditioner=precondition, callback=steps.append,
    )  # fmt: skip
    before, seen = len(applied), len(steps)
    found = torch.autograd.grad(value.sum(), given)
    assert len(applied) > before and not any(applied)
    assert len(steps) == seen > 0  # the callback is told of x alone
    assert_close(found, torch.autograd.grad(solution(dense)(*given).sum(), given))


def test_without_gradients():
    x, b, r, s = leaves()
    K = kernel(LazyArray, x, s)
    with torch.no_grad():
        assert not solve(K, b, ridge=r).requires_grad
    start = b.clone()
    constant = [t.detach() for t in (x, b, r, s)]
    found = solve(kernel(LazyArray, constant[0], constant[3]), constant[1], ridge=0.5, x0=start)
    assert not found.requires_grad  # where it begins does not change what is found


def test_what_other_matrices_hold_is_not_differentiated():
    x, b, r, s = leaves()
    K = kernel(plain, x, s)

    class Other:
        shape = K.shape

        def __matmul__(self, v):
            return K @ v

    with pytest.raises(UnsupportedError, match="solve has no gradient by what Other holds"):
        solve(Other(), b, ridge=r)
    with torch.no_grad():
        assert_close([solve(Other(), b, ridge=r, rtol=1e-12)], [dense(K, b, r)])
    K = K.detach()
    found, wanted = (
        orders(f, [b, r], 2)
        for f in (lambda b, r: lazy(Other(), b, r), lambda b, r: dense(K, b, r))
    )
    assert_close(found, wanted)
    fixed = K.numpy()
    operator = sparse.LinearOperator((N, N), matvec=lambda v: fixed @ v, dtype=np.float64)
    np.testing.assert_allclose(
        solve(operator, b.detach().numpy(), ridge=r.item(), rtol=1e-12),
        dense(K, b, r).detach().numpy(),
    )
