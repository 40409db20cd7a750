/* SPDX-License-Identifier: MIT */
#ifndef ZM_PATCH_SMART_PATCH_H
#define ZM_PATCH_SMART_PATCH_H

#include "patch/record.h"

typedef double (*zm_smart_clock)(void); /* seconds; only differences mean something */

/* zmlx_smart_patch by another clock. */
zmlx_status zm_smart_patch_timed(zmlx_smart_report *report, zmlx_model *model, const zmlx_smart_patch_options *options,
                                 zm_smart_clock clock, zmlx_error *error);
/* The same with the candidates of request instead of those options choose; patched, the final report, holds the
 * notes of that choice. */
zmlx_status zm_smart_patch_request(zmlx_smart_report *report, zm_report *patched, zmlx_model *model,
                                   const zm_patch_request *request, const zmlx_smart_patch_options *options,
                                   zm_smart_clock clock, zmlx_error *error);

#endif
