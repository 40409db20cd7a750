/* SPDX-License-Identifier: MIT */
#include "model/safetensors.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"

enum { LENGTH_BYTES = 8, NAME_SHOWN = 200 };

static const struct {
    const char *name;
    mlx_dtype dtype;
    uint64_t size;
} types[] = {
    {"BOOL", MLX_BOOL, 1},     {"U8", MLX_UINT8, 1},      {"I8", MLX_INT8, 1},       {"U16", MLX_UINT16, 2},
    {"I16", MLX_INT16, 2},     {"U32", MLX_UINT32, 4},    {"I32", MLX_INT32, 4},     {"U64", MLX_UINT64, 8},
    {"I64", MLX_INT64, 8},     {"F16", MLX_FLOAT16, 2},   {"BF16", MLX_BFLOAT16, 2}, {"F32", MLX_FLOAT32, 4},
    {"C64", MLX_COMPLEX64, 8}, {"F8_E4M3", MLX_UINT8, 1}, {"F8_E8M0", MLX_UINT8, 1},
};

static zmlx_status fail_tensor(zmlx_error *error, const char *path, const char *name, const char *what) {
    return zm_fail(error, ZMLX_ERROR_FORMAT, path, "tensor '%.*s': %s", NAME_SHOWN, name, what);
}

static zmlx_status parse_type(zm_tensor_header *tensor, uint64_t *item_size, const json_t *entry,
                              const char *path, zmlx_error *error) {
    const char *text = json_string_value(json_object_get(entry, "dtype"));
    if (!text) return fail_tensor(error, path, tensor->name, "dtype is missing or not a string");
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(types[i].name, text)) continue;
        tensor->dtype = types[i].dtype;
        *item_size = types[i].size;
        return ZMLX_OK;
    }
    return zm_fail(error, ZMLX_ERROR_FORMAT, path, "tensor '%.*s': type '%.20s' is not supported", NAME_SHOWN,
                   tensor->name, text);
}

static zmlx_status parse_shape(zm_tensor_header *tensor, uint64_t *n_items, const json_t *entry,
                               const char *path, zmlx_error *error) {
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape))
        return fail_tensor(error, path, tensor->name, "shape is missing or not a list");
    size_t n_dims = json_array_size(shape);
    if (n_dims > ZM_TENSOR_MAX_DIMS)
        return zm_fail(error, ZMLX_ERROR_FORMAT, path, "tensor '%.*s': %zu dimensions are more than %d",
                       NAME_SHOWN, tensor->name, n_dims, ZM_TENSOR_MAX_DIMS);
    tensor->n_dims = (int)n_dims;
    *n_items = 1;
    for (size_t i = 0; i < n_dims; i++) {
        const json_t *value = json_array_get(shape, i);
        json_int_t dim = json_is_integer(value) ? json_integer_value(value) : -1;
        if (dim < 0 || dim > INT_MAX)
            return fail_tensor(error, path, tensor->name, "shape has an entry that is no size below 2^31");
        tensor->shape[i] = (int)dim;
        /* A zero size elsewhere does not excuse an overflow: MLX multiplies in order too. */
        if (dim && *n_items > INT64_MAX / 16 / (uint64_t)dim)
            return fail_tensor(error, path, tensor->name, "shape is too large");
        *n_items *= (uint64_t)dim;
    }
    return ZMLX_OK;
}

static zmlx_status parse_offsets(zm_tensor_header *tensor, uint64_t expected, uint64_t data_start,
                                 uint64_t file_size, const json_t *entry, const char *path,
                                 zmlx_error *error) {
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *second = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(second))
        return fail_tensor(error, path, tensor->name, "data_offsets is missing or not two integers");
    json_int_t begin = json_integer_value(first), end = json_integer_value(second);
    if (begin < 0 || end < begin)
        return zm_fail(error, ZMLX_ERROR_FORMAT, path,
                       "tensor '%.*s': data_offsets [%lld, %lld] are no range", NAME_SHOWN, tensor->name,
                       (long long)begin, (long long)end);
    if ((uint64_t)end > file_size - data_start)
        return zm_fail(error, ZMLX_ERROR_FORMAT, path,
                       "tensor '%.*s': data_offsets end at %lld, but the file has %llu bytes of data "
                       "(incomplete download?)",
                       NAME_SHOWN, tensor->name, (long long)end,
                       (unsigned long long)(file_size - data_start));
    if ((uint64_t)(end - begin) != expected)
        return zm_fail(error, ZMLX_ERROR_FORMAT, path,
                       "tensor '%.*s': data_offsets span %lld bytes, type and shape need %llu", NAME_SHOWN,
                       tensor->name, (long long)(end - begin), (unsigned long long)expected);
    tensor->offset = data_start + (uint64_t)begin;
    tensor->size = expected;
    return ZMLX_OK;
}

static zmlx_status parse_tensor(zm_tensor_header *tensor, const json_t *entry, uint64_t data_start,
                                uint64_t file_size, const char *path, zmlx_error *error) {
    if (!json_is_object(entry)) return fail_tensor(error, path, tensor->name, "its entry is not an object");
    uint64_t item_size, n_items;
    ZM_TRY(parse_type(tensor, &item_size, entry, path, error));
    ZM_TRY(parse_shape(tensor, &n_items, entry, path, error));
    return parse_offsets(tensor, n_items * item_size, data_start, file_size, entry, path, error);
}

static int compare_offsets(const void *left, const void *right) {
    const zm_tensor_header *a = left, *b = right;
    if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
    if (a->size != b->size) return a->size < b->size ? -1 : 1;
    return strcmp(a->name, b->name);
}

static zmlx_status check_layout(zm_safetensors *file, uint64_t data_start, const char *path,
                                zmlx_error *error) {
    if (file->n_tensors) qsort(file->tensors, file->n_tensors, sizeof file->tensors[0], compare_offsets);
    uint64_t end = data_start;
    for (size_t i = 0; i < file->n_tensors; i++) {
        const zm_tensor_header *tensor = &file->tensors[i];
        if (tensor->offset < end)
            return zm_fail(error, ZMLX_ERROR_FORMAT, path, "tensors '%.*s' and '%.*s' overlap", NAME_SHOWN,
                           file->tensors[i - 1].name, NAME_SHOWN, tensor->name);
        if (tensor->offset > end)
            return zm_fail(error, ZMLX_ERROR_FORMAT, path,
                           "%llu bytes before tensor '%.*s' belong to no tensor",
                           (unsigned long long)(tensor->offset - end), NAME_SHOWN, tensor->name);
        end = tensor->offset + tensor->size;
    }
    if (end != file->file_size)
        return zm_fail(error, ZMLX_ERROR_FORMAT, path, "%llu bytes at the end belong to no tensor",
                       (unsigned long long)(file->file_size - end));
    return ZMLX_OK;
}

static zmlx_status parse_tensors(zm_safetensors *file, json_t *header, uint64_t data_start, const char *path,
                                 zm_arena *arena, zmlx_error *error) {
    size_t n_entries = json_object_size(header);
    file->tensors = zm_arena_alloc(arena, n_entries, sizeof file->tensors[0]);
    if (!file->tensors) return zm_fail_memory(error);
    const char *name;
    json_t *entry;
    json_object_foreach(header, name, entry) {
        if (!strcmp(name, "__metadata__")) continue;
        zm_tensor_header *tensor = &file->tensors[file->n_tensors];
        tensor->name = zm_arena_copy(arena, name, strlen(name));
        if (!tensor->name) return zm_fail_memory(error);
        ZM_TRY(parse_tensor(tensor, entry, data_start, file->file_size, path, error));
        file->n_tensors++;
    }
    return check_layout(file, data_start, path, error);
}

static zmlx_status header_length(uint64_t *length, const unsigned char *bytes, uint64_t file_size,
                                 const char *path, zmlx_error *error) {
    if (file_size < LENGTH_BYTES)
        return zm_fail(error, ZMLX_ERROR_FORMAT, path, "%llu bytes are too few for a safetensors file",
                       (unsigned long long)file_size);
    *length = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--) *length = *length << 8 | bytes[i];
    if (*length > file_size - LENGTH_BYTES)
        return zm_fail(
            error, ZMLX_ERROR_FORMAT, path,
            "the header's length is %llu bytes, but the file has only %llu (incomplete download or "
            "not a safetensors file)",
            (unsigned long long)*length, (unsigned long long)file_size);
    if (*length > ZM_SAFETENSORS_MAX_HEADER)
        return zm_fail(error, ZMLX_ERROR_FORMAT, path, "the header's length is %llu bytes, more than %d",
                       (unsigned long long)*length, ZM_SAFETENSORS_MAX_HEADER);
    return ZMLX_OK;
}

zmlx_status zm_safetensors_parse(zm_safetensors *file, const char *bytes, size_t size, uint64_t file_size,
                                 const char *path, zm_arena *arena, zmlx_error *error) {
    *file = (zm_safetensors){.file_size = file_size};
    uint64_t length;
    if (size < LENGTH_BYTES && size < file_size)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, path, "too few bytes given");
    zmlx_status status = header_length(&length, (const unsigned char *)bytes, file_size, path, error);
    if (!status && length > size - LENGTH_BYTES)
        status = zm_fail(error, ZMLX_ERROR_ARGUMENT, path, "too few bytes given");
    json_t *header = NULL;
    if (!status) status = zm_json_parse(&header, bytes + LENGTH_BYTES, (size_t)length, path, error);
    if (!status) status = parse_tensors(file, header, LENGTH_BYTES + length, path, arena, error);
    json_decref(header);
    if (status) *file = (zm_safetensors){0};
    return status;
}

static zmlx_status read_start(int descriptor, char *bytes, size_t size, const char *path, zmlx_error *error) {
    for (size_t done = 0; done < size;) {
        ssize_t got = pread(descriptor, bytes + done, size - done, (off_t)done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return zm_fail(error, ZMLX_ERROR_FILE, path, "cannot read: %s", strerror(errno));
        if (!got) return zm_fail(error, ZMLX_ERROR_FILE, path, "the file became shorter while it was read");
        done += (size_t)got;
    }
    return ZMLX_OK;
}

zmlx_status zm_safetensors_read(zm_safetensors *file, int descriptor, const char *path, zm_arena *arena,
                                zmlx_error *error) {
    *file = (zm_safetensors){0};
    struct stat info;
    if (fstat(descriptor, &info))
        return zm_fail(error, ZMLX_ERROR_FILE, path, "cannot read: %s", strerror(errno));
    if (!S_ISREG(info.st_mode)) return zm_fail(error, ZMLX_ERROR_FILE, path, "not a regular file");
    uint64_t file_size = (uint64_t)info.st_size, length;
    char start[LENGTH_BYTES];
    ZM_TRY(read_start(descriptor, start, file_size < sizeof start ? (size_t)file_size : sizeof start, path,
                      error));
    ZM_TRY(header_length(&length, (const unsigned char *)start, file_size, path, error));
    char *bytes = malloc(LENGTH_BYTES + (size_t)length);
    if (!bytes) return zm_fail_memory(error);
    zmlx_status status = read_start(descriptor, bytes, LENGTH_BYTES + (size_t)length, path, error);
    if (!status)
        status =
            zm_safetensors_parse(file, bytes, LENGTH_BYTES + (size_t)length, file_size, path, arena, error);
    free(bytes);
    return status;
}
