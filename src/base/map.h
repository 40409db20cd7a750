/* SPDX-License-Identifier: MIT */
/* Hash map from byte strings to 64-bit values. Keys are borrowed: they must outlive the map. */
#ifndef ZM_BASE_MAP_H
#define ZM_BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct zm_map zm_map;

zm_map *zm_map_new(void); /* NULL when out of memory */
void zm_map_free(zm_map *map);
size_t zm_map_count(const zm_map *map);

/* Adds key if it is absent. Returns 1 when added, 0 when it was there (the value is unchanged), -1
 * when out of memory. */
int zm_map_add(zm_map *map, const char *key, size_t key_size, uint64_t value);
bool zm_map_get(const zm_map *map, const char *key, size_t key_size, uint64_t *value /* may be NULL */);

/* FNV-1a with a final mix; the same on every machine. */
uint64_t zm_hash(const void *bytes, size_t size);

#endif
