/* SPDX-License-Identifier: MIT */
/* Schedules: those of known kernels, and the contract of schedule.h checked value by value on random kernels. */
#include <limits.h>

#include "emit/schedule.h"
#include "ir_testing.h"

static bool is_element(const zm_ir *ir, zm_id id) { return ir->values[id].level == ZM_LEVEL_ELEMENT; }
static zm_rule rule_of(const zm_ir *ir, zm_id id) { return zm_op_get(ir->values[id].op)->rule; }

/* What has happened so far while a schedule is followed. */
typedef struct progress {
    const zm_schedule *schedule;
    bool *row_done, *kept_done, *now; /* by value; now: in this pass */
    int *stored;                      /* by output */
} progress;

static void need(const progress *at, zm_id id) {
    assert_true(is_element(at->schedule->ir, id) ? at->now[id] : at->row_done[id]);
}

static void need_operands(const progress *at, zm_id id) {
    for (int i = 0; i < zm_ir_operand_count(at->schedule->ir, id); i++)
        need(at, zm_ir_operand(at->schedule->ir, id, i));
}

static void follow_row_values(progress *at, const zm_pass *pass) {
    const zm_ir *ir = at->schedule->ir;
    for (int i = 0; i < pass->n_row_values; i++) {
        zm_id id = pass->row_values[i];
        assert_false(is_element(ir, id) || at->row_done[id]);
        assert_true(rule_of(ir, id) != ZM_RULE_REDUCE && rule_of(ir, id) != ZM_RULE_FOLD);
        need_operands(at, id);
        at->row_done[id] = true;
    }
}

static void follow_element_values(progress *at, int number) {
    const zm_schedule *schedule = at->schedule;
    const zm_ir *ir = schedule->ir;
    const zm_pass *pass = &schedule->passes[number];
    for (int i = 0; i < pass->n_element_values; i++) {
        zm_id id = pass->element_values[i];
        assert_true(is_element(ir, id) && !at->now[id]);
        at->now[id] = true;
        if (schedule->kept[id] && schedule->kept_from[id] < number) {
            assert_true(at->kept_done[id]);
            continue;
        }
        at->now[id] = false;
        need_operands(at, id);
        at->now[id] = true;
        if (rule_of(ir, id) == ZM_RULE_SCAN)
            assert_int_equal(ir->values[id].op == ZM_OP_ROW_CUMSUM_REVERSE, pass->reversed);
        if (schedule->kept[id]) at->kept_done[id] = true;
    }
}

static void follow_pass(progress *at, int number) {
    const zm_ir *ir = at->schedule->ir;
    const zm_pass *pass = &at->schedule->passes[number];
    memset(at->now, 0, (size_t)ir->n_values);
    follow_row_values(at, pass);
    follow_element_values(at, number);
    for (int i = 0; i < pass->n_reductions; i++) {
        zm_id id = pass->reductions[i];
        need_operands(at, id);
        assert_false(at->row_done[id]);
        if (ir->values[id].op == ZM_OP_FOLD && !ir->folds[ir->values[id].index].combine.n_values)
            assert_false(pass->reversed);
    }
    bool keeps = false;
    for (zm_id id = 0; id < ir->n_values; id++)
        keeps |= at->schedule->kept[id] && at->schedule->kept_from[id] == number;
    for (int i = 0; i < pass->n_stores; i++) {
        assert_int_equal(ir->outputs[pass->stores[i]].level, ZM_LEVEL_ELEMENT);
        need(at, ir->outputs[pass->stores[i]].value);
        at->stored[pass->stores[i]]++;
    }
    assert_true(pass->n_reductions || pass->n_stores || keeps);
    for (int i = 0; i < pass->n_reductions; i++) at->row_done[pass->reductions[i]] = true;
}

static void follow(const zm_schedule *schedule) {
    const zm_ir *ir = schedule->ir;
    int stored[ZM_IR_MAX_OUTPUTS] = {0}, n_kept = 0;
    size_t n = (size_t)ir->n_values;
    bool *flags = test_calloc(3 * n, sizeof *flags);
    progress at = {schedule, flags, flags + n, flags + 2 * n, stored};
    for (int i = 0; i < schedule->n_passes; i++) follow_pass(&at, i);
    const zm_pass *last = &schedule->passes[schedule->n_passes];
    follow_row_values(&at, last);
    assert_int_equal(last->n_element_values, 0);
    assert_int_equal(last->n_reductions, 0);
    for (int i = 0; i < last->n_stores; i++) {
        assert_int_equal(ir->outputs[last->stores[i]].level, ZM_LEVEL_ROW);
        need(&at, ir->outputs[last->stores[i]].value);
        stored[last->stores[i]]++;
    }
    for (int i = 0; i < ir->n_outputs; i++) assert_int_equal(stored[i], 1);
    for (int i = 0; i < ir->n_values; i++) n_kept += schedule->kept[i];
    assert_int_equal(n_kept, schedule->n_kept);
    test_free(flags);
}

static zm_schedule make(const zm_ir *ir, int keep_cost) {
    zm_schedule schedule;
    zmlx_error error;
    assert_int_equal(zm_schedule_make(&schedule, ir->arena, ir, keep_cost, &error), ZMLX_OK);
    follow(&schedule);
    return schedule;
}

static void test_map(void **state) {
    (void)state;
    zm_ir *ir = parse_kernel("kernel k\ninput a float element\ninput b float element\noutput y element = %2\n"
                             "%0 = load a\n%1 = load b\n%2 = multiply %0 %1\n");
    zm_schedule schedule = make(ir, 0);
    assert_int_equal(schedule.n_passes, 1);
    assert_int_equal(schedule.passes[0].n_element_values, 3);
    assert_int_equal(schedule.n_kept, 0);
    zm_ir_free(ir);
}

static const char softmax[] =
    "kernel softmax\ninput x float element\noutput y element = %5\n%0 = load x\n%1 = row_max %0\n"
    "%2 = subtract %0 %1\n%3 = exp %2\n%4 = row_sum %3\n%5 = divide %3 %4\n";

static void test_softmax(void **state) {
    (void)state;
    zm_ir *ir = parse_kernel(softmax);
    zm_schedule schedule = make(ir, 8);
    assert_int_equal(schedule.n_passes, 3);
    assert_int_equal(schedule.n_kept, 1);
    assert_true(schedule.kept[3]);
    assert_int_equal(schedule.kept_from[3], 1);
    assert_int_equal(schedule.passes[2].n_element_values, 2); /* the kept exponential, not its operands */
    schedule = make(ir, INT_MAX);
    assert_int_equal(schedule.n_kept, 0);
    assert_int_equal(schedule.passes[2].n_element_values, 4);
    zm_ir_free(ir);
}

/* Nothing to loop over; an element output of a row's value needs a loop. */
static void test_levels(void **state) {
    (void)state;
    zm_ir *ir = parse_kernel("kernel k\ninput r float row\noutput y row = %1\n%0 = load r\n%1 = exp %0\n");
    assert_int_equal(make(ir, 8).n_passes, 0);
    zm_ir_free(ir);
    ir = parse_kernel(
        "kernel k\ninput r float row\noutput y element = %1\noutput z row = %2\n%0 = load r\n%1 = exp %0\n"
        "%2 = row_sum %1\n");
    assert_int_equal(make(ir, 8).n_passes, 1);
    zm_ir_free(ir);
}

/* What one direction needs of a scan of the other is kept whatever it costs. */
static void test_directions(void **state) {
    (void)state;
    zm_ir *ir =
        parse_kernel("kernel k\ninput x float element\noutput y element = %3\n%0 = load x\n%1 = row_cumsum %0\n"
                     "%2 = row_cumsum_reverse %0\n%3 = multiply %1 %2\n");
    zm_schedule schedule = make(ir, INT_MAX);
    assert_int_equal(schedule.n_passes, 2);
    assert_int_equal(schedule.n_kept, 1);
    assert_int_equal(schedule.passes[0].reversed + schedule.passes[1].reversed, 1);
    zm_ir_free(ir);
    ir = parse_kernel(
        "kernel k\ninput x float element\noutput y row = %3\n%0 = load x\n%1 = row_cumsum_reverse %0\n"
        "%2 = constant 0\n%3 = fold %2 %1\n  update\n    %0 = argument 0\n    %1 = argument 1\n"
        "    %2 = max %0 %1\n  result %2\nend\n");
    schedule = make(ir, INT_MAX);
    assert_int_equal(schedule.n_passes, 2);
    assert_true(schedule.kept[1] && schedule.passes[0].reversed);
    zm_ir_free(ir);
}

/* In a kernel without outputs, or of dead values, nothing is done. */
static void test_dead(void **state) {
    (void)state;
    zm_ir *ir = zm_ir_new("k");
    zm_ir_add_input(ir, "x", ZM_TYPE_FLOAT, ZM_LEVEL_ELEMENT);
    zm_ir_apply(ir, ZM_OP_ROW_SUM, zm_ir_load(ir, 0), -1, -1);
    zm_schedule schedule = make(ir, 0);
    assert_int_equal(schedule.n_passes, 0);
    assert_int_equal(schedule.passes[0].n_row_values, 0);
    zm_ir_free(ir);
}

static zm_region max_region(zm_ir *ir) {
    zm_region region = {zm_arena_alloc(ir->arena, 3, sizeof(zm_value)), 3, 2, 2};
    assert_non_null(region.values);
    for (int i = 0; i < 2; i++)
        region.values[i] =
            (zm_value){.op = ZM_OP_ARGUMENT, .level = ZM_LEVEL_ELEMENT, .operands = {-1, -1, -1}, .index = i};
    region.values[2] = (zm_value){.op = ZM_OP_MAX, .level = ZM_LEVEL_ELEMENT, .operands = {0, 1, -1}};
    return region;
}

static zm_id add_fold(zm_ir *ir, zm_id operand, bool has_combine) {
    zm_fold fold = {.init = zm_ir_constant(ir, 0), .n_captures = 1, .update = max_region(ir)};
    fold.captures = zm_arena_alloc(ir->arena, 1, sizeof *fold.captures);
    assert_non_null(fold.captures);
    fold.captures[0] = operand;
    if (has_combine) fold.combine = max_region(ir);
    return zm_ir_fold(ir, &fold);
}

static void test_random(void **state) {
    (void)state;
    static const zm_op unary[] = {ZM_OP_EXP,     ZM_OP_NEGATE,     ZM_OP_ROW_SUM,
                                  ZM_OP_ROW_MAX, ZM_OP_ROW_CUMSUM, ZM_OP_ROW_CUMSUM_REVERSE};
    static const zm_op binary[] = {ZM_OP_ADD, ZM_OP_DIVIDE, ZM_OP_MULTIPLY};
    for (uint64_t seed = 0; seed < 3000; seed++) {
        uint64_t n = 0;
        zm_ir *ir = zm_ir_new("random");
        zm_ir_add_input(ir, "x", ZM_TYPE_FLOAT, ZM_LEVEL_ELEMENT);
        zm_ir_add_input(ir, "r", ZM_TYPE_FLOAT, ZM_LEVEL_ROW);
        zm_id last = zm_ir_load(ir, 0);
        zm_ir_load(ir, 1);
        zm_ir_constant(ir, 2);
        for (int i = 0; i < 3 + (int)(seed % 20); i++) {
            uint64_t word = zm_splitmix64(seed, n++);
            zm_id a = (zm_id)((word >> 8) % (uint64_t)ir->n_values),
                  b = (zm_id)((word >> 24) % (uint64_t)ir->n_values);
            if (word % 16 < 7)
                last = zm_ir_apply(ir, unary[word % 16 % 6], a, -1, -1);
            else if (word % 16 < 9)
                last = add_fold(ir, a, word % 16 == 8);
            else
                last = zm_ir_apply(ir, binary[word % 3], a, b, -1);
        }
        zm_ir_add_output(ir, "y", last, ZM_LEVEL_ELEMENT);
        if (!is_element(ir, 1)) zm_ir_add_output(ir, "z", 1, ZM_LEVEL_ROW);
        assert_int_equal(ir->failure.code, ZMLX_OK);
        make(ir, 8);
        make(ir, INT_MAX);
        make(ir, 0);
        zm_ir_free(ir);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map),        cmocka_unit_test(test_softmax), cmocka_unit_test(test_levels),
        cmocka_unit_test(test_directions), cmocka_unit_test(test_dead),    cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
