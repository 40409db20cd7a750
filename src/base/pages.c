/* SPDX-License-Identifier: MIT */
#include "base/pages.h"

#include <sys/mman.h>
#include <unistd.h>

enum { LARGE_PAGE = 2 << 20, MIN_SIZE = 2 * LARGE_PAGE };

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

uint64_t zm_memory_bytes(void) {
    long pages = sysconf(_SC_PHYS_PAGES), page_size = sysconf(_SC_PAGESIZE);
    return pages > 0 && page_size > 0 ? (uint64_t)pages * (uint64_t)page_size : 0;
}
