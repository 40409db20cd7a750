/* SPDX-License-Identifier: MIT */
/* docs/expr.md: its examples parse, its errors are the messages, no function or constant is missing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/text.h"
#include "expr/expr.h"
#include "ir/ir.h"

static char *read_page(void) {
    char *text = NULL;
    size_t size;
    zmlx_error error = {0};
    if (zm_file_read(&text, &size, ZMLX_SOURCE_FOLDER "/docs/expr.md", 1 << 20, &error))
        fail_msg("%s", error.message);
    return text;
}

static void check_block(const char *kind, size_t kind_size, const char *text, size_t size) {
    zm_arena *arena = zm_arena_new();
    const zm_body *body;
    zm_functions functions;
    zmlx_error error = {0};
    const char *line_end = memchr(text, '\n', size);
    assert_non_null(line_end);
    if (kind_size == strlen("expr")) {
        if (zm_body_parse(&body, arena, "expr", text, size, &error)) fail_msg("%s", error.message);
    } else if (kind_size == strlen("expr-header")) {
        if (zm_functions_parse(&functions, arena, "header", text, size, &error)) fail_msg("%s", error.message);
        assert_true(functions.count > 0);
    } else {
        assert_memory_equal(kind, "expr-error", kind_size);
        assert_int_equal(zm_body_parse(&body, arena, "expr", text, (size_t)(line_end - text), &error),
                         ZMLX_ERROR_FORMAT);
        size_t message_size = size - (size_t)(line_end + 1 - text) - 1;
        if (strlen(error.message) != message_size || memcmp(error.message, line_end + 1, message_size))
            fail_msg("%s\ninstead of %.*s", error.message, (int)message_size, line_end + 1);
    }
    zm_arena_free(arena);
}

static void test_blocks(void **state) {
    (void)state;
    char *page = read_page();
    int count = 0;
    for (const char *at = page; (at = strstr(at, "\n```")); count++) {
        const char *kind = at + 4, *text = strchr(kind, '\n') + 1, *end = strstr(text - 1, "\n```");
        assert_true(!strncmp(kind, "expr", 4) && end);
        check_block(kind, (size_t)(text - 1 - kind), text, (size_t)(end + 1 - text));
        at = end + 4;
    }
    assert_true(count >= 25);
    free(page);
}

/* `name` or `name(`. */
static void require_mention(const char *page, const char *name, const char *end) {
    zm_text text = {0};
    zm_text_printf(&text, "`%s%s", name, end);
    if (!strstr(page, text.data)) fail_msg("docs/expr.md says nothing of %s", name);
    zm_text_free(&text);
}

static void test_names(void **state) {
    (void)state;
    static const char *const others[] = {
#define ZM_SYNONYM(spelling, name) spelling,
#include "ir/synonyms.def"
#undef ZM_SYNONYM
        "row_mean", "row_gather", "random", "column", "select",
    };
    static const char *const constants[] = {
#define ZM_CONSTANT(name, value) name,
#include "expr/constants.def"
#undef ZM_CONSTANT
    };
    char *page = read_page();
    for (int op = 0; op < ZM_OP_COUNT; op++)
        if (zm_op_get((zm_op)op)->is_function) require_mention(page, zm_op_get((zm_op)op)->name, "(");
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) require_mention(page, others[i], "(");
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) require_mention(page, constants[i], "`");
    free(page);
}

/* A row of the table that speaks of a function's derivative: "derivative 0" where it has none. */
static void test_derivatives(void **state) {
    (void)state;
    char *page = read_page();
    int count = 0;
    for (int op = 0; op < ZM_OP_COUNT; op++) {
        const zm_op_info *info = zm_op_get((zm_op)op);
        zm_text text = {0};
        zm_text_printf(&text, "`%s(a", info->name);
        const char *row = info->is_function ? strstr(page, text.data) : NULL, *end = row ? strchr(row, '\n') : NULL;
        const char *remark = row ? strstr(row, "derivative ") : NULL;
        if (remark && remark < end) {
            if (strncmp(remark, "derivative 0 ", 13)) fail_msg("%s is said to have another derivative", info->name);
            for (int i = 0; i < info->arity; i++)
                if (info->vjp[i][0]) fail_msg("%s has a derivative", info->name);
            count++;
        }
        zm_text_free(&text);
    }
    assert_true(count >= 4);
    free(page);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_derivatives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
