/* SPDX-License-Identifier: MIT */
#ifndef ZM_BASE_PAGES_H
#define ZM_BASE_PAGES_H

#include <stddef.h>

/* Asks for large pages for memory about to be written the first time: with small ones a system call's work for every 4
 * KiB costs several times the writing. Only a hint, and only for blocks worth it. */
void zm_want_large_pages(void *data, size_t size);

/* Moves memory that is written already and will be read for long into large pages, where the system can (Linux 6.1),
 * with what shares them: the beginning of every small page delays what reads it. Contents stay, and next to no memory
 * is added: pages that were hardly used stay small. Only a hint, and only for blocks worth it. */
void zm_gather_pages(const void *data, size_t size);

#endif
