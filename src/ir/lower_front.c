/* SPDX-License-Identifier: MIT */
#include "ir/lower_front.h"

#include <string.h>

#include "ir/lower_scope.h"
#include "ir/passes.h"

zmlx_status zm_front_begin(zm_front *front, const char *name, const char *header, zmlx_error *error) {
    *front = (zm_front){.ir = zm_ir_new(name), .arena = zm_arena_new(), .error = error};
    if (!front->ir || !front->arena) return zm_fail_memory(error);
    if (!header) return ZMLX_OK;
    ZM_TRY(zm_functions_parse(&front->functions, front->arena, "header", header, strlen(header), error));
    return zm_lower_check_functions(&front->functions, error);
}

static zmlx_status failure_of(const zm_ir *ir, zmlx_error *error) {
    if (ir->failure.code && error) *error = ir->failure;
    return ir->failure.code;
}

zmlx_status zm_front_end(zm_ir **ir, zm_front *front, zmlx_status status) {
    *ir = NULL;
    if (!status) status = failure_of(front->ir, front->error);
    if (!status) status = zm_ir_verify(front->ir, front->error);
    if (!status) status = zm_ir_simplify(ir, front->ir, front->error);
    zm_ir_free(front->ir);
    zm_arena_free(front->arena);
    return status;
}

static const char *const fixed_names[] = {
    "D",
#define ZM_CONSTANT(name, value) name,
#include "expr/constants.def"
#undef ZM_CONSTANT
#define ZM_WORD(spelling, word_class) spelling,
#include "expr/words.def"
#undef ZM_WORD
};

zmlx_status zm_front_check_name(const zm_front *front, const char *what, const char *name) {
    if (!name) return zm_fail(front->error, ZMLX_ERROR_ARGUMENT, what, "a name is missing");
    bool is_function = zm_builtin_find(name) || zm_lower_find_op(name) >= 0, is_fixed = false;
    for (int i = 0; i < front->functions.count; i++) is_function |= !strcmp(front->functions.items[i].name, name);
    for (size_t i = 0; i < sizeof fixed_names / sizeof *fixed_names; i++)
        is_fixed |= !strcmp(fixed_names[i], name);
    if (!is_function && !is_fixed) return ZMLX_OK;
    return zm_fail(front->error, ZMLX_ERROR_ARGUMENT, what, "the name `%s` is that of a %s", name,
                   is_function ? "function" : "constant or word of the language");
}

zmlx_status zm_front_add_input(zm_front *front, const char *name, zm_type type, zm_level level) {
    ZM_TRY(zm_front_check_name(front, "input", name));
    zm_ir_add_input(front->ir, name, type, level);
    return failure_of(front->ir, front->error);
}

zmlx_status zm_front_add_parameter(zm_front *front, const char *name, bool is_seed) {
    ZM_TRY(zm_front_check_name(front, is_seed ? "seed" : "parameter", name));
    zm_ir_add_parameter(front->ir, name, is_seed);
    return failure_of(front->ir, front->error);
}

static zm_lowering lowering_of(const zm_front *front, zm_ir *ir, const char *what, const zm_binding *bindings,
                               int n_bindings) {
    return (zm_lowering){
        .ir = ir, .bindings = bindings, .n_bindings = n_bindings, .functions = front->functions, .what = what};
}

zmlx_status zm_front_lower_body(zm_id *value, const zm_front *front, zm_ir *ir, const char *what,
                                const zm_body *body, const zm_binding *bindings, int n_bindings) {
    const zm_lowering lowering = lowering_of(front, ir, what, bindings, n_bindings);
    if (!body->result)
        return zm_expr_fail(front->error, what, body->text, (int)strlen(body->text) + 1, 0, NULL,
                            "a value is missing: end with an expression");
    ZM_TRY(zm_lower_body(value, NULL, NULL, &lowering, body, front->error));
    *value = zm_lower_to_float(ir, *value);
    return failure_of(ir, front->error);
}

zmlx_status zm_front_lower(zm_id *value, const zm_front *front, zm_ir *ir, const char *what, const char *text,
                           const zm_binding *bindings, int n_bindings) {
    const zm_body *body;
    *value = -1;
    if (!text || !text[strspn(text, " \t\r\n\v\f")])
        return zm_fail(front->error, ZMLX_ERROR_ARGUMENT, what, "it is missing or empty");
    ZM_TRY(zm_body_parse(&body, front->arena, what, text, strlen(text), front->error));
    return zm_front_lower_body(value, front, ir, what, body, bindings, n_bindings);
}

zmlx_status zm_front_lower_prelude(zm_binding **locals, int *n_locals, const zm_front *front, const char *what,
                                   const char *text, const zm_binding *bindings, int n_bindings) {
    const zm_body *body;
    zm_id none;
    *locals = NULL;
    *n_locals = 0;
    if (!text) return ZMLX_OK;
    ZM_TRY(zm_prelude_parse(&body, front->arena, what, text, strlen(text), front->error));
    *locals = zm_arena_alloc(front->arena, (size_t)body->n_statements, sizeof **locals);
    if (!*locals) return zm_fail_memory(front->error);
    const zm_lowering lowering = lowering_of(front, front->ir, what, bindings, n_bindings);
    return zm_lower_body(&none, *locals, n_locals, &lowering, body, front->error);
}
