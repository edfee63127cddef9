"""Lazy arrays in code that torch.compile and torch.export trace: the same values and gradients as
without them, one operator for each reduction, any lengths.
"""

import copy
import io

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from duckkeops import LazyArray, torch_compile

OPERATOR = "duckkeops.reduce"


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


def points(*shape):
    return torch.randn(shape, dtype=torch.float64)


def gaussian(x, y):
    return torch.exp(-((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1))


def compiled(f, backend="aot_eager", **options):
    return torch.compile(f, backend=backend, fullgraph=True, **options)


def agree(f, g, *arguments):
    """Values, and gradients with respect to all tensors that have any."""
    results = []
    for function in (f, g):
        leaves = [a.clone().requires_grad_() for a in arguments]
        value = function(*leaves)
        grads = torch.autograd.grad(value.sin().sum(), leaves, allow_unused=True)
        results.append([value, *(x for x in grads if x is not None)])
    assert len(results[0]) > 1
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def called(graph):
    return [str(n.target) for n in graph.nodes if n.op == "call_function"]


FUNCTIONS = {
    "sum": lambda d, b: torch.sum(d, dim=1),
    "mean and shape": lambda d, b: d.mean(0) * d.shape[0],
    "matmul": lambda d, b: d @ b,
    "tensor @ d": lambda d, b: b.T @ d.T,
    "logsumexp": lambda d, b: d.logsumexp(1),
    "softmax": lambda d, b: torch.softmax(d, 1) @ b,
    "min": lambda d, b: torch.min(d, dim=1).values,
    "topk": lambda d, b: torch.topk(d, 2, dim=1)[0],
    "sort": lambda d, b: d.kthvalue(2, dim=1).values,
    "aminmax": lambda d, b: torch.aminmax(d, dim=1).max,
    "var": lambda d, b: d.var(1),
    "prod": lambda d, b: (2 * d + 1 - d / 3).prod(1),
    "einsum": lambda d, b: torch.einsum("ij,jk->ik", d, b),
    "t - d": lambda d, b: (b[:, 0] - d).sum(1),
    "d - t": lambda d, b: (d - b[:, 0]).sum(1),
    "t / d": lambda d, b: (b[:, 0] / d).sum(1),
    "d / t": lambda d, b: (d / b[:, 0]).sum(1),
    "d ** t": lambda d, b: (d ** b[:, 0].abs()).sum(1),
    "t ** d": lambda d, b: (b[:, 0].abs() ** d).sum(1),
    "t < d": lambda d, b: torch.where(b[:, 0] < d, d, 0.0).sum(1),
    "d < t": lambda d, b: torch.where(d < b[:, 0], d, 0.0).sum(1),
    "shared": lambda d, b: (d * d + d.T.T).sum(1),
    "slices": lambda d, b: d[1:, :-2].sum(1),
    "float32": lambda d, b: d.float().sum(1),
    "two": lambda d, b: d.sum(1) + d.exp().sum(1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_is_as_without_compiling(name):
    def f(x, y, b):
        return FUNCTIONS[name](gaussian(x, y), b)

    agree(compiled(f), f, points(5, 3), points(7, 3), points(7, 2))


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_backends(backend):
    def f(x, y, b):
        return gaussian(x, y) @ b

    agree(compiled(f, backend), f, points(5, 3), points(7, 3), points(7, 2))


def test_integers_and_places():
    def f(x, y):
        d = gaussian(x, y)
        return d.argmin(dim=0), (d > 0.3).sum(1), torch.topk(d, 2, dim=1).indices

    x, y = points(5, 3), points(7, 3)
    torch.testing.assert_close(compiled(f)(x, y), f(x, y))


def test_any_lengths_with_one_compilation():
    def f(x, y):
        d = gaussian(x, y)
        return d[1:].logsumexp(1) / d.shape[1]

    counter = CompileCounterWithBackend("aot_eager")
    c = torch.compile(f, backend=counter, fullgraph=True, dynamic=True)
    for m, n in ((5, 7), (6, 9), (20, 3), (8, 8)):
        agree(c, f, points(m, 3), points(n, 3))
    assert counter.frame_count == 1


def test_lengths_are_read_as_expressions():
    def f(x, n):
        return (LazyArray(x)[:, None] - LazyArray(x)[None])[:n].sum(-1).sum(1)

    c = torch.compile(f, backend="eager", fullgraph=True, dynamic=True)
    for m in (6, 11):
        x = points(m, 3)
        torch.testing.assert_close(c(x, m - 2), f(x, m - 2))


def test_numbers_that_change():
    def f(x, y, s):
        return (gaussian(x, y) * s).sum(1)

    counter = CompileCounterWithBackend("eager")
    c = torch.compile(f, backend=counter, fullgraph=True)
    x, y = points(5, 3), points(7, 3)
    for s in (0.5, 0.7, 0.9, 1.1):
        torch.testing.assert_close(c(x, y, s), f(x, y, s))
    assert counter.frame_count == 2


def test_lazy_arrays_as_arguments():
    def f(x, y, b):
        return torch.exp(-((x[:, None] - y[None]) ** 2).sum(-1)) @ b

    arguments = LazyArray(points(5, 3)), LazyArray(points(7, 3)), points(7, 2)
    torch.testing.assert_close(compiled(f)(*arguments), f(*arguments))
    g = LazyArray(points(5, 5), feature_ndim=0), points(5)
    torch.testing.assert_close(compiled(lambda d, b: d @ b)(*g), g[0] @ g[1])


@pytest.mark.xfail(
    strict=True,
    raises=torch._dynamo.exc.Unsupported,
    reason="Dynamo cannot read the NumPy dtypes and rows that recorded nodes hold",
)
def test_expressions_as_arguments():
    d = gaussian(points(5, 3), points(7, 3))
    torch.testing.assert_close(compiled(lambda d: d.sum(1))(d), d.sum(1))


def test_expressions_as_arguments_are_refused_with_a_remedy():
    d = gaussian(points(5, 3), points(7, 3))
    with pytest.raises(torch._dynamo.exc.Unsupported, match="write the expression inside"):
        compiled(lambda d: d.sum(1))(d)


def test_a_lazy_array_leaves_compiled_code():
    x, y = points(5, 3), points(7, 3)
    d = compiled(gaussian, "eager")(x, y)
    assert isinstance(d, LazyArray)
    assert d.shape == (5, 7)
    torch.testing.assert_close((2 * d).sum(1), 2 * gaussian(x, y).sum(1))
    torch.testing.assert_close((d + gaussian(x, y)).sum(0), 2 * gaussian(x, y).sum(0))


def test_second_order_inside():
    def f(x, y):
        (g,) = torch.autograd.grad(gaussian(x, y).sum(1).sin().sum(), x, create_graph=True)
        return g

    with torch._dynamo.config.patch(trace_autograd_ops=True):
        agree(compiled(f), f, points(5, 3), points(7, 3))


# -- what torch.func does --------------------------------------------------------------------------

TRANSFORMS = {
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    "vmap": lambda f, x: torch.func.vmap(f)(torch.stack([x, x])),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,))[1],
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.xfail(
    strict=True,
    raises=torch._dynamo.exc.Unsupported,
    reason="torch.func does not see through operators: grad and vmap raise, jvp drops tangents",
)
def test_transforms_inside(name):
    y = points(7, 3)

    def f(x):
        return TRANSFORMS[name](lambda x: gaussian(x, y).sum(1), x)

    x = points(5, 3)
    torch.testing.assert_close(compiled(f)(x), f(x))


def test_transforms_inside_are_refused_with_a_remedy():
    y = points(7, 3)

    def f(x):
        return torch.func.jvp(lambda x: gaussian(x, y).sum(1), (x,), (x,))[1]

    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"torch\.func\.jvp inside compiled"):
        compiled(f)(points(5, 3))


# -- export, modules, modes ------------------------------------------------------------------------


class Kernel(torch.nn.Module):
    def forward(self, x, y):
        return gaussian(x, y).sum(1)


@pytest.mark.parametrize("strict", [False, True])
def test_export_keeps_one_operator(strict):
    lengths = {"x": {0: torch.export.Dim("m")}, "y": {0: torch.export.Dim("n")}}
    arguments = points(5, 3), points(7, 3)
    program = torch.export.export(Kernel(), arguments, dynamic_shapes=lengths, strict=strict)
    if not strict:
        assert called(program.graph) == [f"{OPERATOR}.default", "<built-in function getitem>"]
    program = program.run_decompositions()
    assert called(program.graph) == [f"{OPERATOR}.default", "<built-in function getitem>"]
    x, y = points(9, 3), points(4, 3)
    torch.testing.assert_close(program.module()(x, y), gaussian(x, y).sum(1))


def test_opcheck():
    found = []

    def backend(module, inputs):
        found.extend(n.args[2] for n in module.graph.nodes if OPERATOR in str(n.target))
        return module

    x, y = points(5, 3), points(7, 3)
    torch.compile(Kernel(), backend=backend, fullgraph=True, dynamic=False)(x, y)
    (program,) = found
    leaves = [x.requires_grad_(), y.requires_grad_()]
    torch.library.opcheck(torch.ops.duckkeops.reduce.default, (leaves, [], program))
    torch.library.opcheck(torch.ops.duckkeops.form.default, (leaves, [], program))
    marks = [*leaves, torch.ones(5, dtype=x.dtype)], [], f"{program}\nvjp 11 1"
    torch.library.opcheck(torch.ops.duckkeops.reduce.default, marks)


class Attention(torch.nn.Module):
    """Softmax-weighted means of rows, one of the inputs being a LazyArray that it holds."""

    def __init__(self):
        super().__init__()
        self.y = torch.nn.Parameter(points(7, 3))
        self.scale = torch.nn.Parameter(torch.tensor(1.3, dtype=torch.float64))
        self.lazy = LazyArray(self.y)

    def forward(self, x):
        d = ((LazyArray(x)[:, None] - self.lazy[None]) ** 2).sum(-1)
        return torch.softmax(-d / self.scale, 1) @ self.y


def test_modules_hold_lazy_arrays():
    module, x = Attention(), points(5, 3)
    assert list(module.state_dict()) == ["y", "scale"]
    found = []
    for f in (module, compiled(module)):
        module.zero_grad()
        value = f(x)
        value.sin().sum().backward()
        found.append([value, *(p.grad.clone() for p in module.parameters())])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_state_dict_is_loaded_into_the_lazy_array():
    module, other, x = Attention(), Attention(), points(5, 3)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    torch.testing.assert_close(other(x), module(x))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("compile_it", [False, True])
def test_modes_without_gradients(mode, compile_it):
    x, y = points(5, 3).requires_grad_(), points(7, 3)
    f = compiled(Kernel()) if compile_it else Kernel()
    with mode():
        value = f(x, y)
    assert not value.requires_grad
    assert value.is_inference() is (mode is torch.inference_mode)
    torch.testing.assert_close(value, gaussian(x, y).sum(1).detach())


class Sums(torch.utils.data.Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return gaussian(self.x[i], self.y).sum(1)


def test_workers_of_data_loaders():
    x, y = points(4, 5, 3), points(7, 3)
    gaussian(x[0], y).sum(1)  # in this process first: its threads do not live on in the workers
    data = Sums(x, y)
    loader = torch.utils.data.DataLoader(data, batch_size=2, num_workers=2)
    torch.testing.assert_close(torch.cat(list(loader)), torch.stack([data[i] for i in range(4)]))


def test_a_compiled_function_does_not_change_eager_code():
    x, y = points(5, 3), points(7, 3)
    before = gaussian(x, y).sum(1)
    compiled(Kernel())(x, y)
    d = gaussian(x, y)
    assert not isinstance(d, torch_compile.Traced)
    torch.testing.assert_close(d.sum(1), before, rtol=0, atol=0)
    assert copy.deepcopy(d).shape == d.shape
