/* SPDX-License-Identifier: MIT */
/* Replacing parts of a loaded model with fused kernels, and putting them back.
 *
 *     const zmlx_patch_report *report;
 *     zmlx_patch(&report, model, NULL, &error);     // what is proven for this family, device and type
 *     zmlx_generate(...);                            // same tokens, faster
 *     zmlx_unpatch(model);                           // bit for bit the model as it was loaded
 *
 * A pattern matches modules by their declared kind and fields, never by names; what it does not know it
 * leaves alone and lists with a reason. Without explicit patterns only those are applied that a row of the
 * pattern table declares proven for the model's family, device and type. No weight changes its value; on the CPU the
 * scales of patched modules are held in bfloat16 where that holds them exactly, and in the model's type again after
 * unpatching. */
#ifndef ZMLX_PATCH_H
#define ZMLX_PATCH_H

#include "zmlx/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How fused products on the CPU take their activations. FLOAT32: with float32's accuracy; what the proofs are about.
 * INT8: rounded to signed bytes, in each group of the weight relative to its largest magnitude: about 0.5 % of error a
 * product, so tokens may differ; whole prompts are several times faster. */
typedef enum zmlx_activations { ZMLX_ACTIVATIONS_FLOAT32, ZMLX_ACTIVATIONS_INT8 } zmlx_activations;

typedef struct zmlx_patch_options {
    const char *const *patterns; /* explicit choice, in this order; NULL: the proven ones */
    size_t n_patterns;           /* 0 with patterns set: patch nothing */
    const char *const *exclude;  /* never these */
    size_t n_exclude;
    int max_fused_tokens; /* longer calls run the standard operations; 0: no limit; negative: all do */
    bool dry_run;         /* report what would happen, change nothing */
    /* INT8 is ZMLX_ERROR_UNSUPPORTED on a GPU and on processors without kernels for it. */
    zmlx_activations activations;
    /* decode, on CUDA: attention over any number of keys is MLX's vector kernel, as MLX's own is where
     * MLX_CUDA_USE_CUDNN_SDPA=0 was set. Otherwise attention over 256 keys and more is MLX's own operation. */
    bool vector_attention;
} zmlx_patch_options;

typedef struct zmlx_patch_entry {
    const char *path;    /* of the module, as in the checkpoint */
    const char *pattern; /* that was applied, or that was refused */
    const char *reason;  /* why it was refused; NULL: it was applied */
} zmlx_patch_entry;

typedef struct zmlx_patch_count {
    const char *pattern;
    int count;
    double speedup; /* smart patching's measurement; 0: not measured */
} zmlx_patch_count;

typedef struct zmlx_patch_report {
    const char *family;
    const char *const *patterns; /* those considered, in order */
    size_t n_patterns;
    const zmlx_patch_entry *entries; /* every module a pattern matched or nearly matched */
    size_t n_entries;
    const zmlx_patch_count *counts; /* applied patterns, alphabetical */
    size_t n_counts;
    int patched_count, skipped_count;
    const char *const *notes; /* exclusions and warnings, one line each */
    size_t n_notes;
} zmlx_patch_report;

/* Patches model. *report is borrowed: valid until the next patch or unpatch of this model, or until the
 * model is freed; it tells what this call did. Modules patched already stay as they are, so a second call
 * patches none, and unpatching undoes all calls. An unknown pattern name is ZMLX_ERROR_ARGUMENT with the
 * list of known ones. report may be NULL. */
ZMLX_API zmlx_status zmlx_patch(const zmlx_patch_report **report, zmlx_model *model,
                                const zmlx_patch_options *options /* may be NULL */, zmlx_error *error);
/* Restores every module; NULL and unpatched models are fine. */
ZMLX_API void zmlx_unpatch(zmlx_model *model);
/* The current report, or NULL while unpatched. */
ZMLX_API const zmlx_patch_report *zmlx_patch_get_report(const zmlx_model *model);
/* The lines the command line prints: "[zmlx.patch] Applying ...", "Patched n modules:", ... The
 * caller frees; NULL when out of memory. */
ZMLX_API char *zmlx_patch_report_text(const zmlx_patch_report *report, bool each_module);

typedef struct zmlx_pattern_info {
    const char *name, *summary;
} zmlx_pattern_info;
/* Every known pattern; static storage. */
ZMLX_API const zmlx_pattern_info *zmlx_pattern_list(size_t *count);
/* What to do about a name that is none of these but one of ZMLX's: static text; NULL: it is not known at all. */
ZMLX_API const char *zmlx_pattern_instead(const char *name);

typedef struct zmlx_smart_patch_options {
    const char *const *patterns; /* candidates in order; NULL: the proven ones */
    size_t n_patterns;
    const char *const *exclude;
    size_t n_exclude;
    const int32_t *sample; /* prompt that fills the caches; NULL: 16 fixed tokens */
    size_t n_sample;
    double threshold; /* 0: 0.995; keep a pattern whose steps are at least this times as fast, the prompt in some run */
    /* At most, of each side; 0: 3 and 5. A run is a short block of decode steps and a prefill. Where runs take long,
     * two are enough if they leave no doubt, and after 20 seconds in any case. */
    int n_warmup, n_runs;
    bool vector_attention; /* as in zmlx_patch_options */
    /* Receives each line of the table as it is known; may be NULL. */
    void (*log)(void *context, const char *line);
    void *log_context;
    /* Told what is being done about a pattern ("baseline" before the first): "tokens" or "runs"; may be NULL. */
    void (*progress)(void *context, const char *pattern, const char *step, int done, int total);
    void *progress_context;
} zmlx_smart_patch_options;

typedef enum zmlx_smart_choice { ZMLX_SMART_KEEP, ZMLX_SMART_REVERT, ZMLX_SMART_NO_MATCH } zmlx_smart_choice;

typedef struct zmlx_smart_result {
    const char *pattern;
    zmlx_smart_choice choice;
    int n_modules;
    double decode_speedup, prefill_speedup; /* medians, current / with the pattern: above 1 is faster */
    int n_runs;                             /* of them; 0: no match */
    bool same_tokens;
    char reason[128]; /* why it was reverted; "" otherwise */
} zmlx_smart_result;

typedef struct zmlx_smart_report {
    zmlx_smart_result *results;
    size_t n_results;
    double baseline_ms, final_ms; /* median decode step */
} zmlx_smart_report;

/* Measures each candidate against the model as it stands, alternating, checks its greedy tokens, keeps
 * what helps and undoes the rest. The kept patterns stay applied. */
ZMLX_API zmlx_status zmlx_smart_patch(zmlx_smart_report *report, zmlx_model *model,
                                      const zmlx_smart_patch_options *options /* may be NULL */,
                                      zmlx_error *error);
ZMLX_API void zmlx_smart_report_clear(zmlx_smart_report *report);

#ifdef __cplusplus
}
#endif

#endif
