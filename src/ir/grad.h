/* SPDX-License-Identifier: MIT */
/* What reverse and forward mode share: a new kernel that repeats the values of the given one and holds their
 * derivatives, made of the texts of ops.def. */
#ifndef ZM_IR_GRAD_H
#define ZM_IR_GRAD_H

#include "ir/passes.h"

typedef struct zm_grad {
    const zm_ir *from;
    zm_ir *ir;    /* its first inputs, and its parameters, are those of from */
    zm_id *map;   /* by value of from: the value of ir; negative where not copied yet */
    bool *active; /* by value of from: a chosen input has influence on it */
} zm_grad;

/* A new ir named like from with suffix; `chosen` tells the inputs to differentiate by. */
zmlx_status zm_grad_begin(zm_grad *grad, const zm_ir *from, const char *suffix, const bool *chosen,
                          zmlx_error *error);
void zm_grad_end(zm_grad *grad);

/* Adds input PREFIX + name of ir, with "_" appended while the name is taken. */
int zm_grad_add_input(zm_grad *grad, const char *prefix, const char *name, zm_level level);

/* Repeats all values of from that are not in map yet. */
zmlx_status zm_grad_copy_values(zm_grad *grad, zmlx_error *error);

/* True if the derivative of value by its operand i has to be known. */
bool zm_grad_enters(const zm_grad *grad, zm_id value, int i);

/* The text of operand i of value, with g for the cotangent or tangent. Where the operation is a reduction or a scan,
 * it stands for one element of the row. ZMLX_ERROR_UNSUPPORTED if there is no text. */
zmlx_status zm_grad_text(zm_id *result, zm_grad *grad, zm_id value, int i, zm_id g, zmlx_error *error);
zmlx_status zm_grad_refuse(const zm_grad *grad, zm_id value, zmlx_error *error);

/* The sum of value over the columns of a row. */
zm_id zm_grad_sum_row(zm_grad *grad, zm_id value);

/* Adds output PREFIX + name; the value -1 is zero. */
void zm_grad_add_output(zm_grad *grad, const char *prefix, const char *name, zm_id value, zm_level level);

/* ir's failure, or ir simplified. */
zmlx_status zm_grad_finish(zm_ir **finished, const zm_grad *grad, zmlx_error *error);

#endif
