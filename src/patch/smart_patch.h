/* SPDX-License-Identifier: MIT */
#ifndef ZM_PATCH_SMART_PATCH_H
#define ZM_PATCH_SMART_PATCH_H

#include "patch/record.h"

/* zmlx_smart_patch with the candidates of request instead of those options choose; patched, the final
 * report, holds the notes of that choice. */
zmlx_status zm_smart_patch_request(zmlx_smart_report *report, zm_report *patched, zmlx_model *model,
                                   const zm_patch_request *request, const zmlx_smart_patch_options *options,
                                   zmlx_error *error);

#endif
