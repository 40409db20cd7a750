/* SPDX-License-Identifier: MIT */
/* A map: a block takes tiles of consecutive elements, each thread of it `unroll` vectors. All of them are loaded before
 * the first is computed, so that enough bytes are on their way. */
#include "emit/gpu/frame.h"

static bool is_vector_load(const zm_value *value) { return value->op == ZM_OP_LOAD && value->level == ZM_LEVEL_ELEMENT; }

static void print_loads(zm_gpu_frame *frame) {
    const zm_ir *ir = frame->ir;
    zm_text *text = frame->text;
    zm_text_printf(text, "        zm_place places[%d];\n", frame->unroll);
    for (zm_id id = 0; id < ir->n_values; id++)
        if (is_vector_load(&ir->values[id]))
            zm_text_printf(text, "        %s x%d[%d][%d];\n", zm_gpu_type(ir->values[id].type), (int)id, frame->unroll,
                           frame->vector);
    zm_text_printf(text,
                   "#pragma unroll\n"
                   "        for (int u = 0; u < %d; ++u) {\n"
                   "            places[u] = zm_place_in_map<%d>(first + (u * %d + self.index) * %d, rows, columns, wide);\n",
                   frame->unroll, frame->vector, ZM_GPU_MAP_THREADS, frame->vector);
    for (zm_id id = 0; id < ir->n_values; id++) {
        int input = ir->values[id].index;
        if (is_vector_load(&ir->values[id]))
            zm_text_printf(text, "            zm_load_across<zm_%s, %d>(x%d[u], zm_in%d, places[u], layout%d);\n",
                           zm_storage_name(frame->request->inputs[input]), frame->vector, (int)id, input, input);
    }
    zm_text_append_string(text, "        }\n");
}

static zmlx_status print_elements(zm_gpu_frame *frame) {
    const zm_ir *ir = frame->ir;
    zm_text *text = frame->text;
    zm_text_printf(text, "            const zm_place at = places[u];\n");
    for (int i = 0; i < ir->n_outputs; i++)
        zm_text_printf(text, "            %s y%d[%d];\n", zm_gpu_type(ir->values[ir->outputs[i].value].type), i,
                       frame->vector);
    zm_text_printf(text, "#pragma unroll\n            for (int j = 0; j < %d; ++j) {\n", frame->vector);
    for (zm_id id = 0; id < ir->n_values; id++) {
        if (is_vector_load(&ir->values[id]))
            zm_text_printf(text, "                const %s v%d = x%d[u][j];\n", zm_gpu_type(ir->values[id].type),
                           (int)id, (int)id);
        else if (ir->values[id].level == ZM_LEVEL_ELEMENT)
            ZM_TRY(zm_gpu_print_value(frame, "                ", id));
    }
    for (int i = 0; i < ir->n_outputs; i++)
        zm_text_printf(text, "                y%d[j] = v%d;\n", i, (int)ir->outputs[i].value);
    zm_text_append_string(text, "            }\n");
    for (int i = 0; i < ir->n_outputs; i++)
        zm_text_printf(text, "            zm_store<zm_%s, %d>(zm_out%d, y%d, at);\n",
                       zm_storage_name(frame->request->outputs[i]), frame->vector, i, i);
    return ZMLX_OK;
}

zmlx_status zm_gpu_print_map(zm_gpu_frame *frame) {
    const zm_ir *ir = frame->ir;
    zm_text *text = frame->text;
    int tile = ZM_GPU_MAP_THREADS * frame->vector * frame->unroll;
    for (zm_id id = 0; id < ir->n_values; id++)
        if (ir->values[id].level != ZM_LEVEL_ELEMENT) ZM_TRY(zm_gpu_print_value(frame, "    ", id));
    zm_text_printf(text, "    const bool wide = (rows == 1 || columns %% %d == 0)", frame->vector);
    zm_gpu_print_is_wide(frame);
    zm_text_printf(text, ";\n    for (zm_long first = self.block * %d; first < rows * columns; first += self.blocks * %d) {\n",
                   tile, tile);
    print_loads(frame);
    zm_text_printf(text, "#pragma unroll\n        for (int u = 0; u < %d; ++u) {\n", frame->unroll);
    ZM_TRY(print_elements(frame));
    zm_text_append_string(text, "        }\n    }\n");
    return ZMLX_OK;
}
