/* SPDX-License-Identifier: MIT */
/* Scratch memory: nested uses are apart, other threads wait, it grows and refuses what is too large. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <string.h>

#include "base/scratch.h"

enum { BYTES = 1000, ROUNDS = 2000 };

static void nested_uses_are_apart(void **state) {
    (void)state;
    zm_scratch scratch;
    zm_scratch_init(&scratch);
    assert_int_equal(zm_scratch_reserve(&scratch, BYTES, NULL), ZMLX_OK);
    unsigned char *outer = zm_scratch_take(&scratch, BYTES);
    memset(outer, 1, BYTES);
    for (int i = 0; i < 3; i++) {
        unsigned char *inner = zm_scratch_take(&scratch, BYTES);
        assert_int_equal((uintptr_t)inner % ZM_SCRATCH_ALIGNMENT, 0);
        memset(inner, 2, BYTES);
        zm_scratch_give(&scratch, BYTES);
    }
    for (int i = 0; i < BYTES; i++) assert_int_equal(outer[i], 1);
    zm_scratch_give(&scratch, BYTES);
    assert_int_equal(zm_scratch_reserve(&scratch, 10 * BYTES, NULL), ZMLX_OK);
    memset(zm_scratch_take(&scratch, 10 * BYTES), 3, 10 * BYTES);
    zm_scratch_give(&scratch, 10 * BYTES);
    zmlx_error error;
    assert_int_equal(zm_scratch_reserve(&scratch, SIZE_MAX - 8, &error), ZMLX_ERROR_MEMORY);
    zm_scratch_end(&scratch);
}

/* Growing in between must not pull the memory away from the thread that has it. */
static void *use_often(void *context) {
    zm_scratch *scratch = context;
    intptr_t wrong = 0;
    for (size_t round = 1; round <= ROUNDS; round++) {
        if (zm_scratch_reserve(scratch, BYTES + round, NULL)) return (void *)1;
        size_t *numbers = zm_scratch_take(scratch, BYTES);
        for (size_t i = 0; i < BYTES / sizeof *numbers; i++) numbers[i] = round + i;
        for (size_t i = 0; i < BYTES / sizeof *numbers; i++) wrong += numbers[i] != round + i;
        zm_scratch_give(scratch, BYTES);
    }
    return (void *)wrong;
}

static void threads_take_turns(void **state) {
    (void)state;
    zm_scratch scratch;
    pthread_t threads[3];
    zm_scratch_init(&scratch);
    for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&threads[i], NULL, use_often, &scratch), 0);
    for (int i = 0; i < 3; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        assert_null(wrong);
    }
    zm_scratch_end(&scratch);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(nested_uses_are_apart), cmocka_unit_test(threads_take_turns)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
