/* SPDX-License-Identifier: MIT */
/* One walk over the values, operands first, gives each its simplest form in terms of simplest operands; no second
 * walk would find more. Then what no output needs goes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/passes.h"
#include "ir/rewrite.h"

/* The constant that an operation on constants gives, as a target with correct rounding would. */
static bool fold_constant(const zm_rewriter *rewriter, zm_op op, const zm_id operands[3], float *number) {
    const zm_op_info *info = zm_op_get(op);
    bool to_float = info->rule == ZM_RULE_FLOAT || op == ZM_OP_FROM_BOOL || op == ZM_OP_FROM_UINT;
    if (!to_float || zm_op_rounds_as_mlx(op)) return false;
    double numbers[3] = {0, 0, 0};
    for (int i = 0; i < info->arity; i++) {
        const zm_known *known = &rewriter->known[operands[i]];
        if (!known->is_known) return false;
        numbers[i] = known->number;
    }
    if (op == ZM_OP_FMA) /* one rounding, not two */
        *number = fmaf((float)numbers[0], (float)numbers[1], (float)numbers[2]);
    else
        *number = (float)zm_op_evaluate(op, numbers[0], numbers[1], numbers[2]);
    return true;
}

zm_id zm_rewrite_apply(zm_rewriter *rewriter, zm_op op, zm_id a, zm_id b, zm_id c) {
    if (rewriter->ir->failure.code) return -1;
    zm_value value = {.op = op, .operands = {a, b, c}};
    float number;
    if (fold_constant(rewriter, op, value.operands, &number)) {
        value = (zm_value){.op = ZM_OP_CONSTANT, .operands = {-1, -1, -1}, .number = number};
    } else {
        zm_id simpler = zm_rewrite_identity(rewriter, op, a, b, c);
        if (simpler >= 0 || rewriter->ir->failure.code) return simpler;
    }
    return zm_rewrite_value(rewriter, value);
}

/* The values that the marked ones need are marked too. */
static void mark_operands(bool *is_live, const zm_ir *ir) {
    for (zm_id id = ir->n_values - 1; id >= 0; id--) {
        if (!is_live[id]) continue;
        int count = zm_ir_operand_count(ir, id);
        for (int i = 0; i < count; i++) is_live[zm_ir_operand(ir, id, i)] = true;
    }
}

/* Leaves the marked values, in order; map receives their new numbers. */
static void keep_marked(zm_ir *ir, const bool *is_live, zm_id *map) {
    int n_values = 0, n_folds = 0;
    for (zm_id id = 0; id < ir->n_values; id++) {
        if (!is_live[id]) continue;
        zm_value value = ir->values[id];
        for (int i = 0; i < 3; i++)
            if (value.operands[i] >= 0) value.operands[i] = map[value.operands[i]];
        if (value.op == ZM_OP_FOLD) {
            zm_fold fold = ir->folds[value.index];
            fold.init = map[fold.init];
            for (int i = 0; i < fold.n_captures; i++) fold.captures[i] = map[fold.captures[i]];
            value.index = n_folds;
            ir->folds[n_folds++] = fold;
        }
        map[id] = n_values;
        ir->values[n_values++] = value;
    }
    ir->n_values = n_values;
    ir->n_folds = n_folds;
}

/* Values to keep: an output's or a region's result. */
typedef struct roots {
    zm_id ids[ZM_IR_MAX_OUTPUTS];
    int count;
} roots;

/* to receives what the roots need of from, simplified; the roots then are values of to. */
static zmlx_status rewrite(zm_ir *to, roots *kept, const zm_ir *from);

static zmlx_status simplify_region(zm_region *simplified, zm_ir *ir, const zm_region *region) {
    if (!region->n_values) {
        *simplified = *region;
        return ZMLX_OK;
    }
    const zm_ir body = {.values = region->values, .n_values = region->n_values};
    roots result = {{region->result}, 1};
    zm_ir *to = zm_ir_new("region");
    if (!to) return ZMLX_ERROR_MEMORY;
    zmlx_status status = rewrite(to, &result, &body);
    const zm_region built = {to->values, to->n_values, result.ids[0], region->n_arguments};
    if (!status && !zm_region_copy(simplified, ir->arena, &built)) status = ZMLX_ERROR_MEMORY;
    zm_ir_free(to);
    return status;
}

static zm_id rewrite_fold(zm_rewriter *rewriter, const zm_fold *fold, const zm_id *map) {
    zm_ir *ir = rewriter->ir;
    zm_fold simpler = {.init = map[fold->init], .n_captures = fold->n_captures};
    simpler.captures = zm_arena_alloc(ir->arena, (size_t)fold->n_captures, sizeof *simpler.captures);
    if (!simpler.captures || simplify_region(&simpler.update, ir, &fold->update) ||
        simplify_region(&simpler.combine, ir, &fold->combine)) {
        zm_ir_fail(ir, ZMLX_ERROR_MEMORY, NULL, "out of memory");
        return -1;
    }
    for (int i = 0; i < fold->n_captures; i++) simpler.captures[i] = map[fold->captures[i]];
    return zm_rewrite_fold(rewriter, &simpler);
}

/* Marked values of from; map receives their numbers in the new kernel. */
static void rewrite_values(zm_rewriter *rewriter, const zm_ir *from, const bool *is_live, zm_id *map) {
    for (zm_id id = 0; id < from->n_values && !rewriter->ir->failure.code; id++) {
        if (!is_live[id]) continue;
        zm_value value = from->values[id];
        for (int i = 0; i < 3; i++)
            if (value.operands[i] >= 0) value.operands[i] = map[value.operands[i]];
        zm_rule rule = zm_op_get(value.op)->rule;
        if (rule == ZM_RULE_FOLD)
            map[id] = rewrite_fold(rewriter, &from->folds[value.index], map);
        else if (rule == ZM_RULE_LEAF || rule == ZM_RULE_GATHER)
            map[id] = zm_rewrite_value(rewriter, value);
        else
            map[id] = zm_rewrite_apply(rewriter, value.op, value.operands[0], value.operands[1], value.operands[2]);
    }
}

static void mark_roots(bool *is_live, const roots *kept, const zm_ir *ir) {
    for (int i = 0; i < kept->count; i++) is_live[kept->ids[i]] = true;
    mark_operands(is_live, ir);
}

static zmlx_status rewrite(zm_ir *to, roots *kept, const zm_ir *from) {
    zm_rewriter rewriter;
    size_t count = (size_t)from->n_values;
    bool *is_live = calloc(count, sizeof *is_live), *is_left = NULL;
    zm_id *map = calloc(count, sizeof *map), *left = NULL;
    if (is_live && map && zm_rewriter_init(&rewriter, to)) {
        mark_roots(is_live, kept, from);
        rewrite_values(&rewriter, from, is_live, map);
        zm_rewriter_clear(&rewriter);
        is_left = calloc((size_t)to->n_values + 1, sizeof *is_left);
        left = calloc((size_t)to->n_values + 1, sizeof *left);
    }
    bool done = is_left && left && !to->failure.code;
    if (done) {
        for (int i = 0; i < kept->count; i++) kept->ids[i] = map[kept->ids[i]];
        mark_roots(is_left, kept, to);
        keep_marked(to, is_left, left);
        for (int i = 0; i < kept->count; i++) kept->ids[i] = left[kept->ids[i]];
    }
    free(is_live);
    free(is_left);
    free(map);
    free(left);
    if (!done) zm_ir_fail(to, ZMLX_ERROR_MEMORY, NULL, "out of memory");
    return to->failure.code;
}

zmlx_status zm_ir_simplify(zm_ir **simplified, const zm_ir *ir, zmlx_error *error) {
    *simplified = NULL;
    ZM_TRY(zm_ir_verify(ir, error));
    zm_ir *to = zm_ir_new_like(ir);
    if (!to) return zm_fail_memory(error);
    roots outputs = {.count = ir->n_outputs};
    for (int i = 0; i < ir->n_outputs; i++) outputs.ids[i] = ir->outputs[i].value;
    if (!rewrite(to, &outputs, ir))
        for (int i = 0; i < ir->n_outputs; i++)
            zm_ir_add_output(to, ir->outputs[i].name, outputs.ids[i], ir->outputs[i].level);
    if (to->failure.code) {
        if (error) *error = to->failure;
        zmlx_status status = to->failure.code;
        zm_ir_free(to);
        return status;
    }
    *simplified = to;
    return ZMLX_OK;
}
