/* SPDX-License-Identifier: MIT */
/* What is done with a kernel: each pass gives a new kernel (the caller's, zm_ir_free) and leaves the old one. */
#ifndef ZM_IR_PASSES_H
#define ZM_IR_PASSES_H

#include "ir/ir.h"

/* Everything ir.h promises: operands before users, types and levels by the rules, indices in range, outputs set,
 * names valid and distinct. ZMLX_ERROR_FORMAT naming the value otherwise. */
zmlx_status zm_ir_verify(const zm_ir *ir, zmlx_error *error);

/* The text form, and back. print(parse(print(x))) equals print(x); parse accepts any bytes and verifies. */
void zm_ir_print(zm_text *text, const zm_ir *ir);
zmlx_status zm_ir_parse(zm_ir **ir, const char *text, size_t size, zmlx_error *error);

/* Constant folding (rounded to float32), identities that change no bit of any result (also not of -0, NaN), common
 * subexpressions, dead code. Inputs and parameters stay, also unused ones. Runs to a fixed point. */
zmlx_status zm_ir_simplify(zm_ir **simplified, const zm_ir *ir, zmlx_error *error);

/* Replaces operations of form EXPAND by their definitions, unless has_spelling (may be NULL) says that the target
 * prints them itself. Simplifies. */
zmlx_status zm_ir_legalize(zm_ir **legal, const zm_ir *ir, bool (*has_spelling)(zm_op op), zmlx_error *error);

/* Reverse mode. The new kernel has
 *   inputs: those inputs of ir that the gradients need, under their names; where use_results, outputs of ir that
 *   spare reading an input or a row pass, under theirs (chosen by counting, see grad_vjp.c); then a cotangent
 *   "cot_<output>" for every output of ir, at its level;
 *   parameters: those of ir;
 *   outputs: "d_<input>" at the input's level, for each i with wanted[i], in order.
 * The cotangents are the last ir->n_outputs inputs; one whose name is taken gets "_" appended until it is not.
 * An input without influence (one of integers, too) has a gradient of zeros. What has no derivative is refused by name
 * (ZMLX_ERROR_UNSUPPORTED). Simplified. use_results is for outputs stored without rounding. */
zmlx_status zm_ir_vjp(zm_ir **gradient, const zm_ir *ir, const bool *wanted, bool use_results, zmlx_error *error);

/* Forward mode: inputs: those of ir, then a tangent "t_<input>" for each i with given[i]; outputs: the tangents
 * "t_<output>" of all outputs. Names and refusals as above. Simplified. */
zmlx_status zm_ir_jvp(zm_ir **tangent, const zm_ir *ir, const bool *given, zmlx_error *error);

/* The kernel in float64: for references, folding of whole kernels and checks. inputs[i] has rows * columns values
 * (ELEMENT) or rows (ROW); parameters[i] a number, or a seed's value; outputs likewise. Integer inputs are whole
 * numbers. RANDOM gives the Philox numbers of the catalogue. */
typedef struct zm_evaluation {
    int64_t rows, columns;
    const double *const *inputs;
    const double *parameters;
    const uint64_t *seeds; /* by parameter number; may be NULL without seeds */
    double *const *outputs;
} zm_evaluation;
zmlx_status zm_ir_evaluate(const zm_ir *ir, const zm_evaluation *evaluation, zmlx_error *error);

/* Philox4x32-10: words of counter under key (Salmon et al. 2011). */
void zm_philox(uint32_t words[4], const uint32_t counter[4], const uint32_t key[2]);

#endif
