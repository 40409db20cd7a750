/* SPDX-License-Identifier: MIT */
/* What a value may look like where it stands; shared by building, verifying and parsing. */
#ifndef ZM_IR_RULE_H
#define ZM_IR_RULE_H

#include "ir/ir.h"

/* The values before the one in question, and whose they are. */
typedef struct zm_value_scope {
    const zm_ir *ir;
    const zm_value *values; /* of ir or of a region */
    int n_values;
    bool is_region;
    int n_arguments; /* ARGUMENTs up to this number may occur */
} zm_value_scope;

/* Checks op, operands and index of value against the rule of its operation and sets its type and level. Fails with
 * code and a message that begins with the operation's name. */
zmlx_status zm_rule_apply(zm_value *value, const zm_value_scope *scope, zmlx_status code, zmlx_error *error);

/* All values of region, its result and its number of arguments. */
zmlx_status zm_rule_check_region(const zm_ir *ir, const zm_region *region, const char *what, int n_arguments,
                                 zmlx_status code, zmlx_error *error);

/* Adds value, of which op, operands, number and index are set; -1 after a failure. Folds are in ir->folds already. */
zm_id zm_ir_append(zm_ir *ir, zm_value value);

/* A letter or underscore, then letters, digits and underscores; at most ZM_IR_MAX_NAME bytes. */
bool zm_rule_name_is_valid(const char *name);

const char *zm_level_name(zm_level level);

#endif
