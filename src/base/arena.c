/* SPDX-License-Identifier: MIT */
#include "base/arena.h"

#include <stdalign.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct chunk {
    struct chunk *next;
    size_t used, capacity;
    alignas(max_align_t) char bytes[];
} chunk;

struct zm_arena {
    chunk *chunks; /* the newest first; only the newest is filled */
};

enum { CHUNK_BYTES = 16 * 1024 };

zm_arena *zm_arena_new(void) { return calloc(1, sizeof(zm_arena)); }

void zm_arena_free(zm_arena *arena) {
    if (!arena) return;
    for (chunk *item = arena->chunks; item;) {
        chunk *next = item->next;
        free(item);
        item = next;
    }
    free(arena);
}

void *zm_arena_alloc(zm_arena *arena, size_t count, size_t size) {
    if (size && count > (SIZE_MAX / 4) / size) return NULL;
    size_t bytes = (count * size + alignof(max_align_t) - 1) / alignof(max_align_t) * alignof(max_align_t);
    if (!bytes) bytes = alignof(max_align_t);
    chunk *top = arena->chunks;
    if (!top || top->capacity - top->used < bytes) {
        size_t capacity = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
        top = calloc(1, sizeof(chunk) + capacity);
        if (!top) return NULL;
        top->capacity = capacity;
        top->next = arena->chunks;
        arena->chunks = top;
    }
    void *result = top->bytes + top->used;
    top->used += bytes;
    return result;
}

char *zm_arena_copy(zm_arena *arena, const char *bytes, size_t size) {
    char *copy = zm_arena_alloc(arena, size + 1, 1);
    if (copy && size) memcpy(copy, bytes, size);
    return copy;
}

char *zm_arena_printf(zm_arena *arena, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (size < 0) return NULL;
    char *text = zm_arena_alloc(arena, (size_t)size + 1, 1);
    if (!text) return NULL;
    va_start(arguments, format);
    vsnprintf(text, (size_t)size + 1, format, arguments);
    va_end(arguments);
    return text;
}
