// Numbers of one CUDA thread under the names of vector.h: a vector has one lane, V is 1.
//
// v<type> is a Lane: it behaves as a GNU C vector of one lane does. Comparisons give 0 or -1 in an integer of the same
// size, and a cast between types of the same size keeps the bits. The prelude above this file defines
//   VB    bytes of the kernel's widest type; wider ones are not defined
//   FLUSH_SUBNORMALS, unless precision="exact"
// No header is included, so that nothing but the compiler is needed. What is written in PTX comes first; tests that run
// kernels on the host define HOSTED, and those functions themselves.
#pragma nv_diag_suppress 186  // comparing an unsigned number with 0 is what macros for all types do
#define V 1
#define INL static __device__ __forceinline__
#define LONG static __device__ __noinline__
#define FUNCTION static __device__
#define TABLE static __device__ const
#define LANES for (int l = 0; l < V; ++l)
#define NATIVE 1  // functions.h and elementary.h leave out what is below
#define FILLS(n) 0
#define FUSED 1

// -- types ------------------------------------------------------------------------------------------------------------

typedef float f32;
typedef double f64;
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long long i64;
typedef unsigned char u8, b1;
typedef unsigned short u16, f16, bf16;
typedef unsigned int u32;
typedef unsigned long long u64;

// -- instructions -----------------------------------------------------------------------------------------------------

#ifndef HOSTED
#define INSTRUCTION1(name, R, A, text, r, a)         \
    INL R name(A x) {                                \
        R y;                                         \
        asm(text " %0, %1;" : r(y) : a(x));          \
        return y;                                    \
    }
#define INSTRUCTION2(name, text)                             \
    INL f32 name(f32 x, f32 y) {                             \
        f32 z;                                               \
        asm(text " %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y)); \
        return z;                                            \
    }
INSTRUCTION1(f32_of_f16, f32, u16, "cvt.f32.f16", "=f", "h")
INSTRUCTION1(f16_of_f32, u16, f32, "cvt.rn.f16.f32", "=h", "f")  // to nearest, half to even
INSTRUCTION1(exp2_near, f32, f32, "ex2.approx.ftz.f32", "=f", "f")
INSTRUCTION1(reciprocal_near, f32, f32, "rcp.approx.ftz.f32", "=f", "f")
INSTRUCTION1(log2_near, f32, f32, "lg2.approx.ftz.f32", "=f", "f")  // within 2^-22, of 1 or of a larger value
INSTRUCTION1(cos_near, f32, f32, "cos.approx.ftz.f32", "=f", "f")   // within 2^-20, and 2^-23 of the angle
INSTRUCTION1(minus, f32, f32, "neg.f32", "=f", "f")  // flushes nothing, so that the next instruction may do it by itself
INL f32 held(f32 x) {  // x, and the compiler may not fuse the product it came from
    asm volatile("" : "+f"(x));
    return x;
}
INL f64 held(f64 x) {
    asm volatile("" : "+d"(x));
    return x;
}
#if __CUDA_ARCH__ >= 800  // which keep NaN, as maximum and minimum do
INSTRUCTION2(max_or_nan, "max.NaN.f32")
INSTRUCTION2(min_or_nan, "min.NaN.f32")
#else
INL f32 max_or_nan(f32 a, f32 b) { return a > b || a != a ? a : b; }
INL f32 min_or_nan(f32 a, f32 b) { return a < b || a != a ? a : b; }
#endif
#endif

#define __builtin_inff() __int_as_float(0x7f800000)
#define __builtin_nanf(text) __int_as_float(0x7fc00000)
#define __builtin_inf() __longlong_as_double(0x7ff0000000000000ll)
#define __builtin_popcountll(x) __popcll(x)
#define __builtin_memcpy(to, from, size) memcpy(to, from, size)

template <int size> struct Integer;
template <> struct Integer<1> { typedef i8 type; };
template <> struct Integer<2> { typedef i16 type; };
template <> struct Integer<4> { typedef i32 type; };
template <> struct Integer<8> { typedef i64 type; };

template <class A, class B> INL A with_bits_of(B b) {
    static_assert(sizeof(A) == sizeof(B), "a cast between types of different sizes");
    A a;
    memcpy(&a, &b, sizeof a);
    return a;
}

template <class T> struct Lane {
    typedef Lane<typename Integer<sizeof(T)>::type> Mask;
    T x;
    __device__ __forceinline__ Lane() : x(0) {}
    __device__ __forceinline__ Lane(T x) : x(x) {}
    template <class U> __device__ __forceinline__ explicit Lane(Lane<U> b) : x(with_bits_of<T>(b.x)) {}
    __device__ __forceinline__ T &operator[](int) { return x; }
    __device__ __forceinline__ T operator[](int) const { return x; }
#define OPERATOR(op)                                                                                  \
    friend __device__ __forceinline__ Lane operator op(Lane a, Lane b) { return (T)(a.x op b.x); }    \
    friend __device__ __forceinline__ Lane &operator op##=(Lane &a, Lane b) { return a = a op b; }
#define COMPARISON(op) \
    friend __device__ __forceinline__ Mask operator op(Lane a, Lane b) { return a.x op b.x ? -1 : 0; }
    OPERATOR(+) OPERATOR(-) OPERATOR(*) OPERATOR(/) OPERATOR(&) OPERATOR(|) OPERATOR(^)
    COMPARISON(==) COMPARISON(!=) COMPARISON(<) COMPARISON(<=) COMPARISON(>) COMPARISON(>=)
#undef OPERATOR
#undef COMPARISON
    friend __device__ __forceinline__ Lane operator<<(Lane a, int n) { return (T)(a.x << n); }
    friend __device__ __forceinline__ Lane operator>>(Lane a, int n) { return (T)(a.x >> n); }
    friend __device__ __forceinline__ Lane operator-(Lane a) { return (T)-a.x; }
    friend __device__ __forceinline__ Lane operator~(Lane a) { return (T)~a.x; }
};
struct vb {
    bool x;
    __device__ __forceinline__ vb() : x(false) {}
    __device__ __forceinline__ explicit vb(bool x) : x(x) {}
    __device__ __forceinline__ bool operator[](int) const { return x; }
    friend __device__ __forceinline__ vb operator&(vb a, vb b) { return vb(a.x && b.x); }
    friend __device__ __forceinline__ vb operator|(vb a, vb b) { return vb(a.x || b.x); }
    friend __device__ __forceinline__ vb operator^(vb a, vb b) { return vb(a.x != b.x); }
    friend __device__ __forceinline__ vb operator~(vb a) { return vb(!a.x); }
};

// EACH(M, _): M(type, integer of its size, unsigned of its size, _) for each type.
#if VB >= 8
#define FLOAT64(M, _) M(f64, i64, u64, _)
#define INT64(M, _) M(i64, i64, u64, _) M(u64, i64, u64, _)
#else
#define FLOAT64(M, _)
#define INT64(M, _)
#endif
#define FLOAT32(M, _) M(f32, i32, u32, _)
#define INT32(M, _) M(i32, i32, u32, _) M(u32, i32, u32, _)
#define INT16(M, _) M(i16, i16, u16, _) M(u16, i16, u16, _)
#define INT8(M, _) M(i8, i8, u8, _) M(u8, i8, u8, _)
#define EACH_FLOAT(M, _) FLOAT32(M, _) FLOAT64(M, _)
#define EACH_INT(M, _) INT8(M, _) INT16(M, _) INT32(M, _) INT64(M, _)
#define EACH(M, _) EACH_FLOAT(M, _) EACH_INT(M, _)

#define VECTOR(T, I, U, _)                                                             \
    typedef Lane<T> v##T;                                                              \
    INL v##T zero_##T(void) { return (T)0; }                                           \
    INL v##T splat_##T(T s) { return s; }                                              \
    INL v##T unit_##T(i64 l) { return (T)(l == 0); }
EACH(VECTOR, )
INL vb zero_b1(void) { return vb(); }
INL vb splat_b1(int s) { return vb(s != 0); }
INL vb unit_b1(i64 l) { return vb(l == 0); }

// -- conversions ------------------------------------------------------------------------------------------------------

template <class A> struct Converted {
    template <class T> static __device__ __forceinline__ A from(Lane<T> a) { return (decltype(A().x))a.x; }
    static __device__ __forceinline__ A from(vb m) { return (decltype(A().x))(m.x ? -1 : 0); }
};
template <> struct Converted<vb> {
    template <class T> static __device__ __forceinline__ vb from(Lane<T> a) { return vb(a.x != 0); }
};
#define __builtin_convertvector(a, A) Converted<A>::from(a)

#define CONVERT(T, I, U, F) INL v##T T##_from_##F(v##F a) { return (T)a.x; }
EACH(CONVERT, f32) EACH(CONVERT, i8) EACH(CONVERT, u8) EACH(CONVERT, i16) EACH(CONVERT, u16) EACH(CONVERT, i32) EACH(CONVERT, u32)
#if VB >= 8
EACH(CONVERT, f64) EACH(CONVERT, i64) EACH(CONVERT, u64)
#endif
#define TRUTH(T, I, U, _)                                       \
    INL vb b1_from_##T(v##T a) { return vb(a.x != 0); }         \
    INL v##T T##_from_b1(vb m) { return (T)m.x; }
EACH(TRUTH, )
INL vb b1_from_b1(vb m) { return m; }

// -- choices and roundings --------------------------------------------------------------------------------------------

#define LANE1(name, T, f) INL v##T name##_##T(v##T a) { return (T)f(a.x); }
#define LANE2(name, T, f) INL v##T name##_##T(v##T a, v##T b) { return (T)f(a.x, b.x); }

// greater_of, lesser_of: the second operand if either is NaN; choose: a where m is set, else b
#define CHOOSE(T, I, U, _) \
    INL v##T choose_##T(v##I m, v##T a, v##T b) { return m.x ? a : b; }
EACH(CHOOSE, )
#define ROUNDINGS(T, I, U, s)                                                          \
    INL v##T greater_of_##T(v##T a, v##T b) { return a.x > b.x ? a : b; }              \
    INL v##T lesser_of_##T(v##T a, v##T b) { return a.x < b.x ? a : b; }               \
    LANE1(sqrt, T, sqrt##s)                                                            \
    LANE1(rint, T, rint##s)                                                            \
    LANE1(floor, T, floor##s)                                                          \
    LANE1(ceil, T, ceil##s)                                                            \
    LANE1(trunc, T, trunc##s)
FLOAT32(ROUNDINGS, f)
FLOAT64(ROUNDINGS, )

// -- is there any lane? -----------------------------------------------------------------------------------------------

#define ANY_BITS(I) INL int any_bits_##I(v##I m) { return m.x != 0; }
#if VB >= 8
ANY_BITS(i64)
#endif
ANY_BITS(i32) ANY_BITS(i16) ANY_BITS(i8)
#define ANY_PAIRS(T, I, U, _)                                                          \
    INL int any_less_##T(v##T a, v##T b) { return a.x < b.x; }                         \
    INL int any_not_ge_##T(v##T a, v##T b) { return !(a.x >= b.x); }                   \
    INL int any_not_le_##T(v##T a, v##T b) { return !(a.x <= b.x); }
EACH(ANY_PAIRS, )
INL int any_b1(vb m) { return m.x; }

// -- memory: there is one lane, at base -------------------------------------------------------------------------------

INL f32 f32_of_bf16(u16 h) { return __uint_as_float((u32)h << 16); }
INL u16 bf16_of_f32(f32 x) {
    const u32 b = __float_as_uint(x);
    if ((b & 0x7fffffff) > 0x7f800000) return (u16)(b >> 16 | 0x40);
    return (u16)((b + 0x7fff + (b >> 16 & 1)) >> 16);
}
INL f32 load_f16(const void *p) { return f32_of_f16(*(const u16 *)p); }
INL f32 load_bf16(const void *p) { return f32_of_bf16(*(const u16 *)p); }
INL void store_f16(void *p, f32 x) { *(u16 *)p = f16_of_f32(x); }
INL void store_bf16(void *p, f32 x) { *(u16 *)p = bf16_of_f32(x); }
#define MEMORY(T, I, U, _)                                                                                            \
    INL T load_##T(const void *p) { return *(const T *)p; }                                                          \
    INL void store_##T(void *p, T s) { *(T *)p = s; }                                                                \
    INL v##T load_lanes_##T(const void *base, i64 stride, int n) { return load_##T(base); }                          \
    INL void store_lanes_##T(void *base, i64 stride, int n, v##T a) { store_##T(base, a.x); }                        \
    INL void copy_##T(void *to, i64 step, const void *from, i64 stride, i64 inner, const i64 count, int n) {         \
        _Pragma("unroll 16") for (int m = 0; m < count; ++m)                                                         \
            store_##T((char *)to + m * sizeof(T), load_##T((const char *)from + m * inner));                         \
    }
EACH(MEMORY, )
INL int load_b1(const void *p) { return *(const b1 *)p != 0; }
INL void store_b1(void *p, int s) { *(b1 *)p = s != 0; }
INL vb load_lanes_b1(const void *base, i64 stride, int n) { return splat_b1(load_b1(base)); }
INL void store_lanes_b1(void *base, i64 stride, int n, vb m) { store_b1(base, m.x); }
INL vf32 load_lanes_f16(const void *base, i64 stride, int n) { return load_f16(base); }
INL vf32 load_lanes_bf16(const void *base, i64 stride, int n) { return load_bf16(base); }
INL void store_lanes_f16(void *base, i64 stride, int n, vf32 a) { store_f16(base, a.x); }
INL void store_lanes_bf16(void *base, i64 stride, int n, vf32 a) { store_bf16(base, a.x); }
INL vf32 as_float16_f32(vf32 x) { return f32_of_f16(f16_of_f32(x.x)); }
INL vf32 as_bfloat16_f32(vf32 x) { return f32_of_bf16(bf16_of_f32(x.x)); }

// -- functions that the processor or CUDA's own library has, within 2 ulp ---------------------------------------------

LANE2(maximum, f32, max_or_nan) LANE2(minimum, f32, min_or_nan)
LANE2(fmax, f32, fmaxf) LANE2(fmin, f32, fminf)
#if VB >= 8
INL vf64 maximum_f64(vf64 a, vf64 b) { return a.x > b.x || a.x != a.x ? a : b; }
INL vf64 minimum_f64(vf64 a, vf64 b) { return a.x < b.x || a.x != a.x ? a : b; }
LANE2(fmax, f64, fmax) LANE2(fmin, f64, fmin)
#endif

#ifdef FLUSH_SUBNORMALS
INL vf32 minus_f32(vf32 x) { return minus(x.x); }
LANE1(exp2, f32, exp2_near) LANE1(reciprocal, f32, reciprocal_near)
INL vf32 exp_f32(vf32 x) { return exp2_near(x.x * 1.44269504088896340736f); }
INL f32 exp2_by_terms(f32 x) {  // by multiply-adds, within 2^-22, and 1 of 0; 0 below 2^-125
    x = min_or_nan(max_or_nan(x, -126), 128);
    const f32 magic = 12582912 + 126, m = x + magic, n = m - magic, r = x - n;  // n, rounded: in the low bits of m
    f32 y = 2.65293e-3f * r + 1.934302e-2f;  // 2 * 2^r, whose exponent is not the largest
    y = ((y * r + 1.1101468e-1f) * r + 4.8044484e-1f) * r + 1.38629396f;
    return (y * r + 2) * __uint_as_float(__float_as_uint(m) << 23);
}
template <int turns> INL vf32 exp2_in_turns_f32(int turn, vf32 x) { return turn % turns ? exp2_near(x.x) : exp2_by_terms(x.x); }
// Logarithms near 1 are a series of what is beyond it.
INL f32 log_of(f32 x, f32 beyond, f32 unit) {
    const f32 t = beyond, series = ((((0.2f * t - 0.25f) * t + 0.333333333f) * t - 0.5f) * t + 1) * t;
    return fabsf(t) < 0.0625f ? series * unit : log2_near(x) * (unit * 0.693147181f);
}
INL vf32 log_f32(vf32 x) { return log_of(x.x, x.x - 1, 1); }
INL vf32 log2_f32(vf32 x) { return log_of(x.x, x.x - 1, 1.44269504f); }
INL vf32 log10_f32(vf32 x) { return log_of(x.x, x.x - 1, 0.434294482f); }
INL vf32 log1p_f32(vf32 x) { return log_of(1 + x.x, x.x, 1); }
INL vf32 cos_log_f32(vf32 x) { return cos_near(log2_near(x.x) * 0.693147181f); }  // an angle of 103 at most
#else
LANE1(exp2, f32, exp2f) LANE1(exp, f32, expf)
INL vf32 reciprocal_f32(vf32 x) { return 1 / x.x; }
LANE1(log, f32, logf) LANE1(log2, f32, log2f) LANE1(log10, f32, log10f) LANE1(log1p, f32, log1pf)
#endif
#define LIBRARY(T, I, U, s) LANE1(expm1, T, expm1##s) LANE1(tanh, T, tanh##s) LANE1(rsqrt, T, rsqrt##s)
FLOAT32(LIBRARY, f)
#if VB >= 8
LANE1(exp2, f64, exp2) LANE1(exp, f64, exp)
INL vf64 reciprocal_f64(vf64 x) { return 1 / x.x; }
LANE1(log, f64, log) LANE1(log2, f64, log2) LANE1(log10, f64, log10) LANE1(log1p, f64, log1p)
FLOAT64(LIBRARY, )
#endif

// -- products and their rounding errors (elementary.h) ----------------------------------------------------------------

#define FUSED_LANE(T, I, U, s)                                                                   \
    INL v##T fused_##T(v##T a, v##T b, v##T c) { return fma##s(a.x, b.x, c.x); }                 \
    INL v##T held_##T(v##T x) { return held(x.x); }
FLOAT32(FUSED_LANE, f)
#if VB >= 8
FLOAT64(FUSED_LANE, )
#endif
#define __builtin_fmodf fmodf
#define __builtin_fmod fmod
#define __builtin_sinf sinf
#define __builtin_sin sin
#define __builtin_cosf cosf
#define __builtin_cos cos
#define __builtin_tanf tanf
#define __builtin_tan tan
