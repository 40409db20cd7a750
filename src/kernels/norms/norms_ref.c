/* SPDX-License-Identifier: MIT */
#include "kernels/norms/norms_ref.h"

#include <stdlib.h>

typedef struct row_state {
    size_t n;
    double *h, *n_hat, *size, *a; /* the normalised row, the magnitude of n_hat's terms, cotangent of n_hat */
    double r;
} row_state;

static double optional(const zm_oracle *call, int input, size_t i, double absent) {
    return input >= 0 && call->inputs[input].values ? call->inputs[input].values[i] : absent;
}

static void normalise(row_state *self, const zm_oracle *call, const zm_ref_norm *norm, size_t row) {
    size_t n = self->n;
    double mean = 0, size = 0, square = 0, eps = call->numbers[norm->eps].number;
    for (size_t i = 0; i < n; i++) {
        double a = call->inputs[0].values[row * n + i];
        double b = norm->residual >= 0 ? call->inputs[norm->residual].values[row * n + i] : 0;
        self->h[i] = a + b;
        self->size[i] = fabs(a) + fabs(b);
        mean += self->h[i] / (double)n;
        size += self->size[i] / (double)n;
    }
    if (!norm->centred) mean = size = 0;
    for (size_t i = 0; i < n; i++) square += (self->h[i] - mean) * (self->h[i] - mean) / (double)n;
    self->r = 1 / sqrt(square + eps);
    for (size_t i = 0; i < n; i++) {
        self->n_hat[i] = (self->h[i] - mean) * self->r;
        self->size[i] = (self->size[i] + size) * self->r;
    }
}

static double kept(const zm_oracle *call, const zm_ref_norm *norm, size_t i) {
    if (norm->p < 0) return 1;
    double p = (double)(float)call->numbers[norm->p].number;
    return zm_ref_random(call->numbers[norm->seed].seed, i) < p ? 0 : 1 / (1 - p);
}

static void put_outputs(zm_oracle *call, const zm_ref_norm *norm, const row_state *self, size_t row) {
    for (size_t i = 0; i < self->n; i++) {
        size_t at = row * self->n + i;
        double w = optional(call, norm->weight, i, 1), b = optional(call, norm->bias, i, 0), k = kept(call, norm, at);
        zm_put(&call->outputs[0], at, k != 0 ? k * (self->n_hat[i] * w + b) : 0,
               k * (self->size[i] * fabs(w) + fabs(b)));
        if (norm->sum_output >= 0) {
            double sum = call->inputs[0].values[at] + call->inputs[norm->residual].values[at];
            zm_put(&call->outputs[norm->sum_output], at, sum, fabs(sum));
        }
    }
}

/* Drms(a) = r (a - n mean(a n)); Dln(a) = r (a - mean a - n mean(a n)). */
static void put_gradients(zm_oracle *call, const zm_ref_norm *norm, row_state *self, size_t row) {
    size_t n = self->n;
    const double *g = call->cotangents[0].values + row * n;
    double mean = 0, dot = 0, mean_scale = 0, dot_scale = 0;
    for (size_t i = 0; i < n; i++) {
        double k = kept(call, norm, row * n + i), w = optional(call, norm->weight, i, 1);
        double from = k != 0 ? g[i] * k : 0;
        self->a[i] = from * w;
        mean += self->a[i] / (double)n;
        dot += self->a[i] * self->n_hat[i] / (double)n;
        mean_scale += fabs(self->a[i]) / (double)n;
        dot_scale += fabs(self->a[i]) * self->size[i] / (double)n;
        if (norm->weight >= 0 && call->inputs[norm->weight].values)
            zm_put_more(&call->gradients[norm->weight], i, from * self->n_hat[i], fabs(from) * self->size[i]);
        if (norm->bias >= 0 && call->inputs[norm->bias].values)
            zm_put_more(&call->gradients[norm->bias], i, from, fabs(from));
    }
    if (!norm->centred) mean = mean_scale = 0;
    for (size_t i = 0; i < n; i++) {
        size_t at = row * n + i;
        double value = self->r * (self->a[i] - mean - self->n_hat[i] * dot);
        double scale = self->r * (fabs(self->a[i]) + mean_scale + self->size[i] * dot_scale);
        if (norm->sum_output >= 0) {
            value += call->cotangents[norm->sum_output].values[at];
            scale += fabs(call->cotangents[norm->sum_output].values[at]);
        }
        zm_put(&call->gradients[0], at, value, scale);
        if (norm->residual >= 0) zm_put(&call->gradients[norm->residual], at, value, scale);
    }
}

void zm_ref_apply_norm(zm_oracle *call, const zm_ref_norm *norm) {
    size_t n = call->columns;
    double *memory = calloc(4 * n + 1, sizeof *memory);
    if (!memory) return;
    row_state self = {n, memory, memory + n, memory + 2 * n, memory + 3 * n, 0};
    for (size_t row = 0; row < call->rows; row++) {
        normalise(&self, call, norm, row);
        put_outputs(call, norm, &self, row);
        if (call->gradients) put_gradients(call, norm, &self, row);
    }
    free(memory);
}

#define NORM(name, ...)                                                   \
    zm_oracle_function zm_ref_##name;                                     \
    void zm_ref_##name(zm_oracle *call) {                                 \
        static const zm_ref_norm norm = {__VA_ARGS__};                    \
        zm_ref_apply_norm(call, &norm);                                   \
    }
/*                         centred  weight bias residual sum eps   p seed */
NORM(rmsnorm,              false,   1,     -1,  -1,      -1, 0,   -1, -1)
NORM(rms_norm_no_weight,   false,   -1,    -1,  -1,      -1, 0,   -1, -1)
NORM(layernorm,            true,    1,     2,   -1,      -1, 0,   -1, -1)
NORM(layer_norm_no_weight, true,    -1,    -1,  -1,      -1, 0,   -1, -1)
NORM(layer_norm_dropout,   true,    1,     2,   -1,      -1, 2,   0,  1)
NORM(residual_rmsnorm,     false,   2,     -1,  1,       -1, 0,   -1, -1)
NORM(add_rms_norm,         false,   2,     -1,  1,       1,  0,   -1, -1)

/* r (a - n mean(a n)), a = cotan w; its gradient by the chain rule, n' = r (v - n mean(v n)) for any direction v. */
zm_oracle_function zm_ref_rmsnorm_grad;
void zm_ref_rmsnorm_grad(zm_oracle *call) {
    size_t n = call->columns;
    const double *w = call->inputs[1].values;
    double eps = call->numbers[0].number, d = (double)n;
    for (size_t row = 0; row < call->rows; row++) {
        const double *x = call->inputs[0].values + row * n, *c = call->inputs[2].values + row * n;
        double square = 0, m = 0, m_scale = 0, s = 0, t = 0, s_scale = 0, t_scale = 0;
        for (size_t i = 0; i < n; i++) square += x[i] * x[i] / d;
        double r = 1 / sqrt(square + eps);
        for (size_t i = 0; i < n; i++) {
            m += c[i] * w[i] * x[i] * r / d;
            m_scale += fabs(c[i] * w[i] * x[i]) * r / d;
        }
        for (size_t i = 0; i < n; i++)
            zm_put(&call->outputs[0], row * n + i, r * (c[i] * w[i] - x[i] * r * m),
                   r * (fabs(c[i] * w[i]) + fabs(x[i]) * r * m_scale));
        if (!call->gradients) continue;
        const double *g = call->cotangents[0].values + row * n;
        for (size_t i = 0; i < n; i++) {
            s += g[i] * x[i] * r / d; /* mean(g n) */
            t += g[i] * c[i] * w[i] / d;
            s_scale += fabs(g[i] * x[i]) * r / d;
            t_scale += fabs(g[i] * c[i] * w[i]) / d;
        }
        for (size_t i = 0; i < n; i++) {
            double hat = x[i] * r, a = c[i] * w[i], back = r * (g[i] - hat * s);
            double back_scale = r * (fabs(g[i]) + fabs(hat) * s_scale), r2 = r * r;
            zm_put(&call->gradients[2], row * n + i, w[i] * back, fabs(w[i]) * back_scale);
            zm_put_more(&call->gradients[1], i, c[i] * back, fabs(c[i]) * back_scale);
            /* d/dx of sum g r (a - n m): -r2 (n t + g m + a s - 3 n m s) with r' = -r2 n / d and n' = r (1 - n n /
             * d). */
            zm_put(&call->gradients[0], row * n + i, -r2 * (hat * t + g[i] * m + a * s - 3 * hat * m * s),
                   r2 * (fabs(hat) * t_scale + fabs(g[i]) * m_scale + fabs(a) * s_scale +
                         3 * fabs(hat) * m_scale * s_scale));
        }
    }
}
