/* SPDX-License-Identifier: MIT */
/* Which patterns a call means, and zmlx_patch itself. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "fused/fused.h"
#include "patch/record.h"

static const char no_kernels[] = "no kernels for this device";
static const char half_precision[] =
    "not proven in this type: MLX's CPU kernels accumulate in it, so equal tokens cannot be promised";
static const char no_proof[] = "not proven for this family";
/* On a GPU proofs are about bits, and those belong to one version. */
static const char other_mlx[] = "proven with MLX " ZMLX_PROVEN_MLX_VERSION " and not with this one";
static const char *const reasons[] = {no_kernels, other_mlx, half_precision, no_proof};
enum { N_REASONS = sizeof reasons / sizeof *reasons };

/* NULL: the pattern may be applied without being asked for. */
static const char *unproven(const zm_patch_pattern *pattern, const zmlx_model *model) {
    if (pattern->device != model->device) return no_kernels;
    bool is_other = model->mlx_version[0] && strcmp(model->mlx_version, ZMLX_PROVEN_MLX_VERSION) != 0;
    if (model->device == ZMLX_DEVICE_GPU && is_other) return other_mlx;
    if (model->family && zm_patch_pattern_proof(pattern, model->family, model->device, model->dtype))
        return NULL;
    return model->device == ZMLX_DEVICE_CPU && model->dtype != MLX_FLOAT32 ? half_precision : no_proof;
}

static zmlx_status unknown_pattern(const char *name, zmlx_error *error) {
    char known[512] = "";
    for (size_t i = 0; i < ZM_PATTERN_COUNT; i++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", zm_patch_pattern_at(i)->name);
    }
    const char *instead = zmlx_pattern_instead(name);
    return zm_fail(error, ZMLX_ERROR_ARGUMENT, "patterns", "unknown pattern '%.100s'%s%s%s; known are: %s", name,
                   instead ? " (" : "", instead ? instead : "", instead ? ")" : "", known);
}

static zmlx_status find_pattern(const zm_patch_pattern **pattern, const char *name, zmlx_error *error) {
    if (!name) return zm_fail_null(error, "patterns");
    *pattern = zm_patch_pattern_find(name);
    return *pattern ? ZMLX_OK : unknown_pattern(name, error);
}

static bool is_excluded(const zm_patch_pattern *pattern, const zmlx_patch_options *options) {
    for (size_t i = 0; i < options->n_exclude; i++)
        if (!strcmp(options->exclude[i], pattern->name)) return true;
    return false;
}

static bool contains(const zm_patch_pattern *const *patterns, size_t n_patterns,
                     const zm_patch_pattern *pattern) {
    for (size_t i = 0; i < n_patterns; i++)
        if (patterns[i] == pattern) return true;
    return false;
}

/* The patterns in question, before any is left out for want of a proof: those asked for, or all with kernels for
 * the model's device. */
static zmlx_status list_candidates(const zm_patch_pattern **patterns, size_t *n_patterns, zmlx_device device,
                                   const zmlx_patch_options *options, zmlx_error *error) {
    *n_patterns = 0;
    if (options->n_exclude && !options->exclude) return zm_fail_null(error, "exclude");
    for (size_t i = 0; i < options->n_exclude; i++) {
        const zm_patch_pattern *excluded;
        ZM_TRY(find_pattern(&excluded, options->exclude[i], error));
    }
    size_t count = options->patterns ? options->n_patterns : ZM_PATTERN_COUNT;
    for (size_t i = 0; i < count; i++) {
        const zm_patch_pattern *pattern = zm_patch_pattern_at(options->patterns ? 0 : i);
        if (options->patterns) ZM_TRY(find_pattern(&pattern, options->patterns[i], error));
        else if (pattern->device != device) continue;
        if (!is_excluded(pattern, options) && !contains(patterns, *n_patterns, pattern))
            patterns[(*n_patterns)++] = pattern;
    }
    return ZMLX_OK;
}

/* One line about the patterns that lack a proof for one reason. */
static zmlx_status note_unproven(zm_report *report, const zmlx_model *model, const char *const *names,
                                 size_t n_names, const char *reason, bool explicit_choice,
                                 zmlx_error *error) {
    zm_text list = {0}, joined = {0};
    zm_text_append_names(&list, names, n_names);
    for (size_t i = 0; i < n_names; i++) zm_text_printf(&joined, "%s%s", i ? "," : "", names[i]);
    const char *family = report->view.family;
    zmlx_status status;
    if (list.failed || joined.failed)
        status = zm_fail_memory(error);
    else if (!explicit_choice)
        status = zm_report_add_note(report, error,
                                    "[zmlx.patch] %s model detected — excluded %s (%s). "
                                    "Override with --patterns %s",
                                    family, zm_text_string(&list), reason, zm_text_string(&joined));
    else if (reason == no_kernels)
        status =
            zm_report_add_note(report, error, "[zmlx.patch] WARNING: %s not applied to this %s model (%s).",
                               zm_text_string(&list), family, reason);
    else
        status = zm_report_add_note(
            report, error,
            "[zmlx.patch] WARNING: %s on this %s model: %s. Check with: zmlx validate MODEL "
            "--patterns %s --dtype %s",
            zm_text_string(&list), family, reason, zm_text_string(&joined), zm_dtype_name(model->dtype));
    zm_text_free(&list);
    zm_text_free(&joined);
    return status;
}

/* What activations other than float32 ask for and mean. */
static zmlx_status resolve_activations(zm_patch_request *request, zm_report *report, const zmlx_model *model,
                                       zmlx_activations activations, zmlx_error *error) {
    if (activations == ZMLX_ACTIVATIONS_FLOAT32) return ZMLX_OK;
    if (activations != ZMLX_ACTIVATIONS_INT8)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "activations", "unknown kind %d", (int)activations);
    if (model->device != ZMLX_DEVICE_CPU)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "activations", "int8 has kernels for the CPU alone");
    const char *reason;
    if (!zm_fused_int8_supported(&reason)) return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "activations", "%s", reason);
    request->precision = ZM_PRECISION_INT8;
    return zm_report_add_note(report, error,
                              "[zmlx.patch] int8 activations: products are approximate and tokens may differ");
}

zmlx_status zm_patch_resolve(zm_patch_request *request, zm_report *report, const zmlx_model *model,
                             const zmlx_patch_options *options, zmlx_error *error) {
    static const zmlx_patch_options defaults;
    if (!options) options = &defaults;
    int max_fused_tokens = options->max_fused_tokens ? options->max_fused_tokens : INT_MAX;
    *request = (zm_patch_request){.max_fused_tokens = max_fused_tokens,
                                  .vector_attention = options->vector_attention};
    const zm_patch_pattern *candidates[ZM_PATTERN_COUNT];
    size_t n_candidates;
    bool explicit_choice = options->patterns != NULL;
    ZM_TRY(list_candidates(candidates, &n_candidates, model->device, options, error));
    for (size_t i = 0; i < n_candidates; i++) {
        const char *reason = unproven(candidates[i], model);
        if (!reason || (explicit_choice && reason != no_kernels))
            request->patterns[request->n_patterns++] = candidates[i];
    }
    ZM_TRY(zm_report_set_patterns(report, request->patterns, request->n_patterns, error));
    ZM_TRY(resolve_activations(request, report, model, options->activations, error));
    if (!model->family && !explicit_choice)
        return zm_report_add_note(
            report, error, "[zmlx.patch] unknown model family: left alone. Override with --patterns P1,P2");
    for (size_t r = 0; r < N_REASONS; r++) {
        const char *names[ZM_PATTERN_COUNT];
        size_t n_names = 0;
        for (size_t i = 0; i < n_candidates; i++)
            if (unproven(candidates[i], model) == reasons[r]) names[n_names++] = candidates[i]->name;
        if (n_names) ZM_TRY(note_unproven(report, model, names, n_names, reasons[r], explicit_choice, error));
    }
    return ZMLX_OK;
}

static zmlx_status patch(zm_report *report, zmlx_model *model, const zmlx_patch_options *options,
                         zmlx_error *error) {
    zm_patch_request request;
    ZM_TRY(zm_patch_resolve(&request, report, model, options, error));
    size_t n_before = zm_patch_count(model);
    bool dry_run = options && options->dry_run;
    ZM_TRY(zm_patch_apply(report, model, &request, error));
    zmlx_status status = dry_run ? ZMLX_OK : zm_patch_fit(model, error);
    if (dry_run || status) zm_patch_undo(model, n_before);
    if (status) zm_patch_fit(model, NULL); /* back, as far as there is memory */
    return status ? status : zm_patch_keep_report(model, report, dry_run, error);
}

zmlx_status zmlx_patch(const zmlx_patch_report **report, zmlx_model *model, const zmlx_patch_options *options,
                       zmlx_error *error) {
    if (report) *report = NULL;
    if (!model) return zm_fail_null(error, "model");
    zm_report *made;
    ZM_TRY(zm_report_new(&made, model->family ? model->family->group : "unknown", error));
    zmlx_status status = patch(made, model, options, error);
    if (status) {
        zm_report_free(made);
        return status;
    }
    if (report) *report = &made->view;
    return ZMLX_OK;
}

zmlx_status zm_patch_in_earnest(const zmlx_patch_report **report, zmlx_model *model, const zmlx_patch_options *options,
                                zmlx_error *error) {
    zmlx_patch_options choice = options ? *options : (zmlx_patch_options){0};
    choice.dry_run = false;
    return zmlx_patch(report, model, &choice, error);
}
