/* SPDX-License-Identifier: MIT */
/* What is patched in a model, in the order it was done, and how it is undone. */
#ifndef ZM_PATCH_RECORD_H
#define ZM_PATCH_RECORD_H

#include "model/model.h"
#include "patch/report.h"

/* Which patterns to apply and how: what zmlx_patch_options come down to. */
typedef struct zm_patch_request {
    const zm_patch_pattern *patterns[ZM_PATTERN_COUNT];
    size_t n_patterns;
    int max_fused_tokens; /* 0 or less: fused paths are never taken */
    zm_precision precision;
    bool vector_attention;
} zm_patch_request;


/* Chooses the patterns: the explicit ones, or those proven for the model; names them and the notes that
 * belong to the choice in report. */
zmlx_status zm_patch_resolve(zm_patch_request *request, zm_report *report, const zmlx_model *model,
                             const zmlx_patch_options *options /* may be NULL */, zmlx_error *error);

/* Patches every module that is not patched yet and that one of the patterns matches; says in report what
 * was done and refused. A failure undoes what this call did. */
zmlx_status zm_patch_apply(zm_report *report, zmlx_model *model, const zm_patch_request *request,
                           zmlx_error *error);

/* Patched modules so far. */
size_t zm_patch_count(const zmlx_model *model);
/* Undoes all but the first n_kept; the record stays. */
void zm_patch_undo(zmlx_model *model, size_t n_kept);
/* zmlx_patch, whatever options->dry_run says: for who times what is patched. */
zmlx_status zm_patch_in_earnest(const zmlx_patch_report **report, zmlx_model *model, const zmlx_patch_options *options,
                                zmlx_error *error);
/* Gives the weights of patched modules the type of scales that fused products read fastest, those of others that of
 * MLX's operations; both hold the same numbers. After patching, and after switching where speed matters. */
zmlx_status zm_patch_fit(zmlx_model *model, zmlx_error *error);
/* A visitor: frees the edges of a linear module. */
zmlx_status zm_patch_drop_edges(zm_module *module, void *context, zmlx_error *error);
/* Puts the modules from number first on into their patched or their original state, for comparisons. */
void zm_patch_switch(zmlx_model *model, size_t first, bool patched);
/* Makes report the current one (the record owns it); dry_run: only borrowed by the caller for a while. */
zmlx_status zm_patch_keep_report(zmlx_model *model, zm_report *report, bool dry_run, zmlx_error *error);

#endif
