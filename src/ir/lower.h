/* SPDX-License-Identifier: MIT */
/* From expressions to kernels: what names mean, and the front ends.
 *
 * Functions are those of ops.def (is_function), the header's, and synonyms (synonyms.def: fabs, kk_sigmoid,
 * kk_silu, kk_gelu_tanh, powr, ...) plus: row_mean(e) = row_sum(e) / D, column(), random(seed), row_gather(input,
 * e), select(a, b, c) = c ? b : a. Names are inputs, parameters, locals and, where the kernel has rows, D.
 * Comparisons give bool; a bool used as a number is 0 or 1, a number used as a condition is compared with 0. */
#ifndef ZM_IR_LOWER_H
#define ZM_IR_LOWER_H

#include "expr/expr.h"
#include "ir/ir.h"

/* A name and the value it stands for while a body is lowered. */
typedef struct zm_binding {
    const char *name;
    zm_id value;
} zm_binding;

typedef struct zm_lowering {
    zm_ir *ir; /* receives the values */
    const zm_binding *bindings;
    int n_bindings;
    zm_functions functions; /* of the header; they shadow built-ins */
    const char *what;       /* role of the text, for messages */
} zm_lowering;

/* Appends the values of body and sets *result to that of its expression (-1 if it has none); locals end with the
 * body unless `locals` (may be NULL; room for body->n_statements) receives them, n_locals their number. Inputs and
 * parameters of ir are visible by name beneath the bindings. Unknown names and functions, wrong arity and
 * type errors carry the column; see zm_expr_fail. */
zmlx_status zm_lower_body(zm_id *result, zm_binding *locals, int *n_locals, const zm_lowering *lowering,
                          const zm_body *body, zmlx_error *error);

/* One operation's text (an expansion or derivative of ops.def), in which only the bindings, such as a, b, c, y, g,
 * are visible. The result is a float: a comparison gives 0 or 1. */
zmlx_status zm_lower_formula(zm_id *result, zm_ir *ir, const char *text, const zm_binding *bindings, int n_bindings,
                             zmlx_error *error);

/* Front ends. Texts are C strings; NULL is absent. Every kernel given is verified and simplified; the caller frees
 * it with zm_ir_free. */

/* Any number of inputs and outputs. Each outputs[i] is a body. n_outputs 1 with a body that assigns undeclared
 * names and has no result: these are the outputs, in order. input_names NULL: the free names of the texts that are
 * not parameters, in order of appearance. A level of ROW comes out where no element enters ("row_sum(x)"). */
typedef struct zm_map_text {
    const char *name; /* NULL: "kernel" */
    const char *const *outputs;
    const char *const *output_names; /* NULL: y, or y0, y1, ..., with "_" appended while an input has that name */
    int n_outputs;
    const zm_type *output_types; /* NULL: floats; a uint is stored as it is */
    const char *const *input_names;
    int n_inputs;
    const zm_type *input_types;   /* NULL: floats; only with input_names. A uint is a whole number among floats */
    const zm_level *input_levels; /* NULL: elements */
    const char *const *parameter_names; /* floats */
    int n_parameters;
    const char *const *seed_names;
    int n_seeds;
    const char *header, *prelude; /* the prelude's locals are visible in all outputs */
} zm_map_text;
zmlx_status zm_lower_map(zm_ir **ir, const zm_map_text *text, zmlx_error *error);

/* The gradient kernel of `forward` from given expressions, in the shape that zm_ir_vjp gives it with all inputs
 * wanted: gradients[i] is that of input i in terms of g (or cot_<output>), y (or the outputs' names; only where
 * use_output) and the inputs; NULL: zeros. Only what the expressions use becomes an input. An input named g or y
 * keeps its name. */
zmlx_status zm_lower_gradient(zm_ir **ir, const zm_ir *forward, const char *const *gradients, const char *prelude,
                              const char *header, bool use_output, zmlx_error *error);

/* reduce: input x, output y at ROW. combine NULL: derived for acc + e, acc * e, min, max (either order; then the
 * row operation is used and init merged in once), else the row runs left to right. A constant init that changes
 * what it is combined with a second time is an error: every part of a row starts from it. */
typedef struct zm_reduce_text {
    const char *name;
    const char *init, *update, *finalize, *combine; /* finalize NULL: "acc" */
    const char *header;
} zm_reduce_text;
zmlx_status zm_lower_reduce(zm_ir **ir, const zm_reduce_text *text, zmlx_error *error);

typedef struct zm_pass_text {
    const char *init, *update, *reduce;
} zm_pass_text;
/* map_reduce: inputs x (also `inp` where further inputs are given) and those of input_names after it; output y. */
typedef struct zm_map_reduce_text {
    const char *name;
    zm_pass_text pass1, pass2;
    const char *write;
    const char *const *input_names; /* NULL: x alone */
    int n_inputs;
    const char *header;
} zm_map_reduce_text;
zmlx_status zm_lower_map_reduce(zm_ir **ir, const zm_map_reduce_text *text, zmlx_error *error);

#endif
