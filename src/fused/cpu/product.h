/* SPDX-License-Identifier: MIT */
/* Products over a pool of threads. */
#ifndef ZM_FUSED_CPU_PRODUCT_H
#define ZM_FUSED_CPU_PRODUCT_H

#include "fused/compute.h"
#include "fused/cpu/level.h"

/* What computes: chosen once, when a node is made. */
typedef struct zm_engine {
    const zm_cpu_level *level;
    zm_pool *pool; /* borrowed; may be NULL */
    zm_precision precision;
    const zm_ahead *ahead; /* what is read after its loops; NULL: not known here */
} zm_engine;

zm_engine zm_engine_new(zm_compute compute);

/* Adds the rows of an expert to what a loop over them reads. */
void zm_ahead_add(zm_ahead *ahead, const zm_matrix *matrix, size_t expert);

/* Activations prepared for the matrices of one order. */
typedef struct zm_prepared {
    zm_order order;
    size_t stride; /* floats a token */
    float *data;   /* borrowed */
} zm_prepared;

/* Sets the order; the caller provides n_tokens * stride floats as data. */
zm_prepared zm_prepared_new(zm_engine engine, const zm_matrix *matrix);
/* x: n_tokens times in_features. */
void zm_prepare(zm_engine engine, const zm_prepared *prepared, const float *x, size_t n_tokens);

/* y (n_tokens times out_features) = x W^T (+ bias). */
void zm_product_run(zm_engine engine, const zm_matrix *matrix, const zm_prepared *prepared, size_t n_tokens,
                    float *y);
/* The same for up to ZM_MAX_PRODUCTS matrices in one loop over all their rows: threads meet once. */
enum { ZM_MAX_PRODUCTS = 4 };
void zm_products_run(zm_engine engine, const zm_matrix *matrices, const zm_prepared *prepared, float *const *y,
                     int n_products, size_t n_tokens);

/* h[i * h_stride + row] = activation(gate row, up row) of the list's token i for the rows of [row_begin, row_end),
 * on this thread. */
typedef struct zm_gated_rows {
    const zm_cpu_level *level;
    const zm_matrix *gate, *up;
    const zm_prepared *gate_x, *up_x;
    zm_activation activation;
} zm_gated_rows;

typedef struct zm_token_list {
    const uint32_t *indices; /* NULL: 0 to count - 1 */
    size_t count;
} zm_token_list;

void zm_gated_rows_run(const zm_gated_rows *rows, size_t expert, zm_token_list tokens, size_t row_begin,
                       size_t row_end, float *h, size_t h_stride);

/* Rows of a block, by which a product's rows are shared out. */
static inline size_t zm_row_block(size_t n_tokens) { return n_tokens > 1 ? ZM_WIDE_ROW_BLOCK : ZM_ROW_BLOCK; }

/* Blocks of a matrix, and how many of them are worth a thread where each row is multiplied n_products times. */
static inline size_t zm_row_blocks(const zm_matrix *matrix, size_t n_tokens) {
    return (matrix->out_features + zm_row_block(n_tokens) - 1) / zm_row_block(n_tokens);
}

/* How many items of so many activations are worth a thread. */
static inline size_t zm_value_grain(size_t values) { return 1 + 16 * 1024 / values; }

size_t zm_row_grain(const zm_matrix *matrix, size_t n_tokens, size_t n_products);

/* The first row of a block; the end of the rows for those after the last. */
static inline size_t zm_block_row(const zm_matrix *matrix, size_t n_tokens, size_t block) {
    size_t row = block * zm_row_block(n_tokens);
    return row < matrix->out_features ? row : matrix->out_features;
}

#endif
