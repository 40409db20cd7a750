/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "kernels/oracle.h"

static double largest(const double *v, const double *keep, size_t n) {
    double m = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        if (keep && keep[i] == 0) continue;
        if (isnan(v[i]) || v[i] > m) m = isnan(m) ? m : v[i];
    }
    return m;
}

zm_oracle_function zm_ref_logsumexp_lastdim;
void zm_ref_logsumexp_lastdim(zm_oracle *call) {
    size_t n = call->columns;
    for (size_t row = 0; row < call->rows; row++) {
        const double *x = call->inputs[0].values + row * n;
        double m = largest(x, NULL, n), sum = 0;
        for (size_t i = 0; i < n; i++) sum += exp(x[i] - m);
        zm_put(&call->outputs[0], row, isinf(m) ? m : m + log(sum), fabs(m) + fabs(log(sum)));
        for (size_t i = 0; i < n && call->gradients; i++) {
            double g = call->cotangents[0].values[row], p = exp(x[i] - m) / sum;
            double spread = 1 + fabs(isfinite(m - x[i]) ? m - x[i] : 0) / 16;
            zm_put(&call->gradients[0], row * n + i, m == -INFINITY ? 0 : g * p, fabs(g) * p * spread);
        }
    }
}

/* Softmax of scale * x over kept elements. */
static void masked_rows(zm_oracle *call, double scale) {
    size_t n = call->columns;
    double *v = calloc(2 * n + 1, sizeof *v), *y = v + n;
    if (!v) return;
    for (size_t row = 0; row < call->rows; row++) {
        const double *x = call->inputs[0].values + row * n, *keep = call->inputs[1].values + row * n;
        for (size_t i = 0; i < n; i++) v[i] = scale * x[i];
        double m = largest(v, keep, n), sum = 0, dot = 0, dot_scale = 0;
        for (size_t i = 0; i < n; i++) sum += keep[i] != 0 ? exp(v[i] - m) : 0;
        for (size_t i = 0; i < n; i++) {
            double spread = 1 + (fabs(isfinite(m - v[i]) ? m - v[i] : 0) +
                                 8 * (scale != 1) * fabs(isfinite(v[i]) ? v[i] : 0)) /
                                    16;
            y[i] = m == -INFINITY || keep[i] == 0 ? 0 : exp(v[i] - m) / sum;
            zm_put(&call->outputs[0], row * n + i, y[i], fabs(y[i]) * spread);
            if (!call->gradients || y[i] == 0) continue;
            dot += call->cotangents[0].values[row * n + i] * y[i];
            dot_scale += fabs(call->cotangents[0].values[row * n + i] * y[i]) * spread;
        }
        for (size_t i = 0; i < n && call->gradients; i++) {
            double g = call->cotangents[0].values[row * n + i], size = call->outputs[0].scales[row * n + i];
            zm_put(&call->gradients[0], row * n + i, keep[i] != 0 ? scale * y[i] * (g - dot) : 0,
                   fabs(scale) * size * (fabs(g) + dot_scale));
        }
    }
    free(v);
}

zm_oracle_function zm_ref_masked_softmax, zm_ref_scale_mask_softmax;
void zm_ref_masked_softmax(zm_oracle *call) { masked_rows(call, 1); }
void zm_ref_scale_mask_softmax(zm_oracle *call) { masked_rows(call, (double)(float)call->numbers[0].number); }

zm_oracle_function zm_ref_attention_tile_proto;
void zm_ref_attention_tile_proto(zm_oracle *call) {
    size_t m = (size_t)zm_oracle_size(call, "M"), n = (size_t)zm_oracle_size(call, "N"),
           k = (size_t)zm_oracle_size(call, "K");
    for (size_t i = 0; i < call->outputs[0].size; i++) {
        size_t row = i / n, batch = row / m, column = i % n;
        for (size_t j = 0; j < k; j++) {
            size_t at_q = row * k + j, at_k = (batch * n + column) * k + j;
            double a = call->inputs[0].values[at_q], b = call->inputs[1].values[at_k];
            zm_put_more(&call->outputs[0], i, a * b, fabs(a * b));
            if (!call->gradients) continue;
            double g = call->cotangents[0].values[i];
            zm_put_more(&call->gradients[0], at_q, g * b, fabs(g * b));
            zm_put_more(&call->gradients[1], at_k, g * a, fabs(g * a));
        }
    }
}

/* One query: places of its keys (and values) in the caches, its scores and weights. */
typedef struct query {
    size_t at, length, size;
    size_t *places;
    double *p, *p_size;
    double scale;
} query;

/* False: a block or the length is out of range. */
static bool find_places(query *self, const zm_oracle *call, size_t b, size_t kv_head) {
    size_t block_size = (size_t)zm_oracle_size(call, "BS"), blocks = (size_t)zm_oracle_size(call, "MB");
    size_t kv_heads = (size_t)zm_oracle_size(call, "HKV");
    double length = call->inputs[4].values[b];
    if (length < 0 || length > (double)(blocks * block_size)) return false;
    self->length = (size_t)length;
    for (size_t i = 0; i < self->length; i++) {
        double block = call->inputs[3].values[b * blocks + i / block_size];
        if (block < 0 || block >= zm_oracle_size(call, "NB")) return false;
        self->places[i] = (((size_t)block * block_size + i % block_size) * kv_heads + kv_head) * self->size;
    }
    return true;
}

static void weigh(query *self, const zm_oracle *call) {
    const double *q = call->inputs[0].values + self->at, *keys = call->inputs[1].values;
    double m = -INFINITY, sum = 0, most = 0;
    for (size_t i = 0; i < self->length; i++) {
        self->p[i] = self->p_size[i] = 0;
        for (size_t j = 0; j < self->size; j++) {
            double term = self->scale * q[j] * keys[self->places[i] + j];
            self->p[i] += term;
            self->p_size[i] += isfinite(term) ? fabs(term) : 0;
        }
        if (isnan(self->p[i]) || self->p[i] > m) m = isnan(m) ? m : self->p[i];
        most = fmax(most, self->p_size[i]);
    }
    for (size_t i = 0; i < self->length; i++) sum += exp(self->p[i] - m);
    for (size_t i = 0; i < self->length; i++) {
        self->p[i] = m == -INFINITY ? 0 : exp(self->p[i] - m) / sum;
        self->p_size[i] = self->p[i] * (1 + 2 * most); /* an error of a score is one of the exponent */
    }
}

static void put_gradients(zm_oracle *call, const query *self) {
    const double *q = call->inputs[0].values + self->at, *keys = call->inputs[1].values, *all = call->inputs[2].values;
    const double *g = call->cotangents[0].values + self->at;
    double dot = 0, dot_size = 0;
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < self->length; i++) {
            double dp = 0, dp_size = 0;
            for (size_t j = 0; j < self->size; j++) {
                dp += g[j] * all[self->places[i] + j];
                dp_size += fabs(g[j] * all[self->places[i] + j]);
            }
            if (!pass) {
                dot += self->p[i] * dp;
                dot_size += self->p_size[i] * dp_size;
                continue;
            }
            double ds = self->scale * self->p[i] * (dp - dot),
                   ds_size = self->scale * self->p_size[i] * (dp_size + dot_size);
            for (size_t j = 0; j < self->size; j++) {
                size_t at = self->places[i] + j;
                zm_put_more(&call->gradients[0], self->at + j, ds * keys[at], ds_size * fabs(keys[at]));
                zm_put_more(&call->gradients[1], at, ds * q[j], ds_size * fabs(q[j]));
                zm_put_more(&call->gradients[2], at, self->p[i] * g[j], self->p_size[i] * fabs(g[j]));
            }
        }
}

zm_oracle_function zm_ref_paged_attention;
void zm_ref_paged_attention(zm_oracle *call) {
    size_t heads = (size_t)zm_oracle_size(call, "H"), kv_heads = (size_t)zm_oracle_size(call, "HKV");
    size_t total = (size_t)(zm_oracle_size(call, "MB") * zm_oracle_size(call, "BS"));
    double scale = call->numbers[0].number;
    query self = {.size = (size_t)zm_oracle_size(call, "K"),
                  .places = calloc(total + 1, sizeof(size_t)),
                  .p = calloc(2 * total + 1, sizeof(double))};
    self.p_size = self.p + total;
    self.scale = scale > 0 ? (double)(float)scale : 1 / sqrt((double)self.size);
    for (size_t row = 0; row < call->outputs[0].size / self.size && self.places && self.p; row++) {
        size_t b = row / heads;
        bool found = find_places(&self, call, b, row % heads / (heads / kv_heads));
        self.at = row * self.size;
        for (size_t j = 0; j < self.size && !found; j++) zm_put(&call->outputs[0], self.at + j, NAN, 0);
        if (!found) continue;
        weigh(&self, call);
        for (size_t i = 0; i < self.length; i++)
            for (size_t j = 0; j < self.size; j++) {
                double v = call->inputs[2].values[self.places[i] + j];
                zm_put_more(&call->outputs[0], self.at + j, self.p[i] * v, self.p_size[i] * fabs(v));
            }
        if (call->gradients) put_gradients(call, &self);
    }
    free(self.places);
    free(self.p);
}
