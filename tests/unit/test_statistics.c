/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/random.h"
#include "base/statistics.h"

static void test_median(void **state) {
    (void)state;
    assert_true(zm_median(NULL, 0) == 0);
    assert_true(zm_median((double[]){7}, 1) == 7);
    assert_true(zm_median((double[]){9, -4}, 2) == 2.5);
    assert_true(zm_median((double[]){3, 100, -1}, 3) == 3);
    assert_true(zm_median((double[]){10, 2, 30, 4}, 4) == 7);
    assert_true(zm_median((double[]){0.25, 0.5, 0.125, 0.5, 0.0625}, 5) == 0.25);
}

/* The first numbers its author's reference program prints for the seed 1234567. */
static void test_splitmix64(void **state) {
    (void)state;
    static const uint64_t expected[] = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u,
                                        4593380528125082431u, 16408922859458223821u};
    for (uint64_t i = 0; i < 5; i++) assert_true(zm_splitmix64(1234567, i) == expected[i]);
}

static void test_clock(void **state) {
    (void)state;
    double before = zm_clock_seconds();
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    double elapsed = zm_clock_seconds() - before;
    assert_true(elapsed >= 0.02 && elapsed < 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_median),
        cmocka_unit_test(test_splitmix64),
        cmocka_unit_test(test_clock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
