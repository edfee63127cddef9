// Special functions of float vectors. Comes after elementary.h, in kernels that use one of these. Polynomials are of least
// largest error, by mpmath's chebyfit.

// -- the gamma function's logarithm and its derivatives ---------------------------------------------------------------

// lgamma: steps of the recurrence to 1.5 <= y < 2.5 and a polynomial in y - 2; beyond `large` Stirling's series.
// digamma: the recurrence up to `large`, as one fraction, and the asymptotic series. Both reflect negative numbers.
#define GAMMAS(T, I, U, large, steps) \
  LONG v##T lgamma_##T(v##T x) { \
    v##T a = abs_##T(x), one = splat_##T(1), zero = {}, inf = splat_##T(INFINITE(T)), y = a, p = one; \
    v##I far = (v##I)(a >= (T)(large)), below = (v##I)(a < (T)1.5), least = (v##I)(a < (T)0.5); \
    for (int k = 0; k < steps - 2; ++k) { \
      v##I up = (v##I)(y >= (T)2.5); \
      y = choose_##T(up, y - (T)1, y), p = choose_##T(up, p * y, p); \
    } \
    p = choose_##T(below, choose_##T(least, a * (a + (T)1), a), p); \
    v##T t = choose_##T(least, a, choose_##T(below, a - (T)1, y - (T)2)); \
    v##T log = log_##T(choose_##T(far, a, p)), r = one / a; \
    v##T value = t * lgamma_poly_##T(t) + choose_##T(below, -log, log); \
    value = choose_##T(far, (a - (T)0.5) * (log - (T)1) + ((T)0.41893853320467274178 + r * stirling_poly_##T(r * r)), value); \
    v##I left = (v##I)(x < -splat_##T((T)1e-16)); \
    if (any_bits_##I(left)) { /* pi / |x sin(pi x)| = gamma(|x|) |gamma(x)| */ \
      v##T d = a - rint_##T(a), c, s = abs_##T(sin_cos_##T(d * (T)3.14159265358979323846, &c)); \
      v##T other = log_##T((T)3.14159265358979323846 / (a * s)) - value; \
      other = choose_##T((v##I)(d == zero) | (v##I)(a == inf), inf, other); \
      value = choose_##T(left, other, value); \
    } \
    return value; } \
  LONG v##T digamma_##T(v##T x) { \
    v##T zero = {}, y = x, top = zero, under = splat_##T(1); \
    v##I left = (v##I)(x < zero); \
    y = choose_##T(left, (T)1 - x, x); \
    for (int k = 0; k < steps; ++k) { \
      v##I up = (v##I)(y < (T)(large)); \
      top = choose_##T(up, top * y + under, top), under = choose_##T(up, under * y, under), y = choose_##T(up, y + (T)1, y); \
    } \
    v##T r = (T)1 / y, value = log_##T(y) - (T)0.5 * r - r * r * digamma_poly_##T(r * r) - top / under; \
    if (any_bits_##I(left)) { \
      v##T d = x - rint_##T(x), c, s = sin_cos_##T(d * (T)3.14159265358979323846, &c); \
      v##T other = value - (T)3.14159265358979323846 * c / s; \
      other = choose_##T((v##I)(d == zero), splat_##T(UNDEFINED(T)), other); \
      value = choose_##T(left, other, value); \
    } \
    return choose_##T((v##I)(x == zero), copysign_##T(splat_##T(INFINITE(T)), -x), value); }
#if VB / V >= 4
INL vf32 lgamma_poly_f32(vf32 t) {
  return ((((((0.000563159199f * t - 0.001312562382f) * t + 0.002881965559f) * t - 0.007366421845f) * t + 0.02058123943f)
           * t - 0.06735326574f) * t + 0.3224670301f) * t + 0.4227843426f;
}
INL vf32 stirling_poly_f32(vf32 w) {
  return (0.0007526791204f * w - 0.002777034759f) * w + 0.0833333313f;
}
INL vf32 digamma_poly_f32(vf32 w) {
  return (0.003620357072f * w - 0.008325446084f) * w + 0.08333330611f;
}
GAMMAS(f32, i32, u32, 4.5, 5)
#endif
#if VB / V >= 8
INL vf64 lgamma_poly_f64(vf64 t) {
  return ((((((((((((((((2.747539005190966392e-7 * t - 5.811277768921246198e-7) * t + 9.242852225162276742e-7)
           * t - 1.974310688842106744e-6) * t + 4.382854538384666772e-6) * t - 9.456288515101719174e-6)
           * t + 0.0000205060197017476186) * t - 0.00004492372756424765259) * t + 0.00009945761692157133132)
           * t - 0.0002231549774629272317) * t + 0.000509669519652667278) * t - 0.001192753900998308694)
           * t + 0.002890510330865900928) * t - 0.0073855510289355447) * t + 0.02058080842778337976)
           * t - 0.06735230105319563865) * t + 0.32246703342411322) * t + 0.4227843350984671356;
}
INL vf64 stirling_poly_f64(vf64 w) {
  return ((((-0.001652600445559512183 * w + 0.0008372834512071335849) * w - 0.0005952025951802712752)
           * w + 0.000793650664948825171) * w - 0.002777777777606244099) * w + 0.08333333333333329614;
}
INL vf64 digamma_poly_f64(vf64 w) {
  return (((((0.06362150587634356178 * w - 0.02069798737237049383) * w + 0.007571689620283901515)
           * w - 0.004166644823049700208) * w + 0.003968253911953708705) * w - 0.008333333333278636145)
           * w + 0.08333333333333332462;
}
GAMMAS(f64, i64, u64, 8, 8)
#endif

// Bernoulli numbers B2, B4, ... B24
TABLE double BERNOULLI[12] __attribute__((unused)) = {
  1.0 / 6, -1.0 / 30, 1.0 / 42, -1.0 / 30, 5.0 / 66, -691.0 / 2730, 7.0 / 6, -3617.0 / 510, 43867.0 / 798, -174611.0 / 330,
  854513.0 / 138, -236364091.0 / 2730};

// The n-th derivative of digamma, n >= 0, is n! (-1)^(n+1) times the sum of (x + k)^-s over k >= 0, s = n + 1. Where x + k
// is above L or below -L, zeta_tail is the sum, by Euler and Maclaurin; between, the terms are added.
#define POLYGAMMA(T, I, U, _) \
  INL v##T falling_##T(v##T x, v##T s, int square) { return square ? (T)1 / (x * x) : power_##T(x, -s); } /* x^-s */ \
  INL v##T zeta_tail_##T(v##T s, v##T x, int square) { \
    v##T power = falling_##T(x, s, square), q = (T)1 / (x * x), rise = s * power / x, sum = x * power / (s - (T)1) + (T)0.5 * power; \
    for (int k = 0; k < 12; ++k) { /* rise = s (s+1) ... (s+2k) / (2k+2)! x^-(s+2k+1) */ \
      sum += (T)(BERNOULLI[k] / 2) * rise; \
      rise *= (s + (T)(2 * k + 1)) * (s + (T)(2 * k + 2)) * ((T)(1.0 / ((2 * k + 3) * (2 * k + 4))) * q); \
    } \
    return choose_##T((v##I)(x < splat_##T((T)1e18)), sum, zero_##T()); } \
  LONG v##T polygamma_##T(v##T n, v##T x) { \
    v##T zero = {}, one = splat_##T(1), limit = n + (T)12, s = n + (T)1, y = x, sum = zero; \
    int square = !any_bits_##I((v##I)(n != one)); /* trigamma, the derivative of digamma, has a faster way */ \
    v##I even = (v##I)(rint_##T(n * (T)0.5) == n * (T)0.5), left = (v##I)(x < -limit), pole = (v##I)(x <= zero) & (v##I)(rint_##T(x) == x); \
    pole |= (v##I)(x == -splat_##T(INFINITE(T))); \
    y = choose_##T(pole, one, y); \
    if (any_bits_##I(left)) { \
      v##T next = limit + (T)1 + (ceil_##T(y) - y); /* below -L, the terms' sizes are next, next + 1, ... -x */ \
      v##T part = zeta_tail_##T(s, next, square) - zeta_tail_##T(s, (T)1 - y, square); \
      sum = choose_##T(left & ~pole, choose_##T(even, -part, part), sum); \
      y = choose_##T(left & ~pole, (T)1 - next, y); \
    } \
    while (any_less_##T(y, limit)) { \
      v##I small = (v##I)(y < limit); \
      sum += choose_##T(small, falling_##T(y, s, square), zero); \
      y += choose_##T(small, one, zero); \
    } \
    sum += zeta_tail_##T(s, y, square); \
    for (int k = 2; any_less_##T(splat_##T((T)k - (T)0.5), n); ++k) sum *= choose_##T((v##I)(n > (T)k - (T)0.5), splat_##T((T)k), one); \
    sum = choose_##T(pole, splat_##T(INFINITE(T)), sum); \
    sum = choose_##T(even, choose_##T(pole, splat_##T(UNDEFINED(T)), -sum), sum); \
    if (any_bits_##I((v##I)(n == zero))) sum = choose_##T((v##I)(n == zero), digamma_##T(x), sum); \
    return choose_##T((v##I)(x != x) | (v##I)(x == -splat_##T(INFINITE(T))), splat_##T(UNDEFINED(T)), sum); }
EACH_FLOAT(POLYGAMMA, )

// -- the inverse of the error function --------------------------------------------------------------------------------

// Polynomials in w = -log(1 - x^2) and in its root (Giles); float64 takes them as the start of one step of Halley's
#define ERFINV(T, I, U, FINE, shift) \
  LONG v##T erfinv_##T(v##T x) { \
    v##T a = abs_##T(x), w = -log_##T(((T)1 - a) * ((T)1 + a)), t = erfinv_near_##T(w - (T)2.5); \
    v##I far = (v##I)(w > (T)5); \
    if (any_bits_##I(far)) t = choose_##T(far, erfinv_far_##T(sqrt_##T(w) - (T)(shift)), t); \
    t *= a; \
    if (FINE) { \
      v##T error = choose_##T((v##I)(a < (T)0.5), erf_##T(t) - a, ((T)1 - a) - erfc_##T(t)); \
      v##T step = error * (T)0.88622692545275801365 * exp_##T(t * t); \
      t -= step / ((T)1 + t * step); \
    } \
    return copysign_##T(choose_##T((v##I)(a == (T)1), splat_##T(INFINITE(T)), t), x); }
#if VB / V >= 4
INL vf32 erfinv_near_f32(vf32 w) {
  return ((((((((((1.234657711e-10f * w + 4.340626804e-10f) * w - 1.086176127e-8f) * w + 1.650364404e-8f)
           * w + 4.786897085e-7f) * w - 3.42626621e-6f) * w - 4.99600011e-6f) * w + 0.0002182641252f) * w - 0.001252707957f)
           * w - 0.00417732508f) * w + 0.2466402767f) * w + 1.501409352f;
}
INL vf32 erfinv_far_f32(vf32 s) {
  return (((((((((-3.380821567e-5f * s + 0.0001683279332f) * s - 0.0002746485414f) * s - 0.0001305201436f)
           * s + 0.001475974432f) * s - 0.003562303897f) * s + 0.005686866391f) * s - 0.00764359597f) * s + 0.009445429219f)
           * s + 1.001675277f) * s + 2.832976799f;
}
ERFINV(f32, i32, u32, 0, 3)
#endif
#if VB / V >= 8
INL vf64 erfinv_near_f64(vf64 w) {
  return ((((((((-8.931925970244221525e-9 * w + 2.333596719570810647e-8) * w + 4.681313480553412171e-7)
           * w - 3.463985267633371578e-6) * w - 4.972419689454751201e-6) * w + 0.0002183493862397664328)
           * w - 0.001252726391773229077) * w - 0.004177392875203148674) * w + 0.2466402790546366277)
           * w + 1.501409360450328833;
}
INL vf64 erfinv_far_f64(vf64 s) {
  return (((((((((((-3.284493043032300791e-7 * s + 1.510027323129351247e-6) * s + 8.072493199877126502e-7)
           * s - 0.00001483515006372212658) * s + 0.00002816362089132230196) * s - 0.0000233381940560025186)
           * s + 0.00003931625074938763382) * s - 0.0001250917883123608674) * s + 0.0003334377453655306029)
           * s - 0.000866424972811292527) * s + 0.001256359249314510286) * s + 1.009492971572824348)
           * s + 3.839783956234356052;
}
ERFINV(f64, i64, u64, 1, 4)
#endif

// -- modified Bessel functions: polynomials in x^2 / 4 up to 8, in 16 / x - 1 beyond ---------------------------------------

#define BESSEL(T, I, U, _) \
  INL v##T bessel_##T(v##T a, v##T near, v##T far) { \
    v##T y = choose_##T((v##I)(a <= (T)8), near, exp_sum_##T(a, zero_##T(), far)); \
    return choose_##T((v##I)(a == splat_##T(INFINITE(T))), splat_##T(UNDEFINED(T)), y); } /* as SciPy */ \
  INL v##T bessel_scaled_##T(v##T a, v##T near, v##T far) { return choose_##T((v##I)(a <= (T)8), near * exp_##T(-a), far); } \
  INL v##T i0_far_##T(v##T a) { return bessel0_far_##T((T)16 / a - (T)1) / sqrt_##T(a); } \
  INL v##T i1_far_##T(v##T a) { return bessel1_far_##T((T)16 / a - (T)1) / sqrt_##T(a); } \
  INL v##T i0_near_##T(v##T a) { return bessel0_near_##T((T)0.25 * a * a); } \
  INL v##T i1_near_##T(v##T a) { return (T)0.5 * a * bessel1_near_##T((T)0.25 * a * a); } \
  LONG v##T i0_##T(v##T x) { v##T a = abs_##T(x); return bessel_##T(a, i0_near_##T(a), i0_far_##T(a)); } \
  LONG v##T i0e_##T(v##T x) { v##T a = abs_##T(x); return bessel_scaled_##T(a, i0_near_##T(a), i0_far_##T(a)); } \
  LONG v##T i1_##T(v##T x) { v##T a = abs_##T(x); return copysign_##T(bessel_##T(a, i1_near_##T(a), i1_far_##T(a)), x); } \
  LONG v##T i1e_##T(v##T x) { v##T a = abs_##T(x); return copysign_##T(bessel_scaled_##T(a, i1_near_##T(a), i1_far_##T(a)), x); }
#if VB / V >= 4
INL vf32 bessel0_near_f32(vf32 z) {
  return (((((((((1.553641426e-13f * z + 4.237871076e-12f) * z + 6.909909682e-10f) * z + 3.832507336e-8f)
           * z + 1.938115978e-6f) * z + 6.939371255e-5f) * z + 0.001736286635f) * z + 0.02777742455f) * z + 0.2500003637f)
           * z + 0.9999998542f) * z + 1.00000001f;
}
INL vf32 bessel0_far_f32(vf32 u) {
  return (((((1.082989826e-7f * u + 3.631710305e-7f) * u + 1.47679211e-6f) * u + 1.111152546e-5f) * u + 0.0001362168431f)
           * u + 0.003360555852f) * u + 0.4021765094f;
}
INL vf32 bessel1_near_f32(vf32 z) {
  return (((((((((1.333558488e-14f * z + 4.896147553e-13f) * z + 7.442420716e-11f) * z + 4.837610387e-9f)
           * z + 2.762999743e-7f) * z + 1.157002757e-5f) * z + 0.0003472362138f) * z + 0.006944416299f) * z + 0.08333336231f)
           * z + 0.4999999884f) * z + 1.000000001f;
}
INL vf32 bessel1_far_f32(vf32 u) {
  return (((((-1.221249847e-7f * u - 4.215554373e-7f) * u - 1.826714505e-6f) * u - 1.500332307e-5f) * u - 0.0002192366694f)
           * u - 0.009749581527f) * u + 0.389398459f;
}
FLOAT32(BESSEL, )
#endif
#if VB / V >= 8
INL vf64 bessel0_near_f64(vf64 z) {
  return (((((((((((((((3.645438681267743271e-27 * z + 4.940670282542571533e-25) * z + 1.350958279694769937e-22)
           * z + 2.569874385751495668e-20) * z + 4.360036226917577633e-18) * z + 6.275862820937522005e-16)
           * z + 7.594079950279468804e-14) * z + 7.594056846699173385e-12) * z + 6.151187413177667273e-10)
           * z + 3.936759885673581458e-8) * z + 1.92901234577904049e-6) * z + 0.00006944444444424398499)
           * z + 0.001736111111111375859) * z + 0.02777777777777756574) * z + 0.2500000000000000893)
           * z + 0.9999999999999999851) * z + 1.0;
}
INL vf64 bessel0_far_f64(vf64 u) {
  return ((((((((((((((((((((((((2.082083585279310594e-11 * u - 5.905024573995147783e-11) * u - 1.506611368610147448e-10)
           * u + 4.478918184791181631e-10) * u + 5.122212147228388389e-10) * u - 1.593035479921634486e-9)
           * u - 1.144878955875503602e-9) * u + 3.598536291939471374e-9) * u + 2.105308013440342111e-9)
           * u - 5.91556056510856003e-9) * u - 3.905230623712341062e-9) * u + 7.406235049001522071e-9)
           * u + 7.737147033780933697e-9) * u - 5.394456734259438093e-9) * u - 1.346629294837395979e-8)
           * u - 6.750552282740284138e-9) * u + 7.566352487698236984e-9) * u + 2.154889361758629984e-8)
           * u + 3.932437699533458571e-8) * u + 8.872214307451732495e-8) * u + 2.973599622452122365e-7)
           * u + 1.483847568789493872e-6) * u + 0.00001114303378754538561) * u + 0.0001362160743918670672)
           * u + 0.003360551983667894483) * u + 0.4021765094450080775;
}
INL vf64 bessel1_near_f64(vf64 z) {
  return ((((((((((((((5.833651333188183583e-26 * z + 7.413211040554544002e-24) * z + 1.891028804078630795e-21)
           * z + 3.341004469709293776e-19) * z + 5.23199215997927508e-17) * z + 6.903459273672009656e-15)
           * z + 7.594078567160322755e-13) * z + 6.8346512944922529e-11) * z + 4.920949921538653262e-9)
           * z + 2.755731920403044293e-7) * z + 0.00001157407407453131988) * z + 0.00034722222222153508)
           * z + 0.006944444444445068442) * z + 0.08333333333333303592) * z + 0.500000000000000056)
           * z + 0.9999999999999999982;
}
INL vf64 bessel1_far_f64(vf64 u) {
  return ((((((((((((((((((((((((-1.967708327258438316e-11 * u + 6.135932778393811572e-11) * u + 1.417650842869536139e-10)
           * u - 4.656159795421694501e-10) * u - 4.798751536934022379e-10) * u + 1.657764699456318953e-9)
           * u + 1.071552863939807526e-9) * u - 3.753443387359129823e-9) * u - 1.992076551203188097e-9)
           * u + 6.202984113000443031e-9) * u + 3.803814960536081194e-9) * u - 7.863004697555056672e-9)
           * u - 7.816968266767898044e-9) * u + 5.963645798166707436e-9) * u + 1.408852075202544991e-8)
           * u + 6.737493433374832794e-9) * u - 8.438800905821370058e-9) * u - 2.337446787242447803e-8)
           * u - 4.312778920167609546e-8) * u - 1.000128261018934149e-7) * u - 3.483856740122971609e-7)
           * u - 1.834910135799155788e-6) * u - 0.00001503854719735857163) * u - 0.0002192357638338228316)
           * u - 0.00974957719323576742) * u + 0.3893984590258723283;
}
FLOAT64(BESSEL, )
#endif

// -- modified Bessel functions of any real order ------------------------------------------------------------------------

// K: both K_m and x K_(m+1), times e^x, for |m| <= 1/2: Temme's series up to 1; beyond, the integral of
// exp(-x (cosh t - 1)) cosh(m t) over t >= 0 by the trapezoidal rule, which errs by e^-REACH with POINTS points up to
// x (cosh t - 1) = REACH. The recurrence upwards leads to the order. I from K and the ratio of two I's, a continued
// fraction, or by the asymptotic series where x is large beside the order. Debye's expansions take orders above 60.
#define ORDERS(T, I, U, TERMS, POINTS, REACH, LARGE, SERIES) \
  LONG void temme_##T(v##T x, v##T m, v##T *k0, v##T *k1) { \
    v##T half = (T)0.5 * x, low, high = log_pair_##T(half, &low), e, p = product_##T(m, -high, &e), one = splat_##T(1); \
    e -= m * low; \
    v##T grown = exp_sum_##T(p, e, one), shrunk = exp_sum_##T(-p, -e, one), z = half * half; \
    v##T g1 = temme_gamma1_##T(m * m), g2 = temme_gamma2_##T(m * m), above = one / (g2 - m * g1), below = one / (g2 + m * g1); \
    v##T s = choose_##T((v##I)(p == zero_##T()), one, sinh_##T(p) / p); \
    v##T f = above * below * ((T)0.5 * (grown + shrunk) * g1 - s * high * g2); \
    v##T up = (T)0.5 * grown * above, down = (T)0.5 * shrunk * below, c = one, sum = f, next = up; \
    for (int k = 1; k < TERMS; ++k) { \
      v##T left = (T)1 / ((T)k - m), right = (T)1 / ((T)k + m); \
      f = ((T)k * f + up + down) * (left * right); \
      up *= left, down *= right, c *= z * ((T)1 / (T)k); \
      sum += c * f, next += c * (up - (T)k * f); \
    } \
    v##T scale = exp_##T(x); \
    *k0 = sum * scale, *k1 = (T)2 * next * scale; } \
  LONG void steps_of_k_##T(v##T x, v##T m, v##T *k0, v##T *k1) { \
    v##T u = splat_##T((T)(REACH)) / x, reach = log1p_##T(u + sqrt_##T(u * (u + (T)2))), h = reach * ((T)1 / (POINTS)); \
    v##T one = splat_##T(1), ahead = exp_##T(h), back = one / ahead, ma = exp_##T(m * h), mb = one / ma; \
    v##T g = ahead * ma, gb = back * mb, a = one, b = one, c = one, d = one, sum = one, next = one; \
    for (int k = 1; k <= POINTS; ++k) { \
      v##T s = sinh_##T(h * (T)(0.5 * k)), w = exp_##T((T)-2 * x * s * s); \
      a *= ma, b *= mb, c *= g, d *= gb; \
      sum += w * (a + b), next += w * (c + d); \
    } \
    *k0 = (T)0.5 * h * sum, *k1 = (T)0.5 * h * x * next; } \
  LONG v##T uniform_##T(v##T v, v##T x, int growing, int scaled) { /* Debye: I or K; scaled: by e^-x or e^x */ \
    v##T r = (T)1 / v, z = x * r, s = hypot_##T(z, splat_##T(1)), p = (T)1 / s; \
    v##T e = v * ((scaled ? (T)1 / (z + s) : s) - asinh_##T((T)1 / z)), sum = debye_##T(p, growing ? r : -r); \
    return growing ? exp_##T(e) * sqrt_##T((T)0.15915494309189533577 * p * r) * sum \
                   : exp_##T(-e) * sqrt_##T((T)1.57079632679489661923 * p * r) * sum; } \
  INL v##I beyond_##T(v##T v) { return (v##I)(v > (T)60); } \
  LONG v##T orders_of_k_##T(v##T v, v##T x, v##T *next) { /* e^x K_v(x) and e^x x K_(v+1)(x), 0 <= v <= 60, 0 < x */ \
    v##T n = rint_##T(v), m = v - n, k0 = {}, k1 = {}, one = splat_##T(1); \
    v##I near = (v##I)(x < one); \
    if (any_bits_##I(~near)) steps_of_k_##T(lesser_of_##T(splat_##T((T)1e20), greater_of_##T(one, x)), m, &k0, &k1); \
    if (any_bits_##I(near)) { \
      v##T s0, s1; temme_##T(lesser_of_##T(one, x), m, &s0, &s1); \
      k0 = choose_##T(near, s0, k0), k1 = choose_##T(near, s1, k1); \
    } \
    v##T order = m, k = zero_##T(); \
    while (any_less_##T(k, n)) { \
      v##I on = (v##I)(k < n); \
      k += (T)1, order += (T)1; \
      v##T up = k1 / x; \
      k1 = choose_##T(on, x * k0 + (T)2 * order * up, k1), k0 = choose_##T(on, up, k0); \
    } \
    *next = k1; \
    return choose_##T((v##I)(x != x) | (v##I)(v != v), x + v, k0); } \
  LONG v##T order_of_k_##T(v##T v, v##T x, int scaled) { \
    v##T a = abs_##T(v), inf = splat_##T(INFINITE(T)), next, k = {}; \
    v##I far = beyond_##T(a), odd = (v##I)(x < zero_##T()) | (v##I)(a == inf); \
    if (any_bits_##I(~far)) { \
      k = orders_of_k_##T(choose_##T(far, zero_##T(), a), x, &next); \
      k = choose_##T((v##I)(x > splat_##T((T)1e20)), sqrt_##T((T)1.57079632679489661923 / x), k); \
      if (!scaled) k = choose_##T((v##I)(k == inf), k, exp_sum_##T(-x, zero_##T(), k)); \
    } \
    if (any_bits_##I(far)) k = choose_##T(far, uniform_##T(a, x, 0, scaled), k); \
    if (scaled) odd |= (v##I)(x == inf); \
    else k = choose_##T((v##I)(x == inf), zero_##T(), k); \
    k = choose_##T(odd | (v##I)(v != v), splat_##T(UNDEFINED(T)), k); \
    return choose_##T((v##I)(x == zero_##T()), inf, k); } \
  INL v##T kve_##T(v##T v, v##T x) { return order_of_k_##T(v, x, 1); } \
  INL v##T kv_##T(v##T v, v##T x) { return order_of_k_##T(v, x, 0); } \
  LONG v##T order_of_i_##T(v##T v, v##T x, int scaled) { \
    v##T a = abs_##T(v), y = abs_##T(x), zero = {}, one = splat_##T(1), inf = splat_##T(INFINITE(T)), next, i = {}; \
    v##I far = beyond_##T(a), large = (v##I)(y > greater_of_##T(a * a, splat_##T((T)(LARGE)))) & ~far; \
    v##I whole = (v##I)(rint_##T(v) == v), left = (v##I)(v < zero) & ~whole; \
    if (any_bits_##I(~far)) { \
      v##T b = choose_##T(large | far, one, y), c = choose_##T(far, zero, a), k = orders_of_k_##T(c, b, &next), r = zero, over = (T)2 / b; \
      for (v##T j = ceil_##T(sqrt_##T((T)(REACH) * b)) + (T)(TERMS); any_less_##T(zero, j); j -= (T)1) \
        r = choose_##T((v##I)(j > zero), one / ((c + j) * over + r), r); \
      i = one / (next + y * (r * k)); \
      if (any_bits_##I(large)) { \
        v##T t = one, sum = one, w = (T)-0.125 / y, square = (T)4 * a * a; \
        for (int k = 1; k <= SERIES; ++k) { \
          t *= (square - (T)((2 * k - 1) * (2 * k - 1))) * w * (T)(1.0 / k); \
          sum += t; \
        } \
        i = choose_##T(large, sum * sqrt_##T((T)0.15915494309189533577 / y), i); \
      } \
      if (!scaled) i = exp_sum_##T(y, zero, i); \
    } \
    if (any_bits_##I(far)) i = choose_##T(far, uniform_##T(a, y, 1, scaled), i); \
    i = choose_##T((v##I)(y == zero), choose_##T((v##I)(a == zero), one, zero), i); \
    if (any_bits_##I(left)) { /* I of minus an order; the sine carries the sign */ \
      v##T c, s = sin_cos_##T((T)3.14159265358979323846 * (a - (T)2 * rint_##T((T)0.5 * a)), &c); \
      v##T k = order_of_k_##T(a, y, 0); \
      if (scaled) k *= exp_##T(-y); \
      i = choose_##T(left, i + (T)0.63661977236758134308 * s * k, i); \
    } \
    v##I odd = whole & (v##I)(rint_##T(v * (T)0.5) != v * (T)0.5); \
    i = choose_##T(odd & (v##I)(x < zero), -i, i); \
    v##I undefined = ((v##I)(x < zero) & ~whole) | (v##I)(y == inf) | (v##I)(a == inf) | (v##I)(x != x) | (v##I)(v != v); \
    return choose_##T(undefined, splat_##T(UNDEFINED(T)), i); } \
  INL v##T ive_##T(v##T v, v##T x) { return order_of_i_##T(v, x, 1); } \
  INL v##T iv_##T(v##T v, v##T x) { return order_of_i_##T(v, x, 0); } \
  LONG v##T k0e_##T(v##T x) { \
    v##T z = x * x, near = (k0_near_##T(z) - log_##T((T)0.5 * x) * i0_small_##T(z)) * exp_##T(x); \
    return bessel_k_##T(x, near, k0_far_##T((T)4 / x - (T)1)); } \
  LONG v##T k1e_##T(v##T x) { \
    v##T z = x * x, near = ((T)1 / x + x * (k1_near_##T(z) + log_##T((T)0.5 * x) * i1_small_##T(z))) * exp_##T(x); \
    return bessel_k_##T(x, near, k1_far_##T((T)4 / x - (T)1)); } \
  LONG v##T k0_##T(v##T x) { \
    v##T z = x * x, near = k0_near_##T(z) - log_##T((T)0.5 * x) * i0_small_##T(z); \
    return bessel_k_##T(x, near, exp_sum_##T(-x, zero_##T(), k0_far_##T((T)4 / x - (T)1))); } \
  LONG v##T k1_##T(v##T x) { \
    v##T z = x * x, near = (T)1 / x + x * (k1_near_##T(z) + log_##T((T)0.5 * x) * i1_small_##T(z)); \
    return bessel_k_##T(x, near, exp_sum_##T(-x, zero_##T(), k1_far_##T((T)4 / x - (T)1))); }
#define BESSEL_K(T, I, U, _) \
  INL v##T bessel_k_##T(v##T x, v##T near, v##T far) { /* far: times the root of x */ \
    v##T y = choose_##T((v##I)(x <= (T)2), near, far / sqrt_##T(x)), zero = {}; \
    y = choose_##T((v##I)(x == zero), splat_##T(INFINITE(T)), y); \
    return choose_##T((v##I)(x < zero), splat_##T(UNDEFINED(T)), y); }
EACH_FLOAT(BESSEL_K, )
#if VB / V >= 4
INL vf32 temme_gamma1_f32(vf32 z) {
  return ((-0.007107919349f * z + 0.04218022399f) * z + 0.04200351379f) * z - 0.5772156718f;
}
INL vf32 temme_gamma2_f32(vf32 z) {
  return (((-0.001085471114f * z - 0.00963938121f) * z + 0.1665401648f) * z - 0.6558781201f) * z + 1.0f;
}
INL vf32 k0_near_f32(vf32 z) {
  return ((((1.267343791e-7f * z + 1.01637167e-5f) * z + 0.000545294925f) * z + 0.01441840651f) * z + 0.1056961177f)
           * z - 0.5772156668f;
}
INL vf32 k1_near_f32(vf32 z) {
  return ((((-1.092645358e-8f * z - 1.085515053e-6f) * z - 7.493815107e-5f) * z - 0.002837104724f)
           * z - 0.04204902344f) * z + 0.03860783259f;
}
INL vf32 i0_small_f32(vf32 z) {
  return ((((7.368968754e-8f * z + 6.754930219e-6f) * z + 0.0004340835859f) * z + 0.01562494752f) * z + 0.250000018f)
           * z + 0.999999999f;
}
INL vf32 i1_small_f32(vf32 z) {
  return ((((6.06887874e-9f * z + 6.76269468e-7f) * z + 5.425743059e-5f) * z + 0.002604162946f) * z + 0.06250000128f)
           * z + 0.4999999999f;
}
INL vf32 k0_far_f32(vf32 u) {
  return (((((((1.051685669e-6f * u - 2.977620741e-6f) * u + 6.749838404e-6f) * u - 2.409717983e-5f)
           * u + 9.96332931e-5f) * u - 0.0004799523801f) * u + 0.00303288628f) * u - 0.0310714479f) * u + 1.218595339f;
}
INL vf32 k1_far_f32(vf32 u) {
  return (((((((-1.270621055e-6f * u + 3.668394118e-6f) * u - 8.664350231e-6f) * u + 3.208398722e-5f)
           * u - 0.0001396757154f) * u + 0.0007359423212f) * u - 0.005566723382f) * u + 0.1033497212f)
           * u + 1.36315189f;
}
INL vf32 debye_f32(vf32 p, vf32 r) { // the sum of u_k(p) r^k
  vf32 w = p * p, q = p * r;
  return (f32)1 + q * ((-0.208333333f * w + 0.125f)
           + q * (((0.334201389f * w - 0.401041667f) * w + 0.0703125f)
           + q * (((-1.0258126f * w + 1.84646267f) * w - 0.891210938f) * w + 0.0732421875f)));
}
ORDERS(f32, i32, u32, 7, 8, 19, 16, 12)
#endif
#if VB / V >= 8
INL vf64 temme_gamma1_f64(vf64 z) {
  return ((((((-4.939580133523849467e-9 * z - 1.133504548062679282e-6) * z + 0.00002013495568503960125)
           * z + 0.0002152416622946765442) * z - 0.007218943245911071781) * z + 0.04219773455552083909)
           * z + 0.04200263503409551524) * z - 0.5772156649015328612;
}
INL vf64 temme_gamma2_f64(vf64 z) {
  return ((((((-2.005708936151091808e-7 * z - 1.252558357365913228e-6) * z + 0.0001280507200101469413)
           * z - 0.001165167643197373684) * z - 0.009621971524607897738) * z + 0.1665386113821892919)
           * z - 0.6558780715202526642) * z + 0.9999999999999999976;
}
INL vf64 k0_near_f64(vf64 z) {
  return ((((((((6.872289021185453903e-17 * z + 2.006206868945931869e-14) * z + 4.843339927583048411e-12)
           * z + 8.819879035027937602e-10) * z + 1.157035101253537448e-7) * z + 0.00001021401413519615871)
           * z + 0.0005451899602573268788) * z + 0.01441850523591340242) * z + 0.1056960837746168026)
           * z - 0.577215664901532861;
}
INL vf64 k1_near_f64(vf64 z) {
  return (((((((-1.206717572770342032e-15 * z - 3.116206564683606006e-13) * z - 6.540386133127711854e-11)
           * z - 1.011290493472014958e-8) * z - 1.089218260061801146e-6) * z - 0.00007493042905506754104)
           * z - 0.002837111983765247279) * z - 0.04204902094365391443) * z + 0.03860783245076642335;
}
INL vf64 i0_small_f64(vf64 z) {
  return ((((((((3.045242653561326605e-17 * z + 9.373259435491811238e-15) * z + 2.402867578777821699e-12)
           * z + 4.709501086185396932e-10) * z + 6.78168405793189024e-8) * z + 6.78168402745439545e-6)
           * z + 0.0004340277777779769061) * z + 0.01562499999999993775) * z + 0.2500000000000000075)
           * z + 0.9999999999999999998;
}
INL vf64 i1_small_f64(vf64 z) {
  return (((((((5.481464855453059414e-16 * z + 1.499736217903020631e-13) * z + 3.36401251806667214e-11)
           * z + 5.651401420587637287e-9) * z + 6.781684054619206063e-7) * z + 0.00005425347222013272529)
           * z + 0.002604166666667481197) * z + 0.06249999999999987779) * z + 0.500000000000000003;
}
INL vf64 k0_far_f64(vf64 u) {
  return ((((((((((((((((((((((-6.183509185741940971e-11 * u + 1.080629014951829558e-10)
           * u + 1.797798189995487666e-10) * u - 3.053902086800156525e-10) * u - 4.506683106759898186e-10)
           * u + 7.977983533091814662e-10) * u + 3.233433692180318706e-11) * u + 6.837018659348516865e-11)
           * u - 1.800677352339200447e-9) * u + 3.79119270361584617e-9) * u - 7.361827508028251873e-9)
           * u + 1.705667460533467234e-8) * u - 4.131061283701577625e-8) * u + 1.029512037649523917e-7)
           * u - 2.689135887009184373e-7) * u + 7.427807838466459761e-7) * u - 2.191176753940171633e-6)
           * u + 7.002245564109627356e-6) * u - 0.00002473520464665273994) * u + 0.00009956054742546008604)
           * u - 0.0004797690567629980955) * u + 0.003032891810275193423) * u - 0.03107146182488955413)
           * u + 1.218595338513390534;
}
INL vf64 k1_far_f64(vf64 u) {
  return ((((((((((((((((((((((6.737161738498079163e-11 * u - 1.180119103453553708e-10)
           * u - 1.948680720152237764e-10) * u + 3.315391829142187702e-10) * u + 4.921710202548385979e-10)
           * u - 8.740019154894708888e-10) * u - 2.104015257574648841e-11) * u - 1.058443028929702587e-10)
           * u + 2.034622046871117517e-9) * u - 4.313336112817399492e-9) * u + 8.491143224102360125e-9)
           * u - 1.982745796636716369e-8) * u + 4.843094038201199141e-8) * u - 1.220284967173792847e-7)
           * u + 3.229887386264042268e-7) * u - 9.067094776630645521e-7) * u + 2.730040312895641872e-6)
           * u - 8.961207299463647068e-6) * u + 0.0000328438656505786186) * u - 0.0001395902195683085621)
           * u + 0.0007357241549046456869) * u - 0.005566729880074450677) * u + 0.103349737753865268)
           * u + 1.363151890371341971;
}
INL vf64 debye_f64(vf64 p, vf64 r) { // the sum of u_k(p) r^k
  vf64 w = p * p, q = p * r;
  return (f64)1 + q * ((-0.20833333333333334 * w + 0.125)
           + q * (((0.3342013888888889 * w - 0.4010416666666667) * w + 0.0703125)
           + q * ((((-1.0258125964506173 * w + 1.8464626736111112) * w - 0.8912109375) * w + 0.0732421875)
           + q * (((((4.669584423426247 * w - 11.207002616222994) * w + 8.78912353515625) * w - 2.3640869140625) * w + 0.112152099609375)
           + q * ((((((-28.212072558200244 * w + 84.63621767460073) * w - 91.81824154324002) * w + 42.53499874538846) * w - 7.368794359479632) * w + 0.22710800170898438)
           + q * ((((((212.57013003921713 * w - 765.2524681411817) * w + 1059.9904525279999) * w - 699.5796273761325) * w + 218.1905117442116) * w - 26.491430486951554) * w + 0.5725014209747314))))));
}
ORDERS(f64, i64, u64, 13, 18, 41, 36, 26)
#endif

// -- the gamma function, and inverses of the complement of the error function --------------------------------------------

#define GAMMA(T, I, U, large, steps, most) \
  LONG v##T gamma_##T(v##T x) { /* as lgamma; Stirling's formula by two halves of the power */ \
    v##T a = abs_##T(x), one = splat_##T(1), zero = {}, y = a, p = one; \
    v##I far = (v##I)(a >= (T)(large)), below = (v##I)(a < (T)1.5), least = (v##I)(a < (T)0.5), left = (v##I)x < zero_##I(); \
    for (int k = 0; k < steps - 2; ++k) { \
      v##I up = (v##I)(y >= (T)2.5); \
      y = choose_##T(up, y - (T)1, y), p = choose_##T(up, p * y, p); \
    } \
    v##T t = choose_##T(least, a, choose_##T(below, a - (T)1, y - (T)2)), e = exp_##T(t * lgamma_poly_##T(t)); \
    v##T value = choose_##T(below, e / choose_##T(least, a * (a + (T)1), a), e * p); \
    if (any_bits_##I(far)) { \
      v##T b = lesser_of_##T(splat_##T((T)(most)), a), r = one / b, half = power_##T(b, (T)0.5 * b - (T)0.25); \
      v##T stirling = (half * (T)2.50662827463100050242) * exp_sum_##T(-b, r * stirling_poly_##T(r * r), one) * half; \
      value = choose_##T(far, stirling, value); \
    } \
    value = choose_##T((v##I)(a > (T)(most)), splat_##T(INFINITE(T)), value); \
    if (any_bits_##I(left)) { \
      v##T n = rint_##T(a), d = a - n, c, s = sin_cos_##T(d * (T)3.14159265358979323846, &c); \
      s = choose_##T((v##I)(rint_##T(n * (T)0.5) == n * (T)0.5), -s, s); \
      v##T other = (T)3.14159265358979323846 / (a * s) / value; \
      other = choose_##T((v##I)(d == zero) | ~(v##I)(a < splat_##T(INFINITE(T))), splat_##T(UNDEFINED(T)), other); \
      value = choose_##T(left, other, value); \
    } \
    value = choose_##T((v##I)(a < (T)(sizeof(T) == 4 ? 1e-8 : 1e-17)), one / x, value); /* also 1 / -0; a * s would be 0 */ \
    return choose_##T((v##I)(x != x), x, value); } \
  INL v##T rgamma_##T(v##T x) { \
    v##I pole = (v##I)(x < zero_##T()) & (v##I)(rint_##T(x) == x); \
    v##T near = choose_##T((v##I)(abs_##T(x) < (T)1e-20), x, (T)1 / gamma_##T(x)); \
    return choose_##T(pole, zero_##T(), near); } \
  LONG v##T upper_quantile_##T(v##T p) { /* z with ndtr(-z) = p below 0.1: Halley's steps for the logarithms */ \
    v##T log = log_##T(p), s = sqrt_##T((T)-2 * log); \
    v##T z = s - ((T)2.515517 + s * ((T)0.802853 + s * (T)0.010328)) / ((T)1 + s * ((T)1.432788 + s * ((T)0.189269 + s * (T)0.001308))); \
    for (int k = 0; k < (sizeof(T) == 4 ? 1 : 2); ++k) { \
      v##T m = mills_##T(z), e, q = product_##T(z, z, &e), slope = (T)0.39894228040143267794 / m; \
      v##T step = ((log_##T(m) - (T)0.5 * e) - ((T)0.5 * q + log)) / slope; \
      z += step / ((T)1 + (T)0.5 * step * (slope - z)); \
    } \
    return choose_##T((v##I)(p == zero_##T()), splat_##T(INFINITE(T)), z); } \
  LONG v##T erfcinv_##T(v##T y) { \
    v##T low = lesser_of_##T(y, (T)2 - y), z = erfinv_##T((T)1 - y); \
    v##I tail = (v##I)(low < (T)0.2); \
    if (any_bits_##I(tail)) \
      z = choose_##T(tail, copysign_##T((T)0.70710678118654752440 * upper_quantile_##T((T)0.5 * low), (T)1 - y), z); \
    return choose_##T((v##I)(low >= zero_##T()), z, splat_##T(UNDEFINED(T))); } \
  LONG v##T ndtri_##T(v##T p) { \
    v##T low = lesser_of_##T(p, (T)1 - p), z = (T)1.41421356237309504880 * erfinv_##T((T)2 * p - (T)1); \
    v##I tail = (v##I)(low < (T)0.1); \
    if (any_bits_##I(tail)) z = choose_##T(tail, copysign_##T(upper_quantile_##T(low), p - (T)0.5), z); \
    return choose_##T((v##I)(low >= zero_##T()), z, splat_##T(UNDEFINED(T))); }
#if VB / V >= 4
GAMMA(f32, i32, u32, 4.5, 5, 35.1)
#endif
#if VB / V >= 8
GAMMA(f64, i64, u64, 8, 8, 171.7)
#endif

// -- relative entropies, losses, and the transformations of Box and Cox --------------------------------------------------

#define LOSSES(T, I, U, _) \
  INL v##T exp10_##T(v##T x) { \
    v##T log10 = splat_##T((T)2.30258509299404568402), e, p = product_##T(x, log10, &e); \
    e += x * (T)(sizeof(T) == 4 ? -3.1975436344e-8 : -2.1707562233822493508e-16); \
    return exp_sum_##T(p, choose_##T((v##I)(abs_##T(x) < (T)400), e, zero_##T()), splat_##T(1)); } \
  LONG v##T rel_entr_##T(v##T x, v##T y) { \
    v##T zero = {}, ratio = x / y; \
    v##I near = (v##I)(ratio > (T)0.5) & (v##I)(ratio < (T)2), in = (v##I)(ratio > zero) & (v##I)(ratio < splat_##T(INFINITE(T))); \
    v##T log = choose_##T(near, log1p_##T((x - y) / y), choose_##T(in, log_##T(ratio), log_##T(x) - log_##T(y))); \
    v##T r = choose_##T((v##I)(x > zero) & (v##I)(y > zero), x * log, splat_##T(INFINITE(T))); \
    r = choose_##T((v##I)(x == zero) & (v##I)(y >= zero), zero, r); \
    return choose_##T((v##I)(x != x) | (v##I)(y != y), x + y, r); } \
  INL v##T kl_div_##T(v##T x, v##T y) { \
    v##T r = rel_entr_##T(x, y); \
    v##I outside = (v##I)(r == splat_##T(INFINITE(T))) & ~((v##I)(x > zero_##T()) & (v##I)(y > zero_##T())); \
    return choose_##T(outside, r, r - x + y); } \
  INL v##T huber_##T(v##T d, v##T r) { \
    v##T a = abs_##T(r), y = choose_##T((v##I)(a <= d), (T)0.5 * r * r, d * (a - (T)0.5 * d)); \
    return choose_##T((v##I)(d < zero_##T()), splat_##T(INFINITE(T)), y); } \
  INL v##T pseudo_huber_##T(v##T d, v##T r) { \
    v##T one = splat_##T(1), zero = {}, y = r * (r / (one + hypot_##T(one, r / d))); \
    y = choose_##T((v##I)(d == zero) | (v##I)(r == zero), zero, y); \
    y = choose_##T((v##I)(d > zero) & (v##I)(d < abs_##T(r)) & (v##I)(abs_##T(r) == splat_##T(INFINITE(T))), abs_##T(r), y); \
    return choose_##T((v##I)(d < zero), splat_##T(INFINITE(T)), y); } \
  INL v##T power_transform_##T(v##T log, v##T p) { /* (e^(p log) - 1) / p */ \
    v##T y = expm1_##T(p * log) / p; \
    return choose_##T((v##I)(abs_##T(p) < (T)1e-19), log, y); } \
  LONG v##T boxcox_##T(v##T x, v##T p) { return power_transform_##T(log_##T(x), p); } \
  LONG v##T boxcox1p_##T(v##T x, v##T p) { return power_transform_##T(log1p_##T(x), p); } \
  LONG v##T inv_boxcox_##T(v##T x, v##T p) { \
    return exp_##T(choose_##T((v##I)(p == zero_##T()), x, log1p_##T(p * x) / p)); } \
  LONG v##T inv_boxcox1p_##T(v##T x, v##T p) { \
    v##T q = p * x; \
    return expm1_##T(choose_##T((v##I)(p == zero_##T()) | (v##I)(abs_##T(q) < (T)1e-30), x, log1p_##T(q) / p)); }
EACH_FLOAT(LOSSES, )

// -- Bessel functions of orders 0 and 1: polynomials in x^2 up to 5, amplitude and phase in 25 / x^2 beyond ---------------

// The squares of the zeros below 5 are kept in two parts, so that J keeps its digits near them
#define CYLINDERS(T, I, U, z0, z0_low, z1, z2, z2_low) \
  INL v##T j0_inner_##T(v##T z) { return ((z - (T)(z0)) - (T)(z0_low)) * (z - (T)(z1)) * j0_near_##T(z); } \
  INL v##T j1_inner_##T(v##T x, v##T z) { return x * ((z - (T)(z2)) - (T)(z2_low)) * j1_near_##T(z); } \
  INL v##T waves_##T(v##T a, v##T *other) { /* sin + cos and sin - cos, over the root of pi a */ \
    v##T c, s, r = (T)0.56418958354775628695 / sqrt_##T(a); \
    if (is_far_##T(a)) s = sin_##T(a), c = cos_##T(a); else s = sin_cos_##T(a, &c); \
    *other = (s - c) * r; return (s + c) * r; } \
  LONG v##T j0_##T(v##T x) { \
    v##T a = abs_##T(x), b = (T)1 / greater_of_##T(splat_##T(5), a), w = (T)25 * b * b, m, p = waves_##T(a, &m); \
    return choose_##T((v##I)(a <= (T)5), j0_inner_##T(a * a), p * j0_p_##T(w) - m * (j0_q_##T(w) * b)); } \
  LONG v##T j1_##T(v##T x) { \
    v##T a = abs_##T(x), b = (T)1 / greater_of_##T(splat_##T(5), a), w = (T)25 * b * b, m, p = waves_##T(a, &m); \
    v##T far = m * j1_p_##T(w) + p * (j1_q_##T(w) * b); \
    far = choose_##T((v##I)(x < zero_##T()), -far, far); \
    return choose_##T((v##I)(a <= (T)5), j1_inner_##T(x, a * a), far); } \
  INL v##T right_of_0_##T(v##T x, v##T y) { \
    y = choose_##T((v##I)(x == zero_##T()), splat_##T(-INFINITE(T)), y); \
    return choose_##T((v##I)(x < zero_##T()), splat_##T(UNDEFINED(T)), y); } \
  LONG v##T y0_##T(v##T x) { \
    v##T b = (T)1 / greater_of_##T(splat_##T(5), x), w = (T)25 * b * b, m, p = waves_##T(x, &m), z = x * x; \
    v##T near = y0_near_##T(z) + (T)0.63661977236758134308 * log_##T(x) * j0_inner_##T(z); \
    return right_of_0_##T(x, choose_##T((v##I)(x <= (T)5), near, m * j0_p_##T(w) + p * (j0_q_##T(w) * b))); } \
  LONG v##T y1_##T(v##T x) { \
    v##T b = (T)1 / greater_of_##T(splat_##T(5), x), w = (T)25 * b * b, m, p = waves_##T(x, &m), z = x * x; \
    v##T near = x * y1_near_##T(z) + (T)0.63661977236758134308 * (log_##T(x) * j1_inner_##T(x, z) - (T)1 / x); \
    return right_of_0_##T(x, choose_##T((v##I)(x <= (T)5), near, m * (j1_q_##T(w) * b) - p * j1_p_##T(w))); }
#if VB / V >= 4
INL vf32 j0_near_f32(vf32 z) {
  return ((((((-2.054843428e-17f * z + 8.181075453e-15f) * z - 2.088310317e-12f) * z + 3.935270063e-10f)
           * z - 5.317851117e-8f) * z + 4.784355045e-6f) * z - 0.0002512023528f) * z + 0.005674693325f;
}
INL vf32 j1_near_f32(vf32 z) {
  return ((((((3.781738215e-16f * z - 1.38060005e-13f) * z + 3.144389674e-11f) * z - 5.187158978e-9f)
           * z + 6.019867552e-7f) * z - 4.541499229e-5f) * z + 0.001937384728f) * z - 0.03405537391f;
}
INL vf32 y0_near_f32(vf32 z) {
  return (((((((-1.175646121e-14f * z + 3.914587173e-12f) * z - 7.636832916e-10f) * z + 1.035032561e-7f)
           * z - 9.494307124e-6f) * z + 0.0005385992957f) * z - 0.01607395985f) * z + 0.1776060092f)
           * z - 0.07380429393f;
}
INL vf32 y1_near_f32(vf32 z) {
  return (((((((-6.919157249e-16f * z + 2.530601499e-13f) * z - 5.618740209e-11f) * z + 8.927629261e-9f)
           * z - 9.926376206e-7f) * z + 7.16425114e-5f) * z - 0.002955304909f) * z + 0.05434868776f)
           * z - 0.1960570906f;
}
INL vf32 j0_p_f32(vf32 w) {
  return (((5.001975045e-6f * w - 3.022407968e-5f) * w + 0.0001774870318f) * w - 0.002812271924f) * w + 0.9999999955f;
}
INL vf32 j0_q_f32(vf32 w) {
  return ((((6.775780759e-6f * w - 3.324447685e-5f) * w + 9.939045006e-5f) * w - 0.0003611163417f)
           * w + 0.002929507263f) * w - 0.1249999975f;
}
INL vf32 j1_p_f32(vf32 w) {
  return (((-5.816086227e-6f * w + 3.607551442e-5f) * w - 0.0002285031889f) * w + 0.004687242057f) * w + 1.000000005f;
}
INL vf32 j1_q_f32(vf32 w) {
  return ((((-7.616921718e-6f * w + 3.770819201e-5f) * w - 0.0001152543373f) * w + 0.0004416298354f)
           * w - 0.004101363241f) * w + 0.3749999973f;
}
CYLINDERS(f32, i32, u32, 5.783185958862305, 4.084479833675995e-09, 30.471261978149414, 14.681970596313477, 4.581041669471978e-08)
#endif
#if VB / V >= 8
INL vf64 j0_near_f64(vf64 z) {
  return ((((((((((-3.027341846156214643e-28 * z + 2.422940453295707887e-25) * z - 1.404841990728844667e-22)
           * z + 6.727688394207858876e-20) * z - 2.650497766961034844e-17) * z + 8.413184775762445893e-15)
           * z - 2.093121408406898368e-12) * z + 3.935827378974691375e-10) * z - 5.317886335202576046e-8)
           * z + 4.784356140904162459e-6) * z - 0.0002512023541494339441) * z + 0.005674693325155616431;
}
INL vf64 j1_near_f64(vf64 z) {
  return ((((((((((7.961220275215586311e-27 * z - 5.974709444910393006e-24) * z + 3.198200356008024375e-21)
           * z - 1.401330579836753591e-18) * z + 5.008652190605828193e-16) * z - 1.428217431381942564e-13)
           * z + 3.15424006912758471e-11) * z - 5.188298753339338696e-9) * z + 6.019939527899010968e-7)
           * z - 0.00004541501468060369381) * z + 0.001937384754414390837) * z - 0.03405537391318949128;
}
INL vf64 y0_near_f64(vf64 z) {
  return ((((((((((((6.413092053703545407e-28 * z - 5.199612456749734256e-25) * z + 2.981549017175649944e-22)
           * z - 1.403703917158711471e-19) * z + 5.431026436959050861e-17) * z - 1.693271024590859579e-14)
           * z + 4.143565686352434253e-12) * z - 7.693079897346314013e-10) * z + 1.03584760334568441e-7)
           * z - 9.495005205216202615e-6) * z + 0.0005386026668616449655) * z - 0.01607396802593841587)
           * z + 0.1776060168690671383) * z - 0.07380429510868722504;
}
INL vf64 y1_near_f64(vf64 z) {
  return (((((((((((-1.647630300242421974e-26 * z + 1.231795603210743198e-23) * z - 6.464417018781225602e-21)
           * z + 2.761313688259138502e-18) * z - 9.591428301574317426e-16) * z + 2.649480782034181248e-13)
           * z - 5.648024489809428368e-11) * z + 8.931879617689349218e-9) * z - 9.926740619295254097e-7)
           * z + 0.00007164268749971131492) * z - 0.002955305336079801535) * z + 0.05434868816051022967)
           * z - 0.1960570906462389473;
}
INL vf64 j0_p_f64(vf64 w) {
  return (((((((((((((((((3.33302690003747104e-7 * w - 3.288967134819931891e-6) * w + 0.00001506896052688806118)
           * w - 0.00004261572059884380393) * w + 0.00008348192189567802433) * w - 0.000120655959197183724)
           * w + 0.0001341073818994520718) * w - 0.0001184762093777634173) * w + 0.00008602777461384439953)
           * w - 0.00005364767421005692308) * w + 0.00003073813135401545683) * w - 0.00001795675315294266542)
           * w + 0.00001226819428982864512) * w - 0.00001125065455996237493) * w + 0.00001554865311868273988)
           * w - 0.00003664005769312682051) * w + 0.0001794433587067537021) * w - 0.002812499999994563668)
           * w + 0.9999999999999999925;
}
INL vf64 j0_q_f64(vf64 w) {
  return ((((((((((((((((((3.916317162530118192e-6 * w - 0.00004043086611904561835) * w + 0.0001942715581669309622)
           * w - 0.0005774908608279189033) * w + 0.0011911816671675671) * w - 0.001814001151668175598)
           * w + 0.002121260475258139594) * w - 0.001960293718995835514) * w + 0.001468166266656349326)
           * w - 0.0009166155965075629751) * w + 0.0004962269603687396413) * w - 0.0002479207617459614976)
           * w + 0.000125877274909717697) * w - 0.00007368546061647058371) * w + 0.00005637228179407546751)
           * w - 0.00006240966092030129516) * w + 0.0001105744098169813193) * w - 0.0003633728000115943922)
           * w + 0.002929687499980020669) * w - 0.1249999999999999751;
}
INL vf64 j1_p_f64(vf64 w) {
  return (((((((((((((((((-3.526435841840197515e-7 * w + 3.480287213398479725e-6) * w - 0.0000159482391447650423)
           * w + 0.00004511230035941193817) * w - 0.00008839850906624819049) * w + 0.0001278134160067573057)
           * w - 0.0001421447585239966431) * w + 0.0001256852561968776192) * w - 0.00009138663560651765972)
           * w + 0.00005711807260641590837) * w - 0.00003285321763545124753) * w + 0.0000193193473291949244)
           * w - 0.00001334091017492312146) * w + 0.00001243571151230785416) * w - 0.00001762187773911343739)
           * w + 0.00004330189060404909998) * w - 0.0002307128899203652338) * w + 0.004687499999994267227)
           * w + 1.000000000000000008;
}
INL vf64 j1_q_f64(vf64 w) {
  return ((((((((((((((((((-4.130029242996877204e-6 * w + 0.00004264147657487567174) * w - 0.0002049193189978740938)
           * w + 0.0006092390253512748127) * w - 0.00125692616264459633) * w + 0.001914643118420354325)
           * w - 0.002239788060281671962) * w + 0.002070932521063853607) * w - 0.001552263800855629006)
           * w + 0.0009703265706834528895) * w - 0.0005263767453036345921) * w + 0.0002638915112567475352)
           * w - 0.0001347621229706039924) * w + 0.00007961289104220996434) * w - 0.00006174483083207974536)
           * w + 0.00006975227339240557421) * w - 0.0001275858729085626039) * w + 0.0004441223115904942637)
           * w - 0.004101562499978993087) * w + 0.3749999999999999739;
}
CYLINDERS(f64, i64, u64, 5.783185962946784, 4.123247343506204e-16, 30.471262343662087, 14.681970642123893, -9.858177825793294e-17)
#endif
