// Complex numbers: a vector of real parts and one of imaginary parts. Comes after elementary.h.
//
// c64, c128 are the numbers in memory, vc64, vc128 the vectors. Order is lexicographic, and NaN in either part counts,
// as in NumPy. Elementary functions are made of the real ones; where a lane is infinite, NaN or so large that those
// would overflow, the C library does all lanes.

typedef struct { f32 re, im; } c64;
typedef struct { f64 re, im; } c128;
#ifndef NATIVE
typedef float _Complex z64;  // as the C library takes them
typedef double _Complex z128;
#endif

#define COMPLEX(C, T, I) \
  INL C make_##C(T re, T im) { C z = {re, im}; return z; } \
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
  INL v##C square_##C(v##C z) { /* no difference of products: it cancels, and depends on how they are rounded */ \
    return complex_##T((z.re - z.im) * (z.re + z.im), z.re * z.im + z.im * z.re); } \
  INL v##C div_##C(v##C a, v##C b) { /* Smith's: divide by the larger part */ \
    v##I wide = (v##I)(abs_##T(b.re) >= abs_##T(b.im)); \
    v##T large = choose_##T(wide, b.re, b.im), small = choose_##T(wide, b.im, b.re); \
    v##T ratio = small / large, scale = (T)1 / (large + small * ratio); \
    v##T re = choose_##T(wide, a.re + a.im * ratio, a.re * ratio + a.im); \
    v##T im = choose_##T(wide, a.im - a.re * ratio, a.im * ratio - a.re); \
    v##I zero = (v##I)(b.re == zero_##T()) & (v##I)(b.im == zero_##T()); \
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
  INL vb b1_from_##C(v##C z) { return not_equal_##T(z.re, zero_##T()) | not_equal_##T(z.im, zero_##T()); } \
  INL v##C C##_from_b1(vb m) { return complex_##T(T##_from_b1(m), zero_##T()); } \
  INL v##C sign_##C(v##C z) { /* z / |z|; 0 for 0; one infinite part wins, two are undefined */ \
    v##T r = abs_##C(z), x = copysign_##T(splat_##T(1), z.re), y = copysign_##T(splat_##T(1), z.im), zero = {}; \
    v##I re_inf = (v##I)(abs_##T(z.re) == splat_##T(INFINITE(T))), im_inf = (v##I)(abs_##T(z.im) == splat_##T(INFINITE(T))); \
    v##I none = (v##I)(r == zero), both = re_inf & im_inf, one = re_inf ^ im_inf; \
    v##T re = choose_##T(one, choose_##T(re_inf, x, zero), choose_##T(none, zero, z.re / r)); \
    v##T im = choose_##T(one, choose_##T(im_inf, y, zero), choose_##T(none, zero, z.im / r)); \
    v##T undefined = splat_##T(UNDEFINED(T)); \
    v##I bad = both | (v##I)(r != r); \
    return complex_##T(choose_##T(bad, undefined, re), choose_##T(bad, undefined, im)); }

#ifndef NATIVE  // CUDA's are in complex_edges.cuh
#define COMPLEX_LANE1(name, C, Z, f) INL v##C slow_##name##_##C(v##C z) { \
    C t[V]; v##C r = z; \
    LANES { Z w = z.re[l]; __imag__ w = z.im[l]; w = f(w); t[l].re = __real__ w; t[l].im = __imag__ w; } \
    LANES { r.re[l] = t[l].re; r.im[l] = t[l].im; } \
    return r; }
#define COMPLEX_LANES(C, Z, T, s) \
  INL Z library_##C(T re, T im) { Z w = re; __imag__ w = im; return w; } \
  INL Z scale_##C(Z z, T by) { return library_##C(__real__ z * by, __imag__ z * by); } \
  INL Z exp2_one_##C(Z z) { return __builtin_cexp##s(scale_##C(z, (T)0.69314718055994530942)); } \
  INL Z expm1_one_##C(Z z) { /* NumPy's */ \
    T a = __builtin_sin##s(__imag__ z / 2); \
    return library_##C(__builtin_expm1##s(__real__ z) * __builtin_cos##s(__imag__ z) - 2 * a * a, \
                    __builtin_exp##s(__real__ z) * __builtin_sin##s(__imag__ z)); } \
  INL Z log1p_one_##C(Z z) { \
    T r = __builtin_hypot##s(__real__ z + 1, __imag__ z); \
    return library_##C(__builtin_log##s(r), __builtin_atan2##s(__imag__ z, __real__ z + 1)); } \
  INL Z log2_one_##C(Z z) { return scale_##C(__builtin_clog##s(z), (T)1.44269504088896340736); } \
  INL Z log10_one_##C(Z z) { return scale_##C(__builtin_clog##s(z), (T)0.43429448190325182765); } \
  INL Z times_##C(Z a, Z b) { \
    T x = __real__ a, y = __imag__ a, u = __real__ b, v = __imag__ b; \
    return library_##C(x * u - y * v, x * v + y * u); } \
  INL Z power_one_##C(Z a, Z b) { /* NumPy's npy_cpow */ \
    T u = __real__ b, v = __imag__ b; \
    if (u == 0 && v == 0) return 1; \
    if (__real__ a == 0 && __imag__ a == 0) \
      return u > 0 ? library_##C(0, 0) : library_##C(UNDEFINED(T), UNDEFINED(T)); \
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
  INL v##C slow_power_##C(v##C a, v##C b) { \
    v##C r = a; \
    LANES { Z w = power_one_##C(library_##C(a.re[l], a.im[l]), library_##C(b.re[l], b.im[l])); \
      r.re[l] = __real__ w; r.im[l] = __imag__ w; } \
    return r; }

#endif

// The complex functions of finite numbers; `steep` bounds |x| where e^x and its square root's square are finite, `wide`
// where sums and products are. asin, acos and acosh are Kahan's, by the roots of 1 - z and 1 + z.
#define COMPLEX_FUNCTIONS(C, T, I, steep, far, wide, small, up, root_up) \
  INL int beyond_##C(v##C z, T x, T y) { return any_not_le_##T(abs_##T(z.re), splat_##T(x)) || any_not_le_##T(abs_##T(z.im), splat_##T(y)); } \
  INL v##C choose_##C(v##I m, v##C a, v##C b) { return complex_##T(choose_##T(m, a.re, b.re), choose_##T(m, a.im, b.im)); } \
  INL v##C times_i_##C(v##C z) { return complex_##T(-z.im, z.re); } \
  INL v##C over_i_##C(v##C z) { return complex_##T(z.im, -z.re); } \
  INL v##C root_##C(v##C z) { /* the larger part by a sum of positive numbers, the other from it */ \
    v##T zero = {}, m = greater_of_##T(abs_##T(z.re), abs_##T(z.im)), one = splat_##T(1); \
    v##I large = (v##I)(m > (T)(wide)), little = (v##I)(m < (T)(small)); \
    v##T s = choose_##T(large, splat_##T((T)0.0625), choose_##T(little, splat_##T((T)(up)), one)); \
    v##T back = choose_##T(large, splat_##T(4), choose_##T(little, splat_##T((T)1 / (T)(root_up)), one)); \
    v##T x = z.re * s, y = z.im * s, t = sqrt_##T((T)0.5 * (abs_##T(x) + hypot_##T(x, y))); \
    v##T o = choose_##T((v##I)(t == zero), y, y / (t + t)); \
    v##I right = (v##I)(x >= zero); \
    return complex_##T(choose_##T(right, t, abs_##T(o)) * back, choose_##T(right, o, copysign_##T(t, y)) * back); } \
  INL v##T log_abs_##C(v##C z, v##T h) { /* log|z|, from h = |z|^2 - 1 where that is small */ \
    v##I near = (v##I)(abs_##T(h) < (T)0.5); \
    v##T y = log_##T(choose_##T(near, splat_##T(1), hypot_##T(z.re, z.im))); \
    return choose_##T(near, (T)0.5 * log1p_##T(choose_##T(near, h, zero_##T())), y); } \
  INL v##C tanh_parts_##C(v##T x, v##T y) { \
    v##T c, ch, s = sin_cos_##T(y, &c), sh = sinh_cosh_##T(x, &ch), d = sh * sh + c * c; \
    return complex_##T(sh * ch / d, s * c / d); } \
  INL v##C asin_parts_##C(v##C z) { \
    v##C a = root_##C(complex_##T((T)1 - z.re, -z.im)), b = root_##C(complex_##T((T)1 + z.re, z.im)); \
    return complex_##T(atan2_##T(z.re, a.re * b.re - a.im * b.im), asinh_##T(a.re * b.im - a.im * b.re)); } \
  INL v##C atanh_parts_##C(v##C z) { \
    v##T a = abs_##T(z.re), d = (T)1 - a; \
    v##T x = (T)0.25 * log1p_##T((T)4 * a / (d * d + z.im * z.im)); \
    return complex_##T(copysign_##T(x, z.re), (T)0.5 * atan2_##T((T)2 * z.im, d * ((T)1 + a) - z.im * z.im)); } \
  LONG v##C sqrt_##C(v##C z) { return beyond_##C(z, (T)(wide) * 8, (T)(wide) * 8) ? slow_sqrt_##C(z) : root_##C(z); } \
  INL v##C exp_##C(v##C z) { \
    const int phase = !any_not_le_##T(abs_##T(z.re), zero_##T()); /* waves: no real part */ \
    if (any_not_le_##T(abs_##T(z.im), splat_##T((T)(far))) || (!phase && any_not_le_##T(abs_##T(z.re), splat_##T((T)(steep))))) \
      return slow_exp_##C(z); \
    v##T c, s = sin_cos_##T(z.im, &c); \
    if (phase) return complex_##T(c, s); \
    v##T e = exp_##T(z.re); \
    return complex_##T(e * c, e * s); } \
  LONG v##C exp2_##C(v##C z) { \
    if (beyond_##C(z, steep, far)) return slow_exp2_##C(z); \
    v##T c, s = sin_cos_##T(z.im * (T)0.69314718055994530942, &c), e = exp2_##T(z.re); \
    return complex_##T(e * c, e * s); } \
  LONG v##C expm1_##C(v##C z) { /* NumPy's */ \
    if (beyond_##C(z, steep, far)) return slow_expm1_##C(z); \
    v##T c, d, s = sin_cos_##T(z.im, &c), h = sin_cos_##T((T)0.5 * z.im, &d), e = expm1_##T(z.re); \
    return complex_##T(e * c - (T)2 * h * h, exp_##T(z.re) * s); } \
  LONG v##C log_##C(v##C z) { \
    if (beyond_##C(z, wide, wide)) return slow_log_##C(z); \
    v##T x = abs_##T(z.re), y = abs_##T(z.im), a = greater_of_##T(x, y), b = lesser_of_##T(x, y); \
    return complex_##T(log_abs_##C(z, (a - (T)1) * (a + (T)1) + b * b), atan2_##T(z.im, z.re)); } \
  LONG v##C log1p_##C(v##C z) { \
    if (beyond_##C(z, wide, wide)) return slow_log1p_##C(z); \
    v##C w = complex_##T(z.re + (T)1, z.im); \
    return complex_##T(log_abs_##C(w, z.re * (z.re + (T)2) + z.im * z.im), atan2_##T(w.im, w.re)); } \
  LONG v##C log2_##C(v##C z) { \
    v##C w = log_##C(z); return complex_##T(w.re * (T)1.44269504088896340736, w.im * (T)1.44269504088896340736); } \
  LONG v##C log10_##C(v##C z) { \
    v##C w = log_##C(z); return complex_##T(w.re * (T)0.43429448190325182765, w.im * (T)0.43429448190325182765); } \
  LONG v##C sinh_##C(v##C z) { \
    if (beyond_##C(z, steep, far)) return slow_sinh_##C(z); \
    v##T c, ch, s = sin_cos_##T(z.im, &c), sh = sinh_cosh_##T(z.re, &ch); \
    return complex_##T(sh * c, ch * s); } \
  LONG v##C cosh_##C(v##C z) { \
    if (beyond_##C(z, steep, far)) return slow_cosh_##C(z); \
    v##T c, ch, s = sin_cos_##T(z.im, &c), sh = sinh_cosh_##T(z.re, &ch); \
    return complex_##T(ch * c, sh * s); } \
  LONG v##C tanh_##C(v##C z) { \
    return beyond_##C(z, (T)0.5 * (steep), far) ? slow_tanh_##C(z) : tanh_parts_##C(z.re, z.im); } \
  LONG v##C sin_##C(v##C z) { \
    if (beyond_##C(z, far, steep)) return slow_sin_##C(z); \
    v##T c, ch, s = sin_cos_##T(z.re, &c), sh = sinh_cosh_##T(z.im, &ch); \
    return complex_##T(s * ch, c * sh); } \
  LONG v##C cos_##C(v##C z) { \
    if (beyond_##C(z, far, steep)) return slow_cos_##C(z); \
    v##T c, ch, s = sin_cos_##T(z.re, &c), sh = sinh_cosh_##T(z.im, &ch); \
    return complex_##T(c * ch, -(s * sh)); } \
  LONG v##C tan_##C(v##C z) { \
    return beyond_##C(z, far, (T)0.5 * (steep)) ? slow_tan_##C(z) : over_i_##C(tanh_parts_##C(-z.im, z.re)); } \
  LONG v##C asin_##C(v##C z) { return beyond_##C(z, wide, wide) ? slow_asin_##C(z) : asin_parts_##C(z); } \
  LONG v##C asinh_##C(v##C z) { return beyond_##C(z, wide, wide) ? slow_asinh_##C(z) : over_i_##C(asin_parts_##C(times_i_##C(z))); } \
  LONG v##C acos_##C(v##C z) { \
    if (beyond_##C(z, wide, wide)) return slow_acos_##C(z); \
    v##C a = root_##C(complex_##T((T)1 - z.re, -z.im)), b = root_##C(complex_##T((T)1 + z.re, z.im)); \
    return complex_##T((T)2 * atan2_##T(a.re, b.re), asinh_##T(b.re * a.im - b.im * a.re)); } \
  LONG v##C acosh_##C(v##C z) { \
    if (beyond_##C(z, wide, wide)) return slow_acosh_##C(z); \
    v##C a = root_##C(complex_##T(z.re - (T)1, z.im)), b = root_##C(complex_##T(z.re + (T)1, z.im)); \
    return complex_##T(asinh_##T(a.re * b.re + a.im * b.im), (T)2 * atan2_##T(a.im, b.re)); } \
  LONG v##C atanh_##C(v##C z) { return beyond_##C(z, (T)1e9, (T)1e9) ? slow_atanh_##C(z) : atanh_parts_##C(z); } \
  LONG v##C atan_##C(v##C z) { \
    return beyond_##C(z, (T)1e9, (T)1e9) ? slow_atan_##C(z) : over_i_##C(atanh_parts_##C(times_i_##C(z))); } \
  LONG v##C power_##C(v##C a, v##C b) { /* as NumPy's npy_cpow: powers of 0, 0, 1, 2 and 3 apart */ \
    v##T zero = {}, one = splat_##T(1), undefined = splat_##T(UNDEFINED(T)); \
    v##I nought = (v##I)(a.re == zero) & (v##I)(a.im == zero), real = (v##I)(b.im == zero); \
    v##C base = choose_##C(nought, complex_##T(one, zero), a); \
    if (beyond_##C(a, wide, wide) || beyond_##C(b, wide, wide)) return slow_power_##C(a, b); \
    v##C w = mul_##C(b, log_##C(base)), square = square_##C(a); \
    if (beyond_##C(w, steep, far)) return slow_power_##C(a, b); \
    v##C r = exp_##C(w); \
    v##T none = choose_##T((v##I)(b.re > zero), zero, undefined); \
    r = choose_##C(nought, complex_##T(none, none), r); \
    r = choose_##C(real & (v##I)(b.re == (T)1) & ~nought, a, r); \
    r = choose_##C(real & (v##I)(b.re == (T)2) & ~nought, square, r); \
    r = choose_##C(real & (v##I)(b.re == (T)3) & ~nought, mul_##C(a, square), r); \
    return choose_##C(real & (v##I)(b.re == zero), complex_##T(one, zero), r); } \
  INL v##C rsqrt_##C(v##C z) { return div_##C(complex_##T(splat_##T(1), zero_##T()), sqrt_##C(z)); } \
  LONG v##C sinc_##C(v##C z) { \
    v##T pi = splat_##T((T)3.14159265358979323846); v##C w = complex_##T(z.re * pi, z.im * pi); \
    return where_##C(b1_from_##C(z), div_##C(sin_##C(w), w), complex_##T(splat_##T(1), zero_##T())); }

#define REAL_OF_C64(T, I, U, _) \
  INL v##T T##_from_c64(vc64 z) { return __builtin_convertvector(z.re, v##T); } \
  INL vc64 c64_from_##T(v##T a) { return complex_f32(__builtin_convertvector(a, vf32), zero_f32()); }
#define REAL_OF_C128(T, I, U, _) \
  INL v##T T##_from_c128(vc128 z) { return __builtin_convertvector(z.re, v##T); } \
  INL vc128 c128_from_##T(v##T a) { return complex_f64(__builtin_convertvector(a, vf64), zero_f64()); }

#if VB / V >= 4
COMPLEX(c64, f32, i32)
COMPLEX_LANES(c64, z64, f32, f)
COMPLEX_FUNCTIONS(c64, f32, i32, 80, 6000, 0x1p120f, 0x1p-90f, 0x1p60f, 0x1p30f)
EACH(REAL_OF_C64, )
INL vc64 c64_from_c64(vc64 z) { return z; }
#endif
#if VB / V >= 8
COMPLEX(c128, f64, i64)
COMPLEX_LANES(c128, z128, f64, )
COMPLEX_FUNCTIONS(c128, f64, i64, 700, 500000, 0x1p1000, 0x1p-900, 0x1p400, 0x1p200)
EACH(REAL_OF_C128, )
INL vc128 c128_from_c128(vc128 z) { return z; }
INL vc128 c128_from_c64(vc64 z) { return complex_f64(f64_from_f32(z.re), f64_from_f32(z.im)); }
INL vc64 c64_from_c128(vc128 z) { return complex_f32(f32_from_f64(z.re), f32_from_f64(z.im)); }
#endif
