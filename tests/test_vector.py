"""The C functions of kernels/*.h but for the reductions, against NumPy, SciPy and mpmath."""

from __future__ import annotations

import ctypes
import functools
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
FLAGS = [
    "-O2",
    "-std=gnu11",
    "-Wall",
    "-Werror",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fPIC",
    "-shared",
]
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")

NAMES = {
    "float32": "f32", "float64": "f64", "int8": "i8", "int16": "i16", "int32": "i32",
    "int64": "i64", "uint8": "u8", "uint16": "u16", "uint32": "u32", "uint64": "u64",
    "bool": "b1", "complex64": "c64", "complex128": "c128",
}  # fmt: skip
C_NAME = {np.dtype(k): v for k, v in NAMES.items()}

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
    "log1p": (
        np.log1p,
        mp.log1p,
        np.concatenate([-np.geomspace(1e-9, 0.9999, 30), np.geomspace(1e-9, 1e30, 60)]),
    ),
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
    "erfcx": (
        special.erfcx,
        lambda x: mp.exp(x * x) * mp.erfc(x),
        np.concatenate([np.linspace(-9, 24, 80), np.geomspace(25, 1e5, 20)]),
    ),
    "erfinv": (
        special.erfinv,
        mp.erfinv,
        np.append(np.linspace(-0.99, 0.99, 41), [0.999, 0.99999, 1 - 1e-7]),
    ),
    "expit": (special.expit, lambda x: 1 / (1 + mp.exp(-x)), np.linspace(-87, 50, 90)),
    "logit": (special.logit, lambda x: mp.log(x) - mp.log1p(-x), np.linspace(0.001, 0.999, 90)),
    "log_sigmoid": (special.log_expit, lambda x: -mp.log1p(mp.exp(-x)), np.linspace(-87, 50, 90)),
    "ndtr": (special.ndtr, mp.ncdf, np.linspace(-13, 9, 90)),
    "log_ndtr": (special.log_ndtr, lambda x: mp.log(mp.ncdf(x)), np.linspace(-60, 9, 90)),
    "lgamma": (
        special.gammaln,
        lambda x: mp.loggamma(x).real,
        np.concatenate([np.linspace(-9.7, 30, 90), [1e5, 1e9]]),
    ),
    "digamma": (
        special.digamma,
        mp.digamma,
        np.concatenate([np.linspace(-9.7, 30, 90), [1e5, 1e9]]),
    ),
    "i0": (special.i0, lambda x: mp.besseli(0, x), np.linspace(-80, 80, 61)),
    "i1": (special.i1, lambda x: mp.besseli(1, x), np.linspace(-80, 80, 61)),
    "i0e": (special.i0e, lambda x: mp.besseli(0, x) * mp.exp(-abs(x)), np.linspace(-80, 80, 61)),
    "i1e": (special.i1e, lambda x: mp.besseli(1, x) * mp.exp(-abs(x)), np.linspace(-80, 80, 61)),
    "exp10": (special.exp10, lambda x: mp.mpf(10) ** x, np.linspace(-37, 38, 76)),
    "entr": (special.entr, lambda x: -x * mp.log(x), np.geomspace(1e-30, 1e30, 41)),
    "sinc": (np.sinc, lambda x: mp.sincpi(x), np.linspace(-20.3, 20.3, 90)),
}


def scaled(order):
    return lambda x: mp.besselk(order, x) * mp.exp(x)


FAMILY = {  # name: (mpmath, points); within 1e-6 or 1e-14
    "gamma": (mp.gamma, np.concatenate([np.linspace(-9.7, 34.9, 151), np.geomspace(1e-6, 1, 40)])),
    "rgamma": (mp.rgamma, np.concatenate([np.linspace(-9.7, 34, 150), np.geomspace(1e-6, 1, 40)])),
    "k0": (lambda x: mp.besselk(0, x), np.geomspace(1e-6, 80, 190)),
    "k1": (lambda x: mp.besselk(1, x), np.geomspace(1e-6, 80, 190)),
    "k0e": (scaled(0), np.geomspace(1e-6, 1e5, 190)),
    "k1e": (scaled(1), np.geomspace(1e-6, 1e5, 190)),
}
ROUGH = {"lgamma", "digamma", "sinc", "logit", "entr"}  # near a zero: relative to max(|f|, 1)
POLES = {"lgamma", "digamma", "logit", "entr"}


def of_numpy(names):
    """NumPy's functions of these names."""
    return {n: getattr(np, n) for n in names.split()}


ORDER = "equal not_equal less less_equal greater greater_equal"
EXTREMES = "maximum minimum fmax fmin"
EXACT_UNARY = {
    **of_numpy(
        "abs sign floor ceil trunc rint angle real imag "
        "signbit isnan isinf isfinite isposinf isneginf"
    ),
    "conj": np.positive,
    "modf_fraction": lambda x: np.modf(x)[0],
    "frexp_mantissa": lambda x: np.frexp(x)[0],
    "frexp_exponent": lambda x: np.where(np.isfinite(x), np.frexp(x)[1], 0).astype(np.int32),
    "relu": lambda x: np.where(x < 0, 0, x).astype(x.dtype),
    "at_most_zero": lambda x: np.where(x > 0, 0, x).astype(x.dtype),
    "step": lambda x: np.where(x <= 0, 0, 1).astype(x.dtype),
    "rsqrt0": lambda x: np.where(x == 0, 0, 1 / np.sqrt(x)).astype(x.dtype),
}
SMOOTH_BINARY = {
    "power": np.power,
    "hypot": np.hypot,
    "atan2": np.arctan2,
    "logaddexp": np.logaddexp,
    "logaddexp2": np.logaddexp2,
    "xlogy": special.xlogy,
    "xlog1py": special.xlog1py,
}
ORDERS = ("kv", "kve", "iv", "ive")
TRANSFORMS = {
    "rel_entr": special.rel_entr,
    "kl_div": special.kl_div,
    "huber": special.huber,
    "pseudo_huber": special.pseudo_huber,
    "boxcox": special.boxcox,
    "boxcox1p": special.boxcox1p,
    "inv_boxcox": special.inv_boxcox,
    "inv_boxcox1p": special.inv_boxcox1p,
}
WAVES = ("j0", "j1", "y0", "y1")
QUANTILES = ("erfcinv", "ndtri")
EXACT_BINARY = {
    **of_numpy(f"{ORDER} {EXTREMES} copysign nextafter fmod remainder floor_divide heaviside"),
    "clamp_min": np.maximum,
    "clamp_max": np.minimum,
    "share": lambda x, y: np.where(x < y, 0, np.where(x == y, 0.5, 1)).astype(x.dtype),
}
INT_UNARY = {
    **of_numpy("abs sign floor isnan isfinite"),
    "bitwise_invert": np.invert,
    "integer_reciprocal": np.reciprocal,
}
INT_BINARY = {
    **of_numpy(
        f"{ORDER} {EXTREMES} fmod remainder floor_divide power gcd lcm "
        "bitwise_and bitwise_or bitwise_xor"
    ),
    "bitwise_left_shift": np.left_shift,
    "bitwise_right_shift": np.right_shift,
}
COMPLEX_UNARY = {
    **of_numpy(
        "sqrt exp log sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh "
        "exp2 expm1 log1p log2 log10"
    ),
    **of_numpy("abs angle sign conj real imag isnan isinf isfinite rint sinc"),
    "neg": np.negative,
}
COMPLEX_EXACT = of_numpy(f"{ORDER} {EXTREMES}")
COMPLEX_BINARY = {
    **COMPLEX_EXACT,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "power": np.power,
}
BOOL_BINARY = of_numpy(f"{ORDER} {EXTREMES} logical_and logical_or logical_xor")
BOOL_RESULT = {*ORDER.split(), "signbit", "isnan", "isinf", "isfinite", "isposinf", "isneginf"}
REAL_RESULT = {"abs", "angle", "real", "imag"}
REAL = {"c64": "f32", "c128": "f64"}
FLOATS, INTS, COMPLEXES = (
    ("f32", "f64"),
    ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"),
    ("c64", "c128"),
)


# -- building --------------------------------------------------------------------------------------


def result_type(name, t):
    if name in BOOL_RESULT:
        return "b1"
    if name == "frexp_exponent":
        return "i32"
    return REAL[t] if name in REAL_RESULT and t in REAL else t


HARNESS = r"""
#define TILES for (int i = 0; i < n; i += V)
#define REST (n - i < V ? n - i : V)
#define IN(T, a) load_lanes_##T(a + i * s##a, s##a, n - i)
#define OUT(T, r) store_lanes_##T(out + i * so, so, REST, r)
#define RUN1(f, T, R) void x_##f##_##T(int n, const char *a, i64 sa, char *out, i64 so) \
  { TILES OUT(R, f##_##T(IN(T, a))); }
#define RUN2(f, T, R) \
  void x_##f##_##T(int n, const char *a, i64 sa, const char *b, i64 sb, char *out, i64 so) \
  { TILES OUT(R, f##_##T(IN(T, a), IN(T, b))); }
#define RUN3(f, T, R) \
  void x_##f##_##T(int n, const char *a, i64 sa, const char *b, i64 sb, \
                   const char *c, i64 sc, char *out, i64 so) \
  { TILES OUT(R, f##_##T(IN(T, a), IN(T, b), IN(T, c))); }
#define CAST(T, U) void x_##T##_from_##U(int n, const char *a, i64 sa, char *out, i64 so) \
  { TILES OUT(T, T##_from_##U(IN(U, a))); }
#define CHOOSE(T) \
  void x_where_##T(int n, const char *a, i64 sa, const char *b, i64 sb, \
                   const char *c, i64 sc, char *out, i64 so) \
  { TILES OUT(T, where_##T(IN(b1, a), IN(T, b), IN(T, c))); }
#define ANY(f, T) int x_##f##_##T(const void *a, const void *b) \
  { return f##_##T(load_lanes_##T(a, sizeof(T), V), load_lanes_##T(b, sizeof(T), V)); }
#define HALF(T) \
  void x_##T(int n, const char *a, i64 sa, char *out, i64 so) { TILES OUT(f32, IN(T, a)); } \
  void x_lanes_##T(int n, const char *a, i64 sa, char *out, i64 so) { TILES OUT(T, IN(f32, a)); } \
  void x_round_##T(int n, const char *a, i64 sa, char *out, i64 so) \
  { for (int i = 0; i < n; ++i) store_##T(out + i * so, load_f32(a + i * sa)); }
int x_lanes(void) { return V; }
int x_any_b1(const void *c) { return any_b1(load_lanes_b1(c, 1, V)); }
"""


def loop(name, t, nargs):
    """An exported loop over arrays."""
    return f"RUN{nargs}({name}, {t}, {result_type(name, t)})\n"


def any_sources(t):
    return "".join(f"ANY({name}, {t})\n" for name in ("any_less", "any_not_ge", "any_not_le"))


def float_sources(t):
    one = (*UNARY, *FAMILY, *EXACT_UNARY, *WAVES, *QUANTILES)
    two = (*SMOOTH_BINARY, *EXACT_BINARY, *ORDERS, *TRANSFORMS, "polygamma", "softshrink")
    names = [
        *zip(one, itertools.repeat(1)),
        *zip(two, itertools.repeat(2)),
        ("clip", 3),
        ("hardtanh", 3),
    ]
    return "".join(loop(name, t, n) for name, n in names) + any_sources(t)


def all_sources():
    tables = (
        (INTS, INT_UNARY, INT_BINARY),
        (COMPLEXES, COMPLEX_UNARY, COMPLEX_BINARY),
        (("b1",), {}, BOOL_BINARY),
    )
    text = [float_sources(t) for t in FLOATS] + [any_sources(t) for t in INTS]
    for types, one, two in tables:
        text += [
            loop(name, t, n) for t in types for n, table in ((1, one), (2, two)) for name in table
        ]
    text += [f"CAST({a}, {b})\n" for a, b in itertools.permutations(NAMES.values(), 2)]
    return "".join(text) + "CHOOSE(f32) CHOOSE(f64) HALF(f16) HALF(bf16)\n"


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
BUILDS.append(pytest.param(("-DVB=16", "-DV=4"), id="least-f32"))
BUILDS.append(pytest.param(("-DVB=16", "-DV=2", "-DNOASM"), id="noasm"))
if shutil.which("clang"):
    BUILDS.append(pytest.param(("-march=native", "-DV=(VB/8)", "clang"), id="clang"))


def compile_library(folder, flags, sources):
    names = ("vector.h", "functions.h", "elementary.h", "complex.h", "special.h")
    headers = "".join(f'#include "{KERNELS / h}"\n' for h in names)
    source, library = folder / "harness.c", folder / "harness.so"
    source.write_text(headers + HARNESS + sources)
    compiler = "clang" if "clang" in flags else COMPILER
    flags = [f for f in flags if f != "clang"]
    command = [compiler, *FLAGS, *flags, str(source), "-o", str(library), "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """All functions of all types."""
    return compile_library(
        tmp_path_factory.mktemp("all"), ("-march=native", "-DV=(VB/8)"), all_sources()
    )


@pytest.fixture(scope="module", params=BUILDS)
def floats(request, tmp_path_factory):
    """The float functions, on several instruction sets; (library, dtypes)."""
    narrow = (("-DVB=64", "-DV=16"), ("-DVB=32", "-DV=8"), ("-DVB=16", "-DV=4"))
    types = ("f32",) if any({*flags} <= {*request.param} for flags in narrow) else FLOATS
    library = compile_library(
        tmp_path_factory.mktemp("floats"), request.param, "".join(map(float_sources, types))
    )
    return library, [np.dtype(d) for d in ("float32", "float64") if NAMES[d] in types]


DTYPE = {t: np.dtype(name) for name, t in NAMES.items()}


def run(library, name, *arrays, symbol=None, result=None):
    """The C function of this name and of the last array's type."""
    t = C_NAME[arrays[-1].dtype] if symbol is None else None
    out = np.empty(arrays[0].shape, result or DTYPE[result_type(name, t)])
    call = [ctypes.c_int(len(out))]
    for a in (*arrays, out):
        call += [ctypes.c_void_p(a.ctypes.data), ctypes.c_longlong(a.strides[0])]
    getattr(library, symbol or f"x_{name}_{t}")(*call)
    return out


def address(array):
    return ctypes.c_void_p(array.ctypes.data)


# -- comparing -------------------------------------------------------------------------------------


def special_values(dtype):
    info = np.finfo(dtype)
    ordinary = [0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 0.5, -0.5, 2]
    return np.array(
        [*ordinary, info.max, info.min, info.tiny, -info.tiny, TINY[dtype.name], 1e-10, -1e-10],
        dtype,
    )


def assert_close(got, want, ulp, dtype, near_one=False, where=None):
    """Within `ulp` of mpmath's numbers; NaN and infinities alike."""
    want64 = np.array([float(w) for w in want])
    with np.errstate(all="ignore"):
        rounded = want64.astype(dtype)
    assert np.array_equal(np.isnan(got), np.isnan(rounded)), (
        where,
        got[np.isnan(got) != np.isnan(rounded)],
    )
    finite = np.isfinite(rounded) & np.isfinite(got)
    infinite = ~np.isnan(rounded) & ~finite
    edge = np.abs(want64[infinite]) > 0.999 * float(np.finfo(dtype).max)
    assert np.all(edge), (where, got[infinite], want64[infinite])
    size = np.abs(rounded)
    unit = np.spacing(np.maximum(size, 1) if near_one else size).astype(np.float64)
    for k in np.flatnonzero(finite):
        error = abs(float(want[k] - mp.mpf(float(got[k])))) / unit[k]
        assert error <= ulp, (where, got[k], want64[k], f"{error} ulp")


@pytest.mark.parametrize("name", UNARY)
def test_smooth(floats, name):
    library, dtypes = floats
    _, exact, points = UNARY[name]
    for dtype in dtypes:
        x = points.astype(dtype)
        want = [exact(mp.mpf(float(v))) for v in x]
        got = run(library, name, x)
        if name in ("lgamma", "digamma"):
            want = np.array([float(w) for w in want])
            tolerance = 1e-6 if dtype.itemsize == 4 else 1e-14
            assert np.all(np.abs(got - want) <= tolerance * np.maximum(np.abs(want), 1)), name
        else:
            assert_close(got, want, 4, dtype, name in ROUGH, name)


# -- dense sweeps: float32 against SciPy's float64, float64 against mpmath -------------------------

SWEEP = {"float32": 20000, "float64": 240}


def sweep(points, n):
    """Numbers of the range of `points`: half of them uniform, half of every size, both signs."""
    rng = np.random.default_rng(7)
    low, high = points.min(), points.max()
    sizes = np.exp(rng.uniform(np.log(1e-9), np.log(max(-low, high)), 2 * n))
    sizes *= rng.choice([-1, 1], 2 * n)
    sizes = sizes[(sizes >= low) & (sizes <= high)][: n // 2]
    return np.concatenate([rng.uniform(low, high, n - len(sizes)), sizes])


@functools.cache
def reference(name, dtype):
    """Numbers, and the function's values there as exact as they come."""
    numpy_function, exact, points = UNARY[name]
    x = sweep(points, SWEEP[dtype]).astype(dtype)
    if dtype == "float32":
        with np.errstate(all="ignore"):
            return x, numpy_function(x.astype(np.float64))
    return x, [exact(mp.mpf(float(v))) for v in x]


def ulps(got, want, near_one=False):
    """The largest error in units of the last place; NaN and infinities must be alike."""
    rounded = np.array([float(w) for w in want])
    with np.errstate(all="ignore"):
        rounded = rounded.astype(got.dtype)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(rounded))
    ok = np.isfinite(rounded) & np.isfinite(got)
    edge = 0.999 * np.finfo(got.dtype).max
    assert np.all(ok | np.isnan(got) | (got == rounded) | (np.abs(np.where(ok, 0, got)) > edge))
    unit = np.spacing(np.maximum(np.abs(rounded[ok]), 1 if near_one else 0)).astype(np.float64)
    if isinstance(want, np.ndarray):
        error = np.abs(got[ok] - want[ok]).astype(np.float64)
    else:
        error = [
            float(abs(want[k] - mp.mpf(float(g))))
            for k, g in zip(np.flatnonzero(ok), got[ok], strict=True)
        ]
    return float(np.max(np.asarray(error) / unit, initial=0))


@pytest.mark.parametrize("name", UNARY)
def test_sweep(floats, name):
    """Within 4 ulp, the gamma functions within 1e-6 or 1e-14 of the larger of |f| and 1."""
    library, dtypes = floats
    for dtype in dtypes:
        x, want = reference(name, dtype.name)
        got = run(library, name, x)
        if name in ("lgamma", "digamma"):
            want = np.array([float(w) for w in want])
            tolerance = 1e-6 if dtype.itemsize == 4 else 1e-14
            assert np.max(np.abs(got - want) / np.maximum(np.abs(want), 1)) <= tolerance
        else:
            assert ulps(got, want, name in ROUGH) <= 4


@functools.cache
def pair_reference(name, dtype):
    """Pairs of numbers, and the function's values in a wider type."""
    rng = np.random.default_rng(3)
    n, width = 6000, 30 if dtype == "float32" else 200
    x, y = (np.exp(rng.uniform(-width, width, n)) * rng.choice([-1, 1], n) for _ in range(2))
    if name == "power":  # no farther than the ends of the range
        x = np.concatenate([np.abs(x[:2000]), 1 + rng.uniform(-0.3, 0.4, n - 2000)])
        most = 88 if dtype == "float32" else 708
        y = rng.uniform(-most, most, n) / np.maximum(np.abs(np.log(x)), 1e-9)
    else:
        y[: n // 2] = x[: n // 2] * rng.uniform(-4, 4, n // 2)
    x, y = x.astype(dtype), y.astype(dtype)
    wide = np.float64 if dtype == "float32" else np.longdouble
    with np.errstate(all="ignore"):
        return x, y, SMOOTH_BINARY[name](x.astype(wide), y.astype(wide))


@pytest.mark.parametrize("name", ["power", "hypot", "atan2"])
def test_sweep_of_pairs(floats, name):
    library, dtypes = floats
    for dtype in dtypes:
        if dtype == np.float64 and np.finfo(np.longdouble).nmant < 63:
            continue  # nothing to compare with
        x, y, want = pair_reference(name, dtype.name)
        got = run(library, name, x, y)
        ok = np.abs(want) < 0.99 * np.finfo(dtype).max
        ok &= np.abs(want) > np.finfo(dtype).tiny
        error = np.abs(got[ok] - want[ok]) / np.spacing(np.abs(want[ok]).astype(dtype))
        assert np.max(error) <= 4


@pytest.mark.parametrize("name", ["fmod", "remainder", "floor_divide"])
def test_sweep_of_remainders(floats, name):
    """Exact: small and large quotients, multiples, and numbers at the ends of the range."""
    library, dtypes = floats
    rng = np.random.default_rng(5)
    for dtype in dtypes:
        info, n = np.finfo(dtype), 4000
        ends = np.log([float(info.smallest_normal), float(info.max)])
        x = np.concatenate([np.exp(rng.uniform(-20, 20, n)), np.exp(rng.uniform(*ends, n))])
        y = np.concatenate([np.exp(rng.uniform(-20, 20, n)), np.exp(rng.uniform(*ends, n))])
        whole = rng.integers(-50, 50, (2, n))
        x = (np.append(x, whole[0]) * rng.choice([-1, 1], 3 * n)).astype(dtype)
        y = (np.append(y, whole[1]) * rng.choice([-1, 1], 3 * n)).astype(dtype)
        with np.errstate(all="ignore"):
            want = getattr(np, name)(x, y)
        got = run(library, name, x, y)
        np.testing.assert_array_equal(got, want)
        ok = ~np.isnan(want)
        np.testing.assert_array_equal(np.signbit(got[ok]), np.signbit(want[ok]))


# -- special values, exact functions, pairs --------------------------------------------------------


@pytest.mark.parametrize("name", UNARY)
def test_smooth_at_special_values(floats, name):
    library, dtypes = floats
    for dtype in dtypes:
        x = special_values(dtype)
        with np.errstate(all="ignore"):
            if (
                name == "lgamma"
            ):  # C and torch: inf at -inf; SciPy: -inf, and inf at subnormal numbers
                x = x[(x != -np.inf) & ((x == 0) | ~(np.abs(x) < np.finfo(dtype).tiny))]
            if name == "sinc":  # NumPy: NaN where pi x overflows
                x = x[~(np.isfinite(x) & (np.abs(x) > 1e10))]
            want = UNARY[name][0](x).astype(dtype)
        got = run(library, name, x)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want), err_msg=name)
        ok = ~np.isnan(want)
        if name in ("sin", "cos", "tan"):
            ok &= np.abs(x) < 1e30
        zero = (
            ok & (want == 0) & (x == 0) & (name not in ("erfinv", "i1", "i1e"))
        )  # SciPy drops the sign
        np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]), err_msg=name)
        info = np.finfo(dtype)
        nothing = (
            info.eps
            if name == "sinc"
            else 1e-5 * info.tiny
            if name in POLES
            else 2 * info.smallest_subnormal
        )
        close = 1e-5 if dtype.itemsize == 4 else 1e-13
        np.testing.assert_allclose(got[ok], want[ok], rtol=close, atol=nothing, err_msg=name)


@pytest.mark.parametrize("name", EXACT_UNARY)
def test_exact(floats, name):
    library, dtypes = floats
    for dtype in dtypes:
        ordinary = [*np.linspace(-7.3, 7.3, 57), *np.arange(-4.5, 5), 1e9, -8388609.5]
        x = np.append(special_values(dtype), np.array(ordinary, dtype))
        with np.errstate(all="ignore"):
            want = EXACT_UNARY[name](x)
        got = run(library, name, x)
        np.testing.assert_array_equal(got, want, err_msg=name)
        if got.dtype.kind == "f" and name not in ("relu", "at_most_zero", "imag", "sign"):
            np.testing.assert_array_equal(
                np.signbit(got)[~np.isnan(x)], np.signbit(want)[~np.isnan(x)], err_msg=name
            )


def pairs(dtype):
    values = np.concatenate(
        [special_values(dtype)[:12], np.array([3.5, -2.75, 7, -3, 0.1, -20.5], dtype)]
    )
    return tuple(np.ascontiguousarray(a.ravel()) for a in np.meshgrid(values, values))


@pytest.mark.parametrize("name", EXACT_BINARY)
def test_exact_pairs(floats, name):
    library, dtypes = floats
    for dtype in dtypes:
        x, y = pairs(dtype)
        with np.errstate(all="ignore"):
            want = EXACT_BINARY[name](x, y)
        got = run(library, name, x, y)
        np.testing.assert_array_equal(got, want, err_msg=name)
        if name in ("remainder", "floor_divide", "fmod", "copysign"):
            ok = ~np.isnan(want)
            np.testing.assert_array_equal(np.signbit(got)[ok], np.signbit(want)[ok], err_msg=name)


@pytest.mark.parametrize("name", SMOOTH_BINARY)
def test_smooth_pairs(floats, name):
    library, dtypes = floats
    reference = SMOOTH_BINARY[name]
    for dtype in dtypes:
        x, y = pairs(dtype)
        with np.errstate(all="ignore"):
            want = reference(x.astype(np.float64), y.astype(np.float64)).astype(dtype)
        got = run(library, name, x, y)
        info = np.finfo(dtype)
        nothing = 4 * (info.eps if name.startswith("logadd") else info.smallest_subnormal)
        np.testing.assert_allclose(got, want, rtol=8 * info.eps, atol=nothing, err_msg=name)


def test_bounds(floats):
    library, dtypes = floats
    for dtype in dtypes:
        x, y = pairs(dtype)
        z = np.roll(y, 5)
        want = np.minimum(np.maximum(x, y), z)
        np.testing.assert_array_equal(run(library, "clip", x, y, z), want)
        np.testing.assert_array_equal(run(library, "hardtanh", x, y, z), want)
        with np.errstate(all="ignore"):
            soft = np.where(x > y, x - y, np.where(x < -y, x + y, x * 0))
        np.testing.assert_array_equal(run(library, "softshrink", x, y), soft)


def test_polygamma(floats):
    library, dtypes = floats
    for dtype in dtypes:
        for n in (1, 2, 3, 5):
            x = np.array([0.1, 0.5, 1, 2.25, 7, 30, -0.25, -1.5, -3.75], dtype)
            want = np.array([float(mp.polygamma(n, mp.mpf(float(v)))) for v in x])
            got = run(library, "polygamma", np.full_like(x, n), x)
            tolerance = 1e-6 if dtype.itemsize == 4 else 1e-14
            assert np.all(np.abs(got - want) <= tolerance * np.maximum(np.abs(want), 1)), (
                n,
                got,
                want,
            )


@functools.cache
def of_order(name):
    """Orders in [0, 60], arguments in (0, 700], and mpmath's values."""
    rng = np.random.default_rng(5)
    v = np.repeat(np.float32([0, 0.25, 0.5, 1, 1.5, 2.5, 3.75, 7.25, 12.5, 20, 44.25]), 16)
    x = np.exp(rng.uniform(np.log(1e-3), np.log(700), len(v))).astype(np.float32)
    bessel = mp.besselk if name[0] == "k" else mp.besseli
    sign = {"kv": 0, "iv": 0, "kve": 1, "ive": -1}[name]
    exact = [
        bessel(mp.mpf(float(a)), mp.mpf(float(b))) * mp.exp(sign * mp.mpf(float(b)))
        for a, b in zip(v, x, strict=True)
    ]
    return v, x, np.array([float(min(e, mp.mpf("1e307"))) for e in exact])


@pytest.mark.parametrize("name", ORDERS)
def test_bessel_functions_of_any_order(floats, name):
    library, dtypes = floats
    v, x, want = of_order(name)
    for dtype in dtypes:
        info = np.finfo(dtype)
        ok = (want > 4 * info.tiny) & (want < info.max / 4)
        got = run(library, name, v.astype(dtype), x.astype(dtype))[ok]
        close = 1e-6 if dtype.itemsize == 4 else 4e-15
        np.testing.assert_allclose(got, want[ok], rtol=close, atol=0)


@pytest.mark.parametrize("name", ORDERS)
def test_bessel_functions_of_large_order(floats, name):
    library, dtypes = floats
    v, x = (a.ravel() for a in np.meshgrid([60.5, 100.0, 320.0], [20.0, 90.0, 300.0, 650.0]))
    want = getattr(special, name)(v, x)
    for dtype in dtypes:
        info = np.finfo(dtype)
        ok = (want > 4 * info.tiny) & (want < info.max / 4)
        got = run(library, name, v.astype(dtype), x.astype(dtype))[ok]
        np.testing.assert_allclose(got, want[ok], rtol=1e-4 if dtype.itemsize == 4 else 2e-13)


SIDES = np.array([0.0, 1e-300, -1.0, np.inf, -np.inf, np.nan, 5.0])


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("order", [0, 1, 2, 0.5, -0.5, -1, -2, 100, np.nan])
def test_bessel_functions_off_their_domain(everything, name, order):
    """As SciPy, but for kv(nan, 0), and what SciPy loses: ive(-0.5, 0) is infinite."""
    v = np.full(len(SIDES), float(order))
    want = getattr(special, name)(v, SIDES)
    known = (SIDES == 0) & ((name == "ive") & (order == -0.5))
    known |= (SIDES == 1e-300) & (name == "iv")  # SciPy: 0
    got = run(everything, name, v, SIDES)
    np.testing.assert_allclose(got[~known], want[~known], rtol=1e-13)


@functools.cache
def of_family(name, dtype):
    exact, points = FAMILY[name]
    x = points.astype(dtype)
    return x, np.array([float(exact(mp.mpf(float(v)))) for v in x])


@pytest.mark.parametrize("name", FAMILY)
def test_gamma_and_bessel_functions(floats, name):
    library, dtypes = floats
    for dtype in dtypes:
        x, want = of_family(name, dtype.name)
        close = 1e-6 if dtype.itemsize == 4 else 1e-14
        np.testing.assert_allclose(run(library, name, x), want, rtol=close, atol=0)
        ends = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -1, -2, 2e5, 1e-30], dtype)
        want = getattr(special, name)(ends)
        got = run(library, name, ends)
        np.testing.assert_allclose(got, want, rtol=close, atol=0)
        np.testing.assert_array_equal(np.signbit(got[:2]), np.signbit(want[:2]))


@pytest.mark.parametrize("name", WAVES)
def test_waves(floats, name):
    """Within 8 units of the last place of the larger of |f| and 1, and SciPy's at the ends."""
    library, dtypes = floats
    exact = {"j": mp.besselj, "y": mp.bessely}[name[0]]
    points = np.concatenate([np.linspace(0.01, 30, 130), np.linspace(40, 900, 20)])
    for dtype in dtypes:
        x = points.astype(dtype)
        want = np.array([float(exact(int(name[1]), mp.mpf(float(a)))) for a in x])
        error = np.abs(run(library, name, x) - want) / np.maximum(np.abs(want), 1)
        assert error.max() <= 8 * np.finfo(dtype).eps
        ends = np.array([0, np.inf, -np.inf, np.nan, -2, 1e-30], dtype)
        np.testing.assert_allclose(
            run(library, name, ends), getattr(special, name)(ends), rtol=1e-6
        )


@pytest.mark.parametrize("name", QUANTILES)
def test_quantiles(floats, name):
    library, dtypes = floats
    for dtype in dtypes:
        low = np.geomspace(float(np.finfo(dtype).tiny), 0.5, 120)
        top = 2 if name == "erfcinv" else 1
        x = np.concatenate([low, np.linspace(0.5, 0.99 * top, 40)]).astype(dtype)
        want = getattr(special, name)(x.astype(np.float64))
        np.testing.assert_allclose(
            run(library, name, x), want, rtol=4 * np.finfo(dtype).eps, atol=1e-300
        )
        ends = np.array([0, top, -0.1, top + 0.5, np.nan, np.inf, -np.inf], dtype)
        np.testing.assert_array_equal(run(library, name, ends), getattr(special, name)(ends))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(floats, name):
    """Entropies, losses and power transformations: inside, and at the ends, as SciPy."""
    library, dtypes = floats
    rng = np.random.default_rng(3)
    inside = rng.uniform(0.05, 6, (2, 300))
    ends = [0.0, np.inf, -np.inf, np.nan, -1.0, 1.0, 0.5, 3.0]
    for dtype in dtypes:
        x, y = inside.astype(dtype)
        want = TRANSFORMS[name](x.astype(np.float64), y.astype(np.float64))
        got = run(library, name, x, y)
        eps = np.finfo(dtype).eps
        size = np.maximum(np.abs(want), x + y if name == "kl_div" else 0)
        assert np.max(np.abs(got - want) / size) <= 12 * eps
        x, y = (np.ascontiguousarray(a.ravel(), dtype) for a in np.meshgrid(ends, ends))
        with np.errstate(all="ignore"):
            want = TRANSFORMS[name](x.astype(np.float64), y.astype(np.float64)).astype(dtype)
        got = run(library, name, x, y)
        if name == "pseudo_huber":  # SciPy: NaN where delta is infinite
            got, want = got[np.isfinite(x)], want[np.isfinite(x)]
        np.testing.assert_allclose(got, want, rtol=12 * eps, atol=eps)


def test_any(floats):
    library, dtypes = floats
    answers = ((1, (0, 0, 0)), (2, (0, 0, 1)), (0, (1, 1, 0)), (np.nan, (0, 1, 1)))
    for dtype, (value, want) in itertools.product(dtypes, answers):
        a = np.ones(64, dtype)
        b = a.copy()
        b[1] = value
        tests = [
            getattr(library, f"x_{name}_{C_NAME[dtype]}")
            for name in ("any_less", "any_not_ge", "any_not_le")
        ]
        assert tuple(test(address(b), address(a)) for test in tests) == want


# -- the other types -------------------------------------------------------------------------------


def integers(dtype):
    """All pairs of small numbers and of those at the ends of the range."""
    info = np.iinfo(dtype)
    small = [0, 1, 2, 3, 5, 7, 31, 64, 100, 200]
    ends = [info.min, info.min + 1, info.max, info.max - 1]
    values = np.array(
        [v for v in (*small, *(-s for s in small), *ends) if info.min <= v <= info.max], dtype
    )
    return tuple(a.ravel().copy() for a in np.meshgrid(values, values))


@pytest.mark.parametrize("dtype", [d for d in NAMES if "int" in d])
def test_integers(everything, dtype):
    x, y = integers(dtype)
    with np.errstate(all="ignore"):
        for name, f in INT_UNARY.items():
            np.testing.assert_array_equal(run(everything, name, x), f(x), err_msg=name)
        for name, f in INT_BINARY.items():
            a, b = (x[y >= 0], y[y >= 0] % 60) if name == "power" else (x, y)
            np.testing.assert_array_equal(run(everything, name, a, b), f(a, b), err_msg=name)


@pytest.mark.parametrize("dtype", [d for d in NAMES if "int" in d])
def test_any_of_integers(everything, dtype):
    a = np.ones(64, dtype)
    for value, want in ((1, (0, 0, 0)), (2, (0, 0, 1)), (0, (1, 1, 0))):
        b = a.copy()
        b[everything.x_lanes() - 1] = value
        tests = [
            getattr(everything, f"x_{name}_{NAMES[dtype]}")
            for name in ("any_less", "any_not_ge", "any_not_le")
        ]
        assert tuple(test(address(b), address(a)) for test in tests) == want


def test_booleans(everything):
    x, y = np.array([False, False, True, True] * 3), np.array([False, True] * 6)
    for name, f in BOOL_BINARY.items():
        np.testing.assert_array_equal(run(everything, name, x, y), f(x, y), err_msg=name)
    for value in (True, False):
        c = np.zeros(64, bool)
        c[everything.x_lanes() - 1] = value
        assert everything.x_any_b1(address(c)) == value


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_where(everything, dtype):
    c, a = np.arange(33) % 3 == 0, np.linspace(0, 1, 33).astype(dtype)
    np.testing.assert_array_equal(
        run(everything, "where", c, a, -a, result=a.dtype), np.where(c, a, -a)
    )


@pytest.mark.parametrize(("source", "target"), itertools.permutations(NAMES, 2))
def test_conversions(everything, source, target):
    numbers = [0, 1, 2, 3, 5, 100, 127]
    if source[0] not in "ub" and not (target[0] == "u" and source[0] in "fc"):
        numbers += [-1, -2, -100]
    if source[0] in "fc":
        numbers += [0.5, 2.75, 1e-3]
    x = np.array(numbers).astype(source)
    want = (x.real if source[0] == "c" and target[0] in "fiu" else x).astype(target)
    symbol = f"x_{NAMES[target]}_from_{NAMES[source]}"
    np.testing.assert_array_equal(
        run(everything, "cast", x, symbol=symbol, result=np.dtype(target)), want
    )


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
    want = x.view(half).astype(np.float32)
    wide = run(everything, name, x, symbol=f"x_{name}", result=np.dtype(np.float32))
    np.testing.assert_array_equal(wide, want)
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 2**32, 100000, dtype=np.uint32).view(np.float32)
    small = (rng.standard_normal(1000) * 1e-6).astype(np.float32)
    numbers = np.concatenate(
        [numbers, small, np.float32([65519.9, 65520, 65504, 1e-8, 6e-8]), want]
    )
    with np.errstate(all="ignore"):
        want = numbers.astype(half).astype(np.float32)
    for symbol in (f"x_round_{name}", f"x_lanes_{name}"):
        out = run(everything, name, numbers, symbol=symbol, result=np.dtype(np.uint16))
        np.testing.assert_array_equal(out.view(half).astype(np.float32), want)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex(everything, dtype):
    v = np.array([0, 1, -1, 0.5, -2.25, 3])
    z = (v[:, None] + 1j * v).ravel().astype(dtype)
    x, y = (a.ravel().copy() for a in np.meshgrid(z, z))
    cases = [(name, f, (z,), 16) for name, f in COMPLEX_UNARY.items()]
    cases += [(name, f, (x, y), 32) for name, f in COMPLEX_BINARY.items()]
    for name, f, args, ulp in cases:
        with np.errstate(all="ignore"):
            got, want = run(everything, name, *args), f(*args)
            same = (got == want) | (np.isnan(got) & np.isnan(want))
            if got.dtype != bool and name not in COMPLEX_EXACT:
                same |= np.abs(got - want) <= ulp * np.finfo(dtype).eps * np.maximum(
                    np.abs(want), 1
                )
        assert np.all(same), (name, [a[~same][:3] for a in args], got[~same][:3], want[~same][:3])


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_special_values(everything, dtype):
    v = np.array([0, 1, -2, np.inf, -np.inf, np.nan])
    z = np.array([complex(a, b) for a in v for b in v]).astype(dtype)
    x, y = (a.ravel().copy() for a in np.meshgrid(z, z))
    with np.errstate(all="ignore"):
        for name, f in COMPLEX_EXACT.items():
            np.testing.assert_array_equal(run(everything, name, x, y), f(x, y), err_msg=name)
        for name in ("abs", "sign", "conj", "isnan", "isinf", "isfinite", "exp", "sqrt", "log"):
            got, want = run(everything, name, z), COMPLEX_UNARY[name](z)
            np.testing.assert_allclose(got.real, want.real, rtol=1e-5, err_msg=name)
            np.testing.assert_allclose(got.imag, want.imag, rtol=1e-5, atol=1e-6, err_msg=name)


COMPLEX_EXACTLY = {
    **{n: getattr(mp, n) for n in ("sqrt", "exp", "log", "sin", "cos", "tan")},
    **{n: getattr(mp, n) for n in ("asin", "acos", "atan", "sinh", "cosh", "tanh")},
    **{n: getattr(mp, n) for n in ("asinh", "acosh", "atanh")},
    "exp2": lambda z: mp.exp(z * mp.log(2)),
    "expm1": lambda z: mp.exp(z) - 1,
    "log1p": lambda z: mp.log(1 + z),
    "log2": lambda z: mp.log(z) / mp.log(2),
    "log10": lambda z: mp.log(z) / mp.log(10),
}


@pytest.mark.parametrize("name", COMPLEX_EXACTLY)
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_sweep(everything, dtype, name):
    """|error| within 4 ulp of |f|."""
    rng = np.random.default_rng(11)
    sizes = np.exp(rng.uniform(np.log(1e-8), np.log(8), (2, 100))) * rng.choice([-1, 1], (2, 100))
    z = rng.uniform(-4, 4, 100) + 1j * rng.uniform(-4, 4, 100)
    circle = np.exp(1j * rng.uniform(-3, 3, 40))
    z = np.concatenate([z, sizes[0] + 1j * sizes[1], circle]).astype(dtype)
    want = [COMPLEX_EXACTLY[name](mp.mpc(complex(v))) for v in z]
    got = run(everything, name, z)
    errors = [float(abs(w - mp.mpc(complex(g))) / abs(w)) for w, g in zip(want, got, strict=True)]
    assert np.max(errors) <= 4 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_beside_infinity(everything, dtype):
    """A lane that the C library must do sends the others there too: they agree."""
    z = np.linspace(-2, 3, 40) + 1j * np.linspace(3, -1.5, 40)
    mixed = np.full(8 * len(z), np.inf, dtype)
    mixed[::8] = z
    for name in COMPLEX_EXACTLY:
        want = run(everything, name, mixed[::8].copy())
        error = np.abs(run(everything, name, mixed)[::8] - want)
        assert np.max(error / np.maximum(np.abs(want), 1)) <= 8 * np.finfo(dtype).eps, name


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_signed_zeros(everything, dtype):
    """On the axes the sign of zero chooses the side of the branch cut, as in NumPy."""
    v = np.array([0.0, -0.0, 0.5, -0.5, 2, -2])
    z = np.empty((6, 6), dtype)
    z.real, z.imag = v[:, None], v
    z = z.ravel()
    with np.errstate(all="ignore"):
        for name in COMPLEX_EXACTLY:
            got, want = run(everything, name, z), COMPLEX_UNARY[name](z)
            for part in ("real", "imag"):
                g, w = getattr(got, part), getattr(want, part)
                close = 40 * np.finfo(dtype).eps
                np.testing.assert_allclose(g, w, rtol=close, atol=close, err_msg=f"{name} {part}")
