/* SPDX-License-Identifier: MIT */
#include "emit/target.h"

#include <string.h>

#include "ir/passes.h"

static const zm_target *const targets[] = {
#define ZM_TARGET(name) &zm_target_##name,
#include "emit/targets.def"
#undef ZM_TARGET
};

enum { N_TARGETS = sizeof targets / sizeof *targets };

const zm_target *zm_target_get(int index) { return index >= 0 && index < N_TARGETS ? targets[index] : NULL; }

const zm_target *zm_target_find(const char *name) {
    for (int i = 0; i < N_TARGETS; i++)
        if (!strcmp(targets[i]->name, name)) return targets[i];
    return NULL;
}

bool zm_emit_rounds_as_mlx(const zm_emit_request *request) {
    for (int i = 0; i < request->ir->n_values; i++)
        if (zm_op_rounds_as_mlx(request->ir->values[i].op)) return true;
    return false;
}

bool zm_emit_is_narrow(const zm_emit_request *request) {
    if (zm_emit_rounds_as_mlx(request)) return false;
    for (int i = 0; i < request->ir->n_outputs; i++)
        if (request->outputs[i] == ZM_STORAGE_FLOAT32 &&
            request->ir->values[request->ir->outputs[i].value].op != ZM_OP_CONSTANT)
            return false;
    return true;
}

bool zm_emit_begin_storage(zm_text *text, const zm_emit_request *request) {
    if (!zm_emit_rounds_as_mlx(request)) return false;
    const char *storage = zm_storage_name(request->outputs[0]);
    zm_text_printf(text, "#define zm_stored zm_stored_%s\n#define zm_stored_sigmoid zm_stored_sigmoid_%s\n", storage,
                   storage);
    return true;
}

static bool is_identifier(const char *name) {
    if (!name || !*name || (*name >= '0' && *name <= '9')) return false;
    for (; *name; name++) {
        char c = *name;
        if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') && c != '_')
            return false;
    }
    return true;
}

static zmlx_status check_storage(const char *name, zm_type type, zm_storage storage, zmlx_error *error) {
    if ((int)storage < 0 || storage >= ZM_STORAGE_COUNT)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "unknown storage %d", (int)storage);
    if (zm_storage_type(storage) != type)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "%s values cannot be kept as %s", zm_type_name(type),
                       zm_storage_name(storage));
    return ZMLX_OK;
}

zmlx_status zm_emit_prepare(zm_ir **legal, const zm_emit_request *request, bool (*has_spelling)(zm_op op),
                            zmlx_error *error) {
    const zm_ir *ir = request->ir;
    *legal = NULL;
    if (!is_identifier(request->entry))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, ir->name, "the entry is no identifier");
    ZM_TRY(zm_ir_verify(ir, error));
    for (int i = 0; i < ir->n_inputs; i++)
        ZM_TRY(check_storage(ir->inputs[i].name, ir->inputs[i].type, request->inputs[i], error));
    for (int i = 0; i < ir->n_outputs; i++)
        ZM_TRY(
            check_storage(ir->outputs[i].name, ir->values[ir->outputs[i].value].type, request->outputs[i], error));
    return zm_ir_legalize(legal, ir, has_spelling, error);
}
