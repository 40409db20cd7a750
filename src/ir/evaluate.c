/* SPDX-License-Identifier: MIT */
/* The kernel in float64, value by value over a block of one row: whole rows where the kernel needs them. */
#include <math.h>
#include <stdint.h>

#include "ir/passes.h"

enum { MAP_BLOCK = 1024 };

typedef struct evaluator {
    const zm_ir *ir;
    const zm_evaluation *at;
    int64_t row, first, count; /* the block: columns [first, first + count) */
    double **numbers;          /* by value: one an element of the block at level ELEMENT, else one */
    double *region;            /* the values of a region */
} evaluator;

/* A value's numbers and their stride. */
typedef struct vector {
    const double *numbers;
    int64_t stride;
} vector;

static vector vector_of(const evaluator *from, zm_id id) {
    return (vector){from->numbers[id], from->ir->values[id].level == ZM_LEVEL_ELEMENT};
}

static void load(double *to, const evaluator *from, const zm_value *value) {
    const double *input = from->at->inputs[value->index];
    if (value->level == ZM_LEVEL_ROW) {
        *to = input[from->row];
        return;
    }
    for (int64_t i = 0; i < from->count; i++) to[i] = input[from->row * from->at->columns + from->first + i];
}

static void draw(double *to, const evaluator *from, uint64_t seed) {
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t words[4];
    uint64_t drawn = UINT64_MAX; /* which block words holds */
    for (int64_t i = 0; i < from->count; i++) {
        uint64_t index = (uint64_t)(from->row * from->at->columns + from->first + i);
        if (index / 4 != drawn) {
            drawn = index / 4;
            zm_philox(words, (const uint32_t[4]){(uint32_t)drawn, (uint32_t)(drawn >> 32), 0, 0}, key);
        }
        to[i] = (double)(words[index % 4] >> 8) * 0x1p-24;
    }
}

static void leaf(double *to, const evaluator *from, const zm_value *value) {
    switch (value->op) {
    case ZM_OP_CONSTANT: *to = (double)value->number; break;
    case ZM_OP_LOAD: load(to, from, value); break;
    case ZM_OP_PARAMETER: *to = from->at->parameters[value->index]; break;
    case ZM_OP_COLUMNS: *to = (double)(float)from->at->columns; break;
    case ZM_OP_COLUMN:
        for (int64_t i = 0; i < from->count; i++) to[i] = (double)(uint32_t)(from->first + i);
        break;
    case ZM_OP_RANDOM: draw(to, from, from->at->seeds[value->index]); break;
    default: break;
    }
}

static void pointwise(double *to, const evaluator *from, const zm_value *value) {
    static const double zero = 0;
    vector operands[3];
    int arity = zm_op_get(value->op)->arity;
    for (int i = 0; i < 3; i++) operands[i] = i < arity ? vector_of(from, value->operands[i]) : (vector){&zero, 0};
    int64_t count = value->level == ZM_LEVEL_ELEMENT ? from->count : 1;
    for (int64_t i = 0; i < count; i++)
        to[i] = zm_op_evaluate(value->op, operands[0].numbers[i * operands[0].stride],
                               operands[1].numbers[i * operands[1].stride],
                               operands[2].numbers[i * operands[2].stride]);
}

/* The first of the extreme elements, NaN before all; 0 where there are none. */
static int64_t find_extreme(vector of, int64_t count, bool is_max) {
    int64_t best = 0;
    for (int64_t i = 0; i < count; i++) {
        double number = of.numbers[i * of.stride], extreme = of.numbers[best * of.stride];
        if (isnan(number)) return i;
        if (is_max ? number > extreme : number < extreme) best = i;
    }
    return best;
}

static double reduce(const evaluator *from, zm_op op, vector of) {
    bool is_product = op == ZM_OP_ROW_PROD;
    double result = is_product;
    if (op == ZM_OP_ROW_ARGMAX) return (double)find_extreme(of, from->count, true);
    if (op == ZM_OP_ROW_MAX || op == ZM_OP_ROW_MIN) {
        bool is_max = op == ZM_OP_ROW_MAX;
        if (!from->count) return is_max ? -INFINITY : INFINITY;
        return of.numbers[find_extreme(of, from->count, is_max) * of.stride];
    }
    double largest = op == ZM_OP_ROW_EXP_SUM ? reduce(from, ZM_OP_ROW_MAX, of) : 0;
    for (int64_t i = 0; i < from->count; i++) {
        double number = of.numbers[i * of.stride];
        if (op == ZM_OP_ROW_EXP_SUM) number = exp(number - largest);
        result = is_product ? result * number : result + number;
    }
    return result;
}

static void scan(double *to, const evaluator *from, bool reversed, vector of) {
    double sum = 0;
    for (int64_t i = 0; i < from->count; i++) {
        int64_t column = reversed ? from->count - 1 - i : i;
        sum += of.numbers[column * of.stride];
        to[column] = sum;
    }
}

static void gather(double *to, const evaluator *from, const zm_value *value) {
    const double *row = from->at->inputs[value->index] + from->row * from->at->columns;
    vector index = vector_of(from, value->operands[0]);
    int64_t count = value->level == ZM_LEVEL_ELEMENT ? from->count : 1;
    for (int64_t i = 0; i < count; i++) {
        double column = index.numbers[i * index.stride];
        to[i] = column >= 0 && column < (double)from->at->columns ? row[(int64_t)column] : NAN;
    }
}

/* The next acc. Arguments: acc, then the captures' numbers at element i. */
static double step(const evaluator *from, const zm_fold *fold, double acc, int64_t i) {
    const zm_region *region = &fold->update;
    double *numbers = from->region;
    for (int v = 0; v < region->n_values; v++) {
        const zm_value *value = &region->values[v];
        double operands[3] = {0, 0, 0};
        for (int o = 0; o < zm_op_get(value->op)->arity; o++) operands[o] = numbers[value->operands[o]];
        if (value->op == ZM_OP_CONSTANT) {
            numbers[v] = (double)value->number;
        } else if (value->op == ZM_OP_ARGUMENT) {
            vector capture = value->index ? vector_of(from, fold->captures[value->index - 1]) : (vector){&acc, 0};
            numbers[v] = capture.numbers[i * capture.stride];
        } else {
            numbers[v] = zm_op_evaluate(value->op, operands[0], operands[1], operands[2]);
        }
    }
    return numbers[region->result];
}

static double run_fold(const evaluator *from, const zm_fold *fold) {
    double acc = *from->numbers[fold->init];
    for (int64_t i = 0; i < from->count; i++) acc = step(from, fold, acc, i);
    return acc;
}

static void evaluate_value(const evaluator *from, zm_id id) {
    const zm_value *value = &from->ir->values[id];
    double *to = from->numbers[id];
    switch (zm_op_get(value->op)->rule) {
    case ZM_RULE_LEAF: leaf(to, from, value); break;
    case ZM_RULE_REDUCE: *to = reduce(from, value->op, vector_of(from, value->operands[0])); break;
    case ZM_RULE_SCAN:
        scan(to, from, value->op == ZM_OP_ROW_CUMSUM_REVERSE, vector_of(from, value->operands[0]));
        break;
    case ZM_RULE_GATHER: gather(to, from, value); break;
    case ZM_RULE_FOLD: *to = run_fold(from, &from->ir->folds[value->index]); break;
    default: pointwise(to, from, value); break;
    }
}

static void evaluate_block(const evaluator *from) {
    for (zm_id id = 0; id < from->ir->n_values; id++) evaluate_value(from, id);
    for (int o = 0; o < from->ir->n_outputs; o++) {
        const zm_output *output = &from->ir->outputs[o];
        vector value = vector_of(from, output->value);
        double *to = from->at->outputs[o];
        if (output->level == ZM_LEVEL_ROW) {
            to[from->row] = *value.numbers;
            continue;
        }
        for (int64_t i = 0; i < from->count; i++)
            to[from->row * from->at->columns + from->first + i] = value.numbers[i * value.stride];
    }
}

static bool allocate(evaluator *to, zm_arena *arena, int64_t width) {
    const zm_ir *ir = to->ir;
    int region_size = 1;
    for (int i = 0; i < ir->n_folds; i++)
        if (ir->folds[i].update.n_values > region_size) region_size = ir->folds[i].update.n_values;
    to->region = zm_arena_alloc(arena, (size_t)region_size, sizeof *to->region);
    to->numbers = zm_arena_alloc(arena, (size_t)ir->n_values, sizeof *to->numbers);
    bool all = to->region && to->numbers;
    for (zm_id id = 0; all && id < ir->n_values; id++) {
        size_t count = ir->values[id].level == ZM_LEVEL_ELEMENT ? (size_t)width : 1;
        to->numbers[id] = zm_arena_alloc(arena, count, sizeof **to->numbers);
        all = to->numbers[id] != NULL;
    }
    return all;
}

static zmlx_status check(const zm_ir *ir, const zm_evaluation *at, zmlx_error *error) {
    ZM_TRY(zm_ir_verify(ir, error));
    if (at->rows < 0 || at->columns < 0 || (at->columns && at->rows > INT64_MAX / 8 / at->columns))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, ir->name, "wrong size of the rows");
    for (int i = 0; i < ir->n_parameters; i++)
        if (ir->parameters[i].is_seed ? !at->seeds : !at->parameters)
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, ir->name, "no value for %s", ir->parameters[i].name);
    return ZMLX_OK;
}

zmlx_status zm_ir_evaluate(const zm_ir *ir, const zm_evaluation *evaluation, zmlx_error *error) {
    ZM_TRY(check(ir, evaluation, error));
    evaluator state = {.ir = ir, .at = evaluation};
    bool whole = zm_ir_has_rows(ir);
    int64_t width = whole || evaluation->columns < MAP_BLOCK ? evaluation->columns : MAP_BLOCK;
    zm_arena *arena = zm_arena_new();
    if (!arena || !allocate(&state, arena, width)) {
        zm_arena_free(arena);
        return zm_fail_memory(error);
    }
    for (state.row = 0; state.row < evaluation->rows; state.row++) {
        state.first = 0;
        do {
            int64_t left = evaluation->columns - state.first;
            state.count = left < width ? left : width;
            evaluate_block(&state);
            state.first += width;
        } while (state.first < evaluation->columns);
    }
    zm_arena_free(arena);
    return ZMLX_OK;
}
