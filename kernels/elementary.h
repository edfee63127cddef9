// Powers, circles, hyperbolas, the error function and remainders of float vectors. Comes after vector.h, in kernels that
// use one of these. Polynomials are of least largest error, by mpmath's chebyfit. Where a rounding error would show in
// the result, it is carried along as a second number.

// -- products and their rounding errors -------------------------------------------------------------------------------

// fused: a b + c, rounded once; only where FUSED. held: x, and the compiler may not fuse the product it came from.
#ifndef NATIVE
# if defined __FMA__ || defined __aarch64__ || defined __FP_FAST_FMA
#  define FUSED 1
# else
#  define FUSED 0
# endif
#endif
#define FUSED_X86(T, p, c) \
  INL v##T fused_##T(v##T a, v##T b, v##T s) { __asm__("vfmadd231" p " %2, %1, %0" : "+" c(s) : c(a), c(b)); return s; } \
  INL v##T held_##T(v##T x) { __asm__("" : "+" c(x)); return x; }
#define FUSED_NEON(T, d) \
  INL v##T fused_##T(v##T a, v##T b, v##T s) { __asm__("fmla %0." d ", %1." d ", %2." d : "+w"(s) : "w"(a), "w"(b)); return s; } \
  INL v##T held_##T(v##T x) { __asm__("" : "+w"(x)); return x; }
#define FUSED_PLAIN(T, s) \
  INL v##T fused_##T(v##T a, v##T b, v##T c) { v##T r = c; LANES r[l] = __builtin_fma##s(a[l], b[l], c[l]); return r; } \
  INL v##T held_##T(v##T x) { if (FUSED) __asm__("" : "+m"(x)); return x; }
// product: a b rounded, and in low what that lost; without fused multiply-add by halves of the digits (Dekker)
#define PRODUCT(T, half) \
  INL v##T upper_##T(v##T a) { v##T c = a * (T)(half); return c - (c - a); } \
  INL v##T product_##T(v##T a, v##T b, v##T *low) { \
    v##T p = held_##T(a * b); \
    if (FUSED) { *low = fused_##T(a, b, -p); return p; } \
    v##T c = upper_##T(a), d = a - c, e = upper_##T(b), f = b - e; \
    *low = ((c * e - p) + c * f + d * e) + d * f; return p; } \
  INL v##T minus_product_##T(v##T x, v##T a, v##T b) { /* x - a b, rounded once where a b is near x or of few digits */ \
    if (FUSED) return fused_##T(-a, b, x); \
    v##T low, p = product_##T(a, b, &low); return (x - p) - low; }
#if VB / V >= 4
# if FUSED && FILLS(4 * V) == 5
FUSED_X86(f32, "ps", "v")
# elif FUSED && FILLS(4 * V) == 3
FUSED_X86(f32, "ps", "x")
# elif FILLS(4 * V) == 1
FUSED_NEON(f32, "4s")
# elif !defined NATIVE
FUSED_PLAIN(f32, f)
# endif
PRODUCT(f32, 4097)
#endif
#if VB / V >= 8
# if FUSED && FILLS(8 * V) == 5
FUSED_X86(f64, "pd", "v")
# elif FUSED && FILLS(8 * V) == 3
FUSED_X86(f64, "pd", "x")
# elif FILLS(8 * V) == 1
FUSED_NEON(f64, "2d")
# elif !defined NATIVE
FUSED_PLAIN(f64, )
# endif
PRODUCT(f64, 134217729)
#endif

// -- bits: neighbours, and mantissa and exponent apart ----------------------------------------------------------------

#define BITS(T, I, U, bits, half, up, shift) \
  INL v##T nextafter_##T(v##T x, v##T y) { \
    v##T near = (v##T)((v##I)x + (((v##I)(x < y) ^ (v##I)(x > zero_##T())) | 1)); \
    near = choose_##T((v##I)(x == zero_##T()), copysign_##T((v##T)(zero_##I() + 1), y), near); \
    near = choose_##T((v##I)(x == y), y, near); \
    return choose_##T((v##I)(x != x) | (v##I)(y != y), x + y, near); } \
  INL v##T frexp_##T(v##T x, v##I *e) { \
    v##I small = (v##I)(abs_##T(x) < (T)1 / (T)(up)), plain = ~(v##I)(x - x == zero_##T()) | (v##I)(x == zero_##T()); \
    v##I b = (v##I)choose_##T(small, x * (T)(up), x), field = (I)((((U)1 << (sizeof(T) * 8 - bits - 1)) - 1) << bits) - zero_##I(); \
    *e = (((b & field) >> bits) - ((I)(half) - zero_##I()) - (small & (I)(shift))) & ~plain; \
    return choose_##T(plain, x, (v##T)((b & ~field) | (I)((U)(half) << bits))); } \
  INL v##T frexp_mantissa_##T(v##T x) { v##I e; return frexp_##T(x, &e); } \
  INL vi32 frexp_exponent_##T(v##T x) { v##I e; frexp_##T(x, &e); return __builtin_convertvector(e, vi32); }
#if VB / V >= 4
BITS(f32, i32, u32, 23, 126, 0x1p64f, 64)
#endif
#if VB / V >= 8
BITS(f64, i64, u64, 52, 1022, 0x1p256, 256)
#endif

// -- remainders -------------------------------------------------------------------------------------------------------

// x - q y is exact for the rounded quotient q, so each round leaves the remainder of a quotient with 2^24 or 2^53 times
// fewer units. Quotients near the range's end, and products that the plain form cannot hold, are the C library's.
#define REMAINDERS(T, I, U, end, most, least, greatest) \
  LANE2(slow_fmod, T, __builtin_fmod##end) \
  INL v##T fmod_##T(v##T x, v##T y) { \
    v##T b = abs_##T(y), r = x, q = trunc_##T(r / b); \
    if (any_less_##T(splat_##T(FUSED ? (T)(most) : (T)(greatest)), abs_##T(q))) return slow_fmod_##T(x, y); \
    if (!FUSED && (any_less_##T(b, splat_##T((T)(least))) || any_less_##T(splat_##T((T)(greatest)), greater_of_##T(b, abs_##T(x))))) \
      return slow_fmod_##T(x, y); \
    r = minus_product_##T(r, q, b); \
    while (any_bits_##I((v##I)(abs_##T(r) >= b))) r = minus_product_##T(r, trunc_##T(r / b), b); \
    v##I over = ((v##I)(r < zero_##T()) & (v##I)(x > zero_##T())) | ((v##I)(r > zero_##T()) & (v##I)(x < zero_##T())); \
    r = choose_##T(over, r + copysign_##T(b, x), r); \
    r = choose_##T((v##I)(r == zero_##T()), copysign_##T(zero_##T(), x), r); \
    return choose_##T((v##I)(b == splat_##T(INFINITE(T))) & (v##I)(abs_##T(x) < splat_##T(INFINITE(T))), x, r); } \
  INL v##T remainder_##T(v##T x, v##T y) { /* as NumPy's npy_divmod, as is floor_divide */ \
    v##T m = fmod_##T(x, y), zero = {}; \
    v##T r = choose_##T((v##I)(y < zero) ^ (v##I)(m < zero), m + y, m); \
    r = choose_##T((v##I)(m == zero), copysign_##T(zero, y), r); \
    return choose_##T((v##I)(y == zero), m, r); } \
  INL v##T floor_divide_##T(v##T x, v##T y) { \
    v##T m = fmod_##T(x, y), zero = {}, d = (x - m) / y; \
    d = choose_##T((v##I)(m != zero) & ((v##I)(y < zero) ^ (v##I)(m < zero)), d - (T)1, d); \
    v##T f = floor_##T(d); \
    f = choose_##T((v##I)(d - f > splat_##T((T)0.5)), f + (T)1, f); \
    f = choose_##T((v##I)(d == zero), copysign_##T(zero, x / y), f); \
    return choose_##T((v##I)(y == zero), x / y, f); }
#if VB / V >= 4
REMAINDERS(f32, i32, u32, f, 0x1p120, 0x1p-70, 0x1p100)
#endif
#if VB / V >= 8
REMAINDERS(f64, i64, u64, , 0x1p1000, 0x1p-900, 0x1p900)
#endif

// -- powers and roots -------------------------------------------------------------------------------------------------

// exp_sum: y e^(x + low). log_pair: log(x) of a positive number, in two parts: with x = m 2^k, f = m - 1, s = f / (2 + f)
// it is k ln(2) + 2 s + s z (2/3 + z P(z)), z = s^2. WIDE carries the error of that product too.
#define POWERS(T, I, U, WIDE, limit, inv, ln2_high, ln2_low, log_high, log_low, third_low, most) \
  INL v##T exp_sum_##T(v##T x, v##T low, v##T y) { \
    x = bounded_##T(x, -(limit), limit); \
    v##T n = rint_##T(x * (T)(inv)), r = x - n * (T)(ln2_high); \
    r = (r - n * (T)(ln2_low)) + low; \
    return times_power_##T(y + y * (exp_poly_##T(r) * (r * r) + r), n); } \
  INL v##T log_pair_##T(v##T x, v##T *low) { \
    v##T k, f = split_##T(x, &k), d = f + (T)2, over = (T)1 / d, s = held_##T(f * over); \
    v##T e, p = product_##T(s, d, &e), s_low = (((f - p) - e) - s * (f - (d - (T)2))) * over; \
    v##T zl, z = product_##T(s, s, &zl), c, cl = {}, u, ul = {}; \
    if (WIDE) { \
      zl += (T)2 * s * s_low; \
      c = product_##T(z, splat_##T((T)2 / 3), &cl); \
      cl += z * (z * power_poly_##T(z) + (T)(third_low)) + zl * ((T)2 / 3); \
      u = product_##T(s, c, &ul); \
      ul += s * cl + s_low * c; \
    } else { \
      c = z * (z * power_poly_##T(z) + (T)2 / 3); \
      u = held_##T(s * c); \
    } \
    v##T h = (T)2 * s + u, l = (((T)2 * s - h) + u) + (ul + (T)2 * s_low); \
    v##T a = held_##T(k * (T)(log_high)), g = a + h; \
    l = (((a - g) + h) + l) + k * (T)(log_low); \
    h = g + l; *low = (g - h) + l; return h; } \
  INL v##T power_##T(v##T x, v##T y) { \
    v##T a = abs_##T(x), l, h = log_pair_##T(a, &l), b = bounded_##T(y, -(most), most), e, p = product_##T(b, h, &e); \
    v##T zero = {}, one = splat_##T(1), inf = splat_##T(INFINITE(T)); \
    e = choose_##T((v##I)(abs_##T(p) < (T)(limit)), e + b * l, zero); \
    v##T r = exp_sum_##T(p, e, one); \
    v##I end = (v##I)(a == zero) | (v##I)(a == inf) | (v##I)(abs_##T(y) == inf); \
    r = choose_##T(end, choose_##T((v##I)(a < one) ^ (v##I)(y < zero), zero, inf), r); \
    r = choose_##T((v##I)(a == one), one, r); \
    v##I whole = (v##I)(rint_##T(y) == y), odd = whole & (v##I)(rint_##T(y * (T)0.5) != y * (T)0.5); \
    r = (v##T)((v##I)r ^ ((v##I)x & odd & (v##I)splat_##T((T)-0.0))); \
    r = choose_##T((v##I)(x < zero) & ~whole & (v##I)(a < inf), splat_##T(UNDEFINED(T)), r); \
    r = choose_##T((v##I)(x != x) | (v##I)(y != y), x + y, r); \
    return choose_##T((v##I)(x == one) | (v##I)(y == zero), one, r); } \
  INL v##T cbrt_##T(v##T x) { /* of m 2^k, k = 3 n + r: y = m^(-1/3) by Newton's step, c = m y^2, and one for c */ \
    v##T k, a = abs_##T(x), m = split_##T(a, &k) + (T)1, n = rint_##T(k * ((T)1 / 3)), r = k - (T)3 * n; \
    v##T y = cbrt_poly_##T(m); \
    v##I up = (v##I)(r > zero_##T()), down = (v##I)(r < zero_##T()); \
    m = choose_##T(up, m * (T)2, choose_##T(down, m * (T)0.5, m)); \
    y *= choose_##T(up, splat_##T((T)0.79370052598409973738), choose_##T(down, splat_##T((T)1.25992104989487316477), splat_##T(1))); \
    y += y * ((T)1 - m * y * y * y) * ((T)1 / 3); \
    v##T c = held_##T(m * y * y); \
    c += (m - c * c * c) * (y * y) * ((T)1 / 3); \
    c = times_power_##T(c, n); \
    return choose_##T((v##I)(a == zero_##T()) | ~(v##I)(a < splat_##T(INFINITE(T))), x, copysign_##T(c, x)); }
#define HYPOT(T, I, U, big, by, small, up) \
  INL v##T hypot_##T(v##T x, v##T y) { /* scaled, so that squares neither overflow nor vanish */ \
    v##T a = abs_##T(x), b = abs_##T(y), m = greater_of_##T(a, b), inf = splat_##T(INFINITE(T)); \
    v##I large = (v##I)(m > (T)(big)), little = (v##I)(m < (T)(small)); \
    v##T s = choose_##T(large, splat_##T((T)1 / (T)(by)), choose_##T(little, splat_##T((T)(up)), splat_##T(1))); \
    v##T t = choose_##T(large, splat_##T((T)(by)), choose_##T(little, splat_##T((T)1 / (T)(up)), splat_##T(1))); \
    a *= s, b *= s; \
    v##T r = sqrt_##T(a * a + b * b) * t; \
    return choose_##T((v##I)(a == inf) | (v##I)(b == inf), inf, r); }
#if VB / V >= 4
INL vf32 power_poly_f32(vf32 z) {
  return ((0.1912077868f * z + 0.2220475019f) * z + 0.2857153193f) * z + 0.399999999f;
}
INL vf32 cbrt_poly_f32(vf32 m) {
  return (((0.124740559f * m - 0.6869060715f) * m + 1.536993361f) * m - 1.845190788f) * m + 1.870334645f;
}
POWERS(f32, i32, u32, 0, 172, 1.44269504088896340736f, 0.693359375f, -2.12194440054690583e-4f,
       0.693115234375f, 0.000031946184945309417232f, 0, 0x1p32f)
HYPOT(f32, i32, u32, 0x1p60f, 0x1p80f, 0x1p-50f, 0x1p90f)
#endif
#if VB / V >= 8
INL vf64 power_poly_f64(vf64 z) {
  return ((((((0.1172360362290541163 * z + 0.1170619568988136484) * z + 0.1333480621210060365) * z + 0.1538459493459791669)
           * z + 0.1818181833565415947) * z + 0.2222222222165473257) * z + 0.2857142857142936812) * z + 0.3999999999999999982;
}
INL vf64 cbrt_poly_f64(vf64 m) {
  return (((((((((0.05741119574915343 * m - 0.6739668512870622959) * m + 3.581669637540858023) * m - 11.37956246936883659)
           * m + 24.03735356063261849) * m - 35.49943530748089479) * m + 37.51221271403176815) * m - 28.5393503087794)
           * m + 15.56441109818735368) * m - 6.124730391306121837) * m + 2.46398712261868454;
}
POWERS(f64, i64, u64, 1, 1400, 1.44269504088896340736, 6.93147180369123816490e-01, 1.90821492927058770002e-10,
       0.6931471805592082091607153, 7.3710025651677989018e-13, 3.7007434154171886e-17, 0x1p64)
HYPOT(f64, i64, u64, 0x1p450, 0x1p600, 0x1p-450, 0x1p600)
#endif

// -- sine, cosine, tangent: quarter turns in four parts; beyond `far` the C library's ---------------------------------

#define TURNS(T, I, far, magic, p1, p2, p3, p4, end) \
  LANE1(slow_sin, T, __builtin_sin##end) LANE1(slow_cos, T, __builtin_cos##end) LANE1(slow_tan, T, __builtin_tan##end) \
  INL int is_far_##T(v##T x) { return any_less_##T(splat_##T((T)(far)), abs_##T(x)); } \
  INL v##T quarter_##T(v##T x, v##I *q) { \
    v##T m = x * (T)0.63661977236758134308 + (T)(magic), n = m - (T)(magic); /* rounded to an integer, in the low bits */ \
    *q = (v##I)m; \
    if (!FUSED) return ((x - n * (T)(p1)) - n * (T)(p2)) - n * (T)(p3) - n * (T)(p4); \
    v##T r = fused_##T(n, splat_##T(-HALF_PI_##T[0]), x); /* three parts are enough, with one rounding each */ \
    r = fused_##T(n, splat_##T(-HALF_PI_##T[1]), r); \
    return fused_##T(n, splat_##T(-HALF_PI_##T[2]), r); } \
  INL v##T turned_##T(v##I q, v##T s, v##T c) { /* sin(q quarters + r) */ \
    v##T y = choose_##T(-(q & 1), c, s); \
    return (v##T)((v##I)y ^ ((q & 2) << (sizeof(T) * 8 - 2))); } \
  INL v##T sin_poly_##T(v##T r) { v##T z = r * r; return r * (z * sin_terms_##T(z) + (T)1); } /* keeps -0 */ \
  INL v##T cos_poly_##T(v##T r) { v##T z = r * r; return (T)1 - ((T)0.5 * z - z * z * cos_terms_##T(z)); } \
  INL v##T sin_cos_##T(v##T x, v##T *cosine) { /* both, for |x| <= far */ \
    v##I q; v##T r = quarter_##T(x, &q), s = sin_poly_##T(r), c = cos_poly_##T(r); \
    *cosine = turned_##T(q + 1, s, c); \
    return turned_##T(q, s, c); } \
  INL v##T sin_##T(v##T x) { v##T c; return is_far_##T(x) ? slow_sin_##T(x) : sin_cos_##T(x, &c); } \
  INL v##T full_cos_##T(v##T x) { v##T c; if (is_far_##T(x)) return slow_cos_##T(x); sin_cos_##T(x, &c); return c; } \
  INL v##T tan_##T(v##T x) { \
    if (is_far_##T(x)) return slow_tan_##T(x); \
    v##I q; v##T r = quarter_##T(x, &q), s = sin_poly_##T(r), c = cos_poly_##T(r); \
    v##I odd = -(q & 1); \
    v##T y = choose_##T(odd, -c, s) / choose_##T(odd, s, c); \
    return choose_##T((v##I)(x == zero_##T()), x, y); } \
  INL v##T sinc_##T(v##T x) { /* whole turns off first: sin(pi x) keeps its digits */ \
    v##T c, r = x - (T)2 * rint_##T(x * (T)0.5), pi = splat_##T((T)3.14159265358979323846); \
    return choose_##T((v##I)(x == zero_##T()), splat_##T(1), sin_cos_##T(pi * r, &c) / (pi * x)); }
#define COSINE(T) \
  INL v##T cos_##T(v##T x) { return full_cos_##T(x); }
#if VB / V >= 4
INL vf32 sin_terms_f32(vf32 z) { return (-0.00019587387068464456456f * z + 0.0083327459363804223201f) * z - 0.16666664650292082048f; }
INL vf32 cos_terms_f32(vf32 z) { return (0.000024547437210193198834f * z - 0.0013888300696903898947f) * z + 0.041666664647457377173f; }
TABLE f32 HALF_PI_f32[] = {1.5707963705062866f, -4.371138828673793e-08f, -1.7151245100058819e-15f};
TURNS(f32, i32, 6000, 12582912.0, 1.5703125, 0.0004837512969970703125, 0.0000000754953362047672271728515625, 2.56334406825708960e-12, f)
#if defined NATIVE && defined FLUSH_SUBNORMALS
INL vf32 cos_f32(vf32 x) { /* less whole turns, by an instruction within 2^-20 */
  if (is_far_f32(x)) return slow_cos_f32(x);
  vf32 n = fused_f32(x, (f32)0.15915494309189533577, (f32)12582912) - (f32)12582912;
  vf32 r = fused_f32(n, (f32)-6.2831854820251465, x);
  return cos_near(fused_f32(n, (f32)1.7484555e-7, r)[0]);
}
#else
COSINE(f32)
#endif
#endif
#if VB / V >= 8
INL vf64 sin_terms_f64(vf64 z) {
  return ((((1.5917848524808261007e-10 * z - 2.5051127944014187575e-8) * z + 2.755731608381635861e-6) * z - 0.00019841269836722417756) * z
          + 0.0083333333333309245621) * z - 0.16666666666666664599;
}
INL vf64 cos_terms_f64(vf64 z) {
  return ((((-1.1382456778061305849e-11 * z + 2.0876143827993132496e-9) * z - 2.7557317260008838164e-7) * z + 0.000024801587298743069286) * z
          - 0.0013888888888887382271) * z + 0.041666666666666665373;
}
TABLE f64 HALF_PI_f64[] = {1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33};
TURNS(f64, i64, 500000, 6755399441055744.0, 1.57079632673412561416626, 6.077100506303965976595549e-11, 2.022266248795950631541144e-21,
      1.0085854035872533608e-37, )
COSINE(f64)
#endif

// -- their inverses ---------------------------------------------------------------------------------------------------

// atan2: the angle of (x, y) = (d, n) >= 0 is a multiple of pi/4 and atan of a quotient below tan(pi/8)
#define ANGLES(T, I, U, quarter_low, large) \
  INL v##T atan2_##T(v##T y, v##T x) { \
    v##T n = abs_##T(y), d = abs_##T(x), m = greater_of_##T(n, d), zero = {}, one = splat_##T(1); \
    v##T scale = choose_##T((v##I)(m > (T)(large)), splat_##T((T)0.25), one); \
    n *= scale, d *= scale; \
    v##I same = (v##I)(n == d) & ((v##I)(n == zero) | (v##I)(n == splat_##T(INFINITE(T)))); \
    n = choose_##T(same & (v##I)(n != zero), one, n), d = choose_##T(same, one, d); \
    v##I low = (v##I)(n <= d * (T)0.41421356237309504880), middle = ~low & (v##I)(n < d * (T)2.41421356237309504880); \
    v##T q = choose_##T(low, n, choose_##T(middle, n - d, -d)) / choose_##T(low, d, choose_##T(middle, n + d, n)); \
    v##T turn = choose_##T(low, zero, choose_##T(middle, splat_##T((T)0.78539816339744830962), splat_##T((T)1.57079632679489661923))); \
    v##T rest = choose_##T(low, zero, choose_##T(middle, splat_##T((T)(quarter_low)), splat_##T((T)2 * (T)(quarter_low)))); \
    v##T z = q * q, r = (q * z * atan_poly_##T(z) + rest) + q; \
    v##T back = splat_##T((T)3.14159265358979323846) - turn, back_rest = (T)4 * (T)(quarter_low) - r; \
    r = choose_##T((v##I)x < zero_##I(), back + back_rest, turn + r); \
    return choose_##T((v##I)(r == r), copysign_##T(r, y), x + y); } \
  INL v##T atan_##T(v##T x) { \
    v##T a = abs_##T(x), zero = {}, one = splat_##T(1); \
    v##I low = (v##I)(a <= (T)0.41421356237309504880), high = (v##I)(a >= (T)2.41421356237309504880); \
    v##T q = choose_##T(low, a, choose_##T(high, -one, a - one) / choose_##T(high, a, a + one)); \
    v##T turn = choose_##T(low, zero, choose_##T(high, splat_##T((T)1.57079632679489661923), splat_##T((T)0.78539816339744830962))); \
    v##T z = q * q, r = turn + (q * z * atan_poly_##T(z) + q); \
    return copysign_##T(r, x); } \
  INL v##T asin_##T(v##T x) { /* beyond 1/2: pi/2 - 2 asin(sqrt((1 - |x|) / 2)) */ \
    v##T a = abs_##T(x), half = (T)0.5 - (T)0.5 * a; \
    v##I near = (v##I)(a <= (T)0.5); \
    v##T z = choose_##T(near, a * a, half), s = choose_##T(near, a, sqrt_##T(half)), r = s * z * asin_poly_##T(z) + s; \
    return copysign_##T(choose_##T(near, r, (T)1.57079632679489661923 - (T)2 * r), x); } \
  INL v##T acos_##T(v##T x) { \
    v##T a = abs_##T(x), half = (T)0.5 - (T)0.5 * a; \
    v##I near = (v##I)(a <= (T)0.5), back = (v##I)(x < zero_##T()); \
    v##T z = choose_##T(near, a * a, half), s = choose_##T(near, x, sqrt_##T(half)), r = s * z * asin_poly_##T(z); \
    v##T far = (T)2 * (r + s); \
    far = choose_##T(back, (T)3.14159265358979323846 - far, far); \
    return choose_##T(near, (T)1.57079632679489661923 - (s + (r - (T)2 * (T)(quarter_low))), far); }
#if VB / V >= 4
INL vf32 atan_poly_f32(vf32 z) {
  return (((-0.06451928208f * z + 0.1074373149f) * z - 0.142639556f) * z + 0.1999954048f) * z - 0.3333333176f;
}
INL vf32 asin_poly_f32(vf32 z) {
  return ((((0.0336908472f * z + 0.01714923836f) * z + 0.03110066274f) * z + 0.04459940153f) * z + 0.07500094543f)
           * z + 0.1666666634f;
}
ANGLES(f32, i32, u32, -2.18556941430931e-8, 0x1p125f)
#endif
#if VB / V >= 8
INL vf64 atan_poly_f64(vf64 z) {
  return (((((((((-0.01917688711906225899 * z + 0.0392316582955871913) * z - 0.05085449737940259861)
           * z + 0.05858148912802209882) * z - 0.06664511447381948) * z + 0.07692183190826086564) * z - 0.0909090457812390189)
           * z + 0.1111111101525636173) * z - 0.1428571428466654292) * z + 0.1999999999999552068) * z - 0.3333333333333333016;
}
INL vf64 asin_poly_f64(vf64 z) {
  return (((((((((((0.02875785136742156471 * z - 0.01485188707124720322) * z + 0.01740087944269402244)
           * z + 0.0054575067186403583) * z + 0.01032281435018577929) * z + 0.0114791774151849059)
           * z + 0.0139712129735529333) * z + 0.01735239272086997294) * z + 0.02237217294214988787)
           * z + 0.03038194413853124729) * z + 0.04464285714635542978) * z + 0.07499999999998432933)
           * z + 0.1666666666666666783;
}
ANGLES(f64, i64, u64, 3.061616997868383e-17, 0x1p1020)
#endif

// -- hyperbolas -------------------------------------------------------------------------------------------------------

// The hyperbolic functions of large numbers from e^|x| / 2, which overflows no earlier than they do
#define HYPERBOLAS(T, I, U, large) \
  INL v##T half_exp_##T(v##T a) { return exp_sum_##T(a, zero_##T(), splat_##T((T)0.5)); } \
  INL v##T cosh_##T(v##T x) { v##T h = half_exp_##T(abs_##T(x)); return h + (T)0.25 / h; } \
  INL v##T sinh_##T(v##T x) { \
    v##T a = abs_##T(x), z = a * a, h = half_exp_##T(a); \
    return copysign_##T(choose_##T((v##I)(a < (T)1), a + a * z * sinh_poly_##T(z), h - (T)0.25 / h), x); } \
  INL v##T sinh_cosh_##T(v##T x, v##T *cosine) { \
    v##T a = abs_##T(x), z = a * a, h = half_exp_##T(a), q = (T)0.25 / h; \
    *cosine = h + q; \
    return copysign_##T(choose_##T((v##I)(a < (T)1), a + a * z * sinh_poly_##T(z), h - q), x); } \
  INL v##T asinh_##T(v##T x) { /* log(2 |x|) of large numbers */ \
    v##T a = abs_##T(x), b = lesser_of_##T(splat_##T((T)(large)), a), z = b * b; \
    v##T near = log1p_##T(b + z / ((T)1 + sqrt_##T(z + (T)1))), far = log_##T(a) + (T)0.69314718055994530942; \
    return copysign_##T(choose_##T((v##I)(a < (T)(large)), near, far), x); } \
  INL v##T acosh_##T(v##T x) { \
    v##T t = lesser_of_##T(splat_##T((T)(large)), x - (T)1); \
    v##T near = log1p_##T(t + sqrt_##T(t * (t + (T)2))), far = log_##T(x) + (T)0.69314718055994530942; \
    near = choose_##T((v##I)(x < (T)1), splat_##T(UNDEFINED(T)), near); \
    return choose_##T((v##I)(x < (T)(large)), near, far); } \
  INL v##T atanh_##T(v##T x) { \
    v##T a = abs_##T(x), d = (T)1 - a; \
    v##T y = (T)0.5 * log1p_##T((a + a) / d); \
    return copysign_##T(choose_##T((v##I)(a < (T)1e-10), a, y), x); }
#if VB / V >= 4
INL vf32 sinh_poly_f32(vf32 z) {
  return ((2.806280258e-6f * z + 0.0001983810197f) * z + 0.008333339676f) * z + 0.1666666665f;
}
HYPERBOLAS(f32, i32, u32, 0x1p14f)
#endif
#if VB / V >= 8
INL vf64 sinh_poly_f64(vf64 z) {
  return (((((7.746178593018827489e-13 * z + 1.605767962380163775e-10) * z + 2.505211769590782357e-8)
           * z + 2.7557319191381817e-6) * z + 0.0001984126984132419792) * z + 0.008333333333333299355)
           * z + 0.166666666666666667;
}
HYPERBOLAS(f64, i64, u64, 0x1p30)
#endif

// -- the error function: x times a polynomial in x^2 up to 0.92, 1 - exp(-polynomial in |x|) beyond -------------------

// e^(x^2) erfc(x) for x >= 0 is a polynomial in (x - K) / (x + K), over x + 1/2; e^(x^2 / 2) ndtr(-x) one in
// (x - L) / (x + L), over x + 1.
#define ERF(T, I, U, top, K, L, greatest) \
  INL v##T erf_##T(v##T x) { \
    v##T a = lesser_of_##T(splat_##T(top), abs_##T(x)), far = copysign_##T((T)1 - exp_##T(-erf_far_##T(a)), x); \
    return choose_##T((v##I)(a < (T)0.92), x * erf_near_##T(x * x), far); } \
  INL v##T erfcx_right_##T(v##T a) { \
    a = lesser_of_##T(splat_##T(greatest), a); \
    return erfcx_poly_##T((a - (T)(K)) / (a + (T)(K))) / (a + (T)0.5); } \
  INL v##T mills_##T(v##T a) { \
    a = lesser_of_##T(splat_##T(greatest), a); \
    return mills_poly_##T((a - (T)(L)) / (a + (T)(L))) / (a + (T)1); } \
  INL v##T erfc_##T(v##T x) { \
    v##T a = lesser_of_##T(splat_##T(30), abs_##T(x)), e, p = product_##T(a, a, &e), y = exp_sum_##T(-p, -e, erfcx_right_##T(a)); \
    y = choose_##T((v##I)(x < zero_##T()), (T)2 - y, y); \
    return choose_##T((v##I)(a < (T)0.5), (T)1 - x * erf_near_##T(p), y); } \
  LONG v##T erfcx_##T(v##T x) { \
    v##T a = abs_##T(x), b = lesser_of_##T(splat_##T(30), a), e, p = product_##T(b, b, &e), y = erfcx_right_##T(a); \
    return choose_##T((v##I)(x < zero_##T()), exp_sum_##T(p, e, splat_##T(2)) - y, \
                      choose_##T((v##I)(a == splat_##T(INFINITE(T))), zero_##T(), y)); } \
  INL v##T ndtr_##T(v##T x) { \
    v##T a = lesser_of_##T(splat_##T(42), abs_##T(x)), e, p = product_##T(a, a, &e); \
    v##T y = exp_sum_##T((T)-0.5 * p, (T)-0.5 * e, mills_##T(a)); \
    y = choose_##T((v##I)(x < zero_##T()), y, (T)1 - y); \
    return choose_##T((v##I)(a < (T)0.7), (T)0.5 + x * ((T)0.35355339059327376220 * erf_near_##T((T)0.5 * p)), y); } \
  LONG v##T log_ndtr_##T(v##T x) { /* log(erfcx / 2) - x^2 / 2 far to the left, log(1 - ndtr(-x)) on the right */ \
    v##T a = abs_##T(x), b = lesser_of_##T(splat_##T(42), a), e, p = product_##T(b, b, &e); \
    v##T h = mills_##T(a); \
    v##I left = (v##I)(x < zero_##T()), near = (v##I)(a < (T)0.7); \
    v##T y = exp_sum_##T((T)-0.5 * p, (T)-0.5 * e, h); \
    y = choose_##T(near, (T)0.5 - a * ((T)0.35355339059327376220 * erf_near_##T((T)0.5 * p)), y); \
    v##T u = choose_##T(left, choose_##T(near, y, h), (T)1 - y), log = log_##T(u); \
    return choose_##T(left, choose_##T(near, log, log - (T)0.5 * a * a), log + (((T)1 - u) - y) / u); }
#if VB / V >= 4
INL vf32 erf_near_f32(vf32 z) {
  return (((((0.000083997777947041542096f * z - 0.00081500504875543657124f) * z + 0.0052017145691098889432f)
           * z - 0.026859690654925650771f) * z + 0.11283701170206815882f) * z - 0.37612634139700897582f)
           * z + 1.1283791666845073373f;
}
INL vf32 erf_far_f32(vf32 a) {
  return (((((((-1.643569653603832662e-6f * a + 0.000046177912790400042213f) * a - 0.00059774347196061107593f)
           * a + 0.0047635752491493492424f) * a - 0.026431017603369227328f) * a + 0.11009448082764899356f)
           * a + 0.63181451665938417775f) * a + 1.1302376163746712255f) * a - 0.00032044153127726644838f;
}
INL vf32 erfcx_poly_f32(vf32 q) {
  return (((((((((((-1.005446559e-5f * q + 3.155009273e-5f) * q + 0.0001105527262f) * q - 0.0001785889462f)
           * q - 0.0007317558351f) * q + 0.000608332748f) * q + 0.004362147269f) * q - 0.004009317846f) * q - 0.02711009303f)
           * q + 0.08202469768f) * q - 0.08301519564f) * q - 0.04638187991f) * q + 0.6384891908f;
}
INL vf32 mills_poly_f32(vf32 q) {
  return (((((((((((-1.208242711e-5f * q + 7.881449144e-7f) * q + 9.596848294e-5f) * q + 3.360889115e-5f)
           * q - 0.0005147902082f) * q - 0.000363227463f) * q + 0.00300784609f) * q + 0.001163107524f) * q - 0.02272940862f)
           * q + 0.04516361172f) * q - 0.016432187f) * q - 0.09652674812f) * q + 0.4860557934f;
}
ERF(f32, i32, u32, 4, 2, 3, 3.40282346638528859812e38f)
#endif
#if VB / V >= 8
INL vf64 erf_near_f64(vf64 z) {
  return ((((((((((-8.3553590296307424094e-10 * z + 1.3991163028791848003e-8) * z - 1.6265217135070095144e-7)
           * z + 1.6454133176577999852e-6) * z - 0.000014925229256877962431) * z + 0.00012055318099555519183)
           * z - 0.00085483266763308434401) * z + 0.0052239776203006570013) * z - 0.026866170644681349787)
           * z + 0.11283791670953089854) * z - 0.37612638903183716352) * z + 1.1283791670955125728;
}
INL vf64 erf_far_f64(vf64 a) {
  return ((((((((((((((((((((((5.6360447007161907687e-18 * a - 4.8587263201886747116e-16) * a + 1.9904841907651327622e-14)
           * a - 5.1563204046889581648e-13) * a + 9.4805719606698863746e-12) * a - 1.3162859319799331711e-10)
           * a + 1.4331828808109569724e-9) * a - 1.2540807947573743079e-8) * a + 8.9607367927741175787e-8)
           * a - 5.2778825261247265173e-7) * a + 2.5711693173305733921e-6) * a - 0.000010317362515091540655)
           * a + 0.000033549341007793879681) * a - 0.000084677430301613511574) * a + 0.0001457899024482145253)
           * a - 0.000072132100814281412636) * a - 0.00049432994083587641759) * a + 0.001621272355375354545)
           * a - 0.00016328351805458445039) * a - 0.019149755963284145868) * a + 0.10277971008491301789)
           * a + 0.63661821670608840538) * a + 1.1283793532632782441) * a - 7.1622202443081361868e-9;
}
INL vf64 erfcx_poly_f64(vf64 q) {
  return (((((((((((((((((((((((-1.38206011686728901e-10 * q + 4.64881263185482985e-10) * q + 1.616198672254101632e-9)
           * q - 6.169365701899221844e-9) * q - 1.036290124409098088e-8) * q + 5.315908796909074114e-8)
           * q + 3.885971620543456412e-8) * q - 4.10532396664866817e-7) * q + 1.458671278654486658e-7)
           * q + 2.853289149620370272e-6) * q - 5.610567832982953548e-6) * q - 0.00001219886557151164618)
           * q + 0.00007531071304325972355) * q - 0.00009962857623632589161) * q - 0.0003788866217971288056)
           * q + 0.0025159850345511279) * q - 0.008098867031467385314) * q + 0.0185837577631690018)
           * q - 0.03316518290593029125) * q + 0.04686641749955631974) * q - 0.05051953301815905815)
           * q + 0.03404852712733419121) * q + 0.007689826051309987156) * q - 0.06981055842028114175)
           * q + 0.6164975593127762545;
}
INL vf64 mills_poly_f64(vf64 q) {
  return (((((((((((((((((((((((2.458700103653154039e-11 * q - 3.80799019186919702e-10) * q - 4.296994064448403116e-10)
           * q + 4.396651284991786944e-9) * q + 4.014450963422496227e-9) * q - 3.094072368373558356e-8)
           * q - 2.686974680450926917e-8) * q + 1.962619690255815135e-7) * q + 1.284360766674355034e-7)
           * q - 1.307434133322505228e-6) * q - 7.069866488800462349e-8) * q + 9.059816217438934037e-6)
           * q - 9.89594942418456863e-6) * q - 0.00005360757786841580081) * q + 0.0001823341039982839123)
           * q + 7.791596609337356305e-6) * q - 0.001676072337330067749) * q + 0.006522000667904393725)
           * q - 0.0151704154032636501) * q + 0.02453696324366856305) * q - 0.02640104296626822034)
           * q + 0.01000235238522977293) * q + 0.03103036842596286899) * q - 0.09155228183400904013)
           * q + 0.4615158298500377758;
}
ERF(f64, i64, u64, 6, 4, 5, 1.79769313486231570815e308)
#endif
