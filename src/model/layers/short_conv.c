/* SPDX-License-Identifier: MIT */
#include <limits.h>

#include "model/layers/forward.h"

static mlx_array third(zm_scope *scope, mlx_array x, int index, int size) {
    return zm_slice_axis(scope, x, -1, index * size, (index + 1) * size, 1);
}

mlx_array zm_join_state(zm_scope *scope, mlx_array x, zm_cache *cache, int n_keep) {
    if (n_keep == 0 || zm_scope_failed(scope)) return x;
    mlx_array state;
    if (cache && zm_is_set(cache->state)) {
        state = cache->state;
    } else {
        int shape[3] = {zm_dim(x, 0), n_keep, zm_dim(x, 2)};
        state = zm_zeros(scope, shape, 3, mlx_array_dtype(x));
    }
    int length = zm_dim(x, 1);
    x = zm_concatenate(scope, state, x, 1);
    if (cache) {
        mlx_array last = zm_slice_axis(scope, x, 1, -n_keep, INT_MAX, 1);
        zm_scope_keep(scope, &cache->state, zm_contiguous(scope, last)); /* so that a prompt's input is freed */
        if (!zm_scope_failed(scope)) cache->offset += length;
    }
    return x;
}

mlx_array zm_short_conv_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    const zm_short_conv *conv = (const zm_short_conv *)self;
    int size = conv->hidden_size;
    mlx_array projected = zm_module_call(&conv->in_proj->base, scope, x, NULL);
    mlx_array input_gate = third(scope, projected, 0, size);
    mlx_array output_gate = third(scope, projected, 1, size);
    x = zm_multiply(scope, input_gate, third(scope, projected, 2, size));
    x = zm_join_state(scope, x, call->cache, conv->conv->taps - 1);
    x = zm_module_call(&conv->conv->base, scope, x, NULL);
    return zm_module_call(&conv->out_proj->base, scope, zm_multiply(scope, output_gate, x), NULL);
}
