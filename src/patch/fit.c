/* SPDX-License-Identifier: MIT */
/* A float32 model holds a bfloat16 checkpoint's scales in twice their bytes, because MLX's operations want one type.
 * Fused products take either, so patched modules get them back as they were, with their edges. */
#include <stdatomic.h>
#include <stdlib.h>

#include "base/pages.h"
#include "fused/fused.h"
#include "model/layers.h"
#include "patch/record.h"

enum { GRAIN = 64 * 1024 };

typedef struct conversion {
    const uint32_t *floats; /* their bits */
    const uint16_t *halves;
    void *result;
    atomic_uint lost; /* bits that bfloat16 has no place for */
} conversion;

static void narrow_range(void *context, size_t begin, size_t end) {
    conversion *of = context;
    uint16_t *halves = of->result;
    uint32_t lost = 0;
    for (size_t i = begin; i < end; i++) {
        lost |= of->floats[i] & 0xffff;
        halves[i] = (uint16_t)(of->floats[i] >> 16);
    }
    if (lost) atomic_fetch_or(&of->lost, lost);
}

static void widen_range(void *context, size_t begin, size_t end) {
    conversion *of = context;
    uint32_t *floats = of->result;
    for (size_t i = begin; i < end; i++) floats[i] = (uint32_t)of->halves[i] << 16;
}

/* *result: the evaluated array's numbers in the other type, exactly; empty where that cannot be. */
static zmlx_status convert_plain(mlx_array *result, mlx_array array, bool narrow, zm_pool *pool, zmlx_error *error) {
    size_t count = mlx_array_size(array), bytes = count * (narrow ? sizeof(uint16_t) : sizeof(uint32_t));
    conversion of = {.result = malloc(bytes ? bytes : 1)};
    if (!of.result) return zm_fail_memory(error);
    if (narrow) of.floats = (const uint32_t *)(const void *)mlx_array_data_float32(array);
    else of.halves = mlx_array_data_uint16(array);
    zm_pool_run(pool, count, GRAIN, narrow ? narrow_range : widen_range, &of);
    if (!atomic_load(&of.lost))
        *result = mlx_array_new_data(of.result, mlx_array_shape(array), (int)mlx_array_ndim(array),
                                     narrow ? MLX_BFLOAT16 : MLX_FLOAT32);
    free(of.result);
    return atomic_load(&of.lost) || result->ctx ? ZMLX_OK : zm_mlx_fail(error, "scales");
}

static zmlx_status convert(mlx_array *result, mlx_array array, bool narrow, const zmlx_model *model,
                           zmlx_error *error) {
    zm_scope scope;
    mlx_array plain = {NULL};
    *result = (mlx_array){NULL};
    zm_scope_begin(&scope, model->stream);
    zm_scope_keep(&scope, &plain, zm_contiguous(&scope, array)); /* row by row; mostly the array itself */
    zmlx_status status = zm_scope_end(&scope, error);
    if (!status && mlx_array_eval(plain)) status = zm_mlx_fail(error, "scales");
    if (!status) status = convert_plain(result, plain, narrow, model->pool, error);
    if (plain.ctx) mlx_array_free(plain);
    return status;
}

/* Scales and biases change their type together or not at all. */
static zmlx_status fit(zm_weight *weight, bool narrow, const zmlx_model *model, zmlx_error *error) {
    mlx_dtype from = narrow ? MLX_FLOAT32 : MLX_BFLOAT16;
    mlx_array scales = {NULL}, biases = {NULL};
    if (!zm_weight_is_quantized(weight) || !zm_is_set(weight->scales) || !zm_is_set(weight->biases)) return ZMLX_OK;
    if (mlx_array_dtype(weight->scales) != from || mlx_array_dtype(weight->biases) != from) return ZMLX_OK;
    zmlx_status status = convert(&scales, weight->scales, narrow, model, error);
    if (!status && scales.ctx) status = convert(&biases, weight->biases, narrow, model, error);
    if (!status && biases.ctx && (mlx_array_set(&weight->scales, scales) || mlx_array_set(&weight->biases, biases)))
        status = zm_mlx_fail(error, "scales");
    if (scales.ctx) mlx_array_free(scales);
    if (biases.ctx) mlx_array_free(biases);
    return status;
}

static bool is_linear(const zm_module *module) {
    return module->kind == ZM_MODULE_LINEAR || module->kind == ZM_MODULE_SWITCH_LINEAR ||
           module->kind == ZM_MODULE_MULTI_LINEAR;
}

static bool is_patched(const zm_module *module) {
    for (; module; module = module->parent)
        if (module->patch_state) return true;
    return false;
}

/* Not so a tied output projection, which shares the table's arrays. */
static bool owns(const zm_module *module, const mlx_array *slot) {
    for (int i = 0; i < module->n_parameters; i++)
        if (module->parameters[i].array == slot) return true;
    return false;
}

static void gather(mlx_array array) {
    zm_view view;
    if (zm_is_set(array) && zm_view_of(&view, array)) zm_gather_pages(view.data, mlx_array_nbytes(array));
}

static zmlx_status visit(zm_module *module, void *context, zmlx_error *error) {
    const zmlx_model *model = context;
    if (!is_linear(module)) return ZMLX_OK;
    zm_weight *weight = &((zm_linear *)module)->weight;
    bool narrow = owns(module, &weight->scales) ? is_patched(module) : module->patch_state != NULL;
    if (model->dtype == MLX_FLOAT32) ZM_TRY(fit(weight, narrow, model, error));
    if (!narrow) return zm_patch_drop_edges(module, NULL, error);
    if (!zm_is_set(weight->edges))
        ZM_TRY(zm_fused_edges(&weight->edges, &weight->first_exponent, weight, model->pool, error));
    mlx_array arrays[] = {weight->weight, weight->scales, weight->biases, weight->edges};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) gather(arrays[i]);
    return ZMLX_OK;
}

zmlx_status zm_patch_drop_edges(zm_module *module, void *context, zmlx_error *error) {
    (void)context;
    (void)error;
    if (!is_linear(module)) return ZMLX_OK;
    zm_weight *weight = &((zm_linear *)module)->weight;
    if (zm_is_set(weight->edges)) mlx_array_free(weight->edges);
    weight->edges = (mlx_array){NULL};
    return ZMLX_OK;
}

zmlx_status zm_patch_fit(zmlx_model *model, zmlx_error *error) {
    if (model->device != ZMLX_DEVICE_CPU) return ZMLX_OK;
    ZM_TRY(zm_module_visit(&model->root->base, visit, model, error));
    mlx_clear_cache();
    return ZMLX_OK;
}
