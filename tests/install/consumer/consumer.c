/* SPDX-License-Identifier: MIT */
/* A program of a user of the installed library: loading what is no model gives an error. */
#include <stdio.h>
#include <zmlx/zmlx.h>

int main(int argc, char **argv) {
    zmlx_model *model;
    zmlx_error error;
    zmlx_status status = zmlx_model_load(&model, argc > 1 ? argv[1] : ".", NULL, &error);
    printf("zmlx %s: %s\n", zmlx_version(), status ? error.message : "loaded");
    zmlx_model_free(model);
    return status != ZMLX_OK;
}
