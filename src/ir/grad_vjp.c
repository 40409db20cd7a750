/* SPDX-License-Identifier: MIT */
/* Reverse mode: from the outputs' cotangents back to the wanted inputs.
 *
 * The kernel is built twice where results may be used: from inputs alone, and with every output that the forward
 * kernel stores loaded instead of computed again. The second is taken if it reads fewer arrays of elements, or as many
 * with fewer reductions: arithmetic hides behind memory, and saved inputs need no space of their own. */
#include <string.h>

#include "ir/grad.h"

typedef struct reverse {
    zm_grad grad;
    zm_id *adjoints;     /* by value of the kernel; negative: none yet */
    zm_id *per_element;  /* of values of a row: what is still to be summed over it */
    zm_id gathered[ZM_IR_MAX_INPUTS]; /* by input: gradient through row_gather */
    zm_id loaded[ZM_IR_MAX_INPUTS];   /* and through loads */
    int cotangents[ZM_IR_MAX_OUTPUTS];
} reverse;

static void add_to(zm_ir *ir, zm_id *sum, zm_id part) {
    *sum = *sum < 0 ? part : zm_ir_apply(ir, ZM_OP_ADD, *sum, part, -1);
}

/* level: of what the contribution stands for; its own value may be constant over the row. */
static void contribute(reverse *mode, zm_id v, zm_id contribution, zm_level level) {
    bool summed = level > mode->grad.from->values[v].level;
    add_to(mode->grad.ir, summed ? &mode->per_element[v] : &mode->adjoints[v], contribution);
}

/* One element of each row: its column alone receives the cotangent, none where the index is out of range. */
static zmlx_status propagate_gather(reverse *mode, zm_id v, zmlx_error *error) {
    zm_grad *grad = &mode->grad;
    zm_ir *ir = grad->ir;
    const zm_value *value = &grad->from->values[v];
    if (value->level == ZM_LEVEL_ELEMENT) return zm_grad_refuse(grad, v, error);
    zm_id column = zm_ir_apply(ir, ZM_OP_COLUMN, -1, -1, -1);
    zm_id here = zm_ir_apply(ir, ZM_OP_EQUAL, column, grad->map[value->operands[0]], -1);
    zm_id part = zm_ir_apply(ir, ZM_OP_SELECT, here, mode->adjoints[v], zm_ir_constant(ir, 0));
    add_to(ir, &mode->gathered[value->index], part);
    return ZMLX_OK;
}

static zmlx_status propagate(reverse *mode, zm_id v, zmlx_error *error) {
    zm_grad *grad = &mode->grad;
    const zm_ir *from = grad->from;
    const zm_value *value = &from->values[v];
    if (mode->per_element[v] >= 0) add_to(grad->ir, &mode->adjoints[v], zm_grad_sum_row(grad, mode->per_element[v]));
    if (mode->adjoints[v] < 0) return ZMLX_OK;
    if (value->op == ZM_OP_LOAD) add_to(grad->ir, &mode->loaded[value->index], mode->adjoints[v]);
    if (value->op == ZM_OP_ROW_GATHER) return propagate_gather(mode, v, error);
    zm_rule rule = zm_op_get(value->op)->rule;
    zm_level level = rule == ZM_RULE_REDUCE || rule == ZM_RULE_SCAN ? ZM_LEVEL_ELEMENT : value->level;
    for (int i = 0; i < zm_ir_operand_count(from, v); i++) {
        if (!zm_grad_enters(grad, v, i)) continue;
        zm_id contribution;
        ZM_TRY(zm_grad_text(&contribution, grad, v, i, mode->adjoints[v], error));
        contribute(mode, zm_ir_operand(from, v, i), contribution, level);
    }
    return ZMLX_OK;
}

/* False for an output that is called like an input, a parameter or a cotangent. */
static bool has_own_name(const zm_ir *ir, const char *name) {
    bool own = true;
    for (int i = 0; i < ir->n_inputs; i++) own &= strcmp(ir->inputs[i].name, name) != 0;
    for (int i = 0; i < ir->n_parameters; i++) own &= strcmp(ir->parameters[i].name, name) != 0;
    for (int i = 0; i < ir->n_outputs && !strncmp(name, "cot_", 4); i++)
        own &= strcmp(ir->outputs[i].name, name + 4) != 0;
    return own;
}

/* Loads stand for the values that outputs hold. */
static void load_results(zm_grad *grad) {
    const zm_ir *from = grad->from;
    for (int i = 0; i < from->n_outputs; i++) {
        const zm_output *output = &from->outputs[i];
        const zm_value *value = &from->values[output->value];
        if (value->type != ZM_TYPE_FLOAT || value->level != output->level || value->op == ZM_OP_LOAD ||
            grad->map[output->value] >= 0 || !has_own_name(from, output->name))
            continue;
        int input = zm_grad_add_input(grad, "", output->name, output->level);
        grad->map[output->value] = zm_ir_load(grad->ir, input);
    }
}

static zmlx_status allocate(reverse *mode, zmlx_error *error) {
    const zm_ir *from = mode->grad.from;
    size_t n = (size_t)from->n_values;
    mode->adjoints = zm_arena_alloc(mode->grad.ir->arena, n, sizeof *mode->adjoints);
    mode->per_element = zm_arena_alloc(mode->grad.ir->arena, n, sizeof *mode->per_element);
    if (!mode->adjoints || !mode->per_element) return zm_fail_memory(error);
    for (size_t i = 0; i < n; i++) mode->adjoints[i] = mode->per_element[i] = -1;
    for (int i = 0; i < ZM_IR_MAX_INPUTS; i++) mode->gathered[i] = mode->loaded[i] = -1;
    return ZMLX_OK;
}

static zmlx_status differentiate(reverse *mode, const bool *wanted, zmlx_error *error) {
    zm_grad *grad = &mode->grad;
    const zm_ir *from = grad->from;
    ZM_TRY(allocate(mode, error));
    for (int i = 0; i < from->n_outputs; i++)
        mode->cotangents[i] = zm_grad_add_input(grad, "cot_", from->outputs[i].name, from->outputs[i].level);
    ZM_TRY(zm_grad_copy_values(grad, error));
    for (int i = 0; i < from->n_outputs; i++)
        if (grad->active[from->outputs[i].value])
            contribute(mode, from->outputs[i].value, zm_ir_load(grad->ir, mode->cotangents[i]),
                       from->outputs[i].level);
    for (int v = from->n_values - 1; v >= 0; v--)
        if (grad->active[v]) ZM_TRY(propagate(mode, v, error));
    for (int i = 0; i < from->n_inputs; i++) {
        if (!wanted[i]) continue;
        if (mode->gathered[i] >= 0) add_to(grad->ir, &mode->loaded[i], mode->gathered[i]);
        zm_grad_add_output(grad, "d_", from->inputs[i].name, mode->loaded[i], from->inputs[i].level);
    }
    return ZMLX_OK;
}

static zm_id copy_with_inputs(zm_ir *ir, const zm_ir *from, zm_id v, const zm_id *map, const int *inputs) {
    const zm_value *value = &from->values[v];
    if (value->op == ZM_OP_LOAD) return zm_ir_load(ir, inputs[value->index]);
    if (value->op == ZM_OP_ROW_GATHER) return zm_ir_gather(ir, inputs[value->index], map[value->operands[0]]);
    return zm_ir_copy_value(ir, from, v, map);
}

/* ir without the inputs that nothing reads, but with the last n_kept. */
static zmlx_status drop_inputs(zm_ir **dropped, const zm_ir *ir, int n_kept, zmlx_error *error) {
    zm_ir *copy = zm_ir_new(ir->name);
    zm_id *map = copy ? zm_arena_alloc(copy->arena, (size_t)ir->n_values, sizeof *map) : NULL;
    bool used[ZM_IR_MAX_INPUTS] = {false};
    int inputs[ZM_IR_MAX_INPUTS] = {0};
    for (int i = 0; i < ir->n_values; i++)
        if (ir->values[i].op == ZM_OP_LOAD || ir->values[i].op == ZM_OP_ROW_GATHER) used[ir->values[i].index] = true;
    if (map) {
        for (int i = 0; i < ir->n_inputs; i++)
            if (used[i] || i >= ir->n_inputs - n_kept)
                inputs[i] = zm_ir_add_input(copy, ir->inputs[i].name, ir->inputs[i].type, ir->inputs[i].level);
        for (int i = 0; i < ir->n_parameters; i++)
            zm_ir_add_parameter(copy, ir->parameters[i].name, ir->parameters[i].is_seed);
        for (int i = 0; i < ir->n_values; i++) map[i] = copy_with_inputs(copy, ir, i, map, inputs);
        for (int i = 0; i < ir->n_outputs; i++)
            zm_ir_add_output(copy, ir->outputs[i].name, map[ir->outputs[i].value], ir->outputs[i].level);
    }
    zmlx_status status = map ? copy->failure.code : zm_fail_memory(error);
    if (map && status && error) *error = copy->failure;
    if (status)
        zm_ir_free(copy);
    else
        *dropped = copy;
    return status;
}

static zmlx_status build(zm_ir **gradient, const zm_ir *ir, const bool *wanted, bool use_results,
                         zmlx_error *error) {
    reverse mode = {0};
    zm_ir *whole = NULL;
    ZM_TRY(zm_grad_begin(&mode.grad, ir, "_vjp", wanted, error));
    if (use_results) load_results(&mode.grad);
    zmlx_status status = differentiate(&mode, wanted, error);
    if (!status) status = zm_grad_finish(&whole, &mode.grad, error);
    if (!status) status = drop_inputs(gradient, whole, ir->n_outputs, error);
    zm_ir_free(whole);
    zm_grad_end(&mode.grad);
    return status;
}

/* Arrays of elements read, and row operations. */
static void count_costs(int costs[2], const zm_ir *ir) {
    costs[0] = costs[1] = 0;
    for (int i = 0; i < ir->n_inputs; i++) costs[0] += ir->inputs[i].level == ZM_LEVEL_ELEMENT;
    for (int i = 0; i < ir->n_values; i++) {
        zm_rule rule = zm_op_get(ir->values[i].op)->rule;
        costs[1] += rule == ZM_RULE_REDUCE || rule == ZM_RULE_SCAN || rule == ZM_RULE_FOLD;
    }
}

static bool is_cheaper(const zm_ir *a, const zm_ir *b) {
    int of_a[2], of_b[2];
    count_costs(of_a, a);
    count_costs(of_b, b);
    return of_a[0] != of_b[0] ? of_a[0] < of_b[0] : of_a[1] < of_b[1];
}

zmlx_status zm_ir_vjp(zm_ir **gradient, const zm_ir *ir, const bool *wanted, bool use_results, zmlx_error *error) {
    *gradient = NULL;
    ZM_TRY(build(gradient, ir, wanted, false, error));
    zm_ir *other = NULL;
    zmlx_error ignored; /* too many inputs: then there is no choice */
    if (!use_results || build(&other, ir, wanted, true, &ignored)) return ZMLX_OK;
    bool better = is_cheaper(other, *gradient);
    zm_ir_free(better ? *gradient : other);
    if (better) *gradient = other;
    return ZMLX_OK;
}
