/* SPDX-License-Identifier: MIT */
/* Selection with each instruction set, in forward mode and in batches, and of more rows than MLX's sort takes at a time
 * with CUDA. */
#include "base/half.h"
#include "kernels/select.h"
#include "kernels/select_rows.h"
#include "kernels/spread.h"
#include "mlx_testing.h"
#include "runtime/prebuilt.h"
#include "zmlx/kernels.h"

enum { A = 3, B = 2, N = 6, K = 2 };

static mlx_array numbers(zm_scope *scope, const int *shape, int n_dims, uint32_t seed) {
    double values[A * B * N];
    fill(values, A * B * N, seed);
    return floats(scope, values, shape, n_dims);
}

static int select_function(mlx_vector_array *results, const mlx_vector_array inputs) {
    mlx_array x = mlx_array_new(), made[2] = {{NULL}, {NULL}};
    int failed = mlx_vector_array_get(&x, inputs, 0) || zmlx_topk_lastdim(&made[0], &made[1], x, K, stream, NULL);
    if (!failed) {
        mlx_vector_array both = mlx_vector_array_new_data(made, 2);
        failed = mlx_vector_array_set(results, both);
        mlx_vector_array_free(both);
    }
    mlx_array_free(x);
    mlx_array_free(made[0]);
    mlx_array_free(made[1]);
    return failed;
}

static void expect_same(zm_scope *scope, mlx_array got, mlx_array wanted) {
    got = zm_contiguous(scope, got);
    wanted = zm_contiguous(scope, wanted);
    assert_false(zm_scope_failed(scope));
    assert_int_equal(mlx_array_eval(got) + mlx_array_eval(wanted), 0);
    assert_int_equal(mlx_array_nbytes(got), mlx_array_nbytes(wanted));
    assert_int_equal(mlx_array_dtype(got), mlx_array_dtype(wanted));
    const void *a = mlx_array_dtype(got) == MLX_FLOAT32 ? (const void *)mlx_array_data_float32(got)
                                                        : mlx_array_data_uint32(got);
    const void *b = mlx_array_dtype(got) == MLX_FLOAT32 ? (const void *)mlx_array_data_float32(wanted)
                                                        : mlx_array_data_uint32(wanted);
    assert_memory_equal(a, b, mlx_array_nbytes(got));
}

static void test_forward_mode(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = numbers(&scope, SHAPE(A, B, N), 1), t = numbers(&scope, SHAPE(A, B, N), 2), values, indices;
    zm_select_topk_sorted(&scope, x, K, &values, &indices);
    mlx_vector_array primals = mlx_vector_array_new_data(&x, 1), given = mlx_vector_array_new_data(&t, 1);
    mlx_vector_array results = mlx_vector_array_new(), tangents = mlx_vector_array_new();
    mlx_closure function = mlx_closure_new_func(select_function);
    assert_int_equal(mlx_jvp(&results, &tangents, function, primals, given), 0);
    expect_same(&scope, take(&scope, results, 0), values);
    expect_same(&scope, take(&scope, tangents, 0), zm_take_along_axis(&scope, t, indices, -1));
    mlx_closure_free(function);
    mlx_vector_array_free(primals);
    mlx_vector_array_free(given);
    mlx_vector_array_free(results);
    mlx_vector_array_free(tangents);
    assert_int_equal(zm_scope_end(&scope, NULL), ZMLX_OK);
}

/* Against the same on the array with its batch in front. */
static void test_batches(void **state) {
    (void)state;
    static const int orders[3][3] = {{0, 1, 2}, {1, 0, 2}, {2, 0, 1}};
    for (int axis = 0; axis < 3; axis++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array x = numbers(&scope, SHAPE(A, B, N), 3), values, indices;
        zm_select_topk_sorted(&scope, zm_transpose(&scope, x, orders[axis], 3), K, &values, &indices);
        mlx_array mapped[2];
        assert_true(map_batch(&scope, mapped, 2, select_function, &x, &axis, 1));
        expect_same(&scope, mapped[0], values);
        expect_same(&scope, mapped[1], indices);
        assert_int_equal(zm_scope_end(&scope, NULL), ZMLX_OK);
    }
}

static int spread_at_zero(mlx_vector_array *results, const mlx_vector_array inputs) {
    mlx_array x = mlx_array_new(), y = {NULL};
    zm_scope scope;
    int failed = mlx_vector_array_get(&x, inputs, 0);
    zm_scope_begin(&scope, stream);
    mlx_array places = zm_zeros(&scope, mlx_array_shape(x), (int)mlx_array_ndim(x), MLX_UINT32);
    zm_scope_keep(&scope, &y, zm_spread(&scope, x, places, 2 * N));
    failed |= zm_scope_end(&scope, NULL) != ZMLX_OK || mlx_vector_array_set_value(results, y);
    mlx_array_free(x);
    mlx_array_free(y);
    return failed;
}

/* A batch of arrays with as many dimensions as a node has at most is refused. */
static void test_many_dimensions(void **state) {
    (void)state;
    array_function *const functions[] = {select_function, spread_at_zero};
    if (stream.ctx != host_stream.ctx) return; /* elsewhere MLX's operations spread */
    for (int i = 0; i < COUNT(functions); i++)
        for (int axis = 0; axis < 2; axis++) {
            zm_scope scope;
            zm_scope_begin(&scope, stream);
            mlx_array x = numbers(&scope, SHAPE(1, B, A, 1, 1, 1, 1, 1, N), 1);
            mlx_array refused[2];
            assert_false(map_batch(&scope, refused, i ? 1 : 2, functions[i], &x, &axis, 1));
            end_well(&scope);
        }
}

/* Row i is i, i + 1, ... modulo 40: the largest 34 of it are known. */
static void test_many_rows(void **state) {
    (void)state;
    enum { ROWS = 65535 + 3, COLUMNS = 40, MANY = 34 };
    float *data = malloc(sizeof *data * ROWS * COLUMNS);
    assert_non_null(data);
    for (int i = 0; i < ROWS * COLUMNS; i++) data[i] = (float)((i / COLUMNS + i % COLUMNS) % COLUMNS);
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array values, indices, x = zm_from_data(&scope, data, (const int[]){ROWS, COLUMNS}, 2, MLX_FLOAT32);
    zm_select_topk_sorted(&scope, x, MANY, &values, &indices);
    indices = zm_contiguous(&scope, indices);
    assert_false(zm_scope_failed(&scope));
    assert_int_equal(mlx_array_eval(indices), 0);
    const uint32_t *places = mlx_array_data_uint32(indices);
    for (int row = 0; row < ROWS; row++)
        for (int i = 0; i < MANY; i++)
            assert_true(data[row * COLUMNS + (int)places[row * MANY + i]] == (float)(COLUMNS - 1 - i));
    assert_int_equal(zm_scope_end(&scope, NULL), ZMLX_OK);
    free(data);
}

/* Larger first, NaN the largest, equal ones by place. */
static const float *compared;
static int compare_places(const void *a, const void *b) {
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    double x = compared[left], y = compared[right];
    bool left_is_nan = isnan(x), right_is_nan = isnan(y);
    if (left_is_nan != right_is_nan) return left_is_nan > right_is_nan ? -1 : 1;
    if (!left_is_nan && x != y) return x > y ? -1 : 1;
    return left < right ? -1 : 1;
}

/* Few and many values, ties, NaN of both signs, infinities, zeros of both signs; halves hold them exactly. */
static float special(int kind, uint32_t word) {
    static const float some[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1, -1, 2};
    switch (kind) {
    case 0: return (float)(int)(word >> 25) - 64;
    case 1: return word >> 29 ? -INFINITY : (float)(word >> 26 & 3);
    case 2: return word >> 31 ? -some[word >> 27 & 7] : some[word >> 27 & 7];
    case 3: return 5;
    default: return word >> 28 ? (float)(int)(word >> 24) : NAN;
    }
}

static void expect_rows(zm_storage storage, int columns, int k, int kind, uint32_t seed) {
    enum { ROWS = 7, MOST = 3000 }; /* some side by side, and one by one */
    static float x[ROWS * MOST];
    static uint16_t halves[ROWS * MOST];
    static uint32_t indices[ROWS * ZM_SELECT_ROWS_MAX], wanted[MOST];
    static float values[ROWS * ZM_SELECT_ROWS_MAX], below[ROWS * ZM_SELECT_ROWS_MAX];
    for (int i = 0; i < ROWS * columns; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = special(kind, seed);
        halves[i] = storage == ZM_STORAGE_FLOAT16 ? zm_float16_from_float(x[i]) : zm_bfloat16_from_float(x[i]);
    }
    bool is_half = storage != ZM_STORAGE_FLOAT32;
    zm_select_rows_task task = {is_half ? (const void *)halves : x, storage, columns, k, values, indices, NULL};
    zm_select_rows(&task, 0, ROWS);
    task.below_largest = below;
    zm_select_rows(&task, 0, ROWS);
    for (int row = 0; row < ROWS; row++) {
        for (int i = 0; i < columns; i++) wanted[i] = (uint32_t)i;
        compared = x + row * columns;
        qsort(wanted, (size_t)columns, sizeof *wanted, compare_places);
        for (int i = 0; i < k; i++) {
            int at = row * k + i, from = row * columns + (int)wanted[i];
            assert_int_equal(indices[at], wanted[i]);
            if (is_half) assert_int_equal(((const uint16_t *)values)[at], halves[from]);
            else assert_memory_equal(&values[at], &x[from], sizeof *x);
            float largest = x[row * columns + (int)wanted[0]];
            float distance = largest == -INFINITY ? largest : x[from] - largest;
            assert_true(below[at] == distance || (isnan(below[at]) && isnan(distance)));
        }
    }
}

/* Each instruction set that this processor has. */
static void test_rows(void **state) {
    (void)state;
    static const int sizes[][2] = {{1, 1},   {7, 3},    {16, 8},   {33, 8},  {64, 1},  {70, 9},
                                   {128, 8}, {129, 16}, {300, 50}, {700, 8}, {700, 64}, {2000, 8}, {3000, 64}};
    static const zm_storage storages[] = {ZM_STORAGE_FLOAT32, ZM_STORAGE_FLOAT16, ZM_STORAGE_BFLOAT16};
    for (int level = 0; level < ZM_PREBUILT_LEVELS; level++) {
        zm_prebuilt_use(NULL, level);
        for (int type = 0; type < COUNT(storages); type++)
            for (int size = 0; size < COUNT(sizes); size++)
                for (int kind = 0; kind < 5; kind++)
                    expect_rows(storages[type], sizes[size][0], sizes[size][1], kind, (uint32_t)(kind + size));
    }
    zm_prebuilt_use(NULL, ZM_PREBUILT_LEVELS - 1);
}

enum { SPREAD = 5 };
static const uint32_t spread_places[A * B * K] = {4, 0, 1, 3, 2, UINT32_MAX, 0, 1, 3, 4, 2, 0}; /* one has no place */

static int spread_function(mlx_vector_array *results, const mlx_vector_array inputs) {
    mlx_array values = {NULL}, places = {NULL}, y = {NULL};
    zm_scope scope;
    int failed = mlx_vector_array_get(&values, inputs, 0);
    zm_scope_begin(&scope, stream);
    if (mlx_vector_array_size(inputs) == 2) failed |= mlx_vector_array_get(&places, inputs, 1);
    mlx_array at = places.ctx ? places : zm_from_data(&scope, spread_places, SHAPE(A, B, K), MLX_UINT32);
    zm_scope_keep(&scope, &y, zm_spread(&scope, values, at, SPREAD));
    failed |= zm_scope_end(&scope, NULL) != ZMLX_OK || mlx_vector_array_set_value(results, y);
    mlx_array_free(values);
    mlx_array_free(places);
    mlx_array_free(y);
    return failed;
}

/* What the gradient of a selection is made of: its values, its own gradient and tangent, and batches. */
static void test_spread(void **state) {
    (void)state;
    if (stream.ctx != host_stream.ctx) skip(); /* elsewhere it is MLX's operation */
    double values[A * B * K], wanted[A * B * SPREAD] = {0}, g[A * B * SPREAD], back[A * B * K];
    fill(values, A * B * K, 1);
    fill(g, A * B * SPREAD, 2);
    for (int i = 0; i < A * B * K; i++) {
        bool has_place = spread_places[i] < SPREAD;
        if (has_place) wanted[i / K * SPREAD + (int)spread_places[i]] = values[i];
        back[i] = has_place ? g[i / K * SPREAD + (int)spread_places[i]] : 0;
    }
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = floats(&scope, values, SHAPE(A, B, K)), cotangent = floats(&scope, g, SHAPE(A, B, SPREAD));
    mlx_vector_array primals = mlx_vector_array_new_value(x), given = mlx_vector_array_new_value(cotangent);
    mlx_vector_array results = mlx_vector_array_new(), made = mlx_vector_array_new();
    mlx_closure function = mlx_closure_new_func(spread_function);
    assert_int_equal(mlx_vjp(&results, &made, function, primals, given), 0);
    expect_values(&scope, take(&scope, results, 0), wanted, A * B * SPREAD, 0);
    expect_values(&scope, take(&scope, made, 0), back, A * B * K, 0);
    assert_int_equal(mlx_jvp(&results, &made, function, primals, primals), 0);
    expect_values(&scope, take(&scope, made, 0), wanted, A * B * SPREAD, 0);
    static const int axes[2] = {1, 0};
    mlx_array in[2] = {zm_swapaxes(&scope, x, 0, 1), zm_from_data(&scope, spread_places, SHAPE(A, B, K), MLX_UINT32)};
    mlx_array mapped;
    assert_true(map_batch(&scope, &mapped, 1, spread_function, in, axes, 2));
    expect_values(&scope, mapped, wanted, A * B * SPREAD, 0);
    mlx_closure_free(function);
    mlx_vector_array_free(primals);
    mlx_vector_array_free(given);
    mlx_vector_array_free(results);
    mlx_vector_array_free(made);
    end_well(&scope);
}

static int gates_function(mlx_vector_array *results, const mlx_vector_array inputs) {
    mlx_array x = mlx_array_new(), made[2] = {{NULL}, {NULL}};
    const zmlx_catalog_value values[] = {{K, 0}, {1, 0}, {1, 0}, {MLX_FLOAT32, 0}};
    int failed = mlx_vector_array_get(&x, inputs, 0) ||
                 zmlx_catalog_apply("topk_gating_softmax", made, (mlx_array[]){x, {NULL}}, 2, values, stream, NULL) ||
                 mlx_vector_array_set_value(results, made[0]);
    mlx_array_free(x);
    mlx_array_free(made[0]);
    mlx_array_free(made[1]);
    return failed;
}

/* In forward mode and in batches: the weights of two are a sigmoid of a difference. */
static void test_gates(void **state) {
    (void)state;
    double x[A * B * N], t[A * B * N], weights[A * B * K], tangents[A * B * K];
    fill(x, A * B * N, 5);
    fill(t, A * B * N, 6);
    for (int row = 0; row < A * B; row++) {
        int first = row * N, second;
        for (int i = row * N; i < row * N + N; i++) first = x[i] > x[first] ? i : first;
        second = first == row * N ? first + 1 : row * N;
        for (int i = row * N; i < row * N + N; i++) second = i != first && x[i] > x[second] ? i : second;
        double w = 1 / (1 + exp(x[second] - x[first])), slope = w * (1 - w) * (t[first] - t[second]);
        weights[row * K] = w, weights[row * K + 1] = 1 - w;
        tangents[row * K] = slope, tangents[row * K + 1] = -slope;
    }
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array primal = floats(&scope, x, SHAPE(A, B, N)), tangent = floats(&scope, t, SHAPE(A, B, N)), mapped;
    mlx_vector_array primals = mlx_vector_array_new_value(primal), given = mlx_vector_array_new_value(tangent);
    mlx_vector_array results = mlx_vector_array_new(), made = mlx_vector_array_new();
    mlx_closure function = mlx_closure_new_func(gates_function);
    assert_int_equal(mlx_jvp(&results, &made, function, primals, given), 0);
    expect_values(&scope, take(&scope, results, 0), weights, A * B * K, 1e-6);
    expect_values(&scope, take(&scope, made, 0), tangents, A * B * K, 1e-5);
    static const int axis = 1;
    mlx_array turned = zm_swapaxes(&scope, primal, 0, 1);
    assert_true(map_batch(&scope, &mapped, 1, gates_function, &turned, &axis, 1));
    expect_values(&scope, mapped, weights, A * B * K, 1e-6);
    mlx_closure_free(function);
    mlx_vector_array_free(primals);
    mlx_vector_array_free(given);
    mlx_vector_array_free(results);
    mlx_vector_array_free(made);
    end_well(&scope);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward_mode),
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_many_dimensions),
        cmocka_unit_test(test_many_rows),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_spread),
        cmocka_unit_test(test_gates),
    };
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
