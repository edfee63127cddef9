"""Expressions that are evaluated again: launched without planning, and as right."""

from __future__ import annotations

import gc
import importlib.util
import itertools
import math
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from duckkeops import LazyArray, config, evaluate, expr, ops, reductions, views
from duckkeops.engines import cpu
from duckkeops.expr import Input, Scalar

needs_compiler = pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")
BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "overhead.py"


def arrays(m: int = 10, n: int = 9, dtype: str = "f4", seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    return tuple(rng.random(s).astype(dtype) for s in ((m, 3), (n, 3), (n, 1)))


def gaussian(x: np.ndarray, y: np.ndarray) -> LazyArray:
    return np.exp(-((LazyArray(x[:, None, :]) - LazyArray(y[None, :, :])) ** 2).sum(-1))


def dense(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.exp(-((x[:, None].astype("f8") - y[None]) ** 2).sum(-1))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What is remembered, empty at first."""
    found: dict = {}
    monkeypatch.setattr(evaluate, "_launches", found)
    return found


# -- cost ------------------------------------------------------------------------------------------


@needs_compiler
def test_a_repetition_costs_microseconds() -> None:
    """About 36 us built and 18 us called on an idle machine; twice as much on a loud one."""
    spec = importlib.util.spec_from_file_location("overhead", BENCHMARK)
    assert spec is not None and spec.loader is not None
    overhead = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(overhead)
    best = overhead.run(batches=7, calls=300, peers=False)
    assert len(best) == 8
    assert max(best.values()) < 100, overhead.table(best)


@needs_compiler
def test_a_repetition_plans_nothing(launches: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, b = arrays()
    gaussian(x, y) @ b
    assert len(launches) == 1

    def refuse(*args):
        raise AssertionError("planned again")

    for name in ("state", "built", "walk"):
        monkeypatch.setattr(evaluate, name, refuse)
    other = arrays(seed=1)
    np.testing.assert_allclose(gaussian(*other[:2]) @ other[2], dense(*other[:2]) @ other[2], 1e-5)


# -- the same again, and not quite the same --------------------------------------------------------


@needs_compiler
def test_shapes_and_dtypes_right_after_each_other(launches: dict) -> None:
    for _ in range(2):
        for dtype in ("f4", "f8", "f2", "i4"):
            for m, n in ((10, 9), (1, 9), (10, 1), (17, 9)):
                x, y, b = arrays(m, n, dtype)
                got = gaussian(x, y) @ b
                assert got.dtype == np.result_type(np.exp(x), b) and got.shape == (m, 1)
                np.testing.assert_allclose(got, dense(x, y) @ b.astype("f8"), 2e-3)


@needs_compiler
def test_memory_orders_right_after_each_other() -> None:
    x, y, b = arrays()
    read_only, far = x.copy(), np.zeros((10, 3, 2), "f4")
    read_only.flags.writeable = False
    far[..., 1] = x
    alike = (x, np.asfortranarray(x), x[::-1].copy()[::-1], read_only, far[..., 1])
    repeated = np.broadcast_to(x[:1], x.shape)
    for some in (*alike, repeated, *alike):
        want = dense(some, y)
        np.testing.assert_allclose(gaussian(some, y) @ b, want @ b, 1e-5)
        np.testing.assert_array_equal(np.argmax(gaussian(some, y), axis=1), want.argmax(1))


@needs_compiler
def test_numbers_right_after_each_other() -> None:
    """Equal numbers of different types or signs are different numbers."""
    x, y, _ = arrays(dtype="f8")
    d, whole = LazyArray(x)[:, None] - LazyArray(y)[None], x[:, None] - y[None]
    values = (2, 2.0, True, 2.5, math.pi, 0.1, 0, 0.0, -0.0, math.nan, math.inf, 1, 1.0, False, -1)
    with np.errstate(all="ignore"):
        for value in (*values, *reversed(values)):
            got = (np.copysign(d, value) * value + 1 / (whole[0, 0, 0] * 0 + 2)).sum(1)
            want = (np.copysign(whole, value) * value + 1 / 2).sum(1)
            np.testing.assert_allclose(got, want, 1e-12, err_msg=repr(value))
    i, j = np.arange(5, dtype="i4"), np.arange(4, dtype="i4")
    n, all_n = LazyArray(i)[:, None] + LazyArray(j)[None], i[:, None] + j[None]
    for value in (2, 2.0, True, 2, 1.0, True, 1):
        got, want = (n * value).sum(1), (all_n * value).sum(1)
        assert got.dtype == want.dtype, repr(value)
        np.testing.assert_array_equal(got, want)


@needs_compiler
def test_parameters_right_after_each_other() -> None:
    x, y, _ = arrays(dtype="f8")
    d, whole = (LazyArray(x)[:, None] - LazyArray(y)[None]).sum(-1), (x[:, None] - y).sum(-1)
    for ddof in (0, 1, 1.0, True, 1.5, 0):
        np.testing.assert_allclose(d.var(1, ddof=ddof), whole.var(1, ddof=ddof), 1e-12)
    for k in (1, 3, 2, 3):
        np.testing.assert_allclose(np.sort(d, axis=1)[:, :k], np.sort(whole, axis=1)[:, :k])
    for dtype in ("f4", None, "f8", "f4"):
        assert d.sum(1, dtype=dtype).dtype == whole.sum(1, dtype=dtype).dtype
    for initial in (0.0, 5, -0.0, 5.5, 0.0):
        np.testing.assert_allclose(d.sum(1, initial=initial), whole.sum(1, initial=initial), 1e-12)


@needs_compiler
def test_settings_right_after_each_other() -> None:
    x, y, b = arrays(50, 1000)
    exact = dense(x, y) @ b.astype("f8")
    for _ in range(2):
        for options in (
            {"accumulate": "float64"},
            {"engine": "blocks"},
            {"precision": "exact"},
            {"engine": "cpu", "threads": 1},
            {},
        ):
            with config(**options):  # type: ignore[arg-type]
                np.testing.assert_allclose(gaussian(x, y) @ b, exact, 1e-5)


@needs_compiler
def test_the_same_array_twice_and_two_arrays() -> None:
    """x - x is one thing, x - y another, even if the arrays are alike."""
    x, y, _ = arrays(7, 7, "f8")
    for one, other in ((x, x), (x, y), (x, x), (y, x)):
        a, b = LazyArray(one), LazyArray(other) if other is not one else None
        b = a if b is None else b
        got = ((a[:, None] * b[None]).sum(-1) + (a - b).sum(-1)).sum(1)
        want = (one @ other.T + (one - other).sum(-1)).sum(1)
        np.testing.assert_allclose(got, want, 1e-12)


def test_which_argument_is_which_node_tells_expressions_apart() -> None:
    """All of one outline, of which each pair of inputs may be one node or two."""
    a, b, c, d = (Input(np.ones((4, 3)) * k, np.dtype("f8"), "pf") for k in range(4))
    total = reductions.BY_NAME["sum"]

    def key(p: Input, q: Input, r: Input, s: Input) -> tuple:
        value = ops.call("add", ops.call("multiply", p, q), ops.call("multiply", r, s))
        return evaluate.listed(reductions.reduce(total, [value], [0]))[0]

    keys = {}
    for chosen in itertools.product((a, b, c, d), repeat=4):
        pattern = tuple(chosen.index(one) for one in chosen)  # a b a c -> 0 1 0 3
        keys.setdefault(pattern, set()).add(key(*chosen))
    assert len(keys) == 15  # partitions of four
    assert all(len(found) == 1 for found in keys.values())
    assert len(set().union(*keys.values())) == 15


def test_what_is_repeated_tells_expressions_apart() -> None:
    """A Broadcast's own outline does not say which operation made its argument."""
    x = Input(np.ones((1, 3)), np.dtype("f8"), "pf")
    total, keys = reductions.BY_NAME["sum"], set()
    for name in ("exp", "sin", "exp"):
        node = views.broadcast_to(ops.call(name, x), (4, 3))
        keys.add(evaluate.listed(reductions.reduce(total, [node], [0]))[0])
    assert len(keys) == 2


def test_another_library_right_after_numpy() -> None:
    strict = pytest.importorskip("array_api_strict")
    x, y, b = arrays(dtype="f8")
    for _ in range(2):
        assert isinstance((gaussian(x, y) @ b), np.ndarray)
        xs, ys = strict.asarray(x), strict.asarray(y)
        e = LazyArray(xs)[:, None] - LazyArray(ys)[None]
        got = (e * e).sum(-1).sum(1)
        assert type(got) is type(xs)
        np.testing.assert_allclose(np.asarray(got), ((x[:, None] - y) ** 2).sum((1, 2)))


def test_errors_repeat() -> None:
    x, y = LazyArray(np.ones((4, 3))), LazyArray(np.ones((5, 3)))
    n = LazyArray(np.arange(3, dtype="u1"))
    failing = (
        lambda: x - y,
        lambda: x.sum(7),
        lambda: x @ y,
        lambda: (x[:, None] - y[None]).sum(-1) @ np.ones(4),
        lambda: n + 300,
        lambda: np.floor(LazyArray(np.ones(3, complex))),
        lambda: LazyArray(np.ones((4, 0)))[:, None].min(-1),
        lambda: ops.apply(ops.ROWS["add"], x._node),
    )
    for wrong in failing:
        messages = []
        for _ in range(3):
            with pytest.raises((TypeError, ValueError, OverflowError, IndexError)) as error:
                wrong()
            messages.append((type(error.value), str(error.value)))
        assert len(set(messages)) == 1


# -- the memory of it ------------------------------------------------------------------------------


@needs_compiler
def test_no_more_launches_than_allowed(launches: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "LAUNCHES", 3)
    for n in (*range(2, 12), *range(2, 12)):
        x, y, b = arrays(n, n)
        np.testing.assert_allclose(gaussian(x, y) @ b, dense(x, y) @ b, 1e-5)
        assert 1 <= len(launches) <= 3


@needs_compiler
def test_forgotten_outlines_are_made_again(launches: dict) -> None:
    x, y, b = arrays()
    K = gaussian(x, y)
    before = K @ b
    for table in (expr.applied, expr.reduced, expr.outline, expr._of_input, ops._rule):
        assert table.cache_info().maxsize == expr.TABLE_SIZE
        table.cache_clear()
    np.testing.assert_array_equal(K @ b, before)
    np.testing.assert_array_equal(gaussian(x, y) @ b, before)
    np.testing.assert_array_equal(gaussian(x, y) @ b, before)
    assert len(launches) == 3  # K of old outlines with the new sum, and all of new ones: no more


@needs_compiler
def test_nothing_keeps_arrays_alive() -> None:
    x, y, b = arrays()
    out = gaussian(x, y) @ b
    np.argmin(gaussian(x, y), axis=1)
    living = [weakref.ref(a) for a in (x, y, b, out)]
    del x, y, b, out
    gc.collect()
    assert [r() for r in living] == [None] * 4


def test_outlines_hold_no_arrays() -> None:
    x = np.ones((5, 3))
    node = ops.call("add", Input(x, x.dtype, "pf"), Scalar(2.5))
    assert node.outline is ops.call("add", Input(x + 1, x.dtype, "pf"), Scalar(7.5)).outline
    assert node.outline is not ops.call("add", Input(x, x.dtype, "pf"), Scalar(2)).outline
    seen = [getattr(node.outline, k) for c in type(node.outline).__mro__[:-1] for k in c.__slots__]
    assert not any(isinstance(v, np.ndarray | Input | Scalar) for v in seen)


# -- threads ---------------------------------------------------------------------------------------


@needs_compiler
def test_many_threads_at_once(launches: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "LAUNCHES", 5)

    def work(seed: int) -> None:
        for k in range(30):
            x, y, b = arrays(5 + (seed + k) % 9, 8, seed=seed)
            np.testing.assert_allclose(gaussian(x, y) @ b, dense(x, y) @ b, 1e-5)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert len(launches) <= 5 + 16
