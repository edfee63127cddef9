// reductions.h: start, take, merge and store of each reduction, chosen by REDUCE_<name>.
//
// A reduction keeps one Acc for each output of a row block (NI vectors of rows). `take` folds the values of a tile of nj
// columns into it; `merge` adds the Acc of a later block of columns. The prelude defines
//   VAL, ACC, IDX       the scalar types of a value, of the sum's accumulator, of a column's number
//   TO_ACC(v)           a vector of VAL as one of ACC
//   NI, NJ              vectors of rows and columns of a tile
//   COMPONENTS          state components; OUT0_BYTES, ... the bytes of each one for one output
//   TOPK, LARGEST       of topk: how many, and from which end
// State goes out as it is; merging over blocks of rows or columns and finishing are the array library's work.
#define CAT2_(a, b) a##b
#define CAT2(a, b) CAT2_(a, b)
#define CAT3_(a, b, c) a##b##c
#define CAT3(a, b, c) CAT3_(a, b, c)
#define VAL_(f) CAT3(f, _, VAL)
#define ACC_(f) CAT3(f, _, ACC)
#define IDX_(f) CAT3(f, _, IDX)
#ifdef VAL_BOOL
typedef vb vval;
#else
typedef CAT2(v, VAL) vval;
#endif
#ifdef ACC_BOOL
typedef vb vacc;
#else
typedef CAT2(v, ACC) vacc;
#endif
typedef CAT2(v, IDX) vidx;
#define TILE UNROLL for (int q = 0; q < nj; ++q) UNROLL for (int k = 0; k < NI; ++k)
#define ROWS UNROLL for (int k = 0; k < NI; ++k)

// The first NaN wins, as in NumPy: better than the best so far, or NaN where the best is not.
#define FIRST(T, I, U, _)                                                                                       \
    INL vb first_less_##T(v##T v, v##T best) {                                                                  \
        return logical_or_b1(less_##T(v, best), logical_and_b1(not_equal_##T(v, v), equal_##T(best, best)));    \
    }                                                                                                           \
    INL vb first_greater_##T(v##T v, v##T best) {                                                               \
        return logical_or_b1(greater_##T(v, best), logical_and_b1(not_equal_##T(v, v), equal_##T(best, best))); \
    }
#define FIRST_INTEGER(T, I, U, _)                                          \
    INL vb first_less_##T(v##T v, v##T best) { return less_##T(v, best); } \
    INL vb first_greater_##T(v##T v, v##T best) { return greater_##T(v, best); }

// What any value is at most, at least.
#define LIMITS(T, I, U, _)                                                   \
    INL v##T largest_##T(void) { return splat_##T((T)__builtin_inf()); }     \
    INL v##T smallest_##T(void) { return splat_##T((T)-__builtin_inf()); }
#define LIMITS_INTEGER(T, I, U, _)                                                    \
    INL v##T largest_##T(void) { return splat_##T((T)(SIGNED(T) ? ~LEAST(T) : (T)-1)); } \
    INL v##T smallest_##T(void) { return splat_##T((T)(SIGNED(T) ? LEAST(T) : 0)); }
#define LIMITS_COMPLEX(T, R)                                                                          \
    INL v##T largest_##T(void) { return splat_##T((T){(R)__builtin_inf(), (R)__builtin_inf()}); }     \
    INL v##T smallest_##T(void) { return splat_##T((T){(R)-__builtin_inf(), (R)-__builtin_inf()}); }
EACH_FLOAT(FIRST, )
EACH_INT(FIRST_INTEGER, )
EACH_FLOAT(LIMITS, )
EACH_INT(LIMITS_INTEGER, )
#ifdef USE_COMPLEX
FIRST(c64, , , )
LIMITS_COMPLEX(c64, f32)
#if VB / V >= 8
FIRST(c128, , , )
LIMITS_COMPLEX(c128, f64)
#endif
#endif

// Is any value of this vector of rows a candidate: not (v >= best), so that NaN counts?
#if !defined NOASM && defined __AVX512F__ && defined __AVX512DQ__ && VB == 64 && defined VAL_IS_FLOAT && LANE_BYTES == VAL_BYTES
#if VAL_BYTES == 4
#define VCMP "vcmpps"
#define ALL_LANES 0xffff
#else
#define VCMP "vcmppd"
#define ALL_LANES 0xff
#endif
// One compare a vector: each masks the next, so a lane stays set only if every column's value is no candidate.
#define ANY_CANDIDATE(NAME, PREDICATE)                                                                                      \
    INL int NAME(const int nj, vval v[][NI], int k, vval best) {                                                            \
        unsigned short m;                                                                                                   \
        __asm__(VCMP " $" PREDICATE ", %2, %1, %0" : "=Yk"(m) : "v"(v[0][k]), "v"(best));                                   \
        UNROLL for (int q = 1; q < nj; ++q)                                                                                 \
            __asm__(VCMP " $" PREDICATE ", %3, %2, %0%{%1%}" : "=Yk"(m) : "Yk"(m), "v"(v[q][k]), "v"(best));                \
        return (m & ALL_LANES) != ALL_LANES;                                                                                \
    }
ANY_CANDIDATE(any_less, "29")     // GE, ordered, quiet
ANY_CANDIDATE(any_greater, "18")  // LE, ordered, quiet
#else
INL int any_less(const int nj, vval v[][NI], int k, vval best) {
    vb m = logical_not_b1(VAL_(greater_equal)(v[0][k], best));
    UNROLL for (int q = 1; q < nj; ++q) m = logical_or_b1(m, logical_not_b1(VAL_(greater_equal)(v[q][k], best)));
    return any_b1(m);
}
INL int any_greater(const int nj, vval v[][NI], int k, vval best) {
    vb m = logical_not_b1(VAL_(less_equal)(v[0][k], best));
    UNROLL for (int q = 1; q < nj; ++q) m = logical_or_b1(m, logical_not_b1(VAL_(less_equal)(v[q][k], best)));
    return any_b1(m);
}
#endif

// ---- sum, mean, prod, count_nonzero ----------------------------------------------------------------------------------
#if defined REDUCE_sum || defined REDUCE_mean || defined REDUCE_prod || defined REDUCE_count_nonzero
typedef struct {
    vacc s[NI];
#ifdef COMPENSATED
    vacc lost[NI];  // Kahan: what rounding has dropped so far
#endif
} Acc;
typedef struct {
    char unused;
} Head;
#ifdef REDUCE_prod
enum { BLOCK = 1 << 30 };
#define UNIT 1
#ifdef ACC_COMPLEX
#define COMBINE(a, b) ACC_(mul)(a, b)
#else
#define COMBINE(a, b) ((a) * (b))
#endif
#else
enum { BLOCK = 512 };  // columns of one first-level sum: the rounding error grows with BLOCK + N/BLOCK, not with N
#define UNIT 0
#ifdef ACC_COMPLEX
#define COMBINE(a, b) ACC_(add)(a, b)
#else
#define COMBINE(a, b) ((a) + (b))
#endif
#endif
INL void start(Acc *acc) {
#ifdef ACC_COMPLEX
    ROWS acc->s[k] = ACC_(splat)((ACC){UNIT, 0});
#else
    ROWS acc->s[k] = ACC_(splat)(UNIT);
#endif
#ifdef COMPENSATED
    ROWS acc->lost[k] = ACC_(splat)(0);
#endif
}
INL void add_one(Acc *acc, int k, vacc v) {
#ifdef COMPENSATED
    const vacc y = v - acc->lost[k], t = acc->s[k] + y, lost = (t - acc->s[k]) - y;
    acc->lost[k] = ACC_(where)(ACC_(equal)(lost, lost), lost, ACC_(splat)(0));  // infinities leave NaN here
    acc->s[k] = t;
#else
    acc->s[k] = COMBINE(acc->s[k], v);
#endif
}
INL void take(const int nj, Head *head, Acc *acc, vval v[][NI], i64 index) { TILE add_one(acc, k, TO_ACC(v[q][k])); }
INL void merge(Acc *acc, const Acc *later) {
#ifdef COMPENSATED
    ROWS acc->lost[k] = acc->lost[k] + later->lost[k];
#endif
    ROWS add_one(acc, k, later->s[k]);
}
INL void store(const Head *head, const Acc *acc, int k, char **out, i64 stride, int n) { ACC_(store_lanes)(out[0], stride * OUT0_BYTES, n, acc->s[k]); }
#endif

// ---- var: count, mean and sum of squared deviations (Welford) --------------------------------------------------------
#ifdef REDUCE_var
typedef struct {
    vacc mean[NI], m2[NI];
    i64 count;
} Acc;
typedef struct {
    char unused;
} Head;
enum { BLOCK = 512 };  // columns of one first-level state: a single one stops growing at 2^24 float32 columns
INL void start(Acc *acc) {
    acc->count = 0;
    ROWS acc->mean[k] = acc->m2[k] = ACC_(splat)(0);
}
INL void take(const int nj, Head *head, Acc *acc, vval v[][NI], i64 index) {
    UNROLL for (int q = 0; q < nj; ++q) {
        const ACC share = 1 / (ACC)++acc->count;
        ROWS {
            const vacc x = TO_ACC(v[q][k]), d = x - acc->mean[k];
            acc->mean[k] += d * ACC_(splat)(share);
            acc->m2[k] += d * (x - acc->mean[k]);
        }
    }
}
INL void merge(Acc *acc, const Acc *later) {
    const i64 n = acc->count + later->count;
    const ACC share = n ? (ACC)later->count / (ACC)n : 0, weight = share * (ACC)acc->count;
    ROWS {
        const vacc d = later->mean[k] - acc->mean[k];
        acc->mean[k] += d * ACC_(splat)(share);
        acc->m2[k] += later->m2[k] + d * d * ACC_(splat)(weight);
    }
    acc->count = n;
}
INL void store(const Head *head, const Acc *acc, int k, char **out, i64 stride, int n) {
    ACC_(store_lanes)(out[0], stride * OUT0_BYTES, n, ACC_(splat)((ACC)acc->count));
    ACC_(store_lanes)(out[1], stride * OUT1_BYTES, n, acc->mean[k]);
    ACC_(store_lanes)(out[2], stride * OUT2_BYTES, n, acc->m2[k]);
}
#endif

// ---- min, max, argmin, argmax ----------------------------------------------------------------------------------------
#if defined REDUCE_min || defined REDUCE_max || defined REDUCE_argmin || defined REDUCE_argmax
typedef struct {
    vval best[NI];
#if defined REDUCE_argmin || defined REDUCE_argmax
    vidx at[NI];
#endif
} Acc;
typedef struct {
    char unused;
} Head;
enum { BLOCK = 1 << 30 };
#if defined REDUCE_min || defined REDUCE_argmin
#define ANY_BETTER any_less
#define BETTER VAL_(first_less)
#define WORST VAL_(largest)
#else
#define ANY_BETTER any_greater
#define BETTER VAL_(first_greater)
#define WORST VAL_(smallest)
#endif
INL void start(Acc *acc) {
    ROWS acc->best[k] = WORST();
#if defined REDUCE_argmin || defined REDUCE_argmax
    ROWS acc->at[k] = IDX_(splat)(0);
#endif
}
INL void take(const int nj, Head *head, Acc *acc, vval v[][NI], i64 index) {
    ROWS if (__builtin_expect(ANY_BETTER(nj, v, k, acc->best[k]), 0)) {
        UNROLL for (int q = 0; q < nj; ++q) {
            const vb better = BETTER(v[q][k], acc->best[k]);
            acc->best[k] = VAL_(where)(better, v[q][k], acc->best[k]);
#if defined REDUCE_argmin || defined REDUCE_argmax
            acc->at[k] = IDX_(where)(better, IDX_(splat)((IDX)(index + q)), acc->at[k]);
#endif
        }
    }
}
INL void merge(Acc *acc, const Acc *later) { *acc = *later; }
INL void store(const Head *head, const Acc *acc, int k, char **out, i64 stride, int n) {
    VAL_(store_lanes)(out[0], stride * OUT0_BYTES, n, acc->best[k]);
#if defined REDUCE_argmin || defined REDUCE_argmax
    IDX_(store_lanes)(out[1], stride * OUT1_BYTES, n, acc->at[k]);
#endif
}
#endif

// ---- any, all --------------------------------------------------------------------------------------------------------
#if defined REDUCE_any || defined REDUCE_all
typedef struct {
    vb m[NI];
} Acc;
typedef struct {
    char unused;
} Head;
enum { BLOCK = 1 << 30 };
INL void start(Acc *acc) {
#ifdef REDUCE_any
    ROWS acc->m[k] = splat_b1(0);
#else
    ROWS acc->m[k] = splat_b1(1);
#endif
}
INL void take(const int nj, Head *head, Acc *acc, vval v[][NI], i64 index) {
#ifdef REDUCE_any
    TILE acc->m[k] = logical_or_b1(acc->m[k], v[q][k]);
#else
    TILE acc->m[k] = logical_and_b1(acc->m[k], v[q][k]);
#endif
}
INL void merge(Acc *acc, const Acc *later) { *acc = *later; }
INL void store(const Head *head, const Acc *acc, int k, char **out, i64 stride, int n) { store_lanes_b1(out[0], stride * OUT0_BYTES, n, acc->m[k]); }
#endif

// ---- logsumexp and the softmax-weighted sum, in one pass (Milakov and Gimelshein 2018) -------------------------------
#if defined REDUCE_logsumexp || defined REDUCE_softmax_sum
enum { BLOCK = 1 << 30 };
typedef struct {
    vval max[NI], ref[NI], sum[NI];  // sum of exp(v - ref); ref is the maximum, or 0 while that is infinite
} Online;
INL void online_start(Online *o) {
    ROWS {
        o->max[k] = VAL_(smallest)();
        o->ref[k] = o->sum[k] = VAL_(splat)(0);
    }
}
// Raise the reference to the tile's maximum where that is larger; returns the factor for what was summed before.
INL vval online_raise(const int nj, Online *o, vval v[][NI], int k) {
    vval max = o->max[k], scale = VAL_(splat)(1);
    UNROLL for (int q = 0; q < nj; ++q) max = VAL_(where)(VAL_(greater)(v[q][k], max), v[q][k], max);
    if (any_b1(VAL_(greater)(max, o->max[k]))) {
        const vval ref = VAL_(where)(VAL_(isinf)(max), VAL_(splat)(0), max);
        scale = VAL_(where)(VAL_(equal)(o->max[k], VAL_(smallest)()), VAL_(splat)(0), VAL_(exp)(o->ref[k] - ref));
        o->sum[k] *= scale;
        o->ref[k] = ref;
        o->max[k] = max;
    }
    return scale;
}
#endif
#ifdef REDUCE_logsumexp
typedef Online Acc;
typedef struct {
    char unused;
} Head;
INL void start(Acc *acc) { online_start(acc); }
INL void take(const int nj, Head *head, Acc *acc, vval v[][NI], i64 index) {
    ROWS {
        (void)online_raise(nj, acc, v, k);
        UNROLL for (int q = 0; q < nj; ++q) acc->sum[k] += VAL_(exp)(v[q][k] - acc->ref[k]);
    }
}
INL void merge(Acc *acc, const Acc *later) { *acc = *later; }
INL void store(const Head *head, const Acc *acc, int k, char **out, i64 stride, int n) {
    VAL_(store_lanes)(out[0], stride * OUT0_BYTES, n, acc->max[k]);
    VAL_(store_lanes)(out[1], stride * OUT1_BYTES, n, acc->sum[k]);
}
#endif
#ifdef REDUCE_softmax_sum
typedef Online Head;  // one for all outputs of a row
typedef struct {
    vval weighted[NI];
} Acc;
INL void start(Acc *acc) { ROWS acc->weighted[k] = VAL_(splat)(0); }
INL void take_head(const int nj, Head *head, vval s[][NI], vval w[][NI], vval *scale) {
    ROWS {
        scale[k] = online_raise(nj, head, s, k);
        UNROLL for (int q = 0; q < nj; ++q) {
            w[q][k] = VAL_(exp)(s[q][k] - head->ref[k]);
            head->sum[k] += w[q][k];
        }
    }
}
INL void take(const int nj, Acc *acc, vval v[][NI], vval w[][NI], const vval *scale, i64 index) {
    ROWS acc->weighted[k] *= scale[k];
    TILE acc->weighted[k] += w[q][k] * v[q][k];
}
INL void merge(Acc *acc, const Acc *later) { *acc = *later; }
INL void store(const Head *head, const Acc *acc, int k, char **out, i64 stride, int n) {
    VAL_(store_lanes)(out[0], stride * OUT0_BYTES, n, head->max[k]);
    VAL_(store_lanes)(out[1], stride * OUT1_BYTES, n, head->sum[k]);
    VAL_(store_lanes)(out[2], stride * OUT2_BYTES, n, acc->weighted[k]);
}
#endif

// ---- topk: the K best of each row, sorted; NaN counts as the greatest, ties go to the lowest index -------------------
#ifdef REDUCE_topk
typedef struct {
    VAL value[NI * V][TOPK];
    IDX at[NI * V][TOPK];
    vval worst[NI];  // the K-th best so far, once there are K
    i64 count;       // columns seen
} Acc;
typedef struct {
    char unused;
} Head;
enum { BLOCK = 1 << 30 };
INL void start(Acc *acc) {
    acc->count = 0;
    ROWS acc->worst[k] = VAL_(splat)(0);
}
INL int precedes(VAL a, VAL b) {
#if LARGEST
    return a > b || (a != a && b == b);
#else
    return a < b || (b != b && a == a);
#endif
}
INL void insert(VAL *value, IDX *at, i64 filled, VAL v, IDX index) {
    i64 m = filled < TOPK ? filled : TOPK - 1;
    if (filled >= TOPK && !precedes(v, value[m])) return;
#if TOPK > 64  // bisect, then move all at once
    i64 low = 0;
    for (i64 high = m; low < high;) {
        const i64 middle = (low + high) / 2;
        if (precedes(v, value[middle])) high = middle;
        else low = middle + 1;
    }
    __builtin_memmove(value + low + 1, value + low, (m - low) * sizeof(VAL));
    __builtin_memmove(at + low + 1, at + low, (m - low) * sizeof(IDX));
    m = low;
#else
    for (; m > 0 && precedes(v, value[m - 1]); --m) {
        value[m] = value[m - 1];
        at[m] = at[m - 1];
    }
#endif
    value[m] = v;
    at[m] = index;
}
INL void take(const int nj, Head *head, Acc *acc, vval v[][NI], i64 index) {
    const int filled = acc->count >= TOPK;
    ROWS {
#if LARGEST
        if (filled && __builtin_expect(!any_greater(nj, v, k, acc->worst[k]), 1)) continue;
#else
        if (filled && __builtin_expect(!any_less(nj, v, k, acc->worst[k]), 1)) continue;
#endif
        for (int l = 0; l < V; ++l) {
            VAL *value = acc->value[k * V + l];
            IDX *at = acc->at[k * V + l];
            for (int q = 0; q < nj; ++q) insert(value, at, acc->count + q, v[q][k][l], (IDX)(index + q));
            if (acc->count + nj >= TOPK) acc->worst[k][l] = value[TOPK - 1];
        }
    }
    acc->count += nj;
}
INL void merge(Acc *acc, const Acc *later) { *acc = *later; }
INL void store(const Head *head, const Acc *acc, int k, char **out, i64 stride, int n) {
    for (int l = 0; l < n; ++l)
        for (int m = 0; m < TOPK; ++m) {
            ((VAL *)(out[0] + l * stride * OUT0_BYTES))[m] = acc->value[k * V + l][m];
            ((IDX *)(out[1] + l * stride * OUT1_BYTES))[m] = acc->at[k * V + l][m];
        }
}
#endif
#ifdef REDUCE_softmax_sum
INL void start_head(Head *head) { online_start(head); }
#else
INL void start_head(Head *head) { head->unused = 0; }
#endif
