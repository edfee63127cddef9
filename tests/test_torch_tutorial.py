"""The tutorial of pykeops in torch's spelling: one function for lazy arrays and for tensors.

https://www.kernel-operations.io/keops/_auto_tutorials/a_LazyTensors/plot_lazytensors_a.html
"""

import pytest
import torch

from duckkeops import LazyArray
from duckkeops.engines import cpu

LARGE = 10_000, 20_000
SIZES = [(1, 1), (7, 5), (64, 130), (300, 200)]
SCALE = {torch.float64: 1e-9, torch.float32: 1e-4}  # of the result's greatest entry
ROWS = slice(None, None, 199)  # of the large results, which are checked

each_dtype = pytest.mark.parametrize("dtype", SCALE, ids=str)
each_size = pytest.mark.parametrize("size", SIZES, ids=str)
needs_compiler = pytest.mark.skipif(not cpu.is_available(), reason="no C compiler here")


def dense(tensor):
    return tensor


def wide(tensors):
    """Copies in float64, which require gradients where these do."""
    return [t.detach().double().requires_grad_(t.requires_grad) for t in tensors]


def assert_close(got, expected, dtype):
    assert got.dtype == dtype and got.shape == expected.shape
    assert torch.isfinite(expected).all()
    gap = (got.detach().double() - expected.detach()).abs().max()
    assert gap <= SCALE[dtype] * expected.abs().max()


# -- a kernel product and its gradients ------------------------------------------------------------


def laplacian(wrap, x, y, b):
    """The product, the gradient of its squares, and the gradient of that one's exponential."""
    x_i, y_j = wrap(x[:, None, :]), wrap(y[None, :, :])
    D_ij = ((x_i - y_j) ** 2).sum(-1).sqrt()
    K_ij = (-D_ij).exp()
    a_i = K_ij @ b
    [g_i] = torch.autograd.grad((a_i**2).sum(), [x], create_graph=True)
    [h_i] = torch.autograd.grad(g_i.exp().sum(), [x], create_graph=True)
    return a_i, g_i, h_i


def signal(size, dtype):
    """Points in ten dimensions; values so small that exp(g_i) stays below the greatest float32."""
    m, n = size
    torch.manual_seed(0)
    x, y, b = torch.randn(m, 10), torch.randn(n, 10), torch.randn(n, 4) / n**0.5
    return x.to(dtype).requires_grad_(), y.to(dtype), b.to(dtype)


@each_size
@each_dtype
def test_kernel_product_and_two_gradients(size, dtype):
    given = signal(size, dtype)
    reference = laplacian(dense, *wide(given))
    for got, expected in zip(laplacian(LazyArray, *given), reference, strict=True):
        assert_close(got, expected, dtype)


def test_the_second_gradient_is_differentiated_again():
    x, y, b = signal((7, 5), torch.float64)
    thirds = []
    for wrap in (LazyArray, dense):
        *_, h_i = laplacian(wrap, x, y, b)
        thirds.append(torch.autograd.grad((h_i**2).sum(), [x])[0])
    assert_close(*thirds, torch.float64)


@needs_compiler
def test_kernel_product_and_two_gradients_of_many_points():
    x, y, b = signal(LARGE, torch.float32)
    results = laplacian(LazyArray, x, y, b)
    some = x.detach()[ROWS].requires_grad_()  # a row of each result is a matter of one row of x
    reference = laplacian(dense, *wide([some, y, b]))
    for got, expected in zip(results, reference, strict=True):
        assert_close(got[ROWS], expected, torch.float32)


# -- nearest neighbours ----------------------------------------------------------------------------


def nearest(x, y):
    """Distances to the nearest rows by min, and those gathered at argmin."""
    D_ij = ((LazyArray(x)[:, None, :] - LazyArray(y)[None, :, :]) ** 2).sum(-1)
    to_nn = torch.min(D_ij, dim=1).values
    s_i = D_ij.argmin(dim=1).view(-1)
    return to_nn, s_i, ((x - y[s_i, :]) ** 2).sum(-1)


def gradients(value, *tensors):
    """Of first order in each tensor, and of second order along the first."""
    first = torch.autograd.grad(value.square().sum(), tensors, create_graph=True)
    second = torch.autograd.grad(first[0].exp().sum(), tensors)
    return *first, *second


@pytest.mark.parametrize(
    "size", [*SIZES, pytest.param(LARGE, marks=needs_compiler, id="large")], ids=str
)
@each_dtype
def test_min_and_argmin_give_the_same_distances_and_gradients(size, dtype):
    torch.manual_seed(0)
    x = torch.rand(size[0], 3).to(dtype).requires_grad_()
    y = torch.rand(size[1], 3).to(dtype).requires_grad_()
    to_nn, s_i, to_nn_alt = nearest(x, y)
    assert to_nn.shape == s_i.shape == (size[0],) and s_i.dtype == torch.int64
    assert (to_nn - to_nn_alt).abs().max() <= 6e-8
    each = zip(gradients(to_nn, x, y), gradients(to_nn_alt, x, y), strict=True)
    for got, expected in each:
        assert_close(got, expected.double(), dtype)


@each_size
def test_min_and_its_gradients_are_those_of_all_pairs(size):
    torch.manual_seed(0)
    x = torch.rand(size[0], 3, dtype=torch.float64, requires_grad=True)
    y = torch.rand(size[1], 3, dtype=torch.float64, requires_grad=True)
    to_nn, s_i, _ = nearest(x, y)
    expected = torch.min(((x[:, None, :] - y[None, :, :]) ** 2).sum(-1), dim=1)
    assert torch.equal(s_i, expected.indices)
    for got, other in zip(gradients(to_nn, x, y), gradients(expected.values, x, y), strict=True):
        assert_close(got, other, torch.float64)


def test_nearest_corner_of_the_unit_square():
    x = torch.tensor([[0.1, 0.2], [0.9, 0.8], [0.4, 0.9]])
    y = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    D_ij = ((LazyArray(x)[:, None, :] - LazyArray(y)[None, :, :]) ** 2).sum(-1)
    assert D_ij.argmin(dim=1).tolist() == [0, 1, 2]


# -- batches and other formulas --------------------------------------------------------------------

A, B, M, N, D = 7, 3, 20, 30, 10


def batches(dtype):
    torch.manual_seed(0)
    shapes = ((A, B, M, 1, D), (1, 1, M, 1, D), (1, B, 1, N, D), (A, 1, 1, 1, 1))
    return [(torch.rand(shape) + 0.1).to(dtype).requires_grad_() for shape in shapes]


def batch(wrap, x, l, y, s):
    x_i, l_i, y_j, s = map(wrap, (x, l, y, s))
    D_ij = ((l_i * x_i - y_j) ** 2).sum(-1)
    K_ij = -1.6 * D_ij / (1 + s[..., 0] ** 2)
    return K_ij.sum(dim=3)


def formula(wrap, x, l, y, s):
    x_i, l_i, y_j, s = map(wrap, (x, l, y, s))
    inner = (x_i * y_j).sum(-1, keepdim=True)
    F_ij = (x_i**1.5 + y_j / l_i).cos() - inner + x_i[:, :, :, :, 2:3] * s.relu() * y_j
    return F_ij.sum(dim=2)


@pytest.mark.parametrize(("function", "shape"), [(batch, (A, B, M)), (formula, (A, B, N, D))])
@each_dtype
def test_batches(function, shape, dtype):
    lazy, wanted = batches(dtype), wide(batches(dtype))
    got, expected = function(LazyArray, *lazy), function(dense, *wanted)
    assert got.shape == shape
    assert_close(got, expected, dtype)
    first = torch.autograd.grad(got.square().sum(), lazy)
    reference = torch.autograd.grad(expected.square().sum(), wanted)
    for got, expected in zip(first, reference, strict=True):
        assert_close(got, expected, dtype)
