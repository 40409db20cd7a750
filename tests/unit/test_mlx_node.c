/* SPDX-License-Identifier: MIT */
/* The graph node under every way MLX evaluates and transforms, and streams from several threads. */
#include "mlx_testing.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

typedef struct axpy_state {
    float factor;
    int delay_ms;
} axpy_state;

static atomic_int n_states, n_evaluations;

static axpy_state *new_state(float factor, int delay_ms) {
    axpy_state *state = malloc(sizeof *state);
    assert_non_null(state);
    *state = (axpy_state){factor, delay_ms};
    n_states++;
    return state;
}

static void free_state(void *state) {
    n_states--;
    free(state);
}

/* outputs[0] = factor * x + y; a second output, where there is one, is x - y. */
static void axpy(const void *state_, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    const axpy_state *state = state_;
    const float *x = inputs[0].data, *y = inputs[n_inputs - 1].data;
    if (state->delay_ms) nanosleep(&(struct timespec){0, state->delay_ms * 1000000L}, NULL);
    for (size_t i = 0; i < outputs[0].size; i++) ((float *)outputs[0].data)[i] = state->factor * x[i] + y[i];
    for (size_t i = 0; n_outputs > 1 && i < outputs[1].size; i++) ((float *)outputs[1].data)[i] = x[i] - y[i];
    n_evaluations++;
}

static bool equal_states(const void *a, const void *b) {
    return ((const axpy_state *)a)->factor == ((const axpy_state *)b)->factor;
}

/* d(factor * x + y): factor * cotangent for x, cotangent for y. */
static zmlx_status axpy_vjp(const void *state_, mlx_array *gradients, const int *argument_numbers,
                            int n_arguments, const mlx_array *primals, int n_primals,
                            const mlx_array *cotangents, const mlx_array *results, int n_results,
                            mlx_stream on, zmlx_error *error) {
    const axpy_state *state = state_;
    assert_int_equal(n_primals, 2);
    assert_int_equal(n_results, 1);
    assert_int_equal(zm_dim(results[0], -1), zm_dim(primals[0], -1));
    zm_scope scope;
    zm_scope_begin(&scope, on);
    for (int i = 0; i < n_arguments; i++) {
        mlx_array factor = zm_scalar(&scope, argument_numbers[i] ? 1 : (double)state->factor, MLX_FLOAT32);
        zm_scope_keep(&scope, &gradients[i], zm_multiply(&scope, factor, cotangents[0]));
    }
    return zm_scope_end(&scope, error);
}

static zmlx_status failing_vjp(const void *state, mlx_array *gradients, const int *argument_numbers,
                               int n_arguments, const mlx_array *primals, int n_primals,
                               const mlx_array *cotangents, const mlx_array *results, int n_results,
                               mlx_stream on, zmlx_error *error) {
    (void)state, (void)argument_numbers, (void)n_arguments, (void)n_primals, (void)cotangents, (void)results;
    (void)n_results, (void)on;
    gradients[0] = mlx_array_new();
    mlx_array_set(&gradients[0], primals[0]);
    return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, NULL, "no gradient for %s", "%s%n");
}

static const zm_node_class axpy_class = {.name = "test.axpy", .evaluate_cpu = axpy, .vjp = axpy_vjp,
                                         .equal = equal_states, .free_state = free_state};
static const zm_node_class plain_class = {.name = "test.plain", .evaluate_cpu = axpy, .free_state = free_state};
static const zm_node_class failing_class = {.name = "test.failing", .evaluate_cpu = axpy, .vjp = failing_vjp,
                                            .free_state = free_state};
static const zm_node_class gpu_only_class = {.name = "test.gpu_only", .free_state = free_state};

static zm_node_output like(mlx_array a) {
    zm_node_output spec = {.n_dims = (int)mlx_array_ndim(a), .dtype = mlx_array_dtype(a)};
    for (int i = 0; i < spec.n_dims; i++) spec.shape[i] = zm_dim(a, i);
    return spec;
}

static mlx_array apply(zm_scope *scope, const zm_node_class *node_class, axpy_state *state, mlx_array x,
                       mlx_array y) {
    zm_node_output spec = like(x);
    return zm_node(scope, &spec, node_class, state, (const mlx_array[]){x, y}, 2);
}

static const double x_values[] = {1, 2, 3, 4, 5, 6}, y_values[] = {10, 20, 30, 40, 50, 60};

static void test_evaluates(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = floats(&scope, x_values, SHAPE(2, 3)), y = floats(&scope, y_values, SHAPE(2, 3));
    mlx_array z = apply(&scope, &axpy_class, new_state(2, 0), zm_add(&scope, x, x), y);
    expect_values(&scope, zm_negative(&scope, z), VALUES(-14, -28, -42, -56, -70, -84), 0);
    end_well(&scope);
    assert_int_equal(n_states, 0);
}

/* A transposed and a broadcast input reach the function in row order, evaluated before or not. */
static void test_strided_inputs(void **state) {
    (void)state;
    for (int evaluated = 0; evaluated < 2; evaluated++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array x = zm_swapaxes(&scope, floats(&scope, x_values, SHAPE(2, 3)), 0, 1), y = {NULL};
        mlx_array row = floats(&scope, y_values, SHAPE(2));
        row = apply(&scope, &axpy_class, new_state(1, 20), row, row); /* slow: all copies wait for it */
        assert_int_equal(mlx_broadcast_to(&y, row, SHAPE(3, 2), stream), 0);
        zm_scope_own(&scope, y);
        if (evaluated) assert_int_equal(mlx_array_eval(x) || mlx_array_eval(y), 0);
        mlx_array z = apply(&scope, &axpy_class, new_state(2, 0), x, y);
        expect_values(&scope, z, VALUES(22, 48, 24, 50, 26, 52), 0);
        expect_values(&scope, x, VALUES(1, 4, 2, 5, 3, 6), 0);
        end_well(&scope);
    }
    assert_int_equal(n_states, 0);
}

static void test_many_outputs(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = floats(&scope, x_values, SHAPE(6)), y = floats(&scope, y_values, SHAPE(6)), z[2];
    zm_node_output specs[2] = {like(x), like(x)};
    for (int kept = 0; kept < 3; kept++) {
        const mlx_array in[] = {x, y};
        assert_int_equal(zm_node_apply(z, specs, 2, &axpy_class, new_state(1, 0), in, 2, stream, NULL), 0);
        if (kept == 0) mlx_array_free(z[0]);
        if (kept == 1) mlx_array_free(z[1]);
        if (kept != 0) zm_scope_own(&scope, z[0]);
        if (kept != 1) zm_scope_own(&scope, z[1]);
        if (kept != 0) expect_values(&scope, z[0], VALUES(11, 22, 33, 44, 55, 66), 0);
        if (kept != 1) expect_values(&scope, z[1], VALUES(-9, -18, -27, -36, -45, -54), 0);
    }
    end_well(&scope);
    assert_int_equal(n_states, 0);
}

static void test_no_elements(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = zm_zeros(&scope, SHAPE(0, 3), MLX_FLOAT32);
    mlx_array z = apply(&scope, &axpy_class, new_state(2, 0), x, zm_transpose(&scope, x, SHAPE(0, 1)));
    expect_shape(z, SHAPE(0, 3));
    expect_values(&scope, z, NULL, 0, 0);
    mlx_array scalar = zm_scalar(&scope, 3, MLX_FLOAT32);
    expect_values(&scope, apply(&scope, &axpy_class, new_state(2, 0), scalar, scalar), VALUES(9), 0);
    end_well(&scope);
}

/* The arrays and the scope are gone before the slow node before it has run. */
static void test_async_and_dropped(void **state) {
    (void)state;
    int before = n_evaluations;
    for (int round = 0; round < 3; round++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array x = floats(&scope, x_values, SHAPE(6)), y = floats(&scope, y_values, SHAPE(6));
        mlx_array slow = apply(&scope, &axpy_class, new_state(2, 20), x, y);
        mlx_array last = apply(&scope, &axpy_class, new_state(3, 0), slow, y);
        mlx_vector_array outputs = mlx_vector_array_new_value(last);
        assert_int_equal(mlx_async_eval(outputs), 0);
        mlx_vector_array_free(outputs);
        if (round) expect_values(&scope, last, VALUES(46, 92, 138, 184, 230, 276), 0);
        end_well(&scope);
    }
    assert_int_equal(mlx_synchronize(stream), 0);
    assert_int_equal(n_evaluations - before, 6);
    assert_int_equal(n_states, 0);
}

static void test_two_streams(void **state) {
    (void)state;
    mlx_stream other;
    assert_int_equal(zm_stream_new(&other, MLX_CPU, NULL), ZMLX_OK);
    assert_false(mlx_stream_equal(stream, other));
    zm_scope here, there;
    zm_scope_begin(&here, stream);
    zm_scope_begin(&there, other);
    mlx_array x = floats(&here, x_values, SHAPE(6)), y = floats(&here, y_values, SHAPE(6));
    mlx_array z = x;
    for (int i = 0; i < 20; i++) z = apply(i % 2 ? &here : &there, &axpy_class, new_state(1, i % 3), z, y);
    expect_values(&here, z, VALUES(201, 402, 603, 804, 1005, 1206), 0);
    end_well(&there);
    end_well(&here);
    zm_stream_free(other);
    assert_int_equal(n_states, 0);
}

typedef struct thread_job {
    mlx_stream stream;
    mlx_array input, output; /* output: a lazy array of another thread */
    int status;
} thread_job;

static void *evaluate_elsewhere(void *job_) {
    thread_job *job = job_;
    zm_scope scope;
    zm_scope_begin(&scope, job->stream);
    mlx_array more = job->input;
    for (int i = 0; i < 50; i++) {
        more = apply(&scope, &axpy_class, new_state(1, 0), more, job->input);
        if (i % 10 == 9 && mlx_array_eval(more)) job->status = 1;
    }
    zm_scope_keep(&scope, &job->output, zm_add(&scope, more, more));
    if (zm_scope_end(&scope, NULL)) job->status = 1;
    return NULL;
}

/* Built and partly evaluated in one thread, evaluated in another; two threads at once. */
static void test_other_threads(void **state) {
    (void)state;
    thread_job jobs[2] = {{.status = 0}, {.status = 0}};
    pthread_t threads[2];
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(zm_stream_new(&jobs[i].stream, MLX_CPU, NULL), ZMLX_OK);
        jobs[i].input = floats(&scope, x_values + i, SHAPE(3));
        assert_int_equal(mlx_array_eval(jobs[i].input), 0);
    }
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, evaluate_elsewhere, &jobs[i]);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    expect_values(&scope, jobs[0].output, VALUES(102, 204, 306), 0);
    expect_values(&scope, jobs[1].output, VALUES(204, 306, 408), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(jobs[i].status, 0);
        mlx_array_free(jobs[i].output);
        zm_stream_free(jobs[i].stream);
    }
    end_well(&scope);
    assert_int_equal(n_states, 0);
}

static void test_streams_are_pooled(void **state) {
    (void)state;
    int first = 0, index = 0;
    for (int i = 0; i < 3 * ZM_MAX_CPU_STREAMS; i++) {
        mlx_stream one;
        assert_int_equal(zm_stream_new(&one, MLX_CPU, NULL), ZMLX_OK);
        assert_int_equal(mlx_stream_get_index(i ? &index : &first, one), 0);
        if (i) assert_int_equal(index, first);
        zm_stream_free(one);
    }
    mlx_stream all[ZM_MAX_CPU_STREAMS];
    zmlx_error error = {0};
    int n = 0;
    while (n < ZM_MAX_CPU_STREAMS && !zm_stream_new(&all[n], MLX_CPU, &error)) n++;
    assert_int_equal(n, ZM_MAX_CPU_STREAMS - 1); /* the tests' own is in use */
    assert_string_equal(error.message, "too many streams in use: 16");
    while (n) zm_stream_free(all[--n]);
    zm_stream_free((mlx_stream){NULL});
}

typedef struct node_function {
    const zm_node_class *node_class;
    float factor;
} node_function;

/* sum(factor * x + y) as a function of x and y. */
static int call_node(mlx_vector_array *result, const mlx_vector_array arguments, void *payload) {
    const node_function *function = payload;
    mlx_array x = {NULL}, y = {NULL};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_vector_array_get(&x, arguments, 0);
    mlx_vector_array_get(&y, arguments, 1);
    zm_scope_own(&scope, x);
    zm_scope_own(&scope, y);
    mlx_array z = apply(&scope, function->node_class, new_state(function->factor, 0), x, y);
    mlx_array sum = zm_sum(&scope, z, 0, false);
    int status = mlx_vector_array_set_value(result, sum);
    return zm_scope_end(&scope, NULL) || status;
}

static mlx_closure closure_of(node_function *function) {
    return mlx_closure_new_func_payload(call_node, function, NULL);
}

static mlx_vector_array arguments(zm_scope *scope) {
    mlx_array values[2] = {floats(scope, x_values, SHAPE(6)), floats(scope, y_values, SHAPE(6))};
    return mlx_vector_array_new_data(values, 2);
}

static mlx_array result_of(zm_scope *scope, mlx_vector_array results, size_t i) {
    mlx_array result = {NULL};
    assert_int_equal(mlx_vector_array_get(&result, results, i), 0);
    return zm_scope_own(scope, result);
}

static void test_gradient(void **state) {
    (void)state;
    node_function function = {&axpy_class, 3};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_closure closure = closure_of(&function);
    mlx_vector_array primals = arguments(&scope), values = mlx_vector_array_new();
    mlx_vector_array gradients = mlx_vector_array_new();
    mlx_vector_array cotangents = mlx_vector_array_new_value(zm_scalar(&scope, 2, MLX_FLOAT32));
    assert_int_equal(mlx_vjp(&values, &gradients, closure, primals, cotangents), 0);
    expect_values(&scope, result_of(&scope, values, 0), VALUES(273), 0);
    expect_values(&scope, result_of(&scope, gradients, 0), VALUES(6, 6, 6, 6, 6, 6), 0);
    expect_values(&scope, result_of(&scope, gradients, 1), VALUES(2, 2, 2, 2, 2, 2), 0);
    mlx_closure_value_and_grad both = mlx_closure_value_and_grad_new();
    assert_int_equal(mlx_value_and_grad(&both, closure, (const int[]){1}, 1), 0);
    assert_int_equal(mlx_closure_value_and_grad_apply(&values, &gradients, both, primals), 0);
    assert_int_equal(mlx_vector_array_size(gradients), 1);
    expect_values(&scope, result_of(&scope, gradients, 0), VALUES(1, 1, 1, 1, 1, 1), 0);
    mlx_closure_value_and_grad_free(both);
    mlx_vector_array_free(primals);
    mlx_vector_array_free(values);
    mlx_vector_array_free(gradients);
    mlx_vector_array_free(cotangents);
    mlx_closure_free(closure);
    end_well(&scope);
    assert_int_equal(n_states, 0);
}

static int fail_with_result(mlx_vector_array *result, const mlx_vector_array inputs) {
    mlx_vector_array_set(result, inputs);
    return 7;
}

static void test_closure_that_fails(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_closure closure = mlx_closure_new_func(fail_with_result);
    mlx_vector_array inputs = arguments(&scope), results = mlx_vector_array_new();
    zmlx_error error = {0};
    assert_int_equal(mlx_closure_apply(&results, closure, inputs), 1);
    assert_int_equal(mlx_vector_array_size(results), 0);
    zm_mlx_fail(&error, NULL);
    assert_string_equal(error.message, "a closure returned a non-zero value");
    mlx_vector_array_free(inputs);
    mlx_vector_array_free(results);
    mlx_closure_free(closure);
    end_well(&scope);
}

/* Under compile the graph is traced once and its node replayed. */
static void test_compile(void **state) {
    (void)state;
    node_function function = {&axpy_class, 3};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_closure closure = closure_of(&function), compiled = mlx_closure_new();
    assert_int_equal(mlx_compile(&compiled, closure, false), 0);
    for (int i = 0; i < 3; i++) {
        mlx_vector_array inputs = arguments(&scope), results = mlx_vector_array_new();
        assert_int_equal(mlx_closure_apply(&results, compiled, inputs), 0);
        expect_values(&scope, result_of(&scope, results, 0), VALUES(273), 0);
        mlx_vector_array_free(inputs);
        mlx_vector_array_free(results);
    }
    mlx_closure_free(compiled);
    mlx_closure_free(closure);
    end_well(&scope);
    assert_int_equal(n_states, 0);
}

typedef enum transformation { VJP, JVP, VMAP } transformation;

static int transform(transformation what, mlx_closure closure, mlx_vector_array inputs,
                     mlx_vector_array ones) {
    mlx_vector_array a = mlx_vector_array_new(), b = mlx_vector_array_new(), c = mlx_vector_array_new();
    int status;
    if (what == VJP) {
        status = mlx_vjp(&a, &b, closure, inputs, ones);
    } else if (what == JVP) {
        status = mlx_jvp(&a, &b, closure, inputs, inputs);
    } else {
        status = mlx_detail_vmap_trace(&a, &b, closure, inputs, (const int[]){0, 0}, 2) ||
                 mlx_detail_vmap_replace(&c, inputs, a, b, (const int[]){0, 0}, 2, (const int[]){0}, 1);
    }
    mlx_vector_array_free(a);
    mlx_vector_array_free(b);
    mlx_vector_array_free(c);
    return status;
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const zm_node_class *node_class;
        transformation what;
        const char *message;
    } rows[] = {
        {&plain_class, VJP, "test.plain does not support vjp"},
        {&plain_class, JVP, "test.plain does not support jvp"},
        {&plain_class, VMAP, "test.plain does not support vmap"},
        {&failing_class, VJP, "test.failing: vjp failed: no gradient for %s%n"},
    };
    for (int k = 0; k < COUNT(rows); k++) {
        node_function function = {rows[k].node_class, 1};
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_closure closure = closure_of(&function);
        mlx_array rows_of[2] = {floats(&scope, x_values, SHAPE(2, 3)), floats(&scope, y_values, SHAPE(2, 3))};
        bool by_rows = rows[k].what == VMAP;
        mlx_vector_array inputs = by_rows ? mlx_vector_array_new_data(rows_of, 2) : arguments(&scope);
        mlx_vector_array ones = mlx_vector_array_new_value(zm_scalar(&scope, 1, MLX_FLOAT32));
        zmlx_error error = {0};
        assert_int_equal(transform(rows[k].what, closure, inputs, ones), 1);
        zm_mlx_fail(&error, NULL);
        assert_string_equal(error.message, rows[k].message);
        mlx_vector_array_free(inputs);
        mlx_vector_array_free(ones);
        mlx_closure_free(closure);
        end_well(&scope);
    }
    assert_int_equal(n_states, 0);
}

/* A function that the class lacks is refused when MLX evaluates, and the stream stays usable. */
static void test_no_cpu_function(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = floats(&scope, x_values, SHAPE(6));
    mlx_array z = apply(&scope, &gpu_only_class, new_state(1, 0), x, x);
    zmlx_error error = {0};
    assert_int_equal(mlx_array_eval(z), 1);
    zm_mlx_fail(&error, NULL);
    assert_string_equal(error.message, "test.gpu_only does not support evaluation on the CPU");
    expect_values(&scope, zm_add(&scope, x, x), VALUES(2, 4, 6, 8, 10, 12), 0);
    end_well(&scope);
    assert_int_equal(n_states, 0);
}

/* The node takes its state over also where it cannot be made. */
static void test_wrong_arguments(void **state) {
    (void)state;
    zm_node_output good = {.shape = {3}, .n_dims = 1, .dtype = MLX_FLOAT32}, spec = good;
    mlx_array output, input = mlx_array_new_float32(1);
    mlx_array empty = {NULL};
    zmlx_error error = {0};
    for (int k = 0; k < 5; k++) {
        spec = good;
        if (k == 0) spec.shape[0] = -1;
        if (k == 1) spec.n_dims = ZM_NODE_MAX_DIMS + 1;
        if (k == 2) spec.dtype = (mlx_dtype)(MLX_COMPLEX64 + 1);
        const mlx_array *inputs = k == 3 ? &empty : &input;
        mlx_stream on = k == 4 ? (mlx_stream){NULL} : stream;
        output = input;
        assert_int_equal(
            zm_node_apply(&output, &spec, 1, &axpy_class, new_state(1, 0), inputs, 1, on, &error),
            ZMLX_ERROR_MLX);
        assert_false(zm_is_set(output));
        assert_string_equal(error.where, "test.axpy");
    }
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    zm_scope_fail(&scope, ZMLX_ERROR_ARGUMENT, NULL, "first");
    assert_false(zm_is_set(zm_node(&scope, &good, &axpy_class, new_state(1, 0), &input, 1)));
    assert_int_equal(zm_scope_end(&scope, NULL), ZMLX_ERROR_ARGUMENT);
    mlx_array_free(input);
    assert_int_equal(n_states, 0);
}

/* outputs[0] is inputs[1] with its element at (int)factor replaced by x[0]. */
static void put(const void *state_, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    const axpy_state *state = state_;
    (void)n_inputs, (void)n_outputs;
    if (state->delay_ms) nanosleep(&(struct timespec){0, state->delay_ms * 1000000L}, NULL);
    ((float *)outputs[0].data)[(int)state->factor] = ((const float *)inputs[0].data)[0];
}

static const zm_node_class put_class = {.name = "test.put", .evaluate_cpu = put, .free_state = free_state};

static mlx_array put_at(zm_scope *scope, mlx_array array, int index, double value) {
    zm_node_output spec = like(array);
    spec.continues = 1;
    const mlx_array inputs[] = {zm_scalar(scope, value, MLX_FLOAT32), array};
    return zm_node(scope, &spec, &put_class, new_state((float)index, 3), inputs, 2);
}

/* An output that continues an input is the same memory, also while earlier nodes still run. */
static void test_continued_inputs(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array first = floats(&scope, x_values, SHAPE(6)), kept = {NULL};
    zm_scope_keep(&scope, &kept, zm_add(&scope, first, first));
    assert_int_equal(mlx_array_eval(kept), 0);
    const float *memory = mlx_array_data_float32(kept);
    for (int i = 0; i < 6; i++) {
        zm_scope_keep(&scope, &kept, put_at(&scope, kept, i, 100 + i));
        mlx_vector_array outputs = mlx_vector_array_new_value(kept);
        assert_int_equal(mlx_async_eval(outputs), 0);
        mlx_vector_array_free(outputs);
    }
    expect_values(&scope, kept, VALUES(100, 101, 102, 103, 104, 105), 0);
    assert_ptr_equal(mlx_array_data_float32(kept), memory);
    /* What is not in row order is copied first. */
    mlx_array turned = zm_swapaxes(&scope, zm_reshape2(&scope, kept, 2, 3), 0, 1);
    expect_values(&scope, put_at(&scope, turned, 1, -1), VALUES(100, -1, 101, 104, 102, 105), 0);
    expect_values(&scope, kept, VALUES(100, 101, 102, 103, 104, 105), 0);
    mlx_array_free(kept);
    end_well(&scope);
    assert_int_equal(n_states, 0);
}

static void test_wrong_continuations(void **state) {
    (void)state;
    for (int wrong = 0; wrong < 4; wrong++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array x = floats(&scope, x_values, SHAPE(6));
        zm_node_output spec = like(wrong == 0 ? zm_reshape2(&scope, x, 2, 3) : x);
        spec.continues = wrong == 1 ? 2 : wrong == 2 ? -1 : 1;
        if (wrong == 3) spec.dtype = MLX_INT32;
        const mlx_array inputs[] = {x, x};
        zm_node(&scope, &spec, &put_class, new_state(0, 0), inputs, 2);
        assert_int_equal(zm_scope_end(&scope, NULL), ZMLX_ERROR_MLX);
    }
    assert_int_equal(n_states, 0);
}

/* A buffer that nobody else needs is taken over; one that the caller, another input or another array has is not. */
static void test_replaced_inputs(void **state) {
    (void)state;
    enum { DROPPED, HELD, TWICE, SHARED, N_KINDS };
    for (int kind = 0; kind < N_KINDS; kind++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array x = {NULL}, y = {NULL}, other = {NULL}, whole = {NULL};
        zm_scope_keep(&scope, &x,
                      zm_add(&scope, floats(&scope, x_values, SHAPE(6)), zm_scalar(&scope, 0, MLX_FLOAT32)));
        zm_scope_keep(&scope, &other, zm_scalar(&scope, 1, MLX_FLOAT32));
        if (kind == SHARED) mlx_array_set(&whole, x);
        if (kind == SHARED) zm_scope_keep(&scope, &x, zm_slice_axis(&scope, x, 0, 0, 5, 1));
        end_well(&scope);
        assert_int_equal(mlx_array_eval(x), 0);
        const float *memory = mlx_array_data_float32(x);
        zm_scope_begin(&scope, stream);
        zm_node_output spec = like(x);
        spec.replaces = 1;
        mlx_array ones = zm_broadcast_to(&scope, other, mlx_array_shape(x), 1);
        const mlx_array inputs[] = {x, kind == TWICE ? x : ones};
        zm_scope_keep(&scope, &y, zm_node(&scope, &spec, &axpy_class, new_state(2, 0), inputs, 2));
        end_well(&scope);
        if (kind != HELD) {
            mlx_array_free(x);
            x = (mlx_array){NULL};
        }
        assert_int_equal(mlx_array_eval(y), 0);
        assert_int_equal(mlx_array_data_float32(y) == memory, kind == DROPPED);
        zm_scope_begin(&scope, stream);
        double wanted[6];
        int size = (int)mlx_array_size(y);
        for (int i = 0; i < size; i++) wanted[i] = 2 * x_values[i] + (kind == TWICE ? x_values[i] : 1);
        expect_values(&scope, y, wanted, size, 1e-6);
        if (kind == HELD) expect_values(&scope, x, x_values, 6, 1e-6);
        end_well(&scope);
        mlx_array_free(x);
        mlx_array_free(y);
        mlx_array_free(other);
        mlx_array_free(whole);
    }
    assert_int_equal(n_states, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_continued_inputs),
        cmocka_unit_test(test_wrong_continuations),
        cmocka_unit_test(test_replaced_inputs),
        cmocka_unit_test(test_evaluates),
        cmocka_unit_test(test_strided_inputs),
        cmocka_unit_test(test_many_outputs),
        cmocka_unit_test(test_no_elements),
        cmocka_unit_test(test_async_and_dropped),
        cmocka_unit_test(test_two_streams),
        cmocka_unit_test(test_other_threads),
        cmocka_unit_test(test_streams_are_pooled),
        cmocka_unit_test(test_gradient),
        cmocka_unit_test(test_closure_that_fails),
        cmocka_unit_test(test_compile),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_no_cpu_function),
        cmocka_unit_test(test_wrong_arguments),
    };
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
