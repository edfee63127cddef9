// The prelude of exp(-|x_i - y_j|^2).sum(axis=1) in float32 and 3 dimensions, as printer.py writes it (compare
// tests/test_kernels.py), for pairs.c on its own.
// sum over j of exp(-sum_d((x0[i,d] - x1[j,d])**2))
//   x0: float32, 3 axes
//   x1: float32, 3 axes

#define DUCKKEOPS_PRELUDE 1
#define REDUCE_sum 1
#define VAL f32
#define ACC f32
#define IDX i32
#define VAL_BYTES 4
#define COMPONENTS 1
#define OUT0_BYTES 4
#define TO_ACC(v) (v)
#define VAL_IS_FLOAT 1
#define FLUSH_SUBNORMALS 1
#define LANE_BYTES 4
#define VB 16
#define V (VB / LANE_BYTES)
#if defined __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif
enum { NI = 2, NJ = 4, 
COLUMN_AXES = 1, OUTPUTS = 1 };
enum { SPLITS, X1_1, X1_2, X0_0, X0_2, SIZE_j, SIZE_i, X0, X1, OUT0, ARGUMENTS };
#include "vector.h"
#include "functions.h"
struct Par {  };  // the same for all pairs
struct Row { vf32 x0[3]; };  // V rows i, lane by lane
struct Col_j { f32 x1[3]; };  // one column j
struct Cols { struct Col_j *j; };
INL void column_sizes(const i64 *a, i64 *sizes) { const i64 s[] = {a[SIZE_j]}; for (int m = 0; m < COLUMN_AXES; ++m) sizes[m] = s[m]; }
INL i64 columns_at(const i64 *a, char *records, struct Cols *cols) {
    i64 used = 0;
    cols->j = (struct Col_j *)(records + used);
    used += (a[SIZE_j]*(i64)sizeof(struct Col_j) + 63)/64*64;
    return used;
}
INL i64 row_count(const i64 *a) { return a[SIZE_i]; }
INL i64 outer_count(const i64 *a) { return 1; }
enum { RECORD_BYTES = (int)sizeof(struct Col_j) };
struct At { const char *x0; const char *x1; };
INL void locate(const i64 *a, i64 outer, struct At *at) {
    at->x0 = (const char *)a[X0];
    at->x1 = (const char *)a[X1];
    (void)outer;
}
#include "reductions.h"
INL void output_at(const i64 *a, i64 row, i64 output, char **out) {
    out[0] = (char *)a[OUT0] + (row*OUTPUTS + output)*OUT0_BYTES;
}
FUNCTION void fill_par(const i64 *a, const struct At *at, struct Par *p) {
}

FUNCTION void fill_col_j(const i64 *a, const struct At *at, const struct Par *p, i64 first, int n, struct Col_j *c_j) {
    copy_f32(c_j->x1, sizeof(struct Col_j), at->x1 + first*a[X1_1], a[X1_1], a[X1_2], 3, n);
}

FUNCTION void fill_row(const i64 *a, const struct At *at, const struct Par *p, i64 first, int n, struct Row *r) {
    for (int d = 0; d < 3; ++d)
        r->x0[d] = load_lanes_f32(at->x0 + first*a[X0_0] + d*a[X0_2], a[X0_0], n);
}

INL void pairs(const int nj, const i64 *a, const struct At *at, const struct Par *p, const struct Row *r, const i64 *i,
               const int *n, const int cancels, const struct Cols *cols, const i64 *c, i64 index, Head *head, Acc *acc) {
    const struct Col_j *c_j = cols->j + c[0];
    vf32 t2[NJ][NI];
    TILE t2[q][k] = splat_f32(0);
    UNROLL
    for (int d = 0; d < 3; ++d) {
        TILE {
            const vf32 t0 = r[k].x0[d] - splat_f32(c_j[q].x1[d]);
            t2[q][k] += t0*t0;
        }
    }
    vval v[NJ][NI];
    TILE {
        v[q][k] = exp2_f32(-1.44269504f*t2[q][k]);
    }
    take(nj, head, acc + 0, v, index);
}

INL void fill_column(int axis, const i64 *a, const struct At *at, const struct Par *p, i64 first, int n, struct Cols *cols) {
    if (axis == 0) fill_col_j(a, at, p, first, n, cols->j + first);
}

