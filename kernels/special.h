// Special functions that the C library lacks: scalar, in double, one lane after the other. Comes after vector.h.
//
// Each is a series, a recurrence or a Newton iteration that reaches double's last digits by itself, so there are hardly
// any tables; the numbers that do occur are Bernoulli numbers and pi, from mpmath. float32 rounds the double result.

#define ROOT_PI 1.7724538509055160273
#define PI 3.14159265358979323846

// x * y - p, where p is the rounded product
INL f64 product_error(f64 x, f64 y, f64 p) { return __builtin_fma(x, y, -p); }

// exp(x^2) erfc(x): the square's rounding error is put back; far out, the asymptotic series
INL f64 erfcx_f64_one(f64 x) {
  if (x != x) return x;
  if (x < -26.7) return __builtin_inf();
  if (x > 25) {
    f64 q = 1 / (2 * x * x), term = 1, sum = 1;
    for (int k = 1; k < 12; ++k) sum += term *= -(2 * k - 1) * q;
    return sum / x / ROOT_PI;
  }
  f64 p = x * x, e = product_error(x, x, p);
  return __builtin_exp(p) * (__builtin_erfc(x) * (1 + e));
}

// erfc(-x / sqrt 2) / 2, with the rounding error of the quotient put back
INL f64 ndtr_f64_one(f64 x) {
  f64 t = x * -0.70710678118654752440;
  if (t < 0 || t > 30 || t != t) return 0.5 * __builtin_erfc(t);
  f64 d = product_error(x, -0.70710678118654746172, t) - x * 6.2685835895251088856e-17;  // 1/sqrt 2 in two parts
  return 0.5 * (__builtin_erfc(t) - 2 / ROOT_PI * d * __builtin_exp(-t * t));
}
INL f64 log_ndtr_f64_one(f64 x) {
  if (x > -1) return __builtin_log1p(-ndtr_f64_one(-x));
  if (x < -1e155) return -__builtin_inf();
  return __builtin_log(0.5 * erfcx_f64_one(x * -0.70710678118654752440)) - 0.5 * x * x;
}

// Halley's iteration on erf, or on erfc near 1, from Winitzki's approximation (2e-3)
INL f64 erfinv_f64_one(f64 x) {
  f64 a = __builtin_fabs(x);
  if (!(a < 1)) return a == 1 ? x * __builtin_inf() : __builtin_nan("");
  if (a < 1e-8) return x * (ROOT_PI / 2);
  f64 l = __builtin_log1p(-a) + __builtin_log1p(a), b = 2 / (PI * 0.147) + 0.5 * l;
  f64 t = __builtin_sqrt(__builtin_sqrt(b * b - l / 0.147) - b);
  for (int k = 0; k < 3; ++k) {
    f64 error = a < 0.5 ? __builtin_erf(t) - a : (1 - a) - __builtin_erfc(t);
    f64 step = error * (ROOT_PI / 2) * __builtin_exp(t * t);
    t -= step / (1 + t * step);
  }
  return __builtin_copysign(t, x);
}

// Bessel functions I0 and I1 by their power series, beyond 30 by the asymptotic one. A term is the product of many
// factors, so its rounding errors are carried along.
INL f64 bessel_series(int order, f64 x) {
  f64 h = 0.5 * x, q = h * h, q_low = product_error(h, h, q);
  f64 term = order ? h : 1, low = 0, sum = term, lost = 0;
  for (int k = 1; k < 200 && term > 1e-18 * sum; ++k) {
    f64 n = (f64)k * (k + order), r = q / n, r_low = (q_low - product_error(r, n, q)) / n;
    f64 next = term * r;
    low = product_error(term, r, next) + term * r_low + low * r, term = next;
    f64 s = sum + term, part = s - sum;
    lost += (sum - (s - part)) + (term - part) + low, sum = s;
  }
  return sum + lost;
}
INL f64 bessel_tail(int order, f64 x) {  // without exp(x)
  f64 mu = 4.0 * order, term = 1, rest = 0;
  for (int k = 1; k < 30; ++k) {
    f64 next = term * ((2 * k - 1) * (2 * k - 1) - mu) / (k * 8 * x);
    if (__builtin_fabs(next) < 1e-18) break;
    rest += term = next;
  }
  return (1 + rest) / (2.50662827463100050242 * __builtin_sqrt(x));  // sqrt(2 pi x)
}
INL f64 times_exp(f64 y, f64 x) {  // y exp(x), which may be finite a little beyond exp(x)
  if (x < 700) return y * __builtin_exp(x);
  f64 half = __builtin_exp(0.5 * x);
  return half * y * half;
}
INL f64 i0_f64_one(f64 x) {
  x = __builtin_fabs(x);
  if (!(x > 30)) return bessel_series(0, x);
  return times_exp(bessel_tail(0, x), x);
}
INL f64 i0e_f64_one(f64 x) {
  x = __builtin_fabs(x);
  return x > 30 ? bessel_tail(0, x) : bessel_series(0, x) * __builtin_exp(-x);
}
INL f64 i1_f64_one(f64 x) {
  f64 a = __builtin_fabs(x);
  if (!(a > 30)) return __builtin_copysign(bessel_series(1, a), x);
  return __builtin_copysign(times_exp(bessel_tail(1, a), a), x);
}
INL f64 i1e_f64_one(f64 x) {
  f64 a = __builtin_fabs(x);
  return __builtin_copysign(a > 30 ? bessel_tail(1, a) : bessel_series(1, a) * __builtin_exp(-a), x);
}

// Bernoulli numbers B2, B4, ... B24
static const f64 BERNOULLI[12] __attribute__((unused)) = {
  1.0 / 6, -1.0 / 30, 1.0 / 42, -1.0 / 30, 5.0 / 66, -691.0 / 2730, 7.0 / 6, -3617.0 / 510, 43867.0 / 798, -174611.0 / 330,
  854513.0 / 138, -236364091.0 / 2730};

// digamma: reflection to x > 0, recurrence to x >= 12, then log(x) - 1/(2x) - sum B2k / (2k x^2k)
INL f64 digamma_f64_one(f64 x) {
  f64 r = 0;
  if (x == 0) return __builtin_copysign(__builtin_inf(), -x);
  if (x < 0) {
    f64 d = x - __builtin_rint(x);
    if (d == 0 || x - x != 0) return __builtin_nan("");
    r = -PI / __builtin_tan(PI * d);
    x = 1 - x;
  }
  while (x < 12) r -= 1 / x, x += 1;
  if (x - x != 0) return x;
  f64 q = 1 / (x * x), power = q, sum = 0;
  for (int k = 0; k < 10; ++k) sum += BERNOULLI[k] / (2 * (k + 1)) * power, power *= q;
  return r + (__builtin_log(x) - 0.5 / x - sum);
}

// The n-th derivative of digamma, n >= 1: n! zeta(n + 1, x) (-1)^(n+1), by recurrence and Euler-Maclaurin
INL f64 polygamma_f64_one(f64 order, f64 x) {
  int n = (int)order;
  if (n == 0) return digamma_f64_one(x);
  if (x != x || x < -1e15) return __builtin_nan("");
  f64 s = n + 1, sum = 0, mirrored = 0, factor = 1;
  if (x <= 0 && x == __builtin_rint(x)) return n % 2 ? __builtin_inf() : __builtin_nan("");
  if (n == 1 && x < 0) {
    f64 w = PI / __builtin_sin(PI * (x - __builtin_rint(x)));
    mirrored = w * w, factor = -1, x = 1 - x;
  }
  while (x < 12 + n) sum += __builtin_pow(x, -s), x += 1;
  f64 power = __builtin_pow(x, -s), rise = s * power / x;
  sum += x * power / (s - 1) + 0.5 * power;
  if (x - x != 0) sum = 0;
  else for (int k = 0; k < 12; ++k) {  // rise = s (s+1) ... (s+2k) / (2k+2)! x^-(s+2k+1)
    sum += BERNOULLI[k] * rise / 2;
    rise *= (s + 2 * k + 1) * (s + 2 * k + 2) / ((2 * k + 3) * (2 * k + 4) * x * x);
  }
  for (int k = 2; k <= n; ++k) sum *= k;
  return mirrored + factor * (n % 2 ? sum : -sum);
}

INL f64 lgamma_f64_one(f64 x) { return __builtin_lgamma(x); }

#define SPECIAL(T, I, U, _) \
  LANE1(lgamma, T, lgamma_f64_one) LANE1(digamma, T, digamma_f64_one) LANE2(polygamma, T, polygamma_f64_one) \
  LANE1(erfinv, T, erfinv_f64_one) LANE1(erfcx, T, erfcx_f64_one) LANE1(ndtr, T, ndtr_f64_one) \
  LANE1(log_ndtr, T, log_ndtr_f64_one) LANE1(i0, T, i0_f64_one) LANE1(i0e, T, i0e_f64_one) LANE1(i1, T, i1_f64_one) \
  LANE1(i1e, T, i1e_f64_one)
EACH_FLOAT(SPECIAL, )
