/* SPDX-License-Identifier: MIT */
#include "kernels/compose.h"
#include "kernels/unpack.h"

void zm_compose_pack_bits(zm_catalog_call *call) {
    static const uint8_t weights[] = {1, 2, 4, 8, 16, 32, 64, 128};
    mlx_array inputs[] = {zm_reshape2(call->scope, call->inputs[0], zm_call_size(call, "N"), 8),
                          zm_from_data(call->scope, weights, (const int[]){8}, 1, MLX_UINT8)};
    zm_call_part(call, call->outputs, "bits_to_byte", inputs, NULL, call->output_types);
}

void zm_compose_unpack_bits(zm_catalog_call *call) {
    zm_scope *scope = call->scope;
    call->outputs[0] = zm_unpack_codes(call, call->inputs[0], 1);
    if (!call->inputs[1].ctx || zm_scope_failed(scope)) return;
    int shape[ZM_NODE_MAX_DIMS], n_dims = zm_call_size(call, "R");
    double count = 1, expected = 8.0 * zm_call_size(call, "N");
    mlx_array given = zm_contiguous(scope, call->inputs[1]);
    if (n_dims > ZM_NODE_MAX_DIMS) {
        zm_scope_fail(scope, ZMLX_ERROR_UNSUPPORTED, call->where, "original_shape: more than %d dimensions",
                      ZM_NODE_MAX_DIMS);
        return;
    }
    if (zm_scope_failed(scope)) return;
    zmlx_error error;
    if (mlx_array_eval(given)) {
        zm_mlx_fail(&error, call->where);
        zm_scope_fail(scope, error.code, error.where, "original_shape: %s", error.message);
        return;
    }
    for (int i = 0; i < n_dims; i++) {
        uint32_t size = mlx_array_data_uint32(given)[i];
        shape[i] = (int)size;
        count *= size;
    }
    if (count != expected) {
        zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, call->where, "original_shape: makes %.0f elements, x has %.0f bits",
                      count, expected);
        return;
    }
    call->outputs[0] = zm_reshape(scope, call->outputs[0], shape, n_dims);
}
