/* SPDX-License-Identifier: MIT */
/* Texts of CUDA and Metal kernels behind their preludes against tests/golden (regenerate.sh there), their launches, and
 * what is refused. */
#include <stdio.h>

#include "emit/gpu/gpu.h"
#include "ir_testing.h"

extern const char zm_prelude_cuda[], zm_prelude_metal[], zm_prelude_gpu[];

typedef struct golden_case {
    const char *name, *text;
    zm_storage storage;
} golden_case;

static const golden_case cases[] = {
    {"exp", "kernel exp\ninput x float element\noutput y element = %1\n%0 = load x\n%1 = exp %0\n", ZM_STORAGE_FLOAT32},
    {"mish",
     "kernel mish\ninput x float element\noutput y element = %4\n%0 = load x\n%1 = exp %0\n%2 = log1p %1\n"
     "%3 = tanh %2\n%4 = multiply %0 %3\n",
     ZM_STORAGE_BFLOAT16},
    {"silu_gradient",
     "kernel silu_gradient\ninput x float element\ninput g float element\noutput d_x element = %9\n%0 = load x\n"
     "%1 = load g\n%2 = sigmoid %0\n%3 = negate %0\n%4 = sigmoid %3\n%5 = multiply %0 %4\n%6 = constant 1\n"
     "%7 = add %6 %5\n%8 = multiply %2 %7\n%9 = multiply %1 %8\n",
     ZM_STORAGE_FLOAT16},
    {"row_sum", "kernel row_sum\ninput x float element\noutput y row = %1\n%0 = load x\n%1 = row_sum %0\n",
     ZM_STORAGE_FLOAT32},
    {"softmax",
     "kernel softmax\ninput x float element\noutput y element = %5\n%0 = load x\n%1 = row_max %0\n"
     "%2 = subtract %0 %1\n%3 = exp %2\n%4 = row_sum %3\n%5 = divide %3 %4\n",
     ZM_STORAGE_FLOAT16},
};
enum { N_CASES = sizeof cases / sizeof *cases };

static zmlx_error error;

static zm_text emit(const golden_case *self, const char *target) {
    zm_ir *ir = parse_kernel(self->text);
    zm_storage storages[] = {self->storage, self->storage};
    zm_emit_request request = {ir, storages, storages, self->name, false, 0};
    zm_text text = {0};
    if (zm_target_find(target)->emit(&text, &request, &error)) fail_msg("%s: %s", self->name, error.message);
    zm_ir_free(ir);
    return text;
}

static void compare(const char *path, const char *text) {
    FILE *file = fopen(path, "r");
    if (!file) fail_msg("%s is not there", path);
    static char golden[1 << 16];
    size_t size = fread(golden, 1, sizeof golden - 1, file);
    fclose(file);
    golden[size] = '\0';
    if (strcmp(golden, text)) fail_msg("%s differs from the emitted text:\n%s", path, text);
}

static void write_golden(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void test_golden(void **state) {
    (void)state;
    static const char *const targets[] = {"cuda", "metal"};
    const char *const preludes[] = {zm_prelude_cuda, zm_prelude_metal};
    for (int i = 0; i < N_CASES; i++)
        for (int target = 0; target < 2; target++) {
            zm_text text = emit(&cases[i], targets[target]);
            assert_non_null(strstr(text.data, preludes[target]));
            const char *frame = strstr(text.data, zm_prelude_gpu);
            assert_non_null(frame);
            char path[1000];
            snprintf(path, sizeof path, "%s/tests/golden/%s.%s", ZMLX_SOURCE_FOLDER, cases[i].name,
                     zm_target_find(targets[target])->file_extension);
            (getenv("ZMLX_WRITE_GOLDEN") ? write_golden : compare)(path, frame + strlen(zm_prelude_gpu));
            zm_text_free(&text);
        }
}

/* The parts for MLX's custom kernel are the text but for the signature. */
static void test_metal_parts(void **state) {
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        zm_ir *ir = parse_kernel(cases[i].text);
        zm_storage storages[] = {cases[i].storage, cases[i].storage};
        zm_emit_request request = {ir, storages, storages, cases[i].name, false, 0};
        zm_text header = {0}, body = {0}, whole = emit(&cases[i], "metal");
        assert_int_equal(zm_metal_emit_parts(&header, &body, &request, &error), ZMLX_OK);
        assert_memory_equal(whole.data, header.data, header.size);
        assert_memory_equal(whole.data + whole.size - 2 - body.size, body.data, body.size);
        assert_non_null(strstr(body.data, zm_gpu_input_name(ir->n_inputs - 1)));
        assert_non_null(strstr(body.data, zm_gpu_output_name(0)));
        zm_text_free(&header);
        zm_text_free(&body);
        zm_text_free(&whole);
        zm_ir_free(ir);
    }
    assert_string_equal(zm_gpu_input_name(ZM_IR_MAX_INPUTS - 1), "zm_in31");
    assert_string_equal(zm_gpu_output_name(ZM_IR_MAX_OUTPUTS - 1), "zm_out15");
}

static zm_gpu_plan plan_from(const golden_case *self, int64_t rows, int64_t columns, int layout, bool is_aligned) {
    zm_ir *ir = parse_kernel(self->text);
    zm_storage storages[] = {self->storage, self->storage};
    zm_emit_request request = {ir, storages, storages, self->name, false, 0};
    int32_t layouts[] = {layout, layout};
    zm_gpu_plan made = zm_gpu_plan_launch(&request, rows, columns, layouts, is_aligned);
    zm_ir_free(ir);
    return made;
}

static zm_gpu_plan plan(const golden_case *self, int64_t rows, int64_t columns) {
    return plan_from(self, rows, columns, ZM_LAYOUT_COLUMN | ZM_LAYOUT_ROW, true);
}

static void test_plans(void **state) {
    (void)state;
    const golden_case *map = &cases[0], *row = &cases[4];
    static const int64_t sizes[] = {1, 2, 31, 4096, 100003, INT64_C(1) << 31, INT64_C(1) << 40};
    for (int i = 0; i < 7; i++) {
        zm_gpu_plan made = plan(map, 1, sizes[i]);
        assert_int_equal(made.threads_per_row, 0);
        assert_true(made.blocks >= 1 && made.blocks * made.threads <= 1 << 30);
        for (int j = 0; j < 7; j++) {
            made = plan(row, sizes[i], sizes[j]);
            assert_int_equal(made.threads_per_row % 32, 0);
            assert_int_equal(made.threads % made.threads_per_row, 0);
            assert_true(made.threads <= 512 && made.blocks >= 1 && made.blocks * made.threads <= 1 << 30);
            assert_int_equal(made.threads_per_row, plan(row, 1, sizes[j]).threads_per_row);
        }
    }
    assert_int_equal(plan(map, 1, 2048).blocks, 1);
    assert_int_equal(plan(map, 1, 2049).blocks, 2);
    assert_int_equal(plan(row, 17, 32).threads_per_row, 32);
    assert_int_equal(plan(row, 17, 32).blocks, 3);
    assert_int_equal(plan(row, 4096, 1 << 20).threads_per_row, 512);
    assert_int_equal(plan(row, 4096, 1 << 20).blocks, 4096);
    assert_int_equal(plan(map, 1, 100003).part, ZM_GPU_FLAT_MAP);
    assert_int_equal(plan(map, 7, 32).part, ZM_GPU_PLAIN_MAP);
    assert_int_equal(plan_from(map, 7, 32, ZM_LAYOUT_ROW, true).part, ZM_GPU_ROWS_MAP);
    assert_int_equal(plan(map, 7, 33).part, ZM_GPU_ODD_MAP);
    assert_int_equal(plan_from(map, 1, 4096, ZM_LAYOUT_COLUMN, false).part, ZM_GPU_ODD_MAP);
    assert_int_equal(plan_from(map, 1, 4096, ZM_LAYOUT_ROW, true).part, ZM_GPU_ROWS_MAP);
    enum { WHOLE = 0, PARTIAL = 1, FIRST = ZM_GPU_GENERAL_PARTS };
    assert_int_equal(plan(row, 7, 256).part, FIRST + WHOLE);
    assert_int_equal(plan(row, 7, 264).part, FIRST + 2 + PARTIAL);
    assert_int_equal(plan(row, 7, 16384).part, FIRST + 2 * 3 + WHOLE);
    assert_int_equal(plan(row, 7, 1544).part, FIRST + 2 + PARTIAL);
    assert_int_equal(plan(row, 7, 16392).part, ZM_GPU_LONG_ROWS);
    assert_int_equal(plan(row, 7, 16393).part, ZM_GPU_ODD_ROWS);
    assert_int_equal(plan_from(row, 7, 16384, ZM_LAYOUT_ROW, true).part, ZM_GPU_SHORT_ROWS);
    assert_int_equal(plan_from(row, 7, 64, ZM_LAYOUT_COLUMN, false).part, ZM_GPU_ODD_ROWS);
    static const golden_case once = {"once",
                                     "kernel once\ninput x float element\noutput y element = %2\n%0 = load x\n"
                                     "%1 = row_sum %0\n%2 = subtract %0 %1\n",
                                     ZM_STORAGE_FLOAT16};
    assert_int_equal(plan(&once, 7, 1024).threads_per_row, 128);
    assert_int_equal(plan(row, 7, 1024).threads_per_row, 64); /* the sum waits for the largest */
    assert_int_equal(plan(&once, 7, 4096).threads_per_row, 128);
    assert_int_equal(plan(&once, 7, 8192).threads_per_row, 256);
}

static void test_refusals(void **state) {
    (void)state;
    zm_ir *ir = parse_kernel(cases[0].text);
    zm_storage floats[32] = {0}, words[] = {ZM_STORAGE_UINT32};
    zm_text text = {0};
    static const char *const targets[] = {"cuda", "metal"};
    for (int i = 0; i < 2; i++) {
        zm_emit_request wrong_entry = {ir, floats, floats, "a b", false, 0},
                        wrong_type = {ir, words, floats, "k", false, 0};
        assert_int_equal(zm_target_find(targets[i])->emit(&text, &wrong_entry, &error), ZMLX_ERROR_ARGUMENT);
        assert_int_equal(zm_target_find(targets[i])->emit(&text, &wrong_type, &error), ZMLX_ERROR_ARGUMENT);
    }
    zm_ir_free(ir);
    ir = zm_ir_new("wide");
    zm_id sum = zm_ir_constant(ir, 0);
    for (int i = 0; i < 30; i++) {
        char name[8];
        snprintf(name, sizeof name, "x%d", i);
        sum = zm_ir_apply(ir, ZM_OP_ADD, sum,
                          zm_ir_load(ir, zm_ir_add_input(ir, name, ZM_TYPE_FLOAT, ZM_LEVEL_ELEMENT)), -1);
    }
    zm_ir_add_output(ir, "y", sum, ZM_LEVEL_ELEMENT);
    zm_emit_request request = {ir, floats, floats, "k", false, 0};
    assert_int_equal(zm_target_find("cuda")->emit(&text, &request, &error), ZMLX_OK);
    assert_int_equal(zm_target_find("metal")->emit(&text, &request, &error), ZMLX_ERROR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "31 arrays"));
    zm_ir_free(ir);
    zm_text_free(&text);
}

/* Reductions have words of shared memory each: so many that they do not fit are refused. */
static void test_too_many_reductions(void **state) {
    (void)state;
    zm_ir *ir = zm_ir_new("sums");
    zm_id x = zm_ir_load(ir, zm_ir_add_input(ir, "x", ZM_TYPE_FLOAT, ZM_LEVEL_ELEMENT)), total = zm_ir_constant(ir, 0);
    for (int i = 0; i < 600; i++) {
        zm_id scaled = zm_ir_apply(ir, ZM_OP_MULTIPLY, x, zm_ir_constant(ir, (float)i + 2), -1);
        total = zm_ir_apply(ir, ZM_OP_ADD, total, zm_ir_apply(ir, ZM_OP_ROW_SUM, scaled, -1, -1), -1);
    }
    zm_ir_add_output(ir, "y", total, ZM_LEVEL_ROW);
    zm_storage floats[1] = {0};
    zm_emit_request request = {ir, floats, floats, "k", false, 0};
    zm_text text = {0};
    assert_int_equal(zm_target_find("cuda")->emit(&text, &request, &error), ZMLX_ERROR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "shared memory"));
    zm_text_free(&text);
    zm_ir_free(ir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),      cmocka_unit_test(test_metal_parts), cmocka_unit_test(test_plans),
        cmocka_unit_test(test_refusals),    cmocka_unit_test(test_too_many_reductions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
