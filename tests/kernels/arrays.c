/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "table.h"

bool table_is_float(zm_role role) { return role == ZM_ROLE_DATA || role == ZM_ROLE_PARAMETER || role == ZM_ROLE_STATE; }

static bool fail(table_run *run, const char *what) {
    snprintf(run->message, sizeof run->message, "%s", what);
    return false;
}

static double uniform(uint64_t stream, uint64_t i) { return (double)(zm_splitmix64(stream, i) >> 11) * 0x1p-53; }

static double draw_float(const table_run *run, int input, uint64_t i, size_t columns) {
    zm_role role = run->entry->signature.roles[input];
    double value = uniform((uint64_t)input + 1, i) * 6 - 3;
    if (role == ZM_ROLE_STATE) return uniform((uint64_t)input + 1, i);
    if (zm_role_is_parameter(role)) return value / 2 + (value < 0 ? -0.25 : 0.25);
    uint64_t choice = zm_splitmix64((uint64_t)input + 77, i) % 7;
    size_t row = columns ? i / columns : 0;
    /* The second row is infinite as a whole in the first input. Else second halves stay finite: a product of an
     * infinity and what nearly underflows has no definite value. */
    bool may_be = input == 0 && (columns < 2 || i % columns < columns / 2);
    if (run->shape.data == DATA_INFINITE && input == 0 && (row == 1 || (may_be && choice == 0))) return -INFINITY;
    if (run->shape.data == DATA_NAN && may_be && choice == 0 && row != 2) return NAN;
    if (run->shape.data == DATA_OFFSET) return value + 1e4;
    return choice == 1 ? value * 8 : value;
}

static double draw_whole(const table_run *run, int input, uint64_t i, size_t columns) {
    const zm_signature *signature = &run->entry->signature;
    uint64_t word = zm_splitmix64((uint64_t)input + 31, i);
    int64_t bound = 0;
    switch (signature->roles[input]) {
    case ZM_ROLE_INDEX:
        if (signature->bounds[input]) zm_sizes_evaluate(&bound, &run->sizes, signature->bounds[input]);
        if (run->shape.data == DATA_INFINITE && word % 5 == 0) return word % 2 ? -1 : (double)bound;
        return bound > 0 ? (double)(word % (uint64_t)bound) : 0;
    case ZM_ROLE_OFFSET:
        if (signature->bounds[input]) zm_sizes_evaluate(&bound, &run->sizes, signature->bounds[input]);
        if (run->shape.data == DATA_INFINITE && word % 5 == 0) return word % 2 ? -(double)bound : (double)bound;
        return bound > 0 ? (double)(word % (uint64_t)bound) * (word >> 40 & 1 ? 1 : -1) : 0;
    case ZM_ROLE_MASK:
        return run->shape.data == DATA_INFINITE && columns && i / columns == 2 ? 0 : (double)(word % 3 != 0);
    case ZM_ROLE_FLAG: return (double)(word % 2);
    case ZM_ROLE_WORD: return (double)(uint32_t)word;
    case ZM_ROLE_BYTE: /* no infinity or NaN of an 8-bit float among plain ones */
        return (double)(run->shape.data == DATA_PLAIN && (word & 0x7c) == 0x7c ? (word ^ 4) % 256 : word % 256);
    default: return (double)(word % 256);
    }
}

static mlx_dtype dtype_of(const table_run *run, int input) {
    switch (run->entry->signature.roles[input]) {
    case ZM_ROLE_DATA: return run->dtype;
    case ZM_ROLE_CONSTANT:
    case ZM_ROLE_PARAMETER: return run->wide_parameters ? MLX_FLOAT32 : run->dtype;
    case ZM_ROLE_STATE: return MLX_FLOAT32;
    case ZM_ROLE_OFFSET:
    case ZM_ROLE_INDEX: return run->shape.layout == LAYOUT_SLICED ? MLX_INT64 : MLX_INT32;
    case ZM_ROLE_MASK:
    case ZM_ROLE_FLAG: return MLX_BOOL;
    case ZM_ROLE_CODE: return run->shape.layout == LAYOUT_SLICED ? MLX_INT8 : MLX_UINT8;
    case ZM_ROLE_WORD: return MLX_UINT32;
    default: return MLX_UINT8;
    }
}

double *table_read(table_run *run, mlx_array array) {
    zm_scope scope;
    double *values = NULL;
    size_t size = mlx_array_size(array);
    bool is_word = mlx_array_dtype(array) == MLX_UINT32;
    zm_scope_begin(&scope, run->cpu);
    mlx_array packed = zm_contiguous(&scope, is_word ? array : zm_astype(&scope, array, MLX_FLOAT32));
    if (!zm_scope_failed(&scope) && !mlx_array_eval(packed) &&
        (values = zm_arena_alloc(run->arena, size + 1, sizeof *values))) {
        const float *floats = is_word || !size ? NULL : mlx_array_data_float32(packed);
        const uint32_t *words = is_word && size ? mlx_array_data_uint32(packed) : NULL;
        for (size_t i = 0; i < size; i++) values[i] = is_word ? (double)words[i] : (double)floats[i];
    } else {
        zmlx_error error;
        zm_mlx_fail(&error, "read");
        snprintf(run->message, sizeof run->message, "%.300s", error.message);
    }
    zm_scope_end(&scope, NULL);
    return values;
}

/* values as an array with another layout in memory: the last two dimensions swapped, or every other element of a longer
 * row from the second on. */
static mlx_array lay_out(zm_scope *scope, const float *values, const int *shape, int n_dims, table_layout layout) {
    mlx_array plain = zm_from_data(scope, values, shape, n_dims, MLX_FLOAT32);
    if (layout == LAYOUT_TRANSPOSED && n_dims >= 2)
        return zm_swapaxes(scope, zm_contiguous(scope, zm_swapaxes(scope, plain, -1, -2)), -1, -2);
    if (layout != LAYOUT_SLICED || n_dims < 1) return plain;
    int doubled[ZM_SIGNATURE_MAX_DIMS + 1];
    memcpy(doubled, shape, (size_t)n_dims * sizeof *doubled);
    doubled[n_dims] = 2;
    doubled[n_dims - 1] = shape[n_dims - 1];
    mlx_array pair[] = {zm_scalar(scope, 7, MLX_FLOAT32), plain};
    pair[0] = zm_broadcast_to(scope, pair[0], shape, n_dims);
    mlx_array both = zm_stack(scope, pair, 2, n_dims);
    doubled[n_dims - 1] = 2 * shape[n_dims - 1];
    mlx_array longer = zm_contiguous(scope, zm_reshape(scope, both, doubled, n_dims));
    return zm_slice_axis(scope, longer, -1, 1, 2147483647, 2);
}

static bool make_array(table_run *run, zm_oracle_input *input, mlx_array *array, const float *values, mlx_dtype dtype) {
    zm_scope scope;
    zm_scope_begin(&scope, run->cpu);
    mlx_array made = lay_out(&scope, values, input->shape, input->n_dims, run->shape.layout);
    /* Through int32, for a negative number is none of an unsigned type. */
    if (dtype == MLX_INT8)
        made = zm_view_as(&scope, zm_contiguous(&scope, zm_astype(&scope, made, MLX_UINT8)), MLX_INT8);
    mlx_array stored = zm_astype(&scope, made, dtype);
    zm_scope_keep(&scope, array, stored);
    zmlx_error error = {0};
    if (zm_scope_end(&scope, &error) || mlx_array_eval(*array)) {
        snprintf(run->message, sizeof run->message, "input: %.300s", error.message);
        return false;
    }
    input->values = table_read(run, *array);
    return input->values != NULL;
}

static bool make_input(table_run *run, int i) {
    const zm_signature *signature = &run->entry->signature;
    const zm_pattern *pattern = &signature->input_patterns[i];
    zm_oracle_input *input = &run->inputs[i];
    if (!zm_pattern_shape(input->shape, &input->n_dims, pattern, &run->sizes)) return fail(run, "sizes do not fit");
    bool is_scalar = run->shape.columns < 0 && pattern->has_rest && pattern->n_dims == 1;
    if (is_scalar) input->n_dims = 0;
    if (pattern->broadcasts) {
        memcpy(input->shape, run->inputs[0].shape, sizeof input->shape);
        input->n_dims = run->inputs[0].n_dims;
    }
    input->size = 1;
    for (int j = 0; j < input->n_dims; j++) input->size *= (size_t)input->shape[j];
    size_t columns = input->n_dims ? (size_t)input->shape[input->n_dims - 1] : 1;
    float *values = zm_arena_alloc(run->arena, input->size + 1, sizeof *values);
    if (!values) return fail(run, "out of memory");
    bool is_float = table_is_float(signature->roles[i]) || signature->roles[i] == ZM_ROLE_CONSTANT;
    for (size_t j = 0; j < input->size; j++)
        values[j] = (float)(is_float ? draw_float(run, i, j, columns) : draw_whole(run, i, j, columns));
    if (signature->roles[i] != ZM_ROLE_WORD) return make_array(run, input, &run->arrays[i], values, dtype_of(run, i));
    /* Whole words do not pass through float32. */
    uint32_t *words = zm_arena_alloc(run->arena, input->size + 1, sizeof *words);
    for (size_t j = 0; words && j < input->size; j++) words[j] = (uint32_t)draw_whole(run, i, j, columns);
    if (!words) return fail(run, "out of memory");
    run->arrays[i] = mlx_array_new_data(words, input->shape, input->n_dims, MLX_UINT32);
    input->values = table_read(run, run->arrays[i]);
    return input->values != NULL;
}

bool table_make_inputs(table_run *run) {
    for (int i = 0; i < run->entry->signature.n_inputs; i++)
        if (!run->absent[i] && !make_input(run, i)) return false;
    return true;
}

/* Of an output with floats. */
static mlx_dtype output_type(const table_run *run, const char *type) {
    const zm_signature *signature = &run->entry->signature;
    for (int i = 0; i < signature->n_numbers; i++)
        if (!strcmp(signature->numbers[i].name, type))
            return run->values[i].number == ZM_DTYPE_OF_DATA ? run->dtype : (mlx_dtype)run->values[i].number;
    return type[0] ? MLX_FLOAT32 : run->dtype;
}

bool table_make_cotangents(table_run *run) {
    for (int i = 0; i < run->entry->signature.n_outputs; i++) {
        const char *type = run->entry->signature.outputs[i].type;
        zm_oracle_input *cotangent = &run->cotangents[i];
        cotangent->n_dims = run->outputs[i].n_dims;
        cotangent->size = run->outputs[i].size;
        memcpy(cotangent->shape, run->outputs[i].shape, sizeof cotangent->shape);
        float *values = zm_arena_alloc(run->arena, cotangent->size + 1, sizeof *values);
        if (!values) return fail(run, "out of memory");
        for (size_t j = 0; j < cotangent->size; j++) values[j] = (float)(uniform(900 + (uint64_t)i, j) * 2 - 1);
        if (!strncmp(type, "uint", 4)) continue;
        if (!make_array(run, cotangent, &run->cotangent_arrays[i], values, output_type(run, type))) return false;
    }
    return true;
}

void table_free_arrays(table_run *run) {
    for (int i = 0; i < ZM_SIGNATURE_MAX_INPUTS; i++) mlx_array_free(run->arrays[i]);
    for (int i = 0; i < ZM_SIGNATURE_MAX_OUTPUTS; i++) mlx_array_free(run->cotangent_arrays[i]);
    memset(run->arrays, 0, sizeof run->arrays);
    memset(run->cotangent_arrays, 0, sizeof run->cotangent_arrays);
}
