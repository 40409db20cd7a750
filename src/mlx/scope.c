/* SPDX-License-Identifier: MIT */
/* The scope itself: ownership and the sticky failure. */
#include "mlx/scope.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mlx/operation.h"

void zm_scope_begin(zm_scope *scope, mlx_stream stream) {
    scope->stream = stream;
    scope->arrays = NULL;
    scope->n_arrays = 0;
    scope->capacity = 0;
    zm_error_clear(&scope->failure);
}

zmlx_status zm_scope_end(zm_scope *scope, zmlx_error *error) {
    for (size_t i = 0; i < scope->n_arrays; i++) mlx_array_free(scope->arrays[i]);
    free(scope->arrays);
    scope->arrays = NULL;
    scope->n_arrays = 0;
    scope->capacity = 0;
    zmlx_status status = scope->failure.code;
    if (status && error) *error = scope->failure;
    return status;
}

void zm_scope_release(zm_scope *scope, size_t first, mlx_array kept) {
    size_t n_left = first;
    for (size_t i = first; i < scope->n_arrays; i++) {
        if (scope->arrays[i].ctx == kept.ctx) scope->arrays[n_left++] = kept;
        else mlx_array_free(scope->arrays[i]);
    }
    if (n_left < scope->n_arrays) scope->n_arrays = n_left;
}

bool zm_scope_failed(const zm_scope *scope) { return scope->failure.code != ZMLX_OK; }

bool zm_scope_is_on_cpu(const zm_scope *scope) {
    mlx_device device = {NULL};
    mlx_device_type type = MLX_CPU;
    bool known = !mlx_stream_get_device(&device, scope->stream) && !mlx_device_get_type(&type, device);
    mlx_device_free(device);
    return known && type == MLX_CPU;
}

mlx_array zm_scope_fail(zm_scope *scope, zmlx_status code, const char *where, const char *format, ...) {
    if (!zm_scope_failed(scope)) {
        char message[sizeof scope->failure.message];
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(message, sizeof message, format, arguments);
        va_end(arguments);
        zm_fail(&scope->failure, code, where, "%s", message);
    }
    return (mlx_array){NULL};
}

void zm_scope_keep(zm_scope *scope, mlx_array *kept, mlx_array array) {
    if (zm_scope_failed(scope)) return;
    if (mlx_array_set(kept, array)) zm_mlx_fail(&scope->failure, "keep");
}

mlx_array zm_scope_own(zm_scope *scope, mlx_array array) {
    if (!array.ctx) return array;
    if (scope->n_arrays == scope->capacity) {
        size_t capacity = scope->capacity ? 2 * scope->capacity : 64;
        mlx_array *arrays = realloc(scope->arrays, capacity * sizeof *arrays);
        if (!arrays) {
            mlx_array_free(array);
            zm_fail_memory(zm_scope_failed(scope) ? NULL : &scope->failure);
            return (mlx_array){NULL};
        }
        scope->arrays = arrays;
        scope->capacity = capacity;
    }
    scope->arrays[scope->n_arrays++] = array;
    return array;
}

mlx_array zm_scope_take(zm_scope *scope, const char *operation, int status, mlx_array result) {
    if (!status) return zm_scope_own(scope, result);
    mlx_array_free(result);
    if (!zm_scope_failed(scope)) zm_mlx_fail(&scope->failure, operation);
    return (mlx_array){NULL};
}

bool zm_is_set(mlx_array a) { return a.ctx != NULL; }

int zm_dim(mlx_array a, int axis) {
    if (!a.ctx) return 0;
    int n_dims = (int)mlx_array_ndim(a);
    if (axis < 0) axis += n_dims;
    return axis >= 0 && axis < n_dims ? mlx_array_shape(a)[axis] : 0;
}

const char *zm_dtype_name(mlx_dtype dtype) {
    switch (dtype) {
    case MLX_BOOL: return "bool";
    case MLX_UINT8: return "uint8";
    case MLX_UINT16: return "uint16";
    case MLX_UINT32: return "uint32";
    case MLX_UINT64: return "uint64";
    case MLX_INT8: return "int8";
    case MLX_INT16: return "int16";
    case MLX_INT32: return "int32";
    case MLX_INT64: return "int64";
    case MLX_FLOAT16: return "float16";
    case MLX_FLOAT32: return "float32";
    case MLX_FLOAT64: return "float64";
    case MLX_BFLOAT16: return "bfloat16";
    case MLX_COMPLEX64: return "complex64";
    }
    return "?";
}

zm_node_output zm_output_as(mlx_array a) {
    zm_node_output spec = {.n_dims = (int)mlx_array_ndim(a), .dtype = mlx_array_dtype(a)};
    if (spec.n_dims <= ZM_NODE_MAX_DIMS) memcpy(spec.shape, mlx_array_shape(a), (size_t)spec.n_dims * sizeof(int));
    return spec;
}

mlx_array zm_node(zm_scope *scope, const zm_node_output *spec, const zm_node_class *node_class, void *state,
                  const mlx_array *inputs, int n_inputs) {
    mlx_array result = {NULL};
    if (zm_scope_failed(scope)) {
        if (node_class->free_state) node_class->free_state(state);
        return result;
    }
    if (zm_node_apply(&result, spec, 1, node_class, state, inputs, n_inputs, scope->stream, &scope->failure))
        return result;
    return zm_scope_own(scope, result);
}

zmlx_status zm_mlx_version(char *version, size_t size, zmlx_error *error) {
    mlx_string text = mlx_string_new();
    zmlx_status status = mlx_version(&text) ? zm_mlx_fail(error, "version") : ZMLX_OK;
    snprintf(version, size, "%s", status ? "" : mlx_string_data(text));
    mlx_string_free(text);
    return status;
}
