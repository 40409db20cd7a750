/* SPDX-License-Identifier: MIT */
/* Walk, match, replace, record, undo. */
#include "patch/record.h"

#include <stdlib.h>

typedef struct patch_record {
    zm_patch_state **states; /* each is the patch_state of its module */
    size_t n_states, capacity;
    zm_report *current, *dry_run;
} patch_record;

static void forget(zmlx_model *model) {
    patch_record *record = model->patch_record;
    if (!record) return;
    zm_patch_undo(model, 0);
    zm_module_visit(&model->root->base, zm_patch_drop_edges, NULL, NULL);
    free(record->states);
    zm_report_free(record->current);
    zm_report_free(record->dry_run);
    free(record);
    model->patch_record = NULL;
    model->patch_free = NULL;
}

static zmlx_status get_record(patch_record **record, zmlx_model *model, zmlx_error *error) {
    if (!model->patch_record) {
        model->patch_record = calloc(1, sizeof(patch_record));
        if (!model->patch_record) return zm_fail_memory(error);
        model->patch_free = forget;
    }
    *record = model->patch_record;
    return ZMLX_OK;
}

static void set_patched(zm_patch_state *state, bool patched) {
    state->module->forward = patched ? state->pattern->forward : state->original;
    state->module->patch_state = patched ? state : NULL;
    if (patched) return;
    zm_blocks_plan_free(state->plan);
    state->plan = NULL;
}

static zmlx_status add_state(patch_record *record, zm_module *module, const zm_patch_pattern *pattern,
                             zm_patch_state **added, zmlx_error *error) {
    if (record->n_states == record->capacity) {
        size_t larger = record->capacity ? 2 * record->capacity : 32;
        zm_patch_state **states = realloc(record->states, larger * sizeof *states);
        if (!states) return zm_fail_memory(error);
        record->states = states;
        record->capacity = larger;
    }
    zm_patch_state *state = calloc(1, sizeof *state);
    if (!state) return zm_fail_memory(error);
    *state = (zm_patch_state){.pattern = pattern, .module = module, .original = module->forward};
    record->states[record->n_states++] = state;
    *added = state;
    return ZMLX_OK;
}

typedef struct walk {
    zmlx_model *model;
    patch_record *record;
    zm_report *report;
    const zm_patch_request *request;
    const zm_patch_pattern *pattern;
} walk;

static bool inside_patched(const zm_module *module) {
    for (const zm_module *parent = module->parent; parent; parent = parent->parent)
        if (parent->patch_state) return true;
    return false;
}

static zmlx_status visit(zm_module *module, void *context, zmlx_error *error) {
    walk *this = context;
    if (module->patch_state) return ZMLX_OK;
    if (this->pattern->place == ZM_PATTERN_OUTSIDE && inside_patched(module)) return ZMLX_OK;
    const char *reason = NULL;
    zm_match match = this->pattern->match(module, &reason);
    if (match == ZM_MATCH_NO) return ZMLX_OK;
    if (match == ZM_MATCH_REFUSED)
        return zm_report_add_entry(this->report, module->path, this->pattern->name,
                                   reason ? reason : "refused", error);
    ZM_TRY(zm_report_add_entry(this->report, module->path, this->pattern->name, NULL, error));
    zm_patch_state *state;
    ZM_TRY(add_state(this->record, module, this->pattern, &state, error));
    state->compute = (zm_compute){.pool = this->model->pool, .precision = this->request->precision};
    state->dtype = this->model->dtype;
    state->max_fused_tokens = this->request->max_fused_tokens;
    state->vector_attention = this->request->vector_attention;
    set_patched(state, true);
    return ZMLX_OK;
}

zmlx_status zm_patch_apply(zm_report *report, zmlx_model *model, const zm_patch_request *request,
                           zmlx_error *error) {
    walk context = {.model = model, .report = report, .request = request};
    ZM_TRY(get_record(&context.record, model, error));
    size_t n_before = context.record->n_states;
    zmlx_status status = ZMLX_OK;
    for (size_t i = 0; i < request->n_patterns && !status; i++) {
        context.pattern = request->patterns[i];
        status = zm_module_visit(&model->root->base, visit, &context, error);
    }
    if (!status && n_before)
        status = zm_report_add_note(
            report, error, "[zmlx.patch] %zu modules were patched before and stay as they are", n_before);
    if (status) zm_patch_undo(model, n_before);
    return status;
}

size_t zm_patch_count(const zmlx_model *model) {
    const patch_record *record = model->patch_record;
    return record ? record->n_states : 0;
}

void zm_patch_undo(zmlx_model *model, size_t n_kept) {
    patch_record *record = model->patch_record;
    if (!record) return;
    while (record->n_states > n_kept) {
        zm_patch_state *state = record->states[--record->n_states];
        set_patched(state, false);
        free(state);
    }
}

void zm_patch_switch(zmlx_model *model, size_t first, bool patched) {
    patch_record *record = model->patch_record;
    for (size_t i = first; record && i < record->n_states; i++) set_patched(record->states[i], patched);
}

zmlx_status zm_patch_keep_report(zmlx_model *model, zm_report *report, bool dry_run, zmlx_error *error) {
    patch_record *record;
    ZM_TRY(get_record(&record, model, error));
    zm_report_free(record->dry_run);
    record->dry_run = NULL;
    if (dry_run) {
        record->dry_run = report;
        return ZMLX_OK;
    }
    zm_report_free(record->current);
    record->current = report;
    return ZMLX_OK;
}

void zmlx_unpatch(zmlx_model *model) {
    if (!model || !model->patch_record) return;
    forget(model);
    zm_patch_fit(model, NULL); /* what fails to change back holds the same numbers */
}

const zmlx_patch_report *zmlx_patch_get_report(const zmlx_model *model) {
    const patch_record *record = model ? model->patch_record : NULL;
    return record && record->current ? &record->current->view : NULL;
}
