// out[i] = reduction over the columns of formula(row i, column), on a CPU.
//
// The lanes of a vector are rows: NI vectors of V rows and NJ columns are one tile, in registers. What depends on one side
// only is computed beforehand: `Par` once, `Col_j` once a column, `Row` once a row. The prelude above this file defines
//   Par, Row, Cols, At         records of one-sided values; addresses of the inputs at one index of the outer axes
//   fill_par, fill_row, fill_col_j, columns_at, column_sizes, row_count, locate, output_at
//   pairs                      the formula of one tile, handed to the reduction's `take`
//   Acc, Head, start, attach, take, merge, turn, finish, store, BLOCK    the reduction (reductions.h)
// `a` is the array of arguments: sizes, addresses, strides in bytes, parameters, a[SPLITS]. Work is counted in row blocks of
// NI * V rows; where rows are few the columns of the first axis are split, and each split is a row block of its own. Where the
// reduction is RESTRICTED to some pairs, a list says the rows of each block, and the intervals of its columns (restriction.py).
#ifndef DUCKKEOPS_PRELUDE
#include "example_prelude.h"  // so that this file compiles, and is tested, alone
#endif

#ifndef RESTRICTED
#define RESTRICTED 0
#define ITEM_COUNT 0
#define ITEMS 0
#define INTERVALS 0
#endif

// The state of one row block. GROUP of them take turns at a panel of columns, which so stays in the second-level cache.
struct State {
    struct Row r[NI];
    Head head;
    Acc acc[OUTPUTS];
    i64 i[NI];  // first rows of the vectors
    int n[NI];  // valid rows of each vector; the others repeat the last one
    int cancels;  // do squared distances mostly lose digits as products?
};
enum {
    ROWS_A_BLOCK = NI * V,
    COLUMN_BYTES = COLUMN_AXES == 1 ? RECORD_BYTES : 0,
    GROUP = !RESTRICTED && COLUMN_BYTES >= 128 && sizeof(struct State) <= 1 << 19 ? 16 : 1,
    PANEL = GROUP == 1 ? 1 << 30 : (COLUMN_BYTES >= 2048 ? 160 : COLUMN_BYTES >= 512 ? 512 : 1024) / NJ * NJ,  // columns
    LOCAL = sizeof(Acc) * OUTPUTS <= 2048,                              // the accumulators fit on the stack
};

// Bytes of scratch memory for the records of all columns, and for one thread's row blocks. Par may be large: a matrix.
enum { PAR_BYTES = sizeof(struct Par) + 64, PAR_LOCAL = sizeof(struct Par) <= 4096 };
i64 record_bytes(const i64 *a) {
    struct Cols cols;
    return columns_at(a, 0, &cols) + PAR_BYTES + 64;
}
i64 work_bytes(void) { return PAR_BYTES + GROUP * (i64)sizeof(struct State) + (i64)sizeof(Acc) * OUTPUTS + 192; }

// Unless precision="exact", results too small for a normal number become 0, as on a GPU: on many processors each of them
// costs a hundred cycles, and the tail of every Gaussian is full of them. Records of one side keep them: 1/y of a large y
// is one. Undone before we return to the caller's own work.
#if defined FLUSH_SUBNORMALS && defined __x86_64__
INL unsigned flush_subnormals(void) {
    const unsigned before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(before | 0x8000);
    return before;
}
INL void restore_subnormals(unsigned before) { __builtin_ia32_ldmxcsr(before); }
#elif defined FLUSH_SUBNORMALS && defined __aarch64__
INL u64 flush_subnormals(void) {
    u64 before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | 1ull << 24));
    return before;
}
INL void restore_subnormals(u64 before) { __asm__ volatile("msr fpcr, %0" : : "r"(before)); }
#else
INL int flush_subnormals(void) { return 0; }
INL void restore_subnormals(int before) { (void)before; }
#endif

INL char *aligned(char *p) { return p + (-(i64)p & 63); }

// Fill the records of the columns first .. last - 1 of the first axis, and of all columns of the others.
INL void fill_columns(const i64 *a, const struct At *at, const struct Par *p, i64 first, i64 last, struct Cols *cols) {
    i64 sizes[COLUMN_AXES];
    column_sizes(a, sizes);
    for (int m = 0; m < COLUMN_AXES; ++m)
        for (i64 j = m ? 0 : first, end = m ? sizes[m] : last; j < end; j += V)
            fill_column(m, a, at, p, j, end - j < V ? (int)(end - j) : V, cols);
}

// Compute the records of the columns, where they are the same for all outer indices.
void pack(const i64 *a, char *records) {
    i64 sizes[COLUMN_AXES];
    struct At at;
    struct Cols cols;
    struct Par *const par = (struct Par *)(aligned(records) + columns_at(a, aligned(records), &cols));
    column_sizes(a, sizes);
    locate(a, 0, &at);
    fill_par(a, &at, par);
    fill_columns(a, &at, par, 0, sizes[0], &cols);
}

// Are products in vain as squared distances of these rows and the columns first .. last - 1? By a few of their tiles.
INL int mostly_cancels(const struct Row *r, const struct Cols *cols, i64 first, i64 last) {
    int found = 0;
#ifdef CANCELS
    const i64 tiles = (last - first) / NJ, looks = tiles < 8 * 32 ? tiles / 32 : 8;
    for (i64 m = 0; m < looks; ++m) {
        const i64 j = first + (2 * m + 1) * tiles / (2 * looks) * NJ;
        int near = 0;
        for (int q = 0; q < NJ; ++q) near |= cancels_at(r, cols, j + q);
        found += near;
    }
    return 4 * found > looks;
#else
    (void)r, (void)cols, (void)first, (void)last;
    return found;
#endif
}

// The rows of a row block, first .. last - 1, and its intervals of columns.
struct Item {
    i64 first, last, interval, intervals;
};
INL struct Item item_of(const i64 *a, i64 top, i64 rows, i64 intervals) {
    if (RESTRICTED) return ((const struct Item *)a[ITEMS])[top];
    const i64 first = top * ROWS_A_BLOCK;
    return (struct Item){first, first + ROWS_A_BLOCK < rows ? first + ROWS_A_BLOCK : rows, 0, intervals};
}

// All columns j .. end - 1 of the last axis, for one row block. Sums are taken over BLOCK columns first.
INL void sweep(const i64 *a, const struct At *at, const struct Par *par, const struct Cols *cols, i64 *c, i64 index, i64 j,
               i64 end, struct State *s, Acc *part) {
    const int apart = BLOCK < 1 << 30, copied = LOCAL && !apart;
    Acc *const acc = LOCAL || apart ? part : s->acc;
    if (copied)
        for (int e = 0; e < OUTPUTS; ++e) part[e] = s->acc[e];
    while (j < end) {
        const i64 stop = !apart || end - j < BLOCK ? end : j + BLOCK;
        if (apart)
            for (int e = 0; e < OUTPUTS; ++e) start(part + e);
        for (; j + NJ <= stop; j += NJ) {
            c[COLUMN_AXES - 1] = j;
            pairs(NJ, a, at, par, s->r, s->i, s->n, s->cancels, cols, c, index + j, &s->head, acc);
        }
        for (; j < stop; ++j) {
            c[COLUMN_AXES - 1] = j;
            pairs(1, a, at, par, s->r, s->i, s->n, s->cancels, cols, c, index + j, &s->head, acc);
        }
        if (apart) {
            for (int e = 0; e < OUTPUTS; ++e) merge(&s->head, s->acc + e, part + e);
            turn(&s->head);
        }
    }
    if (copied)
        for (int e = 0; e < OUTPUTS; ++e) s->acc[e] = part[e];
}

// Row blocks first .. last - 1, counted over all splits of the first column axis and all outer indices. Each split has a state
// of its own in the output. `packed`: the records hold the columns already.
void reduce(const i64 *a, char *records, char *work, i64 packed, i64 first, i64 last) {
    const i64 rows = row_count(a), outers = outer_count(a);
    const i64 blocks = RESTRICTED ? a[ITEM_COUNT] : (rows + ROWS_A_BLOCK - 1) / ROWS_A_BLOCK;
    i64 here = -1, sizes[COLUMN_AXES], behind = 1;
    struct At at;
    struct Cols cols;
    struct Par near_par[PAR_LOCAL], *const par = PAR_LOCAL ? near_par : (struct Par *)aligned(work);
    struct State near_state[GROUP == 1 && LOCAL], *const states = GROUP == 1 && LOCAL ? near_state : (struct State *)aligned(work + PAR_BYTES);
    Acc near[LOCAL ? OUTPUTS : 1], *const part = LOCAL ? near : (Acc *)(states + GROUP);
    columns_at(a, aligned(records), &cols);
    column_sizes(a, sizes);
    for (int m = 1; m < COLUMN_AXES; ++m) behind *= sizes[m];

    for (i64 block = first, group; block < last; block += group) {
        const i64 place = block / blocks, split = place / outers, outer = place % outers, top = block % blocks;
        const i64 begin = sizes[0] * split / a[SPLITS], end = sizes[0] * (split + 1) / a[SPLITS];
        group = blocks - top < last - block ? blocks - top : last - block;
        if (group > GROUP) group = GROUP;
        if (place != here) {
            locate(a, outer, &at);
            fill_par(a, &at, par);
            if (!packed) fill_columns(a, &at, par, begin, end, &cols);
            here = place;
        }
        const i64 all[2] = {COLUMN_AXES > 1 ? 0 : begin, COLUMN_AXES > 1 ? sizes[COLUMN_AXES - 1] : end};
        const i64 *const intervals = RESTRICTED ? (const i64 *)a[INTERVALS] : all;
        for (int g = 0; g < group; ++g) {
            struct State *const s = states + g;
            const struct Item item = item_of(a, top + g, rows, 1);
            const i64 *const look = intervals + 2 * item.interval;
            for (int k = 0; k < NI; ++k) {
                const i64 row = item.first + k * V, left = item.last - row;
                s->i[k] = left > 0 ? row : item.last - 1;
                s->n[k] = left >= V ? V : left > 0 ? (int)left : 1;
                fill_row(a, &at, par, s->i[k], s->n[k], s->r + k);
            }
            s->cancels = item.interval < item.intervals && mostly_cancels(s->r, &cols, look[0], look[1]);
            start_head(&s->head);
            attach(a, place, item.first, &s->head);
            for (int e = 0; e < OUTPUTS; ++e) start(s->acc + e);
        }

        const u64 before = flush_subnormals();
        i64 c[COLUMN_AXES] = {COLUMN_AXES > 1 ? begin : 0}, index = COLUMN_AXES > 1 ? begin * behind : 0;
        for (int axis = COLUMN_AXES > 1 && begin == end ? -1 : 0; axis >= 0;) {
            const struct Item item = item_of(a, top, rows, 1);
            for (i64 m = item.interval; m < item.intervals; ++m) {
                const i64 from = intervals[2 * m], to = intervals[2 * m + 1];
                for (i64 j = from; j < to; j += PANEL)
                    for (int g = 0; g < group; ++g)
                        sweep(a, &at, par, &cols, c, index, j, to - j < PANEL ? to : j + PANEL, states + g, part);
            }
            index += all[1];
            for (axis = COLUMN_AXES - 2; axis >= 0 && ++c[axis] == (axis ? sizes[axis] : end); --axis) c[axis] = 0;
        }
        restore_subnormals(before);

        for (int g = 0; g < group; ++g)
            for (int e = 0; e < OUTPUTS; ++e) finish(states[g].acc + e);
        for (int g = 0; g < group; ++g) {
            const struct Item item = item_of(a, top + g, rows, 1);
            for (int k = 0; k < NI; ++k) {
                const i64 row = item.first + k * V, left = item.last - row;
                if (left <= 0) break;
                for (int e = 0; e < OUTPUTS; ++e) {
                    char *out[COMPONENTS];
                    output_at(a, place * rows + row, e, out);
                    store(&states[g].head, states[g].acc + e, k, out, OUTPUTS, left < V ? (int)left : V);
                }
            }
        }
    }
}

// Take `chunk` row blocks at a time of those that no thread has taken, and finish them, until all `blocks` are taken or this
// call has taken `most`. Threads meet in `next` alone, without Python's lock. How many this call took.
i64 share(const i64 *a, char *records, char *work, i64 packed, i64 *next, i64 blocks, i64 chunk, i64 most) {
    i64 taken = 0;
    while (taken < most) {
        const i64 first = __atomic_fetch_add(next, chunk, __ATOMIC_RELAXED), left = blocks - first;
        if (left <= 0) break;
        reduce(a, records, work, packed, first, first + (left < chunk ? left : chunk));
        taken += left < chunk ? left : chunk;
    }
    return taken;
}

// All of a short reduction, with `room` bytes at `work`. How many bytes it needs, if that is more, and nothing was done; else 0.
// -1: more than there are addresses.
i64 once(const i64 *a, char *work, i64 room, i64 packed, i64 blocks) {
    const i64 own = work_bytes(), records = record_bytes(a);
    if (records < 0 || own + records > room) return records < 0 ? -1 : own + records;
    if (packed) pack(a, work + own);
    reduce(a, work + own, work, packed, 0, blocks);
    return 0;
}
