/* SPDX-License-Identifier: MIT */
/* Named arrays in safetensors files. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "mlx/scope.h"
#include "mlx/streams.h"
#include "model/checkpoint_source.h"
#include "zmlx/arrays.h"

struct zmlx_arrays {
    zm_source *source;
    zm_safetensors file; /* in memory of source */
    mlx_array *values;
};

static zmlx_status read_tensors(zmlx_arrays *arrays, int file_index, const char *path, mlx_stream stream,
                                zmlx_error *error) {
    arrays->values = calloc(arrays->file.n_tensors + 1, sizeof *arrays->values);
    if (!arrays->values) return zm_fail_memory(error);
    for (size_t i = 0; i < arrays->file.n_tensors; i++) {
        ZM_TRY(zm_source_array(&arrays->values[i], arrays->source, file_index, &arrays->file.tensors[i], stream,
                               error));
        if (mlx_array_eval(arrays->values[i])) return zm_mlx_fail(error, path);
    }
    return zm_source_failure(arrays->source, error);
}

/* The stream, of which there are few, is given back: evaluated arrays need none. */
static zmlx_status read_all(zmlx_arrays *arrays, const char *path, zmlx_error *error) {
    int file_index;
    mlx_stream stream;
    ZM_TRY(zm_source_new(&arrays->source, error));
    ZM_TRY(zm_source_open(&arrays->file, &file_index, arrays->source, path, error));
    ZM_TRY(zm_stream_new(&stream, MLX_CPU, error));
    zmlx_status status = read_tensors(arrays, file_index, path, stream, error);
    zm_stream_free(stream);
    return status;
}

zmlx_status zmlx_arrays_load(zmlx_arrays **arrays, const char *path, zmlx_error *error) {
    zm_error_clear(error);
    *arrays = NULL;
    if (!path) return zm_fail_null(error, "path");
    zmlx_arrays *made = calloc(1, sizeof *made);
    if (!made) return zm_fail_memory(error);
    zmlx_status status = read_all(made, path, error);
    if (status) {
        zmlx_arrays_free(made);
        return status;
    }
    *arrays = made;
    return ZMLX_OK;
}

size_t zmlx_arrays_count(const zmlx_arrays *arrays) { return arrays ? arrays->file.n_tensors : 0; }

const char *zmlx_arrays_name(const zmlx_arrays *arrays, size_t index) {
    return index < zmlx_arrays_count(arrays) ? arrays->file.tensors[index].name : NULL;
}

mlx_array zmlx_arrays_get(const zmlx_arrays *arrays, const char *name) {
    for (size_t i = 0; name && i < zmlx_arrays_count(arrays); i++)
        if (!strcmp(arrays->file.tensors[i].name, name)) return arrays->values[i];
    return (mlx_array){NULL};
}

void zmlx_arrays_free(zmlx_arrays *arrays) {
    if (!arrays) return;
    for (size_t i = 0; arrays->values && i < arrays->file.n_tensors; i++) mlx_array_free(arrays->values[i]);
    free(arrays->values);
    zm_source_release(arrays->source);
    free(arrays);
}

/* What zm_safetensors_read knows. */
static const struct {
    mlx_dtype dtype;
    const char *name;
} file_types[] = {
    {MLX_BOOL, "BOOL"},   {MLX_UINT8, "U8"},  {MLX_INT8, "I8"},       {MLX_UINT16, "U16"}, {MLX_INT16, "I16"},
    {MLX_UINT32, "U32"},  {MLX_INT32, "I32"}, {MLX_UINT64, "U64"},    {MLX_INT64, "I64"},  {MLX_FLOAT16, "F16"},
    {MLX_FLOAT32, "F32"}, {MLX_BFLOAT16, "BF16"}, {MLX_COMPLEX64, "C64"}};

static const char *file_type(mlx_dtype dtype) {
    for (size_t i = 0; i < sizeof file_types / sizeof *file_types; i++)
        if (file_types[i].dtype == dtype) return file_types[i].name;
    return NULL;
}

/* The array's bytes in row order, evaluated. */
static zmlx_status append_bytes(zm_text *data, mlx_array value, mlx_stream stream, zmlx_error *error) {
    if (!mlx_array_size(value)) return ZMLX_OK;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array packed = zm_contiguous(&scope, value);
    zmlx_status status = ZMLX_OK;
    if (!zm_scope_failed(&scope)) {
        if (mlx_array_eval(packed))
            status = zm_mlx_fail(error, "evaluation");
        else
            zm_text_append(data, (const char *)mlx_array_data_uint8(packed), mlx_array_nbytes(packed));
    }
    zmlx_status graph = zm_scope_end(&scope, error);
    return graph ? graph : status;
}

static json_t *describe(const char *type, mlx_array value, size_t begin, size_t end) {
    json_t *shape = json_array();
    for (int i = 0; i < (int)mlx_array_ndim(value); i++)
        json_array_append_new(shape, json_integer(mlx_array_dim(value, i)));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", type, "shape", shape, "data_offsets", (json_int_t)begin,
                     (json_int_t)end);
}

/* One entry of the header, and the data it speaks of. */
static zmlx_status append_array(json_t *header, zm_text *data, const char *name, mlx_array value, mlx_stream stream,
                                zmlx_error *error) {
    if (!name) return zm_fail_null(error, "names");
    if (!value.ctx) return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "the array is an empty handle");
    const char *type = file_type(mlx_array_dtype(value));
    if (!type)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, name, "a safetensors file has no type for %s",
                       zm_dtype_name(mlx_array_dtype(value)));
    if (json_object_get(header, name)) return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "two arrays have this name");
    if (!strcmp(name, "__metadata__")) return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "no array can have this name");
    size_t begin = data->size;
    ZM_TRY(append_bytes(data, value, stream, error));
    if (data->failed) return zm_fail_memory(error);
    if (json_object_set_new(header, name, describe(type, value, begin, data->size)))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "the name is not UTF-8, or memory ran out");
    return ZMLX_OK;
}

static zmlx_status write_file(const char *path, const json_t *header, const zm_text *data, zmlx_error *error) {
    enum { LENGTH_BYTES = 8 };
    zm_text file = {0};
    char *text = json_dumps(header, JSON_COMPACT);
    zm_text_append(&file, "\0\0\0\0\0\0\0\0", LENGTH_BYTES);
    zm_text_append_string(&file, text ? text : "");
    while (file.size % LENGTH_BYTES && !file.failed) zm_text_append_string(&file, " ");
    uint64_t length = file.size - LENGTH_BYTES;
    for (int i = 0; i < LENGTH_BYTES && !file.failed; i++) file.data[i] = (char)(length >> (8 * i));
    if (data->size) zm_text_append(&file, data->data, data->size);
    bool failed = !text || file.failed;
    zmlx_status status = failed ? zm_fail_memory(error) : zm_file_write(path, file.data, file.size, error);
    free(text);
    zm_text_free(&file);
    return status;
}

zmlx_status zmlx_arrays_save(const char *path, const char *const *names, const mlx_array *values, size_t count,
                             zmlx_error *error) {
    zm_error_clear(error);
    if (!path) return zm_fail_null(error, "path");
    if (count && (!names || !values)) return zm_fail_null(error, names ? "values" : "names");
    zm_text data = {0};
    mlx_stream stream;
    ZM_TRY(zm_stream_new(&stream, MLX_CPU, error));
    json_t *header = json_object();
    zmlx_status status = header ? ZMLX_OK : zm_fail_memory(error);
    for (size_t i = 0; i < count && !status; i++)
        status = append_array(header, &data, names[i], values[i], stream, error);
    if (!status) status = write_file(path, header, &data, error);
    json_decref(header);
    zm_text_free(&data);
    zm_stream_free(stream);
    return status;
}

zmlx_status zmlx_stream_new(mlx_stream *stream, mlx_device_type device, zmlx_error *error) {
    zm_error_clear(error);
    return zm_stream_new(stream, device, error);
}

void zmlx_stream_free(mlx_stream stream) { zm_stream_free(stream); }
