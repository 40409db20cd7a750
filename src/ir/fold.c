/* SPDX-License-Identifier: MIT */
/* Identities that hold bit for bit in IEEE arithmetic for all operands, zeros of both signs, infinities and NaN (but
 * for its payload) included; those of pow give its correctly rounded value. x * 0, x + 0 and x - x are none of them. */
#include <math.h>

#include "ir/rewrite.h"

static const zm_value *value_of(const zm_rewriter *rewriter, zm_id id) { return &rewriter->ir->values[id]; }

static bool is_op(const zm_rewriter *rewriter, zm_id id, zm_op op) { return value_of(rewriter, id)->op == op; }

static zm_id operand(const zm_rewriter *rewriter, zm_id id, int i) { return value_of(rewriter, id)->operands[i]; }

/* A float constant of this number and, for zero, of this sign. */
static bool is_number(const zm_rewriter *rewriter, zm_id id, float number) {
    const zm_value *value = value_of(rewriter, id);
    return value->op == ZM_OP_CONSTANT && value->number == number && !signbit(value->number) == !signbit(number);
}

static zm_id apply2(zm_rewriter *rewriter, zm_op op, zm_id a, zm_id b) {
    return zm_rewrite_apply(rewriter, op, a, b, -1);
}

static zm_id apply1(zm_rewriter *rewriter, zm_op op, zm_id a) { return zm_rewrite_apply(rewriter, op, a, -1, -1); }

static zm_id constant(zm_rewriter *rewriter, float number) {
    return zm_rewrite_value(rewriter, (zm_value){.op = ZM_OP_CONSTANT, .operands = {-1, -1, -1}, .number = number});
}

static zm_id add(zm_rewriter *rewriter, zm_id a, zm_id b) {
    if (is_number(rewriter, a, -0.0f)) return b;
    if (is_number(rewriter, b, -0.0f)) return a;
    if (is_op(rewriter, b, ZM_OP_NEGATE)) return apply2(rewriter, ZM_OP_SUBTRACT, a, operand(rewriter, b, 0));
    if (is_op(rewriter, a, ZM_OP_NEGATE)) return apply2(rewriter, ZM_OP_SUBTRACT, b, operand(rewriter, a, 0));
    return -1;
}

static zm_id subtract(zm_rewriter *rewriter, zm_id a, zm_id b) {
    if (is_number(rewriter, b, 0)) return a;
    if (is_number(rewriter, a, -0.0f)) return apply1(rewriter, ZM_OP_NEGATE, b);
    if (is_op(rewriter, b, ZM_OP_NEGATE)) return apply2(rewriter, ZM_OP_ADD, a, operand(rewriter, b, 0));
    return -1;
}

static zm_id multiply(zm_rewriter *rewriter, zm_id a, zm_id b) {
    for (int side = 0; side < 2; side++) {
        zm_id x = side ? b : a, other = side ? a : b;
        const zm_value *by = value_of(rewriter, other);
        if (by->op != ZM_OP_CONSTANT) continue;
        if (by->number == 1) return x;
        if (by->number == -1) return apply1(rewriter, ZM_OP_NEGATE, x);
        if (is_op(rewriter, x, ZM_OP_NEGATE))
            return apply2(rewriter, ZM_OP_MULTIPLY, operand(rewriter, x, 0), constant(rewriter, -by->number));
    }
    if (is_op(rewriter, a, ZM_OP_NEGATE) && is_op(rewriter, b, ZM_OP_NEGATE))
        return apply2(rewriter, ZM_OP_MULTIPLY, operand(rewriter, a, 0), operand(rewriter, b, 0));
    return -1;
}

/* By a power of two: times its reciprocal, where both are normal. */
static zm_id divide(zm_rewriter *rewriter, zm_id a, zm_id b) {
    const zm_value *by = value_of(rewriter, b);
    int exponent;
    if (by->op == ZM_OP_CONSTANT && isnormal(by->number) && fabsf(frexpf(by->number, &exponent)) == 0.5f &&
        isnormal(1 / by->number))
        return apply2(rewriter, ZM_OP_MULTIPLY, a, constant(rewriter, 1 / by->number));
    if (is_op(rewriter, a, ZM_OP_NEGATE) && is_op(rewriter, b, ZM_OP_NEGATE))
        return apply2(rewriter, ZM_OP_DIVIDE, operand(rewriter, a, 0), operand(rewriter, b, 0));
    return -1;
}

static zm_id fused(zm_rewriter *rewriter, zm_id a, zm_id b, zm_id c) {
    if (is_number(rewriter, a, 1)) return apply2(rewriter, ZM_OP_ADD, b, c);
    if (is_number(rewriter, b, 1)) return apply2(rewriter, ZM_OP_ADD, a, c);
    if (is_number(rewriter, c, -0.0f)) return apply2(rewriter, ZM_OP_MULTIPLY, a, b);
    return -1;
}

static zm_id power(zm_rewriter *rewriter, zm_id a, zm_id b) {
    const zm_value *exponent = value_of(rewriter, b);
    if (exponent->op != ZM_OP_CONSTANT) return -1;
    if (exponent->number == 0) return constant(rewriter, 1);
    if (exponent->number == 1) return a;
    if (exponent->number == 2) return apply2(rewriter, ZM_OP_MULTIPLY, a, a);
    if (exponent->number == -1) return apply2(rewriter, ZM_OP_DIVIDE, constant(rewriter, 1), a);
    return -1;
}

static bool is_rounding(zm_op op) {
    return op == ZM_OP_FLOOR || op == ZM_OP_CEIL || op == ZM_OP_TRUNC || op == ZM_OP_ROUND || op == ZM_OP_RINT;
}

static zm_id unary(zm_rewriter *rewriter, zm_op op, zm_id a) {
    zm_op inner = value_of(rewriter, a)->op;
    if (op == ZM_OP_NEGATE && inner == ZM_OP_NEGATE) return operand(rewriter, a, 0);
    if (op == ZM_OP_ABS && inner == ZM_OP_ABS) return a;
    if (op == ZM_OP_ABS && inner == ZM_OP_NEGATE) return apply1(rewriter, ZM_OP_ABS, operand(rewriter, a, 0));
    if (is_rounding(op) && is_rounding(inner)) return a;
    return -1;
}

/* Both numbers that a float made from a bool has: FROM_BOOL, or SELECT between constants. */
static bool is_made_from_bool(const zm_rewriter *rewriter, zm_id id, zm_id *condition, double numbers[2]) {
    const zm_value *value = value_of(rewriter, id);
    *condition = value->operands[0];
    numbers[0] = 0;
    numbers[1] = 1;
    if (value->op == ZM_OP_FROM_BOOL) return true;
    if (value->op != ZM_OP_SELECT || value->type != ZM_TYPE_FLOAT) return false;
    const zm_value *then = value_of(rewriter, value->operands[1]);
    const zm_value *otherwise = value_of(rewriter, value->operands[2]);
    numbers[0] = (double)otherwise->number;
    numbers[1] = (double)then->number;
    return then->op == ZM_OP_CONSTANT && otherwise->op == ZM_OP_CONSTANT;
}

/* A number that the value is not below; it may be NaN. */
static float lower_bound(const zm_rewriter *rewriter, zm_id id, int depth) {
    enum { MAX_DEPTH = 4 };
    const zm_value *value = value_of(rewriter, id);
    if (depth > MAX_DEPTH) return -INFINITY;
    switch (value->op) {
    case ZM_OP_CONSTANT: return isnan(value->number) ? INFINITY : value->number;
    case ZM_OP_EXP:
    case ZM_OP_EXP2:
    case ZM_OP_ABS:
    case ZM_OP_SIGMOID: return 0;
    case ZM_OP_ADD:
        return lower_bound(rewriter, value->operands[0], depth + 1) +
               lower_bound(rewriter, value->operands[1], depth + 1);
    case ZM_OP_MULTIPLY: return value->operands[0] == value->operands[1] ? 0 : -INFINITY;
    default: return -INFINITY;
    }
}

/* A comparison of such a float with a constant is the bool, or its opposite; one with a number below all that the other
 * can be is false. */
static zm_id compare(zm_rewriter *rewriter, zm_op op, zm_id a, zm_id b) {
    bool is_constant = value_of(rewriter, a)->op == ZM_OP_CONSTANT && value_of(rewriter, b)->op == ZM_OP_CONSTANT;
    if (op == ZM_OP_LESS && !is_constant && value_of(rewriter, b)->op == ZM_OP_CONSTANT &&
        lower_bound(rewriter, a, 0) >= value_of(rewriter, b)->number)
        return apply2(rewriter, ZM_OP_LESS, b, b);
    for (int side = 0; side < 2; side++) {
        zm_id condition;
        double numbers[2];
        const zm_value *with = value_of(rewriter, side ? a : b);
        if (with->op != ZM_OP_CONSTANT || !is_made_from_bool(rewriter, side ? b : a, &condition, numbers)) continue;
        bool results[2];
        for (int i = 0; i < 2; i++) {
            double number = (double)with->number;
            results[i] = zm_op_evaluate(op, side ? number : numbers[i], side ? numbers[i] : number, 0) != 0;
        }
        if (results[0] != results[1])
            return results[1] ? condition : apply1(rewriter, ZM_OP_NOT, condition);
    }
    return -1;
}

static zm_id logic(zm_rewriter *rewriter, zm_op op, zm_id a, zm_id b) {
    if (op == ZM_OP_NOT) {
        const zm_value *value = value_of(rewriter, a);
        zm_id first = value->operands[0], second = value->operands[1];
        if (value->op == ZM_OP_NOT) return first;
        if (value->op == ZM_OP_EQUAL) return apply2(rewriter, ZM_OP_NOT_EQUAL, first, second);
        if (value->op == ZM_OP_NOT_EQUAL) return apply2(rewriter, ZM_OP_EQUAL, first, second);
        return -1;
    }
    if (a == b) return a;
    for (int side = 0; side < 2; side++) {
        const zm_known *known = &rewriter->known[side ? b : a];
        if (!known->is_known) continue;
        bool decides = (known->number != 0) == (op == ZM_OP_OR);
        return decides == !side ? a : b;
    }
    return -1;
}

static zm_id choose(zm_rewriter *rewriter, zm_id condition, zm_id a, zm_id b) {
    const zm_known *known = &rewriter->known[condition];
    if (known->is_known) return known->number != 0 ? a : b;
    if (a == b) return a;
    if (is_op(rewriter, condition, ZM_OP_NOT))
        return zm_rewrite_apply(rewriter, ZM_OP_SELECT, operand(rewriter, condition, 0), b, a);
    if (is_op(rewriter, a, ZM_OP_SELECT) && operand(rewriter, a, 0) == condition)
        return zm_rewrite_apply(rewriter, ZM_OP_SELECT, condition, operand(rewriter, a, 1), b);
    if (is_op(rewriter, b, ZM_OP_SELECT) && operand(rewriter, b, 0) == condition)
        return zm_rewrite_apply(rewriter, ZM_OP_SELECT, condition, a, operand(rewriter, b, 2));
    if (is_number(rewriter, a, 1) && is_number(rewriter, b, 0)) return apply1(rewriter, ZM_OP_FROM_BOOL, condition);
    if (is_number(rewriter, a, 0) && is_number(rewriter, b, 1))
        return apply1(rewriter, ZM_OP_FROM_BOOL, apply1(rewriter, ZM_OP_NOT, condition));
    return -1;
}

zm_id zm_rewrite_identity(zm_rewriter *rewriter, zm_op op, zm_id a, zm_id b, zm_id c) {
    switch (op) {
    case ZM_OP_ADD: return add(rewriter, a, b);
    case ZM_OP_SUBTRACT: return subtract(rewriter, a, b);
    case ZM_OP_MULTIPLY: return multiply(rewriter, a, b);
    case ZM_OP_DIVIDE: return divide(rewriter, a, b);
    case ZM_OP_FMA: return fused(rewriter, a, b, c);
    case ZM_OP_POW: return power(rewriter, a, b);
    case ZM_OP_MIN:
    case ZM_OP_MAX:
    case ZM_OP_FMIN:
    case ZM_OP_FMAX: return a == b ? a : -1;
    case ZM_OP_LESS:
    case ZM_OP_LESS_EQUAL:
    case ZM_OP_EQUAL:
    case ZM_OP_NOT_EQUAL: return compare(rewriter, op, a, b);
    case ZM_OP_AND:
    case ZM_OP_OR:
    case ZM_OP_NOT: return logic(rewriter, op, a, b);
    case ZM_OP_SELECT: return choose(rewriter, a, b, c);
    default: return b < 0 ? unary(rewriter, op, a) : -1;
    }
}
