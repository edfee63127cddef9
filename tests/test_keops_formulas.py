"""KeOps's operations: values, gradients by torch and by formulas, against dense float64."""

import math

import numpy as np
import pytest
import torch

from duckkeops.keops.formulas import TABLE
from duckkeops.keops.torch import Genred

M, N = 4, 5


def total(v):
    return v.sum(-1, keepdim=True)


def norm(v):
    return total(v * v).sqrt()


def spline(t, x, k):
    """The basis, by its definition."""
    out = ((t[..., :-1] <= x) & (x < t[..., 1:])).to(x.dtype)
    for q in range(1, k + 1):
        n = t.shape[-1] - q
        ratio = (x - t[..., :n]) / (t[..., q:] - t[..., :n])
        out = ratio[..., :-1] * out[..., :-1] + (1 - ratio[..., 1:]) * out[..., 1:]
    return out


def pairs(z):
    return torch.view_as_complex(z.reshape(*z.shape[:-1], -1, 2).contiguous())


def flat(z):
    return torch.view_as_real(z).flatten(-2)


def kron(a, b):
    a, b = (v.reshape(*v.shape[:-1], *s) for v, s in ((a, (2, 2)), (b, (3, 2))))
    return torch.einsum("...ij,...kl->...ikjl", a, b).flatten(-4)


def dot(a, b):
    a, b = (v.reshape(*v.shape[:-1], *s) for v, s in ((a, (2, 3, 4)), (b, (4, 2))))
    return torch.einsum("...pqr,...rp->...q", a, b)


def softmin(gamma, *values):
    return -gamma * torch.logsumexp(torch.stack(values) / -gamma, 0)


def softdtw(x, y, gamma):
    """By its recursion over prefixes."""
    x, y = x.expand(M, N, -1), y.expand(M, N, -1)
    costs = {}
    for i in range(x.shape[-1]):
        for j in range(y.shape[-1]):
            before = [costs[k] for k in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if k in costs]
            costs[i, j] = (x[..., i] - y[..., j]) ** 2
            if before:
                costs[i, j] = costs[i, j] + softmin(gamma, *before)
    return costs[i, j][..., None]


# name: a formula of a, b, c; what it means; the dimensions of a, b, c; where its arguments lie
CASES = {
    "Add": ("a + b", lambda a, b: a + b, (3, 1)),
    "Subtract": ("a - b", lambda a, b: a - b, (1, 3)),
    "Mult": ("a * b", lambda a, b: a * b, (3, 3)),
    "Divide": ("a / b", lambda a, b: a / b, (3, 1)),
    "Minus": ("-a * b", lambda a, b: -a * b, (3, 3)),
    "Inv": ("Inv(a + b)", lambda a, b: 1 / (a + b), (3, 3)),
    "IntCst": ("IntCst(3) * a + 2 * b", lambda a, b: 3 * a + 2 * b, (3, 3)),
    "IntInv": ("IntInv(4) * a + b", lambda a, b: a / 4 + b, (3, 3)),
    "RatCst": ("RatCst(2,3) * a + b", lambda a, b: a * 2 / 3 + b, (3, 3)),
    "Zero": ("Zero(3) + a * b", lambda a, b: a * b, (3, 3)),
    "Square": ("Square(a - b)", lambda a, b: (a - b) ** 2, (3, 3)),
    "Sqrt": ("Sqrt(a + b)", lambda a, b: (a + b).sqrt(), (3, 3)),
    "Rsqrt": ("Rsqrt(a + b)", lambda a, b: (a + b).rsqrt(), (3, 3)),
    "Pow": ("Pow(a - b, 3)", lambda a, b: (a - b) ** 3, (3, 3)),
    "Powf": ("Powf(a, b)", lambda a, b: a**b, (3, 3)),
    "Exp": ("Exp(a - b)", lambda a, b: (a - b).exp(), (3, 3)),
    "Log": ("Log(a + b)", lambda a, b: (a + b).log(), (3, 3)),
    "XLogX": ("XLogX(a + b)", lambda a, b: (a + b) * (a + b).log(), (3, 3)),
    "Cos": ("Cos(a - b)", lambda a, b: (a - b).cos(), (3, 3)),
    "Sin": ("Sin(a - b)", lambda a, b: (a - b).sin(), (3, 3)),
    "SinXDivX": ("SinXDivX(a - b)", lambda a, b: torch.sinc((a - b) / math.pi), (3, 3)),
    "Asin": ("Asin(a * b)", lambda a, b: (a * b).asin(), (3, 3)),
    "Acos": ("Acos(a * b)", lambda a, b: (a * b).acos(), (3, 3)),
    "Atan": ("Atan(a - b)", lambda a, b: (a - b).atan(), (3, 3)),
    "Atan2": ("Atan2(a, b)", torch.atan2, (3, 3)),
    "Abs": ("Abs(a - b)", lambda a, b: (a - b).abs(), (3, 3)),
    "Sign": ("Sign(a - b) * a", lambda a, b: (a - b).sign() * a, (3, 3)),
    "Step": ("Step(a - b) * a", lambda a, b: (a >= b) * a, (3, 3)),
    "Floor": ("Floor(4 * a - b) * b", lambda a, b: (4 * a - b).floor() * b, (3, 3)),
    "Round": ("Round(a - b, 1) * b", lambda a, b: torch.round(a - b, decimals=1) * b, (3, 3)),
    "Equal": ("Equal(Floor(9*a), 4) * b", lambda a, b: ((9 * a).floor() == 4) * b, (3, 3)),
    "NotEqual": ("NotEqual(Floor(9*a), 4) * b", lambda a, b: ((9 * a).floor() != 4) * b, (3, 3)),
    "LessThan": ("(a < b) * a", lambda a, b: (a < b) * a, (3, 3)),
    "LessOrEqual": ("LessOrEqual(a, b) * a", lambda a, b: (a <= b) * a, (3, 3)),
    "GreaterThan": ("(a > b) * a", lambda a, b: (a > b) * a, (3, 3)),
    "GreaterOrEqual": ("(a >= b) * a", lambda a, b: (a >= b) * a, (3, 3)),
    "ReLU": ("ReLU(a - b)", lambda a, b: (a - b).relu(), (3, 3)),
    "IfElse": (
        "IfElse(a - b, a * b, c)",
        lambda a, b, c: torch.where(a >= b, a * b, c),
        (3, 3, 1),
    ),
    "Clamp": ("Clamp(a, b / 2, 0.6)", lambda a, b: torch.clamp(a, b / 2, 0 * b + 0.6), (3, 1)),
    "ClampInt": ("ClampInt(3*a - b, 0, 1)", lambda a, b: (3 * a - b).clamp(0, 1), (3, 3)),
    "DiffClampInt": (
        "DiffClampInt(3*a - b, 0, 1) * b",
        lambda a, b: ((3 * a - b >= 0) & (3 * a - b <= 1)) * b,
        (3, 3),
    ),
    "Mod": (
        "Mod(5*a, b, c)",
        lambda a, b, c: 5 * a - b * ((5 * a - c) / b).floor(),
        (3, 1, 1),
    ),
    "Sum": ("Sum(a * b)", lambda a, b: total(a * b), (3, 3)),
    "SumT": ("SumT(a | b, 4)", lambda a, b: total(a * b).expand(M, N, 4), (3, 3)),
    "Scalprod": ("a | b", lambda a, b: total(a * b), (3, 3)),
    "SqNorm2": ("SqNorm2(a - b)", lambda a, b: total((a - b) ** 2), (3, 3)),
    "SqDist": ("SqDist(a, b)", lambda a, b: total((a - b) ** 2), (3, 3)),
    "Norm2": ("Norm2(a - b)", lambda a, b: norm(a - b), (3, 3)),
    "Normalize": ("Normalize(a - b)", lambda a, b: (a - b) / norm(a - b), (3, 3)),
    "WeightedSqNorm": (
        "WeightedSqNorm(c, a - b)",
        lambda a, b, c: total(c * (a - b) ** 2),
        (3, 3, 3),
    ),
    "WeightedSqDist": (
        "WeightedSqDist(c, a, b)",
        lambda a, b, c: c * total((a - b) ** 2),
        (3, 3, 1),
    ),
    "SqNormIso": ("SqNormIso(c, a - b)", lambda a, b, c: c * total((a - b) ** 2), (3, 3, 1)),
    "SqNormDiag": ("SqNormDiag(c, a - b)", lambda a, b, c: total(c * (a - b) ** 2), (3, 3, 3)),
    "SymSqNorm": (
        "SymSqNorm(c, a - b)",
        lambda a, b, c: total(c * ((a - b)[..., :, None] * (a - b)[..., None, :]).flatten(-2)),
        (3, 3, 9),
    ),
    "Max": ("Max(a - b)", lambda a, b: (a - b).amax(-1, keepdim=True), (3, 3)),
    "Min": ("Min(a * b)", lambda a, b: (a * b).amin(-1, keepdim=True), (3, 3)),
    "ArgMax": ("ArgMax(a - b) * b", lambda a, b: (a - b).argmax(-1, keepdim=True) * b, (3, 3)),
    "ArgMin": ("ArgMin(a - b) * b", lambda a, b: (a - b).argmin(-1, keepdim=True) * b, (3, 3)),
    "Elem": ("Elem(a * b, 1)", lambda a, b: (a * b)[..., 1:2], (3, 3)),
    "ElemT": (
        "ElemT(a | b, 4, 1)",
        lambda a, b: total(a * b) * torch.eye(4, dtype=a.dtype)[1],
        (3, 3),
    ),
    "Extract": ("Extract(a * b, 1, 2)", lambda a, b: (a * b)[..., 1:3], (3, 3)),
    "ExtractT": (
        "ExtractT(a * b, 1, 5)",
        lambda a, b: torch.nn.functional.pad(a * b, (1, 1)),
        (3, 3),
    ),
    "Concat": (
        "Concat(a, b)",
        lambda a, b: torch.cat([a.expand(M, N, 3), b.expand(M, N, 2)], -1),
        (3, 2),
    ),
    "OneHot": (
        "OneHot(Floor(4*a), 5) * b",
        lambda a, b: torch.nn.functional.one_hot((4 * a[..., 0]).long(), 5) * b,
        (1, 5),
    ),
    "TensorDot": ("TensorDot(a, b, [2,3,4], [4,2], [2,0], [0,1])", dot, (24, 8)),
    "TensorProd": (
        "TensorProd(a, b)",
        lambda a, b: (a[..., :, None] * b[..., None, :]).flatten(-2),
        (3, 2),
    ),
    "MatVecMult": (
        "MatVecMult(a, b)",
        lambda a, b: (a.unflatten(-1, (2, 3)) @ b[..., None])[..., 0],
        (6, 3),
    ),
    "VecMatMult": (
        "VecMatMult(a, b)",
        lambda a, b: (a[..., None, :] @ b.unflatten(-1, (2, 3)))[..., 0, :],
        (2, 6),
    ),
    "Kron": ("Kron(a, b, [2,2], [3,2])", kron, (4, 6)),
    "DifferenceMatrix": (
        "DifferenceMatrix(a, b)",
        lambda a, b: (a[..., :, None] - b[..., None, :]).flatten(-2),
        (3, 2),
    ),
    "SoftMin": (
        "SoftMin(c, a, b)",
        lambda a, b, c: -c * torch.logaddexp(-a / c, -b / c),
        (3, 3, 1),
    ),
    "SoftDTW_SqDist": ("SoftDTW_SqDist(a, b, c)", softdtw, (2, 3, 1)),
    "BSpline": ("BSpline(c, a * b, 2)", lambda a, b, c: spline(c, a * b, 2), (1, 1, 6)),
    "Factorize": ("Factorize(a * b, b)", lambda a, b: a * b, (3, 3)),
    "AutoFactorize": ("AutoFactorize(a * b)", lambda a, b: a * b, (3, 3)),
    "ComplexMult": ("ComplexMult(a, b)", lambda a, b: flat(pairs(a) * pairs(b)), (4, 4)),
    "ComplexAdd": ("ComplexAdd(a, b)", lambda a, b: a + b, (4, 4)),
    "ComplexSubtract": ("ComplexSubtract(a, b)", lambda a, b: a - b, (4, 4)),
    "ComplexDivide": ("ComplexDivide(a, b)", lambda a, b: flat(pairs(a) / pairs(b)), (4, 4)),
    "ComplexRealScal": (
        "ComplexRealScal(a, b)",
        lambda a, b: flat(a * pairs(b)),
        (1, 4),
    ),
    "ComplexReal": ("ComplexReal(a) * b", lambda a, b: pairs(a).real * b, (4, 2)),
    "ComplexImag": ("ComplexImag(a) * b", lambda a, b: pairs(a).imag * b, (4, 2)),
    "ComplexAbs": ("ComplexAbs(a) * b", lambda a, b: pairs(a).abs() * b, (4, 2)),
    "ComplexSquareAbs": ("ComplexSquareAbs(a) * b", lambda a, b: pairs(a).abs() ** 2 * b, (4, 2)),
    "ComplexAngle": ("ComplexAngle(a) * b", lambda a, b: pairs(a).angle() * b, (4, 2)),
    "Conj": ("ComplexMult(Conj(a), b)", lambda a, b: flat(pairs(a).conj() * pairs(b)), (4, 4)),
    "ComplexSum": (
        "ComplexSum(ComplexMult(a, b))",
        lambda a, b: flat((pairs(a) * pairs(b)).sum(-1, keepdim=True)),
        (4, 4),
    ),
    "ComplexSumT": (
        "ComplexSumT(ComplexMult(a, b), 6)",
        lambda a, b: flat((pairs(a) * pairs(b)).expand(M, N, 3).contiguous()),
        (2, 2),
    ),
    "ComplexExp": (
        "ComplexExp(ComplexMult(a, b))",
        lambda a, b: flat((pairs(a) * pairs(b)).exp()),
        (4, 4),
    ),
    "ComplexExp1j": ("ComplexExp1j(a - b)", lambda a, b: flat((1j * (a - b)).exp()), (2, 2)),
    "Real2Complex": ("Real2Complex(a * b)", lambda a, b: flat((a * b) + 0j), (2, 2)),
    "Imag2Complex": ("Imag2Complex(a * b)", lambda a, b: flat(1j * (a * b)), (2, 2)),
}
DERIVATIVES = (
    "Grad",
    "Diff",
    "Divergence",
    "Laplacian",
    "GradMatrix",
    "TraceOperator",
    "AdjointOperator",
)


def arguments(dims):
    g = torch.Generator().manual_seed(1)
    rows = (M, N, 1)[: len(dims)]
    out = [
        torch.rand(n, d, generator=g, dtype=torch.float64) * 0.8 + 0.1
        for n, d in zip(rows, dims, strict=True)
    ]
    if len(dims) == 3:
        out[2] = out[2][0].sort().values
    return [t.requires_grad_() for t in out]


def aliases(dims):
    return [f"{n} = {c}({d})" for n, c, d in zip("abc", ("Vi", "Vj", "Pm"), dims, strict=False)]


def spread(args):
    a, b, *c = args
    return a[:, None, :], b[None, :, :], *c


# all that KeOps 2.3 exports: keopscore.formulas.maths.__all__
OF_KEOPS = [
    "Abs",
    "Acos",
    "Add",
    "ArgMax",
    "ArgMin",
    "Asin",
    "Atan",
    "Atan2",
    "BSpline",
    "Clamp",
    "ClampInt",
    "Concat",
    "Cos",
    "DiffClampInt",
    "Divide",
    "Elem",
    "ElemT",
    "Equal",
    "Exp",
    "Extract",
    "ExtractT",
    "GradMatrix",
    "Floor",
    "IfElse",
    "IntInv",
    "Inv",
    "Kron",
    "LessOrEqual",
    "LessThan",
    "Log",
    "MatVecMult",
    "Max",
    "Min",
    "Minus",
    "Mod",
    "Mult",
    "Norm2",
    "Normalize",
    "NotEqual",
    "OneHot",
    "Pow",
    "Powf",
    "ReLU",
    "Round",
    "Rsqrt",
    "Scalprod",
    "Sign",
    "Sin",
    "SinXDivX",
    "SoftDTW_SqDist",
    "SqDist",
    "SqNorm2",
    "SqNormDiag",
    "SqNormIso",
    "Sqrt",
    "Square",
    "Step",
    "Subtract",
    "Sum",
    "SumT",
    "SymSqNorm",
    "TensorDot",
    "TensorProd",
    "VecMatMult",
    "WeightedSqDist",
    "WeightedSqNorm",
    "XLogX",
]


def test_every_operation_has_a_case():
    assert set(TABLE) == {*CASES, *DERIVATIVES}
    assert len(OF_KEOPS) == 67 and not set(OF_KEOPS) - set(TABLE)


@pytest.mark.parametrize(
    "formula",
    [
        *("a == b", "a < b", "a <= b", "a > b", "a >= b", "NotEqual(a, b)", "Step(a - b)"),
        *("ArgMax(a - b)", "ArgMin(a - b)", "OneHot(Sum(a | b), 4)", "DiffClampInt(a - b, 0, 1)"),
        *("Sign(a - b)", "Floor(a - b)", "Round(a - b, 1)", "Zero(3) * IntCst(2)"),
    ],
)
def test_what_has_steps_has_gradients_of_0(formula):
    args = [*arguments((3, 3)), torch.rand(M, 2, dtype=torch.float64, requires_grad=True)]
    out = Genred(formula, [*aliases((3, 3)), "unused = Vi(2)"], axis=1)(*args)
    for x, g in zip(args, torch.autograd.grad(out.sum(), args), strict=True):
        assert torch.equal(g, torch.zeros_like(x))


def test_conditions_have_gradients_of_0_beside_those_of_values():
    a, b = arguments((3, 3))
    c = torch.rand(M, 3, dtype=torch.float64, requires_grad=True)
    f = Genred("IfElse(c - 1/2, a * b, b)", ["a = Vi(3)", "b = Vj(3)", "c = Vi(3)"], axis=1)
    got = torch.autograd.grad(f(a, b, c).sum(), (a, b, c))
    want = torch.where(c[:, None] >= 0.5, a[:, None] * b, b).sum()
    for one, other in zip(got, torch.autograd.grad(want, (a, b)), strict=False):
        torch.testing.assert_close(one, other)
    assert not got[2].any()


@pytest.mark.parametrize("axis", [1])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_dense_torch(name, axis):
    formula, dense, dims = CASES[name]
    args = arguments(dims)
    want = dense(*spread(args))
    want = want.expand(M, N, want.shape[-1]).sum(axis)
    got = Genred(formula, aliases(dims), axis=axis)(*args)
    assert got.shape == want.shape and got.dtype == want.dtype
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    e = torch.rand(want.shape, dtype=want.dtype, generator=torch.Generator().manual_seed(2))
    theirs = torch.autograd.grad(want, args, e, materialize_grads=True, allow_unused=True)
    ours = torch.autograd.grad(got, args, e, materialize_grads=True, allow_unused=True)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_gradients_as_formulas(name):
    formula, dense, dims = CASES[name]
    args = arguments(dims)
    want = dense(*spread(args))
    want = want.expand(M, N, want.shape[-1])
    e = torch.rand(N, want.shape[-1], dtype=want.dtype, generator=torch.Generator().manual_seed(2))
    theirs = torch.autograd.grad(
        (want * e).sum(), args[:2], allow_unused=True, materialize_grads=True
    )
    for k, (var, axis) in enumerate((("a", 1), ("b", 0))):
        text = f"Grad({formula}, {var}, e)"
        got = Genred(text, [*aliases(dims), f"e = Vj({e.shape[1]})"], axis=axis)(*args, e)
        torch.testing.assert_close(got, theirs[k], rtol=1e-10, atol=1e-10)


MIXED = {  # what is not called complex takes complex numbers as pairs
    "ComplexMult(a, b) + a": lambda m, a: m + a,
    "ComplexMult(a, b) * a": lambda m, a: m * a,
    "ComplexMult(a, b) * 2 + Sum(a)": lambda m, a: m * 2 + total(a),
    "ComplexMult(a, b) | a": lambda m, a: total(m * a),
    "Sum(ComplexMult(a, b))": lambda m, a: total(m),
    "SqNorm2(ComplexMult(a, b))": lambda m, a: total(m * m),
    "Exp(ComplexMult(a, b))": lambda m, a: m.exp(),
    "Max(ComplexMult(a, b))": lambda m, a: m.amax(-1, keepdim=True),
    "Extract(ComplexMult(a, b), 1, 2)": lambda m, a: m[..., 1:3],
    "Concat(a, ComplexMult(a, b))": lambda m, a: torch.cat([a, m], -1),
    "ComplexMult(Exp(ComplexMult(a, b)), a)": lambda m, a: flat(pairs(m.exp()) * pairs(a)),
}


@pytest.mark.parametrize("formula", MIXED)
def test_strings_take_complex_numbers_as_pairs(formula):
    a, b = arguments((4, 4))
    A = a[:, None].expand(M, N, 4)
    want = MIXED[formula](flat(pairs(A) * pairs(b[None].expand(M, N, 4))), A).sum(1)
    got = Genred(formula, aliases((4, 4)), axis=1)(a, b)
    torch.testing.assert_close(got, want)
    for one, other in zip(
        *(torch.autograd.grad(v.sin().sum(), (a, b)) for v in (got, want)), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_complex_numbers_are_broadcast_in_derivatives():
    a, b = arguments((2, 6))
    e = torch.rand(N, 6, dtype=torch.float64)
    for name in ("Mult", "Divide", "Add", "Subtract"):
        formula = f"Complex{name}(a, b)"
        given = [*aliases((2, 6)), "e = Vj(6)"]
        for var, x, axis in (("a", a, 1), ("b", b, 0)):
            got = Genred(f"Grad({formula}, {var}, e)", given, axis=axis)(a, b, e)
            sums = Genred(f"{formula} | e", given, axis=axis)(a, b, e)
            torch.testing.assert_close(got, torch.autograd.grad(sums.sum(), x)[0])


def test_derivatives():
    a, b = arguments((3, 3))
    u = torch.rand(M, 3, dtype=torch.float64, requires_grad=True)
    given = ["a = Vi(3)", "b = Vj(3)", "u = Vi(3)"]
    f = "Exp(-SqDist(a, b))"

    def kernel(x, y):
        return torch.exp(-((x - y) ** 2).sum())

    jacobian = torch.func.vmap(torch.func.vmap(torch.func.grad(kernel), (None, 0)), (0, None))(a, b)
    hessian = torch.func.vmap(torch.func.vmap(torch.func.hessian(kernel), (None, 0)), (0, None))(
        a, b
    )
    sums = {
        f"Diff({f}, a, u)": (jacobian * u[:, None]).sum((1, 2))[:, None],
        f"Laplacian({f}, a)": torch.einsum("ijkk->i", hessian)[:, None],
        f"Divergence({f} * b, a)": torch.einsum("ijk,jk->i", jacobian, b)[:, None],
        f"GradMatrix({f}, a)": jacobian.sum(1),
        "TraceOperator((a | b) * a * 0 + (b | b) * a, a)": 3 * (b * b).sum().expand(M, 1),
        "AdjointOperator((b | b) * a, a, u)": (b * b).sum() * u,
    }
    for text, want in sums.items():
        got = Genred(text, given, axis=1)(a, b, u)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        theirs = torch.autograd.grad(
            want.sin().sum(),
            (a, b, u),
            allow_unused=True,
            materialize_grads=True,
            retain_graph=True,
        )
        for one, other in zip(torch.autograd.grad(got.sin().sum(), (a, b, u)), theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("formula", "lines", "told"),
    [
        ("Foo(x)", ["x = Vi(3)"], "no operation Foo"),
        ("x + z", ["x = Vi(3)"], "z in the formula"),
        ("x + y", ["x = Vi(3)", "y = Vj(2)"], "same dimension"),
        ("x | y", ["x = Vi(3)", "y = Vj(1)"], "same dimension"),
        ("x +", ["x = Vi(3)"], "cannot read"),
        ("__import__('os')", ["x = Vi(3)"], "no operation"),
        ("x.shape", ["x = Vi(3)"], "cannot read"),
        ("Elem(x, 3)", ["x = Vi(3)"], "3"),
        ("Elem(x, 1.0)", ["x = Vi(3)"], "integers"),
        ("Exp(x, x)", ["x = Vi(3)"], "Exp takes 1 arguments, and got 2"),
        ("Mod(x, 2)", ["x = Vi(3)"], "Mod takes 3 arguments, and got 2"),
        ("Concat(x)", ["x = Vi(3)"], "Concat takes 2"),
        ("Grad(x, x)", ["x = Vi(3)"], "Grad takes 3"),
        ("Elem(x)", ["x = Vi(3)"], "Elem takes 2"),
        ("TensorDot(x, x, [3], [3], 0, 0)", ["x = Vi(3)"], "lists"),
        ("x", ["x = Vk(3)"], "is no alias"),
        ("Var(0,3,0) + Var(0,3,1)", [], "argument 0 is both"),
    ],
)
def test_what_has_no_meaning_is_refused(formula, lines, told):
    with pytest.raises(ValueError, match=told):
        Genred(formula, lines)


def test_arguments_that_do_not_fit_are_refused():
    f = Genred("SqDist(x, y) * p", ["x = Vi(3)", "y = Vj(3)", "p = Pm(1)"], axis=1)
    x, y, p = torch.rand(4, 3), torch.rand(5, 3), torch.rand(1)
    with pytest.raises(ValueError, match="argument 1"):
        f(x, torch.rand(5, 2), p)
    with pytest.raises(ValueError, match="3 arguments"):
        f(x, y)
    with pytest.raises(ValueError, match="several dtypes"):
        f(x, y.double(), p)
    with pytest.raises(ValueError, match="out= must have shape"):
        f(x, y, p, out=torch.empty(3, 1))
    out = torch.empty(4, 1)
    assert f(x, y, p, out=out) is out
    np.testing.assert_allclose(out, torch.cdist(x, y).square().sum(1, keepdim=True) * p, rtol=1e-5)
