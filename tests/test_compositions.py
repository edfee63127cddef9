"""Random NumPy code gives the same on arrays and on LazyArrays, in compiled C and in tiles."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from duckkeops import LazyArray, config, evaluate
from duckkeops.engines import cpu
from duckkeops.launch import Launch

pytestmark = pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")
EXAMPLES = int(os.environ.get("DUCKKEOPS_EXAMPLES", "400"))

Arrays = dict[str, np.ndarray]
Code = Callable[[dict], object]


@dataclass(frozen=True)
class Term:
    """A piece of code over named arrays, and whether its last axis is the feature axis."""

    text: str
    run: Code
    features: bool


UNARY: dict[str, Code] = {
    "exp": lambda v: np.exp(-np.abs(v)),
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "abs": np.abs,
    "sqrt": lambda v: np.sqrt(np.abs(v)),
    "square": np.square,
    "cube": lambda v: v**3,
    "root": lambda v: (np.abs(v) + 1) ** -1.5,
    "log1p": lambda v: np.log1p(v * v),
    "negative": np.negative,
    "scaled": lambda v: 0.37 * v - 1.5,
    "floor": lambda v: np.floor(v * 1.3),
    "sign": np.sign,
    "clip": lambda v: np.clip(v, -0.5, 0.75),
    "arctan": np.arctan,
    "reciprocal": lambda v: 1 / (2 + v * v),
    "cancel": lambda v: v - v * 1.0,
}
BINARY: dict[str, Code] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "rsubtract": lambda a, b: b - a,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / (1.5 + b * b),
    "maximum": np.maximum,
    "minimum": np.minimum,
    "hypot": np.hypot,
    "arctan2": lambda a, b: np.arctan2(a, 2.5 + b),
    "logaddexp": np.logaddexp,
    "where": lambda a, b: np.where(a < b, a, b * 0.5),
    "mod": lambda a, b: np.mod(a, np.abs(b) + 1.7),
}
FOLDS: dict[str, Code] = {
    "sum": lambda v: v.sum(-1),
    "mean": lambda v: np.mean(v, axis=-1),
    "max": lambda v: np.max(v, axis=-1),
    "min": lambda v: v.min(-1),
    "prod": lambda v: np.prod(v, axis=-1),
    "norm": lambda v: np.linalg.norm(v, axis=-1),
    "norm1": lambda v: np.linalg.norm(v, ord=1, axis=-1),
    "first": lambda v: v[..., 0],
    "last": lambda v: v[..., -1] * 1.0,
    "square": lambda v: np.einsum("...d,...d->...", v, v),
    "argmax": lambda v: np.argmax(v, axis=-1) * 0.5,
    "any": lambda v: np.any(v > 0.4, axis=-1) * 1.0,
}
KEEPS: dict[str, Code] = {  # features in, features out
    "reversed": lambda v: v[..., ::-1],
    "centred": lambda v: v - v.mean(-1, keepdims=True),
    "doubled": lambda v: np.concatenate([v, 0.5 * v], axis=-1)[..., : v.shape[-1]],
}
REDUCTIONS: dict[str, Code] = {
    "sum": lambda v, axis: np.sum(v, axis=axis),
    "mean": lambda v, axis: v.mean(axis=axis),
    "max": lambda v, axis: np.max(v, axis=axis),
    "min": lambda v, axis: np.min(v, axis=axis, keepdims=True),
    "var": lambda v, axis: np.var(v, axis=axis),
    "any": lambda v, axis: (v > 0.1).any(axis=axis),
    "count": lambda v, axis: np.count_nonzero(v > 0, axis=axis),
    "logsumexp": lambda v, axis: np.logaddexp.reduce(v, axis=axis),
    "prod": lambda v, axis: np.prod(np.tanh(v), axis=axis),
}


@st.composite
def terms(draw: st.DrawFn, depth: int, features: bool) -> Term:
    """An expression of this depth, with or without a feature axis."""
    if depth == 0:
        name = draw(
            st.sampled_from(["x", "y", "x", "y", "b", "c"] if features else ["s", "t", "u", "k"])
        )
        return Term(name, lambda a: a[name], features)
    kind = draw(
        st.sampled_from(["unary", "binary", "binary", "keep" if features else "fold", "constant"])
    )
    if kind == "unary":
        name = draw(st.sampled_from(sorted(UNARY)))
        arg = draw(terms(depth - 1, features))
        return Term(f"{name}({arg.text})", lambda a: UNARY[name](arg.run(a)), features)
    if kind == "fold":
        name = draw(st.sampled_from(sorted(FOLDS)))
        arg = draw(terms(depth - 1, True))
        return Term(f"{name}_d({arg.text})", lambda a: FOLDS[name](arg.run(a)), False)
    if kind == "keep":
        name = draw(st.sampled_from(sorted(KEEPS)))
        arg = draw(terms(depth - 1, True))
        return Term(f"{name}({arg.text})", lambda a: KEEPS[name](arg.run(a)), True)
    if kind == "constant":
        value = draw(st.sampled_from([2, 0.3, -1, 1e-3]))
        arg = draw(terms(depth - 1, features))
        return Term(f"({value} * {arg.text})", lambda a: value * arg.run(a), features)
    name = draw(st.sampled_from(sorted(BINARY)))
    one, other = draw(terms(depth - 1, features)), draw(terms(depth - 1, features))
    return Term(
        f"{name}({one.text}, {other.text})",
        lambda a: BINARY[name](one.run(a), other.run(a)),
        features,
    )


@st.composite
def problems(draw: st.DrawFn) -> tuple[Term, str, object, Arrays, set[str]]:
    """Code, reduction, axis, arrays, and which of these are wrapped."""
    features = draw(st.booleans())
    term = draw(terms(draw(st.integers(1, 4)), features))
    m, n, d = (
        draw(st.sampled_from([1, 2, 5, 17])),
        draw(st.sampled_from([1, 3, 9, 33])),
        draw(st.integers(1, 4)),
    )
    batch = draw(st.sampled_from([(), (), (2,), (3, 1)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    dtype = draw(st.sampled_from([np.float64, np.float64, np.float32]))
    arrays = {
        "x": rng.normal(size=(*batch, m, 1, d)),
        "y": rng.normal(size=(*batch[:1], *([1] * (len(batch) > 1)), 1, n, d)),
        "b": rng.normal(size=d),
        "c": rng.normal(size=(1, n, d)),
        "s": rng.normal(size=(*batch, m, 1)),
        "t": rng.normal(size=(1, n)),
        "u": rng.normal(size=(m, n)),
        "k": rng.normal(size=(m, 1)),
    }
    arrays = {name: a.astype(dtype) for name, a in arrays.items()}
    wrapped = {"x", "y", "s", "t"} | set(
        draw(st.lists(st.sampled_from(["b", "c", "u", "k"]), unique=True))
    )
    axis = draw(st.sampled_from([-1, -2, (-2, -1)]))
    if features:
        axis = tuple(a - 1 for a in axis) if isinstance(axis, tuple) else axis - 1
    return term, draw(st.sampled_from(sorted(REDUCTIONS))), axis, arrays, wrapped


def wrap(name: str, a: np.ndarray) -> LazyArray:
    return LazyArray(a, feature_ndim=0 if name in "stuk" else 1)


def test_compositions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only examples that are compared count, and most of them reach compiled C."""
    launches, compiled = [0], [0]
    call = Launch.__call__

    def counted(*args):
        launches[0] += 1
        return call(*args)

    monkeypatch.setattr(Launch, "__call__", counted)
    monkeypatch.setattr(evaluate, "is_plain", lambda node, nodes: False)  # C for one input too

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(problems())
    def check(problem):
        before = launches[0]
        compare(problem)
        compiled[0] += launches[0] > before

    check()
    assert compiled[0] >= EXAMPLES / 2, compiled


def compare(problem: tuple[Term, str, object, Arrays, set[str]]) -> None:
    term, name, axis, arrays, wrapped = problem
    dense64 = {k: a.astype(np.float64) for k, a in arrays.items()}
    lazy = {k: wrap(k, a) if k in wrapped else a for k, a in arrays.items()}
    whole = np.asarray(term.run(dense64))
    assume(whole.ndim >= 2 + term.features)  # else a constant of the problem: nothing to reduce
    with np.errstate(all="ignore"):
        want = np.asarray(REDUCTIONS[name](whole, axis=axis))
        same_dtype = np.asarray(REDUCTIONS[name](np.asarray(term.run(arrays)), axis=axis)).dtype
    single = arrays["x"].dtype == np.float32
    steps = any(word in term.text for word in ("floor", "mod", "sign", "arg", "any", "where"))
    assume(not (single and (steps or name in ("any", "count"))))  # a step a rounding error away
    tol = 2e-4 if single else 1e-9
    scale = max(1.0, float(np.nanmax(np.abs(np.where(np.isfinite(want), want, 0)), initial=0)))
    for engine in ("cpu", "blocks"):
        with config(engine=engine, precision="exact"):
            got = REDUCTIONS[name](term.run(lazy), axis=axis)
            if isinstance(got, LazyArray):  # the rule says: stays lazy
                got = got.to_dense()
        assert isinstance(got, np.ndarray | np.generic), type(got)
        assert got.shape == want.shape and got.dtype == same_dtype, (
            got.shape,
            want.shape,
            got.dtype,
            same_dtype,
        )
        np.testing.assert_allclose(
            got, want, rtol=tol, atol=tol * scale, err_msg=f"{engine}: {name} of {term.text}"
        )
