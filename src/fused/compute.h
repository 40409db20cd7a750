/* SPDX-License-Identifier: MIT */
/* With what, and how precisely, a node computes. */
#ifndef ZM_FUSED_COMPUTE_H
#define ZM_FUSED_COMPUTE_H

#include "base/threads.h"
#include "fused/kinds.h"

typedef struct zm_compute {
    zm_pool *pool; /* borrowed; NULL: this thread alone */
    zm_precision precision; /* of the products */
} zm_compute;

#endif
