// Complex numbers: a vector of real parts and one of imaginary parts. Comes after vector.h.
//
// c64, c128 are the numbers in memory, vc64, vc128 the vectors. Order is lexicographic, and NaN in either part counts,
// as in NumPy. Elementary functions are the C library's, lane by lane, but for those that C99 has no name for.

typedef struct { f32 re, im; } c64;
typedef struct { f64 re, im; } c128;
typedef float _Complex z64;  // as the C library takes them
typedef double _Complex z128;

#define COMPLEX(C, T, I) \
  typedef struct { v##T re, im; } v##C; \
  INL v##C complex_##T(v##T re, v##T im) { v##C r = {re, im}; return r; } \
  INL v##C splat_##C(C z) { return complex_##T(splat_##T(z.re), splat_##T(z.im)); } \
  INL v##T real_##C(v##C z) { return z.re; } \
  INL v##T imag_##C(v##C z) { return z.im; } \
  INL v##C conj_##C(v##C z) { return complex_##T(z.re, -z.im); } \
  INL v##C neg_##C(v##C z) { return complex_##T(-z.re, -z.im); } \
  INL v##C add_##C(v##C a, v##C b) { return complex_##T(a.re + b.re, a.im + b.im); } \
  INL v##C sub_##C(v##C a, v##C b) { return complex_##T(a.re - b.re, a.im - b.im); } \
  INL v##C mul_##C(v##C a, v##C b) { return complex_##T(a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re); } \
  INL v##C div_##C(v##C a, v##C b) { /* Smith's: divide by the larger part */ \
    v##I wide = (v##I)(abs_##T(b.re) >= abs_##T(b.im)); \
    v##T large = choose_##T(wide, b.re, b.im), small = choose_##T(wide, b.im, b.re); \
    v##T ratio = small / large, scale = (T)1 / (large + small * ratio); \
    v##T re = choose_##T(wide, a.re + a.im * ratio, a.re * ratio + a.im); \
    v##T im = choose_##T(wide, a.im - a.re * ratio, a.im * ratio - a.re); \
    v##I zero = (v##I)(b.re == (v##T){}) & (v##I)(b.im == (v##T){}); \
    return complex_##T(choose_##T(zero, a.re / abs_##T(b.re), re * scale), choose_##T(zero, a.im / abs_##T(b.re), im * scale)); } \
  INL vb equal_##C(v##C a, v##C b) { return equal_##T(a.re, b.re) & equal_##T(a.im, b.im); } \
  INL vb not_equal_##C(v##C a, v##C b) { return ~equal_##C(a, b); } \
  INL vb isnan_##C(v##C z) { return isnan_##T(z.re) | isnan_##T(z.im); } \
  INL vb isinf_##C(v##C z) { return isinf_##T(z.re) | isinf_##T(z.im); } \
  INL vb isfinite_##C(v##C z) { return isfinite_##T(z.re) & isfinite_##T(z.im); } \
  INL vb less_##C(v##C a, v##C b) { \
    return (less_##T(a.re, b.re) & ~isnan_##T(a.im) & ~isnan_##T(b.im)) | (equal_##T(a.re, b.re) & less_##T(a.im, b.im)); } \
  INL vb less_equal_##C(v##C a, v##C b) { \
    return (less_##T(a.re, b.re) & ~isnan_##T(a.im) & ~isnan_##T(b.im)) | (equal_##T(a.re, b.re) & less_equal_##T(a.im, b.im)); } \
  INL vb greater_##C(v##C a, v##C b) { return less_##C(b, a); } \
  INL vb greater_equal_##C(v##C a, v##C b) { return less_equal_##C(b, a); } \
  INL v##C where_##C(vb c, v##C a, v##C b) { return complex_##T(where_##T(c, a.re, b.re), where_##T(c, a.im, b.im)); } \
  INL v##C maximum_##C(v##C a, v##C b) { return where_##C(greater_equal_##C(a, b) | isnan_##C(a), a, b); } \
  INL v##C minimum_##C(v##C a, v##C b) { return where_##C(less_equal_##C(a, b) | isnan_##C(a), a, b); } \
  INL v##C fmax_##C(v##C a, v##C b) { return where_##C(greater_equal_##C(a, b) | isnan_##C(b), a, b); } \
  INL v##C fmin_##C(v##C a, v##C b) { return where_##C(less_equal_##C(a, b) | isnan_##C(b), a, b); } \
  INL v##C clamp_min_##C(v##C x, v##C a) { return maximum_##C(x, a); } \
  INL v##C clamp_max_##C(v##C x, v##C b) { return minimum_##C(x, b); } \
  INL v##C clip_##C(v##C x, v##C a, v##C b) { return minimum_##C(maximum_##C(x, a), b); } \
  INL v##C rint_##C(v##C z) { return complex_##T(rint_##T(z.re), rint_##T(z.im)); } \
  INL v##T abs_##C(v##C z) { return hypot_##T(z.re, z.im); } \
  INL v##T angle_##C(v##C z) { return atan2_##T(z.im, z.re); } \
  INL v##C load_lanes_##C(const void *base, long long stride, int n) { \
    return complex_##T(load_lanes_##T(base, stride, n), load_lanes_##T((const char *)base + sizeof(T), stride, n)); } \
  INL void store_lanes_##C(void *base, long long stride, int n, v##C z) { \
    for (int l = 0; l < n && l < V; ++l) { C s = {z.re[l], z.im[l]}; __builtin_memcpy((char *)base + l * stride, &s, sizeof s); } } \
  INL C load_##C(const void *p) { C z; __builtin_memcpy(&z, p, sizeof z); return z; } \
  INL void store_##C(void *p, C z) { __builtin_memcpy(p, &z, sizeof z); } \
  INL vb b1_from_##C(v##C z) { return not_equal_##T(z.re, (v##T){}) | not_equal_##T(z.im, (v##T){}); } \
  INL v##C C##_from_b1(vb m) { return complex_##T(T##_from_b1(m), (v##T){}); } \
  INL v##C sign_##C(v##C z) { /* z / |z|; 0 for 0; one infinite part wins, two are undefined */ \
    v##T r = abs_##C(z), x = copysign_##T(splat_##T(1), z.re), y = copysign_##T(splat_##T(1), z.im), zero = {}; \
    v##I re_inf = (v##I)(abs_##T(z.re) == splat_##T(INFINITE(T))), im_inf = (v##I)(abs_##T(z.im) == splat_##T(INFINITE(T))); \
    v##I none = (v##I)(r == zero), both = re_inf & im_inf, one = re_inf ^ im_inf; \
    v##T re = choose_##T(one, choose_##T(re_inf, x, zero), choose_##T(none, zero, z.re / r)); \
    v##T im = choose_##T(one, choose_##T(im_inf, y, zero), choose_##T(none, zero, z.im / r)); \
    v##T undefined = splat_##T(UNDEFINED(T)); \
    v##I bad = both | (v##I)(r != r); \
    return complex_##T(choose_##T(bad, undefined, re), choose_##T(bad, undefined, im)); }

#define COMPLEX_LANE1(name, C, Z, f) INL v##C name##_##C(v##C z) { \
    C t[V]; v##C r = z; \
    LANES { Z w = z.re[l]; __imag__ w = z.im[l]; w = f(w); t[l].re = __real__ w; t[l].im = __imag__ w; } \
    LANES { r.re[l] = t[l].re; r.im[l] = t[l].im; } \
    return r; }
#define COMPLEX_LANES(C, Z, T, s) \
  INL Z make_##C(T re, T im) { Z w = re; __imag__ w = im; return w; } \
  INL Z scale_##C(Z z, T by) { return make_##C(__real__ z * by, __imag__ z * by); } \
  INL Z exp2_one_##C(Z z) { return __builtin_cexp##s(scale_##C(z, (T)0.69314718055994530942)); } \
  INL Z expm1_one_##C(Z z) { /* NumPy's */ \
    T a = __builtin_sin##s(__imag__ z / 2); \
    return make_##C(__builtin_expm1##s(__real__ z) * __builtin_cos##s(__imag__ z) - 2 * a * a, \
                    __builtin_exp##s(__real__ z) * __builtin_sin##s(__imag__ z)); } \
  INL Z log1p_one_##C(Z z) { \
    T r = __builtin_hypot##s(__real__ z + 1, __imag__ z); \
    return make_##C(__builtin_log##s(r), __builtin_atan2##s(__imag__ z, __real__ z + 1)); } \
  INL Z log2_one_##C(Z z) { return scale_##C(__builtin_clog##s(z), (T)1.44269504088896340736); } \
  INL Z log10_one_##C(Z z) { return scale_##C(__builtin_clog##s(z), (T)0.43429448190325182765); } \
  INL Z times_##C(Z a, Z b) { \
    T x = __real__ a, y = __imag__ a, u = __real__ b, v = __imag__ b; \
    return make_##C(x * u - y * v, x * v + y * u); } \
  INL Z power_one_##C(Z a, Z b) { /* NumPy's npy_cpow */ \
    T u = __real__ b, v = __imag__ b; \
    if (u == 0 && v == 0) return 1; \
    if (__real__ a == 0 && __imag__ a == 0) \
      return u > 0 ? make_##C(0, 0) : make_##C(UNDEFINED(T), UNDEFINED(T)); \
    if (v == 0 && u == 1) return a; \
    if (v == 0 && u == 2) return times_##C(a, a); \
    if (v == 0 && u == 3) return times_##C(a, times_##C(a, a)); \
    return __builtin_cpow##s(a, b); } \
  COMPLEX_LANE1(sqrt, C, Z, __builtin_csqrt##s) COMPLEX_LANE1(exp, C, Z, __builtin_cexp##s) COMPLEX_LANE1(log, C, Z, __builtin_clog##s) \
  COMPLEX_LANE1(sin, C, Z, __builtin_csin##s) COMPLEX_LANE1(cos, C, Z, __builtin_ccos##s) COMPLEX_LANE1(tan, C, Z, __builtin_ctan##s) \
  COMPLEX_LANE1(asin, C, Z, __builtin_casin##s) COMPLEX_LANE1(acos, C, Z, __builtin_cacos##s) COMPLEX_LANE1(atan, C, Z, __builtin_catan##s) \
  COMPLEX_LANE1(sinh, C, Z, __builtin_csinh##s) COMPLEX_LANE1(cosh, C, Z, __builtin_ccosh##s) COMPLEX_LANE1(tanh, C, Z, __builtin_ctanh##s) \
  COMPLEX_LANE1(asinh, C, Z, __builtin_casinh##s) COMPLEX_LANE1(acosh, C, Z, __builtin_cacosh##s) COMPLEX_LANE1(atanh, C, Z, __builtin_catanh##s) \
  COMPLEX_LANE1(exp2, C, Z, exp2_one_##C) COMPLEX_LANE1(expm1, C, Z, expm1_one_##C) COMPLEX_LANE1(log1p, C, Z, log1p_one_##C) \
  COMPLEX_LANE1(log2, C, Z, log2_one_##C) COMPLEX_LANE1(log10, C, Z, log10_one_##C) \
  INL v##C power_##C(v##C a, v##C b) { \
    v##C r = a; \
    LANES { Z w = power_one_##C(make_##C(a.re[l], a.im[l]), make_##C(b.re[l], b.im[l])); \
      r.re[l] = __real__ w; r.im[l] = __imag__ w; } \
    return r; } \
  INL v##C rsqrt_##C(v##C z) { return div_##C(complex_##T(splat_##T(1), (v##T){}), sqrt_##C(z)); } \
  INL v##C sinc_##C(v##C z) { \
    v##T pi = splat_##T((T)3.14159265358979323846); v##C w = complex_##T(z.re * pi, z.im * pi); \
    return where_##C(b1_from_##C(z), div_##C(sin_##C(w), w), complex_##T(splat_##T(1), (v##T){})); }

#define REAL_OF_C64(T, I, U, _) \
  INL v##T T##_from_c64(vc64 z) { return __builtin_convertvector(z.re, v##T); } \
  INL vc64 c64_from_##T(v##T a) { return complex_f32(__builtin_convertvector(a, vf32), (vf32){}); }
#define REAL_OF_C128(T, I, U, _) \
  INL v##T T##_from_c128(vc128 z) { return __builtin_convertvector(z.re, v##T); } \
  INL vc128 c128_from_##T(v##T a) { return complex_f64(__builtin_convertvector(a, vf64), (vf64){}); }

#if VB / V >= 4
COMPLEX(c64, f32, i32)
COMPLEX_LANES(c64, z64, f32, f)
EACH(REAL_OF_C64, )
INL vc64 c64_from_c64(vc64 z) { return z; }
#endif
#if VB / V >= 8
COMPLEX(c128, f64, i64)
COMPLEX_LANES(c128, z128, f64, )
EACH(REAL_OF_C128, )
INL vc128 c128_from_c128(vc128 z) { return z; }
INL vc128 c128_from_c64(vc64 z) { return complex_f64(f64_from_f32(z.re), f64_from_f32(z.im)); }
INL vc64 c64_from_c128(vc128 z) { return complex_f32(f32_from_f64(z.re), f32_from_f64(z.im)); }
#endif
