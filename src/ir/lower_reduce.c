/* SPDX-License-Identifier: MIT */
/* Reductions and map-reductions with the author's own steps. */
#include <string.h>

#include "ir/lower_fold.h"

static zmlx_status fail_level(const zm_front *front, const char *role) {
    return zm_fail(front->error, ZMLX_ERROR_ARGUMENT, role, "it differs by element; it has to be one value a row");
}

static zmlx_status build_reduce(zm_front *front, const zm_reduce_text *text) {
    ZM_TRY(zm_front_add_input(front, "x", ZM_TYPE_FLOAT, ZM_LEVEL_ELEMENT));
    const zm_binding element = {"v", zm_ir_load(front->ir, 0)};
    const zm_fold_text fold = {.init = {text->init, "init"},
                               .update = {text->update, "update"},
                               .combine = {text->combine, "combine"},
                               .accumulator = "acc",
                               .update_bindings = &element,
                               .n_update_bindings = 1};
    zm_id reduced, result;
    ZM_TRY(zm_lower_fold(&reduced, front, &fold));
    const zm_binding bindings[] = {{"acc", reduced}, {"s", reduced}};
    ZM_TRY(zm_front_lower(&result, front, front->ir, "finalize", text->finalize ? text->finalize : "acc", bindings,
                          2));
    if (front->ir->values[result].level == ZM_LEVEL_ELEMENT) return fail_level(front, "finalize");
    zm_ir_add_output(front->ir, "y", result, ZM_LEVEL_ROW);
    return ZMLX_OK;
}

zmlx_status zm_lower_reduce(zm_ir **ir, const zm_reduce_text *text, zmlx_error *error) {
    zm_front front;
    zmlx_status status = zm_front_begin(&front, text->name, text->header, error);
    if (!status) status = build_reduce(&front, text);
    return zm_front_end(ir, &front, status);
}

static zmlx_status add_inputs(zm_front *front, const zm_map_reduce_text *text) {
    static const char *const taken[] = {"inp", "acc1", "acc2", "s1", "s2"};
    ZM_TRY(zm_front_add_input(front, "x", ZM_TYPE_FLOAT, ZM_LEVEL_ELEMENT));
    for (int i = 0; text->input_names && i < text->n_inputs; i++) {
        for (size_t k = 0; k < sizeof taken / sizeof *taken; k++)
            if (text->input_names[i] && !strcmp(text->input_names[i], taken[k]))
                return zm_fail(front->error, ZMLX_ERROR_ARGUMENT, "input", "the name `%s` is taken", taken[k]);
        ZM_TRY(zm_front_add_input(front, text->input_names[i], ZM_TYPE_FLOAT, ZM_LEVEL_ELEMENT));
    }
    return ZMLX_OK;
}

/* One pass over the row; names holds what update sees, init the last n_init of them. */
static zmlx_status lower_pass(zm_id *result, zm_front *front, const zm_pass_text *pass, const char *const roles[3],
                              const char *accumulator, const zm_binding *names, int n_names, int n_init) {
    const zm_fold_text fold = {.init = {pass->init, roles[0]},
                               .update = {pass->update, roles[1]},
                               .combine = {pass->reduce ? pass->reduce : "", roles[2]},
                               .accumulator = accumulator,
                               .init_bindings = names + n_names - n_init,
                               .n_init_bindings = n_init,
                               .update_bindings = names,
                               .n_update_bindings = n_names};
    return zm_lower_fold(result, front, &fold);
}

static zmlx_status build_map_reduce(zm_front *front, const zm_map_reduce_text *text) {
    static const char *const roles1[] = {"pass1.init", "pass1.update", "pass1.reduce"};
    static const char *const roles2[] = {"pass2.init", "pass2.update", "pass2.reduce"};
    zm_binding names[3]; /* inp beside further inputs, s1, s2 */
    int n = 0;
    zm_id s1, s2, result;
    ZM_TRY(add_inputs(front, text));
    if (front->ir->n_inputs > 1) names[n++] = (zm_binding){"inp", zm_ir_load(front->ir, 0)};
    ZM_TRY(lower_pass(&s1, front, &text->pass1, roles1, "acc1", names, n, 0));
    names[n++] = (zm_binding){"s1", s1};
    ZM_TRY(lower_pass(&s2, front, &text->pass2, roles2, "acc2", names, n, 1));
    names[n++] = (zm_binding){"s2", s2};
    ZM_TRY(zm_front_lower(&result, front, front->ir, "write", text->write, names, n));
    zm_ir_add_output(front->ir, "y", result, ZM_LEVEL_ELEMENT);
    return ZMLX_OK;
}

zmlx_status zm_lower_map_reduce(zm_ir **ir, const zm_map_reduce_text *text, zmlx_error *error) {
    zm_front front;
    zmlx_status status = zm_front_begin(&front, text->name, text->header, error);
    if (!status) status = build_map_reduce(&front, text);
    return zm_front_end(ir, &front, status);
}
