/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fused/cpu/level.h"
#include "zmlx/system.h"

static bool has_feature(const zmlx_system_info *info, const char *name) {
    char padded[300], word[64];
    snprintf(padded, sizeof padded, " %s ", info->cpu_features);
    snprintf(word, sizeof word, " %s ", name);
    return strstr(padded, word) != NULL;
}

static void test_info(void **state) {
    (void)state;
    zmlx_system_info info;
    assert_int_equal(zmlx_system_get_info(&info, NULL), ZMLX_OK);
    assert_non_null(strchr(info.mlx_version, '.'));
    assert_true(info.cpu_name[0] != '\0');
    assert_true(info.operating_system[0] != '\0');
    assert_true(info.memory_bytes > (uint64_t)64 << 20);
    assert_true(info.n_processors >= 1 && info.n_processors <= sysconf(_SC_NPROCESSORS_CONF));
    bool known = false;
    for (const zm_cpu_level *const *level = zm_fused_levels(); *level; level++)
        known = known || ((*level)->supported() && !strcmp((*level)->name, info.kernel_level));
    assert_true(known);
    if (!info.has_gpu) assert_true(info.gpu_name[0] == '\0' && info.gpu_memory_bytes == 0);
#if defined(__x86_64__) && defined(__linux__)
    assert_int_equal(has_feature(&info, "avx2"), __builtin_cpu_supports("avx2") != 0);
    assert_int_equal(has_feature(&info, "fma"), __builtin_cpu_supports("fma") != 0);
    assert_int_equal(has_feature(&info, "avx512f"), __builtin_cpu_supports("avx512f") != 0);
    assert_false(has_feature(&info, "asimd"));
#else
    (void)has_feature;
#endif
}

static void test_bandwidth(void **state) {
    (void)state;
    double rate;
    zmlx_error error;
    assert_int_equal(zmlx_system_read_bandwidth(&rate, 1, (size_t)64 << 20, 0.05, &error), ZMLX_OK);
    assert_true(rate > 1e8 && rate < 1e13);
    assert_int_equal(zmlx_system_read_bandwidth(&rate, 2, 1, 0, &error), ZMLX_OK);
    assert_true(rate > 1e8 && rate < 1e13);
}

static void expect_refusal(int n_threads, size_t size, double seconds, const char *where,
                           const char *message) {
    double rate = 1;
    zmlx_error error;
    assert_int_equal(zmlx_system_read_bandwidth(&rate, n_threads, size, seconds, &error),
                     ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.where, where);
    assert_string_equal(error.message, message);
    assert_true(rate == 0);
}

static void test_bandwidth_ranges(void **state) {
    (void)state;
    expect_refusal(-1, 0, 0.1, "threads", "expected 0 to 256, got -1");
    expect_refusal(257, 0, 0.1, "threads", "expected 0 to 256, got 257");
    zmlx_system_info info;
    assert_int_equal(zmlx_system_get_info(&info, NULL), ZMLX_OK);
    uint64_t quarter = info.memory_bytes / 4 >> 20, most = quarter < 16384 ? quarter : 16384;
    char message[64];
    snprintf(message, sizeof message, "expected at most %d MiB, got %d", (int)most, (int)most + 1);
    expect_refusal(1, (size_t)(most + 1) << 20, 0.1, "buffer size", message);
    expect_refusal(1, 0, -1, "seconds", "expected 0 to 3600, got -1");
    expect_refusal(1, 0, 3601, "seconds", "expected 0 to 3600, got 3601");
    expect_refusal(1, 0, (double)NAN, "seconds", "expected 0 to 3600, got nan");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_info),
        cmocka_unit_test(test_bandwidth),
        cmocka_unit_test(test_bandwidth_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
