/* SPDX-License-Identifier: MIT */
/* random_driver float64|cpu|gpu CASES CACHE: computes what random_oracle.py wrote. A kernel of each expression is made
 * and its value and gradient, by mlx_vjp with the given cotangents, are compared with the references; float64 is
 * the interpreter of kernels, without MLX or a compiler. CACHE is a folder for compiled kernels. Prints the wrong
 * ones and `N of M wrong, L without a result`; the exit status is 0 if N and L are 0, 77 without such a device. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/lower.h"
#include "ir/passes.h"
#include "mlx/streams.h"
#include "zmlx/kernel_tools.h"

enum { MAX_INPUTS = 3, MAX_NUMBERS = 64, MAX_LINE = 1 << 16 };

/* Numbers with the bounds of what float32 may make of them. */
typedef struct reference {
    double numbers[MAX_NUMBERS], bounds[MAX_NUMBERS];
} reference;

typedef struct test {
    int n_inputs, rows, columns, by_row;
    char expression[MAX_LINE], header[MAX_LINE];
    char names[MAX_INPUTS][8];
    double inputs[MAX_INPUTS][MAX_NUMBERS], cotangents[MAX_NUMBERS];
    reference value, slopes[MAX_INPUTS];
} test;

typedef struct results {
    double value[MAX_NUMBERS], slopes[MAX_INPUTS][MAX_NUMBERS];
} results;

static zmlx_error error;
static mlx_stream stream;

static void die(const char *what) {
    printf("%s: %s\n", what, error.message);
    exit(2);
}

/* What follows the first word of the next line, which must be `name` where that is given. */
static char *read_line(FILE *file, const char *name, char first[8]) {
    static char line[MAX_LINE];
    if (!fgets(line, sizeof line, file)) die("the cases end too early");
    line[strcspn(line, "\n")] = '\0';
    char *rest = strchr(line, ' ');
    if (!rest) die("a line without a space");
    *rest++ = '\0';
    if (name && strcmp(line, name)) die(name);
    if (first) snprintf(first, 8, "%.7s", line);
    return rest;
}

static void read_numbers(double *numbers, int count, FILE *file, const char *name, char first[8]) {
    char *at = read_line(file, name, first);
    for (int i = 0; i < count; i++) {
        char *end;
        numbers[i] = strtod(at, &end);
        if (end == at) die("too few numbers");
        at = end;
    }
}

static void read_reference(reference *to, int count, FILE *file, const char *name) {
    read_numbers(to->numbers, count, file, name, NULL);
    read_numbers(to->bounds, count, file, "bound", NULL);
}

static int n_results(const test *of) { return of->by_row ? of->rows : of->rows * of->columns; }

static void read_test(test *to, FILE *file) {
    if (sscanf(read_line(file, "case", NULL), "%d %d %d %d", &to->n_inputs, &to->rows, &to->columns,
               &to->by_row) != 4)
        die("case");
    int count = to->rows * to->columns;
    if (to->n_inputs < 1 || to->n_inputs > MAX_INPUTS || count < 1 || count > MAX_NUMBERS) die("case");
    snprintf(to->expression, sizeof to->expression, "%s", read_line(file, "expression", NULL));
    snprintf(to->header, sizeof to->header, "%s", read_line(file, "header", NULL));
    read_numbers(to->cotangents, n_results(to), file, "cotangent", NULL);
    read_reference(&to->value, n_results(to), file, "value");
    for (int i = 0; i < to->n_inputs; i++) {
        read_numbers(to->inputs[i], count, file, NULL, to->names[i]);
        read_reference(&to->slopes[i], count, file, "slope");
    }
}

/* The numbers that an input of the kernel or of its gradient stands for. */
static const double *find_numbers(const test *from, const char *name) {
    for (int i = 0; i < from->n_inputs; i++)
        if (!strcmp(from->names[i], name)) return from->inputs[i];
    return from->cotangents;
}

static zmlx_status interpret(double *const *outputs, const zm_ir *ir, const test *from) {
    const double *inputs[2 * MAX_INPUTS];
    for (int i = 0; i < ir->n_inputs; i++) inputs[i] = find_numbers(from, ir->inputs[i].name);
    const zm_evaluation evaluation = {from->rows, from->columns, inputs, NULL, NULL, outputs};
    return zm_ir_evaluate(ir, &evaluation, &error);
}

static zmlx_status lower(zm_ir **ir, const test *from, const char *const *names) {
    const zm_map_text text = {.outputs = (const char *const[]){from->expression},
                              .n_outputs = 1,
                              .output_names = (const char *const[]){"y"},
                              .input_names = names,
                              .n_inputs = from->n_inputs,
                              .header = from->header[0] ? from->header : NULL};
    return zm_lower_map(ir, &text, &error);
}

static zmlx_status run_in_float64(results *to, const test *from, const char *const *names) {
    zm_ir *ir, *gradient = NULL;
    ZM_TRY(lower(&ir, from, names));
    const bool wanted[MAX_INPUTS] = {true, true, true};
    zmlx_status status = interpret((double *[]){to->value}, ir, from);
    if (!status) status = zm_ir_vjp(&gradient, ir, wanted, false, &error);
    if (!status) status = interpret((double *[]){to->slopes[0], to->slopes[1], to->slopes[2]}, gradient, from);
    zm_ir_free(gradient);
    zm_ir_free(ir);
    return status;
}

static mlx_array new_array(const test *from, const double *numbers, bool by_row) {
    float data[MAX_NUMBERS];
    for (int i = 0; i < from->rows * (by_row ? 1 : from->columns); i++) data[i] = (float)numbers[i];
    return mlx_array_new_data(data, (const int[]){from->rows, from->columns}, by_row ? 1 : 2, MLX_FLOAT32);
}

static int apply_kernel(mlx_vector_array *outputs, const mlx_vector_array inputs, void *kernel) {
    mlx_array arrays[MAX_INPUTS] = {{NULL}}, y = {NULL};
    size_t count = mlx_vector_array_size(inputs);
    int failed = 0;
    for (size_t i = 0; i < count; i++) failed |= mlx_vector_array_get(&arrays[i], inputs, i);
    failed = failed || zmlx_kernel_apply(kernel, &y, arrays, count, stream, &error) ||
             mlx_vector_array_set_value(outputs, y);
    for (size_t i = 0; i < count; i++) mlx_array_free(arrays[i]);
    mlx_array_free(y);
    return failed;
}

static int read_array(double *numbers, int count, const mlx_vector_array from, size_t index) {
    mlx_array array = {NULL};
    int failed = mlx_vector_array_get(&array, from, index) || mlx_array_eval(array) ||
                 mlx_array_size(array) != (size_t)count;
    const float *data = failed ? NULL : mlx_array_data_float32(array);
    for (int i = 0; data && i < count; i++) numbers[i] = (double)data[i];
    mlx_array_free(array);
    return !data;
}

static int differentiate(results *to, const test *from, zmlx_kernel *kernel) {
    mlx_vector_array inputs = mlx_vector_array_new(), values = {NULL}, slopes = {NULL};
    for (int i = 0; i < from->n_inputs; i++) {
        mlx_array array = new_array(from, from->inputs[i], false);
        mlx_vector_array_append_value(inputs, array);
        mlx_array_free(array);
    }
    mlx_array cotangent = new_array(from, from->cotangents, from->by_row);
    mlx_vector_array cotangents = mlx_vector_array_new_value(cotangent);
    mlx_closure function = mlx_closure_new_func_payload(apply_kernel, kernel, NULL);
    int failed = mlx_vjp(&values, &slopes, function, inputs, cotangents) ||
                 read_array(to->value, n_results(from), values, 0);
    for (int i = 0; !failed && i < from->n_inputs; i++)
        failed = read_array(to->slopes[i], from->rows * from->columns, slopes, (size_t)i);
    mlx_closure_free(function);
    mlx_array_free(cotangent);
    mlx_vector_array_free(inputs);
    mlx_vector_array_free(cotangents);
    mlx_vector_array_free(values);
    mlx_vector_array_free(slopes);
    return failed;
}

static zmlx_status run_on_device(results *to, const test *from, const char *const *names) {
    const char *text = from->expression;
    const zmlx_map_options options = {
        .inputs = names, .n_inputs = (size_t)from->n_inputs, .header = from->header[0] ? from->header : NULL};
    zmlx_kernel *kernel;
    ZM_TRY(zmlx_map(&kernel, "random", &text, 1, &options, &error));
    zmlx_status status = ZMLX_OK;
    if (differentiate(to, from, kernel)) status = error.code ? error.code : ZMLX_ERROR_MLX;
    zmlx_kernel_free(kernel);
    return status;
}

/* The worst distance in units of its bound; above 1 it is told. */
static double compare(const test *of, const char *what, const double *got, const reference *expected, int count) {
    double worst = 0;
    for (int i = 0; i < count; i++) {
        double distance = fabs(got[i] - expected->numbers[i]) / expected->bounds[i];
        if (!(distance <= 1))
            printf("%s %d: %.9g, expected %.9g within %.2g\n", what, i, got[i], expected->numbers[i],
                   expected->bounds[i]);
        if (!(distance <= worst)) worst = distance;
    }
    if (!(worst <= 1)) printf("  in %s\n  header %s\n", of->expression, of->header);
    return worst;
}

/* Sets worst to the worst distance of all numbers. False: there is no result, say because nothing could be compiled. */
static bool run(double *worst, const test *from, bool on_device) {
    const char *names[MAX_INPUTS];
    results got;
    for (int i = 0; i < from->n_inputs; i++) names[i] = from->names[i];
    zm_error_clear(&error);
    if (on_device ? run_on_device(&got, from, names) : run_in_float64(&got, from, names)) {
        printf("no result: %s: %s\n  in %s\n  header %s\n", error.where, error.message, from->expression, from->header);
        return false;
    }
    *worst = compare(from, "value", got.value, &from->value, n_results(from));
    for (int i = 0; i < from->n_inputs; i++) {
        double slopes = compare(from, from->names[i], got.slopes[i], &from->slopes[i], from->rows * from->columns);
        if (!(slopes <= *worst)) *worst = slopes;
    }
    return true;
}

int main(int argc, char **argv) {
    static test from;
    if (argc != 4) die("usage: random_driver float64|cpu|gpu CASES CACHE");
    if (zmlx_kernel_set_cache(argv[3], NULL, &error)) die(argv[3]);
    bool on_device = strcmp(argv[1], "float64") != 0;
    mlx_device_type device = strcmp(argv[1], "gpu") ? MLX_CPU : MLX_GPU;
    if (on_device && zm_stream_new(&stream, device, &error)) {
        printf("%s\n", error.message);
        return device == MLX_GPU ? 77 : 2;
    }
    FILE *file = fopen(argv[2], "r");
    if (!file) die(argv[2]);
    int count = atoi(read_line(file, "cases", NULL)), wrong = 0, failed = 0;
    double worst = 0;
    for (int i = 0; i < count; i++) {
        double distance = 0;
        read_test(&from, file);
        failed += !run(&distance, &from, on_device);
        wrong += !(distance <= 1);
        if (distance <= 1 && distance > worst) worst = distance;
    }
    fclose(file);
    zm_stream_free(stream);
    printf("%d of %d wrong, %d without a result; of the others the worst is %.2f of its bound\n", wrong, count, failed,
           worst);
    return wrong || failed;
}
