/* SPDX-License-Identifier: MIT */
/* Memory with one lifetime: everything allocated from an arena goes with one zm_arena_free. */
#ifndef ZM_BASE_ARENA_H
#define ZM_BASE_ARENA_H

#include <stddef.h>

typedef struct zm_arena zm_arena;

zm_arena *zm_arena_new(void); /* NULL when out of memory */
void zm_arena_free(zm_arena *arena);

/* count * size zeroed bytes, aligned for any type; NULL when out of memory or on overflow. */
void *zm_arena_alloc(zm_arena *arena, size_t count, size_t size);
/* A NUL-terminated copy of the first size bytes; NULL when out of memory. */
char *zm_arena_copy(zm_arena *arena, const char *bytes, size_t size);
char *zm_arena_printf(zm_arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
