"""Sums over the same pairs, in one pass: the values of one by one, and one kernel for each pass."""

import numpy as np
import pytest
from gallery import FORMULAS, sample
from test_symbolic import constant, cotangent, directional, inputs_of, lazy_value

from duckkeops import LazyArray, config, evaluate, expr, joint, launch, plan, reductions
from duckkeops.engines import cpu, threads
from duckkeops.explain import explain_passes
from duckkeops.expr import Concat, Input, Node, Reduce, walk
from duckkeops.gradients import gradient

pytestmark = pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")

SUM = reductions.BY_NAME["sum"]
SIZES = [(0, 33), (33, 0), (1, 1), (1, 33), (33, 1), (33, 257), (257, 33)]


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch):
    """The values are tested, not the optimizer."""
    flags = tuple(f.replace("-O2", "-O0") for f in cpu.SAFE_FLAGS)
    monkeypatch.setattr(cpu, "SAFE_FLAGS", flags)


@pytest.fixture
def launched(monkeypatch):
    """The kernels that are launched, in turn."""
    out, run = [], threads.run

    def counted(library, *rest):
        out.append(library)
        run(library, *rest)

    monkeypatch.setattr(launch.threads, "run", counted)
    return out


def problem(rows, columns, dtype="float64", batch=(), features=3):
    """g_i exp(-|x_i - y_j|^2 / (2 s^2)) b_j: the arrays, its value, g, and the inputs by name."""
    rng = np.random.default_rng(rows + columns)
    shapes = dict(
        x=(*batch, rows, 1, features), y=(*batch, 1, columns, features), b=(*batch, 1, columns)
    )
    shapes |= dict(g=(*batch, rows, 1), s=(1,) * (len(batch) + 2))
    data = {name: rng.random(shape).astype(dtype) for name, shape in shapes.items()}
    data["s"] += np.asarray(0.5, dtype)
    lazy = {
        name: LazyArray(a, feature_ndim=int(name in "xy"), batch_ndim=len(batch))
        for name, a in data.items()
    }
    square = ((lazy["x"] - lazy["y"]) ** 2).sum(-1)
    value = (np.exp(-square / (2 * lazy["s"] ** 2)) * lazy["b"])._node
    return data, value, constant(data["g"], value), {n: a._node for n, a in lazy.items()}


def terms(value: Node, g: Node, inputs, names="xybs") -> list[Reduce]:
    return [t.node for name in names for t in gradient(value, g, inputs[name])]


def closed_form(data, names="xybs"):
    """The same gradients in NumPy, in float64."""
    x, y, b, g, s = (data[name].astype(float) for name in "xybgs")
    u = x - y
    square = (u**2).sum(-1)
    k = np.exp(-square / (2 * s**2))
    w = (g * b * k / s**2)[..., None] * u
    both = {"x": -w.sum(-2), "y": w.sum(-3), "b": (g * k).sum(-2)}
    both["s"] = (g * b * k * square / s**3).sum()
    return [both[name] for name in names]


def compare(got, want, tolerance):
    for a, b in zip(got, want, strict=True):
        assert a.shape == np.shape(b)
        assert a.flags.c_contiguous and a.flags.writeable
        scale = abs(np.asarray(b)).max() if np.size(b) else 1
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(scale, 1e-30))


def places(nodes) -> list[tuple[int, ...]]:
    return [one.members for one in joint.passes(nodes)]


# -- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", SIZES)
def test_gradients_of_every_size(sizes, dtype):
    data, value, g, inputs = problem(*sizes, dtype)
    nodes = terms(value, g, inputs)
    got = joint.evaluate_jointly(nodes)
    assert [a.dtype for a in got] == [np.dtype(dtype)] * 4
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    compare(got, [evaluate.evaluate(n) for n in nodes], tolerance)
    want = closed_form(data)
    compare(got, [np.reshape(w, n.shape) for w, n in zip(want, nodes, strict=True)], tolerance)


@pytest.mark.parametrize("features", [1, 2, 10])
@pytest.mark.parametrize("batch", [(4,), (2, 3), (1,)])
def test_batch_axes(batch, features, launched):
    data, value, g, inputs = problem(33, 17, batch=batch, features=features)
    nodes = terms(value, g, inputs, "ybs")
    assert places(nodes) == [(0, 1, 2)]
    got = joint.evaluate_jointly(nodes)
    assert len(launched) == 1
    want = closed_form(data, "ybs")
    compare(got, [np.reshape(w, n.shape) for w, n in zip(want, nodes, strict=True)], 1e-12)


def test_a_sum_for_each_batch_goes_along(launched):
    """s has one number for each entry of the batch."""
    data, *_ = problem(33, 17, batch=(4,))
    data["s"] = np.linspace(0.5, 1, 4).reshape(4, 1, 1)
    lazy = LazyArray(data["s"], feature_ndim=0, batch_ndim=1)
    x, y, b = (LazyArray(data[n], feature_ndim=int(n != "b"), batch_ndim=1) for n in "xyb")
    value = (np.exp(-((x - y) ** 2).sum(-1) / (2 * lazy**2)) * b)._node
    found = [inputs_of(value, data[n])[0] for n in "xs"]
    nodes = [t.node for one in found for t in gradient(value, constant(data["g"], value), one)]
    assert [n.shape for n in nodes] == [(4, 33, 3), (4,)]
    got = joint.evaluate_jointly(nodes)
    assert len(launched) == 1
    compare(got, [evaluate.evaluate(n) for n in nodes], 1e-12)


@pytest.mark.parametrize("name", ["attention", "tutorial", "label_mask", "anisotropic"])
def test_formulas(name, launched):
    """All gradients of a formula: features of the value, masks, matrices."""
    data = sample(FORMULAS[name].leaves, 5, 6)
    value = lazy_value(name, data)
    g = constant(cotangent(name, data), value)
    nodes = [
        t.node
        for leaf in FORMULAS[name].leaves
        for view in inputs_of(value, data[leaf])
        for t in gradient(value, g, view)
    ]
    got = joint.evaluate_jointly(nodes)
    assert len(launched) == len(places(nodes)) < len(nodes)
    compare(got, [evaluate.evaluate(n) for n in nodes], 1e-12)


def test_complex_gradients(launched):
    """Of one dtype those share a pass; the real ones another."""
    rng = np.random.default_rng(0)
    x, y = rng.random((9, 1, 3)), rng.random((1, 33, 3))
    b, c = (rng.random((1, 33)) + 1j * rng.random((1, 33)) for _ in "bc")
    lazy = [LazyArray(x), LazyArray(y), *(LazyArray(a, feature_ndim=0) for a in (b, c))]
    value = (np.exp(1j * (lazy[0] * lazy[1]).sum(-1)) * lazy[2] * lazy[3])._node
    g = rng.random((9, 1)) + 1j * rng.random((9, 1))
    nodes = [t.node for one in lazy[1:] for t in gradient(value, constant(g, value), one._node)]
    assert places(nodes) == [(0,), (1, 2)]
    got = joint.evaluate_jointly(nodes)
    assert len(launched) == 2
    k = np.exp(1j * (x * y).sum(-1))
    want = [(g * np.conj(k * other)).sum(0) for other in (c, b)]
    compare(got[1:], want, 1e-13)
    compare(got[:1], [evaluate.evaluate(nodes[0])], 1e-13)


@pytest.mark.parametrize("name", ["gaussian", "matern52", "attention"])
def test_second_order(name, launched):
    """Gradients of Hessian products: a Vjp of a Vjp."""
    data = sample(FORMULAS[name].leaves, 33, 9)
    value = lazy_value(name, data)
    v = np.random.default_rng(0).standard_normal(data["x"].shape)
    (along,) = directional(value, constant(cotangent(name, data), value), data["x"], v)
    one = Input(np.ones((1, 1)), np.dtype(float), "nn")
    leaves = [leaf for leaf in FORMULAS[name].leaves if leaf != "v"]
    nodes = [
        t.node
        for leaf in leaves
        for view in inputs_of(value, data[leaf])
        for t in gradient(along, one, view)
    ]
    got = joint.evaluate_jointly(nodes)
    assert places(nodes) == [(0, 2), (1,)] and len(launched) == 2
    compare(got, [evaluate.evaluate(n) for n in nodes], 1e-11)


@pytest.mark.parametrize(
    "settings",
    [dict(accumulate="float64"), dict(accumulate="compensated"), dict(precision="exact")],
    ids=str,
)
def test_settings(settings):
    data, value, g, inputs = problem(33, 257, "float32")
    nodes = terms(value, g, inputs, "ybs")
    with config(**settings):
        got = joint.evaluate_jointly(nodes)
        compare(got, [evaluate.evaluate(n) for n in nodes], 5e-7)
    want = closed_form(data, "ybs")
    compare(got, [np.reshape(w, n.shape) for w, n in zip(want, nodes, strict=True)], 2e-6)


def test_split_columns(monkeypatch):
    """Where rows are few, the parts of the columns have states of their own."""
    monkeypatch.setattr(plan, "SPLIT_PAIRS", 0)
    monkeypatch.setattr(plan, "SPLIT_COLUMNS", 100)
    data, value, g, inputs = problem(1111, 6)
    nodes = terms(value, g, inputs, "ybs")
    joint._plans.clear()
    got = joint.evaluate_jointly(nodes)
    (ready,) = next(iter(joint._plans.values()))
    joint._plans.clear()
    assert ready.launch.splits == 11
    want = closed_form(data, "ybs")
    compare(got, [np.reshape(w, n.shape) for w, n in zip(want, nodes, strict=True)], 1e-12)


def test_many_threads_and_other_numbers():
    """A pass that was planned before takes the arrays of the next expression."""
    data, value, g, inputs = problem(257, 33)
    joint.evaluate_jointly(terms(value, g, inputs))
    known = len(joint._plans)
    x = data["x"].copy()
    with config(threads=3):
        data["x"] *= 2  # the inputs are views of it
        again = joint.evaluate_jointly(terms(value, g, inputs))
    assert len(joint._plans) == known and not np.array_equal(x, data["x"])
    want = closed_form(data)
    compare(again, [np.reshape(w, a.shape) for w, a in zip(want, again, strict=True)], 1e-12)


# -- sums that are no gradients --------------------------------------------------------------------


def test_sums_with_features_of_their_own(launched):
    rng = np.random.default_rng(0)
    x, y, v, w = (rng.random(s) for s in ((90, 1, 2), (1, 70, 2), (1, 70, 4), (1, 70, 2, 3)))
    d = ((LazyArray(x) - LazyArray(y)) ** 2).sum(-1)
    values = [d, d[..., None] * LazyArray(v), d[..., None, None] * LazyArray(w, feature_ndim=2)]
    nodes = [reductions.reduce(SUM, (value._node,), (1,)) for value in values]
    nodes += [reductions.reduce(SUM, (np.sqrt(d)._node,), (0, 1))]
    assert places(nodes) == [(0, 1, 2, 3)]
    got = joint.evaluate_jointly(nodes)
    assert len(launched) == 1
    dense = ((x - y) ** 2).sum(-1)
    want = [dense.sum(1), dense @ v[0], np.einsum("ij,jef->ief", dense, w[0]), np.sqrt(dense).sum()]
    compare(got, want, 1e-13)


def test_tensors(launched):
    """Their entries as NumPy arrays, in one pass; each by itself where torch may differentiate."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, y = torch.tensor(rng.random((300, 1))), torch.tensor(rng.random((1, 70)))
    d = LazyArray(x, feature_ndim=0) * LazyArray(y, feature_ndim=0)
    nodes = [reductions.reduce(SUM, (f(d)._node,), (1,)) for f in (torch.exp, torch.cos)]
    assert places(nodes) == [(0, 1)]
    got = joint.arrays(nodes)
    assert len(launched) == 1
    want = [f(x * y).sum(1) for f in (torch.exp, torch.cos)]
    compare(got, [w.numpy() for w in want], 1e-13)
    for a, b in zip(joint.evaluate_jointly(nodes), want, strict=True):
        torch.testing.assert_close(a, b)


def test_backward_is_one_launch_a_pass(launched):
    """The first one, and those that repeat it with other tensors."""
    torch = pytest.importorskip("torch")
    for seed in range(3):
        data, *_ = problem(33, 20 + seed)
        leaves = {n: torch.tensor(a, requires_grad=n in "xybs") for n, a in data.items()}
        x, y, b, s = (LazyArray(leaves[n], feature_ndim=int(n in "xy")) for n in "xybs")
        d = torch.exp(-((x - y) ** 2).sum(-1) / (2 * s**2)) * b
        out = d.sum(1)
        del launched[:]
        out.backward(leaves["g"][:, 0])
        assert len(launched) == 2
        got = [leaves[n].grad.numpy() for n in "xybs"]
        compare(
            got,
            [np.reshape(w, a.shape) for w, a in zip(closed_form(data), got, strict=True)],
            1e-12,
        )


def test_backward_of_a_softmax_repeats():
    """Its logsumexp, which the backward pass reads, has no features."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    v = torch.tensor(rng.random((9, 2)))
    for _ in range(2):
        x, y = (torch.tensor(rng.random(s), requires_grad=True) for s in ((7, 1), (1, 9)))
        lazy = torch.softmax(LazyArray(x, feature_ndim=0) * LazyArray(y, feature_ndim=0), 1) @ v
        dense = torch.softmax(x * y, 1) @ v
        g = torch.tensor(rng.random((7, 2)))
        got = torch.autograd.grad(lazy, (x, y), g)
        for a, b in zip(got, torch.autograd.grad(dense, (x, y), g), strict=True):
            torch.testing.assert_close(a, b)


def test_sums_over_everything_share_a_pass(launched):
    rng = np.random.default_rng(0)
    x, y = rng.random((300, 1)), rng.random((1, 70))
    d = LazyArray(x, feature_ndim=0) * LazyArray(y, feature_ndim=0)
    nodes = [reductions.reduce(SUM, (f(d)._node,), (0, 1)) for f in (np.exp, np.cos, np.sqrt)]
    assert places(nodes) == [(0, 1, 2)]
    got = joint.evaluate_jointly(nodes)
    assert len(launched) == 1
    compare(got, [f(x * y).sum() for f in (np.exp, np.cos, np.sqrt)], 1e-13)


def test_what_stays_alone():
    """Other reductions, dtypes, pairs and concatenated values; each has its value all the same."""
    rng = np.random.default_rng(0)
    x, y, z = rng.random((300, 1)), rng.random((1, 70)), rng.random((1, 71))
    a, b, c = (LazyArray(v, feature_ndim=0) for v in (x, y, z))
    d, f = np.exp(a * b), np.exp(a * c)
    small = (d.astype("float32") * 2)._node
    joined = Concat((d._node, f._node), 1, np.dtype(float))
    dense, other = np.exp(x * y), np.exp(x * z)
    cases = {
        reductions.reduce(SUM, (d._node,), (1,)): dense.sum(1),
        reductions.reduce(reductions.BY_NAME["max"], (d._node,), (1,)): dense.max(1),
        reductions.reduce(SUM, (small,), (1,)): 2 * dense.sum(1),
        reductions.reduce(SUM, (f._node,), (1,)): other.sum(1),
        reductions.reduce(SUM, (joined,), (1,)): dense.sum(1) + other.sum(1),
        reductions.reduce(SUM, (d._node,), (0,)): dense.sum(0),
        reductions.reduce(SUM, (a._node,), (1,)): x[:, 0],
    }
    nodes = list(cases)
    assert places(nodes) == [(k,) for k in range(7)]
    for got, want in zip(joint.evaluate_jointly(nodes), cases.values(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)
    with config(engine="blocks"):
        assert places(nodes[:1] * 2) == [(0,), (1,)]
        for got in joint.evaluate_jointly(nodes[:1] * 2):
            np.testing.assert_allclose(got, dense.sum(1), rtol=1e-13)
    assert joint.evaluate_jointly([]) == []


def test_values_to_be_added_up_fit_into_memory(monkeypatch):
    _, value, g, inputs = problem(33, 257)
    nodes = terms(value, g, inputs, "ys")
    assert places(nodes) == [(0, 1)]
    monkeypatch.setattr(joint, "MOST_ADDED", 257 * 8 - 1)
    assert places(nodes) == [(0,), (1,)]
    monkeypatch.setattr(joint, "MOST_OUTPUTS", 2)
    assert places(terms(value, g, inputs, "byb")) == [(0, 2), (1,)]


def test_the_blocks_engine_launches_no_kernel(launched):
    """Not even one that is there already."""
    _, value, g, inputs = problem(33, 257)
    nodes = terms(value, g, inputs)
    want = joint.evaluate_jointly(nodes)
    alone = [evaluate.evaluate(n) for n in nodes]
    launched.clear()
    with config(engine="blocks"):
        compare(joint.evaluate_jointly(nodes), want, 1e-12)
        compare([evaluate.evaluate(n) for n in nodes], alone, 1e-12)
    assert launched == []


def test_kernels_do_not_depend_on_the_number_of_points():
    _, value, g, inputs = problem(33, 257)
    joint.evaluate_jointly(terms(value, g, inputs))
    known = len(evaluate._kernels)
    _, value, g, inputs = problem(257, 40)
    joint.evaluate_jointly(terms(value, g, inputs))
    assert len(evaluate._kernels) == known


# -- for people ------------------------------------------------------------------------------------


def test_explanation():
    _, value, g, inputs = problem(257, 33)
    nodes = terms(value, g, inputs, "xybs")
    assert explain_passes(nodes, "xybs") == (
        "pass 1     x, s: 257 rows, each over 33 columns, with 4 results a row; "
        "those of s are merged at the end\n"
        "pass 2     y, b: 33 rows, each over 257 columns, with 4 results a row"
    )
    assert all(type(n) is not expr.Joint for n in walk(*nodes))
