/* SPDX-License-Identifier: MIT */
#include "kernels/compose.h"
#include "kernels/unpack.h"

/* The first code that stands for a negative number; past the last where none does. */
static double wrap_of(int bits, bool is_signed) { return is_signed ? 1 << (bits - 1) : 1 << bits; }

static mlx_array widen(zm_catalog_call *call, int input) {
    return zm_astype(call->scope, call->inputs[input], MLX_FLOAT32);
}

static bool flag(const zm_catalog_call *call, int number) { return call->values[number].number != 0; }

/* Codes of one array, all with one scale. */
static void scaled(zm_catalog_call *call, const char *part, int bits, bool is_signed) {
    if (bits < 8 && call->is_scalar) {
        zm_scope_fail(call->scope, ZMLX_ERROR_ARGUMENT, call->where,
                      "x: expected at least one dimension, got shape ()");
        return;
    }
    mlx_array inputs[] = {zm_unpack_codes(call, call->inputs[0], bits), widen(call, 1)};
    zm_call_part(call, call->outputs, part, inputs, (zmlx_catalog_value[]){{wrap_of(bits, is_signed), 0}},
                 call->output_types);
}

void zm_compose_dequantize_int8(zm_catalog_call *call) { scaled(call, "scaled_codes", 8, call->is_signed[0]); }
void zm_compose_dequantize_silu_int8(zm_catalog_call *call) { scaled(call, "silu_codes", 8, call->is_signed[0]); }
void zm_compose_dequantize_int4(zm_catalog_call *call) { scaled(call, "scaled_codes", 4, flag(call, 0)); }
void zm_compose_dequantize_nf4(zm_catalog_call *call) { scaled(call, "nf4_codes", 4, false); }

/* The codes of input as rows of a block each; the last is filled up, unless it is the only one. There may be more codes
 * than a dimension counts, as those of a layer's experts, where all blocks are whole. */
static mlx_array in_blocks(zm_catalog_call *call, int input, mlx_array codes, int64_t block_size) {
    if (zm_scope_failed(call->scope)) return codes;
    const char *name = call->entry->signature.inputs[input].name;
    int64_t count = (int64_t)mlx_array_size(codes), n_blocks = (count + block_size - 1) / block_size;
    int64_t columns = n_blocks < 2 ? count : block_size, missing = n_blocks * columns - count;
    if (columns > INT32_MAX)
        return zm_scope_fail(call->scope, ZMLX_ERROR_ARGUMENT, call->where,
                             "%s: a block of %lld codes is more than 2^31 - 1", name, (long long)columns);
    if (missing && count + missing > INT32_MAX)
        return zm_scope_fail(call->scope, ZMLX_ERROR_ARGUMENT, call->where,
                             "%s: %lld codes, filled up to blocks of %lld, are more than 2^31 - 1", name,
                             (long long)count, (long long)block_size);
    if (missing) {
        mlx_array zeros = zm_zeros(call->scope, (const int[]){(int)missing}, 1, MLX_UINT8);
        codes = zm_concatenate(call->scope, zm_reshape(call->scope, codes, (const int[]){(int)count}, 1), zeros, 0);
    }
    return zm_reshape2(call->scope, codes, (int)n_blocks, (int)columns);
}

static void from_blocks(zm_catalog_call *call, mlx_array codes) {
    if (zm_scope_failed(call->scope)) return;
    size_t count = mlx_array_size(codes), size = mlx_array_size(call->outputs[0]);
    mlx_array y = call->outputs[0];
    if (size != count) {
        y = zm_reshape(call->scope, y, (const int[]){(int)size}, 1);
        y = zm_slice_axis(call->scope, y, 0, 0, (int)count, 1);
    }
    call->outputs[0] = zm_reshape(call->scope, y, mlx_array_shape(codes), (int)mlx_array_ndim(codes));
}

void zm_compose_dequantize_blockwise(zm_catalog_call *call) {
    int bits = (int)call->values[1].number;
    if (bits != 4 && bits != 8) {
        zm_scope_fail(call->scope, ZMLX_ERROR_ARGUMENT, call->where, "bits: expected 4 or 8, got %d", bits);
        return;
    }
    if (bits == 4 && (call->is_signed[0] || call->is_scalar)) {
        zm_scope_fail(call->scope, ZMLX_ERROR_ARGUMENT, call->where, "x: expected %s for 4 bits, got %s",
                      call->is_signed[0] ? "uint8" : "at least one dimension",
                      call->is_signed[0] ? "int8" : "shape ()");
        return;
    }
    mlx_array codes = zm_unpack_codes(call, call->inputs[0], bits);
    mlx_array inputs[] = {in_blocks(call, 0, codes, (int64_t)call->values[0].number), widen(call, 1)};
    zm_call_part(call, call->outputs, "block_codes", inputs,
                 (zmlx_catalog_value[]){{wrap_of(bits, call->is_signed[0]), 0}}, call->output_types);
    from_blocks(call, codes);
}

void zm_compose_fused_swiglu_quant(zm_catalog_call *call) {
    int64_t block_size = (int64_t)call->values[0].number;
    mlx_array inputs[] = {in_blocks(call, 0, call->inputs[0], block_size), widen(call, 1),
                          in_blocks(call, 2, call->inputs[2], block_size), widen(call, 3)};
    zmlx_catalog_value wraps[] = {{wrap_of(8, call->is_signed[0]), 0}, {wrap_of(8, call->is_signed[2]), 0}};
    zm_call_part(call, call->outputs, "swiglu_codes", inputs, wraps, call->output_types);
    from_blocks(call, call->inputs[0]);
}

static void affine(zm_catalog_call *call, const char *part) {
    zm_scope *scope = call->scope;
    int bits = (int)call->values[0].number, n_words = zm_call_size(call, "W"), n_groups = zm_call_size(call, "G");
    int64_t group_size = (int64_t)call->values[1].number;
    double columns = (double)n_groups * (double)group_size; /* a product of whole numbers might overflow */
    if (bits == 7) {
        zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, call->where, "bits: expected 2, 3, 4, 5, 6 or 8, got 7");
        return;
    }
    if (columns * bits != (double)n_words * 32) {
        zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, call->where,
                      "w: %d words a row are not the %.0f codes of %d bits that %d groups of %lld have", n_words,
                      columns, bits, n_groups, (long long)group_size);
        return;
    }
    mlx_array codes = zm_unpack_codes(call, zm_view_as(scope, call->inputs[0], MLX_UINT8), bits);
    if (zm_scope_failed(scope)) return;
    size_t n_rows = n_groups ? mlx_array_size(call->inputs[1]) / (size_t)n_groups : 0;
    if (n_rows > INT32_MAX) {
        zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, call->where, "w: %zu rows are more than 2^31 - 1", n_rows);
        return;
    }
    /* In rows: of all groups together there may be more than a dimension counts. */
    mlx_array inputs[] = {zm_reshape3(scope, codes, (int)n_rows, n_groups, (int)group_size),
                          zm_reshape2(scope, widen(call, 1), (int)n_rows, n_groups),
                          zm_reshape2(scope, widen(call, 2), (int)n_rows, n_groups)};
    zm_call_part(call, call->outputs, part, inputs, NULL, call->output_types);
    if (zm_scope_failed(scope)) return;
    call->outputs[0] = zm_reshape(scope, call->outputs[0], mlx_array_shape(codes), (int)mlx_array_ndim(codes));
}

void zm_compose_dequantize_affine_packed(zm_catalog_call *call) { affine(call, "affine_codes"); }
void zm_compose_dequantize_affine_packed_silu(zm_catalog_call *call) { affine(call, "affine_silu"); }
void zm_compose_dequantize_affine_packed_gelu(zm_catalog_call *call) { affine(call, "affine_gelu"); }
