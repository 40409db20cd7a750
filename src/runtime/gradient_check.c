/* SPDX-License-Identifier: MIT */
/* A given gradient against the derived one, in float64. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "ir/passes.h"
#include "runtime/kernel.h"
#include "zmlx/kernel_tools.h"

enum { ROWS = 16, COLUMNS = 64, POINTS = ROWS * COLUMNS };
static const double
    limit = 1e-6; /* far above the float64 rounding of two forms of one formula, far below a wrong term */

/* Names with POINTS values each. */
typedef struct table {
    const char *names[3 * ZM_IR_MAX_INPUTS];
    double *columns[3 * ZM_IR_MAX_INPUTS];
    int count;
    zm_text labels[ZM_IR_MAX_OUTPUTS]; /* owned names of cotangents */
    double *storage;
} table;

static double *add_column(table *points, const char *name) {
    points->names[points->count] = name;
    points->columns[points->count] = points->storage + (size_t)points->count * POINTS;
    return points->columns[points->count++];
}

static const double *find_column(const table *points, const char *name) {
    for (int i = 0; i < points->count; i++)
        if (!strcmp(points->names[i], name)) return points->columns[i];
    return NULL;
}

/* Between -4 and 4. */
static void fill(double *column, uint64_t seed) {
    for (uint64_t i = 0; i < POINTS; i++)
        column[i] = (double)(zm_splitmix64(seed, i) >> 11) * 0x1p-50 - 4;
}

static zmlx_status evaluate(const zm_ir *ir, const table *points, double *const *outputs, zmlx_error *error) {
    const double *inputs[ZM_IR_MAX_INPUTS];
    double parameters[ZM_IR_MAX_PARAMETERS];
    uint64_t seeds[ZM_IR_MAX_PARAMETERS];
    for (int i = 0; i < ir->n_inputs; i++) inputs[i] = find_column(points, ir->inputs[i].name);
    for (int i = 0; i < ir->n_parameters; i++) {
        parameters[i] = 0.5 + 0.25 * i;
        seeds[i] = (uint64_t)i;
    }
    zm_evaluation evaluation = {ROWS, COLUMNS, inputs, parameters, seeds, outputs};
    return zm_ir_evaluate(ir, &evaluation, error);
}

/* Inputs, cotangents and results by name. */
static zmlx_status prepare(table *points, const zm_ir *forward, zmlx_error *error) {
    double *results[ZM_IR_MAX_OUTPUTS];
    for (int i = 0; i < forward->n_inputs; i++) fill(add_column(points, forward->inputs[i].name), (uint64_t)i);
    for (int i = 0; i < forward->n_outputs; i++) {
        zm_text_printf(&points->labels[i], "cot_%s", forward->outputs[i].name);
        fill(add_column(points, zm_text_string(&points->labels[i])), 1000u + (uint64_t)i);
    }
    for (int i = 0; i < forward->n_outputs; i++) results[i] = add_column(points, forward->outputs[i].name);
    return evaluate(forward, points, results, error);
}

/* The largest difference relative to the larger of the two and one; NaN in both or the same infinity is none. */
static double compare(const double *given, const double *derived, size_t *where) {
    double worst = 0;
    for (size_t i = 0; i < POINTS; i++) {
        double a = given[i], b = derived[i];
        double difference = a == b || (isnan(a) && isnan(b)) ? 0 : fabs(a - b) / fmax(1, fmax(fabs(a), fabs(b)));
        if (isnan(difference)) difference = INFINITY;
        if (difference > worst) {
            worst = difference;
            *where = i;
        }
    }
    return worst;
}

static zmlx_status compare_all(double *worst, const zmlx_kernel *kernel, const zm_ir *derived, const table *points,
                               double *storage, zmlx_error *error) {
    const zm_ir *forward = kernel->forward;
    double *given_outputs[ZM_IR_MAX_INPUTS], *derived_outputs[ZM_IR_MAX_INPUTS];
    size_t where = 0;
    for (int i = 0; i < forward->n_inputs; i++) {
        given_outputs[i] = storage + (size_t)(2 * i) * POINTS;
        derived_outputs[i] = storage + (size_t)(2 * i + 1) * POINTS;
    }
    ZM_TRY(evaluate(kernel->gradient, points, given_outputs, error));
    ZM_TRY(evaluate(derived, points, derived_outputs, error));
    for (int i = 0; i < forward->n_inputs; i++) {
        double difference = compare(given_outputs[i], derived_outputs[i], &where);
        if (difference > *worst) *worst = difference;
        if (!(difference <= limit))
            return zm_fail(
                error, ZMLX_ERROR_ARGUMENT, kernel->label,
                "the given gradient of %s differs from the derived one: at %s = %.9g given %.9g, derived %.9g",
                forward->inputs[i].name, forward->inputs[0].name, points->columns[0][where], given_outputs[i][where],
                derived_outputs[i][where]);
    }
    return ZMLX_OK;
}

zmlx_status zmlx_kernel_check_gradient(double *worst, zmlx_kernel *kernel, zmlx_error *error) {
    zm_error_clear(error);
    *worst = 0;
    if (!kernel) return zm_fail_null(error, "kernel");
    if (!kernel->gradient) return ZMLX_OK;
    bool wanted[ZM_IR_MAX_INPUTS];
    for (int i = 0; i < kernel->forward->n_inputs; i++) wanted[i] = true;
    zm_ir *derived;
    ZM_TRY(zm_ir_vjp(&derived, kernel->forward, wanted, false, error));
    table points = {.storage = calloc(3 * ZM_IR_MAX_INPUTS * POINTS, sizeof(double))};
    double *outputs = calloc(2 * ZM_IR_MAX_INPUTS * POINTS, sizeof *outputs);
    zmlx_status status = points.storage && outputs ? prepare(&points, kernel->forward, error) : zm_fail_memory(error);
    if (!status) status = compare_all(worst, kernel, derived, &points, outputs, error);
    for (int i = 0; i < ZM_IR_MAX_OUTPUTS; i++) zm_text_free(&points.labels[i]);
    free(points.storage);
    free(outputs);
    zm_ir_free(derived);
    return status;
}
