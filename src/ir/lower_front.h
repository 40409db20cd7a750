/* SPDX-License-Identifier: MIT */
/* What the front ends share: a kernel being made from texts. */
#ifndef ZM_IR_LOWER_FRONT_H
#define ZM_IR_LOWER_FRONT_H

#include "ir/lower.h"

typedef struct zm_front {
    zm_ir *ir;       /* without values so far */
    zm_arena *arena; /* of the parsed texts */
    zm_functions functions;
    zmlx_error *error;
} zm_front;

/* An empty kernel and the header's functions, checked. zm_front_end is due in any case. */
zmlx_status zm_front_begin(zm_front *front, const char *name, const char *header, zmlx_error *error);
/* Gives the kernel, verified and simplified, if status is ZMLX_OK; frees everything else. Returns the status. */
zmlx_status zm_front_end(zm_ir **ir, zm_front *front, zmlx_status status);

/* An input (or parameter) that names nothing else: no function, constant, word of the language or the row length.
 */
zmlx_status zm_front_add_input(zm_front *front, const char *name, zm_type type, zm_level level);
zmlx_status zm_front_add_parameter(zm_front *front, const char *name, bool is_seed);
/* ZMLX_ERROR_ARGUMENT for a name that means something already. */
zmlx_status zm_front_check_name(const zm_front *front, const char *what, const char *name);

/* The value of a text over bindings in ir, as a float. A text that is NULL or blank is an error that names it. */
zmlx_status zm_front_lower(zm_id *value, const zm_front *front, zm_ir *ir, const char *what, const char *text,
                           const zm_binding *bindings, int n_bindings);
/* The same of a parsed one that has to have a value. */
zmlx_status zm_front_lower_body(zm_id *value, const zm_front *front, zm_ir *ir, const char *what,
                                const zm_body *body, const zm_binding *bindings, int n_bindings);
/* The locals of a prelude (NULL is none) over bindings; they live in the front's arena. */
zmlx_status zm_front_lower_prelude(zm_binding **locals, int *n_locals, const zm_front *front, const char *what,
                                   const char *text, const zm_binding *bindings, int n_bindings);

#endif
