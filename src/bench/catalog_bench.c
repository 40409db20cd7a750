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
    zm_sizes sizes;
    mlx_stream stream;
    bool is_absent[MAX_ARRAYS]; /* input, then cotangent, that was left out */
    size_t n_arrays;            /* the others */
    mlx_array state[MAX_ARRAYS]; /* of an optimizer alone: by input, what the last step made of it */
    zmlx_error failure;
} subject;

/* The arrays that there are at their places. */
static int take_arrays(mlx_array *arrays, const subject *self, const mlx_vector_array from) {
    size_t n_taken = 0;
    for (size_t i = 0; n_taken < self->n_arrays; i++)
        if (!self->is_absent[i] && mlx_vector_array_get(&arrays[i], from, n_taken++)) return 1;
    return 0;
}

typedef int forward_function(subject *self, mlx_array *outputs, const mlx_array *inputs);

static int forward_kernel(subject *self, mlx_array *outputs, const mlx_array *inputs) {
    const zmlx_catalog_entry *entry = &self->entry->entry;
    return zmlx_catalog_apply(entry->name, outputs, inputs, entry->n_inputs, self->values, self->stream,
                              &self->failure) != ZMLX_OK;
}

static int forward_host(subject *self, mlx_array *outputs, const mlx_array *inputs) {
    zm_scope scope;
    zm_scope_begin(&scope, self->stream);
    mlx_array made[MAX_ARRAYS] = {{NULL}}; /* the scope's */
    zm_host_graph(&scope, made, self->kernel, inputs, &self->numbers);
    for (size_t i = 0; i < self->entry->entry.n_outputs; i++) zm_scope_keep(&scope, &outputs[i], made[i]);
    return zm_scope_end(&scope, &self->failure) != ZMLX_OK;
}

static int evaluate(mlx_vector_array *results, const mlx_vector_array inputs, subject *self,
                    forward_function *forward) {
    mlx_array in[MAX_ARRAYS] = {{NULL}}, out[MAX_ARRAYS] = {{NULL}};
    int failed = take_arrays(in, self, inputs) || forward(self, out, in);
    if (!failed) failed = zm_sides_give(results, out, self->entry->entry.n_outputs);
    zm_sides_free(in, MAX_ARRAYS);
    zm_sides_free(out, MAX_ARRAYS);
    return failed;
}

/* The output that an optimizer's next step takes as input i: NAME_new for NAME; or -1. */
static int find_next(const zmlx_catalog_entry *entry, size_t i) {
    size_t size = strlen(entry->inputs[i].name);
    for (size_t j = 0; j < entry->n_outputs; j++)
        if (!strncmp(entry->outputs[j].name, entry->inputs[i].name, size) &&
            !strcmp(entry->outputs[j].name + size, "_new"))
            return (int)j;
    return -1;
}

/* A step goes on from the last one's results, which nobody else needs, so that it may work in place. */
static int evaluate_step(mlx_vector_array *results, const mlx_vector_array inputs, subject *self) {
    const zmlx_catalog_entry *entry = &self->entry->entry;
    mlx_array in[MAX_ARRAYS] = {{NULL}}, out[MAX_ARRAYS] = {{NULL}};
    int failed = take_arrays(in, self, inputs);
    for (size_t i = 0; i < entry->n_inputs && !failed; i++)
        if (self->state[i].ctx) failed = mlx_array_set(&in[i], self->state[i]);
    if (!failed) failed = forward_kernel(self, out, in);
    zm_sides_free(in, MAX_ARRAYS);
    for (size_t i = 0; i < entry->n_inputs && !failed; i++)
        if (find_next(entry, i) >= 0) failed = mlx_array_set(&self->state[i], out[find_next(entry, i)]);
    if (!failed) failed = zm_sides_give(results, out, entry->n_outputs);
    zm_sides_free(out, MAX_ARRAYS);
    return failed;
}

static bool is_float(mlx_array array) {
    if (!array.ctx) return false;
    mlx_dtype dtype = mlx_array_dtype(array);
    return dtype == MLX_FLOAT32 || dtype == MLX_FLOAT16 || dtype == MLX_BFLOAT16;
}

/* Inputs that are differentiated: floats but constants. */
static bool is_wanted(const subject *self, const mlx_array *inputs, size_t i) {
    return is_float(inputs[i]) && self->entry->signature.roles[i] != ZM_ROLE_CONSTANT;
}

/* The function of the wanted inputs that MLX differentiates. */
typedef struct partial {
    subject *self;
    forward_function *forward;
    const mlx_array *inputs;
} partial;

static int apply_partial(mlx_vector_array *results, const mlx_vector_array primals, void *context) {
    const partial *own = context;
    mlx_array in[MAX_ARRAYS] = {{NULL}}, out[MAX_ARRAYS] = {{NULL}};
    size_t n_primals = 0, n_floats = 0, n_outputs = own->self->entry->entry.n_outputs;
    int failed = 0;
    for (size_t i = 0; i < own->self->entry->entry.n_inputs && !failed; i++) {
        if (is_wanted(own->self, own->inputs, i)) failed = mlx_vector_array_get(&in[i], primals, n_primals++);
        else if (own->inputs[i].ctx) failed = mlx_array_set(&in[i], own->inputs[i]);
    }
    if (!failed) failed = own->forward(own->self, out, in);
    for (size_t i = 0; i < n_outputs && !failed; i++)
        if (is_float(out[i])) failed = mlx_array_set(&out[n_floats++], out[i]);
    if (!failed) failed = zm_sides_give(results, out, n_floats);
    zm_sides_free(in, MAX_ARRAYS);
    zm_sides_free(out, MAX_ARRAYS);
    return failed;
}

/* Results and gradients, as a step of training needs both. */
static int differentiate(mlx_vector_array *results, const mlx_vector_array inputs, subject *self,
                         forward_function *forward) {
    mlx_array in[MAX_ARRAYS] = {{NULL}}, wanted[MAX_ARRAYS], given[MAX_ARRAYS];
    size_t n_inputs = self->entry->entry.n_inputs, n_wanted = 0, n_given = 0;
    int failed = take_arrays(in, self, inputs);
    for (size_t i = 0; i < n_inputs; i++)
        if (is_wanted(self, in, i)) wanted[n_wanted++] = in[i];
    for (size_t i = n_inputs; i < MAX_ARRAYS; i++)
        if (in[i].ctx) given[n_given++] = in[i];
    partial own = {self, forward, in};
    mlx_vector_array primals = mlx_vector_array_new_data(wanted, n_wanted),
                     cotangents = mlx_vector_array_new_data(given, n_given), values = mlx_vector_array_new(),
                     gradients = mlx_vector_array_new();
    mlx_closure function = mlx_closure_new_func_payload(apply_partial, &own, NULL);
    if (!failed) failed = mlx_vjp(&values, &gradients, function, primals, cotangents);
    for (size_t i = 0; !failed && i < mlx_vector_array_size(gradients); i++) {
        mlx_array gradient = {NULL};
        failed = mlx_vector_array_get(&gradient, gradients, i) || mlx_vector_array_append_value(values, gradient);
        mlx_array_free(gradient);
    }
    if (!failed) failed = mlx_vector_array_set(results, values);
    mlx_closure_free(function);
    mlx_vector_array_free(primals);
    mlx_vector_array_free(cotangents);
    mlx_vector_array_free(values);
    mlx_vector_array_free(gradients);
    zm_sides_free(in, MAX_ARRAYS);
    return failed;
}

static int apply_kernel(mlx_vector_array *results, const mlx_vector_array inputs, void *context) {
    subject *self = context;
    if (self->bench->baseline == ZMLX_BENCH_NONE && !strcmp(self->entry->entry.family, "optimizers"))
        return evaluate_step(results, inputs, self);
    return (self->bench->gradient ? differentiate : evaluate)(results, inputs, self, forward_kernel);
}

static int apply_host(mlx_vector_array *results, const mlx_vector_array inputs, void *context) {
    subject *self = context;
    return (self->bench->gradient ? differentiate : evaluate)(results, inputs, self, forward_host);
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
static zmlx_status learn_sizes(subject *self, const int *shape, int n_dims, zmlx_error *error) {
    const zm_signature *signature = &self->entry->signature;
    zm_sizes *sizes = &self->sizes;
    ZM_TRY(zm_catalog_check_numbers(signature, self->values, sizes, self->entry->entry.name, error));
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

/* What broadcasts has the whole shape of the first input. */
static bool shape_of(int *own, int *n_own, const subject *self, int i) {
    const zm_pattern *first = self->entry->signature.input_patterns, *pattern = &first[i];
    return zm_pattern_shape(own, n_own, pattern->broadcasts ? first : pattern, &self->sizes);
}

/* Before any is made: whether all inputs can be, without the optional ones of composed kernels. */
static zmlx_status check_inputs(subject *self, zmlx_error *error) {
    const zm_signature *signature = &self->entry->signature;
    size_t n_sets = (size_t)zm_sides_sets(self->stream);
    double bytes = 0;
    for (int i = 0; i < signature->n_inputs; i++) {
        const char *name = signature->inputs[i].name;
        int own[ZM_SIGNATURE_MAX_DIMS], n_own;
        self->is_absent[i] = signature->inputs[i].is_optional && !self->entry->row->body;
        if (self->is_absent[i]) continue;
        if (!shape_of(own, &n_own, self, i))
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, self->entry->entry.name,
                           "%s: its shape does not follow from that of %s", name, signature->inputs[0].name);
        ZM_TRY(zm_sides_check_shape(&bytes, n_sets, name, own, n_own, type_of(self, signature->roles[i]),
                                    self->stream, error));
    }
    return ZMLX_OK;
}

static zmlx_status make_array(mlx_array *array, const subject *self, int i, zmlx_error *error) {
    const zm_signature *signature = &self->entry->signature;
    const char *name = self->entry->entry.name, *own_name = signature->inputs[i].name;
    int own[ZM_SIGNATURE_MAX_DIMS], n_own;
    shape_of(own, &n_own, self, i); /* checked */
    zm_role role = signature->roles[i];
    bool is_whole = role != ZM_ROLE_DATA && role != ZM_ROLE_STATE && !zm_role_is_parameter(role);
    int64_t bound = is_whole ? 2 : 0;
    if (signature->bounds[i] && !zm_sizes_evaluate(&bound, &self->sizes, signature->bounds[i]))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "%s: its bound does not follow from the shape of %s", own_name,
                       signature->inputs[0].name);
    return zm_sides_random(array, own, n_own, type_of(self, role), bound, (uint64_t)i, self->stream, error);
}

/* For each float that comes out. */
static zmlx_status make_cotangents(mlx_array *arrays, subject *self, const mlx_array *inputs, zmlx_error *error) {
    mlx_array outputs[MAX_ARRAYS] = {{NULL}};
    size_t n_inputs = self->entry->entry.n_inputs;
    zmlx_status status = forward_kernel(self, outputs, inputs) ? self->failure.code : ZMLX_OK;
    if (status && error) *error = self->failure;
    for (size_t i = 0; i < self->entry->entry.n_outputs && !status; i++) {
        self->is_absent[n_inputs + i] = !is_float(outputs[i]);
        if (is_float(outputs[i]))
            status = zm_sides_random(&arrays[self->n_arrays++], mlx_array_shape(outputs[i]),
                                     (int)mlx_array_ndim(outputs[i]), mlx_array_dtype(outputs[i]), 0, n_inputs + i,
                                     self->stream, error);
    }
    zm_sides_free(outputs, MAX_ARRAYS);
    return status;
}

/* Inputs; then, for a gradient, cotangents. */
static zmlx_status make_inputs(mlx_array *arrays, subject *self, zmlx_error *error) {
    mlx_array inputs[MAX_ARRAYS] = {{NULL}}; /* at their places */
    for (int i = 0; i < self->entry->signature.n_inputs; i++) {
        if (self->is_absent[i]) continue;
        ZM_TRY(make_array(&arrays[self->n_arrays], self, i, error));
        inputs[i] = arrays[self->n_arrays++];
    }
    return self->bench->gradient ? make_cotangents(arrays, self, inputs, error) : ZMLX_OK;
}

static zmlx_status prepare(subject *self, const char *name, zmlx_error *error) {
    self->entry = name && zmlx_catalog_find(name) ? zm_catalog_lookup(name) : NULL;
    if (!self->entry)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, name ? name : "name", "there is no kernel of this name");
    if (!self->entry->entry.n_inputs)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, name, "takes no arrays: there is nothing to time");
    bool is_alone = self->bench->baseline == ZMLX_BENCH_NONE;
    if (!self->entry->row->body && !is_alone)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, name,
                       "is composed of several kernels: there is nothing to compare it with");
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
    mlx_array inputs[ZM_CONTEST_SETS * MAX_ARRAYS] = {{NULL}};
    size_t n_arrays = 0;
    zm_error_clear(error);
    *comparison = (zmlx_comparison){0};
    ZM_TRY(prepare(&self, name, error));
    mlx_dtype dtype = type_of(&self, self.entry->signature.roles[0]);
    double bytes = 0;
    ZM_TRY(zm_sides_check_shape(&bytes, 1, "shape", shape, n_dims, dtype, stream, error));
    ZM_TRY(learn_sizes(&self, shape, n_dims, error));
    ZM_TRY(check_inputs(&self, error));
    zmlx_status status = ZMLX_OK;
    for (int set = 0; set < zm_sides_sets(stream) && !status; set++, n_arrays += self.n_arrays) {
        self.n_arrays = 0;
        status = make_inputs(inputs + n_arrays, &self, error);
    }
    if (!status)
        status = zm_sides_run(comparison, apply_host, apply_kernel, &self, self.bench->baseline, inputs, self.n_arrays,
                              stream, options, &self.failure, error);
    zm_sides_free(inputs, ZM_CONTEST_SETS * MAX_ARRAYS);
    zm_sides_free(self.state, MAX_ARRAYS);
    return status;
}
