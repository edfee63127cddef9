// Vectors of V lanes, and the elementwise functions on them.
//
// The prelude above this file defines
//   V     lanes; every vector in a kernel has V of them
//   VB    bytes of the widest vector: 64, 32 or 16; VB / V is the size of the kernel's widest type
// A type wider than VB / V has no vector here. Names are <function>_<type>, with types
//   f32 f64 i8 i16 i32 i64 u8 u16 u32 u64   numbers;  vf32 ... are their vectors
//   b1                                      truth: one byte in memory, a lane of vb (0 or -1) in vectors
//   f16 bf16                                in memory only; a vector of them is a vf32
// Values are NumPy's: NaN, infinities, signed zeros, wraparound, x // 0 == 0 for integers.
//
// Plain GNU C for gcc, clang and zig cc. One-line assembly, where the compilers have no common name for an instruction
// and make poor code of plain C, is used when a vector fills a register; NOASM selects the plain forms everywhere.
// Compile with -ffp-contract=fast or off, never with -ffast-math: NaN has to be seen.
#ifndef VB
# if defined __AVX512F__
#  define VB 64
# elif defined __AVX__
#  define VB 32
# else
#  define VB 16
# endif
#endif
#ifndef V
# define V (VB / 4)
#endif
#define INL static inline __attribute__((always_inline, unused))
#define LONG static __attribute__((noinline, unused)) // long functions: one copy for a whole tile
#define LANES for (int l = 0; l < V; ++l)

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
#if VB / V == 8
typedef i64 lane;  // of vb
#elif VB / V == 4
typedef i32 lane;
#elif VB / V == 2
typedef i16 lane;
#else
typedef i8 lane;
#endif
typedef lane vb __attribute__((vector_size(V * sizeof(lane))));

// EACH(M, _): M(type, integer of its size, unsigned of its size, _) for each type that has a vector here.
#if VB / V >= 8
# define FLOAT64(M, _) M(f64, i64, u64, _)
# define INT64(M, _) M(i64, i64, u64, _) M(u64, i64, u64, _)
#else
# define FLOAT64(M, _)
# define INT64(M, _)
#endif
#if VB / V >= 4
# define FLOAT32(M, _) M(f32, i32, u32, _)
# define INT32(M, _) M(i32, i32, u32, _) M(u32, i32, u32, _)
#else
# define FLOAT32(M, _)
# define INT32(M, _)
#endif
#if VB / V >= 2
# define INT16(M, _) M(i16, i16, u16, _) M(u16, i16, u16, _)
#else
# define INT16(M, _)
#endif
#define INT8(M, _) M(i8, i8, u8, _) M(u8, i8, u8, _)
#define EACH_FLOAT(M, _) FLOAT32(M, _) FLOAT64(M, _)
#define EACH_INT(M, _) INT8(M, _) INT16(M, _) INT32(M, _) INT64(M, _)
#define EACH(M, _) EACH_FLOAT(M, _) EACH_INT(M, _)

#define VECTOR(T, I, U, _) \
  typedef T v##T __attribute__((vector_size(V * sizeof(T)))); \
  typedef T loose_##T __attribute__((vector_size(V * sizeof(T)), aligned(1), may_alias)); \
  INL v##T splat_##T(T s) { return s - (v##T){}; } \
  INL v##T unit_##T(i64 l) { v##T r = {}; if (l >= 0 && l < V) r[l] = 1; return r; } /* 1 in lane l */
EACH(VECTOR, )
INL vb splat_b1(int s) { return (lane)(s ? -1 : 0) - (vb){}; }
INL vb unit_b1(i64 l) { vb r = {}; if (l >= 0 && l < V) r[l] = -1; return r; }

// -- conversions ------------------------------------------------------------------------------------------------------

#define CONVERT(T, I, U, F) INL v##T T##_from_##F(v##F a) { return __builtin_convertvector(a, v##T); }
#define CONVERT_FROM(F) EACH(CONVERT, F)
#if VB / V >= 8
CONVERT_FROM(f64)
CONVERT_FROM(i64)
CONVERT_FROM(u64)
#endif
#if VB / V >= 4
CONVERT_FROM(f32)
CONVERT_FROM(i32)
CONVERT_FROM(u32)
#endif
#if VB / V >= 2
CONVERT_FROM(i16)
CONVERT_FROM(u16)
#endif
CONVERT_FROM(i8)
CONVERT_FROM(u8)
#define TRUTH(T, I, U, _) \
  INL vb b1_from_##T(v##T a) { return __builtin_convertvector(a != (v##T){}, vb); } \
  INL v##T T##_from_b1(vb m) { return (v##T)(__builtin_convertvector(m, v##I) & (v##I)splat_##T(1)); }
EACH(TRUTH, )
INL vb b1_from_b1(vb m) { return m; }

// -- the instructions -------------------------------------------------------------------------------------------------

#if defined NOASM
# define ISA 0
#elif defined __AVX512F__ && defined __AVX512VL__ && defined __AVX512DQ__ && defined __AVX512BW__
# define ISA 5
#elif defined __AVX__
# define ISA 3
#elif defined __SSE4_1__
# define ISA 2
#elif defined __aarch64__
# define ISA 1
#else
# define ISA 0
#endif
#define FILLS(n) (ISA == 5 && ((n) == 16 || (n) == 32 || (n) == 64) || ISA == 3 && ((n) == 16 || (n) == 32) || ISA && (n) == 16 ? ISA : 0)

#define ASM1(name, T, ins, c) INL v##T name##_##T(v##T a) { v##T r; __asm__(ins " %1, %0" : "=" c(r) : c(a)); return r; }
#define ASM2(name, T, ins, c) \
  INL v##T name##_##T(v##T a, v##T b) { v##T r; __asm__(ins " %2, %1, %0" : "=" c(r) : c(a), c(b)); return r; }
#define ASM2_OLD(name, T, ins) INL v##T name##_##T(v##T a, v##T b) { __asm__(ins " %1, %0" : "+x"(a) : "x"(b)); return a; }
#define LANE1(name, T, f) INL v##T name##_##T(v##T a) { \
    T x[V]; v##T r; __builtin_memcpy(x, &a, sizeof x); \
    LANES x[l] = (T)f(x[l]); \
    __builtin_memcpy(&r, x, sizeof x); return r; }
#define LANE2(name, T, f) INL v##T name##_##T(v##T a, v##T b) { \
    T x[V], y[V]; v##T r; __builtin_memcpy(x, &a, sizeof x); __builtin_memcpy(y, &b, sizeof y); \
    LANES x[l] = (T)f(x[l], y[l]); \
    __builtin_memcpy(&r, x, sizeof x); return r; }

// greater, lesser: the second operand if either is NaN; choose: a where the lane of m (all bits equal) is set, else b
#define PLAIN_CHOOSE(T, I) INL v##T choose_##T(v##I m, v##T a, v##T b) { return (v##T)(((v##I)a & m) | ((v##I)b & ~m)); }
#define PLAIN_FLOAT(T, I, s, epsilon) \
  INL v##T greater_of_##T(v##T a, v##T b) { return choose_##T((v##I)(a > b), a, b); } \
  INL v##T lesser_of_##T(v##T a, v##T b) { return choose_##T((v##I)(a < b), a, b); } \
  LANE1(sqrt, T, __builtin_sqrt##s) \
  INL v##T rint_##T(v##T a) { /* adding and taking off 2^23 or 2^52 leaves no digits below 1 */ \
    v##T one = (T)1 / (T)__##epsilon##_EPSILON__ - (v##T){}; v##I sign = (v##I)a & (v##I)((T)-0.0 - (v##T){}); \
    v##T b = (v##T)((v##I)a ^ sign), r = (v##T)((v##I)((b + one) - one) | sign); \
    return choose_##T((v##I)(b < one), r, a); } \
  INL v##T floor_##T(v##T a) { v##T r = rint_##T(a); return choose_##T((v##I)(r > a), r - (T)1, r); } \
  INL v##T ceil_##T(v##T a) { \
    v##T r = rint_##T(a); v##I sign = (v##I)a & (v##I)((T)-0.0 - (v##T){}); \
    return choose_##T((v##I)(r < a), (v##T)((v##I)(r + (T)1) | sign), r); } \
  INL v##T trunc_##T(v##T a) { return choose_##T((v##I)(a < (v##T){}), ceil_##T(a), floor_##T(a)); }
#define ROUNDINGS(T, ins, c) \
  ASM1(rint, T, ins " $8,", c) ASM1(floor, T, ins " $9,", c) ASM1(ceil, T, ins " $10,", c) ASM1(trunc, T, ins " $11,", c)
#define X86_FLOAT(T, p, c, rounding) ASM2(greater_of, T, "vmax" p, c) ASM2(lesser_of, T, "vmin" p, c) \
  ASM1(sqrt, T, "vsqrt" p, c) ROUNDINGS(T, rounding p, c)
#define SSE_FLOAT(T, p) ASM2_OLD(greater_of, T, "max" p) ASM2_OLD(lesser_of, T, "min" p) \
  ASM1(sqrt, T, "sqrt" p, "x") ROUNDINGS(T, "round" p, "x")
#define NEON1(name, T, ins, d) INL v##T name##_##T(v##T a) { v##T r; __asm__(ins " %0." d ", %1." d : "=w"(r) : "w"(a)); return r; }
#define NEON_FLOAT(T, I, d) \
  INL v##T greater_of_##T(v##T a, v##T b) { return choose_##T((v##I)(a > b), a, b); } \
  INL v##T lesser_of_##T(v##T a, v##T b) { return choose_##T((v##I)(a < b), a, b); } \
  NEON1(sqrt, T, "fsqrt", d) NEON1(rint, T, "frintn", d) NEON1(floor, T, "frintm", d) NEON1(ceil, T, "frintp", d) \
  NEON1(trunc, T, "frintz", d)
#define TERNLOG_CHOOSE(T, I, s) INL v##T choose_##T(v##I m, v##T a, v##T b) { \
    __asm__("vpternlog" s " $0xca, %2, %1, %0" : "+v"(m) : "v"(a), "v"(b)); return (v##T)m; }
#define BLEND_CHOOSE(T, I, s) INL v##T choose_##T(v##I m, v##T a, v##T b) { \
    v##T r; __asm__("vblendv" s " %3, %2, %1, %0" : "=x"(r) : "x"(b), "x"(a), "x"(m)); return r; }
#define CHOOSE512(T, I, U, _) TERNLOG_CHOOSE(T, I, "d")
#define CHOOSE_PLAIN(T, I, U, _) PLAIN_CHOOSE(T, I)

#if VB / V >= 8
# if FILLS(8 * V) == 5
FLOAT64(CHOOSE512, ) INT64(CHOOSE512, )
X86_FLOAT(f64, "pd", "v", "vrndscale")
# elif FILLS(8 * V) == 3
BLEND_CHOOSE(f64, i64, "pd") BLEND_CHOOSE(i64, i64, "pd") BLEND_CHOOSE(u64, i64, "pd")
X86_FLOAT(f64, "pd", "x", "vround")
# else
FLOAT64(CHOOSE_PLAIN, ) INT64(CHOOSE_PLAIN, )
#  if FILLS(8 * V) == 2
SSE_FLOAT(f64, "pd")
#  elif FILLS(8 * V) == 1
NEON_FLOAT(f64, i64, "2d")
#  else
PLAIN_FLOAT(f64, i64, , DBL)
#  endif
# endif
#endif
#if VB / V >= 4
# if FILLS(4 * V) == 5
FLOAT32(CHOOSE512, ) INT32(CHOOSE512, )
X86_FLOAT(f32, "ps", "v", "vrndscale")
# elif FILLS(4 * V) == 3
BLEND_CHOOSE(f32, i32, "ps") BLEND_CHOOSE(i32, i32, "ps") BLEND_CHOOSE(u32, i32, "ps")
X86_FLOAT(f32, "ps", "x", "vround")
# else
FLOAT32(CHOOSE_PLAIN, ) INT32(CHOOSE_PLAIN, )
#  if FILLS(4 * V) == 2
SSE_FLOAT(f32, "ps")
#  elif FILLS(4 * V) == 1
NEON_FLOAT(f32, i32, "4s")
#  else
PLAIN_FLOAT(f32, i32, f, FLT)
#  endif
# endif
#endif
INT16(CHOOSE_PLAIN, )
INT8(CHOOSE_PLAIN, )

// -- is there any lane? -----------------------------------------------------------------------------------------------

// any_bits: is any bit of an integer vector set
#define ANY_PLAIN(I) INL int any_bits_##I(v##I m) { \
    u64 w[(sizeof m + 7) / 8] = {0}, r = 0; \
    __builtin_memcpy(w, &m, sizeof m); \
    for (unsigned k = 0; k < sizeof w / 8; ++k) r |= w[k]; \
    return r != 0; }
#define ANY_512(I) INL int any_bits_##I(v##I m) { int r; u16 k; \
    __asm__("vptestmd %2, %2, %1\n\tkortestw %1, %1" : "=@ccnz"(r), "=Yk"(k) : "v"(m)); (void)k; return r; }
#define ANY_PTEST(I, ins) INL int any_bits_##I(v##I m) { int r; __asm__(ins " %1, %1" : "=@ccnz"(r) : "x"(m)); return r; }
// The conditions by vcmp's own numbers: 17 a < b, 25 !(a >= b), 22 !(a <= b); the last two hold for NaN
#define ANY_PAIR_512(name, T, p, number) INL int name##_##T(v##T a, v##T b) { int r; u16 k; \
    __asm__("vcmp" p " $" number ", %3, %2, %1\n\tkortestw %1, %1" : "=@ccnz"(r), "=Yk"(k) : "v"(a), "v"(b)); (void)k; return r; }
#define ANY_PAIRS_512(T, p) ANY_PAIR_512(any_less, T, p, "17") ANY_PAIR_512(any_not_ge, T, p, "25") ANY_PAIR_512(any_not_le, T, p, "22")
#define ANY_PAIRS(T, I, U, _) \
  INL int any_less_##T(v##T a, v##T b) { return any_bits_##I((v##I)(a < b)); } \
  INL int any_not_ge_##T(v##T a, v##T b) { return any_bits_##I(~(v##I)(a >= b)); } \
  INL int any_not_le_##T(v##T a, v##T b) { return any_bits_##I(~(v##I)(a <= b)); }

#if VB / V >= 8
# if FILLS(8 * V) == 5
ANY_512(i64) ANY_PAIRS_512(f64, "pd")
# else
#  if FILLS(8 * V) == 3
ANY_PTEST(i64, "vptest")
#  elif FILLS(8 * V) == 2
ANY_PTEST(i64, "ptest")
#  else
ANY_PLAIN(i64)
#  endif
FLOAT64(ANY_PAIRS, )
# endif
#endif
#if VB / V >= 4
# if FILLS(4 * V) == 5
ANY_512(i32) ANY_PAIRS_512(f32, "ps")
# else
#  if FILLS(4 * V) == 3
ANY_PTEST(i32, "vptest")
#  elif FILLS(4 * V) == 2
ANY_PTEST(i32, "ptest")
#  else
ANY_PLAIN(i32)
#  endif
FLOAT32(ANY_PAIRS, )
# endif
#endif
#if VB / V >= 2
ANY_PLAIN(i16)
#endif
ANY_PLAIN(i8)
EACH_INT(ANY_PAIRS, )
#if VB / V == 8
INL int any_b1(vb m) { return any_bits_i64((vi64)m); }
#elif VB / V == 4
INL int any_b1(vb m) { return any_bits_i32((vi32)m); }
#elif VB / V == 2
INL int any_b1(vb m) { return any_bits_i16((vi16)m); }
#else
INL int any_b1(vb m) { return any_bits_i8((vi8)m); }
#endif

// -- memory: lane l is at base + min(l, n - 1) * stride bytes ---------------------------------------------------------

INL f32 float_of_bits(u32 b) { f32 x; __builtin_memcpy(&x, &b, 4); return x; }
INL u32 bits_of_float(f32 x) { u32 b; __builtin_memcpy(&b, &x, 4); return b; }
// Half the exponent's range is missing: multiply by 2^112. Subnormals come out right, infinity and NaN get their exponent back.
INL f32 f32_of_f16(u16 h) {
  f32 x = float_of_bits((u32)(h & 0x7fff) << 13) * 0x1p112f;
  u32 b = bits_of_float(x) | ((h & 0x7c00) == 0x7c00 ? 0x7f800000u : 0) | (u32)(h & 0x8000) << 16;
  return float_of_bits(b);
}
INL f32 f32_of_bf16(u16 h) { return float_of_bits((u32)h << 16); }
INL u16 f16_of_f32(f32 x) {  // to nearest, half to even
  u32 b = bits_of_float(x), sign = b >> 16 & 0x8000, a = b & 0x7fffffff;
  if (a > 0x7f800000) return (u16)(sign | 0x7e00);
  if (a >= 0x477ff000) return (u16)(sign | 0x7c00);
  if (a < 0x38800000) {  // a subnormal half: adding 1/2 rounds to multiples of 2^-24
    u32 r = bits_of_float(float_of_bits(a) + 0.5f) - 0x3f000000;
    return (u16)(sign | r);
  }
  return (u16)(sign | (a - 0x38000000 + 0xfff + (a >> 13 & 1)) >> 13);
}
INL u16 bf16_of_f32(f32 x) {
  u32 b = bits_of_float(x);
  if ((b & 0x7fffffff) > 0x7f800000) return (u16)(b >> 16 | 0x40);
  return (u16)((b + 0x7fff + (b >> 16 & 1)) >> 16);
}
INL f32 load_f16(const void *p) { u16 h; __builtin_memcpy(&h, p, 2); return f32_of_f16(h); }
INL f32 load_bf16(const void *p) { u16 h; __builtin_memcpy(&h, p, 2); return f32_of_bf16(h); }
INL void store_f16(void *p, f32 x) { u16 h = f16_of_f32(x); __builtin_memcpy(p, &h, 2); }
INL void store_bf16(void *p, f32 x) { u16 h = bf16_of_f32(x); __builtin_memcpy(p, &h, 2); }

#define LANE_AT(base, stride, n) ((const char *)(base) + (l < (n) ? l : (n) - 1) * (stride))
// Lanes far apart, fetched by one instruction; it reads what no pointer says, hence the large operand
#if FILLS(VB) == 5 && VB == 64 && V >= 8 && V <= 16
# define GATHERS 1
# define GATHER(I, ins) INL void gather_##I(void *r, const char *base, i32 stride) { \
    static const i32 lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; \
    vi32 at; v##I to; \
    __builtin_memcpy(&at, lanes, sizeof at); \
    at *= stride; \
    __asm__("kxnorw %%k1, %%k1, %%k1\n\t" ins " (%1,%2,1), %0%{%%k1%}" : "=&v"(to) \
            : "r"(base), "v"(at), "m"(*(const struct { char bytes[1 << 30]; } *)base) : "k1"); \
    __builtin_memcpy(r, &to, sizeof to); }
GATHER(i32, "vpgatherdd")
# if VB / V >= 8
GATHER(i64, "vpgatherdq")
# endif
#else
# define GATHERS 0
# define gather_i32(r, base, stride) (void)(stride)
# define gather_i64(r, base, stride) (void)(stride)
#endif
#define gather_i8(r, base, stride) (void)(stride)
#define gather_i16(r, base, stride) (void)(stride)
#define MEMORY(T, I, U, _) \
  INL T load_##T(const void *p) { T s; __builtin_memcpy(&s, p, sizeof s); return s; } \
  INL void store_##T(void *p, T s) { __builtin_memcpy(p, &s, sizeof s); } \
  INL v##T load_lanes_##T(const void *base, long long stride, int n) { \
    if (stride == sizeof(T) && n >= V) return *(const loose_##T *)base; \
    if (GATHERS && sizeof(T) >= 4 && n >= V && stride * V == (i32)(stride * V)) { \
      v##T r; gather_##I(&r, (const char *)base, (i32)stride); return r; } \
    T t[V]; v##T r; \
    LANES t[l] = load_##T(LANE_AT(base, stride, n)); \
    __builtin_memcpy(&r, t, sizeof r); return r; } \
  INL void store_lanes_##T(void *base, long long stride, int n, v##T a) { \
    if (stride == sizeof(T) && n >= V) { *(loose_##T *)base = a; return; } \
    T t[V]; __builtin_memcpy(t, &a, sizeof a); \
    for (int l = 0; l < n && l < V; ++l) store_##T((char *)base + l * stride, t[l]); } \
  INL void copy_##T(void *to, long long step, const void *from, long long stride, long long inner, long long count, int n) { \
    for (int l = 0; l < n; ++l) { /* n rows of count numbers */ \
      char *t = (char *)to + l * step; const char *f = (const char *)from + l * stride; \
      if (inner == sizeof(T)) __builtin_memcpy(t, f, count * sizeof(T)); \
      else for (long long m = 0; m < count; ++m) store_##T(t + m * sizeof(T), load_##T(f + m * inner)); } }
EACH(MEMORY, )
INL int load_b1(const void *p) { return *(const b1 *)p != 0; }
INL void store_b1(void *p, int s) { *(b1 *)p = s != 0; }
INL vb load_lanes_b1(const void *base, long long stride, int n) { return b1_from_u8(load_lanes_u8(base, stride, n)); }
INL void store_lanes_b1(void *base, long long stride, int n, vb m) { store_lanes_u8(base, stride, n, u8_from_b1(m)); }
#if VB / V >= 4
INL vf32 load_lanes_f16(const void *base, long long stride, int n) {
  vu32 h = u32_from_u16(load_lanes_u16(base, stride, n));
  vf32 x = (vf32)((h & 0x7fff) << 13) * 0x1p112f;
  vu32 special = (vu32)((h & 0x7c00) == 0x7c00) & 0x7f800000u;
  return (vf32)((vu32)x | special | (h & 0x8000) << 16);
}
INL vf32 load_lanes_bf16(const void *base, long long stride, int n) {
  return (vf32)(u32_from_u16(load_lanes_u16(base, stride, n)) << 16);
}
INL vu32 either_u32(vu32 mask, vu32 a, vu32 b) { return (mask & a) | (~mask & b); }
INL vf32 as_float16_f32(vf32 x) {  // as f32_of_f16(f16_of_f32(x)), lane by lane
  vu32 b = (vu32)x, a = b & 0x7fffffff;
  vu32 r = (a + 0xfff + (a >> 13 & 1)) & 0xffffe000;
  r = either_u32((vu32)(a >= 0x477ff000), (vu32){} + 0x7f800000u, r);
  r = either_u32((vu32)(a < 0x38800000), (vu32)(((vf32)a + 0.5f) - 0.5f), r);
  return (vf32)either_u32((vu32)(a > 0x7f800000), b, r | (b & 0x80000000));
}
INL vf32 as_bfloat16_f32(vf32 x) {
  vu32 b = (vu32)x, r = (b + 0x7fff + (b >> 16 & 1)) & 0xffff0000;
  return (vf32)either_u32((vu32)((b & 0x7fffffff) > 0x7f800000), b, r);
}
INL void store_lanes_f16(void *base, long long stride, int n, vf32 a) {
  for (int l = 0; l < n && l < V; ++l) store_f16((char *)base + l * stride, a[l]);
}
INL void store_lanes_bf16(void *base, long long stride, int n, vf32 a) {
  for (int l = 0; l < n && l < V; ++l) store_bf16((char *)base + l * stride, a[l]);
}
#endif

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
  INL v##T relu_##T(v##T x) { return choose_##T((v##I)(x < (v##T){}), (v##T){}, x); } \
  INL v##T step_##T(v##T x) { return choose_##T((v##I)(x <= (v##T){}), (v##T){}, splat_##T(1)); } \
  INL v##T real_##T(v##T x) { return x; } \
  INL v##T conj_##T(v##T x) { return x; } \
  INL v##T imag_##T(v##T x) { (void)x; return (v##T){}; }
EACH_INT(EXTREMES_INT, )
EACH_FLOAT(EXTREMES_FLOAT, )
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
  INL v##T abs_##T(v##T a) { return SIGNED(T) ? choose_##T((v##I)(a < (v##T){}), (v##T)(-(v##U)a), a) : a; } \
  INL v##T sign_##T(v##T a) { return (v##T)((a < (v##T){}) - (a > (v##T){})); } \
  INL v##T floor_##T(v##T a) { return a; } \
  INL v##T ceil_##T(v##T a) { return a; } \
  INL v##T trunc_##T(v##T a) { return a; } \
  INL vb isnan_##T(v##T a) { (void)a; return (vb){}; } \
  INL vb isinf_##T(v##T a) { (void)a; return (vb){}; } \
  INL vb isfinite_##T(v##T a) { (void)a; return ~(vb){}; }
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
  INL vb signbit_##T(v##T a) { return __builtin_convertvector((v##I)a < (v##I){}, vb); } \
  INL v##T sign_##T(v##T a) { \
    v##T one = copysign_##T(splat_##T(1), a); \
    return choose_##T((v##I)(a == (v##T){}), (v##T){}, choose_##T((v##I)(a != a), a, one)); } \
  INL v##T share_##T(v##T a, v##T b) { \
    return choose_##T((v##I)(a < b), (v##T){}, choose_##T((v##I)(a == b), splat_##T((T)0.5), splat_##T(1))); } \
  INL v##T heaviside_##T(v##T a, v##T h) { \
    v##T s = choose_##T((v##I)(a < (v##T){}), (v##T){}, choose_##T((v##I)(a != a), a, splat_##T(1))); \
    return choose_##T((v##I)(a == (v##T){}), h, s); } \
  INL v##T softshrink_##T(v##T a, v##T w) { \
    v##T s = choose_##T((v##I)(a > w), a - w, choose_##T((v##I)(a < -w), a + w, a * (T)0)); return s; } \
  INL v##T modf_fraction_##T(v##T a) { \
    v##T f = choose_##T((v##I)(abs_##T(a) == splat_##T(INFINITE(T))), (v##T){}, a - trunc_##T(a)); return copysign_##T(f, a); } \
  INL v##T rsqrt_##T(v##T a) { return (T)1 / sqrt_##T(a); } \
  INL v##T rsqrt0_##T(v##T a) { return choose_##T((v##I)(a == (v##T){}), (v##T){}, (T)1 / sqrt_##T(a)); } \
  INL v##T angle_##T(v##T a) { \
    v##T s = choose_##T((v##I)a < (v##I){}, splat_##T((T)3.14159265358979323846), (v##T){}); \
    return choose_##T((v##I)(a != a), a, s); }
EACH_FLOAT(FLOATBITS, )

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
  return choose_f32((vi32)(n == (vf32){}), choose_f32((vi32)(abs_f32(x) < 1e-10f), x, exp_poly_f32(r) * (r * r) + r), e);
}
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
  return choose_f64((vi64)(n == (vf64){}), choose_f64((vi64)(abs_f64(x) < 1e-20), x, exp_poly_f64(r) * (r * r) + r), e);
}
#endif

// -- logarithms: x = m 2^k with m near 1, f = m - 1, s = f / (2 + f); log(m) = f - (f^2/2 - s (f^2/2 + R(s^2))) ---------

#define SPLIT(T, I, U, bits, least, up, shift, root, magic_bits, magic, bias) \
  INL v##T split_##T(v##T x, v##T *k) { \
    v##I small = (v##I)(x < (T)(least)); \
    v##U b = (v##U)choose_##T(small, x * (T)(up), x) - (U)(root); \
    v##U e = b >> bits; /* the exponent, or less: made positive by bias */ \
    v##U m = (b & (((U)1 << bits) - 1)) + (U)(root); \
    e = (e + (U)(bias)) & (U)((1 << (sizeof(T) * 8 - bits)) - 1); \
    *k = (v##T)(e | (U)(magic_bits)) - (T)((magic) + (bias)) - choose_##T(small, splat_##T((T)(shift)), (v##T){}); \
    return (v##T)m - (T)1; } \
  INL v##T log_end_##T(v##T x, v##T y) { /* the values off the domain */ \
    y = choose_##T((v##I)(x == splat_##T(INFINITE(T))), x, y); \
    y = choose_##T((v##I)(x == (v##T){}), splat_##T(-INFINITE(T)), y); \
    return choose_##T(~(v##I)(x >= (v##T){}), splat_##T(UNDEFINED(T)), y); }
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
    v##I plain = (v##I)(u == (v##T){}) | (v##I)(u == splat_##T(INFINITE(T))); \
    y = choose_##T(plain, y, y + c / u); \
    return choose_##T((v##I)(abs_##T(x) < (T)1e-20), x, y); }
#if VB / V >= 4
INL vf32 log_poly_f32(vf32 z) { return (0.29590317357160397187f * z + 0.39988550988935757338f) * z + 0.66666685603273560321f; }
SPLIT(f32, i32, u32, 23, 0x1p-126f, 0x1p25f, 25, 0x3f3504f3, 0x4b000000, 8388608.0, 128)
LOGARITHMS(f32, i32, log_poly_f32, 0.693115234375, 0.000031946184945309417232, 0.301025390625, 4.6050389811952137389e-6)
#endif
#if VB / V >= 8
INL vf64 log_poly_f64(vf64 z) {
  return (((((0.14630031364122860468 * z + 0.15330617306743304885) * z + 0.18182922513515941633) * z + 0.22222210674238515246) * z
           + 0.28571428628810995598) * z + 0.39999999999893221763) * z + 0.6666666666666669907;
}
SPLIT(f64, i64, u64, 52, 0x1p-1022, 0x1p54, 54, 0x3fe6a09e667f3bcdull, 0x4330000000000000ull, 4503599627370496.0, 1024)
LOGARITHMS(f64, i64, log_poly_f64, 0.6931471805592082091607153, 7.3710025651677989018e-13, 0.301029995663611771306023, 3.6942390771589305366e-13)
#endif

// -- what exponentials and logarithms make ----------------------------------------------------------------------------

#define COMPOUND(T, I, U, _) \
  INL v##T expit_##T(v##T a) { /* no overflow, and no digits lost on either side */ \
    v##T e = exp_##T(-abs_##T(a)), one = splat_##T(1); \
    return choose_##T((v##I)(a >= (v##T){}), one, e) / (one + e); } \
  INL v##T log_sigmoid_##T(v##T a) { \
    return lesser_of_##T((v##T){}, a) - log1p_##T(exp_##T(-abs_##T(a))); } \
  INL v##T logaddexp_##T(v##T a, v##T b) { \
    v##T d = abs_##T(a - b), m = maximum_##T(a, b); \
    v##T y = m + log1p_##T(exp_##T(-d)); \
    return choose_##T((v##I)(a == b), a + (T)0.69314718055994530942, y); } \
  INL v##T logaddexp2_##T(v##T a, v##T b) { \
    v##T d = abs_##T(a - b), m = maximum_##T(a, b); \
    v##T y = m + log1p_##T(exp2_##T(-d)) * (T)1.44269504088896340736; \
    return choose_##T((v##I)(a == b), a + (T)1, y); } \
  INL v##T tanh_##T(v##T a) { \
    v##T e = expm1_##T((T)2 * lesser_of_##T(splat_##T(22), abs_##T(a))); \
    return copysign_##T(e / (e + (T)2), a); } \
  INL v##T logit_##T(v##T a) { /* near 1/2 the quotient is near 1 */ \
    v##T far = log_##T(a / ((T)1 - a)), d = (a - (T)0.5), near = log1p_##T((T)4 * d / ((T)1 - (T)2 * d)); \
    return choose_##T((v##I)(abs_##T(d) < (T)0.2), near, far); } \
  INL v##T xlogy_##T(v##T a, v##T b) { \
    return choose_##T((v##I)(a == (v##T){}) & (v##I)(b == b), (v##T){}, a * log_##T(b)); } \
  INL v##T xlog1py_##T(v##T a, v##T b) { \
    return choose_##T((v##I)(a == (v##T){}) & (v##I)(b == b), (v##T){}, a * log1p_##T(b)); } \
  INL v##T entr_##T(v##T a) { \
    v##T y = choose_##T((v##I)(a == (v##T){}), (v##T){}, -a * log_##T(a)); \
    return choose_##T((v##I)(a < (v##T){}), splat_##T(-INFINITE(T)), y); }
EACH_FLOAT(COMPOUND, )
