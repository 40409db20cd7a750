/* SPDX-License-Identifier: MIT */
/* A map: a block takes tiles of consecutive elements, each thread of it some vectors. All of them are loaded before
 * the first is computed, so that enough bytes are on their way. A vector lies in one row. */
#include "emit/gpu/frame.h"

static void print_loads(zm_gpu_frame *frame) {
    const zm_ir *ir = frame->ir;
    zm_text *text = frame->text;
    zm_text_append_string(text, "        zm_place places[U];\n");
    for (zm_id id = 0; id < ir->n_values; id++)
        if (zm_gpu_is_vector_load(&ir->values[id]))
            zm_text_printf(text, "        zm_packed<zm_%s, V> x%d[U];\n",
                           zm_storage_name(frame->request->inputs[ir->values[id].index]), (int)id);
    zm_text_printf(
        text,
        "#pragma unroll\n"
        "        for (int u = 0; u < U; ++u) {\n"
        "            places[u] = zm_place_in_map<WHOLE>(first + (u * %d + self.index) * V, end, rows, columns);\n",
        ZM_GPU_MAP_THREADS);
    for (zm_id id = 0; id < ir->n_values; id++) {
        int input = ir->values[id].index;
        if (zm_gpu_is_vector_load(&ir->values[id]))
            zm_text_printf(text,
                           "            zm_load<zm_%s, V>(x%d[u], zm_in%d + zm_row_start(layout%d, places[u].row, "
                           "columns), places[u],\n"
                           "                layout%d);\n",
                           zm_storage_name(frame->request->inputs[input]), (int)id, input, input, input);
    }
    zm_text_append_string(text, "        }\n");
}

static zmlx_status print_elements(zm_gpu_frame *frame) {
    const zm_ir *ir = frame->ir;
    zm_text *text = frame->text;
    zm_text_append_string(text, "            const zm_place at = places[u];\n            if (!at.exists) continue;\n");
    for (int i = 0; i < ir->n_outputs; i++)
        zm_text_printf(text, "            %s y%d[V];\n", zm_gpu_type(ir->values[ir->outputs[i].value].type), i);
    for (zm_id id = 0; id < ir->n_values; id++)
        if (zm_gpu_is_vector_load(&ir->values[id]))
            zm_text_printf(text, "            %s e%d[V];\n            zm_unpack<zm_%s, V>(e%d, x%d[u]);\n",
                           zm_gpu_type(ir->values[id].type), (int)id,
                           zm_storage_name(frame->request->inputs[ir->values[id].index]), (int)id, (int)id);
    for (zm_id id = 0; id < ir->n_values; id++)
        if (ir->values[id].op == ZM_OP_RANDOM) zm_gpu_print_random(frame, "            ", id);
    zm_text_append_string(text, "#pragma unroll\n            for (int j = 0; j < V; ++j) {\n");
    for (zm_id id = 0; id < ir->n_values; id++) {
        if (zm_gpu_is_vector_load(&ir->values[id]))
            zm_text_printf(text, "                const %s v%d = e%d[j];\n", zm_gpu_type(ir->values[id].type),
                           (int)id, (int)id);
        else if (ir->values[id].level == ZM_LEVEL_ELEMENT)
            ZM_TRY(zm_gpu_print_value(frame, "                ", id));
    }
    for (int i = 0; i < ir->n_outputs; i++)
        zm_text_printf(text, "                y%d[j] = v%d;\n", i, (int)ir->outputs[i].value);
    zm_text_append_string(text, "            }\n");
    for (int i = 0; i < ir->n_outputs; i++)
        zm_text_printf(text, "            zm_store<zm_%s, V>(zm_out%d + at.row * %s, y%d, at);\n",
                       zm_storage_name(frame->request->outputs[i]), i, zm_gpu_output_stride(frame), i);
    return ZMLX_OK;
}

zmlx_status zm_gpu_print_map(zm_gpu_frame *frame) {
    const zm_ir *ir = frame->ir;
    zm_text *text = frame->text;
    zm_gpu_print_function(frame, "zm_part", "int V, int U, bool WHOLE", ", zm_long begin, zm_long end");
    for (zm_id id = 0; id < ir->n_values; id++)
        if (ir->values[id].level != ZM_LEVEL_ELEMENT) ZM_TRY(zm_gpu_print_value(frame, "    ", id));
    zm_text_printf(text,
                   "#pragma unroll 1\n"
                   "    for (zm_long first = begin + self.block * (%d * U * V); first < end; first += self.blocks * "
                   "(%d * U * V)) {\n",
                   ZM_GPU_MAP_THREADS, ZM_GPU_MAP_THREADS);
    print_loads(frame);
    zm_text_append_string(text, "#pragma unroll\n        for (int u = 0; u < U; ++u) {\n");
    ZM_TRY(print_elements(frame));
    zm_text_append_string(text, "        }\n    }\n}\n");
    return ZMLX_OK;
}
