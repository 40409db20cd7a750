/* SPDX-License-Identifier: MIT */
/* Caches against a plain list of token numbers; masks against their definition. */
#include "mlx_testing.h"

#include <stdlib.h>

#include "model/cache.h"

enum { MAX_ROWS = 2048 };

/* What a buffer must hold: rows[r] is the token in row r, -1 a row of zeros. */
typedef struct plain {
    int rows[MAX_ROWS], n_rows, n_visible, next, seen;
} plain;

static void plain_append(plain *model, int token) { model->rows[model->n_rows++] = token; }

static void plain_grow(plain *model, int count) {
    for (int i = 0; i < count; i++) plain_append(model, -1);
}

/* Zero rows in steps of 256 when the new tokens do not fit; unfilled ones are cut first, unless the fill is
 * a multiple of 256. */
static void plain_kv(plain *model, int length) {
    if (model->seen + length > model->n_rows) {
        if (model->seen % 256) model->n_rows = model->seen;
        plain_grow(model, (length + 255) / 256 * 256);
    }
    for (int i = 0; i < length; i++) {
        model->rows[model->seen] = model->seen;
        model->seen++;
    }
    model->n_visible = model->seen;
}

static void plain_drop_front(plain *model, int count) {
    for (int i = count; i < model->n_rows; i++) model->rows[i - count] = model->rows[i];
    model->n_rows -= count;
}

/* One token takes the place of the oldest; before that the buffer grows up to the window. */
static void plain_rotate(plain *model, int window) {
    if (model->n_rows < window && model->seen >= model->n_rows) {
        int room = window - model->seen;
        plain_grow(model, room < 256 ? room : 256);
        model->next = model->seen;
    }
    if (model->n_rows > window) {
        plain_drop_front(model, model->n_rows - window);
        model->next = window;
    }
    if (model->next == window) model->next = 0;
    model->rows[model->next++] = model->seen++;
    model->n_visible = model->seen < model->n_rows ? model->seen : model->n_rows;
}

static int by_number(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

/* Several tokens: the old ones in order of time, at most window - 1, then the new. */
static void plain_extend(plain *model, int window, int length) {
    qsort(model->rows, (size_t)model->n_rows, sizeof *model->rows, by_number);
    int zeros = 0;
    while (zeros < model->n_rows && model->rows[zeros] < 0) zeros++;
    plain_drop_front(model, zeros);
    if (model->n_rows > window - 1) plain_drop_front(model, model->n_rows - (window - 1));
    for (int i = 0; i < length; i++) plain_append(model, model->seen++);
    model->next = model->n_visible = model->n_rows;
}

/* (1, 2, length, 3): head 0 holds token + 1, head 1 its negative; sign -1 for values. */
static mlx_array tokens_as_rows(zm_scope *scope, int first, int length, float sign) {
    static float data[2 * MAX_ROWS * 3];
    for (int head = 0; head < 2; head++)
        for (int i = 0; i < length * 3; i++)
            data[head * length * 3 + i] = sign * (head ? -1.0f : 1.0f) * (float)(first + i / 3 + 1);
    return zm_from_data(scope, data, SHAPE(1, 2, length, 3), MLX_FLOAT32);
}

static void expect_rows(zm_scope *scope, mlx_array array, const plain *model, int n_rows, float sign) {
    mlx_array kept = {NULL};
    expect_shape(array, SHAPE(1, 2, n_rows, 3));
    zm_scope_keep(scope, &kept, zm_contiguous(scope, array));
    assert_int_equal(mlx_array_eval(kept), 0);
    const float *data = mlx_array_data_float32(kept);
    for (int head = 0; head < 2; head++)
        for (int i = 0; i < n_rows * 3; i++) {
            float expected = sign * (head ? -1.0f : 1.0f) * (float)(model->rows[i / 3] + 1);
            if (data[head * n_rows * 3 + i] != expected)
                fail_msg("after %d tokens row %d holds %g, expected %g", model->seen, i / 3,
                         (double)data[head * n_rows * 3 + i], (double)expected);
        }
    mlx_array_free(kept);
}

static void append_and_compare(zm_cache *cache, plain *model, int length) {
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array keys = tokens_as_rows(&scope, model->seen, length, 1);
    mlx_array values = tokens_as_rows(&scope, model->seen, length, -1);
    zm_cache_update(cache, &scope, &keys, &values);
    if (cache->kind == ZM_CACHE_KV)
        plain_kv(model, length);
    else if (length == 1)
        plain_rotate(model, cache->max_size);
    else
        plain_extend(model, cache->max_size, length);
    assert_int_equal(cache->offset, model->seen);
    assert_int_equal(zm_dim(cache->keys, 2), model->n_rows);
    expect_rows(&scope, keys, model, model->n_visible, 1);
    expect_rows(&scope, values, model, model->n_visible, -1);
    expect_rows(&scope, cache->keys, model, model->n_rows, 1);
    end_well(&scope);
}

static uint32_t next_random(uint32_t *seed) { return (*seed = *seed * 1664525u + 1013904223u) >> 16; }

static void test_kv_growth(void **state) {
    (void)state;
    static const int lengths[][6] = {
        {255, 1, 1, 0}, {256, 1, 256, 1, 0}, {5, 251, 1, 300, 1, 0}, {513, 1, 255, 0}};
    for (int k = 0; k < COUNT(lengths); k++) {
        zm_cache cache;
        plain model = {.n_rows = 0};
        zm_cache_init(&cache, ZM_CACHE_KV, 0);
        for (int i = 0; lengths[k][i]; i++) append_and_compare(&cache, &model, lengths[k][i]);
        zm_cache_release(&cache);
        assert_int_equal(cache.offset, 0);
        assert_false(zm_is_set(cache.keys));
    }
}

static void test_rotation(void **state) {
    (void)state;
    static const int windows[] = {1, 2, 5, 16, 64, 300};
    uint32_t seed = 7;
    for (int w = 0; w < COUNT(windows); w++)
        for (int run = 0; run < 6; run++) {
            int window = windows[w];
            zm_cache cache;
            plain model = {.n_rows = 0};
            zm_cache_init(&cache, ZM_CACHE_ROTATING, window);
            for (int step = 0; step < 30 && model.seen < 700; step++) {
                int longest = 2 * window, length = 1;
                if (next_random(&seed) % 3 == 0) length += (int)next_random(&seed) % longest;
                append_and_compare(&cache, &model, length);
            }
            zm_cache_release(&cache);
        }
}

/* Single tokens alone, past both a growth by 256 and the window. */
static void test_rotation_of_single_tokens(void **state) {
    (void)state;
    zm_cache cache;
    plain model = {.n_rows = 0};
    zm_cache_init(&cache, ZM_CACHE_ROTATING, 260);
    for (int step = 0; step < 530; step++) append_and_compare(&cache, &model, 1);
    zm_cache_release(&cache);
}

/* Where single tokens go while there is room for them, told from the one before. */
static void follow_tokens(zm_cache_kind kind, int window, int n_prompt) {
    zm_cache cache;
    plain model = {.n_rows = 0};
    zm_cache_tokens one = {
        .batch = 1, .n_heads = 2, .length = 1, .key_dim = 3, .value_dim = 3, .dtype = MLX_FLOAT32};
    zm_cache_rows told = {.n_rows = 0};
    zm_cache_init(&cache, kind, window);
    assert_int_equal(zm_cache_room(&cache), 0);
    append_and_compare(&cache, &model, n_prompt);
    for (int step = 0; step < 600; step++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        zm_cache_rows next = zm_cache_reserve(&cache, &scope, &one);
        bool has_room = zm_cache_room(&cache) > 0;
        assert_int_equal(has_room, next.keys.ctx == cache.keys.ctx);
        if (step && has_room) {
            told.keys = cache.keys;
            zm_cache_advance(&cache, &told);
            assert_int_equal(told.first, next.first);
            assert_int_equal(told.n_rows, next.n_rows);
        }
        told = next;
        end_well(&scope);
        append_and_compare(&cache, &model, 1);
    }
    zm_cache_release(&cache);
}

static void test_room_for_single_tokens(void **state) {
    (void)state;
    static const int prompts[] = {1, 7, 255, 256, 300};
    for (int i = 0; i < COUNT(prompts); i++) {
        follow_tokens(ZM_CACHE_KV, 0, prompts[i]);
        follow_tokens(ZM_CACHE_ROTATING, 5, prompts[i]);
        follow_tokens(ZM_CACHE_ROTATING, 300, prompts[i]);
    }
}

static void expect_mask(const zm_cache *cache, int length, int window, int offset) {
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    zm_mask mask = zm_cache_mask(cache, &scope, length, window);
    assert_string_equal(mask.mode, "array");
    assert_int_equal(mlx_array_dtype(mask.array), MLX_BOOL);
    expect_shape(mask.array, SHAPE(length, offset + length));
    static double expected[MAX_ROWS];
    for (int i = 0; i < length; i++)
        for (int j = 0; j < offset + length; j++)
            expected[i * (offset + length) + j] = j <= offset + i && j > offset + i - window;
    expect_values(&scope, mask.array, expected, length * (offset + length), 0);
    end_well(&scope);
}

static void expect_array(const zm_cache *cache, int length, int offset) {
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    zm_mask mask = zm_cache_array_mask(cache, &scope, length);
    assert_string_equal(mask.mode, "array");
    static double expected[MAX_ROWS];
    for (int i = 0; i < length; i++)
        for (int j = 0; j < offset + length; j++) expected[i * (offset + length) + j] = j <= offset + i;
    expect_shape(mask.array, SHAPE(length, offset + length));
    expect_values(&scope, mask.array, expected, length * (offset + length), 0);
    assert_string_equal(zm_cache_array_mask(cache, &scope, 1).mode, "");
    end_well(&scope);
}

static void expect_mode(const zm_cache *cache, int length, int window, const char *mode) {
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    assert_string_equal(zm_cache_mask(cache, &scope, length, window).mode, mode);
    end_well(&scope);
}

static void test_masks(void **state) {
    (void)state;
    zm_cache full, window, array;
    zm_cache_init(&full, ZM_CACHE_KV, 0);
    zm_cache_init(&window, ZM_CACHE_ROTATING, 8);
    zm_cache_init(&array, ZM_CACHE_ARRAY, 0);
    expect_mode(NULL, 1, 0, "");
    expect_mode(NULL, 5, 0, "causal");
    expect_mode(NULL, 8, 8, "causal");
    expect_mask(NULL, 9, 8, 0);
    expect_mode(&full, 1, 0, "");
    expect_mode(&array, 5, 0, "");
    expect_mode(&window, 8, 8, "causal");
    expect_mask(&window, 9, 8, 0);
    expect_array(NULL, 5, 0);
    full.offset = window.offset = 3;
    expect_array(&full, 5, 3);
    expect_mode(&full, 5, 0, "causal");
    expect_mode(&window, 1, 8, "");
    expect_mode(&window, 5, 8, "causal");
    expect_mask(&window, 6, 8, 3);
    window.offset = 100;
    expect_mode(&window, 1, 8, "");
    expect_mask(&window, 2, 8, 7);
}

static void test_arrays_to_evaluate(void **state) {
    (void)state;
    zm_cache cache;
    plain model = {.n_rows = 0};
    mlx_array arrays[2];
    zm_cache_init(&cache, ZM_CACHE_KV, 0);
    assert_int_equal(zm_cache_arrays(&cache, arrays), 0);
    append_and_compare(&cache, &model, 3);
    assert_int_equal(zm_cache_arrays(&cache, arrays), 2);
    assert_ptr_equal(arrays[0].ctx, cache.keys.ctx);
    zm_cache_release(&cache);
    zm_cache_init(&cache, ZM_CACHE_ARRAY, 0);
    cache.state = mlx_array_new_float32(1);
    assert_int_equal(zm_cache_arrays(&cache, arrays), 1);
    zm_cache_release(&cache);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kv_growth),
        cmocka_unit_test(test_rotation),
        cmocka_unit_test(test_rotation_of_single_tokens),
        cmocka_unit_test(test_room_for_single_tokens),
        cmocka_unit_test(test_masks),
        cmocka_unit_test(test_arrays_to_evaluate),
    };
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
