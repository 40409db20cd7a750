/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "kernel.h"
#include "options.h"
#include "output.h"

typedef struct emit_values {
    cli_general general;
    const char *expr;
    cli_texts set;
    int target;
    bool grad;
} emit_values;

static const char *const targets[] = {"c", "cuda", "metal", "ir"};

#define AT(member) offsetof(emit_values, member)
static const cli_option options[] = {
    CLI_EXPR_OPTION(emit_values),
    {"target", CLI_CHOICE, AT(target), "c|cuda|metal|ir", "the language; ir: the typed operations (c)", 0, 0},
    {"dtype", CLI_CHOICE, AT(general.dtype), "float32|float16|bfloat16", "of all arrays (float32)", 0, 0},
    {"grad", CLI_FLAG, AT(grad), NULL, "the kernel's gradient instead", 0, 0},
    CLI_SET_OPTION(emit_values),
    CLI_JSON_OPTION(emit_values),
};

static const cli_page page = {
    .arguments = "",
    .about = "Prints the text that would be compiled. Shapes, numbers and seeds are not part of it.\n",
    .options = options,
    .n_options = CLI_COUNT(options),
};

static int show(zmlx_kernel *kernel, const emit_values *values) {
    static const mlx_dtype dtypes[] = {MLX_FLOAT32, MLX_FLOAT32, MLX_FLOAT16, MLX_BFLOAT16};
    const char *target = targets[values->target ? values->target - 1 : 0];
    char *text;
    zmlx_error error;
    if (zmlx_kernel_emit(&text, kernel, target, dtypes[values->general.dtype], &error)) return cli_fail_error(&error);
    int status = CLI_DONE;
    if (values->general.json) {
        json_t *object = json_object();
        cli_json_set(object, "target", cli_json_string(target));
        cli_json_set(object, "source", cli_json_string(text));
        status = cli_print_json(object);
    } else {
        cli_write(text, strlen(text));
    }
    free(text);
    return status;
}

int cli_emit(const cli_command *command, int argc, char **argv) {
    emit_values values = {0};
    cli_kernel kernel;
    zmlx_error error;
    int status;
    if (!cli_parse(command, &page, &values, NULL, argc, argv, &status)) return status;
    status = cli_kernel_open(&kernel, command, values.expr, &values.set, 0);
    if (status) return status;
    if (values.grad) {
        zmlx_kernel *gradient;
        if (zmlx_kernel_gradient(&gradient, kernel.kernel, &error)) {
            status = cli_fail_error(&error);
        } else {
            status = show(gradient, &values);
            zmlx_kernel_free(gradient);
        }
    } else {
        status = show(kernel.kernel, &values);
    }
    cli_kernel_close(&kernel);
    return status;
}
