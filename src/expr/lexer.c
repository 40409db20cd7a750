/* SPDX-License-Identifier: MIT */
#include "expr/lexer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NUMBER = 128 /* bytes */ };

static const struct {
    const char *spelling;
    zm_word word;
} words[] = {
#define ZM_WORD(spelling, word_class) {spelling, ZM_WORD_##word_class},
#include "expr/words.def"
#undef ZM_WORD
};

static const struct {
    const char *name;
    double value;
} constants[] = {
#define ZM_CONSTANT(name, value) {name, value},
#include "expr/constants.def"
#undef ZM_CONSTANT
};

/* Longer spellings before their beginnings. */
static const struct {
    const char *spelling;
    int sign;
    const char *refusal;
} signs[] = {
    {"<<=", 0, "compound assignment is not supported"},
    {">>=", 0, "compound assignment is not supported"},
    {"+=", 0, "compound assignment is not supported; write name = name + value"},
    {"-=", 0, "compound assignment is not supported; write name = name - value"},
    {"*=", 0, "compound assignment is not supported; write name = name * value"},
    {"/=", 0, "compound assignment is not supported; write name = name / value"},
    {"%=", 0, "compound assignment is not supported"},
    {"&=", 0, "compound assignment is not supported"},
    {"|=", 0, "compound assignment is not supported"},
    {"^=", 0, "compound assignment is not supported"},
    {"++", 0, "increment is not supported"},
    {"--", 0, "decrement is not supported; the negative of a negative is - -x"},
    {"->", 0, "member access is not supported"},
    {"**", 0, "operator ** is not supported; a power is pow(a, b)"},
    {"<<", 0, "bit operators are not supported"},
    {">>", 0, "bit operators are not supported"},
    {"<=", ZM_EXPR_LESS_EQUAL, NULL},
    {">=", ZM_EXPR_GREATER_EQUAL, NULL},
    {"==", ZM_EXPR_EQUAL, NULL},
    {"!=", ZM_EXPR_NOT_EQUAL, NULL},
    {"&&", ZM_EXPR_AND, NULL},
    {"||", ZM_EXPR_OR, NULL},
    {"::", ZM_SIGN_SCOPE, NULL},
    {"&", 0, "bit operators and references are not supported"},
    {"|", 0, "bit operators are not supported"},
    {"^", 0, "bit operators are not supported; a power is pow(a, b)"},
    {"~", 0, "bit operators are not supported"},
    {"%", 0, "the remainder operator is not supported; use fmod(a, b)"},
    {"[", 0, "indexing and arrays are not supported"},
    {"]", 0, "indexing and arrays are not supported"},
    {".", 0, "member access is not supported"},
    {"\"", 0, "strings are not supported"},
    {"'", 0, "characters are not supported"},
};

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
static bool is_name_part(char c) { return is_name_start(c) || is_digit(c); }
static bool is_hexadecimal(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

/* White space and comments. */
static zmlx_status skip_space(zm_lexer *lexer) {
    const char *text = lexer->text;
    for (;;) {
        const char *at = text + lexer->at;
        if (*at && strchr(" \t\r\n\v\f", *at)) {
            lexer->at++;
        } else if (at[0] == '/' && at[1] == '/') {
            lexer->at += (int)strcspn(at, "\n");
        } else if (at[0] == '/' && at[1] == '*') {
            const char *end = strstr(at + 2, "*/");
            if (!end)
                return zm_expr_fail(lexer->error, lexer->what, text, lexer->at + 1, 2, NULL,
                                    "a comment has no end '*/'");
            lexer->at = (int)(end + 2 - text);
        } else {
            return ZMLX_OK;
        }
    }
}

/* DIGITS . DIGITS to the nearest float32. The point goes into the exponent: strtof reads no locale's point then. */
static float decimal_value(const char *digits, int size, int exponent) {
    char plain[MAX_NUMBER + 16];
    int n = 0;
    bool fraction = false;
    for (int i = 0; i < size; i++) {
        if (digits[i] == '.') {
            fraction = true;
        } else {
            plain[n++] = digits[i];
            if (fraction) exponent--;
        }
    }
    snprintf(plain + n, sizeof plain - (size_t)n, "e%d", exponent);
    return strtof(plain, NULL);
}

static int count_digits(const char *at) {
    int n = 0;
    while (is_digit(at[n])) n++;
    return n;
}

/* Sets *size to the bytes of the number without its suffix. */
static float read_hexadecimal(int *size, const char *start) {
    int n = 2;
    while (is_hexadecimal(start[n]) && n < MAX_NUMBER) n++;
    char plain[MAX_NUMBER + 1];
    memcpy(plain, start, (size_t)n);
    plain[n] = '\0';
    *size = n;
    return strtof(plain, NULL);
}

static float read_decimal(int *size, bool *is_integer, const char *start) {
    int n = count_digits(start);
    *is_integer = true;
    if (start[n] == '.') {
        *is_integer = false;
        n += 1 + count_digits(start + n + 1);
    }
    int digits = n, exponent = 0;
    if (start[n] == 'e' || start[n] == 'E') {
        int sign = start[n + 1] == '+' || start[n + 1] == '-', first = n + 1 + sign;
        int count = count_digits(start + first);
        if (count) {
            *is_integer = false;
            for (int i = 0; i < count && exponent < 100000; i++)
                exponent = exponent * 10 + (start[first + i] - '0');
            if (start[n + 1] == '-') exponent = -exponent;
            n = first + count;
        }
    }
    *size = n;
    return n > MAX_NUMBER ? 0 : decimal_value(start, digits, exponent);
}

static zmlx_status read_number(zm_token *token, zm_lexer *lexer) {
    const char *start = lexer->text + lexer->at;
    bool hexadecimal = start[0] == '0' && (start[1] == 'x' || start[1] == 'X'), is_integer = true;
    int size = 0;
    float value = hexadecimal ? read_hexadecimal(&size, start) : read_decimal(&size, &is_integer, start);
    int end = size;
    while (is_name_part(start[end]) || start[end] == '.') end++;
    *token = (zm_token){.kind = ZM_TOKEN_NUMBER, .at = lexer->at, .size = end, .number = (double)value};
    lexer->at += end;
    int suffix = end - size;
    if (size >= MAX_NUMBER)
        return ZM_FAIL_TOKEN(lexer, *token, "a number is longer than %d bytes", MAX_NUMBER - 1);
    if (hexadecimal && (size == 2 || start[size] == '.' || start[size] == 'p' || start[size] == 'P'))
        return ZM_FAIL_TOKEN(lexer, *token, "a hexadecimal number is an integer such as 0x1F");
    if (suffix > 1 || (suffix && !strchr("fFhu", start[size])) || (suffix && start[size] == 'u' && !is_integer))
        return ZM_FAIL_TOKEN(lexer, *token, "malformed number; a suffix is f, F or h, and u after an integer");
    if (!hexadecimal && is_integer && size > 1 && start[0] == '0')
        return ZM_FAIL_TOKEN(lexer, *token, "a number with a leading zero would be octal in C; write it without");
    if (isinf(value))
        return ZM_FAIL_TOKEN(lexer, *token, "the number is too large for float32; infinity is INFINITY");
    return ZMLX_OK;
}

static void classify(zm_token *token, const char *text) {
    size_t size = (size_t)token->size;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strncmp(words[i].spelling, text, size) && !words[i].spelling[size]) token->word = words[i].word;
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (!strncmp(constants[i].name, text, size) && !constants[i].name[size]) {
            token->word = ZM_WORD_CONSTANT;
            token->number = (double)(float)constants[i].value;
        }
}

static zmlx_status read_name(zm_token *token, zm_lexer *lexer) {
    const char *start = lexer->text + lexer->at;
    int size = 0;
    while (is_name_part(start[size])) size++;
    *token = (zm_token){.kind = ZM_TOKEN_NAME, .at = lexer->at, .size = size};
    lexer->at += size;
    if (size > ZM_EXPR_MAX_NAME)
        return ZM_FAIL_TOKEN(lexer, *token, "a name is longer than %d bytes", ZM_EXPR_MAX_NAME);
    classify(token, start);
    return ZMLX_OK;
}

static zmlx_status read_sign(zm_token *token, zm_lexer *lexer) {
    const char *start = lexer->text + lexer->at;
    *token = (zm_token){.kind = ZM_TOKEN_SIGN, .sign = (unsigned char)*start, .at = lexer->at, .size = 1};
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++) {
        size_t size = strlen(signs[i].spelling);
        if (strncmp(start, signs[i].spelling, size)) continue;
        token->sign = signs[i].sign;
        token->size = (int)size;
        if (signs[i].refusal) return ZM_FAIL_TOKEN(lexer, *token, "%s", signs[i].refusal);
        lexer->at += token->size;
        return ZMLX_OK;
    }
    if (!strchr("+-*/<>!?:(){},;=#", *start))
        return ZM_FAIL_TOKEN(lexer, *token, "unexpected byte 0x%02x", (unsigned)token->sign);
    lexer->at++;
    return ZMLX_OK;
}

zmlx_status zm_lexer_next(zm_token *token, zm_lexer *lexer) {
    *token = (zm_token){0};
    ZM_TRY(skip_space(lexer));
    const char *start = lexer->text + lexer->at;
    token->at = lexer->at;
    if (!*start) return ZMLX_OK;
    if (is_digit(*start) || (*start == '.' && is_digit(start[1]))) return read_number(token, lexer);
    if (is_name_start(*start)) return read_name(token, lexer);
    return read_sign(token, lexer);
}

bool zm_token_is(const zm_lexer *lexer, const zm_token *token, const char *spelling) {
    return token->kind == ZM_TOKEN_NAME && strlen(spelling) == (size_t)token->size &&
           !memcmp(lexer->text + token->at, spelling, (size_t)token->size);
}

bool zm_token_is_sign(const zm_token *token, int sign) {
    return token->kind == ZM_TOKEN_SIGN && token->sign == sign;
}
