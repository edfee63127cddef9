"""The rows alone:
dtypes and values against NumPy, SciPy and torch, derivatives against finite differences.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import warnings

import array_api_strict
import ml_dtypes
import numpy as np
import pytest
import scipy.special as special
import sympy
from array_api_compat import torch as torch_namespace

from duckkeops import ops
from duckkeops.errors import DtypeError, UnsupportedError
from duckkeops.expr import Apply, Input, Node, Scalar
from duckkeops.functions import OURS, S, cast
from duckkeops.ops import BY_FUNCTION, ROWS, TABLE, call

torch = pytest.importorskip("torch")

DTYPES = [
    np.dtype(t)
    for t in ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]
]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

each_op = pytest.mark.parametrize("op", TABLE, ids=lambda op: op.name)
with_numpy = pytest.mark.parametrize(
    "op", [op for op in TABLE if op.numpy is not None], ids=lambda op: op.name
)


def node(dtype):
    return Input(np.ones((2,), dtype), np.dtype(dtype), "p")


def domains(op):
    return op.domain if isinstance(op.domain[0], tuple) else (op.domain,) * op.nargs


def draw(op, n=50, dtype=np.float64, seed=0):
    """Arguments of `op` from its domain."""
    rng = np.random.default_rng(seed)
    if op.name == "where":
        return [
            rng.random(n) < 0.5,
            rng.uniform(-2, 2, n).astype(dtype),
            rng.uniform(-2, 2, n).astype(dtype),
        ]
    return [rng.uniform(low, high, n).astype(dtype) for low, high in domains(op)]


# -- dtypes ----------------------------------------------------------------------------------------


def numpy_dtype(op, *args):
    """What NumPy gives, or the exception's class."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            out = op.numpy(*args)
        except TypeError as error:
            return type(error)
    return out.dtype if hasattr(out, "dtype") else np.asarray(out).dtype


def our_dtype(op, *args):
    try:
        return ops.apply(op, *args).dtype
    except TypeError as error:
        return type(error)


def check(op, theirs, ours, what):
    if isinstance(theirs, np.dtype):
        assert theirs == ours, (op, what, theirs, ours)
    else:
        assert ours is DtypeError, (op, what, theirs, ours)


@with_numpy
def test_dtypes_of_arrays(op):
    for dtypes in (
        itertools.product(DTYPES, repeat=op.nargs)
        if op.nargs < 3
        else zip(DTYPES, DTYPES, DTYPES, strict=True)
    ):
        arrays = [np.ones(2, t) for t in dtypes]
        check(op, numpy_dtype(op, *arrays), our_dtype(op, *map(node, dtypes)), dtypes)


@pytest.mark.parametrize(
    "op", [op for op in TABLE if op.numpy is not None and op.nargs == 2], ids=lambda op: op.name
)
@pytest.mark.parametrize("number", [1, 1.0, 1j, True])
def test_dtypes_with_python_numbers(op, number):
    for t in DTYPES:
        check(
            op, numpy_dtype(op, np.ones(2, t), number), our_dtype(op, node(t), number), (t, number)
        )
        check(
            op, numpy_dtype(op, number, np.ones(2, t)), our_dtype(op, number, node(t)), (number, t)
        )


@each_op
def test_result_follows_from_the_loop(op):
    for t in DTYPES:
        try:
            out = ops.apply(op, *[node(t)] * op.nargs)
        except DtypeError:
            continue
        assert isinstance(out, Apply)
        assert len(out.loop) == op.nargs or op.instead
        assert all(isinstance(d, np.dtype) for d in (*out.loop, out.dtype))


def test_float_rows_of_torch():
    for name in ("erf", "expit", "elu_alpha", "gelu_erf", "softsign"):
        op = ROWS[name]
        assert ops.apply(op, node("f4"), *[0.5] * (op.nargs - 1)).dtype == np.float32
        assert ops.apply(op, node("i4"), *[0.5] * (op.nargs - 1)).dtype == np.float64
        assert ops.apply(op, node("f2"), *[0.5] * (op.nargs - 1)).dtype == np.float16
    assert call("relu", node("i4")).dtype == np.int32


def test_bfloat16_resolves_like_float16():
    x = Input(np.ones(2, BFLOAT16), BFLOAT16, "p")
    assert call("add", x, 1.5).dtype == BFLOAT16
    assert call("exp", x).dtype == BFLOAT16
    assert call("add", x, node("f4")).dtype == np.float32
    assert call("add", x, node("f2")).dtype == np.float32
    assert call("less", x, 1.0).dtype == bool
    assert call("less", x, 1.0).loop == (BFLOAT16, BFLOAT16)
    assert call("isfinite", x).loop == (BFLOAT16,)


def test_booleans_add_as_or():
    assert call("add", node("?"), node("?")).op.name == "logical_or"
    assert call("multiply", node("?"), node("?")).op.name == "logical_and"
    with pytest.raises(DtypeError, match="subtract is not defined for bool, bool"):
        call("subtract", node("?"), node("?"))


def test_python_integer_out_of_bounds():
    with pytest.raises(OverflowError, match="Python integer 300 out of bounds for uint8"):
        call("add", node("u1"), 300)
    with pytest.raises(OverflowError):
        call("multiply", -1, node("u4"))
    with pytest.raises(OverflowError):
        call("add", node("i8"), 2**70)


def test_negative_integer_power():
    with pytest.raises(ValueError, match="Integers to negative integer powers are not allowed"):
        call("pow", node("i4"), -1)
    assert call("pow", node("f4"), -1).dtype == np.float32
    assert call("pow", node("i4"), -1.0).dtype == np.float64


def values(out):
    """The values of a node of rows on genuine arrays."""
    if isinstance(out, Input):
        return out.array
    if isinstance(out, Scalar):
        return out.value
    args = [values(a) for a in out.args]
    args = [
        a.astype(t) if hasattr(a, "dtype") else np.asarray(a, t)
        for a, t in zip(args, out.loop, strict=True)
    ]
    with np.errstate(all="ignore"):
        return out.op.dense(np, *args, *out.params)


def wrapped(array):
    return Input(array, array.dtype, "p" * array.ndim)


@pytest.mark.parametrize("name", sorted(ops.COMPARISONS))
def test_comparisons_beyond_the_range(name):
    numpy = ROWS[name].numpy
    x = np.array([0, 1, 127], np.int8)
    for number in (300, -300, 2**80):
        np.testing.assert_array_equal(values(call(name, wrapped(x), number)), numpy(x, number))
        np.testing.assert_array_equal(values(call(name, number, wrapped(x))), numpy(number, x))
    u = np.array([0, 1, 255], np.uint8)
    for number in (-1, 256, 255):
        np.testing.assert_array_equal(values(call(name, wrapped(u), number)), numpy(u, number))


@pytest.mark.parametrize("name", sorted(ops.COMPARISONS))
def test_comparisons_across_signs(name):
    a = np.array([-1, 0, 1, 2**62, -(2**63)], np.int64)
    b = np.array([2**64 - 1, 0, 1, 2**62, 2**63], np.uint64)
    for x, y in ((a, b), (b, a), (a[::-1].copy(), b), (b[::-1].copy(), a)):
        np.testing.assert_array_equal(
            values(call(name, wrapped(x), wrapped(y))), ROWS[name].numpy(x, y)
        )


def test_apply_says_what_it_takes():
    with pytest.raises(TypeError, match="add takes 2 arguments, and got 1"):
        ops.apply(ROWS["add"], node("f4"))
    with pytest.raises(TypeError, match="exp takes lazy arrays, arrays and numbers, and got str"):
        call("exp", "x")


def test_numpy_scalars_are_strong():
    assert call("add", node("f4"), np.float64(1)).dtype == np.float64
    assert call("add", node("f4"), np.float32(1)).dtype == np.float32


def test_import_leaves_sympy_alone():
    code = "import duckkeops.ops, sys; assert not {'sympy', 'torch', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_are_unique():
    assert len({op.name for op in TABLE}) == len(TABLE)
    names = [a for op in TABLE for a in (op.name, *(a for a in op.aliases if isinstance(a, str)))]
    assert len(set(names)) == len(names)
    for alias in (np.absolute, np.true_divide, np.arctan2, np.pow, np.conj, np.mod, np.fix):
        assert alias in BY_FUNCTION


def test_every_unary_and_binary_ufunc_has_a_row():
    skipped = {
        "ldexp",
        "spacing",
        "isnat",
        "matmul",
        "matvec",
        "vecmat",
        "vecdot",
        "divmod",
        "modf",
        "frexp",
    }
    ufuncs = {n: f for n, f in vars(np).items() if isinstance(f, np.ufunc)}
    assert not [n for n, f in ufuncs.items() if n not in skipped and f not in BY_FUNCTION]


# -- what the forms mean ---------------------------------------------------------------------------

SCIPY = (
    "erf erfc erfcx erfinv erfcinv expit logit gamma rgamma digamma polygamma exp10 "
    "i0 i1 i0e i1e k0 k1 k0e k1e j0 j1 y0 y1 iv ive kv kve "
    "xlogy xlog1py entr rel_entr kl_div huber pseudo_huber ndtr log_ndtr ndtri "
    "boxcox boxcox1p inv_boxcox inv_boxcox1p"
)
NUMERIC = {  # our SymPy functions in NumPy and SciPy
    **{n: getattr(np, n) for n in OURS if hasattr(np, n) and n not in ("complex", "cast")},
    **{n: getattr(special, n) for n in SCIPY.split()},
    "lgamma": special.gammaln,
    "log_sigmoid": special.log_expit,
    "sine_quotient": np.sinc,
    "step": lambda x: np.where(x <= 0, 0, 1),
    "share": lambda x, y: np.where(x < y, 0, np.where(x == y, 0.5, 1)),
    "relu": lambda x: np.maximum(x, 0),
    "at_most_zero": lambda x: np.minimum(x, 0),
    "clip": lambda x, a, b: np.minimum(np.maximum(x, a), b),
    "hardtanh": lambda x, a, b: np.minimum(np.maximum(x, a), b),
    "clamp_min": np.maximum,
    "clamp_max": np.minimum,
    "softshrink": lambda x, a: np.where(x > a, x - a, np.where(x < -a, x + a, 0)),
    "modf_fraction": lambda x: np.modf(x)[0],
    "frexp_mantissa": lambda x: np.frexp(x)[0],
    "frexp_exponent": lambda x: np.frexp(x)[1],
    "integer_reciprocal": np.reciprocal,
    "complex": lambda a, b: a + 1j * b,
}  # fmt: skip
NO_DERIVATIVE = {("iv", 0), ("ive", 0), ("kv", 0), ("kve", 0)}  # (row, argument)
INTEGER_ROWS = {
    "integer_reciprocal",
    "gcd",
    "lcm",
    *(op.name for op in TABLE if op.name.startswith("bitwise")),
}


def compiled(expression, symbols):
    expression = sympy.sympify(expression).replace(
        OURS["sinc"], sympy.Function("sine_quotient")
    )  # SymPy knows another sinc
    return sympy.lambdify(symbols, expression, modules=[NUMERIC, "numpy"])


def symbols_of(op):
    return sympy.symbols(f"a:{op.nargs}", real=True)


@each_op
def test_form_means_what_the_library_computes(op):
    args = draw(op, dtype=np.int64 if op.name in INTEGER_ROWS else np.float64)
    if op.name.startswith("logical"):
        args = [a > 0 for a in args]
    symbols = symbols_of(op)
    got = compiled(op.form(S, *symbols), symbols)(*args)
    want = op.dense(np, *args)
    np.testing.assert_allclose(np.broadcast_to(got, want.shape), want, rtol=1e-12, atol=1e-13)


@each_op
def test_derivative(op):
    """SymPy's derivative of the form against central differences of the library's function."""
    symbols = symbols_of(op)
    args = draw(op, seed=1)
    form = op.form(S, *symbols)
    if (
        op.name in INTEGER_ROWS
        or op.name.startswith("logical")
        or op.name in ("complex", "nextafter")
    ):
        return
    for k, s in enumerate(symbols):
        if (op.name, k) in NO_DERIVATIVE:
            with pytest.raises(UnsupportedError, match=f"{op.name}.* has no derivative by its"):
                form.diff(s)
            continue
        derivative = form.diff(s)
        assert not derivative.has(
            sympy.Derivative, sympy.DiracDelta, sympy.Heaviside, sympy.Subs
        ), derivative
        if op.name == "where" and k == 0:
            continue
        h = 1e-6
        up, down = ([a + e * h if n == k else a for n, a in enumerate(args)] for e in (1, -1))
        got = np.broadcast_to(compiled(derivative, symbols)(*args), args[0].shape)
        want = (op.dense(np, *up) * 1.0 - op.dense(np, *down) * 1.0) / (2 * h)
        smooth = np.abs(want) < 1e3  # no step in between
        np.testing.assert_allclose(
            got[smooth], want[smooth], rtol=1e-6, atol=1e-7, err_msg=f"{op.name} by argument {k}"
        )


SUBGRADIENTS = {  # (row, point): derivative by each argument, None where it does not matter
    ("abs", (0,)): (0,),
    ("relu", (0,)): (0,),
    ("sign", (0,)): (0,),
    ("floor", (1,)): (0,),
    ("sinc", (0,)): (0,),
    ("i1", (0,)): (0.5,),
    ("silu", (0,)): (0.5,),
    ("maximum", (1, 1)): (0.5, 0.5),
    ("minimum", (1, 1)): (0.5, 0.5),
    ("fmax", (1, 1)): (1, 0),
    ("clamp", (0, 0, 1)): (1, 0, 0),
    ("hardtanh_range", (1, -1, 1)): (0, 0, 1),
    ("hypot", (0, 0)): (0, 0),
    ("pow", (0, 0)): (0, 0),
    ("elu_alpha", (0, 2)): (2, 0),
    ("leaky_relu_slope", (0, 0.25)): (0.25, 0),
    ("heaviside", (0, 1)): (0, 1),
    ("xlogy", (0, 0)): (0, None),
}


@pytest.mark.parametrize(("name", "at"), SUBGRADIENTS)
def test_subgradients(name, at):
    op = ROWS[name]
    symbols = symbols_of(op)
    for s, w in zip(symbols, SUBGRADIENTS[name, at], strict=True):
        if w is not None:
            with np.errstate(all="ignore"):
                assert (
                    float(compiled(op.form(S, *symbols).diff(s), symbols)(*map(np.float64, at)))
                    == w
                )


TORCH = [
    op
    for op in TABLE
    if op.torch is not None and op.name not in ("clamp_min", "clamp_max", "nextafter", "fabs")
]


@pytest.mark.parametrize("op", TORCH, ids=lambda op: op.name)
def test_derivative_is_torchs(op):
    """At ties, corners and ordinary points."""
    if (
        op.name in INTEGER_ROWS
        or op.name.startswith("logical")
        or op.name in ("complex", "where", "copysign", "angle")
    ):
        return
    points = np.array([0.0, 1.0, -1.0, 0.5, 3.0, -3.0])
    if op.domain[0] in (0.1, 1.1, -0.9):
        points = np.array([0.25, 0.5, 0.75]) if op.domain[0] != 1.1 else np.array([1.5, 2.5])
    grids = [g.ravel() for g in np.meshgrid(*[points] * op.nargs)]
    if op.name in (
        "remainder",
        "fmod",
        "divide",
        "floor_divide",
        "float_power",
        "pow",
        "atan2",
        "hypot",
        "xlogy",
        "xlog1py",
    ):
        grids[0], grids[1] = np.abs(grids[0]) + 0.5, np.abs(grids[1]) + 0.75
    tensors = [torch.tensor(g, requires_grad=True) for g in grids]
    try:
        out = op.dense(torch_namespace, *tensors)
        gradients = (
            torch.autograd.grad(out.sum(), tensors, allow_unused=True)
            if out.requires_grad
            else [None] * op.nargs
        )
    except (RuntimeError, NotImplementedError):
        return  # torch has none
    symbols = symbols_of(op)
    for s, g in zip(symbols, gradients, strict=True):
        if g is None:
            continue
        got = np.broadcast_to(
            compiled(op.form(S, *symbols).diff(s), symbols)(*grids), grids[0].shape
        )
        np.testing.assert_allclose(
            got, g.numpy(force=True), rtol=1e-7, atol=1e-12, err_msg=f"{op.name} by {s}"
        )


def test_where_stays_one_choice():
    x, y = sympy.symbols("x y", real=True)
    assert S.where(S.less(x, y), x**2, y).diff(x) == S.where(S.less(x, y), 2 * x, 0)
    assert S.where(S.less(x, y), x, x) == x


def test_cast_differentiates_through_floats_only():
    x = sympy.Symbol("x", real=True)
    assert S.cast_to(x**2, "float32").diff(x) == cast(2 * x, sympy.Symbol("float32"))
    assert S.cast_to(x**2, "int32").diff(x) == 0


def test_small_powers_are_products():
    x, y = sympy.symbols("x y", real=True)
    assert ROWS["pow"].form(S, x, sympy.Integer(3)) == x**3
    assert ROWS["pow"].form(S, x, sympy.Rational(1, 2)) == sympy.sqrt(x)
    assert ROWS["pow"].form(S, x, y) == S.power(x, y)


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_functions_are_opaque(name):
    """SymPy must not evaluate them, not even at numbers."""
    f = OURS[name]
    if name in ("where", "cast", "delta"):
        return
    (n,) = f.nargs
    assert f(*[sympy.Integer(1)] * n).func is f


# -- other libraries -------------------------------------------------------------------------------


@each_op
def test_dense_by_torch(op):
    args = draw(op, dtype=np.int64 if op.name in INTEGER_ROWS else np.float64)
    if op.name.startswith("logical"):
        args = [a > 0 for a in args]
    tensors = [torch.asarray(a) for a in args]
    if op.scipy and op.torch is None and op.compose is None and op.name != "kl_div":
        with pytest.raises(UnsupportedError, match=f"torch has no {op.name}"):
            op.dense(torch_namespace, *tensors)
        return
    got = op.dense(torch_namespace, *tensors)
    # torch's own Bessel functions of the first and second kind are as precise as float32
    atol = 1e-6 if op.name in ("j0", "j1", "y0", "y1") else 1e-12
    np.testing.assert_allclose(np.asarray(got), op.dense(np, *args), rtol=1e-10, atol=atol)


@each_op
def test_dense_by_the_array_api_alone(op):
    args = draw(op, dtype=np.int64 if op.name in INTEGER_ROWS else np.float64)
    if op.name.startswith("logical"):
        args = [a > 0 for a in args]
    if op.name in ("real", "imag", "conj"):
        args = [a + 1j for a in args]
    try:
        got = op.dense(array_api_strict, *map(array_api_strict.asarray, args))
    except UnsupportedError as error:
        assert op.scipy or op.name in ("frexp_mantissa", "frexp_exponent", "gelu_erf"), error
        return
    np.testing.assert_allclose(np.asarray(got), op.dense(np, *args), rtol=1e-10, atol=1e-12)


# -- composites ------------------------------------------------------------------------------------

X = np.array([-2.5, -0.0, 0.5, 1.5, 2.675, np.nan, np.inf, -np.inf, 1e300])
Y = np.array([-2.5, 0.0, 0.500001, 1.0, 2.675, np.nan, np.inf, 1.0, 1e300])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_round(dtype):
    with np.errstate(all="ignore"):
        x = X.astype(dtype)
        for decimals in (0, 1, 3, -1):
            got = values(ops.round(wrapped(x), decimals))
            assert got.dtype == dtype
            np.testing.assert_array_equal(got, np.round(x, decimals))


def test_round_of_integers_and_complex():
    for t in ("i4", "u1", "i8"):
        x = np.array([14, 15, 25, 126], t)
        for decimals in (0, 2, -1):
            np.testing.assert_array_equal(
                values(ops.round(wrapped(x), decimals)), np.round(x, decimals)
            )
    z = np.array([1.25 - 2.35j, 0.05 + 1j])
    np.testing.assert_array_equal(values(ops.round(wrapped(z), 1)), np.round(z, 1))
    assert ops.round(node("?")).dtype == np.round(np.ones(1, bool)).dtype


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", "?", "c8"])
def test_nan_to_num(dtype):
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = (
            X + 1j * Y[::-1]
            if dtype == "c8"
            else np.nan_to_num(X, posinf=3)
            if dtype in "i4 ?"
            else X
        ).astype(dtype)
    for options in ({}, {"nan": 2.0}, {"posinf": 5.0, "neginf": -6.0}):
        got = values(ops.nan_to_num(wrapped(x), **options))
        np.testing.assert_array_equal(got, np.nan_to_num(x, **options))
        assert got.dtype == x.dtype


def test_isclose():
    for options in ({}, {"equal_nan": True}, {"rtol": 1e-3, "atol": 0.1}):
        np.testing.assert_array_equal(
            values(ops.isclose(wrapped(X), wrapped(Y), **options)), np.isclose(X, Y, **options)
        )
    k = np.arange(5)
    np.testing.assert_array_equal(values(ops.isclose(wrapped(k), 3)), np.isclose(k, 3))


def test_clip():
    for low, high in ((-1, 1), (None, 1), (-1, None), (2, 1)):
        np.testing.assert_array_equal(
            values(ops.clip(wrapped(X), low, high)), np.clip(X, low, high)
        )
    assert values(ops.clip(wrapped(X))) is not None


def test_select_divmod_modf_frexp():
    x = np.array([-2.5, -0.5, 0.5, 2.5])
    got = values(
        ops.select(
            [call("less", wrapped(x), -1), call("less", wrapped(x), 1)], [wrapped(x), 7.0], -1.0
        )
    )
    np.testing.assert_array_equal(got, np.select([x < -1, x < 1], [x, np.full(4, 7.0)], -1.0))
    with pytest.raises(ValueError, match="as many choices as conditions"):
        ops.select([], [])
    for ours, numpy in ((ops.modf, np.modf), (ops.frexp, np.frexp)):
        for a, b in zip(ours(wrapped(x)), numpy(x), strict=True):
            np.testing.assert_array_equal(values(a), b)
            assert a.dtype == b.dtype
    for a, b in zip(ops.divmod(wrapped(x), 0.75), np.divmod(x, 0.75), strict=True):
        np.testing.assert_array_equal(values(a), b)


ACTIVATIONS: dict[str, dict] = {
    "relu6": {},
    "hardtanh": {"min_val": -0.5, "max_val": 0.75},
    "elu": {"alpha": 0.5},
    "celu": {"alpha": 0.5},
    "selu": {},
    "leaky_relu": {"negative_slope": 0.125},
    "softplus": {"beta": 2.0, "threshold": 3.0},
    "softshrink": {"lambd": 0.25},
    "hardshrink": {"lambd": 0.25},
    "threshold": {"threshold": 0.5, "value": 9.0},
    "gelu": {"approximate": "tanh"},
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("default", [True, False])
def test_activations(name, default):
    options = {} if default and name != "threshold" else ACTIVATIONS[name]
    x = np.array([-30, -2.5, -1, -0.5, -0.25, -0.0, 0.0, 0.25, 0.5, 1, 2.5, 6, 30, np.nan, np.inf])
    want = getattr(torch.nn.functional, name)(torch.asarray(x), **options).numpy()
    np.testing.assert_allclose(
        values(ops.COMPOSITES[name](wrapped(x), **options)), want, rtol=1e-12, atol=1e-13
    )


def test_gelu_of_what():
    with pytest.raises(ValueError, match="'none' or 'tanh'"):
        ops.gelu(node("f4"), "fast")


def test_polar_addcmul_addcdiv_logit():
    a, b, c = (np.random.default_rng(k).uniform(0.1, 0.9, 9) for k in range(3))
    t = torch.asarray
    np.testing.assert_allclose(
        values(ops.polar(wrapped(a), wrapped(b))), torch.polar(t(a), t(b)).numpy(), rtol=1e-14
    )
    np.testing.assert_allclose(
        values(ops.addcmul(wrapped(a), wrapped(b), wrapped(c), 0.5)),
        torch.addcmul(t(a), t(b), t(c), value=0.5).numpy(),
        rtol=1e-14,
    )
    np.testing.assert_allclose(
        values(ops.addcdiv(wrapped(a), wrapped(b), wrapped(c))),
        torch.addcdiv(t(a), t(b), t(c)).numpy(),
        rtol=1e-14,
    )
    np.testing.assert_allclose(
        values(ops.logit(wrapped(a), 0.2)), torch.logit(t(a), 0.2).numpy(), rtol=1e-13, atol=1e-14
    )


def test_cast():
    x = node("f4")
    assert ops.cast(x, "f4") is x
    out = ops.cast(x, np.int16)
    assert isinstance(out, Node)
    assert out.dtype == np.int16
    assert out.params == ("int16",)
    assert values(out).dtype == np.int16
    with pytest.raises(DtypeError, match="cannot convert to"):
        ops.cast(x, "U5")


@pytest.mark.parametrize("engine", ["auto", "blocks"])
@pytest.mark.parametrize("dtype", "bhilBHIL")
def test_divisors_and_bits_of_all_integers(dtype, engine):
    from duckkeops import LazyArray, config

    info, rng = np.iinfo(dtype), np.random.default_rng(0)
    x, y = (rng.integers(info.min, info.max, n, dtype, endpoint=True) for n in (19, 35))
    x[:4], y[:4] = [0, info.min, info.max, 6], [0, 1, info.min, info.max]
    x[4:12], y[4:20] = rng.integers(0, 100, 8), rng.integers(0, 100, 16)
    a, b = LazyArray(x)[:, None], LazyArray(y)[None]
    with config(engine=engine), np.errstate(all="ignore"):
        for lazy, whole in (
            (np.gcd(a, b), np.gcd(x[:, None], y)),
            (np.lcm(a, b), np.lcm(x[:, None], y)),
            (np.bitwise_count(a ^ b), np.bitwise_count(x[:, None] ^ y)),
        ):
            assert lazy.dtype == whole.dtype
            np.testing.assert_array_equal(lazy.to_dense(), whole)
            np.testing.assert_array_equal(lazy.max(axis=1), whole.max(1))
