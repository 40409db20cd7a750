/* SPDX-License-Identifier: MIT */
/* Gradients of a C reference by differences in float64.
 *
 * All rows move at once, as no row depends on another; of a kernel without row operations all elements do. With
 * central differences D(h) of step h, (4 D(h/2) - D(h)) / 3 is the slope up to h^4. */
#include <math.h>
#include <string.h>

#include "validate/kernel_test.h"

enum { POINTS = 5, MAX_COLUMNS = 32 };
static const double offsets[POINTS] = {0, 1, -1, 0.5, -0.5};

typedef struct difference {
    const zm_test_case *test;
    size_t input;
    double *steps, *moved; /* of each element of the input */
    zmlx_test_array points[POINTS][ZM_IR_MAX_OUTPUTS], scales[ZM_IR_MAX_OUTPUTS];
    zmlx_test_array gradient;
    bool *compared;
} difference;

/* Small beside the range and beside x, where a singularity may be; a power of two, so that x + h is exact. */
static double choose_step(double x, const double range[2]) {
    double step = 0x1p-12 * fmin(1, (range[1] - range[0]) / 4);
    step = fmax(fmin(step, fabs(x) / 32), 0x1p-26);
    return ldexp(1, ilogb(fmax(step, fabs(x) * 0x1p-24)));
}

static bool moves(const difference *this, size_t element, size_t column, bool one_column) {
    return !one_column || element % this->test->columns == column;
}

/* The reference with the input moved by offset steps, all of it or one column. */
static zmlx_status evaluate(difference *this, int point, size_t column, bool one_column, zmlx_error *error) {
    const zm_test_case *test = this->test;
    zmlx_test_array inputs[ZM_IR_MAX_INPUTS];
    memcpy(inputs, test->inputs, sizeof inputs);
    zmlx_test_array *input = &inputs[this->input];
    for (size_t i = 0; i < input->size; i++) {
        double step = moves(this, i, column, one_column) ? offsets[point] * this->steps[i] : 0;
        this->moved[i] = input->values[i] + step;
    }
    input->values = this->moved;
    if (test->reference->evaluate(test->reference->context, inputs, this->points[point], this->scales))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "reference", "it refused inputs near those it took");
    return ZMLX_OK;
}

/* The slope from the values at the offsets. False: it is not the same on both sides. */
static bool find_slope(double *slope, const double values[POINTS], double step) {
    double wide = (values[1] - values[2]) / (2 * step), narrow = (values[3] - values[4]) / step;
    double wide_gap = fabs(values[1] - 2 * values[0] + values[2]) / step;
    double narrow_gap = fabs(values[3] - 2 * values[0] + values[4]) / (step / 2);
    double size = fabs(values[0]) + fabs(values[1]) + fabs(values[2]), noise = 1e-14 * size / step;
    *slope = (4 * narrow - wide) / 3;
    /* Half the step halves the gap between both sides' slopes, unless there is a kink. */
    bool is_kink = narrow_gap > 0.75 * wide_gap && wide_gap > 1e-6 * fabs(narrow) + noise;
    return !is_kink && !(fabs(wide - narrow) > 1e-3 * fabs(narrow) + noise + 1e-6 * size);
}

/* Which element of the input an element of an output depends on, of those that were moved. */
static size_t find_target(const difference *this, const zmlx_test_array *output, size_t element, size_t column,
                          bool one_column) {
    size_t size = this->gradient.size;
    if (!one_column) return element % size;
    size_t row = element / (output->size / this->test->rows);
    return size == this->test->columns ? column : row * this->test->columns + column;
}

static zmlx_status add_slopes(difference *this, size_t column, bool one_column, zmlx_error *error) {
    for (int point = 1; point < POINTS; point++) ZM_TRY(evaluate(this, point, column, one_column, error));
    for (size_t i = 0; i < this->gradient.size; i++)
        if (moves(this, i, column, one_column)) this->compared[i] = true;
    for (size_t output = 0; output < this->test->info->n_outputs; output++) {
        const zmlx_test_array *base = &this->points[0][output];
        for (size_t i = 0; i < base->size; i++) {
            size_t target = find_target(this, base, i, column, one_column);
            double values[POINTS], slope;
            for (int point = 0; point < POINTS; point++) values[point] = this->points[point][output].values[i];
            if (!find_slope(&slope, values, this->steps[target])) this->compared[target] = false;
            this->gradient.values[target] += this->test->cotangents[output].values[i] * slope;
        }
    }
    return ZMLX_OK;
}

static zmlx_status differentiate(difference *this, zmlx_error *error) {
    const zm_test_case *test = this->test;
    const zmlx_test_array *input = &test->inputs[this->input];
    double range[2];
    zm_test_range(range, test->options, this->input);
    ZM_TRY(zm_test_zeros(&this->gradient, test->arena, input, error));
    this->steps = zm_arena_alloc(test->arena, input->size + 1, sizeof *this->steps);
    this->compared = zm_arena_alloc(test->arena, input->size + 1, sizeof *this->compared);
    this->moved = zm_arena_alloc(test->arena, input->size + 1, sizeof *this->moved);
    if (!this->steps || !this->compared || !this->moved) return zm_fail_memory(error);
    for (size_t i = 0; i < input->size; i++) this->steps[i] = choose_step(input->values[i], range);
    if (!test->info->has_rows) return add_slopes(this, 0, false, error);
    size_t count = test->columns < MAX_COLUMNS ? test->columns : MAX_COLUMNS;
    for (size_t i = 0; i < count; i++) /* the first and the last are among them */
        ZM_TRY(add_slopes(this, count == 1 ? 0 : i * (test->columns - 1) / (count - 1), true, error));
    return ZMLX_OK;
}

zmlx_status zm_test_differentiate(zm_test_expected *expected, const zm_test_case *test, const zmlx_test_array *outputs,
                                  zmlx_error *error) {
    difference this = {.test = test};
    for (size_t i = 0; i < test->info->n_outputs; i++) {
        ZM_TRY(zm_test_zeros(&this.scales[i], test->arena, &outputs[i], error));
        for (int point = 0; point < POINTS; point++)
            ZM_TRY(zm_test_zeros(&this.points[point][i], test->arena, &outputs[i], error));
    }
    if (test->reference->evaluate(test->reference->context, test->inputs, this.points[0], this.scales))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "reference", "it refused the inputs");
    for (this.input = 0; this.input < test->info->n_inputs; this.input++) {
        ZM_TRY(differentiate(&this, error));
        expected[this.input] = (zm_test_expected){.values = this.gradient, .compared = this.compared};
    }
    return ZMLX_OK;
}
