/* SPDX-License-Identifier: MIT */
#include "kernels/compose.h"
#include "kernels/select.h"

void zm_compose_topk_lastdim(zm_catalog_call *call) {
    zm_select_topk(call->scope, call->inputs[0], (int)call->values[0].number, &call->outputs[0], &call->outputs[1]);
}

static void choose(zm_catalog_call *call, const char *plain, const char *exact) {
    const char *part = call->values[0].number != 0 ? exact : plain;
    zm_call_part(call, call->outputs, part, call->inputs, NULL, call->output_types);
}

void zm_compose_sum_lastdim(zm_catalog_call *call) { choose(call, "plain_sum", "exact_sum"); }
void zm_compose_mean_lastdim(zm_catalog_call *call) { choose(call, "plain_mean", "exact_mean"); }
