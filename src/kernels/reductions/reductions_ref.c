/* SPDX-License-Identifier: MIT */
#include "kernels/oracle.h"

/* Sum of powers about a centre, and of the terms' magnitudes. */
static double total(const double *x, size_t n, double *size) {
    double sum = 0;
    *size = 0;
    for (size_t i = 0; i < n; i++) {
        sum += x[i];
        *size += fabs(x[i]);
    }
    return sum;
}

static void put_sum(zm_oracle *call, double divisor) {
    size_t n = call->columns;
    for (size_t row = 0; row < call->rows; row++) {
        double size, sum = total(call->inputs[0].values + row * n, n, &size);
        zm_put(&call->outputs[0], row, sum / divisor, size / divisor);
        for (size_t i = 0; i < n && call->gradients; i++) {
            double g = call->cotangents[0].values[row] / divisor;
            zm_put(&call->gradients[0], row * n + i, g, fabs(g));
        }
    }
}

zm_oracle_function zm_ref_sum_lastdim, zm_ref_mean_lastdim, zm_ref_max_lastdim, zm_ref_min_lastdim;
void zm_ref_sum_lastdim(zm_oracle *call) { put_sum(call, 1); }
void zm_ref_mean_lastdim(zm_oracle *call) { put_sum(call, (double)call->columns); }

/* The first of the largest (sign 1) or smallest (sign -1); the first NaN if there is one. */
static size_t extreme(const double *x, size_t n, double sign) {
    size_t best = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(x[i])) return i;
        if (sign * x[i] > sign * x[best]) best = i;
    }
    return best;
}

static void put_extreme(zm_oracle *call, double sign) {
    size_t n = call->columns;
    for (size_t row = 0; row < call->rows; row++) {
        size_t best = extreme(call->inputs[0].values + row * n, n, sign);
        zm_put(&call->outputs[0], row, call->inputs[0].values[row * n + best], 0);
        if (call->gradients) zm_put(&call->gradients[0], row * n + best, call->cotangents[0].values[row], 0);
    }
}
void zm_ref_max_lastdim(zm_oracle *call) { put_extreme(call, 1); }
void zm_ref_min_lastdim(zm_oracle *call) { put_extreme(call, -1); }

/* Variance, or its root with eps. */
static void put_variance(zm_oracle *call, bool is_root) {
    size_t n = call->columns;
    for (size_t row = 0; row < call->rows; row++) {
        const double *x = call->inputs[0].values + row * n;
        double size, mean = total(x, n, &size) / (double)n, square = 0, square_size = 0;
        size /= (double)n;
        for (size_t i = 0; i < n; i++) {
            square += (x[i] - mean) * (x[i] - mean) / (double)n;
            square_size += fabs(x[i] - mean) * (fabs(x[i]) + size) / (double)n + size * size * 0x1p-24;
        }
        if (!n) square = NAN;
        double root = is_root ? sqrt(square + call->numbers[0].number) : 1;
        zm_put(&call->outputs[0], row, is_root ? root : square, is_root ? root + square_size / root : square_size);
        for (size_t i = 0; i < n && call->gradients; i++) {
            double g = call->cotangents[0].values[row] * (is_root ? 1 / root : 2) / (double)n;
            double more = is_root ? fabs(x[i] - mean) * square_size / (root * root) : 0;
            zm_put(&call->gradients[0], row * n + i, g * (x[i] - mean), fabs(g) * (fabs(x[i]) + size + more));
        }
    }
}
zm_oracle_function zm_ref_var_lastdim, zm_ref_std_lastdim;
void zm_ref_var_lastdim(zm_oracle *call) { put_variance(call, false); }
void zm_ref_std_lastdim(zm_oracle *call) { put_variance(call, true); }

zm_oracle_function zm_ref_argmax_lastdim, zm_ref_topk_lastdim;
void zm_ref_argmax_lastdim(zm_oracle *call) {
    for (size_t row = 0; row < call->rows; row++)
        zm_put(&call->outputs[0], row, (double)extreme(call->inputs[0].values + row * call->columns, call->columns, 1),
               0);
}

/* Whether element a of a row comes before element b. */
static bool precedes(const double *x, size_t a, size_t b) {
    if (isnan(x[a]) != isnan(x[b])) return isnan(x[a]);
    if (x[a] != x[b] && !isnan(x[a])) return x[a] > x[b];
    return a < b;
}

/* Element i stands at place p where p others precede it. */
void zm_ref_topk_lastdim(zm_oracle *call) {
    size_t n = call->columns, k = (size_t)call->numbers[0].number;
    for (size_t row = 0; row < call->rows; row++) {
        const double *x = call->inputs[0].values + row * n;
        for (size_t i = 0; i < n; i++) {
            size_t place = 0;
            for (size_t j = 0; j < n && place < k; j++) place += precedes(x, j, i);
            if (place >= k) continue;
            zm_put(&call->outputs[0], row * k + place, x[i], 0);
            zm_put(&call->outputs[1], row * k + place, (double)i, 0);
            if (call->gradients)
                zm_put(&call->gradients[0], row * n + i, call->cotangents[0].values[row * k + place], 0);
        }
    }
}
