/* SPDX-License-Identifier: MIT */
/* The target that writes nothing: a kernel that it accepts is well-formed, can be legalised to what has a spelling in
 * every target, and has a schedule. */
#include "emit/schedule.h"
#include "emit/target.h"

static zmlx_status check_spelling(const zm_ir *ir, zmlx_error *error) {
    for (int i = 0; i < ir->n_values; i++) {
        const zm_op_info *info = zm_op_get(ir->values[i].op);
        if (info->form == ZM_FORM_EXPAND)
            return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, ir->name, "%s was not expanded", info->name);
    }
    return ZMLX_OK;
}

static zmlx_status emit_nothing(zm_text *source, const zm_emit_request *request, zmlx_error *error) {
    (void)source;
    zm_ir *ir;
    zm_schedule schedule;
    ZM_TRY(zm_emit_prepare(&ir, request, NULL, error));
    zmlx_status status = check_spelling(ir, error);
    if (!status) status = zm_schedule_make(&schedule, ir->arena, ir, 0, error);
    zm_ir_free(ir);
    return status;
}

const zm_target zm_target_check = {"check", "", emit_nothing};
