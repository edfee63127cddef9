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
static const double BERNOULLI[12] __attribute__((unused)) = {
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
    return choose_##T((v##I)(x < splat_##T((T)1e18)), sum, (v##T){}); } \
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
    v##T y = choose_##T((v##I)(a <= (T)8), near, exp_sum_##T(a, (v##T){}, far)); \
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
