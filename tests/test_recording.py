"""What was recorded of one call serves others, of arrays of the same kind, and only those."""

import gc
import weakref

import numpy as np
import pytest
import torch

import duckkeops.keops.numpy as in_numpy
import duckkeops.keops.torch as in_torch
from duckkeops import BlockPairs, LazyArray, config, genuine
from duckkeops.keops import reducing
from duckkeops.recording import kind, record

rng = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def _nothing_recorded(monkeypatch):
    monkeypatch.setattr(reducing, "_recordings", {})


def replays():
    """How many of the recordings serve later calls."""
    return sum(again is not None for again, _ in reducing._recordings.values())


def clouds(m=5, n=7, d=3, dtype="float64"):
    return [torch.tensor(rng.random(s), dtype=getattr(torch, dtype)) for s in ((m, d), (n, d))]


GAUSSIAN = "Exp(-SqDist(x, y)) * b"
NAMES = ["x = Vi(3)", "y = Vj(3)", "b = Vj(2)"]


def dense(x, y, b):
    return torch.exp(-((x[:, None] - y[None]) ** 2).sum(-1)) @ b


def test_formula_strings():
    call = in_torch.Genred(GAUSSIAN, NAMES, axis=1)
    for n in (7, 7, 7, 9, 7):
        x, y = clouds(n=n)
        b = torch.tensor(rng.random((n, 2)))
        torch.testing.assert_close(call(x, y, b), dense(x, y, b))
    assert len(reducing._recordings) == replays() == 2


@pytest.mark.parametrize("library", [in_numpy, in_torch])
def test_lazy_tensors(library):
    for _ in range(3):
        for scale in (0.5, 2.0):
            x, y = (t.numpy() for t in clouds())
            given = (x, y) if library is in_numpy else map(torch.tensor, (x, y))
            x_i, y_j = (library.LazyTensor(a, axis=k) for k, a in enumerate(given))
            out = (-((x_i - y_j) ** 2).sum(-1) / scale).logsumexp(1)
            squares = ((x[:, None] - y[None]) ** 2).sum(-1)
            want = np.log(np.exp(-squares / scale).sum(1, keepdims=True))
            np.testing.assert_allclose(np.asarray(out), want)
    assert len(reducing._recordings) == replays() == 2


@pytest.mark.parametrize("op", ["KMin", "ArgKMin", "KMin_ArgKMin", "ArgMin", "Min"])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("library", [in_numpy, in_torch])
def test_entries_and_places(library, op, axis):
    names = ["x = Vi(3)", "y = Vj(3)"]
    more = {"opt_arg": 3} if "K" in op else {}
    call = library.Genred("SqDist(x, y)", names, reduction_op=op, axis=axis, **more)
    for _ in range(3):
        x, y = (t.numpy() for t in clouds())
        dense = ((x[:, None] - y[None]) ** 2).sum(-1)
        dense = dense if axis else dense.T
        places = np.argsort(dense, axis=1)[:, : 3 if "K" in op else 1]
        values = np.take_along_axis(dense, places, 1)
        given = (x, y) if library is in_numpy else map(torch.tensor, (x, y))
        want = {"KMin": values, "Min": values, "KMin_ArgKMin": (values, places)}.get(op, places)
        got = call(*given)
        assert isinstance(got, tuple) is isinstance(want, tuple)
        both = [t if isinstance(t, tuple) else (t,) for t in (got, want)]
        for one, other in zip(*both, strict=True):
            np.testing.assert_allclose(np.asarray(one), other, rtol=1e-12)
    assert len(reducing._recordings) == 1
    assert replays() == (op != "Min" or library is in_numpy)  # torch.min finds places, too


def test_the_same_array_twice_is_another_kind():
    call = in_torch.Genred("SqDist(x, y)", ["x = Vi(3)", "y = Vj(3)"], axis=1)
    x, y = clouds(5, 5)
    same = ((x[:, None] - x[None]) ** 2).sum((1, 2))[:, None]
    other = ((x[:, None] - y[None]) ** 2).sum((1, 2))[:, None]
    for first, second, want in ((x, x, same), (x, y, other), (x, x, same), (x, y, other)):
        torch.testing.assert_close(call(first, second), want)


@pytest.mark.parametrize("tracked", [None, False, True])
def test_views_of_one_array_are_another_kind(tracked):
    library = in_numpy if tracked is None else in_torch
    call = library.Genred("SqDist(x, y)", ["x = Vi(3)", "y = Vj(3)"], axis=1)
    clouds = [rng.random((5, 3)) for _ in range(3)]
    if tracked is not None:
        clouds = [torch.tensor(c, requires_grad=tracked) for c in clouds]
    x, y, z = clouds
    for first, second in ((x, x[:]), (x, y), (z[:], z), (y, z), (x, x[:])):
        with torch.no_grad():
            got = call(first, second), library.Vi(first).sqdist(library.Vj(second)).sum(1)
        first, second = (np.asarray(a if tracked is None else a.detach()) for a in (first, second))
        want = ((first[:, None] - second) ** 2).sum((1, 2))[:, None]
        for one in got:
            np.testing.assert_allclose(np.asarray(one), want)


def test_gradients_of_each_call():
    call = in_torch.Genred(GAUSSIAN, NAMES, axis=1)
    for tracked in (False, True, False, True, True):
        x, y = clouds()
        b = torch.tensor(rng.random((7, 2)))
        x.requires_grad_(tracked)
        out = call(x, y, b)
        assert out.requires_grad is tracked
        if tracked:
            found = []
            for value in (out, dense(x, y, b)):
                (first,) = torch.autograd.grad((value**2).sum(), x, create_graph=True)
                (second,) = torch.autograd.grad((first**2).sum(), x)
                found.append((first.detach(), second))
            torch.testing.assert_close(*found)
    for _ in range(3):
        with torch.no_grad():
            out = call(x, y, b)
        assert not out.requires_grad
        torch.testing.assert_close(out, dense(x, y, b).detach())
    assert len(reducing._recordings) == replays() == 3


def test_arguments_that_do_not_enter_keep_their_zeros():
    call = in_torch.Genred("SqDist(x, y) * b / b", [*NAMES[:2], "b = Vj(1)", "c = Vi(1)"], axis=1)
    for _ in range(3):
        x, y = clouds()
        b, c = torch.ones(7, 1, dtype=x.dtype), torch.ones(5, 1, dtype=x.dtype, requires_grad=True)
        (slope,) = torch.autograd.grad(call(x, y, b, c).sum(), c)
        torch.testing.assert_close(slope, torch.zeros_like(c))


def test_other_layouts_dtypes_and_settings():
    call = in_torch.Genred(GAUSSIAN, NAMES, axis=1)
    for dtype in ("float64", "float32", "float64"):
        x, y = clouds(dtype=dtype)
        b = torch.tensor(rng.random((7, 2)), dtype=x.dtype)
        torch.testing.assert_close(call(x, y, b), dense(x, y, b))
        strided = torch.stack([y, -y], dim=-1)[..., 0]
        assert not strided.is_contiguous()
        torch.testing.assert_close(call(x, strided, b), dense(x, y, b))
        with config(precision="exact"):
            torch.testing.assert_close(call(x, y, b), dense(x, y, b))


def test_patterns_of_pairs():
    """A recording of a restricted reduction serves other pairs, and none where there are none."""
    x, y = clouds(4, 6)
    call = in_torch.Genred("SqDist(x, y)", ["x = Vi(3)", "y = Vj(3)"], axis=1)
    squares = ((x[:, None] - y[None]) ** 2).sum(-1)
    for _ in range(2):
        assert torch.allclose(call(x, y)[:, 0], squares.sum(1))
        for mask in ([[1, 0], [0, 1]], [[0, 1], [1, 1]], [[0, 0], [1, 0]]):
            mask = torch.tensor(mask, dtype=torch.bool)
            edges = [torch.tensor([[0, 2], [2, 4]]), torch.tensor([[0, 3], [3, 6]])]
            ranges = in_torch.cluster.from_matrix(*edges, mask)
            whole = mask.repeat_interleave(2, 0).repeat_interleave(3, 1)
            torch.testing.assert_close(call(x, y, ranges=ranges)[:, 0], (squares * whole).sum(1))
    assert len(reducing._recordings) == replays() == 2


def test_no_array_and_no_pattern_is_kept():
    call = in_torch.Genred("SqDist(x, y)", ["x = Vi(3)", "y = Vj(3)"], axis=1)
    x, y = clouds(4, 6)
    mask, edges = torch.eye(2, dtype=torch.bool), [torch.tensor([[0, 2], [2, 4]])] * 2
    ranges = in_torch.cluster.from_matrix(*edges, mask)
    call(x, y)
    call(x, y[:4].clone(), ranges=ranges)
    assert replays() == 2
    gone = [weakref.ref(a) for a in (x, y, ranges[0])]
    del x, y, ranges, edges
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3


def test_what_is_not_one_reduction_is_not_recorded():
    x, y = (t.numpy() for t in clouds())

    def distances():
        return ((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1)

    for call in (
        lambda: distances().min(1) + 1,
        lambda: (distances().min(1), distances().max(1)),
        lambda: np.ascontiguousarray(distances().min(1)[::-1]),
        lambda: distances().min(1)[:4],
        lambda: distances().to_dense(),
        lambda: (distances() + np.ones(7)).min(1),  # of another array
    ):
        assert record(call, (x, y))[1] is None
    value, again = record(lambda: distances().min(1), (x, y))
    assert again is not None
    np.testing.assert_array_equal(again((x, y)), value)


def test_what_has_no_kind():
    x = torch.zeros(3, 2)
    assert kind((x, [1.0])) is None
    assert kind((x, x)) != kind((x, x.clone()))
    assert kind((x,)) != kind((x.double(),)) != kind((x.double().requires_grad_(),))
    assert torch.func.vmap(lambda t: t * (1 if kind((t,)) is None else torch.nan))(x).sum() == 0
    with config(accumulate="float64"):
        inside = kind((x,))
    assert inside != kind((x,))


def test_recordings_are_forgotten(monkeypatch):
    monkeypatch.setattr(reducing, "KEPT", 3)
    call = in_torch.Genred("SqDist(x, y)", ["x = Vi(3)", "y = Vj(3)"], axis=1)
    for n in range(1, 9):
        call(*clouds(n=n))
        assert len(reducing._recordings) <= 3


def test_a_repeated_call_records_nothing(monkeypatch):
    call = in_torch.Genred(GAUSSIAN, NAMES, axis=1)
    x, y = clouds()
    b = torch.tensor(rng.random((7, 2)))
    first = call(x, y, b)

    def refuse(*args):
        raise AssertionError("recorded again")

    monkeypatch.setattr(genuine, "settled_reduction", refuse)
    torch.testing.assert_close(call(x, y, b), first, rtol=0, atol=0)
    with pytest.raises(AssertionError, match="again"):
        call(x[:4], y, b)


def test_restricted_arrays_directly():
    x, y = (t.numpy() for t in clouds(4, 6))
    pairs = [BlockPairs(m, [0, 2, 4], [0, 3, 6]) for m in ([[1, 0], [0, 1]], [[1, 1], [0, 0]])]

    def nearest(kept):
        d = ((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1)
        return d.restrict(kept).min(1)

    _, again = record(lambda: nearest(pairs[0]), (x, y))
    assert again is not None
    for kept in pairs:
        np.testing.assert_array_equal(again((x, y), kept), nearest(kept))
