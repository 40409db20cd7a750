/* SPDX-License-Identifier: MIT */
/* Rows of a timeline from stamps that are known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "fused/cuda/sizes.cuh"
#include "fused/cuda/timeline.h"

enum { WORDS = 2, STEP = 10000 /* ns from one release to the next */ };

static void set(uint32_t *stamps, int launch, int block, int stamp, uint64_t time) {
    uint32_t *at = stamps + (((size_t)launch * STAMP_BLOCKS + (size_t)block) * STAMPS + (size_t)stamp) * WORDS;
    at[0] = (uint32_t)time;
    at[1] = (uint32_t)(time >> 32);
}

/* A launch's blocks, each 100 ns behind the one before it but for its begin; the clock is beyond 32 bits. */
static void set_launch(uint32_t *stamps, int launch, int grid, bool has_input) {
    uint64_t release = (UINT64_C(1) << 40) + (uint64_t)launch * STEP;
    for (int i = 0; i < grid; i++) {
        int block = (i * 7 + 3) % grid;
        uint64_t later = (uint64_t)i * 100;
        set(stamps, launch, block, STAMP_BEGUN, release - 2000);
        set(stamps, launch, block, STAMP_WAITED, release + later);
        if (has_input) set(stamps, launch, block, STAMP_READY, release + 1000 + later);
        if (has_input) set(stamps, launch, block, STAMP_FIRST, release + 1500 + later);
        set(stamps, launch, block, STAMP_ENDED, release + 5000 + later);
    }
}

static void assert_near(double seconds, double nanoseconds) {
    if (!(fabs(seconds * 1e9 - nanoseconds) < 0.01)) fail_msg("%g ns instead of %g", seconds * 1e9, nanoseconds);
}

static void rows_are_medians_of_like_launches(void **state) {
    (void)state;
    enum { N = 7, BLOCKS = 5, MANY = STAMP_BLOCKS + 9 };
    const zm_timed_launch other = {ZM_DECODE_KERNEL_router, BLOCKS, 64}, like = {ZM_DECODE_KERNEL_conv, BLOCKS, 4096};
    const zm_timed_launch larger = {ZM_DECODE_KERNEL_conv, MANY, 8192};
    const zm_timed_launch launches[N] = {other, like, like, other, like, larger, other};
    uint32_t *stamps = calloc((size_t)N * STAMP_BLOCKS * STAMPS * WORDS, sizeof *stamps);
    assert_non_null(stamps);
    for (int i = 0; i < N; i++) set_launch(stamps, i, i == 5 ? STAMP_BLOCKS : BLOCKS, i != 0 && i != 3 && i != 6);
    for (int i = 0; i < N; i += 3) set(stamps, i, 1, STAMP_READY, UINT64_C(1) << 39); /* of an earlier step */
    zmlx_timeline_row rows[ZMLX_TIMELINE_ROWS];
    assert_int_equal(zm_timeline_summarize(rows, stamps, launches, N), 3);
    assert_string_equal(rows[0].kernel, "router");
    assert_string_equal(rows[1].kernel, "conv");
    assert_string_equal(rows[2].kernel, "conv");
    assert_true(rows[0].n_launches == 3 && rows[1].n_launches == 3 && rows[2].n_launches == 1);
    assert_true(rows[1].bytes == 4096 && rows[1].n_blocks == BLOCKS && rows[2].n_blocks == MANY);
    for (int i = 0; i < 2; i++) {
        assert_near(rows[i].seconds, STEP); /* the last launch's end is nearer, but it is one of three */
        assert_near(rows[i].begun, -2000);
        assert_near(rows[i].ended, 5200);
        assert_near(rows[i].last_ended, 5400);
    }
    assert_near(rows[0].ready, 0);
    assert_near(rows[1].ready, 1200);
    assert_near(rows[1].first, 1700);
    assert_near(rows[1].gap, STEP - 5400);
    assert_near(rows[2].last_ended, 5000 + 100 * (STAMP_BLOCKS - 1));
    /* Alone: until its own end; nothing comes before it. */
    assert_int_equal(zm_timeline_summarize(rows, stamps, launches, 1), 1);
    assert_near(rows[0].seconds, 5400);
    assert_near(rows[0].gap, 0);
    free(stamps);
}

/* Where there is no GPU, or no step, nothing is shown. */
static void ends_without_a_step(void **state) {
    (void)state;
    zmlx_timeline_row rows[ZMLX_TIMELINE_ROWS];
    int n_rows = 3;
    zmlx_error error;
    assert_false(zm_timeline_is_on());
    assert_int_equal(zm_timeline_end(rows, &n_rows, &error), ZMLX_OK);
    assert_int_equal(n_rows, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_medians_of_like_launches),
        cmocka_unit_test(ends_without_a_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
