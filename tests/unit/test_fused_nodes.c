/* SPDX-License-Identifier: MIT */
/* The linear and the gated node in MLX's graph against MLX's own operations. */
#include "fused_node_testing.h"

static const zm_quantization formats[] = {{64, 4, "affine"}, {32, 8, "affine"}, {128, 3, "affine"},
                                          {64, 6, "affine"}, {32, 4, "mxfp4"},  {0, 0, NULL}};
enum { N_FORMATS = sizeof formats / sizeof formats[0] };

/* MLX's operations, in float32. */
static mlx_array plain_linear(zm_scope *scope, mlx_array x, const zm_weight *weight) {
    mlx_array y;
    if (weight->quantization.mode)
        y = zm_quantized_matmul(scope, x, weight->weight, weight->scales, weight->biases,
                                weight->quantization);
    else y = zm_matmul(scope, x, zm_swapaxes(scope, weight->weight, 0, 1));
    return zm_is_set(weight->bias) ? zm_add(scope, y, weight->bias) : y;
}

static void linear_agrees_with_mlx(void **state) {
    (void)state;
    for (size_t f = 0; f < N_FORMATS; f++) {
        for (int tokens = 1; tokens <= 33; tokens += 8) {
            zm_scope scope;
            zm_scope_begin(&scope, stream);
            zm_weight weight = random_weight(&scope, 0, 37, 256, formats[f], MLX_FLOAT32);
            if (f % 2) weight.bias = random_array(&scope, (const int[]){37}, 1, MLX_FLOAT32, 1);
            mlx_array x = random_array(&scope, (const int[]){1, tokens, 256}, 3, MLX_FLOAT32, 1);
            mlx_array y = zm_fused_linear(&scope, x, &weight, compute);
            expect_same(&scope, y, plain_linear(&scope, x, &weight), 1e-5);
            end_well(&scope);
        }
    }
}

enum { HEADS = 5 };

/* The matrix of a head alone. */
static zm_weight head_of(zm_scope *scope, const zm_weight *weight, int head) {
    zm_weight one = *weight;
    one.n_experts = 0;
    mlx_array *arrays[] = {&one.weight, &one.scales, &one.biases};
    for (int i = 0; i < 3; i++)
        if (zm_is_set(*arrays[i]))
            *arrays[i] = zm_squeeze(scope, zm_slice_axis(scope, *arrays[i], 0, head, head + 1, 1), 0);
    return one;
}

/* Each head's part is the linear node's, bit by bit; x of its own or the same for all. */
static void multi_linear_is_a_linear_map_a_head(void **state) {
    (void)state;
    static const mlx_dtype types[] = {MLX_FLOAT32, MLX_BFLOAT16};
    for (size_t f = 0; f < N_FORMATS; f++)
        for (int kind = 0; kind < 8; kind++) {
            int tokens = kind & 1 ? 35 : 1, x_heads = kind & 2 ? 1 : HEADS;
            zm_scope scope;
            zm_scope_begin(&scope, stream);
            zm_weight weight = random_weight(&scope, HEADS, 70, 256, formats[f], MLX_FLOAT32);
            mlx_array x = random_array(&scope, (const int[]){1, x_heads, tokens, 256}, 4, types[kind / 4], 1);
            mlx_array y = zm_fused_multi_linear(&scope, x, &weight, compute);
            for (int head = 0; head < HEADS; head++) {
                int from = x_heads > 1 ? head : 0;
                zm_weight one = head_of(&scope, &weight, head);
                mlx_array expected =
                    zm_fused_linear(&scope, zm_slice_axis(&scope, x, 1, from, from + 1, 1), &one, compute);
                expect_same(&scope, zm_slice_axis(&scope, y, 1, head, head + 1, 1), expected, 0);
            }
            end_well(&scope);
        }
}

static void multi_linear_refuses_what_does_not_fit(void **state) {
    (void)state;
    const int shapes[][4] = {{1, HEADS - 1, 2, 256}, {2, HEADS, 2, 256}, {1, HEADS, 2, 128}};
    for (int i = 0; i < 5; i++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        zm_weight weight = random_weight(&scope, i == 3 ? 0 : HEADS, 70, 256, formats[0], MLX_FLOAT32);
        if (i == 4) weight.bias = random_array(&scope, (const int[]){HEADS, 70}, 2, MLX_FLOAT32, 1);
        const int right[] = {1, HEADS, 2, 256};
        mlx_array x = random_array(&scope, i < 3 ? shapes[i] : right, 4, MLX_FLOAT32, 1);
        assert_false(zm_is_set(zm_fused_multi_linear(&scope, x, &weight, compute)));
        zmlx_error error;
        assert_int_equal(zm_scope_end(&scope, &error), ZMLX_ERROR_ARGUMENT);
        assert_string_equal(error.where, "zmlx.multi_linear");
    }
}

/* A half-precision input: the float32 result, rounded once. */
static void half_precision_is_rounded_once(void **state) {
    (void)state;
    static const mlx_dtype dtypes[] = {MLX_FLOAT16, MLX_BFLOAT16};
    for (size_t d = 0; d < 2; d++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        zm_weight weight = random_weight(&scope, 0, 24, 128, formats[0], dtypes[d]);
        mlx_array x = random_array(&scope, (const int[]){3, 128}, 2, dtypes[d], 1);
        mlx_array half = zm_fused_linear(&scope, x, &weight, compute);
        mlx_array full = zm_fused_linear(&scope, zm_astype(&scope, x, MLX_FLOAT32), &weight, compute);
        assert_int_equal(mlx_array_dtype(half), dtypes[d]);
        expect_same(&scope, half, zm_astype(&scope, full, dtypes[d]), 0);
        end_well(&scope);
    }
}

static mlx_array plain_unit(zm_scope *scope, mlx_array gate, mlx_array up, zm_activation activation) {
    mlx_array one = zm_scalar_like(scope, 1, gate);
    if (activation == ZM_ACTIVATION_SWIGLU)
        return zm_multiply(scope, zm_multiply(scope, gate, zm_sigmoid(scope, gate)), up);
    if (activation == ZM_ACTIVATION_SWIGLU_OAI) {
        mlx_array seven = zm_scalar_like(scope, 7, gate);
        gate = zm_minimum(scope, gate, seven);
        up = zm_maximum(scope, zm_minimum(scope, up, seven), zm_negative(scope, seven));
        mlx_array inner = zm_sigmoid(scope, zm_multiply(scope, gate, zm_scalar_like(scope, 1.702, gate)));
        return zm_multiply(scope, zm_add(scope, up, one), zm_multiply(scope, gate, inner));
    }
    mlx_array cube = zm_multiply(scope, gate, zm_multiply(scope, gate, gate));
    mlx_array inner = zm_add(scope, gate, zm_multiply(scope, cube, zm_scalar_like(scope, 0.044715, gate)));
    mlx_array t = zm_tanh(scope, zm_multiply(scope, inner, zm_scalar_like(scope, sqrt(2 / acos(-1)), gate)));
    mlx_array half = zm_multiply(scope, gate, zm_scalar_like(scope, 0.5, gate));
    return zm_multiply(scope, zm_multiply(scope, half, zm_add(scope, t, one)), up);
}

static void gated_mlp_agrees_with_mlx(void **state) {
    (void)state;
    for (size_t f = 0; f < N_FORMATS; f++) {
        for (int tokens = 1; tokens <= 35; tokens += 17) {
            zm_scope scope;
            zm_scope_begin(&scope, stream);
            zm_activation activation = (zm_activation)(f % 3);
            zm_weight gate = random_weight(&scope, 0, 384, 128, formats[f], MLX_FLOAT32);
            zm_weight up = random_weight(&scope, 0, 384, 128, formats[(f + (size_t)tokens % 2) % N_FORMATS],
                                         MLX_FLOAT32);
            zm_weight down = random_weight(&scope, 0, 130, 384, formats[(f + 1) % N_FORMATS], MLX_FLOAT32);
            mlx_array x = random_array(&scope, (const int[]){tokens, 128}, 2, MLX_FLOAT32, 1);
            mlx_array y =
                zm_fused_gated_mlp(&scope, x, &(zm_gated_mlp_arguments){&gate, &up, &down, activation}, compute);
            mlx_array plain_gate = plain_linear(&scope, x, &gate), plain_up = plain_linear(&scope, x, &up);
            mlx_array h = plain_unit(&scope, plain_gate, plain_up, activation);
            expect_same(&scope, y, plain_linear(&scope, h, &down), 1e-5);
            end_well(&scope);
        }
    }
}

static void refusals_have_reasons(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    static const struct {
        zm_quantization quantization;
        const char *reason;
    } cases[] = {{{32, 8, "mxfp8"}, "mxfp8 weights have no CPU kernel"},
                 {{16, 4, "nvfp4"}, "nvfp4 weights have no CPU kernel"},
                 {{64, 7, "affine"}, "affine weights have 2, 3, 4, 5, 6 or 8 bits"},
                 {{16, 4, "affine"}, "affine groups are of 32, 64 or 128"},
                 {{64, 4, "other"}, "the quantisation mode is not known"}};
    const char *reason;
    zm_weight good = random_weight(&scope, 0, 8, 64, formats[0], MLX_FLOAT32);
    assert_true(zm_fused_weight_supported(&good, &reason));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        zm_weight weight = good;
        weight.quantization = cases[i].quantization;
        assert_false(zm_fused_weight_supported(&weight, &reason));
        assert_string_equal(reason, cases[i].reason);
    }
    zm_weight odd = random_weight(&scope, 0, 8, 48, formats[5], MLX_FLOAT32);
    assert_false(zm_fused_weight_supported(&odd, &reason));
    odd = random_weight(&scope, 0, 8, 64, formats[5], MLX_INT32);
    assert_false(zm_fused_weight_supported(&odd, &reason));
    odd = good, odd.out_features = 0;
    assert_false(zm_fused_weight_supported(&odd, &reason));
    end_well(&scope);
}

static void wrong_shapes_are_refused(void **state) {
    (void)state;
    for (int i = 0; i < 5; i++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        zm_weight weight = random_weight(&scope, i == 4 ? 2 : 0, 8, 64, formats[0], MLX_FLOAT32);
        mlx_array x = random_array(&scope, (const int[]){2, i == 0 ? 32 : 64}, 2, MLX_FLOAT32, 1);
        if (i == 1) weight.out_features = 9;
        if (i == 2) weight.in_features = 128;
        if (i == 3) x = zm_astype(&scope, x, MLX_INT32);
        assert_false(zm_is_set(zm_fused_linear(&scope, x, &weight, compute)));
        zmlx_error error;
        assert_true(zm_scope_end(&scope, &error) == (i == 3 ? ZMLX_ERROR_UNSUPPORTED : ZMLX_ERROR_ARGUMENT));
        assert_string_equal(error.where, "zmlx.linear");
    }
}

static void no_tokens_are_no_work(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    zm_weight weight = random_weight(&scope, 0, 8, 64, formats[0], MLX_FLOAT32);
    mlx_array x = random_array(&scope, (const int[]){0, 64}, 2, MLX_FLOAT32, 1);
    mlx_array empty = zm_fused_linear(&scope, x, &weight, compute);
    assert_int_equal(zm_dim(empty, 1), 8);
    mlx_array kept = {NULL};
    zm_scope_keep(&scope, &kept, empty);
    assert_int_equal(mlx_array_eval(kept), 0); /* no tokens: no work and no crash */
    mlx_array_free(kept);
    end_well(&scope);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_agrees_with_mlx),
        cmocka_unit_test(multi_linear_is_a_linear_map_a_head),
        cmocka_unit_test(multi_linear_refuses_what_does_not_fit),    cmocka_unit_test(half_precision_is_rounded_once),
        cmocka_unit_test(gated_mlp_agrees_with_mlx), cmocka_unit_test(refusals_have_reasons),
        cmocka_unit_test(wrong_shapes_are_refused),  cmocka_unit_test(no_tokens_are_no_work),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
