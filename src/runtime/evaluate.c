/* SPDX-License-Identifier: MIT */
/* Running an application: on the CPU's threads, or as a launch on a GPU. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/pages.h"
#include "emit/gpu/gpu.h"
#include "runtime/cache.h"
#include "runtime/kernel.h"
#include "runtime/workers.h"

enum {
    MIN_PIECE = 1 << 15, /* elements of a piece of work: enough to hide the wake-up of a thread, a few microseconds */
    MAX_PIECE = 1 << 18, /* longer runs of memory would be read no faster */
    MANY_PIECES = 256,   /* for the threads to share */
    ROW_ALIGNMENT = 16,       /* floats of a scratch row are rounded up to this */
    SCRATCH_ALIGNMENT = 64,
    VECTOR_BYTES = 16 /* the widest access of a GPU's kernel */
};

/* Work as pieces: of rows, or of columns of each row. */
typedef struct pieces {
    int64_t rows_each, columns_each;
    int64_t n_column_pieces, count;
} pieces;

static pieces cut(const zm_application *application) {
    int64_t rows = application->extent.rows, columns = application->extent.columns;
    int64_t share = rows * columns / MANY_PIECES;
    int64_t elements = share < MIN_PIECE ? MIN_PIECE : share > MAX_PIECE ? MAX_PIECE : share;
    bool by_rows = zm_ir_has_rows(application->kernel->forward) || columns <= elements;
    pieces work = {.rows_each = 1, .columns_each = columns, .n_column_pieces = 1};
    if (by_rows)
        work.rows_each = columns < elements ? elements / (columns > 0 ? columns : 1) : 1;
    else
        work.columns_each = elements;
    if (!by_rows) work.n_column_pieces = (columns + work.columns_each - 1) / work.columns_each;
    work.count = (rows + work.rows_each - 1) / work.rows_each * work.n_column_pieces;
    return work;
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

typedef struct run {
    const zm_application *application;
    const zm_c_call *call;
    pieces work;
    atomic_llong next;
} run;

/* One worker: takes pieces until none is left. */
static void work_on(void *context, size_t begin, size_t end) {
    run *self = context;
    const zm_application *application = self->application;
    const pieces *work = &self->work;
    for (size_t worker = begin; worker < end; worker++) {
        zm_c_call call = *self->call;
        void *outputs[ZM_IR_MAX_OUTPUTS];
        memcpy(outputs, call.outputs, sizeof outputs);
        call.outputs = outputs;
        if (application->scratch) call.scratch = application->scratch + worker * application->scratch_floats;
        for (int64_t piece; (piece = atomic_fetch_add(&self->next, 1)) < work->count;) {
            int64_t row = piece / work->n_column_pieces * work->rows_each;
            int64_t column = piece % work->n_column_pieces * work->columns_each;
            for (int i = 0; application->summed_outputs >> i; i++)
                if (application->summed_outputs >> i & 1)
                    outputs[i] = (float *)self->call->outputs[i] + piece * call.columns;
            application->variant->function(&call, row, smaller(row + work->rows_each, call.rows), column,
                                           smaller(column + work->columns_each, call.columns));
        }
    }
}

void zm_application_evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    const zm_application *application = state;
    const void *in[ZM_IR_MAX_INPUTS];
    void *out[ZM_IR_MAX_OUTPUTS] = {NULL};
    size_t size = 0;
    bool streams = application->stream_stores;
    for (int i = 0; i < n_inputs; i++) in[i] = inputs[i].data;
    const zm_extent *extent = &application->extent;
    for (int i = 0; i < n_outputs; i++) {
        size_t bytes = outputs[i].size * (size_t)zm_storage_bytes(application->variant->storages[n_inputs + i]);
        out[i] = outputs[i].data;
        size += outputs[i].size;
        for (int j = 0; j < n_inputs; j++)
            streams = streams && out[i] != in[j]; /* what was just read is in the caches */
        zm_want_large_pages(out[i], bytes);
        if (bytes && application->summed_outputs >> i & 1) memset(out[i], 0, bytes);
    }
    if (!size) return;
    if (application->joins_outputs)
        out[1] = (char *)out[0] + extent->columns * zm_storage_bytes(application->variant->storages[n_inputs]);
    zm_c_call call = {.inputs = in,
                      .outputs = out,
                      .layouts = extent->layouts,
                      .rows = extent->rows,
                      .columns = extent->columns,
                      .output_stride = application->joins_outputs ? 2 * extent->columns : extent->columns,
                      .parameters = application->numbers.parameters,
                      .seeds = application->numbers.seeds,
                      .stream_stores = streams};
    run self = {.application = application, .call = &call, .work = cut(application)};
    atomic_init(&self.next, 0);
    zm_pool_run(application->n_workers > 1 ? zm_workers() : NULL, (size_t)application->n_workers, 1, work_on, &self);
}

/* What is told of large processors is the sum of caches that a core reaches one of, and of others' machines. */
static size_t last_level_cache(void) {
    enum { USUAL = 32 << 20, MOST = 64 << 20 };
#ifdef _SC_LEVEL3_CACHE_SIZE
    long size = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (size > 0) return size < MOST ? (size_t)size : MOST;
#endif
    return USUAL;
}

static zm_gpu_plan plan_launch(const zm_application *application, bool is_aligned) {
    const zm_extent *extent = &application->extent;
    const zm_storage *storages = application->variant->storages;
    zm_emit_request request = {application->kernel->forward,
                               storages,
                               storages + application->kernel->forward->n_inputs,
                               application->kernel->symbol,
                               application->joins_outputs,
                               application->summed_outputs};
    return zm_gpu_plan_launch(&request, extent->rows > 1 ? extent->rows : 1, extent->columns > 1 ? extent->columns : 1,
                              extent->layouts, is_aligned);
}

static zmlx_status prepare_workers(zm_application *application, zmlx_error *error) {
    const zm_ir *ir = application->kernel->forward;
    const zm_extent *extent = &application->extent;
    pieces work = cut(application);
    int n_threads = zm_pool_threads(zm_workers());
    application->n_workers = work.count < n_threads ? (work.count > 1 ? (int)work.count : 1) : n_threads;
    size_t bytes = 0;
    for (int i = 0; i < ir->n_inputs + ir->n_outputs; i++)
        bytes += (size_t)(extent->rows * extent->columns) * (size_t)zm_storage_bytes(application->variant->storages[i]);
    application->stream_stores = bytes > last_level_cache();
    if (!application->variant->scratch_rows) return ZMLX_OK;
    size_t row = ((size_t)extent->columns + ROW_ALIGNMENT - 1) / ROW_ALIGNMENT * ROW_ALIGNMENT;
    application->scratch_floats = row * (size_t)application->variant->scratch_rows;
    size_t floats = application->scratch_floats * (size_t)application->n_workers;
    if (floats && posix_memalign((void **)&application->scratch, SCRATCH_ALIGNMENT, floats * sizeof(float)))
        return zm_fail_memory(error);
    return ZMLX_OK;
}

zmlx_status zm_application_prepare(zm_application *application, zmlx_error *error) {
    const zm_text *cubin;
    switch (application->variant->gpu) {
    case ZM_GPU_CUDA:
        return zm_variant_cubin(&cubin, application->variant, plan_launch(application, true).part, error);
    case ZM_GPU_METAL: return ZMLX_OK;
    case ZM_GPU_NONE: break;
    }
    return prepare_workers(application, error);
}

static void add_number(uint32_t *words, int *n_words, const void *number, size_t size) {
    memcpy(words + *n_words, number, size);
    *n_words += (int)(size / sizeof *words);
}

int64_t zm_application_sum_rows(const zm_application *application) {
    int64_t count = cut(application).count;
    if (application->variant->gpu == ZM_GPU_NONE) return count > 1 ? count : 1;
    zm_gpu_plan plan = plan_launch(application, true);
    return zm_gpu_sum_rows(&plan);
}

int zm_application_words(uint32_t words[ZM_GPU_MAX_SCALARS], const zm_application *application) {
    const zm_ir *ir = application->kernel->forward;
    const zm_extent *extent = &application->extent;
    int32_t threads_per_row = plan_launch(application, true).threads_per_row;
    int n_words = 0;
    add_number(words, &n_words, &extent->rows, sizeof extent->rows); /* little-endian: low word first */
    add_number(words, &n_words, &extent->columns, sizeof extent->columns);
    add_number(words, &n_words, &threads_per_row, sizeof threads_per_row);
    add_number(words, &n_words, extent->layouts, (size_t)ir->n_inputs * sizeof *extent->layouts);
    for (int i = 0; i < ir->n_parameters; i++) {
        if (ir->parameters[i].is_seed)
            add_number(words, &n_words, &application->numbers.seeds[i], sizeof(uint64_t));
        else
            add_number(words, &n_words, &application->numbers.parameters[i], sizeof(float));
    }
    return n_words;
}

bool zm_application_is_aligned(const zm_application *application, const zm_view *inputs, int n_inputs) {
    int n_own = application->kernel->forward->n_inputs;
    const zm_storage *storages = application->variant->storages;
    bool is_aligned = true;
    for (int i = 0; i < n_inputs; i++) {
        size_t begin = inputs[i].offset;
        if (i < n_own && application->extent.layouts[i] & ZM_LAYOUT_SECOND)
            begin += (size_t)application->extent.columns * (size_t)zm_storage_bytes(storages[i]);
        is_aligned = is_aligned && begin % VECTOR_BYTES == 0;
    }
    size_t half = (size_t)application->extent.columns * (size_t)zm_storage_bytes(storages[n_own]);
    return is_aligned && !(application->joins_outputs && half % VECTOR_BYTES);
}

zmlx_status zm_application_launch(const void *state, zm_gpu_launch *launch, const zm_view *inputs, int n_inputs,
                                  const zm_view *outputs, int n_outputs, zmlx_error *error) {
    (void)outputs, (void)n_outputs;
    const zm_application *application = state;
    const zm_variant *variant = application->variant;
    zm_gpu_plan plan = plan_launch(application, zm_application_is_aligned(application, inputs, n_inputs));
    launch->name = application->kernel->symbol;
    launch->code = variant->code;
    launch->code_size = variant->code_size;
    if (variant->gpu == ZM_GPU_CUDA) {
        const zm_text *cubin;
        ZM_TRY(zm_variant_cubin(&cubin, variant, plan.part, error));
        launch->code = cubin->data;
        launch->code_size = cubin->size;
    }
    launch->header = variant->header;
    launch->input_names = variant->input_names;
    launch->output_names = variant->output_names;
    launch->grid = plan.blocks * plan.threads;
    launch->block = plan.threads;
    launch->shared_bytes = plan.shared_bytes;
    launch->n_scalars = zm_application_words(launch->scalars, application);
    return ZMLX_OK;
}
