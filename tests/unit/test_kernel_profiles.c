/* SPDX-License-Identifier: MIT */
/* Profiles of the catalogue (<name>_mlx) beside the same steps as operations of MLX: every bit, on the CPU. */
#include "kernels/compose.h"
#include "mlx_testing.h"
#include "zmlx/catalog.h"

enum { ALL_HALVES = 1 << 16 };
static const mlx_dtype half_types[] = {MLX_FLOAT16, MLX_BFLOAT16};

/* Every number of a half type, the one with bits i times step at place i. */
static mlx_array all_halves(zm_scope *scope, uint16_t step, mlx_dtype dtype) {
    static uint16_t bits[ALL_HALVES];
    for (int i = 0; i < ALL_HALVES; i++) bits[i] = (uint16_t)((unsigned)i * step);
    return zm_view_as(scope, zm_from_data(scope, bits, SHAPE(ALL_HALVES), MLX_UINT16), dtype);
}

/* Numbers without a pattern in [-2, 2) of any size, with all the bits that dtype has. */
static mlx_array numbers(zm_scope *scope, const int *shape, int n_dims, uint32_t seed, mlx_dtype dtype) {
    size_t count = 1;
    for (int i = 0; i < n_dims; i++) count *= (size_t)shape[i];
    double *values = malloc(count * sizeof *values);
    float *data = malloc(count * sizeof *data);
    assert_true(values && data);
    fill(values, (int)count, seed);
    for (size_t i = 0; i < count; i++) data[i] = (float)values[i] * (1 + (float)(i % 7));
    mlx_array made = zm_astype(scope, zm_from_data(scope, data, shape, n_dims, MLX_FLOAT32), dtype);
    free(values);
    free(data);
    return made;
}

static void apply(zm_scope *scope, mlx_array *outputs, const char *name, const mlx_array *inputs, size_t n_inputs) {
    const zmlx_catalog_entry *entry = zmlx_catalog_find(name);
    mlx_array made[ZM_SIGNATURE_MAX_OUTPUTS] = {{NULL}};
    zmlx_error error = {0};
    assert_non_null(entry);
    assert_false(zm_scope_failed(scope));
    if (zmlx_catalog_apply(name, made, inputs, n_inputs, NULL, stream, &error))
        fail_msg("%s: %s", error.where, error.message);
    for (size_t i = 0; i < entry->n_outputs; i++) outputs[i] = zm_scope_own(scope, made[i]);
}

/* Elements whose bits differ; two NaN are equal. */
static int count_differences(zm_scope *scope, mlx_array a, mlx_array b) {
    bool is_wide = mlx_array_dtype(a) == MLX_FLOAT32;
    mlx_dtype bits = is_wide ? MLX_UINT32 : MLX_UINT16;
    assert_int_equal(mlx_array_dtype(a), mlx_array_dtype(b));
    assert_int_equal(mlx_array_size(a), mlx_array_size(b));
    mlx_array x = zm_view_as(scope, zm_contiguous(scope, a), bits),
              y = zm_view_as(scope, zm_contiguous(scope, b), bits);
    assert_false(zm_scope_failed(scope));
    assert_int_equal(mlx_array_eval(x) | mlx_array_eval(y), 0);
    unsigned exponent = is_wide ? 0x7f800000u : mlx_array_dtype(a) == MLX_FLOAT16 ? 0x7c00 : 0x7f80;
    unsigned magnitude = is_wide ? 0x7fffffffu : 0x7fff;
    int count = 0;
    for (size_t i = 0; i < mlx_array_size(a); i++) {
        unsigned of_x = is_wide ? mlx_array_data_uint32(x)[i] : mlx_array_data_uint16(x)[i];
        unsigned of_y = is_wide ? mlx_array_data_uint32(y)[i] : mlx_array_data_uint16(y)[i];
        bool are_nan = (of_x & magnitude) > exponent && (of_y & magnitude) > exponent;
        count += of_x != of_y && !are_nan;
    }
    return count;
}

static void expect_same(zm_scope *scope, mlx_array ours, mlx_array theirs, const char *what) {
    int count = count_differences(scope, ours, theirs);
    if (count)
        fail_msg("%s, dtype %d: %d of %zu differ", what, (int)mlx_array_dtype(ours), count, mlx_array_size(ours));
}

/* The rounded kernel has MLX's bits, and the one that rounds once does not: else the test would prove nothing. */
static void check(zm_scope *scope, const char *name, const mlx_array *inputs, size_t n_inputs, mlx_array theirs) {
    char profile[80];
    mlx_array ours[ZM_SIGNATURE_MAX_OUTPUTS], plain[ZM_SIGNATURE_MAX_OUTPUTS];
    snprintf(profile, sizeof profile, "%s_mlx", name);
    apply(scope, ours, profile, inputs, n_inputs);
    apply(scope, plain, name, inputs, n_inputs);
    expect_same(scope, ours[0], theirs, profile);
    if (mlx_array_size(theirs) >= 1000 && mlx_array_dtype(theirs) != MLX_FLOAT32)
        assert_true(count_differences(scope, plain[0], theirs) > (int)mlx_array_size(theirs) / 100);
}

static mlx_array silu(zm_scope *scope, mlx_array x) { return zm_multiply(scope, x, zm_sigmoid(scope, x)); }

/* 0.5 x (1 + tanh(0.79788456 (x + 0.044715 x^3))), as mlx.nn.gelu_approx has it. */
static mlx_array gelu(zm_scope *scope, mlx_array x) {
    mlx_array inner = zm_multiply(scope, zm_scalar_like(scope, 0.044715, x),
                                  zm_power(scope, x, zm_scalar_like(scope, 3, x)));
    inner = zm_multiply(scope, zm_scalar_like(scope, 0.7978845608028654, x), zm_add(scope, x, inner));
    mlx_array factor = zm_add(scope, zm_scalar_like(scope, 1, x), zm_tanh(scope, inner));
    return zm_multiply(scope, zm_multiply(scope, zm_scalar_like(scope, 0.5, x), x), factor);
}

static void test_all_half_numbers(void **state) {
    (void)state;
    for (int i = 0; i < COUNT(half_types); i++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array x = all_halves(&scope, 1, half_types[i]), up = all_halves(&scope, 40503, half_types[i]);
        const mlx_array both[] = {x, up};
        check(&scope, "silu", &x, 1, silu(&scope, x));
        check(&scope, "gelu_tanh", &x, 1, gelu(&scope, x));
        check(&scope, "swiglu2", both, 2, zm_multiply(&scope, silu(&scope, x), up));
        check(&scope, "geglu2", both, 2, zm_multiply(&scope, gelu(&scope, x), up));
        check(&scope, "silu_mul_grad", both, 2, zm_multiply(&scope, silu(&scope, x), up));
        end_well(&scope);
    }
}

/* MLX's exponential is followed step by step, so the sigmoid has its bits in float32, too. */
static void test_float32(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = zm_astype(&scope, all_halves(&scope, 1, MLX_BFLOAT16), MLX_FLOAT32), up = zm_multiply(&scope, x, x);
    const mlx_array both[] = {numbers(&scope, SHAPE(200, 500), 3, MLX_FLOAT32),
                              numbers(&scope, SHAPE(200, 500), 4, MLX_FLOAT32)};
    check(&scope, "silu", &x, 1, silu(&scope, x));
    check(&scope, "swiglu2", (mlx_array[]){x, up}, 2, zm_multiply(&scope, silu(&scope, x), up));
    check(&scope, "swiglu2", both, 2, zm_multiply(&scope, silu(&scope, both[0]), both[1]));
    end_well(&scope);
}

static void check_norms(zm_scope *scope, int columns, mlx_dtype dtype) {
    mlx_array x = numbers(scope, SHAPE(5, 3, columns), 5, dtype),
              residual = numbers(scope, SHAPE(5, 3, columns), 6, dtype);
    mlx_array weight = numbers(scope, SHAPE(columns), 7, dtype), bias = numbers(scope, SHAPE(columns), 8, dtype);
    check(scope, "rmsnorm", (mlx_array[]){x, weight}, 2, zm_rms_norm(scope, x, weight, 1e-6f));
    check(scope, "layernorm", (mlx_array[]){x, weight, bias}, 3, zm_layer_norm(scope, x, weight, bias, 1e-5f));
    mlx_array only[2];
    apply(scope, only, "layernorm_mlx", (mlx_array[]){x, none, none}, 3);
    expect_same(scope, only[0], zm_layer_norm(scope, x, none, none, 1e-5f), "layernorm_mlx without parameters");
    apply(scope, only, "layernorm_mlx", (mlx_array[]){x, weight, none}, 3);
    expect_same(scope, only[0], zm_layer_norm(scope, x, weight, none, 1e-5f), "layernorm_mlx without beta");
    mlx_array h = zm_add(scope, x, residual), normed = zm_rms_norm(scope, h, weight, 1e-6f);
    check(scope, "add_rms_norm", (mlx_array[]){x, residual, weight}, 3, normed);
    apply(scope, only, "add_rms_norm_mlx", (mlx_array[]){x, residual, weight}, 3);
    expect_same(scope, only[1], h, "add_rms_norm_mlx: h");
    /* mlx-lm's gate of a delta network: float32 behind the norm, rounded once. */
    mlx_array gate = zm_astype(scope, residual, MLX_FLOAT32);
    mlx_array gated = zm_multiply(scope, silu(scope, gate),
                                  zm_astype(scope, zm_rms_norm(scope, x, weight, 1e-6f), MLX_FLOAT32));
    check(scope, "gated_rmsnorm_silu", (mlx_array[]){x, residual, weight}, 3, zm_astype(scope, gated, dtype));
}

static void test_norms(void **state) {
    (void)state;
    static const int columns[] = {1, 7, 64, 1000, 4097};
    static const mlx_dtype types[] = {MLX_FLOAT16, MLX_BFLOAT16, MLX_FLOAT32};
    for (int i = 0; i < COUNT(types); i++)
        for (int k = 0; k < COUNT(columns); k++) {
            zm_scope scope;
            zm_scope_begin(&scope, stream);
            check_norms(&scope, columns[k], types[i]);
            end_well(&scope);
        }
}

static void norm_by_mlx(zm_catalog_call *call) {
    call->outputs[0] = zm_layer_norm(call->scope, call->inputs[0], call->inputs[1], call->inputs[2], 1e-5f);
}

/* layernorm_mlx as a GPU has it, in all inputs. */
static int apply_norm_by_mlx(mlx_vector_array *results, const mlx_vector_array given) {
    mlx_array inputs[ZM_SIGNATURE_MAX_INPUTS] = {{NULL}};
    zm_catalog_call call;
    zm_scope scope;
    zmlx_error error;
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < 3; i++) inputs[i] = take(&scope, given, (size_t)i);
    zmlx_catalog_value eps = {.number = 1e-5};
    int failed = zm_call_prepare(&call, zm_catalog_lookup("layernorm_mlx"), &scope, inputs, &eps, &error) != ZMLX_OK;
    if (!failed) zm_call_profile(&call, norm_by_mlx);
    if (!failed && !zm_scope_failed(&scope)) failed = mlx_vector_array_set_value(results, call.outputs[0]);
    return zm_scope_end(&scope, &error) || failed;
}

/* What MLX's own operations compute has the gradient of the kernel all the same, bit by bit. */
static void test_gradient_is_the_kernels(void **state) {
    (void)state;
    enum { ROWS = 2, COLUMNS = 31 };
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    const mlx_array inputs[] = {numbers(&scope, SHAPE(ROWS, COLUMNS), 30, MLX_BFLOAT16),
                                numbers(&scope, SHAPE(COLUMNS), 31, MLX_BFLOAT16),
                                numbers(&scope, SHAPE(COLUMNS), 32, MLX_BFLOAT16)};
    mlx_array cotangent = numbers(&scope, SHAPE(ROWS, COLUMNS), 33, MLX_BFLOAT16), expected[3] = {{NULL}};
    zmlx_catalog_value eps = {.number = 1e-5};
    zmlx_error error;
    if (zmlx_catalog_apply_gradient("layernorm", expected, inputs, 3, &cotangent, &eps, stream, &error))
        fail_msg("%s: %s", error.where, error.message);
    mlx_vector_array primals = mlx_vector_array_new_data(inputs, 3), list = mlx_vector_array_new_value(cotangent),
                     results = mlx_vector_array_new(), gradients = mlx_vector_array_new();
    mlx_closure closure = mlx_closure_new_func(apply_norm_by_mlx);
    assert_int_equal(mlx_vjp(&results, &gradients, closure, primals, list), 0);
    for (int i = 0; i < 3; i++)
        expect_same(&scope, take(&scope, gradients, (size_t)i), zm_scope_own(&scope, expected[i]), "gradient");
    mlx_closure_free(closure);
    mlx_vector_array_free(primals);
    mlx_vector_array_free(list);
    mlx_vector_array_free(results);
    mlx_vector_array_free(gradients);
    end_well(&scope);
}

static mlx_array rotate(zm_scope *scope, mlx_array x, mlx_array cos, mlx_array sin, bool is_interleaved) {
    int n = zm_dim(x, -1) / 2, step = is_interleaved ? 2 : 1, second = is_interleaved ? 1 : n;
    mlx_array a = zm_slice_axis(scope, x, -1, 0, is_interleaved ? 2 * n : n, step);
    mlx_array b = zm_slice_axis(scope, x, -1, second, 2 * n, step);
    mlx_array turned[2] = {
        zm_subtract(scope, zm_multiply(scope, a, cos), zm_multiply(scope, b, sin)),
        zm_add(scope, zm_multiply(scope, a, sin), zm_multiply(scope, b, cos)),
    };
    if (!is_interleaved) return zm_concatenate(scope, turned[0], turned[1], -1);
    return zm_reshape(scope, zm_stack(scope, turned, 2, 4), mlx_array_shape(x), 4);
}

static void test_rope(void **state) {
    (void)state;
    enum { S = 37, N = 32 };
    for (int i = 0; i < COUNT(half_types); i++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array x = numbers(&scope, SHAPE(2, 3, S, 2 * N), 9, half_types[i]);
        mlx_array cos = numbers(&scope, SHAPE(S, N), 10, MLX_FLOAT32),
                  sin = numbers(&scope, SHAPE(S, N), 11, MLX_FLOAT32);
        mlx_array c = zm_astype(&scope, cos, half_types[i]), s = zm_astype(&scope, sin, half_types[i]);
        const mlx_array inputs[] = {x, cos, sin};
        if (zm_scope_is_on_cpu(&scope)) {
            check(&scope, "apply_rope", inputs, 3, rotate(&scope, x, c, s, false));
            check(&scope, "apply_rope_interleaved", inputs, 3, rotate(&scope, x, c, s, true));
        } else { /* in float32, rounded once, as MLX's own kernel there does */
            mlx_array wide = zm_astype(&scope, x, MLX_FLOAT32), ours;
            for (int pairs = 0; pairs < 2; pairs++) {
                apply(&scope, &ours, pairs ? "apply_rope_interleaved_mlx" : "apply_rope_mlx", inputs, 3);
                mlx_array theirs = rotate(&scope, wide, cos, sin, pairs);
                expect_same(&scope, ours, zm_astype(&scope, theirs, half_types[i]), "rope");
            }
        }
        end_well(&scope);
    }
}

static void test_convolution(void **state) {
    (void)state;
    enum { B = 2, T = 21, C = 45, KS = 4 };
    for (int i = 0; i < COUNT(half_types); i++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array x = numbers(&scope, SHAPE(B, T, C), 12, half_types[i]),
                  weight = numbers(&scope, SHAPE(C, KS), 13, half_types[i]);
        mlx_array theirs = silu(&scope, zm_conv1d(&scope, x, zm_expand_dims(&scope, weight, -1), C)), ours[2];
        check(&scope, "fused_conv1d_silu", (mlx_array[]){x, weight}, 2, theirs);
        apply(&scope, ours, "fused_conv1d_silu_mlx", (mlx_array[]){x, weight}, 2);
        expect_same(&scope, ours[1], zm_slice_axis(&scope, x, 1, T - KS + 1, T, 1), "new_state");
        end_well(&scope);
    }
}

/* Indices of rows and of experts that broadcast are those written out. */
static void expect_broadcast_indices(zm_scope *scope, const mlx_array *parts) {
    static const struct {
        int rows[2], experts[2];
    } shapes[] = {{{2, 1}, {1, 3}}, {{2, 3}, {1, 3}}, {{2, 1}, {2, 3}}, {{1, 3}, {2, 3}}};
    for (int i = 0; i < COUNT(shapes); i++) {
        mlx_array inputs[2][9], ours[1], theirs[1];
        for (int side = 0; side < 2; side++) memcpy(inputs[side], parts, sizeof inputs[side]);
        for (int input = 7; input < 9; input++) {
            const int *shape = input == 7 ? shapes[i].rows : shapes[i].experts;
            mlx_array few = zm_from_data(scope, (uint32_t[]){2, 0, 1, 1, 2, 0}, shape, 2, MLX_UINT32);
            inputs[0][input] = few;
            inputs[1][input] = zm_broadcast_to(scope, few, (const int[]){2, 3}, 2);
        }
        apply(scope, ours, "gather_qmm_swiglu_mlx", inputs[0], 9);
        apply(scope, theirs, "gather_qmm_swiglu_mlx", inputs[1], 9);
        expect_same(scope, ours[0], theirs[0], "gather_qmm_swiglu_mlx, broadcast");
    }
}

static void test_gathered_experts(void **state) {
    (void)state;
    enum { E = 3, N = 24, K = 64, ROWS = 5, M = 2 };
    uint32_t codes[2][E * N * K / 8];
    for (int i = 0; i < COUNT(codes[0]); i++) {
        codes[0][i] = (uint32_t)i * 2654435761u;
        codes[1][i] = (uint32_t)i * 40503u * 65537u;
    }
    const zm_quantization packed = {64, 4, "affine"};
    for (int i = 0; i < COUNT(half_types); i++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array x = numbers(&scope, SHAPE(ROWS, M, K), 14, half_types[i]), parts[6], products[2], ours[1];
        mlx_array experts = zm_from_data(&scope, (uint32_t[]){2, 0, 1, 1, 2}, SHAPE(ROWS), MLX_UINT32);
        for (int side = 0; side < 2; side++) {
            mlx_array *weight = parts + 3 * side;
            weight[0] = zm_from_data(&scope, codes[side], SHAPE(E, N, K / 8), MLX_UINT32);
            for (uint32_t k = 1; k < 3; k++) weight[k] = numbers(&scope, SHAPE(E, N, 1), 15 + k, half_types[i]);
            products[side] = zm_gather_qmm(&scope, x, weight[0], weight[1], weight[2], experts, packed, false);
        }
        const mlx_array inputs[] = {x, parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], none, experts};
        apply(&scope, ours, "gather_qmm_swiglu_mlx", inputs, 9);
        expect_same(&scope, ours[0], zm_multiply(&scope, silu(&scope, products[0]), products[1]),
                    "gather_qmm_swiglu_mlx");
        expect_broadcast_indices(&scope, inputs);
        end_well(&scope);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_half_numbers),
        cmocka_unit_test(test_float32),
        cmocka_unit_test(test_norms),
        cmocka_unit_test(test_gradient_is_the_kernels),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_convolution),
        cmocka_unit_test(test_gathered_experts),
    };
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
