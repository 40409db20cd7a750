/* SPDX-License-Identifier: MIT */
/* Any bytes as an expression, a prelude and a header: an error with a column in the text, or trees within the
 * limits whose print parses to the same print. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "expr/expr.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
    if (!holds) abort();
}

static void check_error(const zmlx_error *error, size_t size) {
    require(error->code == ZMLX_ERROR_FORMAT && error->column >= 1 && (size_t)error->column <= size + 1);
    require(!strcmp(error->where, "fuzz"));
    require(size > ZM_EXPR_MAX_BYTES || strstr(error->message, "; at column "));
}

static void check_tree(const zm_expr *expr, size_t size) {
    int depth = 0;
    require(expr->column >= 1 && expr->size > 0 && (size_t)(expr->column - 1 + expr->size) <= size);
    require(expr->n_children <= ZM_EXPR_MAX_ARGUMENTS && expr->depth <= ZM_EXPR_MAX_TREE_DEPTH);
    for (int i = 0; i < expr->n_children; i++) {
        check_tree(expr->children[i], size);
        if (expr->children[i]->depth > depth) depth = expr->children[i]->depth;
    }
    require(expr->depth == depth + 1);
    bool named = expr->kind == ZM_EXPR_NAME || expr->kind == ZM_EXPR_CALL;
    require(named == (expr->name != NULL) && (!named || strlen(expr->name) <= ZM_EXPR_MAX_NAME));
}

static void print_body(zm_text *text, const zm_body *body) {
    for (int i = 0; i < body->n_statements; i++) {
        const zm_statement *statement = &body->statements[i];
        zm_text_printf(text, "%s%s = ", statement->declared ? "T " : "", statement->name);
        zm_expr_print(text, statement->value);
        zm_text_append_string(text, ";\n");
    }
    if (body->result) zm_expr_print(text, body->result);
}

/* Parentheses and bytes of the print may be more than the limits. */
static bool is_over_limits(const zmlx_error *error) {
    return strstr(error->message, "nested more than") || strstr(error->message, "the text has");
}

static void check_body(const zm_body *body, size_t size) {
    for (int i = 0; i < body->n_statements; i++) check_tree(body->statements[i].value, size);
    if (body->result) check_tree(body->result, size);
    zm_arena *arena = zm_arena_new();
    zm_text printed = {0}, again = {0};
    const zm_body *parsed;
    zmlx_error error = {0};
    print_body(&printed, body);
    if (!printed.size) {
        require(!body->n_statements && !body->result);
    } else if (zm_body_parse(&parsed, arena, "fuzz", printed.data, printed.size, &error)) {
        require(is_over_limits(&error));
    } else {
        print_body(&again, parsed);
        require(again.size == printed.size && !memcmp(again.data, printed.data, again.size));
    }
    zm_text_free(&printed);
    zm_text_free(&again);
    zm_arena_free(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data;
    const zm_body *body, *prelude;
    zm_functions functions;
    zmlx_error error = {0};
    zm_arena *arena = zm_arena_new();
    if (zm_body_parse(&body, arena, "fuzz", text, size, &error)) {
        check_error(&error, size);
    } else {
        check_body(body, size);
    }
    if (zm_prelude_parse(&prelude, arena, "fuzz", text, size, &error)) {
        check_error(&error, size);
    } else {
        require(!prelude->result && (prelude->n_statements == 0 || body->n_statements == prelude->n_statements));
        check_body(prelude, size);
    }
    if (zm_functions_parse(&functions, arena, "fuzz", text, size, &error)) check_error(&error, size);
    for (int i = 0; i < functions.count; i++) {
        require(functions.items[i].body->result != NULL);
        check_body(functions.items[i].body, size);
    }
    zm_arena_free(arena);
    return 0;
}
