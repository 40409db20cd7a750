/* SPDX-License-Identifier: MIT */
/* Headers: function definitions, as a Metal header has them. */
#include <string.h>

#include "expr/parser.h"

static const char *skip_blanks(const char *at) { return at + strspn(at, " \t"); }

/* Behind the word if it stands at `at`, else NULL. */
static const char *skip_word(const char *at, const char *word) {
    size_t size = strlen(word);
    return strncmp(at, word, size) ? NULL : skip_blanks(at + size);
}

/* Behind `#include <metal_stdlib>` or `<metal_math>`, or NULL. */
static const char *skip_include(const char *at) {
    at = skip_word(at, "include");
    at = at ? skip_word(at, "<") : NULL;
    if (!at) return NULL;
    const char *name = skip_word(at, "metal_stdlib");
    if (!name) name = skip_word(at, "metal_math");
    return name && *name == '>' ? name + 1 : NULL;
}

/* Behind the macro of ZMLX's default header, which no expression can use, or NULL. */
static const char *skip_define(const char *at) {
    at = skip_word(at, "define");
    at = at ? skip_word(at, "KK_SIMD_REDUCE_SUM(") : NULL;
    while (at && *at && *at != '\n')
        at += !strncmp(at, "\\\r\n", 3) ? 3 : !strncmp(at, "\\\n", 2) ? 2 : 1;
    return at;
}

static zmlx_status skip_directive(zm_parser *parser) {
    zm_lexer *lexer = &parser->lexer;
    const char *line = skip_blanks(lexer->text + lexer->at);
    const char *end = skip_include(line);
    if (!end) end = skip_define(line);
    if (!end) {
        parser->token.size = (int)strcspn(lexer->text + parser->token.at, "\r\n");
        return ZM_FAIL_TOKEN(lexer, parser->token,
                             "of preprocessor lines only #include <metal_stdlib> and <metal_math> are known");
    }
    lexer->at = (int)(end - lexer->text);
    return zm_parser_advance(parser);
}

static zmlx_status skip_using(zm_parser *parser) {
    static const char *const words[] = {"using", "namespace", "metal"};
    zm_token first = parser->token;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (!zm_parser_at_word(parser, words[i]))
            return ZM_FAIL_TOKEN(&parser->lexer, first, "of using lines only `using namespace metal;` is known");
        ZM_TRY(zm_parser_advance(parser));
    }
    return zm_parser_expect(parser, ';', "after using namespace metal");
}

/* `template <typename T>`; several parameters too. */
static zmlx_status skip_template(zm_parser *parser) {
    if (!zm_parser_at_word(parser, "template")) return ZMLX_OK;
    ZM_TRY(zm_parser_advance(parser));
    ZM_TRY(zm_parser_expect(parser, '<', "after template"));
    for (;;) {
        if (!zm_parser_at_word(parser, "typename") && !zm_parser_at_word(parser, "class"))
            return zm_parser_unexpected(parser, "typename");
        ZM_TRY(zm_parser_advance(parser));
        if (!zm_parser_at_word(parser, "T") && !zm_parser_at_word(parser, "O"))
            return ZM_FAIL_TOKEN(&parser->lexer, parser->token, "the type of a template is named T or O");
        ZM_TRY(zm_parser_advance(parser));
        if (!zm_parser_at_sign(parser, ',')) return zm_parser_expect(parser, '>', "after the template's types");
        ZM_TRY(zm_parser_advance(parser));
    }
}

static zmlx_status take_type(zm_parser *parser) {
    if (parser->token.word != ZM_WORD_TYPE) return zm_parser_unexpected(parser, "a type");
    return zm_parser_advance(parser);
}

static zmlx_status parse_parameter(zm_function *function, zm_parser *parser) {
    if (function->n_parameters == ZM_EXPR_MAX_ARGUMENTS)
        return ZM_FAIL_TOKEN(&parser->lexer, parser->token, "function '%s' has more than %d parameters",
                             function->name, ZM_EXPR_MAX_ARGUMENTS);
    if (zm_parser_at_word(parser, "const")) ZM_TRY(zm_parser_advance(parser));
    ZM_TRY(take_type(parser));
    ZM_TRY(zm_parser_check_name(parser));
    zm_token token = parser->token;
    const char *name;
    ZM_TRY(zm_parser_take_name(&name, parser));
    for (int i = 0; i < function->n_parameters; i++)
        if (!strcmp(function->parameters[i], name))
            return ZM_FAIL_TOKEN(&parser->lexer, token, "two parameters are named '%s'", name);
    function->parameters[function->n_parameters++] = name;
    return ZMLX_OK;
}

static zmlx_status parse_parameters(zm_function *function, zm_parser *parser) {
    if (!zm_parser_at_sign(parser, '('))
        return ZM_FAIL_TOKEN(&parser->lexer, parser->token, "expected '(': a header holds functions only");
    ZM_TRY(zm_parser_advance(parser));
    if (zm_parser_at_sign(parser, ')')) return zm_parser_advance(parser);
    for (;;) {
        ZM_TRY(parse_parameter(function, parser));
        if (!zm_parser_at_sign(parser, ',')) return zm_parser_expect(parser, ')', "or ',' after a parameter");
        ZM_TRY(zm_parser_advance(parser));
    }
}

static zmlx_status parse_function(zm_function *function, zm_parser *parser, const zm_functions *before) {
    ZM_TRY(skip_template(parser));
    while (zm_parser_at_word(parser, "inline") || zm_parser_at_word(parser, "static"))
        ZM_TRY(zm_parser_advance(parser));
    if (parser->token.word != ZM_WORD_TYPE) return zm_parser_unexpected(parser, "a function definition");
    ZM_TRY(zm_parser_advance(parser));
    ZM_TRY(zm_parser_check_name(parser));
    zm_token token = parser->token;
    *function = (zm_function){.column = token.at + 1};
    ZM_TRY(zm_parser_take_name(&function->name, parser));
    for (int i = 0; i < before->count; i++)
        if (!strcmp(before->items[i].name, function->name))
            return ZM_FAIL_TOKEN(&parser->lexer, token, "function '%s' is defined twice", function->name);
    ZM_TRY(parse_parameters(function, parser));
    ZM_TRY(zm_parser_expect(parser, '{', "after the parameters"));
    ZM_TRY(zm_parse_body(&function->body, parser, ZM_BODY_FUNCTION, function->parameters, function->n_parameters));
    ZM_TRY(zm_parser_expect(parser, '}', "after return"));
    return zm_parser_at_sign(parser, ';') ? zm_parser_advance(parser) : ZMLX_OK;
}

static zmlx_status parse_header(zm_functions *functions, zm_function *items, zm_parser *parser) {
    *functions = (zm_functions){.items = items};
    while (parser->token.kind != ZM_TOKEN_END) {
        if (zm_parser_at_sign(parser, '#')) {
            ZM_TRY(skip_directive(parser));
        } else if (zm_parser_at_word(parser, "using")) {
            ZM_TRY(skip_using(parser));
        } else if (functions->count == ZM_EXPR_MAX_FUNCTIONS) {
            return ZM_FAIL_TOKEN(&parser->lexer, parser->token, "more than %d functions", ZM_EXPR_MAX_FUNCTIONS);
        } else {
            ZM_TRY(parse_function(&items[functions->count], parser, functions));
            functions->count++;
        }
    }
    return ZMLX_OK;
}

zmlx_status zm_functions_parse(zm_functions *functions, zm_arena *arena, const char *what, const char *text,
                               size_t size, zmlx_error *error) {
    zm_parser parser;
    *functions = (zm_functions){0};
    ZM_TRY(zm_parser_begin(&parser, arena, what, text, size, error));
    if (parser.token.kind == ZM_TOKEN_END) return ZMLX_OK;
    zm_function *items = zm_arena_alloc(arena, ZM_EXPR_MAX_FUNCTIONS, sizeof *items);
    if (!items) return zm_fail_memory(error);
    zmlx_status status = parse_header(functions, items, &parser);
    if (status) *functions = (zm_functions){0};
    return status;
}
