// Fused multiply-adds in twelve independent chains of full vectors, nothing else: what the arithmetic units can do.
// VB is the size of a vector register in bytes.
typedef float vfloat __attribute__((vector_size(VB)));
typedef double vdouble __attribute__((vector_size(VB)));

#define CHAINS(one) one(0) one(1) one(2) one(3) one(4) one(5) one(6) one(7) one(8) one(9) one(10) one(11)
#define START(k) a##k = s * k;
#define STEP(k) a##k = a##k * m + s;
#define END(k) +a##k
#define PEAK(name, T, V) T name(long steps) { \
    V m = (V){} + (T)0.999999, s = (V){} + (T)1e-6, a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11; \
    CHAINS(START) \
    for (long i = 0; i < steps; i++) { CHAINS(STEP) } \
    return (CHAINS(END))[0]; }

PEAK(peak_float32, float, vfloat)
PEAK(peak_float64, double, vdouble)
