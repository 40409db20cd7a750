/* SPDX-License-Identifier: MIT */
#include "model/checkpoint_source.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/pages.h"
#include "mlx/node.h"
#include "runtime/workers.h"

/* What a thread reads at a time: most of the work is the system's, which provides and clears the pages. */
enum { PIECE_BYTES = 4 << 20 };

typedef struct open_file {
    char *path;
    int descriptor;
} open_file;

struct zm_source {
    atomic_size_t holders;
    zm_arena *arena;
    open_file *files;
    int n_files, capacity;
    atomic_uint_least64_t bytes_read;
    pthread_mutex_t failure_lock;
    zmlx_error failure;
};

/* The state of one reading node. */
typedef struct reading {
    zm_source *source;
    const char *name;
    uint64_t offset, size;
    int file_index;
} reading;

zmlx_status zm_source_new(zm_source **source, zmlx_error *error) {
    *source = NULL;
    zm_source *made = calloc(1, sizeof *made);
    if (!made) return zm_fail_memory(error);
    made->arena = zm_arena_new();
    if (!made->arena || pthread_mutex_init(&made->failure_lock, NULL)) {
        zm_arena_free(made->arena);
        free(made);
        return zm_fail_memory(error);
    }
    atomic_init(&made->holders, 1);
    atomic_init(&made->bytes_read, 0);
    *source = made;
    return ZMLX_OK;
}

void zm_source_release(zm_source *source) {
    if (!source || atomic_fetch_sub(&source->holders, 1) != 1) return;
    for (int i = 0; i < source->n_files; i++) close(source->files[i].descriptor);
    pthread_mutex_destroy(&source->failure_lock);
    free(source->files);
    zm_arena_free(source->arena);
    free(source);
}

static bool reserve_file(zm_source *source) {
    if (source->n_files < source->capacity) return true;
    int capacity = source->capacity ? source->capacity * 2 : 8;
    open_file *files = realloc(source->files, (size_t)capacity * sizeof files[0]);
    if (!files) return false;
    source->files = files;
    source->capacity = capacity;
    return true;
}

zmlx_status zm_source_open(zm_safetensors *file, int *file_index, zm_source *source, const char *path,
                           zmlx_error *error) {
    *file = (zm_safetensors){0};
    *file_index = -1;
    char *path_copy = zm_arena_copy(source->arena, path, strlen(path));
    if (!path_copy || !reserve_file(source)) return zm_fail_memory(error);
    /* A pipe must not block the opening; it is refused as no regular file. */
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) return zm_fail(error, ZMLX_ERROR_FILE, path, "cannot open: %s", strerror(errno));
    zmlx_status status = zm_safetensors_read(file, descriptor, path_copy, source->arena, error);
    if (status) {
        close(descriptor);
        return status;
    }
    *file_index = source->n_files++;
    source->files[*file_index] = (open_file){.path = path_copy, .descriptor = descriptor};
    return ZMLX_OK;
}

const char *zm_source_path(const zm_source *source, int file_index) { return source->files[file_index].path; }

static void remember_failure(zm_source *source, const reading *what, const char *reason) {
    pthread_mutex_lock(&source->failure_lock);
    if (!source->failure.code)
        zm_fail(&source->failure, ZMLX_ERROR_FILE, source->files[what->file_index].path,
                "cannot read tensor '%.200s': %s", what->name, reason);
    pthread_mutex_unlock(&source->failure_lock);
}

/* Where a tensor's bytes go. */
typedef struct loading {
    const reading *what;
    char *data;
} loading;

/* The bytes [begin, end) of the tensor. */
static void read_bytes(const loading *of, uint64_t begin, uint64_t end) {
    const reading *what = of->what;
    zm_source *source = what->source;
    int descriptor = source->files[what->file_index].descriptor;
    while (begin < end) {
        ssize_t got = pread(descriptor, of->data + begin, (size_t)(end - begin), (off_t)(what->offset + begin));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            remember_failure(source, what, got ? strerror(errno) : "the file became shorter");
            memset(of->data + begin, 0, (size_t)(end - begin));
            return;
        }
        begin += (uint64_t)got;
        atomic_fetch_add(&source->bytes_read, (uint64_t)got);
    }
}

static void read_pieces(void *context, size_t begin, size_t end) {
    const loading *of = context;
    uint64_t last = (uint64_t)end * PIECE_BYTES;
    read_bytes(of, (uint64_t)begin * PIECE_BYTES, last < of->what->size ? last : of->what->size);
}

static void read_tensor(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs,
                        int n_outputs) {
    (void)inputs, (void)n_inputs, (void)n_outputs;
    const reading *what = state;
    loading of = {.what = what, .data = outputs[0].data};
    zm_want_large_pages(of.data, (size_t)what->size);
    zm_pool_run(zm_workers(), (size_t)((what->size + PIECE_BYTES - 1) / PIECE_BYTES), 1, read_pieces, &of);
}

static void free_reading(void *state) {
    reading *what = state;
    zm_source_release(what->source);
    free(what);
}

static const zm_node_class reading_class = {
    .name = "zmlx.load",
    .evaluate_cpu = read_tensor,
    .free_state = free_reading,
};

zmlx_status zm_source_array(mlx_array *array, zm_source *source, int file_index,
                            const zm_tensor_header *tensor, mlx_stream stream, zmlx_error *error) {
    *array = (mlx_array){0};
    reading *what = malloc(sizeof *what);
    if (!what) return zm_fail_memory(error);
    *what = (reading){.source = source,
                      .name = tensor->name,
                      .offset = tensor->offset,
                      .size = tensor->size,
                      .file_index = file_index};
    atomic_fetch_add(&source->holders, 1);
    zm_node_output spec = {.n_dims = tensor->n_dims, .dtype = tensor->dtype};
    for (int i = 0; i < tensor->n_dims; i++) spec.shape[i] = tensor->shape[i];
    return zm_node_apply(array, &spec, 1, &reading_class, what, NULL, 0, stream, error);
}

uint64_t zm_source_bytes_read(const zm_source *source) { return atomic_load(&source->bytes_read); }

zmlx_status zm_source_failure(zm_source *source, zmlx_error *error) {
    pthread_mutex_lock(&source->failure_lock);
    zmlx_status status = source->failure.code;
    if (status && error) *error = source->failure;
    pthread_mutex_unlock(&source->failure_lock);
    return status;
}
