/* SPDX-License-Identifier: MIT */
/* The expression language: text to tree. Syntax only; which names exist and what they mean is the reader's
 * business (ir/lower.h). docs/expr.md describes the language.
 *
 * Parsing is total: any bytes give a tree or one error within bounded time and depth. Every number is a
 * float32. Casts, template arguments and namespace prefixes leave no trace: `(T)x` is x, `metal::exp` is exp. */
#ifndef ZM_EXPR_EXPR_H
#define ZM_EXPR_EXPR_H

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/error.h"

enum {
    ZM_EXPR_MAX_BYTES = 1 << 16,   /* of a text */
    ZM_EXPR_MAX_DEPTH = 200,       /* of nested parentheses, calls, unary operators, casts, conditionals */
    ZM_EXPR_MAX_TREE_DEPTH = 1000, /* of a tree: a + b + ... nests in the tree only */
    ZM_EXPR_MAX_ARGUMENTS = 8,     /* of a call or a function definition */
    ZM_EXPR_MAX_NAME = 64,         /* bytes */
    ZM_EXPR_MAX_STATEMENTS = 1000, /* of a body */
    ZM_EXPR_MAX_FUNCTIONS = 200    /* of a header */
};

typedef enum zm_expr_kind {
    ZM_EXPR_NUMBER,      /* 1, .5, 1e-3f, 0x10; also true, false, INFINITY, NAN, M_PI_F ... (constants.def) */
    ZM_EXPR_NAME,        /* a variable */
    ZM_EXPR_CALL,        /* name(children...) */
    ZM_EXPR_UNARY,       /* operation is '-' or '!'; a unary plus leaves no node */
    ZM_EXPR_BINARY,      /* operation is one of zm_expr_operation */
    ZM_EXPR_CONDITIONAL  /* children: condition, then, else */
} zm_expr_kind;

/* Operators in C's spelling; the value of a single-character one is that character. */
typedef enum zm_expr_operation {
    ZM_EXPR_ADD = '+', ZM_EXPR_SUBTRACT = '-', ZM_EXPR_MULTIPLY = '*', ZM_EXPR_DIVIDE = '/',
    ZM_EXPR_LESS = '<', ZM_EXPR_GREATER = '>', ZM_EXPR_NOT = '!',
    ZM_EXPR_LESS_EQUAL = 256, ZM_EXPR_GREATER_EQUAL, ZM_EXPR_EQUAL, ZM_EXPR_NOT_EQUAL, ZM_EXPR_AND, ZM_EXPR_OR
} zm_expr_operation;

typedef struct zm_expr {
    zm_expr_kind kind;
    int operation;    /* of UNARY and BINARY */
    int column;       /* 1-based byte column where it begins; a call's is that of the name, without a prefix */
    int size;         /* bytes of the text it covers, for the caret line */
    int depth;        /* of the tree below, a leaf is 1 */
    double number;    /* of NUMBER: a float32's value */
    const char *name; /* of NAME and CALL; NUL-terminated, in the arena */
    const struct zm_expr *children[ZM_EXPR_MAX_ARGUMENTS];
    int n_children;
} zm_expr;

/* `T s = e;`, `const float s = e;`, `auto s = e;` (declared) or `s = e;` (not declared). The last one needs no
 * ';'. A body declares a name at most once, before it assigns it otherwise. */
typedef struct zm_statement {
    const char *name;
    const zm_expr *value;
    bool declared;
    int column;
} zm_statement;

/* Statements, then at most one bare expression; `return e;` is a bare expression too. */
typedef struct zm_body {
    const zm_statement *statements;
    int n_statements;
    const zm_expr *result; /* NULL where there is none */
    const char *text;      /* the source, in the arena, for messages */
} zm_body;

/* `template <typename T> inline T f(T a, float b) { statements return e; }`, with or without the template line.
 * Names are distinct: no overloads. */
typedef struct zm_function {
    const char *name;
    const char *parameters[ZM_EXPR_MAX_ARGUMENTS];
    int n_parameters;
    const zm_body *body; /* result is not NULL */
    int column;
} zm_function;

typedef struct zm_functions {
    const zm_function *items;
    int count;
} zm_functions;

/* All three: what is the text's role, for messages ("expr", "grad_prelude", "pass1.update"); the tree lives in
 * arena. Errors are ZMLX_ERROR_FORMAT with error->where = what, error->column set, and a message that
 * holds the reason, the text (or the part around the column) with a caret below: see zm_expr_fail. */

/* Statements and/or an expression. An empty text is an error. */
zmlx_status zm_body_parse(const zm_body **body, zm_arena *arena, const char *what, const char *text, size_t size,
                          zmlx_error *error);
/* Statements only; may be empty. */
zmlx_status zm_prelude_parse(const zm_body **body, zm_arena *arena, const char *what, const char *text,
                             size_t size, zmlx_error *error);
/* Function definitions; may be empty. `#include <metal_stdlib>` and `using namespace metal;` are skipped. */
zmlx_status zm_functions_parse(zm_functions *functions, zm_arena *arena, const char *what, const char *text,
                               size_t size, zmlx_error *error);

/* Fails at the 1-based byte column of text: the message is "REASON; at column N: `PART`" where PART is the text
 * around the column (at most 60 bytes, on one line: white space as ' ', other non-printing bytes as '?') with the
 * offending bytes marked as in `x + >>>foo<<<(y)`. `suggestion` (may be NULL) is added as "; did you mean ...?". */
zmlx_status zm_expr_fail(zmlx_error *error, const char *what, const char *text, int column, int size,
                         const char *suggestion, const char *format, ...) ZM_PRINTF(7, 8);

/* The candidate nearest to name by edit distance, or NULL if none is near enough to suggest. */
const char *zm_nearest_name(const char *name, const char *const *candidates, int count);

/* expr as text with all parentheses, numbers in %.9g. Parsing it gives the same tree where the parentheses and the
 * bytes stay within the limits. For tests and dumps. */
struct zm_text;
void zm_expr_print(struct zm_text *text, const zm_expr *expr);

#endif
