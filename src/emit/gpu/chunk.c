/* SPDX-License-Identifier: MIT */
/* The code for one vector of each thread. A scan needs all elements of its operand before it gives the first, so the
 * values fall into segments, each a loop over the vector; scans stand between them. */
#include <string.h>

#include "emit/gpu/row.h"

static bool is_load(const zm_value *value) { return value->op == ZM_OP_LOAD; }

/* First segment in which the value can be read. */
static int use_segment(const zm_gpu_body *body, zm_id id) {
    if (!zm_gpu_is_element(body, id)) return 0;
    return body->segment[id] + (zm_gpu_is_scan(&body->schedule->ir->values[id]) && !zm_gpu_is_reload(body, id));
}

static int operands_segment(const zm_gpu_body *body, zm_id id) {
    int segment = 0;
    for (int i = 0; i < zm_ir_operand_count(body->schedule->ir, id); i++) {
        int use = use_segment(body, zm_ir_operand(body->schedule->ir, id, i));
        if (use > segment) segment = use;
    }
    return segment;
}

static bool is_kept_here(const zm_gpu_body *body, zm_id id) {
    return body->is_resident && body->schedule->kept[id] && body->schedule->kept_from[id] == body->pass;
}

static void need(zm_gpu_body *body, zm_id id, int segment, bool *is_needed, int printed) {
    if (!zm_gpu_is_element(body, id)) return;
    if (segment > body->last_needed[id]) body->last_needed[id] = segment;
    if (is_needed && segment == printed) is_needed[id] = true;
}

/* Marks what is read in each segment: for last_needed, and for is_needed in segment `printed`. */
static void find_needs(zm_gpu_body *body, bool *is_needed, int printed) {
    const zm_ir *ir = body->schedule->ir;
    for (zm_id id = 0; id < ir->n_values; id++) {
        if (!body->is_listed[id]) continue;
        if (is_kept_here(body, id)) need(body, id, use_segment(body, id), is_needed, printed);
        for (int i = 0; !zm_gpu_is_reload(body, id) && i < zm_ir_operand_count(ir, id); i++)
            need(body, zm_ir_operand(ir, id, i), body->segment[id], is_needed, printed);
    }
    for (int i = 0; body->parts && i < body->parts->n_stores; i++) {
        zm_id id = ir->outputs[body->parts->stores[i]].value;
        need(body, id, use_segment(body, id), is_needed, printed);
    }
    for (int i = 0; body->parts && i < body->parts->n_reductions; i++) {
        zm_id id = body->parts->reductions[i];
        for (int operand = 0; operand < zm_ir_operand_count(ir, id); operand++)
            need(body, zm_ir_operand(ir, id, operand), operands_segment(body, id), is_needed, printed);
    }
}

static void find_segments(zm_gpu_body *body) {
    const zm_ir *ir = body->schedule->ir;
    for (zm_id id = 0; id < ir->n_values; id++) {
        body->last_needed[id] = 0;
        body->segment[id] = !body->is_listed[id] || zm_gpu_is_reload(body, id) ? 0 : operands_segment(body, id);
    }
    find_needs(body, NULL, 0);
    body->n_segments = 1;
    for (zm_id id = 0; id < ir->n_values; id++) {
        if (!body->is_listed[id]) continue;
        int last = body->last_needed[id] > body->segment[id] ? body->last_needed[id] : body->segment[id];
        if (last >= body->n_segments) body->n_segments = last + 1;
    }
}

static bool is_computed(const zm_gpu_body *body, zm_id id) {
    return body->is_listed[id] && !zm_gpu_is_reload(body, id) && !is_load(&body->schedule->ir->values[id]);
}

static void print_arrays(zm_gpu_body *body) {
    const zm_ir *ir = body->schedule->ir;
    zm_text *text = body->frame->text;
    for (zm_id id = 0; id < ir->n_values; id++)
        if (body->is_listed[id] && zm_gpu_is_vector_load(&ir->values[id]))
            zm_text_printf(text, "            %s e%d[V];\n            zm_unpack<zm_%s, V>(e%d, x%d%s);\n",
                           zm_gpu_type(ir->values[id].type), (int)id,
                           zm_storage_name(body->frame->request->inputs[ir->values[id].index]), (int)id, (int)id,
                           body->loaded);
    for (zm_id id = 0; id < ir->n_values; id++) {
        if (!is_computed(body, id)) continue;
        bool is_scan = zm_gpu_is_scan(&ir->values[id]);
        if (ir->values[id].op == ZM_OP_RANDOM) zm_gpu_print_random(body->frame, "            ", id);
        if (is_scan || body->last_needed[id] > body->segment[id])
            zm_text_printf(text, "            %s %s%d[V];\n", zm_gpu_type(ir->values[id].type), is_scan ? "s" : "c",
                           (int)id);
    }
    if (!body->parts) return;
    for (int i = 0; i < body->parts->n_stores; i++) {
        int output = body->parts->stores[i];
        zm_text_printf(text, "            %s y%d[V];\n", zm_gpu_type(ir->values[ir->outputs[output].value].type),
                       output);
    }
    zm_gpu_print_vector_parts(body, body->parts);
}

/* v<id>, computed or read again in this segment. */
static zmlx_status print_element(zm_gpu_body *body, zm_id id, int segment) {
    static const char indent[] = "                ";
    const zm_value *value = &body->schedule->ir->values[id];
    zm_text *text = body->frame->text;
    const char *type = zm_gpu_type(value->type);
    bool is_new = is_computed(body, id) && body->segment[id] == segment;
    if (is_new && zm_gpu_is_scan(value)) {
        zm_text_printf(text, "%ss%d[j] = at.exists ? v%d : 0.0f;\n", indent, (int)id, (int)value->operands[0]);
    } else if (is_new) {
        ZM_TRY(zm_gpu_print_value(body->frame, indent, id));
        if (body->last_needed[id] > segment) zm_text_printf(text, "%sc%d[j] = v%d;\n", indent, (int)id, (int)id);
    } else if (body->is_needed[id] && zm_gpu_is_reload(body, id)) {
        zm_text_printf(text, "%sconst %s v%d = k%d[k][j];\n", indent, type, (int)id, (int)id);
    } else if (body->is_needed[id] && is_load(value)) {
        zm_text_printf(text, "%sconst %s v%d = e%d[j];\n", indent, type, (int)id, (int)id);
    } else if (body->is_needed[id]) {
        zm_text_printf(text, "%sconst %s v%d = %s%d[j];\n", indent, type, (int)id, zm_gpu_is_scan(value) ? "s" : "c",
                       (int)id);
    }
    return ZMLX_OK;
}

static zmlx_status print_segment(zm_gpu_body *body, int segment) {
    const zm_ir *ir = body->schedule->ir;
    zm_text *text = body->frame->text;
    memset(body->is_needed, 0, (size_t)ir->n_values * sizeof *body->is_needed);
    find_needs(body, body->is_needed, segment);
    zm_text_append_string(text, "#pragma unroll\n            for (int j = 0; j < V; ++j) {\n");
    for (zm_id id = 0; id < ir->n_values; id++) {
        if (!body->is_listed[id]) continue;
        ZM_TRY(print_element(body, id, segment));
        if (is_kept_here(body, id) && use_segment(body, id) == segment)
            zm_text_printf(text, "                k%d[k][j] = v%d;\n", (int)id, (int)id);
    }
    for (int i = 0; body->parts && i < body->parts->n_stores; i++) {
        zm_id id = ir->outputs[body->parts->stores[i]].value;
        if (use_segment(body, id) == segment)
            zm_text_printf(text, "                y%d[j] = v%d;\n", body->parts->stores[i], (int)id);
    }
    for (int i = 0; body->parts && i < body->parts->n_reductions; i++)
        if (operands_segment(body, body->parts->reductions[i]) == segment)
            zm_gpu_print_accumulate(body, body->parts->reductions[i]);
    zm_text_append_string(text, "            }\n");
    return ZMLX_OK;
}

static void print_scans(zm_gpu_body *body, int segment) {
    const zm_ir *ir = body->schedule->ir;
    for (zm_id id = 0; id < ir->n_values; id++)
        if (is_computed(body, id) && zm_gpu_is_scan(&ir->values[id]) && body->segment[id] == segment)
            zm_text_printf(body->frame->text, "            zm_scan<V, %s>(s%d, carry%d, group, shared + %d);\n",
                           ir->values[id].op == ZM_OP_ROW_CUMSUM_REVERSE ? "true" : "false", (int)id,
                           (int)id, body->slots[id] * ZM_GPU_SLOT);
}

zmlx_status zm_gpu_print_chunk(zm_gpu_body *body) {
    find_segments(body);
    print_arrays(body);
    for (int segment = 0; segment < body->n_segments; segment++) {
        ZM_TRY(print_segment(body, segment));
        print_scans(body, segment);
    }
    if (!body->parts) return ZMLX_OK;
    zm_gpu_print_vector_end(body, body->parts);
    for (int i = 0; i < body->parts->n_stores; i++) {
        int output = body->parts->stores[i];
        const char *condition = body->is_collective
                                    ? (body->is_resident ? "if (active && at.exists) " : "if (at.exists) ")
                                : body->is_resident ? "if (active) "
                                                    : "";
        if (zm_gpu_is_summed(body->frame->request, output) && body->is_resident)
            zm_text_printf(body->frame->text, "            %szm_accumulate<V>(z%d[k], y%d);\n", condition, output,
                           output);
        else if (zm_gpu_is_summed(body->frame->request, output))
            zm_text_printf(body->frame->text, "            %szm_add_to<V>(sum_out%d, y%d, at);\n", condition, output,
                           output);
        else
            zm_text_printf(body->frame->text, "            %szm_store<zm_%s, V>(row_out%d, y%d, at);\n", condition,
                           zm_storage_name(body->frame->request->outputs[output]), output, output);
    }
    return ZMLX_OK;
}
