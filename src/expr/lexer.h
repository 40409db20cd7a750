/* SPDX-License-Identifier: MIT */
/* Text to tokens, one at a time. A lexer is a value: copying it is looking ahead. */
#ifndef ZM_EXPR_LEXER_H
#define ZM_EXPR_LEXER_H

#include "expr/expr.h"

typedef enum zm_token_kind {
    ZM_TOKEN_END,
    ZM_TOKEN_NUMBER,
    ZM_TOKEN_NAME, /* of any word class */
    ZM_TOKEN_SIGN
} zm_token_kind;

/* Signs of more than one character that are no operators; the value of the others is their zm_expr_operation or
 * character. */
enum { ZM_SIGN_SCOPE = 512 }; /* :: */

typedef enum zm_word {
    ZM_WORD_NONE, /* an ordinary name */
    ZM_WORD_TYPE, ZM_WORD_OTHER_TYPE, ZM_WORD_LOOP, ZM_WORD_BRANCH, ZM_WORD_CAST, ZM_WORD_KEYWORD,
    ZM_WORD_CONSTANT
} zm_word;

typedef struct zm_token {
    zm_token_kind kind;
    int sign;      /* of SIGN */
    zm_word word;  /* of NAME */
    double number; /* of NUMBER, and of NAME where word is CONSTANT */
    int at, size;  /* offset in the text and bytes */
} zm_token;

typedef struct zm_lexer {
    const char *text; /* NUL-terminated, no other NUL */
    int at;
    const char *what;
    zmlx_error *error;
} zm_lexer;

/* Skips white space and comments and reads a token; what no expression has is refused here. */
zmlx_status zm_lexer_next(zm_token *token, zm_lexer *lexer);

/* Whether token is a name of this spelling. */
bool zm_token_is(const zm_lexer *lexer, const zm_token *token, const char *spelling);
bool zm_token_is_sign(const zm_token *token, int sign);

/* Fails at the bytes of a zm_token. */
#define ZM_FAIL_TOKEN(lexer, token, ...)                                                                         \
    zm_expr_fail((lexer)->error, (lexer)->what, (lexer)->text, (token).at + 1, (token).size, NULL, __VA_ARGS__)

#endif
