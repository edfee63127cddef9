// The prelude of exp(-|x_i - y_j|^2).sum(axis=1) in float32 and 3 dimensions, as printer.py writes it (compare
// tests/test_kernels.py), for pairs.cu on its own.
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
#define VB 4
#define UNROLL _Pragma("unroll")
#define RESIDENT 3
#define UNROLLED 2
enum { THREADS = 256, ROWS_AT_ONCE = 256, NI = 2, NJ = 1, RUNS = 2, 
COLUMN_AXES = 1, OUTPUTS = 1 };
enum { SPLITS, X1_1, X1_2, X0_0, X0_2, SIZE_j, SIZE_i, X0, X1, OUT0, ARGUMENTS };
#include "lane.cuh"
#include "functions.h"
struct Par {  };  // the same for all pairs
struct __align__(16) Row { vf32 x0[3]; vf32 t6[3]; };  // V rows i, lane by lane
struct __align__(16) Col_j { f32 t7[3]; f32 x1[3]; };  // one column j
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
#include "states.cuh"
INL void output_at(const i64 *a, i64 row, i64 output, char **out) {
    out[0] = (char *)a[OUT0] + (row*OUTPUTS + output)*OUT0_BYTES;
}
FUNCTION void fill_par(const i64 *a, const struct At *at, struct Par *p) {
}

FUNCTION void fill_col_j(const i64 *a, const struct At *at, const struct Par *p, i64 first, int n, struct Col_j *c_j) {
    copy_f32(c_j->x1, sizeof(struct Col_j), at->x1 + first*a[X1_1], a[X1_1], a[X1_2], 3, n);
    vf32 t7[3];
    UNROLL
    for (int d = 0; d < 3; ++d) {
        t7[d] = 1.20112241f*load_lanes_f32(at->x1 + first*a[X1_1] + d*a[X1_2], a[X1_1], n);
    }
    for (int d = 0; d < 3; ++d)
        store_lanes_f32(&c_j->t7[d], sizeof(struct Col_j), n, t7[d]);
}

FUNCTION void fill_row(const i64 *a, const struct At *at, const struct Par *p, i64 first, int n, struct Row *r) {
    for (int d = 0; d < 3; ++d)
        r->x0[d] = load_lanes_f32(at->x0 + first*a[X0_0] + d*a[X0_2], a[X0_0], n);
    vf32 t6[3];
    UNROLL
    for (int d = 0; d < 3; ++d) {
        t6[d] = 1.20112241f*r->x0[d];
    }
    for (int d = 0; d < 3; ++d)
        r->t6[d] = t6[d];
}

INL void pairs(const int nj, const i64 *a, const struct At *at, const struct Par *p, const struct Row *r, const i64 *i,
               const int *n, const int cancels, const struct Cols *cols, const i64 *c, i64 index, Head *head, Acc *acc) {
    const struct Col_j *c_j = cols->j;
    vf32 t2[NJ][NI];
    if (cancels) {
        TILE t2[q][k] = splat_f32(0);
        UNROLL
        for (int d = 0; d < 3; ++d) TILE {
            const vf32 gap = r[k].x0[d] - splat_f32(c_j[q].x1[d]);
            t2[q][k] += gap*gap;
        }
        TILE t2[q][k] *= splat_f32(-1.44269504f);
    } else {
        TILE t2[q][k] = splat_f32(0);
        UNROLL
        for (int d = 0; d < 3; ++d) TILE {
            const vf32 gap = r[k].t6[d] - splat_f32(c_j[q].t7[d]);
            t2[q][k] += -gap*gap;
        }
    }
    vval v[NJ][NI];
    TILE {
        v[q][k] = exp2_f32(t2[q][k]);
    }
    take(nj, head, acc + 0, v, index);
}

typedef struct Col_j INNER;
typedef struct { char unused; } OTHERS;
INL void fill_inner(const i64 *a, const struct At *at, const struct Par *p, i64 at_column, INNER *to) { fill_col_j(a, at, p, at_column, 1, to); }
INL void fill_others(const i64 *a, const struct At *at, const struct Par *p, const i64 *c, OTHERS *to) {  }
#define SCALED 1
INL int far_row(const struct Row *r) {
    int far = 0;
    UNROLL for (int d = 0; d < 3; ++d)
        far |= any_not_le_f32(abs_f32(r->t6[d]), splat_f32(16));
    return far;
}
INL int far_inner(const INNER *c) {
    int far = 0;
    UNROLL for (int d = 0; d < 3; ++d)
        far |= any_not_le_f32(abs_f32(splat_f32(c->t7[d])), splat_f32(16));
    return far;
}
INL void columns_of(const INNER *inner, const OTHERS *others, struct Cols *cols) {
    cols->j = (INNER *)inner;
}

