/* SPDX-License-Identifier: MIT */
#include "zmlx/catalog_bench.h"

#include <string.h>

#include "bench/host_graph.h"
#include "bench/sides.h"
#include "kernels/compose.h"

enum { MAX_ARRAYS = ZM_SIGNATURE_MAX_INPUTS + ZM_SIGNATURE_MAX_OUTPUTS };

/* Both sides. Their inputs are those of the kernel, then, for a gradient, cotangents. */
typedef struct subject {
    const zm_kernel_entry *entry;
    zmlx_kernel *kernel;
    const zmlx_catalog_bench *bench;
    zmlx_catalog_value values[ZM_SIGNATURE_MAX_NUMBERS];
    zm_numbers numbers;
    mlx_stream stream;
    bool is_absent[MAX_ARRAYS]; /* input, then cotangent, that was left out */
    size_t n_arrays;            /* the others */
    zmlx_error failure;
} subject;

/* The arrays that there are at their places. */
static int take_arrays(mlx_array *arrays, const subject *self, const mlx_vector_array from) {
    size_t n_taken = 0;
    for (size_t i = 0; n_taken < self->n_arrays; i++)
        if (!self->is_absent[i] && mlx_vector_array_get(&arrays[i], from, n_taken++)) return 1;
    return 0;
}

static int apply_kernel(mlx_vector_array *results, const mlx_vector_array inputs, void *context) {
    subject *self = context;
    const zmlx_catalog_entry *entry = &self->entry->entry;
    mlx_array in[MAX_ARRAYS] = {{NULL}}, out[MAX_ARRAYS] = {{NULL}};
    bool gradient = self->bench->gradient;
    size_t n_out = gradient ? entry->n_inputs : entry->n_outputs;
    int failed = take_arrays(in, self, inputs);
    if (!failed && gradient)
        failed = zmlx_catalog_apply_gradient(entry->name, out, in, entry->n_inputs, in + entry->n_inputs, self->values,
                                             self->stream, &self->failure) != ZMLX_OK;
    else if (!failed)
        failed = zmlx_catalog_apply(entry->name, out, in, entry->n_inputs, self->values, self->stream, &self->failure) != ZMLX_OK;
    if (!failed) failed = zm_sides_give(results, out, n_out);
    zm_sides_free(in, MAX_ARRAYS);
    zm_sides_free(out, MAX_ARRAYS);
    return failed;
}

static int apply_host(mlx_vector_array *results, const mlx_vector_array inputs, void *context) {
    subject *self = context;
    mlx_array in[MAX_ARRAYS] = {{NULL}}, out[MAX_ARRAYS] = {{NULL}};
    size_t n_inputs = self->entry->entry.n_inputs;
    int failed = zm_sides_take(in, inputs, n_inputs);
    zm_scope scope;
    zm_scope_begin(&scope, self->stream);
    if (!failed) zm_host_graph(&scope, out, self->kernel, in, &self->numbers);
    if (!failed && !zm_scope_failed(&scope)) failed = zm_sides_give(results, out, self->entry->entry.n_outputs);
    failed |= zm_scope_end(&scope, &self->failure) != ZMLX_OK;
    zm_sides_free(in, n_inputs);
    return failed;
}

static int differentiate_host(mlx_vector_array *results, const mlx_vector_array inputs, void *context) {
    subject *self = context;
    size_t n_inputs = self->entry->entry.n_inputs, n_outputs = self->entry->entry.n_outputs;
    mlx_array in[MAX_ARRAYS] = {{NULL}};
    int failed = zm_sides_take(in, inputs, n_inputs + n_outputs);
    mlx_vector_array primals = mlx_vector_array_new_data(in, n_inputs), values = mlx_vector_array_new(),
                     cotangents = mlx_vector_array_new_data(in + n_inputs, n_outputs);
    mlx_closure function = mlx_closure_new_func_payload(apply_host, self, NULL);
    if (!failed) failed = mlx_vjp(&values, results, function, primals, cotangents);
    mlx_closure_free(function);
    mlx_vector_array_free(primals);
    mlx_vector_array_free(cotangents);
    mlx_vector_array_free(values);
    zm_sides_free(in, MAX_ARRAYS);
    return failed;
}

static mlx_dtype type_of(const subject *self, zm_role role) {
    switch (role) {
    case ZM_ROLE_DATA:
    case ZM_ROLE_CONSTANT:
    case ZM_ROLE_PARAMETER: return self->bench->has_dtype ? self->bench->dtype : MLX_FLOAT32;
    case ZM_ROLE_STATE: return MLX_FLOAT32;
    case ZM_ROLE_INDEX:
    case ZM_ROLE_WORD: return MLX_UINT32;
    default: return MLX_UINT8;
    }
}

/* Sizes from the shape of the first input. Leading dimensions that it does not tell are one, as long as its first. */
static zmlx_status learn_sizes(zm_sizes *sizes, const subject *self, const int *shape, int n_dims, zmlx_error *error) {
    const zm_signature *signature = &self->entry->signature;
    *sizes = (zm_sizes){0};
    for (int i = 0; i < signature->n_numbers; i++)
        if (signature->kinds[i] == ZM_NUMBER_INT || signature->kinds[i] == ZM_NUMBER_BOOL)
            zm_sizes_set(sizes, signature->numbers[i].name, (int64_t)self->values[i].number);
    ZM_TRY(zm_pattern_meet(sizes, &signature->input_patterns[0], shape, n_dims, self->entry->entry.name,
                           signature->inputs[0].name, error));
    if (!sizes->has_rest && n_dims) {
        sizes->has_rest = true;
        sizes->rest[sizes->n_rest++] = shape[0];
    }
    return ZMLX_OK;
}

static zmlx_status make_array(mlx_array *array, const subject *self, const zm_sizes *sizes, int i, zmlx_error *error) {
    const zm_signature *signature = &self->entry->signature;
    const char *name = self->entry->entry.name;
    bool is_input = i < signature->n_inputs;
    int place = is_input ? i : i - signature->n_inputs, own[ZM_SIGNATURE_MAX_DIMS], n_own;
    const zm_pattern *pattern = is_input ? &signature->input_patterns[place] : &signature->output_patterns[place];
    if (!zm_pattern_shape(own, &n_own, pattern, sizes))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "%s: its shape does not follow from that of %s",
                       is_input ? signature->inputs[place].name : signature->outputs[place].name, signature->inputs[0].name);
    zm_role role = is_input ? signature->roles[place] : ZM_ROLE_DATA;
    bool is_float = role == ZM_ROLE_DATA || role == ZM_ROLE_PARAMETER || role == ZM_ROLE_STATE || role == ZM_ROLE_CONSTANT;
    int64_t bound = is_float ? 0 : 2;
    if (is_input && signature->bounds[place] && !zm_sizes_evaluate(&bound, sizes, signature->bounds[place]))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "%s: its bound does not follow from the shape of %s",
                       signature->inputs[place].name, signature->inputs[0].name);
    return zm_sides_random(array, own, n_own, type_of(self, role), bound, (uint64_t)i, self->stream, error);
}

/* Inputs, then, for a gradient, cotangents; without the optional inputs of composed kernels. */
static zmlx_status make_inputs(mlx_array *inputs, subject *self, const int *shape, int n_dims, zmlx_error *error) {
    const zm_signature *signature = &self->entry->signature;
    zm_sizes sizes;
    ZM_TRY(learn_sizes(&sizes, self, shape, n_dims, error));
    int count = signature->n_inputs + (self->bench->gradient ? signature->n_outputs : 0);
    for (int i = 0; i < count; i++) {
        self->is_absent[i] = i < signature->n_inputs && signature->inputs[i].is_optional && !self->entry->row->body;
        if (!self->is_absent[i]) ZM_TRY(make_array(&inputs[self->n_arrays++], self, &sizes, i, error));
    }
    return ZMLX_OK;
}

static zmlx_status prepare(subject *self, const char *name, zmlx_error *error) {
    self->entry = name && zmlx_catalog_find(name) ? zm_catalog_lookup(name) : NULL;
    if (!self->entry) return zm_fail(error, ZMLX_ERROR_ARGUMENT, name ? name : "name", "there is no kernel of this name");
    bool is_alone = self->bench->baseline == ZMLX_BENCH_NONE;
    if (!self->entry->row->body && !is_alone)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, name, "is composed of several kernels: there is nothing to compare it with");
    if (self->bench->gradient && self->entry->row->no_gradient)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, name, "has no gradient: %s", self->entry->row->no_gradient);
    if (self->bench->values)
        memcpy(self->values, self->bench->values, self->entry->entry.n_numbers * sizeof *self->values);
    else
        zmlx_catalog_presets(self->values, &self->entry->entry);
    if (!self->entry->row->body) return ZMLX_OK;
    self->numbers = zm_catalog_numbers(self->entry, self->values);
    return zm_catalog_kernel(&self->kernel, self->entry, error);
}

zmlx_status zmlx_bench_catalog(zmlx_comparison *comparison, const char *name, const int *shape, int n_dims,
                               const zmlx_catalog_bench *bench, mlx_stream stream, const zmlx_bench_options *options,
                               zmlx_error *error) {
    static const zmlx_catalog_bench defaults;
    subject self = {.bench = bench ? bench : &defaults, .stream = stream};
    mlx_array inputs[MAX_ARRAYS] = {{NULL}};
    zm_error_clear(error);
    *comparison = (zmlx_comparison){0};
    ZM_TRY(prepare(&self, name, error));
    zmlx_status status = make_inputs(inputs, &self, shape, n_dims, error);
    if (!status)
        status = zm_sides_run(comparison, self.bench->gradient ? differentiate_host : apply_host, apply_kernel, &self,
                              self.bench->baseline, inputs, self.n_arrays, options, &self.failure, error);
    zm_sides_free(inputs, MAX_ARRAYS);
    return status;
}
