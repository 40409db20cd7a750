/* SPDX-License-Identifier: MIT */
#include "model/tokenizer/table.h"

#include <stdlib.h>
#include <string.h>

void zm_table_free(zm_table *table) {
    free(table->slots);
    *table = (zm_table){0};
}

static void put(zm_table *table, uint64_t key, uint64_t value) {
    size_t at = zm_table_place(table, key);
    while (table->slots[at].key != UINT64_MAX && table->slots[at].key != key)
        at = (at + 1) & (table->capacity - 1);
    if (table->slots[at].key == UINT64_MAX) table->count++;
    table->slots[at] = (zm_table_slot){.key = key, .value = value};
}

bool zm_table_reserve(zm_table *table, size_t count) {
    size_t capacity = 64;
    if (count > SIZE_MAX / 64) return false;
    while (capacity < count * 2) capacity *= 2;
    if (capacity <= table->capacity) return true;
    zm_table larger = {.capacity = capacity};
    larger.slots = malloc(capacity * sizeof *larger.slots);
    if (!larger.slots) return false;
    memset(larger.slots, 0xff, capacity * sizeof *larger.slots);
    for (size_t i = 0; i < table->capacity; i++)
        if (table->slots[i].key != UINT64_MAX) put(&larger, table->slots[i].key, table->slots[i].value);
    free(table->slots);
    *table = larger;
    return true;
}

bool zm_table_set(zm_table *table, uint64_t key, uint64_t value) {
    if (!zm_table_reserve(table, table->count + 1)) return false;
    put(table, key, value);
    return true;
}
