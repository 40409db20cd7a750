/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "catalog.h"
#include "options.h"
#include "output.h"

enum { MAX_ARRAYS = CLI_MAX_ARRAYS };

typedef struct run_values {
    cli_general general;
    const char *expr, *input, *output;
    cli_texts set;
    bool grad;
} run_values;

#define AT(member) offsetof(run_values, member)
static const cli_option options[] = {
    CLI_EXPR_OPTION(run_values),
    {"input", CLI_TEXT, AT(input), "IN.safetensors", "arrays named as the kernel's inputs", 0, 0},
    {"output", CLI_TEXT, AT(output), "OUT.safetensors", "where the results go, under the outputs' names", 0, 0},
    CLI_SET_OPTION(run_values),
    {"grad", CLI_FLAG, AT(grad), NULL,
     "also write d<input> for the cotangents given as\ncot<output>", 0, 0},
    CLI_JSON_OPTION(run_values),
    {"device", CLI_CHOICE, AT(general.device), "cpu|gpu", "where to run (default: gpu where MLX has one)", 0, 0},
    CLI_THREADS_OPTION(run_values),
};

static const cli_page page = {
    .arguments = "[NAME]",
    .about = "NAME is a kernel of the catalogue (zmlx kernels), else --expr gives one.\n"
             "Of an expression the inputs are the names that --set does not give; outputs are the names it\n"
             "assigns, or y (y_ where an input is y). Inputs broadcast as in MLX; results have the type of the\n"
             "first input.\n",
    .options = options,
    .n_options = CLI_COUNT(options),
};

/* What goes into the output file. */
typedef struct results {
    mlx_array arrays[MAX_ARRAYS * 2];
    char names[MAX_ARRAYS * 2][80];
    size_t count;
} results;

static void name_result(results *made, const char *prefix, const char *name) {
    snprintf(made->names[made->count++], sizeof made->names[0], "%s%s", prefix, name);
}

/* The array <prefix><name> of the file. */
static int find_array(mlx_array *array, const zmlx_arrays *file, const char *path, const char *prefix,
                      const char *name) {
    char full[80];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    *array = zmlx_arrays_get(file, full);
    return array->ctx ? CLI_DONE : cli_fail("%s: there is no array \"%s\"", path, full);
}

static int apply_gradient(results *made, const cli_kernel *kernel, const mlx_array *inputs, const zmlx_arrays *file,
                          const char *path, mlx_stream stream) {
    mlx_array cotangents[MAX_ARRAYS];
    zmlx_error error;
    for (size_t i = 0; i < kernel->info.n_outputs; i++) {
        int status = find_array(&cotangents[i], file, path, "cot", kernel->info.outputs[i]);
        if (status) return status;
    }
    if (zmlx_kernel_apply_gradient(kernel->kernel, made->arrays + made->count, inputs, kernel->info.n_inputs,
                                   cotangents, kernel->info.n_outputs, &kernel->numbers, stream, &error))
        return cli_fail_error(&error);
    for (size_t i = 0; i < kernel->info.n_inputs; i++) name_result(made, "d", kernel->info.inputs[i]);
    return CLI_DONE;
}

static int apply(results *made, const cli_kernel *kernel, const zmlx_arrays *file, const run_values *values,
                 mlx_stream stream) {
    mlx_array inputs[MAX_ARRAYS];
    zmlx_error error;
    for (size_t i = 0; i < kernel->info.n_inputs; i++) {
        int status = find_array(&inputs[i], file, values->input, "", kernel->info.inputs[i]);
        if (status) return status;
    }
    if (zmlx_kernel_apply_with(kernel->kernel, made->arrays, inputs, kernel->info.n_inputs, &kernel->numbers, stream,
                               &error))
        return cli_fail_error(&error);
    for (size_t i = 0; i < kernel->info.n_outputs; i++) name_result(made, "", kernel->info.outputs[i]);
    return values->grad ? apply_gradient(made, kernel, inputs, file, values->input, stream) : CLI_DONE;
}

static int save(const results *made, const run_values *values) {
    const char *names[MAX_ARRAYS * 2];
    zmlx_error error;
    for (size_t i = 0; i < made->count; i++) names[i] = made->names[i];
    if (zmlx_arrays_save(values->output, names, made->arrays, made->count, &error)) return cli_fail_error(&error);
    if (values->general.json) {
        json_t *object = json_object();
        cli_json_set(object, "output", cli_json_string(values->output));
        cli_json_set(object, "arrays", cli_json_strings(names, made->count));
        return cli_print_json(object);
    }
    cli_print("%s:", values->output);
    for (size_t i = 0; i < made->count; i++) cli_print(" %s", names[i]);
    cli_print("\n");
    return CLI_DONE;
}

/* An expression's kernel, or one of the catalogue. */
static int run_kernel(const cli_kernel *kernel, const cli_catalog *chosen, const run_values *values) {
    zmlx_arrays *file;
    zmlx_error error;
    mlx_stream stream = {NULL};
    results made = {0};
    if (kernel && (kernel->info.n_inputs > MAX_ARRAYS || kernel->info.n_outputs > MAX_ARRAYS))
        return cli_fail("--expr: more than %d inputs or outputs", MAX_ARRAYS);
    if (zmlx_arrays_load(&file, values->input, &error)) return cli_fail_error(&error);
    int status = cli_stream_open(&stream, values->general.device);
    if (!status && chosen)
        status = cli_catalog_run(made.arrays, made.names, &made.count, chosen, file, values->input, values->grad,
                                 stream);
    else if (!status)
        status = apply(&made, kernel, file, values, stream);
    if (!status) status = save(&made, values);
    for (size_t i = 0; i < MAX_ARRAYS * 2; i++) mlx_array_free(made.arrays[i]);
    zmlx_stream_free(stream);
    zmlx_arrays_free(file);
    return status;
}

int cli_run(const cli_command *command, int argc, char **argv) {
    run_values values = {0};
    const char *name = NULL;
    cli_kernel kernel;
    cli_catalog chosen;
    int status;
    if (!cli_parse(command, &page, &values, &name, argc, argv, &status)) return status;
    if (name && values.expr) return cli_fail_usage(command, "%s and --expr are both given", name);
    if (!values.input || !values.output)
        return cli_fail_usage(command, "--%s is missing", values.input ? "output" : "input");
    if (!values.input[0] || !values.output[0])
        return cli_fail_usage(command, "--%s: the file's name is empty", values.input[0] ? "output" : "input");
    cli_end_on_interrupt();
    if (name) {
        status = cli_catalog_open(&chosen, command, name, &values.set, values.general.n_threads);
        return status ? status : run_kernel(NULL, &chosen, &values);
    }
    status = cli_kernel_open(&kernel, command, values.expr, &values.set, values.general.n_threads);
    if (status) return status;
    status = run_kernel(&kernel, NULL, &values);
    cli_kernel_close(&kernel);
    return status;
}
