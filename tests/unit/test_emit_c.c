/* SPDX-License-Identifier: MIT */
/* The C target: what it refuses, and kernels that are compiled, run and compared with loops in float64. */
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/half.h"
#include "emit/c/abi.h"
#include "emit/emit.h"
#include "ir_testing.h"
#include "runtime/cache.h"
#include "temporary.h"

static char folder[TEMPORARY_SIZE];

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(temporary_template(folder))) return -1;
    return zm_cache_set(folder, NULL, NULL) ? -1 : 0;
}

static int remove_folder(void **state) {
    (void)state;
    zm_cache_set(NULL, NULL, NULL);
    DIR *listing = opendir(folder);
    if (!listing) return -1;
    for (const struct dirent *item; (item = readdir(listing));) unlinkat(dirfd(listing), item->d_name, 0);
    closedir(listing);
    return rmdir(folder);
}

typedef struct compiled {
    zm_c_kernel *run;
    int scratch_rows;
} compiled;

static compiled compile(const char *text, const zm_storage *inputs, const zm_storage *outputs) {
    zm_ir *ir = parse_kernel(text);
    zm_text source = {0};
    zmlx_error error = {0};
    compiled made;
    void *symbol;
    zm_emit_request request = {ir, inputs, outputs, "entry", false, 0};
    if (zm_target_find("check")->emit(&source, &request, &error)) fail_msg("%s: %s", error.where, error.message);
    assert_int_equal(source.size, 0);
    if (zm_target_find("c")->emit(&source, &request, &error)) fail_msg("%s: %s", error.where, error.message);
    if (zm_compile_c(&symbol, &made.scratch_rows, NULL, source.data, source.size, "entry", &error))
        fail_msg("%s: %s", error.where, error.message);
    memcpy(&made.run, &symbol, sizeof symbol);
    zm_text_free(&source);
    zm_ir_free(ir);
    return made;
}

static zmlx_status refuse(const char *text, zm_storage input, zm_storage output, const char *entry,
                          const char *where) {
    zm_ir *ir = parse_kernel(text);
    zm_emit_request request = {ir, &input, &output, entry, false, 0};
    zmlx_status first = ZMLX_OK;
    static const char *const names[] = {"c", "check"};
    for (int i = 0; i < 2; i++) {
        zm_text source = {0};
        zmlx_error error = {0};
        zmlx_status status = zm_target_find(names[i])->emit(&source, &request, &error);
        if (i) assert_int_equal(status, first);
        first = status;
        assert_string_equal(error.where, where);
        assert_int_equal(source.size, 0);
        zm_text_free(&source);
    }
    zm_ir_free(ir);
    return first;
}

static void test_targets(void **state) {
    (void)state;
    int n = 0;
    for (const zm_target *target; (target = zm_target_get(n)); n++)
        assert_ptr_equal(zm_target_find(target->name), target);
    assert_int_equal(n, 4);
    assert_null(zm_target_get(-1));
    assert_null(zm_target_find("fortran"));
    for (int i = 0; i < ZM_STORAGE_COUNT; i++)
        assert_true(zm_storage_bytes((zm_storage)i) >= 1 && strlen(zm_storage_name((zm_storage)i)) >= 5);
    assert_int_equal(zm_storage_type(ZM_STORAGE_UINT8), ZM_TYPE_UINT);
}

static void test_refused(void **state) {
    (void)state;
    static const char text[] = "kernel k\ninput x float element\noutput y element = %0\n%0 = load x\n";
    assert_int_equal(refuse(text, ZM_STORAGE_UINT8, ZM_STORAGE_FLOAT32, "k", "x"), ZMLX_ERROR_ARGUMENT);
    assert_int_equal(refuse(text, ZM_STORAGE_FLOAT32, ZM_STORAGE_INT32, "k", "y"), ZMLX_ERROR_ARGUMENT);
    assert_int_equal(refuse(text, ZM_STORAGE_COUNT, ZM_STORAGE_FLOAT32, "k", "x"), ZMLX_ERROR_ARGUMENT);
    assert_int_equal(refuse(text, ZM_STORAGE_FLOAT32, ZM_STORAGE_FLOAT32, "a b", "k"), ZMLX_ERROR_ARGUMENT);
    assert_int_equal(refuse(text, ZM_STORAGE_FLOAT32, ZM_STORAGE_FLOAT32, "0", "k"), ZMLX_ERROR_ARGUMENT);
}

enum { GUARD = 64, MAX_SIZE = 8192 };

/* Outputs between guards, at an offset from 64-byte alignment. */
typedef struct guarded {
    _Alignas(64) float values[MAX_SIZE + 2 * GUARD];
} guarded;

static float *open_guarded(guarded *memory, int offset) {
    for (int i = 0; i < MAX_SIZE + 2 * GUARD; i++) memory->values[i] = -7777;
    return memory->values + GUARD / 2 + offset;
}

static void check_guards(const guarded *memory, const float *first, int64_t size) {
    int64_t begin = first - memory->values;
    for (int64_t i = 0; i < MAX_SIZE + 2 * GUARD; i++)
        if (i < begin || i >= begin + size) assert_true(memory->values[i] == -7777);
}

static float number(int64_t i) { return (float)(zm_splitmix64(5, (uint64_t)i) >> 40) * 0x1p-22f - 2; }

/* Every shape around the vector's width, every layout, any alignment, cached and streamed stores, ranges of
 * columns. */
static void test_map(void **state) {
    (void)state;
    static const zm_storage floats[] = {ZM_STORAGE_FLOAT32, ZM_STORAGE_FLOAT32};
    compiled kernel =
        compile("kernel k\ninput a float element\ninput b float element\nparameter p\noutput y element = %4\n"
                "%0 = load a\n%1 = load b\n%2 = parameter p\n%3 = multiply %0 %2\n%4 = subtract %3 %1\n",
                floats, floats);
    assert_int_equal(kernel.scratch_rows, 0);
    static guarded memory;
    static float a[MAX_SIZE], b[MAX_SIZE];
    for (int i = 0; i < MAX_SIZE; i++) a[i] = number(i), b[i] = number(i + MAX_SIZE);
    static const int64_t columns[] = {0, 1, 3, 4, 7, 8, 15, 16, 17, 33, 64, 100, 255, 600};
    for (size_t k = 0; k < sizeof columns / sizeof *columns; k++) {
        for (int variant = 0; variant < 32; variant++) {
            int64_t n = columns[k], rows = 3, middle = variant & 1 ? n / 3 : n;
            int32_t layouts[] = {variant & 2 ? 3 : 1, variant / 8};
            float *y = open_guarded(&memory, variant % 5), p = 1.5f;
            zm_c_call call = {.inputs = (const void *[]){a, b},
                              .outputs = (void *[]){y},
                              .layouts = layouts,
                              .rows = rows,
                              .columns = n, .output_stride = n,
                              .parameters = &p,
                              .stream_stores = variant & 4};
            kernel.run(&call, 0, rows, 0, middle);
            for (int64_t i = 0; i < rows * n; i++) assert_int_equal(y[i] == -7777, i % n >= middle);
            kernel.run(&call, 0, rows, middle, n);
            check_guards(&memory, y, rows * n);
            for (int64_t r = 0; r < rows; r++)
                for (int64_t c = 0; c < n; c++) {
                    int64_t at_b = layouts[1] == 3 ? r * n + c : layouts[1] == 2 ? r : layouts[1] == 1 ? c : 0;
                    assert_true(y[r * n + c] == (variant & 2 ? a[r * n + c] : a[c]) * 1.5f - b[at_b]);
                }
        }
    }
}

static const char rows_text[] =
    "kernel k\ninput x float element\ninput w float element\noutput sum row = %3\noutput largest row = %4\n"
    "output at row = %6\noutput scan element = %7\noutput last row = %9\n"
    "%0 = load x\n%1 = load w\n%2 = multiply %0 %1\n%3 = row_sum %2\n%4 = row_max %0\n%5 = row_argmax %0\n"
    "%6 = from_uint %5\n%7 = row_cumsum_reverse %0\n%8 = constant 0.5\n%9 = fold %8 %0\n  update\n"
    "    %0 = argument 0\n    %1 = argument 1\n    %2 = constant 0.5\n    %3 = fma %0 %2 %1\n  result %3\nend\n";

static void check_row(const float *x, const float *w, int64_t n, const float *got /* 4 numbers */,
                      const float *scan) {
    double sum = 0, magnitude = 0, last = 0.5, rest = 0, rest_magnitude = 0;
    int64_t at = 0;
    for (int64_t c = 0; c < n; c++) {
        sum += (double)x[c] * (double)w[c];
        magnitude += fabs((double)x[c] * (double)w[c]);
        last = last * 0.5 + (double)x[c];
        if (x[c] > x[at]) at = c;
    }
    double unit = (64 + 4 * log2((double)(n + 1))) * 0x1p-24; /* class R of reductions */
    assert_true(fabs((double)got[0] - sum) <= unit * magnitude);
    assert_true(n ? got[1] == x[at] : got[1] == -INFINITY);
    assert_true(got[2] == (float)at);
    assert_true(fabs((double)got[3] - last) <= unit * (fabs(last) + 4));
    for (int64_t c = n - 1; c >= 0; c--) {
        rest += (double)x[c];
        rest_magnitude += fabs((double)x[c]);
        assert_true(fabs((double)scan[c] - rest) <= unit * rest_magnitude);
    }
}

/* A row's bits depend neither on the other rows nor on where its results go. */
static void test_rows(void **state) {
    (void)state;
    static const zm_storage floats[] = {0, 0, 0, 0, 0};
    compiled kernel = compile(rows_text, floats, floats);
    static guarded memory[2];
    static float x[MAX_SIZE], w[MAX_SIZE];
    static _Alignas(64) float scratch[4 * MAX_SIZE];
    assert_true(kernel.scratch_rows <= 4);
    for (int i = 0; i < MAX_SIZE; i++) x[i] = floorf(number(i) * 64) / 64, w[i] = number(i + MAX_SIZE);
    static const int64_t columns[] = {0, 1, 2, 5, 8, 15, 16, 17, 31, 48, 63, 64, 65, 130, 513, 2048, 2111, 4096};
    for (size_t k = 0; k < sizeof columns / sizeof *columns; k++) {
        int64_t n = columns[k], rows = n > 2500 ? 1 : 3;
        int32_t layouts[] = {3, 1};
        float got[2][4][3], *scan[2];
        for (int run = 0; run < 2; run++) {
            scan[run] = open_guarded(&memory[run], run * 3);
            void *outputs[] = {got[run][0], got[run][1], got[run][2], scan[run], got[run][3]};
            zm_c_call call = {.inputs = (const void *[]){x, w},
                              .outputs = outputs,
                              .layouts = layouts,
                              .rows = rows,
                              .columns = n, .output_stride = n,
                              .scratch = scratch,
                              .stream_stores = run};
            for (int64_t r = 0; r < (run ? rows : 1); r++) kernel.run(&call, r, run ? r + 1 : rows, 0, n);
            check_guards(&memory[run], scan[run], rows * n);
        }
        for (int64_t r = 0; r < rows; r++) {
            float numbers[] = {got[0][0][r], got[0][1][r], got[0][2][r], got[0][3][r]};
            check_row(x + r * n, w, n, numbers, scan[0] + r * n);
            for (int i = 0; i < 4; i++) assert_memory_equal(&got[0][i][r], &got[1][i][r], sizeof(float));
        }
        assert_memory_equal(scan[0], scan[1], (size_t)(rows * n) * sizeof(float));
    }
}

/* Values of a row from an array; values kept from one pass to the next; bfloat16 in, float16 out. */
static void test_kept(void **state) {
    (void)state;
    static const zm_storage inputs[] = {ZM_STORAGE_BFLOAT16, ZM_STORAGE_FLOAT32}, output = ZM_STORAGE_FLOAT16;
    compiled kernel =
        compile("kernel k\ninput x float element\ninput r float row\noutput y element = %5\n%0 = load x\n"
                "%1 = load r\n%2 = subtract %0 %1\n%3 = exp %2\n%4 = row_max %3\n%5 = add %3 %4\n",
                inputs, &output);
    enum { ROWS = 3, N = 201 };
    static _Alignas(64) float scratch[N + 16];
    uint16_t x[ROWS * N], y[ROWS * N];
    const float shifts[ROWS] = {0, 1, -2};
    assert_int_equal(kernel.scratch_rows, 1);
    for (int i = 0; i < ROWS * N; i++) x[i] = zm_bfloat16_from_float(number(i));
    for (int varies = 0; varies < 2; varies++) {
        int32_t layouts[] = {3, varies ? 2 : 0};
        zm_c_call call = {.inputs = (const void *[]){x, shifts},
                          .outputs = (void *[]){y},
                          .layouts = layouts,
                          .rows = ROWS,
                          .columns = N, .output_stride = N,
                          .scratch = scratch};
        kernel.run(&call, 0, ROWS, 0, N);
        for (int r = 0; r < ROWS; r++) {
            double largest = 0, shift = (double)shifts[varies ? r : 0];
            for (int c = 0; c < N; c++)
                largest = fmax(largest, exp((double)zm_bfloat16_to_float(x[r * N + c]) - shift));
            for (int c = 0; c < N; c++) {
                double exact = exp((double)zm_bfloat16_to_float(x[r * N + c]) - shift) + largest;
                assert_true(fabs((double)zm_float16_to_float(y[r * N + c]) - exact) <= 0x1p-10 * exact);
            }
        }
    }
}

/* Halves of every kind in both vectors of a pair, cached and streamed: subnormal and tied numbers, infinities, NaN. */
static void test_halves(void **state) {
    (void)state;
    static const zm_storage input = ZM_STORAGE_FLOAT32, outputs[] = {ZM_STORAGE_BFLOAT16, ZM_STORAGE_FLOAT16};
    compiled kernel =
        compile("kernel k\ninput x float element\noutput b element = %0\noutput h element = %0\n%0 = load x\n",
                &input, outputs);
    enum { N = 1100 };
    static const float hard[] = {0x1p-149f, -0x1.8p-127f, 0x1.fep-127f, 0x1.01p0f, 0x1.03p0f, -0.0f, INFINITY, NAN,
                                 0x1.ffp127f, 0x1.002p0f, 65520, 0x1p-25f, 0x1.8p-24f};
    float x[N];
    _Alignas(64) uint16_t results[2][N + 64];
    int32_t layout = 3;
    for (int kind = 0; kind < (int)(sizeof hard / sizeof *hard); kind++) {
        for (int i = 0; i < N; i++) x[i] = i % 29 == kind ? hard[kind] : number(i);
        for (int offset = 0; offset < 40; offset += 3) {
            uint16_t *b = results[0] + offset, *h = results[1] + offset / 2;
            zm_c_call call = {.inputs = (const void *[]){x}, .outputs = (void *[]){b, h}, .layouts = &layout,
                              .rows = 1, .columns = N, .stream_stores = offset % 2};
            kernel.run(&call, 0, 1, 0, N);
            for (int i = 0; i < N; i++) {
                float wide = zm_float16_to_float(h[i]);
                assert_int_equal(b[i], zm_bfloat16_from_float(x[i]));
                assert_true(isnan(x[i]) ? isnan(wide) : h[i] == zm_float16_from_float(x[i]));
            }
        }
    }
}

/* The first of equals, the first NaN; NaN and infinities reach the results. */
static void test_special(void **state) {
    (void)state;
    static const zm_storage floats[] = {0, 0},
                            mixed[] = {ZM_STORAGE_UINT32, ZM_STORAGE_FLOAT32, ZM_STORAGE_FLOAT32};
    compiled kernel =
        compile("kernel k\ninput x float element\noutput at row = %1\noutput m row = %2\noutput s row = %3\n"
                "%0 = load x\n%1 = row_argmax %0\n%2 = row_max %0\n%3 = row_sum %0\n",
                floats, mixed);
    enum { N = 150 };
    float x[N], m, s;
    uint32_t at;
    int32_t layout = 3;
    zm_c_call call = {.inputs = (const void *[]){x},
                      .outputs = (void *[]){&at, &m, &s},
                      .layouts = &layout,
                      .rows = 1,
                      .columns = N, .output_stride = N};
    for (int i = 0; i < N; i++) x[i] = -INFINITY;
    kernel.run(&call, 0, 1, 0, N);
    assert_true(at == 0 && m == -INFINITY && s == -INFINITY);
    for (int first = 0; first < N - 1; first += 7) {
        for (int i = 0; i < N; i++) x[i] = 1;
        x[first] = x[N - 1] = INFINITY;
        kernel.run(&call, 0, 1, 0, N);
        assert_true(at == (uint32_t)first && m == INFINITY && s == INFINITY);
        x[first] = x[N - 2] = NAN;
        kernel.run(&call, 0, 1, 0, N);
        assert_true(at == (uint32_t)first && isnan(m) && isnan(s));
    }
}

/* Adding equal numbers one after the other in float32 loses a bit in every binade; here the error stays in class
 * R. */
static void test_long_sum(void **state) {
    (void)state;
    static const zm_storage floats[] = {0, 0};
    compiled kernel = compile(
        "kernel k\ninput x float element\noutput y row = %1\noutput z row = %4\n%0 = load x\n"
        "%1 = row_sum %0\n%2 = constant 0\n%3 = constant 1\n%4 = fold %2 %0 %3\n  update\n"
        "    %0 = argument 0\n    %1 = argument 1\n    %2 = argument 2\n    %3 = fma %1 %2 %0\n  result %3\n"
        "  combine\n    %0 = argument 0\n    %1 = argument 1\n    %2 = add %0 %1\n  result %2\nend\n",
        floats, floats);
    float x = 0.1f, y, z;
    int32_t layout = 0;
    int64_t n = 5000011;
    zm_c_call call = {.inputs = (const void *[]){&x},
                      .outputs = (void *[]){&y, &z},
                      .layouts = &layout,
                      .rows = 1,
                      .columns = n, .output_stride = n};
    kernel.run(&call, 0, 1, 0, n);
    double sum = (double)n * (double)x, bound = (64 + 4 * log2((double)n)) * 0x1p-24 * sum;
    assert_true(fabs((double)y - sum) <= bound);
    assert_true(fabs((double)z - sum) <= bound);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_targets),  cmocka_unit_test(test_refused), cmocka_unit_test(test_map),
        cmocka_unit_test(test_rows),     cmocka_unit_test(test_kept),    cmocka_unit_test(test_halves),
        cmocka_unit_test(test_special),  cmocka_unit_test(test_long_sum),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
