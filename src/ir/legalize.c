/* SPDX-License-Identifier: MIT */
/* Operations by definition, and compositions that have one, to the operations of their definitions. */
#include "ir/lower.h"
#include "ir/passes.h"

typedef struct legalizer {
    bool (*has_spelling)(zm_op op);
    zmlx_error *error;
} legalizer;

static bool is_to_expand(const legalizer *with, zm_op op) {
    return zm_op_get(op)->form == ZM_FORM_EXPAND && !(with->has_spelling && with->has_spelling(op));
}

/* The definition of values[id] with the operation of its operand; NULL: none. */
static const char *composed_definition(const zm_value *values, zm_id id) {
    static const struct {
        zm_op outer, inner;
        const char *definition;
    } compositions[] = {
#define ZM_COMPOSITION(outer, inner, definition) {ZM_OP_##outer, ZM_OP_##inner, definition},
#include "ir/compositions.def"
#undef ZM_COMPOSITION
    };
    for (size_t i = 0; i < sizeof compositions / sizeof *compositions; i++)
        if (values[id].op == compositions[i].outer && values[values[id].operands[0]].op == compositions[i].inner)
            return compositions[i].definition;
    return NULL;
}

static bool has_any(const legalizer *with, const zm_value *values, int n_values) {
    for (int i = 0; i < n_values; i++)
        if (is_to_expand(with, values[i].op) || composed_definition(values, i)) return true;
    return false;
}

static zmlx_status expand_value(zm_id *result, zm_ir *ir, const zm_ir *from, zm_id id, const zm_id *map,
                                const legalizer *with) {
    static const char *const names[] = {"a", "b", "c"};
    const zm_value *value = &from->values[id];
    const zm_op_info *info = zm_op_get(value->op);
    const char *composed = composed_definition(from->values, id);
    if (composed) {
        zm_binding inner = {names[0], map[from->values[value->operands[0]].operands[0]]};
        return zm_lower_formula(result, ir, composed, &inner, 1, with->error);
    }
    if (!is_to_expand(with, value->op)) {
        *result = zm_ir_copy_value(ir, from, id, map);
        return zm_ir_status(ir, with->error);
    }
    zm_binding bindings[3];
    for (int i = 0; i < info->arity; i++) bindings[i] = (zm_binding){names[i], map[value->operands[i]]};
    return zm_lower_formula(result, ir, info->spelling, bindings, info->arity, with->error);
}

static zmlx_status expand_into(zm_ir *ir, const zm_ir *from, const legalizer *with) {
    zm_id *map = zm_arena_alloc(ir->arena, (size_t)from->n_values, sizeof *map);
    if (!map) return zm_fail_memory(with->error);
    for (int i = 0; i < from->n_values; i++) ZM_TRY(expand_value(&map[i], ir, from, i, map, with));
    for (int i = 0; i < from->n_outputs; i++)
        zm_ir_add_output(ir, from->outputs[i].name, map[from->outputs[i].value], from->outputs[i].level);
    return zm_ir_status(ir, with->error);
}

/* A definition may use operations that have one themselves: a level of them goes in each round. */
static zmlx_status expand(zm_ir **expanded, const zm_ir *from, const legalizer *with) {
    zm_ir *current = NULL;
    for (int round = 0; round <= ZM_OP_COUNT; round++) {
        const zm_ir *source = current ? current : from;
        if (current && !has_any(with, current->values, current->n_values)) {
            *expanded = current;
            return ZMLX_OK;
        }
        zm_ir *next = zm_ir_new_like(source);
        zmlx_status status = next ? expand_into(next, source, with) : zm_fail_memory(with->error);
        zm_ir_free(current);
        current = next;
        if (status) {
            zm_ir_free(current);
            return status;
        }
    }
    zm_ir_free(current);
    return zm_fail(with->error, ZMLX_ERROR_UNSUPPORTED, from->name, "the definition of an operation needs itself");
}

/* A region as a kernel without inputs whose output is the result. */
static zmlx_status expand_region(zm_region *region, zm_arena *arena, const legalizer *with) {
    if (!has_any(with, region->values, region->n_values)) return ZMLX_OK;
    zm_output result = {"result", region->result, ZM_LEVEL_ELEMENT};
    const zm_ir kernel = {.name = "region",
                          .values = region->values,
                          .n_values = region->n_values,
                          .outputs = &result,
                          .n_outputs = 1};
    zm_ir *expanded;
    ZM_TRY(expand(&expanded, &kernel, with));
    const zm_region made = {expanded->values, expanded->n_values, expanded->outputs[0].value, region->n_arguments};
    bool copied = zm_region_copy(region, arena, &made);
    zm_ir_free(expanded);
    return copied ? ZMLX_OK : zm_fail_memory(with->error);
}

static zmlx_status expand_folds(zm_ir *ir, const legalizer *with) {
    for (int i = 0; i < ir->n_folds; i++) {
        ZM_TRY(expand_region(&ir->folds[i].update, ir->arena, with));
        ZM_TRY(expand_region(&ir->folds[i].combine, ir->arena, with));
    }
    return ZMLX_OK;
}

zmlx_status zm_ir_legalize(zm_ir **legal, const zm_ir *ir, bool (*has_spelling)(zm_op op), zmlx_error *error) {
    const legalizer with = {has_spelling, error};
    zm_ir *expanded;
    *legal = NULL;
    ZM_TRY(expand(&expanded, ir, &with));
    zmlx_status status = expand_folds(expanded, &with);
    if (!status) status = zm_ir_simplify(legal, expanded, error);
    zm_ir_free(expanded);
    return status;
}
