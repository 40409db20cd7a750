/* SPDX-License-Identifier: MIT */
/* Any bytes as a kernel's text: a refusal in one line, or a kernel whose print parses to the same print and which
 * simplifies to a fixed point and evaluates. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ir/passes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
    if (!holds) abort();
}

static void require_same_text(const zm_ir *ir, const zm_ir *other) {
    zm_text text = {0}, other_text = {0};
    zm_ir_print(&text, ir);
    zm_ir_print(&other_text, other);
    require(text.size == other_text.size && !memcmp(text.data, other_text.data, text.size));
    zm_text_free(&text);
    zm_text_free(&other_text);
}

static void check_round_trip(const zm_ir *ir) {
    zm_text text = {0};
    zm_ir *again;
    zm_ir_print(&text, ir);
    require(!zm_ir_parse(&again, text.data, text.size, NULL));
    require_same_text(ir, again);
    zm_text_free(&text);
    zm_ir_free(again);
}

enum { ROWS = 2, COLUMNS = 3 };

static void check_evaluation(const zm_ir *ir) {
    static const double numbers[ROWS * COLUMNS] = {0.5, -2, 1, INFINITY, -0.0, 3};
    static const double whole[ROWS * COLUMNS] = {2, 0, 9, 1};
    static double results[ZM_IR_MAX_OUTPUTS][ROWS * COLUMNS];
    const double *inputs[ZM_IR_MAX_INPUTS];
    double *outputs[ZM_IR_MAX_OUTPUTS];
    uint64_t seeds[ZM_IR_MAX_PARAMETERS] = {42, 42};
    for (int i = 0; i < ir->n_inputs; i++) inputs[i] = ir->inputs[i].type == ZM_TYPE_UINT ? whole : numbers;
    for (int i = 0; i < ir->n_outputs; i++) outputs[i] = results[i];
    double parameters[ZM_IR_MAX_PARAMETERS] = {0.75};
    const zm_evaluation evaluation = {ROWS, COLUMNS, inputs, parameters, seeds, outputs};
    require(!zm_ir_evaluate(ir, &evaluation, NULL));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    zm_ir *ir, *simplified, *again;
    zmlx_error error = {0};
    if (zm_ir_parse(&ir, (const char *)data, size, &error)) {
        require(error.code == ZMLX_ERROR_FORMAT && error.message[0] && !ir);
        return 0;
    }
    check_round_trip(ir);
    require(!zm_ir_simplify(&simplified, ir, &error));
    require(!zm_ir_simplify(&again, simplified, &error));
    require_same_text(simplified, again);
    check_round_trip(simplified);
    check_evaluation(ir);
    check_evaluation(simplified);
    zm_ir_free(again);
    zm_ir_free(simplified);
    zm_ir_free(ir);
    return 0;
}
