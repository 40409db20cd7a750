/* SPDX-License-Identifier: MIT */
#ifndef ZM_EMIT_CUDA_LIST_H
#define ZM_EMIT_CUDA_LIST_H

#include "emit/emit.h"

/* The CUDA text of a map over a list: one launch for n_items sets of arrays, each of one row. request->entry takes the
 * inputs and outputs of the first item, those of the second and so on in two lists, inputs first; then for each item as
 * 32-bit words the number of blocks up to its end and its size (low, high); then the parameters as floats. Blocks are
 * those of a map (gpu.h). There are no seeds. ZM_PART is ZM_GPU_FLAT_MAP, or ZM_GPU_ODD_MAP where an address is not a
 * multiple of 16. */
zmlx_status zm_cuda_emit_list(zm_text *source, const zm_emit_request *request, int n_items, zmlx_error *error);

#endif
