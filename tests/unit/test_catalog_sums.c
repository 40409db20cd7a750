/* SPDX-License-Identifier: MIT */
/* Gradients that are added up over rows, and halves of rows, differentiated again: by the adjoint identity of the two
 * modes and by finite differences; how halves lie. */
#include "kernels/compose.h"
#include "mlx_testing.h"
#include "runtime/kernel.h"
#include "zmlx/kernels.h"

enum { ROWS = 37, COLUMNS = 48, SIZE = ROWS * COLUMNS };

static mlx_array random_array(uint32_t seed, int rows, int columns) {
    static double values[4 * SIZE];
    static float data[4 * SIZE];
    int count = (rows ? rows : 1) * columns;
    fill(values, count, seed);
    for (int i = 0; i < count; i++) data[i] = (float)values[i];
    return rows ? mlx_array_new_data(data, (const int[]){rows, columns}, 2, MLX_FLOAT32)
                : mlx_array_new_data(data, &columns, 1, MLX_FLOAT32);
}

static double dot(mlx_array a, mlx_array b) {
    double sum = 0;
    assert_int_equal(mlx_array_eval(a) + mlx_array_eval(b), 0);
    assert_int_equal(mlx_array_size(a), mlx_array_size(b));
    for (size_t i = 0; i < mlx_array_size(a); i++)
        sum += (double)mlx_array_data_float32(a)[i] * (double)mlx_array_data_float32(b)[i];
    return sum;
}

/* The gradient that is tested as a function of x: that of the weight, or of both halves. */
typedef struct gradient {
    bool of_weight;
    mlx_array weight, cotangent;
} gradient;

static int forward(mlx_vector_array *results, const mlx_vector_array inputs, void *context) {
    const gradient *self = context;
    mlx_array in[2] = {{NULL}, {NULL}}, y = {NULL};
    int failed = mlx_vector_array_get(&in[0], inputs, 0);
    if (!failed && self->of_weight) failed = mlx_vector_array_get(&in[1], inputs, 1);
    if (!failed)
        failed = (self->of_weight ? zmlx_rmsnorm(&y, in[0], in[1], 1e-3f, stream, NULL)
                                  : zmlx_swiglu(&y, in[0], stream, NULL)) != ZMLX_OK;
    if (!failed) failed = mlx_vector_array_set_value(results, y);
    mlx_array_free(in[0]);
    mlx_array_free(in[1]);
    mlx_array_free(y);
    return failed;
}

static int differentiate(mlx_vector_array *results, const mlx_vector_array inputs, void *context) {
    gradient *self = context;
    mlx_array in[2] = {{NULL}, self->weight}, found = {NULL};
    int failed = mlx_vector_array_get(&in[0], inputs, 0);
    mlx_vector_array primals = mlx_vector_array_new_data(in, self->of_weight ? 2 : 1), values = mlx_vector_array_new(),
                     gradients = mlx_vector_array_new(), cotangents = mlx_vector_array_new_value(self->cotangent);
    mlx_closure function = mlx_closure_new_func_payload(forward, self, NULL);
    if (!failed) failed = mlx_vjp(&values, &gradients, function, primals, cotangents);
    if (!failed)
        failed = mlx_vector_array_get(&found, gradients, self->of_weight ? 1 : 0) ||
                 mlx_vector_array_set_value(results, found);
    mlx_closure_free(function);
    mlx_vector_array_free(primals);
    mlx_vector_array_free(values);
    mlx_vector_array_free(gradients);
    mlx_vector_array_free(cotangents);
    mlx_array_free(in[0]);
    mlx_array_free(found);
    return failed;
}

static mlx_array evaluate(gradient *self, mlx_array x) {
    mlx_array y = {NULL};
    mlx_vector_array inputs = mlx_vector_array_new_value(x), results = mlx_vector_array_new();
    assert_int_equal(differentiate(&results, inputs, self) || mlx_vector_array_get(&y, results, 0) || mlx_array_eval(y),
                     0);
    mlx_vector_array_free(inputs);
    mlx_vector_array_free(results);
    return y;
}

/* x + scale t */
static mlx_array moved(mlx_array x, mlx_array t, double scale) {
    zm_scope scope;
    mlx_array sum = {NULL};
    zm_scope_begin(&scope, stream);
    zm_scope_keep(&scope, &sum, zm_add(&scope, x, zm_multiply(&scope, t, zm_scalar(&scope, scale, MLX_FLOAT32))));
    assert_int_equal(zm_scope_end(&scope, NULL), ZMLX_OK);
    return sum;
}

static void check_second(gradient *self, int columns, int c_rows, int c_columns) {
    mlx_array x = random_array(1, ROWS, columns), t = random_array(2, ROWS, columns),
              c = random_array(3, c_rows, c_columns);
    mlx_array tangent = {NULL}, back = {NULL};
    mlx_vector_array primals = mlx_vector_array_new_value(x), directions = mlx_vector_array_new_value(t),
                     cotangents = mlx_vector_array_new_value(c), values = mlx_vector_array_new(),
                     made = mlx_vector_array_new();
    mlx_closure function = mlx_closure_new_func_payload(differentiate, self, NULL);
    assert_int_equal(mlx_jvp(&values, &made, function, primals, directions) || mlx_vector_array_get(&tangent, made, 0),
                     0);
    assert_int_equal(mlx_vjp(&values, &made, function, primals, cotangents) || mlx_vector_array_get(&back, made, 0), 0);
    double forward_mode = dot(tangent, c), reverse_mode = dot(back, t), h = 1.0 / 256;
    mlx_array up = moved(x, t, h), down = moved(x, t, -h), at_up = evaluate(self, up), at_down = evaluate(self, down);
    double difference = (dot(at_up, c) - dot(at_down, c)) / (2 * h), scale = sqrt(dot(tangent, tangent) * dot(c, c));
    assert_true(scale > 1);
    assert_true(fabs(forward_mode - reverse_mode) < 1e-5 * scale);  /* roundings of float32 */
    assert_true(fabs(forward_mode - difference) < 2e-3 * scale);    /* and h^2 */
    mlx_array all[] = {x, t, c, tangent, back, up, down, at_up, at_down};
    for (int i = 0; i < COUNT(all); i++) mlx_array_free(all[i]);
    mlx_vector_array lists[] = {primals, directions, cotangents, values, made};
    for (int i = 0; i < COUNT(lists); i++) mlx_vector_array_free(lists[i]);
    mlx_closure_free(function);
}

static void test_second_derivatives(void **state) {
    (void)state;
    gradient weight = {true, random_array(4, 0, COLUMNS), random_array(5, ROWS, COLUMNS)};
    gradient halves = {false, none, random_array(6, ROWS, COLUMNS)};
    check_second(&weight, COLUMNS, 0, COLUMNS);
    check_second(&halves, 2 * COLUMNS, ROWS, 2 * COLUMNS);
    mlx_array_free(weight.weight);
    mlx_array_free(weight.cotangent);
    mlx_array_free(halves.cotangent);
}

static int residual_norm(mlx_vector_array *results, const mlx_vector_array inputs, void *context) {
    mlx_array in[2] = {{NULL}, {NULL}}, y = {NULL};
    int failed = mlx_vector_array_get(&in[0], inputs, 0) || mlx_vector_array_get(&in[1], inputs, 1);
    if (!failed)
        failed = zmlx_residual_rmsnorm(&y, in[0], in[1], *(mlx_array *)context, 1e-3f, stream, NULL) != ZMLX_OK;
    if (!failed) failed = mlx_vector_array_set_value(results, y);
    mlx_array_free(in[0]);
    mlx_array_free(in[1]);
    mlx_array_free(y);
    return failed;
}

/* Of x, residual, cotangent: the gradients of x and residual, which are the same. */
static int residual_gradients(mlx_vector_array *results, const mlx_vector_array inputs, void *context) {
    mlx_array in[3] = {{NULL}, {NULL}, {NULL}};
    int failed = 0;
    for (size_t i = 0; i < 3 && !failed; i++) failed = mlx_vector_array_get(&in[i], inputs, i);
    mlx_vector_array primals = mlx_vector_array_new_data(in, 2), cotangents = mlx_vector_array_new_value(in[2]),
                     values = mlx_vector_array_new();
    mlx_closure function = mlx_closure_new_func_payload(residual_norm, context, NULL);
    if (!failed) failed = mlx_vjp(&values, results, function, primals, cotangents);
    mlx_closure_free(function);
    mlx_vector_array_free(primals);
    mlx_vector_array_free(cotangents);
    mlx_vector_array_free(values);
    for (int i = 0; i < 3; i++) mlx_array_free(in[i]);
    return failed;
}

/* What comes back from cotangents c of both gradients is what comes back from 2 c of the first. */
static void test_shared_gradient(void **state) {
    (void)state;
    mlx_array weight = random_array(1, 0, COLUMNS), in[3], back[2] = {{NULL}, {NULL}};
    for (int i = 0; i < 3; i++) in[i] = random_array(2u + (uint32_t)i, ROWS, COLUMNS);
    mlx_array c = random_array(5, ROWS, COLUMNS), zero = moved(c, c, -1), twice = moved(c, c, 1);
    mlx_vector_array primals = mlx_vector_array_new_data(in, 3), values = mlx_vector_array_new(),
                     made = mlx_vector_array_new();
    mlx_closure function = mlx_closure_new_func_payload(residual_gradients, &weight, NULL);
    for (int i = 0; i < 2; i++) {
        mlx_vector_array cotangents = mlx_vector_array_new_data((mlx_array[]){i ? twice : c, i ? zero : c}, 2);
        assert_int_equal(mlx_vjp(&values, &made, function, primals, cotangents) ||
                             mlx_vector_array_get(&back[i], made, 0),
                         0);
        mlx_vector_array_free(cotangents);
    }
    mlx_array rest = moved(back[0], back[1], -1);
    assert_true(dot(back[1], back[1]) > 1);
    assert_true(dot(rest, rest) < 1e-10 * dot(back[1], back[1])); /* roundings of float32 */
    mlx_array all[] = {weight, in[0], in[1], in[2], c, zero, twice, back[0], back[1], rest};
    for (int i = 0; i < COUNT(all); i++) mlx_array_free(all[i]);
    mlx_vector_array lists[] = {primals, values, made};
    for (int i = 0; i < COUNT(lists); i++) mlx_vector_array_free(lists[i]);
    mlx_closure_free(function);
}

/* Second halves of rows that are no multiple of 16 bytes begin between two vectors: a GPU's wide accesses would
 * fault. */
static void test_alignment_of_halves(void **state) {
    (void)state;
    zmlx_kernel *kernel;
    const zm_variant variant = {.storages = {ZM_STORAGE_FLOAT32, ZM_STORAGE_FLOAT32, ZM_STORAGE_FLOAT32}};
    assert_int_equal(zm_catalog_kernel(&kernel, zm_catalog_lookup("swiglu2"), NULL), ZMLX_OK);
    for (int columns = 1; columns <= 8; columns++) {
        zm_application forward = {.kernel = kernel, .variant = &variant, .extent = {.rows = 1, .columns = columns}};
        zm_application joined = forward, whole = forward;
        forward.extent.layouts[1] = ZM_LAYOUT_COLUMN | ZM_LAYOUT_HALF | ZM_LAYOUT_SECOND;
        joined.joins_outputs = true;
        zm_view inputs[2] = {{.offset = 32}, {.offset = 0}};
        assert_int_equal(zm_application_is_aligned(&forward, inputs, 2), columns % 4 == 0);
        assert_int_equal(zm_application_is_aligned(&joined, inputs, 2), columns % 4 == 0);
        assert_true(zm_application_is_aligned(&whole, inputs, 2));
        inputs[0].offset = 4;
        assert_false(zm_application_is_aligned(&whole, inputs, 2));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_second_derivatives),
        cmocka_unit_test(test_shared_gradient),
        cmocka_unit_test(test_alignment_of_halves),
    };
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
