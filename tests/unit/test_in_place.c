/* SPDX-License-Identifier: MIT */
/* Kernels that work in buffers nobody else needs, on the CPU: the same numbers as in new ones, in the same memory. */
#include "kernels/rope/cache.h"
#include "mlx/node.h"
#include "mlx_testing.h"
#include "zmlx/kernels.h"

static zmlx_error failure;
#define OK(call)                                                      \
    do {                                                              \
        if (call) fail_msg("%s: %s", failure.where, failure.message); \
    } while (0)

enum { N = 40 };

/* Evaluated, in a buffer of its own that only the handle has. */
static mlx_array owned(const int *shape, int n_dims, uint32_t seed) {
    double values[512];
    int size = 1;
    for (int i = 0; i < n_dims; i++) size *= shape[i];
    assert_true(size <= COUNT(values));
    fill(values, size, seed);
    mlx_array array = {NULL};
    zm_scope scope;
    zm_scope_begin(&scope, host_stream);
    zm_scope_keep(&scope, &array,
                  zm_add(&scope, floats(&scope, values, shape, n_dims), zm_scalar(&scope, 0, MLX_FLOAT32)));
    end_well(&scope);
    assert_int_equal(mlx_array_eval(array), 0);
    return array;
}

static void drop(mlx_array *array) {
    mlx_array_free(*array);
    *array = (mlx_array){NULL};
}

static bool is_among(const float *memory, const float *const *all, int n) {
    for (int i = 0; i < n; i++)
        if (all[i] == memory) return true;
    return false;
}

static void test_optimizer(void **state) {
    (void)state;
    mlx_array kept[4], in[4], made[2][3] = {{{NULL}}};
    const float *memory[4];
    for (int i = 0; i < 4; i++) {
        kept[i] = owned(SHAPE(2, N), (uint32_t)i + 1);
        in[i] = owned(SHAPE(2, N), (uint32_t)i + 1);
        memory[i] = mlx_array_data_float32(in[i]);
    }
    for (int run = 0; run < 2; run++) {
        mlx_array *from = run ? in : kept;
        OK(zmlx_adamw_step(&made[run][0], &made[run][1], &made[run][2], from[0], from[1], from[2], from[3], 0.1f, 3,
                           0.9f, 0.99f, 1e-8f, 0.01f, host_stream, &failure));
        for (int i = 0; i < 4 && run; i++)
            if (i != 1) drop(&in[i]); /* the gradient is still held */
        for (int i = 0; i < 3; i++) assert_int_equal(mlx_array_eval(made[run][i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        const float *own = mlx_array_data_float32(made[1][i]);
        assert_true(is_among(own, memory, 4) && own != memory[1]);
        for (int j = 0; j < 4; j++)
            assert_ptr_not_equal(mlx_array_data_float32(made[0][i]), mlx_array_data_float32(kept[j]));
        assert_memory_equal(own, mlx_array_data_float32(made[0][i]), 2 * N * sizeof *own);
    }
    for (int i = 0; i < 4; i++) drop(&kept[i]), drop(&in[i]);
    for (int i = 0; i < 3; i++) drop(&made[0][i]), drop(&made[1][i]);
}

/* A broadcast input, a slice of another array and one with another user stay what they are. */
static void test_what_stays(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, host_stream);
    mlx_array row = owned(SHAPE(N), 1), table = owned(SHAPE(3, N), 2), sum = {NULL};
    double before[3 * N], wanted[3 * N];
    for (int i = 0; i < 3 * N; i++) {
        before[i] = (double)mlx_array_data_float32(table)[i];
        wanted[i] = (double)mlx_array_data_float32(row)[i % N] + before[i];
    }
    OK(zmlx_add_bias(&sum, table, row, host_stream, &failure));
    expect_values(&scope, sum, wanted, 3 * N, 1e-6);
    expect_values(&scope, table, before, 3 * N, 0);
    mlx_array part = {NULL}, double_part = {NULL};
    zm_scope_keep(&scope, &part, zm_slice_axis(&scope, table, 0, 0, 2, 1));
    OK(zmlx_add(&double_part, part, part, host_stream, &failure));
    drop(&part);
    for (int i = 0; i < 2 * N; i++) wanted[i] = 2 * before[i];
    expect_values(&scope, double_part, wanted, 2 * N, 1e-6);
    expect_values(&scope, table, before, 3 * N, 0);
    drop(&row), drop(&table), drop(&sum), drop(&double_part);
    end_well(&scope);
}

enum { ROWS = 6, T = 8, STORED = 4 };
static const uint32_t slots[STORED] = {4, 1, 4, UINT32_MAX}; /* the third comes after the first */

static void store(double *cache, const double *rows) {
    for (int i = 0; i < STORED; i++)
        if (slots[i] < ROWS) memcpy(cache + slots[i] * T, rows + i * T, T * sizeof *cache);
}

static void read_values(double *values, mlx_array array, int n) {
    for (int i = 0; i < n; i++) values[i] = (double)mlx_array_data_float32(array)[i];
}

static void test_stored_rows(void **state) {
    (void)state;
    for (int is_held = 0; is_held < 2; is_held++) {
        zm_scope scope;
        double rows[STORED * T], before[ROWS * T], after[ROWS * T];
        mlx_array cache = owned(SHAPE(ROWS, 2, T / 2), 5), stored = {NULL};
        const float *memory = mlx_array_data_float32(cache);
        read_values(before, cache, ROWS * T);
        memcpy(after, before, sizeof after);
        fill(rows, STORED * T, 6);
        store(after, rows);
        zm_scope_begin(&scope, host_stream);
        mlx_array at = zm_from_data(&scope, slots, SHAPE(STORED), MLX_UINT32),
                  given = floats(&scope, rows, SHAPE(STORED, T));
        zm_scope_keep(&scope, &stored, zm_store_rows(&scope, cache, given, at));
        if (!is_held) drop(&cache);
        expect_values(&scope, stored, after, ROWS * T, 0);
        assert_int_equal(mlx_array_data_float32(stored) == memory, !is_held);
        if (is_held) expect_values(&scope, cache, before, ROWS * T, 0);
        drop(&cache), drop(&stored);
        end_well(&scope);
    }
}

static int store_function(mlx_vector_array *results, const mlx_vector_array inputs) {
    mlx_array in[3] = {{NULL}, {NULL}, {NULL}}, y = {NULL};
    zm_scope scope;
    int failed = 0;
    size_t n = mlx_vector_array_size(inputs);
    for (size_t i = 0; i < n; i++) failed |= mlx_vector_array_get(&in[i], inputs, i);
    zm_scope_begin(&scope, host_stream);
    mlx_array at = n == 3 ? in[2] : zm_from_data(&scope, slots, SHAPE(STORED), MLX_UINT32);
    zm_scope_keep(&scope, &y, zm_store_rows(&scope, in[0], in[1], at));
    failed |= zm_scope_end(&scope, &failure) != ZMLX_OK || mlx_vector_array_set_value(results, y);
    for (int i = 0; i < 3; i++) mlx_array_free(in[i]);
    mlx_array_free(y);
    return failed;
}

/* The gradient of what is stored over is zero, and so is that of a row that is not there in the end. */
static void test_derivatives(void **state) {
    (void)state;
    double g[ROWS * T], rows[STORED * T], of_cache[ROWS * T], of_rows[STORED * T] = {0}, tangent[ROWS * T];
    mlx_array in[2] = {owned(SHAPE(ROWS, T), 7), owned(SHAPE(STORED, T), 8)}, cotangent = owned(SHAPE(ROWS, T), 9);
    read_values(g, cotangent, ROWS * T);
    read_values(rows, in[1], STORED * T);
    read_values(tangent, in[0], ROWS * T);
    memcpy(of_cache, g, sizeof g);
    store(of_cache, of_rows);
    memcpy(of_rows + 1 * T, g + 1 * T, T * sizeof *g);
    memcpy(of_rows + 2 * T, g + 4 * T, T * sizeof *g);
    store(tangent, rows);
    zm_scope scope;
    zm_scope_begin(&scope, host_stream);
    mlx_vector_array primals = mlx_vector_array_new_data(in, 2), given = mlx_vector_array_new_value(cotangent);
    mlx_vector_array values = mlx_vector_array_new(), made = mlx_vector_array_new();
    mlx_closure function = mlx_closure_new_func(store_function);
    assert_int_equal(mlx_vjp(&values, &made, function, primals, given), 0);
    expect_values(&scope, take(&scope, made, 0), of_cache, ROWS * T, 0);
    expect_values(&scope, take(&scope, made, 1), of_rows, STORED * T, 0);
    assert_int_equal(mlx_jvp(&values, &made, function, primals, primals), 0);
    expect_values(&scope, take(&scope, made, 0), tangent, ROWS * T, 0);
    mlx_closure_free(function);
    mlx_vector_array_free(primals);
    mlx_vector_array_free(given);
    mlx_vector_array_free(values);
    mlx_vector_array_free(made);
    end_well(&scope);
    drop(&in[0]), drop(&in[1]), drop(&cotangent);
}

static void test_batches(void **state) {
    (void)state;
    enum { B = 3 };
    for (int shares_cache = 0; shares_cache < 2; shares_cache++) {
        double caches[B * ROWS * T], rows[B * STORED * T];
        mlx_array in[3] = {shares_cache ? owned(SHAPE(ROWS, T), 1) : owned(SHAPE(B, ROWS, T), 1),
                           owned(SHAPE(STORED, B, T), 2),
                           {NULL}};
        const int axes[3] = {shares_cache ? -1 : 0, 1, -1};
        zm_scope scope;
        zm_scope_begin(&scope, host_stream);
        zm_scope_keep(&scope, &in[2], zm_from_data(&scope, slots, SHAPE(STORED), MLX_UINT32));
        for (int b = 0; b < B; b++) {
            for (int i = 0; i < ROWS * T; i++)
                caches[b * ROWS * T + i] = (double)mlx_array_data_float32(in[0])[(shares_cache ? 0 : b * ROWS * T) + i];
            for (int i = 0; i < STORED * T; i++)
                rows[i] = (double)mlx_array_data_float32(in[1])[(i / T * B + b) * T + i % T];
            store(caches + b * ROWS * T, rows);
        }
        mlx_array mapped;
        assert_true(map_batch(&scope, &mapped, 1, store_function, in, axes, 3));
        expect_values(&scope, mapped, caches, B * ROWS * T, 0);
        end_well(&scope);
        for (int i = 0; i < 3; i++) drop(&in[i]);
    }
}

/* A batch of a cache that has as many dimensions as a node may have is refused. */
static void test_many_dimensions(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, host_stream);
    mlx_array at = zm_from_data(&scope, slots, SHAPE(STORED), MLX_UINT32), refused;
    const mlx_array in[3] = {zm_zeros(&scope, SHAPE(2, ROWS, 1, 1, 1, 1, 1, 1, T), MLX_FLOAT32),
                             zm_zeros(&scope, SHAPE(2, STORED, T), MLX_FLOAT32), at};
    assert_false(map_batch(&scope, &refused, 1, store_function, in, (const int[]){0, 0, -1}, 3));
    zm_mlx_fail(&failure, "batch");
    if (!strstr(failure.message, "an output of 9 dimensions, expected at most 8")) fail_msg("%s", failure.message);
    end_well(&scope);
}

static mlx_array gradient_of_rows(zm_scope *scope, mlx_array cache, mlx_array rows, mlx_array at) {
    mlx_vector_array primals = mlx_vector_array_new_data((const mlx_array[]){cache, rows, at}, 3);
    mlx_vector_array given = mlx_vector_array_new_value(cache), values = mlx_vector_array_new(),
                     made = mlx_vector_array_new();
    mlx_closure function = mlx_closure_new_func(store_function);
    assert_int_equal(mlx_vjp(&values, &made, function, primals, given), 0);
    mlx_array gradient = take(scope, made, 1);
    mlx_closure_free(function);
    mlx_vector_array_free(primals);
    mlx_vector_array_free(given);
    mlx_vector_array_free(values);
    mlx_vector_array_free(made);
    return gradient;
}

/* No rows leave a cache as it is, and rows that no cache has room for have no gradient. */
static void test_nothing_stored(void **state) {
    (void)state;
    double before[ROWS * T], zeros[STORED * T] = {0};
    zm_scope scope;
    zm_scope_begin(&scope, host_stream);
    mlx_array cache = owned(SHAPE(ROWS, T), 5), rows = owned(SHAPE(STORED, T), 6);
    read_values(before, cache, ROWS * T);
    mlx_array no_rows = zm_zeros(&scope, SHAPE(0, T), MLX_FLOAT32), no_slots = zm_zeros(&scope, SHAPE(0), MLX_UINT32);
    expect_values(&scope, zm_store_rows(&scope, cache, no_rows, no_slots), before, ROWS * T, 0);
    mlx_array at = zm_from_data(&scope, slots, SHAPE(STORED), MLX_UINT32);
    expect_values(&scope, gradient_of_rows(&scope, no_rows, rows, at), zeros, STORED * T, 0);
    end_well(&scope);
    drop(&cache), drop(&rows);
}

/* A cache through several steps stays where it is, and is complete. */
static void test_cache_update(void **state) {
    (void)state;
    enum { B = 2, MAX = 5, KV = 1, K = 4 };
    mlx_array k_cache = owned(SHAPE(B, MAX, KV, K), 3), v_cache = owned(SHAPE(B, MAX, KV, K), 4),
              v = owned(SHAPE(B, KV, K), 5);
    mlx_array cos = owned(SHAPE(MAX, K / 2), 6), q = owned(SHAPE(B, KV, K), 7);
    const float *memory = mlx_array_data_float32(v_cache);
    double wanted[B * MAX * KV * K];
    read_values(wanted, v_cache, COUNT(wanted));
    zm_scope scope;
    zm_scope_begin(&scope, host_stream);
    for (int step = 0; step < 3; step++) {
        const int32_t offsets[B] = {step, 4 - step};
        mlx_array turned = {NULL}, k_next = {NULL}, v_next = {NULL},
                  offset = zm_from_data(&scope, offsets, SHAPE(B), MLX_INT32);
        OK(zmlx_rope_and_cache_update(&turned, &k_next, &v_next, q, v, v, cos, cos, k_cache, v_cache, offset,
                                      host_stream, &failure));
        drop(&k_cache), drop(&v_cache);
        k_cache = k_next, v_cache = v_next;
        assert_int_equal(mlx_array_eval(turned) + mlx_array_eval(k_cache) + mlx_array_eval(v_cache), 0);
        assert_ptr_equal(mlx_array_data_float32(v_cache), memory);
        for (int i = 0; i < B * K; i++)
            wanted[(i / K * MAX + offsets[i / K]) * K + i % K] = (double)mlx_array_data_float32(v)[i];
        drop(&turned);
    }
    expect_values(&scope, v_cache, wanted, COUNT(wanted), 0);
    end_well(&scope);
    drop(&k_cache), drop(&v_cache), drop(&v), drop(&cos), drop(&q);
}

/* Results of 64 KiB and more begin at a cache line. */
static void test_alignment(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, host_stream);
    static const mlx_dtype dtypes[] = {MLX_FLOAT32, MLX_FLOAT16, MLX_BFLOAT16};
    for (int i = 0; i < COUNT(dtypes); i++) {
        mlx_array ones =
            zm_astype(&scope, zm_broadcast_to(&scope, zm_scalar(&scope, 1, MLX_FLOAT32), SHAPE(300, 301)), dtypes[i]);
        mlx_array y = {NULL};
        zm_view view;
        double wanted[1] = {300 * 301};
        OK(zmlx_relu(&y, ones, host_stream, &failure));
        assert_int_equal(mlx_array_eval(y), 0);
        assert_true(zm_view_of(&view, y));
        assert_int_equal((uintptr_t)view.data % 64, 0);
        expect_values(&scope, zm_sum(&scope, zm_flatten(&scope, zm_astype(&scope, y, MLX_FLOAT32), 0, -1), 0, false),
                      wanted, 1, 0);
        drop(&y);
    }
    end_well(&scope);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_optimizer),   cmocka_unit_test(test_what_stays), cmocka_unit_test(test_stored_rows),
        cmocka_unit_test(test_derivatives), cmocka_unit_test(test_batches),    cmocka_unit_test(test_many_dimensions),
        cmocka_unit_test(test_nothing_stored), cmocka_unit_test(test_cache_update), cmocka_unit_test(test_alignment),
    };
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
