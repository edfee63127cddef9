// Complex functions of numbers that are infinite, NaN or very large, where complex.h leaves its fast formulas. The values at
// infinity and NaN are those of the C standard's annex G. Computed in float64, also for c64: no large number is large there.

typedef struct { f64 re, im; } edge;
#define EDGE static __device__ __noinline__ edge
INL edge edge_of(f64 re, f64 im) {
    const edge z = {re, im};
    return z;
}
INL bool is_finite(f64 x) { return x - x == 0; }
INL bool is_nan(f64 x) { return x != x; }
INL bool is_infinite(f64 x) { return !is_finite(x) && !is_nan(x); }
INL f64 infinity() { return __builtin_inf(); }
INL f64 undefined() { return (f64)__builtin_nanf(""); }
INL edge rotated(edge z) { return edge_of(-z.im, z.re); }   // i z
INL edge rotated_back(edge z) { return edge_of(z.im, -z.re); }
#define LN2 0.69314718055994530942
#define HALF_TURN 1.57079632679489661923  // pi / 2

// factor e^x (cos y, sin y), which may be finite where e^x is not
INL edge turned_exp(f64 x, f64 y, f64 factor) {
    const f64 root = exp(0.5 * x), first = factor * root;
    return edge_of(first * cos(y) * root, first * sin(y) * root);
}
EDGE edge_exp(edge z) {
    if (z.im == 0) return edge_of(exp(z.re), z.im);
    if (!is_finite(z.im)) {
        if (z.re == -infinity()) return edge_of(0, 0);
        return z.re == infinity() ? edge_of(z.re, undefined()) : edge_of(undefined(), undefined());
    }
    if (z.re == -infinity()) return edge_of(copysign(0., cos(z.im)), copysign(0., sin(z.im)));
    if (z.re == infinity()) return edge_of(z.re * cos(z.im), z.re * sin(z.im));
    return turned_exp(z.re, z.im, 1);
}
INL f64 log_size(edge z) {  // log|z|
    if (is_infinite(z.re) || is_infinite(z.im)) return infinity();
    const f64 m = fmax(fabs(z.re), fabs(z.im));
    return m > 1e300 ? log(hypot(0.5 * z.re, 0.5 * z.im)) + LN2 : log(hypot(z.re, z.im));
}
EDGE edge_log(edge z) { return edge_of(log_size(z), atan2(z.im, z.re)); }
EDGE edge_sqrt(edge z) {
    if (z.re == 0 && z.im == 0) return edge_of(0, z.im);
    if (is_infinite(z.im)) return edge_of(infinity(), z.im);
    if (is_nan(z.re)) return edge_of(z.re, z.re);
    if (z.re == -infinity()) return edge_of(is_nan(z.im) ? z.im : 0, copysign(infinity(), z.im));
    if (z.re == infinity()) return edge_of(z.re, is_nan(z.im) ? z.im : copysign(0., z.im));
    if (is_nan(z.im)) return edge_of(z.im, z.im);
    const f64 large = fmax(fabs(z.re), fabs(z.im)) > 1e300 ? 0.0625 : 1, x = large * z.re, y = large * z.im;
    const f64 t = sqrt(0.5 * (fabs(x) + hypot(x, y))) * (large < 1 ? 4 : 1), o = large < 1 ? z.im / (2 * t) : y / (2 * t);
    return x >= 0 ? edge_of(t, o) : edge_of(fabs(o), copysign(t, z.im));
}
EDGE edge_sinh(edge z) {
    if (z.im == 0) return edge_of(sinh(z.re), z.im);
    if (!is_finite(z.im)) return edge_of(z.re == 0 ? z.re : is_infinite(z.re) ? infinity() : undefined(), undefined());
    if (is_nan(z.re)) return edge_of(z.re, z.re);
    if (is_infinite(z.re)) return edge_of(z.re * cos(z.im), infinity() * sin(z.im));
    if (fabs(z.re) < 700) return edge_of(sinh(z.re) * cos(z.im), cosh(z.re) * sin(z.im));
    const edge w = turned_exp(fabs(z.re), z.im, 0.5);
    return edge_of(z.re < 0 ? -w.re : w.re, w.im);
}
EDGE edge_cosh(edge z) {
    if (z.im == 0) return edge_of(cosh(z.re), is_nan(z.re) ? z.im : copysign(1., z.re) * z.im);
    if (!is_finite(z.im)) {
        if (z.re == 0) return edge_of(undefined(), z.re);
        return edge_of(is_infinite(z.re) ? infinity() : undefined(), undefined());
    }
    if (is_nan(z.re)) return edge_of(z.re, z.re);
    if (is_infinite(z.re)) return edge_of(infinity() * cos(z.im), z.re * sin(z.im));
    if (fabs(z.re) < 700) return edge_of(cosh(z.re) * cos(z.im), sinh(z.re) * sin(z.im));
    const edge w = turned_exp(fabs(z.re), z.im, 0.5);
    return edge_of(w.re, z.re < 0 ? -w.im : w.im);
}
EDGE edge_tanh(edge z) {
    if (is_infinite(z.re)) return edge_of(copysign(1., z.re), copysign(0., is_finite(z.im) ? sin(2 * z.im) : z.im));
    if (!is_finite(z.im)) return edge_of(z.re == 0 ? z.re : undefined(), undefined());
    if (is_nan(z.re)) return edge_of(z.re, z.im == 0 ? z.im : z.re);
    if (fabs(z.re) > 22) return edge_of(copysign(1., z.re), 4 * sin(z.im) * cos(z.im) * exp(-2 * fabs(z.re)));
    const f64 s = sinh(z.re), c = cos(z.im), d = s * s + c * c;
    return edge_of(s * cosh(z.re) / d, sin(z.im) * c / d);
}
EDGE edge_asinh(edge z) {
    if (is_nan(z.re) && z.im == 0) return z;
    return edge_of(copysign(log_size(z) + LN2, z.re), copysign(atan2(fabs(z.im), fabs(z.re)), z.im));
}
EDGE edge_acos(edge z) {
    if (z.re == 0 && is_nan(z.im)) return edge_of(HALF_TURN, z.im);
    return edge_of(atan2(fabs(z.im), z.re), -copysign(log_size(z) + LN2, z.im));
}
EDGE edge_atanh(edge z) {
    if (is_nan(z.im)) return edge_of(is_infinite(z.re) ? copysign(0., z.re) : z.re == 0 ? z.re : z.im, z.im);
    if (is_nan(z.re)) return is_infinite(z.im) ? edge_of(copysign(0., z.re), copysign(HALF_TURN, z.im)) : edge_of(z.re, z.re);
    if (is_infinite(z.re) || is_infinite(z.im)) return edge_of(copysign(0., z.re), copysign(HALF_TURN, z.im));
    const f64 m = fmax(fabs(z.re), fabs(z.im)), x = z.re / m, y = z.im / m, size = x * x + y * y;
    return edge_of(x / size / m, copysign(HALF_TURN, z.im) - y / size / m);
}
EDGE edge_sin(edge z) { return rotated_back(edge_sinh(rotated(z))); }
EDGE edge_cos(edge z) { return edge_cosh(rotated(z)); }
EDGE edge_tan(edge z) { return rotated_back(edge_tanh(rotated(z))); }
EDGE edge_asin(edge z) { return rotated_back(edge_asinh(rotated(z))); }
EDGE edge_atan(edge z) { return rotated_back(edge_atanh(rotated(z))); }
EDGE edge_acosh(edge z) {
    const edge w = edge_acos(z);
    return edge_of(fabs(w.im), copysign(w.re, z.im));
}
EDGE edge_exp2(edge z) { return edge_exp(edge_of(LN2 * z.re, LN2 * z.im)); }
EDGE edge_expm1(edge z) {  // NumPy's
    const f64 s = sin(0.5 * z.im);
    return edge_of(expm1(z.re) * cos(z.im) - 2 * s * s, exp(z.re) * sin(z.im));
}
EDGE edge_log1p(edge z) { return edge_of(log(hypot(z.re + 1, z.im)), atan2(z.im, z.re + 1)); }
EDGE edge_log2(edge z) {
    const edge w = edge_log(z);
    return edge_of(w.re / LN2, w.im / LN2);
}
EDGE edge_log10(edge z) {
    const edge w = edge_log(z);
    return edge_of(w.re * 0.43429448190325182765, w.im * 0.43429448190325182765);
}
INL edge product(edge a, edge b) { return edge_of(a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re); }
EDGE edge_power(edge a, edge b) {  // NumPy's npy_cpow
    if (b.re == 0 && b.im == 0) return edge_of(1, 0);
    if (a.re == 0 && a.im == 0) return b.re > 0 ? edge_of(0, 0) : edge_of(undefined(), undefined());
    if (b.im == 0 && b.re == 1) return a;
    if (b.im == 0 && b.re == 2) return product(a, a);
    if (b.im == 0 && b.re == 3) return product(a, product(a, a));
    return edge_exp(product(b, edge_log(a)));
}
#define EDGE1(name, C, T)                                                   \
    INL v##C slow_##name##_##C(v##C z) {                                    \
        const edge w = edge_##name(edge_of(z.re.x, z.im.x));                \
        return complex_##T((T)w.re, (T)w.im);                               \
    }
#define COMPLEX_LANES(C, Z, T, s)                                           \
    EDGE1(sqrt, C, T) EDGE1(exp, C, T) EDGE1(log, C, T)                     \
    EDGE1(sin, C, T) EDGE1(cos, C, T) EDGE1(tan, C, T)                      \
    EDGE1(asin, C, T) EDGE1(acos, C, T) EDGE1(atan, C, T)                   \
    EDGE1(sinh, C, T) EDGE1(cosh, C, T) EDGE1(tanh, C, T)                   \
    EDGE1(asinh, C, T) EDGE1(acosh, C, T) EDGE1(atanh, C, T)                \
    EDGE1(exp2, C, T) EDGE1(expm1, C, T) EDGE1(log1p, C, T)                 \
    EDGE1(log2, C, T) EDGE1(log10, C, T)                                    \
    INL v##C slow_power_##C(v##C a, v##C b) {                               \
        const edge w = edge_power(edge_of(a.re.x, a.im.x), edge_of(b.re.x, b.im.x)); \
        return complex_##T((T)w.re, (T)w.im);                               \
    }
