/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/pages.h"

#ifdef __linux__
enum { LARGE = 2 << 20, WINDOWS = 5, COLLAPSE = 25 };

/* Kilobytes of large pages in the mapping that begins there. */
static long large_kilobytes(const void *mapping) {
    FILE *maps = fopen("/proc/self/smaps", "r");
    char line[512];
    unsigned long begin, end;
    long result = -1;
    bool inside = false;
    while (maps && fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%lx-%lx", &begin, &end) == 2)
            inside = begin <= (uintptr_t)mapping && (uintptr_t)mapping < end;
        else if (inside && sscanf(line, "AnonHugePages: %ld", &result) == 1) break;
    }
    if (maps) fclose(maps);
    return result;
}

static size_t present_pages(void *window) {
    unsigned char present[LARGE / 4096];
    size_t count = 0, n_pages = LARGE / (size_t)sysconf(_SC_PAGESIZE);
    assert_int_equal(mincore(window, LARGE, present), 0);
    for (size_t i = 0; i < n_pages; i++) count += present[i] & 1;
    return count;
}

/* An array from inside the first window to inside the fourth, of which the fourth is empty but for it, and a page of
 * its own in the fifth. */
static void written_windows_become_large_ones(void **state) {
    (void)state;
    size_t size = (WINDOWS + 1) * (size_t)LARGE;
    char *mapping = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(mapping, MAP_FAILED);
    char *first = mapping + (LARGE - (uintptr_t)mapping % LARGE) % LARGE;
    madvise(mapping, size, MADV_NOHUGEPAGE); /* small ones until then */
    for (size_t i = 0; i < 3 * (size_t)LARGE + 5000; i++) first[i] = (char)(i * 7 + i / 4096);
    first[4 * (size_t)LARGE] = 1;
    madvise(mapping, size, MADV_HUGEPAGE);
    char *data = first + 777;
    bool possible = !madvise(first + 4 * (size_t)LARGE, LARGE, COLLAPSE);
    size_t before = present_pages(first + 3 * (size_t)LARGE);
    long large = large_kilobytes(first);
    if (large <= 0) possible = false; /* an emulator says that it was done */
    zm_gather_pages(data, 3 * (size_t)LARGE);
    for (size_t i = 0; i < 3 * (size_t)LARGE + 5000; i++) assert_int_equal(first[i], (char)(i * 7 + i / 4096));
    assert_int_equal(present_pages(first + 3 * (size_t)LARGE), before); /* not worth its memory */
    if (possible) assert_true(large_kilobytes(first) > large); /* all three unless memory is scattered */
    munmap(mapping, size);
}

static void small_blocks_and_the_end_of_a_mapping_are_left(void **state) {
    (void)state;
    size_t size = 100 * 1024;
    char *mapping = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(mapping, MAP_FAILED);
    memset(mapping, 3, size);
    zm_gather_pages(mapping, 1);
    zm_gather_pages(mapping, size); /* its window is larger than what is mapped, or has other owners */
    for (size_t i = 0; i < size; i++) assert_int_equal(mapping[i], 3);
    munmap(mapping, size);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
#ifdef __linux__
        cmocka_unit_test(written_windows_become_large_ones),
        cmocka_unit_test(small_blocks_and_the_end_of_a_mapping_are_left),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
