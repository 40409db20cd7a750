/* SPDX-License-Identifier: MIT */
#include "kernels/compose.h"
#include "kernels/select.h"

void zm_compose_topk_lastdim(zm_catalog_call *call) {
    zm_select_topk(call->scope, call->inputs[0], (int)call->values[0].number, &call->outputs[0], &call->outputs[1]);
}
