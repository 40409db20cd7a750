/* SPDX-License-Identifier: MIT */
/* Checks of a call, and its inputs in the form that kernels take. */
#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/limits.h"
#include "kernels/compose.h"

static atomic_bool checks_indices;

void zmlx_catalog_check_indices(bool check) { atomic_store(&checks_indices, check); }

static const char *const accepted[] = {
#define ZM_ROLE(enumerator, name, accepts) accepts,
#include "kernels/roles.def"
#undef ZM_ROLE
};

static bool is_float(mlx_dtype dtype) {
    return dtype == MLX_FLOAT32 || dtype == MLX_FLOAT16 || dtype == MLX_BFLOAT16;
}

static bool is_integer(mlx_dtype dtype) { return dtype >= MLX_UINT8 && dtype <= MLX_INT64; }

static bool fits_role(zm_role role, mlx_dtype dtype) {
    switch (role) {
    case ZM_ROLE_DATA:
    case ZM_ROLE_CONSTANT:
    case ZM_ROLE_PARAMETER: return is_float(dtype);
    case ZM_ROLE_STATE: return dtype == MLX_FLOAT32;
    case ZM_ROLE_OFFSET:
    case ZM_ROLE_INDEX: return is_integer(dtype);
    case ZM_ROLE_MASK: return dtype == MLX_BOOL || dtype == MLX_UINT8;
    case ZM_ROLE_CODE: return dtype == MLX_UINT8 || dtype == MLX_INT8;
    case ZM_ROLE_BYTE: return dtype == MLX_UINT8;
    case ZM_ROLE_WORD: return dtype == MLX_UINT32;
    case ZM_ROLE_FLAG: return dtype == MLX_BOOL || is_integer(dtype);
    case ZM_ROLE_COUNT: break;
    }
    return false;
}

static zmlx_status check_types(zm_catalog_call *call, const mlx_array *inputs, zmlx_error *error) {
    const zm_signature *signature = &call->entry->signature;
    const char *first = NULL;
    call->data_type = MLX_FLOAT32;
    for (int i = 0; i < signature->n_inputs; i++) {
        const zmlx_catalog_input *input = &signature->inputs[i];
        if (!inputs[i].ctx && input->is_optional) continue;
        if (!inputs[i].ctx)
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, call->where, "%s: is an empty handle", input->name);
        mlx_dtype dtype = mlx_array_dtype(inputs[i]);
        if (!fits_role(signature->roles[i], dtype))
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, call->where, "%s: expected %s, got %s", input->name,
                           accepted[signature->roles[i]], zm_dtype_name(dtype));
        if (signature->roles[i] != ZM_ROLE_DATA) continue;
        if (!first) {
            first = input->name;
            call->data_type = dtype;
        }
        if (dtype != call->data_type)
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, call->where, "%s: expected %s as %s, got %s", input->name,
                           zm_dtype_name(call->data_type), first, zm_dtype_name(dtype));
    }
    return ZMLX_OK;
}

static bool broadcasts_to(const mlx_array array, const int *shape, int n_dims) {
    int own = (int)mlx_array_ndim(array);
    if (own > n_dims) return false;
    for (int i = 0; i < own; i++) {
        int size = mlx_array_dim(array, i);
        if (size != 1 && size != shape[n_dims - own + i]) return false;
    }
    return true;
}

/* A parameter may have more dimensions than its pattern where they are 1: (C, KS, 1) and (C, 1, KS) are (C, KS). */
static bool drop_ones(int shape[ZM_NODE_MAX_DIMS], int *n_dims, const zm_pattern *pattern, zm_role role,
                      mlx_array input) {
    int extra = (int)mlx_array_ndim(input) - pattern->n_dims;
    *n_dims = 0;
    if (role != ZM_ROLE_PARAMETER || pattern->has_rest || !pattern->n_dims || extra <= 0) return false;
    for (int i = 0; i < pattern->n_dims + extra && *n_dims < ZM_NODE_MAX_DIMS; i++) {
        int size = mlx_array_dim(input, i), left = pattern->n_dims + extra - i;
        if (i && size == 1 && *n_dims + left > pattern->n_dims) continue;
        shape[(*n_dims)++] = size;
    }
    return *n_dims == pattern->n_dims;
}

/* Meets every shape with its pattern; those that broadcast come last. */
static zmlx_status check_shapes(zm_catalog_call *call, const mlx_array *inputs, zmlx_error *error) {
    const zm_signature *signature = &call->entry->signature;
    int first[ZM_NODE_MAX_DIMS], n_first = -1;
    for (int i = 0; i < signature->n_inputs; i++) {
        const zm_pattern *pattern = &signature->input_patterns[i];
        if (!inputs[i].ctx || pattern->broadcasts) continue;
        int n_dims = (int)mlx_array_ndim(inputs[i]);
        const int *shape = mlx_array_shape(inputs[i]);
        static const int one[] = {1};
        bool is_scalar = !n_dims && pattern->has_rest && pattern->n_dims == 1;
        if (n_dims > ZM_NODE_MAX_DIMS)
            return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, call->where, "%s: more than %d dimensions",
                           signature->inputs[i].name, ZM_NODE_MAX_DIMS);
        int fewer[ZM_NODE_MAX_DIMS], n_fewer;
        if (drop_ones(fewer, &n_fewer, pattern, signature->roles[i], inputs[i])) {
            shape = fewer;
            n_dims = n_fewer;
        }
        call->is_scalar |= is_scalar;
        ZM_TRY(zm_pattern_meet(&call->sizes, pattern, is_scalar ? one : shape, is_scalar ? 1 : n_dims, call->where,
                               signature->inputs[i].name, error));
        if (n_first >= 0) continue;
        n_first = n_dims;
        if (n_dims) memcpy(first, shape, (size_t)n_dims * sizeof *first);
    }
    for (int i = 0; i < signature->n_inputs; i++) {
        if (!inputs[i].ctx || !signature->input_patterns[i].broadcasts || broadcasts_to(inputs[i], first, n_first))
            continue;
        char want[128], got[128];
        zm_shape_describe(want, first, n_first);
        zm_shape_describe(got, mlx_array_shape(inputs[i]), (int)mlx_array_ndim(inputs[i]));
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, call->where, "%s: expected a shape that broadcasts to %s, got %s",
                       signature->inputs[i].name, want, got);
    }
    return ZMLX_OK;
}

static bool is_choice(const char *words, double value) {
    size_t length;
    return value == floor(value) && value >= 0 && value <= INT32_MAX && zm_choice_word(&length, words, (int)value);
}

zmlx_status zm_catalog_check_numbers(const zm_signature *signature, const zmlx_catalog_value *values,
                                     const zm_sizes *sizes, const char *where, zmlx_error *error) {
    for (int i = 0; i < signature->n_numbers; i++) {
        double value = values[i].number;
        const zmlx_catalog_number *number = &signature->numbers[i];
        bool fits = true;
        switch (signature->kinds[i]) {
        case ZM_NUMBER_SEED: continue;
        case ZM_NUMBER_DTYPE:
            fits = value == floor(value) && value >= 0 && value <= MLX_COMPLEX64;
            if (value == ZM_DTYPE_OF_DATA || (fits && is_float((mlx_dtype)value))) continue;
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, where, "%s: expected float32, float16 or bfloat16, got %s",
                           number->name, fits ? zm_dtype_name((mlx_dtype)value) : "none");
        case ZM_NUMBER_INT: fits = value == floor(value) && fabs(value) < 0x1p62; break;
        case ZM_NUMBER_BOOL: fits = value == 0 || value == 1; break;
        case ZM_NUMBER_CHOICE: fits = is_choice(number->range, value); break;
        case ZM_NUMBER_FLOAT: fits = isinf(value) || fabs(value) <= (double)FLT_MAX; break; /* as float32, of kernels */
        }
        if (fits && zm_number_in_range(signature, i, value, sizes)) continue;
        char size[40] = "", got[40];
        int64_t limit;
        snprintf(got, sizeof got, isnan(value) && !number->preset[0] ? "none (it has no preset)" : "%.9g", value);
        const char *name = signature->ranges[i].high_name;
        if (name && zm_sizes_find(&limit, sizes, name))
            snprintf(size, sizeof size, " (%.20s is %lld)", name, (long long)limit);
        if (signature->kinds[i] == ZM_NUMBER_FLOAT && isfinite(value) && !fits)
            snprintf(size, sizeof size, " of float32's range");
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, where, "%s: expected %s %s in %s%s, got %s", number->name,
                       strchr("aeiou", number->kind[0]) ? "an" : "a", number->kind,
                       number->range[0] ? number->range : "its range", size, got);
    }
    return ZMLX_OK;
}

static zmlx_status check_numbers(const zm_catalog_call *call, zmlx_error *error) {
    return zm_catalog_check_numbers(&call->entry->signature, call->values, &call->sizes, call->where, error);
}

static zmlx_status choose_types(zm_catalog_call *call, zmlx_error *error) {
    static const struct {
        const char *name;
        mlx_dtype dtype;
    } fixed[] = {{"float32", MLX_FLOAT32}, {"uint32", MLX_UINT32}, {"uint8", MLX_UINT8}};
    const zm_signature *signature = &call->entry->signature;
    for (int i = 0; i < signature->n_outputs; i++) {
        const char *type = signature->outputs[i].type;
        bool found = !type[0];
        call->output_types[i] = call->data_type;
        for (size_t j = 0; j < sizeof fixed / sizeof *fixed; j++)
            if (!strcmp(type, fixed[j].name)) {
                call->output_types[i] = fixed[j].dtype;
                found = true;
            }
        for (int j = 0; j < signature->n_numbers; j++)
            if (!strcmp(type, signature->numbers[j].name)) {
                if (call->values[j].number != ZM_DTYPE_OF_DATA)
                    call->output_types[i] = (mlx_dtype)call->values[j].number;
                found = true;
            }
        if (!found)
            return zm_fail(error, ZMLX_ERROR_FORMAT, call->where, "%s: unknown type %s", signature->outputs[i].name,
                           type);
    }
    return ZMLX_OK;
}

/* As uint32; what is negative or too large becomes 2^32 - 1, which is out of any range. */
static mlx_array normalise_index(zm_scope *scope, mlx_array index) {
    switch (mlx_array_dtype(index)) {
    case MLX_UINT32: return index;
    case MLX_INT32: return zm_view_as(scope, index, MLX_UINT32);
    case MLX_INT8:
    case MLX_INT16: return zm_view_as(scope, zm_astype(scope, index, MLX_INT32), MLX_UINT32);
    case MLX_INT64: {
        mlx_array most = zm_scalar(scope, 4294967295.0, MLX_INT64), zero = zm_scalar(scope, 0, MLX_INT64);
        mlx_array inside = zm_logical_and(scope, zm_greater_equal(scope, index, zero), zm_less(scope, index, most));
        return zm_astype(scope, zm_where(scope, inside, index, most), MLX_UINT32);
    }
    case MLX_UINT64:
        return zm_astype(scope, zm_minimum(scope, index, zm_scalar(scope, 4294967295.0, MLX_UINT64)), MLX_UINT32);
    default: return zm_astype(scope, index, MLX_UINT32);
    }
}

/* As int32 whose absolute value is one too, the ends of its range standing for what is beyond. */
static mlx_array normalise_offset(zm_scope *scope, mlx_array offset) {
    mlx_dtype dtype = mlx_array_dtype(offset);
    if (dtype == MLX_INT64 || dtype == MLX_INT32)
        offset = zm_maximum(scope, offset, zm_scalar(scope, -INT32_MAX, dtype));
    if (dtype == MLX_INT64 || dtype == MLX_UINT64 || dtype == MLX_UINT32)
        offset = zm_minimum(scope, offset, zm_scalar(scope, INT32_MAX, dtype));
    return zm_astype(scope, offset, MLX_INT32);
}

bool zm_parameters_are_float32(const zm_catalog_call *call) {
    const zm_signature *signature = &call->entry->signature;
    for (int i = 0; i < signature->n_inputs; i++)
        if (zm_role_is_parameter(signature->roles[i]) && call->inputs[i].ctx &&
            mlx_array_dtype(call->inputs[i]) != call->data_type)
            return true;
    return false;
}

static mlx_array prepare_input(zm_catalog_call *call, int i) {
    const zm_signature *signature = &call->entry->signature;
    const zm_pattern *pattern = &signature->input_patterns[i];
    mlx_array input = call->inputs[i];
    int fewer[ZM_NODE_MAX_DIMS], n_fewer;
    if (drop_ones(fewer, &n_fewer, pattern, signature->roles[i], input))
        input = zm_reshape(call->scope, input, fewer, n_fewer);
    if (pattern->is_flat && mlx_array_ndim(input) != 1) input = zm_flatten(call->scope, input, 0, -1);
    if (pattern->is_one && mlx_array_ndim(input)) input = zm_reshape(call->scope, input, NULL, 0);
    if (!mlx_array_ndim(input) && pattern->has_rest && pattern->n_dims == 1)
        input = zm_reshape(call->scope, input, (const int[]){1}, 1);
    switch (signature->roles[i]) {
    case ZM_ROLE_INDEX: return normalise_index(call->scope, input);
    case ZM_ROLE_OFFSET: return normalise_offset(call->scope, input);
    case ZM_ROLE_FLAG: return zm_astype(call->scope, input, MLX_BOOL);
    case ZM_ROLE_CODE:
        call->is_signed[i] = mlx_array_dtype(input) == MLX_INT8;
        return call->is_signed[i] ? zm_view_as(call->scope, input, MLX_UINT8) : input;
    default: return input;
    }
}

/* Reads the indices: the first that is out of range is an error; of an offset the absolute value counts. */
static zmlx_status check_index(const zm_catalog_call *call, int i, zmlx_error *error) {
    const char *bound = call->entry->signature.bounds[i];
    int64_t limit;
    if (!bound || !zm_sizes_evaluate(&limit, &call->sizes, bound)) return ZMLX_OK;
    mlx_array packed = zm_contiguous(call->scope, call->inputs[i]);
    if (zm_scope_failed(call->scope)) return ZMLX_OK; /* the scope tells */
    if (mlx_array_eval(packed)) return zm_mlx_fail(error, call->where);
    const uint32_t *values = mlx_array_data_uint32(packed);
    bool is_signed = call->entry->signature.roles[i] == ZM_ROLE_OFFSET;
    for (size_t j = 0; j < mlx_array_size(packed); j++) {
        uint32_t value = is_signed && values[j] > INT32_MAX ? 0 - values[j] : values[j];
        if (value >= limit)
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, call->where, "%s: element %zu is %s; %s is %lld",
                           call->entry->signature.inputs[i].name, j,
                           value > INT32_MAX ? "negative or too large" : "out of range", bound, (long long)limit);
    }
    return ZMLX_OK;
}

zmlx_status zm_call_check_memory(const zm_catalog_call *call, const char *what, double bytes, zmlx_error *error) {
    const uint64_t memory = zm_memory_bytes();
    if (!memory || bytes <= (double)memory || !zm_scope_is_on_cpu(call->scope)) return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_ARGUMENT, call->where, "%s: takes %.0f GB, and %.0f can be used", what,
                   1e-9 * bytes, 1e-9 * (double)memory);
}

/* Some sizes of results are numbers that no array bounds. */
static zmlx_status check_results(const zm_catalog_call *call, zmlx_error *error) {
    const zm_signature *signature = &call->entry->signature;
    for (int i = 0; i < signature->n_outputs; i++) {
        int shape[ZM_SIGNATURE_MAX_DIMS], n_dims;
        if (!zm_pattern_shape(shape, &n_dims, &signature->output_patterns[i], &call->sizes)) continue;
        mlx_dtype dtype = call->output_types[i];
        double bytes = dtype == MLX_UINT8 ? 1 : dtype == MLX_FLOAT16 || dtype == MLX_BFLOAT16 ? 2 : 4;
        for (int d = 0; d < n_dims; d++) bytes *= shape[d];
        ZM_TRY(zm_call_check_memory(call, signature->outputs[i].name, bytes, error));
    }
    return ZMLX_OK;
}

zmlx_status zm_call_prepare(zm_catalog_call *call, const zm_kernel_entry *entry, zm_scope *scope,
                            const mlx_array *inputs, const zmlx_catalog_value *values, zmlx_error *error) {
    const zm_signature *signature = &entry->signature;
    *call = (zm_catalog_call){.entry = entry, .scope = scope, .values = values};
    snprintf(call->where, sizeof call->where, "zmlx_%.70s", entry->entry.name);
    ZM_TRY(check_types(call, inputs, error));
    ZM_TRY(check_numbers(call, error)); /* but for limits that are sizes: shapes may be formulas of numbers */
    for (int i = 0; i < signature->n_numbers; i++)
        if (signature->kinds[i] == ZM_NUMBER_INT || signature->kinds[i] == ZM_NUMBER_BOOL)
            zm_sizes_set(&call->sizes, signature->numbers[i].name, (int64_t)values[i].number);
    ZM_TRY(check_shapes(call, inputs, error));
    ZM_TRY(check_numbers(call, error));
    ZM_TRY(choose_types(call, error));
    ZM_TRY(check_results(call, error));
    for (int i = 0; i < signature->n_inputs; i++) {
        call->inputs[i] = inputs[i];
        if (inputs[i].ctx) call->inputs[i] = prepare_input(call, i);
        bool is_index = signature->roles[i] == ZM_ROLE_INDEX || signature->roles[i] == ZM_ROLE_OFFSET;
        if (is_index && inputs[i].ctx && atomic_load(&checks_indices))
            ZM_TRY(check_index(call, i, error));
    }
    return ZMLX_OK;
}

int zm_call_size(const zm_catalog_call *call, const char *name) {
    int64_t value = 0;
    zm_sizes_find(&value, &call->sizes, name);
    return (int)value;
}
