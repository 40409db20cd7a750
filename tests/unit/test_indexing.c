/* SPDX-License-Identifier: MIT */
/* Rows by index: forward mode and batches of gather-add and scatter-add, and sums of many or few updates a row, against
 * loops. */
#include "mlx_testing.h"
#include "zmlx/kernels.h"

enum { B = 3, ROWS = 4, UPDATES = 5, COLUMNS = 40 };
static zmlx_error failure;
#define OK(call)                                                      \
    do {                                                              \
        if (call) fail_msg("%s: %s", failure.where, failure.message); \
    } while (0)

/* Forward mode: indices are no argument there. */
static mlx_array held;
static int add_held(mlx_vector_array *results, const mlx_vector_array inputs) {
    mlx_array src = {NULL}, other = {NULL}, y = {NULL};
    int failed = mlx_vector_array_get(&src, inputs, 0) || mlx_vector_array_get(&other, inputs, 1) ||
                 zmlx_fused_gather_add(&y, src, held, other, stream, &failure) ||
                 mlx_vector_array_set_value(results, y);
    mlx_array_free(src);
    mlx_array_free(other);
    mlx_array_free(y);
    return failed;
}
static int sum_held(mlx_vector_array *results, const mlx_vector_array inputs) {
    mlx_array updates = {NULL}, y = {NULL};
    int failed = mlx_vector_array_get(&updates, inputs, 0) ||
                 zmlx_fused_scatter_add(&y, held, updates, ROWS, MLX_FLOAT32, stream, &failure) ||
                 mlx_vector_array_set_value(results, y);
    mlx_array_free(updates);
    mlx_array_free(y);
    return failed;
}

static int add_function(mlx_vector_array *results, const mlx_vector_array inputs) {
    mlx_array in[3] = {{NULL}, {NULL}, {NULL}}, y = {NULL};
    int failed = 0;
    for (size_t i = 0; i < 3; i++) failed |= mlx_vector_array_get(&in[i], inputs, i);
    failed = failed || zmlx_fused_gather_add(&y, in[0], in[1], in[2], stream, &failure) ||
             mlx_vector_array_set_value(results, y);
    for (int i = 0; i < 3; i++) mlx_array_free(in[i]);
    mlx_array_free(y);
    return failed;
}

static int sum_function(mlx_vector_array *results, const mlx_vector_array inputs) {
    mlx_array index = {NULL}, updates = {NULL}, y = {NULL};
    int failed = mlx_vector_array_get(&index, inputs, 0) || mlx_vector_array_get(&updates, inputs, 1) ||
                 zmlx_fused_scatter_add(&y, index, updates, ROWS, MLX_FLOAT32, stream, &failure) ||
                 mlx_vector_array_set_value(results, y);
    mlx_array_free(index);
    mlx_array_free(updates);
    mlx_array_free(y);
    return failed;
}

/* Three batches; -1 and 4 are out of range. */
static const int32_t places[B * UPDATES] = {0, 3, 3, -1, 2, 1, 1, 1, 4, 1, 2, 0, 0, 3, -1};

/* One batch of sums: result[ROWS * COLUMNS]. */
static void add_up(double *result, const int32_t *at, const double *updates) {
    memset(result, 0, ROWS * COLUMNS * sizeof *result);
    for (int i = 0; i < UPDATES * COLUMNS; i++)
        if (at[i / COLUMNS] >= 0 && at[i / COLUMNS] < ROWS)
            result[at[i / COLUMNS] * COLUMNS + i % COLUMNS] += updates[i];
}

static mlx_array numbers(zm_scope *scope, const double *values, const int *shape, int n_dims) {
    float data[B * UPDATES * COLUMNS];
    int size = 1;
    for (int i = 0; i < n_dims; i++) size *= shape[i];
    for (int i = 0; i < size; i++) data[i] = (float)values[i];
    return zm_from_data(scope, data, shape, n_dims, MLX_FLOAT32);
}

static void test_forward_mode(void **state) {
    (void)state;
    double src[ROWS * COLUMNS], t[UPDATES * COLUMNS], wanted[UPDATES * COLUMNS];
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    fill(src, ROWS * COLUMNS, 1);
    fill(t, UPDATES * COLUMNS, 2);
    static const int32_t inside[UPDATES] = {0, 3, 3, 1, 2};
    held = zm_from_data(&scope, inside, SHAPE(UPDATES), MLX_INT32);
    mlx_array in[2] = {numbers(&scope, src, SHAPE(ROWS, COLUMNS)), numbers(&scope, t, SHAPE(UPDATES, COLUMNS))};
    for (int i = 0; i < UPDATES * COLUMNS; i++) wanted[i] = src[inside[i / COLUMNS] * COLUMNS + i % COLUMNS] + t[i];
    for (int sums = 0; sums < 2; sums++) {
        mlx_vector_array primals = mlx_vector_array_new_data(in + sums, (size_t)(2 - sums));
        mlx_vector_array tangents = mlx_vector_array_new_data(in + sums, (size_t)(2 - sums));
        mlx_vector_array results = mlx_vector_array_new(), made = mlx_vector_array_new();
        mlx_closure function = mlx_closure_new_func(sums ? sum_held : add_held);
        if (mlx_jvp(&results, &made, function, primals, tangents)) {
            zm_mlx_fail(&failure, "jvp");
            fail_msg("%s", failure.message);
        }
        if (sums) add_up(wanted, inside, t);
        expect_values(&scope, take(&scope, made, 0), wanted, (sums ? ROWS : UPDATES) * COLUMNS, 1e-6);
        mlx_closure_free(function);
        mlx_vector_array_free(primals);
        mlx_vector_array_free(tangents);
        mlx_vector_array_free(results);
        mlx_vector_array_free(made);
    }
    end_well(&scope);
}

/* The array with its first dimension at axis; without it, its first row. */
static mlx_array place_batch(zm_scope *scope, mlx_array a, int axis) {
    int n_dims = (int)mlx_array_ndim(a), order[3], n = 0;
    if (axis < 0) return zm_squeeze(scope, zm_slice_axis(scope, a, 0, 0, 1, 1), 0);
    for (int i = 1; i < n_dims; i++) {
        if (i - 1 == axis) order[n++] = 0;
        order[n++] = i;
    }
    if (n < n_dims) order[n++] = 0;
    return zm_transpose(scope, a, order, n_dims);
}

static mlx_array map_placed(zm_scope *scope, array_function *what, const mlx_array *in, int n, const int *axes) {
    mlx_array placed[3];
    for (int i = 0; i < n; i++) placed[i] = place_batch(scope, in[i], axes[i]);
    assert_false(zm_scope_failed(scope));
    mlx_array made;
    assert_true(map_batch(scope, &made, 1, what, placed, axes, n));
    return made;
}

static void test_batches_of_sums(void **state) {
    (void)state;
    double updates[B * UPDATES * COLUMNS], wanted[B * ROWS * COLUMNS];
    fill(updates, B * UPDATES * COLUMNS, 3);
    for (int i = -1; i < 2; i++)
        for (int j = -1; j < 3; j++) {
            if (i < 0 && j < 0) continue;
            zm_scope scope;
            zm_scope_begin(&scope, stream);
            mlx_array in[2] = {zm_from_data(&scope, places, SHAPE(B, UPDATES), MLX_INT32),
                               numbers(&scope, updates, SHAPE(B, UPDATES, COLUMNS))};
            for (int b = 0; b < B; b++)
                add_up(wanted + b * ROWS * COLUMNS, places + (i < 0 ? 0 : b * UPDATES),
                       updates + (j < 0 ? 0 : b * UPDATES * COLUMNS));
            mlx_array sums = map_placed(&scope, sum_function, in, 2, (const int[]){i, j});
            expect_shape(sums, SHAPE(B, ROWS, COLUMNS));
            expect_values(&scope, sums, wanted, B * ROWS * COLUMNS, 1e-6);
            end_well(&scope);
        }
}

static void test_batches_of_gathers(void **state) {
    (void)state;
    double src[B * ROWS * COLUMNS], other[B * UPDATES * COLUMNS], wanted[B * UPDATES * COLUMNS];
    int32_t at[B * UPDATES];
    fill(src, B * ROWS * COLUMNS, 4);
    fill(other, B * UPDATES * COLUMNS, 5);
    for (int i = 0; i < B * UPDATES; i++) at[i] = places[i] < 0 || places[i] >= ROWS ? 1 : places[i];
    for (int kind = 1; kind < 8; kind++) {
        const int axes[3] = {kind & 1 ? 1 : -1, kind & 2 ? 0 : -1, kind & 4 ? 2 : -1};
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array in[3] = {numbers(&scope, src, SHAPE(B, ROWS, COLUMNS)),
                           zm_from_data(&scope, at, SHAPE(B, UPDATES), MLX_INT32),
                           numbers(&scope, other, SHAPE(B, UPDATES, COLUMNS))};
        for (int i = 0; i < B * UPDATES * COLUMNS; i++) {
            int b = i / (UPDATES * COLUMNS), update = i / COLUMNS % UPDATES, column = i % COLUMNS;
            int row = at[axes[1] < 0 ? update : b * UPDATES + update];
            wanted[i] = src[((axes[0] < 0 ? 0 : b) * ROWS + row) * COLUMNS + column] +
                        other[((axes[2] < 0 ? 0 : b) * UPDATES + update) * COLUMNS + column];
        }
        mlx_array y = map_placed(&scope, add_function, in, 3, axes);
        expect_shape(y, SHAPE(B, UPDATES, COLUMNS));
        expect_values(&scope, y, wanted, B * UPDATES * COLUMNS, 1e-6);
        end_well(&scope);
    }
}

/* Short and long rows, so that one thread or several add up a row; one row with nearly all updates, or each with some.
 */
static void test_many_updates(void **state) {
    (void)state;
    static const int columns[] = {3, 40, 2100};
    enum { MANY = 300, N = 7 };
    for (int c = 0; c < COUNT(columns); c++)
        for (int is_uneven = 0; is_uneven < 2; is_uneven++) {
            zm_scope scope;
            zm_scope_begin(&scope, stream);
            int width = columns[c];
            float *updates = malloc((size_t)(MANY * width) * sizeof *updates);
            double *wanted = calloc((size_t)(N * width), sizeof *wanted);
            uint32_t at[MANY];
            for (int i = 0; i < MANY; i++)
                at[i] = (uint32_t)(is_uneven && i % 50 ? 2 : i % (N + 1)); /* N is out of range */
            for (int i = 0; i < MANY * width; i++) {
                updates[i] = (float)(i % 101) / 64 - 1;
                if (at[i / width] < N) wanted[(int)at[i / width] * width + i % width] += (double)updates[i];
            }
            mlx_array y = {NULL}, index = zm_from_data(&scope, at, SHAPE(MANY), MLX_UINT32);
            OK(zmlx_fused_scatter_add(&y, index, zm_from_data(&scope, updates, SHAPE(MANY, width), MLX_FLOAT32), N,
                                      MLX_FLOAT32, stream, &failure));
            expect_values(&scope, y, wanted, N * width, 0); /* sums of small multiples of 1/64 are exact */
            mlx_array_free(y);
            free(updates);
            free(wanted);
            end_well(&scope);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward_mode),
        cmocka_unit_test(test_batches_of_sums),
        cmocka_unit_test(test_batches_of_gathers),
        cmocka_unit_test(test_many_updates),
    };
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
