/* SPDX-License-Identifier: MIT */
/* The gated delta net: each level's kernel and the whole node against the formula in float64, on the projections' own
 * results; in pieces, and with several threads, against all at once. */
#include "fused_node_testing.h"

enum { IN = 64, OUT = 32, LENGTH = 9, LONG = 300 };

/* state (rows, size) and y of one token. */
static void step(double *state, double *y, const double *q, const double *k, const double *v, double decay,
                 double beta, size_t n_rows, size_t size) {
    for (size_t row = 0; row < n_rows; row++) {
        double *s = state + row * size, recalled = 0;
        for (size_t i = 0; i < size; i++) recalled += (s[i] *= decay) * k[i];
        double delta = (v[row] - recalled) * beta;
        y[row] = 0;
        for (size_t i = 0; i < size; i++) y[row] += (s[i] += delta * k[i]) * q[i];
    }
}

static void check_level(const zm_cpu_level *level, size_t n_tokens, size_t n_rows, size_t size, bool has_state) {
    enum { GAP = 3 }; /* between tokens */
    size_t keys = size + GAP, values = n_rows + GAP;
    float *q = random_floats(n_tokens * keys), *k = random_floats(n_tokens * keys);
    float *v = random_floats(n_tokens * values), *y = random_floats(n_tokens * values);
    float *decay = random_floats(n_tokens * 2);
    float *from = random_floats(n_rows * size), *state = random_floats(n_rows * size);
    double *expected = allocate(n_rows * size * sizeof *expected), *result = allocate(n_rows * sizeof *result);
    double token_q[256], token_k[256], token_v[64];
    for (size_t i = 0; i < n_tokens * keys; i++) k[i] /= sqrtf((float)size); /* as normed keys, so that nothing grows */
    for (size_t i = 0; i < 2 * n_tokens; i++) decay[i] = fabsf(decay[i]);
    for (size_t i = 0; i < n_rows * size; i++) expected[i] = has_state ? (double)from[i] : 0;
    zm_delta part = {q, k, v, y, decay, decay + n_tokens, has_state ? from : NULL, state, n_tokens, n_rows, size,
                     keys, values, values, 1};
    level->delta(&part);
    for (size_t t = 0; t < n_tokens; t++) {
        for (size_t i = 0; i < size; i++) token_q[i] = (double)q[t * keys + i], token_k[i] = (double)k[t * keys + i];
        for (size_t i = 0; i < n_rows; i++) token_v[i] = (double)v[t * values + i];
        step(expected, result, token_q, token_k, token_v, (double)decay[t], (double)decay[n_tokens + t], n_rows, size);
        for (size_t i = 0; i < n_rows; i++)
            if (!(fabs((double)y[t * values + i] - result[i]) <= 2e-6 * (double)size))
                fail_msg("%s, %zu rows of %zu, token %zu: %g for %g", level->name, n_rows, size, t,
                         (double)y[t * values + i], result[i]);
    }
    for (size_t i = 0; i < n_rows * size; i++)
        if (!(fabs((double)state[i] - expected[i]) <= 2e-6 * (double)size)) fail_msg("%s: the state", level->name);
    free(q), free(k), free(v), free(decay), free(from), free(state), free(y), free(expected), free(result);
}

static void every_level_steps(void **state) {
    (void)state;
    static const size_t tokens[] = {1, 2, 7}, rows[] = {1, 4, 15, 16, 17, 32, 33}, sizes[] = {16, 48, 128};
    for (const zm_cpu_level *const *level = zm_fused_levels(); *level; level++)
        for (size_t i = 0; (*level)->supported() && i < 3 * 7 * 3 * 2; i++)
            check_level(*level, tokens[i % 3], rows[i / 3 % 7], sizes[i / 21 % 3], i / 63);
}

typedef struct shape {
    int n_in_proj, n_k_heads, n_v_heads, head_k_dim, head_v_dim, taps;
    zm_quantization format;
} shape;

static const shape shapes[] = {
    {2, 2, 4, 16, 32, 4, {32, 4, "affine"}},
    {4, 2, 8, 32, 20, 3, {32, 8, "affine"}},
    {4, 1, 3, 48, 32, 4, {0, 0, NULL}},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

typedef struct parts {
    zm_weight in_proj[4], out_proj;
    zm_delta_net_arguments arguments;
} parts;

static int channels_of(const shape *of) { return 2 * of->n_k_heads * of->head_k_dim + of->n_v_heads * of->head_v_dim; }

static void random_parts(parts *made, zm_scope *scope, const shape *of) {
    int heads = of->n_v_heads, values = heads * of->head_v_dim, channels = channels_of(of);
    const int widths[2][4] = {{channels, values, heads, heads}, {channels + values, 2 * heads}};
    *made = (parts){.arguments = {.n_in_proj = of->n_in_proj,
                                  .conv_weight = random_array(scope, (const int[]){channels, of->taps, 1}, 3,
                                                              MLX_FLOAT32, 1),
                                  .A_log = random_array(scope, &heads, 1, MLX_FLOAT32, 1),
                                  .dt_bias = random_array(scope, &heads, 1, MLX_BFLOAT16, 1),
                                  .norm = random_array(scope, &of->head_v_dim, 1, MLX_FLOAT32, 1),
                                  .norm_eps = 1e-5f,
                                  .n_k_heads = of->n_k_heads,
                                  .n_v_heads = heads,
                                  .head_k_dim = of->head_k_dim,
                                  .head_v_dim = of->head_v_dim,
                                  .taps = of->taps}};
    for (int i = 0; i < of->n_in_proj; i++) {
        made->in_proj[i] = random_weight(scope, 0, widths[of->n_in_proj == 2][i], IN, of->format, MLX_FLOAT32);
        made->arguments.in_proj[i] = &made->in_proj[i];
    }
    made->out_proj = random_weight(scope, 0, OUT, values, of->format, MLX_FLOAT32);
    made->arguments.out_proj = &made->out_proj;
}

/* Advances the arguments' last inputs and state. */
static mlx_array call(zm_scope *scope, parts *of, mlx_array x) {
    zm_delta_net_arguments *arguments = &of->arguments;
    return zm_fused_delta_net(scope, &arguments->last, &arguments->memory, x, arguments, compute);
}

/* [q, k, v] of all heads, z, b and a of each token, in float64: rows of channels + values + 2 heads. */
static double *reference_projections(zm_scope *scope, mlx_array x, const parts *of, const shape *sizes, int length) {
    int heads = sizes->n_v_heads, values = heads * sizes->head_v_dim, channels = channels_of(sizes);
    int width = channels + values + 2 * heads, group = heads / sizes->n_k_heads, dk = sizes->head_k_dim;
    int dv = group * sizes->head_v_dim, keys = sizes->n_k_heads * dk;
    double *result = allocate(sizeof *result * (size_t)(length * width)), *maps[4] = {NULL};
    for (int i = 0; i < sizes->n_in_proj; i++)
        maps[i] = numbers(scope, zm_fused_linear(scope, x, &of->in_proj[i], compute));
    for (int t = 0; t < length; t++) {
        double *row = result + t * width, *b = row + channels + values;
        if (sizes->n_in_proj == 4) {
            memcpy(row, maps[0] + t * channels, sizeof *row * (size_t)channels);
            memcpy(row + channels, maps[1] + t * values, sizeof *row * (size_t)values);
            memcpy(b, maps[2] + t * heads, sizeof *row * (size_t)heads);
            memcpy(b + heads, maps[3] + t * heads, sizeof *row * (size_t)heads);
        }
        for (int h = 0; h < sizes->n_k_heads && sizes->n_in_proj == 2; h++) {
            const double *from = maps[0] + t * (channels + values) + h * 2 * (dk + dv);
            memcpy(row + h * dk, from, sizeof *row * (size_t)dk);
            memcpy(row + keys + h * dk, from + dk, sizeof *row * (size_t)dk);
            memcpy(row + 2 * keys + h * dv, from + 2 * dk, sizeof *row * (size_t)dv);
            memcpy(row + channels + h * dv, from + 2 * dk + dv, sizeof *row * (size_t)dv);
            memcpy(b + h * group, maps[1] + (t * heads + h * group) * 2, sizeof *row * (size_t)group);
            memcpy(b + heads + h * group, maps[1] + (t * heads + h * group) * 2 + group, sizeof *row * (size_t)group);
        }
    }
    for (int i = 0; i < 4; i++) free(maps[i]);
    return result;
}

static void convolve(double *mixed, const double *projected, int width, int channels, const double *weight, int taps,
                     int t) {
    for (int c = 0; c < channels; c++) {
        double sum = 0;
        for (int tap = 0; tap < taps; tap++)
            if (t + tap >= taps - 1) sum += weight[c * taps + tap] * projected[(t + tap - taps + 1) * width + c];
        mixed[c] = sum / (1 + exp(-sum));
    }
}

static void normalise(double *x, int size, double factor) {
    double sum = 0;
    for (int i = 0; i < size; i++) sum += x[i] * x[i];
    for (int i = 0; i < size; i++) x[i] *= factor / sqrt(sum / size + 1e-6 / size);
}

/* All heads, gated, before the output projection, and the state after. */
static float *reference_heads(zm_scope *scope, mlx_array x, const parts *of, const shape *sizes, int length,
                              double *state) {
    int heads = sizes->n_v_heads, dv = sizes->head_v_dim, dk = sizes->head_k_dim, values = heads * dv;
    int channels = channels_of(sizes), width = channels + values + 2 * heads, keys = sizes->n_k_heads * dk;
    double *projected = reference_projections(scope, x, of, sizes, length);
    double *weight = numbers(scope, of->arguments.conv_weight);
    double *rates = numbers(scope, of->arguments.A_log), *bias = numbers(scope, of->arguments.dt_bias);
    double *norm = numbers(scope, of->arguments.norm), *mixed = allocate(sizeof *mixed * (size_t)channels), y[64];
    float *result = allocate(sizeof *result * (size_t)(length * values));
    for (int t = 0; t < length; t++) {
        const double *row = projected + t * width, *b = row + channels + values, *a = b + heads;
        convolve(mixed, projected, width, channels, weight, sizes->taps, t);
        for (int h = 0; h < sizes->n_k_heads; h++) normalise(mixed + h * dk, dk, 1.0 / dk);
        for (int h = 0; h < sizes->n_k_heads; h++) normalise(mixed + keys + h * dk, dk, 1 / sqrt(dk));
        for (int h = 0; h < heads; h++) {
            const double *q = mixed + h / (heads / sizes->n_k_heads) * dk, *z = row + channels + h * dv;
            double decay = exp(-exp(rates[h]) * log(1 + exp(a[h] + bias[h]))), sum = 0;
            step(state + h * dv * dk, y, q, q + keys, mixed + 2 * keys + h * dv, decay, 1 / (1 + exp(-b[h])),
                 (size_t)dv, (size_t)dk);
            for (int i = 0; i < dv; i++) sum += y[i] * y[i] / dv;
            for (int i = 0; i < dv; i++)
                result[t * values + h * dv + i] = (float)(y[i] / sqrt(sum + 1e-5) * norm[i] * z[i] / (1 + exp(-z[i])));
        }
    }
    free(projected), free(weight), free(rates), free(bias), free(norm), free(mixed);
    return result;
}

static void check_formula(const shape *sizes, int length) {
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    parts of;
    random_parts(&of, &scope, sizes);
    mlx_array x = random_array(&scope, (const int[]){1, length, IN}, 3, MLX_FLOAT32, 1);
    int values = sizes->n_v_heads * sizes->head_v_dim;
    size_t state_size = (size_t)(values * sizes->head_k_dim);
    double *state = calloc(state_size, sizeof *state);
    assert_non_null(state);
    float *heads = reference_heads(&scope, x, &of, sizes, length, state);
    mlx_array y = call(&scope, &of, x);
    mlx_array expected = zm_from_data(&scope, heads, (const int[]){1, length, values}, 3, MLX_FLOAT32);
    /* A norm divides by the size of y, which may be small beside what it is the sum of. */
    expect_same(&scope, y, zm_fused_linear(&scope, expected, &of.out_proj, compute), 2e-5);
    double *memory = numbers(&scope, of.arguments.memory);
    assert_true(relative_error(memory, state, state_size) < 1e-5);
    free(state), free(memory), free(heads);
    end_well(&scope);
}

static void equals_the_formula(void **state) {
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) check_formula(&shapes[i], LENGTH);
    check_formula(&shapes[0], LONG);
}

/* Any split of a sequence gives the same bits, what is kept included. */
static void pieces_equal_the_whole(void **state) {
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        for (int first = 1; first < LENGTH; first++) {
            zm_scope scope;
            zm_scope_begin(&scope, stream);
            parts of, split;
            random_parts(&of, &scope, &shapes[i]);
            split = of;
            int length = i ? LENGTH : LONG;
            mlx_array x = random_array(&scope, (const int[]){1, length, IN}, 3, MLX_FLOAT32, 1);
            mlx_array whole = call(&scope, &of, x);
            mlx_array a = call(&scope, &split, zm_slice_axis(&scope, x, 1, 0, first, 1));
            mlx_array b = call(&scope, &split, zm_slice_axis(&scope, x, 1, first, length, 1));
            expect_same(&scope, zm_concatenate(&scope, a, b, 1), whole, 0);
            expect_same(&scope, split.arguments.last, of.arguments.last, 0);
            expect_same(&scope, split.arguments.memory, of.arguments.memory, 0);
            end_well(&scope);
        }
    }
}

static void threads_do_not_change_the_bits(void **state) {
    (void)state;
    zm_pool *usual = compute.pool;
    for (int i = 0; i < N_SHAPES; i++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        parts of;
        random_parts(&of, &scope, &shapes[i]);
        mlx_array x = random_array(&scope, (const int[]){1, LENGTH, IN}, 3, MLX_FLOAT32, 1);
        double *expected = NULL;
        for (int n_threads = 1; n_threads <= 4; n_threads++) {
            assert_int_equal(zm_pool_new(&compute.pool, n_threads, NULL), ZMLX_OK);
            parts copy = of;
            mlx_array y = call(&scope, &copy, x);
            double *actual = numbers(&scope, y);
            if (expected) assert_memory_equal(actual, expected, mlx_array_size(y) * sizeof *actual);
            free(expected);
            expected = actual;
            mlx_synchronize(stream);
            zm_pool_free(compute.pool);
        }
        free(expected);
        end_well(&scope);
    }
    compute.pool = usual;
}

/* A state that somebody else holds is left as it is. */
static void a_shared_state_is_kept(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    parts of;
    random_parts(&of, &scope, &shapes[0]);
    mlx_array x = random_array(&scope, (const int[]){1, 1, IN}, 3, MLX_FLOAT32, 1);
    call(&scope, &of, x);
    mlx_array held = of.arguments.memory;
    double *before = numbers(&scope, held);
    mlx_array y = call(&scope, &of, x);
    assert_int_equal(mlx_array_eval(y), 0);
    double *after = numbers(&scope, held);
    assert_memory_equal(after, before, mlx_array_size(held) * sizeof *before);
    free(before), free(after);
    end_well(&scope);
}

/* A state of its own goes on in the same buffer, with the bits of both tokens at once. */
static void an_own_state_stays_in_its_place(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    parts of;
    random_parts(&of, &scope, &shapes[0]);
    mlx_array x = random_array(&scope, (const int[]){1, 2, IN}, 3, MLX_FLOAT32, 1), last = {NULL}, memory = {NULL};
    parts whole = of;
    call(&scope, &whole, x);
    const float *places[2];
    for (int token = 0; token < 2; token++) {
        zm_scope step;
        zm_scope_begin(&step, stream);
        of.arguments.last = last, of.arguments.memory = memory;
        call(&step, &of, zm_slice_axis(&step, x, 1, token, token + 1, 1));
        zm_scope_keep(&step, &last, of.arguments.last);
        zm_scope_keep(&step, &memory, of.arguments.memory);
        end_well(&step);
        assert_int_equal(mlx_array_eval(memory), 0);
        assert_int_equal(mlx_synchronize(stream), 0);
        places[token] = mlx_array_data_float32(memory);
    }
    assert_ptr_equal(places[1], places[0]);
    expect_same(&scope, memory, whole.arguments.memory, 0);
    expect_same(&scope, last, whole.arguments.last, 0);
    end_well(&scope);
    mlx_array_free(last), mlx_array_free(memory);
}

static void half_types_are_near(void **state) {
    (void)state;
    const mlx_dtype types[] = {MLX_FLOAT16, MLX_BFLOAT16};
    for (int i = 0; i < 2; i++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        parts of, half;
        random_parts(&of, &scope, &shapes[0]);
        half = of;
        mlx_array x = random_array(&scope, (const int[]){1, LENGTH, IN}, 3, types[i], 1);
        mlx_array y = call(&scope, &half, x), wide = call(&scope, &of, zm_astype(&scope, x, MLX_FLOAT32));
        assert_int_equal(mlx_array_dtype(y), types[i]);
        assert_int_equal(mlx_array_dtype(half.arguments.last), types[i]);
        assert_int_equal(mlx_array_dtype(half.arguments.memory), MLX_FLOAT32);
        expect_same(&scope, zm_astype(&scope, y, MLX_FLOAT32), wide, i ? 4e-3 : 5e-4); /* one rounding */
        end_well(&scope);
    }
}

/* Bytes for activations; what a state forgets and takes in stays exact. */
static void int8_is_near(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        parts of, bytes;
        random_parts(&of, &scope, &shapes[i]);
        bytes = of;
        mlx_array x = random_array(&scope, (const int[]){1, LENGTH, IN}, 3, MLX_FLOAT32, 1), y = call(&scope, &of, x);
        compute.precision = ZM_PRECISION_INT8;
        expect_same(&scope, call(&scope, &bytes, x), y, 5e-2); /* as products with them: about 1 % each */
        expect_same(&scope, bytes.arguments.memory, of.arguments.memory, 5e-2);
        compute.precision = ZM_PRECISION_FLOAT32;
        end_well(&scope);
    }
}

static void wrong_parts_are_refused(void **state) {
    (void)state;
    for (int wrong = 0; wrong < 11; wrong++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        parts of;
        random_parts(&of, &scope, &shapes[0]);
        zm_delta_net_arguments *arguments = &of.arguments;
        mlx_array x = random_array(&scope, (const int[]){wrong == 0 ? 2 : 1, 2, IN}, 3, MLX_FLOAT32, 1);
        if (wrong == 1) arguments->conv_weight = x;
        if (wrong == 2) arguments->last = x;
        if (wrong == 3) arguments->memory = x;
        if (wrong == 4) arguments->in_proj[1] = arguments->out_proj;
        if (wrong == 5) arguments->out_proj = arguments->in_proj[0];
        if (wrong == 6) arguments->n_v_heads = 3;
        if (wrong == 7) arguments->head_k_dim = 12;
        if (wrong == 8) arguments->n_in_proj = 3;
        if (wrong == 9) arguments->A_log = x;
        if (wrong == 10) arguments->norm = (mlx_array){NULL};
        assert_false(zm_is_set(call(&scope, &of, x)));
        zmlx_error error;
        assert_int_not_equal(zm_scope_end(&scope, &error), ZMLX_OK);
        assert_non_null(strstr(error.where, "zmlx.delta_net"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_level_steps),      cmocka_unit_test(equals_the_formula),
        cmocka_unit_test(pieces_equal_the_whole), cmocka_unit_test(threads_do_not_change_the_bits),
        cmocka_unit_test(a_shared_state_is_kept), cmocka_unit_test(an_own_state_stays_in_its_place),
        cmocka_unit_test(half_types_are_near),    cmocka_unit_test(int8_is_near),
        cmocka_unit_test(wrong_parts_are_refused),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
