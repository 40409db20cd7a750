/* SPDX-License-Identifier: MIT */
/* The safetensors header: what the format allows is read, anything else is one clear error. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/safetensors.h"
#include "temporary.h"

enum { MAX_FILE = 4096 };

typedef struct image {
    char bytes[MAX_FILE];
    size_t size;
} image;

/* A file of that header and so many bytes of data. */
static image make_image(const char *header, size_t data_bytes) {
    image made = {.size = 8 + strlen(header) + data_bytes};
    assert_true(made.size <= MAX_FILE);
    uint64_t length = strlen(header);
    for (int i = 0; i < 8; i++) made.bytes[i] = (char)(length >> (8 * i));
    memcpy(made.bytes + 8, header, (size_t)length);
    return made;
}

/* Parses a copy of exactly size bytes, so that a read past them is seen. */
static zmlx_status parse_bytes(zm_safetensors *file, const char *bytes, size_t size, zm_arena *arena,
                               zmlx_error *error) {
    char *copy = malloc(size ? size : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, size);
    zmlx_status status = zm_safetensors_parse(file, copy, size, size, "m.safetensors", arena, error);
    free(copy);
    return status;
}

static const char good[] = "{\"__metadata__\":{\"format\":\"mlx\"},"
                           "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[8,32]},"
                           "\"a\":{\"dtype\":\"U32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                           "\"s\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[32,34]},"
                           "\"e\":{\"dtype\":\"F16\",\"shape\":[0,7],\"data_offsets\":[34,34]}}";

static void test_reads_a_header(void **state) {
    (void)state;
    image made = make_image(good, 34);
    zm_arena *arena = zm_arena_new();
    zm_safetensors file;
    zmlx_error error = {0};
    assert_int_equal(parse_bytes(&file, made.bytes, made.size, arena, &error), ZMLX_OK);
    assert_int_equal(file.n_tensors, 4);
    const zm_tensor_header *a = &file.tensors[0], *b = &file.tensors[1], *s = &file.tensors[2];
    assert_string_equal(a->name, "a");
    assert_int_equal(a->dtype, MLX_UINT32);
    assert_int_equal(a->offset, 8 + sizeof good - 1);
    assert_string_equal(b->name, "b");
    assert_int_equal(b->n_dims, 2);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->size, 24);
    assert_int_equal(s->n_dims, 0);
    assert_int_equal(s->dtype, MLX_BFLOAT16);
    assert_string_equal(file.tensors[3].name, "e");
    assert_int_equal(file.tensors[3].size, 0);
    zm_arena_free(arena);
}

static void test_every_truncation_fails(void **state) {
    (void)state;
    image made = make_image(good, 34);
    for (size_t size = 0; size < made.size; size++) {
        zm_arena *arena = zm_arena_new();
        zm_safetensors file;
        zmlx_error error = {0};
        assert_int_equal(parse_bytes(&file, made.bytes, size, arena, &error), ZMLX_ERROR_FORMAT);
        assert_string_equal(error.where, "m.safetensors");
        assert_true(error.message[0]);
        assert_null(file.tensors);
        zm_arena_free(arena);
    }
}

typedef struct bad_case {
    const char *header;
    size_t data_bytes;
    const char *message; /* part of it */
} bad_case;

#define TENSOR(name, dtype, shape, offsets) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static const bad_case bad_cases[] = {
    {"[]", 0, "expected a JSON object"},
    {"{", 0, "not valid JSON"},
    {"", 0, "not valid JSON"},
    {"{" TENSOR("x", "F32", "[1]", "[0,4]") "," TENSOR("x", "F32", "[1]", "[4,8]") "}", 8, "duplicate"},
    {"{\"x\":7}", 0, "'x': its entry is not an object"},
    {"{\"x\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'x': dtype"},
    {"{" TENSOR("x", "F64", "[1]", "[0,8]") "}", 8, "'x': type 'F64' is not supported"},
    {"{\"x\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "'x': shape is missing"},
    {"{" TENSOR("x", "F32", "[-1]", "[0,4]") "}", 4, "'x': shape has an entry"},
    {"{" TENSOR("x", "F32", "[1.0]", "[0,4]") "}", 4, "'x': shape has an entry"},
    {"{" TENSOR("x", "F32", "[2147483648]", "[0,4]") "}", 4, "'x': shape has an entry"},
    {"{" TENSOR("x", "F32", "[2147483647,2147483647,2147483647]", "[0,4]") "}", 4, "'x': shape is too large"},
    {"{" TENSOR("x", "F32", "[0,2147483647,2147483647,2147483647]", "[0,4]") "}", 4, "'x'"},
    {"{" TENSOR("x", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, "'x': 9 dimensions"},
    {"{\"x\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "'x': data_offsets is missing"},
    {"{" TENSOR("x", "F32", "[1]", "[0,4,8]") "}", 4, "'x': data_offsets is missing or not two"},
    {"{" TENSOR("x", "F32", "[1]", "[-4,0]") "}", 4, "'x': data_offsets [-4, 0] are no range"},
    {"{" TENSOR("x", "F32", "[1]", "[4,0]") "}", 4, "'x': data_offsets [4, 0] are no range"},
    {"{" TENSOR("x", "F32", "[1]", "[0,9223372036854775807]") "}", 4, "'x': data_offsets end at"},
    {"{" TENSOR("x", "F32", "[2]", "[0,8]") "}", 4, "'x': data_offsets end at 8, but the file has 4"},
    {"{" TENSOR("x", "F32", "[2]", "[0,4]") "}", 4, "'x': data_offsets span 4 bytes, type and shape need 8"},
    {"{" TENSOR("x", "F32", "[2]", "[0,8]") "," TENSOR("y", "F32", "[2]", "[4,12]") "}", 12,
     "'x' and 'y' overlap"},
    {"{" TENSOR("x", "F32", "[1]", "[0,4]") "," TENSOR("y", "F32", "[1]", "[0,4]") "}", 4,
     "'x' and 'y' overlap"},
    {"{" TENSOR("x", "F32", "[1]", "[4,8]") "}", 8, "4 bytes before tensor 'x' belong to no tensor"},
    {"{" TENSOR("x", "F32", "[1]", "[0,4]") "}", 7, "3 bytes at the end belong to no tensor"},
};

static void test_refuses_what_the_format_forbids(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad_cases / sizeof bad_cases[0]; i++) {
        image made = make_image(bad_cases[i].header, bad_cases[i].data_bytes);
        zm_arena *arena = zm_arena_new();
        zm_safetensors file;
        zmlx_error error = {0};
        zmlx_status status = parse_bytes(&file, made.bytes, made.size, arena, &error);
        if (status != ZMLX_ERROR_FORMAT || !strstr(error.message, bad_cases[i].message))
            fail_msg("%s: %s, expected \"%s\"", bad_cases[i].header, error.message, bad_cases[i].message);
        zm_arena_free(arena);
    }
}

static void test_header_longer_than_the_file(void **state) {
    (void)state;
    image made = make_image("{}", 0);
    zm_arena *arena = zm_arena_new();
    zm_safetensors file;
    zmlx_error error = {0};
    made.bytes[7] = (char)0xff; /* length 2^64 - ... */
    assert_int_equal(parse_bytes(&file, made.bytes, made.size, arena, &error), ZMLX_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "header's length"));
    made.bytes[7] = 0;
    assert_int_equal(parse_bytes(&file, made.bytes, made.size, arena, &error), ZMLX_OK);
    assert_int_equal(file.n_tensors, 0);
    /* A header within the file, but beyond the limit. */
    uint64_t length = (uint64_t)ZM_SAFETENSORS_MAX_HEADER + 1;
    for (int i = 0; i < 8; i++) made.bytes[i] = (char)(length >> (8 * i));
    assert_int_equal(zm_safetensors_parse(&file, made.bytes, made.size, UINT64_MAX / 2, "m", arena, &error),
                     ZMLX_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "more than"));
    zm_arena_free(arena);
}

static void test_reads_from_a_file(void **state) {
    (void)state;
    char path[TEMPORARY_SIZE];
    int descriptor = mkstemp(temporary_template(path));
    assert_true(descriptor >= 0);
    unlink(path);
    image made = make_image(good, 34);
    assert_int_equal(write(descriptor, made.bytes, made.size), made.size);
    zm_arena *arena = zm_arena_new();
    zm_safetensors file;
    zmlx_error error = {0};
    assert_int_equal(zm_safetensors_read(&file, descriptor, path, arena, &error), ZMLX_OK);
    assert_int_equal(file.n_tensors, 4);
    for (off_t size = (off_t)made.size - 1; size >= 0; size -= 17) {
        assert_int_equal(ftruncate(descriptor, size), 0);
        assert_int_equal(zm_safetensors_read(&file, descriptor, path, arena, &error), ZMLX_ERROR_FORMAT);
    }
    close(descriptor);
    zm_arena_free(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_a_header),
        cmocka_unit_test(test_every_truncation_fails),
        cmocka_unit_test(test_refuses_what_the_format_forbids),
        cmocka_unit_test(test_header_longer_than_the_file),
        cmocka_unit_test(test_reads_from_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
