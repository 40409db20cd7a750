/* SPDX-License-Identifier: MIT */
#include "kernels/row_function.h"

zmlx_status zm_row_function_get(zm_row_function *function, const char *name, const zm_storage *storages,
                                zmlx_error *error) {
    const zm_kernel_entry *entry = zm_catalog_lookup(name);
    const zm_variant *variant;
    zmlx_kernel *kernel;
    if (!entry) return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "there is no kernel of this name");
    ZM_TRY(zm_catalog_kernel(&kernel, entry, error));
    ZM_TRY(zm_kernel_variant(&variant, kernel, ZM_GPU_NONE, &(zm_layout_choice){0}, storages, error));
    *function = (zm_row_function){variant->function, kernel->forward->n_inputs};
    return ZMLX_OK;
}

void zm_row_apply(const zm_row_function *function, void *output, const void *const *inputs, unsigned single,
                  int64_t columns, bool streams) {
    int32_t layouts[ZM_ROW_MAX_INPUTS];
    for (int i = 0; i < function->n_inputs; i++) layouts[i] = single >> i & 1 ? 0 : ZM_LAYOUT_COLUMN;
    const zm_c_call call = {.inputs = inputs, .outputs = &output, .layouts = layouts, .rows = 1, .columns = columns,
                            .output_stride = columns, .stream_stores = streams ? 2 : 0};
    function->function(&call, 0, 1, 0, columns);
}

bool zm_row_streams(size_t bytes) { return bytes > 32 << 20; }

void zm_row_fence(void) {
#if defined(__SSE2__)
    __builtin_ia32_sfence();
#endif
}
