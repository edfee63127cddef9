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
#if !defined VAL_IS_FLOAT  // integers of a value's size, in which top-k compares
#define KEY VAL
#elif VAL_BYTES == 4
#define KEY i32
#else
#define KEY i64
#endif
#define KEY_(f) CAT3(f, _, KEY)
#ifdef NATIVE  // positions are 64 bits wide in memory, and counts are
#define STORE_INDEX(to, stride, n, at) (*(i64 *)(to) = (at).x)
#else
#define STORE_INDEX IDX_(store_lanes)
#endif
#define TILE UNROLL for (int q = 0; q < nj; ++q) UNROLL for (int k = 0; k < NI; ++k)
#define ROWS UNROLL for (int k = 0; k < NI; ++k)
// For the rows where a test holds, which are few: on CUDA one branch for all of them, as each costs three instructions.
#ifdef NATIVE
#define RARE_ROWS(test)                                  \
    bool any_row = false;                                \
    ROWS any_row |= (test) != 0;                         \
    if (__builtin_expect(any_row, 0)) ROWS if (test)
#else
#define RARE_ROWS(test) ROWS if (__builtin_expect(test, 0))
#endif

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
    INL v##T largest_##T(void) { return splat_##T(make_##T((R)__builtin_inf(), (R)__builtin_inf())); }     \
    INL v##T smallest_##T(void) { return splat_##T(make_##T((R)-__builtin_inf(), (R)-__builtin_inf())); }
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

// A point amid the n numbers y, near their mean: 0 has few digits in common with it. Of few digits itself where they lie apart,
// so that what is integral stays exact and ties stay ties.
#define CENTRE(T, coarse)                                                            \
    INL T centre_##T(const T *y, int n) {                                            \
        T sum = 0, low = INFINITE(T), high = -INFINITE(T);                           \
        for (int m = 0; m < n; ++m) {                                                \
            if (!(y[m] - y[m] == 0)) continue; /* NaN or infinite */                 \
            sum += y[m] * ((T)1 / (T)n);                                             \
            low = y[m] < low ? y[m] : low;                                           \
            high = y[m] > high ? y[m] : high;                                        \
        }                                                                            \
        if (low == high) return low;                                                 \
        const T unit = (high - low) * (T)(coarse), centre = (sum + unit) - unit;     \
        return centre - centre == 0 ? centre : 0;                                    \
    }
#if VB / V >= 4
CENTRE(f32, 0x1p21)  // to a quarter of the range: the last digits of 2^23 are ones
#endif
#if VB / V >= 8
CENTRE(f64, 0x1p50)
#endif

#ifndef NATIVE
// Squared distances as products (writer.py): all lanes of all vectors of a tile are to be greater than the least value that is
// precise. One masked compare a vector where there are mask registers.
#define FAR_MASK(T, p)                                                                              \
    typedef u16 far_##T;                                                                            \
    INL far_##T all_far_##T(void) { return (u16)((1 << V) - 1); }                                   \
    INL far_##T also_far_##T(far_##T m, v##T v, v##T least) {                                       \
        far_##T both;                                                                               \
        __asm__("vcmp" p " $30, %3, %2, %0%{%1%}" : "=Yk"(both) : "Yk"(m), "v"(v), "v"(least));     \
        return both;                                                                                \
    }                                                                                               \
    INL int far_tile_##T(far_##T m[NI]) {                                                           \
        UNROLL for (int k = 1; k < NI; ++k) m[0] &= m[k];                                           \
        return m[0] == all_far_##T();                                                               \
    }
#define FAR_LANES(T, I, U, _)                                                                                              \
    typedef vb far_##T;                                                                                                    \
    INL far_##T all_far_##T(void) { return splat_b1(1); }                                                                  \
    INL far_##T also_far_##T(far_##T m, v##T v, v##T least) { return logical_and_b1(m, greater_##T(v, least)); }           \
    INL int far_tile_##T(far_##T m[NI]) {                                                                                  \
        UNROLL for (int k = 1; k < NI; ++k) m[0] = logical_and_b1(m[0], m[k]);                                             \
        return !any_b1(logical_not_b1(m[0]));                                                                              \
    }
#define OFF_CENTRE(T, I, U, _) /* n columns of a record, `stride` bytes apart */                        \
    INL void off_centre_##T(T *columns, i64 stride, const T *centre, int features, int n) {             \
        for (int m = 0; m < n; ++m) {                                                                   \
            T *const y = (T *)((char *)columns + m * stride);                                           \
            int d = 0;                                                                                  \
            for (; d + V <= features; d += V) *(loose_##T *)(y + d) -= *(const loose_##T *)(centre + d); \
            for (; d < features; ++d) y[d] -= centre[d];                                                \
        }                                                                                               \
    }
EACH_FLOAT(OFF_CENTRE, )
#if VB / V >= 4
#if FILLS(4 * V) == 5 && V >= 8
FAR_MASK(f32, "ps")
#else
FLOAT32(FAR_LANES, )
#endif
#endif
#if VB / V >= 8
#if FILLS(8 * V) == 5 && V >= 8
FAR_MASK(f64, "pd")
#else
FLOAT64(FAR_LANES, )
#endif
#endif
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
enum { BLOCK = 512 / NJ * NJ };  // columns of one first-level sum: the rounding error grows with BLOCK + N/BLOCK, not with N
#define UNIT 0
#ifdef ACC_COMPLEX
#define COMBINE(a, b) ACC_(add)(a, b)
#else
#define COMBINE(a, b) ((a) + (b))
#endif
#endif
INL void start(Acc *acc) {
#ifdef ACC_COMPLEX
    ROWS acc->s[k] = ACC_(splat)(CAT2(make_, ACC)(UNIT, 0));
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
INL void merge(Head *head, Acc *acc, const Acc *later) {
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
enum { BLOCK = 512 / NJ * NJ };  // columns of one first-level state: a single one stops growing at 2^24 float32 columns
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
INL void merge(Head *head, Acc *acc, const Acc *later) {
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
    RARE_ROWS(ANY_BETTER(nj, v, k, acc->best[k])) {
        UNROLL for (int q = 0; q < nj; ++q) {
            const vb better = BETTER(v[q][k], acc->best[k]);
            acc->best[k] = VAL_(where)(better, v[q][k], acc->best[k]);
#if defined REDUCE_argmin || defined REDUCE_argmax
            acc->at[k] = IDX_(where)(better, IDX_(splat)((IDX)(index + q)), acc->at[k]);
#endif
        }
    }
}
INL void merge(Head *head, Acc *acc, const Acc *later) { *acc = *later; }
INL void store(const Head *head, const Acc *acc, int k, char **out, i64 stride, int n) {
    VAL_(store_lanes)(out[0], stride * OUT0_BYTES, n, acc->best[k]);
#if defined REDUCE_argmin || defined REDUCE_argmax
    STORE_INDEX(out[1], stride * OUT1_BYTES, n, acc->at[k]);
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
INL void merge(Head *head, Acc *acc, const Acc *later) { *acc = *later; }
INL void store(const Head *head, const Acc *acc, int k, char **out, i64 stride, int n) { store_lanes_b1(out[0], stride * OUT0_BYTES, n, acc->m[k]); }
#endif

// ---- logsumexp and the softmax-weighted sum, in one pass (Milakov and Gimelshein 2018) -------------------------------
#if defined REDUCE_logsumexp || defined REDUCE_softmax_sum
#if defined NATIVE && defined FLUSH_SUBNORMALS && VAL_BYTES == 4
#define SCALED_WEIGHTS 1
#endif
typedef struct {
    vval max[NI], ref[NI];   // what sums are relative to: a value within SLACK of the maximum; ref is 0 where that is infinite
    vval limit[NI];          // max + SLACK: as long as no value is above, nothing is rescaled
    vval sum[NI], part[NI];  // of exp(v - ref): of all columns before, and of the last few hundred
#ifdef SCALED_WEIGHTS
    vval scaled[NI];  // log2(e) ref, rounded: an error that all weights of a row share
#endif
} Online;
#define LOG2_E VAL_(splat)((VAL)1.44269504088896340736)
#if defined SCALED_WEIGHTS
#define SLACK 8
#define WEIGHT(v, o, k) VAL_(exp2)((v) * LOG2_E - (o).scaled[k])  // one instruction and the exponential
#elif defined FLUSH_SUBNORMALS
#define SLACK 8
#define WEIGHT(v, o, k) VAL_(exp2)(((v) - (o).ref[k]) * LOG2_E)
#else
#define SLACK 0
#define WEIGHT(v, o, k) VAL_(exp)((v) - (o).ref[k])
#endif
INL void online_start(Online *o) {
    ROWS {
        o->max[k] = o->limit[k] = VAL_(smallest)();
        o->ref[k] = o->sum[k] = o->part[k] = VAL_(splat)(0);
#ifdef SCALED_WEIGHTS
        o->scaled[k] = VAL_(splat)(0);
#endif
    }
}
// Take the tile's maximum as reference where that is larger; returns the factor for what was summed before.
FUNCTION vval online_raise(const int nj, Online *o, vval v[][NI], int k) {
    vval max = o->max[k];
    for (int q = 0; q < nj; ++q) max = VAL_(where)(VAL_(greater)(v[q][k], max), v[q][k], max);
    const vval ref = VAL_(where)(VAL_(isinf)(max), VAL_(splat)(0), max);
#ifdef SCALED_WEIGHTS
    const vval scaled = ref * LOG2_E, factor = VAL_(exp2)(o->scaled[k] - scaled);
    o->scaled[k] = scaled;
#else
    const vval factor = VAL_(exp)(o->ref[k] - ref);
#endif
    const vval scale = VAL_(where)(VAL_(equal)(o->max[k], VAL_(smallest)()), VAL_(splat)(0), factor);
    const vb raised = VAL_(greater)(max, o->max[k]);
    o->sum[k] = VAL_(where)(raised, o->sum[k] * scale, o->sum[k]);
    o->part[k] = VAL_(where)(raised, o->part[k] * scale, o->part[k]);
    o->ref[k] = ref;
    o->max[k] = max;
    o->limit[k] = max + VAL_(splat)(SLACK);
    return VAL_(where)(raised, scale, VAL_(splat)(1));
}
INL void online_turn(Online *o) {
    ROWS {
        o->sum[k] += o->part[k];
        o->part[k] = VAL_(splat)(0);
    }
}
#endif
#ifdef REDUCE_logsumexp
enum { BLOCK = 1 << 30, FEW = 512 };
typedef Online Acc;
typedef struct {
    char unused;
} Head;
INL void start(Acc *acc) { online_start(acc); }
INL void take(const int nj, Head *head, Acc *acc, vval v[][NI], i64 index) {
    if (__builtin_expect(index % FEW < nj, 0)) online_turn(acc);
    RARE_ROWS(any_greater(nj, v, k, acc->limit[k])) (void)online_raise(nj, acc, v, k);
    TILE acc->part[k] += WEIGHT(v[q][k], *acc, k);
}
INL void merge(Head *head, Acc *acc, const Acc *later) { *acc = *later; }
INL void store(const Head *head, const Acc *acc, int k, char **out, i64 stride, int n) {
    VAL_(store_lanes)(out[0], stride * OUT0_BYTES, n, acc->max[k]);
    VAL_(store_lanes)(out[1], stride * OUT1_BYTES, n, acc->sum[k] + acc->part[k]);
}
#endif
#ifdef REDUCE_softmax_sum
enum { BLOCK = 512 / NJ * NJ };
typedef struct {  // one for all outputs of a row
    Online o;
    vval since[NI];  // what to scale the sums of the blocks before by
} Head;
typedef struct {
    vval weighted[NI];
} Acc;
INL void start_head(Head *head) {
    online_start(&head->o);
    ROWS head->since[k] = VAL_(splat)(1);
}
INL void start(Acc *acc) { ROWS acc->weighted[k] = VAL_(splat)(0); }
INL void take_head(const int nj, Head *head, Acc *acc, vval s[][NI], vval w[][NI]) {
    RARE_ROWS(any_greater(nj, s, k, head->o.limit[k])) {
        const vval scale = online_raise(nj, &head->o, s, k);
        head->since[k] *= scale;
        for (int e = 0; e < OUTPUTS; ++e) acc[e].weighted[k] *= scale;
    }
    ROWS {
        UNROLL for (int q = 0; q < nj; ++q) {
            w[q][k] = WEIGHT(s[q][k], head->o, k);
            head->o.part[k] += w[q][k];
        }
    }
}
INL void take(const int nj, Acc *acc, vval v[][NI], vval w[][NI], i64 index) { TILE acc->weighted[k] += w[q][k] * v[q][k]; }
INL void merge(Head *head, Acc *acc, const Acc *later) {
    ROWS acc->weighted[k] = acc->weighted[k] * head->since[k] + later->weighted[k];
}
INL void turn(Head *head) {
    online_turn(&head->o);
    ROWS head->since[k] = VAL_(splat)(1);
}
INL void store(const Head *head, const Acc *acc, int k, char **out, i64 stride, int n) {
    VAL_(store_lanes)(out[0], stride * OUT0_BYTES, n, head->o.max[k]);
    VAL_(store_lanes)(out[1], stride * OUT1_BYTES, n, head->o.sum[k] + head->o.part[k]);
    VAL_(store_lanes)(out[2], stride * OUT2_BYTES, n, acc->weighted[k]);
}
#endif

// ---- topk: the K best of each row, sorted; NaN counts as the greatest, ties go to the lowest index -------------------
#ifdef REDUCE_topk
#if LARGEST
#define ANY_BETTER any_greater
INL vb all_preceding(vval a, vval b) {
    return logical_or_b1(VAL_(greater)(a, b), logical_and_b1(VAL_(not_equal)(a, a), VAL_(equal)(b, b)));
}
#else
#define ANY_BETTER any_less
INL vb all_preceding(vval a, vval b) {
    return logical_or_b1(VAL_(less)(a, b), logical_and_b1(VAL_(not_equal)(b, b), VAL_(equal)(a, a)));
}
#endif
#ifdef NATIVE
// The K best so far in registers, in order. A place that no column took has the position EMPTY_PLACE, and any value precedes it.
#define EMPTY_PLACE ((IDX)~((IDX)1 << (8 * sizeof(IDX) - 1)))
// AFTER: a later pass for a longer list takes only what comes after an entry, the last one of the pass before.
typedef struct {
    char unused;
#ifdef AFTER
    vval after[NI];
    i64 after_at[NI];  // < 0 in the first pass
#endif
} Head;
INL bool is_left(const Head *head, int k, vval v, i64 column) {
#ifdef AFTER
    if (head->after_at[k] < 0 || all_preceding(head->after[k], v).x) return true;
    return !all_preceding(v, head->after[k]).x && column > head->after_at[k];
#else
    return true;
#endif
}
typedef struct {
    vval value[NI][TOPK], bar[NI];  // bar: what a value has to be better than, to look at it at all
    vidx at[NI][TOPK];
} Acc;
enum { BLOCK = 1 << 30 };
#ifdef VAL_IS_FLOAT
#define OPEN UNDEFINED(VAL)  // nothing is as good as NaN
#define MAY_ENTER(acc, k, nj, v) ANY_BETTER(nj, v, k, (acc)->bar[k])
#else
#define OPEN (VAL)0
#define MAY_ENTER(acc, k, nj, v) (ANY_BETTER(nj, v, k, (acc)->bar[k]) || (acc)->at[k][TOPK - 1].x == EMPTY_PLACE)
#endif
INL void start(Acc *acc) {
    ROWS {
        acc->bar[k] = OPEN;
        UNROLL for (int m = 0; m < TOPK; ++m) {
            acc->value[k][m] = VAL_(splat)(0);
            acc->at[k][m] = EMPTY_PLACE;
        }
    }
}
INL bool precedes(const Acc *acc, int k, int m, vval v) {
    return acc->at[k][m].x == EMPTY_PLACE || all_preceding(v, acc->value[k][m]).x;
}
INL void enter(Acc *acc, int k, vval v, IDX column) {  // place m becomes what is there, the one before it, or the new value
    bool here = true;
    UNROLL for (int m = TOPK - 1; m > 0; --m) {
        const bool before = precedes(acc, k, m - 1, v);
        acc->value[k][m] = before ? acc->value[k][m - 1] : here ? v : acc->value[k][m];
        acc->at[k][m] = before ? acc->at[k][m - 1] : here ? vidx(column) : acc->at[k][m];
        here = before;
    }
    if (here) {
        acc->value[k][0] = v;
        acc->at[k][0] = column;
    }
    if (acc->at[k][TOPK - 1].x != EMPTY_PLACE) acc->bar[k] = acc->value[k][TOPK - 1];
}
INL void take(const int nj, Head *head, Acc *acc, vval v[][NI], i64 index) {
    RARE_ROWS(MAY_ENTER(acc, k, nj, v)) {
        UNROLL for (int q = 0; q < nj; ++q)
            if (is_left(head, k, v[q][k], index + q) && precedes(acc, k, TOPK - 1, v[q][k]))
                enter(acc, k, v[q][k], (IDX)(index + q));
    }
}
INL void merge(Head *head, Acc *acc, const Acc *later) { *acc = *later; }
INL void store(const Head *head, const Acc *acc, int k, char **out, i64 stride, int n) {
    UNROLL for (int m = 0; m < TOPK; ++m) {
        VAL_(store_lanes)(out[0] + m * sizeof(VAL), 0, 1, acc->value[k][m]);
        const IDX at = acc->at[k][m].x;
        ((i64 *)out[1])[m] = at == EMPTY_PLACE ? ~((i64)1 << 63) : (i64)at;
    }
}
#else
typedef CAT2(v, KEY) vkey;
// Columns with a value that may be among the K best wait in a queue, without a branch, and are looked at many at a time.
// Up to 32 best are kept sorted by insertion; of more, the whole queue is sorted and merged. Lane by lane: each is a row.
typedef struct {
    char unused;
} Head;
enum { BLOCK = 1 << 30, SORTED = TOPK <= 32, POWER = 2 << (31 - __builtin_clz(TOPK - (TOPK > 1))), WAIT = SORTED ? 16 : POWER };
typedef struct {
    vval queue[NI][WAIT + NJ];
    IDX column[NI][WAIT + NJ];
    i64 waiting[NI], filled[NI];  // queue entries; columns that have entered
    vval worst[NI];               // the K-th best, once K columns have entered
#if TOPK <= 32
    vval value[NI][TOPK];
    vidx at[NI][TOPK];
#else
    vkey key[NI][2 * POWER];  // the best, and the queue as keys
    vidx at[NI][2 * POWER];
#endif
} Acc;
INL void start(Acc *acc) {
    ROWS {
        acc->waiting[k] = acc->filled[k] = 0;
        acc->worst[k] = VAL_(splat)(0);
#if defined RESTRICTED && TOPK <= 32  // rows may have fewer columns
        for (int m = 0; m < TOPK; ++m) {
            acc->value[k][m] = VAL_(splat)(0);
            acc->at[k][m] = IDX_(largest)();
        }
#endif
    }
#if TOPK > 32
    ROWS for (int m = 0; m < POWER; ++m) {
        acc->key[k][m] = KEY_(largest)();
        acc->at[k][m] = IDX_(largest)();
    }
#endif
}
#ifdef VCMP
typedef unsigned short Mask;
INL Mask preceding(vval a, vval b) {  // not (a >= b), of those that are no NaN; the greatest first: not (a <= b) where b is none
    Mask number, m;
    __asm__(VCMP " $7, %1, %1, %0" : "=Yk"(number) : "v"(LARGEST ? b : a));
    if (LARGEST) __asm__(VCMP " $22, %2, %1, %0%{%3%}" : "=Yk"(m) : "v"(a), "v"(b), "Yk"(number));
    else __asm__(VCMP " $25, %2, %1, %0%{%3%}" : "=Yk"(m) : "v"(a), "v"(b), "Yk"(number));
    return m;
}
#define MASKED(ins, to, from, m) __asm__(ins " %1, %0%{%2%}" : "+v"(to) : "v"(from), "Yk"(m))
INL vval replaced_value(vval to, vval from, Mask m) {
    if (VAL_BYTES == 4) MASKED("vmovaps", to, from, m);
    else MASKED("vmovapd", to, from, m);
    return to;
}
INL vkey replaced_key(vkey to, vkey from, Mask m) {
    if (VAL_BYTES == 4) MASKED("vmovdqa32", to, from, m);
    else MASKED("vmovdqa64", to, from, m);
    return to;
}
INL vidx replaced_column(vidx to, vidx from, Mask m) {
    if (sizeof(IDX) == 4) MASKED("vmovdqa32", to, from, m);
    else MASKED("vmovdqa64", to, from, m);
    return to;
}
INL int less_keys(vkey a, vkey b, vidx at_a, vidx at_b) {  // lanes where a is less, or equal and its column is
    Mask less, equal, first;
    if (VAL_BYTES == 4) __asm__("vpcmpd $1, %2, %1, %0" : "=Yk"(less) : "v"(a), "v"(b));
    else __asm__("vpcmpq $1, %2, %1, %0" : "=Yk"(less) : "v"(a), "v"(b));
    if (VAL_BYTES == 4) __asm__("vpcmpd $0, %2, %1, %0" : "=Yk"(equal) : "v"(a), "v"(b));
    else __asm__("vpcmpq $0, %2, %1, %0" : "=Yk"(equal) : "v"(a), "v"(b));
    if (sizeof(IDX) == 4) __asm__("vpcmpd $1, %2, %1, %0%{%3%}" : "=Yk"(first) : "v"(at_a), "v"(at_b), "Yk"(equal));
    else __asm__("vpcmpq $1, %2, %1, %0%{%3%}" : "=Yk"(first) : "v"(at_a), "v"(at_b), "Yk"(equal));
    return less | first;
}
#endif
#if TOPK <= 32
// Slot m of a lane becomes what is there, the one before it, or the new value: the K compares depend on nothing but that value.
#ifdef VCMP
INL void enter(Acc *acc, int k, vval v, IDX column) {
    Mask here = preceding(v, acc->value[k][TOPK - 1]);
    if (!(here & ALL_LANES)) return;
    const vidx at = IDX_(splat)(column);
    UNROLL for (int m = TOPK - 1; m > 0; --m) {
        const Mask before = preceding(v, acc->value[k][m - 1]);
        if (TOPK > 16 && m % 8 == 0 && !(here & ALL_LANES)) return;
        acc->value[k][m] = replaced_value(replaced_value(acc->value[k][m], v, here), acc->value[k][m - 1], before);
        acc->at[k][m] = replaced_column(replaced_column(acc->at[k][m], at, here), acc->at[k][m - 1], before);
        here = before;
    }
    acc->value[k][0] = replaced_value(acc->value[k][0], v, here);
    acc->at[k][0] = replaced_column(acc->at[k][0], at, here);
}
#else
INL void enter(Acc *acc, int k, vval v, IDX column) {
    const vidx at = IDX_(splat)(column);
    vb here = all_preceding(v, acc->value[k][TOPK - 1]);
    if (!any_b1(here)) return;
    for (int m = TOPK - 1; m > 0; --m) {
        const vb before = all_preceding(v, acc->value[k][m - 1]);
        acc->value[k][m] = VAL_(where)(before, acc->value[k][m - 1], VAL_(where)(here, v, acc->value[k][m]));
        acc->at[k][m] = IDX_(where)(before, acc->at[k][m - 1], IDX_(where)(here, at, acc->at[k][m]));
        here = before;
    }
    acc->value[k][0] = VAL_(where)(here, v, acc->value[k][0]);
    acc->at[k][0] = IDX_(where)(here, at, acc->at[k][0]);
}
#endif
INL void enter_first(Acc *acc, int k, vval v, IDX column) {  // one of the first K columns: at the end, then up
    i64 m = acc->filled[k]++;
    acc->value[k][m] = v;
    acc->at[k][m] = IDX_(splat)(column);
    for (; m > 0; --m) {
        const vval value = acc->value[k][m], above = acc->value[k][m - 1];
        const vidx at = acc->at[k][m], at_above = acc->at[k][m - 1];
        const vb up = all_preceding(value, above);
        acc->value[k][m] = VAL_(where)(up, above, value);
        acc->value[k][m - 1] = VAL_(where)(up, value, above);
        acc->at[k][m] = IDX_(where)(up, at_above, at);
        acc->at[k][m - 1] = IDX_(where)(up, at, at_above);
    }
}
FUNCTION void drain(Acc *acc, int k) {
    for (int m = 0; m < acc->waiting[k]; ++m)
        if (acc->filled[k] < TOPK) enter_first(acc, k, acc->queue[k][m], acc->column[k][m]);
        else enter(acc, k, acc->queue[k][m], acc->column[k][m]);
    if (acc->filled[k] == TOPK) acc->worst[k] = acc->value[k][TOPK - 1];
    acc->waiting[k] = 0;
}
INL void finish(Acc *acc) { ROWS drain(acc, k); }
INL void store(const Head *head, const Acc *acc, int k, char **out, i64 stride, int n) {
    for (int m = 0; m < TOPK; ++m) {
        VAL_(store_lanes)(out[0] + m * sizeof(VAL), stride * OUT0_BYTES, n, acc->value[k][m]);
        STORE_INDEX(out[1] + m * sizeof(IDX), stride * OUT1_BYTES, n, acc->at[k][m]);
    }
}
#else
// Keys are integers in the order of the values, the best least; columns decide between equal ones, so no two entries are equal.
#if defined VAL_IS_FLOAT
INL vkey key_of(vval v) {
    vkey bits = (vkey)(v + VAL_(splat)(0));  // -0.0 is 0.0
    bits ^= (bits >> (8 * VAL_BYTES - 1)) & KEY_(largest)();
    bits = KEY_(where)(VAL_(not_equal)(v, v), KEY_(largest)(), bits);
    return LARGEST ? ~bits : bits;
}
INL vval value_of(vkey key) {
    const vkey bits = LARGEST ? ~key : key;
    return (vval)(bits ^ ((bits >> (8 * VAL_BYTES - 1)) & KEY_(largest)()));
}
#else
INL vkey key_of(vval v) { return LARGEST ? ~v : v; }
INL vval value_of(vkey key) { return LARGEST ? ~key : key; }
#endif
INL void order(vkey *key, vidx *at, int m, int n) {  // the better of two entries to m
    const vkey a = key[m], b = key[n];
    const vidx at_a = at[m], at_b = at[n];
#ifdef VCMP
    const Mask swap = (Mask)less_keys(b, a, at_b, at_a);
    key[m] = replaced_key(a, b, swap);
    key[n] = replaced_key(b, a, swap);
    at[m] = replaced_column(at_a, at_b, swap);
    at[n] = replaced_column(at_b, at_a, swap);
#else
    const vb swap = logical_or_b1(KEY_(less)(b, a), logical_and_b1(KEY_(equal)(a, b), IDX_(less)(at_b, at_a)));
    key[m] = KEY_(where)(swap, b, a);
    key[n] = KEY_(where)(swap, a, b);
    at[m] = IDX_(where)(swap, at_b, at_a);
    at[n] = IDX_(where)(swap, at_a, at_b);
#endif
}
// Bitonic networks (Batcher 1968): the same exchanges for every row, without a branch.
INL void halves(vkey *key, vidx *at, int n) {  // sorts what rises and then falls
    for (int step = n / 2; step > 0; step /= 2)
        for (int m = 0; m < n; m += 2 * step)
            for (int o = m; o < m + step; ++o) order(key, at, o, o + step);
}
FUNCTION void drain(Acc *acc, int k) {
    vkey *const best = acc->key[k], *const key = best + POWER;
    vidx *const at_best = acc->at[k], *const at = at_best + POWER;
    const i64 waiting = acc->waiting[k] < POWER ? acc->waiting[k] : POWER;
    for (int m = 0; m < POWER; ++m) {
        key[m] = m < waiting ? key_of(acc->queue[k][m]) : KEY_(largest)();
        at[m] = m < waiting ? IDX_(splat)(acc->column[k][m]) : IDX_(largest)();
    }
    for (int n = 2; n <= POWER; n *= 2)
        for (int m = 0; m < POWER; m += n) {
            for (int o = 0; o < n / 2; ++o) order(key, at, m + o, m + n - 1 - o);
            for (int h = m; h < m + n; h += n / 2) halves(key + h, at + h, n / 2);
        }
    for (int m = 0; m < POWER; ++m) order(best, at_best, m, 2 * POWER - 1 - m);
    halves(best, at_best, POWER);
    acc->filled[k] += waiting;
    for (i64 m = waiting; m < acc->waiting[k]; ++m) {
        acc->queue[k][m - waiting] = acc->queue[k][m];
        acc->column[k][m - waiting] = acc->column[k][m];
    }
    acc->waiting[k] -= waiting;
    acc->worst[k] = value_of(best[TOPK - 1]);
}
INL void finish(Acc *acc) { ROWS while (acc->waiting[k]) drain(acc, k); }
INL void store(const Head *head, const Acc *acc, int k, char **out, i64 stride, int n) {
    for (int m = 0; m < TOPK; ++m) {
        VAL_(store_lanes)(out[0] + m * sizeof(VAL), stride * OUT0_BYTES, n, value_of(acc->key[k][m]));
        STORE_INDEX(out[1] + m * sizeof(IDX), stride * OUT1_BYTES, n, acc->at[k][m]);
    }
}
#endif
// Does a value of this vector belong among the K best? To sort a NaN in vain costs more than a second compare.
INL int may_enter(const Acc *acc, int k, vval v[NI]) {
    if (acc->filled[k] < TOPK) return 1;
    if (SORTED) return ANY_BETTER(1, (vval(*)[NI])v, k, acc->worst[k]);
#ifdef VCMP
    return (preceding(v[k], acc->worst[k]) & ALL_LANES) != 0;
#else
    return any_b1(all_preceding(v[k], acc->worst[k]));
#endif
}
INL void take(const int nj, Head *head, Acc *acc, vval v[][NI], i64 index) {
    ROWS {
        UNROLL for (int q = 0; q < nj; ++q) {
            const i64 m = acc->waiting[k];
            acc->queue[k][m] = v[q][k];
            acc->column[k][m] = (IDX)(index + q);
            acc->waiting[k] = m + may_enter(acc, k, v[q]);
        }
        if (__builtin_expect(acc->waiting[k] >= WAIT, 0)) drain(acc, k);
    }
}
INL void merge(Head *head, Acc *acc, const Acc *later) { *acc = *later; }
#endif
#endif

// ---- histogram: how many values are in each bin, or the sum of their weights -----------------------------------------
#ifdef REDUCE_histogram
// Each block of rows counts in tables of its own, part of the output: [bin][copy], the last bin for what is in none. Where
// a block shares one table, neighbouring lanes count in copies of a bin, and do not wait for each other's stores. Rows with
// a histogram each (ROWS_APART) have a table each. BIN_BY_position: the value is its bin's number; BIN_BY_search: it is
// searched for among the lower edges; BIN_BY_scale: its position is computed, and searched for only near an edge.
// a[EDGES]: first, scale, guard, last, then the lower edges, as many as a power of two.
typedef struct {
    char unused;
} Acc;
typedef struct {
    COUNT *table;
    const VAL *edges;
    vi32 base[NI];  // of each lane's table or copy
    vb valid[NI];   // lanes that are rows
    i32 bins, copies, half;
} Head;
enum { BLOCK = 1 << 30, HEAD_NUMBERS = 4 };
INL void start_head(Head *head) { head->half = 0; }
INL void attach(const i64 *a, i64 place, i64 row, Head *head) {
    const i64 rows = row_count(a), left = rows - row, size = a[BINS] + 1;
    head->bins = (i32)a[BINS];
    head->copies = (i32)a[COPIES];
    head->edges = (const VAL *)a[EDGES];
    for (head->half = 1; head->half < head->bins; head->half *= 2) {}
    head->half /= 2;
#ifdef ROWS_APART
    const i64 own = (left < NI * V ? left : NI * V) * size;
    head->table = (COUNT *)a[OUT0] + (place * rows + row) * size;
#else
    const i64 own = size * a[COPIES], blocks = (rows + NI * V - 1) / (NI * V);
    head->table = (COUNT *)a[OUT0] + (place * blocks + row / (NI * V)) * own;
#endif
    for (i64 m = 0; m < own; ++m) head->table[m] = 0;
    ROWS LANES {
        const i64 lane = k * V + l;
        head->valid[k][l] = lane < left ? -1 : 0;
#ifdef ROWS_APART
        head->base[k][l] = (i32)((lane < left ? lane : left - 1) * size);
#else
        head->base[k][l] = l & (head->copies - 1);
#endif
    }
}
INL void start(Acc *acc) { acc->unused = 0; }
INL void merge(Head *head, Acc *acc, const Acc *later) { (void)later; }
INL void turn(Head *head) { (void)head; }
INL void finish(Acc *acc) { (void)acc; }
INL void store(const Head *head, const Acc *acc, int k, char **out, i64 stride, int n) { (void)out; }
// The entries p[at].
INL vval entries(const VAL *p, vi32 at) {
    vval r;
#ifdef VCMP
    unsigned short all = ALL_LANES;
    if (VAL_BYTES == 4) __asm__("vgatherdps (%2,%3,4), %0%{%1%}" : "=&v"(r), "+Yk"(all) : "r"(p), "v"(at) : "memory");
    else __asm__("vgatherdpd (%2,%3,8), %0%{%1%}" : "=&v"(r), "+Yk"(all) : "r"(p), "v"(at) : "memory");
#else
    LANES r[l] = p[at[l]];
#endif
    return r;
}
// The last bin whose lower edge is no greater, if the value is in one at all. NaN is not. All vectors of rows take turns, as
// each step waits for the one before.
LONG void search(const Head *head, const vval *v, vi32 *bin) {
    const VAL *const low = head->edges + HEAD_NUMBERS;
    ROWS bin[k] = splat_i32(0);
    for (i32 half = head->half; half > 0; half /= 2)
        ROWS bin[k] += where_i32(VAL_(less_equal)(entries(low + half - 1, bin[k]), v[k]), splat_i32(half), splat_i32(0));
    ROWS bin[k] += where_i32(VAL_(less_equal)(entries(low, bin[k]), v[k]), splat_i32(1), splat_i32(0));
    ROWS {
        const vi32 last = where_i32(less_i32(bin[k], splat_i32(head->bins)), bin[k], splat_i32(head->bins));
        const vb inside = logical_and_b1(greater_i32(last, splat_i32(0)), VAL_(less_equal)(v[k], VAL_(splat)(head->edges[3])));
        bin[k] = where_i32(inside, last - splat_i32(1), splat_i32(head->bins));
    }
}
// The same for a value between the first and the last edge, whose bin is `at` or next to it, or nearly always.
INL i32 corrected(const Head *head, VAL v, i32 at) {
    const VAL *const low = head->edges + HEAD_NUMBERS;
    const i32 last = head->bins - 1;
    at = at < last ? at : last;
    at = at > 0 && v < low[at] ? at - 1 : at < last && v >= low[at + 1] ? at + 1 : at;
    if (v >= low[at] && (at == last || v < low[at + 1])) return at;
    i32 first = 0;
    for (i32 half = head->half; half > 0; half /= 2) first += low[first + half - 1] <= v ? half : 0;
    first += low[first] <= v;
    return (first < head->bins ? first : head->bins) - 1;
}
LONG vi32 all_corrected(const Head *head, vval v, vi32 bin, vb which) {
    LANES if (which[l]) bin[l] = corrected(head, v[l], bin[l]);
    return bin;
}
INL void find(const Head *head, const vval *v, vi32 *bin) {
#if defined BIN_BY_position
    ROWS {
        const vb inside = logical_and_b1(VAL_(greater_equal)(v[k], VAL_(splat)(0)), VAL_(less)(v[k], VAL_(splat)((VAL)head->bins)));
        bin[k] = where_i32(inside, CAT2(i32_from_, VAL)(v[k]), splat_i32(head->bins));
    }
#elif defined BIN_BY_search
    search(head, v, bin);
#else
    const vval zero = VAL_(splat)(0), count = VAL_(splat)((VAL)head->bins), guard = VAL_(splat)(head->edges[2]);
    ROWS {
        vval at = (v[k] - VAL_(splat)(head->edges[0])) * VAL_(splat)(head->edges[1]);
        at = VAL_(where)(VAL_(greater)(at, zero), at, zero);
        at = VAL_(where)(VAL_(less)(at, count), at, count);
        const vi32 whole = CAT2(i32_from_, VAL)(at);
        const vval part = at - CAT3(VAL, _from_, i32)(whole);
        const vb inside = logical_and_b1(VAL_(greater_equal)(v[k], VAL_(splat)(head->edges[HEAD_NUMBERS])), VAL_(less_equal)(v[k], VAL_(splat)(head->edges[3])));
        const vb clear = logical_and_b1(VAL_(greater)(part, guard), VAL_(less)(part, VAL_(splat)(1) - guard));
        const vb near = logical_and_b1(inside, logical_not_b1(clear));
        bin[k] = where_i32(inside, whole, splat_i32(head->bins));
        if (__builtin_expect(any_b1(near), 0)) bin[k] = all_corrected(head, v[k], bin[k], near);
    }
#endif
}
#ifdef WEIGHT
INL void take(const int nj, Head *head, Acc *acc, vval v[][NI], CAT2(v, WEIGHT) w[][NI], i64 index) {
#else
INL void take(const int nj, Head *head, Acc *acc, vval v[][NI], i64 index) {
#endif
    for (int q = 0; q < nj; ++q) {
        vi32 bin[NI];
        find(head, v[q], bin);
        ROWS {
            const vi32 found = where_i32(head->valid[k], bin[k], splat_i32(head->bins));
            const vi32 at = head->base[k] + found * splat_i32(head->copies);
            i32 place[V] __attribute__((aligned(VB)));
            __builtin_memcpy(place, &at, sizeof place);
#ifdef WEIGHT
            WEIGHT weight[V] __attribute__((aligned(VB)));
            __builtin_memcpy(weight, &w[q][k], sizeof weight);
            UNROLL LANES head->table[place[l]] += (COUNT)weight[l];
#else
            UNROLL LANES ++head->table[place[l]];
#endif
        }
    }
}
#endif

// ---- what only one reduction needs -----------------------------------------------------------------------------------
#ifndef REDUCE_histogram
INL void attach(const i64 *a, i64 place, i64 row, Head *head) { (void)head; }
#if !defined REDUCE_topk || defined NATIVE
INL void finish(Acc *acc) { (void)acc; }
#endif
#ifndef REDUCE_softmax_sum
INL void start_head(Head *head) { head->unused = 0; }
INL void turn(Head *head) { (void)head; }
#endif
#endif
