/* SPDX-License-Identifier: MIT */
/* Reductions of a pass: each thread over its elements (few where rows are resident, so their sum needs no
 * compensation), then warps by exchange, then the warps of the row through shared memory, one barrier for all
 * reductions of a pass. The order depends on the number of columns only. A fold without combine goes from thread to
 * thread. */
#include "emit/gpu/row.h"

static const char *step_of(zm_op op) {
    switch (op) {
    case ZM_OP_ROW_SUM: return "zm_sum_step";
    case ZM_OP_ROW_PROD: return "zm_product_step";
    case ZM_OP_ROW_MAX: return "zm_max_step";
    case ZM_OP_ROW_MIN: return "zm_min_step";
    case ZM_OP_ROW_EXP_SUM: return "zm_exp_sum_step";
    default: return "zm_best_step";
    }
}

static const zm_fold *fold_of(const zm_gpu_body *body, zm_id id) {
    const zm_ir *ir = body->schedule->ir;
    return ir->values[id].op == ZM_OP_FOLD ? &ir->folds[ir->values[id].index] : NULL;
}

/* The type of an accumulator between lanes, where it is not that of the value. */
static const char *accumulator_type(const zm_value *value) {
    if (value->op == ZM_OP_ROW_ARGMAX) return "zm_best";
    return value->op == ZM_OP_ROW_EXP_SUM ? "zm_exp_sum" : zm_gpu_type(value->type);
}

/* The sum of exponentials in the pass that finds the largest on its way; -1: none does. */
static zm_id finder_of(const zm_gpu_body *body, const zm_pass *pass, zm_id id) {
    const zm_value *values = body->schedule->ir->values;
    for (int i = 0; i < pass->n_reductions && values[id].op == ZM_OP_ROW_MAX; i++)
        if (values[pass->reductions[i]].op == ZM_OP_ROW_EXP_SUM &&
            values[pass->reductions[i]].operands[0] == values[id].operands[0])
            return pass->reductions[i];
    return -1;
}

bool zm_gpu_is_ordered(const zm_ir *ir, zm_id reduction) {
    const zm_value *value = &ir->values[reduction];
    return value->op == ZM_OP_FOLD && !ir->folds[value->index].combine.n_values;
}

void zm_gpu_print_accumulators(zm_gpu_body *body, const zm_pass *pass) {
    zm_text *text = body->frame->text;
    const zm_ir *ir = body->schedule->ir;
    for (int i = 0; i < pass->n_reductions; i++) {
        zm_id id = pass->reductions[i];
        const zm_fold *fold = fold_of(body, id);
        if (finder_of(body, pass, id) >= 0) continue;
        body->slots[id] = body->next_slot;
        body->next_slot += ir->values[id].op == ZM_OP_ROW_ARGMAX || ir->values[id].op == ZM_OP_ROW_EXP_SUM ? 2 : 1;
        switch (ir->values[id].op) {
        case ZM_OP_ROW_SUM:
            zm_text_printf(text,
                           body->is_resident ? "        float r%d = 0.0f;\n" : "        zm_sum r%d = zm_no_sum();\n",
                           (int)id);
            break;
        case ZM_OP_ROW_ARGMAX: zm_text_printf(text, "        zm_best r%d = {0u, 0u};\n", (int)id); break;
        case ZM_OP_ROW_EXP_SUM:
            zm_text_printf(text, "        zm_exp_sum r%d = {-ZM_INFINITY, 0.0f};\n", (int)id);
            break;
        case ZM_OP_ROW_PROD: zm_text_printf(text, "        float r%d = 1.0f;\n", (int)id); break;
        case ZM_OP_ROW_MAX: zm_text_printf(text, "        float r%d = -ZM_INFINITY;\n", (int)id); break;
        case ZM_OP_ROW_MIN: zm_text_printf(text, "        float r%d = ZM_INFINITY;\n", (int)id); break;
        default:
            zm_text_printf(text, "        %s r%d = v%d;\n", zm_gpu_type(ir->values[fold->init].type), (int)id,
                           (int)fold->init);
        }
    }
}

/* Before the loops over the vector: its part of a sum, what an ordered fold will read. */
void zm_gpu_print_vector_parts(zm_gpu_body *body, const zm_pass *pass) {
    zm_text *text = body->frame->text;
    const zm_ir *ir = body->schedule->ir;
    for (int i = 0; i < pass->n_reductions; i++) {
        zm_id id = pass->reductions[i];
        if (ir->values[id].op == ZM_OP_ROW_SUM) zm_text_printf(text, "            float t%d = 0.0f;\n", (int)id);
        if (ir->values[id].op == ZM_OP_ROW_EXP_SUM) zm_text_printf(text, "            float t%d[V];\n", (int)id);
        if (!zm_gpu_is_ordered(ir, id)) continue;
        const zm_fold *fold = fold_of(body, id);
        for (int capture = 0; capture < fold->n_captures; capture++)
            zm_text_printf(text, "            %s a%d_%d[V];\n", zm_gpu_type(ir->values[fold->captures[capture]].type),
                           (int)id, capture);
    }
}

void zm_gpu_print_accumulate(zm_gpu_body *body, zm_id reduction) {
    zm_text *text = body->frame->text;
    const zm_ir *ir = body->schedule->ir;
    int id = reduction, operand = ir->values[reduction].operands[0];
    const zm_fold *fold = fold_of(body, reduction);
    if (zm_gpu_is_ordered(ir, reduction)) {
        for (int i = 0; i < fold->n_captures; i++)
            zm_text_printf(text, "                a%d_%d[j] = v%d;\n", id, i, (int)fold->captures[i]);
        return;
    }
    if (ir->values[reduction].op == ZM_OP_ROW_EXP_SUM) {
        zm_text_printf(text, "                t%d[j] = v%d;\n", id, operand);
        return;
    }
    if (finder_of(body, body->parts, reduction) >= 0) return;
    bool is_sum = ir->values[reduction].op == ZM_OP_ROW_SUM;
    zm_text_printf(text, "                %s%s%d = ", body->is_collective ? "if (at.exists) " : "", is_sum ? "t" : "r",
                   id);
    switch (ir->values[reduction].op) {
    case ZM_OP_ROW_SUM: zm_text_printf(text, "t%d + v%d", id, operand); break;
    case ZM_OP_ROW_PROD: zm_text_printf(text, "r%d * v%d", id, operand); break;
    case ZM_OP_ROW_MAX: zm_text_printf(text, "zm_max(r%d, v%d)", id, operand); break;
    case ZM_OP_ROW_MIN: zm_text_printf(text, "zm_min(r%d, v%d)", id, operand); break;
    case ZM_OP_FOLD:
        zm_text_printf(text, "zm_update%d(r%d", (int)ir->values[reduction].index, id);
        for (int i = 0; i < fold->n_captures; i++) zm_text_printf(text, ", v%d", (int)fold->captures[i]);
        zm_text_append_string(text, ")");
        break;
    default: zm_text_printf(text, "zm_best_step::apply(r%d, zm_candidate(v%d, zm_column(at, j)))", id, operand);
    }
    zm_text_append_string(text, ";\n");
}

/* All threads know the accumulator; every lane tries its elements, and that of the lane whose turn it is counts. */
static void print_ordered_step(zm_gpu_body *body, zm_id id) {
    zm_text *text = body->frame->text;
    const zm_ir *ir = body->schedule->ir;
    const zm_fold *fold = fold_of(body, id);
    const char *type = zm_gpu_type(ir->values[fold->init].type);
    zm_text_printf(text,
                   "            for (uint turn = 0; turn < group.warps; ++turn) {\n"
                   "                if (group.warp == turn) {\n"
                   "                    for (uint lane = 0; lane < 32u; ++lane) {\n"
                   "                        %s mine = r%d;\n"
                   "#pragma unroll\n"
                   "                        for (int j = 0; j < V; ++j)\n"
                   "                            if (at.exists) mine = zm_update%d(mine",
                   type, (int)id, (int)ir->values[id].index);
    for (int i = 0; i < fold->n_captures; i++) zm_text_printf(text, ", a%d_%d[j]", (int)id, i);
    zm_text_printf(text,
                   ");\n"
                   "                        r%d = zm_shuffle(mine, lane);\n"
                   "                    }\n"
                   "                }\n"
                   "                r%d = zm_hand_on(r%d, group, turn, shared + %d);\n"
                   "            }\n",
                   (int)id, (int)id, (int)id, body->slots[id] * ZM_GPU_SLOT);
}

void zm_gpu_print_vector_end(zm_gpu_body *body, const zm_pass *pass) {
    for (int i = 0; i < pass->n_reductions; i++) {
        zm_id id = pass->reductions[i];
        if (body->schedule->ir->values[id].op == ZM_OP_ROW_SUM)
            zm_text_printf(body->frame->text,
                           body->is_resident ? "            r%d += t%d;\n" : "            zm_add(r%d, t%d);\n", (int)id,
                           (int)id);
        else if (body->schedule->ir->values[id].op == ZM_OP_ROW_EXP_SUM)
            zm_text_printf(body->frame->text, "            %szm_add_exps<V>(r%d, t%d);\n",
                           body->is_collective ? "if (at.exists) " : "", (int)id, (int)id);
        else if (zm_gpu_is_ordered(body->schedule->ir, id))
            print_ordered_step(body, id);
    }
}

static void print_step(zm_text *text, const zm_gpu_body *body, zm_id id) {
    const zm_value *value = &body->schedule->ir->values[id];
    if (value->op == ZM_OP_FOLD)
        zm_text_printf(text, "<zm_fold%d>", (int)value->index);
    else
        zm_text_printf(text, "<%s>", step_of(value->op));
}

void zm_gpu_print_results(zm_gpu_body *body, const zm_pass *pass) {
    zm_text *text = body->frame->text;
    const zm_ir *ir = body->schedule->ir;
    int n_shared = 0;
    for (int i = 0; i < pass->n_reductions; i++) {
        zm_id id = pass->reductions[i];
        if (zm_gpu_is_ordered(ir, id) || finder_of(body, pass, id) >= 0) continue;
        n_shared++;
        zm_text_printf(text, "        const %s w%d = zm_reduce_warp",
                       accumulator_type(&ir->values[id]), (int)id);
        print_step(text, body, id);
        zm_text_printf(text, "(r%d%s, group, shared + %d);\n", (int)id,
                       ir->values[id].op == ZM_OP_ROW_SUM && !body->is_resident ? ".sum" : "",
                       body->slots[id] * ZM_GPU_SLOT);
    }
    if (n_shared) zm_text_append_string(text, "        if (group.warps > 1u) zm_barrier();\n");
    for (int i = 0; i < pass->n_reductions; i++) {
        zm_id id = pass->reductions[i];
        if (ir->values[id].op != ZM_OP_ROW_EXP_SUM) continue;
        zm_text_printf(text, "        const zm_exp_sum u%d = zm_reduce_row", (int)id);
        print_step(text, body, id);
        zm_text_printf(text, "(w%d, group, shared + %d);\n", (int)id, body->slots[id] * ZM_GPU_SLOT);
    }
    for (int i = 0; i < pass->n_reductions; i++) {
        zm_id id = pass->reductions[i], finder = finder_of(body, pass, id);
        zm_text_printf(text, "        const %s v%d = ", zm_gpu_type(ir->values[id].type), (int)id);
        if (zm_gpu_is_ordered(ir, id)) {
            zm_text_printf(text, "r%d;\n", (int)id);
        } else if (finder >= 0) {
            zm_text_printf(text, "u%d.largest;\n", (int)finder);
        } else if (ir->values[id].op == ZM_OP_ROW_EXP_SUM) {
            zm_text_printf(text, "zm_exp_result(u%d, columns);\n", (int)id);
        } else {
            zm_text_append_string(text, "zm_reduce_row");
            print_step(text, body, id);
            zm_text_printf(text, "(w%d, group, shared + %d)%s;\n", (int)id, body->slots[id] * ZM_GPU_SLOT,
                           ir->values[id].op == ZM_OP_ROW_ARGMAX ? ".index" : "");
        }
    }
}
