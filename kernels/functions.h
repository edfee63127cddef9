// The elementwise functions of numbers, one definition for C and CUDA. Comes after vector.h or lane.cuh, which define the
// types v<type> and what differs: choose, sqrt, rint, floor, ceil, trunc, greater_of, lesser_of, conversions and memory.

// -- truth ------------------------------------------------------------------------------------------------------------

INL vb logical_and_b1(vb a, vb b) { return a & b; }
INL vb logical_or_b1(vb a, vb b) { return a | b; }
INL vb logical_xor_b1(vb a, vb b) { return a ^ b; }
INL vb logical_not_b1(vb a) { return ~a; }
INL vb bitwise_and_b1(vb a, vb b) { return a & b; }
INL vb bitwise_or_b1(vb a, vb b) { return a | b; }
INL vb bitwise_xor_b1(vb a, vb b) { return a ^ b; }
INL vb bitwise_invert_b1(vb a) { return ~a; }
INL vb equal_b1(vb a, vb b) { return ~(a ^ b); }
INL vb not_equal_b1(vb a, vb b) { return a ^ b; }
INL vb less_b1(vb a, vb b) { return ~a & b; }
INL vb less_equal_b1(vb a, vb b) { return ~a | b; }
INL vb greater_b1(vb a, vb b) { return a & ~b; }
INL vb greater_equal_b1(vb a, vb b) { return a | ~b; }
INL vb maximum_b1(vb a, vb b) { return a | b; }
INL vb minimum_b1(vb a, vb b) { return a & b; }
INL vb fmax_b1(vb a, vb b) { return a | b; }
INL vb fmin_b1(vb a, vb b) { return a & b; }
INL vb clamp_min_b1(vb x, vb a) { return x | a; }
INL vb clamp_max_b1(vb x, vb b) { return x & b; }
INL vb clip_b1(vb x, vb a, vb b) { return (x | a) & b; }
INL vb hardtanh_b1(vb x, vb a, vb b) { return (x | a) & b; }
INL vb where_b1(vb c, vb a, vb b) { return (a & c) | (b & ~c); }
INL vb abs_b1(vb a) { return a; }
INL vb floor_b1(vb a) { return a; }
INL vb ceil_b1(vb a) { return a; }
INL vb trunc_b1(vb a) { return a; }
INL vb real_b1(vb a) { return a; }
INL vb imag_b1(vb a) { return a ^ a; }
INL vb isnan_b1(vb a) { return a ^ a; }
INL vb isinf_b1(vb a) { return a ^ a; }
INL vb isfinite_b1(vb a) { return ~(a ^ a); }

// -- comparisons, choices and extremes, for all numbers ---------------------------------------------------------------

#define COMPARE(T, I, U, _) \
  INL vb equal_##T(v##T a, v##T b) { return __builtin_convertvector(a == b, vb); } \
  INL vb not_equal_##T(v##T a, v##T b) { return __builtin_convertvector(a != b, vb); } \
  INL vb less_##T(v##T a, v##T b) { return __builtin_convertvector(a < b, vb); } \
  INL vb less_equal_##T(v##T a, v##T b) { return __builtin_convertvector(a <= b, vb); } \
  INL vb greater_##T(v##T a, v##T b) { return __builtin_convertvector(a > b, vb); } \
  INL vb greater_equal_##T(v##T a, v##T b) { return __builtin_convertvector(a >= b, vb); } \
  INL v##T where_##T(vb c, v##T a, v##T b) { return choose_##T(__builtin_convertvector(c, v##I), a, b); }
EACH(COMPARE, )

#define EXTREMES_INT(T, I, U, _) \
  INL v##T maximum_##T(v##T a, v##T b) { return choose_##T((v##I)(a > b), a, b); } \
  INL v##T minimum_##T(v##T a, v##T b) { return choose_##T((v##I)(a < b), a, b); } \
  INL v##T fmax_##T(v##T a, v##T b) { return maximum_##T(a, b); } \
  INL v##T fmin_##T(v##T a, v##T b) { return minimum_##T(a, b); }
// maximum keeps NaN, fmax drops it
#define EXTREMES_FLOAT(T, I, U, _) \
  INL v##T maximum_##T(v##T a, v##T b) { return choose_##T((v##I)(a != a), a, greater_of_##T(a, b)); } \
  INL v##T minimum_##T(v##T a, v##T b) { return choose_##T((v##I)(a != a), a, lesser_of_##T(a, b)); } \
  INL v##T fmax_##T(v##T a, v##T b) { return choose_##T((v##I)(b != b), a, greater_of_##T(a, b)); } \
  INL v##T fmin_##T(v##T a, v##T b) { return choose_##T((v##I)(b != b), a, lesser_of_##T(a, b)); }
#define BOUNDS(T, I, U, _) \
  INL v##T clamp_min_##T(v##T x, v##T a) { return maximum_##T(x, a); } \
  INL v##T clamp_max_##T(v##T x, v##T b) { return minimum_##T(x, b); } \
  INL v##T clip_##T(v##T x, v##T a, v##T b) { return minimum_##T(maximum_##T(x, a), b); } \
  INL v##T hardtanh_##T(v##T x, v##T a, v##T b) { return minimum_##T(maximum_##T(x, a), b); } \
  INL v##T relu_##T(v##T x) { return choose_##T((v##I)(x < zero_##T()), zero_##T(), x); } \
  INL v##T at_most_zero_##T(v##T x) { return choose_##T((v##I)(x > zero_##T()), zero_##T(), x); } \
  INL v##T step_##T(v##T x) { return choose_##T((v##I)(x <= zero_##T()), zero_##T(), splat_##T(1)); } \
  INL v##T real_##T(v##T x) { return x; } \
  INL v##T conj_##T(v##T x) { return x; } \
  INL v##T imag_##T(v##T x) { (void)x; return zero_##T(); }
EACH_INT(EXTREMES_INT, )
#ifndef NATIVE
EACH_FLOAT(EXTREMES_FLOAT, )
#endif
EACH(BOUNDS, )

// -- integers ---------------------------------------------------------------------------------------------------------

#define SIGNED(T) ((T)-1 < (T)1)
#define LEAST(T) ((T)((u64)1 << (sizeof(T) * 8 - 1)))
// Division has no vector instruction, so the scalar functions come first. x // 0, x % 0 and fmod(x, 0) are 0.
#define INTEGER(T, I, U, _) \
  INL T floor_divide_one_##T(T x, T y) { \
    if (y == 0) return 0; \
    if (SIGNED(T) && y == (T)-1) return (T)(0 - (U)x); \
    T q = (T)(x / y); \
    return (T)(q - (SIGNED(T) && (x % y != 0) && ((x < 0) != (y < 0)))); } \
  INL T remainder_one_##T(T x, T y) { \
    if (y == 0 || (SIGNED(T) && y == (T)-1)) return 0; \
    T r = (T)(x % y); \
    return (T)(SIGNED(T) && r != 0 && ((r < 0) != (y < 0)) ? r + y : r); } \
  INL T fmod_one_##T(T x, T y) { return y == 0 || (SIGNED(T) && y == (T)-1) ? 0 : (T)(x % y); } \
  INL T power_one_##T(T x, T y) { \
    U p = 1, b = (U)x; \
    if (SIGNED(T) && y < 0) return x == 1 ? 1 : SIGNED(T) && x == (T)-1 ? (y & 1 ? x : 1) : 0; \
    for (U n = (U)y; n; n = (U)(n >> 1)) { if (n & 1) p = (U)((u64)p * b); b = (U)((u64)b * b); } \
    return (T)p; } \
  INL T left_shift_one_##T(T x, T y) { return (U)y < sizeof(T) * 8 ? (T)((U)x << y) : 0; } \
  INL T right_shift_one_##T(T x, T y) { return (U)y < sizeof(T) * 8 ? (T)(x >> y) : x < 0 ? (T)-1 : 0; } \
  INL T reciprocal_one_##T(T x) { \
    return x == 1 || (SIGNED(T) && x == (T)-1) ? x : x == 0 && SIGNED(T) && sizeof(T) >= 4 ? LEAST(T) : 0; } \
  INL U size_one_##T(T x) { return SIGNED(T) && x < 0 ? (U)(0 - (U)x) : (U)x; } \
  INL U gcd_one_##T(T x, T y) { \
    U a = size_one_##T(x), b = size_one_##T(y); \
    while (b) { U r = (U)(a % b); a = b; b = r; } \
    return a; } \
  INL T lcm_one_##T(T x, T y) { \
    U g = gcd_one_##T(x, y); \
    return g ? (T)((u64)(size_one_##T(x) / g) * size_one_##T(y)) : 0; } \
  INL T bitwise_count_one_##T(T x) { return (T)__builtin_popcountll(size_one_##T(x)); } \
  LANE1(bits, T, bitwise_count_one_##T) \
  INL vu8 bitwise_count_##T(v##T a) { return __builtin_convertvector(bits_##T(a), vu8); } \
  LANE2(gcd, T, gcd_one_##T) LANE2(lcm, T, lcm_one_##T) \
  LANE2(floor_divide, T, floor_divide_one_##T) LANE2(remainder, T, remainder_one_##T) LANE2(fmod, T, fmod_one_##T) \
  LANE2(power, T, power_one_##T) LANE2(bitwise_left_shift, T, left_shift_one_##T) \
  LANE2(bitwise_right_shift, T, right_shift_one_##T) LANE1(integer_reciprocal, T, reciprocal_one_##T) \
  INL v##T bitwise_and_##T(v##T a, v##T b) { return a & b; } \
  INL v##T bitwise_or_##T(v##T a, v##T b) { return a | b; } \
  INL v##T bitwise_xor_##T(v##T a, v##T b) { return a ^ b; } \
  INL v##T bitwise_invert_##T(v##T a) { return ~a; } \
  INL v##T abs_##T(v##T a) { return SIGNED(T) ? choose_##T((v##I)(a < zero_##T()), (v##T)(-(v##U)a), a) : a; } \
  INL v##T sign_##T(v##T a) { return (v##T)((a < zero_##T()) - (a > zero_##T())); } \
  INL v##T floor_##T(v##T a) { return a; } \
  INL v##T ceil_##T(v##T a) { return a; } \
  INL v##T trunc_##T(v##T a) { return a; } \
  INL vb isnan_##T(v##T a) { (void)a; return zero_b1(); } \
  INL vb isinf_##T(v##T a) { (void)a; return zero_b1(); } \
  INL vb isfinite_##T(v##T a) { (void)a; return ~zero_b1(); }
EACH_INT(INTEGER, )

// -- floats: bits and steps -------------------------------------------------------------------------------------------

#define INFINITE(T) ((T)__builtin_inff())
#define UNDEFINED(T) ((T)__builtin_nanf(""))
#define FLOATBITS(T, I, U, _) \
  INL v##T abs_##T(v##T a) { return (v##T)((v##I)a & ~(v##I)splat_##T((T)-0.0)); } \
  INL v##T copysign_##T(v##T a, v##T b) { v##I s = (v##I)splat_##T((T)-0.0); return (v##T)(((v##I)a & ~s) | ((v##I)b & s)); } \
  INL vb isnan_##T(v##T a) { return not_equal_##T(a, a); } \
  INL vb isinf_##T(v##T a) { return equal_##T(abs_##T(a), splat_##T(INFINITE(T))); } \
  INL vb isfinite_##T(v##T a) { return less_##T(abs_##T(a), splat_##T(INFINITE(T))); } \
  INL vb isposinf_##T(v##T a) { return equal_##T(a, splat_##T(INFINITE(T))); } \
  INL vb isneginf_##T(v##T a) { return equal_##T(a, splat_##T(-INFINITE(T))); } \
  INL vb signbit_##T(v##T a) { return __builtin_convertvector((v##I)a < zero_##I(), vb); } \
  INL v##T sign_##T(v##T a) { \
    v##T one = copysign_##T(splat_##T(1), a); \
    return choose_##T((v##I)(a == zero_##T()), zero_##T(), choose_##T((v##I)(a != a), a, one)); } \
  INL v##T share_##T(v##T a, v##T b) { \
    return choose_##T((v##I)(a < b), zero_##T(), choose_##T((v##I)(a == b), splat_##T((T)0.5), splat_##T(1))); } \
  INL v##T heaviside_##T(v##T a, v##T h) { \
    v##T s = choose_##T((v##I)(a < zero_##T()), zero_##T(), choose_##T((v##I)(a != a), a, splat_##T(1))); \
    return choose_##T((v##I)(a == zero_##T()), h, s); } \
  INL v##T softshrink_##T(v##T a, v##T w) { \
    v##T s = choose_##T((v##I)(a > w), a - w, choose_##T((v##I)(a < -w), a + w, a * (T)0)); return s; } \
  INL v##T modf_fraction_##T(v##T a) { \
    v##T f = choose_##T((v##I)(abs_##T(a) == splat_##T(INFINITE(T))), zero_##T(), a - trunc_##T(a)); return copysign_##T(f, a); } \
  INL v##T rsqrt0_##T(v##T a) { return choose_##T((v##I)(a == zero_##T()), zero_##T(), (T)1 / sqrt_##T(a)); } \
  INL v##T angle_##T(v##T a) { \
    v##T s = choose_##T((v##I)a < zero_##I(), splat_##T((T)3.14159265358979323846), zero_##T()); \
    return choose_##T((v##I)(a != a), a, s); }
EACH_FLOAT(FLOATBITS, )
#ifndef NATIVE
#define RSQRT(T, I, U, _) INL v##T rsqrt_##T(v##T a) { return (T)1 / sqrt_##T(a); } \
  INL v##T reciprocal_##T(v##T a) { return (T)1 / a; }
EACH_FLOAT(RSQRT, )
#endif

// -- exponentials -----------------------------------------------------------------------------------------------------

// times_power(p, n): p 2^n, rounded once, for integers n in a float vector, |n| below twice the exponent's range
#define SCALEF(T, p) ASM2(times_power, T, "vscalef" p, "v")
// r = t - rint(t), by an instruction that gives 0 for infinities; t comes back opaque, so that t - r is not fused with t's product
#define OFF_INTEGER(p, t, r) __asm__("vreduce" p " $8, %1, %0" : "=v"(r), "+v"(t))
#define EXP2(T, p) /* vscalef puts overflow, infinities and NaN right */ \
  INL v##T exp2_##T(v##T t) { v##T r; OFF_INTEGER(p, t, r); return times_power_##T(exp2_poly_##T(r), t - r); }
// ln 2 in two parts, n times the first is exact; vrange: r within +-bound, whatever it is where n is huge, infinite or NaN
#define EXP(T, p, log2_e, high, low, bound) ASM2(bounded_by, T, "vrange" p " $2,", "v") \
  INL v##T exp_##T(v##T x) { \
    v##T t = x * (T)(log2_e), r; OFF_INTEGER(p, t, r); \
    v##T n = t - r; \
    r = bounded_by_##T((x - n * (T)(high)) - n * (T)(low), splat_##T((T)(bound))); \
    return times_power_##T(exp_poly_##T(r) * (r * r) + r + (T)1, n); }
#define TWO_STEPS(T, I, magic, bias, bits) INL v##T times_power_##T(v##T p, v##T n) { \
    v##T half = (n * (T)0.5 + (T)(magic)) - (T)(magic), rest = n - half; \
    v##I a = (v##I)(half + (T)((magic) + (bias))) << bits, b = (v##I)(rest + (T)((magic) + (bias))) << bits; \
    return p * (v##T)a * (v##T)b; }
#if VB / V >= 4
# if FILLS(4 * V) == 5
SCALEF(f32, "ps")
# else
TWO_STEPS(f32, i32, 12582912.0, 127, 23)
# endif
INL vf32 bounded_f32(vf32 x, f32 a, f32 b) { return greater_of_f32(splat_f32(a), lesser_of_f32(splat_f32(b), x)); }  // keeps NaN
// 2^r for |r| <= 1/2 and (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2: least largest error, by mpmath's chebyfit
INL vf32 exp2_poly_f32(vf32 r) {
  return (((((0.00015345812161311629759f * r + 0.0013399931177239737967f) * r + 0.0096184889563311816196f) * r + 0.05550328777105324799f) * r
           + 0.24022646890645520696f) * r + 0.69314720573719575134f) * r + 1.0f;
}
INL vf32 exp_poly_f32(vf32 r) {
  return (((0.0013926213466332443037f * r + 0.0083632029715758549465f) * r + 0.041666554437685938899f) * r + 0.16666576845993976311f) * r + 0.5f;
}
#ifndef NATIVE
#if FILLS(4 * V) == 5
EXP2(f32, "ps")
#else
INL vf32 exp2_f32(vf32 t) {
  t = bounded_f32(t, -160, 160);
  vf32 n = rint_f32(t);
  return times_power_f32(exp2_poly_f32(t - n), n);
}
#endif
#if FILLS(4 * V) == 5
EXP(f32, "ps", 1.44269504088896340736f, 0.693359375f, -2.12194440054690583e-4f, 0.35f)
#else
INL vf32 exp_f32(vf32 x) {  // ln 2 in two parts, n times the first is exact
  x = bounded_f32(x, -120, 120);
  vf32 n = rint_f32(x * 1.44269504088896340736f), r = x - n * 0.693359375f;
  r = r + n * 2.12194440054690583e-4f;
  return times_power_f32(exp_poly_f32(r) * (r * r) + r + 1.0f, n);
}
#endif
INL vf32 expm1_f32(vf32 x) {
  vf32 y = bounded_f32(x, -30, 89), n = rint_f32(y * 1.44269504088896340736f), r = y - n * 0.693359375f;
  r = r + n * 2.12194440054690583e-4f;
  vf32 e = exp_poly_f32(r) * (r * r) + r, scale = times_power_f32(splat_f32(1), n - 1);  // 2^(n-1): 2^128 would be infinite
  e = (e * scale + (scale - 0.5f)) * 2.0f;
  return choose_f32((vi32)(n == zero_f32()), choose_f32((vi32)(abs_f32(x) < 1e-10f), x, exp_poly_f32(r) * (r * r) + r), e);
}
#endif
#endif
#if VB / V >= 8
# if FILLS(8 * V) == 5
SCALEF(f64, "pd")
# else
TWO_STEPS(f64, i64, 6755399441055744.0, 1023, 52)
# endif
INL vf64 bounded_f64(vf64 x, f64 a, f64 b) { return greater_of_f64(splat_f64(a), lesser_of_f64(splat_f64(b), x)); }
INL vf64 exp2_poly_f64(vf64 r) {
  return ((((((((((4.4352827069572771511e-10 * r + 7.0741056135081427963e-9) * r + 1.0178198021671930844e-7) * r + 1.321543308967639918e-6) * r
           + 0.000015252733489988525649) * r + 0.00015403530462514432062) * r + 0.0013333558146789921722) * r + 0.0096181291075883352443) * r
           + 0.055504108664819921605) * r + 0.24022650695910156204) * r + 0.69314718055994533046) * r + 1.0;
}
INL vf64 exp_poly_f64(vf64 r) {
  return ((((((((2.5100424157005066788e-8 * r + 2.7620138719733995569e-7) * r + 2.7557268378684192873e-6) * r + 0.000024801521190217727651) * r
           + 0.00019841269863105968748) * r + 0.0013888888917281793308) * r + 0.0083333333333300513464) * r + 0.041666666666623991516) * r
           + 0.16666666666666667456) * r + 0.5;
}
#ifndef NATIVE
#if FILLS(8 * V) == 5
EXP2(f64, "pd")
#else
INL vf64 exp2_f64(vf64 t) {
  t = bounded_f64(t, -1100, 1100);
  vf64 n = rint_f64(t);
  return times_power_f64(exp2_poly_f64(t - n), n);
}
#endif
#if FILLS(8 * V) == 5
EXP(f64, "pd", 1.44269504088896340736, 6.93147180369123816490e-01, 1.90821492927058770002e-10, 0.35)
#else
INL vf64 exp_f64(vf64 x) {
  x = bounded_f64(x, -760, 760);
  vf64 n = rint_f64(x * 1.44269504088896340736), r = x - n * 6.93147180369123816490e-01;
  r = r - n * 1.90821492927058770002e-10;
  return times_power_f64(exp_poly_f64(r) * (r * r) + r + 1.0, n);
}
#endif
INL vf64 expm1_f64(vf64 x) {
  vf64 y = bounded_f64(x, -60, 710), n = rint_f64(y * 1.44269504088896340736), r = y - n * 6.93147180369123816490e-01;
  r = r - n * 1.90821492927058770002e-10;
  vf64 e = exp_poly_f64(r) * (r * r) + r, scale = times_power_f64(splat_f64(1), n - 1);
  e = (e * scale + (scale - 0.5)) * 2.0;
  return choose_f64((vi64)(n == zero_f64()), choose_f64((vi64)(abs_f64(x) < 1e-20), x, exp_poly_f64(r) * (r * r) + r), e);
}
#endif
#endif

// -- logarithms: x = m 2^k with m near 1, f = m - 1, s = f / (2 + f); log(m) = f - (f^2/2 - s (f^2/2 + R(s^2))) ---------

#define SPLIT(T, I, U, bits, least, up, shift, root, magic_bits, magic, bias) \
  INL v##T split_##T(v##T x, v##T *k) { \
    v##I small = (v##I)(x < (T)(least)); \
    v##U b = (v##U)choose_##T(small, x * (T)(up), x) - (U)(root); \
    v##U e = b >> bits; /* the exponent, or less: made positive by bias */ \
    v##U m = (b & (((U)1 << bits) - 1)) + (U)(root); \
    e = (e + (U)(bias)) & (U)((1 << (sizeof(T) * 8 - bits)) - 1); \
    *k = (v##T)(e | (U)(magic_bits)) - (T)((magic) + (bias)) - choose_##T(small, splat_##T((T)(shift)), zero_##T()); \
    return (v##T)m - (T)1; } \
  INL v##T log_end_##T(v##T x, v##T y) { /* the values off the domain */ \
    y = choose_##T((v##I)(x == splat_##T(INFINITE(T))), x, y); \
    y = choose_##T((v##I)(x == zero_##T()), splat_##T(-INFINITE(T)), y); \
    return choose_##T(~(v##I)(x >= zero_##T()), splat_##T(UNDEFINED(T)), y); }
#define LOGARITHMS(T, I, R, ln2_high, ln2_low, lg2_high, lg2_low) \
  INL v##T log_##T(v##T x) { \
    v##T k, f = split_##T(x, &k), s = f / (f + (T)2), z = s * s, h = (T)0.5 * f * f; \
    v##T y = k * (T)(ln2_high) - ((h - (s * (h + z * R(z)) + k * (T)(ln2_low))) - f); \
    return log_end_##T(x, y); } \
  INL v##T log2_##T(v##T x) { \
    v##T k, f = split_##T(x, &k), s = f / (f + (T)2), z = s * s, h = (T)0.5 * f * f; \
    v##T y = f - (h - s * (h + z * R(z))); \
    y = k + (y * (T)1.44269504088896340736); \
    return log_end_##T(x, y); } \
  INL v##T log10_##T(v##T x) { \
    v##T k, f = split_##T(x, &k), s = f / (f + (T)2), z = s * s, h = (T)0.5 * f * f; \
    v##T y = f - (h - s * (h + z * R(z))); \
    y = k * (T)(lg2_high) + (y * (T)0.43429448190325182765 + k * (T)(lg2_low)); \
    return log_end_##T(x, y); } \
  INL v##T log1p_##T(v##T x) { /* log(u), and what rounding 1 + x to u lost */ \
    v##T u = x + (T)1, c = choose_##T((v##I)(x > splat_##T(1)), (T)1 - (u - x), x - (u - (T)1)), y = log_##T(u); \
    v##I plain = (v##I)(u == zero_##T()) | (v##I)(u == splat_##T(INFINITE(T))); \
    y = choose_##T(plain, y, y + c / u); \
    return choose_##T((v##I)(abs_##T(x) < (T)1e-20), x, y); }
#if VB / V >= 4
INL vf32 log_poly_f32(vf32 z) { return (0.29590317357160397187f * z + 0.39988550988935757338f) * z + 0.66666685603273560321f; }
SPLIT(f32, i32, u32, 23, 0x1p-126f, 0x1p25f, 25, 0x3f3504f3, 0x4b000000, 8388608.0, 128)
#ifndef NATIVE
LOGARITHMS(f32, i32, log_poly_f32, 0.693115234375, 0.000031946184945309417232, 0.301025390625, 4.6050389811952137389e-6)
#endif
#endif
#if VB / V >= 8
INL vf64 log_poly_f64(vf64 z) {
  return (((((0.14630031364122860468 * z + 0.15330617306743304885) * z + 0.18182922513515941633) * z + 0.22222210674238515246) * z
           + 0.28571428628810995598) * z + 0.39999999999893221763) * z + 0.6666666666666669907;
}
SPLIT(f64, i64, u64, 52, 0x1p-1022, 0x1p54, 54, 0x3fe6a09e667f3bcdull, 0x4330000000000000ull, 4503599627370496.0, 1024)
#ifndef NATIVE
LOGARITHMS(f64, i64, log_poly_f64, 0.6931471805592082091607153, 7.3710025651677989018e-13, 0.301029995663611771306023, 3.6942390771589305366e-13)
#endif
#endif

// -- what exponentials and logarithms make ----------------------------------------------------------------------------

#define COMPOUND(T, I, U, _) \
  INL v##T expit_##T(v##T a) { /* no overflow, and no digits lost on either side */ \
    v##T e = exp_##T(-abs_##T(a)), one = splat_##T(1); \
    return choose_##T((v##I)(a >= zero_##T()), one, e) / (one + e); } \
  INL v##T log_sigmoid_##T(v##T a) { \
    return lesser_of_##T(zero_##T(), a) - log1p_##T(exp_##T(-abs_##T(a))); } \
  INL v##T logaddexp_##T(v##T a, v##T b) { \
    v##T d = abs_##T(a - b), m = maximum_##T(a, b); \
    v##T y = m + log1p_##T(exp_##T(-d)); \
    return choose_##T((v##I)(a == b), a + (T)0.69314718055994530942, y); } \
  INL v##T logaddexp2_##T(v##T a, v##T b) { \
    v##T d = abs_##T(a - b), m = maximum_##T(a, b); \
    v##T y = m + log1p_##T(exp2_##T(-d)) * (T)1.44269504088896340736; \
    return choose_##T((v##I)(a == b), a + (T)1, y); } \
  INL v##T logit_##T(v##T a) { /* near 1/2 the quotient is near 1 */ \
    v##T far = log_##T(a / ((T)1 - a)), d = (a - (T)0.5), near = log1p_##T((T)4 * d / ((T)1 - (T)2 * d)); \
    return choose_##T((v##I)(abs_##T(d) < (T)0.2), near, far); } \
  INL v##T xlogy_##T(v##T a, v##T b) { \
    return choose_##T((v##I)(a == zero_##T()) & (v##I)(b == b), zero_##T(), a * log_##T(b)); } \
  INL v##T xlog1py_##T(v##T a, v##T b) { \
    return choose_##T((v##I)(a == zero_##T()) & (v##I)(b == b), zero_##T(), a * log1p_##T(b)); } \
  INL v##T entr_##T(v##T a) { \
    v##T y = choose_##T((v##I)(a == zero_##T()), zero_##T(), -a * log_##T(a)); \
    return choose_##T((v##I)(a < zero_##T()), splat_##T(-INFINITE(T)), y); }
EACH_FLOAT(COMPOUND, )
#ifndef NATIVE
#define TANH(T, I, U, _) \
  INL v##T tanh_##T(v##T a) { \
    v##T e = expm1_##T((T)2 * lesser_of_##T(splat_##T(22), abs_##T(a))); \
    return copysign_##T(e / (e + (T)2), a); }
EACH_FLOAT(TANH, )
#endif
