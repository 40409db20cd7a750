/* SPDX-License-Identifier: MIT */
/* The frame of GPU kernels, run: Metal texts compiled as C++ on the host (tests/metal) against the representation
 * evaluated in float64, in three types, two orders of threads, odd sizes and all layouts. */
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/half.h"
#include "emit/gpu/gpu.h"
#include "ir_testing.h"
#include "sanitized.h"
#include "temporary.h"

typedef void runner(const void *const *inputs, void *const *outputs, const uint32_t *scalars, uint32_t blocks,
                    uint32_t threads, int order);

/* unit: the bound on a float32 result, in 2^-24 of |result| plus the size of the terms that are added: SUM the number
 * of columns times 2, below which all elements are. */
enum { SUM = -1 };
typedef struct test_case {
    const char *name, *text;
    double unit, terms;
} test_case;

#define MAP "input x float element\noutput y element = "
static const test_case cases[] = {
    {"exp", "kernel k\n" MAP "%1\n%0 = load x\n%1 = exp %0\n", 24, 0},
    {"mish", "kernel k\n" MAP "%4\n%0 = load x\n%1 = exp %0\n%2 = log1p %1\n%3 = tanh %2\n%4 = multiply %0 %3\n", 24,
     0},
    {"silu_grad",
     "kernel k\ninput x float element\ninput g float element\noutput d element = %9\n%0 = load x\n%1 = load g\n"
     "%2 = sigmoid %0\n%3 = negate %0\n%4 = sigmoid %3\n%5 = multiply %0 %4\n%6 = constant 1\n%7 = add %6 %5\n"
     "%8 = multiply %2 %7\n%9 = multiply %1 %8\n",
     16, 4},
    {"special",
     "kernel k\ninput x float element\noutput a element = %1\noutput b element = %2\noutput c element = %3\n"
     "output d element = %4\noutput e element = %5\n%0 = load x\n%1 = erf %0\n%2 = erfc %0\n%3 = expm1 %0\n"
     "%4 = cbrt %0\n%5 = sigmoid %0\n",
     24, 0},
    {"broadcast",
     "kernel k\ninput x float element\ninput w float element\ninput b float element\nparameter p\n"
     "output y element = %5\n%0 = load x\n%1 = load w\n%2 = load b\n%3 = parameter p\n%4 = fma %0 %1 %2\n"
     "%5 = multiply %4 %3\n",
     24, SUM},
    {"random",
     "kernel k\ninput x float element\nparameter p\nseed s\noutput y element = %4\noutput u element = %1\n%0 = load x\n"
     "%1 = random s\n%2 = parameter p\n%3 = less %1 %2\n%4 = select %3 %2 %0\n",
     1, 0},
    {"columns", "kernel k\n" MAP "%3\n%0 = load x\n%1 = column\n%2 = from_uint %1\n%3 = add %0 %2\n", 4, SUM},
    {"row_sum", "kernel k\ninput x float element\noutput y row = %1\n%0 = load x\n%1 = row_sum %0\n", 100, SUM},
    {"softmax",
     "kernel k\n" MAP "%5\n%0 = load x\n%1 = row_max %0\n%2 = subtract %0 %1\n%3 = exp %2\n%4 = row_sum %3\n"
     "%5 = divide %3 %4\n",
     120, 0},
    {"extremes",
     "kernel k\ninput x float element\noutput low row = %1\noutput high row = %2\noutput at row = %3\n%0 = load x\n"
     "%1 = row_min %0\n%2 = row_max %0\n%3 = row_argmax %0\n",
     0, 0},
    {"cumsum", "kernel k\n" MAP "%1\n%0 = load x\n%1 = row_cumsum %0\n", 100, SUM},
    {"reverse", "kernel k\n" MAP "%1\n%0 = load x\n%1 = row_cumsum_reverse %0\n", 100, SUM},
    {"scans", /* against each other: a long row repeats the first two */
     "kernel k\ninput x float element\noutput z element = %6\n%0 = load x\n%1 = row_cumsum %0\n%2 = row_cumsum %1\n"
     "%3 = columns\n%4 = divide %2 %3\n%5 = multiply %4 %0\n%6 = row_cumsum_reverse %5\n",
     150, SUM},
    {"scans_back", /* the other way round, with a reduction behind */
     "kernel k\ninput x float element\noutput z element = %4\noutput t row = %6\n%0 = load x\n"
     "%1 = row_cumsum_reverse %0\n%2 = columns\n%3 = divide %1 %2\n%4 = row_cumsum %3\n%5 = divide %4 %2\n"
     "%6 = row_sum %5\n",
     4, SUM},
    {"both", "kernel k\n" MAP "%3\n%0 = load x\n%1 = row_cumsum_reverse %0\n%2 = row_cumsum %0\n%3 = add %1 %2\n", 20,
     SUM},
    {"layer_norm",
     "kernel k\ninput x float element\ninput w float element\ninput b float row\noutput y element = %14\n"
     "output mean row = %3\n%0 = load x\n%1 = row_sum %0\n%2 = columns\n%3 = divide %1 %2\n%4 = subtract %0 %3\n"
     "%5 = multiply %4 %4\n%6 = row_sum %5\n%7 = divide %6 %2\n%8 = constant 0.00001\n%9 = add %7 %8\n%10 = rsqrt %9\n"
     "%11 = multiply %4 %10\n%12 = load w\n%13 = load b\n%14 = fma %11 %12 %13\n",
     150, SUM},
    {"gather",
     "kernel k\ninput x float element\ninput i uint element\noutput y element = %1\noutput c element = %3\n%0 = load "
     "i\n"
     "%1 = row_gather x %0\n%2 = column\n%3 = from_uint %2\n",
     0, 0},
    {"folds",
     "kernel k\ninput x float element\noutput p row = %2\noutput q row = %4\n%0 = load x\n%1 = constant 0\n"
     "%2 = fold %1 %0\n  update\n    %0 = argument 0\n    %1 = argument 1\n    %2 = fma %1 %1 %0\n  result %2\n"
     "  combine\n    %0 = argument 0\n    %1 = argument 1\n    %2 = add %0 %1\n  result %2\nend\n%3 = columns\n"
     "%4 = fold %3 %0\n  update\n    %0 = argument 0\n    %1 = argument 1\n    %2 = constant 0.875\n"
     "    %3 = fma %0 %2 %1\n  result %3\nend\n",
     200, SUM},
    {"many", /* more loads than stay in registers */
     "kernel k\ninput a float element\ninput b float element\ninput c float element\ninput d float element\n"
     "input e float element\ninput f float element\noutput y element = %13\n%0 = load a\n%1 = load b\n%2 = load c\n"
     "%3 = load d\n%4 = load e\n%5 = load f\n%6 = add %0 %1\n%7 = add %2 %3\n%8 = add %4 %5\n%9 = add %6 %7\n"
     "%10 = add %9 %8\n%11 = row_cumsum %10\n%12 = row_sum %10\n%13 = subtract %11 %12\n",
     150, SUM},
    {"as_mlx", /* to a unit of bfloat16; test_steps_of_mlx has its bits */
     "kernel k\n" MAP "%3\n%0 = load x\n%1 = stored_sigmoid %0\n%2 = multiply %0 %1\n%3 = stored %2\n", 0x1p18, 1},
};
enum { N_CASES = sizeof cases / sizeof *cases, N_STORAGES = 3, MAX_ARRAYS = 8 };

/* Sanitizers see the emitter, not the kernels that run here: one type a kernel is enough for them, and compiled. */
enum { STORAGE_STEP = SANITIZED ? N_STORAGES : 1 };

/* Some tests are of one kernel in given types. */
static bool is_compiled(int i, int storage) {
    return storage % STORAGE_STEP == i % STORAGE_STEP || i == N_CASES - 1 || !strcmp(cases[i].name, "both");
}

static const struct {
    int64_t rows, columns;
} shapes[] = {{1, 1}, {3, 7}, {37, 32}, {2, 1000}, {9, 1001}, {3, 4097}, {1, 8200}, {1, 20001}};

static char folder[TEMPORARY_SIZE];
static void *library;

static zm_storage storage_of(zm_type type, int storage) {
    return type == ZM_TYPE_UINT ? ZM_STORAGE_UINT32 : (zm_storage)storage;
}

static void choose_storages(const zm_ir *ir, int storage, zm_storage *inputs, zm_storage *outputs) {
    for (int i = 0; i < ir->n_inputs; i++) inputs[i] = storage_of(ir->inputs[i].type, storage);
    for (int i = 0; i < ir->n_outputs; i++) outputs[i] = storage_of(ir->values[ir->outputs[i].value].type, storage);
}

static void write_text(int number, int storage) {
    const test_case *self = &cases[number];
    zm_ir *ir = parse_kernel(self->text);
    zm_storage inputs[MAX_ARRAYS], outputs[MAX_ARRAYS];
    choose_storages(ir, storage, inputs, outputs);
    zm_emit_request request = {ir, inputs, outputs, "entry", false, 0};
    zm_text text = {0};
    zmlx_error error = {0};
    if (zm_target_find("metal")->emit(&text, &request, &error)) fail_msg("%s: %s", self->name, error.message);
    char path[TEMPORARY_SIZE + 60];
    snprintf(path, sizeof path, "%s/%s_%d.%s", folder, self->name, storage,
             is_compiled(number, storage) ? "metal" : "text");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text.data, 1, text.size, file), text.size);
    assert_int_equal(fclose(file), 0);
    zm_text_free(&text);
    zm_ir_free(ir);
}

static int build_library(void **state) {
    (void)state;
    char command[4 * TEMPORARY_SIZE];
    if (!mkdtemp(temporary_template(folder))) return -1;
    for (int i = 0; i < N_CASES; i++)
        for (int storage = 0; storage < N_STORAGES; storage++) write_text(i, storage);
    snprintf(command, sizeof command, "bash '%s/tests/metal/run.sh' '%s/kernels.so' '%s'/*.metal", ZMLX_SOURCE_FOLDER,
             folder, folder);
    if (system(command)) return -1;
    snprintf(command, sizeof command, "%s/kernels.so", folder);
    library = dlopen(command, RTLD_NOW | RTLD_LOCAL);
    return library ? 0 : -1;
}

static int remove_library(void **state) {
    (void)state;
    if (library) dlclose(library);
    DIR *listing = opendir(folder);
    if (!listing) return -1;
    for (const struct dirent *item; (item = readdir(listing));) unlinkat(dirfd(listing), item->d_name, 0);
    closedir(listing);
    return rmdir(folder);
}

static void put(void *array, zm_storage storage, int64_t i, double *value) {
    if (storage == ZM_STORAGE_FLOAT16) {
        ((uint16_t *)array)[i] = zm_float16_from_float((float)*value);
        *value = (double)zm_float16_to_float(((uint16_t *)array)[i]);
    } else if (storage == ZM_STORAGE_BFLOAT16) {
        ((uint16_t *)array)[i] = zm_bfloat16_from_float((float)*value);
        *value = (double)zm_bfloat16_to_float(((uint16_t *)array)[i]);
    } else if (storage == ZM_STORAGE_FLOAT32) {
        ((float *)array)[i] = (float)*value;
        *value = (double)((float *)array)[i];
    } else {
        ((uint32_t *)array)[i] = (uint32_t)*value;
    }
}

static double get(const void *array, zm_storage storage, int64_t i) {
    switch (storage) {
    case ZM_STORAGE_FLOAT16: return (double)zm_float16_to_float(((const uint16_t *)array)[i]);
    case ZM_STORAGE_BFLOAT16: return (double)zm_bfloat16_to_float(((const uint16_t *)array)[i]);
    case ZM_STORAGE_FLOAT32: return (double)((const float *)array)[i];
    default: return (double)((const uint32_t *)array)[i];
    }
}

/* One launch: arrays with guards of a vector's size behind them, and what they mean in float64. */
typedef struct launch {
    const test_case *self;
    zm_ir *ir;
    int storage;
    bool has_edges; /* an infinity, or in the second row a NaN, among the elements */
    int64_t rows, columns;
    int layouts[MAX_ARRAYS];
    zm_storage input_storages[MAX_ARRAYS], output_storages[MAX_ARRAYS];
    void *inputs[MAX_ARRAYS], *outputs[2][MAX_ARRAYS]; /* by order */
    double *wide[MAX_ARRAYS], *expected[MAX_ARRAYS];
} launch;

enum { GUARD = 0x5a, GUARD_BYTES = 32 };
static const float parameter = 0.375f;
static const uint64_t seed = 0x123456789abcdef0u;

static int64_t output_count(const launch *self, int i) {
    return self->ir->outputs[i].level == ZM_LEVEL_ELEMENT ? self->rows * self->columns : self->rows;
}

/* Memory that ends where a read or write past it faults. */
enum { PAGE = 1 << 16, NO_ACCESS_BYTES = 1 << 23 };
static size_t fenced_pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }
static void *allocate_fenced(size_t bytes) {
    size_t pages = fenced_pages(bytes);
    char *start = mmap(NULL, pages + NO_ACCESS_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(start != MAP_FAILED);
    assert_int_equal(mprotect(start + pages, NO_ACCESS_BYTES, PROT_NONE), 0);
    return start + pages - bytes;
}
static void free_fenced(void *memory, size_t bytes) {
    size_t pages = fenced_pages(bytes);
    munmap((char *)memory + bytes - pages, pages + NO_ACCESS_BYTES);
}

static int64_t input_count(const launch *self, int i) {
    int64_t columns = self->ir->inputs[i].level == ZM_LEVEL_ELEMENT ? self->columns : 1;
    return (self->layouts[i] & ZM_LAYOUT_ROW ? self->rows : 1) * (self->layouts[i] & ZM_LAYOUT_COLUMN ? columns : 1);
}

static size_t input_bytes(const launch *self, int i) {
    return (size_t)input_count(self, i) * (size_t)zm_storage_bytes(self->input_storages[i]);
}

static double draw(const launch *self, int input, uint64_t i) {
    uint64_t word = zm_splitmix64((uint64_t)(self->columns * 31 + input), i);
    if (self->ir->inputs[input].type == ZM_TYPE_UINT) return (double)(word % (uint64_t)(self->columns + 2));
    if (self->has_edges && input == 0 && i == 5) return INFINITY;
    if (self->has_edges && input == 0 && (int64_t)i == self->columns + 6) return NAN;
    return (double)(word >> 40) * 0x1p-22 - 2; /* [-2, 2) */
}

static void fill_input(launch *self, int input) {
    int layout = self->layouts[input];
    int64_t columns = self->ir->inputs[input].level == ZM_LEVEL_ELEMENT ? self->columns : 1;
    int64_t row_stride = layout & ZM_LAYOUT_ROW ? (layout & ZM_LAYOUT_COLUMN ? columns : 1) : 0;
    self->inputs[input] = allocate_fenced(input_bytes(self, input));
    self->wide[input] = calloc((size_t)(self->rows * columns), sizeof(double));
    for (int64_t row = 0; row < self->rows; row++)
        for (int64_t column = 0; column < columns; column++) {
            int64_t i = row * row_stride + (layout & ZM_LAYOUT_COLUMN ? column : 0);
            double *value = &self->wide[input][row * columns + column];
            *value = draw(self, input, (uint64_t)i);
            put(self->inputs[input], self->input_storages[input], i, value);
        }
}

static void prepare(launch *self) {
    double parameters[2] = {(double)parameter, 0};
    uint64_t seeds[2] = {0, seed};
    zmlx_error error = {0};
    choose_storages(self->ir, self->storage, self->input_storages, self->output_storages);
    for (int i = 0; i < self->ir->n_inputs; i++) fill_input(self, i);
    for (int i = 0; i < self->ir->n_outputs; i++) {
        size_t bytes = (size_t)output_count(self, i) * (size_t)zm_storage_bytes(self->output_storages[i]);
        for (int order = 0; order < 2; order++) {
            self->outputs[order][i] = malloc(bytes + GUARD_BYTES);
            memset(self->outputs[order][i], GUARD, bytes + GUARD_BYTES);
        }
        self->expected[i] = calloc((size_t)output_count(self, i), sizeof(double));
    }
    zm_evaluation evaluation = {self->rows, self->columns, (const double *const *)self->wide,
                                parameters, seeds, self->expected};
    if (zm_ir_evaluate(self->ir, &evaluation, &error)) fail_msg("%s: %s", self->self->name, error.message);
}

static void run(launch *self, int order) {
    char symbol[64];
    uint32_t words[32];
    int n = 0;
    zm_emit_request request = {self->ir, self->input_storages, self->output_storages, "entry", false, 0};
    zm_gpu_plan plan = zm_gpu_plan_launch(&request, self->rows, self->columns, NULL, true);
    memcpy(&words[0], &self->rows, 8);
    memcpy(&words[2], &self->columns, 8);
    words[4] = (uint32_t)plan.threads_per_row;
    n = 5;
    for (int i = 0; i < self->ir->n_inputs; i++) words[n++] = (uint32_t)self->layouts[i];
    for (int i = 0; i < self->ir->n_parameters; i++) {
        if (self->ir->parameters[i].is_seed) {
            memcpy(&words[n], &seed, 8);
            n += 2;
        } else {
            memcpy(&words[n++], &parameter, 4);
        }
    }
    snprintf(symbol, sizeof symbol, "zm_metal_run_%s_%d", self->self->name, self->storage);
    runner *function;
    void *address = dlsym(library, symbol);
    assert_non_null(address);
    memcpy(&function, &address, sizeof address);
    uint32_t blocks = (uint32_t)plan.blocks;
    if (order && blocks > 2) blocks = (blocks + 1) / 2; /* blocks take further rows and tiles */
    function((const void *const *)self->inputs, self->outputs[order], words, blocks, (uint32_t)plan.threads, order);
}

static void check_output(const launch *self, int output) {
    static const double rounding[] = {0, 0x1p-10, 0x1p-7}, least[] = {0x1p-126, 0x1p-24, 0x1p-126};
    zm_storage storage = self->output_storages[output];
    int64_t count = output_count(self, output);
    size_t bytes = (size_t)count * (size_t)zm_storage_bytes(storage);
    double terms = self->self->terms == SUM ? 2.0 * (double)self->columns : self->self->terms;
    for (int order = 0; order < 2; order++)
        for (int i = 0; i < GUARD_BYTES; i++)
            assert_int_equal(((const unsigned char *)self->outputs[order][output])[bytes + (size_t)i], GUARD);
    assert_memory_equal(self->outputs[0][output], self->outputs[1][output], bytes);
    for (int64_t i = 0; i < count; i++) {
        double got = get(self->outputs[0][output], storage, i), want = self->expected[output][i];
        double bound = self->self->unit * 0x1p-24 * (fabs(want) + terms);
        if (storage < 3) bound += rounding[storage] * fabs(want) + (bound > 0 || self->storage ? least[storage] : 0);
        bool is_close = isnan(want) ? isnan(got) : isinf(want) ? got == want : fabs(got - want) <= bound;
        if (!is_close)
            fail_msg("%s, %s, %lld x %lld, output %d: element %lld is %.9g, not %.9g", self->self->name,
                     zm_storage_name((zm_storage)self->storage), (long long)self->rows, (long long)self->columns,
                     output, (long long)i, got, want);
    }
}

static void check_launch(const test_case *self, int storage, int64_t rows, int64_t columns, int layouts,
                         bool has_edges) {
    launch made = {.self = self, .ir = parse_kernel(self->text), .storage = storage, .has_edges = has_edges,
                   .rows = rows, .columns = columns};
    for (int i = 0; i < made.ir->n_inputs; i++) {
        made.layouts[i] = made.ir->inputs[i].level == ZM_LEVEL_ROW ? ZM_LAYOUT_ROW : ZM_LAYOUT_COLUMN | ZM_LAYOUT_ROW;
        if (i > 0) made.layouts[i] &= layouts >> 2 * (i & 1);
    }
    prepare(&made);
    for (int order = 0; order < 2; order++) run(&made, order);
    for (int i = 0; i < made.ir->n_outputs; i++) check_output(&made, i);
    for (int i = 0; i < made.ir->n_inputs; i++) free_fenced(made.inputs[i], input_bytes(&made, i)), free(made.wide[i]);
    for (int i = 0; i < made.ir->n_outputs; i++)
        free(made.outputs[0][i]), free(made.outputs[1][i]), free(made.expected[i]);
    zm_ir_free(made.ir);
}

static void test_all_kernels(void **state) {
    (void)state;
    for (int i = 0; i < N_CASES; i++)
        for (int storage = i % STORAGE_STEP; storage < N_STORAGES; storage += STORAGE_STEP)
            for (size_t shape = 0; shape < sizeof shapes / sizeof *shapes; shape++)
                check_launch(&cases[i], storage, shapes[shape].rows, shapes[shape].columns, 15, false);
}

static void test_layouts(void **state) {
    (void)state;
    for (int i = 0; i < N_CASES; i++)
        for (int layouts = 0; layouts < 15; layouts++)
            check_launch(&cases[i], i % N_STORAGES, 5, layouts & 1 ? 40 : 27, layouts, false);
}

static void test_infinities_and_nans(void **state) {
    (void)state;
    for (int i = 0; i < N_CASES; i++)
        for (int storage = i % STORAGE_STEP; storage < N_STORAGES; storage += STORAGE_STEP) {
            check_launch(&cases[i], storage, 3, 300, 15, true);
            check_launch(&cases[i], storage, 2, 9000, 15, true);
        }
}

/* More chunks than sums of scans are kept for. */
static void test_very_long_row(void **state) {
    (void)state;
    for (int i = 0; i < N_CASES; i++)
        if (!strcmp(cases[i].name, "both")) {
            check_launch(&cases[i], 0, 1, 256 * 512 * 4 * 2 + 5000, 15, false);
            check_launch(&cases[i], 0, 1, 256 * 512 * 2 + 501, 15, false);
        }
}

static float stored(float value, int storage) {
    uint32_t word;
    double wide = (double)value;
    put(&word, (zm_storage)storage, 0, &wide);
    return (float)wide;
}

/* Each step of MLX's sigmoid on a GPU is of the stored type: bit for bit, for every number of a half type. */
static void test_steps_of_mlx(void **state) {
    (void)state;
    enum { COUNT = 1 << 16 };
    for (int storage = ZM_STORAGE_FLOAT32; storage <= ZM_STORAGE_BFLOAT16; storage++) {
        launch made = {.self = &cases[N_CASES - 1], .storage = storage, .rows = 1, .columns = COUNT, .layouts = {3}};
        made.ir = parse_kernel(made.self->text);
        prepare(&made);
        for (int i = 0; i < COUNT; i++) {
            uint32_t bits = storage == ZM_STORAGE_FLOAT32 ? (uint32_t)i << 16 : (uint32_t)i;
            memcpy((char *)made.inputs[0] + (size_t)i * (storage == ZM_STORAGE_FLOAT32 ? 4 : 2), &bits,
                   storage == ZM_STORAGE_FLOAT32 ? 4 : 2);
        }
        run(&made, 0);
        for (int i = 0; i < COUNT; i++) {
            float x = (float)get(made.inputs[0], (zm_storage)storage, i), power = stored(expf(fabsf(x)), storage);
            float tail = stored(1 / stored(1 + power, storage), storage);
            double want = (double)stored(x * (x < 0 ? tail : stored(1 - tail, storage)), storage);
            double got = get(made.outputs[0][0], (zm_storage)storage, i);
            if (got != want && !(isnan(got) && isnan(want)))
                fail_msg("%s: of %.9g: %.9g, not %.9g", zm_storage_name((zm_storage)storage), (double)x, got, want);
        }
        free_fenced(made.inputs[0], input_bytes(&made, 0)), free(made.wide[0]), free(made.expected[0]);
        for (int order = 0; order < 2; order++) free(made.outputs[order][0]);
        zm_ir_free(made.ir);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_kernels),
        cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_infinities_and_nans),
        cmocka_unit_test(test_very_long_row),
        cmocka_unit_test(test_steps_of_mlx),
    };
    return cmocka_run_group_tests(tests, build_library, remove_library);
}
