"""KeOps's Genred of every reduction, its generic_* and KernelSolve."""

import numpy as np
import pytest
import torch

from duckkeops.errors import ConvergenceError, UnsupportedError
from duckkeops.keops import numpy as of_numpy
from duckkeops.keops import torch as of_torch
from duckkeops.keops.reducing import NAMES

M, N = 9, 12
X, Y, W = (np.random.default_rng(n).random((n, d)) for n, d in ((M, 3), (N, 3), (N + 1, 2)))
W = W[:N]
LINES = ["x = Vi(3)", "y = Vj(3)", "w = Vj(2)"]
GAPS = ((X[:, None] - Y) ** 2).sum(-1)


def dense(name):
    order = np.argsort(GAPS, 1)[:, :4]
    e = np.exp(GAPS)
    mean = e @ W / e.sum(1, keepdims=True)
    column = {
        "Sum": GAPS.sum(1),
        "LogSumExp": np.log(e.sum(1)),
        "Min": GAPS.min(1),
        "Max": GAPS.max(1),
        "ArgMin": GAPS.argmin(1),
        "ArgMax": GAPS.argmax(1),
    }
    if name in column:
        return (column[name][:, None],)
    top = GAPS.max(1, keepdims=True)
    return {
        "SumSoftMaxWeight": (mean,),
        "Max_SumShiftExp": (np.concatenate([top, np.exp(GAPS - top).sum(1, keepdims=True)], 1),),
        "Min_ArgMin": (GAPS.min(1)[:, None], GAPS.argmin(1)[:, None]),
        "Max_ArgMax": (top, GAPS.argmax(1)[:, None]),
        "KMin": (np.take_along_axis(GAPS, order, 1),),
        "ArgKMin": (order,),
        "KMin_ArgKMin": (np.take_along_axis(GAPS, order, 1), order),
    }[name]


@pytest.mark.parametrize("name", NAMES)
def test_reductions(name):
    more = {"opt_arg": 4} if "KMin" in name else {}
    if name == "SumSoftMaxWeight":
        more["formula2"] = "w"
    for library, make in ((of_numpy, np.asarray), (of_torch, torch.from_numpy)):
        f = library.Genred("SqDist(x, y)", LINES, reduction_op=name, axis=1, **more)
        got = f(*map(make, (X, Y, W)))
        for one, other in zip(got if isinstance(got, tuple) else (got,), dense(name), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)


def test_weights_of_a_logsumexp():
    f = of_numpy.Genred("SqDist(x, y)", LINES, reduction_op="LogSumExpWeight", axis=1, formula2="w")
    np.testing.assert_allclose(f(X, Y, W), np.log(np.exp(GAPS) @ W), rtol=1e-12)


def test_arguments_that_the_formula_lacks_count_rows():
    f = of_numpy.Genred("x", ["x = Vi(3)", "y = Vj(1)"], axis=1)
    np.testing.assert_allclose(f(X, Y[:, :1]), N * X)


def test_parameters_of_rows_and_of_batches():
    formula, lines = "Exp(-p * SqDist(x, y))", ["x = Vi(3)", "y = Vj(3)", "p = Pm(1)"]
    of_x, of_y = of_numpy.Vi(0, 3), of_numpy.Vj(1, 3)
    K = (-(of_numpy.Pm(2, 1) * of_x.sqdist(of_y))).exp()
    p = np.array([0.5])
    for f in (of_numpy.Genred(formula, lines, axis=1), K.sum(1)):
        want = np.exp(-GAPS / 2).sum(1)[:, None]
        for own in (p, p[None], p[None, None]):  # KeOps does not look at further axes
            np.testing.assert_allclose(f(X, Y, own), want, strict=True)
            np.testing.assert_allclose(f(X[None], Y[None], own), want[None], strict=True)
        twice, own = (np.stack([a, a]) for a in (X, Y)), np.array([[0.5], [2.0]])
        want = np.exp(-own[:, :, None] * GAPS).sum(2)[..., None]
        np.testing.assert_allclose(f(*twice, own), want, strict=True)


def test_generic_reductions():
    lines = LINES[:2]
    total = of_numpy.generic_sum("SqDist(x, y)", "a = Vj(1)", *lines)
    np.testing.assert_allclose(total(X, Y), GAPS.sum(0)[:, None])
    nearest = of_numpy.generic_argkmin("SqDist(x, y)", "a = Vi(4)", *lines)
    np.testing.assert_array_equal(nearest(X, Y), np.argsort(GAPS, 1)[:, :4])
    lse = of_torch.generic_logsumexp("SqDist(x, y)", "a = Vi(1)", *lines)
    got = lse(*map(torch.from_numpy, (X, Y)))
    np.testing.assert_allclose(got, np.log(np.exp(GAPS).sum(1, keepdims=True)))


@pytest.mark.parametrize("dim", [1, 2])
def test_kernel_solve(dim):
    lines = ["x = Vi(3)", "y = Vj(3)", f"b = Vj({dim})"]
    solve = of_torch.KernelSolve("Exp(-SqDist(x, y)) * b", lines, "b", axis=1)
    y = torch.from_numpy(Y).requires_grad_()
    b = torch.from_numpy(W[:, :dim]).requires_grad_()
    dense = torch.exp(-((y[:, None] - y) ** 2).sum(-1)) + 0.3 * torch.eye(N, dtype=y.dtype)
    want = torch.linalg.solve(dense, b)
    got = solve(y, y, b, alpha=0.3, eps=1e-13)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    for one, other in zip(
        torch.autograd.grad(got.square().sum(), (y, b)),
        torch.autograd.grad(want.square().sum(), (y, b)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


def test_solutions_that_are_not_there_are_refused():
    lines = ["x = Vi(3)", "y = Vj(3)", "b = Vj(1)"]
    solve = of_numpy.KernelSolve("-SqDist(x, y) * b", lines, "b", axis=1)
    with pytest.raises(ConvergenceError):
        solve(Y, Y, W[:, :1])
    with pytest.raises(UnsupportedError, match="one number for each pair"):
        of_numpy.KernelSolve("(x - y) * b", ["x = Vi(2)", "y = Vj(2)", "b = Vj(2)"], "b", axis=1)


@pytest.mark.parametrize(
    ("formula", "unknown", "error", "told"),
    [
        ("Exp(-SqDist(x, y)) * b + 1", "Vj(1)", UnsupportedError, "one number for each pair"),
        ("Exp(-SqDist(x, y)) * b * b", "Vj(1)", UnsupportedError, "one number for each pair"),
        ("(b | b) * b", "Vj(2)", UnsupportedError, "one number for each pair"),
        ("Exp(-SqDist(x, y)) * b", "Vi(1)", ValueError, "rows j"),
        ("Exp(-SqDist(x, y)) * b", "Pm(1)", ValueError, "rows j"),
    ],
)
def test_what_is_not_linear_in_the_unknown_is_refused(formula, unknown, error, told):
    lines = ["x = Vi(3)", "y = Vj(3)", f"b = {unknown}"]
    with pytest.raises(error, match=told):
        of_numpy.KernelSolve(formula, lines, "b", axis=1)


@pytest.mark.parametrize("dtype", [int, complex, bool])
def test_right_hand_sides_are_real_numbers(dtype):
    K = (-of_numpy.Vi(Y).sqdist(of_numpy.Vj(Y))).exp()
    with pytest.raises(ValueError, match="right-hand side has dtype"):
        K.solve(np.ones((N, 1), dtype), alpha=0.1)


def test_sums_and_quotients_are_linear_in_the_unknown():
    lines = ["x = Vi(3)", "y = Vj(3)", "b = Vj(1)"]
    solve = of_numpy.KernelSolve("(Exp(-SqDist(x, y)) * b - b / 4) / 2", lines, "b", axis=1)
    gaps = ((Y[:, None] - Y) ** 2).sum(-1)
    want = np.linalg.solve((np.exp(-gaps) - 0.25) / 2 + np.eye(N), W[:, :1])
    np.testing.assert_allclose(solve(Y, Y, W[:, :1], alpha=1.0, eps=1e-12), want, rtol=1e-9)
