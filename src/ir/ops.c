/* SPDX-License-Identifier: MIT */
#include <math.h>

#include "ir/ir.h"

static const zm_op_info infos[] = {
#define ZM_OP(enumerator, name, arity, rule, form, spelling, is_function, formula, vjp_a, vjp_b, vjp_c) \
    {name, arity, ZM_RULE_##rule, ZM_FORM_##form, spelling, {vjp_a, vjp_b, vjp_c}, is_function},
#include "ir/ops.def"
#undef ZM_OP
};

static const char *const type_names[] = {
#define ZM_TYPE(enumerator, name) name,
#include "ir/types.def"
#undef ZM_TYPE
};

const zm_op_info *zm_op_get(zm_op op) { return &infos[op]; }

bool zm_op_rounds_as_mlx(zm_op op) {
    return op == ZM_OP_STORED || op == ZM_OP_MLX_SIGMOID || op == ZM_OP_STORED_SIGMOID || op == ZM_OP_STORED_GELU_TANH;
}

const char *zm_type_name(zm_type type) { return type_names[type]; }

/* One function an operation, so that each formula sees its operands as a, b, c. */
#define ZM_OP(enumerator, name, arity, rule, form, spelling, is_function, formula, vjp_a, vjp_b, vjp_c) \
    static double evaluate_##enumerator(double a, double b, double c) {                                \
        (void)a;                                                                                       \
        (void)b;                                                                                       \
        (void)c;                                                                                       \
        return formula;                                                                                \
    }
#include "ir/ops.def"
#undef ZM_OP

static double (*const evaluators[])(double a, double b, double c) = {
#define ZM_OP(enumerator, ...) evaluate_##enumerator,
#include "ir/ops.def"
#undef ZM_OP
};

double zm_op_evaluate(zm_op op, double a, double b, double c) { return evaluators[op](a, b, c); }
