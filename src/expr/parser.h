/* SPDX-License-Identifier: MIT */
/* What the parts of the parser share: one token of lookahead over a lexer. */
#ifndef ZM_EXPR_PARSER_H
#define ZM_EXPR_PARSER_H

#include "expr/lexer.h"

typedef struct zm_parser {
    zm_lexer lexer; /* behind token */
    zm_token token;
    int end;     /* offset behind the last token taken */
    int nesting; /* of what is being parsed */
    zm_arena *arena;
} zm_parser;

/* Copies the text into the arena, checks its size and reads the first token. */
zmlx_status zm_parser_begin(zm_parser *parser, zm_arena *arena, const char *what, const char *text, size_t size,
                            zmlx_error *error);
/* Takes the token and reads the next one. */
zmlx_status zm_parser_advance(zm_parser *parser);
/* Takes the sign, or fails with "expected ':' ..." and what was found. context says where, such as "after the
 * condition". */
zmlx_status zm_parser_expect(zm_parser *parser, int sign, const char *context);
/* Fails at the token: not what `expected` describes. Constructs of C that expressions lack are named. */
zmlx_status zm_parser_unexpected(const zm_parser *parser, const char *expected);
bool zm_parser_at_sign(const zm_parser *parser, int sign);
bool zm_parser_at_word(const zm_parser *parser, const char *spelling);
/* Fails unless the token may name something: a variable, a function. */
zmlx_status zm_parser_check_name(const zm_parser *parser);
/* Takes the name that the token is; *name lives in the arena. */
zmlx_status zm_parser_take_name(const char **name, zm_parser *parser);

zmlx_status zm_parse_expression(const zm_expr **expr, zm_parser *parser);

/* Which statements a text may hold. */
typedef enum zm_body_form {
    ZM_BODY_TEXT,    /* statements, then perhaps an expression; up to the end of the text */
    ZM_BODY_PRELUDE, /* statements; up to the end of the text */
    ZM_BODY_FUNCTION /* statements, then `return e;`; up to '}' */
} zm_body_form;
/* Names in use already are an error where a statement declares them. */
zmlx_status zm_parse_body(const zm_body **body, zm_parser *parser, zm_body_form form,
                          const char *const *names_in_use, int n_names_in_use);

#endif
