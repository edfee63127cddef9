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
#define FUNCTION static
#define TABLE static const
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
  INL v##T zero_##T(void) { return (v##T){}; } \
  INL v##T splat_##T(T s) { return s - (v##T){}; } \
  INL v##T unit_##T(i64 l) { v##T r = {}; if (l >= 0 && l < V) r[l] = 1; return r; } /* 1 in lane l */
EACH(VECTOR, )
INL vb zero_b1(void) { return (vb){}; }
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
