"""torch's functions on lazy arrays beside dense torch: class, value, dtype, shape, type; refusals.

The calls stand in conformance/torch_functions.txt; those of rows of ops.TABLE are made from them.
"""

import re
import tracemalloc
import warnings
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.overrides import get_overridable_functions

from duckkeops import LazyArray, UnsupportedError, config, ops, sorting, torch_array
from duckkeops.torch_table import CLASSES, PROPERTIES, class_of, name_of, remedy_of

M, N, D = 6, 5, 3
assert torch_array  # its import adds the methods


def overridable():
    return {f for some in get_overridable_functions().values() for f in some}


# -- the classes -----------------------------------------------------------------------------------


def test_every_function_has_a_class():
    found = sorted({name_of(f) for f in overridable() if class_of(f) is None})
    assert len(overridable()) > 1300
    assert found == []


def test_no_function_has_two_classes():
    names = [name for rows in CLASSES.values() for name in rows]
    assert sorted(names) == sorted(set(names))


def test_refusals_name_a_remedy():
    refused = [f for f in overridable() if class_of(f) == "refused"]
    for f in refused:
        if getattr(f, "__name__", "") != "__get__":
            assert len(remedy_of(f)) > 20, name_of(f)


def test_properties_of_tensors_are_there():
    d = namespace(LazyArray)["d"]
    missing = [
        name
        for name, kind in PROPERTIES.items()
        if kind != "refused" and name not in ("imag",) and not hasattr(d, name)
    ]
    assert missing == []


# -- values ----------------------------------------------------------------------------------------


def plain(x, feature_ndim=None):
    return x


def namespace(wrap, m=M, n=N):
    """The same names over tensors and over lazy arrays."""
    g = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    X, Y = normal(m, D), normal(n, D)
    v, w, s = normal(m), normal(n), normal(n)
    i, j = (torch.randint(0, 4, (k,), generator=g) for k in (m, n))
    x, y = wrap(X), wrap(Y)
    u = x[:, None, :] - y[None, :, :]
    a, b = wrap(v)[:, None], wrap(w)[None]
    targets = torch.randint(0, n, (m,), generator=g)
    q = wrap(normal(2, m, 4))
    return {
        "torch": torch, "F": F, "inf": float("inf"),
        "x": x, "y": y, "u": u, "d": (u**2).sum(-1), "a": a, "b": b, "e": a - b,
        "p": 0.1 + (u**2).sum(-1) / 40, "k": wrap(i)[:, None] + wrap(j),
        "l": wrap(i)[:, None] - 2 * wrap(j) - 1, "t": a < b, "f": (a * b).to(torch.float32),
        "z": a + 1j * b, "nan": torch.where(a * b > 0.8, float("nan"), a - b),
        "v": wrap(v), "w": wrap(w), "V": v, "W": w, "S": s, "C": normal(n, 2), "R": normal(2, m),
        "P": normal(4, D), "Q": normal(4), "SQ": normal(D, D), "B": normal(m), "MC": normal(m, 2),
        "BM": normal(3, n, 2), "BV": normal(3, m, 2), "big": u.permute(2, 0, 1),
        "sq": ((wrap(Y)[:, None] - wrap(Y.flip(0))[None]) ** 2).sum(-1),
        "FULL": normal(m, n) if m * n < 1000 else normal(m, 1),
        "MASK": normal(m, 1) > 0, "IDX": torch.tensor([2, 0, 2]),
        "GI": torch.randint(0, n, (m, 2), generator=g), "T": targets,
        "CW": torch.rand(n, generator=g, dtype=torch.float64) + 0.1,
        "TABLE": torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64),
        "q": q, "K": normal(2, n, 4), "VV": normal(2, n, 3), "AM": normal(m, n) if m < 99 else 0,
        "AB": torch.ones(m, n, dtype=torch.bool).tril(1) if m < 99 else 0,
        "AZ": torch.arange(m)[:, None] > torch.arange(n)[None] if m < 99 else 0,
        "out": torch.empty(0, dtype=torch.float64),
    }  # fmt: skip


CALLS = Path(__file__).parent.parent / "conformance" / "torch_functions.txt"


def calls(outcome):
    lines = [line.split(" ", 1) for line in CALLS.read_text().splitlines() if line[0] != "#"]
    return [text for kind, text in lines if kind == outcome]


def values(text, names):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return eval(text.replace("BIG", "FULL.expand(2, 6, 5)"), dict(names))


def same(got, want, lazy):
    if isinstance(want, tuple) and not isinstance(want, torch.Size):
        assert type(got) is type(want) and len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            same(g, w, lazy)
        return
    if not isinstance(want, torch.Tensor):
        assert type(got) is type(want) and got == want
        return
    assert isinstance(got, LazyArray) == lazy, type(got)
    assert got.dtype == want.dtype
    assert tuple(got.shape) == tuple(want.shape)
    got = got.to_dense() if lazy else got
    assert got.dtype == want.dtype
    loose = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(want.dtype, 1e-9)
    torch.testing.assert_close(got, want, rtol=loose, atol=loose, equal_nan=True)


@pytest.fixture
def blocks():
    with config(engine="blocks"):
        yield


@pytest.mark.parametrize("text", calls("lazy"))
def test_it_stays_lazy_and_is_what_torch_computes(text, blocks):
    same(values(text, namespace(LazyArray)), values(text, namespace(plain)), True)


@pytest.mark.parametrize("text", calls("genuine"))
def test_it_is_computed_as_torch_does(text, blocks):
    same(values(text, namespace(LazyArray)), values(text, namespace(plain)), False)


def rows():
    """Each row that torch has, with lazy arrays, tensors and numbers, in each order."""
    for op in ops.TABLE:
        if op.torch is None or op.name in (
            "where",
            "complex",
            "imag",
            "gelu_erf",
            "hardtanh_range",
        ):
            continue
        lazy, dense = list("abc"[: op.nargs]), list("ABC"[: op.nargs])
        orders = [lazy]
        if op.nargs > 1:
            orders += [[*dense[:k], lazy[k], *dense[k + 1 :]] for k in range(op.nargs)]
        for operands in orders:
            yield op, f"torch.{op.torch}({', '.join(operands)})"


def within(op, wrap):
    """a, b, c over pairs and A, B, C as tensors, within the domain of a row."""
    domain = op.domain if isinstance(op.domain[0], tuple) else (op.domain,) * op.nargs
    whole = op.name.startswith("bitwise") or op.name in ("gcd", "lcm")
    names = {"torch": torch}
    for k, (low, high) in enumerate(domain):
        g = torch.Generator().manual_seed(k)
        parts = [torch.rand(n, generator=g, dtype=torch.float64) for n in ((M, 1), (1, N))]
        parts = [(low + (high - low) * p) / 2 for p in parts]
        full = low + (high - low) * torch.rand(M, N, generator=g, dtype=torch.float64)
        if whole:
            parts, full = [p.floor().long() for p in parts], full.floor().long()
            parts = [p.clamp(0, 4) if low == 0 else p for p in parts]
        one, other = (wrap(p, 0) for p in parts)
        names["abc"[k]], names["ABC"[k]] = one + other, full
    return names


@pytest.mark.parametrize(("op", "text"), rows(), ids=lambda x: x if isinstance(x, str) else "")
def test_a_row_is_what_torch_computes(op, text, blocks):
    same(values(text, within(op, LazyArray)), values(text, within(op, plain)), True)


def test_every_handler_has_an_example():
    text = CALLS.read_text() + "".join(f" {row} " for _, row in rows())
    handlers = {}
    for some in CLASSES.values():
        for name, handler in some.items():
            if not re.search(r"__\w+__$|cuda$|empty_like$|ravel$", name):
                handlers.setdefault(handler, []).append(name.rpartition(".")[2].removeprefix("_"))
    missing = [
        names for names in handlers.values() if not any(re.search(rf"\b{n}\(", text) for n in names)
    ]
    assert missing == []


# -- the compiled engine ---------------------------------------------------------------------------

PLAIN = r"(torch|F)\.(?!full)\w+\([depk](,|\))"
UNDER_A_SUM = [c for c in calls("lazy") if re.match(PLAIN, c)][::6]


@pytest.mark.parametrize("text", UNDER_A_SUM)
def test_compiled_sums_are_those_of_torch(text):
    got, want = (values(text, namespace(w)) for w in (LazyArray, plain))
    if isinstance(want, torch.Tensor) and want.dtype.is_floating_point and want.shape == (M, N):
        same(got.sum(1), want.sum(1), False)


# -- refusals --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large():
    return namespace(LazyArray, 20_000, 15_000)


@pytest.mark.parametrize("text", calls("refused"))
def test_a_refusal_allocates_nothing_and_says_what_to_do(text, large):
    tracemalloc.start()
    try:
        with pytest.raises((UnsupportedError, RuntimeError)) as caught:
            values(text, large)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4e6
    assert re.search(r"no pairwise form|out=|depends on the data|all of numpy", str(caught.value))
    assert len(str(caught.value).splitlines()) >= 2


def test_adding_a_lazy_array_in_place_is_refused(large):
    tensor = torch.zeros(20_000, 1)
    with pytest.raises(RuntimeError, match="x = x"):
        tensor += large["d"]
    with pytest.raises(RuntimeError, match="x = x"):
        tensor *= large["d"]


@pytest.mark.parametrize("make", (torch.tensor, torch.as_tensor, torch.asarray, torch.from_dlpack))
def test_no_tensor_is_made_of_all_entries(make, large):
    with pytest.raises(Exception, match="needs all entries of d") as caught:
        make(large["d"])
    assert "Reduce first" in str(caught.value)


def test_wrong_arguments_are_torchs_errors():
    d = namespace(LazyArray)["d"]
    k = namespace(LazyArray)["k"]
    for call, error in (
        (lambda: d.sum(2), IndexError),
        (lambda: d.sum((0, 0)), RuntimeError),
        (lambda: torch.mean(k, 1), TypeError),
        (lambda: d @ torch.ones(N), TypeError),
        (lambda: torch.topk(d, 9, 1), RuntimeError),
        (lambda: d.narrow(1, 3, 4), RuntimeError),
        (lambda: d.permute(0), RuntimeError),
        (lambda: torch.imag(d), RuntimeError),
    ):
        with pytest.raises(error):
            call()


# -- gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", calls("gradient"))
def test_gradients_flow_to_the_inputs(text):
    def gradients(wrap):
        names = namespace(plain)
        X, Y = (names[k].clone().requires_grad_() for k in "xy")
        x, y = wrap(X), wrap(Y)
        u = x[:, None] - y[None]
        value = values(text, names | {"x": x, "y": y, "u": u, "d": (u**2).sum(-1)})
        weights = torch.linspace(1, 2, value.numel(), dtype=value.dtype).reshape(value.shape)
        return torch.autograd.grad((value * weights).sum(), (X, Y))

    for got, want in zip(gradients(LazyArray), gradients(plain), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_detach_stops_gradients():
    x = torch.randn(4, 3, requires_grad=True)
    d = (LazyArray(x)[:, None] - LazyArray(x)[None]).square().sum(-1)
    assert d.sum(1).requires_grad
    assert not d.detach().sum(1).requires_grad


def test_what_is_sorted_is_a_named_tuple_to_be_sliced():
    got = torch.sort(namespace(LazyArray)["d"], 1)
    assert type(got) is torch.return_types.sort
    assert isinstance(got.values, sorting.Ordered)


def test_every_row_that_torch_names_is_a_method():
    d = namespace(LazyArray)["d"]
    names = [op.torch for op in ops.TABLE if op.torch and "." not in op.torch]
    assert [n for n in names if hasattr(torch.Tensor, n) and not hasattr(type(d), n)] == []
