/* SPDX-License-Identifier: MIT */
#include "emit/storage.h"

static const struct {
    const char *name;
    int bytes;
    zm_type type;
} storages[] = {
#define ZM_STORAGE(enumerator, name, bytes, value_type) {name, bytes, ZM_TYPE_##value_type},
#include "emit/storage.def"
#undef ZM_STORAGE
};

const char *zm_storage_name(zm_storage storage) { return storages[storage].name; }
int zm_storage_bytes(zm_storage storage) { return storages[storage].bytes; }
zm_type zm_storage_type(zm_storage storage) { return storages[storage].type; }
