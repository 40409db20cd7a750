/* SPDX-License-Identifier: MIT */
/* AdamW over many parameters: on the CPU and with CUDA nodes of several of them, since each output of a node of MLX
 * keeps all its inputs. */
#include "zmlx/optimizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/pages.h"
#include "kernels/cuda/list.h"
#include "kernels/optimizers/optimizers.h"
#include "kernels/row_function.h"
#include "runtime/cuda_text.h"
#include "runtime/shape.h"
#include "runtime/workers.h"

enum { P, G, M, V, N_INPUTS, N_OUTPUTS = 3, MOST = ZM_CUDA_LIST, PIECE = 1 << 16 };

typedef struct item {
    zm_c_kernel *function;
    int64_t size;
    size_t first_piece;
} item;

typedef struct group {
    zm_numbers numbers;
    item items[MOST];
    int count;
    size_t n_pieces, bytes;
    const zmlx_kernel *kernel;                 /* CUDA */
    zm_storage storages[N_INPUTS + N_OUTPUTS]; /* CUDA: of all parameters */
} group;

typedef struct run {
    const group *self;
    const zm_view *inputs, *outputs;
} run;

static void update_piece(const run *work, int i, int64_t first) {
    static const int32_t layouts[N_INPUTS] = {ZM_LAYOUT_COLUMN, ZM_LAYOUT_COLUMN, ZM_LAYOUT_COLUMN, ZM_LAYOUT_COLUMN};
    const item *own = &work->self->items[i];
    const void *in[N_INPUTS];
    void *out[N_OUTPUTS];
    bool streams = zm_row_streams(work->self->bytes);
    for (int j = 0; j < N_INPUTS; j++) in[j] = work->inputs[N_INPUTS * i + j].data;
    for (int j = 0; j < N_OUTPUTS; j++) {
        out[j] = work->outputs[N_OUTPUTS * i + j].data;
        for (int k = 0; k < N_INPUTS; k++) streams = streams && out[j] != in[k];
    }
    const zm_c_call call = {.inputs = in,
                            .outputs = out,
                            .layouts = layouts,
                            .rows = 1,
                            .columns = own->size,
                            .output_stride = own->size,
                            .parameters = work->self->numbers.parameters,
                            .stream_stores = streams};
    own->function(&call, 0, 1, first, first + PIECE < own->size ? first + PIECE : own->size);
}

static void update_pieces(void *context, size_t begin, size_t end) {
    const run *work = context;
    int i = 0;
    for (size_t piece = begin; piece < end; piece++) {
        while (i + 1 < work->self->count && work->self->items[i + 1].first_piece <= piece) i++;
        update_piece(work, i, (int64_t)(piece - work->self->items[i].first_piece) * PIECE);
    }
}

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs;
    const group *self = state;
    run work = {self, inputs, outputs};
    for (int i = 0; i < n_outputs; i++)
        zm_want_large_pages(outputs[i].data, outputs[i].size * zm_float_bytes(outputs[i].dtype));
    if (self->n_pieces) zm_pool_run(self->n_pieces > 1 ? zm_workers() : NULL, self->n_pieces, 1, update_pieces, &work);
}

static zmlx_status launch(const void *state, zm_gpu_launch *launch, const zm_view *inputs, int n_inputs,
                          const zm_view *outputs, int n_outputs, zmlx_error *error) {
    (void)n_inputs, (void)outputs, (void)n_outputs;
    const group *self = state;
    return zm_cuda_launch_list(launch, self->kernel, self->storages, self->numbers.parameters, inputs, error);
}

static const zm_node_class group_class = {
    .name = "zmlx.adamw_update", .evaluate_cpu = evaluate, .launch_gpu = launch, .free_state = free};

/* Of a parameter's inputs and outputs; g is in p's type or in float32. */
static void set_storages(zm_storage *storages, const zm_catalog_call *call, mlx_array g) {
    zm_storage p, of_g;
    zm_storage_from_dtype(&p, call->data_type);
    zm_storage_from_dtype(&of_g, mlx_array_dtype(g));
    const zm_storage state = ZM_STORAGE_FLOAT32, all[] = {p, of_g, state, state, p, state, state};
    memcpy(storages, all, sizeof all);
}

/* The kernel for the types of one parameter. */
static zmlx_status add_item(group *self, const zm_catalog_call *call, mlx_array g, zmlx_error *error) {
    zm_row_function function = {0};
    set_storages(self->storages, call, g);
    if (!self->kernel) ZM_TRY(zm_row_function_get(&function, "adamw_terms", self->storages, error));
    int64_t size = (int64_t)mlx_array_size(call->inputs[P]);
    self->items[self->count++] = (item){function.function, size, self->n_pieces};
    self->n_pieces += (size_t)((size + PIECE - 1) / PIECE);
    self->bytes += (size_t)size * N_OUTPUTS * sizeof(float);
    return ZMLX_OK;
}

/* Sets results[N_OUTPUTS * i + ...] of parameter i; calls: checked ones. */
static zmlx_status update_group(mlx_array *results, const zm_catalog_call *calls, int count,
                                const zmlx_catalog_value *numbers, zmlx_error *error) {
    zm_scope *scope = calls[0].scope;
    mlx_array inputs[MOST * N_INPUTS];
    zm_node_output specs[MOST * N_OUTPUTS];
    group *self = calloc(1, sizeof *self);
    if (!self) return zm_fail_memory(error);
    const zm_kernel_entry *terms = zm_catalog_lookup("adamw_terms");
    self->numbers = zm_catalog_numbers(terms, numbers);
    zmlx_kernel *kernel = NULL;
    zmlx_status status = zm_scope_is_on_cpu(scope) ? ZMLX_OK : zm_catalog_kernel(&kernel, terms, error);
    self->kernel = kernel;
    for (int i = 0; i < count && !status; i++) {
        mlx_array *own = inputs + N_INPUTS * i;
        memcpy(own, calls[i].inputs, N_INPUTS * sizeof *own);
        if (zm_parameters_are_float32(&calls[i])) own[G] = zm_astype(scope, own[G], MLX_FLOAT32);
        status = zm_scope_failed(scope) ? ZMLX_ERROR_MLX : add_item(self, &calls[i], own[G], error);
        static const int of_input[N_OUTPUTS] = {P, M, V};
        for (int j = 0; j < N_OUTPUTS; j++) {
            mlx_array from = own[of_input[j]];
            zm_node_output *spec = &specs[N_OUTPUTS * i + j];
            *spec = (zm_node_output){.n_dims = (int)mlx_array_ndim(from),
                                     .dtype = mlx_array_dtype(from),
                                     .replaces = N_INPUTS * i + of_input[j] + 1};
            memcpy(spec->shape, mlx_array_shape(from), (size_t)spec->n_dims * sizeof(int));
        }
    }
    if (status) {
        free(self);
        return status;
    }
    return zm_node_apply(results, specs, N_OUTPUTS * count, &group_class, self, inputs, N_INPUTS * count, scope->stream,
                         error);
}

/* Whether one launch does: of a full group of the same types. */
static bool is_one_launch(const zm_catalog_call *calls, int count) {
    if (!zm_scope_is_on_cuda(calls[0].scope) || count != MOST) return false;
    for (int i = 1; i < count; i++)
        if (calls[i].data_type != calls[0].data_type ||
            zm_parameters_are_float32(&calls[i]) != zm_parameters_are_float32(&calls[0]))
            return false;
    return true;
}

/* Elsewhere: one kernel each. */
static zmlx_status update_each(mlx_array *results, zm_catalog_call *calls, int count) {
    for (int i = 0; i < count; i++) {
        zm_compose_adamw_step(&calls[i]);
        for (int j = 0; j < N_OUTPUTS; j++)
            zm_scope_keep(calls[i].scope, &results[N_OUTPUTS * i + j], calls[i].outputs[j]);
    }
    return zm_scope_failed(calls[0].scope) ? ZMLX_ERROR_MLX : ZMLX_OK;
}

/* The results of parameters [first, first + count). */
static zmlx_status update_some(mlx_array *results, const zmlx_adamw_parameter *parameters, size_t first, int count,
                               const zmlx_catalog_value *values, mlx_stream stream, zmlx_error *error) {
    static const char *const where = "zmlx_adamw_update";
    const zm_kernel_entry *entry = zm_catalog_lookup("adamw_step");
    zmlx_catalog_value numbers[ZM_ADAMW_NUMBERS];
    zmlx_error own = {0};
    zm_scope scope;
    zmlx_status status = ZMLX_OK;
    zm_catalog_call *calls = malloc((size_t)count * sizeof *calls);
    if (!calls) return zm_fail_memory(error);
    zm_adamw_numbers(numbers, values);
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < count && !status; i++) {
        const zmlx_adamw_parameter *of = &parameters[first + (size_t)i];
        status =
            zm_call_prepare(&calls[i], entry, &scope, (const mlx_array[]){of->p, of->g, of->m, of->v}, values, &own);
        if (status) zm_fail(error, status, where, "parameter %zu: %s", first + (size_t)i, own.message);
    }
    if (!status)
        status = zm_scope_is_on_cpu(&scope) || is_one_launch(calls, count)
                     ? update_group(results, calls, count, numbers, error)
                     : update_each(results, calls, count);
    zmlx_status graph = zm_scope_end(&scope, error);
    free(calls);
    return graph ? graph : status;
}

static void take_over(mlx_array *place, mlx_array result) {
    mlx_array_free(*place);
    *place = result;
}

zmlx_status zmlx_adamw_update(zmlx_adamw_parameter *parameters, size_t count, const zmlx_adamw *how, mlx_stream stream,
                              zmlx_error *error) {
    zm_error_clear(error);
    if (count && (!parameters || !how))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "zmlx_adamw_update", "no parameters or no numbers");
    if (!count) return ZMLX_OK;
    const zmlx_catalog_value values[] = {{how->lr, 0},    {how->step, 0}, {how->beta1, 0},
                                         {how->beta2, 0}, {how->eps, 0},  {how->wd, 0}};
    mlx_array *results = calloc(count * N_OUTPUTS, sizeof *results);
    if (!results) return zm_fail_memory(error);
    zmlx_status status = ZMLX_OK;
    for (size_t first = 0; first < count && !status; first += MOST)
        status = update_some(results + N_OUTPUTS * first, parameters, first,
                             count - first < MOST ? (int)(count - first) : MOST, values, stream, error);
    for (size_t i = 0; i < count && !status; i++) {
        take_over(&parameters[i].p, results[N_OUTPUTS * i]);
        take_over(&parameters[i].m, results[N_OUTPUTS * i + 1]);
        take_over(&parameters[i].v, results[N_OUTPUTS * i + 2]);
    }
    for (size_t i = 0; i < count * N_OUTPUTS && status; i++) mlx_array_free(results[i]);
    free(results);
    return status;
}
