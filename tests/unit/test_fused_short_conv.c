/* SPDX-License-Identifier: MIT */
/* The short-convolution node against the formula, step by step in float64 on the projections' own results;
 * and in pieces against all at once. */
#include "fused_node_testing.h"

enum { IN = 64, SIZE = 96, OUT = 64, TAPS = 3, LENGTH = 7 };

typedef struct parts {
    zm_weight in_proj, out_proj;
    mlx_array conv_weight, conv_bias;
} parts;

static parts random_parts(zm_scope *scope, zm_quantization quantization, bool has_bias) {
    parts result = {
        .in_proj = random_weight(scope, 0, 3 * SIZE, IN, quantization, MLX_FLOAT32),
        .out_proj = random_weight(scope, 0, OUT, SIZE, quantization, MLX_FLOAT32),
        .conv_weight = random_array(scope, (const int[]){SIZE, TAPS, 1}, 3, MLX_FLOAT32, 1),
    };
    if (has_bias) {
        result.conv_bias = random_array(scope, (const int[]){SIZE}, 1, MLX_FLOAT32, 1);
        result.in_proj.bias = random_array(scope, (const int[]){3 * SIZE}, 1, MLX_FLOAT32, 1);
    }
    return result;
}

static mlx_array call(zm_scope *scope, mlx_array *last, mlx_array x, const parts *of) {
    zm_short_conv_arguments arguments = {&of->in_proj,  &of->out_proj, of->conv_weight,
                                         of->conv_bias, *last,         TAPS};
    return zm_fused_short_conv(scope, last, x, &arguments, compute);
}

/* output gate * convolution of the zero-padded input gate * x, in float64: (LENGTH, SIZE). */
static float *reference_gated(zm_scope *scope, mlx_array x, const parts *of) {
    double *projected = numbers(scope, zm_fused_linear(scope, x, &of->in_proj, compute));
    double *weight = numbers(scope, of->conv_weight);
    double *bias = zm_is_set(of->conv_bias) ? numbers(scope, of->conv_bias) : NULL;
    float *gated = allocate(sizeof(float) * LENGTH * SIZE);
    for (int t = 0; t < LENGTH; t++)
        for (int i = 0; i < SIZE; i++) {
            double sum = bias ? bias[i] : 0;
            for (int tap = 0; tap < TAPS; tap++) {
                int from = t + tap - (TAPS - 1);
                const double *row = projected + from * 3 * SIZE;
                if (from >= 0) sum += weight[i * TAPS + tap] * row[i] * row[2 * SIZE + i];
            }
            gated[t * SIZE + i] = (float)(projected[t * 3 * SIZE + SIZE + i] * sum);
        }
    free(projected), free(weight), free(bias);
    return gated;
}

static void equals_the_formula(void **state) {
    (void)state;
    static const zm_quantization formats[] = {{32, 4, "affine"}, {32, 8, "affine"}, {0, 0, NULL}};
    for (size_t f = 0; f < 3; f++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        parts of = random_parts(&scope, formats[f], f % 2 == 0);
        mlx_array x = random_array(&scope, (const int[]){1, LENGTH, IN}, 3, MLX_FLOAT32, 1), last = {NULL};
        mlx_array y = call(&scope, &last, x, &of);
        float *gated = reference_gated(&scope, x, &of);
        mlx_array expected = zm_from_data(&scope, gated, (const int[]){1, LENGTH, SIZE}, 3, MLX_FLOAT32);
        expect_same(&scope, y, zm_fused_linear(&scope, expected, &of.out_proj, compute), 1e-6);
        free(gated);
        end_well(&scope);
    }
}

/* Any split of a sequence gives the same bits, the kept inputs included. */
static void pieces_equal_the_whole(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    parts of = random_parts(&scope, (zm_quantization){32, 4, "affine"}, true);
    mlx_array x = random_array(&scope, (const int[]){1, LENGTH, IN}, 3, MLX_FLOAT32, 1);
    mlx_array whole_last = {NULL};
    mlx_array whole = call(&scope, &whole_last, x, &of);
    for (int first = 1; first < LENGTH; first++) {
        mlx_array last = {NULL};
        mlx_array a = call(&scope, &last, zm_slice_axis(&scope, x, 1, 0, first, 1), &of);
        mlx_array b = call(&scope, &last, zm_slice_axis(&scope, x, 1, first, LENGTH, 1), &of);
        expect_same(&scope, zm_concatenate(&scope, a, b, 1), whole, 0);
        expect_same(&scope, last, whole_last, 0);
    }
    end_well(&scope);
}

static void wrong_parts_are_refused(void **state) {
    (void)state;
    for (int wrong = 0; wrong < 4; wrong++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        parts of = random_parts(&scope, (zm_quantization){32, 4, "affine"}, false);
        mlx_array last = {NULL};
        int batch = wrong == 0 ? 2 : 1;
        mlx_array x = random_array(&scope, (const int[]){batch, 2, IN}, 3, MLX_FLOAT32, 1);
        if (wrong == 1) of.conv_weight = random_array(&scope, (const int[]){SIZE, 2, 1}, 3, MLX_FLOAT32, 1);
        if (wrong == 2) last = random_array(&scope, (const int[]){1, TAPS, SIZE}, 3, MLX_FLOAT32, 1);
        if (wrong == 3) of.out_proj = of.in_proj;
        assert_false(zm_is_set(call(&scope, &last, x, &of)));
        zmlx_error error;
        assert_int_not_equal(zm_scope_end(&scope, &error), ZMLX_OK);
        assert_string_equal(error.where, "zmlx.short_conv");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_the_formula),
        cmocka_unit_test(pieces_equal_the_whole),
        cmocka_unit_test(wrong_parts_are_refused),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
