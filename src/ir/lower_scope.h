/* SPDX-License-Identifier: MIT */
/* What the parts of the lowering of one body share. */
#ifndef ZM_IR_LOWER_SCOPE_H
#define ZM_IR_LOWER_SCOPE_H

#include "ir/lower.h"

/* Functions are inlined, so a short header can stand for any amount of work; these bound it. */
enum {
    ZM_LOWER_MAX_DEPTH = 1200 /* of expressions, through calls */,
    ZM_LOWER_MAX_STEPS = 1 << 18 /* expressions */
};

/* One text, or one call of a header function, being lowered. */
typedef struct zm_frame {
    const char *what, *text;    /* for messages */
    zm_binding *bindings;       /* locals and parameters, a later one hides an earlier one */
    int n_bindings;
    bool sees_kernel;           /* inputs and parameters of the kernel are visible */
    const zm_function *function; /* NULL in a text */
    const struct zm_frame *caller;
} zm_frame;

typedef struct zm_lowerer {
    zm_ir *ir;
    zm_functions functions;
    zm_arena *scratch;
    int depth, steps;
    zmlx_error *error;
} zm_lowerer;

/* Failures at an expression: ZM_FAIL_AT(lowerer, frame, expr, suggestion, format, ...). */
#define ZM_FAIL_AT(lowerer, frame, expr, suggestion, ...)                                                  \
    zm_expr_fail((lowerer)->error, (frame)->what, (frame)->text, (expr)->column, (expr)->size, suggestion, \
                 __VA_ARGS__)

zmlx_status zm_lower_expr(zm_id *result, zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr);
/* Statements and result of a body in frame, whose bindings have room for them. *result is -1 without one. */
zmlx_status zm_lower_statements(zm_id *result, zm_lowerer *lowerer, zm_frame *frame, const zm_body *body);
/* The failure of the kernel being built, if any, at expr. */
zmlx_status zm_lower_check(zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr);

/* lower_names.c */
zmlx_status zm_lower_name(zm_id *result, zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr);
/* The number of the input (or parameter) of this name; -1 if there is none or a local hides it. */
int zm_lower_find_input(const zm_lowerer *lowerer, const zm_frame *frame, const char *name);
int zm_lower_find_parameter(const zm_lowerer *lowerer, const zm_frame *frame, const char *name);
zmlx_status zm_lower_unknown_function(zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr);

/* lower_call.c */
zmlx_status zm_lower_call(zm_id *result, zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr);

/* Lowers every function once, so that one nobody calls is checked too. All share one budget of steps. */
zmlx_status zm_lower_check_functions(const zm_functions *functions, zmlx_error *error);

/* lower_builtin.c: functions that are no operation of their own. */
typedef zmlx_status zm_builtin_function(zm_id *result, zm_lowerer *lowerer, const zm_frame *frame,
                                        const zm_expr *expr);
typedef struct zm_builtin {
    const char *name;
    int arity;
    zm_builtin_function *lower;
} zm_builtin;
const zm_builtin *zm_builtin_find(const char *name);
const zm_builtin *zm_builtin_get(int index); /* NULL past the last one */

/* The operation that a function's name (or synonym) stands for, or -1. */
int zm_lower_find_op(const char *name);

/* The synonyms of functions: spelling number index (NULL past the last one) and its operation's name. */
const char *zm_synonym_get(int index, const char **op_name);

/* Conversions; a value of the type already is itself. */
zm_id zm_lower_to_float(zm_ir *ir, zm_id value);
zm_id zm_lower_to_bool(zm_ir *ir, zm_id value);
zm_id zm_lower_to_uint(zm_ir *ir, zm_id value);

#endif
