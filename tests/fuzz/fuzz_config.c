/* SPDX-License-Identifier: MIT */
/* Any text as config.json, and after a NUL byte as generation_config.json: the quantisation rules of every
 * path, and the plan of a synthetic checkpoint with that config. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/checkpoint_parts.h"
#include "model/synth_plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_rules(zm_json_object config) {
    zm_quantization_rules rules;
    zmlx_error error = {0};
    if (zm_quantization_rules_read(&rules, config, &error)) {
        if (!error.message[0]) abort();
        return;
    }
    const char *path;
    json_t *entry;
    json_object_foreach(rules.entries.value, path, entry) {
        zm_quantization_kind kind;
        zm_quantization quantization;
        if (zm_quantization_find(&kind, &quantization, &rules, path, &error)) continue;
        bool given = kind == ZM_QUANTIZATION_GIVEN;
        if (given && (quantization.group_size < 16 || quantization.bits < 2 || !quantization.mode)) abort();
    }
}

static void check_plan(zm_json_object config) {
    zm_synth_plan plan = {.arena = zm_arena_new(), .config = config, .bits = 4, .group_size = 64};
    zmlx_error error = {0};
    int64_t layers, experts;
    /* Thousands of layers are only slow. */
    bool small = !zm_json_int_or(&layers, config, "num_hidden_layers", 0, 64, 0, NULL) &&
                 !zm_json_int_or(&experts, config, "num_experts", 0, 1 << 20, 0, NULL);
    if (plan.arena && small && zm_synth_plan_make(&plan, &error) && !error.message[0]) abort();
    zm_arena_free(plan.arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data;
    const char *split = size ? memchr(text, 0, size) : NULL;
    size_t length = split ? (size_t)(split - text) : size;
    json_t *config;
    zmlx_error error = {0};
    if (zm_checkpoint_parse_config(&config, text, length, split ? split + 1 : NULL,
                                   split ? size - length - 1 : 0, &error)) {
        if (!error.message[0] || config) abort();
        return 0;
    }
    zm_json_object object = {.value = config, .file = "config.json"};
    check_rules(object);
    check_plan(object);
    json_decref(config);
    return 0;
}
