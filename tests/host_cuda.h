// CUDA for tests on a machine without a card: the threads of a block are fibers that take turns at barriers, one block runs
// after the other. Comes before a kernel's source; `launch_reduce` and `launch_join` below are added after it.
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#define HOSTED 1
#define __device__
#define __global__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
struct Index {
    unsigned x;
};
static Index threadIdx, blockIdx;

static std::vector<ucontext_t> fibers;
static ucontext_t scheduler;
static unsigned running;
static void (*body)(const void *, long long);
static const void *body_arguments;
static long long body_first;
static std::vector<char> done;
inline void __syncthreads() { swapcontext(&fibers[running], &scheduler); }
static int votes, last_votes;  // of the threads that wait at a barrier, and of those that passed the one before
inline int __syncthreads_or(int vote) {
    votes |= vote != 0;
    __syncthreads();
    return last_votes;
}
static void enter_fiber() {
    body(body_arguments, body_first);
    done[running] = 1;
    swapcontext(&fibers[running], &scheduler);
}
// Every thread of every block; threads that have ended do not keep the others from passing a barrier.
static void run_grid(void (*f)(const void *, long long), const void *arguments, long long first, unsigned grid, unsigned threads) {
    enum { STACK = 1 << 18 };
    std::vector<char> stacks((size_t)threads * STACK);
    body = f, body_arguments = arguments, body_first = first;
    for (unsigned block = 0; block < grid; ++block) {
        fibers.assign(threads, ucontext_t());
        done.assign(threads, 0);
        for (unsigned t = 0; t < threads; ++t) {
            getcontext(&fibers[t]);
            fibers[t].uc_stack.ss_sp = &stacks[(size_t)t * STACK];
            fibers[t].uc_stack.ss_size = STACK;
            fibers[t].uc_link = &scheduler;
            makecontext(&fibers[t], enter_fiber, 0);
        }
        blockIdx.x = block;
        for (bool more = true; more;) {
            more = false;
            last_votes = votes, votes = 0;
            for (unsigned t = 0; t < threads; ++t) {
                if (done[t]) continue;
                running = threadIdx.x = t;
                swapcontext(&scheduler, &fibers[t]);
                more = true;
            }
        }
    }
}

template <class A, class B> inline A same_bits(B b) {
    A a;
    std::memcpy(&a, &b, sizeof a);
    return a;
}
inline float __int_as_float(int b) { return same_bits<float>(b); }
inline float __uint_as_float(unsigned b) { return same_bits<float>(b); }
inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
inline double __longlong_as_double(long long b) { return same_bits<double>(b); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
inline float exp2_near(float x) { return std::exp2(x); }
inline float reciprocal_near(float x) { return 1 / x; }
inline float minus(float x) { return -x; }
inline float log2_near(float x) { return std::log2(x); }
inline float cos_near(float x) { return std::cos(x); }
template <class T> inline T held(T x) { return x; }
inline float max_or_nan(float a, float b) { return a > b || a != a ? a : b; }
inline float min_or_nan(float a, float b) { return a < b || a != a ? a : b; }
inline float f32_of_f16(unsigned short h) { return (float)same_bits<_Float16>(h); }
inline unsigned short f16_of_f32(float x) { return same_bits<unsigned short>((_Float16)x); }
