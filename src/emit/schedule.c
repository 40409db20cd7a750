/* SPDX-License-Identifier: MIT */
/* Passes are made greedily: each does every reduction, output and scan that its direction allows, so their number
 * is the least for a kernel whose scans have one direction. Then, from the last value to the first, every value
 * learns which passes need it and whether it is kept. */
#include <limits.h>
#include <string.h>

#include "emit/schedule.h"

enum { NEVER = INT_MAX, COST_SCAN = 8, COST_CALL = 10, COST_DIVIDE = 4 };

typedef struct plan {
    const zm_ir *ir;
    zm_arena *arena;
    int keep_cost;
    bool *live;
    int *from;      /* by value: the first pass that can have it (UNIFORM and ROW) or computes it (ELEMENT) */
    int *stored;    /* by output: its pass */
    bool *reversed; /* by pass */
    int n_passes;
    bool *needed;   /* [value * n_passes + pass] */
    bool *kept;
    int *kept_from;
} plan;

static bool is_reduction(const zm_value *value) {
    zm_rule rule = zm_op_get(value->op)->rule;
    return rule == ZM_RULE_REDUCE || rule == ZM_RULE_FOLD;
}
static bool is_scan(const zm_value *value) { return zm_op_get(value->op)->rule == ZM_RULE_SCAN; }
static bool scan_is_reversed(const zm_value *value) { return value->op == ZM_OP_ROW_CUMSUM_REVERSE; }
/* A fold without a combine runs from the first column to the last. */
static bool is_ordered_fold(const zm_ir *ir, const zm_value *value) {
    return value->op == ZM_OP_FOLD && !ir->folds[value->index].combine.n_values;
}
static bool is_element(const plan *self, zm_id id) { return self->ir->values[id].level == ZM_LEVEL_ELEMENT; }

static void mark_live(plan *self) {
    const zm_ir *ir = self->ir;
    for (int i = 0; i < ir->n_outputs; i++) self->live[ir->outputs[i].value] = true;
    for (zm_id id = ir->n_values - 1; id >= 0; id--)
        for (int i = 0; self->live[id] && i < zm_ir_operand_count(ir, id); i++)
            self->live[zm_ir_operand(ir, id, i)] = true;
}

/* Values of pass `pass` run in this direction: sets `now` where an element value can be computed or reloaded. */
static void find_computable(const plan *self, int pass, bool reversed, bool *now) {
    const zm_ir *ir = self->ir;
    for (zm_id id = 0; id < ir->n_values; id++) {
        const zm_value *value = &ir->values[id];
        now[id] = self->live[id] && is_element(self, id);
        for (int i = 0; now[id] && i < zm_ir_operand_count(ir, id); i++) {
            zm_id operand = zm_ir_operand(ir, id, i);
            now[id] = is_element(self, operand) ? now[operand] : self->from[operand] <= pass;
        }
        if (now[id] && is_scan(value) && scan_is_reversed(value) != reversed) now[id] = false;
        if (self->from[id] < pass && is_element(self, id)) now[id] = self->live[id]; /* may be kept */
    }
}

static bool can_reduce(const plan *self, zm_id id, int pass, bool reversed, const bool *now) {
    if (reversed && is_ordered_fold(self->ir, &self->ir->values[id])) return false;
    for (int i = 0; i < zm_ir_operand_count(self->ir, id); i++) {
        zm_id operand = zm_ir_operand(self->ir, id, i);
        if (is_element(self, operand) ? !now[operand] : self->from[operand] > pass) return false;
    }
    return true;
}

/* Reductions, outputs and scans that this pass would add. */
static int count_progress(const plan *self, int pass, bool reversed, const bool *now) {
    const zm_ir *ir = self->ir;
    int progress = 0;
    for (zm_id id = 0; id < ir->n_values; id++) {
        if (!self->live[id] || self->from[id] != NEVER) continue;
        if (is_scan(&ir->values[id])) progress += now[id];
        if (is_reduction(&ir->values[id])) progress += can_reduce(self, id, pass, reversed, now);
    }
    for (int i = 0; i < ir->n_outputs; i++) {
        zm_id id = ir->outputs[i].value;
        if (self->stored[i] == NEVER && ir->outputs[i].level == ZM_LEVEL_ELEMENT)
            progress += is_element(self, id) ? now[id] : self->from[id] <= pass;
    }
    return progress;
}

static void take_progress(plan *self, int pass, const bool *now) {
    const zm_ir *ir = self->ir;
    for (int i = 0; i < ir->n_outputs; i++) {
        zm_id id = ir->outputs[i].value;
        bool ready = is_element(self, id) ? now[id] : self->from[id] <= pass;
        if (self->stored[i] == NEVER && ir->outputs[i].level == ZM_LEVEL_ELEMENT && ready) self->stored[i] = pass;
    }
    for (zm_id id = 0; id < ir->n_values; id++) {
        if (!self->live[id] || self->from[id] != NEVER) continue;
        if (is_element(self, id)) {
            if (now[id]) self->from[id] = pass;
        } else if (is_reduction(&ir->values[id])) {
            if (can_reduce(self, id, pass, self->reversed[pass], now)) self->from[id] = pass + 1;
        }
    }
}

/* Row values whose operands are there before `pass`. */
static void take_row_values(plan *self, int pass) {
    const zm_ir *ir = self->ir;
    for (zm_id id = 0; id < ir->n_values; id++) {
        if (self->from[id] != NEVER || is_element(self, id) || is_reduction(&ir->values[id])) continue;
        bool ready = true;
        for (int i = 0; ready && i < zm_ir_operand_count(ir, id); i++)
            ready = self->from[zm_ir_operand(ir, id, i)] <= pass;
        if (ready) self->from[id] = pass;
    }
}

static zmlx_status make_passes(plan *self, zmlx_error *error) {
    const zm_ir *ir = self->ir;
    int limit = ir->n_values + ir->n_outputs + 1; /* every pass makes progress */
    bool *now = zm_arena_alloc(self->arena, (size_t)ir->n_values + 1, sizeof *now);
    self->reversed = zm_arena_alloc(self->arena, (size_t)limit, sizeof *self->reversed);
    if (!now || !self->reversed) return zm_fail_memory(error);
    for (;; self->n_passes++) {
        take_row_values(self, self->n_passes);
        find_computable(self, self->n_passes, true, now);
        int backward = count_progress(self, self->n_passes, true, now);
        find_computable(self, self->n_passes, false, now);
        int forward = count_progress(self, self->n_passes, false, now);
        if (!forward && !backward) return ZMLX_OK;
        if (self->n_passes == limit)
            return zm_fail(error, ZMLX_ERROR_FORMAT, ir->name, "no schedule for this kernel");
        if (backward > forward) find_computable(self, self->n_passes, true, now);
        self->reversed[self->n_passes] = backward > forward;
        take_progress(self, self->n_passes, now);
    }
}

static int value_cost(const zm_value *value) {
    const zm_op_info *info = zm_op_get(value->op);
    if (value->op == ZM_OP_DIVIDE) return COST_DIVIDE;
    if (value->op == ZM_OP_RANDOM || info->rule == ZM_RULE_GATHER) return COST_CALL;
    if (info->rule == ZM_RULE_SCAN) return COST_SCAN;
    bool is_cheap = info->form != ZM_FORM_CALL || info->rule != ZM_RULE_FLOAT || value->op == ZM_OP_FMA ||
                    value->op == ZM_OP_ABS || value->op == ZM_OP_MIN || value->op == ZM_OP_MAX;
    return is_cheap ? value->op != ZM_OP_CONSTANT : COST_CALL;
}

/* Of computing each value again from loads; capped. */
static zmlx_status find_costs(const plan *self, int **costs, zmlx_error *error) {
    const zm_ir *ir = self->ir;
    *costs = zm_arena_alloc(self->arena, (size_t)ir->n_values + 1, sizeof **costs);
    if (!*costs) return zm_fail_memory(error);
    for (zm_id id = 0; id < ir->n_values; id++) {
        long long cost = value_cost(&ir->values[id]);
        for (int i = 0; i < zm_ir_operand_count(ir, id); i++) {
            zm_id operand = zm_ir_operand(ir, id, i);
            if (is_element(self, operand)) cost += (*costs)[operand];
        }
        (*costs)[id] = cost < INT_MAX / 2 ? (int)cost : INT_MAX / 2;
    }
    return ZMLX_OK;
}

static void need_operands(plan *self, zm_id id, int pass) {
    for (int i = 0; i < zm_ir_operand_count(self->ir, id); i++) {
        zm_id operand = zm_ir_operand(self->ir, id, i);
        if (is_element(self, operand))
            self->needed[(size_t)operand * (size_t)self->n_passes + (size_t)pass] = true;
    }
}

/* Users come after their operands: going down, all needs of a value are known when it is reached. */
static void decide_kept(plan *self, zm_id id, int cost) {
    const zm_value *value = &self->ir->values[id];
    bool *needed = self->needed + (size_t)id * (size_t)self->n_passes;
    int first = NEVER, count = 0;
    bool across = false;
    for (int pass = 0; pass < self->n_passes; pass++) {
        if (!needed[pass]) continue;
        if (first == NEVER) first = pass;
        count++;
        if (is_scan(value) && self->reversed[pass] != scan_is_reversed(value)) across = true;
    }
    if (!count) return;
    if (across) {
        first = self->from[id];
        needed[first] = true;
    }
    self->kept[id] =
        across || (count > 1 && cost >= self->keep_cost && value->op != ZM_OP_LOAD && value->op != ZM_OP_COLUMN);
    self->kept_from[id] = self->kept[id] ? first : -1;
    for (int pass = 0; pass < self->n_passes; pass++)
        if (needed[pass] && !(self->kept[id] && pass > first)) need_operands(self, id, pass);
}

static zmlx_status find_needs(plan *self, zmlx_error *error) {
    const zm_ir *ir = self->ir;
    int *costs;
    ZM_TRY(find_costs(self, &costs, error));
    self->needed =
        zm_arena_alloc(self->arena, (size_t)ir->n_values * (size_t)self->n_passes + 1, sizeof *self->needed);
    if (!self->needed) return zm_fail_memory(error);
    for (int i = 0; i < ir->n_outputs; i++) {
        zm_id id = ir->outputs[i].value;
        if (self->stored[i] != NEVER && is_element(self, id))
            self->needed[(size_t)id * (size_t)self->n_passes + (size_t)self->stored[i]] = true;
    }
    for (zm_id id = ir->n_values - 1; id >= 0; id--) {
        if (!self->live[id]) continue;
        if (is_reduction(&ir->values[id])) need_operands(self, id, self->from[id] - 1);
        if (is_element(self, id)) decide_kept(self, id, costs[id]);
    }
    return ZMLX_OK;
}

/* A scan taken early and computed again later may leave its first pass without work. */
static bool is_empty(const plan *self, int pass) {
    for (int i = 0; i < self->ir->n_outputs; i++)
        if (self->stored[i] == pass) return false;
    for (zm_id id = 0; id < self->ir->n_values; id++) {
        if (self->kept[id] && self->kept_from[id] == pass) return false;
        if (self->live[id] && is_reduction(&self->ir->values[id]) && self->from[id] == pass + 1) return false;
    }
    return true;
}

static void drop_pass(plan *self, int dropped) {
    const zm_ir *ir = self->ir;
    int n_passes = self->n_passes--;
    for (int pass = dropped; pass + 1 < n_passes; pass++) self->reversed[pass] = self->reversed[pass + 1];
    for (int i = 0; i < ir->n_outputs; i++)
        self->stored[i] -= self->stored[i] != NEVER && self->stored[i] > dropped;
    size_t written = 0;
    for (zm_id id = 0; id < ir->n_values; id++) {
        self->from[id] -= self->live[id] && self->from[id] > dropped;
        self->kept_from[id] -= self->kept_from[id] > dropped;
        for (int pass = 0; pass < n_passes; pass++)
            if (pass != dropped)
                self->needed[written++] = self->needed[(size_t)id * (size_t)n_passes + (size_t)pass];
    }
}

/* What pass `pass` holds, counted or (where the arrays are there) listed. */
static void list_pass(const plan *self, int pass, zm_pass *result) {
    const zm_ir *ir = self->ir;
    result->n_row_values = result->n_element_values = result->n_reductions = result->n_stores = 0;
    for (zm_id id = 0; id < ir->n_values; id++) {
        if (!self->live[id]) continue;
        zm_id *list = NULL;
        int *count = NULL;
        if (is_element(self, id)) {
            if (pass == self->n_passes || !self->needed[(size_t)id * (size_t)self->n_passes + (size_t)pass])
                continue;
            list = result->element_values, count = &result->n_element_values;
        } else if (is_reduction(&ir->values[id])) {
            if (self->from[id] - 1 != pass) continue;
            list = result->reductions, count = &result->n_reductions;
        } else {
            if (self->from[id] != pass) continue;
            list = result->row_values, count = &result->n_row_values;
        }
        if (list) list[*count] = id;
        ++*count;
    }
    for (int i = 0; i < ir->n_outputs; i++) {
        if ((ir->outputs[i].level == ZM_LEVEL_ELEMENT ? self->stored[i] : self->n_passes) != pass) continue;
        if (result->stores) result->stores[result->n_stores] = i;
        result->n_stores++;
    }
}

static zmlx_status fill_pass(const plan *self, int pass, zm_pass *result, zmlx_error *error) {
    memset(result, 0, sizeof *result);
    list_pass(self, pass, result);
    result->row_values = zm_arena_alloc(self->arena, (size_t)result->n_row_values + 1, sizeof(zm_id));
    result->element_values = zm_arena_alloc(self->arena, (size_t)result->n_element_values + 1, sizeof(zm_id));
    result->reductions = zm_arena_alloc(self->arena, (size_t)result->n_reductions + 1, sizeof(zm_id));
    result->stores = zm_arena_alloc(self->arena, (size_t)result->n_stores + 1, sizeof(int));
    if (!result->row_values || !result->element_values || !result->reductions || !result->stores)
        return zm_fail_memory(error);
    list_pass(self, pass, result);
    if (pass < self->n_passes) result->reversed = self->reversed[pass];
    return ZMLX_OK;
}

zmlx_status zm_schedule_make(zm_schedule *schedule, zm_arena *arena, const zm_ir *ir, int keep_cost,
                             zmlx_error *error) {
    plan self = {.ir = ir, .arena = arena, .keep_cost = keep_cost};
    size_t n = (size_t)ir->n_values + 1;
    memset(schedule, 0, sizeof *schedule);
    self.live = zm_arena_alloc(arena, n, sizeof *self.live);
    self.kept = zm_arena_alloc(arena, n, sizeof *self.kept);
    self.from = zm_arena_alloc(arena, n, sizeof *self.from);
    self.kept_from = zm_arena_alloc(arena, n, sizeof *self.kept_from);
    self.stored = zm_arena_alloc(arena, (size_t)ir->n_outputs + 1, sizeof *self.stored);
    if (!self.live || !self.kept || !self.from || !self.kept_from || !self.stored) return zm_fail_memory(error);
    for (int i = 0; i < ir->n_values; i++) self.from[i] = NEVER, self.kept_from[i] = -1;
    for (int i = 0; i < ir->n_outputs; i++) self.stored[i] = NEVER;
    mark_live(&self);
    ZM_TRY(make_passes(&self, error));
    ZM_TRY(find_needs(&self, error));
    for (int pass = self.n_passes - 1; pass >= 0; pass--)
        if (is_empty(&self, pass)) drop_pass(&self, pass);
    zm_pass *passes = zm_arena_alloc(arena, (size_t)self.n_passes + 1, sizeof *passes);
    if (!passes) return zm_fail_memory(error);
    for (int pass = 0; pass <= self.n_passes; pass++) ZM_TRY(fill_pass(&self, pass, &passes[pass], error));
    *schedule = (zm_schedule){
        .ir = ir, .passes = passes, .n_passes = self.n_passes, .kept = self.kept, .kept_from = self.kept_from};
    for (int i = 0; i < ir->n_values; i++) schedule->n_kept += self.kept[i];
    return ZMLX_OK;
}
