/* SPDX-License-Identifier: MIT */
#include "zmlx/kernel_bench.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "catalog.h"
#include "options.h"
#include "output.h"
#include "zmlx/catalog_bench.h"
#include "zmlx/system.h"

enum { MAX_LENGTHS = 32, AGAINST_NONE = 3 };

typedef struct bench_values {
    cli_general general;
    const char *expr, *shape;
    cli_texts set;
    int against;
    int64_t n_runs, batch;
    double bandwidth;
    bool grad;
} bench_values;

#define AT(member) offsetof(bench_values, member)
static const cli_option options[] = {
    CLI_EXPR_OPTION(bench_values),
    {"shape", CLI_TEXT, AT(shape), "N,N,...", "of every input; of NAME's first one (16384,4096)", 0, 0},
    {"dtype", CLI_CHOICE, AT(general.dtype), "float32|float16|bfloat16", "of every input (float32)", 0, 0},
    {"against", CLI_CHOICE, AT(against), "mlx|mlx-compile|none", "MLX's operations one by one, or compiled (mlx)",
     0, 0},
    {"grad", CLI_FLAG, AT(grad), NULL, "with the gradients of NAME's inputs", 0, 0},
    {"runs", CLI_INTEGER, AT(n_runs), "N", "counted runs of each side (15)", 1, 10000},
    {"batch", CLI_INTEGER, AT(batch), "N", "evaluations a run (default: about 20 ms)", 1, 1000},
    {"bandwidth", CLI_NUMBER, AT(bandwidth), "GB/S",
     "what to state the share of (default: measured\nbetween the runs on the CPU, none on a GPU)", 0.001, 1e6},
    CLI_SET_OPTION(bench_values),
    CLI_JSON_OPTION(bench_values),
    {"device", CLI_CHOICE, AT(general.device), "cpu|gpu", "where to run (default: gpu where MLX has one)", 0, 0},
    CLI_THREADS_OPTION(bench_values),
};

static const cli_page page = {
    .arguments = "ops|model|moe [NAME]",
    .about = "ops: NAME of the catalogue (zmlx kernels), else the kernel of --expr, on random arrays\n"
             "against the same formula in MLX's own operations, alternating. Above 1x the kernel is\n"
             "faster. Bytes are those of all inputs and outputs.\n"
             "The first use compiles the kernel or takes it from the cache.\n"
             "A model, or layers of experts: see zmlx bench model --help and zmlx bench moe --help.\n",
    .options = options,
    .n_options = CLI_COUNT(options),
};

static int parse_shape(int *shape, int *n_dims, const cli_command *command, const char *text) {
    const char *rest = text;
    for (*n_dims = 0; *n_dims < MAX_LENGTHS; rest++) {
        char *end;
        long length = strtol(rest, &end, 10);
        if (end == rest || length < 1 || length > INT_MAX || (*end && *end != ',')) break;
        shape[(*n_dims)++] = (int)length;
        rest = end;
        if (!*end) return CLI_DONE;
    }
    return cli_fail_usage(command, "--shape: expected lengths from 1 to %d, separated by commas, got \"%s\"", INT_MAX,
                          text);
}

static json_t *timing_json(const zmlx_timing *timing, double bandwidth, double share) {
    json_t *object = json_object();
    cli_json_set(object, "median_s", cli_json_number(timing->median));
    cli_json_set(object, "min_s", cli_json_number(timing->minimum));
    cli_json_set(object, "lower_quartile_s", cli_json_number(timing->lower_quartile));
    cli_json_set(object, "upper_quartile_s", cli_json_number(timing->upper_quartile));
    cli_json_set(object, "max_s", cli_json_number(timing->maximum));
    cli_json_set(object, "bytes_per_s", cli_json_number(bandwidth));
    cli_json_set(object, "share", cli_json_measured(share));
    return object;
}

static void print_side(const char *name, const zmlx_timing *timing, double bandwidth, double share) {
    cli_print("  %-12s %9.1f us  (%.1f-%.1f)  %8.1f GB/s", name, 1e6 * timing->median, 1e6 * timing->minimum,
              1e6 * timing->maximum, 1e-9 * bandwidth);
    if (share > 0) cli_print("  %3.0f %%", 100 * share);
    cli_print("\n");
}

static int show(const zmlx_comparison *comparison, const bench_values *values) {
    static const char *const names[] = {"mlx", "mlx", "mlx-compile", "none"};
    const char *against = names[values->against];
    bool is_alone = values->against == AGAINST_NONE;
    if (values->general.json) {
        json_t *object = json_object();
        cli_json_set(object, "expr", cli_json_string(values->expr));
        cli_json_set(object, "shape", cli_json_string(values->shape));
        cli_json_set(object, "against", cli_json_string(against));
        cli_json_set(object, "baseline", is_alone ? json_null()
                                                  : timing_json(&comparison->baseline, comparison->baseline_bandwidth,
                                                                comparison->baseline_share));
        cli_json_set(object, "candidate", timing_json(&comparison->candidate, comparison->candidate_bandwidth,
                                                      comparison->candidate_share));
        cli_json_set(object, "ratio", is_alone ? json_null() : cli_json_number(comparison->ratio));
        cli_json_set(object, "first_use_s", cli_json_number(comparison->first_use));
        cli_json_set(object, "first_use_compiled", json_boolean(comparison->first_compiled));
        cli_json_set(object, "bandwidth", cli_json_measured(comparison->bandwidth));
        cli_json_set(object, "bytes", json_integer((json_int_t)comparison->bytes));
        cli_json_set(object, "runs", json_integer(comparison->n_runs));
        cli_json_set(object, "batch", json_integer(comparison->batch));
        return cli_print_json(object);
    }
    cli_print("%s  [%s], %.3g MB, %d runs of %d\n", values->expr, values->shape, 1e-6 * (double)comparison->bytes,
              comparison->n_runs, comparison->batch);
    if (!is_alone)
        print_side(against, &comparison->baseline, comparison->baseline_bandwidth, comparison->baseline_share);
    print_side("zmlx", &comparison->candidate, comparison->candidate_bandwidth, comparison->candidate_share);
    if (!is_alone) cli_print("  %.2fx\n", comparison->ratio);
    if (!(values->bandwidth > 0) && comparison->bandwidth > 0)
        cli_print("  memory       %9.1f GB/s, read between the runs\n", 1e-9 * comparison->bandwidth);
    cli_print("  first use    %9.1f ms  (%s)\n", 1e3 * comparison->first_use,
              comparison->first_compiled ? "compiled" : "from the cache");
    return CLI_DONE;
}

int cli_bench_probe_threads(int *n_threads, const cli_general *general) {
    zmlx_error error;
    zmlx_system_info info;
    *n_threads = 0;
    if (zmlx_system_get_info(&info, &error)) return cli_fail_error(&error);
    if (general->device == 2 || (!general->device && info.has_gpu)) return CLI_DONE;
    *n_threads = general->n_threads ? (int)general->n_threads : info.n_processors;
    return CLI_DONE;
}

/* The kernel of an expression, or one of the catalogue. */
static zmlx_status compare(zmlx_comparison *comparison, const cli_kernel *kernel, const cli_catalog *chosen,
                           const bench_values *values, const int *shape, int n_dims, mlx_stream stream,
                           const zmlx_bench_options *choice, zmlx_error *error) {
    static const mlx_dtype dtypes[] = {MLX_FLOAT32, MLX_FLOAT32, MLX_FLOAT16, MLX_BFLOAT16};
    static const zmlx_bench_baseline baselines[] = {ZMLX_BENCH_MLX, ZMLX_BENCH_MLX, ZMLX_BENCH_MLX_COMPILED,
                                                    ZMLX_BENCH_NONE};
    mlx_dtype dtype = dtypes[values->general.dtype];
    zmlx_bench_baseline baseline = baselines[values->against];
    if (!chosen)
        return zmlx_bench_kernel(comparison, kernel->kernel, shape, n_dims, dtype, &kernel->numbers, baseline, stream,
                                 choice, error);
    const zmlx_catalog_bench how = {dtype, true, values->grad, chosen->values, baseline};
    return zmlx_bench_catalog(comparison, chosen->entry->name, shape, n_dims, &how, stream, choice, error);
}

static int bench(const cli_command *command, const cli_kernel *kernel, const cli_catalog *chosen,
                 const bench_values *values, const int *shape, int n_dims) {
    zmlx_bench_options choice = {.n_runs = (int)values->n_runs, .batch = (int)values->batch};
    zmlx_comparison comparison;
    zmlx_error error;
    mlx_stream stream = {NULL};
    int status = CLI_DONE;
    choice.bandwidth = 1e9 * values->bandwidth;
    if (!(values->bandwidth > 0)) status = cli_bench_probe_threads(&choice.probe_threads, &values->general);
    if (!status) status = cli_stream_open(&stream, values->general.device);
    if (status) return status;
    if (compare(&comparison, kernel, chosen, values, shape, n_dims, stream, &choice, &error))
        status = cli_fail_option(command, &page, &error);
    else
        status = show(&comparison, values);
    zmlx_stream_free(stream);
    return status;
}

int cli_bench(const cli_command *command, int argc, char **argv) {
    if (argc > 0 && !strcmp(argv[0], "model")) return cli_bench_model(argc - 1, argv + 1);
    if (argc > 0 && !strcmp(argv[0], "moe")) return cli_bench_moe(argc - 1, argv + 1);
    bench_values values = {.shape = "16384,4096"};
    const char *words[2] = {NULL, NULL}; /* ops, NAME */
    cli_kernel kernel;
    cli_catalog chosen;
    int status, shape[MAX_LENGTHS], n_dims;
    if (!cli_parse(command, &page, &values, words, argc, argv, &status)) return status;
    if (!strcmp(words[0], "model") || !strcmp(words[0], "moe"))
        return cli_fail_usage(command, "%s must stand before all options", words[0]);
    if (strcmp(words[0], "ops")) return cli_fail_usage(command, "expected ops, model or moe, got \"%s\"", words[0]);
    if (words[1] && values.expr) return cli_fail_usage(command, "%s and --expr are both given", words[1]);
    if (!words[1] && values.grad) return cli_fail_usage(command, "--grad: needs the NAME of a kernel");
    if ((status = parse_shape(shape, &n_dims, command, values.shape))) return status;
    cli_end_on_interrupt();
    if (words[1]) {
        status = cli_catalog_open(&chosen, command, words[1], &values.set, values.general.n_threads);
        values.expr = words[1];
        return status ? status : bench(command, NULL, &chosen, &values, shape, n_dims);
    }
    status = cli_kernel_open(&kernel, command, values.expr, &values.set, values.general.n_threads);
    if (status) return status;
    status = bench(command, &kernel, NULL, &values, shape, n_dims);
    cli_kernel_close(&kernel);
    return status;
}
