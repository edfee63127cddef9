"""One row per elementwise operation: all that the library knows about it.

A row's `form` is its meaning, in the functions of `functions.S`; C, derivatives, methods, dispatch
and tests follow from it. Dtypes resolve as the NumPy function's own do (NEP 50: Python numbers are
weak). What is several operations, or has options, is a Python function over rows, below the table.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from duckkeops import expr
from duckkeops.errors import DtypeError, UnsupportedError
from duckkeops.expr import Applied, Apply, Broadcast, Input, Node, Outline, Scalar, dtype_of, record

Resolved = tuple[tuple[np.dtype, ...], np.dtype]


@dataclass(frozen=True, eq=False)
class Op:
    """One elementwise operation."""

    name: str  # ours, and the method's; the array API's where it has one
    form: Callable  # its meaning: (S, arguments) -> SymPy expression
    numpy: Callable | None = None  # the NumPy function we answer for
    torch: str | None = None  # its name under torch; a string: torch stays unimported
    types: Any = None  # how dtypes resolve: a ufunc whose rule holds, or dtypes -> (loop dtypes, result); default: `numpy`
    domain: tuple = (-2, 2)  # where tests draw the arguments: one pair, or a pair for each argument
    aliases: tuple = ()  # more NumPy callables that mean the same, and more method names
    scipy: str | None = None  # its name under scipy.special
    compose: Callable | None = (
        None  # (xp, *arrays): made of array-API functions, where a library has no such function
    )
    instead: tuple[tuple[str, str], ...] = ()  # (dtype kinds of the loop, the row that takes over)
    dense: Any = None  # (xp, *arrays) -> array: the library's own function; filled in
    nargs: int = 0  # filled in

    def __post_init__(self) -> None:
        object.__setattr__(self, "nargs", self.nargs or self.form.__code__.co_argcount - 1)
        object.__setattr__(self, "dense", self.dense or functools.partial(_dense, self))
        object.__setattr__(self, "types", self.types or self.numpy)

    def __repr__(self) -> str:
        return f"Op({self.name})"


# -- dtypes ----------------------------------------------------------------------------------------

WEAK = {int: 0, float: 0.0, complex: 0j}
BOOL = np.dtype(bool)


def common(dtypes: Sequence[Any]) -> np.dtype:
    """NumPy's result_type, with Python's int, float and complex weak."""
    return np.result_type(*(WEAK.get(t, t) for t in dtypes))


def same(dtypes: tuple) -> Resolved:
    """All in the common dtype."""
    t = common(dtypes)
    return (t,) * len(dtypes), t


def real_same(dtypes: tuple) -> Resolved:
    """As `same`, of numbers that have an order."""
    t = common(dtypes)
    if t.kind == "c":
        raise TypeError("complex numbers have no order.")
    if t.kind == "b":
        raise TypeError("booleans are no numbers here; cast them first.")
    return (t,) * len(dtypes), t


def integers(dtypes: tuple) -> Resolved:
    """As np.reciprocal, of integers only."""
    t = np.reciprocal.resolve_dtypes((common(dtypes), None))[0]
    if t.kind not in "iu":
        raise TypeError(f"{t} is no integer.")
    return (t,), t


def floating(dtypes: tuple) -> Resolved:
    """All in the floating-point dtype that np.exp would compute the common one in."""
    t = np.exp.resolve_dtypes((common(dtypes), None))[0]
    return (t,) * len(dtypes), t


def real_floating(dtypes: tuple) -> Resolved:
    """As `floating`, but not for complex numbers."""
    t = np.cbrt.resolve_dtypes((common(dtypes), None))[0]
    return (t,) * len(dtypes), t


def times_pi(dtypes: tuple) -> Resolved:
    """As x * pi: integers become float64."""
    t = common((*dtypes, float))
    return (t,) * len(dtypes), t


def real_times_pi(dtypes: tuple) -> Resolved:
    """As `times_pi`, but not for complex numbers."""
    loop, result = times_pi(dtypes)
    np.cbrt.resolve_dtypes((result, None))
    return loop, result


def to_real(dtypes: tuple) -> Resolved:
    (t,) = (np.result_type(WEAK.get(t, t)) for t in dtypes)
    return (t,), np.real(np.empty(0, t)).dtype


def to_angle(dtypes: tuple) -> Resolved:
    """np.angle: the angle of a complex number, or arctan2(0, x)."""
    (t,) = dtypes
    if t is complex or getattr(t, "kind", "") == "c":
        return to_real(dtypes)
    loop = np.arctan2.resolve_dtypes((int, t, None))[1]
    return (loop,), loop


def to_complex(dtypes: tuple) -> Resolved:
    (t, *_), _ = real_floating(dtypes)
    t = np.result_type(t, np.float32)
    return (t, t), np.result_type(t, np.complex64)


def chosen(dtypes: tuple) -> Resolved:
    """np.where: a boolean, then two of one dtype."""
    t = common(dtypes[1:])
    return (BOOL, t, t), t


def to_sign(dtypes: tuple) -> Resolved:
    """np.isposinf: as np.signbit, which knows no complex numbers."""
    return real_floating(dtypes)[0], BOOL


def _is_bfloat16(x: Any) -> bool:
    return isinstance(x, np.dtype) and x.name == "bfloat16"


@functools.lru_cache(maxsize=8192)
def resolve(op: Op, dtypes: tuple) -> Resolved:
    """The dtypes that `op` computes in, one an argument, and that of its result.

    Python's number types are weak.
    """
    half = any(map(_is_bfloat16, dtypes))  # resolves as float16 does; the two together give float32
    if half:
        both = np.dtype(np.float16) in dtypes
        known = tuple(
            np.dtype(np.float32 if both else np.float16) if _is_bfloat16(t) else t for t in dtypes
        )
    else:
        known = dtypes
    known = tuple(BOOL if t is bool else t for t in known)
    try:
        loop, result = _resolve(op.types, known)
    except TypeError as error:
        names = ", ".join(getattr(t, "name", None) or f"a Python {t.__name__}" for t in dtypes)
        raise DtypeError(f"{op.name} is not defined for {names}.\n  NumPy says: {error}") from None
    for t in (*loop, result):
        if t.kind not in "biufc" or t.itemsize > (16 if t.kind == "c" else 8):
            raise DtypeError(
                f"{op.name} would compute in {t}, which duckkeops does not know. Use float64 or complex128 at most."
            )
    if half:
        back = (
            {np.dtype(np.float16): dtype_of("bfloat16")}
            if np.dtype(np.float16) not in dtypes
            else {}
        )
        loop, result = tuple(back.get(t, t) for t in loop), back.get(result, result)
    return loop, result


def _resolve(types: Any, dtypes: tuple) -> Resolved:
    if not isinstance(types, np.ufunc):
        return types(dtypes)
    out = types.resolve_dtypes((*dtypes, *(None,) * types.nout))
    return tuple(out[: types.nin]), out[types.nin]


def apply(op: Op, *operands: Any) -> Node:
    """The node of `op` on nodes, NumPy scalars and Python numbers; dtypes as NumPy's."""
    if len(operands) != op.nargs:
        raise TypeError(f"{op.name} takes {op.nargs} arguments, and got {len(operands)}.")
    args = tuple([a if isinstance(a, Node) else _operand(op, a) for a in operands])
    return _ruled(op, args, _rule(op, expr.outlines(args)))


def unary(op: Op, a: Node) -> Node:
    """`apply` on one node."""
    rule = _rule(op, (a.outline,))
    return record(rule, (a,)) if type(rule) is Applied else _ruled(op, (a,), rule)


def binary(op: Op, a: Node, b: Node) -> Node:
    """`apply` on two nodes."""
    rule = _rule(op, (a.outline, b.outline))
    return record(rule, (a, b)) if type(rule) is Applied else _ruled(op, (a, b), rule)


def _ruled(op: Op, args: tuple[Node, ...], rule: Any) -> Node:
    """The node that a rule says."""
    if type(rule) is Applied:
        return record(rule, args)
    loop, result, special = rule
    other = special(op, args, loop)
    return Apply(op, args, loop, result) if other is None else other


@functools.lru_cache(maxsize=expr.TABLE_SIZE)
def _rule(
    op: Op, args: tuple[Outline, ...]
) -> Applied | tuple[tuple[np.dtype, ...], np.dtype, Callable]:
    """The outline of the node, where the outlines of the arguments say it.

    Else what `resolve` says, and a function that looks at the arguments themselves, (op, args,
    loop) -> another node or None.
    """
    loop, result = resolve(op, tuple(a.dtype for a in args))
    for kinds, name in op.instead:
        if loop[-1].kind in kinds:
            return loop, result, functools.partial(_instead, ROWS[name])
    if any(is_half(a.dtype) for a in args) and (op.name in JUMPS or BOOL in loop):
        return loop, result, functools.partial(_of_rounded, result)
    if loop[-1].kind in "iu" and len(loop) > 1:
        return loop, result, _integers
    return expr.applied(op, args, loop, result)


def _instead(other: Op, op: Op, args: tuple[Node, ...], loop: tuple) -> Node:
    return apply(other, *args)


def _operand(op: Op, a: Any) -> Node:
    if type(a) in (int, float, complex, bool):
        return Scalar(a)
    if isinstance(a, np.generic):
        return Input(np.asarray(a), a.dtype, "", bare=True)
    raise TypeError(f"{op.name} takes lazy arrays, arrays and numbers, and got {type(a).__name__}.")


def _integers(op: Op, args: tuple[Node, ...], loop: tuple) -> Node | None:
    """What integers need besides: range checks of Python ints, and comparisons across signs."""
    if op.name in COMPARISONS:
        if loop[0] != loop[1]:
            return _compare_signs(op, *args)
        for k, (a, t) in enumerate(zip(args, loop, strict=True)):
            if type(a) is Scalar and not _fits(a.value, t):
                return _compare_out_of_range(op, args[1 - k], a.value, k == 0, t)
        return None
    for a, t in zip(args, loop, strict=True):
        if type(a) is Scalar and t.kind in "iu" and not _fits(a.value, t):
            raise OverflowError(
                f"Python integer {a.value} out of bounds for {t.name}, in which {op.name} computes here."
            )
    exponent = args[1]
    if op.name == "pow" and type(exponent) is Scalar and exponent.value.real < 0:
        raise ValueError(
            f"Integers to negative integer powers are not allowed: {loop[0].name} ** {exponent.value}.\n  Convert to a float first."
        )
    return None


def _of_rounded(result: np.dtype, op: Op, args: tuple[Node, ...], loop: tuple) -> Node:
    """Where an operation jumps, half precision is taken as memory holds it.

    So is a Python number that meets it, which has its dtype.
    """
    if loop[-1].kind in "iu":
        _integers(op, args, loop)  # np.where of a number that does not fit
    seen: list[Node] = []
    for a, t in zip(args, loop, strict=True):
        if op.name not in JUMPS and t != BOOL:  # what np.where takes from
            seen.append(a)
        elif type(a) is Scalar and is_half(t):
            with np.errstate(over="ignore"):
                seen.append(Scalar(float(t.type(a.value))))
        else:
            seen.append(rounded(a))
    return Apply(op, tuple(seen), loop, result)


def is_half(dtype: Any) -> bool:
    """Is this a dtype that is computed in float32: float16 or bfloat16?"""
    return isinstance(dtype, np.dtype) and dtype.name in ROUNDED


def rounded(node: Node) -> Node:
    """Half precision as memory holds it; a node of another dtype itself.

    Without it, an entry below an operation is the float32 number, not yet rounded.
    """
    if not is_half(node.dtype) or _is_stored(node):
        return node
    return Apply(ROUNDED[node.dtype.name], (node,), (node.dtype,), node.dtype)


def _is_stored(node: Node) -> bool:
    """Does memory hold the entries as they are, signs aside?"""
    while True:
        name = node.op.name if isinstance(node, Apply) else ""
        if name not in ("negative", "positive", "abs") and not isinstance(node, Broadcast):
            return isinstance(node, Input) or name == f"as_{node.dtype.name}"
        node = node.args[0]


def _fits(value: Any, t: np.dtype) -> bool:
    info = np.iinfo(t)
    return info.min <= value <= info.max


def _compare_out_of_range(op: Op, x: Node, number: Any, flipped: bool, t: np.dtype) -> Node:
    """Compare with a Python int that the dtype `t` cannot hold.

    The answer is the same for every entry.
    """
    name = FLIPPED[op.name] if flipped else op.name  # x `name` number
    high = number > 0
    truth = {"equal": False, "not_equal": True, "less": high, "less_equal": high}.get(
        name, not high
    )
    return apply(ROWS["greater_equal" if truth else "less"], x, int(np.iinfo(t).min))


def _compare_signs(op: Op, x: Node, y: Node) -> Node:
    """Compare int64 with uint64 exactly, as NumPy does: a negative number is below every other."""
    if x.dtype is not int and x.dtype.kind == "u":
        return _compare_signs(ROWS[FLIPPED[op.name]], y, x)
    as_unsigned = Apply(op, (cast(x, np.dtype(np.uint64)), y), (y.dtype, y.dtype), BOOL)
    if op.name in ("less", "less_equal", "not_equal"):
        return apply(ROWS["logical_or"], apply(ROWS["less"], x, 0), as_unsigned)
    return apply(ROWS["logical_and"], apply(ROWS["greater_equal"], x, 0), as_unsigned)


FLIPPED = {
    "less": "greater", "less_equal": "greater_equal", "greater": "less", "greater_equal": "less_equal",
    "equal": "equal", "not_equal": "not_equal",
}  # fmt: skip
COMPARISONS = frozenset(FLIPPED)
# Where a rounding of the argument may move the value by more than a rounding.
JUMPS = COMPARISONS | {
    "floor", "ceil", "trunc", "rint", "frac", "modf_fraction", "modf_whole",
    "frexp_mantissa", "frexp_exponent", "floor_divide", "remainder", "fmod",
    "sign", "heaviside", "isinf", "isfinite", "isposinf", "isneginf", "nan_to_num_parts",
    "hardshrink_width", "threshold_value",
}  # fmt: skip

# -- the array library's own functions -------------------------------------------------------------


def _dense(op: Op, xp: Any, *arrays: Any) -> Any:
    """The value of `op` on genuine arrays, by the functions of their own library."""
    first = next((a for a in arrays if hasattr(a, "dtype")), None)
    if first is None or isinstance(first, (np.ndarray, np.generic)):
        function = op.numpy or _scipy(op)
    else:
        arrays = tuple(a if hasattr(a, "dtype") else _like(xp, a, arrays) for a in arrays)
        function = _torch(op, first) or getattr(xp, op.name, None)
    if function is not None:
        return function(*arrays)
    if op.compose is not None:
        return op.compose(xp, *arrays)
    raise UnsupportedError(
        f"{type(first).__module__} has no {op.name}, and the array API has no function to compose it of."
    )


def _like(xp: Any, number: Any, arrays: tuple) -> Any:
    last = next(a for a in reversed(arrays) if hasattr(a, "dtype"))
    return xp.asarray(number, dtype=last.dtype, device=last.device)


def _torch(op: Op, array: Any) -> Callable | None:
    if op.torch is None or not type(array).__module__.startswith("torch"):
        return None
    return functools.reduce(getattr, op.torch.split("."), sys.modules["torch"])  # type: ignore[return-value]


def _scipy(op: Op) -> Callable | None:
    if op.scipy is None:
        return None
    try:
        import scipy.special
    except ImportError as error:
        raise ImportError(
            f"{op.name} of NumPy arrays, computed by array functions, is scipy.special.{op.scipy}. Install SciPy."
        ) from error
    return getattr(scipy.special, op.scipy)


def _gcd(xp: Any, x: Any, y: Any) -> Any:
    x, y = xp.broadcast_arrays(xp.abs(x), xp.abs(y))
    while bool(xp.any(y != 0)):
        one = xp.where(y == 0, xp.ones_like(y), y)
        x, y = xp.where(y == 0, x, y), xp.where(y == 0, y, xp.remainder(x, one))
    return x


def _lcm(xp: Any, x: Any, y: Any) -> Any:
    shared = _gcd(xp, x, y)
    return xp.abs(x // xp.where(shared == 0, xp.ones_like(shared), shared) * y)


def _bitwise_count(xp: Any, x: Any) -> Any:
    size, total = xp.abs(x), xp.zeros_like(x)
    for k in range(xp.iinfo(x.dtype).bits):
        total = total + ((size >> xp.asarray(k, dtype=x.dtype)) & xp.asarray(1, dtype=x.dtype))
    return xp.astype(total, xp.uint8)


def _polygamma(xp: Any, n: Any, x: Any) -> Any:
    raise UnsupportedError("polygamma has no dense form outside SciPy and torch.")


def _cast_dense(xp: Any, x: Any, name: str) -> Any:
    if isinstance(x, (np.ndarray, np.generic)):
        with np.errstate(all="ignore"):
            return (
                x.real.astype(dtype_of(name))
                if x.dtype.kind == "c" and dtype_of(name).kind in "iuf"
                else x.astype(dtype_of(name))
            )
    return xp.astype(x, getattr(xp, name))


def _rounded_dense(name: str, xp: Any, x: Any) -> Any:
    return _cast_dense(xp, _cast_dense(xp, x, name), "float32")


# -- the table -------------------------------------------------------------------------------------

CLIP = np._core.umath.clip  # type: ignore[attr-defined]  # what ndarray.clip hands to __array_ufunc__
POSITIVE, UNIT, ABOVE_ONE = (0.1, 3), (-0.9, 0.9), (1.1, 3)
INTEGERS = (-8, 8)
ORDERS = ((0, 3), (0.1, 8))  # of Bessel functions, and their arguments

CAST = Op("cast", lambda S, x, name: S.cast_to(x, name), types=same, dense=_cast_dense, nargs=1)
# Half precision as memory holds it, where it is computed in float32.
ROUNDED: dict[str, Op] = {
    name: Op(f"as_{name}", form, types=same, dense=functools.partial(_rounded_dense, name), nargs=1)
    for name, form in (
        ("float16", lambda S, x: S.as_float16(x)),
        ("bfloat16", lambda S, x: S.as_bfloat16(x)),
    )
}

# fmt: off
TABLE: tuple[Op, ...] = (
    # arithmetic
    Op("add", lambda S, x, y: x + y, np.add, "add", instead=(("b", "logical_or"),)),
    Op("subtract", lambda S, x, y: x - y, np.subtract, "subtract", aliases=("sub",)),
    Op("multiply", lambda S, x, y: x * y, np.multiply, "multiply", aliases=("mul",), instead=(("b", "logical_and"),)),
    Op("divide", lambda S, x, y: x / y, np.divide, "divide", domain=((-2, 2), POSITIVE), aliases=(np.true_divide, "true_divide", "div")),
    Op("floor_divide", lambda S, x, y: S.floor_divide(x, y), np.floor_divide, "floor_divide", domain=((-9, 9), POSITIVE)),
    Op("remainder", lambda S, x, y: S.remainder(x, y), np.remainder, "remainder", domain=((-9, 9), POSITIVE), aliases=(np.mod, "mod")),
    Op("fmod", lambda S, x, y: S.fmod(x, y), np.fmod, "fmod", domain=((-9, 9), POSITIVE),
       compose=lambda xp, x, y: x - y * xp.trunc(x / y)),
    Op("pow", lambda S, x, y: S.pow(x, y), np.power, "pow", domain=(POSITIVE, (-2, 2)), aliases=(np.pow, "power")),
    Op("float_power", lambda S, x, y: S.pow(x, y), np.float_power, "float_power", domain=(POSITIVE, (-2, 2)),
       compose=lambda xp, x, y: xp.pow(x, y)),
    Op("negative", lambda S, x: -x, np.negative, "negative", aliases=("neg",)),
    Op("positive", lambda S, x: x, np.positive, "positive"),
    Op("square", lambda S, x: x**2, np.square, "square"),
    Op("sqrt", lambda S, x: S.sqrt(x), np.sqrt, "sqrt", domain=POSITIVE),
    Op("cbrt", lambda S, x: S.cbrt(x), np.cbrt, domain=POSITIVE,
       compose=lambda xp, x: xp.sign(x) * xp.pow(xp.abs(x), xp.ones_like(x) / 3), scipy="cbrt"),
    Op("rsqrt", lambda S, x: 1 / S.sqrt(x), None, "rsqrt", types=np.sqrt, domain=POSITIVE, compose=lambda xp, x: 1 / xp.sqrt(x)),
    Op("reciprocal", lambda S, x: 1 / x, np.reciprocal, "reciprocal", domain=POSITIVE, instead=(("iu", "integer_reciprocal"),)),
    Op("integer_reciprocal", lambda S, x: S.integer_reciprocal(x), None, types=integers, domain=(1, 5),
       compose=lambda xp, x: np.reciprocal(x) if xp is np else xp.where(x == 1, x, xp.where(x == -1, x, xp.zeros_like(x)))),
    Op("hypot", lambda S, x, y: S.hypot(x, y), np.hypot, "hypot"),
    Op("lerp", lambda S, a, b, w: S.where(S.less(S.abs(w), S.half), a + w * (b - a), b - (b - a) * (1 - w)), None, "lerp", types=floating,
       compose=lambda xp, a, b, w: xp.where(xp.abs(w) < 0.5, a + w * (b - a), b - (b - a) * (1 - w))),
    # exponentials and logarithms
    Op("exp", lambda S, x: S.exp(x), np.exp, "exp"),
    Op("exp2", lambda S, x: S.exp2(x), np.exp2, "exp2", compose=lambda xp, x: xp.pow(2 * xp.ones_like(x), x), scipy="exp2"),
    Op("exp10", lambda S, x: S.exp10(x), None, types=real_floating, scipy="exp10", compose=lambda xp, x: xp.pow(10 * xp.ones_like(x), x)),
    Op("expm1", lambda S, x: S.expm1(x), np.expm1, "expm1", scipy="expm1"),
    Op("log", lambda S, x: S.log(x), np.log, "log", domain=POSITIVE),
    Op("log2", lambda S, x: S.log2(x), np.log2, "log2", domain=POSITIVE),
    Op("log10", lambda S, x: S.log10(x), np.log10, "log10", domain=POSITIVE),
    Op("log1p", lambda S, x: S.log1p(x), np.log1p, "log1p", domain=(-0.9, 3), scipy="log1p"),
    Op("logaddexp", lambda S, x, y: S.logaddexp(x, y), np.logaddexp, "logaddexp"),
    Op("logaddexp2", lambda S, x, y: S.logaddexp2(x, y), np.logaddexp2, "logaddexp2",
       compose=lambda xp, x, y: xp.logaddexp(x * math.log(2), y * math.log(2)) / math.log(2)),
    # trigonometry
    Op("sin", lambda S, x: S.sin(x), np.sin, "sin"),
    Op("cos", lambda S, x: S.cos(x), np.cos, "cos"),
    Op("tan", lambda S, x: S.tan(x), np.tan, "tan", domain=(-1, 1)),
    Op("asin", lambda S, x: S.asin(x), np.arcsin, "asin", domain=UNIT, aliases=(np.asin, "arcsin")),
    Op("acos", lambda S, x: S.acos(x), np.arccos, "acos", domain=UNIT, aliases=(np.acos, "arccos")),
    Op("atan", lambda S, x: S.atan(x), np.arctan, "atan", aliases=(np.atan, "arctan")),
    Op("atan2", lambda S, y, x: S.atan2(y, x), np.arctan2, "atan2", aliases=(np.atan2, "arctan2")),
    Op("sinh", lambda S, x: S.sinh(x), np.sinh, "sinh"),
    Op("cosh", lambda S, x: S.cosh(x), np.cosh, "cosh"),
    Op("tanh", lambda S, x: S.tanh(x), np.tanh, "tanh"),
    Op("asinh", lambda S, x: S.asinh(x), np.arcsinh, "asinh", aliases=(np.asinh, "arcsinh")),
    Op("acosh", lambda S, x: S.acosh(x), np.arccosh, "acosh", domain=ABOVE_ONE, aliases=(np.acosh, "arccosh")),
    Op("atanh", lambda S, x: S.atanh(x), np.arctanh, "atanh", domain=UNIT, aliases=(np.atanh, "arctanh")),
    Op("deg2rad", lambda S, x: x * (S.pi / 180), np.deg2rad, "deg2rad", aliases=(np.radians, "radians"),
       compose=lambda xp, x: x * (math.pi / 180)),
    Op("rad2deg", lambda S, x: x * (180 / S.pi), np.rad2deg, "rad2deg", aliases=(np.degrees, "degrees"),
       compose=lambda xp, x: x * (180 / math.pi)),
    Op("sinc", lambda S, x: S.sinc(x), np.sinc, "sinc", types=times_pi,
       compose=lambda xp, x: xp.where(x == 0, xp.ones_like(x), xp.sin(math.pi * x) / xp.where(x == 0, xp.ones_like(x), math.pi * x))),
    # signs, rounding, extremes
    Op("abs", lambda S, x: S.abs(x), np.absolute, "abs", aliases=(np.abs, "absolute")),
    Op("fabs", lambda S, x: S.abs(x), np.fabs, "abs", compose=lambda xp, x: xp.abs(x)),
    Op("sign", lambda S, x: S.sign(x), np.sign, "sgn", aliases=("sgn",)),
    Op("signbit", lambda S, x: S.signbit(x), np.signbit, "signbit"),
    Op("copysign", lambda S, x, y: S.copysign(x, y), np.copysign, "copysign"),
    Op("nextafter", lambda S, x, y: S.nextafter(x, y), np.nextafter, "nextafter"),
    Op("heaviside", lambda S, x, h: S.heaviside(x, h), np.heaviside, "heaviside",
       compose=lambda xp, x, h: xp.where(x == 0, h, xp.where(x > 0, xp.ones_like(x), xp.where(x < 0, xp.zeros_like(x), x)))),
    Op("maximum", lambda S, x, y: S.maximum(x, y), np.maximum, "maximum"),
    Op("minimum", lambda S, x, y: S.minimum(x, y), np.minimum, "minimum"),
    Op("fmax", lambda S, x, y: S.fmax(x, y), np.fmax, "fmax",
       compose=lambda xp, x, y: xp.where((x >= y) | (y != y), x, y)),
    Op("fmin", lambda S, x, y: S.fmin(x, y), np.fmin, "fmin",
       compose=lambda xp, x, y: xp.where((x <= y) | (y != y), x, y)),
    Op("clamp", lambda S, x, a, b: S.clip(x, a, b), CLIP, "clamp", domain=((-2, 2), (-1, 0), (0, 1)),
       compose=lambda xp, x, a, b: xp.minimum(xp.maximum(x, a), b)),
    Op("clamp_min", lambda S, x, a: S.clamp_min(x, a), None, "maximum", types=np.maximum, compose=lambda xp, x, a: xp.maximum(x, a)),
    Op("clamp_max", lambda S, x, b: S.clamp_max(x, b), None, "minimum", types=np.minimum, compose=lambda xp, x, b: xp.minimum(x, b)),
    Op("floor", lambda S, x: S.floor(x), np.floor, "floor"),
    Op("ceil", lambda S, x: S.ceil(x), np.ceil, "ceil"),
    Op("trunc", lambda S, x: S.trunc(x), np.trunc, "trunc", aliases=(np.fix, "fix")),
    Op("rint", lambda S, x: S.rint(x), np.rint, "round", compose=lambda xp, x: xp.round(x), scipy="round"),
    Op("frac", lambda S, x: x - S.trunc(x), None, "frac", types=real_same, compose=lambda xp, x: x - xp.trunc(x)),
    Op("modf_fraction", lambda S, x: S.modf_fraction(x), None, types=np.modf,
       compose=lambda xp, x: xp.copysign(xp.where(xp.isinf(x), xp.zeros_like(x), x - xp.trunc(x)), x)),
    Op("modf_whole", lambda S, x: S.trunc(x), None, types=np.modf, compose=lambda xp, x: xp.trunc(x)),
    Op("frexp_mantissa", lambda S, x: S.frexp_mantissa(x), None, types=np.frexp, dense=lambda xp, x: _frexp(xp, x)[0]),
    Op("frexp_exponent", lambda S, x: S.frexp_exponent(x), None, dense=lambda xp, x: _frexp(xp, x)[1],
       types=lambda dtypes: (np.frexp.resolve_dtypes((*dtypes, None, None))[:1], np.dtype(np.int32))),
    # truth
    Op("equal", lambda S, x, y: S.equal(x, y), np.equal, "eq", aliases=("eq",)),
    Op("not_equal", lambda S, x, y: S.not_equal(x, y), np.not_equal, "ne", aliases=("ne",)),
    Op("less", lambda S, x, y: S.less(x, y), np.less, "lt", aliases=("lt",)),
    Op("less_equal", lambda S, x, y: S.less_equal(x, y), np.less_equal, "le", aliases=("le",)),
    Op("greater", lambda S, x, y: S.greater(x, y), np.greater, "gt", aliases=("gt",)),
    Op("greater_equal", lambda S, x, y: S.greater_equal(x, y), np.greater_equal, "ge", aliases=("ge",)),
    Op("logical_and", lambda S, x, y: S.logical_and(x, y), np.logical_and, "logical_and", types=lambda dtypes: ((BOOL, BOOL), BOOL)),
    Op("logical_or", lambda S, x, y: S.logical_or(x, y), np.logical_or, "logical_or", types=lambda dtypes: ((BOOL, BOOL), BOOL)),
    Op("logical_xor", lambda S, x, y: S.logical_xor(x, y), np.logical_xor, "logical_xor", types=lambda dtypes: ((BOOL, BOOL), BOOL)),
    Op("logical_not", lambda S, x: S.logical_not(x), np.logical_not, "logical_not", types=lambda dtypes: ((BOOL,), BOOL)),
    Op("isnan", lambda S, x: S.isnan(x), np.isnan, "isnan"),
    Op("isinf", lambda S, x: S.isinf(x), np.isinf, "isinf"),
    Op("isfinite", lambda S, x: S.isfinite(x), np.isfinite, "isfinite"),
    Op("isposinf", lambda S, x: S.isposinf(x), np.isposinf, "isposinf", types=to_sign, compose=lambda xp, x: xp.isinf(x) & (x > 0)),
    Op("isneginf", lambda S, x: S.isneginf(x), np.isneginf, "isneginf", types=to_sign, compose=lambda xp, x: xp.isinf(x) & (x < 0)),
    Op("where", lambda S, c, a, b: S.where(c, a, b), np.where, "where", types=chosen),
    Op("nan_to_num_parts", lambda S, x, nan, high, low: S.where(S.isnan(x), nan, S.where(S.isposinf(x), high, S.where(S.isneginf(x), low, x))),
       None, types=lambda dtypes: ((dtypes[0],) * 4, dtypes[0]),
       compose=lambda xp, x, nan, high, low: xp.where(xp.isnan(x), nan, xp.where(xp.isinf(x), xp.where(x > 0, high, low), x))),
    # bits
    Op("bitwise_and", lambda S, x, y: S.bitwise_and(x, y), np.bitwise_and, "bitwise_and", domain=INTEGERS),
    Op("bitwise_or", lambda S, x, y: S.bitwise_or(x, y), np.bitwise_or, "bitwise_or", domain=INTEGERS),
    Op("bitwise_xor", lambda S, x, y: S.bitwise_xor(x, y), np.bitwise_xor, "bitwise_xor", domain=INTEGERS),
    Op("bitwise_invert", lambda S, x: S.bitwise_invert(x), np.invert, "bitwise_not", domain=INTEGERS,
       aliases=(np.bitwise_not, np.bitwise_invert, "bitwise_not", "invert")),
    Op("bitwise_left_shift", lambda S, x, y: S.bitwise_left_shift(x, y), np.left_shift, "bitwise_left_shift", domain=(INTEGERS, (0, 8)),
       aliases=(np.bitwise_left_shift, "left_shift")),
    Op("bitwise_right_shift", lambda S, x, y: S.bitwise_right_shift(x, y), np.right_shift, "bitwise_right_shift", domain=(INTEGERS, (0, 8)),
       aliases=(np.bitwise_right_shift, "right_shift")),
    Op("bitwise_count", lambda S, x: S.bitwise_count(x), np.bitwise_count, domain=INTEGERS, compose=_bitwise_count),
    # whole numbers
    Op("gcd", lambda S, x, y: S.gcd(x, y), np.gcd, "gcd", domain=INTEGERS, compose=_gcd),
    Op("lcm", lambda S, x, y: S.lcm(x, y), np.lcm, "lcm", domain=INTEGERS, compose=_lcm),
    # complex numbers
    Op("real", lambda S, z: S.real(z), np.real, "real", types=to_real, dense=lambda xp, z: xp.real(z) if xp.isdtype(z.dtype, "complex floating") else z),
    Op("imag", lambda S, z: S.imag(z), np.imag, "imag", types=to_real, dense=lambda xp, z: xp.imag(z) if xp.isdtype(z.dtype, "complex floating") else xp.zeros_like(z)),
    Op("conj", lambda S, z: S.conj(z), np.conjugate, "conj_physical", aliases=(np.conj, "conjugate")),
    Op("angle", lambda S, z: S.angle(z), np.angle, "angle", types=to_angle,
       compose=lambda xp, z: xp.atan2(xp.imag(z), xp.real(z)) if xp.isdtype(z.dtype, "complex floating") else xp.atan2(xp.zeros_like(z), z)),
    Op("complex", lambda S, a, b: S.complex(a, b), None, "complex", types=to_complex, compose=lambda xp, a, b: a + b * 1j),
    # special functions
    Op("erf", lambda S, x: S.erf(x), None, "special.erf", types=real_floating, scipy="erf"),
    Op("erfc", lambda S, x: S.erfc(x), None, "special.erfc", types=real_floating, scipy="erfc"),
    Op("erfcx", lambda S, x: S.erfcx(x), None, "special.erfcx", types=real_floating, scipy="erfcx"),
    Op("erfinv", lambda S, x: S.erfinv(x), None, "special.erfinv", types=real_floating, domain=UNIT, scipy="erfinv"),
    Op("erfcinv", lambda S, x: S.erfcinv(x), None, types=real_floating, domain=(0.01, 1.9), scipy="erfcinv"),
    Op("expit", lambda S, x: S.expit(x), None, "special.expit", types=real_floating, scipy="expit", aliases=("sigmoid",)),
    Op("logit", lambda S, x: S.logit(x), None, "special.logit", types=real_floating, domain=(0.1, 0.9), scipy="logit"),
    Op("gamma", lambda S, x: S.gamma(x), None, types=real_floating, domain=POSITIVE, scipy="gamma"),
    Op("rgamma", lambda S, x: S.rgamma(x), None, types=real_floating, domain=POSITIVE, scipy="rgamma"),
    Op("lgamma", lambda S, x: S.lgamma(x), None, "special.gammaln", types=real_floating, domain=POSITIVE, scipy="gammaln", aliases=("gammaln",)),
    Op("digamma", lambda S, x: S.digamma(x), None, "special.digamma", types=real_floating, domain=POSITIVE, scipy="digamma", aliases=("psi",)),
    Op("i0", lambda S, x: S.i0(x), np.i0, "special.i0", types=real_times_pi, scipy="i0"),
    Op("i0e", lambda S, x: S.i0e(x), None, "special.i0e", types=real_floating, scipy="i0e"),
    Op("i1", lambda S, x: S.i1(x), None, "special.i1", types=real_floating, scipy="i1"),
    Op("i1e", lambda S, x: S.i1e(x), None, "special.i1e", types=real_floating, scipy="i1e"),
    Op("iv", lambda S, v, x: S.iv_of(v, x), None, types=real_floating, domain=ORDERS, scipy="iv"),
    Op("ive", lambda S, v, x: S.ive_of(v, x), None, types=real_floating, domain=ORDERS, scipy="ive"),
    Op("kv", lambda S, v, x: S.kv_of(v, x), None, types=real_floating, domain=ORDERS, scipy="kv"),
    Op("kve", lambda S, v, x: S.kve_of(v, x), None, types=real_floating, domain=ORDERS, scipy="kve"),
    Op("k0", lambda S, x: S.k0(x), None, "special.modified_bessel_k0", types=real_floating, domain=POSITIVE, scipy="k0"),
    Op("k0e", lambda S, x: S.k0e(x), None, "special.scaled_modified_bessel_k0", types=real_floating, domain=POSITIVE, scipy="k0e"),
    Op("k1", lambda S, x: S.k1(x), None, "special.modified_bessel_k1", types=real_floating, domain=POSITIVE, scipy="k1"),
    Op("k1e", lambda S, x: S.k1e(x), None, "special.scaled_modified_bessel_k1", types=real_floating, domain=POSITIVE, scipy="k1e"),
    Op("j0", lambda S, x: S.j0(x), None, "special.bessel_j0", types=real_floating, domain=(-9, 9), scipy="j0"),
    Op("j1", lambda S, x: S.j1(x), None, "special.bessel_j1", types=real_floating, domain=(-9, 9), scipy="j1"),
    Op("y0", lambda S, x: S.y0(x), None, "special.bessel_y0", types=real_floating, domain=(0.1, 9), scipy="y0"),
    Op("y1", lambda S, x: S.y1(x), None, "special.bessel_y1", types=real_floating, domain=(0.1, 9), scipy="y1"),
    Op("xlogy", lambda S, x, y: S.xlogy(x, y), None, "special.xlogy", types=real_floating, domain=((-2, 2), POSITIVE), scipy="xlogy"),
    Op("xlog1py", lambda S, x, y: S.xlog1py(x, y), None, "special.xlog1py", types=real_floating, domain=((-2, 2), POSITIVE), scipy="xlog1py"),
    Op("entr", lambda S, x: S.entr(x), None, "special.entr", types=real_floating, domain=POSITIVE, scipy="entr"),
    Op("rel_entr", lambda S, x, y: S.rel_entr(x, y), None, types=real_floating, domain=POSITIVE, scipy="rel_entr"),
    Op("kl_div", lambda S, x, y: S.kl_div(x, y), None, types=real_floating, domain=POSITIVE, scipy="kl_div", dense=lambda xp, x, y: _kl_div(xp, x, y)),
    Op("huber", lambda S, delta, r: S.huber(delta, r), None, types=real_floating, domain=(POSITIVE, (-4, 4)), scipy="huber"),
    Op("pseudo_huber", lambda S, delta, r: S.pseudo_huber(delta, r), None, types=real_floating, domain=(POSITIVE, (-4, 4)), scipy="pseudo_huber"),
    Op("boxcox", lambda S, x, p: S.boxcox(x, p), None, types=real_floating, domain=(POSITIVE, (-2, 2)), scipy="boxcox"),
    Op("boxcox1p", lambda S, x, p: S.boxcox1p(x, p), None, types=real_floating, domain=(POSITIVE, (-2, 2)), scipy="boxcox1p"),
    Op("inv_boxcox", lambda S, x, p: S.inv_boxcox(x, p), None, types=real_floating, domain=(POSITIVE, (0.1, 2)), scipy="inv_boxcox"),
    Op("inv_boxcox1p", lambda S, x, p: S.inv_boxcox1p(x, p), None, types=real_floating, domain=(POSITIVE, (0.1, 2)), scipy="inv_boxcox1p"),
    Op("ndtr", lambda S, x: S.ndtr(x), None, "special.ndtr", types=real_floating, scipy="ndtr"),
    Op("log_ndtr", lambda S, x: S.log_ndtr(x), None, "special.log_ndtr", types=real_floating, scipy="log_ndtr"),
    Op("ndtri", lambda S, p: S.ndtri(p), None, "special.ndtri", types=real_floating, domain=(0.01, 0.99), scipy="ndtri"),
    # activations; parameters are arguments, so that a new slope does not recompile
    Op("log_sigmoid", lambda S, x: S.log_sigmoid(x), None, "nn.functional.logsigmoid", types=real_floating, scipy="log_expit",
       aliases=("logsigmoid",), compose=lambda xp, x: -xp.logaddexp(-x, xp.zeros_like(x))),
    Op("relu", lambda S, x: S.relu(x), None, "relu", types=real_same, compose=lambda xp, x: xp.maximum(x, xp.zeros_like(x))),
    Op("at_most_zero", lambda S, x: S.at_most_zero(x), None, types=real_floating, domain=(-2, -0.1), compose=lambda xp, x: xp.minimum(x, xp.zeros_like(x))),
    Op("gelu_erf", lambda S, x: x * S.ndtr(x), None, "nn.functional.gelu", types=real_floating, compose=lambda xp, x: x * _ndtr(xp, x)),
    Op("gelu_tanh", lambda S, x, c: x / 2 * (1 + S.tanh(S.sqrt(2 / S.pi) * (x + c * x**3))), None, types=real_floating,
       compose=lambda xp, x, c: x / 2 * (1 + xp.tanh(math.sqrt(2 / math.pi) * (x + c * x**3)))),
    Op("silu", lambda S, x: x * S.expit(x), None, "nn.functional.silu", types=real_floating, compose=lambda xp, x: x / (1 + xp.exp(-x))),
    Op("mish", lambda S, x: x * S.tanh(S.logaddexp(x, 0)), None, "nn.functional.mish", types=real_floating,
       compose=lambda xp, x: x * xp.tanh(xp.logaddexp(x, xp.zeros_like(x)))),
    Op("elu_alpha", lambda S, x, a: S.where(S.greater(x, 0), x, a * S.expm1(x)), None, types=real_floating,
       compose=lambda xp, x, a: xp.where(x > 0, x, a * xp.expm1(x))),
    Op("celu_alpha", lambda S, x, a: S.where(S.greater(x, 0), x, a * S.expm1(x / a)), None, types=real_floating, domain=((-2, 2), POSITIVE),
       compose=lambda xp, x, a: xp.where(x > 0, x, a * xp.expm1(x / a))),
    Op("selu_scale", lambda S, x, s, a: s * S.where(S.greater(x, 0), x, a * S.expm1(x)), None, types=real_floating,
       compose=lambda xp, x, s, a: s * xp.where(x > 0, x, a * xp.expm1(x))),
    Op("leaky_relu_slope", lambda S, x, a: S.where(S.greater(x, 0), x, a * x), None, types=real_floating,
       compose=lambda xp, x, a: xp.where(x > 0, x, a * x)),
    Op("softplus_beta", lambda S, x, b, t: S.where(S.greater(b * x, t), x, S.log1p(S.exp(b * x)) / b), None, types=real_floating,
       domain=((-2, 2), POSITIVE, (1, 2)), compose=lambda xp, x, b, t: xp.where(b * x > t, x, xp.log1p(xp.exp(b * x)) / b)),
    Op("hardtanh_range", lambda S, x, a, b: S.hardtanh(x, a, b), None, types=real_same, domain=((-2, 2), (-1, 0), (0, 1)),
       compose=lambda xp, x, a, b: xp.minimum(xp.maximum(x, a), b)),
    Op("hardsigmoid", lambda S, x: S.hardtanh(x + 3, 0, 6) / 6, None, "nn.functional.hardsigmoid", types=real_floating,
       compose=lambda xp, x: xp.minimum(xp.maximum(x + 3, xp.zeros_like(x)), 6 * xp.ones_like(x)) / 6),
    Op("hardswish", lambda S, x: x * S.hardtanh(x + 3, 0, 6) / 6, None, "nn.functional.hardswish", types=real_floating,
       compose=lambda xp, x: x * xp.minimum(xp.maximum(x + 3, xp.zeros_like(x)), 6 * xp.ones_like(x)) / 6),
    Op("tanhshrink", lambda S, x: x - S.tanh(x), None, "nn.functional.tanhshrink", types=floating, compose=lambda xp, x: x - xp.tanh(x)),
    Op("softsign", lambda S, x: x / (1 + S.abs(x)), None, "nn.functional.softsign", types=real_floating, compose=lambda xp, x: x / (1 + xp.abs(x))),
    Op("softshrink_width", lambda S, x, a: S.softshrink(x, a), None, types=real_floating, domain=((-2, 2), POSITIVE),
       compose=lambda xp, x, a: xp.where(x > a, x - a, xp.where(x < -a, x + a, 0 * x))),
    Op("hardshrink_width", lambda S, x, a: S.where(S.logical_and(S.greater_equal(x, -a), S.less_equal(x, a)), 0, x), None, types=real_floating,
       domain=((-2, 2), POSITIVE), compose=lambda xp, x, a: xp.where((x >= -a) & (x <= a), xp.zeros_like(x), x)),
    Op("threshold_value", lambda S, x, t, v: S.where(S.less_equal(x, t), v, x), None, types=real_same,
       compose=lambda xp, x, t, v: xp.where(x <= t, v, x)),
)
# fmt: on

ROWS: dict[str, Op] = {op.name: op for op in (*TABLE, CAST, *ROUNDED.values())}
BY_FUNCTION: dict[Any, Op] = {f: op for op in TABLE for f in (op.numpy, *op.aliases) if callable(f)}


def _frexp(xp: Any, x: Any) -> Any:
    if isinstance(x, (np.ndarray, np.generic)):
        return np.frexp(x)
    if type(x).__module__.startswith("torch"):
        return sys.modules["torch"].frexp(x)
    raise UnsupportedError(f"{type(x).__module__} has no frexp.")


def _kl_div(xp: Any, x: Any, y: Any) -> Any:
    """Not torch.kl_div, which is another function."""
    if isinstance(x, (np.ndarray, np.generic)):
        return _dense(ROWS["kl_div"], xp, x, y)
    return _dense(ROWS["xlogy"], xp, x, x / y) - x + y


def _ndtr(xp: Any, x: Any) -> Any:
    return ROWS["ndtr"].dense(xp, x)


# -- composites ------------------------------------------------------------------------------------


def call(name: str, *operands: Any) -> Node:
    """The row of this name, applied."""
    return apply(ROWS[name], *operands)


def cast(node: Node, dtype: Any) -> Node:
    """`node` in another dtype, as NumPy's astype."""
    dtype = dtype if isinstance(dtype, np.dtype) else np.dtype(dtype)
    if node.dtype == dtype:
        return node
    if dtype.kind not in "biufc" and dtype.name != "bfloat16":
        raise DtypeError(
            f"cannot convert to {dtype}: duckkeops knows booleans, integers, floats and complex numbers."
        )
    own = (
        node.dtype
        if isinstance(node.dtype, np.dtype)
        else np.result_type(WEAK.get(node.dtype, BOOL))
    )
    if dtype.kind in "biu":  # 0.99999 is 1 in float16
        node = rounded(node)
    return Apply(CAST, (node,), (own,), dtype, (dtype.name,))


expr.set_cast(cast)


def _is_complex(x: Any) -> bool:
    dtype = getattr(x, "dtype", type(x))
    return dtype is complex or getattr(dtype, "kind", "") == "c"


def clip(x: Any, low: Any = None, high: Any = None) -> Node:
    """x, but at least `low` and at most `high`; None is no bound."""
    if low is None and high is None:
        return call("positive", x)
    if low is None or high is None:
        return call("clamp_max", x, high) if low is None else call("clamp_min", x, low)
    return call("clamp", x, low, high)


def round(x: Node, decimals: int = 0) -> Node:
    """x to this many decimals, half to even, as np.round."""
    if _is_complex(x):
        return (
            call("complex", round(call("real", x), decimals), round(call("imag", x), decimals))
            if decimals
            else call("rint", x)
        )
    kind = getattr(x.dtype, "kind", "f")
    if kind in "biu":
        if kind == "b" or decimals >= 0:
            return cast(x, np.float16) if kind == "b" and decimals == 0 else x
        return cast(round(cast(x, np.float64), decimals), x.dtype)
    if decimals == 0:
        return call("rint", x)
    if decimals > 0:
        return call("divide", call("rint", call("multiply", x, 10.0**decimals)), 10.0**decimals)
    return call("multiply", call("rint", call("divide", x, 10.0**-decimals)), 10.0**-decimals)


def nan_to_num(
    x: Node, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Node:
    """x, with NaN and infinities replaced; by default by 0 and the dtype's largest numbers."""
    if _is_complex(x):
        return call(
            "complex",
            *(nan_to_num(call(part, x), nan, posinf, neginf) for part in ("real", "imag")),
        )
    if getattr(x.dtype, "kind", "f") in "biu":
        return x
    info = np.finfo(np.float32 if x.dtype.name == "bfloat16" else x.dtype)
    largest = 3.3895313892515355e38 if x.dtype.name == "bfloat16" else float(info.max)
    high, low = largest if posinf is None else posinf, -largest if neginf is None else neginf
    return call("nan_to_num_parts", x, float(nan), float(high), float(low))


def isclose(
    x: Any, y: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> Node:
    """|x - y| <= atol + rtol |y|, or equal; as np.isclose."""
    near = call(
        "less_equal",
        call("abs", call("subtract", x, _inexact(y))),
        call("add", call("multiply", call("abs", _inexact(y)), rtol), atol),
    )
    out = call(
        "logical_or", call("logical_and", near, call("isfinite", _inexact(y))), call("equal", x, y)
    )
    return (
        call("logical_or", out, call("logical_and", call("isnan", x), call("isnan", y)))
        if equal_nan
        else out
    )


def _inexact(y: Any) -> Any:
    if not isinstance(y, Node) or type(y) is Scalar:
        return y
    return cast(y, common((y.dtype, float))) if getattr(y.dtype, "kind", "f") in "biu" else y


def select(conditions: Sequence[Any], choices: Sequence[Any], default: Any = 0) -> Node:
    """The first choice whose condition holds, as np.select."""
    if len(conditions) != len(choices) or not conditions:
        raise ValueError(
            f"select takes as many choices as conditions, at least one; got {len(choices)} and {len(conditions)}."
        )
    out = default
    for condition, choice in zip(reversed(conditions), reversed(choices), strict=True):
        out = call("where", condition, choice, out)
    return out


def divmod(x: Any, y: Any) -> tuple[Node, Node]:
    return call("floor_divide", x, y), call("remainder", x, y)


def modf(x: Any) -> tuple[Node, Node]:
    """Fraction and whole part, both with the sign of x."""
    return call("modf_fraction", x), call("modf_whole", x)


def frexp(x: Any) -> tuple[Node, Node]:
    """m and e with x = m 2**e, 1/2 <= |m| < 1."""
    return call("frexp_mantissa", x), call("frexp_exponent", x)


def polar(r: Any, angle: Any) -> Node:
    """r exp(i angle), as torch.polar."""
    return call(
        "complex", call("multiply", r, call("cos", angle)), call("multiply", r, call("sin", angle))
    )


def addcmul(x: Any, a: Any, b: Any, value: Any = 1) -> Node:
    """x + value a b, as torch.addcmul."""
    return call("add", x, _scaled(call("multiply", a, b), value))


def addcdiv(x: Any, a: Any, b: Any, value: Any = 1) -> Node:
    """x + value a / b, as torch.addcdiv."""
    return call("add", x, call("divide", _scaled(a, value), b))


def _scaled(x: Any, value: Any) -> Any:
    return x if isinstance(value, int) and value == 1 else call("multiply", x, value)


def logit(x: Any, eps: float | None = None) -> Node:
    """log(x / (1 - x)), x first clipped to [eps, 1 - eps]."""
    return call("logit", x if eps is None else clip(x, eps, 1 - eps))


def gelu(x: Any, approximate: str = "none") -> Node:
    """x times the normal distribution function, as torch.nn.functional.gelu."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu's approximate is 'none' or 'tanh', and not {approximate!r}.")
    return call("gelu_tanh", x, 0.044715) if approximate == "tanh" else call("gelu_erf", x)


def relu6(x: Any) -> Node:
    return call("hardtanh_range", x, 0, 6)


def hardtanh(x: Any, min_val: Any = -1, max_val: Any = 1) -> Node:
    return call("hardtanh_range", x, min_val, max_val)


def elu(x: Any, alpha: float = 1.0) -> Node:
    return call("elu_alpha", x, alpha)


def celu(x: Any, alpha: float = 1.0) -> Node:
    return call("celu_alpha", x, alpha)


def selu(x: Any) -> Node:
    return call(
        "selu_scale", x, 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
    )


def leaky_relu(x: Any, negative_slope: float = 0.01) -> Node:
    return call("leaky_relu_slope", x, negative_slope)


def softplus(x: Any, beta: float = 1, threshold: float = 20) -> Node:
    return call("softplus_beta", x, beta, threshold)


def softshrink(x: Any, lambd: float = 0.5) -> Node:
    return call("softshrink_width", x, lambd)


def hardshrink(x: Any, lambd: float = 0.5) -> Node:
    return call("hardshrink_width", x, lambd)


def threshold(x: Any, threshold: Any, value: Any) -> Node:
    return call("threshold_value", x, threshold, value)


COMPOSITES: dict[str, Callable] = {
    f.__name__: f
    for f in (
        clip, round, nan_to_num, isclose, select, divmod, modf, frexp, polar, addcmul, addcdiv, logit, gelu, relu6, hardtanh,
        elu, celu, selu, leaky_relu, softplus, softshrink, hardshrink, threshold,
    )
}  # fmt: skip
