/* SPDX-License-Identifier: MIT */
#include "fused/cuda/timeline.h"

#include "base/statistics.h"
#include "fused/cuda/sizes.cuh"
#include "mlx/streams.h"

static const char name[] = "timeline";

enum {
    LAUNCH_STAMPS = STAMP_BLOCKS * STAMPS,
    WORDS = 2, /* of a stamp */
    MOST_SHOWN = STAMP_LAUNCHES - 1,
};

/* Of the process: stamps are an option of whole programs of kernels. */
static struct {
    bool is_on;
    mlx_array stamps; /* of STAMP_LAUNCHES launches, as zm_timeline_summarize takes them */
    bool has_step;    /* one began: launches without one, of a layer alone, are not shown */
    zm_timed_launch launches[MOST_SHOWN];
    int n_launches; /* of the step, that are shown */
} timeline;

bool zm_timeline_is_on(void) { return timeline.is_on; }
void zm_timeline_restart(void) {
    if (!timeline.is_on) return; /* steps of several threads share it then */
    timeline.has_step = true;
    timeline.n_launches = 0;
}

zmlx_status zm_timeline_begin(zmlx_error *error) {
    mlx_stream stream;
    ZM_TRY(zm_stream_new(&stream, MLX_GPU, error));
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    timeline.stamps = mlx_array_new();
    mlx_array zeros = zm_zeros(&scope, (const int[]){STAMP_LAUNCHES * LAUNCH_STAMPS * WORDS}, 1, MLX_UINT32);
    zm_scope_keep(&scope, &timeline.stamps, zeros);
    zmlx_status status = zm_scope_end(&scope, error);
    if (!status && mlx_array_eval(timeline.stamps)) status = zm_mlx_fail(error, name);
    zm_stream_free(stream);
    timeline.has_step = false;
    timeline.n_launches = 0;
    timeline.is_on = !status;
    if (status) mlx_array_free(timeline.stamps);
    return status;
}

void zm_timeline_add(zm_launch *launch) {
    if (!timeline.is_on) return;
    int number = MOST_SHOWN;
    if (timeline.has_step && timeline.n_launches < MOST_SHOWN) {
        number = timeline.n_launches++;
        timeline.launches[number] = (zm_timed_launch){launch->kernel, launch->record.grid, launch->bytes};
    }
    zm_launch_add_constant(launch, timeline.stamps);
    zm_launch_add_int(launch, number);
}

/* A step's stamps, and the launches that left them. */
typedef struct step_stamps {
    const uint32_t *words;
    const zm_timed_launch *launches;
    int n_launches;
} step_stamps;

static uint64_t stamp_of(const step_stamps *of, int launch, int block, int stamp) {
    size_t number = (size_t)launch * LAUNCH_STAMPS + (size_t)block * STAMPS + (size_t)stamp;
    const uint32_t *at = of->words + number * WORDS;
    return (uint64_t)at[1] << 32 | at[0];
}

/* One stamp of a launch's blocks, 0 where a block has none, or has one of an earlier step, in which the launch of that
 * number was another. */
static uint64_t own_stamp(const step_stamps *of, int launch, int block, int stamp) {
    uint64_t own = stamp_of(of, launch, block, stamp);
    return own >= stamp_of(of, launch, block, STAMP_BEGUN) ? own : 0;
}

static int stamped_blocks(const step_stamps *of, int launch) {
    int grid = of->launches[launch].grid;
    return grid < STAMP_BLOCKS ? grid : STAMP_BLOCKS;
}

static uint64_t release_of(const step_stamps *of, int launch) {
    uint64_t first = 0;
    for (int block = 0; block < stamped_blocks(of, launch); block++) {
        uint64_t own = own_stamp(of, launch, block, STAMP_WAITED);
        if (own && (!first || own < first)) first = own;
    }
    return first;
}

static double seconds_between(uint64_t from, uint64_t to) { return 1e-9 * (double)(int64_t)(to - from); }

/* When a launch's median block and its last one had a stamp, in seconds behind `from`; 0 where none has it. */
typedef struct moment {
    double median, last;
} moment;

static moment moment_of(const step_stamps *of, int launch, int stamp, uint64_t from) {
    double seconds[STAMP_BLOCKS];
    size_t count = 0;
    for (int block = 0; block < stamped_blocks(of, launch); block++) {
        uint64_t own = own_stamp(of, launch, block, stamp);
        if (own) seconds[count++] = seconds_between(from, own);
    }
    double median = zm_median(seconds, count); /* which sorts them */
    return (moment){median, count ? seconds[count - 1] : 0};
}

/* What a row has of one launch. */
enum { SECONDS, GAP, BEGUN, READY, FIRST_WEIGHTS, ENDED, ENDED_LAST, N_VALUES };

static void read_launch(double *values, const step_stamps *of, int launch) {
    uint64_t release = release_of(of, launch);
    moment ended = moment_of(of, launch, STAMP_ENDED, release);
    bool is_last = launch + 1 == of->n_launches;
    values[SECONDS] = is_last ? ended.last : seconds_between(release, release_of(of, launch + 1));
    values[GAP] = launch ? -moment_of(of, launch - 1, STAMP_ENDED, release).last : 0;
    values[BEGUN] = moment_of(of, launch, STAMP_BEGUN, release).last;
    values[READY] = moment_of(of, launch, STAMP_READY, release).median;
    values[FIRST_WEIGHTS] = moment_of(of, launch, STAMP_FIRST, release).median;
    values[ENDED] = ended.median;
    values[ENDED_LAST] = ended.last;
}

static bool same_row(const zm_timed_launch *a, const zm_timed_launch *b) {
    return a->kernel == b->kernel && a->bytes == b->bytes && a->grid == b->grid;
}

/* The launches like the one at `first`, which is the first of them. */
static void summarize(zmlx_timeline_row *row, const step_stamps *of, int first) {
    double all[N_VALUES][STAMP_LAUNCHES], medians[N_VALUES];
    const zm_timed_launch *like = &of->launches[first];
    int count = 0;
    for (int i = first; i < of->n_launches; i++) {
        double values[N_VALUES];
        if (!same_row(&of->launches[i], like)) continue;
        read_launch(values, of, i);
        for (int v = 0; v < N_VALUES; v++) all[v][count] = values[v];
        count++;
    }
    for (int v = 0; v < N_VALUES; v++) medians[v] = zm_median(all[v], (size_t)count);
    *row = (zmlx_timeline_row){.kernel = zm_decode_kernel_name(like->kernel),
                               .n_launches = count,
                               .n_blocks = like->grid,
                               .bytes = like->bytes,
                               .seconds = medians[SECONDS],
                               .gap = medians[GAP],
                               .begun = medians[BEGUN],
                               .ready = medians[READY],
                               .first = medians[FIRST_WEIGHTS],
                               .ended = medians[ENDED],
                               .last_ended = medians[ENDED_LAST]};
}

int zm_timeline_summarize(zmlx_timeline_row *rows, const uint32_t *stamps, const zm_timed_launch *launches,
                          int n_launches) {
    step_stamps of = {stamps, launches, n_launches};
    int n_rows = 0;
    for (int i = 0; i < n_launches && n_rows < ZMLX_TIMELINE_ROWS; i++) {
        int before = 0;
        while (before < i && !same_row(&launches[before], &launches[i])) before++;
        if (before == i) summarize(&rows[n_rows++], &of, i);
    }
    return n_rows;
}

zmlx_status zm_timeline_end(zmlx_timeline_row *rows, int *n_rows, zmlx_error *error) {
    zmlx_status status = ZMLX_OK;
    int n_launches = timeline.n_launches;
    *n_rows = 0;
    if (timeline.is_on && rows) {
        const uint32_t *words = n_launches ? mlx_array_data_uint32(timeline.stamps) : NULL;
        if (words) *n_rows = zm_timeline_summarize(rows, words, timeline.launches, n_launches);
        else status = zm_fail(error, ZMLX_ERROR_UNSUPPORTED, name, "no decode step of CUDA kernels was made");
    }
    if (timeline.is_on) mlx_array_free(timeline.stamps);
    timeline.is_on = false;
    return status;
}
