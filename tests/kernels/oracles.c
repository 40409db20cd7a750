/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "table.h"

#define ZM_FAMILY(name, text)
#define ZM_PART(name, ...)
#define ZM_ALIAS(name, other)
#define ZM_PROFILE(name, ...)
#define ZM_COMPOSED_PROFILE(name, ...)
#define ZM_KERNEL(name, ...) zm_oracle_function zm_ref_##name;
#define ZM_COMPOSITION ZM_KERNEL
#include "kernels/families.def"
#undef ZM_KERNEL

static const struct {
    const char *name;
    zm_oracle_function *function;
} oracles[] = {
#define ZM_KERNEL(name, ...) {#name, zm_ref_##name},
#include "kernels/families.def"
};

zm_oracle_function *table_find_oracle(const char *name) {
    for (size_t i = 0; i < sizeof oracles / sizeof *oracles; i++)
        if (!strcmp(oracles[i].name, name)) return oracles[i].function;
    return NULL;
}
