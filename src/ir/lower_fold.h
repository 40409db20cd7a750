/* SPDX-License-Identifier: MIT */
/* A reduction over the row from the texts of its steps. */
#ifndef ZM_IR_LOWER_FOLD_H
#define ZM_IR_LOWER_FOLD_H

#include "ir/lower_front.h"

typedef struct zm_step_text {
    const char *text, *role; /* role: what it is called in messages */
} zm_step_text;

typedef struct zm_fold_text {
    zm_step_text init, update, combine; /* combine.text NULL: none */
    const char *accumulator;            /* its name in update; in combine they are a and b */
    const zm_binding *init_bindings, *update_bindings; /* floats */
    int n_init_bindings, n_update_bindings;
} zm_fold_text;

/* The reduced value, one a row: a row operation where update is a sum, product, maximum or minimum of the
 * accumulator and values free of it, and combine (if given) is the same; init then enters once. Else a FOLD. A
 * combine that cannot stand alone (it reads D) is left out: the row runs left to right. */
zmlx_status zm_lower_fold(zm_id *result, zm_front *front, const zm_fold_text *text);

#endif
