// States of a reduction in memory, as pairs.cu writes them: load, merge, store. Comes after reductions.h, whose names it uses.

// Merge states: of (outers, parts, width) those of `group` neighbours along the middle axis, the first ones first. With
// `behind`, positions were counted in each part, and part p's columns come p * behind after the first one's.
struct Merging {
    const char *from[COMPONENTS];
    char *to[COMPONENTS];
    i64 outers, parts, width, group, behind;
};

#if defined REDUCE_sum || defined REDUCE_mean || defined REDUCE_prod || defined REDUCE_count_nonzero
typedef struct {
    vacc s;
} State;
INL void merge_states(State *a, const State *b) { a->s = COMBINE(a->s, b->s); }
#define STATE(_) _(0, s, ACC)
#endif

#ifdef REDUCE_var
typedef struct {
    vacc n, mean, m2;
} State;
INL void merge_states(State *a, const State *b) {
    const vacc n = a->n + b->n, d = b->mean - a->mean;
    const vacc share = ACC_(where)(ACC_(greater)(n, ACC_(splat)(0)), b->n / n, ACC_(splat)(0));
    a->mean += d * share;
    a->m2 += b->m2 + d * d * share * a->n;
    a->n = n;
}
#define STATE(_) _(0, n, ACC) _(1, mean, ACC) _(2, m2, ACC)
#endif

#if defined REDUCE_min || defined REDUCE_max
typedef struct {
    vval best;
} State;
INL void merge_states(State *a, const State *b) { a->best = VAL_(where)(BETTER(b->best, a->best), b->best, a->best); }
#define STATE(_) _(0, best, VAL)
#endif

#if defined REDUCE_argmin || defined REDUCE_argmax
typedef struct {
    vval best;
    i64 at;
} State;
INL void merge_states(State *a, const State *b) {
    if (any_b1(BETTER(b->best, a->best))) *a = *b;
}
#define STATE(_) _(0, best, VAL)
#define INDEX 1
#endif

#if defined REDUCE_any || defined REDUCE_all
typedef struct {
    vb m;
} State;
#ifdef REDUCE_any
INL void merge_states(State *a, const State *b) { a->m = logical_or_b1(a->m, b->m); }
#else
INL void merge_states(State *a, const State *b) { a->m = logical_and_b1(a->m, b->m); }
#endif
#define STATE(_) _(0, m, b1)
#endif

#if defined REDUCE_logsumexp || defined REDUCE_softmax_sum
typedef struct {
    vval max, sum;
#ifdef REDUCE_softmax_sum
    vval weighted;
#endif
} State;
// What exponents are relative to: 0 where the maximum is infinite.
INL vval reference(vval max) { return VAL_(where)(VAL_(isinf)(max), VAL_(splat)(0), max); }
INL void merge_states(State *a, const State *b) {
    const vval max = VAL_(where)(VAL_(greater)(b->max, a->max), b->max, a->max);
    const vval mine = VAL_(exp)(a->max - reference(max)), other = VAL_(exp)(b->max - reference(max));
    a->sum = a->sum * mine + b->sum * other;
#ifdef REDUCE_softmax_sum
    a->weighted = a->weighted * mine + b->weighted * other;
#endif
    a->max = max;
}
#ifdef REDUCE_softmax_sum
#define STATE(_) _(0, max, VAL) _(1, sum, VAL) _(2, weighted, VAL)
#else
#define STATE(_) _(0, max, VAL) _(1, sum, VAL)
#endif
#endif

#ifdef STATE
INL void load_state(const Merging &m, i64 at, i64 part, State *state) {
#define LOAD(number, field, TYPE) state->field = CAT3(load_lanes, _, TYPE)(m.from[number] + at * sizeof(TYPE), 0, 1);
    STATE(LOAD)
#undef LOAD
#ifdef INDEX
    state->at = ((const i64 *)m.from[INDEX])[at] + part * m.behind;
#endif
}
INL void store_state(const Merging &m, i64 at, const State *state) {
#define STORE(number, field, TYPE) CAT3(store_lanes, _, TYPE)(m.to[number] + at * sizeof(TYPE), 0, 1, state->field);
    STATE(STORE)
#undef STORE
#ifdef INDEX
    ((i64 *)m.to[INDEX])[at] = state->at;
#endif
}
#endif

#ifdef REDUCE_topk
enum : i64 { NOBODY = ~((i64)1 << 63) };  // the position of a place that no column took
// Does entry a come before entry b? The better value first, then the lower index; what no column took comes last.
INL int comes_before(const Merging &m, i64 a, i64 part_a, i64 b, i64 part_b) {
    const i64 *const at = (const i64 *)m.from[1];
    if (at[a] == NOBODY || at[b] == NOBODY) return at[a] != NOBODY || (at[b] == NOBODY && a < b);
    const vval value_a = VAL_(load_lanes)(m.from[0] + a * sizeof(VAL), 0, 1), value_b = VAL_(load_lanes)(m.from[0] + b * sizeof(VAL), 0, 1);
    if (any_b1(all_preceding(value_a, value_b))) return 1;
    if (any_b1(all_preceding(value_b, value_a))) return 0;
    return at[a] + part_a * m.behind < at[b] + part_b * m.behind;
}
INL void rank(const Merging &m, i64 start, int count, int own, int at, i64 first, i64 target) {
    const i64 list = m.width * TOPK, mine = start * TOPK + own * list + at;
    int place = at;
    for (int p = 0; p < count; ++p) {
        if (p == own) continue;
        int low = 0, high = TOPK;  // how many of list p come before
        while (low < high) {
            const int middle = (low + high) / 2;
            if (comes_before(m, start * TOPK + p * list + middle, first + p, mine, first + own)) low = middle + 1;
            else high = middle;
        }
        place += low;
    }
    if (place >= TOPK) return;
    const i64 to = target * TOPK + place, position = ((const i64 *)m.from[1])[mine];
    VAL_(store_lanes)(m.to[0] + to * sizeof(VAL), 0, 1, VAL_(load_lanes)(m.from[0] + mine * sizeof(VAL), 0, 1));
    ((i64 *)m.to[1])[to] = position == NOBODY ? position : position + (first + own) * m.behind;
}
#endif
