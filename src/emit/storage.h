/* SPDX-License-Identifier: MIT */
/* Element types in memory (storage.def). */
#ifndef ZM_EMIT_STORAGE_H
#define ZM_EMIT_STORAGE_H

#include "ir/ir.h"

typedef enum zm_storage {
#define ZM_STORAGE(enumerator, name, bytes, value_type) ZM_STORAGE_##enumerator,
#include "emit/storage.def"
#undef ZM_STORAGE
    ZM_STORAGE_COUNT
} zm_storage;

const char *zm_storage_name(zm_storage storage);
int zm_storage_bytes(zm_storage storage);
zm_type zm_storage_type(zm_storage storage);

#endif
