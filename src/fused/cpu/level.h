/* SPDX-License-Identifier: MIT */
/* The kernels, compiled once for each level of instruction set from one source (kernels.h).
 *
 * A product reads its activations in an order of the level's choice, so each token is prepared once:
 *
 *     level->order(&order, matrix, precision);
 *     level->prepare(prepared, x, &order);               // zm_order_size(&order) floats
 *     level->multiply(&product, row_begin, row_end);      // any split of the rows, in any thread
 *
 * Sums are float32, or of whole numbers (kernels_limbs.h). A result's bits depend on the level, the precision, the row
 * and the token's values alone: not on the number of tokens, the split of the rows or the threads. */
#ifndef ZM_FUSED_CPU_LEVEL_H
#define ZM_FUSED_CPU_LEVEL_H

#include "fused/cpu/edges.h"
#include "fused/cpu/matrix.h"
#include "fused/kinds.h"

enum { ZM_MAX_LANES = 16, ZM_MAX_CODES = 16 };

/* How prepared activations are stored: as limbs, see kernels_limbs.h, or as floats. Then a row of codes is read as
 * words of n_codes codes, a vector of words at a time: the activations of a vector's first codes come first, then those
 * of its second ones, each times the factor that undoes the place of its code inside the word. Zeros fill up the
 * last vector; the sums of the groups follow. */
typedef struct zm_order {
    size_t in_features, group_size;
    size_t n_values;       /* the size of all activations, in floats */
    size_t n_group_values; /* of the groups, after them */
    int limbs, planes;     /* 0: floats */
    size_t n_codes;        /* 0: dense, in the order they have */
    bool sums;             /* the kind has biases */
    float factor[ZM_MAX_CODES][ZM_MAX_LANES];
} zm_order;

/* y[token * y_stride + row - row_begin] = sum over i of W[expert][row][i] * x[token][i] (+ bias[row]). */
typedef struct zm_product {
    const zm_matrix *matrix;
    size_t expert, n_tokens;
    const uint32_t *tokens; /* the place of each token in `prepared`; NULL: one after the other */
    const float *prepared;  /* rows of prepared_stride */
    size_t prepared_stride;
    int limbs; /* of the order it has */
    float *y;
    size_t y_stride;
} zm_product;

/* Rows of a cache that are attended to together. */
enum { ZM_ATTEND_ROWS = 128 };

/* One key and value head over some rows of its cache, for the query heads that share it: with
 * s[q][row] = queries[q] . keys[row], largest[q] = max s, sums[q] = sum of e^(s - largest) and
 * outputs[q] = sum of e^(s - largest) * values[row]. */
typedef struct zm_attend {
    const float *queries; /* n_queries rows of head_dim */
    size_t n_queries, head_dim; /* head_dim: a multiple of ZM_HEAD_UNIT */
    const unsigned char *keys, *values; /* n_rows rows of head_dim in storage */
    zm_storage storage;
    size_t n_rows; /* 1 to ZM_ATTEND_ROWS */
    float *largest, *sums, *outputs;
} zm_attend;

/* The same for several tokens, each with n_queries queries and a part of its own, of which the first attends to
 * `first_rows` rows and each next one to a row more, up to ZM_ATTEND_ROWS. */
typedef struct zm_attend_tokens {
    const float *queries;
    size_t query_stride; /* floats from a token's queries to those of the next */
    size_t n_tokens, n_queries, head_dim; /* head_dim: at most ZM_ATTEND_TOKENS_DIM */
    const unsigned char *keys, *values;
    zm_storage storage;
    size_t first_rows; /* 1 to ZM_ATTEND_ROWS */
    size_t part_stride; /* from a token's first part to that of the next */
    float *largest, *sums, *outputs;
} zm_attend_tokens;

enum { ZM_ATTEND_TOKENS_DIM = 256 };

/* Some rows of a head's state in the gated delta rule, through some tokens one behind the other: for each row
 * s *= decay, s += (v[row] - s . k) * beta * k, y[row] = s . q. */
typedef struct zm_delta {
    const float *q, *k;         /* a token: size numbers */
    const float *v;             /* a token: n_rows numbers */
    float *y;                   /* likewise */
    const float *decay, *beta;  /* one a token */
    const float *from;          /* n_rows rows of size numbers before; NULL: zeros */
    float *state;               /* after; may be from */
    size_t n_tokens, n_rows, size; /* size: a multiple of ZM_HEAD_UNIT */
    size_t key_stride, value_stride, result_stride, factor_stride; /* floats from token to token */
} zm_delta;

typedef struct zm_cpu_level {
    const char *name;
    bool (*supported)(void); /* by this processor and system */
    bool int8;               /* ZM_PRECISION_INT8 makes a difference */
    void (*order)(zm_order *order, const zm_matrix *matrix, zm_precision precision);
    void (*prepare)(float *prepared, const float *x, const zm_order *order);
    void (*multiply)(const zm_product *product, size_t row_begin, size_t row_end);
    /* result[i] = h(gate[i], up[i]); result may be gate or up. */
    void (*activate)(float *result, const float *gate, const float *up, size_t count,
                     zm_activation activation);
    void (*sigmoid)(float *result, const float *x, size_t count); /* result may be x */
    float (*largest)(const float *x, size_t count); /* of at least one number */
    /* Sum of e^(x - shift), in an order that count alone decides. */
    float (*sum_exponentials)(const float *x, size_t count, float shift);
    void (*widen)(float *result, const void *values, zm_storage storage, size_t count);
    void (*attend)(const zm_attend *part);
    void (*attend_tokens)(const zm_attend_tokens *part); /* the bits of attend for each token */
    void (*delta)(const zm_delta *part);
} zm_cpu_level;

/* Rows that are computed together, for one token and for several: splits of the rows at its multiples are the fast
 * ones. */
enum { ZM_ROW_BLOCK = 4, ZM_WIDE_ROW_BLOCK = 32 };

/* Floats of one prepared token. An odd number of cache lines: the same place of many tokens is then spread over a
 * cache. */
static inline size_t zm_order_size(const zm_order *order) {
    size_t lines = (order->n_values + order->n_group_values + ZM_MAX_LANES - 1) / ZM_MAX_LANES;
    return (lines | 1) * ZM_MAX_LANES;
}

/* All levels of this architecture, the plain one first and the best last; NULL ends the list. */
const zm_cpu_level *const *zm_fused_levels(void);
/* The best of a list that this machine supports; for int8 the best that has it, if any does: AVX-512 without VNNI has
 * not, but AVX2 has. */
const zm_cpu_level *zm_fused_level_among(const zm_cpu_level *const *among, zm_precision precision);
/* Of all levels. */
const zm_cpu_level *zm_fused_level_for(zm_precision precision);
const zm_cpu_level *zm_fused_best_level(void); /* for float32 */

#endif
