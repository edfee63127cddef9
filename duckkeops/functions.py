"""SymPy functions of ours, and the namespace `S` that the rows of ops.py write their meaning in.

SymPy must know three things about an operation: its name, its derivative, and nothing else. Its own
Max, Abs, floor, Mod, Heaviside and Piecewise are avoided: they rewrite themselves (NaN is lost),
and their derivatives contain Dirac deltas or 0/0. Ours are opaque, and have torch's subgradients:
|x|' and relu' are 0 at 0, maximum and minimum share a tie equally, steps are constants in between.
SymPy's exp, log, powers and trigonometry are right as they are.

A class is named as its C function is (`maximum` prints as `maximum_f32(x, y)`). No Float enters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import sympy
from sympy import (
    Integer,
    Rational,
    Symbol,
    acos,
    acosh,
    asin,
    asinh,
    atan,
    atanh,
    cos,
    cosh,
    exp,
    log,
    pi,
    sin,
    sinh,
    sqrt,
    tan,
    tanh,
)
from sympy.core.function import ArgumentIndexError, Function

from duckkeops.errors import UnsupportedError

ZERO, ONE, HALF = Integer(0), Integer(1), Rational(1, 2)


class Elementwise(Function):
    """A function that SymPy neither evaluates nor rewrites.

    `result` says what dtype the value has: "same" as the arguments' common one; "bool"; "real"
    (complex -> its real part's dtype); "complex" (the reverse); "int32"; "uint8";
    "last" (that of the last argument; the first one is boolean); "named" (the last argument is a
    Symbol with the dtype's name).
    """

    result = "same"
    partials: tuple[
        Callable, ...
    ] = ()  # the derivative by each argument, as a function of all of them

    def _eval_is_real(self) -> bool | None:
        return None if is_complex(self) else True

    def fdiff(self, argindex: int = 1) -> Any:
        if not 1 <= argindex <= len(self.partials):
            raise ArgumentIndexError(self, argindex)
        return self.partials[argindex - 1](*self.args)

    def dtype_of(self, kinds: list[Any]) -> Any:
        """The dtype of the value for arguments of these dtypes (None: a bare number)."""
        if self.result == "bool":
            return np.dtype(bool)
        if self.result in ("int32", "uint8"):
            return np.dtype(self.result)
        if self.result == "named":
            return np.dtype(self.args[-1].name)
        first = 1 if self.result == "last" else 0
        common = common_dtype(self.args[first:], kinds[first:])
        if common is None:
            return None
        if self.result == "real":
            return real_dtype(common)
        return complex_dtype(common) if self.result == "complex" else common

    def argument_dtypes(self, kinds: list[Any], default: Any) -> list[Any]:
        """The dtype of each argument, numbers included."""
        first = 1 if self.result == "last" else 0
        common = common_dtype(self.args[first:], kinds[first:]) or default
        each = [common if k is None or common.kind == "c" else k for k in kinds[first:]]
        return [np.dtype(bool)] * first + each


def real_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype of the parts of complex numbers, any other as it is."""
    return np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype


def complex_dtype(dtype: np.dtype) -> np.dtype:
    """The complex dtype with parts of this one."""
    return np.result_type(dtype, np.complex64)


def common_dtype(args: Sequence[Any], kinds: Sequence[Any]) -> Any:
    """The dtype of a sum or product of operands of these dtypes (None: a bare number).

    It is complex if one of them is, or if a number has the imaginary unit; None if all are numbers.
    """
    known = [k for k in kinds if k is not None]
    if not known:
        return None
    widest = max(known, key=lambda k: real_dtype(k).itemsize)
    imaginary = any(k is None and is_complex(a) for a, k in zip(args, kinds, strict=True))
    return complex_dtype(widest) if imaginary or any(k.kind == "c" for k in known) else widest


def function(
    name: str, *partials: Callable, result: str = "same", nonnegative: bool = False
) -> Any:
    """A class of Elementwise with these partial derivatives."""
    namespace: dict[str, Any] = {
        "partials": partials,
        "nargs": len(partials),
        "result": result,
        "__module__": __name__,
    }
    if nonnegative:
        namespace["is_nonnegative"] = True
    return type(Elementwise)(name, (Elementwise,), namespace)


def step_like(name: str, arguments: int = 1, **kw: Any) -> Any:
    """A piecewise constant function: all derivatives are 0."""
    return function(name, *[lambda *args: ZERO] * arguments, **kw)


class Along(Elementwise):
    """A function without a complex derivative.

    `along(z, dz)` is its change along a change dz of a complex z.
    """

    nargs = 1
    along: Callable
    of_number: Callable | None = (
        None  # its value for numbers: derivatives bring in the imaginary unit
    )

    @classmethod
    def eval(cls, z: Any) -> Any:
        """Of a 0 that another one became, by a substitution."""
        return ZERO if z == 0 and cls.of_number is not None else None

    def _eval_derivative(self, s: Any) -> Any:
        dz = self.args[0].diff(s)
        return ZERO if dz == 0 else type(self).along(self.args[0], dz)


def along(name: str, rule: Callable, of_number: Callable | None = None, **properties: Any) -> Any:
    functions = {
        "along": staticmethod(rule),
        "of_number": staticmethod(of_number) if of_number else None,
    }
    return type(Along)(name, (Along,), {**functions, "__module__": __name__, **properties})


def evaluated(e: Any) -> Any:
    """e, with the real and imaginary parts and conjugates of numbers computed."""
    return e.replace(
        lambda n: isinstance(n, Along) and n.of_number is not None and n.args[0].is_number,
        lambda n: n.of_number(n.args[0]),
    ).replace(  # a number takes the dtype of what it meets
        lambda n: isinstance(n, cast) and n.args[0].is_number, lambda n: n.args[0]
    )


def real_part(e: Any) -> Any:
    return evaluated(real(e)) if is_complex(e) else e


def imaginary_part(e: Any) -> Any:
    return evaluated(imag(e)) if is_complex(e) else ZERO


def conjugate(e: Any) -> Any:
    return evaluated(conj(e)) if is_complex(e) else e


def is_complex(e: Any) -> bool:
    """May this be other than real? Told by its symbols, the imaginary unit, and the functions
    around them.
    """
    if isinstance(e, cast):
        return e.args[1].name.startswith("complex")
    if isinstance(e, Symbol):
        return not e.is_real and not isinstance(e, IndexSymbol)
    if isinstance(e, complex):
        return True
    result = getattr(e, "result", "same")
    if result not in ("same", "last"):
        return result == "complex"
    return e is sympy.I or any(is_complex(a) for a in e.args)


# -- choices ---------------------------------------------------------------------------------------


class where(Elementwise):
    """where(c, a, b): a where c holds, else b; c is one of the boolean functions."""

    result = "last"
    nargs = 3
    partials = (
        lambda c, a, b: ZERO,
        lambda c, a, b: where(c, ONE, ZERO),
        lambda c, a, b: where(c, ZERO, ONE),
    )

    @classmethod
    def eval(cls, c: Any, a: Any, b: Any) -> Any:
        return a if a == b else None

    def _eval_derivative(self, s: Any) -> Any:  # one choice, not two choices and two products
        c, a, b = self.args
        return where(c, a.diff(s), b.diff(s))


class cast(Elementwise):
    """cast(x, Symbol(dtype name))."""

    result = "named"
    nargs = 2

    def _eval_derivative(self, s: Any) -> Any:
        x, name = self.args
        if not name.name.startswith(("float", "bfloat", "complex")):
            return ZERO
        dx = x.diff(s)
        return dx if dx.is_number else cast(dx, name)


equal, not_equal = (step_like(n, 2, result="bool") for n in ("equal", "not_equal"))
less, less_equal = (step_like(n, 2, result="bool") for n in ("less", "less_equal"))
greater, greater_equal = (step_like(n, 2, result="bool") for n in ("greater", "greater_equal"))
logical_and, logical_or, logical_xor = (
    step_like(f"logical_{n}", 2, result="bool") for n in ("and", "or", "xor")
)
logical_not = step_like("logical_not", result="bool")
isnan, isinf, isfinite, signbit = (
    step_like(n, result="bool") for n in ("isnan", "isinf", "isfinite", "signbit")
)
isposinf, isneginf = (step_like(n, result="bool") for n in ("isposinf", "isneginf"))

# -- steps, and what has corners -------------------------------------------------------------------

floor, ceil, trunc, rint = (step_like(n) for n in ("floor", "ceil", "trunc", "rint"))
as_float16, as_bfloat16 = (  # rounded to what memory holds; a slope of 1 all the same
    function(f"as_{name}", lambda x: ONE) for name in ("float16", "bfloat16")
)
step = step_like("step", nonnegative=True)  # 0 where x <= 0, else 1 (NaN too, as in torch's relu)
share = step_like(
    "share", 2, nonnegative=True
)  # 0 where x < y, 1/2 where equal, else 1: torch's share of a maximum
abs = along(
    "abs",
    lambda z, dz: real(conj(sign(z)) * dz) if is_complex(z) else sign(z) * dz,
    result="real",
    is_nonnegative=True,
)
sign = along(  # z/|z|; constant along the reals
    "sign",
    lambda z, dz: (
        where(equal(z, ZERO), ZERO, sympy.I * sign(z) * imag(conj(sign(z)) * dz) / abs(z))
        if is_complex(z)
        else ZERO
    ),
)
relu = function("relu", lambda x: step(x), nonnegative=True)
at_most_zero = function("at_most_zero", lambda x: ONE)  # what is above 0 are errors of rounding
maximum = function("maximum", lambda x, y: share(x, y), lambda x, y: share(y, x))
minimum = function("minimum", lambda x, y: share(y, x), lambda x, y: share(x, y))
fmax = function(
    "fmax",
    lambda x, y: where(logical_or(greater_equal(x, y), isnan(y)), ONE, ZERO),
    lambda x, y: where(logical_or(greater_equal(x, y), isnan(y)), ZERO, ONE),
)
fmin = function(
    "fmin",
    lambda x, y: where(logical_or(less_equal(x, y), isnan(y)), ONE, ZERO),
    lambda x, y: where(logical_or(less_equal(x, y), isnan(y)), ZERO, ONE),
)
clamp_min = function(
    "clamp_min",
    lambda x, a: where(greater_equal(x, a), ONE, ZERO),
    lambda x, a: where(less(x, a), ONE, ZERO),
)
clamp_max = function(
    "clamp_max",
    lambda x, b: where(less_equal(x, b), ONE, ZERO),
    lambda x, b: where(greater(x, b), ONE, ZERO),
)
clip = function(
    "clip",
    lambda x, a, b: where(logical_and(greater_equal(x, a), less_equal(x, b)), ONE, ZERO),
    lambda x, a, b: where(logical_and(less(x, a), less(a, b)), ONE, ZERO),
    lambda x, a, b: where(logical_or(greater(x, b), less(b, a)), ONE, ZERO),
)
hardtanh = function(  # torch: slope 0 at the corners, unlike clamp
    "hardtanh",
    lambda x, a, b: where(logical_and(greater(x, a), less(x, b)), ONE, ZERO),
    lambda x, a, b: where(less_equal(x, a), ONE, ZERO),
    lambda x, a, b: where(greater_equal(x, b), ONE, ZERO),
)
softshrink = function(
    "softshrink",
    lambda x, a: where(less_equal(abs(x), a), ZERO, ONE),
    lambda x, a: where(less_equal(abs(x), a), ZERO, -sign(x)),
)
heaviside = function("heaviside", lambda x, h: ZERO, lambda x, h: where(equal(x, ZERO), ONE, ZERO))
copysign = function("copysign", lambda x, y: sign(x) * copysign(ONE, y), lambda x, y: ZERO)
nextafter = function("nextafter", lambda x, y: ONE, lambda x, y: ZERO)
floor_divide = step_like("floor_divide", 2)
remainder = function(
    "remainder", lambda x, y: ONE, lambda x, y: -floor_divide(x, y)
)  # the sign of y
fmod = function("fmod", lambda x, y: ONE, lambda x, y: -trunc(x / y))  # the sign of x
modf_fraction = function("modf_fraction", lambda x: ONE)
frexp_mantissa = function(
    "frexp_mantissa", lambda x: where(equal(x, ZERO), ONE, frexp_mantissa(x) / x)
)
frexp_exponent = step_like("frexp_exponent", result="int32")
bitwise_and, bitwise_or, bitwise_xor = (step_like(f"bitwise_{n}", 2) for n in ("and", "or", "xor"))
bitwise_invert = step_like("bitwise_invert")
bitwise_left_shift, bitwise_right_shift = (
    step_like(f"bitwise_{n}_shift", 2) for n in ("left", "right")
)
bitwise_count = step_like("bitwise_count", result="uint8")
gcd, lcm = (step_like(n, 2) for n in ("gcd", "lcm"))
integer_reciprocal = step_like("integer_reciprocal")

# -- smooth ----------------------------------------------------------------------------------------

power = function(
    "power",
    lambda x, y: where(  # a root has the slope 0 at 0, as `pow0`
        logical_or(
            equal(y, ZERO),
            logical_and(equal(x, ZERO), logical_and(greater(y, ZERO), less(y, ONE))),
        ),
        ZERO,
        y * power(x, y - 1),
    ),
    lambda x, y: where(
        logical_and(equal(x, ZERO), greater_equal(y, ZERO)), ZERO, power(x, y) * log(x)
    ),
)
exp2 = function("exp2", lambda x: log(2) * exp2(x), nonnegative=True)
exp10 = function("exp10", lambda x: log(10) * exp10(x), nonnegative=True)
expm1 = function("expm1", lambda x: exp(x))
log1p = function("log1p", lambda x: 1 / (1 + x))
log2 = function("log2", lambda x: 1 / (log(2) * x))
log10 = function("log10", lambda x: 1 / (log(10) * x))
cbrt = function("cbrt", lambda x: 1 / (3 * cbrt(x) ** 2))
logaddexp = function("logaddexp", lambda x, y: expit(x - y), lambda x, y: expit(y - x))
logaddexp2 = function(
    "logaddexp2", lambda x, y: expit((x - y) * log(2)), lambda x, y: expit((y - x) * log(2))
)
hypot = function(  # SymPy: 0/0 at the origin
    "hypot",
    lambda x, y: where(equal(hypot(x, y), ZERO), ZERO, x / hypot(x, y)),
    lambda x, y: where(equal(hypot(x, y), ZERO), ZERO, y / hypot(x, y)),
    nonnegative=True,
)
atan2 = function("atan2", lambda y, x: x / (x**2 + y**2), lambda y, x: -y / (x**2 + y**2))
sinc = function("sinc", lambda x: where(equal(x, ZERO), ZERO, (cos(pi * x) - sinc(x)) / x))
real = along("real", lambda z, dz: real_part(dz), sympy.re, result="real")
imag = along("imag", lambda z, dz: imaginary_part(dz), sympy.im, result="real")
conj = along("conj", lambda z, dz: conjugate(dz), sympy.conjugate)
angle = along(
    "angle",
    lambda z, dz: where(equal(z, ZERO), ZERO, imag(dz / z)) if is_complex(dz / z) else ZERO,
    result="real",
)
complex = function("complex", lambda a, b: ONE, lambda a, b: sympy.I, result="complex")

erf = function("erf", lambda x: 2 / sqrt(pi) * exp(-(x**2)))
erfc = function("erfc", lambda x: -2 / sqrt(pi) * exp(-(x**2)))
erfcx = function("erfcx", lambda x: 2 * x * erfcx(x) - 2 / sqrt(pi))  # exp(x**2) erfc(x)
erfinv = function("erfinv", lambda x: sqrt(pi) / 2 * exp(erfinv(x) ** 2))
erfcinv = function("erfcinv", lambda x: -sqrt(pi) / 2 * exp(erfcinv(x) ** 2))
expit = function("expit", lambda x: expit(x) * expit(-x), nonnegative=True)
logit = function("logit", lambda x: 1 / (x * (1 - x)))
log_sigmoid = function("log_sigmoid", lambda x: expit(-x))
gamma = function("gamma", lambda x: gamma(x) * digamma(x))
rgamma = function("rgamma", lambda x: -rgamma(x) * digamma(x))  # 1 / gamma
lgamma = function("lgamma", lambda x: digamma(x))
digamma = function("digamma", lambda x: polygamma(ONE, x))
polygamma = function("polygamma", lambda n, x: ZERO, lambda n, x: polygamma(n + 1, x))
i0 = function("i0", lambda x: i1(x))
i1 = function("i1", lambda x: where(equal(x, ZERO), HALF, i0(x) - i1(x) / x))
i0e = function("i0e", lambda x: i1e(x) - sign(x) * i0e(x))
i1e = function("i1e", lambda x: where(equal(x, ZERO), HALF, i0e(x) - i1e(x) * (sign(x) + 1 / x)))
k0 = function("k0", lambda x: -k1(x), nonnegative=True)
k1 = function("k1", lambda x: -k0(x) - k1(x) / x, nonnegative=True)
k0e = function("k0e", lambda x: k0e(x) - k1e(x), nonnegative=True)
k1e = function("k1e", lambda x: k1e(x) - k0e(x) - k1e(x) / x, nonnegative=True)
j0 = function("j0", lambda x: -j1(x))
j1 = function("j1", lambda x: where(equal(x, ZERO), HALF, j0(x) - j1(x) / x))
y0 = function("y0", lambda x: -y1(x))
y1 = function("y1", lambda x: y0(x) - y1(x) / x)


def by_order(name: str) -> Callable:
    """Bessel functions have no derivative by their order that is one of them."""

    def partial(v: Any, x: Any) -> Any:
        raise UnsupportedError(
            f"{name}(v, x) has no derivative by its order v.\n"
            "  Its derivative by x is known: keep v out of what you differentiate by."
        )

    return partial


iv = function("iv", by_order("iv"), lambda v, x: (iv(v - 1, x) + iv(v + 1, x)) / 2)
kv = function(
    "kv", by_order("kv"), lambda v, x: -(kv(v - 1, x) + kv(v + 1, x)) / 2, nonnegative=True
)
ive = function(
    "ive",
    by_order("ive"),
    lambda v, x: (ive(v - 1, x) + ive(v + 1, x)) / 2 - sign(x) * ive(v, x),
)
kve = function(
    "kve",
    by_order("kve"),
    lambda v, x: kve(v, x) - (kve(v - 1, x) + kve(v + 1, x)) / 2,
    nonnegative=True,
)
xlogy = function(
    "xlogy",
    lambda x, y: where(logical_and(equal(x, ZERO), less_equal(y, ZERO)), ZERO, log(y)),
    lambda x, y: x / y,
)
xlog1py = function(
    "xlog1py",
    lambda x, y: where(logical_and(equal(x, ZERO), less_equal(y, -ONE)), ZERO, log1p(y)),
    lambda x, y: x / (1 + y),
)
entr = function("entr", lambda x: -log(x) - 1)
rel_entr = function("rel_entr", lambda x, y: log(x) - log(y) + 1, lambda x, y: -x / y)
kl_div = function("kl_div", lambda x, y: log(x) - log(y), lambda x, y: 1 - x / y)
huber = function(
    "huber",
    lambda d, r: where(less_equal(abs(r), d), ZERO, abs(r) - d),
    lambda d, r: where(less_equal(abs(r), d), r, d * sign(r)),
)
pseudo_huber = function(
    "pseudo_huber",
    lambda d, r: d * (hypot(ONE, r / d) - 1) ** 2 / hypot(ONE, r / d),
    lambda d, r: r / hypot(ONE, r / d),
)
boxcox = function(
    "boxcox",
    lambda x, p: power(x, p - 1),
    lambda x, p: where(equal(p, ZERO), log(x) ** 2 / 2, (power(x, p) * log(x) - boxcox(x, p)) / p),
)
boxcox1p = function(
    "boxcox1p",
    lambda x, p: power(1 + x, p - 1),
    lambda x, p: where(
        equal(p, ZERO), log1p(x) ** 2 / 2, (power(1 + x, p) * log1p(x) - boxcox1p(x, p)) / p
    ),
)


def _by_power(x: Any, p: Any) -> Any:
    """The derivative of log1p(p x) / p by p."""
    return where(equal(p, ZERO), -(x**2) / 2, (x / (1 + p * x) - log1p(p * x) / p) / p)


inv_boxcox = function(
    "inv_boxcox",
    lambda x, p: inv_boxcox(x, p) / (1 + p * x),
    lambda x, p: inv_boxcox(x, p) * _by_power(x, p),
)
inv_boxcox1p = function(
    "inv_boxcox1p",
    lambda x, p: (1 + inv_boxcox1p(x, p)) / (1 + p * x),
    lambda x, p: (1 + inv_boxcox1p(x, p)) * _by_power(x, p),
)
ndtr = function("ndtr", lambda x: exp(-(x**2) / 2) / sqrt(2 * pi), nonnegative=True)
log_ndtr = function("log_ndtr", lambda x: sqrt(2 / pi) / erfcx(-x / sqrt(2)))
ndtri = function("ndtri", lambda p: sqrt(2 * pi) * exp(ndtri(p) ** 2 / 2))


# -- what derivatives and lowering bring in --------------------------------------------------------


class IndexSymbol(Symbol):
    """The name of a loop index, as an argument of `delta`."""

    __slots__ = ()


class delta(Elementwise):
    """1 where two loop indices are equal, else 0."""

    nargs = 2
    is_nonnegative = True
    partials = (lambda a, b: ZERO, lambda a, b: ZERO)

    @classmethod
    def eval(cls, a: Any, b: Any) -> Any:
        return ONE if a == b else None

    def dtype_of(self, kinds: list[Any]) -> Any:
        return None


class pow0(Elementwise):
    """b**q for q < 0, but 0 where b = 0.

    The derivative of a root becomes this, so that 0 * inf is 0 and not NaN.
    """

    nargs = 2

    def _eval_derivative(self, s: Any) -> Any:
        b, q = self.args
        return q * pow0(b, q - 1) * b.diff(s)


rsqrt = function("rsqrt", lambda x: -(rsqrt(x) ** 3) / 2)
rsqrt0 = function("rsqrt0", lambda x: -(rsqrt0(x) ** 3) / 2)  # 0 where x = 0


# -- what the rows see -----------------------------------------------------------------------------


def pow(x: Any, y: Any) -> Any:
    """x**y as a product or root where y is a small integer or half-integer, else the opaque
    `power`.

    Left to SymPy, x**y with a symbolic y has derivative 0/0 at x = 0.
    """
    if isinstance(y, Rational) and y.q <= 2 and -64 <= y <= 64:
        return x**y
    return power(x, y)


WRITTEN_ORDERS = 8  # up to here, K of a whole or half order is written out


def order(general: Any, zero: Any, one: Any, half: Callable | None = None) -> Callable:
    """A Bessel function of (v, x), by faster ones where v is a constant.

    `half(n, x)` is K of order n + 1/2, for those of which the recurrence upwards is stable.
    """

    def form(v: Any, x: Any) -> Any:
        if not isinstance(v, Rational) or v.q > 2 or v**2 > (WRITTEN_ORDERS**2 if half else 1):
            return general(v, x)
        n = sympy.Abs(v)
        if half and v.q == 2:
            return half(n - HALF, x)
        if v.q == 2:
            return general(v, x)
        low, high = zero(x), one(x)
        for m in range(1, n):
            low, high = high, low + 2 * m * (1 / x) * high
        return high if n else low

    return form


def _kve_of_half(n: Any, x: Any) -> Any:
    """exp(x) K of order n + 1/2: the root of pi / (2 x), times a polynomial in 1 / x."""
    polynomial = ZERO
    for k in range(n, -1, -1):
        c = sympy.factorial(n + k) / (sympy.factorial(k) * sympy.factorial(n - k) * 2**k)
        polynomial = polynomial * (1 / x) + c
    return sqrt(pi / 2) * polynomial / sqrt(x)


def _kv_of_half(n: Any, x: Any) -> Any:
    return _kve_of_half(n, x) * exp(-x)


def cast_to(x: Any, name: str) -> Any:
    return cast(x, Symbol(name))


OURS = {
    f.__name__: f
    for f in list(globals().values())
    if isinstance(f, type) and issubclass(f, Elementwise)
}
del OURS["Elementwise"]

S = SimpleNamespace(
    **OURS,
    **{
        f.__name__: f
        for f in (
            acos,
            acosh,
            asin,
            asinh,
            atan,
            atanh,
            cos,
            cosh,
            exp,
            log,
            sin,
            sinh,
            sqrt,
            tan,
            tanh,
        )
    },
    pow=pow,
    iv_of=order(iv, i0, i1),
    ive_of=order(ive, i0e, i1e),
    kv_of=order(kv, k0, k1, _kv_of_half),
    kve_of=order(kve, k0e, k1e, _kve_of_half),
    cast_to=cast_to,
    pi=pi,
    half=HALF,
)
