/* SPDX-License-Identifier: MIT */
/* Maps: expressions over named inputs. */
#include <string.h>

#include "ir/lower_front.h"
#include "ir/lower_scope.h"

typedef struct map_builder {
    const zm_map_text *text;
    zm_front front;
    const zm_body *prelude; /* NULL without one */
    const zm_body *bodies[ZM_IR_MAX_OUTPUTS];
    const char *roles[ZM_IR_MAX_OUTPUTS]; /* of the bodies, for messages */
    zm_binding *locals;                   /* of the prelude */
    int n_locals;
} map_builder;

/* Names that texts use before they assign them, in order of appearance. */
typedef struct free_names {
    const char *names[ZM_IR_MAX_INPUTS];
    int count;
    const zm_body *prelude, *body; /* those whose assignments count: the first n_... statements of each */
    int n_prelude, n_body;
    const zm_map_text *text;
    const zm_front *front;
} free_names;

static bool has_name(const char *const *names, int count, const char *name) {
    for (int i = 0; i < count; i++)
        if (names[i] && !strcmp(names[i], name)) return true;
    return false;
}

static bool assigns(const zm_body *body, int n_statements, const char *name) {
    for (int i = 0; i < n_statements; i++)
        if (!strcmp(body->statements[i].name, name)) return true;
    return false;
}

static bool is_known(const free_names *list, const char *name) {
    const zm_map_text *text = list->text;
    return has_name(list->names, list->count, name) || assigns(list->prelude, list->n_prelude, name) ||
           assigns(list->body, list->n_body, name) || !strcmp(name, "D") ||
           has_name(text->parameter_names, text->n_parameters, name) ||
           has_name(text->seed_names, text->n_seeds, name);
}

static zmlx_status collect(free_names *list, const zm_expr *expr) {
    if (expr->kind == ZM_EXPR_CALL && !strcmp(expr->name, "random")) return ZMLX_OK;
    for (int i = 0; i < expr->n_children; i++) ZM_TRY(collect(list, expr->children[i]));
    if (expr->kind != ZM_EXPR_NAME || is_known(list, expr->name)) return ZMLX_OK;
    if (list->count == ZM_IR_MAX_INPUTS)
        return zm_fail(list->front->error, ZMLX_ERROR_UNSUPPORTED, "inputs",
                       "more than %d names; `%s` is one more", ZM_IR_MAX_INPUTS, expr->name);
    list->names[list->count++] = expr->name;
    return ZMLX_OK;
}

static zmlx_status collect_body(free_names *list, const zm_body *body, int *n_assigned) {
    for (*n_assigned = 0; *n_assigned < body->n_statements; ++*n_assigned)
        ZM_TRY(collect(list, body->statements[*n_assigned].value));
    return body->result ? collect(list, body->result) : ZMLX_OK;
}

static zmlx_status add_free_inputs(map_builder *builder) {
    free_names list = {.text = builder->text, .front = &builder->front, .prelude = builder->prelude};
    if (builder->prelude) ZM_TRY(collect_body(&list, builder->prelude, &list.n_prelude));
    for (int i = 0; i < builder->text->n_outputs; i++) {
        list.body = builder->bodies[i];
        ZM_TRY(collect_body(&list, list.body, &list.n_body));
    }
    for (int i = 0; i < list.count; i++)
        ZM_TRY(zm_front_add_input(&builder->front, list.names[i], ZM_TYPE_FLOAT, ZM_LEVEL_ELEMENT));
    return ZMLX_OK;
}

static zmlx_status add_names(map_builder *builder) {
    const zm_map_text *text = builder->text;
    for (int i = 0; i < text->n_parameters; i++)
        ZM_TRY(zm_front_add_parameter(&builder->front, text->parameter_names[i], false));
    for (int i = 0; i < text->n_seeds; i++)
        ZM_TRY(zm_front_add_parameter(&builder->front, text->seed_names[i], true));
    if (!text->input_names) ZM_TRY(add_free_inputs(builder));
    for (int i = 0; text->input_names && i < text->n_inputs; i++)
        ZM_TRY(zm_front_add_input(&builder->front, text->input_names[i],
                                  text->input_types ? text->input_types[i] : ZM_TYPE_FLOAT,
                                  text->input_levels ? text->input_levels[i] : ZM_LEVEL_ELEMENT));
    if (builder->front.ir->n_inputs) return ZMLX_OK;
    return zm_fail(builder->front.error, ZMLX_ERROR_ARGUMENT, "inputs",
                   "there are none, so the result has no shape");
}

static zmlx_status parse_texts(map_builder *builder) {
    const zm_map_text *text = builder->text;
    const zm_front *front = &builder->front;
    if (text->n_outputs < 1 || text->n_outputs > ZM_IR_MAX_OUTPUTS)
        return zm_fail(front->error, ZMLX_ERROR_ARGUMENT, "outputs", "expected 1 to %d, got %d", ZM_IR_MAX_OUTPUTS,
                       text->n_outputs);
    if (text->prelude)
        ZM_TRY(zm_prelude_parse(&builder->prelude, front->arena, "prelude", text->prelude, strlen(text->prelude),
                                front->error));
    for (int i = 0; i < text->n_outputs; i++) {
        const char *role = text->n_outputs == 1 ? "expr" : zm_arena_printf(front->arena, "expr[%d]", i);
        if (!role) return zm_fail_memory(front->error);
        builder->roles[i] = role;
        if (!text->outputs[i]) return zm_fail(front->error, ZMLX_ERROR_ARGUMENT, role, "it is missing");
        ZM_TRY(zm_body_parse(&builder->bodies[i], front->arena, role, text->outputs[i], strlen(text->outputs[i]),
                             front->error));
    }
    return ZMLX_OK;
}

static bool is_input_or_parameter(const zm_ir *ir, const char *name) {
    for (int i = 0; i < ir->n_inputs; i++)
        if (!strcmp(ir->inputs[i].name, name)) return true;
    for (int i = 0; i < ir->n_parameters; i++)
        if (!strcmp(ir->parameters[i].name, name)) return true;
    return false;
}

/* One a row where no element enters; a constant is given the shape of the inputs. */
static zmlx_status add_output(map_builder *builder, const char *name, zm_id value) {
    zm_ir *ir = builder->front.ir;
    const zm_type *types = builder->text->output_types;
    bool is_uint = types && types[ir->n_outputs] == ZM_TYPE_UINT;
    ZM_TRY(zm_front_check_name(&builder->front, "output", name));
    if (is_input_or_parameter(ir, name))
        return zm_fail(builder->front.error, ZMLX_ERROR_ARGUMENT, "output",
                       "the name `%s` is that of an input or parameter", name);
    value = is_uint ? zm_lower_to_uint(ir, value) : zm_lower_to_float(ir, value);
    if (value >= 0)
        zm_ir_add_output(ir, name, value,
                         ir->values[value].level == ZM_LEVEL_ROW ? ZM_LEVEL_ROW : ZM_LEVEL_ELEMENT);
    return zm_ir_status(ir, builder->front.error);
}

/* Given, or y (y0, y1, ...) with "_" appended while an input has that name. */
static const char *name_output(const map_builder *builder, int i) {
    const zm_map_text *text = builder->text;
    if (text->output_names) return text->output_names[i];
    zm_arena *arena = builder->front.arena;
    const char *name = text->n_outputs == 1 ? "y" : zm_arena_printf(arena, "y%d", i);
    while (name && is_input_or_parameter(builder->front.ir, name)) name = zm_arena_printf(arena, "%s_", name);
    return name;
}

/* An assigned name that is no local of the text or prelude. */
static bool is_assigned_output(const map_builder *builder, const zm_statement *statement) {
    const zm_body *body = builder->bodies[0];
    for (int i = 0; i < body->n_statements; i++)
        if (body->statements[i].declared && !strcmp(body->statements[i].name, statement->name)) return false;
    return !builder->prelude || !assigns(builder->prelude, builder->prelude->n_statements, statement->name);
}

/* The outputs are what the only text assigns: the last value of each name. */
static zmlx_status lower_assigned_outputs(map_builder *builder) {
    const zm_map_text *text = builder->text;
    const zm_front *front = &builder->front;
    const zm_body *body = builder->bodies[0];
    const zm_lowering lowering = {front->ir, builder->locals, builder->n_locals, front->functions,
                                  builder->roles[0]};
    zm_binding *values = zm_arena_alloc(front->arena, (size_t)body->n_statements, sizeof *values);
    zm_id none;
    int n, n_outputs = 0;
    if (!values) return zm_fail_memory(front->error);
    ZM_TRY(zm_lower_body(&none, values, &n, &lowering, body, front->error));
    for (int i = 0; i < n; i++) {
        if (assigns(body, i, values[i].name) || !is_assigned_output(builder, &body->statements[i])) continue;
        zm_id last = values[i].value;
        for (int j = i; j < n; j++)
            if (!strcmp(values[j].name, values[i].name)) last = values[j].value;
        if (text->output_names && (n_outputs || strcmp(text->output_names[0], values[i].name)))
            return zm_fail(front->error, ZMLX_ERROR_ARGUMENT, builder->roles[0],
                           "it assigns the output `%s`, which is not among the names given", values[i].name);
        ZM_TRY(add_output(builder, values[i].name, last));
        n_outputs++;
    }
    if (n_outputs) return ZMLX_OK;
    return zm_fail(front->error, ZMLX_ERROR_ARGUMENT, builder->roles[0],
                   "it gives no value: end with an expression or assign an output");
}

static zmlx_status lower_outputs(map_builder *builder) {
    const zm_front *front = &builder->front;
    if (builder->text->n_outputs == 1 && !builder->bodies[0]->result) return lower_assigned_outputs(builder);
    for (int i = 0; i < builder->text->n_outputs; i++) {
        zm_id value;
        ZM_TRY(zm_front_lower_body(&value, front, front->ir, builder->roles[i], builder->bodies[i],
                                   builder->locals, builder->n_locals));
        ZM_TRY(add_output(builder, name_output(builder, i), value));
    }
    return ZMLX_OK;
}

static zmlx_status build(map_builder *builder) {
    const zm_map_text *text = builder->text;
    ZM_TRY(zm_front_begin(&builder->front, text->name, text->header, builder->front.error));
    ZM_TRY(parse_texts(builder));
    ZM_TRY(add_names(builder));
    ZM_TRY(zm_front_lower_prelude(&builder->locals, &builder->n_locals, &builder->front, "prelude", text->prelude,
                                  NULL, 0));
    return lower_outputs(builder);
}

zmlx_status zm_lower_map(zm_ir **ir, const zm_map_text *text, zmlx_error *error) {
    map_builder builder = {.text = text, .front = {.error = error}};
    return zm_front_end(ir, &builder.front, build(&builder));
}
