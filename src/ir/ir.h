/* SPDX-License-Identifier: MIT */
/* The kernel representation: one typed operation set (ops.def) on values without control flow.
 *
 * A kernel works on `rows` rows of `columns` elements; both are known at run time only. A value has a level:
 * UNIFORM (one for the kernel), ROW (one a row) or ELEMENT (one an element). Point-wise operations give the highest
 * level of their operands. Row reductions take values of any level and give one a row; scans give an element
 * from the elements up to it. So a kernel is a list of values in which loops are implied:
 *
 *     kernel softmax
 *     input x float element
 *     output y element = %5
 *     %0 = load x
 *     %1 = row_max %0
 *     %2 = subtract %0 %1
 *     %3 = exp %2
 *     %4 = row_sum %3
 *     %5 = divide %3 %4
 *
 * emit/schedule.h turns that into passes over the row. A kernel without row operations is a map.
 * Operands come before their users, so index order is an evaluation order. Arithmetic is float32. */
#ifndef ZM_IR_IR_H
#define ZM_IR_IR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/error.h"
#include "base/text.h"

typedef enum zm_type {
#define ZM_TYPE(enumerator, name) ZM_TYPE_##enumerator,
#include "ir/types.def"
#undef ZM_TYPE
    ZM_TYPE_COUNT
} zm_type;

typedef enum zm_op {
#define ZM_OP(enumerator, ...) ZM_OP_##enumerator,
#include "ir/ops.def"
#undef ZM_OP
    ZM_OP_COUNT
} zm_op;

typedef enum zm_level { ZM_LEVEL_UNIFORM, ZM_LEVEL_ROW, ZM_LEVEL_ELEMENT } zm_level;

/* What an operation takes and gives. */
typedef enum zm_rule {
    ZM_RULE_LEAF,    /* no operands: constant, load, parameter, column, ... */
    ZM_RULE_FLOAT,   /* floats to float */
    ZM_RULE_COMPARE, /* two floats or two uints to bool */
    ZM_RULE_TEST,    /* float to bool */
    ZM_RULE_LOGIC,   /* bools to bool */
    ZM_RULE_SELECT,  /* bool, T, T to T */
    ZM_RULE_CONVERT, /* bool or uint to float; float to uint */
    ZM_RULE_REDUCE,  /* float to float (row_argmax: uint), one a row */
    ZM_RULE_SCAN,    /* float to float, one an element */
    ZM_RULE_GATHER,  /* uint to float: an element of the row of an input */
    ZM_RULE_FOLD     /* see zm_fold */
} zm_rule;

/* How targets print it. */
typedef enum zm_form {
    ZM_FORM_INFIX,  /* (a + b): spelling is the operator, the same in all targets */
    ZM_FORM_CALL,   /* zm_<name>(a, b): a function of every target's prelude */
    ZM_FORM_EXPAND, /* legalised away: spelling is its definition in the expression language, in terms of a, b, c */
    ZM_FORM_OWN     /* part of a kernel's frame: loads, reductions, scans; every target has code for it */
} zm_form;

typedef struct zm_op_info {
    const char *name; /* in the text form; also the function's name in the expression language where `is_function` */
    int arity;
    zm_rule rule;
    zm_form form;
    const char *spelling;  /* see zm_form */
    const char *vjp[3];    /* cotangent of each operand, linear in g, in the expression language, in terms of
                              a, b, c (operands), y (result), g (cotangent); "" is zero, NULL: no derivative */
    bool is_function;      /* callable by its name in an expression */
} zm_op_info;

const zm_op_info *zm_op_get(zm_op op);
const char *zm_type_name(zm_type type);
/* The formula of ops.def in float64; bools are 0 or 1. Only for rules FLOAT, COMPARE, TEST, LOGIC, SELECT,
 * CONVERT. */
double zm_op_evaluate(zm_op op, double a, double b, double c);

/* Whether it is one of the operations that take the steps of MLX, whose result depends on the device and on how the
 * kernel's first output is stored. */
bool zm_op_rounds_as_mlx(zm_op op);

typedef int32_t zm_id; /* index of a value; negative: none */

typedef struct zm_value {
    zm_op op;
    zm_type type;
    zm_level level;
    zm_id operands[3]; /* of a FOLD none: see zm_fold */
    float number;      /* of CONSTANT */
    int32_t index;     /* of LOAD and ROW_GATHER: the input; of PARAMETER and RANDOM: the parameter; of FOLD: the
                          fold; of ARGUMENT: its number */
} zm_value;

/* Code run for each element by a fold: values over arguments. */
typedef struct zm_region {
    zm_value *values;
    int n_values;
    zm_id result;
    int n_arguments;
} zm_region;

/* A row reduction with the caller's own step: acc = init; for each element acc = update(acc, captures...).
 * With a combine the row may be cut into parts, each started from init and merged by combine(a, b);
 * without, it runs left to right. It has no derivative. */
typedef struct zm_fold {
    zm_id init;               /* level UNIFORM or ROW */
    zm_id *captures;          /* values of the kernel that update reads: its arguments 1, 2, ... */
    int n_captures;
    zm_region update, combine; /* arguments: acc, captures...; a, b. combine.n_values 0: none */
} zm_fold;

typedef struct zm_input {
    const char *name;
    zm_type type;   /* FLOAT, or UINT for an array of integers */
    zm_level level; /* ELEMENT: broadcasts to rows x columns; ROW: one a row */
} zm_input;

/* A run-time argument that no kernel text depends on. */
typedef struct zm_parameter {
    const char *name;
    bool is_seed; /* 64 bits for RANDOM instead of a float */
} zm_parameter;

typedef struct zm_output {
    const char *name;
    zm_id value; /* level ELEMENT, or ROW: one a row. A lower level is stored at the output's */
    zm_level level;
} zm_output;

typedef struct zm_ir {
    zm_arena *arena; /* owns everything below */
    const char *name;
    zm_value *values;
    int n_values, values_capacity;
    zm_input *inputs;
    int n_inputs;
    zm_parameter *parameters;
    int n_parameters;
    zm_output *outputs;
    int n_outputs;
    zm_fold *folds;
    int n_folds;
    zmlx_error failure; /* the first failure of the functions below; code ZMLX_OK while all is well */
} zm_ir;

enum {
    ZM_IR_MAX_INPUTS = 32,
    ZM_IR_MAX_OUTPUTS = 16,
    ZM_IR_MAX_PARAMETERS = 16,
    ZM_IR_MAX_VALUES = 1 << 16,
    ZM_IR_MAX_CAPTURES = 32,
    ZM_IR_MAX_NAME = 127 /* bytes of an input's, parameter's or output's */
};

/* NULL when out of memory. name is copied, with '?' for control characters; NULL or "" is "kernel". */
zm_ir *zm_ir_new(const char *name);
/* With ir's name, inputs and parameters. */
zm_ir *zm_ir_new_like(const zm_ir *ir);
void zm_ir_free(zm_ir *ir);
/* ir's failure, which error receives, or ZMLX_OK. */
zmlx_status zm_ir_status(const zm_ir *ir, zmlx_error *error);

/* Building. The first failure is kept in ir->failure; then these do nothing and return -1, so one check at
 * the end is enough. Texts are copied. */
int zm_ir_add_input(zm_ir *ir, const char *name, zm_type type, zm_level level);
int zm_ir_add_parameter(zm_ir *ir, const char *name, bool is_seed);
void zm_ir_add_output(zm_ir *ir, const char *name, zm_id value, zm_level level);
zm_id zm_ir_constant(zm_ir *ir, float number);
zm_id zm_ir_load(zm_ir *ir, int input);
zm_id zm_ir_parameter(zm_ir *ir, int parameter);
zm_id zm_ir_random(zm_ir *ir, int parameter); /* a seed */
zm_id zm_ir_gather(zm_ir *ir, int input, zm_id index);
/* Any operation that its op and operands describe; unused operands are -1. Type and level come from the
 * rule; wrong operand types are a failure that names the operation. No simplification. */
zm_id zm_ir_apply(zm_ir *ir, zm_op op, zm_id a, zm_id b, zm_id c);
/* An argument of a region: a region is built as the values of a kernel of its own, without inputs, which
 * zm_region_copy then takes. */
zm_id zm_ir_argument(zm_ir *ir, int number);
/* False when out of memory. */
bool zm_region_copy(zm_region *copy, zm_arena *arena, const zm_region *region);
/* Takes the fold's regions and captures as they are (they must live in ir->arena). */
zm_id zm_ir_fold(zm_ir *ir, const zm_fold *fold);
/* Value `value` of `from` again, in terms of the values map[operand]. Both have the same inputs and parameters. */
zm_id zm_ir_copy_value(zm_ir *ir, const zm_ir *from, zm_id value, const zm_id *map);
zmlx_status zm_ir_fail(zm_ir *ir, zmlx_status code, const char *where, const char *format, ...) ZM_PRINTF(4, 5);

/* The operands of a value in order, those of a fold included (init, then captures). */
int zm_ir_operand_count(const zm_ir *ir, zm_id value);
zm_id zm_ir_operand(const zm_ir *ir, zm_id value, int i);
/* True if the kernel has reductions, scans, folds, gathers, columns, column numbers, ROW inputs or ROW outputs: it
 * needs whole rows. */
bool zm_ir_has_rows(const zm_ir *ir);

#endif
