/* SPDX-License-Identifier: MIT */
/* The demonstration checkpoint, loaded on the CPU for each test or for all of a program. */
#ifndef ZM_TESTS_DEMONSTRATION_MODEL_H
#define ZM_TESTS_DEMONSTRATION_MODEL_H

#include <stdio.h>

#include "zmlx/zmlx.h"

#define MODEL_FOLDER ZMLX_SOURCE_FOLDER "/models/lfm2-moe-tiny-4bit"

static zmlx_model *model;
static zmlx_error error;

static void check(zmlx_status status) {
    if (status) fail_msg("%s: %s", error.where, error.message);
}

static int load_model(void **state) {
    (void)state;
    zmlx_model_options options = {.device = ZMLX_DEVICE_CPU};
    zmlx_status status = zmlx_model_load(&model, MODEL_FOLDER, &options, &error);
    if (status) fprintf(stderr, "%s: %s\n", error.where, error.message);
    return (int)status;
}

static int free_model(void **state) {
    (void)state;
    zmlx_model_free(model);
    return 0;
}

#endif
