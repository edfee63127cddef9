"""TorchLazyArray: dtypes, both orders of operands, NumPy's functions, modules, copies."""

import copy
import io
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import duckkeops
from duckkeops import LazyArray, UnsupportedError, config
from duckkeops.engines import cpu
from duckkeops.errors import DtypeError
from duckkeops.torch_array import TorchLazyArray

needs_compiler = pytest.mark.skipif(not cpu.is_available(), reason="no C compiler here")
EXAMPLES = int(os.environ.get("DUCKKEOPS_EXAMPLES", "300"))


def pairs(requires_grad=False):
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 3, generator=g, dtype=torch.float64) for n in (7, 5))
    x.requires_grad_(requires_grad)
    lazy = ((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1)
    return lazy, ((x[:, None] - y[None]) ** 2).sum(-1), y


# -- dtypes ----------------------------------------------------------------------------------------

DTYPES = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.complex64, torch.complex128),
)
FUNCTIONS = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "eq": lambda a, b: a == b,
    "where": lambda a, b: torch.where(torch.ones(1, dtype=torch.bool), a, b),
    "cat": lambda a, b: torch.stack([a + 0 * b, b + 0 * a], -1),
}


@pytest.mark.parametrize("f", FUNCTIONS)
@pytest.mark.parametrize("one", DTYPES, ids=str)
def test_promotion_is_torchs(f, one):
    for other in (*DTYPES, True, 2, 2.5, 1j):
        a = torch.ones(3, 1, dtype=one)
        for b in (
            (other,)
            if not isinstance(other, torch.dtype)
            else (
                torch.ones(1, 2, dtype=other),
                torch.ones((), dtype=other),
            )
        ):
            for order in (0, 1):

                def run(wrap, a=a, b=b, order=order):
                    x = wrap(a)
                    return FUNCTIONS[f](b, x) if order else FUNCTIONS[f](x, b)

                try:
                    want = run(lambda t: t)
                except (RuntimeError, TypeError):
                    continue
                if torch.result_type(a, b) is torch.complex32:  # of which we know nothing
                    with pytest.raises(DtypeError, match="complex32"):
                        run(lambda t: LazyArray(t, 0))
                    continue
                assert run(lambda t: LazyArray(t, 0)).dtype == want.dtype, (one, other, order)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reductions_have_torchs_dtypes(dtype):
    a, b = torch.ones(3, 1, dtype=dtype), torch.ones(1, 2, dtype=dtype)
    for name in ("sum", "prod", "mean", "amax", "any", "count_nonzero", "logsumexp", "var"):
        function = getattr(torch, name)
        try:
            want = function(a * b, 1)
        except (RuntimeError, TypeError):
            continue
        if dtype.is_complex and name == "logsumexp":
            with pytest.raises(DtypeError, match="takes real numbers"):
                function(LazyArray(a, 0) * b, 1)
            continue
        got = function(LazyArray(a, 0) * b, 1)
        assert (got.dtype, got.shape) == (want.dtype, want.shape), name


# -- random code -----------------------------------------------------------------------------------

UNARY = {
    "exp": lambda v: torch.exp(-v.abs()),
    "sin": torch.sin,
    "tanh": torch.tanh,
    "square": torch.square,
    "gelu": lambda v: F.gelu(v.to(torch.float64)),
    "clamp": lambda v: v.clamp(-1, 1),
    "sigmoid": torch.sigmoid,
    "scaled": lambda v: 0.37 * v - 1.5,
    "halved": lambda v: v / 2,
    "softplus": lambda v: F.softplus(v.to(torch.float32)),
    "leaky": lambda v: torch.where(v > 0, v, 0.1 * v),
    "negative": lambda v: 0 - v,
}
BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "rsub": lambda a, b: b - a,
    "mul": lambda a, b: a * b,
    "alpha": lambda a, b: torch.add(a, b, alpha=2),
    "div": lambda a, b: a / (b * b + 2),
    "where": lambda a, b: torch.where(a < b, a, b),
    "maximum": torch.maximum,
    "addcmul": lambda a, b: torch.addcmul(a, a, b),
}
LAST = {
    "sum": lambda v: v.sum(1),
    "sum0": lambda v: v.sum(0),
    "mean": lambda v: v.to(torch.float64).mean(1),
    "amax": lambda v: v.amax(1),
    "amin": lambda v: torch.amin(v, 0),
    "logsumexp": lambda v: torch.logsumexp(v, 1),
    "all": lambda v: v.sum(),
}
REAL = [t for t in DTYPES if not t.is_complex and t is not torch.bool]
code = st.fixed_dictionaries(
    {
        "dtypes": st.tuples(st.sampled_from(REAL), st.sampled_from(REAL)),
        "binary": st.lists(st.sampled_from(sorted(BINARY)), min_size=1, max_size=2),
        "unary": st.lists(st.sampled_from(sorted(UNARY)), max_size=2),
        "last": st.sampled_from(sorted(LAST)),
        "tensor": st.sampled_from(("none", "left", "right")),
        "seed": st.integers(0, 9),
    }
)
seen = []


def run(c, wrap):
    g = torch.Generator().manual_seed(c["seed"])
    one, other = (
        torch.randint(-2 if t.is_signed else 0, 3, shape, generator=g).to(t)
        for t, shape in zip(c["dtypes"], ((4, 1), (1, 6)), strict=True)
    )
    a = wrap(one) if c["tensor"] != "left" else one
    b = wrap(other) if c["tensor"] != "right" else other
    v = BINARY[c["binary"][0]](a, b)
    for name in c["unary"]:
        v = UNARY[name](v)
    for name in c["binary"][1:]:
        v = BINARY[name](v, b)
    return v, LAST[c["last"]](v)


@needs_compiler
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(code)
def test_random_code_is_what_torch_computes(c):
    try:
        want = run(c, lambda t: t)[1]
    except (RuntimeError, TypeError):
        return  # torch refuses it
    with config(engine="cpu"):
        lazy, got = run(c, lambda t: LazyArray(t, 0))
    seen.append(isinstance(lazy, TorchLazyArray))
    assert type(got) is torch.Tensor
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    coarse = any(t in (torch.float16, torch.bfloat16) for t in (*c["dtypes"], want.dtype))
    loose = 5e-2 if coarse else 1e-4 if want.dtype is not torch.float64 else 1e-5
    scale = max(float(want.abs().max()), 1.0) if want.dtype.is_floating_point else 0
    torch.testing.assert_close(got, want, rtol=0, atol=loose * scale)


@needs_compiler
def test_that_code_was_virtual():
    if EXAMPLES >= 300 and seen:
        assert len(seen) >= 300 and all(seen)


# -- NumPy's functions, and ours -------------------------------------------------------------------

NUMPY = {
    "exp": (lambda d: np.exp(-d).sum(1), lambda d: torch.exp(-d).sum(1)),
    "sum": (lambda d: np.sum(d, axis=1), lambda d: d.sum(1)),
    "max": (lambda d: np.max(d, axis=0), lambda d: d.amax(0)),
    "var": (lambda d: np.var(d, axis=1), lambda d: d.var(1, correction=0)),
    "argmin": (lambda d: np.argmin(d, axis=1), lambda d: d.argmin(1)),
    "sort": (lambda d: np.sort(d, axis=1)[:, :2], lambda d: d.sort(1).values[:, :2]),
    "logsumexp": (lambda d: duckkeops.logsumexp(d, axis=1), lambda d: d.logsumexp(1)),
    "topk": (lambda d: duckkeops.topk(d, 2, axis=1)[0], lambda d: d.topk(2, 1).values),
    "argtopk": (lambda d: duckkeops.argtopk(d, 2, axis=1), lambda d: d.topk(2, 1).indices),
}


@pytest.mark.parametrize("name", NUMPY)
def test_functions_of_numpy_give_tensors(name):
    lazy, dense, _ = pairs()
    ours, theirs = NUMPY[name]
    got = ours(lazy)
    assert type(got) is torch.Tensor
    torch.testing.assert_close(got, theirs(dense), rtol=1e-10, atol=1e-10)


def test_softmax_of_ours_is_one_pass():
    lazy, dense, y = pairs()
    torch.testing.assert_close(duckkeops.softmax(lazy, axis=1) @ y, dense.softmax(1) @ y)


def test_arrays_of_numpy_are_refused_and_their_scalars_are_numbers():
    lazy, dense, _ = pairs()
    with pytest.raises(TypeError, match="one expression reads one library's arrays"):
        lazy - np.ones((7, 5))
    assert (lazy.float() * np.float64(2)).dtype is (dense.float() * np.float64(2)).dtype


# -- modules, copies, devices ----------------------------------------------------------------------


class Sums(torch.nn.Module):
    def __init__(self, lazy):
        super().__init__()
        self.lazy, self.layer = lazy, torch.nn.Linear(3, 2)

    def forward(self):
        return self.lazy.sum(1)


def test_a_module_may_hold_a_lazy_array():
    lazy, dense, _ = pairs()
    module = Sums(lazy)
    torch.testing.assert_close(module.to(torch.float64)(), dense.sum(1))
    assert list(module.state_dict()) == ["layer.weight", "layer.bias"]
    torch.testing.assert_close(copy.deepcopy(module)(), dense.sum(1))


def test_layers_take_lazy_arrays():
    _, _, y = pairs()
    layers = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1)
    ).double()
    u, v = LazyArray(y)[:, None] - LazyArray(y)[None], y[:, None] - y[None]
    torch.testing.assert_close(layers(u).sum(1), layers(v).sum(1))


def test_copies_keep_the_formula_and_its_inputs():
    lazy, dense, _ = pairs()
    saved = io.BytesIO()
    torch.save(lazy, saved)
    saved.seek(0)
    for one in (
        copy.copy(lazy),
        copy.deepcopy(lazy),
        pickle.loads(pickle.dumps(lazy)),
        torch.load(saved, weights_only=False),
        lazy.clone(),
        lazy.to("cpu"),
    ):
        assert type(one) is TorchLazyArray
        torch.testing.assert_close(one.sum(1), dense.sum(1))


def test_gradients_are_asked_of_the_inputs():
    lazy, _, _ = pairs(requires_grad=True)
    assert lazy.requires_grad
    assert not lazy.detach().requires_grad
    assert not lazy.data.requires_grad
    with pytest.raises(UnsupportedError, match=r"x\.requires_grad_\(\)"):
        torch.nn.Parameter(lazy)
    with pytest.raises(UnsupportedError, match="Gradients flow"):
        lazy.backward()


@pytest.mark.parametrize("differentiated", [False, True])
@pytest.mark.parametrize("change", [lambda t: t[:5], lambda t: t.half(), lambda t: t.repeat(2, 1)])
def test_a_tensor_that_became_another_one_since_it_was_wrapped_is_refused(differentiated, change):
    x = torch.rand(50, 3, requires_grad=differentiated)

    def scores():
        return ((LazyArray(x)[:, None] - LazyArray(torch.rand(60, 3))) ** 2).sum(-1)

    scores().sum(1)  # whose launch is kept
    d = scores()
    x.data = change(x.data)
    with pytest.raises(ValueError, match=r"Wrap it again"):
        d.sum(1)


def test_a_backward_pass_reads_no_tensor_that_became_smaller():
    x = torch.rand(50, 3, requires_grad=True)
    y = torch.rand(60, 3)
    for change in (False, False, True):  # the second pass is the kept one
        value = ((LazyArray(x)[:, None] - LazyArray(y)) ** 2).sum(-1).sum(1)
        if change:
            x.data = torch.rand(5, 3)
            with pytest.raises(ValueError, match="Wrap it again"):
                torch.autograd.grad(value.sum(), x)
        else:
            torch.autograd.grad(value.sum(), x)
