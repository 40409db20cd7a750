/* SPDX-License-Identifier: MIT */
/* Limits of control groups, from files as the kernel writes them, in a folder of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/limits.h"
#include "temporary.h"

static char root[TEMPORARY_SIZE];

static int make_root(void **state) {
    (void)state;
    return mkdtemp(temporary_template(root)) ? 0 : -1;
}

static int remove_root(void **state) {
    (void)state;
    return temporary_remove(root);
}

/* Makes the folders above it, too. */
static void put(const char *name, const char *text) {
    char path[2 * TEMPORARY_SIZE];
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *at = path + strlen(root) + 1; (at = strchr(at, '/')); at++) {
        *at = '\0';
        mkdir(path, 0700);
        *at = '/';
    }
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void test_no_groups(void **state) {
    (void)state;
    assert_true(zm_memory_limit(root) == UINT64_MAX);
    put("proc/self/cgroup", "0::/\n");
    assert_true(zm_memory_limit(root) == UINT64_MAX);
    put("sys/fs/cgroup/memory.max", "max\n");
    assert_true(zm_memory_limit(root) == UINT64_MAX);
    put("proc/self/cgroup", "no lines of groups\n:\n\n");
    assert_true(zm_memory_limit(root) == UINT64_MAX);
}

static void test_version_2(void **state) {
    (void)state;
    put("proc/self/cgroup", "0::/user.slice/a:b\n");
    put("sys/fs/cgroup/user.slice/a:b/memory.max", "4000000000\n");
    assert_int_equal(zm_memory_limit(root), 4000000000);
    put("sys/fs/cgroup/user.slice/memory.max", "3000000000\n"); /* of the group above */
    assert_int_equal(zm_memory_limit(root), 3000000000);
    put("sys/fs/cgroup/user.slice/a:b/memory.max", "max\n");
    assert_int_equal(zm_memory_limit(root), 3000000000);
}

/* A container that sees its own group as the topmost one, under its outer name. */
static void test_inside_a_container(void **state) {
    (void)state;
    put("proc/self/cgroup", "0::/docker/0123\n");
    put("sys/fs/cgroup/memory.max", "536870912\n");
    assert_int_equal(zm_memory_limit(root), 536870912);
}

static void test_version_1(void **state) {
    (void)state;
    put("proc/self/cgroup", "9:name=systemd:/\n5:cpu,memory:/job\n4:memorandum:/other\n0::/\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"); /* none */
    put("sys/fs/cgroup/memory/other/memory.limit_in_bytes", "5\n");
    assert_true(zm_memory_limit(root) == 9223372036854771712u);
    put("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "1073741824\n");
    assert_int_equal(zm_memory_limit(root), 1073741824);
}

static void test_processors(void **state) {
    (void)state;
    assert_true(zm_processor_limit(root) == UINT64_MAX);
    put("proc/self/cgroup", "0::/job\n");
    put("sys/fs/cgroup/job/cpu.max", "max 100000\n");
    assert_true(zm_processor_limit(root) == UINT64_MAX);
    put("sys/fs/cgroup/job/cpu.max", "150000 100000\n"); /* one and a half */
    assert_int_equal(zm_processor_limit(root), 2);
    put("sys/fs/cgroup/cpu.max", "100000 100000\n"); /* of the group above */
    assert_int_equal(zm_processor_limit(root), 1);
    put("sys/fs/cgroup/cpu.max", "nonsense\n");
    put("sys/fs/cgroup/job/cpu.max", "1 0\n");
    assert_true(zm_processor_limit(root) == UINT64_MAX);
    put("sys/fs/cgroup/job/cpu.max", "1\n");
    assert_true(zm_processor_limit(root) == UINT64_MAX);
    assert_true(zm_memory_limit(root) == UINT64_MAX);
}

static void test_processors_of_version_1(void **state) {
    (void)state;
    put("proc/self/cgroup", "4:cpuset:/other\n3:cpu,cpuacct:/job\n");
    put("sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "-1\n");
    assert_true(zm_processor_limit(root) == UINT64_MAX);
    put("sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n");
    assert_true(zm_processor_limit(root) == UINT64_MAX);
    put("sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "300000\n");
    assert_int_equal(zm_processor_limit(root), 3);
}

static void test_of_this_process(void **state) {
    (void)state;
    assert_true(zm_processor_count() >= 1 && (uint64_t)zm_processor_count() <= zm_processor_limit(""));
    uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    assert_true(zm_memory_bytes() > 0 && zm_memory_bytes() <= machine);
    assert_true(zm_memory_bytes() == machine || zm_memory_bytes() == zm_memory_limit(""));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_no_groups, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_version_2, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_inside_a_container, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_version_1, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_processors, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_processors_of_version_1, make_root, remove_root),
        cmocka_unit_test(test_of_this_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
