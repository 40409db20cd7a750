/* SPDX-License-Identifier: MIT */
#include "kernels/unpack.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/workers.h"

enum { GROUP = 8 /* codes, which fill whole bytes */, PIECE_GROUPS = 1 << 12 };

typedef struct unpack {
    int bits;
} unpack;

/* The lowest 8 codes of word, a byte each: halves, quarters and eighths are moved apart. */
static inline uint64_t spread(uint64_t word, int bits) {
    const uint64_t four = (1ull << 4 * bits) - 1, two = ((1ull << 2 * bits) - 1) * 0x0000000100000001ull,
                   one = ((1ull << bits) - 1) * 0x0001000100010001ull;
    word = (word & four) | (word >> 4 * bits & four) << 32;
    word = (word & two) | (word >> 2 * bits & two) << 16;
    return (word & one) | (word >> bits & one) << 8;
}

/* Byte by byte, so that any byte order gives the same. */
static inline uint64_t read_word(const uint8_t *bytes, int count) {
    uint64_t word = 0;
    for (int i = 0; i < count; i++) word |= (uint64_t)bytes[i] << 8 * i;
    return word;
}
static inline void write_word(uint8_t *bytes, uint64_t word, int count) {
    for (int i = 0; i < count; i++) bytes[i] = (uint8_t)(word >> 8 * i);
}

typedef struct run {
    int bits;
    const uint8_t *bytes;
    uint8_t *codes;
    size_t n_codes;
} run;

static inline void unpack_groups(const run *self, size_t begin, size_t end, int bits) {
    size_t whole = self->n_codes / GROUP;
    for (size_t i = begin; i < end && i < whole; i++)
        write_word(self->codes + i * GROUP, spread(read_word(self->bytes + i * (size_t)bits, bits), bits), GROUP);
    int rest = (int)(self->n_codes % GROUP);
    if (end > whole)
        write_word(self->codes + whole * GROUP,
                   spread(read_word(self->bytes + whole * (size_t)bits, rest * bits / 8), bits), rest);
}

static void unpack_piece(void *context, size_t begin, size_t end) {
    const run *self = context;
    switch (self->bits) { /* constants make the loops straight */
    case 1: unpack_groups(self, begin, end, 1); break;
    case 2: unpack_groups(self, begin, end, 2); break;
    case 3: unpack_groups(self, begin, end, 3); break;
    case 4: unpack_groups(self, begin, end, 4); break;
    case 5: unpack_groups(self, begin, end, 5); break;
    default: unpack_groups(self, begin, end, 6); break;
    }
}

/* Rows end with whole codes, so they are one stream. */
static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs, (void)n_outputs;
    run work = {((const unpack *)state)->bits, inputs[0].data, outputs[0].data, outputs[0].size};
    size_t groups = (work.n_codes + GROUP - 1) / GROUP;
    if (groups) zm_pool_run(zm_workers(), groups, PIECE_GROUPS, unpack_piece, &work);
}

static const zm_node_class unpack_class = {.name = "zmlx.unpack", .evaluate_cpu = evaluate, .free_state = free};

static zm_node_output shape_of(mlx_array bytes, int bits) {
    zm_node_output spec = {.n_dims = (int)mlx_array_ndim(bytes), .dtype = MLX_UINT8};
    memcpy(spec.shape, mlx_array_shape(bytes), (size_t)spec.n_dims * sizeof(int));
    spec.shape[spec.n_dims - 1] = (int)((int64_t)spec.shape[spec.n_dims - 1] * 8 / bits);
    return spec;
}

/* A code lies in two bytes at most: in bits [shift, shift + bits) of low + 256 high. The pattern repeats after `codes`
 * codes in `bytes_each` bytes. */
mlx_array zm_unpack_codes_composed(zm_catalog_call *call, mlx_array bytes, int bits) {
    zm_scope *scope = call->scope;
    if (bits == 8 || zm_scope_failed(scope)) return bytes;
    zm_node_output spec = shape_of(bytes, bits);
    int codes = GROUP;
    while (codes > 1 && codes / 2 * bits % 8 == 0) codes /= 2;
    int bytes_each = codes * bits / 8;
    int32_t low[GROUP], high[GROUP];
    uint8_t divisor[GROUP];
    for (int i = 0; i < codes; i++) {
        low[i] = i * bits / 8;
        high[i] = low[i] + 1 < bytes_each ? low[i] + 1 : low[i];
        divisor[i] = (uint8_t)(1 << i * bits % 8);
    }
    size_t n_rows = mlx_array_size(bytes) / (size_t)bytes_each;
    if (n_rows > INT32_MAX)
        return zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, call->where,
                             "%zu bytes are more than this device unpacks at once", mlx_array_size(bytes));
    mlx_array rows = zm_reshape2(scope, bytes, (int)n_rows, bytes_each),
              code = {NULL};
    mlx_array inputs[] = {zm_take(scope, rows, zm_from_data(scope, low, &codes, 1, MLX_INT32), 1),
                          zm_take(scope, rows, zm_from_data(scope, high, &codes, 1, MLX_INT32), 1),
                          zm_from_data(scope, divisor, &codes, 1, MLX_UINT8)};
    zm_call_part(call, &code, "bits_of_bytes", inputs, (zmlx_catalog_value[]){{1 << bits, 0}},
                 (mlx_dtype[]){MLX_UINT8});
    return zm_scope_failed(scope) ? code : zm_reshape(scope, code, spec.shape, spec.n_dims);
}

mlx_array zm_unpack_codes(zm_catalog_call *call, mlx_array bytes, int bits) {
    zm_scope *scope = call->scope;
    if (bits == 8 || zm_scope_failed(scope)) return bytes;
    if ((int64_t)zm_dim(bytes, -1) * 8 / bits > INT32_MAX)
        return zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, call->where, "a result has more than 2^31 - 1 columns");
    if (!zm_scope_is_on_cpu(scope)) return zm_unpack_codes_composed(call, bytes, bits);
    unpack *self = malloc(sizeof *self);
    if (!self) return zm_scope_fail(scope, ZMLX_ERROR_MEMORY, call->where, "out of memory");
    *self = (unpack){bits};
    zm_node_output spec = shape_of(bytes, bits);
    return zm_node(scope, &spec, &unpack_class, self, &bytes, 1);
}
