/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "kernels/moe/experts_ref.h"

/* Sets places to those of the k largest, NaN first, equal values by ascending place. */
static void choose(size_t *places, const double *v, size_t n, size_t k) {
    for (size_t i = 0; i < k; i++) {
        size_t best = n;
        for (size_t j = 0; j < n; j++) {
            bool taken = false;
            for (size_t t = 0; t < i; t++) taken |= places[t] == j;
            if (taken) continue;
            if (best == n || (isnan(v[j]) && !isnan(v[best])) || v[j] > v[best]) best = j;
        }
        places[i] = best;
    }
}

static double largest(const double *v, size_t n) {
    double m = -INFINITY;
    for (size_t i = 0; i < n; i++)
        if (isnan(v[i]) || v[i] > m) m = isnan(m) ? m : v[i];
    return m;
}

static void softmax(double *p, const double *x, size_t n) {
    double m = largest(x, n), sum = 0;
    for (size_t i = 0; i < n; i++) sum += exp(x[i] - m);
    for (size_t i = 0; i < n; i++) p[i] = m == -INFINITY ? 0 : exp(x[i] - m) / sum;
}

/* What the argument of the exponential adds to the error of p = e^(x - m) / sum. */
static double spread_of(double x, double m) { return 1 + (isfinite(m - x) ? fabs(m - x) : 0) / 16; }

/* The softmax of x at places, and its gradient. */
static void gate_chosen(zm_oracle *call, size_t row, const size_t *places, size_t k) {
    const double *x = call->inputs[0].values + row * call->columns;
    double chosen[128], w[128], dot = 0, dot_size = 0;
    for (size_t i = 0; i < k; i++) chosen[i] = x[places[i]];
    softmax(w, chosen, k);
    double m = largest(chosen, k);
    for (size_t i = 0; i < k; i++) {
        zm_put(&call->outputs[0], row * k + i, w[i], w[i] * spread_of(chosen[i], m));
        zm_put(&call->outputs[1], row * k + i, (double)places[i], 0);
        if (!call->gradients) continue;
        dot += call->cotangents[0].values[row * k + i] * w[i];
        dot_size += fabs(call->cotangents[0].values[row * k + i] * w[i]);
    }
    for (size_t i = 0; i < k && call->gradients; i++) {
        double g = call->cotangents[0].values[row * k + i];
        zm_put(&call->gradients[0], row * call->columns + places[i], w[i] * (g - dot),
               w[i] * spread_of(chosen[i], m) * (fabs(g) + dot_size));
    }
}

/* w = c / (sum c + eps) of chosen c with magnitudes: sets w, and dc from g where given. */
static void normalise(double *w, double *size, double *dc, double *dc_size, const double *c, const double *g,
                      size_t k, double eps) {
    double sum = eps, magnitude = eps, dot = 0, dot_size = 0;
    for (size_t i = 0; i < k; i++) sum += c[i], magnitude += fabs(c[i]);
    if (sum == 0) sum = 1; /* zeros, not NaN */
    double worse = magnitude / fabs(sum);
    for (size_t i = 0; i < k; i++) {
        w[i] = c[i] / sum;
        size[i] = fabs(w[i]) * worse;
        if (g) dot += g[i] * w[i], dot_size += fabs(g[i]) * size[i];
    }
    for (size_t i = 0; i < k && g; i++) {
        dc[i] = (g[i] - dot) / sum;
        dc_size[i] = (fabs(g[i]) + dot_size) / fabs(sum) * worse;
    }
}

typedef struct gating {
    size_t n, k;
    double *p, *scores, *dp, *dp_size; /* n each */
    size_t *places;
    double c[128], w[128], size[128], dc[128], dc_size[128];
} gating;

static void put_probabilities(zm_oracle *call, gating *self, size_t row, bool biased) {
    const double *g = call->gradients ? call->cotangents[0].values + row * self->k : NULL;
    const double *x = call->inputs[0].values + row * self->n;
    double dot = 0, dot_size = 0, m = largest(x, self->n);
    for (size_t i = 0; i < self->n; i++) self->dp[i] = self->dp_size[i] = 0;
    for (size_t i = 0; i < self->k; i++) {
        double value = m == -INFINITY ? 0 : self->w[i];
        zm_put(&call->outputs[0], row * self->k + i, value, self->size[i] * (1 + spread_of(x[self->places[i]], m)));
        zm_put(&call->outputs[1], row * self->k + i, (double)self->places[i], 0);
        if (!g || m == -INFINITY) continue;
        self->dp[self->places[i]] = self->dc[i];
        self->dp_size[self->places[i]] = self->dc_size[i];
        dot += self->p[self->places[i]] * self->dc[i];
        dot_size += self->p[self->places[i]] * self->dc_size[i];
        if (biased) zm_put_more(&call->gradients[1], self->places[i], self->dc[i], self->dc_size[i]);
    }
    for (size_t i = 0; i < self->n && g; i++)
        zm_put(&call->gradients[0], row * self->n + i, self->p[i] * (self->dp[i] - dot),
               self->p[i] * (self->dp_size[i] + dot_size) * 2 * spread_of(x[i], m));
}

static void gate_probabilities(zm_oracle *call, gating *self, size_t row) {
    const double *bias = call->inputs[1].values;
    bool normalises = call->numbers[1].number != 0, in_weights = call->numbers[2].number != 0;
    softmax(self->p, call->inputs[0].values + row * self->n, self->n);
    for (size_t i = 0; i < self->n; i++) self->scores[i] = self->p[i] + (bias ? bias[i] : 0);
    choose(self->places, self->scores, self->n, self->k);
    const double *g = call->gradients ? call->cotangents[0].values + row * self->k : NULL;
    for (size_t i = 0; i < self->k; i++) {
        self->c[i] = in_weights ? self->scores[self->places[i]] : self->p[self->places[i]];
        self->w[i] = self->c[i];
        self->size[i] = self->p[self->places[i]] + (in_weights && bias ? fabs(bias[self->places[i]]) : 0);
        if (g) self->dc[i] = g[i], self->dc_size[i] = fabs(g[i]);
    }
    if (normalises) normalise(self->w, self->size, self->dc, self->dc_size, self->c, g, self->k, 1e-20);
    put_probabilities(call, self, row, bias && in_weights);
}

static bool begin_gating(gating *self, const zm_oracle *call, size_t k) {
    *self = (gating){.n = call->columns,
                     .k = k,
                     .places = calloc(k + 1, sizeof(size_t)),
                     .p = calloc(4 * call->columns + 1, sizeof(double))};
    self->scores = self->p + self->n, self->dp = self->p + 2 * self->n, self->dp_size = self->p + 3 * self->n;
    return self->p && self->places && k <= 128;
}

static void end_gating(gating *self) {
    free(self->p);
    free(self->places);
}

zm_oracle_function zm_ref_topk_gating_softmax, zm_ref_top2_gating_softmax, zm_ref_router_argpartition_logits_topk;
void zm_ref_topk_gating_softmax(zm_oracle *call) {
    gating self;
    bool direct = !call->inputs[1].values && call->numbers[1].number != 0;
    for (size_t row = 0; begin_gating(&self, call, (size_t)call->numbers[0].number) && row < call->rows; row++) {
        choose(self.places, call->inputs[0].values + row * self.n, self.n, self.k);
        if (direct) gate_chosen(call, row, self.places, self.k);
        else gate_probabilities(call, &self, row);
        end_gating(&self);
    }
}

void zm_ref_top2_gating_softmax(zm_oracle *call) {
    for (size_t row = 0; row < call->rows; row++) {
        size_t places[2];
        choose(places, call->inputs[0].values + row * call->columns, call->columns, 2);
        gate_chosen(call, row, places, 2);
    }
}

/* Sorted ascending by value, then by place: the last k. */
void zm_ref_router_argpartition_logits_topk(zm_oracle *call) {
    size_t k = (size_t)call->numbers[0].number, n = call->columns, places[128];
    for (size_t row = 0; row < call->rows; row++) {
        const double *x = call->inputs[0].values + row * n;
        for (size_t i = 0; i < n; i++) {
            size_t rank = 0;
            for (size_t j = 0; j < n; j++) {
                bool below = isnan(x[i]) ? !isnan(x[j]) : x[j] < x[i], equal = isnan(x[i]) ? isnan(x[j]) : x[j] == x[i];
                rank += below || (equal && j < i);
            }
            if (rank >= n - k) places[rank - (n - k)] = i;
        }
        gate_chosen(call, row, places, k);
    }
}

/* scores of dropped groups become 0. */
static void drop_groups(double *scores, size_t n, size_t n_group, size_t kept) {
    size_t size = n / n_group, places[128], two[2];
    double best[128];
    for (size_t i = 0; i < n_group; i++) {
        choose(two, scores + i * size, size, size < 2 ? size : 2);
        best[i] = scores[i * size + two[0]] + (size < 2 ? 0 : scores[i * size + two[1]]);
    }
    choose(places, best, n_group, kept);
    for (size_t i = 0; i < n; i++) {
        bool keep = false;
        for (size_t j = 0; j < kept; j++) keep |= places[j] == i / size;
        if (!keep) scores[i] = 0;
    }
}

zm_oracle_function zm_ref_deepseek_router_topk_sigmoid;
void zm_ref_deepseek_router_topk_sigmoid(zm_oracle *call) {
    gating self;
    size_t n_group = (size_t)call->numbers[1].number;
    double f = call->numbers[5].number;
    for (size_t row = 0; begin_gating(&self, call, (size_t)call->numbers[0].number) && row < call->rows; row++) {
        const double *x = call->inputs[0].values + row * self.n,
                     *g = call->gradients ? call->cotangents[0].values + row * self.k : NULL;
        for (size_t i = 0; i < self.n; i++) self.scores[i] = zm_ref_logistic(x[i]) + call->inputs[1].values[i];
        if (n_group > 1) drop_groups(self.scores, self.n, n_group, (size_t)call->numbers[2].number);
        choose(self.places, self.scores, self.n, self.k);
        for (size_t i = 0; i < self.k; i++) {
            self.c[i] = self.w[i] = self.size[i] = zm_ref_logistic(x[self.places[i]]);
            if (g) self.dc[i] = g[i], self.dc_size[i] = fabs(g[i]);
        }
        if (call->numbers[3].number != 0)
            normalise(self.w, self.size, self.dc, self.dc_size, self.c, g, self.k, call->numbers[4].number);
        for (size_t i = 0; i < self.n && g; i++)
            zm_put(&call->gradients[0], row * self.n + i, isnan(x[i]) ? NAN : 0, 0);
        for (size_t i = 0; i < self.k; i++) {
            double a = self.c[i], slope = f * a * zm_ref_logistic(-x[self.places[i]]);
            zm_put(&call->outputs[0], row * self.k + i, f * self.w[i],
                   fabs(f) * self.size[i] * (1 + fabs(zm_ref_tail(x[self.places[i]])) / 8));
            zm_put(&call->outputs[1], row * self.k + i, (double)self.places[i], 0);
            if (g)
                zm_put(&call->gradients[0], row * self.n + self.places[i], self.dc[i] * slope,
                       self.dc_size[i] * fabs(slope) * 2);
        }
        end_gating(&self);
    }
}

zm_oracle_function zm_ref_moe_dispatch;
void zm_ref_moe_dispatch(zm_oracle *call) {
    size_t n = (size_t)zm_oracle_size(call, "D"), k = (size_t)zm_oracle_size(call, "K");
    for (size_t i = 0; i < call->outputs[0].size; i++) {
        size_t from = i / (k * n) * n + i % n;
        zm_put(&call->outputs[0], i, call->inputs[0].values[from], 0);
        if (call->gradients)
            zm_put_more(&call->gradients[0], from, call->cotangents[0].values[i],
                        fabs(call->cotangents[0].values[i]));
    }
}

zm_oracle_function zm_ref_moe_combine, zm_ref_moe_combine_exact;
void zm_ref_moe_combine(zm_oracle *call) {
    size_t n = (size_t)zm_oracle_size(call, "D");
    for (size_t i = 0; i < call->inputs[0].size; i++) {
        size_t k = (size_t)zm_oracle_size(call, "K"), to = i / (k * n) * n + i % n;
        double y = call->inputs[0].values[i], w = call->inputs[1].values[i / n];
        zm_put_more(&call->outputs[0], to, w * y, fabs(w * y));
        if (!call->gradients) continue;
        double g = call->cotangents[0].values[to];
        zm_put(&call->gradients[0], i, w * g, fabs(w * g));
        zm_put_more(&call->gradients[1], i / n, g * y, fabs(g * y));
    }
}

/* The bits have a test of their own: here, as near to the sum as the steps' rounding allows. */
void zm_ref_moe_combine_exact(zm_oracle *call) {
    double steps = 4 + zm_oracle_size(call, "K");
    zm_ref_moe_combine(call);
    for (size_t i = 0; i < call->outputs[0].size; i++) call->outputs[0].scales[i] *= steps * 0x1p10;
}

/* weight(expert, from DI, to DO) and its magnitude. */
typedef double weight_function(const zm_oracle *call, size_t expert, size_t from, size_t to, bool size);

static void combine_experts(zm_oracle *call, int gate_input, int index_input, weight_function *weight,
                            bool has_weights) {
    size_t k = (size_t)zm_oracle_size(call, "K"), n_in = (size_t)zm_oracle_size(call, "DI"),
           n_out = (size_t)zm_oracle_size(call, "DO");
    for (size_t row = 0; row < call->inputs[gate_input].size; row++) {
        double gate = call->inputs[gate_input].values[row], index = call->inputs[index_input].values[row];
        bool inside = index >= 0 && index < zm_oracle_size(call, "E");
        size_t expert = inside ? (size_t)index : 0;
        for (size_t o = 0; o < n_out; o++) {
            size_t to = row / k * n_out + o;
            double product = 0, size = 0, g = call->gradients ? call->cotangents[0].values[to] : 0;
            for (size_t i = 0; i < n_in && inside; i++) {
                double a = call->inputs[0].values[row * n_in + i], w = weight(call, expert, i, o, false),
                       w_size = weight(call, expert, i, o, true);
                product += a * w;
                size += fabs(a) * w_size;
                if (!call->gradients) continue;
                zm_put_more(&call->gradients[0], row * n_in + i, gate * g * w, fabs(gate * g) * w_size);
                if (has_weights)
                    zm_put_more(&call->gradients[1], (expert * n_in + i) * n_out + o, gate * a * g,
                                fabs(gate * a * g));
            }
            zm_put_more(&call->outputs[0], to, inside ? gate * product : NAN, fabs(gate) * size);
            if (call->gradients && inside) zm_put_more(&call->gradients[gate_input], row, g * product, fabs(g) * size);
        }
    }
}

static double plain_weight(const zm_oracle *call, size_t expert, size_t from, size_t to, bool size) {
    double w = call->inputs[1].values[(expert * (size_t)zm_oracle_size(call, "DI") + from) *
                                          (size_t)zm_oracle_size(call, "DO") +
                                      to];
    return size ? fabs(w) : w;
}

static double packed_weight(const zm_oracle *call, size_t expert, size_t from, size_t to, bool size) {
    zm_ref_packed packed = {&call->inputs[1], &call->inputs[2], &call->inputs[3], (size_t)zm_oracle_size(call, "DI"),
                            (size_t)call->numbers[1].number, (size_t)call->numbers[0].number};
    size_t row = expert * (size_t)zm_oracle_size(call, "DO") + to;
    return size ? zm_ref_weight_size(&packed, row, from) : zm_ref_weight(&packed, row, from);
}

zm_oracle_function zm_ref_gather_qmm_combine, zm_ref_gather_qmm_combine_quantized;
void zm_ref_gather_qmm_combine(zm_oracle *call) { combine_experts(call, 2, 3, plain_weight, true); }
void zm_ref_gather_qmm_combine_quantized(zm_oracle *call) { combine_experts(call, 4, 5, packed_weight, false); }
