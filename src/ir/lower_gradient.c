/* SPDX-License-Identifier: MIT */
/* Gradients that the author gives. */
#include <string.h>

#include "ir/lower_front.h"
#include "ir/passes.h"

typedef struct gradient_builder {
    const zm_ir *forward;
    const char *const *gradients;
    const char *prelude, *header;
    bool use_output;
    zm_front front; /* its kernel has all inputs that the texts may use */
} gradient_builder;

static zmlx_status failure_of(const zm_ir *ir, zmlx_error *error) {
    if (ir->failure.code && error) *error = ir->failure;
    return ir->failure.code;
}

/* Inputs of the forward kernel, its outputs, and a cotangent of each; then its parameters. */
static zmlx_status add_names(gradient_builder *builder) {
    const zm_ir *forward = builder->forward;
    zm_front *front = &builder->front;
    for (int i = 0; i < forward->n_inputs; i++)
        zm_ir_add_input(front->ir, forward->inputs[i].name, forward->inputs[i].type, forward->inputs[i].level);
    for (int i = 0; builder->use_output && i < forward->n_outputs; i++)
        zm_ir_add_input(front->ir, forward->outputs[i].name, forward->values[forward->outputs[i].value].type,
                        forward->outputs[i].level);
    for (int i = 0; i < forward->n_outputs; i++) {
        const char *name = zm_arena_printf(front->arena, "cot_%s", forward->outputs[i].name);
        if (!name) return zm_fail_memory(front->error);
        zm_ir_add_input(front->ir, name, ZM_TYPE_FLOAT, forward->outputs[i].level);
    }
    for (int i = 0; i < forward->n_parameters; i++)
        zm_ir_add_parameter(front->ir, forward->parameters[i].name, forward->parameters[i].is_seed);
    return failure_of(front->ir, front->error);
}

static bool has_input(const zm_ir *ir, const char *name) {
    for (int i = 0; i < ir->n_inputs; i++)
        if (!strcmp(ir->inputs[i].name, name)) return true;
    return false;
}

/* g and y: the cotangent and value of the first output, unless inputs have these names. */
static int bind_short_names(zm_binding bindings[2], const gradient_builder *builder) {
    zm_ir *ir = builder->front.ir;
    int n = 0, n_inputs = builder->forward->n_inputs;
    int cotangent = ir->n_inputs - builder->forward->n_outputs;
    if (!has_input(ir, "g")) bindings[n++] = (zm_binding){"g", zm_ir_load(ir, cotangent)};
    if (builder->use_output && !has_input(ir, "y")) bindings[n++] = (zm_binding){"y", zm_ir_load(ir, n_inputs)};
    return n;
}

static zmlx_status lower_gradient(gradient_builder *builder, int i, const zm_binding *bindings, int n_bindings) {
    const zm_input *input = &builder->forward->inputs[i];
    zm_front *front = &builder->front;
    const char *name = zm_arena_printf(front->arena, "d_%s", input->name);
    const char *what = builder->forward->n_inputs == 1
                           ? "grad_expr"
                           : zm_arena_printf(front->arena, "gradient of %s", input->name);
    zm_id value;
    if (!name || !what) return zm_fail_memory(front->error);
    if (builder->gradients[i])
        ZM_TRY(zm_front_lower(&value, front, front->ir, what, builder->gradients[i], bindings, n_bindings));
    else
        value = zm_ir_constant(front->ir, 0);
    if (value >= 0 && front->ir->values[value].level > input->level)
        return zm_fail(front->error, ZMLX_ERROR_ARGUMENT, what,
                       "it differs by element, but %s is one a row: sum it", input->name);
    zm_ir_add_output(front->ir, name, value, input->level);
    return failure_of(front->ir, front->error);
}

static zmlx_status lower_gradients(gradient_builder *builder) {
    zm_front *front = &builder->front;
    zm_binding short_names[2], *locals;
    int n_short = bind_short_names(short_names, builder), n_locals;
    ZM_TRY(
        zm_front_lower_prelude(&locals, &n_locals, front, "grad_prelude", builder->prelude, short_names, n_short));
    size_t n = (size_t)(n_short + n_locals);
    zm_binding *bindings = zm_arena_alloc(front->arena, n, sizeof *bindings);
    if (!bindings) return zm_fail_memory(front->error);
    memcpy(bindings, short_names, (size_t)n_short * sizeof *bindings);
    if (n_locals) memcpy(bindings + n_short, locals, (size_t)n_locals * sizeof *bindings);
    for (int i = 0; i < builder->forward->n_inputs; i++) ZM_TRY(lower_gradient(builder, i, bindings, (int)n));
    return ZMLX_OK;
}

static zmlx_status build(gradient_builder *builder) {
    const char *name = builder->forward->name;
    ZM_TRY(zm_front_begin(&builder->front, NULL, builder->header, builder->front.error));
    char *full = zm_arena_printf(builder->front.ir->arena, "%s_gradient", name);
    if (!full) return zm_fail_memory(builder->front.error);
    builder->front.ir->name = full;
    ZM_TRY(add_names(builder));
    return lower_gradients(builder);
}

/* Marks what the values read; cotangents, the last n_kept inputs, stay in any case. */
static void mark_used_inputs(bool *used, const zm_ir *ir, int n_kept) {
    for (int i = 0; i < ir->n_inputs; i++) used[i] = i >= ir->n_inputs - n_kept;
    for (int i = 0; i < ir->n_values; i++)
        if (ir->values[i].op == ZM_OP_LOAD || ir->values[i].op == ZM_OP_ROW_GATHER)
            used[ir->values[i].index] = true;
}

/* A copy of from with the used inputs only. */
static zmlx_status drop_inputs(zm_ir *ir, const zm_ir *from, const bool *used, zmlx_error *error) {
    int numbers[ZM_IR_MAX_INPUTS];
    zm_id *map = zm_arena_alloc(ir->arena, (size_t)from->n_values, sizeof *map);
    if (!map) return zm_fail_memory(error);
    for (int i = 0; i < from->n_inputs; i++)
        if (used[i])
            numbers[i] = zm_ir_add_input(ir, from->inputs[i].name, from->inputs[i].type, from->inputs[i].level);
    for (int i = 0; i < from->n_parameters; i++)
        zm_ir_add_parameter(ir, from->parameters[i].name, from->parameters[i].is_seed);
    for (int i = 0; i < from->n_values; i++) {
        const zm_value *value = &from->values[i];
        if (value->op == ZM_OP_LOAD)
            map[i] = zm_ir_load(ir, numbers[value->index]);
        else if (value->op == ZM_OP_ROW_GATHER)
            map[i] = zm_ir_gather(ir, numbers[value->index], map[value->operands[0]]);
        else
            map[i] = zm_ir_copy_value(ir, from, i, map);
    }
    for (int i = 0; i < from->n_outputs; i++)
        zm_ir_add_output(ir, from->outputs[i].name, map[from->outputs[i].value], from->outputs[i].level);
    return failure_of(ir, error);
}

zmlx_status zm_lower_gradient(zm_ir **ir, const zm_ir *forward, const char *const *gradients, const char *prelude,
                              const char *header, bool use_output, zmlx_error *error) {
    gradient_builder builder = {.forward = forward,
                                .gradients = gradients,
                                .prelude = prelude,
                                .header = header,
                                .use_output = use_output,
                                .front = {.error = error}};
    zm_ir *full;
    bool used[ZM_IR_MAX_INPUTS];
    *ir = NULL;
    ZM_TRY(zm_front_end(&full, &builder.front, build(&builder)));
    mark_used_inputs(used, full, forward->n_outputs);
    zm_ir *reduced = zm_ir_new(full->name);
    zmlx_status status = reduced ? drop_inputs(reduced, full, used, error) : zm_fail_memory(error);
    zm_ir_free(full);
    if (!status) status = zm_ir_verify(reduced, error);
    if (status)
        zm_ir_free(reduced);
    else
        *ir = reduced;
    return status;
}
