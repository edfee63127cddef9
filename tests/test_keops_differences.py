"""Where KeOps 2.3 is wrong, silent or refuses, and what is right here, against dense float64.

The first part follows what its documentation and code say it cannot do, in twenty points; the
second the numbers that it gets wrong. Of the points, 8 (fast mathematics) and 10 (GPU_2D) need a
device, 18 (streams) is in test_gpu.py, and 19 is about more than 12 devices. Block-sparse
reductions, `cluster` and what is imported have files of their own.
"""

import copy
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from duckkeops import LazyArray, evaluate
from duckkeops.config import current
from duckkeops.engines import cpu
from duckkeops.errors import ConvergenceError, UnsupportedError
from duckkeops.keops import numpy as of_numpy
from duckkeops.keops.torch import Genred, LazyTensor, Pm, Vi, Vj

needs_compiler = pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")


def on_device(test):
    missing = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
    return pytest.mark.gpu(missing(test))


ROOT = Path(__file__).parent.parent
M, N, D = 7, 11, 3


def cloud(*shape, dtype=torch.float64):
    seed = torch.Generator().manual_seed(sum(shape))
    return torch.rand(*shape, generator=seed, dtype=torch.float64).to(dtype)


def clouds(dtype=torch.float64):
    """x, y, and the dense squared distances in float64."""
    x, y = cloud(M, D, dtype=dtype), cloud(N, D, dtype=dtype)
    return x, y, ((x.double()[:, None] - y.double()) ** 2).sum(-1)


# -- the twenty points -----------------------------------------------------------------------------


def test_1_axes_may_be_negative_and_collapse_for_lazy_arrays():
    x, y, d = clouds()
    lazy = Vi(x).sqdist(Vj(y))
    torch.testing.assert_close(lazy.sum(-2), d.sum(1, keepdim=True))
    torch.testing.assert_close(lazy.argmin(dim=-3), d.argmin(0)[:, None])
    with pytest.raises(ValueError, match=r"Sum is over axis 0 \(i\) or 1 \(j\), and got \(0, 1\)"):
        lazy.sum((0, 1))
    ours = ((LazyArray(x)[:, None, :] - LazyArray(y)[None, :, :]) ** 2).sum(-1)
    torch.testing.assert_close(ours.sum(1), d.sum(1))
    torch.testing.assert_close(ours.sum((0, 1)), d.sum())


def test_2_three_symbolic_axes_slices_and_dense_views_are_those_of_lazy_arrays():
    x, y, d = clouds()
    lazy = ((LazyArray(x)[:, None, :] - LazyArray(y)[None, :, :]) ** 2).sum(-1)
    b = cloud(M, 2)
    torch.testing.assert_close((lazy @ lazy.T) @ b, d @ d.T @ b)
    torch.testing.assert_close(lazy[2:5, ::2].sum(1), d[2:5, ::2].sum(1))
    torch.testing.assert_close(lazy.to_dense(), d)
    K = Vi(x).sqdist(Vj(y))
    with pytest.raises(UnsupportedError, match=r"K @ \(L @ v\)"):
        K @ K.T
    with pytest.raises(TypeError, match="not stored"):
        np.asarray(K)
    with pytest.raises(TypeError, match="not iterable"):
        list(K)


@needs_compiler
def test_3_sizes_options_names_and_numbers_compile_nothing_new():
    def run(m, n, sigma, name="x", **how):
        x, y = cloud(m, 5), cloud(n, 5)
        f = Genred(f"Exp(-SqDist({name}, y) * g)", [f"{name} = Vi(5)", "y = Vj(5)", "g = Pm(1)"])
        f(x, y, torch.tensor([sigma], dtype=torch.float64), **how)
        (Vi(x).sqdist(Vj(y)) * (sigma + 0.1)).sum(1, **how)

    run(40, 50, 0.3)
    met = set(evaluate._kernels)
    run(41, 50, 0.3)
    run(40, 60, 0.7)
    run(40, 50, 0.3, name="points")
    run(40, 50, 0.3, device_id=0, enable_chunks=False, backend="CPU", use_fast_math=False)
    assert set(evaluate._kernels) == met


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_4_what_does_not_fit_is_refused_before_memory_is_read_or_written(library):
    x, y, d = clouds()
    if library == "numpy":
        from duckkeops.keops.numpy import Genred as make

        x, y, single = x.numpy(), y.numpy(), np.float32
        empty = np.empty
    else:
        make, single, empty = Genred, torch.float32, torch.empty
    f = make("SqDist(x, y) * w", ["x = Vi(3)", "y = Vj(3)", "w = Vj(1)"], axis=1)
    w = y[:, :1]
    np.testing.assert_allclose(f(x, y, w)[:, 0], d.numpy() @ np.asarray(y)[:, 0])
    for args, told in (
        ((x, y[:, :2], w), "dim = 3"),
        ((x, y, w[:-1]), "rows"),
        ((x, y.astype(single) if library == "numpy" else y.to(single), w), "several dtypes"),
        ((x, y), "3 arguments"),
    ):
        with pytest.raises(ValueError, match=told):
            f(*args)
    for shape in ((M - 1, 1), (M, 2), (1, 1), (M,)):
        out = empty(shape, dtype=x.dtype)
        with pytest.raises(ValueError, match="out= must have shape"):
            f(x, y, w, out=out)
    with pytest.raises(ValueError, match="out= must have shape"):
        f(x, y, w, out=empty((M, 1), dtype=single))


def test_5_indices_are_integers_past_2_to_the_24():
    n = 2**24 + 3
    scores = torch.zeros(n, 1)
    scores[-1] = 1
    lazy = Vi(torch.ones(1, 1)) * Vj(scores)
    assert lazy.argmax(1).item() == n - 1
    assert lazy.max_argmax(1)[1].item() == n - 1
    assert (-lazy).argKmin(2, 1).tolist() == [[n - 1, 0]]


def test_5_indices_are_integers_past_2048_in_half_precision():
    scores = torch.zeros(5001, 1, dtype=torch.float16)
    scores[-2] = 1
    assert (Vi(torch.ones(1, 1, dtype=torch.float16)) * Vj(scores)).argmax(1).item() == 4999


@pytest.mark.parametrize("masked", ["first", "all", "last", "none"])
def test_6_logsumexp_takes_masks_of_minus_infinity(masked):
    x, y, d = clouds()
    bias = torch.zeros(N, 1, dtype=torch.float64)
    bias[{"first": 0, "all": slice(None), "last": -1, "none": slice(0)}[masked]] = -torch.inf
    scores = Vj(bias) - Vi(x).sqdist(Vj(y))
    want = torch.logsumexp(bias.T - d, 1, keepdim=True)
    torch.testing.assert_close(scores.logsumexp(1), want)
    if masked != "all":
        torch.testing.assert_close(
            scores.sumsoftmaxweight(Vj(y), 1), torch.softmax(bias.T - d, 1) @ y
        )


def test_6_nan_is_kept_by_extremes():
    x, y, _ = clouds()
    x[2, 1] = torch.nan
    lazy, dense = Vi(x).sqdist(Vj(y)), ((x[:, None] - y) ** 2).sum(-1)
    for name in ("min", "max"):
        want = getattr(dense, name)(0)
        torch.testing.assert_close(getattr(lazy, name)(0), want.values[:, None], equal_nan=True)
        assert (getattr(lazy, f"arg{name}")(0) == 2).all()
    with pytest.raises(ValueError, match="empty"):
        Vi(x[:0]).sqdist(Vj(y)).argmin(0)


def test_7_float64_is_exact():
    x = cloud(M, D)
    rows = Vi(x)
    torch.testing.assert_close((rows**1.7).sum(1), x**1.7, rtol=1e-15, atol=0)
    torch.testing.assert_close((rows ** Vi(x + 1)).sum(1), x ** (x + 1), rtol=1e-15, atol=0)
    big = 2**24 + 1  # not a float32
    got = Genred(f"IntCst({big}) * x", ["x = Vi(3)"], axis=1)(x)
    torch.testing.assert_close(got, big * x, rtol=1e-15, atol=0)
    torch.testing.assert_close((rows * big).sum(1), big * x, rtol=1e-15, atol=0)


def test_7_soft_dynamic_time_warping_is_exact_and_differentiable_by_gamma():
    x, y = cloud(2, 2).requires_grad_(), cloud(3, 2)
    gamma = torch.tensor([0.01], dtype=torch.float64, requires_grad=True)
    cost = (x[:, None, :, None] - y[None, :, None, :]) ** 2
    right, down = cost[..., 0, 0] + cost[..., 0, 1], cost[..., 0, 0] + cost[..., 1, 0]
    before = torch.stack([right, down, cost[..., 0, 0]])
    want = (cost[..., 1, 1] - gamma * torch.logsumexp(-before / gamma, 0)).sum(1, keepdim=True)
    got = Vi(x).softdtw_sqdist(Vj(y), Pm(gamma)).sum(1)
    torch.testing.assert_close(got, want, rtol=1e-13, atol=0)
    for one, other in zip(
        *(torch.autograd.grad(v.sin().sum(), (x, gamma)) for v in (got, want)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_7_splines_take_float64():
    knots, t = torch.arange(6, dtype=torch.float64), cloud(M, 1) * 2 + 2
    hats = (1 - (t - torch.arange(1, 5)).abs()).clamp(min=0)  # of order 1
    got = LazyTensor(knots).bspline(Vi(t), 1).sum(1)
    torch.testing.assert_close(got, hats, rtol=1e-14, atol=1e-15)


@on_device
def test_8_no_function_is_of_fast_mathematics():
    angles, near_1 = (
        torch.linspace(-60, 60, 2001)[:, None],
        torch.linspace(1.001, 1.1, 100)[:, None],
    )
    for name, x in (("sin", angles), ("cos", angles), ("log", near_1)):
        want = getattr(x.double(), name)()
        pairs = Vi(x.cuda()) + Vj(torch.zeros(300, 1, device="cuda"))
        got = getattr(pairs, name)().max(1).cpu().double()
        scale = want if name == "log" else 1.0
        assert ((got - want).abs() / scale).max() < 1e-6, name  # __sinf, __logf: 1e-5 and more


@pytest.mark.parametrize("axis", [0, 1])
def test_9_the_values_of_kmin_are_differentiable(axis):
    x, y, _ = clouds()
    x.requires_grad_()
    dense = ((x[:, None] - y) ** 2).sum(-1)
    want = dense.sort(axis).values
    want = want[:, :4] if axis == 1 else want[:4].T
    weights = cloud(*want.shape)
    got = Vi(x).sqdist(Vj(y)).Kmin(4, axis)
    torch.testing.assert_close(got, want)
    [one], [other] = (torch.autograd.grad((v * weights).sum(), x) for v in (got, want))
    torch.testing.assert_close(one, other)
    assert Vi(x).sqdist(Vj(y)).Kmin(N + 2, 1)[:, N:].isinf().all()  # as in KeOps


@on_device
@pytest.mark.parametrize("scheme", ["auto", "kahan_scheme"])
def test_10_the_backend_of_two_axes_takes_batches_and_all_schemes(scheme):
    x, y = cloud(2, 5, 1, D), cloud(2, 1, 9000, D)
    want = ((x - y) ** 2).sum(-1).sum(2)[..., None]
    lazy = LazyTensor(x.cuda()).sqdist(LazyTensor(y.cuda()))
    for backend in ("GPU_1D", "GPU_2D"):
        got = lazy.sum(3, backend=backend, sum_scheme=scheme)
        torch.testing.assert_close(got.cpu(), want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["auto", "CPU"])
def test_11_every_reduction_takes_half_precision_on_the_cpu(dtype, backend):
    x, y, d = clouds(dtype)
    lazy, eps = Vi(x).sqdist(Vj(y)), torch.finfo(dtype).eps
    for got, want in (
        (lazy.sum(1, backend=backend), d.sum(1, keepdim=True)),
        (lazy.min(1), d.amin(1, keepdim=True)),
        (lazy.logsumexp(1), d.logsumexp(1, keepdim=True)),
        (lazy.Kmin(3, 1), d.sort(1).values[:, :3]),
        (lazy.sumsoftmaxweight(Vj(y), 1), torch.softmax(d, 1) @ y.double()),
    ):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), want, rtol=2 * eps, atol=0)
    assert torch.equal(lazy.argmax(1)[:, 0], d.argmax(1))


@pytest.mark.parametrize(
    "call",
    [
        *(lambda z: z.log(), lambda z: z**2, lambda z: z**3, lambda z: z**1.5),
        *(lambda z: z.sqrt(), lambda z: z.cos(), lambda z: z.sin(), lambda z: 1 / z),
    ],
)
def test_12_functions_of_complex_numbers_are_complex(call):
    z, w = (torch.complex(cloud(n, D), cloud(n, D) - 0.5) for n in (M, N))
    lazy = LazyTensor(z[:, None, :]) * LazyTensor(w[None, :, :])
    torch.testing.assert_close(call(lazy).sum(1), call(z[:, None] * w).sum(1))


def test_12_complex_kernels_have_products():
    z, w = (torch.complex(cloud(n, 1), cloud(n, 1)) for n in (M, N))
    K = LazyTensor(z[:, None, :]) * LazyTensor(w[None, :, :])
    for v in (cloud(N), cloud(N, 2), torch.complex(cloud(N, 2), cloud(N, 2))):
        torch.testing.assert_close(K @ v, (z @ w.T) @ v.to(z.dtype))


def test_13_solutions_end():
    y = cloud(N, D)
    with pytest.raises(ConvergenceError):
        (-Vi(y).sqdist(Vj(y))).solve(cloud(N, 1))
    lines = ["x = Vi(3)", "y = Vj(3)", "b = Vj(1)"]
    with pytest.raises(ConvergenceError):
        of_numpy.KernelSolve("-SqDist(x, y) * b", lines, "b", axis=1)(
            *[y.numpy()] * 2, y[:, :1].numpy()
        )


@needs_compiler
def test_14_other_threads_run_during_a_reduction():
    x = torch.rand(20_000, 3)
    lazy = (-Vi(x).sqdist(Vj(x))).exp()
    lazy.sum(1)
    done, ticks = threading.Event(), []

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    other = threading.Thread(target=tick)
    other.start()
    start = time.perf_counter()
    while time.perf_counter() - start < 0.5:
        lazy.sum(1)
    done.set()
    other.join()
    assert len(ticks) > 50  # KeOps: one


CACHED = """
import numpy as np
from duckkeops.keops.numpy import Vi, Vj
x = np.arange(12.0).reshape(4, 3)
print((Vi(x).sqdist(Vj(x)) * 0.25).sum(1)[:, 0].tolist())
"""
RIGHT = "[94.5, 40.5, 40.5, 94.5]\n"


def started(folder, code=CACHED):
    env = {**os.environ, "DUCKKEOPS_CACHE_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code], env=env, text=True, **pipes)


@needs_compiler
def test_15_processes_share_a_cache_and_damaged_files_are_made_again(tmp_path):
    for process in [started(tmp_path) for _ in range(3)]:
        out, error = process.communicate()
        assert out == RIGHT, error
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert files
    for f in files:
        f.write_bytes(b"")
    out, error = started(tmp_path).communicate()
    assert out == RIGHT, error


def test_16_imports_bring_no_torch_and_start_no_program():
    code = """
import subprocess, sys
def started(*args, **kwargs):
    raise AssertionError(f"started {args}")
subprocess.Popen.__init__ = started
import duckkeops.keops.numpy
assert "torch" not in sys.modules and "sympy" not in sys.modules
"""
    out, error = started(ROOT, code).communicate()
    assert not out and not error


def test_17_gradients_of_several_arrays_share_their_formulas():
    x, y, _ = clouds()
    x.requires_grad_(), y.requires_grad_()
    a = (-Vi(x).sqdist(Vj(y))).exp().sum(1)
    want = torch.exp(-((x[:, None] - y) ** 2).sum(-1)).sum(1, keepdim=True)
    for _ in range(3):
        got, dense = (
            torch.autograd.grad(v.sin().sum(), (x, y), create_graph=True) for v in (a, want)
        )
        for one, other in zip(got, dense, strict=True):
            torch.testing.assert_close(one, other)
        a, want = sum(v.sum() for v in got), sum(v.sum() for v in dense)


def test_20_operations_are_compared_strictly():
    import test_keops_formulas as ours

    assert set(ours.OF_KEOPS) <= {*ours.CASES, *ours.DERIVATIVES}


# -- wrong numbers, and refusals without need ------------------------------------------------------


def test_module_parameters_are_variables():
    x, y, d = clouds()
    p = torch.nn.Parameter(x)
    lazy = Vi(p).sqdist(Vj(y)).sum(1)
    torch.testing.assert_close(lazy, d.sum(1, keepdim=True))
    [g] = torch.autograd.grad(lazy.sum(), p)
    torch.testing.assert_close(g, 2 * (N * x - y.sum(0)))


def test_bfloat16_arrays_are_variables_and_integers_are_refused_by_name():
    x, y, d = clouds(torch.bfloat16)
    got = Vi(x).sqdist(Vj(y)).sum(1)
    torch.testing.assert_close(got.double(), d.sum(1, keepdim=True), rtol=0.01, atol=0)
    for dtype in (torch.int64, torch.bool, torch.complex32):
        with pytest.raises(ValueError, match=str(dtype).removeprefix("torch.")):
            Vi(torch.zeros(3, 2, dtype=dtype))


def test_copies_and_pickles_compute():
    x, y, d = clouds()
    K = Vi(x).sqdist(Vj(y))
    for other in (copy.deepcopy(K), pickle.loads(pickle.dumps(K))):
        torch.testing.assert_close(other.sum(1), d.sum(1, keepdim=True))


def test_lists_of_complex_numbers_are_parameters():
    y = cloud(N, 3)
    numbers = torch.tensor([1j, 2.0, 3 - 1j], dtype=torch.complex128)
    torch.testing.assert_close(
        (Vj(y) * LazyTensor([1j, 2.0, 3 - 1j])).sum(1)[0], (y * numbers).sum(0)
    )


def test_0_times_a_lazy_tensor_is_one():
    x, y, _ = clouds()
    for zero in (Vi(x) * 0, 0 * Vi(x), Vi(x) * 0.0):
        assert zero.shape == (M, 1, D)
        torch.testing.assert_close((zero + Vj(y)).sum(1), y.sum(0).expand(M, D))


def test_truth_of_comparisons_is_refused():
    x, y, _ = clouds()
    with pytest.raises(TypeError, match="not true or false"):
        bool(Vi(x) == Vj(y))
    torch.testing.assert_close((Vi(x) < Vj(y)).sum(1), (x[:, None] < y).double().sum(1))


def test_gradients_at_0():
    x = cloud(M, D).requires_grad_()
    with torch.no_grad():
        x[2] = 0
    for call in (
        lambda v: v.sinxdivx(),
        lambda v: v.sinc(),
        lambda v: v.norm2(),
        lambda v: v.square().sqrt(),
    ):
        [g] = torch.autograd.grad(call(Vi(x)).sum(1).sum(), x)
        assert (g[2] == 0).all() and torch.isfinite(g).all()
    t = x.detach().requires_grad_()
    [want] = torch.autograd.grad(torch.sinc(t).sum(), t)
    [got] = torch.autograd.grad(Vi(t).sinc().sum(1).sum(), t)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    "key", [-1, slice(None, None, 2), slice(None, None, -1), [2, 0], slice(-2, None), (..., 1)]
)
def test_entries_by_negative_indices_steps_and_lists(key):
    x, y, _ = clouds()
    want = (
        (x[:, None] - y)[key if isinstance(key, tuple) else (..., key)]
        if key != slice(None, None, -1)
        else (x[:, None] - y).flip(-1)
    )
    want = want[..., None] if want.ndim == 2 else want
    torch.testing.assert_close((Vi(x) - Vj(y))[key].sum(1), want.sum(1))


def test_splines_have_gradients():
    knots, t = torch.linspace(0, 1, 7, dtype=torch.float64), cloud(M, 1).requires_grad_()
    f = LazyTensor(knots).bspline(Vi(t), 2)
    [g] = torch.autograd.grad(f.sum(1).square().sum(), t)
    h = 1e-6
    up, down = (LazyTensor(knots).bspline(Vi((t + s).detach()), 2).sum(1).square() for s in (h, -h))
    torch.testing.assert_close(
        g, ((up - down) / (2 * h)).sum(1, keepdim=True), rtol=1e-6, atol=1e-8
    )


def test_difference_matrices():
    x, y = cloud(M, 3), cloud(N, 2)
    got = Vi(x).difference_matrix(Vj(y)).sum(1)
    torch.testing.assert_close(got, (x[:, None, :, None] - y[None, :, None, :]).flatten(2).sum(1))


def test_matrices_of_gradients_and_traces():
    x, y, d = clouds()
    field = (Vi(x) - Vj(y)) * Vi(x).sqdist(Vj(y))  # first and last variable: both
    gap = x[:, None] - y
    jacobian = (
        d[..., None, None] * torch.eye(D, dtype=x.dtype) + 2 * gap[..., :, None] * gap[..., None, :]
    )
    torch.testing.assert_close(field.grad_matrix(Vi(x)).sum(1), jacobian.sum(1).flatten(1))
    torch.testing.assert_close(field.grad_matrix(Vj(y)).sum(1), -jacobian.sum(1).flatten(1))
    trace = torch.einsum("ijkk->i", jacobian)[:, None]
    torch.testing.assert_close(field.divergence(Vi(x)).sum(1), trace)
    first = Vi(x) * Vi(x).sqnorm2() * 0 + Vi(x) * (Vj(y) | Vj(y))
    torch.testing.assert_close(first.trace_operator(Vi(x)).sum(1), (D * (y * y).sum()).expand(M, 1))


@pytest.mark.parametrize(
    ("formula", "number"),
    [
        ("IntInv(3) + IntCst(2)", 1 / 3 + 2),
        ("IntCst(2) + IntInv(3)", 1 / 3 + 2),
        ("IntInv(3) * RatCst(2,5) - IntInv(2) / IntCst(3)", 2 / 15 - 1 / 6),
        ("IntCst(7) / IntCst(2)", 3.5),
    ],
)
def test_constants_combine(formula, number):
    x = cloud(M, D)
    got = Genred(f"({formula}) * x", ["x = Vi(3)"], axis=1)(x)
    torch.testing.assert_close(got, number * x, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize(
    "text",
    [
        *("MatVecMult(m, x)", "VecMatMult(x, m)", "TensorDot(m, x, [2,3], [3], [1], [0])"),
        *("Concat(x * x, y)", "TensorProd(x, x)", "ComplexExp1j(x)", "Elem(x, 1) * Exp(x)"),
    ],
)
def test_diff_of_all_operations(text):
    x, u, y = cloud(M, D), cloud(M, D), cloud(1, D)
    m = cloud(6 if "VecMat" not in text else 9)
    lines = ["x = Vi(3)", "y = Vj(3)", f"m = Pm({len(m)})", "u = Vi(3)"]
    got = Genred(f"Diff({text}, x, u)", lines, axis=1)(x, y, m, u)
    f = Genred(text, lines[:3], axis=1)
    _, want = torch.func.jvp(lambda v: f(v, y, m), (x,), (u,))
    torch.testing.assert_close(got, want)
    squared = f"SqNorm2({text})"
    laplacian = Genred(f"Laplacian({squared}, x)", lines[:3], axis=1)(x, y, m)
    g = Genred(squared, lines[:3], axis=1)
    hessian = [torch.func.hessian(lambda v: g(v[None], y, m)[0, 0])(row) for row in x]
    torch.testing.assert_close(laplacian[:, 0], torch.stack([h.trace() for h in hessian]))


@pytest.mark.parametrize("name", ["min", "max"])
@pytest.mark.parametrize("axis", [0, 1])
def test_extremes_are_differentiable(name, axis):
    x, y, _ = clouds()
    x.requires_grad_()
    want = getattr(((x[:, None] - y) ** 2).sum(-1), f"a{name}")(axis)[:, None]
    got = getattr(Vi(x).sqdist(Vj(y)), name)(axis)
    [one], [other] = (torch.autograd.grad(v.sin().sum(), x) for v in (got, want))
    torch.testing.assert_close(one, other)


def test_torch_compile_runs_it():
    x, y, d = clouds()
    b = cloud(N, 2)
    step = torch.compile(lambda x, b: (-Vi(x).sqdist(Vj(y))).exp() @ b, backend="eager")
    torch.testing.assert_close(step(x, b), torch.exp(-d) @ b)


def test_settings_do_not_leak_from_calls():
    x, y, d = clouds(torch.float32)
    lazy = Vi(x).sqdist(Vj(y))
    before = current()
    for how in ({"use_double_acc": True}, {"dtype_acc": "float64"}, {"sum_scheme": "kahan_scheme"}):
        got = lazy.sum(1, **how)
        torch.testing.assert_close(got.double(), d.sum(1, keepdim=True), rtol=1e-6, atol=0)
    assert current() == before


def test_long_series_are_refused():
    with pytest.raises(ValueError, match="at most 12 pairs of entries"):
        Vi(cloud(M, 4)).softdtw_sqdist(Vj(cloud(N, 4)), Pm(cloud(1)))


def test_calls_of_reduced_tensors_are_themselves():
    x, y, d = clouds()
    later = Vi(x).sqdist(Vj(y)).sum(1, call=False)
    torch.testing.assert_close(later.callfun(), d.sum(1, keepdim=True))
    assert not hasattr(Vi(x), "callfun")
