/* SPDX-License-Identifier: MIT */
#include "model/arch/latent_weights.h"

#include <limits.h>
#include <string.h>

#include "model/quantization.h"

enum { BLOCK = 128, PACK_GROUP = 32, PACK_ZERO = 8 };

/* "<path>.<part>", or NULL with the error set. */
static const char *name_of(zm_builder *builder, const char *path, const char *part) {
    const char *name = zm_arena_printf(builder->arena, "%s.%s", path, part);
    if (!name) zm_fail_memory(builder->error);
    return name;
}

/* Ends the scope and puts the kept arrays under their names; none after a failure. */
static zmlx_status put_all(zm_builder *builder, zm_scope *scope, const char *const *names, mlx_array *arrays,
                           int count) {
    zmlx_status status = zm_scope_end(scope, builder->error);
    for (int i = 0; i < count; i++) {
        if (status || !zm_is_set(arrays[i]))
            mlx_array_free(arrays[i]);
        else
            status = zm_checkpoint_put(builder->checkpoint, names[i], arrays[i], builder->error);
    }
    return status;
}

/* Fails where a name that source makes is taken. */
static zmlx_status check_new(zm_builder *builder, const char *source, const char *const *names, int count) {
    for (int i = 0; i < count; i++)
        if (zm_checkpoint_has(builder->checkpoint, names[i]))
            return zm_fail(builder->error, ZMLX_ERROR_FORMAT, source, "makes '%.200s', which is there, too", names[i]);
    return ZMLX_OK;
}

static zmlx_status check_floating(zm_builder *builder, const char *name, mlx_array array) {
    mlx_dtype dtype = mlx_array_dtype(array);
    if (zm_checkpoint_is_floating(dtype)) return ZMLX_OK;
    return zm_fail(builder->error, ZMLX_ERROR_FORMAT, name, "expected a floating-point type, got %s",
                   zm_dtype_name(dtype));
}

/* path of a name that ends in suffix, else NULL. */
static const char *path_before(zm_builder *builder, const char *name, const char *suffix) {
    size_t length = strlen(name), end = strlen(suffix);
    if (length <= end || strcmp(name + length - end, suffix) != 0) return NULL;
    return zm_arena_copy(builder->arena, name, length - end);
}

static bool has_shape2(mlx_array array, int rows, int columns) {
    return mlx_array_ndim(array) == 2 && zm_dim(array, 0) == rows && zm_dim(array, 1) == columns;
}

/* Rows and columns, as many as a model may have: sums and products of them stay within an int. */
static bool is_matrix(mlx_array array, mlx_dtype dtype) {
    if (!zm_is_set(array) || mlx_array_ndim(array) != 2 || mlx_array_dtype(array) != dtype) return false;
    int rows = zm_dim(array, 0), columns = zm_dim(array, 1);
    return rows > 0 && rows <= ZM_MAX_SIZE && columns > 0 && columns <= ZM_MAX_SIZE;
}

static int blocks(int size) { return size / BLOCK + (size % BLOCK != 0); }

/* The numbers times those of their blocks, rounded once more to bfloat16. */
static mlx_array scale_blocks(zm_scope *scope, mlx_array weight, mlx_array scales) {
    int rows = zm_dim(weight, 0), columns = zm_dim(weight, 1), row_blocks = blocks(rows),
        column_blocks = blocks(columns);
    weight = zm_from_fp8(scope, weight, MLX_BFLOAT16);
    int right[2] = {rows, column_blocks * BLOCK - columns},
        below[2] = {row_blocks * BLOCK - rows, column_blocks * BLOCK};
    if (right[1]) weight = zm_concatenate(scope, weight, zm_zeros(scope, right, 2, MLX_BFLOAT16), 1);
    if (below[0]) weight = zm_concatenate(scope, weight, zm_zeros(scope, below, 2, MLX_BFLOAT16), 0);
    weight = zm_reshape4(scope, weight, row_blocks, BLOCK, column_blocks, BLOCK);
    weight = zm_multiply(scope, weight, zm_expand_dims(scope, zm_expand_dims(scope, scales, 1), 3));
    weight = zm_reshape2(scope, weight, row_blocks * BLOCK, column_blocks * BLOCK);
    weight = zm_slice_axis(scope, zm_slice_axis(scope, weight, 0, 0, rows, 1), 1, 0, columns, 1);
    return zm_astype(scope, weight, MLX_BFLOAT16);
}

static zmlx_status rewrite_blocks(zm_builder *builder, const char *path) {
    zm_checkpoint *checkpoint = builder->checkpoint;
    const char *name = name_of(builder, path, "weight"), *scale_name = name_of(builder, path, "weight_scale_inv");
    if (!name || !scale_name) return ZMLX_ERROR_MEMORY;
    mlx_array weight = zm_checkpoint_get(checkpoint, name), scales = zm_checkpoint_get(checkpoint, scale_name),
              made = {0};
    if (!is_matrix(weight, MLX_UINT8) ||
        !has_shape2(scales, blocks(zm_dim(weight, 0)), blocks(zm_dim(weight, 1))))
        return zm_fail(builder->error, ZMLX_ERROR_FORMAT, scale_name,
                       "does not give a scale for each block of %d x %d of an fp8 weight", BLOCK, BLOCK);
    ZM_TRY(check_floating(builder, scale_name, scales));
    zm_scope scope;
    zm_scope_begin(&scope, builder->stream);
    zm_scope_keep(&scope, &made, scale_blocks(&scope, weight, scales));
    zm_checkpoint_remove(checkpoint, scale_name);
    return put_all(builder, &scope, &name, &made, 1);
}

zmlx_status zm_rewrite_fp8_blocks(zm_builder *builder) {
    for (size_t i = 0; i < zm_checkpoint_count(builder->checkpoint); i++) {
        const char *path = path_before(builder, zm_checkpoint_name(builder->checkpoint, i), ".weight_scale_inv");
        if (path) ZM_TRY(rewrite_blocks(builder, path));
    }
    return ZMLX_OK;
}

static zmlx_status rewrite_pack(zm_builder *builder, const char *path) {
    zm_checkpoint *checkpoint = builder->checkpoint;
    const char *names[3] = {name_of(builder, path, "weight"), name_of(builder, path, "scales"),
                            name_of(builder, path, "biases")};
    const char *packed_name = name_of(builder, path, "weight_packed"),
               *scale_name = name_of(builder, path, "weight_scale");
    const char *shape_name = name_of(builder, path, "weight_shape");
    if (!names[0] || !names[1] || !names[2] || !packed_name || !scale_name || !shape_name) return ZMLX_ERROR_MEMORY;
    mlx_array packed = zm_checkpoint_get(checkpoint, packed_name), scales = zm_checkpoint_get(checkpoint, scale_name);
    mlx_array made[3] = {{0}, {0}, {0}};
    if (!is_matrix(packed, MLX_INT32) || !zm_is_set(scales) ||
        !has_shape2(scales, zm_dim(packed, 0), zm_dim(packed, 1) * 8 / PACK_GROUP))
        return zm_fail(builder->error, ZMLX_ERROR_FORMAT, shape_name,
                       "goes with no int32 weight_packed and weight_scale in groups of %d", PACK_GROUP);
    ZM_TRY(check_floating(builder, scale_name, scales));
    ZM_TRY(check_new(builder, packed_name, names, 3));
    zm_scope scope;
    zm_scope_begin(&scope, builder->stream);
    zm_scope_keep(&scope, &made[0], zm_view_as(&scope, packed, MLX_UINT32));
    zm_scope_keep(&scope, &made[1], scales);
    zm_scope_keep(&scope, &made[2], zm_multiply(&scope, zm_scalar_like(&scope, -PACK_ZERO, scales), scales));
    zm_checkpoint_remove(checkpoint, packed_name);
    zm_checkpoint_remove(checkpoint, scale_name);
    zm_checkpoint_remove(checkpoint, shape_name);
    return put_all(builder, &scope, names, made, 3);
}

zmlx_status zm_rewrite_int4_packs(zm_builder *builder) {
    for (size_t i = 0; i < zm_checkpoint_count(builder->checkpoint); i++) {
        const char *path = path_before(builder, zm_checkpoint_name(builder->checkpoint, i), ".weight_shape");
        if (path) ZM_TRY(rewrite_pack(builder, path));
    }
    return ZMLX_OK;
}

/* kv_b_proj of one layer. */
typedef struct kv_b {
    const char *const *names; /* of weight, scales and biases */
    mlx_array weight, scales, biases;
    zm_quantization quantization; /* mode NULL: dense */
} kv_b;

static zmlx_status find_kv_b(kv_b *of, zm_builder *builder, const zm_latent_attention_plan *plan) {
    int rows = plan->n_heads * (plan->qk_nope_head_dim + plan->v_head_dim), columns = plan->kv_lora_rank;
    const char *path = of->names[0];
    if (zm_is_set(of->scales)) {
        if (!zm_is_set(of->biases) || mlx_array_dtype(of->weight) != MLX_UINT32)
            return zm_fail(builder->error, ZMLX_ERROR_UNSUPPORTED, path, "is quantised in another mode than affine");
        ZM_TRY(check_floating(builder, of->names[1], of->scales));
        ZM_TRY(check_floating(builder, of->names[2], of->biases));
        columns = zm_dim(of->weight, -1);
        ZM_TRY(zm_quantization_infer(&of->quantization, plan->kv_lora_rank, columns, zm_dim(of->scales, -1), false,
                                     path, builder->error));
        int groups = plan->kv_lora_rank / of->quantization.group_size;
        if (plan->qk_nope_head_dim % of->quantization.group_size)
            return zm_fail(builder->error, ZMLX_ERROR_UNSUPPORTED, path,
                           "qk_nope_head_dim %d is no multiple of its group size %d", plan->qk_nope_head_dim,
                           of->quantization.group_size);
        if (!has_shape2(of->scales, rows, groups) || !has_shape2(of->biases, rows, groups)) rows = -1;
    } else if (zm_is_set(of->biases)) {
        return zm_fail(builder->error, ZMLX_ERROR_FORMAT, of->names[2], "has no scales beside it");
    }
    if (has_shape2(of->weight, rows, columns)) return ZMLX_OK;
    return zm_fail(builder->error, ZMLX_ERROR_FORMAT, path, "has another shape than its heads make, (%d, %d)",
                   plan->n_heads * (plan->qk_nope_head_dim + plan->v_head_dim), plan->kv_lora_rank);
}

/* The parts' arrays: weight, scales, biases of embed_q, then of unembed_out. */
static void split_kv_b(mlx_array made[6], zm_scope *scope, const kv_b *of, const zm_latent_attention_plan *plan) {
    int nope = plan->qk_nope_head_dim, head_dim = nope + plan->v_head_dim;
    bool is_quantized = of->quantization.mode != NULL;
    mlx_array weight = of->weight;
    if (is_quantized) weight = zm_dequantize(scope, weight, of->scales, of->biases, of->quantization);
    weight = zm_reshape3(scope, weight, plan->n_heads, head_dim, plan->kv_lora_rank);
    mlx_array maps[2] = {zm_swapaxes(scope, zm_slice_axis(scope, weight, 1, 0, nope, 1), -1, -2),
                         zm_slice_axis(scope, weight, 1, nope, INT_MAX, 1)};
    for (int i = 0; i < 2; i++) {
        mlx_array parts[3] = {zm_contiguous(scope, maps[i]), {0}, {0}};
        if (is_quantized) zm_quantize(scope, parts, parts[0], of->quantization);
        for (int p = 0; p < (is_quantized ? 3 : 1); p++) zm_scope_keep(scope, &made[3 * i + p], parts[p]);
    }
}

zmlx_status zm_rewrite_kv_b_proj(zm_builder *builder, int n_layers, const zm_latent_attention_plan *plan) {
    static const char *const targets[6] = {"embed_q.weight",     "embed_q.scales",     "embed_q.biases",
                                           "unembed_out.weight", "unembed_out.scales", "unembed_out.biases"};
    static const char *const sources[3] = {"kv_b_proj.weight", "kv_b_proj.scales", "kv_b_proj.biases"};
    zm_checkpoint *checkpoint = builder->checkpoint;
    for (int layer = 0; layer < n_layers; layer++) {
        const char *path = zm_arena_printf(builder->arena, "model.layers.%d.self_attn", layer), *names[6], *from[3];
        if (!path) return zm_fail_memory(builder->error);
        for (int i = 0; i < 6; i++)
            if (!(names[i] = name_of(builder, path, targets[i]))) return ZMLX_ERROR_MEMORY;
        for (int i = 0; i < 3; i++)
            if (!(from[i] = name_of(builder, path, sources[i]))) return ZMLX_ERROR_MEMORY;
        kv_b of = {from,
                   zm_checkpoint_get(checkpoint, from[0]),
                   zm_checkpoint_get(checkpoint, from[1]),
                   zm_checkpoint_get(checkpoint, from[2]),
                   {0}};
        if (!zm_is_set(of.weight)) continue;
        ZM_TRY(find_kv_b(&of, builder, plan));
        ZM_TRY(check_new(builder, from[0], names, 6));
        mlx_array made[6] = {{0}};
        zm_scope scope;
        zm_scope_begin(&scope, builder->stream);
        split_kv_b(made, &scope, &of, plan);
        for (int i = 0; i < 3; i++) zm_checkpoint_remove(checkpoint, from[i]);
        ZM_TRY(put_all(builder, &scope, names, made, 6));
    }
    return ZMLX_OK;
}
