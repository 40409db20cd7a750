/* SPDX-License-Identifier: MIT */
/* Attention: each level's kernel and the whole node against the formula in float64; and pieces against the whole. */
#include "fused_node_testing.h"

enum { IN = 64, OUT = 32, MAX_ROWS = 320 };

/* softmax(queries . keys) values over the rows, without dividing by the sum. */
static void check_attend(const zm_cpu_level *level, zm_storage storage, size_t n_queries, size_t head_dim,
                         size_t n_rows) {
    size_t element = zm_storage_size(storage), numbers_of = n_rows * head_dim;
    float *queries = random_floats(n_queries * head_dim);
    unsigned char *keys = allocate(numbers_of * element), *values = allocate(numbers_of * element);
    for (size_t i = 0; i < numbers_of; i++) {
        store_value(keys, storage, i, 3 * random_float());
        store_value(values, storage, i, random_float());
    }
    float *outputs = random_floats(n_queries * head_dim), *largest = random_floats(n_queries);
    float *sums = random_floats(n_queries);
    zm_attend part = {queries, n_queries, head_dim, keys, values, storage, n_rows, largest, sums, outputs};
    level->attend(&part);
    for (size_t q = 0; q < n_queries; q++) {
        double scores[ZM_ATTEND_ROWS], most = -INFINITY, sum = 0, size = 0;
        for (size_t row = 0; row < n_rows; row++) {
            scores[row] = 0;
            for (size_t i = 0; i < head_dim; i++)
                scores[row] += (double)queries[q * head_dim + i] * stored_value(keys, storage, row * head_dim + i);
            most = fmax(most, scores[row]);
        }
        for (size_t row = 0; row < n_rows; row++) size = fmax(size, fabs(scores[row]));
        for (size_t row = 0; row < n_rows; row++) sum += exp(scores[row] - most);
        /* A score of that size has an error of some units in its last place, and e^x passes it on. */
        double tolerance = 1e-6 * (4 + size);
        if (!(fabs(largest[q] - most) <= tolerance && fabs(sums[q] - sum) <= tolerance * sum))
            fail_msg("%s, %zu rows: largest %g for %g, sum %g for %g", level->name, n_rows, (double)largest[q], most,
                     (double)sums[q], sum);
        for (size_t i = 0; i < head_dim; i++) {
            double expected = 0, actual = (double)outputs[q * head_dim + i];
            for (size_t row = 0; row < n_rows; row++)
                expected += exp(scores[row] - most) * stored_value(values, storage, row * head_dim + i);
            if (!(fabs(actual - expected) <= tolerance * sum))
                fail_msg("%s, %zu rows of %zu, query %zu: %g for %g", level->name, n_rows, head_dim, q, actual,
                         expected);
        }
    }
    free(queries), free(keys), free(values), free(outputs), free(largest), free(sums);
}

static void every_level_attends(void **state) {
    (void)state;
    static const size_t sizes[] = {16, 48, 64, 96, 128}, rows[] = {1, 2, 15, 16, 17, 100, ZM_ATTEND_ROWS};
    static const zm_storage storages[] = {ZM_STORAGE_FLOAT32, ZM_STORAGE_FLOAT16, ZM_STORAGE_BFLOAT16};
    for (const zm_cpu_level *const *level = zm_fused_levels(); *level; level++) {
        if (!(*level)->supported()) continue;
        print_message("attention on %s\n", (*level)->name);
        for (size_t s = 0; s < 3; s++)
            for (size_t d = 0; d < 5; d++)
                for (size_t r = 0; r < 7; r++)
                    for (size_t q = 1; q < 9; q++) check_attend(*level, storages[s], q, sizes[d], rows[r]);
    }
}

/* Many tokens together have the bits that each has alone, and nothing else is written. */
static void check_tokens(const zm_cpu_level *level, zm_storage storage, size_t n_queries, size_t head_dim,
                         size_t n_tokens, size_t first_rows) {
    enum { OTHERS = 2 }; /* parts between those of neighbours */
    size_t element = zm_storage_size(storage), most = first_rows + n_tokens - 1;
    size_t n_rows = most < ZM_ATTEND_ROWS ? most : ZM_ATTEND_ROWS, stride = n_queries + OTHERS,
           parts = n_tokens * stride;
    float *queries = random_floats(parts * head_dim);
    unsigned char *keys = allocate(n_rows * head_dim * element), *values = allocate(n_rows * head_dim * element);
    for (size_t i = 0; i < n_rows * head_dim; i++) {
        store_value(keys, storage, i, 3 * random_float());
        store_value(values, storage, i, random_float());
    }
    float *results[2];
    for (int alone = 0; alone < 2; alone++) {
        float *outputs = results[alone] = allocate(parts * (head_dim + 2) * sizeof(float));
        memset(outputs, 0xff, parts * (head_dim + 2) * sizeof(float));
        float *largest = outputs + parts * head_dim, *sums = largest + parts;
        zm_attend_tokens all = {queries, stride * head_dim, n_tokens, n_queries, head_dim, keys, values, storage,
                                first_rows, stride, largest, sums, outputs};
        if (!alone) level->attend_tokens(&all);
        for (size_t t = 0; alone && t < n_tokens; t++) {
            size_t part = t * stride, rows = first_rows + t < ZM_ATTEND_ROWS ? first_rows + t : ZM_ATTEND_ROWS;
            zm_attend one = {queries + part * head_dim, n_queries, head_dim, keys, values, storage, rows,
                             largest + part, sums + part, outputs + part * head_dim};
            level->attend(&one);
        }
    }
    if (memcmp(results[0], results[1], parts * (head_dim + 2) * sizeof(float)))
        fail_msg("%s: %zu tokens of %zu queries of %zu from %zu rows on", level->name, n_tokens, n_queries, head_dim,
                 first_rows);
    free(queries), free(keys), free(values), free(results[0]), free(results[1]);
}

static void tokens_together_have_the_bits_of_each(void **state) {
    (void)state;
    static const size_t sizes[] = {16, 48, 64, 128, ZM_ATTEND_TOKENS_DIM},
                        first_rows[] = {1, 16, 63, 100, ZM_ATTEND_ROWS};
    static const size_t counts[] = {1, 2, 7, 33}, groups[] = {1, 3, 4, 8};
    static const zm_storage storages[] = {ZM_STORAGE_FLOAT32, ZM_STORAGE_FLOAT16, ZM_STORAGE_BFLOAT16};
    for (const zm_cpu_level *const *level = zm_fused_levels(); *level; level++)
        for (size_t i = 0; (*level)->supported() && i < 3 * 4 * 5 * 5 * 4; i++)
            check_tokens(*level, storages[i % 3], groups[i / 3 % 4], sizes[i / 12 % 5], counts[i / 300],
                         first_rows[i / 60 % 5]);
}

typedef struct shape {
    int n_heads, n_kv_heads, head_dim, n_freqs;
    bool traditional, has_norms, has_sinks, has_bias, has_gate;
    int window, first_row, length;
} shape;

typedef struct parts {
    zm_weight q, k, v, o;
    mlx_array q_norm, k_norm, sinks, freqs, keys, values, x;
} parts;

static zm_weight projection(zm_scope *scope, int out, int in, bool has_bias) {
    zm_weight weight = random_weight(scope, 0, out, in, (zm_quantization){32, 4, "affine"}, MLX_FLOAT32);
    if (has_bias) weight.bias = random_array(scope, (const int[]){out}, 1, MLX_FLOAT32, 1);
    return weight;
}

static mlx_array row_of(zm_scope *scope, int size, float scale) {
    return random_array(scope, (const int[]){size}, 1, MLX_FLOAT32, scale);
}

static parts random_parts(zm_scope *scope, const shape *of) {
    int queries = of->n_heads * of->head_dim, keys = of->n_kv_heads * of->head_dim;
    const int cache[4] = {1, of->n_kv_heads, MAX_ROWS, of->head_dim};
    parts result = {.q = projection(scope, of->has_gate ? 2 * queries : queries, IN, of->has_bias),
                    .k = projection(scope, keys, IN, of->has_bias),
                    .v = projection(scope, keys, IN, of->has_bias),
                    .o = projection(scope, OUT, queries, of->has_bias),
                    .freqs = row_of(scope, of->n_freqs, 1),
                    .keys = random_array(scope, cache, 4, MLX_FLOAT32, 1),
                    .values = random_array(scope, cache, 4, MLX_FLOAT32, 1),
                    .x = random_array(scope, (const int[]){1, of->length, IN}, 3, MLX_FLOAT32, 1)};
    if (of->has_norms) {
        result.q_norm = row_of(scope, of->head_dim, 1);
        result.k_norm = row_of(scope, of->head_dim, 1);
    }
    if (of->has_sinks) result.sinks = row_of(scope, of->n_heads, 2);
    return result;
}

/* Tokens [done, done + length) of the parts' x. */
static mlx_array call(zm_scope *scope, parts *of, const shape *sizes, int done, int length) {
    zm_attention_arguments arguments = {
        .q_proj = &of->q, .k_proj = &of->k, .v_proj = &of->v, .o_proj = &of->o,
        .q_norm = of->q_norm, .k_norm = of->k_norm, .q_norm_eps = 1e-5f, .k_norm_eps = 1e-5f,
        .rotation = {of->freqs, sizes->traditional, 0.5f, 1.25f}, .sinks = of->sinks,
        .has_output_gate = sizes->has_gate,
        .n_heads = sizes->n_heads, .n_kv_heads = sizes->n_kv_heads, .head_dim = sizes->head_dim,
        .scale = 0.25f, .keys = of->keys, .values = of->values,
        .offset = sizes->first_row + done, .first_row = sizes->first_row + done,
        .n_rows = sizes->first_row + done + length, .window = sizes->window};
    mlx_array x = zm_slice_axis(scope, of->x, 1, done, done + length, 1);
    return zm_fused_attention(scope, &of->keys, &of->values, x, &arguments, compute);
}

static void norm_head(double *head, const double *weight, int size) {
    double sum = 0;
    for (int i = 0; i < size; i++) sum += head[i] * head[i];
    for (int i = 0; weight && i < size; i++) head[i] *= weight[i] / sqrt(sum / size + 1e-5);
}

static void turn_head(double *head, const double *freqs, const shape *of, int position) {
    for (int i = 0; i < of->n_freqs; i++) {
        double *a = head + (of->traditional ? 2 * i : i), *b = of->traditional ? a + 1 : a + of->n_freqs;
        double angle = 0.5 * position * freqs[i], x = 1.25 * *a, y = 1.25 * *b;
        *a = x * cos(angle) - y * sin(angle);
        *b = x * sin(angle) + y * cos(angle);
    }
}

/* One head of one token over the rows [first, last] of a cache. */
static void attend_head(float *result, const double *query, const double *keys, const double *values,
                        const double *sink, int size, int first, int last) {
    double scores[MAX_ROWS], most = sink ? *sink : -INFINITY, sum = 0;
    for (int row = first; row <= last; row++) {
        scores[row] = 0;
        for (int i = 0; i < size; i++) scores[row] += 0.25 * query[i] * keys[row * size + i];
        most = fmax(most, scores[row]);
    }
    if (sink) sum = exp(*sink - most);
    for (int row = first; row <= last; row++) sum += exp(scores[row] - most);
    for (int i = 0; i < size; i++) {
        double total = 0;
        for (int row = first; row <= last; row++) total += exp(scores[row] - most) * values[row * size + i];
        result[i] = (float)(total / sum);
    }
}

/* Of result, by the sigmoid of each number of the gate. */
static void close_gate(float *result, const double *gate, int size) {
    for (int i = 0; i < size; i++) result[i] = (float)((double)result[i] / (1 + exp(-gate[i])));
}

/* All heads before the output projection; keys and values get the new rows. */
static float *reference_heads(zm_scope *scope, parts *of, const shape *sizes, double *keys, double *values) {
    int size = sizes->head_dim, group = sizes->n_heads / sizes->n_kv_heads, width = sizes->has_gate ? 2 * size : size;
    double *q = numbers(scope, zm_fused_linear(scope, of->x, &of->q, compute));
    double *k = numbers(scope, zm_fused_linear(scope, of->x, &of->k, compute));
    double *v = numbers(scope, zm_fused_linear(scope, of->x, &of->v, compute));
    double *freqs = numbers(scope, of->freqs), *q_norm = NULL, *k_norm = NULL, *sinks = NULL;
    if (sizes->has_norms) q_norm = numbers(scope, of->q_norm), k_norm = numbers(scope, of->k_norm);
    if (sizes->has_sinks) sinks = numbers(scope, of->sinks);
    float *heads = allocate(sizeof(float) * (size_t)(sizes->length * sizes->n_heads * size));
    for (int t = 0; t < sizes->length; t++) {
        int row = sizes->first_row + t;
        int first = sizes->window && row + 1 > sizes->window ? row + 1 - sizes->window : 0;
        for (int h = 0; h < sizes->n_kv_heads; h++) {
            double *key = k + (t * sizes->n_kv_heads + h) * size;
            norm_head(key, k_norm, size);
            turn_head(key, freqs, sizes, row);
            memcpy(keys + (h * MAX_ROWS + row) * size, key, sizeof *key * (size_t)size);
            memcpy(values + (h * MAX_ROWS + row) * size, v + (t * sizes->n_kv_heads + h) * size,
                   sizeof *key * (size_t)size);
        }
        for (int h = 0; h < sizes->n_heads; h++) {
            double *query = q + (t * sizes->n_heads + h) * width;
            float *head = heads + (t * sizes->n_heads + h) * size;
            norm_head(query, q_norm, size);
            turn_head(query, freqs, sizes, row);
            size_t cache = (size_t)(h / group * MAX_ROWS * size);
            attend_head(head, query, keys + cache, values + cache, sinks ? sinks + h : NULL, size, first, row);
            if (sizes->has_gate) close_gate(head, query + size, size);
        }
    }
    free(q), free(k), free(v), free(freqs), free(q_norm), free(k_norm), free(sinks);
    return heads;
}

static const shape shapes[] = {
    {4, 2, 32, 16, false, false, false, false, false, 0, 0, 1},
    {4, 2, 32, 16, false, true, false, false, false, 0, 3, 1},
    {4, 4, 48, 12, true, false, false, true, false, 0, 200, 1},
    {8, 1, 64, 32, false, true, true, true, false, 0, 300, 1},
    {6, 2, 16, 8, false, false, true, true, false, 40, 100, 5},
    {4, 1, 32, 16, true, true, false, false, false, 0, 250, 7},
    {4, 2, 32, 16, false, false, true, false, false, 130, 290, 9},
    {2, 2, 128, 64, false, false, false, false, false, 0, 0, 17},
    {4, 2, 32, 4, false, true, false, true, true, 0, 130, 7},
    {4, 1, 48, 6, false, true, false, false, true, 0, 120, 11},
    {4, 2, 32, 4, false, true, false, false, true, 0, 200, 1},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static void equals_the_formula(void **state) {
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        parts of = random_parts(&scope, &shapes[i]);
        double *keys = numbers(&scope, of.keys), *values = numbers(&scope, of.values);
        float *heads = reference_heads(&scope, &of, &shapes[i], keys, values);
        mlx_array y = call(&scope, &of, &shapes[i], 0, shapes[i].length);
        const int heads_shape[] = {1, shapes[i].length, shapes[i].n_heads * shapes[i].head_dim};
        mlx_array expected = zm_from_data(&scope, heads, heads_shape, 3, MLX_FLOAT32);
        /* Angles of some hundred radians are only right to 1e-5 in float32. */
        expect_same(&scope, y, zm_fused_linear(&scope, expected, &of.o, compute), 2e-5);
        double *new_keys = numbers(&scope, of.keys), *new_values = numbers(&scope, of.values);
        size_t size = mlx_array_size(of.keys);
        assert_true(relative_error(new_keys, keys, size) < 2e-5);
        assert_true(relative_error(new_values, values, size) == 0);
        free(keys), free(values), free(heads), free(new_keys), free(new_values);
        end_well(&scope);
    }
}

/* Any split of the tokens gives the same bits, in the cache too. */
static void pieces_equal_the_whole(void **state) {
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        if (shapes[i].length == 1) continue;
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        parts of = random_parts(&scope, &shapes[i]), split = of;
        /* The node writes into the buffers it is given, so the second run needs its own. */
        split.keys = zm_add(&scope, of.keys, zm_scalar(&scope, 0, MLX_FLOAT32));
        split.values = zm_add(&scope, of.values, zm_scalar(&scope, 0, MLX_FLOAT32));
        assert_int_equal(mlx_array_eval(split.keys) | mlx_array_eval(split.values), 0);
        mlx_array whole = call(&scope, &of, &shapes[i], 0, shapes[i].length);
        int first = 1 + i % 3, length = shapes[i].length;
        mlx_array a = call(&scope, &split, &shapes[i], 0, first);
        mlx_array b = call(&scope, &split, &shapes[i], first, 1);
        mlx_array c = call(&scope, &split, &shapes[i], first + 1, length - first - 1);
        mlx_array joined = zm_concatenate(&scope, zm_concatenate(&scope, a, b, 1), c, 1);
        expect_same(&scope, joined, whole, 0);
        expect_same(&scope, split.keys, of.keys, 0);
        expect_same(&scope, split.values, of.values, 0);
        end_well(&scope);
    }
}

static void threads_do_not_change_the_bits(void **state) {
    (void)state;
    zm_pool *usual = compute.pool;
    for (int i = 3; i < N_SHAPES; i++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        parts of = random_parts(&scope, &shapes[i]);
        mlx_array keys = zm_add(&scope, of.keys, zm_scalar(&scope, 0, MLX_FLOAT32));
        mlx_array values = zm_add(&scope, of.values, zm_scalar(&scope, 0, MLX_FLOAT32));
        double *expected = NULL;
        for (int n_threads = 1; n_threads <= 4; n_threads++) {
            assert_int_equal(zm_pool_new(&compute.pool, n_threads, NULL), ZMLX_OK);
            of.keys = zm_add(&scope, keys, zm_scalar(&scope, 0, MLX_FLOAT32));
            of.values = zm_add(&scope, values, zm_scalar(&scope, 0, MLX_FLOAT32));
            mlx_array y = call(&scope, &of, &shapes[i], 0, shapes[i].length);
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

/* A single token in the place of an older row sees the rows after it too. */
static void a_ring_is_seen_whole(void **state) {
    (void)state;
    shape ring = {4, 2, 32, 16, false, false, false, false, false, 40, 39, 1};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    parts of = random_parts(&scope, &ring);
    double *keys = numbers(&scope, of.keys), *values = numbers(&scope, of.values);
    float *heads = reference_heads(&scope, &of, &ring, keys, values);
    /* Rows change places: what was last goes to row 7, and the other way round. */
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 32; i++) {
            size_t from = (size_t)((h * MAX_ROWS + 7) * 32 + i), to = (size_t)((h * MAX_ROWS + 39) * 32 + i);
            keys[to] = keys[from], values[to] = values[from];
        }
    float *cache = allocate(sizeof(float) * 2 * MAX_ROWS * 32);
    for (int i = 0; i < 2 * MAX_ROWS * 32; i++) cache[i] = (float)keys[i];
    of.keys = zm_from_data(&scope, cache, (const int[]){1, 2, MAX_ROWS, 32}, 4, MLX_FLOAT32);
    for (int i = 0; i < 2 * MAX_ROWS * 32; i++) cache[i] = (float)values[i];
    of.values = zm_from_data(&scope, cache, (const int[]){1, 2, MAX_ROWS, 32}, 4, MLX_FLOAT32);
    zm_attention_arguments arguments = {
        .q_proj = &of.q, .k_proj = &of.k, .v_proj = &of.v, .o_proj = &of.o,
        .rotation = {of.freqs, false, 0.5f, 1.25f}, .n_heads = 4, .n_kv_heads = 2, .head_dim = 32, .scale = 0.25f,
        .keys = of.keys, .values = of.values, .offset = 39, .first_row = 7, .n_rows = 40, .window = 40};
    mlx_array y = zm_fused_attention(&scope, &of.keys, &of.values, of.x, &arguments, compute);
    mlx_array expected = zm_from_data(&scope, heads, (const int[]){1, 1, 128}, 3, MLX_FLOAT32);
    expect_same(&scope, y, zm_fused_linear(&scope, expected, &of.o, compute), 2e-5);
    free(keys), free(values), free(heads), free(cache);
    end_well(&scope);
}

static void half_types_are_near(void **state) {
    (void)state;
    const mlx_dtype types[] = {MLX_FLOAT16, MLX_BFLOAT16};
    for (int i = 0; i < 2; i++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        parts of = random_parts(&scope, &shapes[5]), half = of;
        half.x = zm_astype(&scope, of.x, types[i]);
        half.keys = zm_astype(&scope, of.keys, types[i]);
        half.values = zm_astype(&scope, of.values, types[i]);
        of.x = zm_astype(&scope, half.x, MLX_FLOAT32);
        of.keys = zm_astype(&scope, half.keys, MLX_FLOAT32);
        of.values = zm_astype(&scope, half.values, MLX_FLOAT32);
        mlx_array y = call(&scope, &half, &shapes[5], 0, shapes[5].length);
        assert_int_equal(mlx_array_dtype(y), types[i]);
        mlx_array wide = call(&scope, &of, &shapes[5], 0, shapes[5].length);
        expect_same(&scope, zm_astype(&scope, y, MLX_FLOAT32), wide, i ? 2e-2 : 3e-3); /* rounded rows of keys */
        end_well(&scope);
    }
}

static void wrong_parts_are_refused(void **state) {
    (void)state;
    for (int wrong = 0; wrong < 8; wrong++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        shape sizes = {4, 2, 32, 16, false, false, false, false, false, 0, 3, 2};
        parts of = random_parts(&scope, &sizes);
        if (wrong == 0) of.x = random_array(&scope, (const int[]){2, 2, IN}, 3, MLX_FLOAT32, 1);
        if (wrong == 1) of.k = of.q;
        if (wrong == 2) of.o = of.v;
        if (wrong == 3) sizes.n_kv_heads = 3;
        if (wrong == 4) of.values = of.x;
        if (wrong == 5) of.freqs = row_of(&scope, 17, 1);
        if (wrong == 6) sizes.first_row = MAX_ROWS - 1;
        if (wrong == 7) of.keys = zm_astype(&scope, of.keys, MLX_FLOAT16);
        assert_false(zm_is_set(call(&scope, &of, &sizes, 0, 2)));
        zmlx_error error;
        assert_int_not_equal(zm_scope_end(&scope, &error), ZMLX_OK);
        assert_non_null(strstr(error.where, "zmlx.attention"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_level_attends),  cmocka_unit_test(tokens_together_have_the_bits_of_each),
        cmocka_unit_test(equals_the_formula),   cmocka_unit_test(pieces_equal_the_whole),
        cmocka_unit_test(a_ring_is_seen_whole), cmocka_unit_test(threads_do_not_change_the_bits),
        cmocka_unit_test(half_types_are_near),  cmocka_unit_test(wrong_parts_are_refused),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
