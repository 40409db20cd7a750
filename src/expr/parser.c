/* SPDX-License-Identifier: MIT */
/* Expressions by precedence climbing. */
#include "expr/parser.h"

#include <string.h>

zmlx_status zm_parser_begin(zm_parser *parser, zm_arena *arena, const char *what, const char *text, size_t size,
                            zmlx_error *error) {
    *parser = (zm_parser){.arena = arena};
    if (size > ZM_EXPR_MAX_BYTES) {
        zm_fail(error, ZMLX_ERROR_FORMAT, what, "the text has %zu bytes; at most %d are allowed", size,
                ZM_EXPR_MAX_BYTES);
        if (error) error->column = 1;
        return ZMLX_ERROR_FORMAT;
    }
    const char *copy = zm_arena_copy(arena, text, size);
    if (!copy) return zm_fail_memory(error);
    parser->lexer = (zm_lexer){.text = copy, .what = what, .error = error};
    if (strlen(copy) != size)
        return zm_expr_fail(error, what, copy, (int)strlen(copy) + 1, 1, NULL, "unexpected byte 0x00");
    return zm_lexer_next(&parser->token, &parser->lexer);
}

zmlx_status zm_parser_advance(zm_parser *parser) {
    parser->end = parser->token.at + parser->token.size;
    return zm_lexer_next(&parser->token, &parser->lexer);
}

bool zm_parser_at_sign(const zm_parser *parser, int sign) { return zm_token_is_sign(&parser->token, sign); }

bool zm_parser_at_word(const zm_parser *parser, const char *spelling) {
    return zm_token_is(&parser->lexer, &parser->token, spelling);
}

static const char *refusal(zm_word word) {
    switch (word) {
    case ZM_WORD_TYPE: return "is a type, no name";
    case ZM_WORD_OTHER_TYPE: return "is not supported; every value is a float32";
    case ZM_WORD_LOOP: return "is not supported; there are no loops or jumps";
    case ZM_WORD_BRANCH: return "is not supported; choose with condition ? a : b";
    case ZM_WORD_CAST: return "is not supported";
    case ZM_WORD_CONSTANT: return "is a constant, no name";
    default: return "is a keyword, no name";
    }
}

static zmlx_status fail_word(const zm_parser *parser) {
    zm_token token = parser->token;
    return ZM_FAIL_TOKEN(&parser->lexer, token, "'%.*s' %s", token.size, parser->lexer.text + token.at,
                         refusal(token.word));
}

zmlx_status zm_parser_unexpected(const zm_parser *parser, const char *expected) {
    const zm_lexer *lexer = &parser->lexer;
    zm_token token = parser->token;
    if (token.kind == ZM_TOKEN_NAME && token.word && token.word != ZM_WORD_CONSTANT) return fail_word(parser);
    if (zm_token_is_sign(&token, '='))
        return ZM_FAIL_TOKEN(lexer, token, "assignment inside an expression is not supported");
    if (zm_token_is_sign(&token, '#')) return ZM_FAIL_TOKEN(lexer, token, "preprocessor lines are not supported");
    if (token.kind == ZM_TOKEN_END) return ZM_FAIL_TOKEN(lexer, token, "expected %s, found the end", expected);
    const char *hint = zm_token_is_sign(&token, ',')   ? "; there is no comma operator"
                       : zm_token_is_sign(&token, '{') ? "; there are no blocks"
                                                       : "";
    return ZM_FAIL_TOKEN(lexer, token, "expected %s, found '%.*s'%s", expected, token.size, lexer->text + token.at,
                         hint);
}

zmlx_status zm_parser_expect(zm_parser *parser, int sign, const char *context) {
    if (zm_parser_at_sign(parser, sign)) return zm_parser_advance(parser);
    char expected[96] = {'\'', (char)sign, '\'', ' '};
    strncat(expected, context, sizeof expected - 5);
    return zm_parser_unexpected(parser, expected);
}

zmlx_status zm_parser_check_name(const zm_parser *parser) {
    if (zm_parser_at_sign(parser, '*'))
        return ZM_FAIL_TOKEN(&parser->lexer, parser->token, "pointers are not supported");
    if (parser->token.kind != ZM_TOKEN_NAME) return zm_parser_unexpected(parser, "a name");
    return parser->token.word ? fail_word(parser) : ZMLX_OK;
}

zmlx_status zm_parser_take_name(const char **name, zm_parser *parser) {
    zm_token token = parser->token;
    *name = zm_arena_copy(parser->arena, parser->lexer.text + token.at, (size_t)token.size);
    return *name ? zm_parser_advance(parser) : zm_fail_memory(parser->lexer.error);
}

static zmlx_status enter(zm_parser *parser) {
    if (parser->nesting++ < ZM_EXPR_MAX_DEPTH) return ZMLX_OK;
    return ZM_FAIL_TOKEN(&parser->lexer, parser->token, "nested more than %d deep", ZM_EXPR_MAX_DEPTH);
}

/* A node that begins at offset `at` and ends behind the last token taken. */
static zmlx_status make_node(zm_expr **expr, const zm_parser *parser, zm_expr_kind kind, int operation, int at,
                             int n_children, zm_expr *const *children) {
    zm_expr *node = zm_arena_alloc(parser->arena, 1, sizeof *node);
    if (!node) return zm_fail_memory(parser->lexer.error);
    node->kind = kind;
    node->operation = operation;
    node->column = at + 1;
    node->size = parser->end - at;
    node->depth = 1;
    node->n_children = n_children;
    for (int i = 0; i < n_children; i++) {
        node->children[i] = children[i];
        if (children[i]->depth >= node->depth) node->depth = children[i]->depth + 1;
    }
    *expr = node;
    if (node->depth <= ZM_EXPR_MAX_TREE_DEPTH) return ZMLX_OK;
    return ZM_FAIL_TOKEN(&parser->lexer, parser->token,
                         "more than %d operations depend on each other in one expression; use variables",
                         ZM_EXPR_MAX_TREE_DEPTH);
}

static zmlx_status parse_nested(zm_expr **expr, zm_parser *parser);

/* `(e)` behind a type, or in parentheses of its own. */
static zmlx_status parse_parentheses(zm_expr **expr, zm_parser *parser, const char *before) {
    ZM_TRY(zm_parser_expect(parser, '(', before));
    ZM_TRY(parse_nested(expr, parser));
    return zm_parser_expect(parser, ')', "or an operator");
}

/* `static_cast<T>(e)` is e. */
static zmlx_status parse_static_cast(zm_expr **expr, zm_parser *parser) {
    ZM_TRY(zm_parser_advance(parser));
    ZM_TRY(zm_parser_expect(parser, '<', "after static_cast"));
    if (parser->token.word != ZM_WORD_TYPE) return zm_parser_unexpected(parser, "a type");
    ZM_TRY(zm_parser_advance(parser));
    ZM_TRY(zm_parser_expect(parser, '>', "after the type"));
    return parse_parentheses(expr, parser, "after static_cast<T>");
}

/* Takes `metal::`, `metal::precise::`, `metal::fast::` or `std::` before the name of a function. */
static zmlx_status skip_prefix(zm_parser *parser, bool *found) {
    static const char *const heads[] = {"metal", "std"}, *const parts[] = {"precise", "fast"};
    zm_lexer ahead = parser->lexer;
    zm_token next;
    *found = false;
    for (int level = 0; level < 3; level++, ahead = parser->lexer) {
        ZM_TRY(zm_lexer_next(&next, &ahead));
        if (!zm_token_is_sign(&next, ZM_SIGN_SCOPE)) return ZMLX_OK;
        const char *const *known = level ? parts : heads;
        bool allowed = level < 2 && (zm_parser_at_word(parser, known[0]) || zm_parser_at_word(parser, known[1]));
        if (!allowed)
            return ZM_FAIL_TOKEN(&parser->lexer, parser->token,
                                 "the prefixes are metal::, metal::precise::, metal::fast:: and std::");
        bool is_std = zm_parser_at_word(parser, "std");
        *found = true;
        ZM_TRY(zm_parser_advance(parser));
        ZM_TRY(zm_parser_advance(parser));
        if (parser->token.kind != ZM_TOKEN_NAME) return zm_parser_unexpected(parser, "a function's name");
        if (is_std) level = 1;
    }
    return ZMLX_OK;
}

/* Takes template arguments, types all, behind a function's name. `a < T(b)` is none. */
static zmlx_status skip_template_arguments(zm_parser *parser) {
    zm_parser ahead = *parser;
    if (!zm_parser_at_sign(&ahead, '<')) return ZMLX_OK;
    do {
        ZM_TRY(zm_parser_advance(&ahead));
        if (ahead.token.word != ZM_WORD_TYPE) return ZMLX_OK;
        ZM_TRY(zm_parser_advance(&ahead));
    } while (zm_parser_at_sign(&ahead, ','));
    if (!zm_parser_at_sign(&ahead, '>')) return ZMLX_OK;
    *parser = ahead;
    ZM_TRY(zm_parser_advance(parser));
    return zm_parser_at_sign(parser, '(') ? ZMLX_OK : zm_parser_unexpected(parser, "'(' after template arguments");
}

static zmlx_status parse_arguments(zm_expr **arguments, int *count, zm_parser *parser) {
    *count = 0;
    ZM_TRY(zm_parser_expect(parser, '(', "after a function's name"));
    if (zm_parser_at_sign(parser, ')')) return zm_parser_advance(parser);
    for (;;) {
        if (*count == ZM_EXPR_MAX_ARGUMENTS)
            return ZM_FAIL_TOKEN(&parser->lexer, parser->token, "a call has more than %d arguments",
                                 ZM_EXPR_MAX_ARGUMENTS);
        ZM_TRY(parse_nested(&arguments[(*count)++], parser));
        if (!zm_parser_at_sign(parser, ',')) return zm_parser_expect(parser, ')', "or ',' or an operator");
        ZM_TRY(zm_parser_advance(parser));
    }
}

/* A variable or a call. */
static zmlx_status parse_name(zm_expr **expr, zm_parser *parser) {
    bool has_prefix;
    const char *name;
    zm_expr *arguments[ZM_EXPR_MAX_ARGUMENTS] = {0};
    int n_arguments = 0;
    ZM_TRY(skip_prefix(parser, &has_prefix));
    if (zm_parser_at_word(parser, "numeric_limits"))
        return ZM_FAIL_TOKEN(&parser->lexer, parser->token,
                             "numeric_limits is not supported; use INFINITY, FLT_MAX, FLT_MIN or FLT_EPSILON");
    ZM_TRY(zm_parser_check_name(parser));
    int at = parser->token.at;
    ZM_TRY(zm_parser_take_name(&name, parser));
    ZM_TRY(skip_template_arguments(parser));
    bool is_call = zm_parser_at_sign(parser, '(');
    if (has_prefix && !is_call) return zm_parser_unexpected(parser, "'(': only functions have a prefix");
    if (is_call) ZM_TRY(parse_arguments(arguments, &n_arguments, parser));
    ZM_TRY(make_node(expr, parser, is_call ? ZM_EXPR_CALL : ZM_EXPR_NAME, 0, at, n_arguments, arguments));
    (*expr)->name = name;
    return ZMLX_OK;
}

static zmlx_status parse_number(zm_expr **expr, zm_parser *parser) {
    zm_token token = parser->token;
    ZM_TRY(zm_parser_advance(parser));
    ZM_TRY(make_node(expr, parser, ZM_EXPR_NUMBER, 0, token.at, 0, NULL));
    (*expr)->number = token.number;
    return ZMLX_OK;
}

static zmlx_status parse_primary(zm_expr **expr, zm_parser *parser) {
    zm_token token = parser->token;
    if (zm_parser_at_sign(parser, '(')) {
        ZM_TRY(parse_parentheses(expr, parser, ""));
    } else if (token.kind == ZM_TOKEN_NUMBER || (token.kind == ZM_TOKEN_NAME && token.word == ZM_WORD_CONSTANT)) {
        ZM_TRY(parse_number(expr, parser));
    } else if (token.kind == ZM_TOKEN_NAME && token.word == ZM_WORD_TYPE) {
        ZM_TRY(zm_parser_advance(parser));
        ZM_TRY(parse_parentheses(expr, parser, "after a type, as in T(x)"));
    } else if (zm_parser_at_word(parser, "static_cast")) {
        ZM_TRY(parse_static_cast(expr, parser));
    } else if (token.kind == ZM_TOKEN_NAME) {
        ZM_TRY(parse_name(expr, parser));
    } else if (zm_token_is_sign(&token, '*')) {
        return ZM_FAIL_TOKEN(&parser->lexer, token, "expected a value, found '*'; there are no pointers");
    } else {
        return zm_parser_unexpected(parser, "a value");
    }
    if (zm_parser_at_sign(parser, '('))
        return ZM_FAIL_TOKEN(&parser->lexer, parser->token,
                             "'(' after a value: only functions by their names are called; a product needs '*'");
    return ZMLX_OK;
}

/* Whether `(T)` comes next, not `(T(`. */
static zmlx_status at_cast(bool *is_cast, const zm_parser *parser) {
    zm_lexer ahead = parser->lexer;
    zm_token next;
    *is_cast = false;
    if (!zm_parser_at_sign(parser, '(')) return ZMLX_OK;
    ZM_TRY(zm_lexer_next(&next, &ahead));
    if (next.kind != ZM_TOKEN_NAME || next.word != ZM_WORD_TYPE) return ZMLX_OK;
    ZM_TRY(zm_lexer_next(&next, &ahead));
    *is_cast = zm_token_is_sign(&next, ')');
    return ZMLX_OK;
}

/* `-e`, `+e`, `!e` and `(T)e`. */
static zmlx_status parse_unary(zm_expr **expr, zm_parser *parser) {
    zm_token token = parser->token;
    bool is_cast;
    ZM_TRY(at_cast(&is_cast, parser));
    bool is_operator = token.kind == ZM_TOKEN_SIGN && (token.sign == '-' || token.sign == '+' || token.sign == '!');
    if (!is_cast && !is_operator) return parse_primary(expr, parser);
    zm_expr *operand;
    ZM_TRY(enter(parser));
    for (int i = 0; i < (is_cast ? 3 : 1); i++) ZM_TRY(zm_parser_advance(parser));
    ZM_TRY(parse_unary(&operand, parser));
    parser->nesting--;
    *expr = operand;
    if (is_cast || token.sign == '+') return ZMLX_OK;
    return make_node(expr, parser, ZM_EXPR_UNARY, token.sign, token.at, 1, &operand);
}

/* 0 where the token is no binary operator. */
static int precedence(const zm_token *token) {
    if (token->kind != ZM_TOKEN_SIGN) return 0;
    switch (token->sign) {
    case ZM_EXPR_OR: return 1;
    case ZM_EXPR_AND: return 2;
    case ZM_EXPR_EQUAL:
    case ZM_EXPR_NOT_EQUAL: return 3;
    case ZM_EXPR_LESS:
    case ZM_EXPR_GREATER:
    case ZM_EXPR_LESS_EQUAL:
    case ZM_EXPR_GREATER_EQUAL: return 4;
    case ZM_EXPR_ADD:
    case ZM_EXPR_SUBTRACT: return 5;
    case ZM_EXPR_MULTIPLY:
    case ZM_EXPR_DIVIDE: return 6;
    default: return 0;
    }
}

/* Operators of at least this precedence; chains of equal ones are a loop. */
static zmlx_status parse_binary(zm_expr **expr, zm_parser *parser, int lowest) {
    int at = parser->token.at;
    zm_expr *operands[2];
    ZM_TRY(parse_unary(&operands[0], parser));
    for (int level; (level = precedence(&parser->token)) >= lowest;) {
        int operation = parser->token.sign;
        ZM_TRY(zm_parser_advance(parser));
        ZM_TRY(parse_binary(&operands[1], parser, level + 1));
        ZM_TRY(make_node(&operands[0], parser, ZM_EXPR_BINARY, operation, at, 2, operands));
    }
    *expr = operands[0];
    return ZMLX_OK;
}

/* An expression one level further in. */
static zmlx_status parse_nested(zm_expr **expr, zm_parser *parser) {
    int at = parser->token.at;
    zm_expr *parts[3];
    ZM_TRY(enter(parser));
    ZM_TRY(parse_binary(&parts[0], parser, 1));
    if (zm_parser_at_sign(parser, '?')) {
        ZM_TRY(zm_parser_advance(parser));
        ZM_TRY(parse_nested(&parts[1], parser));
        ZM_TRY(zm_parser_expect(parser, ':', "of a conditional or an operator"));
        ZM_TRY(parse_nested(&parts[2], parser));
        ZM_TRY(make_node(&parts[0], parser, ZM_EXPR_CONDITIONAL, 0, at, 3, parts));
    }
    parser->nesting--;
    *expr = parts[0];
    return ZMLX_OK;
}

zmlx_status zm_parse_expression(const zm_expr **expr, zm_parser *parser) {
    zm_expr *parsed;
    *expr = NULL;
    parser->nesting = -1; /* the outermost expression is not nested */
    ZM_TRY(parse_nested(&parsed, parser));
    *expr = parsed;
    return ZMLX_OK;
}
