// out[i] = reduction over the columns of formula(row i, column), on a CUDA device.
//
// A thread has RUNS times NI rows, in registers: `pairs` takes a run of NI of them. ROWS_AT_ONCE threads of a block have
// rows of their own; of those with the same ones each takes its part of the columns, which pass through shared memory.
// What depends on one side only is computed beforehand: `Par` once a block, `Col_j` once a column and block, `Row` once. The prelude above this file is that of
// pairs.c, with one lane (lane.cuh): it defines
//   Par, Row, Cols, At         records of one-sided values; addresses of the inputs at one index of the outer axes
//   fill_par, fill_row, fill_inner, fill_others, columns_of, column_sizes, row_count, outer_count, locate, output_at
//   far_row, far_inner         are scaled coordinates (scaling.py) too large?
//   INNER, OTHERS              the record of one column of the last axis; those of one index of each other axis
//   pairs                      the formula of NI rows and nj columns, handed to the reduction's `take`
//   RESIDENT, UNROLLED         blocks of a processor at a time, which bounds the registers; unrolled turns over columns
//   Acc, Head, start, take, merge, turn, finish, store, BLOCK    the reduction (reductions.h)
//   State, load_state, merge_states, store_state                 its state in memory (states.cuh)
// Blocks are counted over the splits of the first column axis, all outer indices and the row blocks, from `first` on. Where
// the reduction is RESTRICTED to some pairs, a list says the rows of each block, and the intervals of its columns. Each
// split, and each group of threads with the same rows, has a state of its own in the output; `join` merges them, in a fixed
// order.
#ifndef DUCKKEOPS_PRELUDE
#include "example_prelude.cuh"  // so that this file compiles alone
#endif
#ifndef SHARED_BYTES
#define SHARED_BYTES 32768
#endif

#ifndef RESTRICTED
#define RESTRICTED 0
#define ITEM_COUNT 0
#define ITEMS 0
#define INTERVALS 0
#endif

struct Arguments {
    i64 a[ARGUMENTS];
};

// Columns of one tile: as many as let two tiles fit into shared memory.
constexpr __device__ int fitting(int columns) {
    return columns > NJ && 2 * columns * (int)sizeof(INNER) > SHARED_BYTES ? fitting(columns / 2) : columns;
}
#ifndef LONGEST_TILE
#define LONGEST_TILE 512  // columns: each tile costs two reads of memory to begin with, and a barrier
#endif
enum { TILE_COLUMNS = fitting(LONGEST_TILE), OWN_ROWS = RUNS * NI, GROUPS = THREADS / ROWS_AT_ONCE, APART = BLOCK < 1 << 30 };

// The place of a block: its rows, its index of the outer axes, its columns of the first axis.
struct Place {
    i64 rows, first, last, split, outer, begin, end;
    const i64 *intervals;  // of a restriction: `count` of them
    i64 count;
};
// The columns of the last axis, from `from` to `to`, for what follows; of a restriction one interval after the other.
#if RESTRICTED
#define FOR_COLUMNS(place, from, to) \
    for (i64 m = 0; m < place.count && (from = place.intervals[2 * m], to = place.intervals[2 * m + 1], true); ++m)
#else
#define FOR_COLUMNS(place, from, to)
#endif

// The columns of a block for its rows. `coarse`: coordinates are too large to be scaled (scaling.py).
template <int coarse>
INL void sweep(const i64 *a, const struct At &at, const struct Par &par, const Place &place, INNER (*tiles)[TILE_COLUMNS], OTHERS &others) {
    const int thread = threadIdx.x, lane = thread % ROWS_AT_ONCE, group = thread / ROWS_AT_ONCE;
    i64 sizes[COLUMN_AXES], behind = 1;
    column_sizes(a, sizes);
    UNROLL for (int m = 1; m < COLUMN_AXES; ++m) behind *= sizes[m];

    struct Row row[OWN_ROWS];
    i64 i[OWN_ROWS];
    int n[OWN_ROWS];
    UNROLL for (int k = 0; k < OWN_ROWS; ++k) {
        const i64 own = place.first + k * ROWS_AT_ONCE + lane;
        i[k] = own < place.last ? own : place.last - 1;
        n[k] = 1;
        fill_row(a, &at, &par, i[k], 1, row + k);
    }
    Head head[RUNS];
    Acc acc[RUNS][OUTPUTS], part[APART ? RUNS : 1][OUTPUTS];
    UNROLL for (int r = 0; r < RUNS; ++r) {
        start_head(head + r);
#ifdef AFTER
        UNROLL for (int k = 0; k < NI; ++k) {
            const i64 own = place.outer * place.rows + i[r * NI + k];
            head[r].after[k] = VAL_(load_lanes)((const char *)a[AFTER_VALUE] + own * sizeof(VAL), 0, 1);
            head[r].after_at[k] = ((const i64 *)a[AFTER_AT])[own];
        }
#endif
        UNROLL for (int e = 0; e < OUTPUTS; ++e) start(acc[r] + e);
    }

    i64 c[COLUMN_AXES] = {COLUMN_AXES > 1 ? place.begin : 0}, index = COLUMN_AXES > 1 ? place.begin * behind : 0;
    struct Cols cols;
    int turns = 0;
    for (int axis = place.begin == place.end ? -1 : 0; axis >= 0;) {
        if (COLUMN_AXES > 1) {
            __syncthreads();  // nobody reads the records of the last index
            if (thread == 0) fill_others(a, &at, &par, c, &others);
        }
        i64 from = COLUMN_AXES > 1 ? 0 : place.begin, to = COLUMN_AXES > 1 ? sizes[COLUMN_AXES - 1] : place.end;
        FOR_COLUMNS(place, from, to)
        for (i64 j = from; j < to; j += TILE_COLUMNS) {
            const int count = to - j < TILE_COLUMNS ? (int)(to - j) : TILE_COLUMNS;
            // While some warps fill this tile others may still read the last one, but not the one before it: the barrier.
            INNER *const tile = tiles[(RESTRICTED ? turns++ : (j - from) / TILE_COLUMNS) & 1];
            for (int q = thread; q < count; q += THREADS) fill_inner(a, &at, &par, j + q, tile + q);
            __syncthreads();
            if (APART) UNROLL for (int r = 0; r < RUNS; ++r) UNROLL for (int e = 0; e < OUTPUTS; ++e) start(part[r] + e);
            const int whole = coarse ? 0 : count / NJ * NJ;  // coarse ones are seldom: one column at a time, for less code
            _Pragma("unroll UNROLLED") for (int q = group * NJ; q < whole; q += GROUPS * NJ) {
                c[COLUMN_AXES - 1] = j + q;
                columns_of(tile + q, &others, &cols);
                UNROLL for (int r = 0; r < RUNS; ++r)
                    pairs(NJ, a, &at, &par, row + r * NI, i + r * NI, n + r * NI, coarse, &cols, c, index + j + q, head + r, APART ? part[r] : acc[r]);
            }
            if (coarse || NJ > 1) for (int q = whole + group; q < count; q += GROUPS) {
                c[COLUMN_AXES - 1] = j + q;
                columns_of(tile + q, &others, &cols);
                UNROLL for (int r = 0; r < RUNS; ++r)
                    pairs(1, a, &at, &par, row + r * NI, i + r * NI, n + r * NI, coarse, &cols, c, index + j + q, head + r, APART ? part[r] : acc[r]);
            }
            if (APART) UNROLL for (int r = 0; r < RUNS; ++r) {
                UNROLL for (int e = 0; e < OUTPUTS; ++e) merge(head + r, acc[r] + e, part[r] + e);
                turn(head + r);
            }
        }
        index += COLUMN_AXES > 1 ? sizes[COLUMN_AXES - 1] : 0;
        for (axis = COLUMN_AXES - 2; axis >= 0 && ++c[axis] == (axis ? sizes[axis] : place.end); --axis) c[axis] = 0;
    }

    const i64 part_of_all = (place.split * GROUPS + group) * outer_count(a) + place.outer;
    UNROLL for (int r = 0; r < RUNS; ++r) UNROLL for (int k = 0; k < NI; ++k) {
        const i64 own = place.first + (r * NI + k) * ROWS_AT_ONCE + lane;
        if (own < place.last) UNROLL for (int e = 0; e < OUTPUTS; ++e) {
            char *out[COMPONENTS];
            output_at(a, part_of_all * place.rows + own, e, out);
            finish(acc[r] + e);
            store(head + r, acc[r] + e, k, out, OUTPUTS, 1);
        }
    }
}

#ifdef SCALED
// Are coordinates of the block's rows or columns too large to be scaled?
INL int is_coarse(const i64 *a, const struct At &at, const struct Par &par, const Place &place) {
    int far = 0;
    for (int k = 0; k < OWN_ROWS; ++k) {
        const i64 own = place.first + k * ROWS_AT_ONCE + threadIdx.x % ROWS_AT_ONCE;
        struct Row row;
        fill_row(a, &at, &par, own < place.last ? own : place.last - 1, 1, &row);
        far |= far_row(&row);
    }
    i64 sizes[COLUMN_AXES];
    column_sizes(a, sizes);
    i64 from = COLUMN_AXES > 1 ? 0 : place.begin, to = COLUMN_AXES > 1 ? sizes[COLUMN_AXES - 1] : place.end;
    FOR_COLUMNS(place, from, to)
    for (i64 j = from + threadIdx.x; j < to; j += THREADS) {
        INNER column;
        fill_inner(a, &at, &par, j, &column);
        far |= far_inner(&column);
    }
    return __syncthreads_or(far);
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) reduce(const __grid_constant__ Arguments arguments, const i64 first) {
    const i64 *const a = arguments.a;
    __shared__ struct Par par;
    __shared__ INNER tiles[2][TILE_COLUMNS];  // of the last axis
    __shared__ OTHERS others;                 // the records of one index of each other axis
    const i64 rows = row_count(a), outers = outer_count(a), block_rows = OWN_ROWS * ROWS_AT_ONCE;
    const i64 blocks = RESTRICTED ? a[ITEM_COUNT] : (rows + block_rows - 1) / block_rows;
    const i64 number = first + blockIdx.x, above = number / blocks, split = above / outers;
    i64 sizes[COLUMN_AXES];
    column_sizes(a, sizes);
    const i64 *const item = RESTRICTED ? (const i64 *)a[ITEMS] + 4 * (number % blocks) : 0;
    const i64 top = number % blocks * block_rows, begin = sizes[0] * split / a[SPLITS], end = sizes[0] * (split + 1) / a[SPLITS];
    const Place place = {
        rows, RESTRICTED ? item[0] : top, RESTRICTED ? item[1] : rows, split, above % outers, begin, end,
        RESTRICTED ? (const i64 *)a[INTERVALS] + 2 * item[2] : 0, RESTRICTED ? item[3] - item[2] : 1};
    struct At at;
    locate(a, place.outer, &at);
    if (threadIdx.x == 0) fill_par(a, &at, &par);
    __syncthreads();
#ifdef SCALED
    if (is_coarse(a, at, par, place)) {
        sweep<1>(a, at, par, place, tiles, others);
        return;
    }
#endif
    sweep<0>(a, at, par, place, tiles, others);
}

// Merge states, as Merging says (states.cuh).
extern "C" __global__ void __launch_bounds__(THREADS) join(const __grid_constant__ Merging m) {
    const i64 groups = (m.parts + m.group - 1) / m.group, all = m.outers * groups * m.width;
#ifdef REDUCE_topk
    // Each entry finds its own place: how many entries of the group's lists come before it.
    const i64 number = ((i64)blockIdx.x * THREADS + threadIdx.x) / (m.group * TOPK);
    const int own = (int)(((i64)blockIdx.x * THREADS + threadIdx.x) / TOPK % m.group), at = (int)(((i64)blockIdx.x * THREADS + threadIdx.x) % TOPK);
#else
    const i64 number = (i64)blockIdx.x * THREADS + threadIdx.x;
#endif
    if (number >= all) return;
    const i64 w = number % m.width, g = number / m.width % groups, o = number / m.width / groups;
    const i64 first = g * m.group, count = m.parts - first < m.group ? m.parts - first : m.group;
    const i64 start = (o * m.parts + first) * m.width + w, target = (o * groups + g) * m.width + w;
#ifdef REDUCE_topk
    if (own < count) rank(m, start, (int)count, own, at, first, target);
#else
    State state;
    load_state(m, start, first, &state);
    for (i64 p = 1; p < count; ++p) {
        State later;
        load_state(m, start + p * m.width, first + p, &later);
        merge_states(&state, &later);
    }
    store_state(m, target, &state);
#endif
}
