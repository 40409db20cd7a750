/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "kernels/oracle.h"

zm_oracle_function zm_ref_linear_cross_entropy;

typedef struct row_logits {
    double *z, *size; /* and the magnitudes of their terms */
    double m, sum, worst;
} row_logits;

static void multiply(row_logits *row, const double *x, const double *w, size_t n, size_t k) {
    row->m = -INFINITY;
    row->worst = 0;
    for (size_t i = 0; i < n; i++) {
        row->z[i] = row->size[i] = 0;
        for (size_t j = 0; j < k; j++) {
            row->z[i] += x[j] * w[i * k + j];
            row->size[i] += fabs(x[j] * w[i * k + j]);
        }
        if (!(row->z[i] <= row->m)) row->m = row->z[i];
        if (row->size[i] > row->worst) row->worst = row->size[i];
    }
    row->sum = 0;
    for (size_t i = 0; i < n; i++) row->sum += exp(row->z[i] - row->m);
}

/* lse(z) - z[t]; dz = (softmax(z) - one) g, dx = dz w, dw = sum of dz x. */
void zm_ref_linear_cross_entropy(zm_oracle *call) {
    size_t n = (size_t)zm_oracle_size(call, "N"), k = call->columns;
    const double *w = call->inputs[1].values, *t = call->inputs[2].values;
    row_logits row = {calloc(n + 1, sizeof(double)), calloc(n + 1, sizeof(double)), 0, 0, 0};
    for (size_t r = 0; r < call->rows && row.z && row.size; r++) {
        const double *x = call->inputs[0].values + r * k;
        multiply(&row, x, w, n, k);
        bool bad = !(t[r] >= 0 && t[r] < (double)n);
        size_t target = bad ? 0 : (size_t)t[r];
        call->outputs[0].terms = (double)(n > k ? n : k);
        zm_put(&call->outputs[0], r, bad ? NAN : row.m - row.z[target] + log(row.sum),
               row.worst + row.size[target] + fabs(log(row.sum)));
        for (size_t i = 0; i < n && call->gradients && !bad; i++) {
            double p = exp(row.z[i] - row.m) / row.sum, g = call->cotangents[0].values[r];
            double dz = (p - (i == target)) * g, scale = fabs(g) * (p * (1 + row.worst) + (i == target));
            for (size_t j = 0; j < k; j++) {
                zm_put_more(&call->gradients[0], r * k + j, dz * w[i * k + j], scale * fabs(w[i * k + j]));
                zm_put_more(&call->gradients[1], i * k + j, dz * x[j], scale * fabs(x[j]));
            }
        }
    }
    free(row.z);
    free(row.size);
}
