/* SPDX-License-Identifier: MIT */
/* Forward mode: a tangent for each value between the given inputs and the outputs. */
#include "ir/grad.h"

typedef struct forward {
    zm_grad grad;
    zm_id *tangents; /* by value of the kernel; negative: zero */
    bool *reaches;   /* by value: it has influence on an output */
    int inputs[ZM_IR_MAX_INPUTS]; /* by input of the kernel: that of its tangent */
} forward;

static void mark_reaching(forward *mode) {
    const zm_ir *from = mode->grad.from;
    for (int i = 0; i < from->n_outputs; i++) mode->reaches[from->outputs[i].value] = true;
    for (int v = from->n_values - 1; v >= 0; v--)
        for (int i = 0; mode->reaches[v] && i < zm_ir_operand_count(from, v); i++)
            if (zm_grad_enters(&mode->grad, v, i)) mode->reaches[zm_ir_operand(from, v, i)] = true;
}

/* The sum of the operands' parts. A reduction's parts are summed over the row too. */
static zmlx_status add_parts(forward *mode, zm_id v, zmlx_error *error) {
    zm_grad *grad = &mode->grad;
    const zm_ir *from = grad->from;
    zm_id sum = -1;
    for (int i = 0; i < zm_ir_operand_count(from, v); i++) {
        if (!zm_grad_enters(grad, v, i)) continue;
        zm_id part;
        ZM_TRY(zm_grad_text(&part, grad, v, i, mode->tangents[zm_ir_operand(from, v, i)], error));
        sum = sum < 0 ? part : zm_ir_apply(grad->ir, ZM_OP_ADD, sum, part, -1);
    }
    bool reduction = zm_op_get(from->values[v].op)->rule == ZM_RULE_REDUCE;
    mode->tangents[v] = reduction ? zm_grad_sum_row(grad, sum) : sum;
    return ZMLX_OK;
}

static zmlx_status add_tangent(forward *mode, zm_id v, zmlx_error *error) {
    zm_grad *grad = &mode->grad;
    const zm_value *value = &grad->from->values[v];
    if (value->op == ZM_OP_LOAD) {
        mode->tangents[v] = zm_ir_load(grad->ir, mode->inputs[value->index]);
    } else if (value->op == ZM_OP_ROW_GATHER) {
        mode->tangents[v] = zm_ir_gather(grad->ir, mode->inputs[value->index], grad->map[value->operands[0]]);
    } else if (zm_op_get(value->op)->rule == ZM_RULE_SCAN) { /* linear */
        mode->tangents[v] = zm_ir_apply(grad->ir, value->op, mode->tangents[value->operands[0]], -1, -1);
    } else {
        return add_parts(mode, v, error);
    }
    return ZMLX_OK;
}

static zmlx_status build(zm_ir **tangent, forward *mode, const bool *given, zmlx_error *error) {
    zm_grad *grad = &mode->grad;
    const zm_ir *from = grad->from;
    mode->tangents = zm_arena_alloc(grad->ir->arena, (size_t)from->n_values, sizeof *mode->tangents);
    mode->reaches = zm_arena_alloc(grad->ir->arena, (size_t)from->n_values, sizeof *mode->reaches);
    if (!mode->tangents || !mode->reaches) return zm_fail_memory(error);
    for (int i = 0; i < from->n_inputs; i++)
        if (given[i]) mode->inputs[i] = zm_grad_add_input(grad, "t_", from->inputs[i].name, from->inputs[i].level);
    ZM_TRY(zm_grad_copy_values(grad, error));
    mark_reaching(mode);
    for (int v = 0; v < from->n_values; v++) {
        mode->tangents[v] = -1;
        if (grad->active[v] && mode->reaches[v]) ZM_TRY(add_tangent(mode, v, error));
    }
    for (int i = 0; i < from->n_outputs; i++) {
        const zm_output *output = &from->outputs[i];
        zm_grad_add_output(grad, "t_", output->name, mode->tangents[output->value], output->level);
    }
    return zm_grad_finish(tangent, grad, error);
}

zmlx_status zm_ir_jvp(zm_ir **tangent, const zm_ir *ir, const bool *given, zmlx_error *error) {
    *tangent = NULL;
    forward mode = {0};
    ZM_TRY(zm_grad_begin(&mode.grad, ir, "_jvp", given, error));
    zmlx_status status = build(tangent, &mode, given, error);
    zm_grad_end(&mode.grad);
    return status;
}
