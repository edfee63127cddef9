"""On a CUDA device: arrays of CuPy and torch, streams, graphs, offloading. Run with -m gpu."""

import shutil
import subprocess
import sys
from pathlib import Path

import cuda_programs
import numpy as np
import pytest

import duckkeops
from duckkeops import BlockPairs, LazyArray, config, offload
from duckkeops.engines import cuda
from duckkeops.errors import UnsupportedError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not (offload.has_driver() and cuda.is_available()), reason="no CUDA device here, or no CuPy"
    ),
]


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    return torch


def clouds(m=700, n=900, d=3, dtype="f"):
    rng = np.random.default_rng(0)
    return rng.random((m, d)).astype(dtype), rng.random((n, d)).astype(dtype)


def distances(x, y):
    return ((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1)


def dense(x, y):
    return ((x[:, None].astype("d") - y[None]) ** 2).sum(-1)


REDUCTIONS = {
    "sum": lambda d: np.exp(-d).sum(axis=1),
    "min": lambda d: np.min(d, axis=0),
    "argmin": lambda d: np.argmin(d, axis=1),
    "mean": lambda d: np.mean(d),
    "var": lambda d: np.var(d, axis=1),
    "any": lambda d: np.any(d < 0.01, axis=1),
    "count": lambda d: np.count_nonzero(d < 1, axis=0),
    "sort": lambda d: np.sort(d, axis=1)[:, :5],
    "argsort": lambda d: np.argsort(d, axis=1)[:, :5],
    "median": lambda d: np.median(d, axis=1),
    "quantile": lambda d: np.quantile(d, [0.1, 0.5], axis=1),
    "histogram": lambda d: np.histogram(d, bins=20)[0],
    "edges": lambda d: np.histogram(d, bins=[0, 0.5, 1, 5])[1],
    "logsumexp": lambda d: duckkeops.logsumexp(d, axis=1),
    "isin": lambda d: np.isin(np.round(d), [1, 2]).sum(axis=1),
    "rows": lambda d: d[[3, 1, 2]].sum(axis=1),
    "reversed": lambda d: d[::-1, ::2].sum(axis=1),
    "entries": lambda d: d[[0, 1], [2, 3]],
    "where": lambda d: np.where(d > 1, d, 0).sum(axis=1),
    "blocks": lambda d: np.concatenate([d, d], axis=1).sum(axis=1),
}


# -- CuPy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REDUCTIONS)
def test_cupy_arrays_as_numpy_s(cupy, name):
    x, y = clouds()
    got = REDUCTIONS[name](distances(cupy.asarray(x), cupy.asarray(y)))
    want = REDUCTIONS[name](distances(x, y))
    assert isinstance(got, cupy.ndarray) and got.shape == np.shape(want)
    assert got.dtype == want.dtype
    np.testing.assert_allclose(cupy.asnumpy(got), want, rtol=1e-4, atol=1e-5)


def test_cupy_entries_and_numbers(cupy):
    x, y = clouds(5, 4)
    d = distances(cupy.asarray(x), cupy.asarray(y))
    np.testing.assert_allclose(cupy.asnumpy(d.to_dense()), dense(x, y), rtol=1e-5)
    np.testing.assert_allclose(float(d[0, 0]), dense(x, y)[0, 0], rtol=1e-5)
    assert isinstance(repr(d), str) and d.device == cupy.cuda.Device()
    index = cupy.asarray([2, 0])
    np.testing.assert_allclose(
        cupy.asnumpy(d[index].sum(axis=1)), dense(x, y)[[2, 0]].sum(1), rtol=1e-5
    )
    scaled = (d * np.float32(2) + np.ones((), "f") + cupy.ones((), "f")).sum(axis=1)
    np.testing.assert_allclose(cupy.asnumpy(scaled), (2 * dense(x, y) + 2).sum(1), rtol=1e-5)


def test_cupy_and_others_do_not_mix(cupy):
    x, y = clouds()
    with pytest.raises(TypeError, match=r"cupy\.asnumpy"):
        LazyArray(cupy.asarray(x))[:, None] - y[None]
    with pytest.raises(TypeError, match="one library's arrays"):
        distances(cupy.asarray(x), y).sum(axis=1)


def test_cupy_streams(cupy):
    x, y = clouds(3000, 3000)
    want = np.exp(-dense(x, y)).sum(1)
    for _ in range(20):
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            a, b = cupy.empty_like(cupy.asarray(x)), cupy.asarray(y)
            a[...] = cupy.asarray(x)
            got = np.exp(-distances(a, b)).sum(axis=1)
        stream.synchronize()
        np.testing.assert_allclose(cupy.asnumpy(got), want, rtol=1e-4)


# -- torch -----------------------------------------------------------------------------------------


def lazy_exp_sum(x, y):
    return (-distances(x, y)).exp().sum(1)


def test_torch_values_and_gradients(torch):
    x, y = (torch.from_numpy(a).requires_grad_() for a in clouds())
    a, b = (t.detach().cuda().requires_grad_() for t in (x, y))
    for one, other in zip(
        torch.autograd.grad(lazy_exp_sum(a, b).square().sum(), (a, b)),
        torch.autograd.grad(lazy_exp_sum(x, y).square().sum(), (x, y)),
        strict=True,
    ):
        assert one.is_cuda
        torch.testing.assert_close(one.cpu(), other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("transform", ["jacfwd", "hessian", "jvp of jvp", "of joined parts"])
def test_torch_transforms(torch, transform):
    func = torch.func

    def loss(x, y):
        d = distances(x, y)
        if transform == "of joined parts":
            d = torch.cat([d, 2 * d], 1)
        return (-d).exp().mean(1).square().sum()

    def pushed(f, x):
        return func.jvp(f, (x,), (torch.ones_like(x),))[1]

    def found(x, y, scale):
        if transform == "jacfwd":  # with respect to a number, which may be on the CPU
            return func.jacfwd(lambda s: (-s * distances(x, y)).exp().sum(1))(scale)
        if transform == "hessian":
            return func.hessian(lambda x: loss(x, y))(x)
        return pushed(lambda x: pushed(lambda x: loss(x, y), x), x)

    x, y = (torch.from_numpy(a).double() for a in clouds(5, 7))
    want = found(x, y, torch.tensor(2.0, dtype=torch.float64))
    for scale in (torch.tensor(2.0, dtype=torch.float64), torch.tensor(2.0).double().cuda()):
        torch.testing.assert_close(found(x.cuda(), y.cuda(), scale).cpu(), want)


def test_torch_numbers_on_the_cpu_mix(torch):
    x, y = (torch.from_numpy(a).cuda() for a in clouds())
    scale = torch.tensor(2.0, requires_grad=True)
    out = (distances(x, y) * scale).sum(1).sum()
    out.backward()
    assert scale.grad.device.type == "cpu"
    torch.testing.assert_close(scale.grad * 2, out.detach().cpu(), rtol=1e-4, atol=1)


def test_torch_devices_do_not_mix(torch):
    x, y = (torch.from_numpy(a) for a in clouds())
    with pytest.raises(TypeError, match="computed on one device"):
        LazyArray(x.cuda())[:, None] - y[None]


def isin(d, t):
    import torch

    return torch.isin(d.round(), t.round()).sum(1)


@pytest.mark.parametrize(
    "function",
    [
        isin,
        lambda d, t: d.topk(3, 1, largest=False).values,
        lambda d, t: d.argmin(1),
        lambda d, t: d.softmax(1) @ t,
        lambda d, t: d[:5].var(1),
        lambda d, t: d.index_select(0, (t[:4] * 0).long()).sum(1),
        lambda d, t: d.logsumexp(1),
    ],
)
def test_torch_functions(torch, function):
    x, y = (torch.from_numpy(a) for a in clouds())
    t = torch.linspace(0, 1, 900)
    got, want = function(distances(x.cuda(), y.cuda()), t.cuda()), function(distances(x, y), t)
    torch.testing.assert_close(got.cpu(), want, rtol=1e-4, atol=1e-5)


def test_torch_tiles(torch):
    x, y = (torch.from_numpy(a).cuda() for a in clouds())
    with config(engine="blocks"):
        got = lazy_exp_sum(x, y)
    torch.testing.assert_close(got, lazy_exp_sum(x, y), rtol=1e-4, atol=1e-4)


def test_torch_autocast(torch):
    x, y = (torch.from_numpy(a).cuda() for a in clouds())
    b = torch.ones(900, 4, device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert (distances(x, y) @ b).dtype == torch.bfloat16


def test_torch_streams_read_no_stale_data(torch):
    x, y = (torch.from_numpy(a).cuda() for a in clouds(3000, 3000))
    want = lazy_exp_sum(x, y)
    torch.cuda.synchronize()
    for _ in range(20):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            a = torch.zeros_like(x)
            torch.cuda._sleep(10_000_000)
            a.copy_(x)
            got = lazy_exp_sum(a, y)
        stream.synchronize()
        torch.testing.assert_close(got, want)


def test_torch_graphs_capture_a_repeated_call(torch):
    x, y = (torch.from_numpy(a).cuda() for a in clouds())
    lazy_exp_sum(x, y)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = lazy_exp_sum(x, y)
    x.mul_(2)
    graph.replay()
    torch.testing.assert_close(out, lazy_exp_sum(x, y))


def test_torch_compile(torch):
    x, y = (torch.from_numpy(a).cuda() for a in clouds())
    compiled = torch.compile(lazy_exp_sum, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, y), lazy_exp_sum(x, y))


def test_what_is_said_of_tensors(torch):
    x, y = (torch.from_numpy(a).cuda() for a in clouds())
    d = distances(x, y)
    assert "900" in d.explain() and d.estimate().seconds > 0
    assert "instructions and 1 special functions a pair" in torch.exp(-d).explain()
    assert "__global__" in d.source()
    assert d.is_cuda and d.get_device() == 0


def test_nothing_leaks(torch):
    x, y = (torch.from_numpy(a).cuda() for a in clouds(50, 60))
    lazy_exp_sum(x, y)
    before = torch.cuda.memory_allocated()
    for _ in range(10_000):
        lazy_exp_sum(x, y)
    assert torch.cuda.memory_allocated() == before


@pytest.mark.parametrize("kind", ["torch", "cupy"])
def test_a_second_device(kind, request):
    library = request.getfixturevalue(kind)
    if cuda.cupy().cuda.runtime.getDeviceCount() < 2:
        pytest.skip("there is one device")
    if kind == "torch":
        x, y = (library.from_numpy(a).to("cuda:1") for a in clouds())
        assert lazy_exp_sum(x, y).device.index == 1
        with library.cuda.device(0):
            library.testing.assert_close(
                lazy_exp_sum(x, y).cpu(), lazy_exp_sum(x.cpu(), y.cpu()), rtol=1e-4, atol=1e-4
            )
    else:
        with library.cuda.Device(1):
            x, y = (library.asarray(a) for a in clouds())
        assert np.exp(-distances(x, y)).sum(axis=1).device.id == 1


# -- blocks of pairs -------------------------------------------------------------------------------


def kept_of(m, n):
    mask = np.random.default_rng(0).random((9, 7)) < 0.4
    rows, columns = (np.linspace(0, size, k).astype(int) for size, k in ((m, 10), (n, 8)))
    dense = np.repeat(np.repeat(mask, np.diff(rows), 0), np.diff(columns), 1)
    return BlockPairs(mask, rows, columns), dense


def test_restricted_cupy_arrays(cupy):
    (x, y), (kept, mask) = clouds(), kept_of(700, 900)
    d = distances(cupy.asarray(x), cupy.asarray(y)).restrict(kept)
    want = np.where(mask, dense(x, y), np.inf)
    np.testing.assert_array_equal(cupy.asnumpy(np.argmin(d, axis=1)), want.argmin(1))
    np.testing.assert_allclose(
        cupy.asnumpy(np.exp(-d).sum(axis=0)), np.exp(-want).sum(0), rtol=1e-4
    )


@pytest.mark.parametrize("sizes", [(700, 900), (20_000, 30_000)], ids=str)
def test_restricted_tensors_and_their_gradients(torch, sizes):
    (x, y), (kept, mask) = clouds(*sizes), kept_of(*sizes)
    a, b = (torch.from_numpy(t).cuda().requires_grad_() for t in (x, y))
    mask = torch.from_numpy(mask).cuda()

    def loss(k):
        return k.sum(1).square().mean()

    plain = ((a[:, None] - b) ** 2).sum(-1) if sizes[0] < 1000 else torch.cdist(a, b) ** 2
    want = torch.autograd.grad(loss((-plain).exp() * mask), (a, b))
    got = torch.autograd.grad(loss((-distances(a, b)).exp().restrict(kept)), (a, b))
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-3, atol=1e-3 * float(w.abs().max()))
    d = distances(a.detach(), b.detach()).restrict(kept)
    values, places = d.topk(3, 1, largest=False)
    some = torch.where(mask, plain, torch.inf).detach().topk(3, 1, largest=False)
    torch.testing.assert_close(values, some.values, rtol=1e-2, atol=1e-3)
    assert (places >= 0).all()


# -- arrays of the CPU -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f", "d", "e"])
def test_arrays_on_the_cpu_are_offloaded(dtype):
    x, y = clouds(dtype=dtype)
    with config(engine="cuda"):
        got = np.exp(-distances(x, y)).sum(axis=1)
    assert type(got) is np.ndarray and got.dtype == dtype
    np.testing.assert_allclose(
        got, np.exp(-dense(x, y)).sum(1), rtol=1e-2 if dtype == "e" else 1e-4
    )


def test_large_inputs_pass_through_page_locked_memory():
    rng = np.random.default_rng(1)
    x = rng.random((3_000_000, 3)).astype("f")  # 36 MB: three parts
    with config(engine="cuda"):
        got = distances(x[:, :], x[:2]).sum(axis=1)
    np.testing.assert_allclose(got, dense(x, x[:2]).sum(1), rtol=1e-4)


def test_what_pays_is_offloaded(monkeypatch):
    x, y = clouds(60_000, 60_000)
    seen = []
    monkeypatch.setattr(offload, "to_device", lambda a, f=offload.to_device: seen.append(1) or f(a))
    with config(engine="cuda"):
        distances(x[:9], y).argmin(axis=1)  # to start CUDA takes seconds, which count
    seen.clear()
    with config(threads=1):
        got = distances(x, y).argmin(axis=1)
    assert seen
    with config(offload=False):
        want = distances(x[:50], y).argmin(axis=1)
    np.testing.assert_array_equal(got[:50], want)


def test_tensors_on_the_cpu_are_offloaded_with_their_gradients():
    torch = pytest.importorskip("torch")
    x, y = (torch.from_numpy(a).requires_grad_() for a in clouds())
    want = torch.autograd.grad(lazy_exp_sum(x, y).square().sum(), (x, y))
    with config(engine="cuda"):
        got = torch.autograd.grad(lazy_exp_sum(x, y).square().sum(), (x, y))
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-3, atol=1e-3)


# -- errors ----------------------------------------------------------------------------------------


def test_the_engine_of_the_cpu_refuses_arrays_on_a_device(cupy):
    x, y = map(cupy.asarray, clouds())
    with config(engine="cpu"), pytest.raises(UnsupportedError, match="CUDA device"):
        distances(x, y).sum(axis=1)


def test_the_doctor_runs_a_kernel_there():
    answer = subprocess.run(
        [sys.executable, "-m", "duckkeops", "doctor"], capture_output=True, text=True, timeout=500
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "CUDA kernel  " in answer.stdout and "NVRTC" in answer.stdout


def test_programs_of_every_kind(cupy):
    assert not cuda_programs.wrong(cupy.asarray, cupy.asnumpy)


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck"])
def test_compute_sanitizer(tool):
    """No access out of bounds, no race in shared memory, nothing read before it was written."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("no compute-sanitizer: pip install nvidia-cuda-sanitizer-api, bin on PATH")
    program = Path(cuda_programs.__file__)
    filters = [f"--kernel-name=kernel_name={name}" for name in ("reduce", "join")]
    if tool == "initcheck":  # sees what CuPy's own kernels wrote
        filters = []
    done = subprocess.run(
        [sanitizer, "--tool", tool, "--error-exitcode=9", *filters, sys.executable, str(program)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "ERROR SUMMARY: 0 errors" in done.stdout or "0 hazards" in done.stdout
