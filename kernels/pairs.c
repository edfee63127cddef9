// out[i] = reduction over the columns of formula(row i, column), on a CPU.
//
// The lanes of a vector are rows: NI vectors of V rows and NJ columns are one tile, in registers. What depends on one side
// only is computed beforehand: `Par` once, `Col_j` once a column, `Row` once a row. The prelude above this file defines
//   Par, Row, Cols, At         records of one-sided values; addresses of the inputs at one index of the outer axes
//   fill_par, fill_row, fill_col_j, columns_at, column_sizes, row_count, locate, output_at
//   pairs                      the formula of one tile, handed to the reduction's `take`
//   Acc, Head, start, take, merge, store, BLOCK    the reduction (reductions.h)
// `a` is the array of arguments: sizes, addresses, strides in bytes, parameters. Work is counted in row blocks of NI * V rows.
#ifndef DUCKKEOPS_PRELUDE
#include "example_prelude.h"  // so that this file compiles, and is tested, alone
#endif

enum { ROWS_A_BLOCK = NI * V, LOCAL = sizeof(Acc) * OUTPUTS <= 2048 };

// Bytes of scratch memory for the records of all columns, and for one thread's row block. Par may be large: a matrix.
enum { PAR_BYTES = sizeof(struct Par) + 64, PAR_LOCAL = sizeof(struct Par) <= 4096 };
i64 record_bytes(const i64 *a) {
    struct Cols cols;
    return columns_at(a, 0, &cols) + PAR_BYTES + 64;
}
i64 work_bytes(void) { return PAR_BYTES + NI * (i64)sizeof(struct Row) + 2 * (i64)sizeof(Acc) * OUTPUTS + 192; }

// Unless precision="exact", results too small for a normal number become 0, as on a GPU: on many processors each of them
// costs a hundred cycles, and the tail of every Gaussian is full of them. Undone before we return to the caller's own work.
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

INL void fill_columns(const i64 *a, const struct At *at, const struct Par *p, struct Cols *cols) {
    i64 sizes[COLUMN_AXES];
    column_sizes(a, sizes);
    for (int m = 0; m < COLUMN_AXES; ++m)
        for (i64 first = 0; first < sizes[m]; first += V) {
            const i64 left = sizes[m] - first;
            fill_column(m, a, at, p, first, left < V ? (int)left : V, cols);
        }
}

// Compute the records of the columns, where they are the same for all outer indices.
void pack(const i64 *a, char *records) {
    struct At at;
    struct Cols cols;
    struct Par *const par = (struct Par *)(aligned(records) + columns_at(a, aligned(records), &cols));
    locate(a, 0, &at);
    fill_par(a, &at, par);
    fill_columns(a, &at, par, &cols);
}

// Row blocks first .. last - 1, counted over all outer indices. `packed`: the records hold the columns already.
void reduce(const i64 *a, char *records, char *work, i64 packed, i64 first, i64 last) {
    const i64 rows = row_count(a), blocks = (rows + ROWS_A_BLOCK - 1) / ROWS_A_BLOCK;
    i64 here = -1, sizes[COLUMN_AXES];
    struct At at;
    struct Cols cols;
    struct Par near_par[PAR_LOCAL], *const par = PAR_LOCAL ? near_par : (struct Par *)aligned(work);
    struct Row *r = (struct Row *)aligned(work + PAR_BYTES);
    Acc near[LOCAL ? 2 * OUTPUTS : 1];
    Acc *const acc = LOCAL ? near : (Acc *)aligned((char *)(r + NI));
    Acc *const part = BLOCK < 1 << 30 ? acc + OUTPUTS : acc;
    columns_at(a, aligned(records), &cols);
    column_sizes(a, sizes);
    const i64 n_columns = sizes[COLUMN_AXES - 1];
    const u64 before = flush_subnormals();

    for (i64 block = first; block < last; ++block) {
        const i64 outer = block / blocks, top = block % blocks * ROWS_A_BLOCK;
        if (outer != here) {
            locate(a, outer, &at);
            fill_par(a, &at, par);
            if (!packed) fill_columns(a, &at, par, &cols);
            here = outer;
        }
        i64 i[NI];
        int n[NI];  // valid rows of each vector; the others repeat the last one
        for (int k = 0; k < NI; ++k) {
            const i64 left = rows - (top + k * V);
            i[k] = left > 0 ? top + k * V : rows - 1;
            n[k] = left >= V ? V : left > 0 ? (int)left : 1;
            fill_row(a, &at, par, i[k], n[k], r + k);
        }
        Head head;
        start_head(&head);
        for (int e = 0; e < OUTPUTS; ++e) start(acc + e);

        i64 c[COLUMN_AXES] = {0}, index = 0;
        for (int axis = 0; axis >= 0;) {
            i64 j = 0;
            while (j < n_columns) {
                const i64 end = n_columns - j < BLOCK ? n_columns : j + BLOCK;
                if (part != acc)
                    for (int e = 0; e < OUTPUTS; ++e) start(part + e);
                for (; j + NJ <= end; j += NJ) {
                    c[COLUMN_AXES - 1] = j;
                    pairs(NJ, a, &at, par, r, i, n, &cols, c, index + j, &head, part);
                }
                for (; j < end; ++j) {
                    c[COLUMN_AXES - 1] = j;
                    pairs(1, a, &at, par, r, i, n, &cols, c, index + j, &head, part);
                }
                if (part != acc)
                    for (int e = 0; e < OUTPUTS; ++e) merge(acc + e, part + e);
            }
            index += n_columns;
            for (axis = COLUMN_AXES - 2; axis >= 0 && ++c[axis] == sizes[axis]; --axis) c[axis] = 0;
        }
        for (int k = 0; k < NI; ++k) {
            const i64 left = rows - (top + k * V);
            if (left <= 0) break;
            for (int e = 0; e < OUTPUTS; ++e) {
                char *out[COMPONENTS];
                output_at(a, outer * rows + i[k], e, out);
                store(&head, acc + e, k, out, OUTPUTS, n[k]);
            }
        }
    }
    restore_subnormals(before);
}
