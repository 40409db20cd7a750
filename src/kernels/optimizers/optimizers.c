/* SPDX-License-Identifier: MIT */
#include "kernels/optimizers/optimizers.h"

#include <math.h>
#include <string.h>

/* 1 - beta^step without cancellation. */
static double correction(double beta, double step) { return beta > 0 ? -expm1(step * log(beta)) : 1; }

void zm_adamw_numbers(zmlx_catalog_value numbers[ZM_ADAMW_NUMBERS], const zmlx_catalog_value *given) {
    enum { LR, STEP, BETA1, BETA2, EPS, WD };
    double step = given[STEP].number, beta1 = given[BETA1].number, beta2 = given[BETA2].number;
    double lr = given[LR].number;
    const zmlx_catalog_value made[ZM_ADAMW_NUMBERS] = {{lr / correction(beta1, step), 0},
                                                       {beta1, 0},
                                                       {1 - beta1, 0},
                                                       {beta2, 0},
                                                       {1 - beta2, 0},
                                                       {1 / sqrt(correction(beta2, step)), 0},
                                                       {given[EPS].number, 0},
                                                       {lr * given[WD].number, 0}};
    memcpy(numbers, made, sizeof made);
}

void zm_compose_adamw_step(zm_catalog_call *call) {
    zmlx_catalog_value numbers[ZM_ADAMW_NUMBERS];
    zm_adamw_numbers(numbers, call->values);
    mlx_array inputs[] = {call->inputs[0], call->inputs[1], call->inputs[2], call->inputs[3]};
    if (zm_parameters_are_float32(call)) inputs[1] = zm_astype(call->scope, inputs[1], MLX_FLOAT32);
    zm_call_part(call, call->outputs, "adamw_terms", inputs, numbers, call->output_types);
}
