/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "catalog.h"
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
    .arguments = "[NAME]",
    .about = "NAME is a kernel of the catalogue (zmlx kernels), else --expr gives one.\n"
             "Prints the text that would be compiled. Shapes, numbers and seeds are not part of it.\n",
    .options = options,
    .n_options = CLI_COUNT(options),
};

static const mlx_dtype dtypes[] = {MLX_FLOAT32, MLX_FLOAT32, MLX_FLOAT16, MLX_BFLOAT16};

static int show(const char *text, const char *target, const emit_values *values) {
    if (!values->general.json) {
        cli_write(text, strlen(text));
        return CLI_DONE;
    }
    json_t *object = json_object();
    cli_json_set(object, "target", cli_json_string(target));
    cli_json_set(object, "source", cli_json_string(text));
    return cli_print_json(object);
}

static zmlx_status emit_expression(char **text, zmlx_kernel *kernel, const char *target, const emit_values *values,
                                   zmlx_error *error) {
    mlx_dtype dtype = dtypes[values->general.dtype];
    zmlx_kernel *gradient;
    if (!values->grad) return zmlx_kernel_emit(text, kernel, target, dtype, error);
    zmlx_status status = zmlx_kernel_gradient(&gradient, kernel, error);
    if (!status) status = zmlx_kernel_emit(text, gradient, target, dtype, error);
    zmlx_kernel_free(gradient);
    return status;
}

int cli_emit(const cli_command *command, int argc, char **argv) {
    emit_values values = {0};
    const char *name = NULL;
    cli_kernel kernel = {0};
    char *text = NULL;
    zmlx_error error;
    int status;
    if (!cli_parse(command, &page, &values, &name, argc, argv, &status)) return status;
    const char *target = targets[values.target ? values.target - 1 : 0];
    if (name && values.expr) return cli_fail_usage(command, "%s and --expr are both given", name);
    if (name && values.set.count) return cli_fail_usage(command, "--set: numbers are no part of %s", name);
    if (!name && (status = cli_kernel_open(&kernel, command, values.expr, &values.set, 0))) return status;
    zmlx_status failed = name
                             ? zmlx_catalog_emit(&text, name, target, dtypes[values.general.dtype], values.grad, &error)
                             : emit_expression(&text, kernel.kernel, target, &values, &error);
    status = failed ? cli_fail_error(&error) : show(text, target, &values);
    free(text);
    cli_kernel_close(&kernel);
    return status;
}
