/* SPDX-License-Identifier: MIT */
/* Four texts, each ended by a NUL byte, as a map with prelude, header and gradient, and as a reduction: a message,
 * or a kernel that verifies, is legalised without a trace and evaluates. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ir/lower.h"
#include "ir/passes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_TEXTS = 4, COLUMNS = 3 };

static void require(bool holds) {
    if (!holds) abort();
}

static void check_values(const zm_ir *ir) {
    for (int i = 0; i < ir->n_values; i++) require(zm_op_get(ir->values[i].op)->form != ZM_FORM_EXPAND);
    for (int i = 0; i < ir->n_folds; i++)
        for (int k = 0; k < ir->folds[i].update.n_values; k++)
            require(zm_op_get(ir->folds[i].update.values[k].op)->form != ZM_FORM_EXPAND);
}

static void evaluate(const zm_ir *ir) {
    static const double numbers[COLUMNS] = {-1.5, 0, 2};
    static double results[ZM_IR_MAX_OUTPUTS][COLUMNS];
    const double *inputs[ZM_IR_MAX_INPUTS];
    double *outputs[ZM_IR_MAX_OUTPUTS];
    for (int i = 0; i < ZM_IR_MAX_INPUTS; i++) inputs[i] = numbers;
    for (int i = 0; i < ZM_IR_MAX_OUTPUTS; i++) outputs[i] = results[i];
    const zm_evaluation at = {1, COLUMNS, inputs, NULL, NULL, outputs};
    zmlx_error error;
    require(!zm_ir_evaluate(ir, &at, &error));
}

/* Takes the kernel. */
static void check(zm_ir *ir, zmlx_status status, const zmlx_error *error) {
    zmlx_error ignored = {0};
    if (status) {
        require(!ir && error->code == status && error->message[0]);
        return;
    }
    zm_ir *legal;
    require(!zm_ir_verify(ir, &ignored));
    if (!zm_ir_legalize(&legal, ir, NULL, &ignored)) {
        check_values(legal);
        evaluate(legal);
        zm_ir_free(legal);
    } else {
        require(ignored.code == ZMLX_ERROR_UNSUPPORTED); /* too many values */
    }
    zm_ir_free(ir);
}

static void check_map(const char *const texts[N_TEXTS]) {
    zmlx_error error = {0};
    const zm_map_text text = {.outputs = texts, .n_outputs = 1, .prelude = texts[1], .header = texts[2]};
    zm_ir *forward, *gradient;
    zmlx_status status = zm_lower_map(&forward, &text, &error);
    if (!status) {
        const char *gradients[ZM_IR_MAX_INPUTS] = {texts[3]};
        zmlx_error refusal = {0};
        zmlx_status refused = zm_lower_gradient(&gradient, forward, gradients, texts[1], texts[2], true, &refusal);
        check(gradient, refused, &refusal);
    }
    check(forward, status, &error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *copies[N_TEXTS];
    const char *texts[N_TEXTS];
    for (int i = 0; i < N_TEXTS; i++) {
        size_t length = 0;
        while (length < size && data[length]) length++;
        copies[i] = malloc(length + 1);
        require(copies[i] != NULL);
        memcpy(copies[i], data, length);
        copies[i][length] = '\0';
        texts[i] = length ? copies[i] : NULL;
        size_t taken = length < size ? length + 1 : length;
        data += taken;
        size -= taken;
    }
    if (texts[0]) check_map(texts);
    zm_ir *reduction;
    zmlx_error error = {0};
    const zm_reduce_text text = {.init = texts[0], .update = texts[1], .finalize = texts[2], .combine = texts[3]};
    zmlx_status status = zm_lower_reduce(&reduction, &text, &error);
    check(reduction, status, &error);
    for (int i = 0; i < N_TEXTS; i++) free(copies[i]);
    return 0;
}
