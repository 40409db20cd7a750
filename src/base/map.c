/* SPDX-License-Identifier: MIT */
#include "base/map.h"

#include <stdlib.h>
#include <string.h>

typedef struct slot {
    const char *key; /* NULL: free */
    size_t key_size;
    uint64_t hash, value;
} slot;

struct zm_map {
    slot *slots;
    size_t capacity; /* a power of two, or 0 */
    size_t count;
};

uint64_t zm_hash(const void *bytes, size_t size) {
    const unsigned char *byte = bytes;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++) hash = (hash ^ byte[i]) * 0x100000001b3u;
    hash ^= hash >> 32;
    hash *= 0xd6e8feb86659fd93u;
    return hash ^ (hash >> 32);
}

zm_map *zm_map_new(void) { return calloc(1, sizeof(zm_map)); }

void zm_map_free(zm_map *map) {
    if (!map) return;
    free(map->slots);
    free(map);
}

size_t zm_map_count(const zm_map *map) { return map->count; }

static slot *find(const zm_map *map, const char *key, size_t key_size, uint64_t hash) {
    size_t at = (size_t)hash & (map->capacity - 1);
    for (;; at = (at + 1) & (map->capacity - 1)) {
        slot *item = &map->slots[at];
        if (!item->key) return item;
        if (item->hash == hash && item->key_size == key_size && !memcmp(item->key, key, key_size))
            return item;
    }
}

static bool grow(zm_map *map) {
    zm_map larger = {.capacity = map->capacity ? map->capacity * 2 : 64, .count = map->count};
    larger.slots = calloc(larger.capacity, sizeof(slot));
    if (!larger.slots) return false;
    for (size_t i = 0; i < map->capacity; i++) {
        const slot *item = &map->slots[i];
        if (item->key) *find(&larger, item->key, item->key_size, item->hash) = *item;
    }
    free(map->slots);
    *map = larger;
    return true;
}

int zm_map_add(zm_map *map, const char *key, size_t key_size, uint64_t value) {
    if (map->count * 2 >= map->capacity && !grow(map)) return -1;
    uint64_t hash = zm_hash(key, key_size);
    slot *item = find(map, key, key_size, hash);
    if (item->key) return 0;
    *item = (slot){.key = key, .key_size = key_size, .hash = hash, .value = value};
    map->count++;
    return 1;
}

bool zm_map_get(const zm_map *map, const char *key, size_t key_size, uint64_t *value) {
    if (!map->count) return false;
    const slot *item = find(map, key, key_size, zm_hash(key, key_size));
    if (!item->key) return false;
    if (value) *value = item->value;
    return true;
}
