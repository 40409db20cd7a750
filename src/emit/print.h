/* SPDX-License-Identifier: MIT */
/* Text that all targets share: numbers, point-wise operations, the functions of folds. Operations are spelled by
 * their form in ops.def, so a target brings a prelude and no table of its own. */
#ifndef ZM_EMIT_PRINT_H
#define ZM_EMIT_PRINT_H

#include "base/text.h"
#include "ir/ir.h"

typedef struct zm_print_style {
    const char *function;                   /* before a function's type: "static inline" */
    const char *types[ZM_TYPE_COUNT];       /* of variables */
    const char *number_open, *number_close; /* around a float number: "zm_splat(", ")", or "" */
} zm_print_style;

/* A float literal that reads back to the same bits, negative ones in parentheses; ZM_INFINITY and ZM_NAN (macros
 * of the target's text) for what has none. */
void zm_print_number(zm_text *text, float number);

/* An expression: "(a + b)" for form INFIX, "zm_exp(a)" for CALL; operands are texts, as many as the operation has.
 * Another form is ZMLX_ERROR_UNSUPPORTED that names the operation. */
zmlx_status zm_print_operation(zm_text *text, zm_op op, const char *const *operands, zmlx_error *error);

/* The function `name` of a region of a fold, arguments of the given types. */
zmlx_status zm_print_region(zm_text *text, const zm_print_style *style, const zm_region *region,
                            const zm_type *argument_types, const char *name, zmlx_error *error);

/* Both functions of fold number `fold`, zm_update<fold>(acc, captures...) and, where it has one,
 * zm_combine<fold>(a, b). */
zmlx_status zm_print_fold(zm_text *text, const zm_print_style *style, const zm_ir *ir, int fold,
                          zmlx_error *error);

#endif
