/* SPDX-License-Identifier: MIT */
#include "bench/host_graph.h"

#include <stdlib.h>

#include "ir/passes.h"
#include "mlx/operation.h"

typedef int unary_function(mlx_array *, const mlx_array, const mlx_stream);
typedef int binary_function(mlx_array *, const mlx_array, const mlx_array, const mlx_stream);
typedef int row_function(mlx_array *, const mlx_array, int, bool, const mlx_stream);

static int round_to_even(mlx_array *result, const mlx_array a, const mlx_stream stream) {
    return mlx_round(result, a, 0, stream);
}

static const struct {
    unary_function *unary;
    binary_function *binary;
    row_function *row;
} host_operations[ZM_OP_COUNT] = {
#define UNARY(op, name) [ZM_OP_##op] = {.unary = mlx_##name},
#define BINARY(op, name) [ZM_OP_##op] = {.binary = mlx_##name},
#define ROW(op, name) [ZM_OP_##op] = {.row = mlx_##name},
#include "bench/host_ops.def"
#undef UNARY
#undef BINARY
#undef ROW
    [ZM_OP_RINT] = {.unary = round_to_even},
};

typedef struct graph {
    zm_scope *scope;
    const zm_ir *ir;
    mlx_array *values; /* by value */
    const mlx_array *inputs;
    const zm_numbers *numbers;
    mlx_dtype dtype; /* of numbers */
} graph;

static mlx_array operand(const graph *self, const zm_value *value, int i) { return self->values[value->operands[i]]; }

static mlx_array call_listed(graph *self, const zm_value *value) {
    mlx_array result = {NULL};
    mlx_stream stream = self->scope->stream;
    int status;
    if (host_operations[value->op].unary)
        status = host_operations[value->op].unary(&result, operand(self, value, 0), stream);
    else if (host_operations[value->op].binary)
        status = host_operations[value->op].binary(&result, operand(self, value, 0), operand(self, value, 1), stream);
    else if (host_operations[value->op].row)
        status = host_operations[value->op].row(&result, operand(self, value, 0), -1, true, stream);
    else
        return zm_scope_fail(self->scope, ZMLX_ERROR_UNSUPPORTED, self->ir->name, "MLX has no operation for %s",
                             zm_op_get(value->op)->name);
    return zm_scope_take(self->scope, zm_op_get(value->op)->name, status, result);
}

/* That of the arrays that numbers meet: of the first floats. */
static mlx_dtype number_type(const zm_ir *ir, const mlx_array *inputs) {
    for (int i = 0; i < ir->n_inputs; i++)
        if (ir->inputs[i].type == ZM_TYPE_FLOAT) return mlx_array_dtype(inputs[i]);
    return MLX_FLOAT32;
}

static mlx_array scalar(const graph *self, double number) { return zm_scalar(self->scope, number, self->dtype); }

static mlx_array erf_of(const graph *self, mlx_array a) {
    mlx_array result = {NULL};
    int status = mlx_erf(&result, a, self->scope->stream);
    return zm_scope_take(self->scope, "erf", status, result);
}

/* One number a row meets the row's elements. */
static mlx_array load(const graph *self, int32_t i) {
    bool is_row = self->ir->inputs[i].level == ZM_LEVEL_ROW;
    return is_row ? zm_expand_dims(self->scope, self->inputs[i], -1) : self->inputs[i];
}

static mlx_array make(graph *self, const zm_value *value) {
    zm_scope *scope = self->scope;
    switch (value->op) {
    case ZM_OP_CONSTANT: return scalar(self, (double)value->number);
    case ZM_OP_PARAMETER: return scalar(self, (double)self->numbers->parameters[value->index]);
    case ZM_OP_COLUMN: return zm_arange(scope, 0, zm_dim(self->inputs[0], -1), 1, MLX_UINT32);
    case ZM_OP_COLUMNS: return scalar(self, zm_dim(self->inputs[0], -1));
    case ZM_OP_LOAD: return load(self, value->index);
    case ZM_OP_FMA:
        return zm_add(scope, zm_multiply(scope, operand(self, value, 0), operand(self, value, 1)),
                      operand(self, value, 2));
    case ZM_OP_SELECT:
        return zm_where(scope, operand(self, value, 0), operand(self, value, 1), operand(self, value, 2));
    case ZM_OP_FROM_BOOL:
    case ZM_OP_FROM_UINT: return zm_astype(scope, operand(self, value, 0), self->dtype);
    case ZM_OP_TO_UINT: return zm_astype(scope, operand(self, value, 0), MLX_UINT32);
    case ZM_OP_STORED: return operand(self, value, 0); /* as each of MLX's results is */
    case ZM_OP_MLX_SIGMOID:
    case ZM_OP_STORED_SIGMOID: return zm_sigmoid(scope, operand(self, value, 0));
    case ZM_OP_EXP2: return zm_power(scope, scalar(self, 2), operand(self, value, 0));
    case ZM_OP_EXP10: return zm_power(scope, scalar(self, 10), operand(self, value, 0));
    case ZM_OP_ERFC: return zm_subtract(scope, scalar(self, 1), erf_of(self, operand(self, value, 0)));
    case ZM_OP_ROW_CUMSUM: return zm_cumsum(scope, operand(self, value, 0), -1, false, true);
    case ZM_OP_ROW_CUMSUM_REVERSE: return zm_cumsum(scope, operand(self, value, 0), -1, true, true);
    default: return call_listed(self, value);
    }
}

static void build(graph *self, mlx_array *outputs) {
    const zm_ir *ir = self->ir;
    for (zm_id id = 0; id < ir->n_values && !zm_scope_failed(self->scope); id++)
        self->values[id] = make(self, &ir->values[id]);
    for (int i = 0; i < ir->n_outputs && !zm_scope_failed(self->scope); i++) {
        mlx_array value = self->values[ir->outputs[i].value];
        outputs[i] = ir->outputs[i].level == ZM_LEVEL_ROW ? zm_squeeze(self->scope, value, -1) : value;
    }
}

void zm_host_graph(zm_scope *scope, mlx_array *outputs, const zmlx_kernel *kernel, const mlx_array *inputs,
                   const zm_numbers *numbers) {
    if (zm_scope_failed(scope)) return;
    zm_ir *ir;
    if (zm_ir_legalize(&ir, kernel->forward, NULL, &scope->failure)) return;
    graph self = {.scope = scope,
                  .ir = ir,
                  .values = calloc((size_t)ir->n_values + 1, sizeof(mlx_array)),
                  .inputs = inputs,
                  .numbers = numbers,
                  .dtype = number_type(ir, inputs)};
    if (self.values)
        build(&self, outputs);
    else
        zm_fail_memory(&scope->failure);
    free(self.values);
    zm_ir_free(ir);
}
