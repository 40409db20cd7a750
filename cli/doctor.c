/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "options.h"
#include "output.h"
#include "zmlx/system.h"

typedef struct doctor_values {
    cli_general general;
} doctor_values;

static const cli_option options[] = {
    CLI_JSON_OPTION(doctor_values),
    {"threads", CLI_INTEGER, offsetof(doctor_values, general.n_threads), "N",
     "threads of the second bandwidth measurement,\nat most 256 (default: the processors)", 1,
     CLI_MAX_THREADS},
};

static const cli_page page = {
    .arguments = "",
    .about = "Shows what this machine and this build can do, what is missing and how to get it.\n"
             "Memory bandwidth is measured by reading up to 512 MB with one thread and with all.\n",
    .options = options,
    .n_options = CLI_COUNT(options),
};

typedef struct bandwidth {
    int n_threads;
    double bytes_per_second; /* 0: not measured */
    zmlx_error error;
} bandwidth;

typedef struct missing {
    const char *what, *how;
} missing;

enum { MISSING_LIMIT = 4 };

static int find_missing(const zmlx_system_info *info, missing list[MISSING_LIMIT]) {
    int count = 0;
    if (!info->has_gpu)
        list[count++] =
            (missing){"a GPU", "MLX runs on the CPU here; with an NVIDIA GPU build with `make build "
                               "BACKEND=cuda`, on a Mac with BACKEND=metal"};
#if defined(__x86_64__)
    if (!strstr(info->cpu_features, "avx2") || !strstr(info->cpu_features, "fma"))
        list[count++] =
            (missing){"AVX2 and FMA", "the fused kernels run their portable code, which is slower; a "
                                      "processor from 2013 or later has both"};
#endif
    return count;
}

static void measure(bandwidth *result) {
    zmlx_status status =
        zmlx_system_read_bandwidth(&result->bytes_per_second, result->n_threads, 0, 0.3, &result->error);
    if (status) result->bytes_per_second = 0;
}

static json_t *split_words(const char *words) {
    json_t *array = json_array();
    while (*(words += strspn(words, " "))) {
        size_t size = strcspn(words, " ");
        cli_json_append(array, cli_json_bytes(words, size));
        words += size;
    }
    return array;
}

static int show_json(const zmlx_system_info *info, const bandwidth *measured, int n_measured) {
    missing list[MISSING_LIMIT];
    int n_missing = find_missing(info, list);
    json_t *object = json_object(), *gpu = json_null(), *rates = json_array(), *lacks = json_array();
    if (info->has_gpu) {
        gpu = json_object();
        cli_json_set(gpu, "name", cli_json_string(info->gpu_name));
        cli_json_set(gpu, "memory_bytes", json_integer((json_int_t)info->gpu_memory_bytes));
    }
    for (int i = 0; i < n_measured; i++) {
        double rate = measured[i].bytes_per_second;
        json_t *row = json_object();
        cli_json_set(row, "threads", json_integer(measured[i].n_threads));
        cli_json_set(row, "bytes_per_second", rate > 0 ? cli_json_number(rate) : json_null());
        cli_json_append(rates, row);
    }
    for (int i = 0; i < n_missing; i++) {
        json_t *row = json_object();
        cli_json_set(row, "what", cli_json_string(list[i].what));
        cli_json_set(row, "how", cli_json_string(list[i].how));
        cli_json_append(lacks, row);
    }
    cli_json_set(object, "zmlx", json_string(zmlx_version()));
    cli_json_set(object, "mlx", cli_json_string(info->mlx_version));
    cli_json_set(object, "system", cli_json_string(info->operating_system));
    cli_json_set(object, "cpu", cli_json_string(info->cpu_name));
    cli_json_set(object, "cpu_features", split_words(info->cpu_features));
    cli_json_set(object, "kernel_level", cli_json_string(info->kernel_level));
    cli_json_set(object, "processors", json_integer(info->n_processors));
    cli_json_set(object, "memory_bytes", json_integer((json_int_t)info->memory_bytes));
    cli_json_set(object, "gpu", gpu);
    cli_json_set(object, "read_bandwidth", rates);
    cli_json_set(object, "missing", lacks);
    return cli_print_json(object);
}

static int show_text(const zmlx_system_info *info, const bandwidth *measured, int n_measured) {
    cli_print("zmlx       %s\nMLX        %s\n", zmlx_version(), info->mlx_version);
    cli_print("system     %s\n", info->operating_system);
    cli_print("processor  %s, %d usable\n", info->cpu_name, info->n_processors);
    cli_print("features   %s\nkernels    %s\n", info->cpu_features, info->kernel_level);
    cli_print("memory     %.1f GB\n", 1e-9 * (double)info->memory_bytes);
    if (info->has_gpu)
        cli_print("GPU        %s, %.1f GB\n", info->gpu_name, 1e-9 * (double)info->gpu_memory_bytes);
    else
        cli_print("GPU        none\n");
    for (int i = 0; i < n_measured; i++) {
        const bandwidth *row = &measured[i];
        cli_print("%-11s%d thread%s: ", i ? "" : "bandwidth", row->n_threads, row->n_threads == 1 ? "" : "s");
        if (row->bytes_per_second > 0)
            cli_print("%.1f GB/s\n", 1e-9 * row->bytes_per_second);
        else
            cli_print("not measured: %s\n", row->error.message);
    }
    missing list[MISSING_LIMIT];
    int n_missing = find_missing(info, list);
    for (int i = 0; i < n_missing; i++) cli_print("missing    %s: %s\n", list[i].what, list[i].how);
    if (!n_missing) cli_print("missing    nothing\n");
    return CLI_DONE;
}

int cli_doctor(const cli_command *command, int argc, char **argv) {
    doctor_values values = {0};
    int status;
    if (!cli_parse(command, &page, &values, NULL, argc, argv, &status)) return status;
    zmlx_system_info info;
    zmlx_error error;
    if (zmlx_system_get_info(&info, &error)) return cli_fail_error(&error);
    int n_threads = values.general.n_threads ? (int)values.general.n_threads : info.n_processors;
    if (n_threads > CLI_MAX_THREADS) n_threads = CLI_MAX_THREADS;
    bandwidth measured[2] = {{.n_threads = 1}, {.n_threads = n_threads}};
    int n_measured = n_threads > 1 ? 2 : 1;
    for (int i = 0; i < n_measured; i++) measure(&measured[i]);
    return values.general.json ? show_json(&info, measured, n_measured)
                               : show_text(&info, measured, n_measured);
}
