/* SPDX-License-Identifier: MIT */
#include "ir/lower_fold.h"

#include <math.h>
#include <string.h>

/* update as a kernel of its own, in which argument 0 is the accumulator and the others are the bindings. */
typedef struct fold_builder {
    zm_front *front;
    const zm_fold_text *text;
    zm_ir *update, *combine; /* combine NULL: none */
    zm_id init, update_result, combine_result;
    bool *depends;  /* by value of update: on the accumulator */
    zm_id *outer;   /* by value of update that does not: the value of the front's kernel */
    zm_ir *region;  /* update's values that depend on the accumulator */
    zm_id *inner;   /* by value of update: the value of region; negative where there is none so far */
    zm_id *captures;
    int n_captures;
} fold_builder;

static zmlx_status lower_init(fold_builder *builder) {
    const zm_fold_text *text = builder->text;
    zm_front *front = builder->front;
    ZM_TRY(zm_front_lower(&builder->init, front, front->ir, text->init.role, text->init.text, text->init_bindings,
                          text->n_init_bindings));
    if (front->ir->values[builder->init].level != ZM_LEVEL_ELEMENT) return ZMLX_OK;
    return zm_fail(front->error, ZMLX_ERROR_ARGUMENT, text->init.role,
                   "it differs by element; it has to be one value a row");
}

static zmlx_status lower_update(fold_builder *builder) {
    const zm_fold_text *text = builder->text;
    zm_front *front = builder->front;
    int n = text->n_update_bindings;
    zm_binding *bindings = zm_arena_alloc(front->arena, (size_t)n + 1, sizeof *bindings);
    builder->update = zm_ir_new_like(front->ir);
    if (!bindings || !builder->update) return zm_fail_memory(front->error);
    for (int i = 0; i < n; i++)
        bindings[i] = (zm_binding){text->update_bindings[i].name, zm_ir_argument(builder->update, i + 1)};
    bindings[n] = (zm_binding){text->accumulator, zm_ir_argument(builder->update, 0)};
    return zm_front_lower(&builder->update_result, front, builder->update, text->update.role, text->update.text,
                          bindings, n + 1);
}

static zmlx_status lower_combine(fold_builder *builder) {
    const zm_fold_text *text = builder->text;
    zm_front *front = builder->front;
    if (!text->combine.text) return ZMLX_OK;
    zm_ir *ir = builder->combine = zm_ir_new("combine");
    if (!ir) return zm_fail_memory(front->error);
    const zm_binding bindings[] = {{"a", zm_ir_argument(ir, 0)}, {"b", zm_ir_argument(ir, 1)}};
    return zm_front_lower(&builder->combine_result, front, ir, text->combine.role, text->combine.text, bindings,
                          2);
}

static bool is_pointwise(zm_op op) {
    zm_rule rule = zm_op_get(op)->rule;
    return rule >= ZM_RULE_FLOAT && rule <= ZM_RULE_CONVERT;
}

/* Which values depend on the accumulator; the others become values of the front's kernel. */
static zmlx_status split_update(fold_builder *builder) {
    zm_front *front = builder->front;
    const zm_ir *update = builder->update;
    size_t n = (size_t)update->n_values;
    builder->depends = zm_arena_alloc(front->arena, n, sizeof *builder->depends);
    builder->outer = zm_arena_alloc(front->arena, n, sizeof *builder->outer);
    if (!builder->depends || !builder->outer) return zm_fail_memory(front->error);
    for (int i = 0; i < update->n_values; i++) {
        const zm_value *value = &update->values[i];
        bool depends = value->op == ZM_OP_ARGUMENT && value->index == 0;
        for (int k = 0; k < zm_ir_operand_count(update, i); k++) depends |= builder->depends[value->operands[k]];
        if (depends && value->op != ZM_OP_ARGUMENT && !is_pointwise(value->op))
            return zm_fail(front->error, ZMLX_ERROR_ARGUMENT, builder->text->update.role,
                           "%s of what depends on %s: the row is not known yet", zm_op_get(value->op)->name,
                           builder->text->accumulator);
        builder->depends[i] = depends;
        builder->outer[i] = -1;
        if (depends) continue;
        builder->outer[i] = value->op == ZM_OP_ARGUMENT ? builder->text->update_bindings[value->index - 1].value
                                                        : zm_ir_copy_value(front->ir, update, i, builder->outer);
    }
    return zm_ir_status(front->ir, front->error);
}

static const struct {
    zm_op op, row_op;
    double neutral;
} row_operations[] = {
    {ZM_OP_ADD, ZM_OP_ROW_SUM, 0},
    {ZM_OP_MULTIPLY, ZM_OP_ROW_PROD, 1},
    {ZM_OP_MAX, ZM_OP_ROW_MAX, -INFINITY},
    {ZM_OP_MIN, ZM_OP_ROW_MIN, INFINITY},
};

/* If value is op of something that depends on the accumulator and something that does not: the former, and
 * what the latter amounts to in *term. Else -1. */
static zm_id match_step(zm_id *term, const fold_builder *builder, zm_op op, zm_id id) {
    zm_ir *ir = builder->front->ir;
    const zm_value *value = &builder->update->values[id];
    zm_id a = value->operands[0], b = value->operands[1], c = value->operands[2];
    const bool *depends = builder->depends;
    if (value->op == op && depends[a] != depends[b]) {
        *term = builder->outer[depends[a] ? b : a];
        return depends[a] ? a : b;
    }
    if (op != ZM_OP_ADD) return -1;
    if (value->op == ZM_OP_SUBTRACT && depends[a] && !depends[b]) {
        *term = zm_ir_apply(ir, ZM_OP_NEGATE, builder->outer[b], -1, -1);
        return a;
    }
    if (value->op == ZM_OP_FMA && !depends[a] && !depends[b]) {
        *term = zm_ir_apply(ir, ZM_OP_MULTIPLY, builder->outer[a], builder->outer[b], -1);
        return c;
    }
    return -1;
}

/* All that update joins to the accumulator by op, as one value; -1 if update does anything else. */
static zm_id match_update(const fold_builder *builder, zm_op op) {
    zm_id id = builder->update_result, all = -1, term = -1;
    while (builder->update->values[id].op != ZM_OP_ARGUMENT) {
        id = match_step(&term, builder, op, id);
        if (id < 0) return -1;
        all = all < 0 ? term : zm_ir_apply(builder->front->ir, op, term, all, -1);
    }
    return builder->depends[id] ? all : -1;
}

static bool combine_is(const fold_builder *builder, zm_op op) {
    if (!builder->combine) return true;
    const zm_ir *ir = builder->combine;
    const zm_value *value = &ir->values[builder->combine_result];
    if (value->op != op) return false;
    const zm_value *a = &ir->values[value->operands[0]], *b = &ir->values[value->operands[1]];
    return a->op == ZM_OP_ARGUMENT && b->op == ZM_OP_ARGUMENT && a->index != b->index;
}

/* The value of id in float64 if it depends on constants and the arguments only. */
static bool evaluate(double *result, zm_arena *arena, const zm_ir *ir, zm_id id, const double *arguments,
                     int n_arguments) {
    double *numbers = zm_arena_alloc(arena, (size_t)id + 1, sizeof *numbers);
    bool *known = zm_arena_alloc(arena, (size_t)id + 1, sizeof *known);
    if (!numbers || !known) return false;
    for (zm_id i = 0; i <= id; i++) {
        const zm_value *value = &ir->values[i];
        double operands[3] = {0, 0, 0};
        known[i] = is_pointwise(value->op) || value->op == ZM_OP_CONSTANT ||
                   (value->op == ZM_OP_ARGUMENT && value->index < n_arguments);
        for (int k = 0; known[i] && k < zm_op_get(value->op)->arity; k++) {
            known[i] = known[value->operands[k]];
            operands[k] = numbers[value->operands[k]];
        }
        if (!known[i]) continue;
        numbers[i] = value->op == ZM_OP_CONSTANT ? (double)value->number
                     : value->op == ZM_OP_ARGUMENT
                         ? arguments[value->index]
                         : zm_op_evaluate(value->op, operands[0], operands[1], operands[2]);
    }
    *result = numbers[id];
    return known[id];
}

/* combine's value; false where it depends on more than a and b. */
static bool merge(double *merged, const fold_builder *builder, double a, double b) {
    return evaluate(merged, builder->front->arena, builder->combine, builder->combine_result, (double[]){a, b}, 2);
}

static bool differ(double a, double b) {
    if (a == b || (isnan(a) && isnan(b))) return false;
    return !isfinite(a - b) || fabs(a - b) > 1e-9 * fmax(fabs(a), fabs(b));
}

/* Every part of a row starts from init, so its number of times must not matter: combine(init, q) is q for every q
 * that a part can end with, such as combine(init, p). Parts interleave, so their order must not matter either:
 * combine(q, r) is combine(r, q). */
static zmlx_status check_combine(const fold_builder *builder) {
    enum { N_PROBES = 5 };
    static const double probes[N_PROBES] = {-2.5, -0.125, 0.75, 3, 1000};
    const zm_front *front = builder->front;
    double init, ends[N_PROBES], twice, forth, back;
    if (!builder->combine || !evaluate(&init, front->arena, front->ir, builder->init, NULL, 0)) return ZMLX_OK;
    for (int i = 0; i < N_PROBES; i++) {
        if (!merge(&ends[i], builder, init, probes[i]) || !merge(&twice, builder, init, ends[i])) return ZMLX_OK;
        if (differ(ends[i], twice))
            return zm_fail(front->error, ZMLX_ERROR_ARGUMENT, builder->text->init.role,
                           "%g is not neutral for %s: with a = %g, b = %g it gives %g", init,
                           builder->text->combine.role, init, ends[i], twice);
    }
    for (int i = 1; i < N_PROBES; i++) {
        double a = ends[i - 1], b = ends[i];
        if (!merge(&forth, builder, a, b) || !merge(&back, builder, b, a)) return ZMLX_OK;
        if (isfinite(forth) && isfinite(back) && differ(forth, back))
            return zm_fail(front->error, ZMLX_ERROR_ARGUMENT, builder->text->combine.role,
                           "parts of a row come in any order: with a = %g, b = %g it gives %g, but %g with a and b "
                           "exchanged", a, b, forth, back);
    }
    return ZMLX_OK;
}

/* A row operation, if update and combine are one; init enters once. */
static bool find_row_operation(zm_id *result, const fold_builder *builder) {
    zm_front *front = builder->front;
    for (size_t i = 0; i < sizeof row_operations / sizeof *row_operations; i++) {
        zm_op op = row_operations[i].op;
        zm_id term = combine_is(builder, op) ? match_update(builder, op) : -1;
        if (term < 0) continue;
        double init;
        *result = zm_ir_apply(front->ir, row_operations[i].row_op, term, -1, -1);
        if (!evaluate(&init, front->arena, front->ir, builder->init, NULL, 0) || init != row_operations[i].neutral)
            *result = zm_ir_apply(front->ir, op, builder->init, *result, -1);
        return true;
    }
    return false;
}

static bool is_same_capture(const zm_ir *ir, zm_id a, zm_id b) {
    const zm_value *x = &ir->values[a], *y = &ir->values[b];
    return a == b || (x->op == ZM_OP_LOAD && y->op == ZM_OP_LOAD && x->index == y->index);
}

/* The argument of region that stands for a float of the front's kernel; -1 after a failure. */
static zm_id capture(fold_builder *builder, zm_id value) {
    zm_ir *ir = builder->front->ir;
    if (value < 0) return -1;
    for (int i = 0; i < builder->n_captures; i++)
        if (is_same_capture(ir, builder->captures[i], value)) return zm_ir_argument(builder->region, i + 1);
    if (builder->n_captures == ZM_IR_MAX_CAPTURES) {
        zm_ir_fail(ir, ZMLX_ERROR_UNSUPPORTED, builder->text->update.role, "more than %d values besides %s",
                   ZM_IR_MAX_CAPTURES, builder->text->accumulator);
        return -1;
    }
    builder->captures[builder->n_captures++] = value;
    return zm_ir_argument(builder->region, builder->n_captures);
}

/* What an independent value of update is in region: a constant, or captured as a float. */
static zm_id bring_in(fold_builder *builder, zm_id id) {
    zm_ir *ir = builder->front->ir, *region = builder->region;
    const zm_value *value = &builder->update->values[id];
    zm_id outer = builder->outer[id];
    if (value->op == ZM_OP_CONSTANT) return zm_ir_constant(region, value->number);
    if (value->type == ZM_TYPE_BOOL) {
        zm_id number = capture(builder, zm_ir_apply(ir, ZM_OP_FROM_BOOL, outer, -1, -1));
        return zm_ir_apply(region, ZM_OP_NOT_EQUAL, number, zm_ir_constant(region, 0), -1);
    }
    if (value->type == ZM_TYPE_UINT)
        return zm_ir_apply(region, ZM_OP_TO_UINT,
                           capture(builder, zm_ir_apply(ir, ZM_OP_FROM_UINT, outer, -1, -1)), -1, -1);
    return capture(builder, outer);
}

static zmlx_status build_region(fold_builder *builder) {
    const zm_ir *update = builder->update;
    zm_front *front = builder->front;
    size_t n = (size_t)update->n_values;
    bool *needed = zm_arena_alloc(front->arena, n, sizeof *needed);
    builder->inner = zm_arena_alloc(front->arena, n, sizeof *builder->inner);
    builder->captures = zm_arena_alloc(front->ir->arena, ZM_IR_MAX_CAPTURES, sizeof *builder->captures);
    builder->region = zm_ir_new("update");
    if (!needed || !builder->inner || !builder->captures || !builder->region) return zm_fail_memory(front->error);
    needed[builder->update_result] = true;
    for (zm_id i = update->n_values - 1; i >= 0; i--)
        for (int k = 0; needed[i] && builder->depends[i] && k < zm_ir_operand_count(update, i); k++)
            needed[update->values[i].operands[k]] = true;
    for (zm_id i = 0; i < update->n_values; i++) {
        if (!needed[i]) continue;
        builder->inner[i] = builder->depends[i] ? zm_ir_copy_value(builder->region, update, i, builder->inner)
                                                : bring_in(builder, i);
        ZM_TRY(zm_ir_status(front->ir, front->error));
        ZM_TRY(zm_ir_status(builder->region, front->error));
    }
    return ZMLX_OK;
}

/* Whether a region may hold the values of ir. */
static bool stands_alone(const zm_ir *ir) {
    for (int i = 0; i < ir->n_values; i++)
        if (!is_pointwise(ir->values[i].op) && ir->values[i].op != ZM_OP_CONSTANT &&
            ir->values[i].op != ZM_OP_ARGUMENT)
            return false;
    return true;
}

static zmlx_status build_fold(zm_id *result, fold_builder *builder) {
    zm_front *front = builder->front;
    ZM_TRY(build_region(builder));
    zm_fold fold = {.init = builder->init, .captures = builder->captures, .n_captures = builder->n_captures};
    const zm_ir *region = builder->region, *combine = builder->combine;
    const zm_region update_made = {region->values, region->n_values, builder->inner[builder->update_result],
                                   builder->n_captures + 1};
    bool copied = zm_region_copy(&fold.update, front->ir->arena, &update_made);
    if (combine && stands_alone(combine)) {
        const zm_region made = {combine->values, combine->n_values, builder->combine_result, 2};
        copied &= zm_region_copy(&fold.combine, front->ir->arena, &made);
    }
    if (!copied) return zm_fail_memory(front->error);
    *result = zm_ir_fold(front->ir, &fold);
    return zm_ir_status(front->ir, front->error);
}

static zmlx_status build(zm_id *result, fold_builder *builder) {
    ZM_TRY(lower_init(builder));
    ZM_TRY(lower_update(builder));
    ZM_TRY(lower_combine(builder));
    ZM_TRY(check_combine(builder));
    ZM_TRY(split_update(builder));
    if (!find_row_operation(result, builder)) return build_fold(result, builder);
    return zm_ir_status(builder->front->ir, builder->front->error);
}

zmlx_status zm_lower_fold(zm_id *result, zm_front *front, const zm_fold_text *text) {
    fold_builder builder = {.front = front, .text = text};
    zmlx_status status = build(result, &builder);
    zm_ir_free(builder.update);
    zm_ir_free(builder.combine);
    zm_ir_free(builder.region);
    return status;
}
