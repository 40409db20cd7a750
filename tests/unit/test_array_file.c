/* SPDX-License-Identifier: MIT */
/* Named arrays to a safetensors file and back; what no file can hold, and files that are none. */
#include "mlx_testing.h"

#include <fcntl.h>
#include <unistd.h>

#include "temporary.h"
#include "zmlx/arrays.h"

enum { MAX_PATH = TEMPORARY_SIZE + 40, MAX_FILE = 4096 };
static char folder[TEMPORARY_SIZE], path[MAX_PATH];
static zmlx_error failure;

static int open_folder(void **state) {
    if (!mkdtemp(temporary_template(folder))) return 1;
    snprintf(path, sizeof path, "%s/arrays.safetensors", folder);
    return open_stream(state);
}

static int remove_folder(void **state) {
    close_stream(state);
    return temporary_remove(folder);
}

static zmlx_arrays *load(void) {
    zmlx_arrays *arrays;
    if (zmlx_arrays_load(&arrays, path, &failure)) fail_msg("%s: %s", failure.where, failure.message);
    return arrays;
}

static void save(const char *const *names, const mlx_array *values, size_t count) {
    if (zmlx_arrays_save(path, names, values, count, &failure)) fail_msg("%s: %s", failure.where, failure.message);
}

static size_t read_file(char bytes[MAX_FILE]) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t size = fread(bytes, 1, MAX_FILE, file);
    fclose(file);
    return size;
}

static void write_bytes(const char *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    fclose(file);
}

static void expect_saved(const mlx_array *values, const zmlx_arrays *arrays, const char *name, int i) {
    mlx_array loaded = zmlx_arrays_get(arrays, name);
    assert_non_null(loaded.ctx);
    assert_int_equal(mlx_array_dtype(loaded), mlx_array_dtype(values[i]));
    assert_int_equal(mlx_array_ndim(loaded), mlx_array_ndim(values[i]));
    for (int axis = 0; axis < (int)mlx_array_ndim(loaded); axis++)
        assert_int_equal(mlx_array_dim(loaded, axis), mlx_array_dim(values[i], axis));
}

/* Bytes without a pattern as every type, so that all bits count. */
static void every_type_comes_back(void **state) {
    (void)state;
    static const struct {
        const char *name;
        mlx_dtype dtype;
        int size;
    } types[] = {{"bool", MLX_BOOL, 1},   {"u8", MLX_UINT8, 1},    {"i8", MLX_INT8, 1},      {"u16", MLX_UINT16, 2},
                 {"i16", MLX_INT16, 2},   {"u32", MLX_UINT32, 4},  {"i32", MLX_INT32, 4},    {"u64", MLX_UINT64, 8},
                 {"i64", MLX_INT64, 8},   {"f16", MLX_FLOAT16, 2}, {"f32", MLX_FLOAT32, 4},  {"bf16", MLX_BFLOAT16, 2},
                 {"c64", MLX_COMPLEX64, 8}};
    enum { N_TYPES = sizeof types / sizeof *types };
    unsigned char bytes[N_TYPES][48];
    const char *names[N_TYPES];
    mlx_array values[N_TYPES];
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < N_TYPES; i++) {
        for (int j = 0; j < 6 * types[i].size; j++)
            bytes[i][j] = types[i].dtype == MLX_BOOL ? j & 1 : (unsigned char)(37 * j + 11 * i);
        names[i] = types[i].name;
        values[i] = zm_from_data(&scope, bytes[i], SHAPE(2, 3), types[i].dtype);
    }
    assert_false(zm_scope_failed(&scope));
    save(names, values, N_TYPES);
    zmlx_arrays *arrays = load();
    assert_int_equal(zmlx_arrays_count(arrays), N_TYPES);
    for (int i = 0; i < N_TYPES; i++) {
        assert_string_equal(zmlx_arrays_name(arrays, (size_t)i), names[i]);
        expect_saved(values, arrays, names[i], i);
        mlx_array loaded = zmlx_arrays_get(arrays, names[i]);
        assert_int_equal(mlx_array_nbytes(loaded), 6 * types[i].size);
        assert_memory_equal(mlx_array_data_uint8(loaded), bytes[i], mlx_array_nbytes(loaded));
    }
    assert_null(zmlx_arrays_name(arrays, N_TYPES));
    assert_null(zmlx_arrays_get(arrays, "f64").ctx);
    zmlx_arrays_free(arrays);
    end_well(&scope);
}

/* 0-d, empty and 8-d arrays; views in any order of memory; results that are not computed yet; names of any text. */
static void any_shape_layout_and_name(void **state) {
    (void)state;
    static const char *const names[] = {"scalar", "",    "none", "a \"quoted\" \\ name\n", "\xc3\xa9t\xc3\xa9",
                                        "eight",  "lazy"};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = zm_reshape2(&scope, zm_arange(&scope, 0, 6, 1, MLX_FLOAT32), 2, 3);
    mlx_array values[] = {zm_scalar(&scope, 2.5, MLX_FLOAT16),
                          zm_zeros(&scope, SHAPE(0), MLX_FLOAT32),
                          zm_zeros(&scope, SHAPE(3, 0, 5), MLX_INT32),
                          zm_swapaxes(&scope, x, 0, 1),
                          zm_slice_axis(&scope, x, 1, 1, 3, 1),
                          zm_zeros(&scope, SHAPE(1, 2, 1, 1, 1, 1, 1, 3), MLX_BFLOAT16),
                          zm_broadcast_to(&scope, zm_sum(&scope, x, 0, false), SHAPE(2, 3))};
    assert_false(zm_scope_failed(&scope));
    save(names, values, COUNT(values));
    zmlx_arrays *arrays = load();
    assert_int_equal(zmlx_arrays_count(arrays), COUNT(values));
    for (int i = 0; i < COUNT(values); i++) expect_saved(values, arrays, names[i], i);
    expect_values(&scope, zmlx_arrays_get(arrays, "scalar"), VALUES(2.5), 0);
    expect_values(&scope, zmlx_arrays_get(arrays, names[3]), VALUES(0, 3, 1, 4, 2, 5), 0);
    expect_values(&scope, zmlx_arrays_get(arrays, names[4]), VALUES(1, 2, 4, 5), 0);
    expect_values(&scope, zmlx_arrays_get(arrays, "lazy"), VALUES(3, 5, 7, 3, 5, 7), 0);
    zmlx_arrays_free(arrays);
    save(NULL, NULL, 0);
    arrays = load();
    assert_int_equal(zmlx_arrays_count(arrays), 0);
    assert_null(zmlx_arrays_name(arrays, 0));
    zmlx_arrays_free(arrays);
    end_well(&scope);
}

/* The arrays are read when the file is loaded: what becomes of it later does not matter. */
static void nothing_is_read_later(void **state) {
    (void)state;
    static const char *const name = "x";
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = zm_arange(&scope, 0, 5, 1, MLX_FLOAT32), kept = {NULL};
    save(&name, &x, 1);
    zmlx_arrays *arrays = load();
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(mlx_array_set(&kept, zmlx_arrays_get(arrays, "x")), 0);
    zmlx_arrays_free(arrays);
    expect_values(&scope, kept, VALUES(0, 1, 2, 3, 4), 0);
    mlx_array_free(kept);
    end_well(&scope);
}

static void expect_refusal(zmlx_status status, const char *const *names, const mlx_array *values, size_t count,
                           const char *text) {
    assert_int_equal(zmlx_arrays_save(path, names, values, count, &failure), status);
    if (!strstr(failure.message, text)) fail_msg("\"%s\" is not in \"%s: %s\"", text, failure.where, failure.message);
}

/* A save that fails leaves the file as it was and nothing beside it. */
static void a_failed_save_changes_nothing(void **state) {
    (void)state;
    static const char *const good = "x", *const twice[] = {"x", "x"}, *const reserved = "__metadata__",
                             *const broken = "\xff";
    char before[MAX_FILE], after[MAX_FILE];
    zm_scope scope;
    zm_scope_begin(&scope, host_stream);
    mlx_array x[] = {zm_arange(&scope, 0, 5, 1, MLX_FLOAT32), zm_arange(&scope, 0, 9, 1, MLX_FLOAT32)};
    mlx_array wide = zm_scalar(&scope, 1, MLX_FLOAT64);
    save(&good, x, 1);
    size_t size = read_file(before);
    expect_refusal(ZMLX_ERROR_ARGUMENT, twice, x, 2, "two arrays have this name");
    expect_refusal(ZMLX_ERROR_ARGUMENT, &reserved, x, 1, "no array can have this name");
    expect_refusal(ZMLX_ERROR_ARGUMENT, &broken, x, 1, "not UTF-8");
    expect_refusal(ZMLX_ERROR_ARGUMENT, &good, &none, 1, "empty handle");
    expect_refusal(ZMLX_ERROR_UNSUPPORTED, &good, &wide, 1, "float64");
    assert_int_equal(read_file(after), size);
    assert_memory_equal(before, after, size);

    /* The new content appears at once: who has the old file open still reads the old one. */
    int descriptor = open(path, O_RDONLY);
    assert_true(descriptor >= 0);
    save(&good, x + 1, 1);
    assert_int_equal(read(descriptor, after, sizeof after), size);
    assert_memory_equal(before, after, size);
    close(descriptor);
    assert_true(read_file(after) > size);

    char place[MAX_PATH], command[2 * MAX_PATH];
    snprintf(place, sizeof place, "%s/none/x.safetensors", folder);
    assert_int_equal(zmlx_arrays_save(place, &good, x, 1, &failure), ZMLX_ERROR_FILE);
    assert_string_equal(failure.where, place);
    snprintf(command, sizeof command, "test \"$(ls '%s')\" = arrays.safetensors", folder);
    assert_int_equal(system(command), 0);
    end_well(&scope);
}

static void expect_bad_file(const char *bytes, size_t size) {
    zmlx_arrays *arrays;
    write_bytes(bytes, size);
    zmlx_status status = zmlx_arrays_load(&arrays, path, &failure);
    if (status != ZMLX_ERROR_FORMAT) fail_msg("%zu bytes: status %d", size, status);
    assert_null(arrays);
    if (!strstr(failure.where, "arrays.safetensors") || strchr(failure.message, '\n') || !failure.message[0])
        fail_msg("%s: %s", failure.where, failure.message);
}

static void every_cut_and_lie_is_refused(void **state) {
    (void)state;
    static const char *const names[] = {"x", "y"};
    char bytes[MAX_FILE];
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array values[] = {zm_arange(&scope, 0, 5, 1, MLX_FLOAT32), zm_arange(&scope, 0, 3, 1, MLX_UINT8)};
    save(names, values, 2);
    size_t size = read_file(bytes);
    for (size_t cut = 0; cut < size; cut++) expect_bad_file(bytes, cut);
    bytes[size] = 0;
    expect_bad_file(bytes, size + 1);
    /* Every byte of length and header replaced: an error or arrays, never a crash. */
    size_t end = size - 23;
    for (size_t i = 0; i < end; i++) {
        static const char others[] = {'\0', '9', '-', '"', '}', '\xff'};
        char kept = bytes[i];
        for (int j = 0; j < COUNT(others); j++) {
            zmlx_arrays *arrays;
            bytes[i] = others[j];
            write_bytes(bytes, size);
            if (!zmlx_arrays_load(&arrays, path, &failure)) zmlx_arrays_free(arrays);
        }
        bytes[i] = kept;
    }
    zmlx_arrays *arrays;
    assert_int_equal(zmlx_arrays_load(&arrays, folder, &failure), ZMLX_ERROR_FILE);
    assert_null(arrays);
    assert_int_equal(zmlx_arrays_load(&arrays, "/none", NULL), ZMLX_ERROR_FILE);
    zmlx_arrays_free(NULL);
    end_well(&scope);
}

/* More at once than there are streams. */
static void many_files(void **state) {
    (void)state;
    enum { COUNT = 40 };
    const char *const name = "x";
    mlx_array x = mlx_array_new_float32(3);
    zmlx_arrays *loaded[COUNT];
    save(&name, &x, 1);
    for (int i = 0; i < COUNT; i++) loaded[i] = load();
    for (int i = 0; i < COUNT; i++) {
        assert_true(mlx_array_data_float32(zmlx_arrays_get(loaded[i], name))[0] == 3);
        zmlx_arrays_free(loaded[i]);
    }
    mlx_array_free(x);
}

/* A stream of one's own, for the threads of a program. */
static void streams(void **state) {
    (void)state;
    mlx_stream own, other;
    assert_int_equal(zmlx_stream_new(&other, (mlx_device_type)7, &failure), ZMLX_ERROR_ARGUMENT);
    assert_string_equal(failure.where, "device");
    assert_int_equal(zmlx_stream_new(&own, MLX_CPU, &failure), ZMLX_OK);
    zm_scope scope;
    zm_scope_begin(&scope, own);
    expect_values(&scope, zm_arange(&scope, 0, 3, 1, MLX_FLOAT32), VALUES(0, 1, 2), 0);
    end_well(&scope);
    zmlx_stream_free(own);
    zmlx_stream_free((mlx_stream){NULL});
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_comes_back),         cmocka_unit_test(any_shape_layout_and_name),
        cmocka_unit_test(nothing_is_read_later),         cmocka_unit_test(a_failed_save_changes_nothing),
        cmocka_unit_test(every_cut_and_lie_is_refused),  cmocka_unit_test(streams),
        cmocka_unit_test(many_files),
    };
    return cmocka_run_group_tests(tests, open_folder, remove_folder);
}
