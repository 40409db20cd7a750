/* SPDX-License-Identifier: MIT */
/* What a step of one parameter and one of many have in common. */
#ifndef ZM_KERNELS_OPTIMIZERS_H
#define ZM_KERNELS_OPTIMIZERS_H

#include "kernels/compose.h"

enum { ZM_ADAMW_NUMBERS = 8 };

/* The numbers of adamw_terms, from those of adamw_step. */
void zm_adamw_numbers(zmlx_catalog_value numbers[ZM_ADAMW_NUMBERS], const zmlx_catalog_value *given);

void zm_compose_adamw_step(zm_catalog_call *call);

#endif
