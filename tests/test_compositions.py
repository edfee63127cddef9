"""Random NumPy code gives the same on arrays and on LazyArrays, in compiled C and in tiles."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from duckkeops import LazyArray, UnsupportedError, config, evaluate, expr
from duckkeops.engines import cpu
from duckkeops.launch import Launch
from duckkeops.numpy_table import class_of

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


# -- every class of NumPy's functions, every dtype, both orders ------------------------------------

DTYPES = (
    *("bool", "int8", "uint8", "int16", "int32", "int64", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
CHAINS = int(os.environ.get("DUCKKEOPS_CHAINS", "400"))


@dataclass(frozen=True)
class Step:
    """One call of a NumPy function on a virtual array `v`, for dtypes of some kinds."""

    function: Callable
    run: Code
    kinds: str = "biufc"
    smooth: bool = False  # of a rounded argument, the result is nearly that of the exact one


def entries(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    """Small numbers whose sums and products are exact in any dtype."""
    values = np.random.default_rng(seed).integers(-6, 7, shape)
    if dtype == "bool":
        return values > 0
    kind = np.dtype(dtype).kind
    if kind == "c":
        return (values / 4 + 0.5j * (values % 3)).astype(dtype)
    return (np.abs(values) if kind == "u" else values / (1 if kind == "i" else 4)).astype(dtype)


TABLE = np.array([-0.6, 0.1, 0.9, 2.1])
STEPS = (
    Step(np.negative, lambda v: np.negative(v), "iufc"),
    Step(np.abs, lambda v: abs(v)),
    Step(np.sign, lambda v: np.sign(v), "iuf"),
    Step(np.floor, lambda v: np.floor(v), "biuf"),
    Step(np.real, lambda v: np.real(v)),
    Step(np.conj, lambda v: np.conj(v), "iufc"),
    Step(np.isnan, lambda v: np.isnan(v)),
    Step(np.logical_not, lambda v: np.logical_not(v)),
    Step(np.clip, lambda v: np.clip(v, 0, 1), "iuf"),
    Step(np.where, lambda v: np.where(v > 1, v, 0), "biuf"),
    Step(np.round, lambda v: np.round(v, 1), "iuf"),
    Step(np.astype, lambda v: np.astype(v, np.float32), "biuf"),
    Step(np.transpose, lambda v: np.transpose(v)),
    Step(np.roll, lambda v: np.roll(v, 2, axis=1)),
    Step(np.repeat, lambda v: np.repeat(v, 2, axis=0)),
    Step(np.tile, lambda v: np.tile(v, (1, 2))),
    Step(np.flip, lambda v: np.flip(v, 1)),
    Step(np.pad, lambda v: np.pad(v, 1, mode="edge")),
    Step(np.pad, lambda v: np.pad(v, ((0, 1), (2, 0)), constant_values=1)),
    Step(np.take, lambda v: np.take(v, [0, -1, 1], axis=1)),
    Step(np.delete, lambda v: np.delete(v, 0, axis=1)),
    Step(np.tril, lambda v: np.tril(v)),
    Step(np.diff, lambda v: np.diff(v, axis=1)),
    Step(np.isin, lambda v: np.isin(v, [0, 1])),
    Step(np.searchsorted, lambda v: np.searchsorted(TABLE, v), "biuf"),
    Step(np.digitize, lambda v: np.digitize(v, TABLE, right=True), "biuf"),
    Step(np.interp, lambda v: np.interp(v, TABLE, TABLE**2), "iuf", True),
    Step(np.polyval, lambda v: np.polyval([2, -1], v), "iufc"),
    Step(np.select, lambda v: np.select([v > 0], [v]), "biuf"),
    Step(np.nan_to_num, lambda v: np.nan_to_num(v)),
    Step(np.isclose, lambda v: np.isclose(v, 1), "iuf"),
    Step(np.gradient, lambda v: np.gradient(v, axis=1), "if"),
    Step(np.piecewise, lambda v: np.piecewise(v, [v > 1], [lambda r: r - 1, 2]), "if"),
    Step(np.tanh, np.tanh, "iufc", True),
    Step(np.sqrt, lambda v: np.sqrt(np.abs(v)), "biufc", True),
    Step(np.arctan, lambda v: np.arctan(v), "biuf", True),
    Step(np.log1p, lambda v: np.log1p(np.abs(v)), "biuf", True),
)
PAIRED = {  # with an array of another dtype
    np.add: "biufc",
    np.subtract: "iufc",
    np.multiply: "biufc",
    np.maximum: "biuf",
    np.fmin: "biuf",
    np.less: "biuf",
    np.not_equal: "biufc",
    np.logical_or: "biufc",
    np.equal: "biufc",
}


def weights(v: object, axis: int) -> np.ndarray:
    return np.arange(1.0, 1.0 + np.shape(v)[axis])


ENDS = (
    Step(np.copy, lambda v: np.copy(v), "biufc", True),
    Step(np.sum, lambda v: np.sum(v, axis=1), "biufc", True),
    Step(np.sum, lambda v: v.sum(0, keepdims=True), "biufc", True),
    Step(np.prod, lambda v: np.prod(v, axis=0), "bi"),
    Step(np.mean, lambda v: np.mean(v), "biufc", True),
    Step(np.var, lambda v: np.var(v, axis=1, ddof=1), "biuf", True),
    Step(np.max, lambda v: np.max(v, axis=1), "biuf", True),
    Step(np.min, lambda v: np.min(v, axis=0, initial=1), "iuf", True),
    Step(np.argmin, lambda v: np.argmin(v, axis=1), "biuf"),
    Step(np.argmax, lambda v: v.argmax(0), "biuf"),
    Step(np.any, lambda v: np.any(v, axis=1)),
    Step(np.count_nonzero, lambda v: np.count_nonzero(v, axis=0)),
    Step(np.matmul, lambda v: v @ np.outer(weights(v, 1), [1, -2]), "biufc", True),
    Step(np.matmul, lambda v: weights(v, 0) @ v, "biufc", True),
    Step(np.einsum, lambda v: np.einsum("ij,j->i", v, weights(v, 1)), "biufc", True),
    Step(np.sort, lambda v: np.sort(v, axis=1)[:, :2], "biuf", True),
    Step(np.median, lambda v: np.median(v, axis=1), "iuf", True),
    Step(np.quantile, lambda v: np.quantile(v, 0.75, axis=0, method="lower"), "iuf", True),
    Step(np.ptp, lambda v: np.ptp(v, axis=1), "iuf", True),
    Step(np.average, lambda v: np.average(v, axis=1, weights=weights(v, 1)), "biufc", True),
    Step(np.linalg.norm, lambda v: np.linalg.norm(v, axis=1), "biufc", True),
    Step(np.nansum, lambda v: np.nansum(v, axis=0), "biufc", True),
    Step(np.trapezoid, lambda v: np.trapezoid(v, axis=1), "iufc", True),
    Step(np.array_equal, lambda v: np.array_equal(v, v)),
    Step(np.diagonal, lambda v: np.diagonal(v), "biufc", True),
    Step(np.take_along_axis, lambda v: np.take_along_axis(v, np.zeros((np.shape(v)[0], 1), int), 1),
         "biufc", True),
    Step(np.shape, lambda v: np.shape(v), "biufc", True),
    Step(np.result_type, lambda v: np.result_type(v, np.float32), "biufc", True),
    Step(np.iscomplexobj, lambda v: np.iscomplexobj(v), "biufc", True),
    Step(np.unique, lambda v: np.unique(v)),
    Step(np.linalg.svd, lambda v: np.linalg.svd(v), "biufc", True),
    Step(np.fft.fft, lambda v: np.fft.fft(v), "biufc", True),
)  # fmt: skip


@st.composite
def chains(draw: st.DrawFn) -> tuple:
    """Two vectors, a function of both, some steps, and an end."""
    dtypes = draw(st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)))
    first = draw(st.sampled_from(sorted(PAIRED, key=str)))
    steps = draw(st.lists(st.one_of(st.integers(0, len(STEPS) - 1), paired()), max_size=4))
    lengths = draw(st.tuples(st.integers(2, 6), st.integers(2, 6)))
    end = draw(st.integers(0, len(ENDS) - 1))
    return dtypes, first, steps, end, lengths, draw(st.integers(0, 999))


@st.composite
def paired(draw: st.DrawFn) -> tuple:
    """A function of two arrays, the dtype of the other, its number of axes, and who is first."""
    return (
        draw(st.sampled_from(sorted(PAIRED, key=str))),
        draw(st.sampled_from(DTYPES)),
        draw(st.integers(0, 2)),
        draw(st.booleans()),
    )


@pytest.mark.parametrize(("engine", "examples"), [("blocks", CHAINS), ("cpu", CHAINS // 10)])
def test_every_class_of_functions_in_every_dtype(engine: str, examples: int) -> None:
    """In compiled C too, of which there are fewer examples, since each takes a compiler."""
    seen: dict[str, set] = {"class": set(), "dtype": set(), "order": set()}
    compared = [0]

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(chains())
    def check(chain: tuple) -> None:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compare_chain(chain, seen)
        compared[0] += 1

    with config(engine=engine):
        check()
    if engine == "cpu":
        return
    assert compared[0] >= min(CHAINS, 300)
    assert seen["class"] == {"lazy", "reduces", "composite", "point", "metadata", "refused"}
    assert seen["dtype"] == set(DTYPES)
    assert seen["order"] == {"lazy, array", "array, lazy", "lazy, lazy"}


def wide(a: np.ndarray) -> np.ndarray:
    """The same numbers in the widest dtype of their kind, for the reference."""
    return a.astype({"f": np.float64, "c": np.complex128}.get(a.dtype.kind, a.dtype))


def compare_chain(chain: tuple, seen: dict[str, set]) -> None:
    """Follow a chain on lazy arrays, on arrays, and on wide arrays, whose values count."""
    (one, other), function, steps, end, (m, n), seed = chain
    x, y = entries((m,), one, seed), entries((n,), other, seed + 1)
    assume(fits(function, np.result_type(x, y)))
    v = function(LazyArray(x)[:, None], LazyArray(y))
    a, w = function(x[:, None], y), function(wide(x)[:, None], wide(y))
    used, rounded, rtol = [function], False, 1e-10
    seen["dtype"] |= {one, other}
    seen["order"].add("lazy, lazy")
    for k, step in enumerate(steps):
        if isinstance(step, tuple):
            f, dtype, ndim, lazy_first = step
            b = entries(a.shape[2 - ndim :], dtype, seed + 2 + k)
            if rounded or not fits(f, np.result_type(a, b)):
                continue
            v, a = (f(v, b), f(a, b)) if lazy_first else (f(b, v), f(b, a))
            w = f(w, wide(b)) if lazy_first else f(wide(b), w)
            used.append(f)
            seen["order"].add("lazy, array" if lazy_first else "array, lazy")
            continue
        step = STEPS[step]
        if not able(step, a, rounded):
            continue
        v, a, w = step.run(v), step.run(a), step.run(exactly(w) if step.smooth else w)
        used.append(step.function)
        if step.smooth:
            rounded, rtol = True, max(rtol, rounding(a))
    last = ENDS[end]
    if able(last, a, rounded and not last.smooth):
        virtual = expr.is_virtual(v._node)
        used.append(last.function)
        if class_of(last.function) == "refused" and virtual:
            with pytest.raises(UnsupportedError):
                last.run(v)
        else:
            agree(last.run(v), last.run(a), last.run(w), rtol, (used, chain))
    agree(v, a, w, rtol, (used, chain))
    seen["class"] |= {class_of(f) for f in used}


def fits(f: Callable, dtype: np.dtype) -> bool:
    return dtype.kind in PAIRED[f]


def able(step: Step, a: np.ndarray, rounded: bool) -> bool:
    """Is the step defined there? Steps that jump are not taken from rounded numbers on."""
    return a.dtype.kind in step.kinds and min(a.shape) > 1 and (step.smooth or not rounded)


def exactly(w: np.ndarray) -> np.ndarray:
    """As float64 if it is of integers, of which NumPy may compute functions in float16."""
    return w.astype(np.float64) if w.dtype.kind in "biu" else w


def rounding(a: np.ndarray) -> float:
    return {2: 8e-3, 4: 2e-5}.get(a.real.dtype.itemsize, 1e-10) if a.dtype.kind in "fc" else 0


def agree(got: object, want: object, value: object, rtol: float, text: object) -> None:
    """Dtype, shape and type are those of `want`, the numbers those of `value`."""
    if isinstance(want, tuple) and not isinstance(got, LazyArray):
        assert type(got) is type(want) and len(got) == len(want), text
        for g, q, r in zip(got, want, value, strict=True):
            agree(g, q, r, rtol, text)
        return
    if not isinstance(want, np.ndarray | np.generic):
        assert got == want and type(got) is type(want), text
        return
    if isinstance(got, LazyArray):
        assert (got.shape, got.dtype) == (want.shape, want.dtype), text
        got = got.to_dense()
    else:
        assert type(got) is type(want), (type(got), text)
    assert (got.shape, got.dtype) == (want.shape, want.dtype), (got.dtype, want.dtype, text)
    rtol = max(rtol, rounding(want)) if want.dtype.kind in "fc" else 0
    value = np.asarray(value).astype(want.dtype)
    finite = np.abs(np.where(np.isfinite(value), value, 0).astype(np.complex128))
    scale = max(1.0, float(finite.max(initial=0)))
    np.testing.assert_allclose(got, value, rtol=rtol, atol=rtol * scale, err_msg=str(text))
