/* SPDX-License-Identifier: MIT */
/* Hash table from 64-bit keys to 64-bit values. */
#ifndef ZM_MODEL_TOKENIZER_TABLE_H
#define ZM_MODEL_TOKENIZER_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct zm_table_slot {
    uint64_t key; /* UINT64_MAX: free */
    uint64_t value;
} zm_table_slot;

/* Zero-initialise. */
typedef struct zm_table {
    zm_table_slot *slots; /* owned */
    size_t capacity;      /* a power of two, or 0 */
    size_t count;
} zm_table;

void zm_table_free(zm_table *table);
/* Room for count keys in all without growing. False: out of memory. */
bool zm_table_reserve(zm_table *table, size_t count);
/* Adds the key or replaces its value; key != UINT64_MAX. False: out of memory. */
bool zm_table_set(zm_table *table, uint64_t key, uint64_t value);

static inline size_t zm_table_place(const zm_table *table, uint64_t key) {
    uint64_t hash = (key ^ (key >> 32)) * 0x9e3779b97f4a7c15u;
    return (size_t)(hash ^ (hash >> 29)) & (table->capacity - 1);
}

static inline bool zm_table_get(const zm_table *table, uint64_t key, uint64_t *value) {
    if (!table->count) return false;
    for (size_t at = zm_table_place(table, key);; at = (at + 1) & (table->capacity - 1)) {
        if (table->slots[at].key == key) {
            *value = table->slots[at].value;
            return true;
        }
        if (table->slots[at].key == UINT64_MAX) return false;
    }
}

#endif
