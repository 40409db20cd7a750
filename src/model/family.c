/* SPDX-License-Identifier: MIT */
#include "model/family.h"

#include <string.h>

#define FAMILY(model_type, group, build) \
    zmlx_status build(zm_causal_lm **root, zm_checkpoint *checkpoint, zm_arena *arena, zmlx_error *error);
#include "model/families.def"
#undef FAMILY

static const zm_family *const families[] = {
#define FAMILY(model_type, group, build) &(const zm_family){model_type, group, build},
#include "model/families.def"
#undef FAMILY
    NULL,
};

const zm_family *zm_family_find(const char *model_type) {
    for (const zm_family *const *family = families; *family; family++)
        if (!strcmp((*family)->model_type, model_type)) return *family;
    return NULL;
}

const zm_family *const *zm_family_list(void) { return families; }
