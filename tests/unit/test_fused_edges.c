/* SPDX-License-Identifier: MIT */
/* Edges against what MLX's own quantiser leaves, and products that read them against those that do not. */
#include "product_testing.h"

#include "fused_node_testing.h"

enum { ROWS = 96, COLUMNS = 1920 };

static const int all_bits[] = {2, 3, 4, 5, 6};
enum { N_BITS = sizeof all_bits / sizeof all_bits[0] };

/* Approximately normal: a sum of twelve uniform numbers. */
static float random_normal(void) {
    float sum = 0;
    for (int i = 0; i < 12; i++) sum += random_float();
    return 0.5f * sum;
}

typedef enum content { NORMAL, UNIFORM, POSITIVE, CONSTANT, ZERO, RARE } content;

/* What a group is made of; RARE: normal numbers, one group in 2048 positive ones. */
static float *make_values(content what, int group_size) {
    float *values = allocate(ROWS * COLUMNS * sizeof *values);
    for (size_t i = 0; i < ROWS * COLUMNS; i++) {
        size_t group = i / (size_t)group_size;
        bool positive = what == POSITIVE || (what == RARE && group % 2048 == 77);
        float value = what == UNIFORM ? random_float() : 0.02f * random_normal();
        if (what == CONSTANT) value = group % 2 ? 0.37f : -0.37f;
        values[i] = what == ZERO ? 0 : positive ? 0.5f + 0.1f * fabsf(value) : value;
    }
    return values;
}

/* MLX's quantiser on (ROWS, COLUMNS) of that type; a null scale or bias has no such form. */
static zm_weight quantise(const float *values, int bits, int group_size, mlx_dtype dtype) {
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array dense = zm_astype(&scope, zm_from_data(&scope, values, (int[]){ROWS, COLUMNS}, 2, MLX_FLOAT32), dtype);
    mlx_vector_array parts = mlx_vector_array_new();
    zm_weight weight = {.quantization = {.mode = "affine", .bits = bits, .group_size = group_size},
                        .in_features = COLUMNS, .out_features = ROWS};
    mlx_optional_int size = {group_size, true}, width = {bits, true};
    assert_int_equal(mlx_quantize(&parts, dense, size, width, "affine", (mlx_array){NULL}, stream), 0);
    mlx_array *slots[] = {&weight.weight, &weight.scales, &weight.biases};
    for (size_t i = 0; i < 3; i++) {
        *slots[i] = mlx_array_new();
        assert_int_equal(mlx_vector_array_get(slots[i], parts, i), 0);
        assert_int_equal(mlx_array_eval(*slots[i]), 0);
    }
    mlx_vector_array_free(parts);
    assert_int_equal(zm_scope_end(&scope, NULL), ZMLX_OK);
    return weight;
}

static void add_edges(zm_weight *weight) {
    assert_int_equal(zm_fused_edges(&weight->edges, &weight->first_exponent, weight, compute.pool, NULL), ZMLX_OK);
}

static void free_weight(zm_weight *weight) {
    mlx_array arrays[] = {weight->weight, weight->scales, weight->biases, weight->edges};
    for (size_t i = 0; i < 4; i++)
        if (arrays[i].ctx) mlx_array_free(arrays[i]);
}

static zm_matrix matrix_of(const zm_weight *weight) {
    return (zm_matrix){.kind = ZM_MATRIX_AFFINE, .storage = ZM_STORAGE_BFLOAT16, .bits = weight->quantization.bits,
                       .group_size = weight->quantization.group_size, .in_features = COLUMNS, .out_features = ROWS,
                       .n_experts = 1, .weight = mlx_array_data_uint8(weight->weight),
                       .scales = mlx_array_data_uint8(weight->scales), .biases = mlx_array_data_uint8(weight->biases),
                       .edges = mlx_array_data_uint8(weight->edges), .first_exponent = weight->first_exponent};
}

/* Whether the quotient in float64 lies at most half a step of bfloat16 from the scale. */
static bool rounds_to(double quotient, double scale) {
    int exponent;
    frexp(quotient, &exponent);
    return fabs(quotient - scale) <= ldexp(0.5, exponent - 8);
}

/* The number of groups without an edge; the others' words are taken apart as edges.h tells. */
static size_t count_stored(const zm_weight *weight) {
    int bits = weight->quantization.bits;
    size_t count = mlx_array_size(weight->scales), stored = 0;
    const uint16_t *words = mlx_array_data_uint16(weight->edges);
    const unsigned char *scales = mlx_array_data_uint8(weight->scales), *biases = mlx_array_data_uint8(weight->biases);
    for (size_t i = 0; i < count; i++) {
        int mantissa = words[i] % 128, exponent = words[i] / 128 % (1 << (9 - bits));
        int n = (1 << (bits - 1)) - 1 + words[i] % 32768 / (1 << (16 - bits));
        if (exponent == (1 << (9 - bits)) - 1) {
            stored++;
            continue;
        }
        exponent += weight->first_exponent;
        double bias = ldexp(exponent ? 128 + mantissa : mantissa, (exponent ? exponent : 1) - 127 - 7);
        if (words[i] >= 32768) bias = -bias;
        assert_true(bias == stored_value(biases, ZM_STORAGE_BFLOAT16, i));
        assert_true(rounds_to(bias / -n, stored_value(scales, ZM_STORAGE_BFLOAT16, i)));
    }
    return stored;
}

/* Normal and uniform weights have edges in all groups; the others differ by how many of a group's numbers have a
 * sign. */
static void quantised_weights_have_edges(void **state) {
    (void)state;
    for (int b = 0; b < N_BITS; b++)
        for (int group_size = 32; group_size <= 128; group_size *= 2)
            for (content what = NORMAL; what <= RARE; what++) {
                float *values = make_values(what, group_size);
                zm_weight weight = quantise(values, all_bits[b], group_size, MLX_BFLOAT16);
                add_edges(&weight);
                bool most = what == NORMAL || what == UNIFORM || what == RARE;
                assert_int_equal(zm_is_set(weight.edges), most);
                size_t groups = mlx_array_size(weight.scales);
                if (most) assert_int_equal(count_stored(&weight), what == RARE ? (groups + 2048 - 78) / 2048 : 0);
                free_weight(&weight);
                free(values);
            }
}

static void other_weights_have_none(void **state) {
    (void)state;
    static const struct {
        int bits;
        mlx_dtype dtype;
    } cases[] = {{8, MLX_BFLOAT16}, {4, MLX_FLOAT16}, {4, MLX_FLOAT32}};
    float *values = make_values(NORMAL, 64);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        zm_weight weight = quantise(values, cases[i].bits, 64, cases[i].dtype);
        add_edges(&weight);
        assert_false(zm_is_set(weight.edges));
        free_weight(&weight);
    }
    zm_weight weight = quantise(values, 4, 64, MLX_BFLOAT16);
    mlx_array scales = mlx_array_new();
    assert_int_equal(mlx_swapaxes(&scales, weight.scales, 0, 1, stream), 0); /* not row by row */
    assert_int_equal(mlx_array_eval(scales), 0);
    mlx_array_free(weight.scales);
    weight.scales = scales;
    add_edges(&weight);
    assert_false(zm_is_set(weight.edges));
    free_weight(&weight);
    free(values);
}

/* Rounds of every scale by one step take most of them away from what their bias says. */
static void scales_of_other_makers_have_none(void **state) {
    (void)state;
    float *values = make_values(NORMAL, 64);
    zm_weight weight = quantise(values, 4, 64, MLX_BFLOAT16);
    uint16_t *scales = (uint16_t *)(uintptr_t)mlx_array_data_uint16(weight.scales);
    for (size_t i = 0; i < mlx_array_size(weight.scales); i += 500) scales[i]++;
    add_edges(&weight);
    assert_false(zm_is_set(weight.edges));
    free_weight(&weight);
    free(values);
}

/* Every third vector of groups, at most, keeps all its edges; scales that must not be read become NaN. */
static void mix(const zm_matrix *matrix, bool with_stored) {
    uint16_t *edges = (uint16_t *)(uintptr_t)matrix->edges, none = (uint16_t)zm_edge_none(matrix->bits);
    size_t groups = zm_matrix_groups(matrix);
    for (size_t row = 0; row < ROWS && with_stored; row++)
        for (size_t g = row % 3 * 7 % groups; g < groups; g += 29) edges[row * groups + g] = none;
    for (size_t i = 0; i < ROWS * groups && !with_stored; i++)
        store_value((unsigned char *)(uintptr_t)matrix->scales, ZM_STORAGE_BFLOAT16, i, NAN);
}

static void check_products(const zm_weight *weight, const float *x) {
    zm_matrix plain = matrix_of(weight), with = plain;
    plain.edges = NULL;
    for (const zm_cpu_level *const *level = zm_fused_levels(); *level; level++) {
        if (!computes(*level)) continue;
        for (size_t n_tokens = 1; n_tokens <= 5; n_tokens++) {
            float *expected = multiply(*level, &plain, x, n_tokens, 0, ROWS);
            float *y = multiply(*level, &with, x, n_tokens, 0, ROWS);
            if (memcmp(y, expected, n_tokens * ROWS * sizeof *y))
                fail_msg("%s: bits %d group %d tokens %zu precision %d", (*level)->name, plain.bits, plain.group_size,
                         n_tokens, (int)precision);
            free(y);
            free(expected);
        }
    }
}

/* Without the stored scales one token's products are the same, so they come from edges alone. */
static void check_that_edges_are_read(const zm_weight *weight, const float *x) {
    zm_matrix matrix = matrix_of(weight);
    for (const zm_cpu_level *const *level = zm_fused_levels(); *level; level++) {
        if (!computes(*level)) continue;
        float *y = multiply(*level, &matrix, x, 1, 0, ROWS);
        for (size_t row = 0; row < ROWS; row++) assert_true(isfinite(y[row]));
        free(y);
    }
}

static void products_have_the_same_bits(void **state) {
    (void)state;
    float *x = random_floats(5 * COLUMNS);
    for (int b = 0; b < N_BITS; b++)
        for (int group_size = 32; group_size <= 128; group_size *= 2) {
            float *values = make_values(NORMAL, group_size);
            zm_weight weight = quantise(values, all_bits[b], group_size, MLX_BFLOAT16);
            add_edges(&weight);
            zm_matrix matrix = matrix_of(&weight);
            for (int with_stored = 0; with_stored <= 1; with_stored++) {
                if (with_stored) mix(&matrix, true);
                for (precision = ZM_PRECISION_FLOAT32; precision <= ZM_PRECISION_INT8; precision++)
                    check_products(&weight, x);
            }
            precision = ZM_PRECISION_FLOAT32;
            free_weight(&weight);
            free(values);
        }
    free(x);
}

static void stored_scales_are_not_read(void **state) {
    (void)state;
    float *x = random_floats(COLUMNS), *values = make_values(NORMAL, 64);
    for (int b = 0; b < N_BITS; b++) {
        zm_weight weight = quantise(values, all_bits[b], 64, MLX_BFLOAT16);
        add_edges(&weight);
        zm_matrix matrix = matrix_of(&weight);
        mix(&matrix, false);
        for (precision = ZM_PRECISION_FLOAT32; precision <= ZM_PRECISION_INT8; precision++)
            check_that_edges_are_read(&weight, x);
        precision = ZM_PRECISION_FLOAT32;
        free_weight(&weight);
    }
    free(values);
    free(x);
}

static mlx_array linear(zm_scope *scope, const zm_weight *weight, mlx_array x) {
    zm_scope_begin(scope, stream);
    return zm_fused_linear(scope, x, weight, compute);
}

/* A node takes them as one more input, and refuses those of another weight. */
static void nodes_take_edges(void **state) {
    (void)state;
    zm_scope scope;
    zmlx_error error;
    float *values = make_values(NORMAL, 64), *numbers = random_floats(COLUMNS);
    zm_weight weight = quantise(values, 4, 64, MLX_BFLOAT16), bare = weight;
    mlx_array x = mlx_array_new_data(numbers, (int[]){1, COLUMNS}, 2, MLX_FLOAT32), kept[2] = {{NULL}};
    add_edges(&weight);
    for (int i = 0; i < 2; i++) {
        mlx_array y = linear(&scope, i ? &weight : &bare, x);
        zm_scope_keep(&scope, &kept[i], y);
        assert_int_equal(zm_scope_end(&scope, NULL), ZMLX_OK);
        assert_int_equal(mlx_array_eval(kept[i]), 0);
    }
    assert_memory_equal(mlx_array_data_float32(kept[0]), mlx_array_data_float32(kept[1]), ROWS * sizeof(float));
    bare.edges = weight.weight;
    linear(&scope, &bare, x);
    assert_int_equal(zm_scope_end(&scope, &error), ZMLX_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "shape"));
    mlx_array_free(kept[0]);
    mlx_array_free(kept[1]);
    mlx_array_free(x);
    free_weight(&weight);
    free(values);
    free(numbers);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantised_weights_have_edges),     cmocka_unit_test(other_weights_have_none),
        cmocka_unit_test(scales_of_other_makers_have_none), cmocka_unit_test(products_have_the_same_bits),
        cmocka_unit_test(stored_scales_are_not_read),       cmocka_unit_test(nodes_take_edges),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
