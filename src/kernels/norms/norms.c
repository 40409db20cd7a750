/* SPDX-License-Identifier: MIT */
/* The profiles of norms: one pass in MLX's order of sums on the CPU, MLX's own kernels on a GPU. */
#include "kernels/compose.h"

static mlx_array as_data(const zm_catalog_call *call, mlx_array parameter) {
    return parameter.ctx ? zm_astype(call->scope, parameter, call->data_type) : parameter;
}

static float eps_of(const zm_catalog_call *call) { return (float)call->values[0].number; }

static void rms_norm(zm_catalog_call *call) {
    call->outputs[0] = zm_rms_norm(call->scope, call->inputs[0], as_data(call, call->inputs[1]), eps_of(call));
}

void zm_compose_rmsnorm_mlx(zm_catalog_call *call) {
    if (zm_scope_is_on_cpu(call->scope))
        zm_call_part(call, call->outputs, "rmsnorm_in_order", call->inputs, call->values, call->output_types);
    else
        zm_call_profile(call, rms_norm);
}

static void layer_norm(zm_catalog_call *call) {
    call->outputs[0] = zm_layer_norm(call->scope, call->inputs[0], as_data(call, call->inputs[1]),
                                     as_data(call, call->inputs[2]), eps_of(call));
}

void zm_compose_layernorm_mlx(zm_catalog_call *call) {
    if (!zm_scope_is_on_cpu(call->scope)) {
        zm_call_profile(call, layer_norm);
        return;
    }
    mlx_array inputs[3] = {call->inputs[0], call->inputs[1], call->inputs[2]};
    if (!inputs[1].ctx) inputs[1] = zm_scalar(call->scope, 1, MLX_FLOAT32);
    if (!inputs[2].ctx) inputs[2] = zm_scalar(call->scope, -0.0, MLX_FLOAT32); /* x + -0 is x, also for -0 */
    zm_call_part(call, call->outputs, "layernorm_in_order", inputs, call->values, call->output_types);
}

static void add_rms_norm(zm_catalog_call *call) {
    call->outputs[1] = zm_add(call->scope, call->inputs[0], call->inputs[1]);
    call->outputs[0] = zm_rms_norm(call->scope, call->outputs[1], as_data(call, call->inputs[2]), eps_of(call));
}

void zm_compose_add_rms_norm_mlx(zm_catalog_call *call) {
    if (zm_scope_is_on_cpu(call->scope))
        zm_call_part(call, call->outputs, "add_rms_norm_in_order", call->inputs, call->values, call->output_types);
    else
        zm_call_profile(call, add_rms_norm);
}
