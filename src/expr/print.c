/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "expr/expr.h"

static const char *spelling(int operation) {
    switch (operation) {
    case ZM_EXPR_ADD: return "+";
    case ZM_EXPR_SUBTRACT: return "-";
    case ZM_EXPR_MULTIPLY: return "*";
    case ZM_EXPR_DIVIDE: return "/";
    case ZM_EXPR_LESS: return "<";
    case ZM_EXPR_GREATER: return ">";
    case ZM_EXPR_NOT: return "!";
    case ZM_EXPR_LESS_EQUAL: return "<=";
    case ZM_EXPR_GREATER_EQUAL: return ">=";
    case ZM_EXPR_EQUAL: return "==";
    case ZM_EXPR_NOT_EQUAL: return "!=";
    case ZM_EXPR_AND: return "&&";
    default: return "||";
    }
}

/* Nine digits give the same float32 again; the locale's point becomes '.'. */
static void print_number(zm_text *text, double number) {
    if (!isfinite(number)) {
        zm_text_append_string(text, isnan(number) ? "NAN" : "INFINITY");
        return;
    }
    char digits[32];
    snprintf(digits, sizeof digits, "%.9g", number);
    const char *tail = digits + strspn(digits, "0123456789");
    zm_text_append(text, digits, (size_t)(tail - digits));
    if (*tail && *tail != 'e') {
        zm_text_append(text, ".", 1);
        tail += strcspn(tail, "0123456789");
    }
    zm_text_append_string(text, tail);
}

static void print_call(zm_text *text, const zm_expr *expr) {
    zm_text_printf(text, "%s(", expr->name);
    for (int i = 0; i < expr->n_children; i++) {
        if (i) zm_text_append_string(text, ", ");
        zm_expr_print(text, expr->children[i]);
    }
    zm_text_append(text, ")", 1);
}

void zm_expr_print(zm_text *text, const zm_expr *expr) {
    switch (expr->kind) {
    case ZM_EXPR_NUMBER: print_number(text, expr->number); return;
    case ZM_EXPR_NAME: zm_text_append_string(text, expr->name); return;
    case ZM_EXPR_CALL: print_call(text, expr); return;
    case ZM_EXPR_UNARY:
        zm_text_printf(text, "(%s", spelling(expr->operation));
        zm_expr_print(text, expr->children[0]);
        break;
    case ZM_EXPR_BINARY:
        zm_text_append(text, "(", 1);
        zm_expr_print(text, expr->children[0]);
        zm_text_printf(text, " %s ", spelling(expr->operation));
        zm_expr_print(text, expr->children[1]);
        break;
    case ZM_EXPR_CONDITIONAL:
        zm_text_append(text, "(", 1);
        zm_expr_print(text, expr->children[0]);
        zm_text_append(text, " ? ", 3);
        zm_expr_print(text, expr->children[1]);
        zm_text_append(text, " : ", 3);
        zm_expr_print(text, expr->children[2]);
        break;
    }
    zm_text_append(text, ")", 1);
}
