// out[i] = reduction over the columns of formula(row i, column), on a CUDA device.
//
// A thread has NI rows, in registers. ROWS_AT_ONCE threads of a block have rows of their own; of those with the same ones
// each takes its part of the columns, which pass through shared memory. What depends on one side only is computed
// beforehand: `Par` once a block, `Col_j` once a column and block, `Row` once. The prelude above this file is that of
// pairs.c, with one lane (lane.cuh): it defines
//   Par, Row, Cols, At         records of one-sided values; addresses of the inputs at one index of the outer axes
//   fill_par, fill_row, fill_inner, fill_others, columns_of, column_sizes, row_count, outer_count, locate, output_at
//   INNER, OTHERS              the record of one column of the last axis; those of one index of each other axis
//   pairs                      the formula of NI rows and nj columns, handed to the reduction's `take`
//   Acc, Head, start, take, merge, turn, finish, store, BLOCK    the reduction (reductions.h)
//   State, load_state, merge_states, store_state                 its state in memory (states.cuh)
// Blocks are counted over the splits of the first column axis, all outer indices and the row blocks, from `first` on. Each
// split, and each group of threads with the same rows, has a state of its own in the output; `join` merges them, in a fixed
// order.
#ifndef DUCKKEOPS_PRELUDE
#include "example_prelude.cuh"  // so that this file compiles alone
#endif
#ifndef SHARED_BYTES
#define SHARED_BYTES 32768
#endif

struct Arguments {
    i64 a[ARGUMENTS];
};

// Columns of one tile: as many as threads, if two tiles fit into shared memory.
constexpr __device__ int fitting(int columns) {
    return columns > NJ && 2 * columns * (int)sizeof(INNER) > SHARED_BYTES ? fitting(columns / 2) : columns;
}
enum { TILE_COLUMNS = fitting(THREADS), GROUPS = THREADS / ROWS_AT_ONCE, APART = BLOCK < 1 << 30 };

extern "C" __global__ void __launch_bounds__(THREADS) reduce(const __grid_constant__ Arguments arguments, const i64 first) {
    const i64 *const a = arguments.a;
    __shared__ INNER tiles[2][TILE_COLUMNS];
    __shared__ OTHERS others;
    __shared__ struct Par par;
    const int thread = threadIdx.x, lane = thread % ROWS_AT_ONCE, group = thread / ROWS_AT_ONCE;
    const i64 rows = row_count(a), blocks = (rows + NI * ROWS_AT_ONCE - 1) / (NI * ROWS_AT_ONCE), outers = outer_count(a);
    const i64 number = first + blockIdx.x, place = number / blocks, top = number % blocks;
    const i64 split = place / outers, outer = place % outers;
    i64 sizes[COLUMN_AXES], behind = 1;
    column_sizes(a, sizes);
    UNROLL for (int m = 1; m < COLUMN_AXES; ++m) behind *= sizes[m];
    const i64 begin = sizes[0] * split / a[SPLITS], end = sizes[0] * (split + 1) / a[SPLITS];

    struct At at;
    locate(a, outer, &at);
    if (thread == 0) fill_par(a, &at, &par);
    __syncthreads();
    struct Row row[NI];
    i64 i[NI];
    int n[NI];
    UNROLL for (int k = 0; k < NI; ++k) {
        const i64 own = (top * NI + k) * ROWS_AT_ONCE + lane;
        i[k] = own < rows ? own : rows - 1;
        n[k] = 1;
        fill_row(a, &at, &par, i[k], 1, row + k);
    }
    Head head;
    Acc acc[OUTPUTS], part[APART ? OUTPUTS : 1], *const now = APART ? part : acc;
    start_head(&head);
    UNROLL for (int e = 0; e < OUTPUTS; ++e) start(acc + e);

    const i64 from = COLUMN_AXES > 1 ? 0 : begin, to = COLUMN_AXES > 1 ? sizes[COLUMN_AXES - 1] : end;
    i64 c[COLUMN_AXES] = {COLUMN_AXES > 1 ? begin : 0}, index = COLUMN_AXES > 1 ? begin * behind : 0;
    struct Cols cols;
    for (int axis = begin == end ? -1 : 0; axis >= 0;) {
        if (COLUMN_AXES > 1) {
            __syncthreads();  // nobody reads the records of the last index
            if (thread == 0) fill_others(a, &at, &par, c, &others);
        }
        for (i64 j = from; j < to; j += TILE_COLUMNS) {
            const int count = to - j < TILE_COLUMNS ? (int)(to - j) : TILE_COLUMNS;
            // While some warps fill this tile others may still read the last one, but not the one before it: the barrier.
            INNER *const tile = tiles[(j - from) / TILE_COLUMNS & 1];
            for (int m = thread; m < count; m += THREADS) fill_inner(a, &at, &par, j + m, tile + m);
            __syncthreads();
            if (APART) UNROLL for (int e = 0; e < OUTPUTS; ++e) start(now + e);
            const int whole = count / NJ * NJ;
            for (int q = group * NJ; q < whole; q += GROUPS * NJ) {
                c[COLUMN_AXES - 1] = j + q;
                columns_of(tile + q, &others, &cols);
                pairs(NJ, a, &at, &par, row, i, n, 0, &cols, c, index + j + q, &head, now);
            }
            for (int q = whole + group; q < count; q += GROUPS) {
                c[COLUMN_AXES - 1] = j + q;
                columns_of(tile + q, &others, &cols);
                pairs(1, a, &at, &par, row, i, n, 0, &cols, c, index + j + q, &head, now);
            }
            if (APART) {
                UNROLL for (int e = 0; e < OUTPUTS; ++e) merge(&head, acc + e, now + e);
                turn(&head);
            }
        }
        index += to;
        for (axis = COLUMN_AXES - 2; axis >= 0 && ++c[axis] == (axis ? sizes[axis] : end); --axis) c[axis] = 0;
    }

    const i64 part_of_all = (split * GROUPS + group) * outers + outer;
    UNROLL for (int k = 0; k < NI; ++k) {
        const i64 own = (top * NI + k) * ROWS_AT_ONCE + lane;
        if (own >= rows) break;
        UNROLL for (int e = 0; e < OUTPUTS; ++e) {
            char *out[COMPONENTS];
            output_at(a, part_of_all * rows + own, e, out);
            finish(acc + e);
            store(&head, acc + e, k, out, OUTPUTS, 1);
        }
    }
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
