"""Derivatives and what else SymPy does for us, through the compiled engine, against differences of NumPy and closed forms."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from gallery import FORMULAS, LEAVES, sample

from duckkeops import LazyArray, expr, reductions
from duckkeops.evaluate import evaluate
from duckkeops.expr import Input, Node, Vjp
from duckkeops.ops import call
from duckkeops.gradients import gradient, total

SUM = reductions.BY_NAME["sum"]
ROWS, COLUMNS = 5, 6

each_formula = pytest.mark.parametrize("name", FORMULAS)


# -- gradients, by hand ------------------------------------------------------------------------------------------------


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
    return total(np, [evaluate(t.node) for t in terms], [t.order for t in terms], wrt)


def array_gradient(value: Node, cotangent: Node, base: np.ndarray) -> np.ndarray:
    """The gradient of an array of which the inputs are views."""
    out = np.zeros(base.size, base.dtype)
    for view in views(value, base):
        np.add.at(out, like(view, base, np.arange(base.size)), input_gradient(value, cotangent, view))
    return out.reshape(base.shape)


def views(value: Node, base: np.ndarray) -> list[Input]:
    return [one for one in expr.inputs(value) if np.shares_memory(one.array, base)]


def like(view: Input, base: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`other`, of the same entries as `base`, seen as the input sees `base`."""
    offset = (view.array.__array_interface__["data"][0] - base.__array_interface__["data"][0]) // base.itemsize
    strides = [s // base.itemsize * other.itemsize for s in view.array.strides]
    return np.lib.stride_tricks.as_strided(other.reshape(-1)[offset:], view.shape, strides)


def gradients(name: str, data: dict[str, np.ndarray], g: np.ndarray, leaves=None) -> dict[str, np.ndarray]:
    value = lazy_value(name, data)
    leaves = leaves or FORMULAS[name].leaves
    return dict(zip(leaves, both(lambda leaf: array_gradient(value, constant(g, value), data[leaf]), leaves), strict=True))


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
    np.testing.assert_allclose(evaluate(reductions.reduce(SUM, (value,), (1,))), want, rtol=1e-13, atol=1e-14)


@each_formula
def test_gradient_of_every_input(name):
    data = sample(FORMULAS[name].leaves, ROWS, COLUMNS)
    g = cotangent(name, data)
    for leaf, got in gradients(name, data, g).items():
        want = differences(lambda a, leaf=leaf: loss(name, {**data, leaf: a}, g), data[leaf])
        np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-8 * max(1, abs(want).max()), err_msg=f"{name}, {leaf}")


# -- second derivatives ------------------------------------------------------------------------------------------------


def directional(value: Node, g: Node, base: np.ndarray, direction: np.ndarray) -> list[Node]:
    """direction * d loss / d base, for each pair."""
    out = []
    for view in views(value, base):
        for term in gradient(value, g, view):
            (vjp,) = term.node.args
            assert isinstance(vjp, Vjp)
            left = vjp.ndim - len(vjp.new)
            n = len(vjp.whole)
            at = [next((a for a, p in enumerate(vjp.place) if p == k - n), None) for k in range(left)]
            v = like(view, base, direction)
            v = v.transpose([a for a in at if a is not None] + list(vjp.new) + [a for a in range(view.ndim) if view.shape[a] == 1])
            v = v.reshape([1 if a is None else view.shape[a] for a in at] + [view.shape[a] for a in vjp.new])
            product = call("multiply", vjp, constant(v, vjp))
            out.append(reductions.reduce(SUM, (product,), range(left, vjp.ndim)) if vjp.new else product)
    return out


def hessian_products(name: str, data: dict, g: np.ndarray, directions: dict) -> dict[str, np.ndarray]:
    """d/dt of the gradients of x and y, along x + t directions["x"], y + t directions["y"]."""
    value = lazy_value(name, data)
    parts = [p for leaf in "xy" for p in directional(value, constant(g, value), data[leaf], directions[leaf])]
    along = functools.reduce(lambda a, b: call("add", a, b), parts)
    one = Input(np.ones((1, 1)), np.dtype(float), "nn")
    return dict(zip("xy", both(lambda leaf: array_gradient(along, one, data[leaf]), "xy"), strict=True))


@each_formula
def test_hessian_products(name):
    data = sample(FORMULAS[name].leaves, ROWS, COLUMNS)
    g = cotangent(name, data)
    rng = np.random.default_rng(2)
    v = {leaf: rng.standard_normal(data[leaf].shape) for leaf in "xy"}
    got = hessian_products(name, data, g, v)

    def moved(t):
        return gradients(name, {**data, **{leaf: data[leaf] + t * v[leaf] for leaf in "xy"}}, g, "xy")

    h = 2e-5
    steps = {t: moved(t * h) for t in (-2, -1, 1, 2)}
    for leaf in "xy":
        want = (8 * (steps[1][leaf] - steps[-1][leaf]) - (steps[2][leaf] - steps[-2][leaf])) / (12 * h)
        np.testing.assert_allclose(got[leaf], want, rtol=1e-7, atol=1e-8 * max(1, abs(want).max()), err_msg=leaf)
