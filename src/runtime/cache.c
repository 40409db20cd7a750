/* SPDX-License-Identifier: MIT */
/* Compiled code of this process: each source is taken from disk or compiled once, different ones at the same time. */
#include "runtime/cache.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/map.h"
#include "runtime/prebuilt.h"
#include "runtime/cache_parts.h"

enum { N_CHAINS = 256, STORES_BETWEEN_TRIMS = 64 };
static const double COMPILER_SECONDS = 60;

typedef enum module_state { MODULE_MAKING, MODULE_READY, MODULE_FAILED } module_state;

/* A key and what became of it. Ready ones stay for the life of the process. */
typedef struct module {
    struct module *next; /* in its chain */
    zm_text key;
    uint64_t hash;
    module_state state;
    int n_waiting;       /* threads that wait for the one that makes it; the last frees a failed one */
    zmlx_status status;
    zmlx_error error;
    bool compiled;
    void *symbol;        /* of a shared object */
    int scratch_rows;
    zm_text code;        /* a cubin */
} module;

/* What to make a module from. */
typedef struct module_source {
    const char *text;
    size_t size;
    const char *entry;      /* C */
    const char *compiler;   /* C */
    const zm_cuda_source *cuda;
    int part;               /* CUDA */
    bool is_counted;
    const char *extension;
    zmlx_status (*compile)(module *, const struct module_source *, const char *work, const char *output,
                           zmlx_error *);
    bool (*use)(module *, const struct module_source *, const char *path, zmlx_error *);
    zmlx_status (*compile_apart)(module *, const struct module_source *, zmlx_error *); /* not in the cache's folder */
} module_source;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    module *chains[N_CHAINS];
} table = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static atomic_uint_fast64_t n_compiled, n_loaded;

zm_cache_counts zm_cache_get_counts(void) {
    return (zm_cache_counts){.compiled = atomic_load(&n_compiled), .loaded = atomic_load(&n_loaded)};
}

static void module_free(module *this) {
    zm_text_free(&this->key);
    zm_text_free(&this->code);
    free(this);
}

/* Moves what was compiled into the folder; without a folder, or where that fails, the next process compiles again. */
static void store(const char *output, const char *entry_path, const char *folder) {
    static atomic_uint n_stored;
    if (rename(output, entry_path)) return;
    if (atomic_fetch_add(&n_stored, 1) % STORES_BETWEEN_TRIMS == 0)
        zm_cache_trim(folder, ZM_CACHE_MAX_ENTRIES, ZM_CACHE_MAX_BYTES);
}

/* Compiles in a work folder in `folder` (NULL: the system's temporary one) and keeps the result as entry_path. */
static zmlx_status compile_in(module *this, const module_source *source, const char *folder, const char *entry_path,
                              zmlx_error *error) {
    char *work, name[40];
    ZM_TRY(zm_work_folder_new(&work, folder, error));
    snprintf(name, sizeof name, "%016llx.%s", (unsigned long long)this->hash, source->extension);
    char *output = zm_path_join(work, name);
    zmlx_status status = output ? source->compile(this, source, work, output, error) : zm_fail_memory(error);
    if (!status) {
        this->compiled = true;
        status = zm_entry_seal(output, &this->key, error);
    }
    if (!status && !source->use(this, source, output, error)) status = error->code;
    if (!status && entry_path) store(output, entry_path, folder);
    free(output);
    zm_work_folder_free(work);
    return status;
}

static zmlx_status compile_in_temporary(module *this, const module_source *source, zmlx_error *error) {
    return compile_in(this, source, NULL, NULL, error);
}

static zmlx_status make(module *this, const module_source *source, zmlx_error *error) {
    char name[40], *folder = zm_cache_folder();
    snprintf(name, sizeof name, "%016llx.%s", (unsigned long long)this->hash, source->extension);
    char *path = folder ? zm_path_join(folder, name) : NULL;
    if (path && zm_entry_read(NULL, path, &this->key) && source->use(this, source, path, error)) {
        if (source->is_counted) atomic_fetch_add(&n_loaded, 1);
        free(path);
        free(folder);
        return ZMLX_OK;
    }
    zmlx_status status = ZMLX_ERROR_FILE;
    if (path) status = compile_in(this, source, folder, path, error);
    /* A folder that is full, read-only or bars programs does not stop the kernel. */
    if (status == ZMLX_ERROR_FILE) status = source->compile_apart(this, source, error);
    free(path);
    free(folder);
    return status;
}

static module **find(const zm_text *key, uint64_t hash) {
    module **link = &table.chains[hash % N_CHAINS];
    while (*link && ((*link)->hash != hash || (*link)->key.size != key->size ||
                     memcmp((*link)->key.data, key->data, key->size)))
        link = &(*link)->next;
    return link;
}

/* With the lock held. */
static zmlx_status wait_for(module *this, zmlx_error *error) {
    this->n_waiting++;
    while (this->state == MODULE_MAKING) pthread_cond_wait(&table.changed, &table.lock);
    this->n_waiting--;
    zmlx_status status = this->status;
    if (status && error) *error = this->error;
    if (status && !this->n_waiting) module_free(this);
    return status;
}

/* With the lock held. A failure is not kept: the next caller tries again. */
static zmlx_status finish(module *this, zmlx_status status, zmlx_error *error) {
    this->status = status;
    this->state = status ? MODULE_FAILED : MODULE_READY;
    pthread_cond_broadcast(&table.changed);
    if (!status) return ZMLX_OK;
    *find(&this->key, this->hash) = this->next;
    if (error) *error = this->error;
    if (!this->n_waiting) module_free(this);
    return status;
}

/* The module of key, which is taken over. *is_new: this call made it. */
static zmlx_status get(module **result, bool *is_new, zm_text *key, const module_source *source, zmlx_error *error) {
    *result = NULL;
    *is_new = false;
    if (key->failed) {
        zm_text_free(key);
        return zm_fail_memory(error);
    }
    uint64_t hash = zm_hash(key->data, key->size);
    pthread_mutex_lock(&table.lock);
    module **link = find(key, hash), *this = *link;
    zmlx_status status = ZMLX_OK;
    if (this) {
        zm_text_free(key);
        if (this->state != MODULE_READY) status = wait_for(this, error);
    } else if (!(this = calloc(1, sizeof *this))) {
        zm_text_free(key);
        status = zm_fail_memory(error);
    } else {
        this->key = *key;
        this->hash = hash;
        *link = this;
        *is_new = true;
        pthread_mutex_unlock(&table.lock);
        status = make(this, source, &this->error);
        pthread_mutex_lock(&table.lock);
        status = finish(this, status, error);
    }
    pthread_mutex_unlock(&table.lock);
    if (!status) *result = this;
    return status;
}

static zmlx_status compile_c(module *this, const module_source *source, const char *work, const char *output,
                             zmlx_error *error) {
    (void)this;
    atomic_fetch_add(&n_compiled, 1);
    return zm_host_compiler_run(source->compiler, work, output, source->text, source->size, COMPILER_SECONDS, error);
}

static bool use_shared_object(module *this, const module_source *source, const char *path, zmlx_error *error) {
    char scratch_name[300];
    snprintf(scratch_name, sizeof scratch_name, "%s_scratch", source->entry);
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        const char *reason = dlerror();
        zm_fail(error, ZMLX_ERROR_FILE, path, "cannot be loaded: %s", reason ? reason : "no reason given");
        return false;
    }
    void *symbol = dlsym(handle, source->entry);
    const int32_t *scratch_rows = dlsym(handle, scratch_name);
    if (!symbol || !scratch_rows) {
        zm_fail(error, ZMLX_ERROR_FORMAT, source->entry, "the compiled kernel lacks %s",
                symbol ? scratch_name : source->entry);
        dlclose(handle);
        return false;
    }
    this->symbol = symbol;
    this->scratch_rows = *scratch_rows;
    return true;
}

zmlx_status zm_compile_c(void **symbol, int *scratch_rows, int *compiled, const char *source, size_t size,
                         const char *entry, zmlx_error *error) {
    *symbol = NULL;
    *scratch_rows = 0;
    if (compiled) *compiled = 0;
    if (strlen(entry) > 256) return zm_fail(error, ZMLX_ERROR_ARGUMENT, "entry", "longer than 256 characters");
    if (zm_prebuilt_find(symbol, scratch_rows, source, size)) return ZMLX_OK;
    char *compiler;
    ZM_TRY(zm_host_compiler_find(&compiler, error));
    zm_text key = {0};
    zm_text_append_string(&key, "C\n");
    zm_host_compiler_describe(&key, compiler);
    zm_text_printf(&key, "%s\n", entry);
    zm_text_append(&key, source, size);
    module_source from = {.text = source, .size = size, .entry = entry, .compiler = compiler, .extension = "so",
                          .is_counted = true, .compile = compile_c, .use = use_shared_object,
                          .compile_apart = compile_in_temporary};
    module *made;
    bool is_new;
    zmlx_status status = get(&made, &is_new, &key, &from, error);
    free(compiler);
    if (status) return status;
    *symbol = made->symbol;
    *scratch_rows = made->scratch_rows;
    if (compiled) *compiled = is_new && made->compiled;
    return ZMLX_OK;
}

/* NVRTC needs no folder; what it made before its result could not be written is there. */
static zmlx_status compile_cuda_apart(module *this, const module_source *source, zmlx_error *error) {
    if (this->code.data) return ZMLX_OK;
    if (source->is_counted) atomic_fetch_add(&n_compiled, 1);
    ZM_TRY(zm_nvrtc_run(&this->code, source->cuda, source->part, error));
    this->compiled = true;
    return ZMLX_OK;
}

static zmlx_status compile_cuda(module *this, const module_source *source, const char *work, const char *output,
                                zmlx_error *error) {
    (void)work;
    ZM_TRY(compile_cuda_apart(this, source, error));
    return zm_file_write(output, this->code.data, this->code.size, error);
}

static bool use_cubin(module *this, const module_source *source, const char *path, zmlx_error *error) {
    (void)source;
    if (this->code.data || zm_entry_read(&this->code, path, &this->key)) return true;
    zm_fail(error, ZMLX_ERROR_FILE, path, "cannot be read");
    return false;
}

zmlx_status zm_cuda_part_get(const zm_text **cubin, int *compiled, const zm_cuda_source *source, int part,
                             zmlx_error *error) {
    *cubin = NULL;
    if (compiled) *compiled = 0;
    zm_text key = {0};
    zm_text_append_string(&key, "CUDA\n");
    zmlx_status status = zm_nvrtc_describe(&key, source, error);
    zm_text_printf(&key, " part %d\n", part);
    zm_text_append(&key, source->text, source->size);
    if (status) {
        zm_text_free(&key);
        return status;
    }
    module_source from = {.cuda = source, .part = part, .is_counted = part == source->first, .extension = "cubin",
                          .compile = compile_cuda, .use = use_cubin, .compile_apart = compile_cuda_apart};
    module *made;
    bool is_new;
    ZM_TRY(get(&made, &is_new, &key, &from, error));
    *cubin = &made->code;
    if (compiled) *compiled = is_new && made->compiled;
    return ZMLX_OK;
}
