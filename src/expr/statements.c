/* SPDX-License-Identifier: MIT */
/* Statements: `[const] type name = e`, `name = e`, `return e`, a bare expression. */
#include <string.h>

#include "expr/parser.h"

typedef struct body_builder {
    zm_parser *parser;
    zm_body_form form;
    zm_statement *statements;
    int count, capacity;
    const char *const *names_in_use;
    int n_names_in_use;
} body_builder;

static zmlx_status add_statement(body_builder *builder, zm_statement statement) {
    const zm_parser *parser = builder->parser;
    if (builder->count == ZM_EXPR_MAX_STATEMENTS)
        return zm_expr_fail(parser->lexer.error, parser->lexer.what, parser->lexer.text, statement.column,
                            (int)strlen(statement.name), NULL, "more than %d statements", ZM_EXPR_MAX_STATEMENTS);
    if (builder->count == builder->capacity) {
        int capacity = builder->capacity ? builder->capacity * 2 : 8;
        zm_statement *grown = zm_arena_alloc(parser->arena, (size_t)capacity, sizeof *grown);
        if (!grown) return zm_fail_memory(parser->lexer.error);
        if (builder->count) memcpy(grown, builder->statements, (size_t)builder->count * sizeof *grown);
        builder->statements = grown;
        builder->capacity = capacity;
    }
    builder->statements[builder->count++] = statement;
    return ZMLX_OK;
}

static bool is_in_use(const body_builder *builder, const char *name) {
    for (int i = 0; i < builder->count; i++)
        if (!strcmp(builder->statements[i].name, name)) return true;
    for (int i = 0; i < builder->n_names_in_use; i++)
        if (!strcmp(builder->names_in_use[i], name)) return true;
    return false;
}

/* `name = e` behind what declares it, if anything does. */
static zmlx_status parse_assignment(body_builder *builder, bool declared) {
    zm_parser *parser = builder->parser;
    ZM_TRY(zm_parser_check_name(parser));
    zm_token token = parser->token;
    zm_statement statement = {.declared = declared, .column = token.at + 1};
    ZM_TRY(zm_parser_take_name(&statement.name, parser));
    if (declared && is_in_use(builder, statement.name))
        return ZM_FAIL_TOKEN(&parser->lexer, token, "'%s' has a value already; leave the type out to change it",
                             statement.name);
    ZM_TRY(zm_parser_expect(parser, '=', "and a value after the name"));
    ZM_TRY(zm_parse_expression(&statement.value, parser));
    return add_statement(builder, statement);
}

/* `const`, `auto` or a type, the next token being no parenthesis. */
static zmlx_status parse_declaration(body_builder *builder) {
    zm_parser *parser = builder->parser;
    if (zm_parser_at_word(parser, "const")) ZM_TRY(zm_parser_advance(parser));
    if (parser->token.word != ZM_WORD_TYPE && !zm_parser_at_word(parser, "auto"))
        return zm_parser_unexpected(parser, "a type");
    zm_lexer ahead = parser->lexer;
    zm_token next;
    ZM_TRY(zm_lexer_next(&next, &ahead));
    if (zm_token_is_sign(&next, '=')) return zm_parser_check_name(parser);
    ZM_TRY(zm_parser_advance(parser));
    return parse_assignment(builder, true);
}

static zmlx_status parse_result(const zm_expr **result, body_builder *builder) {
    zm_parser *parser = builder->parser;
    bool returns = zm_parser_at_word(parser, "return");
    if (!returns && builder->form == ZM_BODY_FUNCTION)
        return zm_parser_unexpected(parser, "a statement or return");
    if (returns && builder->form == ZM_BODY_PRELUDE)
        return ZM_FAIL_TOKEN(&parser->lexer, parser->token, "a prelude returns nothing");
    if (returns) ZM_TRY(zm_parser_advance(parser));
    zm_token first = parser->token;
    ZM_TRY(zm_parse_expression(result, parser));
    if (builder->form != ZM_BODY_PRELUDE) return ZMLX_OK;
    return zm_expr_fail(parser->lexer.error, parser->lexer.what, parser->lexer.text, first.at + 1,
                        parser->end - first.at, NULL, "a prelude holds statements name = value, not an expression");
}

/* One statement; *result is set by the last one of a body that has it. */
static zmlx_status parse_statement(const zm_expr **result, body_builder *builder) {
    zm_parser *parser = builder->parser;
    zm_lexer ahead = parser->lexer;
    zm_token token = parser->token, next;
    if (token.kind != ZM_TOKEN_NAME) return parse_result(result, builder);
    if (zm_parser_at_word(parser, "const") || zm_parser_at_word(parser, "auto")) return parse_declaration(builder);
    ZM_TRY(zm_lexer_next(&next, &ahead));
    if (token.word == ZM_WORD_TYPE && !zm_token_is_sign(&next, '(')) return parse_declaration(builder);
    if (zm_token_is_sign(&next, '=')) return parse_assignment(builder, false);
    return parse_result(result, builder);
}

static zmlx_status end_statement(body_builder *builder, bool is_result) {
    zm_parser *parser = builder->parser;
    bool has_end = zm_parser_at_sign(parser, ';');
    if (has_end) ZM_TRY(zm_parser_advance(parser));
    bool finished = builder->form == ZM_BODY_FUNCTION ? zm_parser_at_sign(parser, '}')
                                                      : parser->token.kind == ZM_TOKEN_END;
    if (!has_end && (!finished || builder->form == ZM_BODY_FUNCTION)) {
        if (zm_parser_at_sign(parser, ')'))
            return ZM_FAIL_TOKEN(&parser->lexer, parser->token, "')' without '('");
        return zm_parser_unexpected(parser, is_result && builder->form == ZM_BODY_TEXT ? "an operator or the end"
                                                                                       : "an operator or ';'");
    }
    if (!is_result || finished) return ZMLX_OK;
    if (builder->form == ZM_BODY_FUNCTION) return zm_parser_unexpected(parser, "'}' after return");
    return ZM_FAIL_TOKEN(&parser->lexer, parser->token, "nothing may follow the result");
}

zmlx_status zm_parse_body(const zm_body **body, zm_parser *parser, zm_body_form form,
                          const char *const *names_in_use, int n_names_in_use) {
    body_builder builder = {
        .parser = parser, .form = form, .names_in_use = names_in_use, .n_names_in_use = n_names_in_use};
    int end = form == ZM_BODY_FUNCTION ? '}' : 0;
    const zm_expr *result = NULL;
    while (!result && parser->token.kind != ZM_TOKEN_END && !(end && zm_parser_at_sign(parser, end))) {
        ZM_TRY(parse_statement(&result, &builder));
        ZM_TRY(end_statement(&builder, result != NULL));
    }
    if (form == ZM_BODY_TEXT && !result && !builder.count)
        return ZM_FAIL_TOKEN(&parser->lexer, parser->token, "the expression is empty");
    if (form == ZM_BODY_FUNCTION && !result) return zm_parser_unexpected(parser, "return");
    zm_body *made = zm_arena_alloc(parser->arena, 1, sizeof *made);
    if (!made) return zm_fail_memory(parser->lexer.error);
    *made = (zm_body){builder.statements, builder.count, result, parser->lexer.text};
    *body = made;
    return ZMLX_OK;
}

static zmlx_status parse_text(const zm_body **body, zm_arena *arena, zm_body_form form, const char *what,
                              const char *text, size_t size, zmlx_error *error) {
    zm_parser parser;
    *body = NULL;
    ZM_TRY(zm_parser_begin(&parser, arena, what, text, size, error));
    return zm_parse_body(body, &parser, form, NULL, 0);
}

zmlx_status zm_body_parse(const zm_body **body, zm_arena *arena, const char *what, const char *text, size_t size,
                          zmlx_error *error) {
    return parse_text(body, arena, ZM_BODY_TEXT, what, text, size, error);
}

zmlx_status zm_prelude_parse(const zm_body **body, zm_arena *arena, const char *what, const char *text,
                             size_t size, zmlx_error *error) {
    return parse_text(body, arena, ZM_BODY_PRELUDE, what, text, size, error);
}
