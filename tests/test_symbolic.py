"""Derivatives and LaTeX.

Derivatives run through the compiled engine, against differences of NumPy and closed forms.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mpmath
import numpy as np
import pytest
import sympy
from gallery import FORMULAS, LEAVES, sample

from duckkeops import LazyArray, config, evaluate, expr, ops, reductions, views
from duckkeops import functions as fn
from duckkeops.engines import cpu
from duckkeops.errors import DtypeError, UnsupportedError
from duckkeops.expr import Concat, Input, Node, Vjp, walk
from duckkeops.gradients import gradient, total
from duckkeops.latex import latex
from duckkeops.ops import TABLE, call
from duckkeops.symbolic import Elem, Fold, Let, Program, Translator, elem, elems, indices
from duckkeops.tidy import cost, tidy

SUM = reductions.BY_NAME["sum"]
ROWS, COLUMNS = 5, 6

each_formula = pytest.mark.parametrize("name", FORMULAS)


OPTIMIZED = ("test_float32_far_from_the_origin", "test_product_with_zeros_and_ties_of_a_maximum")


@pytest.fixture(autouse=True)
def quick_compiler(request, monkeypatch):
    """The formulas are tested, not the optimizer:
    compiling 300 kernels takes a quarter of the time so.
    """
    if request.node.originalname not in OPTIMIZED:
        monkeypatch.setattr(
            cpu, "SAFE_FLAGS", tuple(f.replace("-O2", "-O0") for f in cpu.SAFE_FLAGS)
        )


# -- gradients, by hand ----------------------------------------------------------------------------


def lazy(name: str, array: np.ndarray) -> LazyArray:
    return LazyArray(array, feature_ndim=sum(c in "de" for c in LEAVES[name]) if name != "l" else 1)


def lazy_value(name: str, data: dict[str, np.ndarray]) -> Node:
    f = FORMULAS[name]
    return f.function(*(lazy(leaf, data[leaf]) for leaf in f.leaves))._node


def dense_value(name: str, data: dict[str, np.ndarray]) -> np.ndarray:
    f = FORMULAS[name]
    with np.errstate(all="ignore"):
        return f.function(*(data[leaf] for leaf in f.leaves))


def constant(array: np.ndarray, value: Node) -> Input:
    """An input beside `value`, with its roles."""
    return Input(array, array.dtype, value.roles[value.ndim - array.ndim :])


def input_gradient(value: Node, cotangent: Node, wrt: Input) -> np.ndarray:
    terms = gradient(value, cotangent, wrt)
    return total(np, [evaluate.evaluate(t.node) for t in terms], [t.order for t in terms], wrt)


def array_gradient(value: Node, cotangent: Node, base: np.ndarray) -> np.ndarray:
    """The gradient of an array of which the inputs are views."""
    out = np.zeros(base.size, base.dtype)
    for view in inputs_of(value, base):
        np.add.at(
            out, like(view, base, np.arange(base.size)), input_gradient(value, cotangent, view)
        )
    return out.reshape(base.shape)


def inputs_of(value: Node, base: np.ndarray) -> list[Input]:
    return [one for one in expr.inputs(value) if np.shares_memory(one.array, base)]


def like(view: Input, base: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`other`, of the same entries as `base`, seen as the input sees `base`."""
    offset = (
        view.array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    ) // base.itemsize
    strides = [s // base.itemsize * other.itemsize for s in view.array.strides]
    return np.lib.stride_tricks.as_strided(other.reshape(-1)[offset:], view.shape, strides)


def gradients(
    name: str, data: dict[str, np.ndarray], g: np.ndarray, leaves=None
) -> dict[str, np.ndarray]:
    value = lazy_value(name, data)
    leaves = leaves or FORMULAS[name].leaves
    return dict(
        zip(
            leaves,
            both(lambda leaf: array_gradient(value, constant(g, value), data[leaf]), leaves),
            strict=True,
        )
    )


def both(f, items) -> list:
    """f of each, two at a time: most of the time goes into the C compiler."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(f, items))


def real_product(g: np.ndarray, value: np.ndarray) -> np.ndarray:
    return (np.conj(g) * value).real


def loss(name: str, data: dict[str, np.ndarray], g: np.ndarray) -> float:
    return float(real_product(g, dense_value(name, data)).sum())


def differences(f, x: np.ndarray, step: float = 1e-4) -> np.ndarray:
    """The derivative of f by each entry of x, of fourth order."""
    out = []
    for k in range(x.size):
        e = np.zeros(x.size)
        e[k] = step
        e = e.reshape(x.shape)
        out.append((8 * (f(x + e) - f(x - e)) - (f(x + 2 * e) - f(x - 2 * e))) / (12 * step))
    return np.array(out).reshape(x.shape + np.shape(out[0] if out else 0))


def cotangent(name: str, data: dict[str, np.ndarray], seed: int = 1) -> np.ndarray:
    """One for each row, as that of a sum over columns."""
    rng = np.random.default_rng(seed)
    rows = next(a.shape[0] for a in data.values() if a.ndim > 1 and a.shape[0] != 1)
    shape = (rows, 1) if FORMULAS[name].out == "ij" else (rows, 1, data["x"].shape[-1])
    g = rng.standard_normal(shape)
    return g + 1j * rng.standard_normal(shape) if name == "fourier" else g


@each_formula
def test_values(name):
    data = sample(FORMULAS[name].leaves, ROWS, COLUMNS)
    value = lazy_value(name, data)
    want = dense_value(name, data).sum(1)
    np.testing.assert_allclose(
        evaluate.evaluate(reductions.reduce(SUM, (value,), (1,))), want, rtol=1e-13, atol=1e-14
    )


@each_formula
def test_gradient_of_every_input(name):
    data = sample(FORMULAS[name].leaves, ROWS, COLUMNS)
    g = cotangent(name, data)
    for leaf, got in gradients(name, data, g).items():
        want = differences(lambda a, leaf=leaf: loss(name, {**data, leaf: a}, g), data[leaf])
        np.testing.assert_allclose(
            got, want, rtol=1e-7, atol=1e-8 * max(1, abs(want).max()), err_msg=f"{name}, {leaf}"
        )


# -- second derivatives ----------------------------------------------------------------------------


def directional(value: Node, g: Node, base: np.ndarray, direction: np.ndarray) -> list[Node]:
    """direction * d loss / d base, for each pair."""
    out = []
    for view in inputs_of(value, base):
        for term in gradient(value, g, view):
            (vjp,) = term.node.args
            assert isinstance(vjp, Vjp)
            left = vjp.ndim - len(vjp.new)
            n = len(vjp.whole)
            at = [
                next((a for a, p in enumerate(vjp.place) if p == k - n), None) for k in range(left)
            ]
            v = like(view, base, direction)
            v = v.transpose(
                [a for a in at if a is not None]
                + list(vjp.new)
                + [a for a in range(view.ndim) if view.shape[a] == 1]
            )
            v = v.reshape(
                [1 if a is None else view.shape[a] for a in at] + [view.shape[a] for a in vjp.new]
            )
            product = call("multiply", vjp, constant(v, vjp))
            out.append(
                reductions.reduce(SUM, (product,), range(left, vjp.ndim)) if vjp.new else product
            )
    return out


def hessian_products(
    name: str, data: dict, g: np.ndarray, directions: dict
) -> dict[str, np.ndarray]:
    """d/dt of the gradients of x and y, along x + t directions["x"], y + t directions["y"]."""
    value = lazy_value(name, data)
    parts = [
        p
        for leaf in "xy"
        for p in directional(value, constant(g, value), data[leaf], directions[leaf])
    ]
    along = functools.reduce(lambda a, b: call("add", a, b), parts)
    one = Input(np.ones((1, 1)), np.dtype(float), "nn")
    return dict(
        zip("xy", both(lambda leaf: array_gradient(along, one, data[leaf]), "xy"), strict=True)
    )


@each_formula
def test_hessian_products(name):
    data = sample(FORMULAS[name].leaves, ROWS, COLUMNS)
    g = cotangent(name, data)
    rng = np.random.default_rng(2)
    v = {leaf: rng.standard_normal(data[leaf].shape) for leaf in "xy"}
    got = hessian_products(name, data, g, v)

    def moved(t):
        return gradients(
            name, {**data, **{leaf: data[leaf] + t * v[leaf] for leaf in "xy"}}, g, "xy"
        )

    h = 2e-5
    steps = {t: moved(t * h) for t in (-2, -1, 1, 2)}
    for leaf in "xy":
        want = (8 * (steps[1][leaf] - steps[-1][leaf]) - (steps[2][leaf] - steps[-2][leaf])) / (
            12 * h
        )
        np.testing.assert_allclose(
            got[leaf], want, rtol=1e-7, atol=1e-8 * max(1, abs(want).max()), err_msg=leaf
        )


def test_backward_of_backward():
    """A gradient is a value again: by each input, and by the cotangent of the first."""
    data = sample("xyg", ROWS, COLUMNS)
    value = lazy_value("matern52", data)
    (x,), g = inputs_of(value, data["x"]), constant(cotangent("matern52", data), value)
    ((first, _),) = gradient(value, g, x)
    v = np.random.default_rng(3).standard_normal(data["x"].shape)

    def inner(changed):
        name = {id(g.array): "cotangent", **{id(a): leaf for leaf, a in data.items()}}
        arrays = {leaf: changed.get(leaf, a) for leaf, a in data.items()}
        assert set(changed) <= set(name.values())
        return float(
            (gradients("matern52", arrays, changed.get("cotangent", g.array), "x")["x"] * v).sum()
        )

    wants = {**data, "cotangent": g.array}
    for leaf, base in wants.items():
        (vjp,) = first.args
        got = array_gradient(vjp, constant(v, vjp), base)
        want = differences(lambda a, leaf=leaf: inner({leaf: a}), base)
        np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-8 * abs(want).max(), err_msg=leaf)


# -- where roots and quotients are 0/0, and numbers of features ------------------------------------


def coincident(name, features=3):
    point = np.random.default_rng(0).random((1, 1, features))
    data = dict(x=point, y=point.copy(), g=np.array(0.8), q=np.ones((1, 1)), a=np.ones((1, 1)))
    return {leaf: data[leaf] for leaf in FORMULAS[name].leaves}


@pytest.mark.parametrize("features", [1, 3])
@pytest.mark.parametrize(
    ("name", "curvature"),
    [
        ("gaussian", -2 * 0.8),
        ("cauchy", -2 / 0.8**2),
        ("matern52", -2 * 5 / 6 * 0.8),
        ("wendland", -2 * 10 * 0.8**2),
        ("laplacian", 0),
        ("energy", 0),
    ],
)
def test_derivatives_at_coincident_points(name, curvature, features):
    """Smooth kernel functions have their limits, and the kinks of others subgradient 0:
    never 0 * inf.
    """
    data, one = coincident(name, features), np.ones((1, 1))
    v = np.arange(1.0, 1 + features).reshape(1, 1, features)
    first = gradients(name, data, one, "xy")
    second = hessian_products(name, data, one, dict(x=v, y=np.zeros_like(v)))
    assert not first["x"].any() and not first["y"].any()
    np.testing.assert_allclose(second["x"], curvature * v, rtol=1e-14)
    np.testing.assert_allclose(second["y"], -curvature * v, rtol=1e-14)


def test_what_is_infinite_stays_so():
    got = gradients("coulomb", coincident("coulomb"), np.ones((1, 1)))
    assert np.isinf(got["q"]).all() and np.isinf(got["a"]).all() and not np.isfinite(got["x"]).any()


@pytest.mark.parametrize("features", [1, 2, 10])
@pytest.mark.parametrize(
    "name", ["laplacian", "matern52", "maxnorm", "anisotropic", "attention", "tutorial"]
)
def test_numbers_of_features(name, features):
    data = sample(FORMULAS[name].leaves, ROWS, COLUMNS, features, seed=5)
    g = cotangent(name, data)
    leaf = "y" if name == "tutorial" else "x"
    got = gradients(name, data, g, [leaf])[leaf]
    want = differences(lambda a: loss(name, {**data, leaf: a}, g), data[leaf])
    np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-8 * max(1, abs(want).max()))


# -- closed forms ----------------------------------------------------------------------------------


def test_closed_forms():
    data = sample("xyg", ROWS, COLUMNS)
    x, y, g = data.values()
    u, s = x - y, ((x - y) ** 2).sum(-1)
    weight = np.ones((ROWS, 1))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-13)
    k = np.exp(-g * s)
    got = gradients("gaussian", data, weight)
    close(got["x"], (-2 * g * k[..., None] * u).sum(1, keepdims=True))
    close(got["y"], (2 * g * k[..., None] * u).sum(0, keepdims=True))
    close(got["g"], -(s * k).sum())
    close(
        gradients("energy", dict(x=x, y=y), weight)["x"],
        -(u / np.sqrt(s)[..., None]).sum(1, keepdims=True),
    )
    close(gradients("l1", dict(x=x, y=y), weight)["x"], np.sign(u).sum(1, keepdims=True))


@pytest.mark.parametrize(
    "name",
    ["gaussian", "matern52", "inv_multiquadric", "wendland", "ard_gaussian", "lennard_jones"],
)
def test_float32_far_from_the_origin(name):
    """Differences of 1e-2 on an offset of 100: no derivative multiplies them out."""
    rng = np.random.default_rng(0)
    data = sample(FORMULAS[name].leaves, 8, 1)
    data |= {leaf: 100 + 1e-2 * rng.standard_normal(data[leaf].shape) for leaf in "xy"}
    data |= (
        {"g": np.array({"gaussian": 900.0, "lennard_jones": 0.01}.get(name, 1.5))}
        if "g" in data
        else {}
    )
    low = {leaf: a.astype(np.float32) for leaf, a in data.items()}
    high = {leaf: a.astype(np.float64) for leaf, a in low.items()}
    got = gradients(name, low, np.ones((8, 1), np.float32), "x")["x"]
    want = gradients(name, high, np.ones((8, 1)), "x")["x"]
    assert got.dtype == np.float32
    assert (abs(got - want) / abs(want)).max() < 3e-6
    assert abs(got - want).max() / abs(want).max() < 3e-7


# -- axes of every kind ----------------------------------------------------------------------------


def sq(u):
    return (u * u).sum(-1)


CASES = {  # what, the leaves' shapes, (features, batches) of each
    "batches": (lambda x, y: np.exp(-sq(x - y)), dict(x=(2, 4, 1, 3), y=(2, 1, 5, 3)), (1, 1)),
    "shared by the batches": (
        lambda x, y, p: np.exp(-sq((x - y) / p)),
        dict(x=(2, 4, 1, 3), y=(5, 3), p=(3,)),
        ((1, 1), (1, 0), (1, 0)),
    ),
    "three points": (
        lambda x, y, z: np.exp(-np.exp(-sq(x - z) * sq(y - z)).sum(2)),
        dict(x=(4, 1, 1, 3), y=(1, 5, 1, 3), z=(1, 1, 6, 3)),
        (1, 0),
    ),
    "maximum over points": (
        lambda x, y, z: (sq(x - z) * sq(y - z)).max(2),
        dict(x=(4, 1, 1, 3), y=(1, 5, 1, 3), z=(1, 1, 6, 3)),
        (1, 0),
    ),
    "product over points": (
        lambda x, y, z: np.cos((x - y * z).prod(2)),
        dict(x=(4, 1, 1), y=(1, 5, 1), z=(1, 1, 6)),
        (0, 0),
    ),
    "product over two axes": (
        lambda x, y: (x - y).prod((-1, -2)),
        dict(x=(4, 1, 3, 2), y=(1, 5, 3, 2)),
        (2, 0),
    ),
    "minimum over two axes": (
        lambda x, y: (x * y).min((-1, -2)),
        dict(x=(4, 1, 3, 2), y=(1, 5, 3, 2)),
        (2, 0),
    ),
    "argmin is constant": (
        lambda x, y: abs(x - 3 * y).argmin(-1) * x[..., 0],
        dict(x=(4, 1, 3), y=(1, 5, 3)),
        (1, 0),
    ),
    "two outputs' axes": (
        lambda x, y, v: np.exp(-sq(x - y))[..., None, None] * v,
        dict(x=(4, 1, 3), y=(1, 5, 3), v=(1, 5, 2, 3)),
        ((1, 0), (1, 0), (2, 0)),
    ),
    "matrix and bias": (
        lambda x, y, w, b: np.tanh(((x - y)[..., None] * w).sum(-2) + b),
        dict(x=(4, 1, 3), y=(1, 5, 3), w=(3, 2), b=(2,)),
        ((1, 0), (1, 0), (2, 0), (1, 0)),
    ),
    "at two places": (
        lambda x, a: np.cos((x * a).sum(-1)) * x,
        dict(x=(4,), a=(5, 4, 4)),
        ((0, 0), (1, 0)),
    ),
    "on both sides": (lambda x: np.exp(-sq(x[:, None] - x[None])), dict(x=(4, 3)), (1, 0)),
    "no pair": (lambda x: np.exp(-sq(x)), dict(x=(4, 3)), (1, 0)),
    "no axis": (lambda x: np.exp(-x * x), dict(x=()), (0, 0)),
    "complex modulus": (
        lambda x, y: abs(np.exp(1j * x * y).sum(-1)),
        dict(x=(4, 1, 3), y=(1, 5, 3)),
        (1, 0),
    ),
    "complex input": (
        lambda z, y: (
            np.angle((np.conj(z) * y).sum(-1)) + np.real(z * z * y).sum(-1) + (z * y).prod(-1)
        ),
        dict(z=(4, 1, 3), y=(1, 5, 3)),
        (1, 0),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_gradient_along_axes(case):
    f, shapes, kinds = CASES[case]
    rng = np.random.default_rng(4)
    arrays = {leaf: np.asarray(0.2 + rng.random(shape)) for leaf, shape in shapes.items()}
    arrays |= {"z": arrays["z"] + 1j * rng.random(shapes["z"])} if case == "complex input" else {}
    kinds = kinds if isinstance(kinds[0], tuple) else (kinds,) * len(arrays)
    lazies = [LazyArray(a, *kind) for a, kind in zip(arrays.values(), kinds, strict=True)]
    value, want_value = f(*lazies)._node, f(*arrays.values())
    g = rng.standard_normal(value.shape).astype(want_value.dtype)
    g = g + 1j * rng.standard_normal(value.shape) if g.dtype.kind == "c" else g

    def lost(leaf, a):
        return float((np.conj(g) * f(**{**arrays, leaf: a})).real.sum())

    for leaf, a in arrays.items():
        if a.dtype.kind == "c":
            want = differences(lambda r, a=a, leaf=leaf: lost(leaf, r + 1j * a.imag), a.real)
            want = want + 1j * differences(
                lambda r, a=a, leaf=leaf: lost(leaf, a.real + 1j * r), a.imag
            )
        else:
            want = differences(functools.partial(lost, leaf), a)
        got = array_gradient(value, constant(g, value), a)
        np.testing.assert_allclose(
            got, want, rtol=1e-7, atol=1e-8 * max(1, abs(want).max()), err_msg=leaf
        )


def test_product_with_zeros_and_ties_of_a_maximum():
    x = np.array([[[0.0, 2, 3], [0, 0, 3], [1, 2, 3]]])
    value = LazyArray(x).prod(-1)._node
    got = array_gradient(value, constant(np.ones((1, 3)), value), x)
    np.testing.assert_array_equal(got, [[[6, 0, 0], [0, 0, 0], [6, 3, 2]]])
    x = np.array([[[1.0, 2, 2], [2, 2, 2], [3, 2, 1]]])
    value = LazyArray(x).max(-1)._node
    got = array_gradient(value, constant(np.ones((1, 3)), value), x)
    np.testing.assert_array_equal(got, [[[0, 1 / 2, 1 / 2], [1 / 3, 1 / 3, 1 / 3], [1, 0, 0]]])


def opened(value: LazyArray) -> sympy.Expr:
    translator = Translator(walk(value._node))
    translator.program.sizes |= {"i": None, "j": None}
    e = translator(value._node, ("i", "j"))
    return translator.program.opened(e)


def test_a_waist_stays_a_symbol():
    x, y = LazyArray(np.ones((2, 1, 3))), LazyArray(np.ones((1, 4, 3)))
    dot, xx, yy = (x * y).sum(-1), (x * x).sum(-1), (y * y).sum(-1)
    c = dot / (np.sqrt(xx) * np.sqrt(yy))
    for value, symbols in (
        (np.sqrt(1 - c**2) + np.arccos(c) * c, 1),  # c, not 1 - c^2
        (np.sqrt(xx) * np.arccos(c), 2),
        (c + c**2, 3),  # of no function
        (np.exp(-3 * dot) * np.sqrt(xx * yy), 3),  # x changes one of these, and so does y
        (np.exp(dot - xx - yy), 1),
        (np.sqrt(xx + dot) ** 3, 1),
    ):
        assert len(elems(opened(value))) == symbols


def test_what_leaves_a_sum_leaves_it_as_a_factor():
    p = Program(sizes={"i": None, "j": None})
    d = p.feature(3, ())
    a, b, c = (elem(f"{n}", ("i", "j")) for n in "abc")
    x, y, v = elem("x", ("i", d)), elem("y", ("j", d)), elem("v", (d,))
    p.types |= {s.base: np.dtype(float) for s in (a, b, c, x, y, v)}
    out = p.sum(d, c * v * (a * x + b * y) + a * x * v, np.dtype(float))
    xv, yv = (p.fold("sum", (d,), s * v, np.dtype(float)) for s in (x, y))
    assert out == c * (a * xv + b * yv) + a * xv


def test_two_dtypes_in_one_chain():
    x, y = np.full((4, 1, 3), 0.5, np.float32), np.full((1, 5, 3), 0.25)
    value = np.exp(-(np.sqrt(LazyArray(x)).astype(np.float64) - LazyArray(y)).sum(-1))._node
    got = array_gradient(value, constant(np.ones((4, 1)), value), x)
    assert got.dtype == np.float32
    np.testing.assert_allclose(
        got, -5 * np.exp(-3 * (np.sqrt(0.5) - 0.25)) * 0.5 / np.sqrt(0.5), rtol=1e-6
    )


def test_empty_axes_have_gradient_zero():
    x, y = np.ones((0, 1, 3)), np.ones((1, 5, 3))
    value = np.exp(-sq(LazyArray(x) - LazyArray(y)))._node
    g = constant(np.ones((0, 1)), value)
    assert array_gradient(value, g, x).shape == (0, 1, 3)
    np.testing.assert_array_equal(array_gradient(value, g, y), np.zeros((1, 5, 3)))


# -- every row of the table ------------------------------------------------------------------------


# Bessel functions have no derivative by their order, their first argument.
NO_DERIVATIVE = {("iv", 0), ("ive", 0), ("kv", 0), ("kve", 0)}


def row_cases():
    """(row, arguments, value, k) where the k-th argument has a derivative."""
    rng = np.random.default_rng(3)
    for op in TABLE:
        domains = op.domain if isinstance(op.domain[0], tuple) else (op.domain,) * op.nargs
        arrays = [rng.uniform(low, high, (1, 7)) for low, high in domains]
        if op.name == "where":
            arrays[0] = rng.random((1, 7)) < 0.5
        nodes = [Input(a, a.dtype, "pp") for a in arrays]
        try:
            value = ops.apply(op, *nodes)
        except DtypeError:
            continue
        if value.dtype.kind == "f":
            yield from (
                (op, nodes, value, k)
                for k in range(op.nargs)
                if nodes[k].dtype.kind == "f" and (op.name, k) not in NO_DERIVATIVE
            )


def one_kernel(shares):
    """[sum of the entries of a node] for several nodes of shape (1, n), from one kernel:
    row r picks the r-th node.
    """
    terms = []
    for r, share in enumerate(shares):
        chosen = np.arange(len(shares))[:, None] == r
        terms.append(call("where", Input(chosen, chosen.dtype, "pp"), share, 0.0))
    node = functools.reduce(lambda a, b: call("add", a, b), terms)
    return evaluate.evaluate(reductions.reduce(SUM, (node,), (1,)))


def test_derivative_of_every_row():
    cases = list(row_cases())
    assert len(cases) > 140
    rng = np.random.default_rng(1)
    g = rng.standard_normal((1, 7))
    node = Input(g, g.dtype, "pp")
    shares = [Vjp(value, node, nodes[k], (None, -1)) for _, nodes, value, k in cases]
    got = np.concatenate(both(one_kernel, [shares[n : n + 20] for n in range(0, len(cases), 20)]))
    for (op, nodes, _, k), ours in zip(cases, got, strict=True):

        def lost(a, op=op, nodes=nodes, k=k):
            with np.errstate(all="ignore"):
                return float(
                    (
                        g * op.dense(np, *(a if m == k else n.array for m, n in enumerate(nodes)))
                    ).sum()
                )

        want = differences(lost, nodes[k].array).sum()
        assert ours == pytest.approx(want, rel=1e-7, abs=1e-8), (op, k)


@pytest.mark.parametrize("name", sorted(name for name, _ in NO_DERIVATIVE))
def test_bessel_functions_refuse_a_derivative_by_their_order(name):
    order, x = (Input(np.full((1, 7), v), np.dtype(float), "pp") for v in (1.5, 2.0))
    p, e = translated(call(name, order, x))
    by_order, by_x = p.inputs
    assert p.diff(e, by_x, ("j",), ("j",))
    with pytest.raises(UnsupportedError, match=rf"{name}\(v, x\) has no derivative by its order"):
        p.diff(e, by_order, ("j",), ("j",))


def test_subgradients_at_kinks_are_torchs():
    x = np.array([[-1.0, 0.0, 1.0, np.nan]])
    zero, one = np.zeros((1, 1)), np.ones((1, 1))
    n = {name: Input(a, a.dtype, "pp") for name, a in dict(x=x, zero=zero, one=one).items()}
    kinks = {
        "abs": (call("abs", n["x"]), "x", [-1, 0, 1]),
        "relu": (call("relu", n["x"]), "x", [0, 0, 1]),
        "maximum": (call("maximum", n["x"], n["zero"]), "x", [0, 0.5, 1]),
        "minimum": (call("minimum", n["x"], n["zero"]), "x", [1, 0.5, 0]),
        "clip": (call("clamp", n["x"], n["zero"], n["one"]), "x", [0, 1, 1]),
        "where": (call("where", call("greater", n["x"], n["zero"]), n["x"], 0.0), "x", [0, 0, 1]),
        "hypot": (call("hypot", n["x"], n["zero"]), "x", [-1, 0, 1]),
        "sign": (call("sign", n["x"]), "x", [0, 0, 0]),
    }
    for name, (value, leaf, want) in kinks.items():
        got = array_gradient(value, constant(np.ones((1, 4)), value), n[leaf].array)
        np.testing.assert_array_equal(got[0, :3], want, err_msg=name)


FOREIGN = (
    sympy.Max,
    sympy.Min,
    sympy.Abs,
    sympy.sign,
    sympy.Piecewise,
    sympy.Heaviside,
    sympy.DiracDelta,
    sympy.Derivative,
    sympy.Subs,
)


def test_derivatives_use_no_function_that_has_no_c():
    for op, nodes, value, _ in row_cases():
        p, e = translated(value)
        known = [a for m, a in enumerate(p.inputs) if (op.name, m) not in NO_DERIVATIVE]
        for a in known:
            for first, _ in p.diff(e, a, ("j",), ("j",)):
                for second, _ in p.diff(first, a, ("j",), ("j",)):
                    for d in (first, second):
                        assert not d.has(sympy.Float, sympy.zoo, sympy.oo, *FOREIGN), (op, d)
        assert nodes


# -- the passes ------------------------------------------------------------------------------------


def translated(value: Node):
    """The program of a value and its expression;
    the axes are i, j, and features by their letters.
    """
    translator = Translator(walk(value))
    names = iter("ij")
    env = []
    for n, role in zip(value.shape, value.roles, strict=True):
        name = (
            next(names)
            if role != "f"
            else None
            if n == 1
            else translator.program.feature(n, [c for c in env if c])
        )
        if role != "f":
            translator.program.sizes[name] = None
        env.append(name)
    return translator.program, translator(value, tuple(env))


def coefficients(p, e):
    """All derivatives of an expression by its symbols, untouched, and those of the folds in it."""
    todo, seen = [p.inline(e)], set()
    while todo:
        e = todo.pop()
        for a in elems(e):
            yield e, a
            what = p.definition(a)
            if isinstance(what, Fold) and a.base not in seen:
                seen.add(a.base)
                todo.append(p.inline(what.body))


def numbers(e, seed=0):
    """A positive number for each symbol."""
    rng = np.random.default_rng(seed)
    return {a: mpmath.mpf(0.2 + 0.5 * rng.random()) for a in sorted(e.free_symbols, key=str)}


C_NAMES = {
    "where": lambda c, a, b: a if c else b,
    "less": lambda a, b: a < b,
    "greater": lambda a, b: a > b,
}


def at_point(e, values):
    """The value of an expression, at 30 digits;
    None where it holds functions that mpmath has not.
    """
    if any(type(f).__name__ not in C_NAMES for f in e.atoms(fn.Elementwise)) or e.has(fn.cast):
        return None
    with mpmath.workdps(30):
        symbols = sorted(values, key=str)
        return sympy.lambdify(symbols, e, [C_NAMES, "mpmath"])(*(values[a] for a in symbols))


@each_formula
def test_tidy_changes_no_value(name):
    p, e = translated(lazy_value(name, sample(FORMULAS[name].leaves, ROWS, COLUMNS)))
    for body, a in coefficients(p, e):
        raw = body.diff(a)
        new = tidy(raw, indices)
        assert not new.has(sympy.Float)
        assert cost(new) <= cost(raw)
        values = numbers(raw)
        before, after = at_point(raw, values), at_point(new, values)
        if before is not None and mpmath.isfinite(before):
            assert abs(before - after) <= 1e-25 * (abs(before) + 1e-3), (raw, new)


def test_tidy_finds_the_cheap_forms():
    s = elem("s0", "ij", nonnegative=True)
    r = sympy.sqrt(5 * s)
    matern = tidy(((1 + r + 5 * s / 3) * sympy.exp(-r)).diff(s), indices)
    assert sympy.simplify(matern + sympy.Rational(5, 6) * (1 + r) * sympy.exp(-r)) == 0
    assert not any(a.exp.is_negative for a in matern.atoms(sympy.Pow) if a.base == s)
    wendland = tidy(((1 - sympy.sqrt(s)) ** 4 * (4 * sympy.sqrt(s) + 1)).diff(s), indices)
    assert wendland.has((1 - sympy.sqrt(s)) ** 3) or wendland.has((sympy.sqrt(s) - 1) ** 3)


@each_formula
def test_inlined_is_the_same_value(name):
    """Definitions one after the other, and all of them at once."""
    p, e = translated(lazy_value(name, sample(FORMULAS[name].leaves, ROWS, COLUMNS)))
    whole = p.inline(e)
    assert not any(isinstance(p.definition(a), Let) for a in elems(whole))
    assert not whole.has(sympy.Float)
    values = numbers(whole)

    def stepwise(a):
        what = p.definition(a)
        if not isinstance(what, Let):
            return values[a]
        return at_point(
            what.expr, {b: stepwise(b) for b in what.expr.free_symbols if isinstance(b, Elem)}
        )

    direct = at_point(whole, values)
    if direct is not None and isinstance(p.definition(e), Let):
        assert abs(direct - stepwise(e)) <= 1e-25 * abs(direct)


def test_indices_are_renamed_without_capture():
    """d sum_d x_d A_de / d x_d, where d is the name of the target: the bound index makes way."""
    x, a = np.ones((4, 1, 3)), np.ones((3, 3))
    value = ((LazyArray(x)[..., None] * LazyArray(a, feature_ndim=2)).sum(-2) ** 2).sum(-1)._node
    p, e = translated(value)
    fold = next(s for s in elems(p.inline(e)) if isinstance(p.definition(s), Fold))
    outer = p.definition(fold)
    (inner,) = (s for s in elems(p.inline(outer.body)) if isinstance(p.definition(s), Fold))
    (bound,) = p.definition(inner).over
    moved = p.rename(inner, {c: bound for c in inner.idx if c in outer.over})
    assert p.definition(moved).over[0] not in moved.idx


# -- the same text everywhere ----------------------------------------------------------------------


def all_sources() -> str:
    """A digest of the text of every formula's value and gradients."""
    import hashlib

    digest = hashlib.sha256()
    for node in nodes_of_the_gallery():
        digest.update(text_of(node).encode())
    return digest.hexdigest()


def nodes_of_the_gallery() -> list:
    out = []
    for name, f in FORMULAS.items():
        data = sample(f.leaves, ROWS, COLUMNS)
        value = lazy_value(name, data)
        g = constant(cotangent(name, data), value)
        out.append(reductions.reduce(SUM, (value,), (1,)))
        out += [
            t.node
            for leaf in f.leaves
            for view in inputs_of(value, data[leaf])
            for t in gradient(value, g, view)
        ]
    return out


def text_of(node) -> str:
    """The generated text, made anew."""
    from duckkeops import generate, plan

    axes = plan.loop_axes(node)
    _, numbering = evaluate.key_of(node, axes, walk(node))
    return generate.kernel(node, axes, numbering, config.current(), False, cpu.target())["prelude"]


def test_text_is_the_same_in_every_process():
    code = "import test_symbolic; print(test_symbolic.all_sources())"
    folder = Path(__file__).parent
    path = os.pathsep.join([str(folder), str(folder.parent)])

    def run(seed):
        env = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": path}
        return subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        ).stdout

    digests = both(run, range(5))
    assert len(digests[0].strip()) == 64
    assert len(set(digests)) == 1


def test_text_is_the_same_in_several_threads():
    some = nodes_of_the_gallery()[::5]
    alone = [text_of(n) for n in some]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda _: [text_of(n) for n in some], range(4)))
    assert all(texts == alone for texts in together)


# -- for people ------------------------------------------------------------------------------------


def test_latex():
    shown = {
        name: latex(lazy_value(name, sample(f.leaves, ROWS, COLUMNS)))
        for name, f in FORMULAS.items()
    }
    distance = r"\sum_{d=1}^{3} \left(\mathrm{x0}_{i,d} - \mathrm{x1}_{j,d}\right)^{2}"
    assert shown["energy"] == rf"- \sqrt{{{distance}}}"
    assert (
        shown["maxnorm"]
        == r"\max_{d}{\left(\left|{\mathrm{x0}_{i,d} - \mathrm{x1}_{j,d}}\right| \right)}"
    )
    assert r"\begin{cases}" in shown["label_mask"] and r"\left\lfloor" in shown["label_mask"]
    assert r"\sum_{e=1}^{3}" in shown["attention"]
    for text in shown.values():
        assert text.count("{") == text.count("}") and "Elem" not in text
    x = LazyArray(np.ones((4, 1, 3)))
    assert "0.1" in latex((x - 0.1)._node)
    y = LazyArray(np.ones((1, 5, 3)))
    joined = Concat(((x - y)._node, (x - y)._node), 1, np.dtype(float))
    assert "concatenate" in latex(joined)
    assert x._repr_latex_() == r"$\displaystyle \mathrm{x0}_{i,d}$"


# -- what has no gradient --------------------------------------------------------------------------


def test_errors():
    x, y = np.ones((4, 1, 3)), np.ones((1, 5, 3))
    value = sq(LazyArray(x) - LazyArray(y))._node
    (view,), g = inputs_of(value, x), constant(np.ones((4, 1)), value)
    (term,) = gradient(value, g, view)
    with pytest.raises(UnsupportedError, match="cannot be indexed"):
        views.permute(term.node.args[0], (1, 0, 2))
    joined = Concat((value, value), 1, value.dtype)
    with pytest.raises(UnsupportedError, match="concatenated"):
        gradient(joined, g, view)
    z = np.ones((1, 1, 6, 3))
    triple = np.exp(
        sq(LazyArray(x)[:, :, None] - LazyArray(y)[:, :, None] * LazyArray(z)).sum(2)
    )._node
    ((node, _),) = gradient(triple, g, inputs_of(triple, z)[0])
    with pytest.raises(UnsupportedError, match="not summed"):
        gradient(
            call("exp", node.args[0]),
            constant(np.ones((4, 1, 1, 1)), node.args[0]),
            inputs_of(triple, x)[0],
        )
    other = Input(np.ones((4, 1, 3)), np.dtype(float), "ppf")
    assert gradient(value, g, other) == []
