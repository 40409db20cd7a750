/* SPDX-License-Identifier: MIT */
#include "base/pages.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    LARGE_PAGE = 2 << 20,
    MIN_SIZE = 2 * LARGE_PAGE,
    MIN_GATHERED = 64 << 10,
    LEAST_PAGE = 4096,
    COLLAPSE = 25 /* MADV_COLLAPSE, which the C library names from 2.37 on */
};

void zm_want_large_pages(void *data, size_t size) {
#ifdef MADV_HUGEPAGE
    if (size < MIN_SIZE) return;
    uintptr_t begin = ((uintptr_t)data + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    uintptr_t end = ((uintptr_t)data + size) / LARGE_PAGE * LARGE_PAGE;
    madvise((char *)data + (begin - (uintptr_t)data), end - begin, MADV_HUGEPAGE);
#else
    (void)data, (void)size;
#endif
}

#ifdef __linux__
/* Whether a large page there would hold little that is not in memory already. */
static bool is_filled(void *page) {
    unsigned char present[LARGE_PAGE / LEAST_PAGE];
    long size = sysconf(_SC_PAGESIZE);
    size_t count = 0, n_pages = size >= LEAST_PAGE ? LARGE_PAGE / (size_t)size : 0;
    if (!n_pages || mincore(page, LARGE_PAGE, present)) return false;
    for (size_t i = 0; i < n_pages; i++) count += present[i] & 1;
    return count >= n_pages - n_pages / 8;
}
#endif

void zm_gather_pages(const void *data, size_t size) {
#ifdef __linux__
    if (size < MIN_GATHERED) return;
    uintptr_t begin = (uintptr_t)data / LARGE_PAGE * LARGE_PAGE, end = (uintptr_t)data + size;
    for (uintptr_t page = begin; page < end; page += LARGE_PAGE)
        if (is_filled((void *)page)) madvise((void *)page, LARGE_PAGE, COLLAPSE);
#else
    (void)data, (void)size;
#endif
}
