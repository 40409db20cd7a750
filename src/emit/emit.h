/* SPDX-License-Identifier: MIT */
/* Kernels as source text. A target is one folder: a record of facts (zm_target), the prelude that spells every
 * operation of form CALL as zm_<name>, and the frame of its kernels. Shared code never asks for a target's name.
 *
 * Every target's kernel takes the same things: the inputs' and outputs' addresses; rows and columns (64 bits); for
 * each input a layout (bit 0: it varies by column, bit 1: by row), which gives its strides: column stride bit 0, row
 * stride 0, 1 (bit 1 alone) or columns (both), twice that where the input is half of a wider row (bit 2), the second
 * half where bit 3 is set; parameters as floats; seeds as 64 bits. Outputs and inputs are row-contiguous. So one text
 * serves all shapes, broadcasts, numbers and seeds; only the storage types are part of it. */
#ifndef ZM_EMIT_EMIT_H
#define ZM_EMIT_EMIT_H

#include <stdint.h>

#include "base/text.h"
#include "emit/storage.h"
#include "ir/ir.h"

enum { ZM_LAYOUT_COLUMN = 1, ZM_LAYOUT_ROW = 2, ZM_LAYOUT_HALF = 4, ZM_LAYOUT_SECOND = 8 };

typedef struct zm_emit_request {
    const zm_ir *ir; /* simplified, not legalised: emit does that for its target */
    const zm_storage *inputs, *outputs;
    const char *entry; /* the kernel's symbol, a valid identifier */
    bool joins_outputs; /* CUDA: both outputs, of one storage, are the halves of each row of one array, the only one
                           given. C has output_stride for that */
    uint32_t summed_outputs; /* bit i: output i, of elements and float32, is added up over rows. C adds to the row that
                                is given. On a GPU the array has a row for each row that a grid's threads have at a time
                                (gpu.h) */
} zm_emit_request;

/* No result, but for constants, has more bits than a half type: values need less accuracy, and there are twice as many
 * a byte. */
bool zm_emit_is_narrow(const zm_emit_request *request);

/* Steps are rounded as MLX's operations do: an error in the last place would turn a rounding. */
bool zm_emit_rounds_as_mlx(const zm_emit_request *request);

typedef struct zm_target {
    const char *name;            /* "c", "cuda", "metal", "check" */
    const char *file_extension;  /* "c", "cu", "metal", "" */
    /* Appends the complete source text. Fails, naming it, on what the target cannot do; never in silence. */
    zmlx_status (*emit)(zm_text *source, const zm_emit_request *request, zmlx_error *error);
} zm_target;

/* The targets; NULL past the last. */
const zm_target *zm_target_get(int index);
const zm_target *zm_target_find(const char *name); /* NULL: none of this name */

#endif
