"""The C functions of kernels/vector.h, complex.h and special.h against NumPy, SciPy and mpmath."""

from __future__ import annotations

import ctypes
import itertools
import pathlib
import shutil
import subprocess
import sys

import mpmath
import numpy as np
import pytest
import scipy.special as special

KERNELS = pathlib.Path(__file__).resolve().parent.parent / "kernels"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
FLAGS = "-O2 -std=gnu11 -Wall -Werror -fno-math-errno -fno-trapping-math -ffp-contract=fast -fPIC -shared".split()
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")

NAMES = {
    "float32": "f32", "float64": "f64", "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64", "uint8": "u8",
    "uint16": "u16", "uint32": "u32", "uint64": "u64", "bool": "b1", "complex64": "c64", "complex128": "c128",
}  # fmt: skip
C_NAME = {np.dtype(k): v for k, v in NAMES.items()}
VECTOR = {t: f"v{t}" for t in NAMES.values()} | {"b1": "vb"}

mp = mpmath.mp.clone()
mp.dps = 40


def real_or_nan(f):
    """An mpmath function for real results: complex means off the domain."""

    def g(*x):
        y = f(*map(mp.mpf, x))
        return float("nan") if isinstance(y, mp.mpc) and y.imag else y.real

    return g


TINY = {"float32": 1e-42, "float64": 4e-320}
UNARY = {  # name: (NumPy or SciPy, mpmath, points)
    "exp": (np.exp, mp.exp, np.linspace(-110, 95, 90)),
    "exp2": (np.exp2, lambda x: mp.mpf(2) ** x, np.linspace(-155, 130, 90)),
    "expm1": (np.expm1, mp.expm1, np.linspace(-40, 95, 90)),
    "log": (np.log, mp.log, np.geomspace(1e-44, 1e38, 90)),
    "log2": (np.log2, lambda x: mp.log(x, 2), np.geomspace(1e-44, 1e38, 90)),
    "log10": (np.log10, lambda x: mp.log(x, 10), np.geomspace(1e-44, 1e38, 90)),
    "log1p": (np.log1p, mp.log1p, np.concatenate([-np.geomspace(1e-9, 0.9999, 30), np.geomspace(1e-9, 1e30, 60)])),
    "sin": (np.sin, mp.sin, np.linspace(-700, 700, 181)),
    "cos": (np.cos, mp.cos, np.linspace(-700, 700, 181)),
    "tan": (np.tan, mp.tan, np.linspace(-50, 50, 90)),
    "asin": (np.arcsin, mp.asin, np.linspace(-1, 1, 41)),
    "acos": (np.arccos, mp.acos, np.linspace(-1, 1, 41)),
    "atan": (np.arctan, mp.atan, np.linspace(-9, 9, 41)),
    "sinh": (np.sinh, mp.sinh, np.linspace(-80, 80, 41)),
    "cosh": (np.cosh, mp.cosh, np.linspace(-80, 80, 41)),
    "tanh": (np.tanh, mp.tanh, np.linspace(-25, 25, 181)),
    "asinh": (np.arcsinh, mp.asinh, np.linspace(-80, 80, 41)),
    "acosh": (np.arccosh, real_or_nan(mp.acosh), np.linspace(1, 80, 41)),
    "atanh": (np.arctanh, real_or_nan(mp.atanh), np.linspace(-0.99, 0.99, 41)),
    "sqrt": (np.sqrt, mp.sqrt, np.geomspace(1e-44, 1e38, 41)),
    "rsqrt": (lambda x: 1 / np.sqrt(x), lambda x: 1 / mp.sqrt(x), np.geomspace(1e-30, 1e38, 41)),
    "cbrt": (np.cbrt, lambda x: mp.sign(x) * mp.cbrt(abs(x)), np.linspace(-80, 80, 41)),
    "erf": (special.erf, mp.erf, np.linspace(-6, 6, 81)),
    "erfc": (special.erfc, mp.erfc, np.linspace(-6, 9, 81)),
    "erfcx": (special.erfcx, lambda x: mp.exp(x * x) * mp.erfc(x), np.concatenate([np.linspace(-9, 24, 80), np.geomspace(25, 1e5, 20)])),
    "erfinv": (special.erfinv, mp.erfinv, np.concatenate([np.linspace(-0.99, 0.99, 41), 1 - np.geomspace(1e-7, 0.1, 20)])),
    "expit": (special.expit, lambda x: 1 / (1 + mp.exp(-x)), np.linspace(-87, 50, 90)),
    "logit": (special.logit, lambda x: mp.log(x) - mp.log1p(-x), np.linspace(0.001, 0.999, 90)),
    "log_sigmoid": (special.log_expit, lambda x: -mp.log1p(mp.exp(-x)), np.linspace(-87, 50, 90)),
    "ndtr": (special.ndtr, mp.ncdf, np.linspace(-13, 9, 90)),
    "log_ndtr": (special.log_ndtr, lambda x: mp.log(mp.ncdf(x)), np.linspace(-60, 9, 90)),
    "lgamma": (special.gammaln, lambda x: mp.loggamma(x).real, np.concatenate([np.linspace(-9.7, 30, 90), [1e5, 1e9]])),
    "digamma": (special.digamma, mp.digamma, np.concatenate([np.linspace(-9.7, 30, 90), [1e5, 1e9]])),
    "i0": (special.i0, lambda x: mp.besseli(0, x), np.linspace(-80, 80, 61)),
    "i1": (special.i1, lambda x: mp.besseli(1, x), np.linspace(-80, 80, 61)),
    "i0e": (special.i0e, lambda x: mp.besseli(0, x) * mp.exp(-abs(x)), np.linspace(-80, 80, 61)),
    "i1e": (special.i1e, lambda x: mp.besseli(1, x) * mp.exp(-abs(x)), np.linspace(-80, 80, 61)),
    "entr": (special.entr, lambda x: -x * mp.log(x), np.geomspace(1e-30, 1e30, 41)),
    "sinc": (np.sinc, lambda x: mp.sincpi(x), np.linspace(-20.3, 20.3, 90)),
}
ROUGH = {"lgamma", "digamma", "sinc", "logit", "entr"}  # near a zero: relative to max(|f|, 1)
POLES = {"lgamma", "digamma", "logit", "entr"}
EXACT_UNARY = {
    "abs": np.abs, "sign": np.sign, "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "rint": np.rint, "angle": np.angle,
    "signbit": np.signbit, "isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite, "isposinf": np.isposinf,
    "isneginf": np.isneginf, "modf_fraction": lambda x: np.modf(x)[0], "frexp_mantissa": lambda x: np.frexp(x)[0],
    "frexp_exponent": lambda x: np.where(np.isfinite(x), np.frexp(x)[1], 0).astype(np.int32),
    "relu": lambda x: np.where(x < 0, 0, x).astype(x.dtype), "step": lambda x: np.where(x <= 0, 0, 1).astype(x.dtype),
    "real": np.real, "imag": np.imag, "conj": np.positive,
}  # fmt: skip
BINARY = {"pow": "power", "hypot": "hypot", "atan2": "arctan2", "logaddexp": "logaddexp", "logaddexp2": "logaddexp2"}
EXACT_BINARY = {
    "maximum": np.maximum, "minimum": np.minimum, "fmax": np.fmax, "fmin": np.fmin, "copysign": np.copysign,
    "nextafter": np.nextafter, "fmod": np.fmod, "remainder": np.remainder, "floor_divide": np.floor_divide,
    "heaviside": np.heaviside, "equal": np.equal, "not_equal": np.not_equal, "less": np.less, "less_equal": np.less_equal,
    "greater": np.greater, "greater_equal": np.greater_equal, "clamp_min": np.maximum, "clamp_max": np.minimum,
    "share": lambda x, y: np.where(x < y, 0, np.where(x == y, 0.5, 1)).astype(x.dtype),
}  # fmt: skip
INT_UNARY = {
    "abs": np.abs, "sign": np.sign, "bitwise_invert": np.invert, "integer_reciprocal": np.reciprocal, "floor": np.floor,
    "isnan": np.isnan, "isfinite": np.isfinite,
}  # fmt: skip
INT_BINARY = {
    "maximum": np.maximum, "minimum": np.minimum, "fmod": np.fmod, "remainder": np.remainder, "floor_divide": np.floor_divide,
    "bitwise_and": np.bitwise_and, "bitwise_or": np.bitwise_or, "bitwise_xor": np.bitwise_xor,
    "bitwise_left_shift": np.left_shift, "bitwise_right_shift": np.right_shift, "power": None, "equal": np.equal,
    "less": np.less, "greater_equal": np.greater_equal,
}  # fmt: skip
COMPLEX_UNARY = {
    "sqrt": np.sqrt, "exp": np.exp, "log": np.log, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin,
    "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh, "exp2": np.exp2, "expm1": np.expm1, "log1p": np.log1p, "log2": np.log2,
    "log10": np.log10, "abs": np.abs, "angle": np.angle, "sign": np.sign, "conj": np.conj, "real": np.real, "imag": np.imag,
    "neg": np.negative, "isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite, "rint": np.rint, "sinc": np.sinc,
}  # fmt: skip
COMPLEX_BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "power": np.power, "equal": np.equal,
    "not_equal": np.not_equal, "less": np.less, "less_equal": np.less_equal, "greater": np.greater,
    "greater_equal": np.greater_equal, "maximum": np.maximum, "minimum": np.minimum, "fmax": np.fmax, "fmin": np.fmin,
}  # fmt: skip
BOOL_BINARY = {
    "logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor, "equal": np.equal,
    "not_equal": np.not_equal, "less": np.less, "less_equal": np.less_equal, "greater": np.greater,
    "greater_equal": np.greater_equal, "maximum": np.maximum, "minimum": np.minimum,
}  # fmt: skip
BOOL_RESULT = {"signbit", "isnan", "isinf", "isfinite", "isposinf", "isneginf", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal"}
REAL_RESULT = {"abs", "angle", "real", "imag"}
REAL = {"c64": "f32", "c128": "f64"}
FLOATS, INTS, COMPLEXES = ("f32", "f64"), ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"), ("c64", "c128")


# -- building ----------------------------------------------------------------------------------------------------------


def result_type(name, t):
    if name in BOOL_RESULT:
        return "b1"
    if name == "frexp_exponent":
        return "i32"
    return REAL[t] if name in REAL_RESULT and t in REAL else t


def wrapper(name, t, nargs):
    """An exported loop over arrays, and the C of it."""
    r = result_type(name, t)
    args = "".join(f", const char *a{k}, long long s{k}" for k in range(nargs))
    loads = ", ".join(f"load_lanes_{t}(a{k} + i * s{k}, s{k}, n - i)" for k in range(nargs))
    return (
        f"void x_{name}_{t}(int n{args}, char *out, long long so) {{ for (int i = 0; i < n; i += V) {{ "
        f"{VECTOR[r]} r = {name}_{t}({loads}); store_lanes_{r}(out + i * so, so, n - i < V ? n - i : V, r); }} }}\n"
    )


def casts():
    types = [*FLOATS, *INTS, "b1", *COMPLEXES]
    for a, b in itertools.permutations(types, 2):
        yield (
            f"void x_{b}_from_{a}(int n, const char *x, long long sx, char *out, long long so) {{ for (int i = 0; i < n; i += V) "
            f"store_lanes_{b}(out + i * so, so, n - i < V ? n - i : V, {b}_from_{a}(load_lanes_{a}(x + i * sx, sx, n - i))); }}\n"
        )


def any_sources(t):
    for name in ("any_less", "any_not_ge", "any_not_le"):
        yield f"int x_{name}_{t}(const void *a, const void *b) {{ return {name}_{t}(load_lanes_{t}(a, sizeof({t}), V), load_lanes_{t}(b, sizeof({t}), V)); }}\n"


def float_sources(t):
    for name in (*UNARY, *EXACT_UNARY):
        yield wrapper(name, t, 1)
    for name in ("power", "hypot", "atan2", "logaddexp", "logaddexp2", "xlogy", "xlog1py", "polygamma", "softshrink", *EXACT_BINARY):
        yield wrapper(name, t, 2)
    for name in ("clip", "hardtanh"):
        yield wrapper(name, t, 3)
    yield from any_sources(t)


def all_sources():
    for t in FLOATS:
        yield from float_sources(t)
    for t in INTS:
        for name in INT_UNARY:
            yield wrapper(name, t, 1)
        for name in INT_BINARY:
            yield wrapper(name, t, 2)
        yield from any_sources(t)
    for t in COMPLEXES:
        for name in COMPLEX_UNARY:
            yield wrapper(name, t, 1)
        for name in COMPLEX_BINARY:
            yield wrapper(name, t, 2)
    for name in BOOL_BINARY:
        yield wrapper(name, "b1", 2)
    yield from casts()
    for h in ("f16", "bf16"):
        yield (
            f"void x_{h}(int n, const char *a, float *wide, char *back, long long s) {{ for (int i = 0; i < n; i += V) {{ "
            f"vf32 v = load_lanes_{h}(a + i * s, s, n - i); store_lanes_f32(wide + i, 4, n - i < V ? n - i : V, v); "
            f"store_lanes_{h}(back + i * s, s, n - i < V ? n - i : V, v); }} }}\n"
        )
        yield f"void x_round_{h}(int n, const float *a, char *back) {{ for (int i = 0; i < n; ++i) store_{h}(back + 2 * i, a[i]); }}\n"
    for t in FLOATS:
        yield (
            f"void x_where_{t}(int n, const char *c, const {t} *a, const {t} *b, {t} *out) {{ for (int i = 0; i + V <= n; i += V) "
            f"store_lanes_{t}(out + i, sizeof({t}), V, where_{t}(load_lanes_b1(c + i, 1, V), load_lanes_{t}(a + i, sizeof({t}), V), "
            f"load_lanes_{t}(b + i, sizeof({t}), V))); }}\n"
        )
    yield "int x_any_b1(const void *c) { return any_b1(load_lanes_b1(c, 1, V)); }\n"
    yield "int x_lanes(void) { return V; }\n"


def flags_of_machine():
    if sys.platform.startswith("linux") and pathlib.Path("/proc/cpuinfo").exists():
        return set(pathlib.Path("/proc/cpuinfo").read_text().split())
    return set()


FEATURES = flags_of_machine()
V4, V3 = "avx512vl" in FEATURES and "avx512dq" in FEATURES, "avx2" in FEATURES and "fma" in FEATURES
BUILDS = [pytest.param(("-march=native", "-DV=(VB/8)"), id="native")]
if V4:
    BUILDS.append(pytest.param(("-march=x86-64-v4", "-DVB=64", "-DV=16"), id="v4-f32"))
if V3:
    BUILDS.append(pytest.param(("-march=x86-64-v3", "-DVB=32", "-DV=4"), id="v3-f64"))
    BUILDS.append(pytest.param(("-march=x86-64-v3", "-DVB=32", "-DV=8"), id="v3-f32"))
if "sse4_2" in FEATURES:
    BUILDS.append(pytest.param(("-march=x86-64-v2", "-DVB=16", "-DV=2"), id="v2-f64"))
BUILDS.append(pytest.param(("-DVB=16", "-DV=2", "-DNOASM"), id="noasm"))


def compile_library(folder, flags, sources):
    text = "".join(f'#include "{KERNELS / h}"\n' for h in ("vector.h", "complex.h", "special.h")) + "".join(sources)
    source, library = folder / "harness.c", folder / "harness.so"
    source.write_text(text)
    subprocess.run([COMPILER, *FLAGS, *flags, str(source), "-o", str(library), "-lm"], check=True, capture_output=True, text=True)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """All functions of all types."""
    return compile_library(tmp_path_factory.mktemp("all"), ("-march=native", "-DV=(VB/8)"), all_sources())


@pytest.fixture(scope="module", params=BUILDS)
def floats(request, tmp_path_factory):
    """The float functions, on several instruction sets; (library, types)."""
    types = ("f32",) if any(f in request.param for f in ("-DV=16", "-DV=8")) else FLOATS
    sources = itertools.chain.from_iterable(float_sources(t) for t in types)
    return compile_library(tmp_path_factory.mktemp("floats"), request.param, sources), types


def run(library, name, *arrays, result=None):
    t = C_NAME[arrays[0].dtype]
    out = np.empty(arrays[0].shape, result or np.dtype(next(k for k, v in NAMES.items() if v == result_type(name, t))))
    call = [ctypes.c_int(len(out))]
    for a in (*arrays, out):
        call += [ctypes.c_void_p(a.ctypes.data), ctypes.c_longlong(a.strides[0])]
    getattr(library, f"x_{name}_{t}")(*call)
    return out


# -- comparing ---------------------------------------------------------------------------------------------------------


def special_values(dtype):
    info = np.finfo(dtype)
    return np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 0.5, -0.5, 2, info.max, info.min, info.tiny, -info.tiny, TINY[dtype.name], 1e-10, -1e-10], dtype)


def assert_close(got, want, ulp, dtype, near_one=False, where=None):
    """Within `ulp` of float64 or mpmath values; NaN, infinities and signs of zero alike."""
    want64 = np.array([float(w) for w in want])
    with np.errstate(all="ignore"):
        rounded = want64.astype(dtype)
    assert np.array_equal(np.isnan(got), np.isnan(rounded)), (where, got[np.isnan(got) != np.isnan(rounded)])
    finite = np.isfinite(rounded) & np.isfinite(got)
    infinite = ~np.isnan(rounded) & ~finite
    edge = np.abs(want64[infinite]) > 0.999 * float(np.finfo(dtype).max)
    assert np.all(edge), (where, got[infinite], want64[infinite])
    size = np.abs(rounded[finite])
    unit = np.spacing(np.maximum(size, 1) if near_one else size).astype(np.float64)
    error = np.array([abs(float(w - mp.mpf(float(g)))) for w, g in zip([w for w, f in zip(want, finite, strict=True) if f], got[finite], strict=True)])
    worst = int(np.argmax(error / unit)) if len(error) else 0
    assert not len(error) or error[worst] / unit[worst] <= ulp, (where, got[finite][worst], want64[finite][worst], error[worst] / unit[worst])


@pytest.mark.parametrize("name", UNARY)
def test_smooth(floats, name):
    library, types = floats
    numpy, exact, points = UNARY[name]
    for dtype in map(np.dtype, [d for d in ("float32", "float64") if NAMES[d] in types]):
        x = points.astype(dtype)
        want = [exact(mp.mpf(float(v))) for v in x]
        got = run(library, name, x)
        if name in ("lgamma", "digamma"):
            want = np.array([float(w) for w in want])
            assert np.all(np.abs(got - want) <= (1e-6 if dtype.itemsize == 4 else 1e-14) * np.maximum(np.abs(want), 1)), name
        else:
            assert_close(got, want, 4, dtype, name in ROUGH, name)


@pytest.mark.parametrize("name", UNARY)
def test_smooth_at_special_values(floats, name):
    library, types = floats
    for dtype in map(np.dtype, [d for d in ("float32", "float64") if NAMES[d] in types]):
        x = special_values(dtype)
        with np.errstate(all="ignore"):
            if name == "lgamma":  # C and torch: inf at -inf; SciPy: -inf, and inf at subnormal numbers
                x = x[(x != -np.inf) & ((x == 0) | ~(np.abs(x) < np.finfo(dtype).tiny))]
            if name == "sinc":  # NumPy: NaN where pi x overflows
                x = x[~(np.isfinite(x) & (np.abs(x) > 1e10))]
            want = UNARY[name][0](x).astype(dtype)
        got = run(library, name, x)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want), err_msg=name)
        ok = ~np.isnan(want)
        if name in ("sin", "cos", "tan"):
            ok &= np.abs(x) < 1e30
        zero = ok & (want == 0) & (x == 0) & (name not in ("erfinv", "i1", "i1e"))  # SciPy drops the sign
        np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]), err_msg=name)
        np.testing.assert_allclose(got[ok], want[ok], rtol=1e-5 if dtype.itemsize == 4 else 1e-13, atol=1e-5 * np.finfo(dtype).tiny if name in POLES else np.finfo(dtype).smallest_subnormal * 2, err_msg=name)


@pytest.mark.parametrize("name", EXACT_UNARY)
def test_exact(floats, name):
    library, types = floats
    for dtype in map(np.dtype, [d for d in ("float32", "float64") if NAMES[d] in types]):
        x = np.concatenate([special_values(dtype), np.linspace(-7.3, 7.3, 57).astype(dtype), np.arange(-4.5, 5).astype(dtype), [dtype.type(1e9), dtype.type(-8388609.5)]])
        with np.errstate(all="ignore"):
            want = EXACT_UNARY[name](x)
        got = run(library, name, x)
        np.testing.assert_array_equal(got, want, err_msg=name)
        if got.dtype.kind == "f" and name not in ("relu", "imag", "sign"):
            np.testing.assert_array_equal(np.signbit(got)[~np.isnan(x)], np.signbit(want)[~np.isnan(x)], err_msg=name)


def pairs(dtype):
    values = np.concatenate([special_values(dtype)[:12], np.array([3.5, -2.75, 7, -3, 0.1, -20.5], dtype)])
    return tuple(np.ascontiguousarray(a.ravel()) for a in np.meshgrid(values, values))


@pytest.mark.parametrize("name", EXACT_BINARY)
def test_exact_pairs(floats, name):
    library, types = floats
    for dtype in map(np.dtype, [d for d in ("float32", "float64") if NAMES[d] in types]):
        x, y = pairs(dtype)
        with np.errstate(all="ignore"):
            want = EXACT_BINARY[name](x, y)
        got = run(library, name, x, y)
        np.testing.assert_array_equal(got, want, err_msg=name)
        if name in ("remainder", "floor_divide", "fmod", "copysign"):
            ok = ~np.isnan(want)
            np.testing.assert_array_equal(np.signbit(got)[ok], np.signbit(want)[ok], err_msg=name)


@pytest.mark.parametrize(
    ("name", "reference"),
    [("power", np.power), ("hypot", np.hypot), ("atan2", np.arctan2), ("logaddexp", np.logaddexp), ("logaddexp2", np.logaddexp2), ("xlogy", special.xlogy), ("xlog1py", special.xlog1py)],
)
def test_smooth_pairs(floats, name, reference):
    library, types = floats
    for dtype in map(np.dtype, [d for d in ("float32", "float64") if NAMES[d] in types]):
        x, y = pairs(dtype)
        with np.errstate(all="ignore"):
            want = reference(x.astype(np.float64), y.astype(np.float64)).astype(dtype)
        got = run(library, name, x, y)
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(got, want, rtol=8 * eps, atol=4 * eps if name.startswith("logadd") else 4 * np.finfo(dtype).smallest_subnormal, err_msg=name)


def test_bounds(floats):
    library, types = floats
    for dtype in map(np.dtype, [d for d in ("float32", "float64") if NAMES[d] in types]):
        x, y = pairs(dtype)
        z = np.roll(y, 5)
        want = np.minimum(np.maximum(x, y), z)
        np.testing.assert_array_equal(run(library, "clip", x, y, z), want)
        np.testing.assert_array_equal(run(library, "hardtanh", x, y, z), want)
        with np.errstate(all="ignore"):
            soft = np.where(x > y, x - y, np.where(x < -y, x + y, x * 0))
        np.testing.assert_array_equal(run(library, "softshrink", x, y), soft)


def test_polygamma(floats):
    library, types = floats
    for dtype in map(np.dtype, [d for d in ("float32", "float64") if NAMES[d] in types]):
        for n in (1, 2, 3, 5):
            x = np.array([0.1, 0.5, 1, 2.25, 7, 30, -0.25, -1.5, -3.75], dtype)
            want = np.array([float(mp.polygamma(n, mp.mpf(float(v)))) for v in x])
            got = run(library, "polygamma", np.full_like(x, n), x)
            assert np.all(np.abs(got - want) <= (2e-6 if dtype.itemsize == 4 else 4e-14) * np.maximum(np.abs(want), 1)), (n, got, want)


def test_any(floats):
    library, types = floats
    for dtype in map(np.dtype, [d for d in ("float32", "float64") if NAMES[d] in types]):
        t = NAMES[dtype.name]
        a = np.ones(64, dtype)
        call = lambda name, x, y: getattr(library, f"x_{name}_{t}")(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data))  # noqa: B023, E731
        for value, less, not_ge, not_le in ((1, 0, 0, 0), (2, 0, 0, 1), (0, 1, 1, 0), (np.nan, 0, 1, 1)):
            b = a.copy()
            b[1] = value
            assert (call("any_less", b, a), call("any_not_ge", b, a), call("any_not_le", b, a)) == (less, not_ge, not_le)


# -- the other types ---------------------------------------------------------------------------------------------------


def integers(dtype):
    info = np.iinfo(dtype)
    small = [0, 1, 2, 3, 5, 7, 31, 64, 100]
    values = [v for v in (*small, *(-s for s in small), info.min, info.min + 1, info.max, info.max - 1, 200) if info.min <= v <= info.max]
    x, y = np.meshgrid(np.array(values, dtype), np.array(values, dtype))
    return x.ravel().copy(), y.ravel().copy()


@pytest.mark.parametrize("dtype", [d for d in NAMES if "int" in d])
def test_integers(everything, dtype):
    x, y = integers(np.dtype(dtype))
    with np.errstate(all="ignore"):
        for name, f in INT_UNARY.items():
            np.testing.assert_array_equal(run(everything, name, x), f(x), err_msg=name)
        for name, f in INT_BINARY.items():
            a, b = (x[y >= 0], y[y >= 0] % 60) if name == "power" else (x, y)
            want = np.power(a, b) if name == "power" else f(a, b)
            np.testing.assert_array_equal(run(everything, name, a, b), want, err_msg=name)


def test_booleans(everything):
    x, y = np.array([False, False, True, True] * 3), np.array([False, True] * 6)
    for name, f in BOOL_BINARY.items():
        np.testing.assert_array_equal(run(everything, name, x, y), f(x, y), err_msg=name)
    for value in (True, False):
        c = np.zeros(64, bool)
        c[everything.x_lanes() - 1] = value
        assert everything.x_any_b1(ctypes.c_void_p(c.ctypes.data)) == value


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_where(everything, dtype):
    c, a = np.arange(32) % 3 == 0, np.linspace(0, 1, 32).astype(dtype)
    b, out = -a, np.empty_like(a)
    getattr(everything, f"x_where_{NAMES[dtype]}")(32, *(ctypes.c_void_p(v.ctypes.data) for v in (c, a, b, out)))
    np.testing.assert_array_equal(out, np.where(c, a, b))


@pytest.mark.parametrize(("source", "target"), itertools.permutations(NAMES, 2))
def test_conversions(everything, source, target):
    x = np.array([0, 1, 2, 3, 5, 100, 127] + ([] if source.startswith(("u", "b")) else [-1, -2, -100])).astype(source)
    if source.startswith(("f", "c")):
        x = np.append(x, np.array([0.5, 2.75, 1e-3]).astype(source))
    want = (x.real if source.startswith("c") and target[0] in "fiu" else x).astype(target)
    out = np.empty(len(x), target)
    getattr(everything, f"x_{NAMES[target]}_from_{NAMES[source]}")(
        len(x), ctypes.c_void_p(x.ctypes.data), ctypes.c_longlong(x.itemsize), ctypes.c_void_p(out.ctypes.data), ctypes.c_longlong(out.itemsize)
    )
    np.testing.assert_array_equal(out, want)


def test_strides(everything):
    x = np.linspace(-2, 2, 60).astype(np.float32)
    for step, n in ((3, 20), (-1, 60), (7, 5)):
        part = x[::step][:n]
        np.testing.assert_array_equal(run(everything, "abs", part), np.abs(part))
    ints = np.arange(40, dtype=np.int8)[::2]
    np.testing.assert_array_equal(run(everything, "bitwise_invert", ints), ~ints)
    z = (np.arange(20) + 1j * np.arange(20)[::-1]).astype(np.complex64)[::3]
    np.testing.assert_array_equal(run(everything, "conj", z), z.conj())


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_halves(everything, name):
    """Every half there is, to float32 and back; and rounding to nearest even."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    half = np.dtype(np.float16 if name == "f16" else ml_dtypes.bfloat16)
    x = np.arange(65536, dtype=np.uint16)
    wide, back = np.empty(65536, np.float32), np.empty_like(x)
    getattr(everything, f"x_{name}")(65536, *(ctypes.c_void_p(v.ctypes.data) for v in (x, wide, back)), ctypes.c_longlong(2))
    want = x.view(half).astype(np.float32)
    np.testing.assert_array_equal(wide, want)
    np.testing.assert_array_equal(back[~np.isnan(want)], x[~np.isnan(want)])
    assert np.all(np.isnan(back[np.isnan(want)].view(half).astype(np.float32)))
    rng = np.random.default_rng(0)
    numbers = np.concatenate([rng.integers(0, 2**32, 100000, dtype=np.uint32).view(np.float32), (rng.standard_normal(1000) * 1e-6).astype(np.float32), np.float32([65519.9, 65520, 65504, 1e-8, 6e-8])])
    out = np.empty(len(numbers), np.uint16)
    getattr(everything, f"x_round_{name}")(len(numbers), ctypes.c_void_p(numbers.ctypes.data), ctypes.c_void_p(out.ctypes.data))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(out.view(half).astype(np.float32), numbers.astype(half).astype(np.float32))


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex(everything, dtype):
    v = np.array([0, 1, -1, 0.5, -2.25, 3])
    z = (v[:, None] + 1j * v).ravel().astype(dtype)
    eps = np.finfo(dtype).eps
    with np.errstate(all="ignore"):
        for name, f in COMPLEX_UNARY.items():
            got, want = run(everything, name, z), f(z.astype(np.complex128) if name not in ("real", "imag") else z)
            if got.dtype == bool:
                np.testing.assert_array_equal(got, want, err_msg=name)
                continue
            error = np.abs(np.nan_to_num(got) - np.nan_to_num(want.astype(got.dtype)))
            assert np.all(error <= 16 * eps * np.maximum(np.abs(np.nan_to_num(want)), 1)), (name, z[np.argmax(error)], got[np.argmax(error)], want[np.argmax(error)])
        x, y = (a.ravel().copy() for a in np.meshgrid(z, z))
        for name, f in COMPLEX_BINARY.items():
            got, want = run(everything, name, x, y), f(x, y)
            same = (got == want) | (np.isnan(got) & np.isnan(want))
            if got.dtype.kind == "c":
                same |= np.abs(got - want) <= 32 * eps * np.maximum(np.abs(want), 1)
            assert np.all(same), (name, x[~same][:3], y[~same][:3], got[~same][:3], want[~same][:3])


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_special_values(everything, dtype):
    v = np.array([0, 1, -2, np.inf, -np.inf, np.nan])
    z = np.array([complex(a, b) for a in v for b in v]).astype(dtype)
    x, y = (a.ravel().copy() for a in np.meshgrid(z, z))
    exact = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "maximum", "minimum", "fmax", "fmin")
    with np.errstate(all="ignore"):
        for name in exact:
            np.testing.assert_array_equal(run(everything, name, x, y), COMPLEX_BINARY[name](x, y), err_msg=name)
        for name in ("abs", "sign", "conj", "isnan", "isinf", "isfinite", "exp", "sqrt", "log"):
            got, want = run(everything, name, z), COMPLEX_UNARY[name](z)
            np.testing.assert_allclose(got.real, want.real, rtol=1e-5, err_msg=name)
            np.testing.assert_allclose(got.imag, want.imag, rtol=1e-5, atol=1e-6, err_msg=name)
