/* SPDX-License-Identifier: MIT */
#include "base/pages.h"

#include <stdint.h>
#include <sys/mman.h>

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
