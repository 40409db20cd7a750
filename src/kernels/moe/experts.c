/* SPDX-License-Identifier: MIT */
/* Products with packed experts: on the CPU nodes that read the matrices in place and, where gates are given, keep no
 * product of a token and an expert longer than some rows; elsewhere, and for derivatives, MLX's operations. */
#include "kernels/moe/experts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "fused/cpu/product.h"
#include "fused/operand.h"
#include "kernels/batch.h"
#include "runtime/workers.h"

enum { X, EXPERTS, GATE, N_ACTIVATIONS, WEIGHT = N_ACTIVATIONS, N_PARTS = 3, SLICE = 512, ROWS = 64, LONG = 512 };

typedef struct experts {
    zm_engine engine;
    zm_operand weight;
    zm_prepared prepared;
    zm_workspace workspace;
    size_t prepared_place, plain_place;
    size_t n_units, n_choices, n_rows; /* a unit: rows of x for each of its experts; one expert, or one row and gates */
    zm_quantization packed;
} experts;

typedef struct run {
    const experts *self;
    zm_matrix matrix;
    const float *prepared, *gate; /* gate NULL: products are not summed */
    const float *x, *plain;       /* not 0: a row with an infinity or NaN, which whole numbers do not carry */
    const uint32_t *chosen;
    float *y;
    size_t n_units; /* of this slice */
} run;

static zm_product product_of(const run *of, size_t unit, size_t choice) {
    const experts *self = of->self;
    return (zm_product){.matrix = &of->matrix,
                        .expert = of->chosen[unit * self->n_choices + choice],
                        .n_tokens = self->n_rows,
                        .prepared =
                            of->prepared + (unit * self->n_choices + choice) * self->n_rows * self->prepared.stride,
                        .prepared_stride = self->prepared.stride,
                        .limbs = self->prepared.order.limbs,
                        .y_stride = of->matrix.out_features};
}

static float number_at(const unsigned char *data, zm_storage storage, size_t i) {
    float value;
    uint16_t half;
    if (storage == ZM_STORAGE_FLOAT32) {
        memcpy(&value, data + 4 * i, sizeof value);
        return value;
    }
    memcpy(&half, data + 2 * i, sizeof half);
    return storage == ZM_STORAGE_FLOAT16 ? zm_float16_to_float(half) : zm_bfloat16_to_float(half);
}

/* Row `row` of an expert's matrix times x, by the formula. */
static float multiply_plainly(const zm_matrix *matrix, size_t expert, size_t row, const float *x) {
    const size_t at = expert * matrix->out_features + row, bytes = zm_matrix_row_bytes(matrix),
                 groups = zm_matrix_groups(matrix);
    const unsigned char *codes = matrix->weight + at * bytes;
    double sum = 0;
    for (size_t i = 0; i < matrix->in_features; i++) {
        size_t bit = i * (size_t)matrix->bits, group = at * groups + i / (size_t)matrix->group_size;
        unsigned word = codes[bit / 8] | (unsigned)(bit / 8 + 1 < bytes ? codes[bit / 8 + 1] : 0) << 8;
        float code = (float)(word >> bit % 8 & ((1u << matrix->bits) - 1));
        float weight = number_at(matrix->scales, matrix->storage, group) * code +
                       number_at(matrix->biases, matrix->storage, group);
        sum += (double)weight * (double)x[i];
    }
    return (float)sum;
}

/* The rows of a product, begun at y, of which a row of x is plain. */
static void mend(const run *of, const zm_product *product, size_t first_row_of_x, size_t row, size_t last) {
    for (size_t i = 0; i < product->n_tokens; i++) {
        const float *x = of->x + (first_row_of_x + i) * of->matrix.in_features;
        for (size_t r = row; of->plain[first_row_of_x + i] != 0 && r < last; r++)
            product->y[i * product->y_stride + r - row] = multiply_plainly(&of->matrix, product->expert, r, x);
    }
}

static void find_plain(float *plain, const float *x, size_t rows, size_t columns) {
    for (size_t row = 0; row < rows; row++) {
        uint32_t is_plain = 0;
        for (size_t i = 0; i < columns; i++)
            is_plain |= (zm_float_bits(x[row * columns + i]) & 0x7f800000u) == 0x7f800000u;
        plain[row] = (float)is_plain;
    }
}

/* Rows of one token's result: the sum over its experts. */
static void combine_rows(const run *of, size_t unit, size_t row, size_t last) {
    const experts *self = of->self;
    float sums[LONG] = {0}, own[LONG], *y = of->y + unit * of->matrix.out_features;
    for (size_t choice = 0; choice < self->n_choices; choice++) {
        zm_product product = product_of(of, unit, choice);
        float gate = product.expert < of->matrix.n_experts ? of->gate[unit * self->n_choices + choice] : NAN;
        product.y = own;
        if (product.expert < of->matrix.n_experts) {
            self->engine.level->multiply(&product, row, last);
            mend(of, &product, unit * self->n_choices + choice, row, last);
        } else {
            memset(own, 0, sizeof own);
        }
        for (size_t i = 0; i < last - row; i++) sums[i] += gate * own[i];
    }
    memcpy(y + row, sums, (last - row) * sizeof *y);
}

static void run_rows(void *context, size_t begin, size_t end) {
    const run *of = context;
    const experts *self = of->self;
    size_t row_end = zm_block_row(&of->matrix, self->n_rows, end), step = of->n_units == 1 ? LONG : ROWS;
    for (size_t row = zm_block_row(&of->matrix, self->n_rows, begin); row < row_end; row += step) {
        size_t last = row_end - row < step ? row_end : row + step;
        for (size_t unit = 0; unit < of->n_units; unit++) {
            if (of->gate) {
                combine_rows(of, unit, row, last);
                continue;
            }
            zm_product product = product_of(of, unit, 0);
            product.y = of->y + unit * self->n_rows * of->matrix.out_features + row;
            self->engine.level->multiply(&product, row, last);
            mend(of, &product, unit * self->n_rows, row, last);
        }
    }
}

/* Units at a time: bounds the scratch memory. */
static size_t slice_of(const experts *self) {
    size_t rows = self->n_choices * self->n_rows, most = rows && rows < SLICE ? SLICE / rows : 1;
    return self->n_units < most ? self->n_units : most;
}

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs, (void)n_outputs;
    const experts *self = state;
    bool is_combined = inputs[GATE].size > 0;
    size_t slice = slice_of(self), rows = self->n_choices * self->n_rows;
    zm_prepared prepared = self->prepared;
    if (!outputs[0].size) return;
    float *scratch = zm_workspace_open(&self->workspace);
    prepared.data = scratch + self->prepared_place;
    float *plain = scratch + self->plain_place;
    run of = {
        .self = self, .matrix = zm_operand_matrix(&self->weight, inputs), .prepared = prepared.data, .plain = plain};
    for (size_t unit = 0; unit < self->n_units; unit += slice) {
        of.n_units = self->n_units - unit < slice ? self->n_units - unit : slice;
        of.chosen = (const uint32_t *)inputs[EXPERTS].data + unit * self->n_choices;
        of.gate = is_combined ? (const float *)inputs[GATE].data + unit * self->n_choices : NULL;
        of.y = (float *)outputs[0].data + unit * (is_combined ? 1 : self->n_rows) * of.matrix.out_features;
        of.x = (const float *)inputs[X].data + unit * rows * of.matrix.in_features;
        find_plain(plain, of.x, of.n_units * rows, of.matrix.in_features);
        zm_prepare(self->engine, &prepared, of.x, of.n_units * rows);
        zm_pool_run(self->engine.pool, zm_row_blocks(&of.matrix, self->n_rows),
                    zm_row_grain(&of.matrix, self->n_rows, of.n_units * self->n_choices), run_rows, &of);
    }
    zm_workspace_close(&self->workspace);
}

/* (..., M, K) times the experts' matrices, each sum in float32. */
static mlx_array multiply_composed(zm_scope *scope, mlx_array x, const mlx_array *weight, mlx_array chosen,
                                   zm_quantization packed) {
    mlx_array parts[N_PARTS];
    for (int i = 0; i < N_PARTS; i++)
        parts[i] = zm_contiguous(scope, i ? zm_astype(scope, weight[i], MLX_FLOAT32) : weight[i]);
    return zm_gather_qmm(scope, x, parts[0], parts[1], parts[2], chosen, packed, false);
}

mlx_array zm_experts_combine_composed(zm_scope *scope, mlx_array act, const mlx_array *weight, mlx_array gate,
                                      mlx_array indices, zm_quantization packed) {
    mlx_array is_inside, chosen = zm_experts_clamp(scope, indices, zm_dim(weight[0], 0), &is_inside);
    mlx_array x = zm_expand_dims(scope, zm_experts_keep(scope, act, is_inside), -2);
    return zm_experts_sum(scope, multiply_composed(scope, x, weight, chosen, packed), is_inside, gate);
}

/* What derivatives are of: x and, with gates, those. */
typedef struct composed {
    const experts *self;
    const mlx_array *primals;
    mlx_stream stream;
} composed;

static int apply_composed(mlx_vector_array *results, const mlx_vector_array given, void *context) {
    const composed *of = context;
    mlx_array x = {NULL}, gate = {NULL}, y = {NULL};
    zm_scope scope;
    int failed = mlx_vector_array_get(&x, given, 0) || mlx_vector_array_get(&gate, given, 1);
    zm_scope_begin(&scope, of->stream);
    if (!failed) {
        mlx_array made = mlx_array_size(gate) ? zm_experts_combine_composed(&scope, x, of->primals + WEIGHT, gate,
                                                                            of->primals[EXPERTS], of->self->packed)
                                              : multiply_composed(&scope, x, of->primals + WEIGHT, of->primals[EXPERTS],
                                                                  of->self->packed);
        zm_scope_keep(&scope, &y, made);
    }
    failed |= zm_scope_end(&scope, NULL) != ZMLX_OK || mlx_vector_array_set_value(results, y);
    mlx_array_free(x);
    mlx_array_free(gate);
    mlx_array_free(y);
    return failed;
}

static zmlx_status refuse_weights(const int *argument_numbers, int n_arguments, zmlx_error *error) {
    for (int i = 0; i < n_arguments; i++)
        if (argument_numbers[i] >= WEIGHT)
            return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "experts",
                           "packed weights, their scales and biases have no gradient");
    return ZMLX_OK;
}

static zmlx_status vjp(const void *state, mlx_array *gradients, const int *argument_numbers, int n_arguments,
                       const mlx_array *primals, int n_primals, const mlx_array *cotangents, const mlx_array *results,
                       int n_results, mlx_stream stream, zmlx_error *error) {
    (void)n_primals, (void)results, (void)n_results;
    ZM_TRY(refuse_weights(argument_numbers, n_arguments, error));
    composed of = {state, primals, stream};
    mlx_vector_array at = mlx_vector_array_new_data((const mlx_array[]){primals[X], primals[GATE]}, 2);
    mlx_vector_array given = mlx_vector_array_new_value(cotangents[0]), values = mlx_vector_array_new(),
                     made = mlx_vector_array_new();
    mlx_closure function = mlx_closure_new_func_payload(apply_composed, &of, NULL);
    int failed = mlx_vjp(&values, &made, function, at, given);
    for (int i = 0; i < n_arguments && !failed; i++) {
        gradients[i] = (mlx_array){NULL};
        failed = argument_numbers[i] == EXPERTS
                     ? mlx_array_set(&gradients[i], primals[EXPERTS])
                     : mlx_vector_array_get(&gradients[i], made, argument_numbers[i] == GATE);
    }
    mlx_closure_free(function);
    mlx_vector_array_free(at);
    mlx_vector_array_free(given);
    mlx_vector_array_free(values);
    mlx_vector_array_free(made);
    return failed ? zm_mlx_fail(error, "experts") : ZMLX_OK;
}

static mlx_array apply(zm_scope *scope, const mlx_array *activations, const mlx_array *weight, zm_quantization packed);

/* It is linear in x and in the gates. */
static zmlx_status jvp(const void *state, mlx_array *result_tangents, int n_results, const int *argument_numbers,
                       int n_arguments, const mlx_array *primals, int n_primals, const mlx_array *tangents,
                       mlx_stream stream, zmlx_error *error) {
    (void)n_results, (void)n_primals;
    const experts *self = state;
    mlx_array sum = {NULL};
    ZM_TRY(refuse_weights(argument_numbers, n_arguments, error));
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < n_arguments; i++) {
        mlx_array activations[N_ACTIVATIONS] = {primals[X], primals[EXPERTS], primals[GATE]};
        if (argument_numbers[i] == EXPERTS || !mlx_array_size(tangents[i])) continue;
        activations[argument_numbers[i]] = tangents[i];
        mlx_array part = apply(&scope, activations, primals + WEIGHT, self->packed);
        sum = sum.ctx ? zm_add(&scope, sum, part) : part;
    }
    if (!sum.ctx) {
        mlx_array y = apply(&scope, primals, primals + WEIGHT, self->packed);
        if (!zm_scope_failed(&scope)) sum = zm_zeros(&scope, mlx_array_shape(y), (int)mlx_array_ndim(y), MLX_FLOAT32);
    }
    zm_scope_keep(&scope, &result_tangents[0], sum);
    return zm_scope_end(&scope, error);
}

/* Another leading dimension of the activations. */
static zmlx_status vmap(const void *state, mlx_array *results, int *result_axes, int n_results, const mlx_array *inputs,
                        const int *axes, int n_inputs, mlx_stream stream, zmlx_error *error) {
    (void)n_results;
    const experts *self = state;
    int batch = 0;
    mlx_array moved[N_ACTIVATIONS];
    for (int i = 0; i < n_inputs; i++) {
        if (axes[i] >= 0 && i >= WEIGHT)
            return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "experts", "a batch of packed weights");
        if (axes[i] >= 0) batch = mlx_array_dim(inputs[i], axes[i]);
    }
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < N_ACTIVATIONS; i++)
        moved[i] =
            mlx_array_size(inputs[i]) || i != GATE ? zm_batch_first(&scope, inputs[i], axes[i], batch) : inputs[i];
    zm_scope_keep(&scope, &results[0], apply(&scope, moved, inputs + WEIGHT, self->packed));
    result_axes[0] = 0;
    return zm_scope_end(&scope, error);
}

static const zm_node_class experts_class = {
    .name = "zmlx.experts", .evaluate_cpu = evaluate, .vjp = vjp, .jvp = jvp, .vmap = vmap, .free_state = free};

static zmlx_status set_up(experts *self, zm_inputs *inputs, const mlx_array *activations, const zm_weight *weight,
                          zmlx_error *error) {
    for (int i = 0; i < N_ACTIVATIONS; i++) zm_inputs_add(inputs, activations[i]);
    self->engine = zm_engine_new((zm_compute){.pool = zm_workers(), .precision = ZM_PRECISION_FLOAT32});
    ZM_TRY(zm_operand_new(&self->weight, inputs, weight, "experts", error));
    size_t n_chosen = mlx_array_size(activations[EXPERTS]);
    bool is_combined = mlx_array_size(activations[GATE]) > 0;
    self->n_choices = is_combined ? (size_t)zm_dim(activations[EXPERTS], -1) : 1;
    self->n_rows = n_chosen ? mlx_array_size(activations[X]) / (size_t)weight->in_features / n_chosen : 1;
    self->n_units = n_chosen / self->n_choices;
    self->prepared = zm_prepared_new(self->engine, &self->weight.matrix);
    size_t rows = slice_of(self) * self->n_choices * self->n_rows;
    self->prepared_place = zm_workspace_add(&self->workspace, rows, self->prepared.stride);
    self->plain_place = zm_workspace_add(&self->workspace, rows, 1);
    return zm_workspace_reserve(&self->workspace, self->engine.pool, error);
}

static zm_weight weight_of(const mlx_array *parts, zm_quantization packed) {
    int groups = zm_dim(parts[1], -1);
    return (zm_weight){.weight = parts[0],
                       .scales = parts[1],
                       .biases = parts[2],
                       .quantization = packed,
                       .in_features = groups * packed.group_size,
                       .out_features = zm_dim(parts[0], -2),
                       .n_experts = zm_dim(parts[0], 0)};
}

/* activations: x (..., M, K), experts (...), and an empty gate; or x (..., K', K), experts and gate (..., K'). */
static mlx_array apply(zm_scope *scope, const mlx_array *activations, const mlx_array *weight, zm_quantization packed) {
    zm_inputs inputs = {.count = 0};
    if (zm_scope_failed(scope)) return activations[X];
    if (mlx_array_ndim(activations[X]) > ZM_NODE_MAX_DIMS)
        return zm_scope_fail(scope, ZMLX_ERROR_UNSUPPORTED, "experts", "more than %d dimensions", ZM_NODE_MAX_DIMS);
    experts *self = calloc(1, sizeof *self);
    if (!self) return zm_scope_fail(scope, ZMLX_ERROR_MEMORY, "experts", "out of memory");
    zm_weight of = weight_of(weight, packed);
    self->packed = packed;
    if (set_up(self, &inputs, activations, &of, &scope->failure)) {
        free(self);
        return (mlx_array){NULL};
    }
    zm_node_output spec = zm_output_like(activations[X], (size_t)of.out_features);
    if (mlx_array_size(activations[GATE])) {
        spec.shape[spec.n_dims - 2] = of.out_features;
        spec.n_dims--;
    }
    return zm_node(scope, &spec, &experts_class, self, inputs.arrays, inputs.count);
}

static bool has_kernel(zm_scope *scope, const mlx_array *weight, zm_quantization packed) {
    const char *reason;
    if (zm_scope_failed(scope) || !zm_scope_is_on_cpu(scope) || !mlx_array_size(weight[0])) return false;
    zm_weight of = weight_of(weight, packed);
    return zm_fused_weight_supported(&of, &reason);
}

mlx_array zm_experts_multiply(zm_scope *scope, mlx_array x, const mlx_array *weight, mlx_array chosen,
                              zm_quantization packed) {
    if (!has_kernel(scope, weight, packed)) return multiply_composed(scope, x, weight, chosen, packed);
    mlx_array gate = zm_zeros(scope, (const int[]){0}, 1, MLX_FLOAT32);
    return apply(scope, (const mlx_array[]){zm_astype(scope, x, MLX_FLOAT32), chosen, gate}, weight, packed);
}

mlx_array zm_experts_combine(zm_scope *scope, mlx_array act, const mlx_array *weight, mlx_array gate, mlx_array indices,
                             zm_quantization packed) {
    gate = zm_astype(scope, gate, MLX_FLOAT32);
    if (!has_kernel(scope, weight, packed) || !mlx_array_size(gate))
        return zm_experts_combine_composed(scope, act, weight, gate, indices, packed);
    return apply(scope, (const mlx_array[]){zm_astype(scope, act, MLX_FLOAT32), indices, gate}, weight, packed);
}
