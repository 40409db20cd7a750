/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "ir/rewrite.h"
#include "ir/rule.h"

/* What tells values apart. */
typedef struct value_key {
    int32_t op, operands[3], index;
    uint32_t number;
} value_key;

bool zm_rewriter_init(zm_rewriter *rewriter, zm_ir *ir) {
    *rewriter = (zm_rewriter){.ir = ir, .seen = zm_map_new(), .keys = zm_arena_new()};
    if (rewriter->seen && rewriter->keys) return true;
    zm_rewriter_clear(rewriter);
    return false;
}

void zm_rewriter_clear(zm_rewriter *rewriter) {
    zm_map_free(rewriter->seen);
    zm_arena_free(rewriter->keys);
    free(rewriter->known);
    *rewriter = (zm_rewriter){0};
}

/* max and min are not among them: which zero they give may depend on the order. */
static bool may_exchange(zm_op op) {
    switch (op) {
    case ZM_OP_ADD:
    case ZM_OP_MULTIPLY:
    case ZM_OP_FMA: /* the first two */
    case ZM_OP_EQUAL:
    case ZM_OP_NOT_EQUAL:
    case ZM_OP_AND:
    case ZM_OP_OR: return true;
    default: return false;
    }
}

static bool uses_index(zm_op op) {
    return op == ZM_OP_LOAD || op == ZM_OP_PARAMETER || op == ZM_OP_RANDOM || op == ZM_OP_ARGUMENT ||
           op == ZM_OP_ROW_GATHER;
}

static value_key key_of(const zm_value *value) {
    return (value_key){.op = (int32_t)value->op,
                       .operands = {value->operands[0], value->operands[1], value->operands[2]},
                       .index = uses_index(value->op) ? value->index : 0,
                       .number = value->op == ZM_OP_CONSTANT ? zm_float_bits(value->number) : 0};
}

/* Room for what is known of the next value. */
static bool with_room(zm_rewriter *rewriter) {
    if (rewriter->ir->n_values < rewriter->known_capacity) return true;
    int capacity = rewriter->known_capacity ? rewriter->known_capacity * 2 : 64;
    zm_known *known = realloc(rewriter->known, (size_t)capacity * sizeof *known);
    if (!known) return false;
    rewriter->known = known;
    rewriter->known_capacity = capacity;
    return true;
}

static zm_id fail_memory(zm_rewriter *rewriter) {
    zm_ir_fail(rewriter->ir, ZMLX_ERROR_MEMORY, NULL, "out of memory");
    return -1;
}

/* id under key, from now on. */
static zm_id remember(zm_rewriter *rewriter, const void *key, size_t size, zm_id id) {
    if (id < 0) return -1;
    char *copy = zm_arena_copy(rewriter->keys, key, size);
    if (!copy || zm_map_add(rewriter->seen, copy, size, (uint64_t)id) < 0) return fail_memory(rewriter);
    return id;
}

static zm_known find_known(const zm_rewriter *rewriter, const zm_value *value) {
    if (value->op == ZM_OP_CONSTANT) return (zm_known){true, (double)value->number};
    const zm_op_info *info = zm_op_get(value->op);
    if (info->rule < ZM_RULE_FLOAT || info->rule > ZM_RULE_CONVERT || zm_op_rounds_as_mlx(value->op))
        return (zm_known){false, 0};
    double numbers[3] = {0, 0, 0};
    for (int i = 0; i < info->arity; i++) {
        const zm_known *operand = &rewriter->known[value->operands[i]];
        if (!operand->is_known) return (zm_known){false, 0};
        numbers[i] = operand->number;
    }
    return (zm_known){true, zm_op_evaluate(value->op, numbers[0], numbers[1], numbers[2])};
}

zm_id zm_rewrite_value(zm_rewriter *rewriter, zm_value value) {
    if (may_exchange(value.op) && value.operands[0] > value.operands[1]) {
        zm_id first = value.operands[0];
        value.operands[0] = value.operands[1];
        value.operands[1] = first;
    }
    if (value.op == ZM_OP_CONSTANT && isnan(value.number)) value.number = NAN;
    value_key key = key_of(&value);
    uint64_t found;
    if (zm_map_get(rewriter->seen, (const char *)&key, sizeof key, &found)) return (zm_id)found;
    if (!with_room(rewriter)) return fail_memory(rewriter);
    zm_id id = remember(rewriter, &key, sizeof key, zm_ir_append(rewriter->ir, value));
    if (id >= 0) rewriter->known[id] = find_known(rewriter, &rewriter->ir->values[id]);
    return id;
}

static void append_region_key(zm_text *key, const zm_region *region) {
    const int32_t frame[3] = {region->n_values, region->result, region->n_arguments};
    zm_text_append(key, (const char *)frame, sizeof frame);
    for (int i = 0; i < region->n_values; i++) {
        value_key value = key_of(&region->values[i]);
        zm_text_append(key, (const char *)&value, sizeof value);
    }
}

zm_id zm_rewrite_fold(zm_rewriter *rewriter, const zm_fold *fold) {
    zm_text key = {0};
    const int32_t frame[3] = {ZM_OP_FOLD, fold->init, fold->n_captures};
    zm_text_append(&key, (const char *)frame, sizeof frame);
    zm_text_append(&key, (const char *)fold->captures, (size_t)fold->n_captures * sizeof *fold->captures);
    append_region_key(&key, &fold->update);
    append_region_key(&key, &fold->combine);
    uint64_t found;
    zm_id id = -1;
    if (key.failed || !with_room(rewriter)) {
        fail_memory(rewriter);
    } else if (zm_map_get(rewriter->seen, key.data, key.size, &found)) {
        id = (zm_id)found;
    } else {
        id = remember(rewriter, key.data, key.size, zm_ir_fold(rewriter->ir, fold));
        if (id >= 0) rewriter->known[id] = (zm_known){false, 0};
    }
    zm_text_free(&key);
    return id;
}
