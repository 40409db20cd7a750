/* SPDX-License-Identifier: MIT */
#include "fused/cpu/product.h"

enum {
    GRAIN_BYTES = 16 * 1024,        /* of weights: below, waking a thread costs more than it brings */
    PART_ROWS = 32,                 /* of one step of gated rows, where there are several tokens */
    PART_TOKENS = 128,              /* of it: they share one unpacking of the codes */
    STEP = PART_ROWS * PART_TOKENS, /* products of one */
    SLAB_BYTES = 1024 * 1024 /* of prepared tokens that a piece's rows meet together: they stay in a core's own cache */
};

zm_engine zm_engine_new(zm_compute compute) {
    return (zm_engine){
        .level = zm_fused_level_for(compute.precision), .pool = compute.pool, .precision = compute.precision};
}

static void add_stream(zm_ahead *ahead, const unsigned char *data, size_t bytes, size_t expert) {
    if (data && ahead->count < ZM_MAX_STREAMS)
        ahead->streams[ahead->count++] = (zm_stream){.data = data + expert * bytes, .bytes = bytes};
}

void zm_ahead_add(zm_ahead *ahead, const zm_matrix *matrix, size_t expert) {
    size_t rows = matrix->out_features, scale_bytes = rows * zm_matrix_scale_row_bytes(matrix);
    add_stream(ahead, matrix->weight, rows * zm_matrix_row_bytes(matrix), expert);
    if (matrix->edges) {
        add_stream(ahead, matrix->edges, rows * 2 * zm_matrix_groups(matrix), expert);
        return;
    }
    add_stream(ahead, matrix->scales, scale_bytes, expert);
    add_stream(ahead, matrix->biases, scale_bytes, expert);
}

zm_prepared zm_prepared_new(zm_engine engine, const zm_matrix *matrix) {
    zm_prepared prepared = {.data = NULL};
    engine.level->order(&prepared.order, matrix, engine.precision);
    prepared.stride = zm_order_size(&prepared.order);
    return prepared;
}

typedef struct prepare_loop {
    const zm_cpu_level *level;
    const zm_prepared *prepared;
    const float *x;
} prepare_loop;

static void prepare_tokens(void *context, size_t begin, size_t end) {
    const prepare_loop *loop = context;
    const zm_order *order = &loop->prepared->order;
    for (size_t token = begin; token < end; token++)
        loop->level->prepare(loop->prepared->data + token * loop->prepared->stride,
                             loop->x + token * order->in_features, order);
}

void zm_prepare(zm_engine engine, const zm_prepared *prepared, const float *x, size_t n_tokens) {
    prepare_loop loop = {.level = engine.level, .prepared = prepared, .x = x};
    zm_pool_run(engine.pool, n_tokens, zm_value_grain(prepared->order.in_features), prepare_tokens, &loop);
}

size_t zm_row_grain(const zm_matrix *matrix, size_t n_tokens, size_t n_products) {
    size_t block = zm_row_block(n_tokens) * zm_matrix_row_bytes(matrix);
    return 1 + GRAIN_BYTES / (block * (n_products ? n_products : 1));
}

/* Products one behind the other: number i has the blocks up to ends[i], from where the one before it ends. */
typedef struct multiply_loop {
    const zm_cpu_level *level;
    zm_product products[ZM_MAX_PRODUCTS];
    size_t ends[ZM_MAX_PRODUCTS];
} multiply_loop;

static void multiply_blocks(const multiply_loop *loop, zm_product product, size_t begin, size_t end) {
    size_t row_begin = zm_block_row(product.matrix, product.n_tokens, begin);
    size_t row_end = zm_block_row(product.matrix, product.n_tokens, end);
    size_t left = product.n_tokens,
           slab = SLAB_BYTES / (product.prepared_stride * sizeof(float)) / PART_ROWS * PART_ROWS;
    if (!slab) slab = PART_ROWS;
    product.y += row_begin;
    for (; left; left -= product.n_tokens) {
        product.n_tokens = left <= slab + slab / 2 ? left : slab;
        loop->level->multiply(&product, row_begin, row_end);
        product.y += product.n_tokens * product.y_stride;
        product.prepared += product.n_tokens * product.prepared_stride;
    }
}

static void multiply_range(void *context, size_t begin, size_t end) {
    const multiply_loop *loop = context;
    size_t first = 0;
    for (int i = 0; begin < end; first = loop->ends[i++]) {
        if (begin >= loop->ends[i]) continue;
        size_t last = end < loop->ends[i] ? end : loop->ends[i];
        multiply_blocks(loop, loop->products[i], begin - first, last - first);
        begin = last;
    }
}

void zm_products_run(zm_engine engine, const zm_matrix *matrices, const zm_prepared *prepared, float *const *y,
                     int n_products, size_t n_tokens) {
    multiply_loop loop = {.level = engine.level};
    size_t n_blocks = 0;
    for (int i = 0; i < n_products; i++) {
        loop.products[i] = (zm_product){.matrix = &matrices[i],
                                        .n_tokens = n_tokens,
                                        .prepared = prepared[i].data,
                                        .prepared_stride = prepared[i].stride,
                                        .limbs = prepared[i].order.limbs,
                                        .y = y[i],
                                        .y_stride = matrices[i].out_features};
        loop.ends[i] = n_blocks += zm_row_blocks(&matrices[i], n_tokens);
    }
    zm_pool_run_ahead(engine.pool, n_blocks, zm_row_grain(&matrices[0], n_tokens, n_tokens), multiply_range, &loop,
                      engine.ahead);
}

void zm_product_run(zm_engine engine, const zm_matrix *matrix, const zm_prepared *prepared, size_t n_tokens,
                    float *y) {
    zm_products_run(engine, matrix, prepared, &y, 1, n_tokens);
}

static void multiply_part(const zm_gated_rows *rows, const zm_matrix *matrix, const zm_prepared *x, size_t expert,
                          zm_token_list tokens, size_t first, size_t row_begin, size_t row_end, float *y) {
    zm_product product = {.matrix = matrix,
                          .expert = expert,
                          .n_tokens = tokens.count - first < PART_TOKENS ? tokens.count - first : PART_TOKENS,
                          .tokens = tokens.indices ? tokens.indices + first : NULL,
                          .prepared = x->data + (tokens.indices ? 0 : first * x->stride),
                          .prepared_stride = x->stride,
                          .limbs = x->order.limbs,
                          .y = y,
                          .y_stride = row_end - row_begin};
    rows->level->multiply(&product, row_begin, row_end);
}

void zm_gated_rows_run(const zm_gated_rows *rows, size_t expert, zm_token_list tokens, size_t row_begin,
                       size_t row_end, float *h, size_t h_stride) {
    _Alignas(64) float gate[STEP], up[STEP];
    size_t step = tokens.count == 1 ? STEP : PART_ROWS; /* a token's rows are read as long streams */
    for (size_t row = row_begin; row < row_end; row += step) {
        size_t n_rows = row_end - row < step ? row_end - row : step, end = row + n_rows;
        for (size_t first = 0; first < tokens.count; first += PART_TOKENS) {
            multiply_part(rows, rows->gate, rows->gate_x, expert, tokens, first, row, end, gate);
            multiply_part(rows, rows->up, rows->up_x, expert, tokens, first, row, end, up);
            for (size_t t = 0; t < PART_TOKENS && first + t < tokens.count; t++)
                rows->level->activate(h + (first + t) * h_stride + row, gate + t * n_rows, up + t * n_rows, n_rows,
                                      rows->activation);
        }
    }
}
