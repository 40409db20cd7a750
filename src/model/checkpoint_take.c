/* SPDX-License-Identifier: MIT */
/* Handing checked tensors to a model. */
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "model/checkpoint_parts.h"

bool zm_checkpoint_is_floating(mlx_dtype dtype) {
    return dtype == MLX_FLOAT32 || dtype == MLX_FLOAT16 || dtype == MLX_BFLOAT16;
}

typedef enum expected_kind { EXPECT_FLOATING, EXPECT_UINT32, EXPECT_UINT8 } expected_kind;

static void describe_shape(char text[128], const int *shape, int n_dims) {
    size_t used = (size_t)snprintf(text, 128, "(");
    for (int i = 0; i < n_dims && used < 110; i++)
        used += (size_t)snprintf(text + used, 128 - used, "%s%d", i ? ", " : "", shape[i]);
    snprintf(text + used, 128 - used, n_dims == 1 ? ",)" : ")");
}

static zmlx_status check_shape(const zm_checkpoint_entry *entry, const int *shape, int n_dims,
                               zmlx_error *error) {
    int n_found = (int)mlx_array_ndim(entry->array);
    const int *found = mlx_array_shape(entry->array);
    bool same = n_found == n_dims;
    for (int i = 0; same && i < n_dims; i++) same = found[i] == shape[i];
    if (same) return ZMLX_OK;
    char expected_text[128], found_text[128];
    describe_shape(expected_text, shape, n_dims);
    describe_shape(found_text, found, n_found);
    return zm_fail(error, ZMLX_ERROR_FORMAT, entry->file, "tensor '%.200s': expected shape %s, got %s",
                   entry->name, expected_text, found_text);
}

static zmlx_status check_kind(const zm_checkpoint_entry *entry, expected_kind kind, zmlx_error *error) {
    mlx_dtype dtype = mlx_array_dtype(entry->array);
    const char *expected = NULL;
    if (kind == EXPECT_FLOATING && !zm_checkpoint_is_floating(dtype)) expected = "a floating-point type";
    if (kind == EXPECT_UINT32 && dtype != MLX_UINT32) expected = "uint32";
    if (kind == EXPECT_UINT8 && dtype != MLX_UINT8) expected = "uint8";
    if (!expected) return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_FORMAT, entry->file, "tensor '%.200s': expected %s, got %s", entry->name,
                   expected, zm_dtype_name(dtype));
}

static zmlx_status require(zm_checkpoint_entry **entry, const zm_checkpoint *checkpoint, const char *name,
                           zmlx_error *error) {
    *entry = zm_checkpoint_find(checkpoint, name);
    if (*entry) return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_FORMAT, checkpoint->folder, "tensor '%.200s' is missing", name);
}

/* A copy that the GPU makes, bit by bit. With CUDA the memory that the CPU wrote would move to the GPU page by page, as
 * kernels first touch it. */
static mlx_array copy_on_gpu(zm_scope *scope, mlx_array array) {
    size_t size = mlx_array_size(array), item_bytes = size ? mlx_array_nbytes(array) / size : 1;
    mlx_dtype dtype = mlx_array_dtype(array);
    mlx_dtype same_size = item_bytes == 4 ? MLX_UINT32 : item_bytes == 2 ? MLX_UINT16 : MLX_UINT8;
    array = zm_view_as(scope, array, same_size);
    return zm_view_as(scope, zm_maximum(scope, array, array), dtype);
}

/* Evaluates entry's array as dtype and moves it to *array; the entry's own (unconverted) one is freed. */
static zmlx_status evaluate(mlx_array *array, zm_checkpoint *checkpoint, zm_checkpoint_entry *entry,
                            mlx_dtype dtype, zmlx_error *error) {
    zm_scope scope;
    zm_scope_begin(&scope, checkpoint->stream);
    mlx_array source = zm_scope_own(&scope, entry->array);
    entry->array = (mlx_array){0};
    mlx_array result = source;
    if (mlx_array_dtype(source) != dtype) result = zm_astype(&scope, source, dtype);
    else if (checkpoint->on_gpu) result = copy_on_gpu(&scope, source);
    mlx_array kept = {0};
    zm_scope_keep(&scope, &kept, result);
    zmlx_error failure;
    zmlx_status status = zm_scope_end(&scope, &failure);
    if (!status && mlx_array_eval(kept)) status = zm_mlx_fail(&failure, NULL);
    if (status) zm_fail(error, status, entry->file, "tensor '%.200s': %s", entry->name, failure.message);
    if (!status) status = zm_source_failure(checkpoint->source, error);
    if (status) {
        mlx_array_free(kept);
        return status;
    }
    *array = kept;
    if (checkpoint->progress)
        checkpoint->progress(checkpoint->progress_context, zm_source_bytes_read(checkpoint->source),
                             checkpoint->tensor_bytes);
    return ZMLX_OK;
}

static zmlx_status take(mlx_array *array, zm_checkpoint *checkpoint, const char *name, const int *shape,
                        int n_dims, expected_kind kind, mlx_dtype float_dtype, zmlx_error *error) {
    *array = (mlx_array){0};
    zm_checkpoint_entry *entry;
    ZM_TRY(require(&entry, checkpoint, name, error));
    ZM_TRY(check_shape(entry, shape, n_dims, error));
    ZM_TRY(check_kind(entry, kind, error));
    mlx_dtype dtype = kind == EXPECT_FLOATING ? float_dtype : mlx_array_dtype(entry->array);
    return evaluate(array, checkpoint, entry, dtype, error);
}

zmlx_status zm_checkpoint_take(mlx_array *array, zm_checkpoint *checkpoint, const char *name,
                               const int *shape, int n_dims, bool keep_float32, zmlx_error *error) {
    mlx_dtype dtype = keep_float32 ? MLX_FLOAT32 : checkpoint->dtype;
    return take(array, checkpoint, name, shape, n_dims, EXPECT_FLOATING, dtype, error);
}

/* Takes "<path>.<part>" of shape ([n_experts,] out_features[, columns]); columns 0: none. */
static zmlx_status take_part(mlx_array *array, zm_checkpoint *checkpoint, const zm_weight *weight,
                             const char *path, const char *part, int columns, expected_kind kind,
                             zmlx_error *error) {
    char name[512];
    int length = snprintf(name, sizeof name, "%s.%s", path, part);
    if (length < 0 || (size_t)length >= sizeof name)
        return zm_fail(error, ZMLX_ERROR_FORMAT, path, "the name is too long");
    int shape[3], n_dims = 0;
    if (weight->n_experts) shape[n_dims++] = weight->n_experts;
    shape[n_dims++] = weight->out_features;
    if (columns) shape[n_dims++] = columns;
    return take(array, checkpoint, name, shape, n_dims, kind, checkpoint->dtype, error);
}

static int last_dim(const zm_checkpoint_entry *entry) {
    size_t n_dims = mlx_array_ndim(entry->array);
    return n_dims ? mlx_array_dim(entry->array, (int)n_dims - 1) : 0;
}

/* Decides how path is quantised; mode NULL: not at all. */
static zmlx_status decide(zm_quantization *quantization, zm_checkpoint *checkpoint, const char *path,
                          int in_features, zmlx_error *error) {
    zm_quantization_kind kind;
    ZM_TRY(zm_quantization_find(&kind, quantization, &checkpoint->rules, path, error));
    char name[512];
    snprintf(name, sizeof name, "%s.scales", path);
    const zm_checkpoint_entry *scales = zm_checkpoint_find(checkpoint, name);
    if (kind == ZM_QUANTIZATION_UNNAMED && scales) {
        zm_checkpoint_entry *weight;
        char weight_name[512];
        snprintf(weight_name, sizeof weight_name, "%s.weight", path);
        ZM_TRY(require(&weight, checkpoint, weight_name, error));
        return zm_quantization_infer(quantization, in_features, last_dim(weight), last_dim(scales),
                                     mlx_array_dtype(scales->array) == MLX_UINT8, path, error);
    }
    if (kind == ZM_QUANTIZATION_DENSE && scales)
        return zm_fail(error, ZMLX_ERROR_FORMAT, scales->file,
                       "tensor '%.200s' is there, but config.json says that this weight is not quantised",
                       scales->name);
    if (kind == ZM_QUANTIZATION_GIVEN && in_features % quantization->group_size)
        return zm_fail(error, ZMLX_ERROR_FORMAT, path,
                       "%d input features are no multiple of the group size %d", in_features,
                       quantization->group_size);
    return ZMLX_OK;
}

static zmlx_status take_quantized(zm_weight *weight, zm_checkpoint *checkpoint, const char *path,
                                  zmlx_error *error) {
    zm_quantization quantization = weight->quantization;
    bool affine = zm_quantization_is_affine(quantization);
    int columns = (int)((int64_t)weight->in_features * quantization.bits / 32);
    int groups = weight->in_features / quantization.group_size;
    expected_kind scale_kind = affine ? EXPECT_FLOATING : EXPECT_UINT8;
    ZM_TRY(take_part(&weight->weight, checkpoint, weight, path, "weight", columns, EXPECT_UINT32, error));
    ZM_TRY(take_part(&weight->scales, checkpoint, weight, path, "scales", groups, scale_kind, error));
    if (affine)
        ZM_TRY(take_part(&weight->biases, checkpoint, weight, path, "biases", groups, scale_kind, error));
    return ZMLX_OK;
}

static zmlx_status take_arrays(zm_weight *weight, zm_checkpoint *checkpoint, const char *path, bool has_bias,
                               zmlx_error *error) {
    ZM_TRY(decide(&weight->quantization, checkpoint, path, weight->in_features, error));
    if (zm_weight_is_quantized(weight))
        ZM_TRY(take_quantized(weight, checkpoint, path, error));
    else
        ZM_TRY(take_part(&weight->weight, checkpoint, weight, path, "weight", weight->in_features,
                         EXPECT_FLOATING, error));
    if (has_bias)
        ZM_TRY(take_part(&weight->bias, checkpoint, weight, path, "bias", 0, EXPECT_FLOATING, error));
    return ZMLX_OK;
}

zmlx_status zm_checkpoint_take_weight(zm_weight *weight, zm_checkpoint *checkpoint, const char *path,
                                      bool has_bias, zmlx_error *error) {
    zm_weight made = {.in_features = weight->in_features,
                      .out_features = weight->out_features,
                      .n_experts = weight->n_experts};
    *weight = made;
    zmlx_status status = take_arrays(&made, checkpoint, path, has_bias, error);
    if (!status) {
        *weight = made;
        return ZMLX_OK;
    }
    mlx_array_free(made.weight);
    mlx_array_free(made.scales);
    mlx_array_free(made.biases);
    mlx_array_free(made.bias);
    return status;
}

zmlx_status zm_checkpoint_finish(const zm_checkpoint *checkpoint, zmlx_error *error) {
    enum { SHOWN = 5 };
    zm_text names = {0};
    size_t n_left = 0;
    for (size_t i = 0; i < checkpoint->n_entries; i++) {
        const char *name = zm_checkpoint_name(checkpoint, i);
        if (*name && n_left++ < SHOWN) zm_text_printf(&names, "%s'%.120s'", n_left > 1 ? ", " : "", name);
    }
    zmlx_status status = ZMLX_OK;
    if (n_left)
        status =
            zm_fail(error, ZMLX_ERROR_FORMAT, checkpoint->folder, "%zu unexpected tensor%s: %s%s", n_left,
                    n_left == 1 ? "" : "s", zm_text_string(&names), n_left > SHOWN ? ", ..." : "");
    zm_text_free(&names);
    if (!status && checkpoint->progress)
        checkpoint->progress(checkpoint->progress_context, checkpoint->tensor_bytes,
                             checkpoint->tensor_bytes);
    return status;
}
