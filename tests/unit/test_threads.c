/* SPDX-License-Identifier: MIT */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/limits.h"
#include "base/threads.h"

enum { COUNT = 10007, CALLERS = 3 };

typedef struct loop_record {
    unsigned char visits[COUNT];
    size_t grain;
    atomic_size_t pieces, small_pieces;
} loop_record;

static void visit(void *context, size_t begin, size_t end) {
    loop_record *record = context;
    atomic_fetch_add(&record->pieces, 1);
    if (end - begin < record->grain) atomic_fetch_add(&record->small_pieces, 1);
    for (size_t i = begin; i < end; i++) record->visits[i]++;
}

static bool loop_is_right(zm_pool *pool, size_t count, size_t grain) {
    loop_record *record = calloc(1, sizeof *record);
    if (!record) return false;
    record->grain = grain;
    zm_pool_run(pool, count, grain, visit, record);
    /* Only the last piece may be shorter than the grain. */
    bool right = atomic_load(&record->small_pieces) <= 1;
    for (size_t i = 0; i < COUNT; i++) right = right && record->visits[i] == (i < count);
    free(record);
    return right;
}

static void every_index_is_visited_once(void **state) {
    (void)state;
    static const size_t counts[] = {0, 1, 2, 7, 64, 1000, COUNT};
    static const size_t grains[] = {0, 1, 3, 100, 20000};
    for (int n_threads = 1; n_threads <= 4; n_threads++) {
        zm_pool *pool;
        assert_int_equal(zm_pool_new(&pool, n_threads, NULL), ZMLX_OK);
        assert_int_equal(zm_pool_threads(pool), n_threads);
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
            for (size_t j = 0; j < sizeof grains / sizeof grains[0]; j++)
                assert_true(loop_is_right(pool, counts[i], grains[j]));
        zm_pool_free(pool);
    }
}

static void no_pool_is_one_plain_call(void **state) {
    (void)state;
    loop_record *record = calloc(1, sizeof *record);
    assert_non_null(record);
    record->grain = 1;
    zm_pool_run(NULL, 500, 1, visit, record);
    assert_int_equal(atomic_load(&record->pieces), 1);
    assert_int_equal(zm_pool_threads(NULL), 1);
    free(record);
    zm_pool_free(NULL);
}

static void loops_follow_each_other_fast_and_after_sleep(void **state) {
    (void)state;
    zm_pool *pool;
    assert_int_equal(zm_pool_new(&pool, 3, NULL), ZMLX_OK);
    for (int i = 0; i < 2000; i++) {
        loop_record record;
        memset(record.visits, 0, 64);
        record.grain = 1;
        atomic_init(&record.pieces, 0);
        atomic_init(&record.small_pieces, 0);
        zm_pool_run(pool, 64, 1, visit, &record);
        for (size_t j = 0; j < 64; j++) assert_int_equal(record.visits[j], 1);
        if (i % 500 == 0) usleep(2000); /* long enough for the workers to sleep */
    }
    zm_pool_free(pool);
}

/* The caller waits until another thread has entered the loop too: the workers take part. */
typedef struct meeting {
    pthread_t threads[2];
    atomic_int arrived;
} meeting;

static void meet(void *context, size_t begin, size_t end) {
    meeting *place = context;
    for (size_t i = begin; i < end; i++) {
        place->threads[i] = pthread_self();
        atomic_fetch_add(&place->arrived, 1);
        for (int wait = 0; wait < 20000 && atomic_load(&place->arrived) < 2; wait++) usleep(100);
    }
}

static void workers_take_part(void **state) {
    (void)state;
    zm_pool *pool;
    assert_int_equal(zm_pool_new(&pool, 2, NULL), ZMLX_OK);
    for (int i = 0; i < 3; i++) {
        meeting place;
        atomic_init(&place.arrived, 0);
        zm_pool_run(pool, 2, 1, meet, &place);
        assert_int_equal(atomic_load(&place.arrived), 2);
        assert_false(pthread_equal(place.threads[0], place.threads[1]));
        usleep(2000);
    }
    zm_pool_free(pool);
}

/* The piece with index 0 ends only when all indices but its own are done. */
typedef struct hold_up {
    atomic_size_t done, done_before; /* the piece */
} hold_up;

static void wait_for_the_others(void *context, size_t begin, size_t end) {
    hold_up *of = context;
    size_t others = COUNT - (end - begin);
    for (int wait = 0; !begin && wait < 20000 && atomic_load(&of->done) < others; wait++) usleep(100);
    if (!begin) atomic_store(&of->done_before, atomic_load(&of->done) + end);
    atomic_fetch_add(&of->done, end - begin);
}

static void pieces_of_a_slow_thread_are_taken_over(void **state) {
    (void)state;
    for (int n_threads = 2; n_threads <= 4; n_threads++) {
        zm_pool *pool;
        hold_up of;
        atomic_init(&of.done, 0);
        assert_int_equal(zm_pool_new(&pool, n_threads, NULL), ZMLX_OK);
        zm_pool_run(pool, COUNT, 1, wait_for_the_others, &of);
        assert_int_equal(atomic_load(&of.done_before), COUNT);
        zm_pool_free(pool);
    }
}

/* Fetching ahead changes nothing, also where streams are empty, odd, or gone when the loop after comes. */
static void what_is_ahead_is_a_hint(void **state) {
    (void)state;
    zm_pool *pool;
    assert_int_equal(zm_pool_new(&pool, 3, NULL), ZMLX_OK);
    for (int i = 0; i < 200; i++) {
        unsigned char *data = malloc(1 << 20);
        assert_non_null(data);
        zm_ahead ahead = {.streams = {{data, 1 << 20}, {data + 1, 0}, {NULL, 0}, {data + 3, 1}, {data, 4097}},
                          .count = 5};
        loop_record record = {.grain = 1};
        zm_pool_expect(pool, i % 3 ? NULL : &ahead);
        zm_pool_run_ahead(pool, 64, 1, visit, &record, i % 2 ? NULL : &ahead);
        free(data);
        for (size_t j = 0; j < 64; j++) assert_int_equal(record.visits[j], 1);
    }
    zm_pool_free(pool);
    zm_pool_expect(NULL, NULL);
}

typedef struct caller {
    pthread_t thread;
    zm_pool *pool;
    int wrong;
} caller;

static void *call_often(void *argument) {
    caller *self = argument;
    for (int i = 0; i < 50; i++) self->wrong += !loop_is_right(self->pool, 300, 1);
    return NULL;
}

static void callers_take_turns(void **state) {
    (void)state;
    zm_pool *pool;
    assert_int_equal(zm_pool_new(&pool, 3, NULL), ZMLX_OK);
    caller callers[CALLERS] = {{.pool = pool}, {.pool = pool}, {.pool = pool}};
    for (int i = 0; i < CALLERS; i++)
        assert_int_equal(pthread_create(&callers[i].thread, NULL, call_often, &callers[i]), 0);
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(callers[i].thread, NULL);
        assert_int_equal(callers[i].wrong, 0);
    }
    zm_pool_free(pool);
}

static void wrong_thread_counts_are_refused(void **state) {
    (void)state;
    zmlx_error error;
    zm_pool *pool = (zm_pool *)&error;
    assert_int_equal(zm_pool_new(&pool, -1, &error), ZMLX_ERROR_ARGUMENT);
    assert_null(pool);
    assert_string_equal(error.where, "threads");
    assert_int_equal(zm_pool_new(&pool, 1000000, &error), ZMLX_ERROR_ARGUMENT);
    assert_int_equal(zm_pool_new(&pool, 0, &error), ZMLX_OK);
    assert_int_equal(zm_pool_threads(pool), zm_processor_count());
    assert_true(zm_processor_count() >= 1);
    zm_pool_free(pool);
}

#ifdef __GLIBC__
static void small_stacks_are_refused(void **state) {
    (void)state;
    zmlx_error error;
    pthread_attr_t usual, small;
    assert_int_equal(pthread_getattr_default_np(&usual), 0);
    assert_int_equal(zm_check_stack(&error), ZMLX_OK);
    assert_int_equal(pthread_attr_init(&small), 0);
    assert_int_equal(pthread_attr_setstacksize(&small, 256 * 1024), 0);
    assert_int_equal(pthread_setattr_default_np(&small), 0);
    zmlx_status status = zm_check_stack(&error);
    assert_int_equal(pthread_setattr_default_np(&usual), 0);
    assert_int_equal(status, ZMLX_ERROR_UNSUPPORTED);
    assert_string_equal(error.message,
                        "this process gives a thread a stack of 256 KB; kernels need 512 (ulimit -s 512)");
    pthread_attr_destroy(&small);
    pthread_attr_destroy(&usual);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_index_is_visited_once),
        cmocka_unit_test(no_pool_is_one_plain_call),
        cmocka_unit_test(loops_follow_each_other_fast_and_after_sleep),
        cmocka_unit_test(workers_take_part),
        cmocka_unit_test(pieces_of_a_slow_thread_are_taken_over),
        cmocka_unit_test(what_is_ahead_is_a_hint),
        cmocka_unit_test(callers_take_turns),
        cmocka_unit_test(wrong_thread_counts_are_refused),
#ifdef __GLIBC__
        cmocka_unit_test(small_stacks_are_refused),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
