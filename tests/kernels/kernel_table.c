/* SPDX-License-Identifier: MIT */
/* kernel_table [--device cpu|gpu|metal] [--metal KERNELS.so] [--json FILE] [--level N] [--no-compiler] [--control]
 *              [--oracles] [--jobs N] [NAME...]
 *
 * The table on standard output: a row a kernel, for each type whether values (v) and gradients (g) match, or "-" where
 * there is nothing to compare; exit status 1 where one does not, 77 where the device is missing. ZMLX_TEST_DEVICE is
 * the default of --device. --level: instruction sets up to N (prebuilt.h). --no-compiler: a kernel that is not prebuilt
 * is a failure. --control: broken kernels, each of which must be caught. --oracles: instead of kernels, the oracles'
 * gradients against differences of their values, which no device changes. --jobs: so many processes share the rows,
 * as a GPU's compiler takes one program at a time in each; without --json. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "emit/gpu/gpu.h"
#include "ir/passes.h"
#include "runtime/prebuilt.h"
#include "table.h"
#include "variants.h"
#include "zmlx/kernel_tools.h"
#include "zmlx/arrays.h"
#include "zmlx/system.h"

enum { N_TYPES = 3, MAX_NAMES = 64, MAX_REQUESTS = 4096, MAX_JOBS = 64, MAX_LINE = 1024 };
static const mlx_dtype types[N_TYPES] = {MLX_FLOAT32, MLX_FLOAT16, MLX_BFLOAT16};

typedef struct cell {
    table_run base; /* first: table_visit reads it */
    bool passed, none;
    size_t n_runs;
    double worst;
    char message[700];
    bool differences; /* check the oracle instead */
} cell;

static bool run_one(void *context, table_run *run) {
    cell *self = context;
    run->arena = zm_arena_new();
    bool small = run->shape.data == DATA_PLAIN && run->shape.layout == LAYOUT_PLAIN && run->shape.columns <= 40;
    if (self->differences && (!small || run->shape.columns < 0)) {
        zm_arena_free(run->arena);
        return true;
    }
    bool passed = run->arena && table_make_inputs(run) &&
                  (self->differences ? table_check_oracle(run) : table_apply(run));
    if (!passed) {
        char shape[128];
        zm_shape_describe(shape, run->inputs[0].shape, run->inputs[0].n_dims);
        snprintf(self->message, sizeof self->message, "first input %s, layout %d, data %d: %s", shape,
                 (int)run->shape.layout, (int)run->shape.data, run->message);
    }
    if (run->worst > self->worst) self->worst = run->worst;
    self->n_runs++;
    table_free_arrays(run);
    zm_arena_free(run->arena);
    self->passed = passed;
    return passed;
}

static void fill(cell *self, const zm_kernel_entry *entry, bool gradient) {
    self->base.entry = entry;
    const zm_row *row = entry->row;
    self->base.oracle = table_find_oracle(row->profile_of ? row->profile_of : row->name);
    self->base.arena = zm_arena_new(); /* of the cases' texts */
    /* What is rounded as MLX rounds has MLX as its oracle: unit/kernel_profiles. */
    self->none = gradient ? row->no_gradient != NULL : row->profile_of != NULL;
    self->passed = true;
    if (!self->base.oracle) {
        self->passed = false;
        snprintf(self->message, sizeof self->message, "there is no oracle");
    } else if (!self->none) {
        table_visit(entry, gradient, run_one, self);
    }
    zm_arena_free(self->base.arena);
}

typedef struct totals {
    int n_kernels, n_passed, n_cells, n_failed, n_none;
    size_t n_runs;
} totals;

/* The rows of one of several processes: every n_jobs-th. */
typedef struct share {
    int number, n_jobs;
    totals *sum;
} share;

/* One kernel in all types. */
static void run_kernel(totals *sum, const zm_kernel_entry *entry, mlx_stream stream, mlx_stream cpu, FILE *json) {
    bool passed = true;
    printf("%-28s", entry->entry.name);
    if (json) fprintf(json, "%s\n    {\"name\": \"%s\"", sum->n_kernels ? "," : "", entry->entry.name);
    char messages[2 * N_TYPES][800] = {{0}};
    for (int i = 0; i < 2 * N_TYPES; i++) {
        bool gradient = i % 2;
        cell self = {.base = {.stream = stream, .cpu = cpu, .dtype = types[i / 2]}};
        fill(&self, entry, gradient);
        const char *mark = self.none ? "-" : self.passed ? "ok" : "FAIL";
        printf(" %-4s", mark);
        sum->n_cells++;
        sum->n_none += self.none;
        sum->n_failed += !self.passed;
        if (json)
            fprintf(json, ", \"%s_%s\": \"%s\", \"worst_%d\": %.3g", zm_dtype_name(types[i / 2]),
                    gradient ? "gradient" : "value", mark, i, self.worst);
        if (!self.passed)
            snprintf(messages[i], sizeof messages[i], "%s %s: %s", zm_dtype_name(self.base.dtype),
                     gradient ? "gradient" : "value", self.message);
        passed &= self.passed;
        sum->n_runs += self.n_runs;
    }
    printf("\n");
    for (int i = 0; i < 2 * N_TYPES; i++)
        if (messages[i][0]) printf("    %s\n", messages[i]);
    fflush(stdout);
    if (json) fprintf(json, "}");
    sum->n_kernels++;
    sum->n_passed += passed;
}

static bool is_chosen(const char *name, char **names, int n_names) {
    for (int i = 0; i < n_names; i++)
        if (!strcmp(names[i], name)) return true;
    return !n_names;
}

/* Another name of a kernel counts as that kernel's result does: it is the same function. */
/* The first name that is no kernel's: an option that is misspelt would else leave nothing to fail. */
static const char *unknown_name(char **names, int n_names) {
    for (int i = 0; i < n_names; i++) {
        bool known = false;
        for (int j = 0; zm_catalog_at(j) && !known; j++)
            known = !zm_catalog_at(j)->row->is_part && !strcmp(zm_catalog_at(j)->entry.name, names[i]);
        if (!known) return names[i];
    }
    return NULL;
}

static void print_head(const char *device) {
    printf("%-28s float32   float16   bfloat16\n%-28s v    g    v    g    v    g\n", device, "");
}

static int print_totals(const char *device, const totals *sum) {
    printf("%s: %d of %d kernels pass; %d cells, %d empty, %d failed; %zu applications\n", device, sum->n_passed,
           sum->n_kernels, sum->n_cells, sum->n_none, sum->n_failed, sum->n_runs);
    return sum->n_failed ? 1 : 0;
}

/* own NULL: all rows, with head and totals. */
static int run_table(const char *device, char **names, int n_names, const share *own, FILE *json) {
    mlx_stream stream = {NULL}, cpu = {NULL};
    zmlx_error error;
    totals sum = {0};
    int n_rows = 0;
    if (zmlx_stream_new(&cpu, MLX_CPU, &error) ||
        zmlx_stream_new(&stream, !strcmp(device, "gpu") ? MLX_GPU : MLX_CPU, &error)) {
        printf("%s: %s\n", error.where, error.message);
        return 77;
    }
    if (json) fprintf(json, "{\"device\": \"%s\", \"kernels\": [", device);
    if (!own) print_head(device);
    for (int i = 0; zm_catalog_at(i); i++) {
        const zm_kernel_entry *entry = zm_catalog_at(i);
        if (entry->row->is_part || !is_chosen(entry->entry.name, names, n_names)) continue;
        if (!own || n_rows++ % own->n_jobs == own->number) run_kernel(&sum, entry, stream, cpu, json);
    }
    if (own)
        *own->sum = sum;
    else
        print_totals(device, &sum);
    if (json)
        fprintf(json, "\n], \"passed\": %d, \"count\": %d, \"applications\": %zu}\n", sum.n_passed, sum.n_kernels,
                sum.n_runs);
    zmlx_stream_free(stream);
    zmlx_stream_free(cpu);
    return sum.n_failed ? 1 : 0;
}

/* The next row of a process's output, with the messages below it. */
static bool pass_row_on(FILE *from) {
    char line[MAX_LINE];
    int next;
    if (!fgets(line, sizeof line, from)) return false;
    fputs(line, stdout);
    while ((next = getc(from)) == ' ' && fgets(line, sizeof line, from)) printf(" %s", line);
    if (next != EOF) ungetc(next, from);
    return true;
}

/* Before anything touches the device. */
static int run_jobs(const char *device, char **names, int n_names, int n_jobs) {
    FILE *outputs[MAX_JOBS];
    pid_t children[MAX_JOBS];
    totals *sums = mmap(NULL, MAX_JOBS * sizeof *sums, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    totals all = {0};
    int worst = 0;
    if (sums == MAP_FAILED) return 2;
    for (int i = 0; i < n_jobs; i++) {
        if (!(outputs[i] = tmpfile()) || (children[i] = fork()) < 0) return 2;
        if (children[i]) continue;
        const share own = {i, n_jobs, &sums[i]};
        if (dup2(fileno(outputs[i]), STDOUT_FILENO) < 0) _exit(2);
        int status = run_table(device, names, n_names, &own, NULL);
        fflush(stdout);
        _exit(status);
    }
    for (int i = 0, status = 0; i < n_jobs; i++) {
        waitpid(children[i], &status, 0);
        int code = WIFEXITED(status) ? WEXITSTATUS(status) : 2;
        if (code > 1) fprintf(stderr, "kernel_table: process %d of %d ended with status %d\n", i, n_jobs, code);
        if (code > worst) worst = code;
        rewind(outputs[i]);
        all.n_kernels += sums[i].n_kernels;
        all.n_passed += sums[i].n_passed;
        all.n_cells += sums[i].n_cells;
        all.n_failed += sums[i].n_failed;
        all.n_none += sums[i].n_none;
        all.n_runs += sums[i].n_runs;
    }
    print_head(device);
    for (bool any = true; any;) {
        any = false;
        for (int i = 0; i < n_jobs; i++) any = pass_row_on(outputs[i]) || any;
    }
    print_totals(device, &all);
    return worst;
}

/* The requests that the Metal texts were made from, in the same order: their launches. */
static struct {
    zm_emit_request items[MAX_REQUESTS];
    zm_storage storages[MAX_REQUESTS][ZM_IR_MAX_INPUTS + ZM_IR_MAX_OUTPUTS];
    int count;
} requests;

static zmlx_status keep_request(void *context, const zm_kernel_entry *entry, const zm_emit_request *request,
                                zmlx_error *error) {
    (void)context, (void)entry;
    if (requests.count == MAX_REQUESTS) return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "metal", "too many texts");
    zm_storage *storages = requests.storages[requests.count];
    zm_ir *copy;
    ZM_TRY(zm_ir_simplify(&copy, request->ir, error)); /* lives as long as the process */
    memcpy(storages, request->inputs, (size_t)copy->n_inputs * sizeof *storages);
    memcpy(storages + copy->n_inputs, request->outputs, (size_t)copy->n_outputs * sizeof *storages);
    requests.items[requests.count++] = (zm_emit_request){.ir = copy,
                                                         .inputs = storages,
                                                         .outputs = storages + copy->n_inputs,
                                                         .entry = "entry",
                                                         .summed_outputs = request->summed_outputs};
    return ZMLX_OK;
}

static void plan_metal(int number, int64_t rows, int64_t columns, int is_aligned, uint32_t *blocks, uint32_t *threads,
                       uint32_t *threads_per_row) {
    zm_gpu_plan plan = zm_gpu_plan_launch(&requests.items[number], rows > 1 ? rows : 1, columns > 1 ? columns : 1,
                                          NULL, is_aligned);
    *blocks = (uint32_t)plan.blocks;
    *threads = (uint32_t)plan.threads;
    *threads_per_row = (uint32_t)plan.threads_per_row;
}

/* Kernels of the Metal texts, compiled for the host, in place of the C ones. */
static bool use_metal(const char *path) {
    typedef void planner(int, int64_t, int64_t, int, uint32_t *, uint32_t *, uint32_t *);
    zmlx_error error;
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    const zm_prebuilts *table = library ? dlsym(library, "zm_metal_table") : NULL;
    planner **plan = library ? dlsym(library, "zm_metal_plan") : NULL;
    if (!table || !plan || visit_variants(keep_request, NULL, &error)) return false;
    *plan = plan_metal;
    zm_prebuilt_use(table, 0);
    return !zmlx_kernel_set_threads(1, &error); /* the stand-in runs one threadgroup at a time */
}

static int run_oracles(char **names, int n_names) {
    mlx_stream cpu = {NULL};
    zmlx_error error;
    int n_checked = 0, n_wrong = 0;
    if (zmlx_stream_new(&cpu, MLX_CPU, &error)) return 2;
    for (int i = 0; zm_catalog_at(i); i++) {
        const zm_kernel_entry *entry = zm_catalog_at(i);
        if (entry->row->is_part || !is_chosen(entry->entry.name, names, n_names)) continue;
        cell self = {.base = {.stream = cpu, .cpu = cpu, .dtype = MLX_FLOAT32}, .differences = true};
        fill(&self, entry, true);
        n_checked += !self.none;
        n_wrong += !self.passed;
        if (!self.passed) printf("%s: %s\n", entry->entry.name, self.message);
    }
    zmlx_stream_free(cpu);
    printf("oracles: the gradients of %d, %d wrong\n", n_checked, n_wrong);
    return n_wrong ? 1 : 0;
}

/* Kernels with a mistake in their expression: each must fail. */
static const char *const broken[][2] = {
    {"layernorm", "T m = row_mean(x); (x - m) * rsqrt(row_mean(x * x) - m * m + eps) * gamma + beta"},
    {"softmax_lastdim", "exp(x) / row_sum(exp(x))"},
    {"dropout", "random(seed) <= p ? 0 : x"},
};

static int run_controls(void) {
    mlx_stream cpu = {NULL};
    zmlx_error error;
    int n_missed = 0;
    if (zmlx_stream_new(&cpu, MLX_CPU, &error)) return 2;
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        const zm_kernel_entry *entry = zm_catalog_lookup(broken[i][0]);
        zmlx_kernel *kernel;
        cell self = {.base = {.stream = cpu, .cpu = cpu, .dtype = MLX_FLOAT32}};
        if (!entry || zm_catalog_kernel_new(&kernel, entry, broken[i][1], &error)) return 2;
        zm_catalog_kernel_replace(entry, kernel);
        fill(&self, entry, false);
        zm_catalog_kernel_replace(entry, NULL);
        n_missed += self.passed;
        printf("%s as `%s`: %s %s\n", broken[i][0], broken[i][1], self.passed ? "MISSED" : "caught:", self.message);
    }
    zmlx_stream_free(cpu);
    return n_missed ? 1 : 0;
}

int main(int argc, char **argv) {
    bool no_compiler = false, control = false, oracles = false;
    const char *device = getenv("ZMLX_TEST_DEVICE"), *metal = NULL, *json_path = NULL;
    char *names[MAX_NAMES];
    int n_names = 0, n_jobs = 1;
    if (!device || !device[0]) device = "cpu";
    setenv("MLX_ENABLE_TF32", "0", 0); /* parts that are MLX's products are float32's only without */
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--device") && i + 1 < argc) device = argv[++i];
        else if (!strcmp(argv[i], "--metal") && i + 1 < argc) metal = argv[++i];
        else if (!strcmp(argv[i], "--json") && i + 1 < argc) json_path = argv[++i];
        else if (!strcmp(argv[i], "--level") && i + 1 < argc) zm_prebuilt_use(NULL, atoi(argv[++i]));
        else if (!strcmp(argv[i], "--jobs") && i + 1 < argc) n_jobs = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--no-compiler")) no_compiler = true;
        else if (!strcmp(argv[i], "--control")) control = true;
        else if (!strcmp(argv[i], "--oracles")) oracles = true;
        else if (n_names < MAX_NAMES) names[n_names++] = argv[i];
    }
    zmlx_error error;
    if (zm_catalog_check(&error)) {
        fprintf(stderr, "%s: %s\n", error.where, error.message);
        return 2;
    }
    const char *unknown = unknown_name(names, n_names);
    if (unknown) {
        fprintf(stderr, "kernel_table: no kernel is named %s; zmlx kernels lists them\n", unknown);
        return 2;
    }
    if (n_jobs < 1 || n_jobs > MAX_JOBS || (n_jobs > 1 && json_path)) {
        fprintf(stderr, "kernel_table: --jobs takes 1 to %d, and several without --json\n", MAX_JOBS);
        return 2;
    }
    if (control) return run_controls();
    if (oracles) return run_oracles(names, n_names);
    if (n_jobs > 1 && strcmp(device, "metal")) return run_jobs(device, names, n_names, n_jobs);
    if (!strcmp(device, "metal") && !use_metal(metal)) {
        const char *reason = dlerror();
        fprintf(stderr, "kernel_table: --metal FILE cannot be used: %s\n", reason ? reason : "it has no table");
        return 2;
    }
    zmlx_system_info info;
    if (!strcmp(device, "gpu") && (zmlx_system_get_info(&info, &error) || !info.has_gpu)) {
        int count = 0;
        for (int i = 0; zm_catalog_at(i); i++) count += !zm_catalog_at(i)->row->is_part;
        printf("gpu: none here; %d kernels skipped\n", count);
        return 77;
    }
    FILE *json = json_path ? fopen(json_path, "w") : NULL;
    int status = run_table(device, names, n_names, NULL, json);
    if (json) fclose(json);
    zmlx_kernel_counts counts = zmlx_kernel_get_counts();
    printf("%s: %llu runs of a compiler, %llu kernels from its cache\n", device, (unsigned long long)counts.compiled,
           (unsigned long long)counts.loaded);
    if (no_compiler && counts.compiled + counts.loaded) {
        printf("%s: every kernel should be prebuilt\n", device);
        return 1;
    }
    return status;
}
