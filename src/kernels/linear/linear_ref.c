/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "kernels/oracle.h"

/* A row of z = x w^T, with the magnitude of its terms, and what its cotangent will be. */
typedef struct product_row {
    size_t n, k;
    const double *x, *w;
    double *z, *size, *dz, *dz_size;
} product_row;

static void multiply(product_row *self) {
    for (size_t i = 0; i < self->n; i++) {
        self->z[i] = self->size[i] = 0;
        for (size_t j = 0; j < self->k; j++) {
            self->z[i] += self->x[j] * self->w[i * self->k + j];
            self->size[i] += fabs(self->x[j] * self->w[i * self->k + j]);
        }
    }
}

static void multiply_back(zm_oracle *call, const product_row *self, size_t row) {
    for (size_t i = 0; i < self->n; i++)
        for (size_t j = 0; j < self->k; j++) {
            double w = self->w[i * self->k + j], x = self->x[j];
            zm_put_more(&call->gradients[0], row * self->k + j, self->dz[i] * w, self->dz_size[i] * fabs(w));
            zm_put_more(&call->gradients[1], i * self->k + j, self->dz[i] * x, self->dz_size[i] * fabs(x));
        }
}

typedef void finish_row(zm_oracle *call, product_row *self, size_t row);

static void for_rows(zm_oracle *call, finish_row *finish) {
    product_row self = {.n = (size_t)zm_oracle_size(call, "N"),
                        .k = (size_t)zm_oracle_size(call, "K"),
                        .w = call->inputs[1].values};
    double *memory = calloc(4 * self.n + 1, sizeof *memory);
    if (!memory) return;
    self.z = memory, self.size = memory + self.n, self.dz = memory + 2 * self.n, self.dz_size = memory + 3 * self.n;
    for (size_t row = 0; row < call->rows; row++) {
        self.x = call->inputs[0].values + row * self.k;
        multiply(&self);
        finish(call, &self, row);
        if (call->gradients) multiply_back(call, &self, row);
    }
    free(memory);
}

/* Slopes of both functions stay below 1.2, their second derivatives below 1.2 too. */
static void finish_activation(zm_oracle *call, product_row *self, size_t row, double (*value)(double),
                              double (*slope)(double)) {
    for (size_t i = 0; i < self->n; i++) {
        double bias = call->inputs[2].values[i], s = self->z[i] + bias, size = self->size[i] + fabs(bias);
        zm_put(&call->outputs[0], row * self->n + i, value(s), 1.2 * size);
        if (!call->gradients) continue;
        double g = call->cotangents[0].values[row * self->n + i];
        self->dz[i] = g * slope(s);
        self->dz_size[i] = fabs(g) * 1.2 * (1 + size);
        zm_put_more(&call->gradients[2], i, self->dz[i], self->dz_size[i]);
    }
}

static void finish_silu(zm_oracle *call, product_row *self, size_t row) {
    finish_activation(call, self, row, zm_ref_silu_of, zm_ref_silu_slope);
}
static void finish_gelu(zm_oracle *call, product_row *self, size_t row) {
    finish_activation(call, self, row, zm_ref_gelu_of, zm_ref_gelu_slope);
}

static void finish_rmsnorm(zm_oracle *call, product_row *self, size_t row) {
    double n = (double)self->n, square = 0, relative = 0, dot = 0, dot_size = 0;
    for (size_t i = 0; i < self->n; i++) {
        square += self->z[i] * self->z[i] / n;
        relative += fabs(self->z[i]) * self->size[i] / n;
    }
    double r = 1 / sqrt(square + call->numbers[0].number);
    relative = 1 + r * r * relative; /* of r */
    for (size_t i = 0; i < self->n; i++) {
        double gamma = call->inputs[2].values[i], hat = self->z[i] * r, hat_size = self->size[i] * r * relative;
        zm_put(&call->outputs[0], row * self->n + i, hat * gamma, hat_size * fabs(gamma));
        if (!call->gradients) continue;
        double g = call->cotangents[0].values[row * self->n + i];
        zm_put_more(&call->gradients[2], i, g * hat, fabs(g) * hat_size);
        dot += g * gamma * hat / n;
        dot_size += fabs(g * gamma) * hat_size / n;
    }
    for (size_t i = 0; i < self->n && call->gradients; i++) {
        double a = call->cotangents[0].values[row * self->n + i] * call->inputs[2].values[i];
        self->dz[i] = r * (a - self->z[i] * r * dot);
        self->dz_size[i] = r * relative * (fabs(a) + self->size[i] * r * relative * dot_size);
    }
}

zm_oracle_function zm_ref_fused_linear_bias_silu, zm_ref_fused_linear_bias_gelu, zm_ref_fused_linear_rmsnorm;
void zm_ref_fused_linear_bias_silu(zm_oracle *call) { for_rows(call, finish_silu); }
void zm_ref_fused_linear_bias_gelu(zm_oracle *call) { for_rows(call, finish_gelu); }
void zm_ref_fused_linear_rmsnorm(zm_oracle *call) { for_rows(call, finish_rmsnorm); }
