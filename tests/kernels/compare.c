/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>

#include "table.h"

static const double UNIT = 0x1p-24;

static bool allocate(table_run *run, zm_oracle_output *output) {
    output->size = 1;
    for (int i = 0; i < output->n_dims; i++) output->size *= (size_t)output->shape[i];
    output->values = zm_arena_alloc(run->arena, output->size + 1, sizeof(double));
    output->scales = zm_arena_alloc(run->arena, output->size + 1, sizeof(double));
    output->exponents = zm_arena_alloc(run->arena, output->size + 1, sizeof(double));
    return output->values && output->scales && output->exponents;
}

void table_prepare_oracle(table_run *run, zm_oracle *call) {
    const zm_signature *signature = &run->entry->signature;
    const zm_oracle_input *first = &run->inputs[0];
    *call = (zm_oracle){.inputs = run->inputs, .numbers = run->values, .outputs = run->outputs, .sizes = &run->sizes};
    call->columns = first->n_dims ? (size_t)first->shape[first->n_dims - 1] : 1;
    call->rows = 1;
    for (int i = 0; i + 1 < first->n_dims; i++) call->rows *= (size_t)first->shape[i];
    for (int i = 0; i < signature->n_outputs; i++) {
        zm_oracle_output *output = &run->outputs[i];
        const zm_pattern *pattern = &signature->output_patterns[i];
        if (!zm_pattern_shape(output->shape, &output->n_dims, pattern, &run->sizes)) continue;
        if (run->shape.columns < 0 && pattern->has_rest && pattern->n_dims == 1) output->n_dims = 0;
        output->terms = (double)(call->columns > 1 ? call->columns : 1);
        allocate(run, output);
    }
}

static void prepare_gradients(table_run *run, zm_oracle *call) {
    const zm_signature *signature = &run->entry->signature;
    for (int i = 0; i < signature->n_inputs; i++) {
        zm_oracle_output *gradient = &run->gradients[i];
        if (!run->inputs[i].values || !table_is_float(signature->roles[i])) continue;
        memcpy(gradient->shape, run->inputs[i].shape, sizeof gradient->shape);
        gradient->n_dims = run->inputs[i].n_dims;
        allocate(run, gradient);
        double columns = (double)(call->columns ? call->columns : 1), rows = (double)(call->rows ? call->rows : 1);
        gradient->terms = signature->roles[i] == ZM_ROLE_PARAMETER && rows > columns ? rows : columns;
    }
    call->cotangents = run->cotangents;
    call->gradients = run->gradients;
}

/* A unit in the last place of value in the type, and the least step. */
static double unit_of(mlx_dtype dtype, double value) {
    if (dtype == MLX_FLOAT16) return fmax(fabs(value) * 0x1p-10, 0x1p-24);
    if (dtype == MLX_BFLOAT16) return fmax(fabs(value) * 0x1p-7, 0x1p-126);
    return 0;
}

static double bound_of(zm_tolerance_class tolerance, const zm_oracle_output *want, size_t i, mlx_dtype dtype,
                       bool gradient) {
    double value = fabs(want->values[i]), terms = isfinite(want->scales[i]) ? want->scales[i] : 4 * value;
    double scale = fmax(terms, value), more = gradient ? 4 : 1, bound = 0;
    /* The gradient of an exact kernel may be a sum: then its oracle gives a scale. */
    if (gradient && tolerance == ZM_EXACT && want->scales[i] != 0) tolerance = ZM_REDUCTION;
    switch (tolerance) {
    case ZM_EXACT:
        if (dtype == MLX_FLOAT32) return UNIT * value * (1 + 1e-9) + 0x1p-150;
        return unit_of(dtype, value) / 2 * (1 + 0x1p-10);
    case ZM_ELEMENTWISE: bound = (16 + 4 * fabs(want->exponents[i])) * UNIT * value + 4 * UNIT * terms; break;
    case ZM_REDUCTION: bound = (64 + 4 * log2(fmax(want->terms, 1))) * UNIT * scale; break;
    case ZM_QUANTISED: bound = 4 * UNIT * scale; break;
    }
    if (!isfinite(bound)) bound = 0;
    return bound * more + unit_of(dtype, value) + 0x1p-126; /* subnormal numbers may be flushed */
}

static double largest_of(mlx_dtype dtype) { return dtype == MLX_FLOAT16 ? 65504 : 0x1.fffffep127; }

static bool is_close(double *error, double got, double want, double bound, mlx_dtype dtype) {
    *error = 0;
    if (isnan(want)) return isnan(got);
    if (isinf(got) && fabs(want) + bound >= largest_of(dtype)) return (got > 0) == (want > 0);
    if (isinf(want)) return got == want;
    *error = fabs(got - want) / bound;
    return fabs(got - want) <= bound;
}

static bool compare(table_run *run, const char *name, mlx_array array, const zm_oracle_output *want,
                    zm_tolerance_class tolerance) {
    if (!array.ctx) {
        snprintf(run->message, sizeof run->message, "%s: there is none", name);
        return false;
    }
    bool same = (int)mlx_array_ndim(array) == want->n_dims;
    for (int i = 0; same && i < want->n_dims; i++) same = mlx_array_dim(array, i) == want->shape[i];
    if (!same) {
        char expected[128], got[128];
        zm_shape_describe(expected, want->shape, want->n_dims);
        zm_shape_describe(got, mlx_array_shape(array), (int)mlx_array_ndim(array));
        snprintf(run->message, sizeof run->message, "%s: shape %s, not %s", name, got, expected);
        return false;
    }
    const double *values = table_read(run, array);
    mlx_dtype dtype = mlx_array_dtype(array);
    for (size_t i = 0; values && i < want->size; i++) {
        double error, bound = bound_of(tolerance, want, i, dtype, run->gradient);
        bool close = is_close(&error, values[i], want->values[i], bound, dtype);
        if (error > run->worst) run->worst = error;
        if (close) continue;
        snprintf(run->message, sizeof run->message, "%s[%zu]: %.9g, not %.9g (bound %.3g)", name, i, values[i],
                 want->values[i], bound);
        return false;
    }
    return values != NULL;
}

static bool has_type(table_run *run, const char *name, mlx_array array, mlx_dtype dtype) {
    if (!array.ctx || mlx_array_dtype(array) == dtype) return true;
    snprintf(run->message, sizeof run->message, "%s: %s, not %s", name, zm_dtype_name(mlx_array_dtype(array)),
             zm_dtype_name(dtype));
    return false;
}

static bool compare_outputs(table_run *run, const mlx_array *results) {
    const zm_signature *signature = &run->entry->signature;
    for (int i = 0; i < signature->n_outputs; i++) {
        const char *type = signature->outputs[i].type;
        bool is_sum = i && run->entry->row->tolerance == ZM_REDUCTION && !strcmp(signature->outputs[i].name, "h");
        if (!type[0] && !has_type(run, signature->outputs[i].name, results[i], run->dtype)) return false;
        if (!compare(run, signature->outputs[i].name, results[i], &run->outputs[i],
                     is_sum || !strncmp(type, "uint", 4) ? ZM_EXACT : run->entry->row->tolerance))
            return false;
    }
    return true;
}

static bool compare_gradients(table_run *run, const mlx_array *results) {
    const zm_signature *signature = &run->entry->signature;
    for (int i = 0; i < signature->n_inputs; i++) {
        if (!run->inputs[i].values || !table_is_float(signature->roles[i])) continue;
        /* A gradient of a copy may be a sum. */
        bool is_sum = signature->roles[i] == ZM_ROLE_PARAMETER || run->entry->row->tolerance == ZM_EXACT;
        zm_tolerance_class tolerance = is_sum ? ZM_REDUCTION : run->entry->row->tolerance;
        char name[90];
        snprintf(name, sizeof name, "d%s", signature->inputs[i].name);
        if (!has_type(run, name, results[i], mlx_array_dtype(run->arrays[i]))) return false;
        if (!compare(run, name, results[i], &run->gradients[i], tolerance)) return false;
    }
    return true;
}

bool table_apply(table_run *run) {
    mlx_array results[ZM_SIGNATURE_MAX_INPUTS] = {{NULL}};
    const zm_kernel_entry *entry = run->entry;
    zm_oracle call;
    zmlx_error error = {0};
    table_prepare_oracle(run, &call);
    if (run->gradient) {
        if (!table_make_cotangents(run)) return false;
        prepare_gradients(run, &call);
    }
    run->oracle(&call);
    zmlx_status status =
        run->gradient ? zmlx_catalog_apply_gradient(entry->entry.name, results, run->arrays, entry->entry.n_inputs,
                                                    run->cotangent_arrays, run->values, run->stream, &error)
                      : zmlx_catalog_apply(entry->entry.name, results, run->arrays, entry->entry.n_inputs, run->values,
                                           run->stream, &error);
    bool passed = !status && (run->gradient ? compare_gradients(run, results) : compare_outputs(run, results));
    if (status) snprintf(run->message, sizeof run->message, "%.60s: %.300s", error.where, error.message);
    for (int i = 0; i < ZM_SIGNATURE_MAX_INPUTS; i++) mlx_array_free(results[i]);
    return passed;
}

/* Evaluates the outputs anew; copies them to values. */
static void evaluate(table_run *run, const zm_oracle *call, double **values) {
    zm_oracle only = *call;
    only.gradients = NULL;
    for (int i = 0; i < run->entry->signature.n_outputs; i++) {
        memset(run->outputs[i].values, 0, run->outputs[i].size * sizeof(double));
        memset(run->outputs[i].scales, 0, run->outputs[i].size * sizeof(double));
    }
    run->oracle(&only);
    for (int i = 0; i < run->entry->signature.n_outputs; i++)
        memcpy(values[i], run->outputs[i].values, run->outputs[i].size * sizeof(double));
}

/* Of the sum of outputs times cotangents, element by element: what does not depend on *at cancels exactly. */
static double difference(table_run *run, zm_oracle *call, double *at, double step, double **above, double **below) {
    double middle = *at, total = 0;
    bool is_undefined = false;
    *at = middle + step;
    evaluate(run, call, above);
    *at = middle - step;
    evaluate(run, call, below);
    *at = middle;
    for (int i = 0; i < run->entry->signature.n_outputs; i++)
        for (size_t j = 0; run->cotangents[i].values && j < run->outputs[i].size; j++) {
            bool both_nan = isnan(above[i][j]) && isnan(below[i][j]);
            is_undefined |= both_nan;
            if (!both_nan && above[i][j] != below[i][j])
                total += (above[i][j] - below[i][j]) * run->cotangents[i].values[j];
        }
    return is_undefined && total == 0 ? (double)NAN : total / (2 * step);
}

static bool make_copies(table_run *run, double **copies) {
    for (int i = 0; i < run->entry->signature.n_outputs; i++)
        if (!(copies[i] = zm_arena_alloc(run->arena, run->outputs[i].size + 1, sizeof(double)))) return false;
    return true;
}

bool table_check_oracle(table_run *run) {
    const zm_signature *signature = &run->entry->signature;
    zm_oracle call;
    table_prepare_oracle(run, &call);
    if (!table_make_cotangents(run)) return false;
    prepare_gradients(run, &call);
    run->oracle(&call);
    double *above[ZM_SIGNATURE_MAX_OUTPUTS], *below[ZM_SIGNATURE_MAX_OUTPUTS];
    if (!make_copies(run, above) || !make_copies(run, below)) return false;
    size_t n_checked = 0, n_points = 0;
    for (int i = 0; i < signature->n_inputs; i++) {
        if (!run->inputs[i].values || !table_is_float(signature->roles[i])) continue;
        double *values = (double *)(uintptr_t)run->inputs[i].values;
        size_t size = run->inputs[i].size, stride = size > 200 ? (17 + size / 200) | 1 : 1; /* odd: all channels */
        for (size_t j = 0; j < size; j += stride) {
            double want = run->gradients[i].values[j], scale = fmax(run->gradients[i].scales[j], 1e-3);
            double step = 1e-5 * fmin(fmax(fabs(values[j]), 0.01), 1);
            double coarse = difference(run, &call, &values[j], 2 * step, above, below);
            double fine = difference(run, &call, &values[j], step, above, below);
            n_points++;
            if (!(fabs(coarse - fine) <= 1e-6 * (scale + fabs(fine)))) continue; /* a kink */
            n_checked++;
            if (fabs(fine - want) <= 1e-5 * (scale + fabs(want))) continue;
            snprintf(run->message, sizeof run->message, "oracle's d%s[%zu]: %.9g, by differences %.9g",
                     signature->inputs[i].name, j, want, fine);
            return false;
        }
    }
    if (3 * n_checked >= n_points) return true;
    snprintf(run->message, sizeof run->message, "oracle: only %zu of %zu differences are smooth", n_checked, n_points);
    return false;
}
